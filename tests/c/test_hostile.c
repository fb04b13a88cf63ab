/* A frontend that breaks the rules costs itself its I/O, or its queue, and nothing else; a failing hypervisor leaks nothing. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "queue.h"

#define SECTORS 8192u

static void set_producer(struct queue *queue, uint32_t value)
{
    __atomic_store_n((uint32_t *)(void *)(queue->domain.memory + XENPV_REQ_PROD), value, __ATOMIC_RELEASE);
    fake_channel_send(&queue->channel, FAKE_BACK);
}

static void two_queues(int engine, uint32_t inline_io, uint32_t spin_ns)
{
    static struct queue good, bad, *both[] = { &bad, &good };
    struct server server;
    uint8_t *model;
    int fd = disk_open(SECTORS, inline_io != 0, &model);

    queue_open(&good, &(struct queue_options){ .flag = 1, .inline_io = inline_io, .spin_ns = spin_ns });
    queue_open(&bad, &(struct queue_options){ .inline_io = inline_io, .spin_ns = spin_ns });
    queue_front(&good);
    queue_front(&bad);
    queue_back(&good, fd, SECTORS, 0);
    queue_back(&bad, fd, SECTORS, 0);
    server_start(&server, engine, both, 2);
    queue_exercise(&good, model, SECTORS, 200, 8, 2, 1);
    queue_exercise(&bad, model, SECTORS, 200, 8, 2, 2);
    set_producer(&bad, bad.back->ring.entries + 1 + (uint32_t)(bad.stats.requests[0] + bad.stats.requests[1]));
    while (sem_wait(&server.halt) != 0)
        ;
    CHECK_EQ(bad.stats.halted, 1);
    set_producer(&bad, 0); /* nobody listens any more */
    queue_exercise(&good, model, SECTORS, 200, 8, 2, 3);
    CHECK_EQ(good.stats.halted, 0);
    server_stop(&server);
    CHECK_EQ(server.halted, 1);
    queue_close(&bad);
    queue_close(&good);
    disk_check(fd, model, SECTORS);
}

TEST(a_halted_queue_does_not_disturb_another)
{
    two_queues(XENPV_ENGINE_AUTO, 1, 0);
    two_queues(XENPV_ENGINE_URING, 0, 0);
    two_queues(XENPV_ENGINE_THREADS, 0, 20000);
}

TEST(impossible_producers_halt_the_queue)
{
    static const uint32_t jumps[] = { 33, 1u << 31, UINT32_MAX, UINT32_MAX - 31 };

    for (unsigned i = 0; i < 4; i++)
        for (uint32_t taken = 0; taken < 3; taken++) {
            static struct queue queue;
            struct xenpv_slot *slots[4];
            uint32_t count;
            queue_open(&queue, &(struct queue_options){ .start = UINT32_MAX });
            queue_raw(&queue);
            queue_back(&queue, -1, SECTORS, 0);
            for (uint32_t n = 0; n < taken; n++) {
                struct raw_request request = raw_page(XENPV_OP_READ, n, 0, n);
                raw_put(&queue, &request);
            }
            CHECK_EQ(xenpv_back_take(queue.back, slots, 4, &count), taken);
            set_producer(&queue, UINT32_MAX + taken + jumps[i]);
            CHECK_EQ(xenpv_back_take(queue.back, slots + taken, 1, &count), -EPROTO);
            set_producer(&queue, UINT32_MAX + taken);
            CHECK_EQ(xenpv_back_take(queue.back, slots + taken, 1, &count), -EPROTO); /* for ever */
            CHECK_EQ(queue.stats.halted, 1);
            queue_close(&queue);
        }
}

/* One request through take, answered by the test: its status. */
static int through(struct queue *queue, const struct raw_request *request)
{
    struct xenpv_slot *slots[4];
    struct raw_response response;
    uint32_t count;

    raw_put(queue, request);
    CHECK_EQ(xenpv_back_take(queue->back, slots, 4, &count), 1);
    if (count)
        xenpv_back_answer(queue->back, slots[0], XENPV_RSP_OKAY);
    xenpv_back_respond(queue->back);
    int64_t pages = queue->domain.live - (1 << queue->options.order) - queue->back->persistent.count;
    CHECK_EQ(pages, 0); /* unmapped before the response can be seen */
    CHECK_EQ(raw_get(queue, &response), 0);
    xenpv_back_publish(queue->back);
    CHECK_EQ(raw_get(queue, &response), 1);
    CHECK_EQ(response.id, request->id);
    return response.status;
}

