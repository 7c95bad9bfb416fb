/* faults.c: linked into both programs as build/.../faults/: calls of libc that fail when they are
 * told to. The linker puts these functions in the place of libc's (--wrap, see the Makefile).
 *
 *   FAULT=open:3        the third call of open fails, FAULT=open:3+ the third and all after it
 *   FAULT=open:0        none fails
 *   FAULT=short:1       every read, write and pwrite moves one byte, and is interrupted before it;
 *                       fsync is interrupted once
 *   FAULT=interrupt:3   SIGINT arrives at the third call of pwrite
 *   FAULT_CUT=FILE      the call does not fail: before it this file is cut to FAULT_SIZE bytes
 *   FAULT_COUNT=FILE    how often each was called is written there at the end: lines of name,
 * number
 *
 * Calls of stdio that write fail as on a full disk: the stream's error is set, the text is lost. On
 * stderr they do not, because that is where a failure is told.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define MAX_NAMES 32

static struct {
    char name[32];
    long at;      /* the call that fails, from 1; 0: none */
    bool forever; /* and all after it */
    bool one_byte;
    atomic_long moves;
    int error; /* not 0: the errno of what fails, in the place of the usual one */
    struct {
        _Atomic(const char *) name;
        atomic_long calls;
    } counts[MAX_NAMES];
} fault;

__attribute__((constructor)) static void fault_begin(void) {
    const char *text = getenv("FAULT"), *colon = text ? strchr(text, ':') : NULL;
    if (!colon || (size_t)(colon - text) >= sizeof fault.name) return;
    memcpy(fault.name, text, (size_t)(colon - text));
    char *end = NULL;
    fault.at = strtol(colon + 1, &end, 10);
    fault.forever = *end == '+';
    fault.one_byte = strcmp(fault.name, "short") == 0;
}

FILE *__real_fopen(const char *path, const char *mode);
int __real_fprintf(FILE *f, const char *format, ...);
int __real_fclose(FILE *f);

__attribute__((destructor)) static void fault_end(void) {
    const char *path = getenv("FAULT_COUNT");
    fault.name[0] = 0; /* what runs from here on is not the program */
    FILE *f = path ? __real_fopen(path, "we") : NULL;
    if (!f) return;
    for (size_t i = 0; i < MAX_NAMES && fault.counts[i].name; i++)
        __real_fprintf(f, "%s %ld\n", fault.counts[i].name, fault.counts[i].calls);
    __real_fclose(f);
}

/* Count a call of `name`; returns how many there were. A name takes the first free place. */
static long count(const char *name) {
    for (size_t i = 0; i < MAX_NAMES; i++) {
        const char *free_place = NULL;
        if (atomic_compare_exchange_strong(&fault.counts[i].name, &free_place, name) ||
            strcmp(free_place, name) == 0)
            return atomic_fetch_add(&fault.counts[i].calls, 1) + 1;
    }
    return 0;
}

/* Is this the call that fails? */
static bool fails(const char *name, int error) {
    long n = count(name);
    if (strcmp(name, fault.name) != 0) return false;
    if (fault.at == 0 || (fault.forever ? n < fault.at : n != fault.at)) return false;
    const char *cut = getenv("FAULT_CUT"), *size = getenv("FAULT_SIZE");
    if (cut) return truncate(cut, size ? strtol(size, NULL, 10) : 0) != 0 && (abort(), true);
    errno = fault.error ? fault.error : error;
    return true;
}

/* With FAULT=short: every other call is interrupted, the rest move one byte. */
static bool moves_one(size_t *n) {
    if (!fault.one_byte) return true;
    if (atomic_fetch_add(&fault.moves, 1) % 2 == 0) {
        errno = EINTR;
        return false;
    }
    *n = *n > 0;
    return true;
}

#define WRAP(result, name, parameters, arguments, error, failed)                                   \
    result __wrap_##name parameters;                                                               \
    result __real_##name parameters;                                                               \
    result __wrap_##name parameters {                                                              \
        return fails(#name, error) ? (failed) : __real_##name arguments;                           \
    }

WRAP(void *, malloc, (size_t n), (n), ENOMEM, NULL)
WRAP(void *, calloc, (size_t n, size_t size), (n, size), ENOMEM, NULL)
WRAP(void *, realloc, (void *p, size_t n), (p, n), ENOMEM, NULL)
WRAP(int, posix_memalign, (void **p, size_t a, size_t n), (p, a, n), 0, ENOMEM)
WRAP(char *, strdup, (const char *s), (s), ENOMEM, NULL)
WRAP(char *, strndup, (const char *s, size_t n), (s, n), ENOMEM, NULL)
WRAP(void *, mmap, (void *p, size_t n, int prot, int flags, int fd, off_t at),
     (p, n, prot, flags, fd, at), ENOMEM, MAP_FAILED)
WRAP(int, rename, (const char *a, const char *b), (a, b), EIO, -1)
WRAP(int, fstat, (int fd, struct stat *s), (fd, s), EIO, -1)
WRAP(int, stat, (const char *path, struct stat *s), (path, s), EACCES, -1)
WRAP(int, ftruncate, (int fd, off_t n), (fd, n), EIO, -1)
WRAP(FILE *, fopen, (const char *path, const char *mode), (path, mode), EMFILE, NULL)
WRAP(int, pthread_create, (pthread_t * t, const pthread_attr_t *a, void *(*run)(void *), void *arg),
     (t, a, run, arg), 0, EAGAIN)

