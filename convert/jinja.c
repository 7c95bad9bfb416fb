/* jinja.c: the part of Jinja that chat templates are written in, to see what they render
 * (https://jinja.palletsprojects.com/en/stable/templates/; block tags take a line end with them, as
 * transformers has it). What is not known here is refused, never guessed. In this order:
 *
 *   Values         what expressions are made of
 *   Steps          what a template becomes: texts to print, expressions in postfix order, jumps
 *   Tokens         names, numbers, quoted texts and signs of a tag
 *   Expressions    into postfix order: operators wait on a stack for their operands
 *   Statements     if, for and set into jumps; open ones wait on a stack for their end
 *   Tags           and the text between them
 *   Memory         of a rendering: variables, loops, texts that it makes
 *   Operations     what operators, tests, filters and methods give
 *   Rendering      one step after the other
 *
 * Nothing recurs. An expression has no side effects, so both sides of "and", "or" and "if else" are
 * computed; what is wrong in one of them (WRONG: a member of what is undefined, an unknown filter)
 * matters only where it is printed, kept or decides something. */
#include <inttypes.h>
#include <stdlib.h>

#include "convert.h"

#define MAX_STEPS 65536
#define MAX_STACK 64     /* operands, and operators that wait for theirs */
#define MAX_BLOCKS 32    /* open tags inside each other */
#define MAX_VARIABLES 64 /* visible at once */
#define MAX_RUN 100000   /* steps of one rendering; 16 bytes that one looks at count as one more */
#define ARENA (1u << 18) /* bytes of texts that one rendering makes, and of what it prints */

/* ---- Values ---------------------------------------------------------------------------------- */

typedef struct {
    const char *at; /* (n) */
    size_t n;
} Text;

typedef enum {
    WRONG, UNDEFINED, NONE, BOOLEAN, INTEGER, STRING, ARRAY, OBJECT, LOOP, NAMESPACE
} Kind;

typedef struct {
    Kind kind;
    int64_t number;   /* BOOLEAN, INTEGER; LOOP, NAMESPACE: which one */
    Text text;        /* STRING; WRONG: what is wrong; ARRAY, OBJECT: its source, NULL: has none */
    const Json *json; /* OBJECT; ARRAY: its first element */
    size_t count;     /* ARRAY: elements */
} Value;

static const Value undefined = {.kind = UNDEFINED}, none = {.kind = NONE};

static Text text_of(const char *words) { return (Text){words, strlen(words)}; }
static bool equal_texts(Text a, Text b) { return compare_bytes(a.at, a.n, b.at, b.n) == 0; }
static bool same(Text text, const char *word) { return equal_texts(text, text_of(word)); }

static Value string(Text text) { return (Value){.kind = STRING, .text = text}; }
static Value integer(int64_t i) { return (Value){.kind = INTEGER, .number = i}; }
static Value boolean(bool b) { return (Value){.kind = BOOLEAN, .number = b}; }
static Value wrong(const char *why) { return (Value){.kind = WRONG, .text = text_of(why)}; }

/* ---- Steps ----------------------------------------------------------------------------------- */

typedef enum {
    PRINT_TEXT,   /* text */
    PRINT,        /* value -> */
    JUMP,         /* to a step */
    JUMP_UNLESS,  /* condition -> */
    LOOP_BEGIN,   /* list -> */
    LOOP_NEXT,    /* `text` is its next element; behind the last one a jump */
    STORE,        /* value -> variable `text` */
    STORE_MEMBER, /* value -> member `text` of the namespace that the step's value names */
    PUSH,         /* -> the step's value; this and all below give one value */
    LOAD,         /* -> variable `text` */
    ATTRIBUTE,    /* object -> its member `text` */
    INDEX,        /* object, index -> */
    SLICE,        /* list, from, to -> */
    MAKE_LIST,    /* values -> */
    CALL,         /* arguments -> what function `text` gives: values, then names with values */
    METHOD,       /* object, arguments -> */
    FILTER,       /* the same */
    TEST,         /* value -> boolean */
    NOT, OR, AND, EQUAL, UNEQUAL, IN, NOT_IN, LESS, LESS_EQUAL, GREATER, GREATER_EQUAL,
    ADD, SUBTRACT, MODULO, JOIN,
    CHOOSE        /* yes, condition, no -> */
} Operation;

typedef struct {
    Operation op;
    size_t takes; /* values from the stack */
    size_t named; /* of the arguments: those with a name, two values each */
    size_t to;    /* of a jump */
    Text text;
    Value value;
} Step;

struct Jinja {
    char *text;       /* all of it, with the escapes of quoted texts replaced */
    const char *file; /* not owned */
    Step *steps;
    size_t n_steps, room;
    Error why; /* what cannot be read or rendered; "": nothing */
};

/* An operator, or an open bracket, that waits for its operands. */
typedef enum {
    WHOLE,                 /* the expression itself */
    OPERATOR, IF,          /* IF: for an else */
    PAREN, TUPLE, LIST,    /* ( before and behind a comma, [ */
    ITEM, ITEM_TO,         /* [ of an index, and behind its colon */
    ARGUMENTS, NAMED_VALUE /* ( of a call, and behind name= */
} WaitingKind;
typedef struct {
    WaitingKind kind;
    int rank; /* of OPERATOR and IF: the higher binds first */
    Step step;
} Waiting;

/* An open statement. */
typedef enum { FOR, IF_BRANCH, ELSE_BRANCH } BlockKind;
typedef struct {
    BlockKind kind;
    bool elif;   /* an if in the else of the block below: both end together */
    size_t jump; /* the step that jumps to its end, or to its else */
} Block;

