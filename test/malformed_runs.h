/* malformed_runs.h: the part of test_malformed.c's catalogue that is read while answering: the
 * files of --cache, the lines of --prompts, and what run_bench.sh reads: tasks, a run's CSV and
 * settings. */
#ifndef MALFORMED_RUNS_H
#define MALFORMED_RUNS_H

#include "malformed.h"

/* ---- Files of --cache ------------------------------------------------------------------------ */

/* Where the fields of their header are. */
enum {
    KV_VERSION = 8,
    KV_CRC = 12,
    KV_FILE_BYTES = 16,
    KV_MODEL_BYTES = 24,
    KV_MODEL_CRC = 32,
    KV_ARITHMETIC = 36,
    KV_SHA256 = 40,
    KV_F32 = 72,
    KV_YARN = 76,
    KV_N = 80,
    KV_HEADER = 88
};

/* value, n bytes of it, goes to `at`; then `cut` bytes are taken off the end (negative: added), and
 * the checksum is made right, but for a stale one. The prompt is then read anew, and the file
 * replaced by a good one. refused: the file is left, and there is no answer. */
static const struct {
    const char *what;
    size_t at, n;
    uint64_t value;
    const char *want;
    long cut;
    bool stale, refused;
} cache_cases[] = {
    {"magic, first byte", 0, 1, 'Q', "magic: expected a file that --cache wrote", 0, 0, 1},
    {"magic, last byte", 7, 1, '\r', "magic: expected", 0, 0, 1},
    {"a model.bin's magic", 0, 8, 0x0a1a0a0d4e575189, "magic: expected", 0, 0, 1},
    {"version 0", KV_VERSION, 4, 0, "version: expected 2, got 0", 0, 0, 0},
    {"the version before", KV_VERSION, 4, 1, "version: expected 2, got 1", 0, 0, 0},
    {"version of all ones", KV_VERSION, 4, UINT64_MAX, "version: expected 2, got 4294967295", 0, 0,
     0},
    {"a stale checksum", KV_CRC, 4, 0, "crc32c: damaged: expected 00000000", 0, 1, 0},
    {"one id changed", KV_HEADER, 4, 9, "crc32c: damaged", 0, 1, 0},
    {"one key changed", 2000, 1, 0x55, "crc32c: damaged", 0, 1, 0},
    {"a byte less", 0, 0, 0, "file_bytes: expected", 1, 0, 0},
    {"a byte more", 0, 0, 0, "file_bytes: expected", -1, 0, 0},
    {"a page more", 0, 0, 0, "file_bytes: expected", -4096, 0, 0},
    {"the header alone", 0, 0, 0, "file_bytes: expected", LONG_MAX, 0, 0},
    {"file_bytes 0", KV_FILE_BYTES, 8, 0, "file_bytes: expected 0", 0, 0, 0},
    {"file_bytes of all ones", KV_FILE_BYTES, 8, UINT64_MAX, "file_bytes: expected", 0, 0, 0},
    {"another model's size", KV_MODEL_BYTES, 8, 4096, "model: expected the cache of", 0, 0, 0},
    {"another model's checksum", KV_MODEL_CRC, 4, 1, "model: expected the cache of", 0, 0, 0},
    {"another arithmetic", KV_ARITHMETIC, 4, 99, "arithmetic: expected a prompt read", 0, 0, 0},
    {"another source", KV_SHA256, 8, 1, "model: expected the cache of", 0, 0, 0},
    {"another source's end", KV_SHA256 + 24, 8, 1, "model: expected the cache of", 0, 0, 0},
    {"f32", KV_F32, 4, 1, "settings: expected --kv i16 and a YaRN factor of", 0, 0, 0},
    {"f32 as 256", KV_F32, 4, 256, "settings: expected --kv i16", 0, 0, 0},
    {"a YaRN factor of 2", KV_YARN, 4, 0x40000000, "settings: expected --kv i16", 0, 0, 0},
    {"a YaRN factor of NaN", KV_YARN, 4, 0x7fc00000, "settings: expected --kv i16", 0, 0, 0},
    {"no tokens", KV_N, 8, 0, "n: 0 tokens do not go with a file of", 0, 0, 0},
    {"a token", KV_N, 8, 1, "n: 1 tokens do not go with", 0, 0, 0},
    {"a million tokens", KV_N, 8, 1048576, "n: 1048576 tokens do not go with", 0, 0, 0},
    {"2^32 tokens more", KV_N + 4, 4, 1, "tokens do not go with", 0, 0, 0},
    {"2^60 tokens", KV_N, 8, 1ull << 60, "n: 1152921504606846976 tokens do not", 0, 0, 0},
    {"2^64 - 1 tokens", KV_N, 8, UINT64_MAX, "n: 18446744073709551615 tokens do not", 0, 0, 0},
};

