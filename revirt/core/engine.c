/* The branch clock, running and stopping.
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
    counting_forget(core);
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
    if (backstage_is_lost(data, block->pc, block->size))
        engine_shut_down(data, "the guest set a hardware breakpoint at %#llx, in a code segment whose base is not 0",
                         (unsigned long long)block->pc);
    note_code(data, block->pc);
    if (((block->pc + block->size - 1) ^ block->pc) >> PAGE_SHIFT)
        note_code(data, block->pc + block->size - 1);
    if (((Core *)data)->attention & ATTEND_COUNT)
        counting_note(data, block);
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

void engine_set_intr(Core *core, bool level)
{
    bool was_high = core->attention & ATTEND_INTR;
    if (level == was_high)
        return;
    core->window.line = level && !core->is_running ? core->branches : NO_LINE;
    if (level)
        core->attention |= ATTEND_INTR;
    else
        core->attention &= ~(uint32_t)ATTEND_INTR;
}

/* Return whether the guest begins to let interrupts in where this block begins; INTR is high. */
static bool is_window(Core *core, uint64_t address, uint32_t size, bool is_taken)
{
    Window *window = &core->window;
    if (is_taken)
        window->line = core->branches;
    if (window->line != core->branches)
        return false;
    bool is_open = is_interruptible(core);
    if (is_open) {
        cpu_load(core);
        is_open = !(core->cpu->hflags & HF_INHIBIT_IRQ);
    }
    bool was_shut = window->shut_branches == core->branches && window->shut_end == address;
    window->shut_branches = is_open ? NO_LINE : core->branches;
    window->shut_end = address + size;
    return is_open && was_shut && !is_taken;
}

static Stop reason_to_stop(Core *core, uint32_t attention, bool is_taken)
{
    if (is_taken && (attention & ATTEND_HIT))
        return STOP_WATCH;
    if (is_taken && core->branches >= core->limit)
        return STOP_LIMIT;
    if (is_taken && (attention & ATTEND_REQUEST))
        return STOP_REQUEST;
    /* Anywhere, for the very next block may be stale; but what is to come of a block that starts over is not lost. */
    if ((attention & (ATTEND_FLUSH | ATTEND_RESTART)) && core->resume == RESUME_NONE)
        return STOP_INTERNAL;
    if (is_taken && (attention & ATTEND_INTR) && is_interruptible(core))
        return STOP_INTERRUPTIBLE;
    if ((attention & ATTEND_STEPS) && core->steps_left == 0 && core->resume == RESUME_NONE)
        return STOP_STEPS;
    return STOP_NONE;
}

/* Return whether the block at *address* is one that was counted before the guest was stopped. */
static bool is_resuming(Core *core, uint64_t address, uint32_t size, bool is_taken)
{
    Resume expected = core->resume;
    core->resume = RESUME_NONE;
    core->attention &= ~(uint32_t)ATTEND_RESUME;
    if (!is_taken || expected == RESUME_NONE || address != core->resume_address)
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
    /* The writing instruction was counted once more as well. */
    if (core->counting || core->stepping) {
        core->instructions--;
        core->steps_left++;
    }
    if (core->attention & ATTEND_WATCH)
        watch_forget_restart(core);
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
    if (attention & ATTEND_COUNT)
        counting_arrive(core, address, size);
    if (attention & ATTEND_WATCH) {
        watch_arrive(core, address, size);
        attention = core->attention;
    }
    if ((attention & ATTEND_RESUME) && is_resuming(core, address, size, is_taken)) {
        core->branches--;
        is_taken = false;
    }
    if (attention & ATTEND_WATCH)
        attention &= ~watch_look_at_undone(core, address);
    bool is_let_in = (attention & ATTEND_INTR) && core->window.is_looked_for && is_window(core, address, size, is_taken);
    core->stop = is_let_in ? STOP_HALT : reason_to_stop(core, attention, is_taken);
    if (attention & ATTEND_WATCH)
        watch_settle_undone(core, address, core->stop == STOP_NONE);
    if (core->stop == STOP_NONE) {
        if (attention & ATTEND_COUNT)
            counting_begin(core, address, size);
        if (attention & ATTEND_WATCH)
            watch_begin(core, address, size);
        return true;
    }
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
    if (core->stepping && core->steps_left == 0 && !(core->attention & ATTEND_STEPS)) {
        core->stop = STOP_STEPS;
        core->straight = address;
        UC(emu_stop)(uc);
        return;
    }
    core->steps_left -= core->steps_left > 0;
    core->instructions++;
    if (core->attention & ATTEND_WATCH)
        watch_instruction(core, address);
}

