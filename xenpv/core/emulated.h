/* The memory and the calls of the emulated Xen, as its host process, its clients and the core see them.
 *
 * Segment: 256 pages that one domain (the granter) can grant to one other (the foreign domain), all read-only or all
 * writable: a data memfd of 1 MiB, sealed SHRINK|GROW|SEAL, and FUTURE_WRITE too when read-only, once the granter has
 * mapped it; and a table memfd of one page. A grant reference is segment * 256 + page; segments of a granter count from 1,
 * so the references that Xen reserves (0-7) do not occur.
 *
 * Table page: 256 entries of 8 bytes, laid out as Xen's v1 entry (public/grant_table.h): flags u16, domid u16, frame u32.
 * The emulated Xen has no memory of its own between two processes, so the count of mappings that Xen keeps beside the
 * table stands in the frame: bits 0-7 the page, 8-19 read-only mappings, 20-31 writable ones. Every change of an entry
 * is one 64-bit compare-and-swap.
 *
 * Behind the entries stand two words of the host's own: at byte 2048 u32 `ended`, not zero once the granter, its
 * connection or the foreign domain is gone (nothing is granted or mapped here any more; who cached the segment lets go of
 * it), and at byte 2056 u64 `fault`: 0, or for tests u32 maps to let pass, u16 maps to refuse, i16 their GNTST_*.
 *
 * Maptrack: a page of its own for each client connection that opened a segment: 256 u32, low half read-only mappings made
 * by this client, high half writable ones. It is how the host takes a dead client's mappings back. A map adds to the
 * entry first and here second, an unmap the other way round: a client killed between the two leaves a page that is not
 * used again before the foreign domain's last client of the segment is gone, rather than one that is used while another
 * client has it mapped.
 *
 * Event channel: an eventfd (nonblocking) a direction; pending = counter not zero.
 *
 * Calls: SOCK_SEQPACKET on the domain's `xen` socket, one struct xenpv_emulated_call out, one struct
 * xenpv_emulated_reply back with descriptors as SCM_RIGHTS. One call at a time on a connection. Closing the connection ends its mappings,
 * grants and ports. */
#ifndef XENPV_EMULATED_H
#define XENPV_EMULATED_H

#include <stdint.h>

#define XENPV_EMULATED_VERSION 1u
#define XENPV_SEGMENT_PAGES 256u
#define XENPV_TABLE_ENDED 2048u
#define XENPV_TABLE_FAULT 2056u

enum xenpv_emulated_op {
    XENPV_CALL_HELLO = 1,         /* number: version            -> number: version, domid: our own */
    XENPV_CALL_SEGMENT_NEW = 2,   /* domid: foreign, flags      -> number: segment; fds: table, data */
    XENPV_CALL_SEGMENT_READY = 3, /* number: segment; the granter has mapped it: seal it, others may open it */
    XENPV_CALL_SEGMENT_OPEN = 4,  /* domid: granter, number: segment -> number: opening, flags;
                                     fds: table, data, maptrack */
    XENPV_CALL_SEGMENT_FREE = 5,  /* number: segment; the granter is done: the memory goes when nobody maps it */
    XENPV_CALL_EVENT_UNBOUND = 6, /* domid: remote              -> number: port; fds: wait, notify */
    XENPV_CALL_EVENT_BIND = 7,    /* domid: remote, number: its port -> number: our port; fds: wait, notify */
    XENPV_CALL_EVENT_CLOSE = 8,   /* number: port */
    XENPV_CALL_EVENT_STATUS = 9,  /* number: port -> flags: 0 closed, 1 unbound, 2 interdomain; domid, number: the peer's */
    XENPV_CALL_SEGMENT_SHUT = 10, /* number: opening; undoes SEGMENT_OPEN: its mappings end */
    XENPV_CALL_UNMAP_CLEAR = 11,  /* number: segment, domid: 1 or 0, flags: a byte of it: set to 0 when the granter's
                                     connection or the segment ends; 0 undoes it. One byte a page, the later counts */
};
#define XENPV_SEGMENT_WRITABLE 1u

struct xenpv_emulated_call {
    uint32_t op;
    uint32_t domid;
    uint32_t number;
    uint32_t flags;
};

struct xenpv_emulated_reply {
    int32_t status; /* 0 or a negative errno */
    uint32_t domid;
    uint32_t number;
    uint32_t flags;
};

#endif
