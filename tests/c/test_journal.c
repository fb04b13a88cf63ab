/* Killed at any step, the backend's successor answers each request exactly once: none lost, none twice.
 *
 * A request's id is its request index, so the ring page alone says what was asked (all below req_prod) and what was
 * answered (the ids in the slots below rsp_prod, looked at as they appear). */
#include <stdlib.h>
#include <string.h>

#include "queue.h"

#define IDS 4096u

struct seen {
    uint32_t start, looked; /* response index up to which the answers were looked at */
    uint8_t times[IDS];
};

static uint32_t index_of(const uint8_t *page, unsigned at)
{
    uint32_t value;
    memcpy(&value, page + at, 4);
    return value;
}

static void see(struct seen *seen, struct queue *queue)
{
    uint32_t to = index_of(queue->domain.memory, XENPV_RSP_PROD);

    for (; seen->looked != to; seen->looked++) {
        const uint8_t *slot = queue->domain.memory + XENPV_RING_HEADER
            + (seen->looked & (queue->entries - 1)) * XENPV_ENTRY_SIZE(queue->options.abi);
        uint32_t number = (uint32_t)xenpv_get_u64(slot) - seen->start;
        CHECK(number < IDS);
        CHECK_EQ(++seen->times[number], 1);
    }
}

/* The successor does what is left; then all that was ever asked is answered, once. */
static void finish(struct queue *queue, struct seen *seen, struct xenpv_slot **slots, uint32_t count)
{
    int taken;

    do {
        for (uint32_t i = 0; i < count; i++)
            xenpv_back_answer(queue->back, slots[i], XENPV_RSP_OKAY);
        xenpv_back_publish(queue->back);
        see(seen, queue);
        taken = xenpv_back_take(queue->back, slots, queue->entries, &count);
    } while (taken > 0);
    CHECK_EQ(taken, 0);
    CHECK_EQ(count, 0);
    uint32_t asked = index_of(queue->domain.memory, XENPV_REQ_PROD) - seen->start;
    for (uint32_t i = 0; i < IDS; i++)
        CHECK_EQ(seen->times[i], i < asked);
    CHECK_EQ(queue->back->free_count, queue->entries);
}

/* A process killed here leaves the ring page and the journal as they are; its successor starts from copies of them. */
static void successor(struct queue *origin, const struct seen *seen_by_then)
{
    static struct queue queue;
    static struct seen seen;
    struct xenpv_slot *slots[512];

    queue_open(&queue, &origin->options);
    memcpy(queue.domain.memory, origin->domain.memory, XENPV_PAGE_SIZE << origin->options.order);
    memcpy(queue.journal, origin->journal, xenpv_journal_bytes(origin->entries));
    seen = *seen_by_then;
    see(&seen, &queue); /* the predecessor's last publish may not have been looked at yet */
    queue_back(&queue, -1, 1024, 1);
    finish(&queue, &seen, slots, 0);
    queue_close(&queue);
}

static void put(struct queue *queue, struct test_random *r)
{
    struct raw_request request = { .op = test_random(r, 5) ? XENPV_OP_FLUSH : 77, .id = queue->raw.produced };

    raw_put(queue, &request);
}

struct schedule {
    struct queue queue;
    struct seen seen;
    struct test_random random;
    struct xenpv_slot *slots[512];
    uint32_t out;
};

static void open_schedule(struct schedule *s, const struct queue_options *options, uint64_t seed)
{
    memset(s, 0, sizeof *s);
    s->random.state = seed;
    queue_open(&s->queue, options);
    queue_raw(&s->queue);
    queue_back(&s->queue, -1, 1024, 0);
    s->seen.start = s->seen.looked = options->start;
}

