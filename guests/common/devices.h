/*
 * Device set-up for the assembler guests of every mode: macros that need AX and DX only.
 */
#include "pc.h"

/* Writes a constant to a port. */
.macro  output port, value
        mov     dx, \port
        mov     al, \value
        out     dx, al
.endm

/* COM1: 115200 baud, 8N1, FIFOs on, no interrupts yet. */
.macro  set_up_serial
        output  COM1 + UART_LCR, LCR_DLAB
        output  COM1 + UART_DATA, 1
        output  COM1 + UART_IER, 0
        output  COM1 + UART_LCR, LCR_8N1
        output  COM1 + UART_IER, 0
        output  COM1 + UART_FCR, FCR_ENABLE | FCR_CLEAR | FCR_TRIGGER_8
        output  COM1 + UART_MCR, MCR_DTR_RTS | MCR_OUT2
.endm

/* IRQ 0 to 15 at VECTOR_BASE; only IRQ 0 to 7 whose bits are clear in `mask` come through. */
.macro  set_up_pics mask
        output  PIC1, ICW1_INIT
        output  PIC2, ICW1_INIT
        output  PIC1 + 1, VECTOR_BASE
        output  PIC2 + 1, VECTOR_BASE + 8
        output  PIC1 + 1, 1 << 2
        output  PIC2 + 1, 2
        output  PIC1 + 1, ICW4_8086
        output  PIC2 + 1, ICW4_8086
        output  PIC1 + 1, (\mask) & 0xff
        output  PIC2 + 1, 0xff
.endm

/* PIT channel 0 interrupts every `divisor` of its ticks. */
.macro  set_up_timer divisor
        output  PIT_CONTROL, PIT_RATE
        output  PIT_CHANNEL0, (\divisor) & 0xff
        output  PIT_CHANNEL0, (\divisor) >> 8
.endm
