/* test_gguf.c: a small GGUF file is written, opens with everything in its place, and is refused
 * with one line that names the field for each of many ways to damage it. Then random damage, which
 * must never crash. With golden files (directory as argument, else ../shared/golden) the tokenizers
 * of GGUF and Hugging Face are compared, and our quantizers with the files' quantizers. */
#include <dirent.h>
#include <unistd.h>

#include "qwen25_template.h"
#include "tiny_gguf.h"

static char path[] = P_tmpdir "/test_gguf_XXXXXX";
static atomic_int no_stop;

/* Write the bytes to the test's file and open it. */
static bool open_bytes(const Buffer *b, Source *s, Error *e) {
    unlink(path); /* a file cut to nothing and written anew may be flushed to disk each time */
    FILE *f = fopen(path, "wb");
    if (f == NULL || fwrite(b->data, 1, b->n, f) != b->n || fclose(f) != 0) exit(1);
    e->text[0] = 0;
    return gguf_open(path, s, e);
}

static bool open_case(const GgufCase *c, Source *s, Error *e) {
    Buffer b = {0};
    gguf_write(c, &b);
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
              c->vocab_size == GGUF_ROWS && c->max_position_embeddings == 128,
          "sizes");
    CHECK(c->tie_word_embeddings == 1 && c->qkv_bias == 1 && c->yarn_factor == 0, "flags");
    CHECK(c->rms_norm_eps == 1e-6f && c->rope_theta == 1e6, "eps and theta");
    CHECK(d->n_eos == 1 && d->eos[0] == 259, "the file's stop token");
    CHECK(d->bos == -1 && d->pad == 257, "bos %d, pad %d", d->bos, d->pad);
    CHECK(d->do_sample == 0 && d->temperature == 1 && d->top_p == 1 && d->top_k == 0, "sampling");
    CHECK(strcmp(s->header.name, "A test") == 0 && strcmp(s->quant, "Q8_0") == 0, "names");
    CHECK(s->header.chat_family == CHAT_NONE && strstr(s->chat_note, "no tokenizer.chat_template"),
          "no template: %s", s->chat_note);
}

static void test_good(void) {
    GgufCase good = {0};
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
    CHECK(tok && tokenizer_n_tokens(tok) == GGUF_TOKENS, "the padding is no token");
    CHECK(tok && tokenizer_find(tok, "<|im_end|>") == 259, "added token");
    tokenizer_close(tok);
    source_close(&s);
    ok = source_open(path, &s, &e);
    CHECK(ok && s.header.defaults.n_eos == 2 && s.header.defaults.eos[0] == 259 &&
              s.header.defaults.eos[1] == 257,
          "both stop tokens of Qwen: %s", e.text);
    if (ok) source_close(&s);
}

/* A template as that of the Qwen2.5 Instruct models. */
static const char instruct_template[] =
    QWEN25_TEMPLATE("You are Qwen, created by Alibaba Cloud. You are a helpful assistant.");

/* Sampling defaults that the file does not have are those of the Instruct models. */
static void test_instruct(void) {
    GgufCase c = {.key = "tokenizer.chat_template", .type = STRING + 1, .text = instruct_template};
    Source s;
    Error e;
    bool ok = open_case(&c, &s, &e);
    CHECK(ok, "an Instruct model: %s", e.text);
    if (!ok) return;
    const ModelDefaults *d = &s.header.defaults;
    CHECK(s.header.chat_family == CHAT_QWEN25 && s.header.default_system_len == 68, "template: %s",
          s.chat_note);
    CHECK(d->do_sample == 1 && d->temperature == 0.7f && d->top_p == 0.8f && d->top_k == 20 &&
              d->repetition_penalty == 1.1f,
          "sampling defaults");
    source_close(&s);
    GgufCase min_p = {
        .key = "general.sampling.min_p", .type = F32 + 1, .bits = bits_from_float(0.2f)};
    GgufCase key = {.key = "general.sampling.top_p",
                    .type = F32 + 1,
                    .bits = bits_from_float(0.9f),
                    .also = &min_p};
    c.also = &key;
    CHECK(open_case(&c, &s, &e) && d->do_sample == 1 && d->temperature == 1 && d->top_p == 0.9f &&
              s.header.min_p == 0.2f && d->top_k == 50 && d->repetition_penalty == 1,
          "what a file says itself comes without what is known: %s", e.text);
    source_close(&s);
}

/* Up to 1.5B the Instruct models repeat less with 1.1, the larger ones with 1.05. */
static void test_penalty(void) {
    for (uint32_t hidden = 1536; hidden <= 2048; hidden += 512) {
        GgufCase key = {.key = "qwen2.attention.key_length", .type = U32 + 1, .bits = 8};
        GgufCase value = key, size = key;
        value.key = "qwen2.attention.value_length";
        value.also = &key;
        size.key = "qwen2.embedding_length";
        size.bits = hidden;
        size.also = &value;
        GgufCase c = {.key = "tokenizer.chat_template",
                      .type = STRING + 1,
                      .text = instruct_template,
                      .also = &size,
                      .hidden = hidden};
        Source s;
        Error e;
        bool ok = open_case(&c, &s, &e);
        CHECK(ok, "hidden %u: %s", hidden, e.text);
        if (!ok) continue;
        float penalty = s.header.defaults.repetition_penalty;
        CHECK(penalty == (hidden == 1536 ? 1.1f : 1.05f), "hidden %u: repetition_penalty %g",
              hidden, (double)penalty);
        source_close(&s);
    }
}

/* Other files that must open. */
static void test_variants(void) {
    GgufCase c = {.at = 4, .n = 4, .patch = 2};
    Source s;
    Error e;
    CHECK(open_case(&c, &s, &e), "version 2: %s", e.text);
    source_close(&s);
    c = (GgufCase){.key = "general.alignment", .type = U32 + 1, .bits = 128};
    CHECK(open_case(&c, &s, &e), "alignment 128: %s", e.text);
    source_close(&s);
    c = (GgufCase){.key = "general.sampling.temp", .type = F32 + 1, .bits = bits_from_float(0.6f)};
    CHECK(open_case(&c, &s, &e) && s.header.defaults.temperature == 0.6f &&
              s.header.defaults.do_sample == 1,
          "sampling keys: %s", e.text);
    source_close(&s);
    static const uint32_t unused[] = {260, UINT32_MAX}; /* the last id is 259 */
    for (size_t i = 0; i < 2; i++) {
        c = (GgufCase){
            .key = "tokenizer.ggml.padding_token_id", .type = U32 + 1, .bits = unused[i]};
        CHECK(open_case(&c, &s, &e) && s.header.defaults.pad == -1, "pad %u: %s", unused[i],
              e.text);
        source_close(&s);
    }
    c = (GgufCase){.damage = TWICE, .tensor = "output.weight", .value = GGUF_ROWS};
    CHECK(open_case(&c, &s, &e) && s.header.config.tie_word_embeddings == 0 && s.n_tensors == 27 &&
              tensor_named(&s, "lm_head.weight"),
          "untied: %s", e.text);
    source_close(&s);
    c = (GgufCase){
        .key = "tokenizer.chat_template", .type = STRING + 1, .text = "{{ nothing known }}"};
    CHECK(open_case(&c, &s, &e) && s.header.chat_family == CHAT_NONE && s.chat_note[0],
          "an unknown template is noted: %s", e.text);
    source_close(&s);
}

/* ---- One value, or a few, of another kind ---------------------------------------------------- */

#define FOUR 0x40800000u /* 4 */
#define ARRAY_OF(element, n) .type = ARRAY + 1, .bits = (element) | (uint64_t)(n) << 8

static const GgufCase yarn_factor = {
    .key = "qwen2.rope.scaling.factor", .type = F32 + 1, .bits = FOUR};
static const GgufCase yarn_all = {.key = "qwen2.rope.scaling.original_context_length",
                                  .type = U32 + 1,
                                  .bits = 64,
                                  .also = &yarn_factor};
static const GgufCase yarn_none = {.key = "qwen2.rope.scaling.original_context_length",
                                   .type = U32 + 1,
                                   .bits = 0,
                                   .also = &yarn_factor};
static const GgufCase yarn = {
    .key = "qwen2.rope.scaling.type", .type = STRING + 1, .text = "yarn", .also = &yarn_all};

static const GgufCase yarn_small = {
    .key = "qwen2.rope.scaling.factor", .type = F32 + 1, .bits = 0x3fc00000u}; /* 1.5 */
static const GgufCase yarn_of_small = {.key = "qwen2.rope.scaling.original_context_length",
                                       .type = U32 + 1,
                                       .bits = 64,
                                       .also = &yarn_small};

static const GgufCase deepseek = {
    .key = "tokenizer.ggml.pre", .type = STRING + 1, .text = "deepseek-r1-qwen"};

static const char no_texts[8 * (GGUF_ROWS + 1)]; /* strings of no bytes */

