/* main.c: the converter's command line: read the options, open the source, plan, write, say what
 * was done. Exit 0: done; 1: a bad file or the system; 2: a wrong command line; 128 + signal:
 * interrupted, the temporary file is removed. */
#include <errno.h>
#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#include "convert.h"

/* ---- Options --------------------------------------------------------------------------------- */

typedef struct {
    const char *source, *output, *quant, *lora, *name, *random, *info, *seed, *threads;
    bool verbose, help, version;
} Options;

/* A row of the table that both parses the command line and prints --help. */
typedef struct {
    const char *name, *alias, *value; /* value: what to call its argument, NULL: none */
    size_t at;                        /* offset in Options: const char *, or bool without a value */
    const char *help;
} Option;

#define AT(member) offsetof(Options, member)
static const Option option_table[] = {
    {"--output", "-o", "FILE", AT(output), "the model.bin to write"},
    {"--quant", NULL, "TYPE", AT(quant),
     "q8, q5, q4, f32, f16 or bf16 (default: q8; of a GGUF file its own types)"},
    {"--lora", NULL, "DIR", AT(lora), "merge this PEFT adapter into the weights first"},
    {"--name", NULL, "TEXT", AT(name), "the model's name (default: from the source)"},
    {"--random", NULL, "SIZE", AT(random),
     "no source: random weights in the shape of 0.5b, 1.5b, 3b, 7b, 14b, 32b or 72b"},
    {"--seed", NULL, "N", AT(seed), "seed of --random, 0 or more (default: 0)"},
    {"--threads", "-t", "N", AT(threads), "threads, 1 to 64 (default: the CPUs there are)"},
    {"--info", NULL, "PATH", AT(info), "print what a model.bin, GGUF file or folder holds"},
    {"--verbose", "-v", NULL, AT(verbose), "a line for every tensor, with its error"},
    {"--help", "-h", NULL, AT(help), "print this"},
    {"--version", NULL, NULL, AT(version), "print the converter's version"},
};
#define N_OPTIONS (sizeof option_table / sizeof option_table[0])

static void print_help(void) {
    printf(
        "convert: make a model.bin for qwen from a Hugging Face folder or a GGUF file\n\n"
        "  convert SRC -o FILE [--quant TYPE] [--lora DIR] [--name TEXT]\n"
        "  convert --random SIZE -o FILE [--quant TYPE] [--seed N]\n"
        "  convert --info PATH [--verbose]\n\n"
        "SRC: a folder with config.json, the tokenizer and safetensors; one safetensors file in\n"
        "such a folder; or a GGUF file.\n\n");
    for (size_t i = 0; i < N_OPTIONS; i++) {
        const Option *o = &option_table[i];
        char left[64];
        snprintf(left, sizeof left, "%s%s%s%s%s", o->alias ? o->alias : "", o->alias ? ", " : "",
                 o->name, o->value ? " " : "", o->value ? o->value : "");
        printf("  %-20s %s\n", left, o->help);
    }
}

static const Option *find_option(const char *text) {
    for (size_t i = 0; i < N_OPTIONS; i++) {
        const Option *o = &option_table[i];
        if (strcmp(text, o->name) == 0 || (o->alias && strcmp(text, o->alias) == 0)) return o;
    }
    return NULL;
}

static bool take_option(Options *opt, const Option *o, const char *value, Error *e) {
    char *place = (char *)opt + o->at;
    if (!o->value) {
        *(bool *)place = true;
        return true;
    }
    if (!value) return fail(e, NULL, o->name, "expected %s behind it", o->value);
    if (*(const char **)place) return fail(e, NULL, o->name, "given twice");
    if (!value[0]) return fail(e, NULL, o->name, "expected %s, got nothing", o->value);
    *(const char **)place = value;
    return true;
}

