/* model.h: the model.bin format, the one contract between convert/ and qwen.c.
 *
 * One self-contained little-endian file:
 *
 *   offset 0        ModelHeader (1024 bytes)
 *   header.tokenizer_offset   tokenizer section          (multiple of 64)
 *   header.tensors_offset     n_tensors x TensorEntry    (multiple of 64)
 *   header.header_bytes       end of all the above       (multiple of 4096, zero-filled)
 *   then the tensors, in the order of the table, each on a 4096-byte boundary, the gaps zero,
 *   the last one zero-filled up to header.file_bytes (multiple of 4096).
 *
 * header.crc32c covers [0, header_bytes) with its own four bytes taken as zero; every tensor has a
 * CRC-32C of its own, over the bytes of its data without the gap. Everything a reader can derive it
 * derives and compares: a file that disagrees with itself anywhere is refused.
 *
 * ---- Weights: panels of 16 rows ---------------------------------------------------------------
 *
 * A matrix w (rows, cols), used as y = w x, is cut into panels of 16 consecutive rows (the last one
 * filled up with zero rows). A panel is a sequence of 64-byte lines, panels follow each other. In
 * every line of weights, bytes 4n..4n+3 belong to row n of the panel:
 *
 *      line r of a 32-wide block b of int8:
 *      byte   0    1    2    3    4  ...  7    8          60 .. 63
 *           +----+----+----+----+----+---+----+----+-- --+----+----+
 *           | row 0, k0+4r .. +3| row 1, same k    | ... |  row 15 |      k0 = 32 b
 *           +----+----+----+----+----+---+----+----+-- --+----+----+
 *
 * That is the operand of vpdpbusd with the activations broadcast, the B tile of AMX, two AVX2
 * halves and four NEON sdot operands: one order of bytes for all of them. A panel is:
 *
 *   f32   cols lines; line k: row n's dword is w[n][k]
 *   f16,  ceil(cols/2) lines; line r: row n's halfwords are w[n][2r], w[n][2r+1] (zero behind cols)
 *   bf16
 *
 *   q8    units of 64 columns, 17 lines (a last half unit has a second block of zeros, scale 0):
 *           1 line    f16 d[2][16]
 *           8 lines   block 0, int8 q, as drawn above
 *           8 lines   block 1
 *         w = d[b][n] * q                                              (= GGUF Q8_0, a permutation)
 *
 *   q5_0  units of 64 columns, 11 lines (last half unit as above):
 *           1 line    f16 d[2][16]
 *           5 lines   block 0, 5-bit codes (see below)
 *           5 lines   block 1
 *         w = d[b][n] * (q - 16)                                                      (= GGUF Q5_0)
 *   q5_1    as q5_0, and 1 line f16 m[2][16] behind d; 12 lines
 *         w = d[b][n] * q + m[b][n]                                                   (= GGUF Q5_1)
 *   q4_0    as q5_0, but 4-bit codes, 4 lines a block; 9 lines
 *         w = d[b][n] * (q - 8)                                                       (= GGUF Q4_0)
 *
 *   q5    units of 256 columns, 44 lines:
 *           1 line    byte[b][n/2], nibble n%2 (even = low) = sc >> 4 | (m >> 4) << 2
 *           2 lines   byte[b][n] = sc & 15 | (m & 15) << 4            b = 0..7, 32-wide blocks
 *           8 times 5 lines: 5-bit codes of block b
 *           1 line    f16 d[16], f16 dmin[16]
 *         w = d[n] * sc[b][n] * q - dmin[n] * m[b][n]                                 (= GGUF Q5_K)
 *   q4      as q5, but 8 times 4 lines of 4-bit codes; 36 lines                       (= GGUF Q4_K)
 *
 *   q6      ceil(cols/512) lines at the head of the panel: f16 d[cols/256][16], zero-filled
 *         then units of 64 columns, 13 lines:
 *           1 line    int8 sc[s][n]                                    s = 0..3, 16-wide sub-blocks
 *           6 lines   block 0, 6-bit codes
 *           6 lines   block 1
 *         w = d[n] * sc[s][n] * (q - 32)                                              (= GGUF Q6_K)
 *
 * Codes of 4, 5 and 6 bits: bytes 4n+j of a block's lines hold what int8 has in bytes 4n+j of its
 * lines r = 0..7. Every line has the code of one r in its low bits, and others or parts of them
 * above. Of 4 bits, line i has r = 2i in bits 0-3 and r = 2i + 1 in bits 4-7; the others:
 *
 *   5 bits         bits 0-4   bits 5-7                  6 bits           bits 0-5   bits 6-7
 *         line 0   r = 0      r = 2, bits 0-2                  line 0    r = 0      r = 3, bits 0-1
 *              1   r = 1      r = 2, bits 3-4; r = 7, bit 3         1    r = 1      r = 3, bits 2-3
 *              2   r = 3      r = 5, bits 0-2                       2    r = 2      r = 3, bits 4-5
 *              3   r = 4      r = 5, bits 3-4; r = 7, bit 4         3-5  the same of r = 4 to 7
 *              4   r = 6      r = 7, bits 0-2
 *
 * Whoever reads a panel from its beginning to its end has every code complete as early as can be,
 * and a code costs one to three instructions.
 *
 * Vectors (norms, biases) are plain f32 arrays: type f32 with rows = 1, not panels.
 */