/* want NULL: opens */
static const GgufCase values[] = {
    {.key = "ab", .type = U8 + 1, .bits = 1},
    {.key = "qwen2.block_count", .type = I8 + 1, .bits = 2},
    {.key = "qwen2.block_count", .type = I16 + 1, .bits = 2},
    {.key = "qwen2.block_count", .type = I32 + 1, .bits = 2},
    {.key = "qwen2.block_count", .type = I64 + 1, .bits = 2},
    {.key = "qwen2.block_count", .type = U64 + 1, .bits = 2},
    {.key = "qwen2.attention.layer_norm_rms_epsilon", .type = F64 + 1, .bits = 0x3eb0c6f7a0b5ed8d},
    {.key = "qwen2.attention.key_length", .type = U32 + 1, .bits = 8},
    {.key = "qwen2.rope.scaling.type", .type = STRING + 1, .text = "none"},
    {.key = "qwen2.rope.scaling.type",
     .type = STRING + 1,
     .text = "yarn",
     .also = &yarn_of_small},
    {.key = "general.file_type", .type = U32 + 1, .bits = 4},
    {.key = "general.file_type"},
    {.key = "general.name"},
    {.key = "tokenizer.ggml.add_bos_token", .type = BOOL + 1, .bits = 0},
    {.key = "qwen2.use_parallel_residual", .type = BOOL + 1, .bits = 1},
    {.key = "split.count", .type = U16 + 1, .bits = 1},
    {.key = "general.type", .type = STRING + 1, .text = "model"},
    {.key = "general.type", .type = U32 + 1, .bits = 1},
    {.tensor = "output_norm.weight", .damage = TYPE, .value = SRC_F16, .cut = 64},
    {.tensor = "output_norm.weight", .damage = TYPE, .value = SRC_BF16, .cut = 64},
    {.want = "magic: expected \"GGUF\", got something else", .n = 4, .patch = 0x58585858},
    {.want = "tensor count: expected at most 16384, got 16385",
     .at = 8,
     .n = 8,
     .patch = 16385,
     .cut = -600000},
    {.want = "metadata count: expected at most 65536, got 65537",
     .at = 16,
     .n = 8,
     .patch = 65537,
     .cut = -1000000},
    {.want = "block_count: expected 1 to", .key = "qwen2.block_count", .type = I8 + 1, .bits = 255},
    {.want = "block_count: expected 1 to",
     .key = "qwen2.block_count",
     .type = I64 + 1,
     .bits = UINT64_MAX},
    {.want = "block_count: expected a whole number, got type array",
     .key = "qwen2.block_count",
     ARRAY_OF(U32, 1),
     .text = "\2\0\0",
     .array_bytes = 4},
    {.want = "epsilon: expected a real number, got type array",
     .key = "qwen2.attention.layer_norm_rms_epsilon",
     ARRAY_OF(F32, 1),
     .text = "\0\0\0",
     .array_bytes = 4},
    {.want = "expected a string, got type array",
     .key = "general.architecture",
     ARRAY_OF(STRING, 0)},
    {.want = "add_bos_token: expected a bool, got type array",
     .key = "tokenizer.ggml.add_bos_token",
     ARRAY_OF(BOOL, 0)},
    {.want = "add_bos_token: expected a bool, got type u32",
     .key = "tokenizer.ggml.add_bos_token",
     .type = U32 + 1},
    {.want = "add_bos_token: true is not",
     .key = "tokenizer.ggml.add_bos_token",
     .type = BOOL + 1,
     .bits = 1},
    {.want = "add_bos_token: expected a bool, got type u32",
     .key = "tokenizer.ggml.add_bos_token",
     .type = U32 + 1,
     .also = &deepseek},
    {.want = "add_eos_token: true is not",
     .key = "tokenizer.ggml.add_eos_token",
     .type = BOOL + 1,
     .bits = 1,
     .also = &deepseek},
    {.want = "add_eos_token: true is not",
     .key = "tokenizer.ggml.add_eos_token",
     .type = BOOL + 1,
     .bits = 1},
    {.want = "add_space_prefix: true is not",
     .key = "tokenizer.ggml.add_space_prefix",
     .type = BOOL + 1,
     .bits = 1},
    {.want = "alignment: expected a u32, got type array",
     .key = "general.alignment",
     ARRAY_OF(U32, 0)},
    {.want = "split.count: expected a whole number",
     .key = "split.count",
     .type = STRING + 1,
     .text = "2"},
    {.want = "split.no: expected 0 to", .key = "split.no", .type = I32 + 1, .bits = UINT32_MAX},
    {.want = "attn_norm.weight: expected dimensions",
     .tensor = "blk.0.attn_norm.weight",
     .damage = COLS,
     .value = 0},
    {.want = "attn_q.weight: expected dimensions",
     .tensor = "blk.0.attn_q.weight",
     .damage = COLS,
     .value = MAX_VOCAB + 1},
    {.want = "attn_q.weight: expected dimensions",
     .tensor = "blk.0.attn_q.weight",
     .damage = ROWS,
     .value = 0},
    {.want = "attn_q.weight: expected dimensions",
     .tensor = "blk.0.attn_q.weight",
     .damage = ROWS,
     .value = MAX_VOCAB + 1},
    {.want = "output_norm.weight: expected 32 columns",
     .tensor = "output_norm.weight",
     .damage = N_DIMS,
     .value = 2},
    {.want = "output_norm.weight: expected type F32, F16 or BF16, got Q8_0",
     .tensor = "output_norm.weight",
     .damage = TYPE,
     .value = SRC_Q8_0,
     .cut = 94},
    {.want = "embedding_length: expected a multiple of 4 heads",
     .key = "qwen2.embedding_length",
     .type = U32 + 1,
     .bits = 30},
    {.want = "key_length: expected 2 to",
     .key = "qwen2.attention.key_length",
     .type = U32 + 1,
     .bits = 1},
    {.want = "value_length: expected 8 to 8",
     .key = "qwen2.attention.value_length",
     .type = U32 + 1,
     .bits = 4},
    {.want = "dimension_count: expected 8 to 8",
     .key = "qwen2.rope.dimension_count",
     .type = U32 + 1,
     .bits = 4},
    {.want = "scaling.type: expected a string", .key = "qwen2.rope.scaling.type", .type = U32 + 1},
    {.want = "linr is not supported, expected yarn",
     .key = "qwen2.rope.scaling.type",
     .type = STRING + 1,
     .text = "linr"},
    {.want = "scaling.factor: missing",
     .key = "qwen2.rope.scaling.type",
     .type = STRING + 1,
     .text = "yarn"},
    {.want = "original_context_length: expected 1 to",
     .key = "qwen2.rope.scaling.type",
     .type = STRING + 1,
     .text = "yarn",
     .also = &yarn_none},
    {.want = "vocab_size: expected 264 to 264",
     .key = "qwen2.vocab_size",
     .type = U32 + 1,
     .bits = 5},
    {.want = "bos_token_id: expected a whole number",
     .key = "tokenizer.ggml.bos_token_id",
     .type = F32 + 1,
     .bits = 0},
    {.want = "tokens: expected 1 to 264", .key = "tokenizer.ggml.tokens", ARRAY_OF(STRING, 0)},
    {.want = "tokens: expected 1 to 264, the rows of token_embd.weight, got 265",
     .key = "tokenizer.ggml.tokens",
     ARRAY_OF(STRING, GGUF_ROWS + 1),
     .text = no_texts,
     .array_bytes = sizeof no_texts},
    {.want = "got \"ab\"",
     .key = "tokenizer.ggml.merges",
     ARRAY_OF(STRING, 1),
     .text = "\2\0\0\0\0\0\0\0ab",
     .array_bytes = 10},
    {.want = "got \" b\"",
     .key = "tokenizer.ggml.merges",
     ARRAY_OF(STRING, 1),
     .text = "\2\0\0\0\0\0\0\0 b",
     .array_bytes = 10},
    {.want = "got \"a \"",
     .key = "tokenizer.ggml.merges",
     ARRAY_OF(STRING, 1),
     .text = "\2\0\0\0\0\0\0\0a ",
     .array_bytes = 10},
    {.want = "got \"a b c\"",
     .key = "tokenizer.ggml.merges",
     ARRAY_OF(STRING, 1),
     .text = "\5\0\0\0\0\0\0\0a b c",
     .array_bytes = 13},
    {.want = "stands there twice", /* not only the first merge is read */
     .key = "tokenizer.ggml.merges",
     ARRAY_OF(STRING, 2),
     .text = "\3\0\0\0\0\0\0\0a b\3\0\0\0\0\0\0\0a b",
     .array_bytes = 22},
    {.want = "temp: expected 0 to 100",
     .key = "general.sampling.temp",
     .type = F32 + 1,
     .bits = 0xbf800000},
    {.want = "top_p: expected 0 to 1",
     .key = "general.sampling.top_p",
     .type = F32 + 1,
     .bits = FOUR},
    {.want = "penalty_repeat: expected 0.01 to",
     .key = "general.sampling.penalty_repeat",
     .type = F32 + 1},
    {.want = "top_k: expected -1 to",
     .key = "general.sampling.top_k",
     .type = I32 + 1,
     .bits = UINT32_MAX - 1},
    {.want = "general.name: expected a string", .key = "general.name", .type = U32 + 1},
    {.want = "file_type: expected a whole number", .key = "general.file_type", .type = F32 + 1},
};

