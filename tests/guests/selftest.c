/* What an operating system and its programs expect of a CPU, tried from inside Debian.

   Every line that is printed is "name: result", and is the same wherever the program runs, but for the few that
   test_selftest names.  Build with gcc -O1 -static -pthread. */

#define _GNU_SOURCE
#include <math.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

enum { PAGE = 4096 };

static void *pages(size_t count, int protection)
{
    void *start = mmap(NULL, count * PAGE, protection, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (start == MAP_FAILED) {
        perror("mmap");
        exit(1);
    }
    return start;
}

/* ---- faults: each becomes a signal, with the reason the CPU gave ------------------------------------------- */

static sigjmp_buf recover;
static volatile struct { int signal, code; long trap, error; void *address; } fault;

static void on_fault(int number, siginfo_t *info, void *context)
{
    const greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
    fault.signal = number;
    fault.code = info->si_code;
    fault.address = info->si_addr;
    fault.trap = registers[REG_TRAPNO];
    fault.error = registers[REG_ERR];
    siglongjmp(recover, 1);
}

static void watch_faults(void)
{
    static const int numbers[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP};
    struct sigaction action = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_NODEFER};
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        sigaction(numbers[i], &action, NULL);
}

#define ATTEMPT(statement)                                                                                            \
    do {                                                                                                              \
        fault.signal = 0;                                                                                             \
        if (sigsetjmp(recover, 1) == 0) {                                                                             \
            statement;                                                                                                \
        }                                                                                                             \
    } while (0)

#define FAULT(name, statement)                                                                                        \
    do {                                                                                                              \
        ATTEMPT(statement);                                                                                           \
        if (fault.signal)                                                                                             \
            printf("%s: signal %d, code %d, trap %ld\n", name, fault.signal, fault.code, fault.trap);                 \
        else                                                                                                          \
            printf("%s: nothing\n", name);                                                                            \
    } while (0)

static void memory_faults(void)
{
    volatile char *constant = pages(1, PROT_READ);
    FAULT("read at null", (void)*(volatile int *)NULL);
    FAULT("write near null", *(volatile int *)16 = 1);
    printf("address and error of that: %p, %lx\n", fault.address, fault.error);
    FAULT("read of the kernel", (void)*(volatile int *)0xffffffff81000000);
    FAULT("read at no address", (void)*(volatile int *)0x8000000000000000);
    FAULT("write to constant page", constant[9] = 1);
    printf("offset and error of that: %td, %lx\n", (char *)fault.address - constant, fault.error);
    FAULT("call into data", ((void (*)(void))constant)());
    FAULT("misaligned store", __asm__ volatile("movaps %%xmm0, 1(%%rsp)" ::: "memory"));
}

static void instruction_faults(void)
{
    FAULT("ud2", __builtin_trap());
    FAULT("int3", __asm__ volatile("int3"));
    FAULT("hlt", __asm__ volatile("hlt"));
    FAULT("cli", __asm__ volatile("cli"));
    FAULT("int 0x33", __asm__ volatile("int $0x33"));
    FAULT("in", __asm__ volatile("inb $0x64, %%al" ::: "rax"));
    FAULT("out", __asm__ volatile("outb %%al, $0x80" ::: "memory"));
    FAULT("rdmsr", __asm__ volatile("rdmsr" ::"c"(0x10) : "rax", "rdx"));
    FAULT("read of cr3", __asm__ volatile("mov %%cr3, %%rax" ::: "rax"));
    FAULT("no such selector", __asm__ volatile("mov %0, %%es" ::"r"(0x4321)));
    FAULT("trap flag", __asm__ volatile("pushfq; orq $0x100, (%%rsp); popfq; nop; nop" ::: "memory", "cc"));
}

