/* random.c: models with the exact shapes of Qwen2.5 and random weights, to measure speed without a
 * download. Row r of a tensor depends on the seed, the tensor's name and r alone: a counter goes
 * through splitmix64's mixer, and four bytes added up make a bell-shaped weight.
 *
 * Every matrix has deviation 1 / sqrt(columns), so it keeps the size of what it multiplies; norms
 * lie about 1. The tokenizer is made up: the 256 bytes, pairs of letters, and Qwen2.5's own 22
 * added tokens at their true ids, with gaps where its ordinary vocabulary would be. */
#include <math.h>

#include "convert.h"

#define FIRST_ADDED 151643
#define ENDOFTEXT 151643
#define IM_END 151645

typedef struct {
    const char *name;
    uint32_t layers, hidden, ffn, heads, kv_heads, vocab, tied;
    float repetition_penalty; /* of the Instruct model's generation_config.json */
} Shape;

static const Shape shapes[] = {
    {"0.5b", 24, 896, 4864, 14, 2, 151936, 1, 1.1f},
    {"1.5b", 28, 1536, 8960, 12, 2, 151936, 1, 1.1f},
    {"3b", 36, 2048, 11008, 16, 2, 151936, 1, 1.05f},
    {"7b", 28, 3584, 18944, 28, 4, 152064, 0, 1.05f},
    {"14b", 48, 5120, 13824, 40, 8, 152064, 0, 1.05f},
    {"32b", 64, 5120, 27648, 40, 8, 152064, 0, 1.05f},
    {"72b", 80, 8192, 29568, 64, 8, 152064, 0, 1.05f},
};

/* ---- Weights --------------------------------------------------------------------------------- */

