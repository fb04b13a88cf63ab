/* The ring's three verbs, in one thread: when a side is told to notify, and what it refuses. */
#include <errno.h>
#include <string.h>

#include "harness.h"
#include "ring.h"

static _Alignas(64) uint8_t page[4096];

static uint32_t get(unsigned at)
{
    uint32_t value;
    memcpy(&value, page + at, 4);
    return value;
}

static void set(unsigned at, uint32_t value)
{
    memcpy(page + at, &value, 4);
}

/* Both ends on a fresh ring whose indices begin at `start`. */
static void both(struct xenpv_ring *front, struct xenpv_ring *back, uint32_t start, int flag)
{
    memset(page, 0xaa, sizeof page);
    xenpv_ring_init(page);
    set(XENPV_REQ_PROD, start);
    set(XENPV_RSP_PROD, start);
    set(XENPV_REQ_EVENT, start + 1);
    set(XENPV_RSP_EVENT, start + 1);
    CHECK_EQ(xenpv_ring_attach(front, page, 4096, 112, 0, flag), 0);
    CHECK_EQ(xenpv_ring_attach(back, page, 4096, 112, 1, flag), 0);
}

TEST(init_leaves_a_fresh_header)
{
    memset(page, 0xff, sizeof page);
    xenpv_ring_init(page);
    CHECK_EQ(get(XENPV_REQ_PROD), 0);
    CHECK_EQ(get(XENPV_RSP_PROD), 0);
    CHECK_EQ(get(XENPV_REQ_EVENT), 1);
    CHECK_EQ(get(XENPV_RSP_EVENT), 1);
    for (unsigned i = 16; i < 64; i++)
        CHECK_EQ(page[i], 0);
    CHECK_EQ(page[64], 0xff);
}

TEST(attach_counts_the_entries)
{
    static _Alignas(64) uint8_t pages[65536];
    static const struct { uint32_t bytes, size, entries; } cases[] = {
        { 4096, 112, 32 }, { 4096, 108, 32 }, { 8192, 112, 64 }, { 16384, 112, 128 }, { 32768, 112, 256 },
        { 65536, 112, 512 }, { 65536, 108, 512 }, { 176, 112, 1 },
    };
    struct xenpv_ring ring;

    for (unsigned i = 0; i < sizeof cases / sizeof *cases; i++) {
        xenpv_ring_init(pages);
        CHECK_EQ(xenpv_ring_attach(&ring, pages, cases[i].bytes, cases[i].size, 1, 0), 0);
        CHECK_EQ(ring.entries, cases[i].entries);
    }
}

TEST(attach_refuses_what_holds_no_ring)
{
    struct xenpv_ring ring;

    xenpv_ring_init(page);
    CHECK_EQ(xenpv_ring_attach(&ring, NULL, 4096, 112, 1, 0), -EINVAL);
    CHECK_EQ(xenpv_ring_attach(&ring, page, 175, 112, 1, 0), -EINVAL);
    CHECK_EQ(xenpv_ring_attach(&ring, page, 4096, 0, 1, 0), -EINVAL);
    CHECK_EQ(xenpv_ring_attach(&ring, page + 2, 4000, 112, 1, 0), -EINVAL);
}

TEST(attach_refuses_impossible_indices)
{
    struct xenpv_ring ring;
    static const uint32_t ahead[] = { 33, 1u << 31, UINT32_MAX };

    for (unsigned i = 0; i < 3; i++)
        for (int back = 0; back < 2; back++) {
            xenpv_ring_init(page);
            set(XENPV_RSP_PROD, 5);
            set(XENPV_REQ_PROD, 5 + ahead[i]);
            CHECK_EQ(xenpv_ring_attach(&ring, page, 4096, 112, back, 0), -EPROTO);
        }
}

TEST(attach_takes_over_a_ring_in_use)
{
    struct xenpv_ring ring;

    xenpv_ring_init(page);
    set(XENPV_REQ_PROD, 4);
    set(XENPV_RSP_PROD, 4u - 32);
    CHECK_EQ(xenpv_ring_attach(&ring, page, 4096, 112, 1, 0), 0);
    CHECK_EQ(xenpv_ring_available(&ring), 32);
    CHECK_EQ(ring.produced, 4u - 32);
}

