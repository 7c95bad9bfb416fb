#!/bin/sh
# test_cli.sh QWEN CONVERT GOLDEN SCRATCH: both programs as a user runs them, on a small model that
# make_tiny writes (it lies in SCRATCH/..), on a checkpoint of GOLDEN where there is one, and on a
# random model of Qwen2.5-0.5B's shape. QUICK=1 leaves the last one out.
set -u
qwen=$1 convert=$2 golden=$3 scratch=$4/cli make_tiny=$4/../make_tiny
root=$(dirname "$0")/..
out=$scratch/stdout err=$scratch/stderr
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"
exec </dev/null

# refuse STATUS WHAT COMMAND...: exit STATUS, one line on stderr, nothing on stdout
refuse() {
    run "$@"
    if [ "$(wc -l <"$err")" -eq 1 ] && grep -qE '^(qwen|convert): .' "$err" && [ ! -s "$out" ]
    then pass; else
        shift 2
        fail "expected one line on stderr and no answer: $* ($(head -n 2 "$err" | cut -c 1-200))"
    fi
}

says() { check "$1" grep -qE -- "$2" "$err"; }    # says WHAT PATTERN: stderr has it
prints() { check "$1" grep -qE -- "$2" "$out"; }  # prints WHAT PATTERN: stdout has it
differ() { check "$1 ($2)" test "$2" != "$3"; }
# The hash of the answer's ids, from the statistics line
hash() { sed -n 's/.*| \([0-9a-f]\{16\}\)$/\1/p' "$err"; }

# ask WHAT ARGUMENTS...: an answer that must come, with its hash in $hash
ask() {
    ask_what=$1
    shift
    run 0 "$ask_what" "$qwen" "$@"
    hash=$(hash)
    check "$ask_what: a hash" test -n "$hash"
}

# agree WHAT MODEL TOKENS PROMPT ISA:THREADS...: the same answer, token by token, from all of them
agree() {
    name=$1 file=$2 tokens=$3 prompt=$4 first=''
    shift 4
    for pair in "$@"; do
        case " $isas " in *" ${pair%:*} "*) ;; *) continue ;; esac
        run 0 "$name $pair" env QWEN_ISA="${pair%:*}" "$qwen" "$file" -p "$prompt" -n "$tokens" \
            -t "${pair#*:}" --seed 5 --exact --ignore-eos
        hash=$(hash)
        [ -n "$first" ] || first=$hash
        same "$name $pair: the same hash" "$hash" "$first"
    done
    check "$name: a hash" test -n "$first"
}

# ---- The converter -------------------------------------------------------------------------------

convert_tests() {
    for quant in q8 q5 q4 f16 bf16 f32; do
        run 0 "convert $quant" "$convert" "$tiny" -o "$scratch/$quant.bin" --quant $quant
        check "convert $quant: nothing on stdout" test ! -s "$out"
        says "convert $quant: says what it wrote" "$quant.bin: [0-9]+ bytes, $quant, "
        run 0 "info $quant" "$convert" --info "$scratch/$quant.bin"
        prints "info $quant" "quant $quant\$"
    done
    run 0 "info of a folder" "$convert" --info "$tiny"
    run 0 "info of every tensor" "$convert" --info "$scratch/q8.bin" --verbose
    prints "info of every tensor" 'model.layers.1.mlp.down_proj.weight'
    run 0 "q8 is the default" "$convert" "$tiny" -o "$scratch/again.bin" -t 1
    check "the same file for any number of threads" cmp "$scratch/q8.bin" "$scratch/again.bin"
    run 0 "a name" "$convert" "$tiny" -o "$scratch/again.bin" --name 'A name' -v
    says "a line for every tensor" '^model.embed_tokens.weight .* q8 '
    run 0 "info of a name" "$convert" --info "$scratch/again.bin"
    prints "info of a name" '^name: *A name$'
    run 0 "LoRA" "$convert" "$tiny" -o "$scratch/lora.bin" --lora "$tiny/adapter"
    check "LoRA changes the weights" test "$(cksum <"$scratch/lora.bin")" != \
        "$(cksum <"$scratch/q8.bin")"
    long=$scratch/$(printf '\346\250\241%.0s' 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20)
    cp -r "$tiny" "$long"
    run 0 "a long name that is not ASCII" "$convert" "$long" -o "$scratch/lora.bin" \
        --lora "$long/adapter"
    run 0 "info of a long name" "$convert" --info "$scratch/lora.bin"
    prints "a name is cut between characters" \
        "^source: *$(basename "$long" | cut -b 1-57) \\+ lora adapter"
    run 0 "help" "$convert" --help
    prints "help" '^  -o, --output FILE'
    run 0 "version" "$convert" --version
}

# test_malformed.c has what is wrong with sources and command lines.
convert_refusals() {
    refuse 2 "--name one byte longer than there is room" "$convert" "$tiny" \
        -o "$scratch/named.bin" --name "$(printf %0128d 0)"
    echo precious >"$scratch/notes.txt"
    refuse 1 "a file that is no model" "$convert" "$tiny" -o "$scratch/notes.txt"
    same "that file is as it was" "$(cat "$scratch/notes.txt")" precious
    { sleep 0.2; exec "$convert" "$tiny" -o "$scratch/no.bin" -v; } 2>&1 >/dev/null | true
    check "nothing left behind" test -z "$(find "$scratch" -name 'no.bin*' -o -name '.*.tmp*')"
}

# The disk that counts is the one that the file comes to lie on, if it says how large it is; and who
# may write into a folder need not be able to read it.
convert_disk_tests() {
    mkdir "$scratch/disk" "$scratch/drop"
    # on_disk TYPE COMMAND...: with a small file system of this type at $scratch/disk
    cat >"$scratch/on_disk" <<END
#!/bin/sh
exec unshare -rm sh -c 'mount -t "\$1" -o size=64k none "$scratch/disk" &&
    ln -s ../linked.bin "$scratch/disk/link.bin" && shift && exec "\$@"' sh "\$@"
END
    chmod +x "$scratch/on_disk"
    if ! "$scratch/on_disk" tmpfs true 2>"$err"; then
        skip 8 "small disks: no namespace to mount them in"
        return
    fi
    : >"$scratch/linked.bin"
    refuse 1 "a small disk" "$scratch/on_disk" tmpfs "$convert" "$tiny" -o "$scratch/disk/a.bin"
    says "a small disk" 'a.bin: not enough space: [0-9]+ bytes needed, [0-9]+ free'
    run 0 "a link to another disk" "$scratch/on_disk" tmpfs "$convert" "$tiny" --quant q8 \
        -o "$scratch/disk/link.bin"
    check "a link to another disk: the file" cmp "$scratch/linked.bin" "$scratch/q8.bin"
    run 0 "a disk that has no size" "$scratch/on_disk" ramfs "$convert" "$tiny" \
        -o "$scratch/disk/a.bin"
    chmod 333 "$scratch/drop"
    run 0 "a folder for writing alone" unshare -U "$convert" "$tiny" --quant q8 \
        -o "$scratch/drop/a.bin"
    check "a folder for writing alone: the file" cmp "$scratch/drop/a.bin" "$scratch/q8.bin"
    chmod 755 "$scratch/drop"
}

# ---- The same answer everywhere ------------------------------------------------------------------

every_isa='scalar:1 scalar:2 scalar:3 scalar:8 avx2:1 avx2:2 avx2:3 avx2:8'
every_isa="$every_isa avxvnni:1 avxvnni:2 avx512:1 avx512:2 avx512:3 avx512:8"
few='scalar:2 avx2:1 avx2:3 avx512:1 avx512:2 avx512:8'

# Hashes of 24 tokens of the tiny model: what --exact promises of every CPU.
known_hash() {
    case $1 in
    q8) echo 7b23e97c2fd8268a ;;
    f32) echo 2d9d10085b565cc5 ;;
    esac
}

hash_tests() {
    text='hello the world, and the other things'
    # shellcheck disable=SC2086 # the lists are words
    for quant in q8 f32; do
        agree "tiny $quant" "$scratch/$quant.bin" 24 "$text" $every_isa
        same "tiny $quant: the hash that every CPU gives" "$first" "$(known_hash $quant)"
    done
    # shellcheck disable=SC2086
    for quant in q5 q4 f16 bf16 lora; do
        agree "tiny $quant" "$scratch/$quant.bin" 24 "$text" $few
    done
    if [ ! -d "$golden/logits/k256/hf" ]; then
        skip 1 "the same hash on a golden checkpoint: no $golden/logits/k256/hf"
        return
    fi
    for quant in q4_0 q4_k_m; do
        source=$golden/logits/gguf-k256-$quant/model.gguf
        run 0 "golden $quant" "$convert" "$source" -o "$scratch/k256.bin"
        check "golden $quant: its own weights" test "$(grep -c again "$err")" -eq 0
        check "golden $quant: not larger" \
            test "$(wc -c <"$scratch/k256.bin")" -le $(($(wc -c <"$source") + 100000))
    done
    # shellcheck disable=SC2086
    for quant in q8 q5 q4; do
        run 0 "golden $quant" "$convert" "$golden/logits/k256/hf" -o "$scratch/k256.bin" \
            --quant $quant
        agree "golden $quant" "$scratch/k256.bin" 24 "$text" $every_isa
    done
}

# A model of the true shape: 525 MB, so only where there is room, and with few tokens.
big_tests() {
    free=$(df -Pk "$scratch" | awk 'NR == 2 { print $4 }')
    if [ -n "${QUICK:-}" ]; then skip 1 "the same hash on a random 0.5b: QUICK is set"; return; fi
    if [ "${free:-0}" -lt 2000000 ]; then
        skip 1 "the same hash on a random 0.5b: less than 2 GB of disk are free"
        return
    fi
    run 0 "random 0.5b" "$convert" --random 0.5b -o "$scratch/big.bin"
    agree "random 0.5b" "$scratch/big.bin" 6 'hello' avx512:1 avx512:2 avx512:3 avx512:8 \
        avx2:1 avx2:2 avx2:3 avx2:8 scalar:1 scalar:2 scalar:3 scalar:8
    refuse 1 "--kl of another vocabulary" "$qwen" "$model" --perplexity "$tiny/config.json" \
        --kl "$scratch/big.bin"
    says "--kl of another vocabulary" 'vocab_size: expected 288 as in .*, got 151936'
    run 0 "verify a random 0.5b" "$qwen" "$scratch/big.bin" --verify
    printf 'a\nb\nc\nd\ne\nf\ng\nh\n' >"$scratch/lines"
    run 0 "as many sequences as ulimit -v has room for" sh -c 'ulimit -v 3000000; exec "$@"' sh \
        "$qwen" "$scratch/big.bin" --prompts "$scratch/lines" -n 1 -t 2
    rm -f "$scratch/big.bin"
}