typedef enum { END, NAME, NUMBER, QUOTED, SIGN } TokenKind;

typedef struct {
    Jinja *j;
    char *at, *end;    /* what is not read yet; *end is 0 */
    const char *close; /* what ends this tag */
    TokenKind kind;    /* the token at hand */
    Text token;
    Waiting waiting[MAX_STACK];
    size_t n_waiting, depth; /* depth: of the stack of values, behind the latest step */
    Block blocks[MAX_BLOCKS];
    size_t n_blocks;
    Error *e;
} Parser;

static bool want(const Parser *p, bool there, const char *why) {
    return there || fail(&p->j->why, p->j->file, "chat_template", "%s", why);
}

static bool unreadable(const Parser *p, const char *what) {
    char shown[40];
    printable(shown, sizeof shown, p->token.at, min_size(p->token.n, 8));
    return fail(&p->j->why, p->j->file, "chat_template", "%s \"%s\" is not known here", what,
                shown);
}

static bool add_step(Parser *p, Step s) {
    Jinja *j = p->j;
    p->depth -= s.takes;
    p->depth += s.op >= PUSH;
    if (!want(p, j->n_steps < MAX_STEPS, "too long") ||
        !want(p, p->depth <= MAX_STACK, "too many operands"))
        return false;
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

static bool add_value(Parser *p, Value v) { return add_step(p, (Step){.op = PUSH, .value = v}); }

/* ---- Tokens ---------------------------------------------------------------------------------- */

static bool is_space(char c) { return (c >= '\t' && c <= '\r') || (c >= '\x1c' && c <= ' '); }
static bool is_digit(char c) { return c >= '0' && c <= '9'; }
static bool is_word(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || is_digit(c);
}
static bool sees(const char *at, const char *word) { return !strncmp(at, word, strlen(word)); }

/* A quoted text; its escapes are Python's, and are replaced where they stand. */
static bool next_quoted(Parser *p) {
    static const char from[] = "\\'\"nrt", to[] = "\\'\"\n\r\t";
    char quote = *p->at++, *out = p->at;
    p->kind = QUOTED;
    p->token.at = out;
    for (; p->at < p->end && *p->at != quote; p->at++) {
        if (*p->at == '\\') {
            p->at++;
            const char *known = *p->at ? strchr(from, *p->at) : NULL;
            if (!want(p, known, "an escape that is not known here")) return false;
            *out++ = to[known - from];
        } else {
            *out++ = *p->at;
        }
    }
    p->token.n = (size_t)(out - p->token.at);
    return want(p, p->at++ < p->end, "a text does not end");
}

/* The next token of the tag. END leaves the tag's own end for tag_end. */
static bool next(Parser *p) {
    while (is_space(*p->at)) p->at++;
    p->kind = END;
    p->token = (Text){p->at, 0};
    if (!want(p, p->at < p->end, "a tag does not end")) return false;
    bool sign = *p->at == '-' || *p->at == '+';
    if (sees(p->at + sign, p->close)) return true;
    if (*p->at == '\'' || *p->at == '"') return next_quoted(p);
    if (is_word(*p->at)) {
        p->kind = is_digit(*p->at) ? NUMBER : NAME;
        while (is_word(*p->at)) p->at++;
    } else {
        p->kind = SIGN;
        p->at++;
        if (*p->at == '=' && strchr("=!<>", p->at[-1])) p->at++;
    }
    p->token.n = (size_t)(p->at - p->token.at);
    return true;
}

static bool is_name(const Parser *p, const char *word) {
    return p->kind == NAME && same(p->token, word);
}
static bool is_sign(const Parser *p, const char *sign) {
    return p->kind == SIGN && same(p->token, sign);
}

/* ---- Expressions ----------------------------------------------------------------------------- */

enum { RANK_IF = 1, RANK_OR, RANK_AND, RANK_NOT, RANK_COMPARE, RANK_ADD, RANK_JOIN, RANK_MODULO };

static Waiting *top(Parser *p) { return &p->waiting[p->n_waiting - 1]; }

static bool wait_for(Parser *p, WaitingKind kind, int rank, Step s) {
    if (!want(p, p->n_waiting < MAX_STACK, "an expression is too deep")) return false;
    p->waiting[p->n_waiting++] = (Waiting){kind, rank, s};
    return true;
}

/* What waits and binds at least as strongly as `rank` has its operands now. An IF without an else
 * has nothing for its last. Brackets wait on. */
static bool settle(Parser *p, int rank) {
    while ((top(p)->kind == OPERATOR || top(p)->kind == IF) && top(p)->rank >= rank) {
        if (top(p)->kind == IF && !add_value(p, undefined)) return false;
        if (!add_step(p, p->waiting[--p->n_waiting].step)) return false;
    }
    return true;
}

/* A text, a number or a word for a value. *known: it is one. */
static bool literal(Parser *p, bool *known) {
    Value v = undefined;
    bool negative = is_sign(p, "-");
    if (negative && !next(p)) return false;
    if (p->kind == NUMBER && p->token.n <= 9) {
        v = integer(0);
        for (size_t k = 0; k < p->token.n; k++) {
            if (!is_digit(p->token.at[k])) return unreadable(p, "a number");
            v.number = 10 * v.number + (p->token.at[k] - '0');
        }
        if (negative) v.number = -v.number;
    } else if (negative) {
        return unreadable(p, "a minus before");
    } else if (p->kind == QUOTED) {
        v = string(p->token);
    } else if (is_name(p, "none") || is_name(p, "None")) {
        v = none;
    } else if (is_name(p, "true") || is_name(p, "True")) {
        v = boolean(true);
    } else if (is_name(p, "false") || is_name(p, "False")) {
        v = boolean(false);
    }
    *known = v.kind != UNDEFINED;
    return !*known || (add_value(p, v) && next(p));
}

/* A name as the `plain` operation has it; as `call` has it, if arguments follow. *done: they do
 * not. */
static bool name(Parser *p, Operation plain, Operation call, bool *done) {
    Step s = {.op = plain, .takes = plain != LOAD, .text = p->token};
    if (p->kind != NAME) return unreadable(p, "an expression with");
    if (!next(p)) return false;
    *done = false;
    if (plain == LOAD && is_sign(p, "=") && top(p)->kind == ARGUMENTS) {
        top(p)->kind = NAMED_VALUE;
        return add_value(p, string(s.text)) && next(p);
    }
    s.op = is_sign(p, "(") ? call : plain;
    if (is_sign(p, "(")) return wait_for(p, ARGUMENTS, 0, s) && next(p);
    *done = true;
    return add_step(p, s);
}

/* Does the token at hand close the bracket that waits on top? */
static bool closes(Parser *p) {
    WaitingKind in = top(p)->kind;
    bool square = in == LIST || in == ITEM || in == ITEM_TO;
    return is_sign(p, square ? "]" : ")");
}

static bool close_bracket(Parser *p) {
    const Waiting *w = &p->waiting[--p->n_waiting];
    return (w->kind == PAREN || add_step(p, w->step)) && next(p);
}

/* The token at hand begins an operand. *done: it is one already. */
static bool operand(Parser *p, bool *done) {
    WaitingKind in = top(p)->kind;
    *done = false;
    if (is_name(p, "not") && !(in == OPERATOR && top(p)->rank > RANK_NOT))
        return wait_for(p, OPERATOR, RANK_NOT, (Step){.op = NOT, .takes = 1}) && next(p);
    if (is_sign(p, "(") || is_sign(p, "["))
        return wait_for(p, is_sign(p, "(") ? PAREN : LIST, 0, (Step){.op = MAKE_LIST}) && next(p);
    if ((in == LIST || in == TUPLE || in == ARGUMENTS) && closes(p)) {
        *done = true;
        return close_bracket(p);
    }
    if ((in == ITEM && is_sign(p, ":")) || (in == ITEM_TO && is_sign(p, "]"))) {
        *done = true;
        return add_value(p, none);
    }
    if (!literal(p, done)) return false;
    return *done || name(p, LOAD, CALL, done);
}

/* is NAME, is not NAME */
static bool test_of(Parser *p) {
    if (!next(p)) return false;
    bool negated = is_name(p, "not");
    if (negated && !next(p)) return false;
    if (p->kind != NAME) return unreadable(p, "a test");
    return add_step(p, (Step){.op = TEST, .takes = 1, .text = p->token}) && next(p) &&
           (!negated || add_step(p, (Step){.op = NOT, .takes = 1}));
}

/* An operator between two operands: waits for the second. *found: there is one. */
static bool infix(Parser *p, bool *found) {
    static const struct {
        const char *sign;
        Operation op;
        int rank;
    } known[] = {{"or", OR, RANK_OR},           {"and", AND, RANK_AND},
                 {"==", EQUAL, RANK_COMPARE},   {"!=", UNEQUAL, RANK_COMPARE},
                 {"<", LESS, RANK_COMPARE},     {"<=", LESS_EQUAL, RANK_COMPARE},
                 {">", GREATER, RANK_COMPARE},  {">=", GREATER_EQUAL, RANK_COMPARE},
                 {"in", IN, RANK_COMPARE},      {"+", ADD, RANK_ADD},
                 {"-", SUBTRACT, RANK_ADD},     {"~", JOIN, RANK_JOIN},
                 {"%", MODULO, RANK_MODULO}};
    bool negated = is_name(p, "not");
    if (negated && (!next(p) || !is_name(p, "in"))) return unreadable(p, "not");
    *found = false;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        if ((p->kind != NAME && p->kind != SIGN) || !same(p->token, known[i].sign)) continue;
        int rank = known[i].rank;
        *found = true;
        /* a < b < c would be a < b and b < c */
        if (!settle(p, rank == RANK_COMPARE ? rank + 1 : rank) ||
            !want(p, rank != RANK_COMPARE || top(p)->rank != rank, "a comparison of a comparison"))
            return false;
        Step s = {.op = negated ? NOT_IN : known[i].op, .takes = 2};
        return wait_for(p, OPERATOR, rank, s) && next(p);
    }
    return true;
}

