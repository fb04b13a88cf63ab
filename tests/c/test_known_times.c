/* Times that are known beforehand, measured: each stage, at both ends, and the whole beside a clock outside. */
#include <errno.h>
#include <time.h>
#include <unistd.h>

#include "clock.h"
#include "measured.h"
#include "stamp.h"

/* What reads of storage take in turn, in nanoseconds or in ticks of the page. */
static uint64_t takes[3], reads;
static void (*pass_time)(uint64_t);

static ssize_t take_time(int fd, void *to, size_t bytes, off_t offset)
{
    pass_time(takes[reads++ % 3]);
    return __real_pread(fd, to, bytes, offset);
}

static int within(int64_t steps, uint64_t ns)
{
    return steps * 1000 > (int64_t)ns - 1000 && steps * 1000 < (int64_t)ns + 1000;
}

/* The storage takes what it takes, and so does the way to it and back: each stage is that within a step, at both ends, and
 * the whole is what a clock outside says. */
TEST(known_times_are_measured_within_a_step_whatever_the_phase)
{
    static const int stages[] = { XENPV_STAGE_QUEUED, XENPV_STAGE_STORED, XENPV_STAGE_REAPED, XENPV_STAGE_TOTAL };
    uint64_t seed = 7;

    begin(XENPV_STAMP_US, XENPV_STAMP_US, 0);
    queue.back->stamper.counts = 0; /* cycles do not move with this clock */
    moved_ns = 5000000000;
    for (int i = 0; i < 3000; i++) {
        uint64_t known[3], before[4] = { 0 };
        for (int k = 0; k < 3; k++) {
            seed = seed * 6364136223846793005u + 1442695040888963407u;
            known[k] = (seed >> 33) % (k == 1 ? 30000000 : 30000);
        }
        for (int k = 0; k < 4; k++)
            before[k] = (uint64_t)total_of(front_area(), stages[k]);
        uint64_t began = xenpv_clock_ns(CLOCK_MONOTONIC);
        submit(XENPV_OP_READ);
        moved_ns += known[0];
        struct xenpv_request request = queue_fetch(&queue);
        moved_ns += known[1];
        queue_answer(&queue, request);
        moved_ns += known[2];
        reap();
        uint64_t outside = xenpv_clock_ns(CLOCK_MONOTONIC) - began;
        for (int k = 0; k < 3; k++)
            CHECK(within(total_of(front_area(), stages[k]) - (int64_t)before[k], known[k] + LOOK_NS));
        CHECK(within(total_of(front_area(), XENPV_STAGE_TOTAL) - (int64_t)before[3], outside - 2 * LOOK_NS));
    }
    CHECK_EQ(total_of(front_area(), XENPV_STAGE_STORED), total_of(queue.latency, XENPV_STAGE_STORED));
    CHECK_EQ(total_of(front_area(), XENPV_STAGE_SERVICE), total_of(queue.latency, XENPV_STAGE_SERVICE));
    CHECK_EQ(front_area()->counts[0].unknown + front_area()->counts[0].refused, 0);
    moved_ns = 0;
    queue_close(&queue);
}

static void move_clock(uint64_t by)
{
    moved_ns += by;
}

/* The core's own storage, whose reads take known times. Of three at once, done in line, each waits for those before it, and its
 * answer for those after it: so every stage of every request is known. In `unit` steps, by up to `blur` more for looks. */
