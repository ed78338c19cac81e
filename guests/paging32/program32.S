/*
 * paging32: the program in ring 3.
 *
 * What it may: system calls by INT 80, SYSENTER and a call gate; memory that appears on demand or is copied on write;
 * the one port that the I/O bitmap opens.  What it may not: all the rest.
 */
#include "paging.h"

        .intel_syntax noprefix

#define CALL_GATE   0x33

        .globl  user, user_start, user_end, user_stack_top, recovery, fault_code, fault_address, pages_given, ticks

        .section .user, "awx"
        .balign PAGE
user_start:

.macro  system_enter
        mov     ecx, esp
        mov     edx, offset 1f
        sysenter
1:
.endm

user:
        mov     eax, cs
        and     eax, 3
        cmp     eax, 3
        report_if e, "a program runs in ring 3"
        call    check_calls
        call    check_memory
        call    check_privileges
        mov     eax, [ticks]
1:      mov     ecx, [ticks]
        sub     ecx, eax
        cmp     ecx, 3
        jb      1b
        report_if ae, "timer interrupts reach ring 0 and return"
        mov     eax, SERVICE_EXIT
        int     0x80

check_calls:
        mov     eax, SERVICE_ADD
        mov     ebx, 40
        mov     esi, 2
        int     0x80
        cmp     eax, 42
        report_if e, "system call by INT 80"
        mov     eax, SERVICE_ADD
        mov     ebx, 40
        mov     esi, 2
        system_enter
        cmp     eax, 42
        report_if e, "system call by SYSENTER"
        push    0x12345678
        call    CALL_GATE:0
        cmp     eax, ~0x12345678
        report_if e, "call gate with a parameter"
        mov     edi, 1000
        xor     eax, eax
2:      mov     ebx, eax
        mov     esi, edi
        mov     eax, SERVICE_ADD
        int     0x80
        mov     ebx, eax
        mov     esi, edi
        mov     eax, SERVICE_ADD
        system_enter
        dec     edi
        jnz     2b
        cmp     eax, 1000 * 1001
        report_if e, "2000 system calls"
        ret

// Touches all pages but the last two one by one, and those at once by a store across their border.
check_memory:
        mov     edi, DEMAND + 0x124
1:      mov     dword ptr [edi], 1
        cmp     [fault_address], edi
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
5:      add     eax, [edi]
        add     edi, 4
        loop    5b
        cmp     eax, (DEMAND_PAGES - 2) + 0x77885566    // the halves of 55667788 lie in two words
        report_if e, "new pages hold what was written and zeros"
        mov     edi, COPIED
        cmp     dword ptr [edi + 8], ORIGINAL
        report_if e, "a shared page is read"
        mov     dword ptr [edi + 8], 42
        cmp     dword ptr [edi + 8], 42
        report_if e, "a shared page is copied when written"
        cmp     dword ptr [fault_address], COPIED + 8
        report_if e, "CR2 tells where a page fault was"
        cmp     dword ptr [edi + 12], ORIGINAL
        report_if e, "the rest of the copy is like the original"
        ret

check_privileges:
        forbidden "ring 3 may not read a kernel page", 14, (PF_USER | PF_PRESENT), mov eax, [original]
        forbidden "ring 3 may not write a kernel page", 14, (PF_USER | PF_PRESENT | PF_WRITE), mov [original], eax
        forbidden "ring 3 may not read where nothing is mapped", 14, PF_USER, mov eax, [0xc0000000]
        forbidden "IN at ring 3 needs leave of the I/O bitmap", 13, 0, in al, PIC1
        mov     dx, COM1 + UART_LSR
        fault   in al, dx
        cmp     dword ptr [fault_code], NO_FAULT
        report_if e, "the I/O bitmap opens one port"
        forbidden "the I/O bitmap is asked for both bytes of a word", 13, 0, in ax, dx
        forbidden "ring 3 may not CLI", 13, 0, cli
        forbidden "ring 3 may not HLT", 13, 0, hlt
        forbidden "ring 3 may not read CR0", 13, 0, mov eax, cr0
        forbidden "ring 3 may not INT 20, a gate of ring 0", 13, (VECTOR_BASE * 8 + 2), int VECTOR_BASE
        mov     ecx, 0x10
        forbidden "ring 3 may not load the kernel's data selector", 13, 0x10, mov fs, ecx
        xor     ecx, ecx
        forbidden "division by zero", 0, 0, div ecx
        forbidden "breakpoint", 3, 0, int3
        mov     al, 0x7f
        inc     al
        forbidden "overflow", 4, 0, into
        forbidden "undefined instruction", 6, 0, ud2
        ret

        .balign 4
recovery:
        .long   0
fault_code:
        .long   NO_FAULT
fault_address:
        .long   0
pages_given:
        .long   0
ticks:
        .long   0
        .skip   512
user_stack_top:
        .balign PAGE
user_end:
