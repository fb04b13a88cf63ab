/* Counting how long requests took, per operation and stage, in buckets that Python reads (xenpv/latency).
 *
 * RULES
 * - Off, this costs a comparison a request; on, some additions a stage: no clock is read here, and nothing is allocated.
 * - One thread writes an area. Each field is whole for whoever reads it meanwhile, and two may be of different moments.
 * - Nothing is dropped: what has no bucket is counted as under- or overflow, and is in the sum.
 * - A claim of the other end that cannot be is counted as refused, and is in no histogram. */
#ifndef XENPV_LATENCY_H
#define XENPV_LATENCY_H

#include "api.h"
#include "stamp.h"
#include "wire.h"

/* The row of BLKIF_OP_*, or -1: it is not measured. */
static inline int xenpv_latency_row(uint8_t op)
{
    static const int8_t rows[8] = { [XENPV_OP_READ] = 1, [XENPV_OP_WRITE] = 2, [XENPV_OP_FLUSH] = 3, [XENPV_OP_DISCARD] = 4 };

    return rows[op & 7] - 1;
}

/* The histograms of one operation, one a stage. */
static inline struct xenpv_histogram *xenpv_latency_stages(struct xenpv_latency *area, int row)
{
    return (struct xenpv_histogram *)(area + 1) + (uint32_t)row * area->stages;
}

/* Without stamps the stamper becomes the clock `unit`. A step in nanoseconds, or 0: there is no such clock. */
uint64_t xenpv_latency_clock(struct xenpv_stamper *stamper, uint32_t unit);
/* The stamps come from another page: `area` (NULL: not measured) begins anew if that counts by another tick. */
void xenpv_latency_set_page(struct xenpv_latency *area, struct xenpv_stamper *stamper, const void *page);

static inline void xenpv_histogram_add(struct xenpv_histogram *histogram, int64_t value)
{
    histogram->total += value;
    if (__builtin_expect((uint64_t)value < XENPV_HISTOGRAM_LIMIT, 1)) {
        uint32_t small = (uint32_t)value;
        /* The highest bit's number less 6, and 0 below 128. */
        unsigned shift = 31u - XENPV_HISTOGRAM_BITS - (unsigned)__builtin_clz(small | 1u << XENPV_HISTOGRAM_BITS);
        histogram->bucket[(shift << XENPV_HISTOGRAM_BITS) + (small >> shift)]++;
    } else if (value < 0) {
        histogram->underflow++;
        if (value < histogram->least)
            histogram->least = value;
    } else {
        histogram->overflow++;
    }
    if (value > histogram->greatest)
        histogram->greatest = value;
}

#endif
