#ifndef XENPV_API_H
#define XENPV_API_H
#include <stddef.h>
#include <stdint.h>

/* The core as Python sees it: the only header that cffi reads. A function returns 0 or a count, or a negative errno. */

/* ---- emulated.c: the emulated Xen (the memory and the calls are described in emulated.h) ---- */

/* A hypervisor handle on a connected `xen` socket, which it owns from now on, also on failure (NULL, *error: errno). */
struct xenpv_hypervisor *xenpv_emulated_open(int socket, int *error);

/* Granter's side: puts the sealed memory behind `fd` in the place of `bytes` at `at`, which the caller has mapped. */
int xenpv_emulated_place(void *at, size_t bytes, int fd);
/* Granter's side of a table page: entry `page` becomes a grant to `domid`. The page's content is seen before the grant. */
void xenpv_emulated_offer(void *table, uint32_t page, uint32_t domid, int writable);
/* Ends the grant: 0, or -EBUSY while it is mapped (the grant stands as it was). */
int xenpv_emulated_end(void *table, uint32_t page);
/* Host's side: takes back from `table` the mappings that a dead client's `maptrack` counts. Returns how many. */
int xenpv_emulated_reap(void *table, void *maptrack);
/* Host's side: no client has the segment open any more, so nobody maps its pages, whatever the counts say. */
void xenpv_emulated_forget(void *table);

/* ---- xen.c, xen_verbs.c: real Xen, by the kernel's devices ---- */

struct xenpv_map;
/* A hypervisor handle on /dev/xen/gntdev. NULL: *error is an errno. */
struct xenpv_hypervisor *xenpv_xen_open(int *error);

/* gntalloc: a descriptor; pages of ours for `domid`, at *index of it for mmap, with their `count` references in `refs`; and
 * their end, which is only complete when they are mapped no more, here and there. -ENOSPC: see its parameter `limit`. */
int xenpv_xen_gntalloc(void);
int xenpv_xen_share(int fd, uint32_t domid, uint32_t count, int writable, uint64_t *index, uint32_t *refs);
int xenpv_xen_unshare(int fd, uint64_t index, uint32_t count);

/* evtchn: a new descriptor (nonblocking) with one port, or a negative errno. */
int xenpv_xen_bind_unbound(uint32_t domid, uint32_t *port);
int xenpv_xen_bind_interdomain(uint32_t domid, uint32_t remote_port, uint32_t *port);
int xenpv_xen_unbind(int fd, uint32_t port);
/* From now on the descriptor binds to nobody but `domid`, which is not 0. */
int xenpv_xen_restrict(int fd, uint32_t domid);
int xenpv_xen_notify(int fd, uint32_t port);
/* 1: the event is taken and the port masked; 0: there is none. Never blocks. */
int xenpv_xen_take(int fd, uint32_t port);
int xenpv_xen_unmask(int fd, uint32_t port);

/* When the page is unmapped, also by the death of the process: its byte at `at` of a gntalloc descriptor is set to 0 (clear),
 * and `port`, of this process, notifies (event). The second is the same for a byte of pages that are mapped. */
int xenpv_xen_unmap_notify(int fd, uint64_t at, int clear, int event, uint32_t port);
int xenpv_xen_map_notify(struct xenpv_hypervisor *hv, const struct xenpv_map *map, uint64_t byte, int clear, int event,
                         uint32_t port);

/* ---- any hypervisor ---- */

/* The table's map and unmap for tools and for rings; data pages are mapped inside the service loop. NULL: *status is the
 * GNTST_* of a refusal, or 0 and errno says why the hypervisor could not be asked. */
struct xenpv_map *xenpv_map_new(struct xenpv_hypervisor *hv, uint32_t domid, const uint32_t *refs, uint32_t count,
                                int writable, int *status);
