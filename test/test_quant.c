/* test_quant.c: blocks to float against formulas written weight by weight; panels against the
 * blocks they were made of; quantizers against plain ones; SHA-256 against published digests. */
#include <math.h>

#include "../convert/convert.h"
#include "test.h"

static const uint32_t readable[] = {SRC_F32,  SRC_F16,  SRC_BF16, SRC_Q4_0, SRC_Q4_1,
                                    SRC_Q5_0, SRC_Q5_1, SRC_Q8_0, SRC_Q2_K, SRC_Q3_K,
                                    SRC_Q4_K, SRC_Q5_K, SRC_Q6_K, SRC_IQ4_NL, SRC_IQ4_XS};
#define N_READABLE (sizeof readable / sizeof *readable)

static float half_at(const uint8_t *b) { return f16_to_f32(load_u16(b)); }

static void put_half(uint8_t *b, float f) {
    uint16_t h = f16_from_f32(f);
    memcpy(b, &h, sizeof h);
}

/* Random bytes with small finite halves wherever a scale stands. */
static void random_block(uint32_t type, uint8_t *b, size_t bytes, uint64_t *seed) {
    for (size_t i = 0; i < bytes; i++) b[i] = (uint8_t)test_random(seed);
    float d = (float)(int)(test_random(seed) % 2001 - 1000) / 4096;
    float m = (float)(int)(test_random(seed) % 2001 - 1000) / 4096;
    size_t at = type == SRC_Q2_K ? 80 : type == SRC_Q3_K ? 108 : type == SRC_Q6_K ? 208 : 0;
    if (type == SRC_F32) memcpy(b, &d, sizeof d);
    if (type == SRC_BF16) {
        uint16_t h = bf16_from_f32(d);
        memcpy(b, &h, sizeof h);
    }
    if (type != SRC_F32 && type != SRC_BF16) put_half(b + at, d);
    bool two = type == SRC_Q4_1 || type == SRC_Q5_1 || type == SRC_Q4_K || type == SRC_Q5_K ||
               type == SRC_Q2_K;
    if (two) put_half(b + at + 2, m);
}

/* ---- Weight k of a block, from the format's definition --------------------------------------- */

/* 6-bit number j (0..7 scales, 8..15 mins) of the 12 bytes s of a Q4_K or Q5_K head. */
static int six_bits(const uint8_t *s, size_t j) {
    size_t i = j % 8, is_min = j / 8;
    if (i < 4) return s[i + 4 * is_min] & 63;
    int low = is_min ? s[i + 4] >> 4 : s[i + 4] & 15;
    return low | s[i - 4 + 4 * is_min] >> 6 << 4;
}

static const int iq4_values[] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                 1,    13,   25,  38,  53,  69,  89,  113};

static float weight_32(uint32_t type, const uint8_t *b, size_t k) {
    float d = half_at(b), m = half_at(b + 2);
    size_t head = type == SRC_Q4_0 || type == SRC_Q5_0 || type == SRC_IQ4_NL ? 2 : 4;
    if (type == SRC_Q8_0) return d * (float)(int8_t)b[2 + k];
    bool five = type == SRC_Q5_0 || type == SRC_Q5_1;
    const uint8_t *nibbles = b + head + (five ? 4 : 0);
    int q = k < 16 ? nibbles[k] & 15 : nibbles[k - 16] >> 4;
    if (five) q += (b[head + k / 8] >> (k % 8) & 1) * 16;
    if (type == SRC_Q4_0) return d * (float)(q - 8);
    if (type == SRC_IQ4_NL) return d * (float)iq4_values[q];
    if (type == SRC_Q5_0) return d * (float)(q - 16);
    return d * (float)q + m;
}

