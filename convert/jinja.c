/* jinja.c: the part of Jinja that chat templates are written in, to see what they render
 * (https://jinja.palletsprojects.com/en/stable/templates/; block tags take a line end with them, as
 * transformers has it).
 *
 * A template becomes a list of steps: texts to print, expressions in postfix order, jumps. Nothing
 * recurs: operators wait on a stack for their operands, blocks for their end. An expression has no
 * side effects, so both sides of "and", "or" and "if else" are computed; what is wrong in one of
 * them (WRONG: an index into nothing, a filter that is not known here) matters only where it is
 * printed, kept or decides something. */
#include <inttypes.h>
#include <stdlib.h>

#include "convert.h"

#define MAX_STEPS 65536
#define MAX_STACK 64     /* operands and operators that wait */
#define MAX_BLOCKS 32    /* open tags inside each other */
#define MAX_VARIABLES 64 /* visible at once */
#define MAX_RUN 100000   /* steps of one rendering */
#define ARENA (1u << 18) /* bytes of strings that one rendering makes, and of what it prints */

/* ---- Values ---------------------------------------------------------------------------------- */

typedef enum {
    WRONG, UNDEFINED, NONE, BOOLEAN, INTEGER, STRING, ARRAY, OBJECT, LIST, LOOP, NAMESPACE
} Kind;

typedef struct Value {
    Kind kind;
    int64_t number;            /* BOOLEAN, INTEGER; LOOP, NAMESPACE: which one */
    const char *text;          /* (n) STRING; WRONG: what is wrong; ARRAY, OBJECT: its source text,
                                  or NULL for a part of an array */
    size_t n;
    const Json *json;          /* OBJECT; ARRAY: its first element */
    size_t count;              /* elements of ARRAY and LIST */
    const struct Value *items; /* LIST */
} Value;

typedef enum {
    PRINT_TEXT,  /* text */
    PRINT,       /* value -> */
    PUSH,        /* -> the step's value */
    LOAD,        /* -> variable `text` */
    ATTRIBUTE,   /* object -> its member `text` */
    INDEX,       /* object, index -> */
    SLICE,       /* object, from, to -> */
    MAKE_LIST,   /* a values -> */
    CALL,        /* a arguments, b pairs of name and value -> what function `text` gives */
    METHOD,      /* object and the same */
    FILTER,      /* the same */
    TEST,        /* value -> boolean */
    NOT, NEGATIVE,
    OR, AND, EQUAL, UNEQUAL, LESS, LESS_EQUAL, GREATER, GREATER_EQUAL, IN, NOT_IN, ADD, SUBTRACT,
    JOIN, MULTIPLY, MODULO,
    CHOOSE,      /* yes, condition, no -> */
    JUMP,        /* to step a */
    JUMP_UNLESS, /* condition -> ; to step a */
    LOOP_BEGIN,  /* list -> ; `text` runs over it; behind it step a */
    LOOP_NEXT,   /* the next one, then step a */
    STORE,       /* value -> variable `text` */
    STORE_ATTRIBUTE /* value -> member `text` of namespace `value` (its name) */
} Operation;

typedef struct {
    Operation op;
    size_t a, b;
    const char *text; /* (n) */
    size_t n;
    Value value;
} Step;

struct Jinja {
    const char *source, *file; /* not owned */
    Step *steps;
    size_t n_steps, room;
    char *strings; /* literals without their escapes */
    Error why;     /* what cannot be read or rendered; "": nothing */
};

static bool same(const char *text, size_t n, const char *word) {
    return n == strlen(word) && memcmp(text, word, n) == 0;
}

static Value string_value(const char *text, size_t n) {
    return (Value){.kind = STRING, .text = text, .n = n};
}
static Value integer(int64_t i) { return (Value){.kind = INTEGER, .number = i}; }
static Value boolean(bool b) { return (Value){.kind = BOOLEAN, .number = b}; }
static Value wrong(const char *why) { return (Value){.text = why, .n = strlen(why)}; }

/* ---- Reading tags ---------------------------------------------------------------------------- */

typedef enum { END, NAME, NUMBER, TEXT, SIGN } TokenKind;

/* An operator, or an opened bracket, that waits for its operands. */
typedef enum { OPERATOR, PAREN, BRACKET, ITEM, ARGUMENTS, IF, ELSE } WaitingKind;
typedef struct {
    WaitingKind kind;
    int rank; /* of an operator: the higher binds first */
    Step step;
} Waiting;

typedef struct {
    size_t jump; /* the step that jumps to the next branch or behind the loop; SIZE_MAX: none */
    size_t ends; /* if: the latest jump to its end, which names the one before it; SIZE_MAX: none */
    bool loop;
} Block;

typedef struct {
    Jinja *j;
    const char *at, *end, *close; /* of the template; close: what ends this tag */
    TokenKind kind;               /* the token at hand: text (n), without its escapes */
    const char *text;
    size_t n, used;               /* of j->strings */
    Waiting waiting[MAX_STACK];
    size_t n_waiting;
    Block blocks[MAX_BLOCKS];
    size_t n_blocks;
    Error *e;
} Parser;

static bool is_space(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }
static bool is_letter(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
}
static bool is_digit(char c) { return c >= '0' && c <= '9'; }

static bool unreadable(const Parser *p, const char *what) {
    char shown[40];
    Jinja *j = p->j;
    printable(shown, sizeof shown, p->text, min_size(p->n, 8));
    return fail(&j->why, j->file, "chat_template", "%s \"%s\" is not known here", what, shown);
}

static bool refuse(const Parser *p, const char *why) {
    return fail(&p->j->why, p->j->file, "chat_template", "%s", why);
}

static bool add_step(Parser *p, Step s) {
    Jinja *j = p->j;
    if (j->n_steps == MAX_STEPS) return refuse(p, "too long");
    if (j->n_steps == j->room) {
        size_t room = j->room ? 2 * j->room : 256;
        Step *steps = grow_array(p->e, "chat template", j->steps, room, sizeof *steps);
        if (!steps) return false;
        j->steps = steps;
        j->room = room;
    }
    j->steps[j->n_steps++] = s;
    return true;
}

