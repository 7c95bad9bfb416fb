/* jinja.c: the part of Jinja that chat templates are written in, to see what they render
 * (https://jinja.palletsprojects.com/en/stable/templates/; block tags take a line end with them, as
 * transformers has it). What is not known here is refused, never guessed. In this order:
 *
 *   Values         what expressions are made of
 *   Rendering      its state, errors and limits
 *   Memory         texts, lists and variables
 *   Operations     what operators, tests, filters and methods give
 *   Tokens         names, numbers, quoted texts and signs of a tag
 *   Expressions    computed as they are read: operators wait on a stack for their operands
 *   Statements     if, for and set; open ones wait on a stack for their end
 *   Tags           and the text between them
 *
 * A template is rendered as it is read: a loop goes back to its body for every element, and what an
 * if passes over, or a loop over nothing, is read too, but not rendered. So all of it has to be
 * known here. Nothing recurs. An expression has no side effects, so both sides of "and", "or" and
 * "if else" are computed; what is wrong in one of them (WRONG: a member of what is undefined, an
 * unknown filter) matters only where it is printed, kept or decides something. */
#include <inttypes.h>
#include <stdlib.h>

#include "convert.h"

#define MAX_STACK 64     /* operands, and operators that wait for theirs */
#define MAX_BLOCKS 32    /* open tags inside each other */
#define MAX_VARIABLES 64 /* visible at once */
#define MAX_STEPS 100000 /* of reading and computing */
#define ARENA (1u << 18) /* bytes of texts that one rendering makes, and of what it prints */

/* ---- Values ---------------------------------------------------------------------------------- */

typedef struct {
    const char *at; /* (n) */
    size_t n;
} Text;

typedef enum {
    NONE = JSON_NULL, BOOLEAN, INTEGER, STRING, ARRAY, OBJECT, /* the kinds of json.h */
    UNDEFINED, LOOP, NAMESPACE, WRONG
} Kind;

typedef struct Value {
    Kind kind;
    int64_t number;           /* BOOLEAN, INTEGER; LOOP, NAMESPACE: which one */
    Text text;                /* STRING; WRONG: what is wrong; others: source, NULL: has none */
    size_t count;             /* ARRAY, OBJECT: elements or members */
    const Json *first;        /* of them ... */
    const struct Value *made; /* ... or, when the template made the list, its elements */
} Value;

static const Value undefined = {.kind = UNDEFINED}, none = {.kind = NONE};

static bool is_space(char c) { return (c >= '\t' && c <= '\r') || (c >= '\x1c' && c <= ' '); }
static Text text_of(const char *words) { return (Text){words, strlen(words)}; }
static bool equal_texts(Text a, Text b) { return compare_bytes(a.at, a.n, b.at, b.n) == 0; }
static bool same(Text text, const char *word) { return equal_texts(text, text_of(word)); }

static Value string(Text text) { return (Value){.kind = STRING, .text = text}; }
static Value integer(int64_t i) { return (Value){.kind = INTEGER, .number = i}; }
static Value boolean(bool b) { return (Value){.kind = BOOLEAN, .number = b}; }
static Value wrong(const char *why) { return (Value){.kind = WRONG, .text = text_of(why)}; }

/* Of a context, whose numbers are small integers. */
static Value json_value(const Json *v) {
    if (!v) return undefined;
    if (v->kind == JSON_STRING) return string((Text){v->string, v->string_len});
    return (Value){.kind = (Kind)v->kind, .number = v->boolean ? 1 : (int64_t)v->number,
                   .text = {v->source, v->source_len}, .count = v->n, .first = v->child};
}

/* ---- Rendering ------------------------------------------------------------------------------- */

typedef enum {
    LOAD,      /* -> variable `name` */
    ATTRIBUTE, /* object -> its member `name` */
    INDEX,     /* object, index -> */
    SLICE,     /* list, from, to -> */
    MAKE_LIST, /* values -> */
    CALL,      /* arguments -> what function `name` gives: values, then names with values */
    METHOD,    /* object, arguments -> */
    FILTER,    /* the same */
    TEST,      /* value -> boolean */
    NOT, OR, AND, EQUAL, UNEQUAL, IN, NOT_IN, LESS, LESS_EQUAL, GREATER, GREATER_EQUAL,
    ADD, SUBTRACT, MODULO, JOIN,
    IF, CHOOSE /* yes, condition -> and, with an else, yes, condition, no -> */
} Operation;

