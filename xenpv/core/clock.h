/* A clock of the kernel's as one number. */
#ifndef XENPV_CLOCK_H
#define XENPV_CLOCK_H

#include <stdint.h>
#include <time.h>

/* Nanoseconds of CLOCK_*. */
static inline uint64_t xenpv_clock_ns(clockid_t clock)
{
    struct timespec t;

    clock_gettime(clock, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

#endif
