#include "back.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

/* Where the segments of requests stand: in the slot, or in a block of many. */

#define BLOCKS 32u /* indirect requests of one queue in flight at once; what comes beyond waits in the ring */

static size_t data_bytes(const struct xenpv_back *back)
{
    return (size_t)back->config.max_segments * XENPV_PAGE_SIZE;
}

/* Private pages that cost nothing until they are touched, and that direct I/O takes. */
static uint8_t *reserve(size_t bytes)
{
    void *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    return at == MAP_FAILED ? NULL : at;
}

int xenpv_blocks_open(struct xenpv_back *back, int data)
{
    struct xenpv_blocks *blocks = &back->blocks;
    uint32_t segments = back->config.max_segments;

    if (segments > XENPV_INDIRECT_SEGMENTS)
        return -EINVAL;
    if (data) {
        back->bounce = reserve((size_t)back->ring.entries * XENPV_MAX_SEGMENTS * XENPV_PAGE_SIZE);
        if (!back->bounce)
            return -ENOMEM;
    }
    if (!segments)
        return 0;
    blocks->count = back->ring.entries < BLOCKS ? back->ring.entries : BLOCKS;
    blocks->stride = segments * (sizeof(struct iovec) + sizeof(struct xenpv_map) + sizeof(struct xenpv_segment)
                                 + XENPV_SEGMENT_BYTES + sizeof(uint32_t));
    blocks->stride = (blocks->stride + XENPV_PAGE_SIZE - 1) / XENPV_PAGE_SIZE * XENPV_PAGE_SIZE;
    blocks->free = calloc(blocks->count, sizeof *blocks->free);
    blocks->memory = reserve(blocks->count * blocks->stride);
    if (data)
        blocks->data = reserve(blocks->count * data_bytes(back));
    if (!blocks->free || !blocks->memory || (data && !blocks->data))
        return -ENOMEM;
    while (blocks->free_count < blocks->count) {
        blocks->free[blocks->free_count] = blocks->count - 1 - blocks->free_count;
        blocks->free_count++;
    }
    return 0;
}

void xenpv_blocks_close(struct xenpv_back *back)
{
    struct xenpv_blocks *blocks = &back->blocks;

    if (back->bounce)
        munmap(back->bounce, (size_t)back->ring.entries * XENPV_MAX_SEGMENTS * XENPV_PAGE_SIZE);
    if (blocks->memory)
        munmap(blocks->memory, blocks->count * blocks->stride);
    if (blocks->data)
        munmap(blocks->data, blocks->count * data_bytes(back));
    free(blocks->free);
}

int xenpv_is_indirect(const struct xenpv_back *back, const uint8_t *raw)
{
    return raw[XENPV_AT_OP] == XENPV_OP_INDIRECT && back->config.max_segments;
}

int xenpv_blocks_take(struct xenpv_back *back, struct xenpv_slot *slot, const uint8_t *raw)
{
    struct xenpv_blocks *blocks = &back->blocks;
    uint32_t segments = back->config.max_segments;

    if (!xenpv_is_indirect(back, raw)) {
        slot->block = XENPV_NO_BLOCK;
        slot->room = (struct xenpv_room){ slot->own.segment, slot->own.iov, slot->own.map, slot->own.pin };
        return 0;
    }
    if (!blocks->free_count)
        return -EAGAIN;
    slot->block = blocks->free[--blocks->free_count];
    /* The raw segments first, then what is aligned the most. */
    uint8_t *at = xenpv_blocks_raw(back, slot) + (size_t)segments * XENPV_SEGMENT_BYTES;
    slot->room.iov = (struct iovec *)(void *)at;
    slot->room.map = (struct xenpv_map *)(void *)(slot->room.iov + segments);
    slot->room.segment = (struct xenpv_segment *)(void *)(slot->room.map + segments);
    slot->room.pin = (uint32_t *)(void *)(slot->room.segment + segments);
    return 0;
}

void xenpv_blocks_give(struct xenpv_back *back, struct xenpv_slot *slot)
{
    if (slot->block != XENPV_NO_BLOCK)
        back->blocks.free[back->blocks.free_count++] = slot->block;
    slot->block = XENPV_NO_BLOCK;
}

uint8_t *xenpv_blocks_data(const struct xenpv_back *back, const struct xenpv_slot *slot)
{
    if (slot->block != XENPV_NO_BLOCK)
        return back->blocks.data + slot->block * data_bytes(back);
    return back->bounce + (size_t)slot->index * XENPV_MAX_SEGMENTS * XENPV_PAGE_SIZE;
}

uint8_t *xenpv_blocks_raw(const struct xenpv_back *back, const struct xenpv_slot *slot)
{
    return back->blocks.memory + slot->block * back->blocks.stride;
}
