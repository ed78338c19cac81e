/* What Unicorn hands over: exceptions, SYSCALL and SYSENTER, CPUID and the TSC, ports and MMIO. */
#include "core.h"

enum { VECTOR_UD = 6, VECTOR_GP = 13 };

/* As many exceptions in a row without a single block executed: the handler itself cannot be fetched, for ever. */
enum { EXCEPTIONS_IN_PLACE = 1000 };

/* ---- exceptions --------------------------------------------------------------------------------------------- */

static void deliver_here(Core *core, int vector)
{
    cpu_load(core);
    uint32_t error = (uint32_t)core->exception->error_code;
    bool is_software = vector != VECTOR_UD && core->exception->is_software_interrupt;
    if (core->attention & ATTEND_COUNT)
        counting_leave(core, vector, is_software);
    if (core->attention & ATTEND_WATCH)
        watch_leave(core, vector, is_software);
    if (exception_deliver(core, vector, error, is_software ? CAUSE_SOFTWARE : CAUSE_EXCEPTION))
        cpu_store(core);
}

static void on_exception(uc_engine *uc, uint32_t vector, void *data)
{
    Core *core = data;
    (void)uc;
    if (core->attention & ATTEND_FAULT)
        return;
    if (core->exception_branches != core->branches) {
        core->exception_branches = core->branches;
        core->exceptions_in_place = 0;
    } else if (++core->exceptions_in_place > EXCEPTIONS_IN_PLACE) {
        engine_shut_down(core, "exception %u for ever: its handler at %#llx cannot be fetched", vector,
                         (unsigned long long)cpu_reg(core, UC_X86_REG_RIP));
        return;
    }
    deliver_here(core, (int)vector);
}

static bool on_invalid_instruction(uc_engine *uc, void *data)
{
    on_exception(uc, VECTOR_UD, data);
    return true;
}

static void enter_system(Core *core, void enter(Core *core))
{
    if (core->attention & ATTEND_FAULT)
        return;
    core->block.size = 0; /* they end it */
    cpu_load(core);
    if (core->system_watches != 0)
        watch_system_call(core);
    enter(core);
    cpu_store(core);
}

static void on_syscall(uc_engine *uc, void *data)
{
    (void)uc;
    enter_system(data, exception_syscall);
}

static void on_sysenter(uc_engine *uc, void *data)
{
    (void)uc;
    enter_system(data, exception_sysenter);
}

/* ---- instructions ------------------------------------------------------------------------------------------- */

static const CpuidLeaf *find_leaf(const Core *core, uint32_t leaf, uint32_t subleaf)
{
    static const CpuidLeaf NOTHING;
    const CpuidLeaf *found = &NOTHING;
    for (const CpuidLeaf *at = core->cpuid; at < core->cpuid + core->cpuid_count; at++) {
        if (at->key[0] == leaf && at->key[1] == subleaf)
            return at;
        if (at->key[0] == leaf && at->key[1] == 0)
            found = at;
    }
    return found;
}

static int on_cpuid(uc_engine *uc, void *data)
{
    static const int REGISTERS[] = {UC_X86_REG_RAX, UC_X86_REG_RBX, UC_X86_REG_RCX, UC_X86_REG_RDX};
    (void)uc;
    const CpuidLeaf *leaf = find_leaf(data, (uint32_t)cpu_reg(data, UC_X86_REG_EAX),
                                      (uint32_t)cpu_reg(data, UC_X86_REG_ECX));
    for (int i = 0; i < 4; i++)
        cpu_set_reg(data, REGISTERS[i], leaf->registers[i]);
    return 1;
}

static int on_rdtsc(uc_engine *uc, void *data)
{
    (void)uc;
    uint64_t now = engine_clock_ns(data);
    cpu_set_reg(data, UC_X86_REG_RAX, (uint32_t)now);
    cpu_set_reg(data, UC_X86_REG_RDX, now >> 32);
    return 1;
}

static int on_rdtscp(uc_engine *uc, void *data)
{
    cpu_set_reg(data, UC_X86_REG_RCX, (uint32_t)cpu_msr(data, MSR_TSC_AUX));
    return on_rdtsc(uc, data);
}

/* ---- devices ------------------------------------------------------------------------------------------------ */

/* IN and OUT without permission.  The instruction cannot be abandoned from its hook, so the state is kept, what
 * follows in the block is cut off from memory (by an empty page table, paging or not) and from devices, and #GP is
 * delivered when the engine has stopped. */
