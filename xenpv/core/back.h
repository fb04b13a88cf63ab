/* A backend's end of one queue, inside the core.
 *
 * RULES
 * - A ring slot is copied once, into the journal, and only the copy is read; it is checked once, in request.c.
 * - Every request taken is answered exactly once, or stands in the journal for a successor.
 * - A page is unmapped before its response is published: the frontend may take it back at once.
 * - What the frontend does can cost it its own I/O, or halt its own queue, and nothing else.
 * - A request that cannot begin yet stays in the ring, with all that come after it: `stalled`. */
#ifndef XENPV_BACK_H
#define XENPV_BACK_H

#include <sys/uio.h>

#include "api.h"
#include "hypervisor.h"
#include "journal.h"
#include "latency.h"
#include "persistent.h"
#include "ring.h"
#include "spin.h"
#include "stamp.h"
#include "wire.h"

struct xenpv_segment {
    uint32_t ref;
    uint16_t offset, length; /* bytes in the page */
};

/* What a request's segments need: room for XENPV_MAX_SEGMENTS in its slot, for an indirect one's in a block. */
struct xenpv_room {
    struct xenpv_segment *segment;
    struct iovec *iov;
    struct xenpv_map *map;
    uint32_t *pin;
};

#define XENPV_NO_BLOCK UINT32_MAX

/* Blocks for indirect requests: as many as may be in flight at once, each for max_segments. What was never used is not there:
 * the pages are the kernel's until they are touched, and the block given back last is used first. */
struct xenpv_blocks {
    uint32_t count, free_count;
    uint32_t *free;
    size_t stride;    /* bytes of `memory` a block */
    uint8_t *memory;  /* rooms, and the raw segments */
    uint8_t *data;    /* private data pages; NULL where slots have none either */
};

/* A request in flight: decoded, checked, its data at hand. */
struct xenpv_slot {
    struct xenpv_back *back;
    uint32_t index; /* its slot in the journal */
    uint8_t out;    /* given to the engine, or to Python */
    uint8_t op;
    uint16_t segments;
    uint8_t flush_first; /* make durable what was answered, then write */
    uint8_t flush_after; /* and then this */
    uint8_t written;     /* the engine's: of flush_after, the write is done */
    uint8_t secure;      /* a discard that leaves no copy */
    uint8_t indirect;    /* its segments stand in pages of their own */
    int32_t result;      /* of the engine: 0 or a negative errno */
    int32_t status;      /* BLKIF_RSP_* */
    uint64_t id;
    uint64_t sector, bytes;
    uint8_t wire_op;  /* what the response echoes */
    uint16_t mapped;  /* maps in use */
    uint16_t pinned;  /* standing mappings in use */
    int iovs;
    uint32_t block;   /* XENPV_NO_BLOCK: `room` is `own` */
    struct xenpv_room room;
    struct {
        struct xenpv_segment segment[XENPV_MAX_SEGMENTS];
        struct iovec iov[XENPV_MAX_SEGMENTS];
        struct xenpv_map map[XENPV_MAX_SEGMENTS];
        uint32_t pin[XENPV_MAX_SEGMENTS];
    } own;
    uint32_t indirect_ref[XENPV_MAX_INDIRECT_PAGES];
    struct xenpv_slot *next; /* the engine's */
    uint8_t reached;         /* the storage: measured when it is answered */
    uint8_t claim;           /* XENPV_CLAIM_*: what `submitted` is */
    uint32_t submitted;      /* the frontend's stamp, a claim; 0 without stamps */
    struct xenpv_stamp fetched, started, ended;
};

