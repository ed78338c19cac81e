/* What Unicorn leaves to its user: delivery of exceptions and interrupts through the IDT in real, 32-bit and 64-bit
 * mode, SYSCALL and SYSENTER, and the permission of IN and OUT.
 *
 * All of it works on the CPU state loaded into core->cpu, by the Intel SDM, volume 3, chapters 6 and 7.  A delivery
 * first does everything that can fault and then changes registers, so a fault in it finds the state untouched. */
#include "core.h"

#include <string.h>

enum {
    VECTOR_DE = 0,
    VECTOR_BP = 3,
    VECTOR_OF = 4,
    VECTOR_UD = 6,
    VECTOR_DF = 8,
    VECTOR_TS = 10,
    VECTOR_NP = 11,
    VECTOR_SS = 12,
    VECTOR_GP = 13,
    VECTOR_PF = 14,
    VECTOR_AC = 17,
};
enum { OPCODE_INT3 = 0xcc, OPCODE_INTO = 0xce };
enum { ERROR_EXTERNAL = 1, ERROR_IDT = 2 };

/* The second word of a descriptor. */
enum {
    DESC_TYPE_SHIFT = 8,
    DESC_CONFORMING = 1 << 10,
    DESC_CODE = 1 << 11,
    DESC_NOT_SYSTEM = 1 << 12,
    DESC_DPL_SHIFT = 13,
    DESC_PRESENT = 1 << 15,
    DESC_LONG = 1 << 21,
    DESC_BIG = 1 << 22,
    DESC_GRANULAR = 1 << 23,
};
enum { GATE_TASK = 5, GATE_INTERRUPT16 = 6, GATE_TRAP16 = 7, GATE_INTERRUPT32 = 14, GATE_TRAP32 = 15 };

typedef struct {
    int vector;
    uint32_t error;
    bool has_error;
    Cause cause;
    uint64_t eflags; /* with the condition codes in place */
} Event;

typedef struct {
    uint32_t low, high;
} Descriptor;

typedef struct {
    uint32_t type, ist;
    uint16_t selector;
    uint64_t offset;
} Gate;

static unsigned descriptor_dpl(Descriptor d)
{
    return (d.high >> DESC_DPL_SHIFT) & 3;
}

static uint32_t descriptor_base(Descriptor d)
{
    return d.low >> 16 | (d.high & 0xff) << 16 | (d.high & 0xff000000);
}

static uint32_t descriptor_limit(Descriptor d)
{
    uint32_t limit = (d.low & 0xffff) | (d.high & 0xf0000);
    return d.high & DESC_GRANULAR ? limit << 12 | 0xfff : limit;
}

static bool refuse(Fault *fault, int vector, uint32_t error)
{
    *fault = (Fault){vector, error};
    return false;
}

static bool read_descriptor(Core *core, uint32_t selector, uint32_t external, Descriptor *d, Fault *fault)
{
    const Segment *table = selector & 4 ? &core->cpu->ldt : &core->cpu->gdt;
    if ((selector & 0xfffc) == 0 || (selector | 7) > table->limit)
        return refuse(fault, VECTOR_GP, (selector & 0xfffc) | external);
    return cpu_read(core, table->base + (selector & 0xfff8), d, sizeof *d, fault);
}

