/* fuzz_gguf.c: a GGUF file up to its tensors' data, zeros for the data. Rows of what opens are
 * read. */
#include "../convert/convert.h"
#include "fuzz.h"

static void read_rows(const Source *s) {
    uint8_t *row = malloc(1u << 20);
    Error e = {{0}};
    for (size_t i = 0; row && i < s->n_tensors; i++) {
        const SourceTensor *t = &s->tensors[i];
        if (source_row_bytes(t->type, t->cols) > 1u << 20) continue;
        if (!source_read_rows(s, t, 0, 1, row, &e)) fuzz_error(&e);
        if (!source_read_rows(s, t, t->rows - 1, 1, row, &e)) fuzz_error(&e);
    }
    free(row);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    size_t bytes;
    uint8_t *file = fuzz_with_zeros(data, n, &bytes);
    Error e = {{0}};
    Source s;
    if (!file) return 0;
    fuzz_file("x.gguf", file, bytes);
    if (!gguf_open("x.gguf", &s, &e)) {
        fuzz_error(&e);
    } else {
        read_rows(&s);
        source_close(&s);
    }
    free(file);
    return 0;
}
