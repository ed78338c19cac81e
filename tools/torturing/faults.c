/*
 * Preloaded into a recorder: lets the N-th change below a directory fail, as a disk does that is full or broken.
 *
 *     TORTURE_BELOW      the directory: changes elsewhere are neither counted nor touched
 *     TORTURE_AT         N, from 1; unset: none fails
 *     TORTURE_ERRNO      what the call fails with; 0: it kills the process
 *     TORTURE_ONCE       if set, the calls after it work again, else they all fail, too
 *     TORTURE_HALF       if set, and the N-th call writes, half of it is written first
 *     TORTURE_PAUSE_US   if set, how long each change takes, as on a slow disk
 *     TORTURE_NOTE       a file elsewhere, which gets the call's name, what it was on, and when (CLOCK_MONOTONIC)
 *
 * A full disk takes nothing more, but lets go: with ENOSPC, deleting works and is not counted.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum verdict { WORKS, FAILS, HALVES };

static atomic_long calls;
static atomic_int fired;

static const char *setting(const char *name)
{
    const char *value = getenv(name);
    return value ? value : "";
}

static int is_below(const char *path)
{
    const char *root = setting("TORTURE_BELOW");
    size_t length = strlen(root);
    return length && !strncmp(path, root, length) && (path[length] == '/' || !path[length]);
}

/* Writes the path of an open file or directory to place, PATH_MAX bytes; an empty one if it has none. */
static void path_of(int fd, char *place)
{
    char link[64];
    if (fd == AT_FDCWD)
        snprintf(link, sizeof link, "/proc/self/cwd");
    else
        snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = syscall(SYS_readlinkat, AT_FDCWD, link, place, PATH_MAX - 1);
    place[length > 0 ? length : 0] = 0;
}

static void note(const char *call, const char *path)
{
    char line[PATH_MAX + 128];
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    int size = snprintf(line, sizeof line, "%s %lld.%09ld %s\n", call, (long long)now.tv_sec, now.tv_nsec, path);
    int fd = syscall(SYS_openat, AT_FDCWD, setting("TORTURE_NOTE"), O_WRONLY | O_CREAT | O_TRUNC, 0600);
    if (fd >= 0) {
        syscall(SYS_write, fd, line, (size_t)size);
        syscall(SYS_close, fd);
    }
}

static enum verdict refuse(enum verdict verdict)
{
    errno = atoi(setting("TORTURE_ERRNO"));
    if (verdict == FAILS && !errno)
        kill(getpid(), SIGKILL);
    return verdict;
}

/* Counts a call on path; says what is to become of it, and sets errno. */
static enum verdict judge(const char *call, const char *path, int writes)
{
    if (!is_below(path))
        return WORKS;
    usleep((useconds_t)atol(setting("TORTURE_PAUSE_US")));
    if (atomic_load(&fired))
        return *setting("TORTURE_ONCE") ? WORKS : refuse(FAILS);
    if (atomic_fetch_add(&calls, 1) + 1 != atol(setting("TORTURE_AT")))
        return WORKS;
    atomic_store(&fired, 1);
    note(call, path);
    return refuse(writes && *setting("TORTURE_HALF") ? HALVES : FAILS);
}

static enum verdict judge_at(const char *call, int directory, const char *path)
{
    char whole[2 * PATH_MAX];
    if (*path == '/')
        return judge(call, path, 0);
    path_of(directory, whole);
    size_t length = strlen(whole);
    snprintf(whole + length, sizeof whole - length, "/%s", path);
    return judge(call, whole, 0);
}

static enum verdict judge_fd(const char *call, int fd, int writes)
{
    char path[PATH_MAX];
    path_of(fd, path);
    return judge(call, path, writes);
}

static int spares_deletion(void)
{
    return atoi(setting("TORTURE_ERRNO")) == ENOSPC;
}

/* What half a write leaves behind: the rest was still to come when the disk was full, or the process died. */
static ssize_t halve(ssize_t written)
{
    return refuse(HALVES) == HALVES && !errno ? (kill(getpid(), SIGKILL), written) : written;
}

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

#define WRITES(name, half, ...)                                                                                     \
    switch (judge_fd(#name, fd, 1)) {                                                                               \
    case FAILS:                                                                                                     \
        return -1;                                                                                                  \
    case HALVES:                                                                                                    \
        half;                                                                                                       \
        return halve(NEXT(name)(__VA_ARGS__));                                                                      \
    default:                                                                                                        \
        return NEXT(name)(__VA_ARGS__);                                                                             \
    }

ssize_t write(int fd, const void *data, size_t size)
{
    WRITES(write, size = (size + 1) / 2, fd, data, size)
}

ssize_t pwrite(int fd, const void *data, size_t size, off_t offset)
{
    WRITES(pwrite, size = (size + 1) / 2, fd, data, size, offset)
}

ssize_t pwrite64(int fd, const void *data, size_t size, off64_t offset)
{
    WRITES(pwrite64, size = (size + 1) / 2, fd, data, size, offset)
}

ssize_t writev(int fd, const struct iovec *parts, int count)
{
    WRITES(writev, count = (count + 1) / 2, fd, parts, count)
}

ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t offset)
{
    WRITES(pwritev, count = (count + 1) / 2, fd, parts, count, offset)
}

