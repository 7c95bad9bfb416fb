/* test_kernels.c: every kernel of every table that this CPU can run.
 *
 * Three comparisons. (1) The scalar table against `plain_...` functions, which restate the contract
 * of kernels.h in loops over single elements: the same bits. (2) Those against float64, with a
 * tolerance, so that the contract itself means what it should; weights come from model.h's
 * panel_weight. (3) Every other table against the scalar one: the same bits. Where a result is NaN,
 * any NaN will do: which of several NaNs comes through an operation is not defined. */
#include "kernels/kernels.h"
#include "test.h"

#include <math.h>

static uint64_t seed = 1;

static float random_float(void) { /* -1 .. 1 */
    return (float)((double)(int64_t)test_random(&seed) * 0x1p-63);
}

static void *make(size_t n, size_t size) { /* exact, so that ASan sees the byte behind it */
    void *p = calloc(n ? n : 1, size);
    if (p == NULL) {
        fprintf(stderr, "test_kernels: out of memory\n");
        exit(1);
    }
    return p;
}

/* Index of the first element that differs, or n. */
static size_t differs(const float *a, const float *b, size_t n) {
    for (size_t i = 0; i < n; i++) {
        if (isnan(a[i]) && isnan(b[i])) continue;
        if (bits_from_float(a[i]) != bits_from_float(b[i])) return i;
    }
    return n;
}

#define CHECK_SAME(a, b, n, ...)                                                                   \
    do {                                                                                           \
        size_t at_ = differs(a, b, n);                                                             \
        char what_[160];                                                                           \
        snprintf(what_, sizeof what_, __VA_ARGS__);                                                \
        CHECK(at_ == (n), "%s: element %zu is %a, expected %a", what_, at_,                        \
              (double)(at_ < (n) ? (a)[at_] : 0), (double)(at_ < (n) ? (b)[at_] : 0));             \
    } while (0)

/* ---- Inputs ---------------------------------------------------------------------------------- */

typedef enum { RANDOM, ZERO, LARGEST, LOWEST, N_KINDS } Kind;

/* n f16 numbers of sane size at p. */
static void put_scales(uint8_t *p, size_t n, Kind kind) {
    for (size_t i = 0; i < n; i++) {
        uint16_t h = f16_from_f32(kind == ZERO ? 0 : 0.02f * random_float());
        memcpy(p + 2 * i, &h, sizeof h);
    }
}

/* Types with super-blocks of scales and mins. */
static bool has_mins(Type t) { return t == TYPE_Q4 || t == TYPE_Q5; }

/* The f16 scales of a panel; everything else in it may be any bytes. */
static void put_panel_scales(Type t, size_t cols, uint8_t *panel, Kind kind) {
    const TypeInfo *info = type_info(t);
    size_t units = (cols + info->unit - 1) / info->unit, size = (size_t)info->lines * LINE_BYTES;
    uint8_t *first = panel + panel_head_lines(t, cols) * LINE_BYTES;
    if (t == TYPE_Q6) put_scales(panel, cols / 256 * 16, kind);
    for (size_t u = 0; u < units; u++) {
        uint8_t *p = first + u * size;
        size_t n = cols - u * info->unit > 32 ? 32 : 16; /* the last unit may be half */
        if (info->block == 32) put_scales(p, n, kind);
        if (t == TYPE_Q5_1) put_scales(p + LINE_BYTES, n, kind);
        if (has_mins(t)) put_scales(p + size - LINE_BYTES, 32, kind);
    }
}

/* A float, f16 or bf16 weight for each element; in place of scales. */
static void put_floats(Type t, uint8_t *p, size_t bytes, Kind kind) {
    for (size_t i = 0; i < bytes; i += t == TYPE_F32 ? 4 : 2) {
        float f = kind == ZERO ? 0 : random_float();
        uint16_t h = t == TYPE_F16 ? f16_from_f32(f) : bf16_from_f32(f);
        if (t == TYPE_F32)
            memcpy(p + i, &f, 4);
        else
            memcpy(p + i, &h, 2);
    }
}

static int is_plain(Type t) { return t == TYPE_F32 || t == TYPE_F16 || t == TYPE_BF16; }

static Mat make_matrix(Type t, uint32_t rows, uint32_t cols, Kind kind) {
    size_t bytes = matrix_bytes(t, rows, cols), panel = panel_bytes(t, cols);
    uint8_t *p = make(bytes, 1);
    static const uint8_t fill[N_KINDS] = {0, 0, 0x7f, 0x80};
    if (is_plain(t))
        put_floats(t, p, bytes, kind);
    else
        for (size_t i = 0; i < bytes; i++)
            p[i] = kind == RANDOM                   ? (uint8_t)test_random(&seed)
                   : kind == LOWEST && t != TYPE_Q8 ? 0xff
                                                    : fill[kind];
    for (size_t i = 0; i < bytes && !is_plain(t); i += panel)
        put_panel_scales(t, cols, p + i, kind);
    return (Mat){t, rows, cols, p};
}

typedef struct {
    Operand a;
    float *x;
} Input;

static Input make_input(const float *x, uint32_t n_tok, uint32_t cols, size_t stride) {
    size_t kp = ((size_t)cols + 63) / 64 * 64, n = n_tok;
    Input in = {{.n_tok = n_tok,
                 .cols = cols,
                 .x_stride = stride,
                 .q = make(n * kp, 1),
                 .d = make(n * kp / 32, 4),
                 .dq = make(n * kp / 32, 4),
                 .sum = make(n * kp / 16, 4)},
                make(n * stride, 4)};
    memcpy(in.x, x, n * stride * sizeof *x);
    in.a.x = in.x;
    return in;
}

static void free_input(Input *in) {
    free(in->a.q);
    free(in->a.d);
    free(in->a.dq);
    free(in->a.sum);
    free(in->x);
}

static Piece all_of(const Operand *a) {
    return (Piece){0, a->n_tok, 0, a->cols, a->x, a->x_stride, 16};
}

static void quantize_all(const Kernels *k, const Operand *a) {
    const Piece all = all_of(a);
    k->quantize(a, &all);
}

static float *make_floats(size_t n, Kind kind) {
    float *x = make(n, sizeof *x);
    for (size_t i = 0; i < n; i++)
        x[i] = kind == ZERO ? 0 : kind == RANDOM ? 3 * random_float() : i % 3 == 0 ? -1.0f : 1.0f;
    return x;
}

/* ---- quantize -------------------------------------------------------------------------------- */

/* The contract, for block b of token t. */
static void plain_quantize(const float *x, size_t n, int8_t q[32], float *d, float *dq,
                           int32_t sum[2]) {
    uint32_t top = 0;
    memset(q, 0, 32);
    sum[0] = sum[1] = 0;
    for (size_t k = 0; k < n; k++) {
        uint32_t bits = bits_from_float(x[k]) & 0x7fffffff;
        if (bits > top) top = bits;
    }
    *d = *dq = top == 0 ? 0 : NAN;
    if (top == 0 || top >= 0x7f800000) return;
    float amax = float_from_bits(top), factor = 127 / amax;
    for (size_t k = 0; k < n; k++) {
        float scaled = x[k] * factor;
        q[k] = isfinite(scaled) ? (int8_t)lrintf(scaled) : 0;
        sum[k / 16] += q[k];
    }
    *d = amax / 127;
    *dq = *d * (float)(sum[0] + sum[1]);
}

static void check_quantize_plain(const Operand *a) {
    size_t blocks = ((size_t)a->cols + 63) / 64 * 2;
    for (size_t t = 0; t < a->n_tok; t++) {
        size_t first = t / 16 * 16, n = min_size(a->n_tok - first, 16), wrong = 0;
        for (size_t b = 0; b < blocks; b++) {
            int8_t q[32];
            float d, dq;
            int32_t sum[2];
            size_t at = first * blocks + b * n + t - first;
            size_t left = a->cols - min_size(a->cols, 32 * b);
            const int32_t *s = a->sum + first * blocks * 2 + 2 * b * n + t - first;
            plain_quantize(a->x + t * a->x_stride + 32 * b, min_size(left, 32), q, &d, &dq, sum);
            wrong += memcmp(q, a->q + at * 32, 32) != 0 || differs(&d, a->d + at, 1) == 0;
            wrong += differs(&dq, a->dq + at, 1) == 0 || s[0] != sum[0] || s[n] != sum[1];
        }
        CHECK(wrong == 0, "quantize, scalar: cols %u, token %zu: %zu blocks differ", a->cols, t,
              wrong);
    }
}

