/* test_tokenizer.c: the tokenizer on small vocabularies that the test builds in memory.
 *
 * To see where the scanner cuts, a text gets a vocabulary of all its substrings with all the merges
 * between them: then every word ends as exactly one token. Merging is compared with a plain search
 * for the best pair. The comparison with the real vocabulary is another test's business. */
#include "test.h"

#include <time.h>

#include "../model.h"
#include "../tokenizer.h"

#define MEGABYTE ((size_t)1 << 20)

/* ---- A vocabulary under construction --------------------------------------------------------- */

#define MAX_TOKENS 1024
#define MAX_MERGES_HERE 4096

typedef struct {
    char *text[MAX_TOKENS]; /* (n) bytes each, owned */
    uint32_t length[MAX_TOKENS];
    TokenizerMerge merges[MAX_MERGES_HERE];
    TokenizerAdded added[16];
    uint32_t n_tokens, n_merges, n_added;
} Vocabulary;

static void *need(void *p) {
    if (!p) {
        fprintf(stderr, "out of memory\n");
        exit(1);
    }
    return p;
}

static uint32_t add_token(Vocabulary *v, const char *text, size_t n) {
    uint32_t id = v->n_tokens++;
    v->text[id] = need(malloc(n + 1));
    memcpy(v->text[id], text, n);
    v->length[id] = (uint32_t)n;
    return id;
}

/* The id of a text, which is added when new. */
static uint32_t token(Vocabulary *v, const char *text, size_t n) {
    for (uint32_t i = 0; i < v->n_tokens; i++)
        if (v->length[i] == n && memcmp(v->text[i], text, n) == 0) return i;
    return add_token(v, text, n);
}

/* Add the merge of two tokens, unless it is there; returns its result. */
static uint32_t add_merge(Vocabulary *v, uint32_t left, uint32_t right) {
    char both[256];
    for (uint32_t i = 0; i < v->n_merges; i++)
        if (v->merges[i].left == left && v->merges[i].right == right) return v->merges[i].result;
    memcpy(both, v->text[left], v->length[left]);
    memcpy(both + v->length[left], v->text[right], v->length[right]);
    uint32_t result = token(v, both, v->length[left] + v->length[right]);
    v->merges[v->n_merges++] = (TokenizerMerge){left, right, result};
    return result;
}

static void add_special(Vocabulary *v, const char *text, uint32_t special) {
    uint32_t id = add_token(v, text, strlen(text));
    v->added[v->n_added++] = (TokenizerAdded){id, special};
}

/* 256 bytes in an order of their own (byte b is token b * 37 mod 256), one merge of bytes that no
 * text here contains, because a vocabulary must have one. */
static Vocabulary *new_vocabulary(void) {
    Vocabulary *v = need(calloc(1, sizeof *v));
    for (int i = 0; i < 256; i++) {
        char byte = (char)(i * 173); /* 37 * 173 = 1 mod 256 */
        add_token(v, &byte, 1);
    }
    add_merge(v, token(v, "\xfe", 1), token(v, "\xfe", 1));
    return v;
}

static void free_vocabulary(Vocabulary *v) {
    for (uint32_t i = 0; i < v->n_tokens; i++) free(v->text[i]);
    free(v);
}

/* A section as model.h draws it. The caller frees section->start. */
typedef struct {
    char *start;
    size_t bytes;
    TokenizerHeader *header;
    uint32_t *end;
    TokenizerMerge *merges;
    TokenizerAdded *added;
    char *text;
} Section;

static Section make_section(const Vocabulary *v) {
    uint32_t text_bytes = 0;
    for (uint32_t i = 0; i < v->n_tokens; i++) text_bytes += v->length[i];
    Section s = {.bytes = sizeof *s.header + v->n_tokens * sizeof *s.end + text_bytes +
                          v->n_merges * sizeof *s.merges + v->n_added * sizeof *s.added};
    s.start = need(malloc(s.bytes));
    s.header = (void *)s.start;
    s.end = (void *)(s.header + 1);
    s.merges = (void *)(s.end + v->n_tokens);
    s.added = (void *)(s.merges + v->n_merges);
    s.text = (char *)(s.added + v->n_added);
    *s.header = (TokenizerHeader){v->n_tokens, v->n_merges, v->n_added, text_bytes};
    memcpy(s.merges, v->merges, v->n_merges * sizeof *s.merges);
    memcpy(s.added, v->added, v->n_added * sizeof *s.added);
    for (uint32_t i = 0, at = 0; i < v->n_tokens; i++) {
        memcpy(s.text + at, v->text[i], v->length[i]);
        s.end[i] = at += v->length[i];
    }
    return s;
}

