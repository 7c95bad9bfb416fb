/* plan.c: which type each tensor gets, and where it lies in the file.
 *
 *   --quant   q8, f32, f16, bf16: every matrix alike
 *             q4, q5: the mix of a Q4_K_M or Q5_K_M file: q6 for the head and for v and down in the
 *             layers that matter most (half of them), q4 or q5 for the rest
 *   none      a GGUF file's own weights, bit for bit; q8 for everything else
 *
 * Formats in blocks need columns in whole blocks. Where they are not: q4 -> q5_0, q5 -> q5_1 and
 * q6 -> q8 (blocks of 32), as llama.cpp does, then f16, and f32 for values beyond f16's range. GGUF
 * types that model.bin lacks take the next one that holds their weights (Q4_1 becomes q5_1, Q3_K
 * q6, IQ4_NL q8); where there is none (Q2_K, IQ4_XS), q8, the format that loses least. */
#include <stdlib.h>

#include "convert.h"

/* ---- Types ----------------------------------------------------------------------------------- */

bool quant_type(const char *text, Type *type, Error *e) {
    static const Type types[] = {TYPE_Q8, TYPE_Q5, TYPE_Q4, TYPE_F32, TYPE_F16, TYPE_BF16};
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++)
        if (strcmp(text, type_info(types[i])->name) == 0) return *type = types[i], true;
    return fail(e, NULL, "--quant", "expected q8, q5, q4, f32, f16 or bf16, got \"%s\"", text);
}

static bool is_block_type(SourceType t) { return t != SRC_F32 && t != SRC_F16 && t != SRC_BF16; }

/* What stands behind N in "model.layers.N...", and N; NULL for tensors outside of the layers. */
static const char *split_layer(const char *name, uint32_t *layer) {
    static const char prefix[] = "model.layers.";
    if (strncmp(name, prefix, sizeof prefix - 1) != 0) return NULL;
    *layer = 0;
    const char *p = name + sizeof prefix - 1;
    for (; *p >= '0' && *p <= '9'; p++) *layer = 10 * *layer + (uint32_t)(*p - '0');
    return p;
}

/* What a Q4_K_M or Q5_K_M file has in place of q4 or q5 for this matrix; other types stay. */
static Type mixed_type(Type want, const char *name, const ModelConfig *c) {
    if (want != TYPE_Q4 && want != TYPE_Q5) return want;
    if (strcmp(name, "lm_head.weight") == 0) return TYPE_Q6;
    if (strcmp(name, "model.embed_tokens.weight") == 0)
        return c->tie_word_embeddings ? TYPE_Q6 : want;
    uint32_t i, n = c->num_hidden_layers;
    const char *rest = split_layer(name, &i);
    bool v = rest && strcmp(rest, ".self_attn.v_proj.weight") == 0;
    if (!v && (!rest || strcmp(rest, ".mlp.down_proj.weight") != 0)) return want;
    if (i < n / 8 || i >= 7 * n / 8 || (i - n / 8) % 3 == 2) return TYPE_Q6;
    return v && n == 80 ? TYPE_Q5 : want; /* 72B: v is small, eight heads of q share each of it */
}

/* Does every value fit f16 (with an adapter: before it is added)? */
static bool fits_f16(const Source *s, const SourceTensor *t, atomic_int *stop, bool *fits,
                     Error *e) {
    *fits = true;
    if (t->type == SRC_F16 || s->n_files == 0) return true; /* random weights are small */
    size_t row_bytes = source_row_bytes(t->type, t->cols), step = (16u << 20) / row_bytes + 1;
    uint8_t *row = alloc_array(e, t->name, 1, row_bytes);
    float *x = alloc_array(e, t->name, t->cols, sizeof *x);
    bool ok = row && x;
    float most = largest_weight(TYPE_F16);
    for (size_t r = 0; ok && *fits && r < t->rows; r++) {
        ok = not_stopped(stop, e) && source_read_rows(s, t, r, 1, row, e);
        if (ok) source_row_to_float(t->type, row, t->cols, x);
        for (size_t k = 0; ok && k < t->cols; k++)
            if (x[k] > most || x[k] < -most) *fits = false;
        if (r % step == step - 1 || r == t->rows - 1u)
            source_drop_rows(s, t, r / step * step, r % step + 1);
    }
    free(row);
    free(x);
    return ok;
}

