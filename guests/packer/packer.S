/*
 * packer: code that changes itself under its own feet.
 *
 * Each round packs the payload with another key, and a decoder unpacks the bytes right behind itself and runs into
 * them.  The payload then rewrites what lies ahead in its own straight line: the immediate of the next instruction,
 * the opcode of the one after, and three bytes by REP MOVSB.  A translator that runs the old bytes even once gets
 * another checksum than the same sums done by code that leaves itself alone.
 */
#include "real.S"

#define ROUNDS  1000

// A full-period generator modulo 2^16: the multiplier is 1 modulo 4, the increment odd.
#define MULTIPLIER  25173
#define INCREMENT   13849

#define OPCODE_NOP      0x90
#define OPCODE_INC_DX   0x42

// Registers through a round: BX random number, DX checksum, BP rounds left.
.macro  apply_key
        mov     si, offset payload
        mov     cx, offset payload_end - payload
1:      xor     [si], bh
        inc     si
        loop    1b
.endm

        .globl  _start
_start:
        enter
        xor     bx, bx
        xor     dx, dx
        mov     bp, ROUNDS
round:
        imul    bx, bx, MULTIPLIER
        add     bx, INCREMENT
        call    reckon
        mov     al, OPCODE_NOP
        test    bh, 1
        jz      1f
        mov     al, OPCODE_INC_DX
1:      mov     di, offset sum_variants
        test    bh, 2
        jz      pack
        mov     di, offset sum_variants + 3
pack:
        apply_key
unpack:
        apply_key
payload:
        mov     [addend], bx
        add     dx, 0x7777
        .set    addend, . - 2
        mov     [opcode], al
opcode:
        nop
        mov     si, di
        mov     di, offset sum
        mov     cx, 3
        rep movsb
sum:
        .skip   3, OPCODE_NOP
payload_end:
        dec     bp
        jnz     round

        push    dx
        mov     si, offset checksum_text
        call    print
        mov     ax, dx
        call    print_decimal
        mov     si, offset expected_text
        call    print
        mov     ax, [expected]
        call    print_decimal
        mov     al, '\n'
        call    put_char
        pop     dx
        cmp     dx, [expected]
        jne     wrong
        finish  EXIT_SUCCESS
wrong:
        finish  EXIT_FAILURE

// The payload's arithmetic, without touching code.
reckon:
        mov     ax, [expected]
        add     ax, bx
        test    bh, 1
        jz      1f
        inc     ax
1:      test    bh, 2
        jnz     2f
        xor     ax, bx
        jmp     3f
2:      sub     ax, bx
        inc     ax
3:      mov     [expected], ax
        ret

// What REP MOVSB puts at `sum`.
sum_variants:
        xor     dx, bx
        nop
        sub     dx, bx
        inc     dx

        serial_routines
        decimal_routine

checksum_text:
        .asciz  "packer: checksum "
expected_text:
        .asciz  ", expected "

        .balign 2
expected:
        .word   0
