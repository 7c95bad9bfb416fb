/* tokens.c: vocabulary, merges and added tokens -> the tokenizer section of model.h.
 *
 * GPT-2 writes a byte-level vocabulary as text: every byte is one printable character. Bytes that
 * are printable Latin-1 stand for themselves, the other 68 are U+0100 and up, in order. That
 * alphabet is undone here, so the engine only ever sees bytes. A hash table over the tokens' bytes
 * finds duplicates and resolves the merges, so tokens are to be added before the merges that name
 * them. */
#include <stdlib.h>
#include <unistd.h>
#ifdef __APPLE__
#include <sys/random.h> /* getentropy */
#endif

#include "convert.h"

#define MAX_TOKEN_BYTES 1024
#define MAX_TOKEN_TEXT (64u << 20) /* bytes of all tokens together */
#define NO_ID UINT32_MAX

typedef enum { GAP, ORDINARY, ADDED, ADDED_SPECIAL } Kind;

typedef struct {
    uint32_t at, n; /* text[at .. at + n) */
    Kind kind;
} Token;

struct TokenBuilder {
    char *file;           /* for errors */
    int16_t byte_of[324]; /* GPT-2's alphabet: code point -> byte, -1: none */
    Buffer text;          /* bytes of all tokens, in the order in which they came */
    Token *tokens;        /* (n_tokens) by id */
    size_t n_tokens, tokens_room;
    uint32_t *hash; /* (n_hash, a power of two) ids by their bytes, NO_ID: free */
    size_t n_hash, n_used;
    uint64_t seed; /* so that no file can choose places in the table */
    TokenizerMerge *merges; /* (n_merges) */
    size_t n_merges, merges_room;
};

TokenBuilder *tokens_new(const char *file, Error *e) {
    TokenBuilder *b = alloc_array(e, "tokenizer", 1, sizeof *b);
    if (!b) return NULL;
    b->file = strdup(file);
    b->n_hash = 1024;
    if (getentropy(&b->seed, sizeof b->seed) != 0) b->seed = 0xcbf29ce484222325u;
    b->hash = alloc_array(e, "tokenizer", b->n_hash, sizeof *b->hash);
    if (!b->file || !b->hash) {
        fail(e, file, NULL, "out of memory");
        tokens_free(b);
        return NULL;
    }
    memset(b->hash, 0xff, b->n_hash * sizeof *b->hash);
    memset(b->byte_of, 0xff, sizeof b->byte_of);
    int16_t other = 256;
    for (int16_t byte = 0; byte < 256; byte++) {
        bool printable_byte = (byte >= '!' && byte <= '~') || (byte >= 0xa1 && byte != 0xad);
        b->byte_of[printable_byte ? byte : other++] = byte;
    }
    return b;
}

void tokens_free(TokenBuilder *b) {
    if (!b) return;
    free(b->file);
    buffer_free(&b->text);
    free(b->tokens);
    free(b->hash);
    free(b->merges);
    free(b);
}

/* ---- Tokens by their bytes ------------------------------------------------------------------- */

/* Where the token with these bytes is in the table, or the free place where it belongs (FNV-1a). */
static size_t hash_place(const TokenBuilder *b, const char *text, size_t n) {
    uint64_t h = b->seed;
    for (size_t i = 0; i < n; i++) h = (h ^ (uint8_t)text[i]) * 0x100000001b3u;
    for (size_t at = (h ^ h >> 32) & (b->n_hash - 1);; at = (at + 1) & (b->n_hash - 1)) {
        if (b->hash[at] == NO_ID) return at;
        const Token *t = &b->tokens[b->hash[at]];
        if (t->n == n && memcmp(b->text.data + t->at, text, n) == 0) return at;
    }
}

static uint32_t hash_find(const TokenBuilder *b, const char *text, size_t n) {
    return b->hash[hash_place(b, text, n)];
}

/* Twice the places, once half of them are taken. */
static bool hash_grow(TokenBuilder *b, Error *e) {
    if (2 * b->n_used < b->n_hash) return true;
    uint32_t *old = b->hash, *bigger = alloc_array(e, "tokenizer", 2 * b->n_hash, sizeof *bigger);
    if (!bigger) return false;
    b->hash = bigger;
    b->n_hash *= 2;
    memset(bigger, 0xff, b->n_hash * sizeof *bigger);
    for (size_t i = 0; i < b->n_hash / 2; i++) {
        if (old[i] == NO_ID) continue;
        const Token *t = &b->tokens[old[i]];
        bigger[hash_place(b, b->text.data + t->at, t->n)] = old[i];
    }
    free(old);
    return true;
}

/* ---- Adding ---------------------------------------------------------------------------------- */