/* The nearest type to `want` that this matrix can have. */
static bool possible_type(const Source *s, const SourceTensor *t, Type want, atomic_int *stop,
                          Type *type, Error *e) {
    *type = want;
    if (t->cols % type_info(want)->block != 0) {
        *type = want == TYPE_Q4 ? TYPE_Q5_0 : want == TYPE_Q5 ? TYPE_Q5_1 : TYPE_Q8;
        if (t->cols % 32 != 0) *type = TYPE_F16;
    }
    bool fits = true;
    if (*type == TYPE_F16 && !fits_f16(s, t, stop, &fits, e)) return false;
    if (!fits) *type = TYPE_F32;
    return true;
}

/* ---- The plan -------------------------------------------------------------------------------- */

/* Tensors that the user is told about, those that differ only in their layer together. */
typedef struct {
    char kind[96]; /* the name, its layer replaced by * */
    SourceType from;
    uint32_t to;
    size_t n;
} Group;
typedef struct {
    size_t n, n_groups;
    Group groups[96]; /* 9 kinds of matrices in few types: never more in practice */
} List;

/* What the plan has to tell. */
typedef struct {
    List lost;        /* blocks that are replaced by others */
    List wide;        /* stored as f16 or f32 because nothing smaller can hold them */
    size_t n_unknown; /* of the lost ones: types that model.bin does not have */
} Notes;

static void list_add(List *l, const SourceTensor *t, uint32_t to) {
    Group g = {.from = t->type, .to = to};
    uint32_t layer;
    const char *rest = split_layer(t->name, &layer);
    snprintf(g.kind, sizeof g.kind, "%s%s", rest ? "model.layers.*" : "", rest ? rest : t->name);
    size_t i = 0;
    while (i < l->n_groups && (strcmp(l->groups[i].kind, g.kind) != 0 ||
                               l->groups[i].from != g.from || l->groups[i].to != to))
        i++;
    l->n++;
    if (i == sizeof l->groups / sizeof l->groups[0]) return;
    if (i == l->n_groups) l->groups[l->n_groups++] = g;
    l->groups[i].n++;
}

/* ": 28 model.layers.*.mlp.up_proj.weight (Q4_K to q8), ..." and the end of the line */
static bool write_list(const List *l, Buffer *out, Error *e) {
    for (size_t i = 0; i < l->n_groups; i++) {
        const Group *g = &l->groups[i];
        if (!buffer_printf(out, e, "%s%zu %s (%s to %s)", i ? ", " : ": ", g->n, g->kind,
                           source_type_name(g->from), type_info((Type)g->to)->name))
            return false;
    }
    return buffer_puts(out, "\n", e);
}

/* What planning needs at every step, and what it collects. */
typedef struct {
    const Source *source;
    const Lora *lora;  /* or NULL */
    const Type *quant; /* as asked, or NULL to keep the source's own */
    atomic_int *stop;
    Plan *plan;
    Notes notes;
} Planner;

/* The type of matrix i. */
static bool plan_matrix(Planner *a, size_t i, Error *e) {
    const Source *s = a->source;
    const SourceTensor *t = &s->tensors[i];
    Plan *p = a->plan;
    Type own = TYPE_F32, want = a->quant ? *a->quant : TYPE_Q8, type;
    bool touched = a->lora && lora_touches(a->lora, t), has_own = keeping_type(t->type, &own);
    /* What an adapter changes is rounded anew: 4 bits, and types that are only kept in a wider one,
     * are too coarse for that. */
    bool rounds = touched && (target_source_type(own) != t->type || type_info(own)->codes == 4);
    if (a->quant)
        want = mixed_type(want, t->name, &s->header.config);
    else if (has_own && !rounds)
        want = own;
    if (!possible_type(s, t, want, a->stop, &type, e)) return false;
    p->entries[i].type = (uint32_t)type;
    p->copy[i] = has_own && own == type && !touched;
    if (type != want && (type == TYPE_F16 || type == TYPE_F32)) list_add(&a->notes.wide, t, type);
    if (!is_block_type(t->type) || p->copy[i] || type == TYPE_F32) return true;
    a->notes.n_unknown += !has_own;
    list_add(&a->notes.lost, t, type);
    return true;
}

