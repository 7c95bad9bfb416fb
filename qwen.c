/* qwen.c: Qwen2.5 on a CPU. `make && ./qwen model.bin`
 *
 * A model.bin (model.h) is mapped and used in place; a prompt goes in, tokens come out one by one.
 * The file reads from top to bottom:
 *
 *   Part I    the model      1 structures   2 opening        3 rotary angles     4 forward
 *                            5 engine       6 sampler        7 session           8 session on disk
 *                            9 output      10 generation    11 speculative decoding
 *   Part II   the machine   12 threads     13 processors, memory, signals
 *   Part III  the program   14 options     15 one prompt, and statistics        16 many prompts
 *                           17 chat        18 bench         19 perplexity and verify    20 main
 *
 * The arithmetic itself is in kernels/, behind the table that kernels/kernels.h describes; text <->
 * ids in tokenizer.c; conversations -> ids in chat.c.
 *
 * Letters in shapes: T tokens of a batch, H hidden_size, F intermediate_size, D head_dim, A query
 * heads, B key-value heads, G = A / B, V vocab_size, L layers. Matrices are (rows, cols), row-major
 * where they are not in panels; y = W x. Strides are in elements and a multiple of 16. Times are in
 * seconds.
 *
 * Ownership: whoever opens closes; a Model must outlive its Engine. Errors: functions return false
 * with one line in *e; only Part III prints it and chooses the status (1 file or system, 2 command
 * line, 3 not finite, 130 ^C); the handlers of a second ^C, of SIGTERM and SIGHUP (but with
 * --prompts) and of a lost file leave at once. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <math.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/select.h>
#include <sys/stat.h>
#include <unistd.h>
#ifdef QWEN_OMP
#include <omp.h>
#endif

#include "chat.h"
#include "kernels/kernels.h"
#include "model.h"

#define QWEN_VERSION "0.1"
#define PROMPT_CHUNK 256 /* tokens of a prompt in one pass; PROMPT_RUN where they become bf16 */
#define MAX_THREADS 256
#define DECODE_ROWS 32 /* tokens of one decoding pass, of all sequences together */
#define MAX_DRAFT 15   /* guessed ones among them, of one sequence */

/* ============================================================================================
 * Part I: the model
 * ============================================================================================ */

/* ---- 1. Structures --------------------------------------------------------------------------- */

typedef struct {
    const float *input_layernorm, *post_attention_layernorm; /* (H) */
    Mat q_proj, k_proj, v_proj, o_proj;    /* (A D, H), (B D, H), (B D, H), (H, A D) */
    const float *q_bias, *k_bias, *v_bias; /* (A D), (B D), (B D); NULL without biases */
    Mat gate_proj, up_proj, down_proj;     /* (F, H), (F, H), (H, F) */
} Layer;

typedef struct {
    const char *path;
    ModelFile file;
    const ModelConfig *config;     /* in the file */
    const ModelDefaults *defaults; /* in the file */
    Mat embed_tokens, lm_head;     /* (V, H); the same matrix in tied models */
    Layer *layers;                 /* (L) */
    const float *norm;             /* (H) */
    Tokenizer *tokenizer;
    ChatTemplate chat;
    bool quantized;     /* some matrix takes int8 activations */
    size_t token_bytes; /* weights read per generated token */
} Model;

/* Keys and values of one sequence, in blocks (kernels.h). Plane p = layer * B + kv head: keys at
 * k + p * k_plane, values at v + p * v_plane. The memory is reserved, and taken by the system only
 * as positions are written. */
typedef struct {
    uint8_t *k, *v; /* one piece of memory, `bytes` long from k on; v follows the last plane of k */
    size_t bytes, k_plane, v_plane; /* planes in bytes */
} KvCache;

typedef struct Pool Pool;

typedef struct {
    uint32_t first, n;
} Span; /* of the tokens of a pass, or of other things that are numbered */

/* What decoding passes cost, and what guesses (section 11) have saved. */
typedef struct {
    double seconds[DECODE_ROWS + 1]; /* of a pass of so many tokens, lately; 0: not known */
    uint32_t plain, guessed;         /* passes without guesses; those with, since the last one */
    double balance; /* seconds that guesses saved, less those that they cost, within bounds */
} Pace;

typedef struct {
    uint32_t threads, ctx; /* ctx: positions of each sequence */
    uint32_t n_seq;        /* sequences */
    bool kv_f32;
    bool exact;        /* prompts too with the arithmetic that is the same on every CPU */
    float yarn_factor; /* 0: as the model's file says */
    const char *isa;   /* NULL: the best */
    uint32_t chunk;    /* tokens of one pass, 0: the engine decides */
    Pool *pool;        /* another engine's, with as many threads; NULL: one of its own */
} EngineOptions;

typedef struct {
    const Model *model;
    const Kernels *kernels;
    Pool *pool;
    EngineOptions options;
    KvCache *caches;   /* (n_seq) */
    uint32_t v_stride; /* kv_columns(D) */
    double *inv_freq;  /* (D/2) radians per position */
    float rope_scale;  /* YaRN's factor on cos and sin */
    /* Scratch for one pass of up to `chunk` tokens, allocated once. */
    uint8_t *scratch;
    size_t scratch_bytes;
    uint32_t chunk;
    size_t x_stride, q_stride, kv_stride, f_stride;
    float *x;              /* (T, H) the residual stream */
    bool rounds_prompts;   /* prompts take bf16 activations (kernels.h: prompt_matmul) */
    bool rounds_attention; /* and prompt_attend() */
    uint32_t terms;        /* rows per token of `normed`: 2 with int8 activations, see prepare() */
    float *normed;         /* (terms T, H) */
    float *q, *k, *v;      /* (T, A D), (T, B D), (T, B D) */
    float *heads;          /* (T, A D) what attention found */
    float *gated;          /* (T, F) input of down_proj, if that is f32, f16 or bf16 */
    float *outputs;        /* (threads, outputs_room) what matmul() gave to a unit of work */
    size_t outputs_room;
    float *cos, *sin; /* (T, D/2) */
    float *logits;    /* (DECODE_ROWS, V) of a decoding pass, rows logits_stride() apart */
    Operand act;      /* room for terms T tokens of H, or T tokens of A D */
    Operand hidden;   /* (T, F) input of down_proj */
    Pace pace;
    Span *spans;             /* (T) tokens that go through attention together */
    uint8_t *attend_scratch; /* (threads, ATTEND_BYTES) */
    float *found;            /* (threads, 2, found_room) what attend() found: see Found */
    size_t found_room;       /* floats of one */
    float *partials; /* (partial_units, G * (v_stride + 2)): a long context split over threads */
    size_t partial_units;
} Engine;

/* One token to be fed: the pass writes its keys and values at `pos` of sequence `seq`, which must
 * hold all positions before it (or they come earlier in the same pass). */
typedef struct {
    int32_t id;
    uint32_t seq, pos;
    bool want_logits;
} Token;

typedef enum { GENERATED, GIVEN } Origin; /* of a token: by the model, or in a prompt */

/* All that Part I knows of threads (section 12). parallel_for calls fn(ctx, unit, thread) for every
 * unit in [0, n), spread over the threads, and returns when all are done. n 1: on the caller. */
static Pool *pool_open(uint32_t threads, Error *e);
static void pool_close(Pool *pool);
typedef void (*UnitFn)(void *ctx, uint32_t unit, uint32_t thread);
static void parallel_for(Pool *pool, uint32_t n, UnitFn fn, void *ctx);

static size_t round_up(size_t a, size_t m) { return (a + m - 1) / m * m; }

/* ---- 2. Opening ------------------------------------------------------------------------------ */

/* Walks the tensor table in the order that model_open has proved. */
typedef struct {
    Model *model;
    uint32_t next;
} TensorCursor;

static const TensorEntry *next_tensor(TensorCursor *c) {
    return &c->model->file.tensors[c->next++];
}

static Mat next_matrix(TensorCursor *c) {
    const TensorEntry *t = next_tensor(c);
    Type type = (Type)t->type;
    if (type >= TYPE_Q8) c->model->quantized = true;
    c->model->token_bytes += t->bytes;
    return (Mat){type, t->rows, t->cols, c->model->file.map.data + t->offset};
}

static const float *next_vector(TensorCursor *c) {
    const TensorEntry *t = next_tensor(c);
    c->model->token_bytes += t->bytes;
    return (const void *)(c->model->file.map.data + t->offset);
}

static void layer_bind(Layer *l, TensorCursor *c) {
    bool bias = c->model->config->qkv_bias;
    l->input_layernorm = next_vector(c);
    l->q_proj = next_matrix(c);
    l->k_proj = next_matrix(c);
    l->v_proj = next_matrix(c);
    l->q_bias = bias ? next_vector(c) : NULL;
    l->k_bias = bias ? next_vector(c) : NULL;
    l->v_bias = bias ? next_vector(c) : NULL;
    l->o_proj = next_matrix(c);
    l->post_attention_layernorm = next_vector(c);
    l->gate_proj = next_matrix(c);
    l->up_proj = next_matrix(c);
    l->down_proj = next_matrix(c);
}

static void model_unload(Model *m) {
    tokenizer_close(m->tokenizer);
    free(m->layers);
    model_close(&m->file);
    *m = (Model){0};
}

static bool model_bind(Model *m, Error *e) {
    const ModelHeader *h = m->file.header;
    m->config = &h->config;
    m->defaults = &h->defaults;
    m->layers = alloc_array(e, "layers", h->config.num_hidden_layers, sizeof *m->layers);
    if (!m->layers) return false;
    TensorCursor c = {m, 0};
    m->embed_tokens = next_matrix(&c);
    size_t embed_bytes = m->token_bytes;
    for (uint32_t l = 0; l < m->config->num_hidden_layers; l++) layer_bind(&m->layers[l], &c);
    m->norm = next_vector(&c);
    if (m->config->tie_word_embeddings) {
        m->lm_head = m->embed_tokens;
    } else {
        m->lm_head = next_matrix(&c);
        m->token_bytes -= embed_bytes; /* only one row of it is read */
    }
    m->chat = (ChatTemplate){(ChatFamily)h->chat_family, h->default_system, h->default_system_len,
                             h->has_default_system != 0};
    m->tokenizer =
        tokenizer_open(m->file.map.data + h->tokenizer_offset, h->tokenizer_bytes, m->path, e);
    if (!m->tokenizer) return false;
    if ((uint32_t)tokenizer_n_tokens(m->tokenizer) > h->config.vocab_size)
        return fail(e, m->path, "vocab_size", "expected at least the tokenizer's %d, got %u",
                    tokenizer_n_tokens(m->tokenizer), h->config.vocab_size);
    return true;
}

/* Open a model.bin: nothing is copied but a few pointers. path must outlive the model. */
static bool model_load(Model *m, const char *path, Error *e) {
    *m = (Model){.path = path};
    if (!model_open(&m->file, path, e)) return false;
    if (model_bind(m, e)) return true;
    model_unload(m);
    return false;
}

static const TokenizerHeader *tokenizer_header(const Model *m) {
    return (const void *)(m->file.map.data + m->file.header->tokenizer_offset);
}

/* The merges stand behind the ends of the tokens' texts. */
static const TokenizerMerge *tokenizer_merges(const TokenizerHeader *h) {
    return (const void *)((const uint32_t *)(h + 1) + h->n_tokens);
}

/* Is token id the same for both: its bytes, and whether it is an added one? */
static bool same_token(const Tokenizer *a, const Tokenizer *b, int id) {
    size_t n_a, n_b;
    const char *x = tokenizer_bytes(a, id, &n_a), *y = tokenizer_bytes(b, id, &n_b);
    return n_a == n_b && memcmp(x, y, n_a) == 0 &&
           tokenizer_is_added(a, id) == tokenizer_is_added(b, id);
}

/* Does m give every text the same ids as the other model? How many rows the embeddings have does
 * not matter: those behind the last token are padding. */
static bool check_same_tokenizer(const Model *m, const Model *as, Error *e) {
    const TokenizerHeader *a = tokenizer_header(m), *b = tokenizer_header(as);
    const TokenizerMerge *x = tokenizer_merges(a), *y = tokenizer_merges(b);
    uint32_t t = 0, r = 0;
    if (a->n_tokens != b->n_tokens || a->n_merges != b->n_merges)
        return fail(e, m->path, "tokenizer",
                    "expected that of %s, got another (%u tokens and %u merges, not %u and %u)",
                    as->path, a->n_tokens, a->n_merges, b->n_tokens, b->n_merges);
    while (t < a->n_tokens && same_token(m->tokenizer, as->tokenizer, (int)t)) t++;
    while (r < a->n_merges && memcmp(&x[r], &y[r], sizeof x[r]) == 0) r++;
    if (t == a->n_tokens && r == a->n_merges) return true;
    return fail(e, m->path, "tokenizer", "expected that of %s, got another (%s %u differs)",
                as->path, t < a->n_tokens ? "token" : "merge", t < a->n_tokens ? t : r);
}

/* ---- 3. Rotary angles ------------------------------------------------------------------------ */

/* Powers, sines and cosines in double precision, of plain sums and products only: a C library may
 * round its own differently from one CPU to the next, and the logits must not. */

static double ln_f64(double x) {
    int exponent;
    double m = frexp(x, &exponent);
    if (m < 0.70710678118654752440) m *= 2, exponent--;
    double s = (m - 1) / (m + 1), s2 = s * s, sum = 0; /* ln m = 2 (s + s^3/3 + s^5/5 + ...) */
    for (int k = 25; k >= 1; k -= 2) sum = sum * s2 + 1.0 / k;
    return 2 * s * sum + exponent * 0.693147180559945309417;
}

static double exp_f64(double x) {
    double k = rint(x * 1.44269504088896340736);
    double r = (x - k * 6.93147180369123816490e-01) - k * 1.90821492927058770002e-10, sum = 1;
    for (int i = 14; i >= 1; i--) sum = 1 + r / i * sum; /* Taylor; |r| < 0.35 */
    return ldexp(sum, (int)k);
}

/* Taylor series of sin (first = 1) or cos (first = 0) for |r| <= pi/4. */
static double sin_cos_series(double r, int first) {
    double sum = 0;
    for (int i = 20 + first; i > first; i -= 2) sum = -r * r / (i * (i - 1)) * (1 + sum);
    return first ? r * (1 + sum) : 1 + sum;
}

/* sin and cos of x, 0 <= x < 2^20. pi/2 is subtracted in three parts, the first two of at most 33
 * bits, so that their products are exact (Cody and Waite). */
static void sin_cos_f64(double x, double *s, double *c) {
    double n = rint(x * 6.36619772367581382433e-01);
    double r = x - n * 1.57079632673412561417e+00;
    r -= n * 6.07710050630396597660e-11;
    r -= n * 2.02226624879595063154e-21;
    double sine = sin_cos_series(r, 1), cosine = sin_cos_series(r, 0);
    int quadrant = (int)((int64_t)n & 3);
    *s = quadrant == 0 ? sine : quadrant == 1 ? cosine : quadrant == 2 ? -sine : -cosine;
    *c = quadrant == 0 ? cosine : quadrant == 1 ? -sine : quadrant == 2 ? -cosine : sine;
}

/* The YaRN factor in force: what --yarn asks for, or the model's own. 0: none. */
static float yarn_in_force(const ModelConfig *c, float asked) {
    return asked > 0 ? asked : c->yarn_factor;
}

/* The positions that YaRN stretches. */
static uint32_t yarn_positions(const ModelConfig *c) {
    uint32_t original = c->yarn_original_max_position_embeddings;
    return original ? original : c->max_position_embeddings;
}

/* How many positions the model knows, with what --yarn asks for. */
static uint32_t context_limit(const ModelConfig *c, float asked) {
    double factor = (double)yarn_in_force(c, asked);
    double limit = factor > 0 ? factor * yarn_positions(c) : c->max_position_embeddings;
    return limit < MAX_CONTEXT ? (uint32_t)limit : MAX_CONTEXT;
}

/* inv_freq[i] = theta^(-2i/D); with YaRN (arXiv 2309.00071; transformers' _compute_yarn_parameters)
 * a blend, from the fast to the slow pairs, of that and that divided by the factor. */
static void rope_init(Engine *e) {
    const ModelConfig *c = e->model->config;
    double factor = (double)yarn_in_force(c, e->options.yarn_factor), original = yarn_positions(c);
    double d = c->head_dim, ln_theta = ln_f64(c->rope_theta), low = 0, high = 0;
    const double two_pi = 6.28318530717958647693;
    if (factor > 0) {
        /* the pair that turns 32 times, and the pair that turns once, over the original context */
        low = fmax(floor(d * ln_f64(original / (32 * two_pi)) / (2 * ln_theta)), 0);
        high = fmin(ceil(d * ln_f64(original / two_pi) / (2 * ln_theta)), d - 1);
        if (low == high) high += 0.001;
    }
    for (uint32_t i = 0; i < c->head_dim / 2; i++) {
        double plain = exp_f64(-2.0 * i / d * ln_theta);
        double ramp = fmin(fmax((i - low) / (high - low), 0), 1);
        e->inv_freq[i] = factor > 0 ? plain / factor * ramp + plain * (1 - ramp) : plain;
    }
    e->rope_scale = factor > 0 ? (float)(0.1 * ln_f64(factor) + 1) : 1;
}

/* ---- 4. Forward ------------------------------------------------------------------------------ */

static uint32_t group_size(const ModelConfig *c) {
    return c->num_attention_heads / c->num_key_value_heads;
}

/* Everything that a unit of parallel work of one pass may need. */
typedef struct {
    Engine *e;
    const Token *tokens; /* (n) */
    uint32_t n;
    bool rounds; /* activations as bf16, not as int8 */
    const Layer *layer;
    uint32_t layer_index;
    const float *in; /* prepare: rows to normalize or take as they are */
    size_t in_stride;
    const float *norm_weight; /* prepare: NULL: no normalization */
    uint32_t in_terms;        /* prepare: rows per token of e->act, 1 or 2 */
    uint32_t n_splits;        /* attend: parts of the context that are separate units */
} Pass;

/* Row t + 1 of normed = x - d q of row t: what quantizing it left over. */
static void rest_row(const Engine *e, uint32_t t) {
    const Operand *a = &e->act;
    const float *x = e->normed + t * e->x_stride;
    float *rest = e->normed + (t + 1) * e->x_stride;
    for (size_t k = 0; k < a->cols; k += 32) {
        size_t block = operand_block(a, t, k / 32);
        for (size_t j = 0; j < min_size(32, a->cols - k); j++)
            rest[k + j] = x[k + j] - a->d[block] * (float)a->q[block * 32 + j];
    }
}

/* One token's input to the next matrices: normalized, and quantized or rounded where needed. */
static void prepare_unit(void *ctx, uint32_t token, uint32_t thread) {
    (void)thread;
    Pass *p = ctx;
    Engine *e = p->e;
    const Operand *a = &e->act;
    uint32_t t = token * p->in_terms;
    if (p->norm_weight)
        e->kernels->rmsnorm(e->normed + t * e->x_stride, p->in + token * p->in_stride,
                            p->norm_weight, a->cols, e->model->config->rms_norm_eps);
    if (!e->model->quantized) return;
    Piece row = {
        .t = t, .n_tok = 1, .cols = a->cols, .x = a->x + t * a->x_stride, .x_apart = PANEL_ROWS};
    (p->rounds ? e->kernels->round : e->kernels->quantize)(a, &row);
    if (p->in_terms == 1) return; /* always so where it is rounded: bf16 needs no second term */
    rest_row(e, t);
    row.t++;
    row.x += a->x_stride;
    e->kernels->quantize(a, &row);
}

/* Make n rows of `in` (cols wide) the operand e->act, through RMSNorm when `norm` is given. With
 * two terms (and a norm) each row is followed by what its quantization left over, quantized in its
 * turn: x ~ d q + d' q', the second being one more token to the matrices. */
static void prepare(Pass *p, uint32_t n, const float *in, size_t stride, uint32_t cols,
                    const float *norm, uint32_t terms) {
    Engine *e = p->e;
    p->in = in;
    p->in_stride = stride;
    p->norm_weight = norm;
    p->in_terms = terms;
    e->act.n_tok = n * terms;
    e->act.cols = cols;
    e->act.x = norm ? e->normed : in;
    e->act.x_stride = norm ? e->x_stride : stride;
    if (norm || e->model->quantized) parallel_for(e->pool, n, prepare_unit, p);
}

typedef struct {
    const Mat *w;
    float *y; /* (n, y_stride) */
    size_t y_stride;
    const float *bias; /* (rows), or NULL */
    bool add;          /* to y: a residual connection */
} Product;
#define MAX_PRODUCTS 3
typedef struct {
    const Pass *pass;
    const Operand *input;
    const Product *products; /* matrices that share their input */
    uint32_t units[MAX_PRODUCTS];
} Products;

static uint32_t n_panels(const Mat *w) { return (w->rows + PANEL_ROWS - 1) / PANEL_ROWS; }

/* The rows of a matrix are cut into `parts` of `panels` panels each, one pair or two. With more
 * rows of input than a decoding pass can have every part is a unit of work: the cache holds what it
 * gives. Otherwise a unit takes as many parts as make UNIT_PANELS panels, but leaves every thread
 * four units, if there are as many parts, so that all are done at the same time:
 *   - in a decoding pass, because between two units the memory waits, a tenth of a part's time (up
 *     to FEW_PANELS with FEW_TOKENS, which are multiplied as fast as the memory gives the weights);
 *   - in prompt_matmul with a wide input, because it goes over the columns piece by piece, and the
 *     more panels meet a piece the less often it is fetched. */
#define UNIT_PANELS 16
#define FEW_PANELS 64
#define FEW_TOKENS 4
static uint32_t n_units(const Pass *p, const Operand *a, uint32_t parts, uint32_t panels) {
    uint32_t threads = p->e->options.threads, share = (parts + threads - 1) / threads;
    bool wide = p->rounds && a->cols > PROMPT_COLS;
    if (!wide && a->n_tok > 2 * DECODE_ROWS) return parts;
    uint32_t most = (a->n_tok <= FEW_TOKENS ? FEW_PANELS : UNIT_PANELS) / panels;
    if (most > share / 4) most = share < 4 ? 1 : share / 4;
    return (uint32_t)min_size(parts, (size_t)threads * ((share + most - 1) / most));
}

/* Which of `parts` a unit of n takes. */
static Span unit_span(uint32_t unit, uint32_t n, uint32_t parts) {
    uint32_t first = (uint32_t)((uint64_t)parts * unit / n);
    return (Span){first, (uint32_t)((uint64_t)parts * (unit + 1) / n) - first};
}

/* Pairs of panels; the last panel may be alone. */
static uint32_t n_pairs(const Mat *w) { return (n_panels(w) + 1) / 2; }

static void panels_multiply(const Pass *p, const Panels *w, const Operand *a, float *y) {
    const Kernels *K = p->e->kernels;
    bool rounded = p->rounds && K->prompt_matmul[w->type];
    (rounded ? K->prompt_matmul : K->matmul)[w->type](w, a, y);
}

/* How many rows ahead y is fetched, for writing: they lie a page or more apart, where the
 * processor's own prefetcher does not follow. */
#define STORE_AHEAD 16

/* Store the product of a panel, out (tokens, 16), a token having `terms` rows. */
static void product_store(const Engine *e, const Product *p, uint32_t panel, uint32_t n_tok,
                          uint32_t terms, float *out) {
    uint32_t row = panel * PANEL_ROWS, rows = (uint32_t)min_size(p->w->rows - row, PANEL_ROWS);
    bool add_rest = terms == 2 && p->w->type >= TYPE_Q8; /* plain types took all of x at once */
    float *y = p->y + row;
    for (uint32_t t = 0; t < n_tok; t += terms, out += terms * PANEL_ROWS, y += p->y_stride) {
        if (t + STORE_AHEAD * terms < n_tok) __builtin_prefetch(y + STORE_AHEAD * p->y_stride, 1);
        if (add_rest) e->kernels->add(out, out + PANEL_ROWS, rows);
        if (p->bias) e->kernels->add(out, p->bias + row, rows);
        if (p->add)
            e->kernels->add(y, out, rows);
        else
            memcpy(y, out, rows * sizeof *y);
    }
}

/* A pair is one panel from each half of the matrix: unit after unit, a thread reads two streams. */
static void product_unit(void *ctx, uint32_t unit, uint32_t thread) {
    const Products *j = ctx;
    const Engine *e = j->pass->e;
    uint32_t i = 0;
    while (unit >= j->units[i]) unit -= j->units[i++];
    const Product *p = &j->products[i];
    uint32_t half = n_pairs(p->w);
    Span pairs = unit_span(unit, j->units[i], half);
    uint32_t second = n_panels(p->w) - half - pairs.first; /* at least pairs.n, or one less */
    Panels w = matrix_panels(p->w, pairs.first, half, 1,
                             pairs.n + (uint32_t)min_size(second, pairs.n));
    float *out = e->outputs + thread * e->outputs_room;
    panels_multiply(j->pass, &w, j->input, out);
    for (i = 0; i < w.n; i++, out += outputs_size(j->input))
        product_store(e, p, pairs.first + i / 2 + i % 2 * half, j->input->n_tok,
                      j->pass->in_terms, out);
}

/* Compute n products of an input: all their rows are one range of parallel work. */
static void multiply(const Pass *p, const Operand *input, const Product *products, uint32_t n) {
    Products j = {.pass = p, .input = input, .products = products};
    uint32_t units = 0;
    for (uint32_t i = 0; i < n; i++) {
        j.units[i] = n_units(p, input, n_pairs(products[i].w), 2);
        units += j.units[i];
    }
    parallel_for(p->e->pool, units, product_unit, &j);
}

static size_t n_planes(const Engine *e) {
    return (size_t)e->model->config->num_hidden_layers * e->model->config->num_key_value_heads;
}

/* Bytes of n positions of one plane: whole blocks. */
static size_t key_plane(const Engine *e, size_t n) {
    return (n + KV_BLOCK - 1) / KV_BLOCK *
           keys_bytes(e->model->config->head_dim, e->options.kv_f32);
}
static size_t value_plane(const Engine *e, size_t n) {
    return (n + KV_BLOCK - 1) / KV_BLOCK *
           values_bytes(e->model->config->head_dim, e->options.kv_f32);
}

/* Blocks of keys and of values, of the same positions. */
typedef struct {
    uint8_t *k, *v;
} Blocks;

/* Those of a plane from position `first` (a multiple of KV_BLOCK) on. */
static Blocks kv_blocks(const Engine *e, uint32_t seq, size_t plane, uint32_t first) {
    const KvCache *kv = &e->caches[seq];
    return (Blocks){kv->k + plane * kv->k_plane + key_plane(e, first),
                    kv->v + plane * kv->v_plane + value_plane(e, first)};
}

/* Store the key and the value of one token, k, v (D), at position pos of a block. */
static void put_floats(const Engine *e, Blocks to, uint32_t pos, const float *k, const float *v) {
    uint32_t d_head = e->model->config->head_dim;
    float *key = (float *)(void *)to.k + pos;
    for (uint32_t d = 0; d < d_head; d++) key[d * KV_BLOCK] = k[d];
    memcpy((float *)(void *)to.v + (size_t)pos * e->v_stride, v, d_head * sizeof *v);
}
static void put_words(const Engine *e, Blocks to, uint32_t pos, const float *k, const float *v) {
    enum { LINE_WORDS = LINE_BYTES / sizeof(int16_t), LINE_FLOATS = LINE_BYTES / sizeof(float) };
    uint32_t d_head = e->model->config->head_dim;
    int16_t words[MAX_HEAD_DIM], *keys = (void *)to.k, *values = (void *)to.v;
    float scale = e->kernels->words(words, k, d_head);
    for (uint32_t d = 0; d < d_head; d++) keys[d / 2 * 2 * KV_BLOCK + 2 * pos + d % 2] = words[d];
    ((float *)(void *)to.k)[(size_t)d_head * LINE_FLOATS + pos] = scale;
    scale = e->kernels->words(words, v, d_head);
    for (uint32_t d = 0; d < d_head; d++) {
        size_t line = values_line(d) + pos / 2 * values_step(e->v_stride, d);
        values[line * LINE_WORDS + d % 16 * 2 + pos % 2] = words[d];
    }
    ((float *)(void *)to.v)[(size_t)e->v_stride * LINE_FLOATS + pos] = scale;
}
static void block_put(const Engine *e, Blocks to, uint32_t pos, const float *k, const float *v) {
    (e->options.kv_f32 ? put_floats : put_words)(e, to, pos, k, v);
}

/* Those that token t meets in this layer. */
static Blocks pass_blocks(const Pass *p, uint32_t t, uint32_t kv_head, uint32_t first) {
    size_t plane = (size_t)p->layer_index * p->e->model->config->num_key_value_heads + kv_head;
    return kv_blocks(p->e, p->tokens[t].seq, plane, first);
}

/* Take the bias of k_proj off the rotated keys k (B, D) of one token, in the pairs that hardly
 * turn. It adds the same to all of a query's scores, so attention does not see it; but it is what
 * most of Qwen2.5's large keys consist of, and what is left has more of an int16's steps. Pairs
 * that turn by more than a radian over 4096 positions keep theirs: there it would come back as the
 * difference of two angles. */
