/* base.h: what every part shares: errors, checked arithmetic, memory, numbers, buffers, UTF-8,
 * CRC-32C, files.
 *
 * Error policy. A function that can fail returns bool (or NULL) and fills an Error with one line,
 * "FILE: FIELD: what is wrong, expected X, got Y". Only the programs print it and choose an exit
 * status. Nothing here keeps global mutable state, but for what signal handlers need: the name of
 * the file that is being written, and whether one of them has begun to end the program. */
#ifndef BASE_H
#define BASE_H

#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

/* ---- errors ---------------------------------------------------------------------------------- */

typedef struct {
    char text[640]; /* one line without a newline; as printable() shows it */
} Error;

/* Fill *e with "FILE: FIELD: message" (file and field may be NULL: left out) and return false. */
bool fail(Error *e, const char *file, const char *field, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
/* The same with ": strerror(errno)" at the end. */
bool fail_errno(Error *e, const char *file, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* ---- checked arithmetic: false when the result does not fit ---------------------------------- */

static inline bool add_ok(size_t a, size_t b, size_t *sum) {
    return !__builtin_add_overflow(a, b, sum);
}
static inline bool mul_ok(size_t a, size_t b, size_t *product) {
    return !__builtin_mul_overflow(a, b, product);
}
/* a rounded up to a multiple of m (m > 0) */
static inline bool round_up_ok(size_t a, size_t m, size_t *out) {
    size_t rest = a % m;
    return add_ok(a, rest ? m - rest : 0, out);
}
static inline size_t min_size(size_t a, size_t b) { return a < b ? a : b; }
static inline size_t max_size(size_t a, size_t b) { return a > b ? a : b; }

/* malloc and realloc of n items of `size` bytes; on failure NULL and an Error naming `what`. */
void *alloc_array(Error *e, const char *what, size_t n, size_t size);  /* zero-filled */
/* on NULL the old block is kept */
void *grow_array(Error *e, const char *what, void *old, size_t n, size_t size);
/* 64-byte aligned, zero-filled; release with free(). */
void *alloc_aligned(Error *e, const char *what, size_t n, size_t size);

/* ---- strict numbers from text: the whole string, within [low, high] -------------------------- */

bool parse_int(const char *text, int64_t low, int64_t high, int64_t *out);
bool parse_real(const char *text, double low, double high, double *out); /* no nan, inf or hex */

/* ---- a byte buffer that grows ---------------------------------------------------------------- */

typedef struct {
    char *data; /* (n) bytes, and one NUL behind them once anything was added */
    size_t n, room;
} Buffer; /* starts as {0}; buffer_free when done */

bool buffer_add(Buffer *b, const void *bytes, size_t n, Error *e);
bool buffer_puts(Buffer *b, const char *text, Error *e);
bool buffer_printf(Buffer *b, Error *e, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
/* Take away the mark that Windows' programs put in front of UTF-8, if it is there. */
void drop_byte_order_mark(Buffer *text);
void buffer_free(Buffer *b);

/* The order of two texts, by bytes: < 0, 0 or > 0; a prefix comes before what it begins. */
static inline int compare_bytes(const char *a, size_t n_a, const char *b, size_t n_b) {
    int order = memcmp(a, b, min_size(n_a, n_b));
    return order ? order : (n_a > n_b) - (n_a < n_b);
}
/* Are the first of n bytes those of a text? */
static inline bool begins_with(const void *bytes, size_t n, const char *text) {
    size_t len = strlen(text);
    return n >= len && memcmp(bytes, text, len) == 0;
}

/* ---- a list of token ids --------------------------------------------------------------------- */

typedef struct {
    int32_t *ids; /* (n) */
    size_t n, room;
} Ids; /* starts as {0}; ids_free when done */

bool ids_add(Ids *list, int32_t id, Error *e);
void ids_free(Ids *list);

/* ---- UTF-8 ----------------------------------------------------------------------------------- */

/* Decode the character at text[0..n), n >= 1. Returns its length 1..4 and the code point, or 1 and
 * -1 for a byte that starts no well-formed sequence (RFC 3629: no overlongs, no surrogates). */
int utf8_decode(const char *text, size_t n, int32_t *code_point);
/* Write code point cp (0..0x10FFFF) to out; returns the length 1..4. */
int utf8_encode(int32_t cp, char out[4]);
/* Length of the longest prefix of text[0..n) that does not end inside a sequence which more bytes
 * could still complete: what a stream may print now. */
size_t utf8_complete(const char *text, size_t n);

/* ---- CRC-32C (Castagnoli, reflected polynomial 0x82F63B78; RFC 3720 appendix B.4) ------------ */

typedef struct {
    uint32_t table[8][256]; /* slicing by eight bytes */
} Crc;

void crc_init(Crc *c);
/* CRC of bytes[0..n) continuing from `crc` (0 to start). */
uint32_t crc_update(const Crc *c, uint32_t crc, const void *bytes, size_t n);

/* ---- files ----------------------------------------------------------------------------------- */

typedef struct {
    const uint8_t *data; /* (bytes), read only */
    size_t bytes;
    int fd;
} Map; /* a whole regular file, mapped; data is NULL when not open */

bool map_open(Map *m, const char *path, Error *e); /* refuses what is not a regular file */
void map_close(Map *m);

/* Read a whole file or stream, at most `limit` bytes. The caller frees the buffer. */
bool read_file(const char *path, size_t limit, Buffer *out, Error *e); /* "-" is stdin */

/* A file that is either absent or complete: written under a temporary name in the same folder,
 * synced and renamed by commit; abort (or a failure) removes it. Of a link, the file that it points
 * at is written. */
typedef struct {
    char *path, *temporary;
    int fd;       /* -1 when closed */
    uint64_t pos; /* bytes written so far */
} NewFile;

bool newfile_open(NewFile *f, const char *path, Error *e);
bool newfile_write(NewFile *f, const void *bytes, size_t n, Error *e);
bool newfile_pwrite(NewFile *f, const void *bytes, size_t n, uint64_t at, Error *e);
bool newfile_commit(NewFile *f, Error *e); /* closes it in every case */
void newfile_abort(NewFile *f);            /* nothing to do when already committed */

/* Hold back from this thread the signals that ask a program to stop (INT, TERM, HUP); *usual: its
 * mask before. */
void hold_signals(sigset_t *usual);
/* For signal handlers, and where a program ends that a signal asked to stop; neither returns. Both
 * remove the temporary file of the NewFile opened last, if it is still being written. The first
 * ends the process as that signal does, so that a loop or script of the shell ends with it ($? is
 * 128 and the number); the second says the line on stderr and exits with status 1. */
void end_by_signal(int number);
void end_with_line(const char *line);

/* May an output named `path` replace what is there? Yes when that is nothing, no regular file (a
 * device), empty, or begins with the text `begins`. A slip of the keyboard costs nobody a file. */
bool may_replace(const char *path, const char *begins, Error *e);

/* Text for a terminal, cut to fit (NUL-terminated): control characters, those that change the
 * direction of writing, and bytes that are no UTF-8 are shown as \xNN. */
void printable(char *out, size_t room, const char *text, size_t n);
/* Is text[0..n) the same when shown so? */
bool is_printable(const char *text, size_t n);

uint32_t allowed_processors(void); /* that this process may run on, 1 or more */

double now_seconds(void); /* a monotonic clock */

#endif
