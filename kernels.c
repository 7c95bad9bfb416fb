/* kernels.c: one island of kernels per instruction set, and the choice between them.
 *
 * An island is: its target macro, three vector types, and the primitives on them, in nearly the
 * same order everywhere; lanes.h then builds every kernel and the table from these. The scalar
 * island comes first: plain C that says what each primitive means. To add one, write another block
 * of the same shape, behind its own architecture guard, and a row in `choices` at the end; nothing
 * else changes. AVX2 and AVX-VNNI share most of their primitives (avx2.h). AMX and ARM's i8mm are
 * no islands: they replace functions of AVX-512's and NEON's tables (amx.h, i8mm.h). */
#if defined(__aarch64__) && !defined(__clang__)
/* gcc would move loads far ahead of their use, and for want of registers through the stack. */
#pragma GCC optimize("no-schedule-insns")
#endif
#include "kernels.h"

#include <math.h>

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif
#if defined(__linux__)
#include <sys/auxv.h>
#endif

/* NEON's int8 dot product belongs to ARMv8.2: gcc lets one function have it, clang before 16 only a
 * whole file (-march=armv8.2-a+dotprod, or a processor of Apple's). */
#if defined(__aarch64__) &&                                                                        \
    (defined(__ARM_FEATURE_DOTPROD) || !defined(__clang__) || __clang_major__ >= 16)
#define HAVE_NEON_DOT
#endif

/* The int8 matrix product belongs to ARMv8.6. Only Linux says at run time whether it is there. */
#if defined(HAVE_NEON_DOT) &&                                                                      \
    (defined(__ARM_FEATURE_MATMUL_INT8) ||                                                         \
     (defined(__linux__) && (!defined(__clang__) || __clang_major__ >= 16)))
#define HAVE_I8MM
#endif

/* AMX: what Linux gives to programs that ask for it, and assemblers know since these compilers. */
#if defined(__x86_64__) && defined(__linux__) &&                                                   \
    (defined(__clang__) ? __clang_major__ >= 12 : __GNUC__ >= 11)
#define HAVE_AMX
#include <sys/syscall.h>
#include <unistd.h>
#endif

/* AVX-VNNI: known since these compilers. */
#if defined(__x86_64__) && (defined(__clang__) ? __clang_major__ >= 12 : __GNUC__ >= 11)
#define HAVE_AVX_VNNI
#endif

/* Loops of a few constant rounds over registers are unrolled whole; some not at all. */
#if defined(__clang__)
#define UNROLL_16 _Pragma("clang loop unroll(full)")
#define UNROLL_NOT _Pragma("nounroll")
#else
#define UNROLL_16 _Pragma("GCC unroll 16")
#define UNROLL_NOT _Pragma("GCC unroll 1")
#endif

/* Kernels are made of small functions that take formats and counts as constants. Instrumented
 * builds define this as nothing: then they take them at run time, slowly, but compile in seconds.
 */
#ifndef KERNEL_INLINE
#define KERNEL_INLINE __attribute__((always_inline))
#endif

/* What an island's functions may be made of; and the instructions that add products of w and q to
 * s, because with their intrinsics gcc copies every sum before and after. test/emulate.c has all of
 * these in software. */
