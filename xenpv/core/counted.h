/* A clock that is looked at now and then, and between two looks counts the processor's cycles: half the price of a look.
 * For machines whose counter is one and the same on every CPU (xenpv_counted_can).
 *
 * RULES
 * - The rate of the cycles is what the looks say, over a millisecond and more; until it is known every time is a look.
 * - It never goes back, and is never further from the clock than half a microsecond: half a look, and the rate's error in
 *   XENPV_COUNTED_NS.
 * - A counter that jumps, stops or changes its rate (another CPU's, another machine's) is found out at the next look at the
 *   latest, and the rate is taken anew. */
#ifndef XENPV_COUNTED_H
#define XENPV_COUNTED_H

#include <stdint.h>

#define XENPV_COUNTED_NS 100000u /* from a look until the next one is due */
#define XENPV_COUNTED_SHIFT 24   /* XENPV_COUNTED_NS << 24 is far from 64 bits */

/* 1: the kernel itself tells the time by the processor's counter, so it trusts it on every CPU and at one rate. */
int xenpv_counted_can(void);

struct xenpv_counted {
    double rate;         /* nanoseconds a cycle; 0: not known */
    uint64_t step;       /* the same in 2^-24 ns: a multiplication of integers is a third of the price */
    uint64_t near;       /* so many cycles after the last look no other is due; 0: one is */
    uint64_t cycles, ns; /* of the last look */
    uint64_t first_cycles, first_ns; /* since when the rate is taken */
    uint64_t told_ns;    /* the last time told */
};

/* 1 with the time, when the counter stands at `cycles`; 0: a look is due. */
static inline int xenpv_counted_now(struct xenpv_counted *clock, uint64_t cycles, uint64_t *ns)
{
    uint64_t passed = cycles - clock->cycles; /* very many, if the counter went back */

    if (passed >= clock->near)
        return 0;
    *ns = clock->ns + (passed * clock->step >> XENPV_COUNTED_SHIFT);
    if (*ns < clock->told_ns)
        *ns = clock->told_ns;
    clock->told_ns = *ns;
    return 1;
}

/* A look: the counter stood at `before`, then the clock at `ns`, then the counter at `after`. The time to tell. */
uint64_t xenpv_counted_look(struct xenpv_counted *clock, uint64_t before, uint64_t ns, uint64_t after);

#endif
