/* memory_file.h: a file that lies in memory, for programs that include qwen.c: while
 * memory_file.on, map_open gives its bytes, whatever the path. The linker puts these functions in
 * the place of map_open and map_close (see the Makefile's --wrap). */
#ifndef MEMORY_FILE_H
#define MEMORY_FILE_H

#include "../base.h"

bool __wrap_map_open(Map *m, const char *path, Error *e);
void __wrap_map_close(Map *m);
bool __real_map_open(Map *m, const char *path, Error *e);
void __real_map_close(Map *m);

static struct {
    uint8_t *data; /* (bytes) */
    size_t bytes;
    bool on;
} memory_file;

bool __wrap_map_open(Map *m, const char *path, Error *e) {
    if (!memory_file.on) return __real_map_open(m, path, e);
    *m = (Map){.data = memory_file.data, .bytes = memory_file.bytes, .fd = -1};
    return memory_file.bytes > 0 || fail(e, path, NULL, "empty");
}

void __wrap_map_close(Map *m) {
    if (!memory_file.on)
        __real_map_close(m);
    else
        *m = (Map){.fd = -1};
}

#endif