#if defined(__x86_64__) && !defined(AVX2_SET)
#define AVX2_SET "avx2,fma,f16c"
#define AVX_VNNI_SET AVX2_SET ",avxvnni"
#define AVX512_SET AVX2_SET ",avx512f,avx512bw,avx512vl,avx512dq,avx512vnni"
#define AMX_SET AVX512_SET ",avx512bf16,amx-tile,amx-int8,amx-bf16"
#define DOT_256(instruction, s, w, q)                                                              \
    __asm__("%{vex%} " #instruction " %2, %1, %0" : "+x"(s) : "x"(w), "xm"(q))
#define DOT_512(instruction, s, w, q) __asm__(#instruction " %2, %1, %0" : "+v"(s) : "v"(w), "v"(q))
#endif

/* From here on the compiler does not know where p points. Otherwise gcc keeps addresses and loaded
 * lines for a later use in registers that it does not have: on the stack. Reading twice is cheaper.
 */
#define FORGET(p) __asm__("" : "+r"(p))

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

/* How many keys from `first` on a row of tokens at `pos` and behind sees; row: token * G + head. */
static size_t row_keys(uint32_t pos, uint32_t n_heads, size_t row, size_t first) {
    size_t end = pos + row / n_heads + 1;
    return end > first ? end - first : 0;
}

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

/* How far ahead of itself read_all fetches, in each stream. */
#define READ_AHEAD 1088

/* How an island's functions are declared. */
#define INLINE TARGET static inline INLINED __attribute__((unused))

/* Every island defines the same names; the preprocessor appends the island's own, so that lanes_add
 * is lanes_add_avx2 in the second island, to the linker and the debugger. */
#define JOIN2(name, island) name##_##island
#define JOIN(name, island) JOIN2(name, island)
#define OWN(name) JOIN(name, ISLAND)
#define STRING2(name) #name
#define STRING(name) STRING2(name)
#define Lanes OWN(Lanes)
#define Sums OWN(Sums)
#define Line OWN(Line)
#define Block OWN(Block)
#define BlockScales OWN(BlockScales)
#define ChunkScales OWN(ChunkScales)
#define QuantBlock OWN(QuantBlock)
#define Tokens OWN(Tokens)
#define lanes_load OWN(lanes_load)
#define lanes_store OWN(lanes_store)
#define lanes_set1 OWN(lanes_set1)
#define lanes_add OWN(lanes_add)
#define lanes_sub OWN(lanes_sub)
#define lanes_mul OWN(lanes_mul)
#define lanes_div OWN(lanes_div)
#define lanes_fma OWN(lanes_fma)
#define lanes_max OWN(lanes_max)
#define lanes_if_less OWN(lanes_if_less)
#define lanes_from_f16 OWN(lanes_from_f16)
#define lanes_from_bits OWN(lanes_from_bits)
#define lanes_bits OWN(lanes_bits)
#define lanes_from_sums OWN(lanes_from_sums)
#define lanes_from_f16_low OWN(lanes_from_f16_low)
#define sums_load OWN(sums_load)
#define sums_store OWN(sums_store)
#define sums_store_low_bytes OWN(sums_store_low_bytes)
#define sums_set1 OWN(sums_set1)
#define sums_add OWN(sums_add)
#define sums_and OWN(sums_and)
#define sums_max OWN(sums_max)
#define sums_largest OWN(sums_largest)
#define sums_total OWN(sums_total)
#define bytes_total OWN(bytes_total)
#define sums_left OWN(sums_left)
#define sums_right OWN(sums_right)
#define sums_from_u8 OWN(sums_from_u8)
#define sums_from_i8 OWN(sums_from_i8)
#define line_load OWN(line_load)
#define line_load_q8 OWN(line_load_q8)
#define line_store OWN(line_store)
#define line_from_u4 OWN(line_from_u4)
#define nibbles_32 OWN(nibbles_32)
#define line_bits OWN(line_bits)
#define line_or_bits OWN(line_or_bits)
#define line_shift OWN(line_shift)
#define sums_dot OWN(sums_dot)
#define sums_dot_q8 OWN(sums_dot_q8)
#define line_load_words OWN(line_load_words)
#define sums_dot_words OWN(sums_dot_words)
#define sums_store_low_words OWN(sums_store_low_words)
#define lanes_load_fill OWN(lanes_load_fill)
#define lanes_load_some OWN(lanes_load_some)
#define lanes_store_some OWN(lanes_store_some)
#define lanes_first OWN(lanes_first)
#define lanes_sum OWN(lanes_sum)
#define lanes_top OWN(lanes_top)
#define lanes_largest OWN(lanes_largest)
#define lanes_exp OWN(lanes_exp)
#define quantize_codes OWN(quantize_codes)
#define quantize_block OWN(quantize_block)
#define quantize_columns OWN(quantize_columns)
#define kernel_quantize OWN(kernel_quantize)
#define panel_at OWN(panel_at)
#define plain_column OWN(plain_column)
#define plain_tile OWN(plain_tile)
#define plain_panels OWN(plain_panels)
#define matmul_plain OWN(matmul_plain)
#define has_mins OWN(has_mins)
#define is_super OWN(is_super)
#define chunk_bytes OWN(chunk_bytes)
#define unit_of OWN(unit_of)
#define codes_of OWN(codes_of)
#define block_line OWN(block_line)
#define chunk_scales OWN(chunk_scales)
#define block_scales OWN(block_scales)
#define tokens_at OWN(tokens_at)
#define tile_line OWN(tile_line)
#define code_offset OWN(code_offset)
#define tile_start OWN(tile_start)
#define tile_sums OWN(tile_sums)
#define tile_parts OWN(tile_parts)
#define tile_scale OWN(tile_scale)
#define tile_block OWN(tile_block)
#define super_add OWN(super_add)
#define chunk_at OWN(chunk_at)
#define super_at OWN(super_at)
#define prefetch_streams OWN(prefetch_streams)
#define fetch_lines OWN(fetch_lines)
#define pair_blocks OWN(pair_blocks)
#define few_tokens_chunk OWN(few_tokens_chunk)
#define few_tokens OWN(few_tokens)
#define fetch_share OWN(fetch_share)
#define fetched_share OWN(fetched_share)
#define chunk_unpack OWN(chunk_unpack)
#define chunk_words OWN(chunk_words)
#define words_tile OWN(words_tile)
#define pair_sums OWN(pair_sums)
#define two_line_sums OWN(two_line_sums)
#define dot_step OWN(dot_step)
#define block_codes OWN(block_codes)
#define unpacked_scales OWN(unpacked_scales)
#define ChunkPair OWN(ChunkPair)
#define chunk_pair_block OWN(chunk_pair_block)
#define token_tile OWN(token_tile)
#define token_tiles OWN(token_tiles)
#define group_tiles OWN(group_tiles)
#define many_tokens OWN(many_tokens)
#define matmul_blocks OWN(matmul_blocks)
#define matmul_f32 OWN(matmul_f32)
#define matmul_f16 OWN(matmul_f16)
#define matmul_bf16 OWN(matmul_bf16)
#define matmul_q8 OWN(matmul_q8)
#define matmul_q5 OWN(matmul_q5)
#define matmul_q6 OWN(matmul_q6)
#define matmul_q5_0 OWN(matmul_q5_0)
#define matmul_q5_1 OWN(matmul_q5_1)
#define matmul_q4 OWN(matmul_q4)
#define matmul_q4_0 OWN(matmul_q4_0)
#define tile_rows OWN(tile_rows)
#define float_scores OWN(float_scores)
#define float_exp OWN(float_exp)
#define float_values OWN(float_values)
#define attend_f32 OWN(attend_f32)
#define words_round OWN(words_round)
#define words_factor OWN(words_factor)
#define words_of OWN(words_of)
#define streams_fetch OWN(streams_fetch)
#define word_lines OWN(word_lines)
#define word_scores OWN(word_scores)
#define word_weights OWN(word_weights)
#define ValueBlocks OWN(ValueBlocks)
#define word_max OWN(word_max)
#define word_exp OWN(word_exp)
#define word_round OWN(word_round)
#define word_values OWN(word_values)
#define word_join OWN(word_join)
#define join_factors OWN(join_factors)
#define word_scores_rows OWN(word_scores_rows)
#define word_values_rows OWN(word_values_rows)
#define word_part OWN(word_part)
#define attend_words OWN(attend_words)
#define kernel_join OWN(kernel_join)
#define kernel_words OWN(kernel_words)
#define kernel_rmsnorm OWN(kernel_rmsnorm)
#define kernel_rope OWN(kernel_rope)
#define kernel_silu_mul OWN(kernel_silu_mul)
#define kernel_add OWN(kernel_add)
#define kernel_max_finite OWN(kernel_max_finite)
#define kernel_exp_sum OWN(kernel_exp_sum)
#define kernel_read_all OWN(kernel_read_all)
#define kernel_dot_all OWN(kernel_dot_all)
#define table OWN(table)

/* ==== Island: scalar ========================================================================== */

#define ISLAND scalar
#define TARGET
#define UNROLL
#define INLINED /* as the compiler likes: as fast, and half of this file's time to compile */
#define TILE_TOKENS 1
#define Q8_OFFSET 0  /* what line_load_q8 adds to a code */
#define BYTE_PAIRS 0 /* whether products of bytes can only be had as sums of two in 16 bits */

typedef struct {
    float f[16];
} Lanes;
typedef struct {
    int32_t i[16];
} Sums;
typedef struct {
    uint8_t b[64];
} Line;

#define EACH for (int n = 0; n < 16; n++)

INLINE Lanes lanes_load(const float *p) {
    Lanes x;
    memcpy(x.f, p, sizeof x.f);
    return x;
}
INLINE void lanes_store(float *p, Lanes x) { memcpy(p, x.f, sizeof x.f); }
INLINE Lanes lanes_set1(float f) {
    Lanes x;
    EACH x.f[n] = f;
    return x;
}
INLINE Lanes lanes_add(Lanes a, Lanes b) {
    EACH a.f[n] = a.f[n] + b.f[n];
    return a;
}
INLINE Lanes lanes_sub(Lanes a, Lanes b) {
    EACH a.f[n] = a.f[n] - b.f[n];
    return a;
}
INLINE Lanes lanes_mul(Lanes a, Lanes b) {
    EACH a.f[n] = a.f[n] * b.f[n];
    return a;
}
INLINE Lanes lanes_div(Lanes a, Lanes b) {
    EACH a.f[n] = a.f[n] / b.f[n];
    return a;
}
/* a * b + c, rounded once */
INLINE Lanes lanes_fma(Lanes a, Lanes b, Lanes c) {
    UNROLL_NOT EACH c.f[n] = fmaf(a.f[n], b.f[n], c.f[n]);
    return c;
}
/* b where either is NaN, as the instruction does */
INLINE Lanes lanes_max(Lanes a, Lanes b) {
    EACH b.f[n] = a.f[n] > b.f[n] ? a.f[n] : b.f[n];
    return b;
}
/* Sum over the lanes as a tree: lane i += lane i + 8, then + 4, + 2, + 1. */
INLINE float lanes_sum(Lanes x) {
    for (size_t half = 8; half > 0; half /= 2)
        for (size_t i = 0; i < half; i++) x.f[i] += x.f[i + half];
    return x.f[0];
}
/* The largest lane, likewise; none is a NaN. */
INLINE float lanes_top(Lanes x) {
    for (size_t half = 8; half > 0; half /= 2)
        for (size_t i = 0; i < half; i++) x.f[i] = x.f[i] > x.f[i + half] ? x.f[i] : x.f[i + half];
    return x.f[0];
}
/* a < b ? yes : no; `no` where either is NaN */
INLINE Lanes lanes_if_less(Lanes a, Lanes b, Lanes yes, Lanes no) {
    EACH no.f[n] = a.f[n] < b.f[n] ? yes.f[n] : no.f[n];
    return no;
}
INLINE Lanes lanes_from_f16(const uint8_t *p) {
    Lanes x;
    EACH x.f[n] = f16_to_f32(load_u16(p + 2 * n));
    return x;
}
/* the same 32 bits, read as the other type */
INLINE Lanes lanes_from_bits(Sums s) {
    Lanes x;
    memcpy(x.f, s.i, sizeof x.f);
    return x;
}
INLINE Sums lanes_bits(Lanes x) {
    Sums s;
    memcpy(s.i, x.f, sizeof s.i);
    return s;
}
INLINE Lanes lanes_from_sums(Sums s) {
    Lanes x;
    EACH x.f[n] = (float)s.i[n];
    return x;
}
/* the low 16 bits of each lane are an f16 */
INLINE Lanes lanes_from_f16_low(Sums s) {
    Lanes x;
    EACH x.f[n] = f16_to_f32((uint16_t)(s.i[n] & 0xffff));
    return x;
}
INLINE Sums sums_load(const uint8_t *p) {
    Sums s;
    memcpy(s.i, p, sizeof s.i);
    return s;
}
INLINE void sums_store(int32_t *p, Sums s) { memcpy(p, s.i, sizeof s.i); }
INLINE void sums_store_low_bytes(int8_t *p, Sums s) { EACH p[n] = (int8_t)(uint8_t)s.i[n]; }
INLINE void sums_store_low_words(int16_t *p, Sums s) { EACH p[n] = (int16_t)(uint16_t)s.i[n]; }
INLINE Sums sums_set1(int32_t i) {
    Sums s;
    EACH s.i[n] = i;
    return s;
}
INLINE Sums sums_add(Sums a, Sums b) { /* wraps around */
    EACH a.i[n] = (int32_t)((uint32_t)a.i[n] + (uint32_t)b.i[n]);
    return a;
}
INLINE Sums sums_and(Sums a, Sums b) {
    EACH a.i[n] = a.i[n] & b.i[n];
    return a;
}
INLINE Sums sums_max(Sums a, Sums b) {
    EACH a.i[n] = a.i[n] > b.i[n] ? a.i[n] : b.i[n];
    return a;
}
INLINE int32_t sums_largest(Sums s) {
    EACH s.i[0] = s.i[n] > s.i[0] ? s.i[n] : s.i[0];
    return s.i[0];
}
INLINE int32_t sums_total(Sums s) { /* wraps around */
    uint32_t total = 0;
    EACH total += (uint32_t)s.i[n];
    return (int32_t)total;
}
INLINE int32_t bytes_total(const int8_t *p) {
    int32_t total = 0;
    EACH total += p[n];
    return total;
}
INLINE Sums sums_left(Sums s, int by) {
    EACH s.i[n] = (int32_t)((uint32_t)s.i[n] << by);
    return s;
}
INLINE Sums sums_right(Sums s, int by) { /* zeros come in */
    EACH s.i[n] = (int32_t)((uint32_t)s.i[n] >> by);
    return s;
}
INLINE Sums sums_from_u8(const uint8_t *p) {
    Sums s;
    EACH s.i[n] = p[n];
    return s;
}
INLINE Sums sums_from_i8(const uint8_t *p) {
    Sums s;
    EACH s.i[n] = (int8_t)p[n];
    return s;
}
INLINE Line line_load(const uint8_t *p) {
    Line x;
    memcpy(x.b, p, sizeof x.b);
    return x;
}
INLINE Line line_load_q8(const uint8_t *p) { return line_load(p); }
INLINE void line_store(uint8_t *p, Line x) { memcpy(p, x.b, sizeof x.b); }
/* 64 nibbles, the low one of each byte first */
INLINE Line line_from_u4(const uint8_t *p) {
    Line x;
    for (int n = 0; n < 64; n++) x.b[n] = p[n / 2] >> (n % 2 * 4) & 15;
    return x;
}
/* Of each byte the bits that come to lie in `mask` when it is shifted right by `by` (or left by
 * -by). */
INLINE Line line_bits(Line x, int by, uint8_t mask) {
    for (int n = 0; n < 64; n++) x.b[n] = (uint8_t)((by < 0 ? x.b[n] << -by : x.b[n] >> by) & mask);
    return x;
}
/* The same into `to`, whose bits there are zero. */
INLINE Line line_or_bits(Line to, Line x, int by, uint8_t mask) {
    x = line_bits(x, by, mask);
    for (int n = 0; n < 64; n++) to.b[n] |= x.b[n];
    return to;
}
/* Two lines times eight activations: s[n] += sum over j of x[4n+j] q[j] + y[4n+j] q[4+j], with
 * unsigned codes up to 63. */
INLINE Sums sums_dot(Sums s, Line x, Line y, const int8_t *q) {
    EACH for (int j = 0; j < 4; j++) s.i[n] += x.b[4 * n + j] * q[j] + y.b[4 * n + j] * q[4 + j];
    return s;
}
/* The same with the signed codes of q8, as line_load_q8 gave them. |q| <= 127. */
INLINE Sums sums_dot_q8(Sums s, Line x, Line y, const int8_t *q) {
    EACH for (int j = 0; j < 4; j++) s.i[n] +=
        (int8_t)x.b[4 * n + j] * q[j] + (int8_t)y.b[4 * n + j] * q[4 + j];
    return s;
}
/* 16 pairs of words. */
INLINE Line line_load_words(const uint8_t *p) { return line_load(p); }
/* s[n] += even[n] q[0] + odd[n] q[1], wrapping around as the instructions do: what was a NaN can
 * be any number here. */
INLINE Sums sums_dot_words(Sums s, Line x, const int16_t *q) {
    int16_t w[32];
    line_store((uint8_t *)w, x);
    EACH s.i[n] =
        (int32_t)((uint32_t)s.i[n] + (uint32_t)(w[2 * n] * q[0]) + (uint32_t)(w[2 * n + 1] * q[1]));
    return s;
}

#include "lanes.h"

/* Here, while the names are the scalar island's. */
float exp16_scalar(float x) {
    float f[16];
    lanes_store(f, lanes_exp(lanes_set1(x)));
    return f[0];
}
static const Kernels *const table_of_scalar = &table;

#undef EACH
#include "island_end.h"

#if defined(__x86_64__)

/* Four activations, for every row of a line. */
static inline int32_t load_four(const int8_t *q) {
    int32_t four;
    memcpy(&four, q, sizeof four);
    return four;
}

/* Two numbers of a row of words. */
static inline int32_t load_pair(const int16_t *q) {
    int32_t two;
    memcpy(&two, q, sizeof two);
    return two;
}

/* Sum of 16 signed bytes, by the instruction that sums eight unsigned ones. */
static inline int32_t total_16(const int8_t *p) {
    __m128i x = _mm_loadu_si128((const __m128i *)p);
    x = _mm_sad_epu8(_mm_xor_si128(x, _mm_set1_epi8(-128)), _mm_setzero_si128());
    return _mm_cvtsi128_si32(x) + _mm_extract_epi16(x, 4) - 16 * 128;
}

/* lanes_sum and lanes_top, from their second step on. */
static inline __attribute__((target("avx"))) float sum_8(__m256 y) {
    __m128 x = _mm_add_ps(_mm256_castps256_ps128(y), _mm256_extractf128_ps(y, 1));
    x = _mm_add_ps(x, _mm_movehl_ps(x, x));
    return _mm_cvtss_f32(_mm_add_ss(x, _mm_shuffle_ps(x, x, 1)));
}
static inline __attribute__((target("avx"))) float top_8(__m256 y) {
    __m128 x = _mm_max_ps(_mm256_castps256_ps128(y), _mm256_extractf128_ps(y, 1));
    x = _mm_max_ps(x, _mm_movehl_ps(x, x));
    return _mm_cvtss_f32(_mm_max_ss(x, _mm_shuffle_ps(x, x, 1)));
}

/* ==== Island: AVX2, FMA, F16C ================================================================= */

#define ISLAND avx2
#define TARGET __attribute__((target(AVX2_SET)))
#define UNROLL UNROLL_16
#define INLINED KERNEL_INLINE
#define TILE_TOKENS 2
#define Q8_OFFSET 0
#define BYTE_PAIRS 1

#include "avx2.h"
#include "lanes.h"

static const Kernels *const table_of_avx2 = &table;

#include "island_end.h"

#if defined(HAVE_AVX_VNNI)

/* ==== Island: AVX2, FMA, F16C, AVX-VNNI ======================================================= */

#define ISLAND avxvnni
#define TARGET __attribute__((target(AVX_VNNI_SET)))
#define UNROLL UNROLL_16
#define INLINED KERNEL_INLINE
#define TILE_TOKENS 2
#define Q8_OFFSET 128 /* vpdpbusd wants unsigned bytes on the weights' side */
#define BYTE_PAIRS 0

#define AVX_VNNI
#include "avx2.h"
#include "lanes.h"

static const Kernels *const table_of_avxvnni = &table;

#include "island_end.h"

#endif /* HAVE_AVX_VNNI */

/* ==== Island: AVX-512 F, BW, VL, DQ, VNNI ===================================================== */

#define ISLAND avx512
#define TARGET __attribute__((target(AVX512_SET)))
#define UNROLL UNROLL_16
#define INLINED KERNEL_INLINE
#define TILE_TOKENS 4
#define Q8_OFFSET 128 /* vpdpbusd wants unsigned bytes on the weights' side */
#define BYTE_PAIRS 0

typedef __m512 Lanes;
typedef __m512i Sums;
typedef __m512i Line;

INLINE Lanes lanes_load(const float *p) { return _mm512_loadu_ps(p); }
INLINE void lanes_store(float *p, Lanes x) { _mm512_storeu_ps(p, x); }
INLINE Lanes lanes_set1(float f) { return _mm512_set1_ps(f); }
INLINE Lanes lanes_add(Lanes x, Lanes y) { return _mm512_add_ps(x, y); }
INLINE Lanes lanes_sub(Lanes x, Lanes y) { return _mm512_sub_ps(x, y); }
INLINE Lanes lanes_mul(Lanes x, Lanes y) { return _mm512_mul_ps(x, y); }
INLINE Lanes lanes_div(Lanes x, Lanes y) { return _mm512_div_ps(x, y); }
INLINE Lanes lanes_fma(Lanes x, Lanes y, Lanes z) { return _mm512_fmadd_ps(x, y, z); }
INLINE Lanes lanes_max(Lanes x, Lanes y) { return _mm512_max_ps(x, y); }
INLINE float lanes_sum(Lanes x) {
    return sum_8(_mm256_add_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps(x, 1)));
}
INLINE float lanes_top(Lanes x) {
    return top_8(_mm256_max_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps(x, 1)));
}
INLINE Lanes lanes_if_less(Lanes x, Lanes y, Lanes yes, Lanes no) {
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(x, y, _CMP_LT_OQ), no, yes);
}
INLINE Lanes lanes_from_f16(const uint8_t *p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p));
}
INLINE Lanes lanes_from_bits(Sums s) { return _mm512_castsi512_ps(s); }
INLINE Sums lanes_bits(Lanes x) { return _mm512_castps_si512(x); }
INLINE Lanes lanes_from_sums(Sums s) { return _mm512_cvtepi32_ps(s); }
INLINE Lanes lanes_from_f16_low(Sums s) { return _mm512_cvtph_ps(_mm512_cvtepi32_epi16(s)); }
INLINE Sums sums_load(const uint8_t *p) { return _mm512_loadu_si512(p); }
INLINE void sums_store(int32_t *p, Sums s) { _mm512_storeu_si512(p, s); }
INLINE void sums_store_low_bytes(int8_t *p, Sums s) {
    _mm_storeu_si128((__m128i *)p, _mm512_cvtepi32_epi8(s));
}
INLINE void sums_store_low_words(int16_t *p, Sums s) {
    _mm256_storeu_si256((__m256i *)p, _mm512_cvtepi32_epi16(s));
}
INLINE Sums sums_set1(int32_t i) { return _mm512_set1_epi32(i); }
INLINE Sums sums_add(Sums x, Sums y) { return _mm512_add_epi32(x, y); }
INLINE Sums sums_and(Sums x, Sums y) { return _mm512_and_si512(x, y); }
INLINE Sums sums_max(Sums x, Sums y) { return _mm512_max_epi32(x, y); }
INLINE int32_t sums_largest(Sums s) { return _mm512_reduce_max_epi32(s); }
INLINE int32_t sums_total(Sums s) { return _mm512_reduce_add_epi32(s); }
INLINE int32_t bytes_total(const int8_t *p) { return total_16(p); }
INLINE Sums sums_left(Sums s, int by) { return _mm512_slli_epi32(s, (unsigned)by); }
INLINE Sums sums_right(Sums s, int by) { return _mm512_srli_epi32(s, (unsigned)by); }
INLINE Sums sums_from_u8(const uint8_t *p) {
    return _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)p));
}
INLINE Sums sums_from_i8(const uint8_t *p) {
    return _mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)p));
}
INLINE Line line_load(const uint8_t *p) { return _mm512_loadu_si512(p); }
INLINE Line line_load_q8(const uint8_t *p) { /* + 128, that is */
    return _mm512_xor_si512(_mm512_loadu_si512(p), _mm512_set1_epi8(-128));
}
INLINE void line_store(uint8_t *p, Line x) { _mm512_storeu_si512(p, x); }
INLINE Line line_from_u4(const uint8_t *p) {
    __m512i x = _mm512_cvtepu8_epi16(_mm256_loadu_si256((const __m256i *)p));
    x = _mm512_or_si512(x, _mm512_slli_epi16(x, 4));
    return _mm512_and_si512(x, _mm512_set1_epi8(15));
}
INLINE Line line_shift(Line x, int by) {
    return by < 0 ? _mm512_slli_epi32(x, (unsigned)-by) : _mm512_srli_epi32(x, (unsigned)by);
}
INLINE Line line_bits(Line x, int by, uint8_t mask) {
    return _mm512_and_si512(line_shift(x, by), _mm512_set1_epi8((char)mask));
}
INLINE Line line_or_bits(Line to, Line x, int by, uint8_t mask) {
    /* 0xf8: a | (b & c) */
    return _mm512_ternarylogic_epi32(to, line_shift(x, by), _mm512_set1_epi8((char)mask), 0xf8);
}
INLINE Sums sums_dot(Sums s, Line x, Line y, const int8_t *q) {
    __m512i first = _mm512_set1_epi32(load_four(q)), second = _mm512_set1_epi32(load_four(q + 4));
    DOT_512(vpdpbusd, s, x, first);
    DOT_512(vpdpbusd, s, y, second);
    return s;
}
INLINE Sums sums_dot_q8(Sums s, Line x, Line y, const int8_t *q) { return sums_dot(s, x, y, q); }
INLINE Line line_load_words(const uint8_t *p) { return line_load(p); }
INLINE Sums sums_dot_words(Sums s, Line x, const int16_t *q) {
    __m512i pair = _mm512_set1_epi32(load_pair(q));
    DOT_512(vpdpwssd, s, x, pair);
    return s;
}

