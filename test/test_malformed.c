/* test_malformed.c: every row of the catalogue in malformed.h is made from good files and given to
 * the real programs. A refusal must have its exit status, one line on stderr that names file and
 * field, nothing on stdout, no file written, no signal, and cost at most 50 ms of processor time
 * and 32 MiB more than the same program needs for a good file.
 *
 *     test_malformed [GOLDEN]     (the argument that every test program gets is not used)
 *     test_malformed --list       the catalogue as text
 *
 * QWEN, CONVERT and BENCH name the programs (default ./qwen, ./convert/convert, ./run_bench.sh). */
#include <sys/socket.h>
#include <sys/un.h>

#include "child.h"
#include "malformed_runs.h"

#define MORE_MS 50
#define MORE_KIB 32768

typedef enum { NO_TOOL, USE_QWEN, USE_CONVERT, USE_BENCH, N_TOOLS } Tool;

static struct {
    char root[512]; /* the folder of everything; out/ is where children run */
    char tool[N_TOOLS][PATH_MAX], out[600];
    char bench_qwen[PATH_MAX + 8]; /* QWEN=..., for run_bench.sh */
    double floor_ms[N_TOOLS];      /* what a good file costs */
    long floor_kib[N_TOOLS];
    Buffer good[N_TARGETS], bin, gguf, log; /* the files' bytes */
    Child child;
} test;

static Error scratch;

static void need(bool ok, const char *what) {
    if (ok) return;
    fprintf(stderr, "test_malformed: %s: %s\n", what, scratch.text[0] ? scratch.text : "failed");
    exit(1);
}

/* ROOT/FOLDER/NAME; four results stay valid at a time */
static const char *in_root(const char *folder, const char *name) {
    static char room[4][1100];
    static unsigned turn;
    char *path = room[turn++ % 4];
    snprintf(path, sizeof room[0], "%s/%s%s%s", test.root, folder, name[0] ? "/" : "", name);
    return path;
}

static void write_bytes(const char *path, const void *bytes, size_t n) {
    unlink(path); /* a new file: what is cut to nothing may be flushed to disk each time */
    FILE *f = fopen(path, "wb");
    need(f && (n == 0 || fwrite(bytes, 1, n, f) == n) && fclose(f) == 0, path);
}

static void add(Buffer *b, const void *bytes, size_t n) {
    need(n == 0 || buffer_add(b, bytes, n, &scratch), "memory");
}
static void add_text(Buffer *b, const char *text) { add(b, text, strlen(text)); }

/* ---- Running and judging --------------------------------------------------------------------- */

static void run(Tool tool, char *const argv[]) {
    ChildOptions o = {.folder = test.out, .variable = tool == USE_BENCH ? test.bench_qwen : NULL};
    child_run(&test.child, argv, &o);
}

/* Did the last run cost too much? Instrumented and wrapped programs are not asked. */
static bool too_dear(Tool tool) {
    if (INSTRUMENTED || getenv("WRAP")) return false;
    double more = tool == USE_BENCH ? 4 * MORE_MS : MORE_MS; /* dozens of processes */
    return test.child.cpu_ms > test.floor_ms[tool] + more ||
           test.child.peak_kib > test.floor_kib[tool] + MORE_KIB;
}

/* argv[0] is the tool. file: must be named in the message (NULL: none); want: too. */
static void refuse(const char *name, Tool tool, char *const argv[], int status, const char *file,
                   const char *want) {
    const Child *c = &test.child;
    char shown[CHILD_TEXT];
    run(tool, argv);
    for (int again = 0; too_dear(tool) && again < 3; again++) run(tool, argv); /* a busy machine */
    printable(shown, sizeof shown, c->err, min_size(c->err_bytes, 900));
    static const char *const says[] = {
        [USE_QWEN] = "qwen: ", [USE_CONVERT] = "convert: ", [USE_BENCH] = "run_bench: "};
    const char *newline = strchr(c->err, '\n'), *who = says[tool];
    CHECK(c->status == status, "%s: exit status %d, expected %d: %s", name, c->status, status,
          shown);
    CHECK(newline && newline[1] == 0 && strncmp(c->err, who, strlen(who)) == 0,
          "%s: expected one line on stderr: %s", name, shown);
    CHECK((!file || strstr(c->err, file)) && strstr(c->err, want),
          "%s: expected \"%s\" and \"%s\": %s", name, file ? file : "", want, shown);
    CHECK(c->out_bytes == 0, "%s: %zu bytes on stdout", name, c->out_bytes);
    CHECK(folder_count(test.out) == 0, "%s: a file was written", name);
    folder_empty(test.out);
    CHECK(!too_dear(tool), "%s: %.0f ms and %ld KiB, a good file takes %.0f ms and %ld KiB", name,
          c->cpu_ms, c->peak_kib, test.floor_ms[tool], test.floor_kib[tool]);
}

