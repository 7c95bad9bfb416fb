/* test_memory.c: every place where memory, a file or a write can fail, in this one process: the
 * parsers, the tokenizer, the templates, the planner and the writer are called as the programs call
 * them, and every single call of libc below them fails in turn (faults.c). Each must then either
 * have done without, with the same result, or say so in one line and leave no file; the build with
 * AddressSanitizer finds what was not freed.
 *
 * test_faults.c does the same with the whole programs. What it does not reach: a buffer asks for
 * memory only now and then. Here a buffer is full at all times, so that each addition asks. */
#include <dirent.h>
#include <errno.h>

#include "child.h"
#include "faults.c"
#include "tiny_gguf.h"

static const char *const calls[] = {"malloc", "calloc", "realloc",        "strdup", "strndup",
                                    "mmap",   "open",   "read",           "pwrite", "fsync",
                                    "rename", "fstat",  "pthread_create", "stat",   "statvfs",
                                    "close",  "fflush", "fprintf",        "fputc",  "fwrite"};
#define N_CALLS (sizeof calls / sizeof calls[0])

/* ---- What stands in the place of the real functions (--wrap, see the Makefile) --------------- */

/* A buffer without room to spare; when it gets none, it has what it had. */
static size_t fill(Buffer *b) {
    size_t room = b->room;
    b->room = min_size(b->room, b->n);
    return room;
}

bool __wrap_buffer_add(Buffer *b, const void *bytes, size_t n, Error *e);
bool __real_buffer_add(Buffer *b, const void *bytes, size_t n, Error *e);
bool __wrap_buffer_add(Buffer *b, const void *bytes, size_t n, Error *e) {
    size_t room = fill(b);
    bool ok = __real_buffer_add(b, bytes, n, e);
    if (!ok) b->room = room;
    return ok;
}

bool __wrap_buffer_puts(Buffer *b, const char *text, Error *e);
bool __wrap_buffer_puts(Buffer *b, const char *text, Error *e) {
    return __wrap_buffer_add(b, text, strlen(text), e);
}

bool __wrap_buffer_printf(Buffer *b, Error *e, const char *fmt, ...);
bool __wrap_buffer_printf(Buffer *b, Error *e, const char *fmt, ...) {
    char text[8192];
    va_list args;
    va_start(args, fmt);
    int n = vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    if (n < 0 || (size_t)n >= sizeof text) abort();
    return __wrap_buffer_add(b, text, (size_t)n, e);
}

bool __wrap_ids_add(Ids *list, int32_t id, Error *e);
bool __real_ids_add(Ids *list, int32_t id, Error *e);
bool __wrap_ids_add(Ids *list, int32_t id, Error *e) {
    list->room = list->n;
    return __real_ids_add(list, id, e);
}

/* A panel that was packed wrong: "pack_panel" is one more call that can fail. */
void __wrap_pack_panel(Type t, size_t cols, const uint8_t *blocks, size_t row_bytes, size_t n_rows,
                       uint8_t *panel);
void __real_pack_panel(Type t, size_t cols, const uint8_t *blocks, size_t row_bytes, size_t n_rows,
                       uint8_t *panel);
void __wrap_pack_panel(Type t, size_t cols, const uint8_t *blocks, size_t row_bytes, size_t n_rows,
                       uint8_t *panel) {
    __real_pack_panel(t, cols, blocks, row_bytes, n_rows, panel);
    if (fails("pack_panel", 0)) panel[0] ^= 0x40;
}

/* ---- What is tried --------------------------------------------------------------------------- */

static struct {
    char root[512], folder[600]; /* of the good files; where files are written */
    Source hf, gguf, odd;        /* opened before anything fails; odd: has columns of 40 */
    Tokenizer *tokenizer;
    FILE *nowhere;
    size_t points, refused;
} test;

static Error scratch;

static void need(bool ok, const char *what) {
    if (ok) return;
    fprintf(stderr, "test_memory: %s: %s\n", what, scratch.text[0] ? scratch.text : "failed");
    exit(1);
}

/* ROOT/NAME; eight results stay valid at a time */
static const char *in_root(const char *name) {
    static char room[8][1200];
    static unsigned turn;
    char *path = room[turn++ % 8];
    snprintf(path, sizeof room[0], "%s/%s", test.root, name);
    return path;
}

static uint32_t sum_of(const void *bytes, size_t n, uint32_t sum) {
    Crc crc;
    crc_init(&crc);
    return crc_update(&crc, sum, bytes, n);
}

