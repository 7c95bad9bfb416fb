/* bench_server PORTFILE LOGFILE: a stand-in for an OpenAI-compatible server, for the tests of
 * --url.
 *
 * It listens on a free port of 127.0.0.1, writes that port to PORTFILE, and answers one request
 * after the other until it is killed: POST .../chat/completions with a stream of events in HTTP's
 * chunks, cut at odd places and 100 milliseconds before the first piece. Every request is appended
 * to LOGFILE whole. A model named "broken" gets an error, "midway" one after three
 * pieces, and "cut" nothing after them; "thinks" has words of its thinking before them, 3 seconds
 * before. An event has all the lines that one may have. */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define ROOM ((size_t)1 << 20)

static bool send_all(int fd, const char *data, size_t n) {
    while (n > 0) {
        ssize_t sent = write(fd, data, n);
        if (sent <= 0) return false;
        data += sent;
        n -= (size_t)sent;
    }
    return true;
}

static bool send_chunk(int fd, const char *data, size_t n) {
    char size[32];
    int len = snprintf(size, sizeof size, "%zx\r\n", n);
    return send_all(fd, size, (size_t)len) && send_all(fd, data, n) && send_all(fd, "\r\n", 2);
}

/* Read one request, head and body, into text (ROOM); its length, 0 when it is not whole. */
static size_t read_request(int fd, char *text) {
    size_t n = 0, whole = 0;
    while (n + 1 < ROOM && (whole == 0 || n < whole)) {
        ssize_t got = read(fd, text + n, ROOM - 1 - n);
        if (got <= 0) return 0;
        n += (size_t)got;
        text[n] = 0;
        const char *body = strstr(text, "\r\n\r\n"), *length = strstr(text, "Content-Length: ");
        if (body && length)
            whole = (size_t)(body - text) + 4 + (size_t)strtoul(length + 16, NULL, 10);
        if (whole == 0 && strstr(text, "Expect: 100-continue"))
            send_all(fd, "HTTP/1.1 100 Continue\r\n\r\n", 25);
    }
    return n;
}

static const char *const pieces[] = {
    "{\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"},\"finish_"
    "reason\":null}]}",
    "{\"choices\":[{\"index\":0,\"delta\":{\"content\":\"I \\\"am\\\" "
    "\"},\"finish_reason\":null}]}",
    "{\"choices\":[{\"index\":0,\"delta\":{\"content\":\"ready \\u4f60\\u597d "
    "\\ud83d\\ude00\"},\"finish_reason\":null}]}",
    "{\"choices\":[{\"index\":0,\"delta\":{\"content\":\"\\n100% \\\\o\\/\\tdone, "
    "\xc3\xa9\"},\"finish_reason\":null}]}",
    "{\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}",
    "{\"usage\":{\"prompt_tokens\":42,\"completion_tokens\":7,\"prompt_tokens_details\":{\"cached_"
    "tokens\":16}}}",
    "[DONE]",
};

static const char thought[] =
    "{\"choices\":[{\"index\":0,\"delta\":{\"content\":\"\",\"reasoning\":\"hm \"}}]}";

static bool send_event(int fd, size_t id, const char *data) {
    char event[512];
    int n = snprintf(event, sizeof event,
                     ": alive\nevent: message\nid: %zu\nretry: 9\ndata: %s\n\n", id, data);
    size_t cut = (size_t)n / 3;
    return send_chunk(fd, event, cut) && send_chunk(fd, event + cut, (size_t)n - cut);
}

/* Send so many thoughts, the first n pieces, and then, if it is not NULL, an error. */
static void answer(int fd, size_t n_thoughts, size_t n_pieces, const char *error) {
    const char *head =
        "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n"
        "Connection: close\r\n\r\n";
    bool ok = send_all(fd, head, strlen(head));
    for (size_t i = 0; ok && i < n_thoughts; i++) ok = send_event(fd, i, thought);
    for (size_t i = 0; ok && i < n_pieces + (error != NULL); i++) {
        usleep(i != 1 ? 4000 : n_thoughts > 0 ? 3000000 : 100000);
        ok = send_event(fd, n_thoughts + i, i < n_pieces ? pieces[i] : error);
    }
    if (ok) send_all(fd, "0\r\n\r\n", 5);
}

static void refuse(int fd) {
    const char *text =
        "HTTP/1.1 404 Not Found\r\nContent-Type: application/json\r\nContent-Length: 40\r\n"
        "Connection: close\r\n\r\n{\"error\":{\"message\":\"no such model: x\"}}\n";
    send_all(fd, text, strlen(text));
}

static int listen_somewhere(const char *port_file) {
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t n = sizeof at;
    FILE *f = fd < 0 ? NULL : fopen(port_file, "w");
    if (!f || bind(fd, (void *)&at, n) != 0 || listen(fd, 8) != 0 ||
        getsockname(fd, (void *)&at, &n) != 0 || fprintf(f, "%d\n", ntohs(at.sin_port)) < 0 ||
        fclose(f) != 0)
        return -1;
    return fd;
}

int main(int argc, char **argv) {
    static char request[ROOM];
    signal(SIGPIPE, SIG_IGN);
    int listener = argc == 3 ? listen_somewhere(argv[1]) : -1;
    if (listener < 0) return 1;
    for (;;) {
        int fd = accept(listener, NULL, NULL);
        if (fd < 0) continue;
        size_t n = read_request(fd, request);
        FILE *log = fopen(argv[2], "a");
        if (log) {
            fwrite(request, 1, n, log);
            fputc('\n', log);
            fclose(log);
        }
        if (strstr(request, "\"model\":\"broken\""))
            refuse(fd);
        else if (strstr(request, "\"model\":\"midway\""))
            answer(fd, 0, 3, "{\"error\":{\"message\":\"out of memory\"}}");
        else if (strstr(request, "\"model\":\"cut\""))
            answer(fd, 0, 3, NULL);
        else if (n > 0)
            answer(fd, strstr(request, "\"model\":\"thinks\"") ? 3 : 0,
                   sizeof pieces / sizeof *pieces, NULL);
        close(fd);
    }
}
