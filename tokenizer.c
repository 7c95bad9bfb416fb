/* tokenizer.c: text to token ids and back, as Hugging Face's tokenizers does it for Qwen2.
 *
 * Text goes through four stages, one part of this file each: splitting at the added tokens, Unicode
 * NFC, cutting into words, merging the bytes of a word. Decoding is a look-up. The vocabulary stays
 * in the mapped file; opening proves every number in it and builds one hash table, from a pair of
 * ids to the merge that joins them. unicode.inc holds what must be known about characters.
 *
 * A byte that is no part of well-formed UTF-8 counts as a character that is neither letter, number
 * nor space, and comes out as it went in. Every stage is linear in the text; merging a word of n
 * bytes costs n log n. */
#include "tokenizer.h"

#include <stdlib.h>
#include <string.h>

#include "model.h"

#define TAG_BITS 8             /* of a slot of the hash table; the others hold a merge */
#define MAX_MERGES ((1u << (32 - TAG_BITS)) - 1)
#define MAX_ADDED_BYTES 256    /* of one added token: keeps splitting linear */
#define MAX_TEXT (1u << 30)    /* of one call of tokenizer_encode */
#define NO_MERGE UINT32_MAX
#define SHORT_WORD 32          /* bytes; up to here a plain search for the best pair is fastest */
#define SHORT_RUN 32           /* combining marks; up to here insertion sort */

/* An added token, for the search by text. */
typedef struct {
    const char *text; /* (n) in the mapped file */
    size_t n;
    int32_t id;
} AddedText;

struct Tokenizer {
    const uint32_t *end;          /* (n_tokens) text of token i is text[end[i-1] .. end[i]) */
    const TokenizerMerge *merges; /* (n_merges) by rank */
    const TokenizerAdded *added;  /* (n_added) ascending by id */
    const char *text;             /* (text_bytes) */
    uint32_t n_tokens, n_merges, n_added, text_bytes;
    uint32_t byte_id[256];        /* the token of each single byte */
    uint32_t *slots;              /* (2^slot_bits) tag and merge + 1; 0: empty */
    unsigned slot_bits;
    AddedText *by_text;           /* (n_added) ascending by text */
    bool starts_added[256];       /* does an added token begin with this byte? */
};

/* ---- Characters ------------------------------------------------------------------------------ */

typedef enum { UNICODE_OTHER, UNICODE_LETTER, UNICODE_NUMBER, UNICODE_SPACE } UnicodeClass;

/* What NFC may do to a character. Stable: nothing, and nothing before it can touch it. Changes: it
 * is replaced by others, but still nothing before it matters. Joins: it may combine or change
 * places with what stands before it. */
typedef enum { NFC_STABLE, NFC_CHANGES, NFC_JOINS } NfcKind;

typedef struct {
    uint8_t class, ccc, nfc; /* UnicodeClass, canonical combining class, NfcKind */
} UnicodeProperties;

typedef struct {
    int32_t code, first, second; /* code decomposes into first and second (0: into first alone) */
} UnicodePair;

#include "unicode.inc"

#define N_CODE_POINTS 0x110000
#define N_ITEMS(array) (sizeof(array) / sizeof(array)[0])

/* One character of a text. A byte that is no UTF-8 has the code N_CODE_POINTS + byte. */
typedef struct {
    int32_t code;
    uint32_t n; /* bytes */
    UnicodeProperties is;
} Char;

static UnicodeProperties properties_of(int32_t code) {
    if (code >= N_CODE_POINTS) return unicode_properties[0]; /* U+0000's: other, stable */
    const uint8_t *cells = unicode_cells[unicode_blocks[code / UNICODE_BLOCK]];
    return unicode_properties[cells[code % UNICODE_BLOCK]];
}

/* The character at text[pos], pos < n. */
static Char char_at(const char *text, size_t n, size_t pos) {
    unsigned char first = (unsigned char)text[pos];
    int32_t code = first;
    int length = first < 0x80 ? 1 : utf8_decode(text + pos, n - pos, &code);
    if (code < 0) code = N_CODE_POINTS + first;
    return (Char){code, (uint32_t)length, properties_of(code)};
}

/* ---- Normalization form C -----------------------------------------------------------------------
 *
 * Text is cut in front of every character that does not join. Most pieces are one stable character
 * and are left alone; the others (segments) are decomposed, put into canonical order and composed,
 * as the Unicode Standard says in section 3.11. */

