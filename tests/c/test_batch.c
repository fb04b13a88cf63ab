/* The books of a batch: which slots come next, what is in flight. */
#include <string.h>

#include "api.h"
#include "harness.h"

#define DEPTH 7u
#define OWNER 5u
#define BLOCK 4096u

static struct xenpv_batch batch;
static struct xenpv_batch_slot slots[DEPTH];
static uint32_t order[DEPTH];
static struct xenpv_io ios[DEPTH];

static void begin(void)
{
    uint32_t pages[DEPTH];

    for (uint32_t i = 0; i < DEPTH; i++)
        pages[i] = 100 + i;
    xenpv_batch_init(&batch, DEPTH, OWNER, BLOCK, pages, slots, order);
}

/* `count` reads of sectors that rise from `sector`; their records in `ios`. */
static void read_from(uint64_t sector, uint32_t count)
{
    uint64_t sectors[DEPTH];

    for (uint32_t i = 0; i < count; i++)
        sectors[i] = sector + i;
    xenpv_batch_submit(&batch, 0, sectors, ios, count);
}

static struct xenpv_io record_of(uint32_t slot)
{
    return slots[slot].io;
}

TEST(records_of_a_batch_name_their_slot_and_its_page)
{
    begin();
    read_from(40, 3);
    for (uint32_t i = 0; i < 3; i++) {
        CHECK_EQ(ios[i].cookie, (uint64_t)OWNER << 32 | i);
        CHECK_EQ(ios[i].sector, 40 + i);
        CHECK_EQ(ios[i].page, 100 + i);
        CHECK_EQ(ios[i].bytes, BLOCK);
        CHECK_EQ(ios[i].flags, 0);
    }
    CHECK_EQ(batch.free, DEPTH - 3);
}

TEST(slots_of_a_batch_are_used_in_the_order_in_which_they_were_done)
{
    static const uint32_t done[DEPTH] = { 4, 0, 6, 2, 1, 5, 3 };
    struct xenpv_io answers[DEPTH];
    uint32_t next[DEPTH];

    begin();
    read_from(0, DEPTH);
    for (uint32_t i = 0; i < DEPTH; i++)
        answers[i] = record_of(done[i]);
    CHECK_EQ(xenpv_batch_done(&batch, answers, 3), 0);
    CHECK_EQ(xenpv_batch_done(&batch, answers + 3, 4), 0);
    xenpv_batch_next(&batch, next, DEPTH);
    CHECK(!memcmp(next, done, sizeof done));
    read_from(0, DEPTH);
    for (uint32_t i = 0; i < DEPTH; i++)
        CHECK_EQ((uint32_t)ios[i].cookie, done[i]);
}

TEST(failures_in_a_batch_are_counted_and_their_slots_are_free)
{
    begin();
    read_from(0, 4);
    ios[1].status = -1;
    ios[3].status = -2;
    CHECK_EQ(xenpv_batch_done(&batch, ios, 4), 2);
    CHECK_EQ(batch.free, DEPTH);
}

TEST(what_is_not_the_batchs_changes_nothing)
{
    begin();
    read_from(0, 3);
    ios[2].cookie = (uint64_t)(OWNER + 1) << 32;
    CHECK_EQ(xenpv_batch_done(&batch, ios, 3), -1);
    CHECK_EQ(batch.free, DEPTH - 3);
    CHECK_EQ(xenpv_batch_unanswered(&batch, ios), 3);
}

TEST(what_a_batch_has_in_flight_is_told_in_the_order_of_submission)
{
    struct test_random random = { 11 };
    uint64_t sector = 0, in_flight[DEPTH];
    uint32_t count = 0;

    begin();
    for (int turn = 0; turn < 5000; turn++) {
        uint32_t more = test_random(&random, DEPTH - count + 1), less;

        read_from(sector, more);
        for (uint32_t i = 0; i < more; i++)
            in_flight[count++] = sector++;
        CHECK_EQ(xenpv_batch_unanswered(&batch, ios), count);
        for (uint32_t i = 0; i < count; i++)
            CHECK_EQ(ios[i].sector, in_flight[i]);
        less = test_random(&random, count + 1);
        for (uint32_t i = 0; i < less; i++) { /* one of them at a time, whichever */
            uint32_t which = test_random(&random, count);

            CHECK_EQ(xenpv_batch_done(&batch, &ios[which], 1), 0);
            count--;
            memmove(&ios[which], &ios[which + 1], (count - which) * sizeof *ios);
            memmove(&in_flight[which], &in_flight[which + 1], (count - which) * sizeof *in_flight);
        }
        CHECK_EQ(batch.free, DEPTH - count);
    }
}