/* The if and the else of: yes if condition else no. */
static bool inline_if(Parser *p, bool allowed) {
    bool begins = is_name(p, "if");
    if (!settle(p, RANK_OR)) return false;
    bool waits = top(p)->kind == IF;
    if (begins ? waits || (top(p)->kind == WHOLE && !allowed) : !waits)
        return unreadable(p, "an expression with");
    if (!begins) top(p)->kind = OPERATOR;
    return (!begins || wait_for(p, IF, RANK_IF, (Step){.op = CHOOSE, .takes = 3})) && next(p);
}

/* A comma, a colon or a closing bracket. *done: that closed. *more: the expression goes on. */
static bool punctuation(Parser *p, bool *done, bool *more) {
    if (!settle(p, 0)) return false;
    Waiting *w = top(p);
    *more = w->kind != WHOLE;
    if (!*more) return true;
    if (is_sign(p, ":") && w->kind == ITEM) {
        *w = (Waiting){ITEM_TO, 0, {.op = SLICE, .takes = 3}};
        return next(p);
    }
    bool comma = is_sign(p, ",");
    if ((!comma || w->kind == ITEM || w->kind == ITEM_TO) && !closes(p))
        return unreadable(p, "an expression with");
    if (w->kind == ARGUMENTS && w->step.named > 0) return unreadable(p, "an argument before");
    if (comma && w->kind == PAREN) w->kind = TUPLE;
    if (w->kind == NAMED_VALUE) {
        *w = (Waiting){ARGUMENTS, 0, w->step};
        w->step.named++;
        w->step.takes += 2;
    } else if (w->kind != ITEM && w->kind != ITEM_TO) {
        w->step.takes++;
    }
    *done = !comma;
    return comma ? next(p) : close_bracket(p);
}

