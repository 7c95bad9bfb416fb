/* kernels.h: the arithmetic of the engine, one table of functions per instruction set.
 *
 * Every function here but those for prompts (round to prompt_attend, which AMX alone has) gives the
 * same bits on every instruction set, and all of them do for any number of tokens and any split of
 * the work over threads. That holds because the order of every floating-point operation is part of
 * its contract:
 *   - sums of products of small integers are exact, in any order;
 *   - float sums run in the order stated with each function, products and sums fused where it says
 *     fma, rounded apart everywhere else (the build sets -ffp-contract=off);
 *   - a sum over lanes keeps 16 partial sums, lane i taking elements i, i + 16, i + 32 ..., and
 *     adds them as a tree: lane i += lane i + 8, then + 4, + 2, + 1;
 *   - where a result is NaN, which NaN it is remains open: no instruction set says the same.
 * The scalar table is the plain statement of each function; the others are compared with it by ==.
 *
 * exp16(x) is e^x as lanes_exp (lanes.h) computes it; words(x) is the function of that name below.
 *
 * Letters: T tokens, K columns (inputs), N rows (outputs), D head_dim, G query heads per KV head */
#ifndef KERNELS_H
#define KERNELS_H

#include "model.h"

#define GROUP_TOKENS 16        /* tokens that lie interleaved in an Operand */
#define STREAMS 2              /* panels that one token reads in lock-step: a pair of Panels */
#define DOT_ROUND_OPS 65536    /* multiplications and additions of one round of dot_all() */
#define PROMPT_RUN 512         /* tokens that prompt_matmul takes weights to bf16 for, at once */
#define PROMPT_COLS 512        /* columns of a piece */
#define PROMPT_BYTES (1 << 20) /* of b that stay in the second-level cache */
#define ATTEND_ROWS 256        /* of one call of attend, at most: a token's query head is one */
#define ATTEND_BYTES (1280u << 10) /* scratch of one call of attend() or prompt_attend() */
#define ATTEND_KEYS 512 /* of one call of attend(), at most: fixed, as results depend on it */
#define WORD_KEYS 128   /* of those, as many as share a scale for their weights */
#define KV_BLOCK 32     /* positions whose keys, and values, lie together */

/* A weight matrix in panels: w (N rows, K cols). */
typedef struct {
    Type type;
    uint32_t rows, cols;
    const uint8_t *data; /* matrix_bytes(type, rows, cols), 64-byte aligned */
} Mat;

/* What one call of matmul() takes: n panels of 16 rows, as wide as its Operand. They go in pairs,
 * which one token reads side by side: fastest when the two lie far apart, and the next pair behind
 * them, for then they are two long streams. Panel i is at data + i / 2 * next + i % 2 * apart. */
typedef struct {
    Type type;
    uint32_t n;
    const uint8_t *data;   /* the first panel */
    ptrdiff_t apart, next; /* bytes: from a pair's first panel to its second, to the next pair */
} Panels;

/* n panels of w from panel `first` on, with distances in panels. */
static inline Panels matrix_panels(const Mat *w, size_t first, size_t apart, size_t next,
                                   uint32_t n) {
    size_t size = panel_bytes(w->type, w->cols);
    return (Panels){w->type, n, w->data + first * size, (ptrdiff_t)(apart * size),
                    (ptrdiff_t)(next * size)};
}

/* T activation rows x (T, K), as operands of matmul. For block formats they are also quantized: per
 * 32 columns int8 q and a float scale d, x ~ d q. Tokens lie in groups of 16 (the last group has
 * the rest); in a group of t tokens, block b of token i is at
 *      q   + group * 16 * Kp      + (b * t + i) * 32        Kp = K rounded up to 64, zeros behind K
 *      d   + group * 16 * Kp / 32 + b * t + i
 *      dq  + group * 16 * Kp / 32 + b * t + i
 *      sum + group * 16 * Kp / 16 + s * t + i               s = 16-wide sub-block 0 .. Kp/16 - 1
 * so that one token is contiguous and sixteen are the A tile of a matrix unit.
 *
 * For prompt_matmul they are bf16 instead, in tiles of 16 tokens x 32 columns (zeros behind K),
 * rounded to nearest, ties to even, subnormal numbers to 0. Of nb = ceil(K/32) blocks, those of a
 * piece lie together, P = PROMPT_COLS/32: with G = ceil(T/16) groups, the tile of group g and block
 * b is the one at
 *      b / P * P * G + g * min(nb - b / P * P, P) + b % P */
