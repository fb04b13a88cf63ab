#include "engine.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/io_uring.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <linux/falloc.h>

/* io_uring by its raw system calls: three of them and two rings are less than a library to depend on. */

#define ENTRIES 256u
#define IDLE_KICKS 256u   /* in a row with nothing sent and nothing ended, after which the kernel's flag is not believed */
#define COMPLETIONS 4096u /* in flight at once: storage that hangs, behind a ring of 512 entries, leaves room for others */

struct uring {
    struct xenpv_engine base;
    int ring_fd;
    void *rings, *sqes_map;
    size_t rings_bytes, sqes_bytes;
    _Atomic uint32_t *sq_head, *sq_tail, *sq_flags, *cq_head, *cq_tail;
    uint32_t *sq_array;
    uint32_t sq_mask, sq_entries, cq_mask;
    struct io_uring_sqe *sqes;
    struct io_uring_cqe *cqes;
    uint32_t tail; /* of the submission queue, not shown to the kernel yet */
    uint32_t idle_kicks, ended; /* kicks in vain; the completion queue's tail at the last one */
};

static int enter(struct uring *u, uint32_t submit, unsigned flags)
{
    return (int)syscall(__NR_io_uring_enter, u->ring_fd, submit, 0u, flags, NULL, (size_t)0);
}

static void prepare(struct io_uring_sqe *sqe, struct xenpv_slot *slot)
{
    memset(sqe, 0, sizeof *sqe);
    sqe->fd = slot->back->config.fd;
    sqe->user_data = (uint64_t)(uintptr_t)slot;
    sqe->off = slot->sector * XENPV_SECTOR;
    if (slot->op == XENPV_OP_FLUSH || slot->flush_first || slot->written) {
        sqe->opcode = IORING_OP_FSYNC;
        sqe->fsync_flags = IORING_FSYNC_DATASYNC;
        sqe->off = 0;
    } else if (slot->op == XENPV_OP_DISCARD) {
        sqe->opcode = IORING_OP_FALLOCATE;
        sqe->addr = slot->bytes;
        sqe->len = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
    } else if (slot->iovs == 1) {
        sqe->opcode = slot->op == XENPV_OP_READ ? IORING_OP_READ : IORING_OP_WRITE;
        sqe->addr = (uint64_t)(uintptr_t)slot->room.iov[0].iov_base;
        sqe->len = (uint32_t)slot->room.iov[0].iov_len;
    } else {
        sqe->opcode = slot->op == XENPV_OP_READ ? IORING_OP_READV : IORING_OP_WRITEV;
        sqe->addr = (uint64_t)(uintptr_t)slot->room.iov;
        sqe->len = (uint32_t)slot->iovs;
    }
}

static int uring_submit(struct xenpv_engine *engine, struct xenpv_slot *slot)
{
    struct uring *u = (struct uring *)engine;
    uint32_t index;

    /* Acquire: the kernel is done reading an entry before its head passes it, and we may write it again. */
    if (!u->base.room || u->tail - atomic_load_explicit(u->sq_head, memory_order_acquire) >= u->sq_entries)
        return -EAGAIN;
    index = u->tail & u->sq_mask;
    prepare(&u->sqes[index], slot);
    u->sq_array[index] = index;
    u->tail++;
    u->base.unsent++;
    u->base.room--; /* what may come back is never more than the completion queue holds */
    return 0;
}

/* The kernel has something to do in our time. Relaxed: a hint. Set later, the eventfd tells us again. */
static uint32_t waiting(const struct uring *u)
{
    return atomic_load_explicit(u->sq_flags, memory_order_relaxed) & (IORING_SQ_TASKRUN | IORING_SQ_CQ_OVERFLOW);
}

/* Whether another kick is due after one that sent `sent`. Linux 6.13 does 20 things at a time, and some end without a completion,
 * so a kick that changes nothing to be seen may have been of use. But the flag may also be set late, by another CPU, for work
 * that was done meanwhile, and then nothing but new work resets it: of that the eventfd tells. */
