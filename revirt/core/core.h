/* The CPU core, seen from its own sources.
 *
 *   unicorn_api   libunicorn's functions
 *   cpu           where things are in the CPU state, how a CPU starts, page tables
 *   state         the architectural state: registers, digests, saved states
 *   exceptions    what Unicorn leaves to its user: delivery through the IDT, SYSCALL, SYSENTER, port permissions
 *   pages         which pages were written, page hashes
 *   engine        the branch clock, running and stopping
 *   counting      instructions, counted by blocks
 *   intercept     what Unicorn hands over: exceptions, system calls, CPUID, ports and MMIO
 *   watch         execution of given instructions and accesses to given memory, noted
 *   watch_system  interrupts, system calls, changes of address space and privilege, noted
 *   watch_calls   calls and returns in a stretch of the stack, noted
 *   watch_list    what is watched
 *   traps         memory watched by the host's page protection
 *   backstage     memory of the core's own; hardware breakpoints
 *   module        the Python type: running it, devices
 *   views         its memory and state
 *
 * _core.pyi says what each operation means. */
#ifndef REVIRT_CORE_H
#define REVIRT_CORE_H

#include <setjmp.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "unicorn_api.h"

#define PAGE_SIZE 4096u
#define PAGE_SHIFT 12

#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)

/* ---- cpu.c: the CPU state inside a saved context ---------------------------------------------------------- */

typedef struct {
    uint32_t selector;
    uint32_t reserved;
    uint64_t base;
    uint32_t limit;
    uint32_t flags; /* the second word of the descriptor, as QEMU keeps it */
} Segment;

enum { ES, CS, SS, DS, FS, GS, SEGMENTS };
enum { RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8, R9, R10, R11, R12, R13, R14, R15, GENERAL_REGISTERS };

/* The head of Unicorn's CPU state; cpu_layout_find() refuses to run if it is not like this. */
typedef struct {
    uint64_t regs[GENERAL_REGISTERS];
    uint64_t eip;
    uint64_t eflags; /* without the six condition codes and DF, which live in the next fields */
    uint64_t cc_dst, cc_src, cc_src2;
    uint32_t cc_op;
    int32_t df;
    uint32_t hflags, hflags2;
    Segment segs[SEGMENTS];
    Segment ldt, tr, gdt, idt;
    uint64_t cr[5];
} CpuHead;

/* A later stretch of it, found by writing markers to the debug registers. */
typedef struct {
    int32_t error_code;
    int32_t is_software_interrupt;
    uint64_t next_eip;
    uint64_t dr[8];
    void *breakpoints[4]; /* of this process: never part of a saved state */
    int32_t old_exception;
} CpuExceptionState;

/* hflags: what the translator depends on. */
enum {
    HF_CPL = 3,
    HF_INHIBIT_IRQ = 1 << 3,
    HF_CS32 = 1 << 4,
    HF_SS32 = 1 << 5,
    HF_ADDSEG = 1 << 6,
    HF_PE = 1 << 7,
    HF_LMA = 1 << 14,
    HF_CS64 = 1 << 15,
    /* All that a guest can set here: not SMM, SVM and MPX, which this CPU does not have. */
    HF_SAVED = 0x01c7fffb,
};
enum {
    EFLAGS_TF = 1 << 8,
    EFLAGS_IF = 1 << 9,
    EFLAGS_DF = 1 << 10,
    EFLAGS_IOPL_SHIFT = 12,
    EFLAGS_NT = 1 << 14,
    EFLAGS_RF = 1 << 16,
    EFLAGS_VM = 1 << 17,
    EFLAGS_AC = 1 << 18,
    EFLAGS_CC = 0x8d5,
    EFLAGS_SAVED = 0x003f7fd7,
};
enum { CC_OP_EFLAGS = 1 };
enum { CR0_PE = 1, CR0_ET = 1 << 4, CR0_NE = 1 << 5, CR0_WP = 1 << 16, CR0_PG = 1 << 31 };
enum { CR4_PSE = 1 << 4, CR4_PAE = 1 << 5, CR4_LA57 = 1 << 12 };
enum { EFER_SCE = 1, EFER_LME = 1 << 8, EFER_LMA = 1 << 10, EFER_SAVED = 0x4d01 /* and NXE, FFXSR */ };
enum { DR7_ENABLE = 0xff };
enum {
    MSR_SYSENTER_CS = 0x174,
    MSR_SYSENTER_ESP = 0x175,
    MSR_SYSENTER_EIP = 0x176,
    MSR_EFER = 0xc0000080,
    MSR_STAR = 0xc0000081,
    MSR_LSTAR = 0xc0000082,
    MSR_CSTAR = 0xc0000083,
    MSR_FMASK = 0xc0000084,
    MSR_TSC_AUX = 0xc0000103,
};

