/* write.c: plan and source -> model.bin.
 *
 * A tensor is written in chunks of some panels; threads take the panels of a chunk one by one, so
 * the bytes do not depend on how many threads there are. Every panel is compared with the blocks
 * that it was made of before it is written. Header and tables come last: until then the file is no
 * model.bin, and until the very last step it does not have its name. */
#include <errno.h>
#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "convert.h"

#define CHUNK_BYTES (8u << 20) /* about so much is converted before it is written */
#define MAX_CHUNK_PANELS 1024
#define MAX_THREADS 64

/* One thread's memory, for 16 rows of the widest tensor. */
typedef struct {
    uint8_t *raw;    /* (16 rows) as the source stores them */
    uint8_t *blocks; /* (16 rows) of the target's blocks */
    float *x;        /* (16, cols) */
    float *back;     /* (cols) one row, restored from its blocks */
} Scratch;

typedef struct {
    WriteJob *job;
    size_t tensor, first, n; /* panels [first, first + n) of this tensor */
    uint8_t *out;            /* (n) panels */
    double error[MAX_CHUNK_PANELS], power[MAX_CHUNK_PANELS]; /* (n) sums of squares */
    atomic_size_t next; /* the panel that the next free thread takes */
    atomic_bool failed; /* by any of them: the others stop */
} Chunk;

typedef struct {
    Chunk *chunk;
    Scratch scratch;
    pthread_t thread;
    bool failed;
    Error error; /* when it failed */
} Worker;

typedef struct {
    WriteJob *job;
    NewFile file;
    Crc crc;
    Chunk chunk;
    size_t out_room; /* bytes of chunk.out */
    Worker workers[MAX_THREADS];
    unsigned n_workers;
    double started, shown; /* when work began; when progress was last shown */
} Writer;

/* ---- One panel ------------------------------------------------------------------------------- */

/* Quantize row r of the scratch and add up what that loses. */
static void quantize_measured(Type type, const SourceTensor *t, size_t r, Scratch *s, double *error,
                              double *power) {
    SourceType blocks = target_source_type(type);
    uint8_t *row = s->blocks + r * source_row_bytes(blocks, t->cols);
    const float *x = s->x + r * t->cols;
    quantize_row(type, x, t->cols, row);
    source_row_to_float(blocks, row, t->cols, s->back);
    double row_error = 0, row_power = 0;
    for (size_t k = 0; k < t->cols; k++) {
        double d = (double)s->back[k] - (double)x[k];
        row_error += d * d;
        row_power += (double)x[k] * (double)x[k];
    }
    *error += row_error;
    *power += row_power;
}

/* Can the type hold all these weights? An adapter may have made some huge, or NaN. */
static bool check_sizes(Type type, const float *x, size_t n) {
    float most = largest_weight(type);
    bool ok = true;
    for (size_t i = 0; i < n; i++) ok &= fabsf(x[i]) <= most;
    return ok;
}

/* n raw rows of the scratch into wider blocks, proved to be the same weights. */
static bool widen_rows(const WriteJob *job, const SourceTensor *t, Type type, size_t n, Scratch *s,
                       Error *e) {
    SourceType wider = target_source_type(type);
    size_t raw_bytes = source_row_bytes(t->type, t->cols), bytes = source_row_bytes(wider, t->cols);
    for (size_t r = 0; r < n; r++) {
        const uint8_t *raw = s->raw + r * raw_bytes;
        uint8_t *row = s->blocks + r * bytes;
        widen_row(t->type, raw, t->cols, row);
        source_row_to_float(t->type, raw, t->cols, s->x);
        source_row_to_float(wider, row, t->cols, s->back);
        if (memcmp(s->x, s->back, t->cols * sizeof *s->x) != 0)
            return fail(e, source_file(job->source, t), t->name, "%s differs from its %s",
                        source_type_name(wider), source_type_name(t->type));
    }
    return true;
}