/* Values that quantizing has to get right, over a row of random ones. */
static void plant(float *x, size_t n, int what) {
    const float values[] = {NAN, INFINITY, -INFINITY, 1e-40f, 0x1p-149f, 3.4e38f, -0.0f, 4e-37f};
    for (size_t i = 0; i < n; i++)
        if (what == 1 && i % 37 == 0)
            x[i] = values[i / 37 % 8];
        else if (what == 2)
            x[i] = 1e-39f * x[i]; /* subnormal: the factor overflows */
        else if (what == 3)
            x[i] = (float)((int)(i % 255) - 127) + (i % 2 ? 0.5f : 0); /* ties */
}

/* Pieces of 32 and of 96 columns, whose sixteens lie in panels as matmul() leaves them, of some of
 * the tokens: together they fill the operand as its rows do. `fill`: quantize or round. */
static void fill_by_pieces(void (*fill)(const Operand *, const Piece *), const Operand *a) {
    for (uint32_t k = 0, cols; k < a->cols; k += cols) {
        cols = (uint32_t)min_size(k % 128 ? 96 : 32, a->cols - k);
        for (uint32_t t = 0, n; t < a->n_tok; t += n) {
            n = (uint32_t)min_size(t ? 20 : 7, a->n_tok - t);
            size_t apart = (size_t)n * 16, panels = (cols + 15) / 16;
            float *x = make(panels * apart, sizeof *x);
            for (size_t i = 0; i < n; i++)
                for (size_t c = 0; c < cols; c++)
                    x[c / 16 * apart + i * 16 + c % 16] = a->x[(t + i) * a->x_stride + k + c];
            const Piece piece = {t, n, k, cols, x, 16, apart};
            fill(a, &piece);
            free(x);
        }
    }
}

static void test_quantize(const Kernels *ref, const Kernels *k) {
    const uint32_t cols[] = {32, 64, 96, 160, 256, 100, 1, 17, 896};
    const uint32_t toks[] = {1, 2, 15, 16, 17, 33};
    for (size_t c = 0; c < 9; c++) {
        for (size_t n = 0; n < 6; n++) {
            size_t stride = cols[c] + 3, all = toks[n] * stride;
            float *x = make_floats(all, n == 2 ? ZERO : RANDOM);
            plant(x, all, (int)(n + c) % 4);
            Input a = make_input(x, toks[n], cols[c], stride);
            Input b = make_input(x, toks[n], cols[c], stride);
            size_t kp = (cols[c] + 63) / 64 * 64 * (size_t)toks[n];
            quantize_all(ref, &a.a);
            if ((n + c) % 2)
                quantize_all(k, &b.a);
            else
                fill_by_pieces(k->quantize, &b.a);
            if (ref == k) check_quantize_plain(&a.a);
            CHECK(memcmp(a.a.q, b.a.q, kp) == 0, "quantize q, %s: cols %u", k->name, cols[c]);
            CHECK(memcmp(a.a.sum, b.a.sum, kp / 4) == 0, "quantize sum, %s", k->name);
            CHECK_SAME(b.a.d, a.a.d, kp / 32, "quantize d, %s", k->name);
            CHECK_SAME(b.a.dq, a.a.dq, kp / 32, "quantize dq, %s", k->name);
            free_input(&a);
            free_input(&b);
            free(x);
        }
    }
}

/* ---- matmul ---------------------------------------------------------------------------------- */

/* Code and scales of a weight, as model.h stores them. */
typedef struct {
    int code, sc, min;
    float d, m;
} Weight;

static Weight weight_at(const Mat *w, const uint8_t *panel, size_t n, size_t k) {
    const TypeInfo *info = type_info(w->type);
    size_t u = k % info->unit, b = u / 32;
    const uint8_t *p = panel + panel_head_lines(w->type, w->cols) * LINE_BYTES +
                       k / info->unit * info->lines * LINE_BYTES;
    const uint8_t *codes = p + (info->scales + b * info->codes) * LINE_BYTES;
    Weight r = {.d = f16_to_f32(load_u16(p + 2 * (16 * b + n)))}; /* of types in blocks of 32 */
    if (w->type == TYPE_Q8) {
        r.code = (int8_t)codes[u % 32 / 4 * 64 + 4 * n + u % 4];
    } else if (w->type == TYPE_Q6) {
        r.code = (int)panel_code(w->type, codes, n, u % 32) - 32;
        r.sc = (int8_t)p[u / 16 * 16 + n];
        r.d = f16_to_f32(load_u16(panel + 2 * (k / 256 * 16 + n)));
    } else {
        r.code = (int)panel_code(w->type, codes, n, u % 32);
        r.code -= w->type == TYPE_Q4_0 ? 8 : w->type == TYPE_Q5_0 ? 16 : 0;
    }
    if (w->type == TYPE_Q5_1) r.m = f16_to_f32(load_u16(p + 64 + 2 * (16 * b + n)));
    if (has_mins(w->type)) {
        const uint8_t *last = p + (info->lines - 1) * LINE_BYTES + 2 * n;
        int high = p[8 * b + n / 2] >> (n % 2 * 4) & 15, low = p[64 + 16 * b + n];
        r.sc = (low & 15) | (high & 3) << 4;
        r.min = low >> 4 | (high >> 2) << 4;
        r.d = f16_to_f32(load_u16(last));
        r.m = f16_to_f32(load_u16(last + 32));
    }
    return r;
}

/* One output of a block format, in the words of kernels.h. */
static float plain_dot(const Mat *w, size_t row, const Operand *a, size_t t) {
    const uint8_t *panel = w->data + row / 16 * panel_bytes(w->type, w->cols);
    size_t first = t / 16 * 16, n = min_size(a->n_tok - first, 16);
    size_t blocks = ((size_t)a->cols + 63) / 64 * 2;
    float acc = 0, s = 0, m = 0;
    for (size_t b = 0; b < w->cols / 32; b++) {
        size_t at = first * blocks + b * n + t - first;
        int isum = 0, scaled = 0;
        Weight v = {0};
        for (size_t k = 0; k < 32; k++) {
            v = weight_at(w, panel, row % 16, 32 * b + k);
            isum += v.code * a->q[at * 32 + k];
            scaled += v.sc * v.code * a->q[at * 32 + k];
        }
        if (type_info(w->type)->block == 256) {
            s = fmaf(a->d[at], (float)scaled, s);
            m = fmaf((float)v.min, a->dq[at], m);
            if (b % 8 < 7) continue;
            acc = fmaf(v.d, s, acc);
            if (has_mins(w->type)) acc = fmaf(-v.m, m, acc);
            s = m = 0;
            continue;
        }
        acc = fmaf(v.d * a->d[at], (float)isum, acc);
        if (w->type == TYPE_Q5_1) acc = fmaf(v.m, a->dq[at], acc);
    }
    return acc;
}

/* The same output in float64 from panel_weight and the dequantized input, and its error scale. */
static double exact_dot(const Mat *w, size_t row, const Operand *a, size_t t, double *scale) {
    const uint8_t *panel = w->data + row / 16 * panel_bytes(w->type, w->cols);
    size_t first = t / 16 * 16, n = min_size(a->n_tok - first, 16);
    size_t blocks = ((size_t)a->cols + 63) / 64 * 2;
    double sum = 0;
    *scale = 1e-30;
    for (size_t k = 0; k < w->cols; k++) {
        size_t at = first * blocks + k / 32 * n + t - first;
        double x = is_plain(w->type) ? (double)a->x[t * a->x_stride + k]
                                     : (double)a->d[at] * a->q[at * 32 + k % 32];
        double product = x * (double)panel_weight(w->type, w->cols, panel, row % 16, k);
        sum += product;
        *scale += fabs(product);
    }
    return sum;
}

