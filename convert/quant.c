/* quant.c: GGUF's blocks of weights: to float, into wider blocks, into panels, and from float.
 *
 * To float: one function per type, in the very order of float operations that defines the type, so
 * the bits are the ones every other reader of the file gets.
 *
 * Into wider blocks: codes of 3 and 4 bits that a type of model.bin holds with the same scales.
 *
 * Into panels: the codes of a block are unpacked to bytes and laid out as model.h draws them, four
 * codes of a row at a time. panel_matches reads the result back as model.h's formulas say.
 *
 * From float: every quantizer looks for the codes and scales with the least squared error. It tries
 * a number of scales, takes for each the nearest codes, and solves for the scale that suits these
 * codes best. Formats with two levels of scales then settle the outer scale first, rounded to the
 * f16 it is stored as, and choose the inner ones among the neighbours of their ideal value by the
 * error that really results. Arithmetic is done on four fixed lanes: the same on every machine. */
#include <float.h>

#include "convert.h"

#define SUPER 256 /* weights of a super-block of the K types */

static inline uint32_t load_u32(const uint8_t *p) {
    uint32_t v;
    memcpy(&v, p, sizeof v);
    return v;
}
static inline void store_u32(uint8_t *p, uint32_t v) { memcpy(p, &v, sizeof v); }
static inline float load_f16(const uint8_t *p) { return f16_to_f32(load_u16(p)); }

/* ---- Codes of a block, one byte each --------------------------------------------------------- */

/* 32 codes of 4 bits: b holds 16 bytes of nibbles. */
static void codes_q4(const uint8_t *b, uint8_t *q) {
    for (size_t j = 0; j < 16; j++) {
        q[j] = b[j] & 15;
        q[j + 16] = b[j] >> 4;
    }
}

/* 32 codes of 5 bits: b holds 4 bytes of fifth bits, then the nibbles. */
static void codes_q5(const uint8_t *b, uint8_t *q) {
    uint32_t high = load_u32(b);
    codes_q4(b + 4, q);
    for (uint32_t j = 0; j < 32; j++) q[j] = (uint8_t)(q[j] | (high >> j & 1) << 4);
}

/* 256 codes of 4 bits: block 2u is the low nibbles of bytes 32u .. 32u+31, block 2u+1 the high. */
static void codes_k4(const uint8_t *b, uint8_t *q) {
    for (size_t u = 0; u < 4; u++, b += 32, q += 64) {
        for (size_t i = 0; i < 32; i++) {
            q[i] = b[i] & 15;
            q[32 + i] = b[i] >> 4;
        }
    }
}

/* The same with fifth bits: bit j of high[i] belongs to weight i of block j. */
static void codes_k5(const uint8_t *high, const uint8_t *nibbles, uint8_t *q) {
    codes_k4(nibbles, q);
    for (uint32_t j = 0; j < 8; j++) {
        for (size_t i = 0; i < 32; i++) {
            q[32 * j + i] = (uint8_t)(q[32 * j + i] | (high[i] >> j & 1) << 4);
        }
    }
}

/* 256 codes of 6 bits: per 128 weights 64 bytes of nibbles, and 32 of two-bit planes. */
static void codes_k6(const uint8_t *nibbles, const uint8_t *planes, uint8_t *q) {
    for (size_t h = 0; h < 2; h++, nibbles += 64, planes += 32, q += 128) {
        for (size_t i = 0; i < 32; i++) {
            uint32_t low = nibbles[i], next = nibbles[32 + i], p = planes[i];
            q[i] = (uint8_t)((low & 15) | (p & 3) << 4);
            q[32 + i] = (uint8_t)((next & 15) | (p >> 2 & 3) << 4);
            q[64 + i] = (uint8_t)(low >> 4 | (p >> 4 & 3) << 4);
            q[96 + i] = (uint8_t)(next >> 4 | (p >> 6) << 4);
        }
    }
}

/* The 6-bit scale and min of block j (0..7) of a Q4_K or Q5_K super-block: s (12). */
static void scale_min(const uint8_t *s, size_t j, uint32_t *scale, uint32_t *min) {
    if (j < 4) {
        *scale = s[j] & 63;
        *min = s[j + 4] & 63;
    } else {
        *scale = (uint32_t)((s[j + 4] & 15) | s[j - 4] >> 6 << 4);
        *min = (uint32_t)(s[j + 4] >> 4 | s[j] >> 6 << 4);
    }
}

/* ---- To float: rows of blocks, out (cols) ---------------------------------------------------- */

static void f32_to_float(const uint8_t *b, size_t cols, float *out) {
    memcpy(out, b, cols * sizeof *out);
}

static void f16_to_float(const uint8_t *b, size_t cols, float *out) {
    for (size_t k = 0; k < cols; k++) out[k] = load_f16(b + 2 * k);
}

static void bf16_to_float(const uint8_t *b, size_t cols, float *out) {
    for (size_t k = 0; k < cols; k++) out[k] = bf16_to_f32(load_u16(b + 2 * k));
}

static void q8_0_to_float(const uint8_t *b, size_t cols, float *out) {
    for (size_t k = 0; k < cols; k += 32, b += 34, out += 32) {
        float d = load_f16(b);
        for (size_t i = 0; i < 32; i++) out[i] = d * (float)(int8_t)b[2 + i];
    }
}

static void q5_0_to_float(const uint8_t *b, size_t cols, float *out) {
    uint8_t q[32];
    for (size_t k = 0; k < cols; k += 32, b += 22, out += 32) {
        float d = load_f16(b);
        codes_q5(b + 2, q);
        for (size_t i = 0; i < 32; i++) out[i] = d * (float)(q[i] - 16);
    }
}

static void q5_1_to_float(const uint8_t *b, size_t cols, float *out) {
    uint8_t q[32];
    for (size_t k = 0; k < cols; k += 32, b += 24, out += 32) {
        float d = load_f16(b), m = load_f16(b + 2);
        codes_q5(b + 4, q);
        for (size_t i = 0; i < 32; i++) out[i] = d * (float)q[i] + m;
    }
}

static void q4_0_to_float(const uint8_t *b, size_t cols, float *out) {
    uint8_t q[32];
    for (size_t k = 0; k < cols; k += 32, b += 18, out += 32) {
        float d = load_f16(b);
        codes_q4(b + 2, q);
        for (size_t i = 0; i < 32; i++) out[i] = d * (float)(q[i] - 8);
    }
}

static const int8_t iq4_nl_values[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                         1,    13,   25,  38,  53,  69,  89,  113};

/* As q4_0, the codes being places in a table. */
static void iq4_nl_to_float(const uint8_t *b, size_t cols, float *out) {
    uint8_t q[32];
    for (size_t k = 0; k < cols; k += 32, b += 18, out += 32) {
        float d = load_f16(b);
        codes_q4(b + 2, q);
        for (size_t i = 0; i < 32; i++) out[i] = d * (float)iq4_nl_values[q[i]];
    }
}

