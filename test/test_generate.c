/* test_generate.c: generation from the inside (qwen.c is included): with guesses and without, those
 * of good and of bad drafters, alone and beside others, the same tokens by every way of choosing;
 * caches copied from one sequence to another; when guesses are made, and that they cost little
 * where they are wrong; a conversation that is loaded, ^C, a pipe that is full. */
#define main qwen_main /* this program has its own */
#include "../qwen.c"
#undef main

#include "tiny.h"

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
        uint32_t n = 1 + test_below(&s, 120), kinds = 1 + test_below(&s, 12), match, want;
        for (uint32_t i = 0; i < n; i++) ids[i] = (int32_t)test_below(&s, kinds);
        size_t place = lookup_find(ids, n, &match), expected = plain_find(ids, n, &want);
        CHECK(place == expected && (place == 0 || match == want), "%zu after %u, not %zu after %u",
              place, match, expected, want);
        found += place > 0;
    }
    CHECK(found > 1000 && found < 3000, "found in %zu of 3000", found);
}

/* ---- Whether guesses pay --------------------------------------------------------------------- */

static bool near(double a, double b) { return fabs(a - b) <= 1e-12 * (1 + fabs(b)); }

/* Between two measured passes others lie on a line; longer ones are hoped to cost less than their
 * share; and what is not known at all takes no time. */
static void test_seconds(void) {
    Pace p = {.seconds = {[1] = 1, [4] = 2.5, [8] = 4.5}}, late = {.seconds = {[4] = 2}};
    static const double want[] = {1, 1.5, 2, 2.5, 3, 3.5, 4, 4.5};
    for (uint32_t m = 1; m <= 8; m++)
        CHECK(near(pace_seconds(&p, m), want[m - 1]), "%u: %g", m, pace_seconds(&p, m));
    for (uint32_t m = 9; m <= DECODE_ROWS; m++)
        CHECK(pace_seconds(&p, m) > pace_seconds(&p, m - 1) && pace_seconds(&p, m) < 4.5 * m / 8,
              "%u: %g", m, pace_seconds(&p, m));
    CHECK(pace_seconds(&late, 2) == 2 && pace_seconds(&late, 4) == 2, "as many as the next one");
    CHECK(pace_seconds(&(Pace){.plain = 0}, 3) == 0, "nothing is known");
}

/* Few guesses hardly change what is expected of them, the latest ones count most, and all are
 * forgotten after a while without any. */
static void test_chances(void) {
    static const float sure[] = {0, 0.3f, 0.5f, 0.7f, 0.9f};
    static const uint32_t matches[] = {2, 3, 4, 6, 10};
    Record r = {.tried = {0}};
    double sum = 0;
    for (uint32_t c = 0; c < GUESS_CLASSES; c++) {
        uint32_t less = c > 0 ? c - 1 : 0;
        sum += first_chance[c];
        CHECK(near(record_chance(&r, c), first_chance[c]), "class %u", c);
        CHECK(match_class(matches[c]) == c && match_class(matches[c] - 1) == less, "class %u", c);
        CHECK(confidence_class(sure[c]) == c && confidence_class(sure[c] - 0.01f) == less,
              "class %u", c);
    }
    CHECK(near(record_average(&r), sum / GUESS_CLASSES), "at first: %g", record_average(&r));
    record_guess(&r, 4, false);
    CHECK(near(record_chance(&r, 4), first_chance[4] * 4 / 5), "one wrong: %g",
          record_chance(&r, 4));
    for (int i = 0; i < 64; i++) record_guess(&r, 0, true);
    CHECK(record_chance(&r, 0) > 0.9, "all right: %g", record_chance(&r, 0));
    for (int i = 0; i < 64; i++) record_guess(&r, 0, false);
    CHECK(record_chance(&r, 0) < 0.3, "lately wrong: %g", record_chance(&r, 0));
    CHECK(r.right[4] == 0 && r.tried[4] == 1 && r.tried[1] == 0, "other classes");
    for (int i = 0; i < 177; i++) record_fade(&r); /* half of it */
    CHECK(fabs(r.tried[4] - 0.5) < 0.01 && r.right[0] / r.tried[0] < 0.3, "faded: %g", r.tried[4]);
}

/* The number of guesses is the one with the highest rate. */
static void test_length(void) {
    uint64_t s = 5;
    for (int trial = 0; trial < 1000; trial++) {
        Pace p = {.seconds = {[1] = 1, [16] = 1 + 6 * test_uniform(&s)}};
        Outlook o = {.m = 1 + test_below(&s, 4), .drafting = test_uniform(&s)};
        double chance[MAX_DRAFT], each = test_below(&s, 2) ? test_uniform(&s) / 4 : 0, rate;
        o.gain = o.m + test_uniform(&s);
        double expected = o.gain, all = 1, best = 0;
        uint32_t most = test_below(&s, 12), want = 0;
        for (uint32_t i = 0; i <= most; i++) {
            double now = expected / (pace_seconds(&p, o.m + i) + o.drafting + i * each);
            if (now > best) best = now, want = i;
            chance[i] = 1 - 0.4 * test_uniform(&s);
            expected += all *= chance[i];
        }
        uint32_t got = guess_length(&p, &o, chance, most, each, &rate);
        CHECK(got == want && near(rate, best), "%u at %g, not %u at %g", got, rate, want, best);
    }
}

/* Every guess makes the match behind which the next one stands longer; a drafter's guesses are all
 * as likely, but count only if those before them are right. */
static void test_lengths(void) {
    Pace p = {.seconds = {[1] = 1, [16] = 4.6}};
    Outlook o = {.m = 1, .gain = 1};
    Record r = {.tried = {0}};
    Drafter d = {.pass_s = 0.01};
    double chance[MAX_DRAFT], rate, want_rate, average = record_average(&r);
    size_t lengths = 0;
    for (uint32_t match = MATCH_MIN; match <= MATCH_MAX; match++) {
        for (uint32_t i = 0; i < MAX_DRAFT; i++) chance[i] = first_chance[match_class(match + i)];
        uint32_t want = guess_length(&p, &o, chance, MAX_DRAFT, 0, &want_rate);
        uint32_t got = lookup_length(&p, &o, &r, match, MAX_DRAFT, &rate);
        CHECK(got == want && near(rate, want_rate), "a match of %u: %u, not %u", match, got, want);
        lengths += want;
    }
    for (double so_far = 1; so_far > 0.1; so_far *= 0.8) {
        for (uint32_t i = 0; i < MAX_DRAFT; i++) chance[i] = i == 0 ? so_far * average : average;
        uint32_t want = guess_length(&p, &o, chance, MAX_DRAFT, d.pass_s, &want_rate);
        uint32_t got = draft_length(&p, &o, &d, so_far, MAX_DRAFT, &rate);
        CHECK(got == want && near(rate, want_rate), "at %g: %u, not %u", so_far, got, want);
        lengths += want;
    }
    CHECK(lengths > 30, "guesses are made: %zu", lengths);
}

