/* A clock of looks and of cycles between them. The counter here is the test's: `rate` cycles a nanosecond. */
#include <string.h>

#include "clock.h"
#include "counted.h"
#include "harness.h"
#include "spin.h"
#include "stamp.h"

#define MS 1000000u

static struct xenpv_counted counted;
static uint64_t cycles, ns;
static double rate;

static void pass(uint64_t more)
{
    ns += more;
    cycles += (uint64_t)((double)more * rate);
}

static uint64_t look(void)
{
    return xenpv_counted_look(&counted, cycles, ns, cycles);
}

static void begin(double cycles_a_ns)
{
    memset(&counted, 0, sizeof counted);
    cycles = 17;
    ns = 5000;
    rate = cycles_a_ns;
    for (int i = 0; i < 2; i++, pass(MS))
        CHECK_EQ(look(), ns);
}

static int64_t error_of_now(void)
{
    uint64_t told = 0;

    CHECK_EQ(xenpv_counted_now(&counted, cycles, &told), 1);
    return (int64_t)(told - ns);
}

TEST(until_the_rate_is_known_every_time_is_a_look)
{
    uint64_t told = 0;

    memset(&counted, 0, sizeof counted);
    cycles = ns = 1000;
    rate = 2.5;
    for (int i = 0; i < 100; i++, pass(MS / 100)) {
        CHECK_EQ(xenpv_counted_now(&counted, cycles, &told), 0);
        CHECK_EQ(look(), ns);
    }
    CHECK_EQ(xenpv_counted_now(&counted, cycles, &told), 0);
    CHECK_EQ(look(), ns); /* a millisecond later */
    pass(50);
    CHECK(error_of_now() <= 1 && error_of_now() >= -1);
}

TEST(between_looks_the_cycles_tell_the_time_at_any_rate)
{
    static const double rates[] = { 0.024, 1, 2.45, 5.2 };

    for (unsigned i = 0; i < sizeof rates / sizeof *rates; i++) {
        begin(rates[i]);
        for (int second = 0; second < 3000; second++) {
            look();
            for (int step = 0; step < 9; step++) {
                pass(11001);
                CHECK(error_of_now() <= 50 && error_of_now() >= -50); /* a cycle of the slowest is 42 ns */
            }
            pass(3 * MS);
        }
    }
}

TEST(after_a_while_a_look_is_due)
{
    uint64_t told = 0;

    begin(2);
    look();
    pass(XENPV_COUNTED_NS - 1);
    CHECK_EQ(xenpv_counted_now(&counted, cycles, &told), 1);
    pass(2);
    CHECK_EQ(xenpv_counted_now(&counted, cycles, &told), 0);
}

TEST(a_counter_that_jumps_is_looked_past)
{
    static const int64_t jumps[] = { -1, -1000000, 200001, INT64_MAX };
    uint64_t told = 0;

    for (unsigned i = 0; i < sizeof jumps / sizeof *jumps; i++) {
        begin(2);
        look();
        cycles += (uint64_t)jumps[i];
        CHECK_EQ(xenpv_counted_now(&counted, cycles, &told), 0);
        CHECK_EQ(look(), ns);
        for (int k = 0; k < 3; k++, pass(2 * MS))
            look();
        look();
        pass(99);
        CHECK(error_of_now() <= 1 && error_of_now() >= -1);
    }
}

TEST(another_rate_is_found_out_and_taken)
{
    uint64_t told = 0;

    begin(2);
    look();
    rate = 3; /* another machine */
    pass(2 * MS);
    CHECK_EQ(look(), ns);
    pass(10);
    CHECK_EQ(xenpv_counted_now(&counted, cycles, &told), 0); /* distrusted */
    pass(2 * MS);
    look();
    pass(999);
    CHECK(error_of_now() <= 1 && error_of_now() >= -1);
}

TEST(time_that_was_told_is_not_taken_back)
{
    uint64_t told = 0, last = 0;

    begin(2);
    look();
    pass(90000);
    CHECK_EQ(xenpv_counted_now(&counted, cycles, &last), 1);
    ns -= 500; /* the cycles were fast, by more than they ever are */
    CHECK_EQ(look(), last);
    CHECK_EQ(xenpv_counted_now(&counted, cycles, &told), 1);
    CHECK_EQ(told, last);
}

TEST(a_look_that_was_interrupted_ties_nothing)
{
    uint64_t told = 0;

    begin(2);
    CHECK_EQ(xenpv_counted_look(&counted, cycles, ns, cycles + xenpv_cycles_of_ns(1000 * MS)), ns);
    CHECK_EQ(xenpv_counted_now(&counted, cycles, &told), 0);
    look();
    pass(5);
    CHECK(error_of_now() <= 1 && error_of_now() >= -1);
}

/* This machine's own: what is told lies between two looks of our own, give or take the unit and what a look takes. */
TEST(stamps_are_the_clocks)
{
    struct xenpv_stamper stamper = { .unit = XENPV_STAMP_US, .counts = 1 };
    uint64_t counted_some = 0;

    for (int i = 0; i < 200000; i++) {
        uint64_t before = xenpv_clock_ns(CLOCK_MONOTONIC) / 1000, near = stamper.clock.near;
        struct xenpv_stamp stamp = xenpv_stamp_now(&stamper);
        uint64_t after = xenpv_clock_ns(CLOCK_MONOTONIC) / 1000;
        CHECK((int32_t)(stamp.value - (uint32_t)before) >= -2);
        CHECK((int32_t)(stamp.value - (uint32_t)after) <= 2);
        counted_some += near != 0;
    }
    CHECK(counted_some > 0);
}
