/* source.c: what every kind of source needs: telling them apart, opening them, what readers share,
 * the tensors that a configuration implies, rows that are proved to be finite, the checksum of what
 * was read, and JSON members with good errors. */
#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "convert.h"

/* ---- What is this file? ---------------------------------------------------------------------- */

const char *looks_like(const uint8_t *head, size_t n) {
    static const char html[] = "an HTML page: the download saved a web page instead of the file";
    static const struct {
        const char *begin, *what;
    } known[] = {
        {"version https://git-lfs",
         "a git-lfs pointer: the real file was not downloaded (run: git lfs pull)"},
        {"<!DOCTYPE", html},
        {"<!doctype", html},
        {"<html", html},
        {"PK\3\4",
         "a PyTorch or zip archive: get the model's safetensors files, or make them with "
         "save_pretrained(DIR, safe_serialization=True)"},
        {"\x80\x02",
         "a PyTorch pickle: get the model's safetensors files, or make them with "
         "save_pretrained(DIR, safe_serialization=True)"},
        {"FUGG", "a big-endian GGUF file, which is not supported"},
        {MODEL_MAGIC, "a model.bin, already converted"},
    };
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
        if (begins_with(head, n, known[i].begin)) return known[i].what;
    return NULL;
}

/* Read the first bytes of a regular file. */
static bool read_head(const char *path, uint8_t *head, size_t *n, Error *e) {
    Map m;
    if (!map_open(&m, path, e)) return false;
    *n = min_size(*n, m.bytes);
    memcpy(head, m.data, *n);
    map_close(&m);
    return true;
}

static bool open_file(const char *path, Source *s, Error *e) {
    uint8_t head[64];
    size_t n = sizeof head;
    if (!read_head(path, head, &n, e)) return false;
    if (begins_with(head, n, "GGUF")) return gguf_open(path, s, e);
    const char *what = looks_like(head, n);
    if (what) return fail(e, path, NULL, "expected a model, got %s", what);
    if (n > 8 && head[8] == '{') return hf_open(path, s, e);
    char shown[64];
    printable(shown, sizeof shown, (const char *)head, min_size(n, 12));
    return fail(e, path, NULL,
                "expected a Hugging Face folder, a GGUF or a safetensors file, got a file that "
                "begins with \"%s\"",
                shown);
}

/* Whoever answers in the template's turns ends them with <|im_end|>, whatever the settings of the
 * base model that it was trained from still say. <|endoftext|> ends an answer too, as the settings
 * of Qwen's own models say and those of others forget. A GGUF file names one stop token alone: it
 * gets both even where its template is missing or unknown. */
static bool add_turn_end(Source *s, const Tokenizer *t, Error *e) {
    if (s->header.chat_family == CHAT_NONE && !s->quant[0]) return true;
    return add_eos(&s->header.defaults, tokenizer_find(t, "<|im_end|>"), s->path, e) &&
           add_eos(&s->header.defaults, tokenizer_find(t, "<|endoftext|>"), s->path, e);
}

/* What no reader checks alone: the tokenizer section as the engine will read it, and that ids,
 * model and template fit together. Adds the end of a turn to what ends an answer. */
static bool check_whole(Source *s, Error *e) {
    const ModelHeader *h = &s->header;
    Tokenizer *t = tokenizer_open(s->tokenizer.data, s->tokenizer.n, s->path, e);
    if (!t) return false;
    uint32_t n_tokens = (uint32_t)tokenizer_n_tokens(t), rows = h->config.vocab_size;
    bool ok = true;
    if (n_tokens > rows)
        ok = fail(e, s->path, "vocab_size", "expected at least the tokenizer's %u tokens, got %u",
                  n_tokens, rows);
    for (uint32_t i = 0; ok && i < h->defaults.n_eos; i++)
        if ((uint32_t)h->defaults.eos[i] >= n_tokens)
            ok = fail(e, s->path, "eos_token_id", "expected 0 to %u, got %d", n_tokens - 1,
                      h->defaults.eos[i]);
    ok = ok && add_turn_end(s, t, e);
    if (ok && h->defaults.n_eos == 0)
        ok = fail(e, s->path, "eos_token_id", "missing: generation would never stop");
    tokenizer_close(t);
    return ok;
}