/* What the tool costs with a good file: the least of some runs. */
static void measure(Tool tool, char *const argv[]) {
    for (int i = 0; i < 5; i++) {
        run(tool, argv);
        need(test.child.status == 0, test.child.err);
        if (i == 0 || test.child.cpu_ms < test.floor_ms[tool])
            test.floor_ms[tool] = test.child.cpu_ms;
        if (test.child.peak_kib > test.floor_kib[tool]) test.floor_kib[tool] = test.child.peak_kib;
    }
}

/* ---- Files with a text in them --------------------------------------------------------------- */

/* The text of a target, and what stands before and behind it. */
typedef struct {
    const char *text;
    size_t begin, n, end; /* in the file: begin + n == end, unless the file has no more behind it */
} Span;

static Span text_of(Target target) {
    const Buffer *b = &test.good[target];
    uint64_t n = b->n;
    if (!targets[target].safetensors) return (Span){b->data, 0, b->n, b->n};
    memcpy(&n, b->data, sizeof n);
    return (Span){b->data + 8, 8, (size_t)n, 8 + (size_t)n};
}

/* The value at "/a/0/b" of the JSON, or NULL; *parent and *last: where it would be a member. */
static const Json *find_value(const Json *v, const char *path, const Json **parent,
                              const char **last) {
    *parent = NULL;
    while (v && *path == '/') {
        char key[128];
        size_t n = strcspn(path + 1, "/");
        snprintf(key, sizeof key, "%.*s", (int)n, path + 1);
        *parent = v;
        *last = path + 1;
        path += 1 + n;
        if (v->kind == JSON_ARRAY) {
            long i = strtol(key, NULL, 10);
            for (v = v->child; v && i > 0; i--) v = v->next;
        } else {
            v = json_get(v, key);
        }
    }
    return v;
}

/* A member's own text, from its key to the comma behind it or from the comma before it. */
static void member_bounds(const char *text, const Json *v, size_t *from, size_t *to) {
    size_t a = *from, b = *to;
    if (v->key) {
        while (text[a - 1] != ':') a--;
        a -= 1 + v->key_len + 2; /* the colon, the key, its quotes */
    }
    while (text[b] == ' ' || text[b] == '\n') b++;
    if (text[b] == ',')
        b++;
    else
        while (text[a - 1] == ' ' || text[a - 1] == '\n' || text[a - 1] == ',') a--;
    *from = a;
    *to = b;
}

/* Where in the text the change goes, [from, to), and what is written there. */
static bool find_change(const FileCase *c, const Span *s, size_t *from, size_t *to, Buffer *new) {
    *from = 0;
    *to = s->n;
    if (!c->at || c->at[0] != '/') {
        const char *found = c->at ? memmem(s->text, s->n, c->at, strlen(c->at)) : NULL;
        if (c->at && !found) return false;
        if (found) *from = (size_t)(found - s->text), *to = *from + strlen(c->at);
        if (c->to) add_text(new, c->to);
        return true;
    }
    const Json *parent;
    const char *last = "";
    JsonDoc *doc = json_parse(s->text, s->n, "good", &scratch);
    need(doc != NULL, "JSON");
    const Json *root = json_root(doc), *v = find_value(root, c->at, &parent, &last);
    bool ok = v || (parent && parent->kind == JSON_OBJECT && parent->n > 0 && c->to);
    if (v) {
        *from = (size_t)(v->source - root->source);
        *to = *from + v->source_len;
        if (c->to)
            add_text(new, c->to);
        else
            member_bounds(s->text, v, from, to);
    } else if (ok) {
        *from = *to = (size_t)(parent->source - root->source) + 1;
        need(buffer_printf(new, &scratch, "\"%s\":%s,", last, c->to), "memory");
    }
    json_free(doc);
    return ok;
}

/* The changed file. False: the row does not fit the good file. */
static bool make_file(const FileCase *c, Buffer *out) {
    const Buffer *good = &test.good[c->target];
    Span s = text_of(c->target);
    if (c->cut) {
        add(out, good->data, c->cut > 0 ? good->n - (size_t)c->cut : good->n);
        for (long i = c->cut; i < 0; i++) add(out, "", 1);
        return true;
    }
    if (c->whole) return add_text(out, c->to), true;
    Buffer new = {0};
    size_t from, to;
    bool ok = find_change(c, &s, &from, &to, &new);
    uint64_t n = ok ? s.n - (to - from) + new.n : 0;
    if (ok && s.begin) add(out, &n, sizeof n);
    if (ok) {
        add(out, s.text, from);
        add(out, new.data, new.n);
        add(out, s.text + to, good->n - s.begin - to);
    }
    buffer_free(&new);
    return ok;
}

static void describe(const FileCase *c, char *out, size_t room) {
    char at[60], to[60];
    printable(at, sizeof at, c->at ? c->at : "all", strlen(c->at ? c->at : "all"));
    printable(to, sizeof to, c->to ? c->to : "nothing", strlen(c->to ? c->to : "nothing"));
    const char *name = targets[c->target].name;
    if (c->cut)
        snprintf(out, room, "%s: %ld bytes off its end", name, c->cut);
    else
        snprintf(out, room, "%s: %s -> %s", name, at, to[0] ? to : "an empty text");
}