/* What a pass of a drafter takes, and how much it may read for it. */
static void test_window(void) {
    Pace p = {.seconds = {[1] = 1}, .balance = 10};
    Drafter d = {.pass_s = 0.5, .read_s = 0.125}, slow = {.pass_s = 2, .read_s = 0.125};
    double charged = 1;
    CHECK(near(drafter_seconds(&d, 9), 1.5), "9 tokens: %g", drafter_seconds(&d, 9));
    CHECK(drafter_window(&d, &p) == 37 && drafter_window(&slow, &p) == 25, "of what was saved");
    p.balance = 0;
    CHECK(drafter_window(&d, &p) == 5 && drafter_window(&slow, &p) == 1, "of one pass");
    CHECK(drafter_window(&(Drafter){.pass_s = 1}, &p) == MAX_CONTEXT, "reading costs nothing yet");
    drafter_note(&d, 1, 1, &charged);
    CHECK(near(d.pass_s, 0.625) && d.read_s == 0.125 && charged == 2 && d.begun, "one token: %g",
          d.pass_s);
    drafter_note(&d, 1, 100, &charged);
    CHECK(near(d.pass_s, 0.625 * 1.75) && near(charged, 4.5), "held up: %g", d.pass_s);
    drafter_note(&slow, 9, 4, &charged);
    CHECK(slow.pass_s == 2 && slow.read_s == 0.125, "9 tokens say nothing of either");
    drafter_note(&slow, 16, 4, &charged);
    CHECK(slow.pass_s == 2 && near(slow.read_s, 0.1875), "16 tokens: %g", slow.read_s);
}

/* What is allowed of guesses, and what passes with and without them change. */
static void test_balance(void) {
    Pace p = {.plain = 0};
    for (int i = 0; i < 4; i++) {
        CHECK(!pace_allows(&p, 1), "not before four passes");
        pace_note(&p, 1, 1, 0, 1, 0);
    }
    CHECK(near(p.balance, 0.52) && pace_allows(&p, 1), "at first: %g", p.balance);
    pace_note(&p, 1, 4, 2, 1.5, 0.25); /* 2 passes saved for 0.5 and 0.25 seconds */
    CHECK(near(p.balance, 0.52 + 1.25 + 0.0075) && p.seconds[4] == 1.5, "guesses: %g", p.balance);
    for (int i = 0; i < 7; i++) CHECK(pace_allows(&p, 1), "8 passes"), p.guessed++;
    CHECK(!pace_allows(&p, 1), "a pass without guesses is due");
    p.balance = 3;
    for (int i = 8; i < 64; i++) CHECK(pace_allows(&p, 1), "64, where they pay"), p.guessed++;
    CHECK(!pace_allows(&p, 1), "a pass without guesses is due there too");
    pace_note(&p, 1, 1, 0, 50, 0);
    CHECK(pace_allows(&p, 1) && near(p.seconds[1], 1.125) &&
              near(p.seconds[4], 1.5 - (1.5 - 1.125) / 128),
          "held up: %g, %g", p.seconds[1], p.seconds[4]);
    pace_credit(&p);
    CHECK(near(p.balance, 3 + 0.01 + 2 * 1.125), "credit: %g", p.balance);
    for (int i = 0; i < 99; i++) pace_note(&p, 1, 2, 1, 0.5, 0);
    CHECK(near(p.balance, 32 * 1.125), "at most: %g", p.balance);
    for (int i = 0; i < 99; i++) pace_note(&p, 1, 2, 0, 0.5, 2);
    CHECK(near(p.balance, -4 * 1.125) && !pace_allows(&p, 1), "at least: %g", p.balance);
    Pace four = {.plain = 4, .balance = 1, .seconds = {[4] = 2}};
    pace_note(&four, 4, 8, 3, 2.5, 0); /* a pass gives four tokens */
    CHECK(near(four.balance, 1 + 1.5 - 0.5 + 0.0125), "of four runs: %g", four.balance);
    pace_note(&four, 4, 8, 3, 99, 0);
    CHECK(near(four.seconds[8], 2.5 + (5 - 2.5) / 8), "held up: %g", four.seconds[8]);
}

/* A machine that needs 1 second for a pass of one token and `slope` for every further one, and a
 * text where a guess is right so often. */
typedef struct {
    uint32_t n_runs; /* sequences */
    double slope, chance;
    bool busy;       /* every twentieth pass is held up for as long as three more */
    Drafter drafter; /* its pass_s and read_s; 0: guesses are looked up, which takes no time */
    double later;    /* chance in the second half, where it is another; else 0 */
} World;

/* One more guess, which is right only if those before it were. */
static void simulate_guess(const World *w, Record *r, uint32_t class, bool *right,
                           uint32_t *accepted, uint64_t *s) {
    if (!*right) return;
    *right = test_uniform(s) < w->chance;
    record_guess(r, class, *right);
    *accepted += *right;
}

static void simulate_lookup(const World *w, const Pace *p, Outlook *o, Record *r,
                            uint32_t *accepted, uint64_t *s) {
    uint32_t match = MATCH_MIN + test_below(s, 12), most = min_size(MAX_DRAFT, o->room) & 0xff;
    double so_far = 1, rate;
    uint32_t k = lookup_length(p, o, r, match, most, &rate);
    bool right = true;
    for (uint32_t j = 0; j < k; j++) {
        outlook_add(o, so_far *= record_chance(r, match_class(match + j)));
        simulate_guess(w, r, match_class(match + j), &right, accepted, s);
    }
}

/* lacks: tokens that the drafter has not read. */
static void simulate_draft(const World *w, Pace *p, Outlook *o, Drafter *d, size_t *lacks,
                           uint32_t *accepted, uint64_t *s) {
    Record *r = &d->session.record;
    double so_far = 1, rate;
    bool right = true;
    uint32_t before = o->m;
    while (o->m - before < MAX_DRAFT &&
           draft_length(p, o, d, so_far, MAX_DRAFT - (o->m - before), &rate) > 0) {
        uint32_t class = test_below(s, GUESS_CLASSES);
        size_t window = drafter_window(d, p);
        if (*lacks > window && window < DRAFT_MIN) return;
        size_t n = min_size(*lacks, window);
        double took = drafter_seconds(&w->drafter, n) * (0.9 + 0.2 * test_uniform(s));
        if (!d->begun) pace_credit(p);
        drafter_note(d, n, took, &o->drafting);
        *lacks = 1;
        outlook_add(o, so_far *= record_chance(r, class));
        simulate_guess(w, r, class, &right, accepted, s);
    }
    if (o->m == before) record_fade(r);
}

/* Passes until they gave about n tokens. Returns their seconds as a share of what they take without
 * guesses. */
