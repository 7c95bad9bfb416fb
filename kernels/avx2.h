/* avx2.h: the primitives on AVX2's vectors, for two islands: avx2.c, and, with AVX_VNNI defined,
 * avxvnni.c for processors that also have the int8 dot product (AVX-VNNI: Intel's Core since 2021,
 * which have no AVX-512). These differ in how products are summed, and not in the sums. */

typedef struct {
    __m256 a, b;
} Lanes; /* lanes 0..7 and 8..15 */
typedef struct {
    __m256i a, b;
} Sums;
typedef struct {
    __m256i a, b;
} Line; /* rows 0..7 and 8..15 */

INLINE Lanes lanes_load(const float *p) {
    return (Lanes){_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)};
}
INLINE void lanes_store(float *p, Lanes x) {
    _mm256_storeu_ps(p, x.a);
    _mm256_storeu_ps(p + 8, x.b);
}
INLINE Lanes lanes_set1(float f) { return (Lanes){_mm256_set1_ps(f), _mm256_set1_ps(f)}; }
INLINE Lanes lanes_add(Lanes x, Lanes y) {
    return (Lanes){_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)};
}
INLINE Lanes lanes_sub(Lanes x, Lanes y) {
    return (Lanes){_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)};
}
INLINE Lanes lanes_mul(Lanes x, Lanes y) {
    return (Lanes){_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)};
}
INLINE Lanes lanes_div(Lanes x, Lanes y) {
    return (Lanes){_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)};
}
INLINE Lanes lanes_fma(Lanes x, Lanes y, Lanes z) {
    return (Lanes){_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)};
}
INLINE Lanes lanes_max(Lanes x, Lanes y) {
    return (Lanes){_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)};
}
INLINE float lanes_sum(Lanes x) { return sum_8(_mm256_add_ps(x.a, x.b)); }
INLINE float lanes_top(Lanes x) { return top_8(_mm256_max_ps(x.a, x.b)); }
INLINE Lanes lanes_if_less(Lanes x, Lanes y, Lanes yes, Lanes no) {
    return (Lanes){_mm256_blendv_ps(no.a, yes.a, _mm256_cmp_ps(x.a, y.a, _CMP_LT_OQ)),
                   _mm256_blendv_ps(no.b, yes.b, _mm256_cmp_ps(x.b, y.b, _CMP_LT_OQ))};
}
INLINE Lanes lanes_from_f16(const uint8_t *p) {
    return (Lanes){_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p)),
                   _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(p + 16)))};
}
INLINE Lanes lanes_from_bits(Sums s) {
    return (Lanes){_mm256_castsi256_ps(s.a), _mm256_castsi256_ps(s.b)};
}
INLINE Sums lanes_bits(Lanes x) {
    return (Sums){_mm256_castps_si256(x.a), _mm256_castps_si256(x.b)};
}
INLINE Lanes lanes_from_sums(Sums s) {
    return (Lanes){_mm256_cvtepi32_ps(s.a), _mm256_cvtepi32_ps(s.b)};
}
INLINE Lanes lanes_from_f16_low(Sums s) {
    const __m256i low = _mm256_set1_epi32(0xffff);
    __m256i h = _mm256_packus_epi32(_mm256_and_si256(s.a, low), _mm256_and_si256(s.b, low));
    h = _mm256_permute4x64_epi64(h, 0xd8); /* packed within 128-bit halves: put them in order */
    return (Lanes){_mm256_cvtph_ps(_mm256_castsi256_si128(h)),
                   _mm256_cvtph_ps(_mm256_extracti128_si256(h, 1))};
}
INLINE Sums sums_load(const uint8_t *p) {
    return (Sums){_mm256_loadu_si256((const __m256i *)p),
                  _mm256_loadu_si256((const __m256i *)(p + 32))};
}
INLINE void sums_store(int32_t *p, Sums s) {
    _mm256_storeu_si256((__m256i *)p, s.a);
    _mm256_storeu_si256((__m256i *)(p + 8), s.b);
}
INLINE void sums_store_low_bytes(int8_t *p, Sums s) {
    const __m256i low = _mm256_set1_epi32(0xff);
    __m256i h = _mm256_packus_epi32(_mm256_and_si256(s.a, low), _mm256_and_si256(s.b, low));
    h = _mm256_permute4x64_epi64(h, 0xd8);
    _mm_storeu_si128((__m128i *)p,
                     _mm_packus_epi16(_mm256_castsi256_si128(h), _mm256_extracti128_si256(h, 1)));
}
INLINE void sums_store_low_words(int16_t *p, Sums s) {
    const __m256i low = _mm256_set1_epi32(0xffff);
    __m256i h = _mm256_packus_epi32(_mm256_and_si256(s.a, low), _mm256_and_si256(s.b, low));
    _mm256_storeu_si256((__m256i *)p, _mm256_permute4x64_epi64(h, 0xd8));
}
INLINE Sums sums_set1(int32_t i) { return (Sums){_mm256_set1_epi32(i), _mm256_set1_epi32(i)}; }
INLINE Sums sums_add(Sums x, Sums y) {
    return (Sums){_mm256_add_epi32(x.a, y.a), _mm256_add_epi32(x.b, y.b)};
}
INLINE Sums sums_and(Sums x, Sums y) {
    return (Sums){_mm256_and_si256(x.a, y.a), _mm256_and_si256(x.b, y.b)};
}
INLINE Sums sums_max(Sums x, Sums y) {
    return (Sums){_mm256_max_epi32(x.a, y.a), _mm256_max_epi32(x.b, y.b)};
}
/* Swap halves, quarters, eighths: three steps leave the result in every lane. */
INLINE int32_t sums_largest(Sums s) {
    __m256i x = _mm256_max_epi32(s.a, s.b);
    x = _mm256_max_epi32(x, _mm256_permute2x128_si256(x, x, 1));
    x = _mm256_max_epi32(x, _mm256_shuffle_epi32(x, 0x4e));
    x = _mm256_max_epi32(x, _mm256_shuffle_epi32(x, 0xb1));
    return _mm256_cvtsi256_si32(x);
}
INLINE int32_t sums_total(Sums s) {
    __m256i x = _mm256_add_epi32(s.a, s.b);
    x = _mm256_add_epi32(x, _mm256_permute2x128_si256(x, x, 1));
    x = _mm256_add_epi32(x, _mm256_shuffle_epi32(x, 0x4e));
    x = _mm256_add_epi32(x, _mm256_shuffle_epi32(x, 0xb1));
    return _mm256_cvtsi256_si32(x);
}
INLINE int32_t bytes_total(const int8_t *p) { return total_16(p); }
INLINE Sums sums_left(Sums s, int by) {
    return (Sums){_mm256_slli_epi32(s.a, by), _mm256_slli_epi32(s.b, by)};
}
INLINE Sums sums_right(Sums s, int by) {
    return (Sums){_mm256_srli_epi32(s.a, by), _mm256_srli_epi32(s.b, by)};
}
INLINE Sums sums_from_u8(const uint8_t *p) {
    return (Sums){_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)p)),
                  _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(p + 8)))};
}
INLINE Sums sums_from_i8(const uint8_t *p) {
    return (Sums){_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)p)),
                  _mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(p + 8)))};
}
INLINE Line line_load(const uint8_t *p) {
    return (Line){_mm256_loadu_si256((const __m256i *)p),
                  _mm256_loadu_si256((const __m256i *)(p + 32))};
}
INLINE void line_store(uint8_t *p, Line x) {
    _mm256_storeu_si256((__m256i *)p, x.a);
    _mm256_storeu_si256((__m256i *)(p + 32), x.b);
}
INLINE __m256i nibbles_32(const uint8_t *p) {
    __m256i x = _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)p));
    return _mm256_and_si256(_mm256_or_si256(x, _mm256_slli_epi16(x, 4)), _mm256_set1_epi8(15));
}
INLINE Line line_from_u4(const uint8_t *p) { return (Line){nibbles_32(p), nibbles_32(p + 16)}; }
/* There is no shift of bytes: the bits that cross over from the neighbour are masked away. */
INLINE Line line_shift(Line x, int by) {
    if (by < 0) return (Line){_mm256_slli_epi16(x.a, -by), _mm256_slli_epi16(x.b, -by)};
    return (Line){_mm256_srli_epi16(x.a, by), _mm256_srli_epi16(x.b, by)};
}
INLINE Line line_bits(Line x, int by, uint8_t mask) {
    const __m256i m = _mm256_set1_epi8((char)mask);
    x = line_shift(x, by);
    return (Line){_mm256_and_si256(x.a, m), _mm256_and_si256(x.b, m)};
}
INLINE Line line_or_bits(Line to, Line x, int by, uint8_t mask) {
    x = line_bits(x, by, mask);
    return (Line){_mm256_or_si256(to.a, x.a), _mm256_or_si256(to.b, x.b)};
}
INLINE Line line_load_words(const uint8_t *p) { return line_load(p); }

