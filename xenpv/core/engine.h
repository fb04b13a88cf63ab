/* How the service thread moves data between a storage's descriptor and memory. */
#ifndef XENPV_ENGINE_H
#define XENPV_ENGINE_H

#include "back.h"

struct xenpv_engine {
    const char *name;
    int fd; /* readable when `reap` may find something */
    uint32_t unsent; /* submitted, and not handed to the kernel yet: kick again before any long sleep */
    uint32_t more;   /* kick left something to do that `fd` says nothing of: kick again before any sleep */
    uint32_t room;   /* how many more it holds: who submits no more than that never waits for others' slow storage */
    /* Starts slot's operation on its queue's descriptor. 0, or -EAGAIN: reap first. */
    int (*submit)(struct xenpv_engine *, struct xenpv_slot *);
    /* Hands what was submitted to the kernel, and lets it finish what is ready. 0 or -errno. */
    int (*kick)(struct xenpv_engine *);
    /* Finished slots, with their `result`. Never blocks. */
    uint32_t (*reap)(struct xenpv_engine *, struct xenpv_slot **done, uint32_t max);
    void (*free)(struct xenpv_engine *);
};

/* io_uring.c: NULL with *error where the kernel, or a filter, forbids it. */
struct xenpv_engine *xenpv_engine_uring(int *error);
/* threads.c */
struct xenpv_engine *xenpv_engine_threads(int *error);

/* sync.c: the whole operation now, in this thread: 0 or a negative errno. */
int xenpv_io_now(const struct xenpv_slot *slot);
/* The rest of a read or write of which the first `done` bytes are done. */
int xenpv_io_rest(const struct xenpv_slot *slot, uint64_t done);

#endif
