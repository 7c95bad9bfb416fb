/* test_json.c: what json.c accepts (and the value it reads), what it refuses (and where it says the
 * fault is), and that large and hostile texts take linear time. */
#include "test.h"

#include <math.h>

#include "../json.h"

/* ---- the tree back to text, without spaces: proves kinds, order, links and counts ------------ */

static void show_string(const char *s, size_t n, Buffer *out, Error *e) {
    buffer_puts(out, "\"", e);
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)s[i];
        if (c < 0x20 || c == '"' || c == '\\') buffer_printf(out, e, "<%02x>", c);
        else buffer_add(out, s + i, 1, e);
    }
    CHECK(s[n] == 0, "NUL behind a string");
    buffer_puts(out, "\"", e);
}

static void show(const Json *v, Buffer *out, Error *e) {
    size_t n = 0;
    if (v->key) {
        show_string(v->key, v->key_len, out, e);
        buffer_puts(out, ":", e);
    }
    switch (v->kind) {
    case JSON_NULL: buffer_puts(out, "null", e); break;
    case JSON_BOOL: buffer_puts(out, v->boolean ? "true" : "false", e); break;
    case JSON_NUMBER: buffer_printf(out, e, "%.17g", v->number); break;
    case JSON_STRING: show_string(v->string, v->string_len, out, e); break;
    case JSON_ARRAY:
    case JSON_OBJECT:
        buffer_puts(out, v->kind == JSON_ARRAY ? "[" : "{", e);
        for (const Json *c = v->child; c; c = c->next) {
            if (n++) buffer_puts(out, ",", e);
            show(c, out, e);
        }
        CHECK(n == v->n, "n is the number of children");
        buffer_puts(out, v->kind == JSON_ARRAY ? "]" : "}", e);
    }
}

typedef struct {
    const char *text, *shown; /* shown NULL: as text */
} Accept;

static const Accept accepted[] = {
    /* structure */
    {"[]", 0}, {"{}", 0}, {"[[]]", 0}, {"[{}]", 0}, {"[[],[],{}]", 0}, {"{\"a\":{}}", 0},
    {" \t\r\n[ \t\r\n] \t\r\n", "[]"}, {"{ \"a\" : 1 , \"b\" : [ ] }", "{\"a\":1,\"b\":[]}"},
    {"[1,[2,[3,[4]],5],6]", 0}, {"{\"a\":{\"a\":{\"a\":1}}}", 0}, {"[{\"a\":1},{\"a\":1}]", 0},
    {"{\"b\":1,\"a\":2,\"10\":3,\"9\":4}", 0}, {"{\"\":0}", 0}, {"{\"a\":1,\"A\":2}", 0},
    {"{\"a\":1,\"a\\u0000\":2}", "{\"a\":1,\"a<00>\":2}"},
    /* scalars at the top */
    {"null", 0}, {"true", 0}, {"false", 0}, {"0", 0}, {"\"\"", 0}, {" 42 ", "42"},
    {"[null,true,false]", 0},
    /* numbers */
    {"[-0]", 0}, {"[-1]", 0}, {"[123]", 0}, {"[1.5]", 0}, {"[-1.25e2]", "[-125]"},
    {"[0.5]", 0}, {"[0e1]", "[0]"}, {"[0E+1]", "[0]"}, {"[1e0]", "[1]"}, {"[1E5]", "[100000]"},
    {"[1e-2]", "[0.01]"}, {"[20e1]", "[200]"}, {"[0.0]", "[0]"}, {"[1e-400]", "[0]"},
    {"[123456789012345678901]", "[1.2345678901234568e+20]"},
    {"[0.1]", "[0.10000000000000001]"}, {"[1.7976931348623157e308]", "[1.7976931348623157e+308]"},
    {"[9007199254740993]", "[9007199254740992]"}, {"[2.2250738585072011e-308]",
     "[2.2250738585072009e-308]"}, {"[5e-324]", "[4.9406564584124654e-324]"},
    {"[0.000000000000000000000000000000000000000000000000000000000000000000000000000001]",
     "[1e-78]"},
    /* strings and escapes */
    {"\"abc\"", 0}, {"\"\\\"\\\\\\/\\b\\f\\n\\r\\t\"", "\"<22><5c>/<08><0c><0a><0d><09>\""},
    {"\"\\u0041\\u00e9\\u20ac\"", "\"A\xc3\xa9\xe2\x82\xac\""}, {"\"\\uD83D\\uDE00\"",
     "\"\xf0\x9f\x98\x80\""}, {"\"\\ud800\\udc00\"", "\"\xf0\x90\x80\x80\""},
    {"\"\\uDBFF\\uDFFF\"", "\"\xf4\x8f\xbf\xbf\""}, {"\"\\uFFFF\"", "\"\xef\xbf\xbf\""},
    {"\"a\\u0000b\"", "\"a<00>b\""}, {"\"\\u001f\"", "\"<1f>\""}, {"\"\\u000a\"", "\"<0a>\""},
    {"\"\x7f\"", 0}, {"\"\xc3\xa9\"", 0}, {"\"\xe2\x82\xac\"", 0}, {"\"\xf0\x9f\x98\x80\"", 0},
    {"\"\xef\xbb\xbf\"", 0}, {"\"\xef\xbf\xbe\"", 0}, {"\"\xf4\x8f\xbf\xbf\"", 0},
    {"\"\xe2\x80\xa8\xe2\x80\xa9\"", 0}, {"\"//\"", 0}, {"\"/**/\"", 0}, {"\" \"", 0},
    {"\"\\\\u0041\"", "\"<5c>u0041\""}, {"\"'\"", 0}, {"\"\xc2\x80\"", 0},
};

