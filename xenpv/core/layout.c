#include "api.h"
#include "ring.h"
#include "wire.h"

/* What the core believes, by the names that the test of layouts has: it holds this, construct and Xen's headers equal.
 * Structures that are laid out alike in both ABIs but for the shift of what follows the handle are listed once. */

#define TIME(field) { "time." #field, offsetof(struct xenpv_time_page, field) }

#define ABI(abi, prefix)                                                                                             \
    { prefix "segment.gref", XENPV_AT_SEG_REF }, { prefix "segment.first_sect", XENPV_AT_SEG_FIRST },                \
    { prefix "segment.last_sect", XENPV_AT_SEG_LAST }, { prefix "segment.size", XENPV_SEGMENT_BYTES },               \
    { prefix "rw.operation", XENPV_AT_OP }, { prefix "rw.nr_segments", XENPV_AT_NR_SEGMENTS },                       \
    { prefix "rw.handle", XENPV_AT_HANDLE }, { prefix "rw.id", XENPV_AT_ID(abi) },                                   \
    { prefix "rw.sector_number", XENPV_AT_SECTOR(abi) }, { prefix "rw.segments", XENPV_AT_SEGMENTS(abi) },           \
    { prefix "rw.size", XENPV_ENTRY_SIZE(abi) },                                                                     \
    { prefix "discard.operation", XENPV_AT_OP }, { prefix "discard.flag", XENPV_AT_NR_SEGMENTS },                    \
    { prefix "discard.id", XENPV_AT_ID(abi) }, { prefix "discard.sector_number", XENPV_AT_SECTOR(abi) },             \
    { prefix "discard.nr_sectors", XENPV_AT_NR_SECTORS(abi) }, { prefix "discard.handle", XENPV_AT_HANDLE },         \
    { prefix "discard.size", XENPV_DISCARD_SIZE(abi) },                                                              \
    { prefix "indirect.operation", XENPV_AT_OP }, { prefix "indirect.indirect_op", XENPV_AT_INDIRECT_OP },           \
    { prefix "indirect.nr_segments", XENPV_AT_INDIRECT_NR_SEGMENTS }, { prefix "indirect.id", XENPV_AT_ID(abi) },    \
    { prefix "indirect.sector_number", XENPV_AT_SECTOR(abi) },                                                       \
    { prefix "indirect.handle", XENPV_AT_INDIRECT_HANDLE(abi) },                                                     \
    { prefix "indirect.indirect_grefs", XENPV_AT_INDIRECT_REFS(abi) },                                               \
    { prefix "indirect.size", XENPV_INDIRECT_SIZE(abi) },                                                            \
    { prefix "response.id", XENPV_AT_RSP_ID }, { prefix "response.operation", XENPV_AT_RSP_OP },                     \
    { prefix "response.status", XENPV_AT_RSP_STATUS }, { prefix "response.size", XENPV_RESPONSE_SIZE(abi) },         \
    { prefix "request.size", XENPV_ENTRY_SIZE(abi) }

const struct xenpv_layout xenpv_layouts[] = {
    { "ring.req_prod", XENPV_REQ_PROD },
    { "ring.req_event", XENPV_REQ_EVENT },
    { "ring.rsp_prod", XENPV_RSP_PROD },
    { "ring.rsp_event", XENPV_RSP_EVENT },
    { "ring.backend_word", XENPV_BACKEND_WORD },
    { "ring.frontend_word", XENPV_FRONTEND_WORD },
    { "ring.entries", XENPV_RING_HEADER },
    ABI(64, "x86_64."),
    ABI(32, "x86_32."),
    TIME(magic), TIME(size), TIME(major), TIME(minor), TIME(sequence), TIME(alive), TIME(kind), TIME(history_slots),
    TIME(tick_nsec), TIME(hz), TIME(paused), TIME(max_age_ns), TIME(boot_id), TIME(generation), TIME(tick), TIME(ns),
    TIME(written_ns), TIME(disruptions), TIME(missed), TIME(history),
    { "time.end", sizeof(struct xenpv_time_page) },
    { "time_point.tick", offsetof(struct xenpv_time_point, tick) },
    { "time_point.ns", offsetof(struct xenpv_time_point, ns) },
    { "time_point.end", sizeof(struct xenpv_time_point) },
    { NULL, 0 },
};