/* What has to be computed, and what it waits for. */
typedef enum {
    WHOLE, CONDITION,      /* the end of an expression, which may have an inline if or not */
    OPERATOR,              /* its last operand */
    PAREN, TUPLE, LIST,    /* ( before and behind a comma, [ */
    ITEM,                  /* [ of an index or a slice */
    ARGUMENTS, NAMED_VALUE /* ( of a call, and behind name= */
} WaitingKind;
typedef struct {
    WaitingKind kind;
    int rank; /* of an OPERATOR: the higher binds first; of others 0 */
    Operation op;
    size_t takes;      /* operands */
    size_t named;      /* of the arguments: those with a name, two operands each */
    const char *close; /* of a bracket */
    Text name;
} Waiting;

/* An open statement. */
typedef enum { FOR, IF_BRANCH, ELSE_BRANCH } BlockKind;
typedef struct {
    BlockKind kind;
    bool live;        /* what is around it */
    bool chosen;      /* IF_BRANCH: one of its branches was */
    Text name;        /* FOR: of the element */
    Value list;
    size_t next;      /* element */
    const char *body; /* the end of the tag before it */
    size_t scope;     /* of what is around it */
} Block;

typedef struct {
    Text name;
    Value value;
    size_t space; /* the namespace that it is a member of, from 1; 0: none, it is a variable */
} Variable;

typedef struct {
    Variable list[MAX_VARIABLES];
    size_t n;
} Variables;

typedef enum { END, NAME, NUMBER, QUOTED, SIGN } TokenKind;

/* Once it has failed, every token is an END and all loops stop; only the first error is kept. */
typedef struct {
    bool failed;
    bool live;                  /* what is read is rendered */
    const char *text, *end;     /* the template; *end is 0 */
    const char *at;             /* what is not read yet */
    const char *close;          /* what ends this tag */
    TokenKind kind;             /* the token at hand */
    Text token;
    bool has_operand;           /* it stands behind an operand */
    Waiting waiting[MAX_STACK];
    Value stack[MAX_STACK];     /* operands */
    size_t n_waiting, n;        /* n: of the stack */
    Block blocks[MAX_BLOCKS];
    size_t n_blocks, scope;     /* scope: where the variables of the innermost loop begin */
    Variables variables, members;
    size_t n_spaces;
    char *arena;
    size_t used, steps;         /* of ARENA and MAX_STEPS */
    const Json *context;
    Buffer *out;
    const char *file;
    Error *why, *e;
} Rendering;

/* Is all well still? */
static bool want(Rendering *r, bool there, const char *why) {
    if (!there && !r->failed) fail(r->why, r->file, "chat_template", "%s", why);
    r->failed = r->failed || !there;
    return !r->failed;
}

static void unreadable(Rendering *r, const char *what) {
    char shown[40], why[100];
    printable(shown, sizeof shown, r->token.at, min_size(r->token.n, 8));
    snprintf(why, sizeof why, "%s \"%s\" is not known here", what, shown);
    want(r, false, why);
}

/* A step of reading or computing, and one more for every 16 bytes that it looks at. */
static void count_step(Rendering *r, size_t bytes) {
    r->steps += 1 + bytes / 16;
    want(r, r->steps <= MAX_STEPS && r->out->n <= ARENA, "it does not end");
}

/* A value that is printed, kept or decides something: false if it does not, or cannot. */
static bool usable(Rendering *r, Value v) {
    return r->live && want(r, v.kind != WRONG, v.text.at);
}

/* ---- Memory ---------------------------------------------------------------------------------- */

/* Room for n bytes until the rendering ends; NULL when there is no more. */
static void *take(Rendering *r, size_t n) {
    size_t size = (n + 15) / 16 * 16;
    if (size > ARENA - r->used) return NULL;
    r->used += size;
    return r->arena + r->used - size;
}

static Value joined(Rendering *r, Text a, Text b) {
    char *text = take(r, a.n + b.n);
    if (!text) return wrong("too much text");
    memcpy(text, a.at, a.n);
    memcpy(text + a.n, b.at, b.n);
    return string((Text){text, a.n + b.n});
}

static Value list_of(Rendering *r, const Value *values, size_t n) {
    Value *list = take(r, n * sizeof *list);
    if (!list) return wrong("too much text");
    for (size_t i = 0; i < n; i++) {
        if (values[i].kind > STRING) return wrong("a list of what is no plain value");
        list[i] = values[i];
    }
    return (Value){.kind = ARRAY, .made = list, .count = n};
}

static Variable *find(Variables *all, size_t from, Text name, size_t space) {
    for (size_t i = all->n; i-- > from;)
        if (all->list[i].space == space && equal_texts(all->list[i].name, name))
            return &all->list[i];
    return NULL;
}

