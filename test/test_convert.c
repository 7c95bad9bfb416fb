/* test_convert.c: the converter, part by part: small models are written to a folder of their own,
 * opened, planned, written and read back. Damaged ones are made from the good one by replacing a
 * piece of text in one of its files.
 *
 *     test_convert [GOLDEN]      GOLDEN: a folder with logits/CASE/hf and logits/CASE/model.gguf
 *                                (default: ../shared/golden) */
#include <dirent.h>
#include <math.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../convert/convert.h"
#include "test.h"

enum { CONFIG, GENERATION, TOKENIZER, TOKENIZER_CONFIG, HEADER, N_FILES };
static const char *const file_names[N_FILES] = {"config.json", "generation_config.json",
                                                "tokenizer.json", "tokenizer_config.json",
                                                "model.safetensors"};

typedef struct {
    Buffer text[N_FILES]; /* HEADER: the JSON of model.safetensors; data is behind it */
    Buffer data;
    Buffer vocab, merges; /* the same tokenizer in two files */
} Model;

static char folder[300], path_room[8][700];

/* folder/name; eight results stay valid at a time */
static const char *in_folder(const char *name) {
    static unsigned turn;
    char *out = path_room[turn++ % 8];
    snprintf(out, sizeof path_room[0], "%s/%s", folder, name);
    return out;
}

static void add(Buffer *b, const char *text) {
    Error e;
    if (!buffer_puts(b, text, &e)) CHECK(0, "%s", e.text);
}

static void write_file(const char *name, const void *head, size_t n_head, const void *bytes,
                       size_t n) {
    FILE *f = fopen(in_folder(name), "wb");
    CHECK(f && fwrite(head, 1, n_head, f) == n_head && fwrite(bytes, 1, n, f) == n, "write %s",
          name);
    if (f) fclose(f);
}

/* ---- The good model -------------------------------------------------------------------------- */

static const char good_config[] =
    "{\"architectures\":[\"Qwen2ForCausalLM\"],\"model_type\":\"qwen2\",\"hidden_act\":\"silu\",\n"
    "\"hidden_size\":64,\"intermediate_size\":96,\"num_hidden_layers\":2,\n"
    "\"num_attention_heads\":4,\"num_key_value_heads\":2,\"vocab_size\":272,\n"
    "\"max_position_embeddings\":4096,\"rms_norm_eps\":1e-06,\"rope_theta\":1000000.0,\n"
    "\"tie_word_embeddings\":false,\"torch_dtype\":\"bfloat16\",\"use_sliding_window\":false,\n"
    "\"sliding_window\":4096,\"bos_token_id\":260,\"eos_token_id\":262,\"rope_scaling\":null}";
static const char good_generation[] =
    "{\"do_sample\":true,\"eos_token_id\":[262,260],\"pad_token_id\":260,\"temperature\":0.7,\n"
    "\"min_p\":0.1,\"top_p\":0.8,\"top_k\":20,\"repetition_penalty\":1.1}";
static const char good_added[] =
    "[{\"id\":260,\"content\":\"<|endoftext|>\",\"special\":true},"
    "{\"id\":261,\"content\":\"<|im_start|>\",\"special\":true},"
    "{\"id\":262,\"content\":\"<|im_end|>\",\"special\":true},"
    "{\"id\":263,\"content\":\"<tool_call>\",\"special\":false,\"lstrip\":false}]";
static const char good_steps[] =
    "\"normalizer\":{\"type\":\"NFC\"},\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":["
    "\n"
    "{\"type\":\"Split\",\"pattern\":{\"Regex\":\"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\\\r\\\\n\\\\p{L}"
    "\\\\p{N}]?\\\\p{L}+|\\\\p{N}| ?[^\\\\s\\\\p{L}\\\\p{N}]+[\\\\r\\\\n]*|\\\\s*[\\\\r\\\\n]+|"
    "\\\\s+(?!\\\\S)|\\\\s+\"},\"behavior\":\"Isolated\",\"invert\":false},\n"
    "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":false}]}";
static const char good_template[] =
    "{\"added_tokens_decoder\":{"
    "\"260\":{\"content\":\"<|endoftext|>\",\"special\":true},"
    "\"261\":{\"content\":\"<|im_start|>\",\"special\":true},"
    "\"262\":{\"content\":\"<|im_end|>\",\"special\":true},"
    "\"263\":{\"content\":\"<tool_call>\",\"special\":false}},"
    "\"chat_template\":\"{% for message in messages %}{% if loop.first and messages[0]['role'] != "
    "'system' %}{{ '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}\"}";

/* 256 bytes in GPT-2's alphabet, then "th", "the", " the" (with U+0120 for the space), "he". */
static void make_tokenizer(Model *m) {
    Error e;
    int id = 0;
    add(&m->vocab, "{");
    for (int cp = '!'; cp < 0x144; cp++) {
        if ((cp > '~' && cp < 0xa1) || cp == 0xad) continue;
        char text[5] = "";
        text[utf8_encode(cp, text)] = 0;
        bool escape = cp == '"' || cp == '\\';
        CHECK(buffer_printf(&m->vocab, &e, "\"%s%s\":%d,", escape ? "\\" : "", text, id++),
              "memory");
    }
    add(&m->vocab, "\"th\":256,\"the\":257,\"\xc4\xa0the\":258,\"he\":259}");
    add(&m->merges, "t h\nth e\n\xc4\xa0 the\nh e\n");
    Buffer *t = &m->text[TOKENIZER];
    add(t, "{\"version\":\"1.0\",\"added_tokens\":");
    add(t, good_added);
    add(t, ",");
    add(t, good_steps);
    add(t, ",\"model\":{\"type\":\"BPE\",\"dropout\":null,\"unk_token\":null,\"vocab\":");
    add(t, m->vocab.data);
    add(t, ",\"merges\":[\"t h\",\"th e\",\"\xc4\xa0 the\",\"h e\"]}}");
}

/* Weights: bf16, of the size that real ones have. */
static void make_weights(Model *m, const ModelConfig *c, uint64_t seed) {
    Error e;
    add(&m->text[HEADER], "{\"__metadata__\":{\"format\":\"pt\"}");
    for (uint32_t i = 0; i < model_n_tensors(c); i++) {
        TensorShape t;
        model_tensor(c, i, &t);
        size_t n = (size_t)t.rows * t.cols, at = m->data.n;
        for (size_t k = 0; k < n; k++) {
            float x = (float)((double)(test_random(&seed) >> 11) * 0x1p-53 - 0.5) * 0.1f;
            uint16_t h = bf16_from_f32(t.vector ? x + 1 : x);
            CHECK(buffer_add(&m->data, &h, sizeof h, &e), "memory");
        }
        char shape[40];
        if (t.vector)
            snprintf(shape, sizeof shape, "[%u]", t.cols);
        else
            snprintf(shape, sizeof shape, "[%u,%u]", t.rows, t.cols);
        CHECK(buffer_printf(&m->text[HEADER], &e,
                            ",\"%s\":{\"dtype\":\"BF16\",\"shape\":%s,\"data_offsets\":[%zu,%zu]}",
                            t.name, shape, at, m->data.n),
              "memory");
    }
    add(&m->text[HEADER], "}");
    test_count.passed = 0; /* building is no check */
}

static void make_model(Model *m) {
    ModelConfig c = {.num_hidden_layers = 2,
                     .hidden_size = 64,
                     .intermediate_size = 96,
                     .num_attention_heads = 4,
                     .num_key_value_heads = 2,
                     .head_dim = 16,
                     .vocab_size = 272,
                     .qkv_bias = 1};
    *m = (Model){0};
    add(&m->text[CONFIG], good_config);
    add(&m->text[GENERATION], good_generation);
    add(&m->text[TOKENIZER_CONFIG], good_template);
    make_tokenizer(m);
    make_weights(m, &c, 1);
}

static void free_model(Model *m) {
    for (int i = 0; i < N_FILES; i++) buffer_free(&m->text[i]);
    buffer_free(&m->data);
    buffer_free(&m->vocab);
    buffer_free(&m->merges);
}

/* One file of the model, with this text in it. */
static void put_file(const Model *m, int file, const char *text, size_t n) {
    if (file != HEADER) {
        write_file(file_names[file], "", 0, text, n);
        return;
    }
    Buffer head = {0};
    Error e;
    uint64_t length = n;
    bool ok = buffer_add(&head, &length, sizeof length, &e) && buffer_add(&head, text, n, &e);
    if (!ok) CHECK(0, "memory");
    write_file(file_names[HEADER], head.data, head.n, m->data.data, m->data.n);
    buffer_free(&head);
}

static void put_model(const Model *m) {
    int passed = test_count.passed;
    for (int i = 0; i < N_FILES; i++) put_file(m, i, m->text[i].data, m->text[i].n);
    test_count.passed = passed;
}

/* ---- Good models ----------------------------------------------------------------------------- */

static atomic_int no_stop;

/* Convert an opened source to folder/name; false with e when that fails. */
static bool convert_source(const Source *s, const char *quant, const char *lora_dir,
                           unsigned threads, const char *name, Error *e) {
    Plan plan = {0};
    Lora *lora = lora_dir ? lora_open(lora_dir, s, e) : NULL;
    atomic_store(&no_stop, 0); /* a failure has set it */
    bool ok = (lora || !lora_dir) && plan_make(s, lora, quant, &no_stop, &plan, e);
    WriteJob job = {
        .source = s, .lora = lora, .plan = &plan, .n_threads = threads, .stop = &no_stop};
    ok = ok && write_model(&job, in_folder(name), e);
    plan_free(&plan);
    lora_close(lora);
    return ok;
}

static bool convert_folder(const char *quant, const char *lora_dir, const char *name, Error *e) {
    Source s;
    if (!source_open(folder, &s, e)) return false;
    bool ok = convert_source(&s, quant, lora_dir, 2, name, e);
    source_close(&s);
    return ok;
}

static bool same_files(const char *a, const char *b) {
    Buffer x = {0}, y = {0};
    Error e;
    bool same = read_file(in_folder(a), 1u << 30, &x, &e) &&
                read_file(in_folder(b), 1u << 30, &y, &e) && x.n == y.n &&
                memcmp(x.data, y.data, x.n) == 0;
    buffer_free(&x);
    buffer_free(&y);
    return same;
}

/* Rows of the result against the source's: relative error at most `limit`, checksums right. */
static void check_result(const Source *s, const char *name, double limit) {
    ModelFile m;
    Error e;
    Crc crc;
    crc_init(&crc);
    bool open = model_open(&m, in_folder(name), &e);
    CHECK(open, "%s", e.text);
    if (!open) return;
    for (uint32_t i = 0; i < m.header->n_tensors; i++) {
        const TensorEntry *t = &m.tensors[i];
        const SourceTensor *from = &s->tensors[i];
        TensorShape shape;
        model_tensor(&m.header->config, i, &shape);
        CHECK(model_verify_tensor(&m, i, &crc, name, &e), "%s", e.text);
        double error = 0, power = 0;
        uint8_t raw[4096];
        float x[512], y[512];
        for (uint32_t r = 0; r < t->rows; r++) {
            if (!source_read_rows(s, from, r, 1, raw, &e)) CHECK(0, "%s", e.text);
            source_row_to_float(from->type, raw, t->cols, x);
            const uint8_t *data = m.map.data + t->offset;
            if (shape.vector)
                memcpy(y, data, t->bytes);
            else
                matrix_row((Type)t->type, t->cols, data, r, y);
            for (uint32_t k = 0; k < t->cols; k++) {
                error += (double)(x[k] - y[k]) * (double)(x[k] - y[k]);
                power += (double)x[k] * (double)x[k];
            }
        }
        CHECK(sqrt(error / power) <= (shape.vector ? 0 : limit), "%s %s: error %g", name, t->name,
              sqrt(error / power));
    }
    model_close(&m);
}

