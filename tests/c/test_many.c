/* Many queues of one thread: nobody waits for a neighbour that has more to do, that is slow, or that leaves; and who has
 * nothing to do is left alone. Turns are counted, and seen in the data: no clock is looked at. */
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "queue.h"
#include "spin.h"

#define SECTORS 1024u
#define QUIET 3
#define TURN 64u  /* service.c's: what a turn may weigh */
#define BATCH 8u  /* and how many requests it takes at once: the last of them may be over the limit */

/* A busy queue writes 1, 2, 3, ... to the first bytes of the disk, `pages` at once, as far as its ring goes; quiet ones read
 * them once. What they read is how many requests of the busy one came before theirs. */
static void a_turn_ends(uint8_t pages, uint32_t writes, uint32_t most)
{
    static struct queue busy, quiet[QUIET], *queues[1 + QUIET] = { &busy };
    struct raw_response response;
    uint8_t *model;
    int fd = disk_open(SECTORS, 1, &model);

    queue_open(&busy, &(struct queue_options){ .order = 4, .inline_io = 1 });
    queue_raw(&busy);
    CHECK(busy.entries >= writes && writes > most);
    for (uint32_t i = 0; i < writes; i++) {
        struct raw_request request = { .op = XENPV_OP_WRITE, .count = pages, .id = i };
        uint32_t number = i + 1;
        memcpy(queue_page(&busy, i), &number, sizeof number);
        for (uint8_t segment = 0; segment < pages; segment++)
            request.segment[segment].ref = FAKE_FIRST_REF + POOL_FIRST + i, request.segment[segment].last = 7;
        raw_put(&busy, &request);
    }
    queue_back(&busy, fd, SECTORS, 0);
    for (uint32_t i = 0; i < QUIET; i++) {
        queues[1 + i] = &quiet[i];
        queue_open(&quiet[i], &(struct queue_options){ .inline_io = 1 });
        queue_raw(&quiet[i]);
        struct raw_request request = raw_page(XENPV_OP_READ, i, 0, 0);
        raw_put(&quiet[i], &request);
        queue_back(&quiet[i], fd, SECTORS, 0);
    }
    struct xenpv_service *service = service_of(XENPV_ENGINE_THREADS, queues, 1 + QUIET);
    xenpv_service_stop(service); /* it is seen in the first pass, which all the same is a turn for everybody */
    CHECK_EQ(xenpv_service_run(service), 0);
    for (uint32_t i = 0; i < QUIET; i++) {
        uint32_t before;
        CHECK_EQ(raw_get(&quiet[i], &response), 1);
        CHECK_EQ(response.status, XENPV_RSP_OKAY);
        memcpy(&before, queue_page(&quiet[i], 0), sizeof before);
        CHECK(before >= 1 && before <= most);
    }
    CHECK(busy.stats.requests[XENPV_OP_WRITE] <= most);
    while (busy.stats.requests[XENPV_OP_WRITE] < writes) {
        uint64_t served = busy.stats.requests[XENPV_OP_WRITE];
        xenpv_service_stop(service);
        CHECK_EQ(xenpv_service_run(service), 0);
        CHECK(busy.stats.requests[XENPV_OP_WRITE] > served);
    }
    service_let_go(service, queues, 1 + QUIET);
    free(model);
    close(fd);
}

TEST(a_queue_with_more_to_do_lets_others_have_their_turn) { a_turn_ends(1, 400, TURN + BATCH); }
/* 44 KiB weigh 3. */
TEST(large_requests_end_a_turn_sooner) { a_turn_ends(11, 400, TURN / 3 + BATCH); }