static void subtract_bias(const Engine *e, float *k, const float *bias) {
    uint32_t half = e->model->config->head_dim / 2;
    for (uint32_t b = 0; b < e->model->config->num_key_value_heads; b++)
        for (uint32_t i = 0; i < half; i++) {
            if (e->inv_freq[i] > 1.0 / 4096) continue;
            k[b * 2 * half + i] -= bias[b * 2 * half + i];
            k[b * 2 * half + half + i] -= bias[b * 2 * half + half + i];
        }
}

/* Rotate a token's queries and keys, scale its queries by 1/sqrt(D), store its keys and values. */
static void rotate_unit(void *ctx, uint32_t t, uint32_t thread) {
    (void)thread;
    Pass *p = ctx;
    Engine *e = p->e;
    const ModelConfig *c = e->model->config;
    const float *cosine = e->cos + (size_t)t * (c->head_dim / 2);
    const float *sine = e->sin + (size_t)t * (c->head_dim / 2);
    float *q = e->q + t * e->q_stride, *k = e->k + t * e->kv_stride, *v = e->v + t * e->kv_stride;
    e->kernels->rope(q, c->num_attention_heads, c->head_dim, cosine, sine);
    e->kernels->rope(k, c->num_key_value_heads, c->head_dim, cosine, sine);
    if (p->layer->k_bias) subtract_bias(e, k, p->layer->k_bias);
    float scale = 1 / sqrtf((float)c->head_dim);
    for (uint32_t i = 0; i < c->num_attention_heads * c->head_dim; i++) q[i] *= scale;
    uint32_t pos = p->tokens[t].pos % KV_BLOCK, first = p->tokens[t].pos - pos;
    for (uint32_t b = 0; b < c->num_key_value_heads; b++, k += c->head_dim, v += c->head_dim)
        block_put(e, pass_blocks(p, t, b, first), pos, k, v);
}

/* What attend() found for some rows, as floats: see Found in kernels.h. */
static size_t found_floats(const Engine *e, size_t rows) { return rows * (e->v_stride + 2); }

static Found found_at(size_t rows, float *memory) {
    return (Found){memory, memory + rows, memory + 2 * rows};
}

/* The query heads of one token that share a KV head: (G, D) */
static const float *query_heads(const Pass *p, uint32_t t, uint32_t kv_head) {
    const ModelConfig *c = p->e->model->config;
    return p->e->q + t * p->e->q_stride + (size_t)kv_head * group_size(c) * c->head_dim;
}

/* Attention of a span's heads of one KV head to the keys [first, first + ATTEND_KEYS), causal. */
static void attend_part(const Pass *p, Span span, uint32_t kv_head, uint32_t first,
                        uint8_t *scratch, Found to) {
    Engine *e = p->e;
    const ModelConfig *c = e->model->config;
    const float *q = query_heads(p, span.first, kv_head);
    Blocks keys = pass_blocks(p, span.first, kv_head, first);
    Attend a = {
        .head_dim = c->head_dim,
        .n_tok = span.n,
        .first = first,
        .pos = p->tokens[span.first].pos,
        .q_stride = e->q_stride,
        .k = keys.k,
        .v = keys.v,
        .scratch = scratch,
    };
    for (uint32_t h = 0; h < group_size(c); h += a.n_heads) { /* a span of several has few enough */
        a.n_heads = (uint32_t)min_size(group_size(c) - h, ATTEND_ROWS);
        a.q = q + (size_t)h * c->head_dim;
        a.to = (Found){to.max + h, to.sum + h, to.out + (size_t)h * e->v_stride};
        e->kernels->attend[e->options.kv_f32](&a);
    }
}

/* Divide by the sums, into the tokens' rows of e->heads. */
static void found_finish(const Pass *p, Span span, uint32_t kv_head, Found f) {
    Engine *e = p->e;
    const ModelConfig *c = e->model->config;
    uint32_t n = group_size(c);
    for (uint32_t row = 0; row < n * span.n; row++) {
        uint32_t head = kv_head * n + row % n, t = span.first + row / n;
        float *to = e->heads + t * e->q_stride + (size_t)head * c->head_dim;
        for (uint32_t d = 0; d < c->head_dim; d++)
            to[d] = f.out[row * e->v_stride + d] / f.sum[row];
    }
}

/* One span of tokens, one KV head: all parts of their context in order. */
static void attend_unit(void *ctx, uint32_t unit, uint32_t thread) {
    Pass *p = ctx;
    Engine *e = p->e;
    const ModelConfig *c = e->model->config;
    uint32_t b = c->num_key_value_heads, kv_head = unit % b;
    Span span = e->spans[unit / b];
    uint32_t rows = group_size(c) * span.n, last = p->tokens[span.first].pos + span.n - 1;
    uint8_t *scratch = e->attend_scratch + (size_t)thread * ATTEND_BYTES;
    float *memory = e->found + 2 * thread * e->found_room;
    Found all = found_at(rows, memory), more = found_at(rows, memory + e->found_room);
    attend_part(p, span, kv_head, 0, scratch, all);
    for (uint32_t at = ATTEND_KEYS; at <= last; at += ATTEND_KEYS) {
        attend_part(p, span, kv_head, at, scratch, more);
        e->kernels->join(&all, &more, rows, c->head_dim);
    }
    found_finish(p, span, kv_head, all);
}

static Found partial_at(const Engine *e, size_t unit) {
    size_t rows = group_size(e->model->config);
    return found_at(rows, e->partials + unit * found_floats(e, rows));
}

/* One part of one token's context for one KV head: when there are more threads than heads. */
static void attend_split_unit(void *ctx, uint32_t unit, uint32_t thread) {
    Pass *p = ctx;
    Engine *e = p->e;
    uint32_t pair = unit / p->n_splits, first = unit % p->n_splits * ATTEND_KEYS;
    uint32_t b = e->model->config->num_key_value_heads, t = pair / b;
    if (first > p->tokens[t].pos) return;
    attend_part(p, (Span){t, 1}, pair % b, first, e->attend_scratch + (size_t)thread * ATTEND_BYTES,
                partial_at(e, unit));
}

static void attend_splits(Pass *p) {
    Engine *e = p->e;
    uint32_t b = e->model->config->num_key_value_heads;
    parallel_for(e->pool, p->n * b * p->n_splits, attend_split_unit, p);
    for (uint32_t pair = 0; pair < p->n * b; pair++) {
        Found all = partial_at(e, (size_t)pair * p->n_splits);
        for (uint32_t s = 1; s <= p->tokens[pair / b].pos / ATTEND_KEYS; s++) {
            Found more = partial_at(e, (size_t)pair * p->n_splits + s);
            e->kernels->join(&all, &more, group_size(e->model->config), e->model->config->head_dim);
        }
        found_finish(p, (Span){pair / b, 1}, pair % b, all);
    }
}

/* One span of a prompt's tokens, one KV head, with prompt_attend. */
static void prompt_attend_unit(void *ctx, uint32_t unit, uint32_t thread) {
    Pass *p = ctx;
    Engine *e = p->e;
    const ModelConfig *c = e->model->config;
    uint32_t b = c->num_key_value_heads, kv_head = unit % b, g = group_size(c);
    const Span *span = &e->spans[unit / b];
    Blocks keys = pass_blocks(p, span->first, kv_head, 0);
    PromptAttend a = {
        .head_dim = c->head_dim,
        .n_heads = g,
        .n_tok = span->n,
        .pos = p->tokens[span->first].pos,
        .q = query_heads(p, span->first, kv_head),
        .q_stride = e->q_stride,
        .k = keys.k,
        .v = keys.v,
        .scratch = e->attend_scratch + (size_t)thread * ATTEND_BYTES,
        .out = e->heads + span->first * e->q_stride + (size_t)kv_head * g * c->head_dim,
        .out_stride = e->q_stride,
    };
    e->kernels->prompt_attend(&a);
}

/* Cut the pass into spans for attention, of tokens of one sequence that follow each other: as many
 * as the kernel takes at once, but so that there are units for all threads, and even. A token's
 * result is the same in any. Returns how many. */
static uint32_t cut_spans(const Pass *p) {
    Engine *e = p->e;
    const ModelConfig *c = e->model->config;
    uint32_t units = p->n * c->num_key_value_heads, n = 0;
    uint32_t most = (uint32_t)min_size(ATTEND_ROWS / group_size(c), units / e->options.threads);
    if (most == 0) most = 1;
    uint32_t spans = (p->n + most - 1) / most;
    most = (p->n + spans - 1) / spans;
    for (uint32_t t = 0, length; t < p->n; t += length) {
        const Token *token = &p->tokens[t];
        for (length = 1; length < most && t + length < p->n; length++)
            if (token[length].seq != token->seq || token[length].pos != token->pos + length) break;
        e->spans[n++] = (Span){t, length};
    }
    return n;
}

/* Attention for all tokens of the pass. The parts of a context are joined in the order of positions
 * either way, so all ways but the rounded one give the same bits. */
static void attend(Pass *p) {
    Engine *e = p->e;
    uint32_t b = e->model->config->num_key_value_heads, longest = 0;
    bool rounded = p->rounds && e->rounds_attention;
    for (uint32_t t = 0; t < p->n; t++)
        if (p->tokens[t].pos > longest) longest = p->tokens[t].pos;
    p->n_splits = longest / ATTEND_KEYS + 1;
    if (!rounded && p->n_splits > 1 && p->n * b < e->options.threads)
        attend_splits(p);
    else
        parallel_for(e->pool, cut_spans(p) * b, rounded ? prompt_attend_unit : attend_unit, p);
}

/* down_proj's input: silu(gate) * up, 32 of its columns at a time, which are a block to quantize. A
 * unit takes the same rows of gate_proj and up_proj, side by side: two long streams. Nothing of the
 * intermediate size but its quantized form passes from one thread to another. */
static uint32_t gated_units(const Pass *p) {
    return n_units(p, &p->e->act, n_pairs(&p->layer->gate_proj), 4);
}

/* What gate_proj and up_proj gave: panel i is at gate + i * apart and up + i * apart, (T, 16). */
typedef struct {
    float *gate, *up;
    size_t apart;
} Gated;

/* Panels first .. first + n - 1 of both. */
static Gated gate_and_up(const Pass *p, uint32_t first, uint32_t n, float *out) {
    const Operand *a = &p->e->act;
    const Mat *gate = &p->layer->gate_proj, *up = &p->layer->up_proj;
    size_t apart = outputs_size(a), size = panel_bytes(gate->type, gate->cols);
    if (gate->type == up->type) {
        Panels both = {gate->type, 2 * n, gate->data + first * size, up->data - gate->data,
                       (ptrdiff_t)size};
        panels_multiply(p, &both, a, out);
        return (Gated){out, out + apart, 2 * apart};
    }
    Gated g = {out, out + round_up(n, 2) * apart, apart};
    Panels w = matrix_panels(gate, first, 1, 2, n);
    panels_multiply(p, &w, a, g.gate);
    w = matrix_panels(up, first, 1, 2, n);
    panels_multiply(p, &w, a, g.up);
    return g;
}

static void gated_unit(void *ctx, uint32_t unit, uint32_t thread) {
    const Pass *p = ctx;
    const Engine *e = p->e;
    const Mat *w = &p->layer->gate_proj;
    Span pairs = unit_span(unit, gated_units(p), n_pairs(w));
    uint32_t first = 2 * pairs.first, row = first * PANEL_ROWS;
    uint32_t n = (uint32_t)min_size(2 * pairs.n, n_panels(w) - first);
    Gated g = gate_and_up(p, first, n, e->outputs + thread * e->outputs_room);
    Piece x = {.n_tok = p->n,
               .k = row,
               .cols = (uint32_t)min_size(w->rows - row, n * PANEL_ROWS),
               .x = g.gate,
               .x_stride = PANEL_ROWS,
               .x_apart = g.apart};
    const bool blocks = p->layer->down_proj.type >= TYPE_Q8;
    if (blocks && p->rounds) {
        e->kernels->round_gated(&e->hidden, &x, g.up);
        return;
    }
    for (uint32_t i = 0; i < n; i++)
        e->kernels->silu_mul(g.gate + i * g.apart, g.up + i * g.apart, p->n * PANEL_ROWS);
    if (blocks) {
        e->kernels->quantize(&e->hidden, &x);
        return;
    }
    for (uint32_t t = 0; t < p->n; t++)
        for (uint32_t k = 0; k < x.cols; k += PANEL_ROWS)
            memcpy(e->gated + t * e->f_stride + row + k,
                   g.gate + k / PANEL_ROWS * g.apart + t * PANEL_ROWS,
                   min_size(x.cols - k, PANEL_ROWS) * sizeof *e->gated);
}

/* One decoder layer over the pass's tokens: x += attention(norm(x)); x += mlp(norm(x)). */
static void layer_forward(Pass *p) {
    Engine *e = p->e;
    const ModelConfig *c = e->model->config;
    const Layer *l = p->layer;
    /* Scores go into an exponential, so queries and keys must be right to more than int8 gives:
     * their input has a second term where it is quantized. These matrices are the smallest. */
    prepare(p, p->n, e->x, e->x_stride, c->hidden_size, l->input_layernorm,
            p->rounds ? 1 : e->terms);
    const Product qkv[] = {
        {&l->q_proj, e->q, e->q_stride, l->q_bias, false},
        {&l->k_proj, e->k, e->kv_stride, l->k_bias, false},
        {&l->v_proj, e->v, e->kv_stride, l->v_bias, false},
    };
    multiply(p, &e->act, qkv, 3);
    parallel_for(e->pool, p->n, rotate_unit, p);
    attend(p);

    prepare(p, p->n, e->heads, e->q_stride, c->num_attention_heads * c->head_dim, NULL, 1);
    const Product o = {&l->o_proj, e->x, e->x_stride, NULL, true};
    multiply(p, &e->act, &o, 1);

    prepare(p, p->n, e->x, e->x_stride, c->hidden_size, l->post_attention_layernorm, 1);
    e->hidden.n_tok = p->n;
    parallel_for(e->pool, gated_units(p), gated_unit, p);
    const Product down = {&l->down_proj, e->x, e->x_stride, NULL, true};
    multiply(p, &e->hidden, &down, 1);
}

/* The embedding row and the rotary angles of one token. */
static void embed_unit(void *ctx, uint32_t t, uint32_t thread) {
    (void)thread;
    Pass *p = ctx;
    Engine *e = p->e;
    const Mat *w = &e->model->embed_tokens;
    uint32_t half = e->model->config->head_dim / 2;
    matrix_row(w->type, w->cols, w->data, (size_t)p->tokens[t].id, e->x + t * e->x_stride);
    for (uint32_t i = 0; i < half; i++) {
        double s, c;
        sin_cos_f64(p->tokens[t].pos * e->inv_freq[i], &s, &c);
        e->cos[(size_t)t * half + i] = (float)(c * (double)e->rope_scale);
        e->sin[(size_t)t * half + i] = (float)(s * (double)e->rope_scale);
    }
}

/* Gather the rows of x whose logits are wanted to its front; returns how many. */
static uint32_t gather_wanted(Pass *p) {
    Engine *e = p->e;
    uint32_t n = 0;
    for (uint32_t t = 0; t < p->n; t++) {
        if (!p->tokens[t].want_logits) continue;
        if (n != t)
            memcpy(e->x + n * e->x_stride, e->x + t * e->x_stride,
                   e->model->config->hidden_size * sizeof *e->x);
        n++;
    }
    return n;
}

static size_t logits_stride(const Model *m) { return round_up(m->config->vocab_size, PANEL_ROWS); }

/* Set by the signal handler, which can reach nothing else: how often ^C was pressed (or another
 * signal came that asks to stop), and the latest signal. */
static atomic_int interrupts, interrupted_by;

/* Called while a prompt is read: about `done` of n tokens are. NULL: not wanted. */
typedef void (*ProgressFn)(size_t done, size_t n, double seconds);

/* Who waits for a pass of `part` tokens, the next behind `done` of n. */
typedef struct {
    ProgressFn progress;
    size_t done, part, n;
    double start;
} Waiting;

/* Before layer l: has nobody pressed ^C? */
static bool goes_on(const Waiting *w, uint32_t l, uint32_t n_layers) {
    if (w->progress) w->progress(w->done + w->part * l / n_layers, w->n, now_seconds() - w->start);
    return !interrupts;
}

/* Feed n tokens (1 .. e->chunk), of any sequences: the only way through the model, for prompts,
 * decoding and batches. Either all of them were given or all of them generated; that alone decides
 * which arithmetic they meet. logits gets a row of V values, logits_stride apart, for every token
 * that wants them, in order; it may be NULL when none does. Ids must be < V, positions < ctx,
 * sequences < n_seq. Returns false if given up because of ^C: the tokens' keys and values are then
 * undefined, and so are the logits. `waiting` may be NULL: ^C waits too, then. */
static bool forward(Engine *e, Origin origin, const Token *tokens, uint32_t n, float *logits,
                    const Waiting *waiting) {
    const uint32_t n_layers = e->model->config->num_hidden_layers;
    Pass p = {.e = e, .tokens = tokens, .n = n, .rounds = origin == GIVEN && e->rounds_prompts};
    parallel_for(e->pool, n, embed_unit, &p);
    for (uint32_t l = 0; l < n_layers; l++) {
        if (waiting && !goes_on(waiting, l, n_layers)) return false;
        p.layer = &e->model->layers[l];
        p.layer_index = l;
        layer_forward(&p);
    }
    uint32_t wanted = gather_wanted(&p);
    if (wanted == 0) return true;
    p.rounds = false; /* logits are exact: one row of a prompt, some of a text that is scored */
    prepare(&p, wanted, e->x, e->x_stride, e->model->config->hidden_size, e->model->norm, 1);
    const Product head = {&e->model->lm_head, logits, logits_stride(e->model), NULL, false};
    multiply(&p, &e->act, &head, 1);
    return true;
}

/* ---- 5. Engine ------------------------------------------------------------------------------- */

#ifndef MAP_NORESERVE /* FreeBSD never reserves */
#define MAP_NORESERVE 0
#endif

/* Fresh memory, zero, which the system provides only as it is touched; release with munmap. */
static uint8_t *memory_reserve(size_t bytes, Error *err) {
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory != MAP_FAILED) return memory;
    fail_errno(err, NULL, "%zu MiB of memory (a smaller -c needs less)", bytes >> 20);
    return NULL;
}

static bool kv_open(const Engine *e, KvCache *kv, Error *err) {
    kv->k_plane = key_plane(e, e->options.ctx);
    kv->v_plane = value_plane(e, e->options.ctx);
    if (!mul_ok(kv->k_plane + kv->v_plane, n_planes(e), &kv->bytes))
        return fail(err, NULL, "context", "%u positions do not fit in memory", e->options.ctx);
    kv->k = memory_reserve(kv->bytes, err);
    if (!kv->k) return false;
    kv->v = kv->k + kv->k_plane * n_planes(e);
    return true;
}

/* Scratch is one piece of memory_reserve. It is laid out twice: without memory, to learn its size,
 * and for good. model.h's caps keep every sum far from wrapping. */
typedef struct {
    uint8_t *memory; /* NULL: only count */
    size_t used;
} Arena;

static void *arena_take(Arena *a, size_t bytes) {
    void *p = a->memory ? a->memory + a->used : NULL;
    a->used += round_up(bytes, LINE_BYTES);
    return p;
}

static float *arena_floats(Arena *a, size_t rows, size_t cols) {
    return arena_take(a, rows * cols * sizeof(float));
}

/* The quantized form of n rows of `cols` values. */
static void operand_layout(Operand *o, Arena *a, size_t n, size_t cols) {
    cols = round_up(cols, 64);
    o->q = arena_take(a, n * cols);
    o->sum = arena_take(a, n * cols / 16 * sizeof *o->sum);
    o->d = arena_floats(a, n, cols / 32);
    o->dq = arena_floats(a, n, cols / 32);
}

static void engine_layout(Engine *e, Arena *a) {
    const ModelConfig *c = e->model->config;
    size_t n = e->chunk, heads = (size_t)c->num_attention_heads * c->head_dim;
    e->x = arena_floats(a, n, e->x_stride);
    e->normed = arena_floats(a, n * e->terms, e->x_stride);
    e->q = arena_floats(a, n, e->q_stride);
    e->heads = arena_floats(a, n, e->q_stride);
    e->k = arena_floats(a, n, e->kv_stride);
    e->v = arena_floats(a, n, e->kv_stride);
    e->gated = arena_floats(a, n, e->f_stride);
    e->hidden.x = e->gated;
    e->outputs = arena_floats(a, e->options.threads, e->outputs_room);
    e->cos = arena_floats(a, n, c->head_dim / 2);
    e->sin = arena_floats(a, n, c->head_dim / 2);
    e->logits = arena_floats(a, DECODE_ROWS, logits_stride(e->model));
    e->attend_scratch = arena_take(a, (size_t)e->options.threads * ATTEND_BYTES);
    e->found = arena_floats(a, 2 * (size_t)e->options.threads, e->found_room);
    e->partials = arena_floats(a, e->partial_units, found_floats(e, group_size(c)));
    e->spans = arena_take(a, n * sizeof *e->spans);
    if (!e->model->quantized) return; /* what follows is for int8 activations */
    operand_layout(&e->act, a, n, max_size(e->terms * round_up(c->hidden_size, 64), heads));
    operand_layout(&e->hidden, a, n, c->intermediate_size);
    if (!e->rounds_prompts) return;
    n = round_up(n, GROUP_TOKENS);
    e->act.b = arena_take(a, n * round_up(max_size(c->hidden_size, heads), 32) * sizeof(uint16_t));
    e->hidden.b = arena_take(a, n * round_up(c->intermediate_size, 32) * sizeof(uint16_t));
}

static bool engine_scratch(Engine *e, Error *err) {
    const ModelConfig *c = e->model->config;
    e->x_stride = round_up(c->hidden_size, 16);
    e->q_stride = round_up((size_t)c->num_attention_heads * c->head_dim, 16);
    e->kv_stride = round_up((size_t)c->num_key_value_heads * c->head_dim, 16);
    e->f_stride = e->hidden.x_stride = round_up(c->intermediate_size, 16);
    e->hidden.cols = c->intermediate_size;
    size_t outputs = UNIT_PANELS * round_up(e->terms * e->chunk, GROUP_TOKENS);
    e->outputs_room = PANEL_ROWS * max_size(outputs, FEW_PANELS * GROUP_TOKENS);
    e->found_room = round_up(found_floats(e, max_size(ATTEND_ROWS, group_size(c))), 16);
    /* Split passes have fewer (token, head) pairs than threads. */
    e->partial_units = (size_t)e->options.threads * (e->options.ctx / ATTEND_KEYS + 1);
    Arena arena = {0};
    engine_layout(e, &arena);
    e->scratch_bytes = arena.used;
    e->scratch = memory_reserve(arena.used, err);
    arena = (Arena){.memory = e->scratch};
    if (e->scratch) engine_layout(e, &arena);
    return e->scratch != NULL;
}

static bool engine_fill(Engine *e, Error *err) {
    const ModelConfig *c = e->model->config;
    const EngineOptions *o = &e->options;
    e->kernels = kernels_select(o->isa, err);
    if (!e->kernels) return false;
    e->act.fetch_ahead = e->hidden.fetch_ahead = kernels_fetch_ahead();
    e->v_stride = (uint32_t)kv_columns(c->head_dim);
    e->terms = e->model->quantized ? 2 : 1;
    e->rounds_prompts = e->model->quantized && e->kernels->round && !o->exact;
    e->chunk = o->chunk ? o->chunk : e->rounds_prompts ? PROMPT_RUN : PROMPT_CHUNK;
    e->rounds_attention =
        e->rounds_prompts && !o->kv_f32 && c->head_dim % 32 == 0 && group_size(c) <= ATTEND_ROWS;
    e->inv_freq = alloc_array(err, "rotary frequencies", c->head_dim / 2, sizeof *e->inv_freq);
    e->caches = alloc_array(err, "sequences", o->n_seq, sizeof *e->caches);
    if (!e->inv_freq || !e->caches) return false;
    rope_init(e);
    for (uint32_t s = 0; s < o->n_seq; s++)
        if (!kv_open(e, &e->caches[s], err)) return false;
    if (!engine_scratch(e, err)) return false;
    e->pool = o->pool ? o->pool : pool_open(o->threads, err);
    return e->pool != NULL;
}

static void engine_close(Engine *e) {
    if (!e->options.pool) pool_close(e->pool);
    for (uint32_t s = 0; e->caches && s < e->options.n_seq; s++)
        if (e->caches[s].k) munmap(e->caches[s].k, e->caches[s].bytes);
    if (e->scratch) munmap(e->scratch, e->scratch_bytes);
    free(e->inv_freq);
    free(e->caches);
    *e = (Engine){0};
}

/* Make an engine for the model: kernels, threads, caches, scratch. Positions beyond context_limit()
 * work, but the model has not learned them. */
static bool engine_open(Engine *e, const Model *m, const EngineOptions *options, Error *err) {
    *e = (Engine){.model = m, .options = *options};
    if (engine_fill(e, err)) return true;
    engine_close(e);
    return false;
}

/* ---- 6. Sampler ------------------------------------------------------------------------------ */

typedef struct {
    double temperature; /* 0: always the likeliest token */
    int64_t top_k;      /* keep the k likeliest; 0: all */
    double top_p;       /* then the fewest whose probabilities reach p; 1: all */
    double min_p;       /* then those with at least p times the likeliest's probability; 0: all */
    double repeat_penalty; /* 1: none */
    int64_t repeat_last_n; /* -1: Hugging Face's rule; 0: no penalties; N: llama.cpp's window */
    double presence_penalty, frequency_penalty; /* 0: none */
    uint64_t seed;
} SamplerOptions;

typedef struct {
    float logit, p; /* p: its probability over that of the best */
    int32_t id;
} Candidate;

typedef struct {
    const Kernels *kernels;
    SamplerOptions options;
    uint32_t n_vocab;      /* ids below it may be chosen: the tokenizer's, not the padding's */
    uint64_t state;        /* of the random generator */
    uint32_t *count;       /* (n_vocab) zero between calls */
    float *p;              /* (n_vocab) room for the candidates' p */
    Candidate *candidates; /* (n_vocab) */
} Sampler;

static bool sampler_open(Sampler *s, const SamplerOptions *o, const Kernels *kernels,
                         uint32_t n_vocab, Error *e) {
    *s = (Sampler){.kernels = kernels, .options = *o, .n_vocab = n_vocab, .state = o->seed};
    s->count = alloc_array(e, "sampler", n_vocab, sizeof *s->count);
    s->p = alloc_array(e, "sampler", n_vocab, sizeof *s->p);
    s->candidates = alloc_array(e, "sampler", n_vocab, sizeof *s->candidates);
    return s->count && s->p && s->candidates;
}

static void sampler_close(Sampler *s) {
    free(s->count);
    free(s->p);
    free(s->candidates);
    *s = (Sampler){0};
}

