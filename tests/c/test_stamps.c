/* Stamps of requests, by a time page whose tick the test moves. */
#include <string.h>

#include "front.h"
#include "queue.h"
#include "stamp.h"

#define TICK UINT64_C(0xfffffffa) /* so that the stamps of most tests wrap */

static struct queue queue;
static _Alignas(8) uint8_t page[XENPV_PAGE_SIZE];
static uint64_t now, disruptions;

static void tick(uint64_t ticks)
{
    now += ticks;
    xenpv_time_write(page, now, 0, 0, disruptions, 0);
}

static void begin(uint32_t back, uint32_t front)
{
    now = TICK;
    disruptions = 0;
    memset(page, 0, sizeof page);
    xenpv_time_init(page, &(struct xenpv_time_page){ .alive = 1, .tick_nsec = 4000000, .hz = 250 });
    tick(0);
    queue_open(&queue, &(struct queue_options){ .stamp = back, .front_stamp = front, .time_page = page });
    queue_front(&queue);
    queue_back(&queue, -1, 1000, 0);
}

static struct xenpv_io one_read(void)
{
    return (struct xenpv_io){ .op = XENPV_OP_READ, .bytes = 4096 };
}

static void submit(void)
{
    struct xenpv_io io = one_read();
    uint32_t accepted;

    CHECK_EQ(xenpv_front_exchange(queue.front, &io, 1, &accepted, NULL, 0, 0, 0, -1), 0);
    CHECK_EQ(accepted, 1);
}

static struct xenpv_sample reap(void)
{
    struct xenpv_io done;
    struct xenpv_sample sample = { 0 };
    uint32_t accepted;

    CHECK_EQ(xenpv_front_exchange(queue.front, NULL, 0, &accepted, &done, 1, 1, 0, -1), 1);
    CHECK_EQ(done.status, XENPV_RSP_OKAY);
    xenpv_front_samples(queue.front, &sample, 1);
    return sample;
}

/* One request: so many ticks until it is fetched, stored and reaped. */
static struct xenpv_sample round_trip(uint64_t queued, uint64_t stored, uint64_t reaped)
{
    struct xenpv_request request;

    submit();
    tick(queued);
    request = queue_fetch(&queue);
    tick(stored);
    queue_answer(&queue, request);
    tick(reaped);
    return reap();
}

/* The one request that is answered, of whose stages neither end knows. */
static void reap_unknown(void)
{
    CHECK_EQ(reap().known, 0);
    CHECK_EQ(queue.stats.stages_unknown, 1);
    CHECK_EQ(xenpv_front_stats(queue.front)->stages_unknown, 1);
}

static uint8_t *slot(uint32_t index)
{
    return xenpv_ring_slot(&queue.front->ring, index);
}

TEST(stages_are_what_the_clock_says_across_the_wrap)
{
    begin(XENPV_STAMP_TICK, XENPV_STAMP_TICK);
    struct xenpv_sample sample = round_trip(5, 7, 2);
    const struct xenpv_front_stats *stats = xenpv_front_stats(queue.front);

    CHECK_EQ(sample.submit, (uint32_t)TICK);
    CHECK_EQ(sample.fetch, (uint32_t)(TICK + 5));
    CHECK_EQ(sample.start, sample.fetch);
    CHECK_EQ(sample.end, (uint32_t)(TICK + 12));
    CHECK_EQ(sample.response, sample.end);
    CHECK_EQ(sample.reap, (uint32_t)(TICK + 14));
    CHECK_EQ(sample.known, 1);
    CHECK_EQ(stats->stages, 1);
    CHECK_EQ(stats->time_queued, 5);
    CHECK_EQ(stats->time_stored, 7);
    CHECK_EQ(stats->time_reaped, 2);
    CHECK_EQ(stats->time_total, 14);
    CHECK_EQ(queue.stats.stamps, 1);
    CHECK_EQ(queue.stats.time_queued, 5);
    CHECK_EQ(queue.stats.time_stored, 7);
    CHECK_EQ(queue.stats.stamp_unit, XENPV_STAMP_TICK);
    queue_close(&queue);
}

