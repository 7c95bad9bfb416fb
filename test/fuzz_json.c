/* fuzz_json.c: the JSON reader: what it accepts is walked through and written again, and must then
 * read as the same. */
#include "../json.h"
#include "fuzz.h"

/* Look at every byte of the tree; its values have the source text that they say. */
static size_t walk(const Json *root, const char *text, size_t n) {
    size_t count = 0;
    const Json *open[JSON_MAX_DEPTH + 1], *v = root;
    size_t depth = 0;
    (void)text;
    while (v) {
        count++;
        if (v->source_len == 0 || v->source_len > n) abort();
        if (v->kind == JSON_STRING && v->string[v->string_len] != 0) abort();
        if (v->key && v->key[v->key_len] != 0) abort();
        if (v->child) {
            if (depth == JSON_MAX_DEPTH) abort();
            open[depth++] = v;
            v = v->child;
            continue;
        }
        while (v && !v->next) v = depth > 0 ? open[--depth] : NULL;
        if (v) v = v->next;
    }
    return count;
}

static void check_string(const Json *v) {
    Buffer quoted = {0};
    Error e;
    if (!json_quote(&quoted, v->string, v->string_len, &e)) abort();
    JsonDoc *doc = json_parse(quoted.data, quoted.n, "again", &e);
    const Json *again = doc ? json_root(doc) : NULL;
    if (!again || again->kind != JSON_STRING || again->string_len != v->string_len ||
        memcmp(again->string, v->string, v->string_len) != 0)
        abort();
    json_free(doc);
    buffer_free(&quoted);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    Error e = {{0}};
    int64_t i;
    JsonDoc *doc = json_parse((const char *)data, n, "fuzz", &e);
    if (!doc) return fuzz_error(&e), 0;
    const Json *root = json_root(doc);
    walk(root, (const char *)data, n);
    if (root->kind == JSON_STRING) check_string(root);
    for (const Json *v = root->child; v; v = v->next) {
        if (v->kind == JSON_STRING) check_string(v);
        if (json_int(v, -1000, 1000, &i) && (i < -1000 || i > 1000)) abort();
        bool plain = v->key && !memchr(v->key, 0, v->key_len);
        if (plain && !json_get(root, v->key)) abort();
    }
    json_free(doc);
    return 0;
}
