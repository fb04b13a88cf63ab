/* A frontend in this thread, the service in another, a disk between them: every byte is right, nothing stays mapped, and no
 * wake-up is lost (zero rescues), in every engine, mode and ABI. */
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "queue.h"

#define SECTORS 16384u
enum { INLINE = -1 };

static void served(int engine, const struct queue_options *options, uint32_t count, uint32_t depth, uint32_t max_pages)
{
    static struct queue queue, *queues[] = { &queue };
    struct queue_options o = *options;
    struct server server;
    uint8_t *model;
    int fd = disk_open(SECTORS, engine == INLINE, &model);

    o.inline_io = engine == INLINE;
    queue_open(&queue, &o);
    queue_front(&queue);
    queue_back(&queue, fd, SECTORS, 0);
    server_start(&server, engine == INLINE ? XENPV_ENGINE_AUTO : engine, queues, 1);
    queue_exercise(&queue, model, SECTORS, count, depth, max_pages, 99);
    CHECK_EQ(queue_io(&queue, XENPV_OP_FLUSH, 0, 0, 0), XENPV_RSP_OKAY);
    server_stop(&server);
    CHECK_EQ(queue.stats.errors, 0);
    CHECK_EQ(queue.stats.refused, 0);
    CHECK(queue.stats.requests[XENPV_OP_FLUSH] == 1);
    CHECK(queue.domain.live == (1 << o.order) + (int64_t)queue.back->persistent.count);
    CHECK(queue.back->persistent.count <= o.persistent);
    CHECK_EQ(xenpv_front_stats(queue.front)->rescues, 0);
    queue_close(&queue);
    disk_check(fd, model, SECTORS);
}

static void in_both_modes(int engine, struct queue_options options)
{
    for (options.flag = 0; options.flag < 2; options.flag++)
        for (options.abi = 32; options.abi <= 64; options.abi += 32)
            served(engine, &options, 300, 8, 4);
}

TEST(inline_serves) { in_both_modes(INLINE, (struct queue_options){ .start = UINT32_MAX - 100 }); }
TEST(uring_serves) { in_both_modes(XENPV_ENGINE_URING, (struct queue_options){ .start = UINT32_MAX - 100 }); }
TEST(threads_serve) { in_both_modes(XENPV_ENGINE_THREADS, (struct queue_options){ .start = UINT32_MAX - 100 }); }

TEST(every_page_order_serves)
{
    for (uint32_t order = 0; order <= 4; order++) {
        struct queue_options options = { .order = order, .flag = order & 1, .max_ios = 512, .start = UINT32_MAX - 200 };
        served(INLINE, &options, 1200, 200, 2);
        served(XENPV_ENGINE_URING, &options, 400, 64, 2);
        options.abi = 32;
        served(XENPV_ENGINE_THREADS, &options, 300, 64, 2);
    }
}

/* Fewer standing mappings than pages in use, so that some are put out again and again. */
TEST(persistent_grants_serve_and_stay_few)
{
    static const uint32_t caps[] = { 1, 3, 16, 4096 };

    for (unsigned i = 0; i < 4; i++) {
        struct queue_options options = { .persistent = caps[i], .flag = 1 };
        served(INLINE, &options, 300, 8, 4);
        served(XENPV_ENGINE_URING, &options, 300, 8, 4);
        options.data = XENPV_DATA_COPY;
        served(XENPV_ENGINE_THREADS, &options, 300, 8, 4);
    }
}

TEST(copy_mode_serves)
{
    in_both_modes(XENPV_ENGINE_URING, (struct queue_options){ .data = XENPV_DATA_COPY });
    in_both_modes(INLINE, (struct queue_options){ .not_direct = 1 });
}

/* Where a map costs a system call, a request's pages are mapped by one; and no engine may do asynchronous I/O to them. */
TEST(map_mode_serves_where_copies_are_cheaper)
{
    struct queue_options options = { .not_direct = 1, .data = XENPV_DATA_MAP };

    in_both_modes(INLINE, options);
    in_both_modes(XENPV_ENGINE_THREADS, options);
    options.persistent = 7;
    in_both_modes(XENPV_ENGINE_THREADS, options);
}

TEST(io_uring_is_refused_where_it_must_not_touch_granted_pages)
{
    static struct queue queue;
    int error = 0;

    for (uint32_t data = 0; data <= XENPV_DATA_MAP; data++) {
        queue_open(&queue, &(struct queue_options){ .not_direct = 1, .data = data });
        struct xenpv_service *service = xenpv_service_new(XENPV_ENGINE_URING, &error);
        CHECK_EQ(error, 0);
        queue_back(&queue, 0, SECTORS, 0);
        int result = xenpv_service_add(service, queue.back);
        CHECK_EQ(result, data == XENPV_DATA_MAP ? -EOPNOTSUPP : 0);
        if (!result)
            CHECK_EQ(xenpv_service_remove(service, queue.back), 0);
        xenpv_service_free(service);
        queue_close(&queue);
    }
}

