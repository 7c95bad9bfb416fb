/* fuzz_messages.c: conversations as JSON, rendered by every family. No special token may come out
 * of what a message says. */
#include "../chat.h"
#include "fuzz.h"
#include "good_folder.h"

static void render(const Tokenizer *t, const Json *root, ChatFamily family) {
    const ChatTemplate template = {family, "You are fuzzed.", 15, true};
    const Json *tools = json_get(root, "tools");
    ChatPrompt prompt = {0};
    Error e = {{0}};
    const Json *messages = root->kind == JSON_OBJECT ? json_get(root, "messages") : root;
    if (!messages) return;
    if (!chat_render(&template, t, messages, tools, true, false, "fuzz", &prompt, &e)) {
        fuzz_error(&e);
    } else {
        size_t total = 0;
        for (size_t i = 0; i < prompt.ids.n; i++) {
            size_t n;
            if (!tokenizer_bytes(t, prompt.ids.ids[i], &n)) abort();
            total += n;
        }
        if (total == 0 && prompt.text.n > 0) abort();
    }
    chat_prompt_free(&prompt);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    static Tokenizer *t;
    Error e = {{0}};
    if (!t) t = good_tokenizer();
    JsonDoc *doc = json_parse((const char *)data, n, "fuzz", &e);
    if (!doc) return fuzz_error(&e), 0;
    for (ChatFamily f = CHAT_NONE; f <= CHAT_QWEN15_EARLY; f++) render(t, json_root(doc), f);
    json_free(doc);
    return 0;
}
