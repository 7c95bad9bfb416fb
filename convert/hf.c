/* hf.c: a Hugging Face folder -> Source.
 *
 *   config.json              the model's shape; only Qwen2ForCausalLM (Qwen1.5, Qwen2, Qwen2.5)
 *   generation_config.json   sampling defaults and stop tokens, optional
 *   tokenizer.json           or vocab.json + merges.txt, with tokenizer_config.json's added tokens
 *   tokenizer_config.json    the chat template, unless chat_template.jinja has it
 *   model.safetensors        or model.safetensors.index.json and the shards it lists
 *
 * What would change the model's results and is not implemented is refused by its name, never
 * ignored; what would only choose other tokens from them is named in the source's note. */
#include <dirent.h>
#include <limits.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "safetensors.h"

#define MAX_JSON (128u << 20)

/* The pattern that tokenizer.c's scanner implements. */
static const char qwen2_pattern[] = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|"
                                    "\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*"
                                    "|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";

/* A folder, its path ending without a slash, and the path of one file in it. */
typedef struct {
    char folder[PATH_MAX];
    char path[PATH_MAX + 300];
} Folder;

static const char *file_in(Folder *f, const char *name) {
    snprintf(f->path, sizeof f->path, "%s/%s", f->folder, name);
    return f->path;
}

/* A link that leads nowhere counts as there, so that opening it says so: a cache that was copied
 * without what its links point at must not look like a folder without optional files. */
static bool exists(Folder *f, const char *name) {
    struct stat st;
    return lstat(file_in(f, name), &st) == 0;
}

/* Read a whole regular file: a FIFO would be waited for. What cannot be looked at is for read_file
 * to name. */
static bool read_regular(const char *path, Buffer *text, Error *e) {
    struct stat st;
    if (stat(path, &st) == 0 && !S_ISREG(st.st_mode))
        return fail(e, path, NULL, "not a regular file");
    return read_file(path, MAX_JSON, text, e);
}

/* Parse a JSON file of the folder; the result's root is an object. NULL on error. */
static JsonDoc *read_object(Folder *f, const char *name, Error *e) {
    Buffer text = {0};
    const char *path = file_in(f, name);
    if (!read_regular(path, &text, e)) return NULL;
    const char *what = looks_like((const uint8_t *)text.data, text.n);
    JsonDoc *doc = NULL;
    if (what)
        fail(e, path, NULL, "expected JSON, got %s", what);
    else
        doc = json_parse(text.data, text.n, path, e);
    buffer_free(&text);
    if (doc && json_root(doc)->kind != JSON_OBJECT) {
        fail(e, path, NULL, "expected an object");
        json_free(doc);
        return NULL;
    }
    return doc;
}

/* The same for a file that may be absent: then *doc is NULL. */
static bool read_optional(Folder *f, const char *name, JsonDoc **doc, Error *e) {
    *doc = NULL;
    if (!exists(f, name)) return true;
    return (*doc = read_object(f, name, e)) != NULL;
}

/* ---- config.json ----------------------------------------------------------------------------- */

/* The name of an architecture. */
static bool check_name(const Json *v, const char *field, const char *wanted, const char *file,
                       Error *e) {
    if (json_is(v, wanted)) return true;
    return fail(e, file, field, "unsupported architecture %.*s, expected %s", shown_len(v),
                v->source, wanted);
}

/* No layer's attention may be limited to a sliding window. */
static bool check_window(const Json *c, const char *file, Error *e) {
    bool sliding = false;
    if (!field_bool(c, "use_sliding_window", &sliding, file, e)) return false;
    const Json *layers = field_get(c, "layer_types");
    if (layers && layers->kind != JSON_ARRAY)
        return fail(e, file, "layer_types", "expected a list");
    int64_t from, n_layers; /* the layers from this one on slide */
    if (sliding && field_get(c, "max_window_layers")) {
        if (!field_int(c, "max_window_layers", 0, INT32_MAX, &from, file, e) ||
            !field_int(c, "num_hidden_layers", 1, INT32_MAX, &n_layers, file, e))
            return false;
        sliding = from < n_layers;
    }
    for (const Json *l = layers ? layers->child : NULL; l; l = l->next)
        sliding |= !json_is(l, "full_attention");
    return !sliding || fail(e, file, "use_sliding_window", "true is unsupported");
}

/* The architecture is known, and nothing is switched on that would change the computation. */
static bool check_architecture(const Json *c, const char *file, Error *e) {
    const Json *type = field_get(c, "model_type"), *list = field_get(c, "architectures");
    if (!type) return fail(e, file, "model_type", "missing");
    if (list && list->kind != JSON_ARRAY) return fail(e, file, "architectures", "expected a list");
    const Json *first = list ? list->child : NULL;
    if (!check_name(type, "model_type", "qwen2", file, e) ||
        (first && !check_name(first, "architectures", "Qwen2ForCausalLM", file, e)))
        return false;
    if (field_get(c, "quantization_config"))
        return fail(e, file, "quantization_config",
                    "unsupported: expected the original model, not a GPTQ, AWQ or FP8 one");
    if (field_get(c, "quantization"))
        return fail(e, file, "quantization",
                    "unsupported: expected the original model, not one quantized for MLX");
    const Json *act = field_get(c, "hidden_act");
    if (act && !json_is(act, "silu"))
        return fail(e, file, "hidden_act", "expected \"silu\", got %.*s (unsupported)",
                    shown_len(act), act->source);
    if (!check_window(c, file, e)) return false;
    const Json *dtype = field_get(c, "torch_dtype");
    if (dtype && !json_is(dtype, "bfloat16") && !json_is(dtype, "float16") &&
        !json_is(dtype, "float32"))
        return fail(e, file, "torch_dtype", "expected bfloat16, float16 or float32, got %.*s",
                    shown_len(dtype), dtype->source);
    return true;
}

