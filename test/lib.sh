# shellcheck shell=sh
# lib.sh: what the test scripts share: counting checks, and the line that each script ends with. It
# is sourced; run.sh runs only what is named test_*.sh.
passed=0 failed=0 skipped=0
limit=300 # seconds that `run` gives a command

pass() { passed=$((passed + 1)); }
fail() {
    failed=$((failed + 1))
    echo "FAILED: $*"
}

# skip N WHY: N checks that cannot be made here
skip() {
    skipped=$((skipped + $1))
    echo "skipped $1: $2"
}

# check WHAT COMMAND...: the command must succeed
check() {
    check_what=$1
    shift
    if "$@"; then pass; else fail "$check_what: $*"; fi
}

# same WHAT GOT EXPECTED: two equal texts
same() {
    if [ "$2" = "$3" ]; then pass; else fail "$1: got \"$2\", expected \"$3\""; fi
}

# awk_is NAME N: $scratch/awk/awk is that awk, for the front of PATH; skips its N checks without it
awk_is() {
    if ! awk_path=$(command -v "$1"); then
        skip "$2" "no $1"
        return 1
    fi
    # shellcheck disable=SC2154 # the script that sources this says where
    rm -rf "$scratch/awk" && mkdir "$scratch/awk" && ln -s "$awk_path" "$scratch/awk/awk"
}

# run STATUS WHAT COMMAND...: stdout and stderr go to $out and $err; the exit status must be STATUS
run() {
    run_status=$1 run_what=$2
    shift 2
    # shellcheck disable=SC2154 # the script that sources this says where
    timeout $limit "$@" >"$out" 2>"$err"
    got=$?
    if [ $got -eq "$run_status" ]; then pass; else
        fail "$run_what: exit status $got, expected $run_status: $*" \
            "($(head -n 2 "$err" | cut -c 1-200))"
    fi
}

# number WORD LINE: the number in front of WORD, 0 when there is none
number() { echo "$2" | sed -n "s/.* \([0-9]*\) $1.*/\1/p" | grep . || echo 0; }

# count NAME LOG STATUS: show a test program's skips, failures and last line, and add its numbers.
# One that has no such line, or that says nothing of why STATUS is not 0, has failed.
count() {
    line=$(grep -E '^[a-z_]+: [0-9]+ passed, [0-9]+ failed' "$2" | tail -n 1)
    if [ -z "$line" ] || { [ "$3" -ne 0 ] && [ "${line#* 0 failed}" != "$line" ]; }; then
        tail -n 20 "$2"
        line="$1: 0 passed, 1 failed (it ended with status $3)"
    fi
    grep -E 'FAILED|skipped [0-9]' "$2" | head -n 40
    echo "$line"
    passed=$((passed + $(number passed "$line")))
    failed=$((failed + $(number failed "$line")))
    skipped=$((skipped + $(number skipped "$line")))
}

# finish [NAME]: the line with the numbers; the status is 0 when nothing failed
finish() {
    line="${1:+$1: }$passed passed, $failed failed"
    [ $skipped -eq 0 ] || line="$line, $skipped skipped"
    echo "$line"
    [ $failed -eq 0 ]
}