static void q4_1_to_float(const uint8_t *b, size_t cols, float *out) {
    uint8_t q[32];
    for (size_t k = 0; k < cols; k += 32, b += 20, out += 32) {
        float d = load_f16(b), m = load_f16(b + 2);
        codes_q4(b + 4, q);
        for (size_t i = 0; i < 32; i++) out[i] = d * (float)q[i] + m;
    }
}

/* A super-block of Q4_K or Q5_K once its codes q (256) are unpacked; b is its head. */
static void k45_to_float(const uint8_t *b, const uint8_t *q, float *out) {
    float d = load_f16(b), dmin = load_f16(b + 2);
    for (size_t j = 0; j < 8; j++, q += 32, out += 32) {
        uint32_t scale, min;
        scale_min(b + 4, j, &scale, &min);
        float step = d * (float)scale, low = dmin * (float)min;
        for (size_t i = 0; i < 32; i++) out[i] = step * (float)q[i] - low;
    }
}

static void q4_k_to_float(const uint8_t *b, size_t cols, float *out) {
    uint8_t q[SUPER];
    for (size_t k = 0; k < cols; k += SUPER, b += 144) {
        codes_k4(b + 16, q);
        k45_to_float(b, q, out + k);
    }
}

static void q5_k_to_float(const uint8_t *b, size_t cols, float *out) {
    uint8_t q[SUPER];
    for (size_t k = 0; k < cols; k += SUPER, b += 176) {
        codes_k5(b + 16, b + 48, q);
        k45_to_float(b, q, out + k);
    }
}

static void q6_k_to_float(const uint8_t *b, size_t cols, float *out) {
    uint8_t q[SUPER];
    for (size_t k = 0; k < cols; k += SUPER, b += 210) {
        codes_k6(b, b + 128, q);
        float d = load_f16(b + 208);
        for (size_t s = 0; s < 16; s++, out += 16) {
            float step = d * (float)(int8_t)b[192 + s];
            for (size_t i = 0; i < 16; i++) out[i] = step * (float)(q[16 * s + i] - 32);
        }
    }
}

/* Q2_K and Q3_K order their two-bit codes alike: sub-block s (0..15) of 16 weights lies in byte
 * 32 (s/8) + 16 (s%2) + i, bits 2 (s/2 % 4). */
static inline uint32_t code_k2(const uint8_t *codes, size_t s, size_t i) {
    uint32_t byte = codes[32 * (s / 8) + 16 * (s % 2) + i];
    return byte >> (2 * (s / 2 % 4)) & 3;
}

static void q2_k_to_float(const uint8_t *b, size_t cols, float *out) {
    for (size_t k = 0; k < cols; k += SUPER, b += 84) {
        float d = load_f16(b + 80), dmin = load_f16(b + 82);
        for (size_t s = 0; s < 16; s++, out += 16) {
            float step = d * (float)(b[s] & 15), low = dmin * (float)(b[s] >> 4);
            for (size_t i = 0; i < 16; i++) out[i] = step * (float)code_k2(b + 16, s, i) - low;
        }
    }
}

/* Q3_K, b: 32 bytes of third bits (bit s/2: clear takes 4 off), 64 of codes, 12 of 6-bit scales, d.
 * The scale of sub-block s, and its code i, -4 .. 3. */
static inline int scale_k3(const uint8_t *b, size_t s) {
    const uint8_t *scales = b + 96;
    int low = s < 8 ? scales[s] & 15 : scales[s - 8] >> 4;
    return (low | (scales[8 + s % 4] >> (2 * (s / 4)) & 3) << 4) - 32;
}
static inline int code_k3(const uint8_t *b, size_t s, size_t i) {
    int third = b[16 * (s % 2) + i] >> (s / 2) & 1;
    return (int)code_k2(b + 32, s, i) - (third ? 0 : 4);
}

static void q3_k_to_float(const uint8_t *b, size_t cols, float *out) {
    for (size_t k = 0; k < cols; k += SUPER, b += 110) {
        float d = load_f16(b + 108);
        for (size_t s = 0; s < 16; s++, out += 16) {
            float step = d * (float)scale_k3(b, s);
            for (size_t i = 0; i < 16; i++) out[i] = step * (float)code_k3(b, s, i);
        }
    }
}

/* IQ4_XS, b: d, the two high bits of each of eight scales, the four low ones, codes as IQ4_NL's. */
static void iq4_xs_to_float(const uint8_t *b, size_t cols, float *out) {
    uint8_t q[32];
    for (size_t k = 0; k < cols; k += SUPER, b += 136) {
        float d = load_f16(b);
        uint32_t high = load_u16(b + 2);
        for (size_t j = 0; j < 8; j++, out += 32) {
            uint32_t low = b[4 + j / 2] >> j % 2 * 4 & 15;
            float step = d * (float)((int)(low | (high >> 2 * j & 3) << 4) - 32);
            codes_q4(b + 8 + 16 * j, q);
            for (size_t i = 0; i < 32; i++) out[i] = step * (float)iq4_nl_values[q[i]];
        }
    }
}

/* ---- The types ------------------------------------------------------------------------------- */

typedef struct {
    const char *name;
    uint32_t weights, bytes; /* of a block; 0: we cannot read it */
    void (*to_float)(const uint8_t *row, size_t cols, float *out);
} SourceInfo;

static const SourceInfo source_info[] = {
    [SRC_F32] = {"F32", 1, 4, f32_to_float},
    [SRC_F16] = {"F16", 1, 2, f16_to_float},
    [SRC_Q4_0] = {"Q4_0", 32, 18, q4_0_to_float},
    [SRC_Q4_1] = {"Q4_1", 32, 20, q4_1_to_float},
    [SRC_Q5_0] = {"Q5_0", 32, 22, q5_0_to_float},
    [SRC_Q5_1] = {"Q5_1", 32, 24, q5_1_to_float},
    [SRC_Q8_0] = {"Q8_0", 32, 34, q8_0_to_float},
    [SRC_Q2_K] = {"Q2_K", SUPER, 84, q2_k_to_float},
    [SRC_Q3_K] = {"Q3_K", SUPER, 110, q3_k_to_float},
    [SRC_Q4_K] = {"Q4_K", SUPER, 144, q4_k_to_float},
    [SRC_Q5_K] = {"Q5_K", SUPER, 176, q5_k_to_float},
    [SRC_Q6_K] = {"Q6_K", SUPER, 210, q6_k_to_float},
    [SRC_IQ4_NL] = {"IQ4_NL", 32, 18, iq4_nl_to_float},
    [SRC_IQ4_XS] = {"IQ4_XS", SUPER, 136, iq4_xs_to_float},
    [SRC_BF16] = {"BF16", 1, 2, bf16_to_float},
    /* Named only so that they can be refused by name. */
    [4] = {.name = "Q4_2"}, [5] = {.name = "Q4_3"}, [9] = {.name = "Q8_1"}, [15] = {.name = "Q8_K"},
    [16] = {.name = "IQ2_XXS"}, [17] = {.name = "IQ2_XS"}, [18] = {.name = "IQ3_XXS"},
    [19] = {.name = "IQ1_S"}, [21] = {.name = "IQ3_S"}, [22] = {.name = "IQ2_S"},
    [24] = {.name = "I8"}, [25] = {.name = "I16"}, [26] = {.name = "I32"}, [27] = {.name = "I64"},
    [28] = {.name = "F64"}, [29] = {.name = "IQ1_M"}, [31] = {.name = "Q4_0_4_4"},
    [32] = {.name = "Q4_0_4_8"}, [33] = {.name = "Q4_0_8_8"}, [34] = {.name = "TQ1_0"},
    [35] = {.name = "TQ2_0"}, [36] = {.name = "IQ4_NL_4_4"}, [37] = {.name = "IQ4_NL_4_8"},
    [38] = {.name = "IQ4_NL_8_8"}, [39] = {.name = "MXFP4"}, [40] = {.name = "NVFP4"},
};