static void check_matmul_plain(const Mat *w, const Operand *a, const float *y, size_t stride) {
    size_t wrong = 0, far_off = 0;
    for (size_t t = 0; t < a->n_tok; t++) {
        for (size_t row = 0; row < w->rows; row++) {
            float got = y[t * stride + row], want = 0;
            double scale, exact = exact_dot(w, row, a, t, &scale);
            const uint8_t *panel = w->data + row / 16 * panel_bytes(w->type, w->cols);
            if (is_plain(w->type))
                for (size_t k = 0; k < w->cols; k++)
                    want = fmaf(panel_weight(w->type, w->cols, panel, row % 16, k),
                                a->x[t * a->x_stride + k], want);
            else
                want = plain_dot(w, row, a, t);
            wrong += differs(&got, &want, 1) == 0;
            /* q5 and q5_1 subtract two large sums: their terms are larger than their products */
            if (isfinite(exact))
                far_off += !(fabs(exact - (double)got) <= 1e-4 * scale + 1e-4);
            else
                far_off += isfinite(got) ? 1 : 0;
        }
    }
    CHECK(wrong == 0, "matmul %s, scalar: cols %u, %u tokens: %zu outputs differ from the contract",
          type_info(w->type)->name, w->cols, a->n_tok, wrong);
    CHECK(far_off == 0, "matmul %s, scalar: cols %u, %u tokens: %zu outputs far from float64",
          type_info(w->type)->name, w->cols, a->n_tok, far_off);
}

/* One call, for panels first + i / 2 * next + i % 2 * apart, i < n; to y (T, stride). */
static void multiply(void (*matmul)(const Panels *, const Operand *, float *), const Mat *w,
                     size_t first, size_t apart, size_t next, uint32_t n, const Operand *a,
                     float *y, size_t stride) {
    size_t each = outputs_size(a), room = (n + 1) / 2 * 2 * each;
    float *out = make(room, sizeof *out);
    Panels panels = matrix_panels(w, first, apart, next, n);
    for (size_t i = 0; i < room; i++) out[i] = 54321; /* it is not to be added to */
    matmul(&panels, a, out);
    for (size_t i = 0; i < n; i++)
        for (size_t t = 0; t < a->n_tok; t++)
            memcpy(y + t * stride + (first + i / 2 * next + i % 2 * apart) * 16,
                   out + i * each + t * 16, 16 * sizeof *y);
    free(out);
}

/* All panels in one call. */
static void multiply_all(void (*matmul)(const Panels *, const Operand *, float *), const Mat *w,
                         const Operand *a, float *y, size_t stride) {
    multiply(matmul, w, 0, 1, 2, (w->rows + 15) / 16, a, y, stride);
}

/* Each token alone gives the bits that it gave among the others. */
static void check_tokens_alone(const Kernels *k, const Mat *w, const Operand *a, const float *y,
                               size_t stride) {
    float *one = make(stride, sizeof *one);
    for (uint32_t t = 0; t < a->n_tok; t++) {
        Input in = make_input(a->x + t * a->x_stride, 1, a->cols, a->x_stride);
        quantize_all(k, &in.a);
        multiply_all(k->matmul[w->type], w, &in.a, one, stride);
        CHECK_SAME(one, y + t * stride, w->rows, "matmul %s, %s: token %u of %u alone",
                   type_info(w->type)->name, k->name, t, a->n_tok);
        free_input(&in);
    }
    free(one);
}

static void one_matmul(const Kernels *ref, const Kernels *k, const Mat *w, uint32_t n_tok,
                       int bad) {
    size_t xs = w->cols + 5, panels = (w->rows + 15) / 16, ys = 16 * panels + 16;
    float *x = make_floats(n_tok * xs, n_tok == 5 ? LARGEST : RANDOM);
    if (bad) x[(n_tok - 1) * xs + w->cols / 2] = bad == 1 ? NAN : INFINITY;
    Input in = make_input(x, n_tok, w->cols, xs);
    float *got = make(n_tok * ys, 4), *want = make(n_tok * ys, 4);
    quantize_all(ref, &in.a);
    for (size_t i = 0; i < n_tok * ys; i++) got[i] = want[i] = 12345;
    multiply_all(ref->matmul[w->type], w, &in.a, want, ys);
    /* two pairs from both halves, as units of work take them; the last panel may be alone */
    size_t half = (panels + 1) / 2;
    for (size_t u = 0; u < half; u += 2) {
        uint32_t pairs = (uint32_t)min_size(half - u, 2);
        uint32_t n = pairs + (uint32_t)min_size(panels - half - u, pairs);
        multiply(k->matmul[w->type], w, u, half, 1, n, &in.a, got, ys);
    }
    CHECK_SAME(got, want, n_tok * ys, "matmul %s, %s: %u x %u, %u tokens", type_info(w->type)->name,
               k->name, w->rows, w->cols, n_tok);
    if (ref == k) check_matmul_plain(w, &in.a, want, ys);
    if (n_tok == 33 || n_tok == 3) check_tokens_alone(k, w, &in.a, want, ys);
    free(got);
    free(want);
    free_input(&in);
    free(x);
}

static void test_matmul(const Kernels *ref, const Kernels *k) {
    const uint32_t toks[] = {1, 2, 3, 5, 8, 15, 16, 17, 33};
    const uint32_t rows[] = {64, 80, 40, 112, 176};
    const uint32_t cols[3][6] = {
        {32, 96, 160, 256, 896, 288}, {256, 512, 768, 1280, 256, 512}, {1, 2, 7, 33, 64, 130}};
    for (int type = 0; type < N_TYPES; type++) {
        Type t = (Type)type;
        const uint32_t *c = cols[is_plain(t) ? 2 : type_info(t)->block == 256];
        for (size_t i = 0; i < 6; i++) {
            for (size_t n = 0; n < 9; n++) {
                Kind kind = (Kind)((i + n) % 7 < 4 ? (i + n) % 7 : 0);
                Mat w = make_matrix(t, rows[(i + n) % 5], c[i], kind);
                one_matmul(ref, k, &w, toks[n], (int)((i + 2 * n) % 5));
                free((void *)(uintptr_t)w.data);
            }
        }
    }
}

/* ---- prompt_matmul --------------------------------------------------------------------------- */

/* Column c of token t. */
static uint16_t tile_bits(const Operand *a, size_t t, size_t c) {
    const size_t blocks = ((size_t)a->cols + 31) / 32, groups = ((size_t)a->n_tok + 15) / 16;
    const size_t piece = PROMPT_COLS / 32, b = c / 32, first = b / piece * piece;
    size_t tile = first * groups + t / 16 * min_size(blocks - first, piece) + b % piece;
    return a->b[tile * 512 + t % 16 * 32 + c % 32];
}

/* Every number of the tiles is the input's, rounded, and zero behind the last column. Returns an
 * Input with these numbers, for exact_dot. */
static Input rounded_input(const Kernels *k, Input *in) {
    const Operand *a = &in->a;
    size_t blocks = ((size_t)a->cols + 31) / 32, groups = ((size_t)a->n_tok + 15) / 16, wrong = 0;
    const Piece all = all_of(a);
    Input to = make_input(in->x, a->n_tok, a->cols, a->x_stride);
    in->a.b = make(groups * 16 * blocks * 32, 2);
    for (size_t i = 0; i < groups * 16 * blocks * 32; i++) in->a.b[i] = 0x7fc0;
    if (a->n_tok % 2)
        fill_by_pieces(k->round, a);
    else
        k->round(a, &all);
    for (size_t t = 0; t < a->n_tok; t++) {
        for (size_t c = 0; c < blocks * 32; c++) {
            uint16_t got = tile_bits(a, t, c);
            float x = c < a->cols ? a->x[t * a->x_stride + c] : 0, value;
            value = float_from_bits((uint32_t)got << 16);
            if (c < a->cols) to.x[t * a->x_stride + c] = value;
            if (isnan(x))
                wrong += isnan(value) ? 0 : 1;
            else if (fabsf(x) < 0x1p-126f)
                wrong += value != 0;
            else
                wrong += got != bf16_from_f32(x);
        }
    }
    CHECK(wrong == 0, "round, %s: cols %u, %u tokens: %zu numbers differ", k->name, a->cols,
          a->n_tok, wrong);
    return to;
}