static void keep(Rendering *r, Variables *all, size_t from, Text name, size_t space, Value v) {
    Variable *place = find(all, from, name, space);
    if (!place && !want(r, all->n < MAX_VARIABLES, "too many variables")) return;
    if (!place) place = &all->list[all->n++];
    *place = (Variable){name, v, space};
}

/* A variable is one of the innermost loop around it. */
static void store(Rendering *r, Text name, Value v) {
    keep(r, &r->variables, r->scope, name, 0, v);
}

static void store_member(Rendering *r, Value space, Text name, Value v) {
    if (want(r, space.kind == NAMESPACE, "a member set of what is no namespace") &&
        want(r, v.kind != LOOP, "a loop that is kept"))
        keep(r, &r->members, 0, name, (size_t)space.number, v);
}

/* namespace(name=value, ...): pairs holds names and values in turn. */
static Value make_namespace(Rendering *r, const Value *pairs, size_t n) {
    if (!r->live) return undefined;
    Value space = {.kind = NAMESPACE, .number = (int64_t)++r->n_spaces};
    for (size_t i = 0; i < n; i++)
        store_member(r, space, pairs[2 * i].text, pairs[2 * i + 1]);
    return space;
}

/* ---- Operations ------------------------------------------------------------------------------ */

static bool truth(Value v) {
    switch (v.kind) {
    case BOOLEAN: case INTEGER: return v.number != 0;
    case STRING: return v.text.n > 0;
    case ARRAY: case OBJECT: return v.count > 0;
    default: return v.kind == LOOP || v.kind == NAMESPACE;
    }
}

static Value inverse(Value v) { return v.kind == WRONG ? v : boolean(!truth(v)); }

/* What is undefined counts as an empty one. */
static bool is_list(Value v) { return v.kind == ARRAY || v.kind == UNDEFINED; }

/* Element i of a list, from its end when i < 0. */
static Value element(Value list, int64_t i) {
    if (i < 0) i += (int64_t)list.count;
    if (i < 0 || i >= (int64_t)list.count) return undefined;
    if (list.made) return list.made[i];
    const Json *v = list.first;
    while (i-- > 0) v = v->next;
    return json_value(v);
}

/* v[from:to] of a list */
static Value slice(Value v, Value from, Value to) {
    if (v.kind != ARRAY || from.kind != INTEGER || to.kind != INTEGER)
        return wrong("a part of what is no list");
    int64_t n = (int64_t)v.count, a = from.number, b = to.number;
    if (a < 0) a = a + n < 0 ? 0 : a + n;
    if (b < 0) b += n;
    if (b > n) b = n;
    v.text.at = NULL;
    v.count = b > a ? (size_t)(b - a) : 0;
    if (v.made && v.count > 0) v.made += a;
    for (; !v.made && v.count > 0 && a > 0; a--) v.first = v.first->next;
    return v;
}

static const Json *member(const Json *first, Text name) {
    const Json *v = first;
    while (v && !equal_texts((Text){v->key, v->key_len}, name)) v = v->next;
    return v;
}

static Value loop_attribute(const Block *l, Text name) {
    int64_t i = (int64_t)l->next - 1, count = (int64_t)l->list.count;
    if (same(name, "index0")) return integer(i);
    if (same(name, "index")) return integer(i + 1);
    if (same(name, "first")) return boolean(i == 0);
    if (same(name, "last")) return boolean(i + 1 == count);
    if (same(name, "previtem")) return i > 0 ? element(l->list, i - 1) : undefined;
    if (same(name, "nextitem")) return element(l->list, i + 1);
    return wrong("a member of loop that is not known here");
}

static Value attribute(Rendering *r, Value v, Text name) {
    if (v.kind == UNDEFINED) return wrong("a member of what is undefined");
    if (v.kind == OBJECT) return json_value(member(v.first, name));
    if (v.kind == LOOP) return loop_attribute(&r->blocks[v.number], name);
    if (v.kind != NAMESPACE) return undefined;
    const Variable *m = find(&r->members, 0, name, (size_t)v.number);
    return m ? m->value : undefined;
}

static Value item(Rendering *r, Value v, Value i) {
    if (v.kind == ARRAY && i.kind == INTEGER) return element(v, i.number);
    return i.kind == STRING ? attribute(r, v, i.text) : wrong("an index into what has none");
}

static Value load(Rendering *r, Text name) {
    if (same(name, "none") || same(name, "None")) return none;
    if (same(name, "true") || same(name, "True")) return boolean(true);
    if (same(name, "false") || same(name, "False")) return boolean(false);
    const Variable *v = find(&r->variables, 0, name, 0);
    return v ? v->value : json_value(member(r->context->child, name));
}

