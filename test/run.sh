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

# The test scripts first, for some take long, but not with QUICK, for instrumented builds; then the
# test programs.
tests=$(
    [ -n "${QUICK:-}" ] || (cd "$here" && ls test_*.sh)
    for program in "$build/golden" "$build"/test_*; do
        [ -x "$program" ] && [ -f "$program" ] && basename "$program"
    done
)

# Run them, JOBS at a time (1): the name and exit status of each when it has ended.
run_tests() {
    # shellcheck disable=SC2016 # for xargs' shell to expand
    run='case $2 in
        *.sh) sh "$6/$2" "$5" "$4" "$3" "$1/scratch" ;;
        *) "$1/$2" "$3" "$4" "$1/scratch" ;;
        esac >"$1/scratch/$2.log" 2>&1
        echo "$2 $?"'
    echo "$tests" | xargs -P "${JOBS:-1}" -I NAME \
        sh -c "$run" sh "$build" NAME "$golden" "$convert" "$qwen" "$here"
}

run_tests | {
    ran=0
    while read -r name status; do
        count "${name%.sh}" "$scratch/$name.log" "$status"
        ran=$((ran + 1))
    done
    same "tests that ran" $ran "$(echo "$tests" | wc -l)"
    echo
    finish ''
}