typedef struct {
    const char *text;
    unsigned line, column;
} Refuse;

static const Refuse refused[] = {
    /* nothing, or not alone */
    {"", 1, 1}, {" ", 1, 2}, {"\n\n", 3, 1}, {"[] []", 1, 4}, {"1 2", 1, 3}, {"nullnull", 1, 5},
    {"{}}", 1, 3}, {"[]]", 1, 3}, {"\"a\"x", 1, 4}, {"[],", 1, 3}, {"{},{}", 1, 3}, {"0x", 1, 2},
    {"\xef\xbb\xbf{}", 1, 1}, {"\xff\xfe[", 1, 1}, {"[]\x0c", 1, 3}, {"\xc2\xa0[]", 1, 1},
    {"//c\n1", 1, 1}, {"/**/1", 1, 1}, {"1#", 1, 2}, {"<json>", 1, 1},
    /* arrays */
    {"[", 1, 2}, {"]", 1, 1}, {"[1", 1, 3}, {"[1,", 1, 4}, {"[1,]", 1, 4}, {"[,1]", 1, 2},
    {"[,]", 1, 2}, {"[1,,2]", 1, 4}, {"[1 2]", 1, 4}, {"[1;2]", 1, 3}, {"[1}", 1, 3},
    {"[\n1\n,\n}", 4, 1}, {"[1:2]", 1, 3}, {"[\"a\"", 1, 5}, {"[[1]", 1, 5}, {"[*]", 1, 2},
    {"[\"\"],", 1, 5}, {"[\"a\":1]", 1, 5},
    /* objects */
    {"{", 1, 2}, {"}", 1, 1}, {"{\"a\"", 1, 5}, {"{\"a\":", 1, 6}, {"{\"a\":1", 1, 7},
    {"{\"a\":1,", 1, 8}, {"{\"a\":1,}", 1, 8}, {"{,}", 1, 2}, {"{a:1}", 1, 2}, {"{1:1}", 1, 2},
    {"{'a':1}", 1, 2}, {"{\"a\" 1}", 1, 6}, {"{\"a\",1}", 1, 5}, {"{\"a\"::1}", 1, 6},
    {"{\"a\":1 \"b\":2}", 1, 8}, {"{\"a\":1]", 1, 7}, {"{\"a\"}", 1, 5}, {"{\"a\":}", 1, 6},
    {"{null:1}", 1, 2}, {"{[1]:1}", 1, 2}, {"{\"a\":1,,\"b\":2}", 1, 8}, {"{\"a\":1;}", 1, 7},
    {"{\n  \"a\": 1,\n  \"b\" 2\n}", 3, 7}, {"{\"a\":{\"b\":1,}}", 1, 13},
    /* the same key twice */
    {"{\"a\":1,\"a\":2}", 1, 12}, {"{\"a\":1,\"b\":2,\"a\":1}", 1, 18},
    {"{\"a\":1,\"\\u0061\":2}", 1, 17}, {"{\"\":1,\n\"\":2}", 2, 4}, {"[{\"x\":{\"y\":1,\"y\":1}}]",
     1, 18}, {"{\"\xc3\xa9\":1,\"\xc3\xa9\":2}", 1, 12},
    /* words */
    {"nul", 1, 1}, {"[nul]", 1, 2}, {"True", 1, 1}, {"[tru]", 1, 2}, {"[truth]", 1, 2},
    {"NaN", 1, 1}, {"Infinity", 1, 1}, {"inf", 1, 1}, {"None", 1, 1}, {"undefined", 1, 1},
    {"[true false]", 1, 7}, {"[nulll]", 1, 6}, {"[FALSE]", 1, 2},
    /* numbers */
    {"01", 1, 2}, {"-01", 1, 3}, {"00", 1, 2}, {"+1", 1, 1}, {"-", 1, 2}, {"--1", 1, 2},
    {"1.", 1, 3}, {".5", 1, 1}, {"-.5", 1, 2}, {"1.e1", 1, 3}, {"1e", 1, 3}, {"1e+", 1, 4},
    {"1E-", 1, 4}, {"1e1.5", 1, 4}, {"0x10", 1, 2}, {"0b1", 1, 2}, {"1_000", 1, 2}, {"1,5", 1, 2},
    {"-Infinity", 1, 2}, {"-NaN", 1, 2}, {"1e309", 1, 1}, {"-1e400", 1, 1}, {"[1e1000]", 1, 2},
    {"1.2.3", 1, 4}, {"1e5e5", 1, 4}, {"[1 000]", 1, 4}, {"2.e+3", 1, 3}, {"1f", 1, 2},
    {"\xef\xbc\x91", 1, 1}, {"0e", 1, 3}, {"[-]", 1, 3}, {"- 1", 1, 2}, {"1eE2", 1, 3},
    {"0x1p3", 1, 2}, {"[0.]", 1, 4},
    /* strings */
    {"\"", 1, 2}, {"\"a", 1, 3}, {"\"a\\", 1, 4}, {"\"\\\"", 1, 4}, {"'a'", 1, 1},
    {"\"\\x41\"", 1, 3}, {"\"\\a\"", 1, 3}, {"\"\\'\"", 1, 3}, {"\"\\0\"", 1, 3},
    {"\"\\U0041\"", 1, 3}, {"\"\\\n\"", 1, 3}, {"\"a\nb\"", 1, 3}, {"\"\t\"", 1, 2},
    {"\"\x01\"", 1, 2}, {"\"\x1f\"", 1, 2}, {"\"\\u\"", 1, 4}, {"\"\\u004\"", 1, 7},
    {"\"\\u00g0\"", 1, 6}, {"\"\\u 041\"", 1, 4}, {"\"\\u+041\"", 1, 4}, {"\"\\u", 1, 4},
    {"\"\\\"]", 1, 5}, {"\"\\u12", 1, 6}, {"\xe2\x80\x9c" "a\xe2\x80\x9d", 1, 1},
    /* surrogates */
    {"\"\\ud800\"", 1, 8}, {"\"\\udc00\"", 1, 2}, {"\"\\ud800a\"", 1, 8}, {"\"\\ud800\\n\"", 1, 8},
    {"\"\\ud800\\u0041\"", 1, 10}, {"\"\\ud800\\ud800\"", 1, 10}, {"\"\\udfff\\ud800\"", 1, 2},
    {"\"\\ud83d\\ude0\"", 1, 13}, {"\"\\ud800\\", 1, 8}, {"{\"\\udead\":1}", 1, 3},
    /* UTF-8 */
    {"\"\x80\"", 1, 2}, {"\"\xbf\"", 1, 2}, {"\"\xc0\x80\"", 1, 2}, {"\"\xc1\xbf\"", 1, 2},
    {"\"\xc3\"", 1, 2}, {"\"\xe2\x82\"", 1, 2}, {"\"\xe0\x80\x80\"", 1, 2},
    {"\"\xe0\x9f\xbf\"", 1, 2}, {"\"\xed\xa0\x80\"", 1, 2}, {"\"\xed\xbf\xbf\"", 1, 2},
    {"\"\xf0\x8f\xbf\xbf\"", 1, 2}, {"\"\xf4\x90\x80\x80\"", 1, 2}, {"\"\xf5\x80\x80\x80\"", 1, 2},
    {"\"\xff\"", 1, 2}, {"\"\xfe\"", 1, 2}, {"\"\xf0\x9f\x98\"", 1, 2}, {"\"a\xc3\xa9\xe9\"", 1, 4},
    {"\"\xc3", 1, 2}, {"{\"\xff\":1}", 1, 3}, {"[\xc3\xa9]", 1, 2},
};