#include "lanes.h"

static const Kernels *const table_of_avx512 = &table;

#if defined(HAVE_AMX)
#include "amx.h"
#endif

#include "island_end.h"

/* ==== What this CPU has ======================================================================= */

/* Registers that the operating system saves and restores (XCR0); 0 when it does not say. */
__attribute__((target("xsave"))) static uint64_t saved_state(void) {
    uint32_t a = 0, b = 0, c = 0, d = 0;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_OSXSAVE)) return 0;
    return (uint64_t)_xgetbv(0);
}

/* The first thing that an island needs and this machine lacks, or NULL. */
static const char *missing_avx2(void) {
    uint32_t a = 0, b = 0, c = 0, d = 0;
    if ((saved_state() & 0x06) != 0x06) return "AVX state in the operating system";
    if (!__get_cpuid(1, &a, &b, &c, &d)) return "CPUID leaf 1";
    if (!(c & bit_FMA)) return "FMA";
    if (!(c & bit_F16C)) return "F16C";
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return "CPUID leaf 7";
    return b & bit_AVX2 ? NULL : "AVX2";
}

#if defined(HAVE_AVX_VNNI)
static const char *missing_avxvnni(void) {
    uint32_t a = 0, b = 0, c = 0, d = 0;
    const char *missing = missing_avx2();
    if (missing) return missing;
    if (!__get_cpuid_count(7, 1, &a, &b, &c, &d)) return "CPUID leaf 7, 1";
    return a & 1u << 4 ? NULL : "AVX-VNNI";
}
#endif

