/* Stamps of requests: what each end writes, and what it makes of the other's.
 *
 * RULES
 * - Negotiated, for the 64-bit ABI alone: a request's bytes 4-7 carry `submit`; in a response's slot, behind the response,
 *   bytes 16-31 carry fetch, storage start, storage end and response. Without it those of a request are zero, and nobody
 *   reads or writes those behind a response: stock peers leave there what they like.
 * - A stamp is the low 32 bits of a tick or of a microsecond of dom0's clock, and never 0: that says that there was no time
 *   to be had. Differences are signed.
 * - A stamp of the other side is a claim. It is compared, counted, and used for nothing else.
 * - The clock is looked at once a batch. A backend that serves in line needs it once a request: between two looks it
 *   counts cycles (counted.h).
 * - Who measures without stamps has the same clocks, or its own kernel's tick, and writes nothing anywhere. */
#ifndef XENPV_STAMP_H
#define XENPV_STAMP_H

#include "api.h"
#include "counted.h"
#include "spin.h"

enum { XENPV_AT_SUBMIT = 4, XENPV_AT_FETCHED = 16, XENPV_AT_STARTED = 20, XENPV_AT_ENDED = 24, XENPV_AT_ANSWERED = 28,
       XENPV_STAMPED_RESPONSE = 32 };

struct xenpv_stamper {
    uint32_t unit;      /* XENPV_STAMP_*; 0: neither stamps nor measuring, and nothing here costs anything */
    uint32_t counts;    /* in microseconds, by cycles between two looks: for a clock of our own that nobody sets */
    const void *page;   /* NULL: no disruption is seen, and the tick is `own_tick_ns`'s, if that is not 0 */
    int64_t ahead_ns;   /* our CLOCK_MONOTONIC before dom0's */
    uint32_t unknown;   /* no time is to be had, whatever the clocks say */
    uint64_t own_tick_ns; /* of CLOCK_MONOTONIC_COARSE */
    struct xenpv_counted clock;
    uint64_t disruptions; /* what the page said at the last look */
    uint32_t epoch;     /* of the last look: another one after a disruption, and by another page */
};

struct xenpv_stamp {
    uint32_t value; /* 0: no time */
    uint32_t epoch; /* of two stamps with another one nothing is known */
};

/* stamp.c. look: at the page and the clock. set_page: another page, or none; set_ahead: another clock of our own; both from the
 * next look on. */
struct xenpv_stamp xenpv_stamp_look(struct xenpv_stamper *stamper);
void xenpv_stamp_set_page(struct xenpv_stamper *stamper, const void *page);
void xenpv_stamp_set_ahead(struct xenpv_stamper *stamper, int64_t ahead_ns, uint32_t unknown);

static inline struct xenpv_stamp xenpv_stamp_of(uint64_t value, uint32_t epoch)
{
    return (struct xenpv_stamp){ (uint32_t)value ? (uint32_t)value : 1, epoch };
}

static inline struct xenpv_stamp xenpv_stamp_now(struct xenpv_stamper *stamper)
{
    uint64_t ns;

    if (!stamper->unit)
        return (struct xenpv_stamp){ 0, 0 };
    if (xenpv_counted_now(&stamper->clock, xenpv_cycles(), &ns))
        return xenpv_stamp_of(ns / 1000, stamper->epoch);
    return xenpv_stamp_look(stamper);
}

enum { XENPV_CLAIM_GOOD, XENPV_CLAIM_ABSENT, XENPV_CLAIM_FUTURE, XENPV_CLAIM_STALE };

/* What may lie between two stamps: from `-slack`, since two clocks may differ by a little, up to two minutes, at HZ 1000. */
static inline uint32_t xenpv_stamp_slack(uint32_t unit)
{
    return unit == XENPV_STAMP_US ? 1000 : 1;
}

static inline uint32_t xenpv_stamp_far(uint32_t unit)
{
    return unit == XENPV_STAMP_US ? 120000000 : 120000;
}

/* 1: two stamps that are there may lie so. */
static inline int xenpv_stamp_fits(uint32_t unit, uint32_t earlier, uint32_t later)
{
    return later - earlier + xenpv_stamp_slack(unit) <= xenpv_stamp_far(unit) + xenpv_stamp_slack(unit);
}

/* From one to the other, where they fit. */
static inline uint32_t xenpv_stamp_between(uint32_t earlier, uint32_t later)
{
    return (int32_t)(later - earlier) > 0 ? later - earlier : 0;
}

/* What two stamps are, of which one is the other side's. */
static inline int xenpv_stamp_claim(uint32_t unit, uint32_t earlier, uint32_t later)
{
    if (!earlier || !later)
        return XENPV_CLAIM_ABSENT;
    if (xenpv_stamp_fits(unit, earlier, later))
        return XENPV_CLAIM_GOOD;
    return (int32_t)(later - earlier) < 0 ? XENPV_CLAIM_FUTURE : XENPV_CLAIM_STALE;
}

#endif
