/* fuzz_template.c: chat templates: what they render, and which family they belong to. */
#include "../convert/convert.h"
#include "fuzz.h"
#include "good_folder.h"

static const char context[] =
    "{\"messages\": [{\"role\": \"system\", \"content\": \"a\"}, {\"role\": \"assistant\", "
    "\"tool_calls\": [{\"function\": {\"name\": \"f\", \"arguments\": {\"x\": 1}}}]}, "
    "{\"role\": \"tool\", \"content\": \" b\\n\"}], \"tools\": [{\"name\": \"f\"}], \"n\": 3, "
    "\"add_generation_prompt\": true}";

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    static Tokenizer *t;
    static JsonDoc *doc;
    Error e = {{0}}, why = {{0}};
    char system[417];
    ChatTemplate found;
    Buffer out = {0};
    if (!t) t = good_tokenizer();
    if (!doc) doc = json_parse(context, sizeof context - 1, "context", &e);
    if (!doc) abort();
    if (!jinja_render((const char *)data, n, "fuzz", json_root(doc), &out, &why, &e)) abort();
    buffer_free(&out);
    if (!template_detect((const char *)data, n, t, &found, system, sizeof system, "fuzz", &why,
                         &e))
        abort();
    if (found.family == CHAT_NONE) fuzz_error(&why);
    return 0;
}
