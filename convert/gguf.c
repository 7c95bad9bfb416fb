/* gguf.c: a GGUF file (versions 2 and 3, little endian) of the architecture qwen2 -> Source.
 *
 *   "GGUF", version, number of tensors, number of metadata entries
 *   metadata     key, type, value; read whole and checked before any of it is used, then looked up
 *                by typed getters
 *   tensors      name, dimensions (columns first), type, offset from the start of the data
 *   data         aligned; tensor follows tensor, in the order of the table, with nothing between
 *                but the padding, and nothing behind
 *
 * A model may lie in several such files, NAME-00001-of-00003.gguf and so on. The first one has the
 * metadata; in the others split.no, split.count and the tables and data of their tensors count.
 *
 * Every count is compared with the bytes that remain before it is used. What would change the
 * model's results and is not implemented is refused by its name. */
#include <stdlib.h>

#include "convert.h"

#define MAX_ENTRIES 65536
#define MAX_KEY 256
#define MAX_NAME 64
#define SHOWN 80 /* room for a key or name in an error */

/* Types of metadata values. */
enum {
    V_U8, V_I8, V_U16, V_I16, V_U32, V_I32, V_F32, V_BOOL, V_STRING, V_ARRAY, V_U64, V_I64, V_F64,
    N_VALUE_TYPES
};
static const char *const value_names[N_VALUE_TYPES] = {
    "u8", "i8", "u16", "i16", "u32", "i32", "f32", "bool", "string", "array", "u64", "i64", "f64"};

typedef struct {
    const char *key; /* (key_len) in the map */
    size_t key_len;
    uint32_t type; /* of the value; of an array's elements */
    bool array;
    uint64_t count;      /* elements of an array */
    const uint8_t *data; /* (bytes) the value, a string without its length; an array's elements */
    size_t bytes;
} Entry;

typedef struct {
    const char *name; /* (name_len) in the map */
    size_t name_len;
    uint64_t cols, rows;
    uint32_t n_dims, type;
    uint64_t offset; /* from the start of the data; of the file, once that is checked */
    uint32_t file;   /* index into Source.files */
    bool used;
} Info;

typedef struct {
    const char *path;
    const uint8_t *data; /* (n) the whole file */
    size_t n, pos;
    Entry *entries; /* (n_entries) sorted by key */
    size_t n_entries;
    Info *infos; /* (n_infos) in the file's order; sorted by name once that is checked */
    size_t n_infos;
    size_t data_start;
    uint32_t part, n_parts; /* this file's number, from 0; of how many */
} Gguf;

/* ---- Cursor ---------------------------------------------------------------------------------- */

/* The next n bytes, or NULL. */
static const uint8_t *take(Gguf *g, const char *field, size_t n, Error *e) {
    if (n > g->n - g->pos) {
        fail(e, g->path, field, "the file ends early: expected %zu more bytes, got %zu", n,
             g->n - g->pos);
        return NULL;
    }
    const uint8_t *p = g->data + g->pos;
    g->pos += n;
    return p;
}

static bool take_u32(Gguf *g, const char *field, uint32_t *out, Error *e) {
    const uint8_t *p = take(g, field, sizeof *out, e);
    if (p == NULL) return false;
    memcpy(out, p, sizeof *out);
    return true;
}

static bool take_u64(Gguf *g, const char *field, uint64_t *out, Error *e) {
    const uint8_t *p = take(g, field, sizeof *out, e);
    if (p == NULL) return false;
    memcpy(out, p, sizeof *out);
    return true;
}

/* A number of things that take at least `least` bytes each: no more than the file can hold. */
static bool take_count(Gguf *g, const char *field, size_t least, uint64_t most, uint64_t *out,
                       Error *e) {
    if (!take_u64(g, field, out, e)) return false;
    size_t fit = (g->n - g->pos) / least;
    if (*out <= fit && *out <= most) return true;
    return fail(e, g->path, field, "expected at most %llu, got %llu",
                (unsigned long long)(fit < most ? fit : most), (unsigned long long)*out);
}

static bool take_string(Gguf *g, const char *field, size_t most, const char **text, size_t *n,
                        Error *e) {
    uint64_t len = 0;
    if (!take_u64(g, field, &len, e)) return false;
    if (len > most)
        return fail(e, g->path, field, "expected a text of at most %zu bytes, got %llu", most,
                    (unsigned long long)len);
    *n = (size_t)len;
    return (*text = (const char *)take(g, field, *n, e)) != NULL;
}

/* ---- Metadata: reading ----------------------------------------------------------------------- */

static size_t value_size(uint32_t type) { /* 0: no plain value */
    static const uint8_t size[N_VALUE_TYPES] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
    return type < N_VALUE_TYPES ? size[type] : 0;
}

/* n values of the entry's type, from here on. */
static bool take_values(Gguf *g, const char *field, Entry *v, uint64_t n, Error *e) {
    const char *text;
    size_t len, size = value_size(v->type);
    v->data = g->data + g->pos;
    v->bytes = 0;
    if (v->type == V_STRING) {
        for (uint64_t i = 0; i < n; i++)
            if (!take_string(g, field, 1u << 24, &text, &len, e)) return false;
        v->bytes = g->pos - (size_t)(v->data - g->data);
        return true;
    }
    if (size == 0)
        return fail(e, g->path, field, "expected a value of a known type, got type %u%s", v->type,
                    v->type == V_ARRAY ? " (an array of arrays)" : "");
    /* n came through take_count: n * size fits */
    v->bytes = (size_t)n * size;
    v->data = take(g, field, v->bytes, e);
    if (v->data == NULL) return false;
    for (size_t i = 0; v->type == V_BOOL && i < v->bytes; i++)
        if (v->data[i] > 1) return fail(e, g->path, field, "expected 0 or 1, got %u", v->data[i]);
    return true;
}

