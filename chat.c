/* chat.c: conversations -> token ids, as chat.h declares it.
 *
 * A Writer appends scaffold (our own text, whose special tokens become ids) and plain text (what a
 * message says) to a ChatPrompt. Everything between two special tokens of the scaffold is encoded
 * in one go when the second one arrives.
 *
 * The templates are written out in C, in the form that the official Hugging Face repositories carry
 * them. Some GGUF files of Qwen2.5 carry the same template with doubled braces around the example
 * in the tools section, {{"name": ...}}. They too are rendered in the official form: one model says
 * one thing, whatever file it came from.
 *
 * Templates print values as Python does: json.dumps for tools and arguments, str() where a value
 * that is no string is printed. Both are here, byte for byte. */
#include "chat.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- Python's text of a value ---------------------------------------------------------------- */

typedef enum {
    PYTHON_JSON, /* json.dumps(ensure_ascii=False) */
    PYTHON_REPR  /* str() of a list or dict */
} PythonStyle;

/* The shortest decimal digits that read back as x > 0, finite: x = 0.DIGITS * 10^point, the digits
 * without zeros at the end. At each length the nearest decimal is tried first, then the one above:
 * over a power of two the gap to the next double is wider than below, and a shorter decimal may fit
 * only there. */
static void shortest_digits(double x, char digits[24], int *point) {
    for (int n = 1;; n++) { /* 17 digits always do */
        char text[40];
        snprintf(text, sizeof text, "%.*e", n - 1, x);
        uint64_t mantissa = (uint64_t)(text[0] - '0');
        char *p = text + (n > 1 ? 2 : 1);
        for (; *p != 'e'; p++) mantissa = mantissa * 10 + (uint64_t)(*p - '0');
        long exponent = strtol(p + 1, NULL, 10) - (n - 1);
        for (uint64_t m = mantissa; m <= mantissa + 1; m++) {
            snprintf(text, sizeof text, "%llue%ld", (unsigned long long)m, exponent);
            if (strtod(text, NULL) != x) continue;
            int length = snprintf(digits, 24, "%llu", (unsigned long long)m);
            *point = length + (int)exponent;
            while (digits[length - 1] == '0') digits[--length] = 0; /* the first is none */
            return;
        }
    }
}

/* repr(float): exponents below -4 and from 16 on are written as such. */
static bool put_float(Buffer *out, double x, Error *e) {
    char digits[24] = "0";
    int point = 1;
    if (x != 0) shortest_digits(fabs(x), digits, &point);
    int n = (int)strlen(digits);
    if (signbit(x) && !buffer_puts(out, "-", e)) return false;
    if (point > 16 || point < -3)
        return buffer_printf(out, e, "%c%s%se%+03d", digits[0], n > 1 ? "." : "", digits + 1,
                             point - 1);
    if (point <= 0) return buffer_printf(out, e, "0.%.*s%s", -point, "000", digits);
    if (point >= n) return buffer_printf(out, e, "%s%.*s.0", digits, point - n, "0000000000000000");
    return buffer_printf(out, e, "%.*s.%s", point, digits, digits + point);
}

static bool put_number(Buffer *out, const Json *v, Error *e) {
    bool integer = true;
    for (size_t i = 0; i < v->source_len; i++)
        if (strchr(".eE", v->source[i])) integer = false;
    if (!integer) return put_float(out, v->number, e);
    if (v->number == 0) return buffer_puts(out, "0", e); /* -0 is the integer 0 */
    return buffer_add(out, v->source, v->source_len, e); /* of any length, as in Python */
}

/* Does repr() show the character as it is? Spaces other than ' ', controls, format characters and
 * private use are escaped. (What Unicode has not assigned yet depends on the version of Python.) */