const char *source_type_name(uint32_t type) {
    return type < sizeof source_info / sizeof *source_info ? source_info[type].name : NULL;
}

bool source_type_block(uint32_t type, uint32_t *weights, uint32_t *bytes) {
    if (source_type_name(type) == NULL || source_info[type].weights == 0) return false;
    *weights = source_info[type].weights;
    *bytes = source_info[type].bytes;
    return true;
}

size_t source_row_bytes(SourceType type, size_t cols) {
    return cols / source_info[type].weights * source_info[type].bytes;
}

void source_row_to_float(SourceType type, const uint8_t *row, size_t cols, float *out) {
    source_info[type].to_float(row, cols, out);
}

SourceType target_source_type(Type t) {
    static const SourceType of[N_TYPES] = {
        [TYPE_F32] = SRC_F32, [TYPE_F16] = SRC_F16, [TYPE_BF16] = SRC_BF16, [TYPE_Q8] = SRC_Q8_0,
        [TYPE_Q5] = SRC_Q5_K, [TYPE_Q6] = SRC_Q6_K, [TYPE_Q5_0] = SRC_Q5_0, [TYPE_Q5_1] = SRC_Q5_1,
        [TYPE_Q4] = SRC_Q4_K, [TYPE_Q4_0] = SRC_Q4_0,
    };
    return of[t];
}

/* ---- Codes into a block ---------------------------------------------------------------------- */

/* 4-bit codes q (32), or the low bits of longer ones: 16 bytes of nibbles. */
static void put_q4(const uint8_t *q, uint8_t *b) {
    for (size_t j = 0; j < 16; j++) b[j] = (uint8_t)((q[j] & 15) | (q[j + 16] & 15) << 4);
}

/* 5-bit codes q (32): 4 bytes of fifth bits, then the nibbles. */
static void put_q5(const uint8_t *q, uint8_t *b) {
    uint32_t high = 0;
    for (uint32_t j = 0; j < 32; j++) high |= (uint32_t)(q[j] >> 4) << j;
    store_u32(b, high);
    put_q4(q, b + 4);
}

/* 4-bit codes q (256), or the low bits of longer ones: 128 bytes of nibbles. */
static void put_k4(const uint8_t *q, uint8_t *b) {
    for (size_t u = 0; u < 4; u++, b += 32, q += 64)
        for (size_t i = 0; i < 32; i++) b[i] = (uint8_t)((q[i] & 15) | (q[32 + i] & 15) << 4);
}

/* 5-bit codes q (256): 32 bytes of fifth bits, and the nibbles. */
static void put_k5(const uint8_t *q, uint8_t *high, uint8_t *nibbles) {
    memset(high, 0, 32);
    for (size_t k = 0; k < SUPER; k++)
        high[k % 32] = (uint8_t)(high[k % 32] | q[k] >> 4 << k / 32);
    put_k4(q, nibbles);
}

/* 6-bit codes q (256): 128 bytes of nibbles, 64 of two-bit planes. */
static void put_k6(const uint8_t *q, uint8_t *b) {
    for (size_t h = 0; h < 2; h++, q += 128) {
        for (size_t i = 0; i < 64; i++)
            b[64 * h + i] = (uint8_t)((q[i] & 15) | (q[64 + i] & 15) << 4);
        for (size_t i = 0; i < 32; i++)
            b[128 + 32 * h + i] = (uint8_t)(q[i] >> 4 | q[32 + i] >> 4 << 2 | q[64 + i] >> 4 << 4 |
                                            q[96 + i] >> 4 << 6);
    }
}

/* ---- Into wider blocks: one block b to out ----------------------------------------------------
 *
 * The same scales, and the same codes with a zero bit in front or another offset: so every weight
 * is the same product (and sum) of the same numbers. */

static void q4_1_to_q5_1(const uint8_t *b, uint8_t *out) {
    memcpy(out, b, 4);
    memset(out + 4, 0, 4);
    memcpy(out + 8, b + 4, 16);
}

static void iq4_nl_to_q8_0(const uint8_t *b, uint8_t *out) {
    uint8_t q[32];
    codes_q4(b + 2, q);
    memcpy(out, b, 2);
    for (size_t i = 0; i < 32; i++) out[2 + i] = (uint8_t)iq4_nl_values[q[i]];
}

static void q3_k_to_q6_k(const uint8_t *b, uint8_t *out) {
    uint8_t q[SUPER];
    for (size_t s = 0; s < 16; s++) {
        for (size_t i = 0; i < 16; i++) q[16 * s + i] = (uint8_t)(code_k3(b, s, i) + 32);
        out[192 + s] = (uint8_t)scale_k3(b, s);
    }
    put_k6(q, out);
    memcpy(out + 208, b + 108, 2);
}

typedef struct {
    SourceType from;
    Type to;
    void (*widen)(const uint8_t *block, uint8_t *out);
} Wider;

/* NULL: the type's own blocks are in a panel, or none that hold its weights. */
static const Wider *find_wider(SourceType from) {
    static const Wider all[] = {
        {SRC_Q4_1, TYPE_Q5_1, q4_1_to_q5_1},
        {SRC_Q3_K, TYPE_Q6, q3_k_to_q6_k},
        {SRC_IQ4_NL, TYPE_Q8, iq4_nl_to_q8_0},
    };
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        if (all[i].from == from) return &all[i];
    return NULL;
}

bool keeping_type(SourceType source, Type *type) {
    for (int t = 0; t < N_TYPES; t++)
        if (target_source_type((Type)t) == source) return *type = (Type)t, true;
    const Wider *w = find_wider(source);
    if (w) *type = w->to;
    return w != NULL;
}

void widen_row(SourceType source, const uint8_t *row, size_t cols, uint8_t *blocks) {
    const Wider *w = find_wider(source);
    const SourceInfo *from = &source_info[source], *to = &source_info[target_source_type(w->to)];
    for (size_t k = 0; k < cols; k += from->weights, row += from->bytes, blocks += to->bytes)
        w->widen(row, blocks);
}

/* ---- Into panels ----------------------------------------------------------------------------- */

/* Row n's part of a block's lines of 4-bit codes, of 5-bit or of 6-bit ones, from its codes c (32).
 * A dword is four columns. */