static bool take_entry(Gguf *g, Entry *v, Error *e) {
    char field[SHOWN];
    if (!take_string(g, "metadata key", MAX_KEY, &v->key, &v->key_len, e)) return false;
    printable(field, sizeof field, v->key, v->key_len);
    if (v->key_len == 0) return fail(e, g->path, "metadata key", "empty");
    for (size_t i = 0; i < v->key_len; i++) {
        if (v->key[i] < '!' || v->key[i] > '~')
            return fail(e, g->path, "metadata key", "expected plain characters, got \"%s\"", field);
    }
    if (!take_u32(g, field, &v->type, e)) return false;
    v->array = v->type == V_ARRAY;
    v->count = 1;
    if (v->array) {
        if (!take_u32(g, field, &v->type, e)) return false;
        size_t least = v->type == V_STRING ? 8 : max_size(1, value_size(v->type));
        if (!take_count(g, field, least, UINT64_MAX, &v->count, e)) return false;
    }
    if (!take_values(g, field, v, v->count, e)) return false;
    if (v->type == V_STRING && !v->array) {
        v->data += 8;
        v->bytes -= 8;
    }
    return true;
}

/* An error about a key, or the name of a tensor. */
static bool refuse(const Gguf *g, const char *name, size_t n, const char *why, Error *e) {
    char field[SHOWN];
    printable(field, sizeof field, name, n);
    return fail(e, g->path, field, "%s", why);
}

static int by_key(const void *a, const void *b) {
    const Entry *x = a, *y = b;
    return compare_bytes(x->key, x->key_len, y->key, y->key_len);
}

static bool read_metadata(Gguf *g, Error *e) {
    g->entries = alloc_array(e, "metadata", g->n_entries, sizeof *g->entries);
    if (g->entries == NULL) return false;
    for (size_t i = 0; i < g->n_entries; i++)
        if (!take_entry(g, &g->entries[i], e)) return false;
    qsort(g->entries, g->n_entries, sizeof *g->entries, by_key);
    for (size_t i = 1; i < g->n_entries; i++)
        if (by_key(&g->entries[i - 1], &g->entries[i]) == 0)
            return refuse(g, g->entries[i].key, g->entries[i].key_len, "stands there twice", e);
    return true;
}

/* ---- Metadata: typed getters ----------------------------------------------------------------- */

static const Entry *find(const Gguf *g, const char *key) {
    Entry wanted = {.key = key, .key_len = strlen(key)};
    return bsearch(&wanted, g->entries, g->n_entries, sizeof wanted, by_key);
}

static bool has(const Gguf *g, const char *key) { return find(g, key) != NULL; }

static const char *value_type_name(const Entry *v) {
    return value_names[v->array ? V_ARRAY : v->type];
}

/* The entry, which must be there. */
static const Entry *need(const Gguf *g, const char *key, Error *e) {
    const Entry *v = find(g, key);
    if (v == NULL) fail(e, g->path, key, "missing");
    return v;
}

static bool get_int(const Gguf *g, const char *key, int64_t low, int64_t high, int64_t *out,
                    Error *e) {
    const Entry *v = need(g, key, e);
    if (v == NULL) return false;
    uint64_t raw = 0;
    bool is_signed = v->type == V_I8 || v->type == V_I16 || v->type == V_I32 || v->type == V_I64;
    bool is_int = is_signed || v->type <= V_U32 || v->type == V_U64;
    if (v->array || !is_int)
        return fail(e, g->path, key, "expected a whole number, got type %s", value_type_name(v));
    memcpy(&raw, v->data, v->bytes);
    uint64_t sign = (uint64_t)1 << (8 * v->bytes - 1);
    if (is_signed && raw & sign) raw |= ~(sign - 1);
    if (!is_signed && raw > INT64_MAX)
        return fail(e, g->path, key, "expected %lld to %lld, got %llu", (long long)low,
                    (long long)high, (unsigned long long)raw);
    *out = (int64_t)raw;
    if (*out >= low && *out <= high) return true;
    return fail(e, g->path, key, "expected %lld to %lld, got %lld", (long long)low, (long long)high,
                (long long)*out);
}

/* The same with *out left alone when the key is absent. */
static bool get_int_if(const Gguf *g, const char *key, int64_t low, int64_t high, int64_t *out,
                       Error *e) {
    return !has(g, key) || get_int(g, key, low, high, out, e);
}

static bool get_u32(const Gguf *g, const char *key, uint32_t low, uint32_t high, uint32_t *out,
                    Error *e) {
    int64_t value = 0;
    if (!get_int(g, key, low, high, &value, e)) return false;
    *out = (uint32_t)value;
    return true;
}

/* NaN is outside of every range. */
static bool get_real(const Gguf *g, const char *key, double low, double high, double *out,
                     Error *e) {
    const Entry *v = need(g, key, e);
    if (v == NULL) return false;
    float single;
    if (v->array || (v->type != V_F32 && v->type != V_F64))
        return fail(e, g->path, key, "expected a real number, got type %s", value_type_name(v));
    if (v->type == V_F64) {
        memcpy(out, v->data, sizeof *out);
    } else {
        memcpy(&single, v->data, sizeof single);
        *out = (double)single;
    }
    if (*out >= low && *out <= high) return true;
    return fail(e, g->path, key, "expected %g to %g, got %g", low, high, *out);
}

static bool get_real_if(const Gguf *g, const char *key, double low, double high, double *out,
                        Error *e) {
    return !has(g, key) || get_real(g, key, low, high, out, e);
}

