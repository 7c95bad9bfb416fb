/* fuzz.h: what the fuzz targets share: files that lie in memory. The linker puts these functions in
 * the place of map_open, map_close, read_file and lstat (see the Makefile), so the parsers run as
 * they are. Every file is a block of its own, so AddressSanitizer sees a read beyond its end. */
#ifndef FUZZ_H
#define FUZZ_H

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../base.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);
bool __wrap_map_open(Map *m, const char *path, Error *e);
void __wrap_map_close(Map *m);
bool __wrap_read_file(const char *path, size_t limit, Buffer *out, Error *e);
int __wrap_lstat(const char *path, struct stat *st);

#define FUZZ_FILES 16
#define FUZZ_NO_FILE SIZE_MAX /* length of a file that is not there */

static struct {
    struct {
        const char *name; /* without folder */
        const void *data; /* (n) */
        size_t n;
    } file[FUZZ_FILES];
    size_t n;
} fuzz;

/* Add a file, or replace the one of this name. The bytes must stay. */
__attribute__((unused)) static void fuzz_file(const char *name, const void *data, size_t n) {
    size_t i = 0;
    while (i < fuzz.n && strcmp(fuzz.file[i].name, name) != 0) i++;
    if (i == FUZZ_FILES) abort();
    if (i == fuzz.n) fuzz.n++;
    fuzz.file[i].name = name;
    fuzz.file[i].data = data;
    fuzz.file[i].n = n;
}

/* Index of the file with this path's name, or fuzz.n. */
static size_t fuzz_find(const char *path) {
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
    size_t i = 0;
    while (i < fuzz.n && strcmp(fuzz.file[i].name, name) != 0) i++;
    return i < fuzz.n && fuzz.file[i].n == FUZZ_NO_FILE ? fuzz.n : i;
}

bool __wrap_map_open(Map *m, const char *path, Error *e) {
    size_t i = fuzz_find(path);
    *m = (Map){.fd = -1};
    if (i == fuzz.n) return fail(e, path, NULL, "cannot open");
    if (fuzz.file[i].n == 0) return fail(e, path, NULL, "empty");
    *m = (Map){.data = fuzz.file[i].data, .bytes = fuzz.file[i].n, .fd = -1};
    return true;
}

void __wrap_map_close(Map *m) { *m = (Map){.fd = -1}; }

bool __wrap_read_file(const char *path, size_t limit, Buffer *out, Error *e) {
    size_t i = fuzz_find(path);
    if (i == fuzz.n) return fail(e, path, NULL, "cannot open");
    if (fuzz.file[i].n > limit) return fail(e, path, NULL, "too large");
    return buffer_add(out, fuzz.file[i].data, fuzz.file[i].n, e);
}

int __wrap_lstat(const char *path, struct stat *st) {
    (void)st;
    errno = ENOENT;
    return fuzz_find(path) < fuzz.n ? 0 : -1;
}

/* An error must be one line of printable text. */
__attribute__((unused)) static void fuzz_error(const Error *e) {
    size_t n = strnlen(e->text, sizeof e->text);
    if (n == 0 || n == sizeof e->text || !is_printable(e->text, n)) abort();
}

/* The input with its first four bytes taken as a number of zeros (below 256 KiB) to put behind the
 * rest: files whose data is long and of no interest. The caller frees it. */
__attribute__((unused)) static uint8_t *fuzz_with_zeros(const uint8_t *data, size_t n,
                                                        size_t *out) {
    uint32_t zeros = 0;
    if (n < sizeof zeros) return NULL;
    memcpy(&zeros, data, sizeof zeros);
    zeros &= 0x3ffff;
    *out = n - sizeof zeros + zeros;
    uint8_t *bytes = calloc(*out ? *out : 1, 1);
    if (bytes) memcpy(bytes, data + sizeof zeros, n - sizeof zeros);
    return bytes;
}

#endif