#ifndef MODEL_H
#define MODEL_H

#include <string.h>

#include "base.h"

#define MODEL_MAGIC "\x89QWEN\r\n\x1a" /* 8 bytes; shows text-mode damage, as PNG's does */
#define MODEL_VERSION 2
#define TENSOR_ALIGN 4096
#define PANEL_ROWS 16
#define LINE_BYTES 64
#define MAX_EOS 8

/* Caps: tested before anything is computed from a field. */
#define MAX_LAYERS 256
#define MAX_HIDDEN 65536
#define MAX_FFN 262144
#define MAX_HEADS 1024
#define MAX_HEAD_DIM 256
#define MAX_VOCAB 1048576
#define MAX_CONTEXT 1048576
#define MAX_TENSORS 16384

typedef enum {
    TYPE_F32 = 0, TYPE_F16 = 1, TYPE_BF16 = 2,
    TYPE_Q8 = 3, TYPE_Q5 = 4, TYPE_Q6 = 5, TYPE_Q5_0 = 6, TYPE_Q5_1 = 7, TYPE_Q4 = 8, TYPE_Q4_0 = 9,
    N_TYPES = 10
} Type;

/* config.json, with Hugging Face's names. */
typedef struct {
    uint32_t num_hidden_layers, hidden_size, intermediate_size;
    uint32_t num_attention_heads, num_key_value_heads, head_dim; /* head_dim even */
    uint32_t vocab_size;      /* rows of the embedding; ids >= n_tokens are padding, not sampled */
    uint32_t max_position_embeddings;
    uint32_t tie_word_embeddings; /* 1: no lm_head.weight, the embedding serves as the head */
    float rms_norm_eps;
    double rope_theta;
    float yarn_factor;        /* 0: none; else >= 1, with the original context length beside it */
    uint32_t yarn_original_max_position_embeddings;
    uint32_t qkv_bias;        /* 1: q, k and v have biases (every Qwen2) */
    uint32_t reserved[5];     /* zero */
} ModelConfig;

/* generation_config.json. Where the file has no value: temperature 1, top_k 0 (off), top_p 1,
 * repetition_penalty 1, do_sample 0 (greedy). */
typedef struct {
    uint32_t do_sample, top_k;
    float temperature, top_p, repetition_penalty;
    uint32_t n_eos;
    int32_t eos[MAX_EOS];     /* stop tokens: eos_token_id of generation_config and config */
    int32_t bos, pad;         /* -1: none. bos is never put in front of a prompt */
} ModelDefaults;

typedef struct {
    uint8_t magic[8];
    uint32_t version;
    uint32_t crc32c;
    uint64_t file_bytes;      /* exact size of the file */
    uint64_t header_bytes;    /* where the tensor data begins */
    uint64_t tokenizer_offset, tokenizer_bytes;
    uint64_t tensors_offset;
    uint32_t n_tensors;
    uint32_t chat_family;     /* ChatFamily of chat.h */
    ModelConfig config;       /* 80 bytes */
    ModelDefaults defaults;   /* 64 bytes */
    char name[128];           /* for people: general.name, or the source folder's name */
    char quant[16];           /* "q8", "q5", "f32", "Q5_K_M" ...: what the file was asked to be */
    char source[128];         /* file or folder it was made from, without its path; "+ lora DIR" */
    uint8_t source_sha256[32];/* of that file; of several: of "hex  name\n" lines in name order */
    char converter[32];       /* "qwen.c convert 1" */
    uint32_t has_default_system;
    uint32_t default_system_len;
    char default_system[416]; /* not NUL-terminated when full */
    float min_p;              /* generation_config.json's; 0: none */
    uint32_t reserved;        /* zero */
} ModelHeader;

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "model files are used as they lie");
_Static_assert(sizeof(ModelConfig) == 80, "ModelConfig has no holes");
_Static_assert(sizeof(ModelDefaults) == 64, "ModelDefaults has no holes");
_Static_assert(sizeof(ModelHeader) == 976, "ModelHeader has no holes");
#define MODEL_HEADER_BYTES 1024 /* ModelHeader and zeros */

