#!/bin/sh
# test_batch.sh QWEN CONVERT GOLDEN SCRATCH: many prompts in one run, on the small model of
# make_tiny (it lies in SCRATCH/..): the same answers for any number at a time and as one by one,
# errors in the place of their line, ^C, refusals.
set -u
qwen=$1 convert=$2 scratch=$4/batch make_tiny=$4/../make_tiny
out=$scratch/stdout err=$scratch/stderr model=$scratch/q8.bin
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"
limit=120
exec </dev/null

# line INDEX: that line of stdout
line() { sed -n "$(($1 + 1))p" "$out"; }
# member NAME LINE: a number or a plain string of a JSON object
member() { echo "$2" | sed -n "s/.*\"$1\":\"\{0,1\}\([0-9a-z]*\).*/\1/p"; }
# The text of an answer, without control characters, and @@ for a backslash
plain_text() {
    printf '%s\n' "$1" | sed 's/.*"text":"\(.*\)","finish".*/\1/; s/\\\\/@@/g
        s/\\u00[01][0-9a-f]//g; s/\\[bfnrt]//g; s/\\"/"/g'
}
# Every line is whole, and one of the two kinds.
whole_lines() {
    answer='^\{"index":[0-9]+,"text":".*","finish":"[a-z]+","prompt_tokens":[0-9]+,'
    answer="$answer\"generated_tokens\":[0-9]+,\"seed\":[0-9]+,\"hash\":\"[0-9a-f]{16}\"\}\$"
    error='^\{"index":[0-9]+,"error":"[^"].*"\}$'
    same "$1: whole lines" "$(LC_ALL=C grep -cE "$answer|$error" "$out")" "$(wc -l <"$out")"
}

prompts() {
    i=0
    while [ $i -lt 11 ]; do
        echo "prompt number $i: hello the world, $((i * i * 7919)) and the other things"
        i=$((i + 1))
    done
    echo 'hello'
}

# ---- The same answers for any number at a time ---------------------------------------------------

# any_number WHAT OPTIONS...: twelve prompts with these options, different numbers of them at a
# time, and each alone with -p
any_number() {
    what=$1 first='' totals=''
    shift
    for n in 1 2 5 32; do
        run 0 "$what, $n at a time" "$qwen" "$model" --prompts "$scratch/prompts.txt" --batch $n \
            --seed 5 "$@"
        whole_lines "$what, $n at a time"
        sum=$(cksum <"$out") total=$(sed 's/.*| //' "$err")
        [ -n "$first" ] || { first=$sum totals=$total; }
        same "$what, $n at a time: the same output" "$sum" "$first"
        same "$what, $n at a time: the same hash of all" "$total" "$totals"
    done
    i=0
    while read -r prompt; do
        answer=$(line $i)
        same "$what: the index of line $i" "$(member index "$answer")" $i
        timeout 60 "$qwen" "$model" -p "$prompt" "$@" --seed "$(member seed "$answer")" \
            >"$scratch/alone" 2>"$err"
        alone="| $(member finish "$answer") | $(member hash "$answer")"
        check "$what: line $i alone" grep -qF "$alone" "$err"
        same "$what: the text of line $i" "$(plain_text "$answer")" \
            "$(tr -d '\000-\037' <"$scratch/alone" | sed 's/\\/@@/g')"
        check "$what: the tokens of line $i" grep -q \
            "^prompt $(member prompt_tokens "$answer") tokens .* answer $(member generated_tokens \
            "$answer") tokens" "$err"
        i=$((i + 1))
    done <"$scratch/prompts.txt"
    same "$what: all lines" $i 12
}

