/* The same claim as test_journal's, at every instruction: a process is stepped through a life of one queue, and after each
 * instruction that changed the ring page or the journal a successor starts from what it left there. */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "queue.h"
#include "stepped.h"

#if !TEST_SANITIZED

#define REQUESTS 80u
#define START (UINT32_MAX - 35u)

static const struct queue_options options = { .start = START };

/* Requests put and answered out of order, one of them held for the whole life. */
static void live(void *with)
{
    struct queue *queue = with;
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
static void succeed(struct queue *queue, const struct queue *left, uint32_t from, const uint8_t *already)
{
    struct xenpv_slot *slots[64];
    uint8_t times[REQUESTS];
    uint32_t count, asked;
    int taken;

    memcpy(queue->domain.memory, left->domain.memory, XENPV_PAGE_SIZE);
    memcpy(queue->journal, left->journal, xenpv_journal_bytes(left->entries));
    memcpy(times, already, sizeof times);
    asked = index_of(queue, XENPV_REQ_PROD) - START;
    queue_back(queue, -1, 64, 1);
    while ((taken = xenpv_back_take(queue->back, slots, 64, &count)) > 0) {
        for (uint32_t i = 0; i < count; i++)
            xenpv_back_answer(queue->back, slots[i], XENPV_RSP_OKAY);
        xenpv_back_publish(queue->back);
        from = count_answers(queue, from, times);
    }
    CHECK_EQ(taken, 0);
    for (uint32_t i = 0; i < REQUESTS; i++)
        CHECK_EQ(times[i], i < asked);
    xenpv_back_close(queue->back);
    queue->back = NULL;
}

static struct queue stepped, next;
static uint8_t answered[REQUESTS];
static uint32_t looked = START, changes;

static void succeed_when_changed(void *with)
{
    static uint8_t page[XENPV_PAGE_SIZE], journal[8192];
    uint64_t bytes = xenpv_journal_bytes(stepped.entries);

    (void)with;
    CHECK(bytes <= sizeof journal);
    if (memcmp(page, stepped.domain.memory, sizeof page) == 0 && memcmp(journal, stepped.journal, bytes) == 0)
        return;
    memcpy(page, stepped.domain.memory, sizeof page);
    memcpy(journal, stepped.journal, bytes);
    looked = count_answers(&stepped, looked, answered);
    succeed(&next, &stepped, looked, answered);
    changes++;
}

TEST(killed_at_every_instruction_each_is_answered_once)
{
    uint64_t bytes;

    queue_open(&stepped, &options);
    queue_open(&next, &options);
    bytes = xenpv_journal_bytes(stepped.entries);
    free(stepped.journal);
    stepped.journal = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(stepped.journal != MAP_FAILED);
    queue_raw(&stepped);
    queue_back(&stepped, -1, 64, 0);
    step_through(live, succeed_when_changed, &stepped);
    CHECK(changes > 10 * REQUESTS);
    queue_close(&next);
    munmap(stepped.journal, bytes);
    stepped.journal = NULL;
    queue_close(&stepped);
}
#endif
