/* avx512.h: what kernels/ uses of AVX-512 and of the int8 dot product, in C, for a processor with
 * AVX2 alone (emulate.c). Each is as Intel's Intrinsics Guide describes it. */
#include <immintrin.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* Vectors of 64 bytes, by their elements. */
typedef int8_t I8x64 __attribute__((vector_size(64)));
typedef uint16_t U16x32 __attribute__((vector_size(64)));
typedef int32_t I32x16 __attribute__((vector_size(64)));
typedef uint32_t U32x16 __attribute__((vector_size(64)));
typedef float F32x16 __attribute__((vector_size(64)));
typedef uint8_t U8x32 __attribute__((vector_size(32)));
typedef uint8_t U8x16 __attribute__((vector_size(16)));
typedef int8_t I8x16 __attribute__((vector_size(16)));
typedef int16_t I16x16 __attribute__((vector_size(32)));

typedef union {
    __m512 m;
    __m512i i;
    __m256 half[2];
    float f[16];
    int32_t d[16];
    uint32_t u[16];
    uint16_t w[32];
    uint8_t b[64];
} Vector;

#define SOFT __attribute__((target("avx2,fma,f16c"), unused, noinline)) static
#define EACH_OF(n) for (int i = 0; i < (n); i++)

/* ---- One operation for every element --------------------------------------------------------- */

#define _mm512_add_ps(x, y) ((x) + (y))
#define _mm512_sub_ps(x, y) ((x) - (y))
#define _mm512_mul_ps(x, y) ((x) * (y))
#define _mm512_div_ps(x, y) ((x) / (y))
#define _mm512_set1_ps(x) ((x) - (__m512){0})
#define _mm512_cvtss_f32(x) ((x)[0])
#define _mm512_and_si512(x, y) ((x) & (y))
#define _mm512_or_si512(x, y) ((x) | (y))
#define _mm512_xor_si512(x, y) ((x) ^ (y))
#define _mm512_add_epi32(x, y) ((__m512i)((U32x16)(x) + (U32x16)(y)))
#define _mm512_mullo_epi32(x, y) ((__m512i)((U32x16)(x) * (U32x16)(y)))
#define _mm512_sub_epi8(x, y) ((__m512i)((I8x64)(x) - (I8x64)(y)))
#define _mm512_slli_epi32(x, by) ((__m512i)((U32x16)(x) << (by)))
#define _mm512_srli_epi32(x, by) ((__m512i)((U32x16)(x) >> (by)))
#define _mm512_srai_epi32(x, by) ((__m512i)((I32x16)(x) >> (by)))
#define _mm512_slli_epi16(x, by) ((__m512i)((U16x32)(x) << (by)))
#define _mm512_set1_epi8(x) ((__m512i)((int8_t)(x) + (I8x64){0}))
#define _mm512_set1_epi32(x) ((__m512i)((x) + (I32x16){0}))
#undef _mm512_setr_epi32 /* a macro already, as a few below */
#define _mm512_setr_epi32(...) ((__m512i)(I32x16){__VA_ARGS__})
#define _mm512_castsi512_ps(x) ((__m512)(x))
#define _mm512_castps_si512(x) ((__m512i)(x))
#define _mm512_cvtepi32_ps(x) ((__m512) __builtin_convertvector((I32x16)(x), F32x16))
#define _mm512_cvtepu8_epi32(x) ((__m512i) __builtin_convertvector((U8x16)(x), I32x16))
#define _mm512_cvtepi8_epi32(x) ((__m512i) __builtin_convertvector((I8x16)(x), I32x16))
#define _mm512_cvtepu8_epi16(x) ((__m512i) __builtin_convertvector((U8x32)(x), U16x32))
#define _mm512_cvtepi32_epi8(x) ((__m128i) __builtin_convertvector((I32x16)(x), I8x16))
#define _mm512_cvtepi32_epi16(x) ((__m256i) __builtin_convertvector((I32x16)(x), I16x16))

