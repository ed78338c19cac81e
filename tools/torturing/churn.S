/*
 * churn: a guest that never ends, for those who want to interrupt it.
 *
 * It writes to random pages of 2 MiB, is interrupted a thousand times a second, and prints a numbered line every
 * twenty ticks: checkpoints, the log and the console all have something to say about when it was.
 */
#include "pc.h"
#include "multiboot.h"

        .intel_syntax noprefix

#define LINE_TICKS  20
#define AREA        0x200000

        multiboot_elf

        .globl  main
main:
        mov     eax, VECTOR_BASE + IRQ_TIMER
        mov     edx, offset on_tick
        mov     ecx, 0x8e
        call    set_gate
        call    start_timer

        mov     esi, 1                  // random (Numerical Recipes' LCG), and what is written
        xor     ebx, ebx                // lines so far
        mov     ecx, LINE_TICKS         // the tick of the next line
        sti
churn:
        imul    esi, esi, 1664525
        add     esi, 1013904223
        mov     eax, esi
        shr     eax, 11
        and     eax, 0x1ffffc
        mov     [AREA + eax], esi
        mov     edx, 200
1:      dec     edx
        jnz     1b
        cmp     [ticks], ecx
        jb      churn

        add     ecx, LINE_TICKS
        inc     ebx
        mov     eax, offset text
        call    print
        mov     eax, ebx
        call    print_decimal
        mov     al, '\n'
        call    put_char
        jmp     churn

on_tick:
        push    eax
        inc     dword ptr [ticks]
        mov     al, OCW2_EOI
        out     PIC1, al
        pop     eax
        iretd

        .section .rodata
text:
        .asciz  "churn: "

        .data
        .balign 4
ticks:
        .long   0