static bool python_printable(int32_t cp) {
    static const int32_t hidden[][2] = {
        {0, 0x1f}, {0x7f, 0xa0}, {0xad, 0xad}, {0x600, 0x605}, {0x61c, 0x61c}, {0x6dd, 0x6dd},
        {0x70f, 0x70f}, {0x890, 0x891}, {0x8e2, 0x8e2}, {0x1680, 0x1680}, {0x180e, 0x180e},
        {0x2000, 0x200f}, {0x2028, 0x202f}, {0x205f, 0x206f}, {0x3000, 0x3000}, {0xd800, 0xf8ff},
        {0xfeff, 0xfeff}, {0xfff0, 0xfffb}, {0xfffe, 0xffff}, {0x110bd, 0x110bd},
        {0x110cd, 0x110cd}, {0x13430, 0x1343f}, {0x1bca0, 0x1bca3}, {0x1d173, 0x1d17a},
        {0xe0000, 0xe00ff}, {0xe01f0, 0x10ffff}};
    for (size_t i = 0; i < sizeof hidden / sizeof *hidden; i++)
        if (cp >= hidden[i][0] && cp <= hidden[i][1]) return false;
    return true;
}

static bool put_repr_char(Buffer *out, const char *s, size_t n, int32_t cp, char quote, Error *e) {
    if (cp == '\n') return buffer_puts(out, "\\n", e);
    if (cp == '\r') return buffer_puts(out, "\\r", e);
    if (cp == '\t') return buffer_puts(out, "\\t", e);
    if (cp == quote || cp == '\\') return buffer_printf(out, e, "\\%c", (char)cp);
    if (python_printable(cp)) return buffer_add(out, s, n, e);
    if (cp < 0x100) return buffer_printf(out, e, "\\x%02x", (unsigned)cp);
    return buffer_printf(out, e, cp < 0x10000 ? "\\u%04x" : "\\U%08x", (unsigned)cp);
}

static bool put_repr_string(Buffer *out, const char *s, size_t n, Error *e) {
    char quote = memchr(s, '\'', n) && !memchr(s, '"', n) ? '"' : '\'';
    bool ok = buffer_add(out, &quote, 1, e);
    for (size_t i = 0; ok && i < n;) {
        int32_t cp;
        size_t length = (size_t)utf8_decode(s + i, n - i, &cp); /* the parser let only UTF-8 in */
        ok = put_repr_char(out, s + i, length, cp, quote, e);
        i += length;
    }
    return ok && buffer_add(out, &quote, 1, e);
}

static bool put_string(Buffer *out, PythonStyle style, const char *s, size_t n, Error *e) {
    return style == PYTHON_REPR ? put_repr_string(out, s, n, e) : json_quote(out, s, n, e);
}

/* A scalar, or the opening bracket of an array or object. */
static bool put_start(Buffer *out, PythonStyle style, const Json *v, Error *e) {
    bool repr = style == PYTHON_REPR;
    switch (v->kind) {
    case JSON_NULL: return buffer_puts(out, repr ? "None" : "null", e);
    case JSON_BOOL:
        if (v->boolean) return buffer_puts(out, repr ? "True" : "true", e);
        return buffer_puts(out, repr ? "False" : "false", e);
    case JSON_NUMBER: return put_number(out, v, e);
    case JSON_STRING: return put_string(out, style, v->string, v->string_len, e);
    case JSON_ARRAY: return buffer_puts(out, "[", e);
    default: return buffer_puts(out, "{", e); /* JSON_OBJECT */
    }
}

static bool put_end(Buffer *out, const Json *v, Error *e) {
    return buffer_puts(out, v->kind == JSON_ARRAY ? "]" : "}", e);
}