/* What stands behind an operand. *done: an operand, still; else one has to follow. */
static bool behind_operand(Parser *p, bool with_if, bool *done, bool *more) {
    if (is_sign(p, ".")) return next(p) && name(p, ATTRIBUTE, METHOD, done);
    if (is_sign(p, "|")) return next(p) && name(p, FILTER, FILTER, done);
    if (is_name(p, "is")) return test_of(p);
    *done = false;
    if (is_sign(p, "["))
        return wait_for(p, ITEM, 0, (Step){.op = INDEX, .takes = 2}) && next(p);
    if (is_name(p, "if") || is_name(p, "else")) return inline_if(p, with_if);
    bool found;
    if (!infix(p, &found)) return false;
    return found || punctuation(p, done, more);
}

/* An expression, up to what cannot belong to it: the token at hand then. Jinja has no inline if in
 * the condition of an if or the list of a for. */
static bool expression(Parser *p, bool with_if) {
    bool done = false, more = true;
    p->n_waiting = 0;
    if (!wait_for(p, WHOLE, 0, (Step){0})) return false;
    while (more)
        if (!(done ? behind_operand(p, with_if, &done, &more) : operand(p, &done))) return false;
    return true;
}

/* ---- Statements ------------------------------------------------------------------------------ */

/* The next step is the one that jumps. */
static bool open_block(Parser *p, BlockKind kind, bool elif) {
    if (!want(p, p->n_blocks < MAX_BLOCKS, "its blocks are too deep")) return false;
    p->blocks[p->n_blocks++] = (Block){kind, elif, p->j->n_steps};
    return true;
}

/* The block around what stands here; NULL: none of this kind. */
static Block *block(Parser *p, BlockKind kind) {
    Block *b = p->n_blocks > 0 ? &p->blocks[p->n_blocks - 1] : NULL;
    return b && b->kind == kind ? b : NULL;
}

static bool parse_if(Parser *p, bool elif) {
    return next(p) && expression(p, false) && open_block(p, IF_BRANCH, elif) &&
           add_step(p, (Step){.op = JUMP_UNLESS, .takes = 1});
}

static bool parse_else(Parser *p) {
    Block *b = block(p, IF_BRANCH);
    if (!want(p, b, "expected an if before elif or else") || !add_step(p, (Step){.op = JUMP}))
        return false;
    p->j->steps[b->jump].to = p->j->n_steps;
    b->kind = ELSE_BRANCH;
    b->jump = p->j->n_steps - 1;
    return true;
}

static bool parse_endif(Parser *p) {
    bool open = block(p, IF_BRANCH) || block(p, ELSE_BRANCH);
    if (!want(p, open, "expected an if before endif")) return false;
    for (bool more = true; more;) {
        const Block *b = &p->blocks[--p->n_blocks];
        p->j->steps[b->jump].to = p->j->n_steps;
        more = b->elif;
    }
    return next(p);
}

static bool parse_endfor(Parser *p) {
    const Block *b = block(p, FOR);
    if (!want(p, b, "expected a for before endfor") ||
        !add_step(p, (Step){.op = JUMP, .to = b->jump}))
        return false;
    p->j->steps[b->jump].to = p->j->n_steps;
    p->n_blocks--;
    return next(p);
}

static bool parse_for(Parser *p) {
    if (!next(p) || !want(p, p->kind == NAME, "expected a name behind for")) return false;
    Step element = {.op = LOOP_NEXT, .text = p->token};
    return next(p) && want(p, is_name(p, "in"), "expected one name and in behind for") &&
           next(p) && expression(p, false) &&
           add_step(p, (Step){.op = LOOP_BEGIN, .takes = 1}) && open_block(p, FOR, false) &&
           add_step(p, element);
}

static bool parse_set(Parser *p) {
    if (!next(p) || !want(p, p->kind == NAME, "expected a name behind set")) return false;
    Step s = {.op = STORE, .takes = 1, .text = p->token};
    if (!next(p)) return false;
    if (is_sign(p, ".")) {
        s.op = STORE_MEMBER;
        s.value = string(s.text);
        if (!next(p) || !want(p, p->kind == NAME, "expected a name behind set")) return false;
        s.text = p->token;
        if (!next(p)) return false;
    }
    return want(p, is_sign(p, "="), "expected = behind the name that is set") && next(p) &&
           expression(p, true) && add_step(p, s);
}

