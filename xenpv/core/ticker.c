/* The thread that writes time pages: it wakes behind every tick of this machine's kernel and writes the kernel's own tick.
 *
 * RULES
 * - CLOCK_MONOTONIC_COARSE changes at ticks alone, so its value says which tick it is: round((coarse - phase) / tick_nsec)
 *   + base. base and phase come from whoever reads the kernel's counter (/proc/timer_list).
 * - A page's tick never goes back: where a calibration says less than what was written, the page waits for the rest.
 * - A tick is missed when it passed while the page was to be written; the ticks of a pause are not.
 * - One lock: a page is not written any more when remove has returned. */
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>

#include "aim.h"
#include "api.h"
#include "clock.h"

#define PAGES_MAX 4096u
#define FAR_TICKS 2     /* a calibration this far off is slew and chance; further is a disruption */

struct xenpv_ticker {
    pthread_mutex_t lock;
    pthread_cond_t change;
    uint64_t base, phase;
    uint32_t tick_nsec;
    int calibrated, stop;
    uint32_t count;
    struct xenpv_time_page *pages[PAGES_MAX];
    struct xenpv_ticker_stats stats;
};

static uint64_t tick_at(const struct xenpv_ticker *ticker, uint64_t coarse_ns)
{
    int64_t since = (int64_t)(coarse_ns - ticker->phase), half = ticker->tick_nsec / 2;

    return ticker->base + (uint64_t)((since < 0 ? since - half : since + half) / (int64_t)ticker->tick_nsec);
}

struct xenpv_ticker *xenpv_ticker_new(uint32_t tick_nsec, int *error)
{
    struct xenpv_ticker *ticker = tick_nsec ? calloc(1, sizeof *ticker) : NULL;
    pthread_condattr_t monotonic;

    if (!ticker) {
        *error = tick_nsec ? ENOMEM : EINVAL;
        return NULL;
    }
    ticker->tick_nsec = tick_nsec;
    pthread_mutex_init(&ticker->lock, NULL);
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&ticker->change, &monotonic);
    pthread_condattr_destroy(&monotonic);
    return ticker;
}

static void disrupt(struct xenpv_ticker *ticker)
{
    for (uint32_t i = 0; i < ticker->count; i++) {
        struct xenpv_time_page *page = ticker->pages[i];

        xenpv_time_write(page, page->tick, page->ns, page->written_ns, page->disruptions + 1, page->missed);
    }
}

int xenpv_ticker_calibrate(struct xenpv_ticker *ticker, uint64_t base, uint64_t phase_ns)
{
    int64_t off;
    int far;

    pthread_mutex_lock(&ticker->lock);
    off = (int64_t)(base - tick_at(ticker, phase_ns));
    far = ticker->calibrated && (off > FAR_TICKS || off < -FAR_TICKS);
    ticker->base = base;
    ticker->phase = phase_ns;
    ticker->calibrated = 1;
    if (far)
        disrupt(ticker);
    pthread_mutex_unlock(&ticker->lock);
    return far;
}

void xenpv_ticker_disrupt(struct xenpv_ticker *ticker)
{
    pthread_mutex_lock(&ticker->lock);
    disrupt(ticker);
    pthread_mutex_unlock(&ticker->lock);
}

uint64_t xenpv_ticker_tick(struct xenpv_ticker *ticker, uint64_t coarse_ns)
{
    uint64_t tick;

    pthread_mutex_lock(&ticker->lock);
    tick = tick_at(ticker, coarse_ns);
    pthread_mutex_unlock(&ticker->lock);
    return tick;
}

int xenpv_ticker_add(struct xenpv_ticker *ticker, void *memory, uint64_t coarse_ns)
{
    struct xenpv_time_page *page = memory;
    int result = -ENOSPC;

    pthread_mutex_lock(&ticker->lock);
    if (ticker->count < PAGES_MAX) {
        uint64_t tick = tick_at(ticker, coarse_ns);

        if (page->sequence == 0 || (int64_t)(tick - page->tick) > 0)
            xenpv_time_write(page, tick, coarse_ns, coarse_ns, page->disruptions, page->missed);
        ticker->pages[ticker->count++] = page;
        pthread_cond_signal(&ticker->change);
        result = 0;
    }
    pthread_mutex_unlock(&ticker->lock);
    return result;
}