/* ---- the core ---------------------------------------------------------------------------------------------- */

typedef enum {
    STOP_NONE,
    STOP_LIMIT,
    STOP_REQUEST,
    STOP_INTERRUPTIBLE,
    STOP_HALT,
    STOP_SHUTDOWN,
    STOP_STEPS,
    STOP_WATCH,
    STOP_INTERNAL, /* the core's own business: run on */
} Stop;

/* Reasons for the block hook to look up, in Core.attention. */
enum {
    ATTEND_REQUEST = 1,
    ATTEND_INTR = 2,
    ATTEND_FLUSH = 4,
    ATTEND_FAULT = 8,
    ATTEND_RESUME = 16,
    ATTEND_COUNT = 32, /* every block */
    ATTEND_WATCH = 64, /* likewise */
    ATTEND_HIT = 128,
    ATTEND_RESTART = 256,
    ATTEND_STEPS = 512, /* stepping is to end where a block begins: every block */
};

/* What the block hook may see next after running on from a stop. */
typedef enum {
    RESUME_NONE,
    RESUME_BLOCK,   /* the block that it had stopped at, again */
    RESUME_RESTART, /* that block, starting over because it wrote to itself */
} Resume;

/* The moment within a straight line at which the guest begins to let interrupts in, by STI or POPF, while one waits.
 * Both end a block, and so does the instruction in the shadow of STI, so this is where a block begins however code is
 * cut.  INTR has to be high from the beginning of the line: then the block hook sees each of its blocks. */
typedef struct {
    bool is_looked_for;
    uint64_t line;  /* the branch count of the line, if INTR is high since its beginning */
    uint64_t shut_branches, shut_end; /* of the latest block that began with interrupts shut out */
} Window;

typedef struct {
    uint32_t key[2];       /* leaf and subleaf */
    uint32_t registers[4]; /* EAX, EBX, ECX, EDX */
} CpuidLeaf;

enum { CPUID_LEAVES = 64, FAULT_TEXT = 200, STATE_VALUES = 177 };

typedef struct {
    uint64_t low, high; /* high: of what is wider than 64 bits */
} StateValue;

/* Calls into Python; each returns with the exception, if any, already put aside. */
typedef struct Core Core;
typedef struct {
    uint64_t (*port_in)(Core *core, uint32_t port, int size);
    void (*port_out)(Core *core, uint32_t port, int size, uint32_t value);
    uint64_t (*mmio_read)(Core *core, uint64_t address, unsigned size);
    void (*mmio_write)(Core *core, uint64_t address, unsigned size, uint64_t value);
} Callbacks;

enum { MMIO_REGIONS = 16 };
typedef struct {
    Core *core;
    uint64_t start;
} MmioRegion;

typedef struct {
    int uffd;       /* -1 where the kernel does not track writes */
    int pagemap;
    uint8_t *shadow; /* a copy of RAM to compare with, where it does not */
    uint64_t *hashes;
    uint8_t *changed; /* a byte a page */
    bool is_primed;
} PageTracker;