/* The next number of the generator, uniform in [0, 1): splitmix64 (Steele et al. 2014), 53 bits. */
static double sampler_uniform(Sampler *s) {
    uint64_t z = (s->state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return (double)((z ^ (z >> 31)) >> 11) * 0x1p-53;
}

/* Lower the logits of the tokens in ids[0..n): each different one is divided by `repeat` when
 * positive and multiplied when negative (arXiv 1909.05858), then loses `presence` once and
 * `frequency` for every time it occurs. */
static void penalize(Sampler *s, float *logits, const int32_t *ids, size_t n, double repeat,
                     double presence, double frequency) {
    for (size_t i = 0; i < n; i++)
        if ((uint32_t)ids[i] < s->n_vocab) s->count[ids[i]]++;
    for (size_t i = 0; i < n; i++) {
        if ((uint32_t)ids[i] >= s->n_vocab || s->count[ids[i]] == 0) continue;
        double logit = (double)logits[ids[i]];
        logit = logit > 0 ? logit / repeat : logit * repeat;
        logits[ids[i]] = (float)(logit - presence - frequency * s->count[ids[i]]);
        s->count[ids[i]] = 0;
    }
}

/* ids[0..n): the whole sequence, of which the first n_prompt are the prompt. */
static void apply_penalties(Sampler *s, float *logits, const int32_t *ids, size_t n,
                            size_t n_prompt) {
    const SamplerOptions *o = &s->options;
    bool counts = o->presence_penalty != 0 || o->frequency_penalty != 0;
    if (o->repeat_last_n >= 0) { /* llama.cpp: all three over the last N, prompt or not */
        size_t window = min_size(n, (size_t)o->repeat_last_n);
        if (o->repeat_penalty != 1 || counts)
            penalize(s, logits, ids + n - window, window, o->repeat_penalty, o->presence_penalty,
                     o->frequency_penalty);
        return;
    }
    if (o->repeat_penalty != 1) penalize(s, logits, ids, n, o->repeat_penalty, 0, 0);
    if (counts)
        penalize(s, logits, ids + n_prompt, n - n_prompt, 1, o->presence_penalty,
                 o->frequency_penalty);
}

/* Does a come before b? Likelier first, then the lower id: a total order, so ties cannot vary. */
static bool before(Candidate a, Candidate b) {
    return a.logit > b.logit || (a.logit == b.logit && a.id < b.id);
}

/* Restore the heap below node i of h[0..n), whose top is the best or, when `worst`, the worst. */
static void sift_down(Candidate *h, size_t n, size_t i, bool worst) {
    for (size_t child; (child = 2 * i + 1) < n; i = child) {
        if (child + 1 < n && before(h[child + 1], h[child]) != worst) child++;
        if (before(h[i], h[child]) != worst) return;
        Candidate t = h[i];
        h[i] = h[child];
        h[child] = t;
    }
}

static void make_heap(Candidate *h, size_t n, bool worst) {
    for (size_t i = n / 2; i-- > 0;) sift_down(h, n, i, worst);
}

/* The k best of all logits, as a heap with the best on top. One pass keeps the k best so far in a
 * heap with the worst of them on top; most logits fail the one comparison with it. */
static size_t best_k(Sampler *s, const float *logits, size_t k) {
    Candidate *h = s->candidates;
    k = min_size(k, s->n_vocab);
    for (size_t i = 0; i < s->n_vocab; i++) {
        Candidate c = {logits[i], 0, (int32_t)i};
        if (i < k) {
            h[i] = c;
            if (i + 1 == k) make_heap(h, k, true);
        } else if (before(c, h[0])) {
            h[0] = c;
            sift_down(h, k, 0, true);
        }
    }
    make_heap(h, k, false);
    return k;
}

static int32_t best_id(const float *logits, uint32_t n) {
    uint32_t best = 0;
    for (uint32_t i = 1; i < n; i++)
        if (logits[i] > logits[best]) best = i;
    return (int32_t)best;
}

/* Take the likeliest of a heap of n candidates (best on top) off it: one, and more until their p
 * add up to `enough` or are below least. They stand behind what is left of the heap, the likeliest
 * last. Returns where they begin; *mass: the sum of their p. */
static size_t keep_likeliest(Candidate *h, size_t n, double enough, double least, double *mass) {
    size_t left = n;
    *mass = 0;
    do {
        Candidate best = h[0];
        *mass += (double)best.p;
        h[0] = h[--left];
        h[left] = best;
        sift_down(h, left, 0, false);
    } while (left > 0 && *mass < enough && (double)h[0].p >= least);
    return left;
}

/* Of n candidates, likeliest last, the one r falls on; the first takes what rounding leaves. */
static int32_t draw_from(const Candidate *c, size_t n, double r) {
    while (n > 1 && (r -= (double)c[n - 1].p) >= 0) n--;
    return c[n - 1].id;
}

/* Choose from the n candidates of a heap. Only as many are sorted as top-p and min-p keep, and,
 * where those keep all, as the draw asks for. */
static int32_t choose(Sampler *s, size_t n) {
    const SamplerOptions *o = &s->options;
    Candidate *h = s->candidates;
    double total = 0, mass;
    float scale = (float)fmin(1 / o->temperature, 1e30); /* 0 times infinity is no number */
    for (size_t i = 0; i < n; i++) s->p[i] = h[i].logit;
    s->kernels->exp_sum(s->p, (uint32_t)n, h[0].logit, scale);
    for (size_t i = 0; i < n; i++) total += (double)(h[i].p = s->p[i]);
    bool all = o->top_p >= 1 && o->min_p <= 0;
    double draw = sampler_uniform(s), enough = (all ? draw : o->top_p) * total;
    size_t kept = keep_likeliest(h, n, enough, o->min_p, &mass);
    return draw_from(h + kept, n - kept, draw * (all ? total : mass));
}

/* Choose the token that follows ids[0..n), n_prompt of which are the prompt; logits (V) are
 * changed. The order is Hugging Face's: penalties, temperature, top-k, top-p, min-p. */
static int32_t sample(Sampler *s, float *logits, const int32_t *ids, size_t n, size_t n_prompt) {
    apply_penalties(s, logits, ids, n, n_prompt);
    if (s->options.temperature == 0) return best_id(logits, s->n_vocab);
    size_t k = s->options.top_k > 0 ? (size_t)s->options.top_k : s->n_vocab;
    return choose(s, best_k(s, logits, k));
}

/* For --kl (section 19); here because the tests include Parts I and II alone.
 *
 * ln of the sum of exp(logits[0..n)), n >= 1. */
static double log_sum_exp(const float *logits, uint32_t n) {
    double max = (double)logits[best_id(logits, n)], sum = exp((double)logits[0] - max);
    for (uint32_t i = 1; i < n; i++) sum += exp((double)logits[i] - max);
    return max + log(sum);
}

/* KL(P || Q) in nats, P and Q being what p[0..n) and q[0..n) are the logits of. */
static double kl_divergence(const float *p, const float *q, uint32_t n) {
    double p_total = log_sum_exp(p, n), q_total = log_sum_exp(q, n), sum = 0;
    for (uint32_t i = 0; i < n; i++) {
        double ln_p = (double)p[i] - p_total, ln_q = (double)q[i] - q_total;
        sum += exp(ln_p) * (ln_p - ln_q);
    }
    return sum;
}

/* ---- 7. Session ------------------------------------------------------------------------------ */

/* Guesses that were right, by how sure of them one could be. */
#define GUESS_CLASSES 5
typedef struct {
    double tried[GUESS_CLASSES], right[GUESS_CLASSES];
} Record;

typedef struct Drafter Drafter;

/* One conversation: what stands in the cache of one of the engine's sequences. A new prompt that
 * begins with the same tokens does not compute them again. */
typedef struct {
    Engine *engine;
    uint32_t seq;     /* 0 unless it is set after opening */
    Ids ids;          /* tokens whose keys and values are cached, in order */
    Record record;    /* how good guesses were */
    float *logits;    /* (V) of the last token fed */
    Drafter *drafter; /* a smaller model that guesses; NULL: none. Set after opening */
} Session;

/* A smaller model with the same tokenizer, whose session follows a conversation to guess how it
 * goes on (section 11). It holds the conversation from the token `from` on. */
struct Drafter {
    Session session;
    size_t from;
    double pass_s, read_s; /* seconds of a pass that gives one guess, lately, and of each token that
                            * is read besides; 0: not known */
    bool begun;            /* it has read something */
    bool failed; /* its numbers are not finite, or memory is short (error): it guesses no more */
    Error error;
};

static bool session_open(Session *s, Engine *engine, Error *e) {
    *s = (Session){.engine = engine};
    s->logits = alloc_aligned(e, "logits", logits_stride(engine->model), sizeof *s->logits);
    return s->logits != NULL;
}

static void session_close(Session *s) {
    ids_free(&s->ids);
    free(s->logits);
    *s = (Session){0};
}

/* Are all numbers of logits (V) finite? If not, something in the file is broken. */
static bool check_finite(const Engine *e, const float *logits, size_t position, Error *err) {
    float max;
    if (e->kernels->max_finite(logits, e->model->config->vocab_size, &max)) return true;
    return fail(err, e->model->path, "logits",
                "not a finite number at position %zu (damaged weights? "
                "--verify checks the file)",
                position);
}

typedef enum { FED, FED_INTERRUPTED, FED_NOT_FINITE, FED_FAILED } Fed;

/* Append ids[0..n) to the session, in chunks, with the arithmetic of this origin; s->logits are the
 * last one's. The caller has checked that they fit. After ^C the chunks that were done stay. */
static Fed session_feed(Session *s, Origin origin, const int32_t *ids, size_t n,
                        ProgressFn progress, Error *err) {
    Engine *e = s->engine;
    Token *tokens = alloc_array(err, "tokens", e->chunk, sizeof *tokens);
    if (!tokens) return FED_FAILED;
    Fed result = FED;
    Waiting w = {.progress = progress, .n = n, .start = now_seconds()};
    for (; w.done < n && result == FED; w.done += w.part) {
        w.part = min_size(n - w.done, e->chunk);
        for (size_t i = 0; i < w.part; i++)
            tokens[i] =
                (Token){ids[w.done + i], s->seq, (uint32_t)(s->ids.n + i), w.done + i + 1 == n};
        if (!forward(e, origin, tokens, (uint32_t)w.part, s->logits, &w)) result = FED_INTERRUPTED;
        for (size_t i = 0; i < w.part && result == FED; i++)
            if (!ids_add(&s->ids, ids[w.done + i], err)) result = FED_FAILED;
    }
    if (progress) progress(n, n, now_seconds() - w.start);
    free(tokens);
    if (result == FED && !check_finite(e, s->logits, s->ids.n - 1, err)) return FED_NOT_FINITE;
    return result;
}

/* How many tokens the cache and the prompt have in common. The last one of the prompt is never
 * among them: it is always fed, for its logits. */
static size_t session_common(const Session *s, const Ids *prompt) {
    size_t n = 0;
    while (n < s->ids.n && n + 1 < prompt->n && s->ids.ids[n] == prompt->ids[n]) n++;
    return n;
}

/* Keep only what the cached tokens and prompt have in common; returns how many tokens that is. */
static size_t session_rewind(Session *s, const Ids *prompt) {
    return s->ids.n = session_common(s, prompt);
}

/* Take over the first n tokens of another session of the same engine, keys and values and all. */
static bool session_copy(Session *to, const Session *from, size_t n, Error *err) {
    const Engine *e = to->engine;
    for (size_t p = 0; p < n_planes(e); p++) {
        Blocks a = kv_blocks(e, to->seq, p, 0), b = kv_blocks(e, from->seq, p, 0);
        memcpy(a.k, b.k, key_plane(e, n));
        memcpy(a.v, b.v, value_plane(e, n));
    }
    to->ids.n = 0;
    for (size_t i = 0; i < n; i++)
        if (!ids_add(&to->ids, from->ids.ids[i], err)) return false;
    return true;
}

/* ---- 8. Session on disk ---------------------------------------------------------------------- */

/* What --cache keeps of a prompt for the next run of the program.
 *
 *   CacheHeader
 *   i32 ids[n]       the prompt, as far as it was read
 *   of every plane the keys, then the values, in blocks as in memory, zero behind the last token
 *
 * The same ids have the same keys and values, bit for bit, under the same weights and arithmetic
 * alone, so the header says which these were. The file is not trusted: its checksum covers all of
 * it, and nothing of it is used as a size before it was compared with what this model asks for. It
 * tells the prompt to whoever can read it. */
#define CACHE_MAGIC "\x89QKV\r\n\x1a\n" /* 8 bytes */
#define CACHE_VERSION 2                 /* to be raised when keys or values get other bits */

/* How prompts are read: as generated tokens are, or with bf16. */
enum { ARITHMETIC_EXACT = 1, ARITHMETIC_BF16 = 2 };

typedef struct {
    uint64_t model_bytes; /* size of the model's file, and the checksum of its header, */
    uint32_t model_crc32c;
    uint32_t arithmetic;      /* ARITHMETIC_... */
    uint8_t model_sha256[32]; /* which holds every tensor's own; and what it was made from */
    uint32_t kv_f32;
    float yarn_factor;
} CacheKey;

typedef struct {
    uint8_t magic[8];
    uint32_t version;
    uint32_t crc32c; /* of the whole file, these four bytes taken as zero */
    uint64_t file_bytes;
    CacheKey key;
    uint64_t n; /* tokens */
} CacheHeader;

_Static_assert(sizeof(CacheHeader) == 88, "CacheHeader has no holes");

static const char *arithmetic_name(uint32_t arithmetic) {
    switch (arithmetic) {
    case ARITHMETIC_EXACT: return "as with --exact";
    case ARITHMETIC_BF16: return "on AMX";
    default: return "in another way";
    }
}

static const char *kv_name(bool f32) { return f32 ? "f32" : "i16"; }

static CacheKey cache_key(const Engine *e) {
    const ModelHeader *h = e->model->file.header;
    CacheKey key = {.model_bytes = h->file_bytes,
                    .model_crc32c = h->crc32c,
                    .arithmetic = e->rounds_prompts ? ARITHMETIC_BF16 : ARITHMETIC_EXACT,
                    .kv_f32 = e->options.kv_f32,
                    .yarn_factor = yarn_in_force(&h->config, e->options.yarn_factor)};
    memcpy(key.model_sha256, h->source_sha256, sizeof key.model_sha256);
    return key;
}

static bool cache_size(const Engine *e, size_t n, size_t *bytes) {
    return mul_ok(key_plane(e, n) + value_plane(e, n), n_planes(e), bytes) &&
           add_ok(*bytes, sizeof(CacheHeader) + n * sizeof(int32_t), bytes);
}

static uint32_t cache_crc(const uint8_t *data, size_t n) {
    Crc table;
    CacheHeader h;
    memcpy(&h, data, sizeof h);
    h.crc32c = 0;
    crc_init(&table);
    return crc_update(&table, crc_update(&table, 0, &h, sizeof h), data + sizeof h, n - sizeof h);
}

/* Is the file whole, and of this model under these settings? */
static bool cache_prove(const Engine *e, const Map *m, const char *path, Error *err) {
    const CacheHeader *h = (const void *)m->data;
    CacheKey key = cache_key(e);
    size_t bytes;
    if (m->bytes < sizeof *h)
        return fail(err, path, NULL, "cut off: expected at least %zu bytes, got %zu", sizeof *h,
                    m->bytes);
    if (h->version != CACHE_VERSION)
        return fail(err, path, "version", "expected %u, got %" PRIu32, CACHE_VERSION, h->version);
    if (h->file_bytes != m->bytes)
        return fail(err, path, "file_bytes", "expected %" PRIu64 ", got %zu", h->file_bytes,
                    m->bytes);
    uint32_t crc = cache_crc(m->data, m->bytes);
    if (crc != h->crc32c)
        return fail(err, path, "crc32c", "damaged: expected %08" PRIx32 ", got %08" PRIx32,
                    h->crc32c, crc);
    if (h->key.model_bytes != key.model_bytes || h->key.model_crc32c != key.model_crc32c ||
        memcmp(h->key.model_sha256, key.model_sha256, sizeof key.model_sha256) != 0)
        return fail(err, path, "model", "expected the cache of %s, got another's", e->model->path);
    if (h->key.kv_f32 != key.kv_f32 || h->key.yarn_factor != key.yarn_factor)
        return fail(err, path, "settings",
                    "expected --kv %s and a YaRN factor of %g, got %s and %g", kv_name(key.kv_f32),
                    (double)key.yarn_factor, kv_name(h->key.kv_f32), (double)h->key.yarn_factor);
    if (h->key.arithmetic != key.arithmetic)
        return fail(err, path, "arithmetic", "expected a prompt read %s, got one read %s",
                    arithmetic_name(key.arithmetic), arithmetic_name(h->key.arithmetic));
    if (h->n > MAX_CONTEXT || !cache_size(e, h->n, &bytes) || bytes != m->bytes)
        return fail(err, path, "n", "%" PRIu64 " tokens do not go with a file of %zu bytes", h->n,
                    m->bytes);
    return true;
}

/* Take what the file's tokens and the prompt have in common into the empty session. */
static bool cache_take(Session *s, const uint8_t *data, const Ids *prompt, Error *err) {
    const Engine *e = s->engine;
    size_t n = ((const CacheHeader *)(const void *)data)->n;
    const int32_t *ids = (const void *)(data + sizeof(CacheHeader));
    size_t most = min_size(min_size(n, prompt->n), e->options.ctx);
    while (s->ids.n < most && ids[s->ids.n] == prompt->ids[s->ids.n])
        if (!ids_add(&s->ids, prompt->ids[s->ids.n], err)) return false;
    const uint8_t *from = (const uint8_t *)(ids + n);
    for (size_t p = 0; p < n_planes(e); p++, from += key_plane(e, n) + value_plane(e, n)) {
        Blocks to = kv_blocks(e, s->seq, p, 0);
        memcpy(to.k, from, key_plane(e, s->ids.n));
        memcpy(to.v, from + key_plane(e, n), value_plane(e, s->ids.n));
    }
    return true;
}

/* CACHE_UNUSABLE: the file is damaged, or of another model: it may be replaced. CACHE_REFUSED: it
 * is no cache, cannot be read, or memory is short: it is left as it is. *e says why. */
typedef enum { CACHE_READ, CACHE_UNUSABLE, CACHE_REFUSED } CacheRead;

/* Fill the empty session from the file, if there is one, as far as its tokens are the prompt's. */
static CacheRead cache_read(Session *s, const char *path, const Ids *prompt, Error *err) {
    struct stat st;
    Map map;
    bool exists = stat(path, &st) == 0;
    if (exists ? S_ISREG(st.st_mode) && st.st_size == 0 : errno == ENOENT) return CACHE_READ;
    if (!map_open(&map, path, err)) return CACHE_REFUSED;
    CacheRead result = CACHE_READ;
    if (memcmp(map.data, CACHE_MAGIC, min_size(map.bytes, sizeof CACHE_MAGIC - 1)) != 0) {
        fail(err, path, "magic", "expected a file that --cache wrote, got another, left as it is");
        result = CACHE_REFUSED;
    } else if (!cache_prove(s->engine, &map, path, err)) {
        result = CACHE_UNUSABLE;
    } else if (!cache_take(s, map.data, prompt, err)) {
        result = CACHE_REFUSED;
    }
    map_close(&map);
    return result;
}

typedef struct {
    NewFile file;
    Crc table;
    uint32_t crc;
} CacheWriter;

static bool cache_put(CacheWriter *w, const void *bytes, size_t n, Error *err) {
    w->crc = crc_update(&w->table, w->crc, bytes, n);
    return newfile_write(&w->file, bytes, n, err);
}

/* n positions of a plane; later ones in its last block, the answer's, are not for the file. */
static bool cache_put_plane(CacheWriter *w, const Session *s, size_t plane, size_t n, Error *err) {
    static const float zeros[MAX_HEAD_DIM];
    const Engine *e = s->engine;
    size_t rest = n % KV_BLOCK, keys = key_plane(e, rest), values = value_plane(e, rest);
    Blocks whole = kv_blocks(e, s->seq, plane, 0);
    Blocks last = kv_blocks(e, s->seq, plane, (uint32_t)(n - rest));
    Blocks copy = {e->attend_scratch, e->attend_scratch + keys}; /* idle now, and large enough */
    memcpy(copy.k, last.k, keys);
    memcpy(copy.v, last.v, values);
    for (uint32_t pos = (uint32_t)rest; pos > 0 && pos < KV_BLOCK; pos++)
        block_put(e, copy, pos, zeros, zeros);
    return cache_put(w, whole.k, key_plane(e, n - rest), err) && cache_put(w, copy.k, keys, err) &&
           cache_put(w, whole.v, value_plane(e, n - rest), err) &&
           cache_put(w, copy.v, values, err);
}

/* Write the first n tokens of the session. */
static bool cache_write(const Session *s, const char *path, size_t n, Error *err) {
    const Engine *e = s->engine;
    CacheHeader h = {.version = CACHE_VERSION, .key = cache_key(e), .n = n};
    CacheWriter w = {.crc = 0};
    size_t bytes;
    memcpy(h.magic, CACHE_MAGIC, sizeof h.magic);
    if (!cache_size(e, n, &bytes)) return fail(err, path, NULL, "%zu tokens are too many", n);
    h.file_bytes = bytes;
    crc_init(&w.table);
    if (!newfile_open(&w.file, path, err)) return false;
    bool ok =
        cache_put(&w, &h, sizeof h, err) && cache_put(&w, s->ids.ids, n * sizeof *s->ids.ids, err);
    for (size_t p = 0; ok && p < n_planes(e); p++) ok = cache_put_plane(&w, s, p, n, err);
    h.crc32c = w.crc;
    if (ok && newfile_pwrite(&w.file, &h, sizeof h, 0, err)) return newfile_commit(&w.file, err);
    newfile_abort(&w.file);
    return false;
}

/* ---- 9. Output ------------------------------------------------------------------------------- */

/* Text on its way out. It holds back what may still become a stop string, and the beginning of a
 * character whose end is not there yet. */
typedef struct {
    FILE *to;           /* NULL: only kept */
    const char **stops; /* (n_stops) */
    size_t n_stops;
    Buffer held;  /* not written yet */
    Buffer all;   /* everything written */
    bool stopped; /* a stop string ended it */
    Ids ids;      /* every token of the answer, the one that stopped it too */
} Output;

static void output_close(Output *o) {
    buffer_free(&o->held);
    buffer_free(&o->all);
    ids_free(&o->ids);
}

/* Write all of text[0..n) now. A signal while a pipe is full only delays it, and so does a full
 * pipe that somebody has made non-blocking. */
static bool write_now(FILE *to, const char *text, size_t n, Error *e) {
    if (fflush(to) != 0) return fail_errno(e, NULL, "writing the answer");
    struct pollfd room = {fileno(to), POLLOUT, 0};
    while (n > 0) {
        ssize_t done = write(room.fd, text, n);
        if (done > 0)
            text += done, n -= (size_t)done;
        else if (done < 0 && errno == EAGAIN)
            (void)poll(&room, 1, -1); /* whatever it says, the next write knows */
        else if (done < 0 && errno != EINTR)
            return fail_errno(e, NULL, "writing the answer");
    }
    return true;
}

/* Write text[0..n) as UTF-8: a byte that belongs to no character becomes U+FFFD. */
static bool output_text(Output *o, const char *text, size_t n, Error *e) {
    size_t written = o->all.n;
    for (size_t i = 0, len; i < n; i += len) {
        int32_t cp;
        len = (size_t)utf8_decode(text + i, n - i, &cp);
        bool ok = cp < 0 ? buffer_puts(&o->all, "\xef\xbf\xbd", e)
                         : buffer_add(&o->all, text + i, len, e);
        if (!ok) return false;
    }
    return !o->to || o->all.n == written ||
           write_now(o->to, o->all.data + written, o->all.n - written, e);
}

/* Does a stop string begin at held[i]: a whole one, or as much of one as is there? */
static bool stop_begins(const Output *o, size_t i, bool whole) {
    size_t left = o->held.n - i;
    for (size_t s = 0; s < o->n_stops; s++) {
        size_t len = strlen(o->stops[s]);
        if (len > left && whole) continue;
        if (memcmp(o->held.data + i, o->stops[s], min_size(len, left)) == 0) return true;
    }
    return false;
}

/* Where the earliest stop string begins in the held text, or, if none is whole, where a tail begins
 * that may become one. o->stopped says which of the two. */
static size_t output_stop(Output *o) {
    size_t i = 0;
    while (i < o->held.n && !stop_begins(o, i, false)) i++;
    o->stopped = i < o->held.n && stop_begins(o, i, true);
    return i;
}

/* Add a token's bytes; write what can be written. With a stop string the rest is dropped. */
static bool output_add(Output *o, const char *bytes, size_t n, Error *e) {
    if (!buffer_add(&o->held, bytes, n, e)) return false;
    size_t ready = output_stop(o);
    if (!o->stopped) ready = min_size(ready, utf8_complete(o->held.data, o->held.n));
    if (!output_text(o, o->held.data, ready, e)) return false;
    if (ready > 0) memmove(o->held.data, o->held.data + ready, o->held.n - ready);
    o->held.n = o->stopped ? 0 : o->held.n - ready;
    return true;
}

/* The answer is over: write what was held back, up to a whole stop string in it. */
static bool output_finish(Output *o, Error *e) {
    size_t n = 0;
    while (n < o->held.n && !stop_begins(o, n, true)) n++;
    bool ok = output_text(o, o->held.data, n, e);
    o->stopped = o->stopped || n < o->held.n;
    o->held.n = 0;
    return ok;
}

/* ---- 10. Generation -------------------------------------------------------------------------- */

/* The loop guard: the answer has become the same `period` tokens again and again. Three whole
 * copies of at least 96 tokens together are taken for a loop. */
#define LOOP_PERIODS 512
#define LOOP_TOKENS 96u
typedef struct {
    uint32_t run[LOOP_PERIODS + 1]; /* run[p]: latest tokens that equal the one p before them */
} LoopGuard;

/* ids[0..n) is the answer so far; called once for each of its tokens. */
static bool loop_found(LoopGuard *g, const int32_t *ids, size_t n) {
    for (uint32_t p = 1; p <= LOOP_PERIODS && p < n; p++) {
        g->run[p] = ids[n - 1] == ids[n - 1 - p] ? g->run[p] + 1 : 0;
        if (g->run[p] >= 2 * p && g->run[p] + p >= LOOP_TOKENS) return true;
    }
    return false;
}

typedef struct {
    SamplerOptions sampler;
    int64_t max_tokens; /* -1: until the model stops or the context is full */
    bool loop_guard, ignore_eos;
    /* Tokens to guess for each pass, from what was said before and with the drafter: 0: none;
     * GUESS_AUTO: as it pays. */
    int64_t lookup, draft;
    ProgressFn progress;
} GenerateOptions;
#define GUESS_AUTO (-1)

typedef enum { FINISH_STOP, FINISH_LENGTH, FINISH_LOOP, FINISH_INTERRUPT, FINISH_ERROR } Finish;
static const char *const finish_names[] = {"stop", "length", "loop", "interrupt", "error"};

typedef struct {
    size_t n_prompt, n_cached, n_generated;
    size_t n_read;                /* of the prompt, in this run */
    size_t n_decoded;             /* tokens behind the first of each answer */
    size_t n_drafted, n_accepted; /* guessed ones, and those of them that the answer has */
    double prompt_s;              /* reading the prompt */
    double first_s;               /* until the first token */
    double decode_s;              /* all after it */
    double decode_bytes;          /* weights, keys and values read for the tokens after the first */
    Finish finish;
    uint64_t hash; /* FNV-1a of the generated ids, four bytes each */
    bool not_finite;
} RunStats;

#define HASH_START 0xcbf29ce484222325u
static uint64_t hash_id(uint64_t h, int32_t id) {
    for (int i = 0; i < 4; i++) h = (h ^ (uint8_t)((uint32_t)id >> 8 * i)) * 0x100000001b3u;
    return h;
}

static bool is_eos(const Model *m, int32_t id) {
    for (uint32_t i = 0; i < m->defaults->n_eos; i++)
        if (m->defaults->eos[i] == id) return true;
    return false;
}

/* Bytes of keys and values of n positions. */
static double kv_bytes(const ModelConfig *c, bool kv_f32, size_t n) {
    double block = (double)(keys_bytes(c->head_dim, kv_f32) + values_bytes(c->head_dim, kv_f32));
    return (double)n / KV_BLOCK * c->num_hidden_layers * c->num_key_value_heads * block;
}

/* Bytes that one decoding pass reads for a token at position pos, weights aside. */
static double kv_read(const Engine *e, size_t pos) {
    return kv_bytes(e->model->config, e->options.kv_f32, pos + 1);
}

/* One answer while it is made. */
typedef struct {
    Session *session; /* NULL: closed */
    const GenerateOptions *options;
    Sampler sampler;
    LoopGuard guard;
    Output *out;
    RunStats *stats;
    double start;
    bool going;   /* there is more to come */
    int32_t next; /* the latest token, which was not fed yet */
    /* The decoding pass under way: */
    uint32_t row;               /* the first of its logits' rows that are this run's */
    uint32_t n_drafts;          /* guesses behind the latest token, at the end of session->ids */
    Record *record;             /* of guesses made this way, */
    uint8_t classes[MAX_DRAFT]; /* and where these belong in it */
    uint32_t n_picked;
    int32_t picked[1 + MAX_DRAFT]; /* what was chosen from the rows, as far as guesses were right */
    bool failed;                   /* it ended with an error; where a row is not finite: error */
    Error error;
} Run;

/* The answer's next token is id: write it and see whether it is the last. False on an error. */
static bool run_take(Run *r, int32_t id, Error *e) {
    const Session *s = r->session;
    const Model *m = s->engine->model;
    RunStats *st = r->stats;
    double now = now_seconds();
    if (st->n_generated++ == 0)
        st->first_s = now - r->start;
    else
        st->n_decoded++;
    st->decode_s = now - r->start - st->first_s;
    st->hash = hash_id(st->hash, id);
    r->next = id;
    r->going = false;
    st->finish = FINISH_STOP;
    if (!ids_add(&r->out->ids, id, e)) return false;
    if (is_eos(m, id) && !r->options->ignore_eos) return true;
    if (!tokenizer_is_special(m->tokenizer, id)) {
        size_t n;
        const char *bytes = tokenizer_bytes(m->tokenizer, id, &n);
        if (!output_add(r->out, bytes ? bytes : "", n, e)) return false;
        if (r->out->stopped) return true;
    }
    bool limit = r->options->max_tokens >= 0 && st->n_generated >= (size_t)r->options->max_tokens;
    if (limit || s->ids.n >= s->engine->options.ctx)
        st->finish = FINISH_LENGTH;
    else if (r->options->loop_guard && loop_found(&r->guard, r->out->ids.ids, r->out->ids.n))
        st->finish = FINISH_LOOP;
    else if (interrupts)
        st->finish = FINISH_INTERRUPT;
    else
        r->going = true;
    return true;
}

/* Read the prompt and take the first token. */
static bool run_prompt(Run *r, const Ids *prompt, Error *e) {
    RunStats *st = r->stats;
    Session *s = r->session;
    st->n_cached = session_rewind(s, prompt);
    Fed fed = session_feed(s, GIVEN, prompt->ids + st->n_cached, prompt->n - st->n_cached,
                           r->options->progress, e);
    st->n_read = s->ids.n - st->n_cached;
    st->prompt_s = now_seconds() - r->start;
    st->finish = fed == FED_INTERRUPTED ? FINISH_INTERRUPT : FINISH_LENGTH;
    st->not_finite = fed == FED_NOT_FINITE;
    if (fed == FED_INTERRUPTED || (fed == FED && r->options->max_tokens == 0)) return true;
    if (fed != FED) return false;
    return run_take(r, sample(&r->sampler, s->logits, s->ids.ids, s->ids.n, st->n_prompt), e);
}

static bool check_fits(const Session *s, const Ids *prompt, Error *e) {
    uint32_t ctx = s->engine->options.ctx;
    if (prompt->n == 0) return fail(e, NULL, "prompt", "is empty");
    if (prompt->n < ctx) return true;
    return fail(e, NULL, "prompt",
                "%zu tokens do not fit in the context of %u with room for an answer "
                "(-c sets it; this model knows %u positions)",
                prompt->n, ctx,
                context_limit(s->engine->model->config, s->engine->options.yarn_factor));
}

/* Begin to answer the prompt: feed what is new of it and take the first token. run_close() in any
 * case. All that is pointed to must outlive the run. */
static bool run_open(Run *r, Session *s, const Ids *prompt, const GenerateOptions *o, Output *out,
                     RunStats *st, Error *e) {
    *r = (Run){.session = s, .options = o, .out = out, .stats = st};
    *st = (RunStats){.hash = HASH_START, .finish = FINISH_ERROR, .n_prompt = prompt->n};
    if (!check_fits(s, prompt, e)) return false;
    uint32_t n_vocab = (uint32_t)tokenizer_n_tokens(s->engine->model->tokenizer);
    if (!sampler_open(&r->sampler, &o->sampler, s->engine->kernels, n_vocab, e)) return false;
    r->start = now_seconds();
    return run_prompt(r, prompt, e);
}

/* The answer is over: write what was held back of it. ok: no error so far. */
static bool run_close(Run *r, bool ok, Error *e) {
    Error second;
    Finish *finish = &r->stats->finish;
    ok = output_finish(r->out, ok ? e : &second) && ok;
    if (!ok) *finish = FINISH_ERROR;
    if (r->out->stopped && (*finish == FINISH_LENGTH || *finish == FINISH_LOOP))
        *finish = FINISH_STOP;
    sampler_close(&r->sampler);
    r->session = NULL;
    r->going = false;
    return ok;
}

/* ---- 11. Speculative decoding ---------------------------------------------------------------- */

/* Where the latest tokens stood before, in prompt or answer, other tokens followed (prompt lookup);
 * or a smaller model says what it would go on with (a draft model). A pass is fed those guesses
 * too. It reads the weights once, however many tokens there are, which is most of its time; and
 * behind every guess that turns out to be what the sampler chooses, the next token's logits are
 * there already. The other guesses are forgotten. So the answer never depends on them, nor on the
 * clock that decides how many there are: every token is chosen from the same logits by the same
 * random number. */

#define MATCH_MIN 2u
#define MATCH_MAX 16u
#define DRAFT_MIN 16u /* a drafter that can read no more than that does not begin */

/* How sure is a guess behind so many matching tokens, and one of the drafter's probability p? */
static uint8_t match_class(uint32_t match) {
    return match < 3 ? 0 : match < 4 ? 1 : match < 6 ? 2 : match < 10 ? 3 : 4;
}
static uint8_t confidence_class(float p) {
    return p < 0.3f ? 0 : p < 0.5f ? 1 : p < 0.7f ? 2 : p < 0.9f ? 3 : 4;
}

/* How often guesses of a class are right in ordinary text: counts as a record of four guesses. */
static const double first_chance[GUESS_CLASSES] = {0.25, 0.35, 0.5, 0.7, 0.85};

/* How likely is a guess of this class? */
static double record_chance(const Record *r, uint32_t class) {
    return (r->right[class] + 4 * first_chance[class]) / (r->tried[class] + 4);
}

/* How likely is one of which nothing is known yet? */
static double record_average(const Record *r) {
    double tried = 0, right = 0;
    for (uint32_t c = 0; c < GUESS_CLASSES; c++) {
        tried += r->tried[c] + 4;
        right += r->right[c] + 4 * first_chance[c];
    }
    return right / tried;
}

static void record_guess(Record *r, uint32_t class, bool right) {
    if (r->tried[class] >= 64) r->tried[class] /= 2, r->right[class] /= 2;
    r->tried[class]++;
    r->right[class] += right;
}

/* No guess was made because few were right: forget a little of that, so that it is tried again. */
static void record_fade(Record *r) {
    for (uint32_t c = 0; c < GUESS_CLASSES; c++) {
        r->tried[c] *= 1 - 1.0 / 256;
        r->right[c] *= 1 - 1.0 / 256;
    }
}

/* Where else do the last tokens of ids[0..n) stand? Takes the latest of the longest matches;
 * returns the place behind it, 0 when there is none. */
static size_t lookup_find(const int32_t *ids, size_t n, uint32_t *match) {
    size_t place = 0;
    *match = MATCH_MIN - 1;
    for (size_t i = n - 1; i-- > 0 && *match < MATCH_MAX;) {
        if (ids[i] != ids[n - 1]) continue;
        uint32_t same = 1;
        while (same < MATCH_MAX && same <= i && ids[i - same] == ids[n - 1 - same]) same++;
        if (same > *match) *match = same, place = i + 1;
    }
    return place;
}

/* Seconds of a pass of m tokens: measured, or between the two next measured ones, or beyond them:
 * as many as the next one with more tokens, or a hopeful guess from the next one with fewer. */
static double pace_seconds(const Pace *p, uint32_t m) {
    uint32_t low = m, high = m;
    while (low > 1 && p->seconds[low] == 0) low--;
    while (high < DECODE_ROWS && p->seconds[high] == 0) high++;
    double from = p->seconds[low], to = p->seconds[high];
    if (low == m) return from;
    if (from == 0) return to;
    if (to == 0) return from * (1 + 0.15 * (m - low) / low);
    return from + (to - from) * (m - low) / (high - low);
}

/* A pass for n_runs took so many seconds, for m tokens, of which `accepted` were right guesses, and
 * a drafter `drafting` seconds before it. Guesses may cost what they saved before, and 0.5 % of the
 * time. A pass that took longer than its tokens can explain was held up by something else. Costs
 * that were not measured for long are forgotten: a machine that was busy may be so no longer. */
static void pace_note(Pace *p, uint32_t n_runs, uint32_t m, uint32_t accepted, double seconds,
                      double drafting) {
    double plain = pace_seconds(p, n_runs);
    if (plain == 0) plain = seconds; /* the first pass of all */
    seconds = fmin(seconds, m == n_runs ? 2 * plain : 1.25 * plain * m / n_runs);
    p->seconds[m] += (seconds - p->seconds[m]) / (p->seconds[m] > 0 ? 8 : 1);
    if (m == n_runs) {
        p->guessed = 0;
        if (p->plain++ == 0) p->balance = plain / 2;
        for (uint32_t i = m + 1; i <= DECODE_ROWS; i++)
            if (p->seconds[i] > 0) p->seconds[i] += (p->seconds[m] - p->seconds[i]) / 128;
    } else {
        p->guessed++;
        p->balance += accepted * plain / n_runs - (seconds - plain);
    }
    p->balance = fmin(fmax(p->balance - drafting + seconds / 200, -4 * plain), 32 * plain);
}

/* A drafter begins: it may cost two passes more than other guesses, to show what it can. */
static void pace_credit(Pace *p) { p->balance += 2 * pace_seconds(p, 1); }

/* May guesses be made? Not before it is known what a pass without any costs, nor when they lost too
 * much; and a pass without keeps that fresh now and then, more often where little is to be won. */
static bool pace_allows(const Pace *p, uint32_t n_runs) {
    bool pays = p->balance > 2 * pace_seconds(p, n_runs);
    return p->plain >= 4 && p->balance > 0 && p->guessed < (pays ? 64 : 8);
}

/* What a pass is to be, while its tokens are gathered. */
typedef struct {
    bool allowed;    /* guesses may be made where their number is not set */
    uint32_t m;      /* tokens so far, with those of runs that are still to come */
    uint32_t room;   /* for guesses */
    double gain;     /* tokens that it is expected to give */
    double drafting; /* seconds that a drafter took for it */
} Outlook;

/* How many tokens to guess, up to `most`, when it takes `each` seconds to find one, and the i-th is
 * right with chance[i] if those before it are: what gives the most tokens in a second, *rate. */
static uint32_t guess_length(const Pace *p, const Outlook *o, const double *chance, uint32_t most,
                             double each, double *rate) {
    double expected = o->gain, all = 1;
    uint32_t length = 0;
    *rate = expected / (pace_seconds(p, o->m) + o->drafting);
    for (uint32_t k = 1; k <= most; k++) {
        all *= chance[k - 1];
        expected += all;
        double with = expected / (pace_seconds(p, o->m + k) + o->drafting + k * each);
        if (with > *rate) *rate = with, length = k;
    }
    return length;
}

/* The same for guesses behind `match` matching tokens, */
static uint32_t lookup_length(const Pace *p, const Outlook *o, const Record *r, uint32_t match,
                              uint32_t most, double *rate) {
    double chance[MAX_DRAFT];
    for (uint32_t i = 0; i < most; i++) chance[i] = record_chance(r, match_class(match + i));
    return guess_length(p, o, chance, most, 0, rate);
}

/* and for a drafter's, behind others that are all right with chance `so_far`. */
static uint32_t draft_length(const Pace *p, const Outlook *o, const Drafter *d, double so_far,
                             uint32_t most, double *rate) {
    double chance[MAX_DRAFT], average = record_average(&d->session.record);
    for (uint32_t i = 0; i < most; i++) chance[i] = i == 0 ? so_far * average : average;
    return guess_length(p, o, chance, most, d->pass_s, rate);
}

/* A guess is part of the pass; so_far: how likely it and all before it are right. */
static void outlook_add(Outlook *o, double so_far) {
    o->m++;
    o->room--;
    o->gain += so_far;
}

/* Prompt lookup: guess what followed the latest tokens where they stood before, unless the drafter
 * promises more, `rival` tokens a second. */
static bool run_lookup(Run *r, Outlook *o, uint32_t most, double rival, Error *err) {
    Session *s = r->session;
    uint32_t match, n = (uint32_t)min_size((size_t)r->options->lookup, most);
    double so_far = 1, rate;
    size_t from = lookup_find(s->ids.ids, s->ids.n, &match);
    if (from == 0) return true;
    if (r->options->lookup == GUESS_AUTO) {
        n = lookup_length(&s->engine->pace, o, &s->record, match, most, &rate);
        if (rate < rival) return true;
    }
    r->record = &s->record;
    for (uint32_t i = 0; i < n; i++) { /* may reach its own guesses: then they go round */
        if (!ids_add(&s->ids, s->ids.ids[from + i], err)) return false;
        r->classes[r->n_drafts++] = match_class(match + i);
        outlook_add(o, so_far *= record_chance(r->record, match_class(match + i)));
    }
    return true;
}

/* What a drafter's passes take, until they are measured: as its weights are to the model's. */
static void drafter_estimate(Drafter *d, const Run *r) {
    const Engine *big = r->session->engine;
    const RunStats *st = r->stats;
    double share = (double)d->session.engine->model->token_bytes / (double)big->model->token_bytes;
    if (d->pass_s == 0) d->pass_s = pace_seconds(&big->pace, 1) * share;
    if (d->read_s > 0) return;
    d->read_s = st->n_read > 32 ? st->prompt_s / (double)st->n_read * share : 0.15 * d->pass_s;
}

/* Seconds of a drafter's pass of n tokens. */
static double drafter_seconds(const Drafter *d, size_t n) {
    return d->pass_s + (double)(n - 1) * d->read_s;
}

/* How many tokens it may read at once: what half of what guesses have saved, or one pass of the
 * model, is worth. So it costs little where it guesses badly, however long the prompt is, and reads
 * a long one once it has shown that it guesses well. */
static size_t drafter_window(const Drafter *d, const Pace *p) {
    double budget = fmax(p->balance / 2, pace_seconds(p, 1)) - d->pass_s;
    if (d->read_s == 0) return MAX_CONTEXT;
    return 1 + (size_t)fmin(fmax(budget / d->read_s, 0), MAX_CONTEXT);
}

/* Keep what the drafter holds of the conversation ids[0..n). When that is nothing, or it lacks more
 * than the window, or its context is full, it begins anew with the latest tokens; and with all of
 * them once they fit into the window. Returns how many it lacks; 0: it may not read enough. */
static size_t drafter_follow(Drafter *d, const int32_t *ids, size_t n, size_t window) {
    Session *s = &d->session;
    size_t ctx = s->engine->options.ctx, have = 0;
    while (have < s->ids.n && d->from + have + 1 < n && s->ids.ids[have] == ids[d->from + have])
        have++;
    s->ids.n = have;
    bool whole = n <= min_size(window, ctx);
    if (have > 0) { /* then from < n */
        size_t length = n - d->from, lacks = length - have;
        if (length <= ctx && lacks <= window && (d->from == 0 || !whole)) return lacks;
    }
    if (!whole && window < DRAFT_MIN) return 0;
    d->from = whole ? 0 : n - min_size(window, (ctx + 1) / 2);
    s->ids.n = 0;
    return n - d->from;
}

/* The drafter took so many seconds for n tokens. */
static void drafter_note(Drafter *d, size_t n, double seconds, double *charged) {
    double expected = drafter_seconds(d, n);
    if (expected > 0) seconds = fmin(seconds, 4 * expected); /* longer: something held it up */
    if (n <= 4) d->pass_s += (seconds - d->pass_s) / (d->pass_s > 0 ? 4 : 1);
    if (n >= DRAFT_MIN) d->read_s = (d->read_s + seconds / (double)n) / 2;
    *charged += seconds;
    d->begun = true;
}

/* Choose from the drafter's logits what the sampler will choose if the model's own are like them:
 * by the same rules, and with the same random numbers, which `ahead` draws before it. */
static int32_t drafter_choose(const Run *r, Sampler *ahead, uint8_t *class) {
    const Session *s = r->session, *d = &s->drafter->session;
    const Kernels *k = d->engine->kernels;
    int32_t id = sample(ahead, d->logits, s->ids.ids, s->ids.n, r->stats->n_prompt);
    float max = d->logits[best_id(d->logits, ahead->n_vocab)];
    float sum = k->exp_sum(d->logits, ahead->n_vocab, max, 1);
    *class = confidence_class(d->logits[id] / sum);
    return id;
}

/* Tokens that the drafter lacks for a guess; 0: it should not make one. */
static size_t run_lacks(const Run *r) {
    const Session *s = r->session;
    Drafter *d = s->drafter;
    bool forced = r->options->draft != GUESS_AUTO;
    size_t window = forced ? PROMPT_CHUNK : drafter_window(d, &s->engine->pace);
    return drafter_follow(d, s->ids.ids, s->ids.n, window);
}

/* The drafter's next guess, if it has one. */
static bool drafter_next(Run *r, Outlook *o, Sampler *ahead, int32_t *id, uint8_t *class) {
    const Session *s = r->session;
    Drafter *d = s->drafter;
    const Engine *e = d->session.engine;
    double start = now_seconds();
    size_t n = run_lacks(r);
    if (n == 0) return false;
    Origin origin = n < DRAFT_MIN ? GENERATED : GIVEN; /* what is fastest for so many */
    Fed fed = session_feed(&d->session, origin, s->ids.ids + s->ids.n - n, n, NULL, &d->error);
    if (fed == FED) *id = drafter_choose(r, ahead, class);
    d->failed = fed == FED_NOT_FINITE || fed == FED_FAILED;
    if (!d->begun) pace_credit(&s->engine->pace);
    drafter_note(d, n, now_seconds() - start, &o->drafting);
    r->stats->decode_bytes += (double)e->model->token_bytes + kv_read(e, d->session.ids.n);
    return fed == FED;
}

/* Guess with the drafter, token by token, while one more is likely to pay; never behind an end. */
static bool run_draft(Run *r, Outlook *o, uint32_t most, Error *err) {
    Session *s = r->session;
    Drafter *d = s->drafter;
    int64_t draft = r->options->draft;
    Sampler ahead = r->sampler;
    double so_far = 1, rate;
    r->record = &d->session.record;
    while (r->n_drafts < most) {
        int32_t id = 0;
        uint8_t class = 0;
        uint32_t left = most - r->n_drafts;
        bool more = draft == GUESS_AUTO
                        ? draft_length(&s->engine->pace, o, d, so_far, left, &rate) > 0
                        : r->n_drafts < draft;
        if (!more && r->n_drafts == 0) record_fade(r->record);
        if (!more || !drafter_next(r, o, &ahead, &id, &class)) break;
        if (is_eos(s->engine->model, id) && !r->options->ignore_eos) break;
        if (!ids_add(&s->ids, id, err)) return false;
        r->classes[r->n_drafts++] = class;
        outlook_add(o, so_far *= record_chance(r->record, class));
    }
    return true;
}

/* May the drafter guess for this pass? *rate: the tokens per second that it promises, or 0. */
static bool run_may_draft(const Run *r, const Outlook *o, uint32_t most, double *rate) {
    const Session *s = r->session;
    Drafter *d = s->drafter;
    *rate = 0;
    if (!d || d->failed || r->options->draft == 0) return false;
    if (r->options->draft != GUESS_AUTO) return true;
    if (!o->allowed) return false;
    drafter_estimate(d, r);
    if (run_lacks(r) == 0) return false;
    draft_length(&s->engine->pace, o, d, 1, most, rate);
    return true;
}

/* Put guesses behind the tokens of a run's session, when they are allowed and likely to pay. */
static bool run_guess(Run *r, Outlook *o, Error *err) {
    const Session *s = r->session;
    const GenerateOptions *g = r->options;
    size_t room = min_size(min_size(o->room, MAX_DRAFT), s->engine->options.ctx - s->ids.n);
    if (g->max_tokens >= 0)
        room = min_size(room, (size_t)g->max_tokens - r->stats->n_generated - 1);
    uint32_t most = (uint32_t)room;
    double rival;
    r->n_drafts = 0;
    if (most == 0) return true;
    bool draft = run_may_draft(r, o, most, &rival);
    bool lookup = g->lookup > 0 || (g->lookup == GUESS_AUTO && o->allowed);
    if (lookup && !run_lookup(r, o, most, rival, err)) return false;
    return !draft || r->n_drafts > 0 || run_draft(r, o, most, err);
}

/* Choose the token behind a run's latest one, from its first row of the logits; and, as long as the
 * guess was that very token, those behind the guesses. */
static void pick_unit(void *ctx, uint32_t unit, uint32_t thread) {
    (void)thread;
    Run *r = ((Run **)ctx)[unit];
    const Session *s = r->session;
    Engine *e = s->engine;
    size_t n = s->ids.n - r->n_drafts;
    for (r->n_picked = 0; r->n_picked <= r->n_drafts; n++) {
        float *logits = e->logits + (r->row + r->n_picked) * logits_stride(e->model);
        r->failed = !check_finite(e, logits, n - 1, &r->error);
        if (r->failed) return;
        int32_t id = sample(&r->sampler, logits, s->ids.ids, n, r->stats->n_prompt);
        r->picked[r->n_picked++] = id;
        if (r->n_picked > r->n_drafts || id != s->ids.ids[n]) return;
    }
}

/* What the o->m tokens of a pass are: for every run its latest one and guesses. */
static bool runs_tokens(Run **runs, uint32_t n, Token *tokens, Outlook *o, Error *err) {
    const Engine *e = runs[0]->session->engine;
    uint32_t m = 0;
    *o = (Outlook){.allowed = pace_allows(&e->pace, n),
                   .m = n,
                   .room = (uint32_t)min_size(DECODE_ROWS, e->chunk) - n,
                   .gain = n};
    for (uint32_t i = 0; i < n; i++) {
        Run *r = runs[i];
        Session *s = r->session;
        size_t pos = s->ids.n;
        if (!ids_add(&s->ids, r->next, err) || !run_guess(r, o, err)) return false;
        r->row = m;
        for (; pos < s->ids.n; pos++)
            tokens[m++] = (Token){s->ids.ids[pos], s->seq, (uint32_t)pos, true};
        r->stats->n_drafted += r->n_drafts;
        r->stats->decode_bytes += (double)e->model->token_bytes / n + kv_read(e, pos - 1);
    }
    return true;
}

/* Take what was picked for a run, and forget the guesses that were wrong. */
static bool run_take_picked(Run *r, uint32_t *accepted, Error *err) {
    Session *s = r->session;
    size_t n = s->ids.n - r->n_drafts;
    for (uint32_t i = 0; i < min_size(r->n_drafts, r->n_picked); i++)
        record_guess(r->record, r->classes[i], r->picked[i] == s->ids.ids[n + i]);
    s->ids.n = n;
    r->going = r->n_picked > 0;
    for (uint32_t i = 0; i < r->n_picked && r->going; i++) {
        s->ids.n = n + i;
        if (!run_take(r, r->picked[i], err)) return false;
        if (i > 0) ++*accepted, r->stats->n_accepted++;
    }
    if (r->n_picked > 0 && !r->going) r->failed = false; /* it ended before that row */
    if (!r->failed) return true;
    *err = r->error;
    r->stats->not_finite = true;
    return r->going = false;
}

/* One decoding pass: feed the latest token of each of n runs (1 .. DECODE_ROWS, all going, of
 * sequences of one engine), with guesses at those behind it, and take the next ones. On an error
 * one of the runs is not going any more. */
static bool runs_step(Run **runs, uint32_t n, Error *err) {
    Engine *e = runs[0]->session->engine;
    Token tokens[DECODE_ROWS];
    Outlook o;
    uint32_t accepted = 0;
    if (!runs_tokens(runs, n, tokens, &o, err)) {
        runs[0]->failed = true;
        return runs[0]->going = false;
    }
    double start = now_seconds();
    forward(e, GENERATED, tokens, o.m, e->logits, NULL);
    parallel_for(e->pool, n, pick_unit, runs);
    double seconds = now_seconds() - start;
    for (uint32_t i = 0; i < n; i++)
        if (!run_take_picked(runs[i], &accepted, err)) {
            runs[i]->failed = true;
            return false;
        }
    pace_note(&e->pace, n, o.m, accepted, seconds, o.drafting);
    return true;
}

/* Answer the prompt: choose, write and feed tokens until something ends it. False on an error; the
 * statistics are filled in either way. */
static bool generate(Session *s, const Ids *prompt, const GenerateOptions *o, Output *out,
                     RunStats *st, Error *e) {
    Run r, *runs[] = {&r};
    bool ok = run_open(&r, s, prompt, o, out, st, e);
    while (ok && r.going) ok = runs_step(runs, 1, e);
    return run_close(&r, ok, e);
}

/* ============================================================================================
 * Part II: the machine
 * ============================================================================================ */

/* ---- 12. Threads ----------------------------------------------------------------------------- */

/* Each thread has a share of the units, which it takes from the front one by one; whoever is done
 * first helps the others. A call ends when all units are done: a thread that another program keeps
 * from running is not waited for, unless it has one in hand. Threads wait for the next call by
 * spinning, since the next call is microseconds away; after a while without one they sleep. Which
 * thread runs a unit never changes a result. */

#ifdef QWEN_OMP

struct Pool {
    uint32_t threads;
};

static Pool *pool_open(uint32_t threads, Error *e) {
    Pool *p = alloc_array(e, "thread pool", 1, sizeof *p);
    if (p) p->threads = threads;
    return p;
}

static void pool_close(Pool *p) { free(p); }

static void parallel_for(Pool *p, uint32_t n, UnitFn fn, void *ctx) {
    atomic_uint next = 0;
#pragma omp parallel num_threads(p->threads) if (n > 1)
    {
        uint32_t thread = (uint32_t)omp_get_thread_num();
        for (uint32_t i; (i = atomic_fetch_add(&next, 1)) < n;) fn(ctx, i, thread);
    }
}

#else

/* A thread's. Next and end are one word: one step takes a unit and tells whether there was one. */
typedef struct {
    _Alignas(64) atomic_uint_least64_t range; /* low half: first unit that nobody took; high: end */
    Pool *pool;
} Share;

struct Pool {
    uint32_t threads, n_workers; /* workers: threads but the caller, as far as they were started */
    pthread_t *workers;
    Share *shares; /* (threads) */
    UnitFn fn;
    void *ctx;
    uint32_t spins;                /* looks before a waiting thread gives up its processor */
    _Alignas(64) atomic_uint call; /* counts calls: a change starts the workers */
    _Alignas(64) atomic_uint left; /* units of the call that are not done */
    atomic_uint sleeping;
    atomic_bool quit;
    pthread_mutex_t lock;
    pthread_cond_t wake;
};

static void cpu_relax(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* Units of thread t's share, until it is empty. A worker that comes late may take units of the call
 * after the one that woke it: fn and ctx were written before those units could be taken, and stay
 * until they are done. */
static void share_run(Pool *p, uint32_t t, uint32_t thread) {
    uint32_t done = 0;
    for (;; done++) {
        uint64_t range = atomic_fetch_add_explicit(&p->shares[t].range, 1, memory_order_acquire);
        uint32_t unit = (uint32_t)range, end = (uint32_t)(range >> 32);
        if (unit >= end) break;
        p->fn(p->ctx, unit, thread);
    }
    if (done > 0) atomic_fetch_sub_explicit(&p->left, done, memory_order_release);
}

static void shares_run(Pool *p, uint32_t thread) {
    for (uint32_t i = 0; i < p->threads; i++) share_run(p, (thread + i) % p->threads, thread);
}

/* Wait until the call counter is no longer `seen`: look, then yield, then sleep. */
static void worker_wait(Pool *p, uint32_t seen) {
    for (uint32_t i = 0; i < p->spins; i++) {
        if (atomic_load_explicit(&p->call, memory_order_acquire) != seen) return;
        cpu_relax();
    }
    for (int i = 0; i < 100; i++) {
        if (atomic_load_explicit(&p->call, memory_order_acquire) != seen) return;
        sched_yield();
    }
    pthread_mutex_lock(&p->lock);
    atomic_fetch_add(&p->sleeping, 1);
    while (atomic_load(&p->call) == seen) pthread_cond_wait(&p->wake, &p->lock);
    atomic_fetch_sub(&p->sleeping, 1);
    pthread_mutex_unlock(&p->lock);
}

static void *worker_main(void *arg) {
    const Share *own = arg;
    Pool *p = own->pool;
    uint32_t thread = (uint32_t)(own - p->shares), seen = 0;
    sigset_t usual;
    hold_signals(&usual); /* they are for the caller: they must end the caller's waiting */
    for (;;) {
        worker_wait(p, seen);
        seen = atomic_load(&p->call);
        if (atomic_load(&p->quit)) return NULL;
        shares_run(p, thread);
    }
}

/* Start the call that the shares describe; sleeping workers are woken. The counter changes before
 * `sleeping` is read, and a worker counts itself as sleeping before it reads the counter: one of
 * the two sees the other. */
static void pool_start(Pool *p) {
    atomic_fetch_add(&p->call, 1);
    if (atomic_load(&p->sleeping) == 0) return;
    pthread_mutex_lock(&p->lock);
    pthread_cond_broadcast(&p->wake);
    pthread_mutex_unlock(&p->lock);
}

static void parallel_for(Pool *p, uint32_t n, UnitFn fn, void *ctx) {
    if (n <= 1 || p->n_workers == 0) {
        for (uint32_t i = 0; i < n; i++) fn(ctx, i, 0);
        return;
    }
    p->fn = fn;
    p->ctx = ctx;
    atomic_store_explicit(&p->left, n, memory_order_relaxed);
    for (uint32_t t = 0; t < p->threads; t++) {
        uint64_t begin = (uint64_t)n * t / p->threads, end = (uint64_t)n * (t + 1) / p->threads;
        atomic_store_explicit(&p->shares[t].range, end << 32 | begin, memory_order_release);
    }
    pool_start(p);
    shares_run(p, 0);
    for (uint32_t i = 0; atomic_load_explicit(&p->left, memory_order_acquire) != 0; i++)
        if (i < p->spins)
            cpu_relax();
        else
            sched_yield();
}

static void pool_close(Pool *p) {
    if (!p) return;
    atomic_store(&p->quit, true);
    pool_start(p);
    for (uint32_t i = 0; i < p->n_workers; i++) pthread_join(p->workers[i], NULL);
    pthread_cond_destroy(&p->wake);
    pthread_mutex_destroy(&p->lock);
    free(p->workers);
    free(p->shares);
    free(p);
}

static bool pool_start_workers(Pool *p, Error *e) {
    p->workers = alloc_array(e, "thread pool", p->threads, sizeof *p->workers);
    p->shares = alloc_aligned(e, "thread pool", p->threads, sizeof *p->shares);
    if (!p->workers || !p->shares) return false;
    for (uint32_t t = 1; t < p->threads; t++) {
        p->shares[t].pool = p;
        errno = pthread_create(&p->workers[t - 1], NULL, worker_main, &p->shares[t]);
        if (errno != 0)
            return fail_errno(e, NULL, "starting thread %u of %u (try a smaller -t)", t + 1,
                              p->threads);
        p->n_workers++;
    }
    return true;
}

/* A pool of `threads` threads, the caller being the first. */
static Pool *pool_open(uint32_t threads, Error *e) {
    Pool *p = alloc_aligned(e, "thread pool", 1, sizeof *p);
    if (!p) return NULL;
    p->threads = threads;
    /* about a millisecond; with more threads than processors, spinning only holds others up */
    p->spins = threads <= allowed_processors() ? 20000 : 0;
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->wake, NULL);
    if (pool_start_workers(p, e)) return p;
    pool_close(p);
    return NULL;
}

#endif

/* ---- 13. Processors, memory, signals --------------------------------------------------------- */

/* The first line of a small system file, or "". */
static void read_line(const char *path, char *line, size_t room) {
    line[0] = 0;
    FILE *f = fopen(path, "re");
    if (!f) return;
    if (!fgets(line, (int)room, f)) line[0] = 0;
    line[strcspn(line, "\n")] = 0;
    fclose(f);
}

/* Under Linux, the least that FILE says in this process's cgroup (version 2) and in those that it
 * lies in: its first number, over the second if there is one ("150000 100000"); INFINITY where none
 * has a number ("max 100000"). */
static double cgroup_limit(const char *file) {
    char record[512] = "", path[600], line[64], *slash, *end;
    double least = INFINITY;
    bool found = false;
    FILE *f = fopen("/proc/self/cgroup", "re");
    while (f && !found && fgets(record, sizeof record, f)) found = strncmp(record, "0::", 3) == 0;
    if (f) fclose(f);
    if (!found) record[3] = 0;
    char *group = record + 3; /* "/outer/inner"; "" is the root */
    group[strcspn(group, "\n")] = 0;
    do {
        snprintf(path, sizeof path, "/sys/fs/cgroup%s/%s", group, file);
        read_line(path, line, sizeof line);
        double limit = strtod(line, &end), per = strtod(end, NULL);
        if (limit > 0) least = fmin(least, per > 0 ? limit / per : limit);
        slash = strrchr(group, '/');
        if (slash) *slash = 0;
    } while (slash);
    return least;
}

/* The processors that the cgroup's quota is worth, rounded up; 0: there is none. */
static uint32_t quota_processors(void) {
    char line[64];
    double quota = cgroup_limit("cpu.max");
    if (isinf(quota)) { /* version 1 */
        read_line("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", line, sizeof line);
        quota = strtod(line, NULL);
        read_line("/sys/fs/cgroup/cpu/cpu.cfs_period_us", line, sizeof line);
        quota /= strtod(line, NULL);
    }
    return quota > 0 && quota < MAX_THREADS ? (uint32_t)ceil(quota) : 0;
}

/* The first hyper-thread of cpu's core; cpu itself where the system does not say. */
static size_t first_of_core(size_t cpu) {
    char path[96], line[64];
    snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%zu/topology/thread_siblings_list",
             cpu);
    read_line(path, line, sizeof line);
    return line[0] == 0 ? cpu : strtoul(line, NULL, 10);
}