static void test_files(void) {
    char name[300], folder[600], lora[600];
    for (size_t i = 0; i < sizeof file_cases / sizeof file_cases[0]; i++) {
        const FileCase *c = &file_cases[i];
        Buffer bad = {0};
        describe(c, name, sizeof name);
        if (!make_file(c, &bad)) {
            CHECK(0, "%s: the good file has no such place", name);
            continue;
        }
        const char *path = in_root(targets[c->target].folder, targets[c->target].name);
        bool adapter = c->target == ADAPTER || c->target == ADAPTER_WEIGHTS;
        snprintf(folder, sizeof folder, "%s",
                 in_root(adapter ? "hf" : targets[c->target].folder, ""));
        snprintf(lora, sizeof lora, "%s", in_root(targets[ADAPTER].folder, ""));
        char *argv[] = {test.tool[USE_CONVERT],    folder, "-o", "x.bin", "-t", "1",
                        adapter ? "--lora" : NULL, lora,   NULL};
        write_bytes(path, bad.data, bad.n);
        refuse(name, USE_CONVERT, argv, 1, adapter ? lora : folder, c->want);
        write_bytes(path, test.good[c->target].data, test.good[c->target].n);
        buffer_free(&bad);
    }
}

/* ---- model.bin ------------------------------------------------------------------------------- */

/* Where a section of the good model.bin begins. */
static size_t section_start(Section section) {
    const ModelHeader *h = (const void *)test.bin.data;
    size_t tokens = h->tokenizer_offset;
    const TokenizerHeader *t = (const void *)(test.bin.data + tokens);
    size_t merges = tokens + sizeof *t + t->n_tokens * sizeof(uint32_t);
    size_t added = merges + t->n_merges * sizeof(TokenizerMerge);
    switch (section) {
    case TABLE: return h->tensors_offset;
    case TOKENS: return tokens;
    case ENDS: return tokens + sizeof *t;
    case TOKEN_MERGES: return merges;
    case TOKEN_ADDED: return added;
    case TOKEN_TEXT: return added + t->n_added * sizeof(TokenizerAdded);
    default: return 0;
    }
}

static void test_bin(void) {
    char path[600], *argv[] = {test.tool[USE_QWEN], path, "-p", "hi", "-n", "1", "-t", "1", NULL};
    snprintf(path, sizeof path, "%s", in_root("bad.bin", ""));
    for (size_t i = 0; i < sizeof bin_cases / sizeof bin_cases[0]; i++) {
        const BinCase *c = &bin_cases[i];
        Buffer bad = {0};
        add(&bad, test.bin.data, test.bin.n);
        uint8_t *bytes = (uint8_t *)bad.data;
        for (size_t k = 0; k < c->n; k++)
            bytes[section_start(c->section) + c->at + k] = (uint8_t)(c->value >> 8 * (k % 8));
        size_t checked = (size_t)((const ModelHeader *)(const void *)test.bin.data)->header_bytes;
        uint32_t crc = model_header_crc(bytes, checked);
        if (!c->stale) memcpy(bytes + offsetof(ModelHeader, crc32c), &crc, sizeof crc);
        size_t n = c->cut < 0 ? (size_t)-c->cut : bad.n - (size_t)c->cut;
        write_bytes(path, bytes, n);
        refuse(c->what, USE_QWEN, argv, 1, path, c->want);
        buffer_free(&bad);
    }
    unlink(path);
}

/* ---- GGUF ------------------------------------------------------------------------------------ */

static void test_gguf(void) {
    char path[600], name[200];
    char *argv[] = {test.tool[USE_CONVERT], path, "-o", "x.bin", "-t", "1", NULL};
    snprintf(path, sizeof path, "%s", in_root("bad.gguf", ""));
    for (size_t i = 0; i < sizeof gguf_cases / sizeof gguf_cases[0]; i++) {
        Buffer bad = {0};
        gguf_write(&gguf_cases[i], &bad);
        write_bytes(path, bad.data, bad.n);
        snprintf(name, sizeof name, "GGUF row %zu", i);
        refuse(name, USE_CONVERT, argv, 1, path, gguf_cases[i].want);
        buffer_free(&bad);
    }
    /* The same key twice, which no single replacement can make. */
    GgufCase twice = {.key = "general.nam3", .type = STRING + 1, .text = "x"};
    Buffer bad = {0};
    gguf_write(&twice, &bad);
    char *key = memmem(bad.data, bad.n, "general.nam3", 12);
    need(key != NULL, "general.nam3");
    key[11] = 'e';
    write_bytes(path, bad.data, bad.n);
    refuse("GGUF: a key twice", USE_CONVERT, argv, 1, path, "general.name: stands there twice");
    buffer_free(&bad);
    unlink(path);
}

/* ---- Conversations and prompts --------------------------------------------------------------- */

static void test_messages(void) {
    char path[600], model[600];
    char *argv[] = {test.tool[USE_QWEN], model, "--messages", path, "-n", "1", "-t", "1", NULL};
    snprintf(path, sizeof path, "%s", in_root("messages.json", ""));
    snprintf(model, sizeof model, "%s", in_root("good.bin", ""));
    for (size_t i = 0; i < sizeof message_cases / sizeof message_cases[0]; i++) {
        write_bytes(path, message_cases[i].text, strlen(message_cases[i].text));
        refuse(message_cases[i].text, USE_QWEN, argv, 1, path, message_cases[i].want);
    }
    unlink(path);
}