static double simulate(const World *world, size_t n, size_t *drafted) {
    World changed = *world, *w = &changed;
    Pace p = {.plain = 0};
    Record r = {.tried = {0}};
    Drafter d = w->drafter;
    uint64_t s = 2;
    double seconds = 0, plain = 1 + w->slope * (w->n_runs - 1);
    size_t tokens = 0, lacks = 500; /* a prompt */
    *drafted = 0;
    while (tokens < n) {
        uint32_t accepted = 0;
        if (w->later > 0 && tokens > n / 2) w->chance = w->later;
        Outlook o = {.m = w->n_runs, .room = DECODE_ROWS - w->n_runs, .gain = w->n_runs};
        o.allowed = pace_allows(&p, w->n_runs);
        for (uint32_t i = 0; i < w->n_runs && o.allowed; i++)
            if (d.pass_s > 0)
                simulate_draft(w, &p, &o, &d, &lacks, &accepted, &s);
            else
                simulate_lookup(w, &p, &o, &r, &accepted, &s);
        double noise = 0.9 + 0.2 * test_uniform(&s);
        if (w->busy && test_below(&s, 20) == 0) noise += 3;
        double took = (1 + w->slope * (o.m - 1)) * noise;
        pace_note(&p, w->n_runs, o.m, accepted, took, o.drafting);
        *drafted += o.m - w->n_runs;
        seconds += took + o.drafting;
        tokens += w->n_runs + accepted;
        lacks += 1 + accepted;
    }
    return seconds / ((double)tokens / w->n_runs * plain * (w->busy ? 1.15 : 1));
}

static void test_pace(void) {
    static const double slopes[] = {0, 0.01, 0.1, 0.3, 0.6, 1};
    size_t drafted;
    for (uint32_t n_runs = 1; n_runs <= 16; n_runs *= 4)
        for (size_t i = 0; i < 6; i++) {
            World w = {.n_runs = n_runs, .slope = slopes[i]};
            double wrong = simulate(&w, 400 * n_runs, &drafted);
            CHECK(wrong < 1.02, "%u runs, slope %g: wrong guesses cost %.2f %%", n_runs, slopes[i],
                  100 * (wrong - 1));
            for (w.chance = 0.1; w.chance < 1; w.chance += 0.2) {
                double share = simulate(&w, 2000 * n_runs, &drafted);
                CHECK(share < 1.02, "%u runs, slope %g, right at %g: %g of the time", n_runs,
                      slopes[i], w.chance, share);
            }
        }
    World good = {1, 0.1, 0.9, false, {.from = 0}, 0}, half = {1, 0.02, 0.5, false, {.from = 0}, 0};
    CHECK(simulate(&good, 2000, &drafted) < 0.4, "right guesses for little pay");
    CHECK(simulate(&half, 2000, &drafted) < 0.65, "half of them being right too");
    for (double chance = 0; chance < 1; chance += 0.3) {
        World busy = {1, 0.2, chance, true, {.from = 0}, 0};
        double share = simulate(&busy, 4000, &drafted);
        CHECK(share < (chance > 0.8 ? 0.6 : 1.06), "a busy machine, right at %g: %g", chance,
              share);
    }
    World dear = {1, 1, 0.9, false, {.from = 0}, 0};
    simulate(&dear, 2000, &drafted);
    CHECK(drafted < 100, "%zu guesses where a token costs as much as a pass", drafted);
}

/* What a drafter can give at best, over the number of guesses. */
static double best_share(const World *w) {
    double best = 1;
    for (int k = 1; k <= MAX_DRAFT; k++) {
        double gain = (1 - pow(w->chance, k + 1)) / (1 - w->chance);
        best = fmin(best, (1 + k * (w->slope + w->drafter.pass_s)) / gain);
    }
    return best;
}

/* A drafter costs little where it is bad, and gives most of what it can where it is good; the one
 * that reads a token as fast as it guesses one, too. */
static void test_draft_pace(void) {
    static const double costs[] = {0.02, 0.07, 0.15, 0.3, 1}, slopes[] = {0.02, 0.1, 0.5};
    size_t drafted;
    for (size_t i = 0; i < 30; i++) {
        double each = costs[i % 5], read = i < 15 ? 0.1 * each : each;
        World w = {1, slopes[i / 5 % 3], 0, false, {.pass_s = each, .read_s = read}, 0};
        double wrong = simulate(&w, 400, &drafted);
        CHECK(wrong < 1.02, "a drafter at %g and %g, slope %g: wrong guesses cost %.2f %%", each,
              read, w.slope, 100 * (wrong - 1));
        for (; w.chance < 1; w.chance += 0.1) {
            double share = simulate(&w, 3000, &drafted), best = best_share(&w);
            CHECK(share < 1.02 && (i >= 15 || share < best * 1.1 + 0.04),
                  "a drafter at %g and %g, slope %g, right at %g: %g of the time, at best %g", each,
                  read, w.slope, w.chance, share, best);
        }
        w.busy = true;
        w.chance = 0.05;
        double share = simulate(&w, 3000, &drafted);
        CHECK(share < 1.06, "a busy machine, a drafter at %g, slope %g: %g", each, w.slope, share);
    }
}

/* A drafter that was of no use is tried again, and found useful when it is. */
static void test_second_chance(void) {
    World w = {1, 0.1, 0, false, {.pass_s = 0.07, .read_s = 0.007}, 0};
    size_t drafted, more;
    simulate(&w, 6000, &drafted);
    w.later = 0.9;
    double share = simulate(&w, 6000, &more);
    CHECK(share < 0.8 && more > 4 * drafted, "%g of the time, %zu and %zu guesses", share, drafted,
          more);
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
    for (int i = 0; i < 12; i++) text[i] = (int32_t)test_below(&s, 94);
    for (uint32_t i = 0; i < 12 * repeats; i++)
        CHECK(ids_add(prompt, text[i % 12], &e), "%s", e.text);
}

/* How many tokens are guessed, and by whom. */
typedef struct {
    int64_t lookup, draft;
} Guesses;

static GenerateOptions case_options(const Case *c, Guesses g) {
    return (GenerateOptions){.sampler = c->sampler,
                             .max_tokens = c->max_tokens,
                             .loop_guard = c->loop_guard,
                             .lookup = g.lookup,
                             .draft = g.draft};
}

/* Everything about an answer that may not depend on guesses. */
static void check_same(const Case *c, Guesses g, const RunStats *a, const RunStats *b,
                       const Output *x, const Output *y, const Session *s, const Ids *prompt) {
    CHECK(a->hash == b->hash && a->n_generated == b->n_generated && a->finish == b->finish,
          "%s, %d and %d guesses: %zu tokens and %s, not %zu and %s", c->name, (int)g.lookup,
          (int)g.draft, b->n_generated, finish_names[b->finish], a->n_generated,
          finish_names[a->finish]);
    CHECK(x->all.n == y->all.n &&
              (x->all.n == 0 || memcmp(x->all.data, y->all.data, x->all.n) == 0),
          "%s, %d and %d guesses: the text", c->name, (int)g.lookup, (int)g.draft);
    /* What is cached is the prompt and the answer but for its last token, unless that was fed. */
    bool kept = s->ids.n == prompt->n + b->n_generated - 1;
    for (size_t i = 0; kept && i < s->ids.n; i++)
        kept = s->ids.ids[i] == (i < prompt->n ? prompt->ids[i] : y->ids.ids[i - prompt->n]);
    CHECK(kept, "%s, %d and %d guesses: %zu tokens are cached", c->name, (int)g.lookup,
          (int)g.draft, s->ids.n);
}