static bool get_text(const Gguf *g, const char *key, const char **text, size_t *n, Error *e) {
    const Entry *v = need(g, key, e);
    if (v == NULL) return false;
    if (v->array || v->type != V_STRING)
        return fail(e, g->path, key, "expected a string, got type %s", value_type_name(v));
    *text = (const char *)v->data;
    *n = v->bytes;
    return true;
}

/* Has the string this very value? */
static bool is_text(const Gguf *g, const char *key, const char *wanted) {
    const Entry *v = find(g, key);
    return v && !v->array && v->type == V_STRING &&
           compare_bytes((const char *)v->data, v->bytes, wanted, strlen(wanted)) == 0;
}

/* The string must have this very value. */
static bool need_text(const Gguf *g, const char *key, const char *wanted, Error *e) {
    const char *text = NULL;
    size_t n = 0;
    if (!get_text(g, key, &text, &n, e)) return false;
    if (is_text(g, key, wanted)) return true;
    char shown[SHOWN];
    printable(shown, sizeof shown, text, n);
    return fail(e, g->path, key, "%s is not supported, expected %s", shown, wanted);
}

/* A switch; *out is left alone when the key is absent. */
static bool get_bool_if(const Gguf *g, const char *key, bool *out, Error *e) {
    const Entry *v = find(g, key);
    if (v == NULL) return true;
    if (v->array || v->type != V_BOOL)
        return fail(e, g->path, key, "expected a bool, got type %s", value_type_name(v));
    *out = v->data[0] != 0;
    return true;
}

/* A switch that must be absent or off. */
static bool need_off(const Gguf *g, const char *key, Error *e) {
    bool on = false;
    if (!get_bool_if(g, key, &on, e)) return false;
    return !on || fail(e, g->path, key, "true is not supported, expected false");
}

static const Entry *get_array(const Gguf *g, const char *key, uint32_t type, const char *what,
                              Error *e) {
    const Entry *v = need(g, key, e);
    if (v == NULL || (v->array && v->type == type)) return v;
    fail(e, g->path, key, "expected an array of %s, got %s %s", what, v->array ? "one of" : "type",
         value_names[v->type]);
    return NULL;
}

/* The next string of an array that read_metadata has walked through. */
static const char *next_string(const uint8_t **p, size_t *n) {
    uint64_t len;
    memcpy(&len, *p, sizeof len);
    const char *text = (const char *)*p + sizeof len;
    *p += sizeof len + len;
    *n = (size_t)len;
    return text;
}

/* ---- Tensors --------------------------------------------------------------------------------- */

static bool take_info(Gguf *g, Info *t, Error *e) {
    char field[SHOWN];
    uint64_t dims[2] = {1, 1};
    if (!take_string(g, "tensor name", MAX_NAME, &t->name, &t->name_len, e)) return false;
    if (t->name_len == 0) return fail(e, g->path, "tensor name", "empty");
    printable(field, sizeof field, t->name, t->name_len);
    if (!take_u32(g, field, &t->n_dims, e)) return false;
    if (t->n_dims < 1 || t->n_dims > 2)
        return fail(e, g->path, field, "expected 1 or 2 dimensions, got %u", t->n_dims);
    for (uint32_t i = 0; i < t->n_dims; i++)
        if (!take_u64(g, field, &dims[i], e)) return false;
    t->cols = dims[0];
    t->rows = dims[1];
    if (t->cols < 1 || t->cols > MAX_VOCAB || t->rows < 1 || t->rows > MAX_VOCAB)
        return fail(e, g->path, field, "expected dimensions from 1 to %d, got %llu x %llu",
                    MAX_VOCAB, (unsigned long long)t->cols, (unsigned long long)t->rows);
    return take_u32(g, field, &t->type, e) && take_u64(g, field, &t->offset, e);
}

/* Bytes of the tensor's data: its type must be one that we can decode. Neither dimension is above
 * MAX_VOCAB, so they fit. */
static bool info_bytes(const Gguf *g, const Info *t, const char *field, size_t *bytes, Error *e) {
    uint32_t weights, block;
    const char *type = source_type_name(t->type);
    if (type == NULL) return fail(e, g->path, field, "type %u is unknown", t->type);
    if (!source_type_block(t->type, &weights, &block))
        return fail(e, g->path, field, "type %s is not supported", type);
    if (t->cols % weights != 0)
        return fail(e, g->path, field, "type %s: expected columns in multiples of %u, got %llu",
                    type, weights, (unsigned long long)t->cols);
    *bytes = source_row_bytes((SourceType)t->type, (size_t)t->cols) * (size_t)t->rows;
    return true;
}

/* Each tensor begins where the one before it, padded, ends; the last one ends the file. */
static bool check_layout(const Gguf *g, size_t alignment, Error *e) {
    size_t available = g->n - g->data_start, end = 0;
    for (size_t i = 0; i < g->n_infos; i++) {
        const Info *t = &g->infos[i];
        char field[SHOWN];
        size_t bytes = 0, start = 0;
        printable(field, sizeof field, t->name, t->name_len);
        if (!info_bytes(g, t, field, &bytes, e)) return false;
        (void)round_up_ok(end, alignment, &start); /* end lies in the file */
        if (t->offset != start)
            return fail(e, g->path, field,
                        "offset: expected %zu, the end of the tensor before, got %llu", start,
                        (unsigned long long)t->offset);
        if (start > available || bytes > available - start)
            return fail(e, g->path, field,
                        "the file ends early: expected %zu bytes of data, got %zu "
                        "(incomplete copy?)",
                        bytes, start > available ? 0 : available - start);
        end = start + bytes;
    }
    if (available - end < alignment) return true;
    return fail(e, g->path, "size",
                "expected the file to end with the last tensor, got %zu bytes more",
                available - end);
}

