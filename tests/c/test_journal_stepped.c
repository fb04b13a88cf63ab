/* The same claim as test_journal's, at every instruction: a process is stepped by ptrace through a life of one queue, and after
 * each instruction that changed the ring page or the journal a successor starts from what it left there.
 *
 * Without a sanitizer only: the order of the stores is the compiler's, so the plain build is the one to look at. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include "queue.h"

#if !TEST_SANITIZED

#define REQUESTS 80u
#define START (UINT32_MAX - 35u)

static const struct queue_options options = { .start = START };

/* Requests put and answered out of order, one of them held for the whole life. */
static void live(struct queue *queue)
{
    struct xenpv_slot *slots[64];
    struct raw_response response;
    struct test_random r = { 11 };
    uint32_t out = 0, count;

    while (queue->raw.produced - START < REQUESTS || out > 1) {
        uint32_t room = queue->entries - (queue->raw.produced - queue->raw.consumed);
        for (uint32_t n = test_random(&r, room + 1); n && queue->raw.produced - START < REQUESTS; n--) {
            struct raw_request request = { .op = test_random(&r, 6) ? XENPV_OP_FLUSH : 77, .id = queue->raw.produced };
            raw_put(queue, &request);
        }
        CHECK(xenpv_back_take(queue->back, slots + out, 1 + test_random(&r, 8), &count) >= 0);
        out += count;
        for (uint32_t n = test_random(&r, 6); n && out > 1; n--) {
            uint32_t pick = 1 + test_random(&r, out - 1);
            xenpv_back_answer(queue->back, slots[pick], XENPV_RSP_OKAY);
            slots[pick] = slots[--out];
        }
        xenpv_back_publish(queue->back);
        while (raw_get(queue, &response))
            ;
    }
}

static uint32_t index_of(const struct queue *queue, unsigned at)
{
    uint32_t value;
    memcpy(&value, queue->domain.memory + at, 4);
    return value;
}

/* Counts the answers from response index `from` on; where the next look begins. */
static uint32_t count_answers(const struct queue *queue, uint32_t from, uint8_t *times)
{
    for (uint32_t to = index_of(queue, XENPV_RSP_PROD); from != to; from++) {
        uint32_t number = (uint32_t)xenpv_get_u64(queue->domain.memory + XENPV_RING_HEADER
                                                  + (from & (queue->entries - 1)) * XENPV_ENTRY_SIZE(64)) - START;
        CHECK(number < REQUESTS);
        times[number]++;
    }
    return from;
}

/* A successor on copies of what the stepped process left; `queue` is used again and again. */
static void succeed(struct queue *queue, const struct queue *left, uint32_t looked, const uint8_t *answered)
{
    struct xenpv_slot *slots[64];
    uint8_t times[REQUESTS];
    uint32_t count, asked;
    int taken;

    memcpy(queue->domain.memory, left->domain.memory, XENPV_PAGE_SIZE);
    memcpy(queue->journal, left->journal, xenpv_journal_bytes(left->entries));
    memcpy(times, answered, sizeof times);
    asked = index_of(queue, XENPV_REQ_PROD) - START;
    queue_back(queue, -1, 64, 1);
    while ((taken = xenpv_back_take(queue->back, slots, 64, &count)) > 0) {
        for (uint32_t i = 0; i < count; i++)
            xenpv_back_answer(queue->back, slots[i], XENPV_RSP_OKAY);
        xenpv_back_publish(queue->back);
        looked = count_answers(queue, looked, times);
    }
    CHECK_EQ(taken, 0);
    for (uint32_t i = 0; i < REQUESTS; i++)
        CHECK_EQ(times[i], i < asked);
    xenpv_back_close(queue->back);
    queue->back = NULL;
}

TEST(killed_at_every_instruction_each_is_answered_once)
{
    static struct queue stepped, next;
    static uint8_t page[XENPV_PAGE_SIZE], journal[8192];
    uint8_t answered[REQUESTS] = { 0 };
    uint32_t looked = START, changes = 0;
    uint64_t bytes;
    int status;

    queue_open(&stepped, &options);
    queue_open(&next, &options);
    bytes = xenpv_journal_bytes(stepped.entries);
    CHECK(bytes <= sizeof journal);
    free(stepped.journal);
    stepped.journal = mmap(NULL, sizeof journal, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(stepped.journal != MAP_FAILED);
    queue_raw(&stepped);
    queue_back(&stepped, -1, 64, 0);

    fflush(stdout);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        if (ptrace(PTRACE_TRACEME, 0, NULL, NULL) != 0)
            _exit(77);
        raise(SIGSTOP);
        live(&stepped);
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
        if (memcmp(page, stepped.domain.memory, sizeof page) != 0 || memcmp(journal, stepped.journal, bytes) != 0) {
            memcpy(page, stepped.domain.memory, sizeof page);
            memcpy(journal, stepped.journal, bytes);
            looked = count_answers(&stepped, looked, answered);
            succeed(&next, &stepped, looked, answered);
            changes++;
        }
        CHECK_EQ(ptrace(PTRACE_SINGLESTEP, child, NULL, NULL), 0);
        CHECK_EQ(waitpid(child, &status, 0), child);
    }
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    CHECK(changes > 10 * REQUESTS);
    queue_close(&next);
    munmap(stepped.journal, sizeof journal);
    stepped.journal = NULL;
    queue_close(&stepped);
}
#endif
