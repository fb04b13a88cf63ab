/* One queue with both its ends, over the fake hypervisor; a frontend that writes its requests by hand; a served disk. */
#ifndef XENPV_TEST_QUEUE_H
#define XENPV_TEST_QUEUE_H

#include <pthread.h>
#include <semaphore.h>

#include "api.h"
#include "back.h"
#include "fake_hypervisor.h"
#include "harness.h"

#define POOL_FIRST 16u /* page of the domain where the data pages begin */
#define POOL_PAGES 1024u
#define INDIRECT_FIRST 1100u /* pages for the segments of indirect requests */
#define INDIRECT_PAGES 128u
#define QUEUE_TICK_NS 4000000u

struct queue_options {
    uint32_t abi;         /* 0: 64 */
    uint32_t flag, order, persistent, data, readonly, spin_ns;
    uint32_t sector_size; /* 0: 512 */
    uint32_t start;       /* the ring's first index */
    uint32_t inline_io;
    uint32_t not_direct;  /* the hypervisor says that copies are cheaper than maps */
    uint32_t max_segments, front_segments; /* of an indirect request, as the backend offers and the frontend uses */
    uint32_t barrier, secure;
    uint32_t max_ios;     /* 0: 64 */
    uint32_t stamp, front_stamp; /* the backend's unit, the frontend's */
    const void *time_page;
    uint32_t latency;     /* both ends measure, without stamps by `clock` */
    uint32_t clock;
};

struct queue {
    struct queue_options options;
    struct fake_domain domain;
    struct fake_channel channel;
    uint32_t entries;
    uint32_t refs[POOL_PAGES], indirect_refs[INDIRECT_PAGES];
    struct xenpv_journal *journal;
    struct xenpv_back_stats stats;
    struct xenpv_latency *latency; /* the backend's; NULL: it does not measure */
    struct xenpv_back *back;
    struct xenpv_front *front;
    struct xenpv_ring raw; /* the hand-written frontend's */
};

/* A granted ring whose indices begin at `start`, and granted data pages; nobody is attached yet. */
void queue_open(struct queue *queue, const struct queue_options *options);
/* fd -1: the storage is the test. */
struct xenpv_back *queue_back(struct queue *queue, int fd, uint64_t sectors, int adopt);
struct xenpv_front *queue_front(struct queue *queue);
void queue_raw(struct queue *queue);
/* Ends both ends if they are open, and demands that nothing is left mapped. */
void queue_close(struct queue *queue);

static inline uint8_t *queue_page(struct queue *queue, uint32_t page)
{
    return queue->domain.memory + (size_t)(POOL_FIRST + page) * XENPV_PAGE_SIZE;
}

/* For storage that is the test (fd -1): the next request, which will be answered with success; and its answer. */
struct xenpv_request queue_fetch(struct queue *queue);
void queue_answer(struct queue *queue, struct xenpv_request request);

/* A request as the test wants it, however wrong. */
struct raw_request {
    uint8_t op, count;
    uint64_t id, sector, nr_sectors;
    struct {
        uint32_t ref;
        uint8_t first, last;
    } segment[XENPV_MAX_SEGMENTS];
};
struct raw_response {
    uint64_t id;
    uint8_t op;
    int16_t status;
};
/* Of an indirect request: `op` is the one inside, and its `count` segments are not looked at. */
struct raw_indirect {
    uint8_t op;
    uint16_t count;
    uint64_t id, sector;
    uint32_t ref[XENPV_MAX_INDIRECT_PAGES];
};
void raw_put_indirect(struct queue *queue, const struct raw_indirect *request);
/* Segment `number` in the segments' page `page`. */
void raw_segment(struct queue *queue, uint32_t page, uint32_t number, uint32_t ref, uint8_t first, uint8_t last);
void raw_encode(uint32_t abi, const struct raw_request *request, uint8_t *raw);
/* Puts and publishes; notifies if told to. */
void raw_put(struct queue *queue, const struct raw_request *request);
/* 1: a response was there. */
int raw_get(struct queue *queue, struct raw_response *response);
/* The same, and waits for it as a frontend should: armed, asleep. Fails the test after some seconds. */
void raw_wait(struct queue *queue, struct raw_response *response);
/* A request of one whole data page. */
struct raw_request raw_page(uint8_t op, uint64_t id, uint64_t sector, uint32_t page);

/* A service that the test itself runs, of queues with a backend; and its end, and theirs. */
struct xenpv_service *service_of(int engine, struct queue **queues, uint32_t count);
void service_let_go(struct xenpv_service *service, struct queue **queues, uint32_t count);

/* A service in a thread of its own. Queues that the frontend broke are let go of, and `halted` counts them. */
struct server {
    int engine;
    struct queue **queues;
    uint32_t count;
    pthread_t thread;
    sem_t ready, halt;
    struct xenpv_service *service;
    _Atomic int halted;
};
void server_start(struct server *server, int engine, struct queue **queues, uint32_t count);
void server_stop(struct server *server);

/* One I/O through the frontend, to its end; its status. Demands that no data page stays mapped without persistent grants. */
int queue_io(struct queue *queue, uint8_t op, uint64_t sector, uint64_t bytes, uint32_t page);
/* `count` random I/Os of up to `max_pages` each, `depth` at once, over ranges that do not overlap while in flight; what is
 * read must be what the model of the disk says. Then zero rescues, errors and refusals. */
void queue_exercise(struct queue *queue, uint8_t *model, uint64_t sectors, uint32_t count, uint32_t depth,
                    uint32_t max_pages, uint64_t seed);
/* An unlinked file of `sectors`, filled like `model`, which it allocates. memory: in memory, else where TMPDIR is. */
int disk_open(uint64_t sectors, int memory, uint8_t **model);
/* What answers the core's plain reads of one piece (pread, by ld's --wrap) while it is not NULL, and the system's. */
extern ssize_t (*disk_read)(int fd, void *to, size_t bytes, off_t offset);
ssize_t __real_pread(int fd, void *to, size_t bytes, off_t offset);
/* The same of the core's ioctl() with a range of bytes: 0, or -1 and errno. */
extern int (*disk_ioctl)(unsigned long number, const uint64_t range[2]);
void disk_check(int fd, uint8_t *model, uint64_t sectors);

#endif