uint8_t *xenpv_map_memory(struct xenpv_map *map);
int xenpv_map_end(struct xenpv_hypervisor *hv, struct xenpv_map *map);
int xenpv_notify(struct xenpv_hypervisor *hv, uint32_t port, int notify_fd);
int xenpv_take(struct xenpv_hypervisor *hv, uint32_t port, int wait_fd);
int xenpv_unmask(struct xenpv_hypervisor *hv, uint32_t port, int wait_fd);
void xenpv_hypervisor_close(struct xenpv_hypervisor *hv);

/* ---- ring.c: the shared ring's verbs (ring.h says what is in the page) ---- */

struct xenpv_ring {
    uint8_t *shared;        /* the ring's pages */
    uint32_t entries;       /* a power of two */
    uint32_t entry_size;    /* bytes */
    uint32_t back, flag;    /* role; flag mode instead of event indices */
    uint32_t produced;      /* our producer index, entries not published yet included */
    uint32_t published;     /* our producer index as the peer sees it */
    uint32_t consumed;      /* what we took of the peer's */
    uint32_t word;          /* flag mode: our own word */
    uint32_t notified_for;  /* flag mode: the peer's word that we last notified for */
    uint32_t notified_any;
    uint64_t notifications; /* publish said "notify" */
    uint64_t saved;         /* publish said "no need" */
};

/* What a frontend does to a fresh page before it grants it: indices 0, events 1, the rest of the header 0. */
void xenpv_ring_init(void *shared);
/* Takes the ring over as it stands. -EINVAL: no ring fits; -EPROTO: the indices in the page are impossible. */
int xenpv_ring_attach(struct xenpv_ring *ring, void *shared, uint32_t bytes, uint32_t entry_size, int back, int flag);
/* Entries of the peer's that wait for us, or -EPROTO: it moved its index where it cannot be. */
int64_t xenpv_ring_available(struct xenpv_ring *ring);
/* Shows the peer our entries up to index `produced`. 1: the peer must be notified. */
int xenpv_ring_publish(struct xenpv_ring *ring, uint32_t produced);
/* Asks to be notified, then looks again: more than 0 means do not sleep; -EPROTO as above. */
int64_t xenpv_ring_arm(struct xenpv_ring *ring);
/* Flag mode: RUNNING, a promise to look again unprompted. Standard mode: nothing. */
void xenpv_ring_run(struct xenpv_ring *ring);

/* ---- spin.c: how long a side that found nothing looks again before it sleeps ---- */

/* Raises or lowers nothing else: threads of this process that may spin at once, from the CPUs it may run on, less one. */
uint32_t xenpv_spin_limit(void);

/* ---- journal.c: the file of unanswered requests of one queue ---- */

/* Bytes of the journal of a ring with `entries`. A fresh journal is all zero. */
uint64_t xenpv_journal_bytes(uint32_t entries);

/* ---- stamps of requests (stamp.h), where they were negotiated ---- */

enum { XENPV_STAMP_NONE = 0, XENPV_STAMP_TICK = 1, XENPV_STAMP_US = 2 };

/* ---- latency.c: how long requests took, by operation and stage (docs/latency.md is the ABI) ---- */