/* A tensor of the file. Names are Hugging Face's: model.embed_tokens.weight,
 * model.layers.N.{input_layernorm,post_attention_layernorm}.weight,
 * model.layers.N.self_attn.{q,k,v}_proj.{weight,bias}, model.layers.N.self_attn.o_proj.weight,
 * model.layers.N.mlp.{gate,up,down}_proj.weight, model.norm.weight, lm_head.weight. They stand in
 * the order in which a token meets them: embedding, then per layer input_layernorm, q, k, v
 * (weights, then biases), o, post_attention_layernorm, gate, up, down; then norm and lm_head. */
typedef struct {
    char name[80];            /* NUL-terminated */
    uint32_t type;            /* Type */
    uint32_t crc32c;          /* of the data */
    uint32_t rows, cols;      /* vectors: rows = 1 */
    uint64_t offset, bytes;   /* of the data: where it lies, and tensor_bytes */
    uint64_t reserved[2];     /* zero */
} TensorEntry;

_Static_assert(sizeof(TensorEntry) == 128, "TensorEntry has no holes");

/* ---- Tokenizer section -------------------------------------------------------------------------
 *
 *   TokenizerHeader
 *   u32 end[n_tokens]            text of token i is text[end[i-1] .. end[i])   (end[-1] = 0)
 *   TokenizerMerge merges[n_merges]     in rank order, the first merges first
 *   TokenizerAdded added[n_added]       ascending by id
 *   u8  text[text_bytes]         raw bytes (not GPT-2's printable alphabet)
 *
 * An id that no token has (a gap) has length 0. The 256 single bytes are all present. */
typedef struct {
    uint32_t n_tokens, n_merges, n_added, text_bytes;
} TokenizerHeader;
typedef struct {
    uint32_t left, right, result; /* ids; text(result) = text(left) + text(right) */
} TokenizerMerge;
typedef struct {
    uint32_t id, special;         /* special = 1: left out when decoding to plain text */
} TokenizerAdded;

/* ---- Sizes ----------------------------------------------------------------------------------- */

/* What a format is made of. block: columns must be a multiple of it. A row is stored as units of
 * `unit` columns and `lines` lines each: of them the first `scales` (in q4 and q5 also the last
 * one) are scales, each 32 columns have `codes` of the others: as many as a code has bits. */
typedef struct {
    const char *name;
    uint32_t block, unit, lines, scales, codes;
} TypeInfo;

static inline const TypeInfo *type_info(Type t) {
    static const TypeInfo info[N_TYPES] = {
        [TYPE_F32] = {"f32", 1, 1, 1, 0, 32},      [TYPE_F16] = {"f16", 1, 2, 1, 0, 16},
        [TYPE_BF16] = {"bf16", 1, 2, 1, 0, 16},    [TYPE_Q8] = {"q8", 32, 64, 17, 1, 8},
        [TYPE_Q5] = {"q5", 256, 256, 44, 3, 5},    [TYPE_Q6] = {"q6", 256, 64, 13, 1, 6},
        [TYPE_Q5_0] = {"q5_0", 32, 64, 11, 1, 5},  [TYPE_Q5_1] = {"q5_1", 32, 64, 12, 2, 5},
        [TYPE_Q4] = {"q4", 256, 256, 36, 3, 4},    [TYPE_Q4_0] = {"q4_0", 32, 64, 9, 1, 4},
    };
    return &info[t];
}

/* Lines in front of a panel's units: q6 keeps its super-block scales there. */
static inline size_t panel_head_lines(Type t, size_t cols) {
    return t == TYPE_Q6 ? (cols / 256 + 1) / 2 : 0;
}

/* Bytes of one panel of 16 rows. cols <= MAX_FFN, so nothing here can wrap. */
static inline size_t panel_bytes(Type t, size_t cols) {
    const TypeInfo *i = type_info(t);
    size_t units = (cols + i->unit - 1) / i->unit;
    return (panel_head_lines(t, cols) + units * i->lines) * LINE_BYTES;
}

