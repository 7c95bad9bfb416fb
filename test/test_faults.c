/* test_faults.c: what the programs do when the system fails them. faults.c makes every call of libc
 * that can fail fail, once and for good, during conversion, loading, answering and chat; then
 * conversion is killed at random moments. It must end with its status and one line, leave no half
 * file, and (in the build with AddressSanitizer) leak nothing.
 *
 * LONG=1 fails every single call and kills 200 times; otherwise the first and the last call of each
 * kind, and 10 kills. */
#include "child.h"
#include "tiny_gguf.h"

static const char *const calls[] = {
    "malloc", "calloc", "realloc",   "posix_memalign", "strdup",  "strndup", "mmap",  "open",
    "read",   "write",  "pwrite",    "fsync",          "rename",  "fstat",   "stat",  "statvfs",
    "close",  "fopen",  "ftruncate", "pthread_create", "fclose",  "fwrite",  "fputs", "fputc",
    "putc",   "puts",   "putchar",   "printf",         "fprintf", "fflush"};
#define N_CALLS (sizeof calls / sizeof calls[0])
#define FIRST_PRINTING 21 /* from "fwrite" on: what fails was meant for the user */

/* What is done; words as in malformed.h: @S is the folder of the good files, relative names lie in
 * a folder that must hold what it should afterwards. */
static const struct {
    const char *line, *typed, *makes; /* makes: the file it writes, or NULL */
    bool goes_on;                     /* some failures are noted, and the work goes on */
    bool varies;                      /* prints times, of any length */
} scenarios[] = {
    {.line = "convert -o x.bin -t 2 -- @S/hf", .makes = "x.bin"},
    {.line = "convert @S/hf -o x.bin -t 2 --quant q5 --lora @S/hf/adapter", .makes = "x.bin"},
    {.line = "convert @S/good.gguf -o x.bin -t 1", .makes = "x.bin"},
    {.line = "convert --info @S/hf"},
    {.line = "qwen @S/good.bin -p hi -n 3 -t 2 --seed 1"},
    {.line = "qwen @S/good.bin -f @S/hf/config.json --tokenize"},
    {.line = "qwen @S/good.bin --messages @S/messages.json --render"},
    {.line = "qwen @S/good.bin --verify -t 2", .varies = true},
    {.line = "qwen @S/good.bin --perplexity @S/messages.json -c 16 -t 1"},
    {.line = "qwen @S/good.bin -p hi -n 2 -t 1 --seed 1 --cache kv",
     .makes = "kv",
     .goes_on = true},
    {.line = "qwen @S/good.bin --prompts @S/prompts -n 2 -t 1 --seed 1", .goes_on = true},
    {.line = "qwen @S/good.bin -p hi -n 9 -t 1 --seed 1 --draft @S/good.bin", .goes_on = true},
    {.line = "qwen @S/good.bin -n 2 -t 1 --seed 1",
     .typed = "hi\n/set system You\n/show info\n/save s.json\n/load s.json\nhi\n/bye\n",
     .makes = "s.json",
     .goes_on = true},
    /* What they print, and where to */
    {.line = "convert @S/odd -o x.bin -v", .makes = "x.bin"}, /* its template is not known */
    {.line = "convert --info @S/odd"},
    {.line = "convert --info @S/good.bin -v"},
    {.line = "convert --help"},
    {.line = "convert --version"},
    {.line = "qwen --help"},
    {.line = "qwen --version"},
    {.line = "qwen @S/good.bin -p hi -n 2 -t 1 --seed 1 --stats /dev/stdout", .varies = true},
    {.line = "qwen @S/good.bin -p hi -n 2 -t 1 --seed 1 --stats s.json",
     .makes = "s.json",
     .varies = true},
    {.line = "qwen @S/good.bin --bench pp2,tg1 -r 1 -t 1 -c 16", .varies = true},
    {.line = "qwen @S/good.bin --bench pp2,tg1 -r 1 -t 1 -c 16 --format csv", .varies = true},
    {.line = "qwen @S/good.bin --bench pp2,tg1 -r 1 -t 1 -c 16 --format json", .varies = true},
};
#define N_SCENARIOS (sizeof scenarios / sizeof scenarios[0])