TEST(the_total_is_the_sum_of_the_stages)
{
    begin(XENPV_STAMP_TICK, XENPV_STAMP_TICK);
    for (uint64_t i = 0; i < 200; i++)
        round_trip(i % 7, i % 11, i % 3);
    const struct xenpv_front_stats *stats = xenpv_front_stats(queue.front);
    CHECK_EQ(stats->stages, 200);
    CHECK_EQ(stats->time_total, stats->time_queued + stats->time_waited + stats->time_stored + stats->time_answered +
                                    stats->time_reaped);
    queue_close(&queue);
}

/* A tick whose low half is 0 would say "no time". */
TEST(a_stamp_is_never_zero)
{
    begin(XENPV_STAMP_TICK, XENPV_STAMP_TICK);
    tick((UINT64_C(1) << 32) - TICK);
    CHECK_EQ(round_trip(0, 0, 0).submit, 1);
    CHECK_EQ(xenpv_front_stats(queue.front)->stages, 1);
    queue_close(&queue);
}

TEST(microseconds_need_no_page)
{
    begin(XENPV_STAMP_US, XENPV_STAMP_US);
    xenpv_time_set_alive(page, 1);
    struct xenpv_sample sample = round_trip(1, 1, 1);
    CHECK_EQ(sample.known, 1);
    CHECK(sample.reap - sample.submit < 60000000);
    queue_close(&queue);
}

TEST(without_stamps_a_request_has_zeros_and_a_response_ends_where_it_ends)
{
    begin(0, 0);
    submit();
    CHECK_EQ(xenpv_get_u32(slot(0) + XENPV_AT_SUBMIT), 0);
    struct xenpv_request request;
    CHECK_EQ(xenpv_back_next(queue.back, &request, 1, 0, -1), 1);
    request.status = 0;
    memset(slot(0) + XENPV_AT_FETCHED, 0xa5, 16);
    queue_answer(&queue, request);
    for (unsigned i = XENPV_AT_FETCHED; i < XENPV_STAMPED_RESPONSE; i++)
        CHECK_EQ(slot(0)[i], 0xa5);
    reap();
    CHECK_EQ(xenpv_front_stats(queue.front)->stages + xenpv_front_stats(queue.front)->stages_unknown, 0);
    CHECK_EQ(queue.stats.stamps + queue.stats.stamps_absent + queue.stats.stages + queue.stats.stages_unknown, 0);
    queue_close(&queue);
}

/* A backend that did not offer them met by a frontend that writes them all the same, and the other way round. */
TEST(one_end_alone_harms_nothing)
{
    for (uint32_t back = 0; back < 2; back++) {
        begin(back ? XENPV_STAMP_TICK : 0, back ? 0 : XENPV_STAMP_TICK);
        round_trip(1, 2, 3);
        CHECK_EQ(queue.stats.stamps, 0);
        CHECK_EQ(queue.stats.stamps_absent, back);
        CHECK_EQ(queue.stats.stages, back);
        CHECK_EQ(xenpv_front_stats(queue.front)->stages, 0);
        queue_close(&queue);
    }
}

static void claim(uint32_t stamp)
{
    submit();
    xenpv_put_u32(slot(queue.front->ring.produced - 1) + XENPV_AT_SUBMIT, stamp);
    queue_answer(&queue, queue_fetch(&queue));
    reap();
}

TEST(what_the_frontend_claims_is_counted_by_kind)
{
    begin(XENPV_STAMP_TICK, XENPV_STAMP_TICK);
    tick(1000000);
    claim((uint32_t)now - 10);
    CHECK_EQ(queue.stats.stamps, 1);
    CHECK_EQ(queue.stats.time_queued, 10);
    claim(0);
    CHECK_EQ(queue.stats.stamps_absent, 1);
    claim((uint32_t)now + 1); /* the page of the other end may be one tick newer */
    CHECK_EQ(queue.stats.stamps, 2);
    claim((uint32_t)now + 2);
    claim((uint32_t)now + 0x7fffffff);
    CHECK_EQ(queue.stats.stamps_future, 2);
    claim((uint32_t)now - 120001);
    claim((uint32_t)now - 0x7fffffff);
    CHECK_EQ(queue.stats.stamps_stale, 2);
    CHECK_EQ(queue.stats.time_queued, 10); /* none of them got into the sum */
    CHECK_EQ(queue.stats.stages, 7);       /* our own stages are what they are */
    CHECK_EQ(queue.stats.errors + queue.stats.refused + queue.stats.halted, 0);
    queue_close(&queue);
}