/* A member of rope_scaling that must be absent or have its usual value. */
static bool check_usual(const Json *rope, const char *key, double usual, const char *file,
                        Error *e) {
    double value = usual;
    if (!field_real(rope, key, -1e9, 1e9, &value, file, e)) return false;
    if (value == usual) return true;
    return fail(e, file, key, "%g is unsupported, expected %g", value, usual);
}

/* rope_theta stands in config.json, in its scaling (rope: may be NULL), or in both alike. */
static bool read_theta(const Json *c, const Json *rope, ModelConfig *m, const char *file,
                       Error *e) {
    const Json *theta_at = field_get(c, "rope_theta") ? c : rope;
    if (!field_get(theta_at, "rope_theta")) return fail(e, file, "rope_theta", "missing");
    if (!field_real(theta_at, "rope_theta", 1, 1e12, &m->rope_theta, file, e)) return false;
    double other = m->rope_theta;
    if (!field_real(rope, "rope_theta", 1, 1e12, &other, file, e)) return false;
    return other == m->rope_theta ||
           fail(e, file, "rope_theta", "is %g, and %g beside the scaling", m->rope_theta, other);
}

static bool read_yarn(const Json *rope, ModelConfig *m, const char *file, Error *e) {
    double factor = 0;
    if (!field_get(rope, "factor")) return fail(e, file, "rope_scaling.factor", "missing");
    if (!field_real(rope, "factor", 1, 1024, &factor, file, e)) return false;
    int64_t original = m->max_position_embeddings;
    const char *key = "original_max_position_embeddings";
    if (field_get(rope, key) && !field_int(rope, key, 1, MAX_CONTEXT, &original, file, e))
        return false;
    m->yarn_factor = (float)factor;
    m->yarn_original_max_position_embeddings = (uint32_t)original;
    if (field_get(rope, "attention_factor") || field_get(rope, "mscale"))
        return fail(e, file, "rope_scaling.attention_factor", "unsupported: expected none");
    bool truncate = true;
    if (!field_bool(rope, "truncate", &truncate, file, e)) return false;
    if (!truncate) return fail(e, file, "rope_scaling.truncate", "false is unsupported");
    return check_usual(rope, "beta_fast", 32, file, e) &&
           check_usual(rope, "beta_slow", 1, file, e);
}

/* rope_scaling, or rope_parameters as newer files call it. */
static bool read_rope(const Json *c, ModelConfig *m, const char *file, Error *e) {
    const Json *rope = field_get(c, "rope_scaling");
    if (!rope) rope = field_get(c, "rope_parameters");
    if (rope && rope->kind != JSON_OBJECT)
        return fail(e, file, "rope_scaling", "expected an object or null");
    if (!read_theta(c, rope, m, file, e)) return false;
    const Json *type = field_get(rope, "rope_type");
    if (!type) type = field_get(rope, "type");
    if (json_is(type, "yarn")) return read_yarn(rope, m, file, e);
    if (type && !json_is(type, "default"))
        return fail(e, file, "rope_scaling.type", "expected \"yarn\", got %.*s (unsupported)",
                    shown_len(type), type->source);
    return type || !field_get(rope, "factor") || fail(e, file, "rope_scaling.type", "missing");
}

static bool read_size(const Json *c, const char *key, uint32_t high, uint32_t *out,
                      const char *file, Error *e) {
    int64_t value;
    if (!field_int(c, key, 1, high, &value, file, e)) return false;
    *out = (uint32_t)value;
    return true;
}

static bool read_config(const Json *c, ModelConfig *m, const char *file, Error *e) {
    if (!check_architecture(c, file, e) ||
        !read_size(c, "num_hidden_layers", MAX_LAYERS, &m->num_hidden_layers, file, e) ||
        !read_size(c, "hidden_size", MAX_HIDDEN, &m->hidden_size, file, e) ||
        !read_size(c, "intermediate_size", MAX_FFN, &m->intermediate_size, file, e) ||
        !read_size(c, "num_attention_heads", MAX_HEADS, &m->num_attention_heads, file, e) ||
        !read_size(c, "vocab_size", MAX_VOCAB, &m->vocab_size, file, e) ||
        !read_size(c, "max_position_embeddings", MAX_CONTEXT, &m->max_position_embeddings, file, e))
        return false;
    m->num_key_value_heads = m->num_attention_heads; /* null: one for each, as in Qwen1.5 */
    if (!json_get(c, "num_key_value_heads")) return fail(e, file, "num_key_value_heads", "missing");
    if (field_get(c, "num_key_value_heads") &&
        !read_size(c, "num_key_value_heads", MAX_HEADS, &m->num_key_value_heads, file, e))
        return false;
    m->head_dim = m->hidden_size / m->num_attention_heads;
    if (field_get(c, "head_dim")) {
        if (!read_size(c, "head_dim", MAX_HEAD_DIM, &m->head_dim, file, e)) return false;
    } else if (m->hidden_size % m->num_attention_heads != 0) {
        return fail(e, file, "hidden_size", "expected a multiple of %u attention heads, got %u",
                    m->num_attention_heads, m->hidden_size);
    }
    bool tied = false; /* what transformers takes for a Qwen2 that does not say */
    double eps = 0;
    if (!field_get(c, "rms_norm_eps")) return fail(e, file, "rms_norm_eps", "missing");
    if (!field_bool(c, "tie_word_embeddings", &tied, file, e) ||
        !field_real(c, "rms_norm_eps", 1e-12, 1, &eps, file, e) || !read_rope(c, m, file, e))
        return false;
    m->tie_word_embeddings = tied;
    m->rms_norm_eps = (float)eps;
    m->qkv_bias = 1;
    return model_check_config(m, file, e);
}