static bool add(Parser *p, Operation op) { return add_step(p, (Step){.op = op}); }
static bool add_value(Parser *p, Value v) { return add_step(p, (Step){.op = PUSH, .value = v}); }

/* The next character and those behind it are `word`. */
static bool sees(const Parser *p, const char *word) {
    size_t n = strlen(word);
    return (size_t)(p->end - p->at) >= n && memcmp(p->at, word, n) == 0;
}

/* A quoted text: its escapes are Python's, others stay as they are. */
static bool next_string(Parser *p) {
    static const char from[] = "\\'\"nrt", to[] = "\\'\"\n\r\t";
    char quote = *p->at++, *out = p->j->strings + p->used;
    p->kind = TEXT;
    p->text = out;
    for (; p->at < p->end && *p->at != quote; p->at++) {
        const char *known = NULL;
        if (*p->at == '\\' && p->end - p->at > 1 && p->at[1] != 0) known = strchr(from, p->at[1]);
        *out++ = known ? to[known - from] : *p->at;
        p->at += known != NULL;
    }
    p->n = (size_t)(out - p->text);
    p->used += p->n;
    if (p->at == p->end) return refuse(p, "a text does not end");
    p->at++;
    return true;
}

/* The next token of the tag. END leaves the tag's own end for tag_end. */
static bool next(Parser *p) {
    static const char *const signs[] = {"==", "!=", "<=", ">=", "//", "**"};
    while (p->at < p->end && is_space(*p->at)) p->at++;
    p->kind = END;
    p->text = p->at;
    p->n = 0;
    if (p->at == p->end) return refuse(p, "a tag does not end");
    if (sees(p, p->close)) return true;
    if ((*p->at == '-' || *p->at == '+') && p->end - p->at > 2 &&
        memcmp(p->at + 1, p->close, 2) == 0)
        return true;
    if (*p->at == '\'' || *p->at == '"') return next_string(p);
    if (is_letter(*p->at) || is_digit(*p->at)) {
        p->kind = is_letter(*p->at) ? NAME : NUMBER;
        while (p->at < p->end && (is_letter(*p->at) || is_digit(*p->at))) p->at++;
    } else {
        p->kind = SIGN;
        size_t length = 1;
        for (size_t i = 0; i < sizeof signs / sizeof *signs; i++)
            if (sees(p, signs[i])) length = 2;
        p->at += length;
    }
    p->n = (size_t)(p->at - p->text);
    return true;
}

static bool is_name(const Parser *p, const char *word) {
    return p->kind == NAME && same(p->text, p->n, word);
}
static bool is_sign(const Parser *p, const char *sign) {
    return p->kind == SIGN && same(p->text, p->n, sign);
}

/* ---- Expressions ----------------------------------------------------------------------------- */

static bool wait_for(Parser *p, WaitingKind kind, int rank, Step s) {
    if (p->n_waiting == MAX_STACK)
        return refuse(p, "an expression is too deep");
    p->waiting[p->n_waiting++] = (Waiting){kind, rank, s};
    return true;
}

/* What waits and binds at least as strongly as `rank` has its operands now. Brackets wait on. */
static bool settle(Parser *p, int rank) {
    while (p->n_waiting > 0) {
        const Waiting *w = &p->waiting[p->n_waiting - 1];
        if ((w->kind != OPERATOR && w->kind != ELSE) || w->rank < rank) return true;
        p->n_waiting--;
        if (!add_step(p, w->step)) return false;
    }
    return true;
}

static Waiting *bracket(Parser *p) {
    return p->n_waiting > 0 ? &p->waiting[p->n_waiting - 1] : NULL;
}

static bool literal(Parser *p, bool *known) {
    static const struct {
        const char *word;
        Value value;
    } words[] = {
        {"true", {.kind = BOOLEAN, .number = 1}}, {"True", {.kind = BOOLEAN, .number = 1}},
        {"false", {.kind = BOOLEAN}},             {"False", {.kind = BOOLEAN}},
        {"none", {.kind = NONE}},                 {"None", {.kind = NONE}},
    };
    *known = true;
    for (size_t i = 0; p->kind == NAME && i < sizeof words / sizeof *words; i++)
        if (same(p->text, p->n, words[i].word)) return add_value(p, words[i].value);
    if (p->kind == TEXT) return add_value(p, string_value(p->text, p->n));
    if (p->kind == NUMBER && p->n <= 9) {
        int64_t i = 0;
        for (size_t k = 0; k < p->n; k++) {
            if (!is_digit(p->text[k])) return unreadable(p, "a number");
            i = 10 * i + (p->text[k] - '0');
        }
        return add_value(p, integer(i));
    }
    *known = false;
    return true;
}

/* The token at hand begins an operand. *done: it is one already. */
static bool operand(Parser *p, bool *done) {
    bool known;
    *done = true;
    if (is_name(p, "not")) {
        *done = false;
        return wait_for(p, OPERATOR, 4, (Step){.op = NOT}) && next(p);
    }
    if (is_sign(p, "-")) {
        *done = false;
        return wait_for(p, OPERATOR, 9, (Step){.op = NEGATIVE}) && next(p);
    }
    if (is_sign(p, "(") || is_sign(p, "[")) {
        *done = false;
        WaitingKind kind = is_sign(p, "(") ? PAREN : BRACKET;
        return wait_for(p, kind, 0, (Step){.op = MAKE_LIST}) && next(p);
    }
    if (!literal(p, &known)) return false;
    if (known) return next(p);
    if (p->kind != NAME) return unreadable(p, "an expression with");
    Step s = {.op = LOAD, .text = p->text, .n = p->n};
    if (!next(p)) return false;
    if (!is_sign(p, "(")) return add_step(p, s);
    *done = false;
    s.op = CALL;
    return wait_for(p, ARGUMENTS, 0, s) && next(p);
}

