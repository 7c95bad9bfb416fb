/* i8mm.h: several tokens at once with ARM's int8 matrix product (FEAT_I8MM, "i8mm" in Linux).
 *
 * neon.c includes this at its end: it uses that island's vectors and helpers, and the table below
 * is that island's with functions from here in place of its own.
 *
 * smmla multiplies two rows of eight columns with two tokens of eight columns: four sums of eight
 * products, twice what the dot product does in one instruction, and exact like its. It wants eight
 * columns of a row side by side where a line has four, so a chunk's lines are woven, two by two, as
 * they are unpacked. The sums get the same scales in the same order as everywhere else: the same
 * bits. */

#undef TARGET
#if defined(__ARM_FEATURE_MATMUL_INT8)
#define TARGET
#elif defined(__ARM_FEATURE_DOTPROD)
#define TARGET __attribute__((target("+i8mm")))
#else
#define TARGET __attribute__((target("arch=armv8.2-a+dotprod+i8mm")))
#endif

/* Lines r and r + 1, 16 rows of columns 4r .. 4r + 3 and of the next four, as eight pairs of rows
 * of eight columns. */
INLINE void weave(const uint8_t *lines, uint8_t *pairs) {
    const Line even = line_load(lines), odd = line_load(lines + LINE_BYTES);
    const uint32x4_t x[4] = {QUARTERS(vreinterpretq_u32_u8, even)};
    const uint32x4_t y[4] = {QUARTERS(vreinterpretq_u32_u8, odd)};
    UNROLL for (int i = 0; i < 4; i++) {
        vst1q_u8(pairs + 32 * i, vreinterpretq_u8_u32(vzip1q_u32(x[i], y[i])));
        vst1q_u8(pairs + 32 * i + 16, vreinterpretq_u8_u32(vzip2q_u32(x[i], y[i])));
    }
}

/* A chunk unpacked and woven, while the one behind it is fetched. */
INLINE void chunk_weave(Type type, const uint8_t *chunk, size_t n_blocks, Block *out) {
    const size_t quarter = chunk_bytes(type) / 4;
    const uint8_t *next = chunk + chunk_bytes(type);
    chunk_unpack(type, chunk, n_blocks, out);
    for (size_t b = 0; b < n_blocks; b++) {
        if (b % 2 == 0) prefetch_streams(next + b / 2 * quarter, 1, 0, quarter);
        const uint8_t *codes = block_codes(type, chunk, out, b);
        for (size_t r = 0; r < 8 * LINE_BYTES; r += 2 * LINE_BYTES)
            weave(codes + r, out[b].codes + r);
    }
}

/* Add the sums of a woven block times two tokens x and y to s[0] and s[1]; in q6 of its sub-block
 * `part` alone. */
INLINE void woven_sums(Type type, const uint8_t *codes, const int8_t *x, const int8_t *y, int part,
                       Sums *s) {
    int32x4_t sum[8]; /* of two rows, each with x and y */
    UNROLL for (int i = 0; i < 8; i++) sum[i] = vdupq_n_s32(0);
    UNROLL for (int k = 0; k < 4; k++) {
        if (type == TYPE_Q6 && k / 2 != part) continue;
        int8x16_t both = vcombine_s8(vld1_s8(x + 8 * k), vld1_s8(y + 8 * k));
        UNROLL for (int i = 0; i < 8; i++) sum[i] =
            vmmlaq_s32(sum[i], vreinterpretq_s8_u8(vld1q_u8(codes + 16 * (8 * k + i))), both);
    }
    s[0] = sums_add(s[0], (Sums){vuzp1q_s32(sum[0], sum[1]), vuzp1q_s32(sum[2], sum[3]),
                                 vuzp1q_s32(sum[4], sum[5]), vuzp1q_s32(sum[6], sum[7])});
    s[1] = sums_add(s[1], (Sums){vuzp2q_s32(sum[0], sum[1]), vuzp2q_s32(sum[2], sum[3]),
                                 vuzp2q_s32(sum[4], sum[5]), vuzp2q_s32(sum[6], sum[7])});
}

/* A woven chunk times nt tokens, one or two, from token i of the group on: add to y. */
INLINE void woven_tokens(Type type, size_t nt, const uint8_t *chunk, const uint8_t *super,
                         const Block *blocks, size_t n_blocks, const Tokens *a, size_t i,
                         float *y) {
    Lanes acc[2], m[2], both[2];
    Sums s[2] = {sums_set1(0), sums_set1(0)};
    UNROLL for (size_t t = 0; t < nt; t++) {
        acc[t] = is_super(type) ? lanes_set1(0) : lanes_load(y + t * PANEL_ROWS);
        m[t] = lanes_set1(0);
    }
    for (size_t b = 0; b < n_blocks; b++) {
        const size_t at = b * a->n + i;
        const int8_t *q = a->q + at * 32;
        BlockScales w = unpacked_scales(type, chunk, blocks, b);
        UNROLL for (int part = 0; part < 2; part++) {
            if (part == 1 && type != TYPE_Q6) break;
            tile_start(type, 1, nt, a, 2 * b * a->n + i, part, s);
            woven_sums(type, blocks[b].codes, q, q + 32 * (nt - 1), part, s);
            if (type == TYPE_Q6) tile_parts(1, nt, &w, s, part, both);
        }
        tile_scale(type, 1, nt, &w, a->d + at, a->dq + at, s, both, acc);
        if (!has_mins(type)) continue;
        UNROLL for (size_t t = 0; t < nt; t++) m[t] =
            lanes_fma(w.second, lanes_set1(a->dq[at + t]), m[t]);
    }
    UNROLL for (size_t t = 0; t < nt; t++) {
        float *out = y + t * PANEL_ROWS;
        if (is_super(type)) acc[t] = super_add(type, super, acc[t], m[t], lanes_load(out));
        lanes_store(out, acc[t]);
    }
}

