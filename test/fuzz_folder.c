/* fuzz_folder.c: the texts of a Hugging Face folder. The input's first byte says which file of a
 * good folder the rest replaces; what opens is tokenized with. A LoRA adapter's settings are one of
 * the files. */
#include "../convert/convert.h"
#include "fuzz.h"
#include "good_folder.h"

static const char *const names[] = {"config.json",
                                    "generation_config.json",
                                    "tokenizer.json",
                                    "tokenizer_config.json",
                                    "vocab.json",
                                    "merges.txt",
                                    "added_tokens.json",
                                    "chat_template.jinja",
                                    "model.safetensors.index.json",
                                    "adapter_config.json"};
#define N_NAMES (sizeof names / sizeof names[0])

static void use(Source *s) {
    static const char text[] = "Hello the <|im_end|> \xc3\xa9 \xff 12";
    Error e = {{0}};
    Ids ids = {0};
    Tokenizer *t = tokenizer_open(s->tokenizer.data, s->tokenizer.n, "folder", &e);
    if (!t || !tokenizer_encode(t, text, sizeof text - 1, true, &ids, &e)) abort();
    for (size_t i = 0; i < ids.n; i++)
        if (ids.ids[i] < 0 || ids.ids[i] >= tokenizer_n_tokens(t)) abort();
    tokenizer_close(t);
    ids_free(&ids);
    Lora *l = lora_open(".", s, &e);
    if (!l) fuzz_error(&e);
    lora_close(l);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    Error e = {{0}};
    Source s;
    if (n == 0) return 0;
    size_t which = data[0] % N_NAMES;
    good_folder_files();
    /* vocab.json and its like count only without tokenizer.json, an index without one file */
    if (which >= 4 && which <= 6) fuzz_file("tokenizer.json", NULL, FUZZ_NO_FILE);
    if (which == 8) fuzz_file("model.safetensors", NULL, FUZZ_NO_FILE);
    fuzz_file(names[which], data + 1, n - 1);
    if (!hf_open(".", &s, &e)) {
        fuzz_error(&e);
    } else {
        use(&s);
        source_close(&s);
    }
    return 0;
}