typedef struct {
    uint32_t n_tok, cols;
    const float *x; /* (T, K), rows x_stride floats apart: operand of f32, f16, bf16 weights */
    size_t x_stride;
    int8_t *q;    /* (T * Kp), -127 .. 127, 64-byte aligned */
    float *d;     /* (T * Kp/32) max|x| / 127 of the block; NaN if it has a NaN or infinity */
    float *dq;    /* (T * Kp/32) d * (float)(sum of the block's q) */
    int32_t *sum; /* (T * Kp/16) sum of the sub-block's q */
    uint16_t *b;  /* (ceil(T/16) * 16 * nb * 32) the tiles, 64-byte aligned */
    uint32_t fetch_ahead; /* bytes: kernels_fetch_ahead() */
} Operand;

/* The tokens of the group that token t is in. */
static inline size_t operand_group(const Operand *a, size_t t) {
    return min_size(a->n_tok - t / GROUP_TOKENS * GROUP_TOKENS, GROUP_TOKENS);
}
/* Where block b of token t is: this is the index of its d and dq; its q begin at 32 times it, its
 * first sum is at 2 times it less t % 16. */
static inline size_t operand_block(const Operand *a, size_t t, size_t b) {
    size_t blocks = ((size_t)a->cols + 63) / 64 * 2;
    return t / GROUP_TOKENS * GROUP_TOKENS * blocks + b * operand_group(a, t) + t % GROUP_TOKENS;
}

/* What matmul() gives for a panel: (Tp, 16) floats, Tp being T rounded up to whole groups. */
static inline size_t outputs_size(const Operand *a) {
    size_t groups = ((size_t)a->n_tok + GROUP_TOKENS - 1) / GROUP_TOKENS;
    return groups * GROUP_TOKENS * PANEL_ROWS;
}

/* The cache holds the keys of one KV head, and its values, in blocks of KV_BLOCK positions, made of
 * lines; vs = D rounded up to 16:
 *   int16  keys    D lines    lines 2r, 2r + 1: position n's key[2r], key[2r+1] are words 2n, 2n+1
 *                  2 lines    float scale[32]
 *          values  vs lines   column c of positions 2r, 2r+1: words 2 (c % 16), 2 (c % 16) + 1 of
 *                             line values_line(c) + r values_step(vs, c); zero behind D
 *                  2 lines    float scale[32]
 *   f32    keys    2 D lines  lines 2d, 2d + 1: position n's key[d] is float n
 *          values  2 vs lines (32, vs), zero behind D
 * What lies behind the last position may be anything. */
static inline size_t kv_columns(uint32_t head_dim) { return ((size_t)head_dim + 15) / 16 * 16; }
static inline size_t keys_bytes(uint32_t head_dim, bool f32) {
    return LINE_BYTES * (size_t)(f32 ? 2 * head_dim : head_dim + 2);
}
static inline size_t values_bytes(uint32_t head_dim, bool f32) {
    return LINE_BYTES * (f32 ? 2 * kv_columns(head_dim) : kv_columns(head_dim) + 2);
}
/* Two lines of 16 columns lie side by side, so that they can be read as one stream; the last one
 * may be alone. */
static inline size_t values_line(size_t c) { return c / 32 * 32 + c / 16 % 2; }
static inline size_t values_step(size_t columns, size_t c) {
    return c / 32 * 32 + 32 <= columns ? 2 : 1;
}

/* What attention found in a part of the context for some rows: a row is one query head of one
 * token, and e[j] = exp(its score with key j - max). */
typedef struct {
    float *max, *sum; /* (rows) the largest score; the sum of e */
    float *out;       /* (rows, vs) the sum of e[j] v[j] */
} Found;

/* The G heads that share a KV head, of T tokens of one sequence that follow each other, against
 * ATTEND_KEYS keys or fewer. What comes out for a row is the same for any G and T. */
