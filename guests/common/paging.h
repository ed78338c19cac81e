/*
 * What the kernels of the paging guests and their programs in ring 3 agree on, in 32-bit and in 64-bit mode.
 */
#include "pc.h"

#define PAGE        4096
#define PRESENT     1
#define WRITABLE    2
#define USER        4

/* Bits of a page fault's error code. */
#define PF_PRESENT  1
#define PF_WRITE    2
#define PF_USER     4
#define PF_FETCH    16

#define CR0_WP      (1 << 16)

/* Linear addresses that one page table at 1 GiB maps. */
#define DEMAND          0x40000000      /* pages that appear when touched */
#define DEMAND_PAGES    16
#define COPIED          0x40100000      /* a page shared read-only until written */
#define SWITCHED        0x40180000      /* another page in each address space */

/* What the shared page is full of. */
#define ORIGINAL    0x67616d69

/* Services, in EAX; they take EBX and ESI. */
#define SERVICE_REPORT  0               /* EBX: text, ESI: not 0 if it holds */
#define SERVICE_ADD     1               /* returns EBX + ESI in EAX */
#define SERVICE_EXIT    2

/* `fault_code` is the vector in the upper half and the error code in the lower, or this. */
#define NO_FAULT    0xff

#ifdef __x86_64__
#define POINTER qword ptr
#else
#define POINTER dword ptr
#endif

/* Does something that must fault: the kernel goes on at the label, and a fault without one is a failure. */
.macro  fault instruction:vararg
        mov     POINTER [recovery], offset 1f
        \instruction
1:
.endm

/* Reports from ring 3 whether the condition holds. */
.macro  report_if condition, text
        mov     esi, 1
        j\condition 2f
        xor     esi, esi
2:      mov     ebx, offset 3f
        mov     eax, SERVICE_REPORT
        int     0x80
        jmp     4f
3:      .asciz  "\text"
4:
.endm

/* Checks from ring 3 that an instruction faults with this vector and error code. */
.macro  forbidden text, vector, error_code, instruction:vararg
        fault   \instruction
        cmp     dword ptr [fault_code], \vector << 16 | \error_code
        report_if e, "\text"
.endm
