#include "back.h"

static uint8_t *bounce_of(const struct xenpv_back *back, const struct xenpv_slot *slot)
{
    return back->bounce + (size_t)slot->index * XENPV_MAX_SEGMENTS * XENPV_PAGE_SIZE;
}

static void release(struct xenpv_back *back, struct xenpv_slot *slot)
{
    while (slot->pinned)
        xenpv_persistent_unpin(&back->persistent, slot->pin[--slot->pinned]);
    while (slot->mapped)
        back->hv->unmap(back->hv, &slot->map[--slot->mapped]);
}

/* The granted page of segment `i`, by its standing mapping or one for this request. NULL: the grant does not allow it. */
static uint8_t *page_of(struct xenpv_back *back, struct xenpv_slot *slot, unsigned i)
{
    uint32_t ref = slot->segment[i].ref;
    uint32_t pin = xenpv_persistent_pin(&back->persistent, back->hv, back->config.domid, ref);

    if (pin != XENPV_NO_PIN) {
        slot->pin[slot->pinned++] = pin;
        return back->persistent.entry[pin].map.memory;
    }
    struct xenpv_map *map = &slot->map[slot->mapped];
    if (back->hv->map(back->hv, back->config.domid, &ref, 1, slot->op == XENPV_OP_READ, map) != 0)
        return NULL;
    slot->mapped++;
    return map->memory;
}

static int map_pages(struct xenpv_back *back, struct xenpv_slot *slot)
{
    slot->iovs = 0;
    for (unsigned i = 0; i < slot->segments; i++) {
        uint8_t *page = page_of(back, slot, i);
        if (!page) {
            release(back, slot);
            return XENPV_RSP_ERROR;
        }
        uint8_t *start = page + slot->segment[i].offset;
        struct iovec *last = slot->iovs ? &slot->iov[slot->iovs - 1] : NULL;
        /* Merged only where they touch in our own address space: two pages of the guest say nothing about ours. */
        if (last && (uint8_t *)last->iov_base + last->iov_len == start)
            last->iov_len += slot->segment[i].length;
        else
            slot->iov[slot->iovs++] = (struct iovec){ start, slot->segment[i].length };
    }
    return 0;
}

/* Between the private pages and the guest's: by standing mappings where there are any, else by one grant copy for all. */
static int copy_pages(struct xenpv_back *back, struct xenpv_slot *slot, int to_grant)
{
    struct xenpv_copy copy[XENPV_MAX_SEGMENTS];
    uint8_t *local = bounce_of(back, slot);
    uint32_t count = 0;

    for (unsigned i = 0; i < slot->segments; i++, local += slot->segment[i - 1].length) {
        const struct xenpv_segment *segment = &slot->segment[i];
        uint32_t pin = xenpv_persistent_pin(&back->persistent, back->hv, back->config.domid, segment->ref);
        if (pin == XENPV_NO_PIN) {
            copy[count++] = (struct xenpv_copy){ .local = local, .ref = segment->ref, .offset = segment->offset,
                                                 .length = segment->length, .to_grant = (uint16_t)to_grant };
            continue;
        }
        uint8_t *page = back->persistent.entry[pin].map.memory + segment->offset;
        memcpy(to_grant ? page : local, to_grant ? local : page, segment->length);
        xenpv_persistent_unpin(&back->persistent, pin);
    }
    if (count && back->hv->copy(back->hv, back->config.domid, copy, count) != 0)
        return XENPV_RSP_ERROR;
    return 0;
}

int xenpv_data_begin(struct xenpv_back *back, struct xenpv_slot *slot)
{
    slot->iovs = 0;
    if (!slot->segments)
        return 0;
    if (!back->bounce)
        return map_pages(back, slot);
    slot->iov[0] = (struct iovec){ bounce_of(back, slot), slot->bytes };
    slot->iovs = 1;
    return slot->op == XENPV_OP_WRITE ? copy_pages(back, slot, 0) : 0;
}

int xenpv_data_end(struct xenpv_back *back, struct xenpv_slot *slot, int status)
{
    if (back->bounce && slot->op == XENPV_OP_READ && status == XENPV_RSP_OKAY && slot->segments)
        status = copy_pages(back, slot, 1);
    release(back, slot);
    return status;
}