static Value equal(Value x, Value y) {
    if (x.kind == BOOLEAN) x.kind = INTEGER;
    if (y.kind == BOOLEAN) y.kind = INTEGER;
    if (x.kind != y.kind) return boolean(false);
    if (x.kind == INTEGER) return boolean(x.number == y.number);
    if (x.kind == STRING) return boolean(equal_texts(x.text, y.text));
    if (x.kind == ARRAY && (x.count == 0 || y.count == 0)) return boolean(x.count == y.count);
    if (x.kind == NONE || x.kind == UNDEFINED) return boolean(true);
    return wrong("a comparison of lists or objects");
}

static Value contains(Value in, Value x) {
    if (in.kind == STRING && x.kind == STRING)
        return boolean(memmem(in.text.at, in.text.n, x.text.at, x.text.n) != NULL);
    if (in.kind == OBJECT && x.kind == STRING) return boolean(member(in.first, x.text) != NULL);
    if (!is_list(in)) return wrong("in of what is no text, list or object");
    Value found = boolean(false);
    for (size_t i = 0; i < in.count && found.kind == BOOLEAN && !found.number; i++)
        found = equal(element(in, (int64_t)i), x);
    return found;
}

/* As it is printed. */
static Value printed(Rendering *r, Value v) {
    char digits[24];
    if (v.kind == STRING || v.kind == WRONG) return v;
    if (v.kind == UNDEFINED) return string(text_of(""));
    if (v.kind == NONE) return string(text_of("None"));
    if (v.kind == BOOLEAN) return string(text_of(v.number ? "True" : "False"));
    if (v.kind != INTEGER) return wrong("a list or an object that is printed as Python has it");
    snprintf(digits, sizeof digits, "%" PRId64, v.number);
    return joined(r, text_of(digits), text_of(""));
}

static Value arithmetic(Rendering *r, Operation op, Value x, Value y) {
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
    if (same(name, "tojson") && v.text.at && (v.kind == ARRAY || v.kind == OBJECT))
        return string(v.text);
    if (same(name, "trim") && v.kind == STRING) return stripped(v.text);
    if (same(name, "first") && is_list(v)) return element(v, 0);
    if (same(name, "last") && is_list(v)) return element(v, -1);
    if (same(name, "length") && is_list(v)) return integer((int64_t)v.count);
    return wrong("a filter that is not known here");
}

static Value method(Value v, Text name, const Value *x, size_t n) {
    if (v.kind == STRING && n == 0 && same(name, "strip")) return stripped(v.text);
    if (v.kind == STRING && n == 1 && x->kind == STRING && same(name, "startswith"))
        return boolean(v.text.n >= x->text.n && memcmp(v.text.at, x->text.at, x->text.n) == 0);
    if (v.kind == OBJECT && n == 1 && x->kind == STRING && same(name, "get")) {
        const Json *found = member(v.first, x->text);
        return found ? json_value(found) : none;
    }
    return wrong("a method that is not known here");
}

static Value call(Rendering *r, const Waiting *w, const Value *x) {
    if (same(w->name, "namespace") && w->takes == 2 * w->named)
        return make_namespace(r, x, w->named);
    if (same(w->name, "raise_exception")) return wrong("an exception that it raises");
    return wrong("a function that is not known here");
}

/* What an operation gives for its operands x. */
static Value computed(Rendering *r, const Waiting *w, const Value *x) {
    if (w->op == AND) return truth(x[0]) ? x[1] : x[0]; /* no truth in what is WRONG */
    if (w->op == OR) return truth(x[0]) || x[0].kind == WRONG ? x[0] : x[1];
    if (w->op == IF || w->op == CHOOSE) {
        Value no = w->op == IF ? undefined : x[2];
        return x[1].kind == WRONG ? x[1] : truth(x[1]) ? x[0] : no;
    }
    for (size_t i = 0; i < w->takes; i++)
        if (x[i].kind == WRONG) return x[i];
    switch (w->op) {
    case LOAD: return load(r, w->name);
    case ATTRIBUTE: return attribute(r, x[0], w->name);
    case INDEX: return item(r, x[0], x[1]);
    case SLICE: return slice(x[0], x[1], x[2]);
    case MAKE_LIST: return list_of(r, x, w->takes);
    case CALL: return call(r, w, x);
    case METHOD: return method(x[0], w->name, x + 1, w->takes - 1);
    case FILTER: return filter(x[0], w->name, w->takes - 1);
    case TEST: return test(x[0], w->name);
    case NOT: return inverse(x[0]);
    case EQUAL: return equal(x[0], x[1]);
    case UNEQUAL: return inverse(equal(x[0], x[1]));
    case IN: return contains(x[1], x[0]);
    case NOT_IN: return inverse(contains(x[1], x[0]));
    default: return arithmetic(r, w->op, x[0], x[1]);
    }
}

