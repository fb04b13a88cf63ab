/* next and complete: storage outside the core. */
#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "queue.h"

static struct queue queue;

static void begin(const struct queue_options *options)
{
    queue_open(&queue, options);
    queue_raw(&queue);
    queue_back(&queue, -1, 1000, 0);
}

static void put(uint8_t op, uint64_t id, uint64_t sector, uint32_t page)
{
    struct raw_request request = raw_page(op, id, sector, page);

    raw_put(&queue, &request);
}

static struct raw_response get(void)
{
    struct raw_response response;

    CHECK_EQ(raw_get(&queue, &response), 1);
    return response;
}

TEST(next_gives_what_was_asked_and_complete_answers_it)
{
    struct xenpv_request requests[8];

    begin(&(struct queue_options){ .flag = 1 });
    memset(queue_page(&queue, 1), 0x21, 4096);
    put(XENPV_OP_WRITE, 10, 16, 1);
    put(XENPV_OP_READ, 11, 24, 2);
    CHECK_EQ(xenpv_back_next(queue.back, requests, 8, -1, -1), 2);
    CHECK_EQ(requests[0].op, XENPV_OP_WRITE);
    CHECK_EQ(requests[0].sector, 16);
    CHECK_EQ(requests[0].bytes, 4096);
    CHECK(requests[0].data[0] == 0x21 && requests[0].data[4095] == 0x21);
    CHECK_EQ(requests[1].op, XENPV_OP_READ);
    memset(requests[1].data, 0x43, 4096);
    CHECK(queue_page(&queue, 2)[0] == 0); /* private until it is complete */
    requests[0].status = XENPV_RSP_OKAY;
    requests[1].status = XENPV_RSP_OKAY;
    CHECK_EQ(xenpv_back_complete(queue.back, &requests[1], 1), 0);
    CHECK_EQ(get().id, 11);
    CHECK(queue_page(&queue, 2)[0] == 0x43 && queue_page(&queue, 2)[4095] == 0x43);
    CHECK_EQ(xenpv_back_complete(queue.back, &requests[0], 1), 0);
    CHECK_EQ(get().id, 10);
    CHECK_EQ(queue.stats.in_flight, 0);
    queue_close(&queue);
}

TEST(a_secure_discard_says_so)
{
    struct xenpv_request requests[8];

    for (uint8_t flag = 0; flag < 2; flag++) {
        struct raw_request request = { .op = XENPV_OP_DISCARD, .count = flag, .nr_sectors = 8 };
        begin(&(struct queue_options){ .secure = 1 });
        raw_put(&queue, &request);
        CHECK_EQ(xenpv_back_next(queue.back, requests, 8, -1, -1), 1);
        CHECK_EQ(requests[0].flags, flag ? XENPV_SECURE : 0);
        queue_close(&queue);
    }
}

TEST(a_read_that_failed_gives_no_data)
{
    struct xenpv_request requests[8];

    begin(&(struct queue_options){ 0 });
    put(XENPV_OP_READ, 1, 0, 2);
    CHECK_EQ(xenpv_back_next(queue.back, requests, 8, -1, -1), 1);
    memset(requests[0].data, 0x43, 4096);
    requests[0].status = XENPV_RSP_ERROR;
    CHECK_EQ(xenpv_back_complete(queue.back, requests, 1), 0);
    CHECK_EQ(get().status, XENPV_RSP_ERROR);
    CHECK_EQ(queue_page(&queue, 2)[0], 0);
    CHECK_EQ(queue.stats.errors, 1);
    queue_close(&queue);
}

TEST(tokens_that_are_not_out_are_refused)
{
    struct xenpv_request requests[8];

    begin(&(struct queue_options){ 0 });
    CHECK_EQ(xenpv_back_complete(queue.back, &(struct xenpv_request){ .token = 0 }, 1), -EINVAL);
    CHECK_EQ(xenpv_back_complete(queue.back, &(struct xenpv_request){ .token = 32 }, 1), -EINVAL);
    CHECK_EQ(xenpv_back_complete(queue.back, &(struct xenpv_request){ .token = UINT32_MAX }, 1), -EINVAL);
    put(XENPV_OP_READ, 1, 0, 2);
    put(XENPV_OP_READ, 2, 0, 3);
    CHECK_EQ(xenpv_back_next(queue.back, requests, 8, -1, -1), 2);
    requests[0].status = requests[1].status = XENPV_RSP_OKAY;
    struct xenpv_request mixed[] = { requests[0], { .token = 99 } };
    CHECK_EQ(xenpv_back_complete(queue.back, mixed, 2), -EINVAL); /* all or none */
    CHECK_EQ(queue.back->ring.produced, 0);
    struct xenpv_request twice[] = { requests[0], requests[0], requests[1] };
    CHECK_EQ(xenpv_back_complete(queue.back, twice, 3), 0); /* answered once */
    CHECK_EQ(get().id, 1);
    CHECK_EQ(get().id, 2);
    struct raw_response response;
    CHECK_EQ(raw_get(&queue, &response), 0);
    CHECK_EQ(xenpv_back_complete(queue.back, requests, 1), -EINVAL);
    queue_close(&queue);
}