/* Hostile texts are texts: they are tokenized, and 16 MiB of one would take a few seconds. */
static void test_prompts(void) {
    char path[600], model[600];
    char *argv[] = {test.tool[USE_QWEN], model, "-f", path, "--tokenize", NULL};
    snprintf(path, sizeof path, "%s", in_root("prompt.txt", ""));
    snprintf(model, sizeof model, "%s", in_root("good.bin", ""));
    for (size_t i = 0; i < sizeof prompt_cases / sizeof prompt_cases[0]; i++) {
        Buffer text = {0};
        for (size_t k = 0; k < prompt_cases[i].times; k++)
            add(&text, prompt_cases[i].text, prompt_cases[i].n);
        write_bytes(path, text.data, text.n);
        run(USE_QWEN, argv);
        const Child *c = &test.child;
        double limit = test.floor_ms[USE_QWEN] + MORE_MS + 1e-3 * (double)text.n;
        CHECK(c->status == 0 && c->err_bytes == 0 && c->out_bytes > 1, "%s: status %d, %.200s",
              prompt_cases[i].what, c->status, c->err);
        CHECK(INSTRUMENTED || getenv("WRAP") || c->cpu_ms < limit, "%s: %.0f ms",
              prompt_cases[i].what, c->cpu_ms);
        buffer_free(&text);
    }
    unlink(path);
}

/* ---- Files of --cache ------------------------------------------------------------------------ */

static void cache_change(size_t i, const Buffer *good, Buffer *bad) {
    long cut = cache_cases[i].cut;
    Crc table;
    uint32_t crc = 0;
    add(bad, good->data, good->n);
    for (long k = cut; k < 0; k++) add(bad, "", 1);
    if (cut > 0) bad->n = cut == LONG_MAX ? KV_HEADER : bad->n - (size_t)cut;
    for (size_t k = 0; k < cache_cases[i].n; k++)
        bad->data[cache_cases[i].at + k] = (char)(cache_cases[i].value >> 8 * k);
    if (cache_cases[i].stale) return;
    memset(bad->data + KV_CRC, 0, sizeof crc);
    crc_init(&table);
    crc = crc_update(&table, 0, bad->data, bad->n);
    memcpy(bad->data + KV_CRC, &crc, sizeof crc);
}

static bool file_is(const char *path, const Buffer *want) {
    Buffer is = {0};
    bool ok = read_file(path, 1u << 30, &is, &scratch) && is.n == want->n &&
              (is.n == 0 || memcmp(is.data, want->data, is.n) == 0);
    buffer_free(&is);
    return ok;
}

/* With the bad file at path: the answer that a good one gives, one line about the file before the
 * line of statistics, and a good file in its place. */
static void read_anew(const char *what, char *const argv[], const char *path, const char *want,
                      const char *answer, const Buffer *good) {
    const Child *c = &test.child;
    run(USE_QWEN, argv);
    const char *end = strchr(c->err, '\n'), *last = end ? strchr(end + 1, '\n') : NULL;
    CHECK(c->status == 0, "--cache, %s: status %d: %s", what, c->status, c->err);
    CHECK(last && last[1] == 0 && strncmp(end + 1, "prompt ", 7) == 0,
          "--cache, %s: expected a line and the statistics: %s", what, c->err);
    CHECK(strncmp(c->err, "qwen: ", 6) == 0 && strstr(c->err, path) && strstr(c->err, want) &&
              strstr(c->err, "; the prompt is read anew\n"),
          "--cache, %s: expected \"%s\" and \"%s\": %s", what, path, want, c->err);
    CHECK(strcmp(c->out, answer) == 0, "--cache, %s: another answer", what);
    CHECK(file_is(path, good), "--cache, %s: no good file in its place", what);
}

static void test_cache(void) {
    char path[600], model[600], lora[600];
    char *argv[] = {
        test.tool[USE_QWEN], model, "-p", "hello the world", "-n", "3", "-t", "1", "--seed", "1",
        "--cache",           path,  NULL};
    Buffer good = {0}, other = {0};
    snprintf(path, sizeof path, "%s", in_root("kv", ""));
    snprintf(model, sizeof model, "%s", in_root("lora.bin", ""));
    snprintf(lora, sizeof lora, "%s", in_root("good.bin", ""));
    run(USE_QWEN, argv);
    need(test.child.status == 0 && read_file(path, 1u << 30, &other, &scratch), "cache");
    unlink(path);
    snprintf(model, sizeof model, "%s", lora);
    run(USE_QWEN, argv);
    need(test.child.status == 0 && read_file(path, 1u << 30, &good, &scratch), "cache");
    char *answer = strdup(test.child.out);
    need(answer != NULL, "memory");
    write_bytes(path, other.data, other.n);
    read_anew("that of the model with an adapter", argv, path, "model: expected the cache of",
              answer, &good);
    for (size_t i = 0; i < sizeof cache_cases / sizeof cache_cases[0]; i++) {
        Buffer bad = {0};
        cache_change(i, &good, &bad);
        write_bytes(path, bad.data, bad.n);
        if (!cache_cases[i].refused) {
            read_anew(cache_cases[i].what, argv, path, cache_cases[i].want, answer, &good);
        } else {
            refuse(cache_cases[i].what, USE_QWEN, argv, 1, path, cache_cases[i].want);
            CHECK(file_is(path, &bad), "--cache, %s: the file was changed", cache_cases[i].what);
        }
        buffer_free(&bad);
    }
    unlink(path);
    free(answer);
    buffer_free(&good);
    buffer_free(&other);
}

