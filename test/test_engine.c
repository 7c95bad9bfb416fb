/* test_engine.c: the engine's parts from the inside (qwen.c is included): the sampler against a
 * plain one, stop strings and broken characters, the loop guard, and that the logits are the same
 * bits however the tokens were fed: in any chunks, on any threads, by any instruction set, alone or
 * beside other sequences, with or without a reused prefix. */
#define QWEN_NO_MAIN
#include "../qwen.c"

#include <stddef.h>

#include "tiny.h"

static char model_path[300];

/* ---- Sampler --------------------------------------------------------------------------------- */

#define MAX_IDS 400

static int by_likelihood(const void *a, const void *b) {
    const Candidate *x = a, *y = b;
    if (x->logit != y->logit) return x->logit > y->logit ? -1 : 1;
    return x->id < y->id ? -1 : 1;
}

/* What the penalties should make of the logits. */
static void plain_penalties(const SamplerOptions *o, float *logits, uint32_t n_vocab,
                            const int32_t *ids, size_t n, size_t n_prompt) {
    for (uint32_t v = 0; v < n_vocab; v++) {
        size_t repeats = 0, counts = 0;
        for (size_t i = 0; i < n; i++) {
            if (ids[i] != (int32_t)v) continue;
            bool in_window = o->repeat_last_n < 0 || i + (size_t)o->repeat_last_n >= n;
            repeats += in_window;
            counts += o->repeat_last_n < 0 ? i >= n_prompt : in_window;
        }
        double x = (double)logits[v];
        if (repeats) x = x > 0 ? x / o->repeat_penalty : x * o->repeat_penalty;
        if (repeats) x = o->repeat_last_n < 0 ? (double)(float)x : x; /* two steps, two roundings */
        if (counts) x -= o->presence_penalty + o->frequency_penalty * (double)counts;
        logits[v] = (float)x;
    }
}

/* Sort everything, cut, draw. r is uniform in [0, 1). */
static int32_t plain_choice(const SamplerOptions *o, const float *logits, uint32_t n_vocab,
                            double r) {
    Candidate all[MAX_IDS] = {{.id = 0}};
    double p[MAX_IDS], total = 0, mass = 0;
    uint32_t k = n_vocab, kept = 0;
    for (uint32_t v = 0; v < n_vocab; v++)
        all[v] = (Candidate){.logit = logits[v], .id = (int32_t)v};
    qsort(all, n_vocab, sizeof *all, by_likelihood);
    if (o->temperature == 0) return all[0].id;
    if (o->top_k > 0 && o->top_k < (int64_t)k) k = (uint32_t)o->top_k;
    for (uint32_t i = 0; i < k; i++)
        total += p[i] = exp((double)(all[i].logit - all[0].logit) / o->temperature);
    while (kept < k && (kept == 0 || (mass < o->top_p * total && p[kept] >= o->min_p)))
        mass += p[kept++];
    for (uint32_t i = 0; i < kept; i++)
        if ((r -= p[i] / mass) < 0) return all[i].id;
    return all[kept - 1].id;
}

/* Random options; ties in half of the logits. */
static void random_case(uint64_t *s, SamplerOptions *o, float *logits, uint32_t n_vocab) {
    *o = (SamplerOptions){.temperature = test_below(s, 4) ? 0.1 + 2 * test_uniform(s) : 0,
                          .top_k = test_below(s, 2) ? test_below(s, n_vocab + 20) : 0,
                          .top_p = test_below(s, 2) ? test_uniform(s) : 1,
                          .min_p = test_below(s, 2) ? test_uniform(s) / 4 : 0,
                          .repeat_penalty = test_below(s, 2) ? 0.5 + 1.5 * test_uniform(s) : 1,
                          .repeat_last_n = (int64_t)test_below(s, 40) - 1,
                          .seed = test_random(s)};
    if (test_below(s, 2)) o->repeat_last_n = -1;
    if (test_below(s, 2)) o->presence_penalty = 2 * test_uniform(s) - 1;
    if (test_below(s, 2)) o->frequency_penalty = test_uniform(s) / 2;
    bool ties = test_below(s, 2);
    for (uint32_t v = 0; v < n_vocab; v++) {
        logits[v] = (float)(test_uniform(s) * 12 - 6);
        if (ties) logits[v] = rintf(logits[v]);
    }
}

static void test_sampler_reference(void) {
    uint64_t s = 1;
    size_t differ = 0, penalties = 0;
    for (int trial = 0; trial < 4000; trial++) {
        SamplerOptions o;
        Sampler sampler;
        Error e;
        float logits[MAX_IDS], mine[MAX_IDS];
        int32_t ids[64];
        uint32_t n_vocab = 1 + test_below(&s, MAX_IDS - 16), n = test_below(&s, 64);
        size_t n_prompt = test_below(&s, n + 1);
        random_case(&s, &o, logits, n_vocab);
        for (uint32_t i = n_vocab; i < n_vocab + 16; i++) logits[i] = 100; /* padding */
        for (uint32_t i = 0; i < n; i++) ids[i] = (int32_t)test_below(&s, n_vocab + 8);
        memcpy(mine, logits, sizeof mine);
        if (!sampler_open(&sampler, &o, kernels_available(0), n_vocab, &e))
            return CHECK(0, "%s", e.text);
        double r = sampler_uniform(&sampler);
        sampler.state = o.seed;
        int32_t got = sample(&sampler, logits, ids, n, n_prompt);
        plain_penalties(&o, mine, n_vocab, ids, n, n_prompt);
        for (uint32_t v = 0; v < n_vocab; v++)
            penalties += fabsf(mine[v] - logits[v]) > 1e-5f || sampler.count[v] != 0;
        int32_t want = plain_choice(&o, logits, n_vocab, r);
        differ += got != want;
        sampler_close(&sampler);
    }
    CHECK(penalties == 0, "%zu logits are penalized otherwise", penalties);
    /* Sums rounded in another order move a border by 1e-16: none of 4000 draws should be so near.
     */
    CHECK(differ == 0, "%zu of 4000 choices differ from the plain sampler's", differ);
}

static void test_sampler_edges(void) {
    Sampler s;
    Error e;
    SamplerOptions o = {.temperature = 1, .top_p = 1, .repeat_penalty = 1, .repeat_last_n = -1};
    float logits[8] = {1, 3, 3, 2, 3, 0, 0, 0};
    if (!sampler_open(&s, &o, kernels_available(0), 8, &e)) return CHECK(0, "%s", e.text);
    s.options.temperature = 0;
    CHECK(sample(&s, logits, NULL, 0, 0) == 1, "of equals, the lowest id");
    s.options.temperature = 1e-300;
    int seen[8] = {0};
    for (int i = 0; i < 100; i++) seen[sample(&s, logits, NULL, 0, 0)]++;
    CHECK(seen[1] + seen[2] + seen[4] == 100,
          "the smallest temperature takes one of the likeliest");
    s.options.temperature = 1;
    s.options.top_p = 0;
    for (int i = 0; i < 20; i++) CHECK(sample(&s, logits, NULL, 0, 0) == 1, "top-p 0 keeps one");
    s.options.top_p = 1;
    s.options.min_p = 1;
    memset(seen, 0, sizeof seen);
    for (int i = 0; i < 200; i++) seen[sample(&s, logits, NULL, 0, 0)]++;
    CHECK(seen[1] && seen[2] && seen[4] && seen[1] + seen[2] + seen[4] == 200,
          "min-p 1 keeps the equals");
    double sum = 0, low = 1, high = 0;
    for (int i = 0; i < 10000; i++) {
        double r = sampler_uniform(&s);
        sum += r;
        low = fmin(low, r);
        high = fmax(high, r);
    }
    CHECK(low >= 0 && high < 1 && fabs(sum / 10000 - 0.5) < 0.02, "uniform: %g %g %g", low, high,
          sum);
    sampler_close(&s);
}

/* Sums of the same numbers in another order differ: more may be asked for than there is. */
static void test_sampler_rounding(void) {
    Candidate room[3] = {{.id = -1}, {0, 0.5f, 7}, {-0.1f, 0.5f, 9}}, *c = room + 1;
    CHECK(draw_from(c, 2, 0.25) == 9 && draw_from(c, 2, 0.75) == 7 && draw_from(c, 2, 1) == 7,
          "the first one takes the rest");
    double mass = 0;
    size_t first = keep_likeliest(c, 2, 1.001, 0, &mass);
    CHECK(first == 0 && mass == 1 && c[1].id == 7 && c[0].id == 9, "both are kept: %g", mass);
}

/* The divergence as its definition has it: sum of p ln(p / q), in long double. */
static void test_kl(void) {
    uint64_t s = 9;
    float p[300], q[300];
    for (int trial = 0; trial < 200; trial++) {
        uint32_t n = 1 + test_below(&s, 300);
        long double p_sum = 0, q_sum = 0, want = 0;
        for (uint32_t i = 0; i < n; i++) {
            p[i] = (float)(test_uniform(&s) * 40 - 20);
            q[i] = (float)(test_uniform(&s) * 40 - 20);
            p_sum += expl((long double)p[i]);
            q_sum += expl((long double)q[i]);
        }
        for (uint32_t i = 0; i < n; i++) {
            long double a = expl((long double)p[i]) / p_sum, b = expl((long double)q[i]) / q_sum;
            want += a * logl(a / b);
        }
        double got = kl_divergence(p, q, n);
        CHECK(fabsl((long double)got - want) <= 1e-12L * want + 1e-14L, "%u: %.17g", n, got);
        CHECK(kl_divergence(p, p, n) == 0, "of equals");
    }
    CHECK(fabs(kl_divergence((float[]){0, 1000}, (float[]){1000, 0}, 2) - 1000) < 1e-9, "far off");
}

/* ---- Output ---------------------------------------------------------------------------------- */

/* Feed pieces; what is shown after each must be the text beside it. */
static void check_output(const char *const *stops, size_t n_stops, const char *const pieces[][2],
                         size_t n) {
    Output o = {.stops = (const char **)stops, .n_stops = n_stops};
    Error e;
    for (size_t i = 0; i < n && !o.stopped; i++) {
        if (pieces[i][0])
            CHECK(output_add(&o, pieces[i][0], strlen(pieces[i][0]), &e), "%s", e.text);
        else
            CHECK(output_finish(&o, &e), "%s", e.text);
        const char *all = o.all.data ? o.all.data : "";
        CHECK(strcmp(all, pieces[i][1]) == 0, "after \"%s\": \"%s\", not \"%s\"",
              pieces[i][0] ? pieces[i][0] : "the end", all, pieces[i][1]);
    }
    if (pieces[n - 1][0] == NULL)
        CHECK(o.stopped == (strcmp(pieces[n - 1][1], "xa") == 0), "\"bc\" in \"xabc\" stops");
    output_close(&o);
}
#define CHECK_OUTPUT(stops, n_stops, ...)                                                          \
    do {                                                                                           \
        static const char *const pieces[][2] = __VA_ARGS__;                                        \
        check_output(stops, n_stops, pieces, sizeof pieces / sizeof pieces[0]);                    \
    } while (0)

static void test_output(void) {
    static const char *const stops[] = {"END", "aab", "abcX", "bc"};
    CHECK_OUTPUT(NULL, 0,
                 {{"a\xe2", "a"},
                  {"\x82", "a"},
                  {"\xac"
                   "b",
                   "a\xe2\x82\xac"
                   "b"}});
    CHECK_OUTPUT(NULL, 0, {{"\xf0\x9f", ""}, {"x", "\xef\xbf\xbd\xef\xbf\xbdx"}});
    CHECK_OUTPUT(
        NULL, 0,
        {{"\xff", "\xef\xbf\xbd"}, {"\xc3", "\xef\xbf\xbd"}, {NULL, "\xef\xbf\xbd\xef\xbf\xbd"}});
    CHECK_OUTPUT(stops, 1, {{"xE", "x"}, {"N", "x"}, {"Dy", "x"}});
    CHECK_OUTPUT(stops, 1, {{"xE", "x"}, {"N", "x"}, {"E", "xEN"}, {"ND", "xEN"}});
    CHECK_OUTPUT(stops, 1, {{"xEN", "x"}, {NULL, "xEN"}});
    CHECK_OUTPUT(stops + 1, 1, {{"aaa", "a"}, {"a", "aa"}, {"b", "aa"}});
    CHECK_OUTPUT(stops + 2, 2, {{"xabc", "x"}, {"X", "x"}});
    CHECK_OUTPUT(stops + 2, 2, {{"xabc", "x"}, {"d", "xa"}});
    CHECK_OUTPUT(stops + 2, 2, {{"xabc", "x"}, {NULL, "xa"}});
}

