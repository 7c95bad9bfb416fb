/* bench_pty SCRIPT OUTPUT COMMAND...: run a command on a terminal of its own and type into it.
 *
 * The script has a step on each line:
 *   expect TEXT   wait until TEXT appears after what was matched before (20 s at most)
 *   send TEXT     type TEXT; \n and \\ are what they are in C, \d is the end of input
 *   pause MS      wait, reading on
 *   kill N        send signal N to the command alone
 *   interrupt     type ^C, which the terminal sends to everything in its foreground
 * After the last step the terminal is read until the command ends. All that appeared is in OUTPUT.
 * The exit status is the command's, 128 + N after signal N, and 99 when something expected did not
 * come. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define WAIT_MS 20000
#define ROOM ((size_t)4 << 20)

typedef struct {
    int fd; /* the terminal's other side */
    pid_t child;
    char *seen; /* (ROOM) everything that appeared */
    size_t n, matched;
} Terminal;

static long now_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (long)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static int give_up(const char *what, const char *text) {
    fprintf(stderr, "bench_pty: %s: %s\n", what, text);
    return 99;
}

/* Read what comes within ms. False when the other side has closed. */
static bool terminal_read(Terminal *t, int ms) {
    struct pollfd p = {.fd = t->fd, .events = POLLIN};
    if (poll(&p, 1, ms) <= 0) return true;
    ssize_t got = read(t->fd, t->seen + t->n, ROOM - t->n);
    if (got <= 0) return got < 0 && errno == EINTR;
    t->n += (size_t)got;
    return t->n < ROOM;
}

static bool terminal_expect(Terminal *t, const char *text) {
    long end = now_ms() + WAIT_MS;
    for (bool open = true;;) {
        char *from = t->seen + t->matched; /* a model may say any byte, 0 among them */
        char *at = memmem(from, t->n - t->matched, text, strlen(text));
        if (at) {
            t->matched = (size_t)(at - t->seen) + strlen(text);
            return true;
        }
        if (!open || now_ms() > end) return false;
        open = terminal_read(t, 50);
    }
}

static void terminal_pause(Terminal *t, long ms) {
    for (long end = now_ms() + ms, left; (left = end - now_ms()) > 0;)
        if (!terminal_read(t, (int)left)) return;
}

static bool terminal_send(const Terminal *t, const char *text) {
    for (const char *c = text; *c; c++) {
        char byte = *c;
        if (byte == '\\' && c[1]) {
            c++;
            byte = *c;
            if (byte == 'n') byte = '\n';
            if (byte == 'd') byte = 4;
        }
        if (write(t->fd, &byte, 1) != 1) return false;
    }
    return true;
}

/* One line of the script. */
static bool terminal_step(Terminal *t, char *line) {
    char *arg = strchr(line, ' ');
    if (arg)
        *arg++ = 0;
    else
        arg = line + strlen(line);
    if (strcmp(line, "expect") == 0) return terminal_expect(t, arg);
    if (strcmp(line, "send") == 0) return terminal_send(t, arg);
    if (strcmp(line, "interrupt") == 0) return terminal_send(t, "\003");
    if (strcmp(line, "pause") == 0) return terminal_pause(t, strtol(arg, NULL, 10)), true;
    if (strcmp(line, "kill") == 0) return kill(t->child, (int)strtol(arg, NULL, 10)) == 0;
    return line[0] == 0;
}

static bool terminal_open(Terminal *t, char **command) {
    t->fd = posix_openpt(O_RDWR | O_NOCTTY);
    if (t->fd < 0 || grantpt(t->fd) != 0 || unlockpt(t->fd) != 0) return false;
    t->child = fork();
    if (t->child != 0) return t->child > 0;
    setsid();
    int side = open(ptsname(t->fd), O_RDWR);
    if (side < 0 || ioctl(side, TIOCSCTTY, 0) != 0) _exit(98);
    for (int fd = 0; fd < 3; fd++) dup2(side, fd);
    close(t->fd);
    if (side > 2) close(side);
    signal(SIGINT, SIG_DFL); /* a test that runs in the background was started with it ignored */
    execvp(command[0], command);
    _exit(127);
}

/* Read on until the command has ended; its exit status. */
static int terminal_end(Terminal *t) {
    int status = 0;
    long end = now_ms() + 2 * WAIT_MS;
    while (waitpid(t->child, &status, WNOHANG) == 0) {
        if (now_ms() > end) {
            kill(t->child, SIGKILL);
            waitpid(t->child, &status, 0);
            return give_up("the command", "did not end");
        }
        if (!terminal_read(t, 5)) usleep(2000);
    }
    terminal_pause(t, 5);
    return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

int main(int argc, char **argv) {
    if (argc < 4) return give_up("expected", "SCRIPT OUTPUT COMMAND...");
    static char seen[ROOM];
    Terminal t = {.seen = seen};
    FILE *script = fopen(argv[1], "r");
    if (!script) return give_up("cannot read", argv[1]);
    if (!terminal_open(&t, argv + 3)) {
        fclose(script);
        return give_up("no terminal", strerror(errno));
    }
    char line[4096];
    int status = 0;
    while (status == 0 && fgets(line, sizeof line, script)) {
        line[strcspn(line, "\n")] = 0;
        char copy[4096];
        memcpy(copy, line, sizeof copy);
        if (!terminal_step(&t, line)) status = give_up("this did not work or come", copy);
    }
    if (status) kill(t.child, SIGKILL);
    int ended = terminal_end(&t);
    FILE *out = fopen(argv[2], "w");
    if (!out || fwrite(t.seen, 1, t.n, out) != t.n || fclose(out) != 0)
        status = give_up("cannot write", argv[2]);
    fclose(script);
    return status ? status : ended;
}
