/* Stamps of requests: what each end writes, and what it makes of the other's.
 *
 * RULES
 * - Negotiated, for the 64-bit ABI alone: a request's bytes 4-7 carry `submit`; in a response's slot, behind the response,
 *   bytes 16-31 carry fetch, storage start, storage end and response. Without it those of a request are zero, and nobody
 *   reads or writes those behind a response: stock peers leave there what they like.
 * - A stamp is the low 32 bits of a tick or of a microsecond of dom0's clock, and never 0: that says that there was no time
 *   to be had. Differences are signed.
 * - A stamp of the other side is a claim. It is compared, counted, and used for nothing else.
 * - The clock is looked at once a batch.
 * - Who measures without stamps has the same clocks, or its own kernel's tick, and writes nothing anywhere. */
#ifndef XENPV_STAMP_H
#define XENPV_STAMP_H

#include <time.h>

#include "api.h"

enum { XENPV_AT_SUBMIT = 4, XENPV_AT_FETCHED = 16, XENPV_AT_STARTED = 20, XENPV_AT_ENDED = 24, XENPV_AT_ANSWERED = 28,
       XENPV_STAMPED_RESPONSE = 32 };

struct xenpv_stamper {
    uint32_t unit;      /* XENPV_STAMP_*; 0: neither stamps nor measuring, and nothing here costs anything */
    const void *page;   /* NULL: no disruption is seen, and the tick is `own_tick_ns`'s, if that is not 0 */
    int64_t ahead_ns;   /* our CLOCK_MONOTONIC before dom0's */
    uint64_t own_tick_ns; /* of CLOCK_MONOTONIC_COARSE */
};

struct xenpv_stamp {
    uint32_t value; /* 0: no time */
    uint32_t epoch; /* of two stamps with another one nothing is known */
};

static inline struct xenpv_stamp xenpv_stamp_now(const struct xenpv_stamper *stamper)
{
    struct xenpv_stamp now = { 0, 0 };
    uint64_t tick = 0, disruptions = 0;
    struct timespec t;

    if (!stamper->unit || (!stamper->page && stamper->unit != XENPV_STAMP_US && !stamper->own_tick_ns))
        return now;
    if (stamper->page && xenpv_time_look(stamper->page, &tick, &disruptions) != 0)
        return now;
    now.epoch = (uint32_t)disruptions;
    if (stamper->unit == XENPV_STAMP_US) {
        clock_gettime(CLOCK_MONOTONIC, &t);
        tick = (uint64_t)((int64_t)t.tv_sec * 1000000000 + t.tv_nsec - stamper->ahead_ns) / 1000;
    } else if (!stamper->page) {
        clock_gettime(CLOCK_MONOTONIC_COARSE, &t);
        tick = ((uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec) / stamper->own_tick_ns;
    }
    now.value = (uint32_t)tick ? (uint32_t)tick : 1;
    return now;
}

enum { XENPV_CLAIM_GOOD, XENPV_CLAIM_ABSENT, XENPV_CLAIM_FUTURE, XENPV_CLAIM_STALE };

/* What lies between two stamps, of which at least one is the other side's. The two clocks may differ by a little. */
static inline int xenpv_stamp_between(uint32_t unit, uint32_t earlier, uint32_t later, uint32_t *between)
{
    int32_t passed = (int32_t)(later - earlier);

    *between = 0;
    if (!earlier || !later)
        return XENPV_CLAIM_ABSENT;
    if (passed < (unit == XENPV_STAMP_US ? -1000 : -1))
        return XENPV_CLAIM_FUTURE;
    if (passed > (unit == XENPV_STAMP_US ? 120000000 : 120000)) /* two minutes, at HZ 1000 */
        return XENPV_CLAIM_STALE;
    *between = passed > 0 ? (uint32_t)passed : 0;
    return XENPV_CLAIM_GOOD;
}

#endif