static uint32_t still_waiting(struct uring *u, int sent)
{
    uint32_t ended = atomic_load_explicit(u->cq_tail, memory_order_relaxed); /* a hint: reap reads it in order */
    int idle = sent <= 0 && ended == u->ended;

    u->ended = ended;
    u->idle_kicks = idle ? u->idle_kicks + 1 : 0;
    return waiting(u) && u->idle_kicks < IDLE_KICKS;
}

static int uring_kick(struct xenpv_engine *engine)
{
    struct uring *u = (struct uring *)engine;
    int n;

    u->base.more = 0;
    if (!u->base.unsent && !waiting(u))
        return 0;
    /* Release: the entries are seen before the tail that covers them. */
    atomic_store_explicit(u->sq_tail, u->tail, memory_order_release);
    n = enter(u, u->base.unsent, IORING_ENTER_GETEVENTS);
    u->base.more = still_waiting(u, n);
    if (n < 0)
        return errno == EINTR || errno == EAGAIN || errno == EBUSY ? 0 : -errno; /* tried again at the next turn */
    u->base.unsent -= (uint32_t)n;
    return 0;
}

static uint32_t uring_reap(struct xenpv_engine *engine, struct xenpv_slot **done, uint32_t max)
{
    struct uring *u = (struct uring *)engine;
    uint32_t head = atomic_load_explicit(u->cq_head, memory_order_relaxed); /* only we write it */
    /* Acquire: completions are read after the tail that covers them. */
    uint32_t tail = atomic_load_explicit(u->cq_tail, memory_order_acquire);
    uint32_t count = 0, resubmitted = 0;

    for (; head != tail && count < max; head++) {
        const struct io_uring_cqe *cqe = &u->cqes[head & u->cq_mask];
        struct xenpv_slot *slot = (struct xenpv_slot *)(uintptr_t)cqe->user_data;
        int32_t result = cqe->res;

        u->base.room++;
        if (slot->flush_first && result >= 0) {
            slot->flush_first = 0;
            if (uring_submit(engine, slot) == 0) {
                resubmitted = 1;
                continue;
            }
            result = xenpv_io_now(slot);
        } else if (slot->segments && !slot->written && result >= 0 && (uint64_t)result < slot->bytes) {
            /* A short read or write is rare; what is left is done at once. */
            result = result == 0 ? -EIO : xenpv_io_rest(slot, (uint64_t)result);
        } else if (slot->op == XENPV_OP_DISCARD && result == -EOPNOTSUPP) {
            result = xenpv_io_now(slot); /* which knows another way; io_uring has it from Linux 6.12 on */
        }
        if (slot->flush_after && !slot->written && result >= 0) {
            slot->written = 1;
            if (uring_submit(engine, slot) == 0) {
                resubmitted = 1;
                continue;
            }
            result = fdatasync(slot->back->config.fd) ? -errno : 0;
        }
        slot->result = result < 0 ? result : 0;
        done[count++] = slot;
    }
    /* Release: we are done reading the entries before the kernel may write them again. */
    atomic_store_explicit(u->cq_head, head, memory_order_release);
    if (resubmitted)
        uring_kick(engine); /* the service may sleep next, and nothing else would start it */
    return count;
}

static void uring_free(struct xenpv_engine *engine)
{
    struct uring *u = (struct uring *)engine;

    if (u->sqes_map)
        munmap(u->sqes_map, u->sqes_bytes);
    if (u->rings)
        munmap(u->rings, u->rings_bytes);
    if (u->ring_fd >= 0)
        close(u->ring_fd);
    if (u->base.fd >= 0)
        close(u->base.fd);
    free(u);
}

