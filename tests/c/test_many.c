/* Many queues of one thread: nobody waits for a neighbour that has more to do, that is slow, or that leaves; and who has
 * nothing to do is left alone. Turns are counted, and seen in the data: no clock is looked at. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "queue.h"
#include "spin.h"

#define SECTORS 1024u
#define QUIET 3
#define TURN 64u  /* service.c's: what a turn may weigh */
#define BATCH 8u  /* and how many requests it takes at once: the last of them may be over the limit */

static struct xenpv_service *service_of(int engine, struct queue **queues, uint32_t count)
{
    int error;
    struct xenpv_service *service = xenpv_service_new(engine, &error);

    CHECK(service != NULL);
    for (uint32_t i = 0; i < count; i++)
        CHECK_EQ(xenpv_service_add(service, queues[i]->back), 0);
    return service;
}

static void let_go(struct xenpv_service *service, struct queue **queues, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        CHECK_EQ(xenpv_service_remove(service, queues[i]->back), 0);
    xenpv_service_free(service);
    for (uint32_t i = 0; i < count; i++)
        queue_close(queues[i]);
}

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
    let_go(service, queues, 1 + QUIET);
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

/* The thread of a service with a slow queue, whose storage is an empty pipe, and a good one. */
struct slow {
    struct queue slow, good;
    struct xenpv_service *service;
    pthread_t thread;
    sem_t ready, leaving;
};

static void *serve_slow(void *argument)
{
    struct slow *s = argument;
    struct queue *queues[] = { &s->slow, &s->good };

    s->service = service_of(XENPV_ENGINE_URING, queues, 2);
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
TEST(slow_storage_keeps_nobody_else_waiting)
{
    static struct slow s;
    static const uint8_t page[XENPV_PAGE_SIZE] = { 0x5a };
    struct raw_response response;
    uint8_t *model;
    int pipe_fds[2], error, fd = disk_open(SECTORS, 0, &model);
    struct xenpv_service *trial = xenpv_service_new(XENPV_ENGINE_URING, &error);

    if (!trial) {
        free(model);
        close(fd);
        return; /* no io_uring here: test_engines.c says so */
    }
    xenpv_service_free(trial);
    CHECK_EQ(pipe(pipe_fds), 0);
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
