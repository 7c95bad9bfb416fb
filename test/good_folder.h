/* good_folder.h: the files of a good Hugging Face folder (make_tiny's, in $FUZZ_GOOD), for the fuzz
 * targets that change one of them, and a good model.bin. */
#ifndef GOOD_FOLDER_H
#define GOOD_FOLDER_H

#include <stdio.h>

#include "../convert/convert.h"
#include "fuzz.h"

/* Read PATH whole; the target is of no use without it. */
static size_t good_read(const char *path, uint8_t **out) {
    FILE *f = fopen(path, "rb");
    long n = -1;
    if (f && fseek(f, 0, SEEK_END) == 0) n = ftell(f);
    *out = n > 0 ? malloc((size_t)n) : NULL;
    if (!*out || fseek(f, 0, SEEK_SET) != 0 || fread(*out, 1, (size_t)n, f) != (size_t)n) {
        fprintf(stderr, "%s: cannot be read (make fuzz sets FUZZ_GOOD)\n", path);
        exit(1);
    }
    fclose(f);
    return (size_t)n;
}

/* Put the good files in place, undoing what an input changed. */
static void good_folder_files(void) {
    static const char *const names[] = {"config.json",
                                        "generation_config.json",
                                        "tokenizer.json",
                                        "tokenizer_config.json",
                                        "model.safetensors",
                                        "adapter/adapter_config.json",
                                        "adapter/adapter_model.safetensors"};
    enum { N = sizeof names / sizeof names[0] };
    static uint8_t *bytes[N];
    static size_t n[N];
    const char *folder = getenv("FUZZ_GOOD");
    fuzz.n = 0;
    for (size_t i = 0; i < N; i++) {
        char path[4096];
        snprintf(path, sizeof path, "%s/%s", folder ? folder : ".", names[i]);
        if (!bytes[i]) n[i] = good_read(path, &bytes[i]);
        const char *slash = strrchr(names[i], '/');
        fuzz_file(slash ? slash + 1 : names[i], bytes[i], n[i]);
    }
}

/* The tokenizer of the good folder, for targets that only read it. It stays open. */
__attribute__((unused)) static Tokenizer *good_tokenizer(void) {
    static Source s;
    Error e;
    good_folder_files();
    if (!hf_open(".", &s, &e)) abort();
    Tokenizer *t = tokenizer_open(s.tokenizer.data, s.tokenizer.n, "good", &e);
    if (!t) abort();
    return t;
}

/* The good model.bin, which fuzz_seeds wrote there. */
__attribute__((unused)) static void good_model(void) {
    static uint8_t *bytes;
    char path[4096];
    const char *folder = getenv("FUZZ_GOOD");
    snprintf(path, sizeof path, "%s/model.bin", folder ? folder : ".");
    size_t n = good_read(path, &bytes);
    fuzz_file("model.bin", bytes, n);
}

/* The i-th token of the prompt that fuzz_cache reads, and fuzz_seeds leaves caches of: a letter. */
__attribute__((unused)) static int32_t good_id(size_t i) { return (int32_t)(7 + i * 5 % 80); }

#endif
