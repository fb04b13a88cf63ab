/* A frontend whose clock is another kernel's: tied to dom0's anew, to another dom0's, or not at all. */
#include <string.h>

#include "front.h"
#include "measured.h"

static const struct xenpv_front_stats *stats(void)
{
    return xenpv_front_stats(queue.front);
}

/* A request under way while the frontend's clock is tied anew: to be so much more ahead. */
static void tied_meanwhile(int64_t ahead_ns)
{
    begin(XENPV_STAMP_US, XENPV_STAMP_US, 0);
    submit(XENPV_OP_READ);
    struct xenpv_request request = queue_fetch(&queue);
    xenpv_front_set_ahead(queue.front, ahead_ns, 0);
    queue_answer(&queue, request);
    reap();
}

TEST(two_clocks_that_drift_are_tied_anew_while_a_request_is_under_way)
{
    tied_meanwhile(10000);
    CHECK_EQ(stats()->stages, 1);
    queue_close(&queue);
}

TEST(a_clock_that_is_another_now_makes_what_was_under_way_unknown)
{
    static const int64_t ahead[] = { 2000000, -2000000, INT64_MAX, INT64_MIN };

    for (unsigned i = 0; i < sizeof ahead / sizeof *ahead; i++) {
        tied_meanwhile(ahead[i]);
        CHECK_EQ(stats()->stages_unknown, 1);
        CHECK_EQ(stats()->stages_wrong, 0);
        CHECK_EQ(front_area()->counts[0].unknown, 1);
        queue_close(&queue);
    }
}

TEST(what_a_clock_is_ahead_is_taken_from_the_next_stamp_on)
{
    begin(XENPV_STAMP_US, XENPV_STAMP_US, 0);
    moved_ns = 5000000000;
    xenpv_front_set_ahead(queue.front, 3000000000, 0);
    submit(XENPV_OP_READ);
    struct xenpv_sample sample;
    queue_answer(&queue, queue_fetch(&queue));
    reap();
    CHECK_EQ(xenpv_front_samples(queue.front, &sample, 1), 1);
    CHECK_EQ(sample.submit, 2000000);
    moved_ns = 0;
    queue_close(&queue);
}

/* Also towards a backend that was never asked for stamps. */
TEST(without_a_tie_requests_are_as_without_stamps_and_counted_as_unknown)
{
    begin(0, XENPV_STAMP_US, XENPV_STAMP_US);
    xenpv_front_set_ahead(queue.front, 0, 1);
    submit(XENPV_OP_READ);
    CHECK_EQ(xenpv_get_u32(xenpv_ring_slot(&queue.front->ring, 0) + XENPV_AT_SUBMIT), 0);
    struct xenpv_request request = queue_fetch(&queue);
    memset(xenpv_ring_slot(&queue.front->ring, 0) + XENPV_AT_FETCHED, 0xa5, 16);
    queue_answer(&queue, request);
    reap();
    struct xenpv_sample sample;
    CHECK_EQ(xenpv_front_samples(queue.front, &sample, 1), 1);
    CHECK_EQ(sample.known, 0);
    CHECK_EQ(sample.fetch | sample.start | sample.end | sample.response, 0);
    CHECK_EQ(stats()->stages_unknown, 1);
    xenpv_front_set_ahead(queue.front, 0, 0);
    submit(XENPV_OP_READ);
    CHECK(xenpv_get_u32(xenpv_ring_slot(&queue.front->ring, 1) + XENPV_AT_SUBMIT) != 0);
    queue_close(&queue);
}
