/* make_tiny.c: make_tiny DIR writes a small Hugging Face checkpoint with random weights: 2 layers,
 * hidden 256, feed-forward 512, 4 heads and 2 key-value heads, the 256 bytes and a few merges as
 * vocabulary, the tokens of a chat with tools, sampling defaults. DIR/adapter is a LoRA for it.
 *
 * Every byte follows from this file alone: weights are whole numbers scaled by a power of two. So a
 * test may hold the hash of what the model says. */
#include <errno.h>
#include <sys/stat.h>

#include "../json.h"
#include "../model.h"
#include "qwen25_template.h"
#include "test.h"

#define N_BYTES 256
#define ENDOFTEXT 276 /* the first added token, behind bytes and merges */
#define VOCAB 288     /* the ids behind </tool_call> are padding */
#define RANK 4

static const char config[] =
    "{\"architectures\":[\"Qwen2ForCausalLM\"],\"model_type\":\"qwen2\",\"hidden_act\":\"silu\",\n"
    "\"hidden_size\":256,\"intermediate_size\":512,\"num_hidden_layers\":2,\n"
    "\"num_attention_heads\":4,\"num_key_value_heads\":2,\"vocab_size\":288,\n"
    "\"max_position_embeddings\":4096,\"rms_norm_eps\":1e-06,\"rope_theta\":1000000.0,\n"
    "\"tie_word_embeddings\":false,\"torch_dtype\":\"bfloat16\",\"use_sliding_window\":false,\n"
    "\"bos_token_id\":276,\"eos_token_id\":278}\n";
static const char generation_config[] =
    "{\"do_sample\":true,\"eos_token_id\":[278,276],\"pad_token_id\":276,\"temperature\":0.7,\n"
    "\"top_p\":0.8,\"top_k\":20,\"repetition_penalty\":1.1}\n";

static const char tokenizer_config[] =
    "{\"eos_token\":\"<|im_end|>\",\"pad_token\":\"<|endoftext|>\",\"chat_template\":";
static const char chat_template[] = QWEN25_TEMPLATE("You are a tiny model.");

/* Pairs that merge, in the printable alphabet of GPT-2, where \xc4\xa0 stands for a space. */
static const char *const merges[][2] = {
    {"t", "h"}, {"th", "e"}, {"\xc4\xa0", "the"}, {"i", "n"}, {"e", "r"}, {"a", "n"}, {"o", "n"},
    {"r", "e"}, {"\xc4\xa0", "a"}, {"l", "l"}, {"h", "e"}, {"he", "ll"}, {"hell", "o"},
    {"o", "u"}, {"\xc4\xa0", "w"}, {"s", "t"}, {"e", "n"}, {"\xc4\xa0", "s"}, {"an", "d"},
    {"in", "g"},
};
#define N_MERGES (sizeof merges / sizeof merges[0])
static const char *const added[] = {
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<tool_call>", "</tool_call>"};
#define N_ADDED (sizeof added / sizeof added[0])
_Static_assert(N_BYTES + N_MERGES == ENDOFTEXT, "added tokens follow the merges");
_Static_assert(ENDOFTEXT + N_ADDED <= VOCAB, "every token has a row");

static const char pre_tokenizer[] =
    "\"normalizer\":{\"type\":\"NFC\"},\"pre_tokenizer\":{\"type\":\"Sequence\","
    "\"pretokenizers\":[\n"
    "{\"type\":\"Split\",\"pattern\":{\"Regex\":\"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\\\r\\\\n\\\\p{L}"
    "\\\\p{N}]?\\\\p{L}+|\\\\p{N}| ?[^\\\\s\\\\p{L}\\\\p{N}]+[\\\\r\\\\n]*|\\\\s*[\\\\r\\\\n]+|"
    "\\\\s+(?!\\\\S)|\\\\s+\"},\"behavior\":\"Isolated\",\"invert\":false},\n"
    "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":false}]},\n";

static void stop(const char *what, const char *why) {
    fprintf(stderr, "make_tiny: %s: %s\n", what, why);
    exit(1);
}

/* DIR/name, in a buffer that the caller frees */
static Buffer path_of(const char *dir, const char *name) {
    Buffer path = {0};
    Error e;
    if (!buffer_printf(&path, &e, "%s/%s", dir, name)) stop(name, e.text);
    return path;
}

static void make_folder(const char *dir) {
    if (mkdir(dir, 0777) != 0 && errno != EEXIST) stop(dir, strerror(errno));
}

static void write_file(const char *dir, const char *name, const void *bytes, size_t n) {
    Buffer path = path_of(dir, name);
    FILE *f = fopen(path.data, "wb");
    if (!f || fwrite(bytes, 1, n, f) != n || fclose(f) != 0) stop(path.data, strerror(errno));
    buffer_free(&path);
}

static void add(Buffer *b, const char *text) {
    Error e;
    if (!buffer_puts(b, text, &e)) stop("memory", e.text);
}

/* ,"TEXT":ID */
static void add_token(Buffer *b, const char *text, size_t id) {
    Error e;
    bool ok = buffer_puts(b, id ? "," : "", &e) && json_quote(b, text, strlen(text), &e) &&
              buffer_printf(b, &e, ":%zu", id);
    if (!ok) stop("memory", e.text);
}