static bool parse_options(int argc, char **argv, Options *opt, Error *e) {
    bool only_files = false;
    for (int i = 1; i < argc; i++) {
        const Option *o = only_files ? NULL : find_option(argv[i]);
        if (o) {
            if (!take_option(opt, o, i + 1 < argc ? argv[i + 1] : NULL, e)) return false;
            i += o->value != NULL;
        } else if (!only_files && strcmp(argv[i], "--") == 0) {
            only_files = true;
        } else if (!only_files && argv[i][0] == '-') {
            return fail(e, NULL, argv[i], "unknown option (see --help)");
        } else if (opt->source) {
            return fail(e, NULL, argv[i], "expected one source, got a second one");
        } else {
            opt->source = argv[i];
        }
    }
    return true;
}

/* A name is printed where the model is used. */
static bool check_name(const char *name, Error *e) {
    size_t n = strlen(name), room = sizeof((ModelHeader *)0)->name;
    if (n >= room)
        return fail(e, NULL, "--name", "expected at most %zu bytes, got %zu", room - 1, n);
    return is_printable(name, n) ||
           fail(e, NULL, "--name", "expected text without control characters, got \"%s\"", name);
}

/* Which options go together. */
static bool check_options(const Options *o, Error *e) {
    if (o->help || o->version) return true;
    if (o->info) {
        if (o->source || o->output || o->quant || o->lora || o->random || o->name || o->seed ||
            o->threads)
            return fail(e, NULL, "--info", "expected nothing beside it but --verbose");
        return true;
    }
    if (!o->source && !o->random) return fail(e, NULL, NULL, "expected a source (see --help)");
    if (o->source && o->random) return fail(e, NULL, "--random", "expected no source beside it");
    if (o->source && !o->source[0]) return fail(e, NULL, NULL, "expected a source, got nothing");
    if (o->random && o->lora) return fail(e, NULL, "--random", "expected no --lora beside it");
    if (o->seed && !o->random) return fail(e, NULL, "--seed", "expected --random beside it");
    if (!o->output) return fail(e, NULL, "--output", "missing: expected -o FILE");
    if (strcmp(o->output, "-") == 0)
        return fail(e, NULL, "--output", "expected a file, got \"-\" (pipes do not do)");
    Type type;
    return (!o->random || random_size(o->random, e)) && (!o->name || check_name(o->name, e)) &&
           (!o->quant || quant_type(o->quant, &type, e));
}

/* An optional number of the command line; *out keeps its value without it. */
static bool option_int(const char *text, const char *option, int64_t low, int64_t high,
                       int64_t *out, Error *e) {
    if (!text || parse_int(text, low, high, out)) return true;
    return fail(e, NULL, option, "expected a whole number from %lld to %lld, got \"%s\"",
                (long long)low, (long long)high, text);
}

/* ---- Signals --------------------------------------------------------------------------------- */

static atomic_int stop_signal; /* the number of the signal that arrived */

static void on_signal(int number) { atomic_store(&stop_signal, number); }

/* A page of a mapped file could not be read: it became shorter, or its disk failed. */
static void on_bus_error(int number) {
    (void)number;
    end_with_line("convert: a source file changed on disk, or could not be read, while in use\n");
}

static void catch_signals(void) {
    static const int numbers[] = {SIGINT, SIGTERM, SIGHUP, SIGPIPE};
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
    struct sigaction bus = {.sa_handler = on_bus_error};
    sigemptyset(&action.sa_mask);
    sigemptyset(&bus.sa_mask);
    (void)sigaction(SIGBUS, &bus, NULL); /* cannot fail */
    (void)signal(SIGXFSZ, SIG_IGN);      /* a file size limit becomes an error of the write */
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
        struct sigaction old;
        if (sigaction(numbers[i], NULL, &old) == 0 && old.sa_handler == SIG_IGN)
            continue;                               /* nohup */
        (void)sigaction(numbers[i], &action, NULL); /* cannot fail for these */
    }
}

/* ---- Conversion ------------------------------------------------------------------------------ */

static void print_notes(const Source *s, const Plan *p) {
    if (p->notes.n) fputs(p->notes.data, stderr);
    if (s->note[0]) fprintf(stderr, "note: %s\n", s->note);
    if (s->chat_note[0])
        fprintf(stderr,
                "note: no chat template that is known here, only raw prompts will work (%s)\n",
                s->chat_note);
}

/* "convert: qwen.bin: 1645608960 bytes, q8, 8.50 bits per weight (141 f32, 197 q8), rms error
 * 4.9e-03, name X, template qwen2.5, 9.1 s" */
