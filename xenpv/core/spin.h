/* How long a side that found nothing looks again before it sleeps.
 *
 * A spin is worth it only if the peer answers within it, and only on a CPU that nobody else wants. So: a bounded time; at
 * most (CPUs - 1) threads of a process at once, whatever the number of their queues, none on one CPU; and a queue whose last spins found nothing, or that lost
 * its CPU while it spun, stops until its wake-ups come soon enough after its sleeps that a spin would have met them. They
 * may also come soon because the peer runs on this very CPU, and then a spin only holds it up: so each try in vain doubles
 * the number of short sleeps before the next. */
#ifndef XENPV_SPIN_H
#define XENPV_SPIN_H

#include <stdint.h>

#include "clock.h"

/* The right to spin, which a thread's queues share: it is held while any of them spins. */
struct xenpv_turn {
    uint32_t holders;
};

struct xenpv_spin {
    struct xenpv_turn *turn; /* the thread's; NULL: the queue is alone in it */
    struct xenpv_turn own;
    uint64_t budget;   /* cycles; 0: never */
    uint64_t since;    /* cycles when the spin began; 0: not spinning */
    uint64_t slept_at; /* cycles when the queue last slept; 0: awake */
    uint64_t switches; /* involuntary context switches of the thread at its last futile spin */
    uint32_t futile;   /* spins in a row that found nothing */
    uint32_t near;     /* sleeps in a row that a spin might have saved */
    uint32_t patience; /* how many such sleeps before it tries again; doubled each time that was in vain */
    uint64_t spins, spins_futile;
};

/* A counter of constant rate, cheap where the machine has one, and its rate. */
static inline uint64_t xenpv_cycles(void)
{
#if defined(__x86_64__)
    return __builtin_ia32_rdtsc();
#elif defined(__aarch64__)
    uint64_t value;
    __asm__ volatile("mrs %0, cntvct_el0" : "=r"(value));
    return value;
#else
    return xenpv_clock_ns(CLOCK_MONOTONIC);
#endif
}
uint64_t xenpv_cycles_of_ns(uint64_t ns);

void xenpv_spin_init(struct xenpv_spin *spin, uint32_t ns);
/* Nothing was found: 1 to look again, 0 to sleep now. */
int xenpv_spin_on(struct xenpv_spin *spin);
/* Something was found. */
void xenpv_spin_found(struct xenpv_spin *spin);
void xenpv_spin_slept(struct xenpv_spin *spin);
void xenpv_spin_woke(struct xenpv_spin *spin);
/* Gives the CPU's turn back, if it had one: before the queue goes. */
void xenpv_spin_stop(struct xenpv_spin *spin);

static inline void xenpv_relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

#endif
