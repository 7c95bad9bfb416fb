#!/bin/sh
# run_bench.sh: the catalogue. You are the benchmark.
#
# Every task of prompts/SET goes to the model, the answer streams by, and you give it 0 to 5 and a
# remark. A run is results/RUN.csv (a row per task, written as soon as you have voted),
# results/RUN.log (prompts and answers whole) and results/RUN/ (its settings, and each answer in a
# file). Parts, from top to bottom: names and errors; the lock; CSV; prompts; one answer from ./qwen
# or a server; your vote; a task and a run; --score; --report; the command line. Needs sh, awk and
# sed as POSIX has them, and curl for --url.
#
# shellcheck disable=SC2015 # "a && b || die": die is to run whichever of the two fails
LC_ALL=C
export LC_ALL

self=$0
while link=$(readlink "$self" 2>/dev/null) && [ -n "$link" ]; do # it may be called by a link
    case $link in /*) self=$link ;; *) self=$(dirname -- "$self")/$link ;; esac
done
here=$(CDPATH='' cd -- "$(dirname -- "$self")" && pwd) || exit 1
qwen=${QWEN:-$here/qwen}
programs=$here/prompts # the awk programs lie beside the sets
csv_library=$(cat "$programs/csv.awk") || exit 1
checks_program=$(cat "$programs/checks.awk") || exit 1
demo_model=$here/demo/demo.bin

nl='
'
cr=$(printf '\r')
tab=$(printf '\t')
header='#,TASK,VOTE,REMARKS,run_id,ts_utc,model,model_hash,quant,isa,threads,cpu,seed,profile'
header=$header',temp,top_k,top_p,min_p,rep_pen,rep_last_n,max_tokens,n_ctx,prompt_tok,cached_tok'
header=$header',out_tok,finish,load_ms,ttft_ms,prefill_tps,decode_tps,peak_rss_mb,auto_pass'
header=$header',auto_detail,prompts,prompt_hash,output_file'
n_fields=36

usage() {
    cat <<'EOF'
./run_bench.sh [MODEL]             run the catalogue on a model.bin and ask for your scores
./run_bench.sh --resume RUN        go on with a run that was left or broke off; failed tasks again
./run_bench.sh --score RUN...      score answers later, blind: shuffled, without names
./run_bench.sh --report [RUN...]   compare runs (by default all): here, and in results/report.html

  --auto               run without asking for scores
  --prompts SET        en (default), zh, or a directory of your own (prompts/README.md)
  --profile NAME       rbyf (default): temperature 0.15 (warm-up 0.25), top-k 40, top-p 0.95,
                       min-p 0.05, repeat penalty 1.31 over the last 64 tokens (of prompt and
                       answer), at most 1500 tokens, context 8192;
                       model: the model's own generation defaults
  --context-first      put the article before the instruction: it is then read once for all tasks
  --url URL            ask an OpenAI-compatible server, like http://localhost:8000/v1
  --model NAME         the server's name of the model
  --seed N             start of the random numbers (default 1)
  --threads N          threads of ./qwen
  --draft FILE         a much smaller model.bin with the same tokenizer, which guesses tokens for
                       ./qwen: the same answers, sooner
  --run NAME           name the run (default: the date and five characters)
  --results DIR        where runs are kept (default results); RUN may be the path of one in there
  --html FILE          where --report writes its page

OPENAI_API_KEY is sent to the server if it is set.
Exit status: 0, 1 bad file or system, or a task that failed, 2 wrong command line, 130 after ^C.
EOF
}

say() { printf '%s\n' "$*"; }
# The word as a shell has to be given it.
quoted() {
    case $1 in
    '' | *[!A-Za-z0-9_/.,:=+@%-]*) say "'$(say "$1" | sed "s/'/'\\\\''/g")'" ;;
    *) say "$1" ;;
    esac
}
warn() { printf 'run_bench: %s\n' "$(printf %s "$*" | tr '\000-\037\177' '?')" >&2; } # one line
die() {
    status=$1
    shift
    warn "$*"
    exit "$status"
}
die_full() { die 1 "$1: could not be written (is the disk full?)"; }

utc() { date -u +%Y-%m-%dT%H:%M:%SZ; }

# The first 8 digits of the SHA-256 of stdin; where no such tool is, POSIX's CRC, marked.
hash8() {
    if command -v sha256sum >/dev/null 2>&1; then
        sha256sum
    elif command -v shasum >/dev/null 2>&1; then
        shasum -a 256
    elif command -v openssl >/dev/null 2>&1; then
        openssl dgst -sha256 -r
    else
        cksum | sed 's/^/crc/; s/ .*//'
    fi | sed 's/^\(.\{8\}\).*/\1/'
}

file_size() { echo $(($(wc -c <"$1"))); }

# The model's header says where the data begins (bytes 24..31); it holds the checksum of every
# tensor, so its hash stands for the whole file and takes no time.
model_hash() {
    pages=$(od -An -v -tu1 -j24 -N8 "$1" 2>/dev/null |
        awk '{ print int(($1 + 256 * ($2 + 256 * ($3 + 256 * $4))) / 4096) }')
    dd if="$1" bs=4096 count="${pages:-1}" 2>/dev/null | hash8
}

cpu_name() {
    name=$(sed -n 's/^model name[^:]*: *//p' /proc/cpuinfo 2>/dev/null | sed 1q)
    [ -n "$name" ] || name=$(sysctl -n machdep.cpu.brand_string 2>/dev/null) || name=
    say "${name:-$(uname -m)}"
}

# ---- The end, and signals ------------------------------------------------------------------------

again=''     # how to call this again
locks=''     # lock files that are ours
csv=''       # the run's
work=''      # scratch directory
tty_state='' # what to give back to the terminal
reader=''    # process that waits for a line
plain=''     # ends the color of what is shown
# A trap may run in a command whose errors go elsewhere.
if (exec 8>&2) 2>/dev/null; then exec 8>&2; else exec 8>/dev/null; fi

finish() {
    if [ -n "$reader" ]; then kill "$reader" 2>/dev/null; fi
    printf %s "$plain" 2>/dev/null
    if [ -n "$tty_state" ]; then stty "$tty_state" <&4 2>/dev/null; fi
    if [ -n "$work" ]; then rm -rf "$work"; fi
    if [ -n "$csv" ]; then rm -f "$csv.new"; fi
    for lock in $locks; do
        [ "$(cat "$results/$lock/lock" 2>/dev/null)" != $$ ] || rm -f "$results/$lock/lock"
        rm -f "$results/$lock/lock.$$"
        rmdir "$results/$lock" 2>/dev/null # a run that never began
    done
}
on_signal() {
    trap '' INT TERM HUP
    trap - EXIT # some shells would exit with its status
    exec 2>&8
    printf '%s\n' "$plain" >&2
    rest='; the rows so far are safe'
    case $mode in
    report) rest='' ;; # it changes no run
    new | resume)
        [ ! -f "$results/$run/settings" ] || rest="$rest, $again --resume $run goes on"
        ;;
    esac
    warn "stopped$rest"
    finish
    trap - "$2" # so that a loop of the caller's shell ends, too
    kill -s "$2" $$
    exit "$1"
}
trap finish EXIT
trap 'on_signal 130 INT' INT
trap 'on_signal 143 TERM' TERM
trap 'on_signal 129 HUP' HUP
trap 'exit 141' PIPE

# ---- The lock ------------------------------------------------------------------------------------

# Is the process of a lock ("PID") still there?
lock_alive() { [ -n "$1" ] && kill -0 "$1" 2>/dev/null; }