static float weight_256(uint32_t type, const uint8_t *b, size_t k) {
    size_t half = k / 128, part = k % 128 / 32, l = k % 32, sub = 8 * half + 2 * part + l / 16;
    if (type == SRC_Q6_K) {
        uint8_t byte = b[64 * half + 32 * (part % 2) + l];
        int q = (part < 2 ? byte & 15 : byte >> 4) + (b[128 + 32 * half + l] >> 2 * part & 3) * 16;
        return half_at(b + 208) * (float)(int8_t)b[192 + sub] * (float)(q - 32);
    }
    if (type == SRC_Q2_K) {
        int q = b[16 + 32 * half + l] >> 2 * part & 3;
        return half_at(b + 80) * (float)(b[sub] & 15) * (float)q -
               half_at(b + 82) * (float)(b[sub] >> 4);
    }
    if (type == SRC_Q3_K) {
        int q = (b[32 + 32 * half + l] >> 2 * part & 3) - (b[l] >> (4 * half + part) & 1 ? 0 : 4);
        int low = b[96 + sub % 8] >> (sub < 8 ? 0 : 4) & 15;
        int sc = low + (b[104 + sub % 4] >> 2 * (sub / 4) & 3) * 16;
        return half_at(b + 108) * (float)(sc - 32) * (float)q;
    }
    if (type == SRC_IQ4_XS) {
        uint8_t byte = b[8 + k / 32 * 16 + l % 16];
        int low = b[4 + k / 64] >> (k / 32 % 2 ? 4 : 0) & 15, high = load_u16(b + 2) >> k / 32 * 2;
        int sc = low + (high & 3) * 16 - 32;
        return half_at(b) * (float)sc * (float)iq4_values[l < 16 ? byte & 15 : byte >> 4];
    }
    size_t j = k / 32, nibbles = type == SRC_Q5_K ? 48 : 16;
    uint8_t byte = b[nibbles + k / 64 * 32 + l];
    int q = j % 2 ? byte >> 4 : byte & 15;
    if (type == SRC_Q5_K) q += (b[16 + l] >> j & 1) * 16;
    float step = half_at(b) * (float)six_bits(b + 4, j);
    return step * (float)q - half_at(b + 2) * (float)six_bits(b + 4, 8 + j);
}

static float weight_of(uint32_t type, const uint8_t *b, size_t k) {
    float f;
    if (type == SRC_F16) return half_at(b);
    if (type == SRC_BF16) return bf16_to_f32(load_u16(b));
    memcpy(&f, b, sizeof f);
    if (type == SRC_F32) return f;
    uint32_t weights, bytes;
    source_type_block(type, &weights, &bytes);
    return weights == 32 ? weight_32(type, b, k) : weight_256(type, b, k);
}

static void test_to_float(void) {
    uint64_t seed = 1;
    for (size_t i = 0; i < N_READABLE; i++) {
        uint32_t type = readable[i], weights, bytes, wrong = 0;
        uint8_t row[3 * 210];
        float out[3 * 256];
        CHECK(source_type_block(type, &weights, &bytes), "%s is readable", source_type_name(type));
        for (int round = 0; round < 50; round++) {
            for (size_t b = 0; b < 3; b++) random_block(type, row + b * bytes, bytes, &seed);
            source_row_to_float((SourceType)type, row, 3 * weights, out);
            for (size_t k = 0; k < 3 * weights; k++) {
                float want = weight_of(type, row + k / weights * bytes, k % weights);
                wrong += bits_from_float(want) != bits_from_float(out[k]);
            }
        }
        CHECK(wrong == 0, "%s to float: %u weights differ", source_type_name(type), wrong);
    }
}

/* A few blocks worked out by hand. */
static void test_by_hand(void) {
    float x[256];
    uint8_t q4_0[18] = {0x00, 0x38, 0x1f}; /* d = 0.5; weight 0: 15, weight 16: 1 */
    source_row_to_float(SRC_Q4_0, q4_0, 32, x);
    CHECK(x[0] == 3.5f && x[16] == -3.5f && x[1] == -4.0f, "Q4_0: %g %g %g", x[0], x[16], x[1]);
    source_row_to_float(SRC_IQ4_NL, q4_0, 32, x); /* its table, from -127 to 113 */
    CHECK(x[0] == 56.5f && x[16] == -52 && x[1] == -63.5f, "IQ4_NL: %g %g %g", x[0], x[16], x[1]);
    uint8_t iq4_xs[136] = {0, 0x3c, 3, 0, 1, 0, 0, 0, 0xf8}; /* d = 1, scales 49 - 32, 0 - 32 ... */
    source_row_to_float(SRC_IQ4_XS, iq4_xs, 256, x);
    CHECK(x[0] == 17 && x[16] == 17 * 113 && x[32] == 32 * 127, "IQ4_XS: %g %g %g", x[0], x[16],
          x[32]);
    uint8_t q5_1[24] = {0x00, 0x3c, 0x00, 0xbc, 0x01, 0, 0, 0x80, 0x02}; /* d = 1, m = -1 */
    source_row_to_float(SRC_Q5_1, q5_1, 32, x);
    CHECK(x[0] == 17 && x[31] == 15 && x[16] == -1, "Q5_1: %g %g %g", x[0], x[31], x[16]);
    uint8_t q6_k[210] = {0x21}; /* low nibble 1: weight 0, high nibble 2: weight 64 */
    q6_k[128] = 0x03;           /* plane 3 of weight 0: code 49 */
    q6_k[192] = 0xfe;           /* scale -2 */
    q6_k[196] = 3;              /* of weights 64 .. 79 */
    q6_k[209] = 0x40;           /* d = 2 */
    source_row_to_float(SRC_Q6_K, q6_k, 256, x);
    CHECK(x[0] == -68 && x[64] == -180 && x[1] == 128, "Q6_K: %g %g %g", x[0], x[64], x[1]);
}

