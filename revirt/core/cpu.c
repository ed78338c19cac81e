/* Where things are in the CPU state, how a CPU starts, and its page tables. */
#include "core.h"

#include <string.h>

enum {
    FLAGS_CODE16 = 0x00009b00,
    FLAGS_DATA16 = 0x00009300,
    FLAGS_CODE32 = 0x00cf9b00,
    FLAGS_CODE64 = 0x00af9b00,
    FLAGS_DATA32 = 0x00cf9300,
    FLAGS_LDT = 0x00008200,
    FLAGS_TSS32 = 0x00008900 /* busy after a reset, but Unicorn knows no busy TSS: it aborts */,
    FLAG_BIG = 1 << 22,
    START_CODE_SELECTOR = 0x10,
    START_DATA_SELECTOR = 0x18,
    REAL_CODE_BASE = 0xf0000 /* bits of an address that IP does not have */,
};

uint64_t cpu_reg(Core *core, int reg)
{
    uint64_t value = 0;
    UC(reg_read)(core->uc, reg, &value);
    return value;
}

void cpu_set_reg(Core *core, int reg, uint64_t value)
{
    UC(reg_write)(core->uc, reg, &value);
}

uint64_t cpu_msr(Core *core, uint32_t number)
{
    uc_x86_msr msr = {.rid = number};
    UC(reg_read)(core->uc, UC_X86_REG_MSR, &msr);
    return msr.value;
}

void cpu_set_msr(Core *core, uint32_t number, uint64_t value)
{
    uc_x86_msr msr = {.rid = number, .value = value};
    UC(reg_write)(core->uc, UC_X86_REG_MSR, &msr);
}

void cpu_load(Core *core)
{
    UC(context_save)(core->uc, core->context);
}

void cpu_store(Core *core)
{
    UC(context_restore)(core->uc, core->context);
}

uint16_t cpu_check(Core *core)
{
    cpu_load(core);
    uint64_t hash = cpu_reg(core, UC_X86_REG_RFLAGS);
    for (int i = 0; i < GENERAL_REGISTERS; i++)
        hash = (hash ^ core->cpu->regs[i]) * 0x9e3779b97f4a7c15 ^ hash >> 29;
    return (uint16_t)((hash ^ hash >> 32) >> 16);
}

/* ---- layout ------------------------------------------------------------------------------------------------ */

static const uint64_t MARKERS[4] = {0x1122334455667788, 0x99aabbccddeeff01, 0x0badcafe12345678, 0x5eed5eed00c0ffee};
enum { MARKER_RIP = 0x5eed5eed, MARKER_TR = 0x7777, MARKER_GDT = 0x12340000, MARKER_IDT = 0x43210000 };
static const uint64_t MARKER_CR2 = 0xdeadbeef1234;

static void write_markers(Core *core)
{
    cpu_set_reg(core, UC_X86_REG_RAX, MARKERS[0]);
    cpu_set_reg(core, UC_X86_REG_RCX, MARKERS[1]);
    cpu_set_reg(core, UC_X86_REG_R15, MARKERS[2]);
    cpu_set_reg(core, UC_X86_REG_RIP, MARKER_RIP);
    for (int i = 0; i < 4; i++)
        cpu_set_reg(core, UC_X86_REG_DR0 + i, MARKERS[i]);
    uc_x86_mmr tr = {.base = MARKER_TR, .limit = 0x6666, .selector = 0x55, .flags = FLAGS_TSS32};
    uc_x86_mmr gdt = {.base = MARKER_GDT, .limit = 0x7f}, idt = {.base = MARKER_IDT, .limit = 0xfff};
    UC(reg_write)(core->uc, UC_X86_REG_TR, &tr);
    UC(reg_write)(core->uc, UC_X86_REG_GDTR, &gdt);
    UC(reg_write)(core->uc, UC_X86_REG_IDTR, &idt);
    cpu_set_reg(core, UC_X86_REG_CR2, MARKER_CR2);
    cpu_set_reg(core, UC_X86_REG_CS, 0x4242);
    cpu_set_reg(core, UC_X86_REG_SS, 0x2424);
}

static uint64_t word_at(const uint8_t *bytes)
{
    uint64_t word;
    memcpy(&word, bytes, sizeof word);
    return word;
}