/* Read the gate of *event* and check that it may be used. */
static bool read_gate(Core *core, const Event *event, size_t size, Gate *gate, Fault *fault)
{
    uint32_t words[4] = {0}, external = event->cause == CAUSE_SOFTWARE ? 0 : ERROR_EXTERNAL;
    uint32_t error = (uint32_t)event->vector * 8 | ERROR_IDT | external;
    if ((uint32_t)event->vector * size + size - 1 > core->cpu->idt.limit)
        return refuse(fault, VECTOR_GP, error);
    if (!cpu_read(core, core->cpu->idt.base + (uint64_t)event->vector * size, words, size, fault))
        return false;
    *gate = (Gate){
        .type = (words[1] >> DESC_TYPE_SHIFT) & 0x1f,
        .ist = words[1] & 7,
        .selector = (uint16_t)(words[0] >> 16),
        .offset = (words[0] & 0xffff) | (words[1] & 0xffff0000) | (uint64_t)words[2] << 32,
    };
    bool is_32_bit = gate->type == GATE_INTERRUPT32 || gate->type == GATE_TRAP32;
    bool is_16_bit = size == 8 && (gate->type == GATE_INTERRUPT16 || gate->type == GATE_TRAP16);
    if (!is_32_bit && !is_16_bit)
        return refuse(fault, VECTOR_GP, error);
    unsigned dpl = (words[1] >> DESC_DPL_SHIFT) & 3;
    if (event->cause == CAUSE_SOFTWARE && dpl < (core->cpu->hflags & HF_CPL))
        return refuse(fault, VECTOR_GP, error);
    if (!(words[1] & DESC_PRESENT))
        return refuse(fault, VECTOR_NP, error);
    return true;
}

/* Read the code segment that a gate names; *cpl is the privilege it will run at. */
static bool read_target(Core *core, const Event *event, const Gate *gate, Descriptor *code, unsigned *cpl, Fault *fault)
{
    uint32_t external = event->cause == CAUSE_SOFTWARE ? 0 : ERROR_EXTERNAL;
    uint32_t error = (gate->selector & 0xfffc) | external;
    if (!read_descriptor(core, gate->selector, external, code, fault))
        return false;
    unsigned dpl = descriptor_dpl(*code);
    if (!(code->high & DESC_NOT_SYSTEM) || !(code->high & DESC_CODE) || dpl > *cpl)
        return refuse(fault, VECTOR_GP, error);
    if (!(code->high & DESC_PRESENT))
        return refuse(fault, VECTOR_NP, error);
    if (!(code->high & DESC_CONFORMING))
        *cpl = dpl;
    return true;
}

static uint64_t handler_eflags(const Core *core, const Gate *gate)
{
    uint64_t cleared = EFLAGS_TF | EFLAGS_VM | EFLAGS_RF | EFLAGS_NT;
    if (!(gate->type & 1)) /* interrupt gates, not trap gates */
        cleared |= EFLAGS_IF;
    return core->cpu->eflags & ~cleared;
}

/* ---- real mode --------------------------------------------------------------------------------------------- */

static bool deliver_real(Core *core, const Event *event, Fault *fault)
{
    CpuHead *cpu = core->cpu;
    uint16_t entry[2];
    if ((uint32_t)event->vector * 4 + 3 > cpu->idt.limit)
        return refuse(fault, VECTOR_GP, 0);
    if (!cpu_read(core, cpu->idt.base + (uint64_t)event->vector * 4, entry, sizeof entry, fault))
        return false;
    uint16_t frame[3] = {(uint16_t)event->eflags, (uint16_t)cpu->segs[CS].selector, (uint16_t)cpu->eip};
    uint16_t sp = (uint16_t)cpu->regs[RSP];
    for (int i = 0; i < 3; i++) {
        sp -= 2;
        if (!cpu_write(core, cpu->segs[SS].base + sp, &frame[i], sizeof frame[i], fault))
            return false;
    }
    cpu->regs[RSP] = (cpu->regs[RSP] & ~0xffffull) | sp;
    cpu->eip = entry[0];
    cpu->segs[CS].selector = entry[1];
    cpu->segs[CS].base = (uint64_t)entry[1] << 4;
    cpu->eflags &= ~(uint64_t)(EFLAGS_IF | EFLAGS_TF | EFLAGS_AC | EFLAGS_RF);
    return true;
}

/* ---- 32-bit protected mode --------------------------------------------------------------------------------- */

typedef struct {
    uint32_t selector, pointer;
    Segment segment;
} Stack32;