/* One queue is busy. Each of the others has its one look, because it was just attached, and sleeps; no more is counted of it. */
TEST(who_has_nothing_to_do_is_left_alone)
{
    enum { COUNT = 64, IOS = 200 };
    static struct queue queues[COUNT];
    static struct xenpv_back_stats before[COUNT];
    struct queue *all[COUNT];
    struct server server;
    uint8_t *model;
    int fd = disk_open(SECTORS, 1, &model);

    for (uint32_t i = 0; i < COUNT; i++) {
        all[i] = &queues[i];
        queue_open(&queues[i], &(struct queue_options){ .inline_io = 1, .flag = i & 1 });
        queue_front(&queues[i]);
        queue_back(&queues[i], fd, SECTORS, 0);
    }
    server_start(&server, XENPV_ENGINE_THREADS, all, COUNT);
    for (uint32_t i = 0; i < COUNT; i++)
        CHECK_EQ(queue_io(&queues[i], XENPV_OP_READ, 0, 4096, 0), XENPV_RSP_OKAY);
    server_stop(&server);
    for (uint32_t i = 0; i < COUNT; i++)
        before[i] = queues[i].stats;
    server_start(&server, XENPV_ENGINE_THREADS, all, COUNT);
    for (uint32_t i = 0; i < IOS; i++)
        CHECK_EQ(queue_io(&queues[0], XENPV_OP_READ, 0, 4096, 0), XENPV_RSP_OKAY);
    server_stop(&server);
    CHECK_EQ(queues[0].stats.requests[XENPV_OP_READ] - before[0].requests[XENPV_OP_READ], IOS);
    for (uint32_t i = 1; i < COUNT; i++) {
        CHECK_EQ(queues[i].stats.sleeps - before[i].sleeps, 1);
        before[i].sleeps = queues[i].stats.sleeps;
        CHECK(memcmp(&before[i], &queues[i].stats, sizeof before[i]) == 0);
    }
    for (uint32_t i = 0; i < COUNT; i++)
        queue_close(&queues[i]);
    free(model);
    close(fd);
}

/* Storage that hangs is an empty pipe; io_uring reads it as it is, the core's plain reads come through here. And one of which no
 * read ends before as many are under way as meet. */
static sem_t *hanging; /* a post for each read of a pipe */
static int meeting_fd = -1;
static pthread_barrier_t meeting;

static ssize_t hang_or_meet(int fd, void *to, size_t bytes, off_t offset)
{
    struct stat found;

    if (meeting_fd >= 0 && fd == meeting_fd)
        pthread_barrier_wait(&meeting);
    if (fstat(fd, &found) != 0 || !S_ISFIFO(found.st_mode))
        return __real_pread(fd, to, bytes, offset);
    if (hanging)
        sem_post(hanging);
    return read(fd, to, bytes);
}

/* The thread of a service with a slow queue, whose storage is an empty pipe, and a good one. */
struct slow {
    int engine;
    struct queue slow, good;
    struct xenpv_service *service;
    pthread_t thread;
    sem_t ready, leaving;
};

static void *serve_slow(void *argument)
{
    struct slow *s = argument;
    struct queue *queues[] = { &s->slow, &s->good };

    s->service = service_of(s->engine, queues, 2);
    sem_post(&s->ready);
    CHECK_EQ(xenpv_service_run(s->service), 0);
    sem_post(&s->leaving);
    CHECK_EQ(xenpv_service_remove(s->service, s->slow.back), 0);
    CHECK_EQ(xenpv_service_remove(s->service, s->good.back), 0);
    return NULL;
}

static void wait_for(sem_t *semaphore)
{
    while (sem_wait(semaphore) != 0)
        ;
}

