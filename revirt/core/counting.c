/* How many instructions were executed, counted by blocks: a counting run translates exactly as any other does.
 *
 * What is counted are beginnings.  An instruction that faults has begun, and begins again when it is retried; so does
 * every iteration of a repeated one.
 *
 * Rules:
 * - A block is counted whole when it begins.  Stops come before that, so no block is counted twice.
 * - A block that is left in its middle is corrected at that moment: by exceptions, by an IN or OUT that was refused, and
 *   by the block itself when it writes to its own code.  Core.block is the block in progress, its size 0 if there is
 *   none to correct.
 * - Unicorn says how many instructions a block has when it translates it, and is never asked again: looking a block up
 *   walks the guest's page tables, which shows in their accessed bits.  So every translation is noted, by address and
 *   size, and forgotten together with the translations.
 * - What does not come out of that (two blocks of one address and size, the middle of a block) is measured, by
 *   translating its instructions one at a time (TF does that) in an engine that never runs: the lengths are those that
 *   the guest's own translations have, for whatever bytes.
 * - Where the code of a block cannot be read any more, because the guest runs on from a stale translation of its
 *   address, what was counted stays: counting must not change what the guest does. */
#include "core.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { VECTOR_DB = 1, VECTOR_PF = 14, ERROR_FETCH = 1 << 4 };

enum { LONGEST = INSTRUCTION_LONGEST, BLOCK_LONGEST = 2 * PAGE_SIZE };

/* So many instructions of any kind fit in the buffer: a full one would make Unicorn leave by longjmp(). */
enum { SLOTS = 128, SLOT_SIZE = 64, RULER_BUFFER = 8 << 20 };
enum { RULER_START = PAGE_SIZE, RULER_MEMORY = SLOTS * SLOT_SIZE + PAGE_SIZE, MEASURED = 8192 };

typedef struct {
    uint64_t code[LONGEST / 8];
    uint32_t mode, length; /* length 0: empty */
} Measured;

/* Translated blocks; at three quarters full everything is translated anew. */
enum { NOTES = 1 << 18, NOTES_LIMIT = NOTES / 4 * 3 };

typedef struct {
    uint64_t address;
    uint16_t size, count; /* size 0: empty */
    bool is_ambiguous;    /* the count depends on what is mapped there */
} Note;

struct Ruler {
    uc_engine *uc;
    uc_context *context;
    CpuHead *cpu; /* inside context */
    uint8_t *memory;
    unsigned slots_used;
    Measured measured[MEASURED];
    Note notes[NOTES];
    size_t noted;
};

/* ---- measuring ---------------------------------------------------------------------------------------------- */

static uint32_t translate_one(Ruler *ruler, const uint64_t code[LONGEST / 8], uint32_t mode)
{
    if (ruler->slots_used == SLOTS) {
        uc_ctl_flush_tb(ruler->uc);
        ruler->slots_used = 0;
    }
    uint32_t in_eflags = EFLAGS_VM | 3u << EFLAGS_IOPL_SHIFT, offset = ruler->slots_used++ * SLOT_SIZE;
    memcpy(ruler->memory + offset, code, LONGEST);
    ruler->cpu->hflags = mode & ~in_eflags;
    ruler->cpu->eflags = 2 | EFLAGS_TF | (mode & in_eflags);
    UC(context_restore)(ruler->uc, ruler->context);
    uc_tb block;
    return uc_ctl_request_cache(ruler->uc, RULER_START + offset, &block) == UC_ERR_OK ? block.size : LONGEST;
}

/* Return the length of the instruction that *code* begins with, of which there are *size* bytes, in the loaded state. */
static uint32_t measure(Core *core, const uint8_t *code, size_t size)
{
    uint64_t padded[LONGEST / 8] = {0};
    memcpy(padded, code, size < LONGEST ? size : LONGEST);
    uint32_t mode = (core->cpu->hflags & HF_SAVED & ~(uint32_t)HF_INHIBIT_IRQ) |
                    (core->cpu->eflags & (EFLAGS_VM | 3u << EFLAGS_IOPL_SHIFT));
    uint64_t hash = (padded[0] * 3 + padded[1] * 5 + padded[2] * 7 + mode) * 0x9e3779b97f4a7c15;
    Measured *known = &core->ruler->measured[hash >> 51];
    if (known->length == 0 || known->mode != mode || memcmp(known->code, padded, LONGEST) != 0) {
        memcpy(known->code, padded, LONGEST);
        known->mode = mode;
        known->length = translate_one(core->ruler, padded, mode);
    }
    return known->length;
}
_Static_assert(MEASURED == 1 << (64 - 51), "the hash selects one of them");

