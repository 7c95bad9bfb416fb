/* malformed.h: the catalogue of malformed inputs, for test_malformed.c. Every row is a good file
 * with one thing changed, and what the one line on stderr must then say: the field, and what is
 * wrong with it (the runner also looks for the file's name). `test_malformed --list` prints it. */
#ifndef MALFORMED_H
#define MALFORMED_H

#include "tiny_gguf.h"

/* ---- Text files, and the JSON in front of safetensors ---------------------------------------- */

typedef enum {
    CONFIG,
    GENERATION,
    TOKENIZER,
    TOKENIZER_CONFIG,
    WEIGHTS, /* a Hugging Face folder */
    VOCAB,
    MERGES,
    ADDED, /* the older tokenizer files */
    INDEX, /* of shards */
    ADAPTER,
    ADAPTER_WEIGHTS, /* a LoRA adapter */
    N_TARGETS
} Target;

static const struct {
    const char *folder, *name;
    bool safetensors; /* the text is the JSON behind the first 8 bytes */
} targets[N_TARGETS] = {
    [CONFIG] = {"hf", "config.json", false},
    [GENERATION] = {"hf", "generation_config.json", false},
    [TOKENIZER] = {"hf", "tokenizer.json", false},
    [TOKENIZER_CONFIG] = {"hf", "tokenizer_config.json", false},
    [WEIGHTS] = {"hf", "model.safetensors", true},
    [VOCAB] = {"files", "vocab.json", false},
    [MERGES] = {"files", "merges.txt", false},
    [ADDED] = {"files", "added_tokens.json", false},
    [INDEX] = {"shards", "model.safetensors.index.json", false},
    [ADAPTER] = {"hf/adapter", "adapter_config.json", false},
    [ADAPTER_WEIGHTS] = {"hf/adapter", "adapter_model.safetensors", true},
};

typedef struct {
    Target target;
    const char
        *at; /* "/a/0/b": this value of the JSON; else the text that is replaced; NULL: all */
    const char *to;   /* the new text; a JSON member that is not there is added; NULL: taken away */
    const char *want; /* in the message */
    long cut;         /* bytes taken off the end of the file, added when negative */
    bool whole;       /* the whole file is `to`, no header before it */
} FileCase;

#define EMBED "/model.embed_tokens.weight"
#define Q_PROJ "/model.layers.0.self_attn.q_proj.weight"
#define NORM "/model.norm.weight"
#define LORA_A "/base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
#define LORA_B "/base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight"
#define LFS "version https://git-lfs.github.com/spec/v1\noid sha256:0000\nsize 12\n"
#define TEN(x) x x x x x x x x x x

#define EDIT(target, at, to, want)                                                                 \
    { target, at, to, want, 0, false }
#define WHOLE(target, to, want)                                                                    \
    { target, NULL, to, want, 0, true }
#define CUT(target, bytes, want)                                                                   \
    { target, NULL, NULL, want, bytes, false }
