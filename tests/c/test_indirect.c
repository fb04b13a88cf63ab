/* Indirect requests: segments that stand in pages of their own, which the frontend may write at any time. */
#include <string.h>

#include "front.h"
#include "indirect.h"

enum { INLINE = -1 };

static struct queue queue;

static void served(int engine, struct queue_options options, uint32_t count, uint32_t depth, uint32_t max_pages)
{
    struct queue *queues[] = { &queue };
    struct server server;
    uint8_t *model;
    int fd = disk_open(SECTORS, engine == INLINE, &model);

    options.inline_io = engine == INLINE;
    queue_open(&queue, &options);
    queue_front(&queue);
    queue_back(&queue, fd, SECTORS, 0);
    server_start(&server, engine == INLINE ? XENPV_ENGINE_AUTO : engine, queues, 1);
    queue_exercise(&queue, model, SECTORS, count, depth, max_pages, 7);
    server_stop(&server);
    CHECK_EQ(queue.stats.errors, 0);
    CHECK_EQ(queue.stats.refused, 0);
    CHECK_EQ(queue.stats.indirect, xenpv_front_stats(queue.front)->indirect);
    CHECK_EQ(queue.stats.indirect > 0, options.front_segments > 11);
    if (options.front_segments > 11)
        CHECK_EQ(queue.front->free_group_count, INDIRECT_PAGES / queue.front->group_pages); /* every page came back */
    CHECK(queue.domain.live == (1 << options.order) + (int64_t)queue.back->persistent.count);
    queue_close(&queue);
    disk_check(fd, model, SECTORS);
}

static void in_every_mode(int engine)
{
    struct queue_options options = { .max_segments = 256, .front_segments = 256, .start = UINT32_MAX - 40 };

    for (options.flag = 0; options.flag < 2; options.flag++)
        for (options.abi = 32; options.abi <= 64; options.abi += 32)
            for (options.data = 0; options.data <= XENPV_DATA_MAP; options.data++) {
                options.persistent = options.flag == options.abi / 64 ? 40 : 0;
                served(engine, options, 40, 8, 64);
            }
}

TEST(inline_serves_indirect) { in_every_mode(INLINE); }
TEST(uring_serves_indirect) { in_every_mode(XENPV_ENGINE_URING); }
TEST(threads_serve_indirect) { in_every_mode(XENPV_ENGINE_THREADS); }

TEST(every_number_of_segments_is_agreed_by_the_smaller_side)
{
    static const struct { uint32_t back, front; } cases[] = {
        { 256, 0 }, { 256, 11 }, { 0, 0 }, { 12, 12 }, { 32, 32 }, { 256, 32 }, { 1024, 600 }, { 1024, 1024 },
    };

    for (unsigned i = 0; i < sizeof cases / sizeof *cases; i++)
        served(XENPV_ENGINE_URING, (struct queue_options){ .max_segments = cases[i].back, .front_segments = cases[i].front },
               40, 4, 64);
}

TEST(maps_of_many_pages_serve_indirect)
{
    struct queue_options options = { .not_direct = 1, .data = XENPV_DATA_MAP, .max_segments = 256, .front_segments = 256 };

    served(INLINE, options, 60, 8, 64);
    served(XENPV_ENGINE_THREADS, options, 60, 8, 64);
    options.persistent = 100;
    served(XENPV_ENGINE_THREADS, options, 60, 8, 64);
}

TEST(sectors_of_4096_bytes_indirect)
{
    served(INLINE, (struct queue_options){ .sector_size = 4096, .max_segments = 64, .front_segments = 64 }, 60, 8, 64);
}

/* 4 MiB: two pages of segments, and more pieces than any other test has. */
TEST(a_megabyte_is_one_request_and_four_are_too)
{
    struct queue *queues[] = { &queue };
    struct server server;
    uint8_t *model;

    for (uint32_t copy = 0; copy < 2; copy++) {
        int fd = disk_open(SECTORS, 0, &model);
        queue_open(&queue, &(struct queue_options){ .flag = 1, .data = copy, .max_segments = 1024, .front_segments = 1024 });
        queue_front(&queue);
        queue_back(&queue, fd, SECTORS, 0);
        server_start(&server, XENPV_ENGINE_URING, queues, 1);
        CHECK_EQ(queue_io(&queue, XENPV_OP_READ, 1001, 256 * 4096, 0), XENPV_RSP_OKAY);
        CHECK_EQ(queue.stats.requests[XENPV_OP_READ], 1);
        CHECK(memcmp(queue_page(&queue, 0), model + 1001 * 512, 256 * 4096) == 0);
        CHECK_EQ(queue_io(&queue, XENPV_OP_READ, 8, 1024 * 4096, 0), XENPV_RSP_OKAY);
        CHECK(memcmp(queue_page(&queue, 0), model + 8 * 512, 1024 * 4096) == 0);
        CHECK_EQ(queue_io(&queue, XENPV_OP_WRITE, 3, 1023 * 4096 + 512, 0), XENPV_RSP_OKAY);
        memmove(model + 3 * 512, model + 8 * 512, 1023 * 4096 + 512);
        CHECK_EQ(queue.stats.requests[XENPV_OP_READ], 2);
        CHECK_EQ(queue.stats.requests[XENPV_OP_WRITE], 1);
        CHECK_EQ(queue.stats.indirect, 3);
        CHECK_EQ(queue_io(&queue, XENPV_OP_READ, SECTORS - 2000, 256 * 4096, 0), XENPV_RSP_ERROR); /* beyond the end */
        server_stop(&server);
        queue_close(&queue);
        disk_check(fd, model, SECTORS);
    }
}