/* What is expected of a drafter: nothing; to be right in a part of the cases; to be right always,
 * as the model itself, as long as it has read all. */
typedef enum { DRAFTER_ANY, DRAFTER_GOOD, DRAFTER_SAME } Expected;

typedef struct {
    size_t drafted, accepted;
} Count;

/* One answer; what it says is compared with that of `plain`, which the first one fills. */
static void test_guesses(Session *s, const Case *c, Guesses g, const Ids *prompt, RunStats *first,
                         Output *plain, Expected expected, Count *count) {
    Error e;
    RunStats st;
    GenerateOptions o = case_options(c, g);
    Output out = {.stops = (const char **)&c->stop, .n_stops = c->stop != NULL};
    Output *to = plain->ids.n == 0 ? plain : &out;
    bool ok = generate(s, prompt, &o, to, &st, &e);
    CHECK(ok, "%s: %s", c->name, e.text);
    if (to == plain) *first = st;
    check_same(c, g, first, &st, plain, to, s, prompt);
    CHECK(st.n_read + st.n_cached == prompt->n, "%s: %zu tokens are read", c->name, st.n_read);
    CHECK(st.n_accepted <= st.n_drafted && (g.lookup != 0 || g.draft != 0 || st.n_drafted == 0),
          "%s: %zu of %zu", c->name, st.n_accepted, st.n_drafted);
    if (c->max_tokens == 1 || c->max_tokens == 2)
        CHECK(st.n_drafted == 0, "%s: %zu guesses for none", c->name, st.n_drafted);
    if (g.lookup == 5 && strstr(c->name, "repeats"))
        CHECK(st.n_accepted > st.n_generated / 2, "%s: %zu of %zu tokens were guessed", c->name,
              st.n_accepted, st.n_generated);
    /* the last pass may be cut short by what ends the answer */
    if (expected == DRAFTER_SAME && !s->engine->rounds_prompts && g.lookup == 0 && g.draft > 0 &&
        prompt->n + st.n_generated < PROMPT_CHUNK)
        CHECK(st.n_accepted + (size_t)g.draft >= st.n_drafted &&
                  (st.n_generated < 20 || st.n_accepted >= st.n_generated / 3),
              "%s, %d guesses by itself: %zu of %zu are right", c->name, (int)g.draft,
              st.n_accepted, st.n_drafted);
    if (s->drafter && g.lookup == 0) { /* every pass and every guess reads all weights, and more */
        double pass = (double)s->engine->model->token_bytes;
        double guess = (double)s->drafter->session.engine->model->token_bytes;
        CHECK(st.decode_bytes >=
                  (double)(st.n_decoded - st.n_accepted) * pass + (double)st.n_drafted * guess,
              "%s, %d guesses by itself: %g bytes are read", c->name, (int)g.draft,
              st.decode_bytes);
    }
    count->drafted += st.n_drafted;
    count->accepted += st.n_accepted;
    output_close(&out);
}