SOFT __m512 soft_fma(__m512 x, __m512 y, __m512 z) {
    Vector a = {x}, b = {y}, c = {z};
    EACH_OF(2) c.half[i] = _mm256_fmadd_ps(a.half[i], b.half[i], c.half[i]);
    return c.m;
}
SOFT __m512 soft_max(__m512 x, __m512 y) {
    Vector a = {x}, b = {y};
    EACH_OF(2) b.half[i] = _mm256_max_ps(a.half[i], b.half[i]);
    return b.m;
}
SOFT __m512i soft_max_epi32(__m512i x, __m512i y) {
    Vector a = {.i = x}, b = {.i = y};
    EACH_OF(16) b.d[i] = a.d[i] > b.d[i] ? a.d[i] : b.d[i];
    return b.i;
}
/* Bit k of `table`, k: a bit of x, one of y, one of z. */
SOFT __m512i soft_ternary(__m512i x, __m512i y, __m512i z, int table) {
    __m512i all = {0};
    EACH_OF(8) if (table >> i & 1) all |= (i & 4 ? x : ~x) & (i & 2 ? y : ~y) & (i & 1 ? z : ~z);
    return all;
}
/* x - floor(x); nothing of infinity */
SOFT __m512 soft_fraction(__m512 x, int how) {
    Vector a = {x};
    if (how != (_MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC)) abort();
    EACH_OF(16) a.f[i] = isinf(a.f[i]) ? 0 : a.f[i] - floorf(a.f[i]);
    return a.m;
}
/* x 2^floor(y) */
SOFT __m512 soft_scale(__m512 x, __m512 y) {
    Vector a = {x}, b = {y};
    EACH_OF(16) a.f[i] = ldexpf(a.f[i], (int)floorf(fmaxf(fminf(b.f[i], 1000), -1000)));
    return a.m;
}
/* The instruction has 14 bits of it. */
SOFT __m512 soft_reciprocal(__m512 x) {
    Vector a = {x};
    EACH_OF(16) a.f[i] = 1 / a.f[i];
    return a.m;
}
#define _mm512_fmadd_ps soft_fma
#define _mm512_max_ps soft_max
#define _mm512_max_epi32 soft_max_epi32
#define _mm512_scalef_ps soft_scale
#define _mm512_rcp14_ps soft_reciprocal
#undef _mm512_ternarylogic_epi32
#define _mm512_ternarylogic_epi32 soft_ternary
#undef _mm512_reduce_ps
#define _mm512_reduce_ps soft_fraction

/* ---- Some of the elements -------------------------------------------------------------------- */

SOFT __mmask16 soft_less(__m512 x, __m512 y, int how) {
    unsigned mask = 0;
    if (how != _CMP_LT_OQ) abort();
    EACH_OF(16) mask |= (unsigned)(x[i] < y[i]) << i;
    return (__mmask16)mask;
}
SOFT __mmask16 soft_signs(__m512i x) {
    Vector a = {.i = x};
    unsigned mask = 0;
    EACH_OF(16) mask |= (unsigned)(a.d[i] < 0) << i;
    return (__mmask16)mask;
}
SOFT __m512 soft_blend(__mmask16 mask, __m512 no, __m512 yes) {
    EACH_OF(16) if (mask >> i & 1) no[i] = yes[i];
    return no;
}
#undef _mm512_cmp_ps_mask
#define _mm512_cmp_ps_mask soft_less
#define _mm512_movepi32_mask soft_signs
#define _mm512_mask_blend_ps soft_blend
#define _mm512_mask_mov_ps(x, mask, y) soft_blend(mask, x, y)

/* ---- Elements in other places ---------------------------------------------------------------- */

SOFT __m512i soft_load(const void *p) {
    __m512i x;
    memcpy(&x, p, sizeof x);
    return x;
}
SOFT void soft_store(void *p, __m512i x) { memcpy(p, &x, sizeof x); }
SOFT __m256 soft_half(__m512 x, int i) { return ((Vector){x}).half[i]; }
SOFT __m512 soft_from_f16(__m256i x) {
    Vector z;
    z.half[0] = _mm256_cvtph_ps(_mm256_castsi256_si128(x));
    z.half[1] = _mm256_cvtph_ps(_mm256_extracti128_si256(x, 1));
    return z.m;
}
SOFT __m512i soft_broadcast(__m128i x) {
    Vector z;
    EACH_OF(4) memcpy(z.d + 4 * i, &x, sizeof x);
    return z.i;
}
/* Within every 16 bytes. */
SOFT __m512i soft_shuffle_bytes(__m512i old, uint64_t mask, __m512i x, __m512i from) {
    Vector z = {.i = old}, a = {.i = x}, b = {.i = from};
    EACH_OF(64) if (mask >> i & 1) z.b[i] = b.b[i] & 128 ? 0 : a.b[(i & 48) | (b.b[i] & 15)];
    return z.i;
}
SOFT __m512i soft_permute_words(__m512i from, __m512i x) {
    Vector z, a = {.i = x}, b = {.i = from};
    EACH_OF(32) z.w[i] = a.w[b.w[i] & 31];
    return z.i;
}
#define _mm512_loadu_ps(p) ((__m512)soft_load(p))
#define _mm512_storeu_ps(p, x) soft_store(p, (__m512i)(x))
#define _mm512_loadu_si512 soft_load
#define _mm512_load_si512 soft_load
#define _mm512_storeu_si512 soft_store
#define _mm512_castps512_ps256(x) soft_half(x, 0)
#undef _mm512_extractf32x8_ps
#define _mm512_extractf32x8_ps soft_half
#define _mm512_cvtph_ps soft_from_f16
#define _mm512_broadcast_i32x4 soft_broadcast
#define _mm512_mask_shuffle_epi8 soft_shuffle_bytes
#define _mm512_permutexvar_epi16 soft_permute_words