static struct xenpv_sample forged(unsigned at, uint32_t stamp)
{
    struct xenpv_request request;

    submit();
    request = queue_fetch(&queue);
    queue_answer(&queue, request);
    xenpv_put_u32(slot(queue.front->ring.consumed) + at, stamp);
    return reap();
}

TEST(what_the_backend_claims_is_held_against_our_own_two)
{
    begin(XENPV_STAMP_TICK, XENPV_STAMP_TICK);
    tick(1000000);
    for (unsigned at = XENPV_AT_FETCHED; at <= XENPV_AT_ANSWERED; at += 4) {
        CHECK_EQ(forged(at, (uint32_t)now + 5).known, 0);
        CHECK_EQ(forged(at, (uint32_t)now - 5).known, 0);
        CHECK_EQ(forged(at, (uint32_t)now + 0x80000000).known, 0);
        CHECK_EQ(forged(at, 0).known, 0);
    }
    const struct xenpv_front_stats *stats = xenpv_front_stats(queue.front);
    CHECK_EQ(stats->stages_wrong, 12);
    CHECK_EQ(stats->stages_unknown, 4);
    CHECK_EQ(stats->stages + stats->time_total + stats->errors, 0);
    queue_close(&queue);
}

TEST(a_disruption_makes_what_was_under_way_unknown)
{
    begin(XENPV_STAMP_TICK, XENPV_STAMP_TICK);
    submit();
    struct xenpv_request request = queue_fetch(&queue);
    disruptions++;
    tick(1);
    queue_answer(&queue, request);
    reap_unknown();
    CHECK_EQ(round_trip(1, 1, 1).known, 1);
    queue_close(&queue);
}

/* What stood in the ring when the time was disrupted has a claim of another time; what comes after it has not. */
TEST(a_claim_from_before_a_disruption_is_none)
{
    begin(XENPV_STAMP_TICK, XENPV_STAMP_TICK);
    CHECK_EQ(round_trip(1, 1, 1).known, 1);
    submit();
    submit();
    disruptions++;
    tick(1000); /* declared */
    queue_answer(&queue, queue_fetch(&queue));
    queue_answer(&queue, queue_fetch(&queue));
    CHECK_EQ(reap().known, 0);
    CHECK_EQ(queue.stats.stamps_absent, 2);
    CHECK_EQ(queue.stats.time_queued, 1);
    CHECK_EQ(round_trip(1, 1, 1).known, 1);
    CHECK_EQ(queue.stats.stamps, 2);
    queue_close(&queue);
}

TEST(a_tick_that_goes_back_makes_what_was_under_way_unknown)
{
    begin(XENPV_STAMP_TICK, XENPV_STAMP_TICK);
    submit();
    struct xenpv_request request = queue_fetch(&queue);
    tick(UINT64_MAX - 2); /* by three */
    queue_answer(&queue, request);
    CHECK_EQ(reap().known, 0);
    CHECK_EQ(queue.stats.stages_unknown, 1);
    CHECK_EQ(queue.stats.stages + queue.stats.time_answered + queue.stats.time_stored, 0);
    CHECK_EQ(round_trip(1, 1, 1).known, 1);
    queue_close(&queue);
}

TEST(without_a_clock_there_are_no_stages_and_the_data_moves)
{
    begin(XENPV_STAMP_TICK, XENPV_STAMP_TICK);
    xenpv_time_set_alive(page, 0);
    CHECK_EQ(round_trip(1, 1, 1).submit, 0);
    CHECK_EQ(queue.stats.stamps_absent, 1);
    CHECK_EQ(queue.stats.stages_unknown, 1);
    xenpv_time_set_alive(page, 1);
    CHECK_EQ(round_trip(1, 1, 1).known, 1);
    queue_close(&queue);
}