#define HANGUL_SYLLABLE 0xac00
#define HANGUL_LEAD 0x1100
#define HANGUL_VOWEL 0x1161
#define HANGUL_TAIL 0x11a7 /* one below the first: tail 0 means none */
#define N_LEADS 19
#define N_VOWELS 21
#define N_TAILS 28
#define N_SYLLABLES (N_LEADS * N_VOWELS * N_TAILS)

/* The characters of a segment: code | combining class << 24. */
typedef struct {
    uint32_t *chars; /* (n) */
    size_t n, room;
} Segment;

static uint32_t segment_code(uint32_t c) { return c & 0xffffff; }
static uint32_t segment_ccc(uint32_t c) { return c >> 24; }

static bool segment_add(Segment *s, int32_t code, Error *e) {
    if (s->n == s->room) {
        size_t room = max_size(64, s->room + s->room / 2);
        uint32_t *chars = grow_array(e, "normalization", s->chars, room, sizeof *chars);
        if (!chars) return false;
        s->chars = chars;
        s->room = room;
    }
    s->chars[s->n++] = (uint32_t)code | (uint32_t)properties_of(code).ccc << 24;
    return true;
}

/* The decomposition of `code` by one step, or NULL. */
static const UnicodePair *pair_of(int32_t code) {
    size_t low = 0, high = N_ITEMS(unicode_pairs);
    while (low < high) {
        size_t mid = (low + high) / 2;
        if (unicode_pairs[mid].code < code) low = mid + 1;
        else high = mid;
    }
    bool found = low < N_ITEMS(unicode_pairs) && unicode_pairs[low].code == code;
    return found ? &unicode_pairs[low] : NULL;
}

/* Append the full decomposition of `code`. Only the first of a pair decomposes further. */
static bool segment_decompose(Segment *s, int32_t code, Error *e) {
    int32_t behind[UNICODE_DEPTH], syllable = code - HANGUL_SYLLABLE;
    int n = 0;
    if (syllable >= 0 && syllable < N_SYLLABLES) {
        int32_t tail = syllable % N_TAILS;
        if (tail) behind[n++] = HANGUL_TAIL + tail;
        behind[n++] = HANGUL_VOWEL + syllable / N_TAILS % N_VOWELS;
        code = HANGUL_LEAD + syllable / (N_VOWELS * N_TAILS);
    }
    for (const UnicodePair *p; (p = pair_of(code)) != NULL; code = p->first)
        if (p->second) behind[n++] = p->second;
    if (!segment_add(s, code, e)) return false;
    while (n > 0)
        if (!segment_add(s, behind[--n], e)) return false;
    return true;
}

/* Sort chars[0..n) by combining class; equal ones keep their order. */
static void sort_short(uint32_t *chars, size_t n) {
    for (size_t i = 1; i < n; i++) {
        uint32_t c = chars[i];
        size_t k = i;
        for (; k > 0 && segment_ccc(chars[k - 1]) > segment_ccc(c); k--) chars[k] = chars[k - 1];
        chars[k] = c;
    }
}

/* The same for any n, in linear time: counting sort. */
static bool sort_long(uint32_t *chars, size_t n, Error *e) {
    size_t start[257] = {0};
    uint32_t *sorted = alloc_array(e, "normalization", n, sizeof *sorted);
    if (!sorted) return false;
    for (size_t i = 0; i < n; i++) start[segment_ccc(chars[i]) + 1]++;
    for (size_t c = 0; c < 256; c++) start[c + 1] += start[c];
    for (size_t i = 0; i < n; i++) sorted[start[segment_ccc(chars[i])]++] = chars[i];
    memcpy(chars, sorted, n * sizeof *chars);
    free(sorted);
    return true;
}

/* Canonical order: each run of characters with a combining class is sorted by it. */
static bool segment_reorder(Segment *s, Error *e) {
    for (size_t i = 0, end; i < s->n; i = end + 1) {
        for (end = i; end < s->n && segment_ccc(s->chars[end]); end++) {}
        if (end - i <= SHORT_RUN) sort_short(s->chars + i, end - i);
        else if (!sort_long(s->chars + i, end - i, e)) return false;
    }
    return true;
}

/* What a and b compose to, or 0. */
static int32_t compose_pair(int32_t a, int32_t b) {
    int32_t lead = a - HANGUL_LEAD, vowel = b - HANGUL_VOWEL;
    int32_t syllable = a - HANGUL_SYLLABLE, tail = b - HANGUL_TAIL;
    if (lead >= 0 && lead < N_LEADS && vowel >= 0 && vowel < N_VOWELS)
        return HANGUL_SYLLABLE + (lead * N_VOWELS + vowel) * N_TAILS;
    if (syllable >= 0 && syllable < N_SYLLABLES && syllable % N_TAILS == 0)
        return tail > 0 && tail < N_TAILS ? a + tail : 0;
    size_t low = 0, high = N_ITEMS(unicode_compositions);
    while (low < high) {
        size_t mid = (low + high) / 2;
        const UnicodePair *p = &unicode_pairs[unicode_compositions[mid]];
        if (p->first == a && p->second == b) return p->code;
        if (p->first < a || (p->first == a && p->second < b)) low = mid + 1;
        else high = mid;
    }
    return 0;
}

/* Compose in place: a character joins the last starter unless one between them blocks it, that is,
 * has no smaller combining class. */
static void segment_compose(Segment *s) {
    size_t n = 0, starter = SIZE_MAX;
    uint32_t last = 0; /* the combining class of the character before */
    for (size_t i = 0; i < s->n; i++) {
        uint32_t c = s->chars[i], ccc = segment_ccc(c);
        int32_t joined = 0;
        if (starter != SIZE_MAX && (starter + 1 == n || last < ccc))
            joined = compose_pair((int32_t)s->chars[starter], (int32_t)segment_code(c));
        if (joined) {
            s->chars[starter] = (uint32_t)joined; /* composed characters are starters, ccc 0 */
            continue;
        }
        if (ccc == 0) starter = n;
        last = ccc;
        s->chars[n++] = c;
    }
    s->n = n;
}

static bool segment_write(const Segment *s, Buffer *out, Error *e) {
    for (size_t i = 0; i < s->n; i++) {
        int32_t code = (int32_t)segment_code(s->chars[i]);
        char bytes[4];
        int n = 1;
        if (code < N_CODE_POINTS) n = utf8_encode(code, bytes);
        else bytes[0] = (char)(code - N_CODE_POINTS);
        if (!buffer_add(out, bytes, (size_t)n, e)) return false;
    }
    return true;
}

/* Append the NFC of one segment, text[0..n), to out. */
static bool normalize_segment(Segment *s, const char *text, size_t n, Buffer *out, Error *e) {
    s->n = 0;
    for (size_t pos = 0; pos < n;) {
        Char c = char_at(text, n, pos);
        if (!segment_decompose(s, c.code, e)) return false;
        pos += c.n;
    }
    if (!segment_reorder(s, e)) return false;
    segment_compose(s);
    return segment_write(s, out, e);
}

/* Point *result at the NFC of text[0..n): the text itself where no segment needs a look, else *out,
 * which is emptied first. */
static bool normalize(Segment *s, const char *text, size_t n, Buffer *out, const char **result,
                      size_t *n_result, Error *e) {
    size_t start = 0, copied = 0; /* where the current segment begins; what is in *out already */
    out->n = 0;
    for (size_t pos = 0; pos < n;) {
        Char c = char_at(text, n, pos);
        if (c.is.nfc != NFC_JOINS) start = pos;
        pos += c.n;
        if (c.is.nfc == NFC_STABLE) continue;
        for (; pos < n; pos += c.n) {
            c = char_at(text, n, pos);
            if (c.is.nfc != NFC_JOINS) break;
        }
        if (!buffer_add(out, text + copied, start - copied, e) ||
            !normalize_segment(s, text + start, pos - start, out, e))
            return false;
        copied = start = pos;
    }
    if (copied > 0 && !buffer_add(out, text + copied, n - copied, e)) return false;
    *result = copied > 0 ? out->data : text;
    *n_result = copied > 0 ? out->n : n;
    return true;
}

/* ---- Words --------------------------------------------------------------------------------------
 *
 * The pattern, whose alternatives are tried in this order at every place:
 *
 *   (?i:'s|'t|'re|'ve|'m|'ll|'d)
 *   | [^\r\n\p{L}\p{N}]?\p{L}+
 *   | \p{N}
 *   |  ?[^\s\p{L}\p{N}]+[\r\n]*
 *   | \s*[\r\n]+
 *   | \s+(?!\S)
 *   | \s+
 *
 * A match_ function returns the end of its match at pos, or pos where there is none. */

/* The end of the run of characters of one class that starts at pos. */
static size_t run_end(const char *text, size_t n, size_t pos, UnicodeClass class) {
    while (pos < n) {
        Char c = char_at(text, n, pos);
        if (c.is.class != class) break;
        pos += c.n;
    }
    return pos;
}

/* (?i:'s|'t|'re|'ve|'m|'ll|'d) where U+017F, the long s, is a case of s */
static size_t match_contraction(const char *text, size_t n, size_t pos) {
    static const char *const endings[] = {"s", "t", "re", "ve", "m", "ll", "d"};
    const char *p = text + pos;
    size_t left = n - pos;
    if (p[0] != '\'') return pos;
    for (size_t i = 0; i < N_ITEMS(endings); i++) {
        size_t length = endings[i][1] ? 3 : 2;
        if (length > left || (p[1] | 0x20) != endings[i][0]) continue;
        if (length == 2 || (p[2] | 0x20) == endings[i][1]) return pos + length;
    }
    return left >= 3 && memcmp(p + 1, "\xc5\xbf", 2) == 0 ? pos + 3 : pos;
}

/* [^\r\n\p{L}\p{N}]?\p{L}+ */
static size_t match_letters(const char *text, size_t n, size_t pos, Char first) {
    size_t start = pos;
    bool newline = first.code == '\r' || first.code == '\n';
    if (first.is.class != UNICODE_LETTER && first.is.class != UNICODE_NUMBER && !newline)
        start += first.n;
    size_t end = run_end(text, n, start, UNICODE_LETTER);
    return end > start ? end : pos;
}

/* ' '?[^\s\p{L}\p{N}]+[\r\n]* */
static size_t match_others(const char *text, size_t n, size_t pos, Char first) {
    size_t start = pos + (first.code == ' ');
    size_t end = run_end(text, n, start, UNICODE_OTHER);
    if (end == start) return pos;
    while (end < n && (text[end] == '\r' || text[end] == '\n')) end++;
    return end;
}

/* The last three alternatives, at a space: one look over the whole run decides. */
static size_t match_spaces(const char *text, size_t n, size_t pos) {
    size_t end = pos, last = pos, newline = pos; /* the run's end, its last character, and the end
                                                    of its last newline */
    while (end < n) {
        Char c = char_at(text, n, end);
        if (c.is.class != UNICODE_SPACE) break;
        last = end;
        end += c.n;
        if (c.code == '\r' || c.code == '\n') newline = end;
    }
    if (newline > pos) return newline; /* \s*[\r\n]+ */
    if (end == n) return end;          /* \s+(?!\S) at the end of the text ... */
    if (last > pos) return last;       /* ... and in front of a word: one character less */
    return end;                        /* \s+ */
}

/* The end of the word that starts at pos < n; always > pos. */
static size_t word_end(const char *text, size_t n, size_t pos) {
    size_t end = match_contraction(text, n, pos);
    if (end > pos) return end;
    Char first = char_at(text, n, pos);
    end = match_letters(text, n, pos, first);
    if (end > pos) return end;
    if (first.is.class == UNICODE_NUMBER) return pos + first.n; /* \p{N} */
    end = match_others(text, n, pos, first);
    return end > pos ? end : match_spaces(text, n, pos);
}

/* ---- Merging ------------------------------------------------------------------------------------
 *
 * A word starts as the tokens of its bytes. Of all neighbours that a merge joins, those with the
 * lowest rank are joined, the leftmost first, until no merge applies. */

/* The slot that holds the merge of the two tokens, or the empty one where it would go. A slot is a
 * merge's number + 1 and some bits of the pair's hash, which tell most other pairs apart without a
 * look at the merge. */
static uint32_t *find_slot(const Tokenizer *t, uint32_t left, uint32_t right, uint32_t *tag) {
    uint64_t hash = ((uint64_t)left << 32 | right) * 0x9e3779b97f4a7c15u;
    size_t i = (size_t)(hash >> (64 - t->slot_bits)), mask = ((size_t)1 << t->slot_bits) - 1;
    *tag = (uint32_t)(hash >> (64 - t->slot_bits - TAG_BITS)) << (32 - TAG_BITS);
    for (; t->slots[i]; i = (i + 1) & mask) {
        if ((t->slots[i] ^ *tag) > MAX_MERGES) continue;
        const TokenizerMerge *m = &t->merges[(t->slots[i] ^ *tag) - 1];
        if (m->left == left && m->right == right) break;
    }
    return &t->slots[i];
}

/* The merge that joins the two tokens, or NO_MERGE, which is greater than any. */
static uint32_t merge_of(const Tokenizer *t, uint32_t left, uint32_t right) {
    uint32_t tag, slot = *find_slot(t, left, right, &tag);
    return slot ? (slot ^ tag) - 1 : NO_MERGE;
}

/* A token of a long word, kept at the index of its first byte. */
typedef struct {
    uint32_t id, merge; /* merge joins it with the one behind it, or is NO_MERGE */
    uint32_t span;      /* its bytes; stands at the index of its last byte, too */
} Symbol;

/* The workplace of one call to tokenizer_encode. */
typedef struct {
    const Tokenizer *t;
    Ids *out;
    Segment segment;
    Buffer normal;   /* the piece of text in NFC */
    Symbol *symbols; /* (room) */
    uint64_t *heap;  /* (2 room) merge << 32 | index of the symbol; the least on top */
    size_t n_heap, room;
} Encoder;

/* A word of 1 to SHORT_WORD bytes. */
static bool merge_short(Encoder *w, const char *word, size_t n, Error *e) {
    uint32_t ids[SHORT_WORD], merges[SHORT_WORD]; /* merges[i] joins ids[i] and ids[i + 1] */
    const Tokenizer *t = w->t;
    for (size_t i = 0; i < n; i++) ids[i] = t->byte_id[(unsigned char)word[i]];
    for (size_t i = 0; i + 1 < n; i++) merges[i] = merge_of(t, ids[i], ids[i + 1]);
    while (n > 1) {
        size_t best = 0;
        for (size_t i = 1; i + 1 < n; i++)
            if (merges[i] < merges[best]) best = i;
        if (merges[best] == NO_MERGE) break;
        ids[best] = t->merges[merges[best]].result;
        n--;
        for (size_t i = best + 1; i < n; i++) ids[i] = ids[i + 1];
        for (size_t i = best; i + 1 < n; i++) merges[i] = merges[i + 1];
        if (best > 0) merges[best - 1] = merge_of(t, ids[best - 1], ids[best]);
        if (best + 1 < n) merges[best] = merge_of(t, ids[best], ids[best + 1]);
    }
    for (size_t i = 0; i < n; i++)
        if (!ids_add(w->out, (int32_t)ids[i], e)) return false;
    return true;
}

/* The heap is 4-ary, which touches less memory than a binary one: children of i from 4 i + 1. */
static void heap_sift_down(uint64_t *heap, size_t n, size_t i) {
    uint64_t item = heap[i];
    for (size_t child; (child = 4 * i + 1) < n;) {
        size_t end = min_size(child + 4, n), least = child;
        while (++child < end)
            if (heap[child] < heap[least]) least = child;
        if (heap[least] >= item) break;
        heap[i] = heap[least];
        i = least;
    }
    heap[i] = item;
}

static void heap_push(Encoder *w, uint64_t item) {
    uint64_t *heap = w->heap;
    size_t i = w->n_heap++;
    for (; i > 0 && heap[(i - 1) / 4] > item; i = (i - 1) / 4) heap[i] = heap[(i - 1) / 4];
    heap[i] = item;
}

static uint64_t heap_pop(Encoder *w) {
    uint64_t top = w->heap[0];
    w->heap[0] = w->heap[--w->n_heap];
    if (w->n_heap > 0) heap_sift_down(w->heap, w->n_heap, 0);
    return top;
}

static bool room_for_word(Encoder *w, size_t n, Error *e) {
    size_t room = max_size(n, 256);
    if (n <= w->room) return true;
    free(w->symbols);
    free(w->heap);
    w->room = 0;
    w->symbols = alloc_array(e, "tokenizer", room, sizeof *w->symbols);
    w->heap = alloc_array(e, "tokenizer", 2 * room, sizeof *w->heap);
    if (!w->symbols || !w->heap) return false;
    w->room = room;
    return true;
}

/* Find the merge of the symbol at i and the one behind it in the word of n bytes. */
static uint32_t symbol_update(const Tokenizer *t, Symbol *s, size_t n, size_t i) {
    size_t next = i + s[i].span;
    s[i].merge = next == n ? NO_MERGE : merge_of(t, s[i].id, s[next].id);
    return s[i].merge;
}

/* Make the symbols of the word and the heap of their merges. */
static void start_word(Encoder *w, const char *word, size_t n) {
    for (size_t i = 0; i < n; i++)
        w->symbols[i] = (Symbol){w->t->byte_id[(unsigned char)word[i]], NO_MERGE, 1};
    w->n_heap = 0;
    for (size_t i = 0; i < n; i++) {
        uint64_t merge = symbol_update(w->t, w->symbols, n, i);
        if (merge != NO_MERGE) w->heap[w->n_heap++] = merge << 32 | i;
    }
    for (size_t i = w->n_heap; i-- > 0;) heap_sift_down(w->heap, w->n_heap, i);
}

/* A word of any length >= 1. A heap item whose symbol has another merge by now is out of date.
 * Every merge takes one item and adds at most two, so the heap never holds more than 2 n. */
static bool merge_long(Encoder *w, const char *word, size_t n, Error *e) {
    if (!room_for_word(w, n, e)) return false;
    Symbol *s = w->symbols;
    start_word(w, word, n);
    while (w->n_heap > 0) {
        uint64_t item = heap_pop(w), merge;
        size_t i = (uint32_t)item, next = i + s[i].span;
        if (s[i].merge != item >> 32) continue;
        uint32_t span = s[i].span + s[next].span;
        s[i].id = w->t->merges[s[i].merge].result;
        s[next].merge = NO_MERGE;
        s[i].span = s[i + span - 1].span = span;
        if ((merge = symbol_update(w->t, s, n, i)) != NO_MERGE) heap_push(w, merge << 32 | i);
        if (i == 0) continue;
        i -= s[i - 1].span;
        if ((merge = symbol_update(w->t, s, n, i)) != NO_MERGE) heap_push(w, merge << 32 | i);
    }
    for (size_t i = 0; i < n; i += s[i].span)
        if (!ids_add(w->out, (int32_t)s[i].id, e)) return false;
    return true;
}

/* ---- Added tokens ---------------------------------------------------------------------------- */

static int compare_added(const void *a, const void *b) {
    const AddedText *x = a, *y = b;
    return compare_bytes(x->text, x->n, y->text, y->n);
}

/* Among by_text[low..high), which agree in their first k bytes and are longer: the first whose next
 * byte is at least c. */
static size_t first_with_byte(const AddedText *by_text, size_t low, size_t high, size_t k, int c) {
    while (low < high) {
        size_t mid = (low + high) / 2;
        if ((unsigned char)by_text[mid].text[k] < c) low = mid + 1;
        else high = mid;
    }
    return low;
}

/* The longest added token that text[0..n) begins with, or NULL. */
static const AddedText *longest_added(const Tokenizer *t, const char *text, size_t n) {
    const AddedText *found = NULL;
    size_t low = 0, high = t->n_added;
    for (size_t k = 0; low < high && k < n; k++) {
        int c = (unsigned char)text[k];
        low = first_with_byte(t->by_text, low, high, k, c);
        high = first_with_byte(t->by_text, low, high, k, c + 1);
        if (low < high && t->by_text[low].n == k + 1) found = &t->by_text[low++];
    }
    return found;
}

/* ---- Encoding -------------------------------------------------------------------------------- */

/* Append the ids of a piece of text without added tokens. */
static bool encode_piece(Encoder *w, const char *text, size_t n, Error *e) {
    if (!normalize(&w->segment, text, n, &w->normal, &text, &n, e)) return false;
    for (size_t pos = 0, end; pos < n; pos = end) {
        end = word_end(text, n, pos);
        bool ok = end - pos <= SHORT_WORD ? merge_short(w, text + pos, end - pos, e)
                                          : merge_long(w, text + pos, end - pos, e);
        if (!ok) return false;
    }
    return true;
}

/* Append the ids of a text in which added tokens count: leftmost first, the longest at a place. */
static bool encode_split(Encoder *w, const char *text, size_t n, Error *e) {
    size_t start = 0;
    for (size_t pos = 0; pos < n;) {
        const AddedText *a = NULL;
        if (w->t->starts_added[(unsigned char)text[pos]])
            a = longest_added(w->t, text + pos, n - pos);
        if (!a) {
            pos++;
            continue;
        }
        if (!encode_piece(w, text + start, pos - start, e) || !ids_add(w->out, a->id, e))
            return false;
        start = pos += a->n;
    }
    return encode_piece(w, text + start, n - start, e);
}

bool tokenizer_encode(const Tokenizer *t, const char *text, size_t n, bool parse_special, Ids *out,
                      Error *e) {
    if (n == 0) return true; /* text may be NULL */
    /* Places in a word are 32 bits wide, and NFC makes at most three bytes of one. */
    if (n > MAX_TEXT)
        return fail(e, NULL, "text", "expected at most %u bytes, got %zu", MAX_TEXT, n);
    Encoder w = {.t = t, .out = out};
    size_t before = out->n;
    bool ok = parse_special ? encode_split(&w, text, n, e) : encode_piece(&w, text, n, e);
    if (!ok) out->n = before;
    buffer_free(&w.normal);
    free(w.segment.chars);
    free(w.symbols);
    free(w.heap);
    return ok;
}

/* ---- Tokens ---------------------------------------------------------------------------------- */

int tokenizer_n_tokens(const Tokenizer *t) { return (int)t->n_tokens; }

/* The text of token id < n_tokens. */
static const char *token_text(const Tokenizer *t, uint32_t id, size_t *n) {
    uint32_t start = id > 0 ? t->end[id - 1] : 0;
    *n = t->end[id] - start;
    return t->text + start;
}

const char *tokenizer_bytes(const Tokenizer *t, int id, size_t *n) {
    *n = 0;
    return id >= 0 && (uint32_t)id < t->n_tokens ? token_text(t, (uint32_t)id, n) : NULL;
}

static const TokenizerAdded *find_added(const Tokenizer *t, uint32_t id) {
    size_t low = 0, high = t->n_added;
    while (low < high) {
        size_t mid = (low + high) / 2;
        if (t->added[mid].id < id) low = mid + 1;
        else high = mid;
    }
    return low < t->n_added && t->added[low].id == id ? &t->added[low] : NULL;
}

bool tokenizer_is_added(const Tokenizer *t, int id) {
    return id >= 0 && find_added(t, (uint32_t)id) != NULL;
}

bool tokenizer_is_special(const Tokenizer *t, int id) {
    const TokenizerAdded *a = id >= 0 ? find_added(t, (uint32_t)id) : NULL;
    return a && a->special;
}

int tokenizer_find(const Tokenizer *t, const char *text) {
    size_t n = strlen(text);
    const AddedText *a = longest_added(t, text, n);
    return a && a->n == n ? a->id : -1;
}

/* ---- Opening: every number of the section is proved before it is used ------------------------ */

/* Cut n items of `size` bytes off the front of the *left bytes at *at. */
static bool take(const char **at, size_t *left, size_t n, size_t size, const char *file,
                 const char *field, Error *e) {
    if (n > *left / size)
        return fail(e, file, field, "expected at most %zu to fit the section, got %zu",
                    *left / size, n);
    *at += n * size;
    *left -= n * size;
    return true;
}

/* Find the arrays of the section. */
static bool check_layout(Tokenizer *t, const void *section, size_t bytes, const char *file,
                         Error *e) {
    const char *at = section;
    TokenizerHeader h;
    if ((uintptr_t)section % _Alignof(uint32_t) != 0)
        return fail(e, file, "tokenizer", "expected an address that is a multiple of 4");
    if (bytes < sizeof h)
        return fail(e, file, "tokenizer", "expected at least %zu bytes, got %zu", sizeof h, bytes);
    memcpy(&h, section, sizeof h);
    if (h.n_tokens < 256 || h.n_tokens > MAX_VOCAB)
        return fail(e, file, "tokenizer.n_tokens", "expected 256 to %d, got %u", MAX_VOCAB,
                    h.n_tokens);
    if (h.n_merges < 1 || h.n_merges > MAX_MERGES)
        return fail(e, file, "tokenizer.n_merges", "expected 1 to %u, got %u", MAX_MERGES,
                    h.n_merges);
    at += sizeof h;
    bytes -= sizeof h;
    t->end = (const void *)at;
    if (!take(&at, &bytes, h.n_tokens, sizeof *t->end, file, "tokenizer.n_tokens", e)) return false;
    t->merges = (const void *)at;
    if (!take(&at, &bytes, h.n_merges, sizeof *t->merges, file, "tokenizer.n_merges", e))
        return false;
    t->added = (const void *)at;
    if (!take(&at, &bytes, h.n_added, sizeof *t->added, file, "tokenizer.n_added", e)) return false;
    t->text = at;
    if (h.text_bytes != bytes)
        return fail(e, file, "tokenizer.text_bytes", "expected the %zu left in the section, got %u",
                    bytes, h.text_bytes);
    t->n_tokens = h.n_tokens;
    t->n_merges = h.n_merges;
    t->n_added = h.n_added;
    t->text_bytes = h.text_bytes;
    return true;
}

static bool check_ends(const Tokenizer *t, const char *file, Error *e) {
    uint32_t before = 0;
    for (uint32_t i = 0; i < t->n_tokens; i++) {
        if (t->end[i] < before || t->end[i] > t->text_bytes)
            return fail(e, file, "tokenizer.end", "token %u: expected %u to %u, got %u", i, before,
                        t->text_bytes, t->end[i]);
        before = t->end[i];
    }
    return before == t->text_bytes || fail(e, file, "tokenizer.end", "last: expected %u, got %u",
                                           t->text_bytes, before);
}

/* Check the added tokens and sort them by text. */
static bool load_added(Tokenizer *t, const char *file, Error *e) {
    static const char field[] = "tokenizer.added";
    t->by_text = alloc_array(e, field, t->n_added, sizeof *t->by_text);
    if (!t->by_text) return false;
    for (uint32_t i = 0; i < t->n_added; i++) {
        uint32_t id = t->added[i].id, low = i > 0 ? t->added[i - 1].id + 1 : 0;
        AddedText *a = &t->by_text[i];
        if (id < low || id >= t->n_tokens)
            return fail(e, file, field, "%u: expected an id from %u to %u, got %u", i, low,
                        t->n_tokens - 1, id);
        if (t->added[i].special > 1)
            return fail(e, file, field, "id %u: expected special 0 or 1, got %u", id,
                        t->added[i].special);
        a->id = (int32_t)id;
        a->text = token_text(t, id, &a->n);
        if (a->n < 1 || a->n > MAX_ADDED_BYTES)
            return fail(e, file, field, "id %u: expected 1 to %d bytes of text, got %zu", id,
                        MAX_ADDED_BYTES, a->n);
        t->starts_added[(unsigned char)a->text[0]] = true;
    }
    qsort(t->by_text, t->n_added, sizeof *t->by_text, compare_added);
    for (uint32_t i = 1; i < t->n_added; i++)
        if (compare_added(&t->by_text[i - 1], &t->by_text[i]) == 0)
            return fail(e, file, field, "expected different texts, ids %d and %d have the same",
                        t->by_text[i - 1].id, t->by_text[i].id);
    return true;
}

/* Find the tokens of the 256 single bytes: each must be there, once. Added ones do not count: text
 * is cut at these before it is cut into bytes. */
static bool find_bytes(Tokenizer *t, const char *file, Error *e) {
    bool found[256] = {false};
    for (uint32_t id = 0; id < t->n_tokens; id++) {
        size_t n;
        const char *text = token_text(t, id, &n);
        if (n != 1 || tokenizer_is_added(t, (int)id)) continue;
        unsigned char byte = (unsigned char)text[0];
        if (found[byte])
            return fail(e, file, "tokenizer.text", "byte 0x%02x: expected one token, got %u and %u",
                        byte, t->byte_id[byte], id);
        found[byte] = true;
        t->byte_id[byte] = id;
    }
    for (int byte = 0; byte < 256; byte++)
        if (!found[byte])
            return fail(e, file, "tokenizer.text", "byte 0x%02x: expected one token, got none",
                        byte);
    return true;
}

/* Is the result of a merge what it must be: the texts of both sides, one behind the other? */
static bool merge_text_ok(const Tokenizer *t, const TokenizerMerge *m) {
    size_t n_left, n_right, n;
    const char *left = token_text(t, m->left, &n_left), *right = token_text(t, m->right, &n_right);
    const char *text = token_text(t, m->result, &n);
    return n_left > 0 && n_right > 0 && n_left < n && n - n_left == n_right &&
           memcmp(text, left, n_left) == 0 && memcmp(text + n_left, right, n_right) == 0;
}

/* Check the merges and enter them into the hash table, which is at most two thirds full. */
static bool load_merges(Tokenizer *t, const char *file, Error *e) {
    static const char field[] = "tokenizer.merges";
    for (t->slot_bits = 1; t->n_merges / 2 * 3 + 1 >= 1u << t->slot_bits;) t->slot_bits++;
    t->slots = alloc_array(e, field, (size_t)1 << t->slot_bits, sizeof *t->slots);
    if (!t->slots) return false;
    for (uint32_t i = 0; i < t->n_merges; i++) {
        const TokenizerMerge *m = &t->merges[i];
        if (m->left >= t->n_tokens || m->right >= t->n_tokens || m->result >= t->n_tokens)
            return fail(e, file, field, "%u: expected ids below %u, got %u, %u and %u", i,
                        t->n_tokens, m->left, m->right, m->result);
        if (!merge_text_ok(t, m))
            return fail(e, file, field, "%u: expected token %u to be %u and %u joined, it is not",
                        i, m->result, m->left, m->right);
        if (t->n_added && m->result >= t->added[0].id && tokenizer_is_special(t, (int)m->result))
            return fail(e, file, field, "%u: expected no special token, got %u", i, m->result);
        uint32_t tag, *slot = find_slot(t, m->left, m->right, &tag);
        if (*slot)
            return fail(e, file, field, "%u: expected a new pair, merge %u joins %u and %u too", i,
                        merge_of(t, m->left, m->right), m->left, m->right);
        *slot = tag | (i + 1);
    }
    return true;
}

Tokenizer *tokenizer_open(const void *section, size_t bytes, const char *file, Error *e) {
    Tokenizer *t = alloc_array(e, "tokenizer", 1, sizeof *t);
    if (!t) return NULL;
    if (check_layout(t, section, bytes, file, e) && check_ends(t, file, e) &&
        load_added(t, file, e) && find_bytes(t, file, e) && load_merges(t, file, e))
        return t;
    tokenizer_close(t);
    return NULL;
}

void tokenizer_close(Tokenizer *t) {
    if (!t) return;
    free(t->slots);
    free(t->by_text);
    free(t);
}