/* 512 reads of the slow one do not end: the other is served beside them, and also while the slow one is let go of. */
static void slow_storage(int engine)
{
    static struct slow s;
    static const uint8_t page[XENPV_PAGE_SIZE] = { 0x5a };
    struct raw_response response;
    uint8_t *model;
    int pipe_fds[2], fd = disk_open(SECTORS, 0, &model);

    s.engine = engine;
    CHECK_EQ(pipe(pipe_fds), 0);
    disk_read = hang_or_meet;
    queue_open(&s.slow, &(struct queue_options){ .order = 4 });
    queue_raw(&s.slow);
    queue_back(&s.slow, pipe_fds[0], SECTORS, 0);
    queue_open(&s.good, &(struct queue_options){ .flag = 1 });
    queue_front(&s.good);
    queue_back(&s.good, fd, SECTORS, 0);
    for (uint32_t i = 0; i < s.slow.entries; i++) {
        struct raw_request request = raw_page(XENPV_OP_READ, i, 0, i);
        raw_put(&s.slow, &request);
    }
    sem_init(&s.ready, 0, 0);
    sem_init(&s.leaving, 0, 0);
    CHECK_EQ(pthread_create(&s.thread, NULL, serve_slow, &s), 0);
    wait_for(&s.ready);
    for (uint32_t i = 0; i < 32; i++)
        CHECK_EQ(queue_io(&s.good, XENPV_OP_READ, 8 * i, 4096, 0), XENPV_RSP_OKAY);
    CHECK_EQ(raw_get(&s.slow, &response), 0);
    xenpv_service_stop(s.service);
    wait_for(&s.leaving);
    for (uint32_t i = 0; i < 32; i++)
        CHECK_EQ(queue_io(&s.good, XENPV_OP_READ, 8 * i, 4096, 0), XENPV_RSP_OKAY);
    CHECK_EQ(raw_get(&s.slow, &response), 0);
    for (uint32_t i = 0; i < s.slow.entries; i++)
        CHECK_EQ(write(pipe_fds[1], page, sizeof page), sizeof page);
    CHECK_EQ(pthread_join(s.thread, NULL), 0);
    for (uint32_t i = 0; i < s.slow.entries; i++) {
        CHECK_EQ(raw_get(&s.slow, &response), 1);
        CHECK_EQ(response.status, XENPV_RSP_OKAY);
    }
    CHECK_EQ(xenpv_front_stats(s.good.front)->rescues, 0);
    xenpv_service_free(s.service);
    queue_close(&s.slow);
    queue_close(&s.good);
    close(pipe_fds[0]);
    close(pipe_fds[1]);
    disk_check(fd, model, SECTORS);
}

TEST(slow_storage_keeps_nobody_else_waiting)
{
    int error;
    struct xenpv_service *trial = xenpv_service_new(XENPV_ENGINE_URING, &error);

    if (!trial)
        return; /* no io_uring here: test_engines.c says so */
    xenpv_service_free(trial);
    slow_storage(XENPV_ENGINE_URING);
}

TEST(slow_storage_keeps_nobody_else_waiting_for_a_thread) { slow_storage(XENPV_ENGINE_THREADS); }

/* Three disks hang, with more requests each than a pool has threads. The others have a thread at once, and all 8 when they have
 * ended some requests beside those that hang: one disk's reads end by eights only. What hangs holds 8 threads a disk. */
