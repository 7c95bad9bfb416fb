/* lanes.h: every kernel, written once on vectors of 16 lanes.
 *
 * Each island (island.h) includes this file once, behind three types and a few dozen one-line
 * primitives on them:
 *
 *   Lanes   16 floats
 *   Sums    16 int32
 *   Line    64 bytes: one line of a weight panel, 16 rows x 4 columns
 *
 * A Lanes is one zmm register, two ymm or four NEON registers or a plain array of 16 floats; what
 * is written here does the same operations in the same order on all of them, so all islands give
 * the same bits. Each island says by hand how to multiply int8 with int8 (sums_dot, or
 * line_dot_pairs where no instruction does all of it): there the instruction sets differ, and there
 * the sums are exact. TILE_TOKENS is how many tokens share a loaded weight: as many as the
 * registers hold.
 *
 * The functions named in Kernels come in its order; the table itself is at the end. INLINE
 * functions take their small counts and the type as constants, so that every loop over them unrolls
 * and every choice is made by the compiler. */

/* ---- Parts of 16 lanes ----------------------------------------------------------------------- */

/* p[0..left) in the first lanes, `fill` behind; all 16 when left >= 16. */
INLINE Lanes lanes_load_fill(const float *p, size_t left, float fill) {
    if (left >= 16) return lanes_load(p);
    float part[16];
    for (size_t i = 0; i < 16; i++) part[i] = i < left ? p[i] : fill;
    return lanes_load(part);
}

INLINE Lanes lanes_load_some(const float *p, size_t left) { return lanes_load_fill(p, left, 0); }

/* The first lanes to p[0..left), left > 0; all 16 when left >= 16. */
INLINE void lanes_store_some(float *p, size_t left, Lanes x) {
    if (left >= 16) {
        lanes_store(p, x);
        return;
    }
    float part[16];
    lanes_store(part, x);
    memcpy(p, part, left * sizeof *p);
}

/* The first `left` lanes of x, zeros behind. */
INLINE Lanes lanes_first(Lanes x, size_t left) {
    if (left >= 16) return x;
    float part[16];
    lanes_store(part, x);
    return lanes_load_some(part, left);
}

/* The largest lane; lanes that are NaN do not count (-infinity when all are). */
INLINE float lanes_largest(Lanes x) { return lanes_top(lanes_max(x, lanes_set1(-INFINITY))); }

/* e^x: x = n ln 2 + r with |r| <= ln 2 / 2, e^r by the first eight terms of its series (the rest is
 * below a tenth of a unit in the last place), then n goes into the exponent.
 *
 * Adding 1.5 * 2^23 to a small number rounds it to an integer, which then stands in the low bits of
 * the sum: that gives n without a conversion, which could not hold a NaN. */
INLINE Lanes lanes_exp(Lanes x) {
    const Lanes round = lanes_set1(0x1.8p23f), one = lanes_set1(1);
    Lanes shifted = lanes_fma(x, lanes_set1(0x1.715476p0f), round); /* 1 / ln 2 */
    Lanes n = lanes_sub(shifted, round);
    Lanes r = lanes_fma(n, lanes_set1(-0x1.62e43p-1f), x); /* ln 2 in two parts: 48 bits of it */
    r = lanes_fma(n, lanes_set1(0x1.05c61p-29f), r);
    Lanes e = lanes_set1(1 / 5040.0f);
    e = lanes_fma(e, r, lanes_set1(1 / 720.0f));
    e = lanes_fma(e, r, lanes_set1(1 / 120.0f));
    e = lanes_fma(e, r, lanes_set1(1 / 24.0f));
    e = lanes_fma(e, r, lanes_set1(1 / 6.0f));
    e = lanes_fma(e, r, lanes_set1(0.5f));
    e = lanes_fma(e, r, one);
    e = lanes_fma(e, r, one);
    e = lanes_from_bits(sums_add(lanes_bits(e), sums_left(lanes_bits(shifted), 23)));
    e = lanes_if_less(x, lanes_set1(-0x1.5d5p6f), lanes_set1(0), e); /* -87.328: 2^-126 is near */
    /* 88.72 and more times infinity is infinity; a NaN is not less and stays one. */
    Lanes beyond = lanes_mul(x, lanes_set1(INFINITY));
    return lanes_if_less(x, lanes_set1(0x1.62e2p6f), e, beyond);
}

/* ---- quantize -------------------------------------------------------------------------------- */

/* What quantize() writes of one block; n is the distance between its two sub-block sums. */
typedef struct {
    int8_t *q;     /* (32) */
    float *d, *dq; /* (1) */
    int32_t *sum;  /* sum[0], sum[n] */
    size_t n;
} QuantBlock;

/* Round a, b to int8 after scaling, sum the two halves. Adding 1.5 * 2^23 leaves the integer, to
 * nearest and ties to even, in the low bits. (With a subnormal largest value the factor overflows:
 * what is infinite or NaN then has low bits 0.) */
INLINE void quantize_codes(const QuantBlock *to, Lanes a, Lanes b, float factor) {
    const Lanes round = lanes_set1(0x1.8p23f), f = lanes_set1(factor);
    Sums low = lanes_bits(lanes_add(lanes_mul(a, f), round));
    Sums high = lanes_bits(lanes_add(lanes_mul(b, f), round));
    sums_store_low_bytes(to->q, low);
    sums_store_low_bytes(to->q + 16, high);
    to->sum[0] = bytes_total(to->q);
    to->sum[to->n] = bytes_total(to->q + 16);
}

INLINE void quantize_block(const QuantBlock *to, Lanes a, Lanes b) {
    const Sums magnitude = sums_set1(0x7fffffff);
    int32_t top = sums_largest(
        sums_max(sums_and(lanes_bits(a), magnitude), sums_and(lanes_bits(b), magnitude)));
    float amax = float_from_bits((uint32_t)top);
    if (top == 0 || top >= 0x7f800000) { /* all zero, or an infinity or NaN among them */
        memset(to->q, 0, 32);
        to->sum[0] = to->sum[to->n] = 0;
        *to->d = *to->dq = top == 0 ? 0 : NAN;
        return;
    }
    quantize_codes(to, a, b, 127 / amax);
    *to->d = amax / 127;
    *to->dq = *to->d * (float)(to->sum[0] + to->sum[to->n]);
}

/* Columns k .. k + cols - 1 of one token, x: the first of them; and the zeros behind the last. */
INLINE void quantize_columns(const Operand *a, size_t t, size_t k, size_t cols, const float *x,
                             size_t x_apart) {
    const size_t blocks = ((size_t)a->cols + 63) / 64 * 2, n = operand_group(a, t);
    const size_t all = k + cols == a->cols ? blocks - k / 32 : cols / 32;
    const size_t at = operand_block(a, t, k / 32);
    QuantBlock to = {a->q + at * 32, a->d + at, a->dq + at, a->sum + at * 2 - t % GROUP_TOKENS, n};
    for (size_t b = 0; b < all; b++, to.q += 32 * n, to.d += n, to.dq += n, to.sum += 2 * n) {
        size_t left = cols > 32 * b ? cols - 32 * b : 0;
        const float *from = x + (left > 0 ? 2 * b * x_apart : 0);
        if (left >= 32)
            quantize_block(&to, lanes_load(from), lanes_load(from + x_apart));
        else
            quantize_block(&to, lanes_load_some(from, left),
                           left > 16 ? lanes_load_some(from + x_apart, left - 16) : lanes_set1(0));
    }
}

TARGET static void kernel_quantize(const Operand *a, const Piece *x) {
    for (size_t i = 0; i < x->n_tok; i++)
        quantize_columns(a, x->t + i, x->k, x->cols, x->x + i * x->x_stride, x->x_apart);
}

/* ---- matmul ---------------------------------------------------------------------------------- */

/* Panel i. */
INLINE const uint8_t *panel_at(const Panels *w, size_t i) {
    return w->data + (ptrdiff_t)(i / 2) * w->next + (ptrdiff_t)(i % 2) * w->apart;
}

/* ---- matmul with f32, f16 and bf16 weights ------------------------------------------------------
 *
 * A line holds one column of 16 rows (f32), or two columns side by side in each row's four bytes.
 * */

/* Column k of a panel, where odd = k % 2. */
INLINE Lanes plain_column(Type type, const uint8_t *panel, size_t k, int odd) {
    if (type == TYPE_F32) return lanes_from_bits(sums_load(panel + k * LINE_BYTES));
    Sums both = sums_load(panel + k / 2 * LINE_BYTES);
    if (type == TYPE_F16) return lanes_from_f16_low(odd ? sums_right(both, 16) : both);
    return lanes_from_bits(odd ? sums_and(both, sums_set1(-65536)) : sums_left(both, 16));
}

/* `np` panels, `apart` bytes and y_apart floats from each other, times `nt` tokens, x_stride apart;
 * np * nt <= 4. Several panels at once are several streams from memory, and more sums under way;
 * several tokens share a loaded weight. */