static const FileCase file_cases[] = {
    /* JSON itself, as config.json */
    WHOLE(CONFIG, "", "expected a value, got the end of the text"),
    WHOLE(CONFIG, " \n\t ", "line 2 column 3: expected a value"),
    EDIT(CONFIG, "{", "\xef\xbb\xbf{", "line 1 column 1: expected a value, got U+FEFF"),
    WHOLE(CONFIG, "\xff\xfe{", "line 1 column 1: expected a value, got byte 0xff"),
    CUT(CONFIG, 64, "got the end of the text"),
    EDIT(CONFIG, "278}", "278,}", "expected a key in quotes"),
    EDIT(CONFIG, "{", "{/* a comment */", "expected a key in quotes"),
    EDIT(CONFIG, "{", "{'a':1,", "expected a key in quotes"),
    EDIT(CONFIG, "/hidden_size", "NaN", "expected a value, got 'N'"),
    EDIT(CONFIG, "/hidden_size", "Infinity", "expected a value, got 'I'"),
    EDIT(CONFIG, "/hidden_size", "0x100", "expected ',' or '}', got 'x'"),
    EDIT(CONFIG, "/hidden_size", "0256", "expected ',' or '}', got '2'"),
    EDIT(CONFIG, "/hidden_size", "+256", "expected a value, got '+'"),
    EDIT(CONFIG, "/hidden_size", "256.", "expected a digit"),
    EDIT(CONFIG, "/hidden_size", ".5", "expected a value, got '.'"),
    EDIT(CONFIG, "/hidden_size", "1e", "expected a digit"),
    EDIT(CONFIG, "/hidden_size", "1e999", "expected a number within the range of a double"),
    EDIT(CONFIG, "/hidden_size", "tru", "expected a value, got 't'"),
    EDIT(CONFIG, "/hidden_act", "\"si\\lu\"", "behind a backslash"),
    EDIT(CONFIG, "/hidden_act", "\"\\u12g4\"", "four hexadecimal digits"),
    EDIT(CONFIG, "/hidden_act", "\"\\ud800\"", "a low surrogate"),
    EDIT(CONFIG, "/hidden_act", "\"\\udc00\"", "no low surrogate without"),
    EDIT(CONFIG, "/hidden_act", "\"\\ud800\\u0041\"", "a low surrogate behind"),
    EDIT(CONFIG, "/hidden_act", "\"a\nb\"", "control character"),
    EDIT(CONFIG, "/hidden_act", "\"\xc0\x80\"", "no UTF-8"),
    EDIT(CONFIG, "/hidden_act", "\"\xed\xa0\x80\"", "no UTF-8"),
    EDIT(CONFIG, "/hidden_act", "\"\xf4\x90\x80\x80\"", "no UTF-8"),
    EDIT(CONFIG, "/hidden_act", "\"silu", "expected"),
    EDIT(CONFIG, "{", "{\"hidden_size\":256,", "expected every key once, got \"hidden_size\""),
    WHOLE(CONFIG, "[]", "expected an object"),
    WHOLE(CONFIG, "null", "expected an object"),
    WHOLE(CONFIG, "{}{}", "expected nothing behind the value"),
    WHOLE(CONFIG, TEN(TEN("[[[[[[[[[[")), "expected at most 64 levels"),
    WHOLE(CONFIG, TEN(TEN("{\"\":{\"\":{\"\":{\"\":")), "expected at most 64 levels"),
    WHOLE(CONFIG, LFS, "a git-lfs pointer"),
    WHOLE(CONFIG, "<!DOCTYPE html><html></html>", "an HTML page"),

    /* config.json */
    EDIT(CONFIG, "/model_type", NULL, "model_type: missing"),
    EDIT(CONFIG, "/model_type", "null", "model_type: missing"),
    EDIT(CONFIG, "/model_type", "7", "model_type: unsupported architecture 7"),
    EDIT(CONFIG, "/model_type", "\"llama\"", "unsupported architecture \"llama\""),
    EDIT(CONFIG, "/model_type", "\"qwen2_moe\"", "unsupported architecture"),
    EDIT(CONFIG, "/model_type", "\"qwen2\\u0000\"", "unsupported architecture"),
    EDIT(CONFIG, "/model_type", "\"\\u001b[2J\"", "unsupported architecture"),
    EDIT(CONFIG, "/architectures/0", "\"Qwen2MoeForCausalLM\"", "architectures: unsupported"),
    EDIT(CONFIG, "/architectures", "\"Qwen2ForCausalLM\"", "architectures: expected a list"),
    EDIT(CONFIG, "/layer_types", "\"full_attention\"", "layer_types: expected a list"),
    EDIT(CONFIG, "/hidden_act", "\"gelu\"", "hidden_act: expected \"silu\""),
    EDIT(CONFIG, "/use_sliding_window", "true", "use_sliding_window: true"),
    EDIT(CONFIG, "/use_sliding_window", "1", "use_sliding_window: expected true or false"),
    EDIT(CONFIG, "/layer_types", "[\"sliding_attention\"]", "use_sliding_window"),
    EDIT(CONFIG, "/quantization_config", "{\"bits\":4}", "quantization_config: unsupported"),
    EDIT(CONFIG, "/torch_dtype", "\"int4\"", "torch_dtype: expected"),
    EDIT(CONFIG, "/hidden_size", NULL, "hidden_size: missing"),
    EDIT(CONFIG, "/intermediate_size", NULL, "intermediate_size: missing"),
    EDIT(CONFIG, "/num_hidden_layers", NULL, "num_hidden_layers: missing"),
    EDIT(CONFIG, "/num_attention_heads", NULL, "num_attention_heads: missing"),
    EDIT(CONFIG, "/num_key_value_heads", NULL, "num_key_value_heads: missing"),
    EDIT(CONFIG, "/vocab_size", NULL, "vocab_size: missing"),
    EDIT(CONFIG, "/max_position_embeddings", NULL, "max_position_embeddings: missing"),
    EDIT(CONFIG, "/rms_norm_eps", NULL, "rms_norm_eps: missing"),
    EDIT(CONFIG, "/rope_theta", NULL, "rope_theta: missing"),
    EDIT(CONFIG, "/hidden_size", "\"256\"", "hidden_size: expected a whole number"),
    EDIT(CONFIG, "/hidden_size", "256.5", "hidden_size: expected a whole number"),
    EDIT(CONFIG, "/hidden_size", "2.56e2", "hidden_size: expected a whole number"),
    EDIT(CONFIG, "/hidden_size", "-256", "hidden_size: expected a whole number"),
    EDIT(CONFIG, "/hidden_size", "0", "hidden_size: expected a whole number from 1"),
    EDIT(CONFIG, "/hidden_size", "[256]", "hidden_size: expected a whole number"),
    EDIT(CONFIG, "/hidden_size", "18446744073709551616", "hidden_size: expected"),
    EDIT(CONFIG, "/hidden_size", "65537", "hidden_size: expected a whole number"),
    EDIT(CONFIG, "/hidden_size", "258", "hidden_size: expected a multiple of 4"),
    EDIT(CONFIG, "/hidden_size", "512", "shape: the configuration implies"),
    EDIT(CONFIG, "/intermediate_size", "511", "shape: the configuration implies 511 x 256"),
    EDIT(CONFIG, "/num_attention_heads", "0", "num_attention_heads: expected"),
    EDIT(CONFIG, "/num_attention_heads", "4294967297", "num_attention_heads: expected"),
    EDIT(CONFIG, "/num_key_value_heads", "0", "num_key_value_heads: expected"),
    EDIT(CONFIG, "/num_key_value_heads", "3", "num_key_value_heads: expected a divisor"),
    EDIT(CONFIG, "/num_key_value_heads", "8", "num_key_value_heads: expected a divisor"),
    EDIT(CONFIG, "/head_dim", "63", "head_dim: expected an even number"),
    EDIT(CONFIG, "/head_dim", "0", "head_dim: expected a whole number"),
    EDIT(CONFIG, "/num_hidden_layers", "257", "num_hidden_layers: expected"),
    EDIT(CONFIG, "/num_hidden_layers", "3", "the tensor is missing in the weights"),
    EDIT(CONFIG, "/num_hidden_layers", "1", "unknown tensor: a 1-layer Qwen2"),
    EDIT(CONFIG, "/vocab_size", "287", "shape: the configuration implies 287"),
    EDIT(CONFIG, "/vocab_size", "1048577", "vocab_size: expected"),
    EDIT(CONFIG, "/max_position_embeddings", "0", "max_position_embeddings: expected"),
    EDIT(CONFIG, "/max_position_embeddings", "1e6", "max_position_embeddings: expected"),
    EDIT(CONFIG, "/rms_norm_eps", "0", "rms_norm_eps: expected a number from"),
    EDIT(CONFIG, "/rms_norm_eps", "-1e-6", "rms_norm_eps: expected a number from"),
    EDIT(CONFIG, "/rms_norm_eps", "\"nan\"", "rms_norm_eps: expected a number"),
    EDIT(CONFIG, "/rms_norm_eps", "1e30", "rms_norm_eps: expected a number"),
    EDIT(CONFIG, "/rope_theta", "0", "rope_theta: expected a number"),
    EDIT(CONFIG, "/rope_theta", "\"1e6\"", "rope_theta: expected a number"),
    EDIT(CONFIG, "/tie_word_embeddings", "2", "tie_word_embeddings: expected true"),
    EDIT(CONFIG, "/eos_token_id", "288", "eos_token_id: expected ids from 0 to 287"),
    EDIT(CONFIG, "/eos_token_id", "-1", "eos_token_id: expected ids"),
    EDIT(CONFIG, "/eos_token_id", "\"</s>\"", "eos_token_id: expected ids"),
    EDIT(CONFIG, "/eos_token_id", "287", "eos_token_id: expected 0 to 280"),
    EDIT(CONFIG, "/bos_token_id", "1e9", "bos_token_id: expected"),
    EDIT(CONFIG, "/rope_scaling", "7", "rope_scaling: expected an object"),
    EDIT(CONFIG, "/rope_scaling", "{\"type\":\"dynamic\",\"factor\":4}", "rope_scaling.type"),
    EDIT(CONFIG, "/rope_scaling", "{\"factor\":4}", "rope_scaling.type: missing"),
    EDIT(CONFIG, "/rope_scaling", "{\"type\":\"yarn\"}", "rope_scaling.factor: missing"),
    EDIT(CONFIG, "/rope_scaling", "{\"type\":\"yarn\",\"factor\":0.5}", "factor: expected"),
    EDIT(CONFIG, "/rope_scaling", "{\"type\":\"yarn\",\"factor\":4,\"beta_fast\":16}",
         "beta_fast: 16 is unsupported"),
    EDIT(CONFIG, "/rope_scaling",
         "{\"type\":\"yarn\",\"factor\":4,\"original_max_position_embeddings\":0}",
         "original_max_position_embeddings: expected"),
    EDIT(CONFIG, "/rope_scaling", "{\"type\":\"yarn\",\"factor\":4,\"attention_factor\":1}",
         "attention_factor: unsupported"),
    EDIT(CONFIG, "/rope_scaling", "{\"type\":\"yarn\",\"factor\":4,\"truncate\":false}",
         "truncate: false is unsupported"),

    /* generation_config.json */
    EDIT(GENERATION, "/temperature", "\"hot\"", "temperature: expected a number"),
    EDIT(GENERATION, "/temperature", "-1", "temperature: expected a number"),
    EDIT(GENERATION, "/top_p", "1.5", "top_p: expected a number"),
    EDIT(GENERATION, "/top_k", "-1", "top_k: expected a whole number"),
    EDIT(GENERATION, "/repetition_penalty", "0", "repetition_penalty: expected"),
    EDIT(GENERATION, "/do_sample", "\"yes\"", "do_sample: expected true or false"),
    EDIT(GENERATION, "/eos_token_id", "[1,2,3,4,5,6,7,8,9]", "eos_token_id: expected at most 8"),
    EDIT(GENERATION, "/eos_token_id", "[[278]]", "eos_token_id: expected ids"),
    WHOLE(GENERATION, "{", "expected a key"),

    /* tokenizer.json */
    WHOLE(TOKENIZER, LFS, "a git-lfs pointer"),
    CUT(TOKENIZER, 1000, "expected"),
    EDIT(TOKENIZER, "/model", NULL, "model.type: expected \"BPE\""),
    EDIT(TOKENIZER, "/model/type", "\"Unigram\"", "model.type: expected \"BPE\""),
    EDIT(TOKENIZER, "/normalizer/type", "\"NFKC\"", "normalizer: expected NFC"),
    EDIT(TOKENIZER, "/normalizer", "[]", "normalizer: expected NFC"),
    EDIT(TOKENIZER, "/pre_tokenizer", "null", "pre_tokenizer: expected Qwen2's"),
    EDIT(TOKENIZER, "/pre_tokenizer/pretokenizers/0/pattern/Regex", "\"\\\\p{L}+\"",
         "pre_tokenizer: unknown pattern"),
    EDIT(TOKENIZER, "\\\\p{L}+|\\\\p{N}|", "[\\\\p{L}\\\\p{M}]+|\\\\p{N}|", "unknown pattern"),
    EDIT(TOKENIZER, "/pre_tokenizer/pretokenizers/0/behavior", "\"Removed\"", "behavior"),
    EDIT(TOKENIZER, "/pre_tokenizer/pretokenizers/0/invert", "true", "behavior"),
    EDIT(TOKENIZER, "/pre_tokenizer/pretokenizers/1/use_regex", "true", "use_regex"),
    EDIT(TOKENIZER, "/pre_tokenizer/pretokenizers/1", NULL, "expected Qwen2's sequence"),
    EDIT(TOKENIZER, "/model/dropout", "0.1", "dropout: unsupported"),
    EDIT(TOKENIZER, "/model/ignore_merges", "true", "ignore_merges: unsupported"),
    EDIT(TOKENIZER, "/model/byte_fallback", "true", "byte_fallback: unsupported"),
    EDIT(TOKENIZER, "/model/vocab", "{}", "tokenizer: "),
    EDIT(TOKENIZER, "/model/vocab", "[]", "vocab: expected an object"),
    EDIT(TOKENIZER, "/model/vocab/th", "255", "two tokens have the same id"),
    EDIT(TOKENIZER, "/model/vocab/th", "-1", "vocab: expected ids"),
    EDIT(TOKENIZER, "/model/vocab/th", "1.5", "vocab: expected ids"),
    EDIT(TOKENIZER, "/model/vocab/th", "2147483648", "vocab: expected ids"),
    EDIT(TOKENIZER, "/model/vocab/th", "\"256\"", "vocab: expected ids"),
    EDIT(TOKENIZER, "/model/vocab/th", "1048575", "vocab_size: expected at least"),
    EDIT(TOKENIZER, "/model/vocab/th", NULL, "merge"),
    EDIT(TOKENIZER, "/model/vocab/A", NULL, "byte 0x41 has no token"),
    EDIT(TOKENIZER, "\"th\":", "\"\":", "token 256: expected 1 to 1024 bytes"),
    EDIT(TOKENIZER, "\"th\":", "\"t h\":", "not in the byte-level alphabet"),
    EDIT(TOKENIZER, "\"th\":", "\"\xe4\xbd\xa0\":", "not in the byte-level alphabet"),
    EDIT(TOKENIZER, "\"th\":", "\"" TEN(TEN("aaaaaaaaaaaa")) "\":", "too long"),
    EDIT(TOKENIZER, "/model/merges", NULL, "merges: expected a list"),
    EDIT(TOKENIZER, "/model/merges", "[]", "merges: none"),
    EDIT(TOKENIZER, "/model/merges", "{}", "merges: expected a list"),
    EDIT(TOKENIZER, "/model/merges/0", "\"th\"", "merges: expected two tokens"),
    EDIT(TOKENIZER, "/model/merges/0", "\"t h e\"", "merges: expected two tokens"),
    EDIT(TOKENIZER, "/model/merges/0", "\" t\"", "merges: expected two tokens"),
    EDIT(TOKENIZER, "/model/merges/0", "\"t \"", "merges: expected two tokens"),
    EDIT(TOKENIZER, "/model/merges/0", "[\"t\"]", "merges: expected"),
    EDIT(TOKENIZER, "/model/merges/0", "[\"t\",\"h\",\"e\"]", "merges: expected"),
    EDIT(TOKENIZER, "/model/merges/0", "[\"t\",7]", "merges: expected"),
    EDIT(TOKENIZER, "/model/merges/0", "7", "merges: expected"),
    EDIT(TOKENIZER, "/model/merges/0", "[\"\",\"th\"]", "merge"),
    EDIT(TOKENIZER, "/model/merges/0", "\"zz h\"", "a merge names an unknown token"),
    EDIT(TOKENIZER, "/model/merges/0", "\"h t\"", "the result of a merge is no token"),
    EDIT(TOKENIZER, "/model/merges/1", "\"t h\"", "stands there twice"),
    EDIT(TOKENIZER, "/added_tokens/1/id", "276", "two tokens have the same id"),
    EDIT(TOKENIZER, "/added_tokens/1/id", "-1", "id: expected a whole number"),
    EDIT(TOKENIZER, "/added_tokens/1/id", NULL, "id: missing"),
    EDIT(TOKENIZER, "/added_tokens/1/id", "1048576", "id: expected a whole number"),
    EDIT(TOKENIZER, "/added_tokens/1/content", "\"<|endoftext|>\"", "two ids have the same text"),
    EDIT(TOKENIZER, "/added_tokens/1/content", NULL, "277: content is missing"),
    EDIT(TOKENIZER, "/added_tokens/1/content", "7", "277: content is missing"),
    EDIT(TOKENIZER, "/added_tokens/1/content", "\"\"", "token 277: expected 1 to 1024"),
    EDIT(TOKENIZER, "/added_tokens/1/content", "\"" TEN(TEN("aaaaaaaaaaaa")) "\"",
         "token 277: expected 1 to 1024"),
    EDIT(TOKENIZER, "/added_tokens/1/lstrip", "true", "277: single_word, lstrip"),
    EDIT(TOKENIZER, "/added_tokens/1/special", "1", "special: expected true or false"),
    {TOKENIZER, "/added_tokens/2/content", "\"<|im_over|>\"", "the chat template needs <|im_end|>",
     0, false},
    EDIT(TOKENIZER, "/added_tokens/4/id", "300",
         "vocab_size: expected at least the tokenizer's 301"),
    EDIT(TOKENIZER, "/added_tokens", "7", "added_tokens: expected a list"),
    WHOLE(TOKENIZER_CONFIG, "[]", "expected an object"),
    WHOLE(TOKENIZER_CONFIG, "{\"a\":", "expected a value"),

    /* vocab.json, merges.txt, added_tokens.json */
    WHOLE(VOCAB, "{}", "tokenizer"),
    WHOLE(VOCAB, "[]", "expected an object"),
    EDIT(VOCAB, "/A", NULL, "byte 0x41 has no token"),
    EDIT(VOCAB, "/A", "1", "two tokens have the same id"),
    EDIT(VOCAB, "/A", "null", "vocab: expected ids"),
    WHOLE(MERGES, "", "merges: none"),
    WHOLE(MERGES, "#version: 0.2\n", "merges: none"),
    EDIT(MERGES, "th e", "the", "merges: expected two tokens, got \"the\""),
    EDIT(MERGES, "th e", "th  e", "merges: expected two tokens"),
    EDIT(MERGES, "th e", "\xff e", "not in the byte-level alphabet"),
    EDIT(MERGES, "th e", "zz e", "a merge names an unknown token"),
    EDIT(MERGES, "th e", "t h", "stands there twice"),
    EDIT(ADDED, "/<|im_start|>", "-1", "added_tokens: expected ids"),
    EDIT(ADDED, "/<|im_start|>", "276", "two tokens have the same id"),
    EDIT(ADDED, "/<|im_end|>", NULL, "the chat template needs <|im_end|>"),
    WHOLE(ADDED, "7", "expected an object"),

    /* model.safetensors */
    WHOLE(WEIGHTS, "", "empty"),
    WHOLE(WEIGHTS, "abc", "size: expected 10 bytes"),
    WHOLE(WEIGHTS, "\2\1\1\1\1\1\1\1{}", "header: expected a length"),
    WHOLE(WEIGHTS, "\xff\xff\xff\xff\xff\xff\xff\xff{}", "header: expected a length"),
    WHOLE(WEIGHTS, LFS, "a git-lfs pointer"),
    WHOLE(WEIGHTS, "<html>", "an HTML page"),
    WHOLE(WEIGHTS, "PK\3\4aaaaaaaaaaaa", "a PyTorch or zip archive"),
    WHOLE(WEIGHTS, "\x80\2}q\1(X", "a PyTorch pickle"),
    EDIT(WEIGHTS, NULL, "", "header: expected a length"),
    EDIT(WEIGHTS, NULL, "{}", "header: expected 1 to"),
    EDIT(WEIGHTS, NULL, "[]", "header: expected {"),
    EDIT(WEIGHTS, "{", " {", "header: expected {"),
    EDIT(WEIGHTS, "}}", "}} x", "header: expected } and spaces"),
    EDIT(WEIGHTS, "}}", "}}}", "expected nothing behind"),
    EDIT(WEIGHTS, "\"BF16\"", "\"BF16\",\"dtype\":\"BF16\"", "expected every key once"),
    EDIT(WEIGHTS, "{", "{\"model.norm.weight\":{},", "expected every key once"),
    EDIT(WEIGHTS, "{", "{\"\xff\":{},", "no UTF-8"),
    EDIT(WEIGHTS, "/__metadata__", "3", "__metadata__: expected an object"),
    EDIT(WEIGHTS, "/__metadata__", "{\"a\":1}", "__metadata__: expected texts"),
    EDIT(WEIGHTS, EMBED, "7", "embed_tokens.weight: expected an object"),
    EDIT(WEIGHTS, EMBED "/dtype", NULL, "dtype: unknown none"),
    EDIT(WEIGHTS, EMBED "/dtype", "\"bf16\"", "dtype: unknown \"bf16\""),
    EDIT(WEIGHTS, EMBED "/dtype", "\"Q4\"", "dtype: unknown"),
    EDIT(WEIGHTS, EMBED "/dtype", "\"I16\"", "dtype: expected F32, F16 or BF16, got I16"),
    EDIT(WEIGHTS, EMBED "/dtype", "\"F32\"", "dtype and shape need"),
    EDIT(WEIGHTS, EMBED "/shape", NULL, "shape: expected up to"),
    EDIT(WEIGHTS, EMBED "/shape", "7", "shape: expected up to"),
    EDIT(WEIGHTS, EMBED "/shape", "[256,288]", "shape: the configuration implies"),
    EDIT(WEIGHTS, EMBED "/shape", "[288,0]", "shape: expected whole numbers above 0"),
    EDIT(WEIGHTS, EMBED "/shape", "[288,-256]", "shape: expected whole numbers"),
    EDIT(WEIGHTS, EMBED "/shape", "[288,256.0]", "shape: expected whole numbers"),
    EDIT(WEIGHTS, EMBED "/shape", "[1000000000000,1000000000000]", "shape: too large"),
    EDIT(WEIGHTS, EMBED "/shape", "[9007199254740993,2]", "shape: expected whole numbers"),
    EDIT(WEIGHTS, EMBED "/shape", "[1,1,1,1,1,1,1,288,256]", "shape: expected up to 8"),
    EDIT(WEIGHTS, EMBED "/shape", "[]", "dtype and shape need 2 bytes"),
    EDIT(WEIGHTS, EMBED "/data_offsets", NULL, "data_offsets: expected two"),
    EDIT(WEIGHTS, EMBED "/data_offsets", "[147456,0]", "data_offsets: expected an ascending"),
    EDIT(WEIGHTS, EMBED "/data_offsets", "[0]", "data_offsets: expected two"),
    EDIT(WEIGHTS, EMBED "/data_offsets", "[0,147456,0]", "data_offsets: expected two"),
    EDIT(WEIGHTS, EMBED "/data_offsets", "[0,1.47456e5]", "data_offsets: expected two"),
    EDIT(WEIGHTS, EMBED "/data_offsets", "[\"0\",147456]", "data_offsets: expected two"),
    EDIT(WEIGHTS, EMBED "/data_offsets", "[-1,147455]", "data_offsets: expected two"),
    EDIT(WEIGHTS, EMBED "/data_offsets", "[0,18446744073709551615]", "data_offsets: expected"),
    EDIT(WEIGHTS, EMBED "/data_offsets", "[0,9000000000000000]", "an incomplete download"),
    EDIT(WEIGHTS, EMBED "/data_offsets", "[2,147458]", "data_offsets: "),
    EDIT(WEIGHTS, NORM, NULL, "there is a hole before it"),
    EDIT(WEIGHTS, "model.norm.weight", "model.norm.bias", "unknown tensor"),
    EDIT(WEIGHTS, "model.norm.weight", "", "expected tensor names of 1 to"),
    EDIT(WEIGHTS, "model.norm.weight", "a\\u0000b", "expected tensor names"),
    EDIT(WEIGHTS, "layers.1.input_layernorm", "layers.7.input_layernorm", "unknown tensor"),
    EDIT(WEIGHTS, "layers.1.mlp.up_proj", "layers.1.mlp.experts.0.up_proj", "unknown tensor"),
    CUT(WEIGHTS, 1, "an incomplete download"),
    CUT(WEIGHTS, 1000000, "an incomplete download"),
    CUT(WEIGHTS, -1, "size: the tensors end at"),
    CUT(WEIGHTS, -4096, "size: the tensors end at"),

    /* model.safetensors.index.json */
    WHOLE(INDEX, "{}", "weight_map: expected an object"),
    WHOLE(INDEX, "[]", "expected an object"),
    EDIT(INDEX, "/weight_map", "{}", "weight_map: expected an object with 1 to"),
    EDIT(INDEX, "/weight_map", "[]", "weight_map: expected an object"),
    EDIT(INDEX, "/weight_map" NORM, "\"../a.safetensors\"", "leaves the model directory"),
    EDIT(INDEX, "/weight_map" NORM, "\"/etc/passwd\"", "leaves the model directory"),
    EDIT(INDEX, "/weight_map" NORM, "\"sub/../a\"", "leaves the model directory"),
    EDIT(INDEX, "/weight_map" NORM, "\"..\"", "leaves the model directory"),
    EDIT(INDEX, "/weight_map" NORM, "\"a\\u0000b\"", "leaves the model directory"),
    EDIT(INDEX, "/weight_map" NORM, "\"\"", "weight_map: expected file names"),
    EDIT(INDEX, "/weight_map" NORM, "7", "weight_map: expected file names"),
    EDIT(INDEX, "/weight_map" NORM, "null", "weight_map: expected file names"),
    EDIT(INDEX, "/weight_map" EMBED, "\"gone.safetensors\"", "gone.safetensors: cannot open"),
    EDIT(INDEX, "/weight_map" EMBED, "\"config.json\"", "config.json: header: expected"),
    EDIT(INDEX, "/weight_map" NORM, NULL, "the index does not place this tensor"),
    EDIT(INDEX, "/weight_map/model.layers.9.x", "\"one.safetensors\"", "unknown tensor"),

    /* A LoRA adapter */
    WHOLE(ADAPTER, "", "expected a value"),
    WHOLE(ADAPTER, "[]", "peft_type: expected \"LORA\""),
    EDIT(ADAPTER, "/peft_type", NULL, "peft_type: expected \"LORA\""),
    EDIT(ADAPTER, "/peft_type", "\"LOHA\"", "peft_type: expected \"LORA\""),
    EDIT(ADAPTER, "/r", NULL, "r: missing"),
    EDIT(ADAPTER, "/r", "0", "r: expected a whole number"),
    EDIT(ADAPTER, "/r", "-4", "r: expected a whole number"),
    EDIT(ADAPTER, "/r", "4.0", "r: expected a whole number"),
    EDIT(ADAPTER, "/r", "8", "shape: the configuration implies"),
    EDIT(ADAPTER, "/r", "100000", "r: expected a whole number"),
    EDIT(ADAPTER, "/lora_alpha", NULL, "lora_alpha: missing"),
    EDIT(ADAPTER, "/lora_alpha", "\"8\"", "lora_alpha: expected a number"),
    EDIT(ADAPTER, "/lora_alpha", "0", "lora_alpha: expected a number"),
    EDIT(ADAPTER, "/lora_alpha", "1e300", "lora_alpha: expected a number"),
    EDIT(ADAPTER, "/use_dora", "true", "use_dora: unsupported"),
    EDIT(ADAPTER, "/bias", "\"all\"", "bias: unsupported"),
    EDIT(ADAPTER, "/fan_in_fan_out", "true", "fan_in_fan_out: unsupported"),
    EDIT(ADAPTER, "/modules_to_save", "[\"lm_head\"]", "modules_to_save: unsupported"),
    EDIT(ADAPTER, "/rank_pattern", "{\"q_proj\":8}", "rank_pattern: unsupported"),
    EDIT(ADAPTER, "/alpha_pattern", "{\"q_proj\":8}", "alpha_pattern: unsupported"),
    EDIT(ADAPTER, "/use_rslora", "\"no\"", "use_rslora: expected true or false"),
    EDIT(ADAPTER, "/init_lora_weights", "\"pissa\"", "init_lora_weights: pissa"),
    WHOLE(ADAPTER_WEIGHTS, "", "empty"),
    EDIT(ADAPTER_WEIGHTS, LORA_A, NULL, "there is a hole"),
    EDIT(ADAPTER_WEIGHTS, LORA_B, NULL, "size: the tensors end at"),
    EDIT(ADAPTER_WEIGHTS, LORA_A "/shape", "[256,4]", "shape: the configuration implies 4 x 256"),
    EDIT(ADAPTER_WEIGHTS, "q_proj.lora_A", "q_proj.lora_C", "expected base_model.model.NAME"),
    EDIT(ADAPTER_WEIGHTS, "base_model.model.model", "model", "expected base_model.model.NAME"),
    EDIT(ADAPTER_WEIGHTS, "layers.0.self_attn.q_proj.lora_A", "layers.2.self_attn.q_proj.lora_A",
         "the model has no matrix"),
    {ADAPTER_WEIGHTS, "layers.0.self_attn.q_proj.lora_A", "norm.lora_A", "the model has no matrix",
     0, false},
    EDIT(ADAPTER_WEIGHTS, "layers.0.self_attn.q_proj.lora_A", "layers.1.self_attn.q_proj.lora_A",
         "expected both lora_A and lora_B"),
    CUT(ADAPTER_WEIGHTS, 7, "an incomplete download"),
};

