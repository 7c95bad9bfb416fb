/* json.c: the JSON reader that json.h declares.
 *
 * One pass over a copy of the text builds a tree of nodes. Open arrays and objects lie on a stack
 * of fixed depth, so no input can exhaust the machine's own stack. What is kept is the copy of the
 * text; one block for all unescaped strings, which together are never longer than the text; and the
 * nodes, in chunks. That is at most some 50 bytes for a byte of text (a list of one-digit numbers),
 * which is what the caller's limit on the text's size has to allow for.
 *
 * Duplicate keys are found when an object closes, by sorting its members by a hash of the key and
 * then by the key itself: n log n also for keys that were chosen to collide. */
#include "json.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define CHUNK_NODES 1024

typedef struct Chunk {
    struct Chunk *next;
    size_t n;
    Json nodes[CHUNK_NODES];
} Chunk;

struct JsonDoc {
    char *text;    /* (n + 1) the source, NUL behind it */
    char *strings; /* all unescaped strings and keys, a NUL behind each */
    Chunk *chunks;
    Json *root;
};

typedef struct {
    uint64_t hash;
    const Json *member;
} Slot;

typedef struct {
    const char *text; /* (n), a NUL behind it */
    size_t n, pos;
    const char *file;
    JsonDoc *doc;
    char *free_string;      /* where the next unescaped string goes */
    Json *open[JSON_MAX_DEPTH];  /* the arrays and objects that pos lies in, outermost first */
    Json *last[JSON_MAX_DEPTH];  /* the last child of each so far */
    size_t depth;
    const char *key;        /* of the member whose value comes next */
    size_t key_len;
    Slot *slots;            /* (slot_room) scratch for the duplicate check */
    size_t slot_room;
    Error *e;
} Parser;

/* ---- errors ---------------------------------------------------------------------------------- */

/* Line and column of byte `pos`, both from 1; a column is a character, not a byte. */
static void line_column(const Parser *p, size_t pos, char out[64]) {
    size_t line = 1, column = 1;
    for (size_t i = 0; i < pos; i++) {
        if (p->text[i] == '\n') {
            line++;
            column = 1;
        } else if (((unsigned char)p->text[i] & 0xc0) != 0x80) {
            column++;
        }
    }
    snprintf(out, 64, "line %zu column %zu", line, column);
}

/* "FILE: line L column C: expected EXPECTED, got whatever stands at pos" */
static bool expected(const Parser *p, size_t pos, const char *what) {
    char where[64], got[32];
    int32_t cp = -1;
    line_column(p, pos, where);
    if (pos < p->n) utf8_decode(p->text + pos, p->n - pos, &cp);
    if (pos >= p->n)
        snprintf(got, sizeof got, "the end of the text");
    else if (cp < 0)
        snprintf(got, sizeof got, "byte 0x%02x, no UTF-8", (unsigned char)p->text[pos]);
    else if (cp > 0x20 && cp < 0x7f)
        snprintf(got, sizeof got, "'%c'", (char)cp);
    else
        snprintf(got, sizeof got, "U+%04X", (unsigned)cp);
    return fail(p->e, p->file, where, "expected %s, got %s", what, got);
}

/* ---- memory ---------------------------------------------------------------------------------- */

static Json *new_node(Parser *p) {
    Chunk *chunk = p->doc->chunks;
    if (!chunk || chunk->n == CHUNK_NODES) {
        chunk = grow_array(p->e, "JSON", NULL, 1, sizeof *chunk);
        if (!chunk) return NULL;
        chunk->next = p->doc->chunks;
        chunk->n = 0;
        p->doc->chunks = chunk;
    }
    Json *v = &chunk->nodes[chunk->n++];
    *v = (Json){0};
    return v;
}

/* Make the node for the value at pos and hang it into the tree. */
static Json *add_node(Parser *p) {
    Json *v = new_node(p);
    if (!v) return NULL;
    v->source = p->text + p->pos;
    if (p->depth == 0) {
        p->doc->root = v;
        return v;
    }
    Json *parent = p->open[p->depth - 1], *last = p->last[p->depth - 1];
    if (last) last->next = v;
    else parent->child = v;
    p->last[p->depth - 1] = v;
    parent->n++;
    v->key = p->key;
    v->key_len = p->key_len;
    p->key = NULL;
    p->key_len = 0;
    return v;
}

/* ---- scalars --------------------------------------------------------------------------------- */

static void skip_space(Parser *p) {
    for (;;) {
        char c = p->text[p->pos]; /* the NUL behind the text ends the loop */
        if (c != ' ' && c != '\n' && c != '\t' && c != '\r') return;
        p->pos++;
    }
}