/* How many threads to use when nobody says: the cores, not their hyper-threads, that affinity and
 * cgroup quota leave to this process. */
static uint32_t default_threads(void) {
    uint32_t n = allowed_processors(), quota = quota_processors();
#ifdef __linux__
    cpu_set_t set;
    uint32_t cores = 0;
    if (sched_getaffinity(0, sizeof set, &set) == 0)
        for (size_t cpu = 0; cpu < CPU_SETSIZE; cpu++) {
            if (!CPU_ISSET(cpu, &set)) continue;
            size_t first = first_of_core(cpu);
            cores += first == cpu || !CPU_ISSET(first, &set);
        }
    if (cores > 0) n = cores;
#endif
    if (quota > 0 && quota < n) n = quota;
    return n < MAX_THREADS ? n : MAX_THREADS;
}

/* The most memory this process has held, in MiB. */
static double peak_memory_mib(void) {
    struct rusage usage;
    if (getrusage(RUSAGE_SELF, &usage) != 0) return 0;
#ifdef __APPLE__
    return (double)usage.ru_maxrss / (1 << 20);
#else
    return (double)usage.ru_maxrss / 1024;
#endif
}

/* Bytes of memory that this process may use: the machine's, or the limit of cgroup or ulimit. */
static double allowed_memory(void) {
    char line[64];
    struct rlimit address_space;
    double bytes = (double)sysconf(_SC_PHYS_PAGES) * (double)sysconf(_SC_PAGESIZE);
    double limit = cgroup_limit("memory.max");
    if (isinf(limit)) { /* version 1 */
        read_line("/sys/fs/cgroup/memory/memory.limit_in_bytes", line, sizeof line);
        limit = strtod(line, NULL);
    }
    if (limit > 0) bytes = fmin(bytes, limit);
    if (getrlimit(RLIMIT_AS, &address_space) == 0 && address_space.rlim_cur != RLIM_INFINITY)
        bytes = fmin(bytes, (double)address_space.rlim_cur);
    return bytes;
}