static const char conversation[] =
    "[{\"role\":\"system\",\"content\":\"Be brief.\"},{\"role\":\"user\",\"content\":\"hello\"},"
    "{\"role\":\"assistant\",\"content\":\"so\",\"tool_calls\":[{\"function\":{\"name\":\"f\","
    "\"arguments\":{\"a\":[1,-0.5,null,true,{\"b\":\"\\u00e9\\n\\\"\"}]}}}]},"
    "{\"role\":\"tool\",\"content\":{\"x\":\"it's\\t\\ud83d\\ude00\\u200b\\\\\",\"y\":[]}},"
    "{\"role\":\"tool\",\"content\":[{\"type\":\"text\",\"text\":\"a\"}]},"
    "{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"b\"}]}]";
static const char tool_list[] = "[{\"type\":\"function\",\"function\":{\"name\":\"f\"}},{\"n\":1}]";

/* Parse a text with everything in it, from memory and from a file, and write a string. */
static bool try_json(Error *e, uint32_t *sum) {
    Buffer out = {0};
    JsonDoc *doc = json_parse(conversation, sizeof conversation - 1, "text", e);
    JsonDoc *file = doc ? json_read(in_root("hf/tokenizer.json"), 1u << 24, e) : NULL;
    const char text[] = "plain \" \\ \n \x01 more";
    bool ok = file && json_quote(&out, text, sizeof text - 1, e);
    if (ok) *sum = sum_of(out.data, out.n, (uint32_t)json_root(file)->n);
    buffer_free(&out);
    json_free(doc);
    json_free(file);
    return ok;
}

/* Every family, with and without tools, a system message of its own, a reply. */
static bool render(const ChatTemplate *tpl, const char *text, const Json *tools, ChatPrompt *out,
                   Error *e) {
    JsonDoc *doc = json_parse(text, strlen(text), "messages", e);
    bool ok = doc && chat_render(tpl, test.tokenizer, json_root(doc), tools, true, false,
                                 "messages", out, e);
    json_free(doc);
    return ok;
}

static bool try_chat(Error *e, uint32_t *sum) {
    static const char bare[] = "[{\"role\":\"user\",\"content\":\"hello\"}]";
    static const char answered[] =
        "[{\"role\":\"user\",\"content\":\"a\"},{\"role\":\"assistant\",\"content\":\"b\"}]";
    ChatTemplate tpl = {
        .default_system = "You are.", .default_system_len = 8, .has_default_system = true};
    ChatPrompt out = {{0}, {0}};
    JsonDoc *tools = json_parse(tool_list, sizeof tool_list - 1, "tools", e);
    bool ok = tools != NULL;
    for (int family = CHAT_QWEN25; ok && family <= CHAT_QWEN15_EARLY; family++) {
        const Json *with = family == CHAT_QWEN25 ? json_root(tools) : NULL;
        tpl.family = (ChatFamily)family;
        ok = render(&tpl, bare, NULL, &out, e) && render(&tpl, answered, with, &out, e);
        if (with) ok = ok && render(&tpl, conversation, with, &out, e);
        ok = ok && chat_turn(&tpl, test.tokenizer, "user", "hello", 5, false, &out, e) &&
             chat_open_reply(&tpl, test.tokenizer, &out, e) &&
             chat_close_reply(&tpl, test.tokenizer, &out, e);
    }
    if (ok) *sum = sum_of(out.ids.ids, out.ids.n * sizeof *out.ids.ids, 0);
    chat_prompt_free(&out);
    json_free(tools);
    return ok;
}

/* Open the section; encode accents in both forms, a word of more bytes than the short way takes,
 * marks by the hundred, Hangul, added tokens. */
static bool try_tokenizer(Error *e, uint32_t *sum) {
    Buffer text = {0};
    Ids ids = {0};
    Tokenizer *t = tokenizer_open(test.hf.tokenizer.data, test.hf.tokenizer.n, "section", e);
    bool ok = t && buffer_puts(&text, "caf\u00e9 cafe\u0301 \u1112\u1161\u11ab \ud55c ", e);
    for (int i = 0; ok && i < 300; i++) ok = buffer_puts(&text, "hello", e);
    ok = ok && buffer_puts(&text, "<|im_start|>a", e);
    for (int i = 0; ok && i < 40; i++) ok = buffer_puts(&text, "\u0344", e); /* two of one */
    for (int i = 0; ok && i < 150; i++) ok = buffer_puts(&text, i % 2 ? "\u0301" : "\u0323", e);
    ok = ok && buffer_puts(&text, " end<|im_end|>\n", e) &&
         tokenizer_encode(t, text.data, text.n, true, &ids, e);
    if (ok) *sum = sum_of(ids.ids, ids.n * sizeof *ids.ids, 0);
    ids_free(&ids);
    buffer_free(&text);
    tokenizer_close(t);
    return ok;
}

static bool try_open(const char *name, Error *e, uint32_t *sum) {
    Source s;
    if (!source_open(in_root(name), &s, e)) return false;
    *sum = sum_of(s.tokenizer.data, s.tokenizer.n, 0);
    *sum = sum_of(s.tensors, s.n_tensors * sizeof *s.tensors, *sum);
    source_close(&s);
    return true;
}
static bool try_hf(Error *e, uint32_t *sum) { return try_open("hf", e, sum); }
static bool try_vocab(Error *e, uint32_t *sum) { return try_open("vocab", e, sum); }
static bool try_shards(Error *e, uint32_t *sum) { return try_open("shards", e, sum); }

/* More tokens than the table of their texts has places for at first. */
static bool try_tokens(Error *e, uint32_t *sum) {
    TokenBuilder *b = tokens_new("tokens", e);
    bool ok = b != NULL;
    char text[16];
    for (uint32_t id = 0; ok && id < 600; id++) {
        int n = snprintf(text, sizeof text, "%u", id);
        ok = tokens_add(b, id, text, (size_t)n, e);
    }
    tokens_free(b);
    *sum = 1;
    return ok;
}

static bool try_gguf(Error *e, uint32_t *sum) { return try_open("good.gguf", e, sum); }
static bool try_parts(Error *e, uint32_t *sum) { return try_open("x-00001-of-00002.gguf", e, sum); }

static bool try_lora(Error *e, uint32_t *sum) {
    Lora *l = lora_open(in_root("hf/adapter"), &test.hf, e);
    if (!l) return false;
    *sum = sum_of(lora_name(l), strlen(lora_name(l)), 0);
    lora_close(l);
    return true;
}

/* The plan alone, where it has something to tell. */
static bool try_plan(Error *e, uint32_t *sum) {
    static const char *const quants[] = {"q5", "f16", "q8"};
    atomic_int stop = 0;
    for (size_t i = 0; i < 1 + sizeof quants / sizeof quants[0]; i++) {
        Plan p;
        bool ok = plan_make(i < 3 ? &test.gguf : &test.odd, NULL, quants[i % 3], &stop, &p, e);
        if (ok) *sum = sum_of(p.entries, p.n * sizeof *p.entries, *sum);
        if (ok && p.notes.n) *sum = sum_of(p.notes.data, p.notes.n, *sum);
        plan_free(&p);
        if (!ok) return false;
    }
    return true;
}

/* ... and a model.bin, which is removed again. */
static bool write_source(const Source *s, const Lora *l, const char *quant, FILE *to, Error *e,
                         uint32_t *sum) {
    Plan p = {0};
    atomic_int stop = 0;
    char path[700];
    snprintf(path, sizeof path, "%s/x.bin", test.folder);
    WriteJob job = {.source = s,
                    .lora = l,
                    .plan = &p,
                    .n_threads = 2,
                    .stop = &stop,
                    .progress = to,
                    .report = to};
    bool ok = plan_make(s, l, quant, &stop, &p, e) && write_model(&job, path, e);
    for (size_t i = 0; ok && i < p.n; i++)
        *sum = sum_of(&p.entries[i].crc32c, sizeof p.entries[i].crc32c, *sum);
    if (ok) unlink(path);
    plan_free(&p);
    return ok;
}

static bool try_write(Error *e, uint32_t *sum) {
    return write_source(&test.gguf, NULL, NULL, test.nowhere, e, sum);
}

static bool try_write_lora(Error *e, uint32_t *sum) {
    Lora *l = lora_open(in_root("hf/adapter"), &test.hf, e);
    bool ok = l && write_source(&test.hf, l, "bf16", NULL, e, sum);
    lora_close(l);
    return ok;
}