static bool statement(Parser *p) {
    if (is_name(p, "if")) return parse_if(p, false);
    if (is_name(p, "elif")) return parse_else(p) && parse_if(p, true);
    if (is_name(p, "else")) return parse_else(p) && next(p);
    if (is_name(p, "endif")) return parse_endif(p);
    if (is_name(p, "for")) return parse_for(p);
    if (is_name(p, "endfor")) return parse_endfor(p);
    if (is_name(p, "set")) return parse_set(p);
    /* Where training takes its loss from: nothing that is printed. */
    if (is_name(p, "generation") || is_name(p, "endgeneration")) return next(p);
    return unreadable(p, "the statement");
}

/* ---- Tags ------------------------------------------------------------------------------------ */

/* The end of a tag, and what goes with it: with - all white space behind, else a block's line end.
 */
static bool tag_end(Parser *p, bool block) {
    if (p->kind != END) return unreadable(p, "an expression with");
    bool all = *p->at == '-', nothing = *p->at == '+';
    p->at += 2 + (all || nothing);
    if (all)
        while (is_space(*p->at)) p->at++;
    else if (block && !nothing && *p->at == '\n')
        p->at++;
    return true;
}

static bool comment(Parser *p) {
    char *end = memmem(p->at, (size_t)(p->end - p->at), "#}", 2);
    if (!want(p, end, "a comment does not end")) return false;
    p->at = end - (end > p->at && (end[-1] == '-' || end[-1] == '+'));
    p->kind = END;
    return tag_end(p, true);
}

static bool tag(Parser *p) {
    char kind = p->at[1];
    p->at += 2;
    p->at += *p->at == '-' || *p->at == '+';
    if (kind == '#') return comment(p);
    p->close = kind == '%' ? "%}" : "}}";
    if (!next(p)) return false;
    if (kind == '%') return statement(p) && tag_end(p, true);
    return expression(p, true) && add_step(p, (Step){.op = PRINT, .takes = 1}) &&
           tag_end(p, false);
}

/* The text before a tag, without the blanks that belong to the tag: all white space before one with
 * -, those of its line before a block that stands first on it. begins_line: the text does. */
static bool text_before(Parser *p, const char *from, const char *tag, bool begins_line) {
    const char *to = tag;
    if (tag < p->end && tag[2] == '-') {
        while (to > from && is_space(to[-1])) to--;
    } else if (tag < p->end && tag[1] != '{' && tag[2] != '+') {
        while (to > from && to[-1] != '\n' && is_space(to[-1])) to--;
        if (to > from ? to[-1] != '\n' : !begins_line) to = tag;
    }
    Step s = {.op = PRINT_TEXT, .text = {from, (size_t)(to - from)}};
    return s.text.n == 0 || add_step(p, s);
}

static bool parse(Parser *p) {
    const char *start = p->at;
    while (p->at < p->end) {
        const char *from = p->at;
        while (p->at < p->end &&
               !(sees(p->at, "{{") || sees(p->at, "{%") || sees(p->at, "{#")))
            p->at++;
        if (!text_before(p, from, p->at, from == start || from[-1] == '\n') ||
            (p->at < p->end && !tag(p)))
            return false;
    }
    return want(p, p->n_blocks == 0, "expected an end of every if and for");
}

/* A copy with line ends as Jinja has them: \n, and none at the end. *n: its length. */
static char *copy_lines(const char *text, size_t *n, Error *e) {
    char *copy = alloc_array(e, "chat template", *n + 1, 1), *out = copy;
    if (!copy) return NULL;
    for (size_t i = 0; i < *n; i++) {
        if (text[i] == '\n' && i > 0 && text[i - 1] == '\r') continue;
        *out++ = text[i] == '\r' ? '\n' : text[i];
    }
    if (out > copy && out[-1] == '\n') *--out = 0;
    *n = (size_t)(out - copy);
    return copy;
}

Jinja *jinja_open(const char *text, size_t n, const char *file, Error *e) {
    Jinja *j = alloc_array(e, "chat template", 1, sizeof *j);
    if (!j) return NULL;
    j->file = file;
    j->text = copy_lines(text, &n, e);
    if (j->text) {
        Parser p = {.j = j, .at = j->text, .end = j->text + n, .e = e};
        if (parse(&p) || j->why.text[0]) return j;
    }
    jinja_close(j);
    return NULL;
}

const char *jinja_why(const Jinja *j) { return j->why.text[0] ? j->why.text : NULL; }

void jinja_close(Jinja *j) {
    if (!j) return;
    free(j->steps);
    free(j->text);
    free(j);
}

/* ---- Memory ---------------------------------------------------------------------------------- */

typedef struct {
    Text name;
    Value value;
    size_t space; /* the namespace that it is a member of, from 1; 0: none, it is a variable */
} Variable;

typedef struct {
    Variable list[MAX_VARIABLES];
    size_t n;
} Variables;

typedef struct {
    Value list;
    size_t next, n_variables; /* those from outside */
} Loop;

typedef struct {
    Jinja *j;
    const Json *context;
    Value stack[MAX_STACK]; /* its depth was checked when the steps were made */
    size_t n;
    Variables variables, members;
    size_t n_spaces;
    Loop loops[MAX_BLOCKS]; /* no more than blocks */
    size_t n_loops;
    char *arena;
    size_t used, run; /* of ARENA and MAX_RUN */
    Buffer *out;
    Error *e;
} Run;

static Variable *find(Variables *all, size_t from, Text name, size_t space) {
    for (size_t i = all->n; i-- > from;)
        if (all->list[i].space == space && equal_texts(all->list[i].name, name))
            return &all->list[i];
    return NULL;
}

