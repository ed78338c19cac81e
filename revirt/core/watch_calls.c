/* Watches of a stretch of the stack: every call that puts its return address there, every return that takes one.
 *
 * Rules:
 * - A call or return ends its block, and is looked for when the next one begins, but only if the stack pointer is where
 *   one would have left it, and the block ends as one may: taking it apart is slow.
 * - A call of what follows it is none.  It is how code that may stand anywhere asks where it is, and nothing returns.
 * - What the instruction is is read from memory, as it was translated but for code that changed meanwhile. */
#include "watch.h"

enum { FARTHEST = 1024 /* bytes that a return takes from the stack: beyond the stretch, more are not looked for */ };
enum { TAIL = 9 /* bytes of the longest call that is no prefix: FF, ModRM, SIB, a displacement, and two to spare */ };

typedef struct {
    bool is_call, is_return;
    uint64_t popped; /* bytes */
} Transfer;

typedef struct {
    unsigned near_width, far_width; /* bytes of an address */
} Widths;

static Transfer returns(uint64_t popped)
{
    return (Transfer){.is_return = true, .popped = popped};
}

/* What the instruction with this *opcode*, behind its prefixes, is. */
static Transfer classify(const uint8_t *opcode, Widths widths)
{
    unsigned operand = opcode[1] | (unsigned)opcode[2] << 8, extension = opcode[1] >> 3 & 7;
    switch (opcode[0]) {
    case 0x9a: /* CALL ptr16:32 */
    case 0xe8: /* CALL rel32 */
        return (Transfer){.is_call = true};
    case 0xff: /* CALL r/m, CALL m16:32 */
        return (Transfer){.is_call = extension == 2 || extension == 3};
    case 0xc2:
        return returns(widths.near_width + operand);
    case 0xc3:
        return returns(widths.near_width);
    case 0xca:
        return returns(2 * widths.far_width + operand);
    case 0xcb:
        return returns(2 * widths.far_width);
    default:
        return (Transfer){0};
    }
}

static bool is_prefix(uint8_t byte)
{
    return byte == 0x26 || byte == 0x2e || byte == 0x36 || byte == 0x3e || (byte >= 0x64 && byte <= 0x67) ||
           byte == 0xf0 || byte == 0xf2 || byte == 0xf3;
}

/* SDM volume 2, CALL and RET; in 64-bit code near ones take 8 bytes, or 2 with a prefix, as AMD's do. */
static Transfer decode(const Core *core, const uint8_t code[INSTRUCTION_LONGEST])
{
    bool is_64 = core->cpu->hflags & HF_CS64, is_32 = core->cpu->hflags & HF_CS32, is_other = false, is_wide = false;
    const uint8_t *at = code, *end = code + INSTRUCTION_LONGEST - 3;
    for (; at < end && is_prefix(*at); at++)
        is_other |= *at == 0x66;
    if (is_64 && (*at & 0xf0) == 0x40)
        is_wide = *at++ & 8;
    unsigned width = is_64 ? (is_other ? 2 : 8) : is_32 != is_other ? 4 : 2;
    unsigned far_width = is_64 ? (is_wide ? 8 : is_other ? 2 : 4) : width;
    return classify(at, (Widths){width, far_width});
}

static bool is_indirect_call(const uint8_t *at)
{
    return at[0] == 0xff && ((at[1] >> 3 & 7) == 2 || (at[1] >> 3 & 7) == 3);
}

/* Whether the block may end with a call or return, by its last bytes. */
static bool may_end_with_call(Core *core, const Block *block)
{
    uint8_t bytes[TAIL] = {0};
    size_t size = block->size < TAIL ? block->size : TAIL;
    if (!counting_tail(core, block, bytes + TAIL - size, size))
        return false;
    const uint8_t *end = bytes + TAIL;
    if (end[-1] == 0xc3 || end[-1] == 0xcb || end[-3] == 0xc2 || end[-3] == 0xca || end[-5] == 0xe8 || end[-3] == 0xe8 ||
        end[-7] == 0x9a || end[-5] == 0x9a)
        return true;
    for (const uint8_t *at = bytes; at < end - 1; at++)
        if (is_indirect_call(at))
            return true;
    return false;
}

static bool is_watched_stack(const Core *core, const WatchStack *stack)
{
    return (core->cpu->hflags & HF_CPL) == stack->privilege && core->cpu->segs[SS].base == stack->base &&
           (stack->root == 0 || (core->cpu->cr[3] & ~(uint64_t)(PAGE_SIZE - 1)) == stack->root);
}

void watch_look_at_calls(Core *core, uint64_t address)
{
    const Watches *watches = core->watches;
    const WatchStack *stack = &watches->stack;
    uint8_t code[INSTRUCTION_LONGEST];
    if (address == core->straight || core->straight == STRAIGHT_NOWHERE || watches->block.size == 0)
        return;
    uint64_t pointer = cpu_reg(core, UC_X86_REG_RSP) & stack->mask;
    if (pointer - stack->start >= stack->size + FARTHEST)
        return;
    cpu_load(core);
    if (!is_watched_stack(core, stack) || !may_end_with_call(core, &watches->block) ||
        !counting_last(core, &watches->block, code))
        return;
    Transfer transfer = decode(core, code);
    uint64_t slot = (pointer - transfer.popped) & stack->mask;
    if ((transfer.is_call || transfer.is_return) && slot - stack->start < stack->size)
        watch_note(core, &(Hit){
            .kind = transfer.is_call ? WATCH_CALL : WATCH_RETURN,
            .branches = watches->block_branches,
            .instructions = core->instructions,
            .pc = watches->block.address - core->cpu->segs[CS].base,
            .address = slot,
            .value = address - core->cpu->segs[CS].base,
        });
}