INLINE void plain_tile(Type type, size_t np, size_t nt, const uint8_t *panel, ptrdiff_t apart,
                       size_t cols, const float *x, size_t x_stride, float *y, size_t y_apart) {
    Lanes acc[4];
    UNROLL for (size_t i = 0; i < np * nt; i++) acc[i] = lanes_set1(0);
    for (size_t k = 0; k < cols; k += 2) {
        UNROLL for (size_t odd = 0; odd < 2; odd++) {
            if (k + odd >= cols) break;
            UNROLL for (size_t p = 0; p < np; p++) {
                Lanes w = plain_column(type, panel + (ptrdiff_t)p * apart, k + odd, (int)odd);
                UNROLL for (size_t t = 0; t < nt; t++) acc[p * nt + t] =
                    lanes_fma(w, lanes_set1(x[t * x_stride + k + odd]), acc[p * nt + t]);
            }
        }
    }
    UNROLL for (size_t p = 0; p < np; p++) UNROLL for (size_t t = 0; t < nt; t++)
        lanes_store(y + p * y_apart + t * PANEL_ROWS, acc[p * nt + t]);
}

/* np panels, 1 or 2, times all tokens. */
INLINE void plain_panels(Type type, size_t np, const uint8_t *panel, ptrdiff_t apart,
                         const Operand *a, float *y) {
    const size_t y_apart = outputs_size(a);
    size_t t = 0;
    for (; t + 4 <= a->n_tok; t += 4)
        for (size_t p = 0; p < np; p++)
            plain_tile(type, 1, 4, panel + (ptrdiff_t)p * apart, 0, a->cols, a->x + t * a->x_stride,
                       a->x_stride, y + p * y_apart + t * PANEL_ROWS, 0);
    for (; t < a->n_tok; t++)
        plain_tile(type, np, 1, panel, apart, a->cols, a->x + t * a->x_stride, 0,
                   y + t * PANEL_ROWS, y_apart);
}

INLINE void matmul_plain(Type type, const Panels *w, const Operand *a, float *y) {
    for (size_t p = 0; p < w->n; p += 2, y += 2 * outputs_size(a))
        if (w->n - p > 1)
            plain_panels(type, 2, panel_at(w, p), w->apart, a, y);
        else
            plain_panels(type, 1, panel_at(w, p), 0, a, y);
}

/* ---- matmul with block formats -----------------------------------------------------------------
 *
 * All of them are walked in chunks of 256 columns, eight blocks: one unit of q4 or q5, four of the
 * other formats. A few tokens read the codes straight from two panels at once: two long streams,
 * each in the order in which it lies, which is what the memory likes best. For more tokens a chunk
 * is first unpacked to plain bytes, in the first-level cache, and every tile of tokens runs over
 * these. */

/* Has a type a min for each block? Do 256 columns share a scale, beside those of their blocks? */
INLINE int has_mins(Type type) { return type == TYPE_Q4 || type == TYPE_Q5; }
INLINE int is_super(Type type) { return has_mins(type) || type == TYPE_Q6; }

INLINE size_t chunk_bytes(Type type) {
    return 256 / type_info(type)->unit * type_info(type)->lines * LINE_BYTES;
}

/* The unit that block b of the chunk is in, and the block's codes there. */
INLINE const uint8_t *unit_of(Type type, const uint8_t *chunk, size_t b) {
    return chunk + 32 * b / type_info(type)->unit * type_info(type)->lines * LINE_BYTES;
}
INLINE const uint8_t *codes_of(Type type, const uint8_t *chunk, size_t b) {
    const TypeInfo *info = type_info(type);
    size_t line = info->scales + b % (info->unit / 32) * info->codes;
    return unit_of(type, chunk, b) + line * LINE_BYTES;
}

/* Codes of columns 4r..4r+3 of the block whose lines of codes are at `codes`; see model.h. */
INLINE Line block_line(Type type, const uint8_t *codes, int r) {
    if (type == TYPE_Q8) return line_load_q8(codes + r * LINE_BYTES);
    if (type_info(type)->codes == 4)
        return line_bits(line_load(codes + r / 2 * LINE_BYTES), r % 2 * 4, 0x0f);
    if (type == TYPE_Q6) {
        codes += r / 4 * 3 * LINE_BYTES;
        if (r % 4 < 3) return line_bits(line_load(codes + r % 4 * LINE_BYTES), 0, 0x3f);
        Line x = line_bits(line_load(codes), 6, 0x03);
        x = line_or_bits(x, line_load(codes + LINE_BYTES), 4, 0x0c);
        return line_or_bits(x, line_load(codes + 2 * LINE_BYTES), 2, 0x30);
    }
    const uint8_t *at = codes + (r - r / 3) * LINE_BYTES; /* lines 0, 1, -, 2, 3, -, 4, - */
    if (r == 7) {
        Line x = line_bits(line_load(codes + 4 * LINE_BYTES), 5, 0x07);
        x = line_or_bits(x, line_load(codes + LINE_BYTES), 4, 0x08);
        return line_or_bits(x, line_load(codes + 3 * LINE_BYTES), 3, 0x10);
    }
    if (r % 3 != 2) return line_bits(line_load(at), 0, 0x1f);
    return line_or_bits(line_bits(line_load(at - 2 * LINE_BYTES), 5, 0x07),
                        line_load(at - LINE_BYTES), 2, 0x18);
}

/* The scales of one block: q8, q4_0, q5_0: d. q5_1: d, m. q4, q5: sc, min. q6: sc of its halves. */
typedef struct {
    Lanes first, second;
} BlockScales;

/* q4, q5: sc and min of a chunk's eight blocks, a byte for each block and row. */
typedef struct {
    _Alignas(64) uint8_t sc[8 * 16], min[8 * 16];
} ChunkScales;

INLINE void chunk_scales(Type type, const uint8_t *chunk, ChunkScales *out) {
    if (!has_mins(type)) return;
    UNROLL for (size_t i = 0; i < 2 * LINE_BYTES; i += LINE_BYTES) {
        Line high = line_from_u4(chunk + i / 2), low = line_load(chunk + LINE_BYTES + i);
        line_store(out->sc + i, line_or_bits(line_bits(low, 0, 0x0f), high, -4, 0x30));
        line_store(out->min + i, line_or_bits(line_bits(low, 4, 0x0f), high, -2, 0x30));
    }
}

/* Block b = 0..7 of the chunk; `k` is what chunk_scales gave. */
INLINE BlockScales block_scales(Type type, const uint8_t *chunk, const ChunkScales *k, size_t b) {
    if (has_mins(type))
        return (BlockScales){lanes_from_sums(sums_from_u8(k->sc + 16 * b)),
                             lanes_from_sums(sums_from_u8(k->min + 16 * b))};
    const uint8_t *d = unit_of(type, chunk, b) + b % 2 * 32;
    if (type == TYPE_Q6)
        return (BlockScales){lanes_from_sums(sums_from_i8(d)),
                             lanes_from_sums(sums_from_i8(d + 16))};
    Lanes first = lanes_from_f16(d);
    return (BlockScales){first, type == TYPE_Q5_1 ? lanes_from_f16(d + LINE_BYTES) : first};
}

/* A group of tokens from some block on. Block b of token i is item b * n + i. */
typedef struct {
    const int8_t *q;
    const float *d, *dq;
    const int32_t *sum; /* two sub-blocks a block: items 2 b n + i and 2 b n + n + i */
    size_t n;           /* tokens in the group */
} Tokens;

INLINE Tokens tokens_at(const Operand *a, size_t first, size_t block) {
    size_t at = operand_block(a, first, block), n = operand_group(a, first);
    return (Tokens){a->q + at * 32, a->d + at, a->dq + at, a->sum + at * 2, n};
}

/* Codes of columns 4r..4r+3 of a block: as it lies in a panel, or unpacked (q8 is the same). */
INLINE Line tile_line(Type type, int unpacked, const uint8_t *codes, int r) {
    return unpacked && type != TYPE_Q8 ? line_load(codes + r * LINE_BYTES)
                                       : block_line(type, codes, r);
}

/* What codes are stored with, so that none is negative; q8's are signed. */
INLINE int code_offset(Type type) {
    return type == TYPE_Q4_0 ? 8 : type == TYPE_Q5_0 ? 16 : type == TYPE_Q6 ? 32 : 0;
}

/* Sums of nt tokens start here. The codes' offset (q8 has one too where the instruction wants
 * unsigned bytes) counts once for each activation: take it off. q6 sums
 * its two sub-blocks apart, the others go through. */
INLINE void tile_start(Type type, size_t np, size_t nt, const Tokens *a, size_t at, int part,
                       Sums *s) {
    const int32_t *first = a->sum + at, *second = first + a->n; /* halves of the block */
    const int offset = type == TYPE_Q8 ? Q8_OFFSET : code_offset(type);
    UNROLL for (size_t t = 0; t < nt; t++) {
        int32_t sum = 0;
        if (offset != 0 && (type != TYPE_Q6 || part == 0)) sum += first[t];
        if (offset != 0 && (type != TYPE_Q6 || part == 1)) sum += second[t];
        Sums start = sums_set1(-offset * sum);
        UNROLL for (size_t p = 0; p < np; p++) s[p * nt + t] = start;
    }
}

/* Fetch what is due at `step` 0..7 of a quarter of a chunk, two blocks: an eighth of it, into the
 * second level of the cache (the first has room for few lines that are under way). Spread evenly
 * like this the memory is never idle while the arithmetic runs, and has the time of
 * Operand.fetch_ahead to deliver. (Bursts, the first level: docs/speed.md.) */
