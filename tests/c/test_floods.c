/* Frontends that send events without end, beside one that works: what they may cost it is counted, in events, turns and
 * requests. Each of their events is followed by the next before the backend could look. */
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "queue.h"

#define SECTORS 1024u
#define FLOODS 40u  /* more than one look at the events takes */
#define TURN 64u    /* service.c's: what a turn may weigh */
#define BATCH 8u    /* how many requests it takes at once */
#define LOOK 64u    /* and what requests and turns weigh between two looks */
#define LAST 4u     /* looks when nobody has anything to do, until the last one sees that the run is to end */

static struct queue good, floods[FLOODS], *queues[1 + FLOODS] = { &good };

/* As on Xen: the port is masked, and what comes is kept until it is unmasked. */
static void behind_the_mask(struct fake_domain *domain)
{
    fake_channel_send(domain->channel, FAKE_BACK);
}

/* As on the emulated Xen, where the descriptor is readable again at once. */
static void at_once(struct fake_domain *domain)
{
    uint64_t one = 1;

    CHECK_EQ(write(domain->channel->back_wait, &one, sizeof one), sizeof one);
}

static _Atomic uint32_t *word_at(struct fake_domain *domain, unsigned offset)
{
    return (_Atomic uint32_t *)(void *)(domain->memory + offset);
}

/* And it wants to be notified of each response, whichever way that is asked for, and writes into the backend's words too. */
static void at_once_and_scribbles(struct fake_domain *domain)
{
    atomic_store(word_at(domain, XENPV_FRONTEND_WORD), (atomic_load(word_at(domain, XENPV_FRONTEND_WORD)) | 1) + 1);
    atomic_store(word_at(domain, XENPV_RSP_EVENT), atomic_load(word_at(domain, XENPV_RSP_PROD)) + 1);
    atomic_fetch_add(word_at(domain, XENPV_BACKEND_WORD), 7);
    atomic_fetch_add(word_at(domain, XENPV_REQ_EVENT), 7);
    at_once(domain);
}

/* The good one, with nothing to do, and the floods, each with so many reads; half of them with the flag. */
static struct xenpv_service *flooded(int fd, uint32_t order, void (*hostile)(struct fake_domain *), uint32_t reads)
{
    queue_open(&good, &(struct queue_options){ .order = order, .inline_io = 1, .flag = 1 });
    queue_raw(&good);
    queue_back(&good, fd, SECTORS, 0);
    for (uint32_t i = 0; i < FLOODS; i++) {
        queues[1 + i] = &floods[i];
        queue_open(&floods[i], &(struct queue_options){ .inline_io = 1, .flag = i & 1 });
        queue_raw(&floods[i]);
        for (uint32_t id = 0; id < reads; id++) {
            struct raw_request request = raw_page(XENPV_OP_READ, id, 0, id);
            raw_put(&floods[i], &request);
        }
        queue_back(&floods[i], fd, SECTORS, 0);
        floods[i].domain.hostile = hostile;
        hostile(&floods[i].domain);
    }
    return service_of(XENPV_ENGINE_THREADS, queues, 1 + FLOODS);
}

static void run_once(struct xenpv_service *service)
{
    xenpv_service_stop(service); /* it is seen in a look at the events, so in the second one at the latest */
    CHECK_EQ(xenpv_service_run(service), 0);
}

/* The good one has much to do. In each run it has a whole turn; of each flood one event is taken a look, and no more. */
static void turns_go_on(void (*hostile)(struct fake_domain *), uint32_t reads)
{
    enum { READS = 400 };
    struct raw_response response;
    uint8_t *model;
    int fd = disk_open(SECTORS, 1, &model);
    struct xenpv_service *service = flooded(fd, 4, hostile, reads);

    for (uint32_t i = 0; i < READS; i++) {
        struct raw_request request = raw_page(XENPV_OP_READ, i, 8 * (i % (SECTORS / 8)), i);
        raw_put(&good, &request);
    }
    for (uint64_t served = 0; served < READS; served = good.stats.requests[XENPV_OP_READ]) {
        run_once(service);
        CHECK(good.stats.requests[XENPV_OP_READ] >= (served + TURN < READS ? served + TURN : READS));
    }
    for (uint32_t i = 0; i < READS; i++) {
        CHECK_EQ(raw_get(&good, &response), 1);
        CHECK_EQ(response.id, i);
        CHECK_EQ(response.status, XENPV_RSP_OKAY);
    }
    uint64_t turns = good.stats.batches / (TURN / BATCH) + 1;
    for (uint32_t i = 0; i < FLOODS; i++) {
        const struct xenpv_back_stats *stats = &floods[i].stats;
        CHECK(stats->events > 0 && stats->events <= (READS + FLOODS * (reads + turns)) / LOOK + LAST);
        CHECK(stats->sleeps <= stats->events + 1);
        CHECK_EQ(stats->requests[XENPV_OP_READ], reads);
        CHECK(stats->notifications <= reads);
        CHECK_EQ(stats->halted, 0);
    }
    service_let_go(service, queues, 1 + FLOODS);
    free(model);
    close(fd);
}

TEST(floods_have_one_event_taken_a_look)
{
    turns_go_on(behind_the_mask, 0);
    turns_go_on(at_once, 0);
}

TEST(floods_that_change_their_words_cost_others_nothing_more) { turns_go_on(at_once_and_scribbles, 16); }