/* Qwen2.5-1M was trained on up to original_max_position_embeddings; beyond that it needs its
 * positions cut into chunks, which is not implemented: there the context ends. */
static bool limit_context(const Json *c, Source *s, const char *file, Error *e) {
    const Json *dual = field_get(c, "dual_chunk_attention_config");
    uint32_t *context = &s->header.config.max_position_embeddings;
    int64_t trained = 0;
    char text[200];
    if (!dual) return true;
    if (!field_int(dual, "original_max_position_embeddings", 1, MAX_CONTEXT, &trained, file, e))
        return false;
    if (trained >= *context) return true;
    snprintf(text, sizeof text,
             "the context ends at %lld, what the model was trained on, not at %u: dual chunk "
             "attention, which stretches it, is unsupported",
             (long long)trained, *context);
    source_note(s, text);
    *context = (uint32_t)trained;
    return true;
}

/* ---- generation_config.json ------------------------------------------------------------------ */

static bool read_eos(ModelDefaults *d, const Json *v, uint32_t vocab, const char *file, Error *e) {
    int64_t id;
    if (!json_int(v, 0, (int64_t)vocab - 1, &id))
        return fail(e, file, "eos_token_id", "expected ids from 0 to %u, got %.*s", vocab - 1,
                    shown_len(v), v->source);
    return add_eos(d, (int32_t)id, file, e);
}

/* bos or pad, unless the file before had it. Nothing here uses them, so an id that no row has is as
 * good as none. */
static bool read_unused_id(const Json *c, const char *key, uint32_t vocab, int32_t *id,
                           const char *file, Error *e) {
    int64_t value;
    if (*id >= 0 || !field_get(c, key)) return true;
    if (!field_int(c, key, INT32_MIN, UINT32_MAX, &value, file, e)) return false;
    if (value >= 0 && value < vocab) *id = (int32_t)value;
    return true;
}

/* eos (one or a list), bos and pad of either file; eos ids are collected. */
static bool read_token_ids(const Json *c, ModelDefaults *d, uint32_t vocab, const char *file,
                           Error *e) {
    const Json *eos = field_get(c, "eos_token_id");
    if (eos && eos->kind != JSON_ARRAY && !read_eos(d, eos, vocab, file, e)) return false;
    for (const Json *v = eos && eos->kind == JSON_ARRAY ? eos->child : NULL; v; v = v->next)
        if (!read_eos(d, v, vocab, file, e)) return false;
    return read_unused_id(c, "bos_token_id", vocab, &d->bos, file, e) &&
           read_unused_id(c, "pad_token_id", vocab, &d->pad, file, e);
}

static bool read_sampling(const Json *g, ModelHeader *h, const char *file, Error *e) {
    ModelDefaults *d = &h->defaults;
    bool sample = false;
    double temperature = 1, top_p = 1, min_p = 0, penalty = 1;
    int64_t top_k = 0;
    if (!field_bool(g, "do_sample", &sample, file, e) ||
        !field_real(g, "temperature", 0, 100, &temperature, file, e) ||
        !field_real(g, "top_p", 0, 1, &top_p, file, e) ||
        !field_real(g, "min_p", 0, 1, &min_p, file, e) ||
        !field_real(g, "repetition_penalty", 0.01, 100, &penalty, file, e) ||
        (field_get(g, "top_k") && !field_int(g, "top_k", -1, MAX_VOCAB, &top_k, file, e)))
        return false;
    if (sample && !json_get(g, "top_k")) top_k = 50; /* what transformers takes; null is off */
    if (top_k < 0) top_k = 0;                        /* both are "off" somewhere */
    d->do_sample = sample;
    d->temperature = (float)temperature;
    d->top_p = (float)top_p;
    h->min_p = (float)min_p;
    d->repetition_penalty = (float)penalty;
    d->top_k = (uint32_t)top_k;
    return true;
}

/* Settings that choose other tokens than those of read_sampling would, and are not implemented: a
 * number above, below or other than this one, or anything but an empty list. */