/* Behind an operand: .name, .name(...), |filter, |filter(...), is test, [...]. *done: not in a
 * bracket of these. */
static bool suffix(Parser *p, bool *done, bool *found) {
    *done = *found = true;
    bool dot = is_sign(p, "."), bar = is_sign(p, "|");
    if (is_sign(p, "[")) {
        *done = false;
        return wait_for(p, ITEM, 0, (Step){.op = INDEX}) && next(p);
    }
    if (is_name(p, "is")) {
        if (!next(p)) return false;
        bool negated = is_name(p, "not");
        if (negated && !next(p)) return false;
        Step s = {.op = TEST, .text = p->text, .n = p->n};
        if (p->kind != NAME) return unreadable(p, "a test");
        return add_step(p, s) && (!negated || add(p, NOT)) && next(p);
    }
    if (!dot && !bar) {
        *found = false;
        return true;
    }
    if (!next(p)) return false;
    if (p->kind != NAME) return unreadable(p, "a name with");
    Step s = {.op = bar ? FILTER : ATTRIBUTE, .text = p->text, .n = p->n};
    if (!next(p)) return false;
    if (!is_sign(p, "(")) return add_step(p, s);
    *done = false;
    if (dot) s.op = METHOD;
    return wait_for(p, ARGUMENTS, 0, s) && next(p);
}

/* An operator between two operands: waits for the second. *found: there is one. */
static bool infix(Parser *p, bool *found) {
    static const struct {
        const char *sign;
        Operation op;
        int rank;
    } known[] = {{"or", OR, 2},         {"and", AND, 3},       {"==", EQUAL, 5},
                 {"!=", UNEQUAL, 5},    {"<", LESS, 5},        {"<=", LESS_EQUAL, 5},
                 {">", GREATER, 5},     {">=", GREATER_EQUAL, 5}, {"in", IN, 5},
                 {"+", ADD, 6},         {"-", SUBTRACT, 6},    {"~", JOIN, 7},
                 {"*", MULTIPLY, 8},    {"%", MODULO, 8}};
    bool negated = is_name(p, "not");
    *found = true;
    if (negated && (!next(p) || !is_name(p, "in"))) return unreadable(p, "not");
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        if ((p->kind != NAME && p->kind != SIGN) || !same(p->text, p->n, known[i].sign)) continue;
        Step s = {.op = negated ? NOT_IN : known[i].op};
        return settle(p, known[i].rank) && wait_for(p, OPERATOR, known[i].rank, s) && next(p);
    }
    if (is_name(p, "if"))
        return settle(p, 2) && wait_for(p, IF, 1, (Step){.op = CHOOSE}) && next(p);
    if (is_name(p, "else") && settle(p, 1) && bracket(p) && bracket(p)->kind == IF) {
        bracket(p)->kind = ELSE;
        return next(p);
    }
    *found = false;
    return true;
}

/* x if condition, without an else: or nothing. */
static bool close_ifs(Parser *p) {
    if (!settle(p, 0)) return false;
    while (bracket(p) && bracket(p)->kind == IF) {
        bracket(p)->kind = ELSE;
        if (!add_value(p, (Value){.kind = UNDEFINED}) || !settle(p, 0)) return false;
    }
    return true;
}

/* A comma, a colon or a closing bracket. *done: the bracket closed. *found: there is one that
 * belongs here. */
static bool punctuation(Parser *p, bool behind_operand, bool *done, bool *found) {
    static const char *const closing[] = {[PAREN] = ")", [BRACKET] = "]", [ITEM] = "]",
                                          [ARGUMENTS] = ")"};
    if (!close_ifs(p)) return false;
    Waiting *w = bracket(p);
    *found = w && (is_sign(p, ",") || is_sign(p, ":") || is_sign(p, closing[w->kind]));
    *done = false;
    if (!*found) return true;
    bool slice = is_sign(p, ":"), comma = is_sign(p, ",");
    if (slice ? w->kind != ITEM : comma && (w->kind == ITEM || !behind_operand))
        return unreadable(p, "an expression with");
    if (w->kind == ITEM && !behind_operand) {
        if (!slice && w->step.op == INDEX) return unreadable(p, "an index");
        if (!add_value(p, (Value){.kind = NONE})) return false;
    }
    w->step.a += behind_operand && w->kind != ITEM;
    if (slice) {
        if (w->step.op == SLICE) return unreadable(p, "a step with");
        w->step.op = SLICE;
    }
    if (comma && w->kind == PAREN) w->step.b = 1; /* a tuple */
    if (slice || comma) return next(p);
    *done = true;
    p->n_waiting--;
    bool plain = w->kind == PAREN && w->step.a == 1 && w->step.b == 0;
    Step s = w->step;
    if (s.op == MAKE_LIST) s.b = 0;
    if (s.a < s.b) return unreadable(p, "an argument");
    s.a -= s.b; /* a counted the values behind names, too */
    return (plain || add_step(p, s)) && next(p);
}

/* name=value in the arguments of a call: the name goes before the value. */
static bool keyword(Parser *p) {
    const char *after = p->at;
    while (after < p->end && is_space(*after)) after++;
    if (p->kind != NAME || !bracket(p) || bracket(p)->kind != ARGUMENTS || p->end - after < 2 ||
        after[0] != '=' || after[1] == '=')
        return true;
    Waiting *w = bracket(p);
    w->step.b++;
    return add_value(p, string_value(p->text, p->n)) && next(p) && next(p);
}

/* An expression, up to what cannot belong to it: the token at hand then. */
static bool expression(Parser *p) {
    bool done = false, found = true;
    p->n_waiting = 0;
    while (found) {
        if (!done) {
            if (is_sign(p, ")") || is_sign(p, "]") || is_sign(p, ":")) {
                if (!punctuation(p, false, &done, &found)) return false;
                if (!found) return unreadable(p, "an expression with");
            } else if (!keyword(p) || !operand(p, &done)) {
                return false;
            }
            continue;
        }
        if (!suffix(p, &done, &found)) return false;
        if (found) continue;
        if (!infix(p, &found)) return false;
        done = !found;
        if (!found && !punctuation(p, true, &done, &found)) return false;
    }
    return bracket(p) ? unreadable(p, "an expression with") : true;
}

/* ---- Statements ------------------------------------------------------------------------------ */

static bool want(Parser *p, bool there, const char *what) {
    return there || fail(&p->j->why, p->j->file, "chat_template", "expected %s", what);
}

static bool open_block(Parser *p, bool loop, size_t jump) {
    if (p->n_blocks == MAX_BLOCKS)
        return refuse(p, "its blocks are too deep");
    p->blocks[p->n_blocks++] = (Block){jump, SIZE_MAX, loop};
    return true;
}

static bool parse_if(Parser *p) {
    return next(p) && expression(p) && add(p, JUMP_UNLESS) &&
           open_block(p, false, p->j->n_steps - 1);
}

/* elif and else: the branch before them jumps to the end, its condition to here. */
static bool parse_branch(Parser *p, bool condition) {
    Block *b = p->n_blocks > 0 ? &p->blocks[p->n_blocks - 1] : NULL;
    if (!want(p, b && !b->loop && b->jump != SIZE_MAX, "an if before elif or else")) return false;
    if (!add_step(p, (Step){.op = JUMP, .a = b->ends})) return false;
    b->ends = p->j->n_steps - 1;
    p->j->steps[b->jump].a = p->j->n_steps;
    b->jump = SIZE_MAX;
    if (!next(p)) return false;
    if (!condition) return true;
    if (!expression(p) || !add(p, JUMP_UNLESS)) return false;
    b->jump = p->j->n_steps - 1;
    return true;
}

static bool close_block(Parser *p, bool loop) {
    Block *b = p->n_blocks > 0 ? &p->blocks[p->n_blocks - 1] : NULL;
    if (!want(p, b && b->loop == loop, loop ? "a for before endfor" : "an if before endif"))
        return false;
    if (loop && !add_step(p, (Step){.op = LOOP_NEXT, .a = b->jump + 1})) return false;
    Step *steps = p->j->steps;
    if (b->jump != SIZE_MAX) steps[b->jump].a = p->j->n_steps;
    for (size_t i = b->ends; i != SIZE_MAX;) {
        size_t before = steps[i].a;
        steps[i].a = p->j->n_steps;
        i = before;
    }
    p->n_blocks--;
    return next(p);
}

static bool parse_for(Parser *p) {
    if (!next(p) || !want(p, p->kind == NAME, "a name behind for")) return false;
    Step s = {.op = LOOP_BEGIN, .text = p->text, .n = p->n};
    return next(p) && want(p, is_name(p, "in"), "one name and in behind for") && next(p) &&
           expression(p) && add_step(p, s) && open_block(p, true, p->j->n_steps - 1);
}

static bool parse_set(Parser *p) {
    if (!next(p) || !want(p, p->kind == NAME, "a name behind set")) return false;
    Step s = {.op = STORE, .text = p->text, .n = p->n};
    if (!next(p)) return false;
    if (is_sign(p, ".")) {
        if (!next(p) || !want(p, p->kind == NAME, "a name behind set")) return false;
        s = (Step){.op = STORE_ATTRIBUTE, .text = p->text, .n = p->n,
                   .value = string_value(s.text, s.n)};
        if (!next(p)) return false;
    }
    return want(p, is_sign(p, "="), "= behind the name that is set") && next(p) &&
           expression(p) && add_step(p, s);
}

static bool statement(Parser *p) {
    if (is_name(p, "if")) return parse_if(p);
    if (is_name(p, "elif")) return parse_branch(p, true);
    if (is_name(p, "else")) return parse_branch(p, false);
    if (is_name(p, "endif")) return close_block(p, false);
    if (is_name(p, "for")) return parse_for(p);
    if (is_name(p, "endfor")) return close_block(p, true);
    if (is_name(p, "set")) return parse_set(p);
    /* Where training takes its loss from: nothing that is printed. */
    if (is_name(p, "generation") || is_name(p, "endgeneration")) return next(p);
    return unreadable(p, "the statement");
}

/* The end of a tag, and what goes with it: with - all white space behind, else a block's line end.
 */
static bool tag_end(Parser *p, bool block) {
    if (p->kind != END) return unreadable(p, "an expression with");
    bool all = *p->at == '-', none = *p->at == '+';
    p->at += 2 + (all || none);
    if (all)
        while (p->at < p->end && is_space(*p->at)) p->at++;
    else if (block && !none && p->at < p->end && *p->at == '\n')
        p->at++;
    return true;
}

/* The text before a tag, without the blanks that belong to the tag: all white space before one with
 * -, those of its line before a block that stands first on it. begins_line: the text does. */
static bool text_before(Parser *p, const char *from, const char *tag, bool begins_line) {
    const char *to = tag;
    bool block = tag < p->end && tag[1] != '{';
    char sign = p->end - tag > 2 ? tag[2] : ' ';
    if (tag < p->end && sign == '-') {
        while (to > from && is_space(to[-1])) to--;
    } else if (block && sign != '+') {
        while (to > from && (to[-1] == ' ' || to[-1] == '\t')) to--;
        if (to > from ? to[-1] != '\n' : !begins_line) to = tag;
    }
    Step s = {.op = PRINT_TEXT, .text = from, .n = (size_t)(to - from)};
    return s.n == 0 || add_step(p, s);
}

/* Where the next tag begins. */
static const char *tag_from(const Parser *p) {
    const char *at = p->at;
    while (p->end - at >= 2 && !(at[0] == '{' && strchr("{%#", at[1]) && at[1])) at++;
    return p->end - at >= 2 ? at : p->end;
}

