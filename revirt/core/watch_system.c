/* Watches of the CPU's dealings with its system: interrupts and exceptions taken, system calls, changes of the address
 * space (CR3) and of the privilege (CPL).
 *
 * Rules:
 * - The core delivers interrupts and enters system calls itself, and so sees each of them.
 * - CR3 and CPL change behind its back, but each instruction that changes one ends its block.  So they are looked at when
 *   a block begins, and what is new is what the last instruction of the one before it did, or what was delivered there.
 * - Where no code segment was loaded, and none left by way of virtual-8086 mode, the privilege is the same: then the whole
 *   state, which is kilobytes, need not be copied to know it. */
#include "watch.h"

enum { VECTOR_LINUX = 0x80 /* the one that Linux, and much that imitates it, is called with */ };

static uint32_t code_segment(Core *core, bool is_long)
{
    uint32_t selector = (uint16_t)cpu_reg(core, UC_X86_REG_CS);
    return is_long ? selector : selector | (uint32_t)(cpu_reg(core, UC_X86_REG_RFLAGS) & EFLAGS_VM);
}

/* The privilege of the loaded state. */
static void look_at_privilege(Core *core)
{
    SystemState *last = &core->watches->last;
    last->is_long = core->cpu->hflags & HF_LMA;
    last->code_segment = code_segment(core, last->is_long);
    last->privilege = core->cpu->hflags & HF_CPL;
}

void watch_adopt(Core *core)
{
    cpu_load(core);
    core->watches->last.cr3 = core->cpu->cr[3];
    look_at_privilege(core);
}

/* Note what the block before this one ended with; *value* is what came of it. */
static void note_change(Core *core, uint32_t kind, uint64_t value)
{
    const Watches *watches = core->watches;
    watch_note(core, &(Hit){
        .kind = kind,
        .branches = watches->block_branches,
        .instructions = core->instructions,
        .pc = watches->block.address - core->cpu->segs[CS].base,
        .value = value,
    });
}

void watch_look_at_system(Core *core)
{
    Watches *watches = core->watches;
    SystemState *last = &watches->last;
    uint64_t cr3 = core->system_watches & WATCH_ADDRESS_SPACE ? cpu_reg(core, UC_X86_REG_CR3) : last->cr3;
    if (cr3 != last->cr3) {
        cpu_load(core);
        last->cr3 = cr3;
        note_change(core, WATCH_ADDRESS_SPACE, cr3);
    }
    if ((core->system_watches & WATCH_PRIVILEGE) && code_segment(core, last->is_long) != last->code_segment) {
        unsigned before = last->privilege;
        cpu_load(core);
        look_at_privilege(core);
        if (last->privilege != before)
            note_change(core, WATCH_PRIVILEGE, last->privilege);
    }
}

static void note_system_call(Core *core, uint64_t eip)
{
    uint64_t number = core->cpu->regs[RAX];
    if (core->system_watches & WATCH_SYSTEM_CALL)
        watch_note_here(core, WATCH_SYSTEM_CALL, eip, core->cpu->hflags & HF_CS64 ? number : (uint32_t)number);
}

void watch_delivered(Core *core, int vector, bool is_software, uint64_t eip)
{
    const uint64_t *vectors = core->watches->vectors;
    if (is_software && vector == VECTOR_LINUX)
        note_system_call(core, eip);
    if ((core->system_watches & WATCH_INTERRUPT) && (vectors[vector / 64] >> vector % 64 & 1))
        watch_note_here(core, WATCH_INTERRUPT, eip, (uint64_t)vector);
}

void watch_system_call(Core *core)
{
    if (core->attention & ATTEND_WATCH)
        watch_begun(core);
    note_system_call(core, core->cpu->eip);
}