/* ---- Lines of --prompts ---------------------------------------------------------------------- */

/* The second line, behind a good one; the third is good again. Of the rows of message_cases those
 * that are arrays come too, as {"messages": ROW}. */
static const struct {
    const char *text, *want;
} line_cases[] = {
    {"", "prompt: is empty"},
    {" \t ", "prompt: is empty"},
    {"\r", "prompt: is empty"},
    {"{", "line 1 column 2: expected a key"},
    {"hello", "expected a value"},
    {"\xef\xbb\xbf{\"prompt\":\"a\"}", "expected a value, got U+FEFF"},
    {"{\"prompt\":\"a\"}{\"prompt\":\"b\"}", "expected nothing behind"},
    {"{\"prompt\":\"a", "expected a closing quote"},
    {"{\"prompt\":\"\x1b\"}", "expected"},
    {"{\"prompt\":\"\\ud800\"}", "expected"},
    {"{\"prompt\":\"\xff\"}", "UTF-8"},
    {"{}", "expected an object with either prompt or messages"},
    {"[]", "messages: expected at least one message"},
    {"[3]", "messages[0]: expected an object, got a number"},
    {"{\"body\":{}}", "expected an object with either"},
    {"{\"body\":3}", "expected an object with either"},
    {"{\"body\":{\"body\":{\"prompt\":\"a\"}}}", "expected an object with either"},
    {"\"hello\"", "expected an object with either"},
    {"null", "expected an object with either"},
    {"3", "expected an object with either"},
    {"{\"text\":\"hello\"}", "expected an object with either"},
    {"{\"Prompt\":\"hello\"}", "expected an object with either"},
    {"{\"prompt\":\"a\",\"messages\":[]}", "expected an object with either"},
    {"{\"prompt\":null}", "prompt: expected a string"},
    {"{\"prompt\":3}", "prompt: expected a string"},
    {"{\"prompt\":[\"hello\"]}", "prompt: expected a string"},
    {"{\"prompt\":\"\"}", "prompt: is empty"},
    {"{\"prompt\":\" \\t\\n\"}", "prompt: is empty"},
    {"{\"prompt\":\"a\",\"prompt\":\"b\"}", "prompt"},
    {"{\"messages\":null}", "messages: expected an array"},
    {"{\"messages\":\"hello\"}", "messages: expected an array"},
    {"{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}],\"tools\":{}}", "tools"},
    {TEN(TEN("[[[[[[[[[[")), "levels of nesting"},
    {"{\"prompt\":\"" TEN(TEN(TEN("hello the "))) "\"}", "tokens do not fit"},
};

/* ---- What run_bench.sh reads ----------------------------------------------------------------- */

#define GOOD_TASK                                                                                  \
    "task: one\nsampling: temp=0.5 top-k=3\nmax-tokens: 5\nexpect: 5\ncheck: words 1-9\n---\n"     \
    "Say hello.\n@include part.txt\n"