TEST(a_request_is_one_map_where_maps_are_dear)
{
    static struct queue queue;
    struct xenpv_slot *slots[4];
    uint32_t count;

    for (uint32_t bad = 0; bad < 2; bad++) {
        queue_open(&queue, &(struct queue_options){ .not_direct = 1, .data = XENPV_DATA_MAP });
        queue_raw(&queue);
        queue_back(&queue, 0, SECTORS, 0);
        struct raw_request request = raw_page(XENPV_OP_WRITE, 1, 0, 5);
        request.count = 3;
        request.segment[1] = (__typeof__(request.segment[0])){ bad ? 0 : FAKE_FIRST_REF + POOL_FIRST + 6, 1, 7 };
        request.segment[2] = (__typeof__(request.segment[0])){ FAKE_FIRST_REF + POOL_FIRST + 7, 0, 0 };
        raw_put(&queue, &request);
        int64_t maps = queue.domain.maps;
        CHECK_EQ(xenpv_back_take(queue.back, slots, 4, &count), 1);
        CHECK_EQ(queue.domain.maps - maps, 1);
        CHECK_EQ(count, !bad);
        CHECK_EQ(queue.domain.live, bad ? 1 : 4);
        queue_close(&queue);
    }
}

static struct queue woken;
static uint32_t woken_got, woken_most;

/* The quickest frontend there is: it is told, takes what is there, and sleeps again before the backend goes on. */
static void takes_and_sleeps(struct fake_domain *domain)
{
    struct raw_response response;
    uint32_t before = woken_got;

    (void)domain;
    do {
        xenpv_ring_run(&woken.raw);
        for (; raw_get(&woken, &response); woken_got++)
            CHECK_EQ(response.status, XENPV_RSP_OKAY);
    } while (xenpv_ring_arm(&woken.raw) != 0);
    if (woken_got - before > woken_most)
        woken_most = woken_got - before;
}

/* A frontend on our CPU runs as soon as it is told, so each part of them that is shown alone costs us two switches. Reads of what is
 * in memory end together; where they do not, by the kernel's choice, there is another try. */
TEST(what_ended_together_is_shown_together)
{
    struct queue *queues[] = { &woken };
    uint8_t *model;
    int fd = disk_open(SECTORS, 0, &model);

    queue_open(&woken, &(struct queue_options){ .flag = 1 });
    queue_raw(&woken);
    queue_back(&woken, fd, SECTORS, 0);
    woken.domain.hostile = takes_and_sleeps;
    struct xenpv_service *service = service_of(XENPV_ENGINE_URING, queues, 1);
    for (uint32_t round = 1; round <= 100 && woken_most <= 4; round++) {
        for (uint32_t i = 0; i < 32; i++) {
            struct raw_request request = raw_page(XENPV_OP_READ, i, 8 * i, i);
            raw_put(&woken, &request);
        }
        takes_and_sleeps(&woken.domain);
        fake_channel_send(&woken.channel, FAKE_BACK);
        while (woken_got < 32 * round) {
            xenpv_service_stop(service);
            CHECK_EQ(xenpv_service_run(service), 0);
        }
    }
    CHECK(woken_most > 4); /* more than inline I/O shows at once */
    service_let_go(service, queues, 1);
    disk_check(fd, model, SECTORS);
}

TEST(one_at_a_time_sleeps_and_wakes)
{
    for (uint32_t flag = 0; flag < 2; flag++) {
        served(INLINE, &(struct queue_options){ .flag = flag }, 600, 1, 2);
        served(XENPV_ENGINE_URING, &(struct queue_options){ .flag = flag }, 200, 1, 2);
        served(XENPV_ENGINE_THREADS, &(struct queue_options){ .flag = flag, .abi = 32 }, 200, 1, 2);
    }
}

TEST(spinning_serves)
{
    for (uint32_t flag = 0; flag < 2; flag++) {
        served(INLINE, &(struct queue_options){ .flag = flag, .spin_ns = 20000 }, 600, 4, 2);
        served(XENPV_ENGINE_URING, &(struct queue_options){ .flag = flag, .spin_ns = 20000 }, 300, 4, 2);
    }
}

TEST(sectors_of_4096_bytes)
{
    served(INLINE, &(struct queue_options){ .sector_size = 4096 }, 300, 8, 4);
    served(XENPV_ENGINE_URING, &(struct queue_options){ .sector_size = 4096, .persistent = 20 }, 300, 8, 4);
}