/* ---- Tokens ---------------------------------------------------------------------------------- */

static bool is_digit(char c) { return c >= '0' && c <= '9'; }
static bool is_word(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || is_digit(c);
}
static bool sees(const char *at, const char *word) { return !strncmp(at, word, strlen(word)); }

static void skip_space(Rendering *r) {
    const char *from = r->at;
    while (is_space(*r->at)) r->at++;
    count_step(r, (size_t)(r->at - from));
}

/* Does the tag end here? A sign before its end is part of that. */
static bool sees_close(const Rendering *r) {
    bool sign = *r->at == '-' || *r->at == '+';
    return sees(r->at + sign, r->close);
}

/* A quoted text is copied, with its escapes, which are Python's, replaced. */
static void next_quoted(Rendering *r) {
    static const char from[] = "\\'\"nrt", to[] = "\\'\"\n\r\t";
    char quote = *r->at++, *copy = r->arena + r->used;
    size_t n = 0;
    r->kind = QUOTED;
    for (; r->at < r->end && *r->at != quote; r->at++) {
        char c = *r->at;
        if (c == '\\') {
            const char *known = memchr(from, *++r->at, sizeof from - 1);
            if (!want(r, known, "an escape that is not known here")) return;
            c = to[known - from];
        }
        if (!want(r, n < ARENA - r->used, "too much text")) return;
        copy[n++] = c;
    }
    r->token = (Text){take(r, n), n};
    if (want(r, r->at < r->end, "a text does not end")) r->at++;
}

/* The next token of the tag. END leaves the tag's own end for tag_end. */
static void next(Rendering *r) {
    skip_space(r);
    r->kind = END;
    r->token = (Text){r->at, 0};
    if (!want(r, r->at < r->end, "a tag does not end") || sees_close(r)) return;
    if (*r->at == '\'' || *r->at == '"') {
        next_quoted(r);
    } else if (is_word(*r->at)) {
        r->kind = is_digit(*r->at) ? NUMBER : NAME;
        while (is_word(*r->at)) r->at++;
    } else {
        r->kind = SIGN;
        r->at++;
        if (*r->at == '=' && strchr("=!<>", r->at[-1])) r->at++;
    }
    if (r->kind != QUOTED) r->token.n = (size_t)(r->at - r->token.at);
    count_step(r, r->token.n);
}

/* Is this name or sign at hand? */
static bool is(const Rendering *r, const char *word) {
    return (r->kind == NAME || r->kind == SIGN) && same(r->token, word);
}

/* ... and goes on to the next token if so. */
static bool accept(Rendering *r, const char *word) {
    bool found = is(r, word);
    if (found) next(r);
    return found;
}

/* The token at hand, which has to be a name. */
static Text expect_name(Rendering *r, const char *why) {
    Text found = r->token;
    if (want(r, r->kind == NAME, why)) next(r);
    return found;
}

/* ---- Expressions ----------------------------------------------------------------------------- */

enum { RANK_IF = 1, RANK_OR, RANK_AND, RANK_NOT, RANK_COMPARE, RANK_ADD, RANK_JOIN, RANK_MODULO };

static Waiting *top(Rendering *r) { return &r->waiting[r->n_waiting - 1]; }

/* What the token at hand begins has to be an operand, for this. */
static void wait_for(Rendering *r, Waiting w) {
    if (want(r, r->n_waiting < MAX_STACK, "an expression is too deep"))
        r->waiting[r->n_waiting++] = w;
    r->has_operand = false;
}

static void push(Rendering *r, Value v) {
    if (want(r, r->n < MAX_STACK, "too many operands")) r->stack[r->n++] = v;
    r->has_operand = true;
}

/* Its operands are there. */
static void compute(Rendering *r, Waiting w) {
    if (r->failed) return;
    r->n -= w.takes;
    for (size_t i = 0; i < w.takes; i++) count_step(r, r->stack[r->n + i].text.n);
    push(r, computed(r, &w, r->stack + r->n));
}

/* What waits and binds at least as strongly as `rank` has its operands now. */
static void settle(Rendering *r, int rank) {
    while (top(r)->rank >= rank) compute(r, r->waiting[--r->n_waiting]);
}