/* The first asks what runs to stop, the second leaves at once. */
static void on_interrupt(int number) {
    interrupted_by = number;
    if (++interrupts >= 2) end_by_signal(number);
}

/* A page of a mapped file could not be read: it became shorter, or its disk failed. */
static void on_bus_error(int number) {
    (void)number;
    end_with_line(
        "qwen: the model or cache file changed on disk, or could not be read, while in use\n");
}

/* What a parent has ignored (nohup; a shell, of what it starts in the background) stays ignored. */
static bool handle_signal(int number, void (*handler)(int), Error *e) {
    struct sigaction old, action = {.sa_handler = handler};
    sigemptyset(&action.sa_mask);
    if (sigaction(number, NULL, &old) == 0 &&
        (old.sa_handler == SIG_IGN || sigaction(number, &action, NULL) == 0))
        return true;
    return fail_errno(e, NULL, "signal handler");
}

/* ============================================================================================
 * Part III: the program
 * ============================================================================================ */

#ifndef QWEN_NO_MAIN

/* ---- 14. Options ----------------------------------------------------------------------------- */

#define MAX_STOPS 16
#define MAX_BATCH DECODE_ROWS
#define DEFAULT_BATCH 16
#define MAX_SEED (INT64_C(1) << 53) /* a number that JSON's readers take as it is */
#define UNSET INT64_MIN /* an integer option that was not given; for reals it is NAN */

/* What the command line says. Sampling options that were not given are the model's own. */
typedef struct {
    const char *model, *prompt, *file, *system, *messages, *prompts, *stats, *bench, *perplexity,
        *kl, *cache, *draft;
    const char *stops[MAX_STOPS];
    size_t n_stops;
    bool raw, parse_special, render, tokenize, verify, ignore_eos, no_loop_guard, exact, help,
        markdown, version;
    int64_t max_tokens, ctx, threads, batch, top_k, repeat_last_n, seed, repetitions, kv, format;
    double temp, top_p, min_p, repeat_penalty, presence_penalty, frequency_penalty, yarn;
} Options;

typedef enum {
    OPT_FLAG, OPT_INT, OPT_REAL, OPT_TEXT, OPT_CHOICE, OPT_LIST, OPT_TESTS, OPT_GROUP
} OptionKind;

typedef struct {
    OptionKind kind;
    const char *name, *letter; /* letter: NULL when there is only the long name */
    const char *arg;  /* what stands for the value in the help; the choices of OPT_CHOICE */
    size_t offset;    /* of the field in Options */
    double low, high; /* range of OPT_INT and OPT_REAL */
    const char *help;
} Option;

#define AT(field) offsetof(Options, field)
/* The one list of options: the parser, --help and the README's table are made from it. */
static const Option option_table[] = {
    {.kind = OPT_GROUP,
     .name = "The prompt (without one: chat on a terminal, or the text that is piped in)"},
    {OPT_TEXT, "prompt", "p", "TEXT", AT(prompt), 0, 0,
     "answer this text and exit; with -f it follows the file's text, behind an empty line. A pipe "
     "is read only where -f - asks for it"},
    {OPT_TEXT, "file", "f", "FILE", AT(file), 0, 0,
     "answer the text of this file (- is stdin) and exit; the end of its last line is dropped"},
    {OPT_TEXT, "system", "s", "TEXT", AT(system), 0, 0,
     "system message, instead of the model's own, where a conversation does not begin with "
     "another; \"\" for an empty one"},
    {OPT_TEXT, "messages", 0, "FILE", AT(messages), 0, 0,
     "answer the conversation of this file (- is stdin): JSON, an array of messages with role and "
     "content as OpenAI's API has them, or an object with messages and tools, whose other members "
     "are ignored. The arguments of a tool call are best given as an object: a text is quoted once "
     "more, as the official template does"},
    {OPT_TEXT, "prompts", 0, "FILE", AT(prompts), 0, 0,
     "answer every line of this file (- is stdin), several at a time, each with one line of JSON "
     "in the same order. A line is a prompt; or, when the first one begins with { or [{, JSON: "
     "an array of messages, or an object with prompt (a text) or messages (and tools), or with a "
     "body that has them, as in OpenAI's batches; other members are ignored. A line that cannot "
     "be answered gets an error in its place, and the exit status is 1. Line i (from 0) has the "
     "seed of --seed plus i"},
    {OPT_FLAG, "raw", 0, 0, AT(raw), 0, 0, "feed the prompt as it is, without the chat template"},
    {OPT_FLAG, "parse-special", 0, 0, AT(parse_special), 0, 0,
     "let text that spells a special token, like <|im_end|>, become it"},
    {.kind = OPT_GROUP, .name = "The answer"},
    {OPT_INT, "max-tokens", "n", "N", AT(max_tokens), -1, MAX_CONTEXT,
     "end after N tokens; -1: when the model stops or the context is full (default -1)"},
    {OPT_LIST, "stop", 0, "TEXT", AT(stops), 0, 0,
     "end before this text; may be given up to 16 times"},
    {OPT_FLAG, "ignore-eos", 0, 0, AT(ignore_eos), 0, 0,
     "go on when the model says that it is done"},
    {OPT_FLAG, "no-loop-guard", 0, 0, AT(no_loop_guard), 0, 0,
     "go on when the answer repeats itself: three copies of the same 32 to 512 tokens, or 96 "
     "tokens of shorter ones"},
    {.kind = OPT_GROUP,
     .name = "Choosing tokens (defaults: the model's own generation_config; the order is "
             "penalties, temperature, top-k, top-p, min-p)"},
    {OPT_REAL, "temp", 0, "T", AT(temp), 0, 100,
     "divide the logits by T; 0: always the likeliest token"},
    {OPT_INT, "top-k", 0, "K", AT(top_k), 0, MAX_VOCAB, "keep the K likeliest tokens; 0: all"},
    {OPT_REAL, "top-p", 0, "P", AT(top_p), 0, 1,
     "keep the fewest tokens whose probabilities add up to P; 1: all"},
    {OPT_REAL, "min-p", 0, "P", AT(min_p), 0, 1,
     "keep tokens with at least P times the probability of the likeliest; 0: all"},
    {OPT_REAL, "repeat-penalty", 0, "R", AT(repeat_penalty), 0.01, 100,
     "divide positive logits of tokens seen in prompt or answer by R, multiply negative ones; 1: "
     "off"},
    {OPT_INT, "repeat-last-n", 0, "N", AT(repeat_last_n), -1, MAX_CONTEXT,
     "-1: Hugging Face's rule: the repeat penalty looks at the whole prompt and answer, presence "
     "and frequency at the answer (default); N: llama.cpp's: all three look at the last N tokens "
     "of prompt and answer; 0: no penalties"},
    {OPT_REAL, "presence-penalty", 0, "X", AT(presence_penalty), -100, 100,
     "subtract X from the logit of a token that occurred; 0: off"},
    {OPT_REAL, "frequency-penalty", 0, "X", AT(frequency_penalty), -100, 100,
     "subtract X for every time that the token occurred; 0: off"},
    {OPT_INT, "seed", 0, "N", AT(seed), -1, (double)MAX_SEED,
     "start of the random numbers: the same seed gives the same answer; -1: a new one each time "
     "(default)"},
    {.kind = OPT_GROUP, .name = "The machine"},
    {OPT_INT, "ctx", "c", "N", AT(ctx), 1, MAX_CONTEXT,
     "positions of the context, prompt and answer together (default: what the model knows, at most "
     "32768)"},
    {OPT_INT, "threads", "t", "N", AT(threads), 1, MAX_THREADS,
     "threads (default: the cores that this process may use)"},
    {OPT_INT, "batch", 0, "N", AT(batch), 1, MAX_BATCH,
     "lines of --prompts that are answered at the same time, each with -c positions of its own; "
     "the answers do not depend on it (default 16, or as many as fit into memory)"},
    {OPT_CHOICE, "kv", 0, "i16|f32", AT(kv), 0, 0,
     "keys and values in the cache: integers of 16 bits, with a scale for each head, or f32 "
     "(default i16)"},
    {OPT_REAL, "yarn", 0, "F", AT(yarn), 1, 1024,
     "stretch the context F times by YaRN; costs a little accuracy on short texts"},
    {OPT_FLAG, "exact", 0, 0, AT(exact), 0, 0,
     "read prompts with the arithmetic that every CPU shares, so that all give the same bytes"},
    {OPT_TEXT, "cache", 0, "FILE", AT(cache), 0, 0,
     "take the beginning of the prompt from FILE, where an earlier run left its keys and values, "
     "and leave this prompt's there; the answer is what it would be without. A damaged FILE, "
     "another model's, or one that cannot be written costs a warning"},
    {OPT_TEXT, "draft", 0, "FILE", AT(draft), 0, 0,
     "let this model.bin, a much smaller one with the same tokenizer, guess the next tokens, so "
     "that one pass of MODEL can check several; the answer is what it would be without, and comes "
     "faster where enough of them are right"},
    {.kind = OPT_GROUP, .name = "Instead of answering"},
    {OPT_FLAG, "render", 0, 0, AT(render), 0, 0,
     "print the prompt that the model would get, and its ids"},
    {OPT_FLAG, "tokenize", 0, 0, AT(tokenize), 0, 0, "print the ids of the prompt's text"},
    {OPT_FLAG, "verify", 0, 0, AT(verify), 0, 0,
     "compare every tensor of the file with its checksum"},
    {OPT_TESTS, "bench", 0, "[TESTS]", AT(bench), 0, 0,
     "measure speed: pp512 reads 512 tokens, tg128 generates 128, tg128@4096 does so behind 4096 "
     "others, b16 generates 32 in each of 16 sequences at once (tokens/s of all together); "
     "separated by commas (default pp512,tg128)"},
    {OPT_INT, "repetitions", "r", "N", AT(repetitions), 1, 1000, "runs of each test (default 5)"},
    {OPT_CHOICE, "format", 0, "table|csv|json", AT(format), 0, 0,
     "how the tests are printed (default table)"},
    {OPT_TEXT, "perplexity", 0, "FILE", AT(perplexity), 0, 0,
     "how well the model predicts this text, in windows of -c tokens (default 512), the first half "
     "of each but the first being only context; --parse-special for a text in the chat template"},
    {OPT_TEXT, "kl", 0, "REFERENCE", AT(kl), 0, 0,
     "with --perplexity: how far the model's probabilities are from those of this model.bin, such "
     "as the same weights in f32"},
    {.kind = OPT_GROUP, .name = "Other"},
    {OPT_TEXT, "stats", 0, "FILE", AT(stats), 0, 0,
     "write what the run was and took as one line of JSON"},
    {OPT_FLAG, "help", "h", 0, AT(help), 0, 0, "print this"},
    {OPT_FLAG, "help-markdown", 0, 0, AT(markdown), 0, 0,
     "print the options as a table for the README"},
    {OPT_FLAG, "version", 0, 0, AT(version), 0, 0,
     "print the version and the instruction sets found"},
};
#define N_OPTIONS (sizeof option_table / sizeof option_table[0])

static void option_left(const Option *o, char *text, size_t room) {
    snprintf(text, room, "%s%s%s--%s%s%s", o->letter ? "-" : "", o->letter ? o->letter : "",
             o->letter ? ", " : "", o->name, o->arg ? " " : "", o->arg ? o->arg : "");
}

static void option_range(const Option *o, char *text, size_t room) {
    text[0] = 0;
    if (o->kind == OPT_INT || o->kind == OPT_REAL)
        snprintf(text, room, " [%.16g to %.16g]", o->low, o->high);
}

/* Print text behind a margin, broken at spaces. */
static void print_wrapped(const char *text, size_t margin) {
    size_t column = margin;
    while (*text) {
        size_t len = strcspn(text, " ");
        if (column + 1 + len > 80 && column > margin) {
            printf("\n%*s", (int)margin, "");
            column = margin;
        } else if (column > margin) {
            putchar(' ');
            column++;
        }
        printf("%.*s", (int)len, text);
        text += len;
        column += len;
        if (*text) text++; /* the space */
    }
    putchar('\n');
}

static void print_help(void) {
    printf(
        "qwen.c %s: Qwen2.5 on a CPU\n\n"
        "  ./qwen MODEL                     chat on a terminal\n"
        "  echo TEXT | ./qwen MODEL         answer a pipe: stdout gets the answer alone\n"
        "  ./qwen MODEL -p TEXT             answer TEXT\n\n",
        QWEN_VERSION);
    print_wrapped("MODEL is a model.bin made by ./convert/convert. Exit status: 0, 1 bad file or "
                  "system, 2 wrong command line, 3 numbers that are not finite, 130 after ^C. "
                  "QWEN_ISA=NAME forces an instruction set of those that --version lists; "
                  "QWEN_LOOKUP=N guesses N tokens of each pass from what was said before (0: none) "
                  "instead of as many as pay, QWEN_DRAFT=N those of --draft. The answer is the "
                  "same either way.",
                  0);
    for (size_t i = 0; i < N_OPTIONS; i++) {
        const Option *o = &option_table[i];
        char left[64], range[64], help[640];
        if (o->kind == OPT_GROUP) {
            printf("\n");
            print_wrapped(o->name, 0);
            continue;
        }
        option_left(o, left, sizeof left);
        option_range(o, range, sizeof range);
        snprintf(help, sizeof help, "%s%s", o->help, range);
        printf("  %-27s ", left);
        print_wrapped(help, 30);
    }
}

static void print_help_markdown(void) {
    printf("| option | what it does | range |\n|---|---|---|\n");
    for (size_t i = 0; i < N_OPTIONS; i++) {
        const Option *o = &option_table[i];
        char left[64], range[64];
        if (o->kind == OPT_GROUP) {
            printf("| **%s** | | |\n", o->name);
            continue;
        }
        option_left(o, left, sizeof left);
        option_range(o, range, sizeof range);
        printf("| `");
        for (const char *c = left; *c; c++) printf(*c == '|' ? "\\|" : "%c", *c);
        printf("` | ");
        for (const char *c = o->help; *c; c++) printf(*c == '|' ? "\\|" : "%c", *c);
        size_t n = strlen(range);
        printf(" | %.*s |\n", n > 3 ? (int)n - 3 : 0, n > 3 ? range + 2 : "");
    }
}

/* Which choice of "a|b|c" is text? -1: none. */
static int64_t choice_index(const char *choices, const char *text) {
    int64_t index = 0;
    for (const char *c = choices;; index++) {
        size_t len = strcspn(c, "|");
        if (strlen(text) == len && memcmp(c, text, len) == 0) return index;
        if (c[len] == 0) return -1;
        c += len + 1;
    }
}

static bool is_test_list(const char *text) {
    size_t n = strncmp(text, "pp", 2) == 0 || strncmp(text, "tg", 2) == 0 ? 2 : text[0] == 'b';
    return n > 0 && text[n] >= '0' && text[n] <= '9' && text[strspn(text, "0123456789@,bgpt")] == 0;
}

/* What other programs call things, and what there is of them here. */
static const struct {
    const char *names, *here;
} other_names[] = {
    {"-m|--model", "MODEL stands by itself"},
    {"--n-predict|--predict", "here it is -n"},
    {"--ctx-size", "here it is -c"},
    {"--temperature", "here it is --temp"},
    {"--top_k", "here it is --top-k"},
    {"--top_p", "here it is --top-p"},
    {"-sys|--system-prompt", "here it is -s"},
    {"-e|--escape", "texts are taken as they are; bash writes a new line as $'\\n'"},
    {"-d", "--bench tg128@4096 generates behind 4096 tokens"},
    {"-o", "here it is --format"},
    {"-ngl|--n-gpu-layers", "there is no GPU here"},
    {"-no-cnv|--no-cnv|--no-conversation", "-p answers once, --raw without the chat template"},
    {"-i|-cnv|--interactive|--conversation", "without a prompt it is a chat"},
};

static const Option *option_find(const char *word) {
    for (size_t i = 0; i < N_OPTIONS; i++) {
        const Option *o = &option_table[i];
        if (o->kind == OPT_GROUP || word[0] != '-') continue;
        if (word[1] == '-' ? strcmp(word + 2, o->name) == 0
                           : o->letter && strcmp(word + 1, o->letter) == 0)
            return o;
    }
    return NULL;
}

/* The word is no option: tell what it may stand for. */
static bool no_option(const char *word, Error *e) {
    char name[32];
    size_t n = strcspn(word, "=");
    const char *hint = "--help lists them";
    snprintf(name, sizeof name, "%.*s", (int)min_size(n, sizeof name - 1), word);
    for (size_t i = 0; i < sizeof other_names / sizeof *other_names; i++)
        if (choice_index(other_names[i].names, name) >= 0) hint = other_names[i].here;
    return fail(e, NULL, word, "no such option (%s)%s", hint,
                word[n] ? "; values stand behind a space" : "");
}

/* Store the value of an option; `word` is the option as the user wrote it. */
static bool option_store(const Option *o, const char *word, const char *value, Options *to,
                         Error *e) {
    void *field = (char *)to + o->offset;
    switch (o->kind) {
    case OPT_INT:
        if (parse_int(value, (int64_t)o->low, (int64_t)o->high, field)) return true;
        return fail(e, NULL, word, "expected a whole number from %.16g to %.16g, got \"%s\"",
                    o->low, o->high, value);
    case OPT_REAL:
        if (parse_real(value, o->low, o->high, field)) return true;
        return fail(e, NULL, word, "expected a number from %g to %g, got \"%s\"", o->low, o->high,
                    value);
    case OPT_CHOICE:
        *(int64_t *)field = choice_index(o->arg, value);
        if (*(int64_t *)field >= 0) return true;
        return fail(e, NULL, word, "expected %s, got \"%s\"", o->arg, value);
    case OPT_LIST:
        if (value[0] == 0) return fail(e, NULL, word, "is empty");
        if (to->n_stops == MAX_STOPS)
            return fail(e, NULL, word, "given more than %d times", MAX_STOPS);
        to->stops[to->n_stops++] = value;
        return true;
    default: *(const char **)field = value; return true;
    }
}

static void options_unset(Options *to) {
    *to = (Options){0};
    for (size_t i = 0; i < N_OPTIONS; i++) {
        void *field = (char *)to + option_table[i].offset;
        if (option_table[i].kind == OPT_INT) *(int64_t *)field = UNSET;
        if (option_table[i].kind == OPT_REAL) *(double *)field = NAN;
    }
}

static bool options_parse(int argc, char **argv, Options *to, Error *e) {
    bool seen[N_OPTIONS] = {false}, names_follow = false;
    options_unset(to);
    for (int i = 1; i < argc; i++) {
        const char *word = argv[i];
        if (!names_follow && strcmp(word, "--") == 0) {
            names_follow = true;
            continue;
        }
        if (names_follow || word[0] != '-' || word[1] == 0) {
            if (to->model) return fail(e, NULL, word,
                                       "a second model, after %s (-p TEXT asks the model; tests of "
                                       "--bench look like pp512,tg128)",
                                       to->model);
            to->model = word;
            continue;
        }
        const Option *o = option_find(word);
        if (!o) return no_option(word, e);
        if (seen[o - option_table] && o->kind != OPT_LIST)
            return fail(e, NULL, word, "given twice");
        seen[o - option_table] = true;
        if (o->kind == OPT_FLAG) {
            *(bool *)((char *)to + o->offset) = true;
        } else if (o->kind == OPT_TESTS) {
            to->bench = i + 1 < argc && is_test_list(argv[i + 1]) ? argv[++i] : "pp512,tg128";
        } else {
            if (i + 1 == argc) return fail(e, NULL, word, "expected %s after it", o->arg);
            if (!option_store(o, word, argv[++i], to, e)) return false;
        }
    }
    return true;
}

/* To write to: - is stdin where files are read. */
static bool is_file_name(const char *text) { return text[0] && strcmp(text, "-") != 0; }

/* Options that contradict each other. */
static bool options_check(const Options *o, Error *e) {
    if (!o->model || o->model[0] == 0)
        return fail(e, NULL, NULL, "expected a model: ./qwen MODEL (--help tells more)");
    int prompts = (o->prompt || o->file) + (o->messages != NULL) + (o->prompts != NULL);
    if (prompts > 1)
        return fail(e, NULL, NULL,
                    "expected one of these: --prompt and --file, --messages, --prompts");
    int modes = o->render + o->tokenize + o->verify + (o->bench != NULL) + (o->perplexity != NULL);
    if (modes > 1)
        return fail(e, NULL, NULL,
                    "expected one of --render, --tokenize, --verify, --bench and --perplexity");
    if (o->bench && (prompts > 0 || o->max_tokens != UNSET))
        return fail(e, NULL, "--bench",
                    "expected tests instead of a prompt or -n: pp512 reads 512 tokens, tg256 "
                    "generates 256");
    if (prompts > 0 && modes > o->render + o->tokenize)
        return fail(e, NULL, NULL, "--verify and --perplexity read no prompt");
    const char *of_answers = o->max_tokens != UNSET ? "--max-tokens"
                             : o->cache             ? "--cache"
                             : o->stats             ? "--stats"
                             : o->draft             ? "--draft"
                                                    : NULL;
    if (of_answers && modes > 0) return fail(e, NULL, of_answers, "goes with a prompt to answer");
    if (o->cache && !is_file_name(o->cache))
        return fail(e, NULL, "--cache", "expected a file name, got \"%s\"", o->cache);
    if (o->stats && !is_file_name(o->stats))
        return fail(e, NULL, "--stats", "expected a file name, got \"%s\"", o->stats);
    if (!o->bench && (o->repetitions != UNSET || o->format != 0))
        return fail(e, NULL, o->format != 0 ? "--format" : "--repetitions", "goes with --bench");
    if (o->kl && !o->perplexity) return fail(e, NULL, "--kl", "goes with --perplexity");
    if (o->perplexity && o->ctx == 1)
        return fail(e, NULL, "--ctx", "--perplexity needs windows of 2 tokens at least, got 1");
    if (o->prompts && modes > 0)
        return fail(e, NULL, "--prompts", "its lines are answered; nothing else is done with them");
    if (o->prompts && o->cache) return fail(e, NULL, "--cache", "keeps one prompt, not --prompts");
    if (o->stats && o->cache && strcmp(o->stats, o->cache) == 0)
        return fail(e, NULL, "--stats", "expected another file than that of --cache");
    if (o->draft && o->prompts)
        return fail(e, NULL, "--draft", "guesses for one answer at a time, not for --prompts");
    if (o->batch != UNSET && !o->prompts)
        return fail(e, NULL, "--batch", "expected --prompts FILE beside it");
    if (o->raw && (o->system || o->messages))
        return fail(e, NULL, "--raw", "leaves no place for a system message or a conversation");
    return true;
}

/* A seed that nobody chose, small enough to be written by hand. */
static int64_t new_seed(void) {
    uint32_t seed = 0;
    FILE *f = fopen("/dev/urandom", "rbe");
    if (f) {
        if (fread(&seed, sizeof seed, 1, f) != 1) seed = 0;
        fclose(f);
    }
    return seed ? (int64_t)seed : (int64_t)(now_seconds() * 1e6) & 0xffffffff;
}

/* The value of an option; `usual` where it was not given. */
static int64_t int_or(int64_t given, int64_t usual) { return given != UNSET ? given : usual; }
static double real_or(double given, float usual) { return isnan(given) ? (double)usual : given; }

static SamplerOptions sampler_options(const Options *o, const ModelHeader *h) {
    const ModelDefaults *d = &h->defaults;
    return (SamplerOptions){
        .temperature = real_or(o->temp, d->do_sample ? d->temperature : 0),
        .top_k = int_or(o->top_k, d->top_k),
        .top_p = real_or(o->top_p, d->top_p),
        .min_p = real_or(o->min_p, h->min_p),
        .repeat_penalty = real_or(o->repeat_penalty, d->repetition_penalty),
        .repeat_last_n = int_or(o->repeat_last_n, -1),
        .presence_penalty = real_or(o->presence_penalty, 0),
        .frequency_penalty = real_or(o->frequency_penalty, 0),
        .seed = (uint64_t)(o->seed >= 0 ? o->seed : new_seed()),
    };
}

