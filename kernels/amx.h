/* amx.h: what the matrix unit of Intel's CPUs since 2023 (AMX) does better than AVX-512.
 *
 * avx512.c includes this at its end: it uses that island's vectors and helpers, and the table below
 * is that island's with functions from here in place of its own.
 *
 * AMX has eight tiles, tmm0..7, of up to 16 rows of up to 64 bytes, and an instruction that adds
 * the product of two tiles to a third: C (M x N) += A (M x K) B (K x N), where a row of B holds,
 * for each n, four consecutive int8 (or two bf16) of k side by side. That is a line of a panel: B
 * comes straight from the file, with rows as n; A is 16 tokens; C is a token a row, an output row a
 * column. An instruction takes 16 cycles whatever the shapes.
 *
 *   - Exact: int8, one 32-wide block at a time, because every block has its own scales. The sums
 *     leave the tile as integers and get the same scales in the same order as everywhere else: the
 *     same bits. For five tokens and more.
 *   - Prompts: bf16. Weights are expanded, 512 columns of two panels at a time, into 32 KiB of
 *     tiles in the first-level cache, and met by all tokens there; sums stay floats in the tiles.
 *     That uses all of the unit, and is more precise: every activation keeps 8 bits, where int8
 *     keeps 7 below the largest of its block.
 *
 * The order of operations of the bf16 instruction is in Intel's manual (TDPBF16PS). */

#undef TARGET
#define TARGET __attribute__((target(AMX_SET)))

/* The compiler's own intrinsics do not say that a load reads memory, so stores before it may be
 * lost (gcc 12). Tiles are no operands that a compiler keeps track of: they are called by their
 * numbers. */