/* Copy the code at linear *address* in the loaded state. */
static bool read_code(Core *core, uint64_t address, uint8_t *buffer, size_t size)
{
    while (size > 0) {
        size_t part = PAGE_SIZE - address % PAGE_SIZE;
        uint64_t physical;
        if (part > size)
            part = size;
        if (!cpu_translate(core, address, &physical) || physical + part > core->ram_size)
            return false;
        memcpy(buffer, core->ram + physical, part);
        address += part, buffer += part, size -= part;
    }
    return true;
}

int64_t counting_before(Core *core, const Block *block, uint64_t end)
{
    uint8_t code[LONGEST];
    int64_t count = 0;
    uint64_t at = block->address;
    while (at < end && count < block->count) {
        uint64_t left = block->address + block->size - at;
        size_t size = left < LONGEST ? left : LONGEST;
        if (!read_code(core, at, code, size))
            return -1;
        at += measure(core, code, size);
        count++;
    }
    return at == end ? count : -1;
}

bool counting_tail(Core *core, const Block *block, uint8_t *code, size_t size)
{
    return size <= block->size && read_code(core, block->address + block->size - size, code, size);
}

bool counting_last(Core *core, const Block *block, uint8_t code[INSTRUCTION_LONGEST])
{
    uint8_t bytes[BLOCK_LONGEST];
    uint32_t at = 0, last = 0;
    if (block->size > BLOCK_LONGEST || !read_code(core, block->address, bytes, block->size))
        return false;
    while (at < block->size) {
        last = at;
        at += measure(core, bytes + at, block->size - at);
    }
    memset(code, 0, LONGEST);
    memcpy(code, bytes + last, block->size - last < LONGEST ? block->size - last : LONGEST);
    return at == block->size && at > 0;
}

/* ---- leaving a block ---------------------------------------------------------------------------------------- */

/* Whether the instruction at linear *address* has not begun, because of a breakpoint in the loaded state. */
static bool is_breakpoint(const Core *core, uint64_t address)
{
    const uint64_t *dr = core->exception->dr;
    for (int i = 0; i < 4; i++)
        if ((dr[7] >> 2 * i & 3) && (dr[7] >> (16 + 4 * i) & 3) == 0 && dr[i] == address)
            return !(core->cpu->eflags & EFLAGS_RF);
    return false;
}

uint64_t counting_reach(Core *core, const Block *block, int vector, bool is_software)
{
    uint64_t address = core->cpu->segs[CS].base + core->cpu->eip;
    /* Behind its end, or elsewhere; or from its end to a place in it that may not be executed. */
    if (address - block->address >= block->size ||
        (vector == VECTOR_PF && (core->exception->error_code & ERROR_FETCH)))
        return block->address + block->size;
    bool has_begun = !is_software && !(vector == VECTOR_DB && is_breakpoint(core, address));
    return address + has_begun;
}

void counting_leave(Core *core, int vector, bool is_software)
{
    Block block = core->block;
    uint64_t address = core->cpu->segs[CS].base + core->cpu->eip;
    uint64_t reach = counting_reach(core, &block, vector, is_software);
    core->block.size = 0;
    if (reach == block.address + block.size)
        return;
    int64_t count = counting_before(core, &block, address);
    if (count >= 0)
        core->instructions -= block.count - ((uint64_t)count + (reach - address));
}

uint64_t counting_at(Core *core, uint64_t address)
{
    if (core->block.size == 0)
        return core->instructions;
    int64_t count = counting_before(core, &core->block, address);
    return count < 0 ? core->instructions : core->instructions - core->block.count + (uint64_t)count + 1;
}

uint64_t counting_now(Core *core)
{
    if (!core->is_at_port || core->block.size == 0)
        return core->instructions;
    cpu_load(core);
    return counting_at(core, core->cpu->segs[CS].base + core->cpu->eip);
}

/* ---- entering a block --------------------------------------------------------------------------------------- */

static Note *find_note(Ruler *ruler, uint64_t address, uint32_t size)
{
    size_t at = ((address ^ (uint64_t)size << 48) * 0x9e3779b97f4a7c15) >> 46;
    while (ruler->notes[at].size != 0 && (ruler->notes[at].address != address || ruler->notes[at].size != size))
        at = (at + 1) % NOTES;
    return &ruler->notes[at];
}
_Static_assert(NOTES == 1 << (64 - 46), "the hash selects one of them");