bool source_open(const char *path, Source *s, Error *e) {
    *s = (Source){0};
    struct stat st;
    if (strlen(path) >= sizeof s->path - 300) return fail(e, NULL, "path", "too long");
    if (stat(path, &st) != 0) return fail_errno(e, path, "cannot open");
    if (!(S_ISDIR(st.st_mode) ? hf_open(path, s, e) : open_file(path, s, e))) return false;
    if (check_whole(s, e)) return true;
    source_close(s);
    return false;
}

void source_close(Source *s) {
    for (size_t i = 0; s->files && i < s->n_files; i++) map_close(&s->files[i]);
    free(s->files);
    free(s->file_names);
    free(s->tensors);
    buffer_free(&s->tokenizer);
    *s = (Source){0};
}

/* ---- What readers share ---------------------------------------------------------------------- */

bool source_add_file(Source *s, const char *name, size_t n, Error *e) {
    for (size_t i = 0; i < s->n_files; i++)
        if (strlen(s->file_names[i]) == n && memcmp(s->file_names[i], name, n) == 0) return true;
    if (s->n_files == MAX_FILES) return fail(e, s->path, "weight_map", "too many files");
    if (s->n_files % 64 == 0) {
        size_t room = s->n_files + 64;
        void *names = grow_array(e, "files", s->file_names, room, sizeof *s->file_names);
        if (!names) return false;
        s->file_names = names;
        Map *files = grow_array(e, "files", s->files, room, sizeof *files);
        if (!files) return false;
        s->files = files;
    }
    snprintf(s->file_names[s->n_files], sizeof s->file_names[0], "%.*s", (int)n, name);
    s->files[s->n_files++] = (Map){.fd = -1};
    return true;
}

bool add_eos(ModelDefaults *d, int32_t id, const char *file, Error *e) {
    for (uint32_t i = 0; i < d->n_eos; i++)
        if (d->eos[i] == id) return true;
    if (id < 0) return true;
    if (d->n_eos == MAX_EOS) return fail(e, file, "eos_token_id", "expected at most %d", MAX_EOS);
    d->eos[d->n_eos++] = id;
    return true;
}

void source_note(Source *s, const char *text) {
    size_t n = strlen(s->note); /* there is room for all that one source can give rise to */
    snprintf(s->note + n, sizeof s->note - n, "%s%s", n ? "; " : "", text);
}

/* A template of turns is of no use where these are no tokens: the tokenizer's files lack a part. */
static bool check_turns(const Source *s, const char *text, size_t n, const Tokenizer *t, Error *e) {
    static const char *const marks[] = {"<|im_start|>", "<|im_end|>"};
    for (size_t i = 0; i < 2; i++)
        if (memmem(text, n, marks[i], strlen(marks[i])) && tokenizer_find(t, marks[i]) < 0)
            return fail(e, s->path, "tokenizer", "the chat template needs %s, which is no token",
                        marks[i]);
    return true;
}

bool source_set_template(Source *s, const char *text, size_t n, const char *file, Error *e) {
    ModelHeader *h = &s->header;
    ChatTemplate found;
    char system[sizeof h->default_system + 1];
    Error why = {{0}};
    Tokenizer *t = tokenizer_open(s->tokenizer.data, s->tokenizer.n, s->path, e);
    bool ok = t && check_turns(s, text, n, t, e) &&
              template_detect(text, n, t, &found, system, sizeof system, file, &why, e);
    if (ok && found.family != CHAT_NONE) {
        h->chat_family = (uint32_t)found.family;
        h->has_default_system = found.has_default_system;
        h->default_system_len = (uint32_t)found.default_system_len;
        memcpy(h->default_system, system, found.default_system_len);
    } else if (ok) {
        printable(s->chat_note, sizeof s->chat_note, why.text, strlen(why.text));
    }
    tokenizer_close(t);
    return ok;
}

/* Where the last part of path[0..n) begins. */
static const char *last_part(const char *path, size_t n) {
    while (n > 0 && path[n - 1] != '/') n--;
    return path + n;
}

/* In the cache of Hugging Face's own tools the folder is models--ORG--NAME/snapshots/COMMIT. */
void source_folder_name(const char *folder, char *out, size_t room) {
    char *real = realpath(folder, NULL);
    const char *path = real ? real : folder, *end = path + strlen(path);
    const char *name = last_part(path, (size_t)(end - path));
    static const char between[] = "/snapshots/", models[] = "models--";
    size_t n = sizeof between - 1;
    if ((size_t)(name - path) > n && memcmp(name - n, between, n) == 0) {
        const char *repository = last_part(path, (size_t)(name - n - path));
        if (strncmp(repository, models, sizeof models - 1) == 0) {
            end = name - n;
            name = repository + sizeof models - 1;
            const char *dashes = strstr(name, "--");
            if (dashes && dashes < end) name = dashes + 2; /* behind the organization */
        }
    }
    if (name == end) name = path; /* the root */
    printable(out, room, name, (size_t)(end - name));
    free(real);
}

