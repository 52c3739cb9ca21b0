/* Faults of the system for a process that is started with this library in LD_PRELOAD.
 *
 * Every call that changes files below a folder is counted, and the N-th, or all from the N-th on, fails with an error
 * number. The clock of the day jumps once, some milliseconds after it was set, or by FAULTS_CLOCK_SECONDS once the file
 * FAULTS_CLOCK_FILE exists. Without these variables, `faults_fail` and `faults_clock`, nothing changes.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

static char folder[PATH_MAX];
static size_t folder_length;
static long first_failing;
static int later_fail, error_number, trace = -1;
static atomic_long calls;
static char failed[2 * PATH_MAX];

static struct timespec clock_set;
static long clock_milliseconds, clock_seconds;
static const char *clock_file;

#define REAL(result, name, ...)                                                                                        \
    static result (*real)(__VA_ARGS__);                                                                                \
    if (!real)                                                                                                         \
    real = (result(*)(__VA_ARGS__))dlsym(RTLD_NEXT, #name)

/* ------------------------------------------------------------------------------------------ what a campaign sets */

/* Count calls below a folder; let the first-th fail with an error number, and with `later` those after it, too.
 * first = 0: none. Each call is written to the descriptor `trace_to`, unless it is -1. */
void faults_fail(const char *below, long first, int later, int number, int trace_to) {
    snprintf(folder, sizeof folder, "%s", below);
    first_failing = first, later_fail = later, error_number = number, trace = trace_to;
    calls = 0;
    failed[0] = 0;
    folder_length = strlen(folder);
}

long faults_calls(void) { return calls; }

/* The first call that failed, and its path; "" if none did. */
const char *faults_failed(void) { return failed; }

/* Let the clock of the day jump by some seconds, once this many milliseconds have passed. */
void faults_clock(long milliseconds, long seconds) {
    REAL(int, clock_gettime, clockid_t, struct timespec *);
    real(CLOCK_MONOTONIC, &clock_set);
    clock_milliseconds = milliseconds, clock_seconds = seconds;
}

__attribute__((constructor)) static void set_by_environment(void) {
    const char *seconds = getenv("FAULTS_CLOCK_SECONDS");
    clock_file = getenv("FAULTS_CLOCK_FILE");
    if (clock_file && seconds)
        faults_clock(0, atol(seconds));
}

/* ------------------------------------------------------------------------------------------------------- decisions */

static int fails_at(const char *call, const char *path) {
    if (!folder_length || strncmp(path, folder, folder_length) || (path[folder_length] && path[folder_length] != '/'))
        return 0;
    long number = ++calls;
    if (trace >= 0)
        dprintf(trace, "%s %s\n", call, path);
    if (!first_failing || number < first_failing || (number > first_failing && !later_fail))
        return 0;
    if (!failed[0])
        snprintf(failed, sizeof failed, "%s %s", call, path);
    errno = error_number;
    return 1;
}

static int fails_of(const char *call, int descriptor) {
    if (!folder_length)
        return 0;
    char name[64], path[PATH_MAX];
    snprintf(name, sizeof name, "/proc/self/fd/%d", descriptor);
    ssize_t length = readlink(name, path, sizeof path - 1);
    if (length < 0)
        return 0;
    path[length] = 0;
    return fails_at(call, path);
}

static int fails_in(const char *call, int directory, const char *path) {
    if (!folder_length || !path)
        return 0;
    if (path[0] == '/')
        return fails_at(call, path);
    char start[PATH_MAX], whole[2 * PATH_MAX];
    if (directory == AT_FDCWD) {
        if (!getcwd(start, sizeof start))
            return 0;
    } else {
        char name[64];
        snprintf(name, sizeof name, "/proc/self/fd/%d", directory);
        ssize_t length = readlink(name, start, sizeof start - 1);
        if (length < 0)
            return 0;
        start[length] = 0;
    }
    snprintf(whole, sizeof whole, "%s/%s", start, path);
    return fails_at(call, whole);
}

static int fails(const char *call, const char *path) { return fails_in(call, AT_FDCWD, path); }

static int changes(int flags) { return (flags & O_ACCMODE) != O_RDONLY || (flags & (O_CREAT | O_TRUNC)); }

/* -------------------------------------------------------------------------------------------------- calls by a path */

