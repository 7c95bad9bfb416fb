/* test_template.c: what chat templates render (jinja.c; the texts are those of Jinja2 3.1), and
 * which family of chat.h renders as they do (template.c). */
#include "../convert/convert.h"
#include "qwen25_template.h"
#include "toy_tokenizer.h"

/* ---- rendering ------------------------------------------------------------------------------- */

static const char context[] =
    "{\"messages\": [{\"role\": \"system\", \"content\": \" Be. \"}, {\"role\": \"user\", "
    "\"content\": \"a'b\\n\"}, {\"role\": \"assistant\", \"content\": \"c\", \"tool_calls\""
    ": [{\"function\": {\"name\": \"f\", \"arguments\": {\"x\": 1}}}]}, {\"role\": \"tool\""
    ", \"content\": \"\"}], \"tools\": [{\"name\": \"t\", \"p\": [1, \"\xc3\xa4""\"]}], \"y"
    "es\": true, \"no\": false, \"n\": 3, \"s\": \"text\", \"empty\": \"\"}";

static const struct {
    const char *text, *want;
} renders[] = {
    {"a {{ 'b' }} c",
     "a b c"},
    {"{{ \"q\\\"\" }}{{ 'it\\'s \\\\ \\n \\t \\r' }}",
     "q\"it's \\ \n \t \r"},
    {"{{ 12 }}{{ true }}{{ None }}{{ false }}{{ none }}{{ True }}{{ False }}{{ undef }}{{ -12 }}"
     "{{ 90 }}",
     "12TrueNoneFalseNoneTrueFalse-1290"},
    {"{{ 1 + 2 - 4 % 3 }} {{ 2 - 1 - 1 }} {{ 7 % 4 % 2 }} {{ 9 % (1 + 3) }} {{ 0 % 3 }} {{ 7 - 2"
     " + 1 }}",
     "2 0 1 1 0 6"},
    {"{{ 'a' ~ 1 ~ none ~ true ~ undef }} {{ 1 ~ 5 % 3 }}",
     "a1NoneTrue 12"},
    {"{{ 'a' + 'b' }}{{ '' + 'c' }}",
     "abc"},
    {"{{ 1 < 2 }}{{ 2 < 2 }}{{ 2 <= 1 }}{{ 2 <= 2 }}{{ 1 > 2 }}{{ 2 > 2 }}{{ 2 >= 2 }}{{ 1 >= 2 "
     "}}{{ 1 + 1 > 1 }}",
     "TrueFalseFalseTrueFalseFalseTrueFalseTrue"},
    {"{{ 1 == true }}{{ 0 == true }}{{ 'a' == 'a' }}{{ 'a' != 'b' }}{{ 'a' == 'ab' }}{{ none == "
     "none }}{{ undef == undef }}{{ none == undef }}{{ messages == 1 }}{{ [] == [] }}{{ messages"
     " != [] }}{{ (1 == 1) == true }}",
     "TrueFalseTrueTrueFalseTrueTrueFalseFalseTrueTrueTrue"},
    {"{{ not true or 'x' and 'y' }}{{ '' or 0 or none or 'z' }}{{ not not 1 }}{{ tools and 'some"
     "' }}{{ empty and 1 }}{{ 1 or 2 and 0 }}{{ not 1 == 2 }}{{ not messages[0] }}{{ 1 and not 0"
     " }}{{ not [] }}|",
     "yzTruesome1TrueFalseTrueTrue|"},
    {"{{ 'a' if n else 'b' }}{{ 'a' if empty }}{{ 1 if no else 2 if no else 3 }}{{ (1 if yes) + "
     "1 }}{{ 'o' if 0 or 1 else 'p' }}{{ 1 if yes else 2 if no else 3 }}|",
     "a32o1|"},
    {"{{ 'b' in 'abc' }}{{ 'x' not in 'abc' }}{{ '' in s }}{{ 2 in [1, 2] }}{{ 'q' in ('a', 'b')"
     " }}{{ 'role' in messages[0] }}{{ 'x' in messages[0] }}{{ 'tool' in ['user', 'tool',] }}{{ "
     "1 in undef }}{{ none in [none] }}{{ true in [false, true] }}{{ not 1 in [1] }}{{ 1 in [] }"
     "}",
     "TrueTrueTrueTrueFalseTrueFalseTrueFalseTrueTrueFalseFalse"},
    {"{{ s is defined }}{{ undef is defined }}{{ none is none }}{{ s is none }}{{ s is not strin"
     "g }}{{ messages[0] is mapping }}{{ messages is mapping }}{{ s is sequence }}{{ n is iterab"
     "le }}{{ messages is iterable }}{{ messages[0] is iterable }}{{ undef is sequence }}{{ not "
     "s is defined }}{{ 1 is string }}{{ undef is not defined }}",
     "TrueFalseTrueFalseFalseTrueFalseTrueFalseTrueTrueTrueFalseFalseTrue"},
    {"{{ messages[0].role }}{{ messages[-1]['role'] }}{{ messages[9] }}{{ messages[-9] }}{{ mess"
     "ages[4] }}{{ messages[0].none }}{{ s.x }}{{ messages[-4].role }}{{ messages.x }}",
     "systemtoolsystem"},
    {"{% for m in messages[1:] %}{{ m.role }} {% endfor %}{% for m in messages[:-2] %}{{ m.role "
     "}} {% endfor %}{% for m in messages[1:3] %}{{ m.role }} {% endfor %}{% for m in messages[-"
     "9:2] %}{{ m.role }} {% endfor %}{% for m in messages[3:1] %}x{% endfor %}{% for m in [1, 2"
     ", 3][1:] %}{{ m }}{% endfor %}{{ messages[:]|length }}{{ messages[-1:]|length }}{{ message"
     "s[2:9]|length }}{{ messages[:-9]|length }}{{ messages[9:]|length }}",
     "user assistant tool system user user assistant system user 2341200"},
    {"{{ tools | tojson }}{{ messages[2].tool_calls[0].function.arguments | tojson }}",
     "[{\"name\": \"t\", \"p\": [1, \"\303\244\"]}]{\"x\": 1}"},
    {"[{{ ' a ' | trim }}][{{ '\\n a\\t'.strip() }}][{{ '  '.strip() }}]{{ messages | length }}{"
     "{ [1, 2] | first }}{{ [1, 2] | last }}{{ ' x'|trim + 'y' }}{{ undef|length }}{{ []|first }"
     "}{{ tools[0].p|last }}",
     "[a][a][]412xy0\303\244"},
    {"{{ s.startswith('te') }}{{ s.startswith('x') }}{{ s.startswith('texts') }}{{ s.startswith("
     "'text') }}{{ messages[0].get('role') }}{{ messages[0].get('nothing') }}",
     "TrueFalseFalseTruesystemNone"},
    {"{% if n == 3 %}a{% elif n %}b{% else %}c{% endif %}{% if no %}a{% elif yes %}b{% else %}c{"
     "% endif %}{% if no %}a{% elif no %}b{% else %}c{% endif %}{% if no %}a{% endif %}{% if no "
     "%}a{% elif no %}b{% endif %}{% if no %}a{% elif no %}b{% elif yes %}{% if yes %}d{% else %"
     "}e{% endif %}{% endif %}f",
     "abcdf"},
    {"{% for m in messages %}{{ loop.index }}{{ loop.index0 }}{{ loop.first }}{{ loop.last }}{{ "
     "loop.previtem.role if not loop.first }}{{ loop.nextitem.role if not loop.last }}{{ 'n' if "
     "loop.nextitem is defined }}{{ 'p' if loop.previtem is defined }}{{ 'l' if loop }}\n{% endf"
     "or %}",
     "10TrueFalseusernl\n21FalseFalsesystemassistantnpl\n32FalseFalseusertoolnpl\n43FalseTrueass"
     "istantpl\n"},
    {"{% for m in messages %}{% for t in tools %}{{ t.name }}{{ loop.index }}{% endfor %}{{ loop"
     ".index }}{% endfor %}{% for m in [] %}x{% endfor %}{% for m in undef %}x{% endfor %}{% for"
     " m in [none, true, 'x', 4] %}{{ m }}{% endfor %}",
     "t11t12t13t14NoneTruex4"},
    {"{% set x = 1 %}{% for m in messages %}{% set x = x + 1 %}{{ x }}{% endfor %}{{ x }}{% if t"
     "rue %}{% set x = 9 %}{% endif %}{{ x }}{% for x in [5] %}{{ x }}{% endfor %}{{ x }}",
     "22221959"},
    {"{% set ns = namespace(a=1, b='x') %}{% for m in messages %}{% set ns.a = ns.a + 1 %}{% end"
     "for %}{{ ns.a }}{{ ns.b }}{{ ns.c }}{% set ns.d = 4 %}{{ ns.d }}{% set two = namespace() %"
     "}{% set two.a = 7 %}{{ ns.a }}{{ two.a }}{{ ns['b'] }}{{ 1 if ns }}{% set a = 8 %}{{ ns.a "
     "}}",
     "5x457x15"},
    {"{# a #}b{#- c -#}\n d {#+ e +#}\n",
     "bd "},
    {"{#-#}\n\n{#--#}\n x",
     "x"},
    {"  {% if yes %}\n  a\n  {% endif %}\nb {% if yes %} c {% endif %}\n  d{{ 1 }}\n",
     "  a\nb  c   d1"},
    {"x \n {%- if yes -%} \n y \n{%- endif -%}\n z",
     "xyz"},
    {"  {%+ if yes +%}\n a{% endif %}\n",
     "  \n a"},
    {"{{- 1 -}} \n {{- 2 }} \n",
     "12 "},
    {"{ {{ 1 }} } {% if yes %}%}{% endif %}{",
     "{ 1 } %}{"},
    {"a\n",
     "a"},
    {"a\n\n",
     "a\n"},
    {"",
     ""},
    {"\n{% if yes %}\n\n{% endif %}\n",
     "\n\n"},
    {"a\r\n{% if yes %}\r\nb\rc{{ 'd\r\ne' }}\r\n{% endif %}\r\n\r\n",
     "a\nb\ncd\ne\n"},
    {"a\034\f{%- if 1 %}\v {% endif %}",
     "a\v "},
    {"{{ raise_exception('no') if no else 'fine' }}{{ messages[9].x if no else 'ok' }}{{ undef.x"
     ".y if undef else '-' }}{{ yes or undef.x.y }}{{ no and undef.x }}",
     "fineok-TrueFalse"},
    {"{{ [1, 'a'] is sequence }}{{ (1, 2)|length }}{{ (1,)|length }}{{ []|length }}{{ (3) }}",
     "True2103"},
    {"{{ messages[1]['con' + 'tent'] }}{{ messages[n - 3].role }}{{ messages[1 if yes else 2].ro"
     "le }}",
     "a'b\nsystemuser"},
    {"{% generation %}x{% endgeneration %}",
     "x"},
    /* what an if passes over, or a loop over nothing, is read and has no effect */
    {"{% set x = 1 %}{% if no %}{% set x = 5 %}{% for m in messages %}{{ m.role }}{% set n.x ="
     " undef.x %}{% endfor %}{% for m in 3 %}{% if undef.x %}a{% elif 1 %}b{% endif %}{% endfo"
     "r %}{{ raise_exception('no') }}{% set ns = namespace(a=1) %}{% elif yes %}{{ x }}{% elif"
     " undef.x %}c{% else %}{{ undef.x }}{% endif %}{% for m in [] %}{{ undef.x }}{% for k in "
     "[1] %}{{ k }}{% endfor %}{% endfor %}{{ ns is defined }}",
     "1False"},
    /* a loop reads its body again */
    {"{% for m in [1, 2, 3] -%}\n  {% if m == 2 %}{% set x = 'a\\tb' %}{{ x }}{% else %}{{ m }"
     "}\n{% endif %} {% for k in [4, 5] %}{% set outer = m %}{{ outer }}{{ k }}{% endfor +%}\n"
     "{%- endfor %}|",
     "1\n 1415a\tb 24253\n 3435|"},
    {"{% for m in [1, 2] %}{% set outer = loop %}{% for k in [3, 4, 5] %}{{ outer.index }}{{ l"
     "oop.index }}{{ outer.last }} {% endfor %}{{ loop.index }}{% endfor %}{{ loop is defined "
     "}}",
     "11False 12False 13False 121True 22True 23True 2False"},
};