int __wrap_open(const char *path, int flags, ...);
int __real_open(const char *path, int flags, ...);
int __wrap_open(const char *path, int flags, ...) {
    va_list args;
    va_start(args, flags);
    mode_t mode = flags & O_CREAT ? va_arg(args, mode_t) : 0;
    va_end(args);
    return fails("open", EMFILE) ? -1 : __real_open(path, flags, mode);
}

ssize_t __wrap_read(int fd, void *to, size_t n);
ssize_t __real_read(int fd, void *to, size_t n);
ssize_t __wrap_read(int fd, void *to, size_t n) {
    return fails("read", EIO) || !moves_one(&n) ? -1 : __real_read(fd, to, n);
}

ssize_t __wrap_write(int fd, const void *from, size_t n);
ssize_t __real_write(int fd, const void *from, size_t n);
ssize_t __wrap_write(int fd, const void *from, size_t n) {
    return fails("write", ENOSPC) || !moves_one(&n) ? -1 : __real_write(fd, from, n);
}

ssize_t __wrap_pwrite(int fd, const void *from, size_t n, off_t at);
ssize_t __real_pwrite(int fd, const void *from, size_t n, off_t at);
ssize_t __wrap_pwrite(int fd, const void *from, size_t n, off_t at) {
    if (fault.one_byte && n > 1000)
        n = 1000; /* byte by byte would take minutes */
    else if (!moves_one(&n))
        return -1;
    if (fails("pwrite_none", 0)) return 0;
    if (fails("interrupt", 0)) raise(SIGINT);
    return fails("pwrite", ENOSPC) ? -1 : __real_pwrite(fd, from, n, at);
}

int __wrap_fsync(int fd);
int __real_fsync(int fd);
int __wrap_fsync(int fd) {
    size_t any = 1;
    return fails("fsync", EIO) || !moves_one(&any) ? -1 : __real_fsync(fd);
}

/* FAULT=space:1 a disk without room, FAULT=endless:1 one with more than can be counted. */
int __wrap_statvfs(const char *path, struct statvfs *s);
int __real_statvfs(const char *path, struct statvfs *s);
int __wrap_statvfs(const char *path, struct statvfs *s) {
    int result = fails("statvfs", EIO) ? -1 : __real_statvfs(path, s);
    if (result == 0 && fails("space", 0)) s->f_bavail = 0;
    if (result == 0 && fails("endless", 0)) s->f_bavail = (fsblkcnt_t)-1;
    return result;
}

/* A failed close has still closed. */
int __wrap_close(int fd);
int __real_close(int fd);
int __wrap_close(int fd) {
    int result = __real_close(fd);
    return fails("close", EIO) ? -1 : result;
}

/* ---- stdio ----------------------------------------------------------------------------------- */

/* Is this the call that fails? Then the stream has an error: reading what is open for writing alone
 * is the way to give it one. */
static bool stream_fails(const char *name, FILE *f) {
    if (f == stderr || !fails(name, ENOSPC)) return false;
    int code = errno;
    if (getc(f) != EOF || !ferror(f)) abort();
    errno = code;
    return true;
}

#define WRAP_STREAM(result, name, parameters, arguments, f, failed)                                \
    result __wrap_##name parameters;                                                               \
    result __real_##name parameters;                                                               \
    result __wrap_##name parameters {                                                              \
        return stream_fails(#name, f) ? (failed) : __real_##name arguments;                        \
    }

WRAP_STREAM(size_t, fwrite, (const void *from, size_t size, size_t n, FILE *f), (from, size, n, f),
            f, 0)
WRAP_STREAM(int, fputs, (const char *s, FILE *f), (s, f), f, EOF)
WRAP_STREAM(int, fputc, (int c, FILE *f), (c, f), f, EOF)
WRAP_STREAM(int, putc, (int c, FILE *f), (c, f), f, EOF)
WRAP_STREAM(int, puts, (const char *s), (s), stdout, EOF)
WRAP_STREAM(int, putchar, (int c), (c), stdout, EOF)
WRAP_STREAM(int, fflush, (FILE * f), (f), f, EOF)

int __wrap_printf(const char *format, ...);
int __wrap_printf(const char *format, ...) {
    va_list args;
    va_start(args, format);
    int n = stream_fails("printf", stdout) ? -1 : vfprintf(stdout, format, args);
    va_end(args);
    return n;
}

int __wrap_fprintf(FILE *f, const char *format, ...);
int __wrap_fprintf(FILE *f, const char *format, ...) {
    va_list args;
    va_start(args, format);
    int n = stream_fails("fprintf", f) ? -1 : vfprintf(f, format, args);
    va_end(args);
    return n;
}

/* A failed fclose has still closed. */
int __wrap_fclose(FILE *f);
int __wrap_fclose(FILE *f) {
    int result = __real_fclose(f);
    return fails("fclose", ENOSPC) ? EOF : result;
}

/* Leaving takes its time, so that a second thread that leaves too is seen. Coverage counts programs
 * that leave so, from a signal handler, say. */
#ifdef COVERAGE
void __gcov_dump(void);
#endif
void __wrap__exit(int status);
_Noreturn void __real__exit(int status);
void __wrap__exit(int status) {
    fault.name[0] = 0;
    usleep(20000);
#ifdef COVERAGE
    __gcov_dump();
#endif
    __real__exit(status);
}