static void put_codes4(uint8_t *lines, size_t n, const uint8_t *c) {
    for (size_t i = 0; i < 4; i++, c += 8)
        store_u32(lines + i * LINE_BYTES + 4 * n, load_u32(c) | load_u32(c + 4) << 4);
}

static void put_codes5(uint8_t *lines, size_t n, const uint8_t *c) {
    const uint32_t one = 0x01010101;
    uint32_t w[8], line[5];
    for (size_t r = 0; r < 8; r++) w[r] = load_u32(c + 4 * r);
    line[0] = w[0] | (w[2] & 7 * one) << 5;
    line[1] = w[1] | (w[2] >> 3 & 3 * one) << 5 | (w[7] >> 3 & one) << 7;
    line[2] = w[3] | (w[5] & 7 * one) << 5;
    line[3] = w[4] | (w[5] >> 3 & 3 * one) << 5 | (w[7] >> 4 & one) << 7;
    line[4] = w[6] | (w[7] & 7 * one) << 5;
    for (size_t i = 0; i < 5; i++) store_u32(lines + i * LINE_BYTES + 4 * n, line[i]);
}

static void put_codes45(size_t bits, uint8_t *lines, size_t n, const uint8_t *c) {
    if (bits == 4)
        put_codes4(lines, n, c);
    else
        put_codes5(lines, n, c);
}

static void put_codes6(uint8_t *lines, size_t n, const uint8_t *c) {
    for (size_t i = 0; i < 6; i++) {
        size_t r = i / 3 * 4 + i % 3;
        uint32_t part = load_u32(c + 4 * (i / 3 * 4 + 3)) >> 2 * (i % 3) & 0x03030303;
        store_u32(lines + i * LINE_BYTES + 4 * n, load_u32(c + 4 * r) | part << 6);
    }
}

static void pack_f32(size_t n, size_t cols, const uint8_t *row, uint8_t *panel) {
    for (size_t k = 0; k < cols; k++) memcpy(panel + k * LINE_BYTES + 4 * n, row + 4 * k, 4);
}

static void pack_f16(size_t n, size_t cols, const uint8_t *row, uint8_t *panel) {
    for (size_t k = 0; k < cols; k++)
        memcpy(panel + k / 2 * LINE_BYTES + 4 * n + 2 * (k % 2), row + 2 * k, 2);
}

static void pack_q8(size_t n, size_t cols, const uint8_t *row, uint8_t *panel) {
    for (size_t b = 0; b < cols / 32; b++, row += 34) {
        uint8_t *unit = panel + b / 2 * (17 * LINE_BYTES), *lines = unit + LINE_BYTES;
        memcpy(unit + 2 * (b % 2 * 16 + n), row, 2);
        for (size_t r = 0; r < 8; r++)
            memcpy(lines + (b % 2 * 8 + r) * LINE_BYTES + 4 * n, row + 2 + 4 * r, 4);
    }
}

/* q4_0 and q5_0 (heads of one f16: d), q5_1 (heads of two: d, m). */
static void pack_q45_01(Type t, size_t n, size_t cols, const uint8_t *row, uint8_t *panel) {
    const size_t heads = type_info(t)->scales, codes = type_info(t)->codes;
    for (size_t b = 0; b < cols / 32; b++, row += 2 * heads + 4 * codes) {
        uint8_t *unit = panel + b / 2 * (heads + 2 * codes) * LINE_BYTES, c[32];
        for (size_t h = 0; h < heads; h++)
            memcpy(unit + h * LINE_BYTES + 2 * (b % 2 * 16 + n), row + 2 * h, 2);
        if (codes == 4)
            codes_q4(row + 2 * heads, c);
        else
            codes_q5(row + 2 * heads, c);
        put_codes45(codes, unit + (heads + b % 2 * codes) * LINE_BYTES, n, c);
    }
}

/* q4 and q5. */
static void pack_k45(Type t, size_t n, size_t cols, const uint8_t *row, uint8_t *panel) {
    const size_t codes = type_info(t)->codes;
    for (size_t k = 0; k < cols; k += SUPER, row += 16 + 32 * codes) {
        uint8_t c[SUPER], *lines = panel + 3 * LINE_BYTES, *last = lines + 8 * codes * LINE_BYTES;
        if (codes == 4)
            codes_k4(row + 16, c);
        else
            codes_k5(row + 16, row + 48, c);
        for (size_t b = 0; b < 8; b++, lines += codes * LINE_BYTES) {
            uint32_t sc, m;
            scale_min(row + 4, b, &sc, &m);
            uint8_t *high = panel + 8 * b + n / 2;
            *high = (uint8_t)(*high | (sc >> 4 | m >> 4 << 2) << (n % 2 * 4));
            panel[LINE_BYTES + 16 * b + n] = (uint8_t)((sc & 15) | (m & 15) << 4);
            put_codes45(codes, lines, n, c + 32 * b);
        }
        memcpy(last + 2 * n, row, 2);
        memcpy(last + 32 + 2 * n, row + 2, 2);
        panel = last + LINE_BYTES;
    }
}

static void pack_q6(size_t n, size_t cols, const uint8_t *row, uint8_t *panel) {
    uint8_t *p = panel + panel_head_lines(TYPE_Q6, cols) * LINE_BYTES;
    for (size_t s = 0; s < cols / SUPER; s++, row += 210) {
        uint8_t c[SUPER];
        codes_k6(row, row + 128, c);
        memcpy(panel + 2 * (16 * s + n), row + 208, 2);
        for (size_t u = 0; u < 4; u++, p += 13 * LINE_BYTES) {
            for (size_t i = 0; i < 4; i++) p[16 * i + n] = row[192 + 4 * u + i];
            put_codes6(p + LINE_BYTES, n, c + 64 * u);
            put_codes6(p + 7 * LINE_BYTES, n, c + 64 * u + 32);
        }
    }
}

void pack_panel(Type t, size_t cols, const uint8_t *blocks, size_t row_bytes, size_t n_rows,
                uint8_t *panel) {
    memset(panel, 0, panel_bytes(t, cols));
    for (size_t n = 0; n < n_rows; n++) {
        const uint8_t *row = blocks + n * row_bytes;
        switch (t) {
        case TYPE_F32: pack_f32(n, cols, row, panel); break;
        case TYPE_F16:
        case TYPE_BF16: pack_f16(n, cols, row, panel); break;
        case TYPE_Q8: pack_q8(n, cols, row, panel); break;
        case TYPE_Q6: pack_q6(n, cols, row, panel); break;
        case TYPE_Q4:
        case TYPE_Q5: pack_k45(t, n, cols, row, panel); break;
        default: pack_q45_01(t, n, cols, row, panel); break;
        }
    }
}

/* ---- Out of panels, for the proof: panel_weight of model.h for whole pieces of a row --------- */