static int map_rings(struct uring *u, const struct io_uring_params *p)
{
    size_t sq = p->sq_off.array + p->sq_entries * sizeof(uint32_t);
    size_t cq = p->cq_off.cqes + p->cq_entries * sizeof(struct io_uring_cqe);

    if (!(p->features & IORING_FEAT_SINGLE_MMAP) || !(p->features & IORING_FEAT_NODROP))
        return -ENOSYS;
    u->rings_bytes = sq > cq ? sq : cq;
    u->sqes_bytes = p->sq_entries * sizeof(struct io_uring_sqe);
    uint8_t *at = mmap(NULL, u->rings_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, u->ring_fd,
                       IORING_OFF_SQ_RING);
    if (at == MAP_FAILED)
        return -errno;
    u->rings = at;
    void *sqes = mmap(NULL, u->sqes_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, u->ring_fd, IORING_OFF_SQES);
    if (sqes == MAP_FAILED)
        return -errno;
    u->sqes_map = sqes;
    u->sqes = sqes;
    u->sq_head = (_Atomic uint32_t *)(void *)(at + p->sq_off.head);
    u->sq_tail = (_Atomic uint32_t *)(void *)(at + p->sq_off.tail);
    u->sq_flags = (_Atomic uint32_t *)(void *)(at + p->sq_off.flags);
    u->sq_array = (uint32_t *)(void *)(at + p->sq_off.array);
    u->sq_mask = p->sq_entries - 1;
    u->sq_entries = p->sq_entries;
    u->cq_head = (_Atomic uint32_t *)(void *)(at + p->cq_off.head);
    u->cq_tail = (_Atomic uint32_t *)(void *)(at + p->cq_off.tail);
    u->cqes = (struct io_uring_cqe *)(void *)(at + p->cq_off.cqes);
    u->cq_mask = p->cq_entries - 1;
    u->base.room = p->cq_entries;
    return 0;
}

/* The thread that runs the service is the only one that submits: the kernel then does its work in that thread's own time. A
 * kernel that does not know these flags refuses them, and gets the next lesser set. The ring starts disabled because it is
 * made by another thread than the one that will be its single issuer. */
static int set_up(struct uring *u, struct io_uring_params *p)
{
    static const unsigned sets[] = {
        IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_TASKRUN_FLAG | IORING_SETUP_R_DISABLED
            | IORING_SETUP_CQSIZE,
        IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG | IORING_SETUP_CQSIZE,
        0,
    };

    for (unsigned i = 0; i < sizeof sets / sizeof *sets; i++) {
        *p = (struct io_uring_params){ .flags = sets[i], .cq_entries = sets[i] & IORING_SETUP_CQSIZE ? COMPLETIONS : 0 };
        u->ring_fd = (int)syscall(__NR_io_uring_setup, ENTRIES, p);
        if (u->ring_fd >= 0)
            return 0;
        if (errno != EINVAL)
            return -errno;
    }
    return -EINVAL;
}

/* Called by the issuing thread itself, before its first submission. */
static int enable(struct uring *u, const struct io_uring_params *p)
{
    if (!(p->flags & IORING_SETUP_R_DISABLED))
        return 0;
    return syscall(__NR_io_uring_register, u->ring_fd, IORING_REGISTER_ENABLE_RINGS, NULL, 0) < 0 ? -errno : 0;
}

struct xenpv_engine *xenpv_engine_uring(int *error)
{
    struct uring *u = calloc(1, sizeof *u);
    struct io_uring_params params;

    if (!u) {
        *error = ENOMEM;
        return NULL;
    }
    u->base = (struct xenpv_engine){ "io_uring", -1, 0, 0, 0, uring_submit, uring_kick, uring_reap, uring_free };
    u->ring_fd = -1;
    *error = -set_up(u, &params);
    if (!*error)
        *error = -map_rings(u, &params);
    if (!*error) {
        u->base.fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
        if (u->base.fd < 0
            || syscall(__NR_io_uring_register, u->ring_fd, IORING_REGISTER_EVENTFD, &u->base.fd, 1) < 0)
            *error = errno;
    }
    if (!*error)
        *error = -enable(u, &params);
    if (*error) {
        uring_free(&u->base);
        return NULL;
    }
    return &u->base;
}