static const char *missing_avx512(void) {
    uint32_t a = 0, b = 0, c = 0, d = 0;
    const char *missing = missing_avx2();
    if (missing) return missing;
    if ((saved_state() & 0xe6) != 0xe6) return "AVX-512 state in the operating system";
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return "CPUID leaf 7";
    if (!(b & bit_AVX512F)) return "AVX-512F";
    if (!(b & bit_AVX512BW)) return "AVX-512BW";
    if (!(b & bit_AVX512VL)) return "AVX-512VL";
    if (!(b & bit_AVX512DQ)) return "AVX-512DQ";
    return c & bit_AVX512VNNI ? NULL : "AVX-512 VNNI";
}

#if defined(HAVE_AMX)
/* Linux keeps the tiles (8 KiB) of programs only that asked for it. */
static const char *missing_amx(void) {
    enum { REQUEST_PERMISSION = 0x1023, TILE_DATA = 18 }; /* of arch_prctl */
    uint32_t a = 0, b = 0, c = 0, d = 0;
    const char *missing = missing_avx512();
    if (missing) return missing;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return "CPUID leaf 7";
    if (!(d & 1u << 24)) return "AMX tiles";
    if (!(d & 1u << 25)) return "AMX int8";
    if (!(d & 1u << 22)) return "AMX bf16";
    if (!__get_cpuid_count(7, 1, &a, &b, &c, &d) || !(a & 1u << 5)) return "AVX-512 BF16";
    if (syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) != 0)
        return "the operating system's permission to use AMX";
    return NULL;
}
#endif