/* Tiles of silu(x) up, with x of all sizes, against float64. */
static void test_round_gated(const Kernels *k) {
    enum { COLS = 2 * PROMPT_COLS + 80, TOKENS = 37, ALL = COLS * TOKENS };
    float *x = make_floats(ALL, RANDOM), *up = make_floats(ALL, RANDOM);
    for (size_t i = 0; i < ALL; i += 2) x[i] = (float)((double)i / ALL * 400 - 200);
    Operand a = {.n_tok = TOKENS, .cols = COLS, .x = x, .x_stride = COLS};
    a.b = make((size_t)(TOKENS + 15) / 16 * 16 * (COLS + 31), 2);
    const Piece all = all_of(&a);
    k->round_gated(&a, &all, up);
    size_t wrong = 0;
    for (size_t i = 0; i < ALL; i++) {
        double g = (double)x[i], want = g / (1 + exp(-g)) * (double)up[i];
        double got = (double)float_from_bits((uint32_t)tile_bits(&a, i / COLS, i % COLS) << 16);
        if (!(fabs(got - want) <= (0x1p-8 + 0x1p-12) * fabs(want) + 1e-34)) wrong++;
    }
    for (size_t t = 0; t < TOKENS; t++)
        for (size_t c = COLS; c % 32 != 0; c++) wrong += tile_bits(&a, t, c) != 0;
    CHECK(wrong == 0, "round_gated, %s: %zu numbers differ", k->name, wrong);
    free(a.b);
    free(up);
    free(x);
}

static double matrix_weight(const Mat *w, size_t row, size_t col) {
    const uint8_t *panel = w->data + row / 16 * panel_bytes(w->type, w->cols);
    return (double)panel_weight(w->type, w->cols, panel, row % 16, col);
}

/* Far from the product in float64 of the rounded input and weights known to 8 bits? */
static void check_prompt_exact(const Kernels *k, const Mat *w, const Operand *a, const float *y,
                               size_t stride) {
    size_t far_off = 0;
    for (size_t t = 0; t < a->n_tok; t++) {
        for (size_t row = 0; row < w->rows; row++) {
            double squares = 0, exact = 0, got = (double)y[t * stride + row];
            for (size_t c = 0; c < w->cols; c++) {
                double p = (double)a->x[t * a->x_stride + c] * matrix_weight(w, row, c);
                exact += p;
                squares += p * p;
            }
            /* errors of up to 2^-7, mean 0 to within a quarter of that, add up like noise */
            double most = 0x1p-7 * (4 * sqrt(squares) + 0.25 * fabs(exact)) + 1e-6;
            if (!isfinite(exact) ? isfinite(got) : !(fabs(got - exact) <= most)) far_off++;
        }
    }
    CHECK(far_off == 0, "prompt_matmul %s, %s: %u x %u, %u tokens: %zu outputs far from float64",
          type_info(w->type)->name, k->name, w->rows, w->cols, a->n_tok, far_off);
}

/* All panels at once, and one by one, and each token alone: the same bits. */
static void one_prompt(const Kernels *k, const Mat *w, uint32_t n_tok, int bad) {
    size_t xs = w->cols + 5, panels = (w->rows + 15) / 16, ys = 16 * panels + 16;
    float *x = make_floats(n_tok * xs, RANDOM);
    if (bad) x[(n_tok - 1) * xs + w->cols / 2] = bad == 1 ? NAN : INFINITY;
    Input in = make_input(x, n_tok, w->cols, xs), rounded = rounded_input(k, &in);
    float *got = make(n_tok * ys, 4), *want = make(n_tok * ys, 4);
    for (size_t i = 0; i < n_tok * ys; i++) got[i] = want[i] = 12345;
    multiply_all(k->prompt_matmul[w->type], w, &in.a, want, ys);
    check_prompt_exact(k, w, &rounded.a, want, ys);
    for (uint32_t p = 0; p < panels; p++)
        multiply(k->prompt_matmul[w->type], w, p, 1, 1, 1, &in.a, got, ys);
    CHECK_SAME(got, want, n_tok * ys, "prompt_matmul %s, %s: panel by panel",
               type_info(w->type)->name, k->name);
    for (uint32_t t = 0; t < n_tok; t += 7) {
        Input one = make_input(x + t * xs, 1, w->cols, xs), same = rounded_input(k, &one);
        multiply_all(k->prompt_matmul[w->type], w, &one.a, got, ys);
        CHECK_SAME(got, want + t * ys, w->rows, "prompt_matmul %s, %s: token %u of %u alone",
                   type_info(w->type)->name, k->name, t, n_tok);
        free(one.a.b);
        free_input(&one);
        free_input(&same);
    }
    free(got);
    free(want);
    free(in.a.b);
    free_input(&in);
    free_input(&rounded);
    free(x);
}

/* Every weight by itself, as the answer to a single 1: bf16 to within a unit of the last place or
 * 2^-20 of the largest of its block, and neither too large nor too small on average. */
static void test_expansion(const Kernels *k, Type type) {
    enum { COLS = 256, ROWS = 64, TOKENS = 32 };
    Mat w = make_matrix(type, ROWS, COLS, RANDOM);
    float *y = make((size_t)TOKENS * ROWS, 4);
    double all = 0, surplus = 0;
    size_t wrong = 0;
    for (size_t first = 0; first < COLS; first += TOKENS) {
        float *x = make((size_t)TOKENS * COLS, 4);
        for (size_t t = 0; t < TOKENS; t++) x[t * COLS + first + t] = 1;
        Input in = make_input(x, TOKENS, COLS, COLS), rounded = rounded_input(k, &in);
        multiply_all(k->prompt_matmul[type], &w, &in.a, y, ROWS);
        for (size_t i = 0; i < (size_t)TOKENS * ROWS; i++) {
            double want = matrix_weight(&w, i % ROWS, first + i / ROWS), got = (double)y[i],
                   most = 0;
            for (size_t c = first; c < first + TOKENS; c++) /* a block */
                most = fmax(most, fabs(matrix_weight(&w, i % ROWS, c)));
            if (!(fabs(got - want) <= fmax(0x1p-7 * fabs(want), 0x1p-20 * most))) wrong++;
            all += fabs(want);
            surplus += want < 0 ? want - got : got - want;
        }
        free(in.a.b);
        free(x);
        free_input(&in);
        free_input(&rounded);
    }
    CHECK(wrong == 0, "%s as bf16, %s: %zu weights differ", type_info(type)->name, k->name, wrong);
    CHECK(fabs(surplus / all) < 0x1p-11, "%s as bf16, %s: weights are %.2e too large",
          type_info(type)->name, k->name, surplus / all);
    free((void *)(uintptr_t)w.data);
    free(y);
}

static void test_prompt(const Kernels *k) {
    const Type types[] = {TYPE_Q8, TYPE_Q5, TYPE_Q6, TYPE_Q5_0, TYPE_Q5_1, TYPE_Q4, TYPE_Q4_0};
    const uint32_t toks[] = {1, 2, 15, 16, 17, 32, 40, 530};
    const uint32_t cols[2][4] = {{32, 96, 896, 2144}, {256, 512, 1280, 2304}};
    if (k->round == NULL) {
        printf("no prompt_matmul: %s\n", k->name);
        return;
    }
    test_round_gated(k);
    for (size_t t = 0; t < sizeof types / sizeof types[0]; t++) {
        test_expansion(k, types[t]);
        for (size_t n = 0; n < 8; n++) {
            const uint32_t *c = cols[type_info(types[t])->block == 256];
            size_t i = (n + t) % (toks[n] > 32 ? 2 : 4); /* few columns with many tokens */
            if (n == 6) i = 3;
            Mat w = make_matrix(types[t], n % 2 ? 80 : 40, c[i], n == 4 ? LOWEST : RANDOM);
            one_prompt(k, &w, toks[n], (int)(n % 3));
            free((void *)(uintptr_t)w.data);
        }
    }
}

/* ---- attend ---------------------------------------------------------------------------------- */

static float tree_sum(float lane[16]) {
    for (size_t half = 8; half > 0; half /= 2)
        for (size_t i = 0; i < half; i++) lane[i] += lane[i + half];
    return lane[0];
}

static int16_t rounded_word(float x, float factor) {
    return (int16_t)(uint16_t)bits_from_float(fmaf(x, factor, 0x1.8p23f));
}

static float plain_words(int16_t *w, const float *x, size_t n) {
    float lane[16] = {0};
    for (size_t i = 0; i < n; i++) lane[i % 16] = fmaf(x[i], x[i], lane[i % 16]);
    float norm = sqrtf(tree_sum(lane));
    for (size_t i = 0; i < n; i++) w[i] = rounded_word(x[i], norm > 0 ? 32767 / norm : 0);
    return norm / 32767;
}

