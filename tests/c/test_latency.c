/* Counting times, by a time page whose tick the test moves, and by clocks of our own. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "front.h"
#include "measured.h"

static void holds(struct xenpv_latency *area, int row, int stage, uint64_t count, int64_t total, int64_t greatest)
{
    const struct xenpv_histogram *histogram = &xenpv_latency_stages(area, row)[stage];

    CHECK_EQ(count_of(histogram), count);
    CHECK_EQ(histogram->total, total);
    CHECK_EQ(histogram->greatest, greatest);
}

TEST(both_ends_count_by_operation_and_stage)
{
    begin(XENPV_STAMP_TICK, XENPV_STAMP_TICK, 0);
    round_trip(XENPV_OP_READ, 5, 7, 2);
    round_trip(XENPV_OP_READ, 1, 200, 1);
    round_trip(XENPV_OP_WRITE, 0, 3, 0);
    round_trip(XENPV_OP_FLUSH, 0, 4, 0);
    round_trip(XENPV_OP_DISCARD, 9, 0, 0);
    for (int end = 0; end < 2; end++) {
        struct xenpv_latency *area = end ? front_area() : queue.latency;
        CHECK_EQ(area->magic, XENPV_LATENCY_MAGIC);
        CHECK_EQ(area->unit, XENPV_STAMP_TICK);
        CHECK_EQ(area->resolution_ns, QUEUE_TICK_NS);
        holds(area, 0, XENPV_STAGE_QUEUED, 2, 6, 5);
        holds(area, 0, XENPV_STAGE_WAITED, 2, 0, 0);
        holds(area, 0, XENPV_STAGE_STORED, 2, 207, 200);
        holds(area, 0, XENPV_STAGE_ANSWERED, 2, 0, 0);
        holds(area, 0, XENPV_STAGE_SERVICE, 2, 207, 200);
        holds(area, 0, XENPV_STAGE_TOTAL, 2, end ? 216 : 213, end ? 202 : 201);
        holds(area, 1, XENPV_STAGE_STORED, 1, 3, 3);
        holds(area, 2, XENPV_STAGE_STORED, 1, 4, 4);
        holds(area, 3, XENPV_STAGE_QUEUED, 1, 9, 9);
        CHECK_EQ(area->counts[0].unknown + area->counts[0].absent + area->counts[0].refused, 0);
    }
    holds(front_area(), 0, XENPV_STAGE_REAPED, 2, 3, 2);
    CHECK_EQ(queue.latency->stages, XENPV_STAGE_REAPED); /* a backend cannot know it */
    queue_close(&queue);
}

TEST(the_stages_of_every_operation_add_up_to_its_total)
{
    begin(XENPV_STAMP_TICK, XENPV_STAMP_TICK, 0);
    for (uint64_t i = 0; i < 300; i++)
        round_trip(i % 2 ? XENPV_OP_READ : XENPV_OP_WRITE, i % 7, i % 311, i % 3);
    for (int row = 0; row < 2; row++) {
        struct xenpv_histogram *stage = xenpv_latency_stages(front_area(), row);
        CHECK_EQ(count_of(&stage[XENPV_STAGE_TOTAL]), 150);
        CHECK_EQ(stage[XENPV_STAGE_TOTAL].total, stage[XENPV_STAGE_QUEUED].total + stage[XENPV_STAGE_SERVICE].total
                                                     + stage[XENPV_STAGE_REAPED].total);
        CHECK_EQ(stage[XENPV_STAGE_SERVICE].total, stage[XENPV_STAGE_WAITED].total + stage[XENPV_STAGE_STORED].total
                                                       + stage[XENPV_STAGE_ANSWERED].total);
    }
    queue_close(&queue);
}