static void test_names(void) {
    uint32_t weights, bytes;
    CHECK(strcmp(source_type_name(13), "Q5_K") == 0, "13 is Q5_K");
    CHECK(strcmp(source_type_name(39), "MXFP4") == 0, "39 is MXFP4");
    CHECK(source_type_name(4096) == NULL && source_type_name(UINT32_MAX) == NULL, "unknown types");
    static const uint32_t no[] = {4, 5, 9, 15, 16, 24, 27, 28, 29, 31, 34, 39, 99, UINT32_MAX};
    for (size_t i = 0; i < sizeof no / sizeof *no; i++) {
        CHECK(!source_type_block(no[i], &weights, &bytes), "type %u is not readable", no[i]);
    }
}

/* ---- Panels ---------------------------------------------------------------------------------- */

/* Weights of the panel that differ from the blocks, by model.h's formula. */
static uint32_t count_wrong(Type t, size_t cols, const uint8_t *blocks, size_t row_bytes,
                            size_t n_rows, const uint8_t *panel) {
    uint32_t wrong = 0;
    float *want = malloc(cols * sizeof *want);
    if (want == NULL) return UINT32_MAX;
    for (size_t n = 0; n < n_rows; n++) {
        source_row_to_float(target_source_type(t), blocks + n * row_bytes, cols, want);
        for (size_t k = 0; k < cols; k++) {
            float got = panel_weight(t, cols, panel, n, k);
            wrong += bits_from_float(got) != bits_from_float(want[k]);
        }
    }
    free(want);
    return wrong;
}

static void test_panel(Type t, size_t cols, size_t n_rows, uint64_t *seed) {
    SourceType source = target_source_type(t);
    uint32_t weights, bytes, disagree = 0;
    source_type_block(source, &weights, &bytes);
    size_t row_bytes = source_row_bytes(source, cols), n = panel_bytes(t, cols);
    uint8_t *blocks = malloc(n_rows * row_bytes), *panel = malloc(n);
    if (blocks == NULL || panel == NULL) exit(1);
    for (size_t i = 0; i < n_rows * row_bytes; i += bytes) {
        random_block(source, blocks + i, bytes, seed);
    }
    memset(panel, 0xa5, n);
    pack_panel(t, cols, blocks, row_bytes, n_rows, panel);
    const char *name = type_info(t)->name;
    uint32_t wrong = count_wrong(t, cols, blocks, row_bytes, n_rows, panel);
    CHECK(wrong == 0, "%s %zu columns, %zu rows: %u weights differ", name, cols, n_rows, wrong);
    CHECK(panel_matches(t, cols, blocks, row_bytes, n_rows, panel), "%s %zu columns, %zu rows: "
          "panel_matches", name, cols, n_rows);
    /* The quick proof and model.h's formula agree on damaged panels, too. */
    for (int i = 0; i < 24; i++) {
        size_t bit = test_random(seed) % (8 * n);
        panel[bit / 8] = (uint8_t)(panel[bit / 8] ^ 1 << bit % 8);
        bool same = count_wrong(t, cols, blocks, row_bytes, n_rows, panel) == 0;
        disagree += same != panel_matches(t, cols, blocks, row_bytes, n_rows, panel);
        panel[bit / 8] = (uint8_t)(panel[bit / 8] ^ 1 << bit % 8);
    }
    CHECK(disagree == 0, "%s %zu columns: %u damaged panels judged wrongly", name, cols, disagree);
    free(blocks);
    free(panel);
}

