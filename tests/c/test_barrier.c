/* A write barrier: what came before it is answered before it begins, and what comes after begins when it is answered. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

#include "engine.h"
#include "queue.h"

#define SECTORS 1024u
enum { INLINE = -1 };

static struct queue queue;
static struct xenpv_slot *slots[8];
static uint32_t count;

static void put(uint8_t op, uint64_t id)
{
    struct raw_request request = raw_page(op, id, 8 * id, (uint32_t)id);

    raw_put(&queue, &request);
}

static int take(void)
{
    return xenpv_back_take(queue.back, slots, 8, &count);
}

static void answer(struct xenpv_slot *slot)
{
    xenpv_back_answer(queue.back, slot, XENPV_RSP_OKAY);
    xenpv_back_publish(queue.back);
    queue.back->out = 0;
}

TEST(a_barrier_is_alone_in_flight)
{
    for (uint32_t flag = 0; flag < 2; flag++) {
        queue_open(&queue, &(struct queue_options){ .barrier = 1, .flag = flag });
        queue_raw(&queue);
        queue_back(&queue, 0, SECTORS, 0);
        put(XENPV_OP_WRITE, 0);
        put(XENPV_OP_BARRIER, 1);
        put(XENPV_OP_READ, 2);
        CHECK_EQ(take(), 1);
        CHECK_EQ(slots[0]->id, 0);
        struct xenpv_slot *before = slots[0];
        queue.back->out = 1;
        CHECK_EQ(take(), 0);
        CHECK_EQ(xenpv_back_rest(queue.back), 1); /* nothing to do until there is an answer */
        answer(before);
        CHECK_EQ(take(), 1);
        CHECK_EQ(slots[0]->id, 1);
        CHECK_EQ(slots[0]->op, XENPV_OP_WRITE);
        CHECK_EQ(slots[0]->wire_op, XENPV_OP_BARRIER);
        CHECK(slots[0]->flush_first && slots[0]->flush_after);
        struct xenpv_slot *barrier = slots[0];
        queue.back->out = 1;
        CHECK_EQ(take(), 0);
        answer(barrier);
        CHECK_EQ(take(), 1);
        CHECK_EQ(slots[0]->id, 2);
        CHECK_EQ(slots[0]->flush_after, 0);
        answer(slots[0]);
        queue_close(&queue);
    }
}

TEST(a_barrier_that_is_refused_holds_nothing_up)
{
    queue_open(&queue, &(struct queue_options){ .barrier = 1 });
    queue_raw(&queue);
    queue_back(&queue, 0, SECTORS, 0);
    put(XENPV_OP_BARRIER, SECTORS); /* beyond the end */
    struct raw_request request = raw_page(XENPV_OP_BARRIER, 1, 0, 0);
    request.segment[0].ref = 0; /* not granted */
    raw_put(&queue, &request);
    put(XENPV_OP_READ, 2);
    CHECK_EQ(take(), 2);
    CHECK_EQ(count, 0);
    CHECK_EQ(take(), 1);
    CHECK_EQ(slots[0]->id, 2);
    answer(slots[0]);
    queue_close(&queue);
}

TEST(a_barrier_that_was_not_offered_is_not_supported)
{
    struct raw_response response;

    queue_open(&queue, &(struct queue_options){ 0 });
    queue_raw(&queue);
    queue_back(&queue, 0, SECTORS, 0);
    put(XENPV_OP_BARRIER, 1);
    CHECK_EQ(take(), 1);
    CHECK_EQ(count, 0);
    xenpv_back_publish(queue.back);
    CHECK_EQ(raw_get(&queue, &response), 1);
    CHECK_EQ(response.status, XENPV_RSP_EOPNOTSUPP);
    CHECK_EQ(response.op, XENPV_OP_BARRIER);
    queue_close(&queue);
}