TEST(refused_requests_never_reach_the_storage)
{
    struct xenpv_request requests[8];

    begin(&(struct queue_options){ 0 });
    put(77, 1, 0, 2);
    put(XENPV_OP_READ, 2, 993, 2);
    CHECK_EQ(xenpv_back_next(queue.back, requests, 8, 0, -1), 0);
    CHECK_EQ(get().status, XENPV_RSP_EOPNOTSUPP);
    CHECK_EQ(get().status, XENPV_RSP_ERROR);
    put(77, 3, 0, 2);
    put(XENPV_OP_READ, 4, 0, 2);
    CHECK_EQ(xenpv_back_next(queue.back, requests, 8, 0, -1), 1);
    CHECK_EQ(get().id, 3);
    requests[0].status = XENPV_RSP_OKAY;
    CHECK_EQ(xenpv_back_complete(queue.back, requests, 1), 0);
    CHECK_EQ(get().id, 4);
    queue_close(&queue);
}

TEST(next_waits_asleep_and_is_woken)
{
    for (uint32_t flag = 0; flag < 2; flag++) {
        struct xenpv_request requests[2];
        begin(&(struct queue_options){ .flag = flag });
        for (uint64_t i = 0; i < 50; i++) {
            CHECK_EQ(xenpv_back_next(queue.back, requests, 2, 1000, -1), 0); /* time over, armed */
            put(XENPV_OP_READ, i, 0, 2);
            CHECK_EQ(queue.raw.notifications, i + 1); /* each sleep is notified for */
            CHECK_EQ(xenpv_back_next(queue.back, requests, 2, -1, -1), 1);
            requests[0].status = XENPV_RSP_OKAY;
            CHECK_EQ(xenpv_back_complete(queue.back, requests, 1), 0);
            CHECK_EQ(get().id, i);
            CHECK_EQ(xenpv_back_next(queue.back, requests, 2, 0, -1), 0); /* the event is taken: SLEEPING anew */
        }
        queue_close(&queue);
    }
}

TEST(next_ends_with_the_wake_descriptor)
{
    struct xenpv_request requests[2];
    int wake = eventfd(1, EFD_NONBLOCK);

    CHECK(wake >= 0);
    begin(&(struct queue_options){ .flag = 1 });
    CHECK_EQ(xenpv_back_next(queue.back, requests, 2, -1, wake), 0);
    close(wake);
    queue_close(&queue);
}

/* A frontend that sends nothing but nonsense can not keep the backend from stopping. */
TEST(refused_requests_do_not_hide_the_wake_descriptor)
{
    struct xenpv_request requests[2];
    int wake = eventfd(1, EFD_NONBLOCK);

    CHECK(wake >= 0);
    begin(&(struct queue_options){ .flag = 1 });
    for (uint32_t i = 0; i < 32; i++)
        put(77, i, 0, 2);
    CHECK_EQ(xenpv_back_next(queue.back, requests, 1, -1, wake), 0);
    CHECK_EQ(queue.back->ring.consumed, 1);
    CHECK_EQ(xenpv_back_next(queue.back, requests, 1, 0, -1), 0);
    CHECK_EQ(queue.back->ring.consumed, 2);
    close(wake);
    queue_close(&queue);
}

TEST(next_is_not_for_storage_with_a_descriptor)
{
    struct xenpv_request requests[2];

    queue_open(&queue, &(struct queue_options){ 0 });
    queue_back(&queue, 0, 1000, 0);
    CHECK_EQ(xenpv_back_next(queue.back, requests, 2, 0, -1), -EINVAL);
    CHECK_EQ(xenpv_back_next(queue.back, requests, 0, 0, -1), -EINVAL);
    queue_close(&queue);
}

TEST(next_tells_of_a_broken_frontend)
{
    struct xenpv_request requests[2];
    uint32_t impossible = 33;

    begin(&(struct queue_options){ 0 });
    put(XENPV_OP_READ, 1, 0, 2);
    CHECK_EQ(xenpv_back_next(queue.back, requests, 2, 0, -1), 1);
    memcpy(queue.domain.memory + XENPV_REQ_PROD, &impossible, 4);
    CHECK_EQ(xenpv_back_next(queue.back, requests + 1, 1, -1, -1), -EPROTO);
    requests[0].status = XENPV_RSP_OKAY;
    CHECK_EQ(xenpv_back_complete(queue.back, requests, 1), 0); /* what is out may still be given back */
    queue_close(&queue);
}

/* All that a predecessor left is given again, with its data. */
TEST(next_replays)
{
    struct xenpv_request requests[40];

    begin(&(struct queue_options){ 0 });
    for (uint32_t i = 0; i < 32; i++) {
        memset(queue_page(&queue, i), (int)i, 4096);
        put(XENPV_OP_WRITE, i, 8 * i, i);
    }
    CHECK_EQ(xenpv_back_next(queue.back, requests, 20, 0, -1), 20);
    requests[7].status = XENPV_RSP_OKAY;
    CHECK_EQ(xenpv_back_complete(queue.back, &requests[7], 1), 0);
    xenpv_back_close(queue.back);
    queue_back(&queue, -1, 1000, 1);
    CHECK_EQ(xenpv_back_next(queue.back, requests, 40, 0, -1), 31);
    CHECK_EQ(queue.stats.replayed, 19);
    for (int i = 0; i < 31; i++) {
        CHECK_EQ(requests[i].data[17], requests[i].sector / 8);
        requests[i].status = XENPV_RSP_OKAY;
    }
    CHECK_EQ(xenpv_back_complete(queue.back, requests, 31), 0);
    uint64_t ids = 0;
    for (int i = 0; i < 32; i++)
        ids |= 1ull << get().id;
    CHECK_EQ(ids, UINT32_MAX);
    queue_close(&queue);
}