static void print_result(const Source *s, const WriteJob *job, const char *path, double seconds) {
    const Plan *p = job->plan;
    char file[4096];
    size_t counts[N_TYPES] = {0};
    double bytes = 0, weights = 0;
    for (size_t i = 0; i < p->n; i++) {
        counts[p->entries[i].type]++;
        bytes += (double)p->entries[i].bytes;
        weights += (double)p->entries[i].rows * p->entries[i].cols;
    }
    printable(file, sizeof file, path, strlen(path));
    fprintf(stderr, "convert: %s: %llu bytes, %s, %.2f bits per weight (", file,
            (unsigned long long)p->file_bytes, p->quant, 8 * bytes / weights);
    const char *comma = "";
    for (int t = 0; t < N_TYPES; t++) {
        if (counts[t]) fprintf(stderr, "%s%zu %s", comma, counts[t], type_info((Type)t)->name);
        if (counts[t]) comma = ", ";
    }
    fprintf(stderr, ")");
    if (job->power > 0) fprintf(stderr, ", rms error %.2e", sqrt(job->error / job->power));
    fprintf(stderr, ", name %s, template %s, %.1f s\n", s->header.name,
            chat_family_name(s->header.chat_family), seconds);
}

/* Plan and write an opened source. */
static bool convert(const Options *o, const Source *s, unsigned n_threads, Error *e) {
    double started = now_seconds();
    Plan plan = {0};
    Lora *lora = o->lora ? lora_open(o->lora, s, e) : NULL;
    bool ok = (lora || !o->lora) && plan_make(s, lora, o->quant, &stop_signal, &plan, e);
    if (ok) {
        print_notes(s, &plan);
        WriteJob job = {.source = s,
                        .lora = lora,
                        .plan = &plan,
                        .n_threads = n_threads,
                        .stop = &stop_signal,
                        .progress = isatty(STDERR_FILENO) ? stderr : NULL,
                        .report = o->verbose ? stderr : NULL};
        ok = write_model(&job, o->output, e);
        if (ok) print_result(s, &job, o->output, now_seconds() - started);
    }
    plan_free(&plan);
    lora_close(lora);
    return ok;
}

/* The exit status; *e is filled in when it is not 0. */
static int run(const Options *o, int64_t seed, int64_t threads, Error *e) {
    if (o->info) return info_print(o->info, o->verbose, stdout, e) ? 0 : 1;
    Source *s = alloc_array(e, "source", 1, sizeof *s);
    if (!s) return 1;
    int status = 1;
    if (o->random ? random_open(o->random, s, e) : source_open(o->source, s, e)) {
        s->seed = (uint64_t)seed;
        if (o->name) {
            memset(s->header.name, 0, sizeof s->header.name);
            memcpy(s->header.name, o->name, strlen(o->name));
        }
        status = convert(o, s, (unsigned)threads, e) ? 0 : 1;
        source_close(s);
    }
    free(s);
    return status;
}

static int complain(const Error *e, int status) {
    fprintf(stderr, "convert: %s\n", e->text);
    return status;
}

int main(int argc, char **argv) {
    Error e;
    Options o = {0};
    int64_t seed = 0, threads = allowed_processors();
    if (!parse_options(argc, argv, &o, &e) || !check_options(&o, &e) ||
        !option_int(o.seed, "--seed", 0, INT64_MAX, &seed, &e) ||
        !option_int(o.threads, "--threads", 1, 64, &threads, &e))
        return complain(&e, 2);
    if (o.help)
        print_help();
    else if (o.version)
        printf("%s, model.bin version %d\n", CONVERTER, MODEL_VERSION);
    if (o.help || o.version) {
        if (fflush(stdout) == 0 && !ferror(stdout)) return 0;
        fail_errno(&e, NULL, "cannot write");
        return complain(&e, 1);
    }
    catch_signals();
    int status = run(&o, seed, threads, &e), number = atomic_load(&stop_signal);
    if (status != 0) complain(&e, status);
    if (status != 0 && number > 0) end_by_signal(number);
    return status;
}
