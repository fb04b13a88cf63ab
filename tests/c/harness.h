/* Tests in C, each in a process of its own, so that one that dies or hangs costs itself alone, and two at a time, for most
 * of their time is waiting.
 *
 *   TEST(name) { CHECK(condition); CHECK_EQ(a, b); }
 *
 * registers itself. A test fails by a CHECK, by a signal, by a sanitizer's report, or by its time limit. */
#ifndef XENPV_TEST_HARNESS_H
#define XENPV_TEST_HARNESS_H

#include <stdint.h>

#define TEST_SECONDS 60u /* after this a test counts as hung */
#define AT_ONCE 2u       /* tests */

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
#define TEST_SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer) || __has_feature(address_sanitizer)
#define TEST_SANITIZED 1
#endif
#endif
#ifndef TEST_SANITIZED
#define TEST_SANITIZED 0
#endif

void harness_add(const char *file, const char *name, void (*run)(void));
_Noreturn void harness_fail(const char *file, int line, const char *what);
void harness_equal(const char *file, int line, const char *what, int64_t a, int64_t b);

#define TEST(name)                                                                                   \
    static void name(void);                                                                          \
    __attribute__((constructor)) static void add_##name(void) { harness_add(__FILE__, #name, name); } \
    static void name(void)
#define CHECK(condition)                                     \
    do {                                                     \
        if (!(condition))                                    \
            harness_fail(__FILE__, __LINE__, #condition);    \
    } while (0)
#define CHECK_EQ(a, b) harness_equal(__FILE__, __LINE__, #a " == " #b, (int64_t)(a), (int64_t)(b))

/* A small generator with a seed: the same numbers in every run. */
struct test_random {
    uint64_t state;
};
static inline uint32_t test_random(struct test_random *r, uint32_t below)
{
    r->state = r->state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)((r->state >> 33) % below);
}

#endif
