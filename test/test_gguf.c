/* test_gguf.c: a small GGUF file is written, opens with everything in its place, and is refused
 * with one line that names the field for each of many ways to damage it. Then random damage, which
 * must never crash. With golden files (directory as argument, else ../shared/golden) the tokenizers
 * of GGUF and Hugging Face are compared, and our quantizers with the files' quantizers. */
#include <dirent.h>
#include <unistd.h>

#include "tiny_gguf.h"

static char path[] = P_tmpdir "/test_gguf_XXXXXX";

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
    CHECK(d->n_eos == 2 && d->eos[0] == 259 && d->eos[1] == 257, "stop tokens");
    CHECK(d->bos == -1 && d->pad == 257, "bos %d, pad %d", d->bos, d->pad);
    CHECK(d->do_sample == 0 && d->temperature == 1 && d->top_p == 1 && d->top_k == 0, "sampling");
    CHECK(strcmp(s->header.name, "A test") == 0 && strcmp(s->quant, "Q8_0") == 0, "names");
    CHECK(s->header.chat_family == CHAT_NONE && s->chat_note[0] == 0, "no template");
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
}

/* The template of the Qwen2.5 Instruct models, as far as it tells them from others. */
static const char instruct_template[] =
    "{%- if tools %}{{- '<|im_start|>system\\nYou are Qwen, created by Alibaba Cloud. You are a "
    "helpful assistant.\\n\\n# Tools\\n\\nYou may call one or more functions to assist with the "
    "user "
    "query.\\n\\nYou are provided with function signatures within <tools></tools> XML tags:\\n"
    "<tools>' }}{%- for tool in tools %}{{- tool | tojson }}{%- endfor %}{{- '\\n</tools>\\n\\nFor "
    "each function call, return a json object with function name and arguments within <tool_call>"
    "</tool_call> XML tags:<|im_end|>\\n' }}{%- else %}{{- '<|im_start|>system\\nYou are Qwen, "
    "created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\\n' }}{%- endif %}"
    "{%- for message in messages %}{%- if message.role == 'tool' %}{{- '<|im_start|>user\\n"
    "<tool_response>\\n' + message.content + '\\n</tool_response><|im_end|>\\n' }}{%- else %}"
    "{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}"
    "{%- endif %}{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}"
    "{%- endif %}";

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

/* Cut everywhere in the tables, and with random bytes: no crash, and an error has its line. */
static void test_random_damage(void) {
    GgufCase good = {0};
    Buffer b = {0}, cut;
    Source s;
    Error e;
    uint64_t seed = 7;
    int silent = 0, opened = 0;
    gguf_write(&good, &b);
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
        {"gguf-k256-q5_k_m", "k256"},
        {"gguf-k256-untied-q5_k_m", "k256-untied"},
        {"gguf-small-odd-q5_k_m", "small-odd"},
        {"gguf-k256-q6_k", "k256"},
        {"gguf-k256-q8_0", "k256"},
        {"gguf-k256-q5_0", "k256"},
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
    test_random_damage();
    test_random_model();
    test_golden(argc > 1 ? argv[1] : "../shared/golden");
    unlink(path);
    return test_end("gguf");
}
