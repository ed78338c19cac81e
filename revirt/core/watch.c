/* Watches: every execution of given instructions, and every access to given memory, is noted while the guest runs.
 *
 * Rules:
 * - Watching changes nothing.  So no code hooks: those make Unicorn compute the flags early, which shows in what BT
 *   leaves undefined.  What a block executes is known when it begins, less what it leaves out when it is left.
 * - Memory hooks see an access before it is made.  Unicorn restarts a store that changes the block it is in, with the
 *   hooks off: what was noted belongs to the line on which the instruction begins once more.
 * - An access that goes on into the next page is shown to the hooks by its first page alone; what lies behind is not
 *   known.  If a range has bytes that such an access can reach (the first seven of a page), all accesses are looked at,
 *   and those that cross into any page are noted as WATCH_MAYBE.
 * - The hooks are not called while an access is split, and not again if a fault, or a restart, comes out of its middle,
 *   until the engine is started anew: so it is, at the block that follows.
 * - The MMU sets accessed and dirty bits behind the hooks' back.  So written ranges are compared with what they should
 *   hold, before every write that is noted and at every block; a difference is a hit with WATCH_BLOCK.
 * - Traps miss nothing: with them nothing is compared, which would be trapped itself.
 * - A deleted hook stays in Unicorn's lists, and keeps new translations slow, until the engine has stopped once. */
#include "watch.h"

#include <string.h>

enum { VECTOR_PF = 14 };
enum { LONGEST_RESTARTED = 24 /* bytes of an instruction, generously */ };

static bool filter_has(const PageFilter *filter, uint64_t address)
{
    uint64_t page = address >> PAGE_SHIFT & 4095;
    return filter->bits[page / 64] >> page % 64 & 1;
}

/* ---- noting ------------------------------------------------------------------------------------------------- */

void watch_note(Core *core, const Hit *hit)
{
    Watches *watches = core->watches;
    watches->hits[watches->noted++ % HITS] = *hit;
    if (core->stop_at_hits && !core->stepping)
        core->attention |= ATTEND_HIT;
}

/* Forget the hits from the one with *number*, counted from 0. */
static void forget_hits(Core *core, uint64_t number)
{
    Watches *watches = core->watches;
    watches->noted = number;
    if (watches->taken >= number) {
        watches->taken = number;
        core->attention &= ~(uint32_t)ATTEND_HIT;
    }
}

size_t watch_take(Core *core, const Hit **first, size_t *first_count, const Hit **second, size_t *second_count)
{
    Watches *watches = core->watches;
    *first_count = *second_count = 0;
    core->attention &= ~(uint32_t)ATTEND_HIT;
    if (watches == NULL)
        return 0;
    uint64_t from = watches->noted - watches->taken > HITS ? watches->noted - HITS : watches->taken;
    size_t count = (size_t)(watches->noted - from), start = from % HITS;
    *first = watches->hits + start;
    *first_count = count < HITS - start ? count : HITS - start;
    *second = watches->hits;
    *second_count = count - *first_count;
    watches->taken = watches->noted;
    return count;
}

uint64_t watch_noted(const Core *core)
{
    return core->watches == NULL ? 0 : core->watches->noted;
}

/* ---- memory: what it should hold ---------------------------------------------------------------------------- */

/* The part of *range* that is RAM. */
static uint64_t size_in_ram(const Core *core, const WatchRange *range)
{
    if (range->start >= core->ram_size)
        return 0;
    uint64_t left = core->ram_size - range->start;
    return range->size < left ? range->size : left;
}

/* Whether any of *size* bytes from *address*, all of them in one page, is watched. */
static bool overlaps(const RangeSet *set, uint64_t address, uint64_t size)
{
    if (likely(!filter_has(&set->filter, address)))
        return false;
    for (const WatchRange *range = set->ranges; range < set->ranges + set->count; range++)
        if (address < range->start + range->size && range->start < address + size)
            return true;
    return false;
}

/* What stands at [address, address + size) now is as it should be. */
static void expect_present(Core *core, uint64_t address, uint64_t size)
{
    const RangeSet *set = &core->watches->writes;
    uint8_t *expected = core->watches->expected;
    if (core->traps)
        return;
    for (const WatchRange *range = set->ranges; range < set->ranges + set->count; range++) {
        uint64_t in_ram = size_in_ram(core, range), end = range->start + in_ram;
        uint64_t from = address > range->start ? address : range->start;
        uint64_t to = address + size < end ? address + size : end;
        if (from < to)
            memcpy(expected + (from - range->start), core->ram + from, to - from);
        expected += in_ram;
    }
}

