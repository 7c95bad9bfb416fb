#!/bin/sh
# compare.sh: the speed of ./qwen beside that of llama.cpp's llama-bench, same weights, one run.
#
#   docs/compare.sh [OPTION...] MODEL.gguf LLAMA-BENCH [TESTS]
#
# MODEL.gguf is converted (bit for bit, or refused) into a temporary file under $TMPDIR, which needs
# as much room. TESTS are those of ./qwen --bench, separated by commas (default pp512,tg64): pp512
# reads 512 tokens, tg64 generates 64, tg32@4096 does so behind 4096 others, b16 generates 32 in
# each of 16 sequences at once. What follows @ needs a llama-bench with -d (or -gp); b needs
# llama-batched-bench beside it. A test that they do not have is left out, and said.
#
#   -t N         threads of both (default: what ./qwen takes)
#   -k N         blocks (default 4): each is four fresh processes per test, in the order A B B A
#   -r N         repetitions within a process (default 3); its figure is their median
#   -o OPTIONS   more options for llama-bench, like '-fa 1'
#   -b OPTIONS   more options for llama-batched-bench
#
# Two neighbours make a pair, so what slows the machine for a while slows both. Printed are the
# tokens per second of every process, each pair's ratio (./qwen over llama-bench), and in the end
# medians and spread. The share is that of ./qwen --bench: of what this machine can do at all,
# measured beside each repetition. $QWEN and $CONVERT are the programs, if not those of this
# checkout. Exit status: 0; 1 for a bad file, program or figure; 2 for a wrong command line.
#
# shellcheck disable=SC2015 # "test && test || die": as it is meant
set -uf
LC_ALL=C
export LC_ALL
root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd) || exit 1
threads='' blocks=4 repetitions=3 bench_options='' batched_options='' scratch=''
batch_tokens=32 # that each sequence of a b test generates, in ./qwen

die() { # STATUS TEXT...
    status=$1
    shift
    printf 'compare: %s\n' "$*" >&2
    exit "$status"
}
usage() { sed -n '3s/^# *//p;4s/^#//p;5,22s/^# \{0,1\}//p' "$0"; }

finish() { [ -z "$scratch" ] || rm -rf "$scratch"; }
leave() { # STATUS: after a signal; some shells would exit with the status of the trap for EXIT
    trap - EXIT
    finish
    exit "$1"
}
trap finish EXIT
trap 'leave 130' INT
trap 'leave 143' TERM
trap 'leave 129' HUP

# ---- The command line ----------------------------------------------------------------------------

# absolute FILE: so that it is found from another folder
absolute() {
    folder=$(CDPATH='' cd -- "$(dirname -- "$1")" 2>/dev/null && pwd) || die 1 "$1: no such folder"
    printf '%s/%s\n' "${folder%/}" "$(basename -- "$1")"
}
# count OPTION VALUE
count() {
    case $2 in
    [1-9] | [1-9][0-9] | [1-9][0-9][0-9]) ;;
    *) die 2 "-$1: expected a number from 1 to 999, got \"$2\"" ;;
    esac
}
# program FILE: an absolute name of a program
program() {
    [ -f "$1" ] && [ -x "$1" ] || die 1 "$1: expected a program"
    absolute "$1"
}

[ "${1-}" != --help ] || { usage && exit 0; }
while getopts :t:k:r:o:b:h option; do
    case $option in
    t) count t "$OPTARG" && threads=$OPTARG ;;
    k) count k "$OPTARG" && blocks=$OPTARG ;;
    r) count r "$OPTARG" && repetitions=$OPTARG ;;
    o) bench_options=$OPTARG ;;
    b) batched_options=$OPTARG ;;
    h) usage && exit 0 ;;
    :) die 2 "-$OPTARG: expected a value (see -h)" ;;
    *) die 2 "unknown option -$OPTARG (see -h)" ;;
    esac
done
shift $((OPTIND - 1))
case $# in
2 | 3) ;;
*) die 2 "expected MODEL.gguf LLAMA-BENCH [TESTS], got $# arguments (see -h)" ;;
esac
[ -f "$1" ] && [ -r "$1" ] || die 1 "$1: expected a GGUF file that can be read"
[ "$(dd if="$1" bs=4 count=1 2>/dev/null | tr -d '\0')" = GGUF ] ||
    die 1 "$1: expected a GGUF file, it does not begin with GGUF"
gguf=$(absolute "$1") && llama_bench=$(program "$2") &&
    qwen=$(program "${QWEN:-$root/qwen}") &&
    convert=$(program "${CONVERT:-$root/convert/convert}") || exit 1
tests=${3-pp512,tg64}

# ---- Tests ---------------------------------------------------------------------------------------