/* A file with a change, and the exit status. */
static const struct {
    FileCase change;
    int status;
} bench_cases[] = {
    {WHOLE(TASK, "", "expected a line \"task: NAME\""), 2},
    {EDIT(TASK, "task: one\n", "", "expected a line \"task: NAME\""), 2},
    {EDIT(TASK, "task: one", "task:", ":1: expected task:"), 2},
    {EDIT(TASK, "task: one", "task one", ":1: expected task:"), 2},
    {EDIT(TASK, "task: one", " task: one", ":1: expected task:"), 2},
    {EDIT(TASK, "task: one", "Task: one", ":1: expected task:"), 2},
    {EDIT(TASK, "task: one", "\xef\xbb\xbftask: one", ":1: expected task:"), 2},
    {EDIT(TASK, "task: one", "\x1b[31mtask: one", "got \"?[31mtask: one\""), 2},
    {WHOLE(TASK,
           "\x7f"
           "ELF\2\1\1",
           ":1: expected task:"),
     2},
    {EDIT(TASK, "temp=0.5", "temp=hot", ":2: expected profile or temp=0.2"), 2},
    {EDIT(TASK, "temp=0.5", "tmp=0.5", ":2: expected profile or temp=0.2"), 2},
    {EDIT(TASK, "temp=0.5", "temp= 0.5", ":2: expected profile or temp=0.2"), 2},
    {EDIT(TASK, "temp=0.5", "temp=5e-1", ":2: expected profile or temp=0.2"), 2},
    {EDIT(TASK, "temp=0.5", "temp=$(reboot)", ":2: expected profile or temp=0.2"), 2},
    {EDIT(TASK, "top-k=3", "top-k=3.5", ":2: expected profile or temp=0.2"), 2},
    {EDIT(TASK, "top-k=3", "top-k=", ":2: expected profile or temp=0.2"), 2},
    {EDIT(TASK, "max-tokens: 5", "max-tokens: -1", ":3: expected max-tokens: and a whole"), 2},
    {EDIT(TASK, "max-tokens: 5", "max-tokens:", ":3: expected max-tokens: and a whole"), 2},
    {EDIT(TASK, "max-tokens: 5", "max-tokens: 5 5", ":3: expected max-tokens: and a whole"), 2},
    {EDIT(TASK, "max-tokens: 5", "max-tokens: 1O", ":3: expected max-tokens: and a whole"), 2},
    {EDIT(TASK, "max-tokens: 5", "max-tokens: 1048577", "number up to 1048576"), 2},
    {EDIT(TASK, "tokens: 5", "tokens: " TEN("9999999999"), "number up to 1048576"), 2},
    {EDIT(TASK, "expect: 5", "expect: 5.5", ":4: expected expect: and a whole"), 2},
    {EDIT(TASK, "expect: 5", "expect: " TEN("99"), ":4: expected expect: and a whole"), 2},
    {EDIT(TASK, "words 1-9", "words", ":5: expected check: words and a number or range"), 2},
    {EDIT(TASK, "words 1-9", "words few", ":5: expected check: words and a number"), 2},
    {EDIT(TASK, "words 1-9", "words 1-", ":5: expected check: words and a number"), 2},
    {EDIT(TASK, "words 1-9", "words 1 - 9", ":5: expected check: words and a number"), 2},
    {EDIT(TASK, "words 1-9", "wurds 1-9", ":5: expected a check of prompts/README.md"), 2},
    {EDIT(TASK, "words 1-9", "", ":5: expected a check of prompts/README.md"), 2},
    {EDIT(TASK, "words 1-9", "phrase", ":5: expected a check of prompts/README.md"), 2},
    {EDIT(TASK, "words 1-9", "grounded 3", ":5: expected a check of prompts/README.md"), 2},
    {EDIT(TASK, "---\n", "----\n", ":6: expected task:"), 2},
    {EDIT(TASK, "---\n", "", ":6: expected task:"), 2},
    {EDIT(TASK, "---\nSay hello.\n@include part.txt\n", "---\n", "expected a header, a line ---"),
     2},
    {EDIT(TASK, "---\nSay hello.\n@include part.txt\n", "", "expected a header, a line ---"), 2},
    {EDIT(TASK, "part.txt", "none.txt", "@include none.txt: expected a file in"), 2},
    {EDIT(TASK, "part.txt", "", "@include : expected a file in"), 2},
    {EDIT(TASK, "part.txt", ".", "@include .: expected a file in"), 2},
    {EDIT(TASK, "part.txt", "../out", "@include ../out: expected a file in"), 2},

    {WHOLE(RUN_CSV, "", "expected the columns #,TASK"), 2},
    {WHOLE(RUN_CSV, "\n", "expected the columns #,TASK"), 2},
    {WHOLE(RUN_CSV, "PK\3\4\x14\6", "expected the columns #,TASK"), 2},
    {EDIT(RUN_CSV, "TASK", "task", "expected the columns #,TASK"), 2},
    {EDIT(RUN_CSV, "#,TASK", "\xef\xbb\xbf#,TASK", "expected the columns #,TASK"), 2},
    {EDIT(RUN_CSV, "VOTE,REMARKS", "REMARKS,VOTE", "expected the columns #,TASK"), 2},
    {EDIT(RUN_CSV, "#,TASK", "\"#,TASK", "expected the columns #,TASK"), 2},
    {{RUN_CSV, NULL, NULL, "has zero bytes, left as it is", -1, false}, 2},
    {{RUN_CSV, NULL, NULL, "has zero bytes, left as it is", -5000, false}, 2},
    {EDIT(RUN_CSV, "\n1,one,,", "\n1,one,9,", "row 1: expected a VOTE from 0 to 5 or none"), 2},
    {EDIT(RUN_CSV, "\n1,one,,", "\n1,one,-1,", "row 1: expected a VOTE from 0 to 5 or none"), 2},
    {EDIT(RUN_CSV, "\n1,one,,", "\n1,one,good,", "or none, got \"good\""), 2},
    {EDIT(RUN_CSV, "\n1,one,,", "\n1,one,\"4\n\x1b[1m\",", "or none, got \"4??[1m\""), 2},
    {EDIT(RUN_CSV, "\n1,one", "\none,one", "row 1: expected a number in the column #"), 2},
    {EDIT(RUN_CSV, "\n1,one", "\n,one", "row 1: expected a number in the column #"), 2},
    {EDIT(RUN_CSV, "\n1,one", "\n2,one", "row 2: expected each task once, got task 2"), 2},
    {EDIT(RUN_CSV, "\n1,one", "\n1,one,", "row 1: expected 36 fields, got 37"), 2},
    {EDIT(RUN_CSV, "\n1,one", "\n1", "row 1: expected 36 fields, got 35"), 2},
    {EDIT(RUN_CSV, "\n1,one", "\n\n1,one", "row 1: expected 36 fields, got 1"), 2},
    {EDIT(RUN_CSV, "\n1,one", "\n1;one", "row 1: expected 36 fields, got 35"), 2},
    {EDIT(RUN_CSV, "\r\n2,two", " 2,two", "row 1: expected 36 fields, got 71"), 2},
    {EDIT(RUN_CSV, "\n1,one", "\n1,\"one", "row 1: expected a quote that ends"), 2},

    {WHOLE(RUN_SETTINGS, "", "n_ctx: expected a whole number"), 2},
    {WHOLE(RUN_SETTINGS, "hello\n", "expected NAME=VALUE as this program writes it"), 2},
    {WHOLE(RUN_SETTINGS, "PK\3\4\n", "got \"PK??\""), 2},
    {EDIT(RUN_SETTINGS, "seed=1", "seed=one", "seed: expected a whole number"), 2},
    {EDIT(RUN_SETTINGS, "seed=1", "seed=-1", "seed: expected a whole number"), 2},
    {EDIT(RUN_SETTINGS, "seed=1", "sead=1", "expected NAME=VALUE as this program"), 2},
    {EDIT(RUN_SETTINGS, "threads=1", "threads=x", "threads: expected a whole number"), 2},
    {EDIT(RUN_SETTINGS, "n_ctx=", "n_ctx=$((", "n_ctx: expected a whole number"), 2},
    {EDIT(RUN_SETTINGS, "profile=rbyf", "profile=best", "profile: expected rbyf or model"), 2},
    {EDIT(RUN_SETTINGS, "model=", "model=\nauto=", "model: expected a file, got nothing"), 2},
    {EDIT(RUN_SETTINGS, "set=", "set=\nauto=", "set: expected a set of prompts"), 2},
    {EDIT(RUN_SETTINGS, "model_id=", "model_id=0", "is not the model that r began with"), 1},
};

#endif
