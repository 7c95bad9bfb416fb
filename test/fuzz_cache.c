/* fuzz_cache.c: what --cache finds in its file. The input's first byte says what is repaired, so
 * that more than the checksum is tried: 1 the checksum, 2 the size too, 4 the model and settings;
 * the rest is the file. Whatever it holds, the session has a beginning of the prompt's own tokens,
 * the prompt can be read to its end, and a session that begins anew later gets the logits that it
 * always gets. */
#define QWEN_NO_MAIN
#include "../qwen.c"

#include "fuzz.h"
#include "good_folder.h"

enum { N_PROMPT = 20 };

/* The file lies in memory; its path is that of something that is there, which cache_read asks
 * first. */
#define CACHE_PATH "/dev/null"

static struct {
    Model model;
    Engine engine;
    Session session;
    Ids prompt;
    float *logits; /* (V) after the prompt */
} test;

static void open_all(void) {
    Error e;
    EngineOptions o = {.threads = 1, .ctx = 32, .n_seq = 1};
    good_model();
    if (!model_load(&test.model, "model.bin", &e) ||
        !engine_open(&test.engine, &test.model, &o, &e) ||
        !session_open(&test.session, &test.engine, &e))
        abort();
    for (size_t i = 0; i < N_PROMPT; i++)
        if (!ids_add(&test.prompt, good_id(i), &e)) abort();
    if (session_feed(&test.session, GIVEN, test.prompt.ids, N_PROMPT, NULL, &e) != FED) abort();
    size_t bytes = test.model.config->vocab_size * sizeof *test.logits;
    test.logits = malloc(bytes);
    if (!test.logits) abort();
    memcpy(test.logits, test.session.logits, bytes);
}

static void repair(uint8_t *file, size_t n, uint8_t what) {
    CacheHeader h;
    if (n < sizeof h) return;
    memcpy(&h, file, sizeof h);
    if (what & 2) h.file_bytes = n;
    if (what & 4) h.key = cache_key(&test.engine);
    memcpy(file, &h, sizeof h);
    h.crc32c = cache_crc(file, n);
    if (what & 1) memcpy(file, &h, sizeof h);
}

/* Read the rest of the prompt: numbers in the file may be anything, so the logits may be. Then all
 * of it anew. */
static void use_cache(void) {
    Session *s = &test.session;
    Error e = {{0}};
    size_t n = session_rewind(s, &test.prompt);
    Fed fed = session_feed(s, GIVEN, test.prompt.ids + n, N_PROMPT - n, NULL, &e);
    if (fed == FED_NOT_FINITE)
        fuzz_error(&e);
    else if (fed != FED)
        abort();
    s->ids.n = 0;
    if (session_feed(s, GIVEN, test.prompt.ids, N_PROMPT, NULL, &e) != FED) abort();
    if (memcmp(s->logits, test.logits, test.model.config->vocab_size * sizeof(float)) != 0) abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    Session *s = &test.session;
    Error e = {{0}};
    if (n < 2) return 0;
    if (!test.logits) open_all();
    uint8_t *file = malloc(n - 1);
    if (!file) return 0;
    memcpy(file, data + 1, n - 1);
    repair(file, n - 1, data[0]);
    fuzz_file("null", file, n - 1);
    s->ids.n = 0;
    CacheRead read = cache_read(s, CACHE_PATH, &test.prompt, &e);
    if (read != CACHE_READ) fuzz_error(&e);
    if (read != CACHE_READ && s->ids.n > 0) abort();
    if (s->ids.n > N_PROMPT || memcmp(s->ids.ids, test.prompt.ids, s->ids.n * sizeof(int32_t)) != 0)
        abort();
    if (s->ids.n > 0) use_cache();
    free(file);
    return 0;
}