typedef struct {
    uint32_t head_dim;
    uint32_t n_heads, n_tok; /* G; T: G T <= ATTEND_ROWS */
    uint32_t first;          /* position of the first key: a multiple of ATTEND_KEYS */
    uint32_t pos;            /* position of the first token: it sees no key behind it */
    const float *q;          /* (T, q_stride): G heads of D each, rotated and scaled by 1/sqrt(D) */
    size_t q_stride;
    const uint8_t *k, *v; /* the blocks of the first key and value */
    void *scratch;        /* ATTEND_BYTES, 64-byte aligned */
    Found to;             /* (T, G) rows; those that see nothing: max -infinity, sum and out 0 */
} Attend;

/* The same against all keys that the tokens see. */
typedef struct {
    uint32_t head_dim; /* a multiple of 32 */
    uint32_t n_heads, n_tok;
    uint32_t pos;
    const float *q;
    size_t q_stride;
    const uint8_t *k, *v; /* the first blocks; int16 */
    void *scratch;
    float *out; /* (T, out_stride): G heads of D each */
    size_t out_stride;
} PromptAttend;

/* Columns k .. k + cols - 1 of tokens t .. t + n_tok - 1: 16 columns lie side by side, those of
 * token t + i from column k + 16 j on at x + i * x_stride + j * x_apart. k is a multiple of 32, and
 * so is cols, unless they are the last ones. */
typedef struct {
    uint32_t t, n_tok, k, cols;
    const float *x;
    size_t x_stride, x_apart;
} Piece;

