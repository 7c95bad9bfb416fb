/* fuzz_seeds.c: fuzz_seeds GOOD DIR: first inputs for the fuzz targets, in DIR/TARGET/, made from
 * the Hugging Face folder GOOD that make_tiny wrote, and by the writers of the tests. */
#define QWEN_NO_MAIN
#include "../qwen.c"

#include "good_folder.h"
#include "tiny.h"
#include "qwen25_template.h"
#include "tiny_gguf.h"

static const char *good, *to;
static Error seed_error;

static void need(bool ok, const char *what) {
    if (ok) return;
    fprintf(stderr, "fuzz_seeds: %s: %s\n", what, seed_error.text);
    exit(1);
}

/* DIR/target/name: head, then body */
static void seed(const char *target, const char *name, const void *head, size_t n_head,
                 const void *body, size_t n) {
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", to, target);
    need(mkdir(path, 0777) == 0 || errno == EEXIST, path);
    snprintf(path, sizeof path, "%s/%s/%s", to, target, name);
    FILE *f = fopen(path, "wb");
    need(f && (n_head == 0 || fwrite(head, 1, n_head, f) == n_head) &&
             (n == 0 || fwrite(body, 1, n, f) == n) && fclose(f) == 0,
         path);
}

static Buffer read_good(const char *name) {
    char path[4096];
    Buffer b = {0};
    snprintf(path, sizeof path, "%s/%s", good, name);
    need(read_file(path, 1u << 30, &b, &seed_error), path);
    return b;
}

/* The texts of the folder: as JSON, and with the byte in front that fuzz_folder takes for a name.
 */
static void seed_texts(void) {
    static const struct {
        const char *name;
        uint8_t index;
    } text[] = {{"config.json", 0},
                {"generation_config.json", 1},
                {"tokenizer.json", 2},
                {"tokenizer_config.json", 3},
                {"adapter/adapter_config.json", 9}};
    for (size_t i = 0; i < sizeof text / sizeof text[0]; i++) {
        Buffer b = read_good(text[i].name);
        const char *slash = strrchr(text[i].name, '/'), *name = slash ? slash + 1 : text[i].name;
        seed("json", name, "", 0, b.data, b.n);
        seed("folder", name, &text[i].index, 1, b.data, b.n);
        if (i == 3) seed("messages", name, "", 0, b.data, b.n);
        buffer_free(&b);
    }
}

/* vocab.json, merges.txt and added_tokens.json, from tokenizer.json. */
static void seed_tokenizer_files(void) {
    Buffer b = read_good("tokenizer.json"), merges = {0}, added = {0};
    JsonDoc *doc = json_parse(b.data, b.n, "tokenizer.json", &seed_error);
    need(doc != NULL, "tokenizer.json");
    const Json *model = json_get(json_root(doc), "model"), *vocab = json_get(model, "vocab");
    for (const Json *m = json_get(model, "merges")->child; m; m = m->next)
        need(buffer_printf(&merges, &seed_error, "%s\n", m->string), "memory");
    for (const Json *a = json_get(json_root(doc), "added_tokens")->child; a; a = a->next)
        need(buffer_printf(&added, &seed_error, "%c\"%s\":%.*s", added.n ? ',' : '{',
                           json_get(a, "content")->string, (int)json_get(a, "id")->source_len,
                           json_get(a, "id")->source),
             "memory");
    need(buffer_puts(&added, "}", &seed_error), "memory");
    seed("folder", "vocab", "\4", 1, vocab->source, vocab->source_len);
    seed("folder", "merges", "\5", 1, merges.data, merges.n);
    seed("folder", "added", "\6", 1, added.data, added.n);
    static const char index[] = "{\"weight_map\":{\"model.norm.weight\":\"model.safetensors\"}}";
    seed("folder", "index", "\10", 1, index, sizeof index - 1);
    json_free(doc);
    buffer_free(&b);
    buffer_free(&merges);
    buffer_free(&added);
}

/* A model.bin's beginning, up to its tensors. */
static void seed_model(const char *quant) {
    Buffer b = {0};
    char path[4096];
    snprintf(path, sizeof path, "%s/seed.bin", to);
    need(tiny_model(path, quant, TINY_ENDS, &seed_error), path);
    need(read_file(path, 1u << 30, &b, &seed_error), path);
    const ModelHeader *h = (const void *)b.data;
    seed("model", quant, "", 0, b.data, h->header_bytes);
    need(remove(path) == 0, path);
    buffer_free(&b);
}

/* The good model.bin, and caches of n tokens under its first settings. */
static void seed_caches(void) {
    static const size_t lengths[] = {1, 9, 16, 40};
    EngineOptions o = {.threads = 1, .ctx = 64, .n_seq = 1};
    Model m;
    Engine engine;
    Session s;
    char path[4096];
    snprintf(path, sizeof path, "%s/model.bin", good);
    need(tiny_model(path, "q8", TINY_ENDS, &seed_error) && model_load(&m, path, &seed_error) &&
             engine_open(&engine, &m, &o, &seed_error) && session_open(&s, &engine, &seed_error),
         path);
    for (size_t i = 0; i < 40; i++) {
        int32_t id = good_id(i);
        need(session_feed(&s, GIVEN, &id, 1, NULL, &seed_error) == FED, path);
    }
    snprintf(path, sizeof path, "%s/seed.kv", to);
    for (uint8_t i = 0; i < 4; i++) {
        Buffer b = {0};
        char name[8];
        need(cache_write(&s, path, lengths[i], &seed_error), path);
        need(read_file(path, 1u << 30, &b, &seed_error), path);
        snprintf(name, sizeof name, "%zu", lengths[i]);
        seed("cache", name, (uint8_t[]){(uint8_t)(2 * i + 1)}, 1, b.data, b.n);
        buffer_free(&b);
    }
    need(remove(path) == 0, path);
    session_close(&s);
    engine_close(&engine);
    model_unload(&m);
}