# One runner per run. A hard link appears complete or not at all. The lock of a runner that was
# killed is taken over; a second link guards that moment, so that two cannot do it at once.
lock_take() {
    dir=$results/$1
    case "$locks " in *" $1 "*) die 2 "$1: named twice" ;; esac
    locks="$locks $1"
    { echo $$ >"$dir/lock.$$"; } 2>/dev/null || die 1 "$dir: cannot be written"
    if ! ln "$dir/lock.$$" "$dir/lock" 2>/dev/null; then
        [ -e "$dir/lock" ] || die 1 "$dir/lock: cannot be linked (does this disk know hard links?)"
        owner=$(cat "$dir/lock" 2>/dev/null)
        lock_alive "$(cat "$dir/lock.break" 2>/dev/null)" || rm -f "$dir/lock.break"
        if lock_alive "$owner" || ! ln "$dir/lock.$$" "$dir/lock.break" 2>/dev/null; then
            rm -f "$dir/lock.$$"
            die 1 "$1 is locked by process ${owner:-?}, which runs it now" \
                "(if there is none, remove $dir/lock*)"
        fi
        # Only now is nobody else at this point: look once more.
        if [ "$(cat "$dir/lock" 2>/dev/null)" = "$owner" ]; then
            warn "$1: taking over from process $owner, which has ended"
            mv "$dir/lock.$$" "$dir/lock"
        fi
        rm -f "$dir/lock.break"
    fi
    rm -f "$dir/lock.$$"
    [ "$(cat "$dir/lock")" = $$ ] || die 1 "$1: another runner was faster"
}

# ---- CSV -----------------------------------------------------------------------------------------

# csv_awk PROGRAM [NAME=VALUE...] FILE: awk with what csv.awk defines.
csv_awk() {
    program=$1
    shift
    awk "$csv_library$nl$program" "$@"
}

# The arguments as one record, ending in CR LF; to a file through cat, as in csv_awk_to.
csv_record() {
    # shellcheck disable=SC2016 # for awk to expand
    csv_awk 'BEGIN {
        for (i = 1; i < ARGC; i++) printf "%s%s", (i > 1 ? "," : ""), csv_quote(ARGV[i])
        printf "\r\n"
    }' "$@"
}

csv_new() {
    { printf '%s\r\n' "$header" >"$work/row" && mv "$work/row" "$csv"; } 2>/dev/null ||
        die 1 "$csv: cannot be written (is the disk full?)"
}

# csv_awk_to FILE PROGRAM ARGS...: csv_awk's output in FILE, all of it; its status in awk_status.
# Some awks do not notice a full disk: cat does.
csv_awk_to() {
    to=$1
    shift
    awk_status=''
    { csv_awk "$@"; echo $? 2>/dev/null >"$work/awk_status"; } | { cat >"$to"; } 2>/dev/null &&
        awk_status=$(cat "$work/awk_status") && [ "$awk_status" = 0 ]
}

# csv_replace FILE...: $csv becomes these, with the mode that it has, or stays as it is. Signals
# wait until it is done.
csv_replace() (
    trap '' INT TERM HUP
    { cp -p "$csv" "$csv.new" && cat "$@" >"$csv.new"; } 2>/dev/null &&
        { sync "$csv.new" 2>/dev/null || sync; } && mv "$csv.new" "$csv" && exit
    rm -f "$csv.new"
    exit 1
)

# Prove an old file before going on with it: our header, whole rows. A last row without its end is
# cut off, with a message; anything else that is wrong is left untouched.
csv_repair() {
    [ -f "$csv" ] || die 1 "$csv: missing"
    [ "$(tr -dc '\000' <"$csv" | wc -c)" -eq 0 ] || die 2 "$csv: has zero bytes, left as it is"
    [ "$(sed 1q "$csv" | tr -d '\r')" = "$header" ] ||
        die 2 "$csv: expected the columns $(printf %.40s "$header")..., got others; left as it is"
    torn=0
    [ "$(tail -c 1 "$csv" | od -An -tu1 | tr -d ' ')" = 10 ] || torn=1
    # shellcheck disable=SC2016 # for awk to expand
    csv_awk_to "$work/whole" '
        function wrong(expected, got) {
            gsub(/[\001-\037\177]/, "?", got)
            if (!bad++) print "run_bench: " FILENAME ": row " row ": expected " expected ", got " \
                substr(got, 1, 80) "; left as it is" >"/dev/stderr"
        }
        function keep() {
            if (!waiting) return
            if (n_last != fields) wrong(fields " fields", n_last)
            else if (row && number !~ /^[0-9]+$/)
                wrong("a number in the column #", "\"" number "\"")
            else if (row && vote !~ /^ *[0-5]? *$/)
                wrong("a VOTE from 0 to 5 or none", "\"" vote "\"")
            else if (number in seen) wrong("each task once", "task " number " again")
            seen[number]
            printf "%s\n", last
            waiting = 0
            row++
        }
        { keep() }
        csv_add($0) {
            waiting = 1; unclosed = 0; last = CSV_TEXT; n_last = CSV_N
            number = CSV[1]; vote = CSV[3]
        }
        CSV_OPEN && /\r$/ { unclosed = 1 } # a whole row behind an open quote: not a torn one
        END {
            if (!torn) keep()
            if (unclosed) wrong("a quote that ends", "none to the end of the file")
            exit bad > 0
        }' fields=$n_fields torn=$torn "$csv" || {
        [ "$awk_status" != 1 ] || exit 2
        die_full "$work/whole"
    }
    lost=$(($(file_size "$csv") - $(file_size "$work/whole")))
    if [ $lost -gt 0 ]; then
        csv_replace "$work/whole" || die 1 "$csv: cannot be repaired (is the disk full?)"
        warn "$csv: the last row was torn, $lost bytes of it are cut off; its task runs again"
    fi
    csv_bytes=$(file_size "$csv")
}

# A failed answer that nobody has voted on is no result: --resume asks again.
csv_open='CSV[3] == "" && CSV[26] ~ /^failed/'
csv_waits='CSV[3] == "" && CSV[26] !~ /^failed/' # for a vote

# The numbers of the tasks whose rows are as the condition says.
csv_tasks() { csv_awk "csv_add(\$0) && records++ && ($1) { print CSV[1] }" "$csv"; }
csv_done() { csv_tasks "!($csv_open)"; }

# Put the record in $work/row behind the others, in the place of task $1's failed row where there is
# one.
csv_store() {
    [ "$(file_size "$csv" 2>/dev/null)" = "$csv_bytes" ] ||
        die 1 "$csv was changed, moved or removed while running:" \
            "the row was not written, $log has it all"
    other="csv_add(\$0) && !(records++ && CSV[1] == task && $csv_open)"
    csv_awk_to "$work/others" "$other { printf \"%s\\n\", CSV_TEXT }" task="$1" "$csv" &&
        csv_replace "$work/others" "$work/row" ||
        die 1 "$csv: the row could not be written (is the disk full?); $log has it all"
    csv_bytes=$(file_size "$csv")
}

# ---- Prompts -------------------------------------------------------------------------------------