/* The good one sleeps after each of its requests, and is woken among the floods. */
static void is_woken(void (*hostile)(struct fake_domain *))
{
    enum { READS = 100 };
    struct raw_response response;
    uint32_t runs = 0;
    uint8_t *model;
    int fd = disk_open(SECTORS, 1, &model);
    struct xenpv_service *service = flooded(fd, 0, hostile, 0);

    for (uint32_t i = 0; i < READS; i++) {
        struct raw_request request = raw_page(XENPV_OP_READ, i, 0, 0);
        uint32_t before = runs;
        raw_put(&good, &request);
        for (; !raw_get(&good, &response); runs++) {
            CHECK(runs < before + 3);
            run_once(service);
        }
        CHECK_EQ(response.id, i);
        CHECK_EQ(response.status, XENPV_RSP_OKAY);
    }
    for (uint32_t i = 0; i < FLOODS; i++)
        CHECK(floods[i].stats.events > 0 && floods[i].stats.events <= LAST * runs);
    service_let_go(service, queues, 1 + FLOODS);
    free(model);
    close(fd);
}

TEST(who_sleeps_is_woken_among_floods)
{
    is_woken(behind_the_mask);
    is_woken(at_once);
}

/* The same with a thread, storage that waits, and data that is looked at. */
static void real_io(int engine)
{
    enum { SOME = 8 };
    struct server server;
    uint8_t *model;
    int fd = disk_open(SECTORS, 0, &model);

    queue_open(&good, &(struct queue_options){ .flag = 1 });
    queue_front(&good);
    queue_back(&good, fd, SECTORS, 0);
    for (uint32_t i = 0; i < SOME; i++) {
        queues[1 + i] = &floods[i];
        queue_open(&floods[i], &(struct queue_options){ .flag = i & 1 });
        queue_raw(&floods[i]);
        queue_back(&floods[i], fd, SECTORS, 0);
        floods[i].domain.hostile = at_once_and_scribbles;
        at_once(&floods[i].domain);
    }
    server_start(&server, engine, queues, 1 + SOME);
    queue_exercise(&good, model, SECTORS, 400, 8, 2, 1);
    server_stop(&server);
    CHECK_EQ(server.halted, 0);
    for (uint32_t i = 0; i < SOME; i++) {
        CHECK(floods[i].stats.events > 0);
        CHECK_EQ(floods[i].stats.notifications, 0); /* there was nothing to notify of */
        queue_close(&floods[i]);
    }
    queue_close(&good);
    disk_check(fd, model, SECTORS);
}

TEST(io_goes_on_among_floods) { real_io(XENPV_ENGINE_AUTO); }

TEST(io_goes_on_among_floods_in_threads) { real_io(XENPV_ENGINE_THREADS); }

/* It is told of once, and is not listened to any more until it is removed. */
TEST(a_flood_that_broke_the_rules_wakes_nobody)
{
    struct xenpv_service *service;
    struct raw_response response;
    struct raw_request request = raw_page(XENPV_OP_READ, 5, 0, 0);
    uint8_t *model;
    int fd = disk_open(SECTORS, 1, &model);

    queues[1] = &floods[0];
    for (uint32_t i = 0; i < 2; i++) {
        queue_open(queues[i], &(struct queue_options){ .inline_io = 1 });
        queue_raw(queues[i]);
        queue_back(queues[i], fd, SECTORS, 0);
    }
    service = service_of(XENPV_ENGINE_THREADS, queues, 2);
    floods[0].domain.hostile = at_once;
    atomic_store(word_at(&floods[0].domain, XENPV_REQ_PROD), floods[0].entries + 1);
    CHECK_EQ(xenpv_service_run(service), 1);
    CHECK_EQ(floods[0].stats.halted, 1);
    for (uint32_t i = 0; i < 4; i++) {
        at_once(&floods[0].domain);
        run_once(service);
    }
    CHECK_EQ(floods[0].stats.events, 0);
    raw_put(&good, &request);
    run_once(service);
    run_once(service);
    CHECK_EQ(raw_get(&good, &response), 1);
    CHECK_EQ(response.status, XENPV_RSP_OKAY);
    service_let_go(service, queues, 2);
    free(model);
    close(fd);
}

/* Storage in Python: who waits for the flood's requests has his turn when he is called, or when his time is over; and the queue
 * is left asleep, so that a request wakes it. */
static void next_returns(void (*hostile)(struct fake_domain *), int64_t timeout_ns, int wake_fd)
{
    struct xenpv_request request;
    struct raw_request read = raw_page(XENPV_OP_READ, 1, 0, 0);

    queue_open(&good, &(struct queue_options){ .flag = 1 });
    queue_raw(&good);
    queue_back(&good, -1, SECTORS, 0);
    good.domain.hostile = hostile;
    hostile(&good.domain);
    for (uint32_t i = 0; i < 3; i++) {
        CHECK_EQ(xenpv_back_next(good.back, &request, 1, timeout_ns, wake_fd), 0);
        CHECK_EQ(atomic_load(word_at(&good.domain, XENPV_BACKEND_WORD)) & 1, 0);
        raw_put(&good, &read);
        CHECK_EQ(xenpv_back_next(good.back, &request, 1, -1, wake_fd), 1);
        request.status = XENPV_RSP_OKAY;
        queue_answer(&good, request);
    }
    queue_close(&good);
}

TEST(a_flood_keeps_nobody_who_is_called)
{
    int wake_fd = eventfd(1, EFD_CLOEXEC);

    CHECK(wake_fd >= 0);
    next_returns(behind_the_mask, -1, wake_fd);
    next_returns(at_once, -1, wake_fd);
    close(wake_fd);
}

TEST(a_flood_keeps_nobody_whose_time_is_over)
{
    for (int64_t timeout_ns = 0; timeout_ns <= 1000; timeout_ns += 1000) {
        next_returns(behind_the_mask, timeout_ns, -1);
        next_returns(at_once, timeout_ns, -1);
    }
}
