/* safetensors.c: the safetensors format: eight bytes N, a JSON object of N bytes, then the data.
 *
 *   {"NAME": {"dtype": "BF16", "shape": [4864, 896], "data_offsets": [begin, end]}, ...,
 *    "__metadata__": {"key": "text", ...}}
 *
 * Offsets count from the end of the JSON. The format demands that the data has no holes and no
 * overlaps and ends with the file; all of that is checked, so a damaged or cut file never loads. */
#include "safetensors.h"

#include <stdlib.h>

#define MAX_HEADER 100000000u

typedef struct {
    const char *name;
    uint32_t bits;
    int type; /* SourceType, or -1: known, but nothing we can read */
} Dtype;

static const Dtype *find_dtype(const Json *v) {
    static const Dtype known[] = {
        {"F32", 32, SRC_F32}, {"F16", 16, SRC_F16}, {"BF16", 16, SRC_BF16}, {"F64", 64, -1},
        {"I64", 64, -1},      {"U64", 64, -1},      {"I32", 32, -1},        {"U32", 32, -1},
        {"I16", 16, -1},      {"U16", 16, -1},      {"I8", 8, -1},          {"U8", 8, -1},
        {"BOOL", 8, -1},      {"F8_E4M3", 8, -1},   {"F8_E5M2", 8, -1},
    };
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
        if (json_is(v, known[i].name)) return &known[i];
    return NULL;
}

/* A whole number written with digits alone, at most 2^53. */
static bool read_count(const Json *v, uint64_t *out) {
    int64_t value;
    if (!v || v->kind != JSON_NUMBER) return false;
    for (size_t i = 0; i < v->source_len; i++)
        if (v->source[i] < '0' || v->source[i] > '9') return false;
    if (!json_int(v, 0, INT64_C(1) << 53, &value)) return false;
    *out = (uint64_t)value;
    return true;
}

/* shape and dtype -> dims and bytes */
static bool read_shape(const Json *shape, uint32_t bits, StTensor *t, const char *path, Error *e) {
    if (!shape || shape->kind != JSON_ARRAY || shape->n > sizeof t->dims / sizeof t->dims[0])
        return fail(e, path, t->name, "shape: expected up to %zu sizes",
                    sizeof t->dims / sizeof t->dims[0]);
    size_t bytes = bits / 8;
    for (const Json *d = shape->child; d; d = d->next) {
        uint64_t size;
        if (!read_count(d, &size) || size == 0)
            return fail(e, path, t->name, "shape: expected whole numbers above 0, got %.*s",
                        shown_len(d), d->source);
        if (!mul_ok(bytes, size, &bytes)) return fail(e, path, t->name, "shape: too large");
        t->dims[t->n_dims++] = size;
    }
    t->bytes = bytes;
    return true;
}

/* One member of the header; `room` bytes of data follow the header, which ends at `base`. */
static bool read_tensor(const Json *v, uint64_t base, uint64_t room, StTensor *t, const char *path,
                        Error *e) {
    if (v->key_len == 0 || v->key_len >= sizeof t->name || memchr(v->key, 0, v->key_len))
        return fail(e, path, NULL, "expected tensor names of 1 to %zu characters, got %zu",
                    sizeof t->name - 1, v->key_len);
    memcpy(t->name, v->key, v->key_len);
    if (v->kind != JSON_OBJECT) return fail(e, path, t->name, "expected an object");
    const Json *written = json_get(v, "dtype");
    const Dtype *dtype = find_dtype(written);
    if (!dtype)
        return fail(e, path, t->name, "dtype: unknown %.*s", written ? shown_len(written) : 4,
                    written ? written->source : "none");
    snprintf(t->dtype, sizeof t->dtype, "%s", dtype->name);
    t->readable = dtype->type >= 0;
    if (t->readable) t->type = (SourceType)dtype->type;
    if (!read_shape(json_get(v, "shape"), dtype->bits, t, path, e)) return false;
    const Json *offsets = json_get(v, "data_offsets");
    uint64_t begin, end;
    if (!offsets || offsets->kind != JSON_ARRAY || offsets->n != 2 ||
        !read_count(offsets->child, &begin) || !read_count(offsets->child->next, &end))
        return fail(e, path, t->name, "data_offsets: expected two whole numbers");
    if (begin > end || end > room)
        return fail(e, path, t->name,
                    "data_offsets: expected an ascending pair up to %llu, got [%llu,%llu]%s",
                    (unsigned long long)room, (unsigned long long)begin, (unsigned long long)end,
                    begin > end ? "" : " (an incomplete download?)");
    if (end - begin != t->bytes)
        return fail(e, path, t->name, "data_offsets: dtype and shape need %llu bytes, got %llu",
                    (unsigned long long)t->bytes, (unsigned long long)(end - begin));
    t->offset = base + begin;
    return true;
}

