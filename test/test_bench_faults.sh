#!/bin/sh
# test_bench_faults.sh QWEN CONVERT GOLDEN SCRATCH: the catalogue on a system that fails. Its engine
# is build/.../faults/qwen, of which one call of libc fails, once or for good, in one of the runs
# that the catalogue starts; and the disk is full, or the folder read-only. Whatever fails,
# run_bench.sh ends with 0 or 1 and lines that are its own, every row is whole, and --resume
# completes the run. LONG=1 fails more calls and fills more disks.
# shellcheck disable=SC2015 # "test && good || bad"
LC_ALL=C
export LC_ALL
# In a namespace of its own, where there are such, disks can be mounted.
if [ -z "${NAMESPACE:-}" ] && unshare -rm mount -t tmpfs tmpfs /mnt 2>/dev/null; then
    NAMESPACE=1 exec unshare -rm sh "$0" "$@"
fi
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
mkdir -p "$4/bench_faults" && scratch=$(cd "$4/bench_faults" && pwd) || exit 1
bench=$here/../run_bench.sh convert=$2
faulty=$scratch/../../faults/qwen make_tiny=$scratch/../../make_tiny
case $convert in /*) ;; *) convert=$(pwd)/$convert ;; esac
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$here/lib.sh"
results=$scratch/results out=$scratch/stdout err=$scratch/stderr
n_faults=0 n_refused=0
FAULT_NUMBER=$scratch/number # how many engines were started
FAULT_COUNT=$scratch/count   # how often the last of them made each call
export FAULT_NUMBER FAULT_COUNT

# ---- An engine that fails ------------------------------------------------------------------------

# The FAULT_RUN-th engine of a run gets FAULT; the others are well.
cat >"$scratch/qwen" <<END
#!/bin/sh
n=\$((\$(cat "\$FAULT_NUMBER") + 1))
echo \$n >"\$FAULT_NUMBER"
[ "\$n" = "\$FAULT_RUN" ] || FAULT=none:0 FAULT_COUNT=/dev/null
exec "$faulty" "\$@"
END
chmod +x "$scratch/qwen"
QWEN=$scratch/qwen
export QWEN

make_set() {
    rm -rf "$scratch/set"
    mkdir "$scratch/set"
    printf 'task: warm-up\nmax-tokens: 3\n---\nhello\n' >"$scratch/set/00-w.txt"
    for i in 1 2 3; do
        printf 'task: %s\nmax-tokens: 9\ncheck: words 1-9\n---\nhello the world %s\n' $i $i \
            >"$scratch/set/0$i-t.txt"
    done
}

# catalogue ARGUMENTS...: with their results in $results; the status in $status
catalogue() {
    echo 0 >"$FAULT_NUMBER"
    timeout 60 sh "$bench" --results "$results" "$@" >"$out" 2>"$err" </dev/null
    status=$?
}
url='' # of the server that answers, when it is not the engine
begin() {
    if [ -n "$url" ]; then set -- --url "$url" --model any; else
        set -- "$scratch/tiny.bin" --threads 2
    fi
    catalogue "$@" --prompts "$scratch/set" --auto --run r
}
resume() {
    FAULT='' catalogue --resume r --auto
}

# What the rows say: number, fields, end.
cat >"$scratch/rows.awk" <<'END'
csv_add($0) && records++ { print CSV[1], CSV_N, CSV[26] }
END
rows() { awk -f "$here/../prompts/csv.awk" -f "$scratch/rows.awk" "$results/r.csv" 2>/dev/null; }
answers() { (cd "$results/r" && cat 01.txt 02.txt 03.txt); }

# ended WHAT: the catalogue ended in good order, whatever failed
ended() {
    case $status in 0 | 1) pass ;; *) fail "$1: status $status: $(head -n 3 "$err")" ;; esac
    same "$1: lines that are not run_bench's" "$(grep -v '^run_bench: .' "$err" | head -n 3)" ''
    if [ $status = 1 ]; then check "$1: a line says why" test -s "$err"; fi
    same "$1: rows that are not whole" "$(rows | awk '$2 != 36' | head -n 3)" ''
    same "$1: the end of the last row" \
        "$([ ! -s "$results/r.csv" ] || tail -c 2 "$results/r.csv" | od -An -tx1 | tr -d ' ')" \
        "$([ ! -s "$results/r.csv" ] || echo 0d0a)"
    if [ -d "$results/r" ]; then
        left=$(cd "$results/r" && find . -type f ! -name '0[123].txt' ! -name settings)
        same "$1: files that were left behind" "$left" ''
    fi
}

# A run on a system where all is well: what it must come to
good_run() {
    rm -rf "$results"
    begin
    same "a good run: status" "$status" 0
    good_rows=$(rows | sort | tr '\n' ' ') good_answers=$(answers | cksum)
    same "a good run: rows" "$(echo "$good_rows" | wc -w)" 9
}

# completed WHAT: with --resume, or from the start where nothing had begun, the run is the good one
completed() {
    if [ -f "$results/r/settings" ]; then resume; else FAULT='' begin; fi
    same "$1: status of --resume" "$status" 0
    same "$1: the rows after --resume" "$(rows | sort | tr '\n' ' ')" "$good_rows"
    same "$1: the answers after --resume" "$(answers | cksum)" "$good_answers"
}

# fault WHAT RUN: FAULT in that engine, then none
fault() {
    rm -rf "$results"
    FAULT=$1 FAULT_RUN=$2
    export FAULT FAULT_RUN
    begin
    n_faults=$((n_faults + 1)) n_refused=$((n_refused + status))
    ended "FAULT=$1 in engine $2"
    completed "FAULT=$1 in engine $2"
}

engine_tests() {
    for engine in 1 2 4; do # the first look at the model, the warm-up, the second task
        rm -rf "$results"
        FAULT=none:0 FAULT_RUN=$engine
        export FAULT FAULT_RUN
        begin
        cp "$FAULT_COUNT" "$scratch/calls"
        check "engine $engine makes calls" test "$(wc -l <"$scratch/calls")" -gt 8
        while read -r name calls; do
            [ "$name" != interrupt ] || continue # ^C is no failure: test_bench sends it
            [ $engine = 4 ] || [ -n "${LONG:-}" ] || [ "$name" = open ] || continue
            fault "$name:1+" $engine
            [ "$calls" = 1 ] || fault "$name:$calls" $engine
            [ -z "${LONG:-}" ] || fault "$name:1" $engine
        done <"$scratch/calls"
    done
    fault short:1 4
    check "$n_refused of $n_faults faults ended with 1" test $n_refused -gt $((n_faults / 3))
    echo "$n_faults faults in an engine: $n_refused runs ended with 1"
}

# ---- A full disk, and a read-only one ------------------------------------------------------------

disk() { mount -t tmpfs -o "size=$1" tmpfs "$scratch/disk"; } # disk SIZE: a new one
resize() { mount -o "remount,$1" "$scratch/disk"; }

# full_disk PAGES LEAST: disks of so many pages, of which LEAST or more get full. A run needs about
# 16, one of a server 20 (how many, is not the same each time).
full_disk() {
    least=$2 n_full=0
    for n in $1; do
        disk $((4 * n))k
        begin
        ended "a disk of $n pages"
        n_full=$((n_full + status))
        resize size=8m
        completed "a disk of $n pages, larger now"
        umount "$scratch/disk"
    done
    check "$n_full disks were full" test $n_full -ge "$least"
    echo "$n_full disks were full${url:+, of a run with --url}"
}

# The same with the answers of a server
full_disk_url() {
    if ! command -v curl >/dev/null; then
        skip 1 "no curl"
        return
    fi
    ${CC:-cc} -std=c11 -D_GNU_SOURCE -O1 -o "$scratch/server" "$here/bench_server.c" ||
        fail "server"
    rm -f "$scratch/port"
    "$scratch/server" "$scratch/port" "$scratch/requests" &
    server=$!
    i=0
    while [ ! -s "$scratch/port" ] && [ $i -lt 100 ]; do sleep 0.05; i=$((i + 1)); done
    url=http://127.0.0.1:$(cat "$scratch/port")/v1
    disk 8m
    good_run
    umount "$scratch/disk"
    full_disk "$1" "$2"
    url=''
    kill $server
    wait $server 2>/dev/null
}

state() { (cd "$results" && find . -type f -exec cksum {} + | sort); }

read_only() {
    disk 8m
    begin
    sed '$d' "$results/r.csv" >"$scratch/less.csv" && cp "$scratch/less.csv" "$results/r.csv"
    before=$(state)
    resize ro
    resume
    ended "--resume in a read-only folder"
    same "--resume in a read-only folder: status" "$status" 1
    same "--resume in a read-only folder: one line" "$(wc -l <"$err")" 1
    catalogue "$scratch/tiny.bin" --prompts "$scratch/set" --auto --run other
    same "a new run in a read-only folder: status" "$status" 1
    same "a new run in a read-only folder: one line" "$(wc -l <"$err")" 1
    same "a read-only folder is as it was" "$(state)" "$before"
    resize rw
    completed "a folder that was read-only"
    umount "$scratch/disk"
}

# Where disks can be mounted, the tests of the engine get one too: there `sync` costs nothing.
disk_tests() {
    if [ -z "${NAMESPACE:-}" ]; then
        skip 2 "a full and a read-only disk: no namespace to mount them in"
        return
    fi
    mkdir -p "$scratch/disk"
    results=$scratch/disk/results
    FAULT=''
    if [ -n "${LONG:-}" ]; then
        full_disk '1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 20 22 24 26 28' 13
        full_disk_url '1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 20 22 24 26 28' 13
    else
        full_disk '1 3 5 7 9 11 13 15' 5
        full_disk_url '2 6 10 14' 3
    fi
    disk 64m
    good_run # the engine's again, for what follows
    read_only
}

# ---- The whole of it -----------------------------------------------------------------------------

make_set
"$make_tiny" "$scratch/tiny" && "$convert" "$scratch/tiny" -o "$scratch/tiny.bin" 2>"$err" || {
    fail "no model: $(cat "$err")"
    finish bench_faults
    exit
}
FAULT='' FAULT_RUN=0
export FAULT FAULT_RUN
good_run
disk_tests
engine_tests
[ -z "${NAMESPACE:-}" ] || umount "$scratch/disk"
[ $failed -gt 0 ] || rm -rf "$scratch"
finish bench_faults