/* Random text in random pieces: shown is what stands before the first stop string, and never is
 * more held back than could become one. */
static void test_output_random(void) {
    static const char *const stops[] = {"aab", "bb", "abab", "ab\xc3\xa4"};
    uint64_t s = 3;
    for (int trial = 0; trial < 2000; trial++) {
        Output o = {.stops = (const char **)stops, .n_stops = 1 + test_below(&s, 4)};
        Error e;
        char text[64];
        size_t n = 0, shown = 0, end;
        while (n < 60)
            if (test_below(&s, 12))
                text[n++] = test_below(&s, 3) ? 'a' : test_below(&s, 3) ? 'c' : 'b';
            else
                memcpy(text + n, "\xc3\xa4", 2), n += 2;
        text[n] = 0;
        for (end = 0; end < n; end++) {
            bool found = false;
            for (size_t k = 0; k < o.n_stops; k++)
                found = found || strncmp(text + end, stops[k], strlen(stops[k])) == 0;
            if (found) break;
        }
        bool ok = true;
        for (size_t at = 0; at < n && !o.stopped && ok;) {
            size_t piece = min_size(n - at, 1 + test_below(&s, 5));
            ok = output_add(&o, text + at, piece, &e);
            at += piece;
            shown = o.all.n;
            ok = ok && shown <= end && memcmp(o.all.data ? o.all.data : "", text, shown) == 0 &&
                 (o.stopped || at - shown <= 3 + 1);
        }
        ok = ok && output_finish(&o, &e) && o.all.n == end && o.stopped == (end < n);
        CHECK(ok, "%s: shown %zu of %zu", text, o.all.n, end);
        output_close(&o);
    }
}

/* ---- Loop guard ------------------------------------------------------------------------------ */

static bool plain_loop(const int32_t *ids, size_t n) {
    for (size_t p = 1; p <= LOOP_PERIODS; p++) {
        size_t run = 0;
        while (run + p < n && ids[n - 1 - run] == ids[n - 1 - run - p]) run++;
        if (run >= 2 * p && run + p >= LOOP_TOKENS) return true;
    }
    return false;
}

/* Noise, then a repeated piece: found at the very token where three copies and 96 tokens are there.
 */
static void test_loop_guard(void) {
    static const size_t periods[] = {1, 2, 31, 32, 33, 100, 511, 512, 513};
    static int32_t ids[2200];
    uint64_t s = 4;
    for (size_t i = 0; i < sizeof periods / sizeof periods[0]; i++) {
        LoopGuard *g = calloc(1, sizeof *g);
        size_t found = 0, plain = 0, n = 2200, p = periods[i], noise = 150;
        for (size_t t = 0; t < n; t++)
            ids[t] = t < noise + p ? (int32_t)test_below(&s, 1000) : ids[t - p];
        for (size_t t = 1; g && t <= n && !found; t++)
            if (loop_found(g, ids, t)) found = t;
        for (size_t t = noise; t <= n && !plain; t++)
            if (plain_loop(ids, t)) plain = t;
        CHECK(found == plain, "period %zu: found at %zu, not %zu", p, found, plain);
        CHECK(p == 513 ? found == 0
                       : found >= noise + max_size(3 * p, LOOP_TOKENS) - 2 &&
                             found <= noise + max_size(3 * p, LOOP_TOKENS),
              "period %zu: found at %zu", p, found);
        free(g);
    }
    LoopGuard *g = calloc(1, sizeof *g);
    bool found = false;
    for (size_t t = 0; t < 2200; t++) ids[t] = (int32_t)test_below(&s, 4); /* dull, but no loop */
    for (size_t t = 1; g && t <= 2200; t++) found = found || loop_found(g, ids, t);
    CHECK(!found, "noise of four tokens is no loop");
    free(g);
}

/* ---- Engine ---------------------------------------------------------------------------------- */

static int32_t text_ids[1200];

/* One way to feed the tokens. */
typedef struct {
    uint32_t chunk, threads, n_seq;
    const char *isa;
    bool kv_f32, exact;
    float yarn;
} Way;

static bool open_way(Engine *e, const Model *m, Way w, Error *err) {
    EngineOptions o = {.threads = w.threads ? w.threads : 1,
                       .ctx = 1216,
                       .n_seq = w.n_seq ? w.n_seq : 1,
                       .kv_f32 = w.kv_f32,
                       .exact = w.exact,
                       .yarn_factor = w.yarn,
                       .isa = w.isa,
                       .chunk = w.chunk};
    bool ok = engine_open(e, m, &o, err);
    CHECK(ok, "%s", err->text);
    return ok;
}

/* A hash of the logits' bits after the first n tokens, and after three more, fed one by one. */
static uint64_t logits_hash(const Model *m, Way w, uint32_t n) {
    Engine engine;
    Session s;
    Error e;
    uint64_t h = 0xcbf29ce484222325u;
    if (!open_way(&engine, m, w, &e)) return 0;
    if (session_open(&s, &engine, &e)) {
        for (uint32_t i = 0; i < 4; i++) {
            Fed fed = i == 0 ? session_feed(&s, GIVEN, text_ids, n, NULL, &e)
                             : session_feed(&s, GIVEN, text_ids + n + i - 1, 1, NULL, &e);
            CHECK(fed == FED, "%s", e.text);
            for (uint32_t v = 0; v < m->config->vocab_size; v++)
                h = hash_id(h, (int32_t)bits_from_float(s.logits[v]));
        }
        session_close(&s);
    }
    engine_close(&engine);
    return h;
}

