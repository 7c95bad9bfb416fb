#!/bin/sh
# test_compare.sh QWEN CONVERT GOLDEN SCRATCH: docs/compare.sh. Its arithmetic and its order on
# stand-ins that give known figures, then the real ./qwen with a tiny model beside a stand-in for
# llama-bench.
#
# shellcheck disable=SC2016 # $ in single quotes: as it is meant
LC_ALL=C
export LC_ALL
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
compare=$here/../docs/compare.sh
absolute() { echo "$(cd "$(dirname "$1")" && pwd)/$(basename "$1")"; }
real_qwen=$(absolute "$1") real_convert=$(absolute "$2") golden=$3
rm -rf "$4/compare"
mkdir -p "$4/compare/bin" "$4/compare/tmp" "$4/compare/alone" &&
    scratch=$(cd "$4/compare" && pwd) || exit 1
make_tiny=$scratch/../../make_tiny
out=$scratch/out err=$scratch/err
TMPDIR=$scratch/tmp QWEN=$scratch/bin/qwen CONVERT=$scratch/bin/convert
CALLS=$scratch/calls FIGURES=$scratch/figures
export TMPDIR QWEN CONVERT CALLS FIGURES

# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$here/lib.sh"

# compare STATUS WHAT ARGUMENT...: run compare.sh; its status, and that nothing of it is left
compare() {
    : >"$CALLS"
    wanted=$1 name=$2
    shift 2
    run "$wanted" "$name" "$compare" "$@"
    same "$name: its temporary files are gone" "$(ls "$scratch/tmp")" ""
}
# refuse STATUS WHAT TEXT ARGUMENT...: one line on stderr that holds TEXT
refuse() {
    wanted=$1 name=$2 text=$3
    shift 3
    compare "$wanted" "$name" "$@"
    same "$name: one line" "$(wc -l <"$err" | tr -d ' ')" 1
    check "$name: \"$text\"" grep -q -e "^compare: .*$text" "$err"
}
# row NAME [FILE]: the rows that begin so, blanks squeezed
row() { sed -n "/^$1 /{s/  */ /g;p;}" "$out"; }

# ---- Stand-ins -----------------------------------------------------------------------------------

# Every call of either program takes the next line of $FIGURES: ./qwen "tokens/s share", llama-bench
# its samples. The first two are the warm-up's.
cat >"$scratch/bin/qwen" <<'EOF'
#!/bin/sh
[ "$1" != --version ] || { echo "qwen.c 9.9: isa"; exit; }
echo "qwen $*" | sed 's|[^ ]*/||' >>"$CALLS"
set -- $(sed -n "$(($(grep -c . "$CALLS")))p" "$FIGURES")
[ "$1" != die ] || { echo "qwen: it broke" >&2; exit 1; }
echo "test,tokens_s,tokens_s_min,isa,threads,share"
echo "any,$1,0.5,isa,7,$2"
EOF
cat >"$scratch/bin/llama-bench" <<'EOF'
#!/bin/sh
case $1 in --help) echo "  -d, --n-depth <n>"; exit ;; esac
echo "llama $*" | sed 's|[^ ]*/||' >>"$CALLS"
line=$(sed -n "$(($(grep -c . "$CALLS")))p" "$FIGURES")
case $line in die) echo "error: no such thing" >&2; exit 1 ;; esac
cat <<JSON
[
  {
    "build_commit": "8cf427ff",
    "n_gen": 64,
    "avg_ts": 7100.002165,
    "samples_ns": [ 74601900, 71632900 ],
    "samples_ts": [ $line ]
  }
]
JSON
EOF
cat >"$scratch/bin/llama-batched-bench" <<'EOF'
#!/bin/sh
echo "batched $*" | sed 's|[^ ]*/||' >>"$CALLS"
cat <<TABLE
|    PP |     TG |    B |   N_KV |   T_PP s | S_PP t/s \
|   T_TG s | S_TG t/s |      T s |    S t/s |
|     1 |     32 |    8 |    264 |    0.119 |   134.90 \
|    1.222 |    10.00 |    1.341 |   107.39 |
|     1 |     32 |   16 |    528 |    0.119 |   134.90 \
|    1.222 |    20.00 |    1.341 |   107.39 |
|     1 |     32 |   16 |    528 |    0.119 |   134.90 \
|    1.222 |    40.00 |    1.341 |   107.39 |
TABLE
EOF
# Stands for a converter; "lossy" as a file's name makes it lossy.
cat >"$scratch/bin/convert" <<'EOF'
#!/bin/sh
case $1 in
*lossy*) echo "warning: 1 of 2 tensors are quantized again, which loses a little" >&2 ;;
*bad*) echo "convert: $1: version: expected 3, got 9" >&2; exit 1 ;;
esac
cp "${TINY_MODEL:-/dev/null}" "$3"
EOF
sed 's/-d, --n-depth <n>/-gp <pp,tg>/' "$scratch/bin/llama-bench" >"$scratch/alone/llama-bench"
chmod +x "$scratch/bin/"* "$scratch/alone/"*
printf 'GGUF\003' >"$scratch/model.gguf"
cp "$scratch/model.gguf" "$scratch/lossy.gguf"
cp "$scratch/model.gguf" "$scratch/bad.gguf"
printf 'text' >"$scratch/text.gguf"
model=$scratch/model.gguf bench=$scratch/bin/llama-bench