/* ---- Lines of --prompts ---------------------------------------------------------------------- */

static bool begins(const char *text, const char *with) {
    return text && strncmp(text, with, strlen(with)) == 0;
}

/* A line between two good ones gets an error in its place, which names file and line, where it is
 * not about the model's context; and the exit status is 1. */
static void refuse_line(const char *text, const char *want) {
    static const char fine[] = "{\"prompt\":\"hello\"}";
    char path[600], model[600];
    char *argv[] = {test.tool[USE_QWEN],
                    model,
                    "--prompts",
                    path,
                    "-n",
                    "1",
                    "-t",
                    "1",
                    "-c",
                    "300",
                    "--seed",
                    "1",
                    NULL};
    Child *c = &test.child;
    Buffer lines = {0};
    snprintf(path, sizeof path, "%s", in_root("prompts.jsonl", ""));
    snprintf(model, sizeof model, "%s", in_root("good.bin", ""));
    need(buffer_printf(&lines, &scratch, "%s\n%s\n%s\n", fine, text, fine), "memory");
    write_bytes(path, lines.data, lines.n);
    run(USE_QWEN, argv);
    char *second = strchr(c->out, '\n'), *third = second ? strchr(second + 1, '\n') : NULL;
    CHECK(c->status == 1, "--prompts, %.200s: status %d", text, c->status);
    CHECK(begins(c->out, "{\"index\":0,\"text\":") && third &&
              begins(third + 1, "{\"index\":2,\"text\":"),
          "--prompts, %.200s: the good lines: %.1000s", text, c->out);
    if (third) *third = 0;
    CHECK(second && begins(second + 1, "{\"index\":1,\"error\":\"") && strstr(second, want) &&
              (strstr(second, "prompts.jsonl:2: ") || begins(want, "tokens")),
          "--prompts, %.200s: expected \"%s\": %.1000s", text, want, second ? second + 1 : "");
    CHECK(strstr(c->err, "prompts.jsonl: 1 of 3 lines could not be answered\n"),
          "--prompts, %.200s: %s", text, c->err);
    buffer_free(&lines);
    unlink(path);
}

/* Row i of message_cases as a line; false: it is none. */
static bool message_line(size_t i, char *out, size_t room) {
    const char *row = message_cases[i].text;
    snprintf(out, room, "{\"messages\":%s}", row);
    return row[0] == '[' && row[strlen(row) - 1] == ']' && !strchr(row, '\n');
}

static void test_lines(void) {
    for (size_t i = 0; i < sizeof line_cases / sizeof line_cases[0]; i++)
        refuse_line(line_cases[i].text, line_cases[i].want);
    for (size_t i = 0; i < sizeof message_cases / sizeof message_cases[0]; i++) {
        char text[4096];
        if (message_line(i, text, sizeof text)) refuse_line(text, message_cases[i].want);
    }
}

/* ---- Command lines --------------------------------------------------------------------------- */

/* One word of a line: @S and '' are replaced. The caller frees it. */
static char *make_word(const char *word, size_t n) {
    Buffer b = {0};
    if (n == 2 && memcmp(word, "''", 2) == 0) n = 0;
    if (n >= 2 && memcmp(word, "@S", 2) == 0) {
        add_text(&b, test.root);
        word += 2;
        n -= 2;
    } else if (n == 2 && memcmp(word, "@L", 2) == 0) {
        for (int i = 0; i < 4500; i++) add(&b, "l", 1);
        n = 0;
    }
    add(&b, word, n);
    return b.data ? b.data : strdup("");
}

/* A shell is not what is to be watched. */
static bool use_bench(void) { return !getenv("WRAP"); }

static void test_commands(void) {
    for (size_t i = 0; i < sizeof command_cases / sizeof command_cases[0]; i++) {
        const char *line = command_cases[i].line;
        char *argv[CHILD_ARGS];
        size_t n = 0;
        for (const char *p = line; *p; p += *p == ' ') {
            size_t len = strcspn(p, " ");
            argv[n++] = make_word(p, len);
            p += len;
        }
        argv[n] = NULL;
        Tool tool = strcmp(argv[0], "qwen") == 0    ? USE_QWEN
                    : strcmp(argv[0], "bench") == 0 ? USE_BENCH
                                                    : USE_CONVERT;
        char *word = argv[0];
        argv[0] = test.tool[tool];
        if (tool != USE_BENCH || use_bench())
            refuse(line, tool, argv, command_cases[i].status, NULL, command_cases[i].want);
        argv[0] = word;
        while (n > 0) free(argv[--n]);
    }
}

