/* bench_kernels.c: how fast the kernels are, against what the memory gives in the same run.
 *
 *     make && cc -O2 -D_GNU_SOURCE -I. test/bench_kernels.c build/plain/kernels/[a-z]*.o \
 *         build/plain/base.o -lm -lpthread -o bench
 *     ./bench [table [MiB of weights [threads]]]
 *
 * Best of several rounds for each figure; reads and matmuls take turns, so that what disturbs one
 * disturbs the other. Random weights, a 2048-column matrix. Not part of the tests. */
#include "kernels/kernels.h"

#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>

#define COLS 2048
#define ROUNDS 7
#define MAX_THREADS 16
#define MAX_TOKENS 512

typedef struct {
    const Kernels *k;
    const Mat *w; /* NULL: read `bytes` bytes at `data` */
    const Operand *a;
    float *y;
    const uint8_t *data;
    size_t bytes;
    uint32_t panel, n_panels;
    uint64_t read;
    pthread_barrier_t *start;
    double begin, end; /* its own times: who starts the threads may be late himself */
} Job;

/* The job's panels as the engine takes them: STREAMS at once, far apart, so that each stream goes
 * on where the call before left it. n_panels is a multiple of STREAMS. */
static void job_matmul(const Job *j) {
    uint32_t step = j->n_panels / STREAMS;
    for (uint32_t i = 0; i < step; i++) {
        Panels w = matrix_panels(j->w, j->panel + i, step, 1, STREAMS);
        j->k->matmul[w.type](&w, j->a, j->y);
    }
}

static void *job_run(void *argument) {
    Job *j = argument;
    pthread_barrier_wait(j->start);
    j->begin = now_seconds();
    if (j->w)
        job_matmul(j);
    else
        j->read = j->k->read_all(j->data, j->bytes);
    j->end = now_seconds();
    return NULL;
}

/* Seconds from the first start of n threads to the last end. */
static double run_jobs(Job *jobs, int n) {
    pthread_t threads[MAX_THREADS];
    pthread_barrier_t start;
    if (pthread_barrier_init(&start, NULL, (unsigned)n)) exit(1);
    for (int i = 0; i < n; i++) {
        jobs[i].start = &start;
        if (pthread_create(&threads[i], NULL, job_run, &jobs[i])) exit(1);
    }
    for (int i = 0; i < n; i++) pthread_join(threads[i], NULL);
    pthread_barrier_destroy(&start);
    double begin = jobs[0].begin, end = jobs[0].end;
    for (int i = 1; i < n; i++) {
        begin = fmin(begin, jobs[i].begin);
        end = fmax(end, jobs[i].end);
    }
    return end - begin;
}

static void *get(size_t bytes) {
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) exit(1);
    madvise(p, bytes, MADV_HUGEPAGE);
    return p;
}

/* A linear congruential generator: good enough for timing. */
static uint64_t random_bits(uint64_t *seed) {
    *seed = *seed * 6364136223846793005u + 1442695040888963407u;
    return *seed ^ *seed >> 29;
}

/* Random bytes with halfwords of 2^-7 to 2 wherever they are read as f16 scales, and of 2^-63 to 2
 * as bf16: no subnormal number, which some processors take hundreds of cycles for. */
static void fill(uint8_t *p, size_t bytes) {
    uint64_t seed = 3;
    for (size_t i = 0; i < bytes; i += 8) {
        uint64_t r = (random_bits(&seed) & 0xbfffbfffbfffbfffu) | 0x2000200020002000u;
        memcpy(p + i, &r, 8);
    }
}

static Operand make_operand(const Kernels *k, uint32_t n_tok, uint32_t cols) {
    size_t n = (size_t)n_tok * cols;
    float *x = get(n * 4);
    uint64_t seed = 5;
    for (size_t i = 0; i < n; i++) x[i] = (float)(int32_t)random_bits(&seed) * 0x1p-31f;
    uint16_t *b = get(((size_t)n_tok + 15) / 16 * 16 * cols * 2);
    Operand a = {n_tok,      cols,       x,          cols, get(n),
                 get(n / 8), get(n / 8), get(n / 4), b,    kernels_fetch_ahead()};
    Piece all = {0, n_tok, 0, cols, x, cols, 16};
    k->quantize(&a, &all);
    if (k->round) k->round(&a, &all);
    return a;
}

