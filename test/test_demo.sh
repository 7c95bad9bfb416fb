#!/bin/sh
# test_demo.sh QWEN CONVERT GOLDEN SCRATCH: the demo model: its size, its figures against the
# targets of demo/README.md, and its run of the catalogue.
set -u
qwen=$1 convert=$2 scratch=$4/demo
root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"
exec </dev/null
case $qwen in /*) ;; *) qwen=$(pwd)/$qwen ;; esac
case $convert in /*) ;; *) convert=$(pwd)/$convert ;; esac
mkdir -p "$scratch"

# holds WHAT VALUE OPERATOR LIMIT: compare two numbers
holds() {
    if [ -n "$2" ] && awk -v a="$2" -v b="$4" "BEGIN { exit !(a $3 b) }"; then
        pass
    else
        fail "$1: got ${2:-nothing}, expected $3 $4"
    fi
}

# figure EXPRESSION: what the sed expression finds in the evaluation's output
figure() { sed -n "$1" "$scratch/figures"; }

holds "bytes of the checkpoint" "$(cat "$root"/demo/model/* | wc -c)" "<=" 12000000

QWEN=$qwen CONVERT=$convert EVALUATE_DIR=$scratch/evaluate sh "$root/demo/evaluate" --short \
    >"$scratch/figures" 2>&1
holds "exit status of demo/evaluate" $? "==" 0
holds "perplexity, f32" "$(figure 's/^f32 perplexity \([0-9.]*\)$/\1/p')" "<" 4
holds "KL divergence, q8" "$(figure 's/^q8 .* f32 \([^ ]*\) per token/\1/p')" "<=" 0.001
holds "KL divergence, q5" "$(figure 's/^q5 .* f32 \([^ ]*\) per token/\1/p')" "<=" 0.01
holds "KL divergence, q4" "$(figure 's/^q4 .* f32 \([^ ]*\) per token/\1/p')" "<=" 0.01
holds "KL divergence, q5 from q8's" "$(figure 's/^q5 .* f32 \([^ ]*\) per token/\1/p')" ">" \
    "$(figure 's/^q8 .* f32 \([^ ]*\) per token/\1/p')"
holds "answers in the asked form, in percent" "$(figure 's/^form \([0-9.]*\)%.*/\1/p')" ">=" 90
holds "longer answers that end, in percent" "$(figure 's/^ends \([0-9.]*\)%.*/\1/p')" ">=" 95

QWEN=$qwen sh "$root/run_bench.sh" "$scratch/evaluate/q8.bin" --prompts demo --auto --threads 1 \
    --run demo --results "$scratch/results" >"$scratch/run" 2>&1
holds "exit status of the catalogue" $? "==" 0
holds "tasks of the catalogue that ended by themselves" \
    "$(grep -c ',stop,' "$scratch/results/demo.csv")" "==" 14

[ $failed -gt 0 ] || rm -rf "$scratch"
finish demo
