/* convert.h: what the parts of the converter share.
 *
 *   main.c         command line
 *   source.c       what every kind of source needs: reading rows, checks, the list of tensors
 *   plan.c         which type each tensor gets, and where it lies in the file
 *   write.c        the writer
 *   hf.c           a Hugging Face directory: config, generation_config, tokenizer files
 *   safetensors.c  tensors of a safetensors file or of its shards
 *   gguf.c         a GGUF file: metadata, tokenizer, tensors
 *   tokens.c       vocabulary, merges and added tokens -> the tokenizer section of model.h
 *   lora.c         a PEFT adapter, added to the weights as they are read
 *   quant.c        GGUF blocks: to float, from float, into panels
 *   template.c     which family of chat.h renders as the chat template does
 *   jinja.c        what a template renders
 *   random.c       models of a given shape with random weights
 *   info.c         --info
 *   sha256.c       SHA-256 (FIPS 180-4)
 *
 * Data flows by panels of 16 rows: raw rows of the source -> (into wider blocks that hold the same
 * weights; or, when another type is wanted or an adapter is merged, float -> GGUF blocks of the
 * target type) -> panel -> compared, weight by weight and bit by bit, with the blocks it came from
 * -> file. So memory stays small whatever the model's size. */
#ifndef CONVERT_H
#define CONVERT_H

#include <stdatomic.h>

#include "../base.h"
#include "../chat.h"
#include "../json.h"
#include "../model.h"

#define CONVERTER "qwen.c convert 1"

/* ---- Element types of a source, numbered as GGUF numbers them -------------------------------- */

typedef enum {
    SRC_F32 = 0, SRC_F16 = 1, SRC_Q4_0 = 2, SRC_Q4_1 = 3, SRC_Q5_0 = 6, SRC_Q5_1 = 7, SRC_Q8_0 = 8,
    SRC_Q2_K = 10, SRC_Q3_K = 11, SRC_Q4_K = 12, SRC_Q5_K = 13, SRC_Q6_K = 14, SRC_IQ4_NL = 20,
    SRC_IQ4_XS = 23,
    SRC_BF16 = 30
} SourceType;

/* "Q5_K" and so on for every type GGUF knows, also those we cannot read; NULL for others. */
const char *source_type_name(uint32_t type);
/* Weights and bytes per block; false for types that we cannot decode. */
bool source_type_block(uint32_t type, uint32_t *weights, uint32_t *bytes);
/* Bytes of a row of `cols` weights; cols must be a multiple of the block. */
size_t source_row_bytes(SourceType type, size_t cols);
/* The row as float, exactly as GGUF defines it. */
void source_row_to_float(SourceType type, const uint8_t *row, size_t cols, float *out);

/* ---- Target types: rows of GGUF blocks, and panels ------------------------------------------- */

/* The GGUF type whose blocks a target type permutes. */
SourceType target_source_type(Type t);
/* The type whose panels keep a source's weights bit for bit: its own blocks, or wider ones that
 * hold them (Q4_1 in q5_1, Q3_K in q6, IQ4_NL in q8). False when there is none. */
bool keeping_type(SourceType source, Type *type);
/* A row of a source type that has wider blocks to blocks of that type. */
void widen_row(SourceType source, const uint8_t *row, size_t cols, uint8_t *blocks);
/* No weight above this magnitude may be quantized to the type: its scales could not hold it. */
float largest_weight(Type t);
/* Quantize one row to blocks of the target type. cols is a multiple of the type's block. What is
 * too large saturates. */
void quantize_row(Type t, const float *x, size_t cols, uint8_t *blocks);
/* Put n_rows (1..16) rows of blocks, row_bytes apart, into a panel (panel_bytes(t, cols)). */
void pack_panel(Type t, size_t cols, const uint8_t *blocks, size_t row_bytes, size_t n_rows,
                uint8_t *panel);
/* Does every weight of the panel have the very bits of its block's weight? */
bool panel_matches(Type t, size_t cols, const uint8_t *blocks, size_t row_bytes, size_t n_rows,
                   const uint8_t *panel);

/* ---- Sources --------------------------------------------------------------------------------- */

typedef struct {
    char name[80];       /* Hugging Face's name, as model.h lists them */
    SourceType type;
    uint32_t rows, cols; /* vectors: rows = 1 */
    bool vector;
    uint32_t file;       /* index into Source.files */
    uint64_t offset;     /* of the first row in that file; rows follow each other */
} SourceTensor;

typedef struct {
    char path[4096];        /* as the user named it: for errors */
    ModelHeader header;     /* config, defaults, chat, name, source: filled in by the reader */
    char quant[16];         /* GGUF: the file type's name ("Q5_K_M"); else "" */
    Buffer tokenizer;       /* the finished tokenizer section */
    SourceTensor *tensors;  /* (n_tensors) exactly the model's tensors, in model.h's order, with
                               shapes checked against the configuration */
    size_t n_tensors;
    Map *files;             /* (n_files) mapped weight files; none for a random model */
    char (*file_names)[256];
    size_t n_files;
    uint64_t seed;          /* random models: n_files == 0, rows are generated */
    char chat_note[256];    /* why header.chat_family is CHAT_NONE */
    char note[1024];        /* what was taken for granted, "; " between two: source_note */
} Source;