/* One token over all the weights, for each format, and the plain read beside it. */
static void bench_decode(const Kernels *k, const uint8_t *data, size_t bytes, int n) {
    Operand a = make_operand(k, 1, COLS);
    float *y = get(STREAMS * GROUP_TOKENS * PANEL_ROWS * sizeof *y);
    for (int type = 0; type < N_TYPES; type++) {
        uint32_t panels = (uint32_t)(bytes / panel_bytes((Type)type, COLS) / 4 / (unsigned)n * 4);
        Mat w = {(Type)type, panels * (unsigned)n * 16, COLS, data};
        double read = 1e9, multiply = 1e9, size = (double)matrix_bytes(w.type, w.rows, COLS);
        for (int round = 0; round < ROUNDS; round++) {
            Job jobs[MAX_THREADS];
            size_t part = (size_t)size / (unsigned)n / 64 * 64;
            for (int i = 0; i < n; i++)
                jobs[i] = (Job){
                    .k = k, .a = &a, .y = y, .data = data + part * (unsigned)i, .bytes = part};
            read = fmin(read, run_jobs(jobs, n));
            for (int i = 0; i < n; i++) {
                jobs[i].w = &w;
                jobs[i].panel = panels * (unsigned)i;
                jobs[i].n_panels = panels;
            }
            multiply = fmin(multiply, run_jobs(jobs, n));
        }
        printf("  %-5s %6.2f GB/s  %6.2f Gweights/s   read %6.2f GB/s   %5.1f %%\n",
               type_info(w.type)->name, size / multiply / 1e9,
               (double)w.rows * COLS / multiply / 1e9, size / read / 1e9, 100 * read / multiply);
    }
}

/* Several tokens, one thread, weights of about a layer's matrix; with `prompt` as prompts take
 * them, where that is different. */
static void bench_tokens(const Kernels *k, const uint8_t *data, bool prompt) {
    const uint32_t toks[] = {1, 2, 4, 8, 16, 64, 512};
    const uint32_t rows = 2048;
    float *y = get((size_t)2 * MAX_TOKENS * PANEL_ROWS * sizeof *y);
    printf("tokens at once%s, one thread, %u x %u, TOPS:\n       ", prompt ? " of a prompt" : "",
           rows, COLS);
    for (size_t n = 0; n < 7; n++) printf("%7u", toks[n]);
    printf("\n");
    for (int type = 0; type < N_TYPES; type++) {
        Mat w = {(Type)type, rows, COLS, data};
        if (prompt && !k->prompt_matmul[type]) continue;
        printf("  %-5s", type_info(w.type)->name);
        for (size_t n = 0; n < 7; n++) {
            Operand a = make_operand(k, toks[n], COLS);
            double best = 1e9;
            for (int round = 0; round < (toks[n] < 64 ? 20 : 4); round++) {
                double begin = now_seconds();
                /* by pairs, as the engine does */
                for (uint32_t p = 0; p < rows / PANEL_ROWS; p += 2) {
                    Panels pair = matrix_panels(&w, p, 1, 2, 2);
                    (prompt ? k->prompt_matmul : k->matmul)[type](&pair, &a, y);
                }
                best = fmin(best, now_seconds() - begin);
            }
            printf("%7.3f", 2.0 * rows * COLS * toks[n] / best / 1e12);
        }
        printf("\n");
    }
}

/* n_tok tokens of `heads` heads against a long context, a part after another. data is random: so
 * are the scales in it, and with them what comes out. */
static void bench_attend(const Kernels *k, uint32_t dim, uint32_t heads, uint32_t n_tok,
                         const uint8_t *data, size_t bytes) {
    size_t part = ATTEND_KEYS / KV_BLOCK * keys_bytes(dim, false), n = bytes / part / 2;
    size_t rows = (size_t)heads * n_tok;
    float *q = get(rows * dim * 4), *out = get(rows * (dim + 2) * 4);
    double cold = 1e9, warm = 1e9;
    Attend a = {.head_dim = dim,
                .n_heads = heads,
                .n_tok = n_tok,
                .pos = ATTEND_KEYS - 1,
                .q = q,
                .q_stride = heads * dim,
                .scratch = get(ATTEND_BYTES),
                .to = {out, out + rows, out + 2 * rows}};
    for (int round = 0; round < 3; round++) {
        double begin = now_seconds();
        for (size_t i = 0; i < n; i++) {
            a.k = data + i * part;
            a.v = data + (n + i) * part;
            k->attend[0](&a);
        }
        cold = fmin(cold, now_seconds() - begin);
        begin = now_seconds();
        for (size_t i = 0; i < n; i++) k->attend[0](&a);
        warm = fmin(warm, now_seconds() - begin);
    }
    double macs = 2.0 * (double)n * ATTEND_KEYS * dim * (double)rows;
    printf("  attend D %3u, %u heads of %u tokens: %5.1f GB/s from memory, %5.1f from cache "
           "(%.3f TFLOPS)\n",
           dim, heads, n_tok, 2.0 * (double)(n * part) / cold / 1e9,
           2.0 * (double)(n * part) / warm / 1e9, 2 * macs / warm / 1e12);
}

