#include "measured.h"

#include <string.h>
#include <time.h>

#include "front.h"

uint64_t moved_ns;

int __real_clock_gettime(clockid_t clock, struct timespec *t);
int __wrap_clock_gettime(clockid_t clock, struct timespec *t);

int __wrap_clock_gettime(clockid_t clock, struct timespec *t)
{
    if (!moved_ns)
        return __real_clock_gettime(clock, t);
    moved_ns += LOOK_NS;
    *t = (struct timespec){ (time_t)(moved_ns / 1000000000u), (long)(moved_ns % 1000000000u) };
    return 0;
}

struct queue queue;
static _Alignas(8) uint8_t page[XENPV_PAGE_SIZE];
uint64_t now, disruptions;

void tick(uint64_t ticks)
{
    now += ticks;
    xenpv_time_write(page, now, 0, 0, disruptions, 0);
}

void begin(uint32_t stamp, uint32_t front_stamp, uint32_t clock)
{
    now = UINT64_C(0xfffffffa); /* the stamps of most tests wrap */
    disruptions = 0;
    memset(page, 0, sizeof page);
    xenpv_time_init(page, &(struct xenpv_time_page){ .alive = 1, .tick_nsec = QUEUE_TICK_NS, .hz = 250 });
    tick(0);
    queue_open(&queue, &(struct queue_options){ .stamp = stamp, .front_stamp = front_stamp, .time_page = page,
                                                .latency = 1, .clock = clock });
    queue_front(&queue);
    queue_back(&queue, -1, 1000, 0);
}

void submit(uint8_t op)
{
    struct xenpv_io io = { .op = op, .bytes = op == XENPV_OP_FLUSH ? 0 : 4096 };
    uint32_t accepted;

    CHECK_EQ(xenpv_front_exchange(queue.front, &io, 1, &accepted, NULL, 0, 0, 0, -1), 0);
}

void reap(void)
{
    struct xenpv_io done;
    uint32_t accepted;

    CHECK_EQ(xenpv_front_exchange(queue.front, NULL, 0, &accepted, &done, 1, 1, 0, -1), 1);
}

void round_trip(uint8_t op, uint64_t queued, uint64_t stored, uint64_t reaped)
{
    submit(op);
    tick(queued);
    struct xenpv_request request = queue_fetch(&queue);
    tick(stored);
    queue_answer(&queue, request);
    tick(reaped);
    reap();
}

struct xenpv_latency *front_area(void)
{
    return (struct xenpv_latency *)(uintptr_t)xenpv_front_latency(queue.front);
}

uint64_t count_of(const struct xenpv_histogram *histogram)
{
    uint64_t count = histogram->underflow + histogram->overflow;

    for (size_t i = 0; i < sizeof histogram->bucket / sizeof *histogram->bucket; i++)
        count += histogram->bucket[i];
    return count;
}

int64_t total_of(struct xenpv_latency *area, int stage)
{
    return xenpv_latency_stages(area, 0)[stage].total;
}
