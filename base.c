/* base.c: errors, memory, numbers, buffers, UTF-8, CRC-32C and files, as base.h declares them.
 *
 * Everything here is small and independent. Two rules run through all of it: a size is computed
 * with checked arithmetic before memory is taken, and a text that came from outside is shown with
 * its unprintable bytes as \xNN, so that no file name can move the cursor of a terminal. */
#include "base.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

/* ---- errors ---------------------------------------------------------------------------------- */

/* Does the character stand in a line of text and leave the others where they are? Other ends of
 * lines, marks of direction and of no width, and tags do not. */
static bool is_plain(int32_t cp) {
    if (cp < 0xa0) return cp >= 0x20 && cp < 0x7f;
    return cp != 0x61c && !(cp >= 0x200b && cp <= 0x200f) && !(cp >= 0x2028 && cp <= 0x202e) &&
           !(cp >= 0x2060 && cp <= 0x206f) && cp != 0xfeff && cp < 0xe0000;
}

/* The bytes of the character at text[0..n), or 0 when it cannot be shown. */
static size_t plain_length(const char *text, size_t n) {
    int32_t cp;
    int len = utf8_decode(text, n, &cp);
    return is_plain(cp) ? (size_t)len : 0;
}

void printable(char *out, size_t room, const char *text, size_t n) {
    static const char hex[] = "0123456789abcdef";
    size_t pos = 0;
    if (room == 0) return;
    for (size_t i = 0; i < n;) {
        size_t len = plain_length(text + i, n - i);
        unsigned char c = (unsigned char)text[i];
        const char escape[] = {'\\', 'x', hex[c >> 4], hex[c & 15]};
        size_t shown = len ? len : sizeof escape;
        if (shown >= room - pos) break; /* the NUL needs a place too */
        memcpy(out + pos, len ? text + i : escape, shown);
        pos += shown;
        i += len ? len : 1;
    }
    out[pos] = 0;
}

bool is_printable(const char *text, size_t n) {
    size_t i = 0;
    for (size_t len; i < n && (len = plain_length(text + i, n - i)) > 0;) i += len;
    return i == n;
}

static void error_append(Error *e, const char *text) {
    size_t pos = strlen(e->text);
    printable(e->text + pos, sizeof e->text - pos, text, strlen(text));
}

/* Append "PLACE: ". Of a place longer than `most` the end is kept: the end of a path says more than
 * its beginning. */
static void error_place(Error *e, const char *place, size_t most) {
    size_t n = strlen(place);
    if (n > most) error_append(e, "...");
    error_append(e, n > most ? place + n - most : place);
    error_append(e, ": ");
}

bool fail(Error *e, const char *file, const char *field, const char *fmt, ...) {
    char message[sizeof e->text];
    va_list args;
    va_start(args, fmt);
    int n = vsnprintf(message, sizeof message, fmt, args);
    va_end(args);
    if (n < 0) message[0] = 0;
    e->text[0] = 0;
    if (file) error_place(e, file, 240);
    if (field) error_place(e, field, 120);
    error_append(e, message);
    return false;
}

bool fail_errno(Error *e, const char *file, const char *fmt, ...) {
    int code = errno;
    char message[sizeof e->text];
    va_list args;
    va_start(args, fmt);
    int n = vsnprintf(message, sizeof message, fmt, args);
    va_end(args);
    if (n < 0) message[0] = 0;
    return fail(e, file, NULL, "%s: %s", message, strerror(code));
}

/* ---- memory ---------------------------------------------------------------------------------- */

static void *no_memory(Error *e, const char *what, size_t n, size_t size) {
    fail(e, NULL, what, "out of memory, needs %zu x %zu bytes", n, size);
    return NULL;
}

void *alloc_array(Error *e, const char *what, size_t n, size_t size) {
    size_t bytes;
    void *p = mul_ok(n, size, &bytes) ? calloc(max_size(bytes, 1), 1) : NULL;
    return p ? p : no_memory(e, what, n, size);
}

