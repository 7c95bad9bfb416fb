/* model.c: what the reader and the writer of a model.bin must agree on (which configurations there
 * are, and which tensors each has), and the reader: a file is used only after every number in it
 * has been compared with what the others imply. */
#include "model.h"

#include <sys/stat.h>

#include "chat.h"

/* ---- Configuration --------------------------------------------------------------------------- */

static bool check_range(const char *file, const char *field, uint32_t value, uint32_t low,
                        uint32_t high, Error *e) {
    if (value >= low && value <= high) return true;
    return fail(e, file, field, "expected %u to %u, got %u", low, high, value);
}

/* Finite and within [low, high]; written so that NaN fails. A value that was rounded to float may
 * be as low as `low` is then. */
static bool check_real(const char *file, const char *field, double value, double low, double high,
                       Error *e) {
    if (value >= (double)(float)low && value <= high) return true;
    return fail(e, file, field, "expected %g to %g, got %g", low, high, value);
}

bool model_check_config(const ModelConfig *c, const char *file, Error *e) {
    if (!check_range(file, "num_hidden_layers", c->num_hidden_layers, 1, MAX_LAYERS, e) ||
        !check_range(file, "hidden_size", c->hidden_size, 1, MAX_HIDDEN, e) ||
        !check_range(file, "intermediate_size", c->intermediate_size, 1, MAX_FFN, e) ||
        !check_range(file, "num_attention_heads", c->num_attention_heads, 1, MAX_HEADS, e) ||
        !check_range(file, "num_key_value_heads", c->num_key_value_heads, 1, MAX_HEADS, e) ||
        !check_range(file, "head_dim", c->head_dim, 2, MAX_HEAD_DIM, e) ||
        !check_range(file, "vocab_size", c->vocab_size, 1, MAX_VOCAB, e) ||
        !check_range(file, "max_position_embeddings", c->max_position_embeddings, 1, MAX_CONTEXT,
                     e) ||
        !check_range(file, "tie_word_embeddings", c->tie_word_embeddings, 0, 1, e) ||
        !check_range(file, "qkv_bias", c->qkv_bias, 0, 1, e))
        return false;
    if (c->num_attention_heads % c->num_key_value_heads != 0)
        return fail(e, file, "num_key_value_heads",
                    "expected a divisor of %u attention heads, got %u", c->num_attention_heads,
                    c->num_key_value_heads);
    if (c->head_dim % 2 != 0)
        return fail(e, file, "head_dim", "expected an even number, got %u", c->head_dim);
    if (c->num_attention_heads * c->head_dim > MAX_HIDDEN)
        return fail(e, file, "num_attention_heads",
                    "expected at most %d values in all heads, got %u", MAX_HIDDEN,
                    c->num_attention_heads * c->head_dim);
    if (!check_real(file, "rms_norm_eps", (double)c->rms_norm_eps, 1e-12, 1, e) ||
        !check_real(file, "rope_theta", c->rope_theta, 1, 1e12, e))
        return false;
    for (size_t i = 0; i < sizeof c->reserved / sizeof c->reserved[0]; i++)
        if (!check_range(file, "config.reserved", c->reserved[i], 0, 0, e)) return false;
    if (c->yarn_factor == 0 && c->yarn_original_max_position_embeddings == 0) return true;
    return check_real(file, "rope_scaling.factor", (double)c->yarn_factor, 1, 1024, e) &&
           check_range(file, "rope_scaling.original_max_position_embeddings",
                       c->yarn_original_max_position_embeddings, 1, MAX_CONTEXT, e);
}

/* A token id, or -1 for none. */
static bool check_id(const ModelHeader *h, const char *field, int32_t id, const char *file,
                     Error *e) {
    if (id >= -1 && id < (int32_t)h->config.vocab_size) return true;
    return fail(e, file, field, "expected -1 to %u, got %d", h->config.vocab_size - 1, id);
}