# ---- Prompts and answers -------------------------------------------------------------------------

grammar='^prompt [0-9]+ tokens \([0-9]+ cached\) [0-9.]+ tokens/s \| answer [0-9]+ tokens'
grammar="$grammar \([0-9]+ drafted, [0-9]+ accepted\) [0-9.]+"
grammar="$grammar tokens/s [0-9.]+ GB/s \| load [0-9]+ ms \| first token [0-9]+ ms"
grammar="$grammar \| [a-z0-9]+ [0-9]+ threads \| seed [0-9]+ \| (stop|length|loop)"
grammar="$grammar \| [0-9a-f]{16}\$"

prompt_tests() {
    ask "-p" "$model" -p 'hello the world' --seed 7 -n 30 -t 1
    want=$hash
    cp "$out" "$scratch/answer"
    same "stderr holds one line" "$(wc -l <"$err")" 1
    says "the statistics line" "$grammar"
    check "stdout holds an answer" test -s "$out"
    printf 'hello the world\n' >"$scratch/prompt.txt"
    ask "-f" "$model" -f "$scratch/prompt.txt" --seed 7 -n 30 -t 1
    same "-f gives the same answer" "$hash" "$want"
    ask "-f -" "$model" -f - --seed 7 -n 30 -t 1 <"$scratch/prompt.txt"
    same "-f - gives the same answer" "$hash" "$want"
    ask "stdin" "$model" --seed 7 -n 30 -t 1 <"$scratch/prompt.txt"
    same "a pipe gives the same answer" "$hash" "$want"
    check "and the same bytes" cmp "$out" "$scratch/answer"
    ask "options before the model" --seed 7 -n 30 -t 1 --prompt 'hello the world' "$model"
    same "options before the model" "$hash" "$want"
    ask "another seed" "$model" -p 'hello the world' --seed 8 -n 30 -t 1
    differ "another seed gives another answer" "$hash" "$want"
    ask "a system message" "$model" -p 'hello the world' --seed 7 -n 30 -t 1 -s 'Be brief.'
    differ "a system message changes the answer" "$hash" "$want"
    ask "--raw" "$model" -p 'hello the world' --seed 7 -n 30 -t 1 --raw
    differ "--raw changes the answer" "$hash" "$want"
    says "--raw: no template" '^prompt [1-9] tokens'
    for prompt in '' '\n' '  ' ' \t\n\n  '; do
        printf '%b' "$prompt" >"$scratch/empty.txt"
        refuse 2 "an empty prompt" "$qwen" "$model" -f "$scratch/empty.txt"
    done
    refuse 2 "an empty -p" "$qwen" "$model" -p ''
    refuse 2 "a -p of blanks" "$qwen" "$model" -p '  '
    refuse 2 "an empty pipe" "$qwen" "$model"
    refuse 2 "a pipe of blanks" "$qwen" "$model" <"$scratch/empty.txt"
    says "a pipe of blanks" '^qwen: stdin: prompt: is empty$'
    ask "--raw of blanks" "$model" -p '  ' --raw -n 3
    run 0 "--tokenize of blanks" "$qwen" "$model" -f "$scratch/empty.txt" --tokenize
    check "--tokenize of blanks" test "$(wc -w <"$out")" -gt 0
    refuse 1 "a missing prompt file" "$qwen" "$model" -f "$scratch/none"
    refuse 2 "an empty -p behind a file" "$qwen" "$model" -p '' -f "$scratch/prompt.txt"
    refuse 2 "two prompts" "$qwen" "$model" -p a --messages "$scratch/prompt.txt"
    "$qwen" "$model" -p 'hello the world

say more' --render >"$scratch/answer"
    run 0 "-f and -p" "$qwen" "$model" -p 'say more' -f "$scratch/prompt.txt" --render
    check "-p stands behind the file" cmp "$out" "$scratch/answer"
    run 0 "-f - and -p" "$qwen" "$model" -f - -p 'say more' --render <"$scratch/prompt.txt"
    check "-p stands behind the pipe" cmp "$out" "$scratch/answer"
    ask "--seed -1" "$model" -p 'hello the world' --seed -1 -n 30 -t 1
    one=$hash
    ask "--seed -1" "$model" -p 'hello the world' --seed -1 -n 30 -t 1
    differ "--seed -1 is a new one each time" "$hash" "$one"
    refuse 2 "--stats into the cache" "$qwen" "$model" -p a --stats "$scratch/both" \
        --cache "$scratch/both"
    run 1 "--stats into the cache by another name" "$qwen" "$model" -p 'hello a' -n 2 \
        --stats "$scratch/./both" --cache "$scratch/both"
    says "--stats into the cache by another name" 'both: exists and is something else'
    rm -f "$scratch/both"
    refuse 2 "--raw with a system message" "$qwen" "$model" -p a --raw -s b
}

sampling_tests() {
    ask "--temp 0" "$model" -p 'hello' --temp 0 -n 20 --seed 1
    want=$hash
    ask "--temp 0" "$model" -p 'hello' --temp 0 -n 20 --seed 2
    same "--temp 0 does not look at the seed" "$hash" "$want"
    ask "--top-k 1" "$model" -p 'hello' --top-k 1 -n 20
    same "--top-k 1 is --temp 0" "$hash" "$want"
    ask "--min-p 1" "$model" -p 'hello' --min-p 1 -n 20
    same "--min-p 1 is --temp 0" "$hash" "$want"
    for change in '--repeat-penalty 1' '--presence-penalty 5' '--frequency-penalty 5' \
        '--repeat-last-n 0'; do
        # shellcheck disable=SC2086 # an option and its value
        ask "$change" "$model" -p 'hello hello' --temp 0 -n 40 --ignore-eos $change
        same "$change: 40 tokens or a loop" "$(grep -cE 'answer 40 tokens|loop' "$err")" 1
    done
    for n in 1 5; do
        ask "-n $n" "$model" -p 'hello' -n $n --ignore-eos
        says "-n $n" "\| answer $n tokens .*\| length \|"
    done
    run 0 "-n 0" "$qwen" "$model" -p 'hello' -n 0
    says "-n 0" '\| answer 0 tokens .*\| length \|'
    check "-n 0: no answer" test ! -s "$out"
    ask "the loop guard" "$model" -p 'a' --temp 0 --presence-penalty -100 --ignore-eos -n 2000 -t 1
    says "the loop guard" '\| loop \|'
    ask "--no-loop-guard" "$model" -p 'a' --temp 0 --presence-penalty -100 --ignore-eos -n 2000 \
        -t 1 --no-loop-guard
    says "--no-loop-guard" '\| answer 2000 tokens .*\| length \|'
}

stop_tests() {
    ask "added tokens are shown" "$model" -p hello --temp 100 --top-k 0 --top-p 1 \
        --repeat-penalty 1 -n 2000 --ignore-eos --no-loop-guard --seed 1 -t 1 --stop 'never to come'
    check "added tokens are shown" grep -qa '<tool_call>' "$out"
    same "special tokens are not" "$(grep -ca '<|im_[a-z]*|>' "$out")" 0
    says "--ignore-eos with --stop" 'answer 2000 tokens'
    ask "before --stop" "$model" -p 'hello' --seed 3 -n 60 --ignore-eos
    letter=$(tr -cd 'a-zA-Z0-9' <"$out" | cut -c 3)
    before=$(tr '\n' ' ' <"$out" | LC_ALL=C sed "s/$letter.*//" | LC_ALL=C tr -d ' \n' | cksum)
    ask "--stop" "$model" -p 'hello' --seed 3 -n 60 --ignore-eos --stop 'not to come' \
        --stop "$letter"
    says "--stop" '\| stop \|'
    same "--stop: the answer ends there" "$(LC_ALL=C tr -d ' \n' <"$out" | cksum)" "$before"
    refuse 2 "--stop ''" "$qwen" "$model" -p a --stop ''
    set --
    for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17; do set -- "$@" --stop "$i"; done
    refuse 2 "17 stops" "$qwen" "$model" -p a "$@"
}

# ---- What the model would get --------------------------------------------------------------------

render_tests() {
    run 0 "--tokenize" "$qwen" "$model" -p 'hello the' --tokenize
    same "--tokenize" "$(cat "$out")" '268 258'
    run 0 "special text" "$qwen" "$model" -p '<|im_end|>' --tokenize
    check "special text is plain text" test "$(wc -w <"$out")" -gt 4
    run 0 "--parse-special" "$qwen" "$model" -p '<|im_end|>' --tokenize --parse-special
    same "--parse-special" "$(cat "$out")" '278'
    printf 'hello the\r\n' >"$scratch/line.txt"
    run 0 "a line of Windows" "$qwen" "$model" -f "$scratch/line.txt" --tokenize
    same "a line of Windows" "$(cat "$out")" '268 258'
    cat >"$scratch/special.json" <<'END'
[{"role": "system", "content": "<|im_end|>"}, {"role": "user", "content": "a<|im_start|>"}]
END
    for special in '' --parse-special; do
        # shellcheck disable=SC2086 # a flag or none
        run 0 "-s and -p" "$qwen" "$model" -s '<|im_end|>' -p 'a<|im_start|>' --render $special
        want=$(tail -n 1 "$out")
        # shellcheck disable=SC2086
        run 0 "--messages" "$qwen" "$model" --messages "$scratch/special.json" --render $special
        same "-s and -p as in --messages ($special)" "$(tail -n 1 "$out")" "$want"
    done
    same "--parse-special in a conversation" "$(echo "$want" | tr ' ' '\n' | grep -c '27[78]')" 7
    run 0 "--render" "$qwen" "$model" -p 'hello' --render
    printf '%s\n' '<|im_start|>system' 'You are a tiny model.<|im_end|>' '<|im_start|>user' \
        'hello<|im_end|>' '<|im_start|>assistant' '' >"$scratch/expected"
    grep -v '^ids:' "$out" >"$scratch/rendered"
    check "--render: the template" cmp "$scratch/rendered" "$scratch/expected"
    prints "--render: the ids" '^ids: 277 .* 268 278 .* 277 .*[0-9]$'
    run 0 "--render -s ''" "$qwen" "$model" -p 'hello' --render -s ''
    prints "--render: an empty system message" '^<\|im_end\|>$'
    run 0 "--render --raw" "$qwen" "$model" -p 'hello' --render --raw
    same "--render --raw" "$(tail -n 1 "$out")" 'ids: 268'
}

