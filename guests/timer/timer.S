/*
 * timer: interrupts that land on unpredictable instructions.
 *
 * The main loop walks Collatz sequences, 3n+1 for odd n and n/2 for even n, whose branches nobody predicts.  About a
 * thousand times a second the PIT interrupts it, and the handler folds where it was (EIP) and what it was doing (the
 * number and the steps so far) into a running hash.  Against a real clock the hash differs from run to run: only a
 * replay that delivers each interrupt at the very same instruction prints it again.
 */
#include "pc.h"
#include "multiboot.h"

        .intel_syntax noprefix

#define TICKS       500
#define FNV_PRIME   0x01000193
#define FNV_BASIS   0x811c9dc5

// Odd seeds below 2^16 have walks that stay below 2^32.
#define SEED_MASK   0xffff

        multiboot_elf

        .globl  main
main:
        mov     eax, VECTOR_BASE + IRQ_TIMER
        mov     edx, offset on_tick
        mov     ecx, 0x8e
        call    set_gate
        call    start_timer

        xor     ebx, ebx                // steps so far
        mov     esi, 1                  // seed
        sti
next_seed:
        add     esi, 2
        and     esi, SEED_MASK
        mov     eax, esi
step:
        cmp     dword ptr [ticks], TICKS
        jae     report
        inc     ebx
        test    al, 1
        jz      even
        lea     eax, [eax + eax * 2 + 1]
        jmp     step
even:
        shr     eax, 1
        cmp     eax, 1
        jne     step
        jmp     next_seed

report:
        cli
        mov     eax, offset ticks_text
        call    print
        mov     eax, [ticks]
        call    print_decimal
        mov     eax, offset steps_text
        call    print
        mov     eax, ebx
        call    print_decimal
        mov     eax, offset hash_text
        call    print
        mov     eax, [hash]
        call    print_hex
        mov     al, '\n'
        call    put_char
        mov     eax, EXIT_SUCCESS
        ret

// PUSHAD leaves EBX at ESP+16, EAX at ESP+28, and above them the interrupted EIP.
on_tick:
        pushad
        mov     edx, [hash]
        xor     edx, [esp + 32]
        imul    edx, edx, FNV_PRIME
        xor     edx, [esp + 28]
        imul    edx, edx, FNV_PRIME
        xor     edx, [esp + 16]
        imul    edx, edx, FNV_PRIME
        mov     [hash], edx
        inc     dword ptr [ticks]
        mov     al, OCW2_EOI
        out     PIC1, al
        popad
        iretd

        .section .rodata
ticks_text:
        .asciz  "timer: "
steps_text:
        .asciz  " ticks interrupted "
hash_text:
        .asciz  " steps, hash "

        .data
        .balign 4
ticks:
        .long   0
hash:
        .long   FNV_BASIS