/* A tokenizer and the section it uses. */
typedef struct {
    Section section;
    Tokenizer *t;
} Opened;

static Opened open_vocabulary(const Vocabulary *v) {
    Error e = {{0}};
    Opened o = {.section = make_section(v)};
    o.t = tokenizer_open(o.section.start, o.section.bytes, "test", &e);
    CHECK(o.t, "a good vocabulary is refused: %s", e.text);
    if (!o.t) exit(1);
    return o;
}

static void close_vocabulary(Opened *o) {
    tokenizer_close(o->t);
    free(o->section.start);
}

/* ---- What is encoded ------------------------------------------------------------------------- */

static Ids encode(const Tokenizer *t, const char *text, size_t n, bool parse_special) {
    Ids ids = {0};
    Error e = {{0}};
    char *copy = need(malloc(n ? n : 1)); /* no byte to spare: sanitizers see a read too far */
    if (n > 0) memcpy(copy, text, n);
    if (!tokenizer_encode(t, copy, n, parse_special, &ids, &e)) CHECK(false, "%s", e.text);
    free(copy);
    return ids;
}

static Buffer decode(const Tokenizer *t, const Ids *ids) {
    Buffer out = {0};
    Error e = {{0}};
    for (size_t i = 0; i < ids->n; i++) {
        size_t n;
        const char *bytes = tokenizer_bytes(t, ids->ids[i], &n);
        if (!bytes || !buffer_add(&out, bytes, n, &e)) CHECK(false, "token %d", ids->ids[i]);
    }
    return out;
}

static Buffer round_trip(const Tokenizer *t, const char *text, size_t n) {
    Ids ids = encode(t, text, n, false);
    Buffer out = decode(t, &ids);
    ids_free(&ids);
    return out;
}

static bool same_bytes(const char *a, size_t n_a, const char *b, size_t n_b) {
    return n_a == n_b && (n_a == 0 || memcmp(a, b, n_a) == 0);
}

static void show(char out[200], const char *text, size_t n) { printable(out, 200, text, n); }

/* ---- The scanner ----------------------------------------------------------------------------- */

/* Check that a text, here with | where it must be cut, is cut so. */
static void check_words(const char *marked) {
    char text[64], got[128] = "", a[200], b[200];
    size_t n = 0, n_got = 0;
    for (const char *p = marked; *p; p++)
        if (*p != '|') text[n++] = *p;
    Vocabulary *v = new_vocabulary();
    for (size_t length = 2; length <= n; length++)
        for (size_t i = 0; i + length <= n; i++)
            for (size_t k = 1; k < length; k++)
                add_merge(v, token(v, text + i, k), token(v, text + i + k, length - k));
    Opened o = open_vocabulary(v);
    Ids ids = encode(o.t, text, n, false);
    for (size_t i = 0; i < ids.n; i++) {
        size_t length;
        const char *bytes = tokenizer_bytes(o.t, ids.ids[i], &length);
        if (i > 0) got[n_got++] = '|';
        memcpy(got + n_got, bytes, length);
        n_got += length;
    }
    show(a, marked, strlen(marked));
    show(b, got, n_got);
    CHECK(same_bytes(marked, strlen(marked), got, n_got), "expected %s, got %s", a, b);
    ids_free(&ids);
    close_vocabulary(&o);
    free_vocabulary(v);
}