static int by_name(const void *a, const void *b) {
    const Info *x = a, *y = b;
    return compare_bytes(x->name, x->name_len, y->name, y->name_len);
}

static bool get_alignment(const Gguf *g, size_t *out, Error *e) {
    const char *key = "general.alignment";
    const Entry *v = find(g, key);
    int64_t value = 32;
    if (v && (v->array || v->type != V_U32))
        return fail(e, g->path, key, "expected a u32, got type %s", value_type_name(v));
    if (!get_int_if(g, key, 8, 65536, &value, e)) return false;
    if ((value & (value - 1)) != 0)
        return fail(e, g->path, key, "expected a power of two, got %lld", (long long)value);
    *out = (size_t)value;
    return true;
}

/* The tensors of one file. */
static bool read_infos(Gguf *g, Error *e) {
    size_t alignment = 0;
    g->infos = alloc_array(e, "tensors", g->n_infos, sizeof *g->infos);
    if (g->infos == NULL) return false;
    for (size_t i = 0; i < g->n_infos; i++)
        if (!take_info(g, &g->infos[i], e)) return false;
    if (!get_alignment(g, &alignment, e)) return false;
    (void)round_up_ok(g->pos, alignment, &g->data_start); /* pos lies in the file */
    if (g->data_start > g->n)
        return fail(e, g->path, "size", "the file ends before its data (incomplete copy?)");
    if (!check_layout(g, alignment, e)) return false;
    for (size_t i = 0; i < g->n_infos; i++) {
        g->infos[i].file = g->part;
        g->infos[i].offset += g->data_start;
    }
    return true;
}

/* For find_info, when those of all files are there. */
static bool sort_infos(Gguf *g, Error *e) {
    qsort(g->infos, g->n_infos, sizeof *g->infos, by_name);
    for (size_t i = 1; i < g->n_infos; i++)
        if (by_name(&g->infos[i - 1], &g->infos[i]) == 0)
            return refuse(g, g->infos[i].name, g->infos[i].name_len, "stands there twice", e);
    return true;
}

static Info *find_info(const Gguf *g, const char *name) {
    Info wanted = {.name = name, .name_len = strlen(name)};
    return bsearch(&wanted, g->infos, g->n_infos, sizeof wanted, by_name);
}

/* ---- The file -------------------------------------------------------------------------------- */

static bool read_head(Gguf *g, Error *e) {
    uint32_t version = 0;
    uint64_t n_tensors = 0, n_entries = 0;
    const uint8_t *magic = take(g, "magic", 4, e);
    if (magic == NULL) return false;
    if (memcmp(magic, "GGUF", 4) != 0)
        return fail(e, g->path, "magic", "expected \"GGUF\", got something else");
    if (!take_u32(g, "version", &version, e)) return false;
    if (version != 0 && (version & 0xffff) == 0)
        return fail(e, g->path, "version", "a big-endian file is not supported");
    if (version != 2 && version != 3)
        return fail(e, g->path, "version", "expected 2 or 3, got %u", version);
    /* The smallest tensor takes 33 bytes in the table, the smallest entry 14. */
    if (!take_count(g, "tensor count", 33, MAX_TENSORS, &n_tensors, e) ||
        !take_count(g, "metadata count", 14, MAX_ENTRIES, &n_entries, e))
        return false;
    g->n_infos = (size_t)n_tensors;
    g->n_entries = (size_t)n_entries;
    return true;
}

/* Map the file; it becomes one of the source's. */
static bool open_part(Gguf *g, Source *s, Error *e) {
    const char *slash = strrchr(g->path, '/'), *name = slash ? slash + 1 : g->path;
    if (!source_add_file(s, name, strlen(name), e)) return false;
    Map *m = &s->files[s->n_files - 1];
    if (!map_open(m, g->path, e)) return false;
    g->data = m->data;
    g->n = m->bytes;
    return true;
}

/* ---- A model in several files ---------------------------------------------------------------- */

#define PART_NAME "-%05u-of-%05u.gguf"

/* Parts are named before anything is missed in them: all but the first lack most metadata. */
static bool check_split(Gguf *g, Error *e) {
    int64_t count = 1, number = 0;
    if (!get_int_if(g, "split.count", 0, MAX_FILES, &count, e) ||
        !get_int_if(g, "split.no", 0, MAX_FILES - 1, &number, e))
        return false;
    g->n_parts = count > 1 ? (uint32_t)count : 1;
    if (g->n_parts == 1 || number == 0) return true;
    return fail(e, g->path, "split.no", "this is part %lld of %u, expected the first one",
                (long long)number + 1, g->n_parts);
}

/* The path of another part, beside the first one. */
static bool part_path(const Gguf *first, uint32_t part, char *out, size_t room, Error *e) {
    char end[40];
    int end_len = snprintf(end, sizeof end, PART_NAME, 1u, first->n_parts);
    if (!ends_with(first->path, end))
        return fail(e, first->path, "split.count",
                    "this is the first of %u parts, expected a name that ends in %s",
                    first->n_parts, end);
    snprintf(out, room, "%.*s" PART_NAME, (int)strlen(first->path) - end_len, first->path, part + 1,
             first->n_parts);
    return true;
}

/* The path of the file that holds a tensor; `room` may be used for it. */
static const char *info_path(const Gguf *first, const Info *info, char *room, size_t size) {
    Error e; /* the name was good when the part was opened */
    if (info->file == 0 || !part_path(first, info->file, room, size, &e)) return first->path;
    return room;
}

