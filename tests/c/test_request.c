/* What is accepted of a request that a hostile frontend may have written, and what it decodes to. */
#include <string.h>

#include "queue.h"

#define ERROR XENPV_RSP_ERROR
#define NOT_SUPPORTED XENPV_RSP_EOPNOTSUPP

static struct xenpv_back back = {
    .config = { .abi = 64, .sector_size = 512, .sectors = 1000, .flush = 1, .discard = 1 },
};
static struct xenpv_slot slot;

static int check(const struct raw_request *request)
{
    uint8_t raw[XENPV_MAX_REQUEST];

    raw_encode(back.config.abi, request, raw);
    memset(&slot, 0xee, sizeof slot); /* what a slot's last request left must not matter */
    xenpv_blocks_take(&back, &slot, raw);
    return xenpv_request_check(&back, raw, &slot);
}

static struct raw_request one(uint8_t op, uint64_t sector, uint8_t first, uint8_t last)
{
    return (struct raw_request){ .op = op, .count = 1, .id = 0x1122334455667788, .sector = sector,
                                 .segment = { { 0xabcdef01, first, last } } };
}

TEST(every_first_and_last_sector)
{
    for (uint32_t abi = 32; abi <= 64; abi += 32) {
        back.config.abi = abi;
        for (unsigned pair = 0; pair < 65536; pair++) {
            uint8_t first = (uint8_t)(pair >> 8), last = (uint8_t)pair;
            struct raw_request request = one(XENPV_OP_READ, 7, first, last);
            int good = first <= last && last < 8;
            CHECK_EQ(check(&request), good ? 0 : ERROR);
            if (!good)
                continue;
            CHECK_EQ(slot.room.segment[0].ref, 0xabcdef01);
            CHECK_EQ(slot.room.segment[0].offset, first * 512);
            CHECK_EQ(slot.room.segment[0].length, (last - first + 1) * 512);
            CHECK_EQ(slot.bytes, (last - first + 1) * 512);
        }
    }
}

TEST(every_first_and_last_sector_of_a_4096_disk)
{
    back.config.sector_size = 4096;
    for (unsigned pair = 0; pair < 65536; pair++) {
        struct raw_request request = one(XENPV_OP_WRITE, 8, (uint8_t)(pair >> 8), (uint8_t)pair);
        CHECK_EQ(check(&request), pair == 7 ? 0 : ERROR);
    }
}

TEST(every_count_of_segments)
{
    static const uint8_t ops[] = { XENPV_OP_READ, XENPV_OP_WRITE, XENPV_OP_FLUSH };

    for (uint32_t abi = 32; abi <= 64; abi += 32) {
        back.config.abi = abi;
        for (unsigned i = 0; i < 3; i++)
            for (unsigned count = 0; count < 256; count++) {
                struct raw_request request = { .op = ops[i], .count = (uint8_t)count, .sector = 3 };
                for (unsigned s = 0; s < XENPV_MAX_SEGMENTS; s++) {
                    request.segment[s].ref = 100 + s;
                    request.segment[s].first = (uint8_t)(s % 8);
                    request.segment[s].last = 7;
                }
                int bare_flush = ops[i] == XENPV_OP_FLUSH && count == 0;
                CHECK_EQ(check(&request), bare_flush || (count >= 1 && count <= 11) ? 0 : ERROR);
                if (count < 1 || count > 11)
                    continue;
                uint64_t bytes = 0;
                for (unsigned s = 0; s < count; s++) {
                    CHECK_EQ(slot.room.segment[s].ref, 100 + s);
                    CHECK_EQ(slot.room.segment[s].offset, s % 8 * 512);
                    bytes += slot.room.segment[s].length;
                }
                CHECK_EQ(slot.segments, count);
                CHECK_EQ(slot.bytes, bytes);
            }
    }
}

TEST(both_abis_decode_the_same)
{
    for (uint32_t abi = 32; abi <= 64; abi += 32) {
        struct raw_request request = one(XENPV_OP_READ, 0, 2, 5);
        back.config.abi = abi;
        back.config.sectors = UINT64_MAX;
        request.sector = 0x123456789abcdef0;
        CHECK_EQ(check(&request), 0);
        CHECK_EQ(slot.id, 0x1122334455667788);
        CHECK_EQ(slot.sector, 0x123456789abcdef0);
        CHECK_EQ(slot.wire_op, XENPV_OP_READ);
    }
}

TEST(range_ends_with_the_disk)
{
    static const struct { uint64_t sector; int status; } cases[] = {
        { 0, 0 }, { 992, 0 }, { 993, ERROR }, { 1000, ERROR }, { 1001, ERROR }, { 1ull << 55, ERROR }, { 1ull << 63, ERROR },
        { UINT64_MAX, ERROR }, { UINT64_MAX - 7, ERROR }, { UINT64_MAX - 8, ERROR },
    };

    for (unsigned i = 0; i < sizeof cases / sizeof *cases; i++)
        for (uint8_t op = 0; op < 2; op++) {
            struct raw_request request = one(op, cases[i].sector, 0, 7);
            CHECK_EQ(check(&request), cases[i].status);
            request = (struct raw_request){ .op = XENPV_OP_DISCARD, .sector = cases[i].sector, .nr_sectors = 8 };
            CHECK_EQ(check(&request), cases[i].status);
        }
}

