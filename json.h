/* json.h: a small strict JSON reader (RFC 8259), for configuration files, messages and indexes.
 *
 * Strict: UTF-8 only, no byte order mark, no comments, no trailing commas, no duplicate keys, no
 * lone surrogates, nothing after the value, no number beyond the range of a double. No recursion:
 * depth is limited by an explicit stack. The tree keeps the order of keys and the exact source text
 * of every value. */
#ifndef JSON_H
#define JSON_H

#include "base.h"

#define JSON_MAX_DEPTH 64 /* levels of arrays and objects in each other */

typedef enum { JSON_NULL, JSON_BOOL, JSON_NUMBER, JSON_STRING, JSON_ARRAY, JSON_OBJECT } JsonKind;

typedef struct Json {
    JsonKind kind;
    bool boolean;
    double number;         /* JSON_NUMBER: correctly rounded */
    const char *string;    /* JSON_STRING: unescaped UTF-8, NUL-terminated, may hold NULs inside */
    size_t string_len;     /* bytes of string */
    const char *key;       /* name of this member when the parent is an object, else NULL */
    size_t key_len;
    const char *source;    /* the value's own source text ... */
    size_t source_len;     /* ... and its length: numbers can be shown as they were written */
    struct Json *child;    /* first member or element, NULL when empty */
    struct Json *next;     /* next member or element of the same parent */
    size_t n;              /* number of members or elements */
} Json;

typedef struct JsonDoc JsonDoc; /* owns the tree, its strings and a copy of the text */

/* Parse text[0..n). `file` names it in errors, which give line and column. NULL on error. */
JsonDoc *json_parse(const char *text, size_t n, const char *file, Error *e);
/* Read and parse a file of at most `limit` bytes, with or without a byte order mark. */
JsonDoc *json_read(const char *path, size_t limit, Error *e);
const Json *json_root(const JsonDoc *doc);
void json_free(JsonDoc *doc); /* NULL is allowed */

/* The member called `key`, or NULL when v is NULL, no object, or has no such member. */
const Json *json_get(const Json *v, const char *key);
/* Does the string equal text? false when v is NULL or no string. */
bool json_is(const Json *v, const char *text);
/* The number as an integer: false unless v is a number without fraction within [low, high]. */
bool json_int(const Json *v, int64_t low, int64_t high, int64_t *out);

/* Append text[0..n) to *out as a JSON string, with the escapes that Python's json.dumps writes
 * (ensure_ascii off): quotes, backslash and control characters. Bytes that are no UTF-8 stay. */
bool json_quote(Buffer *out, const char *text, size_t n, Error *e);

#endif