#undef CUT

/* ---- model.bin ------------------------------------------------------------------------------- */

typedef enum { FILE_START, TABLE, TOKENS, ENDS, TOKEN_MERGES, TOKEN_ADDED, TOKEN_TEXT } Section;

typedef struct {
    const char *what;
    Section section;
    size_t at, n;   /* n bytes at this place of the section become ... */
    uint64_t value; /* ... this */
    const char *want;
    bool stale; /* the checksum is left as it was */
    long cut;
} BinCase;

#define FIELD(type, field) offsetof(type, field), sizeof(((type *)0)->field)
#define H(field, value, want)                                                                      \
    {                                                                                              \
#field " = " #value, FILE_START, FIELD(ModelHeader, field), (uint64_t)(value), want,       \
            false, 0                                                                               \
    }
#define C(field, value, want) H(config.field, value, want)
#define D(field, value, want) H(defaults.field, value, want)
#define T(i, field, value, want)                                                                   \
    {                                                                                              \
        "tensor " #i " " #field " = " #value, TABLE,                                               \
            (i) * sizeof(TensorEntry) + offsetof(TensorEntry, field),                              \
            sizeof(((TensorEntry *)0)->field), (uint64_t)(value), want, false, 0                   \
    }
#define K(field, value, want)                                                                      \
    {                                                                                              \
        "tokenizer " #field " = " #value, TOKENS, FIELD(TokenizerHeader, field),                   \
            (uint64_t)(value), want, false, 0                                                      \
    }