/* Of what a predecessor left, the barrier is done in its turn. */
TEST(a_successor_keeps_the_order)
{
    queue_open(&queue, &(struct queue_options){ .barrier = 1, .start = UINT32_MAX });
    queue_raw(&queue);
    queue_back(&queue, 0, SECTORS, 0);
    for (uint64_t id = 0; id < 3; id++)
        put(XENPV_OP_WRITE, id);
    CHECK_EQ(take(), 3);
    answer(slots[0]); /* its slot in the journal is the next one's, so that the slots' order is not the requests' */
    put(XENPV_OP_BARRIER, 3);
    for (uint32_t i = 1; i < 3; i++)
        xenpv_back_answer(queue.back, slots[i], XENPV_RSP_OKAY); /* and killed before they are published */
    CHECK_EQ(take(), 1);
    CHECK_EQ(slots[0]->id, 3);
    xenpv_back_close(queue.back);
    queue_back(&queue, 0, SECTORS, 1);
    CHECK_EQ(take(), 2);
    CHECK_EQ(slots[0]->id, 1);
    CHECK_EQ(slots[1]->id, 2);
    xenpv_back_answer(queue.back, slots[0], XENPV_RSP_OKAY);
    xenpv_back_answer(queue.back, slots[1], XENPV_RSP_OKAY);
    CHECK_EQ(take(), 1);
    CHECK_EQ(slots[0]->id, 3);
    CHECK_EQ(queue.stats.replayed, 3);
    queue_close(&queue);
}

static void served(int engine)
{
    struct queue *queues[] = { &queue };
    struct raw_response response;
    struct server server;
    uint8_t *model;
    int fd = disk_open(SECTORS, engine == INLINE, &model);

    queue_open(&queue, &(struct queue_options){ .barrier = 1, .flag = 1, .inline_io = engine == INLINE });
    queue_raw(&queue);
    queue_back(&queue, fd, SECTORS, 0);
    server_start(&server, engine == INLINE ? XENPV_ENGINE_AUTO : engine, queues, 1);
    for (uint32_t round = 0; round < 20; round++) {
        uint64_t last = 0;
        for (uint32_t i = 0; i < 24; i++) {
            memset(queue_page(&queue, i), (int)(round + i), 4096);
            memset(model + 4096 * i, (int)(round + i), 4096);
            put(i % 5 == 3 ? XENPV_OP_BARRIER : XENPV_OP_WRITE, i);
        }
        for (uint32_t i = 0; i < 24; i++) {
            raw_wait(&queue, &response);
            CHECK_EQ(response.status, XENPV_RSP_OKAY);
            CHECK(response.id / 5 * 5 + (response.id % 5 >= 3 ? 3 : 0) >= last); /* none before a barrier that came first */
            if (response.op == XENPV_OP_BARRIER)
                last = response.id;
        }
    }
    struct raw_request bare = { .op = XENPV_OP_BARRIER, .id = 99 };
    raw_put(&queue, &bare);
    raw_wait(&queue, &response);
    CHECK_EQ(response.status, XENPV_RSP_OKAY);
    server_stop(&server);
    CHECK_EQ(queue.stats.requests[XENPV_OP_BARRIER], 20 * 5 + 1);
    queue_close(&queue);
    disk_check(fd, model, SECTORS);
}

/* Of /dev/null a write succeeds and a flush does not: so the flush after the write was made. */
static void flushes_after(struct xenpv_engine *engine)
{
    uint8_t data[512] = { 0 };
    struct iovec iov = { data, sizeof data };
    struct xenpv_back back = { .config = { .fd = open("/dev/null", O_RDWR) } };
    struct xenpv_slot *done;

    CHECK(back.config.fd >= 0);
    for (uint8_t after = 0; after < 2; after++) {
        struct xenpv_slot slot = { .back = &back, .op = XENPV_OP_WRITE, .segments = 1, .bytes = sizeof data, .iovs = 1,
                                   .room = { .iov = &iov }, .flush_after = after };
        if (engine) {
            struct pollfd fd = { .fd = engine->fd, .events = POLLIN };
            CHECK_EQ(engine->submit(engine, &slot), 0);
            for (engine->kick(engine); !engine->reap(engine, &done, 1); engine->kick(engine))
                CHECK(poll(&fd, 1, 10000) == 1);
            CHECK(done == &slot);
        } else {
            slot.result = xenpv_io_now(&slot);
        }
        CHECK_EQ(slot.result, after ? -EINVAL : 0);
    }
    close(back.config.fd);
}

TEST(a_barrier_is_flushed_after_it_is_written)
{
    struct xenpv_engine *engine;
    int error = 0;

    flushes_after(NULL);
    engine = xenpv_engine_threads(&error);
    CHECK(engine != NULL);
    flushes_after(engine);
    engine->free(engine);
    engine = xenpv_engine_uring(&error);
    CHECK(engine != NULL);
    flushes_after(engine);
    engine->free(engine);
}

TEST(inline_serves_barriers) { served(INLINE); }
TEST(uring_serves_barriers) { served(XENPV_ENGINE_URING); }
TEST(threads_serve_barriers) { served(XENPV_ENGINE_THREADS); }
