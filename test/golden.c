/* golden.c: compare the program with reference data. `golden [--required] DIR CONVERT SCRATCH`
 *
 * DIR holds, under whatever names:
 *   tokenizer/ *.tsv, *.jsonl     text <-> ids of the tokenizer in qwen2.5/
 *   chat/ and chat/variants/      conversations -> text and ids, templates in qwen2.5/templates/
 *   logits/CASE/                  checkpoints with float64 reference logits (cases.txt)
 * CONVERT is the converter; SCRATCH a folder for what it makes. Checks that need something which is
 * not there are counted as skipped, with the reason. --required is for people who name a folder: to
 * find nothing in it is a failure then, and the last line counts without a name. */
#define QWEN_NO_MAIN
#include "../qwen.c"
#include "../convert/convert.h"

#include <dirent.h>
#include <sys/wait.h>

#include "test.h"

static struct { const char *dir, *convert, *scratch; } where;

/* ---- Small helpers -----------------------------------------------------------------------------
 */

static char *join(char *out, size_t room, const char *a, const char *b) {
    int n = snprintf(out, room, "%s/%s", a, b);
    if (n < 0 || (size_t)n >= room) {
        fprintf(stderr, "golden: path too long: %s/%s\n", a, b);
        exit(1);
    }
    return out;
}

static bool exists(const char *path) { return access(path, R_OK) == 0; }

