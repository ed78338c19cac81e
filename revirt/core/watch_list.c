/* What is watched: checks of it, and Unicorn's hooks. */
#include "watch.h"

#include <stdlib.h>
#include <string.h>

static void filter_add(PageFilter *filter, uint64_t address)
{
    uint64_t page = address >> PAGE_SHIFT & 4095;
    filter->bits[page / 64] |= 1ull << page % 64;
}

static int compare_code(const void *a, const void *b)
{
    uint64_t first = *(const uint64_t *)a, second = *(const uint64_t *)b;
    return (first > second) - (first < second);
}

static const char *check_ranges(const WatchRange *ranges, size_t count, uint64_t *bytes)
{
    if (count > RANGE_LIMIT)
        return "at most 64 ranges are watched";
    for (size_t i = 0; i < count; i++) {
        if (ranges[i].size == 0 || ranges[i].size > BYTES_LIMIT || ranges[i].start >= 1ull << 52)
            return "a watched range is 1 to 65536 bytes below 2**52";
        *bytes += ranges[i].size;
    }
    return NULL;
}

static bool has_edge(const WatchRange *range)
{
    return range->start % PAGE_SIZE < WIDEST - 1 || range->start % PAGE_SIZE + range->size > PAGE_SIZE;
}

static uc_err watch_range(Core *core, RangeSet *set, int type, uint64_t first, uint64_t last)
{
    uc_err error = UC(hook_add)(core->uc, &set->hooks[set->hook_count], type, watch_on_access, core, first, last);
    if (error == UC_ERR_OK)
        set->hook_count++;
    return error;
}

static uc_err add_hooks(Core *core, RangeSet *set, int type)
{
    if (set->has_edge || set->count > HOOKS_LIMIT)
        return watch_range(core, set, type, 1, 0); /* unbounded */
    uc_err error = UC_ERR_OK;
    for (size_t i = 0; error == UC_ERR_OK && i < set->count; i++) {
        uint64_t start = set->ranges[i].start, before = start < WIDEST - 1 ? start : WIDEST - 1;
        error = watch_range(core, set, type, start - before, start + set->ranges[i].size - 1);
    }
    return error;
}

static void delete_hooks(Core *core, RangeSet *set)
{
    core->has_deleted_hooks |= set->hook_count > 0;
    while (set->hook_count > 0)
        UC(hook_del)(core->uc, set->hooks[--set->hook_count]);
}

static void set_ranges(RangeSet *set, const WatchRange *ranges, size_t count)
{
    set->filter = (PageFilter){0};
    set->has_edge = false;
    set->count = count;
    for (size_t i = 0; i < count; i++) {
        set->ranges[i] = ranges[i];
        set->has_edge |= has_edge(&ranges[i]);
        uint64_t first = ranges[i].start / PAGE_SIZE, last = (ranges[i].start + ranges[i].size - 1) / PAGE_SIZE;
        for (uint64_t page = first; page <= last; page++)
            filter_add(&set->filter, page * PAGE_SIZE);
    }
}

static void set_code(Watches *watches, const uint64_t *code, size_t count)
{
    watches->code_filter = (PageFilter){0};
    watches->code_count = count;
    for (size_t i = 0; i < count; i++) {
        watches->code[i] = code[i];
        filter_add(&watches->code_filter, code[i]);
    }
    qsort(watches->code, count, sizeof *watches->code, compare_code);
}

const char *watch_set(Core *core, const WatchList *list)
{
    uint64_t read_bytes = 0, written_bytes = 0;
    const char *failure = check_ranges(list->reads, list->read_count, &read_bytes);
    if (failure == NULL)
        failure = check_ranges(list->writes, list->write_count, &written_bytes);
    if (failure == NULL && (read_bytes > BYTES_LIMIT || written_bytes > BYTES_LIMIT))
        failure = "at most 65536 bytes are watched";
    if (failure == NULL && list->code_count > CODE_LIMIT)
        failure = "at most 1024 instructions are watched";
    bool has_ranges = list->read_count + list->write_count > 0;
    if (failure == NULL && (list->code_count > 0 || list->stack.size > 0 || has_ranges))
        failure = counting_init(core);
    if (failure == NULL && core->watches == NULL && (core->watches = calloc(1, sizeof *core->watches)) == NULL)
        failure = NO_MEMORY " to watch";
    if (failure != NULL)
        return failure;
    Watches *watches = core->watches;
    bool was_slow = watches->reads.hook_count + watches->writes.hook_count > 0;
    delete_hooks(core, &watches->reads);
    delete_hooks(core, &watches->writes);
    set_code(watches, list->code, list->code_count);
    set_ranges(&watches->reads, list->reads, list->read_count);
    set_ranges(&watches->writes, list->writes, list->write_count);
    core->system_watches = list->system;
    core->traps_left = list->traps;
    core->traps = list->traps > 0 && has_ranges && traps_init(core);
    if (!core->traps)
        traps_deinit(core);
    memcpy(watches->vectors, list->vectors, sizeof watches->vectors);
    watches->stack = list->stack;
    watches->noted = watches->taken = watches->crossing = 0;
    core->attention &= ~(uint32_t)(ATTEND_WATCH | ATTEND_HIT);
    bool looks_at_system = list->system & (WATCH_ADDRESS_SPACE | WATCH_PRIVILEGE);
    bool has_hooks = !core->traps && has_ranges;
    if (has_hooks || list->code_count > 0 || looks_at_system || list->stack.size > 0) {
        core->attention |= ATTEND_WATCH;
        watch_adopt(core);
    }
    if (core->traps)
        return NULL;
    uc_err error = add_hooks(core, &watches->reads, UC_HOOK_MEM_READ);
    if (error == UC_ERR_OK)
        error = add_hooks(core, &watches->writes, UC_HOOK_MEM_WRITE);
    if (!was_slow && has_ranges)
        engine_drop_translations(core); /* hooks do not reach code that is translated already */
    return error == UC_ERR_OK ? NULL : NO_MEMORY " to watch";
}

void watch_deinit(Core *core)
{
    traps_deinit(core);
    free(core->watches);
    core->watches = NULL;
}