/* A text or a number; false: something else. */
static bool literal(Rendering *r) {
    bool negative = accept(r, "-");
    Value v = string(r->token);
    if (r->kind == NUMBER && r->token.n <= 9) {
        char *stop;
        v = integer(strtoll(r->token.at, &stop, 10));
        if (stop != r->token.at + r->token.n) unreadable(r, "a number");
        if (negative) v.number = -v.number;
    } else if (negative) {
        unreadable(r, "a minus before");
    } else if (r->kind != QUOTED) {
        return false;
    }
    push(r, v);
    next(r);
    return true;
}

/* A name as the `plain` operation has it; as `called` has it, if arguments follow. */
static void name(Rendering *r, Operation plain, Operation called) {
    Waiting w = {ARGUMENTS, .op = plain, .takes = plain != LOAD, .close = ")", .name = r->token};
    if (r->kind != NAME) unreadable(r, "an expression with");
    next(r);
    if (accept(r, "(")) {
        w.op = called;
        wait_for(r, w);
    } else if (plain == LOAD && top(r)->kind == ARGUMENTS && accept(r, "=")) {
        top(r)->kind = NAMED_VALUE;
        top(r)->named++;
        top(r)->takes++;
        push(r, string(w.name));
        r->has_operand = false;
    } else {
        compute(r, w);
    }
}

static void close_bracket(Rendering *r) {
    Waiting w = r->waiting[--r->n_waiting];
    if (w.kind != PAREN) compute(r, w);
    next(r);
}

/* The token at hand begins an operand. */
static void operand(Rendering *r) {
    const Waiting *w = top(r);
    if (w->rank <= RANK_NOT && accept(r, "not"))
        wait_for(r, (Waiting){OPERATOR, RANK_NOT, NOT, .takes = 1});
    else if (accept(r, "("))
        wait_for(r, (Waiting){PAREN, .op = MAKE_LIST, .close = ")"});
    else if (accept(r, "["))
        wait_for(r, (Waiting){LIST, .op = MAKE_LIST, .close = "]"});
    else if ((w->kind == LIST || w->kind == TUPLE || w->kind == ARGUMENTS) && is(r, w->close))
        close_bracket(r);
    else if (w->kind == ITEM && is(r, w->op == INDEX ? ":" : "]"))
        push(r, integer(w->op == INDEX ? 0 : INT64_MAX)); /* the whole begin or end */
    else if (!literal(r))
        name(r, LOAD, CALL);
}

/* is NAME, is not NAME: behind the is. */
static void test_of(Rendering *r) {
    bool negated = accept(r, "not");
    if (r->kind != NAME) unreadable(r, "a test");
    compute(r, (Waiting){.op = TEST, .takes = 1, .name = r->token});
    if (negated) compute(r, (Waiting){.op = NOT, .takes = 1});
    next(r);
}

static const struct {
    const char *sign;
    Operation op;
    int rank;
} infixes[] = {{"if", IF, RANK_IF},          {"else", CHOOSE, RANK_IF},
               {"or", OR, RANK_OR},          {"and", AND, RANK_AND},
               {"in", IN, RANK_COMPARE},     {"~", JOIN, RANK_JOIN},
               {"==", EQUAL, RANK_COMPARE},  {"!=", UNEQUAL, RANK_COMPARE},
               {"<", LESS, RANK_COMPARE},    {"<=", LESS_EQUAL, RANK_COMPARE},
               {">", GREATER, RANK_COMPARE}, {">=", GREATER_EQUAL, RANK_COMPARE},
               {"+", ADD, RANK_ADD},         {"-", SUBTRACT, RANK_ADD},
               {"%", MODULO, RANK_MODULO}};

/* An operator between two operands, which waits for the second; false: something else. */
static bool infix(Rendering *r) {
    bool negated = accept(r, "not");
    if (negated && !is(r, "in")) unreadable(r, "not");
    for (size_t i = 0; i < sizeof infixes / sizeof *infixes; i++) {
        if (!is(r, infixes[i].sign)) continue;
        Operation op = negated ? NOT_IN : infixes[i].op;
        int rank = infixes[i].rank;
        settle(r, rank == RANK_COMPARE || rank == RANK_IF ? rank + 1 : rank);
        const Waiting *w = top(r);
        /* a < b < c would be a < b and b < c */
        want(r, rank != RANK_COMPARE || w->rank != rank, "a comparison of a comparison");
        /* Jinja has no inline if in an if's condition or a for's list, nor before another's else */
        if (op == IF ? w->kind == CONDITION || w->op == IF : op == CHOOSE && w->op != IF)
            unreadable(r, "an expression with");
        if (op == CHOOSE) r->n_waiting--; /* the if: this one takes its place */
        next(r);
        wait_for(r, (Waiting){OPERATOR, rank, op, .takes = op == CHOOSE ? 3 : 2});
        return true;
    }
    return false;
}