/* Move the tensors of a part to the first one's. */
static bool move_infos(Gguf *first, const Gguf *g, Error *e) {
    size_t n = first->n_infos + g->n_infos;
    Info *all = grow_array(e, "tensors", first->infos, n, sizeof *all);
    if (all == NULL) return false;
    memcpy(all + first->n_infos, g->infos, g->n_infos * sizeof *all);
    first->infos = all;
    first->n_infos = n;
    return true;
}

static bool read_part(Gguf *first, uint32_t part, Source *s, Error *e) {
    char path[sizeof s->path];
    int64_t same = 0;
    Gguf g = {.path = path, .part = part};
    bool ok = part_path(first, part, path, sizeof path, e) && open_part(&g, s, e) &&
              read_head(&g, e) && read_metadata(&g, e) &&
              get_int(&g, "split.no", part, part, &same, e) &&
              get_int(&g, "split.count", first->n_parts, first->n_parts, &same, e) &&
              read_infos(&g, e) && move_infos(first, &g, e);
    free(g.entries);
    free(g.infos);
    return ok;
}

static bool read_parts(Gguf *g, Source *s, Error *e) {
    const char *key = "split.tensors.count";
    int64_t count = 0;
    for (uint32_t part = 1; part < g->n_parts; part++)
        if (!read_part(g, part, s, e)) return false;
    if (g->n_parts == 1) return true;
    if (!get_int(g, key, 0, MAX_TENSORS, &count, e)) return false;
    return (size_t)count == g->n_infos ||
           fail(e, g->path, key, "expected %zu, those of all parts, got %lld", g->n_infos,
                (long long)count);
}

/* ---- Configuration --------------------------------------------------------------------------- */

/* Every key of the architecture is known: another one might change the model's results. Converters
 * of early 2024 wrote use_parallel_residual into the files of every architecture; no reader of a
 * Qwen2 looks at it. */
static bool check_keys(const Gguf *g, Error *e) {
    static const char *const known[] = {
        "attention.head_count", "attention.head_count_kv", "attention.key_length",
        "attention.layer_norm_rms_epsilon", "attention.value_length", "block_count",
        "context_length", "embedding_length", "feed_forward_length", "rope.dimension_count",
        "rope.freq_base", "rope.scaling.factor", "rope.scaling.finetuned",
        "rope.scaling.original_context_length", "rope.scaling.type", "rope.scaling.yarn_beta_fast",
        "rope.scaling.yarn_beta_slow", "use_parallel_residual", "vocab_size"};
    for (size_t i = 0; i < g->n_entries; i++) {
        const Entry *v = &g->entries[i];
        bool found = !begins_with(v->key, v->key_len, "qwen2.");
        for (size_t k = 0; !found && k < sizeof known / sizeof *known; k++)
            found = compare_bytes(v->key + 6, v->key_len - 6, known[k], strlen(known[k])) == 0;
        if (!found) return refuse(g, v->key, v->key_len, "is not supported", e);
    }
    return true;
}

static bool read_sizes(const Gguf *g, ModelConfig *c, Error *e) {
    if (!get_u32(g, "qwen2.block_count", 1, MAX_LAYERS, &c->num_hidden_layers, e) ||
        !get_u32(g, "qwen2.context_length", 1, MAX_CONTEXT, &c->max_position_embeddings, e) ||
        !get_u32(g, "qwen2.embedding_length", 1, MAX_HIDDEN, &c->hidden_size, e) ||
        !get_u32(g, "qwen2.feed_forward_length", 1, MAX_FFN, &c->intermediate_size, e) ||
        !get_u32(g, "qwen2.attention.head_count", 1, MAX_HEADS, &c->num_attention_heads, e))
        return false;
    int64_t kv = c->num_attention_heads; /* absent: one for each, as in Qwen1.5 */
    if (!get_int_if(g, "qwen2.attention.head_count_kv", 1, c->num_attention_heads, &kv, e))
        return false;
    c->num_key_value_heads = (uint32_t)kv;
    int64_t key = c->hidden_size / c->num_attention_heads, same = 0;
    if (!has(g, "qwen2.attention.key_length") && c->hidden_size % c->num_attention_heads != 0)
        return fail(e, g->path, "qwen2.embedding_length", "expected a multiple of %u heads, got %u",
                    c->num_attention_heads, c->hidden_size);
    if (!get_int_if(g, "qwen2.attention.key_length", 2, MAX_HEAD_DIM, &key, e) ||
        !get_int_if(g, "qwen2.attention.value_length", key, key, &same, e) ||
        !get_int_if(g, "qwen2.rope.dimension_count", key, key, &same, e))
        return false;
    c->head_dim = (uint32_t)key;
    return true;
}

/* YaRN without the context that it stretches, as Ollama's converter writes it, stretches the one
 * that the file names, like llama.cpp. */
static bool read_rope(const Gguf *g, ModelConfig *c, Error *e) {
    const char *key = "qwen2.rope.scaling.type";
    double factor = 0, usual = 0;
    int64_t original = c->max_position_embeddings;
    c->rope_theta = 10000; /* what the format says when the key is absent */
    if (!get_real_if(g, "qwen2.rope.freq_base", 1, 1e12, &c->rope_theta, e)) return false;
    if (!has(g, key)) {
        const char *factor_key = "qwen2.rope.scaling.factor";
        return !has(g, factor_key) || fail(e, g->path, factor_key, "stands without %s", key);
    }
    if (is_text(g, key, "none")) return true;
    if (!need_text(g, key, "yarn", e) ||
        !get_real(g, "qwen2.rope.scaling.factor", 1, 1024, &factor, e) ||
        !get_real_if(g, "qwen2.rope.scaling.yarn_beta_fast", 32, 32, &usual, e) ||
        !get_real_if(g, "qwen2.rope.scaling.yarn_beta_slow", 1, 1, &usual, e) ||
        !get_int_if(g, "qwen2.rope.scaling.original_context_length", 1, MAX_CONTEXT, &original, e))
        return false;
    c->yarn_factor = (float)factor;
    c->yarn_original_max_position_embeddings = (uint32_t)original;
    return true;
}

