#!/bin/sh
# test_bench.sh QWEN CONVERT GOLDEN SCRATCH: run_bench.sh, mostly on a stand-in for ./qwen that
# answers at once, typed at through bench_pty.c; --url on bench_server.c.
#
# "test && good || bad", $ and % in single quotes: as they are meant
# shellcheck disable=SC2015,SC2016,SC2059
LC_ALL=C
export LC_ALL
unset OPENAI_API_KEY
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
bench=$here/../run_bench.sh
absolute() {
    case $1 in
    */*) echo "$(cd "$(dirname "$1")" 2>/dev/null && pwd)/$(basename "$1")" ;;
    *) echo "$(pwd)/$1" ;;
    esac
}
real_qwen=$(absolute "$1") convert=$(absolute "$2") golden=$3
mkdir -p "$4/bench" && scratch=$(cd "$4/bench" && pwd) || exit 1
tiny_maker=$scratch/../../make_tiny
cr=$(printf '\r')
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$here/lib.sh"
has() { grep -q -- "$2" "$1" || { echo "no \"$2\" in $1:"; tail -n 5 "$1"; false; }; }
lacks() { ! grep -q -- "$2" "$1"; }
alike() { cmp -s "$1" "$2" || { diff "$1" "$2" | head -n 10; false; }; }
rows() { awk -f "$here/../prompts/csv.awk" -f "$scratch/rows.awk" "$1"; }
echo 'csv_add($0) && records++ { print CSV[1] "|" CSV_N "|" CSV[3] "|" CSV[26] }' \
    >"$scratch/rows.awk"
pty() { "$scratch/pty" "$@"; }

# ---- Stand-ins -----------------------------------------------------------------------------------

cc=${CC:-cc}
for program in pty server; do
    $cc -std=c11 -D_GNU_SOURCE -O1 -o "$scratch/$program" "$here/bench_$program.c" || exit 1
done

# Answers from the prompt's first line; FAKE_DELAY seconds in the middle; every call is noted.
cat >"$scratch/qwen" <<'EOF'
#!/bin/sh
model=$1
while [ $# -gt 0 ]; do
    case $1 in
    --stats) stats=$2 ;;
    -f) prompt=$2 ;;
    --seed) seed=$2 ;;
    --temp) temp=$2 ;;
    --draft) draft=$2 ;;
    esac
    shift
done
case $model in
*broken*) echo "qwen: $model: magic: expected a model.bin, got text" >&2
    exit 1 ;;
esac
line=${prompt:+$(head -n 1 "$prompt")}
[ -z "$prompt" ] || echo "$line" >>"${FAKE_CALLS:-/dev/null}"
echo "draft ${draft:-none}" >>"${FAKE_DRAFTS:-/dev/null}"
[ -z "$FAKE_PROMPTS" ] || [ -z "$prompt" ] ||
    cp "$prompt" "$FAKE_PROMPTS/$(ls "$FAKE_PROMPTS" | wc -l | tr -d ' ')"
[ -z "$prompt" ] || printf 'Answer to: '
[ -z "$FAKE_DELAY" ] || [ -z "$prompt" ] || sleep "$FAKE_DELAY"
[ -z "$prompt" ] || echo "$line${FAKE_SEEDED:+ (seed $seed)}"
case $line in *Second*) [ -z "$FAKE_MEDDLE" ] || echo >>"$FAKE_MEDDLE" ;; esac
case $FAKE_MENDED$line in This*fails*) echo "qwen: logits: not a finite number" >&2; exit 3 ;; esac
cat >"$stats" <<END
{"model":"$model","name":"Fake \\"1B\\"","quant":"q8","isa":"avx2","threads":4,"context":4096,\
"kv":"i16","exact":false,"seed":${seed:-0},"sampler":{"temperature":${temp:-0.7},"top_k":40,\
"top_p":0.949999988,"min_p":0.05,"repeat_penalty":1.31,"repeat_last_n":64,"presence_penalty":0,\
"frequency_penalty":0},"prompt_tokens":120,"cached_tokens":20,"generated_tokens":11,\
"load_ms":1.500,"first_token_ms":50.250,"prompt_tokens_s":1990.049,"decode_tokens_s":25.004,\
"gb_s":1.1,"peak_memory_mib":64.5,"finish":"stop","hash":"0123456789abcdef"}
END
EOF
chmod +x "$scratch/qwen"
QWEN=$scratch/qwen
export QWEN
echo model >"$scratch/model.bin"

# A small set of five tasks.
rm -rf "$scratch/set"
mkdir "$scratch/set"
printf 'task: warm-up\n---\nWarm.\n' >"$scratch/set/00-warm-up.txt"
printf '%s\n' 'task: one, "two"' 'sampling: profile' 'max-tokens: 50' 'check: sentences 1' \
    'check: contains nothing' 'check: grounded' 'check: no-table' --- First. '' \
    >"$scratch/set/01-a.txt"
printf 'task: include\r\nsampling: temp=0.9\r\n---\r\nSecond.\r\n@include part.txt\r\nEnd.\r\n' \
    >"$scratch/set/02-b.txt"
printf 'Part one.\nPart two.\n' >"$scratch/set/part.txt"
printf 'task: three\n---\nThird.\n' >"$scratch/set/03-c.txt"
printf 'task: four\n---\nFourth.\n' >"$scratch/set/04-d.txt"
printf 'task: ten\n---\nTenth.\n' >"$scratch/set/10-e.txt"

results=$scratch/results
fresh() { rm -rf "$results"; }
bench() { sh "$bench" --results "$results" "$@"; }
new() { bench "$scratch/model.bin" --prompts "$scratch/set" "$@"; }

# ---- Votes typed on a terminal: the exact CSV ----------------------------------------------------

fresh
ask='leave)> '
cat >"$scratch/votes" <<EOF
expect warm-up
expect 1/5
expect $ask
send 8\n
expect Expected a digit
expect $ask
send \n
expect Expected a digit
expect $ask
send 3t\n
expect Expected a digit
expect $ask
send 45 nice\n
expect Expected a digit
expect $ask
send ?\n
expect 5  perfect
expect $ask
send   4   good, but "short"; =1+1 \n
expect 2/5
expect $ask
send 3 first line\n\nsecond, "line"\nno end
pause 400
send !\n
expect 3/5
expect $ask
send r\n
expect (seed 8)
expect $ask
send 5\n
expect 4/5
expect $ask
send s\n
expect 5/5
expect $ask
send \d
EOF
FAKE_SEEDED=1 FAKE_PROMPTS=$scratch/prompts
export FAKE_SEEDED FAKE_PROMPTS
rm -rf "$FAKE_PROMPTS" && mkdir "$FAKE_PROMPTS"
pty "$scratch/votes" "$scratch/out" sh "$bench" --results "$results" "$scratch/model.bin" \
    --prompts "$scratch/set" --run typed --seed 7
same "a run typed at leaves with 0" $? 0
printf 'expect 5/5\nexpect %s\nsend 0 done\\n\nexpect Total: 12 of 25, 4 of 5\n' "$ask" \
    >"$scratch/votes"
pty "$scratch/votes" "$scratch/out2" sh "$bench" --results "$results" --resume typed
same "--resume goes on with the task that was left" $? 0
unset FAKE_SEEDED FAKE_PROMPTS

# What changes from machine to machine and day to day is masked.
mask() {
    sed -e 's/20[0-9][0-9]-[0-9][0-9]-[0-9][0-9]T[0-9:]*Z/TIME/' \
        -e 's/,avx2,4,[^,]*,/,avx2,4,CPU,/' -e 's/,CPU,[^,]*",/,CPU,/' \
        -e 's/Fake ""1B""",[0-9a-fcr]*,/Fake ""1B""",HASH,/' "$1"
}
common=',typed,TIME,"Fake ""1B""",HASH,q8,avx2,4,CPU'
tail_of() {
    measured=1.500,50.250,1990.05,25.00,64.5
    echo "40,0.95,0.05,1.31,64,$1,4096,120,20,11,stop,$measured,$2,$scratch/set"
}
sha() { printf '%s\n' "$@" | sha256sum | cut -c1-8; }
details='NOT: 2 sentences (asked 1); NOT: lacks ""nothing""'
details="$details; no strange years or percentages; no table"
second=$(sha Second. 'Part one.' 'Part two.' End.)
{
    sed -n "s/^header=\\(\\\$header\\)\\{0,1\\}'\\(.*\\)'\$/\\2/p" "$bench" | tr -d '\n'
    printf '\r\n'
    printf '1,"one, ""two""",4,"good, but ""short""; =1+1"'
    echo "$common,7,rbyf,0.15,$(tail_of 50 "2/4,\"$details\""),$(sha First. ''),typed/01.txt$cr"
    printf '2,include,3,"first line\n\nsecond, ""line""\nno end!"'
    echo "$common,7,rbyf+task,0.9,$(tail_of 1500 ,),$second,typed/02.txt$cr"
    echo "3,three,5,$common,8,rbyf,0.15,$(tail_of 1500 ,),$(sha Third.),typed/03.txt$cr"
    echo "4,four,,$common,7,rbyf,0.15,$(tail_of 1500 ,),$(sha Fourth.),typed/04.txt$cr"
    echo "10,ten,0,done$common,7,rbyf,0.15,$(tail_of 1500 ,),$(sha Tenth.),typed/10.txt$cr"
} >"$scratch/expected.csv"
if command -v sha256sum >/dev/null; then
    mask "$results/typed.csv" >"$scratch/masked.csv"
    check "the CSV is exact" alike "$scratch/expected.csv" "$scratch/masked.csv"
else
    skip 1 "no sha256sum to expect hashes with"
fi
check "a run with the tasks' own sampling says so" has "$scratch/out" \
    "profile rbyf (with the tasks' own sampling)"
bench --report typed >"$scratch/out3" 2>&1
check "so does its report" has "$scratch/out3" "profile rbyf (with the tasks' own sampling)"
check "a total without every score is marked" has "$scratch/out3" "total of 25  *12\*$"
check "the mark is explained" has "$scratch/out3" "^\* without a score for every task"
same "five rows of 36 fields" "$(rows "$results/typed.csv" | cut -d'|' -f1,2 | tr '\n' ' ')" \
    '1|36 2|36 3|36 4|36 10|36 '
same "the answer has its file" "$(cat "$results/typed/03.txt")" "Answer to: Third. (seed 8)"
check "the log keeps the answer that was asked again" has "$results/typed.log" \
    "Answer to: Third. (seed 7)"
check "the log keeps the prompt" has "$results/typed.log" "^Part two.$"
check "the log keeps the remark whole" has "$results/typed.log" '^second, "line"$'
printf 'Second.\nPart one.\nPart two.\nEnd.\n' >"$scratch/want"
check "the prompt is put together" alike "$scratch/want" "$FAKE_PROMPTS$scratch/prompts/2"
printf 'First.\n\n' >"$scratch/want"
check "newlines at a prompt's end count" alike "$scratch/want" "$scratch/prompts/1"
check "the estimate is shown" has "$scratch/out" "of computing left"
bench --resume typed --auto >"$scratch/out" 2>&1
same "--resume of a whole run does nothing more" \
    "$?$(rows "$results/typed.csv" | wc -l | tr -d ' ')" 05
same "nothing is left behind" "$(ls "$results/typed")" \
    "$(printf '01.txt\n02.txt\n03.txt\n04.txt\n10.txt\nsettings')"

# ---- The sets ------------------------------------------------------------------------------------

FAKE_PROMPTS=$scratch/prompts
export FAKE_PROMPTS
for set in en zh demo; do
    dir=$here/../prompts/$set
    [ -d "$dir" ] || continue
    rm -rf "$FAKE_PROMPTS" && mkdir "$FAKE_PROMPTS"
    bench "$scratch/model.bin" --auto --prompts $set --run "$set" >"$scratch/out" 2>&1
    same "$set: 14 rows" "$?$(rows "$results/$set.csv" | grep -c '|36||stop')" 014
    check "$set: every check is known" lacks "$results/$set.csv" "unknown check"
    check "$set: nothing is left to include" lacks "$results/$set.log" "^@include"
    [ -f "$dir/article.txt" ] || continue
    wanted=$(grep -l '^@include article.txt' "$dir"/[0-9]* | wc -l)
    same "$set: the article is in $wanted prompts" \
        "$(grep -lF "$(sed -n 2p "$dir/article.txt")" "$FAKE_PROMPTS"/* | wc -l)" "$wanted"
done
rm -rf "$FAKE_PROMPTS" && mkdir "$FAKE_PROMPTS"
bench "$scratch/model.bin" --auto --context-first --run turned >"$scratch/out" 2>&1
check "--context-first is in its label" has "$results/turned.csv" '"en, context first"'
same "--context-first puts the article first" "$(sed 1q "$FAKE_PROMPTS/5")" "<article>"
check "--context-first keeps the instruction" has "$FAKE_PROMPTS/5" "^Write a short summary"
same "--context-first has the same words" \
    "$(tr ' ' '\n' <"$FAKE_PROMPTS/5" | grep . | sort | cksum)" \
    "$(sed '1,/^---$/d; /^@include/d' "$here"/../prompts/en/05-*.txt |
        cat - "$here/../prompts/en/article.txt" | tr ' ' '\n' | grep . | sort | cksum)"
unset FAKE_PROMPTS

# ---- Kills and interruptions ---------------------------------------------------------------------

random() { od -An -tu2 -N2 /dev/urandom | awk -v n="$1" '{ print $1 % n }'; }
FAKE_DELAY=0.03 FAKE_CALLS=$scratch/calls
export FAKE_DELAY FAKE_CALLS

# storm NAME N STEP STATUS: end a run of 14 tasks N times at random moments, resume each time
storm() {
    rm -rf "${results:?}/$1" "$results/$1".* "$FAKE_CALLS"
    before=0 lost=0 i=0 odd=0
    while [ $i -lt "$2" ]; do
        printf 'pause %d\n%s\n' $((20 + $(random 400))) "$3" >"$scratch/storm"
        if [ -f "$results/$1/settings" ]; then
            set -- "$1" "$2" "$3" "$4" --resume "$1"
        else
            set -- "$1" "$2" "$3" "$4" "$scratch/model.bin" --run "$1"
        fi
        name=$1 n=$2 step=$3 wanted=$4
        shift 4
        pty "$scratch/storm" "$scratch/out" sh "$bench" --results "$results" --auto "$@"
        status=$?
        # A run that had nothing left to do may end before it is hit.
        [ $status = "$wanted" ] || [ $status = 0 ] || { odd=$((odd + 1)); cat "$scratch/out"; }
        now=0
        if [ -f "$results/$name.csv" ]; then now=$(rows "$results/$name.csv" | grep -c .); fi
        [ "$now" -ge "$before" ] || lost=$((lost + 1))
        before=$now i=$((i + 1))
        set -- "$name" "$n" "$step" "$wanted"
        if [ "$now" = 14 ]; then # once more from the start
            rm -rf "${results:?}/$name" "$results/$name".*
            before=0
        fi
    done
    [ -f "$results/$1/settings" ] || bench "$scratch/model.bin" --auto --run "$1" >/dev/null 2>&1
    bench --resume "$1" --auto >"$scratch/out" 2>&1
    same "$1 $2 times: each ended as it should" "$odd" 0
    same "$1 $2 times: no row was lost" "$lost" 0
    same "$1 $2 times: all rows in the end, once and whole" \
        "$(rows "$results/$1.csv" | tr '\n' ' ')" \
        "$(for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14; do printf '%d|36||stop ' $i; done)"
    same "$1 $2 times: nothing is left behind" "$(cd "$results/$1" && echo [!0-9]*)" settings
}
storm killed 50 "kill 9" 137
storm interrupted 20 interrupt 130
unset FAKE_DELAY FAKE_CALLS

fresh
cat >"$scratch/votes" <<EOF
expect $ask
send 2\n
expect 2/5
expect $ask
interrupt
EOF
pty "$scratch/votes" "$scratch/out" sh "$bench" --results "$results" "$scratch/model.bin" \
    --prompts "$scratch/set" --run asked
same "^C at the vote ends with 130" $? 130
same "^C at the vote keeps the rows" "$(rows "$results/asked.csv")" "1|36|2|stop"
check "^C says how to go on" has "$scratch/out" "--resume asked"
printf 'expect %s\npause 100\nkill 15\n' "$ask" >"$scratch/votes"
pty "$scratch/votes" "$scratch/out" sh "$bench" --results "$results" --resume asked
same "a signal at the vote is not kept waiting" $? 143
printf 'expect Answer to\ninterrupt\n' >"$scratch/votes"
FAKE_DELAY=5 NO_COLOR='' TERM=xterm pty "$scratch/votes" "$scratch/out" sh "$bench" \
    --results "$results" --resume asked
same "^C in an answer ends with 130" $? 130
check "^C in an answer says how to go on" has "$scratch/out" "--resume asked"
same "^C in an answer ends its color" "$(tr -d '\r\n' <"$scratch/out" |
    awk '{ sub(/.*Answer to/, ""); print (index($0, "\033[0m") > 0) }')" 1

# Without a terminal nothing is asked; back at one, what is left is.
if command -v setsid >/dev/null; then
    setsid -w sh "$bench" --results "$results" "$scratch/model.bin" --prompts "$scratch/set" \
        --run alone >"$scratch/out" 2>&1 </dev/null
    same "no terminal: the run goes on without" \
        "$?$(rows "$results/alone.csv" | grep -c '|36||stop')" 05
    check "no terminal: said" has "$scratch/out" "no terminal to ask for scores"
    check "no terminal: what to do is said" has "$scratch/out" \
        "run_bench.sh --results $results --score alone asks"
    setsid -w sh "$bench" --results "$results" --score alone >"$scratch/out" 2>&1 </dev/null
    same "no terminal: --score is refused" "$?$(wc -l <"$scratch/out" | tr -d ' ')" 21
    sed '$d' "$results/alone.csv" >"$scratch/less.csv" &&
        mv "$scratch/less.csv" "$results/alone.csv"
    printf 'expect 5/5\nexpect %s\nsend 4\\n\nexpect Total: 4 of 25, 1 of 5\n' "$ask" \
        >"$scratch/votes"
    pty "$scratch/votes" "$scratch/out" sh "$bench" --results "$results" --resume alone
    same "a terminal again: asked" "$?$(rows "$results/alone.csv" | tail -n 1)" "010|36|4|stop"
else
    skip 5 "no setsid to lose the terminal with"
fi

# ---- Two runners; torn, foreign and read-only files; a full disk ---------------------------------

fresh
FAKE_DELAY=0.2 bench "$scratch/model.bin" --auto --prompts "$scratch/set" --run busy \
    >"$scratch/out" 2>&1 &
first=$!
i=0
while [ ! -f "$results/busy.csv" ] && [ $i -lt 100 ]; do sleep 0.05; i=$((i + 1)); done
bench --resume busy --auto >"$scratch/out2" 2>&1
same "a second runner is refused" $? 1
check "a second runner is told who runs" has "$scratch/out2" "locked by process [0-9]"
wait $first
same "the first runner is not disturbed" "$?$(rows "$results/busy.csv" | wc -l | tr -d ' ')" 05
echo 999999999 >"$results/busy/lock"
bench --resume busy --auto >"$scratch/out" 2>&1
same "a dead runner's lock is taken over" $? 0
check "taking over is said" has "$scratch/out" "taking over"
new --auto --run busy >"$scratch/out" 2>&1
same "a name is not used twice" $? 2

cp "$results/busy.csv" "$scratch/whole.csv"
tear() { # WHAT BYTES-FROM-THE-END
    head -c $(($(wc -c <"$scratch/whole.csv") - $2)) "$scratch/whole.csv" >"$results/busy.csv"
    bench --resume busy --auto >"$scratch/out" 2>&1
    same "torn $1: repaired" "$?$(rows "$results/busy.csv" | tr '\n' ' ')" \
        "01|36||stop 2|36||stop 3|36||stop 4|36||stop 10|36||stop "
    check "torn $1: said" has "$scratch/out" "was torn"
}
tear "in the middle" 40
tear "before the line feed" 1
tear "in the first field" $(($(tail -n 1 "$scratch/whole.csv" | wc -c) - 2))
{ cat "$scratch/whole.csv"; printf '11,"torn ""quoted\n'; } >"$results/busy.csv"
bench --resume busy --auto >"$scratch/out" 2>&1
check "torn in a quoted field after a newline" alike "$scratch/whole.csv" "$results/busy.csv"
{ cat "$scratch/whole.csv"; printf '11,"a remark\nof two lines", and so'; } >"$results/busy.csv"
bench --resume busy --auto >"$scratch/out" 2>&1
check "torn behind a quoted field" alike "$scratch/whole.csv" "$results/busy.csv"

untouched() { # WHAT: the file in $scratch/odd.csv is refused with 2, and left as it is
    cp "$scratch/odd.csv" "$results/busy.csv"
    bench --resume busy --auto >"$scratch/out" 2>&1
    same "$1: refused" $? 2
    check "$1: untouched" alike "$scratch/odd.csv" "$results/busy.csv"
}
sed '1s/REMARKS/NOTES/' "$scratch/whole.csv" >"$scratch/odd.csv"
untouched "another version's columns"
head -c 3000 "$scratch/pty" >"$scratch/odd.csv"
untouched "binary junk"
{ cat "$scratch/whole.csv"; printf 'a\000b\n'; } >"$scratch/odd.csv"
untouched "zero bytes"
sed '3s/,rbyf//' "$scratch/whole.csv" >"$scratch/odd.csv"
untouched "a row with a field too few"
sed '2s/^\([0-9]*,[^,]*\),[^,]*,/\1,7,/' "$scratch/whole.csv" >"$scratch/odd.csv"
untouched "a vote of 7"
{ cat "$scratch/whole.csv"; sed -n 2p "$scratch/whole.csv"; } >"$scratch/odd.csv"
untouched "a task twice"

fresh
cat >"$scratch/votes" <<EOF
expect $ask
send 2\n
expect 2/5
expect $ask
EOF
printf 'send 5\\n\nexpect was changed\n' >>"$scratch/votes"
FAKE_MEDDLE=$results/moved.csv
export FAKE_MEDDLE
pty "$scratch/votes" "$scratch/out" sh "$bench" --results "$results" "$scratch/model.bin" \
    --prompts "$scratch/set" --run moved
same "a CSV that someone else changes stops the run" $? 1
unset FAKE_MEDDLE

# A limit on the size of files stands for a full disk: 2 blocks of 512 bytes, which the CSV passes
# first.
fresh
new --auto --run full >"$scratch/out" 2>&1
cp "$results/full.csv" "$scratch/whole.csv"
for keep in 2 3; do
    { sed "${keep}q" "$scratch/whole.csv"; } >"$results/full.csv"
    cp "$results/full.csv" "$scratch/before.csv"
    : >"$results/full.log"
    (ulimit -f 2; bench --resume full --auto) >"$scratch/out" 2>&1
    check "full disk: status is not 0" [ $? -ne 0 ]
    same "full disk: the rows so far are whole" \
        "$(rows "$results/full.csv" | head -n $((keep - 1)) | cut -d'|' -f2 | sort -u)" 36
    bench --resume full --auto >"$scratch/out" 2>&1
    same "full disk: goes on with room" "$?$(rows "$results/full.csv" | wc -l | tr -d ' ')" 05
done

# ---- Scoring later, blind ------------------------------------------------------------------------

fresh
new --auto --run night >/dev/null 2>&1
new --auto --run day >/dev/null 2>&1
FAKE_SEEDED=1 new --auto --run other --seed 3 >/dev/null 2>&1
printf 'expect 11 answers\n' >"$scratch/votes"
i=1
while [ $i -le 11 ]; do
    printf 'expect [%d/11]\nexpect %s\nsend 3 note, %d\\n\n' $i "$ask" $i >>"$scratch/votes"
    i=$((i + 1))
done
echo 'expect shown twice' >>"$scratch/votes"
echo 'expect other: 15 of 25, 5 of 5' >>"$scratch/votes"
printf 'expect [1/11]\nexpect %s\nsend q\\n\nexpect Left at answer 1 of 11\n' "$ask" \
    >"$scratch/leave"
pty "$scratch/leave" "$scratch/out" sh "$bench" --results "$results" --score night day other
same "--score that is left says how to go on" $? 0
printf 'expect [1/11]\nexpect %s\ninterrupt\n' "$ask" >"$scratch/leave"
pty "$scratch/leave" "$scratch/out" sh "$bench" --results "$results" --score night day other
same "^C at a vote of --score" $? 130
check "^C at a vote of --score offers no --resume" lacks "$scratch/out" "--resume"
pty "$scratch/votes" "$scratch/out" sh "$bench" --results "$results" --score night day other \
    --seed 5
same "--score asks for each different answer, and for one again" $? 0
esc=$(printf '\033')
same "--score shows each answer under its own prompt" \
    "$(sed "s/$esc\[[0-9]*m//g" "$scratch/out" | tr -d '\r' | awk '
        /^\[[0-9]+\/11\]/ { getline prompt }
        /^Answer to: / { sub(/ \(seed.*/, ""); n += substr($0, 12) == prompt }
        END { print n + 0 }')" 11