static void test_tables(void) {
    Error e;
    for (size_t i = 0; i < sizeof accepted / sizeof *accepted; i++) {
        const Accept *a = &accepted[i];
        const char *want = a->shown ? a->shown : a->text;
        JsonDoc *doc = json_parse(a->text, strlen(a->text), "t", &e);
        CHECK(doc != NULL, "accept %s: %s", a->text, e.text);
        if (!doc) continue;
        Buffer shown = {0};
        show(json_root(doc), &shown, &e);
        CHECK(!strcmp(shown.data, want), "%s read as %s, not %s", a->text, shown.data, want);
        buffer_free(&shown);
        json_free(doc);
    }
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        const Refuse *r = &refused[i];
        char want[64];
        JsonDoc *doc = json_parse(r->text, strlen(r->text), "t", &e);
        CHECK(doc == NULL, "refuse %s", r->text);
        json_free(doc);
        if (doc) continue;
        snprintf(want, sizeof want, "t: line %u column %u: expected ", r->line, r->column);
        CHECK(!strncmp(e.text, want, strlen(want)) && strstr(e.text, ", got "),
              "%s: \"%s\" does not begin with \"%s\"", r->text, e.text, want);
    }
    CHECK(json_parse("[1\0]", 4, "t", &e) == NULL, "NUL between tokens");
    CHECK(!strcmp(e.text, "t: line 1 column 3: expected ',' or ']', got U+0000"), "%s", e.text);
    CHECK(json_parse("\"a\0b\"", 5, "t", &e) == NULL, "NUL in a string");
    CHECK(json_parse("[]\0", 3, "t", &e) == NULL, "NUL behind the value");
    CHECK(json_parse("{\"k\":1,\"k\":2}", 13, "t", &e) == NULL, "duplicate");
    CHECK(strstr(e.text, "expected every key once, got \"k\" again"), "%s", e.text);
}