static bool check_defaults(const ModelHeader *h, const char *file, Error *e) {
    const ModelDefaults *d = &h->defaults;
    if (!check_range(file, "do_sample", d->do_sample, 0, 1, e) ||
        !check_range(file, "top_k", d->top_k, 0, MAX_VOCAB, e) ||
        !check_real(file, "temperature", (double)d->temperature, 0, 100, e) ||
        !check_real(file, "top_p", (double)d->top_p, 0, 1, e) ||
        !check_real(file, "repetition_penalty", (double)d->repetition_penalty, 0.01, 100, e) ||
        !check_real(file, "min_p", (double)h->min_p, 0, 1, e) ||
        !check_range(file, "reserved", h->reserved, 0, 0, e) ||
        !check_range(file, "n_eos", d->n_eos, 0, MAX_EOS, e))
        return false;
    for (uint32_t i = 0; i < d->n_eos; i++)
        if (d->eos[i] < 0 || (uint32_t)d->eos[i] >= h->config.vocab_size)
            return fail(e, file, "eos_token_id", "expected 0 to %u, got %d",
                        h->config.vocab_size - 1, d->eos[i]);
    return check_id(h, "bos_token_id", d->bos, file, e) &&
           check_id(h, "pad_token_id", d->pad, file, e);
}

/* ---- The list of tensors --------------------------------------------------------------------- */

/* The tensors of one layer, in the order of the file. */
typedef enum { NONE, HIDDEN, HEADS, KV_HEADS, FFN } Dim;
typedef struct {
    const char *name;
    Dim rows, cols; /* rows NONE: a vector */
    bool bias;      /* only in models with qkv_bias */
} LayerTensor;

static const LayerTensor layer_tensors[] = {
    {"input_layernorm.weight", NONE, HIDDEN, false},
    {"self_attn.q_proj.weight", HEADS, HIDDEN, false},
    {"self_attn.k_proj.weight", KV_HEADS, HIDDEN, false},
    {"self_attn.v_proj.weight", KV_HEADS, HIDDEN, false},
    {"self_attn.q_proj.bias", NONE, HEADS, true},
    {"self_attn.k_proj.bias", NONE, KV_HEADS, true},
    {"self_attn.v_proj.bias", NONE, KV_HEADS, true},
    {"self_attn.o_proj.weight", HIDDEN, HEADS, false},
    {"post_attention_layernorm.weight", NONE, HIDDEN, false},
    {"mlp.gate_proj.weight", FFN, HIDDEN, false},
    {"mlp.up_proj.weight", FFN, HIDDEN, false},
    {"mlp.down_proj.weight", HIDDEN, FFN, false},
};
#define N_LAYER_TENSORS ((uint32_t)(sizeof layer_tensors / sizeof layer_tensors[0]))
#define N_LAYER_BIASES 3u

static uint32_t dim_size(const ModelConfig *c, Dim d) {
    switch (d) {
    case HIDDEN: return c->hidden_size;
    case HEADS: return c->num_attention_heads * c->head_dim;
    case KV_HEADS: return c->num_key_value_heads * c->head_dim;
    case FFN: return c->intermediate_size;
    default: return 1;
    }
}

static uint32_t tensors_per_layer(const ModelConfig *c) {
    return c->qkv_bias ? N_LAYER_TENSORS : N_LAYER_TENSORS - N_LAYER_BIASES;
}

uint32_t model_n_tensors(const ModelConfig *c) {
    return 2 + c->num_hidden_layers * tensors_per_layer(c) + (c->tie_word_embeddings ? 0 : 1);
}