static void test_types(const Model *m) {
    static const struct {
        const char *quant;
        double limit;
        Type type;
    } cases[] = {{NULL, 0.01, TYPE_Q8},    {"q8", 0.01, TYPE_Q8}, {"q5", 0.05, TYPE_Q5_1},
                 {"q4", 0.05, TYPE_Q5_0},  {"f32", 0, TYPE_F32},  {"f16", 0.001, TYPE_F16},
                 {"bf16", 0, TYPE_BF16}};
    put_model(m);
    Error e;
    Source s;
    bool open = source_open(folder, &s, &e);
    CHECK(open, "%s", e.text);
    if (!open) return;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        CHECK(convert_source(&s, cases[i].quant, NULL, 1, "one.bin", &e), "%s", e.text);
        CHECK(convert_source(&s, cases[i].quant, NULL, 3, "three.bin", &e), "%s", e.text);
        CHECK(same_files("one.bin", "three.bin"), "one thread and three give the same file");
        check_result(&s, "one.bin", cases[i].limit);
        ModelFile f;
        if (!model_open(&f, in_folder("one.bin"), &e)) continue;
        CHECK(f.tensors[2].type == cases[i].type, "q_proj is %s", type_info(cases[i].type)->name);
        CHECK(strcmp(f.header->quant, cases[i].quant ? cases[i].quant : "q8") == 0,
              "quant is named");
        model_close(&f);
    }
    CHECK(!convert_source(&s, "q9", NULL, 1, "bad.bin", &e), "q9 is refused");
    source_close(&s);
}

static void test_header(const Model *m) {
    put_model(m);
    Error e;
    ModelFile f;
    bool open =
        convert_folder(NULL, NULL, "one.bin", &e) && model_open(&f, in_folder("one.bin"), &e);
    CHECK(open, "%s", e.text);
    if (!open) return;
    const ModelHeader *h = f.header;
    const ModelConfig *c = &h->config;
    CHECK(c->num_hidden_layers == 2 && c->hidden_size == 64 && c->intermediate_size == 96 &&
              c->num_attention_heads == 4 && c->num_key_value_heads == 2 && c->head_dim == 16,
          "sizes");
    CHECK(c->vocab_size == 272 && c->max_position_embeddings == 4096 && c->qkv_bias == 1, "sizes");
    CHECK(c->rope_theta == 1e6 && c->rms_norm_eps == 1e-6f && c->yarn_factor == 0, "numbers");
    const ModelDefaults *d = &h->defaults;
    CHECK(d->do_sample == 1 && d->top_k == 20 && d->temperature == 0.7f && d->top_p == 0.8f &&
              h->min_p == 0.1f && d->repetition_penalty == 1.1f,
          "defaults");
    CHECK(d->n_eos == 2 && d->eos[0] == 262 && d->eos[1] == 260 && d->bos == 260 && d->pad == 260,
          "token ids");
    CHECK(h->chat_family == CHAT_QWEN2 && h->has_default_system == 1 && h->default_system_len == 28,
          "template: family %u, %u bytes", h->chat_family, h->default_system_len);
    Map weights;
    uint8_t want[32];
    Sha256 sha;
    sha256_init(&sha);
    CHECK(map_open(&weights, in_folder("model.safetensors"), &e), "%s", e.text);
    sha256_update(&sha, weights.data, weights.bytes);
    sha256_final(&sha, want);
    map_close(&weights);
    CHECK(memcmp(want, h->source_sha256, 32) == 0, "the source's SHA-256");
    CHECK(strcmp(h->converter, CONVERTER) == 0, "converter");
    Tokenizer *t =
        tokenizer_open(f.map.data + h->tokenizer_offset, h->tokenizer_bytes, "one.bin", &e);
    CHECK(t && tokenizer_n_tokens(t) == 264 && tokenizer_find(t, "<|im_end|>") == 262, "tokenizer");
    if (t) {
        Ids ids = {0};
        size_t n;
        const char *text = tokenizer_bytes(t, 258, &n);
        CHECK(n == 4 && memcmp(text, " the", 4) == 0, "token 258 is \" the\"");
        CHECK(tokenizer_encode(t, "the the", 7, false, &ids, &e) && ids.n == 2 &&
                  ids.ids[0] == 257 && ids.ids[1] == 258,
              "encodes by merges");
        CHECK(tokenizer_is_special(t, 262) && !tokenizer_is_special(t, 263), "special flags");
        ids_free(&ids);
    }
    tokenizer_close(t);
    model_close(&f);
}

/* ---- Variations ------------------------------------------------------------------------------ */

/* Those that must open, and refusals beside those that test_malformed.c has. */
typedef struct {
    int file;
    const char *from, *to; /* the first `from` becomes `to` */
    const char *want;      /* part of the error; NULL: opens */
} Case;

static const Case cases[] = {
#define OPENS NULL
#define POST(to) "\"post_processor\":" to ",\"normalizer\""
#define YARN(more) "{\"type\":\"yarn\",\"factor\":4.0," more "}}"
    {CONFIG, "null}",
     "{\"type\":\"yarn\",\"factor\":4.0,\"original_max_position_embeddings\":1024}}", OPENS},
    {CONFIG, "null}", "{\"rope_type\":\"yarn\",\"factor\":4.0}}", OPENS},
    {CONFIG, "null}", "{\"rope_type\":\"default\"}}", OPENS},
    {CONFIG, "null}", "null,\"head_dim\":16}", OPENS},
    {CONFIG, "null}", "null,\"layer_types\":[\"full_attention\",\"full_attention\"]}", OPENS},
    {CONFIG, "\"rope_theta\":1000000.0,", "\"rope_parameters\":{\"rope_theta\":1e6},", OPENS},
    {CONFIG, "\"use_sliding_window\":false",
     "\"use_sliding_window\":true,\"max_window_layers\":2", OPENS}, /* it has 2 layers */
    {CONFIG, "\"use_sliding_window\":false",
     "\"use_sliding_window\":true,\"max_window_layers\":1", "use_sliding_window: true"},
    {CONFIG, "\"use_sliding_window\":false",
     "\"use_sliding_window\":true,\"max_window_layers\":\"all\"", "max_window_layers: expected"},
    {CONFIG, "null}", "null,\"rope_parameters\":{\"rope_theta\":1e6}}", OPENS},
    {CONFIG, "null}", "null,\"rope_parameters\":{\"rope_theta\":1e5}}",
     "rope_theta: is 1e+06, and 100000 beside"},
    {GENERATION, "[262,260]", "null", OPENS},
    {GENERATION, "\"pad_token_id\":260", "\"pad_token_id\":-1", OPENS},
    {GENERATION, "\"top_k\":20", "\"top_k\":-1", OPENS},
    {GENERATION, "\"min_p\":0.1", "\"min_p\":1.5", "min_p: expected a number from 0 to 1"},
    {TOKENIZER, "{\"type\":\"NFC\"}", "null", "normalizer: expected NFC"},
    {TOKENIZER, "\"normalizer\":{\"type\":\"NFC\"},", "", "normalizer: expected NFC"},
    {TOKENIZER, ",\"use_regex\":false", "", "add_prefix_space and use_regex false"},
    {TOKENIZER, "\"use_regex\":false", "\"use_regex\":null", "and use_regex false"},
    {TOKENIZER, "\"use_regex\":false", "\"use_regex\":true", "and use_regex false"},
    {TOKENIZER, "\"add_prefix_space\":false,", "", "ByteLevel with add_prefix_space"},
    {TOKENIZER, "\"normalizer\"", POST("{\"type\":\"ByteLevel\",\"use_regex\":false}"), OPENS},
    {TOKENIZER, "\"normalizer\"", POST("null"), OPENS},
    {TOKENIZER, "\"normalizer\"", POST("{\"type\":\"TemplateProcessing\"}"),
     "post_processor: \"TemplateProcessing\" is unsupported, expected ByteLevel or null"},
    {TOKENIZER, "\"normalizer\"", /* transformers 5 may save this, which adds nothing */
     POST("{\"type\":\"TemplateProcessing\",\"single\":[{\"Sequence\":{\"id\":\"A\",\"type_id\":0}}"
          "]}"),
     OPENS},
    {TOKENIZER, "\"normalizer\"",
     POST("{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"A\"}}]}"),
     "post_processor: \"TemplateProcessing\" is unsupported"},
    {TOKENIZER, "\"normalizer\"",
     POST("{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"x\"}},"
          "{\"Sequence\":{\"id\":\"A\"}}]}"),
     "post_processor: \"TemplateProcessing\" is unsupported"},
    {TOKENIZER, "\"normalizer\"", POST("7"), "post_processor: 7 is unsupported"},
    {TOKENIZER, "\"t h\",", "[\"t\",\"h\"],", OPENS},
    {CONFIG, "\"architectures\":[\"Qwen2ForCausalLM\"],", "", OPENS},
    {CONFIG, "[\"Qwen2ForCausalLM\"]", "[]", OPENS},
    {CONFIG, "\"hidden_act\":\"silu\",", "", OPENS},
    {CONFIG, "\"torch_dtype\":\"bfloat16\",", "", OPENS},
    {CONFIG, "\"bfloat16\"", "\"float16\"", OPENS},
    {CONFIG, "\"bfloat16\"", "\"float32\"", OPENS},
    {CONFIG, "\"bos_token_id\":260,", "", OPENS},
    {CONFIG, "null}", "{\"factor\":4}}", "rope_scaling.type: missing"},
    {CONFIG, "null}", "{\"nothing\":4}}", OPENS},
    {CONFIG, "null}", YARN("\"mscale\":1"), "attention_factor: unsupported"},
    {CONFIG, "null}", YARN("\"truncate\":true"), OPENS},
    {CONFIG, "null}", YARN("\"truncate\":false"), "truncate: false is unsupported"},
    {CONFIG, "null}", YARN("\"truncate\":0"), "truncate: expected true or false"},
    {CONFIG, "null}", YARN("\"beta_fast\":\"x\""), "beta_fast: expected a number"},
    {CONFIG, "null}", YARN("\"beta_fast\":33"), "beta_fast: 33 is unsupported"},
    {CONFIG, "null}", YARN("\"beta_slow\":2"), "beta_slow: 2 is unsupported"},
    {GENERATION, "\"pad_token_id\":260", "\"pad_token_id\":272", OPENS}, /* nothing uses it */
    {GENERATION, "\"pad_token_id\":260", "\"pad_token_id\":\"x\"", "pad_token_id: expected"},
    {GENERATION, "{", "{\"bos_token_id\":261,", OPENS},
    {TOKENIZER, "\"Sequence\"", "\"ByteLevel\"", "pre_tokenizer: expected Qwen2's"},
    {TOKENIZER, "\"pretokenizers\"", "\"pretokenizer\"", "pre_tokenizer: expected Qwen2's"},
    {TOKENIZER, "\"Split\"", "\"Digits\"", "pre_tokenizer: expected Qwen2's"},
    {TOKENIZER, "\"ByteLevel\"", "\"Metaspace\"", "pre_tokenizer: expected Qwen2's"},
    {TOKENIZER, "\"add_prefix_space\":false", "\"add_prefix_space\":true", "expected ByteLevel"},
    {TOKENIZER, "\"invert\":false", "\"invert\":\"no\"", "expected the behavior \"Isolated\""},
    {TOKENIZER, "\"dropout\":null", "\"dropout\":0.5", "dropout: unsupported"},
    {TOKENIZER, "\"dropout\":null", "\"continuing_subword_prefix\":\"\"", OPENS},
    {TOKENIZER, "\"vocab\":", "\"words\":", "vocab: expected an object"},
    {TOKENIZER, "\"merges\":", "\"merge\":", "merges: expected a list"},
    {TOKENIZER, "\"t h\",", "[\"t\",1],", "merges: expected \"a b\" or"},
    {TOKENIZER, "\"t h\",", "[1,\"h\"],", "merges: expected \"a b\" or"},
    {TOKENIZER, "\"t h\",", "[\"t\",\"tt\"],", "a merge names an unknown token: \"tt\""},
    {TOKENIZER, "\"t h\",", "[\"tt\",\"t\"],", "a merge names an unknown token: \"tt\""},
    {TOKENIZER, "\"t h\",", "[\"t\",\"t\"],", "result of a merge is no token: \"tt\""},
    {TOKENIZER, "\"t h\",", "[\"t\",\"\xe2\x82\xac\"],", "not in the byte-level alphabet"},
    {TOKENIZER, "\"lstrip\":false", "\"rstrip\":true", "single_word, lstrip and rstrip"},
    {TOKENIZER, "\"lstrip\":false", "\"single_word\":true", "single_word, lstrip and rstrip"},
    {TOKENIZER, "\"added_tokens\":", "\"others\":", "the chat template needs <|im_start|>"},
    {TOKENIZER, "{\"id\":263,", "{\"id\":1048576,", "id: expected a whole number"},
    {TOKENIZER, "\"he\":259}", "\"he\":259,\"<tool_call>\":263}", OPENS}, /* in both lists */
    {TOKENIZER, "\"he\":259}", "\"he\":259,\"x<tool_call>\":263}", "have the same id"},
    {TOKENIZER, "{\"id\":263,\"content\":\"<tool_call>\"", "{\"id\":263,\"content\":\"<|im_end|>\"",
     "two ids have the same text"},
    {TOKENIZER, "{\"id\":263,\"content\":\"<tool_call>\"", "{\"id\":0,\"content\":\"!\"",
     "byte 0x21 has no token of its own"},
    {TOKENIZER_CONFIG, "\"chat_template\":\"",
     "\"chat_template\":[{\"name\":\"default\","
     "\"template\":\"x\"}],\"other\":\"",
     OPENS},
    {TOKENIZER_CONFIG, "\"chat_template\":\"",
     "\"chat_template\":[{\"name\":\"rag\","
     "\"template\":\"x\"}],\"other\":\"",
     OPENS},
    {TOKENIZER_CONFIG, "\"chat_template\":\"", "\"chat_template\":7,\"other\":\"", OPENS},
    {HEADER, "{\"__metadata__\":{\"format\":\"pt\"}", "{\"__metadata2_\":{\"format\":\"pt\"}",
     "__metadata2_: dtype: unknown none"},
    {HEADER, "\"shape\":[64]", "\"shape\":[64.0]", "shape: expected whole numbers"},
    {HEADER, "\"shape\":[64]", "\"shape\":[8,8]", "implies 1 x 64, the file has 8 x 8"},
    {HEADER, "\"shape\":[64]", "\"shape\":[1,64]", OPENS},
    {HEADER, "\"shape\":[64]", "\"shape\":[1,1,64]", "implies 1 x 64, the file has 1 x 1 x 64"},
    {HEADER, "\"data_offsets\":[0,", "\"data_offsets\":[0.0,", "expected two whole numbers"},
    {HEADER, "\"data_offsets\":[0,", "\"data_offsets\":[1e5,", "expected two whole numbers"},
    {HEADER, "\"data_offsets\":[0,34816]", "\"data_offsets\":7", "expected two whole numbers"},
    {HEADER, "[34944,43136]", "[34816,43008]", "overlaps the tensor before it, expected 34"},
    {HEADER, "\"dtype\":\"BF16\",\"shape\":[64]", "\"dtype\":\"F32\",\"shape\":[32]",
     "implies 1 x 64, the file has 32"},
    {CONFIG, "\"num_key_value_heads\":2", "\"num_key_value_heads\":null", "implies 64 x 64"},
    {HEADER, "\"data_offsets\":", "\"offsets\":", "expected two whole numbers"},
};