typedef struct {
    const char *name;
    enum { ABOVE, BELOW, NOT, GIVEN } when;
    double off;
} Ignored;
static const Ignored ignored[] = {
    {"no_repeat_ngram_size", ABOVE, 0},
    {"encoder_no_repeat_ngram_size", ABOVE, 0},
    {"num_beams", ABOVE, 1},
    {"num_beam_groups", ABOVE, 1},
    {"penalty_alpha", ABOVE, 0},
    {"typical_p", BELOW, 1},
    {"epsilon_cutoff", ABOVE, 0},
    {"eta_cutoff", ABOVE, 0},
    {"encoder_repetition_penalty", NOT, 1},
    {"guidance_scale", NOT, 1},
    {"bad_words_ids", GIVEN, 0},
    {"force_words_ids", GIVEN, 0},
    {"suppress_tokens", GIVEN, 0},
    {"begin_suppress_tokens", GIVEN, 0},
    {"forced_bos_token_id", GIVEN, 0},
    {"forced_eos_token_id", GIVEN, 0},
    {"sequence_bias", GIVEN, 0},
    {"stop_strings", GIVEN, 0},
};

static bool is_asked(const Json *g, const Ignored *i) {
    const Json *v = field_get(g, i->name);
    if (!v) return false;
    if (i->when == GIVEN) return (v->kind != JSON_ARRAY && v->kind != JSON_OBJECT) || v->n > 0;
    if (v->kind != JSON_NUMBER) return true;
    if (i->when == ABOVE) return v->number > i->off;
    return i->when == BELOW ? v->number < i->off : v->number != i->off;
}

static bool note_ignored(const Json *g, Source *s, Error *e) {
    Buffer text = {0};
    size_t n = 0;
    bool ok = true;
    for (size_t i = 0; ok && i < sizeof ignored / sizeof ignored[0]; i++)
        if (is_asked(g, &ignored[i]))
            ok = buffer_printf(&text, e, "%s%s",
                               n++ ? ", " : "generation_config.json: ", ignored[i].name);
    ok = ok && (n == 0 || buffer_puts(&text, n == 1 ? " is ignored" : " are ignored", e));
    if (ok && n) source_note(s, text.data);
    buffer_free(&text);
    return ok;
}

/* ---- config.json and generation_config.json together ----------------------------------------- */

/* The first of the folder's GGUF files, by name: of a model in several the one to be given. */
static bool find_gguf(const char *folder, char *out, size_t room) {
    DIR *d = opendir(folder);
    out[0] = 0;
    for (struct dirent *f; d && (f = readdir(d)) != NULL;) {
        if (!ends_with(f->d_name, ".gguf")) continue;
        if (!out[0] || strcmp(f->d_name, out) < 0) snprintf(out, room, "%s", f->d_name);
    }
    if (d) closedir(d);
    return out[0] != 0;
}

/* config.json; or, where there is none, an error with what to give instead of this folder. */
static JsonDoc *open_config(Folder *f, Error *e) {
    static const char name[] = "config.json";
    char gguf[256];
    if (exists(f, name)) return read_object(f, name, e);
    if (exists(f, "adapter_config.json"))
        fail(e, f->folder, name,
             "missing: this is an adapter, expected its model, and this folder behind --lora");
    else if (exists(f, "snapshots"))
        fail(e, f->folder, name,
             "missing: this is a model in Hugging Face's cache, expected snapshots/COMMIT in it");
    else if (find_gguf(f->folder, gguf, sizeof gguf))
        fail(e, f->folder, name, "missing: expected a model's folder, or the file %s in this one",
             gguf);
    else
        return read_object(f, name, e); /* which says why it cannot be opened */
    return NULL;
}

static bool read_settings(Folder *f, Source *s, Error *e) {
    ModelHeader *h = &s->header;
    h->defaults.bos = h->defaults.pad = -1;
    JsonDoc *generation;
    JsonDoc *config = open_config(f, e);
    if (!config) return false;
    bool ok = read_config(json_root(config), &h->config, f->path, e) &&
              limit_context(json_root(config), s, f->path, e) &&
              read_optional(f, "generation_config.json", &generation, e);
    if (ok) {
        const Json *g = generation ? json_root(generation) : NULL;
        uint32_t vocab = h->config.vocab_size;
        ok = read_sampling(g, h, f->path, e) && note_ignored(g, s, e) &&
             read_token_ids(g, &h->defaults, vocab, f->path, e) &&
             read_token_ids(json_root(config), &h->defaults, vocab, file_in(f, "config.json"), e);
        json_free(generation);
    }
    json_free(config);
    return ok;
}

/* ---- Tokenizer ------------------------------------------------------------------------------- */

/* Absent, null, false, or an empty text: switched off. */
static bool is_off(const Json *object, const char *key) {
    const Json *v = field_get(object, key);
    return !v || (v->kind == JSON_BOOL && !v->boolean) || json_is(v, "");
}

/* Present and false: what Hugging Face's code takes for an absent one is true. */
static bool is_false(const Json *object, const char *key) {
    const Json *v = json_get(object, key);
    return v && v->kind == JSON_BOOL && !v->boolean;
}