static void test_chunks(const Model *m) {
    static const uint32_t chunks[] = {1,  2,  3,  4,  5,  6,  7,  8,  9,   11,  15,  16,  17,
                                      23, 31, 32, 33, 47, 63, 64, 65, 100, 150, 255, 256, 299};
    uint64_t want = logits_hash(m, (Way){.chunk = 300}, 300);
    for (size_t i = 0; i < sizeof chunks / sizeof chunks[0]; i++)
        CHECK(logits_hash(m, (Way){.chunk = chunks[i]}, 300) == want, "chunks of %u", chunks[i]);
}

/* 530 tokens: attention is cut into parts, which single tokens share among threads. Exact prompts
 * are the same on every instruction set, and others too, but for AMX. Threads meet
 * in the same way on all of them: an instrumented build has all counts on the first alone. */
static void test_machines(const Model *m) {
    static const uint32_t threads[] = {2, 1, 3, 8};
    uint64_t want = logits_hash(m, (Way){.exact = true}, 530);
    uint64_t others = logits_hash(m, (Way){.isa = "scalar"}, 530);
    CHECK(others == want, "prompts that are not exact, without AMX");
    for (uint32_t i = 0; kernels_available(i); i++) {
        const char *isa = kernels_available(i)->name;
        uint64_t own = logits_hash(m, (Way){.chunk = 100, .isa = isa}, 530);
        CHECK(own == others || (m->quantized && strcmp(isa, "amx") == 0), "%s, chunks of 100", isa);
        for (size_t t = 0; t < (INSTRUMENTED && i > 0 ? 1 : 4); t++) {
            Way w = {.threads = threads[t], .isa = isa};
            CHECK(logits_hash(m, w, 530) == own, "%s, %u threads", isa, w.threads);
            w.exact = true;
            CHECK(logits_hash(m, w, 530) == want, "%s, %u threads, exact", isa, w.threads);
        }
    }
}

/* Three sequences, of different lengths, beside each other in every pass. */
static void test_sequences(const Model *m) {
    Engine engine;
    Error e;
    float *logits[4];
    size_t row = logits_stride(m);
    bool ok = open_way(&engine, m, (Way){.n_seq = 4, .threads = 2}, &e);
    for (int i = 0; i < 4; i++) logits[i] = alloc_aligned(&e, "logits", 3 * row, sizeof(float));
    for (uint32_t step = 0; ok && step < 40; step++) {
        Token tokens[6];
        for (uint32_t i = 0; i < 6; i++) { /* sequences 2, 0, 1, 2, 0, 1: two tokens of each */
            uint32_t seq = (i + 2) % 3, pos = 2 * step + i / 3;
            tokens[i] = (Token){text_ids[200 * seq + pos], seq, pos, i >= 3};
        }
        forward(&engine, GIVEN, tokens, 6, logits[3], NULL);
    }
    for (uint32_t seq = 0; ok && seq < 3; seq++) {
        for (uint32_t pos = 0; pos < 80; pos++) {
            Token t = {text_ids[200 * seq + pos], 3, pos, pos == 79};
            forward(&engine, GIVEN, &t, 1, logits[seq], NULL);
        }
        uint32_t place = (seq + 1) % 3; /* of sequence 2, 0, 1 in the last pass */
        CHECK(memcmp(logits[seq], logits[3] + place * row, m->config->vocab_size * sizeof(float)) ==
                  0,
              "sequence %u alone and beside others", seq);
    }
    for (int i = 0; i < 4; i++) free(logits[i]);
    if (ok) engine_close(&engine);
}

/* A prompt that begins like the last one: only the rest is fed, and the logits are the same. */
static void test_prefix(const Model *m) {
    Engine engine;
    Session s;
    Error e;
    if (!open_way(&engine, m, (Way){.threads = 2}, &e)) return;
    if (!session_open(&s, &engine, &e)) return engine_close(&engine);
    float *want = alloc_array(&e, "logits", m->config->vocab_size, sizeof *want);
    for (uint32_t shared = 0; want && shared < 100; shared += 9) {
        Ids prompt = {0};
        bool ok = true;
        for (uint32_t i = 0; i < 90; i++)
            ok = ok && ids_add(&prompt, text_ids[i < shared ? i : 500 + i], &e);
        s.ids.n = 0;
        ok = ok && session_feed(&s, GIVEN, prompt.ids, prompt.n, NULL, &e) == FED;
        memcpy(want, s.logits, m->config->vocab_size * sizeof *want);
        s.ids.n = 0;
        ok = ok && session_feed(&s, GIVEN, text_ids, 100, NULL, &e) == FED;
        size_t cached = session_rewind(&s, &prompt);
        CHECK(ok && cached == min_size(shared, 89), "%zu of %u are reused", cached, shared);
        ok = ok && session_feed(&s, GIVEN, prompt.ids + cached, prompt.n - cached, NULL, &e) == FED;
        CHECK(ok && memcmp(want, s.logits, m->config->vocab_size * sizeof *want) == 0,
              "the logits behind %zu reused tokens", cached);
        ids_free(&prompt);
    }
    free(want);
    session_close(&s);
    engine_close(&engine);
}

/* Presses ^C in the middle of the third chunk of twenty. */
static size_t shown;
static void press_late(size_t done, size_t n, double seconds) {
    CHECK(n == 100 && done >= shown && done <= n && seconds >= 0, "%zu after %zu of %zu", done,
          shown, n);
    shown = done;
    if (done > 45 && done < 60) interrupts = 1;
}

/* ^C ends a pass between two layers: the chunks before it stay, and the rest can follow. */
static void test_interrupt(const Model *m) {
    Engine engine;
    Session s;
    Error e;
    const size_t row = m->config->vocab_size * sizeof(float);
    if (!open_way(&engine, m, (Way){.threads = 2, .chunk = 20}, &e)) return;
    if (!session_open(&s, &engine, &e)) return engine_close(&engine);
    float *want = alloc_array(&e, "logits", row / sizeof *want, sizeof *want);
    bool ok = want && session_feed(&s, GIVEN, text_ids, 100, NULL, &e) == FED;
    if (ok) memcpy(want, s.logits, row);
    s.ids.n = shown = 0;
    Fed fed = session_feed(&s, GIVEN, text_ids, 100, press_late, &e);
    CHECK(ok && fed == FED_INTERRUPTED && s.ids.n == 40 && shown == 100, "%zu tokens", s.ids.n);
    fed = session_feed(&s, GIVEN, text_ids + 40, 60, NULL, &e);
    CHECK(fed == FED_INTERRUPTED && s.ids.n == 40, "it stays pressed: %zu tokens", s.ids.n);
    interrupts = 0;
    fed = session_feed(&s, GIVEN, text_ids + 40, 60, NULL, &e);
    CHECK(ok && fed == FED && memcmp(want, s.logits, row) == 0, "the logits after ^C");
    free(want);
    session_close(&s);
    engine_close(&engine);
}

