/* Looks that follow the kernel's tick, here a made-up kernel's: it counts `behind` after what its coarse clock then says. */
#include "aim.h"
#include "harness.h"

#define TICK_NS 4000000u

static uint64_t random_state;

static uint64_t random_below(uint64_t limit)
{
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (random_state >> 33) % limit;
}

/* What the coarse clock says at `now`. */
static uint64_t coarse_at(uint64_t now, uint64_t behind)
{
    return (now - behind) / TICK_NS * TICK_NS;
}

struct found {
    uint32_t looks, ticks, skipped;
    uint64_t late_ns; /* all of them, from the kernel's tick to the look that saw it */
};

/* So many looks; each wakes a little late, and `drift` (ns a look) moves the kernel's tick. */
static struct found follow(struct xenpv_aim *aim, uint64_t *now, double *behind, double drift, uint32_t looks)
{
    struct found found = {0};

    for (; found.looks < looks; found.looks++) {
        uint64_t coarse = coarse_at(*now, (uint64_t)*behind), last = aim->last;

        if (last && coarse != last) {
            found.ticks++;
            found.skipped += coarse != last + TICK_NS;
            found.late_ns += *now - (coarse + (uint64_t)*behind);
        }
        *now = xenpv_aim_next(aim, TICK_NS, coarse, *now) + 1000 + random_below(9000);
        *behind += drift;
    }
    return found;
}

static void followed(double behind, double drift)
{
    struct xenpv_aim aim = {0};
    uint64_t now = 1000000000u + (uint64_t)behind;

    random_state = (uint64_t)behind;
    follow(&aim, &now, &behind, drift, 300); /* it finds the tick */
    struct found found = follow(&aim, &now, &behind, drift, 20000);
    CHECK_EQ(found.skipped, 0);
    CHECK(found.looks * 100u <= found.ticks * 106u);
    CHECK(found.late_ns / found.ticks < 25000);
}

TEST(one_look_a_tick_wherever_the_kernel_counts)
{
    for (uint64_t behind = 0; behind < TICK_NS; behind += 130001)
        followed((double)behind, 0);
}

TEST(a_tick_that_drifts_is_followed)
{
    followed(500000, 40);
    followed(2500000, -40);
}

/* One tick that the kernel counts late does not make us late for long. */
TEST(a_kernel_that_stood_still_for_once_is_forgotten)
{
    for (double stall = 200000; stall < 3 * TICK_NS; stall += 900000) {
        struct xenpv_aim aim = {0};
        uint64_t now = 1000000000u;
        double behind = 600000, late = behind + stall;

        random_state = 7;
        follow(&aim, &now, &behind, 0, 300);
        follow(&aim, &now, &late, 0, 30);
        follow(&aim, &now, &behind, 0, 200);
        struct found found = follow(&aim, &now, &behind, 0, 500);
        CHECK_EQ(found.skipped, 0);
        CHECK(found.late_ns / found.ticks < 25000);
    }
}

TEST(to_be_woken_for_something_else_changes_nothing)
{
    struct xenpv_aim aim = {0};
    uint64_t due = xenpv_aim_next(&aim, TICK_NS, 8 * TICK_NS, 8 * TICK_NS + 100);

    CHECK_EQ(due, 9u * TICK_NS);
    for (uint64_t now = 8 * TICK_NS + 200; now < due; now += 400000)
        CHECK_EQ(xenpv_aim_next(&aim, TICK_NS, 8 * TICK_NS, now), due);
    CHECK_EQ(aim.early, 0);
}

/* A look that comes very late, as on a machine that was asleep, is no reason to wait for what is past. */
TEST(the_next_look_is_never_in_the_past)
{
    struct xenpv_aim aim = {0};
    uint64_t now = 8 * TICK_NS + 100;

    random_state = 5;
    for (int i = 0; i < 10000; i++) {
        uint64_t due = xenpv_aim_next(&aim, TICK_NS, coarse_at(now, 700000), now);
        CHECK(due > now);
        now = due + random_below(3 * TICK_NS);
    }
}