/* Each prefix of a valid text is refused, cleanly: nothing is read behind the end. */
static void test_prefixes(void) {
    static const char text[] = "{\"a\":[1,-2.5e+3,\"\\u00e9\\ud83d\\ude00\\n\xc3\xa9\",true,null],"
                               "\"b\":{\"c\":false}}";
    Error e;
    for (size_t n = 0; n < sizeof text - 1; n++) {
        char *copy = malloc(n + 1); /* so that a sanitizer sees a byte too far */
        if (!copy) return;
        memcpy(copy, text, n);
        CHECK(json_parse(copy, n, "t", &e) == NULL, "prefix of %zu bytes", n);
        free(copy);
    }
    JsonDoc *doc = json_parse(text, sizeof text - 1, "t", &e);
    CHECK(doc != NULL, "whole text: %s", e.text);
    json_free(doc);
}

/* `depth` opening pieces, then a 0, then the closing ones. */
static JsonDoc *nested(const char *open, const char *close, size_t depth, Error *e) {
    Buffer b = {0};
    for (size_t i = 0; i < depth; i++) buffer_puts(&b, open, e);
    buffer_puts(&b, "0", e);
    for (size_t i = 0; i < depth && close; i++) buffer_puts(&b, close, e);
    JsonDoc *doc = json_parse(b.data, b.n, "t", e);
    buffer_free(&b);
    return doc;
}