/* A translated block: a stretch of linear addresses. */
typedef struct {
    uint64_t address;
    uint32_t size, count; /* bytes, instructions */
} Block;

typedef struct Ruler Ruler;

/* What a hit is: one of these, with what is not certain about it. */
enum {
    WATCH_EXECUTE = 1,
    WATCH_READ = 2,
    WATCH_WRITE = 4,
    WATCH_MAYBE = 8,  /* it goes on from this page into another, which may or may not be watched */
    WATCH_BLOCK = 16, /* somewhere in the block that begins at pc */
    WATCH_INTERRUPT = 32,
    WATCH_SYSTEM_CALL = 64,
    WATCH_ADDRESS_SPACE = 128,
    WATCH_PRIVILEGE = 256,
    WATCH_CALL = 512,
    WATCH_RETURN = 1024,
    WATCH_SYSTEM = WATCH_INTERRUPT | WATCH_SYSTEM_CALL | WATCH_ADDRESS_SPACE | WATCH_PRIVILEGE,
};

typedef struct {
    uint64_t kind, branches, instructions, pc, address, size, value;
} Hit;

typedef struct {
    uint64_t start, size;
} WatchRange;

/* A stretch of one of the guest's stacks. */
typedef struct {
    uint64_t start, size; /* values of the stack pointer; size 0: none */
    uint64_t mask;        /* the part of RSP that is one */
    uint64_t base;        /* of SS */
    uint64_t privilege, root; /* CPL; CR3 without its low 12 bits, 0 for any */
} WatchStack;

enum { VECTORS = 256 };
#define WATCH_STACK_LIMIT (1ull << 32)

typedef struct {
    uint64_t *code;              /* linear addresses */
    WatchRange *writes, *reads; /* physical ranges */
    size_t code_count, write_count, read_count;
    uint32_t system;                /* of WATCH_SYSTEM */
    uint64_t vectors[VECTORS / 64]; /* a bit for each that WATCH_INTERRUPT is about */
    WatchStack stack;
    uint64_t traps; /* how many at most; 0: hooks watch memory */
} WatchList;

typedef struct Watches Watches;

struct Core {
    uc_engine *uc;
    uc_context *context, *fault_context, *reset_context;
    StateValue reset_values[STATE_VALUES];
    CpuHead *cpu;                 /* inside context */
    CpuExceptionState *exception; /* likewise */
    uint64_t *efer;               /* likewise */
    uint8_t *ram;
    uint64_t ram_size;    /* what the guest can address */
    uint64_t memory_size; /* the store behind it included */
    uint8_t *backstage; /* memory of the core's own, which no guest can address */

    /* The clock: taken branches. */
    uint64_t branches;
    uint64_t straight; /* linear address at which execution continues if no branch is taken */
    Window window;
    uint32_t stopped_size; /* bytes of the block that the block hook has stopped at, 0 if it has not */
    Resume resume;
    uint64_t resume_address;
    uint32_t resume_size;
    uint64_t limit;
    _Atomic uint32_t attention;
    Stop stop;
    bool is_running;
    char fault[FAULT_TEXT];
    bool is_at_port; /* a device's callback for an IN or OUT is running */
    bool port_fault; /* an IN or OUT was refused: #GP is due where fault_context was saved */
    uint64_t exception_branches;
    unsigned exceptions_in_place;

    uint64_t clock_base_ns, clock_base_branches, ns_per_branch;

    uint64_t instructions, steps_left;
    bool counting, stepping;
    uc_hook instruction_hook; /* while stepping */
    Block block;              /* counted and in progress; size 0: none */
    Ruler *ruler;

    Watches *watches; /* NULL until there are any */
    uint32_t system_watches; /* of WATCH_SYSTEM */
    bool traps;              /* memory is watched by page protection */
    uint64_t traps_left;
    bool stop_at_hits;
    bool has_deleted_hooks; /* which go when the engine has stopped once */