/* One step of a life with answers out of order. `hold`: the first request taken is answered last of all. */
static void step(struct schedule *s, int hold)
{
    struct queue *queue = &s->queue;
    struct raw_response response;
    uint32_t count, room;

    switch (test_random(&s->random, 6)) {
    case 0:
        room = queue->entries - (queue->raw.produced - queue->raw.consumed);
        for (uint32_t n = room ? test_random(&s->random, room + 1) : 0; n; n--)
            if (queue->raw.produced - queue->options.start < IDS)
                put(queue, &s->random);
        break;
    case 1:
        CHECK(xenpv_back_take(queue->back, s->slots + s->out, test_random(&s->random, 9), &count) >= 0);
        s->out += count;
        break;
    case 2:
    case 3:
        if (s->out > (hold ? 1u : 0u)) {
            uint32_t pick = hold ? 1 + test_random(&s->random, s->out - 1) : test_random(&s->random, s->out);
            xenpv_back_answer(queue->back, s->slots[pick], XENPV_RSP_OKAY);
            s->slots[pick] = s->slots[--s->out];
        }
        break;
    case 4:
        xenpv_back_publish(queue->back);
        break;
    default:
        for (uint32_t n = test_random(&s->random, 9); n && raw_get(queue, &response); n--)
            ;
    }
    see(&s->seen, queue);
}

static void killed_at_every_step(const struct queue_options *options, int hold, uint32_t steps, uint64_t seed)
{
    static struct schedule s;

    open_schedule(&s, options, seed);
    for (uint32_t i = 0; i < steps; i++) {
        step(&s, hold);
        if (i % (options->order ? 16 : 1) == 0)
            successor(&s.queue, &s.seen);
    }
    CHECK(s.queue.raw.produced - options->start > 2 * s.queue.entries);
    finish(&s.queue, &s.seen, s.slots, s.out);
    queue_close(&s.queue);
}

TEST(killed_at_every_step_each_is_answered_once)
{
    killed_at_every_step(&(struct queue_options){ .flag = 1 }, 0, 1500, 1);
}

TEST(killed_while_one_request_waits_for_very_long)
{
    killed_at_every_step(&(struct queue_options){ .flag = 1 }, 1, 1500, 2);
}

TEST(killed_around_the_wrap_of_the_indices)
{
    killed_at_every_step(&(struct queue_options){ .abi = 32, .start = UINT32_MAX - 70 }, 0, 1500, 3);
    killed_at_every_step(&(struct queue_options){ .start = UINT32_MAX - 20 }, 1, 1500, 4);
    killed_at_every_step(&(struct queue_options){ .start = (1u << 31) - 40 }, 0, 800, 5);
}

TEST(killed_on_a_ring_of_many_pages)
{
    killed_at_every_step(&(struct queue_options){ .order = 2, .abi = 32, .start = UINT32_MAX - 300 }, 0, 1500, 6);
}

/* Successor after successor on the same ring, each killed like the first. */
TEST(killed_again_and_again)
{
    static struct schedule s;
    uint32_t lives = 0;

    open_schedule(&s, &(struct queue_options){ .start = UINT32_MAX - 500 }, 7);
    for (uint32_t i = 0; i < 6000; i++) {
        step(&s, 0);
        if (test_random(&s.random, 20) == 0) {
            xenpv_back_close(s.queue.back); /* ends its mappings, as death does; writes nothing */
            queue_back(&s.queue, -1, 1024, 1);
            s.out = 0;
            lives++;
        }
    }
    CHECK(lives > 200);
    CHECK(s.queue.raw.produced - s.queue.options.start > 800); /* through the wrap */
    finish(&s.queue, &s.seen, s.slots, s.out);
    queue_close(&s.queue);
}

