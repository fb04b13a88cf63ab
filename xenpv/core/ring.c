#include "ring.h"

#include <errno.h>
#include <stdatomic.h>
#include <string.h>

static inline _Atomic uint32_t *word_at(const struct xenpv_ring *ring, unsigned offset)
{
    return (_Atomic uint32_t *)(void *)(ring->shared + offset);
}

static inline _Atomic uint32_t *own_word(const struct xenpv_ring *ring)
{
    return word_at(ring, ring->back ? XENPV_BACKEND_WORD : XENPV_FRONTEND_WORD);
}

static inline _Atomic uint32_t *peer_word(const struct xenpv_ring *ring)
{
    return word_at(ring, ring->back ? XENPV_FRONTEND_WORD : XENPV_BACKEND_WORD);
}

void xenpv_ring_init(void *shared)
{
    struct xenpv_ring ring = { .shared = shared };

    /* No order is needed: the page is granted, and its reference published in the store, after this. */
    memset(shared, 0, XENPV_RING_HEADER);
    atomic_store_explicit(word_at(&ring, XENPV_REQ_EVENT), 1, memory_order_relaxed);
    atomic_store_explicit(word_at(&ring, XENPV_RSP_EVENT), 1, memory_order_relaxed);
}

int xenpv_ring_attach(struct xenpv_ring *ring, void *shared, uint32_t bytes, uint32_t entry_size, int back, int flag)
{
    uint32_t entries = 1;

    if (!shared || bytes < XENPV_RING_HEADER + entry_size || !entry_size || ((uintptr_t)shared & 7))
        return -EINVAL;
    while (entries * 2 <= (bytes - XENPV_RING_HEADER) / entry_size)
        entries *= 2;
    memset(ring, 0, sizeof *ring);
    ring->shared = shared;
    ring->entries = entries;
    ring->entry_size = entry_size;
    ring->back = back != 0;
    ring->flag = flag != 0;

    /* Where a predecessor stopped. Acquire: the entries that these indices cover are seen after them. */
    uint32_t req = atomic_load_explicit(word_at(ring, XENPV_REQ_PROD), memory_order_acquire);
    uint32_t rsp = atomic_load_explicit(word_at(ring, XENPV_RSP_PROD), memory_order_acquire);
    if (req - rsp > entries)
        return -EPROTO;
    ring->produced = ring->published = back ? rsp : req;
    ring->consumed = rsp;
    ring->word = atomic_load_explicit(own_word(ring), memory_order_relaxed);
    /* Attaching counts as an event: whatever word a predecessor left, we are RUNNING now and look before any sleep. */
    xenpv_ring_run(ring);
    return 0;
}

int64_t xenpv_ring_available(struct xenpv_ring *ring)
{
    /* Acquire: entries are read after the index that covers them, else an entry's old bytes could be taken. */
    uint32_t index = atomic_load_explicit(word_at(ring, ring->back ? XENPV_REQ_PROD : XENPV_RSP_PROD), memory_order_acquire);
    uint32_t waiting = index - ring->consumed;

    if (ring->back) {
        /* Requests taken and not answered still fill their part of the ring; an index that went back is far ahead too. */
        if (waiting > ring->entries - (ring->consumed - ring->produced))
            return -EPROTO;
    } else if (waiting > ring->published - ring->consumed) {
        return -EPROTO; /* an answer to what was never asked */
    }
    return waiting;
}

int xenpv_ring_publish(struct xenpv_ring *ring, uint32_t produced)
{
    uint32_t old = ring->published;

    if (produced == old)
        return 0;
    ring->produced = ring->published = produced;
    /* Release: the entries are seen before the index that covers them. */
    atomic_store_explicit(word_at(ring, ring->back ? XENPV_RSP_PROD : XENPV_REQ_PROD), produced, memory_order_release);
    /* The index must be seen by the peer before we read whether it sleeps; with arm's fence one of the two sees the other. */
    atomic_thread_fence(memory_order_seq_cst);
    if (ring->flag) {
        uint32_t word = atomic_load_explicit(peer_word(ring), memory_order_relaxed);
        if (!(word & 1) && !(ring->notified_any && word == ring->notified_for)) {
            ring->notified_any = 1;
            ring->notified_for = word;
            ring->notifications++;
            return 1;
        }
    } else {
        uint32_t event = atomic_load_explicit(word_at(ring, ring->back ? XENPV_RSP_EVENT : XENPV_REQ_EVENT),
                                              memory_order_relaxed);
        if (produced - event < produced - old) {
            ring->notifications++;
            return 1;
        }
    }
    ring->saved++;
    return 0;
}

int64_t xenpv_ring_arm(struct xenpv_ring *ring)
{
    if (ring->flag) {
        if (ring->word & 1)
            atomic_store_explicit(own_word(ring), ++ring->word, memory_order_release);
    } else {
        atomic_store_explicit(word_at(ring, ring->back ? XENPV_REQ_EVENT : XENPV_RSP_EVENT), ring->consumed + 1,
                              memory_order_release);
    }
    /* "Wake me" must be seen by the producer before we look a last time; see publish. */
    atomic_thread_fence(memory_order_seq_cst);
    return xenpv_ring_available(ring);
}

void xenpv_ring_run(struct xenpv_ring *ring)
{
    /* No order: RUNNING promises to look again, and we do; seen late it costs the peer one notification. */
    if (ring->flag && !(ring->word & 1))
        atomic_store_explicit(own_word(ring), ++ring->word, memory_order_relaxed);
}
