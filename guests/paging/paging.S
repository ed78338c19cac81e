/*
 * paging: the processor protects, in 64-bit mode.
 *
 * This kernel sets up four levels of page tables, a task state segment with an interrupt stack table, and the SYSCALL
 * registers, and enters ring 3.  The program there (program64.S) does what it may and what it may not, and compares
 * each fault with what the manual says.
 *
 * Intel SDM volume 3: Page-Fault Exceptions; Fast System Calls in 64-Bit Mode; Exception and Interrupt Handling in
 * 64-Bit Mode; Task Management in 64-Bit Mode.
 *
 * The program's page holds code and data and is open to ring 3; all else below 1 GiB is the kernel's.
 */
#include "devices.h"
#include "paging.h"

        .intel_syntax noprefix

#define USER_DATA       0x23
#define USER_CODE       0x2b
#define TASK            0x30

// SYSCALL takes CS and SS from 08 on; SYSRET takes SS from 18 + 8 and 64-bit CS from 18 + 16.
#define STAR_SELECTORS  (0x18 << 16 | 0x08)

#define MSR_EFER            0xc0000080
#define MSR_STAR            0xc0000081
#define MSR_LSTAR           0xc0000082
#define MSR_FMASK           0xc0000084
#define MSR_GS_BASE         0xc0000101
#define MSR_KERNEL_GS_BASE  0xc0000102

#define EFER_SCE    (1 << 0)
#define EFER_NXE    (1 << 11)

// TF, IF and DF: SYSCALL clears what FMASK holds.
#define KERNEL_MASK 0x700

#define LARGE       0x80
#define NO_EXECUTE  (1 << 31)           // in the upper half of an entry

#define FRAMES      0x400000            // physical memory given out on demand

        .globl  main, original, interrupt_stack
main:
        call    open_paging
        call    open_gates
        call    open_task
        call    open_syscall
        call    check_write_protect
        call    check_address_spaces
        mov     eax, USER_DATA
        mov     ds, eax
        mov     es, eax
        set_up_timer PIT_HZ / 1000
        output  PIC1 + 1, ~(1 << IRQ_TIMER) & 0xff
        push    USER_DATA
        push    offset user_stack_top
        push    0x202                   // interrupts on, IOPL 0
        push    USER_CODE
        push    offset user
        iretq

.macro  entry table, index, target, flags
        mov     dword ptr [\table + (\index) * 8], offset \target + (\flags)
.endm

// The first 2 MiB in small pages, the rest of the first GiB in large ones; each of two address spaces has a table of
// its own for the region at 1 GiB.
open_paging:
        entry   pml4, 0, pdpt, PRESENT | WRITABLE | USER
        entry   pdpt, 0, low_directory, PRESENT | WRITABLE | USER
        entry   pdpt, 1, region_directory, PRESENT | WRITABLE | USER
        entry   region_directory, 0, region_table, PRESENT | WRITABLE | USER
        entry   other_pml4, 0, other_pdpt, PRESENT | WRITABLE | USER
        entry   other_pdpt, 0, low_directory, PRESENT | WRITABLE | USER
        entry   other_pdpt, 1, other_directory, PRESENT | WRITABLE | USER
        entry   other_directory, 0, other_table, PRESENT | WRITABLE | USER
        mov     edi, offset low_directory
        mov     eax, PRESENT | WRITABLE | LARGE
        mov     edx, 0x200000
        call    fill_table
        mov     edi, offset low_table
        mov     eax, PRESENT | WRITABLE
        mov     edx, PAGE
        call    fill_table
        entry   low_directory, 0, low_table, PRESENT | WRITABLE | USER
        mov     eax, offset user_start
1:      mov     edx, eax
        shr     edx, 12
        or      dword ptr [low_table + rdx * 8], USER
        add     eax, PAGE
        cmp     eax, offset user_end
        jb      1b
        entry   region_table, (COPIED - DEMAND) / PAGE, original, PRESENT | USER
        entry   region_table, (SWITCHED - DEMAND) / PAGE, original, PRESENT | WRITABLE
        entry   other_table, (SWITCHED - DEMAND) / PAGE, low_table, PRESENT | WRITABLE
        mov     ecx, MSR_EFER
        rdmsr
        or      eax, EFER_SCE | EFER_NXE
        wrmsr
        mov     eax, offset pml4
        mov     cr3, rax
        mov     rax, cr0
        or      eax, CR0_WP
        mov     cr0, rax
        ret