void *grow_array(Error *e, const char *what, void *old, size_t n, size_t size) {
    size_t bytes;
    void *p = mul_ok(n, size, &bytes) ? realloc(old, max_size(bytes, 1)) : NULL;
    return p ? p : no_memory(e, what, n, size);
}

void *alloc_aligned(Error *e, const char *what, size_t n, size_t size) {
    size_t bytes;
    void *p = NULL;
    if (!mul_ok(n, size, &bytes) || posix_memalign(&p, 64, max_size(bytes, 1)) != 0)
        return no_memory(e, what, n, size);
    memset(p, 0, max_size(bytes, 1));
    return p;
}

/* ---- numbers --------------------------------------------------------------------------------- */

bool parse_int(const char *text, int64_t low, int64_t high, int64_t *out) {
    bool negative = text[0] == '-';
    const char *p = text + negative;
    int64_t value = 0;
    if (!*p) return false;
    for (; *p; p++) { /* built up on the negative side, which reaches one further */
        if (*p < '0' || *p > '9') return false;
        if (__builtin_mul_overflow(value, (int64_t)10, &value)) return false;
        if (__builtin_sub_overflow(value, (int64_t)(*p - '0'), &value)) return false;
    }
    if (!negative && __builtin_sub_overflow((int64_t)0, value, &value)) return false;
    if (value < low || value > high) return false;
    *out = value;
    return true;
}

static const char *skip_digits(const char *p) {
    while (*p >= '0' && *p <= '9') p++;
    return p;
}

bool parse_real(const char *text, double low, double high, double *out) {
    const char *start = text + (text[0] == '-');
    const char *p = skip_digits(start);
    size_t digits = (size_t)(p - start);
    if (*p == '.') {
        const char *fraction = p + 1;
        p = skip_digits(fraction);
        digits += (size_t)(p - fraction);
    }
    if (digits == 0) return false;
    if (*p == 'e' || *p == 'E') {
        p += 1 + (p[1] == '-' || p[1] == '+');
        const char *exponent = p;
        p = skip_digits(p);
        if (p == exponent) return false;
    }
    if (*p) return false;
    /* No program here calls setlocale, so strtod reads the point of the "C" locale. */
    double value = strtod(text, NULL);
    if (!isfinite(value) || value < low || value > high) return false;
    *out = value;
    return true;
}

/* ---- buffers --------------------------------------------------------------------------------- */

/* Make room for `more` further bytes and a NUL. */
static bool buffer_reserve(Buffer *b, size_t more, Error *e) {
    size_t need;
    if (!add_ok(b->n, more, &need) || !add_ok(need, 1, &need))
        return fail(e, NULL, "buffer", "size overflows");
    if (need <= b->room) return true;
    size_t room = max_size(need, max_size(2 * b->room, 64)); /* malloc gives half of SIZE_MAX */
    char *data = grow_array(e, "buffer", b->data, room, 1);
    if (!data) return false;
    b->data = data;
    b->room = room;
    return true;
}

bool buffer_add(Buffer *b, const void *bytes, size_t n, Error *e) {
    if (!buffer_reserve(b, n, e)) return false;
    if (n) memcpy(b->data + b->n, bytes, n);
    b->n += n;
    b->data[b->n] = 0;
    return true;
}

bool buffer_puts(Buffer *b, const char *text, Error *e) {
    return buffer_add(b, text, strlen(text), e);
}

bool buffer_printf(Buffer *b, Error *e, const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    int n = vsnprintf(NULL, 0, fmt, args);
    va_end(args);
    if (n < 0) return fail(e, NULL, "buffer", "text cannot be formatted");
    if (!buffer_reserve(b, (size_t)n, e)) return false;
    va_start(args, fmt);
    (void)vsnprintf(b->data + b->n, b->room - b->n, fmt, args); /* as before: cannot fail */
    va_end(args);
    b->n += (size_t)n;
    return true;
}

