/* The engines where things go wrong: older kernels, a kernel that says no, a file that was cut short, signals. The core's raw
 * system calls come through here (ld's --wrap), so that a test can answer them like another kernel. */
#include <errno.h>
#include <fcntl.h>
#include <linux/io_uring.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "queue.h"

#define SECTORS 8192u

static unsigned refused_flags;        /* of io_uring_setup: EINVAL, as from a kernel that does not know them */
static int setup_error;               /* of io_uring_setup, whatever it asks */
static _Atomic int setups_until_error = -1; /* so many go well before setup_error */
static _Atomic int failing_enters;    /* io_uring_enter: EAGAIN so many times */
static int leaving;                   /* io_uring_enter that submits leaves something to do, which the next one does */
static int stale;                     /* io_uring_enter leaves the flag of something to do, for ever */
static _Atomic uint32_t enters;       /* calls of io_uring_enter */
static uint32_t sq_flags_at;          /* in the ring made last */
static long handed[16];               /* how many requests each io_uring_enter that submits has handed over */
static uint32_t handed_count;

long __real_syscall(long number, long a, long b, long c, long d, long e, long f);
long __wrap_syscall(long number, long a, long b, long c, long d, long e, long f);

/* The kernel has work for the thread that is not the end of a request: a worker of its pool went, say. */
static long enter_and_leave(long a, long b, long c, long d, long e, long f)
{
    uint8_t *ring = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, (int)a, IORING_OFF_SQ_RING);

    CHECK(ring != MAP_FAILED);
    _Atomic uint32_t *flags = (_Atomic uint32_t *)(void *)(ring + sq_flags_at);
    if (!stale)
        atomic_fetch_and(flags, ~IORING_SQ_TASKRUN);
    long result = __real_syscall(__NR_io_uring_enter, a, b, c, d, e, f);
    if (b || stale)
        atomic_fetch_or(flags, IORING_SQ_TASKRUN);
    munmap(ring, 4096);
    return result;
}

long __wrap_syscall(long number, long a, long b, long c, long d, long e, long f)
{
    int error = 0;

    if (number == __NR_io_uring_setup) {
        if (setup_error && setups_until_error-- <= 0)
            error = setup_error;
        else if (((const struct io_uring_params *)b)->flags & refused_flags)
            error = EINVAL;
    } else if (number == __NR_io_uring_enter && failing_enters > 0) {
        failing_enters--;
        error = EAGAIN;
    }
    if (error) {
        errno = error;
        return -1;
    }
    if (number == __NR_io_uring_enter && b && handed_count < sizeof handed / sizeof *handed)
        handed[handed_count++] = b;
    enters += number == __NR_io_uring_enter;
    if (number == __NR_io_uring_enter && (leaving || stale))
        return enter_and_leave(a, b, c, d, e, f);
    long result = __real_syscall(number, a, b, c, d, e, f);
    if (number == __NR_io_uring_setup && result >= 0)
        sq_flags_at = ((const struct io_uring_params *)b)->sq_off.flags;
    return result;
}

struct served {
    struct queue queue;
    struct server server;
    uint8_t *model;
    int fd;
};

static void begin(struct served *s, int engine, const struct queue_options *options)
{
    struct queue *queues[] = { &s->queue };

    s->fd = disk_open(SECTORS, options->inline_io != 0, &s->model);
    queue_open(&s->queue, options);
    queue_back(&s->queue, s->fd, SECTORS, 0);
    server_start(&s->server, engine, queues, 1);
}

static void end(struct served *s)
{
    server_stop(&s->server);
    if (s->queue.front)
        CHECK_EQ(xenpv_front_stats(s->queue.front)->rescues, 0);
    queue_close(&s->queue);
    disk_check(s->fd, s->model, SECTORS);
}

static void exercised(int engine, const struct queue_options *options)
{
    static struct served s;

    begin(&s, engine, options);
    queue_front(&s.queue);
    queue_exercise(&s.queue, s.model, SECTORS, 300, 8, 4, 5);
    end(&s);
}

/* A flush with data, alone in flight: its second half must not wait for anything else to happen. */
static void flush_with_data(int engine)
{
    static struct served s;
    struct raw_response response;

    begin(&s, engine, &(struct queue_options){ .flag = 1 });
    queue_raw(&s.queue);
    for (uint32_t i = 0; i < 10; i++) {
        struct raw_request request = raw_page(XENPV_OP_FLUSH, i, 8 * i, i);
        memset(queue_page(&s.queue, i), (int)i + 1, 4096);
        memset(s.model + 4096 * i, (int)i + 1, 4096);
        raw_put(&s.queue, &request);
        raw_wait(&s.queue, &response);
        CHECK_EQ(response.id, i);
        CHECK_EQ(response.status, XENPV_RSP_OKAY);
    }
    s.queue.front = NULL;
    end(&s);
}

TEST(a_kernel_without_deferred_task_work)
{
    refused_flags = IORING_SETUP_DEFER_TASKRUN;
    exercised(XENPV_ENGINE_URING, &(struct queue_options){ .flag = 1 });
    flush_with_data(XENPV_ENGINE_URING);
}

