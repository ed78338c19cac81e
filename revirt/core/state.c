/* The architectural state of the CPU as a list of named values: what registers() shows, what a digest covers, and what
 * a saved state consists of are this one table.
 *
 * Nothing else of Unicorn's CPU state is ever saved: the rest is constant, or computed from these values, or belongs
 * to the process (pointers).  On restore it comes from the image taken before the CPU first ran, so the bytes of a
 * saved state, which may be anything, reach only fields that a guest can set to anything. */
#include "core.h"

#include <stdio.h>
#include <string.h>

typedef enum { IN_HEAD, DEBUG_REGISTER, REGISTER, WIDE_REGISTER, MSR } Kind;
typedef struct {
    const char *name;
    uint8_t kind, size;
    uint32_t where; /* offset in CpuHead, number of a debug register, of a Unicorn register or of an MSR */
} Field;

#define HEAD(name, member) {name, IN_HEAD, sizeof(((CpuHead *)0)->member), offsetof(CpuHead, member)}
#define SEGMENT(name, member)                                                                                         \
    HEAD(name, member.selector), HEAD(name ".base", member.base), HEAD(name ".limit", member.limit),                  \
        HEAD(name ".flags", member.flags)
#define TABLE(name, member) HEAD(name ".base", member.base), HEAD(name ".limit", member.limit)
#define DR(number) {"dr" #number, DEBUG_REGISTER, 8, number}
#define FP(number) {"fp" #number, WIDE_REGISTER, 10, UC_X86_REG_FP##number}
#define XMM(number) {"xmm" #number, WIDE_REGISTER, 16, UC_X86_REG_XMM##number}

static const Field FIELDS[] = {
    HEAD("rax", regs[RAX]),
    HEAD("rcx", regs[RCX]),
    HEAD("rdx", regs[RDX]),
    HEAD("rbx", regs[RBX]),
    HEAD("rsp", regs[RSP]),
    HEAD("rbp", regs[RBP]),
    HEAD("rsi", regs[RSI]),
    HEAD("rdi", regs[RDI]),
    HEAD("r8", regs[R8]),
    HEAD("r9", regs[R9]),
    HEAD("r10", regs[R10]),
    HEAD("r11", regs[R11]),
    HEAD("r12", regs[R12]),
    HEAD("r13", regs[R13]),
    HEAD("r14", regs[R14]),
    HEAD("r15", regs[R15]),
    HEAD("rip", eip),
    HEAD("rflags", eflags),
    HEAD("hflags", hflags),
    SEGMENT("es", segs[ES]),
    SEGMENT("cs", segs[CS]),
    SEGMENT("ss", segs[SS]),
    SEGMENT("ds", segs[DS]),
    SEGMENT("fs", segs[FS]),
    SEGMENT("gs", segs[GS]),
    SEGMENT("ldtr", ldt),
    SEGMENT("tr", tr),
    TABLE("gdtr", gdt),
    TABLE("idtr", idt),
    HEAD("cr0", cr[0]),
    HEAD("cr2", cr[2]),
    HEAD("cr3", cr[3]),
    HEAD("cr4", cr[4]),
    DR(0), DR(1), DR(2), DR(3), DR(6), DR(7),
    {"efer", MSR, 8, MSR_EFER},
    {"star", MSR, 8, MSR_STAR},
    {"lstar", MSR, 8, MSR_LSTAR},
    {"cstar", MSR, 8, MSR_CSTAR},
    {"fmask", MSR, 8, MSR_FMASK},
    {"kernel_gs_base", MSR, 8, 0xc0000102},
    {"tsc_aux", MSR, 8, MSR_TSC_AUX},
    {"sysenter_cs", MSR, 8, MSR_SYSENTER_CS},
    {"sysenter_esp", MSR, 8, MSR_SYSENTER_ESP},
    {"sysenter_eip", MSR, 8, MSR_SYSENTER_EIP},
    {"pat", MSR, 8, 0x277},
    {"misc_enable", MSR, 8, 0x1a0},
    {"bndcfgs", MSR, 8, 0xd90},
    {"vm_hsave_pa", MSR, 8, 0xc0010117},
    {"mcg_status", MSR, 8, 0x17a},
    {"mcg_ctl", MSR, 8, 0x17b},
    {"mtrr_def_type", MSR, 8, 0x2ff},
    {"fpcw", REGISTER, 2, UC_X86_REG_FPCW},
    {"fpsw", REGISTER, 2, UC_X86_REG_FPSW},
    {"fptag", REGISTER, 2, UC_X86_REG_FPTAG},
    {"mxcsr", REGISTER, 4, UC_X86_REG_MXCSR},
    FP(0), FP(1), FP(2), FP(3), FP(4), FP(5), FP(6), FP(7),
    XMM(0), XMM(1), XMM(2), XMM(3), XMM(4), XMM(5), XMM(6), XMM(7),
    XMM(8), XMM(9), XMM(10), XMM(11), XMM(12), XMM(13), XMM(14), XMM(15),
};
enum { FIELD_COUNT = sizeof FIELDS / sizeof *FIELDS, RANGE_COUNT = 67 };
_Static_assert(FIELD_COUNT + RANGE_COUNT == STATE_VALUES, "core.h says how many values there are");