struct xenpv_histogram {
    int64_t total;              /* the exact sum */
    int64_t least, greatest;    /* least: of those below 0 */
    uint64_t underflow, overflow; /* below 0; XENPV_HISTOGRAM_LIMIT or more */
    uint64_t reserved[3];
    uint64_t bucket[1408];      /* exact below 128, then 64 to a power of two */
};
struct xenpv_latency_counts {
    uint64_t unknown;           /* no time, one that went back, or a disruption in between */
    uint64_t absent;            /* a backend's: without a submit stamp */
    uint64_t refused;           /* what the other end says of its times cannot be */
    uint64_t reserved;
};
/* Followed, at header_bytes, by histograms: XENPV_LATENCY_OPERATIONS rows of `stages`. */
struct xenpv_latency {
    uint64_t magic;             /* XENPV_LATENCY_MAGIC, written last */
    uint32_t major, minor;
    uint32_t header_bytes, histogram_bytes, operations, stages;
    uint32_t bits, buckets;     /* log2 of the buckets to a power of two; how many in all */
    uint32_t unit;              /* XENPV_STAMP_* */
    uint32_t end;               /* XENPV_LATENCY_BACK, _FRONT */
    uint64_t resolution_ns;     /* a step of the clock: what is counted are steps */
    uint64_t reserved;
    struct xenpv_latency_counts counts[4];
};
#define XENPV_LATENCY_MAGIC 0x636e74616c767078
#define XENPV_LATENCY_MAJOR 1
#define XENPV_LATENCY_MINOR 0
#define XENPV_LATENCY_OPERATIONS 4 /* read, write, flush, discard */
#define XENPV_HISTOGRAM_BITS 6
#define XENPV_HISTOGRAM_LIMIT 134217728
enum { XENPV_LATENCY_BACK = 1, XENPV_LATENCY_FRONT = 2 };
/* A backend knows all but the last. Its `total` ends with the response. */
enum { XENPV_STAGE_QUEUED, XENPV_STAGE_WAITED, XENPV_STAGE_STORED, XENPV_STAGE_ANSWERED, XENPV_STAGE_SERVICE,
       XENPV_STAGE_TOTAL, XENPV_STAGE_REAPED, XENPV_STAGES };

/* Bytes of the area of that end. */
uint64_t xenpv_latency_bytes(uint32_t end);
/* Makes it valid and empty, unless it stands there already, of the same end by the same clock. */
void xenpv_latency_attach(void *area, uint32_t end, uint32_t unit, uint64_t resolution_ns);
/* Counts `value`, which is what every stage does. */
void xenpv_histogram_record(struct xenpv_histogram *histogram, int64_t value);

/* ---- back.c, next.c: a backend's end of one queue ---- */

struct xenpv_back_stats {       /* in the statistics page, written by one thread, read by anybody, torn only between fields */
    uint64_t magic;             /* XENPV_STATS_MAGIC */
    uint64_t version;
    uint64_t requests[8];       /* by BLKIF_OP_*, answered */
    uint64_t bytes_read, bytes_written, bytes_discarded;
    uint64_t errors;            /* answered with an error by the storage or a grant */
    uint64_t refused;           /* answered with an error because the request itself was wrong */
    uint64_t in_flight;
    uint64_t batches;           /* turns that found requests */
    uint64_t events;            /* event channel events taken */
    uint64_t notifications, notifications_saved;
    uint64_t sleeps;
    uint64_t spins, spins_futile;
    uint64_t grants_persistent; /* standing mappings now */
    uint64_t replayed;          /* requests of a predecessor done again */
    uint64_t halted;            /* 1: the frontend broke the ring's rules; nothing more is served */
    uint64_t stamp_unit;        /* XENPV_STAMP_*; of the sums below */
    uint64_t stamps;            /* requests whose stamp says when they were submitted */
    uint64_t stamps_absent;     /* there was none, or no time to compare it with, or a disruption in between */
    uint64_t stamps_future, stamps_stale; /* submitted after they were fetched, or too long before: forged, or wrapped */
    uint64_t stages;            /* answers whose own stages are known: the count of the last three sums */
    uint64_t stages_unknown;    /* no time, or a disruption in between */
    uint64_t time_queued;       /* submit to fetch, of `stamps` requests */
    uint64_t time_waited, time_stored, time_answered; /* fetch to storage start, to storage end, to response */
    uint64_t indirect;          /* of the requests, those whose segments stood in pages of their own */
};
#define XENPV_STATS_MAGIC 0x7374617476706e78
#define XENPV_STATS_VERSION 3

/* How data moves: AUTO is MAP where the hypervisor says that mapping is cheaper than copying, and that asynchronous direct I/O
 * may target a mapped page; else COPY, a grant copy to and from private pages. Storage in Python is always COPY. */
enum { XENPV_DATA_AUTO = 0, XENPV_DATA_COPY = 1, XENPV_DATA_MAP = 2 };

