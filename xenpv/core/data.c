#include "back.h"

#define COPY_MAX 352u /* pieces of one grant copy: as many as a ring of one page has segments */

void xenpv_data_release(struct xenpv_back *back, struct xenpv_slot *slot)
{
    while (slot->pinned)
        xenpv_persistent_unpin(&back->persistent, slot->room.pin[--slot->pinned]);
    while (slot->mapped)
        back->hv->unmap(back->hv, &slot->room.map[--slot->mapped]);
}

/* Maps `count` pages of a request: one by one where that is cheap, else all in one call. 0, or the grants do not allow it. */
static int map_some(struct xenpv_back *back, struct xenpv_slot *slot, const uint32_t *refs, uint32_t count)
{
    uint32_t step = back->hv->direct ? 1 : count;

    for (uint32_t i = 0; i < count; i += step) {
        struct xenpv_map *map = &slot->room.map[slot->mapped];
        if (back->hv->map(back->hv, back->config.domid, refs + i, step, slot->op == XENPV_OP_READ, map) != 0)
            return -1;
        slot->mapped++;
    }
    return 0;
}

/* The granted pages of a request, by their standing mappings or by some for it alone. */
static int map_pages(struct xenpv_back *back, struct xenpv_slot *slot)
{
    uint32_t refs[XENPV_INDIRECT_SEGMENTS], missing = 0, at = 0, page = 0;
    uint8_t *standing[XENPV_INDIRECT_SEGMENTS];

    slot->iovs = 0;
    for (unsigned i = 0; i < slot->segments; i++) {
        uint32_t ref = slot->room.segment[i].ref;
        uint32_t pin = xenpv_persistent_pin(&back->persistent, back->hv, back->config.domid, ref);
        standing[i] = NULL;
        if (pin == XENPV_NO_PIN) {
            refs[missing++] = ref;
            continue;
        }
        slot->room.pin[slot->pinned++] = pin;
        standing[i] = back->persistent.entry[pin].map.memory;
    }
    if (map_some(back, slot, refs, missing) != 0) {
        xenpv_data_release(back, slot);
        return XENPV_RSP_ERROR;
    }
    for (unsigned i = 0; i < slot->segments; i++) {
        const struct xenpv_segment *segment = &slot->room.segment[i];
        uint8_t *start = standing[i];
        if (!start) {
            start = slot->room.map[at].memory + (size_t)page * XENPV_PAGE_SIZE;
            if (++page == slot->room.map[at].count) {
                at++;
                page = 0;
            }
        }
        start += segment->offset;
        struct iovec *last = slot->iovs ? &slot->room.iov[slot->iovs - 1] : NULL;
        /* Merged only where they touch in our own address space: two pages of the guest say nothing about ours. */
        if (last && (uint8_t *)last->iov_base + last->iov_len == start)
            last->iov_len += segment->length;
        else
            slot->room.iov[slot->iovs++] = (struct iovec){ start, segment->length };
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

/* One piece of a request: by the standing mapping of its page where there is one, else gathered. */
static void move_piece(struct xenpv_back *back, struct xenpv_slot *slot, const struct xenpv_copy *piece,
                       struct gathered *gathered)
{
    uint32_t pin = xenpv_persistent_pin(&back->persistent, back->hv, back->config.domid, piece->ref);

    if (pin != XENPV_NO_PIN) {
        uint8_t *page = back->persistent.entry[pin].map.memory + piece->offset;
        memcpy(piece->to_grant ? page : piece->local, piece->to_grant ? piece->local : page, piece->length);
        xenpv_persistent_unpin(&back->persistent, pin);
        return;
    }
    if (gathered->count == COPY_MAX)
        copy_gathered(back, gathered);
    gathered->of[gathered->count] = slot;
    gathered->copy[gathered->count++] = *piece;
}

/* Between a request's private pages and the guest's. */
static void move(struct xenpv_back *back, struct xenpv_slot *slot, int to_grant, struct gathered *gathered)
{
    uint8_t *local = xenpv_blocks_data(back, slot);

    for (unsigned i = 0; i < slot->segments; i++) {
        const struct xenpv_segment *segment = &slot->room.segment[i];
        move_piece(back, slot, &(struct xenpv_copy){ .local = local, .ref = segment->ref, .offset = segment->offset,
                                                     .length = segment->length, .to_grant = (uint16_t)to_grant }, gathered);
        local += segment->length;
    }
}

/* The segments of indirect requests: copied once from the guest's pages, which it may write all the while; then the copy is
 * checked, once. */
static void fetch_segments(struct xenpv_back *back, struct xenpv_slot **slots, uint32_t count, struct gathered *gathered)
{
    for (uint32_t i = 0; i < count; i++) {
        struct xenpv_slot *slot = slots[i];
        slot->status = 0;
        for (uint32_t at = 0; slot->indirect && at < slot->segments; at += XENPV_SEGMENTS_PER_PAGE) {
            uint32_t left = slot->segments - at;
            if (left > XENPV_SEGMENTS_PER_PAGE)
                left = XENPV_SEGMENTS_PER_PAGE;
            move_piece(back, slot, &(struct xenpv_copy){
                .local = xenpv_blocks_raw(back, slot) + at * XENPV_SEGMENT_BYTES,
                .ref = slot->indirect_ref[at / XENPV_SEGMENTS_PER_PAGE],
                .length = (uint16_t)(left * XENPV_SEGMENT_BYTES) }, gathered);
        }
    }
    copy_gathered(back, gathered);
    for (uint32_t i = 0; i < count; i++) {
        struct xenpv_slot *slot = slots[i];
        if (!slot->indirect || slot->status)
            continue;
        slot->status = xenpv_request_segments(back, xenpv_blocks_raw(back, slot), slot);
        back->stats->refused += slot->status != 0;
    }
}

void xenpv_data_begin(struct xenpv_back *back, struct xenpv_slot **slots, uint32_t count)
{
    struct gathered gathered;

    gathered.count = 0;
    fetch_segments(back, slots, count, &gathered);
    for (uint32_t i = 0; i < count; i++) {
        struct xenpv_slot *slot = slots[i];
        slot->iovs = 0;
        if (!slot->segments || slot->status)
            continue;
        if (!back->bounce) {
            slot->status = map_pages(back, slot);
            back->stats->errors += slot->status != 0;
            continue;
        }
        slot->room.iov[0] = (struct iovec){ xenpv_blocks_data(back, slot), slot->bytes };
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