static void test_case(Session *s, const Case *c, Expected expected, Count *count) {
    static const Guesses looked_up[] = {{0, 0}, {1, 0},         {2, 0},
                                        {5, 0}, {MAX_DRAFT, 0}, {GUESS_AUTO, 0}},
                         drafted[] = {{0, 0},
                                      {0, 1},
                                      {0, 4},
                                      {0, MAX_DRAFT},
                                      {0, GUESS_AUTO},
                                      {3, 2},
                                      {GUESS_AUTO, GUESS_AUTO}};
    size_t n =
        s->drafter ? sizeof drafted / sizeof drafted[0] : sizeof looked_up / sizeof looked_up[0];
    Ids prompt = {0};
    RunStats first = {0};
    Output plain = {.stops = (const char **)&c->stop, .n_stops = c->stop != NULL};
    make_prompt(&prompt, c->repeats, 7);
    for (size_t i = 0; i < n; i++)
        test_guesses(s, c, s->drafter ? drafted[i] : looked_up[i], &prompt, &first, &plain,
                     expected, count);
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
    static const int64_t lookups[RUNS] = {0, 5, GUESS_AUTO, MAX_DRAFT, 2, MAX_DRAFT};
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
        options[i] = case_options(&cases[i % 2 ? 5 : 1], (Guesses){0, 0});
        options[i].max_tokens = max + 9 * i;
        Output first = {0};
        ok = ok && session_open(&sessions[i], engine, &e);
        sessions[i].seq = i;
        ok = ok && generate(&sessions[i], &prompts[i], &options[i], &first, &alone[i], &e);
        output_close(&first);
        options[i].lookup = lookups[i];
        out[i] = (Output){0};
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

/* Numbers of one sequence are not finite in the pass in which another ends, which stays whole. */
static void test_other_fails(Engine *engine) {
    enum { LAST = 4 };
    Session sessions[2];
    Run runs[2], *both[2] = {&runs[0], &runs[1]};
    RunStats st[2];
    Output out[2] = {{0}, {0}};
    Ids prompts[2] = {{0}, {0}};
    GenerateOptions options[2];
    Error e = {{0}};
    bool ok = true;
    for (uint32_t i = 0; i < 2; i++) {
        make_prompt(&prompts[i], 1 + i, 20);
        options[i] = case_options(&cases[1], (Guesses){0, 0});
        options[i].max_tokens = i ? 100 : LAST;
        ok = ok && session_open(&sessions[i], engine, &e);
        sessions[i].seq = i;
        ok = ok && run_open(&runs[i], &sessions[i], &prompts[i], &options[i], &out[i], &st[i], &e);
    }
    uint32_t plain = engine->pace.plain;
    while (ok && st[0].n_generated + 1 < LAST) ok = runs_step(both, 2, &e);
    CHECK(engine->pace.plain == plain + LAST - 2 && engine->pace.seconds[2] > 0, "%u passes",
          engine->pace.plain - plain);
    CHECK(ok && runs[0].going && runs[1].going, "%s", e.text);
    for (uint32_t i = 0; ok && i < 2; i++) { /* they share what is read of the weights */
        double bytes = 0;
        for (size_t k = 0; k + 1 < st[i].n_generated; k++)
            bytes += (double)engine->model->token_bytes / 2 + kv_read(engine, prompts[i].n + k);
        CHECK(near(st[i].decode_bytes, bytes), "%g bytes, not %g", st[i].decode_bytes, bytes);
    }
    memset(engine->caches[1].k, 0xff, engine->caches[1].k_plane);
    CHECK(!runs_step(both, 2, &e) && strstr(e.text, "not a finite number"), "%s", e.text);
    CHECK(!runs[0].going && !runs[0].failed && st[0].n_generated == LAST && runs[1].failed &&
              !runs[1].going,
          "the one that ended: %zu tokens", st[0].n_generated);
    memset(engine->caches[1].k, 0, engine->caches[1].k_plane);
    for (uint32_t i = 0; i < 2; i++) {
        run_close(&runs[i], !runs[i].failed, &e);
        output_close(&out[i]);
        ids_free(&prompts[i]);
        session_close(&sessions[i]);
    }
}

/* An answer that has begun, with one token chosen and no guesses. */
typedef struct {
    Session session;
    Run run;
    RunStats stats;
    Output out;
    Ids prompt;
    GenerateOptions options;
    Error error;
} Begun;

static bool begun_open(Begun *b, Engine *engine, const char **stops, size_t n_stops) {
    *b = (Begun){.out = {.stops = stops, .n_stops = n_stops},
                 .options = case_options(&cases[0], (Guesses){0, 0})};
    make_prompt(&b->prompt, 1, 20);
    return session_open(&b->session, engine, &b->error) &&
           run_open(&b->run, &b->session, &b->prompt, &b->options, &b->out, &b->stats, &b->error);
}

static void begun_close(Begun *b) {
    output_close(&b->out);
    ids_free(&b->prompt);
    session_close(&b->session);
}

/* The tokens of a pass, of which n are guesses, and what the sampler picked for them. */
static bool begun_pick(Begun *b, uint32_t n, const int32_t *guesses, const int32_t *picked) {
    bool ok = ids_add(&b->session.ids, b->run.next, &b->error);
    b->run.record = &b->session.record;
    b->run.n_drafts = b->run.n_picked = n;
    for (uint32_t i = 0; i < n; i++) {
        ok = ok && ids_add(&b->session.ids, guesses[i], &b->error);
        b->run.picked[i] = picked[i];
    }
    return ok;
}

/* A row behind a guess is not finite: an answer that ended before it is whole, others are not. */
static void test_late_row(Engine *engine) {
    for (int ends = 0; ends < 2; ends++) {
        Begun b;
        Run *r = &b.run;
        const RunStats *st = &b.stats;
        uint32_t accepted = 0;
        bool ok = begun_open(&b, engine, NULL, 0) &&
                  begun_pick(&b, 1, (int32_t[]){7}, (int32_t[]){ends ? TINY_IM_END : 7});
        CHECK(ok, "%s", b.error.text);
        r->failed = true;
        snprintf(r->error.text, sizeof r->error.text, "a late row");
        CHECK(run_take_picked(r, &accepted, &b.error) == ends && r->failed == !ends && !r->going &&
                  st->not_finite == !ends && st->n_generated == 2 && accepted == 0,
              "ended %d: %zu tokens, failed %d", ends, st->n_generated, r->failed);
        CHECK(ends || strcmp(b.error.text, "a late row") == 0, "%s", b.error.text);
        run_close(r, ends, &b.error);
        CHECK(st->finish == (ends ? FINISH_STOP : FINISH_ERROR), "%s", finish_names[st->finish]);
        begun_close(&b);
    }
}

/* A stop string in what was held back, as the beginning of a longer one, when the answer is cut. */
static void test_stop_at_end(Engine *engine) {
    static const Finish ends[] = {FINISH_LENGTH, FINISH_LOOP, FINISH_INTERRUPT};
    static const char *stops[] = {"\x01\x02\x03", "\x02"};
    for (size_t i = 0; i < 3; i++) {
        Begun b;
        const Output *out = &b.out;
        bool ok = begun_open(&b, engine, stops, 2) &&
                  output_add(&b.out, "x\x01\x02", 3, &b.error) && !out->stopped;
        b.stats.finish = ends[i];
        ok = run_close(&b.run, ok, &b.error);
        Finish want = ends[i] == FINISH_INTERRUPT ? FINISH_INTERRUPT : FINISH_STOP;
        CHECK(ok && out->stopped && out->all.n > 2 && out->all.data[out->all.n - 1] == 1 &&
                  b.stats.finish == want,
              "%s became %s: %s", finish_names[ends[i]], finish_names[b.stats.finish],
              b.error.text);
        begun_close(&b);
    }
}

/* Of two guesses the first was right: with the token behind it the answer has two more. */
static void test_accepted(Engine *engine) {
    Begun b;
    const RunStats *st = &b.stats;
    const Record *record = &b.session.record;
    uint32_t accepted = 0;
    bool ok = begun_open(&b, engine, NULL, 0) &&
              begun_pick(&b, 2, (int32_t[]){7, 8}, (int32_t[]){7, 9}) &&
              run_take_picked(&b.run, &accepted, &b.error);
    CHECK(ok && accepted == 1 && st->n_accepted == 1 && st->n_generated == 3 && b.run.going &&
              b.run.next == 9 && b.session.ids.n == b.prompt.n + 2 && record->tried[0] == 2 &&
              record->right[0] == 1,
          "%u accepted, %zu tokens: %s", accepted, st->n_generated, b.error.text);
    run_close(&b.run, ok, &b.error);
    begun_close(&b);
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
        ok = ok && session_feed(&b, GIVEN, &other, 1, NULL, &e) == FED &&
             session_feed(&a, GIVEN, prompt.ids, prompt.n, NULL, &e) == FED &&
             session_copy(&b, &a, n, &e) &&
             session_feed(&b, GIVEN, prompt.ids + n, prompt.n - n, NULL, &e) == FED;
        CHECK(ok, "%s", e.text);
        CHECK(ok && b.ids.n == prompt.n && memcmp(a.logits, b.logits, bytes) == 0,
              "the logits behind %zu copied tokens", n);
        session_close(&a);
        session_close(&b);
        ids_free(&prompt);
    }
}

/* ---- Drafters -------------------------------------------------------------------------------- */

typedef struct {
    char path[320];
    Model model;
    Engine engine;
    Drafter drafter;
} Small;

static bool small_open(Small *d, Session *s, uint32_t ctx, Error *e) {
    EngineOptions o = s->engine->options;
    o.n_seq = 1;
    o.ctx = ctx;
    o.pool = s->engine->pool;
    d->engine = (Engine){0};
    d->drafter = (Drafter){.from = 0};
    s->drafter = &d->drafter;
    return model_load(&d->model, d->path, e) && engine_open(&d->engine, &d->model, &o, e) &&
           session_open(&d->drafter.session, &d->engine, e);
}

static void small_close(Small *d, Session *s) {
    session_close(&d->drafter.session);
    engine_close(&d->engine);
    model_unload(&d->model);
    s->drafter = NULL;
}