void xenpv_ticker_remove(struct xenpv_ticker *ticker, void *page)
{
    pthread_mutex_lock(&ticker->lock);
    for (uint32_t i = 0; i < ticker->count; i++)
        if (ticker->pages[i] == page)
            ticker->pages[i] = ticker->pages[--ticker->count];
    pthread_mutex_unlock(&ticker->lock);
}

/* Of a page with a lower tick than `tick`. */
static void step(struct xenpv_ticker *ticker, uint64_t coarse_ns, uint64_t now_ns)
{
    uint64_t tick = tick_at(ticker, coarse_ns), missed = 0;
    int wrote = 0;

    for (uint32_t i = 0; i < ticker->count; i++) {
        struct xenpv_time_page *page = ticker->pages[i];
        uint64_t passed = tick - page->tick;

        if ((int64_t)passed <= 0)
            continue;
        xenpv_time_write(page, tick, coarse_ns, now_ns, page->disruptions, page->missed + passed - 1);
        wrote = 1;
        if (passed - 1 > missed)
            missed = passed - 1;
    }
    ticker->stats.ticks += wrote;
    ticker->stats.missed += missed;
}

void xenpv_ticker_step(struct xenpv_ticker *ticker, uint64_t coarse_ns, uint64_t now_ns)
{
    pthread_mutex_lock(&ticker->lock);
    step(ticker, coarse_ns, now_ns);
    pthread_mutex_unlock(&ticker->lock);
}

/* Until `deadline` of CLOCK_MONOTONIC, a change, or for no reason at all. */
static void wait_until(struct xenpv_ticker *ticker, uint64_t deadline)
{
    struct timespec until = {(time_t)(deadline / 1000000000u), (long)(deadline % 1000000000u)};

    pthread_cond_timedwait(&ticker->change, &ticker->lock, &until);
}

int xenpv_ticker_run(struct xenpv_ticker *ticker)
{
    const struct sched_param first = {.sched_priority = 1};
    struct xenpv_aim aim = {0};

    /* Some microseconds every few milliseconds, and of no use when they come late. Who may not have it goes without. */
    (void)pthread_setschedparam(pthread_self(), SCHED_FIFO, &first);
    (void)prctl(PR_SET_TIMERSLACK, 1); /* as aimed; before Linux 6.13 the timers of such a thread had slack as well */
    pthread_mutex_lock(&ticker->lock);
    while (!ticker->stop) {
        uint64_t coarse, now;

        if (!ticker->count) {
            pthread_cond_wait(&ticker->change, &ticker->lock);
            aim.last = 0;
            continue;
        }
        coarse = xenpv_clock_ns(CLOCK_MONOTONIC_COARSE);
        now = xenpv_clock_ns(CLOCK_MONOTONIC);
        step(ticker, coarse, now);
        ticker->stats.wakes++;
        if (aim.last && coarse != aim.last && now - coarse > ticker->stats.late_max_ns)
            ticker->stats.late_max_ns = now - coarse;
        wait_until(ticker, xenpv_aim_next(&aim, ticker->tick_nsec, coarse, now));
    }
    pthread_mutex_unlock(&ticker->lock);
    return 0;
}

void xenpv_ticker_stop(struct xenpv_ticker *ticker)
{
    pthread_mutex_lock(&ticker->lock);
    ticker->stop = 1;
    pthread_cond_signal(&ticker->change);
    pthread_mutex_unlock(&ticker->lock);
}

void xenpv_ticker_stats(struct xenpv_ticker *ticker, struct xenpv_ticker_stats *out)
{
    pthread_mutex_lock(&ticker->lock);
    *out = ticker->stats;
    out->pages = ticker->count;
    pthread_mutex_unlock(&ticker->lock);
}

void xenpv_ticker_free(struct xenpv_ticker *ticker)
{
    pthread_cond_destroy(&ticker->change);
    pthread_mutex_destroy(&ticker->lock);
    free(ticker);
}