TEST(a_kernel_without_any_setup_flag)
{
    refused_flags = ~0u;
    exercised(XENPV_ENGINE_URING, &(struct queue_options){ .flag = 1 });
    flush_with_data(XENPV_ENGINE_URING);
}

TEST(a_kernel_that_forbids_io_uring)
{
    struct xenpv_service *service;
    int error = 0;

    setup_error = EPERM;
    setups_until_error = 0;
    CHECK(xenpv_service_new(XENPV_ENGINE_URING, &error) == NULL);
    CHECK_EQ(error, EPERM);
    service = xenpv_service_new(XENPV_ENGINE_AUTO, &error);
    CHECK(service != NULL);
    CHECK_EQ(error, 0);
    CHECK(strcmp(xenpv_service_engine(service), "threads") == 0);
    xenpv_service_free(service);
    exercised(XENPV_ENGINE_AUTO, &(struct queue_options){ .flag = 1 });
}

TEST(io_uring_that_can_not_be_had_again_is_done_without)
{
    setup_error = ENOMEM;
    setups_until_error = 1; /* the trial goes well */
    exercised(XENPV_ENGINE_URING, &(struct queue_options){ .flag = 1 });
}

/* The kernel may be short of memory for a moment; nothing else then wakes a lone request. */
static void enters_fail(int depth)
{
    static struct served s;

    begin(&s, XENPV_ENGINE_URING, &(struct queue_options){ .flag = 1 });
    queue_front(&s.queue);
    for (int i = 0; i < 8; i++) {
        failing_enters = 1 + i;
        queue_exercise(&s.queue, s.model, SECTORS, 20, (uint32_t)depth, 2, (uint64_t)i);
    }
    end(&s);
}

TEST(submissions_that_fail_are_made_again)
{
    enters_fail(1);
    enters_fail(8);
}

/* Work that is left when every request was answered must be done before the thread can sleep, and sees the next request. */
TEST(work_that_ends_no_request_is_done_before_sleep)
{
    static struct served s;

    leaving = 1;
    begin(&s, XENPV_ENGINE_URING, &(struct queue_options){ .flag = 1 });
    queue_front(&s.queue);
    for (uint32_t i = 0; i < 10; i++) /* from the page cache: each ends in the call that submits it */
        CHECK_EQ(queue_io(&s.queue, XENPV_OP_READ, 8 * i, 4096, 0), XENPV_RSP_OKAY);
    end(&s);
}

/* The kernel may say for ever that there is something to do, when there is not. */
TEST(a_flag_that_stays_keeps_nobody_from_sleep)
{
    static struct served s;

    stale = 1;
    begin(&s, XENPV_ENGINE_URING, &(struct queue_options){ .flag = 1 });
    queue_front(&s.queue);
    for (uint32_t i = 0; i < 10; i++) {
        CHECK_EQ(queue_io(&s.queue, XENPV_OP_READ, 8 * i, 4096, 0), XENPV_RSP_OKAY);
        usleep(2000); /* time to do wrong in */
    }
    CHECK(enters < 10 * 300);
    end(&s);
}

/* A device that waits begins with the first of many while the kernel still works on the others. */
TEST(many_requests_are_handed_over_in_growing_parts)
{
    static struct served s;
    struct raw_response response;

    s.fd = disk_open(SECTORS, 0, &s.model);
    queue_open(&s.queue, &(struct queue_options){ .flag = 1 });
    queue_raw(&s.queue);
    for (uint32_t i = 0; i < 16; i++) {
        struct raw_request request = raw_page(XENPV_OP_READ, i, 8 * i, i);
        raw_put(&s.queue, &request);
    }
    queue_back(&s.queue, s.fd, SECTORS, 0);
    struct queue *queues[] = { &s.queue };
    server_start(&s.server, XENPV_ENGINE_URING, queues, 1);
    for (uint32_t i = 0; i < 16; i++) {
        raw_wait(&s.queue, &response);
        CHECK_EQ(response.status, XENPV_RSP_OKAY);
    }
    s.queue.front = NULL;
    end(&s);
    CHECK_EQ(handed_count, 4);
    CHECK_EQ(handed[0], 2);
    CHECK_EQ(handed[1], 4);
    CHECK_EQ(handed[2], 8);
    CHECK_EQ(handed[3], 2);
}

