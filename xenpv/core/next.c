#include "back.h"

#include <errno.h>
#include <poll.h>

#include "clock.h"

/* A queue whose storage is in Python: requests out in batches, answers in batches. */

static int give(struct xenpv_back *back, struct xenpv_request *requests, uint32_t max)
{
    struct xenpv_slot *slots[64];
    struct xenpv_stamp now;
    uint32_t count = 0;
    int taken;

    taken = xenpv_back_take(back, slots, max < 64 ? max : 64, &count);
    now = xenpv_stamp_now(&back->stamper);
    for (uint32_t i = 0; i < count; i++) {
        struct xenpv_slot *slot = slots[i];
        slot->started = now;
        slot->reached = 1;
        slot->out = 1;
        back->out++;
        requests[i] = (struct xenpv_request){
            .sector = slot->sector, .bytes = slot->bytes, .data = slot->iovs ? slot->room.iov[0].iov_base : NULL,
            .token = slot->index, .op = slot->op,
            .flags = (uint8_t)((slot->flush_first ? XENPV_FLUSH_FIRST : 0) | (slot->flush_after ? XENPV_FLUSH_AFTER : 0)
                               | (slot->secure ? XENPV_SECURE : 0)),
        };
    }
    xenpv_back_publish(back); /* what take itself refused */
    if (taken < 0 && !count)
        return taken;
    return taken && !count ? 0 : (int)count;
}

/* Sleeps until an event, the deadline, or wake_fd: 1 to look at the ring again. *over: for the last time, since the deadline or
 * wake_fd came with the event. */
static int await(struct xenpv_back *back, int64_t timeout_ns, uint64_t deadline, int wake_fd, int *over)
{
    struct pollfd fds[2] = { { .fd = back->port.wait_fd, .events = POLLIN }, { .fd = wake_fd, .events = POLLIN } };
    struct timespec wait = { 0 };
    uint64_t now = timeout_ns > 0 ? xenpv_clock_ns(CLOCK_MONOTONIC) : 0;
    int n;

    if (timeout_ns > 0 && now < deadline)
        wait = (struct timespec){ (time_t)((deadline - now) / 1000000000u), (long)((deadline - now) % 1000000000u) };
    n = ppoll(fds, wake_fd >= 0 ? 2 : 1, timeout_ns < 0 ? NULL : &wait, NULL);
    if (n < 0)
        return -errno;
    if (fds[0].revents) {
        xenpv_back_wake(back);
        *over = fds[1].revents || timeout_ns == 0 || (timeout_ns > 0 && now >= deadline);
        return 1;
    }
    return 0;
}

/* The caller wants no more waiting: its time is over, or wake_fd is readable. */
static int is_over(int64_t timeout_ns, uint64_t deadline, int wake_fd)
{
    struct pollfd fd = { .fd = wake_fd, .events = POLLIN };

    return timeout_ns == 0 || (timeout_ns > 0 && xenpv_clock_ns(CLOCK_MONOTONIC) >= deadline) || (wake_fd >= 0 && poll(&fd, 1, 0) > 0);
}

int xenpv_back_next(struct xenpv_back *back, struct xenpv_request *requests, uint32_t max, int64_t timeout_ns, int wake_fd)
{
    uint64_t deadline = timeout_ns > 0 ? xenpv_clock_ns(CLOCK_MONOTONIC) + (uint64_t)timeout_ns : 0;
    int over = 0; /* the next look that finds nothing is the last: a frontend that notifies without end keeps nobody here */

    if (back->config.fd >= 0 || !max)
        return -EINVAL;
    for (;;) {
        uint64_t before = back->stats->batches;
        int n = give(back, requests, max);
        if (n != 0) {
            xenpv_spin_found(&back->spin);
            return n;
        }
        if (back->stats->batches != before) {
            /* All of them were refused. There may be more, but a frontend that sends nothing else must not keep us here. */
            if (is_over(timeout_ns, deadline, wake_fd) && xenpv_ring_available(&back->ring) != 0)
                return 0;
            continue;
        }
        if (back->stalled && back->out)
            return 0;
        if (xenpv_spin_on(&back->spin)) {
            xenpv_relax();
            continue;
        }
        if (!xenpv_back_rest(back))
            continue;
        if (over)
            return 0;
        n = await(back, timeout_ns, deadline, wake_fd, &over);
        if (n == -EINTR)
            return -EINTR;
        if (n <= 0)
            return n;
    }
}

int xenpv_back_complete(struct xenpv_back *back, const struct xenpv_request *requests, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        if (requests[i].token >= back->ring.entries || !back->slots[requests[i].token].out)
            return -EINVAL;
    struct xenpv_stamp now = xenpv_stamp_now(&back->stamper);
    for (uint32_t i = 0; i < count; i++) {
        struct xenpv_slot *slot = &back->slots[requests[i].token];
        slot->ended = now;
        if (!slot->out)
            continue; /* the same token twice in one call: answered once */
        slot->out = 0;
        back->out--;
        if (requests[i].status != XENPV_RSP_OKAY)
            back->stats->errors++;
        xenpv_back_answer(back, slot, requests[i].status);
    }
    xenpv_back_publish(back);
    return 0;
}