void model_tensor(const ModelConfig *c, uint32_t i, TensorShape *shape) {
    uint32_t per_layer = tensors_per_layer(c), last = 1 + c->num_hidden_layers * per_layer;
    if (i == 0 || i > last) {
        const char *name = i == 0 ? "model.embed_tokens.weight" : "lm_head.weight";
        *shape = (TensorShape){.rows = c->vocab_size, .cols = c->hidden_size};
        snprintf(shape->name, sizeof shape->name, "%s", name);
    } else if (i == last) {
        *shape = (TensorShape){
            .name = "model.norm.weight", .rows = 1, .cols = c->hidden_size, .vector = true};
    } else {
        uint32_t layer = (i - 1) / per_layer, want = (i - 1) % per_layer;
        const LayerTensor *t = layer_tensors;
        for (;; t++) {
            if (t->bias && !c->qkv_bias) continue;
            if (want-- == 0) break;
        }
        *shape = (TensorShape){
            .rows = dim_size(c, t->rows), .cols = dim_size(c, t->cols), .vector = t->rows == NONE};
        snprintf(shape->name, sizeof shape->name, "model.layers.%u.%s", layer, t->name);
    }
}

/* ---- Opening --------------------------------------------------------------------------------- */

uint32_t model_header_crc(const uint8_t *data, size_t header_bytes) {
    Crc crc;
    crc_init(&crc);
    size_t at = offsetof(ModelHeader, crc32c);
    static const uint8_t zero[4] = {0};
    uint32_t value = crc_update(&crc, 0, data, at);
    value = crc_update(&crc, value, zero, sizeof zero);
    return crc_update(&crc, value, data + at + sizeof zero, header_bytes - at - sizeof zero);
}

/* A file that is no model.bin: say what it looks like. */
static bool refuse_magic(const uint8_t *d, size_t n, const char *path, Error *e) {
    static const char hint[] = "expected a model.bin made by convert, got";
    if (begins_with(d, n, "GGUF"))
        return fail(e, path, "magic", "%s a GGUF file (run ./convert/convert on it first)", hint);
    if (n >= 9 && d[8] == '{')
        return fail(e, path, "magic",
                    "%s what looks like safetensors (run ./convert/convert on its "
                    "folder first)",
                    hint);
    if (n >= 5 && memcmp(d + 1, "QWEN", 4) == 0)
        return fail(e, path, "magic", "damaged, as by a transfer in text mode");
    char shown[40];
    printable(shown, sizeof shown, (const char *)d, min_size(n, 8));
    return fail(e, path, "magic", "%s a file that begins with \"%s\"", hint, shown);
}

static bool check_header(const ModelHeader *h, const Map *map, const char *path, Error *e) {
    if (memcmp(h->magic, MODEL_MAGIC, sizeof h->magic) != 0)
        return refuse_magic(map->data, map->bytes, path, e);
    if (h->version != MODEL_VERSION)
        return fail(e, path, "version", "expected %d, got %u%s", MODEL_VERSION, h->version,
                    h->version < MODEL_VERSION                       ? " (convert it again)"
                    : h->version == __builtin_bswap32(MODEL_VERSION) ? " (wrong byte order)"
                                                                     : "");
    if (h->file_bytes != map->bytes)
        return fail(e, path, "size", "the header says %llu bytes, the file has %zu%s",
                    (unsigned long long)h->file_bytes, map->bytes,
                    h->file_bytes > map->bytes ? " (an incomplete copy?)" : "");
    if (h->header_bytes < MODEL_HEADER_BYTES || h->header_bytes > map->bytes ||
        h->header_bytes % TENSOR_ALIGN != 0)
        return fail(e, path, "header_bytes", "expected a multiple of %d up to %zu, got %llu",
                    TENSOR_ALIGN, map->bytes, (unsigned long long)h->header_bytes);
    uint32_t crc = model_header_crc(map->data, h->header_bytes);
    if (crc != h->crc32c)
        return fail(e, path, "crc32c", "header and tables are damaged: expected %08x, got %08x",
                    h->crc32c, crc);
    return true;
}

/* Is [offset, offset + bytes) a 64-aligned range between the header and header_bytes? */
static bool check_section(const ModelHeader *h, const char *field, uint64_t offset, uint64_t bytes,
                          const char *path, Error *e) {
    if (offset >= MODEL_HEADER_BYTES && offset % LINE_BYTES == 0 && offset <= h->header_bytes &&
        bytes <= h->header_bytes - offset)
        return true;
    return fail(e, path, field, "expected %d to %llu, got %llu and %llu bytes", MODEL_HEADER_BYTES,
                (unsigned long long)h->header_bytes, (unsigned long long)offset,
                (unsigned long long)bytes);
}

