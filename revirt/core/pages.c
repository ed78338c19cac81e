/* Which pages of memory were written, and the hash of each: RAM, and the store behind it.
 *
 * Where the kernel offers it (Linux 6.7), userfaultfd's asynchronous write protection marks written pages and
 * PAGEMAP_SCAN lists and re-arms them: 0.8 us for the first write to a page, nothing for the others.  Elsewhere a
 * copy of RAM is kept and compared: exact, twice the memory, some 30 ms for 256 MiB.
 *
 * A page that was written counts as changed even when its hash is the same: nothing rests on the hash being hard to
 * forge. */
#define _GNU_SOURCE
#include "core.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

/* ---- hashing ----------------------------------------------------------------------------------------------- */

enum { LANES = 4 };

static inline uint64_t fold(uint64_t a, uint64_t b)
{
    __uint128_t product = (__uint128_t)a * b;
    return (uint64_t)product ^ (uint64_t)(product >> 64);
}

/* Four independent lanes of multiply-and-fold over 16 bytes each, then the lanes folded together.  The constants are
 * the first 64 fractional bits of the square roots of 2, 3, 5, ... with the lowest bit set. */
uint64_t page_hash(const uint8_t *page)
{
    static const uint64_t KEYS[2 * LANES] = {
        0x6a09e667f3bcc909, 0xbb67ae8584caa73b, 0x3c6ef372fe94f82b, 0xa54ff53a5f1d36f1,
        0x510e527fade682d1, 0x9b05688c2b3e6c1f, 0x1f83d9abfb41bd6b, 0x5be0cd19137e2179,
    };
    uint64_t lanes[LANES] = {KEYS[1], KEYS[3], KEYS[5], KEYS[7]};
    for (const uint8_t *at = page; at < page + PAGE_SIZE; at += 16 * LANES)
        for (int i = 0; i < LANES; i++) {
            uint64_t words[2];
            memcpy(words, at + 16 * i, sizeof words);
            lanes[i] = fold(words[0] ^ KEYS[2 * i] ^ lanes[i], words[1] ^ KEYS[2 * i + 1]) + (lanes[i] << 1 | lanes[i] >> 63);
        }
    uint64_t hash = KEYS[0];
    for (int i = 0; i < LANES; i++)
        hash = fold(hash ^ lanes[i], KEYS[2 * i + 1] + lanes[i]) + lanes[i];
    return hash;
}

/* ---- the kernel's page tracking: its interface, newer than most installed headers ---------------------------- */

#ifndef UFFD_USER_MODE_ONLY
#define UFFD_USER_MODE_ONLY 1
#endif
enum { FEATURE_WP_UNPOPULATED = 1 << 13, FEATURE_WP_ASYNC = 1 << 15 };
enum { SCAN_WP_MATCHING = 1, SCAN_CHECK_WPASYNC = 2 };
enum { CATEGORY_WRITTEN = 2, CATEGORY_PRESENT = 8, CATEGORY_SWAPPED = 16 };

struct scan_argument {
    uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages;
    uint64_t category_inverted, category_mask, category_anyof_mask, return_mask;
};
struct scan_region {
    uint64_t start, end, categories;
};
#define IOCTL_PAGEMAP_SCAN _IOWR('f', 16, struct scan_argument)

static int open_userfaultfd(void)
{
    int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
    return fd >= 0 ? fd : (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY);
}

static bool protect(Core *core)
{
    struct uffdio_writeprotect range = {
        .range = {(uintptr_t)core->ram, core->memory_size},
        .mode = UFFDIO_WRITEPROTECT_MODE_WP,
    };
    return ioctl(core->pages.uffd, UFFDIO_WRITEPROTECT, &range) == 0;
}

static bool start_tracking(Core *core)
{
    PageTracker *pages = &core->pages;
    struct uffdio_api api = {.api = UFFD_API, .features = FEATURE_WP_UNPOPULATED | FEATURE_WP_ASYNC};
    struct uffdio_register registration = {
        .range = {(uintptr_t)core->ram, core->memory_size},
        .mode = UFFDIO_REGISTER_MODE_WP,
    };
    pages->uffd = open_userfaultfd();
    if (pages->uffd < 0)
        return false;
    pages->pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    /* A scan of nothing tells whether the kernel has PAGEMAP_SCAN at all. */
    struct scan_argument probe = {.size = sizeof probe, .start = (uintptr_t)core->ram, .end = (uintptr_t)core->ram};
    return pages->pagemap >= 0 && ioctl(pages->uffd, UFFDIO_API, &api) == 0 &&
           ioctl(pages->uffd, UFFDIO_REGISTER, &registration) == 0 &&
           ioctl(pages->pagemap, IOCTL_PAGEMAP_SCAN, &probe) >= 0;
}