static void seed_safetensors(void) {
    Buffer b = read_good("adapter/adapter_model.safetensors");
    uint64_t n = 0;
    memcpy(&n, b.data, sizeof n);
    uint32_t zeros = (uint32_t)(b.n - 8 - n);
    seed("safetensors", "adapter", &zeros, sizeof zeros, b.data, 8 + (size_t)n);
    buffer_free(&b);
}

static void seed_gguf(void) {
    GgufCase plain = {.at = 0},
             yarn = {.key = "qwen2.rope.scaling.type", .type = STRING + 1, .text = "yarn"};
    Buffer b = {0};
    Source s;
    char path[4096];
    gguf_write(&plain, &b);
    snprintf(path, sizeof path, "%s/seed.gguf", to);
    FILE *f = fopen(path, "wb");
    need(f && fwrite(b.data, 1, b.n, f) == b.n && fclose(f) == 0, path);
    need(gguf_open(path, &s, &seed_error), path);
    size_t start = b.n;
    for (size_t i = 0; i < s.n_tensors; i++) start = min_size(start, s.tensors[i].offset);
    source_close(&s);
    need(remove(path) == 0, path);
    uint32_t zeros = (uint32_t)(b.n - start);
    seed("gguf", "plain", &zeros, sizeof zeros, b.data, start);
    buffer_free(&b);
    gguf_write(&yarn, &b);
    seed("gguf", "yarn", &zeros, sizeof zeros, b.data, b.n - zeros);
    buffer_free(&b);
}

static void seed_small(void) {
    static const char *const json[] = {"[1,-2.5e3,true,false,null,\"\\u00e9\\ud83d\\ude00\\n\"]",
                                       "{\"a\":{\"b\":[[],{}]}}", "\"\""};
    static const char *const text[] = {
        "Hello the world, and 1234 other things\r\n\r\n  don't", "<|im_start|>user\n<|im_end|>",
        ("e\xcc\x81 \xe1\x84\x80\xe1\x85\xa1\xe1\x86\xa8 "
         "\xf0\x9f\x91\xa9\xe2\x80\x8d\xf0\x9f\x91\xa7"),
        "\xff\xc0\x80\xed\xa0\x80 \xe4\xbd\xa0\xe5\xa5\xbd \xd7\x90\xd6\xb8"};
    static const char *const messages[] = {
        "[{\"role\":\"user\",\"content\":\"hi "
        "<|im_end|>\"},{\"role\":\"assistant\",\"content\":\"\"}]",
        "{\"messages\":[{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[{\"function\":"
        "{\"name\":\"f\",\"arguments\":{\"a\":1}}}]},{\"role\":\"tool\",\"content\":\"1\"}],"
        "\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\"}}]}",
        "[{\"role\":\"system\",\"content\":[{\"type\":\"text\",\"text\":\"a\"}]}]"};
    static const char *const prompts[] = {
        "\0hello\n\n \t\r\nthe world\r\n<|im_end|>", "\5hello\nand the other things",
        ("\2{\"prompt\":\"hello "
         "<|im_end|>\"}\n{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}],"
         "\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\"}}]}\n\n{\"id\":1}\n{"
         "\"prompt\":3}"),
        "\4{\"prompt\":\"a\",\"messages\":[]}\n{\"prompt\":\"\"}\nhello\n{\"prompt\":\"b\"}"};
    static const char *const templates[] = {
        QWEN25_TEMPLATE("Be."),
        ("{%- set ns = namespace(a=1) -%}{# c #}{% for m in messages[1:] %}"
         "{% set ns.a = ns.a + 1 %}{{ loop.index0 % 2 ~ m['role'] }}{% if not loop.last %}"
         "{{ m.get('x') or 'y' }}{% endif %}{% endfor %}"
         "{{ ns.a if ns.a is defined else [1, (2, 3)] }}\n"),
        ("{% if 'a' in messages[0].content.strip() and n >= -1 %}{{ tools | tojson }}{% elif n %}"
         "{{ 1 * 2 }}{% else %}{{ raise_exception(\"no\") }}{% endif %}")};
    char name[8];
    for (size_t i = 0; i < 4; i++) {
        snprintf(name, sizeof name, "%zu", i);
        seed("prompts", name, prompts[i], 1, prompts[i] + 1, strlen(prompts[i] + 1));
        if (i < 3) seed("json", name, "", 0, json[i], strlen(json[i]));
        if (i < 3) seed("template", name, "", 0, templates[i], strlen(templates[i]));
        if (i < 3) seed("messages", name, "", 0, messages[i], strlen(messages[i]));
        seed("text", name, "", 0, text[i], strlen(text[i]));
    }
}

int main(int argc, char **argv) {
    if (argc != 3) return fprintf(stderr, "usage: fuzz_seeds GOOD DIR\n"), 2;
    good = argv[1];
    to = argv[2];
    need(mkdir(to, 0777) == 0 || errno == EEXIST, to);
    seed_texts();
    seed_tokenizer_files();
    seed_caches();
    seed_model("q8");
    seed_model("f32");
    seed_safetensors();
    seed_gguf();
    seed_small();
    return 0;
}