TEST(who_hangs_takes_no_threads_from_others)
{
    enum { SLOW = 3, EACH = 32, MEET = 8, OVERTAKEN = 64 };
    static struct queue slow[SLOW], good, meets, *all[] = { &slow[0], &slow[1], &slow[2], &good, &meets };
    static const uint8_t page[XENPV_PAGE_SIZE] = { 0x5a };
    struct xenpv_io submit[MEET], done[MEET];
    struct raw_response response;
    struct server server;
    uint32_t accepted, hung = 0;
    uint8_t *model;
    sem_t reads;
    int pipe_fds[2], fd = disk_open(SECTORS, 0, &model);

    CHECK_EQ(pipe(pipe_fds), 0);
    disk_read = hang_or_meet;
    sem_init(&reads, 0, 0);
    hanging = &reads;
    meeting_fd = dup(fd);
    CHECK_EQ(pthread_barrier_init(&meeting, NULL, MEET), 0);
    for (uint32_t i = 0; i < SLOW; i++) {
        queue_open(&slow[i], &(struct queue_options){ 0 });
        queue_raw(&slow[i]);
        queue_back(&slow[i], pipe_fds[0], SECTORS, 0);
        for (uint32_t id = 0; id < EACH; id++) {
            struct raw_request request = raw_page(XENPV_OP_READ, id, 0, id);
            raw_put(&slow[i], &request);
        }
    }
    queue_open(&good, &(struct queue_options){ .flag = 1 });
    queue_front(&good);
    queue_back(&good, fd, SECTORS, 0);
    queue_open(&meets, &(struct queue_options){ .flag = 1 });
    queue_front(&meets);
    queue_back(&meets, meeting_fd, SECTORS, 0);
    server_start(&server, XENPV_ENGINE_THREADS, all, SLOW + 2);

    while (hung < SLOW * MEET) {
        CHECK_EQ(queue_io(&good, XENPV_OP_READ, 0, 4096, 0), XENPV_RSP_OKAY);
        hung += sem_trywait(&reads) == 0;
    }
    for (uint32_t i = 0; i < OVERTAKEN; i++)
        CHECK_EQ(queue_io(&good, XENPV_OP_READ, 0, 4096, 0), XENPV_RSP_OKAY);
    for (uint32_t i = 0; i < MEET; i++)
        submit[i] = (struct xenpv_io){ .sector = 8 * i, .bytes = 4096, .page = i, .op = XENPV_OP_READ };
    CHECK_EQ(xenpv_front_exchange(meets.front, submit, MEET, &accepted, done, MEET, MEET, -1, -1), MEET);
    CHECK(memcmp(queue_page(&meets, 0), model, MEET * XENPV_PAGE_SIZE) == 0);
    CHECK(sem_trywait(&reads) != 0);

    for (uint32_t i = 0; i < SLOW * EACH; i++)
        CHECK_EQ(write(pipe_fds[1], page, sizeof page), sizeof page);
    server_stop(&server);
    for (uint32_t i = 0; i < SLOW; i++) {
        for (uint32_t id = 0; id < EACH; id++) {
            CHECK_EQ(raw_get(&slow[i], &response), 1);
            CHECK_EQ(response.status, XENPV_RSP_OKAY);
        }
        queue_close(&slow[i]);
    }
    CHECK_EQ(xenpv_front_stats(good.front)->rescues + xenpv_front_stats(meets.front)->rescues, 0);
    queue_close(&good);
    queue_close(&meets);
    close(pipe_fds[0]);
    close(pipe_fds[1]);
    close(meeting_fd);
    disk_check(fd, model, SECTORS);
}

/* The right to spin is a thread's: all its queues spin on one, and the last of them gives it back. */
TEST(queues_of_one_thread_share_its_right_to_spin)
{
    enum { QUEUES = 8, MOST = 1024 };
    static struct xenpv_spin of_thread[QUEUES], others[MOST];
    struct xenpv_turn turn = { 0 };
    uint32_t limit = xenpv_spin_limit() < MOST ? xenpv_spin_limit() : MOST, last = limit ? limit - 1 : 0;

    for (uint32_t i = 0; i < last; i++) { /* all rights but one are taken */
        xenpv_spin_init(&others[i], 2000000000u);
        CHECK_EQ(xenpv_spin_on(&others[i]), 1);
    }
    xenpv_spin_init(&others[last], 2000000000u);
    for (uint32_t i = 0; i < QUEUES; i++) {
        xenpv_spin_init(&of_thread[i], 2000000000u);
        of_thread[i].turn = &turn;
        CHECK_EQ(xenpv_spin_on(&of_thread[i]), limit > 0);
    }
    CHECK_EQ(turn.holders, limit ? QUEUES : 0);
    for (uint32_t i = 0; i < QUEUES; i++) {
        CHECK_EQ(xenpv_spin_on(&others[last]), 0);
        xenpv_spin_found(&of_thread[i]);
    }
    CHECK_EQ(xenpv_spin_on(&others[last]), limit > 0);
    for (uint32_t i = 0; i <= last; i++)
        xenpv_spin_stop(&others[i]);
}