/* What is refused, and part of why. */
static const struct {
    const char *text, *why;
} refused[] = {
    /* when it is read */
    {"{% macro f(x) %}{% endmacro %}", "the statement \"macro\""},
    {"{% for k, v in messages %}{% endfor %}", "expected one name and in"},
    {"{% for 1 in messages %}{% endfor %}", "expected a name behind for"},
    {"{% for m of messages %}{% endfor %}", "expected one name and in"},
    {"{% set %}", "expected a name behind set"},
    {"{% set a.1 = 2 %}", "expected a name behind set"},
    {"{% set a %}x{% endset %}", "expected = behind"}, {"{% set a.b + 1 %}", "expected = behind"},
    {"{% if yes %}", "expected an end of every if and for"},
    {"{% for m in messages %}", "expected an end of every if and for"},
    {"{% endif %}", "expected an if before endif"}, {"{% endfor %}", "expected a for before"},
    {"{% if yes %}{% endfor %}", "expected a for before"},
    {"{% for m in messages %}{% else %}{% endfor %}", "expected an if before elif or else"},
    {"{% if yes %}{% else %}{% else %}{% endif %}", "expected an if before elif or else"},
    {"{% elif yes %}", "expected an if before elif or else"}, {"{{ 1", "a tag does not end"},
    {"{{", "a tag does not end"}, {"{{ 'a }}", "a text does not"},
    {"{{ 'a\\", "an escape that is not"}, {"{{ 'a", "a text does not end"},
    {"{{ '\\u0041' }}", "an escape that is not known"}, {"{# a", "a tag does not end"},
    {"{% if", "a tag does not end"}, {"{{ }}", "an expression with \"\""},
    {"{{ 1 1 }}", "an expression with \"1\""}, {"{{ ) }}", "an expression with \")\""},
    {"{{ (1 }}", "an expression with"}, {"{{ [1) }}", "an expression with"},
    {"{{ 1 + }}", "an expression with"}, {"{{ a b }}", "an expression with \"b\""},
    {"{{ a not b }}", "not \"b\""}, {"{{ a is 1 }}", "a test \"1\""}, {"{{ a. }}", "an expression"},
    {"{{ a | 'x' }}", "an expression"}, {"{{ a[] }}", "an expression"},
    {"{{ a[1, 2] }}", "an expression with \",\""}, {"{{ a[1:2:3] }}", "an expression with \":\""},
    {"{{ (1:2) }}", "an expression with \":\""}, {"{{ [,] }}", "an expression with"},
    {"{{ 1234567890 }}", "an expression with"}, {"{{ 1a2 }}", "a number \"1a2\""},
    {"{{ f(a=) }}", "an expression with"}, {"{{ f(a=not) }}", "an expression"},
    {"{{ f(a=1, 2) }}", "an argument before \")\""}, {"{{ f(a=b=1) }}", "an expression with \"=\""},
    {"{{ (a=1) }}", "an expression with \"=\""}, {"{{ a[1:2, 3] }}", "an expression with \",\""},
    {"{{ (1 + ) }}", "an expression with \")\""}, {"{{ () }}", "an expression with \")\""},
    {"{{ 1 if 2 if 3 else 4 }}", "an expression with \"if\""}, {"{{ 1 + not 2 }}", "not"},
    {"{% if 1 if 2 else 3 %}{% endif %}", "an expression with \"if\""},
    {"{% if 0 %}{% elif 1 if 2 %}{% endif %}", "an expression with \"if\""},
    {"{% for m in messages if m %}{% endfor %}", "an expression with \"if\""},
    {"{{ 2 == 2 == 2 }}", "a comparison of a comparison"},
    {"{{ 1 not in 2 < 3 }}", "a comparison of"}, {"{{ -s }}", "a minus before \"s\""},
    {"{{ 2 * 3 }}", "an expression with \"*\""}, {"{{ 1 if 2 else }}", "an expression with"},
    {"{{ 1 else 2 }}", "an expression with"}, {"{{ a ? b }}", "an expression with \"?\""},
    {"{{ {} }}", "an expression with \"{\""},
    {"{% if yes 1 %}{% endif %}", "an expression with \"1\""},
    {"{% for m in [1, 2] %}{% endfor 1 %}", "an expression with \"1\""},
    {"{% if no %}{{ 1 1 }}{% endif %}", "an expression with \"1\""},
    {"{% if yes %}{% elif 1 1 %}{% endif %}", "an expression with \"1\""},
    {"{% for m in [] %}{% include 'x' %}{% endfor %}", "the statement \"include\""},
    {"{% if no %}{% if yes %}{% endfor %}{% endif %}", "expected a for before endfor"},
    /* when it is rendered */
    {"{{ messages }}", "as Python has it"}, {"{{ messages[0] }}", "as Python has it"},
    {"{{ undef.x }}", "a member of what is undefined"}, {"{{ 'a' + 1 }}", "arithmetic"},
    {"{{ 1 + none }}", "arithmetic"}, {"{{ 1 % 0 }}", "a remainder of or by"},
    {"{{ -1 % 2 }}", "a remainder of or by"}, {"{{ 'a' < 'b' }}", "arithmetic"},
    {"{{ messages == messages }}", "a comparison of lists"},
    {"{{ messages[0] in messages }}", "a comparison of lists"},
    {"{{ [undef] }}", "a list of what is"}, {"{{ [[]] }}", "a list of what is no"},
    {"{{ messages[undef:] }}", "a part of what is no list"},
    {"{{ messages[:'a'] }}", "a part of what is no list"}, {"{{ undef[1:] }}", "a part of what is"},
    {"{{ undef[1] }}", "an index into"},
    {"{% for m in tools %}{{ loop.cycle }}{% endfor %}", "loop that is"},
    {"{{ 1 in 2 }}", "in of what is"}, {"{{ 1 not in 2 }}", "in of what is"},
    {"{{ s[0] }}", "an index into what has none"}, {"{{ messages[undef] }}", "an index into"},
    {"{{ s[1:] }}", "a part of what is no list"}, {"{{ messages['a':] }}", "a part of what"},
    {"{{ undef.x[1] }}", "a member of"}, {"{{ undef.x[1:] }}", "a member of"},
    {"{{ undef.x.y }}", "a member of"}, {"{{ undef.x is defined }}", "a member of"},
    {"{{ undef.x | trim }}", "a member of"}, {"{{ undef.x.strip() }}", "a member of"},
    {"{{ not undef.x }}", "a member of"}, {"{{ undef.x + 1 }}", "a member of"},
    {"{{ 1 + undef.x }}", "a member of"}, {"{{ undef.x ~ 1 }}", "a member of"},
    {"{{ 1 ~ messages }}", "as Python has it"}, {"{{ messages ~ 1 }}", "as Python has it"},
    {"{{ undef.x or 1 }}", "a member of"}, {"{{ 1 if undef.x else 2 }}", "a member of"},
    {"{{ [undef.x] }}", "a member of"}, {"{{ namespace(a=undef.x).a }}", "a member of"},
    {"{% set n = namespace(a=undef.x) %}", "a member of"}, {"{% set n = undef.x %}", "a member of"},
    {"{% set n = namespace() %}{% set n.a = undef.x %}", "a member of"},
    {"{% if undef.x %}{% endif %}", "a member of"},
    {"{% for m in undef.x %}{% endfor %}", "a member of"},
    {"{% for m in 3 %}{% endfor %}", "a loop over what is no list"},
    {"{% set n.a = 1 %}", "a member set of what is no namespace"},
    {"{% set n = namespace() %}{% for m in [1] %}{% set n.a = loop %}{% endfor %}", "a loop that"},
    {"{% for m in [1] %}{% set n = namespace(a=loop) %}{% endfor %}", "a loop that is kept"},
    {"{% if no %}{% elif undef.x %}{% endif %}", "a member of"},
    {"{{ s is odd }}", "a test that is not known"}, {"{{ s | upper }}", "a filter that is not"},
    {"{{ 1 | trim }}", "a filter that"}, {"{{ s | tojson }}", "a filter that is not known"},
    {"{{ 3 | length }}", "a filter that is not known"},
    {"{{ messages | tojson(indent=2) }}", "a filter with arguments"},
    {"{{ messages[1:] | tojson }}", "a filter that is"}, {"{{ undef | tojson }}", "a filter that"},
    {"{{ s.upper() }}", "a method that is not known"}, {"{{ s.strip('a') }}", "a method that is"},
    {"{{ s.strip(a=1) }}", "a method that is"}, {"{{ s.startswith(1) }}", "a method that is"},
    {"{{ messages[0].get(1) }}", "a method that is"}, {"{{ n.get('a') }}", "a method that is not"},
    {"{{ range(3) }}", "a function that is not known"}, {"{{ namespace(1) }}", "a function that"},
    {"{{ 3000000000 + 1 }}", "an expression"}, {"{{ namespace() }}", "as Python has it"},
    {"{{ raise_exception('no') }}", "an exception that it raises"},
    {"{{ loop.index }}", "a member of what is undefined"},
};

