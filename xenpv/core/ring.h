/* The shared ring (Xen's io/ring.h) as three verbs: available, publish, arm. They say "notify?"; they never notify.
 *
 * Header, all u32 little-endian: req_prod @0, req_event @4, rsp_prod @8, rsp_event @12; in the pad our two words,
 * backend @32 and frontend @36; entries from @64. Indices run freely and wrap at 2^32: only differences mean anything.
 *
 * Standard mode asks for an event with the event index. Flag mode uses the words: even = SLEEPING, odd = RUNNING, every
 * change adds one, only the owner writes. A producer notifies once for each even value, so one sleep costs one event.
 *
 * The peer can write every byte of the ring at any time. Nothing here trusts more than one read of it. */
#ifndef XENPV_RING_H
#define XENPV_RING_H

#include "api.h"

#define XENPV_RING_HEADER 64u
enum { XENPV_REQ_PROD = 0, XENPV_REQ_EVENT = 4, XENPV_RSP_PROD = 8, XENPV_RSP_EVENT = 12,
       XENPV_BACKEND_WORD = 32, XENPV_FRONTEND_WORD = 36 };

/* The slot of a free-running index. */
static inline uint8_t *xenpv_ring_slot(const struct xenpv_ring *ring, uint32_t index)
{
    return ring->shared + XENPV_RING_HEADER + (size_t)(index & (ring->entries - 1)) * ring->entry_size;
}

#endif