struct xenpv_back_config {
    uint32_t domid;             /* the frontend */
    const uint32_t *ring_refs;
    uint32_t ring_pages;
    uint32_t port;              /* the local event channel; its descriptors are duplicated */
    int wait_fd, notify_fd;
    uint32_t abi;               /* 64: x86_64 and arm, 32: x86_32 */
    uint32_t flag;              /* the notify-suppression flag was negotiated */
    uint32_t persistent;        /* standing mappings kept at the most; 0: feature-persistent was not negotiated */
    uint32_t data;              /* XENPV_DATA_* */
    uint32_t readonly;
    uint32_t flush, barrier, discard, discard_secure; /* what was advertised */
    uint32_t max_segments;      /* of an indirect request, at most XENPV_INDIRECT_SEGMENTS; 0: it was not advertised */
    uint32_t sector_size;       /* logical, bytes */
    uint64_t sectors;           /* of 512 bytes */
    int fd;                     /* the storage, -1: it is in Python. Not owned */
    uint32_t fd_inline;         /* 1: reads and writes of fd do not wait for a device (tmpfs) */
    uint32_t spin_ns;
    uint32_t adopt;             /* 1: a predecessor served this ring; the journal says what it left */
    struct xenpv_back_stats *stats;
    void *journal;              /* xenpv_journal_bytes(entries) */
    uint32_t stamp;             /* XENPV_STAMP_*: what was negotiated; only with abi 64 */
    const void *time_page;      /* for XENPV_STAMP_TICK: it outlives the queue, or see set_time_page; NULL: no time */
    void *latency;              /* zero, or a predecessor's: xenpv_latency_bytes(XENPV_LATENCY_BACK); NULL: not measured */
    uint32_t clock;             /* XENPV_STAMP_*: what is measured by without `stamp`; ticks are the coarse clock's then */
};

/* preadv takes no more pieces at once (IOV_MAX). */
#define XENPV_INDIRECT_SEGMENTS 1024

struct xenpv_back;
/* Maps the ring and attaches. Owns `hv` from now on, also on failure: NULL, *error is an errno. */
struct xenpv_back *xenpv_back_open(struct xenpv_hypervisor *hv, const struct xenpv_back_config *config, int *error);
/* Ends every mapping. Requests in flight must have been answered, or be given up: see xenpv_service_remove. */
void xenpv_back_close(struct xenpv_back *back);
/* The disk changed size: what is checked from the next request on. */
void xenpv_back_resize(struct xenpv_back *back, uint64_t sectors);
/* Of a queue stamped in ticks, between two turns and in its thread: another page from now on, or NULL. The one before is read
 * no more. Of what is under way no times are known. */
void xenpv_back_set_time_page(struct xenpv_back *back, const void *page);
/* 1: the frontend broke the ring's rules, and nothing more is served. */
int xenpv_back_halted(const struct xenpv_back *back);

/* For storage in Python. A request as `next` gives it and `complete` takes it back. */
struct xenpv_request {
    uint64_t sector;            /* of 512 bytes */
    uint64_t bytes;             /* of data; of the range, for a discard */
    uint8_t *data;              /* private: a write's data, room for a read's */
    uint32_t token;             /* for complete */
    uint8_t op;                 /* BLKIF_OP_READ, _WRITE, _FLUSH_DISKCACHE, _DISCARD */
    uint8_t flags;              /* XENPV_FLUSH_*, XENPV_SECURE */
    int16_t status;             /* for complete: BLKIF_RSP_* */
};
/* Of a write: make durable what was answered before it begins; make it durable itself before it is answered. */
enum { XENPV_FLUSH_FIRST = 1, XENPV_FLUSH_AFTER = 2, XENPV_SECURE = 4 /* of a discard: no copy is left */ };
/* Up to `max` requests; waits up to timeout_ns (negative: for ever) for the first. 0: time or `wake_fd`, or more comes
 * only when what is out was completed; or -errno. */
