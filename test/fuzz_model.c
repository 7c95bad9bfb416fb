/* fuzz_model.c: model_open, the tokenizer section and one pass: the input is the file up to the
 * tensors; zeros make it as long as its header says, and the checksum is repaired. */
#define QWEN_NO_MAIN
#include "../qwen.c"

#include "fuzz.h"
#include "use_model.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    ModelHeader h = {.file_bytes = 0};
    Error e = {{0}};
    Model m;
    memcpy(&h, data, min_size(n, sizeof h));
    size_t bytes = h.file_bytes < 1u << 20 ? max_size(n, h.file_bytes) : n;
    uint8_t *file = calloc(max_size(bytes, 1), 1);
    if (!file) return 0;
    if (n) memcpy(file, data, n);
    if (n >= sizeof h && h.header_bytes >= MODEL_HEADER_BYTES && h.header_bytes <= bytes) {
        h.crc32c = model_header_crc(file, h.header_bytes);
        memcpy(file + offsetof(ModelHeader, crc32c), &h.crc32c, sizeof h.crc32c);
    }
    fuzz_file("m.bin", file, bytes);
    if (!model_load(&m, "m.bin", &e)) {
        fuzz_error(&e);
    } else {
        if (!use_model(&m, &e)) abort();
        model_unload(&m);
    }
    free(file);
    return 0;
}