#define OPEN(name)                                                                                                     \
    int name(const char *path, int flags, ...) {                                                                       \
        va_list rest;                                                                                                  \
        va_start(rest, flags);                                                                                         \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0;                                        \
        va_end(rest);                                                                                                  \
        REAL(int, name, const char *, int, ...);                                                                       \
        return changes(flags) && fails("open", path) ? -1 : real(path, flags, mode);                                   \
    }
OPEN(open)
OPEN(open64)

#define OPENAT(name)                                                                                                   \
    int name(int directory, const char *path, int flags, ...) {                                                        \
        va_list rest;                                                                                                  \
        va_start(rest, flags);                                                                                         \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0;                                        \
        va_end(rest);                                                                                                  \
        REAL(int, name, int, const char *, int, ...);                                                                  \
        return changes(flags) && fails_in("open", directory, path) ? -1 : real(directory, path, flags, mode);          \
    }
OPENAT(openat)
OPENAT(openat64)

#define FOPEN(name)                                                                                                    \
    FILE *name(const char *path, const char *mode) {                                                                   \
        REAL(FILE *, name, const char *, const char *);                                                                \
        return strpbrk(mode, "wa+") && fails("open", path) ? NULL : real(path, mode);                                  \
    }
FOPEN(fopen)
FOPEN(fopen64)