/* Keys and values of n positions; behind them the blocks are full of NaN. */
typedef struct {
    uint32_t dim;
    bool f32;
    size_t n, keys_size, values_size; /* sizes of a block */
    uint8_t *k, *v;
} Cache;

static void set_float(uint8_t *p, size_t i, float f) { memcpy(p + 4 * i, &f, sizeof f); }
static void set_word(uint8_t *p, size_t i, int16_t w) { memcpy(p + 2 * i, &w, sizeof w); }
static float float_at(const uint8_t *p, size_t i) {
    float f;
    memcpy(&f, p + 4 * i, sizeof f);
    return f;
}
static int16_t word_at(const uint8_t *p, size_t i) {
    int16_t w;
    memcpy(&w, p + 2 * i, sizeof w);
    return w;
}

static uint8_t *key_block(const Cache *c, size_t j) { return c->k + j / 32 * c->keys_size; }
static uint8_t *value_block(const Cache *c, size_t j) { return c->v + j / 32 * c->values_size; }
/* Where a block holds element d of position j: an index of a float or a word. */
static size_t key_index(const Cache *c, size_t j, size_t d) {
    return c->f32 ? 32 * d + j % 32 : d / 2 * 64 + j % 32 * 2 + d % 2;
}
static size_t value_index(const Cache *c, size_t j, size_t d) {
    size_t vs = kv_columns(c->dim), alone = d / 32 == vs / 32; /* 16 columns without neighbours */
    if (c->f32) return j % 32 * vs + d;
    size_t line = d / 32 * 32 + (alone ? j % 32 / 2 : j % 32 / 2 * 2 + d / 16 % 2);
    return line * 32 + d % 16 * 2 + j % 2;
}
/* The scale of an int16 key or value: an index of a float. */
static size_t key_scale(const Cache *c, size_t j) { return (size_t)c->dim * 16 + j % 32; }
static size_t value_scale(const Cache *c, size_t j) { return kv_columns(c->dim) * 16 + j % 32; }

static double cached_key(const Cache *c, size_t j, size_t d) {
    const uint8_t *b = key_block(c, j);
    size_t i = key_index(c, j, d);
    return c->f32 ? (double)float_at(b, i) : word_at(b, i) * (double)float_at(b, key_scale(c, j));
}
static double cached_value(const Cache *c, size_t j, size_t d) {
    const uint8_t *b = value_block(c, j);
    size_t i = value_index(c, j, d);
    return c->f32 ? (double)float_at(b, i) : word_at(b, i) * (double)float_at(b, value_scale(c, j));
}

static void put_key(Cache *c, size_t j, const float *x) {
    int16_t w[MAX_HEAD_DIM];
    if (!c->f32) set_float(key_block(c, j), key_scale(c, j), plain_words(w, x, c->dim));
    for (size_t d = 0; d < c->dim; d++)
        if (c->f32)
            set_float(key_block(c, j), key_index(c, j, d), x[d]);
        else
            set_word(key_block(c, j), key_index(c, j, d), w[d]);
}
static void put_value(Cache *c, size_t j, const float *x) { /* x: zeros behind dim */
    int16_t w[MAX_HEAD_DIM];
    if (!c->f32) set_float(value_block(c, j), value_scale(c, j), plain_words(w, x, c->dim));
    for (size_t d = 0; d < kv_columns(c->dim); d++)
        if (c->f32)
            set_float(value_block(c, j), value_index(c, j, d), x[d]);
        else
            set_word(value_block(c, j), value_index(c, j, d), d < c->dim ? w[d] : 0);
}

static Cache make_cache(uint32_t dim, size_t n, bool f32) {
    size_t blocks = (n + 31) / 32;
    Cache c = {dim, f32, n, keys_bytes(dim, f32), values_bytes(dim, f32), NULL, NULL};
    c.k = make(blocks * c.keys_size, 1);
    c.v = make(blocks * c.values_size, 1);
    memset(c.k, 0xff, blocks * c.keys_size);
    memset(c.v, 0xff, blocks * c.values_size);
    for (size_t j = 0; j < n; j++) {
        float x[MAX_HEAD_DIM] = {0};
        for (size_t d = 0; d < dim; d++) x[d] = 3 * random_float();
        put_key(&c, j, x);
        for (size_t d = 0; d < dim; d++) x[d] = 3 * random_float();
        put_value(&c, j, x);
    }
    return c;
}

static void free_cache(Cache *c) {
    free(c->k);
    free(c->v);
}

/* x = exp16(x - max), all n: sixteen cost as much as exp16_scalar(). (test_exp_sum compares.) */
static void exponentials(float *x, size_t n, float max) {
    const Kernels *scalar = kernels_select("scalar", &(Error){0});
    if (n > 0 && scalar) scalar->exp_sum(x, (uint32_t)n, max, 1);
}

/* One row against keys 0 .. n - 1 of the cache, by the contract. */
static void plain_floats(const Cache *c, const float *q, size_t n, float *max, float *sum,
                         float *out) {
    float s[ATTEND_KEYS], lane[16] = {0};
    *max = -INFINITY;
    for (size_t j = 0; j < n; j++) {
        s[j] = 0;
        for (size_t d = 0; d < c->dim; d++) s[j] = fmaf(q[d], (float)cached_key(c, j, d), s[j]);
        if (s[j] > *max) *max = s[j];
    }
    exponentials(s, n, *max);
    for (size_t j = 0; j < n; j++) lane[j % 16] += s[j];
    *sum = tree_sum(lane);
    for (size_t d = 0; d < kv_columns(c->dim); d++) {
        out[d] = 0;
        for (size_t j = 0; j < n; j++) out[d] = fmaf(s[j], (float)cached_value(c, j, d), out[d]);
    }
}

/* One part of WORD_KEYS keys or fewer from `first` on. */
static void plain_part(const Cache *c, const int16_t *q, float q_scale, size_t first, size_t n,
                       float *max, float *sum, float *out) {
    float s[WORD_KEYS], sums[16] = {0}, totals[16] = {0}, top = -INFINITY;
    int16_t weights[WORD_KEYS];
    for (size_t j = 0; j < n; j++) {
        const uint8_t *b = key_block(c, first + j);
        int32_t dot = 0;
        for (size_t d = 0; d < c->dim; d++) dot += q[d] * word_at(b, key_index(c, first + j, d));
        s[j] = (float)dot * (float_at(b, key_scale(c, first + j)) * q_scale);
        if (s[j] > top) top = s[j];
    }
    exponentials(s, n, top);
    for (size_t j = 0; j < n; j++) {
        sums[j % 16] += s[j];
        s[j] *= float_at(value_block(c, first + j), value_scale(c, first + j));
        totals[j % 16] += s[j];
    }
    float total = tree_sum(totals), m = *max > top ? *max : top;
    float before = exp16_scalar(*max - m), more = exp16_scalar(top - m);
    *max = m;
    *sum = *sum * before + tree_sum(sums) * more;
    for (size_t j = 0; j < n; j++) weights[j] = rounded_word(s[j], total > 0 ? 32767 / total : 0);
    for (size_t d = 0; d < kv_columns(c->dim); d++) {
        int32_t dot = 0;
        for (size_t j = 0; j < n; j++)
            dot += weights[j] * word_at(value_block(c, first + j), value_index(c, first + j, d));
        out[d] = fmaf((float)dot, total / 32767 * more, out[d] * before);
    }
}

static void plain_attend(const Attend *a, const Cache *c, Found to) {
    size_t vs = kv_columns(c->dim);
    for (size_t row = 0; row < (size_t)a->n_tok * a->n_heads; row++) {
        size_t t = row / a->n_heads;
        const float *q = a->q + t * a->q_stride + row % a->n_heads * c->dim;
        float *max = to.max + row, *sum = to.sum + row, *out = to.out + row * vs;
        int16_t w[MAX_HEAD_DIM];
        float scale = plain_words(w, q, c->dim);
        size_t n = a->pos + t + 1 > a->first ? a->pos + t + 1 - a->first : 0;
        if (n > ATTEND_KEYS) n = ATTEND_KEYS;
        if (c->f32) {
            plain_floats(c, q, n, max, sum, out);
            continue;
        }
        *max = -INFINITY;
        *sum = 0;
        memset(out, 0, vs * sizeof *out);
        for (size_t at = 0; at < n; at += WORD_KEYS)
            plain_part(c, w, scale, at, n - at < WORD_KEYS ? n - at : WORD_KEYS, max, sum, out);
    }
}

