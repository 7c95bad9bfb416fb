/* info.c: --info: what a model.bin, a GGUF file or a Hugging Face folder holds, proved as a reader
 * would prove it, and printed for people. */
#include <inttypes.h>

#include "convert.h"

#define MAX_NAMES 40 /* more type names than there are */

/* What is printed, from wherever it came. */
typedef struct {
    const ModelHeader *h;
    const void *tokenizer; /* section of model.h */
    size_t tokenizer_bytes;
    const TensorEntry *entries;  /* (n) of a model.bin, or NULL */
    const SourceTensor *tensors; /* (n) of a source, or NULL */
    size_t n;
} Facts;

const char *chat_family_name(uint32_t family) {
    static const char *const names[] = {"none", "qwen2.5", "qwen2", "qwen1.5-early"};
    return family < sizeof names / sizeof names[0] ? names[family] : "unknown";
}

/* ---- Tensors --------------------------------------------------------------------------------- */

typedef struct {
    const char *name, *type;
    uint32_t rows, cols;
    uint64_t bytes;
} Row;

static Row fact_row(const Facts *f, size_t i) {
    if (f->entries) {
        const TensorEntry *t = &f->entries[i];
        return (Row){t->name, type_info((Type)t->type)->name, t->rows, t->cols, t->bytes};
    }
    const SourceTensor *t = &f->tensors[i];
    return (Row){t->name, source_type_name(t->type), t->rows, t->cols,
                 source_row_bytes(t->type, t->cols) * t->rows};
}

static void print_tensors(const Facts *f, bool verbose, FILE *out) {
    const char *types[MAX_NAMES] = {NULL};
    uint64_t counts[MAX_NAMES] = {0}, bytes = 0, weights = 0;
    for (size_t i = 0; i < f->n; i++) {
        Row r = fact_row(f, i);
        size_t k = 0;
        while (k < MAX_NAMES - 1 && types[k] && strcmp(types[k], r.type) != 0) k++;
        types[k] = r.type;
        counts[k]++;
        bytes += r.bytes;
        weights += (uint64_t)r.rows * r.cols;
    }
    fprintf(out, "parameters:   %" PRIu64 "\ntensors:      %zu:", weights, f->n);
    for (size_t k = 0; k < MAX_NAMES && types[k]; k++)
        fprintf(out, "%s %" PRIu64 " %s", k ? "," : "", counts[k], types[k]);
    fprintf(out, "; %" PRIu64 " bytes, %.2f bits per weight\n", bytes,
            8 * (double)bytes / (double)weights);
    for (size_t i = 0; verbose && i < f->n; i++) {
        Row r = fact_row(f, i);
        fprintf(out, "  %-50s %-5s %7u x %-6u %12" PRIu64 "\n", r.name, r.type, r.rows, r.cols,
                r.bytes);
    }
}

/* ---- Header ---------------------------------------------------------------------------------- */

static void print_config(const ModelConfig *c, FILE *out) {
    fprintf(out, "architecture: qwen2, %u layers, hidden %u, feed-forward %u\n",
            c->num_hidden_layers, c->hidden_size, c->intermediate_size);
    fprintf(out, "attention:    %u heads, %u of keys and values, head_dim %u%s\n",
            c->num_attention_heads, c->num_key_value_heads, c->head_dim,
            c->qkv_bias ? ", biases on q, k, v" : "");
    fprintf(out, "context:      %u tokens, rope theta %g, ", c->max_position_embeddings,
            c->rope_theta);
    if (c->yarn_factor != 0)
        fprintf(out, "yarn %g from %u, ", (double)c->yarn_factor,
                c->yarn_original_max_position_embeddings);
    fprintf(out, "norm eps %g\n", (double)c->rms_norm_eps);
    fprintf(out, "head:         %s\n", c->tie_word_embeddings ? "the embedding (tied)" : "its own");
}

static void print_defaults(const ModelHeader *h, FILE *out) {
    const ModelDefaults *d = &h->defaults;
    fprintf(out,
            "defaults:     %s, temperature %g, top_k %u, top_p %g, min_p %g, repetition_penalty "
            "%g\n",
            d->do_sample ? "sampling" : "greedy", (double)d->temperature, d->top_k,
            (double)d->top_p, (double)h->min_p, (double)d->repetition_penalty);
    fprintf(out, "stop tokens: ");
    for (uint32_t i = 0; i < d->n_eos; i++) fprintf(out, " %d", d->eos[i]);
    fprintf(out, "\n");
}