static int compare_names(const void *a, const void *b) {
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Call fn(path) for every entry of dir whose name ends so, in order of names. Returns how many. */
static int for_each(const char *dir, const char *end, void (*fn)(const char *path)) {
    DIR *d = opendir(dir);
    char *names[1024], path[4096];
    int n = 0;
    if (!d) return 0;
    for (struct dirent *entry; n < 1024 && (entry = readdir(d));)
        if (entry->d_name[0] != '.' && ends_with(entry->d_name, end))
            names[n++] = strdup(entry->d_name);
    closedir(d);
    qsort(names, (size_t)n, sizeof names[0], compare_names);
    for (int i = 0; i < n; i++) {
        fn(join(path, sizeof path, dir, names[i]));
        free(names[i]);
    }
    return n;
}

static bool run_command(const char *const argv[]) {
    pid_t child = fork();
    if (child == 0) {
        execvp(argv[0], (char *const *)(uintptr_t)argv);
        _exit(127);
    }
    int status;
    return child > 0 && waitpid(child, &status, 0) == child && WIFEXITED(status) &&
           WEXITSTATUS(status) == 0;
}

/* Convert source to SCRATCH/out; quant NULL: as it is. */
static bool convert(const char *source, const char *quant, char *out, size_t room) {
    join(out, room, where.scratch, "model.bin");
    const char *argv[] = {where.convert, source, "-o", out, quant ? "--quant" : NULL, quant, NULL};
    int saved = dup(STDERR_FILENO), null = open("/dev/null", O_WRONLY);
    bool verbose = getenv("GOLDEN_VERBOSE") != NULL;
    if (!verbose && null >= 0) dup2(null, STDERR_FILENO);
    bool ok = run_command(argv);
    dup2(saved, STDERR_FILENO);
    close(saved);
    close(null);
    return ok;
}

static bool same_ids(const Ids *got, const Json *want) {
    size_t i = 0;
    if (!want || want->n != got->n) return false;
    for (const Json *v = want->child; v; v = v->next, i++)
        if (v->number != got->ids[i]) return false;
    return true;
}

static int hex_digit(char c) { return c <= '9' ? c - '0' : (c | 32) - 'a' + 10; }

static size_t from_hex(const char *hex, size_t n, char *out) {
    for (size_t i = 0; i + 1 < n; i += 2)
        out[i / 2] = (char)(hex_digit(hex[i]) << 4 | hex_digit(hex[i + 1]));
    return n / 2;
}

/* Call fn for every line of a file, as JSON. */
static void for_each_json(const char *path,
                          void (*fn)(const Json *root, const char *path, int line)) {
    Buffer text = {0};
    Error e;
    if (!read_file(path, (size_t)1 << 30, &text, &e)) {
        CHECK(0, "%s", e.text);
        return;
    }
    int line = 1;
    for (size_t at = 0; at < text.n; line++) {
        size_t n = strcspn(text.data + at, "\n");
        JsonDoc *doc = n > 0 ? json_parse(text.data + at, n, path, &e) : NULL;
        if (n > 0) CHECK(doc != NULL, "%s", e.text);
        if (doc) fn(json_root(doc), path, line);
        json_free(doc);
        at += n + 1;
    }
    buffer_free(&text);
}

/* ---- A model that has the real tokenizer --------------------------------------------------------
 */

static Model shell; /* its weights are zeros: only the tokenizer is used */

static void tensor_json(FILE *f, const char *name, size_t rows, size_t cols, size_t *at) {
    fprintf(f, "%s\"%s\":{\"dtype\":\"BF16\",\"shape\":[", *at ? "," : "", name);
    if (rows > 1) fprintf(f, "%zu,", rows);
    fprintf(f, "%zu],\"data_offsets\":[%zu,%zu]}", cols, *at, *at + rows * cols * 2);
    *at += rows * cols * 2;
}

/* The smallest checkpoint around the tokenizer: one layer, 32 wide, written to dir. */
static bool write_shell(const char *dir, uint32_t vocab) {
    char path[4096], header[16384] = {0};
    FILE *f = fopen(join(path, sizeof path, dir, "config.json"), "w");
    if (!f) return false;
    fprintf(f,
            "{\"model_type\":\"qwen2\",\"architectures\":[\"Qwen2ForCausalLM\"],\"hidden_act\":"
            "\"silu\","
            "\"hidden_size\":32,\"intermediate_size\":32,\"num_hidden_layers\":1,\"num_attention_"
            "heads\":2,"
            "\"num_key_value_heads\":1,\"vocab_size\":%u,\"max_position_embeddings\":1024,"
            "\"rms_norm_eps\":1e-6,\"rope_theta\":10000.0,\"tie_word_embeddings\":true,\"eos_token_"
            "id\":151645}",
            vocab);
    if (fclose(f) != 0) return false;
    f = fmemopen(header, sizeof header, "w");
    if (!f) return false;
    size_t bytes = 0;
    ModelConfig c = {.num_hidden_layers = 1,
                     .hidden_size = 32,
                     .intermediate_size = 32,
                     .num_attention_heads = 2,
                     .num_key_value_heads = 1,
                     .head_dim = 16,
                     .vocab_size = vocab,
                     .max_position_embeddings = 1024,
                     .tie_word_embeddings = 1,
                     .qkv_bias = 1};
    fputc('{', f);
    for (uint32_t i = 0; i < model_n_tensors(&c); i++) {
        TensorShape s;
        model_tensor(&c, i, &s);
        tensor_json(f, s.name, s.rows, s.cols, &bytes);
    }
    fputc('}', f);
    if (fclose(f) != 0) return false;
    uint64_t n = strlen(header);
    f = fopen(join(path, sizeof path, dir, "model.safetensors"), "w");
    if (!f) return false;
    bool ok = fwrite(&n, 8, 1, f) == 1 && fwrite(header, n, 1, f) == 1 && fflush(f) == 0 &&
              ftruncate(fileno(f), (off_t)(8 + n + bytes)) == 0;
    return fclose(f) == 0 && ok;
}

/* Convert the real tokenizer through a shell checkpoint, from tokenizer.json. */
static bool open_shell(void) {
    char dir[4096], real[4096], path[4096], target[4096];
    static char model[4096];
    static const char *const files[] = {"tokenizer.json", "tokenizer_config.json"};
    Error e;
    join(real, sizeof real, where.dir, "qwen2.5");
    mkdir(join(dir, sizeof dir, where.scratch, "shell"), 0777);
    for (size_t i = 0; i < 2; i++) {
        if (!exists(join(path, sizeof path, real, files[i]))) return false;
        char *full = realpath(path, NULL);
        unlink(join(target, sizeof target, dir, files[i]));
        bool linked = full && symlink(full, target) == 0;
        free(full);
        if (!linked) return false;
    }
    if (!write_shell(dir, 151936) || !convert(dir, "f16", path, sizeof path)) return false;
    join(model, sizeof model, where.scratch, "shell.bin");
    return rename(path, model) == 0 && model_load(&shell, model, &e);
}

/* ---- Tokenizer ----------------------------------------------------------------------------------
 */

static void check_encode(const char *text, size_t n, bool special, const Json *want,
                         const char *path, int line) {
    Ids ids = {0};
    Error e;
    bool ok = tokenizer_encode(shell.tokenizer, text, n, special, &ids, &e);
    CHECK(ok && same_ids(&ids, want), "%s:%d: other ids", path, line);
    ids_free(&ids);
}

/* category TAB hex of the text TAB ids */
static void check_tsv(const char *path) {
    FILE *f = fopen(path, "r");
    char *row = NULL;
    size_t room = 0;
    CHECK(f != NULL, "%s: cannot be read", path);
    for (int line = 1; f && getline(&row, &room, f) > 0; line++) {
        char *hex = strchr(row, '\t'), *ids = hex ? strchr(hex + 1, '\t') : NULL;
        if (!ids) continue;
        size_t n = from_hex(hex + 1, (size_t)(ids - hex - 1), row);
        Ids got = {0};
        Error e;
        bool ok = tokenizer_encode(shell.tokenizer, row, n, true, &got, &e);
        char *at = ids + 1;
        for (size_t i = 0; ok && i < got.n; i++) {
            char *end;
            ok = strtol(at, &end, 10) == got.ids[i] && end != at;
            at = end;
        }
        CHECK(ok && at[strspn(at, " \r\n")] == 0, "%s:%d: other ids", path, line);
        ids_free(&got);
    }
    free(row);
    if (f) fclose(f);
}

/* Are the concatenated bytes of the ids, with or without special tokens, hex? */
static void check_bytes(const Json *ids, const Json *hex, bool skip_special, const char *path,
                        int line) {
    Buffer got = {0};
    Error e;
    bool ok = true;
    for (const Json *v = ids->child; v && ok; v = v->next) {
        size_t n;
        const char *bytes = tokenizer_bytes(shell.tokenizer, (int)v->number, &n);
        if (skip_special && tokenizer_is_special(shell.tokenizer, (int)v->number)) continue;
        ok = bytes && buffer_add(&got, bytes, n, &e);
    }
    char *want = malloc(hex->string_len + 1);
    size_t n = want ? from_hex(hex->string, hex->string_len, want) : 0;
    CHECK(ok && want && got.n == n && (n == 0 || memcmp(got.data, want, n) == 0),
          "%s:%d: other bytes", path, line);
    free(want);
    buffer_free(&got);
}

static void check_token_line(const Json *row, const char *path, int line) {
    const Json *text = json_get(row, "text"), *ids = json_get(row, "ids"),
               *hex = json_get(row, "bytes_hex");
    if (json_get(row, "alt")) return; /* implementations differ: nothing to hold against anyone */
    if (hex) {
        check_bytes(ids, hex, false, path, line);
        const Json *skip = json_get(row, "bytes_hex_skip_special");
        if (skip) check_bytes(ids, skip, true, path, line);
    } else if (text && ids) {
        check_encode(text->string, text->string_len, !strstr(path, "nospecial"), ids, path, line);
    }
}

static void check_token_file(const char *path) {
    char twin[4096];
    snprintf(twin, sizeof twin, "%.*s.tsv", (int)(strlen(path) - strlen(".jsonl")), path);
    if (!exists(twin)) for_each_json(path, check_token_line); /* else the same rows came as .tsv */
}

/* ---- Chat ---------------------------------------------------------------------------------------
 */

static const char *chat_template_name; /* for files whose rows do not name one */

static bool load_template(const char *name, ChatTemplate *t, char *system, size_t room, Error *e) {
    char path[4096], file[4096];
    Buffer text = {0};
    snprintf(file, sizeof file, "qwen2.5/templates/%s.jinja", name);
    bool ok = read_file(join(path, sizeof path, where.dir, file), 1 << 20, &text, e) &&
              template_detect(text.data, text.n, shell.tokenizer, t, system, room, path, e, e) &&
              t->family != CHAT_NONE;
    buffer_free(&text);
    return ok;
}

static size_t count_added(const Ids *ids) {
    size_t n = 0;
    for (size_t i = 0; i < ids->n; i++) n += tokenizer_is_added(shell.tokenizer, ids->ids[i]);
    return n;
}

/* Without parse_special the same text comes out, with fewer added tokens where content spelled
 * some. */
static void check_neutral(const ChatTemplate *t, const Json *row, const ChatPrompt *parsed,
                          const char *path, int line) {
    ChatPrompt p = {0};
    Buffer bytes = {0};
    Error e;
    const Json *tools = json_get(row, "tools");
    bool ok = chat_render(t, shell.tokenizer, json_get(row, "messages"),
                          tools && tools->kind == JSON_ARRAY ? tools : NULL,
                          json_get(row, "add_generation_prompt")->boolean, false, path, &p, &e);
    for (size_t i = 0; ok && i < p.ids.n; i++) {
        size_t n;
        const char *b = tokenizer_bytes(shell.tokenizer, p.ids.ids[i], &n);
        ok = b && buffer_add(&bytes, b, n, &e);
    }
    bool same =
        p.ids.n == parsed->ids.n &&
        (p.ids.n == 0 || memcmp(p.ids.ids, parsed->ids.ids, p.ids.n * sizeof *p.ids.ids) == 0);
    CHECK(ok && p.text.n == parsed->text.n && memcmp(p.text.data, parsed->text.data, p.text.n) == 0,
          "%s:%d: another text when special tokens are off", path, line);
    CHECK(same || count_added(&p.ids) < count_added(&parsed->ids),
          "%s:%d: special tokens in what a user wrote", path, line);
    buffer_free(&bytes);
    chat_prompt_free(&p);
}

/* Content in parts is taken here, though the official template refuses it. */
static bool has_parts(const Json *messages) {
    for (const Json *m = messages ? messages->child : NULL; m; m = m->next) {
        const Json *content = json_get(m, "content");
        if (content && content->kind == JSON_ARRAY) return true;
    }
    return false;
}

static void check_chat_line(const Json *row, const char *path, int line) {
    const Json *name = json_get(row, "template"), *rendered = json_get(row, "rendered");
    const Json *tools = json_get(row, "tools"),
               *generation = json_get(row, "add_generation_prompt");
    ChatTemplate t;
    ChatPrompt p = {0};
    Error e;
    char system[1024];
    if (!load_template(name ? name->string : chat_template_name, &t, system, sizeof system, &e)) {
        CHECK(0, "%s:%d: %s", path, line, e.text);
        return;
    }
    bool ok = chat_render(&t, shell.tokenizer, json_get(row, "messages"),
                          tools && tools->kind == JSON_ARRAY ? tools : NULL,
                          generation && generation->boolean, true, path, &p, &e);
    if (!rendered || rendered->kind != JSON_STRING) {
        CHECK(!ok || has_parts(json_get(row, "messages")),
              "%s:%d: accepted, though the reference refuses it", path, line);
    } else {
        CHECK(ok, "%s:%d: %s", path, line, e.text);
        CHECK(ok && p.text.n == rendered->string_len &&
                  memcmp(p.text.data, rendered->string, p.text.n) == 0,
              "%s:%d: another text", path, line);
        CHECK(ok && same_ids(&p.ids, json_get(row, "ids")), "%s:%d: other ids", path, line);
        if (ok && generation) check_neutral(&t, row, &p, path, line);
    }
    chat_prompt_free(&p);
}

static void check_chat_file(const char *path) {
    static char name[256];
    const char *base = strrchr(path, '/') + 1;
    snprintf(name, sizeof name, "%.*s", (int)(strlen(base) - strlen(".jsonl")), base);
    chat_template_name = strstr(path, "variants") ? name : "qwen2.5-instruct";
    for_each_json(path, check_chat_line);
}

/* ---- Logits -------------------------------------------------------------------------------------
 */

/* How far off the logits of one run may be. */
typedef struct {
    const char *what;
    bool kv_f32, all_greedy; /* all_greedy: every argmax and every greedy token must be the same */
    double max, mean;        /* of |logit - reference| */
} Tolerance;

/* What a comparison found. */
static struct {
    double max, sum;
    size_t n, argmax, argmax_same;
} found;

static struct {
    Model model;
    Engine engine;
    float *logits; /* (chunk, V) */
    char dir[4096];
} now;

#define MAX_SEQ 4096
typedef struct {
    char name[64];
    int32_t ids[MAX_SEQ];
    size_t n;
} Sequence;
static Sequence sequences[64];
static size_t n_sequences;

static Sequence *sequence_find(const char *name) {
    for (size_t i = 0; i < n_sequences; i++)
        if (strcmp(sequences[i].name, name) == 0) return &sequences[i];
    return NULL;
}

_Static_assert(PROMPT_CHUNK <= PROMPT_RUN, "an engine's chunk");

/* Feed tokens [from, n) with all logits; calls fn for each position. */
static void feed_all(const int32_t *ids, size_t n, size_t from,
                     void (*fn)(size_t pos, const float *row, void *), void *arg) {
    Token tokens[PROMPT_RUN]; /* the longest chunk */
    for (size_t at = from; at < n; at += now.engine.chunk) {
        uint32_t m = (uint32_t)min_size(n - at, now.engine.chunk);
        for (uint32_t i = 0; i < m; i++)
            tokens[i] = (Token){ids[at + i], 0, (uint32_t)(at + i), true};
        forward(&now.engine, GIVEN, tokens, m, now.logits, NULL);
        for (uint32_t i = 0; fn && i < m; i++)
            fn(at + i, now.logits + i * logits_stride(&now.model), arg);
    }
}

/* The logits of every position of every sequence, kept for the lines that look at them. */
static float *all_logits;

static void keep_row(size_t pos, const float *row, void *arg) {
    (void)arg;
    size_t v = now.model.config->vocab_size;
    memcpy(all_logits + pos * v, row, v * sizeof *row);
}

static int32_t argmax_row(size_t pos) {
    uint32_t v = now.model.config->vocab_size;
    return best_id(all_logits + pos * v, v);
}

static double nll_row(size_t pos, int32_t next) {
    size_t v = now.model.config->vocab_size;
    const float *row = all_logits + pos * v;
    double max = row[0], sum = 0;
    for (size_t i = 0; i < v; i++)
        if ((double)row[i] > max) max = row[i]; /* gcc 12 for aarch64 cannot compile fmax here */
    for (size_t i = 0; i < v; i++) sum += exp((double)row[i] - max);
    /* cppcheck-suppress invalidFunctionArg ; sum is at least 1 */
    return log(sum) + max - (double)row[next];
}

/* ROWS name file k pos*k: the file holds k rows of V floats. */
static void check_rows(char *rest) {
    char name[64], file[256], path[4200];
    int used, k;
    if (sscanf(rest, "%63s %255s %d%n", name, file, &k, &used) != 3) return;
    Buffer want = {0};
    Error e;
    size_t v = now.model.config->vocab_size;
    bool ok = read_file(join(path, sizeof path, now.dir, file), (size_t)1 << 30, &want, &e) &&
              want.n == (size_t)k * v * sizeof(float);
    CHECK(ok, "%s: not %d rows of %zu", path, k, v);
    char *at = rest + used;
    for (int r = 0; ok && r < k; r++) {
        size_t pos = strtoul(at, &at, 10);
        for (size_t i = 0; i < v; i++) {
            float w;
            memcpy(&w, want.data + ((size_t)r * v + i) * sizeof w, sizeof w);
            double off = fabs((double)all_logits[pos * v + i] - (double)w);
            found.max = off > found.max || off != off ? off : found.max;
            found.sum += off;
            found.n++;
        }
    }
    buffer_free(&want);
}

static void check_argmax(char *rest) {
    char name[64];
    int n, used;
    if (sscanf(rest, "%63s %d%n", name, &n, &used) != 2) return;
    char *at = rest + used;
    for (int i = 0; i < n; i++) {
        found.argmax++;
        if (argmax_row((size_t)i) == (int32_t)strtol(at, &at, 10)) found.argmax_same++;
    }
}

static void check_nll(char *rest, const Tolerance *t) {
    char name[64];
    int n, used;
    if (sscanf(rest, "%63s %d%n", name, &n, &used) != 2) return;
    Sequence *s = sequence_find(name);
    char *at = rest + used;
    double worst = 0;
    for (int i = 0; s && i < n; i++)
        worst = fmax(worst, fabs(nll_row((size_t)i, s->ids[i + 1]) - strtod(at, &at)));
    CHECK(s && worst <= 2 * t->max, "%s: NLL of %s off by %g", now.dir, name, worst);
}

/* TRACE name file stages n hidden: the residual stream after the embedding and after each layer,
 * and what the last norm makes of it. Layer by layer, as forward() does it. */
static void check_trace(char *rest, const Tolerance *t) {
    char name[64], file[256], path[4200];
    unsigned stages, n, hidden;
    if (sscanf(rest, "%63s %255s %u %u %u", name, file, &stages, &n, &hidden) != 5) return;
    Buffer want = {0};
    Error e;
    Sequence *s = sequence_find(name);
    Token tokens[PROMPT_RUN]; /* the longest chunk */
    bool ok = s && n <= now.engine.chunk && stages == now.model.config->num_hidden_layers + 2 &&
              read_file(join(path, sizeof path, now.dir, file), (size_t)1 << 30, &want, &e) &&
              want.n == (size_t)stages * n * hidden * sizeof(float);
    CHECK(ok, "%s: not a trace of %u stages", now.dir, stages);
    if (!ok) return buffer_free(&want);
    for (uint32_t i = 0; i < n; i++) tokens[i] = (Token){s->ids[i], 0, i, false};
    Pass p = {.e = &now.engine, .tokens = tokens, .n = n};
    double worst = 0;
    for (uint32_t stage = 0; stage < stages; stage++) {
        const float *x = now.engine.x;
        if (stage == 0) {
            parallel_for(now.engine.pool, n, embed_unit, &p);
        } else if (stage + 1 < stages) {
            p.layer = &now.model.layers[stage - 1];
            p.layer_index = stage - 1;
            layer_forward(&p);
        } else {
            prepare(&p, n, now.engine.x, now.engine.x_stride, hidden, now.model.norm, 1);
            x = now.engine.normed;
        }
        for (size_t i = 0; i < (size_t)n * hidden; i++) {
            float w;
            memcpy(&w, want.data + ((size_t)stage * n * hidden + i) * sizeof w, sizeof w);
            double off = fabs((double)x[i / hidden * now.engine.x_stride + i % hidden] - (double)w);
            worst = fmax(worst, off / fmax(1, fabs((double)w)));
        }
    }
    if (t->all_greedy) CHECK(worst <= t->max, "%s: trace off by %g", now.dir, worst);
    buffer_free(&want);
}

/* GREEDY name nprompt ncont ids: the tokens that follow the prompt, one at a time through the
 * cache. */
static void check_greedy(char *rest, const Tolerance *t) {
    char name[64];
    int n_prompt, n_more, used;
    static int32_t ids[MAX_SEQ];
    if (!t->all_greedy || sscanf(rest, "%63s %d %d%n", name, &n_prompt, &n_more, &used) != 3)
        return;
    char *at = rest + used;
    for (int i = 0; i < n_prompt + n_more && i < MAX_SEQ; i++)
        ids[i] = (int32_t)strtol(at, &at, 10);
    int same = 0;
    feed_all(ids, (size_t)n_prompt, 0, keep_row, NULL);
    for (int i = n_prompt; i < n_prompt + n_more; i++) {
        if (argmax_row((size_t)i - 1) != ids[i]) break;
        same++;
        feed_all(ids, (size_t)i + 1, (size_t)i, keep_row, NULL);
    }
    /* the prompts of texts were not chosen for clear margins: a tie may end them */
    CHECK(same == n_more, "%s: %s: %d of %d greedy tokens", now.dir, name, same, n_more);
}

static char text_hex[65536];

/* TEXT name hex, and the GREEDY line of that name: its prompt is the text's ids. */
static void check_text(const char *greedy) {
    char name[64];
    int n_prompt, n_more, used;
    static char text[32768];
    if (!text_hex[0] || sscanf(greedy, "%63s %d %d%n", name, &n_prompt, &n_more, &used) != 3)
        return;
    Ids ids = {0};
    Error e;
    size_t n = from_hex(text_hex, strlen(text_hex), text);
    const char *at = greedy + used;
    bool ok =
        tokenizer_encode(now.model.tokenizer, text, n, true, &ids, &e) && ids.n == (size_t)n_prompt;
    for (size_t i = 0; ok && i < ids.n; i++) {
        char *end;
        ok = strtol(at, &end, 10) == ids.ids[i];
        at = end;
    }
    CHECK(ok, "%s: %s: other ids for its text", now.dir, name);
    ids_free(&ids);
    text_hex[0] = 0;
}

static void read_sequence(char *rest) {
    int n, used;
    if (n_sequences == sizeof sequences / sizeof sequences[0]) return;
    Sequence *s = &sequences[n_sequences];
    if (sscanf(rest, "%63s %d%n", s->name, &n, &used) != 2 || n > MAX_SEQ) return;
    char *at = rest + used;
    for (s->n = 0; s->n < (size_t)n; s->n++) s->ids[s->n] = (int32_t)strtol(at, &at, 10);
    feed_all(s->ids, s->n, 0, keep_row, NULL);
    n_sequences++;
}

static void check_case_line(char *line, const Tolerance *t) {
    static const struct {
        const char *word;
        int kind;
    } words[] = {{"SEQ ", 0},   {"ROWS ", 1},   {"ARGMAX ", 2}, {"NLL ", 3},
                 {"TRACE ", 4}, {"GREEDY ", 5}, {"TEXT ", 6}};
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++) {
        size_t n = strlen(words[i].word);
        if (strncmp(line, words[i].word, n) != 0) continue;
        char *rest = line + n, name[64];
        int used = 0;
        switch (words[i].kind) {
        case 0: read_sequence(rest); break;
        case 1: check_rows(rest); break;
        case 2: check_argmax(rest); break;
        case 3: check_nll(rest, t); break;
        case 4: check_trace(rest, t); break;
        case 5:
            check_text(rest);
            check_greedy(rest, t);
            break;
        default:
            if (sscanf(rest, "%63s%n", name, &used) == 1)
                snprintf(text_hex, sizeof text_hex, "%s", rest + used + 1);
        }
    }
}

