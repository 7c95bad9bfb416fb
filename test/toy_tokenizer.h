/* toy_tokenizer.h: a tokenizer made here: 256 bytes, "\n\n" and "us", and some added tokens. */
#ifndef TOY_TOKENIZER_H
#define TOY_TOKENIZER_H

#include "../chat.h"
#include "../model.h"
#include "test.h"

enum { LINES = 256, US = 257, FIRST_ADDED = 258 };

static const char *const all_added[] = {"<|im_start|>", "<|im_end|>", "<tool_call>",
                                        "</tool_call>"};

typedef struct {
    void *section;
    Tokenizer *tok;
} Toy;

static void put_u32(Buffer *b, uint32_t v, Error *e) { buffer_add(b, &v, sizeof v, e); }

static Toy toy_open(uint32_t n_added) {
    Error e;
    Buffer text = {0}, ends = {0}, b = {0};
    for (int i = 0; i < 256; i++) {
        char byte = (char)i;
        buffer_add(&text, &byte, 1, &e);
        put_u32(&ends, (uint32_t)text.n, &e);
    }
    for (uint32_t i = 0; i < 2 + n_added; i++) {
        buffer_puts(&text, i == 0 ? "\n\n" : i == 1 ? "us" : all_added[i - 2], &e);
        put_u32(&ends, (uint32_t)text.n, &e);
    }
    TokenizerHeader header = {FIRST_ADDED + n_added, 2, n_added, (uint32_t)text.n};
    TokenizerMerge merges[2] = {{'\n', '\n', LINES}, {'u', 's', US}};
    buffer_add(&b, &header, sizeof header, &e);
    buffer_add(&b, ends.data, ends.n, &e);
    buffer_add(&b, merges, sizeof merges, &e);
    for (uint32_t i = 0; i < n_added; i++) {
        TokenizerAdded added = {FIRST_ADDED + i, i < 2};
        buffer_add(&b, &added, sizeof added, &e);
    }
    buffer_add(&b, text.data, text.n, &e);
    Toy toy = {aligned_alloc(64, (b.n + 63) / 64 * 64), NULL};
    if (toy.section) memcpy(toy.section, b.data, b.n);
    if (toy.section) toy.tok = tokenizer_open(toy.section, b.n, "toy", &e);
    CHECK(toy.tok != NULL, "%s", e.text);
    buffer_free(&text);
    buffer_free(&ends);
    buffer_free(&b);
    return toy;
}

static void toy_close(Toy *toy) {
    tokenizer_close(toy->tok);
    free(toy->section);
}

#endif