/* tokenizer.json must describe the very steps that tokenizer.c takes. */
static bool check_pre_tokenizer(const Json *p, const char *file, Error *e) {
    const char *field = "pre_tokenizer";
    const Json *list = json_get(p, "pretokenizers");
    if (!json_is(json_get(p, "type"), "Sequence") || !list || list->n != 2)
        return fail(e, file, field, "expected Qwen2's sequence of Split and ByteLevel");
    const Json *split = list->child, *bytes = split->next;
    if (!json_is(json_get(split, "type"), "Split") ||
        !json_is(json_get(bytes, "type"), "ByteLevel"))
        return fail(e, file, field, "expected Qwen2's sequence of Split and ByteLevel");
    if (!json_is(json_get(json_get(split, "pattern"), "Regex"), qwen2_pattern))
        return fail(e, file, field, "unknown pattern, expected exactly Qwen2's");
    if (!json_is(json_get(split, "behavior"), "Isolated") || !is_off(split, "invert"))
        return fail(e, file, field, "expected the behavior \"Isolated\", not inverted");
    if (!is_false(bytes, "add_prefix_space") || !is_false(bytes, "use_regex"))
        return fail(e, file, field, "expected ByteLevel with add_prefix_space and use_regex false");
    return true;
}

/* ByteLevel changes offsets alone; another step would add tokens to every text. */
static bool check_post_processor(const Json *p, const char *file, Error *e) {
    if (!p || json_is(json_get(p, "type"), "ByteLevel")) return true;
    /* transformers 5 saves a template that consists of the text alone. */
    const Json *single = json_get(p, "single");
    if (json_is(json_get(p, "type"), "TemplateProcessing") && single && single->n == 1 &&
        json_is(json_get(json_get(single->child, "Sequence"), "id"), "A"))
        return true;
    const Json *type = json_get(p, "type"), *got = type ? type : p;
    return fail(e, file, "post_processor", "%.*s is unsupported, expected ByteLevel or null",
                shown_len(got), got->source);
}

static bool check_tokenizer(const Json *root, const char *file, Error *e) {
    const Json *model = json_get(root, "model");
    if (!json_is(json_get(json_get(root, "normalizer"), "type"), "NFC"))
        return fail(e, file, "normalizer", "expected NFC (unsupported otherwise)");
    if (!json_is(json_get(model, "type"), "BPE"))
        return fail(e, file, "model.type", "expected \"BPE\" (unsupported otherwise)");
    static const char *const off[] = {
        "dropout",       "unk_token",    "continuing_subword_prefix", "end_of_word_suffix",
        "byte_fallback", "ignore_merges"};
    for (size_t i = 0; i < sizeof off / sizeof off[0]; i++)
        if (!is_off(model, off[i])) return fail(e, file, off[i], "unsupported: expected it off");
    return check_pre_tokenizer(json_get(root, "pre_tokenizer"), file, e) &&
           check_post_processor(field_get(root, "post_processor"), file, e);
}

/* {"text": id, ...} */
static bool add_vocab(TokenBuilder *b, const Json *vocab, const char *file, Error *e) {
    if (!vocab || vocab->kind != JSON_OBJECT) return fail(e, file, "vocab", "expected an object");
    for (const Json *v = vocab->child; v; v = v->next) {
        int64_t id;
        if (!json_int(v, 0, MAX_VOCAB - 1, &id))
            return fail(e, file, "vocab", "expected ids from 0 to %d, got %.*s", MAX_VOCAB - 1,
                        shown_len(v), v->source);
        if (!tokens_add(b, (uint32_t)id, v->key, v->key_len, e)) return false;
    }
    return true;
}

/* ["left right", ...] or [["left", "right"], ...] */
static bool add_merges(TokenBuilder *b, const Json *merges, const char *file, Error *e) {
    if (!merges || merges->kind != JSON_ARRAY) return fail(e, file, "merges", "expected a list");
    for (const Json *m = merges->child; m; m = m->next) {
        bool pair = m->kind == JSON_ARRAY && m->n == 2 && m->child->kind == JSON_STRING &&
                    m->child->next->kind == JSON_STRING;
        if (!pair && m->kind != JSON_STRING)
            return fail(e, file, "merges", "expected \"a b\" or [\"a\", \"b\"], got %.*s",
                        shown_len(m), m->source);
        const Json *l = m->child, *r = pair ? l->next : NULL;
        if (!(pair ? tokens_merge(b, l->string, l->string_len, r->string, r->string_len, e)
                   : tokens_merge_pair(b, m->string, m->string_len, file, "merges", e)))
            return false;
    }
    return true;
}

/* One added token: v holds content, special and flags that change matching. */
static bool add_added(TokenBuilder *b, int64_t id, const Json *v, const char *file, Error *e) {
    const Json *content = field_get(v, "content");
    if (!content || content->kind != JSON_STRING)
        return fail(e, file, "added_tokens", "%lld: content is missing", (long long)id);
    if (!is_off(v, "single_word") || !is_off(v, "lstrip") || !is_off(v, "rstrip"))
        return fail(e, file, "added_tokens", "%lld: single_word, lstrip and rstrip are unsupported",
                    (long long)id);
    bool special = false;
    return field_bool(v, "special", &special, file, e) &&
           tokens_add_special(b, (uint32_t)id, content->string, content->string_len, special, e);
}

