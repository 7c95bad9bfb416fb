/* test_gguf.c: a small GGUF file is written, opens with everything in its place, and is refused
 * with one line that names the field for each of many ways to damage it. Then random damage, which
 * must never crash. With golden files (directory as argument, else ../shared/golden) the tokenizers
 * of GGUF and Hugging Face are compared, and our quantizers with the files' quantizers. */
#include <dirent.h>
#include <unistd.h>

#include "../convert/convert.h"
#include "test.h"

enum { U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 };

/* ---- Writing a file -------------------------------------------------------------------------- */

typedef enum { DAMAGE_NONE, DROP, NAME, N_DIMS, COLS, ROWS, TYPE, OFFSET, TWICE } TensorDamage;

/* What is different from the good file. */
typedef struct {
    const char *want;    /* part of the error; NULL: opens */
    const char *key;     /* metadata: this key gets the value below, or is left out (no value) */
    int type;            /* type of the value + 1; 0: none */
    uint64_t bits;       /* a plain value, or for an array: element type | count << 8 */
    const char *text;    /* a string, or the bytes of an array (array_bytes) */
    size_t array_bytes;
    const char *tensor;  /* this tensor is damaged so */
    TensorDamage damage;
    uint64_t value;
    long cut;            /* bytes taken off the end; added, when negative */
    size_t at, n;        /* n bytes of `patch` written over the file at this place */
    uint64_t patch;
} Case;

typedef struct {
    Buffer kv, infos, data;
    uint64_t n_kv, n_infos;
    size_t alignment;
    const Case *c;
} Writer;

static Error scratch; /* memory for error texts of helpers that do not fail */

static void put(Buffer *b, const void *bytes, size_t n) {
    if (n > 0 && !buffer_add(b, bytes, n, &scratch)) exit(1);
}
static void put_u32(Buffer *b, uint32_t v) { put(b, &v, sizeof v); }
static void put_u64(Buffer *b, uint64_t v) { put(b, &v, sizeof v); }
static void put_text(Buffer *b, const char *text) {
    put_u64(b, strlen(text));
    put(b, text, strlen(text));
}