/* Put the model with the first `from` of this file as `to`. */
static void put_changed(const Model *m, int file, const char *from, const char *to) {
    const Buffer *old = &m->text[file];
    const char *at = strstr(old->data, from);
    Buffer text = {0};
    Error e;
    CHECK(at, "\"%s\" is in the good file", from);
    if (!at) return;
    bool built = buffer_add(&text, old->data, (size_t)(at - old->data), &e) &&
                 buffer_puts(&text, to, &e) && buffer_puts(&text, at + strlen(from), &e);
    if (!built) CHECK(0, "memory");
    int passed = test_count.passed;
    put_file(m, file, text.data, text.n);
    test_count.passed = passed;
    buffer_free(&text);
}

static void test_cases(const Model *m) {
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const Case *c = &cases[i];
        put_model(m);
        put_changed(m, c->file, c->from, c->to);
        Source s;
        Error e = {{0}};
        bool open = source_open(folder, &s, &e);
        if (open) source_close(&s);
        CHECK(c->want ? !open && strstr(e.text, c->want) : open, "case %zu, %s: wanted %s, got %s",
              i, c->to, c->want ? c->want : "none", open ? "none" : e.text);
    }
}

/* top_k where it is not said, or switched off. */
static void test_top_k(const Model *m) {
    static const struct {
        const char *from, *to;
        uint32_t top_k;
    } list[] = {{"\"top_k\":20,", "", 50},
                {"\"top_k\":20", "\"top_k\":null", 0},
                {"\"top_k\":20", "\"top_k\":0", 0},
                {"\"do_sample\":true", "\"do_sample\":false", 20},
                {"\"do_sample\":true,\"eos_token_id\":[262,260],\"pad_token_id\":260,"
                 "\"temperature\":0.7,\n\"min_p\":0.1,\"top_p\":0.8,\"top_k\":20,",
                 "", 0}};
    for (size_t i = 0; i < sizeof list / sizeof list[0]; i++) {
        Source s;
        Error e = {{0}};
        put_model(m);
        put_changed(m, GENERATION, list[i].from, list[i].to);
        bool open = source_open(folder, &s, &e);
        CHECK(open && s.header.defaults.top_k == list[i].top_k, "%s: %u, %s", list[i].to,
              open ? s.header.defaults.top_k : 0, e.text);
        if (open) source_close(&s);
    }
}

/* What is done otherwise than the files say, or left to whoever uses the model, is noted. */
static const struct {
    int file;
    const char *from, *to;
    const char *note; /* NULL: none */
} notes[] = {
#define IS_IGNORED(name, value)                                                                    \
    { GENERATION, "{", "{\"" name "\":" value ",", "generation_config.json: " name " is ignored" }
#define IS_OFF(name, value)                                                                        \
    { GENERATION, "{", "{\"" name "\":" value ",", NULL }
#define TRAINED_ON(n)                                                                              \
    "null,\"dual_chunk_attention_config\":{\"chunk_size\":9,"                                      \
    "\"original_max_position_embeddings\":" n "}}"
#define CLASS(name, bos)                                                                           \
    { TOKENIZER_CONFIG, "{", "{\"tokenizer_class\":" name ",\"add_bos_token\":" bos ",", NULL }
#define LLAMA(name)                                                                                \
    { TOKENIZER_CONFIG, "{", "{\"tokenizer_class\":\"" name "\",\"add_bos_token\":true,", NOTE_BOS }
    {GENERATION, "{", "{", NULL},
    LLAMA("LlamaTokenizer"),
    LLAMA("LlamaTokenizerFast"),
    CLASS("\"LlamaTokenizerFast\"", "false"),
    CLASS("\"LlamaTokenizerFast\"", "null"),
    CLASS("\"LlamaTokenizerFast\"", "1"),
    CLASS("\"Qwen2Tokenizer\"", "true"),
    CLASS("7", "true"),
    {TOKENIZER_CONFIG, "{", "{\"add_bos_token\":true,", NULL},
    {TOKENIZER_CONFIG, "{", "{\"tokenizer_class\":\"LlamaTokenizer\",", NULL},
    {CONFIG, "null}", TRAINED_ON("1024"),
     "the context ends at 1024, what the model was trained on, not at 4096: dual chunk attention, "
     "which stretches it, is unsupported"},
    {CONFIG, "null}", TRAINED_ON("4096"), NULL},
    {CONFIG, "null}", "null,\"dual_chunk_attention_config\":null}", NULL},
    IS_IGNORED("no_repeat_ngram_size", "3"),
    IS_OFF("no_repeat_ngram_size", "0"),
    IS_OFF("no_repeat_ngram_size", "null"),
    IS_IGNORED("no_repeat_ngram_size", "\"3\""),
    IS_IGNORED("encoder_no_repeat_ngram_size", "2"),
    IS_OFF("encoder_no_repeat_ngram_size", "0"),
    IS_IGNORED("num_beams", "4"),
    IS_OFF("num_beams", "1"),
    IS_IGNORED("num_beam_groups", "2"),
    IS_OFF("num_beam_groups", "1"),
    IS_IGNORED("penalty_alpha", "0.6"),
    IS_OFF("penalty_alpha", "0"),
    IS_IGNORED("typical_p", "0.9"),
    IS_OFF("typical_p", "1.0"),
    IS_IGNORED("epsilon_cutoff", "3e-4"),
    IS_OFF("epsilon_cutoff", "0.0"),
    IS_IGNORED("eta_cutoff", "3e-4"),
    IS_OFF("eta_cutoff", "0.0"),
    IS_IGNORED("encoder_repetition_penalty", "0.5"),
    IS_IGNORED("encoder_repetition_penalty", "1.5"),
    IS_OFF("encoder_repetition_penalty", "1.0"),
    IS_IGNORED("guidance_scale", "1.5"),
    IS_OFF("guidance_scale", "1"),
    IS_OFF("guidance_scale", "null"),
    IS_IGNORED("bad_words_ids", "[[1]]"),
    IS_OFF("bad_words_ids", "[]"),
    IS_IGNORED("force_words_ids", "[[1]]"),
    IS_IGNORED("suppress_tokens", "[1,2]"),
    IS_IGNORED("begin_suppress_tokens", "[1]"),
    IS_IGNORED("forced_bos_token_id", "0"),
    IS_IGNORED("forced_eos_token_id", "[5]"),
    IS_OFF("forced_eos_token_id", "null"),
    IS_IGNORED("sequence_bias", "[[[1],-1.0]]"),
    IS_OFF("sequence_bias", "{}"),
    IS_IGNORED("stop_strings", "\"x\""),
    {GENERATION, "{", "{\"num_beams\":2,\"stop_strings\":[\"x\"],\"typical_p\":0.9,",
     "generation_config.json: num_beams, typical_p, stop_strings are ignored"},
};

static void test_notes(const Model *m) {
    for (size_t i = 0; i < sizeof notes / sizeof notes[0]; i++) {
        Source s;
        Error e = {{0}};
        put_model(m);
        put_changed(m, notes[i].file, notes[i].from, notes[i].to);
        bool open = source_open(folder, &s, &e);
        CHECK(open, "%s: %s", notes[i].to, e.text);
        if (!open) continue;
        CHECK(!strcmp(s.note, notes[i].note ? notes[i].note : ""), "%s: %s",
              notes[i].to, s.note);
        bool cut = notes[i].note && strstr(notes[i].note, "context ends");
        CHECK(s.header.config.max_position_embeddings == (cut ? 1024 : 4096), "%s: the context",
              notes[i].to);
        source_close(&s);
    }
}

/* No note is lost to a later one; and what chats without settings of sampling is greedy. */
static void test_two_notes(const Model *m) {
    Source s;
    Error e = {{0}};
    put_model(m);
    put_changed(m, CONFIG, "null}", TRAINED_ON("1024"));
    put_changed(m, GENERATION, "{", "{\"num_beams\":2,");
    bool open = source_open(folder, &s, &e);
    CHECK(open && strstr(s.note, "is unsupported; generation_config.json: num_beams is"),
          "%s", open ? s.note : e.text);
    if (open) source_close(&s);
    put_model(m);
    CHECK(unlink(in_folder("generation_config.json")) == 0, "unlink");
    put_changed(m, TOKENIZER_CONFIG, "{",
                "{\"tokenizer_class\":\"LlamaX\",\"add_bos_token\":true,");
    open = source_open(folder, &s, &e);
    CHECK(open && !strcmp(s.note, NOTE_BOS "; " NOTE_GREEDY) &&
              !s.header.defaults.do_sample && s.header.defaults.top_k == 0,
          "%s", open ? s.note : e.text);
    if (open) source_close(&s);
    put_changed(m, TOKENIZER_CONFIG, "\"chat_template\"", "\"other\"");
    open = source_open(folder, &s, &e);
    CHECK(open && !s.note[0], "no template: %s", open ? s.note : e.text);
    if (open) source_close(&s);
}

/* Where nothing names what ends an answer, the template does; without one nothing does. */
static void test_no_eos(const Model *m) {
    Source s;
    Error e = {{0}};
    put_model(m);
    put_changed(m, CONFIG, "\"eos_token_id\":262,", "");
    put_changed(m, GENERATION, "\"eos_token_id\":[262,260],", "");
    bool open = source_open(folder, &s, &e);
    CHECK(open && s.header.defaults.n_eos == 2 && s.header.defaults.eos[0] == 262 &&
              s.header.defaults.eos[1] == 260,
          "%s", e.text);
    if (open) source_close(&s);
    put_changed(m, TOKENIZER_CONFIG, "\"chat_template\"", "\"other\"");
    open = source_open(folder, &s, &e);
    CHECK(!open && strstr(e.text, "eos_token_id: missing: generation would never stop"), "%s",
          open ? "opened" : e.text);
    if (open) source_close(&s);
}