/* Killed between the publish and its notification, the frontend sleeps on an answer that is there. */
static void notified_by_the_successor(uint32_t flag)
{
    static struct queue queue;
    struct xenpv_slot *slots[4];
    struct raw_response response;
    struct test_random r = { 3 };
    uint32_t count;

    queue_open(&queue, &(struct queue_options){ .flag = flag });
    queue_raw(&queue);
    queue_back(&queue, -1, 1024, 0);
    put(&queue, &r);
    CHECK_EQ(xenpv_ring_arm(&queue.raw), 0);
    CHECK_EQ(xenpv_back_take(queue.back, slots, 4, &count), 1);
    CHECK_EQ(count, 1);
    xenpv_back_answer(queue.back, slots[0], XENPV_RSP_OKAY);
    xenpv_back_respond(queue.back);
    CHECK_EQ(xenpv_ring_publish(&queue.back->ring, queue.back->ring.produced), 1); /* and no notification: killed */
    xenpv_back_close(queue.back);
    CHECK_EQ(queue.domain.notifies, 0);
    queue_back(&queue, -1, 1024, 1);
    CHECK_EQ(xenpv_back_take(queue.back, slots, 4, &count), 0); /* nothing is left that would bring another one */
    CHECK_EQ(queue.domain.notifies, 1);
    CHECK_EQ(raw_get(&queue, &response), 1);
    queue_close(&queue);
}

TEST(successor_sends_the_notification_that_may_be_missing)
{
    notified_by_the_successor(0);
    notified_by_the_successor(1);
}

TEST(journal_of_another_ring_is_refused)
{
    struct xenpv_journal *journal = calloc(1, xenpv_journal_bytes(64));

    CHECK(journal != NULL);
    CHECK_EQ(xenpv_journal_attach(journal, 32, 9), 0);
    CHECK_EQ(journal->taken_to, 9);
    CHECK_EQ(xenpv_journal_attach(journal, 32, 11), 0);
    CHECK_EQ(journal->taken_to, 9);
    CHECK(xenpv_journal_attach(journal, 64, 9) < 0);
    journal->version++;
    CHECK(xenpv_journal_attach(journal, 32, 9) < 0);
    free(journal);
}

/* The frontend can write rsp_prod, which the successor reads: it may lose its own I/O by it, and nothing else. */
TEST(successor_survives_a_scribbled_response_index)
{
    static struct schedule s;
    static const uint32_t by[] = { 1, 5, 31, 32, 33, 1u << 31, UINT32_MAX, UINT32_MAX - 31, UINT32_MAX - 40 };

    for (unsigned i = 0; i < sizeof by / sizeof *by; i++) {
        struct xenpv_slot *slots[32];
        uint32_t count, rounds = 0;
        int error = 0;
        open_schedule(&s, &(struct queue_options){ .start = UINT32_MAX - 60 }, 8 + i);
        for (uint32_t n = 0; n < 300; n++)
            step(&s, 0);
        uint32_t scribbled = index_of(s.queue.domain.memory, XENPV_RSP_PROD) + by[i];
        memcpy(s.queue.domain.memory + XENPV_RSP_PROD, &scribbled, 4);
        xenpv_back_close(s.queue.back);
        uint32_t ref = FAKE_FIRST_REF;
        s.queue.back = xenpv_back_open(fake_hypervisor(&s.queue.domain), &(struct xenpv_back_config){
            .domid = 1, .ring_refs = &ref, .ring_pages = 1, .port = FAKE_BACK, .wait_fd = s.queue.channel.back_wait,
            .notify_fd = s.queue.channel.front_wait, .abi = 64, .flush = 1, .sector_size = 512, .sectors = 8, .fd = -1,
            .adopt = 1, .stats = &s.queue.stats, .journal = s.queue.journal }, &error);
        CHECK(error != 0 || s.queue.back != NULL);
        while (s.queue.back && xenpv_back_take(s.queue.back, slots, 32, &count) > 0 && rounds++ < 100) {
            for (uint32_t n = 0; n < count; n++)
                xenpv_back_answer(s.queue.back, slots[n], XENPV_RSP_OKAY);
            xenpv_back_publish(s.queue.back);
        }
        CHECK(rounds < 100);
        queue_close(&s.queue);
    }
}
