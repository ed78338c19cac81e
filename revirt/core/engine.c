/* Hooks, the branch clock, running and stopping.
 *
 * Rules:
 * - Exactly one block hook: Unicorn inlines a single hook of a kind, a second one costs a third of the speed.
 * - Only the block hook and the instruction hook stop the engine.  Everything else sets Core.attention and is served
 *   at the next taken branch: uc_emu_stop() from elsewhere restarts the instruction that it lands on.
 * - A stop leaves Core.straight at the place it stopped, so that the block hook, which fires again there when the
 *   guest runs on, does not count the transfer twice. */
#define _GNU_SOURCE
#include "core.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { VECTOR_UD = 6, VECTOR_GP = 13 };

/* As many exceptions in a row without a single block executed: the handler itself cannot be fetched, for ever. */
enum { EXCEPTIONS_IN_PLACE = 1000 };

/* A page table that maps nothing: MMIO, and mmio_read answers 0 there while an IN or OUT is being refused. */
static const uint64_t EMPTY_PAGE_TABLE = 0xfedff000;

uint64_t engine_clock_ns(const Core *core)
{
    return core->clock_base_ns + (core->branches - core->clock_base_branches) * core->ns_per_branch;
}

void engine_shut_down(Core *core, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(core->fault, sizeof core->fault, format, arguments);
    va_end(arguments);
    core->stop = STOP_SHUTDOWN;
    core->attention |= ATTEND_FAULT;
    if (core->is_running)
        UC(emu_stop)(core->uc);
}

/* ---- translated code ---------------------------------------------------------------------------------------- */

void engine_drop_translations(Core *core)
{
    uc_ctl_flush_tb(core->uc);
    memset(core->code_pages, 0, core->ram_size / PAGE_SIZE);
    memset(core->code_seen, 0xff, sizeof core->code_seen);
    core->attention &= ~(uint32_t)ATTEND_FLUSH;
}

/* Note that the page of linear *address* holds translated code. */
static void note_code(Core *core, uint64_t address)
{
    uint64_t key = (address >> PAGE_SHIFT) ^ (cpu_reg(core, UC_X86_REG_CR3) << 24), physical;
    uint64_t *seen = &core->code_seen[(key ^ key >> 24) % CODE_SEEN];
    if (*seen == key)
        return;
    *seen = key;
    cpu_load(core);
    if (cpu_translate(core, address, &physical) && physical < core->ram_size)
        core->code_pages[physical / PAGE_SIZE] = 1;
}

static void on_translation(uc_engine *uc, uc_tb *block, uc_tb *previous, void *data)
{
    (void)uc, (void)previous;
    note_code(data, block->pc);
    if (((block->pc + block->size - 1) ^ block->pc) >> PAGE_SHIFT)
        note_code(data, block->pc + block->size - 1);
}

void engine_written(Core *core, uint64_t start, uint64_t size)
{
    if (size == 0 || start >= core->ram_size)
        return;
    uint64_t last = (size > core->ram_size - start ? core->ram_size : start + size) - 1;
    for (uint64_t page = start / PAGE_SIZE; page <= last / PAGE_SIZE; page++)
        if (core->code_pages[page]) {
            core->attention |= ATTEND_FLUSH;
            return;
        }
}

/* ---- the clock ---------------------------------------------------------------------------------------------- */

static bool is_interruptible(Core *core)
{
    return cpu_reg(core, UC_X86_REG_RFLAGS) & EFLAGS_IF;
}

static Stop reason_to_stop(Core *core)
{
    uint32_t attention = core->attention;
    if (core->branches >= core->limit)
        return STOP_LIMIT;
    if (attention & ATTEND_REQUEST)
        return STOP_REQUEST;
    if (attention & ATTEND_FLUSH)
        return STOP_INTERNAL;
    if ((attention & ATTEND_INTR) && is_interruptible(core))
        return STOP_INTERRUPTIBLE;
    return STOP_NONE;
}