/* False when there is no more room. */
static bool keep(Variables *all, size_t from, Text name, size_t space, Value v) {
    Variable *place = find(all, from, name, space);
    if (!place && all->n == MAX_VARIABLES) return false;
    if (!place) place = &all->list[all->n++];
    *place = (Variable){name, v, space};
    return true;
}

/* Room for n bytes until the rendering ends; NULL when there is no more. */
static void *take(Run *r, size_t n) {
    size_t size = (n + 15) / 16 * 16;
    if (size > ARENA - r->used) return NULL;
    r->used += size;
    return r->arena + r->used - size;
}

static Value joined(Run *r, Text a, Text b) {
    char *text = take(r, a.n + b.n);
    if (!text) return wrong("too much text");
    memcpy(text, a.at, a.n);
    memcpy(text + a.n, b.at, b.n);
    return string((Text){text, a.n + b.n});
}

/* Of a context, whose numbers are small integers. */
static Value json_value(const Json *v) {
    if (!v) return undefined;
    Text source = {v->source, v->source_len};
    switch (v->kind) {
    case JSON_NULL: return none;
    case JSON_BOOL: return boolean(v->boolean);
    case JSON_NUMBER: return integer((int64_t)v->number);
    case JSON_STRING: return string((Text){v->string, v->string_len});
    case JSON_ARRAY: return (Value){.kind = ARRAY, .json = v->child, .count = v->n, .text = source};
    default: return (Value){.kind = OBJECT, .json = v, .text = source};
    }
}

/* A list of these, as a context has it but for its source. */
static Value list_of(Run *r, const Value *values, size_t n) {
    Json *list = take(r, n * sizeof *list);
    if (!list) return wrong("too much text");
    for (size_t i = 0; i < n; i++) {
        Value v = values[i];
        list[i] = (Json){.next = i + 1 < n ? &list[i + 1] : NULL, .boolean = v.number != 0,
                         .number = (double)v.number, .string = v.text.at, .string_len = v.text.n};
        if (v.kind < NONE || v.kind > STRING) return wrong("a list of what is no plain value");
        list[i].kind = v.kind == NONE ? JSON_NULL : v.kind == BOOLEAN ? JSON_BOOL
                     : v.kind == INTEGER ? JSON_NUMBER : JSON_STRING;
    }
    return (Value){.kind = ARRAY, .json = list, .count = n};
}

/* namespace(name=value, ...): pairs holds names and values in turn. */
static Value make_namespace(Run *r, const Value *pairs, size_t n) {
    size_t space = ++r->n_spaces;
    for (size_t i = 0; i < n; i++)
        if (!keep(&r->members, 0, pairs[2 * i].text, space, pairs[2 * i + 1]))
            return wrong("too many variables");
    return (Value){.kind = NAMESPACE, .number = (int64_t)space};
}

/* ---- Operations ------------------------------------------------------------------------------ */

static bool truth(Value v) {
    switch (v.kind) {
    case BOOLEAN: case INTEGER: return v.number != 0;
    case STRING: return v.text.n > 0;
    case ARRAY: return v.count > 0;
    case OBJECT: return v.json->n > 0;
    case LOOP: case NAMESPACE: return true;
    default: return false;
    }
}

static Value negated(Value v) { return v.kind == WRONG ? v : boolean(!truth(v)); }

/* What is undefined counts as an empty one. */
static bool is_list(Value v) { return v.kind == ARRAY || v.kind == UNDEFINED; }

/* Element i of a list, from its end when i < 0. */
static Value element(Value list, int64_t i) {
    if (i < 0) i += (int64_t)list.count;
    if (i < 0 || i >= (int64_t)list.count) return undefined;
    const Json *v = list.json;
    while (i-- > 0) v = v->next;
    return json_value(v);
}

/* v[from:to] of a list; NONE: from its begin, to its end. */
static Value slice(Value v, Value from, Value to) {
    int64_t n = (int64_t)v.count;
    int64_t a = from.kind == NONE ? 0 : from.number, b = to.kind == NONE ? n : to.number;
    if (v.kind != ARRAY || (from.kind != NONE && from.kind != INTEGER) ||
        (to.kind != NONE && to.kind != INTEGER))
        return wrong("a part of what is no list");
    if (a < 0) a = a + n < 0 ? 0 : a + n;
    if (b < 0) b += n;
    if (b > n) b = n;
    v.text.at = NULL;
    v.count = b > a ? (size_t)(b - a) : 0;
    for (; v.count > 0 && a > 0; a--) v.json = v.json->next;
    return v;
}

static const Json *member(const Json *object, Text name) {
    const Json *v = object->child;
    while (v && !equal_texts((Text){v->key, v->key_len}, name)) v = v->next;
    return v;
}

static Value loop_attribute(const Loop *l, Text name) {
    int64_t i = (int64_t)l->next - 1, count = (int64_t)l->list.count;
    if (same(name, "index0")) return integer(i);
    if (same(name, "index")) return integer(i + 1);
    if (same(name, "first")) return boolean(i == 0);
    if (same(name, "last")) return boolean(i + 1 == count);
    if (same(name, "previtem")) return i > 0 ? element(l->list, i - 1) : undefined;
    if (same(name, "nextitem")) return element(l->list, i + 1);
    return wrong("a member of loop that is not known here");
}