static void test_values(void) {
    for (size_t i = 0; i < sizeof values / sizeof *values; i++) {
        const GgufCase *c = &values[i];
        Source s;
        Error e;
        bool ok = open_case(c, &s, &e);
        if (ok) source_close(&s);
        CHECK(c->want ? !ok && strstr(e.text, c->want) : ok, "value %zu: wanted \"%s\", got \"%s\"",
              i, c->want ? c->want : "none", ok ? "none" : e.text);
    }
}

/* Long contexts as the file says, and as --info prints them. */
static void test_yarn(void) {
    Source s;
    Error e;
    char text[8192] = "";
    bool ok = open_case(&yarn, &s, &e);
    CHECK(ok, "%s", e.text);
    if (!ok) return;
    const ModelConfig *c = &s.header.config;
    CHECK(c->yarn_factor == 4 && c->yarn_original_max_position_embeddings == 64, "yarn");
    source_close(&s);
    FILE *out = fmemopen(text, sizeof text - 1, "w");
    ok = out && info_print(path, false, out, &e);
    if (out) fclose(out);
    GgufCase bare = yarn; /* as Ollama's converter writes it: the context that the file names */
    bare.also = &yarn_factor;
    CHECK(open_case(&bare, &s, &e) && c->yarn_factor == 4 &&
              c->yarn_original_max_position_embeddings == 128,
          "yarn alone: %s", e.text);
    source_close(&s);
    CHECK(ok && strstr(text, "yarn 4 from 64, ") && strstr(text, "file type Q8_0"), "%s", text);
}