static bool build_from_json(TokenBuilder *b, const Json *root, const char *file, Error *e) {
    const Json *model = json_get(root, "model"), *added = field_get(root, "added_tokens");
    if (added && added->kind != JSON_ARRAY) return fail(e, file, "added_tokens", "expected a list");
    if (!check_tokenizer(root, file, e) || !add_vocab(b, json_get(model, "vocab"), file, e) ||
        !add_merges(b, json_get(model, "merges"), file, e))
        return false;
    for (const Json *a = added ? added->child : NULL; a; a = a->next) {
        int64_t id;
        if (!field_int(a, "id", 0, MAX_VOCAB - 1, &id, file, e) || !add_added(b, id, a, file, e))
            return false;
    }
    return true;
}

/* merges.txt: a merge a line, perhaps a first line "#version: 0.2"; lines may end in CR LF. */
static bool add_merges_txt(TokenBuilder *b, const Buffer *text, const char *file, Error *e) {
    const char *end = text->data + text->n;
    for (const char *line = text->data; line < end;) {
        const char *newline = memchr(line, '\n', (size_t)(end - line));
        const char *stop = newline ? newline : end;
        size_t n = (size_t)(stop - line);
        if (n && line[n - 1] == '\r') n--;
        bool version = line == text->data && begins_with(line, n, "#version");
        if (n && !version && !tokens_merge_pair(b, line, n, file, "merges", e)) return false;
        line = newline ? newline + 1 : end;
    }
    return true;
}

/* Is text one of the special tokens that tokenizer_config.json names? */
static bool is_named_special(const Json *config, const char *text) {
    static const char *const keys[] = {"eos_token", "pad_token", "bos_token", "unk_token"};
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
        const Json *v = field_get(config, keys[i]);
        if (json_is(v, text) || json_is(json_get(v, "content"), text)) return true;
    }
    const Json *more = field_get(config, "additional_special_tokens");
    for (const Json *v = more ? more->child : NULL; v; v = v->next)
        if (json_is(v, text) || json_is(json_get(v, "content"), text)) return true;
    return false;
}

/* added_tokens.json: {"text": id}; which of them are special stands in tokenizer_config.json. */
static bool add_added_json(TokenBuilder *b, const Json *list, const Json *config, const char *file,
                           Error *e) {
    for (const Json *v = list->child; v; v = v->next) {
        int64_t id;
        if (!json_int(v, 0, MAX_VOCAB - 1, &id))
            return fail(e, file, "added_tokens", "expected ids from 0 to %d", MAX_VOCAB - 1);
        if (!tokens_add_special(b, (uint32_t)id, v->key, v->key_len,
                                is_named_special(config, v->key), e))
            return false;
    }
    return true;
}

/* The added tokens of a folder without tokenizer.json. */
static bool add_added_files(TokenBuilder *b, Folder *f, const Json *config, Error *e) {
    const Json *decoder = field_get(config, "added_tokens_decoder");
    if (decoder) {
        const char *file = file_in(f, "tokenizer_config.json");
        for (const Json *v = decoder->child; v; v = v->next) {
            int64_t id;
            if (!v->key || !parse_int(v->key, 0, MAX_VOCAB - 1, &id))
                return fail(e, file, "added_tokens_decoder", "expected ids from 0 to %d",
                            MAX_VOCAB - 1);
            if (!add_added(b, id, v, file, e)) return false;
        }
        return true;
    }
    JsonDoc *list;
    if (!read_optional(f, "added_tokens.json", &list, e)) return false;
    if (!list && !config) /* without them there is nothing to stop at */
        return fail(e, f->folder, "tokenizer_config.json",
                    "missing: vocab.json and merges.txt do not hold the special tokens");
    bool ok = !list || add_added_json(b, json_root(list), config, f->path, e);
    json_free(list);
    return ok;
}

static bool build_from_files(TokenBuilder *b, Folder *f, const Json *config, Error *e) {
    JsonDoc *vocab = read_object(f, "vocab.json", e);
    bool ok = vocab && add_vocab(b, json_root(vocab), f->path, e);
    json_free(vocab);
    Buffer merges = {0};
    ok = ok && read_regular(file_in(f, "merges.txt"), &merges, e) &&
         add_merges_txt(b, &merges, f->path, e) && add_added_files(b, f, config, e);
    buffer_free(&merges);
    return ok;
}

/* Llama's class of tokenizer, which DeepSeek's models made from Qwen2.5 name, puts bos in front of
 * every text where this is true, whatever tokenizer.json holds. Qwen's own class never does. */
static void note_bos(const Json *config, Source *s) {
    const Json *class = field_get(config, "tokenizer_class");
    const Json *bos = field_get(config, "add_bos_token");
    if (class && class->kind == JSON_STRING && strncmp(class->string, "Llama", 5) == 0 && bos &&
        bos->kind == JSON_BOOL && bos->boolean)
        source_note(s, NOTE_BOS);
}