typedef struct {
    const char *name; /* "scalar", "avx2", "avxvnni", "avx512", "amx", "neon", "i8mm" */

    /* Fill q, d, dq and sum of a with a piece. Per block: amax = largest |x| (compared as integers,
     * so NaN and infinity win); not finite: d = NaN, q = 0; amax = 0: d = 0, q = 0; else d = amax /
     * 127, q = x * (127 / amax) rounded to nearest, ties to even. With the last columns come the
     * zeros behind them. */
    void (*quantize)(const Operand *a, const Piece *x);

    /* Rows times tokens: row n of panel i times token t goes to y[i * outputs_size(a) + t * 16 +
     * n]. There is room for an even number of panels; what lies behind the last token and the last
     * panel may be overwritten. By type, acc starting at 0, k ascending:
     *   f32 f16 bf16  acc = fma(w, x, acc) for each k
     *   q8 q5_0 q4_0  acc = fma(dw * d, (float)isum, acc) per block; isum = sum q_w q
     *                 (q5_0: q_w - 16, q4_0: q_w - 8)
     *   q5_1          the same with unsigned codes, then acc = fma(mw, dq, acc), per block
     *   q5 q4         per 256: s = 0, m = 0; per block s = fma(d, (float)(sc * isum), s),
     *                 m = fma((float)min, dq, m); then acc = fma(dw, s, acc),
     *                 acc = fma(-dmin, m, acc)
     *   q6            per 256: s = 0; per block s = fma(d, (float)(sc0 isum0 + sc1 isum1), s),
     *                 codes minus 32; then acc = fma(dw, s, acc) */
    void (*matmul[N_TYPES])(const Panels *w, const Operand *a, float *y);

    /* For tokens of a prompt, where a matrix unit is faster and more precise with bf16 than with
     * int8; NULL where there is none. They give the same bits for any number of tokens and any
     * split, but not those of other tables. round fills b with a piece, round_gated with silu(x)
     * up, to 2^-12 of it before it is rounded, up lying as x does. prompt_matmul takes w rounded to
     * bf16 (to within a unit of its last place, or 2^-20 of the largest w of the row's 32 columns)
     * times b, with float sums. */
    void (*round)(const Operand *a, const Piece *x);
    void (*round_gated)(const Operand *a, const Piece *x, const float *up);
    void (*prompt_matmul[N_TYPES])(const Panels *w, const Operand *a, float *y);
    /* Likewise, if `round` is there: out = sum over j of e[j] v[j] / sum of e[j]; q k to about
     * 2^-16 of its terms, e and v rounded to bf16. */
    void (*prompt_attend)(const PromptAttend *a);

    /* [0]: int16 keys and values, [1]: f32.
     * [1]: score[j] = fma over d ascending of q[d] k[j][d]; max exact; e[j] = exp16(score[j] -
     * max); sum over lanes (key j in lane j % 16); out[d] = fma over j ascending of e[j] v[j][d].
     * [0]: q becomes words() first. Sums of products of int16 are exact; score[j] = (float)sum *
     * (k's scale * q's scale). For WORD_KEYS keys at a time e[j] is taken against the part's own
     * maximum; the weights e[j] * v's scale become int16 as words() does, but by their sum (over
     * lanes) instead of their norm, which bounds their products with values likewise. The part is
     * joined to those before it as by join(), where fma takes (float)sum, and that sum of weights /
     * 32767 * exp16(b.max - m). */
    void (*attend[2])(const Attend *a);
    /* Join what was found further on to what was found before, n rows of each: with m the larger
     * max, a.sum = a.sum * exp16(a.max - m) + b.sum * exp16(b.max - m), a.max = m, and a.out =
     * fma(b.out, exp16(b.max - m), a.out * exp16(a.max - m)). a has seen a key. */
    void (*join)(const Found *a, const Found *b, uint32_t n, uint32_t head_dim);
    /* x (n) as int16 w (n, and room up to a multiple of 16) times the scale that it returns: norm
     * / 32767, where norm = sqrtf(sum over lanes of squares, by fma); w = x * (32767 / norm) to
     * the nearest, ties to even. So no w passes 2^15, and no sum of products of two such vectors
     * 2^30 by more than rounding adds (Cauchy and Schwarz). Not all finite: the scale is NaN or
     * infinite. */
    float (*words)(int16_t *w, const float *x, uint32_t n);

    /* y = x * (1 / sqrtf(mean(x^2) + eps)) * w: squares by fma into lanes; (n). */
    void (*rmsnorm)(float *y, const float *x, const float *w, uint32_t n, float eps);
    /* Rotate pairs (i, i + D/2) of each head: x (n_heads, D); cos, sin (D/2). Products rounded. */
    void (*rope)(float *x, uint32_t n_heads, uint32_t head_dim, const float *cos, const float *sin);
    /* g = g / (1 + exp16(-g)) * u; (n) */
    void (*silu_mul)(float *g, const float *u, uint32_t n);
    void (*add)(float *x, const float *y, uint32_t n); /* x += y */

    /* Largest element; false when any element is NaN or infinite. n >= 1. */
    bool (*max_finite)(const float *x, uint32_t n, float *max);
    /* x = exp16((x - max) * scale); returns their sum over lanes. (n) */
    float (*exp_sum)(float *x, uint32_t n, float max, float scale);

    /* Reads bytes (a multiple of 64) from p with four streams and returns something that depends on
     * all of them: the memory's own speed, which matmul is measured against. */
    uint64_t (*read_all)(const void *p, size_t bytes);
    /* Does rounds * DOT_ROUND_OPS multiplications and additions as tokens of a prompt need them,
     * but has its weights at hand: the processor's own speed, which they are measured against.
     * Returns how many it did; of int8 as the sum that they make shows. rounds <= 2^15. */
    uint64_t (*dot_all)(uint32_t rounds);
} Kernels;

/* The table for this CPU, or the one called `name` (NULL: the best). Fails, naming what is missing,
 * when the name is unknown or this CPU or its system lacks a feature that the table needs. */
const Kernels *kernels_select(const char *name, Error *e);
/* The tables that this CPU can run, best first; NULL behind the last: for tests and --version. */
const Kernels *kernels_available(uint32_t index);

/* How far ahead of itself, in bytes of each panel, matmul of few tokens should fetch weights into
 * the second-level cache of this processor. (On a Zen 4 a third of the speed is lost from about
 * 2 KiB on; a Zen 5 and an Intel with AMX want to be farther ahead. docs/speed.md.) Any value gives
 * the same results. */
uint32_t kernels_fetch_ahead(void);

/* e^x as every kernel computes it: for x in [-87.3, 88.7] within 2 units in the last place; 0
 * below, infinity above, NaN for NaN. For tests: it costs as much as sixteen in a table do. */
float exp16_scalar(float x);

#endif