/* The whole tree under v, without recursion: open[] holds the way down to it. */
static bool put_value(Buffer *out, PythonStyle style, const Json *v, Error *e) {
    const Json *open[JSON_MAX_DEPTH];
    size_t depth = 0;
    for (;;) {
        bool is_member = depth > 0 && open[depth - 1]->kind == JSON_OBJECT;
        if (is_member && (!put_string(out, style, v->key, v->key_len, e) ||
                          !buffer_puts(out, ": ", e)))
            return false;
        if (!put_start(out, style, v, e)) return false;
        if (v->child) {
            open[depth++] = v;
            v = v->child;
            continue;
        }
        bool container = v->kind == JSON_ARRAY || v->kind == JSON_OBJECT;
        if (container && !put_end(out, v, e)) return false;
        while (depth > 0 && !v->next) {
            v = open[--depth];
            if (!put_end(out, v, e)) return false;
        }
        if (depth == 0) return true;
        if (!buffer_puts(out, ", ", e)) return false;
        v = v->next;
    }
}

/* ---- writing --------------------------------------------------------------------------------- */

typedef struct {
    const ChatTemplate *tpl;
    const Tokenizer *tok;
    bool parse_special;
    const char *file;
    ChatPrompt *out;
    size_t segment; /* where in out->text the part begins that has no ids yet */
    Error *e;
} Writer;

static bool flush(Writer *w) {
    size_t start = w->segment;
    w->segment = w->out->text.n;
    if (start == w->segment) return true;
    return tokenizer_encode(w->tok, w->out->text.data + start, w->segment - start,
                            w->parse_special, &w->out->ids, w->e);
}

static bool put_text(Writer *w, const char *text, size_t n) {
    return buffer_add(&w->out->text, text, n, w->e);
}

/* Our own text: the special tokens in it are inserted by id, as far as the tokenizer has them. */
static bool put_scaffold(Writer *w, const char *text) {
    static const char *specials[] = {"<|im_start|>",   "<|im_end|>",      "<tool_call>",
                                     "</tool_call>",   "<tool_response>", "</tool_response>"};
    while (*text) {
        size_t plain = strcspn(text + 1, "<") + 1, length = 0;
        int id = -1;
        for (size_t i = 0; i < sizeof specials / sizeof *specials && id < 0; i++) {
            length = strlen(specials[i]);
            if (strncmp(text, specials[i], length) == 0) id = tokenizer_find(w->tok, specials[i]);
        }
        if (id < 0) {
            if (!put_text(w, text, plain)) return false;
            text += plain;
            continue;
        }
        if (!flush(w) || !put_text(w, text, length) || !ids_add(&w->out->ids, id, w->e))
            return false;
        w->segment = w->out->text.n;
        text += length;
    }
    return true;
}

/* <|im_start|>ROLE and a line end */
static bool put_start_of_turn(Writer *w, const char *role, size_t n) {
    return put_scaffold(w, "<|im_start|>") && put_text(w, role, n) && put_scaffold(w, "\n");
}

static bool writer_ready(const Writer *w) {
    if (w->tpl->family == CHAT_NONE)
        return fail(w->e, w->file, NULL, "this model has no chat template, expected a raw prompt");
    if (tokenizer_find(w->tok, "<|im_start|>") < 0 || tokenizer_find(w->tok, "<|im_end|>") < 0)
        return fail(w->e, w->file, NULL,
                    "the model's tokenizer lacks <|im_start|> or <|im_end|>, which its chat "
                    "template needs");
    return true;
}

/* ---- messages -------------------------------------------------------------------------------- */

static const char *kind_name(const Json *v) {
    static const char *names[] = {"null", "a boolean", "a number", "a string", "an array",
                                  "an object"};
    return v ? names[v->kind] : "nothing";
}

/* "messages[INDEX]FIELD: expected WHAT, got ..." */
static bool message_error(const Writer *w, size_t index, const char *field, const char *what,
                          const Json *got) {
    char where[96];
    snprintf(where, sizeof where, "messages[%zu]%s", index, field);
    return fail(w->e, w->file, where, "expected %s, got %s", what, kind_name(got));
}

static bool is_role(const Json *message, const char *role) {
    return json_is(json_get(message, "role"), role);
}