number_tests() {
    prompts >"$scratch/prompts.txt"
    any_number "greedy" --temp 0 -n 40 -t 1
    any_number "sampled" --temp 1.5 --top-k 0 --top-p 1 -n 40 -t 2
    any_number "penalties and stops" --presence-penalty 1 --frequency-penalty 1 --stop a \
        --stop hello -n 60 -t 1
    any_number "the context fills up" --ignore-eos -c 100 -t 1
    any_number "loops" --temp 0 --ignore-eos --presence-penalty -100 -n 300 -t 1
    check "loops: there is one" grep -q '"finish":"loop"' "$out"
    any_number "--raw" --raw -n 20 --kv f32 -t 1
    run 0 "one seed for each line" "$qwen" "$model" --prompts "$scratch/prompts.txt" --seed 40 -n 1
    same "one seed for each line" "$(member seed "$(line 11)")" 51
    printf '%s\n' hello world a b c d e f >"$scratch/lines"
    tac "$scratch/lines" >"$scratch/enil"
    for file in lines enil; do
        run 0 "one after the other" "$qwen" "$model" --prompts "$scratch/$file" --temp 0 --stop a \
            -n 30 --batch 1 --stats "$scratch/$file.json"
    done
    same "the finish of all is the worst" "$(grep -o '"finish":"[a-z]*"' "$scratch/lines.json")" \
        "$(grep -o '"finish":"[a-z]*"' "$scratch/enil.json")"
    check "the hash of all knows whose answer is whose" \
        test "$(grep -o '"hash":"[0-9a-f]*"' "$scratch/lines.json")" != \
        "$(grep -o '"hash":"[0-9a-f]*"' "$scratch/enil.json")"
    echo hello >"$scratch/one.txt"
    run 0 "guesses are counted" env QWEN_LOOKUP=4 "$qwen" "$model" --prompts "$scratch/one.txt" \
        --temp 0 --presence-penalty -100 --ignore-eos -n 60 --stats "$scratch/one.json"
    check "guesses are counted" grep -q '"drafted_tokens":[1-9][0-9]*,"accepted_tokens":[1-9]' \
        "$scratch/one.json"
    printf 'hello\nhello\n' >"$scratch/two.txt"
    run 0 "the numbers of two" "$qwen" "$model" --prompts "$scratch/two.txt" --batch 1 -n 9 \
        --ignore-eos --stats "$scratch/two.json"
    n=$(member prompt_tokens "$(line 1)")
    check "the numbers of two: tokens" grep -q \
        "\"prompt_tokens\":$((2 * n)),\"cached_tokens\":$((n - 1)),\"generated_tokens\":18," \
        "$scratch/two.json"
    for rate in first_token_ms prompt_tokens_s decode_tokens_s gb_s; do
        check "the numbers of two: $rate" grep -qE "\"$rate\":[0-9.]*[1-9]" "$scratch/two.json"
    done
    run 0 "-n 0" "$qwen" "$model" --prompts "$scratch/prompts.txt" -n 0
    same "-n 0" "$(grep -c '"text":"","finish":"length",.*"generated_tokens":0,' "$out")" 12
}

# A prompt that goes on where an earlier line's answer ended: generated tokens may have been
# computed with other arithmetic than a prompt is, so their keys and values are not taken over.
continued_tests() {
    set -- --raw --temp 1.3 --top-k 0 --top-p 1 -n 150 --ignore-eos --no-loop-guard -t 1
    for seed in 1 2 3 4 5; do
        printf '{"prompt":"hello"}\n' >"$scratch/first.jsonl"
        run 0 "the first answer" "$qwen" "$model" --prompts "$scratch/first.jsonl" --seed $seed "$@"
        text=$(sed 's/.*"text":"\(.*\)","finish".*/\1/' "$out")
        printf '{"prompt":"hello%s"}\n' "$text" >"$scratch/second"
        printf '{"prompt":"other"}\n' | cat - "$scratch/second" >"$scratch/apart.jsonl"
        cat "$scratch/first.jsonl" "$scratch/second" >"$scratch/continued.jsonl"
        run 0 "behind another" "$qwen" "$model" --prompts "$scratch/apart.jsonl" --seed $seed "$@"
        want=$(member hash "$(line 1)")
        for n in 1 2; do
            run 0 "behind its beginning" "$qwen" "$model" --prompts "$scratch/continued.jsonl" \
                --seed $seed --batch $n --stats "$scratch/shared.json" "$@"
            same "the same behind its beginning, $n at a time" "$(member hash "$(line 1)")" "$want"
            same "its prompt alone is shared, $n at a time" \
                "$(member cached_tokens "$(cat "$scratch/shared.json")")" \
                "$(member prompt_tokens "$(line 0)")"
        done
    done
}

# ---- Files ---------------------------------------------------------------------------------------