/* The frequencies by the C library's own functions, with YaRN of factor 4 and without. */
static void test_yarn(const Model *m) {
    Engine plain, yarn;
    Error e;
    const double pi = 3.14159265358979323846, theta = m->config->rope_theta, length = 32768;
    uint32_t d = m->config->head_dim;
    if (!open_way(&plain, m, (Way){.chunk = 1}, &e)) return;
    if (!open_way(&yarn, m, (Way){.chunk = 1, .yarn = 4}, &e)) return engine_close(&plain);
    double low = fmax(floor(d * log(length / (32 * 2 * pi)) / (2 * log(theta))), 0);
    double high = fmin(ceil(d * log(length / (2 * pi)) / (2 * log(theta))), d - 1);
    for (uint32_t i = 0; i < d / 2; i++) {
        double want = pow(theta, -2.0 * i / d), ramp = fmin(fmax((i - low) / (high - low), 0), 1);
        CHECK(fabs(plain.inv_freq[i] / want - 1) < 1e-14, "frequency %u: %g", i, plain.inv_freq[i]);
        want = want / 4 * ramp + want * (1 - ramp);
        CHECK(fabs(yarn.inv_freq[i] / want - 1) < 1e-14, "YaRN's %u: %g", i, yarn.inv_freq[i]);
    }
    CHECK(plain.rope_scale == 1 && fabsf(yarn.rope_scale - 1.1386294f) < 1e-6f, "YaRN's scale: %g",
          (double)yarn.rope_scale);
    CHECK(context_limit(m->config, 0) == 32768 && context_limit(m->config, 4) == 131072,
          "YaRN's context");
    CHECK(logits_hash(m, (Way){.yarn = 4}, 50) != logits_hash(m, (Way){.yarn = 0}, 50),
          "YaRN changes the logits");
    engine_close(&plain);
    engine_close(&yarn);
}

static void test_defaults(const Model *m) {
    Engine engine;
    Error e;
    if (!open_way(&engine, m, (Way){.chunk = 0}, &e)) return;
    CHECK(engine.chunk == PROMPT_CHUNK && engine.rope_scale == 1, "defaults");
    CHECK(engine.kernels == kernels_available(0), "the best instruction set is taken");
    engine_close(&engine);
    EngineOptions o = {.threads = 1, .ctx = 16, .n_seq = 1, .isa = "abacus"};
    CHECK(!engine_open(&engine, m, &o, &e) && strstr(e.text, "abacus"), "an unknown one is not");
    CHECK(default_threads() >= 1 && default_threads() <= MAX_THREADS, "threads");
}

/* ---- Generation ------------------------------------------------------------------------------ */

/* How a run ends: n_prompt tokens are fed, and at most max are asked for. */
static void check_finish(Session *s, uint32_t n_prompt, int64_t max, const char *stop,
                         Finish finish, size_t n_generated) {
    Ids prompt = {0};
    RunStats st;
    Error e;
    GenerateOptions o = {.sampler = {.top_p = 1, .repeat_penalty = 1, .repeat_last_n = -1},
                         .max_tokens = max};
    Output out = {.stops = &stop, .n_stops = stop != NULL};
    bool ok = true;
    for (uint32_t i = 0; i < n_prompt; i++) ok = ok && ids_add(&prompt, text_ids[i], &e);
    ok = ok && generate(s, &prompt, &o, &out, &st, &e);
    CHECK(ok == (finish != FINISH_ERROR), "%s", e.text);
    CHECK(st.finish == finish && st.n_generated == n_generated && st.n_prompt == n_prompt,
          "%u, %d: %s after %zu", n_prompt, (int)max, finish_names[st.finish], st.n_generated);
    CHECK(s->ids.n <= s->engine->options.ctx, "%zu positions", s->ids.n);
    output_close(&out);
    ids_free(&prompt);
}

static void test_generate(const Model *m) {
    Engine engine;
    Session s;
    Error e;
    EngineOptions o = {.threads = 1, .ctx = 64, .n_seq = 1};
    if (!engine_open(&engine, m, &o, &e)) return CHECK(0, "%s", e.text);
    if (session_open(&s, &engine, &e)) {
        check_finish(&s, 20, 0, NULL, FINISH_LENGTH, 0);
        check_finish(&s, 20, 5, NULL, FINISH_LENGTH, 5);
        check_finish(&s, 20, -1, NULL, FINISH_LENGTH, 45); /* the last one is not fed */
        check_finish(&s, 63, -1, NULL, FINISH_LENGTH, 2);
        check_finish(&s, 64, -1, NULL, FINISH_ERROR, 0);
        check_finish(&s, 0, -1, NULL, FINISH_ERROR, 0);
        interrupts = 1; /* before a token was taken */
        check_finish(&s, 21, -1, NULL, FINISH_INTERRUPT, 0);
        interrupts = 0;
        check_finish(&s, 20, 5, NULL, FINISH_LENGTH, 5);
        session_close(&s);
    }
    engine_close(&engine);
}

/* ---- The cache file -------------------------------------------------------------------------- */

static char cache_path[320];

static bool put_file(const void *bytes, size_t n) {
    FILE *f = fopen(cache_path, "wb");
    bool ok = f && fwrite(bytes, 1, n, f) == n;
    if (f && fclose(f) != 0) ok = false;
    return ok;
}

/* Read the cache for a prompt into a session that holds nothing, as a new process would. */
static CacheRead read_anew(Session *s, const Ids *prompt, Error *e) {
    s->ids.n = 0;
    memset(s->engine->caches[0].k, 0, s->engine->caches[0].bytes);
    return cache_read(s, cache_path, prompt, e);
}