/* Are the bytes [from, to) of the file, which belong to nothing, zero? */
static bool check_zeros(const Map *map, uint64_t from, uint64_t to, const char *path,
                        const char *field, Error *e) {
    for (uint64_t i = from; i < to; i++)
        if (map->data[i] != 0)
            return fail(e, path, field, "expected zeros behind it, got 0x%02x at byte %llu",
                        map->data[i], (unsigned long long)i);
    return true;
}

/* Between header, tokenizer, table and data nothing stands. */
static bool check_gaps(const ModelHeader *h, const Map *map, const char *path, Error *e) {
    uint64_t tokenizer_end = h->tokenizer_offset + h->tokenizer_bytes;
    uint64_t table_end = h->tensors_offset + h->n_tensors * sizeof(TensorEntry);
    if (h->tensors_offset < tokenizer_end)
        return fail(e, path, "tensors_offset",
                    "expected %llu or more, behind the tokenizer, got %llu",
                    (unsigned long long)tokenizer_end, (unsigned long long)h->tensors_offset);
    return check_zeros(map, sizeof *h, h->tokenizer_offset, path, "header", e) &&
           check_zeros(map, tokenizer_end, h->tensors_offset, path, "tokenizer", e) &&
           check_zeros(map, table_end, h->header_bytes, path, "tensors", e);
}

static bool check_text(const char *text, size_t room, const char *path, const char *field,
                       Error *e) {
    const char *end = memchr(text, 0, room);
    if (!end) return fail(e, path, field, "not terminated");
    return is_printable(text, (size_t)(end - text)) ||
           fail(e, path, field, "expected text without control characters, got \"%s\"", text);
}

static bool check_strings(const ModelHeader *h, const char *path, Error *e) {
    if (h->chat_family > CHAT_QWEN15_EARLY)
        return fail(e, path, "chat_family", "expected 0 to %d, got %u", CHAT_QWEN15_EARLY,
                    h->chat_family);
    if (!check_range(path, "has_default_system", h->has_default_system, 0, 1, e) ||
        !check_range(path, "default_system_len", h->default_system_len, 0, sizeof h->default_system,
                     e))
        return false;
    return check_text(h->name, sizeof h->name, path, "name", e) &&
           check_text(h->quant, sizeof h->quant, path, "quant", e) &&
           (!strpbrk(h->quant, "\",\\") || /* --bench prints it in CSV and JSON as it is */
            fail(e, path, "quant", "expected no quote, comma or backslash, got \"%s\"",
                 h->quant)) &&
           check_text(h->source, sizeof h->source, path, "source", e) &&
           check_text(h->converter, sizeof h->converter, path, "converter", e);
}

static bool check_tensor(const ModelFile *m, uint32_t i, uint64_t offset, const char *path,
                         Error *e) {
    const TensorEntry *t = &m->tensors[i];
    TensorShape want;
    model_tensor(&m->header->config, i, &want);
    char name[sizeof t->name * 4 + 1];
    printable(name, sizeof name, t->name, strnlen(t->name, sizeof t->name));
    if (strncmp(t->name, want.name, sizeof t->name) != 0)
        return fail(e, path, want.name, "expected this tensor at place %u, got \"%s\"", i, name);
    if (t->reserved[0] != 0 || t->reserved[1] != 0)
        return fail(e, path, name, "reserved: expected zeros, got %llu and %llu",
                    (unsigned long long)t->reserved[0], (unsigned long long)t->reserved[1]);
    if (t->rows != want.rows || t->cols != want.cols)
        return fail(e, path, name, "expected %u x %u, got %u x %u", want.rows, want.cols, t->rows,
                    t->cols);
    if (t->type >= N_TYPES || (want.vector && t->type != TYPE_F32))
        return fail(e, path, name, "type %u is not %s", t->type,
                    want.vector ? "f32, which vectors are" : "a known one");
    const TypeInfo *info = type_info((Type)t->type);
    if (t->cols % info->block != 0)
        return fail(e, path, name, "%s needs columns in blocks of %u, got %u", info->name,
                    info->block, t->cols);
    size_t bytes = tensor_bytes(&want, (Type)t->type);
    if (t->bytes != bytes || t->offset != offset || bytes > m->map.bytes - offset)
        return fail(e, path, name, "expected %zu bytes at %llu within %zu, got %llu at %llu", bytes,
                    (unsigned long long)offset, m->map.bytes, (unsigned long long)t->bytes,
                    (unsigned long long)t->offset);
    return true;
}

