/* A guest that computes, for the machine against bare Unicorn.  No device but the exit port, no interrupt: what is
 * measured is the price of the branch clock, of paging and of everything around the CPU.
 *
 * TIGHT: a loop of five instructions, the worst case for a hook that is called at every block.
 * Otherwise: SHA-256 of a buffer (integers), then a heap sort (branches, memory).  The digest is compared with
 * EXPECTED, which the host has computed; the exit code is GOOD if that and the order are right. */
#include <stdint.h>

#include "sha256.h"

enum { GOOD = 0x10, BAD = 0x01 };

#ifdef TIGHT

static int compute(void)
{
    uint64_t sum = 0, mix = 1, left = TIGHT;
    __asm__ volatile("1: add %1, %0\n\t"
                     "xor %0, %1\n\t"
                     "rol $7, %1\n\t"
                     "dec %2\n\t"
                     "jnz 1b"
                     : "+r"(sum), "+r"(mix), "+r"(left)
                     :
                     : "cc");
    return left == 0 ? GOOD : BAD;
}

#else

enum { BUFFER = 1 << 20, SORTED = 1 << 18 };

static uint8_t buffer[BUFFER];
static uint32_t numbers[SORTED];

/* The first word of SHA-256 of the buffer PASSES times over. */
static uint32_t hash(void)
{
    uint32_t h[8] = SHA256_START;
    uint8_t last[64] = {0x80};
    uint64_t bits = (uint64_t)PASSES * BUFFER * 8;
    for (int pass = 0; pass < PASSES; pass++)
        for (int at = 0; at < BUFFER; at += 64)
            hash_block(h, buffer + at);
    for (int i = 0; i < 8; i++)
        last[63 - i] = (uint8_t)(bits >> 8 * i);
    hash_block(h, last);
    return h[0];
}

static void sift(uint32_t *heap, int root, int size)
{
    for (int child; (child = 2 * root + 1) < size; root = child) {
        if (child + 1 < size && heap[child] < heap[child + 1])
            child++;
        if (heap[root] >= heap[child])
            return;
        uint32_t kept = heap[root];
        heap[root] = heap[child];
        heap[child] = kept;
    }
}

static int sort(void)
{
    uint32_t seed = 1;
    for (int i = 0; i < SORTED; i++)
        numbers[i] = seed = seed * 1664525 + 1013904223;
    for (int i = SORTED / 2; i-- > 0;)
        sift(numbers, i, SORTED);
    for (int size = SORTED; size-- > 1;) {
        uint32_t kept = numbers[0];
        numbers[0] = numbers[size];
        numbers[size] = kept;
        sift(numbers, 0, size);
    }
    for (int i = 1; i < SORTED; i++)
        if (numbers[i - 1] > numbers[i])
            return 0;
    return 1;
}

static int compute(void)
{
    for (int i = 0; i < BUFFER; i++)
        buffer[i] = (uint8_t)(i * 167 + 13);
    uint32_t digest = hash();
    int is_sorted = 1;
    for (int pass = 0; pass < PASSES; pass++)
        is_sorted &= sort();
    return digest == EXPECTED && is_sorted ? GOOD : BAD;
}

#endif

static uint8_t stack[1 << 16] __attribute__((aligned(16), used));

static __attribute__((noreturn, used)) void begin(void)
{
    int code = compute();
    for (;;)
        __asm__ volatile("outb %b0, $0xf4\n\tcli\n\thlt" : : "a"(code));
}

__attribute__((naked)) void _start(void)
{
    __asm__("lea stack + 0x10000(%rip), %rsp\n\tcall begin");
}