static bool refuse(const TokenBuilder *b, const char *what, const char *text, size_t n, Error *e) {
    char shown[80];
    printable(shown, sizeof shown, text, min_size(n, 18));
    return fail(e, b->file, "tokenizer", "%s: \"%s\"%s", what, shown, n > 18 ? "..." : "");
}

/* Room for token `id`, gaps below it. */
static bool reserve_id(TokenBuilder *b, uint32_t id, Error *e) {
    if (id >= MAX_VOCAB)
        return fail(e, b->file, "tokenizer", "expected ids below %d, got %u", MAX_VOCAB, id);
    if (id >= b->tokens_room) {
        size_t room = max_size((size_t)id + 1, max_size(2 * b->tokens_room, 1024));
        Token *tokens = grow_array(e, "tokenizer", b->tokens, room, sizeof *tokens);
        if (!tokens) return false;
        memset(tokens + b->tokens_room, 0, (room - b->tokens_room) * sizeof *tokens);
        b->tokens = tokens;
        b->tokens_room = room;
    }
    b->n_tokens = max_size(b->n_tokens, (size_t)id + 1);
    return true;
}

/* Enter token `id` with these bytes. An added token may repeat an ordinary one. Under the same id
 * it is that one. Under another, as Hugging Face's add_tokens numbers a text that GPT-2's alphabet
 * spells in another way, it stands beside it: bytes and merges go on to mean the ordinary one. */
static bool enter(TokenBuilder *b, uint32_t id, const char *bytes, size_t n, Kind kind, Error *e) {
    if (n == 0 || n > MAX_TOKEN_BYTES)
        return fail(e, b->file, "tokenizer", "token %u: expected 1 to %d bytes, got %zu", id,
                    MAX_TOKEN_BYTES, n);
    if (!reserve_id(b, id, e) || !hash_grow(b, e)) return false;
    size_t place = hash_place(b, bytes, n);
    Token *t = &b->tokens[id];
    if (t->kind == ORDINARY && kind != ORDINARY && b->hash[place] == id) {
        t->kind = kind;
        return true;
    }
    if (t->kind != GAP) return refuse(b, "two tokens have the same id, one is", bytes, n, e);
    uint32_t other = b->hash[place];
    bool beside = other != NO_ID && (b->tokens[other].kind == ORDINARY) != (kind == ORDINARY);
    if (other != NO_ID && !beside) return refuse(b, "two ids have the same text", bytes, n, e);
    if (b->text.n > MAX_TOKEN_TEXT - n) return fail(e, b->file, "tokenizer", "too much text");
    *t = (Token){.at = (uint32_t)b->text.n, .n = (uint32_t)n, .kind = kind};
    if (!buffer_add(&b->text, bytes, n, e)) return false;
    b->n_used += !beside;
    if (!beside || kind == ORDINARY) b->hash[place] = id;
    return true;
}

/* Text in GPT-2's alphabet -> bytes, at most MAX_TOKEN_BYTES. */
static bool to_bytes(const TokenBuilder *b, const char *text, size_t n, char *out, size_t *n_out,
                     Error *e) {
    *n_out = 0;
    for (size_t i = 0; i < n;) {
        int32_t cp;
        i += (size_t)utf8_decode(text + i, n - i, &cp);
        if (cp < 0 || cp >= (int32_t)(sizeof b->byte_of / sizeof b->byte_of[0]) ||
            b->byte_of[cp] < 0)
            return refuse(b, "a token is not in the byte-level alphabet", text, n, e);
        if (*n_out == MAX_TOKEN_BYTES) return refuse(b, "a token is too long", text, n, e);
        out[(*n_out)++] = (char)b->byte_of[cp];
    }
    return true;
}

bool tokens_add(TokenBuilder *b, uint32_t id, const char *text, size_t n, Error *e) {
    char bytes[MAX_TOKEN_BYTES];
    size_t n_bytes;
    return to_bytes(b, text, n, bytes, &n_bytes, e) && enter(b, id, bytes, n_bytes, ORDINARY, e);
}

bool tokens_add_special(TokenBuilder *b, uint32_t id, const char *text, size_t n, bool special,
                        Error *e) {
    return enter(b, id, text, n, special ? ADDED_SPECIAL : ADDED, e);
}

bool tokens_merge(TokenBuilder *b, const char *left, size_t left_len, const char *right,
                  size_t right_len, Error *e) {
    char bytes[2 * MAX_TOKEN_BYTES];
    size_t n_left, n_right;
    if (!to_bytes(b, left, left_len, bytes, &n_left, e) ||
        !to_bytes(b, right, right_len, bytes + n_left, &n_right, e))
        return false;
    TokenizerMerge m = {.left = hash_find(b, bytes, n_left),
                        .right = hash_find(b, bytes + n_left, n_right),
                        .result = hash_find(b, bytes, n_left + n_right)};
    if (m.left == NO_ID) return refuse(b, "a merge names an unknown token", left, left_len, e);
    if (m.right == NO_ID) return refuse(b, "a merge names an unknown token", right, right_len, e);
    if (m.result == NO_ID)
        return refuse(b, "the result of a merge is no token", bytes, n_left + n_right, e);
    if (b->n_merges == b->merges_room) {
        size_t room = max_size(1024, 2 * b->merges_room);
        TokenizerMerge *merges = grow_array(e, "merges", b->merges, room, sizeof *merges);
        if (!merges) return false;
        b->merges = merges;
        b->merges_room = room;
    }
    if (b->n_merges == 4u * MAX_VOCAB) return fail(e, b->file, "merges", "too many");
    b->merges[b->n_merges++] = m;
    return true;
}

bool tokens_merge_pair(TokenBuilder *b, const char *text, size_t n, const char *file,
                       const char *field, Error *e) {
    const char *space = memchr(text, ' ', n);
    size_t left = space ? (size_t)(space - text) : 0, right = space ? n - left - 1 : 0;
    if (left == 0 || right == 0 || memchr(space + 1, ' ', right)) {
        char shown[80];
        printable(shown, sizeof shown, text, min_size(n, 18));
        return fail(e, file, field, "expected two tokens, got \"%s\"", shown);
    }
    return tokens_merge(b, text, left, space + 1, right, e);
}

/* ---- The section ----------------------------------------------------------------------------- */

static int by_value(const void *a, const void *b) {
    const uint64_t *x = a, *y = b;
    return (*x > *y) - (*x < *y);
}

static bool check_merges(const TokenBuilder *b, Error *e) {
    if (b->n_merges == 0)
        return fail(e, b->file, "merges", "none: without them every byte would be a token");
    uint64_t *pairs = alloc_array(e, "merges", b->n_merges, sizeof *pairs);
    if (!pairs) return false;
    for (size_t i = 0; i < b->n_merges; i++)
        pairs[i] = (uint64_t)b->merges[i].left << 32 | b->merges[i].right;
    qsort(pairs, b->n_merges, sizeof *pairs, by_value);
    bool ok = true;
    for (size_t i = 1; ok && i < b->n_merges; i++)
        if (pairs[i] == pairs[i - 1])
            ok = fail(e, b->file, "merges", "the merge of tokens %u and %u stands there twice",
                      (unsigned)(pairs[i] >> 32), (unsigned)pairs[i]);
    free(pairs);
    return ok;
}

static bool check_bytes(const TokenBuilder *b, Error *e) {
    for (int byte = 0; byte < 256; byte++) {
        char c = (char)byte;
        uint32_t id = hash_find(b, &c, 1);
        if (id == NO_ID || b->tokens[id].kind != ORDINARY)
            return fail(e, b->file, "tokenizer", "byte 0x%02x has no token of its own",
                        (unsigned)byte);
    }
    return true;
}

/* Where the text of each token ends. */
static bool write_ends(const TokenBuilder *b, Buffer *out, Error *e) {
    uint32_t end = 0;
    for (size_t id = 0; id < b->n_tokens; id++) {
        end += b->tokens[id].n;
        if (!buffer_add(out, &end, sizeof end, e)) return false;
    }
    return true;
}

static bool write_added(const TokenBuilder *b, Buffer *out, Error *e) {
    for (uint32_t id = 0; id < b->n_tokens; id++) {
        if (b->tokens[id].kind < ADDED) continue;
        TokenizerAdded a = {.id = id, .special = b->tokens[id].kind == ADDED_SPECIAL};
        if (!buffer_add(out, &a, sizeof a, e)) return false;
    }
    return true;
}

bool tokens_finish(TokenBuilder *b, Buffer *out, Error *e) {
    if (!check_bytes(b, e) || !check_merges(b, e)) return false;
    TokenizerHeader h = {.n_tokens = (uint32_t)b->n_tokens,
                         .n_merges = (uint32_t)b->n_merges,
                         .text_bytes = (uint32_t)b->text.n};
    for (size_t id = 0; id < b->n_tokens; id++) h.n_added += b->tokens[id].kind >= ADDED;
    if (!buffer_add(out, &h, sizeof h, e) || !write_ends(b, out, e) ||
        !buffer_add(out, b->merges, b->n_merges * sizeof *b->merges, e) || !write_added(b, out, e))
        return false;
    for (size_t id = 0; id < b->n_tokens; id++) {
        const Token *t = &b->tokens[id];
        if (t->n && !buffer_add(out, b->text.data + t->at, t->n, e)) return false;
    }
    return true;
}