# parse TEST: set kind (pp, tg or b), n, depth, and the tokens of a sequence
parse() {
    depth=${1#*@}
    [ "$depth" != "$1" ] || depth=0
    n=${1%%@*}
    case $n in
    pp*) kind=pp n=${n#pp} ;;
    tg*) kind=tg n=${n#tg} ;;
    *) kind=b n=${n#b} ;;
    esac
    case $n,$depth in
    0* | *,0[0-9]* | *[!0-9,]* | ,* | *, | *[0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9]*)
        die 2 "tests: expected some of pp512, tg64, tg32@4096, b16, got \"$1\"" ;;
    esac
    tokens=$n
    [ $kind != b ] || tokens=$batch_tokens
}

# lack TEST: say what llama.cpp lacks for it; fail when nothing
lack() {
    parse "$1"
    if [ $kind = b ]; then
        [ ! -x "$batched_bench" ] && echo "no llama-batched-bench beside llama-bench"
    elif [ "$depth" -gt 0 ]; then
        case $kind,$depth_option in
        *,-d | tg,-gp) false ;;
        *) echo "this llama-bench has no test behind a context (-d)" ;;
        esac
    else
        false
    fi
}

# ---- One process ---------------------------------------------------------------------------------

# failed PROGRAM: die with the last line that it left, if it left one
failed() {
    last=$(cat "$scratch/out" "$scratch/err" | grep -v '^[[:space:]]*$' | tail -n 1 | cut -c 1-200)
    die 1 "$1 gave no figure for $test: ${last:-it printed nothing}"
}

# middle N: the median of the N numbers above 0 on stdin; fails when they are not N
middle() {
    awk -v n="$1" '
        $1 + 0 > 0 {
            for (i = ++m; i > 1 && v[i - 1] > $1 + 0; i--) v[i] = v[i - 1]
            v[i] = $1 + 0
        }
        END {
            if (m == n) printf "%.6g\n", (v[int((m + 1) / 2)] + v[int(m / 2) + 1]) / 2
            exit m != n
        }'
}

# column NAME: that field of the one test that ./qwen printed
column() {
    awk -F, -v name="$1" '
        NR == 1 { for (i = 1; i <= NF; i++) if ($i == name) at = i }
        NR == 2 && at { print $at }' "$scratch/out"
}

# one_qwen: set figure and share
one_qwen() {
    "$qwen" "$scratch/model.bin" --bench "$test" -r "$repetitions" -c $((tokens + depth)) \
        --format csv ${threads:+-t "$threads"} >"$scratch/out" 2>"$scratch/err" </dev/null ||
        failed qwen
    figure=$(column tokens_s | middle 1) || failed qwen
    share=$(column share)
}

# peer PROGRAM OPTION...: run it in the scratch folder, where it may leave logs
peer() {
    (cd "$scratch" && exec "$@") >"$scratch/out" 2>"$scratch/err" </dev/null || failed "${1##*/}"
}

# one_llama: set figure
one_llama() {
    case $kind,$depth,$depth_option in
    b,*) one_batched && return ;;
    pp,0,*) set -- -p "$n" -n 0 ;;
    tg,0,*) set -- -p 0 -n "$n" ;;
    pp,*) set -- -p "$n" -n 0 -d "$depth" ;;
    *,-d) set -- -p 0 -n "$n" -d "$depth" ;;
    *) set -- -p 0 -n 0 -gp "$depth,$n" ;;
    esac
    # shellcheck disable=SC2086 # options are split at blanks
    peer "$llama_bench" -m "$gguf" -t "$threads" -r "$repetitions" -o json "$@" $bench_options
    figure=$(tr '\n' ' ' <"$scratch/out" | sed -n 's/.*"samples_ts": *\[\([^]]*\)\].*/\1/p' |
        tr ',' '\n' | middle "$repetitions") || failed llama-bench
}