# Lines that are arrays of messages, and those of OpenAI's batches.
array_tests() {
    run 0 "a conversation" "$qwen" "$model" --messages "$scratch/messages.json" --temp 0 -n 5
    want=$(sed 's/.*| //' "$err") text=$(cat "$scratch/messages.json")
    messages=${text#*: } messages=${messages%\}}
    printf '%s\n' "" " [ ${messages#?}" "$messages" "$text" '{"prompt": "hello"}' \
        "{\"custom_id\": \"a\", \"method\": \"POST\", \"body\": $text}" \
        '{"body": {"model": "b", "prompt": "hello"}}' '{"prompt": "hello", "body": 3}' \
        >"$scratch/arrays.jsonl"
    run 1 "arrays" "$qwen" "$model" --prompts "$scratch/arrays.jsonl" --temp 0 -n 5
    whole_lines "arrays"
    for i in 1 2 3 4 5 6 7; do same "arrays: line $i" "$(member hash "$(line $i)")" "$want"; done
    printf '[1] is a text\n[{"role": "user"\n' >"$scratch/bracket.txt"
    run 0 "a bracket in a text" "$qwen" "$model" --prompts "$scratch/bracket.txt" --temp 0 -n 5
    run 1 "--raw" "$qwen" "$model" --prompts "$scratch/arrays.jsonl" --raw -n 1
    same "--raw: conversations" "$(grep -c 'messages: --raw leaves no place' "$out")" 4
}

file_tests() {
    printf 'hello\n\nworld\r\n \t\n%s\nthe' "$(head -c 3000 /dev/zero | tr '\0' 'x')" \
        >"$scratch/mixed.txt"
    run 1 "lines that fail" "$qwen" "$model" --prompts "$scratch/mixed.txt" --seed 1 -n 5 -c 300
    whole_lines "lines that fail"
    same "a line for each" "$(wc -l <"$out")" 6
    for i in 1 3; do check "line $i is empty" sh -c "sed -n $((i + 1))p '$out' |
        grep -q '\"index\":$i,\"error\":\".*mixed.txt:$((i + 1)): prompt: is empty\"'"; done
    check "line 4 is too long, with the numbers" sh -c "sed -n 5p '$out' |
        grep -q '\"index\":4,\"error\":\"prompt: [0-9]* tokens do not fit .* 300 '"
    check "how many failed" grep -q '^qwen: .*mixed.txt: 3 of 6 lines' "$err"
    cp "$out" "$scratch/mixed.out"
    run 1 "stdin" "$qwen" "$model" --prompts - --seed 1 -n 5 -c 300 --batch 2 <"$scratch/mixed.txt"
    check "stdin: its name" grep -q '"error":"stdin:2: prompt: is empty"' "$out"
    same "stdin: the same" "$(grep -v error "$out" | cksum)" \
        "$(grep -v error "$scratch/mixed.out" | cksum)"
    cat >"$scratch/prompts.jsonl" <<'END'
 {"prompt": "hello the world"}
{"messages": [{"role": "user", "content": "hello the world"}], "id": 7}
{"prompt": "hello"
hello
{"prompt": 3}
{"id": 7}
{"prompt": "a", "messages": []}
{"messages": [{"role": "user"}]}
{"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hello"}]}

{"prompt": ""}
END
    run 1 "JSON lines" "$qwen" "$model" --prompts "$scratch/prompts.jsonl" --temp 0 -n 5
    whole_lines "JSON lines"
    same "JSON lines: a line for each" "$(wc -l <"$out")" 11
    same "JSON lines: errors" "$(grep -n error "$out" | cut -d : -f 1 | tr '\n' ' ')" \
        '3 4 5 6 7 8 10 11 '
    same "a prompt is a conversation of one message" "$(member hash "$(line 0)")" \
        "$(member hash "$(line 1)")"
    run 0 "the same as -p" "$qwen" "$model" -p 'hello the world' --temp 0 -n 5
    want=$(sed 's/.*| //' "$err")
    run 1 "JSON lines, one at a time" "$qwen" "$model" --prompts "$scratch/prompts.jsonl" --temp 0 \
        -n 5 --batch 1
    same "the same as -p" "$(member hash "$(line 0)")" "$want"
    run 0 "-s" "$qwen" "$model" -p hello -s 'Be brief.' --temp 0 -n 5
    want=$(sed 's/.*| //' "$err")
    printf '{"prompt": "hello"}\n' >"$scratch/one.jsonl"
    run 0 "-s" "$qwen" "$model" --prompts "$scratch/one.jsonl" -s 'Be brief.' --temp 0 -n 5
    same "-s goes to prompts" "$(member hash "$(line 0)")" "$want"
    printf '%s\n' '{"messages": [{"role": "user", "content": "hello"}]}' '{"messages": [
        {"role": "system", "content": "Be brief."}, {"role": "user", "content": "hello"}]}' |
        tr -d '\n' | sed 's/}{/}\n{/; $s/$/\n/' >"$scratch/two.jsonl"
    run 0 "-s" "$qwen" "$model" --prompts "$scratch/two.jsonl" -s 'Be brief.' --temp 0 -n 5
    same "-s goes to conversations" "$(member hash "$(line 0)")" "$want"
    run 0 "-s" "$qwen" "$model" --prompts "$scratch/two.jsonl" -s 'Be long.' --temp 0 -n 5
    same "-s leaves a system message" "$(member hash "$(line 1)")" "$want"
    sed 1q "$scratch/two.jsonl" >"$scratch/messages.json"
    run 0 "-s" "$qwen" "$model" --messages "$scratch/messages.json" -s 'Be brief.' --temp 0 -n 5
    same "-s goes to --messages" "$(sed 's/.*| //' "$err")" "$want"
    array_tests
    run 0 "--stats" "$qwen" "$model" --prompts "$scratch/one.jsonl" --temp 0 -n 5 --ignore-eos \
        --stats "$scratch/stats.json"
    check "--stats: the tokens of all" grep -q '"generated_tokens":5,' "$scratch/stats.json"
    want=$(member hash "$(line 0)")
    printf '\357\273\277{"prompt": "hello"}\r\n' >"$scratch/marked.jsonl"
    run 0 "a byte order mark" "$qwen" "$model" --prompts "$scratch/marked.jsonl" --temp 0 -n 5 \
        --ignore-eos
    same "a byte order mark: the same" "$(member hash "$(line 0)")" "$want"
    printf '\0\n{"prompt": "hello"}\n' >"$scratch/nul"
    run 0 "a NUL is text" "$qwen" "$model" --prompts "$scratch/nul" --temp 0 -n 5
    whole_lines "a NUL is text"
    printf '\n' >"$scratch/empty"
    run 2 "no prompt" "$qwen" "$model" --prompts "$scratch/empty"
    run 1 "no file" "$qwen" "$model" --prompts "$scratch/none"
}