/* Bytes of a matrix in panels. rows <= MAX_VOCAB: at most 2^16 panels of 2^24 bytes. */
static inline size_t matrix_bytes(Type t, size_t rows, size_t cols) {
    return (rows + PANEL_ROWS - 1) / PANEL_ROWS * panel_bytes(t, cols);
}

/* ---- Half precision -------------------------------------------------------------------------- */

static inline float float_from_bits(uint32_t bits) {
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}
static inline uint32_t bits_from_float(float f) {
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    return bits;
}

/* IEEE binary16 -> float, exact. Shifting the 15 low bits up leaves the exponent 112 too small:
 * multiplying by 2^112 repairs it, for subnormals too; infinities and NaNs are patched. */
static inline float f16_to_f32(uint16_t h) {
    uint32_t magnitude = (uint32_t)(h & 0x7fff) << 13, sign = (uint32_t)(h & 0x8000) << 16;
    uint32_t bits = bits_from_float(float_from_bits(magnitude) * 0x1p112f);
    if (magnitude >= 0x0f800000) bits = magnitude | 0x7f800000;
    return float_from_bits(bits | sign);
}

/* float -> IEEE binary16, to nearest, ties to even, as vcvtps2ph does. */
static inline uint16_t f16_from_f32(float f) {
    uint32_t bits = bits_from_float(f), magnitude = bits & 0x7fffffff, h;
    if (magnitude > 0x7f800000) {
        h = 0x7e00 | (magnitude >> 13 & 0x3ff); /* NaN, quiet */
    } else if (magnitude >= 0x477ff000) {
        h = 0x7c00; /* 65520 and more round to infinity */
    } else if (magnitude < 0x38800000) {
        /* below 2^-14: adding 0.5 leaves the multiple of 2^-24 in the low bits, rounded */
        h = bits_from_float(float_from_bits(magnitude) + 0.5f) - 0x3f000000;
    } else {
        h = (magnitude + 0xfff + (magnitude >> 13 & 1) - 0x38000000) >> 13;
    }
    return (uint16_t)(h | (bits >> 16 & 0x8000));
}

static inline float bf16_to_f32(uint16_t h) { return float_from_bits((uint32_t)h << 16); }