/* Wider blocks have the very weights: any scales and codes. */
static void test_wider(void) {
    static const struct {
        SourceType from;
        Type to;
    } wider[] = {{SRC_Q4_1, TYPE_Q5_1},
                 {SRC_Q3_K, TYPE_Q6},
                 {SRC_IQ4_NL, TYPE_Q8}};
    uint64_t seed = 9;
    for (size_t i = 0; i < sizeof wider / sizeof wider[0]; i++) {
        SourceType from = wider[i].from;
        uint32_t weights, bytes, wrong = 0;
        uint8_t row[512 / 32 * 20], blocks[512 / 32 * 34];
        float want[512], got[512];
        Type to = TYPE_F32;
        CHECK(keeping_type(from, &to) && to == wider[i].to, "%s is kept in %s",
              source_type_name(from), type_info(to)->name);
        source_type_block(from, &weights, &bytes);
        for (int round = 0; round < 200; round++) {
            for (size_t b = 0; b < 512 / weights; b++)
                random_block(from, row + b * bytes, bytes, &seed);
            memset(blocks, 0xa5, sizeof blocks);
            widen_row(from, row, 512, blocks);
            source_row_to_float(from, row, 512, want);
            source_row_to_float(target_source_type(to), blocks, 512, got);
            for (size_t k = 0; k < 512; k++)
                wrong += bits_from_float(want[k]) != bits_from_float(got[k]);
        }
        CHECK(wrong == 0, "%s in wider blocks: %u weights differ", source_type_name(from), wrong);
    }
    Type none = TYPE_F32;
    CHECK(!keeping_type(SRC_Q2_K, &none), "Q2_K has no wider blocks");
}

static void test_panels(void) {
    uint64_t seed = 2;
    for (Type t = 0; t < N_TYPES; t++) {
        uint32_t block = type_info(t)->block;
        for (size_t n = 1; n <= 16; n++) test_panel(t, block * (n % 4 + 1), n, &seed);
        static const size_t cols[] = {1, 2, 3, 5, 7, 9};
        for (size_t i = 0; i < 6; i++) test_panel(t, block * cols[i], 16, &seed);
        if (block == 1) test_panel(t, 301, 16, &seed);
    }
}

/* Rows that a last panel does not have are zeros. */
static void test_absent_rows(void) {
    uint64_t seed = 3;
    uint8_t row[176], panel[44 * LINE_BYTES];
    random_block(SRC_Q5_K, row, sizeof row, &seed);
    pack_panel(TYPE_Q5, 256, row, sizeof row, 1, panel);
    uint32_t other = 0;
    for (size_t n = 1; n < 16; n++) {
        for (size_t k = 0; k < 256; k++) other += panel_weight(TYPE_Q5, 256, panel, n, k) != 0;
    }
    CHECK(other == 0, "%u weights of absent rows are not zero", other);
}

/* ---- Quantizers ------------------------------------------------------------------------------ */

static float bell(uint64_t *seed) { /* mean 0, deviation 1 */
    float sum = -6;
    for (int i = 0; i < 12; i++) sum += (float)(test_random(seed) >> 40) * 0x1p-24f;
    return sum;
}

static double row_error(Type t, const float *x, size_t cols) {
    static uint8_t blocks[2048 * 4];
    static float y[2048];
    double sum = 0;
    quantize_row(t, x, cols, blocks);
    source_row_to_float(target_source_type(t), blocks, cols, y);
    for (size_t k = 0; k < cols; k++) {
        sum += ((double)y[k] - (double)x[k]) * ((double)y[k] - (double)x[k]);
    }
    return sum;
}

/* Squared error of the plain Q8_0: d = largest / 127 as f16, codes by the unrounded d. */
static double plain_q8_error(const float *x) {
    float largest = 0;
    double sum = 0;
    for (int i = 0; i < 32; i++) largest = fmaxf(largest, fabsf(x[i]));
    float d = f16_to_f32(f16_from_f32(largest / 127)), inv = largest > 0 ? 127 / largest : 0;
    for (int i = 0; i < 32; i++) {
        double e = (double)(d * roundf(x[i] * inv)) - (double)x[i];
        sum += e * e;
    }
    return sum;
}