# one_batched: the same from llama-batched-bench, which wants a prompt of a token at least
one_batched() {
    prompt=$((depth > 0 ? depth : 1)) sequences=$n
    while [ "$(echo "$sequences" | tr ',' '\n' | wc -l)" -lt "$repetitions" ]; do
        sequences=$sequences,$n
    done
    # shellcheck disable=SC2086 # options are split at blanks
    peer "$batched_bench" -m "$gguf" -t "$threads" -c $((n * (prompt + tokens))) -b 2048 -ub 512 \
        -npp $prompt -ntg "$tokens" -npl "$sequences" $batched_options
    figure=$(cat "$scratch/out" "$scratch/err" | awk -F'|' -v n="$n" -v prompt=$prompt '
        NF == 12 && $2 + 0 == prompt && $4 + 0 == n { print $9 }' | middle "$repetitions") ||
        failed llama-batched-bench
}

# ---- All of them ---------------------------------------------------------------------------------

load() {
    now=$(uptime 2>/dev/null | sed 's/.*average[s]*: *//; s/,* .*//')
    echo "${now:--}"
}
cpu_name() {
    name=$(sed -n 's/^model name[^:]*: *//p' /proc/cpuinfo 2>/dev/null | sed 1q)
    [ -n "$name" ] || name=$(sysctl -n machdep.cpu.brand_string 2>/dev/null) || name=
    echo "${name:-$(uname -m)}"
}

# pair OURS SHARE THEIRS: print and keep a pair
pair() {
    pairs=$((pairs + 1))
    awk -v test="$test" -v pair=$pairs -v ours="$1" -v share="$2" -v theirs="$3" -v busy="$(load)" '
        BEGIN {
            printf "%-14s %4d %10.2f %12.2f %8.3f %7s %7s\n",
                test, pair, ours, theirs, ours / theirs,
                (share == "") ? "-" : sprintf("%.0f %%", share * 100), busy
        }'
    awk -v ours="$1" -v share="$2" -v theirs="$3" '
        BEGIN { print ours, theirs, ours / theirs, share }' >>"$scratch/figures" ||
        die 1 "$scratch/figures: cannot be written"
}

# One test: blocks of A B B A.
compare() {
    pairs=0 block=0
    : >"$scratch/figures"
    while [ $((block += 1)) -le "$blocks" ]; do
        one_qwen
        ours=$figure
        one_llama
        pair "$ours" "$share" "$figure"
        one_llama
        theirs=$figure
        one_qwen
        pair "$figure" "$share" "$theirs"
    done
    awk -v test="$test" -v n=$pairs -v ours="$(median_of 1)" -v theirs="$(median_of 2)" \
        -v ratio="$(median_of 3)" -v share="$(median_of 4)" '
        NR == 1 || $3 < least { least = $3 }
        NR == 1 || $3 > most { most = $3 }
        END {
            printf "%-14s %4d %10.2f %12.2f %8.3f %7.3f %7.3f %7s\n", test, n, ours, theirs, ratio,
                least, most, (share == "") ? "-" : sprintf("%.0f %%", share * 100)
        }' "$scratch/figures" >>"$scratch/summary" || die 1 "$scratch/summary: cannot be written"
}
median_of() { awk -v at="$1" '{ print $at }' "$scratch/figures" | middle $pairs; }

list=$(echo "$tests" | tr ',' ' ')
case ,$tests, in
*,,* | *[!a-z0-9@,]*)
    die 2 "tests: expected a list like pp512,tg64,tg32@4096,b16, got \"$tests\""
    ;;
esac
for test in $list; do parse "$test"; done

(umask 077 && mkdir "${TMPDIR:-/tmp}/compare.$$") ||
    die 1 "${TMPDIR:-/tmp}: cannot make a folder there"
scratch=$(absolute "${TMPDIR:-/tmp}/compare.$$")
batched_bench=$(dirname "$llama_bench")/llama-batched-bench
"$llama_bench" --help >"$scratch/help" 2>&1 </dev/null
depth_option=
if grep -q -e '--n-depth' "$scratch/help"; then
    depth_option=-d
elif grep -q -e '-gp ' "$scratch/help"; then
    depth_option=-gp
fi
"$convert" "$gguf" -o "$scratch/model.bin" >"$scratch/out" 2>"$scratch/err" ||
    die 1 "$(tail -n 1 "$scratch/err")"
! grep -q 'quantized again' "$scratch/err" ||
    die 1 "$gguf: $(grep 'quantized again' "$scratch/err"); expected types that are kept"

# warm up both: the files into memory, the processor to its speed
test=tg8
parse $test
one_qwen
threads=${threads:-$(column threads)} isa=$(column isa)
one_llama
build=$(sed -n 's/.*"build_commit": *"\([^"]*\)".*/\1/p' "$scratch/out" | sed 1q)
[ -n "$threads" ] || failed qwen

version=$("$qwen" --version | sed 's/:.*//')
cat <<EOF
$(date '+%Y-%m-%d %H:%M'), $(cpu_name), $threads threads, load $(load)
$(basename "$gguf"): $version ($isa), llama-bench ${build:-unnamed} $bench_options
tokens/s of each process; ratio: ./qwen over llama-bench; share: of this machine's limit, by ./qwen

$(printf '%-14s %4s %10s %12s %8s %7s %7s' test pair qwen llama-bench ratio share load)
EOF
: >"$scratch/summary"
for test in $list; do
    if lack=$(lack "$test"); then
        echo "$test: left out: $lack"
        continue
    fi
    parse "$test"
    compare
done
[ -s "$scratch/summary" ] || exit 0
printf '\n%-14s %4s %10s %12s %8s %7s %7s %7s\n' medians of qwen llama-bench ratio least most share
cat "$scratch/summary"