static void arithmetic_faults(void)
{
    unsigned short x87_control = 0x037b; /* everything masked but division by zero */
    unsigned simd_control = 0x1d80, simd_default = 0x1f80;
    volatile int zero = 0, one = 1;
    volatile double nothing = 0, whole = 1;
    FAULT("integer by zero", one /= zero);
    FAULT("x87 by zero", __asm__ volatile("fninit; fldcw %0; fldz; fld1; fdivp; fwait" ::"m"(x87_control)));
    __asm__ volatile("fnclex; fninit");
    FAULT("simd by zero", __asm__ volatile("ldmxcsr %0" ::"m"(simd_control)); whole /= nothing);
    __asm__ volatile("ldmxcsr %0" ::"m"(simd_default));
}

/* ---- code that is made and changed while it runs ------------------------------------------------------------ */

static void changing_code(void)
{
    unsigned char *code = pages(2, PROT_READ | PROT_WRITE | PROT_EXEC);
    int (*function)(void) = (int (*)(void))code;
    long sum = 0;
    for (int i = 0; i < 3000; i++) {
        code[0] = 0xb8; /* mov eax, i; ret */
        memcpy(code + 1, &i, sizeof i);
        code[5] = 0xc3;
        sum += function();
    }
    printf("function rewritten 3000 times: %ld\n", sum);

    /* movb $9, the immediate of the next instruction; mov eax, 1; ret: all one straight line */
    static const unsigned char overtaken[] = {0xc6, 0x05, 1, 0, 0, 0, 9, 0xb8, 1, 0, 0, 0, 0xc3};
    memcpy(code + PAGE, overtaken, sizeof overtaken);
    printf("instruction changed just before it runs: %d\n", ((int (*)(void))(code + PAGE))());

    mprotect(code, PAGE, PROT_READ | PROT_WRITE);
    ATTEMPT(function());
    printf("function whose page lost its right to run: signal %d\n", fault.signal);
}

/* ---- address spaces ----------------------------------------------------------------------------------------- */

static void children(void)
{
    enum { SIZE = 1 << 19, COUNT = 16 };
    char *shared = malloc(SIZE);
    int total = 0;
    memset(shared, 3, SIZE);
    for (int i = 0; i < COUNT; i++) {
        int ends[2], status;
        unsigned char sum = 0;
        if (pipe(ends) != 0)
            exit(1);
        pid_t child = fork();
        if (child == 0) {
            for (int at = 0; at < SIZE; at += PAGE)
                shared[at] = (char)i;
            for (int at = 0; at < SIZE; at += PAGE / 2)
                sum = (unsigned char)(sum + shared[at]);
            _exit(write(ends[1], &sum, 1) == 1 ? i : 255);
        }
        waitpid(child, &status, 0);
        if (read(ends[0], &sum, 1) != 1)
            exit(1);
        total += sum + WEXITSTATUS(status);
        close(ends[0]);
        close(ends[1]);
    }
    printf("children and copies on write: %d, still %d\n", total, shared[SIZE - PAGE]);
    free(shared);
}

static void protections(void)
{
    enum { COUNT = 40 };
    volatile char *area = pages(COUNT, PROT_READ | PROT_WRITE);
    int refused = 0, kept = 0;
    for (int i = 0; i < COUNT; i++) {
        area[i * PAGE] = 5;
        mprotect((void *)area, COUNT * PAGE, PROT_READ);
        ATTEMPT(area[i * PAGE] = 6);
        refused += fault.signal == SIGSEGV;
        mprotect((void *)area, COUNT * PAGE, PROT_READ | PROT_WRITE);
        kept += area[i * PAGE] == 5;
    }
    munmap((void *)area, PAGE);
    ATTEMPT(area[0] = 1);
    printf("writes refused: %d, contents kept: %d, unmapped: signal %d\n", refused, kept, fault.signal);
}

/* ---- threads that are interrupted in the middle of floating point ------------------------------------------- */

static volatile sig_atomic_t alarms;
static unsigned long counter;