static bool try_info(Error *e, uint32_t *sum) {
    static const char *const names[] = {"good.bin", "hf", "good.gguf"};
    FILE *f = fdopen(memfd_create("info", MFD_CLOEXEC), "w");
    bool ok = f != NULL || fail(e, NULL, NULL, "no file");
    for (size_t i = 0; ok && i < sizeof names / sizeof names[0]; i++)
        ok = info_print(in_root(names[i]), i == 0, f, e);
    if (ok) *sum = (uint32_t)ftell(f);
    if (f && fclose(f) != 0) ok = fail(e, NULL, NULL, "fclose");
    return ok;
}

static bool try_replace(Error *e, uint32_t *sum) {
    *sum = 1;
    return may_replace(in_root("good.bin"), MODEL_MAGIC, e);
}

static bool try_model(Error *e, uint32_t *sum) {
    ModelFile m;
    if (!model_open(&m, in_root("good.bin"), e)) return false;
    *sum = m.header->n_tensors;
    model_close(&m);
    return true;
}

static const struct {
    const char *name;
    bool (*run)(Error *e, uint32_t *sum);
} tries[] = {
    {"JSON", try_json},     {"chat", try_chat},           {"tokenizer", try_tokenizer},
    {"folder", try_hf},     {"vocab.json", try_vocab},    {"shards", try_shards},
    {"GGUF", try_gguf},     {"GGUF in parts", try_parts}, {"adapter", try_lora},
    {"plan", try_plan},     {"writer", try_write},        {"writer, adapter", try_write_lora},
    {"info", try_info},     {"model", try_model},         {"replace", try_replace},
    {"tokens", try_tokens},
};
#define N_TRIES (sizeof tries / sizeof tries[0])

/* ---- Trying ---------------------------------------------------------------------------------- */

/* Call `name` fails the at-th time (0: never), and `forever` after; error: its errno, 0: the usual
 * one. */
static void arm(const char *name, long at, bool forever, int error) {
    for (size_t i = 0; i < MAX_NAMES; i++) {
        fault.counts[i].name = NULL;
        fault.counts[i].calls = 0;
    }
    snprintf(fault.name, sizeof fault.name, "%s", name);
    fault.at = at;
    fault.forever = forever;
    fault.error = error;
}

static long calls_of(const char *name) {
    for (size_t i = 0; i < MAX_NAMES && fault.counts[i].name; i++)
        if (strcmp(fault.counts[i].name, name) == 0) return fault.counts[i].calls;
    return 0;
}

/* Is there nothing, or a whole model.bin whose folder could not be synced? It is removed. */
static bool folder_ok(void) {
    char path[700];
    ModelFile m;
    Error e;
    Crc crc;
    crc_init(&crc);
    snprintf(path, sizeof path, "%s/x.bin", test.folder);
    bool whole = model_open(&m, path, &e), none = access(path, F_OK) != 0;
    for (uint32_t i = 0; whole && i < m.header->n_tensors; i++)
        whole = model_verify_tensor(&m, i, &crc, path, &e);
    model_close(&m);
    bool alone = folder_count(test.folder) == (none ? 0 : 1);
    folder_empty(test.folder);
    return alone && (none || whole);
}

/* One call fails: the same result, or a line and nothing left. Returns whether it was done. */
static bool run_fault(size_t t, const char *name, long at, bool forever, int error, uint32_t good) {
    Error e = {{0}};
    uint32_t sum = 0;
    arm(name, at, forever, error);
    bool ok = tries[t].run(&e, &sum);
    arm("", 0, false, 0);
    test.points++;
    test.refused += !ok;
    CHECK(!ok || sum == good, "%s, %s:%ld: another result", tries[t].name, name, at);
    CHECK(ok || (e.text[0] && !strchr(e.text, '\n')), "%s, %s:%ld: no line", tries[t].name, name,
          at);
    CHECK(folder_ok(), "%s, %s:%ld: half a file was left", tries[t].name, name, at);
    return ok;
}

static void run_all_faults(size_t t) {
    Error e;
    uint32_t good = 0;
    long n[N_CALLS];
    arm("", 0, false, 0);
    CHECK(tries[t].run(&e, &good), "%s: %s", tries[t].name, e.text);
    size_t refused = test.refused;
    for (size_t k = 0; k < N_CALLS; k++) n[k] = calls_of(calls[k]);
    for (size_t k = 0; k < N_CALLS; k++)
        for (long i = 1; i <= n[k]; i++) run_fault(t, calls[k], i, i % 2 == 0, 0, good);
    CHECK(test.refused > refused, "%s: nothing was refused", tries[t].name);
}