/* config: tokenizer_config.json's root, or NULL */
static bool read_tokenizer(Folder *f, const Json *config, Source *s, Error *e) {
    bool one_file = exists(f, "tokenizer.json");
    if (!one_file && !exists(f, "vocab.json"))
        return fail(e, f->folder, "tokenizer.json", "missing, and there is no vocab.json either");
    TokenBuilder *b = tokens_new(file_in(f, one_file ? "tokenizer.json" : "vocab.json"), e);
    if (!b) return false;
    bool ok;
    if (one_file) {
        JsonDoc *doc = read_object(f, "tokenizer.json", e);
        ok = doc && build_from_json(b, json_root(doc), f->path, e);
        json_free(doc);
    } else {
        ok = build_from_files(b, f, config, e);
    }
    ok = ok && tokens_finish(b, &s->tokenizer, e);
    tokens_free(b);
    note_bos(config, s);
    return ok;
}

/* ---- Chat template --------------------------------------------------------------------------- */

/* The template text in tokenizer_config.json: a text, or the one called "default" of several. */
static const Json *find_template(const Json *config) {
    const Json *v = field_get(config, "chat_template");
    if (!v || v->kind == JSON_STRING) return v;
    for (const Json *t = v->child; t; t = t->next)
        if (json_is(json_get(t, "name"), "default")) return field_get(t, "template");
    return NULL;
}

static bool read_template(Folder *f, const Json *config, Source *s, Error *e) {
    Buffer text = {0};
    const Json *v = find_template(config);
    if (exists(f, "chat_template.jinja")) {
        if (!read_regular(f->path, &text, e)) return false;
    } else {
        file_in(f, "tokenizer_config.json");
        if (v && v->kind == JSON_STRING && !buffer_add(&text, v->string, v->string_len, e))
            return false;
    }
    bool ok = true;
    if (text.n)
        ok = source_set_template(s, text.data, text.n, f->path, e);
    else
        snprintf(s->chat_note, sizeof s->chat_note,
                 "no chat_template.jinja, and none in tokenizer_config.json");
    if (text.n && !exists(f, "generation_config.json")) source_note(s, NOTE_GREEDY);
    buffer_free(&text);
    return ok;
}

/* ---- Weights --------------------------------------------------------------------------------- */

/* Rotary tables, which old checkpoints carry: they follow from the configuration. */
static bool is_ignored(const char *name) { return ends_with(name, ".rotary_emb.inv_freq"); }

/* The model's tensor of this name, which must be one. */
static SourceTensor *need_tensor(const Source *s, const char *name, const char *path, Error *e) {
    for (size_t i = 0; i < s->n_tensors; i++)
        if (strcmp(s->tensors[i].name, name) == 0) return &s->tensors[i];
    fail(e, path, name, "unknown tensor: a %u-layer Qwen2 has none of this name",
         s->header.config.num_hidden_layers);
    return NULL;
}

/* Enter the tensors of file number `file` into s->tensors, whose empty offsets mark what is
 * missing. weight_map: the index's, or NULL. None is there twice: a file names each once, and the
 * index places it in one file. */
static bool take_tensors(Source *s, uint32_t file, const StFile *st, const Json *weight_map,
                         const char *path, Error *e) {
    for (size_t i = 0; i < st->n; i++) {
        const StTensor *t = &st->tensors[i];
        if (is_ignored(t->name)) continue;
        SourceTensor *want = need_tensor(s, t->name, path, e);
        if (!want) return false;
        if (weight_map && !json_is(json_get(weight_map, t->name), s->file_names[file]))
            return fail(e, path, t->name, "the index does not place this tensor in this file");
        if (!safetensors_expect(t, want->rows, want->cols, path, e)) return false;
        want->type = t->type;
        want->file = file;
        want->offset = t->offset;
    }
    return true;
}

static bool same_weights(const Source *s, const SourceTensor *a, const SourceTensor *b) {
    if (a->type != b->type) return false;
    size_t row_bytes = source_row_bytes(a->type, a->cols), step = (16u << 20) / row_bytes + 1;
    bool same = true;
    for (size_t r = 0, n; same && r < a->rows; r += n) {
        n = min_size(a->rows - r, step);
        same = memcmp(s->files[a->file].data + a->offset + r * row_bytes,
                      s->files[b->file].data + b->offset + r * row_bytes, n * row_bytes) == 0;
        source_drop_rows(s, a, r, n);
        source_drop_rows(s, b, r, n);
    }
    return same;
}

/* When head and embedding are one matrix, a checkpoint may hold either, or both. A head with other
 * weights was trained apart, or an adapter was merged into it: it counts, as for transformers,
 * whatever the configuration still says. */
static void tie_head(Source *s) {
    SourceTensor *embedding = &s->tensors[0], *head = &s->tensors[s->n_tensors - 1];
    if (!s->header.config.tie_word_embeddings) return;
    if (head->offset && embedding->offset && !same_weights(s, embedding, head)) {
        s->header.config.tie_word_embeddings = 0;
        source_note(s, "lm_head.weight is kept: it differs from the embedding that "
                       "tie_word_embeddings says to use instead");
        return;
    }
    if (!embedding->offset) {
        embedding->type = head->type;
        embedding->file = head->file;
        embedding->offset = head->offset;
    }
    s->n_tensors--;
}

