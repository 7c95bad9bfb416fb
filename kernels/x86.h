/* x86.h: what the islands of x86-64 share. */
#ifndef X86_H
#define X86_H

#include <immintrin.h>

#include "kernels/island.h"

/* What an island's functions may be made of; and the instructions that add products of w and q to
 * s, because with their intrinsics gcc copies every sum before and after. test/emulate.c has all of
 * these in software. */
#if !defined(AVX2_SET)
#define AVX2_SET "avx2,fma,f16c"
#define AVX_VNNI_SET AVX2_SET ",avxvnni"
#define AVX512_SET AVX2_SET ",avx512f,avx512bw,avx512vl,avx512dq,avx512vnni"
#define AMX_SET AVX512_SET ",avx512bf16,amx-tile,amx-int8,amx-bf16"
#define DOT_256(instruction, s, w, q)                                                              \
    __asm__("%{vex%} " #instruction " %2, %1, %0" : "+x"(s) : "x"(w), "xm"(q))
#define DOT_512(instruction, s, w, q) __asm__(#instruction " %2, %1, %0" : "+v"(s) : "v"(w), "v"(q))
#endif

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

#endif
