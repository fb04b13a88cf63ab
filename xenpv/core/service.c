#include "engine.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

/* One thread, many queues. A queue is active from its event until it has found nothing for as long as it may spin; only
 * active queues are looked at, so an idle one costs nothing. When none is active the thread sleeps in epoll_wait.
 *
 * In a pass each active queue has its turn, which is bounded by what its requests weigh, not by how many there are: a page
 * and a megabyte do not take the same time. Sleeping queues are looked for by the same measure, so the wait of a queue that
 * wakes is bounded by the others' turns of one pass. A frontend that notifies without end, with nothing in its ring, has one
 * event taken and one empty turn between two such looks. */

#define BATCH 8u          /* requests taken at once */
#define TURN 64u          /* weight of one queue's requests before the next queue's turn */
#define HAND_OVER 2u      /* requests handed to the kernel at first, and each time twice as many: it rings a device's doorbell
                             behind all of them, and the device should not stand still while the kernel works on many */
#define WEIGHT_SHIFT 14   /* a request weighs 1, and 1 more for each 16 KiB that it moves */
#define PUBLISH_EVERY 4u  /* responses shown at once where we do the I/O: few enough that the frontend works while we do. What the
                             engine brings back is there already, and shown together: a frontend that runs on this very CPU
                             would otherwise run for each part */
#define CROWDED 2u        /* active queues beyond which the others are, too, at the end of a turn */
#define PUBLISH_COPIES 16u /* the same where showing them begins with a grant copy, a system call for all */
#define LOOK_AFTER 64u    /* weight, a turn itself 1, between two looks at the sleeping queues' events */
#define EVENTS 32         /* of one look: fewer than LOOK_AFTER, so a pass ends even if all of them woke for nothing, each time */
#define RETRY_MS 1        /* until what the kernel would not take is handed to it again */

struct xenpv_service {
    int kind; /* XENPV_ENGINE_URING or _THREADS */
    struct xenpv_engine *engine; /* made by the thread that runs, when first needed */
    int epoll_fd, stop_fd;
    struct xenpv_back **active;
    uint32_t active_count, room, queues;
    uint32_t out;   /* slots in the engine */
    uint32_t spent; /* weight since the last look at the sleeping queues */
    int stopping, halted; /* what the next run says at once: stop was asked, a queue was halted, while one was removed */
    struct xenpv_turn turn; /* all queues spin in this one thread, so they share its right to */
};

static void activate(struct xenpv_service *s, struct xenpv_back *back)
{
    if (back->active || back->leaving)
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

static void finish(const struct xenpv_service *s, struct xenpv_slot *slot, int32_t result, uint32_t at_once)
{
    struct xenpv_back *back = slot->back;

    back->stats->errors += result != 0;
    xenpv_back_answer(back, slot, result ? status_of(result) : XENPV_RSP_OKAY);
    if (slot->indirect || back->answered_count >= (s->active_count > CROWDED ? TURN : back->bounce ? PUBLISH_COPIES : at_once))
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
            finish(s, done[i], done[i]->result, TURN);
            activate(s, back); /* its turn looks for what the answer brings */
        }
        for (uint32_t i = 0; i < count; i++)
            if (!done[i]->back->halted)
                xenpv_back_publish(done[i]->back); /* at the first of each queue: there is nothing left at the others */
        total += count;
    } while (count == 64);
    return total;
}

/* What the engine holds and the kernel was not handed, or did not take: it was short of memory, say. */
static uint32_t unsent(const struct xenpv_service *s)
{
    return s->engine ? s->engine->unsent : 0;
}

/* A kick is due before any sleep, also when every slot came back: not all that the kernel has to do ends with a completion. */
static int left(const struct xenpv_service *s)
{
    return s->engine && s->engine->more;
}

