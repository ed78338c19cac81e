/* The watches, for their own sources. */
#ifndef REVIRT_WATCH_H
#define REVIRT_WATCH_H

#include "core.h"

enum { HOOKS_LIMIT = 32 /* Unicorn tries each at every access: with more, one for everything is faster */ };
enum { WIDEST = 8 /* bytes of an access, as the hooks see them */ };
enum { CODE_LIMIT = 1024, RANGE_LIMIT = 64, BYTES_LIMIT = 1 << 16, HITS = 1 << 16 };

typedef struct {
    uint64_t address, instructions;
} Pending;

/* A bit for each page that may be concerned, by its number modulo 4096. */
typedef struct {
    uint64_t bits[64];
} PageFilter;

typedef struct {
    PageFilter filter;
    WatchRange ranges[RANGE_LIMIT];
    uc_hook hooks[HOOKS_LIMIT];
    size_t count, hook_count;
    bool has_edge; /* an access from the page before can reach one of the ranges */
} RangeSet;

/* What the CPU was like when it was looked at last. */
typedef struct {
    uint64_t cr3;
    uint32_t code_segment; /* the selector, and EFLAGS.VM where there is such a mode */
    unsigned privilege;
    bool is_long;
} SystemState;

struct Watches {
    uint64_t code[CODE_LIMIT]; /* ascending */
    size_t code_count;
    PageFilter code_filter;

    RangeSet reads, writes;
    uint8_t expected[BYTES_LIMIT]; /* what the ranges of writes hold, one behind the other */
    uint64_t under_way, under_way_value;
    unsigned under_way_size; /* a write that was noted and may or may not have been made; 0: none */

    uint64_t vectors[VECTORS / 64];
    SystemState last;
    WatchStack stack;

    Block block; /* the last that began */
    uint64_t block_branches, block_instructions, block_noted;
    Pending pending[CODE_LIMIT]; /* what is watched in it, not noted yet */
    size_t pending_count, pending_next;
    bool is_undone; /* what the last instruction did of that block was not done: it begins once more */
    bool restarts_next; /* the engine is to be started anew at the next block but one */

    Hit hits[HITS]; /* circular */
    uint64_t noted, taken, crossing; /* counts; the count when the last access that crosses was noted */
};

void watch_note(Core *core, const Hit *hit);
/* Note what the instruction at *pc* does, the last one that began. */
void watch_note_here(Core *core, uint32_t kind, uint64_t pc, uint64_t value);
/* Note what was watched of the block in progress up to the loaded state's EIP. */
void watch_begun(Core *core);
/* A block begins: look for what the one before it did. */
void watch_look_at_system(Core *core);
void watch_look_at_calls(Core *core, uint64_t address);

/* The hook of all that is watched in memory. */
void watch_on_access(uc_engine *uc, uc_mem_type type, uint64_t address, int size, int64_t value, void *data);

#endif