/* ---- Tensors --------------------------------------------------------------------------------- */

bool expected_tensors(const ModelConfig *c, SourceTensor **list, size_t *n, Error *e) {
    *n = model_n_tensors(c);
    *list = alloc_array(e, "tensors", *n, sizeof **list);
    if (!*list) return false;
    for (uint32_t i = 0; i < *n; i++) {
        TensorShape shape;
        model_tensor(c, i, &shape);
        memcpy((*list)[i].name, shape.name, sizeof shape.name);
        (*list)[i].rows = shape.rows;
        (*list)[i].cols = shape.cols;
        (*list)[i].vector = shape.vector;
    }
    return true;
}

/* The column of the first weight of a row that is NaN or infinite; cols when all are finite. Whole
 * blocks of 256 weights (or fewer) are looked at, so that a scale is seen in what it scales. */
static size_t first_non_finite(SourceType type, const uint8_t *row, size_t cols) {
    float x[256];
    for (size_t k = 0; k < cols; k += 256) {
        size_t n = min_size(cols - k, 256);
        source_row_to_float(type, row + source_row_bytes(type, k), n, x);
        uint32_t bad = 0;
        for (size_t i = 0; i < n; i++) bad |= (bits_from_float(x[i]) & 0x7f800000) == 0x7f800000;
        if (!bad) continue;
        for (size_t i = 0; i < n; i++)
            if ((bits_from_float(x[i]) & 0x7f800000) == 0x7f800000) return k + i;
    }
    return cols;
}

const char *source_file(const Source *s, const SourceTensor *t) {
    return s->quant[0] && s->n_files > 1 ? s->file_names[t->file] : s->path;
}

bool source_read_rows(const Source *s, const SourceTensor *t, size_t first, size_t n, uint8_t *out,
                      Error *e) {
    size_t row_bytes = source_row_bytes(t->type, t->cols);
    if (s->n_files == 0)
        random_rows(s, t, first, n, out);
    else
        memcpy(out, s->files[t->file].data + t->offset + first * row_bytes, n * row_bytes);
    for (size_t i = 0; i < n; i++) {
        size_t column = first_non_finite(t->type, out + i * row_bytes, t->cols);
        if (column < t->cols)
            return fail(e, source_file(s, t), t->name, "non-finite value at row %zu column %zu",
                        first + i, column);
    }
    return true;
}

/* Pages of [from, to) that lie in it whole are given back; they are read again when needed. */
static void drop_range(const Map *m, size_t from, size_t to) {
    long asked = sysconf(_SC_PAGESIZE); /* 4, 16 or 64 KiB on ARM */
    size_t page = asked > 0 ? (size_t)asked : 4096, begin;
    size_t end = to == m->bytes ? to : to / page * page;
    if (!round_up_ok(from, page, &begin) || begin >= end) return;
    /* Only a hint: when it fails, memory stays a little fuller. */
    (void)madvise((void *)(m->data + begin), end - begin, MADV_DONTNEED);
}

void source_drop_rows(const Source *s, const SourceTensor *t, size_t first, size_t n) {
    if (s->n_files == 0) return;
    size_t row_bytes = source_row_bytes(t->type, t->cols), from = t->offset + first * row_bytes;
    drop_range(&s->files[t->file], from, from + n * row_bytes);
}

bool not_stopped(atomic_int *stop, Error *e) {
    return !atomic_load(stop) || fail(e, NULL, NULL, "interrupted");
}

/* ---- The weight files as a whole ------------------------------------------------------------- */

/* Weight file i: the source's come first, then the adapter's. */
static const Map *weight_file(const Source *s, const Lora *l, size_t i, const char **name) {
    if (i >= s->n_files) return lora_file(l, i - s->n_files, name);
    *name = s->file_names[i];
    return &s->files[i];
}

static size_t count_files(const Source *s, const Lora *l) {
    return s->n_files + (l ? LORA_FILES : 0);
}