static bool write_notes(const Source *s, const Notes *notes, bool asked, Plan *p, Error *e) {
    const List *wide = &notes->wide, *lost = &notes->lost;
    if (wide->n && (!buffer_printf(&p->notes, e,
                                   "note: the shape or the values of %zu matrices do not "
                                   "fit the type asked for",
                                   wide->n) ||
                    !write_list(wide, &p->notes, e)))
        return false;
    if (lost->n == 0) return true;
    const char *why = asked              ? " (as asked)"
                      : notes->n_unknown ? " (model.bin has no such type)"
                                         : " (for the adapter)";
    return buffer_printf(&p->notes, e,
                         "warning: %zu of %zu tensors of this %s file are quantized "
                         "again%s, which loses a little",
                         lost->n, s->n_tensors, s->quant[0] ? s->quant : "GGUF", why) &&
           write_list(lost, &p->notes, e);
}

/* `at` plus n bytes, rounded up to a multiple of m. Nothing overflows here: the tokenizer is in
 * memory, and no more than MAX_TENSORS (2^14) tensors have 2^40 bytes at most. */
static uint64_t behind(uint64_t at, uint64_t n, uint64_t m) { return (at + n + m - 1) / m * m; }

/* Offsets of the sections and of every tensor. */
static void lay_out(const Source *s, Plan *p) {
    uint64_t at = p->tensors_offset = behind(MODEL_HEADER_BYTES, s->tokenizer.n, LINE_BYTES);
    at = p->header_bytes = behind(at, p->n * sizeof *p->entries, TENSOR_ALIGN);
    for (size_t i = 0; i < p->n; i++) {
        p->entries[i].offset = at;
        at = behind(at, p->entries[i].bytes, TENSOR_ALIGN);
    }
    p->file_bytes = at;
}

static void name_quant(const Source *s, const char *quant, size_t n_unknown, Plan *p) {
    const char *name = quant ? quant : s->quant[0] ? s->quant : "q8";
    bool changed = !quant && s->quant[0] && n_unknown;
    snprintf(p->quant, sizeof p->quant, "%.12s%s", name, changed ? ">q8" : "");
}

static bool plan_tensors(Planner *a, Error *e) {
    for (uint32_t i = 0; i < a->plan->n; i++) {
        TensorEntry *entry = &a->plan->entries[i];
        TensorShape shape;
        model_tensor(&a->source->header.config, i, &shape);
        memcpy(entry->name, shape.name, sizeof entry->name);
        entry->rows = shape.rows;
        entry->cols = shape.cols;
        if (!shape.vector && !plan_matrix(a, i, e)) return false;
        entry->bytes = tensor_bytes(&shape, (Type)entry->type);
    }
    return true;
}

bool plan_make(const Source *s, const Lora *l, const char *quant, atomic_int *stop, Plan *p,
               Error *e) {
    *p = (Plan){.n = s->n_tensors};
    Type type = TYPE_Q8;
    if (quant && !quant_type(quant, &type, e)) return false;
    p->entries = alloc_array(e, "plan", p->n, sizeof *p->entries);
    p->copy = alloc_array(e, "plan", p->n, sizeof *p->copy);
    if (!p->entries || !p->copy) return false;
    bool keep = !quant && s->quant[0];
    Planner a = {.source = s, .lora = l, .quant = keep ? NULL : &type, .stop = stop, .plan = p};
    bool ok = plan_tensors(&a, e) && write_notes(s, &a.notes, quant != NULL, p, e);
    lay_out(s, p);
    name_quant(s, quant, a.notes.n_unknown, p);
    return ok;
}

void plan_free(Plan *p) {
    free(p->entries);
    free(p->copy);
    buffer_free(&p->notes);
    *p = (Plan){0};
}
