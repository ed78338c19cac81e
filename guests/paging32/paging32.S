/*
 * paging32: the processor protects.
 *
 * This kernel sets up 32-bit paging, a task state segment and gates, and enters ring 3.  The program there
 * (program32.S) does what it may and what it may not, and compares each fault with what the manual says.
 *
 * Intel SDM volume 3: Page-Fault Exceptions; Call Gates; Performing Fast Calls to System Procedures with the SYSENTER
 * and SYSEXIT Instructions; Task-State Segment.  Volume 1: I/O Permission Bit Map.
 *
 * The program's page holds code and data and is open to ring 3; all else below 4 MiB is the kernel's.
 */
#include "multiboot.h"
#include "paging.h"

        .intel_syntax noprefix

#define KERNEL_CODE     0x08
#define USER_CODE       0x1b
#define USER_DATA       0x23
#define TASK            0x28

#define MSR_SYSENTER_CS     0x174
#define MSR_SYSENTER_ESP    0x175
#define MSR_SYSENTER_EIP    0x176

#define CR0_PG      (1 << 31)

#define FRAMES      0x200000            // physical memory given out on demand

        multiboot_elf

        .globl  main, original
main:
        call    open_paging
        call    open_gates
        call    open_task
        call    check_write_protect
        call    check_address_spaces
        mov     eax, USER_DATA
        mov     ds, eax
        mov     es, eax
        call    start_timer
        push    USER_DATA
        push    offset user_stack_top
        push    0x202                   // interrupts on, IOPL 0
        push    USER_CODE
        push    offset user
        iretd

// The first 4 MiB map to themselves; the region at 1 GiB has a table of its own in each of two address spaces.
open_paging:
        mov     edi, offset low_table
        mov     eax, PRESENT | WRITABLE
        mov     ecx, 1024
1:      stosd
        add     eax, PAGE
        loop    1b
        mov     eax, offset user_start
2:      mov     edx, eax
        shr     edx, 12
        or      dword ptr [low_table + edx * 4], USER
        add     eax, PAGE
        cmp     eax, offset user_end
        jb      2b
        mov     eax, offset low_table + (PRESENT | WRITABLE | USER)
        mov     [directory], eax
        mov     [other_directory], eax
        mov     eax, offset region_table + (PRESENT | WRITABLE | USER)
        mov     [directory + (DEMAND >> 22) * 4], eax
        mov     eax, offset other_table + (PRESENT | WRITABLE | USER)
        mov     [other_directory + (DEMAND >> 22) * 4], eax
        mov     eax, offset original + (PRESENT | USER)
        mov     [region_table + ((COPIED >> 12) & 1023) * 4], eax
        mov     eax, offset original + (PRESENT | WRITABLE)
        mov     [region_table + ((SWITCHED >> 12) & 1023) * 4], eax
        mov     eax, offset low_table + (PRESENT | WRITABLE)
        mov     [other_table + ((SWITCHED >> 12) & 1023) * 4], eax
        mov     eax, offset directory
        mov     cr3, eax
        mov     eax, cr0
        or      eax, CR0_PG | CR0_WP
        mov     cr0, eax
        ret

.macro  gate vector, handler, type
        mov     eax, \vector
        mov     edx, offset \handler
        mov     ecx, \type
        call    set_gate
.endm

open_gates:
        gate    0, exception_0, 0x8e
        gate    3, exception_3, 0xee
        gate    4, exception_4, 0xee
        gate    6, exception_6, 0x8e
        gate    13, exception_13, 0x8e
        gate    14, exception_14, 0x8e
        gate    VECTOR_BASE + IRQ_TIMER, on_tick, 0x8e
        gate    0x80, on_int80, 0xee
        mov     eax, offset on_call_gate
        mov     [gdt_call_gate], ax
        shr     eax, 16
        mov     [gdt_call_gate + 6], ax
        xor     edx, edx
        mov     eax, KERNEL_CODE
        mov     ecx, MSR_SYSENTER_CS
        wrmsr
        mov     eax, offset stack_top
        mov     ecx, MSR_SYSENTER_ESP
        wrmsr
        mov     eax, offset on_sysenter
        mov     ecx, MSR_SYSENTER_EIP
        wrmsr
        ret

open_task:
        mov     eax, offset task
        mov     [gdt_task + 2], ax
        shr     eax, 16
        mov     [gdt_task + 4], al
        mov     [gdt_task + 7], ah
        lgdt    [gdt_pointer]
        mov     eax, TASK
        ltr     ax
        ret

// Ring 0 itself respects a read-only page while CR0.WP is set.
check_write_protect:
        fault   mov byte ptr [COPIED + 5], 1
        mov     ebx, offset write_protect_text
        cmp     dword ptr [fault_address], COPIED + 5
        jne     report_false
        mov     eax, 14 << 16 | PF_PRESENT | PF_WRITE
        jmp     report_fault