#endif /* __x86_64__ */

#if defined(HAVE_NEON_DOT)

/* ==== Island: NEON with the int8 dot product ================================================== */

#define ISLAND neon
#if defined(__ARM_FEATURE_DOTPROD)
#define TARGET
#else
#define TARGET __attribute__((target("arch=armv8.2-a+dotprod")))
#endif
#define UNROLL UNROLL_16
#define INLINED KERNEL_INLINE
#define TILE_TOKENS 2
#define Q8_OFFSET 0
#define BYTE_PAIRS 0

typedef struct {
    float32x4_t a, b, c, d;
} Lanes; /* lanes 0..3, 4..7, 8..11 and 12..15 */
typedef struct {
    int32x4_t a, b, c, d;
} Sums;
typedef struct {
    uint8x16_t a, b, c, d;
} Line; /* rows 0..3, 4..7, 8..11 and 12..15 */

/* f of each quarter of one, two and three operands. */
#define QUARTERS(f, x) f((x).a), f((x).b), f((x).c), f((x).d)
#define QUARTERS_2(f, x, y) f((x).a, (y).a), f((x).b, (y).b), f((x).c, (y).c), f((x).d, (y).d)
#define QUARTERS_3(f, x, y, z)                                                                     \
    f((x).a, (y).a, (z).a), f((x).b, (y).b, (z).b), f((x).c, (y).c, (z).c), f((x).d, (y).d, (z).d)

