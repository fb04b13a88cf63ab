#include "api.h"

/* RULES
 * - `order` is a ring. From `head`, `free` long, stand the free slots in the order in which they were done; every other slot
 *   is in flight, and has a turn.
 * - A slot's cookie, bytes and page are its own for ever; what an I/O brings is its operation and sector. */

void xenpv_batch_init(struct xenpv_batch *batch, uint32_t depth, uint32_t owner, uint32_t block, const uint32_t *pages,
                      struct xenpv_batch_slot *slots, uint32_t *order)
{
    *batch = (struct xenpv_batch){ .depth = depth, .owner = owner, .free = depth, .slots = slots, .order = order };
    for (uint32_t i = 0; i < depth; i++) {
        slots[i] = (struct xenpv_batch_slot){ .io = { .cookie = (uint64_t)owner << 32 | i, .bytes = block, .page = pages[i] } };
        order[i] = i;
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

void xenpv_batch_submit(struct xenpv_batch *batch, uint32_t op, const uint64_t *sectors, struct xenpv_io *ios, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        struct xenpv_batch_slot *slot = &batch->slots[batch->order[batch->head]];

        batch->head = wrapped(batch, batch->head + 1);
        slot->turn = ++batch->turn;
        slot->io.op = (uint8_t)op;
        slot->io.sector = sectors[i];
        ios[i] = slot->io;
    }
    batch->free -= count;
}

int xenpv_batch_done(struct xenpv_batch *batch, const struct xenpv_io *ios, uint32_t count)
{
    uint32_t tail = wrapped(batch, batch->head + batch->free), failed = 0;

    for (uint32_t i = 0; i < count; i++)
        if (ios[i].cookie >> 32 != batch->owner)
            return -1;
    for (uint32_t i = 0; i < count; i++) {
        uint32_t slot = (uint32_t)ios[i].cookie;

        batch->slots[slot].turn = 0;
        batch->order[tail] = slot;
        tail = wrapped(batch, tail + 1);
        failed += ios[i].status != 0;
    }
    batch->free += count;
    return (int)failed;
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