# A task's header: name, sampling, limit, expected tokens, then the checks, one a line each. Lines
# that it does not know are errors.
task_header() {
    awk '
        # What ./qwen would refuse in the middle of a run is refused before it.
        function check_word(w,    part) {
            if (w == "profile") return
            if (w !~ /^(top-k|repeat-last-n)=(0|-?[1-9][0-9]*)$/ &&
                w !~ /^(temp|top-p|min-p|repeat-penalty)=-?(0|[1-9][0-9]*)([.][0-9]+)?$/)
                wrong("profile or temp=0.2 and the like")
            split(w, part, "=")
            if (part[2] + 0 < least[part[1]] + 0 || part[2] + 0 > most[part[1]])
                wrong(part[1] " from " least[part[1]] + 0 " to " most[part[1]])
        }
        function wrong(expected) {
            gsub(/[\001-\037\177]/, "?")
            print "run_bench: " FILENAME ":" FNR ": expected " expected ", got \"" $0 "\"" \
                >"/dev/stderr"
            exit failed = 1
        }
        BEGIN {
            most["temp"] = most["repeat-penalty"] = 100
            most["top-p"] = most["min-p"] = 1
            most["top-k"] = most["repeat-last-n"] = 1048576
            least["repeat-penalty"] = 0.01
            least["repeat-last-n"] = -1
        }
        { sub(/\r$/, ""); sub(/[ \t]+$/, "") }
        /^---$/ { exit }
        /^task: / { name = substr($0, 7); next }
        /^sampling: / {
            sampling = substr($0, 11)
            n = split(sampling, word, " ")
            for (i = 1; i <= n; i++) check_word(word[i])
            next
        }
        /^(max-tokens|expect): (0|[1-9][0-9]*)$/ && $2 <= 1048576 {
            if ($1 == "expect:") expect = $2; else limit = $2
            next
        }
        /^(max-tokens|expect):/ { wrong($1 " and a whole number up to 1048576") }
        /^$/ { next }
        /^check: (sentences|paragraphs|items|words|chars|list)( |$)/ && NF != 3 ||
            /^check: (sentences|paragraphs|items|words|chars|list) / && $3 !~ /^[0-9]+(-[0-9]+)?$/ {
            wrong("check: " $2 " and a number or range")
        }
        /^check: (sentences|paragraphs|items|words|chars|list|tags|phrase|contains) ./ ||
            /^check: (grounded|no-table)$/ {
            checks = checks substr($0, 8) "\n"
            next
        }
        /^check:/ { wrong("a check of prompts/README.md") }
        { wrong("task:, sampling:, max-tokens:, expect:, check: or ---") }
        END {
            if (!failed) printf "%s\n%s\n%s\n%s\n%s", name, sampling, limit, expect, checks
            exit failed
        }' "$1" || exit 2
}
task_read() { # FILE: its header into variables
    head=$(task_header "$1") || exit
    {
        read -r name; read -r sampling; read -r max_tokens; read -r expect
        CHECKS=$(cat)
    } <<EOF
$head
EOF
    max_tokens=${max_tokens:-1500} expect=${expect:-200}
    export CHECKS # for checks.awk
}

# The prompt of a task file: all below the line ---, with @include files put in; with
# --context-first these come before the rest.
task_prompt() {
    SET_DIR=$set_dir awk -v first="$context_first" '
        BEGIN { dir = ENVIRON["SET_DIR"] }
        function include(name,    line, n) {
            while ((n = (getline line < (dir "/" name))) > 0) { sub(/\r$/, "", line); print line }
            if (n < 0) failed = 1
            close(dir "/" name)
        }
        { sub(/\r$/, "") }
        body && /^@include / {
            if (first) { include(substr($0, 10)); print ""; had = 1 } else keep[++n] = $0
            next
        }
        body { keep[++n] = $0 }
        /^---[ \t]*$/ { body = 1 }
        END {
            while (had && n > 0 && keep[n] == "") n--
            for (i = 1; i <= n; i++)
                if (keep[i] ~ /^@include /) include(substr(keep[i], 10)); else print keep[i]
            exit failed || n == 0
        }' "$1"
}

# Find the set: a name under prompts/, or a directory.
set_find() {
    set_dir=$set
    case $set in
    */* | .*) ;;
    *) if [ -d "$programs/$set" ] || [ ! -d "$set" ]; then set_dir=$programs/$set; fi ;;
    esac
    set_dir=$(CDPATH='' cd -- "$set_dir" 2>/dev/null && pwd) || die 2 "--prompts $set: no such set"
    # A directory's name is kept whole, for --resume may be called from elsewhere.
    [ "$set_dir" = "$programs/$set" ] || set=$set_dir
    tasks='' seen=''
    n_tasks=0
    for file in "$set_dir"/[0-9][0-9]-*.txt; do
        [ -f "$file" ] || die 2 "$set_dir: expected files like 01-name.txt"
        number=$(task_number "$file")
        case " $seen " in *" $number "*) die 2 "$file: a second task $number" ;; esac
        seen="$seen $number"
        [ "$number" -eq 0 ] && continue
        tasks="$tasks $number"
        n_tasks=$((n_tasks + 1))
    done
    label=$set
    if [ "$context_first" = 1 ]; then label="$set, context first"; fi
}

# Read every file of the set before the first answer is paid for; is there sampling that the profile
# does not rule? For the estimates, `plan` has a line for each task: number, bytes of its prompt,
# expected tokens.
set_check() {
    own='' plan=''
    for file in "$set_dir"/[0-9][0-9]-*.txt; do
        task_read "$file"
        [ -n "$name" ] || die 2 "$file: expected a line \"task: NAME\""
        tr -d '\r' <"$file" | sed -n 's/^@include //p' | while IFS= read -r part; do
            [ -f "$set_dir/$part" ] && [ -r "$set_dir/$part" ] ||
                die 2 "$file: @include $part: expected a file in $set_dir"
        done || exit
        prompt=$(task_prompt "$file") || die 2 "$file: expected a header, a line --- and a prompt"
        plan="$plan$(task_number "$file") ${#prompt} $expect$nl"
        case $sampling in *=*) own=" (with the tasks' own sampling)" ;; esac
    done
}

task_number() {
    number=${1##*/}
    number=${number%%-*}
    say "${number#0}"
}
task_file() {
    for file in "$set_dir/$(printf %02d "$1")"-*.txt; do say "$file"; done
}

# ---- One answer ----------------------------------------------------------------------------------

# Read the statistics into the variables of a row. Only values that are numbers get through as
# numbers.
json_values() {
    awk '
        function value(key,    at, rest, c, i, out) {
            at = index($0, "\"" key "\":")
            if (at == 0) return ""
            rest = substr($0, at + length(key) + 3)
            sub(/^ */, "", rest)
            if (substr(rest, 1, 1) != "\"") {
                sub(/[,}].*/, "", rest)
                return rest ~ /^-?[0-9]+([.][0-9]+)?([eE][-+]?[0-9]+)?$/ ? rest : ""
            }
            for (i = 2; i <= length(rest); i++) {
                c = substr(rest, i, 1)
                if (c == "\"") break
                if (c == "\\") c = substr(rest, ++i, 1)
                out = out c
            }
            return out
        }
        BEGIN {
            n = split("name quant isa threads context temperature:%.6g top_k top_p:%.6g " \
                "min_p:%.6g repeat_penalty:%.6g repeat_last_n prompt_tokens cached_tokens " \
                "generated_tokens load_ms first_token_ms prompt_tokens_s:%.2f " \
                "decode_tokens_s:%.2f peak_memory_mib finish", wanted, " ")
        }
        NR == 1 {
            for (i = 1; i <= n; i++) {
                split(wanted[i], part, ":")
                text = value(part[1])
                print (text == "" || part[2] == "" ? text : sprintf(part[2], text))
            }
        }' "$1" >"$work/values" 2>/dev/null || die_full "$work/values"
    {
        read -r s_name; read -r s_quant; read -r s_isa; read -r s_threads; read -r s_ctx
        read -r s_temp; read -r s_top_k; read -r s_top_p; read -r s_min_p; read -r s_rep_pen
        read -r s_last_n; read -r s_prompt; read -r s_cached; read -r s_out; read -r s_load
        read -r s_ttft; read -r s_prefill; read -r s_decode; read -r s_peak; read -r s_finish
    } <"$work/values"
}

# Sampling of the profile, then what the task's header wants (sampling: temp=0.2 top-p=0.9).
sampling_set() {
    temp='' top_k='' top_p='' min_p='' rep_pen='' last_n=''
    if [ "$profile" = rbyf ]; then
        temp=0.15 top_k=40 top_p=0.95 min_p=0.05 rep_pen=1.31 last_n=64
        if [ "$1" -eq 0 ]; then temp=0.25; fi
    fi
    for word in $2; do
        case $word in
        temp=*) temp=${word#*=} ;;
        top-k=*) top_k=${word#*=} ;;
        top-p=*) top_p=${word#*=} ;;
        min-p=*) min_p=${word#*=} ;;
        repeat-penalty=*) rep_pen=${word#*=} ;;
        repeat-last-n=*) last_n=${word#*=} ;;
        esac
    done
}

