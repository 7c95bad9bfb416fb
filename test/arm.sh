#!/bin/sh
# arm.sh [GOLDEN]: the program for 64-bit ARM, from a cross compiler, under qemu-user: its tests,
# and that it converts and answers to the bit as the program for this machine does. ALL=1 runs every
# test program (minutes); otherwise those that could differ there. What is missing is skipped, and
# said.
set -u
cd "$(dirname "$0")/.." || exit 1
golden=${1:-../shared/golden}
build=build/arm64 run=$build/run cross=aarch64-linux-gnu-gcc
# shellcheck source-path=SCRIPTDIR source=lib.sh
. test/lib.sh
programs='test_base test_json test_chat test_quant test_tokenizer test_kernels'
[ -z "${ALL:-}" ] || programs="$programs test_engine test_convert test_gguf test_terminal"

# emulated FILE [CPU]: how FILE runs here. The default has the int8 dot product and nothing newer;
# "max" has the int8 matrix product too.
emulated() { echo "qemu-aarch64 -L /usr/aarch64-linux-gnu -cpu ${2:-neoverse-n1} $PWD/$build/$1"; }

# wrap NAME FILE [CPU]: a script in $run that runs FILE as a program of this machine would run
wrap() {
    printf '#!/bin/sh\nexec %s "$@"\n' "$(emulated "$2" "${3:-}")" >"$run/$1"
    chmod +x "$run/$1"
}

make_all() {
    targets="all $build/golden"
    for name in $programs; do targets="$targets $build/$name"; done
    # shellcheck disable=SC2086 # a list
    make -s -j2 all build/plain/make_tiny && make -s -j2 CC=$cross WERROR=1 B=$build \
        QWEN=$build/qwen CONVERT=$build/convert/convert $targets
}

# A few checkpoints are enough here; `make test` has them all.
small_golden() {
    mkdir -p "$run/golden-data/logits"
    for part in qwen2.5 logits/tiny logits/k256 logits/gguf-k256-q5_k_m logits/gguf-k256-q4_k_m; do
        [ ! -e "$golden/$part" ] || ln -sfn "$(realpath "$golden/$part")" "$run/golden-data/$part"
    done
}

# hash ISA PROGRAM MODEL: the hash of the ids that it answers with
hash() {
    QWEN_ISA=$1 "$2" "$3" -p 'hello the world, and the other things' -n 24 -t 2 --seed 5 --exact \
        --ignore-eos 2>&1 >/dev/null | sed -n 's/.*| \([0-9a-f]\{16\}\)$/\1/p'
}

# compare NAME SOURCE OPTIONS...: both converters write the same file, both programs the same answer
compare() {
    name=$1
    shift
    ./convert/convert "$@" -o "$run/host.bin" 2>"$run/host.log"
    "$run/convert" "$@" -o "$run/arm.bin" 2>"$run/arm.log"
    if cmp "$run/host.bin" "$run/arm.bin"; then pass; else fail "$name: the converters differ"; fi
    want=$(hash "$best" ./qwen "$run/host.bin")
    for isa in i8mm neon scalar; do
        program=$run/qwen
        [ $isa != i8mm ] || program=$run/qwen_max
        got=$(hash $isa "$program" "$run/arm.bin")
        same "$name: the hash of $isa and of $best here" "$got" "${want:-a hash}"
    done
    echo "$name: $want, $best here and i8mm, neon and scalar there"
}

compare_all() {
    best=$(./qwen --version | sed 's/.*: \([a-z0-9]*\).*/\1/')
    build/plain/make_tiny "$run/tiny" || fail "make_tiny"
    for quant in q8 q5 q4 f16 bf16 f32; do compare "tiny $quant" "$run/tiny" --quant $quant; done
    for case in k256/hf gguf-k256-q6_k gguf-k256-q5_0 gguf-k256-q5_k_m gguf-k256-q4_k_m \
        gguf-k256-q4_0; do
        source=$golden/logits/$case
        [ -f "$source/model.gguf" ] && source=$source/model.gguf
        if [ -e "$source" ]; then compare "$case" "$source"; else skip 1 "no $source"; fi
    done
}

# A processor without the dot product has the scalar kernels and says why.
old_processor() {
    old=$(emulated qwen cortex-a72)
    same "--version without the dot product" "$($old --version | sed 's/.*://')" ' scalar'
    QWEN_ISA=neon $old "$run/arm.bin" -p x >"$run/old.log" 2>&1
    same "neon without the dot product: exit status" $? 1
    same "neon without the dot product: the reason" "$(grep -c asimddp "$run/old.log")" 1
    QWEN_ISA=i8mm "$run/qwen" "$run/arm.bin" -p x >"$run/old.log" 2>&1
    same "i8mm without it: exit status" $? 1
    same "i8mm without it: the reason" "$(grep -c 'matrix product (i8mm)' "$run/old.log")" 1
}

for tool in $cross qemu-aarch64; do
    command -v "$tool" >/dev/null ||
        skip 1 "no $tool here (Debian: gcc-aarch64-linux-gnu, qemu-user)"
done
[ $skipped -eq 0 ] || {
    finish arm
    exit
}
mkdir -p $run
make_all >"$run/make.log" 2>&1 || {
    tail -n 20 "$run/make.log"
    fail "it does not build with $cross"
    finish arm
    exit
}
for name in qwen golden $programs; do wrap "$name" "$name"; done
wrap convert convert/convert
wrap qwen_max qwen max
wrap test_kernels_max test_kernels max
same "--version" "$("$run/qwen" --version | sed 's/.*://')" ' neon scalar'
same "--version with i8mm" "$("$run/qwen_max" --version | sed 's/.*://')" ' i8mm neon scalar'
"$run/test_kernels_max" >"$run/test_kernels_max.log" 2>&1 & # beside the others: half a minute
for name in $programs; do
    SLOW=1 QWEN="$run/qwen" "$run/$name" "$golden" >"$run/$name.log" 2>&1
    count "$name" "$run/$name.log" $?
done
wait $!
count test_kernels_max "$run/test_kernels_max.log" $?
small_golden
"$run/golden" "$run/golden-data" "$run/convert" "$run" >"$run/golden.log" 2>&1
count golden "$run/golden.log" $?
compare_all
old_processor
finish arm
