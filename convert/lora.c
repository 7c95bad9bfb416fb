/* lora.c: a PEFT adapter, added to the weights as they are read.
 *
 *   adapter_config.json         r, lora_alpha, use_rslora: scale = alpha / r, or alpha / sqrt(r)
 *   adapter_model.safetensors   for every touched matrix W (rows, cols): A (r, cols), B (rows, r)
 *
 *   W[n][k] += scale * sum over j of B[n][j] A[j][k]
 *
 * A and B stay in the mapped file and are read as floats in passing. Everything that an adapter can
 * hold beyond plain LoRA is refused by its name. */
#include <math.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "safetensors.h"

#define MAX_CONFIG (1u << 20)
#define PATCH_COLS 256 /* columns that are summed up at a time */

typedef struct {
    const uint8_t *data; /* as stored; NULL: none */
    SourceType type;
} Factor;

/* What is added to one tensor, if anything is. */
typedef struct {
    Factor a, b; /* (rank, cols), (rows, rank) */
} Part;

struct Lora {
    const Source *source;
    Map map, config; /* adapter_model.safetensors, adapter_config.json */
    char name[128];
    uint32_t rank;
    double alpha;
    bool root_scale; /* rslora */
    Part *parts;     /* (source->n_tensors) */
};

/* ---- adapter_config.json --------------------------------------------------------------------- */

/* Is a member switched off: absent, null, false, or empty? */
static bool is_off(const Json *c, const char *key) {
    const Json *v = field_get(c, key);
    if (!v) return true;
    return v->kind == JSON_BOOL ? !v->boolean
                                : (v->kind == JSON_ARRAY || v->kind == JSON_OBJECT) && v->n == 0;
}

/* How the adapter began: a way that starts from changed base weights does not fit the original
 * ones, and a new way might. */
static bool check_init(const Json *init, const char *file, Error *e) {
    static const char *const changed[] = {"pissa", "olora", "corda", "loftq"};
    static const char *const plain[] = {"gaussian", "eva", "orthogonal"};
    if (!init || init->kind == JSON_BOOL) return true;
    for (size_t i = 0; i < sizeof plain / sizeof plain[0]; i++)
        if (json_is(init, plain[i])) return true;
    for (size_t i = 0; init->kind == JSON_STRING && i < sizeof changed / sizeof changed[0]; i++)
        if (strncmp(init->string, changed[i], strlen(changed[i])) == 0)
            return fail(e, file, "init_lora_weights",
                        "%s is unsupported: it changes the base weights", changed[i]);
    return fail(e, file, "init_lora_weights",
                "%.*s is unsupported, expected true, false, gaussian, eva or orthogonal",
                shown_len(init), init->source);
}

static bool check_plain(const Json *c, const char *file, Error *e) {
    static const char *const off[] = {
        "fan_in_fan_out",    "lora_bias",         "modules_to_save",         "rank_pattern",
        "alpha_pattern",     "layer_replication", "trainable_token_indices",
        "target_parameters", "megatron_config",
    };
    if (!json_is(json_get(c, "peft_type"), "LORA"))
        return fail(e, file, "peft_type", "expected \"LORA\" (others are unsupported)");
    for (size_t i = 0; i < sizeof off / sizeof off[0]; i++)
        if (!is_off(c, off[i])) return fail(e, file, off[i], "unsupported: expected none");
    for (const Json *v = c->child; v; v = v->next) /* DoRA, QALoRA, and what comes after them */
        if (strncmp(v->key, "use_", 4) == 0 && strcmp(v->key, "use_rslora") != 0 &&
            !is_off(c, v->key))
            return fail(e, file, v->key, "unsupported: expected none");
    static const char *const null[] = {"arrow_config", "alora_invocation_tokens"};
    for (size_t i = 0; i < sizeof null / sizeof null[0]; i++)
        if (field_get(c, null[i])) return fail(e, file, null[i], "unsupported: expected null");
    if (field_get(c, "bias") && !json_is(json_get(c, "bias"), "none"))
        return fail(e, file, "bias", "unsupported: expected \"none\"");
    return check_init(field_get(c, "init_lora_weights"), file, e);
}

