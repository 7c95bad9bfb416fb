/* test_base.c: base.c against known answers: printable errors, strict numbers, UTF-8 in all its
 * malformed shapes, the published CRC-32C vectors, and files that are absent or complete. */
#include "test.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../base.h"

static void test_errors(void) {
    Error e;
    CHECK(!fail(&e, "a.bin", "size", "expected %d, got %d", 1, 2), "fail returns false");
    CHECK(!strcmp(e.text, "a.bin: size: expected 1, got 2"), "%s", e.text);
    fail(&e, NULL, NULL, "bare");
    CHECK(!strcmp(e.text, "bare"), "%s", e.text);
    fail(&e, "a\n\x1b[2J", NULL, "got \u00e9\t\xc3 \u202e\xc2\x9b\u6a21");
    CHECK(!strcmp(e.text, "a\\x0a\\x1b[2J: got \u00e9\\x09\\xc3 \\xe2\\x80\\xae\\xc2\\x9b\u6a21"),
          "%s", e.text);

    char path[5000];
    memset(path, 'p', sizeof path);
    path[sizeof path - 1] = 0;
    fail(&e, path, "field", "the message survives");
    CHECK(strstr(e.text, "ppp: field: the message survives"), "%s", e.text);
    CHECK(!strncmp(e.text, "...p", 4), "%s", e.text);
    fail(&e, NULL, NULL, "%s", path);
    CHECK(strlen(e.text) < sizeof e.text, "cut to fit");

    char out[8];
    printable(out, sizeof out, "abcd\n", 5);
    CHECK(!strcmp(out, "abcd"), "an escape is never cut in two: %s", out);
    printable(out, sizeof out, "abc\n", 4);
    CHECK(!strcmp(out, "abc\\x0a"), "%s", out);
    printable(out, sizeof out, "abcdef\u00e9", 8);
    CHECK(!strcmp(out, "abcdef"), "nor a character: %s", out);
    CHECK(is_printable("", 0) && is_printable("a \u00e9", 4) && !is_printable("a\u00e9", 2) &&
              !is_printable("a\0b", 3) && !is_printable("a\x7f", 2) &&
              !is_printable("\u061c", 2) && !is_printable("\U000e0001", 4),
          "what is shown as it is");
    printable(out, 0, "x", 1);
    CHECK(out[0] == 'a', "no room, no NUL");

    /* What cannot be formatted (a surrogate is no character) leaves the rest of the line. */
    static const wchar_t bad[] = {0xd800, 0};
    errno = ENOENT;
    CHECK(!fail_errno(&e, "a.bin", "%ls", bad) &&
              !strcmp(e.text, "a.bin: : No such file or directory"), "%s", e.text);
    CHECK(!fail(&e, "a.bin", "size", "%ls", bad) && !strcmp(e.text, "a.bin: size: "), "%s", e.text);
    Buffer b = {0};
    CHECK(!buffer_printf(&b, &e, "%ls", bad) && b.n == 0, "a buffer takes no such text either");
    CHECK(!strcmp(e.text, "buffer: text cannot be formatted"), "%s", e.text);
}

static void test_memory(void) {
    Error e;
    CHECK(!alloc_array(&e, "w", SIZE_MAX / 2, 3), "overflow refused");
    CHECK(strstr(e.text, "w: out of memory"), "%s", e.text);
    CHECK(!grow_array(&e, "w", NULL, SIZE_MAX / 2, 3), "overflow refused");
    CHECK(!alloc_aligned(&e, "w", SIZE_MAX / 2, 3), "overflow refused");
    unsigned char *p = alloc_aligned(&e, "w", 3, 1);
    CHECK(p && (uintptr_t)p % 64 == 0 && p[0] == 0 && p[2] == 0, "aligned and zero");
    free(p);
    size_t n;
    CHECK(round_up_ok(65, 64, &n) && n == 128, "round up");
    CHECK(round_up_ok(128, 64, &n) && n == 128, "round up");
    CHECK(!round_up_ok(SIZE_MAX - 3, 64, &n), "round up overflows");
}

