/* The served half of queue.h: a service in a thread, I/O through the frontend, disks. */
#include "queue.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

struct xenpv_service *service_of(int engine, struct queue **queues, uint32_t count)
{
    int error;
    struct xenpv_service *service = xenpv_service_new(engine, &error);

    CHECK(service != NULL);
    for (uint32_t i = 0; i < count; i++)
        CHECK_EQ(xenpv_service_add(service, queues[i]->back), 0);
    return service;
}

void service_let_go(struct xenpv_service *service, struct queue **queues, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        CHECK_EQ(xenpv_service_remove(service, queues[i]->back), 0);
    xenpv_service_free(service);
    for (uint32_t i = 0; i < count; i++)
        queue_close(queues[i]);
}

static void *serve(void *argument)
{
    struct server *server = argument;
    int error = 0;

    server->service = xenpv_service_new(server->engine, &error);
    CHECK_EQ(error, 0);
    for (uint32_t i = 0; i < server->count; i++)
        CHECK_EQ(xenpv_service_add(server->service, server->queues[i]->back), 0);
    sem_post(&server->ready);
    for (int result; (result = xenpv_service_run(server->service)) != 0;) {
        CHECK_EQ(result, 1);
        for (uint32_t i = 0; i < server->count; i++)
            if (server->queues[i] && server->queues[i]->stats.halted) {
                CHECK_EQ(xenpv_service_remove(server->service, server->queues[i]->back), 0);
                server->queues[i] = NULL;
                server->halted++;
                sem_post(&server->halt);
            }
    }
    for (uint32_t i = 0; i < server->count; i++)
        if (server->queues[i])
            CHECK_EQ(xenpv_service_remove(server->service, server->queues[i]->back), 0);
    xenpv_service_free(server->service);
    return NULL;
}

void server_start(struct server *server, int engine, struct queue **queues, uint32_t count)
{
    memset(server, 0, sizeof *server);
    server->engine = engine;
    server->queues = calloc(count, sizeof *queues);
    CHECK(server->queues != NULL);
    memcpy(server->queues, queues, count * sizeof *queues);
    server->count = count;
    sem_init(&server->ready, 0, 0);
    sem_init(&server->halt, 0, 0);
    CHECK_EQ(pthread_create(&server->thread, NULL, serve, server), 0);
    while (sem_wait(&server->ready) != 0)
        CHECK_EQ(errno, EINTR);
}

void server_stop(struct server *server)
{
    xenpv_service_stop(server->service);
    CHECK_EQ(pthread_join(server->thread, NULL), 0);
    sem_destroy(&server->ready);
    sem_destroy(&server->halt);
    free(server->queues);
}

/* A response may be seen only after its pages were unmapped; the standing mappings are another matter. */
static void check_unmapped(struct queue *queue, const struct xenpv_io *io)
{
    if (queue->options.persistent || io->op == XENPV_OP_FLUSH || io->op == XENPV_OP_DISCARD)
        return;
    for (uint64_t i = 0; i < (io->bytes + XENPV_PAGE_SIZE - 1) / XENPV_PAGE_SIZE; i++)
        CHECK_EQ(queue->domain.grant[POOL_FIRST + io->page + i].mapped, 0);
}

int queue_io(struct queue *queue, uint8_t op, uint64_t sector, uint64_t bytes, uint32_t page)
{
    struct xenpv_io io = { .cookie = 77, .sector = sector, .bytes = bytes, .page = page, .op = op }, done;
    uint32_t accepted;

    CHECK_EQ(xenpv_front_exchange(queue->front, &io, 1, &accepted, &done, 1, 1, -1, -1), 1);
    CHECK_EQ(accepted, 1);
    CHECK_EQ(done.cookie, 77);
    check_unmapped(queue, &done);
    return done.status;
}

struct lane { /* one I/O in flight, in its own part of the disk and of the pool */
    struct xenpv_io io;
    int busy;
};

static void prepare(struct queue *queue, struct lane *lane, uint32_t number, uint8_t *model, uint64_t sectors,
                    uint32_t depth, uint32_t max_pages, struct test_random *r)
{
    uint32_t unit = queue->options.sector_size / XENPV_SECTOR;
    uint64_t width = sectors / depth / unit * unit, count = (test_random(r, max_pages * 8 / unit) + 1) * unit;
    uint64_t sector = number * width + test_random(r, (uint32_t)((width - count) / unit)) * unit;
    uint8_t op = test_random(r, 2) && !queue->options.readonly ? XENPV_OP_WRITE : XENPV_OP_READ;
    uint8_t *data = queue_page(queue, number * max_pages);

    CHECK(count < width && depth * max_pages <= POOL_PAGES);
    lane->io = (struct xenpv_io){ .cookie = number, .sector = sector, .bytes = count * XENPV_SECTOR,
                                  .page = number * max_pages, .op = op };
    lane->busy = 1;
    if (op == XENPV_OP_WRITE) {
        for (uint64_t i = 0; i < lane->io.bytes; i += 8) {
            r->state += 0x9e3779b97f4a7c15u;
            memcpy(data + i, &r->state, 8);
        }
        memcpy(model + sector * XENPV_SECTOR, data, lane->io.bytes);
    } else {
        memset(data, 0xee, lane->io.bytes);
    }
}