TEST(a_disk_smaller_than_the_request)
{
    struct raw_request request = one(XENPV_OP_READ, 0, 0, 7);

    for (back.config.sectors = 0; back.config.sectors < 8; back.config.sectors++)
        CHECK_EQ(check(&request), ERROR);
    CHECK_EQ(check(&request), 0);
}

TEST(discard_of_every_kind)
{
    static const struct { uint64_t sector, count; int status; } cases[] = {
        { 0, 0, ERROR }, { 0, 1, 0 }, { 0, 1000, 0 }, { 1, 1000, ERROR }, { 999, 1, 0 }, { 1000, 1, ERROR },
        { 1, UINT64_MAX, ERROR }, { UINT64_MAX, 1, ERROR }, { UINT64_MAX, 2, ERROR }, { 8, UINT64_MAX - 7, ERROR },
        { 0, 1ull << 55, ERROR }, { 0, UINT64_MAX, ERROR },
    };

    for (unsigned i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct raw_request request = { .op = XENPV_OP_DISCARD, .sector = cases[i].sector, .nr_sectors = cases[i].count };
        for (back.config.abi = 32; back.config.abi <= 64; back.config.abi += 32) {
            CHECK_EQ(check(&request), cases[i].status);
            if (!cases[i].status)
                CHECK_EQ(slot.bytes, cases[i].count * 512);
        }
        back.config.abi = 64;
        request.count = 1; /* secure discard was not advertised */
        CHECK_EQ(check(&request), NOT_SUPPORTED);
    }
}

TEST(secure_discard_as_advertised)
{
    struct raw_request request = { .op = XENPV_OP_DISCARD, .nr_sectors = 8 };

    back.config.discard_secure = 1;
    for (unsigned flag = 0; flag < 256; flag++) {
        request.count = (uint8_t)flag;
        CHECK_EQ(check(&request), flag <= 1 ? 0 : NOT_SUPPORTED);
        CHECK_EQ(slot.secure, flag == 1);
    }
    back.config.discard = 0;
    CHECK_EQ(check(&request), NOT_SUPPORTED);
}

TEST(discard_and_flush_only_as_advertised)
{
    struct raw_request discard = { .op = XENPV_OP_DISCARD, .nr_sectors = 8 }, flush = { .op = XENPV_OP_FLUSH };

    back.config.discard = back.config.flush = 0;
    CHECK_EQ(check(&discard), NOT_SUPPORTED);
    CHECK_EQ(check(&flush), NOT_SUPPORTED);
    flush.count = 1;
    CHECK_EQ(check(&flush), NOT_SUPPORTED);
}

TEST(range_is_aligned_to_the_sector_size)
{
    back.config.sector_size = 4096;
    for (uint64_t sector = 0; sector < 64; sector++) {
        struct raw_request request = one(XENPV_OP_WRITE, sector, 0, 7);
        CHECK_EQ(check(&request), sector % 8 ? ERROR : 0);
        request = (struct raw_request){ .op = XENPV_OP_DISCARD, .sector = sector, .nr_sectors = 8 };
        CHECK_EQ(check(&request), sector % 8 ? ERROR : 0);
        request = (struct raw_request){ .op = XENPV_OP_DISCARD, .sector = 0, .nr_sectors = sector };
        CHECK_EQ(check(&request), sector % 8 || !sector ? ERROR : 0);
    }
}

TEST(readonly_refuses_all_that_changes_the_disk)
{
    struct raw_request request;

    back.config.readonly = 1;
    request = one(XENPV_OP_READ, 0, 0, 7);
    CHECK_EQ(check(&request), 0);
    request = one(XENPV_OP_WRITE, 0, 0, 7);
    CHECK_EQ(check(&request), ERROR);
    request = one(XENPV_OP_FLUSH, 0, 0, 7);
    CHECK_EQ(check(&request), ERROR);
    request = (struct raw_request){ .op = XENPV_OP_FLUSH };
    CHECK_EQ(check(&request), 0);
    request = (struct raw_request){ .op = XENPV_OP_DISCARD, .nr_sectors = 8 };
    CHECK_EQ(check(&request), ERROR);
}

TEST(flush_with_data_is_a_write_after_a_flush)
{
    struct raw_request request = one(XENPV_OP_FLUSH, 8, 0, 7);

    CHECK_EQ(check(&request), 0);
    CHECK_EQ(slot.op, XENPV_OP_WRITE);
    CHECK_EQ(slot.wire_op, XENPV_OP_FLUSH);
    CHECK_EQ(slot.flush_first, 1);
    request.sector = 993;
    CHECK_EQ(check(&request), ERROR);
}

TEST(unknown_operations_are_not_supported)
{
    for (unsigned op = 0; op < 256; op++) {
        struct raw_request request = one((uint8_t)op, 0, 0, 7);
        if (op == XENPV_OP_READ || op == XENPV_OP_WRITE || op == XENPV_OP_FLUSH || op == XENPV_OP_DISCARD)
            continue;
        CHECK_EQ(check(&request), NOT_SUPPORTED);
        CHECK_EQ(slot.wire_op, op);
        CHECK_EQ(slot.id, 0x1122334455667788);
        CHECK_EQ(slot.segments, 0);
    }
}