#define TILE_CONFIGURE(p) __asm__ volatile("ldtilecfg %0" ::"m"(*(p)) : "memory")
#define TILE_RELEASE() __asm__ volatile("tilerelease" ::: "memory")
#define TILE_ZERO(c) __asm__ volatile("tilezero %%tmm" #c ::: "memory")
#define TILE_LOAD(t, p, by)                                                                        \
    __asm__ volatile("tileloadd (%0,%1,1), %%tmm" #t ::"r"(p), "r"((size_t)(by)) : "memory")
/* The same, of what is read once: it does not push out of the first-level cache what stays there.
 */
#define TILE_STREAM(t, p, by)                                                                      \
    __asm__ volatile("tileloaddt1 (%0,%1,1), %%tmm" #t ::"r"(p), "r"((size_t)(by)) : "memory")
#define TILE_STORE(t, p, by)                                                                       \
    __asm__ volatile("tilestored %%tmm" #t ", (%0,%1,1)" ::"r"(p), "r"((size_t)(by)) : "memory")
/* c += a b */
#define TILE_DOT_I8(c, a, b)                                                                       \
    __asm__ volatile("tdpbssd %%tmm" #b ", %%tmm" #a ", %%tmm" #c ::: "memory")
#define TILE_DOT_BF16(c, a, b)                                                                     \
    __asm__ volatile("tdpbf16ps %%tmm" #b ", %%tmm" #a ", %%tmm" #c ::: "memory")

/* Every function below: tiles 0 and 1 are C, 2 is A, 3 is B. With all eight, two tiles of A times
 * two of B, there would be fewer loads; but a core has only so many to rename these into, and it
 * seems half of them when its other hardware thread is busy: then loads wait for products long
 * before them. With four, prompts are 1.6 times as fast there, and 3 to 6 % slower where the core
 * is one's own (docs/speed.md). */
typedef struct {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} TileConfig;

/* A: n_tok rows of k_bytes; B: k_bytes / 4 lines. Zeroes all tiles. */
INLINE void tile_shapes(size_t n_tok, size_t k_bytes) {
    TileConfig c = {.palette = 1};
    for (size_t t = 0; t < 4; t++) {
        c.rows[t] = (uint8_t)(t < 3 ? n_tok : k_bytes / 4);
        c.row_bytes[t] = (uint16_t)(t == 2 ? k_bytes : LINE_BYTES);
    }
    TILE_CONFIGURE(&c);
}

/* Lines that will be needed, asked for while tiles are multiplied: every n-th with one of n steps,
 * so that the memory's time and the unit's pass together. */
typedef struct {
    const uint8_t *at;
    size_t lines;
} Fetch;

/* Those of step i of n, to the first-level cache, if near, or else to the second. */
INLINE void fetch_step(Fetch f, size_t i, size_t n, int near) {
    for (; i < f.lines; i += n)
        if (near)
            __builtin_prefetch(f.at + i * LINE_BYTES, 0, 3);
        else
            __builtin_prefetch(f.at + i * LINE_BYTES, 0, 2);
}

/* The first n-th of some lines, rounded up; fetch_next: the next one. */
INLINE Fetch fetch_part(const void *at, size_t lines, size_t n) {
    return (Fetch){at, (lines + n - 1) / n};
}
INLINE void fetch_next(Fetch *f) { f->at += f->lines * LINE_BYTES; }

/* ---- Exact ----------------------------------------------------------------------------------- */

/* Integer sums of a panel's chunk times a group: [block][token][row]; in q6 blocks are 16 wide. */
typedef int32_t ChunkSums[16][GROUP_TOKENS][PANEL_ROWS];

/* sums = tokens codes */
INLINE void block_sums(const int8_t *tokens, const uint8_t *codes, void *sums) {
    TILE_ZERO(0);
    TILE_LOAD(3, codes, LINE_BYTES);
    TILE_LOAD(2, tokens, 32);
    TILE_DOT_I8(0, 2, 3);
    TILE_STORE(0, sums, LINE_BYTES);
}

/* All blocks of a chunk; codes up to 63 are the same signed and unsigned. */
INLINE void chunk_sums(Type type, const uint8_t *chunk, const Block *blocks, size_t n_blocks,
                       const Tokens *a, ChunkSums sums, Fetch next) {
    for (size_t b = 0; b < n_blocks; b++) {
        fetch_step(next, b, n_blocks, 0);
        const uint8_t *codes = block_codes(type, chunk, blocks, b);
        const int8_t *q = a->q + b * a->n * 32;
        block_sums(q, codes, sums[type == TYPE_Q6 ? 2 * b : b]);
        if (type == TYPE_Q6) block_sums(q + 16, codes + 4 * LINE_BYTES, sums[2 * b + 1]);
    }
}

/* Take off the offset that unpacked codes were stored with, as AMX takes signed codes. */
INLINE void blocks_centre(Type type, Block *blocks, size_t n_blocks) {
    const Line offset = _mm512_set1_epi8((char)code_offset(type));
    if (code_offset(type) == 0) return;
    for (size_t b = 0; b < n_blocks; b++) UNROLL for (int r = 0; r < 8; r++) {
            uint8_t *at = blocks[b].codes + r * LINE_BYTES;
            line_store(at, _mm512_sub_epi8(line_load(at), offset));
        }
}

INLINE void sums_take(size_t nt, int32_t (*sums)[PANEL_ROWS], Sums *s) {
    UNROLL for (size_t t = 0; t < nt; t++) s[t] = sums_load((const uint8_t *)sums[t]);
}

/* A panel's chunk times nt tokens from token i of the group on: add the scaled sums to y. */
INLINE void scale_tokens(Type type, size_t nt, const BlockScales *w, size_t n_blocks,
                         const uint8_t *super, ChunkSums sums, const Tokens *a, size_t i,
                         float (*y)[PANEL_ROWS], Fetch next) {
    Lanes acc[8], m[8], both[8];
    Sums s[8];
    UNROLL for (size_t t = 0; t < nt; t++) {
        acc[t] = is_super(type) ? lanes_set1(0) : lanes_load(y[t]);
        m[t] = lanes_set1(0);
    }
    for (size_t b = 0; b < n_blocks; b++) {
        const float *d = a->d + b * a->n + i, *dq = a->dq + b * a->n + i;
        fetch_step(next, b, n_blocks, 0);
        sums_take(nt, sums[type == TYPE_Q6 ? 2 * b : b] + i, s);
        if (type == TYPE_Q6) {
            tile_parts(1, nt, &w[b], s, 0, both);
            sums_take(nt, sums[2 * b + 1] + i, s);
            tile_parts(1, nt, &w[b], s, 1, both);
        }
        tile_scale(type, 1, nt, &w[b], d, dq, s, both, acc);
        if (!has_mins(type)) continue;
        UNROLL for (size_t t = 0; t < nt; t++) m[t] =
            lanes_fma(w[b].second, lanes_set1(dq[t]), m[t]);
    }
    UNROLL for (size_t t = 0; t < nt; t++) lanes_store(
        y[t], is_super(type) ? super_add(type, super, acc[t], m[t], lanes_load(y[t])) : acc[t]);
}

/* A panel's chunk times tokens first .. first + n_tok - 1 (first: a whole number of groups): add to
 * y. The tiles have the shape for groups of *shape tokens: to set it for each chunk took a quarter
 * of the time of 16 tokens. */
INLINE void chunk_tokens(Type type, const uint8_t *chunk, const uint8_t *super, size_t block,
                         size_t n_blocks, const Operand *a, size_t first, size_t n_tok,
                         size_t *shape, float (*y)[PANEL_ROWS]) {
    _Alignas(64) Block blocks[8];
    _Alignas(64) ChunkSums sums;
    BlockScales w[8];
    /* The next chunk is fetched meanwhile, evenly: with every block's sums, and with every block
     * that gets its scales, for eight tokens or one. */
    const size_t groups = (n_tok + GROUP_TOKENS - 1) / GROUP_TOKENS;
    const size_t calls = groups + n_tok / 8 + n_tok % 8;
    Fetch next = fetch_part(chunk + chunk_bytes(type), chunk_bytes(type) / LINE_BYTES, calls);
    chunk_unpack(type, chunk, n_blocks, blocks);
    blocks_centre(type, blocks, n_blocks);
    for (size_t b = 0; b < n_blocks; b++) w[b] = unpacked_scales(type, chunk, blocks, b);
    for (size_t g = 0, i; g < n_tok; g += GROUP_TOKENS) {
        Tokens t = tokens_at(a, first + g, block);
        if (t.n != *shape) tile_shapes(t.n, type == TYPE_Q6 ? 16 : 32);
        *shape = t.n;
        chunk_sums(type, chunk, blocks, n_blocks, &t, sums, next);
        fetch_next(&next);
        for (i = 0; i + 8 <= t.n; i += 8, fetch_next(&next))
            scale_tokens(type, 8, w, n_blocks, super, sums, &t, i, y + g + i, next);
        for (; i < t.n; i++, fetch_next(&next))
            scale_tokens(type, 1, w, n_blocks, super, sums, &t, i, y + g + i, next);
    }
}

/* Tokens first .. first + n_tok - 1 times np panels, 1 or 2, which are as many streams from memory.
 * Outputs: those of token `first`. */
INLINE void panel_pair_tokens(Type type, size_t np, const uint8_t *panel, ptrdiff_t apart,
                              const Operand *a, size_t first, size_t n_tok, size_t *shape,
                              float *y) {
    const size_t blocks = a->cols / 32, y_apart = outputs_size(a);
    for (size_t p = 0; p < np; p++) memset(y + p * y_apart, 0, n_tok * PANEL_ROWS * sizeof *y);
    for (size_t c = 0; 8 * c < blocks; c++) {
        for (size_t p = 0; p < np; p++) {
            const uint8_t *at = panel + (ptrdiff_t)p * apart;
            const uint8_t *chunk = chunk_at(type, a->cols, at, c);
            chunk_tokens(type, chunk, super_at(type, at, chunk, c), 8 * c,
                         min_size(blocks - 8 * c, 8), a, first, n_tok, shape,
                         (float(*)[PANEL_ROWS])(y + p * y_apart));
        }
    }
}

INLINE void amx_exact(Type type, const Panels *w, const Operand *a, float *y) {
    if (a->n_tok <= TILE_TOKENS) { /* these read panels as they lie in memory */
        avx512_kernels.matmul[type](w, a, y);
        return;
    }
    size_t shape = 0;
    for (size_t p = 0; p < w->n; p += 2, y += 2 * outputs_size(a))
        for (size_t t = 0; t < a->n_tok; t += TOKEN_RUN)
            panel_pair_tokens(type, min_size(w->n - p, 2), panel_at(w, p), w->apart, a, t,
                              min_size(a->n_tok - t, TOKEN_RUN), &shape, y + t * PANEL_ROWS);
    TILE_RELEASE();
}

MATMUL(amx_q8, TYPE_Q8, amx_exact)
MATMUL(amx_q5, TYPE_Q5, amx_exact)
MATMUL(amx_q6, TYPE_Q6, amx_exact)
MATMUL(amx_q5_0, TYPE_Q5_0, amx_exact)
MATMUL(amx_q5_1, TYPE_Q5_1, amx_exact)
MATMUL(amx_q4, TYPE_Q4, amx_exact)
MATMUL(amx_q4_0, TYPE_Q4_0, amx_exact)

/* ---- Prompts --------------------------------------------------------------------------------- */

typedef uint16_t Bf16Tile[16][32];
#define PIECE_BLOCKS (PROMPT_COLS / 32)

/* Where the tile of token t's group and block b is in Operand.b: see kernels.h. */
INLINE size_t bf16_tile(const Operand *a, size_t t, size_t b) {
    size_t all = ((size_t)a->cols + 31) / 32, groups = ((size_t)a->n_tok + 15) / 16;
    size_t first = b / PIECE_BLOCKS * PIECE_BLOCKS;
    return first * groups + t / 16 * min_size(all - first, PIECE_BLOCKS) + b - first;
}

#define LOG2_E 0x1.715476p0f

/* 2^x for x <= 0, to 2^-13 of it: for what is rounded to 8 bits. 2^x = 2^floor(x) 2^f with f = 0 ..
 * 1, of which this is a minimax polynomial. */
INLINE Lanes rough_exp2(Lanes x) {
    Lanes f = _mm512_reduce_ps(x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
    Lanes e = lanes_set1(0x1.3f96a4p-4f);
    e = lanes_fma(e, f, lanes_set1(0x1.cefc4cp-3f));
    e = lanes_fma(e, f, lanes_set1(0x1.64444cp-1f));
    e = lanes_fma(e, f, lanes_set1(0x1.fff632p-1f));
    return _mm512_scalef_ps(e, x);
}

/* silu(g) u = g u / (1 + e^-g), to 2^-12 of it; never with e^|g|, which may be infinite. */
INLINE Lanes rough_gated(Lanes g, Lanes u) {
    Lanes minus = lanes_from_bits(_mm512_or_si512(lanes_bits(g), sums_set1(INT32_MIN)));
    Lanes e = rough_exp2(lanes_mul(minus, lanes_set1(LOG2_E))), one = lanes_set1(1);
    Lanes above = _mm512_mask_mov_ps(one, _mm512_movepi32_mask(lanes_bits(g)), e);
    return lanes_mul(lanes_mul(g, u), lanes_mul(above, _mm512_rcp14_ps(lanes_add(one, e))));
}

/* Up to 16 columns of a token: of x, or if there is an `up` of silu(x) * up. */
INLINE Lanes rounded_lanes(const float *x, const float *up, size_t n) {
    return up ? rough_gated(lanes_load_some(x, n), lanes_load_some(up, n)) : lanes_load_some(x, n);
}

INLINE void round_piece(const Operand *a, const Piece *x, const float *up) {
    Bf16Tile *tiles = (Bf16Tile *)a->b;
    for (size_t k = 0; k < x->cols; k += 32) {
        size_t at = k / 16 * x->x_apart, left = x->cols - k;
        for (size_t i = 0, t = x->t; i < x->n_tok; i++, t++, at += x->x_stride) {
            size_t next = at + x->x_apart;
            Lanes low = rounded_lanes(x->x + at, up ? up + at : NULL, left);
            Lanes high = lanes_set1(0);
            if (left > 16) high = rounded_lanes(x->x + next, up ? up + next : NULL, left - 16);
            __m512bh both = _mm512_cvtne2ps_pbh(high, low);
            memcpy(tiles[bf16_tile(a, t, (x->k + k) / 32)][t % 16], &both, sizeof both);
        }
    }
}
TARGET static void amx_round(const Operand *a, const Piece *x) { round_piece(a, x, NULL); }
TARGET static void amx_round_gated(const Operand *a, const Piece *x, const float *up) {
    round_piece(a, x, up);
}

/* A code as a float: a byte of the mantissa of 2^15 (q8) or 2^7, where it counts as what it is. */
typedef struct {
    float base;
    uint64_t bytes; /* where the code goes */
    int shift;
} CodeFloat;

INLINE CodeFloat code_float(Type type) {
    return type == TYPE_Q8 ? (CodeFloat){0x1p15f, 0x2222222222222222, 8}
                           : (CodeFloat){0x1p7f, 0x4444444444444444, 16};
}

/* Base plus byte j of every dword. */
INLINE Lanes code_as_float(Type type, Line x, int j) {
    const CodeFloat f = code_float(type);
    const __m128i from =
        _mm_setr_epi32(j << f.shift, (j + 4) << f.shift, (j + 8) << f.shift, (j + 12) << f.shift);
    return lanes_from_bits(_mm512_mask_shuffle_epi8(lanes_bits(lanes_set1(f.base)), f.bytes, x,
                                                    _mm512_broadcast_i32x4(from)));
}

/* w = scale * (base + code) + bias, q8's codes being 128 more; q6 has a scale for each half of the
 * block. Weights are cut off to bf16, not rounded, which makes them smaller by half a unit of the
 * last place on average, 2^-8.5 of them: `up` makes up for it. */
typedef struct {
    Lanes scale[2], bias[2];
} Expansion;

INLINE Expansion expansion(Type type, const uint8_t *chunk, const ChunkScales *k,
                           const uint8_t *super, size_t b) {
    const Lanes up = lanes_set1(1 + 0x1.6ep-9f);
    const int offset = type == TYPE_Q8 ? Q8_OFFSET : code_offset(type);
    const float zero = code_float(type).base + (float)offset;
    const BlockScales s = block_scales(type, chunk, k, b);
    Lanes d = lanes_mul(is_super(type) ? lanes_from_f16(super) : s.first, up);
    Lanes by[2] = {is_super(type) ? lanes_mul(d, s.first) : d}, least = lanes_set1(0);
    by[1] = type == TYPE_Q6 ? lanes_mul(d, s.second) : by[0];
    if (type == TYPE_Q5_1) least = lanes_mul(s.second, up);
    if (has_mins(type))
        least = lanes_mul(lanes_mul(lanes_from_f16(super + 32), s.second),
                          lanes_mul(lanes_set1(-1), up));
    /* With 15 bits of the scales their product with `zero` is exact, and so a weight of zero. Next
     * to a least weight that would be less precise. */
    const bool cut = !has_mins(type) && type != TYPE_Q5_1;
    Expansion e;
    UNROLL for (int half = 0; half < 2; half++) {
        e.scale[half] =
            cut ? lanes_from_bits(sums_and(lanes_bits(by[half]), sums_set1(-512))) : by[half];
        e.bias[half] = lanes_fma(e.scale[half], lanes_set1(-zero), least);
    }
    return e;
}

/* (odd, even) pairs of bf16: the upper halves of both. */
INLINE Sums upper_halves(Lanes even, Lanes odd) {
    const __m128i each = _mm_setr_epi32(0x0302, 0x0706, 0x0b0a, 0x0f0e);
    return _mm512_mask_shuffle_epi8(lanes_bits(odd), 0x3333333333333333, lanes_bits(even),
                                    _mm512_broadcast_i32x4(each));
}

/* A line of codes, four columns of 16 rows, as two rows of a bf16 tile of two columns each. */
INLINE void expand_line(Type type, Line x, Lanes scale, Lanes bias, uint16_t (*out)[32]) {
    UNROLL for (int j = 0; j < 4; j += 2) {
        Lanes even = lanes_fma(code_as_float(type, x, j), scale, bias);
        Lanes odd = lanes_fma(code_as_float(type, x, j + 1), scale, bias);
        line_store((uint8_t *)out[j / 2], upper_halves(even, odd));
    }
}

/* A panel's chunk as bf16 tiles. */
INLINE void chunk_expand(Type type, const uint8_t *chunk, const uint8_t *super, size_t n_blocks,
                         Bf16Tile *tiles) {
    ChunkScales k;
    chunk_scales(type, chunk, &k);
    for (size_t b = 0; b < n_blocks; b++) {
        const uint8_t *codes = codes_of(type, chunk, b);
        Expansion e = expansion(type, chunk, &k, super, b);
        UNROLL for (int r = 0; r < 8; r++) expand_line(
            type, block_line(type, codes, r), e.scale[r / 4], e.bias[r / 4], tiles[b] + 2 * r);
    }
}

/* What is fetched to the second level while two panels meet a tile of tokens. */
typedef struct {
    Fetch panels[2]; /* of the next two panels, and */
    Fetch tokens;    /* of the next piece */
} Ahead;

/* A tile of A times two of B, over n steps of k: x (n) and w (2, n, the two w_apart from each
 * other); y (2, y_apart floats from each other): written if `fresh`, else added to. The next tile's
 * y, the 16 lines behind, are fetched to the first level meanwhile if there is something `ahead`.
 */
INLINE void dot_tiles(bool fresh, Bf16Tile *x, Bf16Tile *w, size_t w_apart, size_t n, float *y,
                      size_t y_apart, const Ahead *ahead) {
    const Fetch sums = {(const uint8_t *)(y + 16 * PANEL_ROWS), 16};
    /* A copy: to the compiler the unit may write to *ahead. */
    const Ahead f = ahead ? *ahead : (Ahead){.tokens = {0}};
    if (fresh) {
        TILE_ZERO(0);
        TILE_ZERO(1);
    } else {
        TILE_STREAM(0, y, LINE_BYTES);
        TILE_STREAM(1, y + y_apart, LINE_BYTES);
    }
    for (size_t b = 0; b < n; b++) {
        if (ahead) {
            fetch_step(sums, b, n, 1);
            fetch_step((Fetch){sums.at + y_apart * sizeof *y, 16}, b, n, 1);
            fetch_step(f.panels[0], b, n, 0);
            fetch_step(f.panels[1], b, n, 0);
            fetch_step(f.tokens, b, n, 0);
        }
        TILE_STREAM(2, x[b], LINE_BYTES);
        TILE_LOAD(3, w[b], LINE_BYTES);
        TILE_DOT_BF16(0, 2, 3);
        TILE_LOAD(3, w[w_apart + b], LINE_BYTES);
        TILE_DOT_BF16(1, 2, 3);
    }
    TILE_STORE(0, y, LINE_BYTES);
    TILE_STORE(1, y + y_apart, LINE_BYTES);
}

/* The same for n_rows rows (16 to a tile, the last may have fewer) from tile x on. */
INLINE void dot_rows(size_t n_rows, bool fresh, Bf16Tile *x, Bf16Tile *w, size_t w_apart, size_t n,
                     float *y, size_t y_apart, Ahead *ahead) {
    for (size_t r = 0; r < n_rows; r += 16) {
        dot_tiles(fresh, x + r / 16 * n, w, w_apart, n, y + r * PANEL_ROWS, y_apart, ahead);
        if (!ahead) continue;
        fetch_next(&ahead->panels[0]);
        fetch_next(&ahead->panels[1]);
        fetch_next(&ahead->tokens);
    }
}

/* Two panels, the same if there is but one, and a piece of their columns, from k on. */
typedef struct {
    const uint8_t *panel[2];
    size_t k, blocks;
} PairPiece;

INLINE PairPiece pair_piece(const Panels *w, const Operand *a, size_t p, size_t k) {
    const uint8_t *at = panel_at(w, p);
    return (PairPiece){
        {at, w->n - p == 1 ? at : at + w->apart}, k, min_size(a->cols - k, PROMPT_COLS) / 32};
}

/* Tokens first .. first + n_tok - 1 times a piece of two panels: to y, the outputs of token
 * `first`, which have what the columns before gave. Meanwhile what comes next is fetched, and
 * `lines` lines of tokens from x on. */
INLINE void prompt_columns(Type type, const PairPiece *pair, const PairPiece *next,
                           const Operand *a, size_t first, size_t n_tok, const void *x,
                           size_t lines, float *y) {
    _Alignas(64) Bf16Tile w[2][PIECE_BLOCKS];
    const size_t apart = outputs_size(a), rows = (n_tok + 15) / 16;
    const size_t panel_lines = (next->blocks + 7) / 8 * chunk_bytes(type) / LINE_BYTES;
    Ahead ahead = {.tokens = fetch_part(x, lines, rows)};
    for (size_t p = 0; p < 2; p++) {
        for (size_t b = 0; b < pair->blocks; b += 8) {
            size_t c = pair->k / 256 + b / 8;
            const uint8_t *chunk = chunk_at(type, a->cols, pair->panel[p], c);
            chunk_expand(type, chunk, super_at(type, pair->panel[p], chunk, c),
                         min_size(pair->blocks - b, 8), w[p] + b);
        }
        ahead.panels[p] =
            fetch_part(chunk_at(type, a->cols, next->panel[p], next->k / 256), panel_lines, rows);
    }
    dot_rows(n_tok, pair->k == 0, (Bf16Tile *)a->b + bf16_tile(a, first, pair->k / 32), w[0],
             PIECE_BLOCKS, pair->blocks, y, apart, &ahead);
}

/* Tokens first .. first + n_tok - 1, piece by piece of the columns: one stays in the second-level
 * cache until all panels met it, while the next one is fetched. */
INLINE void prompt_run(Type type, const Panels *w, const Operand *a, size_t first, size_t n_tok,
                       float *y) {
    const bool stay = (size_t)a->cols * n_tok * sizeof(uint16_t) <= PROMPT_BYTES;
    for (size_t k = 0; k < a->cols; k += PROMPT_COLS) {
        const size_t k_next = k + PROMPT_COLS < a->cols ? k + PROMPT_COLS : 0;
        const size_t pairs = (w->n + 1) / 2, blocks = min_size(a->cols - k_next, PROMPT_COLS) / 32;
        const size_t lines = stay ? 0 : (n_tok + 15) / 16 * blocks * 16;
        const uint8_t *x = (const uint8_t *)((Bf16Tile *)a->b + bf16_tile(a, first, k_next / 32));
        for (size_t i = 0; i < pairs; i++) {
            const size_t begin = lines * i / pairs, end = lines * (i + 1) / pairs;
            const PairPiece pair = pair_piece(w, a, 2 * i, k);
            /* Behind the last piece: what the next call will likely begin with. */
            const bool last = i + 1 == pairs;
            const PairPiece next =
                pair_piece(w, a, last && k_next > 0 ? 0 : 2 * i + 2, last ? k_next : k);
            prompt_columns(type, &pair, &next, a, first, n_tok, x + begin * LINE_BYTES, end - begin,
                           y + 2 * i * outputs_size(a));
        }
    }
}

INLINE void amx_prompt(Type type, const Panels *w, const Operand *a, float *y) {
    tile_shapes(16, LINE_BYTES);
    for (size_t t = 0; t < a->n_tok; t += PROMPT_RUN)
        prompt_run(type, w, a, t, min_size(a->n_tok - t, PROMPT_RUN), y + t * PANEL_ROWS);
    TILE_RELEASE();
}

MATMUL(amx_prompt_q8, TYPE_Q8, amx_prompt)
MATMUL(amx_prompt_q5, TYPE_Q5, amx_prompt)
MATMUL(amx_prompt_q6, TYPE_Q6, amx_prompt)
MATMUL(amx_prompt_q5_0, TYPE_Q5_0, amx_prompt)
MATMUL(amx_prompt_q5_1, TYPE_Q5_1, amx_prompt)
MATMUL(amx_prompt_q4, TYPE_Q4, amx_prompt)
MATMUL(amx_prompt_q4_0, TYPE_Q4_0, amx_prompt)

/* ---- Attention of prompts -------------------------------------------------------------------- *
 *
 * A row is a token's head. Scores are rows times keys, the result is weights times values: both are
 * products of tiles, 256 rows and 256 keys at a time, with the softmax's maximum and sum carried
 * from one part of the keys to the next (Milakov and Gimelshein, arXiv 1805.02867; Dao et al.,
 * arXiv 2205.14135). Scores go into an exponential, so 8 bits are not enough for them: q and k are
 * split in two bf16 each, k = k_high + k_low to 16 bits, and
 *     q k = q_high k_high + q_low k_high + q_high k_low
 * to 16 bits, as one product of rows (q_high, q_low, q_high) and keys (k_high, k_high, k_low). */

#define PART_KEYS 256
#define PART_STEPS (PART_KEYS / 32)
#define MAX_STEPS (MAX_HEAD_DIM / 32)
/* From 16 columns of sums to the next 16: one line more, so that they fall into different sets of
 * the first-level cache. */
#define SUMS_APART (ATTEND_ROWS * 16 + 16)

typedef struct {
    Bf16Tile q[ATTEND_ROWS / 16 * 3 * MAX_STEPS];    /* (row tile, 3 D/32) */
    Bf16Tile k[2 * 3 * MAX_STEPS];                   /* (2 blocks of 16 keys, 3 D/32) */
    Bf16Tile weights[ATTEND_ROWS / 16 * PART_STEPS]; /* (row tile, steps) exp(score - max) */
    Bf16Tile v[MAX_HEAD_DIM / 16 * PART_STEPS];      /* (16 columns of v, PART_STEPS) */
    float scores[PART_KEYS / 16 * SUMS_APART];       /* (16 keys, row, key) */
    float out[MAX_HEAD_DIM / 16 * SUMS_APART];       /* (16 columns of v, row, column) */
    float max[ATTEND_ROWS], sum[ATTEND_ROWS];
} PartScratch;

_Static_assert(ATTEND_BYTES >= sizeof(PartScratch), "room for the scratch");

INLINE Lanes upper_half(Lanes x) {
    return lanes_from_bits(sums_and(lanes_bits(x), sums_set1(-65536)));
}

/* Split row r of q: D floats. Scores will be logarithms to base 2. */
INLINE void split_query(PartScratch *s, size_t r, const float *q, size_t steps) {
    Bf16Tile *tiles = s->q + r / 16 * 3 * steps;
    for (size_t b = 0; b < steps; b++) {
        Lanes x = lanes_mul(lanes_load(q + 32 * b), lanes_set1(LOG2_E));
        Lanes y = lanes_mul(lanes_load(q + 32 * b + 16), lanes_set1(LOG2_E));
        Lanes x_high = upper_half(x), y_high = upper_half(y);
        __m512bh high = _mm512_cvtne2ps_pbh(y_high, x_high);
        __m512bh low = _mm512_cvtne2ps_pbh(lanes_sub(y, y_high), lanes_sub(x, x_high));
        memcpy(tiles[b][r % 16], &high, sizeof high);
        memcpy(tiles[steps + b][r % 16], &low, sizeof low);
        memcpy(tiles[2 * steps + b][r % 16], &high, sizeof high);
    }
}

/* The even and the odd words of a line, times their scales. */
INLINE Lanes even_words(const uint8_t *line, Lanes scale) {
    return lanes_mul(lanes_from_sums(_mm512_srai_epi32(_mm512_slli_epi32(sums_load(line), 16), 16)),
                     scale);
}
INLINE Lanes odd_words(const uint8_t *line, Lanes scale) {
    return lanes_mul(lanes_from_sums(_mm512_srai_epi32(sums_load(line), 16)), scale);
}

/* Split 16 keys of a block. */
INLINE void split_keys(Bf16Tile *tiles, const uint8_t *keys, size_t steps) {
    Lanes scale = lanes_load((const float *)(const void *)(keys + 32 * steps * LINE_BYTES));
    for (size_t d = 0; d < 32 * steps; d += 2, keys += 2 * LINE_BYTES) {
        Lanes even = even_words(keys, scale), odd = odd_words(keys, scale);
        Sums high = upper_halves(even, odd);
        Sums low = upper_halves(lanes_sub(even, upper_half(even)), lanes_sub(odd, upper_half(odd)));
        line_store((uint8_t *)tiles[d / 32][d % 32 / 2], high);
        line_store((uint8_t *)tiles[steps + d / 32][d % 32 / 2], high);
        line_store((uint8_t *)tiles[2 * steps + d / 32][d % 32 / 2], low);
    }
}

/* (odd, even) pairs of bf16, rounded to nearest. */
INLINE Sums rounded_pairs(Lanes even, Lanes odd) {
    _Alignas(64) static const uint16_t order[32] = {0,  16, 1,  17, 2,  18, 3,  19, 4,  20, 5,
                                                    21, 6,  22, 7,  23, 8,  24, 9,  25, 10, 26,
                                                    11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
    __m512bh both = _mm512_cvtne2ps_pbh(odd, even);
    Sums words;
    memcpy(&words, &both, sizeof words);
    return _mm512_permutexvar_epi16(_mm512_load_si512(order), words);
}

/* A line of values of positions i and i + 1 of a block, of which the first n exist: zeros behind
 * them. */
INLINE Sums value_pairs(const uint8_t *line, const float *scale, size_t i, size_t n) {
    const Lanes none = lanes_set1(0);
    return rounded_pairs(i < n ? even_words(line, lanes_set1(scale[i])) : none,
                         i + 1 < n ? odd_words(line, lanes_set1(scale[i + 1])) : none);
}

/* Values of keys first .. end - 1 as tiles. */
INLINE void round_part_values(PartScratch *s, const PromptAttend *a, size_t first, size_t end) {
    for (size_t j = first; j < end; j += KV_BLOCK) {
        const uint8_t *values = a->v + j / KV_BLOCK * values_bytes(a->head_dim, false);
        const float *scale = (const float *)(const void *)(values + a->head_dim * LINE_BYTES);
        for (size_t d = 0; d < a->head_dim; d += 16)
            for (size_t r = 0; r < KV_BLOCK / 2; r++)
                line_store((uint8_t *)s->v[d / 16 * PART_STEPS + (j - first) / 32][r],
                           value_pairs(values + (values_line(d) + 2 * r) * LINE_BYTES, scale, 2 * r,
                                       end - j));
    }
}

/* Row r's scores of n keys (0 .. PART_KEYS) of this part become weights, 0 behind the last: for
 * `steps` steps of 32 keys. Its sum and what it has of the result are brought to the new maximum.
 */
INLINE void part_weights(PartScratch *s, size_t r, size_t n, size_t steps, size_t head_dim) {
    Lanes x[PART_KEYS / 16], top = lanes_set1(s->max[r]), sum = lanes_set1(0);
    for (size_t i = 0; i < 2 * steps; i++) {
        x[i] = lanes_load(s->scores + i * SUMS_APART + r * 16);
        if (n < 16 * i + 16) {
            size_t left = n > 16 * i ? n - 16 * i : 0;
            x[i] = _mm512_mask_mov_ps(lanes_set1(-INFINITY), (__mmask16)((1u << left) - 1), x[i]);
        }
        top = lanes_max(x[i], top);
    }
    float max = _mm512_reduce_max_ps(top), before = 1;
    if (max != s->max[r])
        before = _mm512_cvtss_f32(lanes_exp(lanes_set1((s->max[r] - max) / LOG2_E)));
    for (size_t i = 0; i < steps; i++) {
        Lanes e = rough_exp2(lanes_sub(x[2 * i], lanes_set1(max)));
        Lanes f = rough_exp2(lanes_sub(x[2 * i + 1], lanes_set1(max)));
        __m512bh both = _mm512_cvtne2ps_pbh(f, e);
        memcpy(s->weights[r / 16 * steps + i][r % 16], &both, sizeof both);
        sum = lanes_add(sum, lanes_add(e, f));
    }
    s->max[r] = max;
    s->sum[r] = s->sum[r] * before + _mm512_reduce_add_ps(sum);
    if (before == 1) return;
    for (size_t d = 0; d < head_dim / 16; d++) {
        float *out = s->out + d * SUMS_APART + r * 16;
        lanes_store(out, lanes_mul(lanes_load(out), lanes_set1(before)));
    }
}

/* All rows from `row` on, a multiple of 16, meet keys first .. end - 1. */
INLINE void attend_keys(PartScratch *s, const PromptAttend *a, size_t row, size_t first,
                        size_t end) {
    const size_t rows = (size_t)a->n_tok * a->n_heads, d_steps = a->head_dim / 32;
    const size_t blocks = (end - first + 15) / 16, steps = (end - first + 31) / 32;
    for (size_t j = 0; j < blocks; j += 2) {
        const uint8_t *keys = a->k + (first + 16 * j) / KV_BLOCK * keys_bytes(a->head_dim, false);
        split_keys(s->k, keys, d_steps);
        if (j + 1 < blocks) split_keys(s->k + 3 * d_steps, keys + LINE_BYTES, d_steps);
        dot_rows(rows - row, true, s->q + row / 16 * 3 * d_steps, s->k, 3 * d_steps, 3 * d_steps,
                 s->scores + j * SUMS_APART + row * 16, SUMS_APART, NULL);
    }
    for (size_t r = row; r < rows; r++) {
        size_t n = min_size(row_keys(a->pos, a->n_heads, r, first), PART_KEYS);
        part_weights(s, r, n, steps, a->head_dim);
    }
    round_part_values(s, a, first, end);
    for (size_t d = 0; d < a->head_dim / 16; d += 2)
        dot_rows(rows - row, false, s->weights + row / 16 * steps, s->v + d * PART_STEPS,
                 PART_STEPS, steps, s->out + d * SUMS_APART + row * 16, SUMS_APART, NULL);
}

TARGET static void amx_prompt_attend(const PromptAttend *a) {
    PartScratch *s = a->scratch;
    const size_t rows = (size_t)a->n_tok * a->n_heads,
                 end = row_keys(a->pos, a->n_heads, rows - 1, 0);
    tile_shapes(16, LINE_BYTES);
    for (size_t r = 0; r < rows; r++) {
        split_query(s, r, a->q + r / a->n_heads * a->q_stride + r % a->n_heads * a->head_dim,
                    a->head_dim / 32);
        s->max[r] = -INFINITY;
        s->sum[r] = 0;
    }
    for (size_t d = 0; d < a->head_dim / 16; d++)
        memset(s->out + d * SUMS_APART, 0, rows * 16 * sizeof *s->out);
    for (size_t first = 0, row = 0; first < end; first += PART_KEYS) {
        while (row + 16 <= rows && row_keys(a->pos, a->n_heads, row + 15, first) == 0) row += 16;
        attend_keys(s, a, row, first, min_size(end, first + PART_KEYS));
    }
    for (size_t r = 0; r < rows; r++) {
        float *out = a->out + r / a->n_heads * a->out_stride + r % a->n_heads * a->head_dim;
        for (size_t d = 0; d < a->head_dim / 16; d++)
            lanes_store(out + 16 * d, lanes_div(lanes_load(s->out + d * SUMS_APART + r * 16),
                                                lanes_set1(s->sum[r])));
    }
    TILE_RELEASE();
}

/* The loop of dot_tiles with operands that stay in the first-level cache. They are random: the unit
 * is faster with numbers that have many zero bits. (Made sixteen at a time, or making them would
 * take longer than a thousand rounds.) */
TARGET static uint64_t amx_dot_all(uint32_t rounds) {
    _Alignas(64) Bf16Tile x[4][2];
    Sums lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    Sums state = _mm512_mullo_epi32(lanes, sums_set1(747796405));
    for (size_t i = 0; i < sizeof x; i += LINE_BYTES) {
        state = sums_add(_mm512_mullo_epi32(state, sums_set1(1664525)), sums_set1(1013904223));
        /* Its low bits are not random. */
        Sums bits = _mm512_xor_si512(state, sums_right(state, 16));
        /* 0.5 .. 2, either sign */
        bits = _mm512_or_si512(sums_and(bits, sums_set1(-0x7f007f01)), sums_set1(0x3f003f00));
        line_store((uint8_t *)x + i, bits);
    }
    tile_shapes(16, LINE_BYTES);
    for (uint32_t i = 0; i < rounds; i++) {
        for (int step = 0; step < 2; step++) {
            TILE_LOAD(2, x[step][i % 2], LINE_BYTES);
            TILE_LOAD(3, x[2][i % 2], LINE_BYTES);
            TILE_DOT_BF16(0, 2, 3);
            TILE_LOAD(3, x[3][i % 2], LINE_BYTES);
            TILE_DOT_BF16(1, 2, 3);
        }
    }
    TILE_RELEASE();
    return (uint64_t)rounds * DOT_ROUND_OPS;
}

/* ---- The table ------------------------------------------------------------------------------- */

/* Everything else as AVX-512 does it. */
const Kernels amx_kernels = {
    .name = "amx",
    SAME_KERNELS,
    .matmul = {PLAIN_MATMULS, [TYPE_Q8] = amx_q8, [TYPE_Q5] = amx_q5, [TYPE_Q6] = amx_q6,
               [TYPE_Q5_0] = amx_q5_0, [TYPE_Q5_1] = amx_q5_1, [TYPE_Q4] = amx_q4,
               [TYPE_Q4_0] = amx_q4_0},
    .round = amx_round,
    .round_gated = amx_round_gated,
    .prompt_matmul = {[TYPE_Q8] = amx_prompt_q8,
                      [TYPE_Q5] = amx_prompt_q5,
                      [TYPE_Q6] = amx_prompt_q6,
                      [TYPE_Q5_0] = amx_prompt_q5_0,
                      [TYPE_Q5_1] = amx_prompt_q5_1,
                      [TYPE_Q4] = amx_prompt_q4,
                      [TYPE_Q4_0] = amx_prompt_q4_0},
    .prompt_attend = amx_prompt_attend,
    .dot_all = amx_dot_all,
};