# Ask ./qwen. The prompt file's last newline is dropped there. What this prompt and the last one
# begin with is computed once: with --context-first that is the article, and with another seed the
# whole prompt.
answer_local() {
    {
        "$qwen" "$model" -f "$work/prompt" --stats "$work/stats" --cache "$work/cache" \
            -n "$max_tokens" -c "$n_ctx" --seed "$1" ${threads:+--threads "$threads"} \
            ${draft:+--draft "$draft"} ${temp:+--temp "$temp"} ${top_k:+--top-k "$top_k"} \
            ${top_p:+--top-p "$top_p"} ${min_p:+--min-p "$min_p"} \
            ${rep_pen:+--repeat-penalty "$rep_pen"} ${last_n:+--repeat-last-n "$last_n"} \
            2>"$work/errors"
        echo $? 2>/dev/null >"$work/status"
    } | tee "$work/answer" 2>/dev/null || case $? in
        141 | 269) exit 141 ;; # nobody reads what it shows (269: ksh)
        *) die_full "$work/answer" ;;
    esac
    answer_status=$(cat "$work/status")
    [ -n "$answer_status" ] || die_full "$work/status"
    # A signal is 128 and its number in most shells, 256 in ksh, 384 in yash.
    [ "$answer_status" -lt 256 ] || answer_status=$((128 + answer_status % 128))
    if [ -f "$work/stats" ]; then json_values "$work/stats"; fi
}

# The request in OpenAI's form. Servers differ in the names of some sampling parameters.
url_request() {
    printf '{"model":"%s","stream":true,' "$(printf '%s\n' "$model_name" | json_escape)"
    printf '"stream_options":{"include_usage":true},"max_tokens":%s,"seed":%s' "$max_tokens" "$1"
    [ -z "$temp" ] || printf ',"temperature":%s' "$temp"
    [ -z "$top_p" ] || printf ',"top_p":%s' "$top_p"
    [ -z "$top_k" ] || printf ',"top_k":%s' "$top_k"
    [ -z "$min_p" ] || printf ',"min_p":%s' "$min_p"
    [ -z "$rep_pen" ] || printf ',"repeat_penalty":%s,"repetition_penalty":%s' "$rep_pen" "$rep_pen"
    [ -z "$last_n" ] || printf ',"repeat_last_n":%s' "$last_n"
    printf ',"messages":[{"role":"user","content":"%s"}]}\n' "$(json_escape <"$work/prompt")"
}
json_escape() {
    tr -d '\000-\010\013-\037' | sed "s/\\\\/\\\\\\\\/g; s/\"/\\\\\"/g; s/$tab/\\\\t/g" |
        awk 'NR > 1 { printf "\\n" } { printf "%s", $0 }'
}

# One streamed event on stdin: its piece of the answer, as escapes for printf %b.
url_piece() {
    awk '
        function octal(n) { return sprintf("\\0%03o", n) }
        function utf8(n) {
            if (n < 128) return octal(n)
            if (n < 2048) return octal(192 + int(n / 64)) octal(128 + n % 64)
            if (n < 65536)
                return octal(224 + int(n / 4096)) octal(128 + int(n / 64) % 64) octal(128 + n % 64)
            return octal(240 + int(n / 262144)) octal(128 + int(n / 4096) % 64) \
                octal(128 + int(n / 64) % 64) octal(128 + n % 64)
        }
        function hex(s,    i, n) {
            for (i = 1; i <= 4; i++)
                n = n * 16 + index("0123456789abcdef", tolower(substr(s, i, 1))) - 1
            return n
        }
        match($0, /"content" *: *"/) {
            rest = substr($0, RSTART + RLENGTH)
            for (i = 1; i <= length(rest); i++) {
                c = substr(rest, i, 1)
                if (c == "\"") break
                if (c != "\\") { out = out c; continue }
                c = substr(rest, ++i, 1)
                if (c == "n") out = out octal(10)
                else if (c == "t") out = out octal(9)
                else if (c == "r") out = out octal(13)
                else if (c == "b" || c == "f") continue
                else if (c == "\\") out = out octal(92)
                else if (c == "u") {
                    code = hex(substr(rest, i + 1, 4))
                    i += 4
                    if (code >= 55296 && code < 56320 && substr(rest, i + 1, 2) == "\\u") {
                        code = 65536 + (code - 55296) * 1024 + hex(substr(rest, i + 3, 4)) - 56320
                        i += 6
                    }
                    out = out utf8(code)
                } else out = out c
            }
            printf "%s", out
        }'
}

# Times of the first and last piece and the counts, from curl's trace and the events, in the form of
# the statistics that ./qwen writes. What a model thinks is not shown, but takes time and counts.
url_stats() {
    awk '
        function seconds(t,    part) {
            split(t, part, ":")
            t = part[1] * 3600 + part[2] * 60 + part[3]
            return t < start ? t + 86400 : t
        }
        function is_piece(text) {
            return text ~ /"(content|reasoning|reasoning_content)" *: *"[^"]/
        }
        function received() {
            if (is_piece(data)) {
                if (!first) first = at
                last = at
            }
            data = ""
        }
        function keep(key,    rest) {
            rest = $0
            if (!match(rest, "\"" key "\" *: *")) return
            rest = substr(rest, RSTART + RLENGTH)
            if (rest ~ /^[0-9]/) { sub(/[^0-9].*/, "", rest); seen[key] = rest }
            else if (rest ~ /^"/) { rest = substr(rest, 2); sub(/".*/, "", rest); seen[key] = rest }
        }
        file == "events" {
            keep("finish_reason")
            keep("prompt_tokens"); keep("completion_tokens"); keep("cached_tokens")
            if (is_piece($0)) pieces++
            next
        }
        /^[0-9][0-9]:[0-9][0-9]:[0-9][0-9][.][0-9]* [<=]/ {
            received()
            at = seconds($1)
            answer = /<= Recv data/
            if (!start && /=> Send header/) start = at
            next
        }
        answer && /^[0-9a-f]+: / { data = data substr($0, 7) }
        END {
            received()
            first_ms = (first - start) * 1000
            decode_s = sprintf("%.3f", last - first) + 0 # what comes at once has no speed
            n = "completion_tokens" in seen ? seen["completion_tokens"] : pieces + 0
            anew = seen["prompt_tokens"] - seen["cached_tokens"]
            printf "{\"prompt_tokens\":%s,\"cached_tokens\":%s", seen["prompt_tokens"],
                seen["cached_tokens"]
            printf ",\"generated_tokens\":%d,\"finish\":\"%s\"", n, seen["finish_reason"]
            if (pieces) printf ",\"first_token_ms\":%.1f", first_ms
            if (pieces && first_ms > 0 && seen["prompt_tokens"] > 0)
                printf ",\"prompt_tokens_s\":%.2f", anew * 1000 / first_ms
            if (n > 1 && decode_s > 0)
                printf ",\"decode_tokens_s\":%.2f", (n - 1) / decode_s
            print "}"
        }' file=trace "$work/trace" file=events "$work/events" >"$work/stats"
}

# What curl is to send. The key goes through a file, so that no list of processes shows it.
url_prepare() {
    true >"$work/events" && true >"$work/end" && url_request "$1" >"$work/request" && (
        umask 077
        key=
        [ -z "$OPENAI_API_KEY" ] || # in curl's quotes
            key="header = \"Authorization: Bearer $(printf '%s\n' "$OPENAI_API_KEY" |
                sed 's/[\\"]/\\&/g; 1q')\""
        printf 'url = "%s/chat/completions"\nheader = "Content-Type: application/json"\n%s\n' \
            "$url" "$key" >"$work/curl"
    )
}

# Ask; stdout: the stream, and two lines about how it ended.
url_stream() {
    curl -sSN -K "$work/curl" --data-binary "@$work/request" --trace-ascii "$work/trace" \
        --trace-time --connect-timeout 20 -w '\nhttp_status %{http_code}\n' 2>>"$work/errors"
    echo "curl_status $?"
}