/* ---- Good files ------------------------------------------------------------------------------ */

static void run_good(char *const argv[]) {
    ChildOptions o = {0};
    child_run(&test.child, argv, &o);
    need(test.child.status == 0, test.child.err);
}

static void copy_file(Target from, const char *folder, const char *name) {
    write_bytes(in_root(folder, name), test.good[from].data, test.good[from].n);
}

static void read_target(Target t) {
    const char *path = in_root(targets[t].folder, targets[t].name);
    need(read_file(path, 1u << 30, &test.good[t], &scratch), "good file");
}

/* The tokenizer as vocab.json, merges.txt and added_tokens.json. */
static void make_files(void) {
    Buffer merges = {0}, added = {0};
    JsonDoc *doc = json_parse(test.good[TOKENIZER].data, test.good[TOKENIZER].n, "good", &scratch);
    need(doc != NULL, "tokenizer.json");
    const Json *root = json_root(doc), *model = json_get(root, "model");
    const Json *vocab = json_get(model, "vocab");
    add_text(&merges, "#version: 0.2\n");
    for (const Json *m = json_get(model, "merges")->child; m; m = m->next) {
        add(&merges, m->string, m->string_len);
        add_text(&merges, "\n");
    }
    add_text(&added, "{");
    for (const Json *a = json_get(root, "added_tokens")->child; a; a = a->next)
        need(buffer_printf(&added, &scratch, "%s\"%s\":%.*s", added.n > 1 ? "," : "",
                           json_get(a, "content")->string, (int)json_get(a, "id")->source_len,
                           json_get(a, "id")->source),
             "memory");
    add_text(&added, "}");
    write_bytes(in_root("files", "vocab.json"), vocab->source, vocab->source_len);
    write_bytes(in_root("files", "merges.txt"), merges.data, merges.n);
    write_bytes(in_root("files", "added_tokens.json"), added.data, added.n);
    json_free(doc);
    buffer_free(&merges);
    buffer_free(&added);
    copy_file(CONFIG, "files", "config.json");
    copy_file(TOKENIZER_CONFIG, "files", "tokenizer_config.json");
    copy_file(WEIGHTS, "files", "model.safetensors");
}

/* The weights as one shard with an index. */
static void make_shards(void) {
    Buffer index = {0};
    Span s = text_of(WEIGHTS);
    JsonDoc *doc = json_parse(s.text, s.n, "good", &scratch);
    need(doc != NULL, "model.safetensors");
    add_text(&index, "{\"metadata\":{\"total_size\":1},\"weight_map\":{");
    for (const Json *t = json_root(doc)->child; t; t = t->next)
        need(buffer_printf(&index, &scratch, "\"%s\":\"one.safetensors\"%s", t->key,
                           t->next ? "," : "}}"),
             "memory");
    write_bytes(in_root("shards", "model.safetensors.index.json"), index.data, index.n);
    json_free(doc);
    buffer_free(&index);
    copy_file(CONFIG, "shards", "config.json");
    copy_file(TOKENIZER, "shards", "tokenizer.json");
    copy_file(TOKENIZER_CONFIG, "shards", "tokenizer_config.json");
    copy_file(WEIGHTS, "shards", "one.safetensors");
}

static void make_folder(const char *name) {
    need(mkdir(in_root(name, ""), 0777) == 0 || errno == EEXIST, name);
}

/* What is no model: folders that lack something, and things that are no files. */
static void make_odd(void) {
    static const char *const folders[] = {"bare", "pickle", "deaf", "light"};
    static const char zeros[4096], mib[1u << 20];
    for (size_t i = 0; i < 4; i++) make_folder(folders[i]);
    for (size_t i = 1; i < 4; i++) copy_file(CONFIG, folders[i], "config.json");
    copy_file(TOKENIZER, "pickle", "tokenizer.json");
    copy_file(TOKENIZER, "light", "tokenizer.json");
    write_bytes(in_root("pickle", "pytorch_model.bin"), "PK\3\4", 4);
    write_bytes(in_root("empty", ""), "", 0);
    write_bytes(in_root("zeros", ""), zeros, sizeof zeros);
    FILE *large = fopen(in_root("large", ""), "wb");
    for (int i = 0; large && i < 17; i++) need(fwrite(mib, 1, sizeof mib, large) > 0, "large");
    need(large && fclose(large) == 0, "large");
    need(mkfifo(in_root("fifo", ""), 0666) == 0, "fifo");
    need(symlink("loop", in_root("loop", "")) == 0, "loop");
    struct sockaddr_un name = {.sun_family = AF_UNIX};
    snprintf(name.sun_path, sizeof name.sun_path, "%.100s", in_root("socket", ""));
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    need(fd >= 0 && bind(fd, (const void *)&name, sizeof name) == 0 && close(fd) == 0, "socket");
}