// Fills the table at EDI with entries from EAX on, EDX apart.
fill_table:
        mov     ecx, 512
1:      mov     [rdi], rax
        add     rax, rdx
        add     rdi, 8
        loop    1b
        ret

.macro  gate vector, handler, type, stack = 0
        mov     eax, \vector
        mov     edx, offset \handler
        mov     ecx, \stack << 8 | \type
        call    set_gate
.endm

open_gates:
        gate    0, exception_0, 0x8e
        gate    3, exception_3, 0xee
        gate    6, exception_6, 0x8e, 1
        gate    13, exception_13, 0x8e
        gate    14, exception_14, 0x8e
        gate    VECTOR_BASE + IRQ_TIMER, on_tick, 0x8e
        gate    0x80, on_int80, 0xee
        ret

open_task:
        mov     eax, offset task
        mov     [gdt_task + 2], ax
        shr     eax, 16
        mov     [gdt_task + 4], al
        mov     [gdt_task + 7], ah
        lgdt    [gdt_pointer]
        call    load_segments
        mov     eax, TASK
        ltr     ax
        ret

.macro  write_msr register, low, high = 0
        mov     ecx, \register
        mov     eax, \low
        mov     edx, \high
        wrmsr
.endm

open_syscall:
        write_msr MSR_STAR, 0, STAR_SELECTORS
        write_msr MSR_LSTAR, "offset on_syscall"
        write_msr MSR_FMASK, KERNEL_MASK
        write_msr MSR_GS_BASE, "offset user_mark"
        write_msr MSR_KERNEL_GS_BASE, "offset per_cpu"
        ret

// Ring 0 itself respects a read-only page while CR0.WP is set.
check_write_protect:
        fault   mov byte ptr [COPIED + 5], 1
        mov     ebx, offset write_protect_text
        xor     esi, esi
        cmp     qword ptr [fault_address], COPIED + 5
        jne     report
        cmp     dword ptr [fault_code], 14 << 16 | PF_PRESENT | PF_WRITE
        jne     report
        inc     esi
        jmp     report

// The same linear address shows another frame after CR3 is loaded.
check_address_spaces:
        xor     esi, esi
        mov     rax, [SWITCHED]
        cmp     rax, [original]
        jne     1f
        mov     eax, offset other_pml4
        mov     cr3, rax
        mov     rcx, [SWITCHED]
        mov     eax, offset pml4
        mov     cr3, rax
        mov     rdx, [SWITCHED]
        cmp     rdx, [original]
        jne     1f
        cmp     rcx, [low_table]
        jne     1f
        inc     esi
1:      mov     ebx, offset address_spaces_text
        jmp     report

.macro  exception vector, error_code
exception_\vector:
        .if     \error_code == 0
        push    0
        .endif
        push    \vector
        jmp     on_exception
.endm
        exception 0, 0
        exception 3, 0
        exception 6, 0
        exception 13, 1
        exception 14, 1

// Above the six registers: vector, error code, RIP.
on_exception:
        push    rax
        push    rbx
        push    rcx
        push    rdx
        push    rsi
        push    rdi
        mov     [fault_stack], rsp
        mov     eax, [rsp + 48]
        mov     ecx, [rsp + 56]
        cmp     eax, 14
        jne     1f
        mov     rdx, cr2
        mov     [fault_address], rdx
        call    resolve
        jc      2f
1:      shl     eax, 16
        or      eax, ecx
        mov     [fault_code], eax
        xor     eax, eax
        xchg    rax, [recovery]
        test    rax, rax
        jz      unexpected
        mov     [rsp + 64], rax
2:      pop     rdi
        pop     rsi
        pop     rdx
        pop     rcx
        pop     rbx
        pop     rax
        add     rsp, 16
        iretq

unexpected:
        mov     ebx, offset unexpected_text
        xor     esi, esi
        call    report
        jmp     leave

// Makes the page at RDX appear, or copies it, if error code ECX says that this is due; CF tells.  Keeps EAX and ECX.
resolve:
        push    rax
        push    rcx
        mov     rbx, rdx
        and     rbx, -PAGE
        mov     esi, offset zeros
        cmp     ecx, PF_USER | PF_WRITE
        je      1f
        mov     esi, offset original
        cmp     ecx, PF_USER | PF_WRITE | PF_PRESENT
        jne     3f
        cmp     rbx, COPIED
        je      2f
        jmp     3f
