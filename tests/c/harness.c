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

/* A test's process. */
struct child {
    const struct entry *entry;
    pid_t pid;
};

static pid_t begin(const struct entry *entry)
{
    pid_t pid;

    fflush(stdout);
    pid = fork();
    if (pid < 0) {
        perror("fork");
        exit(1);
    }
    if (pid == 0) {
        alarm(TEST_SECONDS);
        entry->run();
        exit(0); /* not _exit: the sanitizers look for leaks here */
    }
    return pid;
}

/* Waits for one of `running` to end, and says how; its place is the returned one. */
static struct child *end_of_one(struct child *running, int *good)
{
    int status = 0;
    struct child *child = running;
    const char *base;
    pid_t pid;

    while ((pid = wait(&status)) < 0)
        ;
    while (child->pid != pid)
        child++;
    base = strrchr(child->entry->file, '/');
    if (WIFSIGNALED(status))
        printf("    %s\n", WTERMSIG(status) == SIGALRM ? "hung" : strsignal(WTERMSIG(status)));
    *good = status == 0;
    printf("%s %s %s\n", *good ? "ok    " : "FAILED", base ? base + 1 : child->entry->file, child->entry->name);
    return child;
}

/* Arguments: parts of test names; none: all tests. */
int main(int argc, char **argv)
{
    struct child running[AT_ONCE];
    unsigned passed = 0, failed = 0, busy = 0;

    for (unsigned i = 0; i < count || busy; i++) {
        const struct entry *entry = i < count ? &entries[i] : NULL;
        int wanted = entry && argc == 1, good;

        for (int a = 1; entry && a < argc; a++)
            wanted |= strstr(entry->name, argv[a]) != NULL || strstr(entry->file, argv[a]) != NULL;
        if (wanted)
            running[busy++] = (struct child){ entry, begin(entry) };
        if (busy == AT_ONCE || (busy && !entry)) {
            *end_of_one(running, &good) = running[busy - 1];
            busy--;
            *(good ? &passed : &failed) += 1;
        }
    }
    printf("%u passed, %u failed\n", passed, failed);
    return failed != 0 || passed == 0;
}
