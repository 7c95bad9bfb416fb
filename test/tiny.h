/* tiny.h: a small model for tests, written with the converter's own parts: 2 layers, hidden 64,
 * feed-forward 128, 4 heads, 2 key-value heads, the 256 bytes as vocabulary, weights large enough
 * for every token to depend on what came long before it. It says printable ASCII alone, so text and
 * ids are one thing. Heads are 32 wide in quantized models, whose prompts then take prompt_attend,
 * and 16 in others. Every byte follows from this file. */
#ifndef TINY_H
#define TINY_H

#include <unistd.h>

#include "../convert/convert.h"
#include "test.h"

enum {
    TINY_PAIR = 256,
    TINY_ENDOFTEXT,
    TINY_IM_START,
    TINY_IM_END,
    TINY_VOCAB = 272,
    TINY_HIDDEN = 64
};

/* Does the model end its turn by itself? */
typedef enum { TINY_NEVER_ENDS, TINY_ENDS } TinyEnd;

static bool tiny_tokenizer(Source *s, Error *e) {
    static const char *const added[] = {"<|endoftext|>", "<|im_start|>", "<|im_end|>"};
    TokenBuilder *b = tokens_new("tiny", e);
    bool ok = b != NULL;
    uint32_t id = 0;
    for (int32_t cp = '!'; ok && cp < 0x144; cp++) { /* the bytes, in GPT-2's alphabet */
        char text[4];
        if ((cp > '~' && cp < 0xa1) || cp == 0xad) continue;
        ok = tokens_add(b, id++, text, (size_t)utf8_encode(cp, text), e);
    }
    /* A vocabulary has merges: this one has the bytes 0 and 1, which no test's text holds. */
    ok = ok && tokens_add(b, TINY_PAIR, "\xc4\x80\xc4\x81", 4, e) &&
         tokens_merge(b, "\xc4\x80", 2, "\xc4\x81", 2, e);
    for (uint32_t i = 0; ok && i < 3; i++)
        ok = tokens_add_special(b, TINY_ENDOFTEXT + i, added[i], strlen(added[i]), true, e);
    ok = ok && tokens_finish(b, &s->tokenizer, e);
    tokens_free(b);
    return ok;
}

static void tiny_header(ModelHeader *h) {
    static const char system[] = "You are tiny.";
    h->config = (ModelConfig){.num_hidden_layers = 2,
                              .hidden_size = TINY_HIDDEN,
                              .intermediate_size = 128,
                              .num_attention_heads = 4,
                              .num_key_value_heads = 2,
                              .head_dim = 16,
                              .vocab_size = TINY_VOCAB,
                              .max_position_embeddings = 32768,
                              .rms_norm_eps = 1e-6f,
                              .rope_theta = 1e6,
                              .qkv_bias = 1};
    h->defaults = (ModelDefaults){.do_sample = 1,
                                  .top_k = 20,
                                  .temperature = 0.7f,
                                  .top_p = 0.8f,
                                  .repetition_penalty = 1.1f,
                                  .n_eos = 2,
                                  .eos = {TINY_IM_END, TINY_ENDOFTEXT},
                                  .bos = -1,
                                  .pad = -1};
    h->chat_family = CHAT_QWEN25;
    h->has_default_system = 1;
    h->default_system_len = sizeof system - 1;
    memcpy(h->default_system, system, sizeof system - 1);
    snprintf(h->name, sizeof h->name, "tiny");
    snprintf(h->source, sizeof h->source, "test");
}

/* May the head's row have weights: does the model ever say this token? The ids of printable ASCII
 * are 0..93 for '!' to '~', and 220 for the space. */
static bool tiny_says(uint32_t id, TinyEnd end) {
    return id < 94 || id == 220 || (id == TINY_IM_END && end == TINY_ENDS);
}

/* Fill the tensor's weights, (rows, cols). */
static void tiny_weights(const SourceTensor *t, TinyEnd end, uint64_t *state, float *to) {
    bool head = strcmp(t->name, "lm_head.weight") == 0, norm = strstr(t->name, "norm") != NULL;
    for (uint32_t r = 0; r < t->rows; r++) {
        for (uint32_t k = 0; k < t->cols; k++) {
            float x = (float)((double)(test_random(state) >> 11) * 0x1p-53 - 0.5);
            *to++ = norm ? 1 + x / 4 : head && !tiny_says(r, end) ? 0 : x;
        }
    }
}