static Value attribute(Run *r, Value v, Text name) {
    if (v.kind == UNDEFINED) return wrong("a member of what is undefined");
    if (v.kind == OBJECT) return json_value(member(v.json, name));
    if (v.kind == LOOP) return loop_attribute(&r->loops[v.number], name);
    if (v.kind != NAMESPACE) return undefined;
    const Variable *m = find(&r->members, 0, name, (size_t)v.number);
    return m ? m->value : undefined;
}

static Value item(Run *r, Value v, Value i) {
    if (v.kind == ARRAY && i.kind == INTEGER) return element(v, i.number);
    return i.kind == STRING ? attribute(r, v, i.text) : wrong("an index into what has none");
}

static Value load(Run *r, Text name) {
    const Variable *v = find(&r->variables, 0, name, 0);
    return v ? v->value : json_value(member(r->context, name));
}

static Value equal(Value x, Value y) {
    if (x.kind == BOOLEAN) x.kind = INTEGER;
    if (y.kind == BOOLEAN) y.kind = INTEGER;
    if (x.kind != y.kind) return boolean(false);
    if (x.kind == INTEGER) return boolean(x.number == y.number);
    if (x.kind == STRING) return boolean(equal_texts(x.text, y.text));
    if (x.kind == ARRAY && (x.count == 0 || y.count == 0)) return boolean(x.count == y.count);
    if (x.kind < STRING) return boolean(true);
    return wrong("a comparison of lists or objects");
}

static Value contains(Value in, Value x) {
    if (in.kind == STRING && x.kind == STRING)
        return boolean(memmem(in.text.at, in.text.n, x.text.at, x.text.n) != NULL);
    if (in.kind == OBJECT && x.kind == STRING) return boolean(member(in.json, x.text) != NULL);
    if (!is_list(in)) return wrong("in of what is no text, list or object");
    Value found = boolean(false);
    for (size_t i = 0; i < in.count && found.kind == BOOLEAN && !found.number; i++)
        found = equal(element(in, (int64_t)i), x);
    return found;
}

/* As it is printed. */
static Value printed(Run *r, Value v) {
    char digits[24];
    if (v.kind == STRING || v.kind == WRONG) return v;
    if (v.kind == UNDEFINED) return string(text_of(""));
    if (v.kind == NONE) return string(text_of("None"));
    if (v.kind == BOOLEAN) return string(text_of(v.number ? "True" : "False"));
    if (v.kind != INTEGER) return wrong("a list or an object that is printed as Python has it");
    snprintf(digits, sizeof digits, "%" PRId64, v.number);
    return joined(r, text_of(digits), text_of(""));
}

static Value arithmetic(Run *r, Operation op, Value x, Value y) {
    if (op == JOIN) {
        x = printed(r, x);
        y = printed(r, y);
        return x.kind == WRONG ? x : y.kind == WRONG ? y : joined(r, x.text, y.text);
    }
    if (op == ADD && x.kind == STRING && y.kind == STRING) return joined(r, x.text, y.text);
    if (x.kind != INTEGER || y.kind != INTEGER || llabs(x.number) > INT32_MAX ||
        llabs(y.number) > INT32_MAX)
        return wrong("arithmetic with what are no numbers, or text joined to none");
    switch (op) {
    case ADD: return integer(x.number + y.number);
    case SUBTRACT: return integer(x.number - y.number);
    case LESS: return boolean(x.number < y.number);
    case LESS_EQUAL: return boolean(x.number <= y.number);
    case GREATER: return boolean(x.number > y.number);
    case GREATER_EQUAL: return boolean(x.number >= y.number);
    default: break;
    }
    if (x.number < 0 || y.number <= 0) return wrong("a remainder of or by less than nothing");
    return integer(x.number % y.number);
}

static Value test(Value v, Text name) {
    if (same(name, "defined")) return boolean(v.kind != UNDEFINED);
    if (same(name, "none")) return boolean(v.kind == NONE);
    if (same(name, "string")) return boolean(v.kind == STRING);
    if (same(name, "mapping")) return boolean(v.kind == OBJECT);
    if (same(name, "sequence") || same(name, "iterable"))
        return boolean(is_list(v) || v.kind == STRING || v.kind == OBJECT);
    return wrong("a test that is not known here");
}

static Value stripped(Text text) {
    while (text.n > 0 && is_space(*text.at)) text.at++, text.n--;
    while (text.n > 0 && is_space(text.at[text.n - 1])) text.n--;
    return string(text);
}

static Value filter(Value v, Text name, size_t n_arguments) {
    if (n_arguments > 0) return wrong("a filter with arguments");
    if (same(name, "tojson") && v.text.at && v.kind >= ARRAY) return string(v.text);
    if (same(name, "trim") && v.kind == STRING) return stripped(v.text);
    if (same(name, "first") && is_list(v)) return element(v, 0);
    if (same(name, "last") && is_list(v)) return element(v, -1);
    if (same(name, "length") && is_list(v)) return integer((int64_t)v.count);
    return wrong("a filter that is not known here");
}

static Value method(Value v, const Step *s, const Value *x) {
    size_t n = s->takes - 1;
    if (v.kind == STRING && n == 0 && same(s->text, "strip")) return stripped(v.text);
    if (v.kind == STRING && n == 1 && x->kind == STRING && same(s->text, "startswith"))
        return boolean(v.text.n >= x->text.n && memcmp(v.text.at, x->text.at, x->text.n) == 0);
    if (v.kind == OBJECT && n == 1 && x->kind == STRING && same(s->text, "get")) {
        const Json *found = member(v.json, x->text);
        return found ? json_value(found) : none;
    }
    return wrong("a method that is not known here");
}