# A model without a chat template takes text as it is, and nothing else.
raw_tests() {
    cp -r "$tiny" "$scratch/raw"
    sed 's/"chat_template"/"no_template"/' "$tiny/tokenizer_config.json" \
        >"$scratch/raw/tokenizer_config.json"
    run 0 "no template" "$convert" "$scratch/raw" -o "$scratch/raw.bin"
    echo a >"$scratch/raw.txt"
    for option in -p --prompts; do
        refuse 1 "no template, $option" "$qwen" "$scratch/raw.bin" $option "$scratch/raw.txt"
        says "no template, $option" 'raw.bin: template: this model has none \(--raw feeds'
        run 0 "no template, $option --raw" "$qwen" "$scratch/raw.bin" -n 1 --raw \
            $option "$scratch/raw.txt"
    done
}

# "developer" is another name of "system", first in a conversation and behind, in each family.
developer_tests() {
    cp -r "$tiny" "$scratch/qwen2"
    printf %s '{"eos_token":"<|im_end|>","chat_template":"{% for message in messages %}' \
        "{{'<|im_start|>' + message['role'] + '\\\\n' + message['content'] + '<|im_end|>\\\\n'}}" \
        "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\\\n' }}" \
        '{% endif %}"}' \
        >"$scratch/qwen2/tokenizer_config.json"
    run 0 "a model without tools" "$convert" "$scratch/qwen2" -o "$scratch/qwen2.bin"
    for role in system developer; do
        cat >"$scratch/$role.json" <<END
[{"role": "$role", "content": "A"}, {"role": "user", "content": "B"},
 {"role": "$role", "content": [{"type": "text", "text": "C"}]}, {"role": "user", "content": "D"}]
END
        printf '{"messages": %s, "tools": [{"name": "f"}]}' "$(cat "$scratch/$role.json")" \
            >"$scratch/$role-tools.json"
    done
    for what in "$model " "$model -tools" "$scratch/qwen2.bin "; do
        file=${what% *} kind=${what##* }
        run 0 "system$kind" "$qwen" "$file" --messages "$scratch/system$kind.json" --render
        cp "$out" "$scratch/expected"
        run 0 "developer$kind" "$qwen" "$file" --messages "$scratch/developer$kind.json" --render
        check "developer$kind is system, $file" cmp "$out" "$scratch/expected"
    done
    file=$scratch/messages.json
}

messages_tests() {
    file=$scratch/messages.json
    cat >"$file" <<'END'
{"messages": [
  {"role": "user", "content": "What is the time?"},
  {"role": "assistant", "content": "", "tool_calls": [{"type": "function",
    "function": {"name": "clock", "arguments": {"zone": "UTC"}}}]},
  {"role": "tool", "content": "12:00"}],
 "tools": [{"type": "function", "function": {"name": "clock", "description": "the time",
    "parameters": {"type": "object", "properties": {"zone": {"type": "string"}}}}}]}
END
    run 0 "--messages --render" "$qwen" "$model" --messages "$file" --render
    prints "the tools" '^# Tools'
    prints "the tool" '"name": "clock", "description": "the time"'
    prints "the call" '^\{"name": "clock", "arguments": \{"zone": "UTC"\}\}'
    prints "the response" '^<tool_response>'
    ask "--messages" "$model" --messages "$file" --seed 1 -n 10
    echo '[{"role": "user", "content": "hello the world"}]' >"$file"
    ask "--messages, an array" "$model" --messages "$file" --seed 7 -n 30 -t 1
    want=$hash
    ask "as -p" "$model" -p 'hello the world' --seed 7 -n 30 -t 1
    same "one message is what -p makes" "$hash" "$want"
    for bad in '' '{' '[]x' '3' '{"tools": []}' '[{"role": "user"}]' '[{"content": "a"}]' \
        '[{"role": "user", "content": 3}]' 'null'; do
        printf '%s' "$bad" >"$file"
        refuse 1 "--messages '$bad'" "$qwen" "$model" --messages "$file"
    done
    echo '[{"role": "user", "content": "a"}, {"role": "robot", "content": "b"}]' >"$file"
    refuse 1 "a role that the template leaves out" "$qwen" "$model" --messages "$file"
    says "which role" 'messages\[1\].role: expected .*, got "robot"'
    developer_tests
    printf '\357\273\277[{"role": "user", "content": "hello the world"}]' >"$file"
    ask "--messages behind a byte order mark" "$model" --messages "$file" --seed 7 -n 30 -t 1
    same "--messages behind a byte order mark" "$hash" "$want"
    printf '\357\273\277hello the world\n' >"$file"
    ask "-f behind a byte order mark" "$model" -f "$file" --seed 7 -n 30 -t 1
    same "-f behind a byte order mark" "$hash" "$want"
    refuse 2 "--messages and -p" "$qwen" "$model" --messages "$file" -p a
    refuse 1 "--messages of nothing" "$qwen" "$model" --messages "$scratch/none"
}

stats_tests() {
    ask "--stats" "$model" -p 'hello' --seed 9 -n 8 --stats "$scratch/stats.json" -t 1 --exact
    same "--stats: one line" "$(wc -l <"$scratch/stats.json")" 1
    for field in model name quant isa threads context kv exact seed sampler temperature top_k \
        top_p min_p repeat_penalty repeat_last_n presence_penalty frequency_penalty \
        prompt_tokens cached_tokens generated_tokens drafted_tokens accepted_tokens load_ms \
        first_token_ms prompt_tokens_s decode_tokens_s gb_s peak_memory_mib finish hash; do
        check "--stats: $field" grep -q "\"$field\":" "$scratch/stats.json"
    done
    for text in "\"hash\":\"$hash\"" '"seed":9,' '"threads":1,' '"quant":"q8"' '"exact":true' \
        '"generated_tokens":' '"temperature":0.[67]' '"top_k":20,'; do
        check "--stats: $text" grep -q "$text" "$scratch/stats.json"
    done
    cp "$model" "$scratch/kept.bin"
    refuse 1 "--stats in place of a model" "$qwen" "$model" -p a -n 1 --stats "$scratch/kept.bin"
    check "--stats in place of a model: it stays" cmp -s "$model" "$scratch/kept.bin"
    ln -s /proc/self/fd/1 "$scratch/standard" # as /dev/stdout is
    echo before >"$out"
    "$qwen" "$model" -p hello -n 8 --seed 9 --temp 0 >>"$out" 2>"$err"
    cp "$out" "$scratch/answer"
    echo before >"$out"
    "$qwen" "$model" -p hello -n 8 --seed 9 --temp 0 --stats "$scratch/standard" >>"$out" 2>"$err"
    check "--stats to stdout, a file: the answer stays" cmp -n "$(wc -c <"$scratch/answer")" \
        "$out" "$scratch/answer"
    check "--stats to stdout, a file: behind the answer" grep -q '^{"model":' "$out"
    check "--stats to stdout: a link stays one" test -h "$scratch/standard"
    check "--stats to stdout, a pipe" test "$("$qwen" "$model" -p hello -n 8 \
        --stats "$scratch/standard" 2>"$err" | grep -c '^{"model":')" = 1
    echo '{"mine": 1}' >"$scratch/mine.json"
    refuse 1 "--stats over other JSON" "$qwen" "$model" -p a -n 1 --stats "$scratch/mine.json"
    odd=$scratch/$(printf 'm\377.bin')
    cp "$model" "$odd"
    run 0 "a name that is no UTF-8" "$qwen" "$odd" -p a -n 1 --stats "$scratch/odd.json"
    check "a name that is no UTF-8: --stats is" \
        iconv -f UTF-8 -t UTF-8 -o /dev/null "$scratch/odd.json"
    rm -f "$odd"
    cp -r "$tiny" "$scratch/sampled"
    sed 's/"temperature"/"min_p":0.25,&/' "$tiny/generation_config.json" \
        >"$scratch/sampled/generation_config.json"
    run 0 "a model with a min_p" "$convert" "$scratch/sampled" -o "$scratch/sampled.bin"
    ask "a model with a min_p" "$scratch/sampled.bin" -p a -n 1 --stats "$scratch/stats.json"
    check "a model with a min_p: it counts" grep -q '"min_p":0.25,' "$scratch/stats.json"
    sed 's/"do_sample":true/"do_sample":false/' "$tiny/generation_config.json" \
        >"$scratch/sampled/generation_config.json"
    run 0 "a model that does not sample" "$convert" "$scratch/sampled" -o "$scratch/sampled.bin"
    ask "a model that does not sample" "$scratch/sampled.bin" -p a -n 1 \
        --stats "$scratch/stats.json"
    check "a model that does not sample" grep -q '"temperature":0,' "$scratch/stats.json"
    ask "--kv f32 and no --exact" "$model" -p a -n 1 --kv f32 --stats "$scratch/stats.json"
    check "--kv f32 and no --exact" grep -q '"kv":"f32","exact":false,' "$scratch/stats.json"
    # About as much is read for every token; so the two rates are of the same tokens.
    for n in 2 12; do
        run 0 "rates of $n tokens" env QWEN_LOOKUP=0 "$qwen" "$model" -p a -n $n --ignore-eos -t 1 \
            --stats "$scratch/stats.json"
        sed 's/.*"decode_tokens_s":\([0-9.]*\),"gb_s":\([0-9.]*\),.*/\1 \2/' "$scratch/stats.json"
    done >"$scratch/rates"
    # shellcheck disable=SC2016 # an awk program
    check "rates of 2 tokens and of 12" awk '
        { each[NR] = $2 / $1 }
        END { exit !(NR == 2 && each[1] > 0.9 * each[2] && each[1] < 1.1 * each[2]) }
        ' "$scratch/rates"
    run 1 "--stats in no folder" "$qwen" "$model" -p a -n 1 --stats "$scratch/none/stats.json"
    mkfifo "$scratch/named"
    timeout 20 cat "$scratch/named" >"$scratch/stats.json" &
    run 0 "--stats into a named pipe" "$qwen" "$model" -p a -n 1 --stats "$scratch/named"
    wait $!
    check "--stats into a named pipe: it is there" grep -q '^{"model":.*}$' "$scratch/stats.json"
    check "--stats into a named pipe: it stays one" test -p "$scratch/named"
}

machine_tests() {
    ask "--kv f32" "$model" -p 'hello' --kv f32 --temp 0 -n 10
    ask "--yarn 4" "$model" -p 'hello' --yarn 4 -c 16384 --temp 0 -n 10
    refuse 1 "-c beyond the model" "$qwen" "$model" -p 'hello' -c 4097
    says "-c beyond the model: the numbers" '4096.*4097'
    refuse 1 "a prompt beyond the context" "$qwen" "$model" -p 'hello the world' -c 16
    says "a prompt beyond the context: the numbers" ' [2-9][0-9] tokens .* 16 '
    ask "the context fills up" "$model" -p 'a' --ignore-eos --no-loop-guard -c 64
    says "the context fills up" '\| length \|'
    refuse 1 "an unknown QWEN_ISA" env QWEN_ISA=mmx "$qwen" "$model" -p a
    run 0 "empty variables" env QWEN_ISA= QWEN_LOOKUP= QWEN_DRAFT= "$qwen" "$model" -p a -n 1
    for lookup in x -1 16 1.5; do
        refuse 1 "QWEN_LOOKUP='$lookup'" env QWEN_LOOKUP="$lookup" "$qwen" "$model" -p a
    done
    want=''
    for lookup in 0 1 15; do
        run 0 "QWEN_LOOKUP=$lookup" env QWEN_LOOKUP=$lookup "$qwen" "$model" -p 'a' --temp 0 \
            -n 300 -t 1 --presence-penalty -100 --ignore-eos --no-loop-guard
        [ -n "$want" ] || want=$(hash)
        same "QWEN_LOOKUP=$lookup: the same answer" "$(hash)" "$want"
        case $lookup in
        0) says "QWEN_LOOKUP=0: no guesses" 'answer 300 tokens \(0 drafted, 0 accepted\)' ;;
        *) says "QWEN_LOOKUP=$lookup: guesses" \
            'answer 300 tokens \([0-9]+ drafted, [12][0-9][0-9] accepted\)' ;;
        esac
    done
}