/* One I/O of 2 MiB is 47 requests, more than the ring holds. */
TEST(an_io_larger_than_a_request_is_split)
{
    static struct queue queue, *queues[] = { &queue };
    struct server server;
    uint8_t *model;
    int fd = disk_open(SECTORS, 0, &model);

    queue_open(&queue, &(struct queue_options){ .flag = 1 });
    queue_front(&queue);
    queue_back(&queue, fd, SECTORS, 0);
    server_start(&server, XENPV_ENGINE_URING, queues, 1);
    CHECK_EQ(queue_io(&queue, XENPV_OP_READ, 1001, 512 * 4096, 0), XENPV_RSP_OKAY);
    CHECK(memcmp(queue_page(&queue, 0), model + 1001 * 512, 512 * 4096) == 0);
    memset(queue_page(&queue, 0), 0x3c, 512 * 4096);
    CHECK_EQ(queue_io(&queue, XENPV_OP_WRITE, 3, 511 * 4096 + 512, 0), XENPV_RSP_OKAY);
    memset(model + 3 * 512, 0x3c, 511 * 4096 + 512);
    CHECK_EQ(queue.stats.requests[XENPV_OP_READ], 47);
    CHECK_EQ(queue.stats.bytes_read, 512 * 4096);
    CHECK_EQ(queue.stats.bytes_written, 511 * 4096 + 512);
    /* Its first part is on the disk and its last is not: the whole fails. */
    CHECK_EQ(queue_io(&queue, XENPV_OP_READ, SECTORS - 2000, 512 * 4096, 0), XENPV_RSP_ERROR);
    CHECK_EQ(xenpv_front_stats(queue.front)->rescues, 0);
    server_stop(&server);
    queue_close(&queue);
    disk_check(fd, model, SECTORS);
}

static void discards(int engine)
{
    static struct queue queue, *queues[] = { &queue };
    struct server server;
    uint8_t *model;
    int fd = disk_open(SECTORS, 1, &model); /* in memory: every tmpfs can punch holes */

    queue_open(&queue, &(struct queue_options){ .flag = 1, .inline_io = engine == INLINE });
    queue_front(&queue);
    queue_back(&queue, fd, SECTORS, 0);
    server_start(&server, engine == INLINE ? XENPV_ENGINE_AUTO : engine, queues, 1);
    CHECK_EQ(queue_io(&queue, XENPV_OP_DISCARD, 800, 1600 * 512, 0), XENPV_RSP_OKAY);
    memset(model + 800 * 512, 0, 1600 * 512);
    CHECK_EQ(queue_io(&queue, XENPV_OP_READ, 799, 4096, 0), XENPV_RSP_OKAY);
    CHECK(memcmp(queue_page(&queue, 0), model + 799 * 512, 4096) == 0);
    CHECK_EQ(queue_io(&queue, XENPV_OP_DISCARD, SECTORS - 1, 1024, 0), XENPV_RSP_ERROR);
    CHECK_EQ(queue_io(&queue, XENPV_OP_FLUSH, 0, 0, 0), XENPV_RSP_OKAY);
    CHECK_EQ(queue.stats.bytes_discarded, 1600 * 512);
    CHECK_EQ(xenpv_front_stats(queue.front)->rescues, 0);
    server_stop(&server);
    queue_close(&queue);
    disk_check(fd, model, SECTORS);
}

static unsigned long ioctl_number;
static uint64_t ioctl_range[2];
static int ioctl_error;

static int answer_ioctl(unsigned long number, const uint64_t range[2])
{
    ioctl_number = number;
    memcpy(ioctl_range, range, sizeof ioctl_range);
    errno = ioctl_error;
    return ioctl_error ? -1 : 0;
}

/* A block device without "write zeroes" refuses to punch holes, and may discard all the same. So does any file of /proc. */
static void discards_without_zeroes(int engine)
{
    static struct queue queue, *queues[] = { &queue };
    struct queue_options o = { .inline_io = engine == INLINE };
    struct server server;
    int fd = open("/proc/self/comm", O_RDWR);

    CHECK(fd >= 0);
    disk_ioctl = answer_ioctl;
    queue_open(&queue, &o);
    queue_front(&queue);
    queue_back(&queue, fd, SECTORS, 0);
    server_start(&server, engine == INLINE ? XENPV_ENGINE_AUTO : engine, queues, 1);
    ioctl_error = 0;
    CHECK_EQ(queue_io(&queue, XENPV_OP_DISCARD, 24, 8192, 0), XENPV_RSP_OKAY);
    CHECK_EQ(ioctl_number, BLKDISCARD);
    CHECK_EQ(ioctl_range[0], 24 * XENPV_SECTOR);
    CHECK_EQ(ioctl_range[1], 8192);
    ioctl_error = ENOTTY; /* no block device */
    CHECK_EQ(queue_io(&queue, XENPV_OP_DISCARD, 24, 8192, 0), XENPV_RSP_EOPNOTSUPP);
    ioctl_error = EIO;
    CHECK_EQ(queue_io(&queue, XENPV_OP_DISCARD, 24, 8192, 0), XENPV_RSP_ERROR);
    server_stop(&server);
    queue_close(&queue);
    close(fd);
}

