/* test_terminal.c: the chat as a person meets it, on a pseudo-terminal: the prompt, answers,
 * commands, several lines, ^C and ^D. The program is named by the environment's QWEN (default
 * ./qwen); the model is tiny.h's. Nothing here waits for a time to pass: every step ends when what
 * it waits for is there. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <termios.h>

#include "tiny.h"

#define PATIENCE 60.0 /* seconds after which something that does not come is missing */
#define PROMPT ">>> "

typedef struct {
    int fd; /* of the terminal's other end */
    pid_t pid;
    Buffer out;  /* everything shown so far */
    size_t seen; /* what was waited for already */
} Terminal;

static char folder[300];
static const char *program;

static const char *in_folder(const char *name) {
    static char room[4][700];
    static unsigned turn;
    char *out = room[turn++ % 4];
    snprintf(out, sizeof room[0], "%s/%s", folder, name);
    return out;
}

static void remove_folder(void) {
    DIR *d = opendir(folder);
    for (struct dirent *f; d && (f = readdir(d));)
        if (f->d_name[0] != '.') unlink(in_folder(f->d_name));
    if (d) closedir(d);
    rmdir(folder);
}

/* ---- A terminal with the program on it ------------------------------------------------------- */

/* Without echo, so that only the program's own text is seen; a carriage return stays one. */
static bool set_plain(int fd) {
    struct termios t;
    if (tcgetattr(fd, &t) != 0) return false;
    t.c_lflag &= ~(tcflag_t)ECHO;
    t.c_iflag &= ~(tcflag_t)(ICRNL | IXON);
    t.c_oflag &= ~(tcflag_t)OPOST;
    return tcsetattr(fd, TCSANOW, &t) == 0;
}

/* argv: of the program, NULL at its end. */
static bool terminal_open(Terminal *t, char *const *argv) {
    *t = (Terminal){.fd = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC), .pid = -1};
    if (t->fd < 0 || grantpt(t->fd) != 0 || unlockpt(t->fd) != 0) return false;
    int other = open(ptsname(t->fd), O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (other < 0 || !set_plain(other)) return false;
    t->pid = fork();
    if (t->pid == 0) {
        setsid();
        signal(SIGINT, SIG_DFL); /* the tests may run in the background, where it is ignored */
        if (ioctl(other, TIOCSCTTY, 0) == 0 && dup2(other, 0) == 0 && dup2(other, 1) == 1 &&
            dup2(other, 2) == 2)
            execv(argv[0], argv);
        _exit(127);
    }
    close(other);
    return t->pid > 0;
}

/* Read more of what is shown. False when nothing more comes. */
static bool terminal_read(Terminal *t, double until) {
    char bytes[4096];
    double left = until - now_seconds();
    struct pollfd p = {.fd = t->fd, .events = POLLIN};
    if (left <= 0 || poll(&p, 1, (int)(left * 1e3) + 1) <= 0) return false;
    ssize_t n = read(t->fd, bytes, sizeof bytes);
    Error e;
    return n > 0 && buffer_add(&t->out, bytes, (size_t)n, &e);
}

/* Wait until `text` is shown behind what was seen; *before, where wanted, gets what stands between.
 */
static bool expect(Terminal *t, const char *text, char *before, size_t room) {
    double until = now_seconds() + PATIENCE;
    for (;;) {
        char *from = t->out.data ? t->out.data + t->seen : NULL;
        char *hit = from ? memmem(from, t->out.n - t->seen, text, strlen(text)) : NULL;
        if (hit) {
            if (before) snprintf(before, room, "%.*s", (int)(hit - from), from);
            t->seen = (size_t)(hit - t->out.data) + strlen(text);
            return true;
        }
        if (terminal_read(t, until)) continue;
        CHECK(0, "\"%s\" is not shown, but:\n%.*s", text, from ? (int)(t->out.n - t->seen) : 0,
              from ? from : "");
        return false;
    }
}

/* Type n bytes. The other side is read meanwhile: a terminal that nobody reads takes no input. */
static void type_bytes(Terminal *t, const char *bytes, size_t n) {
    double until = now_seconds() + PATIENCE;
    while (n > 0 && now_seconds() < until) {
        struct pollfd p = {.fd = t->fd, .events = POLLIN | POLLOUT};
        poll(&p, 1, 1000);
        if (p.revents & POLLIN) terminal_read(t, until);
        if (!(p.revents & POLLOUT)) continue;
        ssize_t some = write(t->fd, bytes, min_size(n, 1024));
        if (some > 0) bytes += some, n -= (size_t)some;
    }
    CHECK(n == 0, "the terminal takes what is typed");
}

static void type_line(Terminal *t, const char *line) {
    type_bytes(t, line, strlen(line));
    type_bytes(t, "\n", 1);
}

/* Type a line and wait for the next prompt; reply: what was shown before it. */
static bool ask(Terminal *t, const char *line, char reply[4096]) {
    type_line(t, line);
    return expect(t, PROMPT, reply, 4096);
}

/* Type a line; `want` must be in what is shown before the next prompt. */
static void ask_for(Terminal *t, const char *line, const char *want) {
    char reply[4096] = "";
    bool ok = ask(t, line, reply);
    CHECK(ok && strstr(reply, want), "%s shows \"%s\", not:\n%s", line, want, reply);
}