struct xenpv_back {
    struct xenpv_ring ring;
    struct xenpv_hypervisor *hv;
    struct xenpv_back_config config;
    struct xenpv_port port;
    struct xenpv_map ring_map;
    struct xenpv_back_stats *stats;
    struct xenpv_journal *journal;
    struct xenpv_persistent persistent;
    struct xenpv_spin spin;
    struct xenpv_stamper stamper;
    uint32_t epoch;        /* of the time of the last look at the ring */
    uint32_t disrupted_to; /* requests below it were in the ring when that changed: their claims are of another time */
    struct xenpv_latency *latency; /* NULL: not measured */
    uint8_t *bounce; /* private data pages, XENPV_MAX_SEGMENTS a slot; NULL: data moves straight to the granted pages */
    struct xenpv_blocks blocks;
    struct xenpv_slot *slots;
    uint32_t *free;
    uint32_t free_count;
    uint32_t *answered; /* slots answered and not published */
    uint32_t answered_count;
    uint32_t responded; /* so many of them have their response in the ring */
    uint32_t *replay;
    uint32_t replay_count;
    uint32_t out; /* slots given to the engine, or to Python */
    uint32_t taken_event; /* the port is masked: unmask before sleep */
    uint32_t active; /* the service's: looked at in each pass */
    uint32_t leaving; /* the service's: no new request is taken */
    uint32_t weight;  /* the service's: of the last request taken */
    uint8_t barrier; /* one is in flight, alone */
    uint8_t stalled; /* the next request waits for an answer to one in flight */
    int halted; /* the frontend broke the rules */
    struct {
        struct xenpv_slot *first, *last; /* not begun */
        struct xenpv_back *next;
        uint32_t busy; /* threads in its calls */
    } lane; /* threads.c's */
};

/* request.c: decodes the private copy `raw` and checks everything: 0, or the BLKIF_RSP_* to answer. */
int xenpv_request_check(const struct xenpv_back *back, const uint8_t *raw, struct xenpv_slot *slot);
/* The same for the private copy `raw` of an indirect request's segments, which xenpv_request_check said it has. */
int xenpv_request_segments(const struct xenpv_back *back, const uint8_t *raw, struct xenpv_slot *slot);

/* blocks.c. open: 0 or a negative errno; `data`: with private data pages. take: what the request in `raw` needs: 0, or -EAGAIN
 * when every block is in use. give: its pair, when the slot is free again. */
int xenpv_blocks_open(struct xenpv_back *back, int data);
void xenpv_blocks_close(struct xenpv_back *back);
int xenpv_blocks_take(struct xenpv_back *back, struct xenpv_slot *slot, const uint8_t *raw);
void xenpv_blocks_give(struct xenpv_back *back, struct xenpv_slot *slot);
/* The private data pages of the slot, and the raw segments of an indirect one. */
uint8_t *xenpv_blocks_data(const struct xenpv_back *back, const struct xenpv_slot *slot);
uint8_t *xenpv_blocks_raw(const struct xenpv_back *back, const struct xenpv_slot *slot);
/* 1: the frontend sent an indirect request that may be one. */
int xenpv_is_indirect(const struct xenpv_back *back, const uint8_t *raw);

/* back_stages.c. judge: the frontend's claim of when it submitted the request, beside our own time. stages: our own of a
 * request that is answered `now`, counted where the queue is measured. */
void xenpv_back_judge(struct xenpv_back *back, struct xenpv_slot *slot);
void xenpv_back_stages(struct xenpv_back *back, const struct xenpv_slot *slot, struct xenpv_stamp now);

/* data.c, for many requests at once, because a grant copy is a system call. begin: their data at hand in slot->iov. end: the
 * data of those answered and not responded to at the guest, nothing mapped. Each slot's status says what became of it. */
void xenpv_data_begin(struct xenpv_back *back, struct xenpv_slot **slots, uint32_t count);
void xenpv_data_end(struct xenpv_back *back);
void xenpv_data_release(struct xenpv_back *back, struct xenpv_slot *slot);

/* back.c. take: how many requests were consumed, of which *count are in `slots` (the others were answered at once);
 * -EPROTO halts the queue. answer: what the response will say. publish: all that were answered, their data
 * moved and their responses in the ring (respond, which publish does itself), are shown to the frontend. */
int xenpv_back_take(struct xenpv_back *back, struct xenpv_slot **slots, uint32_t max, uint32_t *count);
void xenpv_back_answer(struct xenpv_back *back, struct xenpv_slot *slot, int status);
void xenpv_back_respond(struct xenpv_back *back);
void xenpv_back_publish(struct xenpv_back *back);
/* The pending event, if there is one, is taken, and the queue is RUNNING. */
void xenpv_back_wake(struct xenpv_back *back);
/* Ready to sleep: 1. Something came in meanwhile: 0; then the queue is RUNNING as before. */
int xenpv_back_rest(struct xenpv_back *back);

#endif
