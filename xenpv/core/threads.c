#include "engine.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

/* A pool of threads that do the plain system calls, where io_uring is forbidden. */

#define THREADS 8

struct list {
    struct xenpv_slot *first, **last;
};

struct pool {
    struct xenpv_engine base;
    pthread_mutex_t lock;
    pthread_cond_t work;
    struct list todo, done;
    int started, ending;
    pthread_t thread[THREADS];
};

static void append(struct list *list, struct xenpv_slot *slot)
{
    slot->next = NULL;
    *list->last = slot;
    list->last = &slot->next;
}

static struct xenpv_slot *take_first(struct list *list)
{
    struct xenpv_slot *slot = list->first;

    if (slot) {
        list->first = slot->next;
        if (!list->first)
            list->last = &list->first;
    }
    return slot;
}

static void *worker(void *argument)
{
    struct pool *pool = argument;
    struct xenpv_slot *slot;
    uint64_t one = 1;

    pthread_mutex_lock(&pool->lock);
    for (;;) {
        while (!(slot = take_first(&pool->todo)) && !pool->ending)
            pthread_cond_wait(&pool->work, &pool->lock);
        if (!slot)
            break;
        pthread_mutex_unlock(&pool->lock);
        slot->result = xenpv_io_now(slot);
        pthread_mutex_lock(&pool->lock);
        append(&pool->done, slot);
        /* An eventfd's counter can only be full after 2^64 - 2 unread completions. */
        while (write(pool->base.fd, &one, sizeof one) < 0 && errno == EINTR)
            ;
    }
    pthread_mutex_unlock(&pool->lock);
    return NULL;
}

static int pool_submit(struct xenpv_engine *engine, struct xenpv_slot *slot)
{
    struct pool *pool = (struct pool *)engine;

    pthread_mutex_lock(&pool->lock);
    append(&pool->todo, slot);
    pthread_cond_signal(&pool->work);
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
    while (pool->started)
        pthread_join(pool->thread[--pool->started], NULL);
    pthread_cond_destroy(&pool->work);
    pthread_mutex_destroy(&pool->lock);
    if (pool->base.fd >= 0)
        close(pool->base.fd);
    free(pool);
}

/* Signals are the main thread's. */
static int start(struct pool *pool)
{
    sigset_t all, before;
    int error = 0;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    while (pool->started < THREADS && !error) {
        error = pthread_create(&pool->thread[pool->started], NULL, worker, pool);
        pool->started += !error;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return pool->started ? 0 : error; /* fewer threads than wished for do as well, slower */
}

struct xenpv_engine *xenpv_engine_threads(int *error)
{
    struct pool *pool = calloc(1, sizeof *pool);

    if (!pool) {
        *error = ENOMEM;
        return NULL;
    }
    pool->base = (struct xenpv_engine){ "threads", -1, 0, 0, UINT32_MAX, pool_submit, pool_kick, pool_reap, pool_free };
    pool->todo.last = &pool->todo.first;
    pool->done.last = &pool->done.first;
    pthread_mutex_init(&pool->lock, NULL);
    pthread_cond_init(&pool->work, NULL);
    pool->base.fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    *error = pool->base.fd < 0 ? errno : start(pool);
    if (*error) {
        pool_free(&pool->base);
        return NULL;
    }
    return &pool->base;
}
