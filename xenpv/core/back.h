/* A backend's end of one queue, inside the core.
 *
 * RULES
 * - A ring slot is copied once, into the journal, and only the copy is read; it is checked once, in request.c.
 * - Every request taken is answered exactly once, or stands in the journal for a successor.
 * - A page is unmapped before its response is published: the frontend may take it back at once.
 * - What the frontend does can cost it its own I/O, or halt its own queue, and nothing else. */
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

/* A request in flight: decoded, checked, its data at hand. */
struct xenpv_slot {
    struct xenpv_back *back;
    uint32_t index; /* its slot in the journal */
    uint8_t out;    /* given to the engine, or to Python */
    uint8_t op;
    uint8_t segments;
    uint8_t flush_first; /* a FLUSH that carries data: flush, then write */
    int32_t result;      /* of the engine: 0 or a negative errno */
    int32_t status;      /* BLKIF_RSP_* */
    uint64_t id;
    uint64_t sector, bytes;
    struct xenpv_segment segment[XENPV_MAX_SEGMENTS];
    uint8_t wire_op; /* what the response echoes */
    uint8_t mapped;  /* maps in use */
    uint8_t pinned;  /* standing mappings in use */
    int iovs;
    struct iovec iov[XENPV_MAX_SEGMENTS];
    struct xenpv_map map[XENPV_MAX_SEGMENTS];
    uint32_t pin[XENPV_MAX_SEGMENTS];
    struct xenpv_slot *next; /* the engine's */
    uint8_t reached;         /* the storage: measured when it is answered */
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
    struct xenpv_latency *latency; /* NULL: not measured */
    uint8_t *bounce; /* private data pages, XENPV_MAX_SEGMENTS a slot; NULL: data moves straight to the granted pages */
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
    uint32_t active; /* the service's: looked at in each turn */
    int halted; /* the frontend broke the rules */
};

/* request.c: decodes the private copy `raw` and checks everything: 0, or the BLKIF_RSP_* to answer. */
int xenpv_request_check(const struct xenpv_back *back, const uint8_t *raw, struct xenpv_slot *slot);

/* back_stages.c. judge: the frontend's claim of when it submitted the request, beside our own time. stages: our own of a
 * request that is answered `now`, counted where the queue is measured. */
void xenpv_back_judge(struct xenpv_back *back, const struct xenpv_slot *slot);
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