INLINE void fetch_lines(Type type, const uint8_t *quarter, int step) {
    const size_t lines = chunk_bytes(type) / 4 / LINE_BYTES, k = (size_t)step;
    FORGET(quarter); /* or gcc keeps one address per line */
    UNROLL for (size_t i = k * lines / 8; i < (k + 1) * lines / 8; i++)
        __builtin_prefetch(quarter + i * LINE_BYTES, 0, 2);
}

#if BYTE_PAIRS
/* tile_sums where the products of bytes come in pairs of 16 bits: as many lines of codes as cannot
 * overflow are added up before they go to the sums of 32 bits. */
INLINE void pair_sums(Type type, int unpacked, size_t np, size_t nt, const uint8_t *codes,
                      ptrdiff_t apart, int half, const int8_t *q, int part, const uint8_t *fetch,
                      Sums *s) {
    const int lines = 128 >> type_info(type)->codes; /* 2 lines (2^bits - 1) 127 < 2^15 */
    Line pairs[8];
    UNROLL for (int r = 0; r < 8; r++) {
        if (type == TYPE_Q6 && r / 4 != part) continue;
        UNROLL for (size_t p = 0; p < np; p++) {
            const ptrdiff_t at = (ptrdiff_t)p * apart;
            Line x = tile_line(type, unpacked, codes + at, r);
            if (!unpacked && r % 2 == 0) fetch_lines(type, fetch + at, 4 * half + r / 2);
            UNROLL for (size_t t = 0; t < nt; t++) {
                Line two = line_dot_pairs(x, q + 32 * t + 4 * r), *to = &pairs[p * nt + t];
                *to = r % lines == 0 ? two : line_add_pairs(*to, two);
            }
        }
        if (r % lines < lines - 1) continue;
        UNROLL for (size_t j = 0; j < np * nt; j++) s[j] = sums_add_pairs(s[j], pairs[j]);
    }
}
INLINE Sums two_line_sums(Type type, Sums s, Line x, Line y, const int8_t *q) {
    (void)type; /* q8: pair_sums has the others */
    return sums_dot_q8(s, x, y, q);
}
#else
INLINE Sums two_line_sums(Type type, Sums s, Line x, Line y, const int8_t *q) {
    return type == TYPE_Q8 ? sums_dot_q8(s, x, y, q) : sums_dot(s, x, y, q);
}
#endif

/* The integer sums of block b of np panels, whose codes are at `codes`, `apart` bytes from each
 * other, times tokens i to i + nt - 1, to s[p * nt + t]; np * nt <= 8. In q6 of its sub-block
 * `part` alone. `fetch`: of this quarter of a chunk, see fetch_lines. */
INLINE void tile_sums(Type type, int unpacked, size_t np, size_t nt, const uint8_t *codes,
                      ptrdiff_t apart, int half, const Tokens *a, size_t b, size_t i, int part,
                      const uint8_t *fetch, Sums *s) {
    const int8_t *q = a->q + (b * a->n + i) * 32;
    tile_start(type, np, nt, a, 2 * b * a->n + i, part, s);
#if BYTE_PAIRS
    if (type != TYPE_Q8) {
        pair_sums(type, unpacked, np, nt, codes, apart, half, q, part, fetch, s);
        return;
    }
#endif
    UNROLL for (int r = 0; r < 8; r += 2) {
        if (type == TYPE_Q6 && r / 4 != part) continue;
        UNROLL for (size_t p = 0; p < np; p++) {
            const ptrdiff_t at = (ptrdiff_t)p * apart;
            Line x = tile_line(type, unpacked, codes + at, r);
            Line y = tile_line(type, unpacked, codes + at, r + 1);
            if (!unpacked) fetch_lines(type, fetch + at, 4 * half + r / 2);
            UNROLL for (size_t t = 0; t < nt; t++) s[p * nt + t] =
                two_line_sums(type, s[p * nt + t], x, y, q + 32 * t + 4 * r);
        }
    }
}

/* q6: both sub-blocks with their scales; the first when part is 0, the second is added. */
INLINE void tile_parts(size_t np, size_t nt, const BlockScales *w, const Sums *s, int part,
                       Lanes *both) {
    UNROLL for (size_t j = 0; j < np * nt; j++) {
        Lanes f = lanes_from_sums(s[j]);
        both[j] =
            part == 0 ? lanes_mul(w[j / nt].first, f) : lanes_fma(w[j / nt].second, f, both[j]);
    }
}

/* Add the sums s (q6: `both`) with their scales to acc[p * nt + t], as kernels.h says. d, dq: of
 * the first token. In types with inner scales the products of integers stay below 2^24: they are
 * exact in float. */
INLINE void tile_scale(Type type, size_t np, size_t nt, const BlockScales *w, const float *d,
                       const float *dq, const Sums *s, const Lanes *both, Lanes *acc) {
    UNROLL for (size_t t = 0; t < nt; t++) {
        Lanes scale = lanes_set1(d[t]);
        UNROLL for (size_t p = 0; p < np; p++) {
            size_t j = p * nt + t;
            if (type == TYPE_Q6)
                acc[j] = lanes_fma(scale, both[j], acc[j]);
            else if (has_mins(type))
                acc[j] = lanes_fma(scale, lanes_mul(w[p].first, lanes_from_sums(s[j])), acc[j]);
            else
                acc[j] = lanes_fma(lanes_mul(w[p].first, scale), lanes_from_sums(s[j]), acc[j]);
            if (type == TYPE_Q5_1) acc[j] = lanes_fma(w[p].second, lanes_set1(dq[t]), acc[j]);
        }
    }
}

/* Both, for one block: first the exact integer sums, then the scales w. */
INLINE void tile_block(Type type, int unpacked, size_t np, size_t nt, const uint8_t *codes,
                       ptrdiff_t apart, int half, const BlockScales *w, const Tokens *a, size_t b,
                       size_t i, const uint8_t *fetch, Lanes *acc) {
    const size_t at = b * a->n + i;
    Sums s[8];
    Lanes both[8];
    UNROLL for (int part = 0; part < 2; part++) {
        if (part == 1 && type != TYPE_Q6) break;
        tile_sums(type, unpacked, np, nt, codes, apart, half, a, b, i, part, fetch, s);
        if (type == TYPE_Q6) tile_parts(np, nt, w, s, part, both);
    }
    tile_scale(type, np, nt, w, a->d + at, a->dq + at, s, both, acc);
}

/* The scales of a whole 256-wide block: d[16], and dmin[16] behind; applied to the sums s, m. */
INLINE Lanes super_add(Type type, const uint8_t *d, Lanes s, Lanes m, Lanes acc) {
    acc = lanes_fma(lanes_from_f16(d), s, acc);
    if (type == TYPE_Q6) return acc;
    return lanes_fma(lanes_mul(lanes_set1(-1), lanes_from_f16(d + 32)), m, acc);
}

/* Where chunk c of a panel is, and the scales of its 256-wide block, if it has any. */
INLINE const uint8_t *chunk_at(Type type, size_t cols, const uint8_t *panel, size_t c) {
    return panel + panel_head_lines(type, cols) * LINE_BYTES + c * chunk_bytes(type);
}
INLINE const uint8_t *super_at(Type type, const uint8_t *panel, const uint8_t *chunk, size_t c) {
    return type == TYPE_Q6 ? panel + 32 * c : chunk + chunk_bytes(type) - LINE_BYTES;
}

/* Bring lines of np streams, `apart` bytes from each other, into the second-level cache. */
INLINE void prefetch_streams(const uint8_t *p, size_t np, size_t apart, size_t bytes) {
    UNROLL for (size_t i = 0; i < np; i++) {
        const uint8_t *from = p + i * apart;
        FORGET(from); /* or gcc keeps one address per line */
        for (size_t at = 0; at < bytes; at += LINE_BYTES) __builtin_prefetch(from + at, 0, 2);
    }
}

/* Blocks b and b + 1 of a chunk, of a panel and the one `apart` bytes behind it, times nt tokens.
 * m: sums of min dq. */
INLINE void pair_blocks(Type type, size_t nt, const uint8_t *chunk, const ChunkScales *k,
                        ptrdiff_t apart, size_t n_blocks, const Tokens *a, size_t b,
                        const uint8_t *fetch, Lanes *s, Lanes *m) {
    const uint8_t *codes = codes_of(type, chunk, b);
    UNROLL for (int half = 0; half < 2; half++) {
        size_t block = b + (size_t)half;
        if (block >= n_blocks) break;
        BlockScales w[STREAMS];
        UNROLL for (int p = 0; p < STREAMS; p++) w[p] =
            block_scales(type, chunk + p * apart, &k[p], block);
        tile_block(type, 0, STREAMS, nt, codes, apart, half, w, a, block, 0, fetch, s);
        codes += type_info(type)->codes * LINE_BYTES;
        if (!has_mins(type)) continue;
        UNROLL for (size_t j = 0; j < STREAMS * nt; j++) m[j] =
            lanes_fma(w[j / nt].second, lanes_set1(a->dq[block * nt + j % nt]), m[j]);
    }
}

/* A pair of panels times nt tokens: a chunk of n_blocks. s, m: of panel p and token t at p nt + t.
 */
