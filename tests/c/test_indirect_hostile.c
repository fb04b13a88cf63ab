/* What is accepted of indirect requests that a hostile frontend wrote, and may write again at any time. */
#include <string.h>

#include "indirect.h"

static struct queue queue;

/* One request, answered by the test if it gets that far: its response. */
static struct raw_response through(const struct raw_indirect *request)
{
    struct raw_response response;
    struct xenpv_slot *slots[4];
    uint32_t count;

    raw_put_indirect(&queue, request);
    CHECK_EQ(xenpv_back_take(queue.back, slots, 4, &count), 1);
    for (uint32_t i = 0; i < count; i++)
        xenpv_back_answer(queue.back, slots[i], XENPV_RSP_OKAY);
    xenpv_back_publish(queue.back);
    CHECK_EQ(raw_get(&queue, &response), 1);
    CHECK_EQ(response.id, request->id);
    CHECK_EQ(queue.back->blocks.free_count, queue.back->blocks.count);
    return response;
}

TEST(every_count_of_indirect_segments)
{
    for (uint32_t abi = 32; abi <= 64; abi += 32) {
        indirect_begin(&queue, &(struct queue_options){ .abi = abi, .max_segments = 40 });
        for (uint32_t count = 0; count < 65536; count = count < 60 ? count + 1 : count * 2 - 3) {
            struct raw_indirect request = indirect_good(&queue, count, (uint16_t)count);
            struct raw_response response = through(&request);
            CHECK_EQ(response.status, count >= 1 && count <= 40 ? XENPV_RSP_OKAY : XENPV_RSP_ERROR);
            CHECK_EQ(response.op, XENPV_OP_READ); /* the operation inside */
        }
        queue_close(&queue);
    }
}

TEST(only_reads_and_writes_are_indirect)
{
    indirect_begin(&queue, &(struct queue_options){ .max_segments = 40, .barrier = 1 });
    for (unsigned op = 0; op < 256; op++) {
        struct raw_indirect request = indirect_good(&queue, op, 12);
        request.op = (uint8_t)op;
        struct raw_response response = through(&request);
        CHECK_EQ(response.status, op <= XENPV_OP_WRITE ? XENPV_RSP_OKAY : XENPV_RSP_EOPNOTSUPP);
        CHECK_EQ(response.op, op);
    }
    queue_close(&queue);
}

TEST(what_was_not_offered_is_an_unknown_operation)
{
    indirect_begin(&queue, &(struct queue_options){ 0 });
    struct raw_indirect request = indirect_good(&queue, 5, 12);
    struct raw_response response = through(&request);
    CHECK_EQ(response.status, XENPV_RSP_EOPNOTSUPP);
    CHECK_EQ(response.op, XENPV_OP_INDIRECT);
    queue_close(&queue);
}

TEST(indirect_writes_respect_a_read_only_disk)
{
    indirect_begin(&queue, &(struct queue_options){ .max_segments = 40, .readonly = 1 });
    struct raw_indirect request = indirect_good(&queue, 5, 12);
    CHECK_EQ(through(&request).status, XENPV_RSP_OKAY);
    request.op = XENPV_OP_WRITE;
    CHECK_EQ(through(&request).status, XENPV_RSP_ERROR);
    queue_close(&queue);
}

TEST(every_first_and_last_sector_of_an_indirect_segment)
{
    indirect_begin(&queue, &(struct queue_options){ .max_segments = 40, .data = XENPV_DATA_COPY });
    for (unsigned pair = 0; pair < 65536; pair += pair % 256 > 16 ? 15 : 1) {
        uint8_t first = (uint8_t)(pair >> 8), last = (uint8_t)pair;
        struct raw_indirect request = indirect_good(&queue, pair, 13);
        raw_segment(&queue, 0, 12, PAGE_REF(12), first, last);
        CHECK_EQ(through(&request).status, first <= last && last < 8 ? XENPV_RSP_OKAY : XENPV_RSP_ERROR);
    }
    queue_close(&queue);
}

TEST(an_indirect_range_ends_with_the_disk)
{
    static const struct { uint64_t sector; int status; } cases[] = {
        { SECTORS - 96, 0 }, { SECTORS - 95, -1 }, { SECTORS, -1 }, { UINT64_MAX, -1 }, { UINT64_MAX - 95, -1 }, { 1ull << 55, -1 },
    };

    indirect_begin(&queue, &(struct queue_options){ .max_segments = 40 });
    for (unsigned i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct raw_indirect request = indirect_good(&queue, i, 12);
        request.sector = cases[i].sector;
        CHECK_EQ(through(&request).status, cases[i].status);
    }
    queue_close(&queue);
}