#define M(i, field, value, want)                                                                   \
    {                                                                                              \
        "merge " #i " " #field " = " #value, TOKEN_MERGES,                                         \
            (i) * sizeof(TokenizerMerge) + offsetof(TokenizerMerge, field), 4, (uint64_t)(value),  \
            want, false, 0                                                                         \
    }
#define A(i, field, value, want)                                                                   \
    {                                                                                              \
        "added " #i " " #field " = " #value, TOKEN_ADDED,                                          \
            (i) * sizeof(TokenizerAdded) + offsetof(TokenizerAdded, field), 4, (uint64_t)(value),  \
            want, false, 0                                                                         \
    }
#define BYTES(what, at, n, value, want)                                                            \
    { what, FILE_START, at, n, value, want, true, 0 }
#define CUT(what, bytes, want)                                                                     \
    { what, FILE_START, 0, 0, 0, want, true, bytes }

#define NAN32 0x7fc00000
#define INF32 0x7f800000
#define MINUS32 0xbf800000
#define NAN64 0x7ff8000000000000
#define INF64 0x7ff0000000000000

static const BinCase bin_cases[] = {
    CUT("only the magic", -8, "size: expected at least 1024 bytes"),
    CUT("4 bytes", -4, "magic: "),
    CUT("1023 bytes", -1023, "size: expected at least 1024"),
    CUT("1024 bytes", -1024, "an incomplete copy"),
    CUT("1 byte less", 1, "an incomplete copy"),
    CUT("64 KiB less", 65536, "an incomplete copy"),
    BYTES("magic", 0, 8, 0x1234567890, "magic: expected a model.bin"),
    BYTES("magic of a GGUF file", 0, 4, 0x46554747,
          "magic: expected a model.bin made by convert, "
          "got a GGUF file"),
    BYTES("magic after a transfer as text", 0, 1, 0x3f, "magic: damaged"),
    BYTES("magic with a letter changed", 2, 1, 'X', "magic: "),
    BYTES("a byte of the header, checksum stale", 300, 1, 0xff, "crc32c: header and tables"),
    BYTES("a byte of the tokenizer, checksum stale", 2000, 1, 0xff, "crc32c: header and tables"),
    BYTES("the checksum", offsetof(ModelHeader, crc32c), 4, 0, "crc32c: header and tables"),
    BYTES("version 0", 8, 4, 0, "version: expected"),
    BYTES("version 99", 8, 4, 99, "version: expected"),
    BYTES("version in the other byte order", 8, 4, 0x01000000, "wrong byte order"),
    H(file_bytes, 0, "size: the header says 0"),
    H(file_bytes, UINT64_MAX, "an incomplete copy"),
    H(header_bytes, 0, "header_bytes: expected"),
    H(header_bytes, 4095, "header_bytes: expected"),
    H(header_bytes, UINT64_MAX, "header_bytes: expected"),
    H(header_bytes, (uint64_t)1 << 40, "header_bytes: expected"),
    H(tokenizer_offset, 0, "tokenizer_offset: expected"),
    H(tokenizer_offset, 1025, "tokenizer_offset: expected"),
    H(tokenizer_offset, 1 << 30, "tokenizer_offset: expected"),
    H(tokenizer_offset, UINT64_MAX - 63, "tokenizer_offset: expected"),
    H(tokenizer_bytes, 0, "tokenizer: expected at least 16"),
    H(tokenizer_bytes, UINT64_MAX, "tokenizer_offset: expected"),
    H(tokenizer_bytes, 1 << 20, "tokenizer_offset: expected"),
    H(tokenizer_bytes, 100, "tokenizer.n_tokens: expected at most"),
    H(tensors_offset, 0, "tensors_offset: expected"),
    H(tensors_offset, UINT64_MAX - 63, "tensors_offset: expected"),
    H(tensors_offset, (uint64_t)1 << 63, "tensors_offset: expected"),
    H(tensors_offset, 1088, "embed_tokens.weight: expected this tensor at place 0"),
    H(n_tensors, 0, "n_tensors: expected 27"),
    H(n_tensors, 26, "n_tensors: expected 27"),
    H(n_tensors, UINT32_MAX, "n_tensors: expected 27"),
    H(chat_family, 4, "chat_family: expected 0 to 3"),
    H(chat_family, UINT32_MAX, "chat_family: expected"),
    C(num_hidden_layers, 0, "num_hidden_layers: expected 1 to"),
    C(num_hidden_layers, 257, "num_hidden_layers: expected 1 to 256"),
    C(num_hidden_layers, UINT32_MAX, "num_hidden_layers: expected"),
    C(num_hidden_layers, 1, "n_tensors: expected 15"),
    C(num_hidden_layers, 3, "n_tensors: expected 39"),
    C(hidden_size, 0, "hidden_size: expected 1 to"),
    C(hidden_size, 1u << 31, "hidden_size: expected"),
    C(hidden_size, 128, "embed_tokens.weight: expected 288 x 128, got 288 x 256"),
    C(intermediate_size, 0, "intermediate_size: expected 1 to"),
    C(intermediate_size, 1u << 31, "intermediate_size: expected"),
    C(intermediate_size, 256, "gate_proj.weight: expected 256 x 256"),
    C(num_attention_heads, 0, "num_attention_heads: expected 1 to"),
    C(num_attention_heads, 1u << 31, "num_attention_heads: expected"),
    C(num_attention_heads, 2, "q_proj.weight: expected 128 x 256"),
    C(num_key_value_heads, 0, "num_key_value_heads: expected 1 to"),
    C(num_key_value_heads, 3, "num_key_value_heads: expected a divisor of 4"),
    C(num_key_value_heads, 8, "num_key_value_heads: expected a divisor"),
    C(num_key_value_heads, 1, "k_proj.weight: expected 64 x 256"),
    C(head_dim, 0, "head_dim: expected 2 to"),
    C(head_dim, 65, "head_dim: expected an even"),
    C(head_dim, UINT32_MAX, "head_dim: expected"),
    C(head_dim, 32, "q_proj.weight: expected 128 x 256"),
    C(vocab_size, 0, "vocab_size: expected 1 to"),
    C(vocab_size, 1u << 31, "vocab_size: expected"),
    C(vocab_size, 289, "embed_tokens.weight: expected 289 x 256"),
    C(max_position_embeddings, 0, "max_position_embeddings: expected 1 to"),
    C(max_position_embeddings, UINT32_MAX, "max_position_embeddings: expected"),
    C(tie_word_embeddings, 2, "tie_word_embeddings: expected 0 to 1"),
    C(tie_word_embeddings, 1, "n_tensors: expected 26"),
    C(rms_norm_eps, 0, "rms_norm_eps: expected"),
    C(rms_norm_eps, NAN32, "rms_norm_eps: expected"),
    C(rms_norm_eps, MINUS32, "rms_norm_eps: expected"),
    C(rms_norm_eps, 0x71000000, "rms_norm_eps: expected"),
    C(rope_theta, 0, "rope_theta: expected"),
    C(rope_theta, NAN64, "rope_theta: expected"),
    C(rope_theta, INF64, "rope_theta: expected"),
    C(rope_theta, 0xbff0000000000000, "rope_theta: expected"),
    C(yarn_factor, NAN32, "rope_scaling.factor: expected"),
    C(yarn_factor, 0x3f000000, "rope_scaling.factor: expected"),
    C(yarn_original_max_position_embeddings, 5, "rope_scaling.factor: expected"),
    C(yarn_factor, 0x40800000, "rope_scaling.original_max_position_embeddings: expected"),
    C(qkv_bias, 7, "qkv_bias: expected 0 to 1"),
    C(qkv_bias, 0, "n_tensors: expected 21"),
    D(do_sample, 2, "do_sample: expected 0 to 1"),
    D(top_k, UINT32_MAX, "top_k: expected"),
    D(temperature, NAN32, "temperature: expected"),
    D(temperature, INF32, "temperature: expected"),
    D(temperature, MINUS32, "temperature: expected"),
    D(top_p, NAN32, "top_p: expected"),
    D(top_p, 0x40000000, "top_p: expected"),
    D(repetition_penalty, 0, "repetition_penalty: expected"),
    D(repetition_penalty, NAN32, "repetition_penalty: expected"),
    D(n_eos, 9, "n_eos: expected 0 to 8"),
    D(n_eos, UINT32_MAX, "n_eos: expected"),
    D(eos[0], 288, "eos_token_id: expected 0 to 287"),
    D(eos[1], UINT32_MAX, "eos_token_id: expected"),
    D(bos, 288, "bos_token_id: expected"),
    D(pad, -2, "pad_token_id: expected"),
    H(has_default_system, 2, "default_system: expected"),
    H(default_system_len, 417, "default_system: expected at most 416"),
    H(default_system_len, UINT32_MAX, "default_system: expected"),
    {"name without an end", FILE_START, offsetof(ModelHeader, name), 128, UINT64_MAX,
     "name: not terminated", false, 0},
    {"quant without an end", FILE_START, offsetof(ModelHeader, quant), 16, UINT64_MAX,
     "quant: not terminated", false, 0},
    {"source without an end", FILE_START, offsetof(ModelHeader, source), 128, UINT64_MAX,
     "source: not terminated", false, 0},
    {"converter without an end", FILE_START, offsetof(ModelHeader, converter), 32, UINT64_MAX,
     "converter: not terminated", false, 0},
    T(0, name, 0, "model.embed_tokens.weight: expected this tensor at place 0, got \"\""),
    T(3, name, UINT64_MAX, "expected this tensor at place 3"),
    T(26, name, 'x', "lm_head.weight: expected this tensor at place 26"),
    T(5, type, 99, "type 99 is not f32"),
    T(2, type, 99, "type 99 is not a known one"),
    T(2, type, UINT32_MAX, "is not a known one"),
    T(1, type, 3, "type 3 is not f32, which vectors"),
    T(2, type, 0, "q_proj.weight: expected 262144 bytes"),
    T(2, rows, 0, "q_proj.weight: expected 256 x 256, got 0 x 256"),
    T(2, rows, UINT32_MAX, "expected 256 x 256"),
    T(2, cols, 257, "expected 256 x 256"),
    T(2, offset, 0, "q_proj.weight: expected"),
    T(2, offset, UINT64_MAX - 31, "q_proj.weight: exp"),
    T(2, bytes, 0, "q_proj.weight: expected"),
    T(2, bytes, UINT64_MAX, "q_proj.weight: expected"),
    T(26, bytes, 1, "lm_head.weight: expected"),
    K(n_tokens, 0, "tokenizer.n_tokens: expected 256 to"),
    K(n_tokens, 255, "tokenizer.n_tokens: expected 256 to"),
    K(n_tokens, UINT32_MAX, "tokenizer.n_tokens: expected"),
    K(n_tokens, 1 << 20, "tokenizer.n_tokens: expected at most"),
    K(n_tokens, 282, "tokenizer.text_bytes: expected"),
    K(n_merges, 0, "tokenizer.n_merges: expected 1 to"),
    K(n_merges, UINT32_MAX, "tokenizer.n_merges: expected"),
    K(n_merges, 1 << 20, "tokenizer.n_merges: expected at most"),
    K(n_added, UINT32_MAX, "tokenizer.n_added: expected"),
    K(text_bytes, 0, "tokenizer.text_bytes: expected"),
    K(text_bytes, UINT32_MAX, "tokenizer.text_bytes: expected"),
    {"token 0 ends beyond the text", ENDS, 0, 4, UINT32_MAX, "tokenizer.end: token 0", false, 0},
    {"token 9 ends before it begins", ENDS, 36, 4, 0, "tokenizer.end: token 9", false, 0},
    {"token 9 is empty", ENDS, 36, 4, 9, "tokenizer.text: byte 0x", false, 0},
    {"the last token ends early", ENDS, 4 * 280, 4, 300, "tokenizer.end: token 280", false, 0},
    {"two tokens for one byte", TOKEN_TEXT, 7, 1, '!', "tokenizer.text: byte 0x21", false, 0},
    {"token 256 has other text", TOKEN_TEXT, 256, 1, 'q', "tokenizer.merges: 0", false, 0},
    M(0, left, 281, "tokenizer.merges: 0: expected ids below 281"),
    M(0, right, UINT32_MAX, "tokenizer.merges: 0"),
    M(0, result, 281, "tokenizer.merges: 0"),
    M(0, result, 0, "tokenizer.merges: 0"),
    M(1, left, 0, "tokenizer.merges: 1"),
    A(0, id, 281, "tokenizer.added: 0"),
    A(1, id, 276, "tokenizer.added: 1"),
    A(1, id, UINT32_MAX, "tokenizer.added: 1"),
    A(0, special, 2, "tokenizer.added: id 276"),
};