1:      sub     rdx, DEMAND
        cmp     rdx, DEMAND_PAGES * PAGE
        jae     3f
        inc     dword ptr [pages_given]
2:      mov     edi, [next_frame]
        add     dword ptr [next_frame], PAGE
        lea     eax, [rdi + (PRESENT | WRITABLE | USER)]
        mov     ecx, PAGE / 8
        rep movsq
        mov     edx, ebx
        sub     edx, DEMAND
        shr     edx, 12
        mov     [region_table + rdx * 8], eax
        mov     dword ptr [region_table + rdx * 8 + 4], NO_EXECUTE
        invlpg  [rbx]
        stc
        jmp     4f
3:      clc
4:      pop     rcx
        pop     rax
        ret

on_tick:
        push    rax
        inc     dword ptr [ticks]
        mov     al, OCW2_EOI
        out     PIC1, al
        pop     rax
        iretq

on_int80:
        call    serve
        iretq

// SYSCALL changes no stack: the kernel's is where GS points after SWAPGS.
on_syscall:
        swapgs
        mov     gs:[8], rsp
        mov     rsp, gs:[0]
        push    rcx
        push    r11
        call    serve
        pop     r11
        pop     rcx
        mov     rsp, gs:[8]
        swapgs
        sysretq

// Service EAX, for either entry.
serve:
        cmp     eax, SERVICE_ADD
        je      1f
        cmp     eax, SERVICE_REPORT
        je      report
        jmp     leave
1:      lea     rax, [rbx + rsi]
        ret

report:
        mov     dword ptr [fault_code], NO_FAULT
        mov     eax, offset name_text
        call    print
        mov     eax, ebx
        call    print
        inc     dword ptr [checks]
        mov     eax, offset ok_text
        test    esi, esi
        jnz     1f
        inc     dword ptr [failures]
        mov     eax, offset fail_text
1:      jmp     print

leave:
        mov     eax, offset name_text
        call    print
        mov     eax, [checks]
        call    print_decimal
        mov     eax, offset checks_text
        call    print
        mov     eax, [failures]
        call    print_decimal
        mov     eax, offset failures_text
        call    print
        mov     eax, EXIT_SUCCESS
        cmp     dword ptr [failures], 0
        je      finish
        mov     eax, EXIT_FAILURE
        jmp     finish

        .section .rodata
name_text:
        .asciz  "paging: "
ok_text:
        .asciz  ": ok\n"
fail_text:
        .asciz  ": FAIL\n"
checks_text:
        .asciz  " checks, "
failures_text:
        .asciz  " failed\n"
unexpected_text:
        .asciz  "no fault without a reason"
write_protect_text:
        .asciz  "ring 0 may not write a read-only page"
address_spaces_text:
        .asciz  "loading CR3 switches address spaces"

        .data
        .balign 8
gdt:
        .quad   0
        .quad   0x00af9b000000ffff      // 08: kernel code
        .quad   0x00cf93000000ffff      // 10: kernel data
        .quad   0                       // 18: 32-bit user code, not used
        .quad   0x00cff3000000ffff      // 20: user data
        .quad   0x00affb000000ffff      // 28: user code
gdt_task:
        .word   task_end - task - 1, 0, 0x8900, 0
        .quad   0
gdt_pointer:
        .word   . - gdt - 1
        .quad   gdt

        .balign 8
per_cpu:
        .quad   stack_top, 0            // the kernel's stack, the caller's

// RSP0 and IST1; the I/O bitmap lies beyond the limit, so no port is open.
        .balign 4
task:
        .long   0
        .quad   stack_top
        .skip   24
        .quad   interrupt_stack_top
        .skip   56
        .word   0, 104
task_end:

next_frame:
        .long   FRAMES
checks:
        .long   0
failures:
        .long   0

        .balign PAGE
original:
        .fill   PAGE / 4, 4, ORIGINAL

        .bss
        .balign PAGE
pml4:
        .skip   PAGE
pdpt:
        .skip   PAGE
low_directory:
        .skip   PAGE
low_table:
        .skip   PAGE
region_directory:
        .skip   PAGE
region_table:
        .skip   PAGE
other_pml4:
        .skip   PAGE
other_pdpt:
        .skip   PAGE
other_directory:
        .skip   PAGE
other_table:
        .skip   PAGE
zeros:
        .skip   PAGE
interrupt_stack:
        .skip   PAGE
interrupt_stack_top:
