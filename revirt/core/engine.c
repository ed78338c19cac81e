/* Hooks, the branch clock, running and stopping.
 *
 * Rules:
 * - Exactly one block hook: Unicorn inlines a single hook of a kind, a second one costs a third of the speed.
 * - Only the block hook and the instruction hook stop the engine.  Everything else sets Core.attention and is served
 *   at the next taken branch: uc_emu_stop() from elsewhere restarts the instruction that it lands on.
 * - A stop leaves Core.straight at the place it stopped, so that the block hook, which fires again there when the
 *   guest runs on, does not count the transfer twice.
 * - A block that writes to its own code is started over by Unicorn at the writing instruction, as a block of that one
 *   instruction; this counts as a transfer.  Running on from a stop there starts the whole block once more, which
 *   starts over once more: a transfer that is counted already.  `is_resuming` leaves it out. */
#define _GNU_SOURCE
#include "core.h"

#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { VECTOR_UD = 6, VECTOR_GP = 13 };

/* As many exceptions in a row without a single block executed: the handler itself cannot be fetched, for ever. */
enum { EXCEPTIONS_IN_PLACE = 1000 };

/* The core's own memory, beyond the 40 bits of physical address that the page tables of a guest can hold: code to
 * set the debug registers with, and a page table that maps nothing. */
enum { BACKSTAGE_SIZE = 2 * PAGE_SIZE };
static const uint64_t BACKSTAGE = 1ull << 51, EMPTY_PAGE_TABLE = BACKSTAGE + PAGE_SIZE;

_Thread_local sigjmp_buf *engine_rescue;

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
    core->attention &= ~(uint32_t)ATTEND_FLUSH;
}

/* Note that the page of linear *address* holds translated code. */
static void note_code(Core *core, uint64_t address)
{
    uint64_t physical;
    if (cpu_translate(core, address, &physical) && physical < core->ram_size)
        core->code_pages[physical / PAGE_SIZE] = 1;
}