static int engine_of(struct xenpv_service *s)
{
    int error = 0;

    if (!s->engine)
        s->engine = s->kind == XENPV_ENGINE_URING ? xenpv_engine_uring(&error) : xenpv_engine_threads(&error);
    if (!s->engine)
        return -error;
    /* By its edge: each signal is told once, and nobody has to read it away. Whoever was told reaps before he sleeps. */
    struct epoll_event event = { .events = EPOLLIN | EPOLLET, .data.ptr = s->engine };
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
        finish(s, slot, result, PUBLISH_EVERY);
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

/* Nobody knows how long a discard takes. */
static uint32_t weight(const struct xenpv_slot *slot)
{
    return slot->op == XENPV_OP_DISCARD ? TURN : 1 + (slot->segments ? (uint32_t)(slot->bytes >> WEIGHT_SHIFT) : 0);
}

/* How many requests may be taken at once: as many as the turn will bear if they are like the last one, and not more than the
 * engine has room for, since what is taken has to start. */
static uint32_t batch_of(const struct xenpv_service *s, const struct xenpv_back *back, uint32_t spent)
{
    uint32_t batch = back->weight > 1 ? 1 + (TURN - spent) / back->weight : BATCH;

    if (batch > BATCH)
        batch = BATCH;
    return back->config.fd_inline || !s->engine || s->engine->room > batch ? batch : s->engine->room;
}

/* One queue's turn: how much it found, or -EPROTO. */
static int serve(struct xenpv_service *s, struct xenpv_back *back)
{
    struct xenpv_slot *slots[BATCH];
    uint32_t total = 0, spent = 1, count, hand_over = HAND_OVER;
    int taken = 0;

    while (spent <= TURN && (taken = xenpv_back_take(back, slots, batch_of(s, back, spent), &count)) > 0) {
        spent += (uint32_t)taken - count;
        for (uint32_t i = 0; i < count; i++) {
            /* In line, each begins when the one before it has ended. */
            if (back->stamper.unit)
                slots[i]->started = i ? (back->config.fd_inline ? slots[i - 1]->ended : slots[i - 1]->started)
                                      : xenpv_stamp_now(&back->stamper);
            back->weight = weight(slots[i]);
            spent += back->weight;
            start(s, back, slots[i]);
            if (unsent(s) >= hand_over) {
                s->engine->kick(s->engine);
                hand_over *= 2;
            }
        }
        total += (uint32_t)taken;
    }
    xenpv_back_publish(back);
    s->spent += spent;
    return taken < 0 ? taken : (int)total;
}

/* The frontend broke the rules. What it sends until the queue is removed wakes nobody, and is not told of anew. */
static void halt(struct xenpv_service *s, uint32_t at)
{
    struct xenpv_back *back = s->active[at];
    struct epoll_event none = { .data.ptr = back };

    epoll_ctl(s->epoll_fd, EPOLL_CTL_MOD, back->port.wait_fd, &none);
    s->halted = 1;
    xenpv_spin_stop(&back->spin);
    deactivate(s, at);
}

/* The run ends with queues still active: what they hold of the right to spin is for those who go on. */
static void pause_spins(struct xenpv_service *s)
{
    for (uint32_t i = 0; i < s->active_count; i++)
        xenpv_spin_stop(&s->active[i]->spin);
}

/* Takes what epoll says. */
static void look(struct xenpv_service *s, int timeout)
{
    struct epoll_event events[EVENTS];
    int count = epoll_wait(s->epoll_fd, events, EVENTS, timeout);
    uint64_t value;

    s->spent = 0;
    for (int i = 0; i < count; i++) {
        if (events[i].data.ptr == s) {
            s->stopping = 1;
            ssize_t ignored = read(s->stop_fd, &value, sizeof value); /* it was readable: at worst we stop twice */
            (void)ignored;
        } else if (events[i].data.ptr != s->engine) {
            struct xenpv_back *back = events[i].data.ptr;
            xenpv_back_wake(back);
            activate(s, back);
        }
    }
}

/* A turn for each active queue, and one for the engine. */
static void pass(struct xenpv_service *s)
{
    uint32_t found = 0;

    for (uint32_t i = 0; i < s->active_count;) {
        struct xenpv_back *back = s->active[i];
        int n = serve(s, back);
        if (n < 0) {
            halt(s, i);
            continue;
        }
        found += (uint32_t)n;
        if (s->spent >= LOOK_AFTER)
            look(s, 0); /* who wakes comes after the others of this pass */
        if (n) {
            xenpv_spin_found(&back->spin);
        } else if (!xenpv_spin_on(&back->spin) && xenpv_back_rest(back)) {
            deactivate(s, i);
            continue;
        }
        i++;
    }
    if (s->out || left(s)) {
        s->engine->kick(s->engine);
        found += reap(s);
    }
    if (!found)
        xenpv_relax();
}

/* Asleep for ever only when every queue has armed and the kernel has all that was submitted; every wait is done SLEEPING, one
 * for storage too. */
static void rest(struct xenpv_service *s)
{
    if (!s->active_count)
        look(s, left(s) ? 0 : unsent(s) ? RETRY_MS : -1);
}

int xenpv_service_run(struct xenpv_service *s)
{
    while (!s->halted && !s->stopping) {
        pass(s);
        if (!s->halted && !s->stopping)
            rest(s);
    }
    pause_spins(s);
    if (s->halted) {
        s->halted = 0;
        return 1;
    }
    s->stopping = 0;
    return 0;
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
    back->spin.turn = &s->turn;
    activate(s, back); /* attaching counts as an event */
    return 0;
}

int xenpv_service_remove(struct xenpv_service *s, struct xenpv_back *back)
{
    /* The descriptor is a duplicate of ours: epoll would go on reporting it after a plain close elsewhere. */
    if (epoll_ctl(s->epoll_fd, EPOLL_CTL_DEL, back->port.wait_fd, NULL) != 0)
        return -errno;
    xenpv_spin_stop(&back->spin);
    back->leaving = 1;
    for (uint32_t i = 0; i < s->active_count; i++)
        if (s->active[i] == back) {
            deactivate(s, i);
            break;
        }
    /* Its storage may take its time: the others are served meanwhile. */
    while (back->out) {
        pass(s);
        if (back->out)
            rest(s);
    }
    pause_spins(s);
    if (!back->halted)
        xenpv_back_publish(back);
    back->spin.turn = NULL;
    back->leaving = 0;
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