/* Give s its weights, by way of a file in its folder that exists only as long as it is open. */
static bool tiny_file(Source *s, const char *path, TinyEnd end, Error *e) {
    uint64_t state = 5;
    size_t n = 0;
    for (size_t i = 0; i < s->n_tensors; i++) {
        s->tensors[i].type = SRC_F32;
        s->tensors[i].offset = n * sizeof(float);
        n += (size_t)s->tensors[i].rows * s->tensors[i].cols;
    }
    float *data = alloc_array(e, "weights", n, sizeof *data);
    FILE *f = fopen(path, "wb");
    for (size_t i = 0; data && i < s->n_tensors; i++)
        tiny_weights(&s->tensors[i], end, &state, data + s->tensors[i].offset / sizeof(float));
    bool ok = data && f && fwrite(data, sizeof *data, n, f) == n;
    if (f && fclose(f) != 0) ok = false;
    free(data);
    s->files = alloc_array(e, "files", 1, sizeof *s->files);
    s->file_names = alloc_array(e, "names", 1, sizeof *s->file_names);
    s->n_files = 1;
    ok = ok && s->files && s->file_names && map_open(&s->files[0], path, e);
    unlink(path);
    return ok;
}

/* Give one tensor another type, and all their places. */
static void tiny_retype(const Source *s, Plan *p, const char *name, Type type) {
    uint64_t at = p->header_bytes;
    for (uint32_t i = 0; i < p->n; i++) {
        TensorEntry *t = &p->entries[i];
        if (strcmp(t->name, name) == 0) {
            TensorShape shape;
            model_tensor(&s->header.config, i, &shape);
            t->type = type;
            t->bytes = tensor_bytes(&shape, type);
        }
        t->offset = at;
        at = (at + t->bytes + TENSOR_ALIGN - 1) / TENSOR_ALIGN * TENSOR_ALIGN;
    }
    p->file_bytes = at;
}

/* Write the model to path, as q8, q5, q4, f32, f16 or bf16, with so many rows of padding behind its
 * vocabulary. "q8-mixed" is q8 with a feed-forward of 144, which is no whole number of blocks, so
 * that down_proj is not quantized; in its first layer up_proj is f16. "f32-mixed" has the same
 * weights as f32. "q8-wide" has a feed-forward of 8192, for units of work of all sizes. "q8-raw"
 * has no chat template, "q8-silent" one without a system message of its own. */
static bool tiny_model_padded(const char *path, const char *quant, TinyEnd end, uint32_t padding,
                              Error *e) {
    Source s = {.path = "tiny"};
    Plan plan = {0};
    char weights[512], type[8];
    bool mixed = strstr(quant, "-mixed") != NULL;
    atomic_int stop = 0;
    *e = (Error){"tiny model"};
    snprintf(weights, sizeof weights, "%s.weights", path);
    tiny_header(&s.header);
    s.header.config.vocab_size += padding;
    if (quant[0] == 'q' || mixed) s.header.config.head_dim = 32;
    if (mixed) s.header.config.intermediate_size = 144;
    if (strstr(quant, "-wide")) s.header.config.intermediate_size = 8192;
    if (strstr(quant, "-raw")) s.header.chat_family = CHAT_NONE;
    if (strstr(quant, "-raw") || strstr(quant, "-silent")) s.header.has_default_system = 0;
    snprintf(type, sizeof type, "%.*s", (int)strcspn(quant, "-"), quant);
    bool ok = expected_tensors(&s.header.config, &s.tensors, &s.n_tensors, e) &&
              tiny_tokenizer(&s, e) && tiny_file(&s, weights, end, e) &&
              plan_make(&s, NULL, type, &stop, &plan, e);
    if (ok && mixed && quant[0] == 'q')
        tiny_retype(&s, &plan, "model.layers.0.mlp.up_proj.weight", TYPE_F16);
    WriteJob job = {.source = &s, .plan = &plan, .n_threads = 1, .stop = &stop};
    ok = ok && write_model(&job, path, e);
    plan_free(&plan);
    source_close(&s);
    return ok;
}

__attribute__((unused)) static bool tiny_model(const char *path, const char *quant, TinyEnd end,
                                               Error *e) {
    return tiny_model_padded(path, quant, end, 0, e);
}

#endif
