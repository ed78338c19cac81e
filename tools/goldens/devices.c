/*
 * devices: has every device of the machine, and what of the CPU the other guests leave out, say something.
 *
 * A golden recording of it holds the machine's model to what it was: each line is a register, or a hash of what many
 * showed.  Ends by a reset through the keyboard controller.
 */
#include "guest.h"

#define IRQS 16
#define PIT_COUNTERS 3
#define PIT_MODES 6
#define RTC_REGISTERS 128
#define RTC_B 0x0b
#define RTC_C 0x0c
#define RTC_SECONDS 0
#define PCI_ADDRESS 0xcf8
#define PCI_DATA 0xcfc
#define KBD_DATA 0x60
#define KBD_COMMAND 0x64

static volatile unsigned seen[IRQS];
static volatile unsigned char last_key, last_mouse;

struct frame;
#define ON_IRQ(number, what)                                                                                          \
    static __attribute__((interrupt)) void on_irq##number(struct frame *frame)                                        \
    {                                                                                                                 \
        (void)frame;                                                                                                  \
        what;                                                                                                         \
        seen[number]++;                                                                                               \
        if (number >= 8)                                                                                              \
            out8(PIC2, OCW2_EOI);                                                                                     \
        out8(PIC1, OCW2_EOI);                                                                                         \
    }
ON_IRQ(0, )
ON_IRQ(1, last_key = in8(KBD_DATA))
ON_IRQ(8, (out8(0x70, RTC_C), in8(0x71)))
ON_IRQ(12, last_mouse = in8(KBD_DATA))

/* Sleeps until interrupt *irq* has come *count* times more. */
static void wait_for(unsigned irq, unsigned count)
{
    unsigned end = seen[irq] + count;
    while (seen[irq] != end)
        __asm__ volatile("sti; hlt; cli" : : : "memory");
}

static unsigned long long stamp(void)
{
    unsigned low, high;
    __asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
    return (unsigned long long)high << 32 | low;
}

/* ---- the CPU ------------------------------------------------------------------------------------------------- */

static void show_cpu(void)
{
    static const unsigned LEAVES[] = {0,          1,          2,          7,          0xd,        0x80000000, 0x80000001,
                                      0x80000002, 0x80000003, 0x80000004, 0x80000007, 0x80000008, 0xffffffff};
    static const unsigned MSRS[] = {0x1b, 0x174, 0x1a0, 0x200, 0x250, 0x277, 0x2ff, 0xc0000080, 0xc0000103, 0x12345};
    static union {
        float as[4];
        unsigned bits[4];
    } numbers = {{2, 3, 5, 7}};
    unsigned hash = HASH_START, a, b, c, d;
    for (unsigned i = 0; i < sizeof LEAVES / sizeof *LEAVES; i++) {
        __asm__ volatile("cpuid" : "=a"(a), "=b"(b), "=c"(c), "=d"(d) : "a"(LEAVES[i]), "c"(0));
        hash = add_to(add_to(add_to(add_to(hash, a), b), c), d);
    }
    report("cpuid", hash);
    hash = HASH_START;
    for (unsigned i = 0; i < sizeof MSRS / sizeof *MSRS; i++) {
        __asm__ volatile("rdmsr" : "=a"(a), "=d"(d) : "c"(MSRS[i]));
        hash = add_to(add_to(hash, a), d);
    }
    report("msrs", hash);
    /* Square roots and quotients, which IEEE 754 defines to the last bit: no library of the host has a say. */
    __asm__ volatile("fninit; flds %1; fsqrt; fdivs %2; fstps %0"
                     : "=m"(numbers.as[2]) : "m"(numbers.as[0]), "m"(numbers.as[1]));
    report("x87", numbers.bits[2]);
    __asm__ volatile("mov %%cr4, %%eax; or $0x600, %%eax; mov %%eax, %%cr4\n"
                     "movups %0, %%xmm3; sqrtps %%xmm3, %%xmm4; divps %%xmm3, %%xmm4; movups %%xmm4, %0"
                     : "+m"(numbers) : : "eax");
    for (unsigned i = 0; i < 4; i++)
        report("sse", numbers.bits[i]);
    report("tsc", (unsigned)stamp());
}

/* ---- the timers ---------------------------------------------------------------------------------------------- */

static void show_pit(void)
{
    unsigned hash = HASH_START;
    for (unsigned counter = 0; counter < PIT_COUNTERS; counter++)
        for (unsigned mode = 0; mode < PIT_MODES; mode++) {
            out8(PIT_CONTROL, counter << 6 | 0x30 | mode << 1 | (counter == 1));
            out8(PIT_CHANNEL0 + counter, 0x34);
            out8(PIT_CHANNEL0 + counter, 0x02);
            if (counter == 2)
                out8(0x61, (in8(0x61) & ~1) | (mode & 1));
            for (volatile unsigned pause = 0; pause < 100; pause++)
                ;
            out8(PIT_CONTROL, 0xc0 | 2 << counter); /* read back count and status */
            for (unsigned i = 0; i < 3; i++)
                hash = add_to(hash, in8(PIT_CHANNEL0 + counter));
            hash = add_to(hash, in8(0x61));
        }
    report("pit", hash);
    out8(PIT_CONTROL, PIT_RATE);
    out8(PIT_CHANNEL0, 0x00);
    out8(PIT_CHANNEL0, 0x10);
    wait_for(0, 5);
    report("tsc after five ticks", (unsigned)stamp());
    out8(PIC1 + 1, in8(PIC1 + 1) | 1);
}