static bool read_config(const Gguf *g, ModelConfig *c, Error *e) {
    double eps = 0;
    int64_t same = 0;
    if (!read_sizes(g, c, e) || !read_rope(g, c, e) ||
        !get_real(g, "qwen2.attention.layer_norm_rms_epsilon", 1e-12, 1, &eps, e))
        return false;
    c->rms_norm_eps = (float)eps;
    const Info *embedding = find_info(g, "token_embd.weight");
    if (embedding == NULL) return fail(e, g->path, "token_embd.weight", "missing");
    c->vocab_size = (uint32_t)embedding->rows;
    if (!get_int_if(g, "qwen2.vocab_size", c->vocab_size, c->vocab_size, &same, e)) return false;
    c->tie_word_embeddings = find_info(g, "output.weight") == NULL;
    c->qkv_bias = 1;
    return model_check_config(c, g->path, e);
}

/* ---- Tensors of the model -------------------------------------------------------------------- */

/* GGUF's name of a tensor that has this Hugging Face name, one of model.h's. */
static void gguf_name(const char *hf, char *out, size_t room) {
    static const char *const part[][2] = {
        {"input_layernorm.weight", "attn_norm.weight"},
        {"self_attn.q_proj.", "attn_q."},
        {"self_attn.k_proj.", "attn_k."},
        {"self_attn.v_proj.", "attn_v."},
        {"self_attn.o_proj.", "attn_output."},
        {"post_attention_layernorm.weight", "ffn_norm.weight"},
        {"mlp.gate_proj.", "ffn_gate."},
        {"mlp.up_proj.", "ffn_up."},
        {"mlp.down_proj.", "ffn_down."},
        {"model.embed_tokens.weight", "token_embd.weight"},
        {"model.norm.weight", "output_norm.weight"},
        {"lm_head.weight", "output.weight"},
    };
    size_t i = 0, n;
    const char layers[] = "model.layers.", *rest = hf;
    char block[32] = "";
    if (strncmp(hf, layers, sizeof layers - 1) == 0) {
        const char *number = hf + sizeof layers - 1;
        size_t digits = strspn(number, "0123456789");
        snprintf(block, sizeof block, "blk.%.*s.", (int)digits, number);
        rest = number + digits + 1;
    }
    while (strncmp(rest, part[i][0], n = strlen(part[i][0])) != 0) i++;
    snprintf(out, room, "%s%s%s", block, part[i][1], rest + n);
}

static bool fill_tensor(const Gguf *g, SourceTensor *t, Error *e) {
    char name[sizeof t->name], path[sizeof((Source *)0)->path];
    gguf_name(t->name, name, sizeof name);
    Info *info = find_info(g, name);
    if (info == NULL) return fail(e, g->path, name, "missing");
    const char *file = info_path(g, info, path, sizeof path);
    if (info->cols != t->cols || info->rows != t->rows || (info->n_dims == 1) != t->vector)
        return fail(e, file, name, "expected %u columns in %u rows, got %llu in %llu", t->cols,
                    t->rows, (unsigned long long)info->cols, (unsigned long long)info->rows);
    bool plain = info->type == SRC_F32 || info->type == SRC_F16 || info->type == SRC_BF16;
    if (t->vector && !plain)
        return fail(e, file, name, "expected type F32, F16 or BF16, got %s",
                    source_type_name(info->type));
    info->used = true;
    t->type = (SourceType)info->type;
    t->file = info->file;
    t->offset = info->offset;
    return true;
}

/* Exactly the tensors of the configuration, with its shapes. */
static bool read_tensors(const Gguf *g, Source *s, Error *e) {
    if (!expected_tensors(&s->header.config, &s->tensors, &s->n_tensors, e)) return false;
    for (size_t i = 0; i < s->n_tensors; i++)
        if (!fill_tensor(g, &s->tensors[i], e)) return false;
    for (size_t i = 0; i < g->n_infos; i++) {
        if (g->infos[i].used) continue;
        char field[SHOWN], path[sizeof s->path];
        printable(field, sizeof field, g->infos[i].name, g->infos[i].name_len);
        return fail(e, info_path(g, &g->infos[i], path, sizeof path), field,
                    "is not supported: no tensor of such a Qwen2 model");
    }
    return true;
}

/* ---- Tokenizer ------------------------------------------------------------------------------- */

enum { TOKEN_NORMAL = 1, TOKEN_CONTROL = 3, TOKEN_USER_DEFINED = 4, TOKEN_UNUSED = 5 };

/* Converters to GGUF make everything that looks like <|...|> a control token. These six are not
 * special in Qwen2.5's own tokenizer: there they are part of the plain text. */
static bool only_looks_special(const char *text, size_t n) {
    static const char *const plain[] = {"<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>",
                                        "<|fim_pad|>",    "<|repo_name|>",  "<|file_sep|>"};
    for (size_t i = 0; i < sizeof plain / sizeof *plain; i++)
        if (compare_bytes(text, n, plain[i], strlen(plain[i])) == 0) return true;
    return false;
}

/* [PAD151700] as the text of token 151700: a row of the embedding that has no token. Older
 * converters wrote these as user-defined tokens. */