/* An added token may have the text of an ordinary one, of bytes and merges too: text is cut at it
 * first. */
static void test_added_beside(const Model *m) {
    static const struct {
        const char *added, *text;
        int ids[3];
    } texts[] = {{"he", "the", {'t' - '!', 263, -1}}, {"\\n", "a\nt", {'a' - '!', 263, 't' - '!'}}};
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        char content[40];
        Source s;
        Error e = {{0}};
        snprintf(content, sizeof content, "\"content\":\"%s\"", texts[i].added);
        put_model(m);
        put_changed(m, TOKENIZER, "\"content\":\"<tool_call>\"", content);
        bool open = source_open(folder, &s, &e);
        CHECK(open, "%s: %s", texts[i].added, e.text);
        if (!open) continue;
        Tokenizer *t = tokenizer_open(s.tokenizer.data, s.tokenizer.n, "beside", &e);
        Ids ids = {0};
        CHECK(t && tokenizer_encode(t, texts[i].text, strlen(texts[i].text), true, &ids, &e), "%s",
              e.text);
        for (size_t k = 0; k < 3; k++)
            CHECK(k < ids.n ? ids.ids[k] == texts[i].ids[k] : texts[i].ids[k] == -1,
                  "%s: id %zu of %zu: %d", texts[i].added, k, ids.n, k < ids.n ? ids.ids[k] : -1);
        ids_free(&ids);
        tokenizer_close(t);
        source_close(&s);
    }
}

/* With tie_word_embeddings the head is the embedding, whichever of them is there; but a head that
 * differs from it counts. */
static void test_tied(Model *m) {
    static const char tensor[] = "\"model.embed_tokens.weight\"", head[] = "\"lm_head.weight\"";
    static const char nothing[] = "\"x.rotary_emb.inv_freq\""; /* which is ignored */
    static const struct {
        bool equal;
        const char *from; /* this name becomes `nothing` */
        uint32_t tied;
        bool head; /* the embedding's weights are the head's */
    } ties[] = {{false, "", 0, false}, {true, "", 1, false}, {true, head, 1, false},
                {false, head, 1, false}, {false, tensor, 1, true}};
    const size_t bytes = 2 * 64 * 272, at = m->data.n - bytes;
    char own[2 * 64 * 272];
    memcpy(own, m->data.data + at, bytes);
    for (size_t i = 0; i < sizeof ties / sizeof ties[0]; i++) {
        Source s;
        Error e = {{0}};
        memcpy(m->data.data + at, ties[i].equal ? m->data.data : own, bytes);
        put_model(m);
        put_changed(m, CONFIG, "\"tie_word_embeddings\":false", "\"tie_word_embeddings\":true");
        if (ties[i].from[0]) put_changed(m, HEADER, ties[i].from, nothing);
        bool open = source_open(folder, &s, &e);
        CHECK(open, "%zu: %s", i, e.text);
        if (!open) continue;
        uint32_t tied = ties[i].tied;
        CHECK(s.header.config.tie_word_embeddings == tied && s.n_tensors == 27 - tied &&
                  !s.note[0] == (tied == 1),
              "%zu: tied %u, %zu tensors", i, s.header.config.tie_word_embeddings, s.n_tensors);
        const uint8_t *embedding = s.files[0].data + s.tensors[0].offset;
        CHECK(memcmp(embedding, ties[i].head ? own : m->data.data, bytes) == 0,
              "%zu: the embedding's weights", i);
        CHECK(convert_source(&s, NULL, NULL, 1, "one.bin", &e), "%zu: %s", i, e.text);
        check_result(&s, "one.bin", 0.01);
        source_close(&s);
    }
    for (size_t row = 0; row < 272; row += 271) { /* another head in one row, the first or last */
        Source s;
        Error e;
        memcpy(m->data.data + at, m->data.data, bytes);
        memcpy(m->data.data + at + 128 * row, own + 128 * row, 128);
        put_model(m);
        put_changed(m, CONFIG, "\"tie_word_embeddings\":false", "\"tie_word_embeddings\":true");
        bool open = source_open(folder, &s, &e);
        CHECK(open && !s.header.config.tie_word_embeddings, "row %zu of the head is kept", row);
        if (open) source_close(&s);
    }
    memcpy(m->data.data + at, own, bytes);
}

/* ---- Values ---------------------------------------------------------------------------------- */

/* NaN is refused when it is reached; what f16 cannot hold becomes f32. */
static void test_values(Model *m) {
    Error e;
    uint16_t old, nan = 0x7fc0, million = bf16_from_f32(1e6f);
    char *at = m->data.data + 2 * (64 * 3 + 7); /* embedding, row 3, column 7 */
    memcpy(&old, at, 2);
    memcpy(at, &nan, 2);
    put_model(m);
    bool ok = convert_folder("q8", NULL, "bad.bin", &e);
    CHECK(!ok && strstr(e.text, "model.embed_tokens.weight: non-finite value at row 3 column 7"),
          "%s", ok ? "NaN was accepted" : e.text);
    CHECK(access(in_folder("bad.bin"), F_OK) != 0, "nothing is left behind");
    memcpy(at, &million, 2);
    put_model(m);
    ok = convert_folder("f16", NULL, "one.bin", &e);
    CHECK(ok, "%s", e.text);
    ModelFile f;
    if (ok && model_open(&f, in_folder("one.bin"), &e)) {
        CHECK(f.tensors[0].type == TYPE_F32 && f.tensors[2].type == TYPE_F16,
              "only this one is f32");
        model_close(&f);
    }
    uint16_t low = bf16_from_f32(-1e6f);
    memcpy(at, &low, 2);
    put_model(m);
    ok = convert_folder("f16", NULL, "one.bin", &e) && model_open(&f, in_folder("one.bin"), &e);
    CHECK(ok && f.tensors[0].type == TYPE_F32, "so does a negative one: %s", e.text);
    if (ok) model_close(&f);
    memcpy(at, &old, 2);
    at = m->data.data + m->data.n - 2 * (64 * 272 + 64); /* the last norm, before the head */
    memcpy(&old, at, 2);
    memcpy(at, &nan, 2);
    put_model(m);
    ok = convert_folder("q8", NULL, "bad.bin", &e);
    CHECK(!ok && strstr(e.text, "model.norm.weight: non-finite value at row 0 column 0"), "%s",
          ok ? "NaN was accepted" : e.text);
    memcpy(at, &old, 2);
}

/* Which matrices of a 7B have six bits in the mix of a Q4_K_M or Q5_K_M file; and of a 72B five. */
static void test_mix(const char *quant, Type type) {
    static const uint8_t q6[28] = {1, 1, 1, 0, 0, 1, 0, 0, 1, 0, 0, 1, 0, 0,
                                   1, 0, 0, 1, 0, 0, 1, 0, 0, 1, 1, 1, 1, 1};
    Error e;
    Source s;
    Plan p;
    bool ok = random_open("7b", &s, &e);
    CHECK(ok && plan_make(&s, NULL, quant, &no_stop, &p, &e), "%s", e.text);
    for (uint32_t i = 0; ok && i < s.n_tensors; i++) {
        uint32_t layer = 0;
        char part[64] = "";
        if (s.tensors[i].rows == 1) continue;
        bool in_layer = sscanf(s.tensors[i].name, "model.layers.%u.%63s", &layer, part) == 2;
        bool six = in_layer ? q6[layer] && (!strcmp(part, "self_attn.v_proj.weight") ||
                                            !strcmp(part, "mlp.down_proj.weight"))
                            : !strcmp(s.tensors[i].name, "lm_head.weight");
        CHECK(p.entries[i].type == (six ? TYPE_Q6 : type), "%s: %s", quant, s.tensors[i].name);
    }
    plan_free(&p);
    source_close(&s);
    ok = random_open("72b", &s, &e);
    CHECK(ok && plan_make(&s, NULL, quant, &no_stop, &p, &e), "%s", e.text);
    size_t n_v[N_TYPES] = {0};
    for (uint32_t i = 0; ok && i < s.n_tensors; i++)
        n_v[p.entries[i].type] += strstr(s.tensors[i].name, "v_proj.weight") != NULL;
    CHECK(n_v[TYPE_Q6] == 40 && n_v[TYPE_Q5] == 40, "%s of 72B: %zu and %zu", quant, n_v[TYPE_Q6],
          n_v[TYPE_Q5]);
    plan_free(&p);
    source_close(&s);
}

/* Which matrices a plan stores in another type than asked, and what it says about them. */
static void test_plan(const Model *m) {
    Error e;
    Source s;
    Plan p;
    test_mix("q4", TYPE_Q4);
    test_mix("q5", TYPE_Q5);
    /* 40 columns are no whole blocks of 32 */
    put_model(m);
    bool ok = source_open(folder, &s, &e);
    CHECK(ok, "%s", e.text);
    if (!ok) return;
    SourceTensor *list = NULL;
    size_t n_list = 0;
    s.header.config.hidden_size = 40;
    s.header.config.qkv_bias = 0;
    s.header.config.tie_word_embeddings = 1;
    ok = expected_tensors(&s.header.config, &list, &n_list, &e);
    CHECK(ok && n_list == 20, "no biases, no head: %zu tensors", n_list);
    if (!ok) return;
    for (size_t i = 0; i < n_list; i++) list[i].type = SRC_F16;
    free(s.tensors);
    s.tensors = list;
    s.n_tensors = n_list;
    ok = plan_make(&s, NULL, "q5", &no_stop, &p, &e);
    CHECK(ok, "%s", e.text);
    for (size_t i = 0; ok && i < s.n_tensors; i++)
        if (s.tensors[i].rows > 1)
            CHECK(p.entries[i].type == (s.tensors[i].cols == 40                   ? TYPE_F16
                                        : strstr(s.tensors[i].name, "1.mlp.down") ? TYPE_Q8
                                                                                  : TYPE_Q5_1),
                  "%s", s.tensors[i].name);
    CHECK(p.notes.data && strstr(p.notes.data, "of 11 matrices") &&
              strstr(p.notes.data, "2 model.layers.*.mlp.up_proj.weight (F16 to f16)"),
          "%s", p.notes.data ? p.notes.data : "no note");
    plan_free(&p);
    source_close(&s);
}

/* ---- Output ---------------------------------------------------------------------------------- */

/* Is there a temporary file in the folder? */
static bool has_temporary(void) {
    DIR *d = opendir(folder);
    bool found = false;
    for (struct dirent *f; d && (f = readdir(d)) != NULL;)
        if (strstr(f->d_name, ".tmp-")) found = true;
    if (d) closedir(d);
    return found;
}

static void test_output(const Model *m) {
    Error e;
    Source s;
    put_model(m);
    bool ok = source_open(folder, &s, &e);
    CHECK(ok, "%s", e.text);
    if (!ok) return;
    CHECK(!convert_source(&s, NULL, NULL, 1, "config.json", &e) && strstr(e.text, "left as it is"),
          "an input is not replaced: %s", e.text);
    CHECK(!convert_source(&s, NULL, NULL, 1, "model.safetensors", &e) &&
              strstr(e.text, "left as it is"),
          "the weights are not replaced");
    CHECK(mkdir(in_folder("dir"), 0700) == 0 && !convert_source(&s, NULL, NULL, 1, "dir", &e) &&
              strstr(e.text, "folder"),
          "a folder is refused: %s", e.text);
    CHECK(!convert_source(&s, NULL, NULL, 1, "none/x.bin", &e), "a missing folder is refused");
    CHECK(convert_source(&s, NULL, NULL, 1, "again.bin", &e) &&
              convert_source(&s, NULL, NULL, 1, "again.bin", &e),
          "a model.bin is replaced: %s", e.text);
    Plan plan;
    atomic_int stop = 15;
    CHECK(plan_make(&s, NULL, NULL, &no_stop, &plan, &e), "%s", e.text);
    WriteJob job = {.source = &s, .plan = &plan, .n_threads = 2, .stop = &stop};
    CHECK(!write_model(&job, in_folder("stopped.bin"), &e) && strstr(e.text, "interrupted") &&
              access(in_folder("stopped.bin"), F_OK) != 0 && !has_temporary(),
          "a signal: %s", e.text);
    plan_free(&plan);
    CHECK(!plan_make(&s, NULL, "f16", &stop, &plan, &e) && !strcmp(e.text, "interrupted"),
          "a signal while values are looked at: %s", e.text);
    plan_free(&plan);
    source_close(&s);
    CHECK(!has_temporary(), "no temporary file is left");
    CHECK(rmdir(in_folder("dir")) == 0, "remove dir");
}

