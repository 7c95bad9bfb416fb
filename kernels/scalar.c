/* scalar.c: the island of plain C, for any processor, and the meaning of every primitive. */
#include "kernels/island.h"

#define TARGET
#define UNROLL
#define INLINED /* as the compiler likes: as fast, and half the time to compile */
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

#include "kernels/lanes.h"

float exp16_scalar(float x) {
    float f[16];
    lanes_store(f, lanes_exp(lanes_set1(x)));
    return f[0];
}

const Kernels scalar_kernels = {.name = "scalar", SAME_KERNELS, OWN_KERNELS};