INLINE Lanes lanes_load(const float *p) {
    return (Lanes){vld1q_f32(p), vld1q_f32(p + 4), vld1q_f32(p + 8), vld1q_f32(p + 12)};
}
INLINE void lanes_store(float *p, Lanes x) {
    vst1q_f32(p, x.a);
    vst1q_f32(p + 4, x.b);
    vst1q_f32(p + 8, x.c);
    vst1q_f32(p + 12, x.d);
}
INLINE Lanes lanes_set1(float f) {
    float32x4_t x = vdupq_n_f32(f);
    return (Lanes){x, x, x, x};
}
INLINE Lanes lanes_add(Lanes x, Lanes y) { return (Lanes){QUARTERS_2(vaddq_f32, x, y)}; }
INLINE Lanes lanes_sub(Lanes x, Lanes y) { return (Lanes){QUARTERS_2(vsubq_f32, x, y)}; }
INLINE Lanes lanes_mul(Lanes x, Lanes y) { return (Lanes){QUARTERS_2(vmulq_f32, x, y)}; }
INLINE Lanes lanes_div(Lanes x, Lanes y) { return (Lanes){QUARTERS_2(vdivq_f32, x, y)}; }
/* vfmaq takes the sum first */
INLINE Lanes lanes_fma(Lanes x, Lanes y, Lanes z) {
    return (Lanes){QUARTERS_3(vfmaq_f32, z, x, y)};
}
/* Not vmaxq: that gives a NaN where either is one. */
INLINE float32x4_t larger(float32x4_t x, float32x4_t y) { return vbslq_f32(vcgtq_f32(x, y), x, y); }
INLINE Lanes lanes_max(Lanes x, Lanes y) { return (Lanes){QUARTERS_2(larger, x, y)}; }
INLINE float lanes_sum(Lanes x) {
    float32x4_t y = vaddq_f32(vaddq_f32(x.a, x.c), vaddq_f32(x.b, x.d));
    float32x2_t z = vadd_f32(vget_low_f32(y), vget_high_f32(y));
    return vget_lane_f32(z, 0) + vget_lane_f32(z, 1);
}
INLINE float lanes_top(Lanes x) {
    float32x4_t y = larger(larger(x.a, x.c), larger(x.b, x.d));
    float32x2_t low = vget_low_f32(y), high = vget_high_f32(y);
    low = vbsl_f32(vcgt_f32(low, high), low, high);
    float even = vget_lane_f32(low, 0), odd = vget_lane_f32(low, 1);
    return even > odd ? even : odd;
}
INLINE Lanes lanes_if_less(Lanes x, Lanes y, Lanes yes, Lanes no) {
    return (Lanes){
        vbslq_f32(vcltq_f32(x.a, y.a), yes.a, no.a), vbslq_f32(vcltq_f32(x.b, y.b), yes.b, no.b),
        vbslq_f32(vcltq_f32(x.c, y.c), yes.c, no.c), vbslq_f32(vcltq_f32(x.d, y.d), yes.d, no.d)};
}
INLINE float32x4_t from_f16(uint16x4_t h) { return vcvt_f32_f16(vreinterpret_f16_u16(h)); }
INLINE Lanes lanes_from_f16(const uint8_t *p) {
    uint16x8_t low = vreinterpretq_u16_u8(vld1q_u8(p)),
               high = vreinterpretq_u16_u8(vld1q_u8(p + 16));
    return (Lanes){from_f16(vget_low_u16(low)), from_f16(vget_high_u16(low)),
                   from_f16(vget_low_u16(high)), from_f16(vget_high_u16(high))};
}
INLINE Lanes lanes_from_bits(Sums s) { return (Lanes){QUARTERS(vreinterpretq_f32_s32, s)}; }
INLINE Sums lanes_bits(Lanes x) { return (Sums){QUARTERS(vreinterpretq_s32_f32, x)}; }
INLINE Lanes lanes_from_sums(Sums s) { return (Lanes){QUARTERS(vcvtq_f32_s32, s)}; }
INLINE float32x4_t from_f16_low(int32x4_t s) {
    return from_f16(vmovn_u32(vreinterpretq_u32_s32(s)));
}
INLINE Lanes lanes_from_f16_low(Sums s) { return (Lanes){QUARTERS(from_f16_low, s)}; }
INLINE int32x4_t load_sums(const uint8_t *p) { return vreinterpretq_s32_u8(vld1q_u8(p)); }
INLINE Sums sums_load(const uint8_t *p) {
    return (Sums){load_sums(p), load_sums(p + 16), load_sums(p + 32), load_sums(p + 48)};
}
INLINE void sums_store(int32_t *p, Sums s) {
    vst1q_s32(p, s.a);
    vst1q_s32(p + 4, s.b);
    vst1q_s32(p + 8, s.c);
    vst1q_s32(p + 12, s.d);
}
INLINE void sums_store_low_bytes(int8_t *p, Sums s) {
    int16x8_t low = vcombine_s16(vmovn_s32(s.a), vmovn_s32(s.b));
    int16x8_t high = vcombine_s16(vmovn_s32(s.c), vmovn_s32(s.d));
    vst1q_s8(p, vcombine_s8(vmovn_s16(low), vmovn_s16(high)));
}
INLINE void sums_store_low_words(int16_t *p, Sums s) {
    vst1q_s16(p, vcombine_s16(vmovn_s32(s.a), vmovn_s32(s.b)));
    vst1q_s16(p + 8, vcombine_s16(vmovn_s32(s.c), vmovn_s32(s.d)));
}
INLINE Sums sums_set1(int32_t i) {
    int32x4_t s = vdupq_n_s32(i);
    return (Sums){s, s, s, s};
}
INLINE Sums sums_add(Sums x, Sums y) { return (Sums){QUARTERS_2(vaddq_s32, x, y)}; }
INLINE Sums sums_and(Sums x, Sums y) { return (Sums){QUARTERS_2(vandq_s32, x, y)}; }
INLINE Sums sums_max(Sums x, Sums y) { return (Sums){QUARTERS_2(vmaxq_s32, x, y)}; }
INLINE int32_t sums_largest(Sums s) {
    return vmaxvq_s32(vmaxq_s32(vmaxq_s32(s.a, s.b), vmaxq_s32(s.c, s.d)));
}
INLINE int32_t sums_total(Sums s) {
    return vaddvq_s32(vaddq_s32(vaddq_s32(s.a, s.b), vaddq_s32(s.c, s.d)));
}
INLINE int32_t bytes_total(const int8_t *p) { return vaddlvq_s8(vld1q_s8(p)); }
/* Shifts are written as operators: the functions of arm_neon.h want literal counts. */
INLINE Sums sums_left(Sums s, int by) { return (Sums){s.a << by, s.b << by, s.c << by, s.d << by}; }
INLINE int32x4_t right(int32x4_t s, int by) {
    return vreinterpretq_s32_u32(vreinterpretq_u32_s32(s) >> (uint32_t)by);
}
INLINE Sums sums_right(Sums s, int by) {
    return (Sums){right(s.a, by), right(s.b, by), right(s.c, by), right(s.d, by)};
}
INLINE Sums widen(uint8x16_t x) {
    int16x8_t low = vreinterpretq_s16_u16(vmovl_u8(vget_low_u8(x)));
    int16x8_t high = vreinterpretq_s16_u16(vmovl_u8(vget_high_u8(x)));
    return (Sums){vmovl_s16(vget_low_s16(low)), vmovl_s16(vget_high_s16(low)),
                  vmovl_s16(vget_low_s16(high)), vmovl_s16(vget_high_s16(high))};
}
INLINE Sums sums_from_u8(const uint8_t *p) { return widen(vld1q_u8(p)); }
INLINE Sums sums_from_i8(const uint8_t *p) {
    int8x16_t x = vreinterpretq_s8_u8(vld1q_u8(p));
    int16x8_t low = vmovl_s8(vget_low_s8(x)), high = vmovl_s8(vget_high_s8(x));
    return (Sums){vmovl_s16(vget_low_s16(low)), vmovl_s16(vget_high_s16(low)),
                  vmovl_s16(vget_low_s16(high)), vmovl_s16(vget_high_s16(high))};
}
INLINE Line line_load(const uint8_t *p) {
    return (Line){vld1q_u8(p), vld1q_u8(p + 16), vld1q_u8(p + 32), vld1q_u8(p + 48)};
}
INLINE Line line_load_q8(const uint8_t *p) { return line_load(p); }
INLINE void line_store(uint8_t *p, Line x) {
    vst1q_u8(p, x.a);
    vst1q_u8(p + 16, x.b);
    vst1q_u8(p + 32, x.c);
    vst1q_u8(p + 48, x.d);
}
INLINE Line line_from_u4(const uint8_t *p) {
    uint8x16_t x = vld1q_u8(p), y = vld1q_u8(p + 16), m = vdupq_n_u8(15);
    uint8x16_t x0 = vandq_u8(x, m), x1 = vshrq_n_u8(x, 4);
    uint8x16_t y0 = vandq_u8(y, m), y1 = vshrq_n_u8(y, 4);
    return (Line){vzip1q_u8(x0, x1), vzip2q_u8(x0, x1), vzip1q_u8(y0, y1), vzip2q_u8(y0, y1)};
}
INLINE uint8x16_t shift(uint8x16_t x, int by) {
    return by < 0 ? x << (uint8_t)-by : x >> (uint8_t)by;
}
INLINE uint8x16_t bits(uint8x16_t x, int by, uint8_t mask) {
    if (by >= 0 && mask == 255 >> by) return shift(x, by);
    return vandq_u8(shift(x, by), vdupq_n_u8(mask));
}
INLINE Line line_bits(Line x, int by, uint8_t mask) {
    return (Line){bits(x.a, by, mask), bits(x.b, by, mask), bits(x.c, by, mask),
                  bits(x.d, by, mask)};
}
INLINE uint8x16_t or_bits(uint8x16_t to, uint8x16_t x, int by, uint8_t mask) {
    return vbslq_u8(vdupq_n_u8(mask), shift(x, by), to);
}
INLINE Line line_or_bits(Line to, Line x, int by, uint8_t mask) {
    return (Line){or_bits(to.a, x.a, by, mask), or_bits(to.b, x.b, by, mask),
                  or_bits(to.c, x.c, by, mask), or_bits(to.d, x.d, by, mask)};
}
/* Codes up to 63 are the same signed and unsigned. */
INLINE int32x4_t dot(int32x4_t s, uint8x16_t x, uint8x16_t y, int8x8_t q) {
    s = vdotq_lane_s32(s, vreinterpretq_s8_u8(x), q, 0);
    return vdotq_lane_s32(s, vreinterpretq_s8_u8(y), q, 1);
}
INLINE Sums sums_dot(Sums s, Line x, Line y, const int8_t *q) {
    int8x8_t eight = vld1_s8(q);
    return (Sums){dot(s.a, x.a, y.a, eight), dot(s.b, x.b, y.b, eight), dot(s.c, x.c, y.c, eight),
                  dot(s.d, x.d, y.d, eight)};
}
INLINE Sums sums_dot_q8(Sums s, Line x, Line y, const int8_t *q) { return sums_dot(s, x, y, q); }
/* Even ones first. */
INLINE Line line_load_words(const uint8_t *p) {
    uint16x8x2_t low = vld2q_u16((const uint16_t *)(const void *)p);
    uint16x8x2_t high = vld2q_u16((const uint16_t *)(const void *)(p + 32));
    return (Line){vreinterpretq_u8_u16(low.val[0]), vreinterpretq_u8_u16(high.val[0]),
                  vreinterpretq_u8_u16(low.val[1]), vreinterpretq_u8_u16(high.val[1])};
}
INLINE int32x4_t dot_low(int32x4_t s, uint8x16_t even, uint8x16_t odd, int16x4_t q) {
    s = vmlal_lane_s16(s, vget_low_s16(vreinterpretq_s16_u8(even)), q, 0);
    return vmlal_lane_s16(s, vget_low_s16(vreinterpretq_s16_u8(odd)), q, 1);
}
INLINE int32x4_t dot_high(int32x4_t s, uint8x16_t even, uint8x16_t odd, int16x4_t q) {
    s = vmlal_high_lane_s16(s, vreinterpretq_s16_u8(even), q, 0);
    return vmlal_high_lane_s16(s, vreinterpretq_s16_u8(odd), q, 1);
}
INLINE Sums sums_dot_words(Sums s, Line x, const int16_t *q) {
    int32_t two;
    memcpy(&two, q, sizeof two);
    int16x4_t pair = vreinterpret_s16_s32(vdup_n_s32(two));
    return (Sums){dot_low(s.a, x.a, x.c, pair), dot_high(s.b, x.a, x.c, pair),
                  dot_low(s.c, x.b, x.d, pair), dot_high(s.d, x.b, x.d, pair)};
}