/* ---- vocab.json and merges.txt, chat templates ----------------------------------------------- */

/* With this text in the file the folder does not open. */
static void refuse_file(const char *name, const char *text, const char *want) {
    Source s;
    Error e = {{0}};
    write_file(name, "", 0, text, strlen(text));
    bool open = source_open(folder, &s, &e);
    if (open) source_close(&s);
    CHECK(!open && strstr(e.text, want), "%s: wanted \"%s\", got \"%s\"", name, want, e.text);
}

/* Of several templates the one called "default" counts. */
static void test_template_list(const Model *m) {
    static const char before[] = "\"chat_template\":";
    const Buffer *old = &m->text[TOKENIZER_CONFIG];
    const char *at = strstr(old->data, before) + sizeof before - 1;
    Buffer text = {0};
    Error e;
    Source s;
    bool built = buffer_add(&text, old->data, (size_t)(at - old->data), &e) &&
                 buffer_puts(&text,
                             "[{\"name\":\"rag\",\"template\":\"x\"},{\"name\":"
                             "\"default\",\"template\":",
                             &e) &&
                 buffer_add(&text, at, strlen(at) - 1, &e) && buffer_puts(&text, "}]}", &e);
    CHECK(built, "memory");
    put_model(m);
    write_file("tokenizer_config.json", "", 0, text.data, text.n);
    buffer_free(&text);
    bool ok = source_open(folder, &s, &e);
    CHECK(ok && s.header.chat_family == CHAT_QWEN2 && s.header.default_system_len == 28, "%s",
          ok ? s.chat_note : e.text);
    if (ok) source_close(&s);
}

/* A base model, where the end of a text ends an answer; with a template the end of a turn does. And
 * the settings of a fine-tune that forget the end of a text. */
static void test_stop_tokens(const Model *m) {
    char base[sizeof good_config];
    Source b;
    Error e;
    put_model(m);
    memcpy(base, good_config, sizeof base);
    strstr(base, "262")[2] = '0'; /* <|endoftext|> */
    write_file("config.json", "", 0, base, strlen(base));
    write_file("generation_config.json", "", 0, "{\"eos_token_id\":260}", 20);
    bool ok = source_open(folder, &b, &e);
    CHECK(ok && b.header.defaults.n_eos == 2 && b.header.defaults.eos[0] == 260 &&
              b.header.defaults.eos[1] == 262,
          "with a template: %s", e.text);
    if (ok) source_close(&b);
    write_file("tokenizer_config.json", "", 0, "{}", 2);
    ok = source_open(folder, &b, &e);
    CHECK(ok && b.header.defaults.n_eos == 1 && b.header.defaults.eos[0] == 260,
          "without a template: %s", e.text);
    if (ok) source_close(&b);
    put_model(m);
    put_changed(m, GENERATION, "[262,260]", "262");
    ok = source_open(folder, &b, &e);
    CHECK(ok && b.header.defaults.n_eos == 2 && b.header.defaults.eos[0] == 262 &&
              b.header.defaults.eos[1] == 260,
          "with the end of a turn alone: %s", e.text);
    if (ok) source_close(&b);
}

static void test_tokenizer_files(const Model *m) {
    static const char *const merges[] = {
        "t h\nth e\n\xc4\xa0 the\nh e\n", "\nt h\n\r\nth e\n\xc4\xa0 the\n\nh e\n",
        "#version: 0.2\nt h\nth e\n\xc4\xa0 the\nh e", "t h\r\nth e\r\n\xc4\xa0 the\r\nh e\r\n"};
    Error e;
    Source a, b;
    put_model(m);
    bool ok = source_open(folder, &a, &e);
    CHECK(ok, "%s", e.text);
    if (!ok) return;
    CHECK(unlink(in_folder("tokenizer.json")) == 0, "unlink");
    CHECK(!source_open(folder, &b, &e) && strstr(e.text, "tokenizer.json"), "no tokenizer: %s",
          e.text);
    write_file("vocab.json", "", 0, m->vocab.data, m->vocab.n);
    for (size_t i = 0; i < 4; i++) {
        write_file("merges.txt", "", 0, merges[i], strlen(merges[i]));
        ok = source_open(folder, &b, &e);
        CHECK(ok && a.tokenizer.n == b.tokenizer.n &&
                  memcmp(a.tokenizer.data, b.tokenizer.data, a.tokenizer.n) == 0,
              "merges.txt %zu gives tokenizer.json's section", i);
        if (ok) source_close(&b);
    }
    refuse_file("merges.txt", "# a comment\nt h\n", "merges: expected two tokens, got \"# a com");
    refuse_file("merges.txt", "t h\nth\n", "merges: expected two tokens, got \"th\"");
    write_file("merges.txt", "", 0, merges[0], strlen(merges[0]));
    refuse_file("tokenizer_config.json", "{\"added_tokens_decoder\":[1]}", "expected ids from 0");
    refuse_file("tokenizer_config.json", "{\"added_tokens_decoder\":{\"x\":{}}}",
                "added_tokens_decoder: expected ids from 0");
    refuse_file("tokenizer_config.json", "{\"eos_token\":\"x\"}", "expected 0 to 259");
    CHECK(unlink(in_folder("tokenizer_config.json")) == 0 && !source_open(folder, &b, &e) &&
              strstr(e.text, "tokenizer_config.json: missing"),
          "nothing names the special tokens: %s", e.text);
    static const char list[] = "{\"<|endoftext|>\":260,\"<|im_start|>\":261,\"<|im_end|>\":262,"
                               "\"<tool_call>\":263}";
    static const char config[] =
        "{\"eos_token\":\"<|im_end|>\",\"pad_token\":{\"content\":"
        "\"<|endoftext|>\"},\"additional_special_tokens\":[{\"content\":\"<|im_start|>\"}]}";
    write_file("added_tokens.json", "", 0, list, strlen(list));
    write_file("tokenizer_config.json", "", 0, config, strlen(config));
    ok = source_open(folder, &b, &e);
    CHECK(ok && a.tokenizer.n == b.tokenizer.n &&
              memcmp(a.tokenizer.data, b.tokenizer.data, a.tokenizer.n) == 0,
          "added_tokens.json: %s", e.text);
    CHECK(ok && b.header.chat_family == CHAT_NONE && strstr(b.chat_note, "no chat_template.jinja"),
          "no template: %s", ok ? b.chat_note : "");
    if (ok) source_close(&b);
    static const char strange[] = "{{ messages }}";
    write_file("chat_template.jinja", "", 0, strange, strlen(strange));
    ok = source_open(folder, &b, &e);
    CHECK(ok && b.header.chat_family == CHAT_NONE && b.chat_note[0],
          "an unknown template is noted");
    if (ok) source_close(&b);
    source_close(&a);
    static const char *const made[] = {"vocab.json", "merges.txt", "added_tokens.json",
                                       "chat_template.jinja"};
    for (size_t i = 0; i < 4; i++) CHECK(unlink(in_folder(made[i])) == 0, "unlink");
}

/* What a tokenizer can hold. */
static void test_tokens(void) {
    Error e;
    TokenBuilder *b = tokens_new("test", &e);
    char text[1025];
    bool ok = b != NULL;
    CHECK(ok, "%s", e.text);
    tokens_free(NULL);
    if (!ok) return;
    memset(text, 'x', sizeof text);
    CHECK(!tokens_add(b, MAX_VOCAB, "a", 1, &e) && strstr(e.text, "expected ids below 1048576"),
          "%s", e.text);
    CHECK(!tokens_add(b, 0, text, 1025, &e) && strstr(e.text, "a token is too long"), "%s", e.text);
    CHECK(!tokens_add_special(b, 0, text, 1025, true, &e) && strstr(e.text, "1 to 1024 bytes"),
          "%s", e.text);
    CHECK(!tokens_merge(b, "a", 1, text, 1025, &e) && strstr(e.text, "a token is too long"), "%s",
          e.text);
    for (uint32_t id = 0; ok && id < 65536; id++) {
        snprintf(text, 9, "%08u", id);
        text[8] = 'x';
        ok = tokens_add_special(b, id, text, 1024, true, &e);
    }
    CHECK(ok, "64 MiB of text: %s", e.text);
    CHECK(!tokens_add(b, 65536, "a", 1, &e) && strstr(e.text, "too much text"), "%s", e.text);
    tokens_free(b);
}

/* ---- Shards ---------------------------------------------------------------------------------- */

/* A file of bf16 tensors [first, last) of the good model, under this name. */
static void put_shard(const Model *m, const ModelConfig *c, uint32_t first, uint32_t last,
                      const char *name) {
    Buffer head = {0};
    Error e;
    size_t skip = 0, n = 0;
    uint64_t length = 0;
    CHECK(buffer_add(&head, &length, sizeof length, &e), "memory");
    for (uint32_t i = 0; i < last; i++) {
        TensorShape t;
        model_tensor(c, i, &t);
        size_t bytes = 2 * (size_t)t.rows * t.cols;
        if (i < first) {
            skip += bytes;
            continue;
        }
        CHECK(buffer_printf(&head, &e,
                            "%s\"%s\":{\"dtype\":\"BF16\",\"shape\":[%u,%u],"
                            "\"data_offsets\":[%zu,%zu]}",
                            i == first ? "{" : ",", t.name, t.rows, t.cols, n, n + bytes),
              "memory");
        n += bytes;
    }
    add(&head, "}   ");
    length = head.n - 8;
    memcpy(head.data, &length, sizeof length);
    write_file(name, head.data, head.n, m->data.data + skip, n);
    buffer_free(&head);
}

/* An index that places tensors before `cut` in file a, the rest in file b. */
static void put_index(const ModelConfig *c, uint32_t cut, const char *a, const char *b) {
    Buffer text = {0};
    Error e;
    add(&text, "{\"metadata\":{\"total_size\":1},\"weight_map\":{");
    for (uint32_t i = 0; i < model_n_tensors(c); i++) {
        TensorShape t;
        model_tensor(c, i, &t);
        CHECK(buffer_printf(&text, &e, "%s\"%s\":\"%s\"", i ? "," : "", t.name, i < cut ? a : b),
              "memory");
    }
    add(&text, "}}");
    write_file("model.safetensors.index.json", "", 0, text.data, text.n);
    buffer_free(&text);
}

/* An index of n tensors, each in a file of its own. */
static void put_many_shards(int n) {
    Buffer text = {0};
    Error e;
    add(&text, "{\"weight_map\":{");
    bool ok = true;
    for (int i = 0; ok && i < n; i++)
        ok = buffer_printf(&text, &e, "%s\"t%d\":\"f%d\"", i ? "," : "", i, i);
    CHECK(ok, "memory");
    add(&text, "}}");
    write_file("model.safetensors.index.json", "", 0, text.data, text.n);
    buffer_free(&text);
}

static void refuse_shards(const char *want) {
    Source s;
    Error e = {{0}};
    bool open = source_open(folder, &s, &e);
    if (open) source_close(&s);
    CHECK(!open && strstr(e.text, want), "shards: wanted \"%s\", got \"%s\"", want, e.text);
}

/* Names that no shard has, too many of them, and no index at all. */
static void refuse_names(const ModelConfig *c, uint32_t cut, const char *a, const char *b) {
    Error e;
    Source s;
    put_index(c, cut, "", b);
    refuse_shards("weight_map: expected file names");
    char name[257];
    memset(name, 'n', 256);
    name[256] = 0;
    put_index(c, cut, name, b);
    refuse_shards("weight_map: expected file names");
    put_many_shards(4097);
    refuse_shards("weight_map: too many files");
    put_many_shards(16385);
    refuse_shards("weight_map: expected an object with 1 to 16384 tensors");
    CHECK(unlink(in_folder("model.safetensors.index.json")) == 0, "unlink");
    CHECK(!source_open(in_folder(a), &s, &e) && strstr(e.text, "missing in the weights"),
          "a shard without an index is a file like any other: %s", e.text);
    write_file("pytorch_model.bin.index.json", "", 0, "{}", 2);
    refuse_shards("there is only pytorch_model.bin");
}