static void test_errors(void) {
    /* Relative RMS error on bell-shaped weights: bounds that plain rounding does not reach. */
    static const double bound[N_TYPES] = {
        [TYPE_F16] = 3e-4, [TYPE_BF16] = 3e-3, [TYPE_Q8] = 0.0052, [TYPE_Q5] = 0.0350,
        [TYPE_Q6] = 0.0170, [TYPE_Q5_0] = 0.0405, [TYPE_Q5_1] = 0.0340, [TYPE_Q4] = 0.0692,
        [TYPE_Q4_0] = 0.0800};
    uint64_t seed = 4;
    float x[2048];
    double error[N_TYPES] = {0}, power = 0;
    uint32_t worse = 0;
    for (int row = 0; row < 32; row++) {
        for (size_t k = 0; k < 2048; k++) x[k] = 0.02f * bell(&seed);
        for (size_t k = 0; k < 2048; k++) power += (double)(x[k] * x[k]);
        for (Type t = 0; t < N_TYPES; t++) error[t] += row_error(t, x, 2048);
        for (size_t k = 0; k < 2048; k += 32) {
            worse += row_error(TYPE_Q8, x + k, 32) > plain_q8_error(x + k);
        }
    }
    for (Type t = 0; t < N_TYPES; t++) {
        double rms = sqrt(error[t] / power);
        CHECK(rms <= bound[t], "%s: relative error %.5f, expected at most %.5f", type_info(t)->name,
              rms, bound[t]);
    }
    CHECK(worse == 0, "q8: %u blocks are worse than plain Q8_0", worse);
}

/* What is a Q8_0 row already, with code 127 in each block, comes back unchanged. */
static void test_q8_again(void) {
    uint64_t seed = 5;
    uint8_t row[340];
    float x[320];
    double error = 0;
    for (size_t b = 0; b < 10; b++) {
        random_block(SRC_Q8_0, row + 34 * b, 34, &seed);
        put_half(row + 34 * b, 0.0625f * (float)(b + 1));
        for (size_t i = 0; i < 32; i++) row[34 * b + 2 + i] |= row[34 * b + 2 + i] == 0x80;
        row[34 * b + 7] = 127;
    }
    source_row_to_float(SRC_Q8_0, row, 320, x);
    for (size_t b = 0; b < 10; b++) error += row_error(TYPE_Q8, x + 32 * b, 32);
    CHECK(error == 0, "requantized Q8_0 differs, squared error %g", error);
}

/* Fill x (256) with a hard case; false when there is none of this number. */
static bool hard_case(int number, float *x, uint64_t *seed) {
    static const float size[] = {0,     1e-45f, 1e-38f, 1e-30f, 1e-9f, 6e-8f,  1e-6f,
                                 1e-4f, 1,      1e4f,   1e6f,   1e12f, 1e30f, 3.4028235e38f};
    int n = (int)(sizeof size / sizeof *size);
    if (number >= 6 * n) return false;
    float s = size[number % n];
    for (size_t i = 0; i < 256; i++) {
        float u = (float)(test_random(seed) >> 40) * 0x1p-24f;
        switch (number / n) {
        case 0: x[i] = s; break;                               /* constant */
        case 1: x[i] = -s; break;
        case 2: x[i] = s * (2 * u - 1); break;                 /* even */
        case 3: x[i] = i == 77 ? s : 0.01f * (2 * u - 1); break; /* one outlier */
        case 4: x[i] = s * (0.5f + 0.5f * u); break;           /* all above zero */
        default: x[i] = i % 2 ? s : -s; break;
        }
    }
    return true;
}

/* How far a weight may be off, as a part of the largest: a step of q4_0 is an eighth of it. */
static float allowed_part(Type t) { return type_info(t)->codes == 4 ? 0.14f : 0.06f; }

static void test_extremes(void) {
    uint64_t seed = 6;
    float x[256], y[256];
    uint8_t blocks[256 * 4];
    for (int number = 0; hard_case(number, x, &seed); number++) {
        for (Type t = 0; t < N_TYPES; t++) {
            float largest = 0, off = 0;
            bool finite = true;
            quantize_row(t, x, 256, blocks);
            source_row_to_float(target_source_type(t), blocks, 256, y);
            for (size_t k = 0; k < 256; k++) {
                finite = finite && isfinite(y[k]);
                largest = fmaxf(largest, fabsf(x[k]));
                off = fmaxf(off, fabsf(y[k] - x[k]));
            }
            CHECK(finite, "%s, case %d: not finite", type_info(t)->name, number);
            /* Within what an f16 scale can hold, the error is a part of the largest weight; a scale
             * cannot be finer than 2^-24, so tiny weights may lose 32 times that. */
            float allowed = largest > 5e4f ? largest : allowed_part(t) * largest + 2e-6f;
            CHECK(off <= allowed, "%s, case %d: off by %g of %g", type_info(t)->name, number,
                  (double)off, (double)largest);
        }
    }
}

