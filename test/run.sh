#!/bin/sh
# run.sh BUILD QWEN CONVERT GOLDEN: run every test program and script, and add up what they count.
# Each ends with "name: N passed, N failed[, N skipped]"; one that does not has failed.
build=$1 qwen=$2 convert=$3 golden=$4
case $qwen in */*) ;; *) qwen=./$qwen ;; esac
case $convert in */*) ;; *) convert=./$convert ;; esac
export QWEN="$qwen" CONVERT="$convert"
here=$(dirname "$0")
scratch=$build/scratch
rm -rf "$scratch"
mkdir -p "$scratch"
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"

names=$(for program in "$build/golden" "$build"/test_*; do
    [ -x "$program" ] && [ -f "$program" ] && basename "$program"
done)

# The test programs, JOBS at a time (1): the name and exit status of each when it has ended.
programs() {
    # shellcheck disable=SC2016 # for xargs' shell to expand
    run='"$1/$2" "$3" "$4" "$1/scratch" >"$1/scratch/$2.log" 2>&1; echo "$2 $?"'
    echo "$names" |
        xargs -P "${JOBS:-1}" -I NAME sh -c "$run" sh "$build" NAME "$golden" "$convert"
}

programs | {
    ran=0
    while read -r name status; do
        count "$name" "$scratch/$name.log" "$status"
        ran=$((ran + 1))
    done
    same "test programs that ran" $ran "$(echo "$names" | wc -l)"
    for script in "$here"/test_*.sh; do
        [ -z "${QUICK:-}" ] || break # the programs alone, for instrumented builds
        name=$(basename "$script" .sh)
        sh "$script" "$qwen" "$convert" "$golden" "$scratch" >"$scratch/$name.log" 2>&1
        count "$name" "$scratch/$name.log" $?
    done
    echo
    finish ''
}