/* The codes c (32) that row n has in a block's lines of 4-bit codes, of 5-bit or of 6-bit ones. */
static void get_codes4(const uint8_t *lines, size_t n, uint8_t *c) {
    for (size_t i = 0; i < 4; i++) {
        uint32_t two = load_u32(lines + i * LINE_BYTES + 4 * n);
        store_u32(c + 8 * i, two & 0x0f0f0f0f);
        store_u32(c + 8 * i + 4, two >> 4 & 0x0f0f0f0f);
    }
}

static void get_codes5(const uint8_t *lines, size_t n, uint8_t *c) {
    const uint32_t one = 0x01010101;
    uint32_t line[5], top[5];
    for (size_t i = 0; i < 5; i++) {
        line[i] = load_u32(lines + i * LINE_BYTES + 4 * n);
        top[i] = line[i] >> 5 & 7 * one;
        store_u32(c + 4 * (i + i / 2), line[i] & 31 * one); /* r = 0, 1, 3, 4, 6 */
    }
    store_u32(c + 8, top[0] | (top[1] & 3 * one) << 3);
    store_u32(c + 20, top[2] | (top[3] & 3 * one) << 3);
    store_u32(c + 28, top[4] | (top[1] >> 2 & one) << 3 | (top[3] >> 2 & one) << 4);
}

static void get_codes45(size_t bits, const uint8_t *lines, size_t n, uint8_t *c) {
    if (bits == 4)
        get_codes4(lines, n, c);
    else
        get_codes5(lines, n, c);
}

static void get_codes6(const uint8_t *lines, size_t n, uint8_t *c) {
    for (size_t half = 0; half < 32; half += 16, lines += 3 * LINE_BYTES) {
        uint32_t last = 0;
        for (size_t i = 0; i < 3; i++) {
            uint32_t w = load_u32(lines + i * LINE_BYTES + 4 * n);
            store_u32(c + half + 4 * i, w & 0x3f3f3f3f);
            last |= (w >> 6 & 0x03030303) << 2 * i;
        }
        store_u32(c + half + 12, last);
    }
}

static void unpack_q8(const uint8_t *unit, size_t n, size_t n_cols, float *out) {
    for (size_t b = 0; b < n_cols / 32; b++, out += 32) {
        float d = load_f16(unit + 2 * (16 * b + n));
        int8_t c[32];
        const uint8_t *lines = unit + (1 + 8 * b) * LINE_BYTES + 4 * n;
        for (size_t r = 0; r < 8; r++) memcpy(c + 4 * r, lines + r * LINE_BYTES, 4);
        for (size_t i = 0; i < 32; i++) out[i] = d * (float)c[i];
    }
}

static void unpack_q45_01(Type t, const uint8_t *unit, size_t n, size_t n_cols, float *out) {
    const size_t heads = type_info(t)->scales, codes = type_info(t)->codes;
    for (size_t b = 0; b < n_cols / 32; b++, out += 32) {
        const uint8_t *head = unit + 2 * (16 * b + n);
        float d = load_f16(head), m = heads == 2 ? load_f16(head + LINE_BYTES) : 0;
        uint8_t c[32];
        get_codes45(codes, unit + (heads + codes * b) * LINE_BYTES, n, c);
        if (heads == 1) {
            for (size_t i = 0; i < 32; i++) out[i] = d * (float)(c[i] - (codes == 4 ? 8 : 16));
        } else {
            for (size_t i = 0; i < 32; i++) out[i] = d * (float)c[i] + m;
        }
    }
}

static void unpack_k45(Type t, const uint8_t *p, size_t n, float *out) {
    const size_t codes = type_info(t)->codes;
    const uint8_t *lines = p + 3 * LINE_BYTES, *last = lines + 8 * codes * LINE_BYTES + 2 * n;
    float d = load_f16(last), dmin = load_f16(last + 32);
    for (size_t b = 0; b < 8; b++, lines += codes * LINE_BYTES, out += 32) {
        uint32_t two = p[8 * b + n / 2], low = p[LINE_BYTES + 16 * b + n];
        uint32_t high = two >> (n % 2 * 4) & 15;
        float step = d * (float)((low & 15) | (high & 3) << 4);
        float min = dmin * (float)(low >> 4 | high >> 2 << 4);
        uint8_t c[32];
        get_codes45(codes, lines, n, c);
        for (size_t i = 0; i < 32; i++) out[i] = step * (float)c[i] - min;
    }
}

static void unpack_q6(const uint8_t *unit, const uint8_t *scale, size_t n, float *out) {
    float d = load_f16(scale + 2 * n);
    for (size_t u = 0; u < 4; u++, unit += 13 * LINE_BYTES, out += 64) {
        uint8_t c[64];
        get_codes6(unit + LINE_BYTES, n, c);
        get_codes6(unit + 7 * LINE_BYTES, n, c + 32);
        for (size_t i = 0; i < 64; i++) {
            float step = d * (float)(int8_t)unit[i / 16 * 16 + n];
            out[i] = step * (float)(c[i] - 32);
        }
    }
}

/* Columns k .. k + n_cols - 1 of row n, k a multiple of 64 and n_cols at most 64, or a whole
 * super-block: out (n_cols). */
static void unpack(Type t, size_t cols, const uint8_t *panel, size_t n, size_t k, size_t n_cols,
                   float *out) {
    const TypeInfo *info = type_info(t);
    const uint8_t *unit = panel + panel_head_lines(t, cols) * LINE_BYTES;
    unit += k / info->unit * info->lines * LINE_BYTES;
    switch (t) {
    case TYPE_Q8: unpack_q8(unit, n, n_cols, out); break;
    case TYPE_Q6: unpack_q6(unit, panel + 32 * (k / SUPER), n, out); break;
    case TYPE_Q4:
    case TYPE_Q5: unpack_k45(t, unit, n, out); break;
    case TYPE_Q4_0:
    case TYPE_Q5_0:
    case TYPE_Q5_1: unpack_q45_01(t, unit, n, n_cols, out); break;
    case TYPE_F32: /* a loop for each type: one for all is a fifth slower */
        for (size_t i = 0; i < n_cols; i++) out[i] = panel_weight(TYPE_F32, cols, panel, n, k + i);
        break;
    case TYPE_F16:
        for (size_t i = 0; i < n_cols; i++) out[i] = panel_weight(TYPE_F16, cols, panel, n, k + i);
        break;
    default: /* TYPE_BF16 */
        for (size_t i = 0; i < n_cols; i++) out[i] = panel_weight(TYPE_BF16, cols, panel, n, k + i);
        break;
    }
}

bool panel_matches(Type t, size_t cols, const uint8_t *blocks, size_t row_bytes, size_t n_rows,
                   const uint8_t *panel) {
    SourceType source = target_source_type(t);
    size_t step = max_size(64, type_info(t)->block);
    float want[SUPER], got[SUPER];
    for (size_t k = 0; k < cols; k += step) {
        size_t n_cols = min_size(step, cols - k), at = source_row_bytes(source, k);
        for (size_t n = 0; n < n_rows; n++) {
            source_row_to_float(source, blocks + n * row_bytes + at, n_cols, want);
            unpack(t, cols, panel, n, k, n_cols, got);
            if (memcmp(want, got, n_cols * sizeof *got) != 0) return false;
        }
    }
    return true;
}