int xenpv_back_next(struct xenpv_back *back, struct xenpv_request *requests, uint32_t max, int64_t timeout_ns, int wake_fd);
/* Answers them. 0, or -EINVAL for a token that is not out. */
int xenpv_back_complete(struct xenpv_back *back, const struct xenpv_request *requests, uint32_t count);

/* ---- service.c: one thread that serves a set of queues whose storage has a descriptor ---- */

struct xenpv_service;
enum { XENPV_ENGINE_AUTO = 0, XENPV_ENGINE_URING = 1, XENPV_ENGINE_THREADS = 2 };
/* `engine` for storage that waits for a device; AUTO: io_uring where the kernel allows it. NULL, *error is an errno.
 * All that follows but stop is called by one thread, which the engine then belongs to. */
struct xenpv_service *xenpv_service_new(int engine, int *error);
/* The engine chosen: "io_uring" or "threads". What is inline is done by preadv whatever this says. */
const char *xenpv_service_engine(const struct xenpv_service *service);
/* -EOPNOTSUPP: the queue maps data pages that io_uring must not touch (hypervisor.h, `direct`), and the engine is that. */
int xenpv_service_add(struct xenpv_service *service, struct xenpv_back *back);
/* Waits for the queue's requests in flight and answers them, then lets go of it. */
int xenpv_service_remove(struct xenpv_service *service, struct xenpv_back *back);
/* Serves until xenpv_service_stop (0) or until a frontend broke the rules: 1, with its queue halted. */
int xenpv_service_run(struct xenpv_service *service);
/* From any thread, or before run: the next run returns at once. */
void xenpv_service_stop(struct xenpv_service *service);
void xenpv_service_free(struct xenpv_service *service);

/* ---- submit.c: a frontend's end of one queue ---- */

struct xenpv_front_stats {
    uint64_t requests[8];       /* by BLKIF_OP_*, answered */
    uint64_t bytes_read, bytes_written;
    uint64_t errors;
    uint64_t events;
    uint64_t notifications, notifications_saved;
    uint64_t sleeps;
    uint64_t spins, spins_futile;
    uint64_t rescues;           /* a second without progress, mended by one more notification or by an unasked look */
    uint64_t stages;            /* answers whose stages are all known: the count of the sums */
    uint64_t stages_unknown;    /* no time, or a disruption in between */
    uint64_t stages_wrong;      /* the backend's stages are not in order: forged, or wrapped */
    uint64_t time_queued, time_waited, time_stored, time_answered, time_reaped; /* the last: response to reap */
    uint64_t time_total;        /* submit to reap, by our own two stamps */
    uint64_t indirect;          /* of the requests, those whose segments stood in pages of their own */
};

/* One request, by its stamps. */
struct xenpv_sample {
    uint32_t submit, fetch, start, end, response, reap;
    int16_t status;
    uint8_t op;
    uint8_t known;              /* 1: they are in order, and of one epoch */
};
#define XENPV_SAMPLES 1024

struct xenpv_front_config {
    uint32_t abi;               /* 64 or 32 */
    uint32_t flag;
    uint32_t port;
    int wait_fd, notify_fd;     /* duplicated */
    uint8_t *ring;              /* our shared pages: they and `pool` must outlive the queue */
    uint32_t ring_pages;
    uint8_t *pool;              /* data pages */
    const uint32_t *pool_refs;  /* copied */
    uint32_t pool_pages;
    uint8_t *indirect;          /* pages for the segments of indirect requests, as shared as the pool; they outlive the queue */
    const uint32_t *indirect_refs; /* copied */
    uint32_t indirect_pages;
    uint32_t max_segments;      /* of an indirect request, as the backend allows; 0: there are none */
    uint32_t handle;            /* virtual-device number, for the request's handle field */
    uint32_t max_ios;           /* I/Os accepted at once at the most */
    uint32_t spin_ns;
    uint32_t stamp;             /* XENPV_STAMP_*; only with abi 64 */
    const void *time_page;      /* for XENPV_STAMP_TICK, as a backend's */
    int64_t time_ahead_ns;      /* for XENPV_STAMP_US: what our CLOCK_MONOTONIC says more than dom0's */
    uint32_t time_unknown;      /* 1: there is no time: requests are sent as without stamps, and counted as unknown */
    uint32_t latency;           /* 1: requests are measured; without stamps their total alone, by `clock` */
    uint32_t clock;             /* as a backend's */
};