static void write_tokenizer(const char *dir) {
    Buffer b = {0};
    Error e;
    add(&b, "{\"version\":\"1.0\",\"added_tokens\":[");
    for (size_t i = 0; i < N_ADDED; i++)
        if (!buffer_printf(&b, &e, "%s{\"id\":%zu,\"content\":\"%s\",\"special\":%s}",
                           i ? "," : "", ENDOFTEXT + i, added[i], i < 3 ? "true" : "false"))
            stop("memory", e.text);
    add(&b, "],\n");
    add(&b, pre_tokenizer);
    add(&b, "\"model\":{\"type\":\"BPE\",\"vocab\":{");
    size_t id = 0;
    for (int32_t cp = '!'; cp < 0x144; cp++) { /* bytes: printable Latin-1, then U+0100 and up */
        char text[5] = "";
        if ((cp > '~' && cp < 0xa1) || cp == 0xad) continue;
        text[utf8_encode(cp, text)] = 0;
        add_token(&b, text, id++);
    }
    for (size_t i = 0; i < N_MERGES; i++) {
        char text[16];
        snprintf(text, sizeof text, "%s%s", merges[i][0], merges[i][1]);
        add_token(&b, text, id++);
    }
    add(&b, "},\"merges\":[");
    for (size_t i = 0; i < N_MERGES; i++)
        if (!buffer_printf(&b, &e, "%s\"%s %s\"", i ? "," : "", merges[i][0], merges[i][1]))
            stop("memory", e.text);
    add(&b, "]}}\n");
    write_file(dir, "tokenizer.json", b.data, b.n);
    buffer_free(&b);
}

/* ---- Weights --------------------------------------------------------------------------------- */

/* A safetensors file in the making: the JSON of its header, and its data. */
typedef struct {
    Buffer head, data;
} Tensors;

/* Add a bf16 tensor of whole multiples of `step` about `center`; cols alone when rows is 0. */
static void add_tensor(Tensors *t, const char *name, size_t rows, size_t cols, float center,
                       float step, uint64_t *state) {
    Error e;
    size_t begin = t->data.n, n = (rows ? rows : 1) * cols;
    for (size_t i = 0; i < n; i++) {
        int value = (int)(test_random(state) >> 32 & 255) - 128;
        uint16_t h = bf16_from_f32(center + step * (float)value);
        if (!buffer_add(&t->data, &h, sizeof h, &e)) stop("memory", e.text);
    }
    char shape[48];
    if (rows) snprintf(shape, sizeof shape, "%zu,%zu", rows, cols);
    else snprintf(shape, sizeof shape, "%zu", cols);
    if (!buffer_printf(&t->head, &e,
                       "%s\"%s\":{\"dtype\":\"BF16\",\"shape\":[%s],\"data_offsets\":[%zu,%zu]}",
                       t->head.n ? "," : "{", name, shape, begin, t->data.n))
        stop("memory", e.text);
}

static void write_tensors(const char *dir, const char *name, Tensors *t) {
    Buffer file = {0};
    Error e;
    add(&t->head, "}");
    uint64_t length = t->head.n;
    bool ok = buffer_add(&file, &length, sizeof length, &e) &&
              buffer_add(&file, t->head.data, t->head.n, &e) &&
              buffer_add(&file, t->data.data, t->data.n, &e);
    if (!ok) stop("memory", e.text);
    write_file(dir, name, file.data, file.n);
    buffer_free(&file);
    buffer_free(&t->head);
    buffer_free(&t->data);
}

/* Every tensor that model.h lists for this shape. */
static void write_weights(const char *dir) {
    ModelConfig c = {.num_hidden_layers = 2, .hidden_size = 256, .intermediate_size = 512,
                     .num_attention_heads = 4, .num_key_value_heads = 2, .head_dim = 64,
                     .vocab_size = VOCAB, .qkv_bias = 1};
    Tensors t = {{0}, {0}};
    uint64_t state = 2;
    for (uint32_t i = 0; i < model_n_tensors(&c); i++) {
        TensorShape s;
        model_tensor(&c, i, &s);
        bool norm = s.vector && strstr(s.name, "norm") != NULL;
        add_tensor(&t, s.name, s.vector ? 0 : s.rows, s.cols, norm ? 1 : 0, 0x1p-10f, &state);
    }
    write_tensors(dir, "model.safetensors", &t);
}

static void write_adapter(const char *dir) {
    static const char settings[] = "{\"peft_type\":\"LORA\",\"r\":4,\"lora_alpha\":8,"
                                   "\"target_modules\":[\"q_proj\"],\"bias\":\"none\"}\n";
    static const char prefix[] = "base_model.model.model.layers.0.self_attn.q_proj";
    Buffer folder = path_of(dir, "adapter");
    Tensors t = {{0}, {0}};
    uint64_t state = 3;
    char name[96];
    make_folder(folder.data);
    write_file(folder.data, "adapter_config.json", settings, sizeof settings - 1);
    snprintf(name, sizeof name, "%s.lora_A.weight", prefix);
    add_tensor(&t, name, RANK, 256, 0, 0x1p-8f, &state);
    snprintf(name, sizeof name, "%s.lora_B.weight", prefix);
    add_tensor(&t, name, 256, RANK, 0, 0x1p-8f, &state);
    write_tensors(folder.data, "adapter_model.safetensors", &t);
    buffer_free(&folder);
}

static void write_tokenizer_config(const char *dir) {
    Buffer text = {0};
    Error e;
    if (!buffer_puts(&text, tokenizer_config, &e) ||
        !json_quote(&text, chat_template, sizeof chat_template - 1, &e) ||
        !buffer_puts(&text, "}\n", &e))
        stop("tokenizer_config.json", e.text);
    write_file(dir, "tokenizer_config.json", text.data, text.n);
    buffer_free(&text);
}

int main(int argc, char **argv) {
    if (argc != 2) stop("usage", "make_tiny DIR");
    const char *dir = argv[1];
    make_folder(dir);
    write_file(dir, "config.json", config, sizeof config - 1);
    write_file(dir, "generation_config.json", generation_config, sizeof generation_config - 1);
    write_tokenizer_config(dir);
    write_tokenizer(dir);
    write_weights(dir);
    write_adapter(dir);
    return 0;
}