void drop_byte_order_mark(Buffer *text) {
    if (!begins_with(text->data, text->n, "\xef\xbb\xbf")) return;
    text->n -= 3;
    memmove(text->data, text->data + 3, text->n + 1);
}

void buffer_free(Buffer *b) {
    free(b->data);
    *b = (Buffer){0};
}

bool ids_add(Ids *list, int32_t id, Error *e) {
    if (list->n == list->room) {
        size_t room = max_size(2 * list->room, 64);
        int32_t *ids = grow_array(e, "tokens", list->ids, room, sizeof *ids);
        if (!ids) return false;
        list->ids = ids;
        list->room = room;
    }
    list->ids[list->n++] = id;
    return true;
}

void ids_free(Ids *list) {
    free(list->ids);
    *list = (Ids){0};
}

/* ---- UTF-8 ----------------------------------------------------------------------------------- */

/* Length of the sequence that byte `first` starts (0: none), and the range of its second byte:
 * RFC 3629 section 4, where overlongs, surrogates and what lies above U+10FFFF are left out. */
static int utf8_length(unsigned char first, unsigned char *low, unsigned char *high) {
    *low = first == 0xe0 ? 0xa0 : first == 0xf0 ? 0x90 : 0x80;
    *high = first == 0xed ? 0x9f : first == 0xf4 ? 0x8f : 0xbf;
    if (first < 0x80) return 1;
    if (first < 0xc2) return 0;
    if (first < 0xe0) return 2;
    if (first < 0xf0) return 3;
    return first < 0xf5 ? 4 : 0;
}

int utf8_decode(const char *text, size_t n, int32_t *code_point) {
    const unsigned char *s = (const unsigned char *)text;
    unsigned char low, high;
    int length = utf8_length(s[0], &low, &high);
    *code_point = -1;
    if (length == 0 || (size_t)length > n) return 1;
    if (length == 1) {
        *code_point = s[0];
        return 1;
    }
    if (s[1] < low || s[1] > high) return 1;
    int32_t cp = s[0] & (0x7f >> length);
    for (int i = 1; i < length; i++) {
        if ((s[i] & 0xc0) != 0x80) return 1;
        cp = cp << 6 | (s[i] & 0x3f);
    }
    *code_point = cp;
    return length;
}

int utf8_encode(int32_t cp, char out[4]) {
    if (cp < 0x80) {
        out[0] = (char)cp;
        return 1;
    }
    int length = cp < 0x800 ? 2 : cp < 0x10000 ? 3 : 4;
    for (int i = length - 1; i > 0; i--) {
        out[i] = (char)(0x80 | (cp & 0x3f));
        cp >>= 6;
    }
    out[0] = (char)((0xf00 >> length & 0xff) | cp);
    return length;
}

size_t utf8_complete(const char *text, size_t n) {
    const unsigned char *s = (const unsigned char *)text;
    for (size_t back = 1; back <= 3 && back <= n; back++) {
        const unsigned char *first = s + n - back;
        unsigned char low, high;
        if ((*first & 0xc0) == 0x80) continue; /* inside a sequence: its start lies before */
        int length = utf8_length(*first, &low, &high);
        bool open = (size_t)length > back;
        if (open && back > 1) open = first[1] >= low && first[1] <= high;
        return open ? n - back : n;
    }
    return n;
}

/* ---- CRC-32C --------------------------------------------------------------------------------- */

void crc_init(Crc *c) {
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t crc = i;
        for (int bit = 0; bit < 8; bit++) crc = crc & 1 ? crc >> 1 ^ 0x82f63b78u : crc >> 1;
        c->table[0][i] = crc;
    }
    for (int t = 1; t < 8; t++)
        for (uint32_t i = 0; i < 256; i++) {
            uint32_t before = c->table[t - 1][i];
            c->table[t][i] = before >> 8 ^ c->table[0][before & 255];
        }
}