/* Panel number `panel` of the tensor -> out, proved. */
static bool make_panel(const WriteJob *job, size_t tensor, size_t panel, Scratch *s, uint8_t *out,
                       double *error, double *power, Error *e) {
    const SourceTensor *t = &job->source->tensors[tensor];
    Type type = (Type)job->plan->entries[tensor].type;
    size_t first = panel * PANEL_ROWS, n = min_size(PANEL_ROWS, t->rows - first);
    size_t row_bytes = source_row_bytes(target_source_type(type), t->cols);
    const uint8_t *blocks = s->raw;
    if (!source_read_rows(job->source, t, first, n, s->raw, e)) return false;
    if (!job->plan->copy[tensor]) {
        size_t raw_bytes = source_row_bytes(t->type, t->cols);
        for (size_t r = 0; r < n; r++)
            source_row_to_float(t->type, s->raw + r * raw_bytes, t->cols, s->x + r * t->cols);
        if (job->lora) lora_add(job->lora, t, first, n, s->x);
        if (!check_sizes(type, s->x, n * t->cols))
            return fail(e, source_file(job->source, t), t->name, "its values are too large for %s",
                        type_info(type)->name);
        for (size_t r = 0; r < n; r++) quantize_measured(type, t, r, s, error, power);
        blocks = s->blocks;
    } else if (target_source_type(type) != t->type) {
        if (!widen_rows(job, t, type, n, s, e)) return false;
        blocks = s->blocks;
    }
    pack_panel(type, t->cols, blocks, row_bytes, n, out);
    if (panel_matches(type, t->cols, blocks, row_bytes, n, out)) return true;
    return fail(e, source_file(job->source, t), t->name,
                "rows from %zu on: the panel differs from its blocks", first);
}

/* ---- A chunk of panels, on all threads ------------------------------------------------------- */

static void *work(void *arg) {
    Worker *w = arg;
    Chunk *c = w->chunk;
    const SourceTensor *t = &c->job->source->tensors[c->tensor];
    size_t bytes = panel_bytes((Type)c->job->plan->entries[c->tensor].type, t->cols);
    for (;;) {
        size_t i = atomic_fetch_add(&c->next, 1);
        if (i >= c->n || atomic_load(&c->failed)) return NULL;
        w->failed = !make_panel(c->job, c->tensor, c->first + i, &w->scratch, c->out + i * bytes,
                                &c->error[i], &c->power[i], &w->error);
        if (w->failed) atomic_store(&c->failed, true);
    }
}

/* Fill the chunk. A thread that cannot be had is done without: this one works too. */
static bool run_chunk(Writer *w, Error *e) {
    unsigned started = 1;
    memset(w->chunk.error, 0, sizeof w->chunk.error);
    memset(w->chunk.power, 0, sizeof w->chunk.power);
    atomic_store(&w->chunk.next, 0);
    while (started < w->n_workers && started < w->chunk.n &&
           pthread_create(&w->workers[started].thread, NULL, work, &w->workers[started]) == 0)
        started++;
    work(&w->workers[0]);
    for (unsigned i = 1; i < started; i++) pthread_join(w->workers[i].thread, NULL);
    for (unsigned i = 0; i < started; i++) {
        if (!w->workers[i].failed) continue;
        *e = w->workers[i].error;
        return false;
    }
    return true;
}

/* ---- Progress -------------------------------------------------------------------------------- */

static void show_progress(Writer *w, size_t tensor, uint64_t done, bool last) {
    FILE *out = w->job->progress;
    double now = now_seconds(), spent = now - w->started;
    if (!out || (!last && now - w->shown < 0.1)) return;
    w->shown = now;
    const Plan *p = w->job->plan;
    double begin = (double)p->header_bytes, total = (double)p->file_bytes - begin;
    double part = ((double)done - begin) / total, rate = spent > 0 ? part * total / spent : 0;
    fprintf(out, "\r[%4zu/%zu] %3.0f %%  %4.0f MB/s  ETA %.0f s \x1b[K%s", tensor, p->n, 100 * part,
            rate / 1e6, part > 0 ? spent * (1 - part) / part : 0.0, last ? "\r\x1b[K" : "");
    fflush(out);
}

/* ---- Tensors --------------------------------------------------------------------------------- */

/* Zeros from `at` to the next tensor's place. */
static bool write_gap(Writer *w, uint64_t at, Error *e) {
    static const uint8_t zeros[TENSOR_ALIGN];
    return newfile_pwrite(&w->file, zeros, (TENSOR_ALIGN - at % TENSOR_ALIGN) % TENSOR_ALIGN, at,
                          e);
}

static bool write_vector(Writer *w, size_t i, Error *e) {
    const WriteJob *job = w->job;
    const SourceTensor *t = &job->source->tensors[i];
    TensorEntry *entry = &job->plan->entries[i];
    Scratch *s = &w->workers[0].scratch;
    if (!source_read_rows(job->source, t, 0, 1, s->raw, e)) return false;
    source_row_to_float(t->type, s->raw, t->cols, s->x);
    entry->crc32c = crc_update(&w->crc, 0, s->x, entry->bytes);
    return newfile_pwrite(&w->file, s->x, entry->bytes, entry->offset, e);
}

