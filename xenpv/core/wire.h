/* Offsets of Xen's io/blkif.h, for both ABIs. The test of layouts compares them with Xen's own headers. */
#ifndef XENPV_WIRE_H
#define XENPV_WIRE_H

#include <stdint.h>
#include <string.h>

enum { XENPV_OP_READ = 0, XENPV_OP_WRITE = 1, XENPV_OP_BARRIER = 2, XENPV_OP_FLUSH = 3, XENPV_OP_DISCARD = 5,
       XENPV_OP_INDIRECT = 6 };
enum { XENPV_DISCARD_SECURE = 1 };
enum { XENPV_RSP_OKAY = 0, XENPV_RSP_ERROR = -1, XENPV_RSP_EOPNOTSUPP = -2 };

#define XENPV_MAX_SEGMENTS 11u
#define XENPV_SECTOR 512u
#define XENPV_MAX_REQUEST 112u /* bytes of the larger ABI's entry */
#define XENPV_MAX_RESPONSE 16u
#define XENPV_SEGMENT_BYTES 8u
#define XENPV_SEGMENTS_PER_PAGE 512u /* of an indirect request */
#define XENPV_MAX_INDIRECT_PAGES 8u

/* The same in both ABIs. */
enum { XENPV_AT_OP = 0, XENPV_AT_NR_SEGMENTS = 1, XENPV_AT_HANDLE = 2,
       XENPV_AT_RSP_ID = 0, XENPV_AT_RSP_OP = 8, XENPV_AT_RSP_STATUS = 10,
       XENPV_AT_SEG_REF = 0, XENPV_AT_SEG_FIRST = 4, XENPV_AT_SEG_LAST = 5 };
/* u64 is aligned to 4 on x86_32, so all that follows the handle moves down by four there. */
#define XENPV_AT_ID(abi) ((abi) == 64 ? 8u : 4u)
#define XENPV_AT_SECTOR(abi) (XENPV_AT_ID(abi) + 8u)
#define XENPV_AT_SEGMENTS(abi) (XENPV_AT_ID(abi) + 16u)
#define XENPV_AT_NR_SECTORS(abi) XENPV_AT_SEGMENTS(abi) /* of a discard */
#define XENPV_DISCARD_SIZE(abi) ((abi) == 64 ? 32u : 28u)
/* INDIRECT: its operation, its number of segments where others have the handle, and the handle further down. */
#define XENPV_AT_INDIRECT_OP 1u
#define XENPV_AT_INDIRECT_NR_SEGMENTS 2u
#define XENPV_AT_INDIRECT_HANDLE(abi) XENPV_AT_SEGMENTS(abi)
#define XENPV_AT_INDIRECT_REFS(abi) (XENPV_AT_SEGMENTS(abi) + 4u)
#define XENPV_INDIRECT_SIZE(abi) 64u
#define XENPV_ENTRY_SIZE(abi) ((abi) == 64 ? 112u : 108u)
#define XENPV_RESPONSE_SIZE(abi) ((abi) == 64 ? 16u : 12u)

/* Unaligned little-endian loads and stores, on private memory only. */
#define XENPV_ACCESS(name, type)                                                             \
    static inline type xenpv_get_##name(const uint8_t *at) { type v; memcpy(&v, at, sizeof v); return v; } \
    static inline void xenpv_put_##name(uint8_t *at, type v) { memcpy(at, &v, sizeof v); }
XENPV_ACCESS(u16, uint16_t)
XENPV_ACCESS(u32, uint32_t)
XENPV_ACCESS(u64, uint64_t)
#undef XENPV_ACCESS

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "the ring is little-endian, and so must this machine be: Xen runs on no other"
#endif

#endif