#undef H
#undef C
#undef D
#undef T
#undef K
#undef M
#undef A

/* ---- GGUF ------------------------------------------------------------------------------------ */

/* KEY: a plain value; TEXT: a string; BLOB: an array; GONE: no such key; TENSOR: an entry of the
 * tensor table; HEAD: bytes at a place of the file. */
#define KEY(want_, key_, type_, bits_)                                                             \
    { .want = (want_), .key = (key_), .type = (type_) + 1, .bits = (uint64_t)(bits_) }
#define TEXT(want_, key_, text_)                                                                   \
    { .want = (want_), .key = (key_), .type = STRING + 1, .text = (text_) }
#define GONE(key_)                                                                                 \
    { .want = key_ ": missing", .key = (key_) }
#define TENSOR(want_, name_, damage_, value_)                                                      \
    { .want = (want_), .tensor = (name_), .damage = (damage_), .value = (uint64_t)(value_) }
#define HEAD(want_, at_, n_, patch_)                                                               \
    { .want = (want_), .at = (at_), .n = (n_), .patch = (uint64_t)(patch_) }
#define BLOB(want_, key_, element_, count_, bytes_)                                                \
    {                                                                                              \
        .want = (want_), .key = (key_), .type = ARRAY + 1,                                         \
        .bits = (element_) | (uint64_t)(count_) << 8, .text = (bytes_),                            \
        .array_bytes = sizeof(bytes_) - 1                                                          \
    }