# threads_in WHAT GROUP THREADS: the default there
threads_in() {
    printf '9:cpu,cpuacct:/elsewhere\n0::%s\n' "$2" >"$groups/record"
    run 0 "$1" "$scratch/grouped" "$qwen" "$model" -p a -n 1
    says "$1: $3 threads" "[a-z0-9]+ $3 threads"
}

# How many positions a model has: its YaRN, --yarn, and the default of long ones.
context_tests() {
    cp -r "$tiny" "$scratch/long"
    yarn='"rope_scaling":{"type":"yarn","factor":4,"original_max_position_embeddings":1024}'
    sed "s/\"max_position_embeddings\":[0-9]*/\"max_position_embeddings\":4096,$yarn/" \
        "$tiny/config.json" >"$scratch/long/config.json"
    run 0 "a model with YaRN" "$convert" "$scratch/long" -o "$scratch/long.bin"
    refuse 1 "a model with YaRN: -c" "$qwen" "$scratch/long.bin" -p a -c 100000
    says "a model with YaRN: -c" 'knows 4096 positions'
    refuse 1 "a model with YaRN and --yarn 1" "$qwen" "$scratch/long.bin" -p a -c 100000 --yarn 1
    says "a model with YaRN and --yarn 1" 'knows 1024 positions'
    sed 's/"max_position_embeddings":[0-9]*/"max_position_embeddings":65536/' "$tiny/config.json" \
        >"$scratch/long/config.json"
    run 0 "a model of 65536 positions" "$convert" "$scratch/long" -o "$scratch/long.bin"
    ask "a model of 65536 positions" "$scratch/long.bin" -p a -n 1 --stats "$scratch/stats.json"
    check "a model of 65536 positions: 32768 of them" \
        grep -q '"context":32768,' "$scratch/stats.json"
}

cgroup_tests() {
    groups=$scratch/cgroup
    mkdir -p "$groups/outer/inner" "$groups/cpu" "$groups/memory"
    echo 0::/ >"$groups/record"
    # grouped COMMAND...: as if Linux had put it into the control group that $groups/record names
    cat >"$scratch/grouped" <<END
#!/bin/sh
exec unshare -rm sh -c 'mount --bind "$groups" /sys/fs/cgroup &&
    mount --bind "$groups/record" /proc/\$\$/cgroup && exec "\$@"' sh "\$@"
END
    chmod +x "$scratch/grouped"
    if ! "$scratch/grouped" true 2>"$err"; then
        skip 19 "control groups: no namespace to mount them in"
        return
    fi
    run 0 "threads without -t" "$qwen" "$model" -p a -n 1
    all=$(sed -n 's/.* \([0-9]*\) threads.*/\1/p' "$err")
    threads_in "no control groups" /none/inner "$all"
    echo 'max 100000' >"$groups/outer/inner/cpu.max"
    threads_in "a group without a quota" /outer/inner "$all"
    echo '50000 100000' >"$groups/outer/cpu.max"
    threads_in "the quota of a group around it" /outer/inner 1
    threads_in "the quota of another group" / "$all"
    echo '100000 100000' >"$groups/cpu.max"
    threads_in "the quota of the root, in a container" / 1
    rm -r "$groups/cpu.max" "$groups/outer"
    echo 50000 >"$groups/cpu/cpu.cfs_quota_us"
    echo 100000 >"$groups/cpu/cpu.cfs_period_us"
    threads_in "the quota of version 1" / 1
    for limit_file in memory.max memory/memory.limit_in_bytes; do
        echo 500000000 >"$groups/$limit_file"
        printf 'a\nb\n' >"$scratch/lines"
        refuse 1 "$limit_file" "$scratch/grouped" "$qwen" "$model" --prompts "$scratch/lines" \
            --batch 2 --yarn 256 -c 1048576
        says "$limit_file: the numbers" ' and 0.50 GB of memory are left'
        rm "$groups/$limit_file"
    done
}

# cached WHAT TOKENS LINES ARGUMENTS...: the answer is the one without --cache, TOKENS come from the
# file, and stderr holds LINES lines (1: the statistics alone)
cached() {
    cached_what=$1 cached_want=$2 cached_lines=$3
    shift 3
    run 0 "$cached_what, without" "$qwen" "$@" --seed 4 -n 20
    cp "$out" "$scratch/answer"
    run 0 "$cached_what" "$qwen" "$@" --seed 4 -n 20 --cache "$scratch/kv"
    check "$cached_what: the same answer" cmp "$out" "$scratch/answer"
    says "$cached_what: $cached_want cached" "\\($cached_want cached\\)"
    same "$cached_what: lines on stderr" "$(wc -l <"$err")" "$cached_lines"
}

# n_ids PROMPT: tokens of the whole prompt
n_ids() { "$qwen" "$model" -p "$1" --render | sed -n 's/^ids: //p' | wc -w; }

cache_tests() {
    rm -f "$scratch/kv"
    cached "--cache: a new file" 0 1 "$model" -p 'hello the world'
    before=$(cksum <"$scratch/kv")
    all=$(n_ids 'hello the world')
    cached "--cache: the same prompt" $((all - 1)) 1 "$model" -p 'hello the world'
    same "--cache: a prompt that is in it leaves it" "$(cksum <"$scratch/kv")" "$before"
    printf '%s\n' "$("$qwen" "$model" -p 'hello the world' --render)" >"$scratch/a"
    printf '%s\n' "$("$qwen" "$model" -p 'hello the other' --render)" >"$scratch/b"
    common=$(for f in a b; do sed -n 's/^ids: //p' "$scratch/$f"; done | awk '
        { for (i = 1; i <= NF; i++) id[NR, i] = $i }
        END { while (id[1, n + 1] == id[2, n + 1]) n++; print n }')
    cached "--cache: another end" "$common" 1 "$model" -p 'hello the other'
    cached "--cache: and that is in it now" "$common" 1 "$model" -p 'hello the world'
    cached "--cache: on other threads" $((all - 1)) 1 "$model" -p 'hello the world' -t 1
    cached "--cache: less context" $((all - 1)) 1 "$model" -p 'hello the world' -c 64
    cached "--cache: nothing in common" 0 1 "$model" -p 'hello the world' --raw
    cached "--cache: another model" 0 2 "$scratch/q5.bin" -p 'hello the world'
    says "--cache: another model" '^qwen: .*/kv: model: .*; the prompt is read anew$'
    cached "--cache: its own now" $((all - 1)) 1 "$scratch/q5.bin" -p 'hello the world'
    cached "--cache: --kv f32" 0 2 "$scratch/q5.bin" -p 'hello the world' --kv f32
    says "--cache: --kv f32" 'settings: expected --kv f32 .*, got i16'
    cached "--cache: --yarn" 0 2 "$scratch/q5.bin" -p 'hello the world' --kv f32 --yarn 2
    head -c 5000 "$scratch/kv" >"$scratch/kv2" && mv "$scratch/kv2" "$scratch/kv"
    cached "--cache: cut off" 0 2 "$model" -p 'hello the world'
    cached "--cache: mended" $((all - 1)) 1 "$model" -p 'hello the world'
    : >"$scratch/kv"
    cached "--cache: an empty file" 0 1 "$model" -p 'hello the world'
    all=$(n_ids 'hello the world and more')
    ask "--cache -n 0" "$model" -p 'hello the world and more' -n 0 --cache "$scratch/kv"
    cached "--cache: filled by -n 0" $((all - 1)) 1 "$model" -p 'hello the world and more'
    case $("$qwen" --version) in
    *amx*) # alone reads prompts with arithmetic of its own
        cached "--cache: --exact" 0 2 "$model" -p 'hello the world and more' --exact
        says "--cache: --exact" 'arithmetic: expected a prompt read as with --exact, got one read '
        cached "--cache: exact now" $((all - 1)) 1 "$model" -p 'hello the world and more' -t 1 \
            --exact
        cached "--cache: and not any more" 0 2 "$model" -p 'hello the world and more'
        ;;
    *) cached "--cache: --exact" $((all - 1)) 1 "$model" -p 'hello the world and more' --exact ;;
    esac
}

