/* fuzz_text.c: the tokenizer loses nothing: decode(encode(x)) is NFC(x), whatever the bytes; NFC of
 * it is itself; ASCII stays as it is; and with special tokens parsed the text is still the same. */
#include "../tokenizer.c"

#include "fuzz.h"
#include "good_folder.h"

static Buffer decode(const Tokenizer *t, const Ids *ids) {
    Buffer out = {0};
    Error e;
    for (size_t i = 0; i < ids->n; i++) {
        size_t n;
        const char *bytes = tokenizer_bytes(t, ids->ids[i], &n);
        if (!bytes || n == 0 || !buffer_add(&out, bytes, n, &e)) abort();
    }
    return out;
}

static Buffer round_trip(const Tokenizer *t, const char *text, size_t n, bool special) {
    Ids ids = {0};
    Error e;
    if (!tokenizer_encode(t, text, n, special, &ids, &e)) abort();
    Buffer out = decode(t, &ids);
    ids_free(&ids);
    return out;
}

static bool same(const Buffer *b, const char *text, size_t n) {
    return b->n == n && (n == 0 || memcmp(b->data, text, n) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    static Tokenizer *t;
    if (!t) t = good_tokenizer();
    const char *text = (const char *)data, *nfc = text;
    Segment segment = {0};
    Buffer room = {0};
    Error e;
    size_t n_nfc = n;
    bool ascii = true;
    for (size_t i = 0; i < n; i++) ascii &= data[i] < 0x80;
    if (n == 0) return 0;
    if (!normalize(&segment, text, n, &room, &nfc, &n_nfc, &e)) abort();
    Buffer once = round_trip(t, text, n, false);
    if (!same(&once, nfc, n_nfc)) abort();
    if (ascii && !same(&once, text, n)) abort();
    Buffer twice = round_trip(t, once.data, once.n, false);
    if (!same(&twice, once.data, once.n)) abort();
    Buffer special = round_trip(t, text, n, true);
    if (ascii && !same(&special, text, n)) abort();
    buffer_free(&once);
    buffer_free(&twice);
    buffer_free(&special);
    buffer_free(&room);
    free(segment.chars);
    return 0;
}