static struct {
    char root[512], tool[2][PATH_MAX], out[600];
    Child child;
    bool full;
    size_t points, refused;
} test;

static Error scratch;

static void need(bool ok, const char *what) {
    if (ok) return;
    fprintf(stderr, "test_faults: %s: %s\n", what, scratch.text[0] ? scratch.text : "failed");
    exit(1);
}

/* ROOT/NAME; four results stay valid at a time */
static const char *in_root(const char *name) {
    static char room[4][1100];
    static unsigned turn;
    char *path = room[turn++ % 4];
    snprintf(path, sizeof room[0], "%s/%s", test.root, name);
    return path;
}

static void write_bytes(const char *path, const void *bytes, size_t n) {
    FILE *f = fopen(path, "wb");
    need(f && fwrite(bytes, 1, n, f) == n && fclose(f) == 0, path);
}

/* ---- Running --------------------------------------------------------------------------------- */

/* Run a scenario with FAULT=fault (NULL: none); how often each call came goes to ROOT/count. */
static void run(size_t scenario, const char *fault, unsigned kill_after_us) {
    char words[CHILD_ARGS][1200], *argv[CHILD_ARGS + 1], variable[128], count[700];
    size_t n = 0;
    for (const char *p = scenarios[scenario].line; *p; p += *p == ' ') {
        size_t len = strcspn(p, " ");
        bool root = len > 2 && memcmp(p, "@S", 2) == 0;
        snprintf(words[n], sizeof words[n], "%s%.*s", root ? test.root : "",
                 (int)(root ? len - 2 : len), root ? p + 2 : p);
        argv[n] = words[n];
        n++;
        p += len;
    }
    argv[0] = test.tool[scenarios[scenario].line[0] == 'q' ? 0 : 1];
    argv[n] = NULL;
    snprintf(variable, sizeof variable, "FAULT=%s", fault ? fault : "none:0");
    snprintf(count, sizeof count, "%s", in_root("count"));
    setenv("FAULT_COUNT", count, 1);
    ChildOptions o = {.folder = test.out,
                      .variable = variable,
                      .kill_after_us = kill_after_us,
                      .typed = scenarios[scenario].typed};
    child_run(&test.child, argv, &o);
}

/* How often the last run called each of `calls`. */
static void read_counts(long counts[N_CALLS]) {
    char name[32];
    long n;
    FILE *f = fopen(in_root("count"), "r");
    need(f != NULL, "count");
    memset(counts, 0, N_CALLS * sizeof *counts);
    while (fscanf(f, "%31s %ld", name, &n) == 2)
        for (size_t k = 0; k < N_CALLS; k++)
            if (strcmp(calls[k], name) == 0) counts[k] = n;
    fclose(f);
}

/* Lines on stderr that begin with the program's name: its errors, and convert's one result. */
static size_t named_lines(const char *name) {
    size_t n = 0;
    for (const char *p = test.child.err; p && *p; p = strchr(p, '\n'), p = p ? p + 1 : NULL)
        n += strncmp(p, name, strlen(name)) == 0;
    return n;
}

/* A chat that could not answer saves another conversation than usual, but a whole one. */
static bool is_json(const Buffer *b) {
    Error e;
    JsonDoc *doc = json_parse(b->data, b->n, "saved", &e);
    json_free(doc);
    return doc != NULL;
}