/* ---- From float ------------------------------------------------------------------------------ */

/* Four lanes, and sums over them in one fixed order. */
typedef float Lanes __attribute__((vector_size(16)));
typedef int32_t LaneMask __attribute__((vector_size(16)));

static inline Lanes load_lanes(const float *x) {
    Lanes v;
    memcpy(&v, x, sizeof v);
    return v;
}
static inline Lanes all_lanes(float f) { return (Lanes){f, f, f, f}; }
static inline Lanes choose(LaneMask m, Lanes yes, Lanes no) {
    return (Lanes)(((LaneMask)yes & m) | ((LaneMask)no & ~m));
}
static inline float sum_lanes(Lanes v) { return (v[0] + v[2]) + (v[1] + v[3]); }

/* The code nearest to v: within [low, high], rounded by adding 1.5 2^23 and taking it off again. */
static inline Lanes nearest_code(Lanes v, float low, float high) {
    Lanes lo = all_lanes(low), hi = all_lanes(high), shift = all_lanes(12582912.0f);
    v = choose(v < lo, lo, v);
    v = choose(v > hi, hi, v);
    return (v + shift) - shift;
}

static inline float max_float(float a, float b) { return a > b ? a : b; }

/* 1/x, or 0 for the scale of a block that is all zero. */
static inline float inverse(float x) { return x != 0 ? 1 / x : 0; }

/* A scale as f16 can hold it: huge ones saturate. */
#define F16_MOST 65504.0f
static inline float f16_value(float f) {
    float most = F16_MOST;
    return f16_to_f32(f16_from_f32(f > most ? most : f < -most ? -most : f));
}
/* The same, rounded away from zero: an outer scale that is a little too large costs little, but
 * one that is too small, or became 0 as weights of 1e-4 make it, cuts its largest inner scale. */
static inline float f16_outward(float f) {
    uint16_t h = f16_from_f32(f16_value(f));
    float value = f16_to_f32(h);
    bool inside = value < 0 ? value > f : value < f;
    if (value == 0) inside = f != 0;
    return inside && (h & 0x7fff) < 0x7bff ? f16_to_f32((uint16_t)(h + 1)) : value;
}
static inline void store_f16(uint8_t *p, float f) {
    uint16_t h = f16_from_f32(f);
    memcpy(p, &h, sizeof h);
}

/* n weights to work on; far beyond what any format can hold they are cut, so that no square
 * overflows. */
static void take_weights(const float *x, size_t n, float *out) {
    const float most = 1e15f;
    for (size_t i = 0; i < n; i++) out[i] = x[i] > most ? most : x[i] < -most ? -most : x[i];
}

/* Codes of x (n) for w = step * q + min, q in [low, high]: q (n), stored plus `bias`. */
static void store_codes(const float *x, size_t n, float step, float min, float low, float high,
                        int bias, uint8_t *q) {
    float inv = inverse(step);
    for (size_t i = 0; i < n; i += 4) {
        Lanes c = nearest_code((load_lanes(x + i) - all_lanes(min)) * all_lanes(inv), low, high);
        for (size_t j = 0; j < 4; j++) q[i + j] = (uint8_t)((int)c[j] + bias);
    }
}

/* Sum of (step * q + min - x)^2 with the nearest codes: what this scale and min really cost. */
static inline float error_of(const float *x, size_t n, float step, float min, float low,
                             float high) {
    Lanes inv = all_lanes(inverse(step)), sum = all_lanes(0);
    for (size_t i = 0; i < n; i += 4) {
        Lanes v = load_lanes(x + i) - all_lanes(min);
        Lanes d = all_lanes(step) * nearest_code(v * inv, low, high) - v;
        sum += d * d;
    }
    return sum_lanes(sum);
}

/* The scale s that suits x (n) best as s * q, q in [low, high]. The largest weight is put at
 * `n_try` places about the end of the codes, `apart` from each other, from `first` on (all counted
 * in codes inwards from that end), at either end. With the codes q nearest to x / s fixed, the
 * best s is xq/qq and lowers the squared error by xq^2/qq. */
static float fit_scale(const float *x, size_t n, float low, float high, float first, float apart,
                       int n_try) {
    float largest = 0, best = 0, gain = 0;
    for (size_t i = 0; i < n; i++)
        if ((x[i] < 0 ? -x[i] : x[i]) > (largest < 0 ? -largest : largest)) largest = x[i];
    if (largest == 0) return 0;
    int n_signs = low == -high ? 1 : 2; /* symmetric codes: both signs come to the same */
    for (int t = 0; t < n_signs * n_try; t++) {
        int step = t / n_signs;
        float inwards = first + apart * (float)step;
        float inv = (t % n_signs ? high - inwards : low + inwards) / largest;
        Lanes xq = all_lanes(0), qq = all_lanes(0);
        for (size_t i = 0; i < n; i += 4) {
            Lanes v = load_lanes(x + i), q = nearest_code(v * all_lanes(inv), low, high);
            xq += v * q;
            qq += q * q;
        }
        float a = sum_lanes(xq), b = sum_lanes(qq);
        if (b > 0 && a * (a / b) > gain) {
            gain = a * (a / b);
            best = a / b;
        }
    }
    return best;
}

/* Scale and min of x (32) ~ scale * q + min, q in [0, top]. */
typedef struct {
    float scale, min, error;
} Fit;

/* The least squares solution for codes that are fixed, from sums over y = x - base; with
 * `below_zero`, under the condition min <= 0. */
static Fit solve_affine(float q, float qq, float y, float yq, float yy, float base,
                        bool below_zero) {
    float n = 32, det = n * qq - q * q;
    Fit f = {0, y / n, 0};
    if (det > 0) {
        f.scale = (n * yq - y * q) / det;
        f.min = (y - f.scale * q) / n;
    }
    if (below_zero && f.min + base > 0) {
        f.min = -base;
        f.scale = qq > 0 ? (yq + base * q) / qq : 0;
    }
    f.error = yy + f.scale * (f.scale * qq - 2 * yq + 2 * f.min * q) + f.min * (n * f.min - 2 * y);
    f.min += base;
    return f;
}

/* Codes nearest to (y - from) * inv, and the fit to them. */
static Fit fit_codes(const float *y, float top, float from, float inv, float sum, float sum2,
                     float base, bool below_zero) {
    Lanes q = all_lanes(0), qq = q, yq = q;
    for (size_t i = 0; i < 32; i += 4) {
        Lanes v = load_lanes(y + i);
        Lanes c = nearest_code((v - all_lanes(from)) * all_lanes(inv), 0, top);
        q += c;
        qq += c * c;
        yq += v * c;
    }
    return solve_affine(sum_lanes(q), sum_lanes(qq), sum, sum_lanes(yq), sum2, base, below_zero);
}

/* The best of a grid of trials: code 0 lies `a` steps inside (outside, when negative) the smallest
 * weight, code `top` (15 or 31) `b` steps inside the largest. Then the codes are taken afresh for
 * the winner. */