static void test_numbers(void) {
    static const char *good[] = {"0", "-0", "12", "-7", "9223372036854775807",
                                 "-9223372036854775808", "007"};
    static const char *bad[] = {"", "-", "+1", " 1", "1 ", "1x", "0x1", "1e3", "1.0", "--1",
                                "9223372036854775808", "-9223372036854775809",
                                "99999999999999999999"};
    int64_t i;
    for (size_t k = 0; k < sizeof good / sizeof *good; k++)
        CHECK(parse_int(good[k], INT64_MIN, INT64_MAX, &i) && i == strtoll(good[k], NULL, 10),
              "accept %s", good[k]);
    for (size_t k = 0; k < sizeof bad / sizeof *bad; k++)
        CHECK(!parse_int(bad[k], INT64_MIN, INT64_MAX, &i), "refuse \"%s\"", bad[k]);
    CHECK(!parse_int("11", 0, 10, &i) && !parse_int("-1", 0, 10, &i), "range");

    static const char *reals[] = {"0", "-0.5", ".7", "5.", "1e3", "1E-3", "1.5e+2", "1e308"};
    static const char *junk[] = {"", ".", "-", "+1", "nan", "inf", "-inf", "0x1p3", "1e", "1e+",
                                 "1e999", "1,5", " 1", "1 ", "1..2", "e5", "1f"};
    double d;
    for (size_t k = 0; k < sizeof reals / sizeof *reals; k++)
        CHECK(parse_real(reals[k], -1e308, 1e308, &d) && d == strtod(reals[k], NULL),
              "accept %s", reals[k]);
    for (size_t k = 0; k < sizeof junk / sizeof *junk; k++)
        CHECK(!parse_real(junk[k], -1e308, 1e308, &d), "refuse \"%s\"", junk[k]);
    CHECK(!parse_real("1.1", 0, 1, &d) && !parse_real("-0.1", 0, 1, &d), "range");
}

static void test_buffer(void) {
    Error e;
    Buffer b = {0};
    for (int i = 0; i < 1000; i++) CHECK(buffer_printf(&b, &e, "%d,", i % 10), "%s", e.text);
    CHECK(b.n == 2000 && b.data[2000] == 0 && !strncmp(b.data + 1980, "0,1,2,", 6), "contents");
    CHECK(!buffer_add(&b, "x", SIZE_MAX - 10, &e) && b.n == 2000, "overflow refused");
    CHECK(!buffer_add(&b, "x", SIZE_MAX - 2000, &e) && b.n == 2000, "no place for the NUL");
    buffer_free(&b);
    CHECK(b.data == NULL && buffer_puts(&b, "", &e) && b.data && b.data[0] == 0, "empty text");
    buffer_free(&b);
    Ids ids = {0};
    for (int i = 0; i < 1000; i++) CHECK(ids_add(&ids, i * 7, &e), "%s", e.text);
    CHECK(ids.n == 1000 && ids.ids[999] == 6993, "ids");
    ids_free(&ids);
}

/* Every code point there and back; then what must be refused. */
static void test_utf8(void) {
    long wrong = 0;
    for (int32_t cp = 0; cp <= 0x10ffff; cp++) {
        char out[4];
        int32_t back;
        int n = utf8_encode(cp, out);
        bool surrogate = cp >= 0xd800 && cp <= 0xdfff;
        int m = utf8_decode(out, (size_t)n, &back);
        wrong += surrogate ? !(m == 1 && back == -1) : !(m == n && back == cp);
        if (n > 1) wrong += !(utf8_decode(out, (size_t)n - 1, &back) == 1 && back == -1);
        if (!surrogate)
            for (int k = 1; k <= n; k++)
                wrong += utf8_complete(out, (size_t)k) != (k == n ? (size_t)n : 0);
    }
    CHECK(wrong == 0, "%ld code points", wrong);
    static const char *bad[] = {"\x80", "\xc0\x80", "\xc1\xbf", "\xe0\x80\x80", "\xe0\x9f\xbf",
                                "\xed\xa0\x80", "\xf0\x8f\xbf\xbf", "\xf4\x90\x80\x80",
                                "\xf5\x80\x80\x80", "\xff", "\xc3(", "\xe2\x82(", "\xf0\x9f\x98("};
    for (size_t k = 0; k < sizeof bad / sizeof *bad; k++) {
        int32_t cp;
        CHECK(utf8_decode(bad[k], strlen(bad[k]), &cp) == 1 && cp == -1, "bad sequence %zu", k);
        CHECK(utf8_complete(bad[k], strlen(bad[k])) == strlen(bad[k]), "can be shown %zu", k);
    }
    CHECK(utf8_complete("ab\xf0\x9f\x98", 5) == 2, "three bytes held back");
    CHECK(utf8_complete("ab\xed\xa0", 4) == 4, "a surrogate's start is not held back");
    CHECK(utf8_complete("", 0) == 0, "nothing");
}