static inline uint64_t mix(uint64_t z) {
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

/* n values of deviation `scale` about `center`. Each 64-bit number gives two of them, each the sum
 * of four of its bytes: mean 510, deviation 147.8. */
static void random_values(uint64_t key, size_t n, float center, float scale, float *out) {
    const uint64_t bytes = 0x00ff00ff00ff00ffu;
    float unit = scale / 147.8f;
    for (size_t i = 0; i < n; i += 2) {
        uint64_t z = mix(key + (i + 1) * 0x9e3779b97f4a7c15u);
        uint64_t pairs = (z & bytes) + (z >> 8 & bytes);
        int32_t first = (int32_t)((pairs & 0xffff) + (pairs >> 16 & 0xffff)) - 510;
        int32_t second = (int32_t)((pairs >> 32 & 0xffff) + (pairs >> 48)) - 510;
        out[i] = center + unit * (float)first;
        if (i + 1 < n) out[i + 1] = center + unit * (float)second;
    }
}

void random_rows(const Source *s, const SourceTensor *t, size_t first, size_t n, uint8_t *out) {
    uint64_t key = 0xcbf29ce484222325u; /* FNV-1a of the name */
    for (const char *c = t->name; *c; c++) key = (key ^ (uint8_t)*c) * 0x100000001b3u;
    float center = ends_with(t->name, "norm.weight") ? 1 : 0, x[1024];
    float scale = t->vector ? 0.1f : 1 / sqrtf((float)t->cols);
    for (size_t r = 0; r < n; r++) {
        uint64_t row_key = mix(mix(key ^ s->seed) + first + r);
        for (size_t k = 0; k < t->cols; k += 1024) {
            size_t w = min_size(1024, t->cols - k);
            random_values(row_key + k * 0x9e3779b97f4a7c15u, w, center, scale, x);
            if (t->type == SRC_F32) {
                memcpy(out, x, w * sizeof *x);
                out += w * sizeof *x;
                continue;
            }
            for (size_t i = 0; i < w; i++, out += 2) {
                uint16_t h = bf16_from_f32(x[i]);
                memcpy(out, &h, sizeof h);
            }
        }
    }
}

/* ---- Tokenizer ------------------------------------------------------------------------------- */

/* Qwen2.5's added tokens, ids FIRST_ADDED and up; from <tool_call> on they are not special. */
static const char *const added[] = {
    "<|endoftext|>",      "<|im_start|>",     "<|im_end|>",     "<|object_ref_start|>",
    "<|object_ref_end|>", "<|box_start|>",    "<|box_end|>",    "<|quad_start|>",
    "<|quad_end|>",       "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>",
    "<|image_pad|>",      "<|video_pad|>",    "<tool_call>",    "</tool_call>",
    "<|fim_prefix|>",     "<|fim_middle|>",   "<|fim_suffix|>", "<|fim_pad|>",
    "<|repo_name|>",      "<|file_sep|>",
};
#define N_SPECIAL 14

/* The 256 bytes as GPT-2's printable characters: printable Latin-1 first, then U+0100 and up. */
static bool add_bytes(TokenBuilder *b, Error *e) {
    uint32_t id = 0;
    for (int32_t cp = '!'; cp < 0x100 + 68; cp++) {
        if ((cp > '~' && cp < 0xa1) || cp == 0xad) continue;
        char text[4];
        if (!tokens_add(b, id++, text, (size_t)utf8_encode(cp, text), e)) return false;
    }
    return true;
}

/* Tokens and merges for every pair of a space or a small letter and a small letter, so that a
 * prompt has about half as many tokens as bytes. */
static bool add_pairs(TokenBuilder *b, Error *e) {
    uint32_t id = 256;
    for (int left = 0; left < 27; left++) {
        for (int right = 0; right < 26; right++) {
            char text[5];
            size_t n = (size_t)utf8_encode(left ? 'a' + left - 1 : 0x120, text); /* U+0120: space */
            text[n] = (char)('a' + right);
            if (!tokens_add(b, id++, text, n + 1, e)) return false;
            if (!tokens_merge(b, text, n, text + n, 1, e)) return false;
        }
    }
    return true;
}

static bool add_tokens(TokenBuilder *b, Error *e) {
    if (!add_bytes(b, e) || !add_pairs(b, e)) return false;
    for (uint32_t i = 0; i < sizeof added / sizeof *added; i++) {
        const char *text = added[i];
        if (!tokens_add_special(b, FIRST_ADDED + i, text, strlen(text), i < N_SPECIAL, e))
            return false;
    }
    return true;
}

static bool make_tokenizer(Source *s, Error *e) {
    TokenBuilder *b = tokens_new(s->path, e);
    if (b == NULL) return false;
    bool ok = add_tokens(b, e) && tokens_finish(b, &s->tokenizer, e);
    tokens_free(b);
    return ok;
}

/* ---- The model ------------------------------------------------------------------------------- */

static void fill_header(const Shape *m, ModelHeader *h) {
    static const char system[] =
        "You are Qwen, created by Alibaba Cloud. You are a helpful assistant.";
    h->config = (ModelConfig){.num_hidden_layers = m->layers,
                              .hidden_size = m->hidden,
                              .intermediate_size = m->ffn,
                              .num_attention_heads = m->heads,
                              .num_key_value_heads = m->kv_heads,
                              .head_dim = m->hidden / m->heads,
                              .vocab_size = m->vocab,
                              .max_position_embeddings = 32768,
                              .tie_word_embeddings = m->tied,
                              .rms_norm_eps = 1e-6f,
                              .rope_theta = 1e6,
                              .qkv_bias = 1};
    h->defaults = (ModelDefaults){.do_sample = 1,
                                  .top_k = 20,
                                  .temperature = 0.7f,
                                  .top_p = 0.8f,
                                  .repetition_penalty = m->repetition_penalty,
                                  .n_eos = 2,
                                  .eos = {IM_END, ENDOFTEXT},
                                  .bos = ENDOFTEXT,
                                  .pad = ENDOFTEXT};
    h->chat_family = CHAT_QWEN25;
    h->has_default_system = 1;
    h->default_system_len = sizeof system - 1;
    memcpy(h->default_system, system, sizeof system - 1);
    snprintf(h->name, sizeof h->name, "random %s", m->name);
    snprintf(h->source, sizeof h->source, "random weights, shape of Qwen2.5 %s", m->name);
}

static const Shape *find_shape(const char *size, Error *e) {
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        if (strcmp(shapes[i].name, size) == 0) return &shapes[i];
    fail(e, NULL, "--random", "expected 0.5b, 1.5b, 3b, 7b, 14b, 32b or 72b, got \"%.40s\"", size);
    return NULL;
}

bool random_size(const char *size, Error *e) { return find_shape(size, e) != NULL; }

bool random_open(const char *size, Source *s, Error *e) {
    *s = (Source){0};
    snprintf(s->path, sizeof s->path, "random %.40s", size);
    const Shape *m = find_shape(size, e);
    if (m == NULL) return false;
    fill_header(m, &s->header);
    if (!expected_tensors(&s->header.config, &s->tensors, &s->n_tensors, e) ||
        !make_tokenizer(s, e)) {
        source_close(s);
        return false;
    }
    for (size_t i = 0; i < s->n_tensors; i++)
        s->tensors[i].type = s->tensors[i].vector ? SRC_F32 : SRC_BF16;
    return true;
}