/* Open what path holds: a folder, a GGUF file, or a safetensors file with its folder around it. The
 * result is checked as a whole. On failure everything is released. */
bool source_open(const char *path, Source *s, Error *e);
/* Open by kind. On failure everything is released. */
bool hf_open(const char *path, Source *s, Error *e); /* a folder, or a safetensors file in one */
bool gguf_open(const char *path, Source *s, Error *e);
bool random_open(const char *size, Source *s, Error *e); /* "0.5b" ... "72b" */
bool random_size(const char *size, Error *e);            /* is it one of these? */
void source_close(Source *s);

/* Copy n rows of tensor t, from row `first` on, as stored, to out. Non-finite values are refused:
 * "model.layers.3.mlp.up_proj.weight: non-finite value at row R column C". */
bool source_read_rows(const Source *s, const SourceTensor *t, size_t first, size_t n, uint8_t *out,
                      Error *e);
/* What an error about the tensor's values names: the path, or the part of a GGUF in several. */
const char *source_file(const Source *s, const SourceTensor *t);
/* Say that the pages of these rows are not needed for now: keeps resident memory small. */
void source_drop_rows(const Source *s, const SourceTensor *t, size_t first, size_t n);
/* random.c's part of the above (deterministic in seed, tensor name and row; bf16 or f32 rows). */
void random_rows(const Source *s, const SourceTensor *t, size_t first, size_t n, uint8_t *out);

/* Every tensor that a model of this configuration has, in model.h's order. The list is allocated;
 * type, file and offset are zero. */
bool expected_tensors(const ModelConfig *c, SourceTensor **list, size_t *n, Error *e);
/* Append a weight file, not open yet, unless one of this name is there. */
#define MAX_FILES 4096
bool source_add_file(Source *s, const char *name, size_t n, Error *e);
/* Count id, unless it is -1, among what ends an answer. `file` is for the error. */
bool add_eos(ModelDefaults *d, int32_t id, const char *file, Error *e);
/* Add this text to the source's note. Two are said of folders and of GGUF files. */
#define NOTE_BOS                                                                                   \
    "add_bos_token is true: raw prompts should begin with the model's bos token, given with "      \
    "--parse-special"
#define NOTE_GREEDY                                                                                \
    "nothing says how to sample: answers are greedy, unless --temp is given, with --top-p and "    \
    "--top-k perhaps"
void source_note(Source *s, const char *text);
/* Fill in the header's template; the tokenizer section is finished. An unknown template is no
 * reason to refuse the model: raw prompts work, and chat_note tells the user. */
bool source_set_template(Source *s, const char *text, size_t n, const char *file, Error *e);
/* Append what a chat template renders (jinja.c has the part of Jinja that they are written in) with
 * the members of `context` (an object, whose lists and objects are spelled as Python's json.dumps
 * spells them) as its variables. *why: "", or why it could not be rendered: it raises an exception,
 * uses what is not known here, or does not end within 100,000 steps (long texts that it looks at
 * count as more). False when memory is short. */
bool jinja_render(const char *text, size_t n, const char *file, const Json *context, Buffer *out,
                  Error *why, Error *e);
/* The family that renders as a template does (template.c), and its default system message:
 * NUL-terminated in `system`, at most room bytes with the NUL. CHAT_NONE when none does: *why then
 * says what is different. False when memory is short. */
bool template_detect(const char *text, size_t n, const Tokenizer *tok, ChatTemplate *out,
                     char *system, size_t room, const char *file, Error *why, Error *e);
/* A folder's own name, for people: "." and links are resolved, a commit of a cache is named after
 * its model. */
void source_folder_name(const char *folder, char *out, size_t room);
static inline bool ends_with(const char *text, const char *end) {
    size_t n = strlen(text), m = strlen(end);
    return n >= m && strcmp(text + n - m, end) == 0;
}
/* What a file with these first bytes is, when it is something that people take for a model: a
 * phrase with advice, or NULL. */
const char *looks_like(const uint8_t *head, size_t n);

typedef struct Lora Lora; /* an adapter, below */

/* ModelHeader.source_sha256 of the weight files and the adapter's (l may be NULL); zeros for a
 * random model. False when *stop is set. */
bool source_hash(const Source *s, const Lora *l, atomic_int *stop, uint8_t out[32]);
/* Are these files as long as they were when they were opened? A mapped file that was cut shows
 * zeros up to the end of its last page. */
bool source_unchanged(const Source *s, const Lora *l, Error *e);

/* ---- Members of a JSON object, with errors that name them ------------------------------------ */

