/* test_generate.c: generation from the inside (qwen.c is included): with guesses and without, alone
 * and beside others, the same tokens by every way of choosing; caches copied from one sequence to
 * another; when guesses are made, and that they cost little where they are wrong. */
#define QWEN_NO_MAIN
#include "../qwen.c"

#include "tiny.h"

static uint32_t below(uint64_t *state, uint32_t n) { return (uint32_t)(test_random(state) % n); }

/* ---- Where the latest tokens stood before ---------------------------------------------------- */

static size_t plain_find(const int32_t *ids, size_t n, uint32_t *match) {
    size_t best = 0;
    *match = 1;
    for (size_t end = 1; end < n; end++) { /* an earlier end, exclusive */
        uint32_t same = 0;
        while (same < MATCH_MAX && same < end && ids[end - 1 - same] == ids[n - 1 - same]) same++;
        if (same >= *match && same >= MATCH_MIN) *match = same, best = end;
    }
    return best;
}

static void test_find(void) {
    uint64_t s = 1;
    size_t found = 0;
    for (int trial = 0; trial < 3000; trial++) {
        int32_t ids[120];
        uint32_t n = 1 + below(&s, 120), kinds = 1 + below(&s, 12), match, want;
        for (uint32_t i = 0; i < n; i++) ids[i] = (int32_t)below(&s, kinds);
        size_t place = lookup_find(ids, n, &match), expected = plain_find(ids, n, &want);
        CHECK(place == expected && (place == 0 || match == want), "%zu after %u, not %zu after %u",
              place, match, expected, want);
        found += place > 0;
    }
    CHECK(found > 1000 && found < 3000, "found in %zu of 3000", found);
}

/* ---- Whether guesses pay --------------------------------------------------------------------- */

/* Passes of n_runs sequences until they gave about n tokens, on a machine that needs 1 second for a
 * pass of one token and `slope` for every further one, in a text where a guess is right so often.
 * Busy: every twentieth pass is held up for as long as three more. Returns their seconds as a share
 * of what they take without guesses. */
static double simulate(uint32_t n_runs, double slope, double chance, bool busy, size_t n,
                       size_t *drafted) {
    Engine e = {.pace = {.plain = 0}};
    Record r = {.tried = {0}};
    uint64_t s = 2;
    double seconds = 0, plain = 1 + slope * (n_runs - 1);
    size_t tokens = 0;
    *drafted = 0;
    while (tokens < n) {
        uint32_t m = n_runs, accepted = 0;
        double gain = n_runs;
        bool allowed = pace_allows(&e.pace, n_runs);
        for (uint32_t i = 0; i < n_runs && allowed; i++) {
            uint32_t match = MATCH_MIN + below(&s, 12), j = 0;
            uint32_t most = min_size(MAX_DRAFT, DECODE_ROWS - m) & 0xff;
            uint32_t k = lookup_length(&e, &r, match, most, m, &gain);
            m += k;
            for (bool right = true; right && j < k; j++) {
                right = (double)(test_random(&s) >> 11) * 0x1p-53 < chance;
                record_guess(&r, match + j, right);
                accepted += right;
            }
            *drafted += k;
        }
        double noise = 0.9 + 0.2 * (double)(test_random(&s) >> 11) * 0x1p-53;
        if (busy && below(&s, 20) == 0) noise += 3;
        double took = (1 + slope * (m - 1)) * noise;
        pace_note(&e.pace, n_runs, m, accepted, took);
        seconds += took;
        tokens += n_runs + accepted;
    }
    return seconds / ((double)tokens / n_runs * plain * (busy ? 1.15 : 1));
}