static bool digits(Parser *p) {
    size_t start = p->pos;
    while (p->text[p->pos] >= '0' && p->text[p->pos] <= '9') p->pos++;
    return p->pos > start || expected(p, p->pos, "a digit");
}

/* -? (0 | [1-9][0-9]*) (\.[0-9]+)? ([eE][+-]?[0-9]+)? */
static bool parse_number(Parser *p, Json *v) {
    size_t start = p->pos;
    if (p->text[p->pos] == '-') p->pos++;
    if (p->text[p->pos] == '0') p->pos++;
    else if (!digits(p)) return false;
    if (p->text[p->pos] == '.') {
        p->pos++;
        if (!digits(p)) return false;
    }
    if (p->text[p->pos] == 'e' || p->text[p->pos] == 'E') {
        p->pos++;
        if (p->text[p->pos] == '+' || p->text[p->pos] == '-') p->pos++;
        if (!digits(p)) return false;
    }
    /* strtod would take more than JSON allows (0x10, inf), but it starts at what was just checked,
     * and what follows must be a comma, a bracket or the end. No program here calls setlocale, so
     * it reads the point of the "C" locale. It rounds correctly. */
    v->kind = JSON_NUMBER;
    v->number = strtod(p->text + start, NULL);
    return isfinite(v->number) || expected(p, start, "a number within the range of a double");
}

/* Four hexadecimal digits at pos. */
static bool parse_hex(Parser *p, int32_t *out) {
    int32_t value = 0;
    for (int i = 0; i < 4; i++, p->pos++) {
        char c = p->text[p->pos];
        int32_t d = c >= '0' && c <= '9'   ? c - '0'
                    : c >= 'a' && c <= 'f' ? c - 'a' + 10
                    : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                           : -1;
        if (d < 0) return expected(p, p->pos, "four hexadecimal digits behind \\u");
        value = value << 4 | d;
    }
    *out = value;
    return true;
}

/* A code point behind "\u", which may take a second "\uXXXX" for what lies above U+FFFF. */
static bool parse_unicode(Parser *p, int32_t *cp) {
    size_t start = p->pos - 2;
    int32_t low = 0;
    if (!parse_hex(p, cp)) return false;
    if (*cp < 0xd800 || *cp > 0xdfff) return true;
    if (*cp > 0xdbff) return expected(p, start, "no low surrogate without a high one before it");
    if (p->text[p->pos] != '\\' || p->text[p->pos + 1] != 'u')
        return expected(p, p->pos, "\\u and a low surrogate behind a high one");
    p->pos += 2;
    start = p->pos;
    if (!parse_hex(p, &low)) return false;
    if (low < 0xdc00 || low > 0xdfff)
        return expected(p, start, "a low surrogate behind a high one");
    *cp = 0x10000 + ((*cp - 0xd800) << 10) + (low - 0xdc00);
    return true;
}

/* An escape, pos behind the backslash; what it means goes to free_string. */
static bool parse_escape(Parser *p) {
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    char c = p->text[p->pos];
    const char *simple = c ? strchr(from, c) : NULL;
    if (simple) {
        *p->free_string++ = to[simple - from];
        p->pos++;
        return true;
    }
    if (c != 'u') return expected(p, p->pos, "one of \"\\/bfnrtu behind a backslash");
    p->pos++;
    int32_t cp = 0;
    if (!parse_unicode(p, &cp)) return false;
    p->free_string += utf8_encode(cp, p->free_string);
    return true;
}

/* A string, pos at its opening quote: unescaped into the doc's block, which has room because what
 * comes out is never longer than what went in, and the quotes pay for the NUL. */
static bool parse_string(Parser *p, const char **out, size_t *len) {
    char *start = p->free_string;
    p->pos++;
    for (;;) {
        unsigned char c = (unsigned char)p->text[p->pos];
        if (c == '"') break;
        if (c == '\\') {
            p->pos++;
            if (!parse_escape(p)) return false;
        } else if (c < 0x20) {
            return expected(p, p->pos, "a closing quote, or \\u for a control character");
        } else if (c < 0x80) {
            *p->free_string++ = (char)c;
            p->pos++;
        } else {
            int32_t cp;
            int n = utf8_decode(p->text + p->pos, p->n - p->pos, &cp);
            if (cp < 0) return expected(p, p->pos, "a UTF-8 character");
            memcpy(p->free_string, p->text + p->pos, (size_t)n);
            p->free_string += n;
            p->pos += (size_t)n;
        }
    }
    p->pos++;
    *out = start;
    *len = (size_t)(p->free_string - start);
    *p->free_string++ = 0;
    return true;
}