static bool is_padding(uint32_t id, const char *text, size_t n) {
    char padding[24];
    int len = snprintf(padding, sizeof padding, "[PAD%u]", id);
    return compare_bytes(text, n, padding, (size_t)len) == 0;
}

static bool add_token(const Gguf *g, TokenBuilder *b, uint32_t id, int32_t type, const char *text,
                      size_t n, Error *e) {
    switch (type) {
    case TOKEN_NORMAL: return tokens_add(b, id, text, n, e);
    case TOKEN_CONTROL: return tokens_add_special(b, id, text, n, !only_looks_special(text, n), e);
    case TOKEN_USER_DEFINED:
        return is_padding(id, text, n) || tokens_add_special(b, id, text, n, false, e);
    case TOKEN_UNUSED: return true; /* a row of the embedding that has no token */
    default:
        return fail(e, g->path, "tokenizer.ggml.token_type",
                    "token %u: expected 1, 3, 4 or 5, got %d", id, type);
    }
}

static bool add_tokens(const Gguf *g, TokenBuilder *b, uint32_t vocab, Error *e) {
    const char *key = "tokenizer.ggml.tokens", *type_key = "tokenizer.ggml.token_type";
    const Entry *tokens = get_array(g, key, V_STRING, "strings", e);
    const Entry *types = tokens ? get_array(g, type_key, V_I32, "i32", e) : NULL;
    if (types == NULL) return false;
    if (tokens->count > vocab || tokens->count == 0)
        return fail(e, g->path, key, "expected 1 to %u, the rows of token_embd.weight, got %llu",
                    vocab, (unsigned long long)tokens->count);
    if (types->count != tokens->count)
        return fail(e, g->path, type_key, "expected %llu, one for each token, got %llu",
                    (unsigned long long)tokens->count, (unsigned long long)types->count);
    const uint8_t *p = tokens->data;
    for (uint32_t id = 0; id < tokens->count; id++) {
        size_t n;
        int32_t type;
        const char *text = next_string(&p, &n);
        memcpy(&type, types->data + sizeof type * id, sizeof type);
        if (!add_token(g, b, id, type, text, n, e)) return false;
    }
    return true;
}

/* "left right", in rank order. */
static bool add_merges(const Gguf *g, TokenBuilder *b, Error *e) {
    const char *key = "tokenizer.ggml.merges";
    const Entry *merges = get_array(g, key, V_STRING, "strings", e);
    if (merges == NULL) return false;
    const uint8_t *p = merges->data;
    for (uint64_t i = 0; i < merges->count; i++) {
        size_t n;
        const char *text = next_string(&p, &n);
        if (!tokens_merge_pair(b, text, n, g->path, key, e)) return false;
    }
    return true;
}

/* Which pre-tokenizer. deepseek-r1-qwen is that of DeepSeek's models made from Qwen2.5: the same,
 * but for a bos in front of every text, which is left to whoever writes a raw prompt. */
static bool check_pre(const Gguf *g, Source *s, Error *e) {
    const char *pre = "tokenizer.ggml.pre", *bos_key = "tokenizer.ggml.add_bos_token";
    bool bos = false;
    if (is_text(g, pre, "deepseek-r1-qwen")) {
        if (!get_bool_if(g, bos_key, &bos, e)) return false;
        if (bos) source_note(s, NOTE_BOS);
        return true;
    }
    if (!has(g, pre)) {
        source_note(s, "the file has no tokenizer.ggml.pre, like those from before April 2024: "
                       "taken for qwen2");
    } else if (!need_text(g, pre, "qwen2", e)) {
        return false;
    }
    return need_off(g, bos_key, e);
}

static bool read_tokenizer(const Gguf *g, Source *s, Error *e) {
    if (!need_text(g, "tokenizer.ggml.model", "gpt2", e) || !check_pre(g, s, e) ||
        !need_off(g, "tokenizer.ggml.add_eos_token", e) ||
        !need_off(g, "tokenizer.ggml.add_space_prefix", e))
        return false;
    TokenBuilder *b = tokens_new(g->path, e);
    if (b == NULL) return false;
    bool ok = add_tokens(g, b, s->header.config.vocab_size, e) && add_merges(g, b, e) &&
              tokens_finish(b, &s->tokenizer, e);
    tokens_free(b);
    return ok;
}

/* ---- Chat template and defaults -------------------------------------------------------------- */

static bool read_template(const Gguf *g, Source *s, Error *e) {
    const char *text = NULL;
    size_t n = 0;
    if (!has(g, "tokenizer.chat_template")) {
        snprintf(s->chat_note, sizeof s->chat_note, "no tokenizer.chat_template");
        return true;
    }
    if (!get_text(g, "tokenizer.chat_template", &text, &n, e)) return false;
    return source_set_template(s, text, n, g->path, e);
}

/* A GGUF file says little or nothing about sampling. For the Qwen2.5 Instruct models, which greedy
 * decoding makes repeat themselves, their generation_config.json is known: temperature 0.7, top_p
 * 0.8, top_k 20, and repetition_penalty 1.1 (0.5B and 1.5B) or 1.05 (larger ones). They are told by
 * their template's default system message, which base and Math models do not have; Coder models
 * have it, and nearly the same values. Newer files have general.sampling.* keys, for all that is
 * not Hugging Face's default (of top_k: 50): where one is, nothing is taken for known. */