#define BY_PATH(result, name, call, signature, path, arguments)                                                        \
    result name signature {                                                                                            \
        static result(*real) signature;                                                                                \
        if (!real)                                                                                                     \
            real = (result(*) signature)dlsym(RTLD_NEXT, #name);                                                       \
        return fails(call, path) ? -1 : real arguments;                                                                \
    }
BY_PATH(int, creat, "open", (const char *path, mode_t mode), path, (path, mode))
BY_PATH(int, creat64, "open", (const char *path, mode_t mode), path, (path, mode))
BY_PATH(int, mkdir, "mkdir", (const char *path, mode_t mode), path, (path, mode))
BY_PATH(int, rmdir, "rmdir", (const char *path), path, (path))
BY_PATH(int, unlink, "unlink", (const char *path), path, (path))
BY_PATH(int, remove, "unlink", (const char *path), path, (path))
BY_PATH(int, rename, "rename", (const char *from, const char *to), to, (from, to))
BY_PATH(int, link, "link", (const char *from, const char *to), to, (from, to))
BY_PATH(int, symlink, "link", (const char *from, const char *to), to, (from, to))
BY_PATH(int, truncate, "truncate", (const char *path, off_t size), path, (path, size))
BY_PATH(int, truncate64, "truncate", (const char *path, off64_t size), path, (path, size))
BY_PATH(int, chmod, "chmod", (const char *path, mode_t mode), path, (path, mode))
BY_PATH(int, utimes, "utimes", (const char *path, const struct timeval times[2]), path, (path, times))

#define IN_FOLDER(name, call, signature, directory, path, arguments)                                                   \
    int name signature {                                                                                               \
        static int(*real) signature;                                                                                   \
        if (!real)                                                                                                     \
            real = (int(*) signature)dlsym(RTLD_NEXT, #name);                                                          \
        return fails_in(call, directory, path) ? -1 : real arguments;                                                  \
    }
IN_FOLDER(mkdirat, "mkdir", (int at, const char *path, mode_t mode), at, path, (at, path, mode))
IN_FOLDER(unlinkat, "unlink", (int at, const char *path, int flags), at, path, (at, path, flags))
IN_FOLDER(renameat, "rename", (int old, const char *from, int at, const char *to), at, to, (old, from, at, to))
IN_FOLDER(renameat2, "rename", (int old, const char *from, int at, const char *to, unsigned int flags), at, to,
          (old, from, at, to, flags))
IN_FOLDER(linkat, "link", (int old, const char *from, int at, const char *to, int flags), at, to,
          (old, from, at, to, flags))
IN_FOLDER(symlinkat, "link", (const char *from, int at, const char *to), at, to, (from, at, to))
IN_FOLDER(fchmodat, "chmod", (int at, const char *path, mode_t mode, int flags), at, path, (at, path, mode, flags))
IN_FOLDER(utimensat, "utimes", (int at, const char *path, const struct timespec times[2], int flags), at, path,
          (at, path, times, flags))

/* -------------------------------------------------------------------------------------- calls by an open descriptor */

#define BY_DESCRIPTOR(result, name, call, signature, descriptor, arguments)                                            \
    result name signature {                                                                                            \
        static result(*real) signature;                                                                                \
        if (!real)                                                                                                     \
            real = (result(*) signature)dlsym(RTLD_NEXT, #name);                                                       \
        return fails_of(call, descriptor) ? -1 : real arguments;                                                       \
    }
BY_DESCRIPTOR(ssize_t, write, "write", (int fd, const void *data, size_t size), fd, (fd, data, size))
BY_DESCRIPTOR(ssize_t, pwrite, "write", (int fd, const void *data, size_t size, off_t at), fd, (fd, data, size, at))
BY_DESCRIPTOR(ssize_t, pwrite64, "write", (int fd, const void *data, size_t size, off64_t at), fd, (fd, data, size, at))
BY_DESCRIPTOR(ssize_t, writev, "write", (int fd, const struct iovec *parts, int count), fd, (fd, parts, count))
BY_DESCRIPTOR(ssize_t, pwritev, "write", (int fd, const struct iovec *parts, int count, off_t at), fd,
              (fd, parts, count, at))
BY_DESCRIPTOR(ssize_t, pwritev64, "write", (int fd, const struct iovec *parts, int count, off64_t at), fd,
              (fd, parts, count, at))
BY_DESCRIPTOR(ssize_t, sendfile, "write", (int to, int from, off_t *at, size_t size), to, (to, from, at, size))
BY_DESCRIPTOR(ssize_t, sendfile64, "write", (int to, int from, off64_t *at, size_t size), to, (to, from, at, size))
BY_DESCRIPTOR(ssize_t, copy_file_range, "write",
              (int from, off64_t *start, int to, off64_t *at, size_t size, unsigned int flags), to,
              (from, start, to, at, size, flags))
BY_DESCRIPTOR(int, ftruncate, "truncate", (int fd, off_t size), fd, (fd, size))
BY_DESCRIPTOR(int, ftruncate64, "truncate", (int fd, off64_t size), fd, (fd, size))
BY_DESCRIPTOR(int, fallocate, "truncate", (int fd, int mode, off_t at, off_t size), fd, (fd, mode, at, size))
BY_DESCRIPTOR(int, fallocate64, "truncate", (int fd, int mode, off64_t at, off64_t size), fd, (fd, mode, at, size))
BY_DESCRIPTOR(int, fsync, "fsync", (int fd), fd, (fd))
BY_DESCRIPTOR(int, fdatasync, "fsync", (int fd), fd, (fd))
BY_DESCRIPTOR(int, fchmod, "chmod", (int fd, mode_t mode), fd, (fd, mode))
BY_DESCRIPTOR(int, futimens, "utimes", (int fd, const struct timespec times[2]), fd, (fd, times))

/* These return an error number, or a count, and the C library's buffers are written by calls of its own. */

int posix_fallocate(int fd, off_t at, off_t size) {
    REAL(int, posix_fallocate, int, off_t, off_t);
    return fails_of("truncate", fd) ? error_number : real(fd, at, size);
}

int posix_fallocate64(int fd, off64_t at, off64_t size) {
    REAL(int, posix_fallocate64, int, off64_t, off64_t);
    return fails_of("truncate", fd) ? error_number : real(fd, at, size);
}

size_t fwrite(const void *data, size_t size, size_t count, FILE *file) {
    REAL(size_t, fwrite, const void *, size_t, size_t, FILE *);
    return folder_length && fails_of("write", fileno(file)) ? 0 : real(data, size, count, file);
}

int fflush(FILE *file) {
    REAL(int, fflush, FILE *);
    return folder_length && file && fails_of("write", fileno(file)) ? EOF : real(file);
}

/* --------------------------------------------------------------------------------------------- the clock of the day */

static long shift(void) {
    if (!clock_seconds || (clock_file && access(clock_file, F_OK)))
        return 0;
    REAL(int, clock_gettime, clockid_t, struct timespec *);
    struct timespec now;
    real(CLOCK_MONOTONIC, &now);
    long passed = 1000 * (now.tv_sec - clock_set.tv_sec) + (now.tv_nsec - clock_set.tv_nsec) / 1000000;
    return passed >= clock_milliseconds ? clock_seconds : 0;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    REAL(int, clock_gettime, clockid_t, struct timespec *);
    int code = real(clock, now);
    if (!code && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        now->tv_sec += shift();
    return code;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    REAL(int, gettimeofday, struct timeval *restrict, void *restrict);
    int code = real(now, zone);
    if (!code)
        now->tv_sec += shift();
    return code;
}

time_t time(time_t *now) {
    struct timespec precise;
    clock_gettime(CLOCK_REALTIME, &precise);
    if (now)
        *now = precise.tv_sec;
    return precise.tv_sec;
}
