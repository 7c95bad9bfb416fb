# checks.awk: counts what a task asked for. awk -v prompt=FILE -v chars=N -f checks.awk ANSWER
#
# ENVIRON["CHECKS"] has the task's checks, one a line, as prompts/README.md explains them. For each
# a line comes out: "ok" or "no", a blank, and what was found. They advise: a sentence is hard to
# define, and the reader decides. `chars` is the number of Chinese characters, counted by the shell.

{ sub(/\r$/, ""); LINE[++N] = $0 }

function say(good, text) { print (good ? "ok" : "no") " " text }

# "3" or "800-1000"
function in_range(value, range,    part, n) {
    n = split(range, part, "-")
    return value >= part[1] + 0 && value <= part[n] + 0
}

function count(value, what, range) {
    say(in_range(value, range), value " " what " (asked " range ")")
}

function trim(s) {
    gsub(/^[ \t]+|[ \t]+$/, "", s)
    return s
}

# Is the text of a line or block only a heading?
function is_heading(s) {
    return s ~ /^#+ / || s ~ /^\*\*[^*]*\*\*:?$/ || s ~ /^-+$/ || s ~ /^\*\*\*+$/
}

# Does the text before a mark end in what is usually an abbreviation?
function is_abbreviated(s) {
    return s ~ /(^|[ ("])(Mr|Mrs|Ms|Dr|Prof|St|vs|etc|e\.g|i\.e|approx|No|[A-Z])$/
}

# Every end mark that is followed by a blank or the line's end ends a sentence, except after what is
# usually an abbreviation, and where a small letter follows; a line that ends without a mark, but
# says something, is one too.
function sentences(    i, s, n, before) {
    for (i = 1; i <= N; i++) {
        s = trim(LINE[i])
        if (s == "" || is_heading(s)) continue
        sub(/^([-*]|[0-9]+[.)])[ \t]+/, "", s)
        gsub(/…/, ".", s)
        gsub(/(。|！|？)(”|’|」|）)*/, "! ", s)
        gsub(/”|’/, "\"", s)
        s = trim(s)
        while (match(s, /[.!?]+[])"'*]*([ \t]+|$)/)) {
            before = substr(s, 1, RSTART - 1)
            s = substr(s, RSTART + RLENGTH)
            if (s == "" || (!is_abbreviated(before) && s !~ /^[a-z]/)) n++
        }
        if (s != "") n++
    }
    return n + 0
}

function paragraphs(    i, n, open, s) {
    for (i = 1; i <= N; i++) {
        s = trim(LINE[i])
        if (s == "") open = 0
        else if (!open && !is_heading(s)) { open = 1; n++ }
    }
    return n + 0
}

function words(    i, n, field) {
    for (i = 1; i <= N; i++) n += split(trim(LINE[i]), field, /[ \t]+/)
    return n + 0
}

# Does a line begin like one of a list?
function is_item(s) {
    if (s ~ /^[ \t]*([-*+]|•)[ \t]/) return 1
    sub(/^[ \t]*(#+ +)?(\*\*)?/, "", s)
    return s ~ /^([(]?[0-9]+[.):]|[0-9]+(、|．)|（[0-9]+）|(Chapter|第)[ 0-9])/ ||
        s ~ /^(第(一|二|三|四|五|六|七|八|九|十)+章|(一|二|三|四|五|六|七|八|九|十)+、)/
}

# Items at the least indentation that occurs; numbered headings are above any list.
function items(    i, n, least, indent) {
    least = 999
    for (i = 1; i <= N; i++) {
        if (!is_item(LINE[i])) continue
        match(LINE[i], /^[ \t]*/)
        indent = LINE[i] ~ /^#/ ? -1 : RLENGTH
        if (indent < least) { least = indent; n = 0 }
        if (indent == least) n++
    }
    return n + 0
}

# The number of strings in a list like ["a", 'b'], -1 where the text is none. LIST_REST: there is
# more around it than a code fence.
function list_length(    text, i, c, quote, n, at) {
    for (i = 1; i <= N; i++) if (LINE[i] !~ /^[ \t]*```/) text = text LINE[i] "\n"
    at = index(text, "[")
    if (at == 0) return -1
    LIST_REST = trim(substr(text, 1, at - 1)) ~ /[^ \n]/
    text = substr(text, at + 1)
    while (1) {
        sub(/^[ \t\n]+/, "", text)
        if (substr(text, 1, 1) == "]" && n > 0) break
        quote = substr(text, 1, 1)
        if (quote != "\"" && quote != "'") return -1
        for (i = 2; i <= length(text); i++) {
            c = substr(text, i, 1)
            if (c == "\\") i++
            else if (c == quote || c == "\n") break
        }
        if (i > length(text) || c == "\n") return -1
        n++
        text = substr(text, i + 1)
        sub(/^[ \t\n]+/, "", text)
        c = substr(text, 1, 1)
        if (c == "]") break
        if (c != ",") return -1
        text = substr(text, 2)
    }
    if (substr(text, 2) ~ /[^ \t\n]/) LIST_REST = 1
    return n
}

function check_list(range,    n) {
    n = list_length()
    if (n < 0) say(0, "a broken list or none (asked " range " strings)")
    else say(in_range(n, range) && !LIST_REST,
             "a list of " n " strings" (LIST_REST ? " with text around it" : "") \
             " (asked " range ")")
}

# Each tag opens once, then closes once, each on a line of its own, one after the other.
function check_tags(names,    name, n, i, k, start_tag, end_tag, wrong, opened, closed, at) {
    n = split(names, name, " ")
    for (k = 1; k <= n; k++) {
        start_tag = "<" name[k] ">"
        end_tag = "</" name[k] ">"
        opened = closed = 0
        for (i = 1; i <= N; i++) {
            if (trim(LINE[i]) == start_tag) { opened++; if (i <= at) closed += 9; at = i }
            else if (trim(LINE[i]) == end_tag) { closed += opened == 1 ? 1 : 9; at = i }
            else if (index(LINE[i], start_tag) || index(LINE[i], end_tag)) closed += 9
        }
        if (opened != 1 || closed != 1) wrong = wrong " " start_tag
    }
    say(wrong == "", wrong == "" ? "tags close" : "tags not one pair on lines of their own:" wrong)
}

function all_text(    i, text) {
    for (i = 1; i <= N; i++) text = text (i > 1 ? "\n" : "") LINE[i]
    return text
}

function check_phrase(phrase,    text, same) {
    text = all_text()
    gsub(/^[ \t\n"'*]+|[ \t\n"'*.!]+$/, "", text)
    gsub(/^(“|‘)|(。|！|”|’)+$/, "", text)
    same = tolower(text) == tolower(phrase)
    say(same, same ? "the exact words" : "not the exact words")
}

# Does s occur, and not inside a longer word or number?
function has_word(text, s,    at, before) {
    before = " "
    while ((at = index(text, s)) > 0) {
        if (at > 1) before = substr(text, at - 1, 1)
        if (!(before ~ /[a-z0-9-]/ && s ~ /^[a-z0-9]/) &&
            !(substr(text, at + length(s), 1) ~ /[a-z0-9]/ && s ~ /[a-z0-9]$/)) return 1
        before = substr(text, at, 1)
        text = substr(text, at + 1)
    }
    return 0
}

# "this|or that"
function check_contains(list,    part, n, i, text) {
    n = split(list, part, "|")
    text = tolower(all_text())
    for (i = 1; i <= n; i++) if (has_word(text, tolower(part[i]))) {
        say(1, "has \"" part[i] "\"")
        return
    }
    say(0, "lacks \"" list "\"")
}

# Years (1000 to 2999) and percentages of a text into to[]: "1742", "12%".
function collect(text, to,    token) {
    gsub(/ ?(percent|per cent|％|%)/, "%", text)
    while (match(text, /[0-9][0-9.,]*%?/)) {
        token = substr(text, RSTART, RLENGTH)
        text = substr(text, RSTART + RLENGTH)
        if (token !~ /%$/) sub(/[.,]+$/, "", token)
        if (token ~ /%$/ || token ~ /^[12][0-9][0-9][0-9]$/) to[token] = 1
    }
}

function check_grounded(    line, text, known, found, t, strange) {
    while ((getline line < prompt) > 0) text = text line "\n"
    close(prompt)
    collect(text, known)
    collect(all_text(), found)
    for (t in found) if (!(t in known)) strange = strange " " t
    say(strange == "",
        strange == "" ? "no strange years or percentages" : "not in the text:" strange)
}

function check_no_table(    table) {
    table = all_text() ~ /\n *\|.*\|/
    say(!table, table ? "a table" : "no table")
}

END {
    n_checks = split(ENVIRON["CHECKS"], check, "\n")
    for (c = 1; c <= n_checks; c++) {
        kind = check[c]
        sub(/ .*/, "", kind)
        arg = trim(substr(check[c], length(kind) + 1))
        if (kind == "sentences") count(sentences(), "sentences", arg)
        else if (kind == "paragraphs") count(paragraphs(), "paragraphs", arg)
        else if (kind == "items") count(items(), "items", arg)
        else if (kind == "words") count(words(), "words", arg)
        else if (kind == "chars") count(chars + 0, "characters", arg)
        else if (kind == "list") check_list(arg)
        else if (kind == "tags") check_tags(arg)
        else if (kind == "phrase") check_phrase(arg)
        else if (kind == "contains") check_contains(arg)
        else if (kind == "grounded") check_grounded()
        else if (kind == "no-table") check_no_table()
        else if (kind != "") say(0, "unknown check \"" kind "\"")
    }
}