void counting_note(Core *core, const uc_tb *block)
{
    Note *note = find_note(core->ruler, block->pc, block->size);
    if (note->size != 0) {
        note->is_ambiguous |= note->count != block->icount;
        return;
    }
    *note = (Note){block->pc, block->size, block->icount, false};
    if (++core->ruler->noted == NOTES_LIMIT)
        core->attention |= ATTEND_FLUSH;
}

void counting_forget(Core *core)
{
    if (core->ruler == NULL || core->ruler->noted == 0)
        return;
    memset(core->ruler->notes, 0, sizeof core->ruler->notes);
    core->ruler->noted = 0;
}

int64_t counting_restart(Core *core, const Block *last, uint64_t address, uint32_t size)
{
    uint64_t offset = address - last->address;
    uint8_t code[LONGEST];
    /* Up to the end of the last block there is nothing to correct: it began its last instruction in any case. */
    if (offset >= last->size || size > LONGEST || offset + size >= last->size)
        return -1;
    cpu_load(core);
    if (core->cpu->eflags & EFLAGS_TF) /* every instruction is a block; none is left in its middle */
        return -1;
    if (!read_code(core, address, code, size) || measure(core, code, size) != size)
        return -1;
    return counting_before(core, last, address);
}

void counting_arrive(Core *core, uint64_t address, uint32_t size)
{
    Block last = core->block;
    core->block.size = 0;
    int64_t count = counting_restart(core, &last, address, size);
    if (count >= 0 && count < last.count)
        core->instructions -= last.count - ((uint64_t)count + 1);
}

void counting_begin(Core *core, uint64_t address, uint32_t size)
{
    const Note *note = find_note(core->ruler, address, size);
    core->block = (Block){address, size, note->count};
    if (note->is_ambiguous || note->size == 0) {
        Block longest = {address, size, size};
        cpu_load(core);
        int64_t count = counting_before(core, &longest, address + size);
        if (count >= 0)
            core->block.count = (uint32_t)count;
    }
    core->instructions += core->block.count;
}

/* ---- life --------------------------------------------------------------------------------------------------- */

static uc_err open_ruler(Core *core, Ruler *ruler)
{
    uc_err error = UC(open)(UC_ARCH_X86, UC_MODE_64, &ruler->uc);
    if (error == UC_ERR_OK)
        error = uc_ctl_set_cpu_model(ruler->uc, UC_CPU_X86_NEHALEM);
    if (error == UC_ERR_OK)
        error = uc_ctl_set_tcg_buffer_size(ruler->uc, RULER_BUFFER);
    if (error == UC_ERR_OK)
        error = UC(context_alloc)(ruler->uc, &ruler->context);
    if (error == UC_ERR_OK)
        error = UC(mem_map_ptr)(ruler->uc, RULER_START, RULER_MEMORY, UC_PROT_ALL, ruler->memory);
    if (error == UC_ERR_OK)
        error = UC(context_save)(ruler->uc, ruler->context);
    if (error == UC_ERR_OK) {
        ruler->cpu = (CpuHead *)((uint8_t *)ruler->context + ((uint8_t *)core->cpu - (uint8_t *)core->context));
        ruler->cpu->cr[0] = CR0_PE | CR0_ET;
        ruler->cpu->segs[CS].base = 0;
    }
    return error;
}

const char *counting_init(Core *core)
{
    if (core->ruler != NULL)
        return NULL;
    core->ruler = calloc(1, sizeof *core->ruler);
    if (core->ruler == NULL)
        return NO_MEMORY " to count instructions";
    core->ruler->memory = engine_map_memory(RULER_MEMORY);
    uc_err error = core->ruler->memory == NULL ? UC_ERR_NOMEM : open_ruler(core, core->ruler);
    if (error == UC_ERR_OK)
        return NULL;
    counting_deinit(core);
    return error == UC_ERR_NOMEM ? NO_MEMORY " to count instructions" : UC(strerror)(error);
}

void counting_deinit(Core *core)
{
    Ruler *ruler = core->ruler;
    if (ruler == NULL)
        return;
    if (ruler->context != NULL)
        UC(context_free)(ruler->context);
    if (ruler->uc != NULL)
        UC(close)(ruler->uc);
    if (ruler->memory != NULL)
        munmap(ruler->memory, RULER_MEMORY);
    free(ruler);
    core->ruler = NULL;
}