# Keep an event; stdout: its piece of the answer, with which $2 begins. A program started for every
# piece would let a fast server wait: only those with escapes need one.
url_event() {
    say "$1" >>"$work/events" || return
    case ${2%%\"*} in
    *\\*) printf %b "$(say "$1" | url_piece)" ;;
    *) printf %s "${2%%\"*}" ;;
    esac
}

# A line of the stream: keep it where it belongs; stdout: its piece of the answer.
url_line() {
    case $1 in
    'data: [DONE]'* | 'data:[DONE]'*) say '[DONE]' >>"$work/end" ;;
    '' | :* | event:* | id:* | retry:*) ;;
    data:*'"error":'[!n]* | data:*'"error": '[!n]*) # null is none
        say "$1" >>"$work/errors" && say error >>"$work/end"
        ;;
    data:*'"content":"'*) url_event "$1" "${1#*'"content":"'}" ;;
    data:*'"content": "'*) url_event "$1" "${1#*'"content": "'}" ;;
    data:*) url_event "$1" "\\" ;;
    'curl_status '* | 'http_status '*) say "$1" >>"$work/status" ;;
    *) say "$1" >>"$work/errors" ;;
    esac
}

# How the stream ended: answer_status, and a line of errors if that is not 0
url_end() {
    answer_status=0
    case $(cat "$work/status") in
    'http_status 200'*'curl_status 0') ;;
    *)
        said=$(sed -n 's/^http_status //p' "$work/status") hint=''
        case $said in 4*) hint=' (--url: expected an address like http://localhost:8000/v1)' ;; esac
        say "status ${said:-000} from $url/chat/completions$hint" >>"$work/errors" || return
        answer_status=1
        ;;
    esac
    if grep -q error "$work/end"; then
        answer_status=1
    elif [ "$answer_status" = 0 ] && [ -z "$s_finish" ] && ! [ -s "$work/end" ]; then
        answer_status=1
        say "$url: the stream ended with neither finish_reason nor [DONE]" >>"$work/errors"
    fi
}

# Ask a server. A stream that could not be kept whole breaks off, and lacks its end in $work/status.
answer_url() {
    { url_prepare "$1"; } 2>/dev/null || die_full "$work"
    {
        url_stream | while IFS= read -r line; do url_line "${line%"$cr"}" || break; done |
            tee "$work/answer"
    } 2>/dev/null || die_full "$work"
    grep -q '^curl_status' "$work/status" 2>/dev/null || die_full "$work"
    if [ -s "$work/answer" ]; then
        { printf '\n' | tee -a "$work/answer"; } 2>/dev/null || die_full "$work"
    fi
    { url_stats; } 2>/dev/null || die_full "$work"
    json_values "$work/stats"
    { url_end; } 2>/dev/null || die_full "$work"
    s_temp=$temp s_top_k=$top_k s_top_p=$top_p s_min_p=$min_p s_rep_pen=$rep_pen s_last_n=$last_n
}

# Answer the prompt in $work/prompt with the seed $1: into $work/answer, and the s_ variables.
answer() {
    rm -f "$work/stats" "$work/status" "$work/errors" "$work/answer"
    json_values /dev/null # forget those of the last answer
    answer_status=''
    started=$(date +%s)
    printf '%s' "$green"
    if [ -n "$url" ]; then answer_url "$1"; else answer_local "$1"; fi
    printf '%s' "$plain"
    answer_s=$(($(date +%s) - started))
    # The speed of a handful of tokens says little.
    [ "${s_prompt:-0}" -lt $((${s_cached:-0} + 16)) ] || reading=$s_prefill
    [ "${answer_status:-130}" != 130 ] || on_signal 130 INT
    if [ "$answer_status" != 0 ]; then
        s_finish="failed $answer_status"
        why=$(tr '\n' ' ' <"$work/errors" | sed 's/ $//')
        warn "no answer: ${why:-status $answer_status}"
    fi
}

# The line of figures below an answer.
figures() {
    say "prompt ${s_prompt:-?} tokens (${s_cached:-0} cached) ${s_prefill:-?} tokens/s" \
        "| first token ${s_ttft:-?} ms | answer ${s_out:-?} tokens ${s_decode:-?} tokens/s" \
        "| ${s_finish:-?}"
}

# Run the task's checks on the answer in file $1, and show them: auto_pass "2/3", auto_detail, and
# lines in $work/checks.
run_checks() {
    auto_pass='' auto_detail=''
    { true >"$work/checks"; } 2>/dev/null || die 1 "$work/checks: could not be written"
    [ -n "$CHECKS" ] || return 0
    chars=$(tr -cd '\344-\351' <"$1" | wc -c)
    PROMPT_FILE=$work/prompt awk -v chars=$((chars)) \
        'BEGIN { prompt = ENVIRON["PROMPT_FILE"] }'"$nl$checks_program" "$1" \
        >"$work/checks" 2>/dev/null || die_full "$work/checks"
    sed 's/^/check: /' "$work/checks"
    auto_pass=$(awk '/^ok/ { n++ } END { print n + 0 "/" NR }' "$work/checks")
    auto_detail=$(sed 's/^no /NOT: /; s/^ok //' "$work/checks" |
        awk 'NR > 1 { printf "; " } { printf "%s", $0 }')
}

# ---- Your vote -----------------------------------------------------------------------------------

scale() {
    cat <<'EOF' >&4
  0  gibberish, a loop, or nothing
  1  bad: the task is missed, or facts are made up
  2  sufficient: the task is seen, but the form is wrong or it hardly hangs together
  3  acceptable: done with some errors; the content is right
  4  good: done, accurate, small slips of form
  5  perfect: done, in the form asked for, accurate
  s skips the task (score it later with --score), r answers again with another seed, q leaves
EOF
}

tty_open() { (exec 4<>/dev/tty) 2>/dev/null && exec 4<>/dev/tty; }

# Without a person there is nobody to ask: the answers wait for --score.
tty_or_auto() {
    [ "$auto" = 0 ] && ! tty_open || return 0
    warn "no terminal to ask for scores: going on as with --auto"
    auto=2 # for this time alone
}

# What the terminal has to give within $1 tenths of a second.
tty_pending() {
    tty_state=$(stty -g <&4)
    stty -icanon min 0 time "$1" <&4
    while piece=$(dd bs=4096 count=1 <&4 2>/dev/null; printf x) && [ "$piece" != x ]; do
        printf '%s' "${piece%x}"
    done
    stty "$tty_state" <&4
    tty_state=''
}

# Ask $1; a line, and what was pasted with it. 1: end of input. Another process asks and reads, for
# `wait` hears every signal; a shell may miss one that comes just before it begins to read.
tty_line() {
    {
        printf '%s' "$1" >&4
        IFS= read -r line <&4 || exit 3
        printf '%s\n' "$line" >"$work/line"
    } 2>/dev/null &
    reader=$!
    wait "$reader"
    set -- $?
    reader=''
    case $1 in
    0) IFS= read -r line <"$work/line" ;;
    3) return 1 ;;
    *) die_full "$work/line" ;;
    esac
    tty_state=$(stty -g <&4) # tty_pending's is another process's
    more=$(tty_pending 2; printf x)
    tty_state=''
    more=${more%x}
    case $more in
    '' | *"$nl") ;;
    *) IFS= read -r rest <&4 && more=$more$rest ;; # a paste that does not end in a newline
    esac
    [ -z "$more" ] || line=$line$nl$more
}

trim() {
    trimmed=$1
    while :; do
        case $trimmed in
        [[:space:]]*) trimmed=${trimmed#?} ;;
        *[[:space:]]) trimmed=${trimmed%?} ;;
        *) return ;;
        esac
    done
}