/* Query heads that fill prompt_attend's rows, behind MAX_KEYS keys. */
static void bench_prompt_attend(const Kernels *k, uint32_t dim, uint32_t heads,
                                const uint8_t *data) {
    enum { MAX_KEYS = 4096 };
    uint32_t n_tok = ATTEND_ROWS / heads;
    float *q = get((size_t)n_tok * heads * dim * 4), *out = get((size_t)n_tok * heads * dim * 4);
    double best = 1e9;
    PromptAttend a = {.head_dim = dim,
                      .n_heads = heads,
                      .n_tok = n_tok,
                      .pos = MAX_KEYS - n_tok,
                      .q = q,
                      .q_stride = (size_t)heads * dim,
                      .k = data,
                      .v = data + MAX_KEYS / KV_BLOCK * keys_bytes(dim, false),
                      .scratch = get(ATTEND_BYTES),
                      .out = out,
                      .out_stride = (size_t)heads * dim};
    for (int round = 0; round < 10; round++) {
        double begin = now_seconds();
        k->prompt_attend(&a);
        best = fmin(best, now_seconds() - begin);
    }
    printf("  prompt_attend D %3u, %u heads of %u tokens: %.3f TFLOPS\n", dim, heads, n_tok,
           4.0 * MAX_KEYS * dim * heads * n_tok / best / 1e12);
}

static void bench_rows(const Kernels *k) {
    const uint32_t n = 151936;
    Operand a = make_operand(k, 1, n);
    const Piece all = {0, 1, 0, n, a.x, 0, 16};
    float *x = get(n * 4), *y = get(n * 4), top;
    int16_t *w = get(n * 2);
    double best[7];
    for (int i = 0; i < 7; i++) best[i] = 1e9;
    for (int round = 0; round < 50; round++) {
        double t[8];
        memcpy(x, a.x, n * 4);
        t[0] = now_seconds();
        k->max_finite(x, n, &top);
        t[1] = now_seconds();
        k->quantize(&a, &all);
        t[2] = now_seconds();
        k->rmsnorm(y, x, x, n, 1e-6f);
        t[3] = now_seconds();
        k->silu_mul(y, x, n);
        t[4] = now_seconds();
        k->add(y, x, n);
        t[5] = now_seconds();
        (void)k->words(w, x, n);
        t[6] = now_seconds();
        k->exp_sum(x, n, top, 1);
        t[7] = now_seconds();
        for (int i = 0; i < 7; i++) best[i] = fmin(best[i], t[i + 1] - t[i]);
    }
    const char *names[] = {"max_finite", "quantize", "rmsnorm", "silu_mul",
                           "add",        "words",    "exp_sum"};
    for (int i = 0; i < 7; i++)
        printf("  %-12s %6.2f GB/s of input, %6.1f us for %u\n", names[i], n * 4 / best[i] / 1e9,
               best[i] * 1e6, n);
}

int main(int argc, char **argv) {
    Error e;
    int64_t mib = 1200, threads = 2;
    const Kernels *k = kernels_select(argc > 1 ? argv[1] : NULL, &e);
    if (k == NULL || (argc > 2 && !parse_int(argv[2], 16, 65536, &mib)) ||
        (argc > 3 && !parse_int(argv[3], 1, MAX_THREADS, &threads))) {
        fprintf(stderr, "bench_kernels: %s\n", k ? "expected [table [MiB [threads]]]" : e.text);
        return 2;
    }
    size_t bytes = (size_t)mib << 20;
    uint8_t *data = get(bytes);
    fill(data, bytes);
    printf("%s, %d threads, one token over %d MiB:\n", k->name, (int)threads, (int)mib);
    bench_decode(k, data, bytes, (int)threads);
    bench_tokens(k, data, false);
    if (k->round) bench_tokens(k, data, true);
    bench_attend(k, 128, 6, 1, data, bytes / 4);
    bench_attend(k, 64, 7, 1, data, bytes / 4);
    bench_attend(k, 128, 6, ATTEND_ROWS / 6, data, bytes / 64);
    bench_attend(k, 64, 7, ATTEND_ROWS / 7, data, bytes / 64);
    if (k->prompt_attend) {
        bench_prompt_attend(k, 128, 6, data);
        bench_prompt_attend(k, 64, 7, data);
    }
    bench_rows(k);
    return 0;
}