/* A variable of the environment; NULL if it is empty or not there. */
static const char *environment(const char *name) {
    const char *text = getenv(name);
    return text && *text ? text : NULL;
}

static bool check_context(const Model *m, float yarn, int64_t ctx, Error *e) {
    uint32_t limit = context_limit(m->config, yarn);
    return ctx <= limit ||
           fail(e, m->path, "context",
                "this model knows %u positions, got -c %" PRId64 " (--yarn stretches it)", limit,
                ctx);
}

static bool engine_options(const Options *o, const Model *m, EngineOptions *to, Error *e) {
    float yarn = (float)real_or(o->yarn, 0);
    size_t usual = min_size(o->perplexity ? 512 : 32768, context_limit(m->config, yarn));
    int64_t ctx = int_or(o->ctx, (int64_t)usual);
    if (!check_context(m, yarn, ctx, e)) return false;
    *to = (EngineOptions){.threads = o->threads != UNSET ? (uint32_t)o->threads : default_threads(),
                          .ctx = (uint32_t)ctx,
                          .n_seq = 1,
                          .kv_f32 = o->kv == 1,
                          .exact = o->exact,
                          .yarn_factor = yarn,
                          .isa = environment("QWEN_ISA")};
    return true;
}

/* Have as many sequences as --prompts asks for, but no more than there are prompts. Their keys and
 * values may take the memory that the weights leave. */
static bool batch_size(const Options *o, const Model *m, size_t n_prompts, EngineOptions *to,
                       Error *e) {
    if (!o->prompts) return true;
    double each = kv_bytes(m->config, to->kv_f32, round_up(to->ctx, KV_BLOCK));
    double room = allowed_memory() - (double)m->file.map.bytes;
    uint32_t n = (uint32_t)int_or(o->batch, DEFAULT_BATCH);
    if (n > n_prompts) n = (uint32_t)n_prompts;
    /* Roughly what is needed beside these: the program and its scratch, a stack and scratch for
     * each thread, logits and a sampler for each sequence. */
    double beside = 256e6 + 8e6 * to->threads, own = 28.0 * m->config->vocab_size;
    while (n > 1 && o->batch == UNSET && beside + n * (each + own) > room) n--;
    to->n_seq = n;
    if (n == 1 || n * each <= room) return true;
    return fail(e, m->path, "--batch",
                "%u sequences of %u positions need %.2f GB for keys and values, and %.2f GB of "
                "memory are left beside the weights (a smaller --batch or -c needs less)",
                n, to->ctx, n * each * 1e-9, fmax(room, 0) * 1e-9);
}

/* ---- 15. One prompt, and statistics ---------------------------------------------------------- */

/* A test of --bench, with llama-bench's meaning: pp reads n tokens of a prompt (logits of the last
 * only), tg generates n one by one without choosing among them, b does so for several sequences at
 * once; all behind `depth` cached tokens. Ids are random. */
typedef struct {
    bool generate;
    uint32_t n, depth; /* tokens of each sequence */
    uint32_t n_seq;
    char name[32];
    double low, median, high; /* tokens/s */
    /* What bounds the test. Generating: GB/s read, and by a plain read loop over the same memory.
     * A prompt: 10^12 operations/s of the weights' products, and of the instructions for them. */
    double rate, limit;
    double share; /* median of one over the other, pair by pair */
} BenchTest;
#define MAX_TESTS 32

/* Everything that one run of the program holds open. */
typedef struct {
    Options options;
    Model model;
    Engine engine;
    Session session;
    GenerateOptions generate;
    Buffer text;      /* the prompt's text, or that of all prompts, where there is one */
    size_t n_prompts; /* lines of --prompts */
    BenchTest tests[MAX_TESTS];
    size_t n_tests;
    bool not_finite; /* --bench met numbers that are not */
    double load_s;
    Model draft_model; /* --draft */
    Engine draft_engine;
    Drafter drafter;
} Program;

/* The sampling options in force: after the command line, and after /set. */
static void program_sampling(Program *p) {
    p->generate.sampler = sampler_options(&p->options, p->model.file.header);
    p->generate.max_tokens = int_or(p->options.max_tokens, -1);
}

/* Not for what is read in a moment, nor where the line would wrap. */
static void progress_line(size_t done, size_t n, double seconds) {
    struct winsize size;
    if (seconds < 0.25) return;
    bool known = ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0;
    if (known && size.ws_col <= 70) return;
    if (done < n)
        fprintf(stderr, "\rreading the prompt: %zu of %zu tokens, %.0f tokens/s ", done, n,
                (double)done / seconds);
    else
        fprintf(stderr, "\r%70s\r", "");
    fflush(stderr);
}

static void drop_line_end(Buffer *text) {
    if (text->n == 0 || text->data[text->n - 1] != '\n') return;
    text->n -= text->n > 1 && text->data[text->n - 2] == '\r' ? 2 : 1;
    text->data[text->n] = 0;
}

/* For messages: what -f, --messages or --prompts names. */
static const char *input_name(const char *file) { return strcmp(file, "-") == 0 ? "stdin" : file; }

static bool is_blank(const char *text, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (!strchr(" \t\r\n", text[i]) || text[i] == 0) return false;
    return true;
}

/* Blanks alone are no question; --raw and --tokenize take them as they are. */
static bool is_no_prompt(const Options *o, const char *text, size_t n) {
    return n == 0 || (!o->raw && !o->tokenize && is_blank(text, n));
}

/* Read the text of -f, --messages, --prompts, --perplexity or stdin before the model is opened:
 * while a pipe is waited for, ^C ends the program. -p stands alone, or behind the text of -f.
 * Returns an exit status. */
static int read_prompt(const Options *o, Buffer *text, Error *e) {
    const char *file = o->prompts      ? o->prompts
                       : o->messages   ? o->messages
                       : o->perplexity ? o->perplexity
                       : o->file       ? o->file
                       : o->prompt     ? NULL
                                       : "-";
    size_t mib = o->prompts ? 1024 : o->perplexity ? 256 : o->messages ? 64 : 16;
    if (file && !read_file(file, mib << 20, text, e)) return 1;
    if (file && !o->perplexity) {
        drop_byte_order_mark(text);
        drop_line_end(text);
    }
    bool empty = false; /* lines of --prompts are looked at one by one */
    if (file && !o->messages && !o->perplexity)
        empty = o->prompts ? text->n == 0 : is_no_prompt(o, text->data, text->n);
    if (empty || (o->prompt && is_no_prompt(o, o->prompt, strlen(o->prompt)))) {
        fail(e, empty ? input_name(file) : NULL, "prompt", "is empty");
        return 2;
    }
    if (!o->prompt) return 0;
    return (!file || buffer_puts(text, "\n\n", e)) && buffer_puts(text, o->prompt, e) ? 0 : 1;
}

/* The messages of a conversation, an array or an object with messages and tools. NULL: none. */
static const Json *conversation_messages(const Json *root, const Json **tools) {
    *tools = json_get(root, "tools");
    return root->kind == JSON_OBJECT ? json_get(root, "messages") : root;
}

/* Qwen2.5's template leaves out messages of other roles without a word. */
static bool check_roles(const Program *p, const Json *messages, const char *file, Error *e) {
    static const char *const known[] = {"system", "user", "assistant", "tool"};
    size_t index = 0;
    if (p->model.chat.family != CHAT_QWEN25) return true;
    for (const Json *m = messages->child; m; m = m->next, index++) {
        const Json *role = json_get(m, "role");
        bool ok = !role || role->kind != JSON_STRING; /* chat_render tells of those */
        for (size_t i = 0; i < sizeof known / sizeof *known; i++)
            ok = ok || json_is(role, known[i]);
        if (ok) continue;
        char field[64], shown[64];
        snprintf(field, sizeof field, "messages[%zu].role", index);
        printable(shown, sizeof shown, role->string, role->string_len);
        return fail(e, file, field, "expected system, user, assistant or tool, got \"%s\"", shown);
    }
    return true;
}

/* OpenAI's newer name of the system, which no template knows, becomes the old one. */
static void rename_developers(const Json *messages) {
    for (const Json *m = messages->child; m; m = m->next) {
        Json *role = (Json *)json_get(m, "role"); /* the tree is the caller's alone */
        if (json_is(role, "developer")) role->string = "system", role->string_len = 6;
    }
}

/* With `answer` the prompt ends where an answer begins; without, it is a chat's, without tools. */
static bool render_conversation(const Program *p, const Json *root, bool answer, const char *file,
                                ChatPrompt *out, Error *e) {
    const Json *tools, *messages = conversation_messages(root, &tools);
    if (!messages) return fail(e, file, "messages", "expected an array, got nothing");
    if (!answer && tools && tools->n > 0)
        return fail(e, file, "tools", "expected none, a chat has only messages");
    rename_developers(messages);
    if (!check_roles(p, messages, file, e)) return false;
    return chat_render(&p->model.chat, p->model.tokenizer, messages, answer ? tools : NULL, answer,
                       p->options.parse_special, file, out, e);
}

/* --messages */
static bool render_messages(const Program *p, ChatPrompt *out, Error *e) {
    const char *file = input_name(p->options.messages);
    JsonDoc *doc = json_parse(p->text.data, p->text.n, file, e);
    bool ok = doc && render_conversation(p, json_root(doc), true, file, out, e);
    json_free(doc);
    return ok;
}

static bool render_turn(const Program *p, const char *role, const char *text, size_t n,
                        ChatPrompt *out, Error *e) {
    return chat_turn(&p->model.chat, p->model.tokenizer, role, text, n, p->options.parse_special,
                     out, e);
}

/* The system message of a conversation that does not begin with one. */
static bool render_default_system(const Program *p, ChatPrompt *out, Error *e) {
    const ChatTemplate *t = &p->model.chat;
    return !t->has_default_system ||
           render_turn(p, "system", t->default_system, t->default_system_len, out, e);
}

static bool check_template(const Program *p, Error *e) {
    return p->model.chat.family != CHAT_NONE ||
           fail(e, p->model.path, "template",
                "this model has none (--raw feeds the text as it is)");
}

/* text[0..n) as the user's words, or as it is. */
static bool render_text(const Program *p, const char *text, size_t n, ChatPrompt *out, Error *e) {
    const Options *o = &p->options;
    if (o->raw || o->tokenize)
        return buffer_add(&out->text, text, n, e) &&
               tokenizer_encode(p->model.tokenizer, text, n, o->parse_special, &out->ids, e);
    return check_template(p, e) && render_default_system(p, out, e) &&
           render_turn(p, "user", text, n, out, e) &&
           chat_open_reply(&p->model.chat, p->model.tokenizer, out, e);
}

/* The prompt that the options describe, as ids. */
static bool build_prompt(const Program *p, ChatPrompt *out, Error *e) {
    if (p->options.messages) return render_messages(p, out, e);
    return render_text(p, p->text.data, p->text.n, out, e);
}

static double per_second(double n, double seconds) { return seconds > 0 ? n / seconds : 0; }

/* Tokens/s of reading the prompt, of generating, and GB/s of the latter. */
typedef struct {
    double prompt, decode, gb;
} Rates;

static Rates run_rates(const RunStats *st) {
    return (Rates){per_second((double)st->n_read, st->prompt_s),
                   per_second((double)st->n_decoded, st->decode_s),
                   per_second(st->decode_bytes * 1e-9, st->decode_s)};
}

/* The statistics line on stderr; its grammar is fixed. */
static void print_stats(const Program *p, const RunStats *st) {
    Rates r = run_rates(st);
    fprintf(stderr,
            "prompt %zu tokens (%zu cached) %.1f tokens/s | answer %zu tokens (%zu drafted, %zu "
            "accepted) %.1f tokens/s %.1f GB/s | load %.0f ms | first token %.0f ms | %s %u "
            "threads | seed %" PRIu64 " | %s | %016" PRIx64 "\n",
            st->n_prompt, st->n_cached, r.prompt, st->n_generated, st->n_drafted, st->n_accepted,
            r.decode, r.gb, p->load_s * 1e3, st->first_s * 1e3, p->engine.kernels->name,
            p->engine.options.threads, p->generate.sampler.seed, finish_names[st->finish],
            st->hash);
}

/* The bytes of a buffer that may be empty. */
static const char *buffer_text(const Buffer *b) { return b->data ? b->data : ""; }

/* JSON is UTF-8; what a user typed, or called a file, need not be. */
static bool quote_any(Buffer *b, const char *text, size_t n, Error *e) {
    Output clean = {0};
    bool ok = output_text(&clean, text, n, e) &&
              json_quote(b, buffer_text(&clean.all), clean.all.n, e);
    output_close(&clean);
    return ok;
}

static bool quote_name(Buffer *b, const char *name, Error *e) {
    return quote_any(b, name, strlen(name), e);
}

static bool stats_json(const Program *p, const RunStats *st, Buffer *b, Error *e) {
    const ModelHeader *h = p->model.file.header;
    const SamplerOptions *s = &p->generate.sampler;
    Rates r = run_rates(st);
    return buffer_puts(b, "{\"model\":", e) && quote_name(b, p->model.path, e) &&
           buffer_puts(b, ",\"name\":", e) && json_quote(b, h->name, strlen(h->name), e) &&
           buffer_puts(b, ",\"quant\":", e) && json_quote(b, h->quant, strlen(h->quant), e) &&
           buffer_puts(b, ",\"draft\":", e) &&
           (p->options.draft ? quote_name(b, p->options.draft, e) : buffer_puts(b, "null", e)) &&
           buffer_printf(
               b, e,
               ",\"isa\":\"%s\",\"threads\":%u,\"context\":%u,\"kv\":\"%s\",\"exact\":%s,"
               "\"seed\":%" PRIu64 ",\"sampler\":{\"temperature\":%.7g,\"top_k\":%" PRId64
               ",\"top_p\":%.7g,\"min_p\":%.7g,\"repeat_penalty\":%.7g,\"repeat_last_n\":%" PRId64
               ",\"presence_penalty\":%.7g,\"frequency_penalty\":%.7g}",
               p->engine.kernels->name, p->engine.options.threads, p->engine.options.ctx,
               kv_name(p->engine.options.kv_f32), p->options.exact ? "true" : "false", s->seed,
               s->temperature, s->top_k, s->top_p, s->min_p, s->repeat_penalty, s->repeat_last_n,
               s->presence_penalty, s->frequency_penalty) &&
           buffer_printf(b, e,
                         ",\"prompt_tokens\":%zu,\"cached_tokens\":%zu,\"generated_tokens\":%zu,"
                         "\"drafted_tokens\":%zu,\"accepted_tokens\":%zu,"
                         "\"load_ms\":%.3f,\"first_token_ms\":%.3f,\"prompt_tokens_s\":%.3f,"
                         "\"decode_tokens_s\":%.3f,\"gb_s\":%.3f,\"peak_memory_mib\":%.1f,"
                         "\"finish\":\"%s\",\"hash\":\"%016" PRIx64 "\"}\n",
                         st->n_prompt, st->n_cached, st->n_generated, st->n_drafted, st->n_accepted,
                         p->load_s * 1e3, st->first_s * 1e3, r.prompt, r.decode, r.gb,
                         peak_memory_mib(), finish_names[st->finish], st->hash);
}

/* The stream that goes to this file already, as to /dev/stdout; NULL when none does. */
static FILE *standard_stream(const char *path) {
    FILE *const streams[] = {stdout, stderr};
    struct stat file, st;
    if (stat(path, &file) != 0) return NULL;
    for (size_t i = 0; i < 2; i++)
        if (fstat(fileno(streams[i]), &st) == 0 && st.st_dev == file.st_dev &&
            st.st_ino == file.st_ino)
            return streams[i];
    return NULL;
}

/* Write b to a regular file so that it is absent or complete, or straight into what is no regular
 * file, like a pipe, or holds what this program has printed. */
static bool write_whole(const char *path, const Buffer *b, Error *e) {
    struct stat st;
    FILE *standard = standard_stream(path), *to = standard;
    if (!standard && stat(path, &st) == 0 && !S_ISREG(st.st_mode)) {
        to = fopen(path, "we");
        if (!to) return fail_errno(e, path, "opening");
    }
    if (to) {
        bool ok = fwrite(b->data, 1, b->n, to) == b->n && fflush(to) == 0;
        if (to != standard) ok = fclose(to) == 0 && ok;
        return ok || fail_errno(e, path, "writing");
    }
    NewFile f;
    if (!newfile_open(&f, path, e)) return false;
    if (newfile_write(&f, b->data, b->n, e)) return newfile_commit(&f, e);
    newfile_abort(&f);
    return false;
}

static bool check_stats_file(const char *path, Error *e) {
    return standard_stream(path) || may_replace(path, "{\"model\":", e);
}

static bool write_stats(const Program *p, const RunStats *st, Error *e) {
    if (!p->options.stats) return true;
    Buffer b = {0};
    /* asked again: --cache may have written there */
    bool ok = check_stats_file(p->options.stats, e) && stats_json(p, st, &b, e) &&
              write_whole(p->options.stats, &b, e);
    buffer_free(&b);
    return ok;
}

/* Exit status of a run that failed or not. (^C also ends whoever reads the output: that a write
 * then fails is no error of its own.) */
static int run_status(bool ok, const RunStats *st) {
    if (!ok) return st->not_finite ? 3 : interrupts ? 130 : 1;
    return st->finish == FINISH_INTERRUPT ? 130 : 0;
}

/* Print an error on the one line it deserves. */
static int complain(const Error *e, int status) {
    fprintf(stderr, "qwen: %s\n", e->text);
    return status;
}

/* Begin the session with what --cache has of the prompt. */
static bool take_cached(Program *p, const Ids *prompt, Error *e) {
    if (!p->options.cache) return true;
    double start = now_seconds();
    CacheRead read = cache_read(&p->session, p->options.cache, prompt, e);
    if (read == CACHE_UNUSABLE) fprintf(stderr, "qwen: %s; the prompt is read anew\n", e->text);
    p->load_s += now_seconds() - start;
    return read != CACHE_REFUSED;
}

/* Leave the prompt for the next run, as far as it was read, if the file lacks any of it. The answer
 * is there already: that this fails is no reason to fail. */
static void keep_cached(const Program *p, const Ids *prompt, size_t known) {
    Error e;
    size_t n = min_size(p->session.ids.n, prompt->n);
    if (!p->options.cache || n <= known || cache_write(&p->session, p->options.cache, n, &e))
        return;
    fprintf(stderr, "qwen: %s; the next run will read the prompt anew\n", e.text);
}

/* A drafter that failed costs its guesses, not the answer; it is said once. */
static void report_drafter(Program *p) {
    if (!p->session.drafter || !p->drafter.failed) return;
    fprintf(stderr, "qwen: %s; the answer goes on without its guesses\n", p->drafter.error.text);
    p->session.drafter = NULL;
}

/* Answer one prompt and exit. */
static int run_answer(Program *p) {
    Error e;
    ChatPrompt prompt = {0};
    RunStats st = {.finish = FINISH_ERROR};
    Output out = {.to = stdout, .stops = p->options.stops, .n_stops = p->options.n_stops};
    bool built = build_prompt(p, &prompt, &e);
    bool ok = built && take_cached(p, &prompt.ids, &e);
    size_t known = p->session.ids.n;
    ok = ok && generate(&p->session, &prompt.ids, &p->generate, &out, &st, &e);
    if (ok && out.all.n > 0 && out.all.data[out.all.n - 1] != '\n')
        ok = write_now(stdout, "\n", 1, &e);
    if (ok) keep_cached(p, &prompt.ids, known);
    report_drafter(p);
    int status = run_status(ok, &st);
    if (!ok) complain(&e, status);
    if (built && st.finish != FINISH_ERROR) print_stats(p, &st);
    if (built && !write_stats(p, &st, &e) && ok) /* one error is told, the first */
        status = complain(&e, status ? status : 1);
    output_close(&out);
    chat_prompt_free(&prompt);
    return status;
}

/* --render and --tokenize: what would be fed. */
static int run_show_prompt(Program *p) {
    Error e;
    ChatPrompt prompt = {0};
    Buffer b = {0};
    bool ok = build_prompt(p, &prompt, &e), render = p->options.render;
    if (ok && render)
        ok = buffer_add(&b, prompt.text.data, prompt.text.n, &e) && buffer_puts(&b, "\nids:", &e);
    for (size_t i = 0; ok && i < prompt.ids.n; i++)
        ok = buffer_printf(&b, &e, i > 0 || render ? " %d" : "%d", prompt.ids.ids[i]);
    ok = ok && buffer_puts(&b, "\n", &e);
    if (ok && !interrupts) ok = write_now(stdout, b.data, b.n, &e);
    buffer_free(&b);
    chat_prompt_free(&prompt);
    return !ok ? complain(&e, 1) : interrupts ? 130 : 0;
}

/* ---- 16. Many prompts ------------------------------------------------------------------------ */

/* One of the sequences, and the line of --prompts that is answered there. */
typedef struct {
    size_t index; /* of the line */
    Session session;
    ChatPrompt prompt;
    GenerateOptions options;
    Output out;
    RunStats stats;
    Run run;
} Slot;

typedef struct {
    Program *program;
    bool json;               /* lines are JSON objects */
    size_t at, next;         /* the first byte, and the index, of the next line */
    Buffer *answers;         /* (n_prompts) finished lines that wait for an earlier one */
    size_t written;          /* lines that were */
    Slot *slots;             /* (n_seq) */
    RunStats total;          /* of all answers */
    size_t n_done, n_failed; /* lines; and those of them that could not be answered */
    double start;
    bool show; /* progress: stderr is a terminal, which the answers do not go to */
} Batch;

/* Take the next line, without its end. */
static const char *batch_line(Batch *b, size_t *n) {
    const Buffer *all = &b->program->text;
    const char *line = all->data + b->at, *end = memchr(line, '\n', all->n - b->at);
    *n = end ? (size_t)(end - line) : all->n - b->at;
    b->at += *n + (end != NULL);
    b->next++;
    if (*n > 0 && line[*n - 1] == '\r') --*n;
    return line;
}

static size_t count_lines(const Buffer *text) {
    size_t n = 1; /* the last one has no end */
    for (size_t i = 0; i < text->n; i++) n += text->data[i] == '\n';
    return n;
}

static size_t skip_blanks(const Buffer *text, size_t i) {
    while (i < text->n && is_blank(text->data + i, 1)) i++;
    return i;
}

/* JSON lines are told by how the first line that is not blank begins: with {, or with [ and {. */
static bool is_json_lines(const Buffer *text) {
    size_t i = skip_blanks(text, 0);
    if (i < text->n && text->data[i] == '[') i = skip_blanks(text, i + 1);
    return i < text->n && text->data[i] == '{';
}

/* {"prompt": TEXT}, {"messages": [...], "tools": [...]}, the array alone, or one of the two objects
 * as the body of a line for OpenAI's batches. Other members are ignored. */
static bool render_json_line(const Program *p, const Json *root, const char *where, ChatPrompt *out,
                             Error *e) {
    const Json *body = json_get(root, "body");
    if (body && !json_get(root, "prompt") && !json_get(root, "messages")) root = body;
    const Json *tools, *text = json_get(root, "prompt"),
                       *messages = conversation_messages(root, &tools);
    if ((root->kind != JSON_OBJECT && root->kind != JSON_ARRAY) || !text == !messages)
        return fail(e, where, NULL,
                    "expected an object with either prompt or messages, or an array of messages");
    if (messages && p->options.raw)
        return fail(e, where, "messages", "--raw leaves no place for a conversation");
    if (messages) return render_conversation(p, root, true, where, out, e);
    if (text->kind != JSON_STRING) return fail(e, where, "prompt", "expected a string");
    if (is_no_prompt(&p->options, text->string, text->string_len))
        return fail(e, where, "prompt", "is empty");
    return render_text(p, text->string, text->string_len, out, e);
}

static bool render_line(const Batch *b, const char *line, size_t n, ChatPrompt *out, Error *e) {
    const Program *p = b->program;
    char where[PATH_MAX + 32];
    snprintf(where, sizeof where, "%s:%zu", input_name(p->options.prompts), b->next);
    if (is_blank(line, n)) return fail(e, where, "prompt", "is empty");
    if (!b->json) return render_text(p, line, n, out, e);
    JsonDoc *doc = json_parse(line, n, where, e);
    bool ok = doc && render_json_line(p, json_root(doc), where, out, e);
    json_free(doc);
    return ok;
}

/* Write the answers that are there, in order: up to the first that is not; or all, when that one
 * will not come, after ^C or an error. */
static bool batch_write(Batch *b, bool all, Error *e) {
    for (; b->written < b->program->n_prompts; b->written++) {
        Buffer *line = &b->answers[b->written];
        if (line->n == 0 && !all) break;
        if (line->n > 0 && !write_now(stdout, line->data, line->n, e)) return false;
        buffer_free(line);
    }
    return true;
}

/* Line `index` is done: write it, and those behind it that waited for it. */
static bool batch_done(Batch *b, size_t index, Buffer *answer, Error *e) {
    b->answers[index] = *answer;
    b->n_done++;
    if (!batch_write(b, false, e)) return false;
    if (b->show)
        fprintf(stderr, "\r%zu of %zu answers, %.1f tokens/s ", b->n_done, b->program->n_prompts,
                per_second((double)b->total.n_generated, now_seconds() - b->start));
    return true;
}

static bool batch_refused(Batch *b, size_t index, const Error *why, Error *e) {
    Buffer line = {0};
    b->n_failed++;
    bool ok = buffer_printf(&line, e, "{\"index\":%zu,\"error\":", index) &&
              json_quote(&line, why->text, strlen(why->text), e) && buffer_puts(&line, "}\n", e);
    return ok && batch_done(b, index, &line, e);
}

/* What a slot's answer adds to the statistics of all, whose hash is the same for any order. */
static void batch_count(Batch *b, const Slot *s) {
    const RunStats *st = &s->stats;
    RunStats *all = &b->total;
    if (all->n_prompt == 0) all->first_s = st->first_s;
    all->n_prompt += st->n_prompt;
    all->n_cached += st->n_cached;
    all->n_read += st->n_read;
    all->n_generated += st->n_generated;
    all->n_decoded += st->n_decoded;
    all->n_drafted += st->n_drafted;
    all->n_accepted += st->n_accepted;
    all->prompt_s += st->prompt_s;
    all->decode_bytes += st->decode_bytes;
    uint64_t line = hash_id(HASH_START, (int32_t)s->index);
    all->hash += hash_id(hash_id(line, (int32_t)st->hash), (int32_t)(st->hash >> 32));
    all->not_finite = all->not_finite || st->not_finite;
    if (st->finish > all->finish) all->finish = st->finish; /* the worst of them */
}

/* The answer in this slot is over, with an error or without. */
static bool slot_close(Batch *b, Slot *s, bool ok, Error *e) {
    Buffer line = {0};
    const RunStats *st = &s->stats;
    ok = run_close(&s->run, ok, e);
    batch_count(b, s);
    ok = ok && buffer_printf(&line, e, "{\"index\":%zu,\"text\":", s->index) &&
         json_quote(&line, buffer_text(&s->out.all), s->out.all.n, e) &&
         buffer_printf(&line, e,
                       ",\"finish\":\"%s\",\"prompt_tokens\":%zu,\"generated_tokens\":%zu,"
                       "\"seed\":%" PRIu64 ",\"hash\":\"%016" PRIx64 "\"}\n",
                       finish_names[st->finish], st->n_prompt, st->n_generated,
                       s->options.sampler.seed, st->hash) &&
         batch_done(b, s->index, &line, e);
    output_close(&s->out);
    chat_prompt_free(&s->prompt);
    s->session.ids.n = min_size(s->session.ids.n, st->n_prompt); /* see slot_share */
    return ok;
}

/* Give s the longest beginning of its prompt that any slot's cache holds: system messages are often
 * the same in all lines. An answer's keys and values are not shared: generated tokens may have been
 * computed with other arithmetic than a prompt is. */
static bool slot_share(const Batch *b, Slot *s, Error *e) {
    const Slot *best = s;
    size_t most = session_common(&s->session, &s->prompt.ids);
    for (uint32_t i = 0; i < b->program->engine.options.n_seq; i++) {
        const Slot *from = &b->slots[i];
        size_t n = min_size(session_common(&from->session, &s->prompt.ids), from->stats.n_prompt);
        if (n > most) most = n, best = from;
    }
    return best == s || session_copy(&s->session, &best->session, most, e);
}

/* Begin with the next line in a free slot. False on an error that is not the line's own. */
static bool slot_open(Batch *b, Slot *s, Error *e) {
    Program *p = b->program;
    Error why;
    size_t n, index = b->next;
    const char *line = batch_line(b, &n);
    bool ok =
        render_line(b, line, n, &s->prompt, &why) && check_fits(&s->session, &s->prompt.ids, &why);
    if (!ok) {
        chat_prompt_free(&s->prompt);
        return batch_refused(b, index, &why, e);
    }
    s->index = index;
    s->out = (Output){.stops = p->options.stops, .n_stops = p->options.n_stops};
    s->options = p->generate;
    s->options.progress = NULL;
    s->options.sampler.seed += index;
    s->stats = (RunStats){.hash = HASH_START, .finish = FINISH_ERROR};
    s->run = (Run){.out = &s->out, .stats = &s->stats}; /* for slot_close, if sharing fails */
    ok = slot_share(b, s, e) &&
         run_open(&s->run, &s->session, &s->prompt.ids, &s->options, &s->out, &s->stats, e);
    if (ok && s->run.going) return true;
    return slot_close(b, s, ok, e);
}