/* Files from before the key of the pre-tokenizer are taken, and it is said. */
static void test_no_pre(void) {
    const GgufCase none = {.key = "tokenizer.ggml.pre"};
    Source s;
    Error e;
    char text[8192] = "";
    CHECK(open_case(&none, &s, &e) && strstr(s.note, "tokenizer.ggml.pre"), "%s", e.text);
    source_close(&s);
    FILE *out = fmemopen(text, sizeof text - 1, "w");
    bool ok = out && info_print(path, false, out, &e);
    if (out) fclose(out);
    CHECK(ok && strstr(text, "note:         the file has no tokenizer.ggml.pre"), "%s", text);
}

/* What a file leaves to be guessed, or to whoever uses the model, is noted: all of it. */
static void test_notes(void) {
    static const char pre[] = "the file has no tokenizer.ggml.pre", template[] = "{{ unknown }}";
    const GgufCase bos = {.key = "tokenizer.ggml.add_bos_token", .type = BOOL + 1, .bits = 1};
    const GgufCase off = {.key = "tokenizer.ggml.add_bos_token", .type = BOOL + 1, .bits = 0};
    const GgufCase no_pre = {.key = "tokenizer.ggml.pre"};
    const GgufCase top_p = {
        .key = "general.sampling.top_p", .type = F32 + 1, .bits = bits_from_float(0.9f)};
    const struct {
        const char *template;
        const GgufCase *more;
        bool deepseek;
        const char *first, *second; /* how these notes begin; NULL: none */
    } list[] = {
        {NULL, &bos, true, NOTE_BOS, NULL},
        {NULL, &off, true, NULL, NULL},
        {NULL, NULL, true, NULL, NULL},
        {template, NULL, false, NOTE_GREEDY, NULL},
        {template, &top_p, false, NULL, NULL},
        {template, &no_pre, false, pre, NOTE_GREEDY},
        {template, &bos, true, NOTE_BOS, NOTE_GREEDY},
        {instruct_template, NULL, false, NULL, NULL},
        {instruct_template, &no_pre, false, pre, NULL},
    };
    for (size_t i = 0; i < sizeof list / sizeof *list; i++) {
        GgufCase more = {0}, type = deepseek, c = {0};
        Source s;
        Error e;
        if (list[i].more) more = *list[i].more;
        if (list[i].deepseek) more.also = &type;
        if (list[i].template) {
            c = (GgufCase){
                .key = "tokenizer.chat_template", .type = STRING + 1, .text = list[i].template};
        }
        c.also = &more;
        bool ok = open_case(&c, &s, &e);
        CHECK(ok, "notes %zu: %s", i, e.text);
        if (!ok) continue;
        const char *first = list[i].first, *second = list[i].second;
        CHECK(first ? strncmp(s.note, first, strlen(first)) == 0 : !s.note[0],
              "notes %zu: %s", i, s.note);
        const char *two = strstr(s.note, "; " NOTE_GREEDY);
        CHECK((two != NULL) == (second != NULL), "notes %zu: %s", i, s.note);
        source_close(&s);
    }
}

/* A file that ends in the padding behind a tensor. */
static void test_cut_padding(void) {
    GgufCase good = {0};
    Source s;
    Error e;
    Buffer b = {0};
    gguf_write(&good, &b);
    bool ok = open_bytes(&b, &s, &e);
    CHECK(ok, "%s", e.text);
    if (ok) {
        b.n = s.tensors[0].offset + source_row_bytes(SRC_Q8_0, 32) * GGUF_ROWS;
        source_close(&s);
        CHECK(!open_bytes(&b, &s, &e) && strstr(e.text, "expected 128 bytes of data, got 0"), "%s",
              e.text);
    }
    buffer_free(&b);
}

/* The tokens of the good file, but with these texts for the last three, of this type. */
static bool open_tokens(const char *const last[3], uint32_t type, const GgufCase *also, Source *s,
                        Error *e) {
    Buffer texts = {0}, types = {0};
    char text[32];
    for (uint32_t i = 0; i < GGUF_TOKENS; i++) {
        gguf_text(&texts, i < 257 ? gguf_token(i, text) : last[i - 257]);
        gguf_u32(&types, i < 257 ? 1 : type);
    }
    GgufCase kinds = {.key = "tokenizer.ggml.token_type",
                      ARRAY_OF(I32, GGUF_TOKENS),
                      .text = types.data,
                      .array_bytes = types.n,
                      .also = also};
    GgufCase tokens = {.key = "tokenizer.ggml.tokens",
                       ARRAY_OF(STRING, GGUF_TOKENS),
                       .text = texts.data,
                       .array_bytes = texts.n,
                       .also = &kinds};
    bool ok = open_case(&tokens, s, e);
    buffer_free(&texts);
    buffer_free(&types);
    return ok;
}