/* How much of v->source an error shows: what "%.*s" takes in front of it. */
static inline int shown_len(const Json *v) { return (int)min_size(v->source_len, 40); }
/* The member called key, NULL when it is absent or null. */
const Json *field_get(const Json *object, const char *key);
/* A whole number written with digits alone, within [low, high]. A missing member is an error. */
bool field_int(const Json *object, const char *key, int64_t low, int64_t high, int64_t *out,
               const char *file, Error *e);
/* A number within [low, high]; *out stays as it is when the member is absent or null. */
bool field_real(const Json *object, const char *key, double low, double high, double *out,
                const char *file, Error *e);
/* A boolean; *out stays as it is when the member is absent or null. */
bool field_bool(const Json *object, const char *key, bool *out, const char *file, Error *e);

/* ---- Plan and writer ------------------------------------------------------------------------- */

/* What will be written: the finished table but for the checksums, and the file's layout. */
typedef struct {
    TensorEntry *entries;    /* (n) in the order of Source.tensors */
    bool *copy;              /* (n) the source's own weights, bit for bit; else quantized anew */
    size_t n;
    char quant[16];          /* ModelHeader.quant */
    uint64_t tensors_offset, header_bytes, file_bytes;
    Buffer notes;            /* lines for the user: what is lost or other than asked */
} Plan;

/* The type that --quant names. */
bool quant_type(const char *text, Type *type, Error *e);
/* Fails as "interrupted" when *stop is not 0. */
bool not_stopped(atomic_int *stop, Error *e);
/* quant: "q8", "q5", "q4", "f32" ..., or NULL: q8, and for GGUF files the file's own types. l
 * may be NULL. Values are read where the type depends on them, until *stop is not 0. Release with
 * plan_free, also after a failure. */
bool plan_make(const Source *s, const Lora *l, const char *quant, atomic_int *stop, Plan *p,
               Error *e);
void plan_free(Plan *p);

/* What write_model needs, and what it found out. */
typedef struct {
    const Source *source;
    const Lora *lora;        /* or NULL */
    Plan *plan;              /* checksums are filled in */
    unsigned n_threads;      /* >= 1; the file is the same for any number */
    atomic_int *stop;        /* not 0: give up; -1 is set by a failure */
    FILE *progress;          /* a terminal, or NULL */
    FILE *report;            /* gets a line for every tensor, or NULL */
    double error, power;     /* out: sums of squares over all weights that were rounded */
} WriteJob;

/* Write the model.bin: a temporary file, which becomes `path` when it is complete. An existing file
 * is replaced only when it is a model.bin or empty. */
bool write_model(WriteJob *job, const char *path, Error *e);

/* Print what a model.bin, a GGUF file or a folder holds; verbose: every tensor too. */
bool info_print(const char *path, bool verbose, FILE *out, Error *e);
const char *chat_family_name(uint32_t family);

/* ---- Tokenizer ------------------------------------------------------------------------------- */

/* Collects a tokenizer and writes its section. Texts are given in GPT-2's printable alphabet
 * (every byte is one code point), added tokens as plain UTF-8. Tokens come before the merges that
 * name them. */
typedef struct TokenBuilder TokenBuilder;
TokenBuilder *tokens_new(const char *file, Error *e);
bool tokens_add(TokenBuilder *b, uint32_t id, const char *text, size_t n, Error *e);
bool tokens_add_special(TokenBuilder *b, uint32_t id, const char *text, size_t n, bool special,
                        Error *e);
bool tokens_merge(TokenBuilder *b, const char *left, size_t left_len, const char *right,
                  size_t right_len, Error *e);
/* The same of "left right"; an error names file and field. */
bool tokens_merge_pair(TokenBuilder *b, const char *text, size_t n, const char *file,
                       const char *field, Error *e);
/* Checks everything model.h promises of the section (256 bytes present, merges resolvable, no
 * duplicates) and appends it to out. */
bool tokens_finish(TokenBuilder *b, Buffer *out, Error *e);
void tokens_free(TokenBuilder *b);

/* ---- LoRA ------------------------------------------------------------------------------------ */

/* Read a PEFT adapter folder and check that every part of it belongs to a tensor of s. */
Lora *lora_open(const char *dir, const Source *s, Error *e);
/* Is there anything to add to this tensor of s? */
bool lora_touches(const Lora *l, const SourceTensor *t);
/* rows (n, cols) += scale * B[first .. first+n) A */
void lora_add(const Lora *l, const SourceTensor *t, size_t first, size_t n, float *rows);
/* The adapter's own name: its folder's, without the path. */
const char *lora_name(const Lora *l);
/* File i of the adapter's, LORA_FILES in all, and its name. */
#define LORA_FILES 2
const Map *lora_file(const Lora *l, size_t i, const char **name);
void lora_close(Lora *l);

/* ---- SHA-256 --------------------------------------------------------------------------------- */

typedef struct {
    uint32_t state[8];
    uint64_t bytes;
    uint8_t block[64];
} Sha256;
void sha256_init(Sha256 *s);
void sha256_update(Sha256 *s, const void *bytes, size_t n);
void sha256_final(Sha256 *s, uint8_t out[32]);

#endif