static void on_block(uc_engine *uc, uint64_t address, uint32_t size, void *data)
{
    Core *core = data;
    if (address != core->straight) {
        uint32_t attention = atomic_load_explicit(&core->attention, memory_order_relaxed);
        if (unlikely(attention & ATTEND_FAULT))
            return;
        core->branches++;
        if (unlikely(attention != 0 || core->branches >= core->limit)) {
            core->stop = reason_to_stop(core);
            if (core->stop != STOP_NONE) {
                core->straight = address;
                UC(emu_stop)(uc);
                return;
            }
        }
    }
    core->straight = address + size;
}

static void on_instruction(uc_engine *uc, uint64_t address, uint32_t size, void *data)
{
    Core *core = data;
    (void)size;
    if (core->stop != STOP_NONE) /* the block hook has just stopped here */
        return;
    if (core->stepping && core->steps_left-- == 0) {
        core->stop = STOP_STEPS;
        core->straight = address;
        UC(emu_stop)(uc);
        return;
    }
    core->instructions++;
}

/* ---- exceptions and instructions that are ours --------------------------------------------------------------- */

static void deliver_here(Core *core, int vector)
{
    cpu_load(core);
    uint32_t error = (uint32_t)core->exception->error_code;
    bool is_software = vector != VECTOR_UD && core->exception->is_software_interrupt;
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

static void on_syscall(uc_engine *uc, void *data)
{
    Core *core = data;
    (void)uc;
    if (core->attention & ATTEND_FAULT)
        return;
    cpu_load(core);
    exception_syscall(core);
    cpu_store(core);
}

static void on_sysenter(uc_engine *uc, void *data)
{
    Core *core = data;
    (void)uc;
    if (core->attention & ATTEND_FAULT)
        return;
    cpu_load(core);
    exception_sysenter(core);
    cpu_store(core);
}

static const CpuidLeaf *find_leaf(const Core *core, uint32_t leaf, uint32_t subleaf)
{
    const CpuidLeaf *found = NULL;
    for (const CpuidLeaf *at = core->cpuid; at < core->cpuid + core->cpuid_count; at++) {
        if (at->leaf == leaf && at->subleaf == subleaf)
            return at;
        if (at->leaf == leaf && at->subleaf == 0)
            found = at;
    }
    return found;
}

static int on_cpuid(uc_engine *uc, void *data)
{
    Core *core = data;
    (void)uc;
    static const CpuidLeaf NOTHING;
    uint32_t leaf = (uint32_t)cpu_reg(core, UC_X86_REG_EAX), subleaf = (uint32_t)cpu_reg(core, UC_X86_REG_ECX);
    const CpuidLeaf *found = find_leaf(core, leaf, subleaf);
    if (found == NULL)
        found = &NOTHING;
    cpu_set_reg(core, UC_X86_REG_RAX, found->eax);
    cpu_set_reg(core, UC_X86_REG_RBX, found->ebx);
    cpu_set_reg(core, UC_X86_REG_RCX, found->ecx);
    cpu_set_reg(core, UC_X86_REG_RDX, found->edx);
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
    cpu_set_reg(data, UC_X86_REG_RCX, (uint32_t)cpu_msr(data, 0xc0000103));
    return on_rdtsc(uc, data);
}

/* ---- devices ------------------------------------------------------------------------------------------------ */

/* IN and OUT without permission.  The instruction cannot be abandoned from its hook, so the state is kept, what
 * follows in the block is cut off from memory, and #GP is delivered when the engine has stopped. */
static void refuse_port(Core *core)
{
    UC(context_save)(core->uc, core->fault_context);
    core->port_fault = true;
    core->attention |= ATTEND_FAULT;
    if (core->cpu->cr[0] & CR0_PG) {
        core->cpu->cr[3] = EMPTY_PAGE_TABLE;
        cpu_store(core);
        uc_ctl_flush_tlb(core->uc);
    }
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
    return check_port(core, port, size) ? (uint32_t)core->callbacks->port_in(core, port & 0xffff, size) : 0;
}

static void on_port_out(uc_engine *uc, uint32_t port, int size, uint32_t value, void *data)
{
    Core *core = data;
    (void)uc;
    if (check_port(core, port, size))
        core->callbacks->port_out(core, port & 0xffff, size, value);
}

static uint64_t on_mmio_read(uc_engine *uc, uint64_t offset, unsigned size, void *data)
{
    MmioRegion *region = data;
    (void)uc;
    if (region->core->attention & ATTEND_FAULT)
        return 0;
    return region->core->callbacks->mmio_read(region->core, region->start + offset, size);
}

static void on_mmio_write(uc_engine *uc, uint64_t offset, unsigned size, uint64_t value, void *data)
{
    MmioRegion *region = data;
    (void)uc;
    if (!(region->core->attention & ATTEND_FAULT))
        region->core->callbacks->mmio_write(region->core, region->start + offset, size, value);
}

const char *engine_map_mmio(Core *core, uint64_t start, uint64_t size)
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

/* ---- running ------------------------------------------------------------------------------------------------ */

static void deliver_port_fault(Core *core)
{
    UC(context_restore)(core->uc, core->fault_context);
    uc_ctl_flush_tlb(core->uc);
    core->port_fault = false;
    core->attention &= ~(uint32_t)ATTEND_FAULT;
    cpu_load(core);
    if (exception_deliver(core, VECTOR_GP, 0, CAUSE_EXCEPTION))
        cpu_store(core);
}

static Stop run_once(Core *core)
{
    uint64_t pc = cpu_reg(core, UC_X86_REG_RIP);
    if (core->attention & ATTEND_FLUSH)
        engine_drop_translations(core);
    cpu_load(core);
    note_code(core, core->cpu->segs[CS].base + pc);
    core->stop = STOP_NONE;
    core->is_running = true;
    uc_err error = UC(emu_start)(core->uc, pc, 0, 0, 0);
    core->is_running = false;
    if (core->port_fault && core->stop != STOP_SHUTDOWN) {
        deliver_port_fault(core);
        return core->stop == STOP_SHUTDOWN ? STOP_SHUTDOWN : STOP_INTERNAL;
    }
    if (error != UC_ERR_OK && core->stop != STOP_SHUTDOWN)
        engine_shut_down(core, "%s at %#llx", UC(strerror)(error), (unsigned long long)cpu_reg(core, UC_X86_REG_RIP));
    if (core->stop == STOP_NONE)
        return STOP_HALT; /* nobody stopped it */
    if (core->stop == STOP_REQUEST)
        core->attention &= ~(uint32_t)ATTEND_REQUEST;
    return core->stop;
}

Stop engine_run(Core *core, uint64_t limit)
{
    Stop stop;
    if (core->fault[0] != '\0')
        return STOP_SHUTDOWN;
    if (core->branches >= limit)
        return STOP_LIMIT;
    core->limit = limit;
    do
        stop = run_once(core);
    while (stop == STOP_INTERNAL);
    return stop;
}

static void update_instruction_hook(Core *core)
{
    bool is_wanted = core->counting || core->stepping, is_installed = core->instruction_hook != 0;
    if (is_wanted == is_installed)
        return;
    if (is_wanted) {
        UC(hook_add)(core->uc, &core->instruction_hook, UC_HOOK_CODE, on_instruction, core, 1, 0);
    } else {
        UC(hook_del)(core->uc, core->instruction_hook);
        core->instruction_hook = 0;
    }
    engine_drop_translations(core); /* hooks do not reach code that is translated already */
}

void engine_set_counting(Core *core, bool on)
{
    core->counting = on;
    update_instruction_hook(core);
}

Stop engine_step(Core *core, uint64_t count)
{
    core->stepping = true;
    core->steps_left = count;
    update_instruction_hook(core);
    Stop stop = engine_run(core, UINT64_MAX);
    core->stepping = false;
    update_instruction_hook(core);
    return stop;
}

void engine_interrupt(Core *core, int vector)
{
    cpu_load(core);
    if (exception_deliver(core, vector, 0, CAUSE_EXTERNAL))
        cpu_store(core);
}

void engine_adopt_state(Core *core)
{
    core->fault[0] = '\0';
    core->port_fault = false;
    core->stop = STOP_NONE;
    core->attention &= ATTEND_INTR;
    core->exceptions_in_place = 0;
    cpu_store(core);
    uc_ctl_flush_tlb(core->uc);
    engine_drop_translations(core);
}

/* ---- life --------------------------------------------------------------------------------------------------- */

static const char *add_hooks(Core *core)
{
    const struct {
        int type;
        void *callback;
        int instruction;
    } hooks[] = {
        {UC_HOOK_BLOCK, on_block, 0},
        {UC_HOOK_EDGE_GENERATED, on_translation, 0},
        {UC_HOOK_INTR, on_exception, 0},
        {UC_HOOK_INSN_INVALID, on_invalid_instruction, 0},
        {UC_HOOK_INSN, on_port_in, UC_X86_INS_IN},
        {UC_HOOK_INSN, on_port_out, UC_X86_INS_OUT},
        {UC_HOOK_INSN, on_syscall, UC_X86_INS_SYSCALL},
        {UC_HOOK_INSN, on_sysenter, UC_X86_INS_SYSENTER},
        {UC_HOOK_INSN, on_cpuid, UC_X86_INS_CPUID},
        {UC_HOOK_INSN, on_rdtsc, UC_X86_INS_RDTSC},
        {UC_HOOK_INSN, on_rdtscp, UC_X86_INS_RDTSCP},
    };
    for (size_t i = 0; i < sizeof hooks / sizeof *hooks; i++) {
        uc_hook handle;
        uc_err error = UC(hook_add)(core->uc, &handle, hooks[i].type, hooks[i].callback, core, (uint64_t)1, (uint64_t)0,
                                    hooks[i].instruction);
        if (error != UC_ERR_OK)
            return UC(strerror)(error);
    }
    return NULL;
}

const char *engine_init(Core *core, size_t translation_buffer, bool track_writes)
{
    uc_err error = UC(open)(UC_ARCH_X86, UC_MODE_64, &core->uc);
    /* Before everything else.  Nehalem: later models offer RDRAND, AVX and XSAVE, which are the host's. */
    if (error == UC_ERR_OK)
        error = uc_ctl_set_cpu_model(core->uc, UC_CPU_X86_NEHALEM);
    if (error == UC_ERR_OK && translation_buffer != 0)
        error = uc_ctl_set_tcg_buffer_size(core->uc, (uint32_t)translation_buffer);
    if (error == UC_ERR_OK)
        error = UC(context_alloc)(core->uc, &core->context);
    if (error == UC_ERR_OK)
        error = UC(context_alloc)(core->uc, &core->fault_context);
    if (error != UC_ERR_OK)
        return UC(strerror)(error);
    const char *mismatch = cpu_layout_find(core);
    if (mismatch != NULL)
        return mismatch;

    void *ram = mmap(NULL, core->ram_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (ram == MAP_FAILED)
        return "not enough memory for the guest's RAM";
    core->ram = ram;
    core->code_pages = calloc(core->ram_size / PAGE_SIZE, 1);
    if (core->code_pages == NULL || !pages_init(core, track_writes))
        return "not enough memory for page tables";
    error = UC(mem_map_ptr)(core->uc, 0, core->ram_size, UC_PROT_ALL, core->ram);
    if (error == UC_ERR_OK)
        error = uc_ctl_exits_enable(core->uc); /* or the address in `until` becomes a HLT in the guest's code */
    if (error != UC_ERR_OK)
        return UC(strerror)(error);
    const char *failure = add_hooks(core);
    if (failure != NULL)
        return failure;
    core->ns_per_branch = 1;
    cpu_start(core, &(CpuStart){.mode = MODE_REAL});
    return NULL;
}

void engine_deinit(Core *core)
{
    if (core->context != NULL)
        UC(context_free)(core->context);
    if (core->fault_context != NULL)
        UC(context_free)(core->fault_context);
    if (core->uc != NULL)
        UC(close)(core->uc);
    pages_deinit(core);
    free(core->code_pages);
    if (core->ram != NULL)
        munmap(core->ram, core->ram_size);
}