/* One I/O: of any length; it becomes as many requests as it needs. */
struct xenpv_io {
    uint64_t cookie;            /* the caller's */
    uint64_t sector;            /* of 512 bytes */
    uint64_t bytes;             /* a multiple of 512 */
    uint32_t page;              /* where in the pool its data begins: pages [page, page + bytes / 4096) */
    uint8_t op;                 /* BLKIF_OP_* */
    uint8_t flags;              /* XENPV_SECURE */
    int16_t status;             /* out: BLKIF_RSP_* of the first request that failed, else 0 */
};

struct xenpv_front;
/* Owns `hv` from now on, also on failure: NULL, *error is an errno. */
struct xenpv_front *xenpv_front_open(struct xenpv_hypervisor *hv, const struct xenpv_front_config *config, int *error);
void xenpv_front_close(struct xenpv_front *front);
/* Submits, then waits up to timeout_ns (negative: for ever) until `min_done` I/Os are done or `wake_fd` is readable.
 * *accepted says how many of `submit` were taken (the table may be full). Returns how many stand in `done`, or
 * -EPROTO: the backend broke the rules, nothing more is done; -EINVAL: an I/O that cannot be. */
int xenpv_front_exchange(struct xenpv_front *front, const struct xenpv_io *submit, uint32_t count, uint32_t *accepted,
                         struct xenpv_io *done, uint32_t max_done, uint32_t min_done, int64_t timeout_ns, int wake_fd);
/* Does `io` so often, one at a time, nothing else being in flight: what CLOCK_MONOTONIC said around each, in ns. 0, an error
 * of xenpv_front_exchange, or -EIO. A measure of the stages: from outside of them, with next to nothing in between. */
int xenpv_front_time(struct xenpv_front *front, const struct xenpv_io *io, uint64_t *ns, uint32_t count);
/* I/Os accepted and not yet in any `done`. */
uint32_t xenpv_front_pending(const struct xenpv_front *front);
const struct xenpv_front_stats *xenpv_front_stats(struct xenpv_front *front);
/* The newest requests answered since the last call, oldest first, at most XENPV_SAMPLES and `max`; how many. */
uint32_t xenpv_front_samples(struct xenpv_front *front, struct xenpv_sample *out, uint32_t max);
/* NULL unless requests are measured. The header says how long it is. */
const struct xenpv_latency *xenpv_front_latency(const struct xenpv_front *front);
/* Our clock was tied to dom0's anew; `unknown`: it is not tied to it any more. By so much as two clocks never differ in, what is
 * under way then is unknown. */
void xenpv_front_set_ahead(struct xenpv_front *front, int64_t time_ahead_ns, uint32_t unknown);
/* As a backend's, between two exchanges. */
void xenpv_front_set_time_page(struct xenpv_front *front, const void *page);

/* ---- batch.c: the books of I/Os of one size that a caller keeps in flight, `depth` at the most ---- */

struct xenpv_batch_slot {
    struct xenpv_io io;         /* as it was submitted last */
    uint64_t turn;              /* of all that were submitted, from 1; 0: the slot is free */
};
/* The memory is the caller's, and so are the first fields until xenpv_batch_init. One thread at a time. */
struct xenpv_batch {
    uint32_t depth;             /* slots */
    uint32_t owner;             /* the high half of each cookie; the low half is the slot */
    struct xenpv_batch_slot *slots; /* `depth`, as of all that follow */
    uint32_t *order;
    uint64_t *sectors;          /* in: where the next I/Os go */
    struct xenpv_io *submitted; /* out: their records */
    struct xenpv_io *done;      /* in or out: what an exchange has brought so far */
    uint32_t free;              /* slots */
    uint32_t head;              /* of `order` */
    uint64_t turn;              /* the last one */
    uint32_t failed;            /* of what the exchange has brought */
    uint32_t strange;           /* 1: the last call's part of it has I/Os of other owners, and is not accounted for */
};