/* The cases, or some of them, with this drafter, which remembers one when the next begins. */
static void test_drafter(Session *s, Small *d, const char *name, uint32_t ctx, Expected expected) {
    Error e;
    Count count = {0};
    bool ok = small_open(d, s, ctx, &e);
    CHECK(ok, "%s: %s", name, e.text);
    CHECK(ok && check_same_tokenizer(&d->model, s->engine->model, &e), "%s: %s", name, e.text);
    for (size_t i = 0; ok && i < N_CASES; i += expected == DRAFTER_ANY ? 3 : 1)
        test_case(s, &cases[i], expected, &count);
    double share = (double)count.accepted / (double)count.drafted;
    CHECK(count.drafted > 1000 && (expected != DRAFTER_GOOD || share > 0.3), "%s: %zu of %zu", name,
          count.accepted, count.drafted);
    CHECK(!d->drafter.failed, "%s: %s", name, d->drafter.error.text);
    small_close(d, s);
}

/* As long as there are few, all guesses are noted, and those as right that the answer has. */
static void check_record(Session *s) {
    RunStats first = {0};
    Output plain = {0};
    Ids prompt = {0};
    Count count = {0};
    Case c = cases[2];
    Record *r = &s->drafter->session.record;
    double tried = 0, right = 0;
    c.max_tokens = 40;
    make_prompt(&prompt, 6, 7);
    test_guesses(s, &c, (Guesses){0, 1}, &prompt, &first, &plain, DRAFTER_ANY, &count);
    for (uint32_t i = 0; i < GUESS_CLASSES; i++) tried += r->tried[i], right += r->right[i];
    CHECK(tried == (double)count.drafted && right >= (double)count.accepted &&
              right <= (double)count.accepted + 1,
          "%g of %g, not %zu of %zu", right, tried, count.accepted, count.drafted);
    *r = (Record){.tried = {0}};
    output_close(&plain);
    ids_free(&prompt);
}

/* What is noted of its guesses: as many as were looked at, by how sure it was. */
static void test_record(Session *s, Small *d) {
    Error e;
    Count count = {0};
    double tried = 0, right = 0;
    size_t kinds = 0;
    bool ok = small_open(d, s, CTX, &e);
    CHECK(ok, "%s", e.text);
    if (ok) check_record(s);
    for (uint32_t which = 7; ok && which < 12; which++) {
        RunStats first = {0};
        Output plain = {0};
        Ids prompt = {0};
        make_prompt(&prompt, 6, which);
        test_guesses(s, &cases[2], (Guesses){0, 1}, &prompt, &first, &plain, DRAFTER_ANY, &count);
        output_close(&plain);
        ids_free(&prompt);
    }
    for (uint32_t c = 0; c < GUESS_CLASSES; c++) {
        const Record *r = &d->drafter.session.record;
        CHECK(r->right[c] <= r->tried[c], "class %u: %g of %g", c, r->right[c], r->tried[c]);
        tried += r->tried[c], right += r->right[c], kinds += r->tried[c] > 0;
    }
    CHECK(kinds > 1 && tried > 40 && tried <= (double)count.drafted && right > 10 &&
              right <= (double)count.accepted + 1,
          "%g of %g guesses of %zu kinds, and %zu of %zu", right, tried, kinds, count.accepted,
          count.drafted);
    CHECK(confidence_class(0) == 0 && confidence_class(0.5f) == 2 && confidence_class(1) == 4,
          "classes");
    small_close(d, s);
}

/* What was never measured of a drafter is estimated from the model's own passes. */
static void check_estimate(Session *s, const Small *d) {
    RunStats st = {.n_read = 10, .prompt_s = 5};
    Run r = {.session = s, .stats = &st};
    Drafter few = d->drafter, many = d->drafter, known = d->drafter;
    double share = (double)d->model.token_bytes / (double)s->engine->model->token_bytes;
    double pass = pace_seconds(&s->engine->pace, 1);
    few.pass_s = few.read_s = many.pass_s = many.read_s = 0;
    known.pass_s = known.read_s = 3;
    drafter_estimate(&few, &r);
    CHECK(near(few.pass_s, pass * share) && near(few.read_s, 0.15 * pass * share), "%g, %g",
          few.pass_s, few.read_s);
    st.n_read = 100;
    drafter_estimate(&many, &r);
    CHECK(near(many.pass_s, pass * share) && near(many.read_s, 0.05 * share), "%g, %g", many.pass_s,
          many.read_s);
    drafter_estimate(&known, &r);
    CHECK(known.pass_s == 3 && known.read_s == 3, "what is known stays: %g, %g", known.pass_s,
          known.read_s);
}

/* What a looked up guess adds to a pass; and none is looked up where the drafter promises more. */
static void check_lookup(Session *s) {
    static const int32_t text[] = {1, 2, 3, 4, 5, 1, 2, 3}, guesses[] = {4, 5, 1};
    Error e = {""};
    GenerateOptions g = {.lookup = 3};
    Run r = {.session = s, .options = &g};
    Outlook o = {.m = 1, .room = 15, .gain = 1}, p = o;
    const Record *before = &s->record;
    s->record = (Record){.tried = {0}};
    s->ids.n = 0;
    for (size_t i = 0; i < 8; i++) CHECK(ids_add(&s->ids, text[i], &e), "%s", e.text);
    CHECK(run_lookup(&r, &o, 15, 1e9, &e) && r.n_drafts == 3 && s->ids.n == 11 &&
              memcmp(s->ids.ids + 8, guesses, sizeof guesses) == 0 && r.record == before,
          "%u guesses", r.n_drafts);
    CHECK(o.m == 4 && o.room == 12 && near(o.gain, 1 + 0.35 * (1 + 0.5 * (1 + 0.5))),
          "a pass of %u tokens gives %g", o.m, o.gain);
    s->ids.n = 8;
    r.n_drafts = 0;
    g.lookup = GUESS_AUTO;
    CHECK(run_lookup(&r, &p, 15, 1e9, &e) && r.n_drafts == 0 && p.m == 1, "the drafter's are more");
    CHECK(run_lookup(&r, &p, 15, 0, &e) && r.n_drafts > 0, "looked up: %u", r.n_drafts);
    s->ids.n = 0;
}

/* How sure a guess is: the share of its token, as the drafter has it. */
static void check_confidence(Session *s, Small *d) {
    SamplerOptions o = {.top_p = 1, .repeat_penalty = 1, .repeat_last_n = -1};
    RunStats st = {.n_prompt = 0};
    Run r = {.session = s, .stats = &st};
    Sampler ahead;
    Error e = {""};
    Session *small = &d->drafter.session;
    uint32_t n = (uint32_t)tokenizer_n_tokens(d->model.tokenizer), classes = 0;
    bool ok = sampler_open(&ahead, &o, d->engine.kernels, n, &e);
    for (int32_t id = 0; ok && id < 94; id += 3) {
        double sum = 0, best = 0;
        uint8_t class = 0;
        ok = session_feed(small, GENERATED, &id, 1, NULL, &e) == FED;
        for (uint32_t v = 0; v < n; v++) {
            double p = exp((double)small->logits[v]);
            sum += p;
            best = fmax(best, p);
        }
        drafter_choose(&r, &ahead, &class);
        CHECK(class == confidence_class((float)(best / sum)), "%g: class %u", best / sum, class);
        classes |= 1u << class;
    }
    CHECK(ok && (classes & (classes - 1)) != 0, "more than one class: %s", e.text);
    sampler_close(&ahead);
}

