#include "back.h"

#define COPY_MAX 352u /* pieces of one grant copy: as many as a ring of one page has segments */

static uint8_t *bounce_of(const struct xenpv_back *back, const struct xenpv_slot *slot)
{
    return back->bounce + (size_t)slot->index * XENPV_MAX_SEGMENTS * XENPV_PAGE_SIZE;
}

void xenpv_data_release(struct xenpv_back *back, struct xenpv_slot *slot)
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
            xenpv_data_release(back, slot);
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

/* Pieces of many requests, for one grant copy. */
struct gathered {
    struct xenpv_copy copy[COPY_MAX];
    struct xenpv_slot *of[COPY_MAX];
    uint32_t count;
};

static void copy_gathered(struct xenpv_back *back, struct gathered *gathered)
{
    int result = gathered->count ? back->hv->copy(back->hv, back->config.domid, gathered->copy, gathered->count) : 0;

    for (uint32_t i = 0; result && i < gathered->count; i++) {
        if ((result == -1 && gathered->copy[i].status == XENPV_GNTST_OKAY) || gathered->of[i]->status)
            continue;
        gathered->of[i]->status = XENPV_RSP_ERROR;
        back->stats->errors++;
    }
    gathered->count = 0;
}

/* Between a request's private pages and the guest's: by standing mappings where there are any, else gathered. */
static void move(struct xenpv_back *back, struct xenpv_slot *slot, int to_grant, struct gathered *gathered)
{
    uint8_t *local = bounce_of(back, slot);

    for (unsigned i = 0; i < slot->segments; i++, local += slot->segment[i - 1].length) {
        const struct xenpv_segment *segment = &slot->segment[i];
        uint32_t pin = xenpv_persistent_pin(&back->persistent, back->hv, back->config.domid, segment->ref);
        if (pin != XENPV_NO_PIN) {
            uint8_t *page = back->persistent.entry[pin].map.memory + segment->offset;
            memcpy(to_grant ? page : local, to_grant ? local : page, segment->length);
            xenpv_persistent_unpin(&back->persistent, pin);
            continue;
        }
        if (gathered->count == COPY_MAX)
            copy_gathered(back, gathered);
        gathered->of[gathered->count] = slot;
        gathered->copy[gathered->count++] = (struct xenpv_copy){
            .local = local, .ref = segment->ref, .offset = segment->offset, .length = segment->length,
            .to_grant = (uint16_t)to_grant,
        };
    }
}

void xenpv_data_begin(struct xenpv_back *back, struct xenpv_slot **slots, uint32_t count)
{
    struct gathered gathered;

    gathered.count = 0;
    for (uint32_t i = 0; i < count; i++) {
        struct xenpv_slot *slot = slots[i];
        slot->status = 0;
        slot->iovs = 0;
        if (!slot->segments)
            continue;
        if (!back->bounce) {
            slot->status = map_pages(back, slot);
            back->stats->errors += slot->status != 0;
            continue;
        }
        slot->iov[0] = (struct iovec){ bounce_of(back, slot), slot->bytes };
        slot->iovs = 1;
        if (slot->op == XENPV_OP_WRITE)
            move(back, slot, 0, &gathered);
    }
    copy_gathered(back, &gathered);
}

void xenpv_data_end(struct xenpv_back *back)
{
    struct gathered gathered;

    gathered.count = 0;
    for (uint32_t i = back->responded; i < back->answered_count; i++) {
        struct xenpv_slot *slot = &back->slots[back->answered[i]];
        if (back->bounce && slot->op == XENPV_OP_READ && slot->status == XENPV_RSP_OKAY && slot->segments)
            move(back, slot, 1, &gathered);
        xenpv_data_release(back, slot);
    }
    copy_gathered(back, &gathered);
}