static void on_translation(uc_engine *uc, uc_tb *block, uc_tb *previous, void *data)
{
    (void)uc, (void)previous;
    cpu_load(data);
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

static Stop reason_to_stop(Core *core, uint32_t attention, bool is_taken)
{
    if (is_taken && core->branches >= core->limit)
        return STOP_LIMIT;
    if (is_taken && (attention & ATTEND_REQUEST))
        return STOP_REQUEST;
    if (attention & ATTEND_FLUSH) /* anywhere: the very next block may be stale */
        return STOP_INTERNAL;
    if (is_taken && (attention & ATTEND_INTR) && is_interruptible(core))
        return STOP_INTERRUPTIBLE;
    return STOP_NONE;
}

/* Return whether the block at *address* is one that was counted before the guest was stopped. */
static bool is_resuming(Core *core, uint64_t address, uint32_t size)
{
    Resume expected = core->resume;
    core->resume = RESUME_NONE;
    core->attention &= ~(uint32_t)ATTEND_RESUME;
    if (expected == RESUME_NONE || address != core->resume_address)
        return false;
    if (expected == RESUME_BLOCK) {
        if (size != core->resume_size) {
            core->resume = RESUME_RESTART;
            core->attention |= ATTEND_RESUME;
        }
        return true;
    }
    if (size != core->resume_size)
        return false;
    /* The instruction hook sees the writing instruction once more as well. */
    if (core->instruction_hook != 0) {
        core->instructions--;
        core->steps_left++;
    }
    return true;
}

/* Prepare the block hook for coming to the block that it has stopped at. */
static void expect_resume(Core *core)
{
    core->resume = RESUME_NONE;
    if (core->stopped_size != 0 && core->straight != STRAIGHT_NOWHERE) {
        core->resume = RESUME_BLOCK;
        core->resume_address = core->straight;
        core->resume_size = core->stopped_size;
        core->straight = STRAIGHT_NOWHERE;
        core->attention |= ATTEND_RESUME;
    }
    core->stopped_size = 0;
}

/* The rare half of the block hook.  Returns whether the guest is to run on. */
static __attribute__((noinline)) bool attend(Core *core, uint64_t address, uint32_t size, bool is_taken)
{
    uint32_t attention = core->attention;
    if (attention & ATTEND_FAULT) {
        core->branches -= is_taken;
        return false;
    }
    if ((attention & ATTEND_RESUME) && is_taken && is_resuming(core, address, size)) {
        core->branches--;
        is_taken = false;
    }
    core->stop = reason_to_stop(core, attention, is_taken);
    if (core->stop == STOP_NONE)
        return true;
    core->straight = address;
    core->stopped_size = size;
    UC(emu_stop)(core->uc);
    return false;
}

static void on_block(uc_engine *uc, uint64_t address, uint32_t size, void *data)
{
    Core *core = data;
    (void)uc;
    bool is_taken = address != core->straight;
    core->branches += is_taken;
    bool is_quiet = atomic_load_explicit(&core->attention, memory_order_relaxed) == 0 && core->branches < core->limit;
    if (likely(is_quiet) || attend(core, address, size, is_taken))
        core->straight = address + size;
}

static void on_instruction(uc_engine *uc, uint64_t address, uint32_t size, void *data)
{
    Core *core = data;
    (void)size;
    if (core->stop != STOP_NONE || (core->attention & ATTEND_FAULT)) /* the block hook, or an IN, has just stopped here */
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
    core->cpu->cr[3] = EMPTY_PAGE_TABLE;
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
    return region->core->callbacks->mmio_read(region->core, region->start + offset, size);
}

static void on_mmio_write(uc_engine *uc, uint64_t offset, unsigned size, uint64_t value, void *data)
{
    MmioRegion *region = data;
    (void)uc;
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

/* libunicorn gives up by abort(), which a guest can bring about (a call gate with no TSS loaded).  Its helpers leave
 * by longjmp() for every exception, so leaving the same way here loses no more than that does. */
static struct sigaction action_before;

static void on_abort(int number, siginfo_t *info, void *context)
{
    (void)context;
    if (engine_rescue != NULL && info->si_code == SI_TKILL)
        siglongjmp(*engine_rescue, 1);
    sigaction(number, &action_before, NULL);
    raise(number); /* held back until this handler returns */
}

static void catch_aborts(void)
{
    static bool is_done;
    struct sigaction action = {.sa_sigaction = on_abort, .sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK};
    if (!is_done)
        is_done = sigaction(SIGABRT, &action, &action_before) == 0;
}

static uc_err start_emulation(Core *core)
{
    sigjmp_buf rescue;
    uc_err error = UC_ERR_OK;
    core->is_running = true;
    if (sigsetjmp(rescue, 0) == 0) {
        engine_rescue = &rescue;
        error = UC(emu_start)(core->uc, cpu_reg(core, UC_X86_REG_RIP), 0, 0, 0);
    } else {
        core->is_running = false;
        engine_shut_down(core, "the guest did what Unicorn refuses to emulate, and it gave up");
    }
    engine_rescue = NULL;
    core->is_running = false;
    return error;
}

static Stop run_once(Core *core)
{
    if (core->attention & ATTEND_FLUSH)
        engine_drop_translations(core);
    core->stop = STOP_NONE;
    expect_resume(core);
    uc_err error = start_emulation(core);
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
        /* Deleting a hook makes Unicorn look up every address that it was called for, which leaves the ones that are
         * not mapped now in CR2. */
        cpu_load(core);
        UC(hook_del)(core->uc, core->instruction_hook);
        cpu_store(core);
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
    core->resume = RESUME_NONE;
    core->attention &= ATTEND_INTR;
    core->exceptions_in_place = 0;
    uc_ctl_flush_tlb(core->uc);
    engine_drop_translations(core);
}

/* ---- breakpoints -------------------------------------------------------------------------------------------- */

/* Unicorn inserts a guest's hardware breakpoints when the guest executes MOV to a debug register, and at no other
 * time.  So this code is executed: the old ones go, the new ones come. */
static const uint8_t SET_BREAKPOINTS[] = {
    0x0f, 0x23, 0xff, /* mov dr7, rdi */
    0x0f, 0x23, 0xc0, /* mov dr0, rax */
    0x0f, 0x23, 0xc9, /* mov dr1, rcx */
    0x0f, 0x23, 0xd2, /* mov dr2, rdx */
    0x0f, 0x23, 0xdb, /* mov dr3, rbx */
    0x0f, 0x23, 0xfd, /* mov dr7, rbp */
    0xf4,             /* hlt */
};
/* Five copies: one of them has none of four breakpoints in it. */
enum { COPIES = 5, COPY_STRIDE = 64 };

static uint64_t undisturbed_copy(const uint64_t addresses[4])
{
    for (uint64_t copy = BACKSTAGE;; copy += COPY_STRIDE) {
        bool is_hit = false;
        for (int i = 0; i < 4; i++)
            is_hit |= addresses[i] - copy < COPY_STRIDE;
        if (!is_hit)
            return copy;
    }
}

static void run_backstage(Core *core, const uint64_t addresses[4], uint64_t dr7)
{
    uint64_t branches = core->branches, straight = core->straight, instructions = core->instructions;
    uint32_t attention = atomic_exchange(&core->attention, 0);
    CpuHead *cpu = core->cpu;
    cpu_load(core);
    cpu->hflags = HF_PE | HF_LMA | HF_CS64 | HF_CS32 | HF_SS32;
    cpu->cr[0] = CR0_PE | CR0_ET;
    cpu_put_eflags(core, 2);
    memcpy(cpu->regs, addresses, 4 * sizeof *addresses); /* RAX, RCX, RDX, RBX */
    cpu->regs[RBP] = dr7;
    cpu->regs[RDI] = 0;
    cpu->eip = undisturbed_copy(addresses);
    cpu_store(core);
    uc_ctl_flush_tlb(core->uc);
    core->limit = UINT64_MAX;
    start_emulation(core);
    core->branches = branches;
    core->straight = straight;
    core->instructions = instructions;
    core->attention |= attention;
}

void engine_set_breakpoints(Core *core, const uint64_t addresses[4], uint64_t dr7)
{
    cpu_load(core);
    if ((core->exception->dr[7] | dr7) & DR7_ENABLE)
        run_backstage(core, addresses, dr7);
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

static uint8_t *map_memory(uint64_t size)
{
    void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return memory == MAP_FAILED ? NULL : memory;
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
    if (error == UC_ERR_OK)
        error = UC(context_alloc)(core->uc, &core->reset_context);
    if (error == UC_ERR_OK)
        error = UC(context_save)(core->uc, core->reset_context);
    if (error != UC_ERR_OK)
        return UC(strerror)(error);
    const char *mismatch = cpu_layout_find(core);
    if (mismatch != NULL)
        return mismatch;

    core->ram = map_memory(core->ram_size);
    core->backstage = map_memory(BACKSTAGE_SIZE);
    if (core->ram == NULL || core->backstage == NULL)
        return "not enough memory for the guest's RAM";
    for (int copy = 0; copy < COPIES; copy++)
        memcpy(core->backstage + copy * COPY_STRIDE, SET_BREAKPOINTS, sizeof SET_BREAKPOINTS);
    core->code_pages = calloc(core->ram_size / PAGE_SIZE, 1);
    if (core->code_pages == NULL || !pages_init(core, track_writes))
        return "not enough memory for page tables";
    error = UC(mem_map_ptr)(core->uc, 0, core->ram_size, UC_PROT_ALL, core->ram);
    if (error == UC_ERR_OK)
        error = UC(mem_map_ptr)(core->uc, BACKSTAGE, BACKSTAGE_SIZE, UC_PROT_ALL, core->backstage);
    if (error == UC_ERR_OK)
        error = uc_ctl_exits_enable(core->uc); /* or the address in `until` becomes a HLT in the guest's code */
    if (error != UC_ERR_OK)
        return UC(strerror)(error);
    const char *failure = add_hooks(core);
    if (failure != NULL)
        return failure;
    core->ns_per_branch = 1;
    catch_aborts();
    UC(context_restore)(core->uc, core->reset_context);
    state_save(core, core->reset_values);
    /* Whatever runs first: on_translation is called for every block but an engine's very first. */
    run_backstage(core, (uint64_t[4]){0}, 0);
    cpu_start(core, &(CpuStart){.mode = MODE_REAL});
    return NULL;
}

void engine_deinit(Core *core)
{
    if (core->context != NULL)
        UC(context_free)(core->context);
    if (core->fault_context != NULL)
        UC(context_free)(core->fault_context);
    if (core->reset_context != NULL)
        UC(context_free)(core->reset_context);
    if (core->uc != NULL)
        UC(close)(core->uc);
    pages_deinit(core);
    free(core->code_pages);
    if (core->ram != NULL)
        munmap(core->ram, core->ram_size);
    if (core->backstage != NULL)
        munmap(core->backstage, BACKSTAGE_SIZE);
}