static bool check_metadata(const Json *v, const char *path, Error *e) {
    if (v->kind != JSON_OBJECT) return fail(e, path, "__metadata__", "expected an object");
    for (const Json *m = v->child; m; m = m->next)
        if (m->kind != JSON_STRING) return fail(e, path, "__metadata__", "expected texts");
    return true;
}

static int by_offset(const void *a, const void *b) {
    const StTensor *x = a, *y = b;
    return (x->offset > y->offset) - (x->offset < y->offset);
}

/* Sorted by offset the tensors must be a seamless row from `base` to `end`. */
static bool check_seamless(StFile *st, uint64_t base, uint64_t end, const char *path, Error *e) {
    qsort(st->tensors, st->n, sizeof *st->tensors, by_offset);
    uint64_t at = base;
    for (size_t i = 0; i < st->n; i++) {
        const StTensor *t = &st->tensors[i];
        if (t->offset != at)
            return fail(e, path, t->name, "data_offsets: %s before it, expected %llu, got %llu",
                        t->offset < at ? "overlaps the tensor" : "there is a hole",
                        (unsigned long long)(at - base), (unsigned long long)(t->offset - base));
        at += t->bytes;
    }
    if (at != end)
        return fail(e, path, "size", "the tensors end at %llu, the file at %llu",
                    (unsigned long long)at, (unsigned long long)end);
    return true;
}

static bool read_members(const Json *root, const Map *m, uint64_t base, StFile *st,
                         const char *path, Error *e) {
    if (root->n == 0 || root->n > MAX_TENSORS)
        return fail(e, path, "header", "expected 1 to %d tensors, got %zu", MAX_TENSORS, root->n);
    st->tensors = alloc_array(e, "tensors", root->n, sizeof *st->tensors);
    if (!st->tensors) return false;
    for (const Json *v = root->child; v; v = v->next) {
        if (v->key_len == 12 && memcmp(v->key, "__metadata__", 12) == 0) {
            if (!check_metadata(v, path, e)) return false;
        } else if (!read_tensor(v, base, m->bytes - base, &st->tensors[st->n++], path, e)) {
            return false;
        }
    }
    return check_seamless(st, base, m->bytes, path, e);
}

bool safetensors_read(const Map *m, const char *path, StFile *st, Error *e) {
    *st = (StFile){0};
    const char *what = looks_like(m->data, m->bytes);
    if (what) return fail(e, path, NULL, "expected safetensors, got %s", what);
    if (m->bytes < 10) return fail(e, path, "size", "expected 10 bytes or more, got %zu", m->bytes);
    uint64_t n = 0;
    for (int i = 7; i >= 0; i--) n = n << 8 | m->data[i];
    if (n < 2 || n > MAX_HEADER || n > m->bytes - 8)
        return fail(e, path, "header", "expected a length from 2 to %zu, got %llu%s",
                    min_size(MAX_HEADER, m->bytes - 8), (unsigned long long)n,
                    n <= MAX_HEADER ? " (an incomplete download?)" : "");
    const char *text = (const char *)m->data + 8;
    size_t len = (size_t)n;
    if (text[0] != '{') return fail(e, path, "header", "expected { at its start");
    while (text[len - 1] == ' ') len--; /* the padding that the format allows; { ends it */
    if (text[len - 1] != '}') return fail(e, path, "header", "expected } and spaces at its end");
    JsonDoc *doc = json_parse(text, len, path, e);
    bool ok = doc && read_members(json_root(doc), m, 8 + n, st, path, e);
    json_free(doc);
    if (ok) return true;
    free(st->tensors);
    *st = (StFile){0};
    return false;
}

bool safetensors_expect(const StTensor *t, uint32_t rows, uint32_t cols, const char *path,
                        Error *e) {
    if (!t->readable)
        return fail(e, path, t->name, "dtype: expected F32, F16 or BF16, got %s (unsupported)",
                    t->dtype);
    bool vector = rows == 1 && t->n_dims == 1 && t->dims[0] == cols;
    if (vector || (t->n_dims == 2 && t->dims[0] == rows && t->dims[1] == cols)) return true;
    char got[200] = "";
    size_t n = 0;
    for (size_t i = 0; i < t->n_dims; i++) /* 8 of 20 digits and " x " at most */
        n += (size_t)snprintf(got + n, sizeof got - n, "%s%llu", i ? " x " : "",
                              (unsigned long long)t->dims[i]);
    return fail(e, path, t->name, "shape: the configuration implies %u x %u, the file has %s", rows,
                cols, t->n_dims ? got : "a single number");
}