/* Any bytes at all: what is accepted lies within the disk and within the pages. */
TEST(random_bytes_never_leave_the_disk)
{
    struct test_random r = { 42 };
    uint32_t accepted = 0;

    for (unsigned n = 0; n < 400000; n++) {
        uint8_t raw[XENPV_MAX_REQUEST];
        for (unsigned i = 0; i < sizeof raw; i++)
            raw[i] = (uint8_t)test_random(&r, i >= 20 && test_random(&r, 4) ? 8 : 256);
        raw[XENPV_AT_OP] = (uint8_t)test_random(&r, 8);
        raw[XENPV_AT_NR_SEGMENTS] = (uint8_t)test_random(&r, 13);
        back.config.abi = n % 2 ? 64 : 32;
        if (test_random(&r, 3))
            xenpv_put_u64(raw + XENPV_AT_SECTOR(back.config.abi), test_random(&r, 1100));
        xenpv_blocks_take(&back, &slot, raw);
        if (xenpv_request_check(&back, raw, &slot) != 0)
            continue;
        accepted++;
        uint64_t bytes = 0;
        for (unsigned i = 0; i < slot.segments; i++) {
            CHECK(slot.room.segment[i].offset + slot.room.segment[i].length <= 4096 && slot.room.segment[i].length > 0);
            bytes += slot.room.segment[i].length;
        }
        if (slot.wire_op != XENPV_OP_DISCARD)
            CHECK_EQ(bytes, slot.bytes);
        if (slot.bytes)
            CHECK(slot.sector <= 1000 && slot.bytes / 512 <= 1000 - slot.sector);
    }
    CHECK(accepted > 1000);
}

/* The journal's copy is what counts: the frontend may change its slot as soon as it was taken. */
static void slot_changes_after_the_take(uint32_t abi)
{
    static struct queue queue;
    struct xenpv_slot *slots[4];
    uint32_t count;

    queue_open(&queue, &(struct queue_options){ .abi = abi });
    queue_raw(&queue);
    queue_back(&queue, -1, 1000, 0);
    struct raw_request request = raw_page(XENPV_OP_WRITE, 5, 16, 3);
    memset(queue_page(&queue, 3), 0x5a, 4096);
    raw_put(&queue, &request);
    CHECK_EQ(xenpv_back_take(queue.back, slots, 4, &count), 1);
    memset(xenpv_ring_slot(&queue.raw, 0), 0xff, queue.raw.entry_size);
    CHECK_EQ(count, 1);
    CHECK_EQ(slots[0]->id, 5);
    CHECK_EQ(slots[0]->sector, 16);
    memset(queue_page(&queue, 3), 0xff, 4096); /* and so may it change the page of a write that is copied */
    CHECK_EQ(((uint8_t *)slots[0]->room.iov[0].iov_base)[4095], 0x5a);
    xenpv_back_close(queue.back);
    queue_back(&queue, -1, 1000, 1); /* a successor, too, reads the copy */
    CHECK_EQ(xenpv_back_take(queue.back, slots, 4, &count), 1);
    CHECK_EQ(count, 1);
    CHECK_EQ(slots[0]->id, 5);
    xenpv_back_answer(queue.back, slots[0], XENPV_RSP_OKAY);
    xenpv_back_publish(queue.back);
    struct raw_response response;
    CHECK_EQ(raw_get(&queue, &response), 1);
    CHECK_EQ(response.id, 5);
    CHECK_EQ(response.op, XENPV_OP_WRITE);
    CHECK_EQ(response.status, XENPV_RSP_OKAY);
    queue_close(&queue);
}

TEST(a_slot_changed_after_the_take_does_not_matter)
{
    slot_changes_after_the_take(64);
    slot_changes_after_the_take(32);
}

TEST(a_response_shows_nothing_but_itself)
{
    static struct queue queue;
    struct xenpv_slot *slots[4];
    uint8_t expected[16] = { 0 }, *at;
    uint32_t count;

    queue_open(&queue, &(struct queue_options){ 0 });
    queue_raw(&queue);
    queue_back(&queue, -1, 1000, 0);
    struct raw_request request = { .op = 200, .id = 0x0102030405060708 };
    raw_put(&queue, &request);
    at = xenpv_ring_slot(&queue.raw, 0);
    memset(at + 2, 0xcc, 6); /* the handle and the padding */
    CHECK_EQ(xenpv_back_take(queue.back, slots, 4, &count), 1);
    CHECK_EQ(count, 0); /* answered at once */
    xenpv_back_publish(queue.back);
    xenpv_put_u64(expected, request.id);
    expected[8] = 200;
    xenpv_put_u16(expected + 10, (uint16_t)XENPV_RSP_EOPNOTSUPP);
    CHECK(memcmp(at, expected, sizeof expected) == 0);
    CHECK_EQ(queue.stats.refused, 1);
    queue_close(&queue);
}