static bool render(const char *text, const Json *with, Buffer *out, Error *why) {
    Error e;
    return jinja_render(text, strlen(text), "t", with, out, why, &e) && !why->text[0];
}

static void test_render(const Json *with) {
    for (size_t i = 0; i < sizeof renders / sizeof *renders; i++) {
        Buffer out = {0};
        Error e = {{0}};
        bool ok = render(renders[i].text, with, &out, &e) && buffer_puts(&out, "", &e);
        CHECK(ok && strcmp(out.data, renders[i].want) == 0, "%s: got \"%s\" %s", renders[i].text,
              ok ? out.data : "", e.text);
        buffer_free(&out);
    }
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        Buffer out = {0};
        Error e = {{0}};
        bool ok = render(refused[i].text, with, &out, &e);
        CHECK(!ok && strncmp(e.text, "t: chat_template: ", 18) == 0 &&
                  strstr(e.text, refused[i].why),
              "%s: got %s", refused[i].text, e.text);
        buffer_free(&out);
    }
}

/* n times `part`, between two others. */
static void check_many(const char *begin, const char *part, size_t n, const char *end,
                       const Json *with, const char *why) {
    Buffer text = {0}, out = {0};
    Error e = {{0}};
    bool built = buffer_puts(&text, begin, &e);
    for (size_t i = 0; i < n; i++) built = built && buffer_puts(&text, part, &e);
    CHECK(built && buffer_puts(&text, end, &e), "memory");
    bool ok = render(text.data, with, &out, &e);
    CHECK(why ? !ok && strstr(e.text, why) : ok, "%zu times %s: %s", n, part, e.text);
    buffer_free(&text);
    buffer_free(&out);
}