/* Python's truth: null, false, 0, "" and empty containers are false. */
static bool is_true(const Json *v) {
    if (!v) return false;
    switch (v->kind) {
    case JSON_NULL: return false;
    case JSON_BOOL: return v->boolean;
    case JSON_NUMBER: return v->number != 0;
    case JSON_STRING: return v->string_len > 0;
    default: return v->n > 0;
    }
}

/* Content in parts, as OpenAI's API sends it: [{"type": "text", "text": ...}, ...]. The official
 * template knows no such thing and refuses it. */
static bool is_parts(const Json *content) {
    if (!content || content->kind != JSON_ARRAY) return false;
    for (const Json *part = content->child; part; part = part->next) {
        const Json *type = json_get(part, "type");
        if (!type || type->kind != JSON_STRING) return false;
    }
    return content->n > 0;
}

/* The parts' texts, one behind the other. Images and the like are refused by name. */
static bool put_parts(Writer *w, const Json *content, size_t index) {
    size_t i = 0;
    for (const Json *part = content->child; part; part = part->next, i++) {
        const Json *type = json_get(part, "type"), *text = json_get(part, "text");
        char where[64], shown[80];
        if (!json_is(type, "text")) {
            snprintf(where, sizeof where, "messages[%zu].content[%zu]", index, i);
            printable(shown, sizeof shown, type->string, type->string_len);
            return fail(w->e, w->file, where, "expected type \"text\", got \"%s\"", shown);
        }
        snprintf(where, sizeof where, ".content[%zu].text", i);
        if (!text || text->kind != JSON_STRING)
            return message_error(w, index, where, "a string", text);
        if (!put_text(w, text->string, text->string_len)) return false;
    }
    return true;
}

/* {{ value }}: a missing one prints as nothing, a string as it is, all else as Python's str(). */
static bool put_printed(Writer *w, const Json *v) {
    if (!v) return true;
    if (v->kind == JSON_STRING) return put_text(w, v->string, v->string_len);
    return put_value(&w->out->text, PYTHON_REPR, v, w->e);
}

/* Content that the template prints. */
static bool put_printed_content(Writer *w, const Json *message, size_t index) {
    const Json *content = json_get(message, "content");
    return is_parts(content) ? put_parts(w, content, index) : put_printed(w, content);
}

/* Content that the template joins to a string: anything else but parts is an error there too. */
static bool put_content(Writer *w, const Json *message, size_t index) {
    const Json *content = json_get(message, "content");
    if (is_parts(content)) return put_parts(w, content, index);
    if (!content || content->kind != JSON_STRING)
        return message_error(w, index, ".content", "a string", content);
    return put_text(w, content->string, content->string_len);
}

/* <|im_start|>ROLE\nCONTENT */
static bool put_open_message(Writer *w, const Json *message, size_t index) {
    const Json *role = json_get(message, "role");
    return put_start_of_turn(w, role->string, role->string_len) && put_content(w, message, index);
}

static bool put_message(Writer *w, const Json *message, size_t index) {
    return put_open_message(w, message, index) && put_scaffold(w, "<|im_end|>\n");
}

static bool put_default_system(Writer *w) {
    const ChatTemplate *t = w->tpl;
    if (!t->has_default_system) return true;
    return put_start_of_turn(w, "system", 6) &&
           put_text(w, t->default_system, t->default_system_len) &&
           put_scaffold(w, "<|im_end|>\n");
}

static bool check_messages(const Writer *w, const Json *messages) {
    if (!messages || messages->kind != JSON_ARRAY)
        return fail(w->e, w->file, "messages", "expected an array, got %s", kind_name(messages));
    if (messages->n == 0)
        return fail(w->e, w->file, "messages", "expected at least one message, got none");
    size_t index = 0;
    for (const Json *m = messages->child; m; m = m->next, index++) {
        const Json *role = json_get(m, "role");
        if (m->kind != JSON_OBJECT) return message_error(w, index, "", "an object", m);
        if (!role || role->kind != JSON_STRING)
            return message_error(w, index, ".role", "a string", role);
    }
    return true;
}

