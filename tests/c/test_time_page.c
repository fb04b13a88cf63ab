/* dom0's time page: one writer beside one reader, and what a stamper makes of another page. */
#include <string.h>

#include "latency.h"
#include "queue.h"
#include "stamp.h"

static _Alignas(8) uint8_t page[XENPV_PAGE_SIZE], other[XENPV_PAGE_SIZE];

static void page_of(void *memory, uint32_t tick_nsec, uint64_t tick, uint64_t disruptions)
{
    memset(memory, 0, XENPV_PAGE_SIZE);
    xenpv_time_init(memory, &(struct xenpv_time_page){ .alive = 1, .tick_nsec = tick_nsec, .hz = 250 });
    xenpv_time_write(memory, tick, 0, 0, disruptions, 0);
}

TEST(stamps_by_another_page_are_of_another_epoch)
{
    struct xenpv_stamper stamper = { .unit = XENPV_STAMP_TICK, .page = page };
    struct xenpv_stamp before, after;

    page_of(page, 4000000, 77, 0);
    page_of(other, 4000000, 77, 0);
    before = xenpv_stamp_now(&stamper);
    CHECK_EQ(xenpv_stamp_now(&stamper).epoch, before.epoch);
    xenpv_stamp_set_page(&stamper, other);
    xenpv_time_write(page, 1000, 0, 0, 0, 0); /* it is read no more */
    after = xenpv_stamp_now(&stamper);
    CHECK(before.value == 77 && after.value == 77 && before.epoch != after.epoch);
}

TEST(stamps_across_a_disruption_are_of_another_epoch)
{
    struct xenpv_stamper stamper = { .unit = XENPV_STAMP_TICK, .page = page };
    uint32_t before;

    page_of(page, 4000000, 77, 5);
    before = xenpv_stamp_now(&stamper).epoch;
    xenpv_time_write(page, 78, 0, 0, 6, 0);
    CHECK(xenpv_stamp_now(&stamper).epoch != before);
}

TEST(a_page_that_comes_late_ends_the_time_without_one)
{
    struct xenpv_stamper stamper = { .unit = XENPV_STAMP_TICK };

    page_of(page, 4000000, 77, 0);
    CHECK_EQ(xenpv_stamp_now(&stamper).value, 0);
    xenpv_stamp_set_page(&stamper, page);
    CHECK_EQ(xenpv_stamp_now(&stamper).value, 77);
}

TEST(a_page_of_the_same_tick_is_counted_on_by_and_one_of_another_begins_anew)
{
    static struct queue queue;

    page_of(page, 4000000, 77, 0);
    page_of(other, 10000000, 77, 0);
    queue_open(&queue, &(struct queue_options){ .stamp = XENPV_STAMP_TICK, .time_page = page, .latency = 1 });
    queue_back(&queue, -1, 1000, 0);
    CHECK_EQ(queue.latency->resolution_ns, 4000000);
    xenpv_histogram_record(xenpv_latency_stages(queue.latency, 0), 7);
    xenpv_back_set_time_page(queue.back, page);
    CHECK_EQ(xenpv_latency_stages(queue.latency, 0)->total, 7);
    xenpv_back_set_time_page(queue.back, other);
    CHECK_EQ(xenpv_latency_stages(queue.latency, 0)->total, 0);
    CHECK_EQ(queue.latency->resolution_ns, 10000000);
    queue_close(&queue);
}

TEST(a_queue_that_does_not_stamp_in_ticks_takes_no_page)
{
    static struct queue queue;

    queue_open(&queue, &(struct queue_options){ .stamp = XENPV_STAMP_US });
    queue_back(&queue, -1, 1000, 0);
    xenpv_back_set_time_page(queue.back, page);
    CHECK(!queue.back->stamper.page);
    queue_close(&queue);
}