static void test_words(void) {
    static const char *const cases[] = {
        "", "a", "Hello| world", "it|'s|it", "IT|'S|IT", "we|'re|x", "I|'Ve|x", "I|'m|x",
        "he|'lL|x", "he|'D|x", "can|'t|t", "it|'\u017f|t", "it|'x", "'|1", "'", "''|s", "'ra",
        "'v", "'l", "'\xc5", "a|-b", "(abc|)", "\tab", "\r|ab", "\n|ab", "\u00e9t\u00e9",
        "_a|_|1|a", "1|2|3|a", "\u0663|\u00bd|\u2167", "\u4e2d\u6587|\u3002\u4e2d", " a", " |1",
        " !|a", " !!\r\n\n| x", "!!| | !", "   | x", " |\t|1", "a|  ", "a|\n", "a|  \n| | b",
        "a| \r\n \n|\tb", "\n\n\n", "   \n|   ", "a|\u3000|1", "\u3000|\u3000x",
        "\u3000|\u3000|1", "a|\xc2\x85|1", "\u200b" "a", "\x1c" "a|\x1c\n", "a|\u0338b", "\xff" "a",
        " \xff\x80\n|a", "\U0001f600|1",
        "\U000105c0" "a|\U00016d70|1", /* a letter and a digit that Unicode 16 added */
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) check_words(cases[i]);
}

/* ---- NFC ------------------------------------------------------------------------------------- */

static void check_nfc(const Tokenizer *t, const char *text, const char *nfc) {
    char a[200], b[200], c[200];
    Buffer got = round_trip(t, text, strlen(text));
    show(a, text, strlen(text));
    show(b, nfc, strlen(nfc));
    show(c, got.data, got.n);
    CHECK(same_bytes(got.data, got.n, nfc, strlen(nfc)), "NFC of %s: expected %s, got %s", a, b, c);
    buffer_free(&got);
}