/* A checksum of several files gives up when it should; one of none is zeros. */
static void test_hash_stops(void) {
    Source s;
    Error e;
    atomic_int stop = 0;
    uint8_t sum[32], zeros[32] = {0};
    bool ok = source_open(folder, &s, &e);
    CHECK(ok && source_hash(&s, NULL, &stop, sum) && memcmp(sum, zeros, 32) != 0, "%s", e.text);
    atomic_store(&stop, 1);
    CHECK(ok && !source_hash(&s, NULL, &stop, sum), "it stops");
    if (ok) source_close(&s);
    Source none = {.seed = 1};
    CHECK(source_hash(&none, NULL, &stop, sum) && memcmp(sum, zeros, 32) == 0, "no files");
}

/* Names of a folder and of a file in it. */
static void test_paths(const Model *m) {
    char here[4096], name[320];
    Source s;
    Error e;
    put_model(m);
    const char *own = strrchr(folder, '/') + 1;
    snprintf(name, sizeof name, "%s//", folder);
    CHECK(source_open(name, &s, &e) && strcmp(s.header.name, own) == 0, "%s", e.text);
    source_close(&s);
    CHECK(getcwd(here, sizeof here) && chdir(folder) == 0, "%s", folder);
    CHECK(source_open(".", &s, &e) && strcmp(s.header.source, own) == 0, "%s", e.text);
    source_close(&s);
    CHECK(source_open("model.safetensors", &s, &e) && strcmp(s.header.name, own) == 0 &&
              strcmp(s.header.source, "model.safetensors") == 0,
          "%s", e.text);
    source_close(&s);
    CHECK(chdir(here) == 0, "%s", here);
    static const char one[] = "\1\0\0\0\0\0\0\0{}", two[] = "\2\0\0\0\0\0\0\0{}";
    write_file("model.safetensors", "", 0, one, sizeof one - 1);
    CHECK(!source_open(folder, &s, &e) && strstr(e.text, "header: expected a length from 2 to 2"),
          "%s", e.text);
    write_file("model.safetensors", "", 0, two, sizeof two - 1);
    CHECK(!source_open(folder, &s, &e) && strstr(e.text, "expected 1 to 16384 tensors, got 0"),
          "%s", e.text);
}

static void test_shards(const Model *m) {
    static const char a[] = "model-00001-of-00002.safetensors",
                      b[] = "model-00002-of-00002.safetensors";
    Error e;
    Source s;
    put_model(m);
    bool ok = convert_folder("q8", NULL, "one.bin", &e) && source_open(folder, &s, &e);
    CHECK(ok, "%s", e.text);
    if (!ok) return;
    ModelConfig c = s.header.config;
    uint32_t n = model_n_tensors(&c), cut = 9;
    source_close(&s);
    CHECK(unlink(in_folder("model.safetensors")) == 0, "unlink");
    refuse_shards("model.safetensors");
    put_shard(m, &c, 0, cut, a);
    put_shard(m, &c, cut, n, b);
    put_index(&c, cut, a, b);
    CHECK(convert_folder("q8", NULL, "two.bin", &e), "%s", e.text);
    ModelFile x, y;
    if (model_open(&x, in_folder("one.bin"), &e)) {
        if (model_open(&y, in_folder("two.bin"), &e)) {
            for (uint32_t i = 0; i < n; i++)
                CHECK(x.tensors[i].crc32c == y.tensors[i].crc32c, "%s is the same",
                      x.tensors[i].name);
            CHECK(memcmp(x.header->source_sha256, y.header->source_sha256, 32) != 0,
                  "another source");
            model_close(&y);
        }
        model_close(&x);
    }
    ok = source_open(in_folder(a), &s, &e);
    CHECK(ok && s.n_files == 2, "one shard's name opens all: %s", e.text);
    if (ok) source_close(&s);
    char text[8192] = "";
    FILE *out = fmemopen(text, sizeof text - 1, "w");
    ok = out && info_print(folder, false, out, &e);
    if (out) fclose(out);
    CHECK(ok && strstr(text, "safetensors:  2 files\n"), "%s", ok ? text : e.text);
    test_hash_stops();
    put_index(&c, cut, "../a.safetensors", b);
    refuse_shards("leaves the model directory");
    put_index(&c, cut, "sub/a.safetensors", b);
    refuse_shards("leaves the model directory");
    put_index(&c, cut, "a\\u0000.safetensors", b);
    refuse_shards("leaves the model directory");
    put_index(&c, cut, "model-00003.safetensors", b);
    refuse_shards("model-00003.safetensors");
    put_index(&c, cut + 1, a, b);
    refuse_shards("does not place");
    put_shard(m, &c, cut, n - 1, b);
    put_index(&c, cut, a, b);
    refuse_shards("missing in the weights");
    put_shard(m, &c, cut - 1, n, b);
    refuse_shards("does not place");
    refuse_names(&c, cut, a, b);
    static const char *const made[] = {a, b, "pytorch_model.bin.index.json"};
    for (size_t i = 0; i < 3; i++) CHECK(unlink(in_folder(made[i])) == 0, "unlink");
}

/* ---- LoRA ------------------------------------------------------------------------------------ */

#define RANK 3
#define LORA(more) "{\"peft_type\":\"LORA\",\"r\":3,\"lora_alpha\":6" more "}"
#define LAYER_V "model.layers.1.self_attn.v_proj"

/* An adapter for layer 1's v_proj (32 x 64): A[j][k] = (j + 1) / 64 + k / 4096, B[n][j] = n / 32 -
 * j. */
static float lora_a(size_t j, size_t k) { return (float)(j + 1) / 64 + (float)k / 4096; }
static float lora_b(size_t n, size_t j) { return (float)n / 32 - (float)j; }

/* name: the adapter's own, as older versions of PEFT write it: "", or ".default" */
static void put_named_adapter(const char *config, const char *tensor, const char *name,
                              size_t rows) {
    static const char form[] =
        "{\"base_model.model.%s.lora_A%s.weight\":{\"dtype\":\"F32\",\"shape\":[3,64],"
        "\"data_offsets\":[0,768]},\"base_model.model.%s.lora_B%s.weight\":{\"dtype\":\"F32\","
        "\"shape\":[%zu,3],\"data_offsets\":[768,%zu]}}";
    float data[RANK * 64 + 32 * RANK];
    for (size_t j = 0; j < RANK; j++) {
        for (size_t k = 0; k < 64; k++) data[64 * j + k] = lora_a(j, k);
        for (size_t n = 0; n < 32; n++) data[RANK * 64 + RANK * n + j] = lora_b(n, j);
    }
    char head[1024];
    int n = snprintf(head + 8, sizeof head - 8, form, tensor, name, tensor, name, rows,
                     768 + 12 * rows);
    uint64_t length = (uint64_t)n;
    memcpy(head, &length, 8);
    write_file("adapter_config.json", "", 0, config, strlen(config));
    write_file("adapter_model.safetensors", head, 8 + (size_t)n, data, 768 + 12 * rows);
}

static void put_adapter(const char *config, const char *tensor, size_t rows) {
    put_named_adapter(config, tensor, "", rows);
}

/* sha256 of the named files, as sha256sum prints them and then of that list. */
static void hash_listed(const char *const *names, size_t n, uint8_t out[32]) {
    Buffer list = {0};
    Error e;
    Sha256 sha;
    for (size_t i = 0; i < n; i++) {
        Map m;
        if (!map_open(&m, in_folder(names[i]), &e)) {
            CHECK(0, "%s", e.text);
            continue;
        }
        sha256_init(&sha);
        sha256_update(&sha, m.data, m.bytes);
        sha256_final(&sha, out);
        map_close(&m);
        for (size_t k = 0; k < 32; k++) CHECK(buffer_printf(&list, &e, "%02x", out[k]), "memory");
        CHECK(buffer_printf(&list, &e, "  %s\n", names[i]), "memory");
    }
    sha256_init(&sha);
    sha256_update(&sha, list.data, list.n);
    sha256_final(&sha, out);
    buffer_free(&list);
}

/* A merged model says so: both names, and all files in the checksum. */
static void check_provenance(const ModelHeader *h) {
    static const char *const names[] = {"adapter_config.json", "adapter_model.safetensors",
                                        "model.safetensors"};
    const char *slash = strrchr(folder, '/'), *own = slash ? slash + 1 : folder;
    char want[700];
    uint8_t sha256[32];
    snprintf(want, sizeof want, "%s + lora %s", own, own);
    CHECK(strcmp(h->source, want) == 0, "source \"%s\", not \"%s\"", h->source, want);
    hash_listed(names, 3, sha256);
    CHECK(memcmp(h->source_sha256, sha256, 32) == 0, "the checksum covers the adapter");
}

static void check_merged(double scale) {
    ModelFile f;
    Error e;
    Source s;
    bool ok = convert_folder("f32", folder, "one.bin", &e) && source_open(folder, &s, &e);
    CHECK(ok, "%s", e.text);
    if (!ok) return;
    ok = model_open(&f, in_folder("one.bin"), &e);
    CHECK(ok, "%s", e.text);
    if (ok) check_provenance(f.header);
    for (uint32_t i = 0; ok && i < f.header->n_tensors; i++) {
        const TensorEntry *t = &f.tensors[i];
        bool touched = strcmp(t->name, "model.layers.1.self_attn.v_proj.weight") == 0;
        if (t->rows == 1) continue;
        double worst = 0;
        for (size_t r = 0; r < t->rows; r++) {
            uint8_t raw[1024];
            float x[128], y[128];
            if (!source_read_rows(&s, &s.tensors[i], r, 1, raw, &e)) CHECK(0, "%s", e.text);
            source_row_to_float(s.tensors[i].type, raw, t->cols, x);
            matrix_row((Type)t->type, t->cols, f.map.data + t->offset, r, y);
            for (size_t k = 0; k < t->cols; k++) {
                double want = (double)x[k];
                for (size_t j = 0; touched && j < RANK; j++)
                    want += scale * (double)lora_b(r, j) * (double)lora_a(j, k);
                worst = fmax(worst, fabs(want - (double)y[k]));
            }
        }
        CHECK(touched ? worst < 1e-6 : worst == 0, "%s: off by %g", t->name, worst);
    }
    if (ok) model_close(&f);
    source_close(&s);
}

/* Blocks that an adapter changes cannot stay as they are, and that is said. */
static void check_adapter_note(Source *s) {
    Error e = {{0}};
    Plan p = {0};
    put_named_adapter("{\"peft_type\":\"LORA\",\"r\":3,\"lora_alpha\":6}",
                      "model.layers.1.self_attn.v_proj", ".default", 32);
    Lora *named = lora_open(folder, s, &e);
    CHECK(named, "an adapter with a name: %s", e.text);
    for (size_t i = 0; named && i < s->n_tensors; i++)
        CHECK(lora_touches(named, &s->tensors[i]) ==
                  (strcmp(s->tensors[i].name, "model.layers.1.self_attn.v_proj.weight") == 0),
              "an adapter with a name: %s", s->tensors[i].name);
    lora_close(named);
    put_adapter("{\"peft_type\":\"LORA\",\"r\":3,\"lora_alpha\":6}",
                "model.layers.1.self_attn.v_proj", 32);
    for (size_t i = 0; i < s->n_tensors; i++)
        if (strstr(s->tensors[i].name, "v_proj.weight")) s->tensors[i].type = SRC_Q8_0;
    snprintf(s->quant, sizeof s->quant, "Q8_0");
    Lora *l = lora_open(folder, s, &e);
    bool ok = l && plan_make(s, l, NULL, &no_stop, &p, &e);
    CHECK(ok && p.notes.data &&
              strstr(p.notes.data, "warning: 1 of 27 tensors of this Q8_0 file") &&
              strstr(p.notes.data, " again (for the adapter), which loses a little: "),
          "%s", ok && p.notes.data ? p.notes.data : e.text);
    plan_free(&p);
    /* Codes of 4 bits are kept; with an adapter's part they are too few. */
    static const SourceType four[] = {SRC_Q4_0, SRC_Q4_1};
    for (size_t k = 0; k < 2; k++) {
        for (size_t i = 0; i < s->n_tensors; i++)
            if (strstr(s->tensors[i].name, "v_proj.weight")) s->tensors[i].type = four[k];
        ok = l && plan_make(s, l, NULL, &no_stop, &p, &e);
        CHECK(ok && strstr(p.notes.data, " again (for the adapter)") && !strchr(p.quant, '>'), "%s",
              ok ? p.notes.data : e.text);
        for (uint32_t i = 0; ok && i < p.n; i++)
            if (strstr(p.entries[i].name, "v_proj.weight")) {
                bool touched = strstr(p.entries[i].name, "layers.1.") != NULL;
                Type kept = k == 0 ? TYPE_Q4_0 : TYPE_Q5_1;
                CHECK(p.entries[i].type == (touched ? TYPE_Q8 : kept) && p.copy[i] == !touched,
                      "%s: %s", p.entries[i].name, type_info((Type)p.entries[i].type)->name);
            }
        plan_free(&p);
    }
    lora_close(l);
}