/* Is there exactly the file, if any, whole? `good`: what it holds when all goes well. */
static void check_files(const char *what, size_t s, const Buffer *good) {
    const char *makes = scenarios[s].makes;
    bool other = scenarios[s].typed != NULL || scenarios[s].varies;
    Buffer got = {0};
    char path[1100];
    snprintf(path, sizeof path, "%s/%s", test.out, makes ? makes : "none");
    bool there = access(path, F_OK) == 0;
    CHECK(folder_count(test.out) == there, "%s: another file was left: %.300s", what,
          test.child.err);
    if (there) {
        need(read_file(path, 1u << 30, &got, &scratch), path);
        bool same = got.n == good->n && memcmp(got.data, good->data, got.n) == 0;
        CHECK(other ? is_json(&got) : same, "%s: a half file", what);
        buffer_free(&got);
    }
    if (test.child.status == 0 && !scenarios[s].goes_on)
        CHECK(there || !makes, "%s: status 0, no file", what);
    folder_empty(test.out);
}

/* One call fails: was that said, and nothing worse? `must`: what fails here must be said. */
static void check_fault(size_t s, const char *fault, bool must, const Buffer *good,
                        const Child *usual) {
    const Child *c = &test.child;
    char what[200];
    bool qwen = scenarios[s].line[0] == 'q', strict = !scenarios[s].goes_on;
    snprintf(what, sizeof what, "%s, %.100s", fault, scenarios[s].line);
    run(s, fault, 0);
    test.points++;
    test.refused += c->status != 0;
    CHECK(c->status == 1 || (c->status == 0 && !must), "%s: status %d: %.600s", what, c->status,
          c->err);
    size_t lines = named_lines(qwen ? "qwen: " : "convert: ");
    size_t expected = c->status != 0 ? 1 : named_lines("convert: ") > 0;
    if (strict)
        CHECK(lines == expected, "%s: status %d, %zu lines: %.600s", what, c->status, lines,
              c->err);
    if (strict && c->status == 0 && !scenarios[s].varies)
        CHECK(c->out_bytes == usual->out_bytes, "%s: another answer", what);
    check_files(what, s, good);
}

/* ---- Every call of every scenario ------------------------------------------------------------ */

/* Which of n calls fail: all, or the first and the last. */
static long next_point(long i, long n) {
    return test.full ? i + 1 : i == 0 ? 1 : i < n ? n : n + 1;
}

static void test_scenario(size_t s) {
    static Child usual;
    Buffer good = {0};
    char path[1100], fault[64];
    long n[N_CALLS];
    run(s, NULL, 0);
    read_counts(n);
    CHECK(test.child.status == 0, "%s: %s", scenarios[s].line, test.child.err);
    usual = test.child;
    snprintf(path, sizeof path, "%s/%s", test.out, scenarios[s].makes ? scenarios[s].makes : "");
    if (scenarios[s].makes) need(read_file(path, 1u << 30, &good, &scratch), path);
    folder_empty(test.out);
    size_t before = test.points;
    for (size_t k = 0; k < N_CALLS; k++) {
        for (long i = next_point(0, n[k]); i <= n[k]; i = next_point(i, n[k])) {
            snprintf(fault, sizeof fault, "%s:%ld", calls[k], i);
            check_fault(s, fault, k >= FIRST_PRINTING, &good, &usual);
            snprintf(fault, sizeof fault, "%s:%ld+", calls[k], i);
            check_fault(s, fault, k >= FIRST_PRINTING, &good, &usual);
        }
    }
    CHECK(test.points > before, "%s: nothing failed", scenarios[s].line);
    check_fault(s, "short:1", false, &good, &usual);
    CHECK(test.child.status == 0, "%s: short reads and writes, interrupted: %s", scenarios[s].line,
          test.child.err);
    buffer_free(&good);
}

/* ---- Signals --------------------------------------------------------------------------------- */

