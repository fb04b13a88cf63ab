#include "back.h"

/* Sector numbers are in 512 bytes whatever the disk's sector size (io/blkif.h, note 12 of Xen's master). */
static int range_is_bad(const struct xenpv_back *back, uint64_t sector, uint64_t sectors)
{
    uint32_t unit = back->config.sector_size / XENPV_SECTOR;
    /* Read once: a resize comes from another thread. Relaxed: it orders nothing else. */
    uint64_t size = __atomic_load_n(&back->config.sectors, __ATOMIC_RELAXED);

    return sectors > size || sector > size - sectors /* no overflow: compared by difference */
        || sector % unit || sectors % unit;
}

int xenpv_request_segments(const struct xenpv_back *back, const uint8_t *raw, struct xenpv_slot *slot)
{
    struct xenpv_segment *segment = slot->room.segment;
    const uint8_t *at = raw;

    slot->bytes = 0;
    for (unsigned i = 0; i < slot->segments; i++, at += XENPV_SEGMENT_BYTES) {
        uint8_t first = at[XENPV_AT_SEG_FIRST], last = at[XENPV_AT_SEG_LAST];
        if (first > last || last >= XENPV_PAGE_SIZE / XENPV_SECTOR)
            return XENPV_RSP_ERROR;
        segment[i] = (struct xenpv_segment){
            .ref = xenpv_get_u32(at + XENPV_AT_SEG_REF),
            .offset = (uint16_t)(first * XENPV_SECTOR),
            .length = (uint16_t)((last - first + 1u) * XENPV_SECTOR),
        };
        if (segment[i].length % back->config.sector_size || segment[i].offset % back->config.sector_size)
            return XENPV_RSP_ERROR;
        slot->bytes += segment[i].length;
    }
    return range_is_bad(back, slot->sector, slot->bytes / XENPV_SECTOR) ? XENPV_RSP_ERROR : 0;
}

/* All that the slot of the ring says; the segments are elsewhere. */
static int check_indirect(const struct xenpv_back *back, const uint8_t *raw, struct xenpv_slot *slot)
{
    const uint8_t *refs = raw + XENPV_AT_INDIRECT_REFS(back->config.abi);
    uint32_t segments = xenpv_get_u16(raw + XENPV_AT_INDIRECT_NR_SEGMENTS);

    slot->wire_op = slot->op = raw[XENPV_AT_INDIRECT_OP]; /* Linux answers with the operation inside, and demands it */
    if (slot->op != XENPV_OP_READ && slot->op != XENPV_OP_WRITE)
        return XENPV_RSP_EOPNOTSUPP;
    if (segments == 0 || segments > back->config.max_segments || (slot->op == XENPV_OP_WRITE && back->config.readonly))
        return XENPV_RSP_ERROR;
    slot->segments = (uint16_t)segments;
    slot->indirect = 1;
    for (uint32_t page = 0; page * XENPV_SEGMENTS_PER_PAGE < segments; page++)
        slot->indirect_ref[page] = xenpv_get_u32(refs + 4 * page);
    return 0;
}

int xenpv_request_check(const struct xenpv_back *back, const uint8_t *raw, struct xenpv_slot *slot)
{
    const struct xenpv_back_config *config = &back->config;

    slot->wire_op = slot->op = raw[XENPV_AT_OP];
    slot->id = xenpv_get_u64(raw + XENPV_AT_ID(config->abi));
    slot->sector = xenpv_get_u64(raw + XENPV_AT_SECTOR(config->abi));
    slot->segments = 0;
    slot->bytes = 0;
    slot->flush_first = slot->flush_after = slot->written = 0;
    slot->indirect = slot->secure = 0;

    if (xenpv_is_indirect(back, raw))
        return check_indirect(back, raw, slot);
    switch (slot->op) {
    case XENPV_OP_FLUSH:
        if (!config->flush)
            return XENPV_RSP_EOPNOTSUPP;
        if (raw[XENPV_AT_NR_SEGMENTS] == 0)
            return 0;
        /* Linux may send data with a flush: what completed before is made durable, then this is written. */
        slot->op = XENPV_OP_WRITE;
        slot->flush_first = 1;
        break;
    case XENPV_OP_BARRIER:
        if (!config->barrier)
            return XENPV_RSP_EOPNOTSUPP;
        /* It is alone in flight: what came before it is answered, what comes after it waits. */
        slot->op = raw[XENPV_AT_NR_SEGMENTS] ? XENPV_OP_WRITE : XENPV_OP_FLUSH;
        if (slot->op == XENPV_OP_FLUSH)
            return 0;
        slot->flush_first = slot->flush_after = 1;
        break;
    case XENPV_OP_READ:
    case XENPV_OP_WRITE:
        break;
    case XENPV_OP_DISCARD: {
        uint64_t sectors = xenpv_get_u64(raw + XENPV_AT_NR_SECTORS(config->abi));
        uint8_t flag = raw[XENPV_AT_NR_SEGMENTS]; /* in a discard the byte is that */
        slot->secure = flag == XENPV_DISCARD_SECURE && config->discard_secure;
        if (!config->discard || (flag && !slot->secure))
            return XENPV_RSP_EOPNOTSUPP;
        if (config->readonly || sectors == 0 || range_is_bad(back, slot->sector, sectors))
            return XENPV_RSP_ERROR;
        slot->bytes = sectors * XENPV_SECTOR;
        return 0;
    }
    default:
        return XENPV_RSP_EOPNOTSUPP;
    }
    if (slot->op == XENPV_OP_WRITE && config->readonly)
        return XENPV_RSP_ERROR;
    slot->segments = raw[XENPV_AT_NR_SEGMENTS];
    if (slot->segments == 0 || slot->segments > XENPV_MAX_SEGMENTS)
        return XENPV_RSP_ERROR;
    return xenpv_request_segments(back, raw + XENPV_AT_SEGMENTS(config->abi), slot);
}
