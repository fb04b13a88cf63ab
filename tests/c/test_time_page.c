/* dom0's time page: one writer beside one reader, and what a stamper makes of another page. */
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>

#include "latency.h"
#include "queue.h"
#include "stamp.h"
#include "stepped.h"

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

/* Every field of the page follows from its tick. */
static uint64_t mixed(uint64_t tick, unsigned field)
{
    return (tick + field) * UINT64_C(0x9e3779b97f4a7c15);
}

static void write_tick(void *memory, uint64_t tick)
{
    xenpv_time_write(memory, tick, mixed(tick, 1), mixed(tick, 2), mixed(tick, 3), mixed(tick, 4));
}

static _Atomic int stop;

/* With pauses of every length up to a read's, so that some reads meet a write and some do not. */
static void *write_on(void *unused)
{
    struct test_random r = { 3 };

    (void)unused;
    for (uint64_t tick = 1; !atomic_load(&stop); tick++) {
        write_tick(page, tick);
        for (uint32_t pause = test_random(&r, 400); pause; pause--)
            atomic_signal_fence(memory_order_seq_cst);
    }
    return NULL;
}

static void one_moment(const struct xenpv_time_page *copy)
{
    CHECK_EQ(copy->ns, mixed(copy->tick, 1));
    CHECK_EQ(copy->written_ns, mixed(copy->tick, 2));
    CHECK_EQ(copy->disruptions, mixed(copy->tick, 3));
    CHECK_EQ(copy->missed, mixed(copy->tick, 4));
    CHECK_EQ(copy->history[copy->tick % XENPV_TIME_HISTORY].tick, copy->tick);
    for (unsigned i = 0; i < XENPV_TIME_HISTORY; i++)
        CHECK(copy->history[i].tick <= copy->tick);
}

TEST(what_is_read_beside_a_writer_is_of_one_moment)
{
    struct xenpv_time_page copy;
    uint32_t whole = 0, torn = 0, looks = 0;
    uint64_t tick, disruptions, last = 0;
    pthread_t writer;

    page_of(page, 4000000, 0, mixed(0, 3));
    write_tick(page, 0);
    CHECK_EQ(pthread_create(&writer, NULL, write_on, NULL), 0);
    while (whole < 2000 || torn < 200 || looks < 200000) {
        int result = xenpv_time_read(page, &copy, 1);
        CHECK(result == 0 || result == -EAGAIN);
        if (result == 0) {
            one_moment(&copy);
            CHECK(copy.tick >= last);
            last = copy.tick;
        }
        whole += result == 0;
        torn += result == -EAGAIN;
        for (int i = 0; i < 100; i++) {
            if (xenpv_time_look(page, &tick, &disruptions) != 0)
                continue;
            CHECK_EQ(disruptions, mixed(tick, 3));
            CHECK(tick >= last);
            last = tick;
            looks++;
        }
    }
    atomic_store(&stop, 1);
    CHECK_EQ(pthread_join(writer, NULL), 0);
}

#if !TEST_SANITIZED
/* A reader that is interrupted by writes: `least` of its instructions apart, then twice as many, up to 32 times, and again with
 * one more. So every compiler's read meets some at any of its instructions, and has time for itself now and then. */
struct interrupted {
    _Alignas(8) uint8_t page[XENPV_PAGE_SIZE];
    uint32_t least, left;
    uint64_t tick;
    uint32_t whole, torn; /* the reader's */
};

static void interrupt(void *with)
{
    struct interrupted *reader = with;

    if (reader->left--)
        return;
    write_tick(reader->page, ++reader->tick);
    reader->left = (reader->least << reader->tick % 6) + (uint32_t)reader->tick;
}

static void look_on(void *with)
{
    struct interrupted *reader = with;
    uint64_t tick, disruptions;

    while (reader->whole < 600) {
        if (xenpv_time_look(reader->page, &tick, &disruptions) == 0) {
            CHECK_EQ(disruptions, mixed(tick, 3));
            reader->whole++;
        }
    }
}

static void read_on(void *with)
{
    struct interrupted *reader = with;
    struct xenpv_time_page copy;

    while (reader->whole < 150) {
        int result = xenpv_time_read(reader->page, &copy, 1);
        if (result == 0)
            one_moment(&copy);
        reader->whole += result == 0;
        reader->torn += result == -EAGAIN;
    }
}

static struct interrupted *interrupted_each(uint32_t least, void (*life)(void *))
{
    struct interrupted *reader = mmap(NULL, sizeof *reader, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    CHECK(reader != MAP_FAILED);
    page_of(reader->page, 4000000, 0, 0);
    write_tick(reader->page, 0);
    reader->least = reader->left = least;
    step_through(life, interrupt, reader);
    return reader;
}

TEST(a_look_that_is_interrupted_at_any_instruction_is_of_one_moment)
{
    CHECK_EQ(interrupted_each(23, look_on)->whole, 600);
}

TEST(a_read_that_is_interrupted_at_any_instruction_is_of_one_moment)
{
    CHECK(interrupted_each(700, read_on)->torn > 10);
}
#endif