/* What is too long, too deep or does not end. */
static void test_limits(const Json *with) {
    static const char *const twice = "{% set s = s + s %}";
    check_many("", "{{''}}", 18000, "", with, NULL);
    check_many("", "{{''}}", 22000, "", with, "it does not end");
    check_many("{{ ", "(", 60, "1 }}", with, "an expression with");
    check_many("{{ ", "(", 65, "1", with, "an expression is too deep");
    check_many("{{ ", "not ", 65, "1", with, "an expression is too deep");
    check_many("{{ [", "1,", 64, "] | length }}", with, NULL);
    check_many("{{ [", "1,", 65, "] | length }}", with, "too many operands");
    check_many("", "{% if 1 %}", 33, "", with, "its blocks are too deep");
    check_many("", twice, 10, "{{ s }}", with, NULL);
    check_many("", twice, 30, "{{ s }}", with, "too much text");
    check_many("{% set t = 'x' %}", twice, 30, "{{ t ~ s }}", with, "too much text");
    check_many("", "{% for m in messages %}", 12, "{% endfor %}{% endfor %}{% endfor %}"
               "{% endfor %}{% endfor %}{% endfor %}{% endfor %}{% endfor %}{% endfor %}{% endfor "
               "%}{% endfor %}{% endfor %}", with, "it does not end");
    /* long texts that are looked at again and again, and that are printed */
    check_many("{% set s = '", "0123456789abcdef", 16000, "' %}{{ '' if 'x' in s }}", with, NULL);
    check_many("{% set s = '", "0123456789abcdef", 16000, "' %}{% for m in messages %}"
               "{{ '' if 'x' in s }}{{ '' if 'y' in s }}{% endfor %}", with, "it does not end");
    check_many("{% set aaaaaaaaaaaaaaaa", "aaaaaaaaaaaaaaaa", 60000, " = 1 %}", with, NULL);
    check_many("{% for m in messages %}{% set aaaaaaaaaaaaaaaa", "aaaaaaaaaaaaaaaa", 60000,
               " = 1 %}{% endfor %}", with, "it does not end");
    check_many("{{ '", "0123456789abcdef", 16384, "' }}{{ 'a' }}", with, NULL);
    check_many("{{ '0123456789abcdef' }}{{ '", "0123456789abcdef", 16384, "' }}{{ 'a' }}", with,
               "it does not end");
    check_many("{{ 'a", "0123456789abcdef", 16384, "' }}{{ 'a' }}", with, "too much text");
    Buffer text = {0}, members = {0};
    Error e;
    bool ok = buffer_puts(&members, "{% set n = namespace() %}", &e);
    for (int i = 0; i < 70; i++)
        ok = ok && buffer_printf(&text, &e, "{%% set a%d = 1 %%}", i) &&
             buffer_printf(&members, &e, "{%% set n.a%d = 1 %%}", i);
    CHECK(ok, "memory");
    check_many("", text.data, 1, "", with, "too many variables");
    check_many("", members.data, 1, "", with, "too many variables");
    check_many("{% for m in messages %}", "{% set n = namespace(a=1) %}", 20, "{% endfor %}", with,
               "too many variables");
    buffer_free(&text);
    buffer_free(&members);
}