static void test_nfc(const Tokenizer *t) {
    static const char *const cases[][2] = {
        {"plain", "plain"},
        {"e\u0301", "\u00e9"},
        {"xe\u0301y", "x\u00e9y"},
        {"\u00e9\u0301", "\u00e9\u0301"},
        {"a\u0305\u0301", "a\u0305\u0301"}, /* the same class blocks */
        {"A\u030a", "\u00c5"},
        {"\u212b", "\u00c5"},
        {"a\u2126b\u2126", "a\u03a9b\u03a9"},
        {"\u1100\u1161\u11a8", "\uac01"},
        {"\uac00\u11a8", "\uac01"},
        {"\uac01\u11a8", "\uac01\u11a8"},
        {"\uac00\u11a7", "\uac00\u11a7"}, /* one before and one behind the tails */
        {"\uac00\u11c3", "\uac00\u11c3"},
        {"\u1100\u1161\u1161", "\uac00\u1161"},
        {"\u0958", "\u0915\u093c"},        /* excluded from composition */
        {"\u0915\u093c", "\u0915\u093c"},
        {"\u0344", "\u0308\u0301"},
        {"\u0340x", "\u0300x"},
        {"\u1e0b\u0323", "\u1e0d\u0307"},
        {"q\u0307\u0323", "q\u0323\u0307"},
        {"a\u0315\u0300\u05ae\u0300b", "\u00e0\u05ae\u0300\u0315b"},
        {"\u0301\u0323", "\u0323\u0301"},
        {"\u0390", "\u0390"},
        {"\u03b9\u0308\u0301", "\u0390"},
        {"\u1e9b\u0323", "\u1e9b\u0323"},
        {"\U0001d15e", "\U0001d157\U0001d165"},
        {"\U0001d163", "\U0001d158\U0001d165\U0001d171"},
        {"\U0001611e\U0001611e\U0001611e", "\U00016121\U0001611e"}, /* Unicode 16 */
        {"a\U0001611e\U0001611f", "a\U00016123"},
        {"\U0001611e\U00016121", "\U00016121\U0001611e"},
        {"\U00016d63\U00016d67\U00016d67", "\U00016d6a"},
        {"\xff\xcc\x81", "\xff\xcc\x81"}, /* bytes that are no UTF-8 */
        {"e\xff\u0301", "e\xff\u0301"},
        {"e\u0301\xcc", "\u00e9\xcc"},
        {"\xcc\x81\xed\xa0\x80\xc0\x80", "\xcc\x81\xed\xa0\x80\xc0\x80"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        check_nfc(t, cases[i][0], cases[i][1]);
}

/* Write mark at text[n]; returns where it ends. */
static size_t put(char *text, size_t n, const char *mark) {
    size_t len = strlen(mark);
    memcpy(text + n, mark, len + 1);
    return n + len;
}

/* Long runs of marks take another way through the code than short ones. */
static void test_nfc_runs(const Tokenizer *t) {
    for (int pairs = 1; pairs < 80; pairs++) {
        char text[400] = "a", nfc[400] = "\u1ea1";
        size_t n = 1, n_nfc = strlen(nfc);
        for (int i = 0; i < pairs; i++) n = put(text, n, "\u0301\u0323");
        for (int i = 1; i < pairs; i++) n_nfc = put(nfc, n_nfc, "\u0323");
        for (int i = 0; i < pairs; i++) n_nfc = put(nfc, n_nfc, "\u0301");
        check_nfc(t, text, nfc);
    }
}

/* ---- Merging --------------------------------------------------------------------------------- */

/* Merge a word by the plain rule; ids has n entries, returns how many are left. */
static size_t merge_plainly(const Vocabulary *v, int32_t *ids, size_t n) {
    for (uint32_t m = 0; m < v->n_merges; m++) {
        const TokenizerMerge *merge = &v->merges[m];
        for (size_t i = 0; i + 1 < n; i++) {
            if (ids[i] != (int32_t)merge->left || ids[i + 1] != (int32_t)merge->right) continue;
            ids[i] = (int32_t)merge->result;
            memmove(ids + i + 1, ids + i + 2, (n - i - 2) * sizeof *ids);
            n--;
            m = UINT32_MAX; /* begin again with the lowest rank */
            break;
        }
    }
    return n;
}

static void check_merging(const Vocabulary *v, const Tokenizer *t, const char *word, size_t n) {
    int32_t expected[512];
    for (size_t i = 0; i < n; i++) expected[i] = (unsigned char)word[i] * 37 % 256;
    size_t n_expected = merge_plainly(v, expected, n);
    Ids got = encode(t, word, n, false);
    CHECK(got.n == n_expected && memcmp(got.ids, expected, got.n * sizeof *got.ids) == 0,
          "%.*s: expected %zu tokens, got %zu or others", (int)n, word, n_expected, got.n);
    ids_free(&got);
}

static void test_merging(void) {
    uint64_t random = 1;
    for (int round = 0; round < 20; round++) {
        Vocabulary *v = new_vocabulary();
        uint32_t pool[60];
        size_t n_pool = 0;
        for (size_t i = 0; i < 3; i++) pool[n_pool++] = token(v, &"abc"[i], 1);
        for (int i = 0; i < 50; i++) {
            uint32_t left = pool[test_random(&random) % n_pool];
            uint32_t right = pool[test_random(&random) % n_pool];
            if (v->length[left] + v->length[right] <= 20)
                pool[n_pool++] = add_merge(v, left, right);
        }
        Opened o = open_vocabulary(v);
        for (int i = 0; i < 60; i++) {
            char word[300];
            size_t n = 1 + test_random(&random) % (i < 40 ? 40 : sizeof word - 1);
            for (size_t k = 0; k < n; k++) word[k] = (char)('a' + test_random(&random) % 3);
            check_merging(v, o.t, word, n);
        }
        close_vocabulary(&o);
        free_vocabulary(v);
    }
}

/* ---- Added tokens ---------------------------------------------------------------------------- */

static void check_ids(const Tokenizer *t, const char *text, bool special, const char *expected) {
    char got[400] = "";
    Ids ids = encode(t, text, strlen(text), special);
    for (size_t i = 0; i < ids.n; i++) {
        size_t n = strlen(got);
        snprintf(got + n, sizeof got - n, i ? " %d" : "%d", ids.ids[i]);
    }
    CHECK(strcmp(got, expected) == 0, "%s: expected ids %s, got %s", text, expected, got);
    ids_free(&ids);
}

static void test_added(void) {
    Vocabulary *v = new_vocabulary();
    add_merge(v, token(v, "<", 1), token(v, "a", 1)); /* id 257 */
    add_special(v, "<a>", 1);                         /* 258 ... */
    add_special(v, "<a>b", 0);
    add_special(v, "<|end|>", 1);
    add_special(v, "e\u0301", 0); /* found before normalization */
    add_special(v, "b<a", 0);
    Opened o = open_vocabulary(v);
    const Tokenizer *t = o.t;
    /* byte b is token 37 b mod 256: a 5, b 42, space 160, < 172, > 246, e 153 */
    check_ids(t, "<a>", true, "258");
    check_ids(t, "<a>", false, "257 246");
    check_ids(t, "<a>b", true, "259"); /* the longest at a place */
    check_ids(t, "b<a>", true, "262 246"); /* the leftmost before the longer */
    check_ids(t, "a<a><a>b b", true, "5 258 259 160 42");
    check_ids(t, "<a", true, "257");
    check_ids(t, "<<|end|><", true, "172 260 172");
    check_ids(t, "e\u0301", true, "261");
    check_ids(t, "e\u0301", false, "47 109"); /* c3 a9 */
    check_ids(t, "", true, "");
    CHECK(tokenizer_n_tokens(t) == 263, "n_tokens %d", tokenizer_n_tokens(t));
    CHECK(tokenizer_find(t, "<|end|>") == 260 && tokenizer_find(t, "<a>") == 258, "find");
    CHECK(tokenizer_find(t, "<|end") == -1 && tokenizer_find(t, "<a>bc") == -1, "find a part");
    CHECK(tokenizer_find(t, "a") == -1 && tokenizer_find(t, "") == -1, "find an ordinary token");
    CHECK(tokenizer_is_special(t, 258) && !tokenizer_is_special(t, 259), "is_special");
    CHECK(tokenizer_is_added(t, 258) && tokenizer_is_added(t, 259), "is_added");
    for (int id = -1; id < 300; id++) {
        size_t n = 99;
        const char *bytes = tokenizer_bytes(t, id, &n);
        if (id >= 0 && id < 263) CHECK(bytes && n > 0, "bytes of %d", id);
        else CHECK(!bytes && n == 0, "bytes of %d", id);
        if (id < 258 || id >= 263) CHECK(!tokenizer_is_added(t, id), "%d is added", id);
    }
    Ids none = {0};
    Error e;
    CHECK(tokenizer_encode(t, NULL, 0, true, &none, &e) && none.n == 0, "no text");
    close_vocabulary(&o);
    free_vocabulary(v);
}

/* ---- Round trips ----------------------------------------------------------------------------- */

/* Random characters of all kinds, and random bytes: what comes back is a fixed point, and is the
 * text itself where NFC has nothing to do. */
static void test_round_trips(const Tokenizer *t) {
    static const int32_t from[] = {0, 0x20, 0x80, 0x300, 0x1100, 0xac00, 0x4e00, 0x900, 0x1f600, 0};
    static const int32_t count[] = {128, 16, 640, 112, 256, 11172, 20000, 256, 80, 0x110000};
    uint64_t random = 2;
    for (int round = 0; round < 20000; round++) {
        char text[200];
        size_t n = 0, parts = test_random(&random) % 24;
        bool plain = true; /* ASCII and stray bytes alone */
        for (size_t i = 0; i < parts; i++) {
            size_t kind = test_random(&random) % 12;
            if (kind >= 10) {
                text[n++] = (char)(0xf8 | test_random(&random));
                continue;
            }
            int32_t code = from[kind] + (int32_t)(test_random(&random) % (uint64_t)count[kind]);
            n += (size_t)utf8_encode(code, text + n);
            plain = plain && code < 0x80;
        }
        Buffer once = round_trip(t, text, n), twice = round_trip(t, once.data, once.n);
        char shown[200];
        show(shown, text, n);
        CHECK(same_bytes(once.data, once.n, twice.data, twice.n),
              "%s changes at the second encoding", shown);
        CHECK(!plain || same_bytes(once.data, once.n, text, n),
              "%s comes back changed", shown);
        buffer_free(&once);
        buffer_free(&twice);
    }
}

/* ---- Malformed sections ---------------------------------------------------------------------- */

static Vocabulary *small_vocabulary(void) {
    Vocabulary *v = new_vocabulary();
    add_merge(v, token(v, "a", 1), token(v, "b", 1));
    add_merge(v, token(v, "ab", 2), token(v, "a", 1));
    add_special(v, "<x>", 1);
    add_special(v, "<y>", 0);
    return v;
}

static void spoil(Section *s, int kind) {
    TokenizerHeader *h = s->header;
    switch (kind) {
    case 0: s->bytes = 15; break;
    case 1: h->n_tokens = 255; break;
    case 2: h->n_tokens = UINT32_MAX; break;
    case 3: h->n_tokens = MAX_VOCAB; break;
    case 4: h->n_merges = 0; break;
    case 5: h->n_merges = UINT32_MAX; break;
    case 6: h->n_merges = 1000000; break;
    case 7: h->n_added = UINT32_MAX; break;
    case 8: h->n_added = 1000; break;
    case 9: h->text_bytes++; break;
    case 10: s->bytes--; break;
    case 11: s->end[5] = s->end[4] - 1; break;
    case 12: s->end[5] = UINT32_MAX; break;
    case 13: s->end[h->n_tokens - 1]--; break;
    case 14: s->text[7] = s->text[9]; break;
    case 15: s->end[7]--; break; /* token 7 becomes empty, token 8 two bytes */
    case 16: s->merges[1].left = h->n_tokens; break;
    case 17: s->merges[1].right = UINT32_MAX; break;
    case 18: s->merges[1].result = h->n_tokens; break;
    case 19: s->merges[1].result--; break;
    case 20: s->merges[2] = s->merges[1]; break;
    case 21: s->added[0].special = 2; break;
    case 22: s->added[1].id = s->added[0].id; break;
    case 23: s->added[1].id = h->n_tokens; break;
    case 24: s->text[h->text_bytes - 2] = 'x'; break;
    case 25: s->end[h->n_tokens - 2] = s->end[h->n_tokens - 3]; break;
    case 26: s->added[0].id = s->merges[1].result; break;
    case 27: s->text[s->end[256]] = 'x'; break; /* of token 257, ab */
    case 28: s->text[s->end[256] + 1] = 'x'; break;
    case 29: s->merges[1].result = 258; break;
    case 30: h->text_bytes--; break;
    case 31: s->start++; break; /* an odd address */
    case 32: case 33: /* token 258 becomes empty */
        s->end[258] = s->end[257];
        *(kind == 32 ? &s->merges[1].left : &s->merges[1].right) = 258;
        break;
    case 34: s->merges[1].left = 257; break; /* as long as the result */
    default: break;
    }
}

static void test_malformed(void) {
    static const char *const fields[] = {
        "tokenizer: ", "n_tokens", "n_tokens", "n_tokens", "n_merges", "n_merges", "n_merges",
        "n_added", "n_added", "text_bytes", "text_bytes", "end: token 5", "end: token 5",
        "end: last", "got 7 and 9", "text: byte 0x68", "merges: 1", "merges: 1", "merges: 1",
        "merges: 1", "merges: 2", "added: id 259", "added: 1", "added: 1", "ids 259 and 260",
        "added: id 259", "merges: 1", "merges: 1", "merges: 1", "merges: 1", "text_bytes",
        "multiple of 4", "merges: 1", "merges: 1", "merges: 1",
    };
    Vocabulary *v = small_vocabulary();
    for (int kind = 0; kind < (int)(sizeof fields / sizeof *fields); kind++) {
        Error e = {{0}};
        Section s = make_section(v);
        char *start = s.start;
        spoil(&s, kind);
        Tokenizer *t = tokenizer_open(s.start, s.bytes, "test", &e);
        CHECK(!t && strncmp(e.text, "test: ", 6) == 0 && strstr(e.text, fields[kind]),
              "kind %d: expected an error at %s, got %s", kind, fields[kind], t ? "none" : e.text);
        tokenizer_close(t);
        free(start);
    }
    free_vocabulary(v);
}

/* Added tokens have at most 256 bytes, texts at most 2^30. */
static void test_limits(void) {
    char text[258];
    memset(text, 'x', sizeof text);
    for (size_t n = 256; n <= 257; n++) {
        Vocabulary *v = new_vocabulary();
        Error e = {{0}};
        Ids ids = {0};
        text[n] = 0;
        add_special(v, text, 1);
        text[n] = 'x';
        Section s = make_section(v);
        Tokenizer *t = tokenizer_open(s.start, s.bytes, "test", &e);
        CHECK((t != NULL) == (n == 256) && (t || strstr(e.text, "expected 1 to 256 bytes")),
              "an added token of %zu bytes: %s", n, e.text);
        CHECK(!t || (!tokenizer_encode(t, text, (1u << 30) + 1, true, &ids, &e) && ids.n == 0 &&
                     strstr(e.text, "text: expected at most 1073741824 bytes, got 1073741825")),
              "a text of more than 2^30 bytes: %s", e.text);
        tokenizer_close(t);
        free(s.start);
        free_vocabulary(v);
    }
}

/* Every truncation is refused, and no single changed byte leads to a wrong access. */
static void test_damage(void) {
    Vocabulary *v = small_vocabulary();
    Section s = make_section(v);
    Error e;
    for (size_t n = 0; n < s.bytes; n++) {
        Tokenizer *t = tokenizer_open(s.start, n, "test", &e);
        CHECK(!t, "cut to %zu of %zu bytes, it opens", n, s.bytes);
        tokenizer_close(t);
    }
    for (size_t i = 0; i < s.bytes; i++) {
        for (int bit = 0; bit < 8; bit++) {
            s.start[i] = (char)(s.start[i] ^ 1 << bit);
            Tokenizer *t = tokenizer_open(s.start, s.bytes, "test", &e);
            if (t) {
                Ids ids = encode(t, "abab<x>aba", 10, true);
                ids_free(&ids);
            }
            tokenizer_close(t);
            s.start[i] = (char)(s.start[i] ^ 1 << bit);
        }
    }
    free(s.start);
    free_vocabulary(v);
}

/* ---- Long inputs ----------------------------------------------------------------------------- */

/* Processor time: what else runs on the machine does not count. */
static double cpu_seconds(void) {
    struct timespec now = {0};
    CHECK(clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now) == 0, "no clock");
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static void check_time(const Tokenizer *t, const char *name, const char *text, size_t n) {
    double start = cpu_seconds();
    Ids ids = encode(t, text, n, true);
    double seconds = cpu_seconds() - start;
    double allowed = getenv("SLOW") ? 60 : INSTRUMENTED ? 20 : 1; /* SLOW: under valgrind, qemu */
    CHECK(seconds < allowed, "%s: expected %.1f s at most, took %.2f", name, allowed, seconds);
    ids_free(&ids);
}

static void test_time(void) {
    static const char *const units[] = {"A", " ", "\n", "7", "\u0301", "\U0001f600", "<", "\u0344",
                                        "a\u0301", "\u0301\u0323", " \n", "\xff", "\u4e2d", "<|en"};
    Vocabulary *v = new_vocabulary();
    for (size_t i = 0; i < sizeof units / sizeof *units; i++) { /* a unit doubled, four times */
        uint32_t all = token(v, units[i], 1);
        for (size_t k = 1; units[i][k]; k++) all = add_merge(v, all, token(v, units[i] + k, 1));
        for (int k = 0; k < 4; k++) all = add_merge(v, all, all);
    }
    add_special(v, "<|end|>", 1);
    Opened o = open_vocabulary(v);
    char *text = need(malloc(MEGABYTE));
    for (size_t i = 0; i < sizeof units / sizeof *units; i++) {
        size_t length = strlen(units[i]), n = MEGABYTE / length * length;
        for (size_t k = 0; k < n; k++) text[k] = units[i][k % length];
        check_time(o.t, units[i], text, n);
    }
    memset(text, ' ', MEGABYTE);
    text[0] = '\n';
    check_time(o.t, "a newline and spaces", text, MEGABYTE);
    uint64_t random = 3;
    for (size_t k = 0; k < MEGABYTE; k++) text[k] = (char)test_random(&random);
    check_time(o.t, "random bytes", text, MEGABYTE);
    size_t n = 0;
    while (MEGABYTE - n >= 4)
        n += (size_t)utf8_encode((int32_t)(test_random(&random) % 0x110000), text + n);
    check_time(o.t, "random characters", text, n);
    n = 0;
    while (MEGABYTE - n >= 4)
        n += (size_t)utf8_encode((int32_t)(0x300 + test_random(&random) % 112), text + n);
    check_time(o.t, "random marks", text, n);
    free(text);
    close_vocabulary(&o);
    free_vocabulary(v);
}

int main(void) {
    Vocabulary *v = new_vocabulary();
    Opened bytes = open_vocabulary(v);
    test_words();
    test_nfc(bytes.t);
    test_nfc_runs(bytes.t);
    test_merging();
    test_added();
    test_round_trips(bytes.t);
    test_malformed();
    test_limits();
    test_damage();
    test_time();
    close_vocabulary(&bytes);
    free_vocabulary(v);
    return test_end("tokenizer");
}
