/* Memory of the core's own, beyond the 40 bits of physical address that the page tables of a guest can hold: code to
 * set hardware breakpoints with, and a page table that maps nothing. */
#include "core.h"

#include <string.h>
#include <sys/mman.h>

enum { BACKSTAGE_SIZE = 2 * PAGE_SIZE };

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
    for (uint64_t copy = BACKSTAGE_START;; copy += COPY_STRIDE) {
        bool is_hit = false;
        for (int i = 0; i < 4; i++)
            is_hit |= addresses[i] - copy < COPY_STRIDE;
        if (!is_hit)
            return copy;
    }
}

void backstage_run(Core *core, const uint64_t addresses[4], uint64_t dr7)
{
    uint64_t branches = core->branches, straight = core->straight, instructions = core->instructions;
    uint32_t attention = atomic_exchange(&core->attention, 0);
    CpuHead *cpu = core->cpu;
    cpu_load(core);
    cpu->hflags = HF_PE | HF_LMA | HF_CS64 | HF_CS32 | HF_SS32;
    cpu->cr[0] = CR0_PE | CR0_ET;
    cpu->segs[CS].base = 0; /* counts even in 64-bit code */
    cpu_put_eflags(core, 2);
    memcpy(cpu->regs, addresses, 4 * sizeof *addresses); /* RAX, RCX, RDX, RBX */
    cpu->regs[RBP] = dr7;
    cpu->regs[RDI] = 0;
    cpu->eip = undisturbed_copy(addresses);
    cpu_store(core);
    uc_ctl_flush_tlb(core->uc);
    core->limit = UINT64_MAX;
    engine_emulate(core);
    core->branches = branches;
    core->straight = straight;
    core->instructions = instructions;
    core->attention |= attention;
}

void backstage_set_breakpoints(Core *core, const uint64_t addresses[4], uint64_t dr7)
{
    cpu_load(core);
    if ((core->exception->dr[7] | dr7) & DR7_ENABLE)
        backstage_run(core, addresses, dr7);
}

/* Unicorn translates a breakpoint by its linear address and looks for it by EIP.  Where they differ it finds none, and
 * loops for ever. */
bool backstage_is_lost(Core *core, uint64_t address, uint64_t size)
{
    const uint64_t *dr = core->exception->dr;
    if (likely((dr[7] & DR7_ENABLE) == 0) || core->cpu->segs[CS].base == 0)
        return false;
    for (int i = 0; i < 4; i++) {
        bool is_enabled = dr[7] >> 2 * i & 3, is_execution = (dr[7] >> (16 + 4 * i) & 3) == 0;
        if (is_enabled && is_execution && dr[i] - address < size)
            return true;
    }
    return false;
}

const char *backstage_init(Core *core)
{
    core->backstage = engine_map_memory(BACKSTAGE_SIZE);
    if (core->backstage == NULL)
        return "not enough memory";
    for (int copy = 0; copy < COPIES; copy++)
        memcpy(core->backstage + copy * COPY_STRIDE, SET_BREAKPOINTS, sizeof SET_BREAKPOINTS);
    uc_err error = UC(mem_map_ptr)(core->uc, BACKSTAGE_START, BACKSTAGE_SIZE, UC_PROT_ALL, core->backstage);
    return error == UC_ERR_OK ? NULL : UC(strerror)(error);
}

void backstage_deinit(Core *core)
{
    if (core->backstage != NULL)
        munmap(core->backstage, BACKSTAGE_SIZE);
}
