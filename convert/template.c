/* template.c: which family of chat.h a chat template belongs to: the one that renders as it does. A
 * few conversations are rendered by both, and the texts must be the same, byte for byte. So what a
 * template is made of does not matter, and none is taken for ours that prints a word more. */
#include "convert.h"

#define ROLE(role, content) "{\"role\": \"" role "\", \"content\": \"" content "\"}"
#define SYSTEM ROLE("system", " Be brief.\\n\\n")
#define USER ROLE("user", "Hello")
#define TURNS ROLE("user", " \\\"a\\\" \\n'b' ") ", " ROLE("assistant", "\\n<c> d\\n") ", " USER
#define CALL "{\"type\": \"function\", \"function\": {\"name\": \"f\", \"arguments\": {\"x\": 1}}}"
#define CALLS(content, calls) \
    "{\"role\": \"assistant\", \"content\": \"" content "\", \"tool_calls\": [" calls "]}"
#define TOOL(name) \
    "{\"type\": \"function\", \"function\": {\"name\": \"" name "\", \"description\": " \
    "\"It's \xc3\xa4.\", \"parameters\": {\"type\": \"object\", \"properties\": {\"x\": " \
    "{\"type\": \"number\"}}}}}"
#define ASK(tools, messages) \
    "{\"messages\": [" messages "], \"tools\": " tools ", \"documents\": null, " \
    "\"add_generation_prompt\": true}"
#define NO_TOOLS "null"
#define TOOLS "[" TOOL("f") ", " TOOL("g") "]"

static const char first[] = ASK(NO_TOOLS, USER);
static const char *const talks[] = {
    first,
    ASK(NO_TOOLS, SYSTEM ", " USER),
    ASK(NO_TOOLS, TURNS),
    ASK(NO_TOOLS, SYSTEM ", " TURNS),
    /* the end of a chat that goes on */
    "{\"messages\": [" USER ", " ROLE("assistant", "Hi.") "], \"tools\": null, "
    "\"documents\": null, \"add_generation_prompt\": false}",
};
static const char *const tool_talks[] = {
    ASK(TOOLS, USER),
    ASK(TOOLS, SYSTEM ", " USER ", " CALLS("", CALL) ", " ROLE("tool", "1")),
    ASK(TOOLS, USER ", " CALLS("Wait.", CALL ", " CALL) ", " ROLE("tool", "1") ", "
        ROLE("tool", " 2\\n") ", " ROLE("assistant", "Done.") ", " USER),
};
#define N(array) (sizeof(array) / sizeof *(array))

typedef struct {
    const char *text; /* (n) */
    size_t n;
    const Tokenizer *tok;
    const char *file;
    Error *why; /* what is different, or cannot be read */
} Template;

/* Where two texts begin to differ: some of both. */
static void differ(const Template *t, const Buffer *want, const Buffer *got) {
    size_t same = 0;
    char expected[100], found[100];
    while (same < want->n && same < got->n && want->data[same] == got->data[same]) same++;
    same -= min_size(same, 12);
    printable(expected, sizeof expected, want->data + same, min_size(want->n - same, 24));
    printable(found, sizeof found, got->data + same, min_size(got->n - same, 24));
    fail(t->why, t->file, "chat_template",
         "unknown template, expected one that renders as Qwen's (ChatML), \"%s\", got \"%s\"",
         expected, found);
}