INLINE void few_tokens_chunk(Type type, size_t nt, const uint8_t *chunk, ptrdiff_t apart,
                             size_t n_blocks, const Tokens *a, size_t ahead, Lanes *s, Lanes *m) {
    ChunkScales k[STREAMS];
    UNROLL for (int p = 0; p < STREAMS; p++) chunk_scales(type, chunk + p * apart, &k[p]);
    for (size_t b = 0; b < n_blocks; b += 2) {
        const uint8_t *fetch = chunk + b / 2 * (chunk_bytes(type) / 4) + ahead;
        pair_blocks(type, nt, chunk, k, apart, n_blocks, a, b, fetch, s, m);
    }
}

/* A pair of panels times nt tokens, all there are: read straight from the panels, because the
 * memory takes longer than the arithmetic. */
INLINE void few_tokens(Type type, size_t nt, const uint8_t *panel, ptrdiff_t apart,
                       const Operand *a, float *y) {
    const size_t n_blocks = a->cols / 32;
    Lanes acc[4 * STREAMS], s[4 * STREAMS], m[4 * STREAMS];
    UNROLL for (size_t j = 0; j < STREAMS * nt; j++) acc[j] = lanes_set1(0);
    for (size_t c = 0; 8 * c < n_blocks; c++) {
        const uint8_t *chunk = chunk_at(type, a->cols, panel, c);
        Tokens t = tokens_at(a, 0, 8 * c);
        UNROLL for (size_t j = 0; j < STREAMS * nt; j++) {
            s[j] = is_super(type) ? lanes_set1(0) : acc[j];
            m[j] = lanes_set1(0);
        }
        few_tokens_chunk(type, nt, chunk, apart, min_size(n_blocks - 8 * c, 8), &t, a->fetch_ahead,
                         s, m);
        UNROLL for (size_t j = 0; j < STREAMS * nt; j++) {
            const uint8_t *d = super_at(type, panel, chunk, c) + (ptrdiff_t)(j / nt) * apart;
            acc[j] = is_super(type) ? super_add(type, d, s[j], m[j], acc[j]) : s[j];
        }
    }
    UNROLL for (size_t j = 0; j < STREAMS * nt; j++)
        lanes_store(y + j / nt * GROUP_TOKENS * PANEL_ROWS + j % nt * PANEL_ROWS, acc[j]);
}

/* A block unpacked: eight lines of codes, a byte each, or q8 as 16 lines of words, and
 * its scales. */
typedef struct {
    uint8_t codes[(BYTE_PAIRS ? 16 : 8) * LINE_BYTES];
    float first[16], second[16];
} Block;

/* Unpack the blocks of a chunk. (q8 has nothing to unpack: see block_codes.) Not inlined, or gcc
 * keeps its masks in registers that tiles need. */
TARGET static __attribute__((noinline)) void chunk_unpack(Type type, const uint8_t *chunk,
                                                          size_t n_blocks, Block *out) {
    if (type == TYPE_Q8) return;
    ChunkScales k;
    chunk_scales(type, chunk, &k);
    for (size_t b = 0; b < n_blocks; b++) {
        const uint8_t *codes = codes_of(type, chunk, b);
        UNROLL for (int r = 0; r < 8; r++)
            line_store(out[b].codes + r * LINE_BYTES, block_line(type, codes, r));
        BlockScales w = block_scales(type, chunk, &k, b);
        lanes_store(out[b].first, w.first);
        lanes_store(out[b].second, w.second);
    }
}

/* Codes of block b: q8's lie in the panel's chunk, the others' were unpacked. */
INLINE const uint8_t *block_codes(Type type, const uint8_t *chunk, const Block *blocks, size_t b) {
    return type == TYPE_Q8 ? codes_of(type, chunk, b) : blocks[b].codes;
}

/* The scales of block b of a chunk that chunk_unpack went over, which left q8's where they are. */
INLINE BlockScales unpacked_scales(Type type, const uint8_t *chunk, const Block *x, size_t b) {
    if (type == TYPE_Q8) return block_scales(type, chunk, NULL, b);
    return (BlockScales){lanes_load(x[b].first), lanes_load(x[b].second)};
}

/* A chunk of two panels: as it lies in them, and unpacked (unless q8: its bytes are codes already).
 * */
typedef struct {
    const uint8_t *chunk[2];
    const uint8_t *super[2]; /* scales of the 256-wide block */
    const Block (*blocks)[8];
    size_t n_blocks;
    const uint8_t *next; /* what is still to be fetched of the first panel, and as far into the
                            second: */
    size_t lines, share; /* so many lines of each, `share` of them for each block of each tile */
    bool words;          /* q8: blocks has them as words */
} ChunkPair;

/* What block b of a tile fetches, into the first level of the cache; q8, which nobody unpacks at
 * one go, into the second where the registers hold large tiles. (docs/speed.md) */
INLINE void fetch_share(Type type, const ChunkPair *w, size_t b) {
    const uint8_t *at = w->next + b * w->share * LINE_BYTES;
    const ptrdiff_t apart = w->chunk[1] - w->chunk[0];
    UNROLL_NOT for (size_t i = 0; i < w->share; i++, at += LINE_BYTES) {
        if (type == TYPE_Q8 && TILE_TOKENS > 2) {
            __builtin_prefetch(at, 0, 2);
            __builtin_prefetch(at + apart, 0, 2);
        } else {
            __builtin_prefetch(at, 0, 3);
            __builtin_prefetch(at + apart, 0, 3);
        }
    }
}

/* A tile is done: what the next one fetches. */
INLINE void fetched_share(ChunkPair *w) {
    const size_t lines = 8 * w->share;
    w->next += lines * LINE_BYTES;
    w->lines -= min_size(lines, w->lines);
    if (w->lines == 0) w->share = 0;
}

#if BYTE_PAIRS
/* Where there is no dot product of bytes, q8 costs less as words: 32 products of bytes with signs
 * take three instructions that multiply and one that adds, those of words two and two. Of the four
 * bytes of a row that meet four activations, the first and third go to one line of words, the
 * others to the next, and activations likewise. So many tokens pay for it: */
#define WORDS_TOKENS 8

INLINE void chunk_words(const uint8_t *chunk, size_t n_blocks, Block *out) {
    for (size_t b = 0; b < n_blocks; b++) {
        const uint8_t *codes = block_codes(TYPE_Q8, chunk, NULL, b);
        for (size_t r = 0; r < 8 * LINE_BYTES; r += LINE_BYTES) {
            line_store(out[b].codes + 2 * r, line_even_words(line_load(codes + r)));
            line_store(out[b].codes + 2 * r + LINE_BYTES, line_odd_words(line_load(codes + r)));
        }
    }
}

/* token_tile for two tokens and q8 as words. */
INLINE void words_tile(const ChunkPair *w, const Tokens *a, size_t i, float *y, size_t y_panel) {
    Lanes acc[4];
    Sums s[4];
    _Alignas(64) int16_t q[8][2][2][16]; /* block; even or odd; token */
    _Static_assert(TILE_TOKENS == 2 && sizeof q[0][0] == LINE_BYTES, "both tokens in a line");
    UNROLL for (size_t j = 0; j < 4; j++) acc[j] = lanes_load(y + j / 2 * y_panel + j % 2 * 16);
    for (size_t b = 0; b < w->n_blocks; b++) {
        Line x = line_load((const uint8_t *)a->q + (b * a->n + i) * 32);
        line_store((uint8_t *)q[b][0], line_even_words(x));
        line_store((uint8_t *)q[b][1], line_odd_words(x));
    }
    for (size_t b = 0; b < w->n_blocks; b++) {
        BlockScales scales[2];
        fetch_share(TYPE_Q8, w, b);
        UNROLL for (size_t j = 0; j < 4; j++) s[j] = sums_set1(0);
        UNROLL for (size_t p = 0; p < 2; p++) scales[p] =
            unpacked_scales(TYPE_Q8, w->chunk[p], NULL, b);
        UNROLL for (size_t r = 0; r < 8; r++) {
            UNROLL for (size_t p = 0; p < 2; p++) {
                const uint8_t *codes = w->blocks[p][b].codes + 2 * r * LINE_BYTES;
                Line even = line_load(codes), odd = line_load(codes + LINE_BYTES);
                UNROLL for (size_t t = 0; t < 2; t++) {
                    s[2 * p + t] = sums_dot_words(s[2 * p + t], even, q[b][0][t] + 2 * r);
                    s[2 * p + t] = sums_dot_words(s[2 * p + t], odd, q[b][1][t] + 2 * r);
                }
            }
        }
        tile_scale(TYPE_Q8, 2, 2, scales, a->d + b * a->n + i, NULL, s, NULL, acc);
    }
    UNROLL for (size_t j = 0; j < 4; j++) lanes_store(y + j / 2 * y_panel + j % 2 * 16, acc[j]);
}
#endif

/* Block b of both panels times nt tokens, added to acc. */
INLINE void chunk_pair_block(Type type, size_t nt, const ChunkPair *w, size_t b, const Tokens *a,
                             size_t i, Lanes *acc) {
    BlockScales scales[2];
    const uint8_t *codes = block_codes(type, w->chunk[0], w->blocks[0], b);
    ptrdiff_t apart = sizeof w->blocks[0];
    if (type == TYPE_Q8) apart = w->chunk[1] - w->chunk[0];
    UNROLL for (size_t p = 0; p < 2; p++) scales[p] =
        unpacked_scales(type, w->chunk[p], w->blocks[p], b);
    tile_block(type, 1, 2, nt, codes, apart, 0, scales, a, b, i, NULL, acc);
}

