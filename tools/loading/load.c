/* A guest's load, and its own judge: connections that carry data both ways, and a file that is written all over.
 *
 *     load serve PORT COUNT              take COUNT connections at once
 *     load call ADDRESS PORT COUNT       make COUNT connections at once
 *     load disk FILE COUNT SEED          do COUNT random operations on FILE
 *
 * Whoever is at the other end of a connection sends first how many bytes it is going to send, how many we are to send,
 * and a seed for these (u64 each, little-endian).  Both then send and receive at once; at last each sends the SHA-256 of
 * what it received, and compares what it gets with that of what it sent.  The seed 0 asks for no hashes, and for
 * whatever bytes come cheapest: that is for measuring.
 *
 * The file's contents are kept in memory as well, and everything that is read is compared with that: also what was
 * just forgotten by the page cache, so that it comes from the disk.
 *
 * Each prints a line; the exit status is 0 if everything was right. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../benchmarks/sha256.h"

enum { PIECE = 1 << 16, DIGEST = 32, FILE_SIZE = 6 << 20, SPAN = 1 << 17, TRIES = 50 };

struct header {
    uint64_t theirs, ours, seed;
};

/* -- hashes, random numbers ---------------------------------------------------------------------------------- */

struct hash {
    uint32_t state[8];
    uint64_t size;
    uint8_t rest[64];
};

static void hash_add(struct hash *hash, const uint8_t *data, size_t size)
{
    size_t held = hash->size % 64;
    hash->size += size;
    if (held) {
        size_t part = size < 64 - held ? size : 64 - held;
        memcpy(hash->rest + held, data, part);
        data += part, size -= part;
        if (held + part < 64)
            return;
        hash_block(hash->state, hash->rest);
    }
    for (; size >= 64; data += 64, size -= 64)
        hash_block(hash->state, data);
    memcpy(hash->rest, data, size);
}

static void hash_finish(struct hash *hash, uint8_t digest[DIGEST])
{
    uint64_t bits = hash->size * 8;
    uint8_t end[72] = {0x80};
    size_t zeros = (119 - hash->size % 64) % 64;
    for (int i = 0; i < 8; i++)
        end[1 + zeros + 7 - i] = (uint8_t)(bits >> 8 * i);
    hash_add(hash, end, 1 + zeros + 8);
    for (int i = 0; i < DIGEST; i++)
        digest[i] = (uint8_t)(hash->state[i / 4] >> (24 - i % 4 * 8));
}

/* Marsaglia, "Xorshift RNGs", 2003: the triple 13, 7, 17. */
static uint64_t next(uint64_t *seed)
{
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    return *seed ^= *seed << 17;
}

static void fill(uint8_t *data, size_t size, uint64_t *seed)
{
    for (size_t at = 0; at < size; at += 8) {
        uint64_t word = next(seed);
        memcpy(data + at, &word, size - at < 8 ? size - at : 8);
    }
}

/* -- connections --------------------------------------------------------------------------------------------- */

static bool move_all(int fd, void *data, size_t size, bool is_sent)
{
    for (size_t at = 0; at < size;) {
        ssize_t moved = is_sent ? send(fd, (char *)data + at, size - at, MSG_NOSIGNAL) : recv(fd, (char *)data + at, size - at, 0);
        if (moved <= 0)
            return false;
        at += (size_t)moved;
    }
    return true;
}

struct flow {
    uint64_t left, seed;
    bool is_hashed;
    struct hash hash;
    uint8_t piece[PIECE];
    size_t at, end;
};

static bool send_some(int fd, struct flow *out)
{
    if (out->at == out->end) {
        out->at = 0;
        out->end = out->left < PIECE ? out->left : PIECE;
        if (out->is_hashed) {
            fill(out->piece, out->end, &out->seed);
            hash_add(&out->hash, out->piece, out->end);
        }
    }
    ssize_t sent = send(fd, out->piece + out->at, out->end - out->at, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent < 0)
        return errno == EAGAIN;
    out->at += (size_t)sent;
    out->left -= (uint64_t)sent;
    return true;
}

static bool receive_some(int fd, struct flow *in)
{
    ssize_t came = recv(fd, in->piece, in->left < PIECE ? in->left : PIECE, MSG_DONTWAIT);
    if (came <= 0)
        return came < 0 && errno == EAGAIN;
    if (in->is_hashed)
        hash_add(&in->hash, in->piece, (size_t)came);
    in->left -= (uint64_t)came;
    return true;
}

static bool exchange(int fd, const struct header *header)
{
    static struct flow in, out;
    in = out = (struct flow){.seed = header->seed, .is_hashed = header->seed, .hash = {.state = SHA256_START}};
    in.left = header->theirs, out.left = header->ours;
    uint64_t any = 1;
    fill(out.piece, PIECE, &any);
    while (in.left || out.left) {
        struct pollfd polled = {fd, (in.left ? POLLIN : 0) | (out.left ? POLLOUT : 0), 0};
        if (poll(&polled, 1, -1) < 0)
            return false;
        if (polled.revents & POLLOUT && !send_some(fd, &out))
            return false;
        if (polled.revents & ~POLLOUT && !receive_some(fd, &in))
            return false;
    }
    uint8_t sent[DIGEST], received[DIGEST], theirs[DIGEST];
    hash_finish(&out.hash, sent);
    hash_finish(&in.hash, received);
    return move_all(fd, received, DIGEST, true) && move_all(fd, theirs, DIGEST, false)
           && (!in.is_hashed || !memcmp(theirs, sent, DIGEST));
}