# Files that are not ours, folders that cannot be written, and others at the same time
# What a --cache may not be taken for, and what it keeps.
cache_limit_tests() {
    rm -f "$scratch/kv"
    cached "--cache: f16" 0 1 "$scratch/f16.bin" -p 'hello the world'
    cached "--cache: another model of the same size and source" 0 2 "$scratch/bf16.bin" \
        -p 'hello the world'
    for n in 1 20; do
        rm -f "$scratch/kv"
        ask "--cache -n $n" "$model" -p 'hello the world' -n $n --ignore-eos --cache "$scratch/kv"
        cp "$scratch/kv" "$scratch/kv.$n"
    done
    check "--cache: nothing of the answer is kept" cmp "$scratch/kv.1" "$scratch/kv.20"
    rm -f "$scratch/kv"
    ask "--cache of a long prompt" "$model" --raw -p "$(seq 1 100)" -n 1 --cache "$scratch/kv"
    before=$(cksum <"$scratch/kv")
    ask "--cache: its beginning" "$model" --raw -p "$(seq 1 50)" -n 1 --cache "$scratch/kv"
    same "--cache: the longer one stays" "$(cksum <"$scratch/kv")" "$before"
    ask "--cache: all of it" "$model" --raw -p "$(seq 1 100)" -n 1 --cache "$scratch/kv" \
        --stats "$scratch/stats.json"
    # shellcheck disable=SC2016 # for awk to expand
    check "--cache: only what was read counts for the speed" awk '
        function get(key, s) { s = $0; sub(".*\"" key "\":", "", s); return s + 0 }
        { exit !(get("prompt_tokens_s") * get("first_token_ms") / 1000 < 2) }' "$scratch/stats.json"
    refuse 1 "--cache: beyond the context" "$qwen" "$model" --raw -p "$(seq 1 100)" -n 1 -c 64 \
        --cache "$scratch/kv"
    says "--cache: beyond the context" 'context of 64'
}

cache_refusals() {
    private=$scratch/private.kv
    run 0 "--cache" "$qwen" "$model" -p 'hello the world' -n 1 --cache "$private"
    chmod 600 "$private"
    run 0 "--cache, other text" "$qwen" "$model" -p 'another text' -n 1 --cache "$private"
    same "--cache: a private file stays private" "$(find "$private" -perm 600)" "$private"
    run 0 "--cache beyond the limit of a file's size" sh -c 'ulimit -f 2; exec "$@"' sh \
        "$qwen" "$model" -p 'hello the world' -n 1 --cache "$scratch/large.kv"
    says "--cache beyond the limit: said" 'large.kv: .*File too large'
    same "--cache beyond the limit: nothing is left" "$(find "$scratch" -name '*large.kv*')" ""
    refuse 1 "--cache of a file that is no cache" "$qwen" "$model" -p a --cache "$tiny/config.json"
    says "--cache of a file that is no cache" 'config.json: magic: .*left as it is'
    refuse 1 "--cache of a model" "$qwen" "$model" -p a --cache "$scratch/f32.bin"
    refuse 1 "--cache of a folder" "$qwen" "$model" -p a --cache "$scratch"
    refuse 2 "--cache without an answer" "$qwen" "$model" --verify --cache "$scratch/kv"
    run 0 "the model is still one" "$qwen" "$scratch/f32.bin" --verify
    run 0 "--cache in no folder" "$qwen" "$model" -p 'hello the world' --seed 4 -n 20 \
        --cache "$scratch/none/kv"
    check "--cache in no folder: the answer comes" test -s "$out"
    same "--cache in no folder: one line and the statistics" "$(wc -l <"$err")" 2
    says "--cache in no folder: which file" \
        '^qwen: .*none/.*: cannot write here: .*; the next run will read the prompt anew$'
    "$qwen" "$model" -p 'hello the world' --seed 4 -n 20 >"$scratch/answer" 2>"$err"
    for i in 1 2 3 4 5 6 7 8; do # all write the same file, from prompts of two kinds
        { "$qwen" "$model" -p 'hello the world' --seed 4 -n 20 --cache "$scratch/kv"; echo $?; } \
            >"$scratch/both.$i" 2>"$scratch/both.$i.err" &
        "$qwen" "$model" -p 'the other things' -n 2 --cache "$scratch/kv" >"$out" 2>"$err" &
    done
    wait
    echo 0 >>"$scratch/answer"
    for i in 1 2 3 4 5 6 7 8; do
        check "--cache of eight at once: the same answer" cmp "$scratch/both.$i" "$scratch/answer"
        same "--cache of eight at once: no complaint" "$(wc -l <"$scratch/both.$i.err")" 1
    done
    cached "--cache after eight at once" '[0-9]+' 1 "$model" -p 'hello the world'
    check "no temporary file is left" test -z "$(find "$scratch" -name '.*.tmp*')"
}

# ---- Every option --------------------------------------------------------------------------------

option_tests() {
    run 0 "--help-markdown" "$qwen" --help-markdown
    cp "$out" "$scratch/flags"
    sed -n '/<!-- flags -->/,/<!-- end of flags -->/p' "$root/README.md" | grep '^|' \
        >"$scratch/readme"
    check "README.md has the flags of --help-markdown" cmp "$scratch/flags" "$scratch/readme"
    run 0 "--help" "$qwen" --help
    cp "$out" "$scratch/help"
    check "--help: no blanks behind lines" test -z "$(grep ' $' "$scratch/help")"
    check "--help: lines of up to 80 columns" test -z "$(grep -E '.{81}' "$scratch/help")"
    # name;argument;low;high of every option with a value
    # shellcheck disable=SC2016 # the backquotes are Markdown
    flag='`\(-., \)\{0,1\}--\([a-z-]*\) \([^`]*\)`' range='\([^ ]*\)\( to \)\{0,1\}\([^ ]*\)'
    sed -n "s/^| $flag | .* | $range |\$/\\2;\\3;\\4;\\6/p" "$scratch/flags" >"$scratch/options"
    check "there are options with values" test "$(wc -l <"$scratch/options")" -gt 20
    while IFS=';' read -r name argument low high; do
        check "--help has --$name" grep -qE -- "--$name " "$scratch/help"
        [ "$name" = bench ] && continue
        refuse 2 "--$name without a value" "$qwen" "$model" --"$name"
        case $argument in
        *\|*) set -- '' x "$argument" "${argument%%\\*} " ;;
        *) [ -n "$low" ] || continue
            set -- '' x 1x ' 1' '1 ' nan 0x1 1e999 -- \
                "$(awk "BEGIN { printf \"%.17g\", $low - 1 }")" \
                "$(awk "BEGIN { printf \"%.17g\", $high * 2 + 1 }")" ;;
        esac
        for value in "$@"; do
            refuse 2 "--$name '$value'" "$qwen" "$model" -p a --"$name" "$value"
        done
    done <"$scratch/options"
    refuse 2 "-n 1.5" "$qwen" "$model" -p a -n 1.5
    refuse 2 "an unknown option" "$qwen" "$model" --wrong 1
    says "an unknown option" '^qwen: --wrong: no such option \(--help lists them\)$'
    while read -r name hint; do
        refuse 2 "another program's $name" "$qwen" "$model" "$name" 1
        says "another program's $name" "^qwen: $name: no such option \\(.*$hint"
    done <<'END'
-m MODEL stands by itself
--predict here it is -n\)
--ctx-size here it is -c\)
--temperature here it is --temp\)
--top_p here it is --top-p\)
-sys here it is -s\)
-e bash writes a new line as \$'\\n'\)
-d tg128@4096
-o --format
-ngl no GPU
-no-cnv --raw
-i without a prompt it is a chat
END
    refuse 2 "an unknown letter" "$qwen" "$model" -x
    refuse 2 "an option with =" "$qwen" "$model" --temp=1
    says "an option with =: what to do" 'values stand behind a space'
    refuse 2 "another program's option with =" "$qwen" "$model" --ctx-size=9
    says "another program's option with =" 'here it is -c\); values stand behind a space'
    run 0 "-- before the model" "$qwen" -p a -n 1 -- "$model"
    refuse 2 "a name behind --" "$qwen" "$model" -p a -- -n 1
    for mode in --verify --bench '--perplexity x'; do
        # shellcheck disable=SC2086 # a list of arguments
        refuse 2 "a prompt for $mode" "$qwen" "$model" -p a $mode
        # shellcheck disable=SC2086
        refuse 2 "-n for $mode" "$qwen" "$model" -n 9 $mode
    done
    for mode in --render --tokenize; do
        refuse 2 "-n for $mode" "$qwen" "$model" -p a -n 9 $mode
    done
    for given in '-p 512' '-n 256'; do
        # shellcheck disable=SC2086
        refuse 2 "$given --bench" "$qwen" "$model" $given --bench
        says "$given --bench: the tests" 'pp512 reads 512 tokens, tg256 generates 256$'
    done
    for test in 512 PP512; do
        refuse 2 "--bench $test" "$qwen" "$model" --bench $test
        says "--bench $test: a test" "^qwen: $test: a second model, .* like pp512,tg128"
    done
    refuse 2 "--stats -" "$qwen" "$model" -p a --stats -
    refuse 2 "--cache -" "$qwen" "$model" -p a --cache -
    refuse 2 "a flag twice" "$qwen" "$model" --raw --raw -p a
    refuse 2 "an option twice" "$qwen" "$model" -n 1 --max-tokens 1 -p a
    refuse 2 "two models" "$qwen" "$model" "$model" -p a
    refuse 2 "no model" "$qwen" -p a
    refuse 2 "two modes" "$qwen" "$model" --verify --bench
    cp "$model" "$scratch/b1.bin"
    check "--bench before a model named like a test" sh -c "cd '$scratch' &&
        '$(realpath "$qwen")' --bench b1.bin -r 1 -t 1 >/dev/null 2>&1"
    rm "$scratch/b1.bin"
}

# ---- Files and streams ---------------------------------------------------------------------------

# put FILE OFFSET BYTE: overwrite one byte
put() { printf '%b' "$3" | dd of="$1" bs=1 seek="$2" conv=notrunc 2>/dev/null; }

