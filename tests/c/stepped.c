#include "stepped.h"

#if !TEST_SANITIZED

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

void step_through(void (*life)(void *with), void (*look)(void *with), void *with)
{
    int status;
    pid_t child;

    fflush(stdout);
    child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        if (ptrace(PTRACE_TRACEME, 0, NULL, NULL) != 0)
            _exit(77);
        raise(SIGSTOP);
        life(with);
        _exit(0);
    }
    CHECK_EQ(waitpid(child, &status, 0), child);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 77) {
        printf("    not run: ptrace is not allowed here\n");
        exit(0);
    }
    while (WIFSTOPPED(status)) {
        /* The test's own signals apart, what stops it is the step. */
        CHECK(WSTOPSIG(status) == SIGTRAP || WSTOPSIG(status) == SIGSTOP);
        look(with);
        CHECK_EQ(ptrace(PTRACE_SINGLESTEP, child, NULL, NULL), 0);
        CHECK_EQ(waitpid(child, &status, 0), child);
    }
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}
#endif