/* A chunk of two panels times nt tokens, from token i of the group on: add to y, where the second
 * panel and the tokens lie y_panel and 16 floats apart. */
INLINE void token_tile(Type type, size_t nt, const ChunkPair *w, const Tokens *a, size_t i,
                       float *y, size_t y_panel) {
#if BYTE_PAIRS
    if (type == TYPE_Q8 && nt == TILE_TOKENS && w->words) {
        words_tile(w, a, i, y, y_panel);
        return;
    }
#endif
    Lanes s[8];
    UNROLL for (size_t j = 0; j < 2 * nt; j++) s[j] =
        is_super(type) ? lanes_set1(0) : lanes_load(y + j / nt * y_panel + j % nt * 16);
    for (size_t b = 0; b < w->n_blocks; b++) {
        fetch_share(type, w, b);
        chunk_pair_block(type, nt, w, b, a, i, s);
    }
    UNROLL for (size_t j = 0; j < 2 * nt; j++) {
        float *out = y + j / nt * y_panel + j % nt * 16;
        if (is_super(type)) {
            Lanes m = lanes_set1(0);
            for (size_t b = 0; has_mins(type) && b < 8; b++)
                m = lanes_fma(lanes_load(w->blocks[j / nt][b].second),
                              lanes_set1(a->dq[b * a->n + i + j % nt]), m);
            s[j] = super_add(type, w->super[j / nt], s[j], m, lanes_load(out));
        }
        lanes_store(out, s[j]);
    }
}

/* The same for all tokens of a group. */
INLINE void token_tiles(Type type, ChunkPair *w, const Tokens *a, float *y, size_t y_panel) {
    size_t i = 0;
    for (; TILE_TOKENS > 1 && i + TILE_TOKENS <= a->n; i += TILE_TOKENS, fetched_share(w))
        token_tile(type, TILE_TOKENS, w, a, i, y + 16 * i, y_panel);
    for (; i < a->n; i++, fetched_share(w)) token_tile(type, 1, w, a, i, y + 16 * i, y_panel);
}

/* The same, with the size of a full group as a constant: its addresses cost less. */
INLINE void group_tiles(Type type, ChunkPair *w, const Tokens *a, float *y, size_t y_panel) {
    const Tokens full = {a->q, a->d, a->dq, a->sum, GROUP_TOKENS};
    if (a->n == GROUP_TOKENS)
        token_tiles(type, w, &full, y, y_panel);
    else
        token_tiles(type, w, a, y, y_panel);
}

/* Tokens whose sums are under way together: a chunk is unpacked once for them. */
#define TOKEN_RUN 128

/* Tokens first .. first + n_tok - 1 (first: a whole number of groups) times two panels, of which
 * the second may be the first again. y, y_apart: their sums, in the cache meanwhile. */
INLINE void many_tokens(Type type, const uint8_t *const panels[2], const Operand *a, size_t first,
                        size_t n_tok, float *y, size_t y_apart) {
    _Alignas(64) Block blocks[2][8];
    const size_t all = a->cols / 32, tiles = n_tok / TILE_TOKENS + n_tok % TILE_TOKENS;
    const size_t lines = first == 0 ? chunk_bytes(type) / LINE_BYTES : 0; /* later all are cached */
    for (size_t p = 0; p < 2; p++) memset(y + p * y_apart, 0, n_tok * PANEL_ROWS * sizeof *y);
    for (size_t c = 0; 8 * c < all; c++) {
        ChunkPair pair = {.blocks = (const Block(*)[8])blocks,
                          .n_blocks = min_size(all - 8 * c, 8),
                          .lines = lines,
                          .share = (lines + 8 * tiles - 1) / (8 * tiles)};
#if BYTE_PAIRS
        pair.words = type == TYPE_Q8 && n_tok >= WORDS_TOKENS;
#endif
        for (size_t p = 0; p < 2; p++) {
            pair.chunk[p] = chunk_at(type, a->cols, panels[p], c);
            pair.super[p] = super_at(type, panels[p], pair.chunk[p], c);
            chunk_unpack(type, pair.chunk[p], pair.n_blocks, blocks[p]);
#if BYTE_PAIRS
            if (pair.words) chunk_words(pair.chunk[p], pair.n_blocks, blocks[p]);
#endif
        }
        pair.next = pair.chunk[0] + chunk_bytes(type);
        for (size_t g = 0; g < n_tok; g += GROUP_TOKENS) {
            Tokens t = tokens_at(a, first + g, 8 * c);
            group_tiles(type, &pair, &t, y + g * PANEL_ROWS, y_apart);
        }
    }
}

INLINE void matmul_blocks(Type type, const Panels *w, const Operand *a, float *y) {
    const size_t few = TILE_TOKENS > 2 ? TILE_TOKENS : 2, y_apart = outputs_size(a);
    for (size_t p = 0; p < w->n; p += 2, y += 2 * y_apart) {
        const uint8_t *at = panel_at(w, p), *panels[2] = {at, w->n - p > 1 ? at + w->apart : at};
        if (a->n_tok > few || w->n - p == 1)
            for (size_t t = 0; t < a->n_tok; t += TOKEN_RUN)
                many_tokens(type, panels, a, t, min_size(a->n_tok - t, TOKEN_RUN),
                            y + t * PANEL_ROWS, y_apart);
        else if (a->n_tok == 1)
            few_tokens(type, 1, at, w->apart, a, y);
        else if (a->n_tok == 2)
            few_tokens(type, 2, at, w->apart, a, y);
        else if (few > 2 && a->n_tok == 3)
            few_tokens(type, 3, at, w->apart, a, y);
        else if (few > 2)
            few_tokens(type, 4, at, w->apart, a, y);
    }
}

/* A function of the table for one type. */
#define MATMUL(name, type, how)                                                                    \
    TARGET static void name(const Panels *w, const Operand *a, float *y) { how(type, w, a, y); }

MATMUL(matmul_f32, TYPE_F32, matmul_plain)
MATMUL(matmul_f16, TYPE_F16, matmul_plain)
MATMUL(matmul_bf16, TYPE_BF16, matmul_plain)
MATMUL(matmul_q8, TYPE_Q8, matmul_blocks)
MATMUL(matmul_q5, TYPE_Q5, matmul_blocks)
MATMUL(matmul_q6, TYPE_Q6, matmul_blocks)
MATMUL(matmul_q5_0, TYPE_Q5_0, matmul_blocks)
MATMUL(matmul_q5_1, TYPE_Q5_1, matmul_blocks)
MATMUL(matmul_q4, TYPE_Q4, matmul_blocks)
MATMUL(matmul_q4_0, TYPE_Q4_0, matmul_blocks)

/* ---- attend ---------------------------------------------------------------------------------- */

/* Rows of the next tile when `left` are left: as many as the registers hold, in even shares. */
INLINE size_t tile_rows(size_t left) {
    const size_t most = TILE_TOKENS > 2 ? 8 : 6;
    return left <= most ? left : min_size((left + 1) / 2, most);
}

/* tile(n) with an n of 1 .. 8, known only now, as a constant: what it holds stays in registers. */
#define WITH_ROWS(n, tile)                                                                         \
    switch (n) {                                                                                   \
    case 1: tile(1); break;                                                                        \
    case 2: tile(2); break;                                                                        \
    case 3: tile(3); break;                                                                        \
    case 4: tile(4); break;                                                                        \
    case 5: tile(5); break;                                                                        \
    case 6: tile(6); break;                                                                        \
    case 7: tile(7); break;                                                                        \
    default: tile(8);                                                                              \
    }

/* Floats: n heads q (n, D) of one token against 16 keys of a block: lane = key. */
INLINE void float_scores(size_t n, size_t head_dim, const float *q, const float *keys,
                         float *scores) {
    Lanes acc[8];
    UNROLL for (size_t i = 0; i < n; i++) acc[i] = lanes_set1(0);
    for (size_t d = 0; d < head_dim; d++, q++) {
        Lanes k = lanes_load(keys + KV_BLOCK * d);
        UNROLL for (size_t i = 0; i < n; i++) acc[i] =
            lanes_fma(lanes_set1(q[i * head_dim]), k, acc[i]);
    }
    UNROLL for (size_t i = 0; i < n; i++) lanes_store(scores + i * ATTEND_KEYS, acc[i]);
}

/* A row's scores of n keys become e; what the cache held behind them stays out of it. */
INLINE void float_exp(float *s, size_t n, float *max, float *sum) {
    Lanes top = lanes_set1(-INFINITY), all = lanes_set1(0);
    for (size_t j = 0; j < n; j += 16)
        top = lanes_max(lanes_load_fill(s + j, n - j, -INFINITY), top);
    *max = lanes_largest(top);
    for (size_t j = 0; j < n; j += 16) {
        Lanes e = lanes_exp(lanes_sub(lanes_load(s + j), lanes_set1(*max)));
        lanes_store(s + j, e);
        all = lanes_add(all, lanes_first(e, n - j));
    }
    *sum = lanes_sum(all);
}