TEST(inline_discards_without_zeroes) { discards_without_zeroes(INLINE); }
TEST(uring_discards_without_zeroes) { discards_without_zeroes(XENPV_ENGINE_URING); }
TEST(threads_discard_without_zeroes) { discards_without_zeroes(XENPV_ENGINE_THREADS); }

TEST(inline_discards) { discards(INLINE); }
TEST(uring_discards) { discards(XENPV_ENGINE_URING); }
TEST(threads_discard) { discards(XENPV_ENGINE_THREADS); }

/* Linux may send data with a flush. Nothing else is in flight, so nothing else can wake what waits for its second half. */
static void flushes_then_writes(int engine)
{
    static struct queue queue, *queues[] = { &queue };
    struct raw_response response;
    struct server server;
    uint8_t *model;
    int fd = disk_open(64, engine == INLINE, &model);

    queue_open(&queue, &(struct queue_options){ .flag = 1, .inline_io = engine == INLINE });
    queue_raw(&queue);
    queue_back(&queue, fd, 64, 0);
    server_start(&server, engine == INLINE ? XENPV_ENGINE_AUTO : engine, queues, 1);
    for (uint32_t i = 0; i < 6; i++) {
        struct raw_request request = raw_page(XENPV_OP_FLUSH, i, 8 * i, i);
        memset(queue_page(&queue, i), (int)i + 1, 4096);
        memset(model + 4096 * i, (int)i + 1, 4096);
        raw_put(&queue, &request);
        raw_wait(&queue, &response);
        CHECK_EQ(response.id, i);
        CHECK_EQ(response.op, XENPV_OP_FLUSH);
        CHECK_EQ(response.status, XENPV_RSP_OKAY);
    }
    server_stop(&server);
    queue_close(&queue);
    disk_check(fd, model, 64);
}

TEST(inline_flushes_then_writes) { flushes_then_writes(INLINE); }
TEST(uring_flushes_then_writes) { flushes_then_writes(XENPV_ENGINE_URING); }
TEST(threads_flush_then_write) { flushes_then_writes(XENPV_ENGINE_THREADS); }

TEST(readonly_disks_are_read_only)
{
    static struct queue queue, *queues[] = { &queue };
    struct server server;
    uint8_t *model;
    int fd = disk_open(SECTORS, 1, &model);

    queue_open(&queue, &(struct queue_options){ .readonly = 1, .inline_io = 1 });
    queue_front(&queue);
    queue_back(&queue, fd, SECTORS, 0);
    server_start(&server, XENPV_ENGINE_AUTO, queues, 1);
    CHECK_EQ(queue_io(&queue, XENPV_OP_WRITE, 8, 4096, 0), XENPV_RSP_ERROR);
    CHECK_EQ(queue_io(&queue, XENPV_OP_DISCARD, 8, 4096, 0), XENPV_RSP_ERROR);
    CHECK_EQ(queue.stats.refused, 2);
    CHECK_EQ(queue_io(&queue, XENPV_OP_READ, 8, 4096, 0), XENPV_RSP_OKAY);
    server_stop(&server);
    queue_close(&queue);
    disk_check(fd, model, SECTORS);
}

/* A successor of a service that was stopped with nothing in flight goes on where it left the ring. */
TEST(a_successor_serves_on)
{
    static struct queue queue, *queues[] = { &queue };
    struct server server;
    uint8_t *model;
    int fd = disk_open(SECTORS, 0, &model);

    queue_open(&queue, &(struct queue_options){ .flag = 1, .persistent = 9 });
    queue_front(&queue);
    for (int life = 0; life < 4; life++) {
        queue_back(&queue, fd, SECTORS, life > 0);
        server_start(&server, XENPV_ENGINE_AUTO, queues, 1);
        queue_exercise(&queue, model, SECTORS, 100, 8, 2, (uint64_t)life);
        server_stop(&server);
        xenpv_back_close(queue.back);
        queue.back = NULL;
        CHECK_EQ(queue.domain.live, 0);
    }
    queue_close(&queue);
    disk_check(fd, model, SECTORS);
}