static unsigned char rtc(unsigned char index)
{
    out8(0x70, index);
    return in8(0x71);
}

static void rtc_write(unsigned char index, unsigned char value)
{
    out8(0x70, index);
    out8(0x71, value);
}

static void show_rtc(void)
{
    unsigned hash = HASH_START;
    for (unsigned index = 10; index < RTC_REGISTERS; index++)
        hash = add_to(hash, rtc(index));
    report("rtc", hash);
    rtc_write(0x0a, 0x26); /* 32768 Hz, periodic: 1024 a second */
    rtc_write(RTC_B, rtc(RTC_B) | 0x40);
    rtc(RTC_C);
    wait_for(8, 7);
    report("tsc after seven periods", (unsigned)stamp());
    rtc_write(RTC_B, (rtc(RTC_B) & ~0x40) | 0x10); /* once a second, when the time has changed */
    wait_for(8, 1);
    rtc_write(RTC_B, rtc(RTC_B) & ~0x10);
    report("tsc after the second", (unsigned)stamp());
}

/* ---- the rest ------------------------------------------------------------------------------------------------ */

static unsigned char reply(void)
{
    while (!(in8(KBD_COMMAND) & 1))
        ;
    return in8(KBD_DATA);
}

static void show_keyboard(void)
{
    unsigned hash = HASH_START;
    out8(KBD_COMMAND, 0xaa); /* self-test */
    hash = add_to(hash, reply());
    out8(KBD_DATA, 0xff); /* reset the keyboard: ACK, and its own self-test */
    hash = add_to(add_to(hash, reply()), reply());
    out8(KBD_DATA, 0xf2); /* identify: ACK, two bytes */
    hash = add_to(add_to(add_to(hash, reply()), reply()), reply());
    out8(KBD_COMMAND, 0x20);
    hash = add_to(hash, reply());
    report("i8042", hash);
    out8(KBD_COMMAND, 0x60);
    out8(KBD_DATA, 0x47); /* interrupts of both ports */
    out8(KBD_COMMAND, 0xd2);
    out8(KBD_DATA, 0x1e);
    wait_for(1, 1);
    report("key", last_key);
    out8(KBD_COMMAND, 0xd3);
    out8(KBD_DATA, 0x5a);
    wait_for(12, 1);
    report("mouse", last_mouse);
}

static void show_pci(void)
{
    unsigned hash = HASH_START;
    for (unsigned device = 0; device < 3; device++)
        for (unsigned index = 0; index < 256; index += 4) {
            out32(PCI_ADDRESS, 0x80000000u | device << 11 | index);
            hash = add_to(hash, in32(PCI_DATA));
        }
    out8(PCI_DATA + 1, 0xff);
    report("pci", add_to(hash, in32(PCI_ADDRESS)));
}

static void show_pics(void)
{
    unsigned hash = HASH_START;
    out8(PIC1, 0x0a); /* OCW3: read the IRR, then the ISR */
    hash = add_to(hash, in8(PIC1));
    out8(PIC1, 0x0b);
    hash = add_to(hash, in8(PIC1));
    out8(PIC2, 0x0c); /* poll */
    hash = add_to(hash, in8(PIC2));
    hash = add_to(add_to(hash, in8(PIC1 + 1)), in8(PIC2 + 1));
    report("pics", add_to(add_to(hash, in8(0x4d0)), in8(0x4d1)));
}

static void show_serial(void)
{
    unsigned hash = HASH_START;
    for (unsigned i = 1; i < 8; i++)
        hash = add_to(hash, in8(COM1 + i));
    out8(COM1 + UART_MCR, 0x1f); /* loopback */
    for (unsigned i = 0; i < 20; i++)
        out8(COM1, 'a' + i);
    hash = add_to(add_to(hash, in8(COM1 + UART_LSR)), in8(COM1 + 6));
    for (unsigned i = 0; i < 20; i++)
        hash = add_to(hash, in8(COM1));
    out8(COM1 + UART_MCR, MCR_DTR_RTS | MCR_OUT2);
    report("uart", hash);
}

/* Where nothing is: memory beyond RAM, and a port. */
static void show_nothing(void)
{
    volatile unsigned *beyond = (volatile unsigned *)0xfee00030;
    *beyond = 1;
    report("nothing", add_to(add_to(HASH_START, *beyond), in32(0x5678)));
}

int main(void)
{
    set_gate(VECTOR_BASE + 0, on_irq0, INTERRUPT_GATE);
    set_gate(VECTOR_BASE + 1, on_irq1, INTERRUPT_GATE);
    set_gate(VECTOR_BASE + 8, on_irq8, INTERRUPT_GATE);
    set_gate(VECTOR_BASE + 12, on_irq12, INTERRUPT_GATE);
    out8(PIC1 + 1, 0xff & ~(1 << 0 | 1 << 1 | 1 << 2));
    out8(PIC2 + 1, 0xff & ~(1 << 0 | 1 << 4));
    show_cpu();
    show_pit();
    show_rtc();
    show_keyboard();
    show_pci();
    show_pics();
    show_serial();
    show_nothing();
    open_receiver();
    print("your name: ");
    unsigned hash = HASH_START;
    for (unsigned char byte; (byte = read_char()) != '\n';)
        hash = add_to(hash, byte);
    report("hello", hash);
    out8(KBD_COMMAND, 0xfe); /* pulse the reset line */
    return EXIT_FAILURE;
}