/* A user-defined token that is called [PAD259] is none when its id is 259. */
static void test_padding(void) {
    static const char *const rows[] = {"<|im_end|>", "[PAD257]", "[PAD259]"};
    const GgufCase eos = {.key = "tokenizer.ggml.eos_token_id", .type = U32 + 1, .bits = 257};
    Source s;
    Error e;
    bool ok = open_tokens(rows, 4, &eos, &s, &e);
    Tokenizer *t = ok ? tokenizer_open(s.tokenizer.data, s.tokenizer.n, path, &e) : NULL;
    CHECK(t && tokenizer_n_tokens(t) == 259 && tokenizer_find(t, "[PAD257]") == 258 &&
              tokenizer_find(t, "[PAD259]") == -1,
          "%s", e.text);
    tokenizer_close(t);
    if (ok) source_close(&s);
}

/* Which added tokens are special, and that one must end an answer. */
static void test_tokens(void) {
    static const char *const fim[] = {"<|fim_prefix|>", "<|im_start|>", "<|im_end|>"};
    static const char *const none[] = {"<|x|>", "<|y|>", "<|z|>"};
    const GgufCase no_eos = {.key = "tokenizer.ggml.eos_token_id"};
    Source s;
    Error e;
    for (uint32_t type = 3; type <= 4; type++) {
        bool ok = open_tokens(fim, type, NULL, &s, &e);
        Tokenizer *t = ok ? tokenizer_open(s.tokenizer.data, s.tokenizer.n, path, &e) : NULL;
        CHECK(t, "type %u: %s", type, e.text);
        CHECK(t && tokenizer_is_added(t, 257) && !tokenizer_is_special(t, 257) &&
                  tokenizer_is_special(t, 258) == (type == 3),
              "type %u: special", type);
        tokenizer_close(t);
        if (ok) source_close(&s);
    }
    CHECK(open_tokens(none, 3, &no_eos, &s, &e) && s.header.defaults.n_eos == 0,
          "nothing ends an answer: %s", e.text);
    source_close(&s);
    CHECK(!source_open(path, &s, &e) && strstr(e.text, "eos_token_id: missing"),
          "nothing ends an answer: %s", e.text);
    CHECK(open_tokens(none, 3, NULL, &s, &e) && s.header.defaults.n_eos == 1, "%s", e.text);
    source_close(&s);
}

/* Templates without and with another default system message are not the Instruct models'. */
static void test_other_templates(void) {
    static const char bare[] =
        "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + "
        "message['content'] + '<|im_end|>' + '\\n'}}{% endfor %}{% if add_generation_prompt %}"
        "{{ '<|im_start|>assistant\\n' }}{% endif %}";
    char text[sizeof instruct_template];
    const GgufCase cold = {.key = "general.sampling.temp", .type = F32 + 1, .bits = 0};
    GgufCase c = {.key = "tokenizer.chat_template", .type = STRING + 1, .text = bare};
    Source s;
    Error e;
    CHECK(open_case(&c, &s, &e) && s.header.chat_family == CHAT_QWEN2 &&
              !s.header.has_default_system && s.header.default_system_len == 0,
          "no default: %s", e.text);
    source_close(&s);
    memcpy(text, instruct_template, sizeof text);
    for (char *at = text; (at = strstr(at, "Qwen,")) != NULL; at++) memcpy(at, "Qwyn,", 5);
    c.text = text;
    CHECK(open_case(&c, &s, &e) && s.header.chat_family == CHAT_QWEN25 &&
              s.header.default_system_len == 68 && s.header.defaults.do_sample == 0,
          "another default: %s", e.text);
    source_close(&s);
    for (char *at = text; (at = strstr(at, "created")) != NULL;)
        memmove(at, at + 45, strlen(at + 45) + 1);
    CHECK(open_case(&c, &s, &e) && s.header.chat_family == CHAT_QWEN25 &&
              s.header.default_system_len < 30 && s.header.defaults.do_sample == 0,
          "a short default: %s, %u", e.text, s.header.default_system_len);
    source_close(&s);
    CHECK(open_case(&cold, &s, &e) && s.header.defaults.do_sample == 0, "temperature 0 is greedy");
    source_close(&s);
}

/* Blocks that model.bin does not have are kept in wider ones; where there are none they become q8,
 * and that is said: once for all layers. */
static void test_other_blocks(void) {
    static const struct {
        const char *quant, *name, *note;
    } cases[] = {
        {NULL, "Q8_0>q8",
         "warning: 2 of 26 tensors of this Q8_0 file are quantized again (model.bin "
         "has no such type), which loses a little: 2 model.layers.*.mlp.up_proj."
         "weight (Q2_K to q8)\n"},
        {"q5", "q5", "(as asked)"},
        {"f32", "f32", ""},
    };
    GgufCase good = {0};
    Source s;
    Error e;
    bool ok = open_case(&good, &s, &e);
    CHECK(ok, "%s", e.text);
    for (size_t i = 0; ok && i < s.n_tensors; i++) {
        if (strstr(s.tensors[i].name, "up_proj")) s.tensors[i].type = SRC_Q2_K;
        if (strstr(s.tensors[i].name, "1.mlp.down")) s.tensors[i].type = SRC_Q4_1;
    }
    for (size_t i = 0; ok && i < 3; i++) {
        Plan p;
        CHECK(plan_make(&s, NULL, cases[i].quant, &no_stop, &p, &e), "%s", e.text);
        CHECK(strcmp(p.quant, cases[i].name) == 0, "quant %s, not %s", p.quant, cases[i].name);
        for (uint32_t k = 0; i == 0 && k < p.n; k++)
            if (strstr(p.entries[k].name, "1.mlp.down"))
                CHECK(p.entries[k].type == TYPE_Q5_1 && p.copy[k], "Q4_1 is kept in q5_1");
        CHECK(strstr(p.notes.data ? p.notes.data : "", cases[i].note), "%s",
              p.notes.data ? p.notes.data : "no note");
        plan_free(&p);
    }
    s.quant[0] = 0;
    Plan p;
    CHECK(plan_make(&s, NULL, "q8", &no_stop, &p, &e) && p.notes.n &&
              strstr(p.notes.data, "this GGUF file"),
          "%s", e.text);
    plan_free(&p);
    source_close(&s);
}