/* A stock guest: nothing is negotiated, nothing is written or read, and the backend's own stages show. */
TEST(without_stamps_each_end_knows_what_its_own_clock_says)
{
    begin(0, 0, XENPV_STAMP_US);
    submit(XENPV_OP_READ);
    struct xenpv_request request = queue_fetch(&queue);
    uint8_t *slot = xenpv_ring_slot(&queue.front->ring, 0);
    CHECK_EQ(xenpv_get_u32(slot + XENPV_AT_SUBMIT), 0);
    memset(slot + XENPV_AT_FETCHED, 0xa5, 16);
    queue_answer(&queue, request);
    for (unsigned i = XENPV_AT_FETCHED; i < XENPV_STAMPED_RESPONSE; i++)
        CHECK_EQ(slot[i], 0xa5);
    reap();
    struct xenpv_histogram *back = xenpv_latency_stages(queue.latency, 0), *front = xenpv_latency_stages(front_area(), 0);
    CHECK_EQ(queue.latency->resolution_ns, 1000);
    CHECK_EQ(count_of(&back[XENPV_STAGE_SERVICE]), 1);
    CHECK_EQ(back[XENPV_STAGE_SERVICE].total, back[XENPV_STAGE_WAITED].total + back[XENPV_STAGE_STORED].total
                                                  + back[XENPV_STAGE_ANSWERED].total);
    CHECK_EQ(count_of(&back[XENPV_STAGE_QUEUED]) + count_of(&back[XENPV_STAGE_TOTAL]), 0);
    CHECK_EQ(queue.latency->counts[0].absent, 1);
    CHECK_EQ(count_of(&front[XENPV_STAGE_TOTAL]), 1);
    CHECK_EQ(count_of(&front[XENPV_STAGE_SERVICE]), 0);
    CHECK(front[XENPV_STAGE_TOTAL].total >= back[XENPV_STAGE_SERVICE].total - 1);
    CHECK_EQ(queue.stats.stamps + queue.stats.stamps_absent, 0);
    queue_close(&queue);
}

TEST(without_stamps_and_without_a_page_ticks_are_the_coarse_clocks)
{
    begin(0, 0, XENPV_STAMP_TICK);
    for (int i = 0; i < 50; i++)
        round_trip(XENPV_OP_READ, 0, 0, 0);
    CHECK_EQ(queue.latency->unit, XENPV_STAMP_TICK);
    CHECK_EQ(count_of(&xenpv_latency_stages(queue.latency, 0)[XENPV_STAGE_SERVICE]), 50);
    CHECK_EQ(count_of(&xenpv_latency_stages(front_area(), 0)[XENPV_STAGE_TOTAL]), 50);
    CHECK_EQ(queue.latency->counts[0].unknown, 0);
    queue_close(&queue);
}

TEST(a_clock_that_is_ahead_by_a_step_is_underflow_and_the_sums_stay_exact)
{
    begin(XENPV_STAMP_TICK, XENPV_STAMP_TICK, 0);
    submit(XENPV_OP_READ);
    xenpv_put_u32(xenpv_ring_slot(&queue.front->ring, 0) + XENPV_AT_SUBMIT, (uint32_t)now + 1);
    struct xenpv_request request = queue_fetch(&queue);
    tick(4);
    queue_answer(&queue, request);
    reap();
    struct xenpv_histogram *back = xenpv_latency_stages(queue.latency, 0);
    CHECK_EQ(back[XENPV_STAGE_QUEUED].underflow, 1);
    CHECK_EQ(back[XENPV_STAGE_QUEUED].total, -1);
    CHECK_EQ(back[XENPV_STAGE_TOTAL].total, 3);
    queue_close(&queue);
}

TEST(claims_that_cannot_be_are_refused_and_counted)
{
    static const uint32_t forged[] = { 5, 0x7fffffff, 0x80000000, 0xffffffff - 120001 };

    begin(XENPV_STAMP_TICK, XENPV_STAMP_TICK, 0);
    tick(1000000);
    for (unsigned i = 0; i < 4; i++) {
        submit(XENPV_OP_READ);
        xenpv_put_u32(xenpv_ring_slot(&queue.front->ring, i) + XENPV_AT_SUBMIT, (uint32_t)now + forged[i]);
        queue_answer(&queue, queue_fetch(&queue));
        xenpv_put_u32(xenpv_ring_slot(&queue.front->ring, i) + XENPV_AT_ENDED, (uint32_t)now + forged[i]);
        reap();
    }
    CHECK_EQ(queue.latency->counts[0].refused, 4);
    CHECK_EQ(front_area()->counts[0].refused, 4);
    CHECK_EQ(count_of(&xenpv_latency_stages(queue.latency, 0)[XENPV_STAGE_TOTAL]), 0);
    CHECK_EQ(count_of(&xenpv_latency_stages(queue.latency, 0)[XENPV_STAGE_SERVICE]), 4); /* our own are what they are */
    for (int stage = 0; stage < XENPV_STAGES; stage++)
        CHECK_EQ(count_of(&xenpv_latency_stages(front_area(), 0)[stage]), 0);
    queue_close(&queue);
}