/* Wait for the program's end; its exit status, or 128 and the signal that ended it. */
static int terminal_close(Terminal *t) {
    int status = 0;
    double until = now_seconds() + PATIENCE;
    while (terminal_read(t, until)) {
    }
    if (now_seconds() >= until) {
        CHECK(0, "the program does not end; it shows:\n%.*s", (int)t->out.n, t->out.data);
        kill(t->pid, SIGKILL);
    }
    waitpid(t->pid, &status, 0);
    close(t->fd);
    buffer_free(&t->out);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

/* Start a chat with the model, one thread, and up to twelve words of options. */
static bool chat_open(Terminal *t, const char *model, const char *const *options) {
    char path[700], *argv[17] = {(char *)program, path, "-t", "1"};
    snprintf(path, sizeof path, "%s", in_folder(model));
    for (int i = 0; i < 12 && options[i]; i++) argv[4 + i] = (char *)options[i];
    bool ok = terminal_open(t, argv);
    CHECK(ok, "a terminal: %s", strerror(errno));
    return ok && expect(t, "/? lists the commands", NULL, 0) && expect(t, PROMPT, NULL, 0);
}

static void chat_close(Terminal *t) {
    type_line(t, "/bye");
    int status = terminal_close(t);
    CHECK(status == 0, "/bye ends with status 0, not %d", status);
}

#define CHAT(t, model, ...)                                                                        \
    Terminal t;                                                                                    \
    if (!chat_open(&t, model, (const char *const[]){__VA_ARGS__, NULL})) return

/* The numbers of the statistics line. */
static void read_stats(const char *text, size_t *prompt, size_t *cached, size_t *answer) {
    const char *at = strstr(text, "prompt ");
    *prompt = *cached = *answer = 0;
    int n = at ? sscanf(at, "prompt %zu tokens (%zu cached)", prompt, cached) : 0;
    at = at ? strstr(at, "| answer ") : NULL;
    n += at ? sscanf(at, "| answer %zu tokens", answer) : 0;
    CHECK(n == 3, "statistics in \"%s\"", text);
}

/* Does the file hold this text? */
static void check_file(const char *name, const char *want) {
    Buffer b = {0};
    Error e;
    bool ok = read_file(in_folder(name), 1 << 20, &b, &e);
    CHECK(ok && memmem(b.data, b.n, want, strlen(want)), "%s holds %s, not:\n%.*s", name, want,
          (int)b.n, b.data ? b.data : "");
    buffer_free(&b);
}

static void save_to(Terminal *t, const char *name) {
    char line[800];
    snprintf(line, sizeof line, "/save %s", in_folder(name));
    ask_for(t, line, "saved");
}

static void save_nothing(Terminal *t) {
    char line[800];
    snprintf(line, sizeof line, "/save %s", in_folder("nothing.json"));
    ask_for(t, line, "nothing was said yet");
}

static void load_from(Terminal *t, const char *name, const char *want) {
    char line[800];
    snprintf(line, sizeof line, "/load \"%s\"", in_folder(name));
    ask_for(t, line, want);
}

/* ---- What is tested -------------------------------------------------------------------------- */

/* Two turns: the second reads nothing again; saved and loaded it goes on in the same words. */
static void test_turns(void) {
    char first[4096], again[4096], second[4096], loaded[4096];
    size_t prompt, cached, answer, prompt2, cached2, answer2;
    CHAT(t, "endless.bin", "--temp", "0", "-n", "20");
    ask_for(&t, "/set verbose", "");
    ask(&t, "hello", first);
    read_stats(first, &prompt, &cached, &answer);
    CHECK(cached == 0 && answer == 20 && prompt > 20, "first: %zu, %zu, %zu", prompt, cached,
          answer);
    save_to(&t, "turn.json");
    ask_for(&t, "/set verbose", "");
    ask(&t, "and then?", second);
    read_stats(second, &prompt2, &cached2, &answer2);
    CHECK(cached2 == prompt + answer - 1, "the second turn reuses %zu + %zu - 1 tokens, not %zu",
          prompt, answer, cached2);
    ask_for(&t, "/set quiet", "");
    load_from(&t, "turn.json", "loaded");
    ask(&t, "and then?", loaded);
    CHECK(strlen(loaded) > 20 && strncmp(loaded, second, 20) == 0, "loaded, it says\n%s not\n%s",
          loaded, second);
    ask_for(&t, "/clear", "");
    ask(&t, "hello", again);
    CHECK(strncmp(again, first, 20) == 0, "cleared, it says\n%s not\n%s", again, first);
    chat_close(&t);

    CHAT(u, "endless.bin", "--temp", "0", "-n", "20");
    load_from(&u, "turn.json", "loaded");
    ask(&u, "and then?", loaded);
    CHECK(strncmp(loaded, second, 20) == 0, "another run says\n%s not\n%s", loaded, second);
    chat_close(&u);
}

/* An answer that the model ended itself stays as the model has it: the next turn reads only what is
 * new, and what was saved leads to the same words. */
static void test_ended_answer(void) {
    char first[4096], second[4096], loaded[4096];
    size_t prompt, cached, answer, prompt2, cached2, answer2;
    CHAT(t, "ending.bin", "--temp", "0", "--no-loop-guard");
    ask_for(&t, "/set verbose", "");
    ask(&t, "hello", first);
    CHECK(strstr(first, "| stop |"), "the model ends its answer: %s", first);
    read_stats(first, &prompt, &cached, &answer);
    save_to(&t, "ended.json");
    ask(&t, "more", second);
    read_stats(second, &prompt2, &cached2, &answer2);
    CHECK(cached2 == prompt + answer - 1, "reused: %zu of %zu + %zu", cached2, prompt, answer);
    load_from(&t, "ended.json", "loaded");
    ask(&t, "more", loaded);
    size_t n = strcspn(second, "\n");
    CHECK(n > 0 && strncmp(loaded, second, n) == 0, "loaded, it says\n%s not\n%s", loaded, second);
    chat_close(&t);
}

static void test_seeds(void) {
    char one[4096], two[4096], three[4096];
    CHAT(t, "endless.bin", "-n", "20", "--seed", "7", "--temp", "0.5");
    ask_for(&t, "/set parameter temperature 2", "");
    ask(&t, "hello", one);
    ask_for(&t, "/clear", "");
    ask(&t, "hello", two);
    ask_for(&t, "/clear", "");
    ask_for(&t, "/set parameter seed 8", "");
    ask(&t, "hello", three);
    CHECK(strcmp(one, two) == 0, "the same seed says\n%s and\n%s", one, two);
    CHECK(strcmp(one, three) != 0, "another seed says the same: %s", one);
    chat_close(&t);
}

static void test_commands(void) {
    char reply[4096];
    CHAT(t, "endless.bin", "-n", "5", "-s", "Be \"brief\".");
    ask_for(&t, "/?", "/set parameter NAME VALUE");
    ask_for(&t, "/help", "/save FILE");
    ask_for(&t, "/show system", "Be \"brief\".\n");
    ask_for(&t, "/set system \"Be long.\"  ", "");
    ask_for(&t, "/show system", "Be long.\n");
    ask_for(&t, "/show info", "tiny (q8)");
    ask_for(&t, "/show template", "Qwen2.5");
    ask_for(&t, "/show", "expected info, parameters, system or template");
    ask_for(&t, "/show nothing", "expected info");
    ask_for(&t, "/set", "expected system, parameter");
    ask_for(&t, "/set parameter", "expected a name and a value");
    ask_for(&t, "/set parameter top_k 7", "");
    ask_for(&t, "/set parameter stop \"two words\"", "");
    ask_for(&t, "/show parameters", "top_k 7\n");
    ask_for(&t, "/show parameters", "stop \"two words\"\n");
    ask_for(&t, "/set parameter stop more", "");
    ask_for(&t, "/show parameters", "stop \"two words\"\nstop \"more\"\n");
    ask_for(&t, "/set parameter stop", "");
    ask(&t, "/show parameters", reply);
    CHECK(!strstr(reply, "stop"), "stop strings are forgotten: %s", reply);
    ask_for(&t, "/set parameter temperature 300", "expected a number from 0 to 100, got \"300\"");
    ask_for(&t, "/set parameter num_ctx 100", "is chosen when the program starts, with -c");
    ask_for(&t, "/set parameter mirostat 1", "no such parameter");
    ask_for(&t, "/nonsense", "/nonsense: no such command");
    ask_for(&t, "/save", "without its argument");
    ask_for(&t, "/save /nonexistent/folder/file", "/nonexistent/folder");
    ask(&t, "", reply);
    CHECK(reply[0] == 0, "an empty line is not answered: %s", reply);
    ask(&t, "  ", reply);
    CHECK(reply[0] == 0, "blanks are not answered: %s", reply);
    chat_close(&t);
}

/* The model's own system message is shown, until another takes its place, be it an empty one. */
static void test_system(void) {
    char reply[4096];
    CHAT(t, "endless.bin", "-n", "5");
    ask_for(&t, "/show system", "You are tiny.\n");
    ask_for(&t, "/set system", "expected a text (\"\" for an empty one)");
    ask_for(&t, "/show system", "You are tiny.\n");
    ask_for(&t, "/set system \"\"", "");
    ask(&t, "/show system", reply);
    CHECK(strcmp(reply, "\n") == 0, "an empty system message is shown as \"%s\"", reply);
    chat_close(&t);
}

/* As many stop strings as there is room for, and then no more, until they are forgotten. */
static void test_many_stops(void) {
    char line[80], reply[4096];
    CHAT(t, "silent.bin", "-n", "5", "--stop", "of the command line");
    ask_for(&t, "/show system", "none\n");
    for (int i = 0; i < 16; i++) {
        snprintf(line, sizeof line, "/set parameter stop no%d", i);
        ask_for(&t, line, i < 15 ? "" : "stop: given more than 16 times");
    }
    ask_for(&t, "/show parameters", "stop \"of the command line\"\nstop \"no0\"\n");
    ask(&t, "/show parameters", reply);
    CHECK(strstr(reply, "no14") && !strstr(reply, "no15"), "16 stop strings: %s", reply);
    ask_for(&t, "/set parameter stop", "");
    ask_for(&t, line, "");
    ask_for(&t, "/show parameters", "\nstop \"no15\"\n");
    chat_close(&t);
}

/* A stop string is not shown, nor is what stands behind it. */
static void test_stop(void) {
    char whole[4096], cut[4096], line[80];
    CHAT(t, "endless.bin", "--temp", "0", "-n", "30");
    ask(&t, "hello", whole);
    snprintf(line, sizeof line, "/set parameter stop %.3s", whole + 10);
    ask_for(&t, "/clear", "");
    ask_for(&t, line, "");
    ask(&t, "hello", cut);
    CHECK(strncmp(cut, whole, 10) == 0 && cut[10] == '\n', "before %.3s stands %s, not %s",
          whole + 10, whole, cut);
    /* ... and the model does not have it either: what was saved is as many tokens. */
    ask(&t, "/show info", whole);
    save_to(&t, "stopped.json");
    load_from(&t, "stopped.json", "loaded");
    ask(&t, "/show info", cut);
    CHECK(strcmp(cut, whole) == 0, "loaded, it shows\n%s not\n%s", cut, whole);
    chat_close(&t);
}

/* What is typed arrives as it was typed: several lines, slashes in them, carriage returns, NULs,
 * bytes that are no UTF-8. The saved conversation shows it. */
static void test_typing(void) {
    CHAT(t, "endless.bin", "--temp", "0", "-n", "2");
    type_line(&t, "\"\"\"");
    expect(&t, "... ", NULL, 0);
    type_line(&t, "one");
    type_line(&t, "");
    type_line(&t, "/bye");
    ask_for(&t, "\"\"\"", "");
    ask_for(&t, "\"\"\"a \"\"\" b\"\"\"", "");
    type_line(&t, "\"\"\"/clear");
    ask_for(&t, "two\"\"\" ", "");
    ask_for(&t, "carriage\r", "");
    type_bytes(&t, "n\0l\n", 4);
    expect(&t, PROMPT, NULL, 0);
    ask_for(&t, "bad \xff\xc3 good \xc3\xa4", "");
    save_to(&t, "typed.json");
    check_file("typed.json", "\"content\": \"one\\n\\n/bye\"");
    check_file("typed.json", "\"content\": \"a \\\"\\\"\\\" b\"");
    check_file("typed.json", "\"content\": \"/clear\\ntwo\"");
    check_file("typed.json", "\"content\": \"carriage\"");
    check_file("typed.json", "\"content\": \"n\\u0000l\"");
    check_file("typed.json", "\"content\": \"bad \xef\xbf\xbd\xef\xbf\xbd good \xc3\xa4\"");
    load_from(&t, "typed.json", "loaded");
    ask_for(&t, "up \33[A", "not taken: arrow keys");
    type_line(&t, "/set system \"\"\"  first");
    ask_for(&t, "\"second\"\"\"\"", "");
    ask_for(&t, "/show system", "  first\n\"second\"\n");
    ask_for(&t, "and?", "");
    save_to(&t, "typed.json");
    check_file("typed.json", "{\"role\": \"system\", \"content\": \"  first\\n\\\"second\\\"\"}");
    chat_close(&t);
}

/* A terminal takes lines of limited length: what is lost is not passed over in silence. */
static void test_long_lines(void) {
    char line[6000], reply[4096];
    memset(line, 'x', sizeof line);
    CHAT(t, "endless.bin", "--temp", "0", "-n", "2");
    line[5000] = 0;
    ask_for(&t, line, "not taken: a terminal cuts lines at 4096 bytes");
    type_line(&t, "\"\"\"");
    type_line(&t, "start");
    type_line(&t, line);
    ask_for(&t, "\"\"\"", "not taken");
    save_nothing(&t); /* not a part of it either */
    line[4000] = 0;
    ask(&t, line, reply);
    CHECK(!strstr(reply, "not taken"), "4000 bytes are taken: %s", reply);
    save_to(&t, "long.json");
    check_file("long.json", "\"content\": \"xxx");
    chat_close(&t);
}

static void write_file(const char *name, const char *text) {
    FILE *f = fopen(in_folder(name), "w");
    CHECK(f && fputs(text, f) >= 0 && fclose(f) == 0, "%s: %s", name, strerror(errno));
}

static void test_files(void) {
    char reply[4096], info[4096];
    size_t prompt, cached, answer;
    CHAT(t, "endless.bin", "--temp", "0", "-n", "5");
    write_file("junk.json", "[{\"role\": \"user\", \"content\": ");
    write_file("tools.json", "{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}], "
                             "\"tools\": [{\"name\": \"f\"}]}");
    write_file("untooled.json", "{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}], "
                                "\"tools\": []}");
    write_file("role.json", "[{\"role\": \"robot\", \"content\": \"a\"}]");
    write_file("marked.json", "\xef\xbb\xbf[{\"role\": \"user\", \"content\": \"a\"}]");
    ask_for(&t, "/set verbose", "");
    save_nothing(&t);
    ask_for(&t, "hello", "(0 cached)");
    load_from(&t, "junk.json", "junk.json");
    load_from(&t, "missing.json", "missing.json");
    load_from(&t, "tools.json", "tools: expected none");
    load_from(&t, "role.json", "messages[0].role: expected system");
    ask(&t, "more", reply);
    read_stats(reply, &prompt, &cached, &answer);
    CHECK(cached > 30, "the conversation is kept: %s", reply);
    load_from(&t, "marked.json", "loaded");
    load_from(&t, "untooled.json", "loaded");
    write_file("parts.json",
               "[{\"role\": \"developer\", \"content\": [{\"type\": \"text\", \"text\": \"Be \"}, "
               "{\"type\": \"text\", \"text\": \"odd.\"}]}]");
    load_from(&t, "parts.json", "loaded");
    ask_for(&t, "/show system", "Be odd.\n");
    ask_for(&t, "/clear", "");
    ask_for(&t, "/show system", "Be odd.\n");
    /* Nothing was said yet: a system message replaces that of the file. */
    load_from(&t, "parts.json", "loaded");
    ask_for(&t, "/set system Be even.", "");
    save_to(&t, "parts.json");
    check_file("parts.json", "[{\"role\": \"system\", \"content\": \"Be even.\"}]");
    /* A NUL ends nothing, and what was saved as it had been written is saved again. */
    write_file("nul.json", "[{\"content\": \"A\\u0000B\", \"role\": \"system\"}]");
    load_from(&t, "nul.json", "loaded");
    ask(&t, "/show info", info);
    ask_for(&t, "/clear", "");
    ask(&t, "/show info", reply);
    CHECK(strcmp(info, reply) == 0, "as many positions as before: %s, then %s", info, reply);
    write_file("nul.json", "[{ \"content\": \"odd\", \"role\": \"user\" }]");
    load_from(&t, "nul.json", "loaded");
    save_to(&t, "again.json");
    save_to(&t, "again.json");
    chat_close(&t);
}

/* What has no place in a chat is refused; what needs a text reads it from the terminal. */
static void test_no_chat(void) {
    static const char *const refused[][2] = {
        {"--raw", NULL}, {"--stats", "s.json"}, {"--cache", "c.bin"}};
    char path[700];
    snprintf(path, sizeof path, "%s", in_folder("endless.bin"));
    for (size_t i = 0; i < sizeof refused / sizeof refused[0]; i++) {
        Terminal t;
        char *argv[] = {(char *)program, path, (char *)refused[i][0], (char *)refused[i][1], NULL};
        if (!terminal_open(&t, argv)) return CHECK(0, "a terminal: %s", strerror(errno));
        expect(&t, "goes with a prompt to answer", NULL, 0);
        int status = terminal_close(&t);
        CHECK(status == 2, "%s: status %d", refused[i][0], status);
    }
    Terminal t;
    char *argv[] = {(char *)program, path, "--tokenize", NULL};
    if (!terminal_open(&t, argv)) return CHECK(0, "a terminal: %s", strerror(errno));
    type_bytes(&t, "AB\n\4", 4);
    expect(&t, "32 33\n", NULL, 0);
    CHECK(terminal_close(&t) == 0, "--tokenize of what is typed");
    Error e;
    snprintf(path, sizeof path, "%s", in_folder("raw.bin"));
    CHECK(tiny_model(path, "q8-raw", TINY_NEVER_ENDS, &e), "raw.bin: %s", e.text);
    argv[2] = NULL;
    if (!terminal_open(&t, argv)) return CHECK(0, "a terminal: %s", strerror(errno));
    expect(&t, "raw.bin: template: this model has none, so it cannot chat", NULL, 0);
    int status = terminal_close(&t);
    CHECK(status == 1, "without a template: status %d", status);
}

/* Many prompts whose answers go into a file: the terminal shows how many are there. */
static void test_prompts(void) {
    char line[2800];
    write_file("lines.txt", "one\ntwo\nthree\n");
    snprintf(line, sizeof line, "exec '%s' '%s' --prompts '%s' -n 3 -t 1 --batch 2 >'%s'", program,
             in_folder("endless.bin"), in_folder("lines.txt"), in_folder("answers"));
    Terminal t;
    char *argv[] = {"/bin/sh", "-c", line, NULL};
    if (!terminal_open(&t, argv)) return CHECK(0, "a terminal: %s", strerror(errno));
    expect(&t, "3 prompts, 2 at a time\n", NULL, 0);
    for (int i = 1; i <= 3; i++) {
        snprintf(line, sizeof line, "\r%d of 3 answers, ", i);
        expect(&t, line, NULL, 0);
    }
    expect(&t, " tokens/s \r    ", NULL, 0);
    CHECK(terminal_close(&t) == 0, "--prompts into a file");
    check_file("answers", "{\"index\":2,");
}

/* A system message that is set in a conversation is one more message of it. */
static void test_late_system(void) {
    CHAT(t, "endless.bin", "--temp", "0", "-n", "5", "-s", "Be kind.");
    ask_for(&t, "hello", "");
    ask_for(&t, "/set system Be brief.", "");
    save_to(&t, "late.json");
    check_file("late.json", "[{\"role\": \"system\", \"content\": \"Be kind.\"},\n"
                            "{\"role\": \"user\", \"content\": \"hello\"}");
    check_file("late.json", "{\"role\": \"system\", \"content\": \"Be brief.\"}]");
    ask_for(&t, "/clear", "");
    load_from(&t, "late.json", "loaded");
    ask_for(&t, "/set system Be long.", "");
    save_to(&t, "late.json");
    check_file("late.json", "\"content\": \"hello\"}");
    check_file("late.json", "{\"role\": \"system\", \"content\": \"Be long.\"}]");
    chat_close(&t);
}

static void lacks(const char *name, const char *unwanted) {
    Buffer b = {0};
    Error e;
    bool ok = read_file(in_folder(name), 1 << 20, &b, &e);
    CHECK(ok && !memmem(b.data, b.n, unwanted, strlen(unwanted)), "%s holds no %s, but:\n%.*s",
          name, unwanted, (int)b.n, b.data ? b.data : "");
    buffer_free(&b);
}

/* The last question again: the answer that a chat with these parameters would have given at first,
 * with nothing read again, and in place of the old one. */
static void test_regen(void) {
    char first[4096], second[4096], other[4096], want[4096], line[80];
    size_t prompt, cached, answer, prompt2, cached2, answer2;
    const char *const again = "there is nothing to answer again";
    CHAT(t, "endless.bin", "--temp", "0", "-n", "20");
    ask_for(&t, "/regen", again);
    ask_for(&t, "/?", "/regen");
    ask_for(&t, "/set verbose", "");
    ask(&t, "hello", first);
    ask(&t, "and then?", second);
    read_stats(second, &prompt, &cached, &answer);
    ask(&t, "/regen", want);
    read_stats(want, &prompt2, &cached2, &answer2);
    CHECK(prompt2 == prompt && cached2 == prompt - 1 && answer2 == answer,
          "again: %zu, %zu, %zu tokens of %zu, %zu", prompt2, cached2, answer2, prompt, answer);
    size_t n = strcspn(second, "\n");
    CHECK(n > 10 && strncmp(want, second, n) == 0, "again, it says\n%s not\n%s", want, second);
    ask_for(&t, "/set quiet", "");
    ask_for(&t, "/set parameter temperature 2", "");
    ask_for(&t, "/set parameter seed 7", "");
    ask(&t, "/regen", other);
    CHECK(strncmp(other, second, n) != 0, "it says the same: %s", other);
    ask(&t, "/regen", want);
    CHECK(strncmp(other, want, n) != 0, "with the next seed it says the same: %s", other);
    ask_for(&t, "/set parameter seed 8", "");
    ask(&t, "/regen", other);
    CHECK(strncmp(other, want, n) == 0, "with seed 8 it says\n%s not\n%s", other, want);
    save_to(&t, "regen.json");
    snprintf(line, sizeof line, "%.8s", second);
    lacks("regen.json", line);
    check_file("regen.json", "{\"role\": \"user\", \"content\": \"and then?\"},\n"
                             "{\"role\": \"assistant\"");
    ask_for(&t, "/set system \"Be brief.\"", "");
    ask_for(&t, "/regen", again);
    ask_for(&t, "/clear", "");
    ask_for(&t, "/regen", again);
    /* What a file ends with: an answer, or a question. */
    load_from(&t, "regen.json", "loaded");
    ask_for(&t, "/set parameter temperature 0", "");
    ask(&t, "/regen", other);
    CHECK(strncmp(other, second, n) == 0, "loaded, it says\n%s not\n%s", other, second);
    save_to(&t, "regen.json");
    check_file("regen.json", "{\"role\": \"user\", \"content\": \"and then?\"},\n"
                             "{\"role\": \"assistant\"");
    ask_for(&t, "/clear", "");
    write_file("regen.json", "[{\"role\": \"user\", \"content\": \"hello\"}]");
    load_from(&t, "regen.json", "loaded");
    ask(&t, "/regen", other);
    n = strcspn(first, "\n");
    CHECK(strncmp(other, first, n) == 0, "loaded, it says\n%s not\n%s", other, first);
    write_file("regen.json", "[{\"role\": \"user\", \"content\": \"a\"}, "
                             "{\"role\": \"system\", \"content\": \"b\"}]");
    load_from(&t, "regen.json", "loaded");
    ask_for(&t, "/regen", again);
    chat_close(&t);
}

/* ^C at the prompt tells how to leave; what was typed is forgotten; a second one leaves. */
static void test_interrupt_prompt(void) {
    char reply[4096];
    CHAT(t, "endless.bin", "--temp", "0", "-n", "5");
    type_bytes(&t, "some words\003", 11);
    expect(&t, "(^C again, ^D or /bye leaves)", NULL, 0);
    expect(&t, PROMPT, NULL, 0);
    ask(&t, "hello", reply);
    CHECK(strlen(reply) >= 5 && !strstr(reply, "^C"), "it answers: %s", reply);
    type_line(&t, "\"\"\"");
    type_line(&t, "begun");
    expect(&t, "... ... ", NULL, 0);
    type_bytes(&t, "\003", 1);
    expect(&t, "leaves)\n" PROMPT, NULL, 0);
    ask_for(&t, "one line", "");
    save_to(&t, "interrupted.json");
    check_file("interrupted.json", "\"content\": \"one line\"");
    type_bytes(&t, "\003", 1);
    expect(&t, "leaves)\n" PROMPT, NULL, 0);
    type_bytes(&t, "\003", 1);
    int status = terminal_close(&t);
    CHECK(status == 130, "the second ^C leaves with status 130, not %d", status);
}

/* ^C stops an answer; what was said of it is part of the conversation. */
static void test_interrupt_answer(void) {
    char reply[4096];
    size_t prompt, cached, answer, read;
    CHAT(t, "endless.bin", "--temp", "1", "--seed", "1", "--no-loop-guard");
    ask_for(&t, "/set verbose", "");
    type_line(&t, "hello");
    double until = now_seconds() + PATIENCE;
    while (t.out.n < t.seen + 100 && terminal_read(&t, until)) {
    }
    type_bytes(&t, "\003", 1);
    expect(&t, "\nprompt ", NULL, 0);
    t.seen -= strlen("prompt ");
    expect(&t, PROMPT, reply, sizeof reply);
    read_stats(reply, &prompt, &read, &answer);
    CHECK(strstr(reply, "| interrupt |") && answer >= 100, "interrupted: %s", reply);
    ask_for(&t, "/set parameter num_predict 3", "");
    ask(&t, "go on", reply);
    read_stats(reply, &read, &cached, &answer);
    CHECK(cached >= prompt + 99, "the conversation goes on: %s", reply);
    chat_close(&t);
}

/* A text that takes seconds to read. */
static void type_long(Terminal *t) {
    char line[3001];
    memset(line, 'y', sizeof line - 1);
    line[sizeof line - 1] = 0;
    type_line(t, "\"\"\"");
    for (int i = 0; i < 10; i++) {
        type_line(t, line);
        expect(t, "... ", NULL, 0);
    }
    type_line(t, "\"\"\"");
}

/* ^C while a long text is read: the conversation is as it was before. How far it is read is said,
 * but not where the line would wrap. */
static void test_interrupt_reading(void) {
    char reply[4096];
    const struct winsize narrow = {.ws_row = 24, .ws_col = 40};
    CHAT(t, "endless.bin", "--temp", "0", "-n", "5");
    type_long(&t);
    expect(&t, "reading the prompt: ", NULL, 0);
    expect(&t, " of 300", NULL, 0);
    type_bytes(&t, "\003", 1);
    expect(&t, "the question is forgotten)", NULL, 0);
    expect(&t, PROMPT, NULL, 0);
    ask_for(&t, "/regen", "there is nothing to answer again");
    CHECK(ioctl(t.fd, TIOCSWINSZ, &narrow) == 0, "a narrow terminal: %s", strerror(errno));
    type_long(&t);
    usleep(700000);
    type_bytes(&t, "\003", 1);
    expect(&t, "the question is forgotten)", reply, sizeof reply);
    CHECK(!strstr(reply, "reading"), "in a narrow terminal: %s", reply);
    expect(&t, PROMPT, NULL, 0);
    save_nothing(&t);
    ask_for(&t, "hello", "\n");
    save_to(&t, "forgotten.json");
    check_file("forgotten.json", "[{\"role\": \"user\", \"content\": \"hello\"}");
    chat_close(&t);
}

/* ... and while /regen reads it: the question stays. */
static void test_interrupt_regen(void) {
    enum { N = 30000 };
    static char question[N + 1], text[N + 100];
    memset(question, 'y', N);
    snprintf(text, sizeof text, "[{\"role\": \"user\", \"content\": \"%s\"}]", question);
    write_file("question.json", text);
    CHAT(t, "endless.bin", "--temp", "0", "-n", "5");
    load_from(&t, "question.json", "loaded");
    type_line(&t, "/regen");
    expect(&t, " of 300", NULL, 0);
    type_bytes(&t, "\003", 1);
    expect(&t, "(stopped before the answer; /regen asks again)", NULL, 0);
    expect(&t, PROMPT, NULL, 0);
    save_to(&t, "stopped.json");
    lacks("stopped.json", "assistant");
    check_file("stopped.json", "yyy\"}]");
    chat_close(&t);
}

static void test_end_of_input(void) {
    CHAT(t, "endless.bin", "--temp", "0", "-n", "5");
    type_line(&t, "\"\"\"in the middle");
    expect(&t, "... ", NULL, 0);
    type_bytes(&t, "\004", 1);
    expect(&t, "(ended after 5 tokens: num_predict)", NULL, 0);
    expect(&t, PROMPT, NULL, 0);
    save_to(&t, "middle.json");
    check_file("middle.json", "\"content\": \"in the middle\"");
    type_bytes(&t, "\004", 1);
    int status = terminal_close(&t);
    CHECK(status == 0, "^D leaves with status 0, not %d", status);
}

/* A context of 128: it fills, it says so, and then takes nothing more until it is cleared. */
static void test_full_context(void) {
    char line[200], reply[4096];
    memset(line, 'z', sizeof line - 1);
    line[sizeof line - 1] = 0;
    CHAT(t, "endless.bin", "--temp", "1", "--seed", "1", "-c", "128");
    ask(&t, line, reply);
    CHECK(strstr(reply, " tokens do not fit in the context of 128"), "refused: %s", reply);
    save_nothing(&t);
    ask(&t, "hello", reply);
    CHECK(strstr(reply, "tokens: the context is full)") &&
              strstr(reply, "of the context's 128 tokens are used; /clear begins anew)"),
          "full: %s", reply);
    save_to(&t, "full.json");
    for (int i = 0; i < 2; i++) {
        ask(&t, "more", reply);
        CHECK(strstr(reply, "do not fit in the context of 128"), "refused: %s", reply);
    }
    save_to(&t, "again.json");
    Buffer a = {0}, b = {0};
    Error e;
    CHECK(read_file(in_folder("full.json"), 1 << 20, &a, &e) &&
              read_file(in_folder("again.json"), 1 << 20, &b, &e) && a.n == b.n &&
              memcmp(a.data, b.data, a.n) == 0,
          "the conversation is as it was");
    buffer_free(&a);
    buffer_free(&b);
    /* What was refused is forgotten: the last question is the one before. */
    ask_for(&t, "/regen", "tokens: the context is full)");
    ask_for(&t, "/clear", "");
    ask_for(&t, "/set parameter num_predict 3", "");
    ask_for(&t, "hello", "(ended after 3 tokens: num_predict)");
    chat_close(&t);
}

/* What /show info says of the positions that are used */
static size_t used_positions(Terminal *t) {
    char info[4096];
    size_t used = 0;
    ask(t, "/show info", info);
    const char *at = strstr(info, "of 32768 positions, ");
    CHECK(at && sscanf(at, "of 32768 positions, %zu used", &used) == 1, "positions in %s", info);
    return used;
}

/* A context of 128 is nearly full when 96 positions are used. */
static void test_context_warning(void) {
    char line[80], reply[4096];
    CHAT(t, "endless.bin", "--temp", "0", "-c", "128");
    ask_for(&t, "/set parameter num_predict 2", "");
    ask(&t, "hello", reply);
    size_t used = used_positions(&t);
    for (size_t want = 95; want <= 96; want++) {
        snprintf(line, sizeof line, "/set parameter num_predict %zu", 2 + want - used);
        ask_for(&t, line, "");
        ask(&t, "/regen", reply);
        CHECK(used_positions(&t) == want, "%zu positions are used", want);
        bool told = strstr(reply, "(96 of the context's 128 tokens are used; /clear") != NULL;
        CHECK(told == (want == 96) && told == (strstr(reply, "are used") != NULL),
              "%zu positions: %s", want, reply);
    }
    chat_close(&t);
}

/* With a reward for what was said most, the model says one thing for ever. */
static void test_loop(void) {
    char reply[4096];
    CHAT(t, "endless.bin", "--temp", "0", "--frequency-penalty", "-100");
    ask(&t, "hello", reply);
    CHECK(strstr(reply, "(stopped: the answer repeats itself)"), "stopped: %s", reply);
    ask_for(&t, "/set parameter frequency_penalty 0", "");
    ask_for(&t, "/set parameter num_predict 3", "");
    ask_for(&t, "and?", "(ended after 3 tokens");
    chat_close(&t);
}

/* What the chat shows for each of these lines, with these options. */
static bool talk(const char *const *lines, size_t n, char (*replies)[4096],
                 const char *const *options) {
    Terminal t;
    if (!chat_open(&t, "ending.bin", options)) return false;
    for (size_t i = 0; i < n; i++) ask(&t, lines[i], replies[i]);
    chat_close(&t);
    return true;
}

/* The same conversation with a model that guesses: with turns, parameters, and a past that changes;
 * its statistics apart, it shows the same. */
static void test_draft(void) {
    static const char *const guesses[] = {"0", "1", "4", "15", NULL};
    char save[800], load[800];
    snprintf(save, sizeof save, "/save %s", in_folder("drafted.json"));
    snprintf(load, sizeof load, "/load %s", in_folder("drafted.json"));
    const char *const lines[] = {"hello",
                                 "and then?",
                                 save,
                                 "/set parameter temperature 0",
                                 "more",
                                 "/set system \"Be brief.\"",
                                 "what?",
                                 "/clear",
                                 "hello",
                                 "/set parameter temperature 1.5",
                                 load,
                                 "again",
                                 "/set parameter stop e",
                                 "go on",
                                 "/regen",
                                 "/set parameter num_predict 7",
                                 "hello"};
    enum { N = sizeof lines / sizeof lines[0] };
    static char plain[N][4096], drafted[N][4096];
    const char *const options[] = {"--seed", "3", "-n", "60", NULL};
    const char *const with[] = {"--seed", "3", "-n", "60", "--draft", in_folder("draft.bin"), NULL};
    if (!talk(lines, N, plain, options)) return;
    setenv("QWEN_LOOKUP", "0", 1);
    for (size_t k = 0; k < sizeof guesses / sizeof guesses[0]; k++) {
        if (guesses[k])
            setenv("QWEN_DRAFT", guesses[k], 1);
        else
            unsetenv("QWEN_DRAFT");
        if (!talk(lines, N, drafted, with)) break;
        for (size_t i = 0; i < N; i++)
            CHECK(strcmp(drafted[i], plain[i]) == 0, "%s, %s guesses, shows\n%s not\n%s", lines[i],
                  guesses[k] ? guesses[k] : "some", drafted[i], plain[i]);
    }
    unsetenv("QWEN_DRAFT");
    unsetenv("QWEN_LOOKUP");
}

/* The guesses of a model follow the conversation, stop with an answer that is stopped, and a model
 * without finite numbers is told of once. */
static void test_draft_notes(void) {
    char reply[4096], path[700];
    snprintf(path, sizeof path, "%s", in_folder("ending.bin"));
    setenv("QWEN_DRAFT", "3", 1);
    CHAT(t, "endless.bin", "--draft", path, "--temp", "1", "--seed", "1", "--no-loop-guard");
    ask_for(&t, "/show info", "guesses by tiny (f32), from ");
    ask_for(&t, "/set verbose", "");
    type_line(&t, "hello");
    double until = now_seconds() + PATIENCE;
    while (t.out.n < t.seen + 100 && terminal_read(&t, until)) {
    }
    type_bytes(&t, "\003", 1);
    expect(&t, " drafted, ", NULL, 0);
    expect(&t, "| interrupt |", NULL, 0);
    expect(&t, PROMPT, NULL, 0);
    ask_for(&t, "/set parameter num_predict 20", "");
    ask(&t, "go on", reply);
    size_t drafted = 0;
    const char *at = strstr(reply, "answer 20 tokens (");
    CHECK(at && sscanf(at, "answer 20 tokens (%zu drafted", &drafted) == 1 && drafted > 10,
          "it goes on, with guesses: %s", reply);
    chat_close(&t);

    FILE *f = fopen(path, "r+b"); /* the embedding, whose tensor is the first behind the header */
    unsigned char nans[65536];
    memset(nans, 0xff, sizeof nans);
    Error e;
    ModelFile m;
    bool ok = f && model_open(&m, path, &e);
    CHECK(ok, "%s", path);
    if (!ok) return;
    ok = fseek(f, (long)m.tensors[0].offset, SEEK_SET) == 0 &&
         fwrite(nans, 1, min_size(sizeof nans, m.tensors[0].bytes), f) > 0;
    model_close(&m);
    CHECK(fclose(f) == 0 && ok, "%s is damaged", path);
    CHAT(u, "endless.bin", "--draft", path, "-n", "9");
    ask_for(&u, "hello", "not a finite number at position");
    ask(&u, "more", reply);
    CHECK(!strstr(reply, "finite"), "it is told of once: %s", reply);
    ask(&u, "/show info", reply);
    CHECK(!strstr(reply, "guesses by"), "it guesses no more: %s", reply);
    chat_close(&u);

    CHAT(v, "ending.bin", "-n", "9"); /* without such numbers of its own a chat ends */
    type_line(&v, "hello");
    expect(&v, "not a finite number at position", NULL, 0);
    int status = terminal_close(&v);
    CHECK(status == 3, "it ends with status 3, not %d", status);
    unsetenv("QWEN_DRAFT");
}

int main(void) {
    const char *base = getenv("TMPDIR");
    Error e;
    program = getenv("QWEN");
    if (!program) program = "./qwen";
    snprintf(folder, sizeof folder, "%s/test_terminal.XXXXXX", base && base[0] ? base : "/tmp");
    bool ready = mkdtemp(folder) != NULL;
    CHECK(ready, "%s: %s", folder, strerror(errno));
    if (ready)
        ready = tiny_model(in_folder("endless.bin"), "q8", TINY_NEVER_ENDS, &e) &&
                tiny_model(in_folder("silent.bin"), "q8-silent", TINY_NEVER_ENDS, &e) &&
                tiny_model(in_folder("ending.bin"), "f32", TINY_ENDS, &e) &&
                tiny_model(in_folder("draft.bin"), "q5", TINY_ENDS, &e);
    CHECK(ready, "the models: %s", e.text);
    if (ready) {
        test_turns();
        test_ended_answer();
        test_seeds();
        test_commands();
        test_system();
        test_stop();
        test_many_stops();
        test_typing();
        test_long_lines();
        test_files();
        test_no_chat();
        test_prompts();
        test_late_system();
        test_regen();
        test_interrupt_prompt();
        test_interrupt_answer();
        test_interrupt_reading();
        test_interrupt_regen();
        test_end_of_input();
        test_full_context();
        test_context_warning();
        test_loop();
        test_draft();
        test_draft_notes();
    }
    remove_folder();
    return test_end("test_terminal");
}