/* ---- Rounded to bf16 ------------------------------------------------------------------------- */

/* To the nearest, or even; subnormal numbers are 0; a NaN stays one. */
SOFT uint16_t soft_bf16(uint32_t bits) {
    if ((bits & 0x7fffffff) > 0x7f800000) return (uint16_t)(bits >> 16 | 64);
    if ((bits & 0x7f800000) == 0) bits &= 0x80000000;
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
SOFT __m512i soft_two_bf16(__m512 high, __m512 low) {
    Vector z, a = {low}, b = {high};
    EACH_OF(16) {
        z.w[i] = soft_bf16(a.u[i]);
        z.w[16 + i] = soft_bf16(b.u[i]);
    }
    return z.i;
}
#define _mm512_cvtne2ps_pbh(high, low) ((__m512bh)soft_two_bf16(high, low))

/* ---- All elements as one number -------------------------------------------------------------- */

SOFT int32_t soft_total(__m512i x) {
    Vector a = {.i = x};
    uint32_t sum = 0;
    EACH_OF(16) sum += a.u[i];
    return (int32_t)sum;
}
SOFT int32_t soft_largest(__m512i x) {
    Vector a = {.i = x};
    EACH_OF(16) a.d[0] = a.d[i] > a.d[0] ? a.d[i] : a.d[0];
    return a.d[0];
}
/* The compilers' own are trees of halves. */
SOFT float soft_sum(__m512 x) {
    for (int half = 8; half > 0; half /= 2) EACH_OF(half) x[i] += x[i + half];
    return x[0];
}
SOFT float soft_top(__m512 x) {
    EACH_OF(16) if (x[i] > x[0]) x[0] = x[i];
    return x[0];
}
#define _mm512_reduce_add_epi32 soft_total
#define _mm512_reduce_max_epi32 soft_largest
#define _mm512_reduce_add_ps soft_sum
#define _mm512_reduce_max_ps soft_top

/* ---- Sums of products: of four bytes, or of two words ---------------------------------------- */

#define SOFT_DOT(name, size, type_x, type_y, n)                                                    \
    SOFT void name(void *sums, const void *x, const void *y) {                                     \
        uint32_t s[(size) / 4];                                                                    \
        type_x a[(size) / sizeof(type_x)];                                                         \
        type_y b[(size) / sizeof(type_y)];                                                         \
        memcpy(s, sums, size);                                                                     \
        memcpy(a, x, size);                                                                        \
        memcpy(b, y, size);                                                                        \
        EACH_OF((size) / 4)                                                                        \
        for (int j = 0; j < (n); j++) s[i] +=                                                      \
            (uint32_t)((int32_t)a[(n)*i + j] * (int32_t)b[(n)*i + j]);                             \
        memcpy(sums, s, size);                                                                     \
    }
SOFT_DOT(soft_vpdpbusd_256, 32, uint8_t, int8_t, 4)
SOFT_DOT(soft_vpdpbusd_512, 64, uint8_t, int8_t, 4)
SOFT_DOT(soft_vpdpwssd_256, 32, int16_t, int16_t, 2)
SOFT_DOT(soft_vpdpwssd_512, 64, int16_t, int16_t, 2)

/* What kernels/x86.h gives the compiler, and how it sums: see there. */
#define AVX2_SET "avx2,fma,f16c"
#define AVX_VNNI_SET AVX2_SET
#define AVX512_SET AVX2_SET
#define AMX_SET AVX2_SET
#define DOT_256(instruction, s, w, q) soft_##instruction##_256(&(s), &(w), &(q))
#define DOT_512(instruction, s, w, q) soft_##instruction##_512(&(s), &(w), &(q))