#if defined(AVX_VNNI)
INLINE __m256i dot_bytes(__m256i s, __m256i w, __m256i q) {
    DOT_256(vpdpbusd, s, w, q);
    return s;
}
INLINE __m256i dot_words(__m256i s, __m256i w, __m256i q) {
    DOT_256(vpdpwssd, s, w, q);
    return s;
}
INLINE Line line_load_q8(const uint8_t *p) { /* + 128, that is */
    const __m256i offset = _mm256_set1_epi8(-128);
    Line x = line_load(p);
    return (Line){_mm256_xor_si256(x.a, offset), _mm256_xor_si256(x.b, offset)};
}
INLINE Sums sums_dot(Sums s, Line x, Line y, const int8_t *q) {
    __m256i q0 = _mm256_set1_epi32(load_four(q)), q1 = _mm256_set1_epi32(load_four(q + 4));
    return (Sums){dot_bytes(dot_bytes(s.a, x.a, q0), y.a, q1),
                  dot_bytes(dot_bytes(s.b, x.b, q0), y.b, q1)};
}
INLINE Sums sums_dot_q8(Sums s, Line x, Line y, const int8_t *q) { return sums_dot(s, x, y, q); }
INLINE Sums sums_dot_words(Sums s, Line x, const int16_t *q) {
    __m256i two = _mm256_set1_epi32(load_pair(q));
    return (Sums){dot_words(s.a, x.a, two), dot_words(s.b, x.b, two)};
}
#else
INLINE Line line_load_q8(const uint8_t *p) { return line_load(p); }
/* The compiler does not know what is in s from here on. Otherwise gcc brings the additions of a
 * whole block into another order, for which it has not the registers. */