/* A template cut anywhere is never read behind its end. */
static void test_cut(const Json *with) {
    static const char text[] = QWEN25_TEMPLATE("Be.");
    for (size_t n = 0; n < sizeof text; n++) {
        char *copy = malloc(n + 1);
        if (!copy) return;
        memcpy(copy, text, n);
        Buffer out = {0};
        Error e = {{0}}, why;
        CHECK(jinja_render(copy, n, "t", with, &out, &why, &e), "cut at %zu: %s", n, e.text);
        buffer_free(&out);
        free(copy);
    }
}

/* ---- recognising ----------------------------------------------------------------------------- */

#define LOOP(body) "{% for message in messages %}" body "{% endfor %}"
#define ASK "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
#define MESSAGE "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n'}}"
#define SYSTEM(text)                                                                               \
    "{% if loop.first and message.role != 'system' %}{{ '<|im_start|>system\n" text               \
    "<|im_end|>\n' }}{% endif %}"
/* As one program for training writes them: the reply is opened behind every question. */
#define TURNS(default)                                                                             \
    default "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}"       \
    "{% set system_message = messages[0]['content'] %}{% else %}"                                  \
    "{% set loop_messages = messages %}{% endif %}{% if system_message is defined %}"              \
    "{{ '<|im_start|>system\\n' + system_message + '<|im_end|>\\n' }}{% endif %}"                  \
    "{% for message in loop_messages %}{% set content = message['content'] %}"                     \
    "{% if message['role'] == 'user' %}{{ '<|im_start|>user\\n' + content + "                      \
    "'<|im_end|>\\n<|im_start|>assistant\\n' }}{% elif message['role'] == 'assistant' %}"          \
    "{{ content + '<|im_end|>' + '\\n' }}{% endif %}{% endfor %}"