/* A comma, a colon or a closing bracket; or the expression's end. */
static void punctuation(Rendering *r) {
    settle(r, RANK_IF);
    Waiting *w = top(r);
    if (w->kind == WHOLE || w->kind == CONDITION) {
        r->n_waiting--;
        return;
    }
    if (w->kind == ARGUMENTS && w->named > 0) unreadable(r, "an argument before");
    if (w->kind == NAMED_VALUE) w->kind = ARGUMENTS;
    w->takes++;
    if (is(r, w->close)) {
        close_bracket(r);
        return;
    }
    bool colon = w->op == INDEX && is(r, ":"), comma = w->kind != ITEM && is(r, ",");
    if (!colon && !comma) unreadable(r, "an expression with");
    if (colon) w->op = SLICE;
    if (w->kind == PAREN) w->kind = TUPLE;
    r->has_operand = false;
    next(r);
}

/* What stands behind an operand. */
static void behind_operand(Rendering *r) {
    if (accept(r, "."))
        name(r, ATTRIBUTE, METHOD);
    else if (accept(r, "|"))
        name(r, FILTER, FILTER);
    else if (accept(r, "is"))
        test_of(r);
    else if (accept(r, "["))
        wait_for(r, (Waiting){ITEM, .op = INDEX, .takes = 1, .close = "]"});
    else if (!infix(r))
        punctuation(r);
}

/* An expression, up to what cannot belong to it: the token at hand then. */
static Value expression(Rendering *r, WaitingKind kind) {
    r->n = r->n_waiting = 0;
    wait_for(r, (Waiting){.kind = kind});
    while (r->n_waiting > 0 && !r->failed)
        if (r->has_operand)
            behind_operand(r);
        else
            operand(r);
    if (r->kind != END) unreadable(r, "an expression with");
    return r->stack[0];
}

/* ---- Statements ------------------------------------------------------------------------------ */

/* A block that stands in what is around it, `live` or not. */
static Block *open_block(Rendering *r, BlockKind kind) {
    if (!want(r, r->n_blocks < MAX_BLOCKS, "its blocks are too deep")) return NULL;
    Block *b = &r->blocks[r->n_blocks++];
    *b = (Block){kind, .live = r->live, .scope = r->scope};
    return b;
}

/* The innermost block, if it is of this kind or that. */
static Block *find_block(Rendering *r, BlockKind this, BlockKind that, const char *why) {
    Block *b = r->n_blocks > 0 ? &r->blocks[r->n_blocks - 1] : NULL;
    return want(r, b && (b->kind == this || b->kind == that), why) ? b : NULL;
}

/* The next branch is rendered if none was and its condition, behind an if, is true. */
static void branch(Rendering *r, Block *b, bool has_condition) {
    if (!b) return;
    r->live = b->live && !b->chosen;
    Value v = has_condition ? expression(r, CONDITION) : boolean(true);
    r->live = usable(r, v) && truth(v);
    b->chosen = b->chosen || r->live;
    if (!has_condition) b->kind = ELSE_BRANCH;
}

/* What is around it goes on. */
static void close_block(Rendering *r, const Block *b) {
    if (!b) return;
    r->live = b->live;
    r->scope = b->scope;
    r->n_blocks--;
}

/* The loop's variables for its next element; at first, and again at its end. */
static void next_element(Rendering *r, Block *b) {
    r->variables.n = r->scope;
    store(r, b->name, element(b->list, (int64_t)b->next++));
    store(r, text_of("loop"), (Value){.kind = LOOP, .number = b - r->blocks});
}

static void begin_for(Rendering *r) {
    Text name = expect_name(r, "expected a name behind for");
    want(r, accept(r, "in"), "expected one name and in behind for");
    Value list = expression(r, CONDITION);
    Block *b = open_block(r, FOR);
    if (!b) return;
    r->live = usable(r, list) && want(r, is_list(list), "a loop over what is no list") &&
              list.count > 0;
    r->scope = r->variables.n;
    b->name = name;
    b->list = list;
    b->body = r->at;
    if (r->live) next_element(r, b);
}

static void end_for(Rendering *r) {
    Block *b = find_block(r, FOR, FOR, "expected a for before endfor");
    if (!b) return;
    if (r->live && b->next < b->list.count) {
        next_element(r, b);
        r->at = b->body;
    } else {
        r->variables.n = r->scope;
        close_block(r, b);
    }
}