    PageTracker pages;
    uint8_t *code_pages; /* a byte a page: it holds translated code */

    CpuidLeaf cpuid[CPUID_LEAVES];
    size_t cpuid_count;
    MmioRegion mmio[MMIO_REGIONS];
    size_t mmio_count;
    const Callbacks *callbacks;
};

/* No branch count: there is no such line. */
#define NO_LINE UINT64_MAX

/* No straight line continues here: the next block counts as a taken branch. */
#define STRAIGHT_NOWHERE UINT64_MAX

/* ---- cpu.c ------------------------------------------------------------------------------------------------- */

uint64_t cpu_reg(Core *core, int reg);
void cpu_set_reg(Core *core, int reg, uint64_t value);
uint64_t cpu_msr(Core *core, uint32_t number);
void cpu_set_msr(Core *core, uint32_t number, uint64_t value);

/* Find the fields of the CPU state in a context, and check them.  Returns NULL, or what does not fit. */
const char *cpu_layout_find(Core *core);
/* Copy the CPU's state to core->cpu, and back. */
void cpu_load(Core *core);
void cpu_store(Core *core);

/* A hash of the general registers and the flags. */
uint16_t cpu_check(Core *core);

typedef enum { MODE_REAL, MODE_PROTECTED, MODE_LONG } CpuMode;
typedef struct {
    CpuMode mode;
    uint64_t pc, gdt_base, cr3;
    uint32_t gdt_limit;
    uint64_t regs[GENERAL_REGISTERS];
} CpuStart;
void cpu_start(Core *core, const CpuStart *start);

/* Set eflags and the condition codes that live apart from it (in a loaded state). */
void cpu_put_eflags(Core *core, uint64_t eflags);
void cpu_put_segment(Core *core, int segment, uint32_t selector, uint64_t base, uint32_t limit, uint32_t flags);
/* Recompute what hflags say about the segments; for modes without 64-bit code. */
void cpu_update_hflags(Core *core);

typedef struct {
    int vector;
    uint32_t error;
} Fault;
/* Supervisor accesses by linear address, through the page tables of the loaded state.  False: *fault is due. */
bool cpu_read(Core *core, uint64_t address, void *buffer, size_t size, Fault *fault);
bool cpu_write(Core *core, uint64_t address, const void *buffer, size_t size, Fault *fault);
/* Translate without side effects.  False: not mapped. */
bool cpu_translate(Core *core, uint64_t address, uint64_t *physical);
/* Whether the CPU can form *address* (SDM volume 1, 3.3.7.1). */
bool cpu_is_linear(const Core *core, uint64_t address);

/* ---- state.c ------------------------------------------------------------------------------------------------ */

void state_save(Core *core, StateValue values[STATE_VALUES]);
/* Any values will do: what a guest could not have set is left out. */
void state_restore(Core *core, const StateValue values[STATE_VALUES]);
/* Every value in a fixed order. */
typedef void StateVisitor(void *data, const char *name, const StateValue *value, bool is_wide);
void state_visit(Core *core, StateVisitor *visit, void *data);

/* ---- exceptions.c ------------------------------------------------------------------------------------------ */

typedef enum { CAUSE_EXCEPTION, CAUSE_SOFTWARE, CAUSE_EXTERNAL } Cause;
/* Deliver *vector* in the loaded state, with the faults that this meets.  False: the CPU shut down. */
bool exception_deliver(Core *core, int vector, uint32_t error, Cause cause);
void exception_syscall(Core *core);
void exception_sysenter(Core *core);
/* Whether the present privilege allows access to *size* ports from *port*. */
bool exception_port_allowed(Core *core, uint32_t port, int size);

/* ---- pages.c ----------------------------------------------------------------------------------------------- */

