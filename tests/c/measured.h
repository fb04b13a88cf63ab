/* Both ends of a queue whose requests are measured, the backend's by hand, and clocks that the test moves. */
#ifndef XENPV_TESTS_MEASURED_H
#define XENPV_TESTS_MEASURED_H

#include "latency.h"
#include "queue.h"

#define LOOK_NS 37

extern struct queue queue;
extern uint64_t now, disruptions; /* of the time page */
/* CLOCK_MONOTONIC and its coarse sibling while it is not 0: each look takes LOOK_NS, and nothing else does. */
extern uint64_t moved_ns;

void tick(uint64_t ticks);
void begin(uint32_t stamp, uint32_t front_stamp, uint32_t clock);
void submit(uint8_t op);
void reap(void);
/* One request: so many ticks until it is fetched, answered and reaped. */
void round_trip(uint8_t op, uint64_t queued, uint64_t stored, uint64_t reaped);
struct xenpv_latency *front_area(void);
uint64_t count_of(const struct xenpv_histogram *histogram);
int64_t total_of(struct xenpv_latency *area, int stage); /* of reads */

#endif