static void refuse_port(Core *core)
{
    UC(context_save)(core->uc, core->fault_context);
    core->port_fault = true;
    core->attention |= ATTEND_FAULT;
    core->cpu->cr[0] |= CR0_PG;
    core->cpu->cr[3] = BACKSTAGE_EMPTY_PAGE_TABLE;
    cpu_store(core);
    uc_ctl_flush_tlb(core->uc);
    UC(emu_stop)(core->uc);
}

static bool check_port(Core *core, uint32_t port, int size)
{
    if (unlikely(core->attention & ATTEND_FAULT))
        return false;
    uint64_t eflags = cpu_reg(core, UC_X86_REG_RFLAGS);
    uint16_t cs = 0;
    UC(reg_read)(core->uc, UC_X86_REG_CS, &cs);
    if (likely(!(eflags & EFLAGS_VM) && (cs & 3u) <= ((eflags >> EFLAGS_IOPL_SHIFT) & 3)))
        return true;
    cpu_load(core);
    if (exception_port_allowed(core, port, size))
        return true;
    cpu_load(core); /* a failed look at the TSS leaves its mark in CR2 */
    refuse_port(core);
    return false;
}

static uint32_t on_port_in(uc_engine *uc, uint32_t port, int size, void *data)
{
    Core *core = data;
    (void)uc;
    if (!check_port(core, port, size))
        return 0;
    core->is_at_port = true;
    uint32_t value = (uint32_t)core->callbacks->port_in(core, port & 0xffff, size);
    core->is_at_port = false;
    return value;
}

static void on_port_out(uc_engine *uc, uint32_t port, int size, uint32_t value, void *data)
{
    Core *core = data;
    (void)uc;
    if (!check_port(core, port, size))
        return;
    core->is_at_port = true;
    core->callbacks->port_out(core, port & 0xffff, size, value);
    core->is_at_port = false;
}

static uint64_t on_mmio_read(uc_engine *uc, uint64_t offset, unsigned size, void *data)
{
    MmioRegion *region = data;
    (void)uc;
    return region->core->callbacks->mmio_read(region->core, region->start + offset, size);
}

static void on_mmio_write(uc_engine *uc, uint64_t offset, unsigned size, uint64_t value, void *data)
{
    MmioRegion *region = data;
    (void)uc;
    region->core->callbacks->mmio_write(region->core, region->start + offset, size, value);
}

void intercept_deliver_port_fault(Core *core)
{
    UC(context_restore)(core->uc, core->fault_context);
    uc_ctl_flush_tlb(core->uc);
    core->port_fault = false;
    core->attention &= ~(uint32_t)ATTEND_FAULT;
    cpu_load(core);
    if (core->attention & ATTEND_COUNT)
        counting_leave(core, VECTOR_GP, false);
    if (core->attention & ATTEND_WATCH)
        watch_leave(core, VECTOR_GP, false);
    if (exception_deliver(core, VECTOR_GP, 0, CAUSE_EXCEPTION))
        cpu_store(core);
}

const char *intercept_map_mmio(Core *core, uint64_t start, uint64_t size)
{
    if (core->mmio_count == MMIO_REGIONS)
        return "too many MMIO regions";
    MmioRegion *region = &core->mmio[core->mmio_count];
    *region = (MmioRegion){core, start};
    uc_err error = UC(mmio_map)(core->uc, start, size, on_mmio_read, region, on_mmio_write, region);
    if (error != UC_ERR_OK)
        return UC(strerror)(error);
    core->mmio_count++;
    return NULL;
}

const char *intercept_init(Core *core)
{
    static const struct {
        int instruction;
        void *callback;
    } INSTRUCTIONS[] = {
        {UC_X86_INS_IN, on_port_in},        {UC_X86_INS_OUT, on_port_out}, {UC_X86_INS_SYSCALL, on_syscall},
        {UC_X86_INS_SYSENTER, on_sysenter}, {UC_X86_INS_CPUID, on_cpuid},  {UC_X86_INS_RDTSC, on_rdtsc},
        {UC_X86_INS_RDTSCP, on_rdtscp},
    };
    const char *failure = engine_add_hook(core, UC_HOOK_INTR, on_exception, 0);
    if (failure == NULL)
        failure = engine_add_hook(core, UC_HOOK_INSN_INVALID, on_invalid_instruction, 0);
    for (size_t i = 0; failure == NULL && i < sizeof INSTRUCTIONS / sizeof *INSTRUCTIONS; i++)
        failure = engine_add_hook(core, UC_HOOK_INSN, INSTRUCTIONS[i].callback, INSTRUCTIONS[i].instruction);
    return failure;
}