static bool read_weights(Folder *f, Source *s, const Json *weight_map, Error *e) {
    for (uint32_t i = 0; i < s->n_files; i++) {
        const char *path = file_in(f, s->file_names[i]);
        StFile st;
        if (!map_open(&s->files[i], path, e) || !safetensors_read(&s->files[i], path, &st, e))
            return false;
        bool ok = take_tensors(s, i, &st, weight_map, path, e);
        free(st.tensors);
        if (!ok) return false;
    }
    tie_head(s);
    for (size_t k = 0; k < s->n_tensors; k++)
        if (!s->tensors[k].offset)
            return fail(e, f->folder, s->tensors[k].name, "the tensor is missing in the weights");
    return true;
}

/* A name from the index must be that of a file in the folder itself. (Links are followed: the cache
 * of Hugging Face's own tools consists of them.) */
static bool list_shards(const Json *weight_map, Source *s, const char *path, Error *e) {
    if (!weight_map || weight_map->kind != JSON_OBJECT || weight_map->n == 0 ||
        weight_map->n > MAX_TENSORS)
        return fail(e, path, "weight_map", "expected an object with 1 to %d tensors", MAX_TENSORS);
    for (const Json *v = weight_map->child; v; v = v->next) {
        if (v->kind != JSON_STRING || v->string_len == 0 || v->string_len > 255)
            return fail(e, path, "weight_map", "expected file names, got %.*s", shown_len(v),
                        v->source);
        if (memchr(v->string, '/', v->string_len) || memchr(v->string, 0, v->string_len) ||
            v->string[0] == '.')
            return fail(e, path, "weight_map", "%.*s leaves the model directory", shown_len(v),
                        v->source);
        if (!source_add_file(s, v->string, v->string_len, e)) return false;
    }
    return true;
}

/* The index names the model's tensors alone; that they are in their files is found out there. */
static bool check_index(const Json *weight_map, const Source *s, const char *path, Error *e) {
    for (const Json *v = weight_map->child; v; v = v->next)
        if (!is_ignored(v->key) && !need_tensor(s, v->key, path, e)) return false;
    return true;
}

/* only: the weights file that the user named, or NULL */
static bool open_weights(Folder *f, const char *only, Source *s, Error *e) {
    static const char index_name[] = "model.safetensors.index.json";
    const Json *weight_map = NULL;
    JsonDoc *doc = NULL;
    ModelConfig untied = s->header.config;
    untied.tie_word_embeddings = 0; /* the head has a place, whether it counts or not */
    if (!expected_tensors(&untied, &s->tensors, &s->n_tensors, e)) return false;
    const char *single = only ? only : "model.safetensors";
    bool shard = only && strncmp(only, "model-", 6) == 0 && exists(f, index_name);
    if (!shard && exists(f, single)) {
        if (!source_add_file(s, single, strlen(single), e)) return false;
    } else if (exists(f, index_name)) {
        doc = read_object(f, index_name, e);
        if (!doc) return false;
        weight_map = json_get(json_root(doc), "weight_map");
        if (!list_shards(weight_map, s, f->path, e) || !check_index(weight_map, s, f->path, e)) {
            json_free(doc);
            return false;
        }
    } else if (exists(f, "pytorch_model.bin") || exists(f, "pytorch_model.bin.index.json")) {
        return fail(e, f->folder, "model.safetensors",
                    "missing: there is only pytorch_model.bin, a pickle (make safetensors with "
                    "save_pretrained(DIR, safe_serialization=True))");
    } else {
        return fail(e, f->folder, "model.safetensors", "missing, and there is no %s", index_name);
    }
    bool ok = read_weights(f, s, weight_map, e);
    json_free(doc);
    return ok;
}

/* ---- The whole folder ------------------------------------------------------------------------ */

/* Cut path into a folder and, when it is a file, its name. What stat takes is below PATH_MAX. */
static bool split_path(const char *path, Folder *f, const char **only, Error *e) {
    struct stat st;
    if (stat(path, &st) != 0) return fail_errno(e, path, "cannot open");
    size_t n = strlen(path);
    *only = NULL;
    if (!S_ISDIR(st.st_mode)) {
        const char *slash = strrchr(path, '/');
        *only = slash ? slash + 1 : path;
        n = (size_t)(*only - path);
    }
    while (n > 1 && path[n - 1] == '/') n--;
    snprintf(f->folder, sizeof f->folder, "%.*s", n ? (int)n : 1, n ? path : ".");
    return true;
}

static bool read_folder(Folder *f, const char *only, Source *s, Error *e) {
    JsonDoc *config = NULL;
    bool ok = read_settings(f, s, e) && read_optional(f, "tokenizer_config.json", &config, e);
    if (ok) {
        const Json *c = config ? json_root(config) : NULL;
        ok = read_tokenizer(f, c, s, e) && read_template(f, c, s, e) && open_weights(f, only, s, e);
    }
    json_free(config);
    ModelHeader *h = &s->header;
    if (!ok) return false;
    source_folder_name(f->folder, h->name, sizeof h->name);
    const char *from = only ? only : h->name;
    printable(h->source, sizeof h->source, from, strlen(from));
    return true;
}

bool hf_open(const char *path, Source *s, Error *e) {
    *s = (Source){0};
    snprintf(s->path, sizeof s->path, "%s", path);
    const char *only = NULL;
    Folder *f = alloc_array(e, "folder", 1, sizeof *f);
    bool ok = f && split_path(path, f, &only, e) && read_folder(f, only, s, e);
    free(f);
    if (!ok) source_close(s);
    return ok;
}