/* Weights up to the limit are held as well as others; NaN and more than that are above it. */
static void test_largest(void) {
    float x[256], y[256];
    uint8_t blocks[256 * 4];
    for (Type t = 0; t < N_TYPES; t++) {
        float most = largest_weight(t), off = 0;
        for (int side = -1; side <= 1; side++) { /* all negative, both signs, all positive */
            for (int k = 0; k < 256; k++)
                x[k] = most / 16 * (float)(side ? side * (k % 17) : k % 33 - 16);
            quantize_row(t, x, 256, blocks);
            source_row_to_float(target_source_type(t), blocks, 256, y);
            for (size_t k = 0; k < 256; k++) off = fmaxf(off, fabsf(y[k] / most - x[k] / most));
        }
        CHECK(off <= allowed_part(t), "%s: off by %g of its largest weight", type_info(t)->name,
              (double)off);
    }
    static const double most[N_TYPES] = {
        [TYPE_F32] = 0x1.fffffep127, [TYPE_F16] = 65504,     [TYPE_BF16] = 0x1.fep127,
        [TYPE_Q8] = 65504.0 * 127,   [TYPE_Q5] = 65504 * 63, [TYPE_Q6] = 65504.0 * 127 * 31,
        [TYPE_Q5_0] = 65504 * 15,    [TYPE_Q5_1] = 65504,    [TYPE_Q4] = 65504 * 63,
        [TYPE_Q4_0] = 65504 * 7};
    for (Type t = 0; t < N_TYPES; t++)
        CHECK((double)largest_weight(t) == most[t], "%s: largest weight", type_info(t)->name);
}

/* ---- SHA-256 --------------------------------------------------------------------------------- */

static void check_digest(const char *text, size_t n, size_t step, const char *want) {
    Sha256 s;
    uint8_t out[32];
    char hex[65];
    sha256_init(&s);
    for (size_t at = 0; at < n; at += step) sha256_update(&s, text + at, min_size(step, n - at));
    sha256_final(&s, out);
    for (size_t i = 0; i < 32; i++) snprintf(hex + 2 * i, 3, "%02x", out[i]);
    CHECK(strcmp(hex, want) == 0, "SHA-256 of %zu bytes in steps of %zu: %s", n, step, hex);
}

static void test_sha256(void) { /* FIPS 180-4's examples */
    check_digest("", 0, 1, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    check_digest("abc", 3, 3, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    check_digest("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq", 56, 5,
                 "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
    size_t million = 1000000;
    char *a = malloc(million);
    if (a == NULL) exit(1);
    memset(a, 'a', million);
    static const size_t step[] = {1, 7, 63, 64, 65, 1000, 1000000};
    for (size_t i = 0; i < sizeof step / sizeof *step; i++) {
        check_digest(a, million, step[i],
                     "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
    }
    free(a);
}

/* Weights at a few even levels, as ternary and 2-bit models have them, are nearly kept. */
static void test_levels(void) {
    static const struct {
        Type type;
        uint32_t levels[8];
    } cases[] = {{TYPE_Q5, {2, 3, 4, 6, 7, 11, 16}},
                 {TYPE_Q5_1, {2, 3, 4, 6, 7, 11, 16}},
                 {TYPE_Q4, {2, 3, 4, 5, 6, 7, 16}}};
    uint64_t seed = 8;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        for (const uint32_t *n = cases[i].levels; *n; n++) {
            float x[2048];
            double power = 0;
            for (size_t k = 0; k < 2048; k++) {
                uint32_t level = k % 32 < 2 ? (uint32_t)k % 2 * (*n - 1) : test_below(&seed, *n);
                x[k] = 0.02f * ((float)level / (float)(*n - 1) - 0.5f);
                power += (double)(x[k] * x[k]);
            }
            double rms = sqrt(row_error(cases[i].type, x, 2048) / power);
            CHECK(rms < 0.006, "%s: %u levels: relative error %.5f", type_info(cases[i].type)->name,
                  *n, rms);
        }
}

int main(void) {
    test_to_float();
    test_by_hand();
    test_names();
    test_wider();
    test_panels();
    test_absent_rows();
    test_errors();
    test_q8_again();
    test_levels();
    test_extremes();
    test_largest();
    test_sha256();
    return test_end("quant");
}