static bool comment(Parser *p) {
    const char *end = memmem(p->at, (size_t)(p->end - p->at), "#}", 2);
    if (!end) return refuse(p, "a comment does not end");
    p->at = end - (end > p->at && (end[-1] == '-' || end[-1] == '+'));
    p->kind = END;
    return tag_end(p, true);
}

static bool tag(Parser *p) {
    char kind = p->at[1];
    p->at += 2;
    if (kind == '#') return comment(p);
    if (p->at < p->end && (*p->at == '-' || *p->at == '+')) p->at++;
    p->close = kind == '%' ? "%}" : "}}";
    if (!next(p)) return false;
    if (kind == '%') return statement(p) && tag_end(p, true);
    return expression(p) && add(p, PRINT) && tag_end(p, false);
}

static bool parse(Parser *p) {
    const char *start = p->at;
    while (p->at < p->end) {
        const char *from = p->at, *to = tag_from(p);
        if (!text_before(p, from, to, from == start || from[-1] == '\n')) return false;
        p->at = to;
        if (to < p->end && !tag(p)) return false;
    }
    return want(p, p->n_blocks == 0, "an end of every if and for");
}

Jinja *jinja_open(const char *text, size_t n, const char *file, Error *e) {
    Jinja *j = alloc_array(e, "chat template", 1, sizeof *j);
    if (!j) return NULL;
    j->file = file;
    j->strings = alloc_array(e, "chat template", n + 1, 1);
    if (n > 0 && text[n - 1] == '\n') n--; /* Jinja drops it */
    Parser p = {.j = j, .at = text, .end = text + n, .e = e};
    if (j->strings && (parse(&p) || j->why.text[0])) return j;
    jinja_close(j);
    return NULL;
}

const char *jinja_why(const Jinja *j) { return j->why.text[0] ? j->why.text : NULL; }

void jinja_close(Jinja *j) {
    if (!j) return;
    free(j->steps);
    free(j->strings);
    free(j);
}

/* ---- Rendering ------------------------------------------------------------------------------- */

typedef struct {
    const char *name; /* (n) */
    size_t n;
    Value value;
    size_t space; /* the namespace that it is a member of, from 1; 0: none, it is a variable */
} Variable;

typedef struct {
    Value list;
    size_t i, n_variables; /* those from outside */
} Loop;

typedef struct {
    Jinja *j;
    const Json *context;
    Value stack[MAX_STACK * 2];
    size_t n;
    Variable variables[MAX_VARIABLES];
    size_t n_variables, n_spaces;
    Variable members[MAX_VARIABLES]; /* of namespaces */
    size_t n_members;
    Loop loops[MAX_BLOCKS];
    size_t n_loops;
    char *arena;
    size_t used;
    Buffer *out;
    Error *e;
} Run;

static Value json_value(const Json *v) {
    if (!v) return (Value){.kind = UNDEFINED};
    switch (v->kind) {
    case JSON_NULL: return (Value){.kind = NONE};
    case JSON_BOOL: return boolean(v->boolean);
    case JSON_NUMBER: return integer((int64_t)v->number);
    case JSON_STRING: return string_value(v->string, v->string_len);
    case JSON_ARRAY:
        return (Value){.kind = ARRAY, .json = v->child, .count = v->n, .text = v->source,
                       .n = v->source_len};
    default: return (Value){.kind = OBJECT, .json = v, .text = v->source, .n = v->source_len};
    }
}

/* Room for n bytes until the rendering ends; NULL when there is no more. */
static void *take(Run *r, size_t n) {
    size_t size = (n + 15) / 16 * 16;
    if (size > ARENA - r->used) return NULL;
    r->used += size;
    return r->arena + r->used - size;
}

static Value joined(Run *r, Value x, Value y) {
    char *text = take(r, x.n + y.n);
    if (!text) return wrong("too much text");
    memcpy(text, x.text, x.n);
    memcpy(text + x.n, y.text, y.n);
    return string_value(text, x.n + y.n);
}

static bool truth(Value v) {
    switch (v.kind) {
    case BOOLEAN:
    case INTEGER: return v.number != 0;
    case STRING: return v.n > 0;
    case ARRAY:
    case LIST: return v.count > 0;
    case OBJECT: return v.json->n > 0;
    case LOOP:
    case NAMESPACE: return true;
    default: return false;
    }
}

static bool is_list(Value v) { return v.kind == ARRAY || v.kind == LIST; }

/* Element i of a list, from its end when i < 0. */
static Value element(Value list, int64_t i) {
    if (i < 0) i += (int64_t)list.count;
    if (i < 0 || i >= (int64_t)list.count) return (Value){.kind = UNDEFINED};
    if (list.kind == LIST) return list.items[i];
    const Json *v = list.json;
    while (i-- > 0) v = v->next;
    return json_value(v);
}

static bool equal(Value x, Value y) {
    if (x.kind == BOOLEAN) x.kind = INTEGER;
    if (y.kind == BOOLEAN) y.kind = INTEGER;
    if (x.kind != y.kind) return false;
    if (x.kind == INTEGER) return x.number == y.number;
    if (x.kind == STRING) return x.n == y.n && memcmp(x.text, y.text, x.n) == 0;
    return x.kind == NONE || x.kind == UNDEFINED;
}

static const Json *member(const Json *object, const char *name, size_t n) {
    const Json *v = object->child;
    while (v && !(v->key_len == n && memcmp(v->key, name, n) == 0)) v = v->next;
    return v;
}

static Value contains(Value x, Value in) {
    if (in.kind == STRING && x.kind == STRING)
        return boolean(x.n == 0 || memmem(in.text, in.n, x.text, x.n) != NULL);
    if (in.kind == OBJECT && x.kind == STRING)
        return boolean(member(in.json, x.text, x.n) != NULL);
    if (!is_list(in)) return wrong("in of what is no text, list or object");
    bool found = false;
    for (size_t i = 0; i < in.count; i++) found = found || equal(element(in, (int64_t)i), x);
    return boolean(found);
}