sed '/shown twice/q' "$scratch/out" >"$scratch/out3" # the totals after it have names
check "--score shows no names" lacks "$scratch/out3" 'Fake\|night\|other'
same "--score fills in every row" \
    "$(rows "$results/night.csv" "$results/day.csv" | grep -c '|36|3|stop')" 5
for name in day other; do
    same "--score fills in $name" "$(rows "$results/$name.csv" | grep -c '|36|3|stop')" 5
done
check "--score keeps the repeat" has "$results/repeats.csv" ',night day other,[0-9]*,3,3'
same "--score leaves the header" "$(sed 1q "$results/day.csv" | cksum)" \
    "$(sed 1q "$results/night.csv" | cksum)"
printf 'expect has its vote\n' >"$scratch/votes"
pty "$scratch/votes" "$scratch/out" sh "$bench" --results "$results" --score night
same "--score again has nothing to ask" $? 0

# skips N: skip each of 6 answers, but give the N-th a vote
skips() {
    i=1
    while [ $i -le 6 ]; do
        with=s
        [ $i != "$1" ] || with='4 at last'
        printf 'expect [%d/6]\nexpect %s\nsend %s\\n\n' $i "$ask" "$with"
        i=$((i + 1))
    done
    echo 'expect scored'
}
(umask 077 && new --auto --run skipped >/dev/null 2>&1)
skips 0 >"$scratch/votes"
pty "$scratch/votes" "$scratch/out" sh "$bench" --results "$results" --score skipped --seed 5
same "--score: all skipped" "$?$(rows "$results/skipped.csv" | grep -c '|36||')" 05
twice=$(sed "s/$esc\[[0-9]*m//g" "$scratch/out" | awk '
    sub(/^\[/, "") && sub(/\/6\] /, " ") { n = $1; $1 = ""; if ($0 in seen) print n; seen[$0] }')
skips "$twice" >"$scratch/votes"
pty "$scratch/votes" "$scratch/out" sh "$bench" --results "$results" --score skipped --seed 5
same "--score: one that was skipped gets its vote when it is shown again" \
    "$?$(rows "$results/skipped.csv" | grep -c '|36|4|')" 01
same "a run keeps its files as private as they were" \
    "$(find "$results" -name 'skipped.*' -perm 600 | wc -l)" 2
cp -r "$scratch/set" "$scratch/kept"
for task in "$scratch/set"/*-*.txt; do echo Please. >>"$task"; done
printf 'expect another now\nexpect scored\n' >"$scratch/votes"
pty "$scratch/votes" "$scratch/out" sh "$bench" --results "$results" --score skipped --seed 5
same "--score: answers to other prompts are left out" \
    "$?$(grep -c 'is another now than the one that was answered' "$scratch/out")" 05
rm -r "$scratch/set"
mv "$scratch/kept" "$scratch/set"

# ---- The report ----------------------------------------------------------------------------------

fresh
mkdir -p "$results"
cp "$here"/bench/*.csv "$results/"
bench --report first second third | sed '$d' >"$scratch/report.txt"
check "the report of three runs" alike "$here/bench/report.txt" "$scratch/report.txt"
check "the page of three runs" alike "$here/bench/report.html" "$results/report.html"
check "the page needs nothing from elsewhere" lacks "$results/report.html" \
    'http[s]*:\|<script\|<link\|src='
printf '#,TASK,VOTE,REMARKS\r\n1,introduction,5 ,\r\n2,explain,3,"a,\033[31m b"\r\n' \
    >"$results/plain.csv"
bench --report plain >"$scratch/out" 2>&1
check "a file with four columns is a run" has "$scratch/out" "total of 10  *8"
check "its remark, without what a terminal would obey" has "$scratch/out" "^     A 3  a, \[31m b\$"
check "a task without a remark is not among them" lacks "$scratch/out" "^ 1 introduction\$"
long=A-name-that-is-longer-than-what-is-left-of-the-page
sed -e "s/Qwen2-0.5B-Instruct/$long/; s/,en,[0-9a-f]*,/,zh,00000000,/" \
    -e 's/^\([0-9]*\),\([^,]*\),[0-5],/\1,\2,0,/' "$here/bench/third.csv" >"$results/fourth.csv"
bench --report second fourth >"$scratch/out" 2>&1
check "a long name at the right stands to the left of its dot" has "$results/report.html" \
    " text-anchor=\"end\">B\* &#160;A-name-that-is-longer-than-what-is-left-of-th.*<"
check "runs of different prompts are marked" has "$scratch/out" "more than chance (other prompts)"
check "a small p is not 0" has "$scratch/out" "p = 0.000[1-9] "
mkdir -p "$scratch/slow" && cat >"$scratch/slow/awk" <<END
#!/bin/sh
case " \$* " in *report.awk*) echo reading >&2 && sleep 20 ;; esac
exec $(command -v awk) "\$@"
END
chmod +x "$scratch/slow/awk"
printf 'expect reading\ninterrupt\n' >"$scratch/votes"
PATH=$scratch/slow:$PATH pty "$scratch/votes" "$scratch/out" sh "$bench" --results "$results" \
    --report first
same "^C in --report: status" "$?" 130
same "^C in --report has no run to go on with" "$(sed -n 's/^run_bench: //p' "$scratch/out")" \
    "stopped$cr"
rm "$results/report.html"
for shell in sh bash; do
    { "$shell" "$bench" --results "$results" --report 2>"$scratch/err"; } | sed 1q >"$scratch/out"
    check "$shell: --report for sed 1q" has "$scratch/out" "^[0-9]* runs, 14 tasks"
    same "$shell: --report for sed 1q: no complaint" "$(cat "$scratch/err")" ""
done
check "--report for sed 1q: the page is whole" has "$results/report.html" "</html>"
if [ -c /dev/full ]; then
    bench --report >/dev/full 2>"$scratch/err"
    same "--report on a full disk" "$?$(cat "$scratch/err")" \
        "1run_bench: the report could not be printed"
fi
ln -sf "$bench" "$scratch/link"
sh "$scratch/link" --results "$results" --report first >"$scratch/out" 2>&1
same "called by a link" $? 0
bench --report nothing >"$scratch/out" 2>&1
same "a run that is not there" $? 2
# A run's name may be a path of its files, in the folder of the results.
mkdir -p "$results/first" "$scratch/elsewhere"
touch "$results/first.log" "$scratch/elsewhere/first.csv"
for path in first.csv first.log first/ first; do
    bench --report "$results/$path" second >"$scratch/out" 2>&1
    same "--report of $path: status" $? 0
    check "--report of $path" has "$scratch/out" "^  A .* (run first,"
done
(cd "$results" && sh "$bench" --report ./first.csv --results .) >"$scratch/out" 2>&1
same "--report of a path, then --results" $? 0
bench --report "$scratch/elsewhere/first.csv" >"$scratch/out" 2>&1
same "a path elsewhere" "$?$(sed 's/ (.*//' "$scratch/out")" "2run_bench: expected runs in $results"
bench --report "$results/first.csv" "$scratch/elsewhere/first.csv" >"$scratch/out" 2>&1
same "a path elsewhere, behind another" \
    "$?$(cat "$scratch/out")" "2run_bench: $scratch/elsewhere/first.csv: expected a run in $results"
bench --report "$results/none/first.csv" >"$scratch/out" 2>&1
same "a path of nothing" "$?" 2
bench --report "two words" >"$scratch/out" 2>&1
same "what makes a name" "$?$(sed 's/.*got//' "$scratch/out")" \
    "2 \"two words\" (letters, digits, . _ and -, no . or - in front)"
mkdir "$scratch/page.html.new"
bench --report first --html "$scratch/page.html" >"$scratch/out" 2>&1
same "a page that cannot be written" "$?$(sed -n 's/^run_bench: //p' "$scratch/out")" \
    "1$scratch/page.html.new: cannot be written"
(cd "$scratch" && bench model.bin --auto --prompts set --run near) >"$scratch/out" 2>&1
same "a set beside, named without a slash" \
    "$?$(rows "$results/near.csv" | grep -c '|36||stop')" 05
check "how to call this again" has "$scratch/out" "^$bench --results $results --score near asks"

fresh
mkdir -p "$results"
for one in a:4 b:3 c:3; do
    printf '#,TASK,VOTE,REMARKS\r\n' >"$results/${one%:*}.csv"
    for i in 1 2 3 4 5 6; do
        printf '%d,task %d,%s,\r\n' $i $i "${one#*:}" >>"$results/${one%:*}.csv"
    done
done
printf '1,again,0,\r\n' >>"$results/a.csv"
sed 1q "$results/a.csv" >"$results/none.csv"
bench --report >"$scratch/out" 2>&1
check "a run without a row is left out" has "$scratch/out" "^3 runs"
check "of several pairs some look different by luck" has "$scratch/out" \
    "^A - B: .* p = 0.031 (0.031): may be chance\$"
check "a task's second row does not count" has "$scratch/out" "^total of 30  *24  *18  *18\$"

# ---- A server ------------------------------------------------------------------------------------

if command -v curl >/dev/null; then
    fresh
    rm -f "$scratch/port" "$scratch/requests"
    # The server waits 100 ms before its first piece; 26 tokens of the prompt are new.
    echo 'csv_add($0) { n += CSV[28] >= 100 && CSV[28] < 9000 && CSV[29] > 0 && CSV[29] <= 260 }
        END { print n + 0 }' >"$scratch/times.awk"
    "$scratch/server" "$scratch/port" "$scratch/requests" &
    server=$!
    i=0
    while [ ! -s "$scratch/port" ] && [ $i -lt 100 ]; do sleep 0.05; i=$((i + 1)); done
    url=http://127.0.0.1:$(cat "$scratch/port")/v1
    printf 'task: odd\n---\nSay "hi" \\ now\tplease.\n\n' >"$scratch/set/05-f.txt"
    OPENAI_API_KEY='se"cr\et' bench --url "$url" --model 'qw"en' --auto --prompts "$scratch/set" \
        --run served >"$scratch/out" 2>&1
    same "--url runs the catalogue" "$?$(rows "$results/served.csv" | grep -c '|36||stop')" 06
    printf 'I "am" ready \344\275\240\345\245\275 \360\237\230\200\n100%% \\o/\tdone, \303\251\n' \
        >"$scratch/want"
    check "--url decodes the stream" alike "$scratch/want" "$results/served/05.txt"
    check "--url sends the prompt" has "$scratch/requests" \
        '"content":"Say \\"hi\\" \\\\ now\\tplease.\\n"}]}'
    check "--url sends the sampling" has "$scratch/requests" \
        '"max_tokens":1500,"seed":1,"temperature":0.15,"top_p":0.95'
    check "--url sends the model's name" has "$scratch/requests" '"model":"qw\\"en","stream":true'
    check "--url sends the key" has "$scratch/requests" '^Authorization: Bearer se"cr\\et'
    check "--url keeps no key" [ -z "$(grep -rlF 'se"cr\et' "$results")" ]
    check "--url counts tokens and times them" has "$results/served.csv" \
        ',42,16,7,stop,,[0-9][0-9.]*,[0-9][0-9.]*,[0-9][0-9.]*,,'
    same "--url: the times are those of the answer" \
        "$(awk -f "$here/../prompts/csv.awk" -f "$scratch/times.awk" "$results/served.csv")" 6
    # It thinks 3 seconds before it says anything, and of that nothing is shown.
    mkdir "$scratch/one"
    cp "$scratch/set/05-f.txt" "$scratch/one/01-f.txt"
    bench --url "$url/chat/completions" --model thinks --auto --prompts "$scratch/one" \
        --run thought >"$scratch/out" 2>&1
    check "--url: what a model thinks is not its answer" alike "$scratch/want" \
        "$results/thought/01.txt"
    echo 'csv_add($0) { n += CSV[28] > 0 && CSV[28] < 3000 } END { print n + 0 }' \
        >"$scratch/times.awk"
    same "--url: the first token is the first thought" \
        "$(awk -f "$here/../prompts/csv.awk" -f "$scratch/times.awk" "$results/thought.csv")" 1
    bench --url "$url" --model broken --auto --prompts "$scratch/set" --run refused \
        >"$scratch/out" 2>&1
    same "--url: the server's error ends the run" $? 1
    check "--url: the server's error is shown" has "$scratch/out" "no such model: x"
    check "--url: its status, too" has "$scratch/out" \
        "status 404 from $url/chat/completions (--url: expected an address like http://.*/v1)\$"
    bench --url "$url" --model midway --auto --prompts "$scratch/set" --run midway \
        >"$scratch/out" 2>&1
    same "--url: an error in mid-stream is a failure" $? 1
    check "--url: an error in mid-stream is shown, and nothing else" has "$scratch/out" \
        "no answer: data: {\"error\":{\"message\":\"out of memory\"}} *\$"
    bench --url "$url" --model cut --auto --prompts "$scratch/set" --run cut >"$scratch/out" 2>&1
    same "--url: a stream without an end is a failure" $? 1
    check "--url: a stream without an end is explained" has "$scratch/out" \
        "neither finish_reason nor"
    kill $server
    wait $server 2>/dev/null
    bench --url "$url" --model any --auto --prompts "$scratch/set" --run gone >"$scratch/out" 2>&1
    same "--url: no server ends the run" $? 1
    bench --resume cut --auto >"$scratch/out" 2>&1
    same "--url: no server ends --resume, at its warm-up" \
        "$?$(grep -c 'no answer' "$scratch/out")" 11
    rm "$scratch/set/05-f.txt"
else
    skip 20 "no curl"
fi

# ---- Checks --------------------------------------------------------------------------------------

# verdict CHECK ANSWER EXPECTED: the first word that a check says of an answer (\n in it are
# newlines)
verdict() {
    printf "$2" >"$scratch/answer"
    got=$(CHECKS=$1 awk -v prompt="$here/../prompts/en/article.txt" -v chars=5 \
        -f "$here/../prompts/checks.awk" "$scratch/answer")
    same "check \"$1\" on \"$2\": $got" "${got%% *}" "$3"
}
verdict "sentences 2" 'Dr. Smith ate 3.5 apples. He cried "Stop!" and left.\n' ok
verdict "sentences 1" 'One. Two.\n' no
verdict "sentences 3" '你好。他说：“走吧！”\n再见\n' ok
verdict "paragraphs 3" 'A.\n\n**Head**\n\nB\nb.\n\n# H\nC.\n' ok
verdict "paragraphs 3" 'A.\n\nB.\n\nC.\n\nD.\n' no
verdict "items 2" '1. a\n   - x\n   - y\n2. b\n' ok
verdict "items 2" '### 1. Intro\n- a\n- b\n### 2. End\n- c\n' ok
verdict "items 3-4" '%s a\n%s b\n' no
verdict "words 2-3" 'one two\nthree\n' ok
verdict "chars 4-6" 'x' ok
verdict "list 3" '["a, b", '"'it\\\\'s'"', "c]"]\n' ok
verdict "list 3" '```python\n["a",\n "b", "c"]\n```\n' ok
verdict "list 3" 'Here: ["a", "b", "c"]\n' no
verdict "list 3" '["a", "b", c]\n' no
verdict "list 3" '["a", "b"\n' no
verdict "tags a b" '<a>\nx\n</a>\n<b>\ny\n</b>\n' ok
verdict "tags a b" '<a>\nx\n<b>\ny\n</b>\n' no
verdict "tags a" 'x <a>\ny\n</a>\n' no
verdict "phrase I am ready" '"I am ready."\n' ok
verdict "phrase I am ready" 'I am ready to help.\n' no
verdict "phrase 我准备好了" '我准备好了。\n' ok
verdict "contains four years|4 years" 'It took Four Years.\n' ok
verdict "contains four years|4 years" 'It took 14 years, or twenty-four years.\n' no
verdict "contains 四年|4年" '直到1984年\n' no
verdict "contains 29" 'x = 129, then 290; 29.\n' ok
verdict "items 2" '**Two topics**\n1. a\n2. b\n*Note*\n---\n' ok
verdict "items 2" '**1. a**\n**2. b**\n' ok
verdict "items 2" '第一章 a\n第二章 b\n' ok
verdict "items 3" '一、a\n二、b\n十一、c\n' ok
verdict "items 2" '（1）a\n（2）b\n' ok
verdict "grounded" 'In 1742, 30 percent.\n' ok
verdict "grounded" 'In 1743, 30 percent.\n' no
verdict "grounded" 'It was 31%%.\n' no
verdict "no-table" 'a\n| b | c |\n' no
verdict "nonsense" 'a\n' no

# ---- Command line; failures; a real model --------------------------------------------------------

refused() { # STATUS TEXT ARGS...
    wanted=$1 text=$2
    shift 2
    sh "$bench" --results "$results" "$@" >"$scratch/out" 2>&1 </dev/null
    same "$*: status" $? "$wanted"
    check "$*: message" has "$scratch/out" "$text"
}
fresh
[ -f "$here/../demo/demo.bin" ] || refused 2 "expected a model"
refused 2 "there are no runs with a row in $results" --report
refused 2 "no such option" --wrong
refused 2 "expected rbyf or model" --profile best x
refused 2 "no such set" "$scratch/model.bin" --auto --prompts nowhere
refused 2 "goes with --url" "$scratch/model.bin" --model x
refused 2 "no such run" --resume nothing
refused 2 "whole number" --seed x y
for seed in 08 010; do # by which r would count wrongly or not at all, and which JSON does not know
    refused 2 "--seed: expected a whole number without a leading zero, got \"$seed\"" \
        "$scratch/model.bin" --auto --seed $seed
done
for threads in 0 257 99999; do
    refused 2 "--threads: expected a whole number from 1 to 256, got \"$threads\"" \
        "$scratch/model.bin" --auto --threads $threads
done
refused 2 "--profile: does not go with --resume" --resume x --profile model
refused 2 "--threads: does not go with --resume" --threads 2 --resume x
refused 2 "--seed: does not go with --report" --report x --seed 2
refused 2 "--draft: does not go with --resume" --draft x --resume y
refused 2 "--draft: goes with a model file, not with --url" --url http://x --model y --draft z
refused 2 "--draft: expected a value after it" --draft ""
refused 2 "--results: expected a value after it" "$scratch/model.bin" --results ""
refused 2 "--prompts: does not go with --score" --score x --prompts zh
refused 2 "--auto: does not go with --report" --auto --report
refused 2 "--score: does not go with --resume" --resume x --score
refused 2 "a model does not go with --resume" --resume x y.bin
refused 2 "a model does not go with --score" y.bin --score x
refused 2 "goes with --report" "$scratch/model.bin" --html x
rm -rf "$scratch/wrong" && mkdir "$scratch/wrong"
for line in "chek: words 3" "max-tokens: 10O" "expect: some" "sampling: temp=hot" \
    "sampling: tmp=1" "sampling: temp=-1" "sampling: temp=101" "sampling: temp=00.5" \
    "sampling: top-k=-1" "sampling: top-k=08" "sampling: top-p=1.1" "sampling: min-p=-0.1" \
    "sampling: repeat-penalty=0" "sampling: repeat-last-n=-2" "max-tokens: 08" \
    "check: words few" "check: items"; do
    printf 'task: wrong\n%s\n---\nHello.\n' "$line" >"$scratch/wrong/01-a.txt"
    refused 2 "01-a.txt:2: expected .*got \"$line\"" "$scratch/model.bin" --auto \
        --prompts "$scratch/wrong"
done
line="temp=0 top-k=0 top-p=1 min-p=0.0 repeat-penalty=0.01 repeat-last-n=-1"
printf 'task: least\nsampling: %s\n---\nHello.\n' "$line" >"$scratch/wrong/01-a.txt"
bench "$scratch/model.bin" --auto --prompts "$scratch/wrong" --run least >"$scratch/out" 2>&1
same "a task's sampling at the ends of its ranges" $? 0
fresh
refused 1 "magic: expected" "$scratch/broken.bin" --auto
same "a model that does not open leaves no run" "$(ls "$results")" ""
cp -r "$scratch/set" "$scratch/cold"
printf 'task: warm-up\n---\nThis fails.\n' >"$scratch/cold/00-warm-up.txt"
bench "$scratch/model.bin" --prompts "$scratch/cold" --auto --run cold >"$scratch/out" 2>&1
same "a model that fails in the warm-up runs no task" "$?$(find "$results" -name cold.csv)" 1
check "a failed warm-up says how to go on" has "$scratch/out" "warm-up failed; .* --resume cold"
rm -r "$results/cold" "$results/cold.log"
printf 'task: fails\ncheck: no-table\n---\nThis fails.\n' >"$scratch/set/02-b.txt"
new --auto --run failing >"$scratch/out" 2>&1
same "a failing answer is a row that says so" "$?$(rows "$results/failing.csv" | tr '\n' ' ')" \
    "11|36||stop 2|36||failed 3 3|36||stop 4|36||stop 10|36||stop "
check "a failing answer is explained" has "$scratch/out" "not a finite number"
check "a run with a failed task says so" has "$scratch/out" \
    "1 of 5 tasks failed; .* --resume failing tries"
echo draft >"$scratch/draft.bin"
FAKE_DRAFTS=$scratch/drafts
export FAKE_DRAFTS
rm -f "$FAKE_DRAFTS"
(cd "$scratch" && bench model.bin --draft draft.bin --auto --prompts ./set --run moved) \
    >"$scratch/out" 2>&1
check "the draft is said" has "$scratch/out" ", draft $scratch/draft.bin\$"
(cd / && FAKE_MENDED=1 bench --resume moved) >"$scratch/out" 2>&1
same "a set named from another place is found again" \
    "$?$(rows "$results/moved.csv" | grep -c '|36||stop')" 05
same "every answer has the draft, those of --resume too" \
    "$(sort "$FAKE_DRAFTS" | uniq -c | awk '{ printf "%s ", $1 " " $3 }')" \
    "8 $scratch/draft.bin 1 draft.bin "
unset FAKE_DRAFTS
rm "$scratch/draft.bin"
refused 1 "draft.bin: cannot be opened, and moved began with it" --resume moved --auto
again() { # WHAT STATUS ROWS CALLS: --resume failing
    rm -f "$scratch/calls"
    FAKE_CALLS=$scratch/calls bench --resume failing --auto >"$scratch/out" 2>&1
    same "$1" "$?$(rows "$results/failing.csv" | tr '\n' ' ')" "$2$3"
    same "$1: calls" "$(cat "$scratch/calls" 2>/dev/null)" "$4"
}
whole='1|36||stop 3|36||stop 4|36||stop 10|36||stop'
cp "$results/failing.csv" "$scratch/failing.csv"
again "--resume tries a failed task again" 1 "$whole 2|36||failed 3 " "Warm.
This fails."
FAKE_MENDED=1 again "--resume puts a result in the failed row's place" 0 "$whole 2|36||stop " \
    "Warm.
This fails."
sed 's/^2,fails,,/2,fails,0,/' "$scratch/failing.csv" >"$results/failing.csv"
again "a failed task that has a vote is over" 0 "$(rows "$results/failing.csv" | tr '\n' ' ')" ""
cp "$scratch/failing.csv" "$results/failing.csv"
printf 'expect 5 answers\n' >"$scratch/votes"
for i in 1 2 3 4 5; do
    printf 'expect [%d/5]\nexpect %s\nsend 3\\n\n' $i "$ask"
done >>"$scratch/votes"
echo 'expect failing: 12 of 25, 4 of 5' >>"$scratch/votes"
pty "$scratch/votes" "$scratch/out" sh "$bench" --results "$results" --score failing
same "--score of a run with a failed task" $? 0
check "--score does not ask for what failed" lacks "$scratch/out" "asks for the missing"
cp "$scratch/failing.csv" "$results/failing.csv"
cp "$scratch/model.bin" "$scratch/gone.bin"
bench "$scratch/gone.bin" --auto --prompts "$scratch/set" --run gone >"$scratch/out" 2>&1
rm "$scratch/gone.bin"
refused 1 "gone.bin: cannot be opened, and gone began with it" --resume gone --auto

# What a spreadsheet or an editor may make of a run
rm -rf "$scratch/edited" && mkdir "$scratch/edited"
printf '\357\273\277#,TASK,VOTE,REMARKS\r\n1,one,5,\r\n2,two,4,\r\n' >"$scratch/edited/mark.csv"
printf '#,TASK,VOTE,REMARKS\r\n1,one,5,\r\n2,two,4,"open\r\n3,three,3,\r\n' \
    >"$scratch/edited/open.csv"
printf '#,TASK,VOTE,REMARKS\r\n1,one,5,\r\n1000000000,two,4,\r\n,,9,\r\n' \
    >"$scratch/edited/far.csv"
printf '#,TASK,VOTE,REMARKS\r\n1,a字字字字字字字字字字字字字字字字,5,\r\n' \
    >"$scratch/edited/name.csv"
edited() { # RUN COMPLAINT LINE: both are in its report
    PATH=$scratch/awk:$PATH timeout 20 sh "$bench" --results "$scratch/edited" --report "$1" \
        >"$scratch/out" 2>&1
    same "$awk: $1: only what is wrong is said" \
        "$?$(sed -n 's/^run_bench: [^:]*\///p' "$scratch/out")" "0$2"
    check "$awk: $1: the rows that are whole count" has "$scratch/out" "$3"
}

# Paths that awk takes for an assignment or an escape
odd_set='set\n2' odd_results='r=1/a\tb'
rm -rf "${scratch:?}/$odd_set" && mkdir "$scratch/$odd_set"
printf 'task: year\ncheck: grounded\n---\nIn 1742.\n@include part.txt\n' \
    >"$scratch/$odd_set/01-a.txt"
echo Part. >"$scratch/$odd_set/part.txt"
odd() {
    (cd "$scratch" && PATH=$scratch/awk:$PATH sh "$bench" --results "$odd_results" "$@") \
        >"$scratch/out" 2>&1
}

# Every awk that is here: a run with a failed row, and the same report.
for awk in mawk gawk original-awk busybox; do
    awk_is $awk 15 || continue
    PATH=$scratch/awk:$PATH new --auto --run $awk >"$scratch/out" 2>&1
    same "$awk: a run" "$(rows "$results/$awk.csv")" "$(rows "$results/failing.csv")"
    PATH=$scratch/awk:$PATH bench --report $awk >"$scratch/out" 2>&1
    same "$awk: a failed row's checks and speeds do not count" \
        "$?$(sed -n 's/^\(checks passed\|answer tokens\/s\)  */\1 /p' "$scratch/out" |
            tr '\n' ' ')" \
        "0checks passed 3/4 answer tokens/s 25.0 "
    cp "$here"/bench/*.csv "$results/"
    PATH=$scratch/awk:$PATH bench --report first second third 2>&1 | sed '$d' >"$scratch/report.txt"
    check "$awk: the report of three runs" alike "$here/bench/report.txt" "$scratch/report.txt"
    rm -f "$results"/first* "$results"/second* "$results"/third* "$results"/repeats*
    # Three equal dots, whose labels are moved to where there is room, and a run without speeds
    for _ in 1 2 3; do
        echo '#,TASK,VOTE,REMARKS,out_tok,decode_tps'
        for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14; do echo "$i,task,$((1 + (i > 4))),,100,20"; done
    done | awk -v to="$results/" '/^#/ { file = to "equal" ++n ".csv" } { print >file }'
    printf '#,TASK,VOTE,REMARKS\n1,task,3,\n' >"$results/plain.csv"
    PATH=$scratch/awk:$PATH timeout 60 sh "$bench" --results "$results" \
        --report equal1 equal2 equal3 plain >"$scratch/out" 2>&1
    same "$awk: labels of equal runs stand below each other" \
        "$?$(sed -n 's/.* y="\([0-9]*\)">[A-D][*]* &.*/\1/p' "$results/report.html" |
            tr '\n' ' ')" \
        "0231 246 261 "
    rm -f "$results"/equal* "$results"/plain*
    edited mark '' 'total of 10  *9$'
    quote='open.csv:3: expected a quote that ends, got none to the end of the file;'
    edited open "$quote this row and those behind it are left out" 'total of 5  *5$'
    number='far.csv:3: expected a number from 1 to 9999 in the column #, got "1000000000";'
    edited far "$number this row is left out" 'total of 5  *5$'
    edited name '' '^ 1 a字字字字字字字字字字字字字字\.\.\. '
    rm -rf "$scratch/r=1"
    odd model.bin --auto --prompts "./$odd_set" --run odd
    same "$awk: odd paths: a run" \
        "$?$(sed -n 's/.*,\([0-9]*\/[0-9]*\),.*/ \1/p' "$scratch/$odd_results/odd.csv")" "0 1/1"
    check "$awk: odd paths: the command to go on with is quoted" has "$scratch/out" \
        "--results 'r=1/a\\\\tb' --score odd asks"
    odd --report odd
    same "$awk: odd paths: a report" "$?$(tail -n 1 "$scratch/out")" "0./$odd_results/report.html"