/* Tokens first .. first + n_tok - 1 (first: a whole number of groups) times a panel; y: outputs of
 * the first of them. */
INLINE void woven_panel(Type type, const uint8_t *panel, const Operand *a, size_t first,
                        size_t n_tok, float *y) {
    Block blocks[8];
    const size_t all = a->cols / 32;
    memset(y, 0, n_tok * PANEL_ROWS * sizeof *y);
    for (size_t c = 0; 8 * c < all; c++) {
        const uint8_t *chunk = chunk_at(type, a->cols, panel, c);
        const uint8_t *super = super_at(type, panel, chunk, c);
        size_t n_blocks = min_size(all - 8 * c, 8), i;
        chunk_weave(type, chunk, n_blocks, blocks);
        for (size_t g = 0; g < n_tok; g += GROUP_TOKENS) {
            Tokens t = tokens_at(a, first + g, 8 * c);
            float *out = y + g * PANEL_ROWS;
            for (i = 0; i + 2 <= t.n; i += 2)
                woven_tokens(type, 2, chunk, super, blocks, n_blocks, &t, i, out + i * PANEL_ROWS);
            if (i < t.n)
                woven_tokens(type, 1, chunk, super, blocks, n_blocks, &t, i, out + i * PANEL_ROWS);
        }
    }
}

INLINE void matmul_woven(Type type, const Panels *w, const Operand *a, float *y) {
    if (a->n_tok <= TILE_TOKENS) { /* these read panels as they lie in memory */
        neon_kernels.matmul[type](w, a, y);
        return;
    }
    for (size_t p = 0; p < w->n; p++, y += outputs_size(a))
        for (size_t t = 0; t < a->n_tok; t += TOKEN_RUN)
            woven_panel(type, panel_at(w, p), a, t, min_size(a->n_tok - t, TOKEN_RUN),
                        y + t * PANEL_ROWS);
}

MATMUL(i8mm_q8, TYPE_Q8, matmul_woven)
MATMUL(i8mm_q5, TYPE_Q5, matmul_woven)
MATMUL(i8mm_q6, TYPE_Q6, matmul_woven)
MATMUL(i8mm_q5_0, TYPE_Q5_0, matmul_woven)
MATMUL(i8mm_q5_1, TYPE_Q5_1, matmul_woven)
MATMUL(i8mm_q4, TYPE_Q4, matmul_woven)
MATMUL(i8mm_q4_0, TYPE_Q4_0, matmul_woven)

/* Of two rows and two tokens, like matmul. */
TARGET static uint64_t i8mm_dot_all(uint32_t rounds) {
    enum { CHAINS = 16, OPS = 64 };
    int8_t ones[16];
    memset(ones, 1, sizeof ones);
    int8x16_t x = vld1q_s8(ones);
    int32x4_t s[CHAINS], all = vdupq_n_s32(0);
    UNROLL for (int j = 0; j < CHAINS; j++) s[j] = all;
    for (uint32_t i = 0; i < DOT_ROUND_OPS / OPS / CHAINS * rounds; i++) {
        __asm__("" : "+w"(x)); /* or gcc sees that all products are equal */
        UNROLL for (int j = 0; j < CHAINS; j++) s[j] = vmmlaq_s32(s[j], x, x);
    }
    uint64_t total = 0;
    for (int j = 0; j < CHAINS; j++) total += (uint32_t)vaddvq_s32(s[j]);
    return 2 * total;
}

/* ---- The table ------------------------------------------------------------------------------- */

/* Everything else as NEON does it. */
const Kernels i8mm_kernels = {
    .name = "i8mm",
    SAME_KERNELS,
    .matmul = {PLAIN_MATMULS, [TYPE_Q8] = i8mm_q8, [TYPE_Q5] = i8mm_q5, [TYPE_Q6] = i8mm_q6,
               [TYPE_Q5_0] = i8mm_q5_0, [TYPE_Q5_1] = i8mm_q5_1, [TYPE_Q4] = i8mm_q4,
               [TYPE_Q4_0] = i8mm_q4_0},
    .dot_all = i8mm_dot_all,
};