TEST(another_page_makes_what_was_under_way_unknown)
{
    static _Alignas(8) uint8_t other[XENPV_PAGE_SIZE];

    begin(XENPV_STAMP_TICK, XENPV_STAMP_TICK);
    memcpy(other, page, sizeof page); /* nothing in its values tells them apart */
    submit();
    struct xenpv_request request = queue_fetch(&queue);
    xenpv_back_set_time_page(queue.back, other);
    xenpv_front_set_time_page(queue.front, other);
    queue_answer(&queue, request);
    reap_unknown();
    CHECK_EQ(round_trip(0, 0, 0).known, 1);
    queue_close(&queue);
}

TEST(the_newest_samples_are_kept)
{
    static struct xenpv_sample samples[XENPV_SAMPLES];

    begin(XENPV_STAMP_TICK, XENPV_STAMP_TICK);
    for (uint32_t i = 0; i < XENPV_SAMPLES + 10; i++) {
        tick(1);
        submit();
        queue_answer(&queue, queue_fetch(&queue));
        struct xenpv_io done;
        uint32_t accepted;
        CHECK_EQ(xenpv_front_exchange(queue.front, NULL, 0, &accepted, &done, 1, 1, 0, -1), 1);
    }
    CHECK_EQ(xenpv_front_samples(queue.front, samples, XENPV_SAMPLES), XENPV_SAMPLES);
    CHECK_EQ(samples[0].submit, (uint32_t)(TICK + 11));
    CHECK_EQ(samples[XENPV_SAMPLES - 1].submit, (uint32_t)now);
    CHECK_EQ(xenpv_front_samples(queue.front, samples, XENPV_SAMPLES), 0);
    queue_close(&queue);
}

TEST(a_request_that_is_refused_has_its_stamps)
{
    begin(XENPV_STAMP_TICK, XENPV_STAMP_TICK);
    struct xenpv_io io = one_read(), done;
    struct xenpv_sample sample;
    uint32_t accepted;
    struct xenpv_request request;

    io.sector = 1000; /* beyond the end */
    CHECK_EQ(xenpv_front_exchange(queue.front, &io, 1, &accepted, &done, 0, 0, 0, -1), 0);
    tick(3);
    CHECK_EQ(xenpv_back_next(queue.back, &request, 1, 0, -1), 0);
    CHECK_EQ(xenpv_front_exchange(queue.front, NULL, 0, &accepted, &done, 1, 1, 0, -1), 1);
    CHECK_EQ(done.status, XENPV_RSP_ERROR);
    CHECK_EQ(xenpv_front_samples(queue.front, &sample, 1), 1);
    CHECK(sample.known && sample.fetch - sample.submit == 3 && sample.end == sample.fetch);
    queue_close(&queue);
}

TEST(served_disks_stamp_in_every_way_of_io)
{
    static const uint32_t inlines[] = { 0, 1 };

    for (unsigned i = 0; i < 2; i++)
        for (uint32_t engine = XENPV_ENGINE_AUTO; engine <= XENPV_ENGINE_THREADS; engine += 2) {
            struct queue *queues[] = { &queue };
            struct server server;
            uint8_t *model;
            int fd = disk_open(16384, 1, &model);

            queue_open(&queue, &(struct queue_options){ .stamp = XENPV_STAMP_US, .front_stamp = XENPV_STAMP_US,
                                                        .inline_io = inlines[i], .flag = 1 });
            queue_front(&queue);
            queue_back(&queue, fd, 16384, 0);
            server_start(&server, (int)engine, queues, 1);
            queue_exercise(&queue, model, 16384, 300, 8, 4, 7);
            server_stop(&server);
            const struct xenpv_front_stats *stats = xenpv_front_stats(queue.front);
            CHECK(stats->stages >= 300);
            CHECK_EQ(stats->stages_wrong + stats->stages_unknown, 0);
            CHECK_EQ(queue.stats.stamps_future + queue.stats.stamps_stale + queue.stats.stamps_absent, 0);
            CHECK_EQ(queue.stats.stages, stats->stages);
            disk_check(fd, model, 16384);
            queue_close(&queue);
        }
}
