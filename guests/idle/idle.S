/*
 * idle: sleeping.
 *
 * Real mode: the CPU stands in HLT but for a hundred timer interrupts a second and a byte now and then, delivered
 * through the interrupt vector table at address 0.  A recording of it is short, and its replay takes no time: what
 * the guest sleeps through is skipped.
 */
#include "real.S"

#define TICK_HZ     100
#define DIVISOR     ((PIT_HZ + TICK_HZ / 2) / TICK_HZ)
#define TICKS       30

.macro  vector irq, handler
        mov     word ptr [(VECTOR_BASE + \irq) * 4], offset \handler
        mov     word ptr [(VECTOR_BASE + \irq) * 4 + 2], 0
.endm

        .globl  _start
_start:
        enter
        vector  IRQ_TIMER, on_tick
        vector  IRQ_COM1, on_receive
        set_up_pics ~(1 << IRQ_TIMER | 1 << IRQ_COM1)
        set_up_timer DIVISOR
        output  COM1 + UART_IER, IER_RECEIVE

        xor     bp, bp                  // ticks reported
sleep:
        cli
        test    byte ptr [received], 1
        jnz     report_byte
        mov     ax, [ticks]
        sub     ax, bp
        cmp     ax, 10
        jae     report_ticks
        sti
        hlt
        jmp     sleep

report_byte:
        mov     byte ptr [received], 0
        sti
        mov     si, offset byte_text
        call    print
        jmp     sleep

report_ticks:
        sti
        add     bp, 10
        mov     si, offset ticks_text
        call    print
        mov     ax, bp
        call    print_decimal
        mov     si, offset end_text
        call    print
        cmp     bp, TICKS
        jb      sleep
        cli
        finish  EXIT_SUCCESS

on_tick:
        push    ax
        push    dx
        inc     word ptr [ticks]
        jmp     end_interrupt

on_receive:
        push    ax
        push    dx
1:      mov     dx, COM1 + UART_LSR
        in      al, dx
        test    al, LSR_DATA_READY
        jz      end_interrupt
        mov     dx, COM1 + UART_DATA
        in      al, dx
        mov     byte ptr [received], 1
        jmp     1b

end_interrupt:
        output  PIC1, OCW2_EOI
        pop     dx
        pop     ax
        iret

        serial_routines
        decimal_routine

byte_text:
        .asciz  "idle: woken by a byte\n"
ticks_text:
        .asciz  "idle: "
end_text:
        .asciz  " ticks\n"

        .balign 2
ticks:
        .word   0
received:
        .byte   0