TEST(attach_runs_whatever_word_was_left)
{
    struct xenpv_ring ring;

    for (uint32_t word = 0; word < 4; word++) {
        xenpv_ring_init(page);
        set(XENPV_BACKEND_WORD, word);
        CHECK_EQ(xenpv_ring_attach(&ring, page, 4096, 112, 1, 1), 0);
        CHECK_EQ(get(XENPV_BACKEND_WORD), word | 1);
        CHECK_EQ(get(XENPV_FRONTEND_WORD), 0);
    }
}

TEST(standard_mode_leaves_the_words_alone)
{
    struct xenpv_ring front, back;

    both(&front, &back, 0, 0);
    set(XENPV_BACKEND_WORD, 0x11111111);
    set(XENPV_FRONTEND_WORD, 0x22222222);
    xenpv_ring_publish(&front, 3);
    CHECK_EQ(xenpv_ring_available(&back), 3);
    back.consumed = 3;
    xenpv_ring_arm(&back);
    xenpv_ring_run(&back);
    xenpv_ring_publish(&back, 3);
    CHECK_EQ(get(XENPV_BACKEND_WORD), 0x11111111);
    CHECK_EQ(get(XENPV_FRONTEND_WORD), 0x22222222);
}

TEST(flag_mode_leaves_the_event_indices_alone)
{
    struct xenpv_ring front, back;

    both(&front, &back, 0, 1);
    set(XENPV_REQ_EVENT, 0x11111111);
    set(XENPV_RSP_EVENT, 0x22222222);
    xenpv_ring_publish(&front, 3);
    back.consumed = 3;
    xenpv_ring_arm(&back);
    xenpv_ring_publish(&back, 3);
    front.consumed = 3;
    xenpv_ring_arm(&front);
    CHECK_EQ(get(XENPV_REQ_EVENT), 0x11111111);
    CHECK_EQ(get(XENPV_RSP_EVENT), 0x22222222);
}

/* Before and after the wrap: a stretch of traffic in which both sides stay within the ring. */
static void traffic(uint32_t start, int flag)
{
    struct xenpv_ring front, back;
    struct test_random r = { start + 1u + (uint32_t)flag };

    both(&front, &back, start, flag);
    for (unsigned i = 0; i < 2000; i++) {
        uint32_t room = 32 - (front.produced - front.consumed), put = room ? test_random(&r, room + 1) : 0;
        xenpv_ring_publish(&front, front.produced + put);
        int64_t n = xenpv_ring_available(&back);
        CHECK_EQ(n, front.produced - back.consumed);
        back.consumed += test_random(&r, (uint32_t)n + 1);
        xenpv_ring_publish(&back, back.produced + test_random(&r, back.consumed - back.produced + 1));
        n = xenpv_ring_available(&front);
        CHECK_EQ(n, back.produced - front.consumed);
        front.consumed += test_random(&r, (uint32_t)n + 1);
        CHECK(xenpv_ring_arm(&back) >= 0);
        xenpv_ring_run(&back);
    }
    CHECK(front.produced != start);
}

TEST(indices_wrap)
{
    static const uint32_t starts[] = { 0, UINT32_MAX - 700, UINT32_MAX, (1u << 31) - 300 };

    for (unsigned i = 0; i < 4; i++)
        for (int flag = 0; flag < 2; flag++)
            traffic(starts[i], flag);
}

/* The frontend's producer index moved to where it cannot be, with `taken` requests taken and not answered. */
static int64_t jump(uint32_t start, int flag, uint32_t taken, uint32_t by)
{
    struct xenpv_ring front, back;

    both(&front, &back, start, flag);
    xenpv_ring_publish(&front, start + taken);
    CHECK_EQ(xenpv_ring_available(&back), taken);
    back.consumed += taken;
    set(XENPV_REQ_PROD, start + taken + by);
    int64_t seen = xenpv_ring_available(&back);
    CHECK_EQ(xenpv_ring_arm(&back), seen);
    return seen;
}

TEST(backend_refuses_impossible_producers)
{
    static const uint32_t starts[] = { 0, 7, UINT32_MAX - 3 };

    for (unsigned i = 0; i < 3; i++)
        for (int flag = 0; flag < 2; flag++)
            for (uint32_t taken = 0; taken <= 32; taken++) {
                CHECK_EQ(jump(starts[i], flag, taken, 33 - taken), -EPROTO);
                CHECK_EQ(jump(starts[i], flag, taken, 1u << 31), -EPROTO);
                for (uint32_t below = 1; below <= 33; below++)
                    CHECK_EQ(jump(starts[i], flag, taken, 0u - below), -EPROTO);
                CHECK_EQ(jump(starts[i], flag, taken, 32 - taken), 32 - taken);
            }
}

