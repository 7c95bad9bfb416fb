/* test_mutate.c: every byte of a small model.bin's header, tokenizer and tables is set to other
 * values, with the checksum left and with the checksum repaired; the file is cut at every length;
 * bits of the weights are flipped. What is opened must be refused or be usable: then it is
 * tokenized with, evaluated and sampled from. The file lies in memory, its end at a page that
 * cannot be read, so that a read behind it ends the program.
 *
 * LONG=1 tries all 255 other values of every byte and every length; otherwise a selection. */
#define QWEN_NO_MAIN
#include "../qwen.c"

#include "child.h"
#include "memory_file.h"
#include "tiny.h"
#include "use_model.h"

static struct {
    Buffer good;   /* the model.bin */
    uint8_t *room; /* (room_bytes) and behind it a page that cannot be read */
    size_t room_bytes;
    size_t loads, accepted;
    bool full, slow;
} test;

/* The first n bytes of the good file, ending at the page that cannot be read: as near as an address
 * that is a multiple of 8 allows. */
static void place(size_t n) {
    memory_file.bytes = n;
    memory_file.data = test.room + (test.room_bytes - n) / 8 * 8;
    memcpy(memory_file.data, test.good.data, n);
}

static void repair(void) {
    const ModelHeader *h = (const void *)memory_file.data;
    size_t n = min_size(h->header_bytes, memory_file.bytes);
    if (n < MODEL_HEADER_BYTES) return;
    uint32_t crc = model_header_crc(memory_file.data, n);
    memcpy(memory_file.data + offsetof(ModelHeader, crc32c), &crc, sizeof crc);
}

/* Does a copy of the tokenizer section alone open, its end at the page that cannot be read? */
static bool section_opens(const Model *m) {
    const ModelHeader *h = m->file.header;
    size_t n = h->tokenizer_bytes;
    uint8_t *copy = test.room + (test.room_bytes - n) / 4 * 4, *saved = malloc(n);
    Error e;
    if (!saved) return false;
    memcpy(saved, copy, n);
    memmove(copy, m->file.map.data + h->tokenizer_offset, n);
    Tokenizer *t = tokenizer_open(copy, n, "copy", &e);
    bool ok = t != NULL;
    tokenizer_close(t);
    memcpy(copy, saved, n);
    free(saved);
    return ok;
}

/* Open and use the file. False with an Error when it is refused. */
static bool load(Error *e) {
    Model m;
    test.loads++;
    if (!model_load(&m, "mutated.bin", e)) return false;
    test.accepted++;
    bool ok = section_opens(&m) && use_model(&m, e);
    CHECK(ok, "a model that opened is not usable: %s", e->text);
    model_unload(&m);
    return true;
}

/* ---- Single bytes ---------------------------------------------------------------------------- */

static size_t header_bytes(void) {
    return ((const ModelHeader *)(const void *)test.good.data)->header_bytes;
}

/* Where the file says something: behind it the header is filled up with zeros. */
static size_t used_bytes(void) {
    const ModelHeader *h = (const void *)test.good.data;
    return h->tensors_offset + h->n_tensors * sizeof(TensorEntry);
}

/* The i-th value that a byte is set to, never its own. */
static uint8_t other_value(uint8_t own, unsigned i) {
    static const uint8_t chosen[] = {0x01, 0x80, 0xff, 0x7f, 0x81, 0x10};
    return test.full ? (uint8_t)(own + 1 + i) : own ^ chosen[i];
}

static void test_bytes(bool repaired) {
    unsigned n_values = test.full ? 255 : test.slow ? 2 : 6;
    size_t silent = 0, before = test.accepted, loads = test.loads;
    place(test.good.n);
    for (size_t at = 0; at < used_bytes(); at++) {
        uint8_t own = memory_file.data[at];
        for (unsigned i = 0; i < n_values; i++) {
            Error e = {{0}};
            memory_file.data[at] = other_value(own, i);
            if (repaired) repair();
            if (!load(&e)) silent += strncmp(e.text, "mutated.bin: ", 13) != 0;
        }
        memory_file.data[at] = own;
        if (repaired) repair();
    }
    size_t accepted = test.accepted - before;
    CHECK(silent == 0, "%zu refusals do not name the file", silent);
    if (!repaired)
        CHECK(accepted == 0, "%zu files with a wrong checksum opened", accepted);
    else
        CHECK(accepted > 100, "only %zu files opened: is the checksum repaired?", accepted);
    printf("%zu changed bytes, checksum %s: %zu opened\n", test.loads - loads,
           repaired ? "repaired" : "left", accepted);
}