INLINE Sums sums_keep(Sums s) {
    __asm__("" : "+x"(s.a), "+x"(s.b));
    return s;
}
/* The same, where with the intrinsic, or behind sums_keep, gcc copies every sum before or after. */
INLINE __m256i add_to(__m256i s, __m256i x) {
    __asm__("vpaddd %1, %0, %0" : "+x"(s) : "x"(x));
    return s;
}
INLINE __m256i add_pairs_to(__m256i s, __m256i x) {
    __asm__("vpaddw %1, %0, %0" : "+x"(s) : "x"(x));
    return s;
}
/* Products of a line, two of them to a sum in 16 bits, and such sums added: of eight lines of 4-bit
 * codes (16 * 15 * 127 = 30480), four of 5-bit (8 * 31 * 127) or two of 6-bit ones. */
INLINE Line line_dot_pairs(Line x, const int8_t *q) {
    __m256i four = _mm256_set1_epi32(load_four(q));
    return (Line){_mm256_maddubs_epi16(x.a, four), _mm256_maddubs_epi16(x.b, four)};
}
INLINE Line line_add_pairs(Line s, Line x) {
    return (Line){add_pairs_to(s.a, x.a), add_pairs_to(s.b, x.b)};
}
INLINE Sums sums_add_pairs(Sums s, Line pairs) {
    const __m256i one = _mm256_set1_epi16(1);
    return (Sums){_mm256_add_epi32(s.a, _mm256_madd_epi16(pairs.a, one)),
                  _mm256_add_epi32(s.b, _mm256_madd_epi16(pairs.b, one))};
}
/* Pairs of w q, added to s: w q = |w| (q with the sign of w). |-128| is 128 unsigned, and a pair of
 * products is at most 2 * 128 * 127 = 32512. */
INLINE __m256i pairs_q8(__m256i s, __m256i w, __m256i q) {
    __m256i pair = _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(q, w));
    return _mm256_add_epi32(s, _mm256_madd_epi16(pair, _mm256_set1_epi16(1)));
}
INLINE Sums sums_dot_q8(Sums s, Line x, Line y, const int8_t *q) {
    __m256i q0 = _mm256_set1_epi32(load_four(q)), q1 = _mm256_set1_epi32(load_four(q + 4));
    return sums_keep((Sums){pairs_q8(pairs_q8(s.a, x.a, q0), y.a, q1),
                            pairs_q8(pairs_q8(s.b, x.b, q0), y.b, q1)});
}
/* The first and third, or the second and fourth, of every four signed bytes, as words. */
INLINE Line line_odd_words(Line x) {
    return (Line){_mm256_srai_epi16(x.a, 8), _mm256_srai_epi16(x.b, 8)};
}
INLINE Line line_even_words(Line x) {
    return line_odd_words((Line){_mm256_slli_epi16(x.a, 8), _mm256_slli_epi16(x.b, 8)});
}
INLINE Sums sums_dot_words(Sums s, Line x, const int16_t *q) {
    __m256i two = _mm256_set1_epi32(load_pair(q));
    return (Sums){add_to(s.a, _mm256_madd_epi16(x.a, two)),
                  add_to(s.b, _mm256_madd_epi16(x.b, two))};
}
#endif
