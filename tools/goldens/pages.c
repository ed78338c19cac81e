/*
 * pages: writes to half of its memory once and to the other half over and over, and prints a line each round.
 *
 * When a circular recording of it lets go of its beginning, part of the pages that were stored with the first
 * checkpoint is still needed, and the file of them is written anew without the rest.
 *
 * With SLEEPS defined it never ends, and sleeps for some ticks of the timer after each round: to be killed.
 */
#include "guest.h"

#define PAGE 4096
#define PAGES 12
#define PAUSE 4000
#ifdef SLEEPS
#define ROUNDS 0xffffffffu
#else
#define ROUNDS 40
#endif

static volatile unsigned kept[PAGES][PAGE / 4] __attribute__((aligned(PAGE)));
static volatile unsigned changed[PAGES][PAGE / 4] __attribute__((aligned(PAGE)));

#ifdef SLEEPS
#define TICKS 10

static volatile unsigned ticks;
void start_timer(void);

struct frame;
static __attribute__((interrupt)) void on_tick(struct frame *frame)
{
    (void)frame;
    ticks++;
    out8(PIC1, OCW2_EOI);
}

static void begin(void)
{
    set_gate(VECTOR_BASE + IRQ_TIMER, on_tick, INTERRUPT_GATE);
    start_timer();
}

static void rest(void)
{
    for (unsigned end = ticks + TICKS; ticks != end;)
        __asm__ volatile("sti; hlt; cli" : : : "memory");
}
#else
static void begin(void)
{
}

static void rest(void)
{
    for (volatile unsigned pause = 0; pause < PAUSE; pause++)
        ;
}
#endif

int main(void)
{
    begin();
    for (unsigned page = 0; page < PAGES; page++)
        kept[page][page] = page + 1;
    for (unsigned round = 1; round <= ROUNDS; round++) {
        for (unsigned page = 0; page < PAGES; page++)
            changed[page][page] = round << 8 | page;
        rest();
        print("round ");
        print_decimal(round);
        put_char('\n');
    }
    return EXIT_SUCCESS;
}