/* ---- running ------------------------------------------------------------------------------------------------ */

/* libunicorn gives up by abort(), which a guest can bring about (a call gate with no TSS loaded).  Its helpers leave
 * by longjmp() for every exception, so leaving the same way here loses no more than that does. */
static struct sigaction action_before;

static void on_abort(int number, siginfo_t *info, void *context)
{
    (void)context;
    if (engine_rescue != NULL && info->si_code == SI_TKILL)
        siglongjmp(*engine_rescue, 1);
    sigaction(number, &action_before, NULL);
    raise(number);
}

static void catch_aborts(void)
{
    static bool is_done;
    struct sigaction action = {.sa_sigaction = on_abort, .sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK};
    if (!is_done)
        is_done = sigaction(SIGABRT, &action, &action_before) == 0;
}

uc_err engine_emulate(Core *core)
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
    if (core->has_deleted_hooks)
        core->attention |= ATTEND_FLUSH; /* at the first block: what is translated up to there still has them */
    core->has_deleted_hooks = false;
    core->attention &= ~(uint32_t)ATTEND_RESTART; /* watched or not: the last watches may have left it */
    if (core->attention & ATTEND_WATCH)
        watch_start_anew(core);
    core->stop = STOP_NONE;
    core->block.size = 0;
    expect_resume(core);
    uc_err error = engine_emulate(core);
    if (core->port_fault && core->stop != STOP_SHUTDOWN) {
        intercept_deliver_port_fault(core);
        return core->stop == STOP_SHUTDOWN ? STOP_SHUTDOWN : STOP_INTERNAL;
    }
    if (core->block.size != 0 && (error != UC_ERR_OK || core->stop == STOP_SHUTDOWN)) {
        cpu_load(core);
        counting_leave(core, -1, false);
    }
    if (error != UC_ERR_OK && core->stop != STOP_SHUTDOWN) {
        const char *what = error == UC_ERR_FETCH_PROT ? "the guest left its memory" : UC(strerror)(error);
        engine_shut_down(core, "%s at %#llx", what, (unsigned long long)cpu_reg(core, UC_X86_REG_RIP));
    }
    if (core->stop == STOP_NONE)
        return STOP_HALT; /* nobody stopped it */
    if (core->stop == STOP_REQUEST)
        core->attention &= ~(uint32_t)ATTEND_REQUEST;
    if (core->stop == STOP_WATCH)
        core->attention &= ~(uint32_t)ATTEND_HIT;
    return core->stop;
}

Stop engine_run(Core *core, uint64_t limit)
{
    Stop stop;
    if (core->fault[0] != '\0')
        return STOP_SHUTDOWN;
    if (core->branches >= limit)
        return STOP_LIMIT;
    if (core->traps)
        traps_close(core);
    core->limit = limit;
    if (core->attention & ATTEND_WATCH)
        watch_start(core);
    do
        stop = run_once(core);
    while (stop == STOP_INTERNAL);
    if (core->traps)
        traps_open(core);
    if (core->attention & ATTEND_WATCH)
        watch_finish(core);
    return stop;
}

/* While stepping the instruction hook counts. */
static void attend_to_counting(Core *core)
{
    if (core->counting && !core->stepping)
        core->attention |= ATTEND_COUNT;
    else
        core->attention &= ~(uint32_t)ATTEND_COUNT;
}

static void set_stepping(Core *core, bool on)
{
    core->stepping = on;
    attend_to_counting(core);
    if (core->stepping) {
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

const char *engine_set_counting(Core *core, bool on)
{
    const char *failure = on ? counting_init(core) : NULL;
    core->counting = on && failure == NULL;
    attend_to_counting(core);
    engine_drop_translations(core); /* what is translated already was not noted */
    return failure;
}

Stop engine_step(Core *core, uint64_t count, uint64_t limit, bool whole_blocks)
{
    core->steps_left = count;
    set_stepping(core, true);
    if (whole_blocks)
        core->attention |= ATTEND_STEPS;
    Stop stop = engine_run(core, limit);
    core->attention &= ~(uint32_t)ATTEND_STEPS;
    set_stepping(core, false);
    return stop;
}

void engine_interrupt(Core *core, int vector)
{
    if (core->traps)
        traps_close(core);
    cpu_load(core);
    if (exception_deliver(core, vector, 0, CAUSE_EXTERNAL))
        cpu_store(core);
    if (core->traps)
        traps_open(core);
}

void engine_adopt_state(Core *core)
{
    core->fault[0] = '\0';
    core->port_fault = false;
    core->stop = STOP_NONE;
    core->resume = RESUME_NONE;
    core->block.size = 0;
    core->attention &= ATTEND_INTR | ATTEND_COUNT | ATTEND_WATCH;
    core->exceptions_in_place = 0;
    core->window.line = core->attention & ATTEND_INTR ? core->branches : NO_LINE;
    core->window.shut_branches = NO_LINE;
    if (core->attention & ATTEND_WATCH)
        watch_adopt(core);
    uc_ctl_flush_tlb(core->uc);
    engine_drop_translations(core);
}

/* ---- life --------------------------------------------------------------------------------------------------- */

const char *engine_add_hook(Core *core, int type, void *callback, int instruction)
{
    uc_hook handle;
    uc_err error = UC(hook_add)(core->uc, &handle, type, callback, core, (uint64_t)1, (uint64_t)0, instruction);
    return error == UC_ERR_OK ? NULL : UC(strerror)(error);
}

uint8_t *engine_map_memory(uint64_t size)
{
    void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED)
        return NULL;
    madvise(memory, size, MADV_HUGEPAGE); /* where the kernel will: fewer page faults, and fewer misses of the TLB */
    return memory;
}

const char *engine_init(Core *core, size_t translation_buffer, bool track_writes)
{
    core->pages.uffd = core->pages.pagemap = -1; /* before anything can fail */
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

    core->ram = engine_map_memory(core->memory_size);
    if (core->ram == NULL)
        return NO_MEMORY " for the guest's RAM";
    core->code_pages = calloc(core->ram_size / PAGE_SIZE, 1);
    if (core->code_pages == NULL || !pages_init(core, track_writes))
        return NO_MEMORY " for page tables";
    error = UC(mem_map_ptr)(core->uc, 0, core->ram_size, UC_PROT_ALL, core->ram);
    if (error == UC_ERR_OK)
        error = uc_ctl_exits_enable(core->uc); /* or the address in `until` becomes a HLT in the guest's code */
    if (error != UC_ERR_OK)
        return UC(strerror)(error);
    const char *failure = engine_add_hook(core, UC_HOOK_BLOCK, on_block, 0);
    if (failure == NULL)
        failure = engine_add_hook(core, UC_HOOK_EDGE_GENERATED, on_translation, 0);
    if (failure == NULL)
        failure = intercept_init(core);
    if (failure == NULL)
        failure = backstage_init(core);
    if (failure != NULL)
        return failure;
    core->ns_per_branch = 1;
    catch_aborts();
    UC(context_restore)(core->uc, core->reset_context);
    state_save(core, core->reset_values);
    /* Whatever runs first: on_translation is called for every block but an engine's very first. */
    backstage_run(core, (uint64_t[4]){0}, 0);
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
        munmap(core->ram, core->memory_size);
    backstage_deinit(core);
    counting_deinit(core);
    watch_deinit(core);
}
