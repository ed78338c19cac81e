/* A guest that computes, for the machine against bare Unicorn.  No device but the exit port, no interrupt: what is
 * measured is the price of the branch clock, of paging and of everything around the CPU.
 *
 * TIGHT: a loop of five instructions, the worst case for a hook that is called at every block.
 * Otherwise: SHA-256 of a buffer (integers), then a heap sort (branches, memory).  The digest is compared with
 * EXPECTED, which the host has computed; the exit code is GOOD if that and the order are right. */
#include <stdint.h>

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

/* FIPS 180-4, section 4.2.2. */
static const uint32_t K[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
};

static uint32_t rotr(uint32_t x, int n)
{
    return x >> n | x << (32 - n);
}

/* FIPS 180-4, section 6.2.2. */
static void hash_block(uint32_t *h, const uint8_t *data)
{
    uint32_t w[64], v[8];
    for (int t = 0; t < 16; t++)
        w[t] = (uint32_t)data[4 * t] << 24 | (uint32_t)data[4 * t + 1] << 16 | (uint32_t)data[4 * t + 2] << 8 | data[4 * t + 3];
    for (int t = 16; t < 64; t++) {
        uint32_t s0 = rotr(w[t - 15], 7) ^ rotr(w[t - 15], 18) ^ w[t - 15] >> 3;
        uint32_t s1 = rotr(w[t - 2], 17) ^ rotr(w[t - 2], 19) ^ w[t - 2] >> 10;
        w[t] = s1 + w[t - 7] + s0 + w[t - 16];
    }
    for (int i = 0; i < 8; i++)
        v[i] = h[i];
    for (int t = 0; t < 64; t++) {
        uint32_t s1 = rotr(v[4], 6) ^ rotr(v[4], 11) ^ rotr(v[4], 25), ch = (v[4] & v[5]) ^ (~v[4] & v[6]);
        uint32_t s0 = rotr(v[0], 2) ^ rotr(v[0], 13) ^ rotr(v[0], 22);
        uint32_t maj = (v[0] & v[1]) ^ (v[0] & v[2]) ^ (v[1] & v[2]);
        uint32_t t1 = v[7] + s1 + ch + K[t] + w[t];
        for (int i = 7; i > 0; i--)
            v[i] = v[i - 1];
        v[4] += t1;
        v[0] = t1 + s0 + maj;
    }
    for (int i = 0; i < 8; i++)
        h[i] += v[i];
}

/* The first word of SHA-256 of the buffer PASSES times over. */
static uint32_t hash(void)
{
    uint32_t h[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
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