/* Run all lines of now.dir's cases.txt against the model with these keys and values. */
static void check_case(const char *model_path, const Tolerance *t) {
    char path[4200];
    Error e;
    EngineOptions o = {
        .threads = 2, .ctx = MAX_SEQ, .n_seq = 1, .kv_f32 = t->kv_f32, .isa = getenv("QWEN_ISA")};
    bool ok =
        model_load(&now.model, model_path, &e) && engine_open(&now.engine, &now.model, &o, &e);
    CHECK(ok, "%s: %s", now.dir, ok ? "" : e.text);
    if (!ok) return;
    size_t v = logits_stride(&now.model);
    now.logits = alloc_array(&e, "logits", now.engine.chunk * v, sizeof *now.logits);
    all_logits = alloc_array(&e, "logits", MAX_SEQ * v, sizeof *all_logits);
    memset(&found, 0, sizeof found);
    n_sequences = 0;
    FILE *f = fopen(join(path, sizeof path, now.dir, "cases.txt"), "r");
    char *line = NULL;
    size_t room = 0;
    while (f && now.logits && all_logits && getline(&line, &room, f) > 0) {
        line[strcspn(line, "\r\n")] = 0;
        check_case_line(line, t);
    }
    free(line);
    if (f) fclose(f);
    double mean = found.n ? found.sum / (double)found.n : 0;
    printf("  %-28s %-22s max %.2e mean %.2e argmax %zu of %zu\n", strrchr(now.dir, '/') + 1,
           t->what, found.max, mean, found.argmax_same, found.argmax);
    CHECK(found.n == 0 || found.max <= t->max, "%s: %s: max %g > %g", now.dir, t->what, found.max,
          t->max);
    CHECK(found.n == 0 || mean <= t->mean, "%s: %s: mean %g > %g", now.dir, t->what, mean, t->mean);
    if (t->all_greedy)
        CHECK(found.argmax_same == found.argmax, "%s: %s: argmax %zu of %zu", now.dir, t->what,
              found.argmax_same, found.argmax);
    free(now.logits);
    free(all_logits);
    engine_close(&now.engine);
    model_unload(&now.model);
}