/* Whether the drafter is asked: as often as it should be, or when the pace allows it and it may
 * read what it lacks; and not when it is broken. */
static void check_may_draft(Session *s, const Small *d) {
    Error e = {""};
    GenerateOptions g = {.draft = 0};
    RunStats st = {.n_prompt = 40};
    Run r = {.session = s, .options = &g, .stats = &st};
    Outlook no = {.m = 1, .room = 15, .gain = 1}, yes = no;
    Drafter *f = s->drafter;
    double rate;
    yes.allowed = true;
    s->ids.n = f->session.ids.n = 0;
    for (int32_t i = 0; i < 40; i++) CHECK(ids_add(&s->ids, i, &e), "%s", e.text);
    f->pass_s = f->read_s = 0.001;
    CHECK(!run_may_draft(&r, &yes, 9, &rate) && rate == 0, "no guesses are wanted");
    g.draft = 3;
    CHECK(run_may_draft(&r, &no, 9, &rate) && rate == 0, "three are, in any case");
    g.draft = GUESS_AUTO;
    CHECK(!run_may_draft(&r, &no, 9, &rate) && rate == 0, "the pace allows none");
    CHECK(run_may_draft(&r, &yes, 9, &rate) && rate > 0.5, "it does: %g", rate);
    f->pass_s = 1e3;
    CHECK(!run_may_draft(&r, &yes, 9, &rate) && rate == 0, "it is too slow to read 40 tokens");
    f->pass_s = 0.001;
    f->failed = true;
    CHECK(!run_may_draft(&r, &yes, 9, &rate) && rate == 0, "%s failed", d->path);
    s->ids.n = 0;
}

static void test_estimates(Session *s, Small *d) {
    Error e;
    Pace pace = s->engine->pace;
    Record record = s->record;
    bool ok = small_open(d, s, CTX, &e);
    CHECK(ok, "%s", e.text);
    s->engine->pace = (Pace){.seconds = {[1] = 2, [16] = 2.5}};
    if (ok) check_estimate(s, d);
    if (ok) check_lookup(s);
    if (ok) check_confidence(s, d);
    if (ok) check_may_draft(s, d);
    s->engine->pace = pace;
    s->record = record;
    small_close(d, s);
}

/* Damage the last norm's weights, and with them all logits. */
static bool break_weights(const char *path, Error *e) {
    ModelFile m;
    uint64_t offset = 0;
    float nan = NAN;
    FILE *f;
    if (!model_open(&m, path, e)) return false;
    for (uint32_t i = 0; i < m.header->n_tensors; i++)
        if (strcmp(m.tensors[i].name, "model.norm.weight") == 0) offset = m.tensors[i].offset;
    model_close(&m);
    if (offset == 0 || !(f = fopen(path, "r+b"))) return fail_errno(e, path, "opening");
    bool ok = fseek(f, (long)offset, SEEK_SET) == 0 && fwrite(&nan, sizeof nan, 1, f) == 1;
    return fclose(f) == 0 && ok;
}

/* A drafter without finite numbers guesses no more, and the answer is what it is without. */
static void test_broken_drafter(Session *s, Small *d) {
    Error e;
    Count count = {0};
    bool ok = break_weights(d->path, &e) && small_open(d, s, CTX, &e);
    CHECK(ok, "%s", e.text);
    if (ok) test_case(s, &cases[1], DRAFTER_ANY, &count);
    CHECK(d->drafter.failed && strstr(d->drafter.error.text, "not a finite number") &&
              strstr(d->drafter.error.text, d->path),
          "it says why: %s", d->drafter.error.text);
    d->drafter.error.text[0] = 0;
    if (ok) test_case(s, &cases[1], DRAFTER_ANY, &count);
    CHECK(d->drafter.error.text[0] == 0, "it is not tried again: %s", d->drafter.error.text);
    small_close(d, s);
}

/* The conversation takes turns, forgets, is cut and begins anew: the drafter follows. */
static void test_follow(Session *s, Small *d) {
    Error e;
    bool ok = small_open(d, s, 100, &e);
    Drafter *f = &d->drafter;
    uint64_t state = 9;
    int32_t ids[CTX];
    size_t n = 0;
    for (size_t i = 0; i < CTX; i++) ids[i] = (int32_t)test_below(&state, 94);
    for (int step = 0; ok && step < 400; step++) {
        size_t window = 1 + test_below(&state, step % 3 == 0 ? 10 : CTX);
        uint32_t kind = test_below(&state, 8);
        if (kind == 0) ids[n / 2] ^= 1; /* an earlier word is changed, */
        if (kind == 1) n = n / 2;       /* the end forgotten, */
        if (kind == 2) n = 0;           /* or all of it */
        n = min_size(n + 1 + test_below(&state, kind == 3 ? 120 : 6), CTX);
        if (n == CTX) n = 1;
        size_t lacks = drafter_follow(f, ids, n, window), had = f->session.ids.n;
        bool same = f->from + had + lacks == n && lacks > 0 && n - f->from <= 100 &&
                    lacks <= window && (had > 0 || n <= window || window >= DRAFT_MIN);
        for (size_t i = 0; i < had; i++) same = same && f->session.ids.ids[i] == ids[f->from + i];
        if (lacks == 0) {
            CHECK(window < DRAFT_MIN && had + window < n, "step %d: window %zu", step, window);
            continue;
        }
        CHECK(same, "step %d: from %zu, %zu held, %zu lacking of %zu, window %zu", step, f->from,
              had, lacks, n, window);
        CHECK(f->from == 0 || n > min_size(window, 100), "step %d: all of %zu are read", step, n);
        ok = session_feed(&f->session, GIVEN, ids + n - lacks, lacks, NULL, &e) == FED;
    }
    CHECK(ok, "%s", e.text);
    small_close(d, s);
}

/* path, quant: of the session's model */
static void test_drafters(Session *s, const char *path, const char *quant, bool kv_f32) {
    Error e;
    Small d = {.path = ""};
    snprintf(d.path, sizeof d.path, "%s", path);
    test_drafter(s, &d, "the model itself", CTX, DRAFTER_SAME);
    test_drafter(s, &d, "with a small context", 64, DRAFTER_ANY);
    if (kv_f32) test_drafter(s, &d, "with a context of 3", 3, DRAFTER_ANY);
    snprintf(d.path, sizeof d.path, "%s.small", path);
    bool ok = tiny_model(d.path, strcmp(quant, "q8") == 0 ? "q5" : "q8", TINY_ENDS, &e);
    CHECK(ok, "%s", e.text);
    if (ok) test_drafter(s, &d, "another quantization", CTX, DRAFTER_GOOD);
    if (ok) test_record(s, &d);
    if (ok) test_estimates(s, &d);
    if (ok && kv_f32) test_follow(s, &d);
    ok = ok && tiny_model_padded(d.path, quant, TINY_ENDS, 32, &e);
    if (ok) test_drafter(s, &d, "other weights, with more padding", CTX, DRAFTER_ANY);
    if (ok) test_broken_drafter(s, &d);
    unlink(d.path);
}

