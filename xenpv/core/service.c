#include "engine.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

/* One thread, many queues. A queue is active from its event until it has found nothing for as long as it may spin; only
 * active queues are looked at, so an idle one costs nothing. When none is active the thread sleeps in epoll_wait. */

#define BATCH 8u          /* requests taken at once */
#define TURN 64u          /* requests of one queue before the next queue's turn */
#define PUBLISH_EVERY 4u  /* responses shown at once: few enough that the frontend works while we do */
#define PUBLISH_COPIES 16u /* the same where showing them begins with a grant copy, a system call for all */
#define LOOK_EVERY 32u    /* turns between two looks at the sleeping queues' events while others keep us busy */
#define RETRY_MS 1        /* until what the kernel would not take is handed to it again */

struct xenpv_service {
    int kind; /* XENPV_ENGINE_URING or _THREADS */
    struct xenpv_engine *engine; /* made by the thread that runs, when first needed */
    int epoll_fd, stop_fd;
    struct xenpv_back **active;
    uint32_t active_count, room, queues;
    uint32_t out; /* slots in the engine */
};

static void activate(struct xenpv_service *s, struct xenpv_back *back)
{
    if (back->active)
        return;
    back->active = 1;
    s->active[s->active_count++] = back;
}

static void deactivate(struct xenpv_service *s, uint32_t at)
{
    s->active[at]->active = 0;
    s->active[at] = s->active[--s->active_count];
}

static int status_of(int32_t result)
{
    return result == -EOPNOTSUPP ? XENPV_RSP_EOPNOTSUPP : XENPV_RSP_ERROR;
}

static void finish(struct xenpv_back *back, struct xenpv_slot *slot, int32_t result)
{
    if (result)
        back->stats->errors++;
    xenpv_back_answer(back, slot, result ? status_of(result) : XENPV_RSP_OKAY);
    if (back->answered_count >= (back->bounce ? PUBLISH_COPIES : PUBLISH_EVERY))
        xenpv_back_publish(back);
}

static uint32_t reap(struct xenpv_service *s)
{
    struct xenpv_slot *done[64];
    struct xenpv_stamp now = { 0, 0 };
    uint32_t total = 0, count;

    if (!s->out)
        return 0;
    do {
        count = s->engine->reap(s->engine, done, 64);
        for (uint32_t i = 0; i < count; i++) {
            struct xenpv_back *back = done[i]->back;
            done[i]->out = 0;
            back->out--;
            s->out--;
            if (back->stamper.unit)
                done[i]->ended = now = now.value && i && done[i - 1]->back == back ? now : xenpv_stamp_now(&back->stamper);
            finish(back, done[i], done[i]->result);
            activate(s, back); /* its turn publishes the rest, and looks for what the answer brings */
        }
        total += count;
    } while (count == 64);
    return total;
}

/* The kernel took less than it was handed: it was short of memory, say. */
static int unsent(const struct xenpv_service *s)
{
    return s->engine && s->engine->unsent;
}

static int engine_of(struct xenpv_service *s)
{
    int error = 0;

    if (!s->engine)
        s->engine = s->kind == XENPV_ENGINE_URING ? xenpv_engine_uring(&error) : xenpv_engine_threads(&error);
    if (!s->engine)
        return -error;
    struct epoll_event event = { .events = EPOLLIN, .data.ptr = s->engine };
    if (epoll_ctl(s->epoll_fd, EPOLL_CTL_ADD, s->engine->fd, &event) != 0 && errno != EEXIST) {
        error = errno;
        s->engine->free(s->engine); /* an engine that wakes nobody is none */
        s->engine = NULL;
        return -error;
    }
    return 0;
}

static void start(struct xenpv_service *s, struct xenpv_back *back, struct xenpv_slot *slot)
{
    slot->reached = 1;
    /* io_uring has no secure discard: that holds the thread up, and is rare. */
    if (back->config.fd_inline || (slot->secure && s->kind == XENPV_ENGINE_URING) || (!s->engine && engine_of(s) != 0)) {
        int result = xenpv_io_now(slot); /* also where no engine can be had any more: slower, never wrong */
        slot->ended = xenpv_stamp_now(&back->stamper);
        finish(back, slot, result);
        return;
    }
    slot->out = 1;
    back->out++;
    s->out++;
    while (s->engine->submit(s->engine, slot) == -EAGAIN) {
        s->engine->kick(s->engine);
        reap(s);
    }
}

/* One queue's turn: how much it found, or -EPROTO. */
static int serve(struct xenpv_service *s, struct xenpv_back *back)
{
    struct xenpv_slot *slots[BATCH];
    uint32_t total = 0, count;
    int taken = 0;

    while (total < TURN && (taken = xenpv_back_take(back, slots, BATCH, &count)) > 0) {
        for (uint32_t i = 0; i < count; i++) {
            /* In line, each begins when the one before it has ended. */
            if (back->stamper.unit)
                slots[i]->started = i ? (back->config.fd_inline ? slots[i - 1]->ended : slots[i - 1]->started)
                                      : xenpv_stamp_now(&back->stamper);
            start(s, back, slots[i]);
        }
        total += (uint32_t)taken;
    }
    xenpv_back_publish(back);
    return taken < 0 ? taken : (int)total;
}

/* The run ends with queues still active: what they hold of the right to spin is for those who go on. */
static void pause_spins(struct xenpv_service *s)
{
    for (uint32_t i = 0; i < s->active_count; i++)
        xenpv_spin_stop(&s->active[i]->spin);
}

