#!/bin/sh
# style.sh: the limits of the house, on every source: lines of up to 100 columns, functions of a
# median of at most 20 lines and none over 100, no notes to come back to, no unbounded string calls,
# no tabs or spaces at the end of a line. The demo's Python, whose lines are its texts, is not
# measured.
cd "$(dirname "$0")/.." || exit 1
status=0
sources=$(find . -path ./build -prune -o \( -name '*.c' -o -name '*.h' \) -print | sort)
scripts="Makefile .ci/run demo/evaluate
$(find . -path ./build -prune -o \( -name '*.sh' -o -name '*.awk' \) -print)"
texts="$sources README.md $scripts"

# refuse WHAT PATTERN FILES...: no line may have it
refuse() {
    what=$1 pattern=$2
    shift 2
    if grep -nE -- "$pattern" "$@"; then
        echo "style: $what"
        status=1
    fi
}

# A function begins at a line that starts with a name and ends in {, and ends at a } in column 0.
measure_functions() {
    # shellcheck disable=SC2086 # the list is words
    awk '
        FNR == 1 { start = 0 }
        /^[A-Za-z_].*\) \{$/ || /^ .*\) \{$/ && !start && !/^ *(if|for|while|switch|else)/ {
            start = FNR
        }
        /^}/ && start {
            print FNR - start + 1, FILENAME ":" start
            start = 0
        }' $sources | sort -n
}

# shellcheck disable=SC2086 # lists of words
{
    refuse "a line over 100 columns" '^.{101}' $sources $scripts
    refuse "a tab or a space at the end of a line" '[ 	]$' $texts
    refuse "a tab" '	' $sources
    refuse "a note to come back to" '\b(TO''DO|FIX''ME|XX''X)\b' $texts
    refuse "an unbounded or unchecked call" \
        '\b(atoi|atol|atof|strcpy|strcat|sprintf|vsprintf|gets) ?\(' $sources
}

functions=$(measure_functions)
n=$(echo "$functions" | wc -l)
median=$(echo "$functions" | sed -n "$(((n + 1) / 2))s/ .*//p")
longest=$(echo "$functions" | tail -n 1)
echo "style: $n functions, median $median lines, longest $longest"
if [ "$median" -gt 20 ] || [ "${longest%% *}" -gt 100 ]; then
    echo "style: functions are too long"
    status=1
fi
exit $status