/* Registers that come by the dozen; shown as "msr.200". */
static const struct {
    uint32_t first, count;
} MSR_RANGES[] = {
    {0x200, 16}, /* MTRRs: variable ranges, */
    {0x250, 1}, {0x258, 2}, {0x268, 8}, /* fixed ranges */
    {0x400, 40}, /* machine check banks */
};

/* Every field, as visited: those of the table and those of the ranges. */
static void visit_fields(void visit(Core *core, const Field *field, StateValue *value), Core *core, StateValue *values)
{
    for (size_t i = 0; i < FIELD_COUNT; i++)
        visit(core, &FIELDS[i], values++);
    for (size_t range = 0; range < sizeof MSR_RANGES / sizeof *MSR_RANGES; range++)
        for (uint32_t i = 0; i < MSR_RANGES[range].count; i++)
            visit(core, &(Field){NULL, MSR, 8, MSR_RANGES[range].first + i}, values++);
}

/* ---- saving ------------------------------------------------------------------------------------------------- */

static void read_field(Core *core, const Field *field, StateValue *value)
{
    *value = (StateValue){0};
    switch ((Kind)field->kind) {
    case IN_HEAD:
        memcpy(value, (uint8_t *)core->cpu + field->where, field->size);
        break;
    case DEBUG_REGISTER:
        value->low = core->exception->dr[field->where];
        break;
    case REGISTER:
    case WIDE_REGISTER:
        UC(reg_read)(core->uc, (int)field->where, value);
        break;
    case MSR:
        value->low = cpu_msr(core, field->where);
        break;
    }
}

void state_save(Core *core, StateValue values[STATE_VALUES])
{
    uint64_t eflags = cpu_reg(core, UC_X86_REG_RFLAGS);
    cpu_load(core);
    core->cpu->eflags = eflags; /* condition codes and DF included, however lazily they are kept */
    core->cpu->hflags &= HF_SAVED;
    visit_fields(read_field, core, values);
}

void state_visit(Core *core, StateVisitor *visit, void *data)
{
    StateValue values[STATE_VALUES], *value = values;
    char name[16];
    state_save(core, values);
    for (size_t i = 0; i < FIELD_COUNT; i++, value++)
        visit(data, FIELDS[i].name, value, FIELDS[i].kind == WIDE_REGISTER);
    for (size_t range = 0; range < sizeof MSR_RANGES / sizeof *MSR_RANGES; range++)
        for (uint32_t i = 0; i < MSR_RANGES[range].count; i++, value++) {
            snprintf(name, sizeof name, "msr.%x", MSR_RANGES[range].first + i);
            visit(data, name, value, false);
        }
}

/* ---- restoring ---------------------------------------------------------------------------------------------- */

/* What Unicorn computes things from when it is written (rounding modes, the top of the x87 stack): through its
 * interface.  EFER is not: a guest's WRMSR, which this would be, cannot set LMA. */
static void write_register(Core *core, const Field *field, StateValue *value)
{
    if (field->kind == REGISTER || field->kind == WIDE_REGISTER)
        UC(reg_write)(core->uc, (int)field->where, value);
    else if (field->kind == MSR && field->where != MSR_EFER)
        cpu_set_msr(core, field->where, value->low);
}

static void write_head(Core *core, const Field *field, StateValue *value)
{
    if (field->kind == IN_HEAD)
        memcpy((uint8_t *)core->cpu + field->where, value, field->size);
    else if (field->kind == DEBUG_REGISTER)
        core->exception->dr[field->where] = value->low;
    else if (field->kind == MSR && field->where == MSR_EFER)
        *core->efer = value->low & EFER_SAVED;
}

void state_restore(Core *core, const StateValue values[STATE_VALUES])
{
    StateValue copy[STATE_VALUES];
    memcpy(copy, values, sizeof copy);
    uint64_t dr[8];
    for (size_t i = 0; i < FIELD_COUNT; i++)
        if (FIELDS[i].kind == DEBUG_REGISTER)
            dr[FIELDS[i].where] = values[i].low;
    backstage_set_breakpoints(core, dr, dr[7]); /* runs code: before everything else */
    cpu_load(core);
    CpuExceptionState live = *core->exception;

    UC(context_restore)(core->uc, core->reset_context);
    visit_fields(write_register, core, copy);
    cpu_load(core);
    visit_fields(write_head, core, copy);
    memcpy(core->exception->breakpoints, live.breakpoints, sizeof live.breakpoints);
    core->cpu->hflags &= HF_SAVED;
    cpu_put_eflags(core, core->cpu->eflags & EFLAGS_SAVED);
    cpu_store(core);
}