/* How far a row's result may be from the float64 one because of vectors of 2^15 steps: of the
 * values and their weights, and of q and k in a score; and the result of n keys itself. */
static double row_exact(const Cache *c, const float *q, size_t n, double *out) {
    double *e = make(n, sizeof *e), sum = 0, top = -INFINITY, largest_k = 0, largest_v = 0;
    double q_squares = 0;
    for (size_t j = 0; j < n; j++) {
        double k_squares = 0, v_squares = 0;
        for (size_t d = 0; d < c->dim; d++) {
            e[j] += (double)q[d] * cached_key(c, j, d);
            k_squares += pow(cached_key(c, j, d), 2);
            v_squares += pow(cached_value(c, j, d), 2);
        }
        top = fmax(top, e[j]);
        largest_k = fmax(largest_k, sqrt(k_squares));
        largest_v = fmax(largest_v, sqrt(v_squares));
    }
    for (size_t d = 0; d < c->dim; d++) q_squares += pow((double)q[d], 2), out[d] = 0;
    for (size_t j = 0; j < n; j++) sum += e[j] = exp(e[j] - top);
    for (size_t d = 0; d < c->dim; d++)
        for (size_t j = 0; j < n; j++) out[d] += e[j] / sum * cached_value(c, j, d);
    free(e);
    return largest_v * (1 + sqrt(q_squares) * largest_k) / 32767;
}

static void check_attend_exact(const Attend *a, const Cache *c, const char *name) {
    for (size_t row = 0; row < (size_t)a->n_tok * a->n_heads; row++) {
        size_t t = row / a->n_heads, far_off = 0, n = a->pos + t + 1 - a->first;
        const float *q = a->q + t * a->q_stride + row % a->n_heads * c->dim;
        double want[MAX_HEAD_DIM];
        double steps = row_exact(c, q, n < ATTEND_KEYS ? n : ATTEND_KEYS, want);
        for (size_t d = 0; d < c->dim; d++) {
            float got = a->to.out[row * kv_columns(c->dim) + d] / a->to.sum[row];
            far_off +=
                !(fabs(want[d] - (double)got) < (c->f32 ? 1e-4 : steps * fmax(0.25, 4.0 / c->dim)));
        }
        CHECK(far_off == 0, "attend, %s: head_dim %u, %zu keys: %zu outputs far from float64", name,
              c->dim, n, far_off);
    }
}

/* What is planted: NaN in q; infinity and NaN in keys and values; large scores. */
enum { NOTHING, BAD_Q, BAD_KEY, BAD_VALUE, LARGE, BAD_LAST, N_PLANTED };

static void plant_in_cache(Cache *c, int what) {
    float x[MAX_HEAD_DIM] = {0};
    x[c->dim / 2] = what == BAD_KEY ? INFINITY : NAN;
    if (what == BAD_KEY) put_key(c, c->n / 2, x);
    if (what == BAD_LAST) put_key(c, c->n - 1, x);
    if (what == BAD_VALUE) put_value(c, 0, x);
}

static Attend make_attend(const Cache *c, uint32_t heads, uint32_t n_tok, uint32_t first,
                          uint32_t pos) {
    size_t rows = (size_t)heads * n_tok, stride = (size_t)heads * c->dim + 5;
    float *found = make(rows * (kv_columns(c->dim) + 2), sizeof *found);
    Attend a = {.head_dim = c->dim,
                .n_heads = heads,
                .n_tok = n_tok,
                .first = first,
                .pos = pos,
                .q = make_floats(stride * n_tok, RANDOM),
                .q_stride = stride,
                .k = c->k,
                .v = c->v,
                .scratch = aligned_alloc(64, ATTEND_BYTES),
                .to = {found, found + rows, found + 2 * rows}};
    if (!a.scratch) exit(1);
    memset(a.scratch, 0xff, ATTEND_BYTES); /* NaN everywhere */
    return a;
}

static void free_attend(const Attend *a) {
    free((void *)(uintptr_t)a->q);
    free(a->scratch);
    free(a->to.max);
}

static Found other_found(const Attend *a) {
    size_t rows = (size_t)a->n_heads * a->n_tok;
    float *found = make(rows * (kv_columns(a->head_dim) + 2), sizeof *found);
    for (size_t i = 0; i < rows * (kv_columns(a->head_dim) + 2); i++) found[i] = NAN;
    return (Found){found, found + rows, found + 2 * rows};
}

/* n_tok tokens, the last of which sees all of `keys` keys. */
static void one_attend(const Kernels *k, uint32_t dim, uint32_t heads, uint32_t n_tok,
                       uint32_t keys, bool f32, int planted) {
    Cache c = make_cache(dim, keys, f32);
    Attend a = make_attend(&c, heads, n_tok, 0, keys - n_tok);
    float *q = (float *)(uintptr_t)a.q;
    size_t n_out = (size_t)heads * n_tok * (kv_columns(dim) + 2);
    for (size_t i = 0; i < a.q_stride * n_tok; i++) q[i] *= planted == LARGE ? 1e4f : 0.3f;
    if (planted == BAD_Q) q[dim / 2] = NAN;
    plant_in_cache(&c, planted);
    k->attend[f32](&a);
    if (planted == NOTHING) check_attend_exact(&a, &c, k->name);
    Found want = other_found(&a);
    plain_attend(&a, &c, want);
    CHECK_SAME(a.to.max, want.max, n_out,
               "attend %s, %s: head_dim %u, %u heads of %u tokens, %u keys, planted %d",
               f32 ? "f32" : "int16", k->name, dim, heads, n_tok, keys, planted);
    free(want.max);
    free_attend(&a);
    free_cache(&c);
}

static void test_attend(const Kernels *k) {
    const uint32_t dims[] = {64, 128, 2, 34, 80, 256, 48}, heads[] = {7, 6, 1, 8, 2, 9, 5, 4, 3};
    const uint32_t keys[] = {1, 15, 16, 17, 31, 32, 33, 100, 128, 129, 400, 511, 512};
    for (size_t d = 0, i = 0; d < 7; d++)
        for (size_t n = 0; n < 26; n++, i++)
            for (int f32 = 0; f32 < 2; f32++)
                one_attend(k, dims[d], heads[i % 9], 1, keys[n % 13], f32,
                           (int)(i % 7 % N_PLANTED));
    for (int f32 = 0; f32 < 2; f32++) {
        one_attend(k, 64, 7, 5, 20, f32, NOTHING);
        one_attend(k, 128, 6, 8, 131, f32, NOTHING); /* some see a part more than others */
        one_attend(k, 34, 1, 40, 300, f32, NOTHING);
        one_attend(k, 96, 9, 28, 512, f32, NOTHING);
        one_attend(k, 32, ATTEND_ROWS, 1, 200, f32, NOTHING);
        one_attend(k, 64, 4, 3, 40, f32, BAD_LAST); /* which the last one alone sees */
    }
}

/* Tokens on both sides of a part's beginning, and beyond its end. */
static void test_attend_edges(const Kernels *k) {
    for (int f32 = 0; f32 < 2; f32++) {
        Cache c = make_cache(48, ATTEND_KEYS, f32);
        for (uint32_t pos = 1020; pos < 1540; pos += 510) {
            Attend a = make_attend(&c, 3, 8, 1024, pos);
            size_t n_out = (size_t)a.n_heads * a.n_tok * (kv_columns(48) + 2);
            Found want = other_found(&a);
            k->attend[f32](&a);
            plain_attend(&a, &c, want);
            CHECK_SAME(a.to.max, want.max, n_out, "attend %s, %s: from position %u on",
                       f32 ? "f32" : "int16", k->name, pos);
            bool nothing = a.to.max[0] == -INFINITY && a.to.sum[0] == 0 && a.to.out[0] == 0;
            CHECK(nothing == (pos < 1024), "attend %s, %s: the token before the part",
                  f32 ? "f32" : "int16", k->name);
            free(want.max);
            free_attend(&a);
        }
        free_cache(&c);
    }
}