/* Answer all lines: whenever an answer ends, the next line takes its place. */
static bool batch_run(Batch *b, Error *e) {
    Program *p = b->program;
    bool ok = true;
    for (;;) {
        Run *running[MAX_BATCH];
        uint32_t n = 0;
        for (uint32_t i = 0; ok && i < p->engine.options.n_seq; i++) {
            Slot *s = &b->slots[i];
            while (ok && !s->run.going && b->next < p->n_prompts && !interrupts)
                ok = slot_open(b, s, e);
            if (s->run.going) running[n++] = &s->run;
        }
        if (!ok || n == 0) break;
        double start = now_seconds();
        ok = runs_step(running, n, e);
        b->total.decode_s += now_seconds() - start;
        for (uint32_t i = 0; i < p->engine.options.n_seq; i++) {
            Slot *s = &b->slots[i];
            if (s->run.session && !s->run.going) ok = slot_close(b, s, !s->run.failed, e) && ok;
        }
    }
    return ok;
}

static bool batch_open(Batch *b, Error *e) {
    Program *p = b->program;
    uint32_t n = p->engine.options.n_seq;
    b->answers = alloc_array(e, "answers", p->n_prompts, sizeof *b->answers);
    b->slots = alloc_array(e, "sequences", n, sizeof *b->slots);
    if (!b->answers || !b->slots) return false;
    for (uint32_t i = 0; i < n; i++) {
        if (!session_open(&b->slots[i].session, &p->engine, e)) return false;
        b->slots[i].session.seq = i;
    }
    if (b->show) fprintf(stderr, "%zu prompts, %u at a time\n", p->n_prompts, n);
    return true;
}

static void batch_close(Batch *b) {
    Program *p = b->program;
    Error ignored;
    for (uint32_t i = 0; b->slots && i < p->engine.options.n_seq; i++) {
        Slot *s = &b->slots[i];
        if (s->run.session) run_close(&s->run, false, &ignored);
        output_close(&s->out);
        chat_prompt_free(&s->prompt);
        session_close(&s->session);
    }
    for (size_t i = 0; b->answers && i < p->n_prompts; i++) buffer_free(&b->answers[i]);
    free(b->answers);
    free(b->slots);
}

/* --prompts */
static int run_batch(Program *p) {
    Error e, second;
    Batch b = {.program = p,
               .json = is_json_lines(&p->text),
               .start = now_seconds(),
               .show = isatty(STDERR_FILENO) && !isatty(STDOUT_FILENO)};
    if (!p->options.raw && !b.json && !check_template(p, &e)) return complain(&e, 1);
    bool ok = batch_open(&b, &e) && batch_run(&b, &e);
    ok = (!b.answers || batch_write(&b, true, ok ? &e : &second)) && ok;
    if (interrupts && b.next < p->n_prompts) b.total.finish = FINISH_INTERRUPT;
    if (!ok) b.total.finish = FINISH_ERROR;
    if (b.show) fprintf(stderr, "\r%60s\r", "");
    int status = run_status(ok, &b.total);
    if (!ok) complain(&e, status);
    if (ok) print_stats(p, &b.total);
    if (ok && b.n_failed > 0) {
        if (status == 0) status = 1;
        fail(&e, input_name(p->options.prompts), NULL, "%zu of %zu lines could not be answered",
             b.n_failed, p->n_prompts);
        complain(&e, status);
    }
    if (!write_stats(p, &b.total, &e) && ok && b.n_failed == 0)
        status = complain(&e, status ? status : 1);
    batch_close(&b);
    return status;
}

/* ---- 17. Chat -------------------------------------------------------------------------------- */

/* A point of a conversation, to go back to. */
typedef struct {
    size_t ids, text, messages; /* the lengths of these */
} Mark;

/* `prompt.ids` is all that was said so far, as the ids that the model has read and written, so
 * nothing is computed twice; `messages` is the same as JSON, for /save. */
typedef struct {
    ChatPrompt prompt;
    Buffer messages; /* {"role":...,"content":...},... without the brackets */
    Buffer system;   /* the system message set by the user, */
    bool has_system; /* if there is one */
    size_t begin;    /* prompt.ids.n when nothing was said yet */
    Mark asked;      /* behind the last question; {0}: none that can be answered again */
} Conversation;

/* A chat on a terminal. stdout gets answers, and what /show and /? tell; stderr all else. */
typedef struct {
    Program *program;
    Conversation said;
    int64_t seed;           /* --seed when the last question was answered, and ... */
    uint64_t again;         /* ... how often it was answered again with that one */
    char *stops[MAX_STOPS]; /* (n_stops) those that /set added; the options point to them */
    size_t n_stops;
    bool verbose, quit;
    bool failed; /* no more can be read, or kept */
    bool block, command; /* the latest input: it came between """; it began with a slash */
    size_t block_at;     /* where in it the block's text begins: behind "/set system ", or 0 */
} Chat;

/* Positions of the context that are taken; the end of an answer that filled it is behind them. */
static size_t chat_used(const Chat *c) {
    return min_size(c->said.prompt.ids.n, c->program->engine.options.ctx);
}

static const char chat_help[] =
    "/set system TEXT           a system message, from here on\n"
    "/set parameter NAME VALUE  temperature, top_k, top_p, min_p, repeat_penalty, repeat_last_n,\n"
    "                           presence_penalty, frequency_penalty, seed, num_predict; stop adds "
    "a\n"
    "                           text that ends the answer, or without a text forgets all of them\n"
    "/set verbose, /set quiet   statistics after each answer, or not\n"
    "/show info                 the model;  also: /show parameters, /show system, /show template\n"
    "/regen                     drop the last answer, and answer the question again; where a seed\n"
    "                           was set, with the next one\n"
    "/clear                     forget the conversation\n"
    "/save FILE, /load FILE     write or read the conversation as JSON messages\n"
    "/bye, /exit                leave (as do ^D and the end of input)\n"
    "/?, /help                  this\n"
    "\"\"\"                        begins and ends a text of several lines, also after /set "
    "system\n"
    "^C                         stops an answer; a second one leaves\n";

static void conversation_free(Conversation *c) {
    chat_prompt_free(&c->prompt);
    buffer_free(&c->messages);
    buffer_free(&c->system);
}

static Mark conversation_mark(const Conversation *c) {
    return (Mark){c->prompt.ids.n, c->prompt.text.n, c->messages.n};
}

static void conversation_rewind(Conversation *c, Mark to) {
    c->prompt.ids.n = to.ids;
    c->prompt.text.n = to.text;
    c->messages.n = to.messages;
}

/* Note a message for /save: JSON is UTF-8, so the text is made that. */
static bool conversation_note(Conversation *c, const char *role, const char *text, size_t n,
                              Error *e) {
    size_t before = c->messages.n;
    if ((before == 0 || buffer_puts(&c->messages, ",\n", e)) &&
        buffer_printf(&c->messages, e, "{\"role\": \"%s\", \"content\": ", role) &&
        quote_any(&c->messages, text, n, e) && buffer_puts(&c->messages, "}", e))
        return true;
    c->messages.n = before; /* no half message */
    return false;
}

/* A message more, of the system or the user. */
static bool chat_add(Chat *c, const char *role, const char *text, size_t n, Error *e) {
    return render_turn(c->program, role, text, n, &c->said.prompt, e) &&
           conversation_note(&c->said, role, text, n, e);
}

/* Begin anew, with the system message in force. */
static bool chat_reset(Chat *c, Error *e) {
    Conversation *said = &c->said;
    chat_prompt_free(&said->prompt);
    buffer_free(&said->messages);
    said->asked = (Mark){0};
    bool ok = said->has_system ? chat_add(c, "system", said->system.data, said->system.n, e)
                               : render_default_system(c->program, &said->prompt, e);
    said->begin = said->prompt.ids.n;
    return ok;
}

/* A new system message. In a conversation that has begun it is one more message, as in ollama. */
static bool chat_set_system(Chat *c, const char *text, size_t n, Error *e) {
    Conversation *said = &c->said;
    said->asked = (Mark){0};
    said->system.n = 0;
    said->has_system = true;
    if (!buffer_add(&said->system, text, n, e)) return false;
    return said->prompt.ids.n == said->begin ? chat_reset(c, e) : chat_add(c, "system", text, n, e);
}

static bool chat_save(const Chat *c, const char *path, Error *e) {
    Buffer b = {0};
    const Buffer *messages = &c->said.messages;
    if (messages->n == 0) return fail(e, NULL, "/save", "nothing was said yet");
    bool ok = may_replace(path, "[{", e) && buffer_puts(&b, "[", e) &&
              buffer_add(&b, messages->data, messages->n, e) && buffer_puts(&b, "]\n", e) &&
              write_whole(path, &b, e);
    buffer_free(&b);
    if (ok) fprintf(stderr, "(saved to %s)\n", path);
    return ok;
}

/* The text of a message's content: it is one, or an array of parts that have some. */
static bool content_text(const Json *content, Buffer *out, Error *e) {
    if (content->kind == JSON_STRING)
        return buffer_add(out, content->string, content->string_len, e);
    bool ok = true;
    for (const Json *part = content->child; ok && part; part = part->next) {
        const Json *t = json_get(part, "text");
        if (t && t->kind == JSON_STRING) ok = buffer_add(out, t->string, t->string_len, e);
    }
    return ok;
}

/* The question of a file: its last message, or the one before where that is an answer. By itself
 * the answer's turn is as many tokens: no merge reaches across turns. */
static bool find_question(const Program *p, const Json *messages, Conversation *to, Error *e) {
    const Json *last = messages->child, *before = NULL;
    Buffer text = {0};
    ChatPrompt turn = {0};
    bool ok = true;
    for (; last->next; last = last->next) before = last;
    to->asked = conversation_mark(to);
    if (json_is(json_get(last, "role"), "assistant") && !json_get(last, "tool_calls")) {
        ok = content_text(json_get(last, "content"), &text, e) &&
             render_turn(p, "assistant", buffer_text(&text), text.n, &turn, e);
        to->asked.ids -= turn.ids.n;
        to->asked.text -= turn.text.n;
        to->asked.messages -= last->source_len + (before ? 2 : 0); /* ",\n" */
        last = before;
    }
    if (!json_is(json_get(last, "role"), "user")) to->asked = (Mark){0};
    chat_prompt_free(&turn);
    buffer_free(&text);
    return ok;
}

static bool chat_parse(const Program *p, const char *path, Conversation *to, Error *e) {
    const Model *m = &p->model;
    JsonDoc *doc = json_read(path, (size_t)64 << 20, e);
    if (!doc) return false;
    const Json *tools, *messages = conversation_messages(json_root(doc), &tools);
    bool ok = render_conversation(p, json_root(doc), false, path, &to->prompt, e);
    if (m->chat.family == CHAT_QWEN15_EARLY) /* it leaves the last turn open */
        ok = ok && chat_close_reply(&m->chat, m->tokenizer, &to->prompt, e);
    for (const Json *item = ok ? messages->child : NULL; ok && item; item = item->next)
        ok = (to->messages.n == 0 || buffer_puts(&to->messages, ",\n", e)) &&
             buffer_add(&to->messages, item->source, item->source_len, e);
    const Json *first = ok ? messages->child : NULL, *content = json_get(first, "content");
    to->has_system = json_is(json_get(first, "role"), "system") && content &&
                     (content->kind == JSON_STRING || content->kind == JSON_ARRAY);
    if (to->has_system) ok = content_text(content, &to->system, e);
    if (to->has_system && !first->next) to->begin = to->prompt.ids.n;
    ok = ok && find_question(p, messages, to, e);
    json_free(doc);
    return ok;
}

/* Replace the conversation by the one in the file; on an error the old one stays. */
static bool chat_load(Chat *c, const char *path, Error *e) {
    Conversation new = {.has_system = false};
    if (!chat_parse(c->program, path, &new, e)) {
        conversation_free(&new);
        return false;
    }
    conversation_free(&c->said);
    c->said = new;
    fprintf(stderr, "(loaded %s: %zu tokens)\n", path, new.prompt.ids.n);
    return true;
}

/* ollama's names of the sampling parameters, and the options whose ranges they share. */
static const struct {
    const char *name, *option;
} parameter_names[] = {
    {"temperature", "temp"},
    {"top_k", "top-k"},
    {"top_p", "top-p"},
    {"min_p", "min-p"},
    {"repeat_penalty", "repeat-penalty"},
    {"repeat_last_n", "repeat-last-n"},
    {"presence_penalty", "presence-penalty"},
    {"frequency_penalty", "frequency-penalty"},
    {"seed", "seed"},
    {"num_predict", "max-tokens"},
};
#define N_PARAMETERS (sizeof parameter_names / sizeof parameter_names[0])

/* Add a stop string, or forget all when text is empty. */
static bool chat_set_stop(Chat *c, const char *text, Error *e) {
    Options *o = &c->program->options;
    if (text[0] == 0) {
        o->n_stops = 0;
        while (c->n_stops > 0) free(c->stops[--c->n_stops]);
        return true;
    }
    char *copy = strdup(text);
    if (!copy) return fail_errno(e, NULL, "stop");
    if (!option_store(option_find("--stop"), "stop", copy, o, e)) {
        free(copy);
        return false;
    }
    c->stops[c->n_stops++] = copy; /* there is room: the options count these and no fewer */
    return true;
}

static bool chat_set_parameter(Chat *c, const char *name, const char *value, Error *e) {
    Program *p = c->program;
    if (strcmp(name, "stop") == 0) return chat_set_stop(c, value, e);
    if (strcmp(name, "num_ctx") == 0 || strcmp(name, "num_thread") == 0)
        return fail(e, NULL, name, "is chosen when the program starts, with %s",
                    strcmp(name, "num_ctx") == 0 ? "-c" : "-t");
    for (size_t i = 0; i < N_PARAMETERS; i++) {
        if (strcmp(parameter_names[i].name, name) != 0) continue;
        char word[64];
        snprintf(word, sizeof word, "--%s", parameter_names[i].option);
        if (!option_store(option_find(word), name, value, &p->options, e)) return false;
        program_sampling(p);
        return true;
    }
    return fail(e, NULL, name, "no such parameter (/? lists them)");
}

static void chat_show_parameters(const Program *p) {
    const SamplerOptions *s = &p->generate.sampler;
    printf("temperature %g\ntop_k %" PRId64 "\ntop_p %g\nmin_p %g\nrepeat_penalty %g\n"
           "repeat_last_n %" PRId64 "\npresence_penalty %g\nfrequency_penalty %g\n"
           "seed %" PRIu64 "\nnum_predict %" PRId64 "\n",
           s->temperature, s->top_k, s->top_p, s->min_p, s->repeat_penalty, s->repeat_last_n,
           s->presence_penalty, s->frequency_penalty, s->seed, p->generate.max_tokens);
    for (size_t i = 0; i < p->options.n_stops; i++) printf("stop \"%s\"\n", p->options.stops[i]);
}

static void chat_show_info(const Chat *chat) {
    const Program *p = chat->program;
    const ModelHeader *h = p->model.file.header;
    const ModelConfig *c = &h->config;
    printf("%s (%s), from %s by %s\n", h->name, h->quant, h->source, h->converter);
    printf("layers %u, hidden %u, heads %u of %u, key-value heads %u, feed-forward %u, vocabulary "
           "%u\n",
           c->num_hidden_layers, c->hidden_size, c->num_attention_heads, c->head_dim,
           c->num_key_value_heads, c->intermediate_size, c->vocab_size);
    printf("context %u of %u positions, %zu used; %s keys and values; %s, %u threads\n",
           p->engine.options.ctx, context_limit(c, p->engine.options.yarn_factor), chat_used(chat),
           kv_name(p->engine.options.kv_f32), p->engine.kernels->name, p->engine.options.threads);
    if (p->session.drafter)
        printf("guesses by %s (%s), from %s\n", p->draft_model.file.header->name,
               p->draft_model.file.header->quant, p->options.draft);
}

/* A text of the model's file: what could drive the terminal is shown as \xNN. */
static void show_text(const char *text, size_t n) {
    char shown[4 * 4 + 1];
    for (size_t i = 0, len; i < n; i += len) {
        int32_t cp;
        len = (size_t)utf8_decode(text + i, n - i, &cp);
        printable(shown, sizeof shown, text + i, len);
        fputs(text[i] == '\n' ? "\n" : shown, stdout);
    }
    putchar('\n');
}

static bool chat_show(const Chat *c, const char *what, Error *e) {
    static const char *const families[] = {"none", "Qwen2.5", "Qwen2", "Qwen1.5 (early)"};
    const ChatTemplate *t = &c->program->model.chat;
    if (strcmp(what, "info") == 0)
        chat_show_info(c);
    else if (strcmp(what, "parameters") == 0)
        chat_show_parameters(c->program);
    else if (strcmp(what, "template") == 0)
        printf("%s\n", families[t->family]);
    else if (strcmp(what, "system") != 0)
        return fail(e, NULL, "/show", "expected info, parameters, system or template");
    else if (c->said.has_system)
        return write_now(stdout, c->said.system.data, c->said.system.n, e) &&
               write_now(stdout, "\n", 1, e);
    else if (t->has_default_system)
        show_text(t->default_system, t->default_system_len);
    else
        printf("none\n");
    return true;
}

/* If text begins with `word` and a space or the end, return what follows the spaces. */
static char *after_word(char *text, const char *word) {
    size_t n = strlen(word);
    if (strncmp(text, word, n) != 0 || (text[n] && text[n] != ' ')) return NULL;
    text += n;
    while (*text == ' ') text++;
    return text;
}

/* What a command was given, without a pair of quotes around it; text is changed. */
static char *unquoted(char *text) {
    size_t n = strlen(text);
    if (n < 2 || text[0] != '"' || text[n - 1] != '"') return text;
    text[n - 1] = 0;
    return text + 1;
}

/* block: the text between """, if there was one, with the spaces that it begins with */
static bool chat_set(Chat *c, char *what, char *block, Error *e) {
    char *rest = after_word(what, "system");
    if (rest) {
        if (!c->block && !*rest)
            return fail(e, NULL, "/set system", "expected a text (\"\" for an empty one)");
        rest = c->block ? block : unquoted(rest);
        return chat_set_system(c, rest, strlen(rest), e);
    }
    if (strcmp(what, "verbose") == 0 || strcmp(what, "quiet") == 0) {
        c->verbose = what[0] == 'v';
        return true;
    }
    if (!(rest = after_word(what, "parameter")))
        return fail(e, NULL, "/set", "expected system, parameter, verbose or quiet");
    char name[32];
    size_t n = strcspn(rest, " ");
    if (n == 0 || n >= sizeof name)
        return fail(e, NULL, "/set parameter", "expected a name and a value");
    memcpy(name, rest, n);
    name[n] = 0;
    return chat_set_parameter(c, name, unquoted(after_word(rest + n, "")), e);
}

/* A line that begins with a slash; it is changed. */
static bool chat_command(Chat *c, Buffer *text, Error *e) {
    char *line = text->data, *rest;
    if (memchr(line, 0, text->n)) return fail(e, NULL, line, "a NUL in a command");
    while (!c->block && text->n > 0 && line[text->n - 1] == ' ') line[--text->n] = 0;
    if (after_word(line, "/bye") || after_word(line, "/exit"))
        c->quit = true;
    else if (after_word(line, "/?") || after_word(line, "/help"))
        fputs(chat_help, stdout);
    else if (after_word(line, "/clear"))
        return chat_reset(c, e);
    else if ((rest = after_word(line, "/show")))
        return chat_show(c, rest, e);
    else if ((rest = after_word(line, "/set")))
        return chat_set(c, rest, line + c->block_at, e);
    else if ((rest = after_word(line, "/save")) && *rest)
        return chat_save(c, unquoted(rest), e);
    else if ((rest = after_word(line, "/load")) && *rest)
        return chat_load(c, unquoted(rest), e);
    else
        return fail(e, NULL, line, "no such command, or one without its argument (/? lists them)");
    return true;
}

/* Add the model's answer to the conversation: its tokens without the stop token, and the end of
 * turn. Where a stop string ended it, the tokens of what was shown before. */
static bool chat_keep_answer(Chat *c, const Output *out, Error *e) {
    const Model *m = &c->program->model;
    ChatPrompt *prompt = &c->said.prompt;
    size_t n = out->ids.n;
    bool eos = n > 0 && is_eos(m, out->ids.ids[n - 1]), ok = true;
    if (out->stopped)
        ok = tokenizer_encode(m->tokenizer, buffer_text(&out->all), out->all.n, false, &prompt->ids,
                              e);
    else
        for (size_t i = 0; ok && i + eos < n; i++) ok = ids_add(&prompt->ids, out->ids.ids[i], e);
    return ok && chat_close_reply(&m->chat, m->tokenizer, prompt, e) &&
           conversation_note(&c->said, "assistant", out->all.data, out->all.n, e);
}

static void chat_warn_context(const Chat *c) {
    size_t used = chat_used(c), ctx = c->program->engine.options.ctx;
    if (used >= ctx - ctx / 4)
        fprintf(stderr, "(%zu of the context's %zu tokens are used; /clear begins anew)\n", used,
                ctx);
}

/* What there is to say about an answer; again: by /regen. */
static void chat_report(const Chat *c, const RunStats *st, bool again) {
    const GenerateOptions *o = &c->program->generate;
    bool limit = o->max_tokens >= 0 && st->n_generated >= (size_t)o->max_tokens;
    if (c->verbose) print_stats(c->program, st);
    if (st->finish == FINISH_LOOP) fprintf(stderr, "(stopped: the answer repeats itself)\n");
    if (st->finish == FINISH_LENGTH)
        fprintf(stderr,
                limit ? "(ended after %zu tokens: num_predict)\n"
                      : "(ended after %zu tokens: the context is full)\n",
                st->n_generated);
    if (st->finish == FINISH_INTERRUPT && st->n_generated == 0)
        fprintf(stderr, "\n(stopped before the answer; %s)\n",
                again ? "/regen asks again" : "the question is forgotten");
}

/* Answer the question that the conversation ends with. When that fails, or is stopped before the
 * answer begins, the conversation is again as it was at the mark. */
static bool chat_reply(Chat *c, Mark before, RunStats *st, Error *e) {
    Program *p = c->program;
    Output out = {.to = stdout, .stops = p->options.stops, .n_stops = p->options.n_stops};
    program_sampling(p); /* a new seed, unless one was asked for: then that and those behind it */
    p->generate.sampler.seed += c->again;
    ChatPrompt *prompt = &c->said.prompt;
    Mark asked = conversation_mark(&c->said);
    bool ok = chat_open_reply(&p->model.chat, p->model.tokenizer, prompt, e) &&
              generate(&p->session, &prompt->ids, &p->generate, &out, st, e) &&
              chat_keep_answer(c, &out, e);
    bool began = ok && (st->finish != FINISH_INTERRUPT || st->n_generated > 0);
    if (began)
        c->said.asked = asked;
    else
        conversation_rewind(&c->said, before);
    if (out.all.n > 0)
        printf("\n\n");
    else if (began && st->finish == FINISH_INTERRUPT)
        printf("\n"); /* behind the terminal's ^C */
    fflush(stdout);
    output_close(&out);
    return ok;
}

/* The user said text[0..n): answer it. */
static bool chat_answer(Chat *c, const char *text, size_t n, RunStats *st, Error *e) {
    Mark before = conversation_mark(&c->said);
    c->seed = c->program->options.seed;
    c->again = 0;
    if (chat_add(c, "user", text, n, e)) return chat_reply(c, before, st, e);
    conversation_rewind(&c->said, before);
    return false;
}

/* /regen. When it fails, or is stopped before the answer begins, the question waits for another. */
static bool chat_regenerate(Chat *c, RunStats *st, Error *e) {
    Mark asked = c->said.asked;
    if (asked.ids == 0) return fail(e, NULL, "/regen", "there is nothing to answer again");
    c->again = c->seed == c->program->options.seed ? c->again + 1 : 0;
    c->seed = c->program->options.seed;
    conversation_rewind(&c->said, asked);
    return chat_reply(c, asked, st, e);
}

/* Linux takes so many bytes of a line on a terminal, and drops what is typed behind them. */
#define TERMINAL_LINE 4096

typedef enum { READ_LINE, READ_INTERRUPT, READ_END, READ_FAILED } ReadLine;
typedef struct {
    Buffer read; /* what the terminal gave, from the beginning of a line on */
    size_t used; /* bytes of it that are the line before */
    char *data;  /* (n) the line without its end, and a NUL */
    size_t n;
    bool cut; /* the terminal did not take all of it */
    int seen; /* the ^C that were answered */
} Line;

/* Wait until there is something to read, or for ^C. The signal is let in while waiting alone, so
 * that none falls between looking for it and waiting. */
static void line_wait(const Line *l) {
    sigset_t usual;
    fd_set in;
    hold_signals(&usual);
    while (interrupts == l->seen) {
        FD_ZERO(&in);
        FD_SET(STDIN_FILENO, &in);
        /* macOS has no ppoll */
        if (pselect(STDIN_FILENO + 1, &in, NULL, NULL, NULL, &usual) >= 0 || errno != EINTR) break;
    }
    pthread_sigmask(SIG_SETMASK, &usual, NULL);
}

/* The first n bytes read are the line, end behind them; n 0: there is none. */
static ReadLine line_take(Line *l, size_t n) {
    if (n == 0) return READ_END;
    l->used = n;
    l->data = l->read.data;
    l->cut = n >= TERMINAL_LINE && isatty(STDIN_FILENO);
    if (l->data[n - 1] == '\n') n--;
    if (n > 0 && l->data[n - 1] == '\r') n--;
    l->data[l->n = n] = 0;
    interrupts = l->seen = 0;
    return READ_LINE;
}

/* Read a line. What was typed of it before ^C is forgotten; ^D ends it too. */
static ReadLine line_read(Line *l, const char *prompt, Error *e) {
    fflush(stdout);
    fputs(prompt, stderr);
    fflush(stderr);
    l->read.n -= l->used;
    if (l->used > 0) memmove(l->read.data, l->read.data + l->used, l->read.n);
    l->used = 0;
    for (size_t looked = 0;;) {
        char bytes[TERMINAL_LINE];
        char *end = l->read.n ? memchr(l->read.data + looked, '\n', l->read.n - looked) : NULL;
        if (end) return line_take(l, (size_t)(end - l->read.data) + 1);
        ssize_t n;
        do {
            line_wait(l);
            if (interrupts != l->seen) {
                l->seen = interrupts;
                l->read.n = 0;
                return READ_INTERRUPT;
            }
            n = read(STDIN_FILENO, bytes, sizeof bytes);
        } while (n < 0 && (errno == EINTR || errno == EAGAIN));
        if (n <= 0) return line_take(l, l->read.n);
        looked = l->read.n;
        if (!buffer_add(&l->read, bytes, (size_t)n, e)) return READ_FAILED;
    }
}

/* Where the text of several lines begins that this line opens, behind the """; 0: it opens none. */
static size_t block_start(Line *l) {
    char *at = l->data, *rest = after_word(at, "/set");
    if (rest && (rest = after_word(rest, "system"))) at = rest;
    return strncmp(at, "\"\"\"", 3) == 0 ? (size_t)(at - l->data) + 3 : 0;
}

/* Does line[from..n) end the block? Then the """ is taken off. */
static bool block_end(Line *l, size_t from) {
    size_t n = l->n;
    while (n > from && l->data[n - 1] == ' ') n--;
    if (n < from + 3 || memcmp(l->data + n - 3, "\"\"\"", 3) != 0) return false;
    l->n = n - 3;
    return true;
}

/* Read what the user types: a line, or several between """, without the ends of line beside these.
 * The end of input ends a block too. False when there is no more. ^C forgets what was typed. */
static bool chat_read(Chat *c, Buffer *text, Line *line, Error *e) {
    bool cut = false, ends = false, ok = true;
    size_t pieces = 0;
    text->n = 0;
    c->block = false;
    while (ok && !ends) {
        ReadLine got = line_read(line, c->block ? "... " : ">>> ", e);
        if (got == READ_FAILED) {
            ok = false;
            break;
        }
        if (got == READ_INTERRUPT) {
            fprintf(stderr, "\n(^C again, ^D or /bye leaves)\n");
            text->n = 0;
            return true;
        }
        if (got == READ_END) {
            fprintf(stderr, "\n");
            if (!c->block) return false;
            break;
        }
        if (!c->block) c->command = line->data[0] == '/';
        size_t from = c->block ? 0 : block_start(line);
        bool opens = !c->block && from > 0;
        if (opens) ok = buffer_add(text, line->data, c->block_at = from - 3, e);
        c->block = c->block || opens;
        ends = !c->block || block_end(line, from);
        cut = cut || line->cut;
        if (!opens && !c->block && memchr(line->data, '\33', line->n)) {
            fprintf(stderr,
                    "(not taken: arrow keys do nothing here; with rlwrap ./qwen they do)\n");
            text->n = 0;
            return true;
        }
        if (line->n == from && (opens || ends)) continue;
        ok = ok && (pieces++ == 0 || buffer_puts(text, "\n", e)) &&
             buffer_add(text, line->data + from, line->n - from, e);
    }
    if (!ok || cut) text->n = 0;
    if (cut)
        fprintf(
            stderr,
            "(not taken: a terminal cuts lines at %d bytes; break it between lines of \"\"\", or "
            "use -f FILE or a pipe)\n",
            TERMINAL_LINE);
    c->failed = !ok;
    return ok;
}

