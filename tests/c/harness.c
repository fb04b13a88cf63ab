#include "harness.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static struct entry {
    const char *file, *name;
    void (*run)(void);
} entries[256];
static unsigned count;

void harness_add(const char *file, const char *name, void (*run)(void))
{
    if (count == sizeof entries / sizeof *entries)
        abort();
    entries[count++] = (struct entry){ file, name, run };
}

_Noreturn void harness_fail(const char *file, int line, const char *what)
{
    printf("    %s:%d: %s\n", file, line, what);
    fflush(stdout);
    _exit(1);
}

void harness_equal(const char *file, int line, const char *what, int64_t a, int64_t b)
{
    char text[400];

    if (a == b)
        return;
    snprintf(text, sizeof text, "%s: %lld and %lld", what, (long long)a, (long long)b);
    harness_fail(file, line, text);
}

static int passes(const struct entry *entry)
{
    int status = 0;
    pid_t child;

    fflush(stdout);
    child = fork();
    if (child < 0) {
        perror("fork");
        return 0;
    }
    if (child == 0) {
        alarm(TEST_SECONDS);
        entry->run();
        exit(0); /* not _exit: the sanitizers look for leaks here */
    }
    while (waitpid(child, &status, 0) < 0)
        ;
    if (WIFSIGNALED(status))
        printf("    %s\n", WTERMSIG(status) == SIGALRM ? "hung" : strsignal(WTERMSIG(status)));
    return status == 0;
}

/* Arguments: parts of test names; none: all tests. */
int main(int argc, char **argv)
{
    unsigned passed = 0, failed = 0;

    for (unsigned i = 0; i < count; i++) {
        const struct entry *entry = &entries[i];
        const char *base = strrchr(entry->file, '/');
        int wanted = argc == 1, good;

        for (int a = 1; a < argc; a++)
            wanted |= strstr(entry->name, argv[a]) != NULL || strstr(entry->file, argv[a]) != NULL;
        if (!wanted)
            continue;
        good = passes(entry);
        printf("%s %s %s\n", good ? "ok    " : "FAILED", base ? base + 1 : entry->file, entry->name);
        *(good ? &passed : &failed) += 1;
    }
    printf("%u passed, %u failed\n", passed, failed);
    return failed != 0 || passed == 0;
}