/* ^C at every write of a conversion: status 130, a line, no file; none of it under nohup. */
static void test_interrupt(void) {
    Buffer good = {0};
    char fault[64], path[1100];
    long n[N_CALLS], writes = 0;
    run(0, NULL, 0);
    read_counts(n);
    for (size_t k = 0; k < N_CALLS; k++)
        if (strcmp(calls[k], "pwrite") == 0) writes = n[k];
    CHECK(writes > 0, "a conversion writes");
    need(signal(SIGINT, SIG_DFL) != SIG_ERR, "signal"); /* in the background it is ignored */
    snprintf(path, sizeof path, "%s/x.bin", test.out);
    need(read_file(path, 1u << 30, &good, &scratch), path);
    folder_empty(test.out);
    /* The header is the last write, when nothing stops the conversion any more. */
    for (long i = 1; i < writes; i += test.full ? 1 : 11) {
        snprintf(fault, sizeof fault, "interrupt:%ld", i);
        run(0, fault, 0);
        CHECK(test.child.status == 130 && named_lines("convert: interrupted") == 1,
              "%s: status %d, %s", fault, test.child.status, test.child.err);
        CHECK(folder_count(test.out) == 0, "%s: a file was left", fault);
        folder_empty(test.out);
    }
    need(signal(SIGINT, SIG_IGN) != SIG_ERR, "signal");
    run(0, "interrupt:1", 0);
    need(signal(SIGINT, SIG_DFL) != SIG_ERR, "signal");
    CHECK(test.child.status == 0, "nohup: status %d, %s", test.child.status, test.child.err);
    check_files("nohup", 0, &good);
    folder_empty(test.out);
    buffer_free(&good);
}

/* What is written is on disk, first the file, then the folder that names it. */
static void test_sync(void) {
    run(0, "fsync:1", 0);
    CHECK(test.child.status == 1 && strstr(test.child.err, "x.bin: cannot sync: "), "%d: %s",
          test.child.status, test.child.err);
    CHECK(folder_count(test.out) == 0, "a file that could not be synced was left");
    folder_empty(test.out);
    run(0, "fsync:2", 0);
    CHECK(test.child.status == 1 && strstr(test.child.err, ": cannot sync the folder: "), "%d: %s",
          test.child.status, test.child.err);
    folder_empty(test.out);
}

/* Of two ^C while a --cache is written the second leaves at once, and leaves no file. */
static void test_interrupt_cache(void) {
    size_t s = 0;
    while (!strstr(scenarios[s].line, "--cache")) s++;
    run(s, "interrupt:2", 0);
    CHECK(test.child.status == 0 && folder_count(test.out) == 1, "one ^C: status %d, %s",
          test.child.status, test.child.err);
    folder_empty(test.out);
    for (int i = 1; i < 5; i++) {
        char fault[32];
        snprintf(fault, sizeof fault, "interrupt:%d+", i);
        run(s, fault, 0);
        CHECK(test.child.status == 130, "%s: status %d, %s", fault, test.child.status,
              test.child.err);
        CHECK(folder_count(test.out) == 0, "%s: a file was left", fault);
        folder_empty(test.out);
    }
}

/* ---- A mapped file that shrinks ---------------------------------------------------------------
 */

/* Before some call of `call` the scenario's file is cut to `size` bytes, or by -size: a line and
 * status 1, unless all of it had been read. */
static void test_cut(size_t s, const char *call, const char *file, long size) {
    char path[1100], fault[64], left[32];
    Buffer whole = {0}, good = {0};
    long n[N_CALLS], calls_made = 0, refused = 0;
    snprintf(path, sizeof path, "%s", in_root(file));
    need(read_file(path, 1u << 30, &whole, &scratch), path);
    snprintf(left, sizeof left, "%ld", size > 0 ? size : (long)whole.n + size);
    setenv("FAULT_SIZE", left, 1);
    run(s, NULL, 0);
    read_counts(n);
    if (scenarios[s].makes) {
        char made[1100];
        snprintf(made, sizeof made, "%s/%s", test.out, scenarios[s].makes);
        need(read_file(made, 1u << 30, &good, &scratch), made);
    }
    folder_empty(test.out);
    for (size_t k = 0; k < N_CALLS; k++)
        if (strcmp(calls[k], call) == 0) calls_made = n[k];
    long step = test.full || calls_made < 4 ? 1 : calls_made / 4;
    for (long i = 1; i <= calls_made; i += step) {
        snprintf(fault, sizeof fault, "%s:%ld", call, i);
        setenv("FAULT_CUT", path, 1);
        run(s, fault, 0);
        unsetenv("FAULT_CUT");
        const Child *c = &test.child;
        size_t lines = named_lines("qwen: ") + named_lines("convert: ");
        CHECK(c->status == 0 || (c->status == 1 && lines == 1), "%s cut at %s: status %d, %.600s",
              file, fault, c->status, c->err);
        refused += c->status == 1;
        check_files(fault, s, &good);
        write_bytes(path, whole.data, whole.n);
    }
    CHECK(refused > 0, "%s, cut at %ld calls of %s: never refused", file, calls_made, call);
    buffer_free(&whole);
    buffer_free(&good);
}