static void test_join(const Kernels *k) {
    enum { ROWS = 19, D = 48 };
    float a[ROWS * (D + 2)], b[ROWS * (D + 2)], want[ROWS * (D + 2)];
    for (size_t i = 0; i < ROWS * (D + 2); i++)
        a[i] = 9 * random_float(), b[i] = 9 * random_float();
    b[3] = -INFINITY; /* a row that saw nothing */
    b[ROWS + 3] = 0;
    for (size_t d = 0; d < D; d++) b[2 * ROWS + 3 * D + d] = 0;
    a[5] = b[7] = NAN;
    for (size_t r = 0; r < ROWS; r++) {
        float m = a[r] > b[r] ? a[r] : b[r];
        float before = exp16_scalar(a[r] - m), more = exp16_scalar(b[r] - m);
        want[r] = m;
        want[ROWS + r] = a[ROWS + r] * before + b[ROWS + r] * more;
        for (size_t i = 2 * ROWS + r * D; i < 2 * ROWS + (r + 1) * D; i++)
            want[i] = fmaf(b[i], more, a[i] * before);
    }
    const Found to = {a, a + ROWS, a + 2 * ROWS}, more = {b, b + ROWS, b + 2 * ROWS};
    k->join(&to, &more, ROWS, D);
    CHECK_SAME(a, want, (size_t)ROWS * (D + 2), "join, %s", k->name);
}

/* ---- prompt_attend --------------------------------------------------------------------------- */

/* One row in float64: its error may be that of e and v rounded to 8 bits. */
static void check_row_exact(const Kernels *k, const PromptAttend *a, const Cache *c, size_t t,
                            size_t h) {
    size_t n = a->pos + t + 1, far_off = 0;
    double want[MAX_HEAD_DIM], most = 0;
    row_exact(c, a->q + t * a->q_stride + h * c->dim, n, want);
    for (size_t j = 0; j < n; j++)
        for (size_t d = 0; d < c->dim; d++) {
            double v = fabs(cached_value(c, j, d));
            if (v > most) most = v;
        }
    for (size_t d = 0; d < c->dim; d++) {
        double got = (double)a->out[t * a->out_stride + h * c->dim + d];
        if (!(fabs(got - want[d]) <= 0x1p-8 * 2 * most + 2e-4)) far_off++;
    }
    CHECK(far_off == 0, "prompt_attend, %s: head_dim %u, %zu keys: %zu outputs far from float64",
          k->name, c->dim, n, far_off);
}

/* n tokens, the first of which sees n_keys keys. Each token alone gives the same bits. */
static void one_prompt_attend(const Kernels *k, uint32_t dim, uint32_t heads, uint32_t n,
                              uint32_t n_keys, float scale) {
    size_t stride = (size_t)heads * dim + 7;
    Cache c = make_cache(dim, n_keys + n - 1, false);
    float *q = make_floats(n * stride, RANDOM), *out = make(n * stride, 4);
    float *one = make(stride, 4);
    void *scratch = aligned_alloc(64, ATTEND_BYTES);
    if (!scratch) exit(1);
    for (size_t i = 0; i < n * stride; i++) q[i] *= scale;
    PromptAttend a = {dim, heads, n, n_keys - 1, q, stride, c.k, c.v, scratch, out, stride};
    memset(scratch, 0xff, ATTEND_BYTES); /* NaN everywhere */
    k->prompt_attend(&a);
    for (uint32_t t = 0; t < n; t++) {
        for (uint32_t h = 0; h < heads; h++) check_row_exact(k, &a, &c, t, h);
        PromptAttend b = a;
        b.n_tok = 1;
        b.pos += t;
        b.q = q + t * stride;
        b.out = one;
        k->prompt_attend(&b);
        CHECK_SAME(one, out + t * stride, (size_t)heads * dim,
                   "prompt_attend, %s: head_dim %u, %u heads, token %u of %u alone", k->name, dim,
                   heads, t, n);
    }
    free_cache(&c);
    free(q);
    free(out);
    free(one);
    free(scratch);
}

/* A single key: its value itself is the answer, and values are not cut off. */
static void test_rounded_values(const Kernels *k) {
    enum { D = 256 };
    Cache c = make_cache(D, 1, false);
    float *q = make_floats(D, RANDOM), out[D], x[D];
    double all = 0, surplus = 0;
    void *scratch = aligned_alloc(64, ATTEND_BYTES);
    if (!scratch) exit(1);
    PromptAttend a = {D, 1, 1, 0, q, D, c.k, c.v, scratch, out, D};
    for (int i = 0; i < 64; i++) {
        for (size_t d = 0; d < D; d++) x[d] = random_float();
        put_value(&c, 0, x);
        k->prompt_attend(&a);
        for (size_t d = 0; d < D; d++) {
            double want = cached_value(&c, 0, d), got = (double)out[d];
            all += fabs(want);
            surplus += want < 0 ? want - got : got - want;
        }
    }
    CHECK(fabs(surplus / all) < 0x1p-12, "prompt_attend, %s: values are %.2e too large", k->name,
          surplus / all);
    free_cache(&c);
    free(q);
    free(scratch);
}

static void test_prompt_attend(const Kernels *k) {
    if (!k->prompt_attend) return;
    test_rounded_values(k);
    one_prompt_attend(k, 64, 6, 40, 1, 0.1f);
    one_prompt_attend(k, 32, 1, 40, 1, 0.3f);
    one_prompt_attend(k, 128, 7, 6, 253, 0.1f); /* some see a part more than others */
    one_prompt_attend(k, 64, 4, 20, 500, 0.1f);
    one_prompt_attend(k, 256, 16, 6, 765, 0.02f);
    one_prompt_attend(k, 96, 5, 6, 530, 0.5f);
    one_prompt_attend(k, 128, 12, 1, 300, 3); /* one key has nearly all the weight */
}

/* ---- f16 ------------------------------------------------------------------------------------- */

/* Every f16 as a weight. */
static void test_read_halves(const Kernels *k) {
    enum { D = 256 };
    float one = 1, want[D], y[D];
    _Alignas(64) uint16_t w[D * 2] = {0};
    Operand x = {.n_tok = 1, .cols = 1, .x = &one, .x_stride = 1};
    Mat m = {TYPE_F16, D, 1, (const uint8_t *)w};
    for (uint32_t first = 0; first < 65536; first += D) {
        for (uint32_t i = 0; i < D; i++) {
            w[2 * i] = (uint16_t)(first + i);
            want[i] = fmaf(f16_to_f32(w[2 * i]), 1, 0); /* -0 becomes 0 */
        }
        multiply_all(k->matmul[TYPE_F16], &m, &x, y, D);
        CHECK_SAME(y, want, (size_t)D, "f16 %04x and more as weights, %s", first, k->name);
    }
}

/* ---- Rows ------------------------------------------------------------------------------------ */

static void test_rmsnorm(const Kernels *k, const float *x, const float *w, uint32_t n, float *want,
                         float *got) {
    float lane[16] = {0};
    for (size_t i = 0; i < n; i++) lane[i % 16] = fmaf(x[i], x[i], lane[i % 16]);
    float scale = 1 / sqrtf(tree_sum(lane) / (float)n + 1e-6f);
    for (size_t i = 0; i < n; i++) want[i] = x[i] * scale * w[i];
    k->rmsnorm(got, x, w, n, 1e-6f);
    CHECK_SAME(got, want, n, "rmsnorm, %s: n %u", k->name, n);
}

static void test_silu_add(const Kernels *k, const float *x, const float *w, uint32_t n, float *want,
                          float *got) {
    memcpy(got, x, n * sizeof *x);
    for (size_t i = 0; i < n; i++) want[i] = x[i] / (1 + exp16_scalar(-x[i])) * w[i];
    k->silu_mul(got, w, n);
    CHECK_SAME(got, want, n, "silu_mul, %s: n %u", k->name, n);
    memcpy(got, x, n * sizeof *x);
    for (size_t i = 0; i < n; i++) want[i] = x[i] + w[i];
    k->add(got, w, n);
    CHECK_SAME(got, want, n, "add, %s: n %u", k->name, n);
}