static void stop_tracking(PageTracker *pages)
{
    if (pages->uffd >= 0)
        close(pages->uffd);
    if (pages->pagemap >= 0)
        close(pages->pagemap);
    pages->uffd = pages->pagemap = -1;
}

/* ---- both ways ---------------------------------------------------------------------------------------------- */

static const uint8_t ZERO_PAGE[PAGE_SIZE];

static int64_t note_changed(Core *core, uint64_t first, uint64_t end)
{
    for (uint64_t page = first; page < end; page++) {
        core->pages.hashes[page] = page_hash(core->ram + page * PAGE_SIZE);
        core->pages.changed[page] = 1;
    }
    return (int64_t)(end - first);
}

bool pages_init(Core *core, bool track_writes)
{
    PageTracker *pages = &core->pages;
    uint64_t count = core->memory_size / PAGE_SIZE;
    pages->uffd = pages->pagemap = -1;
    pages->hashes = malloc(count * sizeof *pages->hashes);
    pages->changed = calloc(count, 1);
    if (pages->hashes == NULL || pages->changed == NULL)
        return false;
    uint64_t zero_hash = page_hash(ZERO_PAGE);
    for (uint64_t page = 0; page < count; page++)
        pages->hashes[page] = zero_hash;
    if (!track_writes || !start_tracking(core))
        stop_tracking(pages);
    return true;
}

void pages_deinit(Core *core)
{
    PageTracker *pages = &core->pages;
    stop_tracking(pages);
    if (pages->shadow != NULL)
        munmap(pages->shadow, core->memory_size);
    free(pages->hashes);
    free(pages->changed);
    *pages = (PageTracker){.uffd = -1, .pagemap = -1};
}

/* Call *visit* with the ranges of pages in one of *categories*; their counts, added up, are returned, or -1. */
static int64_t visit_pages(Core *core, uint64_t flags, uint64_t categories,
                           int64_t (*visit)(Core *core, uint64_t first, uint64_t end))
{
    enum { REGIONS = 512 };
    struct scan_region regions[REGIONS];
    int64_t total = 0;
    uintptr_t ram = (uintptr_t)core->ram;
    struct scan_argument scan = {
        .size = sizeof scan,
        .flags = flags,
        .start = ram,
        .end = ram + core->memory_size,
        .vec = (uintptr_t)regions,
        .vec_len = REGIONS,
        .category_anyof_mask = categories,
        .return_mask = categories,
    };
    while (scan.start < scan.end) {
        long found = ioctl(core->pages.pagemap, IOCTL_PAGEMAP_SCAN, &scan);
        if (found < 0)
            return -1;
        for (long i = 0; i < found; i++)
            total += visit(core, (regions[i].start - ram) / PAGE_SIZE, (regions[i].end - ram) / PAGE_SIZE);
        scan.start = scan.walk_end;
    }
    return total;
}

static int64_t note_unless_zero(Core *core, uint64_t first, uint64_t end)
{
    int64_t total = 0;
    for (uint64_t page = first; page < end; page++)
        if (memcmp(core->ram + page * PAGE_SIZE, ZERO_PAGE, PAGE_SIZE) != 0)
            total += note_changed(core, page, page + 1);
    return total;
}

/* RAM starts zeroed, so at first exactly the pages that are not zero have changed; those that the kernel never had
 * to provide are not even looked at. */
static int64_t scan_first(Core *core)
{
    int64_t total = visit_pages(core, 0, CATEGORY_PRESENT | CATEGORY_SWAPPED, note_unless_zero);
    return protect(core) ? total : -1;
}

static int64_t scan_tracked(Core *core)
{
    return visit_pages(core, SCAN_WP_MATCHING | SCAN_CHECK_WPASYNC, CATEGORY_WRITTEN, note_changed);
}

static int64_t scan_compared(Core *core)
{
    uint8_t *shadow = core->pages.shadow;
    int64_t total = 0;
    for (uint64_t at = 0; at < core->memory_size; at += PAGE_SIZE)
        if (memcmp(core->ram + at, shadow + at, PAGE_SIZE) != 0) {
            total += note_changed(core, at / PAGE_SIZE, at / PAGE_SIZE + 1);
            memcpy(shadow + at, core->ram + at, PAGE_SIZE);
        }
    return total;
}

int64_t pages_scan(Core *core)
{
    PageTracker *pages = &core->pages;
    bool is_tracked = pages->uffd >= 0;
    if (pages->is_primed)
        return is_tracked ? scan_tracked(core) : scan_compared(core);
    pages->is_primed = true;
    if (is_tracked)
        return scan_first(core);
    pages->shadow = mmap(NULL, core->memory_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (pages->shadow == MAP_FAILED) {
        pages->shadow = NULL;
        return -1;
    }
    return scan_compared(core);
}