static const GgufCase gguf_cases[] = {
    HEAD("begins with \"FGUF", 0, 4, 0x46554746),
    HEAD("big-endian", 0, 4, 0x47475546),
    HEAD("version: expected 2 or 3, got 0", 4, 4, 0),
    HEAD("version: expected", 4, 4, 1),
    HEAD("version: expected", 4, 4, 4),
    HEAD("big-endian", 4, 4, 0x03000000),
    HEAD("tensor count", 8, 8, -1),
    HEAD("tensor count", 8, 8, (uint64_t)1 << 60),
    HEAD("metadata count", 16, 8, -1),
    HEAD("metadata count", 16, 8, (uint64_t)1 << 31),
    HEAD("metadata key", 24, 8, -1),
    HEAD("metadata key", 24, 8, (uint64_t)1 << 40),
    HEAD("metadata key", 24, 8, 0),
    HEAD("metadata key", 24, 8, 65536),
    HEAD("metadata key: expected plain", 32, 1, 0xff),
    {.want = "empty", .cut = 1 << 30},
    {.want = "incomplete copy", .cut = 1},
    {.want = "ends early", .cut = 4096},
    {.want = "ends early", .cut = 20000},
    {.want = "size: ", .cut = -32},
    {.want = "size: ", .cut = -1000000},
    TEXT("general.architecture: llama is not supported, expected qwen2", "general.architecture",
         "llama"),
    TEXT("general.architecture: \\x1b[2J", "general.architecture", "\x1b[2J"),
    KEY("general.architecture: expected a string", "general.architecture", U32, 1),
    GONE("general.architecture"),
    GONE("qwen2.block_count"),
    GONE("qwen2.context_length"),
    GONE("qwen2.embedding_length"),
    GONE("qwen2.feed_forward_length"),
    GONE("qwen2.attention.head_count"),
    GONE("qwen2.attention.layer_norm_rms_epsilon"),
    GONE("tokenizer.ggml.model"),
    GONE("tokenizer.ggml.pre"),
    GONE("tokenizer.ggml.tokens"),
    GONE("tokenizer.ggml.token_type"),
    GONE("tokenizer.ggml.merges"),
    TEXT("qwen2.block_count: expected a whole number, got type string", "qwen2.block_count", "2"),
    KEY("qwen2.block_count", "qwen2.block_count", U32, 0),
    KEY("qwen2.block_count", "qwen2.block_count", U32, 1000000),
    KEY("qwen2.block_count", "qwen2.block_count", U32, UINT32_MAX),
    KEY("qwen2.block_count", "qwen2.block_count", U64, -1),
    KEY("qwen2.block_count", "qwen2.block_count", I32, UINT32_MAX),
    KEY("blk.2.attn_norm.weight: missing", "qwen2.block_count", U32, 3),
    KEY("is not supported: no tensor", "qwen2.block_count", U32, 1),
    KEY("qwen2.context_length", "qwen2.context_length", U32, 0),
    KEY("qwen2.context_length", "qwen2.context_length", U32, UINT32_MAX),
    KEY("qwen2.attention.head_count", "qwen2.attention.head_count", U32, 0),
    KEY("expected a multiple of 6 heads", "qwen2.attention.head_count", U32, 6),
    KEY("qwen2.attention.head_count_kv", "qwen2.attention.head_count_kv", U32, 0),
    KEY("qwen2.attention.head_count_kv: expected a divisor of 4", "qwen2.attention.head_count_kv",
        U32, 3),
    KEY("qwen2.attention.head_count_kv", "qwen2.attention.head_count_kv", U32, 8),
    KEY("token_embd.weight: expected 64 columns", "qwen2.embedding_length", U32, 64),
    KEY("rms_epsilon", "qwen2.attention.layer_norm_rms_epsilon", F32, 0x7fc00000),
    KEY("rms_epsilon", "qwen2.attention.layer_norm_rms_epsilon", F32, 0),
    KEY("rms_epsilon", "qwen2.attention.layer_norm_rms_epsilon", F32, 0xb58637bd),
    KEY("rms_epsilon: expected a real number", "qwen2.attention.layer_norm_rms_epsilon", U32, 1),
    KEY("qwen2.rope.freq_base", "qwen2.rope.freq_base", F32, 0x7fc00000),
    KEY("qwen2.rope.freq_base", "qwen2.rope.freq_base", F32, 0x7f800000),
    KEY("qwen2.rope.freq_base", "qwen2.rope.freq_base", F32, 0xbf800000),
    TEXT("qwen2.rope.scaling.type: linear is not supported", "qwen2.rope.scaling.type", "linear"),
    TEXT("qwen2.rope.scaling.factor: missing", "qwen2.rope.scaling.type", "yarn"),
    KEY("qwen2.rope.scaling.factor: stands without", "qwen2.rope.scaling.factor", F32, 0x40800000),
    KEY("qwen2.expert_count: is not supported", "qwen2.expert_count", U32, 60),
    KEY("qwen2.rope.dimension_count", "qwen2.rope.dimension_count", U32, 16),
    KEY("general.alignment", "general.alignment", U32, 0),
    KEY("general.alignment", "general.alignment", U32, 13),
    KEY("general.alignment", "general.alignment", U32, 4),
    KEY("general.alignment", "general.alignment", U32, 1u << 31),
    KEY("general.alignment: expected a u32, got type i32", "general.alignment", I32, 32),
    KEY("offset: expected", "general.alignment", U32, 512),
    KEY("split.count: this is part 1 of 3", "split.count", U16, 3),
    KEY("x.y: expected a value of a known type", "x.y", 98, 0),
    KEY("x.y: expected a value of a known type", "x.y", 1000000, 0),
    KEY("x.y: expected 0 or 1, got 2", "x.y", BOOL, 2),
    BLOB("array of arrays", "x.y", ARRAY, 1, "\0\0\0\0\0\0\0\0\0\0\0\0"),
    BLOB("x.y: expected at most", "x.y", U32, (uint64_t)1 << 54, ""),
    BLOB("x.y: expected at most", "x.y", STRING, (uint64_t)1 << 55, ""),
    BLOB("x.y: expected at most", "x.y", U8, (uint64_t)1 << 32, ""),
    KEY("tokenizer.ggml.tokens: expected an array of strings, got type u32",
        "tokenizer.ggml.tokens", U32, 0),
    BLOB("tokenizer.ggml.tokens: expected an array of strings, got one of u32",
         "tokenizer.ggml.tokens", U32, 1, "\0\0\0\0"),
    BLOB("tokenizer.ggml.tokens: expected 1 to 264", "tokenizer.ggml.tokens", STRING, 0, ""),
    BLOB("tokenizer.ggml.token_type: expected 1", "tokenizer.ggml.tokens", STRING, 1,
         "\1\0\0\0\0\0\0\0a"),
    BLOB("tokenizer.ggml.token_type: expected an array of i32, got one of u8",
         "tokenizer.ggml.token_type", U8, 4, "\1\1\1\1"),
    BLOB("tokenizer.ggml.token_type: expected 264", "tokenizer.ggml.token_type", I32, 1,
         "\1\0\0\0"),
    KEY("tokenizer.ggml.merges: expected an array", "tokenizer.ggml.merges", U32, 0),
    BLOB("merges: none", "tokenizer.ggml.merges", STRING, 0, ""),
    BLOB("tokenizer.ggml.merges: expected two tokens", "tokenizer.ggml.merges", STRING, 1,
         "\2\0\0\0\0\0\0\0ab"),
    BLOB("tokenizer.ggml.merges: expected two tokens", "tokenizer.ggml.merges", STRING, 1,
         "\5\0\0\0\0\0\0\0a b c"),
    BLOB("result of a merge is no token", "tokenizer.ggml.merges", STRING, 1,
         "\3\0\0\0\0\0\0\0a c"),
    TEXT("tokenizer.ggml.model: llama is not supported", "tokenizer.ggml.model", "llama"),
    TEXT("tokenizer.ggml.pre: gpt-2 is not supported", "tokenizer.ggml.pre", "gpt-2"),
    KEY("tokenizer.ggml.add_bos_token: true is not", "tokenizer.ggml.add_bos_token", BOOL, 1),
    KEY("tokenizer.ggml.eos_token_id", "tokenizer.ggml.eos_token_id", U32, 260),
    KEY("tokenizer.ggml.eos_token_id", "tokenizer.ggml.eos_token_id", U32, 1u << 31),
    KEY("tokenizer.ggml.bos_token_id", "tokenizer.ggml.bos_token_id", U32, UINT32_MAX),
    KEY("tokenizer.chat_template: expected a string", "tokenizer.chat_template", U32, 1),
    KEY("general.sampling.top_p", "general.sampling.top_p", F32, 0x40000000),
    TENSOR("token_embd.weight: missing", "token_embd.weight", DROP, 0),
    TENSOR("blk.1.ffn_up.weight: missing", "blk.1.ffn_up.weight", DROP, 0),
    TENSOR("blk.0.attn_q.bias: missing", "blk.0.attn_q.bias", DROP, 0),
    TENSOR("token_embd.weight: expected 1 or 2 dimensions", "token_embd.weight", N_DIMS, 0),
    TENSOR("token_embd.weight: expected 1 or 2 dimensions", "token_embd.weight", N_DIMS, 5),
    TENSOR("expected 1 or 2 dimensions", "blk.0.ffn_up.weight", N_DIMS, 1u << 31),
    TENSOR("blk.0.ffn_up.weight: expected dimensions", "blk.0.ffn_up.weight", COLS, 0),
    TENSOR("blk.0.ffn_up.weight: expected dimensions", "blk.0.ffn_up.weight", ROWS, -1),
    TENSOR("blk.0.ffn_up.weight: expected dimensions", "blk.0.ffn_up.weight", ROWS, INT64_MAX),
    TENSOR("offset: expected", "blk.0.ffn_up.weight", COLS, 64),
    TENSOR("type Q4_3 is not supported", "blk.0.ffn_up.weight", TYPE, 5),
    TENSOR("type IQ2_XXS is not supported", "blk.0.ffn_up.weight", TYPE, 16),
    TENSOR("type I64 is not supported", "blk.0.ffn_up.weight", TYPE, 27),
    TENSOR("type MXFP4 is not supported", "blk.0.ffn_up.weight", TYPE, 39),
    TENSOR("type 99 is unknown", "blk.0.ffn_up.weight", TYPE, 99),
    TENSOR("type 4294967295 is unknown", "blk.0.ffn_up.weight", TYPE, -1),
    TENSOR("type Q4_K: expected columns in multiples of 256, got 32", "blk.0.ffn_up.weight", TYPE,
           12),
    TENSOR("offset: expected", "blk.0.ffn_up.weight", OFFSET, 1),
    TENSOR("offset: expected", "blk.0.ffn_up.weight", OFFSET, 32),
    TENSOR("offset: expected", "blk.0.ffn_up.weight", OFFSET, -32),
    TENSOR("before, got 18446744073709551584", "token_embd.weight", OFFSET, -32),
    TENSOR("stands there twice", "output_norm.weight", TWICE, 0),
    TENSOR("rope_freqs.weight: is not supported", "rope_freqs.weight", TWICE, 0),
    TENSOR("output.weight: expected 32 columns in 264 rows", "output.weight", TWICE, 8),
    {.want = "tensor name: empty", .tensor = "output_norm.weight", .damage = NAME, .text = ""},
    {.want = "tensor name: expected a text of at most 64",
     .tensor = "output_norm.weight",
     .damage = NAME,
     .text = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"},
    {.want = "output_norm.weight: missing",
     .tensor = "output_norm.weight",
     .damage = NAME,
     .text = "output_norm\n"},
};

/* ---- Conversations for --messages -------------------------------------------------------------
 */

static const struct {
    const char *text, *want;
} message_cases[] = {
    {"", "expected a value"},
    {"{", "expected a key"},
    {"[]x", "expected nothing behind"},
    {"3", "messages: expected"},
    {"null", "messages: expected"},
    {"[]", "messages: expected"},
    {"{\"tools\": []}", "messages: expected"},
    {"{\"messages\": {}}", "messages: expected"},
    {"[3]", "messages[0]: expected"},
    {"[{}]", "messages[0].role"},
    {"[{\"role\": \"user\"}]", "messages[0].content"},
    {"[{\"content\": \"a\"}]", "messages[0].role"},
    {"[{\"role\": 3, \"content\": \"a\"}]", "messages[0].role"},
    {"[{\"role\": \"user\", \"content\": 3}]", "messages[0].content"},
    {"[{\"role\": \"user\", \"content\": [3]}]", "messages[0].content"},
    {"[{\"role\": \"user\", \"content\": [{\"type\": \"image_url\"}]}]", "messages[0].content"},
    {"[{\"role\": \"user\", \"content\": \"\xff\"}]", "no UTF-8"},
    {"[{\"role\": \"assistant\", \"content\": \"\", \"tool_calls\": 3}]", "tool_calls"},
    {"[{\"role\": \"assistant\", \"content\": \"\", \"tool_calls\": [3]}]",
     "messages[0].tool_calls: expected"},
    {"[{\"role\": \"assistant\", \"content\": \"\", \"tool_calls\": [{\"function\": {}}]}]",
     "messages[0].tool_calls: expected"},
    {"{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}], \"tools\": 3}", "tools"},
};

/* ---- Prompts: all of these are answered -------------------------------------------------------
 */

static const struct {
    const char *what, *text; /* the text, `times` times */
    size_t n, times;
} prompt_cases[] = {
    {"one blank", " ", 1, 1},
    {"43,000 letters", "A", 1, 43000},
    {"a million letters", "A", 1, 1000000},
    {"a million newlines", "\n", 1, 1000000},
    {"a million blanks", " ", 1, 1000000},
    {"tabs and CR LF", "\t\r\n", 3, 300000},
    {"digits", "1234567890", 10, 100000},
    {"an emoji with joiners", "\xf0\x9f\x91\xa9\xe2\x80\x8d", 7, 150000},
    {"a million combining marks", "\xcc\x81", 2, 500000},
    {"Korean letters that NFC joins", "\xe1\x84\x80\xe1\x85\xa1\xe1\x86\xa8", 9, 100000},
    {"right to left", "\xe2\x80\xae\xd7\x90", 5, 1000},
    {"NUL bytes", "\0", 1, 5000},
    {"overlong sequences", "\xc0\x80\xe0\x80\x80", 5, 5000},
    {"surrogates", "\xed\xa0\x80\xed\xbf\xbf", 6, 5000},
    {"beyond Unicode", "\xf4\x90\x80\x80\xff\xfe", 6, 5000},
    {"a sequence that breaks off", "a\xf0\x9f\x98", 4, 1},
    {"non-characters", "\xef\xbf\xbf", 3, 5000},
    {"special tokens", "<|im_end|><|endoftext|><tool_call>", 34, 5000},
    {"half a special token", "<|im_start", 10, 1},
    {"quotes and escapes", "\"\\\033[2J'", 7, 5000},
};

/* ---- Command lines ----------------------------------------------------------------------------
 */

/* Words between single blanks; @S: the folder of the good files; '' is an empty word. */
static const struct {
    int status;
    const char *line, *want;
} command_cases[] = {
    /* Files that are none */
    {1, "qwen @S/none.bin -p a", "none.bin: cannot open"},
    {1, "qwen @S/hf -p a", "hf: not a regular file"},
    {1, "qwen @S/fifo -p a", "fifo: not a regular file"},
    {1, "qwen @S/socket -p a", "socket: "},
    {1, "qwen @S/loop -p a", "loop: cannot open: Too many levels"},
    {1, "qwen @S/empty -p a", "empty: empty"},
    {1, "qwen @S/zeros -p a", "zeros: magic: "},
    {1, "qwen /dev/zero -p a", "/dev/zero: not a regular file"},
    {1, "qwen /dev/full -p a", "/dev/full: not a regular file"},
    {1, "qwen /dev/null -p a", "/dev/null: not a regular file"},
    {1, "qwen @S/hf/model.safetensors -p a", "magic: expected a model.bin"},
    {1, "qwen @S/good.gguf -p a", "magic: expected a model.bin made by convert, got a GGUF file"},
    {1, "qwen @S/hf/config.json -p a", "config.json: magic: "},
    {1, "qwen @S/odd\nname\033[2J -p a", "odd\\x0aname\\x1b[2J: cannot open"},
    {1, "qwen @L -p a", "cannot open: File name too long"},
    {1, "convert @S/none -o x.bin", "none: cannot open"},
    {1, "convert @S/fifo -o x.bin", "fifo: not a regular file"},
    {1, "convert @S/loop -o x.bin", "loop: cannot open: Too many levels"},
    {1, "convert @S/empty -o x.bin", "empty: empty"},
    {1, "convert /dev/zero -o x.bin", "/dev/zero: not a regular file"},
    {1, "convert @S/good.bin -o x.bin", "a model.bin, already converted"},
    {1, "convert @S/hf/adapter -o x.bin", "config.json: cannot open"},
    {1, "convert @S/hf/config.json -o x.bin", "config.json: expected a Hugging Face folder"},
    {1, "convert @S/bare -o x.bin", "bare/config.json: cannot open"},
    {1, "convert @S/pickle -o x.bin",
     "model.safetensors: missing: there is only pytorch_model.bin"},
    {1, "convert @S/deaf -o x.bin", "tokenizer.json: missing, and there is no vocab.json"},
    {1, "convert @S/light -o x.bin", "model.safetensors: missing, and there is no model.safe"},
    {1, "convert @L -o x.bin", "path: too long"},
    {1, "convert --info @S/none", "none: cannot open"},
    {1, "convert --info @S/empty", "empty: empty"},
    {1, "convert --info @S/fifo", "fifo: not a regular file"},
    {1, "convert --info @S/zeros", "zeros: "},
    /* Where to write */
    {1, "convert @S/hf -o @S/bare", "bare: is a folder"},
    {1, "convert @S/hf -o @S/none/x.bin", "none/x.bin: cannot write here"},
    {1, "convert @S/hf -o /dev/full", "/dev/full: exists and is not a regular file"},
    {1, "convert @S/hf -o @S/fifo", "fifo: exists and is not a regular file"},
    {1, "convert @S/hf -o @S/hf/config.json", "config.json: exists and is no model.bin"},
    {1, "convert @S/hf -o @S/loop", "loop: cannot write here"},
    {1, "convert @S/hf -o x.bin/", "x.bin/: "},
    {1, "convert @S/hf -o @L", "File name too long"},
    {1, "convert @S/hf -o x.bin --lora @S/none", "none/adapter_config.json: cannot open"},
    {1, "convert @S/hf -o x.bin --lora @S/bare", "bare/adapter_config.json: cannot open"},
    {1, "convert @S/good.gguf -o x.bin --lora @S/hf/adapter",
     "shape: the configuration implies 4 x 32"},
    /* Options of convert */
    {2, "convert", "expected a source"},
    {2, "convert ''", "expected a source"},
    {2, "convert @S/hf", "--output: missing"},
    {2, "convert @S/hf -o", "--output: expected FILE"},
    {2, "convert @S/hf -o ''", "--output: expected FILE, got nothing"},
    {2, "convert @S/hf @S/hf -o x.bin", "expected one source"},
    {2, "convert @S/hf -o x.bin --quants q8", "--quants: unknown option"},
    {2, "convert @S/hf -o x.bin --quant=q8", "--quant=q8: unknown option"},
    {2, "convert @S/hf -o x.bin --quant q8 --quant q8", "--quant: given twice"},
    {2, "convert @S/hf -o x.bin --quant q4", "--quant: expected q8, q5"},
    {2, "convert @S/hf -o x.bin --quant Q8", "--quant: expected q8, q5"},
    {2, "convert @S/hf -o x.bin --quant q8_0", "--quant: expected q8, q5"},
    {2, "convert @S/hf -o x.bin --quant ''", "--quant: expected TYPE"},
    {2, "convert @S/hf -o x.bin -t 0", "--threads: expected a whole number from 1 to 64"},
    {2, "convert @S/hf -o x.bin -t 65", "--threads: expected"},
    {2, "convert @S/hf -o x.bin -t -1", "--threads: expected"},
    {2, "convert @S/hf -o x.bin -t 2x", "--threads: expected"},
    {2, "convert @S/hf -o x.bin -t 1e1", "--threads: expected"},
    {2, "convert @S/hf -o x.bin -t 99999999999999999999", "--threads: expected"},
    {2, "convert @S/hf -o x.bin --seed 1", "--seed: expected --random"},
    {2, "convert @S/hf -o x.bin --name @L", "--name: expected at most 127 bytes"},
    {2, "convert @S/hf -o x.bin --random 0.5b", "--random: expected no source"},
    {2, "convert --random 0.6b -o x.bin", "expected 0.5b"},
    {2, "convert --random 0.5b -o x.bin --seed -1", "--seed: expected"},
    {2, "convert --random 0.5b -o x.bin --seed 1.5", "--seed: expected"},
    {2, "convert --random 0.5b -o x.bin --seed 9223372036854775808", "--seed: expected"},
    {2, "convert --random 0.5b -o x.bin --lora @S/hf/adapter", "--random: expected no --lora"},
    {2, "convert --info @S/hf @S/hf", "--info: expected nothing beside"},
    /* Options of qwen; test_cli.sh tries every option with every kind of wrong value */
    {2, "qwen", "expected a model"},
    {2, "qwen ''", "expected a model"},
    {2, "qwen @S/good.bin @S/good.bin -p a", "a second model"},
    {2, "qwen @S/good.bin -p ''", "prompt: is empty"},
    {2, "qwen @S/good.bin -f @S/empty", "prompt: is empty"},
    {1, "qwen @S/good.bin -f @S/none", "none: cannot open"},
    {1, "qwen @S/good.bin -f @S/hf", "hf: cannot read: Is a directory"},
    {1, "qwen @S/good.bin -f @S/large", "large: too large, expected at most 16777216"},
    {1, "qwen @S/good.bin --messages @S/none", "none: cannot open"},
    {1, "qwen @S/good.bin --messages @S/hf", "hf: cannot read: Is a directory"},
    {2, "qwen @S/good.bin -p a -f @S/empty", "expected one of --prompt, --file"},
    {1, "qwen @S/good.bin --prompts @S/none", "none: cannot open"},
    {1, "qwen @S/good.bin --prompts @S/hf", "hf: cannot read: Is a directory"},
    {2, "qwen @S/good.bin -p a --prompts @S/empty", "expected one of"},
    {1, "qwen @S/good.bin -p a --cache @S/hf/config.json", "config.json: magic: "},
    {1, "qwen @S/good.bin -p a --cache @S/hf", "hf: not a regular file"},
    {1, "qwen @S/good.bin -p a --cache @S/fifo", "fifo: not a regular file"},
    {2, "qwen @S/good.bin -p a --temp nan", "--temp: expected a number"},
    {2, "qwen @S/good.bin -p a --temp 1x", "--temp: expected a number"},
    {2, "qwen @S/good.bin -p a --temp 0x1p3", "--temp: expected a number"},
    {2, "qwen @S/good.bin -p a --top-p 1.0001", "--top-p: expected a number"},
    {2, "qwen @S/good.bin -p a -n 2junk", "-n: expected a whole number"},
    {2, "qwen @S/good.bin -p a -n 9223372036854775808", "-n: expected a whole number"},
    {2, "qwen @S/good.bin -p a -c 0", "-c: expected a whole number"},
    {2, "qwen @S/good.bin -p a -c 2000000000", "-c: expected a whole number"},
    {1, "qwen @S/good.bin -p a -c 1000000", "context: this model knows 4096"},
    {1, "qwen @S/good.bin -p a -c 8", "prompt: 42 tokens do not fit"},
    {2, "qwen @S/good.bin -p a -t 0", "-t: expected a whole number"},
    {2, "qwen @S/good.bin -p a --seed 99999999999999999999", "--seed: expected"},
    {2, "qwen @S/good.bin -p a --stop ''", "--stop: is empty"},
    {2, "qwen @S/good.bin --raw --raw -p a", "--raw: given twice"},
    {2, "qwen @S/good.bin --\xff -p a", "no such option"},
    {2, "qwen @S/good.bin --bench tg1,", "--bench"},
    {2, "qwen @S/good.bin --bench pp99999999999999999999", "--bench"},
    {1, "qwen @S/good.bin --perplexity @S/empty", "text: expected at least 2 tokens"},
};

#endif