# ---- What it computes ----------------------------------------------------------------------------

# Two blocks: pairs 10/10, 30/15, 90/30, 50/5. Ratios 1, 2, 3, 10: their median is 2.5 (their mean
# 4, the ratio of the medians 40/12.5). Samples are not in order: 15 is the median of 40, 15, 3.
arithmetic_tests() {
    cat >"$FIGURES" <<'EOF'
1 0
1, 1, 1
10 0.50
10, 10, 10
40, 15, 3
30 0.70
90 0.60
1e1, 30, 300
5, 5.0, 5
50 0.90
EOF
    compare 0 "${by}two blocks" -k 2 -t 5 -o "-fa 1" "$model" "$bench" tg64
    same "${by}the pairs" "$(row tg64 | sed '5d; s/ [^ ]*$//')" 'tg64 1 10.00 10.00 1.000 50 %
tg64 2 30.00 15.00 2.000 70 %
tg64 3 90.00 30.00 3.000 60 %
tg64 4 50.00 5.00 10.000 90 %'
    same "${by}medians and spread" "$(row tg64 | sed -n 5p)" \
        'tg64 4 40.00 12.50 2.500 1.000 10.000 65 %'
    same "${by}the order A B B A" "$(cut -d ' ' -f 1 "$CALLS" | tr '\n' ' ')" \
        'qwen llama qwen llama llama qwen qwen llama llama qwen '
    same "${by}./qwen's options" "$(sed -n 3p "$CALLS")" \
        'qwen model.bin --bench tg64 -r 3 -c 64 --format csv -t 5'
    same "${by}llama-bench's options" "$(sed -n 4p "$CALLS")" \
        'llama -m model.gguf -t 5 -r 3 -o json -p 0 -n 64 -fa 1'
    check "${by}the head names both" grep -q 'qwen.c 9.9 (isa), llama-bench 8cf427ff -fa 1$' "$out"
}

# Every kind of test in one block, with an even number of repetitions.
kinds_tests() {
    for test in tg8 pp512 tg32@4096 pp8@20 b16; do
        printf '60\n60, 20\n'
        [ $test = tg8 ] || printf '60, 20\n60\n'
    done >"$FIGURES"
    compare 0 "every kind" -k 1 -r 2 "$model" "$bench" pp512,tg32@4096,pp8@20,b16
    check "a prompt" grep -q '^llama .* -t 7 -r 2 -o json -p 512 -n 0$' "$CALLS"
    check "behind a context" grep -q '^llama .* -p 0 -n 32 -d 4096$' "$CALLS"
    check "a prompt behind a context" grep -q '^llama .* -p 8 -n 0 -d 20$' "$CALLS"
    check "./qwen behind a context" grep -q '^qwen .* --bench tg32@4096 -r 2 -c 4128 ' "$CALLS"
    check "a batch" grep -q \
        '^batched .* -t 7 -c 528 -b 2048 -ub 512 -npp 1 -ntg 32 -npl 16,16$' "$CALLS"
    for test in pp512 tg32@4096 pp8@20; do
        same "$test: medians" "$(row $test | tail -n 1)" "$test 2 60.00 40.00 1.500 1.500 1.500 -"
    done
    same "b16: medians" "$(row b16 | tail -n 1)" "b16 2 60.00 30.00 2.000 2.000 2.000 -"
}

# An older llama-bench, without batches: -gp, and what it lacks is left out.
lack_tests() {
    printf '5\n6\n5\n6\n6\n5\n' >"$FIGURES"
    compare 0 "no -d" -k 1 -r 1 "$model" "$scratch/alone/llama-bench" b2,tg4@16,pp8@16
    check "-gp" grep -q '^llama .* -r 1 -o json -p 0 -n 0 -gp 16,4$' "$CALLS"
    same "what is left out" "$(grep -c 'left out: ' "$out")" 2
    check "b2 is left out" grep -q '^b2: left out: no llama-batched-bench' "$out"
    check "pp8@16 is left out" grep -q '^pp8@16: left out: .*-d' "$out"
}