/* Make the checkpoint that a case describes but does not hold: its cases.json has the command. The
 * first python3 that has numpy runs it. */
static bool regenerate(const char *dir, char *out, size_t room) {
    char path[4200], tools[4200], command[16384];
    Error e;
    JsonDoc *doc = json_read(join(path, sizeof path, dir, "cases.json"), (size_t)64 << 20, &e);
    const Json *make = doc ? json_get(json_root(doc), "make") : NULL;
    join(tools, sizeof tools, where.dir, "../tools");
    join(out, room, where.scratch, "regenerated");
    const char *slot = make && make->kind == JSON_STRING ? strstr(make->string, "DIR") : NULL;
    bool ok = slot && !strpbrk(make->string, "'\";&|$`<>()\\\n");
    if (ok)
        snprintf(command, sizeof command,
                 "rm -rf '%s'; for p in python3 /usr/bin/python3; do $p -c 'import numpy' "
                 "2>/dev/null && "
                 "exec $p -B '%s'/%.*s'%s'%s >/dev/null; done; exit 1",
                 out, tools, (int)(slot - make->string), make->string, out, slot + 3);
    json_free(doc);
    const char *run[] = {"sh", "-c", command, NULL};
    return ok && run_command(run) && exists(out);
}

/* Which way is the checkpoint stored? Floats are compared tightly, quantized blocks as loosely as
 * another engine's figures (its README) allow. */