// The same linear address shows another frame after CR3 is loaded.
check_address_spaces:
        xor     esi, esi
        mov     eax, [SWITCHED]
        cmp     eax, [original]
        jne     1f
        mov     eax, offset other_directory
        mov     cr3, eax
        mov     ecx, [SWITCHED]
        mov     eax, offset directory
        mov     cr3, eax
        mov     edx, [SWITCHED]
        cmp     edx, [original]
        jne     1f
        cmp     ecx, [low_table]
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
        exception 4, 0
        exception 6, 0
        exception 13, 1
        exception 14, 1

// PUSHAD leaves the vector at ESP+32, then the error code, EIP.
on_exception:
        pushad
        mov     eax, [esp + 32]
        mov     ecx, [esp + 36]
        cmp     eax, 14
        jne     1f
        mov     edx, cr2
        mov     [fault_address], edx
        call    resolve
        jc      2f
1:      shl     eax, 16
        or      eax, ecx
        mov     [fault_code], eax
        xor     eax, eax
        xchg    eax, [recovery]
        test    eax, eax
        jz      unexpected
        mov     [esp + 40], eax
2:      popad
        add     esp, 8
        iretd

unexpected:
        mov     ebx, offset unexpected_text
        call    report_false
        jmp     leave

// Makes the page at EDX appear, or copies it, if error code ECX says that this is due; CF tells.  Keeps EAX and ECX.
resolve:
        push    eax
        push    ecx
        mov     ebx, edx
        and     ebx, -PAGE
        mov     esi, offset zeros
        cmp     ecx, PF_USER | PF_WRITE
        je      1f
        mov     esi, offset original
        cmp     ecx, PF_USER | PF_WRITE | PF_PRESENT
        jne     3f
        cmp     ebx, COPIED
        je      2f
        jmp     3f
1:      sub     edx, DEMAND
        cmp     edx, DEMAND_PAGES * PAGE
        jae     3f
        inc     dword ptr [pages_given]
2:      mov     edi, [next_frame]
        add     dword ptr [next_frame], PAGE
        lea     eax, [edi + (PRESENT | WRITABLE | USER)]
        mov     ecx, PAGE / 4
        rep movsd
        mov     edx, ebx
        shr     edx, 12
        and     edx, 1023
        mov     [region_table + edx * 4], eax
        invlpg  [ebx]
        stc
        jmp     4f
3:      clc
4:      pop     ecx
        pop     eax
        ret

on_tick:
        push    eax
        inc     dword ptr [ticks]
        mov     al, OCW2_EOI
        out     PIC1, al
        pop     eax
        iretd

on_int80:
        call    serve
        iretd

// The caller has left its return address in EDX and its stack pointer in ECX.
on_sysenter:
        push    ecx
        push    edx
        call    serve
        pop     edx
        pop     ecx
        sti
        sysexit

// Service EAX, for either entry.
serve:
        cmp     eax, SERVICE_ADD
        je      1f
        cmp     eax, SERVICE_REPORT
        je      report
        jmp     leave
1:      lea     eax, [ebx + esi]
        ret

// The gate has copied one parameter from the caller's stack, above CS and EIP.
on_call_gate:
        mov     eax, [esp + 8]
        not     eax
        retf    4

// Reports whether the last fault was EAX (vector and error code), under the name at EBX.
report_fault:
        xor     esi, esi
        cmp     eax, [fault_code]
        jne     report
        inc     esi
        jmp     report
report_false:
        xor     esi, esi
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
1:      call    print
        ret

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
        .asciz  "paging32: "
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
        .quad   0x00cf9b000000ffff      // 08: kernel code
        .quad   0x00cf93000000ffff      // 10: kernel data
        .quad   0x00cffb000000ffff      // 18: user code
        .quad   0x00cff3000000ffff      // 20: user data
gdt_task:
        .word   task_end - task - 1, 0, 0x8900, 0
gdt_call_gate:
        .quad   0x0000ec0100080000      // 30: from ring 3, one parameter
gdt_pointer:
        .word   . - gdt - 1
        .long   gdt

// Ring 3 may read the UART's line status, and no other port.
        .balign 4
task:
        .long   0, stack_top, 0x10
        .skip   88
        .word   0, 104
        .skip   (COM1 + UART_LSR) / 8, 0xff
        .byte   ~(1 << ((COM1 + UART_LSR) & 7)) & 0xff
        .byte   0xff
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
directory:
        .skip   PAGE
other_directory:
        .skip   PAGE
low_table:
        .skip   PAGE
region_table:
        .skip   PAGE
other_table:
        .skip   PAGE
zeros:
        .skip   PAGE