uint64_t page_hash(const uint8_t *page);
bool pages_init(Core *core, bool track_writes);
void pages_deinit(Core *core);
/* Returns the number of changed pages, -1 with errno set. */
int64_t pages_scan(Core *core);

/* ---- engine.c ---------------------------------------------------------------------------------------------- */

/* Returns NULL, or what went wrong; text that begins with NO_MEMORY if it was that. */
#define NO_MEMORY "not enough memory"
const char *engine_init(Core *core, size_t translation_buffer, bool track_writes);
void engine_deinit(Core *core);
Stop engine_run(Core *core, uint64_t limit);
/* With *whole_blocks* it ends where the block begins that follows. */
Stop engine_step(Core *core, uint64_t count, uint64_t limit, bool whole_blocks);
void engine_interrupt(Core *core, int vector);
void engine_set_intr(Core *core, bool level);
/* Returns NULL, or what went wrong, as engine_init() does. */
const char *engine_set_counting(Core *core, bool on);
/* Physical memory was written by something else than guest code. */
void engine_written(Core *core, uint64_t start, uint64_t size);
void engine_drop_translations(Core *core);
/* Forget what belongs to the state that the CPU had before it was given another. */
void engine_adopt_state(Core *core);
uint64_t engine_clock_ns(const Core *core);
/* Where to go when libunicorn calls abort() in this thread; NULL: nowhere. */
extern _Thread_local sigjmp_buf *engine_rescue;
/* Run from the CPU's present state until a hook stops it or it halts; an abort() of libunicorn's is a shutdown. */
uc_err engine_emulate(Core *core);
const char *engine_add_hook(Core *core, int type, void *callback, int instruction);
uint8_t *engine_map_memory(uint64_t size);

/* ---- counting.c -------------------------------------------------------------------------------------------- */

const char *counting_init(Core *core);
void counting_deinit(Core *core);
/* A block was translated. */
void counting_note(Core *core, const uc_tb *block);
/* All translations were dropped. */
void counting_forget(Core *core);
/* The block hook has come to this block: the last one is over. */
void counting_arrive(Core *core, uint64_t address, uint32_t size);
/* The block will be executed. */
void counting_begin(Core *core, uint64_t address, uint32_t size);
/* Execution has left the block in progress at the loaded state's EIP: by exception *vector*, which may be a software
 * interrupt (EIP is behind it), or for good. */
void counting_leave(Core *core, int vector, bool is_software);
/* Instructions executed so far, of the block in progress those up to the IN or OUT in whose callback this is. */
uint64_t counting_now(Core *core);
/* Instructions executed so far, with that at linear *address* of the block in progress as the last. */
uint64_t counting_at(Core *core, uint64_t address);
/* For the loaded state.  How many instructions of *block* begin before linear *end*, -1 if none begins there. */
int64_t counting_before(Core *core, const Block *block, uint64_t end);
/* For the loaded state, which has left *block*, as counting_leave() says: what begins before the linear address that
 * this returns has begun. */
uint64_t counting_reach(Core *core, const Block *block, int vector, bool is_software);
/* If the block of this *size* at *address* is where *last* starts over, having written to its own code: how many
 * instructions that executed before; else -1.  May load the state. */
int64_t counting_restart(Core *core, const Block *last, uint64_t address, uint32_t size);
/* For the loaded state.  Copy the last *size* bytes of *block*; false if it has not so many, or they cannot be read. */
bool counting_tail(Core *core, const Block *block, uint8_t *code, size_t size);
/* For the loaded state.  Copy the last instruction of *block*, and zeros behind it; false if it cannot be read. */
enum { INSTRUCTION_LONGEST = 24 /* bytes: Unicorn gives up when it has read more than 15, at most 8 at once */ };
bool counting_last(Core *core, const Block *block, uint8_t code[INSTRUCTION_LONGEST]);

/* ---- watch.c, watch_system.c, watch_list.c ----------------------------------------------------------------------- */