# ---- Refusals and ends ---------------------------------------------------------------------------

end_tests() {
    run 2 "--prompts and -p" "$qwen" "$model" --prompts "$scratch/prompts.txt" -p a
    run 2 "--prompts and --render" "$qwen" "$model" --prompts "$scratch/prompts.txt" --render
    run 2 "--batch alone" "$qwen" "$model" -p a --batch 2
    run 2 "a seed too large for the last line" "$qwen" "$model" --prompts "$scratch/prompts.txt" \
        -n 1 --seed 9007199254740982
    run 0 "the last seed" "$qwen" "$model" --prompts "$scratch/prompts.txt" -n 1 \
        --seed 9007199254740981
    # shellcheck disable=SC3045 # dash and bash have ulimit -v
    ulimited() { (ulimit -v 2000000 && exec "$@"); }
    set -- "$qwen" "$model" --prompts "$scratch/prompts.txt" -n 2 --yarn 256 -c 1048576 -t 1
    ulimited "$@" --batch 8 >"$out" 2>"$err"
    same "more memory than there is: exit status" $? 1
    check "more memory than there is: the numbers" grep -qE \
        '^qwen: .*: --batch: 8 sequences of 1048576 positions need [0-9.]+ GB .* 2.05 GB' "$err"
    ulimited "$@" >"$out" 2>"$err"
    same "without --batch as many as fit: exit status" $? 0
    same "without --batch as many as fit" "$(wc -l <"$out")" 12
    timeout 60 "$qwen" "$model" --prompts "$scratch/prompts.txt" >/dev/full 2>"$err"
    same "stdout is full" $? 1
    cp "$model" "$scratch/bad.bin" # the head is the last tensor: scales that are NaN
    head -c 8000 /dev/zero | tr '\0' '\377' | dd of="$scratch/bad.bin" bs=1 conv=notrunc \
        seek=$(($(wc -c <"$model") - 16000)) 2>/dev/null
    run 3 "numbers that are not finite" "$qwen" "$scratch/bad.bin" --stats "$scratch/bad.json" \
        --prompts "$scratch/prompts.txt"
    same "numbers that are not finite: one line" "$(wc -l <"$err")" 1
    check "numbers that are not finite: --stats" grep -q '"finish":"error"' "$scratch/bad.json"
    for test in pp16 tg2 tg2@16 b2; do
        run 3 "--bench $test: numbers that are not finite" "$qwen" "$scratch/bad.bin" \
            --bench $test -r 1
    done
    if ! env --default-signal=INT true 2>"$err"; then
        skip 10 "signals: this env has no --default-signal"
        return
    fi
    for signal in INT:130 TERM:143; do
        env --default-signal=INT "$qwen" "$model" --prompts "$scratch/prompts.txt" --batch 3 -t 1 \
            --ignore-eos --no-loop-guard --yarn 8 -c 32768 >"$out" 2>"$err" &
        pid=$!
        sleep 1
        kill -"${signal%:*}" $pid
        wait $pid 2>/dev/null # dash tells of it
        same "SIG${signal%:*}: exit status" $? "${signal#*:}"
        whole_lines "SIG${signal%:*}"
        check "SIG${signal%:*}: what there was of the answers" grep -q '"finish":"interrupt"' "$out"
        check "SIG${signal%:*}: the statistics" grep -q '| interrupt |' "$err"
    done
}

rm -rf "$scratch"
mkdir -p "$scratch" || exit 1
run 0 "make_tiny" "$make_tiny" "$scratch/tiny"
run 0 "convert" "$convert" "$scratch/tiny" -o "$model"
number_tests
continued_tests
file_tests
end_tests

[ $failed -gt 0 ] || rm -rf "$scratch"
finish batch