static bool parse_word(Parser *p, Json *v) {
    static const struct {
        const char *text;
        JsonKind kind;
        bool value;
    } words[] = {
        {"null", JSON_NULL, false}, {"true", JSON_BOOL, true}, {"false", JSON_BOOL, false}};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        if (!begins_with(p->text + p->pos, p->n - p->pos, words[i].text)) continue;
        v->kind = words[i].kind;
        v->boolean = words[i].value;
        p->pos += strlen(words[i].text);
        return true;
    }
    return expected(p, p->pos, "a value");
}

/* ---- arrays and objects ---------------------------------------------------------------------- */

/* "key" : and what spaces there are, pos at the first character that should be the quote. */
static bool parse_key(Parser *p) {
    if (p->text[p->pos] != '"') return expected(p, p->pos, "a key in quotes");
    if (!parse_string(p, &p->key, &p->key_len)) return false;
    skip_space(p);
    if (p->text[p->pos] != ':') return expected(p, p->pos, "':' behind the key");
    p->pos++;
    skip_space(p);
    return true;
}

static int compare_slots(const void *a, const void *b) {
    const Slot *x = a, *y = b;
    if (x->hash != y->hash) return x->hash < y->hash ? -1 : 1;
    const Json *m = x->member, *o = y->member;
    if (m->key_len != o->key_len) return m->key_len < o->key_len ? -1 : 1;
    return memcmp(m->key, o->key, m->key_len);
}

/* FNV-1a, 64 bits */
static uint64_t hash_key(const Json *member) {
    uint64_t hash = 0xcbf29ce484222325u;
    for (size_t i = 0; i < member->key_len; i++)
        hash = (hash ^ (unsigned char)member->key[i]) * 0x100000001b3u;
    return hash;
}

static bool check_duplicates(Parser *p, const Json *object) {
    if (object->n > p->slot_room) {
        size_t room = max_size(object->n, 64);
        Slot *slots = grow_array(p->e, "JSON", p->slots, room, sizeof *slots);
        if (!slots) return false;
        p->slots = slots;
        p->slot_room = room;
    }
    size_t n = 0;
    for (const Json *m = object->child; m; m = m->next) p->slots[n++] = (Slot){hash_key(m), m};
    if (n > 1) qsort(p->slots, n, sizeof *p->slots, compare_slots);
    for (size_t i = 1; i < n; i++) {
        if (compare_slots(&p->slots[i - 1], &p->slots[i]) != 0) continue;
        const Json *a = p->slots[i - 1].member, *b = p->slots[i].member;
        const Json *second = a->source > b->source ? a : b;
        char where[64], key[128];
        line_column(p, (size_t)(second->source - p->text), where);
        printable(key, sizeof key, second->key, second->key_len);
        return fail(p->e, p->file, where, "expected every key once, got \"%s\" again", key);
    }
    return true;
}

/* Take the innermost array or object off the stack, pos at its closing bracket. */
static bool close_value(Parser *p) {
    Json *v = p->open[--p->depth];
    p->pos++;
    v->source_len = (size_t)(p->text + p->pos - v->source);
    return v->kind != JSON_OBJECT || check_duplicates(p, v);
}

/* Put an array or object on the stack, pos at its bracket. In an object that is not empty the first
 * key is read too. */
static bool open_value(Parser *p, Json *v, bool *empty) {
    bool object = p->text[p->pos] == '{';
    if (p->depth == JSON_MAX_DEPTH) return expected(p, p->pos, "at most 64 levels of nesting");
    v->kind = object ? JSON_OBJECT : JSON_ARRAY;
    p->open[p->depth] = v;
    p->last[p->depth++] = NULL;
    p->pos++;
    skip_space(p);
    *empty = p->text[p->pos] == (object ? '}' : ']');
    if (*empty) return close_value(p);
    return !object || parse_key(p);
}

/* The value at pos; of an array or object that is not empty only its beginning: then *opened. */
static bool begin_value(Parser *p, bool *opened) {
    Json *v = add_node(p);
    bool ok, empty = true;
    char c = p->text[p->pos];
    if (!v) return false;
    if (c == '{' || c == '[') {
        ok = open_value(p, v, &empty);
    } else {
        if (c == '"') {
            v->kind = JSON_STRING;
            ok = parse_string(p, &v->string, &v->string_len);
        } else if (c == '-' || (c >= '0' && c <= '9')) {
            ok = parse_number(p, v);
        } else {
            ok = parse_word(p, v);
        }
        v->source_len = (size_t)(p->text + p->pos - v->source);
    }
    *opened = !empty;
    return ok;
}