static bool is_quantized(const char *model_path) {
    Model m;
    Error e;
    if (!model_load(&m, model_path, &e)) return true;
    bool quantized = m.quantized;
    model_unload(&m);
    return quantized;
}

static void check_checkpoint(const char *dir) {
    static const Tolerance exact = {"f32 weights, f32 kv", true, true, 3e-4, 3e-5};
    static const Tolerance narrow = {"f32 weights, i16 kv", false, false, 0.03, 1e-3};
    static const Tolerance blocks = {"blocks, f32 kv", true, false, 0.45, 0.06};
    static const Tolerance both = {"blocks, i16 kv", false, false, 0.45, 0.06};
    char cases[4200], source[4200], model[4200];
    if (!exists(join(cases, sizeof cases, dir, "cases.txt"))) return;
    snprintf(now.dir, sizeof now.dir, "%s", dir);
    bool gguf = exists(join(source, sizeof source, dir, "model.gguf"));
    if (!gguf && !exists(join(source, sizeof source, dir, "hf")) &&
        !regenerate(dir, source, sizeof source))
        return test_skip(1, "a checkpoint without weights (python3 with numpy makes them)");
    bool ok = convert(source, gguf ? NULL : "f32", model, sizeof model);
    CHECK(ok, "%s: not converted", dir);
    if (!ok) return;
    bool quantized = is_quantized(model);
    check_case(model, quantized ? &blocks : &exact);
    check_case(model, quantized ? &both : &narrow);
}