file_tests() {
    run 0 "--verify" "$qwen" "$model" --verify
    prints "--verify" 'all 27 tensors'
    size=$(wc -c <"$model") bad=$scratch/bad.bin
    cp "$model" "$bad"
    byte=$(od -An -tu1 -j 20000 -N 1 "$bad")
    put "$bad" 20000 "\\0$(printf '%o' $((byte ^ 16)))"
    run 1 "--verify of a flipped bit" "$qwen" "$bad" --verify
    says "--verify names the tensor" '^qwen: .*bad.bin: model.embed_tokens.weight: '
    cp "$model" "$bad"
    put "$bad" 1500 '\0377'
    refuse 1 "a flipped bit in the tokenizer" "$qwen" "$bad" -p a
    for n in 0 1 7 1023 5000 $((size / 2)) $((size - 1)); do
        head -c "$n" "$model" >"$bad"
        refuse 1 "a file of $n bytes" "$qwen" "$bad" -p a
    done
    { cat "$model"; echo; } >"$bad"
    refuse 1 "a file that is too long" "$qwen" "$bad" -p a
    printf 'GGUF\003\000\000\000' | cat - "$model" >"$bad"
    refuse 1 "a GGUF file" "$qwen" "$bad" -p a
    says "a GGUF file: what to do" 'GGUF.*convert'
    refuse 1 "a missing model" "$qwen" "$scratch/none.bin" -p a
    says "a missing model: its name" 'none.bin: '
    refuse 1 "a folder as model" "$qwen" "$tiny" -p a
    says "a folder as model: what to do" 'folder .*convert'
    refuse 1 "a text as model" "$qwen" "$scratch/prompt.txt" -p a
    rm -f "$bad"
}

stream_tests() {
    if [ -c /dev/full ]; then
        for mode in '-n 20 --ignore-eos -p hello' '--tokenize -p hello' '--verify' '--help' \
            '--bench tg2 -r 1'; do
            # shellcheck disable=SC2086 # a list of arguments
            timeout 60 "$qwen" "$model" $mode >/dev/full 2>"$err"
            same "stdout is full: exit status of $mode" $? 1
            same "stdout is full: one line from $mode" "$(wc -l <"$err")" 1
        done
    else
        skip 1 "a full stdout: no /dev/full"
    fi
    timeout 60 "$qwen" "$model" -p hello -n 20 --ignore-eos >&- 2>"$err"
    same "stdout is closed: exit status" $? 1
    same "stdout is closed: one line" "$(wc -l <"$err")" 1
    { timeout 60 "$qwen" "$model" -p hello --ignore-eos --no-loop-guard 2>"$err"
        echo $? >"$scratch/status"; } | head -c 1 >/dev/null
    same "nobody reads stdout: exit status" "$(cat "$scratch/status")" 1
}

# started COMMAND...: in the background, its output in $out and $err; waits until it has said
# something. SIGINT, which shells have the background ignore, is as a terminal leaves it.
started() {
    : >"$out"
    env --default-signal=INT "$@" >"$out" 2>"$err" &
    pid=$!
    for _ in 1 2 3 4 5 6 7 8 9 10; do
        [ -s "$out" ] && break
        sleep 0.5
    done
}

# An answer that goes on and on
endless() {
    "$@" "$qwen" "$scratch/f32.bin" -p hello --yarn 8 -c 32768 --ignore-eos --no-loop-guard -t 1
}

interrupt_tests() {
    if ! env --default-signal=INT true 2>"$err"; then
        skip 13 "signals: this env has no --default-signal"
        return
    fi
    endless started
    kill -INT "$pid"
    wait "$pid"
    same "^C: exit status" $? 130
    says "^C: the statistics" '\| interrupt \|'
    endless started
    kill -TERM "$pid"
    wait "$pid" 2>/dev/null # dash tells of it
    same "SIGTERM: exit status" $? 143
    # shellcheck disable=SC2016 # for the inner shell to expand
    started sh -c 'trap "" INT; exec "$@" -n 3000' sh "$qwen" "$scratch/f32.bin" -p hello -c 4000 \
        --ignore-eos --no-loop-guard -t 1
    kill -INT "$pid"
    wait "$pid"
    same "^C of what ignores it: exit status" $? 0
    says "^C of what ignores it: the answer" 'answer 3000 tokens'
    ${CC:-cc} -std=c11 -D_GNU_SOURCE -O1 -o "$scratch/pty" "$root/test/bench_pty.c"
    printf 'expect ready\npause 300\ninterrupt\n' >"$scratch/steps"
    for from in --messages --perplexity; do
        # shellcheck disable=SC2016
        "$scratch/pty" "$scratch/steps" "$out" sh -c 'echo ready; exec "$@"' sh \
            "$qwen" "$model" $from - 2>"$err"
        same "^C while $from reads" $? 130
    done
    # Not every shell goes on with a loop when a command in it says 130: bash does. And what is left
    # to be written finds nobody who reads it.
    shell=$(command -v bash || echo sh)
    printf 'a\nb\nc\n' >"$scratch/lines"
    for how in '-p a' "--prompts $scratch/lines | tee /dev/null"; do
        # shellcheck disable=SC2016
        "$scratch/pty" "$scratch/steps" "$out" "$shell" -c \
            'for i in first second; do echo "$i ready"; "$@"'" $how; done" sh "$qwen" \
            "$scratch/f32.bin" --yarn 8 -c 8000 --ignore-eos --no-loop-guard -t 1
        same "^C in a loop of the shell, $how" $? 130
        prints "^C in a loop of the shell, $how: it ends" 'first ready'
        check "^C in a loop of the shell, $how: it ends" \
            test "$(grep -c 'second ready' "$out")" -eq 0
    done
}

# ---- Instead of answering ------------------------------------------------------------------------

bench_tests() {
    columns='^test,tokens_s,tokens_s_min,tokens_s_max,isa,threads,'
    run 0 "--bench csv" "$qwen" "$model" --bench pp8,tg4,tg2@16,b3,b2@20 -r 2 --format csv -t 1
    check "--bench csv: the header" sh -c "head -n 1 '$out' | grep -qE '$columns'"
    same "--bench csv: a line for each test" "$(wc -l <"$out")" 6
    same "--bench csv: as many fields in every line" \
        "$(awk -F, '{ print NF }' "$out" | uniq | wc -l)" 1
    prints "--bench csv" '^tg2@16,[0-9.]+,[0-9.]+,[0-9.]+,[a-z0-9]+,1,q8,'
    prints "--bench csv" \
        '^b2@20,[0-9.]+,[0-9.]+,[0-9.]+,[a-z0-9]+,1,q8,GB/s,[0-9.]+,[0-9.]+,[0-9.]+$'
    prints "--bench csv" '^pp8,.*,q8,TOPS,[0-9.]+,[0-9.]+,[0-9.]+$'
    # 2 layers with a key and a value of 2 heads of 64 int16 and a scale each, for each
    # position behind which tokens come
    run 0 "--bench behind a context" "$qwen" "$model" --bench tg2,tg2@3000,b2,b2@3000 -r 1 \
        --format csv -c 3072
    # shellcheck disable=SC2016 # an awk program
    check "--bench behind a context reads its keys and values" awk -F, '
        NR > 1 { bytes[$1] = $9 / $2 * 1e9 }
        function near(x, y) { return x > 0.98 * y && x < 1.02 * y }
        END {
            kv = 3000 * 2 * 2 * 2 * (64 * 2 + 4)
            exit !(near(bytes["tg2@3000"] - bytes["tg2"], kv) &&
                near(bytes["b2@3000"] - bytes["b2"], kv) &&
                bytes["b2"] < 0.6 * bytes["tg2"]) # which two tokens read once
        }' "$out"
    run 0 "--bench of many" "$qwen" "$model" --bench pp256,tg8,b32 -r 3 --format csv -t 1
    # shellcheck disable=SC2016 # an awk program
    check "--bench of many: tokens of all sequences" awk -F, \
        '{ rate[$1] = $2 } END { exit !(rate["b32"] > rate["tg8"] / 4) }' "$out"
    # Two layers, with 4 and 2 heads of 64; the rate is rounded to 0.001.
    # shellcheck disable=SC2016 # an awk program
    check "--bench of many: what a prompt asks for" awk -F, '
        $1 == "pp256" { rate = $9; want = $2 * 2 * 2 * 256 * (2 * 256 + 2 * 128 + 3 * 512) / 1e12 }
        END { d = rate - want; exit !(d * d <= (0.0006 + want / 100) ^ 2) }' "$out"
    run 0 "--bench of f32" "$qwen" "$scratch/f32.bin" --bench pp8,tg2 -r 1 --format csv -t 1
    prints "--bench of f32: no limit of a prompt" '^pp8,.*,f32,,,,$'
    prints "--bench of f32: one of tokens" '^tg2,.*,f32,GB/s,[0-9.]+,[0-9.]+,[0-9.]+$'
    run 0 "--bench json" "$qwen" "$model" --bench pp8,tg4 -r 1 --format json
    same "--bench json: an array" \
        "$(tr -d '\n' <"$out" | sed 's/[0-9.]*[0-9]/N/g; s/{[^}]*}/{}/g')" '[{}, {}]'
    same "--bench json" \
        "$(grep -cE '^[[ ]\{"test":"(pp8|tg4)","tokens_s":[0-9.]+,.*\}[],]$' "$out")" 2
    refuse 2 "--format without --bench" "$qwen" "$model" -p a --format csv
    says "--format without --bench" '^qwen: --format: goes with --bench$'
    refuse 2 "-r without --bench" "$qwen" "$model" -p a -r 3
    says "-r without --bench" '^qwen: --repetitions: goes with --bench$'
    refuse 2 "--stats with no name" "$qwen" "$model" -p a --stats ''
    refuse 2 "--stats with --bench" "$qwen" "$model" --bench tg2 -r 1 --stats "$scratch/none.json"
    run 0 "--bench table" "$qwen" "$model" --bench pp8 -r 1
    prints "--bench table" '^pp8 +[0-9.]+ +[0-9.]+ +[0-9.]+'
    run 0 "--bench without tests" "$qwen" "$model" -r 1 --bench
    prints "--bench without tests" '^tg128 '
    for tests in pp0 'pp8,' pp8,,tg1 tg1@ pp8x pp99999999 b0 b33 tg1,b b2x; do
        refuse 2 "--bench $tests" "$qwen" "$model" --bench "$tests"
    done
    refuse 2 "--bench is checked before the model is opened" "$qwen" "$scratch/none.bin" --bench xx
    refuse 2 "--bench beyond the context" "$qwen" "$model" --bench tg1,tg4@4096 --format json
    run 0 "--bench of two" "$qwen" "$model" --bench tg4 -r 2 --format csv
    # shellcheck disable=SC2016 # an awk program
    check "--bench: the median of two is in their middle" awk -F, \
        'NR == 2 { d = 2 * $2 - $3 - $4; ok = d < 0.01 && d > -0.01 } END { exit !ok }' "$out"
}

