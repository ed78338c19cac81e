/*
 * race: an update lost between the main loop and an interrupt handler.
 *
 * Both add one to a shared counter, the main loop without protection: it loads, dawdles, and stores.  A tick that
 * lands between the load and the store is overwritten.  How many are lost depends on where each tick lands, so on a
 * real clock every run tells another number, and the bug can be looked at only in a replay.
 */
#include "pc.h"
#include "multiboot.h"

        .intel_syntax noprefix

#define TICKS   300

// Iterations; as long inside the window as outside it, so that about half of the ticks are lost.
#define DAWDLE  40

        multiboot_flat

        .globl  main
main:
        mov     eax, VECTOR_BASE + IRQ_TIMER
        mov     edx, offset on_tick
        mov     ecx, 0x8e
        call    set_gate
        call    start_timer

        xor     ebx, ebx                // updates by the main loop
        sti
update:
        mov     edx, [counter]
        call    dawdle
        inc     edx
        mov     [counter], edx
        inc     ebx
        call    dawdle
        cmp     dword ptr [ticks], TICKS
        jb      update

        cli
        mov     eax, offset main_text
        call    print
        mov     eax, ebx
        call    print_decimal
        mov     eax, offset handler_text
        call    print
        mov     eax, [ticks]
        call    print_decimal
        mov     eax, offset counter_text
        call    print
        mov     eax, [counter]
        call    print_decimal
        mov     eax, offset lost_text
        call    print
        mov     eax, [ticks]
        add     eax, ebx
        sub     eax, [counter]
        call    print_decimal
        mov     eax, offset end_text
        call    print
        mov     eax, EXIT_SUCCESS
        ret

dawdle:
        mov     ecx, DAWDLE
1:      loop    1b
        ret

on_tick:
        push    eax
        inc     dword ptr [counter]
        inc     dword ptr [ticks]
        mov     al, OCW2_EOI
        out     PIC1, al
        pop     eax
        iretd

        .section .rodata
main_text:
        .asciz  "race: "
handler_text:
        .asciz  " updates by the main loop, "
counter_text:
        .asciz  " by the handler, the counter says "
lost_text:
        .asciz  ": "
end_text:
        .asciz  " lost\n"

        .data
        .balign 4
counter:
        .long   0
ticks:
        .long   0