static void check_all(void) {
    char path[4096];
    if (!exists(where.dir)) return test_skip(1, "there is no folder of golden data");
    if (open_shell()) {
        for_each(join(path, sizeof path, where.dir, "tokenizer"), ".tsv", check_tsv);
        for_each(join(path, sizeof path, where.dir, "tokenizer"), ".jsonl", check_token_file);
        printf("  tokenizer: %d passed, %d failed\n", test_count.passed, test_count.failed);
        int passed = test_count.passed, failed = test_count.failed;
        for_each(join(path, sizeof path, where.dir, "chat"), ".jsonl", check_chat_file);
        for_each(join(path, sizeof path, where.dir, "chat/variants"), ".jsonl", check_chat_file);
        printf("  chat: %d passed, %d failed\n", test_count.passed - passed,
               test_count.failed - failed);
        model_unload(&shell);
    } else {
        test_skip(1, "the tokenizer's files could not be converted");
    }
    for_each(join(path, sizeof path, where.dir, "logits"), "", check_checkpoint);
}

int main(int argc, char **argv) {
    bool required = argc == 5 && strcmp(argv[1], "--required") == 0;
    if (argc != 4 && !required)
        return fprintf(stderr, "usage: golden [--required] DIR CONVERT SCRATCH\n"), 2;
    argv += required;
    setvbuf(stdout, NULL, _IOLBF, 0);
    where.dir = argv[1];
    where.convert = argv[2];
    where.scratch = argv[3];
    check_all();
    if (!required) return test_end("golden");
    if (test_count.passed + test_count.failed == 0)
        CHECK(false, "%s: no golden data there", where.dir);
    printf("\n%d passed, %d failed", test_count.passed, test_count.failed);
    if (test_count.skipped) printf(", %d skipped", test_count.skipped);
    printf("\n");
    return test_count.failed ? 1 : 0;
}