static Ids prompt_of(uint32_t shared, uint32_t n) {
    Ids prompt = {0};
    Error e;
    for (uint32_t i = 0; i < n; i++)
        if (!ids_add(&prompt, text_ids[i < shared ? i : 500 + i], &e)) CHECK(0, "%s", e.text);
    return prompt;
}

/* 90 tokens are written; of prompts that share some with them, the shared ones are taken, and the
 * logits are what they are without. */
static void check_cache_prefix(Session *s, uint32_t shared, float *want) {
    Error e;
    size_t row = s->engine->model->config->vocab_size * sizeof *want;
    Ids prompt = prompt_of(shared, 100);
    s->ids.n = 0;
    bool ok = session_feed(s, GIVEN, prompt.ids, prompt.n, NULL, &e) == FED;
    memcpy(want, s->logits, row);
    ok = ok && read_anew(s, &prompt, &e) == CACHE_READ;
    CHECK(ok && s->ids.n == min_size(shared, 90), "%zu of %u are taken", s->ids.n, shared);
    size_t cached = session_rewind(s, &prompt);
    ok = ok && session_feed(s, GIVEN, prompt.ids + cached, prompt.n - cached, NULL, &e) == FED;
    CHECK(ok && memcmp(want, s->logits, row) == 0, "the logits behind %zu tokens", cached);
    ids_free(&prompt);
}

static void test_cache_prefix(Session *s) {
    Error e;
    float *want = alloc_array(&e, "logits", s->engine->model->config->vocab_size, sizeof *want);
    s->ids.n = 0;
    bool ok = want && session_feed(s, GIVEN, text_ids, 95, NULL, &e) == FED &&
              cache_write(s, cache_path, 90, &e);
    CHECK(ok, "%s", e.text);
    for (uint32_t shared = 0; ok && shared <= 96; shared += 8) check_cache_prefix(s, shared, want);
    free(want);
}

/* What follows the prompt leaves no trace in the file; and a file goes back to itself. */
static void test_cache_bytes(Session *s) {
    static const size_t sizes[] = {1, 15, 16, 17, 33};
    Error e;
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        size_t n = sizes[i];
        Buffer files[3] = {{0}};
        Ids prompt = prompt_of((uint32_t)n, (uint32_t)n + 40);
        bool ok = true;
        s->ids.n = 0;
        memset(s->engine->caches[0].k, 0, s->engine->caches[0].bytes);
        for (size_t k = 0; ok && k < 3; k++) {
            /* the prompt alone; with an answer behind it; taken from the file */
            if (k == 2) ok = read_anew(s, &prompt, &e) == CACHE_READ && s->ids.n == n;
            size_t more = k == 0 ? n : k == 1 ? 40 : 0;
            ok = ok &&
                 (more == 0 ||
                  session_feed(s, GIVEN, prompt.ids + k * n, more, NULL, &e) == FED) &&
                 cache_write(s, cache_path, n, &e) && read_file(cache_path, 1 << 20, &files[k], &e);
        }
        for (size_t k = 1; ok && k < 3; k++)
            CHECK(files[k].n == files[0].n && memcmp(files[k].data, files[0].data, files[0].n) == 0,
                  "%zu tokens: file %zu is another", n, k);
        CHECK(ok, "%zu tokens: %s", n, e.text);
        for (size_t k = 0; k < 3; k++) buffer_free(&files[k]);
        ids_free(&prompt);
    }
}

/* The cache of the prompt's first 5 tokens, also in memory. */
static bool small_file(Session *s, const Ids *prompt, Buffer *file, Error *e) {
    s->ids.n = 0;
    return session_feed(s, GIVEN, prompt->ids, 5, NULL, e) == FED &&
           cache_write(s, cache_path, 5, e) && read_file(cache_path, 1 << 20, file, e);
}

/* A file of 5 tokens, cut off at every length and with every byte changed: nothing is taken from
 * it, and it may be replaced unless it does not look like a cache at all. */
static void test_cache_damage(Session *s) {
    const size_t step = INSTRUMENTED ? 7 : 1; /* behind the first few KB: every one alone is slow */
    Error e;
    Buffer file = {0};
    Ids prompt = prompt_of(5, 9);
    bool ok = small_file(s, &prompt, &file, &e);
    CHECK(ok && read_anew(s, &prompt, &e) == CACHE_READ && s->ids.n == 5, "%s", e.text);
    for (size_t n = 0; ok && n < file.n; n += n < 4096 ? 1 : step) {
        CacheRead got = put_file(file.data, n) ? read_anew(s, &prompt, &e) : CACHE_REFUSED;
        CHECK(got == (n ? CACHE_UNUSABLE : CACHE_READ) && s->ids.n == 0, "cut to %zu bytes", n);
    }
    for (size_t i = 0; ok && i < file.n; i += i < 4096 ? 1 : step) {
        file.data[i] = (char)(file.data[i] ^ 1 << i % 8);
        CacheRead got = put_file(file.data, file.n) ? read_anew(s, &prompt, &e) : CACHE_READ;
        CHECK(got == (i < 8 ? CACHE_REFUSED : CACHE_UNUSABLE) && s->ids.n == 0, "byte %zu", i);
        file.data[i] = (char)(file.data[i] ^ 1 << i % 8);
    }
    ok = ok && buffer_add(&file, "", 1, &e) && put_file(file.data, file.n);
    CHECK(ok && read_anew(s, &prompt, &e) == CACHE_UNUSABLE && s->ids.n == 0, "a byte too many");
    ids_free(&prompt);
    buffer_free(&file);
}