static bool read_config(const char *dir, Lora *l, Error *e) {
    Buffer path = {0};
    if (!buffer_printf(&path, e, "%s/adapter_config.json", dir)) return false;
    bool ok = map_open(&l->config, path.data, e);
    if (ok && l->config.bytes > MAX_CONFIG)
        ok = fail(e, path.data, NULL, "too large, expected at most %u bytes", MAX_CONFIG);
    JsonDoc *doc =
        ok ? json_parse((const char *)l->config.data, l->config.bytes, path.data, e) : NULL;
    const Json *c = doc ? json_root(doc) : NULL;
    ok = doc && check_plain(c, path.data, e);
    if (ok && !field_get(c, "lora_alpha")) ok = fail(e, path.data, "lora_alpha", "missing");
    ok = ok && field_real(c, "lora_alpha", 1e-6, 1e6, &l->alpha, path.data, e) &&
         field_bool(c, "use_rslora", &l->root_scale, path.data, e);
    int64_t rank;
    ok = ok && field_int(c, "r", 1, MAX_HIDDEN, &rank, path.data, e);
    if (ok) l->rank = (uint32_t)rank;
    json_free(doc);
    buffer_free(&path);
    return ok;
}

/* ---- adapter_model.safetensors --------------------------------------------------------------- */

/* Split "base_model.model.NAME.lora_A[.default].weight" into NAME.weight and A or B. */
static bool split_name(const char *name, char tensor[80], char *which) {
    static const char prefix[] = "base_model.model.";
    if (strncmp(name, prefix, sizeof prefix - 1) != 0) return false;
    const char *base = name + sizeof prefix - 1, *lora = strstr(base, ".lora_");
    if (!lora || (size_t)(lora - base) > 79 - strlen(".weight")) return false;
    *which = lora[6];
    const char *rest = *which ? lora + 7 : "";
    snprintf(tensor, 80, "%.*s.weight", (int)(lora - base), base);
    return (*which == 'A' || *which == 'B') &&
           (strcmp(rest, ".weight") == 0 || strcmp(rest, ".default.weight") == 0);
}

static bool check_finite(const Map *m, const StTensor *t, const char *path, Error *e) {
    size_t size = source_row_bytes(t->type, 1), n = t->bytes / size;
    for (size_t i = 0; i < n; i++) {
        float x;
        source_row_to_float(t->type, m->data + t->offset + i * size, 1, &x);
        if (!isfinite(x)) return fail(e, path, t->name, "non-finite value at element %zu", i);
    }
    return true;
}

static bool take_factor(Lora *l, const StTensor *t, const char *path, Error *e) {
    const Source *s = l->source;
    char tensor[80], which;
    if (!split_name(t->name, tensor, &which))
        return fail(e, path, t->name, "expected base_model.model.NAME.lora_A.weight or lora_B");
    size_t i = 0;
    while (i < s->n_tensors && strcmp(s->tensors[i].name, tensor) != 0) i++;
    const SourceTensor *w = &s->tensors[i];
    if (i == s->n_tensors || w->vector || strcmp(tensor, "model.embed_tokens.weight") == 0)
        return fail(e, path, t->name, "the model has no matrix %s that an adapter can change",
                    tensor);
    Factor *factor = which == 'A' ? &l->parts[i].a : &l->parts[i].b;
    if (factor->data) return fail(e, path, t->name, "stands there twice");
    uint32_t rows = which == 'A' ? l->rank : w->rows, cols = which == 'A' ? w->cols : l->rank;
    if (!safetensors_expect(t, rows, cols, path, e) || !check_finite(&l->map, t, path, e))
        return false;
    *factor = (Factor){l->map.data + t->offset, t->type};
    return true;
}

/* Is there only the older form of an adapter's weights? file: the newer one's path. */
static bool check_pickle(const char *dir, const char *file, Error *e) {
    struct stat st;
    Buffer pickle = {0};
    if (lstat(file, &st) == 0) return true;
    if (!buffer_printf(&pickle, e, "%s/adapter_model.bin", dir)) return false;
    bool only = lstat(pickle.data, &st) == 0;
    buffer_free(&pickle);
    if (!only) return true;
    return fail(e, dir, "adapter_model.safetensors",
                "missing: there is only adapter_model.bin, a pickle (make safetensors with "
                "save_pretrained(DIR, safe_serialization=True))");
}

