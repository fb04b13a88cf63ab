/* What the emulated Xen's C files share among themselves: entries of a table page, and calls to the host process. */
#ifndef XENPV_EMULATED_INTERNAL_H
#define XENPV_EMULATED_INTERNAL_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include "emulated.h"
#include "hypervisor.h"

/* ---- emulated_table.c ---- */

typedef _Atomic uint64_t xenpv_entry;
typedef _Atomic uint32_t xenpv_track;

/* Counts one more mapping of `page` by `domid` in the table and in this client's maptrack: a GNTST_*. */
int16_t xenpv_entry_map(xenpv_entry *table, xenpv_track *track, uint32_t page, uint32_t domid, int writable);
/* The pair of it. Everything this side wrote to the page is seen by whoever sees the mapping gone. */
void xenpv_entry_unmap(xenpv_entry *table, xenpv_track *track, uint32_t page, int writable);
/* Has the granter, or the domain that it grants to, let go of the whole segment? */
int xenpv_table_ended(xenpv_entry *table);

/* ---- emulated_call.c ---- */

#define XENPV_CALL_FDS 3

/* Readies a connected `xen` socket for calls: 0 or a negative errno. */
int xenpv_call_prepare(int socket);
/* One call to the host process. Returns the number of descriptors in `fds`, which are the caller's to close, or a negative
 * errno: the host's own answer (`reply->status` is the same) or, with `reply->status` 0, that of a broken connection. */
int xenpv_call(int socket, const struct xenpv_emulated_call *call, struct xenpv_emulated_reply *reply,
               int fds[XENPV_CALL_FDS]);

/* ---- emulated_segment.c ---- */

#define XENPV_SEGMENT_BYTES ((size_t)XENPV_SEGMENT_PAGES * XENPV_PAGE_SIZE)
#define XENPV_SEGMENT_BUCKETS 64u

struct xenpv_segment {
    struct xenpv_segment *next; /* in its bucket, or among the retired */
    uint32_t domid;       /* the granter */
    uint32_t number;
    uint32_t opening;     /* the host's name for our opening of it */
    uint32_t live;        /* pages of it that this handle has mapped, each as often as it is */
    int writable;
    uint64_t used;        /* the handle's clock when it was looked up last; good enough to choose the idlest */
    uint8_t *data;
    xenpv_entry *table;
    xenpv_track *track;
};

/* The segments that one connection has opened. */
struct xenpv_segments {
    int socket;
    uint32_t opened;
    uint64_t clock;
    struct xenpv_segment *last;
    struct xenpv_segment *buckets[XENPV_SEGMENT_BUCKETS];
    struct xenpv_segment *retired; /* ended, but with pages still mapped here */
};

/* The segment of a grant reference, opened if it was not: 0, -1 with *status (GNTST_*), or a negative errno. */
int xenpv_segment_find(struct xenpv_segments *segments, uint32_t domid, uint32_t ref, struct xenpv_segment **out,
                       int16_t *status);
/* Ends every mapping and lets go of every segment. The socket is the caller's. */
void xenpv_segments_close(struct xenpv_segments *segments);

#endif