/* ---- Command lines --------------------------------------------------------------------------- */

static void test_usage(void) {
    static const char *const lines[] = {
        "--info x -o y", "--info x --quant q8", "--info x --lora y", "--info x --random 7b",
        "--info x y",    "-- x -- y",           "-o y -- x --info",  "--random 8b -o y"};
    for (size_t i = 0; i < sizeof lines / sizeof lines[0]; i++) {
        char text[64], *argv[CHILD_ARGS], *rest = NULL;
        size_t n = 1;
        ChildOptions o = {.folder = test.out};
        snprintf(text, sizeof text, "%s", lines[i]);
        argv[0] = test.tool[1];
        for (char *word = strtok_r(text, " ", &rest); word; word = strtok_r(NULL, " ", &rest))
            argv[n++] = word;
        argv[n] = NULL;
        child_run(&test.child, argv, &o);
        CHECK(test.child.status == 2 && named_lines("convert: ") == 1, "%s: status %d, %s",
              lines[i], test.child.status, test.child.err);
    }
}

/* Memory that ends is no wrong command line, with --random either. */
static void test_random_memory(void) {
    char fault[32], *argv[] = {test.tool[1], "--random", "0.5b", "-o", "none/x.bin", NULL};
    for (int i = 1; i <= 6; i++) {
        ChildOptions o = {.folder = test.out, .variable = fault};
        snprintf(fault, sizeof fault, "FAULT=calloc:%d+", i);
        child_run(&test.child, argv, &o);
        CHECK(test.child.status == 1 && strstr(test.child.err, "out of memory"),
              "%s: status %d, %s", fault, test.child.status, test.child.err);
    }
}

/* ---- Kill -9 --------------------------------------------------------------------------------- */

/* The final name is absent or complete; what else lies there has the name of a temporary file. */
static void test_kills(void) {
    Buffer good = {0};
    char path[1100];
    int n = test.full ? 200 : 10, complete = 0, odd = 0, half = 0;
    uint64_t state = 17;
    snprintf(path, sizeof path, "%s/x.bin", test.out);
    double start = now_seconds();
    run(0, NULL, 0);
    double whole = now_seconds() - start;
    need(read_file(path, 1u << 30, &good, &scratch), path);
    folder_empty(test.out);
    for (int i = 0; i < n; i++) {
        run(0, NULL, 1 + (unsigned)(test_random(&state) % (unsigned)(1.2e6 * whole)));
        Buffer got = {0};
        if (access(path, F_OK) == 0) {
            need(read_file(path, 1u << 30, &got, &scratch), path);
            complete++;
            half += got.n != good.n || memcmp(got.data, good.data, got.n) != 0;
            buffer_free(&got);
            unlink(path);
        }
        DIR *d = opendir(test.out);
        for (struct dirent *f; d && (f = readdir(d)) != NULL;)
            odd += f->d_name[0] != '.' || (strlen(f->d_name) > 2 && !strstr(f->d_name, ".tmp-"));
        if (d) closedir(d);
        folder_empty(test.out);
    }
    buffer_free(&good);
    CHECK(half == 0, "%d of %d killed conversions left a half file", half, n);
    CHECK(odd == 0, "%d names that are no temporary ones", odd);
    printf("%d conversions killed: %d had written all, 0 expected half, got %d\n", n, complete,
           half);
}