/* The one word that follows EFER when EFER changes. */
static const char *find_efer(Core *core, size_t size)
{
    uint8_t *bytes = (uint8_t *)core->context;
    uint64_t before = cpu_msr(core, MSR_EFER);
    cpu_set_msr(core, MSR_EFER, before ^ EFER_SCE);
    uint64_t after = cpu_msr(core, MSR_EFER);
    if (after == before)
        return "EFER cannot be written";
    cpu_load(core);
    for (size_t i = (size_t)((uint8_t *)(core->cpu + 1) - bytes); i + 8 <= size; i += 8) {
        if (word_at(bytes + i) != after)
            continue;
        cpu_set_msr(core, MSR_EFER, before);
        cpu_load(core);
        if (word_at(bytes + i) == before) {
            core->efer = (uint64_t *)(bytes + i);
            return NULL;
        }
        cpu_set_msr(core, MSR_EFER, after);
        cpu_load(core);
    }
    return "EFER not found";
}

const char *cpu_layout_find(Core *core)
{
    uint8_t *bytes = (uint8_t *)core->context;
    size_t size = UC(context_size)(core->uc), i;
    write_markers(core);
    cpu_load(core);

    for (i = 0; i + sizeof(CpuHead) <= size; i += 8)
        if (word_at(bytes + i) == MARKERS[0] && word_at(bytes + i + 8 * RCX) == MARKERS[1] &&
            word_at(bytes + i + 8 * R15) == MARKERS[2])
            break;
    if (i + sizeof(CpuHead) > size)
        return "general registers not found";
    core->cpu = (CpuHead *)(bytes + i);

    size_t exception = offsetof(CpuExceptionState, dr);
    for (i += sizeof(CpuHead); i + sizeof(CpuExceptionState) <= size; i += 8)
        if (memcmp(bytes + i, MARKERS, sizeof MARKERS) == 0)
            break;
    if (i + sizeof(CpuExceptionState) > size)
        return "debug registers not found";
    core->exception = (CpuExceptionState *)(bytes + i - exception);

    CpuHead *cpu = core->cpu;
    if (cpu->eip != MARKER_RIP || cpu->cr[2] != MARKER_CR2)
        return "RIP or CR2 is elsewhere";
    if (cpu->tr.base != MARKER_TR || cpu->gdt.base != MARKER_GDT || cpu->idt.base != MARKER_IDT)
        return "TR, GDTR or IDTR is elsewhere";
    if (cpu->segs[CS].selector != 0x4242 || cpu->segs[SS].selector != 0x2424)
        return "segments are elsewhere";
    if (core->exception->old_exception != -1)
        return "the pending exception is elsewhere";
    return find_efer(core, size);
}

/* ---- starting ---------------------------------------------------------------------------------------------- */

void cpu_put_eflags(Core *core, uint64_t eflags)
{
    CpuHead *cpu = core->cpu;
    cpu->cc_src = eflags & EFLAGS_CC;
    cpu->cc_dst = cpu->cc_src2 = 0;
    cpu->cc_op = CC_OP_EFLAGS;
    cpu->df = eflags & EFLAGS_DF ? -1 : 1;
    /* Unicorn takes condition codes and DF out of eflags when it starts to run, and puts them back when it stops. */
    if (core->is_running)
        eflags &= ~(uint64_t)(EFLAGS_CC | EFLAGS_DF);
    cpu->eflags = eflags | 2;
}

void cpu_put_segment(Core *core, int segment, uint32_t selector, uint64_t base, uint32_t limit, uint32_t flags)
{
    core->cpu->segs[segment] = (Segment){.selector = selector, .base = base, .limit = limit, .flags = flags};
}

void cpu_update_hflags(Core *core)
{
    CpuHead *cpu = core->cpu;
    if (cpu->hflags & HF_CS64)
        return;
    uint32_t flags = cpu->segs[SS].flags & FLAG_BIG ? HF_SS32 : 0;
    bool is_16_bit = !(cpu->cr[0] & CR0_PE) || (cpu->eflags & EFLAGS_VM) || !(cpu->hflags & HF_CS32);
    if (is_16_bit || (cpu->segs[DS].base | cpu->segs[ES].base | cpu->segs[SS].base) != 0)
        flags |= HF_ADDSEG;
    cpu->hflags = (cpu->hflags & ~(uint32_t)(HF_SS32 | HF_ADDSEG)) | flags;
}