/* Behind a value: close what ends here. *more: a comma was read, another value follows. */
static bool after_value(Parser *p, bool *more) {
    *more = false;
    while (p->depth > 0) {
        bool object = p->open[p->depth - 1]->kind == JSON_OBJECT;
        skip_space(p);
        char c = p->text[p->pos];
        if (c == ',') {
            p->pos++;
            skip_space(p);
            *more = true;
            return !object || parse_key(p);
        }
        if (c != (object ? '}' : ']'))
            return expected(p, p->pos, object ? "',' or '}'" : "',' or ']'");
        if (!close_value(p)) return false;
    }
    return true;
}

static bool parse_document(Parser *p) {
    bool more = true;
    skip_space(p);
    while (more) {
        bool opened;
        if (!begin_value(p, &opened)) return false;
        if (!opened && !after_value(p, &more)) return false;
    }
    skip_space(p);
    return p->pos == p->n || expected(p, p->pos, "nothing behind the value");
}

/* ---- documents ------------------------------------------------------------------------------- */

/* Parse text[0..n), NUL at text[n], which the document owns from here on. */
static JsonDoc *parse_owned(char *text, size_t n, const char *file, Error *e) {
    JsonDoc *doc = alloc_array(e, "JSON", 1, sizeof *doc);
    char *strings = grow_array(e, "JSON", NULL, n, 1);
    if (!doc || !strings) {
        free(doc);
        free(strings);
        free(text);
        return NULL;
    }
    doc->text = text;
    doc->strings = strings;
    Parser p = {.text = text, .n = n, .file = file, .doc = doc, .free_string = strings, .e = e};
    bool ok = parse_document(&p);
    free(p.slots);
    if (ok) return doc;
    json_free(doc);
    return NULL;
}

JsonDoc *json_parse(const char *text, size_t n, const char *file, Error *e) {
    Buffer copy = {0};
    if (!buffer_add(&copy, text, n, e)) return NULL;
    return parse_owned(copy.data, n, file, e);
}

JsonDoc *json_read(const char *path, size_t limit, Error *e) {
    Buffer text = {0};
    if (!read_file(path, limit, &text, e)) return NULL;
    drop_byte_order_mark(&text);
    return parse_owned(text.data, text.n, path, e);
}

const Json *json_root(const JsonDoc *doc) { return doc->root; }

void json_free(JsonDoc *doc) {
    if (!doc) return;
    for (Chunk *c = doc->chunks, *next; c; c = next) {
        next = c->next;
        free(c);
    }
    free(doc->strings);
    free(doc->text);
    free(doc);
}

/* ---- access ---------------------------------------------------------------------------------- */

const Json *json_get(const Json *v, const char *key) {
    if (!v || v->kind != JSON_OBJECT) return NULL;
    size_t n = strlen(key);
    for (const Json *m = v->child; m; m = m->next)
        if (m->key_len == n && memcmp(m->key, key, n) == 0) return m;
    return NULL;
}

bool json_is(const Json *v, const char *text) {
    if (!v || v->kind != JSON_STRING) return false;
    size_t n = strlen(text);
    return v->string_len == n && memcmp(v->string, text, n) == 0;
}

bool json_int(const Json *v, int64_t low, int64_t high, int64_t *out) {
    char digits_only[32];
    if (!v || v->kind != JSON_NUMBER) return false;
    if (v->source_len < sizeof digits_only) { /* exact over all 64 bits */
        memcpy(digits_only, v->source, v->source_len);
        digits_only[v->source_len] = 0;
        if (parse_int(digits_only, low, high, out)) return true;
    }
    /* 1.0 and 1e3 are integers too, as far as a double holds every integer. */
    if (fabs(v->number) >= 9007199254740992.0 || v->number != floor(v->number)) return false;
    int64_t value = (int64_t)v->number;
    if (value < low || value > high) return false;
    *out = value;
    return true;
}

/* ---- writing --------------------------------------------------------------------------------- */

bool json_quote(Buffer *out, const char *text, size_t n, Error *e) {
    static const char from[] = "\"\\\n\r\t\f\b", to[] = "\"\\nrtfb";
    bool ok = buffer_puts(out, "\"", e);
    size_t start = 0;
    for (size_t i = 0; ok && i < n; i++) {
        unsigned char c = (unsigned char)text[i];
        const char *simple = c ? strchr(from, c) : NULL;
        if (!simple && c >= 0x20) continue;
        ok = buffer_add(out, text + start, i - start, e) &&
             (simple ? buffer_printf(out, e, "\\%c", to[simple - from])
                     : buffer_printf(out, e, "\\u%04x", c));
        start = i + 1;
    }
    return ok && buffer_add(out, text + start, n - start, e) && buffer_puts(out, "\"", e);
}