static void finish_write(Core *core)
{
    Watches *watches = core->watches;
    uint64_t address = watches->under_way, size = watches->under_way_size;
    watches->under_way_size = 0;
    if (size != 0 && address + size <= core->ram_size &&
        memcmp(core->ram + address, &watches->under_way_value, size) == 0)
        expect_present(core, address, size);
}

/* Note that *size* bytes, up to 8, at physical *address* have changed in the block in progress. */
static void note_change(Core *core, const uint8_t *expected, uint64_t address, uint64_t size)
{
    Watches *watches = core->watches;
    const uint8_t *present = core->ram + address;
    uint64_t first = 0, end = size, value = 0;
    while (first < size && expected[first] == present[first])
        first++;
    if (first == size)
        return;
    while (expected[end - 1] == present[end - 1])
        end--;
    memcpy(&value, present + first, end - first);
    watch_note(core, &(Hit){
        .kind = WATCH_WRITE | WATCH_BLOCK,
        .branches = watches->block_branches,
        .instructions = watches->block_instructions,
        .pc = watches->block.address - core->cpu->segs[CS].base,
        .address = address + first,
        .size = end - first,
        .value = value,
    });
}

/* Note every changed word of *size* bytes at physical *start*. */
static void note_changes(Core *core, const uint8_t *expected, uint64_t start, uint64_t size)
{
    for (uint64_t at = start; at < start + size;) {
        uint64_t end = (at | (WIDEST - 1)) + 1, part = (end < start + size ? end : start + size) - at;
        note_change(core, expected + (at - start), at, part);
        at += part;
    }
}

/* Note what has changed unseen since the last look.  *is_loaded*: the CPU's state is, and must not be again. */
static void notice_changes(Core *core, bool is_loaded)
{
    const RangeSet *set = &core->watches->writes;
    uint8_t *expected = core->watches->expected;
    if (core->traps)
        return;
    finish_write(core);
    for (const WatchRange *range = set->ranges; range < set->ranges + set->count; range++) {
        uint64_t size = size_in_ram(core, range);
        if (unlikely(memcmp(expected, core->ram + range->start, size) != 0)) {
            if (!is_loaded)
                cpu_load(core);
            is_loaded = true;
            note_changes(core, expected, range->start, size);
            memcpy(expected, core->ram + range->start, size);
        }
        expected += size;
    }
}

/* ---- code: what a block executes ---------------------------------------------------------------------------- */