#define EARLY                                                                                      \
    LOOP("{{ '<|im_start|>' + message.role + '\n' + message.content }}"                           \
         "{% if add_generation_prompt or not loop.last %}{{ '<|im_end|>\n' }}{% endif %}")        \
    "{% if add_generation_prompt and messages[-1].role != 'assistant' %}"                          \
    "{{ '<|im_start|>assistant\n' }}{% endif %}"

typedef struct {
    const char *text;
    ChatFamily family;  /* CHAT_NONE: refused */
    const char *system; /* expected, NULL: none; of what is refused a part of why */
} Known;

static const Known known[] = {
    {LOOP(MESSAGE) ASK, CHAT_QWEN2, NULL},
    {LOOP(SYSTEM("Be a toy.") MESSAGE) ASK, CHAT_QWEN2, "Be a toy."},
    {LOOP(SYSTEM("") MESSAGE) ASK, CHAT_QWEN2, ""},
    {LOOP(SYSTEM("It\\'s \\\"x\\\" \\\\boxed{}.\\n!") MESSAGE) ASK, CHAT_QWEN2,
     "It's \"x\" \\boxed{}.\n!"},
    {LOOP(SYSTEM("You should think of tools.") MESSAGE) ASK, CHAT_QWEN2,
     "You should think of tools."},
    {"{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}"
     "{% endif %}" LOOP(MESSAGE) ASK, CHAT_QWEN2, NULL},
    {EARLY, CHAT_QWEN15_EARLY, NULL},
    {TURNS(""), CHAT_QWEN2, NULL},
    {TURNS("{% set system_message = 'Be a toy.' %}"), CHAT_QWEN2, "Be a toy."},
    {QWEN25_TEMPLATE("Be a toy."), CHAT_QWEN25, "Be a toy."},
    {QWEN25_TEMPLATE(""), CHAT_QWEN25, ""},
    /* tools in another way: without tools it is as good */
    {"{% if tools %}{{ tools }}{% endif %}" LOOP(MESSAGE) ASK, CHAT_QWEN2, NULL},
    /* refused */
    {"", CHAT_NONE, "got \"\""},
    {"{{ messages }}", CHAT_NONE, "as Python has it"},
    {"{% include 'x' %}", CHAT_NONE, "the statement \"include\""},
    {LOOP(MESSAGE), CHAT_NONE, "expected one that renders as Qwen's (ChatML), \"o<|im_end|>\\x0a"
     "<|im_start|>\", got \"o<|im_end|>\\x0a\""},
    {LOOP("[INST] {{ message['content'] }} [/INST]") ASK, CHAT_NONE, "got \"[INST] Hello"},
    {LOOP(MESSAGE) ASK "{{ '<think>\n' }}", CHAT_NONE, "assistant\\x0a<think>"},
    {"{{ bos_token + 'x' }}" LOOP(MESSAGE) ASK, CHAT_NONE, "arithmetic"},
    {"<s>" LOOP(MESSAGE) ASK, CHAT_NONE, "got \"<s>"},
    {"{{ '<|im_start|>system\nBe.<|im_end|>\n' }}" LOOP(MESSAGE) ASK, CHAT_NONE,
     "got \"art|>system\\x0aBe.<|im_end|"},
    {LOOP("{{'<|im_start|>' + message['role'] + '\n' + message['content'] | trim + "
          "'<|im_end|>\n'}}") ASK, CHAT_NONE, "expected one"},
    {LOOP("{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '\n<|im_end|>\n'}}")
     ASK, CHAT_NONE, "got \"|>user\\x0aHello\\x0a<|im_end|"},
    {LOOP("{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>'}}") ASK,
     CHAT_NONE, "expected one"},
    {LOOP("{{'<|im_start|>' + message['role'] + '\nQuestion: ' + message['content'] + "
          "'<|im_end|>\n'}}") ASK, CHAT_NONE, "Question: "},
    {LOOP("{% if message.role == 'system' %}{{ '<|im_start|>system\nBe good.\n' + "
          "message.content + '<|im_end|>\n' }}{% else %}" MESSAGE "{% endif %}") ASK, CHAT_NONE,
     "Be good."},
    {LOOP("{{'<|im_start|>' + message['role'] + '\n' + message['content'] }}{% if not loop.last %}"
          "{{ '<|im_end|>\n'}}{% endif %}") ASK, CHAT_NONE, "expected one"},
    {LOOP(MESSAGE) ASK "{{ 'Sure, ' if add_generation_prompt }}", CHAT_NONE, "Sure, "},
    {LOOP(MESSAGE) "{% if add_generation_prompt %}{{ '<|im_start|>assistant' }}{% endif %}",
     CHAT_NONE, "expected one"},
    {LOOP(SYSTEM("This system message does not fit into the room.") MESSAGE) ASK, CHAT_NONE,
     "unusable default system message, expected at most 31 bytes"},
};