#include "lanes.h"

static const Kernels *const table_of_neon = &table;

#if defined(HAVE_I8MM)
#include "i8mm.h"
#endif

#include "island_end.h"

/* ==== What this CPU has ======================================================================= */

/* The int8 dot product, when the system says so; elsewhere what the compiler was promised. */
static const char *missing_neon(void) {
#if defined(__linux__)
    return getauxval(AT_HWCAP) & HWCAP_ASIMDDP ? NULL : "the int8 dot product (asimddp)";
#elif defined(__ARM_FEATURE_DOTPROD)
    return NULL;
#else
    return "a compiler's option for the int8 dot product (-march=armv8.2-a+dotprod)";
#endif
}

#if defined(HAVE_I8MM)
static const char *missing_i8mm(void) {
#if defined(__linux__)
    enum { HAS_I8MM = 1 << 13 }; /* HWCAP2_I8MM, which older headers lack */
    const char *missing = missing_neon();
    if (missing) return missing;
    return getauxval(AT_HWCAP2) & HAS_I8MM ? NULL : "the int8 matrix product (i8mm)";
#else
    return NULL;
#endif
}
#endif

#endif /* HAVE_NEON_DOT */

static const char *missing_scalar(void) { return NULL; }

/* ==== The choice ============================================================================== */