static Value call(Run *r, const Step *s, const Value *x) {
    if (same(s->text, "namespace") && s->takes == 2 * s->named)
        return make_namespace(r, x, s->named);
    if (same(s->text, "raise_exception")) return wrong("an exception that it raises");
    return wrong("a function that is not known here");
}

/* What an expression's step gives for its operands x. */
static Value computed(Run *r, const Step *s, const Value *x) {
    if (s->op == AND) return truth(x[0]) ? x[1] : x[0]; /* no truth in what is WRONG */
    if (s->op == OR) return truth(x[0]) || x[0].kind == WRONG ? x[0] : x[1];
    if (s->op == CHOOSE) return x[1].kind == WRONG ? x[1] : truth(x[1]) ? x[0] : x[2];
    for (size_t i = 0; i < s->takes; i++)
        if (x[i].kind == WRONG) return x[i];
    switch (s->op) {
    case PUSH: return s->value;
    case LOAD: return load(r, s->text);
    case ATTRIBUTE: return attribute(r, x[0], s->text);
    case INDEX: return item(r, x[0], x[1]);
    case SLICE: return slice(x[0], x[1], x[2]);
    case MAKE_LIST: return list_of(r, x, s->takes);
    case CALL: return call(r, s, x);
    case METHOD: return method(x[0], s, x + 1);
    case FILTER: return filter(x[0], s->text, s->takes - 1);
    case TEST: return test(x[0], s->text);
    case NOT: return negated(x[0]);
    case EQUAL: return equal(x[0], x[1]);
    case UNEQUAL: return negated(equal(x[0], x[1]));
    case IN: return contains(x[1], x[0]);
    case NOT_IN: return negated(contains(x[1], x[0]));
    default: return arithmetic(r, s->op, x[0], x[1]);
    }
}

/* ---- Rendering ------------------------------------------------------------------------------- */

static bool stop(Run *r, Value why) {
    return fail(&r->j->why, r->j->file, "chat_template", "%.*s", (int)why.text.n, why.text.at);
}

static bool print(Run *r, Value v) {
    v = printed(r, v);
    return v.kind == WRONG ? stop(r, v) : buffer_add(r->out, v.text.at, v.text.n, r->e);
}

/* A variable is one of the innermost loop around it. */
static bool store(Run *r, Text name, Value v) {
    size_t from = r->n_loops > 0 ? r->loops[r->n_loops - 1].n_variables : 0;
    return keep(&r->variables, from, name, 0, v) || stop(r, wrong("too many variables"));
}

static bool store_member(Run *r, const Step *s, Value v) {
    Value space = load(r, s->value.text);
    if (space.kind != NAMESPACE) return stop(r, wrong("a member set of what is no namespace"));
    return keep(&r->members, 0, s->text, (size_t)space.number, v) ||
           stop(r, wrong("too many variables"));
}

static bool loop_begin(Run *r, Value list) {
    if (!is_list(list)) return stop(r, wrong("a loop over what is no list"));
    r->loops[r->n_loops++] = (Loop){list, 0, r->variables.n};
    return true;
}

/* The loop's variables for its next element; after the last one the loop ends. */
static bool loop_next(Run *r, const Step *s, size_t *at) {
    Loop *l = &r->loops[r->n_loops - 1];
    r->variables.n = l->n_variables;
    if (l->next == l->list.count) {
        r->n_loops--;
        *at = s->to;
        return true;
    }
    Value self = {.kind = LOOP, .number = (int64_t)r->n_loops - 1};
    return store(r, s->text, element(l->list, (int64_t)l->next++)) &&
           store(r, text_of("loop"), self);
}

/* One step; *at is the one behind it. */
static bool step(Run *r, const Step *s, size_t *at) {
    const Value *x = r->stack + (r->n -= s->takes);
    r->run += 1 + s->text.n / 16;
    for (size_t i = 0; i < s->takes; i++) r->run += x[i].text.n / 16;
    if (r->run > MAX_RUN || r->out->n > ARENA) return stop(r, wrong("it does not end"));
    if (s->op >= PUSH) {
        r->stack[r->n++] = computed(r, s, x);
        return true;
    }
    if (s->takes > 0 && x->kind == WRONG) return stop(r, *x);
    switch (s->op) {
    case PRINT_TEXT: return buffer_add(r->out, s->text.at, s->text.n, r->e);
    case PRINT: return print(r, *x);
    case JUMP_UNLESS:
        if (!truth(*x)) *at = s->to;
        return true;
    case LOOP_BEGIN: return loop_begin(r, *x);
    case LOOP_NEXT: return loop_next(r, s, at);
    case STORE: return store(r, s->text, *x);
    case STORE_MEMBER: return store_member(r, s, *x);
    default: *at = s->to; return true; /* JUMP */
    }
}

bool jinja_render(Jinja *j, const Json *context, Buffer *out, Error *e) {
    if (jinja_why(j)) return true;
    Run *r = alloc_array(e, "chat template", 1, sizeof *r);
    if (!r) return false;
    *r = (Run){.j = j, .context = context, .out = out, .e = e};
    r->arena = alloc_array(e, "chat template", ARENA, 1);
    bool ok = r->arena != NULL;
    for (size_t at = 0; ok && at < j->n_steps;) {
        const Step *s = &j->steps[at++];
        ok = step(r, s, &at);
    }
    free(r->arena);
    free(r);
    return ok || jinja_why(j);
}