/* Blocks that become wider ones are written, and proved to be the same weights. */
static void test_widened(void) {
    GgufCase good = {0};
    Source s;
    Plan p = {0};
    Error e;
    char to[sizeof path + 8];
    atomic_int stop = 0;
    snprintf(to, sizeof to, "%s.bin", path);
    bool ok = open_case(&good, &s, &e);
    for (size_t i = 0; ok && i < s.n_tensors; i++) /* what lies there is as good as other blocks */
        if (strstr(s.tensors[i].name, "0.self_attn.k_proj.weight"))
            s.tensors[i].type = SRC_IQ4_NL;
    ok = ok && plan_make(&s, NULL, NULL, &stop, &p, &e);
    WriteJob job = {.source = &s, .plan = &p, .n_threads = 1, .stop = &stop};
    CHECK(ok && write_model(&job, to, &e) && job.power == 0, "nothing is rounded: %s", e.text);
    plan_free(&p);
    source_close(&s);
    unlink(to);
}

/* ---- A model in three files ------------------------------------------------------------------ */

enum { N_PARTS = 3 };

static const GgufCase split_total = {.key = "split.tensors.count", .type = I32 + 1, .bits = 26};
static const GgufCase split_count = {
    .key = "split.count", .type = U16 + 1, .bits = N_PARTS, .also = &split_total};
static const GgufCase split_no[N_PARTS] = {
    {.key = "split.no", .type = U16 + 1, .bits = 0, .also = &split_count},
    {.key = "split.no", .type = U16 + 1, .bits = 1, .also = &split_count},
    {.key = "split.no", .type = U16 + 1, .bits = 2, .also = &split_count}};
/* The second part has an alignment of its own. */
static const GgufCase parts[N_PARTS] = {
    {.last = 9, .also = &split_no[0]},
    {.key = "general.alignment",
     .type = U32 + 1,
     .bits = 128,
     .first = 9,
     .last = 20,
     .bare = true,
     .also = &split_no[1]},
    {.first = 20, .last = 26, .bare = true, .also = &split_no[2]}};

static const char *part_name(size_t part) {
    static char room[N_PARTS][sizeof path + 32];
    snprintf(room[part], sizeof room[part], "%s-%05zu-of-%05d.gguf", path, part + 1, N_PARTS);
    return room[part];
}

static void write_part(size_t part, const GgufCase *c) {
    Buffer b = {0};
    gguf_write(c, &b);
    FILE *f = fopen(part_name(part), "wb");
    if (f == NULL || fwrite(b.data, 1, b.n, f) != b.n || fclose(f) != 0) exit(1);
    buffer_free(&b);
}

/* Every tensor and the tokenizer are those of the one good file. */
static void compare_parts(const Source *s) {
    GgufCase good = {0};
    Source whole;
    Error e;
    bool ok = open_case(&good, &whole, &e);
    CHECK(ok, "%s", e.text);
    if (!ok) return;
    CHECK(s->n_files == N_PARTS && s->n_tensors == whole.n_tensors &&
              s->tokenizer.n == whole.tokenizer.n &&
              memcmp(s->tokenizer.data, whole.tokenizer.data, s->tokenizer.n) == 0,
          "%zu files, %zu tensors", s->n_files, s->n_tensors);
    for (size_t i = 0; i < whole.n_tensors; i++) {
        const SourceTensor *t = &whole.tensors[i];
        uint8_t a[128], b[128];
        size_t bytes = source_row_bytes(t->type, t->cols);
        bool same = s->tensors[i].type == t->type && s->tensors[i].cols == t->cols;
        for (uint32_t r = 0; same && r < t->rows; r++)
            same = source_read_rows(s, &s->tensors[i], r, 1, a, &e) &&
                   source_read_rows(&whole, t, r, 1, b, &e) && memcmp(a, b, bytes) == 0;
        CHECK(same, "%s is another one", t->name);
    }
    source_close(&whole);
}

/* With this in the place of a part the model does not open. */
static void refuse_part(size_t part, const GgufCase *c, const char *want) {
    Source s;
    Error e;
    write_part(part, c);
    bool open = gguf_open(part_name(0), &s, &e);
    if (open) source_close(&s);
    CHECK(!open && strstr(e.text, want), "wanted \"%s\", got \"%s\"", want, open ? "none" : e.text);
    write_part(part, &parts[part]);
}

