/*
 * What the real-mode guests share, included into each: entry, and printing on COM1 by polling.
 *
 * No BIOS is assumed and none is called.  A guest is entered at 0:7c00 and owns the first MiB.
 */
#include "devices.h"

        .intel_syntax noprefix
        .code16

// Segments, stack and serial line for a guest entered anyhow at its first byte.
.macro  enter
        cli
        cld
        xor     ax, ax
        mov     ds, ax
        mov     es, ax
        mov     ss, ax
        mov     sp, 0x7c00
        set_up_serial
.endm

// Ends the run; HLT is for machines that have no debug-exit port.
.macro  finish code
        mov     al, \code
        out     DEBUG_EXIT, al
9:      cli
        hlt
        jmp     9b
.endm

.macro  serial_routines
// Prints AL; a line feed goes out as CR LF.  Keeps all registers.
put_char:
        cmp     al, '\n'
        jne     1f
        mov     al, '\r'
        call    1f
        mov     al, '\n'
1:      push    dx
        push    ax
        mov     dx, COM1 + UART_LSR
2:      in      al, dx
        test    al, LSR_THRE
        jz      2b
        pop     ax
        mov     dx, COM1 + UART_DATA
        out     dx, al
        pop     dx
        ret

// Prints the NUL-terminated string at SI.  Destroys AL and SI.
1:      call    put_char
print:
        lodsb
        test    al, al
        jnz     1b
        ret
.endm

// Prints AX in decimal.  Destroys AX, BX, CX and DX.
.macro  decimal_routine
print_decimal:
        mov     bx, 10
        xor     cx, cx
1:      xor     dx, dx
        div     bx
        push    dx
        inc     cx
        test    ax, ax
        jnz     1b
2:      pop     ax
        add     al, '0'
        call    put_char
        loop    2b
        ret
.endm
