#include "latency.h"

#include <string.h>
#include <time.h>

_Static_assert(sizeof(struct xenpv_latency) % 64 == 0 && sizeof(struct xenpv_histogram) % 64 == 0, "whole cache lines");
_Static_assert(sizeof(((struct xenpv_histogram *)0)->bucket) / sizeof(uint64_t) == (27 - XENPV_HISTOGRAM_BITS + 1) << XENPV_HISTOGRAM_BITS
                   && XENPV_HISTOGRAM_LIMIT == 1 << 27, "a bucket for every value below the limit");

static uint32_t stages_of(uint32_t end)
{
    return end == XENPV_LATENCY_BACK ? XENPV_STAGE_REAPED : XENPV_STAGES;
}

uint64_t xenpv_latency_bytes(uint32_t end)
{
    return sizeof(struct xenpv_latency)
           + (uint64_t)XENPV_LATENCY_OPERATIONS * stages_of(end) * sizeof(struct xenpv_histogram);
}

void xenpv_latency_attach(void *memory, uint32_t end, uint32_t unit, uint64_t resolution_ns)
{
    struct xenpv_latency *area = memory, fresh = {
        .magic = XENPV_LATENCY_MAGIC, .major = XENPV_LATENCY_MAJOR, .minor = XENPV_LATENCY_MINOR,
        .header_bytes = sizeof *area, .histogram_bytes = sizeof(struct xenpv_histogram),
        .operations = XENPV_LATENCY_OPERATIONS, .stages = stages_of(end), .bits = XENPV_HISTOGRAM_BITS,
        .buckets = sizeof(((struct xenpv_histogram *)0)->bucket) / sizeof(uint64_t),
        .unit = unit, .end = end, .resolution_ns = resolution_ns,
    };

    if (memcmp(area, &fresh, offsetof(struct xenpv_latency, counts)) == 0)
        return;
    memset(area, 0, xenpv_latency_bytes(end));
    fresh.magic = 0;
    *area = fresh;
    __atomic_store_n(&area->magic, XENPV_LATENCY_MAGIC, __ATOMIC_RELEASE);
}

uint64_t xenpv_latency_clock(struct xenpv_stamper *stamper, uint32_t unit)
{
    const struct xenpv_time_page *page = stamper->unit ? stamper->page : NULL;
    struct timespec tick = { 0 };

    clock_getres(CLOCK_MONOTONIC_COARSE, &tick); /* the kernel's TICK_NSEC */
    if (!stamper->unit)
        *stamper = (struct xenpv_stamper){ .unit = unit, .counts = stamper->counts, .own_tick_ns = (uint64_t)tick.tv_nsec };
    if (stamper->unit == XENPV_STAMP_US)
        return 1000;
    if (stamper->unit != XENPV_STAMP_TICK)
        return 0;
    return page && page->tick_nsec ? page->tick_nsec : (uint64_t)tick.tv_nsec; /* a page's does not change in its life */
}

void xenpv_latency_set_page(struct xenpv_latency *area, struct xenpv_stamper *stamper, const void *page)
{
    xenpv_stamp_set_page(stamper, page);
    if (area)
        xenpv_latency_attach(area, area->end, stamper->unit, xenpv_latency_clock(stamper, stamper->unit));
}

void xenpv_histogram_record(struct xenpv_histogram *histogram, int64_t value)
{
    xenpv_histogram_add(histogram, value);
}