void cpu_start(Core *core, const CpuStart *start)
{
    state_restore(core, core->reset_values);
    CpuHead *cpu = core->cpu;
    memcpy(cpu->regs, start->regs, sizeof cpu->regs);
    cpu->eip = start->pc;
    cpu_put_eflags(core, 2);
    memset(cpu->cr, 0, sizeof cpu->cr);
    cpu->gdt = (Segment){.base = start->gdt_base, .limit = start->gdt_limit};
    cpu->idt = (Segment){.limit = start->mode == MODE_REAL ? 0x3ff : 0};
    cpu->ldt = (Segment){.limit = 0xffff, .flags = FLAGS_LDT};
    cpu->tr = (Segment){.limit = 0xffff, .flags = FLAGS_TSS32};

    bool is_real = start->mode == MODE_REAL, is_long = start->mode == MODE_LONG;
    uint32_t limit = is_real ? 0xffff : 0xffffffff;
    uint32_t code = is_real ? FLAGS_CODE16 : is_long ? FLAGS_CODE64 : FLAGS_CODE32;
    for (int i = 0; i < SEGMENTS; i++)
        cpu_put_segment(core, i, is_real ? 0 : START_DATA_SELECTOR, 0, limit, is_real ? FLAGS_DATA16 : FLAGS_DATA32);
    if (is_real) {
        uint32_t base = start->pc & REAL_CODE_BASE;
        cpu_put_segment(core, CS, base >> 4, base, limit, code);
        cpu->eip = start->pc - base;
    } else {
        cpu_put_segment(core, CS, START_CODE_SELECTOR, 0, limit, code);
    }
    /* The translator's view: only these bits differ between the modes a guest may start in. */
    cpu->hflags = is_real ? HF_ADDSEG : is_long ? HF_PE | HF_CS32 | HF_SS32 | HF_CS64 | HF_LMA : HF_PE | HF_CS32 | HF_SS32;
    cpu->cr[0] = CR0_ET | (is_real ? 0 : CR0_PE);
    *core->efer = 0;
    if (is_long) {
        cpu->cr[0] |= CR0_NE | CR0_PG;
        cpu->cr[3] = start->cr3;
        cpu->cr[4] = CR4_PAE;
        *core->efer = EFER_LME | EFER_LMA;
    }
    cpu_store(core);
    core->straight = STRAIGHT_NOWHERE;
    core->stopped_size = 0;
    engine_adopt_state(core);
}

/* ---- page tables ------------------------------------------------------------------------------------------- */

enum { PTE_PRESENT = 1, PTE_WRITABLE = 2, PTE_ACCESSED = 0x20, PTE_DIRTY = 0x40, PTE_LARGE = 0x80 };
enum { PF_PRESENT = 1, PF_WRITE = 2, VECTOR_SS = 12, VECTOR_PF = 14 };
static const uint64_t PTE_ADDRESS = 0x000ffffffffff000;

typedef enum { WALK_PROBE, WALK_READ, WALK_WRITE } Walk;

static bool is_supervisor_write_allowed(const Core *core, uint64_t entries)
{
    return (entries & PTE_WRITABLE) || !(core->cpu->cr[0] & CR0_WP);
}

static void write_ram(Core *core, uint64_t physical, const uint8_t *bytes, size_t size)
{
    bool is_watching = core->attention & ATTEND_WATCH;
    if (is_watching)
        watch_touch(core, WATCH_WRITE, physical, bytes, size);
    memcpy(core->ram + physical, bytes, size);
    if (is_watching)
        watch_touched(core, physical, size);
}

