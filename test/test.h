/* test.h: what the test programs share. A program runs its checks and ends with
 *     return test_end("name");
 * which prints "name: N passed, N failed" (", N skipped" when some were) and gives the exit status.
 * A skipped check says why; it never counts as passed. */
#ifndef TEST_H
#define TEST_H

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Instrumented programs take longer and more memory. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) || defined(COVERAGE)
#define INSTRUMENTED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(memory_sanitizer) ||                         \
    __has_feature(thread_sanitizer)
#define INSTRUMENTED 1
#endif
#endif
#ifndef INSTRUMENTED
#define INSTRUMENTED 0
#endif

static struct {
    int passed, failed, skipped;
} test_count;

#ifndef TEST_SHOWN
#define TEST_SHOWN 20
#endif

/* Count one check; when it does not hold, say where and what (at most TEST_SHOWN times). */
__attribute__((format(printf, 4, 5)))
static void test_check(int ok, const char *file, int line, const char *fmt, ...) {
    if (ok) {
        test_count.passed++;
        return;
    }
    if (test_count.failed++ >= TEST_SHOWN) return;
    va_list args;
    va_start(args, fmt);
    fprintf(stderr, "%s:%d: FAILED: ", file, line);
    vfprintf(stderr, fmt, args);
    fputc('\n', stderr);
    va_end(args);
}

#define CHECK(ok, ...) test_check((ok) ? 1 : 0, __FILE__, __LINE__, __VA_ARGS__)

__attribute__((unused)) static void test_skip(int n, const char *why) {
    test_count.skipped += n;
    fprintf(stderr, "skipped %d: %s\n", n, why);
}

static int test_end(const char *name) {
    printf("%s: %d passed, %d failed", name, test_count.passed, test_count.failed);
    if (test_count.skipped) printf(", %d skipped", test_count.skipped);
    printf("\n");
    return test_count.failed ? 1 : 0;
}

/* A deterministic generator (splitmix64) for random inputs. */
__attribute__((unused)) static uint64_t test_random(uint64_t *state) {
    uint64_t z = (*state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

/* One of 0 .. n - 1. */
__attribute__((unused)) static uint32_t test_below(uint64_t *state, uint32_t n) {
    return (uint32_t)(test_random(state) % n);
}

/* A number from [0, 1). */
__attribute__((unused)) static double test_uniform(uint64_t *state) {
    return (double)(test_random(state) >> 11) * 0x1p-53;
}

#endif