static Value loop_attribute(const Run *r, Value v, const char *name, size_t n) {
    const Loop *l = &r->loops[v.number];
    int64_t i = (int64_t)l->i, count = (int64_t)l->list.count;
    if (same(name, n, "index0")) return integer(i);
    if (same(name, n, "index")) return integer(i + 1);
    if (same(name, n, "revindex0")) return integer(count - i - 1);
    if (same(name, n, "revindex")) return integer(count - i);
    if (same(name, n, "length")) return integer(count);
    if (same(name, n, "first")) return boolean(i == 0);
    if (same(name, n, "last")) return boolean(i + 1 == count);
    if (same(name, n, "previtem")) return i ? element(l->list, i - 1) : (Value){.kind = UNDEFINED};
    if (same(name, n, "nextitem") && i + 1 < count) return element(l->list, i + 1);
    return (Value){.kind = UNDEFINED};
}

static Variable *find_member(Run *r, size_t space, const char *name, size_t n) {
    for (size_t i = 0; i < r->n_members; i++) {
        Variable *m = &r->members[i];
        if (m->space == space && m->n == n && memcmp(m->name, name, n) == 0) return m;
    }
    return NULL;
}

static Value attribute(Run *r, Value v, const char *name, size_t n) {
    if (v.kind == OBJECT) return json_value(member(v.json, name, n));
    if (v.kind == LOOP) return loop_attribute(r, v, name, n);
    if (v.kind == NAMESPACE) {
        const Variable *m = find_member(r, (size_t)v.number, name, n);
        return m ? m->value : (Value){.kind = UNDEFINED};
    }
    if (v.kind == WRONG) return v;
    return v.kind == UNDEFINED ? wrong("a member of what is undefined")
                               : (Value){.kind = UNDEFINED};
}

static Value item(Run *r, Value v, Value i) {
    if (v.kind == WRONG) return v;
    if (is_list(v) && i.kind == INTEGER) return element(v, i.number);
    if (i.kind == STRING) return attribute(r, v, i.text, i.n);
    return wrong("an index into what has none");
}

/* v[from:to] of a list; NONE: from its begin, to its end. */
static Value slice(Value v, Value from, Value to) {
    int64_t n = (int64_t)v.count, a = from.kind == NONE ? 0 : from.number,
            b = to.kind == NONE ? n : to.number;
    bool numbers = (from.kind == NONE || from.kind == INTEGER) &&
                   (to.kind == NONE || to.kind == INTEGER);
    if (!is_list(v) || !numbers) return wrong("a part of what is no list");
    if (a < 0) a = a + n < 0 ? 0 : a + n;
    if (b < 0) b += n;
    if (b > n) b = n;
    if (a > b) a = b < 0 ? 0 : b;
    v.text = NULL;
    v.count = b > a ? (size_t)(b - a) : 0;
    if (v.kind == LIST) v.items += v.count ? a : 0;
    for (; v.kind == ARRAY && v.count && a > 0; a--) v.json = v.json->next;
    return v;
}

/* ---- Operators, tests, filters, methods ------------------------------------------------------ */

static Value arithmetic(Run *r, Operation op, Value x, Value y) {
    if (op == ADD && x.kind == STRING && y.kind == STRING) return joined(r, x, y);
    if (x.kind != INTEGER || y.kind != INTEGER || llabs(x.number) > INT32_MAX ||
        llabs(y.number) > INT32_MAX)
        return wrong("arithmetic with what are no numbers, or text joined to none");
    if (op == ADD) return integer(x.number + y.number);
    if (op == SUBTRACT) return integer(x.number - y.number);
    if (op == MULTIPLY) return integer(x.number * y.number);
    if (y.number <= 0) return wrong("a remainder by zero or less");
    int64_t rest = x.number % y.number;
    return integer(rest < 0 ? rest + y.number : rest);
}

static Value compared(Operation op, Value x, Value y) {
    if (x.kind != INTEGER || y.kind != INTEGER) return wrong("an order of what are no numbers");
    if (op == LESS) return boolean(x.number < y.number);
    if (op == LESS_EQUAL) return boolean(x.number <= y.number);
    if (op == GREATER) return boolean(x.number > y.number);
    return boolean(x.number >= y.number);
}

/* As it is printed; WRONG: Python would print it in a form of its own. */
static Value printed(Run *r, Value v) {
    if (v.kind == STRING || v.kind == WRONG) return v;
    if (v.kind == UNDEFINED) return string_value("", 0);
    if (v.kind == NONE) return string_value("None", 4);
    if (v.kind == BOOLEAN) return v.number ? string_value("True", 4) : string_value("False", 5);
    if (v.kind != INTEGER) return wrong("a list or an object that is printed as Python has it");
    char *text = take(r, 32);
    if (!text) return wrong("too much text");
    return string_value(text, (size_t)snprintf(text, 32, "%" PRId64, v.number));
}

static Value binary(Run *r, Operation op, Value x, Value y) {
    if (x.kind == WRONG) return x;
    if (op == OR) return truth(x) ? x : y;
    if (op == AND) return truth(x) ? y : x;
    if (y.kind == WRONG) return y;
    if (op == EQUAL) return boolean(equal(x, y));
    if (op == UNEQUAL) return boolean(!equal(x, y));
    if (op == IN) return contains(x, y);
    if (op == NOT_IN) {
        Value in = contains(x, y);
        return in.kind == WRONG ? in : boolean(!in.number);
    }
    if (op == JOIN) {
        x = printed(r, x);
        y = printed(r, y);
        return x.kind == WRONG ? x : y.kind == WRONG ? y : joined(r, x, y);
    }
    return op >= LESS && op <= GREATER_EQUAL ? compared(op, x, y) : arithmetic(r, op, x, y);
}