static void test_pace(void) {
    static const double slopes[] = {0, 0.01, 0.1, 0.3, 0.6, 1};
    size_t drafted;
    for (uint32_t n_runs = 1; n_runs <= 16; n_runs *= 4)
        for (size_t i = 0; i < 6; i++) {
            double wrong = simulate(n_runs, slopes[i], 0, false, 400 * n_runs, &drafted);
            CHECK(wrong < 1.02, "%u runs, slope %g: wrong guesses cost %.2f %%", n_runs, slopes[i],
                  100 * (wrong - 1));
            for (double chance = 0.1; chance < 1; chance += 0.2) {
                double share = simulate(n_runs, slopes[i], chance, false, 2000 * n_runs, &drafted);
                CHECK(share < 1.02, "%u runs, slope %g, right at %g: %g of the time", n_runs,
                      slopes[i], chance, share);
            }
        }
    CHECK(simulate(1, 0.1, 0.9, false, 2000, &drafted) < 0.4, "right guesses for little pay");
    CHECK(simulate(1, 0.02, 0.5, false, 2000, &drafted) < 0.65, "half of them being right too");
    for (double chance = 0; chance < 1; chance += 0.3) {
        double share = simulate(1, 0.2, chance, true, 4000, &drafted);
        CHECK(share < (chance > 0.8 ? 0.6 : 1.06), "a busy machine, right at %g: %g", chance,
              share);
    }
    simulate(1, 1, 0.9, false, 2000, &drafted);
    CHECK(drafted < 100, "%zu guesses where a token costs as much as a pass", drafted);
}

/* ---- The same answer with guesses and without ------------------------------------------------ */

#define CTX 400

typedef struct {
    const char *name;
    SamplerOptions sampler;
    int64_t max_tokens;
    const char *stop;
    bool loop_guard;
    uint32_t repeats; /* of the prompt's text */
} Case;

/* The answer to a prompt of a few tokens, several times over. */
static void make_prompt(Ids *prompt, uint32_t repeats, uint32_t which) {
    uint64_t s = which;
    Error e;
    int32_t text[12];
    for (int i = 0; i < 12; i++) text[i] = (int32_t)below(&s, 94);
    for (uint32_t i = 0; i < 12 * repeats; i++)
        CHECK(ids_add(prompt, text[i % 12], &e), "%s", e.text);
}

static GenerateOptions case_options(const Case *c, int64_t lookup) {
    return (GenerateOptions){.sampler = c->sampler,
                             .max_tokens = c->max_tokens,
                             .loop_guard = c->loop_guard,
                             .lookup = lookup};
}

/* Everything about an answer that may not depend on guesses. */
static void check_same(const Case *c, int64_t lookup, const RunStats *a, const RunStats *b,
                       const Output *x, const Output *y, const Session *s, const Ids *prompt) {
    CHECK(a->hash == b->hash && a->n_generated == b->n_generated && a->finish == b->finish,
          "%s, %d guesses: %zu tokens and %s, not %zu and %s", c->name, (int)lookup, b->n_generated,
          finish_names[b->finish], a->n_generated, finish_names[a->finish]);
    CHECK(x->all.n == y->all.n &&
              (x->all.n == 0 || memcmp(x->all.data, y->all.data, x->all.n) == 0),
          "%s, %d guesses: the text", c->name, (int)lookup);
    /* What is cached is the prompt and the answer but for its last token, unless that was fed. */
    bool kept = s->ids.n == prompt->n + b->n_generated - 1;
    for (size_t i = 0; kept && i < s->ids.n; i++)
        kept = s->ids.ids[i] == (i < prompt->n ? prompt->ids[i] : y->ids.ids[i - prompt->n]);
    CHECK(kept, "%s, %d guesses: %zu tokens are cached", c->name, (int)lookup, s->ids.n);
}

static void test_case(Session *s, const Case *c, size_t *drafted, size_t *accepted) {
    static const int64_t lookups[] = {0, 1, 2, 5, MAX_DRAFT, LOOKUP_AUTO};
    Ids prompt = {0};
    RunStats first;
    Output plain = {.stops = (const char **)&c->stop, .n_stops = c->stop != NULL, .keep = true};
    make_prompt(&prompt, c->repeats, 7);
    for (size_t i = 0; i < sizeof lookups / sizeof lookups[0]; i++) {
        Error e;
        RunStats st;
        GenerateOptions o = case_options(c, lookups[i]);
        Output out = {.stops = (const char **)&c->stop, .n_stops = c->stop != NULL, .keep = true};
        Output *to = i == 0 ? &plain : &out;
        bool ok = generate(s, &prompt, &o, to, &st, &e);
        CHECK(ok, "%s: %s", c->name, e.text);
        if (i == 0) first = st;
        check_same(c, lookups[i], &first, &st, &plain, to, s, &prompt);
        CHECK(st.n_accepted <= st.n_drafted && (lookups[i] != 0 || st.n_drafted == 0),
              "%s: %zu of %zu", c->name, st.n_accepted, st.n_drafted);
        *drafted += st.n_drafted;
        *accepted += st.n_accepted;
        if (lookups[i] == 5 && strstr(c->name, "repeats"))
            CHECK(st.n_accepted > st.n_generated / 2, "%s: %zu of %zu tokens were guessed", c->name,
                  st.n_accepted, st.n_generated);
        output_close(&out);
    }
    output_close(&plain);
    ids_free(&prompt);
}

