/* The books of a batch: which slots come next, what is in flight. */
#include <string.h>

#include "api.h"
#include "harness.h"

#define DEPTH 7u
#define OWNER 5u
#define BLOCK 4096u

static struct xenpv_batch_slot slots[DEPTH];
static uint32_t order[DEPTH];
static uint64_t sectors[DEPTH];
static struct xenpv_io submitted[DEPTH], done[DEPTH], ios[DEPTH];
static struct xenpv_batch batch = { .depth = DEPTH, .owner = OWNER, .slots = slots, .order = order, .sectors = sectors,
                                    .submitted = submitted, .done = done };

static void begin(void)
{
    uint32_t pages[DEPTH];

    for (uint32_t i = 0; i < DEPTH; i++)
        pages[i] = 100 + i;
    xenpv_batch_init(&batch, BLOCK, pages);
}

/* `count` reads of sectors that rise from `sector`. */
static void read_from(uint64_t sector, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        sectors[i] = sector + i;
    xenpv_batch_submit(&batch, 0, count);
}

TEST(records_of_a_batch_name_their_slot_and_its_page)
{
    begin();
    read_from(40, 3);
    for (uint32_t i = 0; i < 3; i++) {
        CHECK_EQ(submitted[i].cookie, (uint64_t)OWNER << 32 | i);
        CHECK_EQ(submitted[i].sector, 40 + i);
        CHECK_EQ(submitted[i].page, 100 + i);
        CHECK_EQ(submitted[i].bytes, BLOCK);
        CHECK_EQ(submitted[i].flags, 0);
    }
    CHECK_EQ(batch.free, DEPTH - 3);
}

TEST(slots_of_a_batch_are_used_in_the_order_in_which_they_were_done)
{
    static const uint32_t ended[DEPTH] = { 4, 0, 6, 2, 1, 5, 3 };
    uint32_t next[DEPTH];

    begin();
    read_from(0, DEPTH);
    for (uint32_t i = 0; i < DEPTH; i++)
        done[i] = slots[ended[i]].io;
    xenpv_batch_done(&batch, 0, 3);
    xenpv_batch_done(&batch, 3, 4);
    xenpv_batch_next(&batch, next, DEPTH);
    CHECK(!memcmp(next, ended, sizeof ended));
    read_from(0, DEPTH);
    for (uint32_t i = 0; i < DEPTH; i++)
        CHECK_EQ((uint32_t)submitted[i].cookie, ended[i]);
}

TEST(failures_of_an_exchange_are_counted_and_their_slots_are_free)
{
    begin();
    read_from(0, 4);
    memcpy(done, submitted, sizeof done);
    done[1].status = -1;
    done[3].status = -2;
    xenpv_batch_done(&batch, 0, 2);
    CHECK_EQ(batch.failed, 1);
    xenpv_batch_done(&batch, 2, 2);
    CHECK_EQ(batch.failed, 2);
    CHECK_EQ(batch.free, DEPTH);
    read_from(0, 1);
    done[0] = submitted[0];
    xenpv_batch_done(&batch, 0, 1);
    CHECK_EQ(batch.failed, 0);
}

TEST(what_is_anothers_leaves_the_books_as_they_were)
{
    begin();
    read_from(0, 3);
    memcpy(done, submitted, sizeof done);
    done[2].cookie = (uint64_t)(OWNER + 1) << 32;
    xenpv_batch_done(&batch, 0, 3);
    CHECK_EQ(batch.strange, 1);
    CHECK_EQ(batch.free, DEPTH - 3);
    CHECK_EQ(xenpv_batch_unanswered(&batch, ios), 3);
    xenpv_batch_done(&batch, 0, 2);
    CHECK_EQ(batch.strange, 0);
    CHECK_EQ(batch.free, DEPTH - 1);
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

            done[0] = ios[which];
            xenpv_batch_done(&batch, 0, 1);
            count--;
            memmove(&ios[which], &ios[which + 1], (count - which) * sizeof *ios);
            memmove(&in_flight[which], &in_flight[which + 1], (count - which) * sizeof *in_flight);
        }
        CHECK_EQ(batch.free, DEPTH - count);
    }
}
