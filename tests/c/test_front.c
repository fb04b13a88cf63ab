/* The frontend's exchange against a backend written by hand, which keeps the rules or does not. */
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/time.h>
#include <unistd.h>

#include "queue.h"

static struct queue queue;
static struct xenpv_ring back;

static void begin(const struct queue_options *options)
{
    queue_open(&queue, options);
    queue_front(&queue);
    CHECK_EQ(xenpv_ring_attach(&back, queue.domain.memory, XENPV_PAGE_SIZE << options->order,
                               XENPV_ENTRY_SIZE(queue.options.abi), 1, (int)options->flag), 0);
}

/* Submits without waiting. */
static int submit(uint8_t op, uint64_t bytes, uint32_t page)
{
    struct xenpv_io io = { .cookie = page, .bytes = bytes, .page = page, .op = op }, done[4];
    uint32_t accepted;

    return xenpv_front_exchange(queue.front, &io, 1, &accepted, done, 4, 0, 0, -1);
}

static int reap(struct xenpv_io *done, uint32_t room)
{
    uint32_t accepted;

    return xenpv_front_exchange(queue.front, NULL, 0, &accepted, done, room, 0, 0, -1);
}

/* The id and operation of the next request. */
static uint64_t take(uint8_t *op)
{
    const uint8_t *slot = xenpv_ring_slot(&back, back.consumed);

    CHECK(xenpv_ring_available(&back) > 0);
    back.consumed++;
    *op = slot[XENPV_AT_OP];
    return xenpv_get_u64(slot + XENPV_AT_ID(queue.options.abi));
}

static void answer(uint64_t id, uint8_t op, int16_t status)
{
    uint8_t *slot = xenpv_ring_slot(&back, back.produced);

    xenpv_put_u64(slot, id);
    slot[XENPV_AT_RSP_OP] = op;
    xenpv_put_u16(slot + XENPV_AT_RSP_STATUS, (uint16_t)status);
    xenpv_ring_publish(&back, back.produced + 1);
}

TEST(answers_in_any_order)
{
    struct xenpv_io done[4];
    uint64_t ids[3];
    uint8_t op;

    for (uint32_t abi = 32; abi <= 64; abi += 32) {
        begin(&(struct queue_options){ .abi = abi });
        for (uint32_t i = 0; i < 3; i++) {
            CHECK_EQ(submit(XENPV_OP_READ, 4096, i), 0);
            ids[i] = take(&op);
        }
        CHECK_EQ(xenpv_front_pending(queue.front), 3);
        for (uint32_t i = 0; i < 3; i++) {
            answer(ids[2 - i], XENPV_OP_READ, XENPV_RSP_OKAY);
            CHECK_EQ(reap(done, 4), 1);
            CHECK_EQ(done[0].cookie, 2 - i);
        }
        queue_close(&queue);
    }
}

TEST(statuses_are_told_and_unknown_ones_are_errors)
{
    static const int16_t statuses[][2] = { { 0, 0 }, { -1, -1 }, { -2, -2 }, { -3, -1 }, { 1, -1 }, { INT16_MIN, -1 } };
    struct xenpv_io done[4];
    uint8_t op;

    begin(&(struct queue_options){ 0 });
    for (unsigned i = 0; i < 6; i++) {
        CHECK_EQ(submit(XENPV_OP_WRITE, 512, 0), 0);
        uint64_t id = take(&op);
        answer(id, op, statuses[i][0]);
        CHECK_EQ(reap(done, 4), 1);
        CHECK_EQ(done[0].status, statuses[i][1]);
    }
    queue_close(&queue);
}

/* kind: what is wrong with the answer. */
static void broken(int kind)
{
    struct xenpv_io done[4];
    uint8_t op;

    begin(&(struct queue_options){ .start = UINT32_MAX });
    CHECK_EQ(submit(XENPV_OP_READ, 4096, 0), 0);
    CHECK_EQ(submit(XENPV_OP_READ, 4096, 1), 0);
    uint64_t id = take(&op);
    take(&op);
    switch (kind) {
    case 0: answer(id ^ 1ull << 40, op, 0); break;          /* of another time */
    case 1: answer(id | 32, op, 0); break;                  /* no such slot */
    case 2: answer(id | 0xffffffff, op, 0); break;
    case 3: answer(id, XENPV_OP_WRITE, 0); break;           /* another operation */
    case 4: answer(id, op, 0); answer(id, op, 0); break;    /* twice at once */
    case 5:                                                 /* twice, one after the other */
        answer(id, op, 0);
        CHECK_EQ(reap(done, 4), 1);
        answer(id, op, 0);
        break;
    case 6: xenpv_ring_publish(&back, back.produced + 3); break;
    case 7: xenpv_ring_publish(&back, back.produced - 1); break;
    default: xenpv_ring_publish(&back, back.produced + (1u << 31)); break;
    }
    int n = reap(done, 4);
    CHECK(n == -EPROTO || (kind == 4 && n == 1)); /* what is done is told first */
    CHECK_EQ(reap(done, 4), -EPROTO);
    CHECK_EQ(submit(XENPV_OP_READ, 4096, 0), -EPROTO);
    queue_close(&queue);
}