void queue_exercise(struct queue *queue, uint8_t *model, uint64_t sectors, uint32_t count, uint32_t depth,
                    uint32_t max_pages, uint64_t seed)
{
    struct lane *lanes = calloc(depth, sizeof *lanes);
    struct xenpv_io *submit = calloc(depth, sizeof *submit), *done = calloc(depth, sizeof *done);
    struct test_random r = { seed };
    uint32_t finished = 0, begun = 0, waiting = 0, accepted;

    CHECK(lanes && submit && done);
    while (finished < count) {
        for (uint32_t i = 0; i < depth && begun < count; i++)
            if (!lanes[i].busy) {
                prepare(queue, &lanes[i], i, model, sectors, depth, max_pages, &r);
                submit[waiting++] = lanes[i].io;
                begun++;
            }
        int n = xenpv_front_exchange(queue->front, submit, waiting, &accepted, done, depth, 1, -1, -1);
        CHECK(n > 0);
        memmove(submit, submit + accepted, (waiting - accepted) * sizeof *submit);
        waiting -= accepted;
        for (int i = 0; i < n; i++, finished++) {
            CHECK_EQ(done[i].status, XENPV_RSP_OKAY);
            check_unmapped(queue, &done[i]);
            CHECK(memcmp(queue_page(queue, done[i].page), model + done[i].sector * XENPV_SECTOR, done[i].bytes) == 0);
            lanes[done[i].cookie].busy = 0;
        }
    }
    CHECK_EQ(xenpv_front_pending(queue->front), 0);
    CHECK_EQ(xenpv_front_stats(queue->front)->rescues, 0);
    CHECK_EQ(xenpv_front_stats(queue->front)->errors, 0);
    free(lanes);
    free(submit);
    free(done);
}

ssize_t (*disk_read)(int fd, void *to, size_t bytes, off_t offset);

ssize_t __wrap_pread(int fd, void *to, size_t bytes, off_t offset);

ssize_t __wrap_pread(int fd, void *to, size_t bytes, off_t offset)
{
    return disk_read ? disk_read(fd, to, bytes, offset) : __real_pread(fd, to, bytes, offset);
}

int (*disk_ioctl)(unsigned long number, const uint64_t range[2]);

int __real_ioctl(int fd, unsigned long number, void *argument);
int __wrap_ioctl(int fd, unsigned long number, void *argument);

int __wrap_ioctl(int fd, unsigned long number, void *argument)
{
    return disk_ioctl ? disk_ioctl(number, argument) : __real_ioctl(fd, number, argument);
}

int disk_open(uint64_t sectors, int memory, uint8_t **model)
{
    const char *directory = getenv("TMPDIR");
    struct test_random r = { sectors };
    char name[512];
    int fd;

    if (memory) {
        fd = memfd_create("disk", MFD_CLOEXEC);
    } else {
        snprintf(name, sizeof name, "%s/xenpv-disk.XXXXXX", directory && *directory ? directory : "/tmp");
        fd = mkstemp(name);
        unlink(name);
    }
    CHECK(fd >= 0);
    *model = malloc(sectors * XENPV_SECTOR);
    CHECK(*model != NULL);
    for (uint64_t i = 0; i < sectors * XENPV_SECTOR; i++)
        (*model)[i] = (uint8_t)test_random(&r, 256);
    CHECK_EQ(pwrite(fd, *model, sectors * XENPV_SECTOR, 0), sectors * XENPV_SECTOR);
    return fd;
}

/* The disk is what the model says; both are given back. */
void disk_check(int fd, uint8_t *model, uint64_t sectors)
{
    uint8_t *now = malloc(sectors * XENPV_SECTOR);

    CHECK(now != NULL);
    CHECK_EQ(pread(fd, now, sectors * XENPV_SECTOR, 0), sectors * XENPV_SECTOR);
    CHECK(memcmp(now, model, sectors * XENPV_SECTOR) == 0);
    free(now);
    free(model);
    close(fd);
}