/* Some bytes at a time, whole numbers mostly, where a single byte's change would be noticed. */
static void test_numbers(void) {
    static const uint64_t edge[] = {
        0,         1,          2,          16,         64,         255,        256,
        4096,      0x7fffffff, 0x80000000, 0xffffffff, 1ull << 32, 1ull << 63, UINT64_MAX - 63,
        UINT64_MAX};
    size_t trials = test.full ? 1000000 : test.slow ? 2000 : 30000, before = test.accepted;
    uint64_t state = 11;
    place(test.good.n);
    for (size_t i = 0; i < trials; i++) {
        size_t at[3], n = 1 + test_random(&state) % 3;
        for (size_t k = 0; k < n; k++) {
            uint64_t value, r = test_random(&state), width = r & 1 ? 4 : 8;
            at[k] = test_random(&state) % (used_bytes() / 4 - 2) * 4;
            memcpy(&value, memory_file.data + at[k], sizeof value);
            value = r & 2 ? edge[(r >> 8) % 15] : value + (r >> 8) % 33 - 16;
            memcpy(memory_file.data + at[k], &value, width);
        }
        repair();
        Error e = {{0}};
        (void)load(&e);
        for (size_t k = 0; k < n; k++) memcpy(memory_file.data + at[k], test.good.data + at[k], 8);
        /* the checksum may have been among them */
        memcpy(memory_file.data, test.good.data, 64);
    }
    CHECK(test.accepted > before, "some of %zu files open", trials);
    printf("%zu files with changed numbers: %zu opened\n", trials, test.accepted - before);
}

/* ---- Truncation ------------------------------------------------------------------------------ */

/* honest: the header gives the size that is left, and the checksum is right. */
static void test_cuts(bool honest) {
    size_t before = test.accepted, cuts = 0;
    for (size_t n = 0; n < test.good.n; n++) {
        if (!test.full && n > header_bytes() + 100 && n % 977 != 0) continue;
        place(n);
        uint64_t size = n;
        if (honest && n >= MODEL_HEADER_BYTES) {
            memcpy(memory_file.data + offsetof(ModelHeader, file_bytes), &size, sizeof size);
            repair();
        }
        Error e = {{0}};
        (void)load(&e);
        cuts++;
    }
    CHECK(test.accepted == before, "%zu cut files opened", test.accepted - before);
    printf("%zu lengths%s: %zu opened\n", cuts, honest ? ", the header changed along" : "",
           test.accepted - before);
}

/* ---- Flips in the weights: what --verify finds ----------------------------------------------- */

static void test_flips(void) {
    enum { FLIPS = 10000 };
    uint64_t state = 13, weights = 0;
    size_t found = 0;
    ModelFile m;
    Error e;
    Crc crc;
    crc_init(&crc);
    place(test.good.n);
    CHECK(model_open(&m, "flipped.bin", &e), "%s", e.text);
    for (uint32_t i = 0; i < m.header->n_tensors; i++) {
        CHECK(model_verify_tensor(&m, i, &crc, "flipped.bin", &e), "%s", e.text);
        weights += m.tensors[i].bytes;
    }
    for (int i = 0; i < FLIPS; i++) {
        uint64_t bit = test_random(&state) % (weights * 8), at = bit / 8;
        uint32_t t = 0;
        while (at >= m.tensors[t].bytes) at -= m.tensors[t++].bytes;
        uint8_t *byte = memory_file.data + m.tensors[t].offset + at;
        *byte = (uint8_t)(*byte ^ 1u << bit % 8);
        e.text[0] = 0;
        found += !model_verify_tensor(&m, t, &crc, "flipped.bin", &e) &&
                 strstr(e.text, m.tensors[t].name) != NULL;
        *byte = (uint8_t)(*byte ^ 1u << bit % 8);
    }
    model_close(&m);
    CHECK(found == FLIPS, "%zu of %d flipped bits found", found, FLIPS);
    printf("%zu of %d flipped bits found\n", found, FLIPS);
}

/* ---- All of it ------------------------------------------------------------------------------- */

static bool read_good(Error *e) {
    char path[] = P_tmpdir "/test_mutate_XXXXXX";
    int fd = mkstemp(path);
    if (fd < 0) return fail_errno(e, path, "cannot create");
    close(fd);
    bool ok = tiny_model(path, "q8", TINY_ENDS, e) && read_file(path, 1u << 30, &test.good, e);
    unlink(path);
    return ok;
}

int main(void) {
    Error e = {{0}};
    test.full = getenv("LONG") != NULL;
    test.slow = INSTRUMENTED || getenv("SLOW"); /* SLOW: under valgrind */
    bool ok = read_good(&e);
    CHECK(ok, "%s", e.text);
    if (!ok) return test_end("mutate");
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    test.room_bytes = test.good.n + page;
    test.room_bytes = (test.room_bytes + page - 1) / page * page;
    void *room = mmap(NULL, test.room_bytes + page, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    ok = room != MAP_FAILED && mprotect((uint8_t *)room + test.room_bytes, page, PROT_NONE) == 0;
    CHECK(ok, "memory");
    if (!ok) return test_end("mutate");
    test.room = room;
    memory_file.on = true;
    place(test.good.n);
    ok = load(&e);
    CHECK(ok, "the good file: %s", e.text);
    test_bytes(false);
    test_bytes(true);
    test_numbers();
    test_cuts(false);
    test_cuts(true);
    test_flips();
    munmap(room, test.room_bytes + page);
    buffer_free(&test.good);
    return test_end("mutate");
}
