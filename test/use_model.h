/* use_model.h: is a model that opened usable? It is tokenized with, evaluated and sampled from. For
 * programs that include qwen.c with QWEN_NO_MAIN. */
#ifndef USE_MODEL_H
#define USE_MODEL_H

#include "test.h"

/* Tokenize, and look at every token's text. */
static bool use_tokenizer(const Model *m, Ids *ids) {
    static const char text[] = "Hello <|im_start|>user \xc3\xa9\xf0\x9f\x98\x80\xff\0 1234";
    Error e;
    size_t total = 0;
    for (int i = -1; i <= tokenizer_n_tokens(m->tokenizer); i++) {
        size_t n = 0;
        const char *bytes = tokenizer_bytes(m->tokenizer, i, &n);
        for (size_t k = 0; bytes && k < n; k++) total += (unsigned char)bytes[k];
        total += tokenizer_is_special(m->tokenizer, i) + tokenizer_is_added(m->tokenizer, i);
    }
    return total > 0 && tokenizer_encode(m->tokenizer, text, sizeof text - 1, true, ids, &e);
}

/* Feed a few of the ids, sample. */
static bool use_engine(const Model *m, const Ids *ids, Error *e) {
    Engine engine;
    Session s;
    Sampler sampler = {.count = NULL};
    EngineOptions o = {.threads = 1, .ctx = 32, .n_seq = 1, .chunk = 8};
    const ModelDefaults *d = m->defaults;
    SamplerOptions so = {.temperature = (double)d->temperature,
                         .top_k = d->top_k,
                         .top_p = (double)d->top_p,
                         .repeat_last_n = -1,
                         .seed = 1,
                         .repeat_penalty = (double)d->repetition_penalty};
    if (!engine_open(&engine, m, &o, e)) return false;
    bool ok = session_open(&s, &engine, e) &&
              sampler_open(&sampler, &so, engine.kernels, m->config->vocab_size, e);
    if (ok && session_feed(&s, GIVEN, ids->ids, min_size(ids->n, 12), NULL, e) == FED) {
        int32_t id = sample(&sampler, s.logits, s.ids.ids, s.ids.n, 3);
        ok = id >= 0 && (uint32_t)id < m->config->vocab_size;
    }
    sampler_close(&sampler);
    session_close(&s);
    engine_close(&engine);
    return ok;
}

/* All of it. A prompt is put together too, where the model has a template. */
static bool use_model(const Model *m, Error *e) {
    Ids ids = {0};
    ChatPrompt prompt = {0};
    bool ok = use_tokenizer(m, &ids) && use_engine(m, &ids, e);
    if (m->chat.family != CHAT_NONE)
        (void)chat_turn(&m->chat, m->tokenizer, "user", "hi", 2, false, &prompt, e);
    chat_prompt_free(&prompt);
    ids_free(&ids);
    return ok;
}

#endif