/* float -> bfloat16, to nearest, ties to even. */
static inline uint16_t bf16_from_f32(float f) {
    uint32_t bits = bits_from_float(f);
    if ((bits & 0x7fffffff) > 0x7f800000) return (uint16_t)(bits >> 16 | 0x40);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

static inline uint16_t load_u16(const uint8_t *p) {
    uint16_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

/* ---- The restoring formulas, as code --------------------------------------------------------- */

/* The 4-, 5- and 6-bit code of row n at column k = 0..31 of a block whose lines are at `lines`. */
static inline uint32_t panel_code4(const uint8_t *lines, size_t n, size_t k) {
    return lines[k / 8 * LINE_BYTES + 4 * n + k % 4] >> (k / 4 % 2 * 4) & 15;
}
static inline uint32_t panel_code5(const uint8_t *lines, size_t n, size_t k) {
    uint32_t line[5];
    for (size_t i = 0; i < 5; i++) line[i] = lines[i * LINE_BYTES + 4 * n + k % 4];
    switch (k / 4) {
    case 2: return line[0] >> 5 | (line[1] >> 5 & 3) << 3;
    case 5: return line[2] >> 5 | (line[3] >> 5 & 3) << 3;
    case 7: return line[4] >> 5 | line[1] >> 7 << 3 | line[3] >> 7 << 4;
    default: return line[k / 4 - k / 12] & 31;
    }
}
static inline uint32_t panel_code6(const uint8_t *lines, size_t n, size_t k) {
    uint32_t line[3];
    for (size_t i = 0; i < 3; i++) line[i] = lines[(k / 16 * 3 + i) * LINE_BYTES + 4 * n + k % 4];
    if (k / 4 % 4 < 3) return line[k / 4 % 4] & 63;
    return line[0] >> 6 | line[1] >> 6 << 2 | line[2] >> 6 << 4;
}
static inline uint32_t panel_code(Type t, const uint8_t *lines, size_t n, size_t k) {
    switch (type_info(t)->codes) {
    case 4: return panel_code4(lines, n, k);
    case 5: return panel_code5(lines, n, k);
    default: return panel_code6(lines, n, k);
    }
}

/* Weight of row n (0..15) at column k of the panel, exactly as the format defines it: products
 * rounded to float in the order written here, which is GGUF's. */
static inline float panel_weight(Type t, size_t cols, const uint8_t *panel, size_t n, size_t k) {
    const TypeInfo *info = type_info(t);
    size_t unit_bytes = (size_t)info->lines * LINE_BYTES, u = k % info->unit;
    const uint8_t *p = panel + panel_head_lines(t, cols) * LINE_BYTES + k / info->unit * unit_bytes;
    const uint8_t *codes = p + (info->scales + u / 32 * info->codes) * LINE_BYTES;
    switch (t) {
    case TYPE_F32: {
        float f;
        memcpy(&f, p + 4 * n, sizeof f);
        return f;
    }
    case TYPE_F16: return f16_to_f32(load_u16(p + 4 * n + 2 * u));
    case TYPE_BF16: return bf16_to_f32(load_u16(p + 4 * n + 2 * u));
    case TYPE_Q8: {
        float d = f16_to_f32(load_u16(p + 2 * (u / 32 * 16 + n)));
        return d * (float)(int8_t)codes[u % 32 / 4 * LINE_BYTES + 4 * n + u % 4];
    }
    case TYPE_Q4_0: case TYPE_Q5_0: case TYPE_Q5_1: {
        const uint8_t *scales = p + 2 * (u / 32 * 16 + n);
        int q = (int)panel_code(t, codes, n, u % 32);
        float d = f16_to_f32(load_u16(scales));
        if (t != TYPE_Q5_1) return d * (float)(q - (t == TYPE_Q4_0 ? 8 : 16));
        return d * (float)q + f16_to_f32(load_u16(scales + LINE_BYTES));
    }
    case TYPE_Q4: case TYPE_Q5: {
        size_t b = u / 32;
        uint32_t high = p[8 * b + n / 2], low = p[LINE_BYTES + 16 * b + n];
        high = high >> (n % 2 * 4) & 15;
        uint32_t sc = (low & 15) | (high & 3) << 4, m = low >> 4 | (high >> 2) << 4;
        const uint8_t *last = p + unit_bytes - LINE_BYTES + 2 * n;
        float d = f16_to_f32(load_u16(last)) * (float)sc;
        float min = f16_to_f32(load_u16(last + 32)) * (float)m;
        return d * (float)panel_code(t, codes, n, u % 32) - min;
    }
    case TYPE_Q6: {
        float d = f16_to_f32(load_u16(panel + 2 * (k / 256 * 16 + n)));
        int q = (int)panel_code(t, codes, n, u % 32) - 32;
        return d * (float)(int8_t)p[u / 16 * 16 + n] * (float)q;
    }
    default: return 0;
    }
}

/* ---- model.c: what a reader and the writer must agree on ------------------------------------- */

/* Are all sizes within the caps, and do they fit together? Errors name config.json's field. */
bool model_check_config(const ModelConfig *c, const char *file, Error *e);

typedef struct {
    char name[80];
    uint32_t rows, cols; /* vectors: rows = 1 */
    bool vector;
} TensorShape;

/* How many tensors a model of this (checked) configuration has, and the i-th of them, in the order
 * of the file. */
uint32_t model_n_tensors(const ModelConfig *c);
void model_tensor(const ModelConfig *c, uint32_t i, TensorShape *shape);

/* Bytes of a tensor's data: a vector's floats, or a matrix in panels. */
static inline size_t tensor_bytes(const TensorShape *s, Type t) {
    return s->vector ? (size_t)s->cols * sizeof(float) : matrix_bytes(t, s->rows, s->cols);
}

/* The CRC-32C of [0, header_bytes), the header's own field taken as zero. */
uint32_t model_header_crc(const uint8_t *data, size_t header_bytes);

typedef struct {
    Map map;
    const ModelHeader *header;   /* in the map */
    const TensorEntry *tensors;  /* (header->n_tensors) in the map */
} ModelFile;

/* Open and prove a model.bin: everything but the tensors' data and the tokenizer's inside. */
bool model_open(ModelFile *m, const char *path, Error *e);
void model_close(ModelFile *m);
/* Compare one tensor's data with its checksum, and the gap behind it with zeros. */
bool model_verify_tensor(const ModelFile *m, uint32_t i, const Crc *crc, const char *path,
                         Error *e);

/* Row `row` of a matrix in panels, as float: out (cols). The embedding look-up. */
static inline void matrix_row(Type t, size_t cols, const uint8_t *data, size_t row, float *out) {
    const uint8_t *panel = data + row / PANEL_ROWS * panel_bytes(t, cols);
    for (size_t k = 0; k < cols; k++) out[k] = panel_weight(t, cols, panel, row % PANEL_ROWS, k);
}

#endif