TEST(what_was_under_way_across_a_disruption_is_unknown)
{
    begin(XENPV_STAMP_TICK, XENPV_STAMP_TICK, 0);
    submit(XENPV_OP_WRITE);
    struct xenpv_request request = queue_fetch(&queue);
    disruptions++;
    tick(1);
    queue_answer(&queue, request);
    reap();
    CHECK_EQ(queue.latency->counts[1].unknown, 1);
    CHECK_EQ(front_area()->counts[1].unknown, 1);
    CHECK_EQ(count_of(&xenpv_latency_stages(queue.latency, 1)[XENPV_STAGE_STORED]), 0);
    queue_close(&queue);
}

TEST(a_request_that_never_reached_the_storage_is_none_of_its_times)
{
    begin(XENPV_STAMP_TICK, XENPV_STAMP_TICK, 0);
    struct xenpv_io io = { .op = XENPV_OP_READ, .bytes = 4096, .sector = 1000 }, done;
    struct xenpv_request request;
    uint32_t accepted;

    CHECK_EQ(xenpv_front_exchange(queue.front, &io, 1, &accepted, &done, 0, 0, 0, -1), 0);
    CHECK_EQ(xenpv_back_next(queue.back, &request, 1, 0, -1), 0);
    reap();
    CHECK_EQ(queue.stats.refused, 1);
    CHECK_EQ(count_of(&xenpv_latency_stages(queue.latency, 0)[XENPV_STAGE_STORED]), 0);
    queue_close(&queue);
}

TEST(an_area_of_the_same_clock_is_gone_on_with_and_another_begins_anew)
{
    struct xenpv_latency *area = calloc(1, xenpv_latency_bytes(XENPV_LATENCY_BACK));

    xenpv_latency_attach(area, XENPV_LATENCY_BACK, XENPV_STAMP_US, 1000);
    xenpv_histogram_record(&xenpv_latency_stages(area, 3)[XENPV_STAGE_TOTAL], 17);
    xenpv_latency_attach(area, XENPV_LATENCY_BACK, XENPV_STAMP_US, 1000);
    holds(area, 3, XENPV_STAGE_TOTAL, 1, 17, 17);
    xenpv_latency_attach(area, XENPV_LATENCY_BACK, XENPV_STAMP_TICK, 4000000);
    holds(area, 3, XENPV_STAGE_TOTAL, 0, 0, 0);
    CHECK_EQ(area->resolution_ns, 4000000);
    free(area);
}

TEST(a_clock_that_cannot_be_is_refused_at_open)
{
    static const uint32_t wrong[] = { 0, 3, UINT32_MAX };

    queue_open(&queue, &(struct queue_options){ .latency = 1 });
    for (unsigned i = 0; i < 3; i++) {
        int error = 0;
        CHECK(!xenpv_front_open(fake_hypervisor(&queue.domain), &(struct xenpv_front_config){
            .abi = 64, .wait_fd = queue.channel.front_wait, .notify_fd = queue.channel.back_wait, .max_ios = 1,
            .ring = queue.domain.memory, .ring_pages = 1, .latency = 1, .clock = wrong[i] }, &error));
        CHECK_EQ(error, EINVAL);
    }
    queue_close(&queue);
}

TEST(served_disks_measure_in_every_way_of_io)
{
    for (uint32_t inlined = 0; inlined < 2; inlined++)
        for (uint32_t engine = XENPV_ENGINE_AUTO; engine <= XENPV_ENGINE_THREADS; engine += 2) {
            struct queue *queues[] = { &queue };
            struct server server;
            uint8_t *model;
            int fd = disk_open(16384, 1, &model);
            uint64_t counted = 0;

            queue_open(&queue, &(struct queue_options){ .latency = 1, .clock = XENPV_STAMP_US, .inline_io = inlined, .flag = 1 });
            queue_front(&queue);
            queue_back(&queue, fd, 16384, 0);
            server_start(&server, (int)engine, queues, 1);
            queue_exercise(&queue, model, 16384, 300, 8, 4, 7);
            server_stop(&server);
            for (int row = 0; row < XENPV_LATENCY_OPERATIONS; row++) {
                struct xenpv_histogram *stage = xenpv_latency_stages(queue.latency, row);
                CHECK_EQ(stage[XENPV_STAGE_SERVICE].total, stage[XENPV_STAGE_WAITED].total + stage[XENPV_STAGE_STORED].total
                                                               + stage[XENPV_STAGE_ANSWERED].total);
                counted += count_of(&stage[XENPV_STAGE_SERVICE]);
            }
            CHECK(counted >= 300);
            CHECK_EQ(counted, queue.stats.stages);
            disk_check(fd, model, 16384);
            queue_close(&queue);
        }
}
