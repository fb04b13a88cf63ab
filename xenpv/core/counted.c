#include "counted.h"

#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "spin.h"

#define GAP_NS 500u          /* a look that takes longer was interrupted: its cycles and its time are of different moments */
#define RATE_NS 1000000u     /* over less no rate is taken */
#define RENEW_NS 1000000000u /* over more neither: it would hide what changed of late */
#define RATE_ERROR 1e-3      /* by more a rate does not change */

int xenpv_counted_can(void)
{
#if defined(__aarch64__)
    return 1; /* CNTVCT is one counter of the system: Arm ARM, D11.1 */
#else
    /* Linux, Documentation/ABI/testing/sysfs-devices-system-clocksource. Others than tsc correct the counter, CPU by CPU. */
    int fd = open("/sys/devices/system/clocksource/clocksource0/current_clocksource", O_RDONLY | O_CLOEXEC);
    char name[8] = { 0 };
    ssize_t n = fd < 0 ? -1 : read(fd, name, sizeof name - 1);

    if (fd >= 0)
        close(fd);
    return n > 0 && strcmp(name, "tsc\n") == 0;
#endif
}

/* The rate since the first look; 0: not known yet, or not what it was. */
static double rate_of(const struct xenpv_counted *clock, uint64_t cycles, uint64_t ns)
{
    double rate = (double)ns / (double)cycles, known = clock->rate;

    if (ns < RATE_NS)
        return known;
    return known == 0 || (rate > (1 - RATE_ERROR) * known && rate < (1 + RATE_ERROR) * known) ? rate : 0;
}

uint64_t xenpv_counted_look(struct xenpv_counted *clock, uint64_t before, uint64_t ns, uint64_t after)
{
    uint64_t at = before + (after - before) / 2, cycles = at - clock->first_cycles, passed = ns - clock->first_ns;
    int begin = !clock->first_ns || (int64_t)cycles <= 0 || (int64_t)passed <= 0;

    clock->near = 0;
    if (ns > clock->told_ns)
        clock->told_ns = ns;
    if (after - before > xenpv_cycles_of_ns(GAP_NS))
        return clock->told_ns;
    clock->cycles = at;
    clock->ns = ns;
    clock->rate = begin ? 0 : rate_of(clock, cycles, passed);
    if (begin || passed > RENEW_NS || (passed >= RATE_NS && clock->rate == 0)) {
        clock->first_cycles = at;
        clock->first_ns = ns;
    }
    if (clock->rate != 0) {
        clock->step = (uint64_t)(clock->rate * (1u << XENPV_COUNTED_SHIFT) + 0.5);
        clock->near = (uint64_t)(XENPV_COUNTED_NS / clock->rate);
    }
    return clock->told_ns;
}
