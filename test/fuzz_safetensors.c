/* fuzz_safetensors.c: the header of a safetensors file, zeros for its data. */
#include "../convert/safetensors.h"
#include "fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    size_t bytes;
    uint8_t *file = fuzz_with_zeros(data, n, &bytes);
    Error e = {{0}};
    StFile st;
    Map m;
    if (!file) return 0;
    fuzz_file("x.safetensors", file, bytes);
    if (!__wrap_map_open(&m, "x.safetensors", &e)) return free(file), 0;
    if (!safetensors_read(&m, "x.safetensors", &st, &e)) {
        fuzz_error(&e);
    } else {
        uint64_t at = st.tensors[0].offset;
        for (size_t i = 0; i < st.n; i++) {
            const StTensor *t = &st.tensors[i];
            if (t->offset != at || t->bytes > bytes - at) abort();
            at += t->bytes;
            if (!safetensors_expect(t, 3, 7, "x.safetensors", &e)) fuzz_error(&e);
        }
        if (at != bytes) abort();
        free(st.tensors);
    }
    __wrap_map_close(&m);
    free(file);
    return 0;
}