# Ask until there is an answer: action is vote (with vote and remark), s, r (if $1 is r) or q.
ask_vote() {
    tty_pending 0 >/dev/null # what was typed while the answer ran by is no vote
    while :; do
        if ! tty_line "Score 0-5 and a remark (? scale, s skip, ${1:+r again, }q leave)> "; then
            action=q
            return
        fi
        trim "$line"
        case $trimmed in
        [0-5] | [0-5][[:space:]]*)
            remark=${trimmed#?}
            vote=${trimmed%"$remark"}
            trim "$remark"
            remark=$trimmed
            action=vote
            return
            ;;
        s | q) action=$trimmed; return ;;
        r) if [ -n "$1" ]; then action=r; return; fi ;;
        \?) scale; continue ;;
        esac
        printf 'Expected a digit from 0 to 5, a blank and a remark if you like; or ?, s, %sq.\n' \
            "${1:+r, }" >&4
    done
}

# ---- A task, and a run ---------------------------------------------------------------------------

log_add() { cat 2>/dev/null >>"$log" || die 1 "$log: cannot be written (is the disk full?)"; }

# Answer the prompt with the seed $2, show figures and checks, and log it whole as $1.
answer_logged() {
    answer "$2"
    figures
    run_checks "$work/answer"
    {
        say "==== $1 $(utc), seed $2"
        say "---- prompt"
        cat "$work/prompt"
        say "---- answer"
        cat "$work/answer"
        say "---- $(figures)"
        cat "$work/checks"
    } | log_add || exit
}

# About how many seconds the tasks $1... take: their sizes, at the speeds of the latest answers.
estimate() {
    printf %s "$plan" | awk -v list=" $* " -v prefill="$reading" -v decode="$s_decode" '
        prefill > 0 && decode > 0 && index(list, " " $1 " ") {
            s += $2 / 4.2 / prefill + $3 / decode
        }
        END { print int(s + 0.5) }'
}
estimate_text() { # corrected by how the estimates so far came out
    [ -n "$reading" ] && [ "${s_decode:-0}" != 0 ] || return 0
    left=$(estimate "$@")
    if [ "$expected_s" -gt 20 ]; then left=$((left * spent_s / expected_s)); fi
    if [ "$left" -lt 90 ]; then
        say "about $((left + 1)) s of computing left"
    else
        say "about $(((left + 30) / 60)) min of computing left"
    fi
}

task_prepare() { # NUMBER: file, name, limits and prompt
    file=$(task_file "$1")
    task_read "$file"
    sampling_set "$1" "$sampling"
    row_profile=$profile
    case $sampling in *=*) row_profile=$profile+task ;; esac # the task has its own
    task_prompt "$file" >"$work/prompt" 2>/dev/null ||
        die 1 "$file: its prompt could not be read again, or not be written (is the disk full?)"
}

task_row() {
    csv_record "$1" "$name" "$vote" "$remark" "$run" "$(utc)" \
        "$model_name" "$model_id" "$s_quant" "$s_isa" "$s_threads" "$cpu" "$seed_now" \
        "$row_profile" "$s_temp" "$s_top_k" "$s_top_p" "$s_min_p" "$s_rep_pen" "$s_last_n" \
        "$max_tokens" "$s_ctx" "$s_prompt" "$s_cached" "$s_out" "$s_finish" "$s_load" \
        "$s_ttft" "$s_prefill" "$s_decode" "$s_peak" "$auto_pass" "$auto_detail" "$label" \
        "$(hash8 <"$work/prompt")" "$answer_file"
}

# Run the prepared task $1 until it is voted on, then write its row. 1: the user leaves.
run_task() {
    seed_now=$seed
    while :; do
        printf '%s' "$dim"
        cat "$work/prompt"
        printf '%s\n' "$plain"
        answer_logged "task $1: $name" "$seed_now"
        vote='' remark='' action=s
        if [ "$auto" = 0 ]; then ask_vote r; fi
        case $action in
        r) seed_now=$((seed_now + 1)) ;;
        q) return 1 ;;
        *) break ;;
        esac
    done
    say "---- vote ${vote:-none}${remark:+: $remark}" | log_add || exit
    answer_file=$run/$(printf %02d "$1").txt
    { mv "$work/answer" "$results/$answer_file" && task_row "$1" | cat >"$work/row" &&
        [ "$(csv_awk 'csv_add($0) { print CSV_N }' "$work/row")" = $n_fields ]; } 2>/dev/null ||
        die 1 "$results/$run: cannot be written (is the disk full?)"
    csv_store "$1"
    spent_s=$((spent_s + answer_s))
}

warm_up() {
    [ -f "$(task_file 0)" ] || return 0
    task_prepare 0
    say "warm-up (not scored): $(cat "$work/prompt")"
    answer_logged "warm-up" "$seed"
    [ "$answer_status" = 0 ] || die 1 "the warm-up failed; $again --resume $run tries it again"
}

# A run's tasks that have no result yet.
run_tasks() {
    done_tasks=" $(csv_done | tr '\n' ' ')"
    spent_s=0 expected_s=0 # of computing
    left=''
    for number in $tasks; do
        case $done_tasks in *" $number "*) ;; *) left="$left $number" ;; esac
    done
    position=$((n_tasks - $(echo "$left" | wc -w)))
    for number in $left; do
        position=$((position + 1))
        # shellcheck disable=SC2086 # words on purpose
        time_left=$(estimate_text $left)
        expected_s=$((expected_s + $(estimate "$number")))
        task_prepare "$number"
        printf '\n%s\n' "${bold}[$position/$n_tasks] $name$plain${time_left:+, $time_left}"
        if ! run_task "$number"; then
            say "Left at task $number. $again --resume $run goes on with it."
            return
        fi
        left=${left#" $number"}
    done
    run_total "$run"
    say "$csv, $log"
    failed=$(($(csv_tasks "$csv_open" | wc -l)))
    [ "$failed" = 0 ] ||
        die 1 "$failed of $n_tasks tasks failed; $again --resume $run tries them again"
}

run_total() {
    export AGAIN="$again --score $1"
    csv_awk '
        csv_add($0) && records++ {
            if (CSV[3] != "") { sum += CSV[3]; voted++ }
            else if ('"$csv_waits"') waiting++
        }
        END {
            n = records - 1
            printf "%s: %d of %d, %d of %d tasks scored.\n", name, sum, 5 * n, voted, n
            if (waiting) print ENVIRON["AGAIN"] " asks for the missing scores."
        }' name="${2:-Total}" "$results/$1.csv"
}

work_open() {
    work=$results/$1/work.$$
    rm -rf "$results/$1"/work.* "$results/$1"/lock.* # of runners that were killed
    mkdir "$work" 2>/dev/null || die 1 "$results/$1: cannot be written"
}

# What a run was started with, so that it can be gone on with.
settings_write() {
    all=''
    for key in model model_name model_id draft url set context_first profile seed threads n_ctx auto
    do
        eval "value=\$$key"
        # shellcheck disable=SC2154 # set by eval
        all=$all$key=$value$nl
    done
    { printf %s "$all" >"$work/settings" && mv "$work/settings" "$results/$run/settings"; } \
        2>/dev/null || die 1 "$results/$run: cannot be written"
}
settings_read() {
    settings=$results/$run/settings
    while IFS= read -r line; do
        value=${line#*=}
        case $line in
        auto=*) [ "$value" != 1 ] || auto=1 ;;
        model=* | model_name=* | model_id=* | draft=* | url=* | set=* | context_first=* | \
            profile=* | seed=* | threads=* | n_ctx=*)
            eval "${line%%=*}=\$value"
            ;;
        *)
            die 2 "$settings: expected NAME=VALUE as this program writes it," \
                "got \"$(printf %.80s "$line")\""
            ;;
        esac
    done <"$settings"
    profile_name "$settings: profile" "$profile"
    whole "$settings: seed" "$seed"
    [ -z "$threads" ] || whole "$settings: threads" "$threads" 1 256
    [ -n "$url" ] || whole "$settings: n_ctx" "$n_ctx" 1 1048576
    [ -n "$set" ] || die 2 "$settings: set: expected a set of prompts, got nothing"
    [ -n "$model$url" ] || die 2 "$settings: model: expected a file, got nothing"
}

