/* chat.h: conversations -> token ids, as each family's official template renders them.
 *
 * Ids, not strings: the scaffold's special tokens are inserted by id, and what a message says is
 * encoded with special tokens off (unless parse_special asks for it), so nothing a user types can
 * become one. */
#ifndef CHAT_H
#define CHAT_H

#include "json.h"
#include "tokenizer.h"

/* Values of ModelHeader.chat_family (model.h). The default system message is stored beside it. */
typedef enum {
    CHAT_NONE = 0,        /* no template: only raw prompts */
    CHAT_QWEN25 = 1,      /* Qwen2.5 Instruct, base, Coder, Math: with tools */
    CHAT_QWEN2 = 2,       /* Qwen2, Qwen1.5: system, user, assistant; no tools */
    CHAT_QWEN15_EARLY = 3 /* the first Qwen1.5 repositories: the last turn stays open */
} ChatFamily;

typedef struct {
    ChatFamily family;
    const char *default_system; /* inserted when the first message is no system message */
    size_t default_system_len;
    bool has_default_system;
} ChatTemplate;

/* A rendered conversation. The text between two special tokens ("user\n" and what follows it) is
 * encoded in one go, because word boundaries and merges reach across the seam; only the scaffold's
 * own special tokens are inserted by id (a tokenizer that lacks <tool_call> gets it as text). */
typedef struct {
    Ids ids;       /* the prompt's token ids */
    Buffer text;   /* the same as text, for --render and tests */
} ChatPrompt; /* starts as {0}; chat_prompt_free when done */

void chat_prompt_free(ChatPrompt *p);

/* Render `messages` (a JSON array of {"role", "content", "tool_calls"}) with `tools` (an array, or
 * NULL) and append to *out. With add_generation_prompt the assistant's turn is opened at the end.
 * Content is a string, or an array of {"type": "text", "text"} whose texts are joined.
 * parse_special: text that spells a special token becomes it, as in apply_chat_template + encode.
 * Errors name the message: "messages[2].role: ..."; *out then holds a part of the prompt. Tools are
 * refused for a family that has none. */
bool chat_render(const ChatTemplate *tpl, const Tokenizer *tok, const Json *messages,
                 const Json *tools, bool add_generation_prompt, bool parse_special,
                 const char *file, ChatPrompt *out, Error *e);

/* The pieces of a running conversation, for the chat on a terminal: each appends to *out.
 * chat_turn writes a whole message (parse_special: see chat_render); chat_open_reply opens the
 * assistant's turn; chat_close_reply ends it behind the model's own tokens, of which an <|im_end|>
 * at the end is left out. */
bool chat_turn(const ChatTemplate *tpl, const Tokenizer *tok, const char *role, const char *content,
               size_t n, bool parse_special, ChatPrompt *out, Error *e);
bool chat_open_reply(const ChatTemplate *tpl, const Tokenizer *tok, ChatPrompt *out, Error *e);
bool chat_close_reply(const ChatTemplate *tpl, const Tokenizer *tok, ChatPrompt *out, Error *e);

#endif
