/* avx512.c: the island for AVX-512 F, BW, VL, DQ and VNNI; with AMX's part behind it. */
#if defined(__x86_64__)

#include "kernels/x86.h"

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

#include "kernels/lanes.h"

const Kernels avx512_kernels = {.name = "avx512", SAME_KERNELS, OWN_KERNELS};

#if defined(HAVE_AMX)
#include "kernels/amx.h"
#endif

#endif