static bool talk(int fd)
{
    struct header header;
    bool is_good = move_all(fd, &header, sizeof header, false) && exchange(fd, &header);
    close(fd);
    return is_good;
}

static int wait_for_all(const char *what, int count)
{
    int good = 0;
    for (int status; wait(&status) > 0;)
        good += WIFEXITED(status) && WEXITSTATUS(status) == 0;
    printf("load: %s: %d of %d right\n", what, good, count);
    return good == count ? 0 : 1;
}

static int fail(const char *what)
{
    printf("load: %s: %s\n", what, strerror(errno));
    return 1;
}

static int serve(int port, int count)
{
    struct sockaddr_in here = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    int one = 1, listener = socket(AF_INET, SOCK_STREAM, 0);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(listener, (struct sockaddr *)&here, sizeof here) || listen(listener, count))
        return fail("serve");
    puts("load: serving");
    for (int taken = 0; taken < count;) {
        int fd = accept(listener, NULL, NULL);
        if (fd < 0)
            return fail("serve");
        struct header header;
        /* Whoever forwards a port may give up before there is anything to forward. */
        if (!move_all(fd, &header, sizeof header, false)) {
            close(fd);
            continue;
        }
        taken++;
        if (!fork())
            _exit(exchange(fd, &header) ? 0 : 1);
        close(fd);
    }
    return wait_for_all("serve", count);
}

static bool call_once(const struct sockaddr_in *there)
{
    for (int tries = 0; tries < TRIES; tries++) {
        int fd = socket(AF_INET, SOCK_STREAM, 0);
        if (!connect(fd, (const struct sockaddr *)there, sizeof *there))
            return talk(fd);
        close(fd);
        usleep(100000);
    }
    return false;
}

static int call(const char *address, int port, int count)
{
    struct sockaddr_in there = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    inet_aton(address, &there.sin_addr);
    for (int made = 0; made < count; made++)
        if (!fork())
            _exit(call_once(&there) ? 0 : 1);
    return wait_for_all("call", count);
}

/* -- the disk ------------------------------------------------------------------------------------------------ */

static uint8_t kept[FILE_SIZE], seen[FILE_SIZE];

static bool is_as_kept(int fd, size_t start, size_t size)
{
    return pread(fd, seen, size, (off_t)start) == (ssize_t)size && !memcmp(seen, kept + start, size);
}

static bool write_mapped(int fd, size_t start, size_t size)
{
    size_t before = start % 4096;
    uint8_t *mapped = mmap(NULL, before + size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, (off_t)(start - before));
    if (mapped == MAP_FAILED)
        return false;
    memcpy(mapped + before, kept + start, size);
    return !munmap(mapped, before + size);
}

/* Do one operation on *fd*, whose file has *size* bytes; return whether all was right. */
static bool operate(int fd, size_t *size, uint64_t *seed)
{
    uint64_t kind = next(seed) % 16;
    size_t start = next(seed) % (FILE_SIZE - SPAN), span = next(seed) % SPAN + 1;
    if (kind < 6 || (kind < 8 && start + span <= *size)) {
        fill(kept + start, span, seed);
        if (start + span > *size)
            *size = start + span;
        return kind < 6 ? pwrite(fd, kept + start, span, (off_t)start) == (ssize_t)span : write_mapped(fd, start, span);
    }
    if (kind < 12)
        return start + span > *size || is_as_kept(fd, start, span);
    if (kind == 12) {
        if (start < *size)
            memset(kept + start, 0, *size - start);
        *size = start;
        return !ftruncate(fd, (off_t)start);
    }
    if (kind == 13)
        return !fdatasync(fd);
    return !fsync(fd) && !posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
}

static int work_on(const char *path, int count, uint64_t seed)
{
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
    if (fd < 0)
        return fail("disk");
    size_t size = 0;
    for (int done = 0; done < count; done++)
        if (!operate(fd, &size, &seed)) {
            printf("load: disk: operation %d of %d went wrong\n", done, count);
            return 1;
        }
    bool is_good = !fsync(fd) && !posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED) && is_as_kept(fd, 0, size) && !close(fd);
    printf("load: disk: %d of %d right\n", is_good ? count : 0, count);
    return is_good ? 0 : 1;
}

int main(int count, char **words)
{
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (count == 4 && !strcmp(words[1], "serve"))
        return serve(atoi(words[2]), atoi(words[3]));
    if (count == 5 && !strcmp(words[1], "call"))
        return call(words[2], atoi(words[3]), atoi(words[4]));
    if (count == 5 && !strcmp(words[1], "disk"))
        return work_on(words[2], atoi(words[3]), strtoull(words[4], NULL, 0) | 1);
    puts("load: serve PORT COUNT, call ADDRESS PORT COUNT, or disk FILE COUNT SEED");
    return 2;
}