static Fit fit_affine(const float *x, float top, bool below_zero) {
    static const float inside[] = {-0.3f, 0, 0.3f, 0.6f};
    const size_t n_inside = sizeof inside / sizeof *inside;
    float low = x[0], high = x[0], y[32], sum = 0, sum2 = 0;
    for (size_t i = 1; i < 32; i++) {
        low = x[i] < low ? x[i] : low;
        high = x[i] > high ? x[i] : high;
    }
    if (below_zero && low > 0) low = 0;
    for (size_t i = 0; i < 32; i++) {
        y[i] = x[i] - low;
        sum += y[i];
        sum2 += y[i] * y[i];
    }
    float range = high - low;
    Fit best = {0, low, sum2};
    if (range < 1e-30f) return best;
    for (size_t t = 0; t <= n_inside * n_inside; t++) {
        /* The last has 30 steps, among which are those of 3, 4, 6, 7, 11 and 16 even levels, or 12:
         * 3, 4, 5 and 7 (15 steps, tried with a = b = 0, are those of 4, 6 and 16). */
        bool last = t == n_inside * n_inside;
        if (last && best.error < 1e-6f * sum2) break; /* the better one of two would be chance */
        float a = last ? 0 : inside[t / n_inside], b = last ? 0 : inside[t % n_inside];
        float step = range / (last ? top == 31 ? 30 : 12 : top + a + b);
        Fit f = fit_codes(y, top, a * step, 1 / step, sum, sum2, low, below_zero);
        if (f.error < best.error && f.scale > 0) best = f;
    }
    Fit f = fit_codes(y, top, best.min - low, inverse(best.scale), sum, sum2, low, below_zero);
    return f.error < best.error && f.scale > 0 ? f : best;
}

/* ---- Formats with one level of scales -------------------------------------------------------- */

static void quantize_q8(const float *x, uint8_t *block) {
    float w[32];
    take_weights(x, 32, w);
    float s = f16_value(fit_scale(w, 32, -127, 127, -0.45f, 0.3f, 10));
    float largest = 0;
    for (size_t i = 0; i < 32; i++) largest = max_float(largest, w[i] < 0 ? -w[i] : w[i]);
    float plain = f16_value(largest / 127);
    if (error_of(w, 32, plain, 0, -127, 127) < error_of(w, 32, s, 0, -127, 127)) s = plain;
    store_f16(block, s);
    store_codes(w, 32, s, 0, -127, 127, 0, block + 2);
}

/* q4_0 (half = 8) and q5_0 (half = 16): codes q (32). */
static void quantize_signed(const float *x, int half, uint8_t *block, uint8_t *q) {
    float w[32], low = (float)-half, high = (float)(half - 1);
    take_weights(x, 32, w);
    float s = f16_value(fit_scale(w, 32, low, high, -0.6f, 0.1f, 16));
    store_f16(block, s);
    store_codes(w, 32, s, 0, low, high, half, q);
}

static void quantize_q4_0(const float *x, uint8_t *block) {
    uint8_t q[32];
    quantize_signed(x, 8, block, q);
    put_q4(q, block + 2);
}

static void quantize_q5_0(const float *x, uint8_t *block) {
    uint8_t q[32];
    quantize_signed(x, 16, block, q);
    put_q5(q, block + 2);
}

static void quantize_q5_1(const float *x, uint8_t *block) {
    float w[32];
    uint8_t q[32];
    take_weights(x, 32, w);
    Fit f = fit_affine(w, 31, false);
    float d = f16_value(f.scale), m = f16_value(f.min);
    store_f16(block, d);
    store_f16(block + 2, m);
    store_codes(w, 32, d, m, 0, 31, 0, q);
    put_q5(q, block + 4);
}

/* ---- Q4_K and Q5_K --------------------------------------------------------------------------- */

/* A super-block on its way: w = d * sc[b] * q - dmin * m[b], q in [0, top]. */
typedef struct {
    float top, d, dmin, error;
    int sc[8], m[8];
} Super45;

static int round_within(float f, int low, int high) {
    if (!(f > (float)low)) return low;
    return f >= (float)high ? high : (int)(f + (f < 0 ? -0.5f : 0.5f));
}

/* With the outer scales settled: each block's best inner ones, among the neighbours of those that
 * would give the block's own fit. */
static void choose_inner45(const float *x, Super45 *s, const Fit *fits) {
    s->error = 0;
    for (size_t b = 0; b < 8; b++) {
        int sc0 = round_within(fits[b].scale * inverse(s->d), 0, 63);
        int m0 = round_within(-fits[b].min * inverse(s->dmin), 0, 63);
        float least = -1;
        for (int sc = sc0 - 1; sc <= sc0 + 1; sc++) {
            for (int m = m0 - 1; m <= m0 + 1; m++) {
                if (sc < 0 || sc > 63 || m < 0 || m > 63) continue;
                float step = s->d * (float)sc, min = -s->dmin * (float)m;
                float e = error_of(x + 32 * b, 32, step, min, 0, s->top);
                if (least >= 0 && e >= least) continue;
                least = e;
                s->sc[b] = sc;
                s->m[b] = m;
            }
        }
        s->error += least;
    }
}

/* The outer scales that suit the codes and inner scales of s best; false when they are not
 * determined. */
static bool refit_outer45(const float *x, const Super45 *s, float *d, float *dmin) {
    double qq = 0, qm = 0, mm = 0, xq = 0, xm = 0;
    for (size_t b = 0; b < 8; b++) {
        float step = s->d * (float)s->sc[b], min = -s->dmin * (float)s->m[b], inv = inverse(step);
        Lanes q1 = all_lanes(0), q2 = q1, x1 = q1, x2 = q1;
        for (size_t i = 32 * b; i < 32 * b + 32; i += 4) {
            Lanes v = load_lanes(x + i);
            Lanes q = nearest_code((v - all_lanes(min)) * all_lanes(inv), 0, s->top);
            q1 += q;
            q2 += q * q;
            x1 += v;
            x2 += v * q;
        }
        double sc = s->sc[b], m = s->m[b];
        qq += sc * sc * (double)sum_lanes(q2);
        qm += sc * m * (double)sum_lanes(q1);
        mm += m * m * 32;
        xq += sc * (double)sum_lanes(x2);
        xm += m * (double)sum_lanes(x1);
    }
    double det = qq * mm - qm * qm;
    if (!(det > 1e-6 * qq * mm)) return false;
    *d = f16_value((float)((xq * mm - xm * qm) / det));
    *dmin = f16_value((float)((xq * qm - xm * qq) / det));
    return *d > 0 && *dmin > 0;
}