/* Tensors follow each other without holes, so every offset is known beforehand. */
static bool check_tensors(const ModelFile *m, const char *path, Error *e) {
    const ModelHeader *h = m->header;
    uint32_t n = model_n_tensors(&h->config);
    if (h->n_tensors != n)
        return fail(e, path, "n_tensors", "expected %u for this configuration, got %u", n,
                    h->n_tensors);
    if (!check_section(h, "tensors_offset", h->tensors_offset, n * sizeof(TensorEntry), path, e))
        return false;
    size_t at = h->header_bytes;
    for (uint32_t i = 0; i < n; i++) {
        if (at > m->map.bytes)
            return fail(e, path, "size", "the tensors need more than %zu bytes", at);
        if (!check_tensor(m, i, at, path, e)) return false;
        /* A mapped file is much smaller than SIZE_MAX, and the tensor lies in it. */
        (void)round_up_ok(at + m->tensors[i].bytes, TENSOR_ALIGN, &at);
    }
    if (at != m->map.bytes)
        return fail(e, path, "size", "the tensors end at %zu, the file at %zu", at, m->map.bytes);
    return true;
}

static bool check_file(ModelFile *m, const char *path, Error *e) {
    if (m->map.bytes < MODEL_HEADER_BYTES) {
        if (!begins_with(m->map.data, m->map.bytes, MODEL_MAGIC))
            return refuse_magic(m->map.data, m->map.bytes, path, e);
        return fail(e, path, "size", "expected at least %d bytes, got %zu (an incomplete copy?)",
                    MODEL_HEADER_BYTES, m->map.bytes);
    }
    const ModelHeader *h = (const void *)m->map.data;
    if (!check_header(h, &m->map, path, e) || !check_strings(h, path, e) ||
        !model_check_config(&h->config, path, e) || !check_defaults(h, path, e) ||
        !check_section(h, "tokenizer_offset", h->tokenizer_offset, h->tokenizer_bytes, path, e))
        return false;
    m->header = h;
    m->tensors = (const void *)(m->map.data + min_size(h->tensors_offset, m->map.bytes));
    return check_tensors(m, path, e) && check_gaps(h, &m->map, path, e);
}

bool model_open(ModelFile *m, const char *path, Error *e) {
    struct stat st;
    *m = (ModelFile){0};
    if (stat(path, &st) == 0 && S_ISDIR(st.st_mode))
        return fail(e, path, NULL, "is a folder (run ./convert/convert on it first)");
    if (!map_open(&m->map, path, e)) return false;
    if (check_file(m, path, e)) return true;
    model_close(m);
    return false;
}

void model_close(ModelFile *m) {
    map_close(&m->map);
    *m = (ModelFile){.map = {.fd = -1}};
}

bool model_verify_tensor(const ModelFile *m, uint32_t i, const Crc *crc, const char *path,
                         Error *e) {
    const TensorEntry *t = &m->tensors[i];
    uint32_t value = crc_update(crc, 0, m->map.data + t->offset, t->bytes);
    if (value != t->crc32c)
        return fail(e, path, t->name, "the data is damaged: expected checksum %08x, got %08x",
                    t->crc32c, value);
    size_t end = t->offset + t->bytes, next = end;
    (void)round_up_ok(end, TENSOR_ALIGN, &next); /* it lies in the file, as model_open has seen */
    return check_zeros(&m->map, end, next, path, t->name, e);
}