uint32_t crc_update(const Crc *c, uint32_t crc, const void *bytes, size_t n) {
    const unsigned char *p = bytes;
    crc = ~crc;
    for (; n >= 8; n -= 8, p += 8) { /* table[7 - i] carries byte i over the bytes behind it */
        uint32_t head =
            (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
        head ^= crc;
        crc = c->table[7][head & 255] ^ c->table[6][head >> 8 & 255] ^
              c->table[5][head >> 16 & 255] ^ c->table[4][head >> 24] ^ c->table[3][p[4]] ^
              c->table[2][p[5]] ^ c->table[1][p[6]] ^ c->table[0][p[7]];
    }
    for (; n > 0; n--, p++) crc = crc >> 8 ^ c->table[0][(crc ^ *p) & 255];
    return ~crc;
}

/* ---- reading files --------------------------------------------------------------------------- */

bool map_open(Map *m, const char *path, Error *e) {
    *m = (Map){.fd = -1};
    /* O_NONBLOCK: opening a FIFO must not wait for a writer. */
    int fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0) return fail_errno(e, path, "cannot open");
    struct stat st;
    bool ok = fstat(fd, &st) == 0 || fail_errno(e, path, "cannot stat");
    if (ok && !S_ISREG(st.st_mode)) ok = fail(e, path, NULL, "not a regular file");
    if (ok && st.st_size == 0) ok = fail(e, path, NULL, "empty");
    if (ok && (uintmax_t)st.st_size > SIZE_MAX) ok = fail(e, path, NULL, "too large to map");
    void *data = MAP_FAILED;
    if (ok) {
        data = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_SHARED, fd, 0);
        if (data == MAP_FAILED) ok = fail_errno(e, path, "cannot map");
    }
    if (!ok) {
        close(fd);
        return false;
    }
    *m = (Map){.data = data, .bytes = (size_t)st.st_size, .fd = fd};
    return true;
}

void map_close(Map *m) {
    if (!m->data) return;
    munmap((void *)m->data, m->bytes);
    close(m->fd);
    *m = (Map){.fd = -1};
}

bool may_replace(const char *path, const char *begins, Error *e) {
    struct stat st;
    if (stat(path, &st) != 0 || !S_ISREG(st.st_mode) || st.st_size == 0) return true;
    Map m;
    if (!map_open(&m, path, e)) return false;
    bool ok = begins_with(m.data, m.bytes, begins);
    map_close(&m);
    return ok || fail(e, path, NULL, "exists and is something else: left as it is");
}

/* Read fd to its end, at most `limit` bytes, and append to out. */
static bool read_all(int fd, const char *path, size_t limit, Buffer *out, Error *e) {
    size_t total = 0;
    struct stat st;
    size_t step = 65536; /* a regular file of known size takes one allocation */
    if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && st.st_size > 0)
        step = max_size(step, min_size((size_t)st.st_size, limit) + 1);
    for (;;) {
        if (out->room - out->n < 2 && !buffer_reserve(out, step, e)) return false;
        ssize_t got = read(fd, out->data + out->n, out->room - out->n - 1);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0 && errno == EAGAIN) { /* somebody has made it non-blocking */
            (void)poll(&(struct pollfd){.fd = fd, .events = POLLIN}, 1, -1);
            continue;
        }
        if (got < 0) return fail_errno(e, path, "cannot read");
        if (got == 0) return buffer_add(out, "", 0, e);
        if ((size_t)got > limit - total)
            return fail(e, path, NULL, "too large, expected at most %zu bytes", limit);
        out->n += (size_t)got;
        total += (size_t)got;
    }
}

bool read_file(const char *path, size_t limit, Buffer *out, Error *e) {
    bool is_stdin = strcmp(path, "-") == 0;
    int fd = is_stdin ? STDIN_FILENO : open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return fail_errno(e, path, "cannot open");
    bool ok = read_all(fd, is_stdin ? "stdin" : path, limit, out, e);
    if (!is_stdin) close(fd);
    if (!ok) buffer_free(out);
    return ok;
}

/* ---- new files ------------------------------------------------------------------------------- */