static int chat_loop(Chat *c, Error *e) {
    Buffer text = {0};
    Line line = {0};
    int status = 0;
    while (!c->quit && chat_read(c, &text, &line, e)) {
        if (is_blank(text.data, text.n)) continue;
        RunStats st = {0};
        bool again = c->command && after_word(text.data, "/regen"), answers = again || !c->command;
        bool ok = again        ? chat_regenerate(c, &st, e)
                  : c->command ? chat_command(c, &text, e)
                               : chat_answer(c, text.data, text.n, &st, e);
        report_drafter(c->program);
        if (!ok)
            complain(e, 1);
        else if (answers)
            chat_report(c, &st, again);
        if (answers) chat_warn_context(c);
        line.seen = st.finish == FINISH_INTERRUPT; /* then the next ^C leaves */
        interrupts = line.seen;
        if (st.not_finite) {
            status = 3;
            break;
        }
    }
    buffer_free(&line.read);
    buffer_free(&text);
    return c->failed ? complain(e, 1) : status;
}

static int run_chat(Program *p) {
    Error e;
    Chat c = {.program = p};
    int status = 1;
    const Options *o = &p->options;
    const char *alone = o->cache ? "--cache" : o->stats ? "--stats" : o->raw ? "--raw" : NULL;
    if (alone) {
        fail(&e, NULL, alone, "goes with a prompt to answer (-p, -f or a pipe)");
        return complain(&e, 2);
    }
    if (p->model.chat.family == CHAT_NONE) {
        fail(&e, p->model.path, "template",
             "this model has none, so it cannot chat (use --raw with -p, -f or "
             "a pipe)");
        return complain(&e, 1);
    }
    const char *system = p->options.system;
    bool ok = system ? chat_set_system(&c, system, strlen(system), &e) : chat_reset(&c, &e);
    if (ok) {
        fprintf(stderr, "%s (%s). /? lists the commands.\n", p->model.file.header->name,
                p->model.file.header->quant);
        status = chat_loop(&c, &e);
    } else {
        complain(&e, 1);
    }
    chat_set_stop(&c, "", &e);
    conversation_free(&c.said);
    return status;
}

/* ---- 18. Bench ------------------------------------------------------------------------------- */

#define BATCH_TOKENS 32 /* tokens of each sequence in a test of several */

static bool bench_number(const char **text, uint32_t *n) {
    char *end;
    if (**text < '0' || **text > '9') return false;
    unsigned long value = strtoul(*text, &end, 10);
    *text = end;
    *n = (uint32_t)value;
    return value <= MAX_CONTEXT;
}

/* Parse one test; *text then stands behind it. */
static bool bench_test(const char **text, BenchTest *t) {
    const char *c = *text;
    bool batch = *c == 'b';
    *t = (BenchTest){.generate = batch || strncmp(c, "tg", 2) == 0, .n_seq = 1};
    if (!t->generate && strncmp(c, "pp", 2) != 0) return false;
    c += batch ? 1 : 2;
    if (!bench_number(&c, &t->n) || t->n == 0 || (batch && t->n > MAX_BATCH)) return false;
    if (batch) {
        t->n_seq = t->n;
        t->n = BATCH_TOKENS;
    }
    if (*c == '@') c++;
    if (c[-1] == '@' && !bench_number(&c, &t->depth)) return false;
    size_t len = (size_t)(c - *text);
    if (len >= sizeof t->name) return false;
    memcpy(t->name, *text, len);
    *text = c;
    return true;
}

/* Parse "pp512,tg128,tg128@4096,b16". */
static bool bench_parse(Program *p, Error *e) {
    for (const char *c = p->options.bench;; c++) {
        if (p->n_tests == MAX_TESTS || !bench_test(&c, &p->tests[p->n_tests]) || (*c && *c != ','))
            return fail(e, NULL, "--bench",
                        "expected tests like pp512,tg128,tg128@4096,b16 (up to b%d), got \"%s\"",
                        MAX_BATCH, p->options.bench);
        p->n_tests++;
        if (*c == 0) return true;
    }
}

#define READ_UNIT ((size_t)4 << 20)
typedef struct {
    const Program *p;
    const uint8_t *from;
    size_t bytes;
} ReadJob;

static void read_unit(void *ctx, uint32_t unit, uint32_t thread) {
    (void)thread;
    const ReadJob *j = ctx;
    size_t at = unit * READ_UNIT;
    /* volatile: so that the reading cannot be left out */
    volatile uint64_t sink =
        j->p->engine.kernels->read_all(j->from + at, min_size(READ_UNIT, j->bytes - at));
    (void)sink;
}

/* GB/s of a plain read loop over all tensors, by the same threads. */
static double bench_read(const Program *p) {
    size_t header = p->model.file.header->header_bytes;
    ReadJob j = {p, p->model.file.map.data + header, p->model.file.map.bytes - header};
    double start = now_seconds();
    parallel_for(p->engine.pool, (uint32_t)((j.bytes + READ_UNIT - 1) / READ_UNIT), read_unit, &j);
    return per_second((double)j.bytes * 1e-9, now_seconds() - start);
}

#define DOT_ROUNDS 1000u /* from 30 microseconds (AMX) to a millisecond (AVX2) */
#define DOT_UNITS 16u    /* per thread, so that whoever is faster does more of them */

static void dot_unit(void *ctx, uint32_t unit, uint32_t thread) {
    (void)unit, (void)thread;
    volatile uint64_t sink = ((const Engine *)ctx)->kernels->dot_all(DOT_ROUNDS);
    (void)sink;
}

/* 10^12 operations/s of the instructions that prompts use, by the same threads. */
static double bench_dot(Program *p) {
    uint32_t units = DOT_UNITS * p->engine.options.threads;
    double start = now_seconds();
    parallel_for(p->engine.pool, units, dot_unit, &p->engine);
    return per_second(1e-12 * DOT_ROUND_OPS * DOT_ROUNDS * units, now_seconds() - start);
}

/* Operations of one token of a prompt: a multiplication and an addition per weight of a layer. */
static double token_ops(const Model *m) {
    double weights = 0;
    for (uint32_t i = 0; i < m->config->num_hidden_layers; i++) {
        const Layer *l = &m->layers[i];
        const Mat *all[7] = {&l->q_proj,    &l->k_proj,  &l->v_proj,   &l->o_proj,
                             &l->gate_proj, &l->up_proj, &l->down_proj};
        for (size_t j = 0; j < 7; j++) weights += (double)all[j]->rows * all[j]->cols;
    }
    return 2 * weights;
}

static int32_t bench_id(const Program *p, uint64_t *state) {
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (int32_t)((*state >> 33) % (uint32_t)tokenizer_n_tokens(p->model.tokenizer));
}

/* Read n random tokens as a prompt. */
static bool bench_read_prompt(Program *p, uint32_t n, Error *e) {
    uint64_t state = p->session.ids.n + 1;
    int32_t *ids = alloc_array(e, "bench", n, sizeof *ids);
    if (!ids) return false;
    for (uint32_t i = 0; i < n; i++) ids[i] = bench_id(p, &state);
    Fed fed = session_feed(&p->session, GIVEN, ids, n, NULL, e);
    free(ids);
    p->not_finite = fed == FED_NOT_FINITE;
    if (fed == FED_INTERRUPTED) return fail(e, NULL, "bench", "interrupted");
    return fed == FED;
}

/* Generate n random tokens in each of the test's sequences. */
static bool bench_generate(Program *p, const BenchTest *t, uint32_t n, Error *e) {
    uint64_t state = t->depth + 1;
    Token tokens[MAX_BATCH];
    for (uint32_t i = 0; i < n; i++) {
        for (uint32_t s = 0; s < t->n_seq; s++)
            tokens[s] = (Token){bench_id(p, &state), s, t->depth + i, true};
        forward(&p->engine, GENERATED, tokens, t->n_seq, p->engine.logits, NULL);
        if (interrupts) return fail(e, NULL, "bench", "interrupted");
    }
    for (uint32_t s = 0; s < t->n_seq && !p->not_finite; s++)
        p->not_finite = !check_finite(&p->engine, p->engine.logits + s * logits_stride(&p->model),
                                      t->depth + n - 1, e);
    return !p->not_finite;
}

/* Fill the caches of the test's sequences to its depth. */
static bool bench_depth(Program *p, const BenchTest *t, Error *e) {
    p->session.ids.n = 0;
    if (t->depth > 0 && !bench_read_prompt(p, t->depth, e)) return false;
    bool ok = true;
    for (uint32_t i = 1; ok && i < t->n_seq; i++) {
        Session other = {.engine = &p->engine, .seq = i};
        ok = session_copy(&other, &p->session, t->depth, e);
        ids_free(&other.ids);
    }
    return ok;
}

/* Once the test itself, of n tokens. */
static bool bench_once(Program *p, const BenchTest *t, uint32_t n, Error *e) {
    p->session.ids.n = t->depth;
    return t->generate ? bench_generate(p, t, n, e) : bench_read_prompt(p, n, e);
}

static int compare_doubles(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *values, size_t n) {
    qsort(values, n, sizeof *values, compare_doubles);
    return (values[(n - 1) / 2] + values[n / 2]) / 2;
}

/* What a token costs, in 10^9 bytes or 10^12 operations; and what the machine gives in a second. */
static double bench_cost(const Program *p, const BenchTest *t) {
    if (!t->generate) return token_ops(&p->model) * 1e-12;
    double weights = (double)p->model.token_bytes / t->n_seq;
    return (weights + kv_read(&p->engine, t->depth + t->n / 2)) * 1e-9;
}
static double bench_limit(Program *p, const BenchTest *t) {
    return t->generate ? bench_read(p) : bench_dot(p);
}

/* Each repetition stands between two measurements of the limit, whose mean is its own: what
 * disturbs the machine for a while disturbs both. */
static bool bench_run(Program *p, BenchTest *t, size_t repetitions, Error *e) {
    double *rates = alloc_array(e, "bench", 3 * repetitions, sizeof *rates);
    if (!rates) return false;
    double *limits = rates + repetitions, *shares = limits + repetitions;
    double cost = bench_cost(p, t);
    bool ok = bench_depth(p, t, e) && bench_once(p, t, t->generate ? 1 : t->n, e); /* warm-up */
    double before = ok ? bench_limit(p, t) : 0;
    for (size_t i = 0; ok && i < repetitions; i++) {
        double start = now_seconds();
        ok = bench_once(p, t, t->n, e);
        rates[i] = per_second((double)t->n * t->n_seq, now_seconds() - start);
        double after = ok ? bench_limit(p, t) : before;
        limits[i] = (before + after) / 2;
        shares[i] = rates[i] * cost / limits[i];
        before = after;
    }
    if (ok) {
        t->median = median(rates, repetitions);
        t->low = rates[0];
        t->high = rates[repetitions - 1];
        t->rate = t->median * cost;
        t->limit = median(limits, repetitions);
        t->share = median(shares, repetitions);
    }
    free(rates);
    return ok;
}

static void bench_print(const Program *p, const BenchTest *t, bool first) {
    const char *isa = p->engine.kernels->name, *quant = p->model.file.header->quant;
    const char *unit = t->generate ? "GB/s" : "TOPS";
    uint32_t threads = p->engine.options.threads;
    /* what limits a prompt is known for int8 only */
    bool limit = t->generate || p->model.quantized;
    char values[96] = "";
    if (p->options.format == 1) {
        if (limit)
            snprintf(values, sizeof values, "%s,%.3f,%.3f,%.4f", unit, t->rate, t->limit, t->share);
        if (first)
            printf("test,tokens_s,tokens_s_min,tokens_s_max,isa,threads,quant,unit,rate,limit,"
                   "share\n");
        printf("%s,%.3f,%.3f,%.3f,%s,%u,%s,%s\n", t->name, t->median, t->low, t->high, isa, threads,
               quant, limit ? values : ",,,");
    } else if (p->options.format == 2) {
        if (limit)
            snprintf(values, sizeof values,
                     ",\"unit\":\"%s\",\"rate\":%.3f,\"limit\":%.3f,\"share\":%.4f", unit, t->rate,
                     t->limit, t->share);
        printf("%s{\"test\":\"%s\",\"tokens_s\":%.3f,\"tokens_s_min\":%.3f,\"tokens_s_max\":%.3f,"
               "\"isa\":\"%s\",\"threads\":%u,\"quant\":\"%s\"%s}",
               first ? "[" : ",\n ", t->name, t->median, t->low, t->high, isa, threads, quant,
               values);
    } else {
        if (limit)
            snprintf(values, sizeof values, " %9.2f %9.2f %s %5.0f %%", t->rate, t->limit, unit,
                     t->share * 100);
        if (first)
            printf("%s (%s), %s, %u threads; limit: of this machine, measured beside each run\n"
                   "%-16s %9s %9s %9s %9s %9s %12s\n",
                   p->model.file.header->name, quant, isa, threads, "test", "tokens/s", "min",
                   "max", "rate", "limit", "share");
        printf("%-16s %9.2f %9.2f %9.2f%s\n", t->name, t->median, t->low, t->high, values);
    }
    fflush(stdout);
}

static int run_bench(Program *p) {
    Error e;
    size_t repetitions = (size_t)int_or(p->options.repetitions, 5);
    for (size_t i = 0; i < p->n_tests; i++) {
        const BenchTest *t = &p->tests[i];
        if ((uint64_t)t->n + t->depth <= p->engine.options.ctx) continue;
        fail(&e, NULL, "--bench", "%s needs %u positions, the context has %u (-c sets it)", t->name,
             t->n + t->depth, p->engine.options.ctx);
        return complain(&e, 2);
    }
    for (size_t i = 0; i < p->n_tests; i++) {
        BenchTest *t = &p->tests[i];
        if (!bench_run(p, t, repetitions, &e))
            return complain(&e, p->not_finite ? 3 : interrupts ? 130 : 1);
        bench_print(p, t, i == 0);
    }
    if (p->options.format == 2) printf("]\n");
    return 0;
}

/* ---- 19. Perplexity and verify --------------------------------------------------------------- */

#define SCORE_ROWS 32u /* tokens whose logits are looked at together */

/* -ln p(next) for logits (V), which are changed. */
static double negative_log_likelihood(const Engine *e, float *logits, int32_t next) {
    float max, wanted = logits[next];
    uint32_t n = e->model->config->vocab_size;
    if (!e->kernels->max_finite(logits, n, &max)) return NAN;
    return log((double)e->kernels->exp_sum(logits, n, max, 1)) + (double)(max - wanted);
}

/* A model and what it makes of the text. */
typedef struct {
    Model *model;
    Engine *engine;
    float *logits; /* (SCORE_ROWS, V) */
    double nll;    /* the sum of its negative log-likelihoods */
    bool not_finite;
} Scored;

typedef struct {
    Scored model, reference; /* reference: for --kl, else empty */
    double *kl;              /* (count) divergence at each token that was scored */
    size_t count, same_best; /* same_best: tokens where both think the same likeliest */
} Score;

/* The logits are those of the wanted tokens: add up the likelihoods of what follows these; next[i]
 * follows tokens[i]. The logits are changed. */
static bool score_likelihoods(Scored *s, const Token *tokens, const int32_t *next, uint32_t n,
                              Error *e) {
    float *row = s->logits;
    for (uint32_t i = 0; i < n; i++) {
        if (!tokens[i].want_logits) continue;
        double nll = negative_log_likelihood(s->engine, row, next[i]);
        s->not_finite = isnan(nll);
        if (s->not_finite) return fail(e, s->model->path, "logits", "not a finite number");
        s->nll += nll;
        row += logits_stride(s->model);
    }
    return true;
}

/* Compare the logits of n tokens, row by row. */
static void score_divergence(Score *s, uint32_t n) {
    uint32_t n_vocab = s->model.model->config->vocab_size;
    for (uint32_t i = 0; i < n; i++) {
        const float *q = s->model.logits + i * logits_stride(s->model.model);
        const float *p = s->reference.logits + i * logits_stride(s->reference.model);
        s->kl[s->count + i] = kl_divergence(p, q, n_vocab);
        s->same_best += best_id(p, n_vocab) == best_id(q, n_vocab);
    }
}

/* Score ids[from + 1 .. n) given what stands before each, in one window of n. */
static bool score_window(Score *s, const int32_t *ids, size_t n, size_t from, Error *e) {
    const Waiting quietly = {.progress = NULL};
    Token tokens[SCORE_ROWS];
    for (size_t at = 0; at + 1 < n; at += SCORE_ROWS) {
        uint32_t m = (uint32_t)min_size(SCORE_ROWS, n - 1 - at), wanted = 0;
        for (uint32_t i = 0; i < m; i++) {
            tokens[i] = (Token){ids[at + i], 0, (uint32_t)at + i, at + i >= from};
            wanted += tokens[i].want_logits;
        }
        if (!forward(s->model.engine, GIVEN, tokens, m, s->model.logits, &quietly) ||
            (s->reference.model &&
             !forward(s->reference.engine, GIVEN, tokens, m, s->reference.logits, &quietly)))
            return fail(e, NULL, "perplexity", "interrupted");
        if (s->reference.model) {
            score_divergence(s, wanted);
            if (!score_likelihoods(&s->reference, tokens, ids + at + 1, m, e)) return false;
        }
        if (!score_likelihoods(&s->model, tokens, ids + at + 1, m, e)) return false;
        s->count += wanted;
    }
    return true;
}

/* Windows of w tokens, each half a window on; scored whole (the first) or in the second half. */
static bool score_text(Score *s, const Ids *ids, Error *e) {
    size_t w = s->model.engine->options.ctx, half = w / 2;
    for (size_t start = 0; start + 1 < ids->n; start += w - half) {
        size_t n = min_size(w, ids->n - start);
        if (!score_window(s, ids->ids + start, n, start == 0 ? 0 : half - 1, e)) return false;
        if (start + n == ids->n) break;
    }
    return true;
}

static bool scored_open(Scored *s, Model *m, Engine *engine, Error *e) {
    *s = (Scored){.model = m, .engine = engine};
    s->logits = alloc_aligned(e, "logits", SCORE_ROWS * logits_stride(m), sizeof *s->logits);
    return s->logits != NULL;
}

/* Open the reference of --kl: it must take the same ids for the same text. */
static bool reference_open(const Program *p, Model *m, Engine *engine, Error *e) {
    EngineOptions options = p->engine.options;
    if (!model_load(m, p->options.kl, e)) return false;
    if (m->config->vocab_size != p->model.config->vocab_size)
        return fail(e, m->path, "vocab_size", "expected %u as in %s, got %u",
                    p->model.config->vocab_size, p->model.path, m->config->vocab_size);
    options.pool = p->engine.pool;
    return check_same_tokenizer(m, &p->model, e) &&
           check_context(m, options.yarn_factor, options.ctx, e) &&
           engine_open(engine, m, &options, e);
}

static void print_score(const Program *p, Score *s, size_t n_ids) {
    double n = (double)s->count, sum = 0;
    printf("perplexity %.6f, mean negative log-likelihood %.6f over %zu of %zu tokens, windows of "
           "%u\n",
           exp(s->model.nll / n), s->model.nll / n, s->count, n_ids, p->engine.options.ctx);
    if (!s->reference.model) return;
    for (size_t i = 0; i < s->count; i++) sum += s->kl[i];
    qsort(s->kl, s->count, sizeof *s->kl, compare_doubles);
    printf("KL divergence from %s: mean %.6g, 99th percentile %.6g, max %.6g nats; same likeliest "
           "token %.3f %%; perplexity of the reference %.6f\n",
           p->options.kl, sum / n, s->kl[(s->count * 99 + 99) / 100 - 1], s->kl[s->count - 1],
           100 * (double)s->same_best / n, exp(s->reference.nll / n));
}

static int run_perplexity(Program *p) {
    Error e;
    Ids ids = {0};
    Score s = {.count = 0};
    Model reference = {0};
    Engine engine = {0};
    bool ok = tokenizer_encode(p->model.tokenizer, p->text.data, p->text.n,
                               p->options.parse_special, &ids, &e);
    if (ok && ids.n < 2)
        ok = fail(&e, p->options.perplexity, "text", "expected at least 2 tokens, got %zu", ids.n);
    if (ok && p->engine.options.ctx < 2)
        ok = fail(&e, p->model.path, "context", "--perplexity needs 2 positions, this model has 1");
    ok = ok && scored_open(&s.model, &p->model, &p->engine, &e);
    if (ok && p->options.kl) {
        s.kl = alloc_array(&e, "divergences", ids.n, sizeof *s.kl);
        ok = s.kl && reference_open(p, &reference, &engine, &e) &&
             scored_open(&s.reference, &reference, &engine, &e);
    }
    ok = ok && score_text(&s, &ids, &e);
    if (ok) print_score(p, &s, ids.n);
    free(s.model.logits);
    free(s.reference.logits);
    free(s.kl);
    engine_close(&engine);
    model_unload(&reference);
    ids_free(&ids);
    int status = interrupts ? 130 : s.model.not_finite || s.reference.not_finite ? 3 : 1;
    return ok ? 0 : complain(&e, status);
}

typedef struct {
    const Program *p;
    Crc crc;
    Error *errors; /* (n_tensors) empty where all is well */
} VerifyJob;

static void verify_unit(void *ctx, uint32_t i, uint32_t thread) {
    (void)thread;
    VerifyJob *j = ctx;
    if (interrupts) return;
    model_verify_tensor(&j->p->model.file, i, &j->crc, j->p->model.path, &j->errors[i]);
}

static int run_verify(Program *p) {
    Error e;
    uint32_t n = p->model.file.header->n_tensors, bad = 0;
    VerifyJob j = {.p = p, .errors = alloc_array(&e, "verify", n, sizeof *j.errors)};
    if (!j.errors) return complain(&e, 1);
    crc_init(&j.crc);
    double start = now_seconds();
    parallel_for(p->engine.pool, n, verify_unit, &j);
    for (uint32_t i = 0; i < n; i++)
        if (j.errors[i].text[0]) complain(&j.errors[i], 1), bad++;
    bool stopped = interrupts != 0;
    if (stopped)
        fail(&e, p->model.path, NULL, "interrupted");
    else if (bad == 0)
        printf("%s: all %u tensors are as they were written (%.1f GB/s)\n", p->model.path, n,
               per_second((double)p->model.file.map.bytes * 1e-9, now_seconds() - start));
    free(j.errors);
    return stopped ? complain(&e, 130) : bad ? 1 : 0;
}

/* ---- 20. main -------------------------------------------------------------------------------- */

/* QWEN_LOOKUP and QWEN_DRAFT change only the time that an answer takes, so they are no options. */
static bool guess_setting(const char *name, int64_t *to, Error *e) {
    const char *text = environment(name);
    *to = GUESS_AUTO;
    if (!text || parse_int(text, 0, MAX_DRAFT, to)) return true;
    return fail(e, NULL, name, "expected 0 to %d, got \"%s\"", MAX_DRAFT, text);
}

/* Open the model of --draft. It shares the threads of the other, and may know fewer positions. */
static bool drafter_open(Program *p, Error *e) {
    Model *m = &p->draft_model;
    EngineOptions options = p->engine.options;
    if (!p->options.draft) return true;
    if (!model_load(m, p->options.draft, e) || !check_same_tokenizer(m, &p->model, e)) return false;
    options.ctx = (uint32_t)min_size(options.ctx, context_limit(m->config, 0));
    options.yarn_factor = 0;
    options.pool = p->engine.pool;
    if (!engine_open(&p->draft_engine, m, &options, e) ||
        !session_open(&p->drafter.session, &p->draft_engine, e))
        return false;
    p->session.drafter = &p->drafter;
    return true;
}

static bool program_open(Program *p, Error *e) {
    double start = now_seconds();
    EngineOptions engine = {0};
    p->generate = (GenerateOptions){.loop_guard = !p->options.no_loop_guard,
                                    .ignore_eos = p->options.ignore_eos,
                                    .progress = isatty(STDERR_FILENO) ? progress_line : NULL};
    if (!guess_setting("QWEN_LOOKUP", &p->generate.lookup, e) ||
        !guess_setting("QWEN_DRAFT", &p->generate.draft, e) ||
        !model_load(&p->model, p->options.model, e) ||
        !engine_options(&p->options, &p->model, &engine, e) ||
        !batch_size(&p->options, &p->model, p->n_prompts, &engine, e))
        return false;
    if (p->options.system) {
        p->model.chat.default_system = p->options.system;
        p->model.chat.default_system_len = strlen(p->options.system);
        p->model.chat.has_default_system = true;
    }
    for (size_t i = 0; i < p->n_tests; i++)
        if (p->tests[i].n_seq > engine.n_seq) engine.n_seq = p->tests[i].n_seq;
    if (!engine_open(&p->engine, &p->model, &engine, e) ||
        !session_open(&p->session, &p->engine, e) || !drafter_open(p, e))
        return false;
    program_sampling(p);
    p->load_s = now_seconds() - start;
    return true;
}

static void program_close(Program *p) {
    session_close(&p->drafter.session);
    engine_close(&p->draft_engine);
    model_unload(&p->draft_model);
    session_close(&p->session);
    engine_close(&p->engine);
    model_unload(&p->model);
    buffer_free(&p->text);
}

static void print_version(void) {
    printf("qwen.c %s:", QWEN_VERSION);
    for (uint32_t i = 0; kernels_available(i); i++) printf(" %s", kernels_available(i)->name);
    printf("\n");
}

static int program_run(Program *p, bool chat) {
    const Options *o = &p->options;
    if (o->verify) return run_verify(p);
    if (o->bench) return run_bench(p);
    if (o->perplexity) return run_perplexity(p);
    if (o->render || o->tokenize) return run_show_prompt(p);
    if (o->prompts) return run_batch(p);
    return chat ? run_chat(p) : run_answer(p);
}

/* The exit status, once everything that was printed has left the program. */
static int stdout_status(int status) {
    Error e;
    bool failed = ferror(stdout) != 0; /* an earlier write, which nobody looked at */
    if (fflush(stdout) != 0) failed = true;
    if (!failed || status != 0) return status;
    fail_errno(&e, NULL, "writing to stdout");
    return complain(&e, 1);
}

/* All that comes before the model is opened: the prompt's text, the file of --stats, signals.
 * *chat: there is no prompt, and a person to type it. Returns an exit status. */
static int program_prepare(Program *p, bool *chat, Error *e) {
    const Options *o = &p->options;
    bool reads = !o->verify && !o->bench;
    if (o->bench && !bench_parse(p, e)) return 2;
    *chat = reads && !o->prompt && !o->file && !o->messages && !o->prompts && !o->perplexity &&
            !o->render && !o->tokenize && isatty(STDIN_FILENO);
    if (reads && !*chat) {
        int status = read_prompt(o, &p->text, e);
        if (status) return status;
        if (o->prompts) p->n_prompts = count_lines(&p->text);
        int64_t last = MAX_SEED + 1 - (int64_t)p->n_prompts;
        if (o->seed > last)
            return fail(e, NULL, "--seed",
                        "expected at most %" PRId64 " for %zu prompts, got %" PRId64, last,
                        p->n_prompts, o->seed), 2;
    }
    if (o->stats && !check_stats_file(o->stats, e)) return 1;
    signal(SIGPIPE, SIG_IGN); /* writing to a closed pipe is then an error like any other */
    signal(SIGXFSZ, SIG_IGN); /* and so is writing beyond the limit of a file's size */
    /* Of many answers those that are there are written first. */
    void (*stop)(int) = o->prompts ? on_interrupt : end_by_signal;
    bool ok = handle_signal(SIGINT, on_interrupt, e) && handle_signal(SIGTERM, stop, e) &&
              handle_signal(SIGHUP, stop, e) && handle_signal(SIGBUS, on_bus_error, e);
    return ok ? 0 : 1;
}

int main(int argc, char **argv) {
    Error e;
    Program p = {0};
    if (!options_parse(argc, argv, &p.options, &e)) return complain(&e, 2);
    if (p.options.help) return print_help(), stdout_status(0);
    if (p.options.markdown) return print_help_markdown(), stdout_status(0);
    if (p.options.version) return print_version(), stdout_status(0);
    if (!options_check(&p.options, &e)) return complain(&e, 2);
    bool chat;
    int status = program_prepare(&p, &chat, &e);
    if (status == 0 && !program_open(&p, &e)) status = 1;
    status = status ? complain(&e, status) : program_run(&p, chat);
    program_close(&p);
    status = stdout_status(status);
    if (status == 130) end_by_signal(interrupted_by);
    return status;
}

#endif