static Value test(Value v, const char *name, size_t n) {
    if (v.kind == WRONG) return v;
    if (same(name, n, "defined")) return boolean(v.kind != UNDEFINED);
    if (same(name, n, "undefined")) return boolean(v.kind == UNDEFINED);
    if (same(name, n, "none")) return boolean(v.kind == NONE);
    if (same(name, n, "string")) return boolean(v.kind == STRING);
    if (same(name, n, "mapping")) return boolean(v.kind == OBJECT);
    if (same(name, n, "boolean")) return boolean(v.kind == BOOLEAN);
    if (same(name, n, "integer")) return boolean(v.kind == INTEGER);
    if (same(name, n, "number")) return boolean(v.kind == INTEGER || v.kind == BOOLEAN);
    if (same(name, n, "true")) return boolean(v.kind == BOOLEAN && v.number);
    if (same(name, n, "false")) return boolean(v.kind == BOOLEAN && !v.number);
    if (same(name, n, "sequence") || same(name, n, "iterable"))
        return boolean(is_list(v) || v.kind == STRING || v.kind == OBJECT || v.kind == UNDEFINED);
    return wrong("a test that is not known here");
}

/* Without the white space at its begin (left) and end (right). */
static Value stripped(Value v, bool left, bool right) {
    while (left && v.n > 0 && is_space(v.text[0])) v.text++, v.n--;
    while (right && v.n > 0 && is_space(v.text[v.n - 1])) v.n--;
    return v;
}

/* As Python's json.dumps has it: lists and objects as the context spells them. */
static Value to_json(Run *r, Value v) {
    Buffer b = {0};
    if (is_list(v) || v.kind == OBJECT)
        return v.text ? string_value(v.text, v.n) : wrong("tojson of a part of a list");
    if (v.kind == NONE) return string_value("null", 4);
    if (v.kind == BOOLEAN) return v.number ? string_value("true", 4) : string_value("false", 5);
    if (v.kind == INTEGER) return printed(r, v);
    if (v.kind != STRING) return wrong("tojson of what is no value");
    Value quoted = wrong("tojson, for which memory is short");
    if (json_quote(&b, v.text, v.n, r->e))
        quoted = joined(r, string_value("", 0), string_value(b.data, b.n));
    buffer_free(&b);
    return quoted;
}

static Value filter(Run *r, Value v, const char *name, size_t n, size_t n_arguments) {
    if (v.kind == WRONG) return v;
    if (n_arguments > 0) return wrong("a filter with arguments");
    if (same(name, n, "tojson")) return to_json(r, v);
    if (same(name, n, "string") || same(name, n, "safe")) return printed(r, v);
    if (same(name, n, "trim")) return v.kind == STRING ? stripped(v, true, true) : wrong("trim");
    if (same(name, n, "first") && is_list(v)) return element(v, 0);
    if (same(name, n, "last") && is_list(v)) return element(v, -1);
    if ((same(name, n, "length") || same(name, n, "count")) && is_list(v))
        return integer((int64_t)v.count);
    return wrong("a filter that is not known here");
}

static Value method(Value v, const char *name, size_t n, const Value *argument,
                    size_t n_arguments) {
    if (v.kind == WRONG) return v;
    bool text = v.kind == STRING, with_text = n_arguments == 1 && argument->kind == STRING;
    if (text && n_arguments == 0) {
        if (same(name, n, "strip")) return stripped(v, true, true);
        if (same(name, n, "lstrip")) return stripped(v, true, false);
        if (same(name, n, "rstrip")) return stripped(v, false, true);
    }
    bool fits = text && with_text && argument->n <= v.n;
    if (text && with_text && same(name, n, "startswith"))
        return boolean(fits && memcmp(v.text, argument->text, argument->n) == 0);
    if (text && with_text && same(name, n, "endswith"))
        return boolean(fits &&
                       memcmp(v.text + v.n - argument->n, argument->text, argument->n) == 0);
    if (v.kind == OBJECT && with_text && same(name, n, "get")) {
        const Json *found = member(v.json, argument->text, argument->n);
        return found ? json_value(found) : (Value){.kind = NONE};
    }
    return wrong("a method that is not known here");
}

/* namespace(name=value, ...): pairs holds names and values in turn. */
static Value make_namespace(Run *r, const Value *pairs, size_t n) {
    size_t space = ++r->n_spaces;
    for (size_t i = 0; i < n; i++) {
        if (pairs[2 * i + 1].kind == WRONG) return pairs[2 * i + 1];
        if (r->n_members == MAX_VARIABLES) return wrong("too many variables");
        r->members[r->n_members++] =
            (Variable){pairs[2 * i].text, pairs[2 * i].n, pairs[2 * i + 1], space};
    }
    return (Value){.kind = NAMESPACE, .number = (int64_t)space};
}

static Value call(Run *r, const Step *s, const Value *arguments) {
    if (same(s->text, s->n, "namespace") && s->a == 0) return make_namespace(r, arguments, s->b);
    if (same(s->text, s->n, "raise_exception")) return wrong("an exception that it raises");
    return wrong("a function that is not known here");
}

/* ---- Steps ----------------------------------------------------------------------------------- */

static bool stop(Run *r, Value why) {
    return fail(&r->j->why, r->j->file, "chat_template", "%.*s", (int)why.n, why.text);
}

static Value load(const Run *r, const char *name, size_t n) {
    for (size_t i = r->n_variables; i-- > 0;)
        if (r->variables[i].n == n && memcmp(r->variables[i].name, name, n) == 0)
            return r->variables[i].value;
    return json_value(member(r->context, name, n));
}

/* A variable is one of the innermost loop around it. */
static bool store(Run *r, const char *name, size_t n, Value v) {
    size_t i = r->n_loops ? r->loops[r->n_loops - 1].n_variables : 0;
    if (v.kind == WRONG) return stop(r, v);
    while (i < r->n_variables &&
           !(r->variables[i].n == n && memcmp(r->variables[i].name, name, n) == 0))
        i++;
    if (i == MAX_VARIABLES) return stop(r, wrong("too many variables"));
    if (i == r->n_variables) r->n_variables++;
    r->variables[i] = (Variable){name, n, v, 0};
    return true;
}