/* Does the template render this conversation as the family does? False when memory is short. */
static bool compare(const Template *t, const ChatTemplate *as, const char *talk, bool *same,
                    Error *e) {
    JsonDoc *doc = json_parse(talk, strlen(talk), t->file, e);
    if (!doc) return false;
    const Json *root = json_root(doc), *tools = json_get(root, "tools");
    const Json *ask = json_get(root, "add_generation_prompt");
    Buffer got = {0};
    ChatPrompt want = {0};
    bool ok = buffer_puts(&got, "", e) &&
              jinja_render(t->text, t->n, t->file, root, &got, t->why, e) &&
              chat_render(as, t->tok, json_get(root, "messages"),
                          tools->kind == JSON_ARRAY ? tools : NULL, ask->boolean, false, t->file,
                          &want, e);
    bool rendered = ok && !t->why->text[0];
    *same = rendered && got.n == want.text.n && memcmp(got.data, want.text.data, got.n) == 0;
    if (rendered && !*same) differ(t, &want.text, &got);
    buffer_free(&got);
    chat_prompt_free(&want);
    json_free(doc);
    return ok;
}

/* Does it render all of them so? */
static bool compare_all(const Template *t, const ChatTemplate *as, const char *const *list,
                        size_t n, bool *same, Error *e) {
    *same = true;
    for (size_t i = 0; *same && i < n; i++)
        if (!compare(t, as, list[i], same, e)) return false;
    return true;
}

/* The default system message: what stands before the one question, if that begins as one. */
static bool find_system(const Buffer *text, const char **system, size_t *n) {
    static const char begin[] = "<|im_start|>system\n", end[] = "<|im_end|>\n<|im_start|>user\n";
    size_t b = sizeof begin - 1;
    if (!begins_with(text->data, text->n, begin)) return false;
    const char *stop = memmem(text->data + b, text->n - b, end, sizeof end - 1);
    *system = text->data + b;
    *n = stop ? (size_t)(stop - *system) : 0;
    return stop != NULL;
}

/* *fits: it can be kept; system, room: where. False when memory is short. */
static bool default_system(const Template *t, ChatTemplate *out, char *system, size_t room,
                           bool *fits, Error *e) {
    JsonDoc *doc = json_parse(first, sizeof first - 1, t->file, e);
    if (!doc) return false;
    Buffer text = {0};
    const char *found = "";
    size_t n = 0;
    bool ok = jinja_render(t->text, t->n, t->file, json_root(doc), &text, t->why, e);
    out->has_default_system = ok && find_system(&text, &found, &n);
    *fits = n < room && !memchr(found, 0, n);
    if (!*fits)
        fail(t->why, t->file, "chat_template",
             "unusable default system message, expected at most %zu bytes without a NUL", room - 1);
    out->default_system_len = *fits ? n : 0;
    memcpy(system, found, out->default_system_len);
    system[out->default_system_len] = 0;
    buffer_free(&text);
    json_free(doc);
    return ok;
}

/* Of the families with this default. The last one that was tried does not say why. */
static bool find_family(const Template *t, ChatTemplate *out, Error *e) {
    Error other;
    const Template quiet = {t->text, t->n, t->tok, t->file, &other};
    bool same;
    out->family = CHAT_QWEN2;
    if (!compare_all(t, out, talks, N(talks), &same, e)) return false;
    if (same) {
        out->family = CHAT_QWEN25;
        if (!compare_all(&quiet, out, tool_talks, N(tool_talks), &same, e)) return false;
        if (!same) out->family = CHAT_QWEN2;
        return true;
    }
    out->family = CHAT_QWEN15_EARLY;
    if (!compare_all(&quiet, out, talks, N(talks), &same, e)) return false;
    if (!same) out->family = CHAT_NONE;
    return true;
}

bool template_detect(const char *text, size_t n, const Tokenizer *tok, ChatTemplate *out,
                     char *system, size_t room, const char *file, Error *why, Error *e) {
    *out = (ChatTemplate){.default_system = system};
    system[0] = 0;
    if (tokenizer_find(tok, "<|im_start|>") < 0 || tokenizer_find(tok, "<|im_end|>") < 0) {
        fail(why, file, "chat_template", "the tokenizer has no <|im_start|> and <|im_end|>");
        return true;
    }
    const Template t = {text, n, tok, file, why};
    bool fits;
    return default_system(&t, out, system, room, &fits, e) && (!fits || find_family(&t, out, e));
}
