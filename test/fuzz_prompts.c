/* fuzz_prompts.c: the lines of --prompts, from the file's bytes to the answers' lines, two of them
 * at a time. The input's first byte has the options: 1 --raw, 2 --parse-special, 4 no answers; the
 * rest is the file. Every line gets one line of JSON in its place: an answer, or an error. */
#define main qwen_main /* the fuzzer has its own */
#include "../qwen.c"
#undef main

#include "fuzz.h"
#include "good_folder.h"

static Program program;

static void open_all(void) {
    Error e;
    EngineOptions o = {.threads = 1, .ctx = 64, .n_seq = 2};
    good_model();
    program.options.prompts = "prompts";
    program.generate = (GenerateOptions){
        .sampler = {.temperature = 1, .top_p = 1, .repeat_penalty = 1, .repeat_last_n = 64},
        .max_tokens = 2,
        .loop_guard = true};
    if (!model_load(&program.model, "model.bin", &e) ||
        !engine_open(&program.engine, &program.model, &o, &e))
        abort();
}

/* Line i of what was written, without its newline; NULL behind the last. */
static void check_line(const char *line, size_t n, size_t i) {
    Error e;
    int64_t index;
    JsonDoc *doc = json_parse(line, n, "answer", &e);
    if (!doc) abort();
    const Json *root = json_root(doc), *why = json_get(root, "error");
    if (!json_int(json_get(root, "index"), 0, INT64_MAX, &index) || (size_t)index != i) abort();
    if (!why == !json_get(root, "text")) abort();
    if (why && memchr(why->string, '\n', why->string_len)) abort();
    json_free(doc);
}

static void check_lines(const char *text, size_t n) {
    size_t i = 0;
    for (const char *line = text, *end; line < text + n; line = end + 1, i++) {
        end = memchr(line, '\n', (size_t)(text + n - line));
        if (!end) abort();
        check_line(line, (size_t)(end - line), i);
    }
    if (i != program.n_prompts) abort();
}

/* Answer all lines of program.text; *out is what was written. */
static void answer_all(Buffer *out) {
    static FILE *written;
    char part[4096];
    size_t n;
    Error e;
    Batch b = {.program = &program, .json = is_json_lines(&program.text)};
    FILE *real = stdout;
    if (!written) written = tmpfile();
    if (!written || ftruncate(fileno(written), 0) != 0) abort();
    rewind(written);
    stdout = written;
    if (!batch_open(&b, &e) || !batch_run(&b, &e) || fflush(stdout) != 0) abort();
    stdout = real;
    rewind(written);
    while ((n = fread(part, 1, sizeof part, written)) > 0)
        if (!buffer_add(out, part, n, &e)) abort();
    batch_close(&b);
}

/* Render all lines of program.text alone, which takes a hundredth of the time. */
static void render_all(void) {
    Error e;
    size_t n;
    Batch b = {.program = &program, .json = is_json_lines(&program.text)};
    while (b.next < program.n_prompts) {
        const char *line = batch_line(&b, &n);
        ChatPrompt prompt = {0};
        if (!render_line(&b, line, n, &prompt, &e))
            fuzz_error(&e);
        else if (prompt.ids.n == 0)
            abort();
        chat_prompt_free(&prompt);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    Buffer written = {0};
    Error e;
    if (n < 2 || n > 4096) return 0; /* every line takes its time */
    if (!program.model.tokenizer) open_all();
    program.options.raw = data[0] & 1;
    program.options.parse_special = data[0] & 2;
    if (!buffer_add(&program.text, data + 1, n - 1, &e)) return 0;
    program.n_prompts = count_lines(&program.text);
    if (data[0] & 4) {
        render_all();
    } else {
        answer_all(&written);
        check_lines(written.data, written.n);
    }
    buffer_free(&program.text);
    buffer_free(&written);
    return 0;
}