/* Its codes to q (256), its scales to a block's first 16 bytes. */
static void store_scales45(const float *x, const Super45 *s, uint8_t *block, uint8_t *q) {
    uint8_t *scales = block + 4;
    store_f16(block, s->d);
    store_f16(block + 2, s->dmin);
    for (size_t b = 0; b < 8; b++) {
        int sc = s->sc[b], m = s->m[b];
        if (b < 4) {
            scales[b] = (uint8_t)sc;
            scales[b + 4] = (uint8_t)m;
        } else {
            scales[b + 4] = (uint8_t)((sc & 15) | (m & 15) << 4);
            scales[b - 4] = (uint8_t)(scales[b - 4] | sc >> 4 << 6);
            scales[b] = (uint8_t)(scales[b] | m >> 4 << 6);
        }
        store_codes(x + 32 * b, 32, s->d * (float)sc, -s->dmin * (float)m, 0, s->top, 0,
                    q + 32 * b);
    }
}

static void quantize_k45(const float *row, float top, uint8_t *block, uint8_t *q) {
    float x[SUPER], scale = 0, min = 0;
    Fit fits[8];
    take_weights(row, SUPER, x);
    for (size_t b = 0; b < 8; b++) {
        fits[b] = fit_affine(x + 32 * b, top, true);
        scale = max_float(scale, fits[b].scale);
        min = max_float(min, -fits[b].min);
    }
    Super45 first = {.top = top, .d = f16_outward(scale / 63), .dmin = f16_outward(min / 63)};
    choose_inner45(x, &first, fits);
    Super45 second = first;
    if (refit_outer45(x, &first, &second.d, &second.dmin)) choose_inner45(x, &second, fits);
    store_scales45(x, second.error < first.error ? &second : &first, block, q);
}

static void quantize_q4_k(const float *x, uint8_t *block) {
    uint8_t q[SUPER];
    quantize_k45(x, 15, block, q);
    put_k4(q, block + 16);
}

static void quantize_q5_k(const float *x, uint8_t *block) {
    uint8_t q[SUPER];
    quantize_k45(x, 31, block, q);
    put_k5(q, block + 16, block + 48);
}

/* ---- Q6_K ------------------------------------------------------------------------------------ */

/* w = d * sc[b] * q, q in [-32, 31]. */
typedef struct {
    float d, error;
    int sc[16];
} Super6;

static void choose_inner6(const float *x, Super6 *s, const float *scales) {
    s->error = 0;
    for (size_t b = 0; b < 16; b++) {
        int at = round_within(scales[b] * inverse(s->d), -128, 127);
        float least = -1;
        for (int sc = at - 2; sc <= at + 2; sc++) {
            if (sc < -128 || sc > 127) continue;
            float e = error_of(x + 16 * b, 16, s->d * (float)sc, 0, -32, 31);
            if (least >= 0 && e >= least) continue;
            least = e;
            s->sc[b] = sc;
        }
        s->error += least;
    }
}

static float refit_outer6(const float *x, const Super6 *s) {
    double qq = 0, xq = 0;
    for (size_t b = 0; b < 16; b++) {
        float inv = inverse(s->d * (float)s->sc[b]);
        Lanes q2 = all_lanes(0), x2 = q2;
        for (size_t i = 16 * b; i < 16 * b + 16; i += 4) {
            Lanes v = load_lanes(x + i), q = nearest_code(v * all_lanes(inv), -32, 31);
            q2 += q * q;
            x2 += v * q;
        }
        double sc = s->sc[b];
        qq += sc * sc * (double)sum_lanes(q2);
        xq += sc * (double)sum_lanes(x2);
    }
    return qq > 0 ? f16_value((float)(xq / qq)) : 0;
}

static void store_q6_k(const float *x, const Super6 *s, uint8_t *block) {
    uint8_t q[SUPER];
    for (size_t b = 0; b < 16; b++) {
        store_codes(x + 16 * b, 16, s->d * (float)s->sc[b], 0, -32, 31, 32, q + 16 * b);
        block[192 + b] = (uint8_t)s->sc[b];
    }
    put_k6(q, block);
    store_f16(block + 208, s->d);
}

static void quantize_q6_k(const float *row, uint8_t *block) {
    float x[SUPER], scales[16], largest = 0;
    take_weights(row, SUPER, x);
    for (size_t b = 0; b < 16; b++) {
        scales[b] = fit_scale(x + 16 * b, 16, -32, 31, -0.6f, 0.2f, 16);
        float size = scales[b] < 0 ? -scales[b] : scales[b];
        if (size > (largest < 0 ? -largest : largest)) largest = scales[b];
    }
    Super6 best = {.error = -1};
    for (int top = -128; top < -125; top++) { /* what the largest scale is stored as */
        Super6 s = {.d = f16_outward(largest / (float)top)};
        for (int round = 0; round < 2; round++) {
            choose_inner6(x, &s, scales);
            if (best.error < 0 || s.error < best.error) best = s;
            s.d = refit_outer6(x, &s);
        }
    }
    store_q6_k(x, &best, block);
}

/* ---- Rows ------------------------------------------------------------------------------------ */

/* The greatest scale, an f16, times the greatest codes. Of q5_1, q4 and q5 the lowest weight is
 * stored like a scale, so it is what limits them, for both signs. */
float largest_weight(Type t) {
    static const float largest[N_TYPES] = {
        [TYPE_F32] = FLT_MAX,        [TYPE_F16] = F16_MOST,     [TYPE_BF16] = 0x1.fep127f,
        [TYPE_Q8] = F16_MOST * 127,  [TYPE_Q5] = F16_MOST * 63, [TYPE_Q6] = F16_MOST * 127 * 31,
        [TYPE_Q5_0] = F16_MOST * 15, [TYPE_Q5_1] = F16_MOST,    [TYPE_Q4] = F16_MOST * 63,
        [TYPE_Q4_0] = F16_MOST * 7};
    return largest[t];
}

/* Plain halves: what would round to infinity becomes the largest finite value. */
static uint16_t half_of(Type t, float f) {
    uint16_t infinity = t == TYPE_F16 ? 0x7c00 : 0x7f80;
    uint16_t h = t == TYPE_F16 ? f16_from_f32(f) : bf16_from_f32(f);
    return (h & 0x7fff) == infinity ? (uint16_t)(h - 1) : h;
}

void quantize_row(Type t, const float *x, size_t cols, uint8_t *blocks) {
    size_t weights = type_info(t)->block, bytes = source_row_bytes(target_source_type(t), weights);
    for (size_t k = 0; k < cols; k += weights, blocks += bytes) {
        switch (t) {
        case TYPE_F32: memcpy(blocks, x + k, 4); break;
        case TYPE_F16:
        case TYPE_BF16: {
            uint16_t h = half_of(t, x[k]);
            memcpy(blocks, &h, sizeof h);
            break;
        }
        case TYPE_Q8: quantize_q8(x + k, blocks); break;
        case TYPE_Q5: quantize_q5_k(x + k, blocks); break;
        case TYPE_Q6: quantize_q6_k(x + k, blocks); break;
        case TYPE_Q4: quantize_q4_k(x + k, blocks); break;
        case TYPE_Q4_0: quantize_q4_0(x + k, blocks); break;
        case TYPE_Q5_0: quantize_q5_0(x + k, blocks); break;
        default: quantize_q5_1(x + k, blocks); break; /* TYPE_Q5_1 */
        }
    }
}