static bool read_sampling(const Gguf *g, Source *s, Error *e) {
    ModelHeader *h = &s->header;
    static const char instruct[] = "You are Qwen, created by Alibaba Cloud.";
    double temperature = 1, top_p = 1, min_p = 0, penalty = 1;
    int64_t top_k = 0;
    bool says = has(g, "general.sampling.temp") || has(g, "general.sampling.top_p") ||
                has(g, "general.sampling.min_p") || has(g, "general.sampling.penalty_repeat") ||
                has(g, "general.sampling.top_k");
    bool known = !says && h->chat_family == CHAT_QWEN25 &&
                 h->default_system_len >= sizeof instruct - 1 &&
                 memcmp(h->default_system, instruct, sizeof instruct - 1) == 0;
    if (says) top_k = 50;
    if (known) {
        temperature = 0.7;
        top_p = 0.8;
        top_k = 20;
        penalty = h->config.hidden_size <= 1536 ? 1.1 : 1.05;
    }
    if (!get_real_if(g, "general.sampling.temp", 0, 100, &temperature, e) ||
        !get_real_if(g, "general.sampling.top_p", 0, 1, &top_p, e) ||
        !get_real_if(g, "general.sampling.min_p", 0, 1, &min_p, e) ||
        !get_real_if(g, "general.sampling.penalty_repeat", 0.01, 100, &penalty, e) ||
        !get_int_if(g, "general.sampling.top_k", -1, MAX_VOCAB, &top_k, e))
        return false;
    if (!says && !known && has(g, "tokenizer.chat_template")) source_note(s, NOTE_GREEDY);
    h->defaults.do_sample = known || (says && temperature > 0);
    h->defaults.temperature = (float)temperature;
    h->defaults.top_p = (float)top_p;
    h->min_p = (float)min_p;
    h->defaults.top_k = top_k < 0 ? 0 : (uint32_t)top_k;
    h->defaults.repetition_penalty = (float)penalty;
    return true;
}

/* bos or pad: -1 when the key is absent, or no token has this id; nothing here uses them. */
static bool read_unused_id(const Gguf *g, const char *key, uint32_t n_tokens, int32_t *id,
                           Error *e) {
    int64_t value = -1;
    if (!get_int_if(g, key, INT32_MIN, UINT32_MAX, &value, e)) return false;
    *id = value >= 0 && value < n_tokens ? (int32_t)value : -1;
    return true;
}

static bool read_ids(const Gguf *g, Source *s, Error *e) {
    ModelDefaults *d = &s->header.defaults;
    uint32_t n = ((const TokenizerHeader *)(const void *)s->tokenizer.data)->n_tokens;
    int64_t eos = -1;
    return get_int_if(g, "tokenizer.ggml.eos_token_id", 0, (int64_t)n - 1, &eos, e) &&
           read_unused_id(g, "tokenizer.ggml.bos_token_id", n, &d->bos, e) &&
           read_unused_id(g, "tokenizer.ggml.padding_token_id", n, &d->pad, e) &&
           add_eos(d, (int32_t)eos, g->path, e);
}

/* ---- Names ----------------------------------------------------------------------------------- */

static void quant_name(int64_t file_type, char *out, size_t room) {
    static const char *const name[] = {
        [0] = "F32",     [1] = "F16",     [2] = "Q4_0",    [3] = "Q4_1",    [7] = "Q8_0",
        [8] = "Q5_0",    [9] = "Q5_1",    [10] = "Q2_K",   [11] = "Q3_K_S", [12] = "Q3_K_M",
        [13] = "Q3_K_L", [14] = "Q4_K_S", [15] = "Q4_K_M", [16] = "Q5_K_S", [17] = "Q5_K_M",
        [18] = "Q6_K",   [21] = "Q2_K_S", [32] = "BF16"};
    bool known = file_type >= 0 && file_type < (int64_t)(sizeof name / sizeof *name) &&
                 name[file_type] != NULL;
    snprintf(out, room, "%s", known ? name[file_type] : "GGUF");
}

static bool read_names(const Gguf *g, Source *s, Error *e) {
    ModelHeader *h = &s->header;
    const char *text = s->file_names[0];
    size_t n = strlen(text);
    int64_t file_type = -1;
    printable(h->source, sizeof h->source, text, n);
    if (has(g, "general.name") && !get_text(g, "general.name", &text, &n, e)) return false;
    printable(h->name, sizeof h->name, text, n);
    if (!get_int_if(g, "general.file_type", 0, UINT32_MAX, &file_type, e)) return false;
    quant_name(file_type, s->quant, sizeof s->quant);
    return true;
}

/* ---- Opening --------------------------------------------------------------------------------- */

/* An adapter has the architecture of its model, but few of its keys and none of its tensors. */
static bool check_type(const Gguf *g, Error *e) {
    const char *key = "general.type";
    return !is_text(g, key, "adapter") ||
           fail(e, g->path, key,
                "this is an adapter, expected a model (--lora takes an adapter, as a PEFT folder)");
}

static bool read_all(Gguf *g, Source *s, Error *e) {
    ModelHeader *h = &s->header;
    return read_head(g, e) && read_metadata(g, e) && check_split(g, e) && check_type(g, e) &&
           need_text(g, "general.architecture", "qwen2", e) && check_keys(g, e) &&
           read_infos(g, e) && read_parts(g, s, e) && sort_infos(g, e) &&
           read_config(g, &h->config, e) && read_tensors(g, s, e) && read_tokenizer(g, s, e) &&
           read_template(g, s, e) && read_sampling(g, s, e) && read_ids(g, s, e) &&
           read_names(g, s, e);
}

bool gguf_open(const char *path, Source *s, Error *e) {
    *s = (Source){0};
    Gguf g = {.path = s->path};
    snprintf(s->path, sizeof s->path, "%s", path);
    bool ok = open_part(&g, s, e) && read_all(&g, s, e);
    free(g.entries);
    free(g.infos);
    if (!ok) source_close(s);
    return ok;
}