static void find_tool(Tool tool, const char *variable, const char *usual) {
    const char *path = getenv(variable);
    need(realpath(path ? path : usual, test.tool[tool]) != NULL, path ? path : usual);
}

static void make_good(const char *program) {
    char maker[PATH_MAX], hf[600], bin[600], merged[600], lora[600];
    const char *slash = strrchr(program, '/');
    snprintf(maker, sizeof maker, "%.*s/make_tiny", slash ? (int)(slash - program) : 1,
             slash ? program : ".");
    snprintf(hf, sizeof hf, "%s", in_root("hf", ""));
    snprintf(bin, sizeof bin, "%s", in_root("good.bin", ""));
    snprintf(merged, sizeof merged, "%s", in_root("lora.bin", ""));
    snprintf(lora, sizeof lora, "%s", in_root("hf", "adapter"));
    char *make[] = {maker, hf, NULL}, *quant = "q8";
    char *convert[] = {test.tool[USE_CONVERT], hf, "-o", bin, "--quant", quant, NULL};
    char *merge[] = {test.tool[USE_CONVERT], hf, "-o", merged, "--lora", lora, NULL};
    run_good(make);
    run_good(convert);
    run_good(merge);
    need(read_file(bin, 1u << 30, &test.bin, &scratch), "good.bin");
    GgufCase good = {0};
    gguf_write(&good, &test.gguf);
    write_bytes(in_root("good.gguf", ""), test.gguf.data, test.gguf.n);
    make_folder("files");
    make_folder("shards");
    make_folder("out");
    for (Target t = CONFIG; t <= WEIGHTS; t++) read_target(t);
    make_files();
    make_shards();
    for (Target t = VOCAB; t < TASK; t++) read_target(t);
    make_odd();
}

/* Every good file is accepted, so what is refused is refused for its row's change. */
static void test_good(void) {
    static const char *const sources[] = {"hf", "files", "shards", "good.gguf"};
    char path[600], lora[600], *argv[] = {test.tool[USE_CONVERT], path, "-o", "x.bin", NULL};
    snprintf(lora, sizeof lora, "%s", in_root("hf", "adapter"));
    for (size_t i = 0; i < 4; i++) {
        snprintf(path, sizeof path, "%s", in_root(sources[i], ""));
        run(USE_CONVERT, argv);
        CHECK(test.child.status == 0, "%s: %s", sources[i], test.child.err);
        folder_empty(test.out);
    }
    char *merge[] = {test.tool[USE_CONVERT], path, "-o", "x.bin", "--lora", lora, NULL};
    snprintf(path, sizeof path, "%s", in_root("hf", ""));
    run(USE_CONVERT, merge);
    CHECK(test.child.status == 0, "the adapter: %s", test.child.err);
    folder_empty(test.out);
    char *info[] = {test.tool[USE_CONVERT], "--info", path, NULL};
    measure(USE_CONVERT, info);
    char *tokenize[] = {test.tool[USE_QWEN], path, "-p", "hi", "--tokenize", NULL};
    snprintf(path, sizeof path, "%s", in_root("good.bin", ""));
    measure(USE_QWEN, tokenize);
}

/* ---- The catalogue --------------------------------------------------------------------------- */

static void make_run(void) {
    char results[600], set[600], model[600];
    char *argv[] = {test.tool[USE_BENCH], model, "--auto",    "--run", "r", "--results", results,
                    "--prompts",          set,   "--threads", "1",     NULL};
    static const char second[] = "task: two\nmax-tokens: 5\n---\nSay it again.\n";
    make_folder("set");
    make_folder("doubles");
    write_bytes(in_root("set", "01-a.txt"), GOOD_TASK, sizeof GOOD_TASK - 1);
    write_bytes(in_root("set", "02-b.txt"), second, sizeof second - 1);
    write_bytes(in_root("set", "part.txt"), "A part.\n", 8);
    write_bytes(in_root("doubles", "01-a.txt"), second, sizeof second - 1);
    write_bytes(in_root("doubles", "01-b.txt"), second, sizeof second - 1);
    snprintf(results, sizeof results, "%s", in_root("results", ""));
    snprintf(set, sizeof set, "%s", in_root("set", ""));
    snprintf(model, sizeof model, "%s", in_root("good.bin", ""));
    run(USE_BENCH, argv);
    need(test.child.status == 0, test.child.err);
    for (Target t = TASK; t < N_TARGETS; t++) read_target(t);
}

/* A bad task ends a new run before it begins; the rest is read by --resume, which must leave all of
 * the run as it was. */