#define GREEDY .top_p = 1, .repeat_penalty = 1, .repeat_last_n = -1
#define RANDOM .temperature = 0.5, .top_p = 0.9, .top_k = 10, .repeat_penalty = 1, .seed = 3
static const Case cases[] = {
    {"greedy", {GREEDY}, 150, NULL, false, 3},
    {"sampled", {RANDOM, .repeat_last_n = -1}, 150, NULL, false, 6},
    {"all candidates", {.temperature = 1, GREEDY, .seed = 9}, 150, NULL, false, 6},
    {"repeat penalty",
     {.top_p = 1, .repeat_penalty = 0.6, .repeat_last_n = -1},
     150,
     NULL,
     false,
     6},
    {"a window of penalties",
     {.temperature = 0.3,
      .top_p = 1,
      .repeat_penalty = 1.1,
      .repeat_last_n = 20,
      .frequency_penalty = 2,
      .presence_penalty = -30,
      .seed = 4},
     150,
     NULL,
     false,
     6},
    {"it repeats itself", {GREEDY, .presence_penalty = -100}, 150, NULL, false, 3},
    {"it repeats itself, guarded", {GREEDY, .presence_penalty = -100}, 300, NULL, true, 3},
    {"it repeats itself and fills the context",
     {GREEDY, .presence_penalty = -100},
     -1,
     NULL,
     false,
     3},
    {"it repeats itself, sampled",
     {RANDOM, .repeat_last_n = -1, .presence_penalty = -30},
     150,
     NULL,
     false,
     3},
    {"fills the context", {RANDOM, .repeat_last_n = -1}, -1, NULL, false, 30},
    {"nearly full at once", {RANDOM, .repeat_last_n = -1}, -1, NULL, false, 33},
    {"a stop string", {RANDOM, .repeat_last_n = -1, .presence_penalty = 1}, 150, "a", false, 6},
    {"a stop string of two tokens", {GREEDY, .presence_penalty = -20}, 90, "bc", false, 6},
    {"one token", {GREEDY}, 1, NULL, false, 6},
    {"two tokens", {GREEDY, .presence_penalty = -100}, 2, NULL, false, 6},
    {"seventeen tokens", {GREEDY, .presence_penalty = -100}, 17, NULL, false, 6},
};
#define N_CASES (sizeof cases / sizeof cases[0])

/* ---- Beside others --------------------------------------------------------------------------- */

#define RUNS 6