done

# What tasks share is computed once: the rows are those of a ./qwen that knows no --cache, but for
# names, times and speeds; and from the second task with the article on, it is counted as cached.
cat >"$scratch/rest.awk" <<'END'
csv_add($0) {
    for (i = 1; i <= CSV_N; i++)
        if (i < 5 || i > 6 && i < 24 || i == 25 || i == 26 || i > 31 && i < 36)
            printf "%s|", CSV[i]
    print ""
}
END
cat >"$scratch/cached.awk" <<'END'
csv_add($0) && CSV[1] >= 5 && CSV[1] <= 12 && CSV[24] < article {
    print CSV[1] ": " CSV[24] " of " article
}
END
cat >"$scratch/forgets" <<END
#!/bin/sh
for word; do
    shift
    if [ "\$word" = --cache ]; then
        skip=1
    elif [ -n "\$skip" ]; then
        skip=''
    else
        set -- "\$@" "\$word"
    fi
done
exec "$real_qwen" "\$@"
END
chmod +x "$scratch/forgets"
real() { bench "$tiny" --auto --threads 1 --prompts "$scratch/short" "$@" >"$scratch/out" 2>&1; }
cache_tests() {
    QWEN=$real_qwen real --context-first --run shared
    same "a real model, the article first" $? 0
    QWEN=$scratch/forgets real --context-first --run alone
    same "the same without --cache" $? 0
    for name in shared alone; do
        awk -f "$here/../prompts/csv.awk" -f "$scratch/rest.awk" "$results/$name.csv" \
            >"$scratch/$name.rest"
        (cd "$results/$name" && cat ./*.txt) >"$scratch/$name.answers"
    done
    check "with and without --cache: the same rows" alike "$scratch/alone.rest" \
        "$scratch/shared.rest"
    check "with and without --cache: the same answers" alike "$scratch/alone.answers" \
        "$scratch/shared.answers"
    same "without --cache nothing is cached" \
        "$(cut -d, -f24 "$results/alone.csv" | sed 1d | sort -u)" 0
    article=$("$real_qwen" "$tiny" -f "$scratch/short/article.txt" --tokenize | wc -w)
    same "with it the article is" "$(awk -f "$here/../prompts/csv.awk" -f "$scratch/cached.awk" \
        article=$((article)) "$results/shared.csv")" ""
    QWEN_DRAFT=2 QWEN=$real_qwen real --context-first --draft "$tiny" --run drafted
    same "a real model with a draft" $? 0
    awk -f "$here/../prompts/csv.awk" -f "$scratch/rest.awk" "$results/drafted.csv" \
        >"$scratch/drafted.rest"
    (cd "$results/drafted" && cat ./*.txt) >"$scratch/drafted.answers"
    check "with and without a draft: the same rows" alike "$scratch/shared.rest" \
        "$scratch/drafted.rest"
    check "with and without a draft: the same answers" alike "$scratch/shared.answers" \
        "$scratch/drafted.answers"
    QWEN=$real_qwen refused 1 "none.bin: cannot open" "$tiny" --auto --draft "$scratch/none.bin"
    printf 'expect %s\nsend r\\n\nexpect %s\nsend 1\\n\nexpect %s\nsend q\\n\n' \
        "$ask" "$ask" "$ask" >"$scratch/votes"
    QWEN=$real_qwen pty "$scratch/votes" "$scratch/out" sh "$bench" --results "$results" "$tiny" \
        --threads 1 --prompts "$scratch/short" --run twice
    same "r reads no prompt twice" \
        "$(sed 1d "$results/twice.csv" | awk -F, '{ print $13, $23 - $24 }')" "2 1"
    same "no cache is left" "$(find "$results" -name '*cache*')" ""
}

tiny=$scratch/tiny.bin
rm -f "$tiny"
checkpoint=$golden/logits/k256/hf
if [ -x "$tiny_maker" ]; then
    checkpoint=$scratch/tiny
    rm -rf "$checkpoint" && mkdir "$checkpoint"
    "$tiny_maker" "$checkpoint"
fi
if [ -d "$checkpoint" ]; then "$convert" "$checkpoint" -o "$tiny" --quant q8 >/dev/null 2>&1; fi
if [ -s "$tiny" ]; then
    rm -rf "$scratch/short" && mkdir "$scratch/short" # the catalogue with short answers
    for file in "$here"/../prompts/en/*.txt; do
        sed 's/^max-tokens: .*/max-tokens: 30/' "$file" >"$scratch/short/${file##*/}"
    done
    QWEN=$real_qwen real --run real
    same "a real model runs the catalogue" "$?$(rows "$results/real.csv" | grep -c '|36||')" 014
    figures=',q8,[a-z0-9_]*,[0-9]*,.*,1.31,64,30,[0-9]*,[0-9]*,[0-9]*,[0-9]*'
    figures="$figures,\(stop\|length\|loop\),[0-9.]*,[0-9.]*,[0-9.]*,"
    check "a real model has figures" has "$results/real.csv" "$figures"
    cp "$results/real/14.txt" "$scratch/again.txt"
    QWEN=$real_qwen real --run real2
    check "the same seed gives the same answers" alike "$scratch/again.txt" "$results/real2/14.txt"
    cache_tests
    QWEN=$real_qwen real --run own --profile model
    check "--profile model takes the model's own sampling" has "$results/own.csv" \
        ',model,0.7,20,0.8,0,1.1,-1,30'
else
    skip 17 "no golden data and no make_tiny: no real model"
fi

if command -v shellcheck >/dev/null; then
    check "shellcheck" shellcheck -x "$bench" "$0"
else
    skip 1 "no shellcheck"
fi

finish bench