static void test_words(const Kernels *k, const float *x, uint32_t n) {
    int16_t w[4864 + 16], want[4864];
    size_t wrong = 0;
    float got = k->words(w, x, n), scale = plain_words(want, x, n);
    for (size_t i = 0; i < n; i++) wrong += isfinite(scale) && w[i] != want[i];
    CHECK(wrong == 0, "words, %s: n %u: %zu differ", k->name, n, wrong);
    CHECK_SAME(&got, &scale, (size_t)1, "words' scale, %s: n %u", k->name, n);
}

static void test_exp_sum(const Kernels *k, const float *x, uint32_t n, float *want, float *got) {
    float lane[16] = {0};
    memcpy(got, x, n * sizeof *x);
    for (size_t i = 0; i < n; i++) lane[i % 16] += want[i] = exp16_scalar((x[i] - 2) * 0.7f);
    float sum = k->exp_sum(got, n, 2, 0.7f), plain = tree_sum(lane);
    CHECK_SAME(got, want, n, "exp_sum, %s: n %u", k->name, n);
    CHECK_SAME(&sum, &plain, (size_t)1, "exp_sum's sum, %s: n %u", k->name, n);
}

static void test_max(const Kernels *k, float *x, uint32_t n) {
    float top = -INFINITY, got = 0;
    for (size_t i = 0; i < n; i++) top = x[i] > top ? x[i] : top;
    bool finite = k->max_finite(x, n, &got), all = true;
    for (size_t i = 0; i < n; i++) all = all && isfinite(x[i]);
    CHECK(finite == all, "max_finite, %s: n %u: finite %d", k->name, n, finite);
    CHECK(!all || got == top, "max_finite, %s: n %u: %g, expected %g", k->name, n, (double)got,
          (double)top);
    const float bad[] = {NAN, INFINITY, -INFINITY, -NAN};
    for (size_t i = 0; i < n; i += 1 + n / 7) {
        float old = x[i];
        x[i] = bad[i % 4];
        CHECK(!k->max_finite(x, n, &got), "max_finite, %s: n %u: missed element %zu", k->name, n,
              i);
        x[i] = old;
    }
}

static void test_rows(const Kernels *k) {
    const uint32_t sizes[] = {1, 2, 15, 16, 17, 31, 33, 64, 65, 79, 100, 896, 4864};
    for (size_t s = 0; s < 13; s++) {
        for (int what = 0; what < 3; what++) {
            uint32_t n = sizes[s];
            float *x = make_floats(n, what == 1 ? ZERO : RANDOM), *w = make_floats(n, RANDOM);
            float *want = make(n, 4), *got = make(n, 4);
            test_max(k, x, n);
            if (what == 2) plant(x, n, 1);
            if (what == 2)
                for (size_t i = 0; i < n; i++) x[i] *= i % 5 ? 1 : 40;
            test_rmsnorm(k, x, w, n, want, got);
            test_silu_add(k, x, w, n, want, got);
            test_words(k, x, n);
            test_exp_sum(k, x, n, want, got);
            free(x);
            free(w);
            free(want);
            free(got);
        }
    }
    float *logits = make_floats(151936, RANDOM);
    test_max(k, logits, 151936);
    free(logits);
}

static void test_rope(const Kernels *k) {
    const uint32_t dims[] = {2, 30, 64, 80, 128, 256};
    for (size_t d = 0; d < 6; d++) {
        size_t dim = dims[d], half = dim / 2, n = 3 * dim;
        float *x = make_floats(n, RANDOM), *cos_ = make_floats(half, RANDOM);
        float *sin_ = make_floats(half, RANDOM), *want = make(n, 4);
        for (size_t i = 0; i < n; i++) {
            size_t at = i % dim, j = at % half;
            float other = x[at < half ? i + half : i - half];
            float a = x[i] * cos_[j], b = other * sin_[j];
            want[i] = at < half ? a - b : a + b;
        }
        k->rope(x, 3, (uint32_t)dim, cos_, sin_);
        CHECK_SAME(x, want, n, "rope, %s: head_dim %zu", k->name, dim);
        free(x);
        free(cos_);
        free(sin_);
        free(want);
    }
}

static void test_dot_all(const Kernels *k) {
    for (uint32_t rounds = 0; rounds < 4; rounds++)
        CHECK(k->dot_all(rounds) == (uint64_t)rounds * DOT_ROUND_OPS, "dot_all, %s: %u rounds",
              k->name, rounds);
}

static void test_read_all(const Kernels *ref, const Kernels *k) {
    for (size_t bytes = 64; bytes < 3000; bytes += 64) {
        uint8_t *p = make(bytes, 1);
        for (size_t i = 0; i < bytes; i++) p[i] = (uint8_t)test_random(&seed);
        uint64_t all = k->read_all(p, bytes);
        CHECK(all == ref->read_all(p, bytes), "read_all, %s: %zu bytes", k->name, bytes);
        p[test_random(&seed) % bytes] ^= 1;
        CHECK(all != k->read_all(p, bytes), "read_all, %s: %zu bytes, one changed", k->name, bytes);
        free(p);
    }
}

/* ---- exp16 and the choice -------------------------------------------------------------------- */

static void test_exp(void) {
    double worst = 0;
    for (double x = -87.3; x <= 88.7; x += 0.000731) {
        float got = exp16_scalar((float)x);
        double want = exp((double)(float)x);
        int exponent;
        frexp(want, &exponent);
        worst = fmax(worst, fabs((double)got - want) / ldexp(1, exponent - 24));
    }
    printf("exp16: at most %.3f units in the last place from libm\n", worst);
    CHECK(worst <= 2, "exp16 is %g units in the last place off", worst);
    CHECK(exp16_scalar(0) == 1 && exp16_scalar(-0.0f) == 1, "exp16(0)");
    CHECK(exp16_scalar(-87.4f) == 0 && exp16_scalar(-1e30f) == 0, "exp16 below its range");
    CHECK(exp16_scalar(-INFINITY) == 0, "exp16(-inf)");
    CHECK(isinf(exp16_scalar(88.73f)) && isinf(exp16_scalar(INFINITY)), "exp16 above its range");
    CHECK(isnan(exp16_scalar(NAN)) && isnan(exp16_scalar(-NAN)), "exp16(NaN)");
    CHECK(isnan(exp16_scalar(float_from_bits(0x7f800001))), "exp16 of a signalling NaN");
}

static void test_select(void) {
    Error e = {{0}};
    const Kernels *best = kernels_select(NULL, &e);
    CHECK(best != NULL && best == kernels_available(0), "the best table");
    CHECK(kernels_select("scalar", &e) != NULL, "the scalar table");
    const char *wrong[] = {"", "avx", "AVX2", "avx512 ", "neon9"};
    for (size_t i = 0; i < 5; i++) {
        e.text[0] = 0;
        CHECK(kernels_select(wrong[i], &e) == NULL, "\"%s\" was accepted", wrong[i]);
        CHECK(strstr(e.text, "expected") && strstr(e.text, "scalar"), "message: %s", e.text);
    }
    for (uint32_t i = 0; kernels_available(i); i++)
        CHECK(kernels_select(kernels_available(i)->name, &e) == kernels_available(i), "table %u",
              i);
}

/* What this architecture may have: a table that is not there is a skipped one. */
static const char *const tables[] = {
    "scalar",
#if defined(__x86_64__)
    "avx2",   "avxvnni", "avx512", "amx",
#elif defined(__aarch64__)
    "neon",
    "i8mm",
#endif
};

int main(void) {
    Error e = {{0}};
    const Kernels *scalar = kernels_select("scalar", &e);
    test_exp();
    test_select();
    const Kernels *before = NULL;
    for (size_t i = 0; i < sizeof tables / sizeof tables[0]; i++) {
        const Kernels *k = kernels_select(tables[i], &e);
        if (k == NULL) {
            test_skip(1, e.text);
            continue;
        }
        seed = 7;
        test_quantize(scalar, k);
        test_matmul(scalar, k);
        test_prompt(k);
        /* AMX's table has AVX-512's attention of one token, which was checked with that. */
        if (before == NULL || memcmp(k->attend, before->attend, sizeof k->attend) != 0) {
            test_attend(k);
            test_attend_edges(k);
        }
        before = k;
        test_join(k);
        test_prompt_attend(k);
        test_read_halves(k);
        test_rows(k);
        test_rope(k);
        test_read_all(scalar, k);
        test_dot_all(k);
        printf("checked table %s\n", k->name);
    }
    return test_end("kernels");
}