static void report_tensor(const Writer *w, size_t i, double error, double power) {
    const WriteJob *job = w->job;
    const TensorEntry *t = &job->plan->entries[i];
    if (!job->report) return;
    fprintf(job->report, "%-50s %-5s %7u x %-6u ", t->name, type_info((Type)t->type)->name, t->rows,
            t->cols);
    if (job->plan->copy[i])
        fprintf(job->report, "bit for bit\n");
    else
        fprintf(job->report, "rms error %.3e\n", power > 0 ? sqrt(error / power) : 0.0);
}

static bool write_matrix(Writer *w, size_t i, Error *e) {
    const WriteJob *job = w->job;
    const SourceTensor *t = &job->source->tensors[i];
    TensorEntry *entry = &job->plan->entries[i];
    size_t bytes = panel_bytes((Type)entry->type, t->cols), step = w->out_room / bytes;
    size_t n_panels = entry->bytes / bytes;
    double error = 0, power = 0;
    w->chunk.tensor = i;
    step = min_size(step, MAX_CHUNK_PANELS);
    for (size_t first = 0; first < n_panels; first += step) {
        w->chunk.first = first;
        w->chunk.n = min_size(step, n_panels - first);
        if (!not_stopped(job->stop, e) || !run_chunk(w, e)) return false;
        for (size_t k = 0; k < w->chunk.n; k++) {
            error += w->chunk.error[k];
            power += w->chunk.power[k];
        }
        size_t n = w->chunk.n * bytes;
        uint64_t at = entry->offset + first * bytes;
        entry->crc32c = crc_update(&w->crc, entry->crc32c, w->chunk.out, n);
        if (!newfile_pwrite(&w->file, w->chunk.out, n, at, e)) return false;
        size_t row = first * PANEL_ROWS;
        source_drop_rows(job->source, t, row, min_size(w->chunk.n * PANEL_ROWS, t->rows - row));
        show_progress(w, i + 1, at + n, false);
    }
    w->job->error += error;
    w->job->power += power;
    report_tensor(w, i, error, power);
    return true;
}

static bool write_tensors(Writer *w, Error *e) {
    const Plan *p = w->job->plan;
    for (size_t i = 0; i < p->n; i++) {
        bool vector = w->job->source->tensors[i].vector;
        if (!(vector ? write_vector(w, i, e) : write_matrix(w, i, e)) ||
            !write_gap(w, p->entries[i].offset + p->entries[i].bytes, e))
            return false;
    }
    show_progress(w, p->n, p->file_bytes, true);
    return true;
}

/* ---- Header, tokenizer, tables --------------------------------------------------------------- */

static bool write_header(Writer *w, const uint8_t sha256[32], Error *e) {
    const Source *s = w->job->source;
    const Plan *p = w->job->plan;
    uint8_t *page = alloc_array(e, "header", p->header_bytes, 1);
    if (!page) return false;
    ModelHeader h = s->header;
    if (w->job->lora) { /* both names, cut when they are long */
        const char *name = lora_name(w->job->lora);
        char base[59], adapter[59];
        printable(base, sizeof base, h.source, strlen(h.source));
        printable(adapter, sizeof adapter, name, strlen(name));
        snprintf(h.source, sizeof h.source, "%s + lora %s", base, adapter);
    }
    memcpy(h.magic, MODEL_MAGIC, sizeof h.magic);
    h.version = MODEL_VERSION;
    h.file_bytes = p->file_bytes;
    h.header_bytes = p->header_bytes;
    h.tokenizer_offset = MODEL_HEADER_BYTES;
    h.tokenizer_bytes = s->tokenizer.n;
    h.tensors_offset = p->tensors_offset;
    h.n_tensors = (uint32_t)p->n;
    memcpy(h.quant, p->quant, sizeof h.quant);
    memcpy(h.source_sha256, sha256, sizeof h.source_sha256);
    snprintf(h.converter, sizeof h.converter, "%s", CONVERTER);
    memcpy(page, &h, sizeof h);
    memcpy(page + MODEL_HEADER_BYTES, s->tokenizer.data, s->tokenizer.n);
    memcpy(page + p->tensors_offset, p->entries, p->n * sizeof *p->entries);
    h.crc32c = model_header_crc(page, p->header_bytes);
    memcpy(page, &h, sizeof h);
    bool ok = newfile_pwrite(&w->file, page, p->header_bytes, 0, e);
    free(page);
    return ok;
}

/* ---- The source's checksum, beside the work -------------------------------------------------- */

typedef struct {
    const WriteJob *job;
    uint8_t sha256[32];
} HashTask;

/* It gives up when the work is to stop, which is looked at when both are done. */
static void *hash_source(void *arg) {
    HashTask *h = arg;
    (void)source_hash(h->job->source, h->job->lora, h->job->stop, h->sha256);
    return NULL;
}

/* ---- Preparation ----------------------------------------------------------------------------- */

/* Does the disk have room where the file is being written, beside the target of a link? Some file
 * systems, which grow in memory or lie elsewhere, say that they have no blocks at all. */
static bool check_space(const NewFile *f, uint64_t need, Error *e) {
    struct statvfs v;
    if (statvfs(f->temporary, &v) != 0) return fail_errno(e, f->path, "cannot write here");
    size_t free_bytes;
    if (!mul_ok(v.f_bavail, v.f_frsize, &free_bytes)) free_bytes = SIZE_MAX;
    if (need <= free_bytes || v.f_blocks == 0) return true;
    return fail(e, f->path, NULL, "not enough space: %llu bytes needed, %llu free",
                (unsigned long long)need, (unsigned long long)free_bytes);
}

static bool alloc_workers(Writer *w, Error *e) {
    const Source *s = w->job->source;
    size_t raw = 0, blocks = 0, cols = 0, panel = 0;
    for (size_t i = 0; i < s->n_tensors; i++) {
        const SourceTensor *t = &s->tensors[i];
        Type type = (Type)w->job->plan->entries[i].type;
        cols = max_size(cols, t->cols);
        raw = max_size(raw, source_row_bytes(t->type, t->cols));
        blocks = max_size(blocks, source_row_bytes(target_source_type(type), t->cols));
        panel = max_size(panel, panel_bytes(type, t->cols));
    }
    w->n_workers = (unsigned)min_size(max_size(w->job->n_threads, 1), MAX_THREADS);
    w->out_room = max_size(CHUNK_BYTES, panel);
    w->chunk.out = alloc_array(e, "panels", w->out_room, 1);
    if (!w->chunk.out) return false;
    for (unsigned i = 0; i < w->n_workers; i++) {
        Scratch *m = &w->workers[i].scratch;
        w->workers[i].chunk = &w->chunk;
        m->raw = alloc_array(e, "rows", raw, PANEL_ROWS);
        m->blocks = alloc_array(e, "rows", blocks, PANEL_ROWS);
        m->x = alloc_array(e, "rows", cols, PANEL_ROWS * sizeof(float));
        m->back = alloc_array(e, "rows", cols, sizeof(float));
        if (!m->raw || !m->blocks || !m->x || !m->back) return false;
    }
    return true;
}

static void writer_free(Writer *w) {
    newfile_abort(&w->file);
    free(w->chunk.out);
    for (unsigned i = 0; i < w->n_workers; i++) {
        Scratch *m = &w->workers[i].scratch;
        free(m->raw);
        free(m->blocks);
        free(m->x);
        free(m->back);
    }
    free(w);
}

/* Everything between an open temporary file and its rename. */
static bool write_all(Writer *w, Error *e) {
    HashTask hash = {.job = w->job};
    pthread_t thread;
    bool running = pthread_create(&thread, NULL, hash_source, &hash) == 0;
    bool ok = write_tensors(w, e);
    int none = 0;
    if (!ok) atomic_compare_exchange_strong(w->job->stop, &none, -1);
    if (running)
        pthread_join(thread, NULL);
    else
        hash_source(&hash);
    ok = ok && not_stopped(w->job->stop, e) && source_unchanged(w->job->source, w->job->lora, e) &&
         write_header(w, hash.sha256, e);
    return ok && newfile_commit(&w->file, e);
}

bool write_model(WriteJob *job, const char *path, Error *e) {
    job->error = job->power = 0;
    Writer *w = alloc_array(e, "writer", 1, sizeof *w);
    if (!w) return false;
    w->job = w->chunk.job = job;
    w->file.fd = -1;
    w->started = now_seconds();
    crc_init(&w->crc);
    bool ok = may_replace(path, MODEL_MAGIC, e) && alloc_workers(w, e) &&
              newfile_open(&w->file, path, e) && check_space(&w->file, job->plan->file_bytes, e) &&
              write_all(w, e);
    if (!ok && job->progress) fprintf(job->progress, "\r\x1b[K");
    writer_free(w);
    return ok;
}