# kl WHAT MODEL REFERENCE: its mean in $mean, its 99th percentile in $most, the reference's
# perplexity in $ref
kl() {
    run 0 "$1" "$qwen" "$2" --perplexity "$scratch/text.txt" -c 128 --kl "$3"
    figures='mean \(.*\) nats; .* \(.*\) %; perplexity of the reference \(.*\)'
    line=$(sed -n "s/^KL divergence from .*: $figures/\\1 \\2 \\3/p" "$out")
    mean=${line%%,*} most=${line#*percentile } ref=${line##* }
    most=${most%%,*}
    check "$1: a mean" test -n "$mean"
}

kl_tests() {
    kl "--kl of a model with itself" "$model" "$model"
    prints "--kl of a model with itself" \
        'mean 0, 99th percentile 0, max 0 nats; same likeliest token 100.000 %'
    same "--kl: the model's own perplexity beside it" "$(head -n 1 "$out")" "$want"
    run 0 "--perplexity in f32" "$qwen" "$scratch/f32.bin" --perplexity "$scratch/text.txt" -c 128
    want_ref=$(sed 's/^perplexity \([0-9.]*\),.*/\1/' "$out")
    kl "--kl of q8 with f32" "$model" "$scratch/f32.bin"
    same "--kl: the reference's perplexity" "$ref" "$want_ref"
    q8=$mean
    kl "--kl of q5 with f32" "$scratch/q5.bin" "$scratch/f32.bin"
    check "--kl: 0 < q8 ($q8) < q5 ($mean) < 0.1, and 99 of 100 not below the mean ($most)" \
        awk "BEGIN { exit !(0 < $q8 && $q8 < $mean && $mean < 0.1 && $most >= $mean) }"
    q5=$mean
    kl "--kl of q4 with f32" "$scratch/q4.bin" "$scratch/f32.bin"
    check "--kl: q5 ($q5) < q4 ($mean) < 0.2" awk "BEGIN { exit !($q5 < $mean && $mean < 0.2) }"
    prints "--kl of q4 with f32: not every likeliest token is the same" \
        'token [1-9]?[0-9]\.[0-9]+ %'
    tail='99th percentile \([0-9.]*\), max \([0-9.]*\) nats.*'
    check "--kl: one token of a hundred is above the percentile" sh -c \
        "sed -n 's/.*$tail/\1 \2/p' '$out' | awk '{ exit !(\$1 < \$2) }'"
    head -c 60 "$scratch/text.txt" >"$scratch/short.txt"
    run 0 "--kl of few tokens" "$qwen" "$scratch/q4.bin" --perplexity "$scratch/short.txt" \
        --kl "$scratch/f32.bin"
    check "--kl of few tokens: the percentile is the most of all" sh -c \
        "sed -n 's/.*$tail/\1 \2/p' '$out' | awk '{ exit !(\$1 == \$2) }'"
    check "--kl of few tokens: the mean is that of all" sh -c \
        "sed -n 's/.*: mean \([0-9.]*\), $tail/\1 \3/p' '$out' | awk '{ exit !(\$1 > \$2 / 10) }'"
    refuse 2 "--kl alone" "$qwen" "$model" --kl "$model" -p a
    refuse 1 "--kl of nothing" "$qwen" "$model" --perplexity "$scratch/text.txt" \
        --kl "$scratch/none.bin"
    cp -r "$tiny" "$scratch/other"
    sed 's/tool_call/tool_kall/g' "$tiny/tokenizer.json" >"$scratch/other/tokenizer.json"
    run 0 "a model with another tokenizer" "$convert" "$scratch/other" -o "$scratch/other.bin"
    refuse 1 "--kl of another tokenizer" "$qwen" "$model" --perplexity "$scratch/text.txt" \
        --kl "$scratch/other.bin"
    says "--kl of another tokenizer" 'other.bin: tokenizer: expected that of .*q8.bin, got another'
}

perplexity_tests() {
    line='^perplexity [0-9.]+, mean negative log-likelihood [0-9.]+ over [0-9]+ of [0-9]+ tokens'
    cat "$tiny/config.json" "$tiny/generation_config.json" >"$scratch/text.txt"
    run 0 "--perplexity" "$qwen" "$model" --perplexity "$scratch/text.txt" -c 128
    prints "--perplexity" "$line"
    want=$(cat "$out")
    run 0 "--perplexity --exact" "$qwen" "$model" --perplexity "$scratch/text.txt" -c 128 --exact
    exact=$(cat "$out")
    run 0 "--perplexity again" env QWEN_ISA=scalar "$qwen" "$model" \
        --perplexity "$scratch/text.txt" -c 128 -t 1 --exact
    same "--perplexity is the same on every instruction set" "$(cat "$out")" "$exact"
    for window in 128 127; do
        run 0 "--perplexity -c $window" "$qwen" "$model" --perplexity "$scratch/text.txt" -c $window
        check "--perplexity: every token but the first is scored" sh -c \
            "sed 's/.* over \([0-9]*\) of \([0-9]*\) .*/\1 \2/' '$out' | {
                read -r scored all; test \$((all - scored)) = 1; }"
    done
    kl_tests
    printf '<|im_start|>user\nhello<|im_end|>\n' >"$scratch/text.txt"
    run 0 "--perplexity of a chat" "$qwen" "$model" --perplexity "$scratch/text.txt"
    prints "--perplexity: special text is plain text" ' of [2-9][0-9] tokens, windows of 512$'
    run 0 "--perplexity --parse-special" "$qwen" "$model" --perplexity "$scratch/text.txt" \
        --parse-special
    same "--parse-special: as many tokens" "$(sed 's/.* of \([0-9]*\) tokens.*/\1/' "$out")" \
        "$("$qwen" "$model" -f "$scratch/text.txt" --tokenize --parse-special | wc -w |
            awk '{ print $1 + 1 }')"
    refuse 2 "--perplexity in windows of one" "$qwen" "$model" --perplexity "$scratch/text.txt" -c 1
    printf a >"$scratch/text.txt"
    refuse 1 "--perplexity of one token" "$qwen" "$model" --perplexity "$scratch/text.txt"
    refuse 1 "--perplexity of nothing" "$qwen" "$model" --perplexity "$scratch/none"
    cp -r "$tiny" "$scratch/short"
    sed 's/\("max_position_embeddings":\)[0-9]*/\11/' "$tiny/config.json" \
        >"$scratch/short/config.json"
    run 0 "a model of one position" "$convert" "$scratch/short" -o "$scratch/short.bin"
    refuse 1 "--perplexity with one position" "$qwen" "$scratch/short.bin" \
        --perplexity "$tiny/config.json"
}

# The README's commands are those that .ci/run runs.
readme_tests() {
    sed -n '/<!-- commands -->/,/<!-- end of commands -->/s/^    //p' "$root/README.md" \
        >"$scratch/commands"
    same "README.md: two set-up commands" "$(wc -l <"$scratch/commands")" 2
    while read -r command; do
        check "README.md's command is in .ci/run" grep -qF -- "$command" "$root/.ci/run"
    done <"$scratch/commands"
    MAKEFLAGS='' make -n -C "$root" B=build/none CFLAGS='-Ofast -march=native' build/none/qwen.o \
        >"$out"
    prints "CFLAGS leave what is needed" ' -O3 -march=native .* -ffp-contract=off '
}

# ---- A smaller model that guesses ----------------------------------------------------------------

# drafted WHAT DRAFT ARGUMENTS...: the same answer, however many tokens DRAFT guesses. All guessed
# and accepted ones of forced runs are added up in $guesses and $right.
drafted() {
    drafted_what=$1 draft=$2
    shift 2
    run 0 "$drafted_what, without" env QWEN_LOOKUP=0 "$qwen" "$@" --seed 6
    cp "$out" "$scratch/answer"
    drafted_want=$(hash)
    says "$drafted_what, without: no guesses" '\(0 drafted, 0 accepted\)'
    for setting in QWEN_DRAFT=0 QWEN_DRAFT=1 QWEN_DRAFT=5 QWEN_DRAFT=15 QWEN_LOOKUP=0 none=; do
        run 0 "$drafted_what, $setting" env QWEN_LOOKUP=0 "$setting" "$qwen" "$@" --seed 6 \
            --draft "$draft"
        same "$drafted_what, $setting: the same ids" "$(hash)" "$drafted_want"
        check "$drafted_what, $setting: the same bytes" cmp "$out" "$scratch/answer"
        says "$drafted_what, $setting: the statistics line" "$grammar"
        case $setting in QWEN_DRAFT=[15]*) ;; *) continue ;; esac
        guesses=$((guesses + $(sed -n 's/.*(\([0-9]*\) drafted.*/\1/p' "$err")))
        right=$((right + $(sed -n 's/.*drafted, \([0-9]*\) accepted.*/\1/p' "$err")))
    done
    run 0 "$drafted_what, both kinds" "$qwen" "$@" --seed 6 --draft "$draft"
    same "$drafted_what, both kinds: the same ids" "$(hash)" "$drafted_want"
}

