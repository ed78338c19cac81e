/*
 * paging: the program in ring 3.
 *
 * What it may: system calls by INT 80 and SYSCALL; memory that appears on demand or is copied on write.  What it may
 * not: all the rest, among it the execution of data and addresses that are not canonical.
 */
#include "paging.h"

        .intel_syntax noprefix

#define NOT_CANONICAL   0x800000000000

        .globl  user, user_start, user_end, user_stack_top, user_mark
        .globl  recovery, fault_code, fault_address, fault_stack, pages_given, ticks

        .section .user, "awx"
        .balign PAGE
user_start:

user:
        mov     eax, cs
        and     eax, 3
        cmp     eax, 3
        report_if e, "a program runs in ring 3"
        call    check_calls
        call    check_memory
        call    check_faults
        mov     eax, [ticks]
1:      mov     ecx, [ticks]
        sub     ecx, eax
        cmp     ecx, 3
        jb      1b
        report_if ae, "timer interrupts reach ring 0 and return"
        mov     eax, SERVICE_EXIT
        syscall

check_calls:
        mov     eax, SERVICE_ADD
        mov     rbx, 0x4000000000
        mov     esi, 2
        int     0x80
        mov     rcx, 0x4000000002
        cmp     rax, rcx
        report_if e, "system call by INT 80"
        mov     eax, SERVICE_ADD
        mov     rbx, 0x4000000000
        mov     esi, 2
        syscall
        mov     rdx, 0x4000000002
        cmp     rax, rdx
        report_if e, "system call by SYSCALL"
        mov     eax, SERVICE_ADD
        stc
        syscall
5:      mov     edx, offset 5b
        cmp     rcx, rdx
        report_if e, "SYSCALL leaves the return address in RCX"
        and     r11d, 0x201
        cmp     r11d, 0x201
        report_if e, "SYSCALL leaves the flags in R11"
        cmp     qword ptr gs:[0], 0x5a5a
        report_if e, "SWAPGS gives the program its GS back"
        mov     edi, 1000
        xor     eax, eax
6:      mov     rbx, rax
        mov     esi, edi
        mov     eax, SERVICE_ADD
        int     0x80
        mov     rbx, rax
        mov     esi, edi
        mov     eax, SERVICE_ADD
        syscall
        dec     edi
        jnz     6b
        cmp     eax, 1000 * 1001
        report_if e, "2000 system calls"
        ret

// Touches all pages but the last two one by one, and those at once by a store across their border.
check_memory:
        mov     edi, DEMAND + 0x124
1:      mov     dword ptr [rdi], 1
        cmp     [fault_address], rdi
        jne     2f
        add     edi, PAGE
        cmp     edi, DEMAND + (DEMAND_PAGES - 2) * PAGE
        jb      1b
2:      mov     dword ptr [DEMAND + (DEMAND_PAGES - 1) * PAGE - 2], 0x55667788
        cmp     dword ptr [pages_given], DEMAND_PAGES
        report_if e, "16 pages appear when written"
        mov     edi, DEMAND
        xor     eax, eax
        mov     ecx, DEMAND_PAGES * PAGE / 4
5:      add     eax, [rdi]
        add     rdi, 4
        loop    5b
        cmp     eax, (DEMAND_PAGES - 2) + 0x77885566    // the halves of 55667788 lie in two words
        report_if e, "new pages hold what was written and zeros"
        mov     edi, COPIED
        cmp     dword ptr [rdi + 8], ORIGINAL
        report_if e, "a shared page is read"
        mov     dword ptr [rdi + 8], 42
        cmp     dword ptr [rdi + 8], 42
        report_if e, "a shared page is copied when written"
        cmp     qword ptr [fault_address], COPIED + 8
        report_if e, "CR2 tells where a page fault was"
        cmp     dword ptr [rdi + 12], ORIGINAL
        report_if e, "the rest of the copy is like the original"
        ret

check_faults:
        forbidden "ring 3 may not read a kernel page", 14, (PF_USER | PF_PRESENT), mov rax, [original]
        forbidden "ring 3 may not write a kernel page", 14, (PF_USER | PF_PRESENT | PF_WRITE), mov [original], rax
        forbidden "ring 3 may not read where nothing is mapped", 14, PF_USER, mov rax, [0x7ffff000]
        mov     ecx, DEMAND
        forbidden "data is not executed", 14, (PF_USER | PF_PRESENT | PF_FETCH), jmp rcx
        mov     rcx, NOT_CANONICAL
        forbidden "an address that is not canonical is no page fault", 13, 0, mov rax, [rcx]
        forbidden "ring 3 may not IN", 13, 0, in al, PIC1
        forbidden "ring 3 may not CLI", 13, 0, cli
        forbidden "ring 3 may not HLT", 13, 0, hlt
        forbidden "ring 3 may not read CR0", 13, 0, mov rax, cr0
        // Vector 0, because QEMU 7.2 gives 16 times the vector in the error code, and the manual 8 times.
        forbidden "ring 3 may not INT 0, a gate of ring 0", 13, 2, int 0
        xor     ecx, ecx
        forbidden "division by zero", 0, 0, div ecx
        forbidden "breakpoint", 3, 0, int3
        forbidden "undefined instruction", 6, 0, ud2
        mov     rax, [fault_stack]
        sub     rax, offset interrupt_stack
        cmp     rax, PAGE
        report_if b, "the interrupt stack table gives it another stack"
        ret

        .balign 8
recovery:
        .quad   0
fault_address:
        .quad   0
fault_stack:
        .quad   0
user_mark:
        .quad   0x5a5a
fault_code:
        .long   NO_FAULT
pages_given:
        .long   0
ticks:
        .long   0
        .skip   1024
        .balign 16
user_stack_top:
        .balign PAGE
user_end:
