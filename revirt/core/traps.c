/* Traps: accesses to watched memory, found by the host's page protection, which costs nothing where there are none.
 *
 * While the guest runs the watched pages cannot be written, or not read either.  Whoever does it all the same, be it
 * the guest's translated code, its MMU, a device or the core itself, gets a SIGSEGV; the page is opened, the one
 * instruction of the host is executed with the trap flag set, and the page closed again.
 *
 * Rules:
 * - A trap tells the straight line on which an access was made, and may tell more than there were: pages are fetched
 *   from and walked by the MMU, and an access begins up to WIDEST_HOST bytes before what it reaches.  Who wants to know
 *   goes there with watches.
 * - Traps cost microseconds, so there is a limit: where it is reached the pages stay open and the guest is stopped.
 * - Pages are closed only while a guest runs.  A handler that somebody else installed meanwhile gets all that is not ours.
 * - On other CPUs than x86-64 there are none; hooks do it instead. */
#define _GNU_SOURCE
#include "watch.h"

#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>

#ifdef __x86_64__

enum { CORES = 64, OPEN_AT_ONCE = 8, WIDEST_HOST = 64 };
enum { HOST_TF = 1 << 8, ERROR_WRITE = 2 };

static _Atomic(Core *) trapping[CORES];
static struct sigaction fault_before, step_before;

/* The pages that this thread has open for one instruction. */
static _Thread_local Core *open_core;
static _Thread_local uint64_t open_pages[OPEN_AT_ONCE];
static _Thread_local unsigned open_count;

static bool protect_pages(Core *core, uint64_t start, uint64_t size, int protection)
{
    return mprotect(core->ram + start, size, protection) == 0;
}

/* Close what is watched, or open it. */
static bool protect_ranges(Core *core, bool is_closed)
{
    bool ok = true;
    const RangeSet *sets[2] = {&core->watches->writes, &core->watches->reads}; /* reads last: they close more */
    for (int i = 0; i < 2; i++)
        for (const WatchRange *range = sets[i]->ranges; range < sets[i]->ranges + sets[i]->count; range++) {
            uint64_t first = range->start & ~(uint64_t)(PAGE_SIZE - 1);
            uint64_t end = (range->start + range->size + PAGE_SIZE - 1) & ~(uint64_t)(PAGE_SIZE - 1);
            if (end > core->ram_size)
                end = core->ram_size;
            int protection = !is_closed ? PROT_READ | PROT_WRITE : i == 0 ? PROT_READ : PROT_NONE;
            if (first < end)
                ok &= protect_pages(core, first, end - first, protection);
        }
    return ok;
}

static Core *find_core(uintptr_t address)
{
    for (int i = 0; i < CORES; i++) {
        Core *core = atomic_load(&trapping[i]);
        if (core != NULL && address - (uintptr_t)core->ram < core->ram_size)
            return core;
    }
    return NULL;
}

static void note_trap(Core *core, uint64_t address, uint64_t size, bool is_write)
{
    const RangeSet *set = is_write ? &core->watches->writes : &core->watches->reads;
    for (const WatchRange *range = set->ranges; range < set->ranges + set->count; range++)
        if (address < range->start + range->size && range->start < address + size) {
            watch_note(core, &(Hit){
                .kind = (is_write ? WATCH_WRITE : WATCH_READ) | WATCH_BLOCK,
                .branches = core->branches,
                .instructions = core->instructions,
                .address = address,
            });
            return;
        }
}

static void give_up(Core *core)
{
    core->traps_left = 0;
    protect_ranges(core, false);
    core->attention |= ATTEND_HIT;
}

static void pass_on(int number, const siginfo_t *info, const struct sigaction *before)
{
    sigaction(number, before, NULL);
    if (info->si_code <= 0) /* sent, and not what an instruction did: that happens once more */
        raise(number);
}

static void on_fault(int number, siginfo_t *info, void *context)
{
    uintptr_t at = (uintptr_t)info->si_addr;
    Core *core = info->si_code == SEGV_ACCERR ? find_core(at) : NULL;
    if (core == NULL || open_count == OPEN_AT_ONCE || (open_count > 0 && core != open_core)) {
        pass_on(number, info, &fault_before);
        return;
    }
    greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
    uint64_t address = at - (uintptr_t)core->ram;
    note_trap(core, address, WIDEST_HOST, registers[REG_ERR] & ERROR_WRITE);
    if (core->traps_left == 0 || --core->traps_left == 0) {
        give_up(core);
        return;
    }
    open_core = core;
    open_pages[open_count++] = address & ~(uint64_t)(PAGE_SIZE - 1);
    protect_pages(core, address & ~(uint64_t)(PAGE_SIZE - 1), PAGE_SIZE, PROT_READ | PROT_WRITE);
    registers[REG_EFL] |= HOST_TF;
}

static bool is_read_watched(const Core *core, uint64_t page)
{
    const RangeSet *set = &core->watches->reads;
    for (const WatchRange *range = set->ranges; range < set->ranges + set->count; range++)
        if (page < range->start + range->size && range->start < page + PAGE_SIZE)
            return true;
    return false;
}

static void on_step(int number, siginfo_t *info, void *context)
{
    if (open_count == 0 || info->si_code != TRAP_TRACE) {
        pass_on(number, info, &step_before);
        return;
    }
    bool ok = true;
    while (open_count > 0) {
        uint64_t page = open_pages[--open_count];
        if (open_core->traps_left > 0)
            ok &= protect_pages(open_core, page, PAGE_SIZE, is_read_watched(open_core, page) ? PROT_NONE : PROT_READ);
    }
    if (!ok)
        give_up(open_core);
    ((ucontext_t *)context)->uc_mcontext.gregs[REG_EFL] &= ~(greg_t)HOST_TF;
}

static void catch_signal(int number, void (*handler)(int, siginfo_t *, void *), struct sigaction *before)
{
    struct sigaction present, action = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER};
    if (sigaction(number, NULL, &present) == 0 && present.sa_sigaction != handler) {
        *before = present;
        sigaction(number, &action, NULL);
    }
}

bool traps_init(Core *core)
{
    for (int i = 0; i < CORES; i++) {
        Core *expected = NULL;
        if (atomic_load(&trapping[i]) == core || atomic_compare_exchange_strong(&trapping[i], &expected, core))
            return true;
    }
    return false;
}

void traps_deinit(Core *core)
{
    for (int i = 0; i < CORES; i++) {
        Core *expected = core;
        atomic_compare_exchange_strong(&trapping[i], &expected, NULL);
    }
}

void traps_close(Core *core)
{
    catch_signal(SIGSEGV, on_fault, &fault_before);
    catch_signal(SIGTRAP, on_step, &step_before);
    if (core->traps_left == 0 || !protect_ranges(core, true))
        give_up(core);
}

void traps_open(Core *core)
{
    protect_ranges(core, false);
}

void traps_written(Core *core, uint64_t start, uint64_t size)
{
    note_trap(core, start, size, true);
}

#else

bool traps_init(Core *core)
{
    (void)core;
    return false;
}

void traps_deinit(Core *core)
{
    (void)core;
}

void traps_close(Core *core)
{
    (void)core;
}

void traps_open(Core *core)
{
    (void)core;
}

void traps_written(Core *core, uint64_t start, uint64_t size)
{
    (void)core, (void)start, (void)size;
}

#endif