static void set(Rendering *r) {
    static const char why[] = "expected a name behind set";
    Text name = expect_name(r, why);
    Text member = accept(r, ".") ? expect_name(r, why) : text_of("");
    want(r, accept(r, "="), "expected = behind the name that is set");
    Value v = expression(r, WHOLE);
    if (!usable(r, v)) return;
    if (member.n > 0)
        store_member(r, load(r, name), member, v);
    else
        store(r, name, v);
}

static void statement(Rendering *r) {
    static const char no_if[] = "expected an if before elif or else";
    if (accept(r, "if"))
        branch(r, open_block(r, IF_BRANCH), true);
    else if (accept(r, "elif"))
        branch(r, find_block(r, IF_BRANCH, IF_BRANCH, no_if), true);
    else if (accept(r, "else"))
        branch(r, find_block(r, IF_BRANCH, IF_BRANCH, no_if), false);
    else if (accept(r, "endif"))
        close_block(r, find_block(r, IF_BRANCH, ELSE_BRANCH, "expected an if before endif"));
    else if (accept(r, "for"))
        begin_for(r);
    else if (accept(r, "endfor"))
        end_for(r);
    else if (accept(r, "set"))
        set(r);
    /* where training takes its loss from: nothing that is printed */
    else if (!accept(r, "generation") && !accept(r, "endgeneration"))
        unreadable(r, "the statement");
}

/* ---- Tags ------------------------------------------------------------------------------------ */

static void print(Rendering *r, Value v) {
    v = printed(r, v);
    if (usable(r, v) && !buffer_add(r->out, v.text.at, v.text.n, r->e)) r->failed = true;
}

/* The end of a tag; with - all white space behind it goes too, else the line end behind a block. */
static void tag_end(Rendering *r, bool block) {
    if (r->kind != END) unreadable(r, "an expression with");
    if (r->failed) return;
    bool all = *r->at == '-', nothing = *r->at == '+';
    r->at += 2 + (all || nothing);
    if (all)
        skip_space(r);
    else if (block && !nothing && *r->at == '\n')
        r->at++;
}

static void tag(Rendering *r) {
    const char *from = r->at, kind = from[1];
    size_t used = r->used;
    r->close = kind == '{' ? "}}" : kind == '%' ? "%}" : "#}";
    r->at += 2;
    r->at += *r->at == '-' || *r->at == '+';
    while (kind == '#' && r->at < r->end && !sees_close(r)) r->at++;
    count_step(r, (size_t)(r->at - from));
    next(r);
    if (kind == '{') print(r, expression(r, WHOLE));
    if (kind == '%') statement(r);
    if (kind == '{' || !r->live) r->used = used; /* nothing was kept */
    tag_end(r, kind != '{');
}

/* The text before a tag, without the blanks that belong to the tag: all white space before one with
 * -, those of its line before a block that stands first on it. */
static void text_before(Rendering *r, const char *from, const char *tag) {
    const char *to = tag;
    if (tag < r->end && tag[2] == '-') {
        while (to > from && is_space(to[-1])) to--;
    } else if (tag < r->end && tag[1] != '{' && tag[2] != '+') {
        while (to > from && to[-1] != '\n' && is_space(to[-1])) to--;
        if (to > r->text && to[-1] != '\n') to = tag;
    }
    count_step(r, (size_t)(tag - from));
    print(r, string((Text){from, (size_t)(to - from)}));
}

static void render(Rendering *r) {
    while (r->at < r->end && !r->failed) {
        const char *from = r->at;
        while (r->at < r->end && !sees(r->at, "{{") && !sees(r->at, "{%") && !sees(r->at, "{#"))
            r->at++;
        text_before(r, from, r->at);
        if (r->at < r->end) tag(r);
    }
    want(r, r->n_blocks == 0, "expected an end of every if and for");
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

bool jinja_render(const char *text, size_t n, const char *file, const Json *context, Buffer *out,
                  Error *why, Error *e) {
    why->text[0] = 0;
    char *copy = copy_lines(text, &n, e), *arena = alloc_array(e, "chat template", ARENA, 1);
    Rendering *r = alloc_array(e, "chat template", 1, sizeof *r);
    bool ok = copy && arena && r;
    if (ok) {
        *r = (Rendering){.live = true, .text = copy, .end = copy + n, .at = copy, .arena = arena,
                         .context = context, .out = out, .file = file, .why = why, .e = e};
        render(r);
        ok = !r->failed || why->text[0];
    }
    free(r);
    free(arena);
    free(copy);
    return ok;
}