/* A frontend that has pages for few of them sends the others as direct ones. */
TEST(without_a_page_for_segments_a_request_is_direct)
{
    static struct xenpv_io ios[8];
    struct xenpv_io done[8];
    uint32_t accepted;

    queue_open(&queue, &(struct queue_options){ .order = 1, .front_segments = 3 * 512 });
    queue_front(&queue);
    queue_raw(&queue);
    for (uint32_t i = 0; i < 8; i++)
        ios[i] = (struct xenpv_io){ .op = XENPV_OP_READ, .bytes = 12 * 4096, .page = 12 * i };
    queue.front->free_group_count = 2;
    CHECK_EQ(xenpv_front_exchange(queue.front, ios, 8, &accepted, done, 8, 0, 0, -1), 0);
    CHECK_EQ(queue.front->free_group_count, 0);
    CHECK_EQ(queue.front->ring.produced - queue.front->ring.consumed, 2 + 6 * 2);
    queue_close(&queue);
}

/* More of them than a queue has blocks for: the rest waits in the ring, and nobody spins or sleeps over it. */
TEST(more_indirect_requests_than_blocks_wait_in_the_ring)
{
    for (uint32_t flag = 0; flag < 2; flag++) {
        struct xenpv_slot *slots[64];
        struct raw_response response;
        uint32_t count, more;
        indirect_begin(&queue, &(struct queue_options){ .flag = flag, .order = 1, .max_segments = 40 });
        for (uint32_t i = 0; i < 50; i++) {
            struct raw_indirect request = indirect_good(&queue, i, 12);
            raw_put_indirect(&queue, &request);
        }
        CHECK_EQ(xenpv_back_take(queue.back, slots, 64, &count), 32);
        CHECK_EQ(count, 32);
        queue.back->out = count; /* as a service that gave them to its engine */
        CHECK_EQ(xenpv_back_take(queue.back, slots + 32, 32, &more), 0);
        CHECK_EQ(xenpv_back_rest(queue.back), 1);
        queue.back->out = 30;
        xenpv_back_answer(queue.back, slots[3], XENPV_RSP_OKAY);
        xenpv_back_answer(queue.back, slots[17], XENPV_RSP_OKAY);
        CHECK_EQ(xenpv_back_take(queue.back, slots + 32, 32, &more), 0); /* answered, and not free yet */
        xenpv_back_publish(queue.back);
        CHECK_EQ(xenpv_back_take(queue.back, slots + 32, 32, &more), 2);
        CHECK_EQ(slots[32]->id, 32);
        CHECK_EQ(slots[33]->id, 33);
        CHECK_EQ(raw_get(&queue, &response), 1);
        CHECK_EQ(response.id, 3);
        queue.back->out = 0;
        queue_close(&queue);
    }
}

TEST(more_indirect_requests_than_blocks_are_served)
{
    struct queue_options options = { .order = 2, .max_segments = 16, .front_segments = 16, .max_ios = 128 };

    for (options.flag = 0; options.flag < 2; options.flag++) {
        served(XENPV_ENGINE_URING, options, 300, 64, 16);
        served(XENPV_ENGINE_THREADS, options, 300, 64, 16);
        served(INLINE, options, 300, 64, 16);
    }
}

/* The journal has the request and not its segments: those stand in the frontend's pages until it is answered. */
TEST(a_successor_does_indirect_requests_again)
{
    for (uint32_t copy = 0; copy < 2; copy++) {
        struct xenpv_slot *slots[8];
        struct raw_response response;
        uint32_t count;
        indirect_begin(&queue, &(struct queue_options){ .max_segments = 40, .data = copy });
        for (uint32_t i = 0; i < 5; i++) {
            struct raw_indirect request = indirect_good(&queue, i, 12 + i);
            request.ref[0] = SEGMENTS_REF(i);
            memcpy(queue.domain.memory + (size_t)(INDIRECT_FIRST + i) * 4096,
                   queue.domain.memory + (size_t)INDIRECT_FIRST * 4096, 4096);
            raw_put_indirect(&queue, &request);
        }
        CHECK_EQ(xenpv_back_take(queue.back, slots, 4, &count), 4);
        xenpv_back_answer(queue.back, slots[2], XENPV_RSP_OKAY);
        xenpv_back_publish(queue.back);
        xenpv_back_answer(queue.back, slots[1], XENPV_RSP_OKAY); /* not published: not answered */
        xenpv_back_close(queue.back);
        CHECK_EQ(queue.domain.live, 0);
        queue_back(&queue, copy ? -1 : 0, SECTORS, 1);
        CHECK_EQ(xenpv_back_take(queue.back, slots, 8, &count), 4);
        CHECK_EQ(count, 4);
        CHECK_EQ(queue.stats.replayed, 3);
        static const uint32_t order[] = { 0, 1, 3, 4 };
        for (uint32_t i = 0; i < 4; i++) {
            CHECK_EQ(slots[i]->id, order[i]);
            CHECK_EQ(slots[i]->segments, 12 + order[i]);
            CHECK_EQ(slots[i]->room.segment[11].ref, PAGE_REF(11));
            xenpv_back_answer(queue.back, slots[i], XENPV_RSP_OKAY);
        }
        xenpv_back_publish(queue.back);
        for (uint32_t i = 0; i < 5; i++)
            CHECK_EQ(raw_get(&queue, &response), 1);
        CHECK_EQ(queue.back->free_count, queue.entries);
        queue_close(&queue);
    }
}