TEST(frontend_refuses_impossible_producers)
{
    struct xenpv_ring front, back;

    for (uint32_t asked = 0; asked <= 32; asked++) {
        static const uint32_t starts[] = { 0, UINT32_MAX - 3 };
        for (unsigned i = 0; i < 2; i++) {
            both(&front, &back, starts[i], 0);
            xenpv_ring_publish(&front, starts[i] + asked);
            set(XENPV_RSP_PROD, starts[i] + asked);
            CHECK_EQ(xenpv_ring_available(&front), asked);
            set(XENPV_RSP_PROD, starts[i] + asked + 1); /* an answer to what was never asked */
            CHECK_EQ(xenpv_ring_available(&front), -EPROTO);
            set(XENPV_RSP_PROD, starts[i] - 1);
            CHECK_EQ(xenpv_ring_available(&front), -EPROTO);
            set(XENPV_RSP_PROD, starts[i] + (1u << 31));
            CHECK_EQ(xenpv_ring_available(&front), -EPROTO);
        }
    }
}

TEST(event_index_notifies_when_it_is_crossed)
{
    struct xenpv_ring front, back;

    for (uint32_t start = UINT32_MAX - 2; start != 3; start++) {
        both(&front, &back, start, 0);
        CHECK_EQ(xenpv_ring_publish(&front, start + 1), 1);
        CHECK_EQ(xenpv_ring_publish(&front, start + 2), 0); /* not armed again */
        back.consumed = start + 2;
        CHECK_EQ(xenpv_ring_arm(&back), 0);
        CHECK_EQ(xenpv_ring_publish(&front, start + 5), 1); /* crossed in the middle */
        CHECK_EQ(xenpv_ring_publish(&front, start + 5), 0); /* nothing new */
        CHECK_EQ(front.notifications, 2);
        CHECK_EQ(front.saved, 1);
    }
}

TEST(flag_notifies_once_a_sleep)
{
    struct xenpv_ring front, back;

    both(&front, &back, 0, 1);
    CHECK_EQ(xenpv_ring_publish(&front, 1), 0); /* the backend has attached: RUNNING */
    back.consumed = 1;
    CHECK_EQ(xenpv_ring_arm(&back), 0);
    CHECK_EQ(xenpv_ring_publish(&front, 2), 1);
    CHECK_EQ(xenpv_ring_publish(&front, 3), 0);
    CHECK_EQ(xenpv_ring_arm(&back), 2); /* armed twice, changed once */
    CHECK_EQ(get(XENPV_BACKEND_WORD), 2);
    xenpv_ring_run(&back);
    CHECK_EQ(get(XENPV_BACKEND_WORD), 3);
    CHECK_EQ(xenpv_ring_publish(&front, 4), 0);
    back.consumed = 4;
    CHECK_EQ(xenpv_ring_arm(&back), 0);
    CHECK_EQ(xenpv_ring_publish(&front, 5), 1); /* another sleep, another notification */
}

TEST(flag_word_zero_is_notified_for)
{
    struct xenpv_ring front;

    xenpv_ring_init(page);
    CHECK_EQ(xenpv_ring_attach(&front, page, 4096, 112, 0, 1), 0);
    CHECK_EQ(xenpv_ring_publish(&front, 1), 1); /* nobody is attached there yet: 0 is SLEEPING like any even word */
    CHECK_EQ(xenpv_ring_publish(&front, 2), 0);
}

TEST(flag_word_wraps)
{
    struct xenpv_ring front, back;

    xenpv_ring_init(page);
    set(XENPV_BACKEND_WORD, UINT32_MAX - 1);
    CHECK_EQ(xenpv_ring_attach(&front, page, 4096, 112, 0, 1), 0);
    CHECK_EQ(xenpv_ring_attach(&back, page, 4096, 112, 1, 1), 0);
    CHECK_EQ(get(XENPV_BACKEND_WORD), UINT32_MAX);
    CHECK_EQ(xenpv_ring_arm(&back), 0);
    CHECK_EQ(get(XENPV_BACKEND_WORD), 0);
    CHECK_EQ(xenpv_ring_publish(&front, 1), 1);
}

TEST(own_word_is_not_read_back)
{
    struct xenpv_ring front, back;

    both(&front, &back, 0, 1);
    set(XENPV_BACKEND_WORD, 0x77); /* the frontend may write it, to its own loss */
    CHECK_EQ(xenpv_ring_arm(&back), 0);
    CHECK_EQ(get(XENPV_BACKEND_WORD), 2);
}