TEST(a_backend_that_breaks_the_rules_ends_the_queue)
{
    for (int kind = 0; kind < 9; kind++)
        broken(kind);
}

TEST(ios_that_can_not_be_are_refused)
{
    struct xenpv_io done[4];
    uint32_t accepted;
    static const struct xenpv_io bad[] = {
        { .op = XENPV_OP_READ }, { .op = XENPV_OP_READ, .bytes = 511 }, { .op = XENPV_OP_FLUSH, .bytes = 512 },
        { .op = XENPV_OP_READ, .bytes = 4096, .page = POOL_PAGES }, { .op = XENPV_OP_READ, .bytes = 4608, .page = POOL_PAGES - 1 },
        { .op = XENPV_OP_READ, .bytes = 4096, .page = UINT32_MAX }, { .op = XENPV_OP_WRITE, .bytes = UINT64_MAX - 511 },
        { .op = XENPV_OP_WRITE, .bytes = (POOL_PAGES + 1) * 4096ull }, { .op = XENPV_OP_DISCARD },
        { .op = XENPV_OP_BARRIER, .bytes = 512 }, { .op = XENPV_OP_INDIRECT, .bytes = 512 }, { .op = 99, .bytes = 512 },
    };

    begin(&(struct queue_options){ 0 });
    for (unsigned i = 0; i < sizeof bad / sizeof *bad; i++) {
        CHECK_EQ(xenpv_front_exchange(queue.front, &bad[i], 1, &accepted, done, 4, 1, -1, -1), -EINVAL);
        CHECK_EQ(accepted, 0);
        CHECK_EQ(xenpv_front_pending(queue.front), 0);
    }
    queue_close(&queue);
}

TEST(a_full_table_takes_no_more)
{
    struct xenpv_io ios[8] = { 0 }, done[8];
    uint32_t accepted;

    begin(&(struct queue_options){ .max_ios = 5 });
    for (uint32_t i = 0; i < 8; i++)
        ios[i] = (struct xenpv_io){ .op = XENPV_OP_READ, .bytes = 4096, .page = i };
    CHECK_EQ(xenpv_front_exchange(queue.front, ios, 8, &accepted, done, 8, 0, 0, -1), 0);
    CHECK_EQ(accepted, 5);
    CHECK_EQ(xenpv_front_pending(queue.front), 5);
    queue_close(&queue);
}

TEST(time_over_and_wake_descriptor_end_the_wait)
{
    struct xenpv_io done[4];
    uint32_t accepted;
    int wake = eventfd(0, EFD_NONBLOCK);
    uint64_t one = 1;

    CHECK(wake >= 0);
    begin(&(struct queue_options){ .flag = 1 });
    CHECK_EQ(submit(XENPV_OP_READ, 4096, 0), 0);
    CHECK_EQ(xenpv_front_exchange(queue.front, NULL, 0, &accepted, done, 4, 1, 1000000, wake), 0);
    CHECK_EQ(write(wake, &one, sizeof one), sizeof one);
    CHECK_EQ(xenpv_front_exchange(queue.front, NULL, 0, &accepted, done, 4, 1, -1, wake), 0);
    CHECK_EQ(xenpv_front_stats(queue.front)->rescues, 0);
    close(wake);
    queue_close(&queue);
}

static void nothing(int number)
{
    (void)number;
}

TEST(a_signal_ends_the_wait)
{
    struct xenpv_io done[4];
    uint32_t accepted;
    struct sigaction action = { .sa_handler = nothing }; /* without SA_RESTART */
    /* Again and again, in case the first comes before the sleep. */
    struct itimerval timer = { { 0, 10000 }, { 0, 10000 } }, off = { { 0, 0 }, { 0, 0 } };

    sigaction(SIGVTALRM, &action, NULL);
    sigaction(SIGALRM, &action, NULL);
    begin(&(struct queue_options){ 0 });
    CHECK_EQ(submit(XENPV_OP_READ, 4096, 0), 0);
    setitimer(ITIMER_REAL, &timer, NULL);
    CHECK_EQ(xenpv_front_exchange(queue.front, NULL, 0, &accepted, done, 4, 1, -1, -1), -EINTR);
    setitimer(ITIMER_REAL, &off, NULL);
    CHECK_EQ(xenpv_front_pending(queue.front), 1);
    queue_close(&queue);
}

/* The one test that wants a rescue: the backend swallows a notification. */
TEST(a_lost_notification_is_mended_and_counted)
{
    struct xenpv_io done[4];
    uint32_t accepted;
    uint64_t value;

    begin(&(struct queue_options){ .flag = 1 });
    CHECK_EQ(xenpv_ring_arm(&back), 0);
    CHECK_EQ(submit(XENPV_OP_READ, 4096, 0), 0);
    CHECK_EQ(read(queue.channel.back_wait, &value, sizeof value), sizeof value); /* lost */
    CHECK_EQ(xenpv_front_exchange(queue.front, NULL, 0, &accepted, done, 4, 1, 1500000000, -1), 0);
    CHECK_EQ(xenpv_front_stats(queue.front)->rescues, 1);
    CHECK_EQ(read(queue.channel.back_wait, &value, sizeof value), sizeof value); /* sent again */
    queue_close(&queue);
}
