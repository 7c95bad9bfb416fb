/* tiny_gguf.h: writes a small GGUF file, good or with one thing wrong: 2 layers, hidden 32, the 256
 * bytes as vocabulary. What is wrong is data (GgufCase), so that a table of them can be read. */
#ifndef TINY_GGUF_H
#define TINY_GGUF_H

#include "../convert/convert.h"
#include "test.h"

enum { U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 };

/* ---- Writing a file -------------------------------------------------------------------------- */

typedef enum { DAMAGE_NONE, DROP, NAME, N_DIMS, COLS, ROWS, TYPE, OFFSET, TWICE } TensorDamage;

/* What is different from the good file. */
typedef struct GgufCase {
    const char *want; /* part of the error; NULL: opens */
    const char *key;  /* metadata: this key gets the value below, or is left out (no value) */
    int type;         /* type of the value + 1; 0: none */
    uint64_t bits;    /* a plain value, or for an array: element type | count << 8 */
    const char *text; /* a string, or the bytes of an array (array_bytes) */
    size_t array_bytes;
    const char *tensor; /* this tensor is damaged so */
    TensorDamage damage;
    uint64_t value;
    long cut;     /* bytes taken off the end; added, when negative */
    size_t at, n; /* n bytes of `patch` written over the file at this place */
    uint64_t patch;
    const struct GgufCase *also; /* its key gets its value too */
    size_t first, last;          /* last > 0: only tensors [first, last) */
    bool bare;                   /* no metadata but the cases' own */
    uint32_t hidden;             /* hidden size of the tensors; 0: 32 */
} GgufCase;

typedef struct {
    Buffer kv, infos, data;
    uint64_t n_kv, n_infos;
    size_t n_seen; /* tensors, written or not */
    size_t alignment;
    const GgufCase *c;
} GgufWriter;

static Error gguf_scratch; /* memory for error texts of helpers that do not fail */

static void gguf_put(Buffer *b, const void *bytes, size_t n) {
    if (n > 0 && !buffer_add(b, bytes, n, &gguf_scratch)) exit(1);
}
static void gguf_u32(Buffer *b, uint32_t v) { gguf_put(b, &v, sizeof v); }
static void gguf_u64(Buffer *b, uint64_t v) { gguf_put(b, &v, sizeof v); }
static void gguf_text(Buffer *b, const char *text) {
    gguf_u64(b, strlen(text));
    gguf_put(b, text, strlen(text));
}