draft_tests() {
    guesses=0 right=0
    for threads in 1 2 3; do
        drafted "--draft on $threads threads" "$scratch/q5.bin" "$model" -p 'hello the world' \
            -n 40 --ignore-eos -t $threads
    done
    drafted "--draft, greedy" "$scratch/q5.bin" "$model" -p 'hello the world' -n 40 --temp 0 \
        --ignore-eos -t 1
    drafted "--draft with penalties" "$scratch/q5.bin" "$model" -p 'hello' -n 60 -t 1 --ignore-eos \
        --presence-penalty -3 --frequency-penalty 1 --repeat-last-n 30 --temp 0.5
    drafted "--draft of all candidates" "$scratch/q5.bin" "$model" -p 'hello' -n 40 -t 1 \
        --ignore-eos --temp 2 --top-k 0 --top-p 1
    drafted "--draft with a stop string" "$scratch/q5.bin" "$model" -p 'hello' -n 60 -t 1 \
        --ignore-eos --stop e --stop the
    drafted "--draft until the model stops" "$scratch/q5.bin" "$model" -p 'hello' -t 1
    drafted "--draft until the context is full" "$scratch/q5.bin" "$model" -p 'hello' -t 1 -c 100 \
        --ignore-eos
    drafted "--draft of one token" "$scratch/q5.bin" "$model" -p 'hello' -t 1 -n 1
    drafted "--draft --raw --kv f32 --yarn 2" "$scratch/q5.bin" "$model" -p 'hello' -t 1 -n 30 \
        --raw --kv f32 --yarn 2
    drafted "--draft by the model itself" "$model" "$model" -p 'hello' -t 1 -n 40 --ignore-eos
    echo '[{"role": "user", "content": "hello the world"}]' >"$scratch/messages.json"
    drafted "--draft with --messages" "$scratch/q5.bin" "$model" \
        --messages "$scratch/messages.json" -n 30 -t 1
    check "some guesses of the tiny models ($right of $guesses) are right, some are not" \
        test "$right" -gt 100 -a "$right" -lt "$guesses"
    sed 's/"max_position_embeddings":4096/"max_position_embeddings":48/' "$tiny/config.json" \
        >"$scratch/config.json"
    cp -r "$tiny" "$scratch/short" && cp "$scratch/config.json" "$scratch/short/config.json"
    run 0 "a model that knows 48 positions" "$convert" "$scratch/short" -o "$scratch/short.bin"
    drafted "--draft that knows 48 positions" "$scratch/short.bin" "$model" -p 'hello' -n 150 \
        -t 1 --ignore-eos
    seq 1 400 >"$scratch/numbers.txt"
    drafted "--draft behind a long prompt" "$scratch/q5.bin" "$model" -f "$scratch/numbers.txt" \
        -n 30 -t 1 --ignore-eos
}

# Ways to give a prompt, and what is written beside the answer
draft_use_tests() {
    ask "before --draft" "$model" -p 'hello the world' --seed 7 -n 30 -t 1
    want=$hash
    ask "--draft and a pipe" "$model" --seed 7 -n 30 -t 1 --draft "$scratch/q5.bin" \
        <"$scratch/prompt.txt"
    same "--draft and a pipe: the same ids" "$hash" "$want"
    rm -f "$scratch/kv"
    for cached in 0 '[1-9][0-9]'; do
        run 0 "--draft and --cache" env QWEN_DRAFT=4 "$qwen" "$model" -p 'hello the world' \
            --seed 7 -n 30 -t 1 --draft "$scratch/q5.bin" --cache "$scratch/kv" \
            --stats "$scratch/stats.json"
        same "--draft and --cache: the same ids" "$(hash)" "$want"
        says "--draft and --cache: $cached cached" "\\($cached cached\\)"
        says "--draft and --cache: guesses" '\([1-9][0-9]* drafted'
    done
    check "--stats names the draft" grep -q "\"draft\":\"$scratch/q5.bin\",\"isa\"" \
        "$scratch/stats.json"
    ask "--stats without --draft" "$model" -p a -n 1 --stats "$scratch/stats.json"
    check "--stats without --draft: null" grep -q '"draft":null,"isa"' "$scratch/stats.json"
    env --default-signal=INT true 2>"$err" || {
        skip 2 "^C: this env has no --default-signal"
        return
    }
    started env QWEN_DRAFT=3 "$qwen" "$scratch/f32.bin" -p hello --yarn 8 -c 32768 --ignore-eos \
        --no-loop-guard -t 1 --draft "$scratch/q5.bin"
    kill -INT "$pid"
    wait "$pid"
    same "^C with --draft: exit status" $? 130
    says "^C with --draft: the statistics" '\([1-9][0-9]* drafted, .*\| interrupt \|'
}

draft_refusals() {
    refuse 1 "--draft of nothing" "$qwen" "$model" -p a --draft "$scratch/none.bin"
    says "--draft of nothing: its name" 'none.bin: '
    refuse 1 "--draft of a folder" "$qwen" "$model" -p a --draft "$tiny"
    refuse 1 "--draft of a text" "$qwen" "$model" -p a --draft "$scratch/prompt.txt"
    sed 's/tool_call/tool_kall/g' "$tiny/tokenizer.json" >"$scratch/other/tokenizer.json"
    run 0 "a model with another tokenizer" "$convert" "$scratch/other" -o "$scratch/other.bin"
    refuse 1 "--draft with another token" "$qwen" "$model" -p a --draft "$scratch/other.bin"
    says "--draft with another token" \
        'other.bin: tokenizer: expected that of .*q8.bin, got another \(token 279 differs\)$'
    sed 's/"t h","th e"/"t h","h e"/; s/"l l","h e",/"l l","th e",/' "$tiny/tokenizer.json" \
        >"$scratch/other/tokenizer.json"
    run 0 "a model with its merges in another order" "$convert" "$scratch/other" \
        -o "$scratch/other.bin"
    refuse 1 "--draft with another merge" "$qwen" "$model" -p a --draft "$scratch/other.bin"
    says "--draft with another merge" \
        'other.bin: tokenizer: .*q8.bin, got another \(merge 1 differs\)$'
    sed 's/,{"id":280[^}]*}//' "$tiny/tokenizer.json" >"$scratch/other/tokenizer.json"
    run 0 "a model with a token less" "$convert" "$scratch/other" -o "$scratch/other.bin"
    refuse 1 "--draft with a token less" "$qwen" "$model" -p a --draft "$scratch/other.bin"
    says "--draft with a token less" '\(280 tokens and 20 merges, not 281 and 20\)$'
    # shellcheck disable=SC2086 # a list of arguments
    for mode in --verify '--bench tg1' "--perplexity $scratch/text.txt" '--render -p a' \
        '--tokenize -p a' "--prompts $scratch/prompt.txt"; do
        refuse 2 "--draft and $mode" "$qwen" "$model" $mode --draft "$scratch/q5.bin"
    done
    for n in x -1 16 1.5; do
        refuse 1 "QWEN_DRAFT='$n'" env QWEN_DRAFT="$n" "$qwen" "$model" -p a
    done
}

# Weights that are no numbers: the guesses end, the answer does not.
broken_draft_tests() {
    why='^qwen: .*broken.bin: logits: not a finite number at position [0-9]+ .*;'
    why="$why the answer goes on without its guesses\$"
    for file in f32 q5; do
        cp "$scratch/$file.bin" "$scratch/broken.bin"
        tr '\0' '\377' </dev/zero | dd of="$scratch/broken.bin" bs=4096 seek=6 count=10 \
            iflag=fullblock conv=notrunc 2>/dev/null
        run 1 "--verify of a broken draft" "$qwen" "$scratch/broken.bin" --verify
        run 3 "the broken draft alone" "$qwen" "$scratch/broken.bin" -p 'hello the world' -n 10 -t 1
        for setting in QWEN_DRAFT=1 QWEN_DRAFT=15 none=; do
            ask "before a broken draft" "$model" -p 'hello the world' --seed 7 -n 40 -t 1 \
                --ignore-eos
            run 0 "a broken draft, $setting" env QWEN_LOOKUP=0 "$setting" "$qwen" "$model" \
                -p 'hello the world' --seed 7 -n 40 -t 1 --ignore-eos --draft "$scratch/broken.bin"
            same "a broken draft, $setting: the same ids" "$(hash)" "$hash"
            says "a broken draft, $setting: no guesses" '\(0 drafted, 0 accepted\)'
            [ $setting = none= ] || says "a broken draft, $setting: why" "$why"
        done
    done
}

# The demo model has learned something, so its other quantization is nearly always right about it.
demo_draft_tests() {
    for quant in q8 q5; do
        run 0 "the demo model as $quant" "$convert" "$root/demo/model" \
            -o "$scratch/demo.$quant.bin" --quant $quant
    done
    guesses=0 right=0
    drafted "the demo model, drafted by its q5" "$scratch/demo.q5.bin" "$scratch/demo.q8.bin" -t 1 \
        -p 'Explain in three paragraphs what a lighthouse is for.'
    drafted "the demo model, greedy" "$scratch/demo.q5.bin" "$scratch/demo.q8.bin" -t 1 --temp 0 \
        -p 'Tell me a story about a fisher.'
    check "$right of $guesses guesses of the demo model are right" \
        test $((right * 10)) -gt $((guesses * 7))
}

# A stop string inside a longer one, which has not come whole when the answer is as long as asked.
demo_stop_tests() {
    set -- "$scratch/demo.q8.bin" -p 'Tell me about Tamsey.' --temp 0 -n 6
    ask "six tokens" "$@"
    answer=$(cat "$out")
    ask "--stop in a longer one" "$@" --stop "$answer, and never more" --stop "${answer##* }"
    same "--stop in a longer one: it is cut" "$(cat "$out")" "${answer% *} "
    says "--stop in a longer one" '\| stop \|'
    # Behind an answer comes the end of a line, unless the answer ends with one.
    set -- "$scratch/demo.q8.bin" --temp 0 \
        -p 'Explain in three paragraphs what a lighthouse is for.'
    ask "paragraphs" "$@"
    ask "one paragraph" "$@" --stop "$(sed -n 3p "$out" | cut -c 1-20)"
    same "one paragraph, and two ends of lines" "$(wc -l <"$out") $(tail -c 3 "$out" | wc -l)" \
        "2 2"
}

# ---- All of it -----------------------------------------------------------------------------------

rm -rf "$scratch"
mkdir -p "$scratch" || exit 1
tiny=$scratch/tiny model=$scratch/q8.bin
run 0 "make_tiny" "$make_tiny" "$tiny"
run 0 "--version" "$qwen" --version
isas=$(sed 's/.*: //' "$out")
prints "--version: the instruction sets" '^qwen.c [0-9.]+: .*scalar'

convert_tests
convert_refusals
convert_disk_tests
hash_tests
prompt_tests
sampling_tests
stop_tests
render_tests
raw_tests
messages_tests
stats_tests
machine_tests
context_tests
cgroup_tests
cache_tests
cache_limit_tests
cache_refusals
option_tests
file_tests
stream_tests
interrupt_tests
bench_tests
perplexity_tests
readme_tests
big_tests
draft_tests
draft_use_tests
draft_refusals
broken_draft_tests
demo_draft_tests
demo_stop_tests

[ $failed -gt 0 ] || rm -rf "$scratch"
finish cli
