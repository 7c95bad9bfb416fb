/* child.h: run the real programs from a test: with limits, on files, their output kept, and what
 * they cost. Where an environment variable WRAP is set, its words stand in front of every command
 * ("valgrind -q --error-exitcode=99"); costs then say nothing. */
#ifndef CHILD_H
#define CHILD_H

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdbool.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include "test.h"

#define CHILD_TEXT 65536
#define CHILD_ARGS 64

typedef struct {
    int status; /* exit status; of one that a signal ended: 128 and the signal, as for a shell */
    double cpu_ms;
    long peak_kib;
    char out[CHILD_TEXT], err[CHILD_TEXT]; /* the beginning of stdout and stderr, NUL behind it */
    size_t out_bytes, err_bytes;           /* all of it */
} Child;

/* How to run it. Zero: in this folder, stdin empty, at most 60 s. */
typedef struct {
    const char *folder;
    const char *input;      /* file to read as stdin */
    const char *typed;      /* or: stdin is a terminal at which this was typed */
    int output;             /* file descriptor for stdout, 0: kept in Child.out; -1: closed */
    const char *variable;   /* one more environment variable, NAME=VALUE */
    unsigned kill_after_us; /* end it with SIGKILL so many microseconds after its start */
} ChildOptions;

static void child_stop(const char *what) {
    fprintf(stderr, "%s: %s\n", what, strerror(errno));
    exit(1);
}

/* In the child: never returns. */
static void child_exec(char *const argv[], const ChildOptions *o, int out, int err) {
    char *full[2 * CHILD_ARGS], *wrap = getenv("WRAP"), *rest = NULL;
    size_t n = 0;
    struct rlimit none = {0, 0};
    struct itimerval most = {.it_value = {.tv_sec = INSTRUMENTED || wrap ? 300 : 60}};
    int in = open(o->input ? o->input : "/dev/null", O_RDONLY | O_CLOEXEC | O_NOCTTY);
    for (char *word = wrap ? strtok_r(wrap, " ", &rest) : NULL; word && n < CHILD_ARGS;
         word = strtok_r(NULL, " ", &rest))
        full[n++] = word;
    for (size_t i = 0; argv[i]; i++) full[n++] = argv[i];
    full[n] = NULL;
    bool ok = in >= 0 && dup2(in, 0) >= 0 && dup2(err, 2) >= 0 &&
              setrlimit(RLIMIT_CORE, &none) == 0 && setitimer(ITIMER_REAL, &most, NULL) == 0 &&
              (!o->folder || chdir(o->folder) == 0);
    if (ok && o->output < 0)
        ok = close(1) == 0;
    else
        ok = ok && dup2(o->output > 0 ? o->output : out, 1) >= 0;
    if (o->variable) ok = ok && putenv((char *)o->variable) == 0;
    if (ok) execvp(full[0], full);
    fprintf(stderr, "cannot run %s: %s\n", full[0], strerror(errno));
    _exit(126);
}

/* A terminal at which the text was typed: its other end, -1 without a text. */
static int child_terminal(const char *typed, char *name, size_t room) {
    int fd = typed ? posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC) : -1;
    if (!typed) return -1;
    if (fd < 0 || grantpt(fd) != 0 || unlockpt(fd) != 0 || ptsname_r(fd, name, room) != 0 ||
        write(fd, typed, strlen(typed)) != (ssize_t)strlen(typed))
        child_stop("terminal");
    return fd;
}

static size_t child_read(int fd, char text[CHILD_TEXT]) {
    off_t end = lseek(fd, 0, SEEK_END);
    ssize_t n = pread(fd, text, CHILD_TEXT - 1, 0);
    text[n > 0 ? n : 0] = 0;
    close(fd);
    return end > 0 ? (size_t)end : 0;
}

/* Run argv (NULL behind the last) and wait for it. */
__attribute__((unused)) static void child_run(Child *c, char *const argv[], const ChildOptions *o) {
    int out = memfd_create("out", MFD_CLOEXEC), err = memfd_create("err", MFD_CLOEXEC), status = 0;
    struct rusage cost = {0};
    if (out < 0 || err < 0) child_stop("memfd_create");
    fflush(NULL);
    char name[64];
    ChildOptions with = *o;
    int terminal = child_terminal(o->typed, name, sizeof name);
    if (terminal >= 0) with.input = name;
    pid_t pid = fork();
    if (pid < 0) child_stop("fork");
    if (pid == 0) child_exec(argv, &with, out, err);
    if (o->kill_after_us && (usleep(o->kill_after_us), kill(pid, SIGKILL)) != 0) child_stop("kill");
    while (wait4(pid, &status, 0, &cost) < 0)
        if (errno != EINTR) child_stop("wait4");
    c->status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    c->cpu_ms = (double)(cost.ru_utime.tv_sec + cost.ru_stime.tv_sec) * 1e3 +
                (double)(cost.ru_utime.tv_usec + cost.ru_stime.tv_usec) * 1e-3;
    c->peak_kib = cost.ru_maxrss;
    c->out_bytes = child_read(out, c->out);
    c->err_bytes = child_read(err, c->err);
    if (terminal >= 0) close(terminal);
}

/* How many names the folder holds. Names for which `spare` is a prefix do not count. */
__attribute__((unused)) static size_t folder_count(const char *path) {
    DIR *d = opendir(path);
    size_t n = 0;
    if (!d) child_stop(path);
    for (struct dirent *f; (f = readdir(d)) != NULL;)
        n += strcmp(f->d_name, ".") != 0 && strcmp(f->d_name, "..") != 0;
    closedir(d);
    return n;
}

/* Remove every file in the folder. */
__attribute__((unused)) static void folder_empty(const char *path) {
    DIR *d = opendir(path);
    if (!d) child_stop(path);
    for (struct dirent *f; (f = readdir(d)) != NULL;)
        if (f->d_name[0] != '.' || strlen(f->d_name) > 2) unlinkat(dirfd(d), f->d_name, 0);
    closedir(d);
}

#endif