static bool store_member(Run *r, const Step *s, Value v) {
    Value space = load(r, s->value.text, s->value.n);
    if (v.kind == WRONG) return stop(r, v);
    if (space.kind != NAMESPACE) return stop(r, wrong("a member set of what is no namespace"));
    Variable *m = find_member(r, (size_t)space.number, s->text, s->n);
    if (!m && r->n_members == MAX_VARIABLES) return stop(r, wrong("too many variables"));
    if (!m) m = &r->members[r->n_members++];
    *m = (Variable){s->text, s->n, v, (size_t)space.number};
    return true;
}

/* The loop's variables for its element i; after the last one the loop ends. */
static bool loop_turn(Run *r, const Step *begin, size_t *at, size_t body) {
    Loop *l = &r->loops[r->n_loops - 1];
    r->n_variables = l->n_variables;
    if (l->i == l->list.count) {
        r->n_loops--;
        *at = begin->a;
        return true;
    }
    *at = body;
    Value self = {.kind = LOOP, .number = (int64_t)r->n_loops - 1};
    return store(r, begin->text, begin->n, element(l->list, (int64_t)l->i)) &&
           store(r, "loop", 4, self);
}

static bool loop_begin(Run *r, size_t *at, Value list) {
    if (list.kind == WRONG) return stop(r, list);
    if (!is_list(list)) return stop(r, wrong("a loop over what is no list"));
    r->loops[r->n_loops++] = (Loop){list, 0, r->n_variables}; /* no deeper than its blocks */
    return loop_turn(r, &r->j->steps[*at - 1], at, *at);
}

static bool loop_next(Run *r, size_t *at, size_t body) {
    r->loops[r->n_loops - 1].i++;
    return loop_turn(r, &r->j->steps[body - 1], at, body);
}

static bool print(Run *r, Value v) {
    v = printed(r, v);
    return v.kind == WRONG ? stop(r, v) : buffer_add(r->out, v.text, v.n, r->e);
}

static bool push(Run *r, Value v) {
    if (r->n == sizeof r->stack / sizeof *r->stack) return stop(r, wrong("too many operands"));
    r->stack[r->n++] = v;
    return true;
}

static Value list_of(Run *r, const Value *values, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (values[i].kind == WRONG) return values[i];
    Value *items = take(r, n * sizeof *items);
    if (!items) return wrong("too much text");
    memcpy(items, values, n * sizeof *items);
    return (Value){.kind = LIST, .items = items, .count = n};
}

/* Operands of an operation, beside those that a and b count. */
static size_t operands(const Step *s) {
    switch (s->op) {
    case PRINT_TEXT: case PUSH: case LOAD: case JUMP: case LOOP_NEXT: return 0;
    case MAKE_LIST: return s->a;
    case CALL: return s->a + 2 * s->b;
    case METHOD: case FILTER: return 1 + s->a + 2 * s->b;
    case SLICE: case CHOOSE: return 3;
    case INDEX: return 2;
    default: return s->op >= OR && s->op <= MODULO ? 2 : 1;
    }
}

/* What an expression's step gives for its operands x. */
static Value computed(Run *r, const Step *s, const Value *x) {
    switch (s->op) {
    case PUSH: return s->value;
    case LOAD: return load(r, s->text, s->n);
    case ATTRIBUTE: return attribute(r, x[0], s->text, s->n);
    case INDEX: return item(r, x[0], x[1]);
    case SLICE: return x[0].kind == WRONG ? x[0] : slice(x[0], x[1], x[2]);
    case MAKE_LIST: return list_of(r, x, s->a);
    case CALL: return call(r, s, x);
    case METHOD:
        return s->b ? wrong("a method with names") : method(x[0], s->text, s->n, x + 1, s->a);
    case FILTER: return filter(r, x[0], s->text, s->n, s->a + s->b);
    case TEST: return test(x[0], s->text, s->n);
    case NOT: return x[0].kind == WRONG ? x[0] : boolean(!truth(x[0]));
    case NEGATIVE: return arithmetic(r, SUBTRACT, integer(0), x[0]);
    case CHOOSE: return x[1].kind == WRONG ? x[1] : truth(x[1]) ? x[0] : x[2];
    default: return binary(r, s->op, x[0], x[1]);
    }
}

/* One step; *at is the one behind it. */
static bool step(Run *r, const Step *s, size_t *at) {
    if (operands(s) > r->n) return stop(r, wrong("an operand is missing"));
    r->n -= operands(s);
    const Value *x = r->stack + r->n;
    switch (s->op) {
    case PRINT_TEXT: return buffer_add(r->out, s->text, s->n, r->e);
    case PRINT: return print(r, x[0]);
    case JUMP: *at = s->a; return true;
    case JUMP_UNLESS:
        if (x[0].kind == WRONG) return stop(r, x[0]);
        if (!truth(x[0])) *at = s->a;
        return true;
    case LOOP_BEGIN: return loop_begin(r, at, x[0]);
    case LOOP_NEXT: return loop_next(r, at, s->a);
    case STORE: return store(r, s->text, s->n, x[0]);
    case STORE_ATTRIBUTE: return store_member(r, s, x[0]);
    default: return push(r, computed(r, s, x));
    }
}

bool jinja_render(Jinja *j, const Json *context, Buffer *out, Error *e) {
    if (jinja_why(j)) return true;
    Run *r = alloc_array(e, "chat template", 1, sizeof *r);
    if (!r) return false;
    *r = (Run){.j = j, .context = context, .out = out, .e = e};
    r->arena = alloc_array(e, "chat template", ARENA, 1);
    bool ok = r->arena != NULL;
    for (size_t at = 0, n = 0; ok && at < j->n_steps; n++) {
        const Step *s = &j->steps[at++];
        ok = n == MAX_RUN || out->n > ARENA ? stop(r, wrong("it does not end")) : step(r, s, &at);
    }
    free(r->arena);
    free(r);
    return ok || jinja_why(j);
}