static bool read_adapter(const char *dir, Lora *l, Error *e) {
    const Source *s = l->source;
    Buffer path = {0};
    StFile st = {0};
    bool ok = buffer_printf(&path, e, "%s/adapter_model.safetensors", dir) &&
              check_pickle(dir, path.data, e) && map_open(&l->map, path.data, e) &&
              safetensors_read(&l->map, path.data, &st, e);
    for (size_t i = 0; ok && i < st.n; i++) ok = take_factor(l, &st.tensors[i], path.data, e);
    for (size_t i = 0; ok && i < s->n_tensors; i++)
        if (!l->parts[i].a.data != !l->parts[i].b.data)
            ok = fail(e, path.data, s->tensors[i].name, "expected both lora_A and lora_B, got one");
    if (ok && st.n == 0) ok = fail(e, path.data, NULL, "no adapter tensors");
    free(st.tensors);
    buffer_free(&path);
    return ok;
}

Lora *lora_open(const char *dir, const Source *s, Error *e) {
    struct stat st;
    if (stat(dir, &st) == 0 && !S_ISDIR(st.st_mode)) {
        fail(e, dir, "--lora",
             "expected a folder with adapter_config.json and adapter_model.safetensors");
        return NULL;
    }
    Lora *l = alloc_array(e, "adapter", 1, sizeof *l);
    if (!l) return NULL;
    l->source = s;
    source_folder_name(dir, l->name, sizeof l->name);
    l->parts = alloc_array(e, "adapter", s->n_tensors, sizeof *l->parts);
    if (l->parts && read_config(dir, l, e) && read_adapter(dir, l, e)) return l;
    lora_close(l);
    return NULL;
}

void lora_close(Lora *l) {
    if (!l) return;
    map_close(&l->map);
    map_close(&l->config);
    free(l->parts);
    free(l);
}

const char *lora_name(const Lora *l) { return l->name; }

const Map *lora_file(const Lora *l, size_t i, const char **name) {
    *name = i == 0 ? "adapter_config.json" : "adapter_model.safetensors";
    return i == 0 ? &l->config : &l->map;
}

/* ---- Adding ---------------------------------------------------------------------------------- */

bool lora_touches(const Lora *l, const SourceTensor *t) {
    return l->parts[t - l->source->tensors].a.data != NULL;
}

/* Columns [k, k + n) of one row, w (n), whose row of B is b_row. */
static void add_patch(const Lora *l, const Part *p, size_t cols, const uint8_t *b_row, size_t k,
                      size_t n, float *w) {
    float a[PATCH_COLS], sum[PATCH_COLS] = {0}, b;
    size_t a_size = source_row_bytes(p->a.type, 1), b_size = source_row_bytes(p->b.type, 1);
    for (size_t j = 0; j < l->rank; j++) {
        source_row_to_float(p->b.type, b_row + j * b_size, 1, &b);
        source_row_to_float(p->a.type, p->a.data + (j * cols + k) * a_size, n, a);
        for (size_t i = 0; i < n; i++) sum[i] += b * a[i];
    }
    float scale = (float)(l->alpha / (l->root_scale ? sqrt((double)l->rank) : (double)l->rank));
    for (size_t i = 0; i < n; i++) w[i] += scale * sum[i];
}

void lora_add(const Lora *l, const SourceTensor *t, size_t first, size_t n, float *rows) {
    if (!lora_touches(l, t)) return;
    const Part *p = &l->parts[t - l->source->tensors];
    size_t b_row_bytes = source_row_bytes(p->b.type, l->rank);
    for (size_t r = 0; r < n; r++)
        for (size_t k = 0; k < t->cols; k += PATCH_COLS)
            add_patch(l, p, t->cols, p->b.data + (first + r) * b_row_bytes, k,
                      min_size(PATCH_COLS, t->cols - k), rows + r * t->cols + k);
}