/* n rows e (n, ATTEND_KEYS) of one token times 16 columns of its n_keys values: lane = column. */
INLINE void float_values(size_t n, const Attend *a, const float *e, size_t n_keys, size_t d,
                         float *out) {
    const size_t columns = kv_columns(a->head_dim);
    const float *v = (const float *)(const void *)a->v + d;
    Lanes acc[8];
    UNROLL for (size_t i = 0; i < n; i++) acc[i] = lanes_set1(0);
    for (size_t j = 0; j < n_keys; j++, e++, v += columns) {
        Lanes x = lanes_load(v);
        UNROLL for (size_t i = 0; i < n; i++) acc[i] =
            lanes_fma(lanes_set1(e[i * ATTEND_KEYS]), x, acc[i]);
    }
    UNROLL for (size_t i = 0; i < n; i++) lanes_store(out + i * columns + d, acc[i]);
}

/* How many keys from `first` on a row of tokens at `pos` and behind sees; row: token * G + head. */
static size_t row_keys(uint32_t pos, uint32_t n_heads, size_t row, size_t first) {
    size_t end = pos + row / n_heads + 1;
    return end > first ? end - first : 0;
}

/* Token by token. */
TARGET static void attend_f32(const Attend *a) {
    const size_t dim = a->head_dim, columns = kv_columns(a->head_dim);
    float *scores = a->scratch;
    for (size_t row = 0, n; row < (size_t)a->n_tok * a->n_heads; row += n) {
        size_t t = row / a->n_heads, h = row % a->n_heads;
        size_t n_keys = min_size(row_keys(a->pos, a->n_heads, row, a->first), ATTEND_KEYS);
        const float *q = a->q + t * a->q_stride + h * dim;
        float *out = a->to.out + row * columns;
        n = tile_rows(a->n_heads - h);
        for (size_t j = 0; j < n_keys; j += 16) {
            const float *keys =
                (const float *)(const void *)a->k + j / KV_BLOCK * KV_BLOCK * dim + j % KV_BLOCK;
#define SCORES(rows) float_scores(rows, dim, q, keys, scores + j)
            WITH_ROWS(n, SCORES)
        }
        for (size_t i = 0; i < n; i++)
            float_exp(scores + i * ATTEND_KEYS, n_keys, a->to.max + row + i, a->to.sum + row + i);
        for (size_t d = 0; d < columns; d += 16) {
#define VALUES(rows) float_values(rows, a, scores, n_keys, d, out)
            WITH_ROWS(n, VALUES)
        }
    }
}

/* Heads of queries, keys and values as vectors of int16 with a scale each (words() in kernels.h):
 * products are summed two at a time, and exactly. A row's weights for a part of the keys are scaled
 * by their sum instead of their norm, which bounds the sum of their products with values likewise.
 *
 * Rows meet WORD_KEYS keys, then their values. What comes from memory is asked for a part ahead:
 * with the keys their values, with exponentials and values the keys of the next part. */

/* The scratch of attend with int16 keys. Rows of `scores` are a line longer than they need to be,
 * so that they do not all fall into the same sets of the first-level cache. */
typedef struct {
    int16_t q[ATTEND_ROWS][MAX_HEAD_DIM];
    float scores[ATTEND_ROWS][WORD_KEYS + 16];
    int16_t weights[ATTEND_ROWS][WORD_KEYS];
    int32_t sums[8][MAX_HEAD_DIM]; /* weights times values, of a tile of rows */
    float q_scale[ATTEND_ROWS], v_scale[WORD_KEYS];
    uint32_t sees[ATTEND_ROWS]; /* keys of this part */
    float now_max[ATTEND_ROWS], now_sum[ATTEND_ROWS];
    float before[ATTEND_ROWS], now[ATTEND_ROWS]; /* factors of what was found, and of what is */
} WordsScratch;
_Static_assert(sizeof(WordsScratch) <= ATTEND_BYTES, "room for the scratch");
#define WORDS_NORM 32767.0f

/* The low 16 bits of each lane: x scale, to the nearest int16. */
INLINE Sums words_round(Lanes x, Lanes scale) {
    return lanes_bits(lanes_fma(x, scale, lanes_set1(0x1.8p23f)));
}

/* What brings numbers of this norm to WORDS_NORM; 0 if they are all 0, or not all finite: their
 * norm, in their scale, will say so. */
INLINE float words_factor(float norm) { return norm > 0 ? WORDS_NORM / norm : 0; }

INLINE float words_of(int16_t *w, const float *x, size_t n) {
    Lanes squares = lanes_set1(0);
    for (size_t i = 0; i < n; i += 16) {
        Lanes v = lanes_load_some(x + i, n - i);
        squares = lanes_fma(v, v, squares);
    }
    float norm = sqrtf(lanes_sum(squares));
    Lanes by = lanes_set1(words_factor(norm));
    for (size_t i = 0; i < n; i += 16)
        sums_store_low_words(w + i, words_round(lanes_load_some(x + i, n - i), by));
    return norm / WORDS_NORM;
}

/* How many blocks of 16 keys, or of 16 columns, a tile takes side by side: two where registers
 * allow it, so that more sums are under way. */
#define WIDE (TILE_TOKENS > 2 ? 2 : 1)

/* What attend() asks memory for, in streams that take turns: where pages are small, the processor's
 * own prefetcher needs several under way. */
#define FETCH_STREAMS 4
typedef struct {
    const uint8_t *at[FETCH_STREAMS]; /* the next line of each, the one whose turn it is first */
} FetchStreams;

static FetchStreams streams_cut(const uint8_t *at, size_t bytes) {
    FetchStreams f;
    for (size_t i = 0; i < FETCH_STREAMS; i++) f.at[i] = at + i * (bytes / FETCH_STREAMS);
    return f;
}

/* Ask for the next n lines. */
INLINE void streams_fetch(FetchStreams *f, size_t n) {
    const uint8_t *at = f->at[0];
    UNROLL for (size_t i = 0; i < n; i++) __builtin_prefetch(at + i * LINE_BYTES, 0, 2);
    UNROLL for (size_t i = 1; i < FETCH_STREAMS; i++) f->at[i - 1] = f->at[i];
    f->at[FETCH_STREAMS - 1] = at + n * LINE_BYTES;
}

/* np lines of words times a pair of words of each of n rows, which lie `apart`, to acc (n, np). */
INLINE void word_lines(size_t n, size_t np, const uint8_t *lines, const int16_t *pairs,
                       size_t apart, Sums *acc) {
    Line x[2];
    UNROLL for (size_t p = 0; p < np; p++) x[p] = line_load_words(lines + p * LINE_BYTES);
    UNROLL for (size_t i = 0; i < n * np; i++) acc[i] =
        sums_dot_words(acc[i], x[i % np], pairs + i / np * apart);
}

/* Scores of rows row .. row + n - 1 against 16 np keys of a block, the part's j .. j + 16 np - 1:
 * lane = key. n np <= 16. With each line of keys one of `fetch` is asked for. */
INLINE void word_scores(const Attend *a, size_t n, size_t np, size_t row, size_t j,
                        const uint8_t *keys, FetchStreams *fetch) {
    WordsScratch *s = a->scratch;
    const int16_t *q = s->q[row];
    FetchStreams f = *fetch; /* in registers */
    Sums acc[16];
    UNROLL for (size_t i = 0; i < n * np; i++) acc[i] = sums_set1(0);
    for (size_t d = 0; d < a->head_dim; d += 2, q += 2, keys += 2 * LINE_BYTES) {
        word_lines(n, np, keys, q, MAX_HEAD_DIM, acc);
        streams_fetch(&f, np);
    }
    *fetch = f;
    UNROLL for (size_t i = 0; i < n * np; i++) {
        Lanes k_scale = lanes_load((const float *)(const void *)(keys + i % np * LINE_BYTES));
        Lanes scale = lanes_mul(k_scale, lanes_set1(s->q_scale[row + i / np]));
        lanes_store(s->scores[row + i / np] + j + i % np * 16,
                    lanes_mul(lanes_from_sums(acc[i]), scale));
    }
}

/* Row r's largest score. */
INLINE void word_max(WordsScratch *s, size_t r) {
    const size_t n = s->sees[r];
    Lanes top = lanes_set1(-INFINITY);
    for (size_t j = 0; j < n; j += 16)
        top = lanes_max(lanes_load_fill(s->scores[r] + j, n - j, -INFINITY), top);
    s->now_max[r] = lanes_largest(top);
}

/* Its scores become weights, and their sum a factor of what they will find. */
INLINE void word_exp(WordsScratch *s, size_t r) {
    const size_t n = s->sees[r];
    Lanes sum = lanes_set1(0), weights = sum, max = lanes_set1(s->now_max[r]);
    for (size_t j = 0; j < n; j += 16) {
        Lanes x = lanes_load_fill(s->scores[r] + j, n - j, -INFINITY);
        Lanes e = lanes_exp(lanes_sub(x, max));
        Lanes w = lanes_first(lanes_mul(e, lanes_load(s->v_scale + j)), n - j);
        sum = lanes_add(sum, e);
        weights = lanes_add(weights, w);
        lanes_store(s->scores[r] + j, w);
    }
    s->now_sum[r] = lanes_sum(sum);
    s->now[r] = lanes_sum(weights);
}