static void test_bench(void) {
    char name[300], path[600], results[600], set[600], model[600];
    char *new[] = {test.tool[USE_BENCH], model, "--auto", "--results", ".", "--prompts", set, NULL};
    char *resume[] = {test.tool[USE_BENCH], "--resume", "r", "--auto", "--results", results, NULL};
    if (!use_bench()) return;
    make_run();
    snprintf(results, sizeof results, "%s", in_root("results", ""));
    snprintf(set, sizeof set, "%s", in_root("set", ""));
    snprintf(model, sizeof model, "%s", in_root("good.bin", ""));
    measure(USE_BENCH, resume);
    size_t files = folder_count(in_root("results", "r"));
    need(read_file(in_root("results", "r.log"), 1u << 30, &test.log, &scratch), "r.log");
    for (size_t i = 0; i < sizeof bench_cases / sizeof bench_cases[0]; i++) {
        const FileCase *c = &bench_cases[i].change;
        Buffer bad = {0};
        describe(c, name, sizeof name);
        if (!make_file(c, &bad)) {
            CHECK(0, "%s: the good file has no such place", name);
            continue;
        }
        snprintf(path, sizeof path, "%s",
                 in_root(targets[c->target].folder, targets[c->target].name));
        write_bytes(path, bad.data, bad.n);
        bool task = c->target == TASK, other_file = bench_cases[i].status == 1;
        refuse(name, USE_BENCH, task ? new : resume, bench_cases[i].status,
               other_file ? model : path, c->want);
        CHECK(file_is(path, &bad), "%s: the file was changed", name);
        CHECK(folder_count(in_root("results", "r")) == files &&
                  file_is(in_root("results", "r.log"), &test.log),
              "%s: the run was changed", name);
        write_bytes(path, test.good[c->target].data, test.good[c->target].n);
        buffer_free(&bad);
    }
}

/* ---- All of it ------------------------------------------------------------------------------- */

static void list_runs(void) {
    char name[300];
    printf("--cache: that of the model with an adapter | model: expected the cache of\n");
    for (size_t i = 0; i < sizeof cache_cases / sizeof cache_cases[0]; i++)
        printf("--cache: %s | %s\n", cache_cases[i].what, cache_cases[i].want);
    for (size_t i = 0; i < sizeof line_cases / sizeof line_cases[0]; i++)
        printf("--prompts: %.60s | %s\n", line_cases[i].text, line_cases[i].want);
    for (size_t i = 0; i < sizeof message_cases / sizeof message_cases[0]; i++) {
        char text[4096];
        if (message_line(i, text, sizeof text))
            printf("--prompts: %.100s | %s\n", text, message_cases[i].want);
    }
    for (size_t i = 0; i < sizeof bench_cases / sizeof bench_cases[0]; i++) {
        describe(&bench_cases[i].change, name, sizeof name);
        printf("run_bench.sh, %s | %s\n", name, bench_cases[i].change.want);
    }
}

static void list(void) {
    char name[300];
    for (size_t i = 0; i < sizeof file_cases / sizeof file_cases[0]; i++) {
        describe(&file_cases[i], name, sizeof name);
        printf("%s | %s\n", name, file_cases[i].want);
    }
    for (size_t i = 0; i < sizeof bin_cases / sizeof bin_cases[0]; i++)
        printf("model.bin: %s | %s\n", bin_cases[i].what, bin_cases[i].want);
    for (size_t i = 0; i < sizeof gguf_cases / sizeof gguf_cases[0]; i++) {
        const GgufCase *c = &gguf_cases[i];
        printf("GGUF: %s | %s\n", c->key ? c->key : c->tensor ? c->tensor : "its bytes", c->want);
    }
    for (size_t i = 0; i < sizeof message_cases / sizeof message_cases[0]; i++)
        printf("messages: %s | %s\n", message_cases[i].text, message_cases[i].want);
    for (size_t i = 0; i < sizeof prompt_cases / sizeof prompt_cases[0]; i++)
        printf("prompt: %s | (accepted)\n", prompt_cases[i].what);
    list_runs();
    for (size_t i = 0; i < sizeof command_cases / sizeof command_cases[0]; i++)
        printf("%s | %s\n", command_cases[i].line, command_cases[i].want);
}

static int remove_all(void) {
    char *argv[] = {"rm", "-rf", test.root, NULL};
    ChildOptions o = {0};
    unsetenv("WRAP");
    child_run(&test.child, argv, &o);
    return test.child.status;
}

int main(int argc, char **argv) {
    if (argc > 1 && strcmp(argv[1], "--list") == 0) return list(), 0;
    const char *base = getenv("TMPDIR");
    snprintf(test.root, sizeof test.root, "%.200s/malformed-XXXXXX", base ? base : P_tmpdir);
    need(mkdtemp(test.root) != NULL, test.root);
    snprintf(test.out, sizeof test.out, "%s/out", test.root);
    find_tool(USE_QWEN, "QWEN", "./qwen");
    find_tool(USE_CONVERT, "CONVERT", "./convert/convert");
    find_tool(USE_BENCH, "BENCH", "./run_bench.sh");
    snprintf(test.bench_qwen, sizeof test.bench_qwen, "QWEN=%s", test.tool[USE_QWEN]);
    make_good(argv[0]);
    test_good();
    test_files();
    test_bin();
    test_gguf();
    test_messages();
    test_prompts();
    test_cache();
    test_lines();
    test_bench();
    test_commands();
    CHECK(remove_all() == 0, "the folder can be removed");
    for (Target t = 0; t < N_TARGETS; t++) buffer_free(&test.good[t]);
    buffer_free(&test.bin);
    buffer_free(&test.gguf);
    buffer_free(&test.log);
    return test_end("malformed");
}
