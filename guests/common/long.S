/*
 * What the 64-bit guests share: entry, interrupt gates, and printing by polling.
 *
 * revirt enters an ELF64 image at its entry point in long mode, all memory mapped to itself.  QEMU (and Xen) enter
 * through the PVH note in 32-bit mode without paging, so the way to long mode is here too.
 *
 * A guest defines `main` and returns an exit code from it.  Arguments come in EAX, EDX and ECX; every routine keeps
 * all registers.
 */
#include "devices.h"

        .intel_syntax noprefix

        .globl  _start, finish, set_gate, put_char, print, print_decimal, load_segments

#define XEN_ELFNOTE_PHYS32_ENTRY    18

#define CR0_PG      (1 << 31)
#define CR4_PAE     (1 << 5)
#define MSR_EFER    0xc0000080
#define EFER_LME    (1 << 8)

        .section .note.pvh, "a"
        .balign 4
        .long   4, 8, XEN_ELFNOTE_PHYS32_ENTRY
        .asciz  "Xen"
        .quad   enter_long_mode

        .text
        .code32
enter_long_mode:
        cli
        cld
        mov     dword ptr [boot_pml4], offset boot_pdpt + 3
        mov     dword ptr [boot_pdpt], offset boot_pd + 3
        mov     edi, offset boot_pd
        mov     eax, 0x83               // 2 MiB, writable, present
        mov     ecx, 512
1:      mov     [edi], eax
        add     eax, 0x200000
        add     edi, 8
        loop    1b
        mov     eax, offset boot_pml4
        mov     cr3, eax
        mov     eax, cr4
        or      eax, CR4_PAE
        mov     cr4, eax
        mov     ecx, MSR_EFER
        rdmsr
        or      eax, EFER_LME
        wrmsr
        mov     eax, cr0
        or      eax, CR0_PG
        mov     cr0, eax
        lgdt    [gdt_pointer]
        jmp     0x08:_start

        .code64
_start:
        cli
        cld
        mov     rsp, offset stack_top
        lgdt    [gdt_pointer]
        call    load_segments
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

// Reloads all segment registers from a GDT with code at 08 and data at 10.
load_segments:
        push    rax
        mov     eax, 0x10
        mov     ds, eax
        mov     es, eax
        mov     ss, eax
        xor     eax, eax
        mov     fs, eax
        mov     gs, eax
        push    0x08
        push    offset 1f
        retfq
1:      pop     rax
        ret

// Vector EAX enters at EDX; CL is the gate's type byte (8e: interrupt gate; ee: ring 3 may use INT), CH its IST index.
set_gate:
        push    rbx
        push    rdx
        mov     ebx, eax
        shl     ebx, 4
        mov     word ptr [idt + rbx], dx
        mov     word ptr [idt + rbx + 2], 0x08
        mov     byte ptr [idt + rbx + 4], ch
        mov     byte ptr [idt + rbx + 5], cl
        shr     edx, 16
        mov     word ptr [idt + rbx + 6], dx
        pop     rdx
        pop     rbx
        ret

// Prints AL; a line feed goes out as CR LF.
put_char:
        cmp     al, '\n'
        jne     1f
        mov     al, '\r'
        call    1f
        mov     al, '\n'
1:      push    rdx
        push    rax
        mov     dx, COM1 + UART_LSR
2:      in      al, dx
        test    al, LSR_THRE
        jz      2b
        pop     rax
        mov     dx, COM1 + UART_DATA
        out     dx, al
        pop     rdx
        ret

// Prints the NUL-terminated string at RAX.
print:
        push    rax
        push    rsi
        mov     rsi, rax
1:      lodsb
        test    al, al
        jz      2f
        call    put_char
        jmp     1b
2:      pop     rsi
        pop     rax
        ret

// Prints EAX in decimal.
print_decimal:
        push    rax
        push    rbx
        push    rcx
        push    rdx
        mov     ebx, 10
        xor     ecx, ecx
1:      xor     edx, edx
        div     ebx
        push    rdx
        inc     ecx
        test    eax, eax
        jnz     1b
2:      pop     rax
        add     al, '0'
        call    put_char
        loop    2b
        pop     rdx
        pop     rcx
        pop     rbx
        pop     rax
        ret

        .section .rodata
        .balign 8
gdt:
        .quad   0
        .quad   0x00af9b000000ffff      // 08: 64-bit code
        .quad   0x00cf93000000ffff      // 10: data
gdt_pointer:
        .word   . - gdt - 1
        .quad   gdt
idt_pointer:
        .word   256 * 16 - 1
        .quad   idt

        .bss
        .balign 4096
boot_pml4:
        .skip   4096
boot_pdpt:
        .skip   4096
boot_pd:
        .skip   4096
        .globl  idt, stack_top
idt:
        .skip   256 * 16
        .skip   8192
stack_top:
