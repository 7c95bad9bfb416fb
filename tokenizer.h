/* tokenizer.h: byte-level BPE as Qwen2 uses it: text <-> token ids, just as Hugging Face does it.
 *
 * Encoding, in this order (Hugging Face: added tokens, normalizer, pre-tokenizer, model):
 *   1. with parse_special: the raw text is split at the added tokens (leftmost first);
 *   2. each piece is brought to Unicode NFC (bytes that are no UTF-8 pass through unchanged);
 *   3. each piece is cut into words by the pattern that stands above the scanner in tokenizer.c;
 *   4. each word's bytes are merged pair by pair, lowest rank first. */
#ifndef TOKENIZER_H
#define TOKENIZER_H

#include "base.h"

typedef struct Tokenizer Tokenizer;

/* Use the tokenizer section of a model.bin (model.h draws it), which must stay mapped and readable.
 * `file` names it in errors. Everything in it is checked here. NULL on error. */
Tokenizer *tokenizer_open(const void *section, size_t bytes, const char *file, Error *e);
void tokenizer_close(Tokenizer *t); /* NULL is allowed */

int tokenizer_n_tokens(const Tokenizer *t); /* ids are 0 .. n_tokens - 1 */

/* Append the ids of text[0..n) to *out. With parse_special, text that spells an added token becomes
 * that token; without it, it is ordinary text: that is how what a user typed is encoded.
 * Linear in n up to a logarithm. False only when memory is short, or the text longer than 1 GiB. */
bool tokenizer_encode(const Tokenizer *t, const char *text, size_t n, bool parse_special, Ids *out,
                      Error *e);

/* The bytes of one token (not NUL-terminated); they may be a part of a UTF-8 character.
 * NULL and *n = 0 for an id outside the vocabulary. */
const char *tokenizer_bytes(const Tokenizer *t, int id, size_t *n);

/* Is this an added token of the "special" kind, which decoding to plain text leaves out? */
bool tokenizer_is_special(const Tokenizer *t, int id);
/* Is this any added token? */
bool tokenizer_is_added(const Tokenizer *t, int id);

/* The id of the added token spelled `text`, or -1. */
int tokenizer_find(const Tokenizer *t, const char *text);

#endif