/* An I/O has `block` bytes from `pages[slot]` of the pool. */
void xenpv_batch_init(struct xenpv_batch *batch, uint32_t block, const uint32_t *pages);
/* The slots that the next I/Os go to: free ones, in the order in which they were done. As in submit, at most `free`. */
void xenpv_batch_next(const struct xenpv_batch *batch, uint32_t *slots, uint32_t count);
/* They are in flight from now on. */
void xenpv_batch_submit(struct xenpv_batch *batch, uint32_t op, uint32_t count);
/* The slots of the `count` I/Os from `done[at]` are free; `at` 0 begins an exchange. Sets `failed` and `strange`. */
void xenpv_batch_done(struct xenpv_batch *batch, uint32_t at, uint32_t count);
/* Both, with xenpv_front_exchange in between: how many stand in `done` from `at`, or its error, with what was submitted in
 * flight; -ENOBUFS: `front` took fewer than `count`. */
int xenpv_batch_exchange(struct xenpv_batch *batch, struct xenpv_front *front, uint32_t op, uint32_t count, uint32_t at,
                         uint32_t min_done, int64_t timeout_ns, int wake_fd);
/* What is in flight, in the order in which it was submitted; how many. `ios` has room for `depth`. */
uint32_t xenpv_batch_unanswered(const struct xenpv_batch *batch, struct xenpv_io *ios);

/* ---- timepage.c: dom0's tick in a page that another domain maps (docs/time-page.md is the ABI) ---- */

struct xenpv_time_point {
    uint64_t tick;
    uint64_t ns;                /* CLOCK_MONOTONIC of the publisher's kernel at that tick */
};

struct xenpv_time_page {
    uint32_t magic;             /* XENPV_TIME_MAGIC, written last: a page without it was never valid */
    uint32_t size;              /* bytes that mean something: a field is there if it ends within them */
    uint16_t major, minor;      /* another major is another layout */
    uint32_t sequence;          /* odd while the fields from `tick` on are written */
    uint8_t alive;              /* 1; 0 once the publisher is gone, set by whoever outlives it */
    uint8_t kind;               /* XENPV_TIME_JIFFIES, XENPV_TIME_COARSE */
    uint16_t history_slots;     /* XENPV_TIME_HISTORY */
    uint32_t tick_nsec;         /* the kernel's TICK_NSEC */
    uint32_t hz;
    uint32_t paused;            /* 1: nobody is subscribed, and the tick stands still */
    uint64_t max_age_ns;        /* a page whose tick has not changed for longer is stale */
    uint8_t boot_id[16];
    uint64_t generation;        /* of this page: another page of this publisher or of its successor has another */
    uint64_t tick, ns;
    uint64_t written_ns;        /* the same clock when this was written, which is later */
    uint64_t disruptions;       /* changes whenever durations across the change mean nothing */
    uint64_t missed;            /* ticks that were never written because the publisher came late */
    struct xenpv_time_point history[64]; /* slot = tick mod 64; a slot whose tick is another was missed */
};
#define XENPV_TIME_MAGIC 0x6d697478
#define XENPV_TIME_MAJOR 1
#define XENPV_TIME_MINOR 0
#define XENPV_TIME_SIZE_MIN 104
#define XENPV_TIME_HISTORY 64
enum { XENPV_TIME_JIFFIES = 1, XENPV_TIME_COARSE = 2 };