# What the model is, by generating one token: its name, and its context if that is less than 8192.
model_probe() {
    [ -x "$qwen" ] || die 1 "$qwen: not there (run make first)"
    set -- "$model" --raw -p x -n 1 --stats "$work/stats"
    errors=$("$qwen" "$@" ${draft:+--draft "$draft"} 2>&1 >/dev/null) ||
        die 1 "$(say "$errors" | grep '^qwen: ' | sed 1q | grep . ||
            say "${errors:-$qwen: failed}")"
    json_values "$work/stats"
    case $model in /*) ;; *) model=$(pwd)/$model ;; esac
    case $draft in '' | /*) ;; *) draft=$(pwd)/$draft ;; esac
    model_name=${s_name:-$(basename "$model")}
    [ -n "$s_ctx" ] || die 1 "$model: $qwen wrote no statistics"
    n_ctx=$((s_ctx < 8192 ? s_ctx : 8192))
    model_id=$(model_hash "$model")
}

run_new() {
    tty_or_auto
    set_find
    set_check
    if [ -z "$run" ]; then
        run=$(date +%Y%m%d)-$(od -An -tu1 -N5 /dev/urandom | awk '{ for (i = 1; i <= 5; i++)
            printf "%s", substr("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789", $i % 36 + 1, 1) }')
    fi
    [ ! -e "$results/$run.csv" ] || die 2 "$run: is there already (--resume $run goes on with it)"
    mkdir -p "$results/$run" 2>/dev/null || die 1 "$results/$run: cannot be made"
    lock_take "$run"
    work_open "$run"
    csv=$results/$run.csv log=$results/$run.log
    if [ -z "$url" ]; then model_probe; fi
    settings_write
    with="prompts $label, profile $profile$own, seed $seed, context ${n_ctx:-of the server}"
    with=$with${draft:+, draft $draft}
    {
        say "run $run, $(utc)"
        say "model $model_name, hash ${model_id:-none}, ${url:-$model}"
        say "$with, $cpu"
    } | log_add || exit
    say "Run $run: $model_name, $with"
    warm_up
    csv_new
    csv_bytes=$(file_size "$csv")
    run_tasks
}

run_resume() {
    [ -f "$results/$run/settings" ] || die 2 "--resume $run: there is no such run in $results"
    csv=$results/$run.csv log=$results/$run.log
    lock_take "$run"
    work_open "$run"
    settings_read
    tty_or_auto
    set_find
    set_check
    [ -e "$csv" ] || csv_new # ended in its warm-up
    csv_repair
    if [ -z "$url" ]; then
        for file in "$model" ${draft:+"$draft"}; do
            [ -f "$file" ] && [ -r "$file" ] ||
                die 1 "$file: cannot be opened, and $run began with it"
        done
        [ "$(model_hash "$model")" = "$model_id" ] ||
            die 1 "$model: is not the model that $run began with (hash $model_id)"
    fi
    say "==== resumed $(utc)" | log_add || exit
    say "Run $run goes on: $model_name, prompts $label, profile $profile$own"
    [ "$(csv_done | wc -l)" -eq "$n_tasks" ] || warm_up
    run_tasks
}

# ---- Scoring later, blind ------------------------------------------------------------------------

# Answers without a vote, one a line: key of what is alike, run, task. Answers to the same prompt
# that are the same text have the same key.
score_list() {
    for run; do
        csv_awk "csv_add(\$0) && records++ && $csv_waits "'{
            print CSV[5], CSV[1], CSV[35], CSV[36]
        }' "$results/$run.csv"
    done | while read -r run number prompt_hash output; do
        [ -f "$results/$output" ] || continue
        say "$number-$prompt_hash-$(cksum <"$results/$output" | tr -d ' ' ) $run $number $output"
    done
}

# Keys in a random order, one of the first two thirds again near the end.
score_order() {
    awk -v seed="$1" '
        BEGIN { srand(seed) }
        !($1 in seen) { seen[$1] = 1; key[++n] = $1 }
        END {
            for (i = n; i > 1; i--) {
                j = int(rand() * i) + 1
                t = key[i]; key[i] = key[j]; key[j] = t
            }
            again = n >= 3 ? int(rand() * n * 2 / 3) + 1 : 0
            at = n - int(rand() * (n - again) / 2)
            for (i = 1; i <= n; i++) {
                print "first", key[i]
                if (again && i == at) print "again", key[again]
            }
        }'
}

# Put the vote into the row of task $2 of run $1. The file is replaced as a whole.
score_store() {
    csv=$results/$1.csv
    export VOTE="$vote" REMARK="$remark"
    # shellcheck disable=SC2016 # for awk to expand
    csv_awk_to "$work/scored" '
        csv_add($0) {
            if (records++ && CSV[1] == task && CSV[3] == "") {
                CSV[3] = ENVIRON["VOTE"]
                CSV[4] = ENVIRON["REMARK"]
                for (i = 1; i <= CSV_N; i++) printf "%s%s", (i > 1 ? "," : ""), csv_quote(CSV[i])
                printf "\r\n"
            } else printf "%s\n", CSV_TEXT
        }' task="$2" "$csv" && csv_replace "$work/scored" ||
        die 1 "$csv: the vote could not be written (is the disk full?)"
    say "==== task $2 scored blind: $vote${remark:+: $remark}" >>"$results/$1.log"
}

# Show an answer without a name; prompt and checks with it. Fails where today's prompt is not the
# one that was answered.
score_show() {
    read -r key run shown output <<EOF
$1
EOF
    settings_read
    set_find
    number=$shown
    task_prepare "$number"
    case $key in
    "$shown-$(hash8 <"$work/prompt")-"*) ;;
    *)
        warn "$run: task $shown is another now than the one that was answered: left out"
        return 1
        ;;
    esac
    printf '\n%s\n%s\n' "${bold}[$position/$n_items] $name$plain" "$dim$(cat "$work/prompt")$plain"
    printf '%s' "$green"
    cat "$results/$output"
    printf '%s\n' "$plain"
    run_checks "$results/$output"
}

score_runs() {
    runs=$*
    for run; do
        [ -f "$results/$run/settings" ] || die 2 "--score $run: there is no such run in $results"
    done
    tty_open || die 2 "--score: expected a terminal to ask for scores, found none"
    for run; do
        lock_take "$run"
        csv=$results/$run.csv
        if [ -z "$work" ]; then work_open "$run"; fi
        csv_repair
    done
    score_list "$@" >"$work/list"
    score_order "$shuffle" <"$work/list" >"$work/order"
    n_items=$(($(wc -l <"$work/order")))
    [ "$n_items" -gt 0 ] || { say "Every answer of $runs has its vote."; return; }
    say "$n_items answers, in random order and without names."
    position=0
    : >"$work/votes"
    while read -r kind key <&3; do
        position=$((position + 1))
        awk -v key="$key" '$1 == key' "$work/list" >"$work/rows"
        score_show "$(sed 1q "$work/rows")" || continue
        ask_vote ''
        if [ "$action" = q ]; then
            say "Left at answer $position of $n_items. $again --score $runs goes on with the rest."
            return
        fi
        [ "$action" = vote ] || continue
        first_vote=$(awk -v key="$key" '$1 == key { print $2 }' "$work/votes")
        say "$key $vote" >>"$work/votes"
        if [ -z "$first_vote" ]; then # the first that is not skipped
            while read -r _ one number _ <&5; do score_store "$one" "$number"; done 5<"$work/rows"
        elif [ "$kind" = again ]; then
            score_repeat "$number" "$first_vote"
        fi
    done 3<"$work/order"
    [ -z "$repeat_text" ] || say "$repeat_text"
    for run; do run_total "$run" "$run"; done
}

# How alike a reader's two votes on one answer were.
score_repeat() {
    file=$results/repeats.csv
    {
        { [ -s "$file" ] || printf 'ts_utc,runs,task,first,again\r\n' >"$file"; } &&
            csv_record "$(utc)" "$runs" "$1" "$2" "$vote" | cat >>"$file"
    } 2>/dev/null || die_full "$file"
    repeat_text="One answer was shown twice (task $1): you gave it $2, then $vote."
}

# ---- The report ----------------------------------------------------------------------------------

make_report() {
    if [ $# -eq 0 ]; then
        for file in "$results"/*.csv; do # a run that was left at once has no row
            [ "$file" = "$results/repeats.csv" ] || [ ! -f "$file" ] ||
                [ -z "$(sed -n 2p "$file")" ] || set -- "$@" "$file"
        done
        [ $# -gt 0 ] || die 2 "--report: there are no runs with a row in $results"
    else
        for run; do
            [ -f "$results/$run.csv" ] || die 2 "--report $run: there is no such run in $results"
            set -- "$@" "$results/$run.csv"
            shift
        done
    fi
    [ ! -f "$results/repeats.csv" ] || set -- "$@" "$results/repeats.csv"
    html=${html:-$results/report.html}
    case $html in -*) html=./$html ;; esac
    { true >"$html.new"; } 2>/dev/null || die 1 "$html.new: cannot be written"
    report=$(HTML=$html.new awk -f "$programs/csv.awk" -f "$programs/report.awk" "$@") &&
        mv "$html.new" "$html" || die 1 "$html: the report failed"
    trap - PIPE # head may have read enough: that ends this without a word
    { say "$report" && say "$html"; } 2>/dev/null || die 1 "the report could not be printed"
}

# ---- The command line ----------------------------------------------------------------------------

results=results mode=new run='' runs='' model='' url='' model_name='' model_id='' set=''
profile=rbyf seed=1 threads='' draft='' auto=0 context_first=0 html='' n_ctx='' repeat_text=''
shuffle='' reading='' folder='' s_decode=''
cpu=$(cpu_name)
bold='' dim='' green='' plain=''
if [ -t 1 ] && [ -z "$NO_COLOR" ] && [ "$TERM" != dumb ]; then
    esc=$(printf '\033')
    bold=$esc'[1m' dim=$esc'[2m' green=$esc'[32m' plain=$esc'[0m'
fi

need() { [ -n "${2-}" ] || die 2 "$1: expected a value after it"; }
# whole WHAT TEXT [LEAST MOST]. To a shell 010 is 8 and 08 nothing, and JSON has neither.
whole() {
    whole_range=${4:+ from $3 to $4}
    case $2 in
    0[0-9]*) die 2 "$1: expected a whole number without a leading zero, got \"$2\"" ;;
    '' | *[!0-9]* | ????????????????*)
        die 2 "$1: expected a whole number$whole_range, got \"$2\""
        ;;
    esac
    [ -z "$whole_range" ] || { [ "$2" -ge "$3" ] && [ "$2" -le "$4" ]; } ||
        die 2 "$1: expected a whole number$whole_range, got \"$2\""
}
profile_name() {
    case $2 in rbyf | model) ;; *) die 2 "$1: expected rbyf or model, got \"$2\"" ;; esac
}
run_name() {
    case $1 in '' | -* | .* | *[!A-Za-z0-9._-]* | repeats)
        die 2 "expected a run's name, got \"$1\" (letters, digits, . _ and -, no . or - in front)"
        ;;
    esac
}
# old_run RUN: the name of a run that is there, in $old. RUN may be a path of it, as this prints it:
# results/RUN.csv, results/RUN.log, results/RUN/. $folder is where such paths are.
old_run() {
    old=${1%/}
    case $old in
    */*)
        at=$(CDPATH='' cd -- "${old%/*}/" 2>/dev/null && pwd -P) ||
            die 2 "$1: there is no such run"
        [ "${folder:-$at}" = "$at" ] || die 2 "$1: expected a run in $folder"
        folder=$at
        old=${old##*/}
        case $1 in *.csv) old=${old%.csv} ;; *.log) old=${old%.log} ;; esac
        ;;
    esac
    run_name "$old"
}