/* The folder's adapter makes weights that this type cannot hold: said, and nothing written. */
static void refuse_large(const char *quant) {
    char want[700];
    Error e;
    snprintf(want, sizeof want, "%s: " LAYER_V ".weight: its values are too large for %s", folder,
             quant);
    CHECK(!convert_folder(quant, folder, "bad.bin", &e) && !strcmp(e.text, want) &&
              access(in_folder("bad.bin"), F_OK) != 0,
          "%s", e.text);
}

/* Adapters whose sums are finite, but too much for a type. */
static void test_large_adapter(void) {
    Error e;
    put_adapter("{\"peft_type\":\"LORA\",\"r\":3,\"lora_alpha\":1e6,\"use_rslora\":true}", LAYER_V,
                32); /* up to 99,000 */
    refuse_large("f16");
    CHECK(convert_folder("q8", folder, "one.bin", &e), "%s", e.text);
}

/* An adapter that is cut while it is mapped shows zeros up to the end of its page: no model. */
static void test_cut_adapter(void) {
    Source s;
    Error e;
    Plan plan = {0};
    atomic_int stop = 0;
    put_adapter(LORA(""), LAYER_V, 32);
    Lora *l = source_open(folder, &s, &e) ? lora_open(folder, &s, &e) : NULL;
    CHECK(l && plan_make(&s, l, "q8", &stop, &plan, &e), "%s", e.text);
    if (!l) return;
    WriteJob job = {.source = &s, .lora = l, .plan = &plan, .n_threads = 1, .stop = &stop};
    CHECK(truncate(in_folder("adapter_model.safetensors"), 800) == 0, "truncate");
    CHECK(!write_model(&job, in_folder("bad.bin"), &e) &&
              strstr(e.text, "adapter_model.safetensors: changed on disk while in use") &&
              strstr(e.text, lora_name(l)) && access(in_folder("bad.bin"), F_OK) != 0,
          "%s", e.text);
    plan_free(&plan);
    lora_close(l);
    source_close(&s);
}

/* Adapters beside those of test_malformed.c. */
static const struct {
    const char *config, *tensor;
    size_t rows;
    const char *want; /* NULL: opens */
} adapters[] = {
    {LORA(",\"init_lora_weights\":\"gaussian\""), LAYER_V, 32, NULL},
    {LORA(",\"init_lora_weights\":true"), LAYER_V, 32, NULL},
    {LORA(",\"init_lora_weights\":false"), LAYER_V, 32, NULL},
    {LORA(",\"init_lora_weights\":\"eva\""), LAYER_V, 32, NULL},
    {LORA(",\"init_lora_weights\":\"orthogonal\""), LAYER_V, 32, NULL},
    {LORA(",\"init_lora_weights\":\"lora_ga\""), LAYER_V, 32,
     "init_lora_weights: \"lora_ga\" is unsupported, expected true, false, gaussian"},
    {LORA(",\"init_lora_weights\":1"), LAYER_V, 32, "init_lora_weights: 1 is unsupported"},
    {LORA(",\"arrow_config\":null,\"alora_invocation_tokens\":null"), LAYER_V, 32, NULL},
    {LORA(",\"arrow_config\":{}"), LAYER_V, 32, "arrow_config: unsupported: expected null"},
    {LORA(",\"alora_invocation_tokens\":[1,2]"), LAYER_V, 32,
     "alora_invocation_tokens: unsupported: expected null"},
    {LORA(",\"init_lora_weights\":\"loftq\""), LAYER_V, 32, "init_lora_weights: loftq is"},
    {LORA(",\"init_lora_weights\":\"pissa_niter_4\""), LAYER_V, 32, "init_lora_weights: pissa"},
    {LORA(",\"modules_to_save\":[],\"rank_pattern\":{},\"use_dora\":false"), LAYER_V, 32, NULL},
    {LORA(",\"layer_replication\":\"x\""), LAYER_V, 32, "layer_replication: unsupported"},
    {LORA(""), "lm_head", 272, "the configuration implies 272 x 3, the file has 32 x 3"},
    {LORA(""), "model.embed_tokens", 32, "no matrix model.embed_tokens.weight that an adapter"},
    {LORA(""), "model.norm", 32, "no matrix model.norm.weight that an adapter"},
    {LORA(""), LAYER_V ".of.a.name.that.is.far.too.long.for.any.tensor.of.a.model.of.ours", 32,
     "expected base_model.model.NAME"},
    {LORA(""), LAYER_V ".lora_", 32, "expected base_model.model.NAME"},
    {LORA(""), LAYER_V ".lora_A.other", 32, "expected base_model.model.NAME"},
};

static void test_adapters(const Model *m) {
    Source s;
    Error e;
    put_model(m);
    bool ok = source_open(folder, &s, &e);
    CHECK(ok, "%s", e.text);
    for (size_t i = 0; ok && i < sizeof adapters / sizeof adapters[0]; i++) {
        put_adapter(adapters[i].config, adapters[i].tensor,
                    adapters[i].rows == 272 ? 32 : adapters[i].rows);
        Lora *l = lora_open(folder, &s, &e);
        CHECK(adapters[i].want ? !l && strstr(e.text, adapters[i].want) : l != NULL,
              "adapter %zu: wanted %s, got %s", i, adapters[i].want ? adapters[i].want : "none",
              l ? "none" : e.text);
        lora_close(l);
    }
    put_adapter("{\"peft_type\":\"LORA\",\"r\":3,\"lora_alpha\":1e6}", LAYER_V, 32);
    Buffer file = {0};
    const float nan = NAN, huge = 3e38f;
    CHECK(ok && read_file(in_folder("adapter_model.safetensors"), 1 << 20, &file, &e), "%s",
          e.text);
    for (size_t i = 1; i < 20 && file.n; i++)
        memcpy(file.data + file.n - i * sizeof huge, &huge, sizeof huge);
    write_file("adapter_model.safetensors", "", 0, file.data, file.n);
    refuse_large("q8");
    if (file.n) memcpy(file.data + file.n - sizeof nan, &nan, sizeof nan);
    write_file("adapter_model.safetensors", "", 0, file.data, file.n);
    buffer_free(&file);
    CHECK(ok && !lora_open(folder, &s, &e) && strstr(e.text, "non-finite value at element 95"),
          "%s", e.text);
    static const char empty[] = "\x1a\0\0\0\0\0\0\0{\"__metadata__\":{\"a\":\"b\"}}";
    write_file("adapter_model.safetensors", "", 0, empty, sizeof empty - 1);
    CHECK(ok && !lora_open(folder, &s, &e) && strstr(e.text, "no adapter tensors"), "%s", e.text);
    static const char number[] =
        "\x59\0\0\0\0\0\0\0{\"base_model.model." LAYER_V ".lora_A.weight\":"
        "{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,4]}}\0\0\0";
    char text[sizeof number];
    memcpy(text, number, sizeof text);
    text[0] = (char)(sizeof number - 8 - 4);
    write_file("adapter_model.safetensors", "", 0, text, sizeof text);
    CHECK(ok && !lora_open(folder, &s, &e) && strstr(e.text, "the file has a single number"), "%s",
          e.text);
    if (ok) check_adapter_note(&s);
    if (ok) source_close(&s);
}

static void test_lora(const Model *m) {
    static const char plain[] =
        "{\"peft_type\":\"LORA\",\"r\":3,\"lora_alpha\":6,\"bias\":\"none\"}";
    static const char v[] = "model.layers.1.self_attn.v_proj";
    put_model(m);
    put_adapter(plain, v, 32);
    check_merged(2);
    put_adapter("{\"peft_type\":\"LORA\",\"r\":3,\"lora_alpha\":6,\"use_rslora\":true}", v, 32);
    check_merged(6 / sqrt(3));
    test_adapters(m);
    test_large_adapter();
    test_cut_adapter();
    CHECK(unlink(in_folder("adapter_config.json")) == 0 &&
              unlink(in_folder("adapter_model.safetensors")) == 0,
          "unlink");
}

/* ---- Odd files, names ------------------------------------------------------------------------ */

/* Links that lead nowhere and FIFOs in a folder are named, not skipped or waited for. */
static void test_odd_files(const Model *m) {
    static const struct {
        const char *name, *want;
        bool fifo;
    } list[] = {{"generation_config.json", "generation_config.json: cannot open: No such", false},
                {"chat_template.jinja", "chat_template.jinja: cannot open: No such", false},
                {"tokenizer.json", "tokenizer.json: cannot open: No such", false},
                {"config.json", "config.json: not a regular file", true},
                {"chat_template.jinja", "chat_template.jinja: not a regular file", true}};
    Source s;
    Error e;
    for (size_t i = 0; i < sizeof list / sizeof list[0]; i++) {
        const char *path = in_folder(list[i].name);
        put_model(m);
        unlink(path);
        CHECK((list[i].fifo ? mkfifo(path, 0600) : symlink("nowhere", path)) == 0, "%s", path);
        CHECK(!source_open(folder, &s, &e) && strstr(e.text, list[i].want), "wanted %s, got %s",
              list[i].want, e.text);
        CHECK(unlink(path) == 0, "unlink");
    }
}

/* Folders that hold no model, but something that leads to one. */
static void test_other_folders(const Model *m) {
    Source s;
    Error e;
    put_model(m);
    CHECK(unlink(in_folder("config.json")) == 0, "unlink");
    refuse_file("x.gguf.part", "", "config.json: cannot open: No such file");
    refuse_file("b-00002-of-00002.gguf", "", "config.json: missing: expected a model's folder, or");
    refuse_file("b-00001-of-00002.gguf", "", "or the file b-00001-of-00002.gguf in this one");
    refuse_file("c.gguf", "", "or the file b-00001-of-00002.gguf in this one");
    CHECK(mkdir(in_folder("snapshots"), 0700) == 0, "mkdir");
    CHECK(!source_open(folder, &s, &e) &&
              strstr(e.text, "config.json: missing: this is a model in Hugging Face's cache, "
                             "expected snapshots/COMMIT in it"),
          "%s", e.text);
    refuse_file("adapter_config.json", "{}",
                "config.json: missing: this is an adapter, expected its model, and this folder "
                "behind --lora");
    CHECK(rmdir(in_folder("snapshots")) == 0, "rmdir");
    static const char *const made[] = {"x.gguf.part", "b-00001-of-00002.gguf",
                                       "b-00002-of-00002.gguf", "c.gguf", "adapter_config.json"};
    for (size_t i = 0; i < 5; i++) CHECK(unlink(in_folder(made[i])) == 0, "unlink");
}

/* An adapter whose weights are a pickle, and one that has none. */
static void test_pickled_adapter(const Model *m) {
    Source s;
    Error e;
    put_model(m);
    put_adapter(LORA(""), LAYER_V, 32);
    bool ok = source_open(folder, &s, &e);
    CHECK(ok, "%s", e.text);
    CHECK(unlink(in_folder("adapter_model.safetensors")) == 0, "unlink");
    CHECK(ok && !lora_open(folder, &s, &e) &&
              strstr(e.text, "adapter_model.safetensors: cannot open: No such file"),
          "%s", e.text);
    write_file("adapter_model.bin", "", 0, "PK\3\4", 4);
    CHECK(ok && !lora_open(folder, &s, &e) &&
              strstr(e.text, "adapter_model.safetensors: missing: there is only adapter_model.bin, "
                             "a pickle (make safetensors with"),
          "%s", e.text);
    if (ok) source_close(&s);
    CHECK(unlink(in_folder("adapter_config.json")) == 0 &&
              unlink(in_folder("adapter_model.bin")) == 0,
          "unlink");
}