/* Failures that are none, or that no call of libc gives. */
static void test_special(void) {
    size_t w = 0;
    while (strcmp(tries[w].name, "writer") != 0) w++;
    Error e;
    uint32_t good = 0;
    arm("", 0, false, 0);
    CHECK(tries[w].run(&e, &good), "%s", e.text);
    long n_close = calls_of("close");
    for (long i = 1; i <= n_close; i++)
        CHECK(run_fault(w, "close", i, false, EINTR, good), "an interrupted close has closed");
    CHECK(!run_fault(w, "fsync", 1, false, EINVAL, good), "the file must be on the disk");
    CHECK(run_fault(w, "fsync", 2, false, EINVAL, good), "a folder that cannot be synced");
    CHECK(run_fault(w, "fsync", 1, false, EINTR, good), "an interrupted sync is done again");
    CHECK(!run_fault(w, "pwrite_none", 1, false, 0, good), "nothing is written");
    CHECK(!run_fault(w, "space", 1, false, 0, good), "the disk is full");
    CHECK(run_fault(w, "endless", 1, false, 0, good), "the disk has no end");
    CHECK(!run_fault(w, "pack_panel", 1, false, 0, good), "a panel that was packed wrong");
    CHECK(!run_fault(w, "pack_panel", 3, false, 0, good), "a panel that was packed wrong");
}

/* ---- The good files -------------------------------------------------------------------------- */

static void run_program(char *const argv[]) {
    static Child child;
    ChildOptions o = {0};
    child_run(&child, argv, &o);
    need(child.status == 0, child.err);
}

static void write_bytes(const char *name, const void *bytes, size_t n) {
    const char *path = in_root(name);
    FILE *f = fopen(path, "wb");
    need(f && fwrite(bytes, 1, n, f) == n && fclose(f) == 0, path);
}

/* FOLDER/NAME is hf/FROM */
static void link_good(const char *folder, const char *name, const char *from) {
    char to[128], at[128];
    snprintf(to, sizeof to, "../hf/%s", from);
    snprintf(at, sizeof at, "%s/%s", folder, name);
    need(symlink(to, in_root(at)) == 0, at);
}

static void make_folder(const char *folder) {
    static const char *const names[] = {"config.json", "generation_config.json"};
    need(mkdir(in_root(folder), 0777) == 0, folder);
    for (size_t i = 0; i < 2; i++) link_good(folder, names[i], names[i]);
}

/* The same model with its tokenizer in vocab.json, merges.txt and added_tokens.json. */
static void make_vocab(void) {
    JsonDoc *doc = json_read(in_root("hf/tokenizer.json"), 1u << 24, &scratch);
    need(doc != NULL, "tokenizer.json");
    const Json *model = json_get(json_root(doc), "model"), *vocab = json_get(model, "vocab");
    Buffer b = {0};
    make_folder("vocab");
    link_good("vocab", "model.safetensors", "model.safetensors");
    link_good("vocab", "tokenizer_config.json", "tokenizer_config.json");
    write_bytes("vocab/vocab.json", vocab->source, vocab->source_len);
    bool ok = buffer_puts(&b, "#version: 0.2\n", &scratch);
    for (const Json *m = json_get(model, "merges")->child; ok && m; m = m->next)
        ok = buffer_printf(&b, &scratch, "%s\n", m->string);
    write_bytes("vocab/merges.txt", b.data, b.n);
    buffer_free(&b);
    for (const Json *a = json_get(json_root(doc), "added_tokens")->child; ok && a; a = a->next)
        ok = buffer_printf(&b, &scratch, "%s\"%s\":%d", b.n ? "," : "{",
                           json_get(a, "content")->string, (int)json_get(a, "id")->number);
    ok = ok && buffer_puts(&b, "}", &scratch);
    need(ok, "vocab");
    write_bytes("vocab/added_tokens.json", b.data, b.n);
    buffer_free(&b);
    json_free(doc);
}

/* ... and with an index of its weights, and its template in a file. */
static void make_shards(void) {
    static const char file[] = "model-00001-of-00001.safetensors";
    JsonDoc *doc = json_read(in_root("hf/tokenizer_config.json"), 1u << 20, &scratch);
    need(doc != NULL, "tokenizer_config.json");
    const Json *template = json_get(json_root(doc), "chat_template");
    Buffer b = {0};
    make_folder("shards");
    link_good("shards", file, "model.safetensors");
    link_good("shards", "tokenizer.json", "tokenizer.json");
    write_bytes("shards/chat_template.jinja", template->string, template->string_len);
    bool ok = buffer_puts(&b, "{\"weight_map\":", &scratch);
    for (size_t i = 0; ok && i < test.hf.n_tensors; i++)
        ok = buffer_printf(&b, &scratch, "%s\"%s\":\"%s\"", i ? "," : "{", test.hf.tensors[i].name,
                           file);
    need(ok && buffer_puts(&b, "}}", &scratch), "shards");
    write_bytes("shards/model.safetensors.index.json", b.data, b.n);
    buffer_free(&b);
    json_free(doc);
}