# ---- What it refuses -----------------------------------------------------------------------------

refuse_tests() {
    for tests in pp tg0 x4 '' tg4@ tg4,,pp8 'pp8,' pp8@x 'tg4 pp8' tg99999999; do
        refuse 2 "tests \"$tests\"" "tests: expected" "$model" "$bench" "$tests"
        same "tests \"$tests\": nothing ran" "$(cat "$CALLS")" ""
    done
    refuse 2 "no argument" "expected MODEL.gguf LLAMA-BENCH" -k 1
    refuse 2 "-r alone" "-r: expected a value" -r
    refuse 2 "-k 0" "-k: expected a number" -k 0 "$model" "$bench"
    refuse 2 "-r 1x" "-r: expected a number" -r 1x "$model" "$bench"
    refuse 2 "-y" "unknown option -y" -y "$model" "$bench"
    refuse 1 "no file" "expected a GGUF file" "$scratch/none.gguf" "$bench" tg4
    refuse 1 "another file" "does not begin with GGUF" "$scratch/text.gguf" "$bench" tg4
    refuse 1 "no program" "expected a program" "$model" "$scratch/none" tg4
    refuse 1 "a file that is not converted" "version: expected 3, got 9" \
        "$scratch/bad.gguf" "$bench" tg4
    refuse 1 "a file that would be quantized again" "quantized again" \
        "$scratch/lossy.gguf" "$bench" tg4
    printf '1\n1, 1\ndie\n' >"$FIGURES"
    refuse 1 "./qwen fails" "qwen gave no figure for tg4: qwen: it broke" -r 2 "$model" "$bench" tg4
    printf '1\n1, 1\n5\ndie\n' >"$FIGURES"
    refuse 1 "llama-bench fails" "llama-bench gave no figure for tg4: error: no such thing" \
        -r 2 "$model" "$bench" tg4
    for samples in '1' '1, 1, 1' '1, 0' '' 'a, b'; do refuse_samples "$samples"; done
}
refuse_samples() {
    printf '1\n1, 1\n5\n%s\n' "$1" >"$FIGURES"
    refuse 1 "${by}samples \"$1\" of two" "llama-bench gave no figure for tg4" \
        -r 2 "$model" "$bench" tg4
}

# Every awk that is here: the same figures, and no number where there is none.
awk_tests() {
    path=$PATH
    for awk in mawk gawk original-awk busybox; do
        awk_is $awk 12 || continue
        PATH=$scratch/awk:$path by="$awk: "
        arithmetic_tests
        refuse_samples 'a, b'
        PATH=$path by=''
    done
}

# ---- The real program ----------------------------------------------------------------------------

# llama-bench makes 100 tokens/s: the ratio is a hundredth of what ./qwen makes.
real_tests() {
    "$make_tiny" "$scratch/tiny" &&
        "$real_convert" "$scratch/tiny" -o "$scratch/tiny.bin" 2>"$err" || exit 1
    QWEN=$real_qwen TINY_MODEL=$scratch/tiny.bin
    export TINY_MODEL
    i=0
    while [ $((i += 1)) -le 30 ]; do echo 100; done >"$FIGURES"
    compare 0 "the real ./qwen" -k 1 -r 1 -t 1 "$model" "$bench" pp8,tg4,tg2@16
    same "the real ./qwen: six pairs with a share, ratios to match" "$(awk '
        /^(pp8|tg4|tg2@16) / && NF == 8 && $4 == 100 && $3 > 0 && $6 ~ /^[0-9]+$/ && $7 == "%" {
            off = $5 - $3 / 100
            n += off < 0.001 && off > -0.001
        }
        END { print n }' "$out")" 6
    same "the real ./qwen: three medians" "$(sed '1,/^medians/d' "$out" | wc -l | tr -d ' ')" 3
    check "the real ./qwen: named" grep -q "qwen.c [0-9.]* ([a-z0-9]*), llama-bench 8cf427ff" "$out"
    gguf=$golden/logits/gguf-k256-q5_k_m/model.gguf
    if [ ! -f "$gguf" ]; then
        skip 3 "no golden GGUF file"
        return
    fi
    CONVERT=$real_convert
    compare 0 "a real file" -k 1 -r 1 -t 1 "$gguf" "$bench" tg4
    same "a real file: medians" "$(row tg4 | wc -l | tr -d ' ')" 3
}

[ -x "$make_tiny" ] || { echo "compare: 0 passed, 1 failed (no $make_tiny)"; exit 1; }
by='' # the system's own awk
arithmetic_tests
kinds_tests
lack_tests
refuse_tests
awk_tests
real_tests

finish compare