/* The same of an adapter's settings, whose size is limited too. */
static void test_odd_adapter(const Model *m) {
    static char large[(1u << 20) + 1];
    Source s;
    Error e;
    put_model(m);
    put_adapter(LORA(""), LAYER_V, 32);
    bool ok = source_open(folder, &s, &e);
    CHECK(ok, "%s", e.text);
    const char *config = in_folder("adapter_config.json");
    CHECK(unlink(config) == 0 && mkfifo(config, 0600) == 0, "mkfifo");
    CHECK(ok && !lora_open(folder, &s, &e) &&
              strstr(e.text, "adapter_config.json: not a regular file"),
          "%s", e.text);
    CHECK(unlink(config) == 0, "unlink");
    write_file("adapter_config.json", "", 0, large, sizeof large);
    CHECK(ok && !lora_open(folder, &s, &e) &&
              strstr(e.text, "too large, expected at most 1048576 bytes"),
          "%s", e.text);
    if (ok) source_close(&s);
    CHECK(unlink(config) == 0 && unlink(in_folder("adapter_model.safetensors")) == 0, "unlink");
}

/* A commit in the cache of Hugging Face's tools is named after its model. */
static void test_cache_names(void) {
    static const struct {
        const char *folder, *want;
    } list[] = {{"models--Qwen--Qwen2.5-0.5B-Instruct/snapshots/7ae55", "Qwen2.5-0.5B-Instruct"},
                {"x/models--gpt2/snapshots/main", "gpt2"},
                {"models--a--b/snapshots/1--2", "b"},
                {"other/snapshots/7ae55", "7ae55"},
                {"models--a--b/refs/7ae55", "7ae55"},
                {"models-a--b/snapshots/7ae55", "7ae55"},
                {"snapshots/7ae55", "7ae55"},
                {"/", "/"}};
    char name[128];
    for (size_t i = 0; i < sizeof list / sizeof list[0]; i++) {
        source_folder_name(list[i].folder, name, sizeof name); /* none is there: as they are */
        CHECK(strcmp(name, list[i].want) == 0, "%s: %s", list[i].folder, name);
    }
}

/* ---- What a model.bin may hold --------------------------------------------------------------- */

/* Write one.bin with a valid checksum from these bytes. */
static void put_model_bin(Buffer *b) {
    ModelHeader h;
    memcpy(&h, b->data, sizeof h);
    h.crc32c = model_header_crc((const uint8_t *)b->data, h.header_bytes);
    memcpy(b->data, &h, sizeof h);
    write_file("one.bin", "", 0, b->data, b->n);
}

/* Texts that would not reach a terminal as they are. */
static void check_texts(Buffer *b) {
    static const struct {
        const char *name;
        size_t at;
    } list[] = {{"name", offsetof(ModelHeader, name)},
                {"quant", offsetof(ModelHeader, quant)},
                {"source", offsetof(ModelHeader, source)},
                {"converter", offsetof(ModelHeader, converter)}};
    for (size_t i = 0; i < sizeof list / sizeof list[0]; i++) {
        char before[6], want[80];
        ModelFile m;
        Error e = {""};
        memcpy(before, b->data + list[i].at, sizeof before);
        memcpy(b->data + list[i].at, "\x1b[2J\n", sizeof before);
        put_model_bin(b);
        snprintf(want, sizeof want,
                 "one.bin: %s: expected text without control characters, got "
                 "\"\\x1b[2J\\x0a\"",
                 list[i].name);
        CHECK(!model_open(&m, in_folder("one.bin"), &e) && strstr(e.text, want), "%s", e.text);
        memcpy(b->data + list[i].at, before, sizeof before);
    }
    put_model_bin(b);
}

/* The gap behind a tensor is no place for anything. */
static void check_gap(Buffer *b) {
    ModelFile m;
    Error e;
    Crc crc;
    crc_init(&crc);
    bool ok = model_open(&m, in_folder("one.bin"), &e);
    CHECK(ok && model_verify_tensor(&m, 1, &crc, "one.bin", &e), "%s", e.text);
    if (!ok) return;
    b->data[m.tensors[1].offset + m.tensors[1].bytes + 7] = 1;
    model_close(&m);
    put_model_bin(b);
    ok = model_open(&m, in_folder("one.bin"), &e);
    CHECK(ok && !model_verify_tensor(&m, 1, &crc, "one.bin", &e) &&
              strstr(e.text, "input_layernorm.weight: expected zeros behind it, got 0x01 at byte"),
          "%s", e.text);
    if (ok) model_close(&m);
}

/* The least values that the converter takes are such that a reader takes, rounded to float. */
static void test_model_bin(const Model *m) {
    Error e;
    Buffer b = {0};
    ModelFile f;
    put_model(m);
    refuse_file("generation_config.json", "{\"repetition_penalty\":0.0099}", "from 0.01 to 100");
    write_file("generation_config.json", "", 0, "{\"repetition_penalty\":0.01}", 27);
    const char *eps = strstr(m->text[CONFIG].data, "1e-06");
    CHECK(eps, "rms_norm_eps");
    if (!eps) return;
    size_t before = (size_t)(eps - m->text[CONFIG].data);
    CHECK(buffer_add(&b, m->text[CONFIG].data, before, &e) && buffer_puts(&b, "1e-12", &e) &&
              buffer_puts(&b, eps + 5, &e),
          "memory");
    write_file("config.json", "", 0, b.data, b.n);
    buffer_free(&b);
    bool ok = convert_folder("q8", NULL, "one.bin", &e) && model_open(&f, in_folder("one.bin"), &e);
    CHECK(ok && f.header->defaults.repetition_penalty == 0.01f &&
              f.header->config.rms_norm_eps == 1e-12f,
          "%s", e.text);
    if (!ok) return;
    model_close(&f);
    ok = read_file(in_folder("one.bin"), 1u << 30, &b, &e);
    CHECK(ok, "%s", e.text);
    if (ok) check_texts(&b);
    if (ok) check_gap(&b);
    buffer_free(&b);
}

/* ---- Golden checkpoints and --info ----------------------------------------------------------- */

static void test_golden_case(const char *path) {
    static const char *const quants[] = {NULL, "q8", "q5", "q4", "f32", "bf16"};
    Error e;
    Source s;
    bool ok = source_open(path, &s, &e);
    CHECK(ok, "%s", e.text);
    if (!ok) return;
    for (size_t i = 0; i < sizeof quants / sizeof quants[0]; i++) {
        CHECK(convert_source(&s, quants[i], NULL, 2, "one.bin", &e), "%s", e.text);
        ModelFile f;
        Crc crc;
        crc_init(&crc);
        ok = model_open(&f, in_folder("one.bin"), &e);
        bool open = ok;
        for (uint32_t k = 0; ok && k < f.header->n_tensors; k++)
            ok = model_verify_tensor(&f, k, &crc, path, &e);
        CHECK(ok, "%s", e.text);
        if (open) model_close(&f);
    }
    source_close(&s);
}

static void test_golden(const char *golden) {
    char path[1200];
    snprintf(path, sizeof path, "%.500s/logits", golden);
    DIR *d = opendir(path);
    if (!d) {
        test_skip(1, "golden checkpoints: no folder logits/ in GOLDEN");
        return;
    }
    for (struct dirent *f; (f = readdir(d)) != NULL;) {
        static const char *const inside[] = {"hf/model.safetensors", "hf", "model.gguf"};
        if (f->d_name[0] == '.') continue;
        for (size_t i = 0; i < 3; i++) {
            snprintf(path, sizeof path, "%.500s/logits/%s/%s", golden, f->d_name, inside[i]);
            if (access(path, F_OK) != 0) continue;
            test_golden_case(path);
        }
    }
    closedir(d);
}

/* Everything that --info says of the good model, but for its names and what depends on the file. */
static const char *const facts[] = {
    "architecture: qwen2, 2 layers, hidden 64, feed-forward 96\n"
    "attention:    4 heads, 2 of keys and values, head_dim 16, biases on q, k, v\n"
    "context:      4096 tokens, rope theta 1e+06, norm eps 1e-06\n"
    "head:         its own\n"
    "vocabulary:   272 rows, 264 tokens (4 added), 4 merges\n"
    "template:     qwen2, default system message \"You are a helpful assistant.\"\n"
    "defaults:     sampling, temperature 0.7, top_k 20, top_p 0.8, min_p 0.1, "
    "repetition_penalty 1.1\nstop tokens:  262 260\nsource:       ",
    "\nparameters:   96832\ntensors:      27: "};
/* And of the model.bin with q8, of the folder, of the one file of the folder */
static const char *const file_facts[][4] = {
    {"model.bin:    version 2, 200704 bytes, quant q8\nname:         test-convert-",
     "\nconverter:    qwen.c convert 1\n",
     " 16 q8, 11 f32; 108928 bytes, 9.00 bits per weight\n  model.embed_tokens.weight ",
     "  model.layers.1.self_attn.v_proj.weight             q8         32 x 64             2176\n"},
    {"safetensors:  1 file\nname:         test-convert-", "\nsource:       ",
     " 27 BF16; 193664 bytes, 16.00 bits per weight\n  model.embed_tokens.weight ",
     "  model.layers.1.self_attn.v_proj.weight             BF16       32 x 64             4096\n"},
};

static void test_info(const Model *m) {
    Error e;
    put_model(m);
    CHECK(convert_folder("q8", NULL, "one.bin", &e), "%s", e.text);
    const char *const paths[] = {in_folder("one.bin"), folder, in_folder("model.safetensors")};
    for (size_t i = 0; i < 3; i++) {
        char text[8192] = "";
        FILE *out = fmemopen(text, sizeof text - 1, "w");
        bool ok = out && info_print(paths[i], true, out, &e);
        if (out) fclose(out);
        CHECK(ok && strstr(text, "2 layers") && strstr(text, "lm_head.weight") &&
                  strstr(text, "264 tokens"),
              "--info %s: %s", paths[i], ok ? text : e.text);
        for (size_t k = 0; k < 2; k++)
            CHECK(strstr(text, facts[k]), "--info %s: no %s in %s", paths[i], facts[k], text);
        for (size_t k = 0; k < 4; k++) {
            const char *want = file_facts[i > 0][k];
            CHECK(strstr(text, want), "--info %s: no %s in %s", paths[i], want, text);
        }
        CHECK(!!strstr(text, ", sha256 ") == (i == 0), "--info %s: sha256: %s", paths[i], text);
    }
    CHECK(strcmp(chat_family_name(CHAT_QWEN25), "qwen2.5") == 0 &&
              strcmp(chat_family_name(99), "unknown") == 0,
          "names of templates");
    write_file("tiny", "", 0, "QWE", 3);
    CHECK(!info_print(in_folder("tiny"), false, stdout, &e) &&
              strstr(e.text, "begins with \"QWE\""),
          "%s", e.text);
    CHECK(unlink(in_folder("tiny")) == 0, "unlink");
    CHECK(!info_print(in_folder("config.json"), false, stdout, &e), "--info of JSON is refused");
    CHECK(!info_print(in_folder("nothing"), false, stdout, &e), "--info of nothing is refused");
}

static void remove_folder(void) {
    DIR *d = opendir(folder);
    for (struct dirent *f; d && (f = readdir(d)) != NULL;)
        if (strcmp(f->d_name, ".") != 0 && strcmp(f->d_name, "..") != 0)
            CHECK(unlink(in_folder(f->d_name)) == 0, "unlink %s", f->d_name);
    if (d) closedir(d);
    CHECK(rmdir(folder) == 0, "rmdir");
}

int main(int argc, char **argv) {
    const char *base = getenv("TMPDIR");
    snprintf(folder, sizeof folder, "%.200s/test-convert-XXXXXX",
             base && base[0] ? base : P_tmpdir);
    if (!mkdtemp(folder)) {
        CHECK(0, "cannot make a folder: %s", folder);
        return test_end("convert");
    }
    Model m;
    make_model(&m);
    test_types(&m);
    test_header(&m);
    test_cases(&m);
    test_top_k(&m);
    test_notes(&m);
    test_two_notes(&m);
    test_no_eos(&m);
    test_added_beside(&m);
    test_tied(&m);
    test_values(&m);
    test_plan(&m);
    test_output(&m);
    test_template_list(&m);
    test_stop_tokens(&m);
    test_tokenizer_files(&m);
    test_tokens();
    test_paths(&m);
    test_shards(&m);
    test_lora(&m);
    test_odd_files(&m);
    test_odd_adapter(&m);
    test_other_folders(&m);
    test_pickled_adapter(&m);
    test_cache_names();
    test_model_bin(&m);
    test_info(&m);
    test_golden(argc > 1 ? argv[1] : "../shared/golden");
    free_model(&m);
    remove_folder();
    return test_end("convert");
}