static size_t gguf_size_of(int type) {
    static const size_t size[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
    return type < 13 ? size[type] : 0;
}

static void gguf_value(Buffer *b, const GgufCase *c) {
    int type = c->type - 1;
    gguf_u32(b, (uint32_t)type);
    if (type == STRING) gguf_text(b, c->text);
    if (type == ARRAY) {
        gguf_u32(b, (uint32_t)(c->bits & 0xff));
        gguf_u64(b, c->bits >> 8);
        gguf_put(b, c->text, c->array_bytes);
    }
    gguf_put(b, &c->bits, gguf_size_of(type));
}

/* Begin an entry; false when the case replaces it. */
static bool gguf_begin(GgufWriter *w, const char *key, int type) {
    for (const GgufCase *c = w->c; c; c = c->also)
        if (c->key && strcmp(c->key, key) == 0) return false;
    gguf_text(&w->kv, key);
    gguf_u32(&w->kv, (uint32_t)type);
    w->n_kv++;
    return true;
}

static void gguf_entry_text(GgufWriter *w, const char *key, const char *text) {
    if (gguf_begin(w, key, STRING)) gguf_text(&w->kv, text);
}
static void gguf_entry_u32(GgufWriter *w, const char *key, uint32_t v) {
    if (gguf_begin(w, key, U32)) gguf_u32(&w->kv, v);
}
static void gguf_entry_f32(GgufWriter *w, const char *key, float f) {
    if (gguf_begin(w, key, F32)) gguf_u32(&w->kv, bits_from_float(f));
}

#define GGUF_TOKENS 260 /* 256 bytes, "ab", three added tokens */
#define GGUF_ROWS 264   /* and four rows of padding */

/* The text of token id in GPT-2's alphabet, or as it is for an added one. */
static const char *gguf_token(uint32_t id, char out[32]) {
    static const char *const more[] = {"ab", "<|endoftext|>", "<|im_start|>", "<|im_end|>"};
    uint32_t n = 0;
    if (id >= GGUF_TOKENS) snprintf(out, 32, "[PAD%u]", id);
    if (id >= 256 && id < GGUF_TOKENS) snprintf(out, 32, "%s", more[id - 256]);
    for (int32_t cp = '!'; id < 256 && cp < 0x100 + 68; cp++) {
        if ((cp > '~' && cp < 0xa1) || cp == 0xad || n++ != id) continue;
        out[utf8_encode(cp, out)] = 0;
    }
    return out;
}

static void gguf_tokenizer(GgufWriter *w) {
    char text[32];
    gguf_entry_text(w, "tokenizer.ggml.model", "gpt2");
    gguf_entry_text(w, "tokenizer.ggml.pre", "qwen2");
    if (gguf_begin(w, "tokenizer.ggml.tokens", ARRAY)) {
        gguf_u32(&w->kv, STRING);
        gguf_u64(&w->kv, GGUF_ROWS);
        for (uint32_t i = 0; i < GGUF_ROWS; i++) gguf_text(&w->kv, gguf_token(i, text));
    }
    if (gguf_begin(w, "tokenizer.ggml.token_type", ARRAY)) {
        gguf_u32(&w->kv, I32);
        gguf_u64(&w->kv, GGUF_ROWS);
        for (uint32_t i = 0; i < GGUF_ROWS; i++)
            gguf_u32(&w->kv, i < 257 ? 1 : i < GGUF_TOKENS ? 3 : 5);
    }
    if (gguf_begin(w, "tokenizer.ggml.merges", ARRAY)) {
        gguf_u32(&w->kv, STRING);
        gguf_u64(&w->kv, 1);
        gguf_text(&w->kv, "a b");
    }
    gguf_entry_u32(w, "tokenizer.ggml.eos_token_id", 259);
    gguf_entry_u32(w, "tokenizer.ggml.padding_token_id", 257);
}

static void gguf_model(GgufWriter *w) {
    gguf_entry_text(w, "general.architecture", "qwen2");
    gguf_entry_text(w, "general.name", "A test");
    gguf_entry_u32(w, "general.file_type", 7);
    gguf_entry_u32(w, "qwen2.block_count", 2);
    gguf_entry_u32(w, "qwen2.context_length", 128);
    gguf_entry_u32(w, "qwen2.embedding_length", 32);
    gguf_entry_u32(w, "qwen2.feed_forward_length", 64);
    gguf_entry_u32(w, "qwen2.attention.head_count", 4);
    gguf_entry_u32(w, "qwen2.attention.head_count_kv", 2);
    gguf_entry_f32(w, "qwen2.rope.freq_base", 1e6f);
    gguf_entry_f32(w, "qwen2.attention.layer_norm_rms_epsilon", 1e-6f);
    gguf_tokenizer(w);
}

static void gguf_metadata(GgufWriter *w) {
    if (!w->c->bare) gguf_model(w);
    for (const GgufCase *c = w->c; c; c = c->also) {
        if (!c->key || c->type == 0) continue;
        gguf_text(&w->kv, c->key);
        gguf_value(&w->kv, c);
        w->n_kv++;
    }
}

/* A tensor: rows = 0 for a vector. Matrices are Q8_0 with scale 1/64, all else F32. */
static void gguf_tensor(GgufWriter *w, const char *name, uint64_t cols, uint64_t rows) {
    const GgufCase *c = w->c;
    bool hit = c->tensor && strcmp(c->tensor, name) == 0;
    uint64_t dims[4] = {cols, rows ? rows : 1, 1, 1};
    uint32_t n_dims = rows ? 2 : 1, type = rows ? SRC_Q8_0 : SRC_F32;
    uint64_t offset = w->data.n;
    size_t place = w->n_seen++;
    if (c->last > 0 && (place < c->first || place >= c->last)) return;
    if (hit && c->damage == DROP) return;
    if (hit && c->damage == N_DIMS) n_dims = (uint32_t)c->value;
    if (hit && c->damage == COLS) dims[0] = c->value;
    if (hit && c->damage == ROWS) dims[1] = c->value;
    if (hit && c->damage == TYPE) type = (uint32_t)c->value;
    if (hit && c->damage == OFFSET) offset += c->value;
    gguf_text(&w->infos, hit && c->damage == NAME ? c->text : name);
    gguf_u32(&w->infos, n_dims);
    for (uint32_t i = 0; i < n_dims && i < 4; i++) gguf_u64(&w->infos, dims[i]);
    gguf_u32(&w->infos, type);
    gguf_u64(&w->infos, offset);
    w->n_infos++;
    for (uint64_t k = 0; k < (rows ? rows * cols / 32 : cols); k++) {
        uint8_t block[34] = {0, 0x24};
        for (size_t i = 0; i < 32; i++) block[2 + i] = (uint8_t)(k * 7 + i + strlen(name));
        float f = (float)k + 0.5f;
        gguf_put(&w->data, rows ? (void *)block : (void *)&f, rows ? sizeof block : sizeof f);
    }
    while (w->data.n % w->alignment != 0) gguf_put(&w->data, "", 1);
}

static uint64_t gguf_hidden(const GgufWriter *w) { return w->c->hidden ? w->c->hidden : 32; }

static void gguf_layer(GgufWriter *w, int layer) {
    const uint64_t h = gguf_hidden(w);
    const struct {
        const char *name;
        uint64_t cols, rows;
    } part[] = {
        {"attn_norm.weight", h, 0}, {"ffn_down.weight", 64, h},    {"ffn_gate.weight", h, 64},
        {"ffn_up.weight", h, 64},   {"ffn_norm.weight", h, 0},     {"attn_k.bias", 16, 0},
        {"attn_k.weight", h, 16},   {"attn_output.weight", 32, h}, {"attn_q.bias", 32, 0},
        {"attn_q.weight", h, 32},   {"attn_v.bias", 16, 0},        {"attn_v.weight", h, 16},
    };
    for (size_t i = 0; i < sizeof part / sizeof *part; i++) {
        char name[64];
        snprintf(name, sizeof name, "blk.%d.%s", layer, part[i].name);
        gguf_tensor(w, name, part[i].cols, part[i].rows);
    }
}

static void gguf_write(const GgufCase *c, Buffer *out) {
    GgufWriter w = {.c = c, .alignment = 32};
    if (c->key && strcmp(c->key, "general.alignment") == 0 && c->want == NULL) {
        w.alignment = (size_t)c->bits;
    }
    gguf_metadata(&w);
    gguf_tensor(&w, "token_embd.weight", gguf_hidden(&w), GGUF_ROWS);
    for (int layer = 0; layer < 2; layer++) gguf_layer(&w, layer);
    gguf_tensor(&w, "output_norm.weight", gguf_hidden(&w), 0);
    if (c->damage == TWICE) gguf_tensor(&w, c->tensor, 32, c->value);
    gguf_put(out, "GGUF", 4);
    gguf_u32(out, 3);
    gguf_u64(out, w.n_infos);
    gguf_u64(out, w.n_kv);
    gguf_put(out, w.kv.data, w.kv.n);
    gguf_put(out, w.infos.data, w.infos.n);
    while (out->n % w.alignment != 0) gguf_put(out, "", 1);
    gguf_put(out, w.data.data, w.data.n);
    buffer_free(&w.kv);
    buffer_free(&w.infos);
    buffer_free(&w.data);
    if (c->n > 0) memcpy(out->data + c->at, &c->patch, c->n);
    if (c->cut > 0) out->n -= (size_t)c->cut < out->n ? (size_t)c->cut : out->n;
    for (long i = c->cut; i < 0; i++) gguf_put(out, "", 1);
}

#endif