/* Length of the folder part of path, with its slash; 0 when there is none. */
static size_t folder_length(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash ? (size_t)(slash - path) + 1 : 0;
}

/* Allocate the temporary name number `attempt`: ".NAME.tmp-PID-ATTEMPT" in the folder of path. NAME
 * is cut so that a name of the greatest length still has a temporary one. */
static char *temporary_name(const char *path, unsigned attempt, Error *e) {
    size_t folder = folder_length(path);
    Buffer name = {0};
    if (buffer_add(&name, path, folder, e) &&
        buffer_printf(&name, e, ".%.200s.tmp-%ld-%u", path + folder, (long)getpid(), attempt))
        return name.data;
    buffer_free(&name);
    return NULL;
}

/* Refuse targets that a rename would destroy or could not replace: folders, devices, pipes. *old:
 * the mode of the file that is there, or 0. */
static bool target_ok(const char *path, mode_t *old, Error *e) {
    struct stat st;
    *old = 0;
    if (!path[folder_length(path)]) return fail(e, path, NULL, "expected a file name");
    if (stat(path, &st) != 0) return errno == ENOENT || fail_errno(e, path, "cannot write here");
    if (S_ISDIR(st.st_mode)) return fail(e, path, NULL, "is a folder, expected a file name");
    *old = st.st_mode;
    return S_ISREG(st.st_mode) || fail(e, path, NULL, "exists and is not a regular file");
}

/* Allocate the name to rename to: of a link, what it points at, so that the link stays one. */
static char *final_name(const char *path, Error *e) {
    struct stat st;
    bool link = lstat(path, &st) == 0 && S_ISLNK(st.st_mode);
    char *name = link ? realpath(path, NULL) : strdup(path);
    if (!name) fail_errno(e, path, link ? "cannot follow the link" : "cannot write here");
    return name;
}

/* NewFile.temporary of the one that is being written, or NULL. */
static _Atomic(const char *) unfinished;

void hold_signals(sigset_t *usual) {
    sigset_t stop;
    sigemptyset(&stop);
    sigaddset(&stop, SIGINT);
    sigaddset(&stop, SIGTERM);
    sigaddset(&stop, SIGHUP);
    (void)pthread_sigmask(SIG_BLOCK, &stop, usual);
}

/* Create the file: no handler runs while it is there and its name not noted. -1 and errno: open's.
 */
static int create_noted(const char *temporary, mode_t mode) {
    sigset_t usual;
    hold_signals(&usual);
    int fd = open(temporary, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, mode);
    int error = errno;
    if (fd >= 0) atomic_store(&unfinished, temporary);
    (void)pthread_sigmask(SIG_SETMASK, &usual, NULL);
    errno = error;
    return fd;
}

static void newfile_free(NewFile *f) {
    free(f->path);
    free(f->temporary);
    *f = (NewFile){.fd = -1};
}

bool newfile_open(NewFile *f, const char *path, Error *e) {
    *f = (NewFile){.fd = -1};
    mode_t old;
    if (!target_ok(path, &old, e)) return false;
    f->path = final_name(path, e);
    if (!f->path) return false;
    mode_t mode = old ? old & 0777 : 0666; /* a file that is replaced keeps who may read it */
    for (unsigned attempt = 0; attempt < 100; attempt++) {
        free(f->temporary);
        f->temporary = temporary_name(f->path, attempt, e);
        if (!f->temporary) break;
        f->fd = create_noted(f->temporary, mode);
        if (f->fd >= 0) {
            if (old) (void)fchmod(f->fd, mode); /* the umask took some of it */
            return true;
        }
        bool again = errno == EEXIST || errno == EINTR;
        fail_errno(e, path, "cannot write here");
        if (!again) break;
    }
    newfile_free(f);
    return false;
}

