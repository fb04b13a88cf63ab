#include "spin.h"

#include "api.h"
#include "clock.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <sys/resource.h>

#define FUTILE_LIMIT 8u /* spins in vain before a queue stops */
#define PATIENCE 4u     /* short sleeps before it tries again, at first */
#define PATIENCE_MAX 1024u
#define NEAR 10u        /* a sleep is short up to so many budgets: most of it may be the time that waking takes */

static atomic_uint spinners; /* threads of this process that spin now */
static uint32_t limit;
static double cycles_per_ns = 1.0;

static void calibrate(void)
{
    cpu_set_t set;
    int cpus = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
    uint64_t ns = xenpv_clock_ns(CLOCK_MONOTONIC), cycles = xenpv_cycles(), ns_end;

    limit = cpus > 1 ? (uint32_t)cpus - 1 : 0;
    do {
        ns_end = xenpv_clock_ns(CLOCK_MONOTONIC);
    } while (ns_end - ns < 1000000);
    cycles_per_ns = (double)(xenpv_cycles() - cycles) / (double)(ns_end - ns);
}

static pthread_once_t once = PTHREAD_ONCE_INIT;

uint32_t xenpv_spin_limit(void)
{
    pthread_once(&once, calibrate);
    return limit;
}

uint64_t xenpv_cycles_of_ns(uint64_t ns)
{
    pthread_once(&once, calibrate);
    return (uint64_t)((double)ns * cycles_per_ns);
}

static uint64_t involuntary_switches(void)
{
    struct rusage usage;

    return getrusage(RUSAGE_THREAD, &usage) == 0 ? (uint64_t)usage.ru_nivcsw : 0;
}

void xenpv_spin_init(struct xenpv_spin *spin, uint32_t ns)
{
    *spin = (struct xenpv_spin){ .budget = xenpv_spin_limit() ? xenpv_cycles_of_ns(ns) : 0,
                                  .switches = UINT64_MAX, .patience = PATIENCE };
}

static struct xenpv_turn *turn_of(struct xenpv_spin *spin)
{
    return spin->turn ? spin->turn : &spin->own;
}

static int take_turn(struct xenpv_spin *spin)
{
    struct xenpv_turn *turn = turn_of(spin);

    if (!turn->holders && atomic_fetch_add_explicit(&spinners, 1, memory_order_relaxed) >= limit) {
        atomic_fetch_sub_explicit(&spinners, 1, memory_order_relaxed);
        return 0;
    }
    turn->holders++;
    return 1;
}

static void give_turn_back(struct xenpv_spin *spin)
{
    spin->since = 0;
    if (!--turn_of(spin)->holders)
        atomic_fetch_sub_explicit(&spinners, 1, memory_order_relaxed); /* a count alone: it orders nothing */
}

int xenpv_spin_on(struct xenpv_spin *spin)
{
    uint64_t now;

    if (!spin->budget || spin->futile >= FUTILE_LIMIT)
        return 0;
    now = xenpv_cycles();
    if (!spin->since) {
        if (!take_turn(spin))
            return 0;
        spin->since = now ? now : 1;
        spin->spins++;
        return 1;
    }
    if (now - spin->since < spin->budget)
        return 1;
    give_turn_back(spin);
    spin->spins_futile++;
    spin->futile++;
    /* The system call is paid only here, on the way to sleep. Whoever took our CPU needs it more than a spin does. */
    uint64_t switches = involuntary_switches();
    if (switches != spin->switches && spin->switches != UINT64_MAX)
        spin->futile = FUTILE_LIMIT;
    spin->switches = switches;
    return 0;
}

void xenpv_spin_found(struct xenpv_spin *spin)
{
    if (!spin->since)
        return;
    give_turn_back(spin);
    spin->futile = 0;
    spin->patience = PATIENCE;
}

void xenpv_spin_slept(struct xenpv_spin *spin)
{
    uint64_t now = xenpv_cycles();

    spin->slept_at = now ? now : 1;
}

void xenpv_spin_woke(struct xenpv_spin *spin)
{
    if (!spin->slept_at)
        return;
    if (xenpv_cycles() - spin->slept_at >= NEAR * spin->budget) {
        spin->near = 0;
    } else if (spin->futile >= FUTILE_LIMIT && ++spin->near >= spin->patience) {
        spin->near = 0;
        spin->futile = FUTILE_LIMIT - 1; /* one try */
        if (spin->patience < PATIENCE_MAX)
            spin->patience *= 2;
    }
    spin->slept_at = 0;
}

void xenpv_spin_stop(struct xenpv_spin *spin)
{
    if (spin->since)
        give_turn_back(spin);
}