/* Watch this and nothing else.  Returns NULL, or what is wrong with it; text that begins with NO_MEMORY. */
const char *watch_set(Core *core, const WatchList *list);
void watch_deinit(Core *core);
/* Return how many hits have not been taken yet; they are the *first* and then the *second* ones, until the next. */
size_t watch_take(Core *core, const Hit **first, size_t *first_count, const Hit **second, size_t *second_count);
uint64_t watch_noted(const Core *core);
/* All that follows is for ATTEND_WATCH only.  The guest begins to run, and has stopped. */
void watch_start(Core *core);
void watch_finish(Core *core);
/* The engine is about to be started, which gives it back the hooks that it has lost. */
void watch_start_anew(Core *core);
/* As their namesakes of counting.c, and after them. */
void watch_arrive(Core *core, uint64_t address, uint32_t size);
void watch_begin(Core *core, uint64_t address, uint32_t size);
void watch_leave(Core *core, int vector, bool is_software);
/* The block that began last starts over as it did before the guest was stopped: that it was executed is noted twice. */
void watch_forget_restart(Core *core);
/* The instruction at linear *address*, where a block begins, may have begun before and undone what it did: return what
 * need not be attended to, for it was only to stop at that.  Then, what was noted is made now, or will be noted again. */
uint32_t watch_look_at_undone(Core *core, uint64_t address);
void watch_settle_undone(Core *core, uint64_t address, bool is_made);
/* While stepping: the instruction at linear *address* begins. */
void watch_instruction(Core *core, uint64_t address);
/* The core itself is about to access physical memory for the loaded state, and has done so. */
void watch_touch(Core *core, uint32_t kind, uint64_t address, const uint8_t *bytes, uint64_t size);
void watch_touched(Core *core, uint64_t address, uint64_t size);
/* A device has written to memory. */
void watch_written(Core *core, uint64_t address, uint64_t size);
/* The CPU has been given another state. */
void watch_adopt(Core *core);
/* For Core.system_watches only.  The loaded state has become that of the handler of *vector*; it was at *eip*. */
void watch_delivered(Core *core, int vector, bool is_software, uint64_t eip);
/* The loaded state is at a SYSCALL or SYSENTER. */
void watch_system_call(Core *core);

/* ---- traps.c ----------------------------------------------------------------------------------------------- */

/* Returns whether there can be traps here. */
bool traps_init(Core *core);
void traps_deinit(Core *core);
/* The guest begins to run, and has stopped. */
void traps_close(Core *core);
void traps_open(Core *core);
/* A device has written to memory. */
void traps_written(Core *core, uint64_t start, uint64_t size);

/* ---- intercept.c ------------------------------------------------------------------------------------------- */

const char *intercept_init(Core *core);
const char *intercept_map_mmio(Core *core, uint64_t start, uint64_t size);
/* Deliver the #GP of an IN or OUT that was refused, now that the engine has stopped. */
void intercept_deliver_port_fault(Core *core);

/* ---- backstage.c ------------------------------------------------------------------------------------------- */

#define BACKSTAGE_START (1ull << 51)
#define BACKSTAGE_EMPTY_PAGE_TABLE (BACKSTAGE_START + PAGE_SIZE)

const char *backstage_init(Core *core);
void backstage_deinit(Core *core);
/* Insert the hardware breakpoints that DR0-3 and DR7 describe, instead of those inserted now.  Leaves the rest of the
 * CPU's state in disorder. */
void backstage_set_breakpoints(Core *core, const uint64_t addresses[4], uint64_t dr7);
/* Whether the loaded state has a breakpoint in the block at linear *address* that Unicorn would never return from. */
bool backstage_is_lost(Core *core, uint64_t address, uint64_t size);
void backstage_run(Core *core, const uint64_t addresses[4], uint64_t dr7);
void engine_shut_down(Core *core, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