static struct raw_request eleven(uint8_t op)
{
    struct raw_request request = { .op = op, .count = 11, .id = 3 };

    for (uint32_t i = 0; i < 11; i++)
        request.segment[i] = (__typeof__(request.segment[0])){ FAKE_FIRST_REF + POOL_FIRST + i, 0, 7 };
    return request;
}

static void each_map_fails(uint32_t persistent)
{
    static struct queue queue;

    queue_open(&queue, &(struct queue_options){ .persistent = persistent });
    queue_raw(&queue);
    queue_back(&queue, 0, SECTORS, 0); /* any descriptor: nothing is read from it */
    for (int64_t at = 0; at < 11; at++) {
        struct raw_request request = eleven(at % 2 ? XENPV_OP_READ : XENPV_OP_WRITE);
        queue.domain.fail_map = queue.domain.maps + at;
        int status = through(&queue, &request);
        /* A standing mapping that fails is tried once more for the request alone. */
        CHECK(status == XENPV_RSP_ERROR || persistent);
        queue.domain.fail_map = -1;
        CHECK_EQ(through(&queue, &request), XENPV_RSP_OKAY);
    }
    queue_close(&queue);
}

TEST(a_map_that_fails_gives_an_error_and_leaks_nothing)
{
    each_map_fails(0);
    each_map_fails(4);
    each_map_fails(64);
}

static void each_piece_fails(uint8_t op, int16_t status)
{
    static struct queue queue;

    queue_open(&queue, &(struct queue_options){ .data = XENPV_DATA_COPY });
    queue_raw(&queue);
    queue_back(&queue, -1, SECTORS, 0);
    queue.domain.fail_status = status;
    for (int64_t at = 0; at < 11; at++) {
        struct raw_request request = eleven(op);
        queue.domain.fail_piece = queue.domain.pieces + at;
        CHECK_EQ(through(&queue, &request), XENPV_RSP_ERROR);
        CHECK_EQ(queue.stats.errors, at + 1);
        queue.domain.fail_piece = -1;
        CHECK_EQ(through(&queue, &request), XENPV_RSP_OKAY);
    }
    queue_close(&queue);
}

TEST(a_copy_that_fails_gives_an_error)
{
    each_piece_fails(XENPV_OP_WRITE, XENPV_GNTST_BAD_GNTREF);
    each_piece_fails(XENPV_OP_READ, XENPV_GNTST_PERMISSION_DENIED);
}

/* The data of all requests of a turn moves in one copy; a piece that fails costs its own request alone. */
static void copied_together(uint8_t op)
{
    static struct queue queue;
    struct xenpv_slot *slots[16];
    struct raw_response response;
    uint32_t count;

    queue_open(&queue, &(struct queue_options){ .not_direct = 1 });
    queue_raw(&queue);
    queue_back(&queue, 0, SECTORS, 0); /* any descriptor: nothing is read from it */
    for (uint32_t i = 0; i < 8; i++) {
        struct raw_request request = raw_page(op, i, 0, i);
        raw_put(&queue, &request);
    }
    queue.domain.fail_piece = 5;
    queue.domain.fail_status = XENPV_GNTST_GENERAL;
    CHECK_EQ(xenpv_back_take(queue.back, slots, 16, &count), 8);
    CHECK_EQ(queue.domain.copies, op == XENPV_OP_WRITE);
    CHECK_EQ(count, op == XENPV_OP_WRITE ? 7 : 8);
    for (uint32_t i = 0; i < count; i++)
        xenpv_back_answer(queue.back, slots[i], XENPV_RSP_OKAY);
    xenpv_back_publish(queue.back);
    CHECK_EQ(queue.domain.copies, 1);
    CHECK_EQ(queue.domain.pieces, 8);
    for (uint32_t i = 0; i < 8; i++) {
        CHECK_EQ(raw_get(&queue, &response), 1);
        CHECK_EQ(response.status, response.id == 5 ? XENPV_RSP_ERROR : XENPV_RSP_OKAY);
    }
    CHECK_EQ(queue.stats.errors, 1);
    queue_close(&queue);
}

TEST(requests_are_copied_together_and_fail_alone)
{
    copied_together(XENPV_OP_WRITE);
    copied_together(XENPV_OP_READ);
}

TEST(grants_that_do_not_allow_it)
{
    for (uint32_t persistent = 0; persistent <= 8; persistent += 8)
        for (uint32_t copy = 0; copy < 2; copy++) {
            static struct queue queue;
            queue_open(&queue, &(struct queue_options){ .persistent = persistent, .data = copy });
            queue_raw(&queue);
            queue_back(&queue, -1, SECTORS, 0);
            fake_grant(&queue.domain, POOL_FIRST + 5, 1, 0);
            struct raw_request request = raw_page(XENPV_OP_READ, 1, 0, 5);
            CHECK_EQ(through(&queue, &request), XENPV_RSP_ERROR); /* read-only page, written by a read */
            request = raw_page(XENPV_OP_WRITE, 2, 0, 5);
            CHECK_EQ(through(&queue, &request), XENPV_RSP_OKAY);
            static const uint32_t refs[] = { 0, FAKE_FIRST_REF + POOL_FIRST - 1, UINT32_MAX };
            for (unsigned i = 0; i < 3; i++) {
                request = raw_page((uint8_t)(i & 1), 3, 0, 0);
                request.segment[0].ref = refs[i];
                CHECK_EQ(through(&queue, &request), XENPV_RSP_ERROR);
            }
            queue_close(&queue);
        }
}

TEST(one_page_in_every_segment)
{
    for (uint32_t persistent = 0; persistent <= 4; persistent += 4) {
        static struct queue queue;
        queue_open(&queue, &(struct queue_options){ .persistent = persistent });
        queue_raw(&queue);
        queue_back(&queue, 0, SECTORS, 0);
        struct raw_request request = eleven(XENPV_OP_READ);
        for (uint32_t i = 0; i < 11; i++)
            request.segment[i].ref = FAKE_FIRST_REF + POOL_FIRST;
        CHECK_EQ(through(&queue, &request), XENPV_RSP_OKAY);
        queue_close(&queue);
    }
}

/* Requests in flight when the queue is given up: nothing stays mapped, and the journal keeps them for a successor. */
TEST(closed_with_requests_in_flight)
{
    for (uint32_t persistent = 0; persistent <= 8; persistent += 8) {
        static struct queue queue;
        struct xenpv_slot *slots[8];
        uint32_t count;
        queue_open(&queue, &(struct queue_options){ .persistent = persistent });
        queue_raw(&queue);
        queue_back(&queue, 0, SECTORS, 0);
        struct raw_request request = eleven(XENPV_OP_WRITE);
        raw_put(&queue, &request);
        raw_put(&queue, &request);
        CHECK_EQ(xenpv_back_take(queue.back, slots, 8, &count), 2);
        CHECK(queue.domain.live > 1);
        xenpv_back_close(queue.back);
        CHECK_EQ(queue.domain.live, 0);
        queue_back(&queue, 0, SECTORS, 1);
        CHECK_EQ(xenpv_back_take(queue.back, slots, 8, &count), 2);
        CHECK_EQ(queue.stats.replayed, 2);
        queue.stats.replayed = 0;
        queue_close(&queue);
    }
}

TEST(open_refuses_in_words_and_leaks_nothing)
{
    static struct queue queue;
    uint32_t ref = FAKE_FIRST_REF, ungranted = FAKE_FIRST_REF + 1;
    struct xenpv_back_config good, config;
    int error;

    queue_open(&queue, &(struct queue_options){ 0 });
    good = (struct xenpv_back_config){ .ring_refs = &ref, .ring_pages = 1, .wait_fd = queue.channel.back_wait,
                                       .notify_fd = queue.channel.front_wait, .abi = 64, .sector_size = 512, .fd = -1,
                                       .stats = &queue.stats, .journal = queue.journal };
    static const struct { int field, error; } cases[] = {
        { 0, EINVAL }, { 1, EINVAL }, { 2, EINVAL }, { 3, EBADF }, { 4, EACCES }, { 5, EINVAL }, { 6, EPROTO }, { 7, EINVAL },
    };
    for (unsigned i = 0; i < sizeof cases / sizeof *cases; i++) {
        config = good;
        switch (cases[i].field) {
        case 0: config.abi = 48; break;
        case 1: config.sector_size = 513; break;
        case 2: config.sector_size = 8192; break;
        case 3: config.wait_fd = -1; break;
        case 4: config.ring_refs = &ungranted; break;
        case 5: config.journal = NULL; break;
        case 6: set_producer(&queue, 33); break;
        default: set_producer(&queue, 0); queue.journal->magic = 1; config.adopt = 1; break;
        }
        error = 0;
        CHECK(xenpv_back_open(fake_hypervisor(&queue.domain), &config, &error) == NULL);
        CHECK_EQ(error, cases[i].error);
        CHECK_EQ(queue.domain.live, 0);
        CHECK_EQ(queue.domain.handles, 0);
    }
    queue_close(&queue);
}
