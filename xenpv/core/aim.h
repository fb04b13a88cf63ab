/* When to look whether the kernel has counted its next tick: shortly behind it, so that one wake a tick is enough.
 *
 * RULES
 * - The coarse clock says which tick it is, not when the next one comes: what it says lies up to a tick behind the moment at
 *   which the kernel counts. How far behind is found by looking, and followed, since it drifts.
 * - The nearer a look is to the kernel's own tick the better: a timer that is due while the kernel is still in its tick's
 *   interrupt costs none of its own. */
#ifndef XENPV_AIM_H
#define XENPV_AIM_H

#include <stdint.h>

#define XENPV_AIM_STEP_NS 50000u /* from a look that came too early to the next */
#define XENPV_AIM_NEAR_NS 5000u  /* behind the last moment that was too early, by its wake's latency at least */
#define XENPV_AIM_HOLD 64u       /* ticks until it is tried nearer: by as much as NEAR, and if that is not too early by more */

struct xenpv_aim {
    uint64_t last;  /* what the coarse clock said at the last look; 0: there was none */
    uint64_t at;    /* so far behind what it will say next */
    uint64_t early; /* so far behind the tick had not been counted, in this interval; 0: no look was too early */
    uint64_t creep; /* so much nearer next time */
    uint32_t hold;
};

/* When to look again after the coarse clock said `coarse` and CLOCK_MONOTONIC `now`, in nanoseconds. */
static inline uint64_t xenpv_aim_next(struct xenpv_aim *aim, uint32_t tick_nsec, uint64_t coarse, uint64_t now)
{
    uint64_t due = coarse + tick_nsec + aim->at;

    if (coarse == aim->last) {
        if (now < due)
            return due; /* woken for something else */
        aim->early = now - coarse - tick_nsec;
        return now + XENPV_AIM_STEP_NS;
    }
    if (aim->early) {
        aim->at = aim->early + XENPV_AIM_NEAR_NS;
        if (aim->at >= tick_nsec) /* the machine stood still */
            aim->at = 0;
        aim->hold = XENPV_AIM_HOLD;
        aim->creep = XENPV_AIM_NEAR_NS;
    } else if (aim->hold) {
        aim->hold--;
    } else {
        aim->at -= aim->at < aim->creep ? aim->at : aim->creep;
        aim->creep *= 2;
    }
    aim->early = 0;
    aim->last = coarse;
    due = coarse + tick_nsec + aim->at;
    return due > now ? due : now + XENPV_AIM_STEP_NS;
}

#endif