static void check_known(const Toy *toy, const Known *k, size_t n, size_t i) {
    Error e = {{0}};
    char system[32];
    ChatTemplate found;
    bool ok = template_detect(k->text, n, toy->tok, &found, system, sizeof system, "t", &e, &e);
    if (k->family == CHAT_NONE) {
        CHECK(ok && found.family == CHAT_NONE && !strncmp(e.text, "t: chat_template: ", 18) &&
                  strstr(e.text, k->system),
              "template %zu: %s", i, e.text);
        return;
    }
    CHECK(ok && found.family == k->family, "template %zu: %s", i, ok ? "family" : e.text);
    CHECK(found.has_default_system == (k->system != NULL), "template %zu: a default or not", i);
    CHECK(ok && !strcmp(system, k->system ? k->system : "") &&
              found.default_system_len == strlen(system) && found.default_system == system,
          "template %zu: %s", i, system);
}

/* With tools it has another default: its tools are not Qwen2.5's. And a NUL in a default. */
static void test_detect(const Toy *toy) {
    char text[] = QWEN25_TEMPLATE("Be a toy."), nul[] = LOOP(SYSTEM("Be ?.") MESSAGE) ASK;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        check_known(toy, &known[i], strlen(known[i].text), i);
    *strstr(text, "toy.") = 'b';
    check_known(toy, &(Known){text, CHAT_QWEN2, "Be a toy."}, strlen(text), 100);
    *strchr(nul, '?') = 0;
    check_known(toy, &(Known){nul, CHAT_NONE, "without a NUL"}, sizeof nul - 1, 101);
}

int main(void) {
    Error e;
    JsonDoc *doc = json_parse(context, sizeof context - 1, "context", &e);
    CHECK(doc, "%s", e.text);
    if (doc) {
        test_render(json_root(doc));
        test_limits(json_root(doc));
        test_cut(json_root(doc));
    }
    json_free(doc);
    Toy toy = toy_open(4), bare = toy_open(1);
    if (toy.tok) test_detect(&toy);
    if (bare.tok)
        check_known(&bare, &(Known){LOOP(MESSAGE) ASK, CHAT_NONE, "the tokenizer has no"},
                    sizeof LOOP(MESSAGE) ASK - 1, 102);
    toy_close(&toy);
    toy_close(&bare);
    return test_end("template");
}