/* ---- All of it ------------------------------------------------------------------------------- */

static void run_good(char *const argv[]) {
    ChildOptions o = {0};
    child_run(&test.child, argv, &o);
    need(test.child.status == 0, test.child.err);
}

/* The good folder with a template that nobody knows. */
static void make_odd(void) {
    static const char *const names[] = {"config.json", "tokenizer.json", "model.safetensors"};
    need(mkdir(in_root("odd"), 0777) == 0, "odd");
    write_bytes(in_root("odd/chat_template.jinja"), "{{ messages }}", 14);
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        char to[64], at[64];
        snprintf(to, sizeof to, "../hf/%s", names[i]);
        snprintf(at, sizeof at, "odd/%s", names[i]);
        need(symlink(to, in_root(at)) == 0, at);
    }
}

static void make_good(const char *program) {
    static const char messages[] =
        "[{\"role\": \"user\", \"content\": \"What is the time, and where are you?\"}]";
    static const char prompts[] = "{\"prompt\": \"hi\"}\n{\"prompt\": \"ho\"}\n";
    char maker[PATH_MAX], hf[600], bin[600];
    const char *slash = strrchr(program, '/');
    int n = slash ? (int)(slash - program) : 1;
    snprintf(maker, sizeof maker, "%.*s/make_tiny", n, slash ? program : ".");
    snprintf(hf, sizeof hf, "%s", in_root("hf"));
    snprintf(bin, sizeof bin, "%.*s/faults/qwen", n, slash ? program : ".");
    need(realpath(bin, test.tool[0]) != NULL, bin);
    snprintf(bin, sizeof bin, "%.*s/faults/convert", n, slash ? program : ".");
    need(realpath(bin, test.tool[1]) != NULL, bin);
    snprintf(bin, sizeof bin, "%s", in_root("good.bin"));
    char *make[] = {maker, hf, NULL}, *convert[] = {test.tool[1], hf, "-o", bin, NULL};
    run_good(make);
    run_good(convert);
    GgufCase plain = {.at = 0};
    Buffer gguf = {0};
    gguf_write(&plain, &gguf);
    write_bytes(in_root("good.gguf"), gguf.data, gguf.n);
    buffer_free(&gguf);
    write_bytes(in_root("messages.json"), messages, sizeof messages - 1);
    write_bytes(in_root("prompts"), prompts, sizeof prompts - 1);
    make_odd();
    need(mkdir(test.out, 0777) == 0, test.out);
}

int main(int argc, char **argv) {
    const char *base = getenv("TMPDIR");
    (void)argc;
    test.full = getenv("LONG") != NULL;
    snprintf(test.root, sizeof test.root, "%.200s/faults-XXXXXX", base ? base : P_tmpdir);
    need(mkdtemp(test.root) != NULL, test.root);
    snprintf(test.out, sizeof test.out, "%s/out", test.root);
    make_good(argv[0]);
    for (size_t s = 0; s < N_SCENARIOS; s++) test_scenario(s);
    test_interrupt();
    test_interrupt_cache();
    test_sync();
    test_usage();
    test_random_memory();
    test_cut(0, "pwrite", "hf/model.safetensors", 5000);
    test_cut(0, "calloc", "hf/model.safetensors", 5000);
    test_cut(2, "pwrite", "good.gguf", 5000);
    test_cut(0, "pwrite", "hf/model.safetensors", -100);
    test_cut(2, "pwrite", "good.gguf", -1);
    test_cut(1, "pwrite", "hf/adapter/adapter_model.safetensors", -100);
    test_cut(4, "calloc", "good.bin", 5000);
    test_cut(4, "realloc", "good.bin", 5000);
    test_cut(7, "calloc", "good.bin", 5000);
    test_kills();
    printf("%zu failing calls, %zu refused with status 1\n", test.points, test.refused);
    char *rm[] = {"rm", "-rf", test.root, NULL};
    run_good(rm);
    return test_end("faults");
}
