/*
 * The PC as the bundled guests see it: port numbers, and the register bits they use.  Shared by assembler and C.
 *
 * Sources: National PC16550D (UART), Intel 8259A (PIC) and 8254 (PIT) datasheets; IBM AT port map.
 */
#ifndef PC_H
#define PC_H

#define COM1            0x3f8
#define UART_DATA       0       /* RBR, THR; DLL while DLAB is set */
#define UART_IER        1       /* DLM while DLAB is set */
#define UART_IIR        2       /* read */
#define UART_FCR        2       /* write */
#define UART_LCR        3
#define UART_MCR        4
#define UART_LSR        5

#define IER_RECEIVE     0x01
#define IIR_NONE        0x01
#define FCR_ENABLE      0x01
#define FCR_CLEAR       0x06    /* both FIFOs */
#define FCR_TRIGGER_8   0x80    /* interrupt at 8 bytes; fewer are announced by the character time-out */
#define LCR_8N1         0x03
#define LCR_DLAB        0x80
#define MCR_DTR_RTS     0x03
#define MCR_OUT2        0x08    /* on a PC, gates the interrupt line */
#define LSR_DATA_READY  0x01
#define LSR_THRE        0x20

#define PIC1            0x20    /* ICW1, OCW2, OCW3; data (ICW2 to 4, mask) at the next port */
#define PIC2            0xa0
#define ICW1_INIT       0x11    /* edge triggered, cascaded, ICW4 follows */
#define ICW4_8086       0x01
#define OCW2_EOI        0x20    /* non-specific */

#define IRQ_TIMER       0
#define IRQ_COM1        4
#define VECTOR_BASE     0x20    /* where the guests put IRQ 0 to 15 */

#define PIT_CHANNEL0    0x40
#define PIT_CONTROL     0x43
#define PIT_RATE        0x34    /* channel 0, low byte then high byte, mode 2, binary */
#define PIT_HZ          1193182

/* Any byte written here ends the run with that exit code (revirt, and QEMU's isa-debug-exit). */
#define DEBUG_EXIT      0xf4
#define EXIT_SUCCESS    0x10
#define EXIT_FAILURE    0x11

#endif
