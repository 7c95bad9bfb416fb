#!/bin/sh
# check_long.sh BUILD QWEN CONVERT GOLDEN: the long forms of the tests, each with its time; the exit
# status is 0 when all of them passed. STEPS="mutate faults" runs only these.
build=$1 qwen=$2 convert=$3 golden=$4
case $qwen in */*) ;; *) qwen=./$qwen ;; esac
case $convert in */*) ;; *) convert=./$convert ;; esac
export QWEN="$qwen" CONVERT="$convert"
unset MAKEFLAGS MAKELEVEL # the steps call make anew
logs=$build/long
mkdir -p "$logs"
failed=0 begin=$(date +%s)

# step NAME COMMAND...: run it, unless STEPS leaves it out; show its last line and its time
step() {
    name=$1
    shift
    case " ${STEPS:-$name} " in *" $name "*) ;; *) return ;; esac
    start=$(date +%s)
    if "$@" >"$logs/$name.log" 2>&1; then result=ok; else
        result=FAILED failed=$((failed + 1))
        tail -n 30 "$logs/$name.log"
    fi
    echo "$name: $result, $(($(date +%s) - start)) s: $(grep . "$logs/$name.log" | tail -n 1)"
}

mutate() { LONG=1 "$build/test_mutate"; }
faults() { LONG=1 "$build/test_faults"; }
small_stack() {
    QUICK=1 prlimit --stack=262144 sh test/run.sh "$build" "$qwen" "$convert" "$golden"
}
instrumented() { QUICK=1 make --no-print-directory "$@" test; }

# What the processor lacks; for AMX a trap into the system at each instruction: only what computes.
emulate() {
    make -s EMULATE=1 all "$build-emulate/make_tiny" || return 1
    for program in kernels engine generate finite; do
        make -s EMULATE=1 "$build-emulate/test_$program" || return 1
        QWEN="$build-emulate/qwen" "$build-emulate/test_$program" || return 1
    done
}

valgrind_catalogue() {
    wrap='valgrind -q --vex-guest-max-insns=20 --error-exitcode=99'
    WRAP="$wrap --leak-check=full --show-leak-kinds=all" "$build/test_malformed"
}

# Blocks of up to 20 instructions: valgrind has no room for the kernels' longest ones. Its fused
# multiply-add gives another sign of zero, so that test_kernels compares in vain and may end with 1.
valgrind_programs() {
    for program in base json tokenizer gguf chat convert quant terminal finite mutate kernels \
        engine; do
        SLOW=1 valgrind -q --vex-guest-max-insns=20 --error-exitcode=99 --leak-check=full \
            "$build/test_$program" none
        status=$?
        [ $status -eq 0 ] || { [ $program = kernels ] && [ $status -eq 1 ]; } || return 1
    done
}

# The same answer, bit for bit, for 1 to 8 threads in 20 runs each.
threads() {
    "$build/make_tiny" "$logs/tiny" && "$convert" "$logs/tiny" -o "$logs/tiny.bin" || return 1
    for threads in 1 2 3 4 5 6 7 8; do
        for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
            "$qwen" "$logs/tiny.bin" -p 'hello the world and the other things' -n 24 -t $threads \
                --seed 5 --ignore-eos 2>&1 >/dev/null | sed -n 's/.*| //p'
        done
    done | sort | uniq -c >"$logs/hashes"
    sed 's/^ *\([0-9]*\) \(.*\)/\1 runs, answer \2/' "$logs/hashes"
    [ "$(wc -l <"$logs/hashes")" -eq 1 ] && grep -q '^ *160 ' "$logs/hashes"
}

step mutate mutate
step faults faults
step threads threads
step stack small_stack
step fuzz make --no-print-directory fuzz
step asan instrumented SAN=asan
step tsan instrumented SAN=tsan
step msan instrumented SAN=msan CC=clang
step emulate emulate
step valgrind_programs valgrind_programs
step valgrind_catalogue valgrind_catalogue
step coverage make --no-print-directory coverage
echo "check-long: $failed failed, $(($(date +%s) - begin)) s"
[ $failed -eq 0 ]