/* The small GGUF file, or one of its parts. */
static void write_gguf(const char *name, const GgufCase *c) {
    Buffer gguf = {0};
    gguf_write(c, &gguf);
    write_bytes(name, gguf.data, gguf.n);
    buffer_free(&gguf);
}

static void make_gguf(void) {
    const GgufCase plain = {.at = 0};
    const GgufCase total = {.key = "split.tensors.count", .type = U32 + 1, .bits = 26};
    const GgufCase count = {.key = "split.count", .type = U32 + 1, .bits = 2, .also = &total};
    const GgufCase one = {.last = 9, .also = &count};
    const GgufCase two = {.key = "split.no",
                          .type = U32 + 1,
                          .bits = 1,
                          .first = 9,
                          .last = 26,
                          .bare = true,
                          .also = &count};
    write_gguf("good.gguf", &plain);
    write_gguf("x-00001-of-00002.gguf", &one);
    write_gguf("x-00002-of-00002.gguf", &two);
}

/* Matrices that no blocks fit: of a hidden size of 40. They are planned, never read. */
static void make_odd(const char *hf) {
    SourceTensor *list = NULL;
    size_t n = 0;
    need(source_open(hf, &test.odd, &scratch), hf);
    test.odd.header.config.hidden_size = 40;
    need(expected_tensors(&test.odd.header.config, &list, &n, &scratch), "odd");
    for (size_t i = 0; i < n; i++) list[i].type = SRC_F16;
    free(test.odd.tensors);
    test.odd.tensors = list;
    test.odd.n_tensors = n;
}

static void make_good(const char *program) {
    char maker[PATH_MAX], hf[700];
    const char *slash = strrchr(program, '/');
    snprintf(maker, sizeof maker, "%.*s/make_tiny", slash ? (int)(slash - program) : 1,
             slash ? program : ".");
    snprintf(hf, sizeof hf, "%s", in_root("hf"));
    char *make[] = {maker, hf, NULL};
    run_program(make);
    make_gguf();
    need(source_open(hf, &test.hf, &scratch), hf);
    need(source_open(in_root("good.gguf"), &test.gguf, &scratch), "good.gguf");
    test.tokenizer = tokenizer_open(test.hf.tokenizer.data, test.hf.tokenizer.n, hf, &scratch);
    test.nowhere = fopen("/dev/null", "we");
    need(test.tokenizer && test.nowhere, hf);
    make_odd(hf);
    make_vocab();
    make_shards();
    Plan p = {0};
    atomic_int stop = 0;
    WriteJob job = {.source = &test.gguf, .plan = &p, .n_threads = 1, .stop = &stop};
    need(plan_make(&test.gguf, NULL, NULL, &stop, &p, &scratch) &&
             write_model(&job, in_root("good.bin"), &scratch),
         "good.bin");
    plan_free(&p);
    need(mkdir(test.folder, 0777) == 0, test.folder);
}

int main(int argc, char **argv) {
    const char *base = getenv("TMPDIR");
    (void)argc;
    snprintf(test.root, sizeof test.root, "%.200s/memory-XXXXXX", base ? base : P_tmpdir);
    need(mkdtemp(test.root) != NULL, test.root);
    snprintf(test.folder, sizeof test.folder, "%s/out", test.root);
    make_good(argv[0]);
    for (size_t t = 0; t < N_TRIES; t++) {
        double start = now_seconds();
        size_t before = test.points;
        run_all_faults(t);
        printf("%s: %zu failing calls, %.1f s\n", tries[t].name, test.points - before,
               now_seconds() - start);
    }
    test_special();
    tokenizer_close(test.tokenizer);
    source_close(&test.hf);
    source_close(&test.gguf);
    source_close(&test.odd);
    fclose(test.nowhere);
    printf("%zu failing calls, %zu refused\n", test.points, test.refused);
    char *rm[] = {"rm", "-rf", test.root, NULL};
    run_program(rm);
    return test_end("memory");
}