static size_t size_of(int type) {
    static const size_t size[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
    return type < 13 ? size[type] : 0;
}

static void put_value(Buffer *b, const Case *c) {
    int type = c->type - 1;
    put_u32(b, (uint32_t)type);
    if (type == STRING) put_text(b, c->text);
    if (type == ARRAY) {
        put_u32(b, (uint32_t)(c->bits & 0xff));
        put_u64(b, c->bits >> 8);
        put(b, c->text, c->array_bytes);
    }
    put(b, &c->bits, size_of(type));
}

/* Begin an entry; false when the case replaces it. */
static bool begin_entry(Writer *w, const char *key, int type) {
    if (w->c->key && strcmp(w->c->key, key) == 0) return false;
    put_text(&w->kv, key);
    put_u32(&w->kv, (uint32_t)type);
    w->n_kv++;
    return true;
}

static void entry_text(Writer *w, const char *key, const char *text) {
    if (begin_entry(w, key, STRING)) put_text(&w->kv, text);
}
static void entry_u32(Writer *w, const char *key, uint32_t v) {
    if (begin_entry(w, key, U32)) put_u32(&w->kv, v);
}
static void entry_f32(Writer *w, const char *key, float f) {
    if (begin_entry(w, key, F32)) put_u32(&w->kv, bits_from_float(f));
}

#define N_TOKENS 260 /* 256 bytes, "ab", three added tokens */
#define N_ROWS 264   /* and four rows of padding */

/* The text of token id in GPT-2's alphabet, or as it is for an added one. */
static const char *token_text(uint32_t id, char out[32]) {
    static const char *const more[] = {"ab", "<|endoftext|>", "<|im_start|>", "<|im_end|>"};
    uint32_t n = 0;
    if (id >= N_TOKENS) snprintf(out, 32, "[PAD%u]", id);
    if (id >= 256 && id < N_TOKENS) snprintf(out, 32, "%s", more[id - 256]);
    for (int32_t cp = '!'; id < 256 && cp < 0x100 + 68; cp++) {
        if ((cp > '~' && cp < 0xa1) || cp == 0xad || n++ != id) continue;
        out[utf8_encode(cp, out)] = 0;
    }
    return out;
}

static void write_tokenizer(Writer *w) {
    char text[32];
    entry_text(w, "tokenizer.ggml.model", "gpt2");
    entry_text(w, "tokenizer.ggml.pre", "qwen2");
    if (begin_entry(w, "tokenizer.ggml.tokens", ARRAY)) {
        put_u32(&w->kv, STRING);
        put_u64(&w->kv, N_ROWS);
        for (uint32_t i = 0; i < N_ROWS; i++) put_text(&w->kv, token_text(i, text));
    }
    if (begin_entry(w, "tokenizer.ggml.token_type", ARRAY)) {
        put_u32(&w->kv, I32);
        put_u64(&w->kv, N_ROWS);
        for (uint32_t i = 0; i < N_ROWS; i++) put_u32(&w->kv, i < 257 ? 1 : i < N_TOKENS ? 3 : 5);
    }
    if (begin_entry(w, "tokenizer.ggml.merges", ARRAY)) {
        put_u32(&w->kv, STRING);
        put_u64(&w->kv, 1);
        put_text(&w->kv, "a b");
    }
    entry_u32(w, "tokenizer.ggml.eos_token_id", 259);
    entry_u32(w, "tokenizer.ggml.padding_token_id", 257);
}

static void write_metadata(Writer *w) {
    entry_text(w, "general.architecture", "qwen2");
    entry_text(w, "general.name", "A test");
    entry_u32(w, "general.file_type", 7);
    entry_u32(w, "qwen2.block_count", 2);
    entry_u32(w, "qwen2.context_length", 128);
    entry_u32(w, "qwen2.embedding_length", 32);
    entry_u32(w, "qwen2.feed_forward_length", 64);
    entry_u32(w, "qwen2.attention.head_count", 4);
    entry_u32(w, "qwen2.attention.head_count_kv", 2);
    entry_f32(w, "qwen2.rope.freq_base", 1e6f);
    entry_f32(w, "qwen2.attention.layer_norm_rms_epsilon", 1e-6f);
    write_tokenizer(w);
    if (w->c->key && w->c->type > 0) {
        put_text(&w->kv, w->c->key);
        put_value(&w->kv, w->c);
        w->n_kv++;
    }
}

/* A tensor: rows = 0 for a vector. Matrices are Q8_0 with scale 1/64, all else F32. */
static void tensor(Writer *w, const char *name, uint64_t cols, uint64_t rows) {
    const Case *c = w->c;
    bool hit = c->tensor && strcmp(c->tensor, name) == 0;
    uint64_t dims[4] = {cols, rows, 1, 1};
    uint32_t n_dims = rows ? 2 : 1, type = rows ? SRC_Q8_0 : SRC_F32;
    uint64_t offset = w->data.n;
    if (hit && c->damage == DROP) return;
    if (hit && c->damage == N_DIMS) n_dims = (uint32_t)c->value;
    if (hit && c->damage == COLS) dims[0] = c->value;
    if (hit && c->damage == ROWS) dims[1] = c->value;
    if (hit && c->damage == TYPE) type = (uint32_t)c->value;
    if (hit && c->damage == OFFSET) offset += c->value;
    put_text(&w->infos, hit && c->damage == NAME ? c->text : name);
    put_u32(&w->infos, n_dims);
    for (uint32_t i = 0; i < n_dims && i < 4; i++) put_u64(&w->infos, dims[i]);
    put_u32(&w->infos, type);
    put_u64(&w->infos, offset);
    w->n_infos++;
    for (uint64_t k = 0; k < (rows ? rows * cols / 32 : cols); k++) {
        uint8_t block[34] = {0, 0x24};
        for (size_t i = 0; i < 32; i++) block[2 + i] = (uint8_t)(k * 7 + i + strlen(name));
        float f = (float)k + 0.5f;
        put(&w->data, rows ? (void *)block : (void *)&f, rows ? sizeof block : sizeof f);
    }
    while (w->data.n % w->alignment != 0) put(&w->data, "", 1);
}

static void write_layer(Writer *w, int layer) {
    static const struct {
        const char *name;
        uint64_t cols, rows;
    } part[] = {
        {"attn_norm.weight", 32, 0}, {"ffn_down.weight", 64, 32}, {"ffn_gate.weight", 32, 64},
        {"ffn_up.weight", 32, 64},   {"ffn_norm.weight", 32, 0},  {"attn_k.bias", 16, 0},
        {"attn_k.weight", 32, 16},   {"attn_output.weight", 32, 32}, {"attn_q.bias", 32, 0},
        {"attn_q.weight", 32, 32},   {"attn_v.bias", 16, 0},      {"attn_v.weight", 32, 16},
    };
    for (size_t i = 0; i < sizeof part / sizeof *part; i++) {
        char name[64];
        snprintf(name, sizeof name, "blk.%d.%s", layer, part[i].name);
        tensor(w, name, part[i].cols, part[i].rows);
    }
}

static void write_file(const Case *c, Buffer *out) {
    Writer w = {.c = c, .alignment = 32};
    if (c->key && strcmp(c->key, "general.alignment") == 0 && c->want == NULL) {
        w.alignment = (size_t)c->bits;
    }
    write_metadata(&w);
    tensor(&w, "token_embd.weight", 32, N_ROWS);
    for (int layer = 0; layer < 2; layer++) write_layer(&w, layer);
    tensor(&w, "output_norm.weight", 32, 0);
    if (c->damage == TWICE) tensor(&w, c->tensor, 32, c->value);
    put(out, "GGUF", 4);
    put_u32(out, 3);
    put_u64(out, w.n_infos);
    put_u64(out, w.n_kv);
    put(out, w.kv.data, w.kv.n);
    put(out, w.infos.data, w.infos.n);
    while (out->n % w.alignment != 0) put(out, "", 1);
    put(out, w.data.data, w.data.n);
    buffer_free(&w.kv);
    buffer_free(&w.infos);
    buffer_free(&w.data);
    if (c->n > 0) memcpy(out->data + c->at, &c->patch, c->n);
    if (c->cut > 0) out->n -= (size_t)c->cut < out->n ? (size_t)c->cut : out->n;
    for (long i = c->cut; i < 0; i++) put(out, "", 1);
}

static char path[] = P_tmpdir "/test_gguf_XXXXXX";

/* Write the bytes to the test's file and open it. */
static bool open_bytes(const Buffer *b, Source *s, Error *e) {
    unlink(path); /* a file cut to nothing and written anew may be flushed to disk each time */
    FILE *f = fopen(path, "wb");
    if (f == NULL || fwrite(b->data, 1, b->n, f) != b->n || fclose(f) != 0) exit(1);
    e->text[0] = 0;
    return gguf_open(path, s, e);
}

static bool open_case(const Case *c, Source *s, Error *e) {
    Buffer b = {0};
    write_file(c, &b);
    bool ok = open_bytes(&b, s, e);
    buffer_free(&b);
    return ok;
}

/* ---- The good file --------------------------------------------------------------------------- */

static const SourceTensor *tensor_named(const Source *s, const char *name) {
    for (size_t i = 0; i < s->n_tensors; i++) {
        if (strcmp(s->tensors[i].name, name) == 0) return &s->tensors[i];
    }
    return NULL;
}

static void expect_config(const Source *s) {
    const ModelConfig *c = &s->header.config;
    const ModelDefaults *d = &s->header.defaults;
    CHECK(c->num_hidden_layers == 2 && c->hidden_size == 32 && c->intermediate_size == 64 &&
              c->num_attention_heads == 4 && c->num_key_value_heads == 2 && c->head_dim == 8 &&
              c->vocab_size == N_ROWS && c->max_position_embeddings == 128,
          "sizes");
    CHECK(c->tie_word_embeddings == 1 && c->qkv_bias == 1 && c->yarn_factor == 0, "flags");
    CHECK(c->rms_norm_eps == 1e-6f && c->rope_theta == 1e6, "eps and theta");
    CHECK(d->n_eos == 2 && d->eos[0] == 259 && d->eos[1] == 257, "stop tokens");
    CHECK(d->bos == -1 && d->pad == 257, "bos %d, pad %d", d->bos, d->pad);
    CHECK(d->do_sample == 0 && d->temperature == 1 && d->top_p == 1 && d->top_k == 0, "sampling");
    CHECK(strcmp(s->header.name, "A test") == 0 && strcmp(s->quant, "Q8_0") == 0, "names");
    CHECK(s->header.chat_family == CHAT_NONE && s->chat_note[0] == 0, "no template");
}

static void test_good(void) {
    Case good = {0};
    Source s;
    Error e;
    bool ok = open_case(&good, &s, &e);
    CHECK(ok, "the good file: %s", e.text);
    if (!ok) return;
    expect_config(&s);
    CHECK(s.n_tensors == 26 && strcmp(s.tensors[0].name, "model.embed_tokens.weight") == 0 &&
              strcmp(s.tensors[25].name, "model.norm.weight") == 0,
          "tensors in order");
    const SourceTensor *t = tensor_named(&s, "model.layers.1.mlp.down_proj.weight");
    uint8_t row[68];
    float x[64];
    CHECK(t && t->rows == 32 && t->cols == 64 && t->type == SRC_Q8_0, "down_proj");
    if (t && source_read_rows(&s, t, 3, 1, row, &e)) {
        source_row_to_float(t->type, row, 64, x);
        int8_t code = (int8_t)(6 * 7 + 2 + 21); /* block 6, weight 2, 21 letters in the name */
        CHECK(x[2] == (float)code / 64, "weight (3, 2) of down_proj: %g", (double)x[2]);
    }
    Tokenizer *tok = tokenizer_open(s.tokenizer.data, s.tokenizer.n, path, &e);
    CHECK(tok && tokenizer_n_tokens(tok) == N_TOKENS, "the padding is no token");
    CHECK(tok && tokenizer_find(tok, "<|im_end|>") == 259, "added token");
    tokenizer_close(tok);
    source_close(&s);
}

/* Other files that must open. */
static void test_variants(void) {
    Case c = {.at = 4, .n = 4, .patch = 2};
    Source s;
    Error e;
    CHECK(open_case(&c, &s, &e), "version 2: %s", e.text);
    source_close(&s);
    c = (Case){.key = "general.alignment", .type = U32 + 1, .bits = 128};
    CHECK(open_case(&c, &s, &e), "alignment 128: %s", e.text);
    source_close(&s);
    c = (Case){.key = "general.sampling.temp", .type = F32 + 1, .bits = bits_from_float(0.6f)};
    CHECK(open_case(&c, &s, &e) && s.header.defaults.temperature == 0.6f &&
              s.header.defaults.do_sample == 1,
          "sampling keys: %s", e.text);
    source_close(&s);
    c = (Case){.damage = TWICE, .tensor = "output.weight", .value = N_ROWS};
    CHECK(open_case(&c, &s, &e) && s.header.config.tie_word_embeddings == 0 && s.n_tensors == 27 &&
              tensor_named(&s, "lm_head.weight"),
          "untied: %s", e.text);
    source_close(&s);
    c = (Case){.key = "tokenizer.chat_template", .type = STRING + 1, .text = "{{ nothing known }}"};
    CHECK(open_case(&c, &s, &e) && s.header.chat_family == CHAT_NONE && s.chat_note[0],
          "an unknown template is noted: %s", e.text);
    source_close(&s);
}

/* ---- Refused files --------------------------------------------------------------------------- */

#define KEY(want_, key_, type_, bits_) \
    {.want = (want_), .key = (key_), .type = (type_) + 1, .bits = (uint64_t)(bits_)}
#define TEXT(want_, key_, text_) \
    {.want = (want_), .key = (key_), .type = STRING + 1, .text = (text_)}
#define GONE(key_) {.want = key_ ": missing", .key = (key_)}
#define TENSOR(want_, name_, damage_, value_) \
    {.want = (want_), .tensor = (name_), .damage = (damage_), .value = (uint64_t)(value_)}
#define HEAD(want_, at_, n_, patch_) \
    {.want = (want_), .at = (at_), .n = (n_), .patch = (uint64_t)(patch_)}
#define BLOB(want_, key_, element_, count_, bytes_) \
    {.want = (want_), .key = (key_), .type = ARRAY + 1, \
     .bits = (element_) | (uint64_t)(count_) << 8, \
     .text = (bytes_), .array_bytes = sizeof(bytes_) - 1}

static const Case refused[] = {
    HEAD("magic: ", 0, 4, 0x46554746), HEAD("big-endian", 0, 4, 0x47475546),
    HEAD("version: expected 2 or 3, got 0", 4, 4, 0), HEAD("version: expected", 4, 4, 1),
    HEAD("version: expected", 4, 4, 4), HEAD("big-endian", 4, 4, 0x03000000),
    HEAD("tensor count", 8, 8, -1), HEAD("tensor count", 8, 8, (uint64_t)1 << 60),
    HEAD("metadata count", 16, 8, -1), HEAD("metadata count", 16, 8, (uint64_t)1 << 31),
    HEAD("metadata key", 24, 8, -1), HEAD("metadata key", 24, 8, (uint64_t)1 << 40),
    HEAD("metadata key", 24, 8, 0), HEAD("metadata key", 24, 8, 65536),
    HEAD("metadata key: expected plain", 32, 1, 0xff),
    {.want = "empty", .cut = 1 << 30}, {.want = "incomplete copy", .cut = 1},
    {.want = "ends early", .cut = 4096}, {.want = "ends early", .cut = 20000},
    {.want = "size: ", .cut = -32}, {.want = "size: ", .cut = -1000000},
    TEXT("general.architecture: llama is not supported, expected qwen2", "general.architecture",
         "llama"),
    TEXT("general.architecture: \\x1b[2J", "general.architecture", "\x1b[2J"),
    KEY("general.architecture: expected a string", "general.architecture", U32, 1),
    GONE("general.architecture"), GONE("qwen2.block_count"), GONE("qwen2.context_length"),
    GONE("qwen2.embedding_length"), GONE("qwen2.feed_forward_length"),
    GONE("qwen2.attention.head_count"), GONE("qwen2.attention.layer_norm_rms_epsilon"),
    GONE("tokenizer.ggml.model"), GONE("tokenizer.ggml.pre"), GONE("tokenizer.ggml.tokens"),
    GONE("tokenizer.ggml.token_type"), GONE("tokenizer.ggml.merges"),
    TEXT("qwen2.block_count: expected a whole number, got type string", "qwen2.block_count", "2"),
    KEY("qwen2.block_count", "qwen2.block_count", U32, 0),
    KEY("qwen2.block_count", "qwen2.block_count", U32, 1000000),
    KEY("qwen2.block_count", "qwen2.block_count", U32, UINT32_MAX),
    KEY("qwen2.block_count", "qwen2.block_count", U64, -1),
    KEY("qwen2.block_count", "qwen2.block_count", I32, UINT32_MAX),
    KEY("blk.2.attn_norm.weight: missing", "qwen2.block_count", U32, 3),
    KEY("is not supported: no tensor", "qwen2.block_count", U32, 1),
    KEY("qwen2.context_length", "qwen2.context_length", U32, 0),
    KEY("qwen2.context_length", "qwen2.context_length", U32, UINT32_MAX),
    KEY("qwen2.attention.head_count", "qwen2.attention.head_count", U32, 0),
    KEY("expected a multiple of 6 heads", "qwen2.attention.head_count", U32, 6),
    KEY("qwen2.attention.head_count_kv", "qwen2.attention.head_count_kv", U32, 0),
    KEY("qwen2.attention.head_count_kv: expected a divisor of 4", "qwen2.attention.head_count_kv",
        U32, 3),
    KEY("qwen2.attention.head_count_kv", "qwen2.attention.head_count_kv", U32, 8),
    KEY("token_embd.weight: expected 64 columns", "qwen2.embedding_length", U32, 64),
    KEY("rms_epsilon", "qwen2.attention.layer_norm_rms_epsilon", F32, 0x7fc00000),
    KEY("rms_epsilon", "qwen2.attention.layer_norm_rms_epsilon", F32, 0),
    KEY("rms_epsilon", "qwen2.attention.layer_norm_rms_epsilon", F32, 0xb58637bd),
    KEY("rms_epsilon: expected a real number", "qwen2.attention.layer_norm_rms_epsilon", U32, 1),
    KEY("qwen2.rope.freq_base", "qwen2.rope.freq_base", F32, 0x7fc00000),
    KEY("qwen2.rope.freq_base", "qwen2.rope.freq_base", F32, 0x7f800000),
    KEY("qwen2.rope.freq_base", "qwen2.rope.freq_base", F32, 0xbf800000),
    TEXT("qwen2.rope.scaling.type: linear is not supported", "qwen2.rope.scaling.type", "linear"),
    TEXT("qwen2.rope.scaling.factor: missing", "qwen2.rope.scaling.type", "yarn"),
    KEY("qwen2.rope.scaling.factor: stands without", "qwen2.rope.scaling.factor", F32, 0x40800000),
    KEY("qwen2.expert_count: is not supported", "qwen2.expert_count", U32, 60),
    KEY("qwen2.rope.dimension_count", "qwen2.rope.dimension_count", U32, 16),
    KEY("general.alignment", "general.alignment", U32, 0),
    KEY("general.alignment", "general.alignment", U32, 13),
    KEY("general.alignment", "general.alignment", U32, 4),
    KEY("general.alignment", "general.alignment", U32, 1u << 31),
    KEY("general.alignment: expected a u32, got type i32", "general.alignment", I32, 32),
    KEY("offset: expected", "general.alignment", U32, 512),
    KEY("split.count: this is part 1 of 3", "split.count", U16, 3),
    KEY("x.y: expected a value of a known type", "x.y", 98, 0),
    KEY("x.y: expected a value of a known type", "x.y", 1000000, 0),
    KEY("x.y: expected 0 or 1, got 2", "x.y", BOOL, 2),
    BLOB("array of arrays", "x.y", ARRAY, 1, "\0\0\0\0\0\0\0\0\0\0\0\0"),
    BLOB("x.y: expected at most", "x.y", U32, (uint64_t)1 << 54, ""),
    BLOB("x.y: expected at most", "x.y", STRING, (uint64_t)1 << 55, ""),
    BLOB("x.y: expected at most", "x.y", U8, (uint64_t)1 << 32, ""),
    KEY("tokenizer.ggml.tokens: expected an array of strings, got type u32",
        "tokenizer.ggml.tokens", U32, 0),
    BLOB("tokenizer.ggml.tokens: expected an array of strings, got one of u32",
         "tokenizer.ggml.tokens", U32, 1, "\0\0\0\0"),
    BLOB("tokenizer.ggml.tokens: expected 1 to 264", "tokenizer.ggml.tokens", STRING, 0, ""),
    BLOB("tokenizer.ggml.token_type: expected 1", "tokenizer.ggml.tokens", STRING, 1,
         "\1\0\0\0\0\0\0\0a"),
    BLOB("tokenizer.ggml.token_type: expected an array of i32, got one of u8",
         "tokenizer.ggml.token_type", U8, 4, "\1\1\1\1"),
    BLOB("tokenizer.ggml.token_type: expected 264", "tokenizer.ggml.token_type", I32, 1,
         "\1\0\0\0"),
    KEY("tokenizer.ggml.merges: expected an array", "tokenizer.ggml.merges", U32, 0),
    BLOB("merges: none", "tokenizer.ggml.merges", STRING, 0, ""),
    BLOB("tokenizer.ggml.merges: expected two tokens", "tokenizer.ggml.merges", STRING, 1,
         "\2\0\0\0\0\0\0\0ab"),
    BLOB("tokenizer.ggml.merges: expected two tokens", "tokenizer.ggml.merges", STRING, 1,
         "\5\0\0\0\0\0\0\0a b c"),
    BLOB("result of a merge is no token", "tokenizer.ggml.merges", STRING, 1,
         "\3\0\0\0\0\0\0\0a c"),
    TEXT("tokenizer.ggml.model: llama is not supported", "tokenizer.ggml.model", "llama"),
    TEXT("tokenizer.ggml.pre: gpt-2 is not supported", "tokenizer.ggml.pre", "gpt-2"),
    KEY("tokenizer.ggml.add_bos_token: true is not", "tokenizer.ggml.add_bos_token", BOOL, 1),
    KEY("tokenizer.ggml.eos_token_id", "tokenizer.ggml.eos_token_id", U32, 260),
    KEY("tokenizer.ggml.eos_token_id", "tokenizer.ggml.eos_token_id", U32, 1u << 31),
    KEY("tokenizer.ggml.bos_token_id", "tokenizer.ggml.bos_token_id", U32, UINT32_MAX),
    KEY("tokenizer.chat_template: expected a string", "tokenizer.chat_template", U32, 1),
    KEY("general.sampling.top_p", "general.sampling.top_p", F32, 0x40000000),
    TENSOR("token_embd.weight: missing", "token_embd.weight", DROP, 0),
    TENSOR("blk.1.ffn_up.weight: missing", "blk.1.ffn_up.weight", DROP, 0),
    TENSOR("blk.0.attn_q.bias: missing", "blk.0.attn_q.bias", DROP, 0),
    TENSOR("token_embd.weight: expected 1 or 2 dimensions", "token_embd.weight", N_DIMS, 0),
    TENSOR("token_embd.weight: expected 1 or 2 dimensions", "token_embd.weight", N_DIMS, 5),
    TENSOR("expected 1 or 2 dimensions", "blk.0.ffn_up.weight", N_DIMS, 1u << 31),
    TENSOR("blk.0.ffn_up.weight: expected dimensions", "blk.0.ffn_up.weight", COLS, 0),
    TENSOR("blk.0.ffn_up.weight: expected dimensions", "blk.0.ffn_up.weight", ROWS, -1),
    TENSOR("blk.0.ffn_up.weight: expected dimensions", "blk.0.ffn_up.weight", ROWS, INT64_MAX),
    TENSOR("offset: expected", "blk.0.ffn_up.weight", COLS, 64),
    TENSOR("type Q4_3 is not supported", "blk.0.ffn_up.weight", TYPE, 5),
    TENSOR("type IQ2_XXS is not supported", "blk.0.ffn_up.weight", TYPE, 16),
    TENSOR("type I64 is not supported", "blk.0.ffn_up.weight", TYPE, 27),
    TENSOR("type MXFP4 is not supported", "blk.0.ffn_up.weight", TYPE, 39),
    TENSOR("type 99 is unknown", "blk.0.ffn_up.weight", TYPE, 99),
    TENSOR("type 4294967295 is unknown", "blk.0.ffn_up.weight", TYPE, -1),
    TENSOR("type Q4_K: expected columns in multiples of 256, got 32", "blk.0.ffn_up.weight", TYPE,
           12),
    TENSOR("offset: expected", "blk.0.ffn_up.weight", OFFSET, 1),
    TENSOR("offset: expected", "blk.0.ffn_up.weight", OFFSET, 32),
    TENSOR("offset: expected", "blk.0.ffn_up.weight", OFFSET, -32),
    TENSOR("before, got 18446744073709551584", "token_embd.weight", OFFSET, -32),
    TENSOR("stands there twice", "output_norm.weight", TWICE, 0),
    TENSOR("rope_freqs.weight: is not supported", "rope_freqs.weight", TWICE, 0),
    TENSOR("output.weight: expected 32 columns in 264 rows", "output.weight", TWICE, 8),
    {.want = "tensor name: empty", .tensor = "output_norm.weight", .damage = NAME, .text = ""},
    {.want = "tensor name: expected a text of at most 64", .tensor = "output_norm.weight",
     .damage = NAME, .text = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"},
    {.want = "output_norm.weight: missing", .tensor = "output_norm.weight", .damage = NAME,
     .text = "output_norm\n"},
};

static void test_refused(void) {
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        Source s;
        Error e;
        bool ok = open_case(&refused[i], &s, &e);
        CHECK(!ok, "case %zu opened, expected \"%s\"", i, refused[i].want);
        if (ok) source_close(&s);
        CHECK(ok || strstr(e.text, refused[i].want), "case %zu: \"%s\", expected \"%s\"", i, e.text,
              refused[i].want);
        CHECK(ok || !strchr(e.text, '\n'), "case %zu: more than one line", i);
    }
}

/* The same key twice, which no single replacement can make. */
static void test_duplicate_key(void) {
    Case c = {.key = "general.nam3", .type = STRING + 1, .text = "x"};
    Buffer b = {0};
    Source s;
    Error e;
    write_file(&c, &b);
    char *key = memmem(b.data, b.n, "general.nam3", 12);
    CHECK(key != NULL, "the key is there");
    if (key) key[11] = 'e';
    bool ok = open_bytes(&b, &s, &e);
    CHECK(!ok && strstr(e.text, "general.name: stands there twice"), "twice: %s", e.text);
    if (ok) source_close(&s);
    buffer_free(&b);
}

/* Cut everywhere in the tables, and with random bytes: no crash, and an error has its line. */
static void test_random_damage(void) {
    Case good = {0};
    Buffer b = {0}, cut;
    Source s;
    Error e;
    uint64_t seed = 7;
    int silent = 0, opened = 0;
    write_file(&good, &b);
    for (size_t n = 1; n < 9000; n += 13) {
        cut = b;
        cut.n = n;
        bool ok = open_bytes(&cut, &s, &e);
        opened += ok;
        silent += !ok && !e.text[0];
        if (ok) source_close(&s);
    }
    CHECK(opened == 0, "%d cut files opened", opened);
    for (int i = 0; i < 1500; i++) {
        size_t at = test_random(&seed) % 9000;
        uint8_t old[4], n = (uint8_t)(1 + test_random(&seed) % 4);
        memcpy(old, b.data + at, n);
        for (uint8_t k = 0; k < n; k++) {
            static const uint8_t edge[] = {0, 1, 0x7f, 0x80, 0xff};
            uint64_t r = test_random(&seed);
            b.data[at + k] = (char)(r & 1 ? edge[r % 5] : (uint8_t)(r >> 8));
        }
        bool ok = open_bytes(&b, &s, &e);
        silent += !ok && !e.text[0];
        if (ok) source_close(&s);
        memcpy(b.data + at, old, n);
    }
    CHECK(silent == 0, "%d errors without a text", silent);
    buffer_free(&b);
}

/* ---- Random models --------------------------------------------------------------------------- */

static void test_random_model(void) {
    Source s;
    Error e;
    uint8_t a[2 * 2 * 896], b[2 * 896];
    float x[896];
    double sum = 0;
    bool ok = random_open("0.5b", &s, &e);
    CHECK(ok, "random 0.5b: %s", e.text);
    if (!ok) return;
    const SourceTensor *t = tensor_named(&s, "model.layers.3.self_attn.q_proj.weight");
    CHECK(t && t->rows == 896 && t->cols == 896 && s.n_tensors == 290, "shapes");
    if (t) {
        random_rows(&s, t, 5, 2, a);
        random_rows(&s, t, 6, 1, b);
        CHECK(memcmp(a + sizeof b, b, sizeof b) == 0, "a row does not depend on its neighbours");
        source_row_to_float(t->type, b, 896, x);
        for (size_t k = 0; k < 896; k++) sum += (double)(x[k] * x[k]);
        CHECK(sum > 0.8 && sum < 1.2, "squares of a row sum to about 1, got %g", sum);
    }
    Tokenizer *tok = tokenizer_open(s.tokenizer.data, s.tokenizer.n, "random", &e);
    CHECK(tok && tokenizer_find(tok, "<|im_end|>") == 151645, "tokenizer: %s", e.text);
    tokenizer_close(tok);
    source_close(&s);
    CHECK(!random_open("8b", &s, &e) && strstr(e.text, "expected 0.5b"), "8b: %s", e.text);
}

/* ---- Golden files ---------------------------------------------------------------------------- */

/* Squared errors of one tensor against the original weights: the file's own blocks, and ours. */
static bool compare_tensor(const Source *hf, const Source *gguf, const SourceTensor *g, Type t,
                           double *theirs, double *ours) {
    const SourceTensor *h = tensor_named(hf, g->name);
    Error e;
    if (h == NULL) return false;
    float *x = malloc(2 * h->cols * sizeof *x);
    uint8_t *row = malloc(source_row_bytes(h->type, h->cols));
    if (x == NULL || row == NULL) exit(1);
    float *y = x + h->cols;
    *theirs = *ours = 0;
    for (size_t r = 0; r < g->rows; r++) {
        if (!source_read_rows(hf, h, r, 1, row, &e)) exit(1);
        source_row_to_float(h->type, row, h->cols, x);
        if (!source_read_rows(gguf, g, r, 1, row, &e)) exit(1);
        source_row_to_float(g->type, row, h->cols, y);
        for (size_t k = 0; k < h->cols; k++) *theirs += (double)((y[k] - x[k]) * (y[k] - x[k]));
        quantize_row(t, x, h->cols, row);
        source_row_to_float(g->type, row, h->cols, y);
        for (size_t k = 0; k < h->cols; k++) *ours += (double)((y[k] - x[k]) * (y[k] - x[k]));
    }
    free(x);
    free(row);
    return true;
}

static void compare_sources(const char *name, const Source *hf, const Source *gguf) {
    CHECK(hf->tokenizer.n == gguf->tokenizer.n &&
              memcmp(hf->tokenizer.data, gguf->tokenizer.data, hf->tokenizer.n) == 0,
          "%s: the tokenizer is another one", name);
    for (size_t i = 0; i < gguf->n_tensors; i++) {
        const SourceTensor *g = &gguf->tensors[i];
        for (Type t = TYPE_Q8; t < N_TYPES; t++) {
            double theirs, ours;
            if (target_source_type(t) != g->type) continue;
            if (!compare_tensor(hf, gguf, g, t, &theirs, &ours)) continue;
            CHECK(ours <= theirs, "%s %s %s: our squared error %g, theirs %g", name, g->name,
                  type_info(t)->name, ours, theirs);
        }
    }
}

static void test_golden(const char *golden) {
    static const char *const pair[][2] = {
        {"gguf-k256-q5_k_m", "k256"},         {"gguf-k256-untied-q5_k_m", "k256-untied"},
        {"gguf-small-odd-q5_k_m", "small-odd"}, {"gguf-k256-q6_k", "k256"},
        {"gguf-k256-q8_0", "k256"},           {"gguf-k256-q5_0", "k256"},
        {"gguf-tiny-mha-q8_0", "tiny-mha"},   {"gguf-tiny-q5_k_m", "tiny"},
    };
    DIR *dir = opendir(golden);
    if (dir == NULL) {
        test_skip((int)(sizeof pair / sizeof *pair), "no golden files");
        return;
    }
    closedir(dir);
    for (size_t i = 0; i < sizeof pair / sizeof *pair; i++) {
        char file[4096], folder[4096];
        Source hf, gguf;
        Error e;
        snprintf(file, sizeof file, "%s/logits/%s/model.gguf", golden, pair[i][0]);
        snprintf(folder, sizeof folder, "%s/logits/%s/hf", golden, pair[i][1]);
        bool one = source_open(file, &gguf, &e);
        CHECK(one, "%s", e.text);
        bool two = source_open(folder, &hf, &e);
        CHECK(two, "%s", e.text);
        if (one && two) compare_sources(pair[i][0], &hf, &gguf);
        if (one) source_close(&gguf);
        if (two) source_close(&hf);
    }
}

int main(int argc, char **argv) {
    int fd = mkstemp(path);
    if (fd < 0) return 1;
    close(fd);
    test_good();
    test_variants();
    test_refused();
    test_duplicate_key();
    test_random_damage();
    test_random_model();
    test_golden(argc > 1 ? argv[1] : "../shared/golden");
    unlink(path);
    return test_end("gguf");
}