static void test_parts(void) {
    static const GgufCase bare = {.bare = true, .last = 26, .first = 20};
    static const GgufCase four = {.key = "split.count", .type = U16 + 1, .bits = 4};
    static const GgufCase third = {
        .key = "split.no", .type = U16 + 1, .bits = 2, .also = &four, .bare = true, .last = 9};
    static const GgufCase three = {.key = "split.count", .type = U16 + 1, .bits = N_PARTS};
    static const GgufCase no_total = {.last = 9, .also = &three};
    GgufCase two = parts[1], twice = parts[2], less = parts[2], first = parts[0];
    Source s;
    Error e;
    for (size_t i = 0; i < N_PARTS; i++) write_part(i, &parts[i]);
    bool ok = gguf_open(part_name(0), &s, &e);
    CHECK(ok, "%s", e.text);
    if (ok) compare_parts(&s);
    if (ok) source_close(&s);
    CHECK(!gguf_open(part_name(1), &s, &e) &&
              strstr(e.text, "split.no: this is part 2 of 3, expected the first one"),
          "%s", e.text);
    CHECK(unlink(part_name(2)) == 0 && !gguf_open(part_name(0), &s, &e) &&
              strstr(e.text, "-00003-of-00003.gguf: cannot open: No such file"),
          "%s", e.text);
    write_part(2, &parts[2]);
    two.also = &split_no[2];
    refuse_part(1, &two, "-00002-of-00003.gguf: split.no: expected 1 to 1, got 2");
    refuse_part(2, &bare, "-00003-of-00003.gguf: split.no: missing");
    refuse_part(2, &third, "-00003-of-00003.gguf: split.count: expected 3 to 3, got 4");
    twice.first = 19;
    refuse_part(2, &twice, "split.tensors.count: expected 27, those of all parts, got 26");
    less.last = 25;
    refuse_part(2, &less, "split.tensors.count: expected 25, those of all parts, got 26");
    first.first = 1;
    write_part(2, &twice);
    refuse_part(0, &first, "stands there twice");
    write_part(2, &parts[2]);
    less = parts[2];
    less.cut = 100;
    refuse_part(2, &less, "-00003-of-00003.gguf: output_norm.weight: the file ends early");
    refuse_part(0, &no_total, "split.tensors.count: missing");
    less.cut = 0;
    less.tensor = "output_norm.weight";
    less.damage = N_DIMS;
    less.value = 2;
    refuse_part(2, &less, "-00003-of-00003.gguf: output_norm.weight: expected 32 columns");
    less.damage = NAME;
    less.text = "output_norm.bias";
    refuse_part(2, &less, "-00001-of-00003.gguf: output_norm.weight: missing");
    for (size_t i = 0; i < N_PARTS; i++) CHECK(unlink(part_name(i)) == 0, "unlink");
}

/* A name without a folder. */
static void test_bare_name(void) {
    char here[4096];
    Source s;
    Error e;
    GgufCase good = {0};
    CHECK(open_case(&good, &s, &e), "%s", e.text);
    source_close(&s);
    const char *name = strrchr(path, '/') + 1;
    CHECK(getcwd(here, sizeof here) && chdir(P_tmpdir) == 0, "%s", P_tmpdir);
    CHECK(gguf_open(name, &s, &e) && strcmp(s.header.source, name) == 0, "%s", e.text);
    source_close(&s);
    CHECK(chdir(here) == 0, "%s", here);
}

/* Cut everywhere in the tables, and with random bytes: no crash, and an error has its line. */
static void test_random_damage(void) {
    GgufCase good = {0};
    Buffer b = {0}, cut;
    Source s;
    Error e;
    uint64_t seed = 7;
    int silent = 0, opened = 0;
    gguf_write(&good, &b);
    for (size_t n = 1; n < 9000; n += n < 800 ? 1 : 13) {
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
        {"gguf-k256-q5_k_m", "k256"},
        {"gguf-k256-untied-q5_k_m", "k256-untied"},
        {"gguf-small-odd-q5_k_m", "small-odd"},
        {"gguf-k256-q6_k", "k256"},
        {"gguf-k256-q8_0", "k256"},
        {"gguf-k256-q5_0", "k256"},
        {"gguf-k256-q4_k_m", "k256"},
        {"gguf-k256-q4_0", "k256"},
        {"gguf-tiny-mha-q8_0", "tiny-mha"},
        {"gguf-tiny-q5_k_m", "tiny"},
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
    test_instruct();
    test_penalty();
    test_values();
    test_yarn();
    test_no_pre();
    test_notes();
    test_cut_padding();
    test_tokens();
    test_padding();
    test_parts();
    test_other_templates();
    test_other_blocks();
    test_widened();
    test_bare_name();
    test_random_damage();
    test_random_model();
    test_golden(argc > 1 ? argv[1] : "../shared/golden");
    unlink(path);
    return test_end("gguf");
}