/* One thing of the header is another, and the checksum right: the refusal names that thing. */
static void test_cache_header(Session *s) {
    static const struct {
        size_t at, n;
        const char *field;
    } parts[] = {{offsetof(CacheHeader, version), 4, ": version: "},
                 {offsetof(CacheHeader, file_bytes), 8, ": file_bytes: "},
                 {offsetof(CacheHeader, key.model_bytes), 8, ": model: "},
                 {offsetof(CacheHeader, key.model_crc32c), 4, ": model: "},
                 {offsetof(CacheHeader, key.model_sha256), 32, ": model: "},
                 {offsetof(CacheHeader, key.kv_f32), 4, ": settings: "},
                 {offsetof(CacheHeader, key.yarn_factor), 4, ": settings: "},
                 {offsetof(CacheHeader, key.arithmetic), 4, ": arithmetic: "},
                 {offsetof(CacheHeader, n), 8, ": n: "}};
    Error e;
    Buffer file = {0};
    Ids prompt = prompt_of(5, 9);
    bool ok = small_file(s, &prompt, &file, &e);
    CHECK(ok, "%s", e.text);
    for (size_t i = 0; ok && i < sizeof parts / sizeof parts[0]; i++)
        for (size_t at = parts[i].at; at < parts[i].at + parts[i].n; at++) {
            file.data[at] ^= 1;
            uint32_t crc = cache_crc((const uint8_t *)file.data, file.n);
            memcpy(file.data + offsetof(CacheHeader, crc32c), &crc, sizeof crc);
            CacheRead got = put_file(file.data, file.n) ? read_anew(s, &prompt, &e) : CACHE_READ;
            CHECK(got == CACHE_UNUSABLE && s->ids.n == 0 && strstr(e.text, parts[i].field),
                  "byte %zu of%s %s", at, parts[i].field, e.text);
            file.data[at] ^= 1;
        }
    ids_free(&prompt);
    buffer_free(&file);
}

/* What is no file, and what cannot be looked at, are left alone; what is not there yet is empty. */
static void test_cache_paths(Session *s) {
    Error e;
    Ids prompt = prompt_of(5, 9);
    char below[340];
    snprintf(below, sizeof below, "%s/below", cache_path);
    CHECK(put_file("", 0) && cache_read(s, cache_path, &prompt, &e) == CACHE_READ, "an empty one");
    CHECK(cache_read(s, below, &prompt, &e) == CACHE_REFUSED && strstr(e.text, "below"), "%s",
          e.text);
    CHECK(cache_read(s, "/dev/null", &prompt, &e) == CACHE_REFUSED, "a device");
    unlink(cache_path);
    CHECK(cache_read(s, cache_path, &prompt, &e) == CACHE_READ, "none: %s", e.text);
    ids_free(&prompt);
}

/* Files whose checksum is right and whose sizes are not: numbers of tokens that do not go with the
 * file, up to those whose sizes wrap around. */
static void test_cache_forged(Session *s) {
    Error e;
    uint64_t state = 8;
    uint8_t file[4096];
    Ids prompt = prompt_of(5, 9);
    CacheHeader h = {.magic = CACHE_MAGIC, .version = CACHE_VERSION, .key = cache_key(s->engine)};
    for (int trial = 0; trial < 2000; trial++) {
        size_t n = sizeof h + test_below(&state, sizeof file - sizeof h);
        for (size_t i = 0; i < n; i++) file[i] = (uint8_t)test_random(&state);
        h.file_bytes = n;
        h.n = test_random(&state) >> test_below(&state, 64);
        h.crc32c = 0;
        memcpy(file, &h, sizeof h);
        h.crc32c = cache_crc(file, n);
        memcpy(file, &h, sizeof h);
        CacheRead got = put_file(file, n) ? read_anew(s, &prompt, &e) : CACHE_REFUSED;
        CHECK(got == CACHE_UNUSABLE && strstr(e.text, ": n: ") && s->ids.n == 0, "%" PRIu64 ": %s",
              h.n, e.text);
    }
    ids_free(&prompt);
}

/* What was written in one way and with one model is not taken in another. */
static void test_cache_others(const Model *m, const Model *other, Way way) {
    const Way ways[] = {{.exact = true, .chunk = 3, .threads = 2, .isa = "scalar"},
                        {.exact = true, .kv_f32 = true},
                        {.exact = true, .yarn = 4},
                        {.exact = false},
                        way};
    Ids prompt = prompt_of(20, 30);
    Engine engine;
    Session s;
    Error e;
    for (size_t i = 0; i < 5; i++) {
        Way w = ways[i];
        if (!open_way(&engine, i < 4 ? m : other, w, &e)) break;
        if (session_open(&s, &engine, &e)) {
            bool same = i < 4 && w.kv_f32 == way.kv_f32 && w.yarn == way.yarn;
            if (engine.rounds_prompts) same = false; /* as the file is */
            CacheRead got = read_anew(&s, &prompt, &e);
            CHECK(got == (same ? CACHE_READ : CACHE_UNUSABLE) && s.ids.n == (same ? 20 : 0),
                  "way %zu: %s", i, e.text);
            session_close(&s);
        }
        engine_close(&engine);
    }
    ids_free(&prompt);
}

static void test_cache_way(const Model *m, const Model *other, Way way) {
    Engine engine;
    Session s;
    Error e;
    way.exact = true;
    if (!open_way(&engine, m, way, &e)) return;
    if (session_open(&s, &engine, &e)) {
        test_cache_prefix(&s);
        test_cache_bytes(&s);
        test_cache_damage(&s);
        test_cache_paths(&s);
        test_cache_header(&s);
        test_cache_forged(&s);
        s.ids.n = 0;
        CHECK(session_feed(&s, GIVEN, text_ids, 20, NULL, &e) == FED &&
                  cache_write(&s, cache_path, 20, &e),
              "%s", e.text);
        session_close(&s);
    }
    engine_close(&engine);
    test_cache_others(m, other, way);
}

static void test_cache(void) {
    char other_path[320];
    Model q8, f32;
    Error e;
    snprintf(other_path, sizeof other_path, "%s.other", model_path);
    snprintf(cache_path, sizeof cache_path, "%s.cache", model_path);
    bool ok = tiny_model(model_path, "q8", TINY_NEVER_ENDS, &e) && model_load(&q8, model_path, &e);
    CHECK(ok, "%s", e.text);
    if (!ok) return;
    ok = tiny_model(other_path, "f32", TINY_NEVER_ENDS, &e) && model_load(&f32, other_path, &e);
    CHECK(ok, "%s", e.text);
    if (ok) {
        test_cache_way(&q8, &f32, (Way){.threads = 2});
        test_cache_way(&f32, &q8, (Way){.kv_f32 = true});
        model_unload(&f32);
    }
    model_unload(&q8);
    unlink(other_path);
    unlink(cache_path);
}