/* The stack for privilege *cpl*, from the TSS. */
static bool read_tss_stack(Core *core, unsigned cpl, Stack32 *stack, Fault *fault)
{
    const Segment *tr = &core->cpu->tr;
    bool is_32_bit = (tr->flags >> DESC_TYPE_SHIFT) & 8;
    uint32_t at = is_32_bit ? 4 + 8 * cpl : 2 + 4 * cpl, words[2] = {0};
    uint16_t halves[2] = {0};
    if (at + (is_32_bit ? 7 : 3) > tr->limit)
        return refuse(fault, VECTOR_TS, tr->selector & 0xfffc);
    if (!cpu_read(core, tr->base + at, is_32_bit ? (void *)words : (void *)halves, is_32_bit ? 8 : 4, fault))
        return false;
    stack->pointer = is_32_bit ? words[0] : halves[0];
    stack->selector = is_32_bit ? words[1] & 0xffff : halves[1];
    Descriptor d;
    uint32_t error = stack->selector & 0xfffc;
    if (!read_descriptor(core, stack->selector, 0, &d, fault))
        return fault->vector == VECTOR_GP ? refuse(fault, VECTOR_TS, error) : false;
    bool is_writable_data = (d.high & (DESC_NOT_SYSTEM | DESC_CODE | 1 << 9)) == (DESC_NOT_SYSTEM | 1 << 9);
    if ((stack->selector & 3) != cpl || descriptor_dpl(d) != cpl || !is_writable_data)
        return refuse(fault, VECTOR_TS, error);
    if (!(d.high & DESC_PRESENT))
        return refuse(fault, VECTOR_SS, error);
    stack->segment = (Segment){.selector = stack->selector, .base = descriptor_base(d), .limit = descriptor_limit(d),
                               .flags = d.high};
    return true;
}

static bool push32(Core *core, Stack32 *stack, uint32_t value, unsigned width, Fault *fault)
{
    uint32_t mask = stack->segment.flags & DESC_BIG ? 0xffffffff : 0xffff;
    stack->pointer = (stack->pointer & ~mask) | ((stack->pointer - width) & mask);
    return cpu_write(core, (uint32_t)(stack->segment.base + (stack->pointer & mask)), &value, width, fault);
}

static bool deliver_protected(Core *core, const Event *event, Fault *fault)
{
    CpuHead *cpu = core->cpu;
    unsigned old_cpl = cpu->hflags & HF_CPL, cpl = old_cpl;
    bool from_v86 = event->eflags & EFLAGS_VM;
    Gate gate;
    Descriptor code;
    if (from_v86 && event->cause == CAUSE_SOFTWARE && ((event->eflags >> EFLAGS_IOPL_SHIFT) & 3) < 3)
        return refuse(fault, VECTOR_GP, 0);
    if (!read_gate(core, event, 8, &gate, fault) || !read_target(core, event, &gate, &code, &cpl, fault))
        return false;
    if (from_v86 && cpl != 0)
        return refuse(fault, VECTOR_GP, gate.selector & 0xfffc);

    unsigned width = gate.type >= GATE_INTERRUPT32 ? 4 : 2;
    bool is_inner = cpl < old_cpl;
    Stack32 stack = {.selector = cpu->segs[SS].selector, .pointer = (uint32_t)cpu->regs[RSP], .segment = cpu->segs[SS]};
    if (is_inner && !read_tss_stack(core, cpl, &stack, fault))
        return false;

    uint32_t frame[10];
    int count = 0;
    if (from_v86)
        for (int i = GS; i >= 0; i = i == GS ? FS : i == FS ? DS : i == DS ? ES : -1)
            frame[count++] = cpu->segs[i].selector;
    if (is_inner) {
        frame[count++] = cpu->segs[SS].selector;
        frame[count++] = (uint32_t)cpu->regs[RSP];
    }
    frame[count++] = (uint32_t)event->eflags;
    frame[count++] = cpu->segs[CS].selector;
    frame[count++] = (uint32_t)cpu->eip;
    if (event->has_error)
        frame[count++] = event->error;
    for (int i = 0; i < count; i++)
        if (!push32(core, &stack, frame[i], width, fault))
            return false;

    cpu->eflags = handler_eflags(core, &gate);
    if (from_v86)
        for (int i = 0; i < SEGMENTS; i++)
            if (i != CS && i != SS)
                cpu_put_segment(core, i, 0, 0, 0, 0);
    if (is_inner)
        cpu->segs[SS] = stack.segment;
    cpu->hflags = (cpu->hflags & ~(uint32_t)(HF_CPL | HF_CS32 | HF_CS64)) | cpl | (code.high & DESC_BIG ? HF_CS32 : 0);
    cpu->regs[RSP] = stack.pointer;
    cpu_put_segment(core, CS, (gate.selector & 0xfffcu) | cpl, descriptor_base(code), descriptor_limit(code), code.high);
    cpu_update_hflags(core);
    cpu->eip = width == 4 ? (uint32_t)gate.offset : (uint16_t)gate.offset;
    return true;
}