static void on_alarm(int number)
{
    (void)number;
    alarms++;
}

static void *iterate(void *argument)
{
    double *value = argument;
    long double wide = *value;
    for (int i = 1; i < 150000; i++) {
        *value = *value * 0.99999 + sqrt(i) / 3;
        wide = wide * 0.99999L + (long double)i / 7;
    }
    *value += (double)wide;
    return NULL;
}

static void *count(void *argument)
{
    (void)argument;
    for (int i = 0; i < 200000; i++)
        __atomic_fetch_add(&counter, 1, __ATOMIC_SEQ_CST);
    return NULL;
}

static void threads(void)
{
    enum { COUNT = 4 };
    struct itimerval often = {{0, 4000}, {0, 4000}}, never = {{0, 0}, {0, 0}};
    struct sigaction action = {.sa_handler = on_alarm, .sa_flags = SA_RESTART};
    pthread_t thread[2 * COUNT];
    double value[COUNT];
    sigaction(SIGALRM, &action, NULL);
    setitimer(ITIMER_REAL, &often, NULL);
    for (int i = 0; i < COUNT; i++) {
        value[i] = i;
        pthread_create(&thread[i], NULL, iterate, &value[i]);
        pthread_create(&thread[COUNT + i], NULL, count, NULL);
    }
    for (int i = 0; i < 2 * COUNT; i++)
        pthread_join(thread[i], NULL);
    while (alarms < 3)
        usleep(1000);
    setitimer(ITIMER_REAL, &never, NULL);
    for (int i = 0; i < COUNT; i++)
        printf("thread %d: %.17g\n", i, value[i]);
    printf("counted together: %lu\n", counter);
}

/* ---- numbers ------------------------------------------------------------------------------------------------ */

static void numbers(void)
{
    double narrow = 0, functions = 0;
    long double wide = 1;
    volatile long double dividend = 12345.678L;
    float single = 1;
    for (int i = 1; i < 20000; i++) {
        narrow += sqrt(i) / (i + 0.5) - floor(i / 3.0) * 1e-7;
        wide = wide * 1.0001L / (1 + 1.0L / i);
        single = single * 1.0001f + 1.0f / (float)i;
        functions += sin(i) * exp(-i / 5000.0) + log(i + 0.25) * pow(1.0001, i % 90);
    }
    printf("doubles: %.17g\nextended: %.20Lg\nsingles: %.9g\n", narrow, wide, (double)single);
    printf("extended remainder: %.20Lg\n", fmodl(dividend, 3.7L));
    printf("functions: %.8g\n", functions);

    unsigned __int128 big = 1;
    uint64_t mixed = 0x9e3779b97f4a7c15;
    for (uint64_t i = 1; i < 20000; i++) {
        big = (big * 0x2545f4914f6cdd1d + i) / (i | 1) ^ big << 41;
        mixed = (mixed << 13 | mixed >> 51) * 5 + (uint64_t)__builtin_popcountll(mixed) - i / 7;
        mixed ^= (uint64_t)((int64_t)mixed >> (i & 31));
    }
    printf("integers: %016lx%016lx %016lx\n", (uint64_t)(big >> 64), (uint64_t)big, mixed);
}

static void sleeping(void)
{
    struct timespec before, after;
    clock_gettime(CLOCK_MONOTONIC, &before);
    usleep(15000);
    clock_gettime(CLOCK_MONOTONIC, &after);
    long passed = (after.tv_sec - before.tv_sec) * 1000000000L + after.tv_nsec - before.tv_nsec;
    printf("slept long enough: %d\n", passed >= 15000000);
}

int main(void)
{
    setvbuf(stdout, NULL, _IOLBF, 0);
    watch_faults();
    memory_faults();
    instruction_faults();
    arithmetic_faults();
    changing_code();
    children();
    protections();
    threads();
    numbers();
    sleeping();
    puts("selftest: done");
    return 0;
}