/* Walk tables of *width*-byte entries from the level whose index starts at bit *shift*. */
static bool walk(Core *core, uint64_t table, unsigned shift, unsigned width, uint64_t address, Walk kind,
                 uint64_t *physical, uint32_t *error)
{
    unsigned bits = width == 8 ? 9 : 10;
    uint64_t writable = PTE_WRITABLE;
    *error = kind == WALK_WRITE ? PF_WRITE : 0;
    for (;; shift -= bits) {
        bool is_pdpt_of_pae = width == 8 && shift == 30 && !(core->cpu->hflags & HF_LMA);
        uint64_t index = (address >> shift) & (is_pdpt_of_pae ? 3 : (1u << bits) - 1);
        uint64_t at = table + index * width, entry = 0;
        if (at + width > core->ram_size)
            return false;
        memcpy(&entry, core->ram + at, width);
        if (!(entry & PTE_PRESENT))
            return false;
        if (!is_pdpt_of_pae)
            writable &= entry;
        bool may_be_large = width == 8 ? shift == 21 || (shift == 30 && !is_pdpt_of_pae)
                                       : shift == 22 && (core->cpu->cr[4] & CR4_PSE);
        bool is_leaf = shift == PAGE_SHIFT || (may_be_large && (entry & PTE_LARGE));
        if (is_leaf && kind == WALK_WRITE && !is_supervisor_write_allowed(core, writable)) {
            *error |= PF_PRESENT;
            return false;
        }
        if (kind != WALK_PROBE && !is_pdpt_of_pae) {
            uint64_t updated = entry | PTE_ACCESSED | (is_leaf && kind == WALK_WRITE ? PTE_DIRTY : 0);
            if (updated != entry)
                write_ram(core, at, (uint8_t *)&updated, width);
        }
        uint64_t frame = entry & (width == 8 ? PTE_ADDRESS : 0xfffff000u), offset = (1ull << shift) - 1;
        if (is_leaf) {
            *physical = (frame & ~offset) | (address & offset);
            return true;
        }
        table = frame;
    }
}

static bool translate(Core *core, uint64_t address, Walk kind, uint64_t *physical, uint32_t *error)
{
    CpuHead *cpu = core->cpu;
    *error = 0;
    if (!(cpu->cr[0] & CR0_PG)) {
        *physical = (uint32_t)address;
        return true;
    }
    if (!(cpu->cr[4] & CR4_PAE))
        return walk(core, cpu->cr[3] & 0xfffff000, 22, 4, (uint32_t)address, kind, physical, error);
    if (!(cpu->hflags & HF_LMA))
        return walk(core, cpu->cr[3] & 0xffffffe0, 30, 8, (uint32_t)address, kind, physical, error);
    unsigned shift = cpu->cr[4] & CR4_LA57 ? 48 : 39;
    return walk(core, cpu->cr[3] & PTE_ADDRESS, shift, 8, address, kind, physical, error);
}

bool cpu_translate(Core *core, uint64_t address, uint64_t *physical)
{
    uint32_t error;
    return translate(core, address, WALK_PROBE, physical, &error);
}

static bool is_canonical(const Core *core, uint64_t address)
{
    unsigned unused = core->cpu->cr[4] & CR4_LA57 ? 7 : 16;
    return !(core->cpu->hflags & HF_LMA) || (uint64_t)((int64_t)(address << unused) >> unused) == address;
}

bool cpu_is_linear(const Core *core, uint64_t address)
{
    return core->cpu->hflags & HF_LMA ? is_canonical(core, address) : address >> 32 == 0;
}

static bool access_memory(Core *core, uint64_t address, uint8_t *buffer, size_t size, Walk kind, Fault *fault)
{
    while (size > 0) {
        uint64_t physical;
        size_t part = PAGE_SIZE - (address & (PAGE_SIZE - 1));
        if (part > size)
            part = size;
        if (!is_canonical(core, address)) {
            *fault = (Fault){VECTOR_SS, 0};
            return false;
        }
        if (!translate(core, address, kind, &physical, &fault->error)) {
            core->cpu->cr[2] = address;
            fault->vector = VECTOR_PF;
            return false;
        }
        bool is_ram = physical + part <= core->ram_size;
        if (kind == WALK_WRITE && is_ram) {
            write_ram(core, physical, buffer, part);
            engine_written(core, physical, part);
        } else if (kind != WALK_WRITE && is_ram) {
            if (core->attention & ATTEND_WATCH)
                watch_touch(core, WATCH_READ, physical, core->ram + physical, part);
            memcpy(buffer, core->ram + physical, part);
        } else if (kind != WALK_WRITE) {
            memset(buffer, 0xff, part);
        }
        buffer += part;
        address += part;
        size -= part;
    }
    return true;
}

bool cpu_read(Core *core, uint64_t address, void *buffer, size_t size, Fault *fault)
{
    return access_memory(core, address, buffer, size, WALK_READ, fault);
}

bool cpu_write(Core *core, uint64_t address, const void *buffer, size_t size, Fault *fault)
{
    return access_memory(core, address, (uint8_t *)buffer, size, WALK_WRITE, fault);
}