typedef struct {
    const Kernels *const *kernels;
    const char *(*missing)(void);
} Choice;

/* Best first. */
static const Choice choices[] = {
#if defined(HAVE_AMX)
    {&table_of_amx, missing_amx},
#endif
#if defined(__x86_64__)
    {&table_of_avx512, missing_avx512},
#endif
#if defined(HAVE_AVX_VNNI)
    {&table_of_avxvnni, missing_avxvnni},
#endif
#if defined(__x86_64__)
    {&table_of_avx2, missing_avx2},
#endif
#if defined(HAVE_I8MM)
    {&table_of_i8mm, missing_i8mm},
#endif
#if defined(HAVE_NEON_DOT)
    {&table_of_neon, missing_neon},
#endif
    {&table_of_scalar, missing_scalar},
};
enum { N_CHOICES = sizeof choices / sizeof choices[0] };

const Kernels *kernels_available(uint32_t index) {
    for (size_t i = 0; i < N_CHOICES; i++)
        if (choices[i].missing() == NULL && index-- == 0) return *choices[i].kernels;
    return NULL;
}

const Kernels *kernels_select(const char *name, Error *e) {
    char names[64] = "";
    size_t n = 0;
    if (name == NULL) return kernels_available(0);
    for (size_t i = 0; i < N_CHOICES; i++) {
        const Kernels *k = *choices[i].kernels;
        const char *missing = choices[i].missing();
        if (strcmp(k->name, name) == 0) {
            if (missing == NULL) return k;
            fail(e, NULL, "instruction set", "%s needs %s, which this machine lacks", name,
                 missing);
            return NULL;
        }
        int w = snprintf(names + n, sizeof names - n, "%s%s", i ? ", " : "", k->name);
        if (w > 0) n = min_size(n + (size_t)w, sizeof names - 1);
    }
    fail(e, NULL, "instruction set", "unknown, expected one of %s, got \"%s\"", names, name);
    return NULL;
}

uint32_t kernels_fetch_ahead(void) {
    enum { NEAR = 1408, FAR = 4096 };
#if defined(__x86_64__)
    enum { FAMILY_OF_ZEN_5 = 0x1a };
    uint32_t a = 0, b = 0, c = 0, d = 0;
    if (!__get_cpuid(0, &a, &b, &c, &d)) return NEAR;
    if (b == signature_INTEL_ebx) return FAR;
    if (b == signature_AMD_ebx && __get_cpuid(1, &a, &b, &c, &d) &&
        (a >> 8 & 0xf) + (a >> 20 & 0xff) >= FAMILY_OF_ZEN_5)
        return FAR;
#endif
    return NEAR;
}