/* Takes what epoll says: 1 if stop was asked. */
static int look(struct xenpv_service *s, int timeout)
{
    struct epoll_event events[32];
    int count = epoll_wait(s->epoll_fd, events, 32, timeout), stop = 0;
    uint64_t value;

    for (int i = 0; i < count; i++) {
        if (events[i].data.ptr == s) {
            stop = 1;
        } else if (events[i].data.ptr == s->engine) {
            if (read(s->engine->fd, &value, sizeof value) < 0 && errno != EAGAIN)
                stop = 1; /* cannot be: an eventfd of ours */
        } else {
            struct xenpv_back *back = events[i].data.ptr;
            xenpv_back_wake(back);
            activate(s, back);
        }
    }
    return stop;
}

int xenpv_service_run(struct xenpv_service *s)
{
    uint32_t turns = 0;
    uint64_t value;

    for (;;) {
        uint32_t found = 0;

        for (uint32_t i = 0; i < s->active_count;) {
            struct xenpv_back *back = s->active[i];
            int n = serve(s, back);
            if (n < 0) {
                pause_spins(s);
                deactivate(s, i);
                return 1;
            }
            found += (uint32_t)n;
            if (n) {
                xenpv_spin_found(&back->spin);
            } else if (!xenpv_spin_on(&back->spin) && xenpv_back_rest(back)) {
                deactivate(s, i);
                continue;
            }
            i++;
        }
        if (s->out) {
            s->engine->kick(s->engine);
            found += reap(s);
        }
        if (!found)
            xenpv_relax();
        /* Asleep for ever only when every queue has armed and the kernel has all that was submitted; every wait is done
         * SLEEPING, one for storage too. */
        if (!s->active_count || ++turns % LOOK_EVERY == 0)
            if (look(s, s->active_count ? 0 : unsent(s) ? RETRY_MS : -1)) {
                pause_spins(s);
                ssize_t ignored = read(s->stop_fd, &value, sizeof value); /* it was readable: at worst we stop twice */
                (void)ignored;
                return 0;
            }
    }
}

void xenpv_service_stop(struct xenpv_service *s)
{
    uint64_t one = 1;

    while (write(s->stop_fd, &one, sizeof one) < 0 && errno == EINTR)
        ;
}

int xenpv_service_add(struct xenpv_service *s, struct xenpv_back *back)
{
    struct epoll_event event = { .events = EPOLLIN, .data.ptr = back };

    if (back->config.fd < 0)
        return -EBADF;
    if (!back->bounce && !back->hv->direct && !back->config.fd_inline && s->kind == XENPV_ENGINE_URING)
        return -EOPNOTSUPP;
    if (s->queues == s->room) {
        uint32_t room = s->room ? 2 * s->room : 8;
        struct xenpv_back **active = realloc(s->active, room * sizeof *active);
        if (!active)
            return -ENOMEM;
        s->active = active;
        s->room = room;
    }
    if (epoll_ctl(s->epoll_fd, EPOLL_CTL_ADD, back->port.wait_fd, &event) != 0)
        return -errno;
    s->queues++;
    activate(s, back); /* attaching counts as an event */
    return 0;
}

int xenpv_service_remove(struct xenpv_service *s, struct xenpv_back *back)
{
    /* The descriptor is a duplicate of ours: epoll would go on reporting it after a plain close elsewhere. */
    if (epoll_ctl(s->epoll_fd, EPOLL_CTL_DEL, back->port.wait_fd, NULL) != 0)
        return -errno;
    while (back->out) {
        struct pollfd engine = { .fd = s->engine->fd, .events = POLLIN };
        uint64_t value;
        s->engine->kick(s->engine);
        if (!reap(s) && poll(&engine, 1, unsent(s) ? RETRY_MS : -1) > 0
            && read(s->engine->fd, &value, sizeof value) < 0 && errno != EAGAIN)
            return -errno;
    }
    if (!back->halted)
        xenpv_back_publish(back);
    xenpv_spin_stop(&back->spin);
    for (uint32_t i = 0; i < s->active_count; i++)
        if (s->active[i] == back) {
            deactivate(s, i);
            break;
        }
    s->queues--;
    return 0;
}

const char *xenpv_service_engine(const struct xenpv_service *s)
{
    return s->kind == XENPV_ENGINE_URING ? "io_uring" : "threads";
}

void xenpv_service_free(struct xenpv_service *s)
{
    if (!s)
        return;
    if (s->engine)
        s->engine->free(s->engine);
    if (s->epoll_fd >= 0)
        close(s->epoll_fd);
    if (s->stop_fd >= 0)
        close(s->stop_fd);
    free(s->active);
    free(s);
}

struct xenpv_service *xenpv_service_new(int engine, int *error)
{
    struct xenpv_service *s = calloc(1, sizeof *s);

    if (!s) {
        *error = ENOMEM;
        return NULL;
    }
    *error = 0;
    s->stop_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    s->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event event = { .events = EPOLLIN, .data.ptr = s };
    if (s->stop_fd < 0 || s->epoll_fd < 0 || epoll_ctl(s->epoll_fd, EPOLL_CTL_ADD, s->stop_fd, &event) != 0)
        *error = errno;
    s->kind = engine;
    if (!*error && engine != XENPV_ENGINE_THREADS) {
        /* Tried once here, made anew by the thread that will issue: the kernel binds a ring to its issuer. */
        struct xenpv_engine *trial = xenpv_engine_uring(error);
        if (trial)
            trial->free(trial);
        s->kind = XENPV_ENGINE_URING;
        if (*error && engine == XENPV_ENGINE_AUTO) {
            s->kind = XENPV_ENGINE_THREADS;
            *error = 0;
        }
    }
    if (*error) {
        xenpv_service_free(s);
        return NULL;
    }
    return s;
}