/* The logits behind n tokens. */
static bool logits_behind(const Model *m, Way w, uint32_t n, float *to) {
    Engine engine;
    Session s;
    Error e;
    if (!open_way(&engine, m, w, &e)) return false;
    bool ok = session_open(&s, &engine, &e);
    if (ok) {
        ok = session_feed(&s, GIVEN, text_ids, n, NULL, &e) == FED;
        memcpy(to, s.logits, m->config->vocab_size * sizeof *to);
        session_close(&s);
    }
    engine_close(&engine);
    return ok;
}

/* Matrices of different types side by side, whose products meet: the logits are nearly those of
 * f32. */
static void test_mixed(void) {
    Model m, reference;
    Error e;
    char other_path[320];
    float got[TINY_VOCAB] = {0}, want[TINY_VOCAB] = {0};
    snprintf(other_path, sizeof other_path, "%s.other", model_path);
    bool ok =
        tiny_model(model_path, "q8-mixed", TINY_NEVER_ENDS, &e) && model_load(&m, model_path, &e);
    CHECK(ok, "%s", e.text);
    if (!ok) return;
    const Layer *l = m.layers;
    CHECK(l[0].gate_proj.type == TYPE_Q8 && l[0].up_proj.type == TYPE_F16 &&
              l[1].up_proj.type == TYPE_Q8 && l[1].down_proj.type < TYPE_Q8,
          "the types are mixed");
    if (!INSTRUMENTED) test_machines(&m); /* q8 and f16 alone go this way there */
    ok = tiny_model(other_path, "f32-mixed", TINY_NEVER_ENDS, &e) &&
         model_load(&reference, other_path, &e);
    CHECK(ok, "%s", e.text);
    for (uint32_t n = 1; ok && n < 200; n = 5 * n + 1) {
        double error = 0, size = 0;
        ok = logits_behind(&m, (Way){.threads = 2}, n, got) &&
             logits_behind(&reference, (Way){.threads = 2}, n, want);
        for (size_t v = 0; v < TINY_VOCAB; v++) {
            error += pow((double)(got[v] - want[v]), 2);
            size += pow((double)want[v], 2);
        }
        CHECK(ok && error > 0 && sqrt(error / size) < 0.1, "%u tokens: logits differ by %g", n,
              sqrt(error / size));
    }
    if (ok) model_unload(&reference);
    model_unload(&m);
    unlink(other_path);
}

/* Many rows: single tokens take units of the greatest number of panels, with one thread and with
 * several, and prompts the smallest. */
static void test_wide(void) {
    Model m;
    Error e;
    float got[TINY_VOCAB] = {0}, want[TINY_VOCAB] = {0};
    bool ok =
        tiny_model(model_path, "q8-wide", TINY_NEVER_ENDS, &e) && model_load(&m, model_path, &e);
    CHECK(ok, "%s", e.text);
    if (!ok) return;
    ok = logits_behind(&m, (Way){.threads = 2, .chunk = 256, .exact = true}, 70, want);
    for (uint32_t threads = 1; threads <= 3; threads += 2)
        for (uint32_t chunk = 1; chunk <= 4; chunk += 3) {
            Way w = {.threads = threads, .chunk = chunk, .exact = true};
            size_t same = 0;
            ok = ok && logits_behind(&m, w, 70, got);
            for (size_t v = 0; v < TINY_VOCAB; v++)
                same += bits_from_float(got[v]) == bits_from_float(want[v]);
            CHECK(ok && same == TINY_VOCAB, "%u threads, %u tokens at a time: %zu of %u are equal",
                  threads, chunk, same, TINY_VOCAB);
        }
    model_unload(&m);
}

/* An odd number of panels, the last of which is not full: what stands behind a row of logits is the
 * next one. */
static void test_odd_panels(void) {
    Model m;
    Error e;
    bool ok = tiny_model_padded(model_path, "q8", TINY_NEVER_ENDS, 25, &e) &&
              model_load(&m, model_path, &e);
    CHECK(ok && m.lm_head.rows % PANEL_ROWS != 0 && n_panels(&m.lm_head) % 2 == 1, "%s", e.text);
    if (!ok) return;
    test_sequences(&m);
    model_unload(&m);
}

static void test_model(const char *quant) {
    Model m;
    Error e;
    bool ok = tiny_model(model_path, quant, TINY_NEVER_ENDS, &e) && model_load(&m, model_path, &e);
    CHECK(ok, "%s: %s", quant, e.text);
    if (!ok) return;
    test_machines(&m);
    test_prefix(&m);
    test_interrupt(&m);
    test_sequences(&m);
    if (strcmp(quant, "q8") == 0) test_chunks(&m);
    if (strcmp(quant, "f32") == 0) {
        test_yarn(&m);
        test_defaults(&m);
        test_generate(&m);
    }
    model_unload(&m);
}

int main(void) {
    static const char *const quants[] = {"q8", "q5", "q4", "f32", "f16", "bf16"};
    const char *base = getenv("TMPDIR");
    uint64_t state = 6;
    for (size_t i = 0; i < sizeof text_ids / sizeof text_ids[0]; i++)
        text_ids[i] = (int32_t)test_below(&state, TINY_IM_END);
    test_sampler_reference();
    test_sampler_edges();
    test_sampler_rounding();
    test_kl();
    test_output();
    test_output_random();
    test_loop_guard();
    snprintf(model_path, sizeof model_path, "%s/test_engine.XXXXXX",
             base && base[0] ? base : "/tmp");
    int fd = mkstemp(model_path);
    CHECK(fd >= 0, "%s: %s", model_path, strerror(errno));
    if (fd >= 0) {
        close(fd);
        for (size_t i = 0; i < sizeof quants / sizeof quants[0]; i++) test_model(quants[i]);
        test_mixed();
        test_wide();
        test_odd_panels();
        test_cache();
        unlink(model_path);
    }
    return test_end("test_engine");
}