static void test_crc(void) {
    Crc c;
    crc_init(&c);
    unsigned char b[48];
    CHECK(crc_update(&c, 0, "123456789", 9) == 0xe3069283u, "check value");
    memset(b, 0, 32); /* RFC 3720 B.4 */
    CHECK(crc_update(&c, 0, b, 32) == 0x8a9136aau, "32 zeros");
    memset(b, 0xff, 32);
    CHECK(crc_update(&c, 0, b, 32) == 0x62a8ab43u, "32 ones");
    for (int i = 0; i < 32; i++) b[i] = (unsigned char)i;
    CHECK(crc_update(&c, 0, b, 32) == 0x46dd794eu, "ascending");
    for (int i = 0; i < 32; i++) b[i] = (unsigned char)(31 - i);
    CHECK(crc_update(&c, 0, b, 32) == 0x113fdb5cu, "descending");
    uint64_t seed = 1;
    for (int i = 0; i < 48; i++) b[i] = (unsigned char)test_random(&seed);
    for (size_t cut = 0; cut <= 48; cut++)
        CHECK(crc_update(&c, crc_update(&c, 0, b, cut), b + cut, 48 - cut) ==
                  crc_update(&c, 0, b, 48), "continued at %zu", cut);
}

static bool file_is(const char *path, const char *text) {
    Error e;
    Buffer b = {0};
    bool same = read_file(path, 1000, &b, &e) && b.n == strlen(text) && !memcmp(b.data, text, b.n);
    buffer_free(&b);
    return same;
}

static int entries(const char *folder) {
    char command[200];
    int n = -1;
    snprintf(command, sizeof command, "ls -A %s | wc -l", folder);
    FILE *p = popen(command, "r");
    if (p && fscanf(p, "%d", &n) != 1) n = -1;
    if (p) pclose(p);
    return n;
}

static void test_newfile(const char *folder) {
    Error e;
    NewFile f;
    char path[300], name[260];
    snprintf(path, sizeof path, "%s/out", folder);
    CHECK(newfile_open(&f, path, &e), "%s", e.text);
    CHECK(newfile_write(&f, "hello world", 11, &e) && f.pos == 11, "write");
    CHECK(newfile_pwrite(&f, "J", 1, 0, &e) && f.pos == 11, "pwrite");
    CHECK(access(path, F_OK) != 0, "absent before commit");
    CHECK(newfile_commit(&f, &e) && file_is(path, "Jello world"), "complete after commit");
    newfile_abort(&f);
    CHECK(file_is(path, "Jello world"), "abort after commit does nothing");

    CHECK(newfile_open(&f, path, &e) && newfile_write(&f, "new", 3, &e), "replace");
    newfile_abort(&f);
    CHECK(file_is(path, "Jello world") && entries(folder) == 1, "abort leaves the old file alone");
    CHECK(newfile_open(&f, path, &e) && newfile_write(&f, "new", 3, &e), "replace");
    CHECK(newfile_commit(&f, &e) && file_is(path, "new") && entries(folder) == 1, "replaced");
    CHECK(!newfile_pwrite(&f, "x", 1, UINT64_MAX, &e), "offset overflow");
    CHECK(!newfile_pwrite(&f, "xy", 2, INT64_MAX - 1, &e), "its end overflows");
    CHECK(may_replace(path, "ne", &e) && may_replace("no/such", "ne", &e), "%s", e.text);
    CHECK(may_replace(folder, "ne", &e) && may_replace("/dev/null", "ne", &e), "%s", e.text);
    CHECK(!may_replace(path, "now", &e) && strstr(e.text, "left as it is"), "%s", e.text);
    CHECK(!may_replace(path, "news", &e) && file_is(path, "new"), "shorter than its beginning");
    CHECK(truncate(path, 0) == 0 && may_replace(path, "news", &e), "an empty file");

    char *link = NULL;
    struct stat st;
    CHECK(asprintf(&link, "%s/link", folder) > 0 && symlink("out", link) == 0, "a link");
    CHECK(newfile_open(&f, link, &e) && newfile_write(&f, "through", 7, &e), "%s", e.text);
    CHECK(newfile_commit(&f, &e) && file_is(path, "through") && entries(folder) == 2, "its file");
    CHECK(lstat(link, &st) == 0 && S_ISLNK(st.st_mode), "a link stays one");
    CHECK(unlink(path) == 0 && !newfile_open(&f, link, &e), "a link to nothing");
    CHECK(strstr(e.text, "/link: cannot follow the link: No such file"), "%s", e.text);
    unlink(link);
    free(link);

    CHECK(!newfile_open(&f, folder, &e) && strstr(e.text, "is a folder"), "%s", e.text);
    newfile_abort(&f);
    CHECK(!newfile_open(&f, "/dev/null", &e) && strstr(e.text, "not a regular"), "%s", e.text);
    CHECK(!newfile_open(&f, "no/such/folder/x", &e), "missing folder");
    CHECK(strstr(e.text, "No such file"), "%s", e.text);
    CHECK(!newfile_open(&f, "", &e), "empty name");
    memset(name, 'n', 255);
    name[255] = 0;
    char *longest = NULL;
    CHECK(asprintf(&longest, "%s/%s", folder, name) > 0, "memory");
    CHECK(newfile_open(&f, longest, &e) && newfile_commit(&f, &e), "longest name: %s", e.text);
    CHECK(file_is(longest, ""), "an empty file is a file");
    unlink(longest);
    free(longest);
    unlink(path);
}