bool newfile_pwrite(NewFile *f, const void *bytes, size_t n, uint64_t at, Error *e) {
    const char *p = bytes;
    if (at > INT64_MAX || n > INT64_MAX - at)
        return fail(e, f->path, NULL, "offset beyond the largest file");
    while (n > 0) {
        ssize_t wrote = pwrite(f->fd, p, min_size(n, 1u << 30), (off_t)at);
        if (wrote < 0 && errno == EINTR) continue;
        if (wrote == 0) errno = EIO; /* never seen, but must not become an endless loop */
        if (wrote <= 0)
            return fail_errno(e, f->path, "cannot write at byte %llu", (unsigned long long)at);
        p += wrote;
        n -= (size_t)wrote;
        at += (uint64_t)wrote;
    }
    return true;
}

bool newfile_write(NewFile *f, const void *bytes, size_t n, Error *e) {
    if (!newfile_pwrite(f, bytes, n, f->pos, e)) return false;
    f->pos += n;
    return true;
}

static bool sync_retried(int fd) {
    while (fsync(fd) != 0)
        if (errno != EINTR) return false;
    return true;
}

/* A rename is lasting only when the folder that holds the name is on disk. Some file systems cannot
 * sync a folder and say EINVAL, and a folder may be written to but not opened (EACCES): there the
 * rename itself is all that can be done. */
static bool sync_folder(const char *path, Error *e) {
    size_t n = folder_length(path);
    char *folder = n ? strndup(path, n) : strdup(".");
    if (!folder) return fail(e, path, NULL, "out of memory");
    int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    bool ok = fd >= 0 ? sync_retried(fd) || errno == EINVAL : errno == EACCES;
    if (!ok) fail_errno(e, folder, "cannot sync the folder");
    if (fd >= 0) close(fd);
    free(folder);
    return ok;
}

bool newfile_commit(NewFile *f, Error *e) {
    bool ok = sync_retried(f->fd) || fail_errno(e, f->path, "cannot sync");
    if (ok) {
        /* After the sync the bytes are safe; an interrupted close has still closed. */
        ok = close(f->fd) == 0 || errno == EINTR || fail_errno(e, f->path, "cannot close");
        f->fd = -1;
    }
    if (ok && rename(f->temporary, f->path) != 0) ok = fail_errno(e, f->path, "cannot rename");
    if (!ok) {
        newfile_abort(f);
        return false;
    }
    atomic_store(&unfinished, NULL);
    ok = sync_folder(f->path, e);
    newfile_free(f);
    return ok;
}

void newfile_abort(NewFile *f) {
    if (!f->temporary) return;
    if (f->fd >= 0) close(f->fd);
    unlink(f->temporary);
    atomic_store(&unfinished, NULL);
    newfile_free(f);
}

static void remove_unfinished(void) {
    const char *path = atomic_load(&unfinished);
    if (path) (void)unlink(path);
}

void end_by_signal(int number) {
    sigset_t only;
    remove_unfinished();
    (void)signal(number, SIG_DFL);
    sigemptyset(&only);
    sigaddset(&only, number);
    (void)pthread_sigmask(SIG_UNBLOCK, &only, NULL); /* its handler runs with it blocked */
    (void)raise(number);
    _exit(128 + number); /* a signal that ends nothing by itself */
}

void end_with_line(const char *line) {
    static atomic_flag told = ATOMIC_FLAG_INIT;
    if (atomic_flag_test_and_set(&told)) /* another thread says it, and ends the program */
        for (;;) pause();
    remove_unfinished();
    ssize_t ignored = write(STDERR_FILENO, line, strlen(line));
    (void)ignored;
    _exit(1);
}

/* ---- processors and time --------------------------------------------------------------------- */

uint32_t allowed_processors(void) {
#ifdef __linux__
    cpu_set_t set;
    long n = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set)
                                                         : sysconf(_SC_NPROCESSORS_ONLN);
#else
    long n = sysconf(_SC_NPROCESSORS_ONLN);
#endif
    return n > 0 ? (uint32_t)n : 1;
}

double now_seconds(void) {
    struct timespec t = {0};
    (void)clock_gettime(CLOCK_MONOTONIC, &t); /* cannot fail on Linux */
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}