/* Makes a zeroed page valid: `facts` but for what stands under the sequence word. */
void xenpv_time_init(void *page, const struct xenpv_time_page *facts);
/* The next tick. One thread writes a page. */
void xenpv_time_write(void *page, uint64_t tick, uint64_t ns, uint64_t written_ns, uint64_t disruptions, uint64_t missed);
void xenpv_time_set_alive(void *page, int alive);
void xenpv_time_set_paused(void *page, int paused);
/* A whole copy, what the page's size leaves out zero: 0, -EAGAIN (torn `tries` times), -EPROTO (not such a page). */
int xenpv_time_read(const void *page, struct xenpv_time_page *out, uint32_t tries);
/* The tick alone, of a page that xenpv_time_read took: 0, -EAGAIN, or -ESTALE when the publisher is gone or pauses. */
int xenpv_time_tick(const void *page, uint64_t *tick);
/* The same with the disruption marker, which changes whenever differences across the change mean nothing. */
int xenpv_time_look(const void *page, uint64_t *tick, uint64_t *disruptions);
/* 1 while the publisher is there: also of a page that is torn for good. */
int xenpv_time_alive(const void *page);
/* Nanoseconds that one xenpv_time_tick, one clock_gettime of MONOTONIC and one of MONOTONIC_COARSE take, over `rounds`. */
struct xenpv_time_cost {
    double tick, monotonic, coarse;
};
void xenpv_time_measure(const void *page, uint32_t rounds, struct xenpv_time_cost *out);

/* ---- ticker.c: writes pages at every tick of this machine's kernel ---- */

struct xenpv_ticker;
struct xenpv_ticker_stats {
    uint64_t wakes, ticks;      /* times the thread woke; ticks it wrote */
    uint64_t missed;            /* ticks that passed while pages wanted them, and that nobody wrote */
    uint64_t late_max_ns;       /* the latest write after its tick */
    uint64_t pages;
};
/* NULL, *error is an errno. Until it is calibrated, the tick is CLOCK_MONOTONIC_COARSE over tick_nsec. */
struct xenpv_ticker *xenpv_ticker_new(uint32_t tick_nsec, int *error);
/* The kernel's tick was `base` when CLOCK_MONOTONIC_COARSE was `phase_ns`. 1: that is more than two ticks from what was
 * believed, and every page was disrupted; else 0. */
int xenpv_ticker_calibrate(struct xenpv_ticker *ticker, uint64_t base, uint64_t phase_ns);
/* Durations across this moment mean nothing. */
void xenpv_ticker_disrupt(struct xenpv_ticker *ticker);
/* The tick at a moment of CLOCK_MONOTONIC_COARSE. */
uint64_t xenpv_ticker_tick(struct xenpv_ticker *ticker, uint64_t coarse_ns);
/* The page, made valid before, is written at once for the moment `coarse_ns` and from then on at every tick. The ticks of
 * its pause are not missed. -ENOSPC: too many pages. */
int xenpv_ticker_add(struct xenpv_ticker *ticker, void *page, uint64_t coarse_ns);
/* It is not written any more when this returns. */
void xenpv_ticker_remove(struct xenpv_ticker *ticker, void *page);
/* One turn when CLOCK_MONOTONIC_COARSE is `coarse_ns` and CLOCK_MONOTONIC `now_ns`; the thread's own is this. */
void xenpv_ticker_step(struct xenpv_ticker *ticker, uint64_t coarse_ns, uint64_t now_ns);
/* For a thread of its own: until stop. It sleeps, without any tick, while there are no pages. */
int xenpv_ticker_run(struct xenpv_ticker *ticker);
void xenpv_ticker_stop(struct xenpv_ticker *ticker);
void xenpv_ticker_stats(struct xenpv_ticker *ticker, struct xenpv_ticker_stats *out);
void xenpv_ticker_free(struct xenpv_ticker *ticker);

/* ---- layout.c: what the core believes the wire looks like, for the test that compares it with Xen's headers ---- */

struct xenpv_layout {
    const char *name;
    uint32_t value;
};
extern const struct xenpv_layout xenpv_layouts[];

#endif
