/* neon.c: the island for 64-bit ARM with NEON and its int8 dot product; with i8mm's part behind it.
 */
#if defined(__aarch64__) && !defined(__clang__)
/* gcc would move loads far ahead of their use, and for want of registers through the stack. */
#pragma GCC optimize("no-schedule-insns")
#endif
#include "kernels/island.h"

#if defined(HAVE_NEON_DOT)

#include <arm_neon.h>

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

#include "kernels/lanes.h"

const Kernels neon_kernels = {.name = "neon", SAME_KERNELS, OWN_KERNELS};

#if defined(HAVE_I8MM)
#include "kernels/i8mm.h"
#endif

#endif