static void print_provenance(const ModelHeader *h, FILE *out) {
    static const uint8_t none[32] = {0};
    fprintf(out, "source:       %s", h->source[0] ? h->source : "unknown");
    if (memcmp(h->source_sha256, none, sizeof none) != 0) {
        fprintf(out, ", sha256 ");
        for (size_t i = 0; i < sizeof h->source_sha256; i++)
            fprintf(out, "%02x", h->source_sha256[i]);
    }
    fprintf(out, "\n");
    if (h->converter[0]) fprintf(out, "converter:    %s\n", h->converter);
}

static bool print_facts(const Facts *f, const char *path, bool verbose, FILE *out, Error *e) {
    const ModelHeader *h = f->h;
    Tokenizer *t = tokenizer_open(f->tokenizer, f->tokenizer_bytes, path, e);
    if (!t) return false;
    TokenizerHeader th; /* tokenizer_open has proved the section */
    memcpy(&th, f->tokenizer, sizeof th);
    tokenizer_close(t);
    char system[2 * sizeof h->default_system];
    printable(system, sizeof system, h->default_system, h->default_system_len);
    fprintf(out, "name:         %s\n", h->name);
    print_config(&h->config, out);
    fprintf(out, "vocabulary:   %u rows, %u tokens (%u added), %u merges\n", h->config.vocab_size,
            th.n_tokens, th.n_added, th.n_merges);
    fprintf(out, "template:     %s", chat_family_name(h->chat_family));
    if (h->has_default_system) fprintf(out, ", default system message \"%s\"", system);
    fprintf(out, "\n");
    print_defaults(h, out);
    print_provenance(h, out);
    print_tensors(f, verbose, out);
    return true;
}

/* ---- The three kinds ------------------------------------------------------------------------- */

static bool info_model(const char *path, bool verbose, FILE *out, Error *e) {
    ModelFile m;
    if (!model_open(&m, path, e)) return false;
    const ModelHeader *h = m.header;
    Facts f = {.h = h,
               .tokenizer = m.map.data + h->tokenizer_offset,
               .tokenizer_bytes = h->tokenizer_bytes,
               .entries = m.tensors,
               .n = h->n_tensors};
    fprintf(out, "model.bin:    version %u, %" PRIu64 " bytes, quant %s\n", h->version,
            h->file_bytes, h->quant);
    bool ok = print_facts(&f, path, verbose, out, e);
    model_close(&m);
    return ok;
}

static bool info_source(const char *path, bool verbose, FILE *out, Error *e) {
    Source s;
    if (!source_open(path, &s, e)) return false;
    Facts f = {.h = &s.header,
               .tokenizer = s.tokenizer.data,
               .tokenizer_bytes = s.tokenizer.n,
               .tensors = s.tensors,
               .n = s.n_tensors};
    if (s.quant[0])
        fprintf(out, "GGUF:         file type %s\n", s.quant);
    else
        fprintf(out, "safetensors:  %zu file%s\n", s.n_files, s.n_files == 1 ? "" : "s");
    bool ok = print_facts(&f, path, verbose, out, e);
    if (ok && s.note[0]) fprintf(out, "note:         %s\n", s.note);
    if (ok && s.chat_note[0]) fprintf(out, "note:         %s\n", s.chat_note);
    source_close(&s);
    return ok;
}

/* Does the file begin as a model.bin does? A folder or what cannot be read does not. */
static bool is_model_bin(const char *path) {
    Map m;
    Error ignored;
    if (!map_open(&m, path, &ignored)) return false;
    bool is = begins_with(m.data, m.bytes, MODEL_MAGIC);
    map_close(&m);
    return is;
}

bool info_print(const char *path, bool verbose, FILE *out, Error *e) {
    bool ok =
        is_model_bin(path) ? info_model(path, verbose, out, e) : info_source(path, verbose, out, e);
    if (ok && (fflush(out) != 0 || ferror(out))) return fail_errno(e, NULL, "cannot write");
    return ok;
}