/* Temporary files of a process that died are left alone: the next free name is taken, of a hundred
 * at most. Without a folder in its name a file is made in this one. */
static void test_leftovers(const char *folder) {
    Error e;
    NewFile f;
    char here[4096], name[64];
    CHECK(getcwd(here, sizeof here) && chdir(folder) == 0, "%s", folder);
    for (int i = 0; i < 100; i++) {
        snprintf(name, sizeof name, ".out.tmp-%ld-%d", (long)getpid(), i);
        int fd = open(name, O_WRONLY | O_CREAT | O_EXCL, 0600);
        CHECK(fd >= 0 && close(fd) == 0, "%s", name);
    }
    CHECK(!newfile_open(&f, "out", &e) && strstr(e.text, "out: cannot write here: "),
          "%s", e.text);
    CHECK(unlink(name) == 0 && newfile_open(&f, "out", &e), "the last name is free: %s", e.text);
    CHECK(newfile_write(&f, "new", 3, &e) && newfile_commit(&f, &e) && file_is("out", "new"), "%s",
          e.text);
    for (int i = 0; i < 99; i++) {
        snprintf(name, sizeof name, ".out.tmp-%ld-%d", (long)getpid(), i);
        CHECK(unlink(name) == 0, "%s is left alone", name);
    }
    CHECK(unlink("out") == 0 && chdir(here) == 0, "back");
}

/* A write that fails half-way (here: a limit on file sizes) is named and leaves nothing. */
static void test_full(const char *folder) {
    Error e;
    NewFile f;
    char path[300], block[5000] = {0};
    struct rlimit old, small;
    snprintf(path, sizeof path, "%s/full", folder);
    CHECK(getrlimit(RLIMIT_FSIZE, &old) == 0, "getrlimit");
    small = old;
    small.rlim_cur = 3000;
    signal(SIGXFSZ, SIG_IGN);
    CHECK(setrlimit(RLIMIT_FSIZE, &small) == 0, "setrlimit");
    CHECK(newfile_open(&f, path, &e), "%s", e.text);
    CHECK(!newfile_write(&f, block, sizeof block, &e), "beyond the limit");
    CHECK(strstr(e.text, "/full: cannot write at byte 3000: "), "%s", e.text);
    newfile_abort(&f);
    CHECK(setrlimit(RLIMIT_FSIZE, &old) == 0 && entries(folder) == 0, "nothing left");
}

static void test_reading(const char *folder) {
    Error e;
    Map m;
    Buffer b = {0};
    char path[300];
    snprintf(path, sizeof path, "%s/in", folder);
    CHECK(!map_open(&m, path, &e) && strstr(e.text, "No such file"), "%s", e.text);
    CHECK(!map_open(&m, folder, &e) && strstr(e.text, "not a regular file"), "%s", e.text);
    CHECK(!map_open(&m, "/dev/zero", &e) && strstr(e.text, "not a regular file"), "%s", e.text);
    CHECK(!read_file(folder, 10, &b, &e), "a folder cannot be read");
    CHECK(mkfifo(path, 0600) == 0, "mkfifo");
    CHECK(!map_open(&m, path, &e) && strstr(e.text, "not a regular file"), "%s", e.text);
    unlink(path);

    int fd = open(path, O_WRONLY | O_CREAT, 0600);
    CHECK(fd >= 0, "create");
    CHECK(!map_open(&m, path, &e) && strstr(e.text, ": empty"), "%s", e.text);
    CHECK(write(fd, "0123456789", 10) == 10 && close(fd) == 0, "write");
    CHECK(map_open(&m, path, &e) && m.bytes == 10 && !memcmp(m.data, "0123456789", 10), "map");
    map_close(&m);
    map_close(&m);
    CHECK(m.data == NULL, "closed");
    CHECK(read_file(path, 10, &b, &e) && b.n == 10 && b.data[10] == 0, "read at the limit");
    buffer_free(&b);
    CHECK(!read_file(path, 9, &b, &e) && b.data == NULL, "read above the limit");
    CHECK(strstr(e.text, "at most 9 bytes"), "%s", e.text);
    unlink(path);
}

int main(void) {
    char folder[] = "/tmp/test_base.XXXXXX";
    test_errors();
    test_memory();
    test_numbers();
    test_buffer();
    test_utf8();
    test_crc();
    CHECK(mkdtemp(folder) != NULL, "mkdtemp");
    test_newfile(folder);
    test_leftovers(folder);
    test_full(folder);
    test_reading(folder);
    CHECK(rmdir(folder) == 0, "nothing is left behind");
    double t = now_seconds();
    CHECK(t > 0 && now_seconds() >= t, "clock");
    return test_end("base");
}