/* More than the completion queue holds, from two queues. */
TEST(more_in_flight_than_the_completion_queue_holds)
{
    static struct queue queues[2], *both[] = { &queues[0], &queues[1] };
    struct xenpv_io submit[POOL_PAGES], done[POOL_PAGES];
    struct server server;
    uint8_t *model;
    int fd = disk_open(SECTORS, 0, &model);

    for (int i = 0; i < 2; i++) {
        queue_open(&queues[i], &(struct queue_options){ .order = 4, .max_ios = POOL_PAGES, .flag = 1 });
        queue_front(&queues[i]);
        queue_back(&queues[i], fd, SECTORS, 0);
    }
    server_start(&server, XENPV_ENGINE_URING, both, 2);
    for (uint32_t i = 0; i < POOL_PAGES; i++)
        submit[i] = (struct xenpv_io){ .sector = 8 * i, .bytes = 4096, .page = i, .op = XENPV_OP_READ };
    for (int round = 0; round < 4; round++) {
        uint32_t accepted;
        for (int i = 0; i < 2; i++) {
            CHECK(xenpv_front_exchange(queues[i].front, submit, POOL_PAGES, &accepted, done, 0, 0, 0, -1) == 0);
            CHECK_EQ(accepted, POOL_PAGES);
        }
        for (int i = 0; i < 2; i++) {
            CHECK_EQ(xenpv_front_exchange(queues[i].front, NULL, 0, &accepted, done, POOL_PAGES, POOL_PAGES, -1, -1),
                     POOL_PAGES);
            CHECK(memcmp(queue_page(&queues[i], 0), model, POOL_PAGES * 4096) == 0);
        }
    }
    server_stop(&server);
    for (int i = 0; i < 2; i++) {
        CHECK_EQ(xenpv_front_stats(queues[i].front)->rescues, 0);
        queue_close(&queues[i]);
    }
    disk_check(fd, model, SECTORS);
}

/* The image is cut short under us: an error, and not a hang nor old bytes. */
static void cut_short(int engine, int inline_io)
{
    static struct served s;

    begin(&s, engine, &(struct queue_options){ .inline_io = (uint32_t)inline_io });
    queue_front(&s.queue);
    CHECK_EQ(queue_io(&s.queue, XENPV_OP_READ, 8, 8 * 4096, 0), XENPV_RSP_OKAY);
    CHECK_EQ(ftruncate(s.fd, 12 * 512), 0);
    CHECK_EQ(queue_io(&s.queue, XENPV_OP_READ, 8, 8 * 4096, 0), XENPV_RSP_ERROR); /* begins in the file */
    CHECK_EQ(queue_io(&s.queue, XENPV_OP_READ, 16, 4096, 0), XENPV_RSP_ERROR);
    CHECK_EQ(queue_io(&s.queue, XENPV_OP_READ, 4, 4096, 0), XENPV_RSP_OKAY); /* ends with it */
    CHECK_EQ(s.queue.stats.errors, 2);
    CHECK_EQ(s.queue.stats.refused, 0);
    CHECK_EQ(pwrite(s.fd, s.model, SECTORS * 512, 0), SECTORS * 512);
    end(&s);
}

TEST(a_file_cut_short_is_an_error)
{
    cut_short(XENPV_ENGINE_URING, 0);
    cut_short(XENPV_ENGINE_THREADS, 0);
    cut_short(XENPV_ENGINE_AUTO, 1);
}

/* A descriptor that fails everything: every request is answered with an error. */
static void bad_descriptor(int engine)
{
    static struct served s;
    int broken = open("/", O_PATH), keep;

    begin(&s, engine, &(struct queue_options){ 0 });
    queue_front(&s.queue);
    keep = dup(s.fd);
    CHECK_EQ(dup2(broken, s.fd), s.fd); /* nothing works on a path alone */
    for (uint32_t i = 0; i < 5; i++) {
        CHECK(queue_io(&s.queue, XENPV_OP_READ, 8, 8 * 4096, 0) != XENPV_RSP_OKAY);
        CHECK(queue_io(&s.queue, XENPV_OP_WRITE, 8, 100 * 4096, 0) != XENPV_RSP_OKAY);
        CHECK(queue_io(&s.queue, XENPV_OP_FLUSH, 0, 0, 0) != XENPV_RSP_OKAY);
        CHECK(queue_io(&s.queue, XENPV_OP_DISCARD, 0, 4096, 0) != XENPV_RSP_OKAY);
    }
    CHECK_EQ(dup2(keep, s.fd), s.fd);
    close(keep);
    close(broken);
    end(&s);
}

TEST(storage_that_fails_everything)
{
    bad_descriptor(XENPV_ENGINE_URING);
    bad_descriptor(XENPV_ENGINE_THREADS);
}

static void nothing(int number)
{
    (void)number;
}

static void *signals(void *argument)
{
    struct served *s = argument;

    for (int i = 0; i < 400; i++) {
        pthread_kill(s->server.thread, SIGUSR1);
        usleep(100);
    }
    return NULL;
}

/* Signals to the service's thread while it works and sleeps. */
static void interrupted(int engine, uint32_t inline_io)
{
    static struct served s;
    struct sigaction action = { .sa_handler = nothing }; /* without SA_RESTART */
    pthread_t thread;

    sigaction(SIGUSR1, &action, NULL);
    begin(&s, engine, &(struct queue_options){ .flag = 1, .inline_io = inline_io });
    queue_front(&s.queue);
    CHECK_EQ(pthread_create(&thread, NULL, signals, &s), 0);
    queue_exercise(&s.queue, s.model, SECTORS, 400, 4, 4, 6);
    pthread_join(thread, NULL);
    end(&s);
}

TEST(signals_lose_nothing)
{
    interrupted(XENPV_ENGINE_URING, 0);
    interrupted(XENPV_ENGINE_THREADS, 0);
    interrupted(XENPV_ENGINE_AUTO, 1);
}
