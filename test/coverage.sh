#!/bin/sh
# coverage.sh BUILD: after the tests ran in BUILD (SAN=cov): which part of the parsers, the writer,
# the tokenizer and the sampler they executed, in lines and in branches, from gcov. The lines that
# never ran are in BUILD/gcov/*.gcov, marked #####.
build=$(cd "$1" && pwd) root=$(dirname "$0")/..
rm -rf "$build/gcov" && mkdir -p "$build/gcov" || exit 1
files='base.c json.c model.c tokenizer.c chat.c convert/gguf.c convert/hf.c convert/jinja.c
convert/lora.c convert/plan.c convert/quant.c convert/safetensors.c convert/source.c
convert/template.c convert/tokens.c convert/write.c convert/info.c convert/main.c'

# numbers FROM TO FILE...: "LINES-RUN LINES BRANCHES-TAKEN BRANCHES" of a source file, its lines
# from FROM to TO. Where it was compiled into several programs, what one of them executed counts.
numbers() {
    from=$1 to=$2
    shift 2
    awk -F: -v from="$from" -v to="$to" '
        /^branch/ {
            if (inside) { at = line " " ++n; known[at]; if (!/never executed|taken 0/) taken[at] }
            next
        }
        /^(function|call)/ { next }
        {
            if ($2 + 0 != line) n = 0
            line = $2 + 0; inside = line >= from && line <= to; count = $1; gsub(/[ *]/, "", count)
        }
        inside && line > 0 && count != "-" { there[line]; if (count !~ /^[#=]/) run[line] }
        END {
            for (i in there) lines++
            for (i in run) ran++
            for (i in known) branches++
            for (i in taken) took++
            print ran + 0, lines + 0, took + 0, branches + 0
        }' "$@"
}

# row NAME LINES-RUN LINES BRANCHES-TAKEN BRANCHES
row() {
    awk -v name="$1" -v a="$2" -v b="$3" -v c="$4" -v d="$5" 'BEGIN {
        printf "%-24s %5d of %5d lines %6.1f %%   %5d of %5d branches %6.1f %%\n", name, a, b,
            b ? 100 * a / b : 0, c, d, d ? 100 * c / d : 0 }'
}

(cd "$root" && for file in $files; do
    gcov -b -c -l -p -o "$build/${file%.c}.gcda" "$file" >/dev/null 2>&1
    mv -- *"$(echo "$file" | tr / '#')".gcov "$build/gcov/$(basename "$file").gcov" 2>/dev/null
    rm -f -- *.gcov
done)
total='0 0 0 0'
for file in $files; do
    found=$build/gcov/$(basename "$file").gcov
    [ -f "$found" ] || { echo "$file: no test ran it"; continue; }
    counts=$(numbers 1 1000000 "$found")
    # shellcheck disable=SC2086 # numbers
    row "$file" $counts
    # shellcheck disable=SC2086
    total=$(echo $total $counts | awk '{ print $1 + $5, $2 + $6, $3 + $7, $4 + $8 }')
done

# The sampler is a section of qwen.c, which is a program, and which test_engine includes.
(cd "$root" && gcov -b -c -o "$build/qwen.gcda" qwen.c >/dev/null 2>&1
    mv -- qwen.c.gcov "$build/gcov/qwen.c.gcov" && rm -f -- *.gcov
    gcov -b -c -o "$build/test_engine-test_engine.gcda" test/test_engine.c >/dev/null 2>&1
    mv -- qwen.c.gcov "$build/gcov/engine.c.gcov" && rm -f -- *.gcov)
from=$(grep -n '^/\* ---- [0-9]*. Sampler' "$root/qwen.c" | cut -d: -f1)
to=$(grep -n '^/\* ---- [0-9]*. Session -' "$root/qwen.c" | cut -d: -f1)
if [ -f "$build/gcov/qwen.c.gcov" ] && [ -f "$build/gcov/engine.c.gcov" ] &&
    [ -n "$from" ] && [ -n "$to" ]; then
    counts=$(numbers "$from" "$to" "$build/gcov/qwen.c.gcov" "$build/gcov/engine.c.gcov")
    # shellcheck disable=SC2086
    row "qwen.c: sampler" $counts
    # shellcheck disable=SC2086
    total=$(echo $total $counts | awk '{ print $1 + $5, $2 + $6, $3 + $7, $4 + $8 }')
fi
# shellcheck disable=SC2086
row "all of these" $total