/* The first watched instruction at or behind *address*. */
static size_t find_code(const Watches *watches, uint64_t address)
{
    size_t low = 0, high = watches->code_count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (watches->code[middle] < address)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static void note_execution(Core *core, uint64_t address, uint64_t instructions)
{
    watch_note(core, &(Hit){
        .kind = WATCH_EXECUTE,
        .branches = core->watches->block_branches,
        .instructions = instructions,
        .pc = address - core->cpu->segs[CS].base,
        .address = address,
    });
}

/* Note the instructions of the block in progress that begin before linear *end*, in the loaded state. */
static void note_begun(Core *core, uint64_t end)
{
    Watches *watches = core->watches;
    for (; watches->pending_next < watches->pending_count; watches->pending_next++) {
        const Pending *pending = &watches->pending[watches->pending_next];
        if (pending->address >= end)
            return;
        note_execution(core, pending->address, pending->instructions);
    }
}

void watch_begun(Core *core)
{
    note_begun(core, core->cpu->segs[CS].base + core->cpu->eip + 1);
}

void watch_note_here(Core *core, uint32_t kind, uint64_t pc, uint64_t value)
{
    watch_note(core, &(Hit){
        .kind = kind, .branches = core->branches, .instructions = core->instructions, .pc = pc, .value = value});
}

static bool has_pending(const Watches *watches)
{
    return watches->pending_next < watches->pending_count;
}

static void find_pending(Core *core, uint64_t address, uint32_t size)
{
    Watches *watches = core->watches;
    Block block = {address, size, size};
    for (size_t i = find_code(watches, address); i < watches->code_count && watches->code[i] - address < size; i++) {
        if (watches->pending_count == 0)
            cpu_load(core);
        if (watches->code[i] == address || counting_before(core, &block, watches->code[i]) >= 0)
            watches->pending[watches->pending_count++] =
                (Pending){watches->code[i], counting_at(core, watches->code[i])};
    }
}

/* ---- the guest's progress ----------------------------------------------------------------------------------- */

void watch_arrive(Core *core, uint64_t address, uint32_t size)
{
    Watches *watches = core->watches;
    unsigned under_way_size = watches->under_way_size;
    notice_changes(core, false);
    Block last = watches->block;
    uint64_t offset = address - last.address;
    if (watches->restarts_next)
        core->attention |= ATTEND_RESTART;
    watches->restarts_next = false;
    bool may_be_restart = offset < last.size && size <= LONGEST_RESTARTED && offset + size < last.size;
    if (may_be_restart && watches->reads.count + watches->writes.count > 0)
        watches->restarts_next = true;
    bool has_hits = watches->noted > watches->block_noted;
    bool is_restart = may_be_restart && (has_hits || has_pending(watches)) &&
                      counting_restart(core, &last, address, size) >= 0;
    if (has_pending(watches)) {
        cpu_load(core);
        note_begun(core, is_restart ? address + 1 : UINT64_MAX);
    }
    watches->is_undone = is_restart && has_hits;
    if (watches->is_undone)
        watches->under_way_size = under_way_size;
    watches->pending_next = watches->pending_count = 0;
    if (core->system_watches & (WATCH_ADDRESS_SPACE | WATCH_PRIVILEGE))
        watch_look_at_system(core);
    if (watches->stack.size > 0)
        watch_look_at_calls(core, address);
}

void watch_begin(Core *core, uint64_t address, uint32_t size)
{
    Watches *watches = core->watches;
    watches->block = (Block){address, size, size};
    watches->block_noted = watches->noted;
    watches->block_branches = core->branches;
    watches->block_instructions = core->counting && !core->stepping ? counting_at(core, address) : core->instructions;
    if (unlikely(filter_has(&watches->code_filter, address) || filter_has(&watches->code_filter, address + size - 1)) &&
        !core->stepping)
        find_pending(core, address, size);
}

/* The first hit of the block in progress that is still there. */
static uint64_t first_in_block(const Watches *watches)
{
    return watches->noted - watches->block_noted > HITS ? watches->noted - HITS : watches->block_noted;
}

static bool is_access_by(const Hit *hit, uint64_t pc)
{
    return (hit->kind & (WATCH_READ | WATCH_WRITE)) && !(hit->kind & WATCH_BLOCK) && hit->pc == pc;
}

uint32_t watch_look_at_undone(Core *core, uint64_t address)
{
    const Watches *watches = core->watches;
    if (!watches->is_undone)
        return 0;
    uint64_t pc = address - core->cpu->segs[CS].base, number = first_in_block(watches);
    bool has_others = watches->taken < number;
    for (; number < watches->noted; number++)
        has_others |= !is_access_by(&watches->hits[number % HITS], pc);
    return has_others ? 0 : ATTEND_HIT;
}

void watch_forget_restart(Core *core)
{
    Watches *watches = core->watches;
    uint64_t number = first_in_block(watches), kept = number;
    for (; number < watches->noted; number++)
        if (!(watches->hits[number % HITS].kind & WATCH_EXECUTE))
            watches->hits[kept++ % HITS] = watches->hits[number % HITS];
    if (kept < watches->noted)
        forget_hits(core, kept);
}

void watch_settle_undone(Core *core, uint64_t address, bool is_made)
{
    Watches *watches = core->watches;
    if (!watches->is_undone)
        return;
    uint64_t pc = address - core->cpu->segs[CS].base, number = first_in_block(watches), kept = number;
    for (; number < watches->noted; number++) {
        Hit hit = watches->hits[number % HITS];
        if (is_access_by(&hit, pc)) {
            if (!is_made)
                continue;
            hit.branches = core->branches;
            hit.instructions = core->instructions + (core->counting || core->stepping);
        }
        watches->hits[kept++ % HITS] = hit;
    }
    watches->is_undone = false;
    if (kept < watches->noted)
        forget_hits(core, kept);
}

void watch_instruction(Core *core, uint64_t address)
{
    Watches *watches = core->watches;
    size_t at = find_code(watches, address);
    if (at == watches->code_count || watches->code[at] != address)
        return;
    cpu_load(core);
    note_execution(core, address, core->instructions);
}

void watch_leave(Core *core, int vector, bool is_software)
{
    Watches *watches = core->watches;
    const Hit *last = &watches->hits[(watches->noted - 1) % HITS];
    if (vector == VECTOR_PF && watches->crossing == watches->noted && watches->noted > watches->taken &&
        last->branches == core->branches && last->pc == core->cpu->eip && core->cpu->cr[2] % PAGE_SIZE == 0)
        forget_hits(core, watches->noted - 1); /* its other page is missing: the access was not made */
    notice_changes(core, true);
    note_begun(core, counting_reach(core, &watches->block, vector, is_software));
    watches->pending_next = watches->pending_count = 0;
    if (watches->reads.count + watches->writes.count > 0)
        core->attention |= ATTEND_RESTART;
}

void watch_start(Core *core)
{
    Watches *watches = core->watches;
    watches->under_way_size = 0;
    cpu_load(core);
    watches->block = (Block){core->cpu->segs[CS].base + core->cpu->eip, 0, 0};
    watches->block_noted = watches->noted;
    watches->block_branches = core->branches;
    watches->block_instructions = core->instructions;
    watches->pending_next = watches->pending_count = 0;
    expect_present(core, 0, core->ram_size);
}

void watch_start_anew(Core *core)
{
    /* Kept, it would stop the guest at the same block for ever. */
    core->watches->restarts_next = false;
}

void watch_finish(Core *core)
{
    cpu_load(core);
    notice_changes(core, true);
    note_begun(core, counting_reach(core, &core->watches->block, -1, false));
}

/* ---- memory: accesses --------------------------------------------------------------------------------------- */

/* Note an access of at most 8 bytes by the instruction at EIP of the loaded state. */
static void note_access(Core *core, uint32_t kind, uint64_t address, uint64_t size, uint64_t value)
{
    uint64_t linear = core->cpu->segs[CS].base + core->cpu->eip;
    note_begun(core, linear + 1);
    watch_note(core, &(Hit){
        .kind = kind,
        .branches = core->branches,
        .instructions = core->counting && !core->stepping ? counting_at(core, linear) : core->instructions,
        .pc = core->cpu->eip,
        .address = address,
        .size = size,
        .value = value,
    });
}

void watch_on_access(uc_engine *uc, uc_mem_type type, uint64_t address, int size, int64_t value, void *data)
{
    Core *core = data;
    Watches *watches = core->watches;
    bool is_write = type == UC_MEM_WRITE;
    RangeSet *set = is_write ? &watches->writes : &watches->reads;
    uint64_t left = PAGE_SIZE - address % PAGE_SIZE, in_page = (uint64_t)size < left ? (uint64_t)size : left;
    bool crosses = in_page < (uint64_t)size, is_inside = overlaps(set, address, in_page);
    (void)uc;
    if ((!is_inside && !(crosses && set->has_edge)) || (core->attention & ATTEND_FAULT))
        return;
    uint32_t kind = (is_write ? WATCH_WRITE : WATCH_READ) | (is_inside ? 0 : WATCH_MAYBE);
    uint64_t number = 0;
    cpu_load(core);
    notice_changes(core, true);
    if (is_write)
        number = size == 8 ? (uint64_t)value : (uint64_t)value & ((1ull << 8 * size) - 1);
    else if (address + in_page <= core->ram_size && !crosses)
        memcpy(&number, core->ram + address, in_page);
    note_access(core, kind, address, (uint64_t)size, number);
    if (crosses)
        watches->crossing = watches->noted;
    if (is_write) {
        watches->under_way = address;
        watches->under_way_size = (unsigned)in_page;
        watches->under_way_value = number;
    }
}

void watch_touch(Core *core, uint32_t kind, uint64_t address, const uint8_t *bytes, uint64_t size)
{
    const RangeSet *set = kind == WATCH_WRITE ? &core->watches->writes : &core->watches->reads;
    if (!overlaps(set, address, size))
        return;
    notice_changes(core, true);
    for (uint64_t at = 0; at < size; at += WIDEST) {
        uint64_t value = 0, part = size - at < WIDEST ? size - at : WIDEST;
        memcpy(&value, bytes + at, part);
        if (overlaps(set, address + at, part))
            note_access(core, kind, address + at, part, value);
    }
}

void watch_touched(Core *core, uint64_t address, uint64_t size)
{
    expect_present(core, address, size);
}

void watch_written(Core *core, uint64_t address, uint64_t size)
{
    const RangeSet *set = &core->watches->writes;
    expect_present(core, address, size);
    for (const WatchRange *range = set->ranges; range < set->ranges + set->count; range++) {
        uint64_t from = address > range->start ? address : range->start, value = 0;
        uint64_t end = address + size < range->start + range->size ? address + size : range->start + range->size;
        if (from >= end || end > core->ram_size)
            continue;
        memcpy(&value, core->ram + from, end - from < sizeof value ? end - from : sizeof value);
        cpu_load(core);
        note_access(core, WATCH_WRITE, from, end - from, value);
    }
}