ssize_t pwritev64(int fd, const struct iovec *parts, int count, off64_t offset)
{
    WRITES(pwritev64, count = (count + 1) / 2, fd, parts, count, offset)
}

#define OPENS(name, directory, ...)                                                                                 \
    mode_t mode = 0;                                                                                                \
    if (flags & (O_CREAT | O_TMPFILE)) {                                                                            \
        va_list rest;                                                                                               \
        va_start(rest, flags);                                                                                      \
        mode = va_arg(rest, mode_t);                                                                                \
        va_end(rest);                                                                                               \
    }                                                                                                               \
    int changes = flags & (O_CREAT | O_TRUNC) || (flags & O_ACCMODE) != O_RDONLY;                                   \
    return changes && judge_at(#name, directory, path) != WORKS ? -1 : NEXT(name)(__VA_ARGS__, flags, mode);

int open(const char *path, int flags, ...)
{
    OPENS(open, AT_FDCWD, path)
}

int open64(const char *path, int flags, ...)
{
    OPENS(open64, AT_FDCWD, path)
}

int openat(int directory, const char *path, int flags, ...)
{
    OPENS(openat, directory, directory, path)
}

int openat64(int directory, const char *path, int flags, ...)
{
    OPENS(openat64, directory, directory, path)
}

#define CHANGES(verdict, name, ...)                                                                                 \
    return (verdict) == WORKS ? NEXT(name)(__VA_ARGS__) : -1

int rename(const char *from, const char *to)
{
    CHANGES(judge_at("rename", AT_FDCWD, to), rename, from, to);
}

int renameat(int from_directory, const char *from, int directory, const char *to)
{
    CHANGES(judge_at("renameat", directory, to), renameat, from_directory, from, directory, to);
}

int renameat2(int from_directory, const char *from, int directory, const char *to, unsigned flags)
{
    CHANGES(judge_at("renameat2", directory, to), renameat2, from_directory, from, directory, to, flags);
}

int mkdir(const char *path, mode_t mode)
{
    CHANGES(judge_at("mkdir", AT_FDCWD, path), mkdir, path, mode);
}

int mkdirat(int directory, const char *path, mode_t mode)
{
    CHANGES(judge_at("mkdirat", directory, path), mkdirat, directory, path, mode);
}

int link(const char *from, const char *to)
{
    CHANGES(judge_at("link", AT_FDCWD, to), link, from, to);
}

int linkat(int from_directory, const char *from, int directory, const char *to, int flags)
{
    CHANGES(judge_at("linkat", directory, to), linkat, from_directory, from, directory, to, flags);
}

int symlink(const char *target, const char *path)
{
    CHANGES(judge_at("symlink", AT_FDCWD, path), symlink, target, path);
}

int symlinkat(const char *target, int directory, const char *path)
{
    CHANGES(judge_at("symlinkat", directory, path), symlinkat, target, directory, path);
}

int ftruncate(int fd, off_t size)
{
    CHANGES(judge_fd("ftruncate", fd, 0), ftruncate, fd, size);
}

int ftruncate64(int fd, off64_t size)
{
    CHANGES(judge_fd("ftruncate64", fd, 0), ftruncate64, fd, size);
}

int fallocate(int fd, int mode, off_t offset, off_t size)
{
    CHANGES(judge_fd("fallocate", fd, 0), fallocate, fd, mode, offset, size);
}

int fallocate64(int fd, int mode, off64_t offset, off64_t size)
{
    CHANGES(judge_fd("fallocate64", fd, 0), fallocate64, fd, mode, offset, size);
}

int fsync(int fd)
{
    CHANGES(judge_fd("fsync", fd, 0), fsync, fd);
}

int fdatasync(int fd)
{
    CHANGES(judge_fd("fdatasync", fd, 0), fdatasync, fd);
}

int unlink(const char *path)
{
    CHANGES(spares_deletion() ? WORKS : judge_at("unlink", AT_FDCWD, path), unlink, path);
}

int unlinkat(int directory, const char *path, int flags)
{
    CHANGES(spares_deletion() ? WORKS : judge_at("unlinkat", directory, path), unlinkat, directory, path, flags);
}

int rmdir(const char *path)
{
    CHANGES(spares_deletion() ? WORKS : judge_at("rmdir", AT_FDCWD, path), rmdir, path);
}