/* ---- 64-bit mode ------------------------------------------------------------------------------------------- */

static void enter_code64(Core *core, uint32_t selector, uint32_t limit, uint32_t flags)
{
    CpuHead *cpu = core->cpu;
    cpu_put_segment(core, CS, selector, 0, limit, flags);
    cpu->hflags |= HF_CS32 | HF_CS64;
    cpu->hflags &= ~(uint32_t)(HF_SS32 | HF_ADDSEG);
    cpu->hflags |= (cpu->segs[SS].flags & DESC_BIG) ? HF_SS32 : 0;
}

static void enter_stack(Core *core, uint32_t selector, uint32_t limit, uint32_t flags)
{
    cpu_put_segment(core, SS, selector, 0, limit, flags);
    core->cpu->hflags = (core->cpu->hflags & ~(uint32_t)HF_CPL) | ((flags >> DESC_DPL_SHIFT) & 3);
}

static bool deliver_long(Core *core, const Event *event, Fault *fault)
{
    CpuHead *cpu = core->cpu;
    unsigned old_cpl = cpu->hflags & HF_CPL, cpl = old_cpl;
    Gate gate;
    Descriptor code;
    if (!read_gate(core, event, 16, &gate, fault) || !read_target(core, event, &gate, &code, &cpl, fault))
        return false;
    if (!(code.high & DESC_LONG) || (code.high & DESC_BIG))
        return refuse(fault, VECTOR_GP, gate.selector & 0xfffc);

    uint64_t rsp = cpu->regs[RSP];
    bool is_new_stack = cpl < old_cpl || gate.ist != 0;
    if (is_new_stack) {
        uint32_t at = gate.ist != 0 ? 0x1c + 8 * gate.ist : 4 + 8 * cpl;
        if (at + 7 > cpu->tr.limit)
            return refuse(fault, VECTOR_TS, cpu->tr.selector & 0xfffc);
        if (!cpu_read(core, cpu->tr.base + at, &rsp, sizeof rsp, fault))
            return false;
    }
    uint64_t frame[6] = {event->error, cpu->eip, cpu->segs[CS].selector, event->eflags, cpu->regs[RSP],
                         cpu->segs[SS].selector};
    size_t skipped = event->has_error ? 0 : 1; /* the frame is 16-byte aligned before it is pushed */
    rsp = (rsp & ~15ull) - sizeof frame + 8 * skipped;
    if (!cpu_write(core, rsp, frame + skipped, sizeof frame - 8 * skipped, fault))
        return false;

    cpu->eflags = handler_eflags(core, &gate);
    if (is_new_stack)
        enter_stack(core, cpl, 0, cpl << DESC_DPL_SHIFT);
    cpu->regs[RSP] = rsp;
    enter_code64(core, (gate.selector & 0xfffcu) | cpl, descriptor_limit(code), code.high);
    cpu->eip = gate.offset;
    return true;
}

/* ---- what happens when delivery meets a fault --------------------------------------------------------------- */