mode_set() {
    [ "$mode" = new ] || [ "$mode" = "$1" ] || die 2 "--$1: does not go with --$mode"
    mode=$1
}
given=''
while [ $# -gt 0 ]; do
    case $1 in -*) given="$given $1" ;; esac
    case $1 in
    --auto) auto=1 ;;
    --context-first) context_first=1 ;;
    --prompts) need "$@"; set=$2; shift ;;
    --profile) need "$@"; profile=$2; shift ;;
    --url) need "$@"; url=$2; shift ;;
    --model) need "$@"; model_name=$2; shift ;;
    --seed) need "$@"; whole "$1" "$2"; seed=$2 shuffle=$2; shift ;;
    --threads) need "$@"; whole "$1" "$2" 1 256; threads=$2; shift ;;
    --draft) need "$@"; draft=$2; shift ;;
    --results) need "$@"; results=$2; shift ;;
    --html) need "$@"; html=$2; shift ;;
    --run) need "$@"; run_name "$2"; run=$2; shift ;;
    --resume) need "$@"; old_run "$2"; mode_set resume; run=$old; shift ;;
    --score | --report) mode_set "${1#--}" ;;
    -h | --help) usage; exit 0 ;;
    -*) die 2 "$1: no such option (--help lists them)" ;;
    *)
        case $mode in
        score | report) old_run "$1"; runs="$runs $old" ;;
        *)
            [ -z "$model" ] ||
                die 2 "$1: a second model, after $model (one run for each, then --report)"
            model=$1
            ;;
        esac
        ;;
    esac
    shift
done

# What a mode would not look at is refused.
for option in $given; do
    case $mode$option in
    new--html) die 2 "--html: goes with --report" ;;
    new--* | "$mode--$mode" | *--results | resume--auto | score--seed | report--html) ;;
    *) die 2 "$option: does not go with --$mode" ;;
    esac
done
[ "$mode" = new ] || [ -z "$model" ] || die 2 "$model: a model does not go with --$mode"
profile_name --profile "$profile"
[ -z "$folder" ] || [ "$folder" = "$(CDPATH='' cd -- "$results/" 2>/dev/null && pwd -P)" ] ||
    die 2 "expected runs in $results (--results DIR sets it), got one in $folder"
case $0 in */*) again=$(quoted "$0") ;; *) again=./run_bench.sh ;; esac
[ "$results" = results ] || again="$again --results $(quoted "$results")"
case $results in /* | .*) ;; *) results=./$results ;; esac # awk takes r=1/x.csv for no file
# shellcheck disable=SC2086 # names of runs have no blanks
case $mode in
report) make_report $runs ;;
score) [ -n "$runs" ] || die 2 "--score: expected a run's name"
    shuffle=${shuffle:-$(od -An -tu2 -N2 /dev/urandom | tr -d ' ')}
    score_runs $runs ;;
resume) run_resume ;;
new)
    [ -n "$url" ] || [ -z "$model_name" ] || die 2 "--model: goes with --url"
    if [ -n "$url" ]; then
        [ -n "$model_name" ] || die 2 "--url: expected --model NAME with it"
        [ -z "$model" ] || die 2 "expected a model file or --url, not both"
        [ -z "$threads" ] || die 2 "--threads: goes with a model file, not with --url"
        [ -z "$draft" ] || die 2 "--draft: goes with a model file, not with --url"
        url=${url%/} url=${url%/chat/completions}
        command -v curl >/dev/null || die 1 "--url needs curl, which is not here"
    elif [ -z "$model" ]; then
        [ -f "$demo_model" ] ||
            die 2 "expected a model: ./run_bench.sh MODEL.bin, or --url URL --model NAME" \
                "(make run builds the bundled one)"
        model=$demo_model
        if [ -d "$programs/demo" ]; then set=${set:-demo}; fi
    fi
    set=${set:-en}
    run_new
    ;;
esac