static void test_depth(void) {
    Error e;
    static const char *pairs[][2] = {{"[", "]"}, {"{\"a\":", "}"}, {"[{\"a\":", "}]"}};
    for (size_t i = 0; i < 3; i++) {
        size_t most = i == 2 ? 32 : 64;
        JsonDoc *doc = nested(pairs[i][0], pairs[i][1], most, &e);
        CHECK(doc != NULL, "64 levels: %s", e.text);
        json_free(doc);
        CHECK(!nested(pairs[i][0], pairs[i][1], most + 1, &e), "more than 64 levels");
        CHECK(strstr(e.text, "at most 64 levels"), "%s", e.text);
        CHECK(!nested(pairs[i][0], NULL, 1000000, &e), "a million levels");
    }
}

static void test_access(void) {
    static const char text[] =
        "{\"s\":\"x\\u0000y\",\"n\": 12.50 ,\"big\":9223372036854775807,\"small\":"
        "-9223372036854775808,\"over\":9223372036854775808,\"whole\":1.0,\"e\":1e3,\"half\":0.5,"
        "\"a\":[ 1, {\"k\" : [] } ],\"t\":\"text\",\"neg\":-0.0,\"odd\":9007199254740993}";
    Error e;
    JsonDoc *doc = json_parse(text, strlen(text), "t", &e);
    CHECK(doc != NULL, "%s", e.text);
    if (!doc) return;
    const Json *r = json_root(doc), *v = json_get(r, "s");
    int64_t i = 0;
    CHECK(r->n == 12 && v && v->string_len == 3 && !memcmp(v->string, "x\0y", 4), "inner NUL");
    CHECK(json_is(json_get(r, "t"), "text") && !json_is(v, "x") && !json_is(r, "x"), "json_is");
    CHECK(!json_get(r, "missing") && !json_get(NULL, "x") && !json_get(v, "x"), "json_get");
    v = json_get(r, "n");
    CHECK(v && v->source_len == 5 && !memcmp(v->source, "12.50", 5), "source of a number");
    v = json_get(r, "a");
    CHECK(v && v->source_len == 18 && !memcmp(v->source, "[ 1, {\"k\" : [] } ]", 18),
          "source of an array, %zu", v ? v->source_len : 0);
    CHECK(json_int(json_get(r, "big"), INT64_MIN, INT64_MAX, &i) && i == INT64_MAX, "big");
    CHECK(json_int(json_get(r, "small"), INT64_MIN, INT64_MAX, &i) && i == INT64_MIN, "small");
    CHECK(!json_int(json_get(r, "over"), INT64_MIN, INT64_MAX, &i), "over");
    CHECK(!json_int(json_get(r, "odd"), 0, 9007199254740992, &i), "2^53 + 1 is not rounded");
    CHECK(json_int(json_get(r, "whole"), 0, 1, &i) && i == 1, "1.0");
    CHECK(json_int(json_get(r, "e"), 0, 1000, &i) && i == 1000, "1e3");
    CHECK(!json_int(json_get(r, "e"), 0, 999, &i), "range");
    CHECK(!json_int(json_get(r, "half"), 0, 9, &i) && !json_int(NULL, 0, 9, &i) &&
              !json_int(r, 0, 9, &i), "no integers");
    v = json_get(r, "neg");
    CHECK(v && v->number == 0 && signbit(v->number), "minus zero keeps its sign");
    json_free(doc);
    json_free(NULL);
}

/* Keys of which FNV-1a makes the same number, 0, which a NUL behind them does not change. */
static void test_collisions(void) {
    static const char text[] = "{\"!0IC=VloaY\":1,\"QvXtM>@Fp%\":2,\"!0IC=VloaY\\u0000\":3,"
                               "\"QvXtM>@Fp%\\u0000\\u0000\":4,\"\":5}";
    static const char twice[] = "{\"QvXtM>@Fp%\\u0000\":1,\"!0IC=VloaY\":2,\"QvXtM>@Fp%\":3,"
                                "\"QvXtM>@Fp%\\u0000\":4}";
    Error e;
    JsonDoc *doc = json_parse(text, sizeof text - 1, "t", &e);
    CHECK(doc && json_root(doc)->n == 5, "different keys of one hash: %s", doc ? "" : e.text);
    if (doc) CHECK(json_get(json_root(doc), "QvXtM>@Fp%")->number == 2, "the right one is found");
    json_free(doc);
    doc = json_parse(twice, sizeof twice - 1, "t", &e);
    CHECK(!doc && strstr(e.text, "every key once, got \"QvXtM>@Fp%\\x00\" again"), "%s",
          doc ? "accepted" : e.text);
    json_free(doc);
}