/* References that are not granted, in every place; nothing stays mapped (queue_close demands it). */
TEST(indirect_pages_that_are_not_granted)
{
    static const uint32_t refs[] = { 0, PAGE_REF(0) - 1, UINT32_MAX };

    for (uint32_t mode = 0; mode < 4; mode++) {
        indirect_begin(&queue, &(struct queue_options){ .max_segments = 1024, .persistent = mode & 1 ? 30 : 0, .data = mode >> 1 });
        for (unsigned i = 0; i < 3; i++) {
            struct raw_indirect request = indirect_good(&queue, 1, 12);
            request.ref[0] = refs[i];
            CHECK_EQ(through(&request).status, XENPV_RSP_ERROR);
            request = indirect_good(&queue, 2, 12);
            raw_segment(&queue, 0, i * 5, refs[i], 0, 7);
            if (!queue.options.data) /* a read that is copied finds it out at its end, and the test answers it before */
                CHECK_EQ(through(&request).status, XENPV_RSP_ERROR);
            request.op = XENPV_OP_WRITE;
            CHECK_EQ(through(&request).status, XENPV_RSP_ERROR);
            request = indirect_good(&queue, 3, 513);
            request.ref[1] = refs[i];
            CHECK_EQ(through(&request).status, XENPV_RSP_ERROR);
        }
        fake_grant(&queue.domain, INDIRECT_FIRST, 1, 0); /* read-only is enough for a page of segments */
        struct raw_indirect request = indirect_good(&queue, 4, 12);
        CHECK_EQ(through(&request).status, XENPV_RSP_OKAY);
        queue_close(&queue);
    }
}

TEST(an_indirect_page_that_is_also_a_data_page_and_the_ring)
{
    for (uint32_t persistent = 0; persistent <= 30; persistent += 30) {
        indirect_begin(&queue, &(struct queue_options){ .max_segments = 40, .persistent = persistent });
        struct raw_indirect request = indirect_good(&queue, 1, 20);
        for (uint32_t i = 0; i < 20; i++)
            raw_segment(&queue, 0, i, i % 2 ? SEGMENTS_REF(0) : FAKE_FIRST_REF, 0, 7);
        CHECK_EQ(through(&request).status, XENPV_RSP_OKAY);
        request.ref[0] = FAKE_FIRST_REF; /* the ring's own page as segments: whatever stands there is checked */
        request.count = 40;
        CHECK_EQ(through(&request).status, XENPV_RSP_ERROR);
        queue_close(&queue);
    }
}

/* The copy counts: segments that change after they were taken change nothing. */
TEST(segments_changed_after_the_take_do_not_matter)
{
    for (uint32_t persistent = 0; persistent <= 30; persistent += 30) {
        struct xenpv_slot *slots[4];
        uint32_t count;
        indirect_begin(&queue, &(struct queue_options){ .max_segments = 40, .persistent = persistent });
        struct raw_indirect request = indirect_good(&queue, 1, 20);
        raw_put_indirect(&queue, &request);
        CHECK_EQ(xenpv_back_take(queue.back, slots, 4, &count), 1);
        CHECK_EQ(count, 1);
        memset(queue.domain.memory + (size_t)INDIRECT_FIRST * 4096, 0xff, 4096);
        CHECK_EQ(slots[0]->segments, 20);
        CHECK_EQ(slots[0]->bytes, 20 * 4096);
        for (uint32_t i = 0; i < 20; i++) {
            CHECK_EQ(slots[0]->room.segment[i].ref, PAGE_REF(i));
            CHECK_EQ(slots[0]->room.segment[i].length, 4096);
        }
        queue_close(&queue);
    }
}

TEST(random_segments_never_leave_the_disk_nor_the_page)
{
    struct test_random r = { 11 };
    uint32_t accepted = 0;

    indirect_begin(&queue, &(struct queue_options){ .max_segments = 600, .data = XENPV_DATA_COPY });
    for (unsigned n = 0; n < 3000; n++) {
        uint16_t number = (uint16_t)test_random(&r, test_random(&r, 2) ? 20 : 700);
        struct raw_indirect request = indirect_good(&queue, n, number);
        struct xenpv_slot *slots[4];
        struct raw_response response;
        uint32_t count;
        request.sector = test_random(&r, SECTORS + 100);
        request.ref[1] = SEGMENTS_REF(test_random(&r, 200));
        for (uint32_t i = 0; i < test_random(&r, 4); i++)
            raw_segment(&queue, 0, test_random(&r, 20), test_random(&r, 2200), (uint8_t)test_random(&r, 9), (uint8_t)test_random(&r, 9));
        raw_put_indirect(&queue, &request);
        CHECK_EQ(xenpv_back_take(queue.back, slots, 4, &count), 1);
        for (uint32_t s = 0; s < count; s++) {
            uint64_t bytes = 0;
            for (uint32_t i = 0; i < slots[s]->segments; i++) {
                const struct xenpv_segment *segment = &slots[s]->room.segment[i];
                CHECK(segment->length > 0 && segment->offset + segment->length <= 4096);
                bytes += segment->length;
            }
            CHECK_EQ(bytes, slots[s]->bytes);
            CHECK(slots[s]->sector + bytes / 512 <= SECTORS);
            accepted++;
            xenpv_back_answer(queue.back, slots[s], XENPV_RSP_ERROR);
        }
        xenpv_back_publish(queue.back);
        CHECK_EQ(raw_get(&queue, &response), 1);
    }
    CHECK(accepted > 100);
    queue_close(&queue);
}
