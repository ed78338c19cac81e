/*
 * What the 32-bit guests share: entry from a multiboot or ELF loader, interrupt gates, and printing by polling.
 *
 * A guest defines `main` and returns an exit code from it.  Arguments come in EAX, EDX and ECX (gcc calls this
 * regparm(3), so C may call these as well); every routine keeps all registers.
 */
#include "devices.h"

        .intel_syntax noprefix

        .globl  _start, finish, set_gate, unmask, start_timer, put_char, print, print_decimal, print_hex

_start:
        cli
        cld
        lgdt    [gdt_pointer]
        jmp     0x08:1f
1:      mov     eax, 0x10
        mov     ds, eax
        mov     es, eax
        mov     fs, eax
        mov     gs, eax
        mov     ss, eax
        mov     esp, offset stack_top
        lidt    [idt_pointer]
        set_up_serial
        set_up_pics 0xff
        call    main

// Ends the run with exit code AL; HLT is for machines that have no debug-exit port.
finish:
        out     DEBUG_EXIT, al
1:      cli
        hlt
        jmp     1b

// Vector EAX enters at EDX; ECX is the gate's type byte (8e: interrupt gate; ee: ring 3 may use INT).
set_gate:
        mov     word ptr [idt + eax * 8], dx
        mov     word ptr [idt + eax * 8 + 2], 0x08
        mov     byte ptr [idt + eax * 8 + 4], 0
        mov     byte ptr [idt + eax * 8 + 5], cl
        ror     edx, 16
        mov     word ptr [idt + eax * 8 + 6], dx
        ror     edx, 16
        ret

// Lets IRQ EAX (0 to 7) through.
unmask:
        push    eax
        push    ecx
        mov     ecx, eax
        in      al, PIC1 + 1
        btr     eax, ecx
        out     PIC1 + 1, al
        pop     ecx
        pop     eax
        ret

// The PIT interrupts about a thousand times a second from here on; its gate must be set.
start_timer:
        pushad
        set_up_timer PIT_HZ / 1000
        mov     eax, IRQ_TIMER
        call    unmask
        popad
        ret

// Prints AL; a line feed goes out as CR LF.
put_char:
        cmp     al, '\n'
        jne     1f
        mov     al, '\r'
        call    1f
        mov     al, '\n'
1:      push    edx
        push    eax
        mov     dx, COM1 + UART_LSR
2:      in      al, dx
        test    al, LSR_THRE
        jz      2b
        pop     eax
        mov     dx, COM1 + UART_DATA
        out     dx, al
        pop     edx
        ret

// Prints the NUL-terminated string at EAX.
print:
        pushad
        mov     esi, eax
1:      lodsb
        test    al, al
        jz      2f
        call    put_char
        jmp     1b
2:      popad
        ret

print_decimal:
        pushad
        mov     ebx, 10
        xor     ecx, ecx
1:      xor     edx, edx
        div     ebx
        push    edx
        inc     ecx
        test    eax, eax
        jnz     1b
2:      pop     eax
        add     al, '0'
        call    put_char
        loop    2b
        popad
        ret

// Prints EAX as eight hexadecimal digits.
print_hex:
        pushad
        mov     edx, eax
        mov     ecx, 8
1:      rol     edx, 4
        mov     eax, edx
        and     eax, 15
        mov     al, [digits + eax]
        call    put_char
        loop    1b
        popad
        ret

        .section .rodata
digits:
        .ascii  "0123456789abcdef"
        .balign 8
gdt:
        .quad   0
        .quad   0x00cf9b000000ffff      // 08: code
        .quad   0x00cf93000000ffff      // 10: data
gdt_pointer:
        .word   . - gdt - 1
        .long   gdt
idt_pointer:
        .word   256 * 8 - 1
        .long   idt

        .bss
        .balign 16
        .globl  idt, stack_top
idt:
        .skip   256 * 8
        .skip   8192
stack_top:
