/* Who may spin: a bounded count of threads, for a bounded time, and nobody for whom it does not pay. */
#include <string.h>

#include "queue.h"
#include "spin.h"

#define LONG_NS 2000000000u

/* How many spins can begin now; they are given back. */
static uint32_t free_turns(void)
{
    static struct xenpv_spin spin[64];
    uint32_t count = 0, limit = xenpv_spin_limit() < 63 ? xenpv_spin_limit() + 1 : 64;

    for (uint32_t i = 0; i < limit; i++) {
        xenpv_spin_init(&spin[i], LONG_NS);
        count += (uint32_t)xenpv_spin_on(&spin[i]);
    }
    for (uint32_t i = 0; i < limit; i++)
        xenpv_spin_stop(&spin[i]);
    return count;
}

TEST(at_most_the_limit_spins_at_once)
{
    for (int i = 0; i < 3; i++)
        CHECK_EQ(free_turns(), xenpv_spin_limit() < 64 ? xenpv_spin_limit() : 64);
}

TEST(no_budget_no_spin)
{
    struct xenpv_spin spin;

    xenpv_spin_init(&spin, 0);
    CHECK_EQ(xenpv_spin_on(&spin), 0);
    CHECK_EQ(spin.spins, 0);
}

TEST(futile_spins_stop_and_short_sleeps_bring_them_back)
{
    struct xenpv_spin spin;

    if (!xenpv_spin_limit())
        return; /* one CPU: nobody spins, which at_most_the_limit_spins_at_once checks */
    xenpv_spin_init(&spin, 1000);
    for (uint32_t i = 0; i < 100; i++)
        while (xenpv_spin_on(&spin))
            ;
    CHECK(spin.spins >= 1 && spin.spins <= 8);
    CHECK_EQ(spin.spins_futile, spin.spins);
    CHECK_EQ(xenpv_spin_on(&spin), 0);
    spin.budget = xenpv_cycles_of_ns(LONG_NS); /* so that a sleep of nothing counts as short, however slow we are */
    for (uint32_t i = 0; i < 4; i++) {
        xenpv_spin_slept(&spin);
        xenpv_spin_woke(&spin);
    }
    CHECK_EQ(xenpv_spin_on(&spin), 1);
    xenpv_spin_found(&spin);
    CHECK_EQ(spin.since, 0);
    CHECK_EQ(free_turns(), xenpv_spin_limit() < 64 ? xenpv_spin_limit() : 64);
}

/* A service that was stopped spins no more, and so takes nobody else's turn. */
TEST(a_stopped_service_holds_no_turn)
{
    static struct queue queue;
    uint32_t turns = free_turns();
    int error;

    queue_open(&queue, &(struct queue_options){ .spin_ns = LONG_NS, .inline_io = 1 });
    queue_back(&queue, 0, 8, 0);
    struct xenpv_service *service = xenpv_service_new(XENPV_ENGINE_THREADS, &error);
    CHECK(service != NULL);
    CHECK_EQ(xenpv_service_add(service, queue.back), 0);
    xenpv_service_stop(service);
    CHECK_EQ(xenpv_service_run(service), 0);
    CHECK_EQ(free_turns(), turns);
    CHECK_EQ(xenpv_service_remove(service, queue.back), 0);
    xenpv_service_free(service);
    queue_close(&queue);
}