static void storage_of_known_times(uint32_t stamp, void (*move)(uint64_t), uint64_t step, uint64_t most, int64_t blur)
{
    struct xenpv_service *service;
    uint64_t seed = 11;
    uint8_t *model;
    int error = 0, fd = disk_open(1024, 1, &model);

    begin(stamp, stamp, 0);
    xenpv_back_close(queue.back);
    queue.options.inline_io = 1;
    queue_back(&queue, fd, 1024, 0);
    queue.back->stamper.counts = 0; /* cycles do not move with this clock */
    service = xenpv_service_new(XENPV_ENGINE_THREADS, &error);
    CHECK(service != NULL);
    CHECK_EQ(xenpv_service_add(service, queue.back), 0);
    pass_time = move;
    disk_read = take_time;
    moved_ns = stamp == XENPV_STAMP_US ? 5000000000 : 0;
    for (int i = 0; i < 500; i++) {
        struct xenpv_histogram *ends[] = { xenpv_latency_stages(queue.latency, 0), xenpv_latency_stages(front_area(), 0) };
        int64_t before[2][XENPV_STAGES];
        for (int end = 0; end < 2; end++)
            for (int stage = 0; stage < (end ? XENPV_STAGES : XENPV_STAGE_REAPED); stage++)
                before[end][stage] = ends[end][stage].total;
        for (int k = 0; k < 3; k++) {
            seed = seed * 6364136223846793005u + 1442695040888963407u;
            takes[k] = (seed >> 33) % most * step;
        }
        struct xenpv_io io[3], done[3];
        for (int k = 0; k < 3; k++)
            io[k] = (struct xenpv_io){ .op = XENPV_OP_READ, .bytes = 512, .page = (uint32_t)k };
        uint32_t accepted;
        CHECK_EQ(xenpv_front_exchange(queue.front, io, 3, &accepted, NULL, 0, 0, 0, -1), 0);
        for (int k = 0; k < 2; k++) { /* the first run may only take the event */
            xenpv_service_stop(service);
            CHECK_EQ(xenpv_service_run(service), 0);
        }
        CHECK_EQ(xenpv_front_exchange(queue.front, NULL, 0, &accepted, done, 3, 3, 0, -1), 3);
        int64_t one = (int64_t)(takes[0] / step), two = (int64_t)(takes[1] / step), three = (int64_t)(takes[2] / step);
        int64_t known[XENPV_STAGES] = {
            [XENPV_STAGE_WAITED] = one + one + two, [XENPV_STAGE_STORED] = one + two + three,
            [XENPV_STAGE_ANSWERED] = two + three + three, [XENPV_STAGE_SERVICE] = 3 * (one + two + three),
            [XENPV_STAGE_TOTAL] = 3 * (one + two + three),
        };
        for (int end = 0; end < 2; end++)
            for (int stage = 0; stage < (end ? XENPV_STAGES : XENPV_STAGE_REAPED); stage++) {
                int64_t error_of = ends[end][stage].total - before[end][stage] - known[stage];
                CHECK(error_of >= -blur && error_of <= blur);
            }
    }
    disk_read = NULL;
    moved_ns = 0;
    CHECK_EQ(xenpv_service_remove(service, queue.back), 0);
    xenpv_service_free(service);
    queue_close(&queue);
    disk_check(fd, model, 1024);
}

TEST(storage_of_known_times_in_microseconds)
{
    storage_of_known_times(XENPV_STAMP_US, move_clock, 1000, 30000, 3); /* a step and the looks, of three requests */
}

TEST(storage_of_known_times_in_ticks)
{
    storage_of_known_times(XENPV_STAMP_TICK, tick, 1, 300, 0);
}

TEST(a_clock_around_single_requests_says_no_less_than_their_stages)
{
    struct queue *queues[] = { &queue };
    struct xenpv_io io = { .op = XENPV_OP_READ, .bytes = 512 };
    struct server server;
    uint64_t ns[50], outside = 0;
    uint8_t *model;
    int fd = disk_open(1024, 1, &model);

    queue_open(&queue, &(struct queue_options){ .latency = 1, .clock = XENPV_STAMP_US, .inline_io = 1, .flag = 1 });
    queue_front(&queue);
    queue_back(&queue, fd, 1024, 0);
    server_start(&server, XENPV_ENGINE_AUTO, queues, 1);
    CHECK_EQ(xenpv_front_time(queue.front, &io, ns, 50), 0);
    for (int i = 0; i < 50; i++)
        outside += ns[i];
    CHECK_EQ(count_of(&xenpv_latency_stages(front_area(), 0)[XENPV_STAGE_TOTAL]), 50);
    CHECK(total_of(front_area(), XENPV_STAGE_TOTAL) <= (int64_t)(outside / 1000) + 50);
    io.sector = 1024;
    CHECK_EQ(xenpv_front_time(queue.front, &io, ns, 50), -EIO);
    server_stop(&server);
    disk_check(fd, model, 1024);
    queue_close(&queue);
}