/* Six prompts together, some with guesses, ending at different times: what each says alone. */
static void test_together(Engine *engine, int64_t max) {
    static const int64_t lookups[RUNS] = {0, 5, LOOKUP_AUTO, MAX_DRAFT, 2, MAX_DRAFT};
    Session sessions[RUNS];
    Run runs[RUNS], *going[RUNS];
    RunStats alone[RUNS], st[RUNS];
    Output out[RUNS];
    Ids prompts[RUNS];
    GenerateOptions options[RUNS];
    Error e;
    bool ok = true;
    for (uint32_t i = 0; i < RUNS; i++) {
        prompts[i] = (Ids){0};
        make_prompt(&prompts[i], 1 + i, 20 + i);
        options[i] = case_options(&cases[i % 2 ? 5 : 1], 0);
        options[i].max_tokens = max + 9 * i;
        Output first = {.keep = true};
        ok = ok && session_open(&sessions[i], engine, &e);
        sessions[i].seq = i;
        ok = ok && generate(&sessions[i], &prompts[i], &options[i], &first, &alone[i], &e);
        output_close(&first);
        options[i].lookup = lookups[i];
        out[i] = (Output){.keep = true};
        ok = ok && run_open(&runs[i], &sessions[i], &prompts[i], &options[i], &out[i], &st[i], &e);
    }
    for (uint32_t n = 1; ok && n > 0;) {
        n = 0;
        for (uint32_t i = 0; i < RUNS; i++)
            if (runs[i].going) going[n++] = &runs[i];
        ok = n == 0 || runs_step(going, n, &e);
    }
    CHECK(ok, "%s", e.text);
    for (uint32_t i = 0; i < RUNS; i++) {
        run_close(&runs[i], ok, &e);
        CHECK(st[i].hash == alone[i].hash && st[i].finish == alone[i].finish &&
                  st[i].n_generated == alone[i].n_generated,
              "run %u beside others: %zu tokens, alone %zu", i, st[i].n_generated,
              alone[i].n_generated);
        output_close(&out[i]);
        ids_free(&prompts[i]);
        session_close(&sessions[i]);
    }
}

/* Logits behind tokens that another sequence has read are those of reading them oneself. */
static void test_copy(Engine *engine) {
    size_t bytes = engine->model->config->vocab_size * sizeof(float);
    for (size_t n = 0; n < 40; n += 3) {
        Session a = {.seq = 0}, b = {.seq = 0};
        Ids prompt = {0};
        Error e;
        make_prompt(&prompt, 4, 5);
        bool ok = session_open(&a, engine, &e) && session_open(&b, engine, &e);
        b.seq = 1;
        int32_t other = 3; /* what b held before is no longer there */
        ok = ok && session_feed(&b, &other, 1, NULL, &e) == FED &&
             session_feed(&a, prompt.ids, prompt.n, NULL, &e) == FED &&
             session_copy(&b, &a, n, &e) &&
             session_feed(&b, prompt.ids + n, prompt.n - n, NULL, &e) == FED;
        CHECK(ok, "%s", e.text);
        CHECK(ok && b.ids.n == prompt.n && memcmp(a.logits, b.logits, bytes) == 0,
              "the logits behind %zu copied tokens", n);
        session_close(&a);
        session_close(&b);
        ids_free(&prompt);
    }
}

static void test_model(const char *path, const char *quant, bool kv_f32, uint32_t threads) {
    Model m;
    Engine engine;
    Session s;
    Error e;
    EngineOptions o = {.threads = threads, .ctx = CTX, .n_seq = RUNS, .kv_f32 = kv_f32};
    bool ok = tiny_model(path, quant, TINY_ENDS, &e) && model_load(&m, path, &e);
    if (!ok) return CHECK(ok, "%s: %s", quant, e.text);
    ok = engine_open(&engine, &m, &o, &e);
    if (ok && session_open(&s, &engine, &e)) {
        size_t drafted = 0, accepted = 0;
        for (size_t i = 0; i < N_CASES; i++) test_case(&s, &cases[i], &drafted, &accepted);
        CHECK(accepted > 2000 && accepted < drafted * 3 / 4, "%zu of %zu guesses were right",
              accepted, drafted);
        session_close(&s);
        test_together(&engine, 20);
        test_together(&engine, 90);
        test_copy(&engine);
    }
    CHECK(ok, "%s: %s", quant, e.text);
    if (ok) engine_close(&engine);
    model_unload(&m);
}

int main(void) {
    const char *base = getenv("TMPDIR");
    char path[300];
    test_find();
    test_pace();
    snprintf(path, sizeof path, "%s/test_generate.XXXXXX", base && base[0] ? base : "/tmp");
    int fd = mkstemp(path);
    CHECK(fd >= 0, "%s: %s", path, strerror(errno));
    if (fd >= 0) {
        close(fd);
        test_model(path, "q8", false, 1);
        test_model(path, "q5", true, 2);
        test_model(path, "f32", false, 1);
        unlink(path);
    }
    return test_end("test_generate");
}
