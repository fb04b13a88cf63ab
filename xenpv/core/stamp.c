#include "stamp.h"

#include "clock.h"

static uint64_t counted_ns(struct xenpv_stamper *stamper)
{
    uint64_t before = xenpv_cycles(), ns = xenpv_clock_ns(CLOCK_MONOTONIC);

    return xenpv_counted_look(&stamper->clock, before, ns, xenpv_cycles());
}

struct xenpv_stamp xenpv_stamp_look(struct xenpv_stamper *stamper)
{
    uint64_t tick = 0, disruptions = 0;

    stamper->clock.near = 0;
    if (stamper->unknown || (!stamper->page && stamper->unit != XENPV_STAMP_US && !stamper->own_tick_ns))
        return (struct xenpv_stamp){ 0, 0 };
    if (stamper->page && xenpv_time_look(stamper->page, &tick, &disruptions) != 0)
        return (struct xenpv_stamp){ 0, 0 };
    if (disruptions != stamper->disruptions) {
        stamper->disruptions = disruptions;
        stamper->epoch++;
    }
    if (stamper->unit == XENPV_STAMP_US)
        tick = (stamper->counts ? counted_ns(stamper) : xenpv_clock_ns(CLOCK_MONOTONIC) - (uint64_t)stamper->ahead_ns) / 1000;
    else if (!stamper->page)
        tick = xenpv_clock_ns(CLOCK_MONOTONIC_COARSE) / stamper->own_tick_ns;
    return xenpv_stamp_of(tick, stamper->epoch);
}

void xenpv_stamp_set_page(struct xenpv_stamper *stamper, const void *page)
{
    stamper->page = page;
    stamper->epoch++; /* whatever the new page says of disruptions, its ticks may be other ones */
}

void xenpv_stamp_set_ahead(struct xenpv_stamper *stamper, int64_t ahead_ns, uint32_t unknown)
{
    uint64_t slack = xenpv_stamp_slack(XENPV_STAMP_US) * UINT64_C(1000);

    if (unknown || (uint64_t)ahead_ns - (uint64_t)stamper->ahead_ns + slack > 2 * slack)
        stamper->epoch++; /* not the drift of two clocks: a stamp from before has nothing to do with one from now on */
    stamper->unknown = unknown;
    if (!unknown)
        stamper->ahead_ns = ahead_ns;
}
