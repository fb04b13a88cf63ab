#include "api.h"

#include <errno.h>

/* RULES
 * - `order` is a ring. From `head`, `free` long, stand the free slots in the order in which they were done; every other slot
 *   is in flight, and has a turn.
 * - A slot's cookie, bytes and page are its own for ever; what an I/O brings is its operation and sector. */

void xenpv_batch_init(struct xenpv_batch *batch, uint32_t block, const uint32_t *pages)
{
    batch->free = batch->depth;
    for (uint32_t i = 0; i < batch->depth; i++) {
        batch->slots[i].io = (struct xenpv_io){ .cookie = (uint64_t)batch->owner << 32 | i, .bytes = block, .page = pages[i] };
        batch->order[i] = i;
    }
}

static uint32_t wrapped(const struct xenpv_batch *batch, uint32_t at)
{
    return at < batch->depth ? at : at - batch->depth;
}

void xenpv_batch_next(const struct xenpv_batch *batch, uint32_t *slots, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        slots[i] = batch->order[wrapped(batch, batch->head + i)];
}

void xenpv_batch_submit(struct xenpv_batch *batch, uint32_t op, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        struct xenpv_batch_slot *slot = &batch->slots[batch->order[batch->head]];

        batch->head = wrapped(batch, batch->head + 1);
        slot->turn = ++batch->turn;
        slot->io.op = (uint8_t)op;
        slot->io.sector = batch->sectors[i];
        batch->submitted[i] = slot->io;
    }
    batch->free -= count;
}

void xenpv_batch_done(struct xenpv_batch *batch, uint32_t at, uint32_t count)
{
    const struct xenpv_io *done = batch->done + at;
    uint32_t tail = wrapped(batch, batch->head + batch->free);

    if (!at)
        batch->failed = 0;
    batch->strange = 0;
    for (uint32_t i = 0; i < count; i++)
        batch->strange |= done[i].cookie >> 32 != batch->owner;
    if (batch->strange)
        return;
    for (uint32_t i = 0; i < count; i++) {
        uint32_t slot = (uint32_t)done[i].cookie;

        batch->slots[slot].turn = 0;
        batch->order[tail] = slot;
        tail = wrapped(batch, tail + 1);
        batch->failed += done[i].status != 0;
    }
    batch->free += count;
}

int xenpv_batch_exchange(struct xenpv_batch *batch, struct xenpv_front *front, uint32_t op, uint32_t count, uint32_t at,
                         uint32_t min_done, int64_t timeout_ns, int wake_fd)
{
    uint32_t accepted;
    int n;

    xenpv_batch_submit(batch, op, count);
    n = xenpv_front_exchange(front, batch->submitted, count, &accepted, batch->done + at, batch->depth - at, min_done, timeout_ns,
                             wake_fd);
    xenpv_batch_done(batch, at, n > 0 ? (uint32_t)n : 0);
    return n >= 0 && accepted < count ? -ENOBUFS : n;
}

uint32_t xenpv_batch_unanswered(const struct xenpv_batch *batch, struct xenpv_io *ios)
{
    uint32_t count = batch->depth - batch->free;
    uint64_t last = 0;

    /* A search for each: this is done when a ring is lost, and a batch is small. */
    for (uint32_t i = 0; i < count; i++) {
        const struct xenpv_batch_slot *next = NULL;

        for (uint32_t slot = 0; slot < batch->depth; slot++)
            if (batch->slots[slot].turn > last && (!next || batch->slots[slot].turn < next->turn))
                next = &batch->slots[slot];
        ios[i] = next->io;
        last = next->turn;
    }
    return count;
}