/* ---- Qwen2.5 --------------------------------------------------------------------------------- */

static const char TOOLS_HEAD[] =
    "\n\n# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
    "You are provided with function signatures within <tools></tools> XML tags:\n<tools>";
static const char TOOLS_TAIL[] =
    "\n</tools>\n\nFor each function call, return a json object with function name and arguments "
    "within <tool_call></tool_call> XML tags:\n<tool_call>\n"
    "{\"name\": <function-name>, \"arguments\": <args-json-object>}\n</tool_call><|im_end|>\n";

/* The system message that lists the tools. Here, and only here, the template prints the first
 * message's content instead of joining it, so null comes out as "None". */
static bool put_tools(Writer *w, const Json *first, const Json *tools) {
    const ChatTemplate *t = w->tpl;
    if (!put_start_of_turn(w, "system", 6)) return false;
    if (is_role(first, "system")) {
        if (!put_printed_content(w, first, 0)) return false;
    } else if (t->has_default_system && !put_text(w, t->default_system, t->default_system_len)) {
        return false;
    }
    if (!put_scaffold(w, TOOLS_HEAD)) return false;
    for (const Json *tool = tools->child; tool; tool = tool->next)
        if (!put_scaffold(w, "\n") || !put_value(&w->out->text, PYTHON_JSON, tool, w->e))
            return false;
    return put_scaffold(w, TOOLS_TAIL);
}

/* Arguments that are a string, as OpenAI's API sends them, are printed as a JSON string, quoted a
 * second time: that is what the official template makes of them, and what the references hold.
 * Whoever wants the form that the model was trained on sends an object. */
static bool put_tool_call(Writer *w, const Json *call, size_t index) {
    const Json *function = json_get(call, "function");
    if (function) call = function;
    const Json *arguments = json_get(call, "arguments");
    if (!arguments)
        return message_error(w, index, ".tool_calls", "calls with \"name\" and \"arguments\"",
                             NULL);
    return put_scaffold(w, "\n<tool_call>\n{\"name\": \"") &&
           put_printed(w, json_get(call, "name")) && put_scaffold(w, "\", \"arguments\": ") &&
           put_value(&w->out->text, PYTHON_JSON, arguments, w->e) &&
           put_scaffold(w, "}\n</tool_call>");
}

/* An assistant's message with tool calls; content, if there is any, comes first. */
static bool put_tool_calls(Writer *w, const Json *message, size_t index) {
    const Json *calls = json_get(message, "tool_calls");
    if (calls->kind != JSON_ARRAY)
        return message_error(w, index, ".tool_calls", "an array", calls);
    if (!put_scaffold(w, "<|im_start|>assistant")) return false;
    if (is_true(json_get(message, "content")) &&
        (!put_scaffold(w, "\n") || !put_content(w, message, index)))
        return false;
    for (const Json *call = calls->child; call; call = call->next)
        if (!put_tool_call(w, call, index)) return false;
    return put_scaffold(w, "<|im_end|>\n");
}

/* Results of tools are the user's turn; neighbours share one. */
static bool put_tool_result(Writer *w, const Json *message, size_t index, bool first, bool last) {
    if (first && !put_scaffold(w, "<|im_start|>user")) return false;
    return put_scaffold(w, "\n<tool_response>\n") && put_printed_content(w, message, index) &&
           put_scaffold(w, "\n</tool_response>") && (!last || put_scaffold(w, "<|im_end|>\n"));
}