/* They become int16, with zeros behind them. */
INLINE void word_round(WordsScratch *s, size_t r) {
    const size_t n = s->sees[r];
    Lanes factor = lanes_set1(words_factor(s->now[r]));
    size_t j = 0;
    for (; j < n; j += 16)
        sums_store_low_words(s->weights[r] + j, words_round(lanes_load(s->scores[r] + j), factor));
    for (; j < WORD_KEYS; j += 16) sums_store_low_words(s->weights[r] + j, sums_set1(0));
    s->now[r] /= WORDS_NORM;
}

/* exp(a - max) and exp(b - max) for n maxima, 8 at most, where max is the larger one of each, which
 * becomes a: as factor[i] and factor[8 + i]. */
INLINE void join_factors(float *a, const float *b, size_t n, float *factor) {
    memset(factor, 0, 16 * sizeof *factor);
    for (size_t i = 0; i < n; i++) {
        float before = a[i], max = before > b[i] ? before : b[i];
        factor[i] = before - max;
        factor[8 + i] = b[i] - max;
        a[i] = max;
    }
    lanes_store(factor, lanes_exp(lanes_load(factor)));
}

/* The factors that join a part to what was found before. */
INLINE void word_join(const Attend *a, size_t row, size_t rows) {
    WordsScratch *s = a->scratch;
    float factor[16];
    for (; row < rows; row += 8) {
        size_t n = min_size(rows - row, 8);
        join_factors(a->to.max + row, s->now_max + row, n, factor);
        for (size_t i = 0; i < n; i++) {
            float *sum = &a->to.sum[row + i];
            *sum = *sum * factor[i] + s->now_sum[row + i] * factor[8 + i];
            s->before[row + i] = factor[i];
            s->now[row + i] *= factor[8 + i];
        }
    }
}

/* The part's scores become weights: each step for all rows before the next one, as those of one row
 * wait for each other. `lines` of `fetch` are asked for meanwhile, evenly. */
INLINE void word_weights(const Attend *a, size_t row, size_t rows, size_t first, size_t n,
                         const uint8_t *values, FetchStreams *fetch, size_t lines) {
    WordsScratch *s = a->scratch;
    const uint8_t *scales = values + kv_columns(a->head_dim) * LINE_BYTES;
    for (size_t j = 0; j < n; j += KV_BLOCK, scales += values_bytes(a->head_dim, false))
        memcpy(s->v_scale + j, scales, KV_BLOCK * sizeof *s->v_scale);
    for (size_t r = row; r < rows; r++)
        s->sees[r] = (uint32_t)min_size(row_keys(a->pos, a->n_heads, r, first), n);
    for (size_t r = row; r < rows; r++) word_max(s, r);
    for (size_t r = row, asked = 0; r < rows; r++) {
        for (; asked * (rows - row) < lines * (r - row + 1); asked += 2) streams_fetch(fetch, 2);
        word_exp(s, r);
    }
    for (size_t r = row; r < rows; r++) word_round(s, r);
    word_join(a, row, rows);
}

/* Some of a part's blocks of values: first .. end - 1, of `all`. */
typedef struct {
    const uint8_t *values; /* of the part */
    size_t first, end, all;
} ValueBlocks;

/* What n rows find in columns d .. d + 16 np - 1: lane = column. It is summed up in the scratch,
 * and with the last block joined to what was found before. With every second line of values one of
 * `fetch` is asked for. */
INLINE void word_values(const Attend *a, size_t n, size_t np, size_t row, size_t d,
                        const ValueBlocks *v, FetchStreams *fetch) {
    WordsScratch *s = a->scratch;
    FetchStreams f = *fetch; /* in registers */
    const size_t columns = kv_columns(a->head_dim), block = values_bytes(a->head_dim, false);
    const size_t step = values_step(columns, d) * LINE_BYTES;
    const int16_t *weights = s->weights[row] + v->first * KV_BLOCK;
    Sums acc[16];
    UNROLL for (size_t i = 0; i < n * np; i++) acc[i] =
        v->first == 0 ? sums_set1(0)
                      : sums_load((const uint8_t *)(s->sums[i / np] + d + i % np * 16));
    for (size_t b = v->first; b < v->end; b++) {
        const uint8_t *at = v->values + b * block + values_line(d) * LINE_BYTES;
        for (size_t r = 0; r < KV_BLOCK / 2; r += 2) {
            UNROLL for (size_t i = 0; i < 2; i++, weights += 2, at += step)
                word_lines(n, np, at, weights, WORD_KEYS, acc);
            streams_fetch(&f, np);
        }
    }
    *fetch = f;
    UNROLL for (size_t i = 0; i < n * np; i++) {
        if (v->end < v->all) {
            sums_store(s->sums[i / np] + d + i % np * 16, acc[i]);
            continue;
        }
        float *out = a->to.out + (row + i / np) * columns + d + i % np * 16;
        Lanes old = lanes_mul(lanes_load(out), lanes_set1(s->before[row + i / np]));
        lanes_store(out, lanes_fma(lanes_from_sums(acc[i]), lanes_set1(s->now[row + i / np]), old));
    }
}

/* Rows row .. rows - 1, tile by tile. The first tile has what comes next fetched, for all of them;
 * to the others `fetch` is what they read anyway. */
INLINE void word_scores_rows(const Attend *a, size_t np, size_t row, size_t rows, size_t j,
                             const uint8_t *keys, FetchStreams *fetch) {
    FetchStreams none = streams_cut(keys, 0);
    for (size_t n; row < rows; row += n, fetch = &none) {
        n = tile_rows(rows - row);
#define WORD_SCORES(n) word_scores(a, n, np, row, j, keys, fetch)
        WITH_ROWS(n, WORD_SCORES)
    }
}
INLINE void word_values_rows(const Attend *a, size_t np, size_t row, size_t rows, size_t d,
                             const ValueBlocks *v, FetchStreams *fetch) {
    FetchStreams none = streams_cut(v->values, 0);
    for (size_t n; row < rows; row += n, fetch = &none) {
        n = tile_rows(rows - row);
#define WORD_VALUES(n) word_values(a, n, np, row, d, v, fetch)
        WITH_ROWS(n, WORD_VALUES)
    }
}

/* Rows `row` and up meet a part: n keys from `first` on. */
INLINE void word_part(const Attend *a, size_t row, size_t first, size_t n) {
    const size_t rows = (size_t)a->n_tok * a->n_heads, columns = kv_columns(a->head_dim);
    const size_t n_blocks = (n + KV_BLOCK - 1) / KV_BLOCK, before = (first - a->first) / KV_BLOCK;
    const size_t block = keys_bytes(a->head_dim, false), v_block = values_bytes(a->head_dim, false);
    const uint8_t *keys = a->k + before * block, *values = a->v + before * v_block;
    FetchStreams fetch = streams_cut(values, n_blocks * v_block);
    for (size_t b = 0; b < n_blocks; b++) /* the values' scales are needed before they are */
        prefetch_streams(values + b * v_block + columns * LINE_BYTES, 1, 0, 2 * LINE_BYTES);
    for (size_t j = 0, np; j < n; j += 16 * np) {
        size_t at = j / KV_BLOCK * block + j % KV_BLOCK / 16 * LINE_BYTES;
        np = n - j > 16 ? WIDE : 1;
        if (np == WIDE)
            word_scores_rows(a, WIDE, row, rows, j, keys + at, &fetch);
        else
            word_scores_rows(a, 1, row, rows, j, keys + at, &fetch);
    }
    fetch = streams_cut(keys + n_blocks * block, n_blocks * block);
    const size_t lines = n_blocks * (columns / 2 + 2); /* the values ask for the other half */
    word_weights(a, row, rows, first, n, values, &fetch, lines);
    /* A single tile of rows reads the values as they lie. With more of them, sums of all columns
     * would not fit: column by column. */
    const size_t at_once = rows - row == tile_rows(rows - row) ? 1 : n_blocks;
    for (size_t b = 0; b < n_blocks; b += at_once)
        for (size_t d = 0, np; d < columns; d += 16 * np) {
            ValueBlocks v = {values, b, b + at_once, n_blocks};
            np = columns - d > 16 ? WIDE : 1;
            if (np == WIDE)
                word_values_rows(a, WIDE, row, rows, d, &v, &fetch);
            else
                word_values_rows(a, 1, row, rows, d, &v, &fetch);
        }
}

TARGET static void attend_words(const Attend *a) {
    WordsScratch *s = a->scratch;
    const size_t rows = (size_t)a->n_tok * a->n_heads;
    for (size_t r = 0; r < rows; r++) {
        const float *q = a->q + r / a->n_heads * a->q_stride + r % a->n_heads * a->head_dim;
        s->q_scale[r] = words_of(s->q[r], q, a->head_dim);
        a->to.max[r] = -INFINITY;
        a->to.sum[r] = 0;
    }
    memset(a->to.out, 0, rows * kv_columns(a->head_dim) * sizeof *a->to.out);
    size_t n = min_size(row_keys(a->pos, a->n_heads, rows - 1, a->first), ATTEND_KEYS);
    for (size_t at = 0, row = 0; at < n; at += WORD_KEYS) {
        while (row_keys(a->pos, a->n_heads, row, a->first + at) == 0) row++;
        word_part(a, row, a->first + at, min_size(n - at, WORD_KEYS));
    }
}