static bool deliver_once(Core *core, const Event *event, Fault *fault)
{
    if (!(core->cpu->cr[0] & CR0_PE))
        return deliver_real(core, event, fault);
    if (!(core->cpu->hflags & HF_LMA))
        return deliver_protected(core, event, fault);
    return deliver_long(core, event, fault);
}

static bool is_contributory(int vector)
{
    return vector == VECTOR_DE || (vector >= VECTOR_TS && vector <= VECTOR_GP);
}

static bool has_error_code(int vector)
{
    return vector == VECTOR_DF || (vector >= VECTOR_TS && vector <= VECTOR_PF) || vector == VECTOR_AC;
}

/* SDM volume 3, table 6-5. */
static bool is_double_fault(const Event *first, int second)
{
    if (first->cause != CAUSE_EXCEPTION)
        return false;
    if (first->vector == VECTOR_PF)
        return second == VECTOR_PF || is_contributory(second);
    return is_contributory(first->vector) && is_contributory(second);
}

/* The length of the INT that eip is behind.  (With prefixes it may be longer; they do nothing.) */
static unsigned software_interrupt_length(Core *core, int vector)
{
    uint8_t last = 0;
    Fault unused;
    cpu_read(core, core->cpu->segs[CS].base + core->cpu->eip - 1, &last, 1, &unused);
    return (vector == VECTOR_BP && last == OPCODE_INT3) || (vector == VECTOR_OF && last == OPCODE_INTO) ? 1 : 2;
}

bool exception_deliver(Core *core, int vector, uint32_t error, Cause cause)
{
    Event event = {.vector = vector, .error = error, .cause = cause, .eflags = cpu_reg(core, UC_X86_REG_RFLAGS)};
    bool is_real = !(core->cpu->cr[0] & CR0_PE);
    uint64_t eip = core->cpu->eip;
    event.has_error = cause == CAUSE_EXCEPTION && has_error_code(vector) && !is_real;
    core->exception->old_exception = -1;
    core->straight = STRAIGHT_NOWHERE;
    Fault fault;
    while (!deliver_once(core, &event, &fault)) {
        if (event.vector == VECTOR_DF && event.cause == CAUSE_EXCEPTION) {
            engine_shut_down(core, "triple fault: exception %d (error code %#x) in the double fault handler's delivery, "
                             "first exception %d at %#llx", fault.vector, fault.error, vector,
                             (unsigned long long)core->cpu->eip);
            return false;
        }
        if (event.cause == CAUSE_SOFTWARE) /* a fault: the handler is to find the INT, not what follows it */
            core->cpu->eip -= software_interrupt_length(core, vector);
        if (is_double_fault(&event, fault.vector))
            fault = (Fault){VECTOR_DF, 0};
        event.vector = fault.vector;
        event.error = fault.error;
        event.cause = CAUSE_EXCEPTION;
        event.has_error = has_error_code(fault.vector) && !is_real;
    }
    if (core->system_watches != 0)
        watch_delivered(core, event.vector, event.cause == CAUSE_SOFTWARE, eip);
    return true;
}

/* ---- fast system calls -------------------------------------------------------------------------------------- */

enum { SYSTEM_CALL_LENGTH = 2 }; /* Unicorn adds this to eip after the hook */
enum { FLAGS_KERNEL_DATA = 0x00c09300, FLAGS_KERNEL_CODE64 = 0x00a09b00, FLAGS_KERNEL_CODE32 = 0x00c09b00 };

static void enter_kernel(Core *core, uint32_t cs, uint32_t ss, uint64_t target)
{
    CpuHead *cpu = core->cpu;
    enter_stack(core, ss, 0xffffffff, FLAGS_KERNEL_DATA);
    if (cpu->hflags & HF_LMA) {
        enter_code64(core, cs, 0xffffffff, FLAGS_KERNEL_CODE64);
    } else {
        cpu_put_segment(core, CS, cs, 0, 0xffffffff, FLAGS_KERNEL_CODE32);
        cpu->hflags = (cpu->hflags & ~(uint32_t)HF_CS64) | HF_CS32;
        cpu_update_hflags(core);
        target = (uint32_t)target;
    }
    cpu->eip = target - SYSTEM_CALL_LENGTH;
    core->exception->old_exception = -1;
    core->straight = STRAIGHT_NOWHERE;
}

