/*
 * Interrupt-driven reception on COM1 for the 32-bit guests: IRQ 4 fills a ring, `read_char` sleeps until it has a byte.
 *
 * When the ring is full the handler turns the UART's interrupt off and leaves the rest in the UART, which holds up
 * the sender; the reader turns it on again.  Nothing is dropped, however fast the bytes come.
 */
#include "pc.h"

        .intel_syntax noprefix

        .globl  open_receiver, read_char

// Indices are bytes and wrap by themselves.
#define RING_SIZE   256

open_receiver:
        pushad
        mov     eax, VECTOR_BASE + IRQ_COM1
        mov     edx, offset on_receive
        mov     ecx, 0x8e
        call    set_gate
        mov     dx, COM1 + UART_IER
        mov     al, IER_RECEIVE
        out     dx, al
        mov     eax, IRQ_COM1
        call    unmask
        popad
        ret

// Returns the next byte in EAX; interrupts are on afterwards.  HLT right behind STI cannot miss a wake-up.
read_char:
        push    ecx
        push    edx
1:      cli
        movzx   ecx, byte ptr [tail]
        cmp     cl, [head]
        jne     2f
        sti
        hlt
        jmp     1b
2:      movzx   ecx, byte ptr [ring + ecx]
        inc     byte ptr [tail]
        mov     dx, COM1 + UART_IER
        in      al, dx
        test    al, IER_RECEIVE
        jnz     3f
        mov     al, IER_RECEIVE
        out     dx, al
3:      sti
        mov     eax, ecx
        pop     edx
        pop     ecx
        ret

// Empties the FIFO: the PIC sees an edge, so a byte left behind would never interrupt again.
on_receive:
        pushad
        movzx   ecx, byte ptr [head]
1:      mov     dx, COM1 + UART_LSR
        in      al, dx
        test    al, LSR_DATA_READY
        jz      3f
        lea     ebx, [ecx + 1]
        cmp     bl, [tail]
        je      2f
        mov     dx, COM1 + UART_DATA
        in      al, dx
        mov     [ring + ecx], al
        movzx   ecx, bl
        jmp     1b
2:      mov     dx, COM1 + UART_IER
        xor     eax, eax
        out     dx, al
3:      mov     [head], cl
        mov     al, OCW2_EOI
        out     PIC1, al
        popad
        iretd

        .bss
head:
        .skip   1
tail:
        .skip   1
ring:
        .skip   RING_SIZE
