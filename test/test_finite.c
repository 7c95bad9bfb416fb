/* test_finite.c: a NaN or an infinity in any kind of tensor, of any type, must be noticed at the
 * token that meets it, by every instruction set: the engine then says so, and the program ends with
 * status 3. A model file lies in memory, where one weight is replaced. */
#define QWEN_NO_MAIN
#include "../qwen.c"

#include "child.h"
#include "memory_file.h"
#include "tiny.h"

static struct {
    Buffer file;
    char path[300], bin[400];
    size_t planted;
} test;

/* ---- Planting -------------------------------------------------------------------------------- */

static const struct {
    const char *name;
    uint32_t f32;
    uint16_t f16, bf16;
} values[] = {{"NaN", 0x7fc00000, 0x7e00, 0x7fc0},
              {"-NaN", 0xffc00001, 0xfe01, 0xffc1},
              {"infinity", 0x7f800000, 0x7c00, 0x7f80},
              {"-infinity", 0xff800000, 0xfc00, 0xff80}};
#define N_VALUES 4

/* Where the number lies that decides over the weight at (row, col): itself, or its block's scale.
 */
static uint8_t *place_of(uint8_t *data, Type type, bool vector, size_t cols, size_t row,
                         size_t col) {
    uint8_t *panel = data + row / PANEL_ROWS * panel_bytes(type, cols);
    size_t n = row % PANEL_ROWS;
    if (vector) return data + 4 * col;
    switch (type) {
    case TYPE_F32: return panel + col * LINE_BYTES + 4 * n;
    case TYPE_F16:
    case TYPE_BF16: return panel + col / 2 * LINE_BYTES + 4 * n + col % 2 * 2;
    case TYPE_Q8: return panel + col / 64 * 17 * LINE_BYTES + 2 * (col % 64 / 32 * 16 + n);
    case TYPE_Q5_0: return panel + col / 64 * 11 * LINE_BYTES + 2 * (col % 64 / 32 * 16 + n);
    case TYPE_Q5_1: return panel + (col / 64 * 12 + 1) * LINE_BYTES + 2 * (col % 64 / 32 * 16 + n);
    case TYPE_Q5: return panel + (col / 256 * 44 + 43) * LINE_BYTES + 2 * n;
    case TYPE_Q4: return panel + (col / 256 * 36 + 35) * LINE_BYTES + 2 * n;
    case TYPE_Q6: return panel + 2 * (col / 256 * 16 + n);
    default: return NULL;
    }
}

static const char *note(const TensorEntry *t, size_t value, const char *isa) {
    static char text[160];
    snprintf(text, sizeof text, "%s in %s (%s), %s", values[value].name, t->name,
             type_info((Type)t->type)->name, isa);
    return text;
}

/* ---- Feeding --------------------------------------------------------------------------------- */

/* Does the engine notice it while it reads these tokens? */
static Fed feed(Engine *engine, const int32_t *ids, size_t n) {
    Session s;
    Error e;
    Fed fed = FED_FAILED;
    if (session_open(&s, engine, &e)) fed = session_feed(&s, GIVEN, ids, n, NULL, &e);
    session_close(&s);
    return fed;
}

/* One weight of tensor t becomes each of the values in turn. */
static void plant(Model *m, Engine *engine, uint32_t t, uint64_t *state) {
    static const int32_t ids[] = {7, 30, 2, 9, 30, 71};
    const TensorEntry *entry = &m->file.tensors[t];
    TensorShape shape;
    model_tensor(m->config, t, &shape);
    uint8_t *data = (uint8_t *)test.file.data + entry->offset;
    size_t row = test_random(state) % entry->rows, col = test_random(state) % entry->cols;
    if (t == 0) row = 30; /* the embedding is read for the tokens alone */
    uint8_t *at = place_of(data, (Type)entry->type, shape.vector, entry->cols, row, col), old[4];
    size_t bytes = entry->type == TYPE_F32 ? 4 : 2;
    memcpy(old, at, sizeof old);
    for (size_t v = 0; v < N_VALUES; v++) {
        uint16_t half = entry->type == TYPE_BF16 ? values[v].bf16 : values[v].f16;
        memcpy(at, bytes == 4 ? (const void *)&values[v].f32 : (const void *)&half, bytes);
        const char *isa = engine->kernels->name;
        CHECK(feed(engine, ids, 6) == FED_NOT_FINITE, "not noticed: %s", note(entry, v, isa));
        CHECK(feed(engine, ids, 2) == FED_NOT_FINITE, "in 2 tokens: %s", note(entry, v, isa));
        if (t > 0)
            CHECK(feed(engine, ids, 1) == FED_NOT_FINITE, "in 1 token: %s", note(entry, v, isa));
        test.planted++;
    }
    memcpy(at, old, sizeof old);
    CHECK(feed(engine, ids, 6) == FED, "all is well again after %s", entry->name);
}

static void test_engines(const char *quant) {
    uint64_t state = 19;
    uint32_t every = getenv("SLOW") ? 16 : INSTRUMENTED ? 4 : 1; /* SLOW: under valgrind */
    Model m;
    Error e;
    memory_file.data = (uint8_t *)test.file.data;
    memory_file.bytes = test.file.n;
    memory_file.on = true;
    bool ok = model_load(&m, "memory", &e);
    CHECK(ok, "%s: %s", quant, e.text);
    for (uint32_t i = 0; ok && kernels_available(i); i++) {
        Engine engine;
        EngineOptions o = {.threads = 1, .ctx = 32, .n_seq = 1, .isa = kernels_available(i)->name};
        for (o.kv_f32 = false;; o.kv_f32 = true) {
            ok = engine_open(&engine, &m, &o, &e);
            CHECK(ok, "%s: %s", quant, e.text);
            for (uint32_t t = 0; ok && t < m.file.header->n_tensors; t++)
                if ((t + i) % every == 0) plant(&m, &engine, t, &state);
            if (ok) engine_close(&engine);
            if (o.kv_f32 || !ok) break;
        }
    }
    if (ok) model_unload(&m);
    memory_file.on = false;
}

/* ---- The program ----------------------------------------------------------------------------- */

/* The same from outside, once for each kind of tensor of the first layer and around it. */
static void test_program(void) {
    static Child c;
    const char *qwen = getenv("QWEN");
    const ModelHeader *h = (const void *)test.file.data;
    const TensorEntry *tensors = (const void *)(test.file.data + h->tensors_offset);
    char *argv[] = {(char *)(qwen ? qwen : "./qwen"),
                    test.bin,
                    "--raw",
                    "-p",
                    "ab",
                    "-n",
                    "5",
                    "-t",
                    "1",
                    NULL};
    ChildOptions o = {.folder = NULL};
    for (uint32_t t = 0; t < h->n_tensors; t++) {
        if (t > 12 && t + 2 < h->n_tensors) continue;
        TensorShape shape;
        model_tensor(&h->config, t, &shape);
        uint8_t *data = (uint8_t *)test.file.data + tensors[t].offset, old[4];
        size_t row = t == 0 ? 64 : 0; /* 'a' is token 64 */
        uint8_t *at = place_of(data, (Type)tensors[t].type, shape.vector, tensors[t].cols, row, 0);
        memcpy(old, at, sizeof old);
        memcpy(at, &values[t % N_VALUES].f32, 4);
        FILE *f = fopen(test.bin, "wb");
        CHECK(f && fwrite(test.file.data, 1, test.file.n, f) == test.file.n && fclose(f) == 0, "%s",
              test.bin);
        memcpy(at, old, sizeof old);
        child_run(&c, argv, &o);
        CHECK(c.status == 3 && strstr(c.err, "logits: not a finite number at position 1"),
              "%s: status %d, %s", tensors[t].name, c.status, c.err);
        CHECK(c.out_bytes == 0, "%s: said something first", tensors[t].name);
    }
}

/* ---- All of it ------------------------------------------------------------------------------- */

static void run_good(char *const argv[]) {
    static Child c;
    ChildOptions o = {.folder = NULL};
    child_run(&c, argv, &o);
    CHECK(c.status == 0, "%s: %s", argv[0], c.err);
}

/* A model whose matrices are wide enough for q4, q5 and q6: make_tiny's. */
static bool wide_model(const char *program, const char *quant, Error *e) {
    const char *slash = strrchr(program, '/'), *convert = getenv("CONVERT");
    char maker[PATH_MAX], folder[400];
    snprintf(maker, sizeof maker, "%.*s/make_tiny", slash ? (int)(slash - program) : 1,
             slash ? program : ".");
    snprintf(folder, sizeof folder, "%s.hf", test.path);
    char *make[] = {maker, folder, NULL}, *rm[] = {"rm", "-rf", folder, NULL};
    char *quantize[] = {(char *)(convert ? convert : "./convert/convert"),
                        folder,
                        "-o",
                        test.path,
                        "--quant",
                        (char *)quant,
                        NULL};
    run_good(make);
    unlink(test.path);
    run_good(quantize);
    run_good(rm);
    return read_file(test.path, 1u << 30, &test.file, e);
}

static bool small_model(const char *quant, Error *e) {
    return tiny_model(test.path, quant, TINY_ENDS, e) &&
           read_file(test.path, 1u << 30, &test.file, e);
}

int main(int argc, char **argv) {
    static const char *const quants[] = {"wide q4", "wide q5", "q4",   "q5",
                                         "q8",      "f16",     "bf16", "f32"};
    Error e = {{0}};
    (void)argc;
    snprintf(test.path, sizeof test.path, "%s/test_finite_XXXXXX", P_tmpdir);
    int fd = mkstemp(test.path);
    CHECK(fd >= 0, "%s", test.path);
    if (fd < 0) return test_end("finite");
    close(fd);
    snprintf(test.bin, sizeof test.bin, "%s.bin", test.path);
    for (size_t i = 0; i < sizeof quants / sizeof quants[0]; i++) {
        buffer_free(&test.file);
        bool ok = i < 2 ? wide_model(argv[0], quants[i] + 5, &e) : small_model(quants[i], &e);
        CHECK(ok, "%s: %s", quants[i], e.text);
        if (ok) test_engines(quants[i]);
    }
    test_program();
    printf("%zu numbers planted\n", test.planted);
    buffer_free(&test.file);
    unlink(test.path);
    unlink(test.bin);
    return test_end("finite");
}