void exception_syscall(Core *core)
{
    CpuHead *cpu = core->cpu;
    uint64_t star = cpu_msr(core, MSR_STAR), eflags = cpu_reg(core, UC_X86_REG_RFLAGS);
    uint32_t selector = (star >> 32) & 0xfffc;
    if (!(*core->efer & EFER_SCE)) {
        if (exception_deliver(core, VECTOR_UD, 0, CAUSE_EXCEPTION))
            cpu->eip -= SYSTEM_CALL_LENGTH;
    } else if (cpu->hflags & HF_LMA) {
        uint64_t target = cpu_msr(core, cpu->hflags & HF_CS64 ? MSR_LSTAR : MSR_CSTAR);
        cpu->regs[RCX] = cpu->eip + SYSTEM_CALL_LENGTH;
        cpu->regs[R11] = eflags & ~(uint64_t)EFLAGS_RF;
        cpu_put_eflags(core, eflags & ~(cpu_msr(core, MSR_FMASK) | EFLAGS_RF));
        enter_kernel(core, selector, selector + 8, target);
    } else {
        cpu->regs[RCX] = (uint32_t)(cpu->eip + SYSTEM_CALL_LENGTH);
        cpu->eflags &= ~(uint64_t)(EFLAGS_IF | EFLAGS_RF | EFLAGS_VM);
        enter_kernel(core, selector, selector + 8, (uint32_t)star);
    }
}

void exception_sysenter(Core *core)
{
    CpuHead *cpu = core->cpu;
    uint32_t selector = cpu_msr(core, MSR_SYSENTER_CS) & 0xfffc;
    if (selector == 0) {
        if (exception_deliver(core, VECTOR_GP, 0, CAUSE_EXCEPTION))
            cpu->eip -= SYSTEM_CALL_LENGTH;
        return;
    }
    uint64_t stack = cpu_msr(core, MSR_SYSENTER_ESP), target = cpu_msr(core, MSR_SYSENTER_EIP);
    cpu->eflags &= ~(uint64_t)(EFLAGS_IF | EFLAGS_RF | EFLAGS_VM);
    cpu->regs[RSP] = cpu->hflags & HF_LMA ? stack : (uint32_t)stack;
    enter_kernel(core, selector, selector + 8, target);
}

/* ---- IN and OUT --------------------------------------------------------------------------------------------- */

enum { TSS_IO_MAP_BASE = 0x66 };

bool exception_port_allowed(Core *core, uint32_t port, int size)
{
    CpuHead *cpu = core->cpu;
    unsigned cpl = cpu->hflags & HF_CPL, iopl = (cpu->eflags >> EFLAGS_IOPL_SHIFT) & 3;
    bool is_v86 = cpu->eflags & EFLAGS_VM;
    if (!(cpu->cr[0] & CR0_PE) || (cpl <= iopl && !is_v86))
        return true;
    bool is_tss32 = (cpu->tr.flags >> DESC_TYPE_SHIFT) & 8;
    uint16_t map = 0, bits = 0;
    Fault fault;
    if (!is_tss32 || cpu->tr.limit < TSS_IO_MAP_BASE + 1)
        return false;
    if (!cpu_read(core, cpu->tr.base + TSS_IO_MAP_BASE, &map, sizeof map, &fault))
        return false;
    if (map + port / 8 + 1 > cpu->tr.limit)
        return false;
    if (!cpu_read(core, cpu->tr.base + map + port / 8, &bits, sizeof bits, &fault))
        return false;
    return ((bits >> (port & 7)) & ((1u << size) - 1)) == 0;
}