TARGET static void kernel_join(const Found *a, const Found *b, uint32_t n, uint32_t head_dim) {
    const size_t columns = kv_columns(head_dim);
    float factor[16];
    for (size_t row = 0; row < n; row++) {
        if (row % 8 == 0) join_factors(a->max + row, b->max + row, min_size(n - row, 8), factor);
        Lanes before = lanes_set1(factor[row % 8]), more = lanes_set1(factor[8 + row % 8]);
        const float *from = b->out + row * columns;
        float *to = a->out + row * columns;
        a->sum[row] = a->sum[row] * factor[row % 8] + b->sum[row] * factor[8 + row % 8];
        for (size_t d = 0; d < columns; d += 16)
            lanes_store(to + d, lanes_fma(lanes_load(from + d), more,
                                          lanes_mul(lanes_load(to + d), before)));
    }
}

TARGET static float kernel_words(int16_t *w, const float *x, uint32_t n) {
    return words_of(w, x, n);
}

/* ---- Operations on rows ---------------------------------------------------------------------- */

TARGET static void kernel_rmsnorm(float *y, const float *x, const float *w, uint32_t n, float eps) {
    Lanes squares = lanes_set1(0);
    for (size_t i = 0; i < n; i += 16) {
        Lanes v = lanes_load_some(x + i, n - i);
        squares = lanes_fma(v, v, squares);
    }
    Lanes scale = lanes_set1(1 / sqrtf(lanes_sum(squares) / (float)n + eps));
    for (size_t i = 0; i < n; i += 16) {
        Lanes v = lanes_mul(lanes_load_some(x + i, n - i), scale);
        lanes_store_some(y + i, n - i, lanes_mul(v, lanes_load_some(w + i, n - i)));
    }
}

TARGET static void kernel_rope(float *x, uint32_t n_heads, uint32_t head_dim, const float *cos,
                               const float *sin) {
    size_t half = head_dim / 2;
    for (size_t h = 0; h < n_heads; h++, x += head_dim) {
        for (size_t i = 0; i < half; i += 16) {
            size_t left = half - i;
            Lanes a = lanes_load_some(x + i, left), b = lanes_load_some(x + half + i, left);
            Lanes c = lanes_load_some(cos + i, left), s = lanes_load_some(sin + i, left);
            lanes_store_some(x + i, left, lanes_sub(lanes_mul(a, c), lanes_mul(b, s)));
            lanes_store_some(x + half + i, left, lanes_add(lanes_mul(b, c), lanes_mul(a, s)));
        }
    }
}

TARGET static void kernel_silu_mul(float *g, const float *u, uint32_t n) {
    const Lanes one = lanes_set1(1);
    for (size_t i = 0; i < n; i += 16) {
        Lanes x = lanes_load_some(g + i, n - i);
        Lanes e = lanes_exp(lanes_mul(lanes_set1(-1), x));
        Lanes silu = lanes_div(x, lanes_add(one, e));
        lanes_store_some(g + i, n - i, lanes_mul(silu, lanes_load_some(u + i, n - i)));
    }
}

TARGET static void kernel_add(float *x, const float *y, uint32_t n) {
    for (size_t i = 0; i < n; i += 16)
        lanes_store_some(x + i, n - i,
                         lanes_add(lanes_load_some(x + i, n - i), lanes_load_some(y + i, n - i)));
}

/* x * 0 is 0 for a number and NaN for everything else: one fma each gathers whether all are
 * numbers. Four vectors at a time hide its latency. */
TARGET static bool kernel_max_finite(const float *x, uint32_t n, float *max) {
    const Lanes zero = lanes_set1(0);
    Lanes top[4], probe[4];
    UNROLL for (size_t j = 0; j < 4; j++) {
        top[j] = lanes_set1(-INFINITY);
        probe[j] = zero;
    }
    size_t i = 0;
    for (; i + 64 <= n; i += 64) {
        UNROLL for (size_t j = 0; j < 4; j++) {
            Lanes v = lanes_load(x + i + 16 * j);
            top[j] = lanes_max(v, top[j]);
            probe[j] = lanes_fma(v, zero, probe[j]);
        }
    }
    for (; i < n; i += 16) {
        Lanes v = lanes_load_fill(x + i, n - i, x[0]);
        top[0] = lanes_max(v, top[0]);
        probe[0] = lanes_fma(v, zero, probe[0]);
    }
    *max = lanes_largest(lanes_max(lanes_max(top[0], top[1]), lanes_max(top[2], top[3])));
    return lanes_sum(lanes_add(lanes_add(probe[0], probe[1]), lanes_add(probe[2], probe[3]))) == 0;
}

TARGET static float kernel_exp_sum(float *x, uint32_t n, float max, float scale) {
    Lanes sum = lanes_set1(0);
    for (size_t i = 0; i < n; i += 16) {
        Lanes v = lanes_sub(lanes_load_some(x + i, n - i), lanes_set1(max));
        v = lanes_exp(lanes_mul(v, lanes_set1(scale)));
        lanes_store_some(x + i, n - i, v);
        sum = lanes_add(sum, lanes_first(v, n - i));
    }
    return lanes_sum(sum);
}

/* How far ahead of itself read_all fetches, in each stream. */
#define READ_AHEAD 1088

TARGET static uint64_t kernel_read_all(const void *p, size_t bytes) {
    const uint8_t *b = p;
    size_t quarter = bytes / 4 / LINE_BYTES * LINE_BYTES;
    Sums s[4];
    UNROLL for (size_t j = 0; j < 4; j++) s[j] = sums_set1(0);
    for (size_t i = 0; i < quarter; i += LINE_BYTES) {
        prefetch_streams(b + i + READ_AHEAD, 4, quarter, LINE_BYTES);
        UNROLL for (size_t j = 0; j < 4; j++) s[j] = sums_add(s[j], sums_load(b + j * quarter + i));
    }
    for (size_t i = 4 * quarter; i < bytes; i += LINE_BYTES)
        s[0] = sums_add(s[0], sums_load(b + i));
    int32_t lane[16];
    sums_store(lane, sums_add(sums_add(s[0], s[1]), sums_add(s[2], s[3])));
    uint64_t all = 0;
    for (size_t i = 0; i < 16; i++) all += (uint32_t)lane[i];
    return all;
}

/* As many multiplications and additions as there are between two sums of 32 bits. *q is forgotten,
 * or gcc sees that all products are equal. */
INLINE Sums dot_step(Sums s, Line x, const int8_t **q) {
    FORGET(*q);
#if BYTE_PAIRS
    Line pairs = line_dot_pairs(x, *q);
    UNROLL for (int r = 1; r < 8; r++) {
        FORGET(*q);
        pairs = line_add_pairs(pairs, line_dot_pairs(x, *q));
    }
    return sums_add_pairs(s, pairs);
#else
    return sums_dot(s, x, x, *q);
#endif
}

TARGET static uint64_t kernel_dot_all(uint32_t rounds) {
    /* So many sums are under way, AT_ONCE of them in registers: enough to hide the latency of two
     * instructions a cycle. One line is enough: more of them would not fit beside the sums. */
    enum { CHAINS = 16, AT_ONCE = 2 * TILE_TOKENS * WIDE, CHAIN_OPS = BYTE_PAIRS ? 1024 : 256 };
    uint8_t ones[LINE_BYTES];
    memset(ones, 1, sizeof ones);
    const uint8_t *at = ones;
    FORGET(at); /* or gcc sees that all parts of the line are equal, and multiplies one of them */
    Line x = line_load(at);
    Sums s[CHAINS];
    UNROLL for (size_t j = 0; j < CHAINS; j++) s[j] = sums_set1(0);
    UNROLL for (size_t first = 0; first < CHAINS; first += AT_ONCE) {
        const int8_t *q = (const int8_t *)ones;
        for (uint32_t i = 0; i < DOT_ROUND_OPS / CHAIN_OPS / CHAINS * rounds; i++) {
            UNROLL for (size_t j = first; j < first + AT_ONCE; j++) s[j] = dot_step(s[j], x, &q);
        }
    }
    uint64_t all = 0;
    for (size_t j = 0; j < CHAINS; j++) all += (uint32_t)sums_total(s[j]);
    return 2 * all;
}

/* ---- The table ------------------------------------------------------------------------------- */

/* The members of an island's Kernels: those that a table made from it (amx.h, i8mm.h) has as well,
 * and those that it replaces. */
#define PLAIN_MATMULS [TYPE_F32] = matmul_f32, [TYPE_F16] = matmul_f16, [TYPE_BF16] = matmul_bf16
#define SAME_KERNELS                                                                               \
    .quantize = kernel_quantize, .attend = {attend_words, attend_f32}, .join = kernel_join,        \
    .words = kernel_words, .rmsnorm = kernel_rmsnorm, .rope = kernel_rope,                         \
    .silu_mul = kernel_silu_mul, .add = kernel_add, .max_finite = kernel_max_finite,               \
    .exp_sum = kernel_exp_sum, .read_all = kernel_read_all
#define OWN_KERNELS                                                                                \
    .matmul = {PLAIN_MATMULS,         [TYPE_Q8] = matmul_q8,     [TYPE_Q5] = matmul_q5,            \
               [TYPE_Q6] = matmul_q6, [TYPE_Q5_0] = matmul_q5_0, [TYPE_Q5_1] = matmul_q5_1,        \
               [TYPE_Q4] = matmul_q4, [TYPE_Q4_0] = matmul_q4_0},                                  \
    .dot_all = kernel_dot_all
