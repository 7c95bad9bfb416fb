#!/bin/sh
# run.sh BUILD QWEN CONVERT GOLDEN: run every test program and script, and add up what they count. Each
# ends with "name: N passed, N failed[, N skipped]"; one that does not has failed.
build=$1 qwen=$2 convert=$3 golden=$4
case $qwen in */*) ;; *) qwen=./$qwen ;; esac
case $convert in */*) ;; *) convert=./$convert ;; esac
export QWEN="$qwen" CONVERT="$convert"
here=$(dirname "$0")
scratch=$build/scratch
rm -rf "$scratch"
mkdir -p "$scratch"
passed=0 failed=0 skipped=0

# number WORD LINE: the number in front of WORD, 0 when there is none
number() { echo "$2" | sed -n "s/.* \([0-9]*\) $1.*/\1/p" | grep . || echo 0; }

# count NAME COMMAND...: run it, show its last line, add its numbers
count() {
    name=$1
    shift
    "$@" >"$scratch/$name.log" 2>&1
    status=$?
    line=$(grep -E '^[a-z_]+: [0-9]+ passed, [0-9]+ failed' "$scratch/$name.log" | tail -n 1)
    if [ -z "$line" ] || { [ $status -ne 0 ] && [ "${line#* 0 failed}" != "$line" ]; }; then
        tail -n 20 "$scratch/$name.log"
        line="$name: 0 passed, 1 failed (it ended with status $status)"
    fi
    grep -E 'FAILED|skipped [0-9]' "$scratch/$name.log" | head -n 40
    echo "$line"
    passed=$((passed + $(number passed "$line")))
    failed=$((failed + $(number failed "$line")))
    skipped=$((skipped + $(number skipped "$line")))
}

for program in "$build"/test_*; do
    [ -x "$program" ] && [ -f "$program" ] && count "$(basename "$program")" "$program" "$golden"
done
count golden "$build/golden" "$golden" "$convert" "$scratch"
# QUICK: the programs alone, for instrumented builds
for script in "$here"/test_*.sh; do
    [ -z "${QUICK:-}" ] && [ -f "$script" ] && count "$(basename "$script" .sh)" sh "$script" "$qwen" "$convert" "$golden" "$scratch"
done

echo
if [ $skipped -gt 0 ]; then
    echo "$passed passed, $failed failed, $skipped skipped"
else
    echo "$passed passed, $failed failed"
fi
[ $failed -eq 0 ]