/* ---- What a chat and other modes do ---------------------------------------------------------- */

/* What the first Qwen1.5 repositories leave open is closed when a conversation is loaded, or the
 * next question would stand in the answer. */
static void test_load_early(Model *m, const char *path) {
    static const char talk[] = "[{\"role\":\"user\",\"content\":\"a\"},"
                               "{\"role\":\"assistant\",\"content\":\"b\"}]";
    Error e;
    Program p = {.model = *m};
    Conversation early = {.has_system = false}, plain = {.has_system = false};
    char file[320];
    snprintf(file, sizeof file, "%s.json", path);
    Buffer text = {0};
    bool ok = buffer_puts(&text, talk, &e) && write_whole(file, &text, &e);
    p.model.chat.family = CHAT_QWEN2;
    ok = ok && chat_parse(&p, file, &plain, &e);
    p.model.chat.family = CHAT_QWEN15_EARLY;
    ok = ok && chat_parse(&p, file, &early, &e);
    CHECK(ok, "%s", e.text);
    const Ids *a = &early.prompt.ids, *b = &plain.prompt.ids;
    CHECK(a->n > 10 && a->n == b->n && memcmp(a->ids, b->ids, a->n * sizeof *a->ids) == 0,
          "the same turns: %zu and %zu tokens", a->n, b->n);
    conversation_free(&early);
    conversation_free(&plain);
    unlink(file);
    buffer_free(&text);
}

/* What is kept of an answer that a stop string ended are the tokens of its text, as a user's would
 * be: what reads like a special token is none. */
static void test_keep_stopped(Model *m) {
    static const char text[] = "a<|im_end|>";
    Error e = {""};
    Program p = {.model = *m};
    Chat c = {.program = &p};
    Output out = {.stopped = true};
    Ids want = {0};
    bool ok = buffer_puts(&out.all, text, &e) && ids_add(&out.ids, TINY_IM_END, &e) &&
              tokenizer_encode(m->tokenizer, text, strlen(text), false, &want, &e) &&
              chat_keep_answer(&c, &out, &e);
    const Ids *got = &c.said.prompt.ids;
    CHECK(ok && want.n == strlen(text) && got->n > want.n && got->ids[want.n] == TINY_IM_END &&
              memcmp(got->ids, want.ids, want.n * sizeof *want.ids) == 0,
          "%zu of %zu tokens are kept: %s", want.n, got->n, e.text);
    conversation_free(&c.said);
    output_close(&out);
    ids_free(&want);
}

/* ^C ends what takes long, and the exit status says so. Both print to stdout and stderr. */
static void test_interrupted(Model *m, Engine *engine) {
    Error e = {""};
    Program p = {.model = *m, .engine = *engine};
    Score score = {.count = 0};
    Ids ids = {0};
    bool ok = scored_open(&score.model, m, engine, &e);
    for (int32_t i = 0; i < 100; i++) ok = ok && ids_add(&ids, 'a' + i % 26, &e);
    CHECK(ok, "%s", e.text);
    interrupts = 1;
    CHECK(run_verify(&p) == 130, "an interrupted --verify");
    CHECK(ok && !score_text(&score, &ids, &e) && strstr(e.text, "interrupted") && score.count == 0,
          "an interrupted --perplexity: %zu, %s", score.count, e.text);
    interrupts = 0;
    CHECK(ok && score_text(&score, &ids, &e) && score.count == 99, "%zu, %s", score.count, e.text);
    free(score.model.logits);
    ids_free(&ids);
}

/* The far end of a pipe, read late: its bytes are counted. */
typedef struct {
    int fd;
    size_t n;
} LateReader;

static void *read_late(void *arg) {
    LateReader *r = arg;
    char bytes[4096];
    ssize_t n;
    usleep(50000);
    while ((n = read(r->fd, bytes, sizeof bytes)) > 0) r->n += (size_t)n;
    return NULL;
}

/* A pipe that somebody made non-blocking is waited for when it is full. */
static void test_full_pipe(void) {
    enum { N = 300000 };
    int ends[2] = {-1, -1};
    pthread_t thread;
    Error e = {""};
    char *text = calloc(N, 1);
    bool ok = text && pipe(ends) == 0 && fcntl(ends[1], F_SETFL, O_NONBLOCK) == 0;
    FILE *to = ok ? fdopen(ends[1], "w") : NULL;
    LateReader r = {ends[0], 0};
    ok = to && pthread_create(&thread, NULL, read_late, &r) == 0;
    CHECK(ok, "a pipe: %s", strerror(errno));
    if (ok) {
        CHECK(write_now(to, text, N, &e), "%s", e.text);
        fclose(to);
        pthread_join(thread, NULL);
        CHECK(r.n == N, "%zu bytes arrive", r.n);
    }
    close(ends[0]);
    free(text);
}

/* ---- All of it ------------------------------------------------------------------------------- */

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
        Count count = {0};
        for (size_t i = 0; i < N_CASES; i++) test_case(&s, &cases[i], DRAFTER_ANY, &count);
        CHECK(count.accepted > 2000 && count.accepted < count.drafted * 3 / 4,
              "%zu of %zu guesses were right", count.accepted, count.drafted);
        if (strcmp(quant, "f32") != 0) test_drafters(&s, path, quant, kv_f32);
        session_close(&s);
        test_together(&engine, 20);
        test_together(&engine, 90);
        test_other_fails(&engine);
        test_late_row(&engine);
        test_stop_at_end(&engine);
        test_accepted(&engine);
        test_copy(&engine);
        test_interrupted(&m, &engine);
        test_load_early(&m, path);
        test_keep_stopped(&m);
    }
    CHECK(ok, "%s: %s", quant, e.text);
    if (ok) engine_close(&engine);
    model_unload(&m);
}

int main(void) {
    const char *base = getenv("TMPDIR");
    char path[300];
    test_find();
    test_seconds();
    test_chances();
    test_length();
    test_lengths();
    test_window();
    test_balance();
    test_pace();
    test_draft_pace();
    test_second_chance();
    test_full_pipe();
    snprintf(path, sizeof path, "%s/test_generate.XXXXXX", base && base[0] ? base : "/tmp");
    int fd = mkstemp(path);
    CHECK(fd >= 0, "%s: %s", path, strerror(errno));
    if (fd >= 0) {
        close(fd);
        test_model(path, "q5", true, 2);
#if !defined(__SANITIZE_THREAD__) /* one thread has nothing to race with */
        test_model(path, "q8", false, 1);
        test_model(path, "f32", false, 1);
#endif
        unlink(path);
    }
    return test_end("test_generate");
}