/* A message of a role that the template does not know prints nothing, as there. */
static bool render_qwen25(Writer *w, const Json *messages, const Json *tools) {
    const Json *before = NULL;
    size_t index = 0;
    bool listed = is_true(tools);
    if (listed && !put_tools(w, messages->child, tools)) return false;
    if (!listed && !is_role(messages->child, "system") && !put_default_system(w)) return false;
    for (const Json *m = messages->child; m; before = m, m = m->next, index++) {
        bool ok = true;
        if (is_role(m, "system") && index == 0 && listed) continue; /* put_tools has written it */
        if (is_role(m, "assistant") && is_true(json_get(m, "tool_calls")))
            ok = put_tool_calls(w, m, index);
        else if (is_role(m, "user") || is_role(m, "system") || is_role(m, "assistant"))
            ok = put_message(w, m, index);
        else if (is_role(m, "tool"))
            ok = put_tool_result(w, m, index, !is_role(before, "tool"),
                                 !is_role(m->next, "tool"));
        if (!ok) return false;
    }
    return true;
}

/* ---- Qwen2, Qwen1.5 -------------------------------------------------------------------------- */

/* Every role is printed as it is. The first Qwen1.5 repositories leave the last turn open when no
 * reply is asked for. */
static bool render_plain(Writer *w, const Json *messages, const Json *tools, bool asked) {
    bool early = w->tpl->family == CHAT_QWEN15_EARLY;
    size_t index = 0;
    if (is_true(tools))
        return fail(w->e, w->file, "tools", "expected none, this model's template knows no tools");
    if (!is_role(messages->child, "system") && !put_default_system(w)) return false;
    for (const Json *m = messages->child; m; m = m->next, index++) {
        bool stays_open = early && !m->next && !asked;
        if (stays_open ? !put_open_message(w, m, index) : !put_message(w, m, index)) return false;
    }
    return true;
}

/* The first Qwen1.5 repositories do not open a turn behind an assistant's. */
static bool opens_reply(const ChatTemplate *tpl, const Json *messages, bool asked) {
    const Json *last = messages->child;
    while (last->next) last = last->next;
    return asked && !(tpl->family == CHAT_QWEN15_EARLY && is_role(last, "assistant"));
}

bool chat_render(const ChatTemplate *tpl, const Tokenizer *tok, const Json *messages,
                 const Json *tools, bool add_generation_prompt, bool parse_special,
                 const char *file, ChatPrompt *out, Error *e) {
    Writer w = {tpl, tok, parse_special, file, out, out->text.n, e};
    if (!writer_ready(&w) || !check_messages(&w, messages)) return false;
    if (tools && tools->kind != JSON_ARRAY && tools->kind != JSON_NULL)
        return fail(e, file, "tools", "expected an array, got %s", kind_name(tools));
    bool ok = tpl->family == CHAT_QWEN25
                  ? render_qwen25(&w, messages, tools)
                  : render_plain(&w, messages, tools, add_generation_prompt);
    if (ok && opens_reply(tpl, messages, add_generation_prompt))
        ok = put_start_of_turn(&w, "assistant", 9);
    return ok && flush(&w);
}

/* ---- a running conversation ------------------------------------------------------------------ */

bool chat_turn(const ChatTemplate *tpl, const Tokenizer *tok, const char *role, const char *content,
               size_t n, bool parse_special, ChatPrompt *out, Error *e) {
    Writer w = {tpl, tok, parse_special, NULL, out, out->text.n, e};
    return writer_ready(&w) && put_start_of_turn(&w, role, strlen(role)) &&
           put_text(&w, content, n) && put_scaffold(&w, "<|im_end|>\n") && flush(&w);
}

bool chat_open_reply(const ChatTemplate *tpl, const Tokenizer *tok, ChatPrompt *out, Error *e) {
    Writer w = {tpl, tok, false, NULL, out, out->text.n, e};
    return writer_ready(&w) && put_start_of_turn(&w, "assistant", 9) && flush(&w);
}

bool chat_close_reply(const ChatTemplate *tpl, const Tokenizer *tok, ChatPrompt *out, Error *e) {
    Writer w = {tpl, tok, false, NULL, out, out->text.n, e};
    return writer_ready(&w) && put_scaffold(&w, "<|im_end|>\n") && flush(&w);
}

void chat_prompt_free(ChatPrompt *p) {
    ids_free(&p->ids);
    buffer_free(&p->text);
}