bool source_unchanged(const Source *s, const Lora *l, Error *e) {
    struct stat st;
    for (size_t i = 0; i < count_files(s, l); i++) {
        const char *name, *owner = i < s->n_files ? s->path : lora_name(l);
        const Map *m = weight_file(s, l, i, &name);
        if (fstat(m->fd, &st) != 0) return fail_errno(e, owner, "cannot stat");
        if ((uintmax_t)st.st_size != m->bytes)
            return fail(e, owner, name,
                        "changed on disk while in use: expected %zu bytes, got %lld", m->bytes,
                        (long long)st.st_size);
    }
    return true;
}

static bool hash_file(const Map *m, atomic_int *stop, uint8_t out[32]) {
    Sha256 sha;
    sha256_init(&sha);
    size_t step = 4u << 20;
    for (size_t at = 0; at < m->bytes; at += step) {
        if (atomic_load(stop)) return false;
        size_t n = min_size(step, m->bytes - at);
        sha256_update(&sha, m->data + at, n);
        drop_range(m, at, at + n);
    }
    sha256_final(&sha, out);
    return true;
}

/* How many of n files come before file i in the order of names? */
static size_t name_rank(const Source *s, const Lora *l, size_t n, size_t i) {
    const char *name, *other;
    size_t rank = 0;
    weight_file(s, l, i, &name);
    for (size_t j = 0; j < n; j++) {
        weight_file(s, l, j, &other);
        int order = strcmp(other, name);
        rank += order < 0 || (order == 0 && j < i);
    }
    return rank;
}

static bool hash_list(const Source *s, const Lora *l, size_t n, atomic_int *stop, uint8_t out[32]) {
    Sha256 list;
    sha256_init(&list);
    for (size_t done = 0; done < n; done++) {
        size_t i = 0;
        while (name_rank(s, l, n, i) != done) i++;
        uint8_t one[32];
        char hex[65];
        const char *name;
        const Map *m = weight_file(s, l, i, &name);
        if (!hash_file(m, stop, one)) return false;
        for (size_t k = 0; k < 32; k++) snprintf(hex + 2 * k, 3, "%02x", one[k]);
        sha256_update(&list, hex, 64);
        sha256_update(&list, "  ", 2);
        sha256_update(&list, name, strlen(name));
        sha256_update(&list, "\n", 1);
    }
    sha256_final(&list, out);
    return true;
}

bool source_hash(const Source *s, const Lora *l, atomic_int *stop, uint8_t out[32]) {
    memset(out, 0, 32);
    if (s->n_files == 0) return true;
    size_t n = count_files(s, l);
    return n == 1 ? hash_file(&s->files[0], stop, out) : hash_list(s, l, n, stop, out);
}

/* ---- Members of a JSON object ---------------------------------------------------------------- */

const Json *field_get(const Json *object, const char *key) {
    const Json *v = json_get(object, key);
    return v && v->kind == JSON_NULL ? NULL : v;
}

bool field_int(const Json *object, const char *key, int64_t low, int64_t high, int64_t *out,
               const char *file, Error *e) {
    const Json *v = field_get(object, key);
    if (!v) return fail(e, file, key, "missing");
    bool digits = v->kind == JSON_NUMBER; /* 1e3 and 2.0 are refused: nobody writes sizes so */
    for (size_t i = 0; digits && i < v->source_len; i++)
        digits = v->source[i] == '-' || (v->source[i] >= '0' && v->source[i] <= '9');
    if (digits && json_int(v, low, high, out)) return true;
    return fail(e, file, key, "expected a whole number from %lld to %lld, got %.*s", (long long)low,
                (long long)high, shown_len(v), v->source);
}

bool field_real(const Json *object, const char *key, double low, double high, double *out,
                const char *file, Error *e) {
    const Json *v = field_get(object, key);
    if (!v) return true;
    if (v->kind == JSON_NUMBER && v->number >= low && v->number <= high) {
        *out = v->number;
        return true;
    }
    return fail(e, file, key, "expected a number from %g to %g, got %.*s", low, high, shown_len(v),
                v->source);
}

bool field_bool(const Json *object, const char *key, bool *out, const char *file, Error *e) {
    const Json *v = field_get(object, key);
    if (!v) return true;
    if (v->kind == JSON_BOOL) {
        *out = v->boolean;
        return true;
    }
    return fail(e, file, key, "expected true or false, got %.*s", shown_len(v), v->source);
}
