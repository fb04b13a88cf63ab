#include "engine.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

/* A pool of threads that do the plain system calls, where io_uring is forbidden.
 *
 * A thread in a call that hangs is lost to the pool until the call ends, and nobody can say which call that will be. So each
 * queue has a list of its own (its lane), and a thread takes the next request of a queue that has fewer than THREADS in the
 * calls, or, while so many threads in all get on, of one that has none. A thread that others have ended OVERTAKEN requests
 * beside does not get on, and is not counted: storage that hangs or is slow leaves the others a thread each at once, and as
 * many as they had soon. Threads are started when a request may begin and none is idle: 8 a queue at the most, and 8 or some
 * more in all where storage answers. */

#define THREADS 8u
#define OVERTAKEN 64u

struct list {
    struct xenpv_slot *first, *last;
};

struct pool;

struct worker {
    struct pool *pool;
    struct worker *next;
    pthread_t thread;
    struct xenpv_slot *slot; /* in the call; NULL: idle */
    uint64_t began;          /* the pool's `ended` when the call began */
};

struct pool {
    struct xenpv_engine base;
    pthread_mutex_t lock;
    pthread_cond_t work;
    struct xenpv_back *waiting; /* queues with requests that have not begun, the one served last at the end */
    struct list done;
    struct worker *workers;
    uint32_t idle;
    uint64_t ended; /* requests */
    int ending;
};

static void append(struct list *list, struct xenpv_slot *slot)
{
    slot->next = NULL;
    if (list->first)
        list->last->next = slot;
    else
        list->first = slot;
    list->last = slot;
}

static struct xenpv_slot *take_first(struct list *list)
{
    struct xenpv_slot *slot = list->first;

    if (slot)
        list->first = slot->next;
    return slot;
}

/* Up to hand_out(), all is called with the lock held. */

static void wait_in_line(struct pool *pool, struct xenpv_back *back)
{
    struct xenpv_back **at = &pool->waiting;

    while (*at)
        at = &(*at)->lane.next;
    *at = back;
    back->lane.next = NULL;
}

/* Where the queue stands whose request may begin next; NULL: none may. */
static struct xenpv_back **find(struct pool *pool)
{
    uint32_t getting_on = 0, most;

    if (!pool->waiting)
        return NULL;
    for (const struct worker *w = pool->workers; w; w = w->next)
        getting_on += w->slot && pool->ended - w->began < OVERTAKEN;
    most = getting_on < THREADS ? THREADS : 1;
    for (struct xenpv_back **at = &pool->waiting; *at; at = &(*at)->lane.next)
        if ((*at)->lane.busy < most)
            return at;
    return NULL;
}

/* Takes the next request that may begin, if there is one. */
static void begin(struct worker *self)
{
    struct xenpv_back **at = find(self->pool), *back;

    if (!at)
        return;
    back = *at;
    *at = back->lane.next;
    self->slot = back->lane.first;
    self->began = self->pool->ended;
    back->lane.first = self->slot->next;
    back->lane.busy++;
    if (back->lane.first)
        wait_in_line(self->pool, back);
}

static void *work(void *argument);

/* One more thread, which has a request if one may begin. Signals are the main thread's. 0 or an errno. */
static int start(struct pool *pool)
{
    struct worker *worker = calloc(1, sizeof *worker);
    sigset_t all, before;
    int error;

    if (!worker)
        return ENOMEM;
    worker->pool = pool;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    error = pthread_create(&worker->thread, NULL, work, worker);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (error) {
        free(worker);
        return error;
    }
    worker->next = pool->workers;
    pool->workers = worker;
    begin(worker);
    return 0;
}

/* Somebody for a request that may begin. An idle thread that was woken before, and has not come yet, sees to the next one when
 * it has its own. */
static void hand_out(struct pool *pool)
{
    if (pool->ending || !find(pool))
        return;
    if (pool->idle)
        pthread_cond_signal(&pool->work);
    else
        start(pool); /* if that fails: whoever ends a request takes the next */
}

static void *work(void *argument)
{
    struct worker *self = argument;
    struct pool *pool = self->pool;
    uint64_t one = 1;

    pthread_mutex_lock(&pool->lock);
    for (;;) {
        while (!self->slot && !pool->ending) {
            pool->idle++;
            pthread_cond_wait(&pool->work, &pool->lock);
            pool->idle--;
            begin(self);
        }
        if (!self->slot)
            break;
        hand_out(pool);
        pthread_mutex_unlock(&pool->lock);
        self->slot->result = xenpv_io_now(self->slot);
        pthread_mutex_lock(&pool->lock);
        self->slot->back->lane.busy--;
        append(&pool->done, self->slot);
        self->slot = NULL;
        pool->ended++;
        /* An eventfd's counter can only be full after 2^64 - 2 unread completions. */
        while (write(pool->base.fd, &one, sizeof one) < 0 && errno == EINTR)
            ;
        begin(self);
    }
    pthread_mutex_unlock(&pool->lock);
    return NULL;
}

static int pool_submit(struct xenpv_engine *engine, struct xenpv_slot *slot)
{
    struct pool *pool = (struct pool *)engine;
    struct xenpv_back *back = slot->back;

    slot->next = NULL;
    pthread_mutex_lock(&pool->lock);
    if (back->lane.first) {
        back->lane.last->next = slot;
    } else {
        back->lane.first = slot;
        wait_in_line(pool, back);
    }
    back->lane.last = slot;
    hand_out(pool);
    pthread_mutex_unlock(&pool->lock);
    return 0;
}

static int pool_kick(struct xenpv_engine *engine)
{
    (void)engine; /* submit has woken a thread already */
    return 0;
}

static uint32_t pool_reap(struct xenpv_engine *engine, struct xenpv_slot **done, uint32_t max)
{
    struct pool *pool = (struct pool *)engine;
    uint32_t count = 0;

    pthread_mutex_lock(&pool->lock);
    while (count < max && (done[count] = take_first(&pool->done)))
        count++;
    pthread_mutex_unlock(&pool->lock);
    return count;
}

static void pool_free(struct xenpv_engine *engine)
{
    struct pool *pool = (struct pool *)engine;

    pthread_mutex_lock(&pool->lock);
    pool->ending = 1;
    pthread_cond_broadcast(&pool->work);
    pthread_mutex_unlock(&pool->lock);
    for (struct worker *worker = pool->workers, *next; worker; worker = next) {
        next = worker->next;
        pthread_join(worker->thread, NULL);
        free(worker);
    }
    pthread_cond_destroy(&pool->work);
    pthread_mutex_destroy(&pool->lock);
    if (pool->base.fd >= 0)
        close(pool->base.fd);
    free(pool);
}

struct xenpv_engine *xenpv_engine_threads(int *error)
{
    struct pool *pool = calloc(1, sizeof *pool);

    if (!pool) {
        *error = ENOMEM;
        return NULL;
    }
    pool->base = (struct xenpv_engine){ "threads", -1, 0, 0, UINT32_MAX, pool_submit, pool_kick, pool_reap, pool_free };
    pthread_mutex_init(&pool->lock, NULL);
    pthread_cond_init(&pool->work, NULL);
    pool->base.fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (pool->base.fd < 0) {
        *error = errno;
    } else {
        pthread_mutex_lock(&pool->lock);
        *error = start(pool); /* without one thread there is no pool */
        pthread_mutex_unlock(&pool->lock);
    }
    if (*error) {
        pool_free(&pool->base);
        return NULL;
    }
    return &pool->base;
}