/* More digits than a 64-bit number has: exact as far as a double is. */
static void test_long_numbers(void) {
    static const char text[] = "[1.0000000000000000000000000000000000,"
                               "123456789012345678901234567890123456]";
    Error e;
    int64_t i = 0;
    JsonDoc *doc = json_parse(text, sizeof text - 1, "t", &e);
    CHECK(doc, "%s", e.text);
    if (!doc) return;
    const Json *v = json_root(doc)->child;
    CHECK(json_int(v, 0, 9, &i) && i == 1, "1.000");
    CHECK(!json_int(v->next, INT64_MIN, INT64_MAX, &i), "too large");
    json_free(doc);
}

static void test_quote(void) {
    Error e;
    Buffer b = {0};
    CHECK(json_quote(&b, "a\"\\/\b\f\n\r\t\0\x1f\x7f\xc3\xa9", 14, &e), "%s", e.text);
    CHECK(!strcmp(b.data, "\"a\\\"\\\\/\\b\\f\\n\\r\\t\\u0000\\u001f\x7f\xc3\xa9\""), "%s", b.data);
    JsonDoc *doc = json_parse(b.data, b.n, "t", &e);
    CHECK(doc && json_root(doc)->string_len == 14, "read back");
    json_free(doc);
    b.n = 0;
    CHECK(json_quote(&b, "", 0, &e) && !strcmp(b.data, "\"\""), "empty");
    buffer_free(&b);
}

/* 200,000 keys in one object, and the same with one of them twice. */
static void test_large(void) {
    Error e;
    for (int twice = 0; twice < 2; twice++) {
        Buffer b = {0};
        buffer_puts(&b, "{", &e);
        for (int i = 0; i < 200000; i++) buffer_printf(&b, &e, "\"key%d\":%d,\n", i, i);
        buffer_puts(&b, twice ? "\"key77\":1}" : "\"last\":1}", &e);
        double start = now_seconds();
        JsonDoc *doc = json_parse(b.data, b.n, "t", &e);
        CHECK(now_seconds() - start < 5, "takes %.1f s", now_seconds() - start);
        CHECK(twice == (doc == NULL), "%s", twice ? "duplicate refused" : e.text);
        if (twice) CHECK(strstr(e.text, "line 200001 ") && strstr(e.text, "key77"), "%s", e.text);
        json_free(doc);
        buffer_free(&b);
    }
}

/* Any bytes at all: it may refuse, it must not crash. Half of them are changed valid texts. */
static void test_random_bytes(void) {
    static const char seed_text[] =
        "{\"a\":[1,-2.5e3,\"\\u00e9\\ud83d\\ude00\"],\"b\":{\"c\":null}}";
    static const char alphabet[] = "{}[]\",:\\u0e-+.tfn d8c";
    uint64_t state = 42;
    long parsed = 0;
    for (int round = 0; round < 20000; round++) {
        char text[sizeof seed_text];
        size_t n = sizeof seed_text - 1;
        memcpy(text, seed_text, n);
        for (uint64_t k = test_random(&state) % 8; k < 8; k++) {
            uint64_t r = test_random(&state);
            size_t pick = (size_t)(r >> 40);
            text[r % n] = r >> 32 & 1 ? (char)pick : alphabet[pick % (sizeof alphabet - 1)];
        }
        Error e;
        JsonDoc *doc = json_parse(text, n, "t", &e);
        parsed += doc != NULL;
        json_free(doc);
    }
    CHECK(parsed > 0, "some of them are valid");
}

static void test_file(void) {
    Error e;
    CHECK(json_read("/nonexistent/x.json", 100, &e) == NULL, "missing file");
    CHECK(strstr(e.text, "/nonexistent/x.json: cannot open"), "%s", e.text);
    CHECK(json_read("/dev/null", 100, &e) == NULL, "empty file");
    CHECK(strstr(e.text, "/dev/null: line 1 column 1: expected a value"), "%s", e.text);
}

int main(void) {
    test_tables();
    test_prefixes();
    test_depth();
    test_access();
    test_collisions();
    test_long_numbers();
    test_quote();
    test_large();
    test_random_bytes();
    test_file();
    return test_end("json");
}
