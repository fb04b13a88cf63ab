#include "queue.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static _Atomic uint32_t *index_at(struct queue *queue, unsigned offset)
{
    return (_Atomic uint32_t *)(void *)(queue->domain.memory + offset);
}

void queue_open(struct queue *queue, const struct queue_options *options)
{
    struct xenpv_ring ring;

    memset(queue, 0, sizeof *queue);
    queue->options = *options;
    if (!queue->options.abi)
        queue->options.abi = 64;
    if (!queue->options.sector_size)
        queue->options.sector_size = 512;
    if (!queue->options.max_ios)
        queue->options.max_ios = 64;
    fake_domain_open(&queue->domain);
    fake_channel_open(&queue->channel);
    queue->domain.channel = &queue->channel;
    queue->domain.direct = !options->not_direct;
    xenpv_ring_init(queue->domain.memory);
    *index_at(queue, XENPV_REQ_PROD) = *index_at(queue, XENPV_RSP_PROD) = options->start;
    *index_at(queue, XENPV_REQ_EVENT) = *index_at(queue, XENPV_RSP_EVENT) = options->start + 1;
    fake_grant(&queue->domain, 0, 1u << options->order, 1);
    fake_grant(&queue->domain, POOL_FIRST, POOL_PAGES, 1);
    fake_grant(&queue->domain, INDIRECT_FIRST, INDIRECT_PAGES, 1);
    for (uint32_t i = 0; i < POOL_PAGES; i++)
        queue->refs[i] = FAKE_FIRST_REF + POOL_FIRST + i;
    for (uint32_t i = 0; i < INDIRECT_PAGES; i++)
        queue->indirect_refs[i] = FAKE_FIRST_REF + INDIRECT_FIRST + i;
    CHECK_EQ(xenpv_ring_attach(&ring, queue->domain.memory, XENPV_PAGE_SIZE << options->order,
                               XENPV_ENTRY_SIZE(queue->options.abi), 0, 0), 0);
    queue->entries = ring.entries;
    queue->journal = calloc(1, xenpv_journal_bytes(ring.entries));
    CHECK(queue->journal != NULL);
    if (options->latency)
        queue->latency = calloc(1, xenpv_latency_bytes(XENPV_LATENCY_BACK));
}

struct xenpv_back *queue_back(struct queue *queue, int fd, uint64_t sectors, int adopt)
{
    const struct queue_options *options = &queue->options;
    uint32_t refs[16];
    int error = 0;

    if (adopt)
        fake_channel_bind(&queue->channel, FAKE_BACK);
    for (uint32_t i = 0; i < 16; i++)
        refs[i] = FAKE_FIRST_REF + i;
    queue->back = xenpv_back_open(fake_hypervisor(&queue->domain), &(struct xenpv_back_config){
        .domid = 1, .ring_refs = refs, .ring_pages = 1u << options->order, .port = FAKE_BACK,
        .wait_fd = queue->channel.back_wait, .notify_fd = queue->channel.front_wait,
        .abi = options->abi, .flag = options->flag, .persistent = options->persistent, .data = options->data,
        .readonly = options->readonly, .flush = 1, .barrier = options->barrier, .discard = 1, .discard_secure = options->secure,
        .max_segments = options->max_segments, .sector_size = options->sector_size,
        .sectors = sectors, .fd = fd, .fd_inline = options->inline_io, .spin_ns = options->spin_ns,
        .stamp = options->stamp, .time_page = options->time_page, .adopt = (uint32_t)adopt, .stats = &queue->stats,
        .latency = queue->latency, .clock = options->clock, .journal = queue->journal }, &error);
    CHECK_EQ(error, 0);
    CHECK(queue->back != NULL);
    return queue->back;
}

struct xenpv_front *queue_front(struct queue *queue)
{
    const struct queue_options *options = &queue->options;
    int error = 0;

    queue->front = xenpv_front_open(fake_hypervisor(&queue->domain), &(struct xenpv_front_config){
        .abi = options->abi, .flag = options->flag, .port = FAKE_FRONT, .wait_fd = queue->channel.front_wait,
        .notify_fd = queue->channel.back_wait, .ring = queue->domain.memory, .ring_pages = 1u << options->order,
        .pool = queue_page(queue, 0), .pool_refs = queue->refs, .pool_pages = POOL_PAGES, .handle = 51712,
        .indirect = queue->domain.memory + (size_t)INDIRECT_FIRST * XENPV_PAGE_SIZE, .indirect_refs = queue->indirect_refs,
        .indirect_pages = INDIRECT_PAGES, .max_segments = options->front_segments,
        .stamp = options->front_stamp, .time_page = options->time_page, .max_ios = options->max_ios,
        .latency = options->latency, .clock = options->clock, .spin_ns = options->spin_ns }, &error);
    CHECK_EQ(error, 0);
    CHECK(queue->front != NULL);
    return queue->front;
}

void queue_raw(struct queue *queue)
{
    CHECK_EQ(xenpv_ring_attach(&queue->raw, queue->domain.memory, XENPV_PAGE_SIZE << queue->options.order,
                               XENPV_ENTRY_SIZE(queue->options.abi), 0, (int)queue->options.flag), 0);
}

void queue_close(struct queue *queue)
{
    xenpv_back_close(queue->back);
    xenpv_front_close(queue->front);
    fake_channel_close(&queue->channel);
    fake_domain_close(&queue->domain);
    free(queue->journal);
    free(queue->latency);
}

void raw_encode(uint32_t abi, const struct raw_request *request, uint8_t *raw)
{
    memset(raw, 0, XENPV_MAX_REQUEST);
    raw[XENPV_AT_OP] = request->op;
    raw[XENPV_AT_NR_SEGMENTS] = request->count;
    xenpv_put_u64(raw + XENPV_AT_ID(abi), request->id);
    xenpv_put_u64(raw + XENPV_AT_SECTOR(abi), request->sector);
    if (request->op == XENPV_OP_DISCARD) {
        xenpv_put_u64(raw + XENPV_AT_NR_SECTORS(abi), request->nr_sectors);
        return;
    }
    for (uint32_t i = 0; i < XENPV_MAX_SEGMENTS; i++) {
        uint8_t *at = raw + XENPV_AT_SEGMENTS(abi) + i * XENPV_SEGMENT_BYTES;
        xenpv_put_u32(at + XENPV_AT_SEG_REF, request->segment[i].ref);
        at[XENPV_AT_SEG_FIRST] = request->segment[i].first;
        at[XENPV_AT_SEG_LAST] = request->segment[i].last;
    }
}

static void put(struct queue *queue, const uint8_t *raw)
{
    memcpy(xenpv_ring_slot(&queue->raw, queue->raw.produced), raw, queue->raw.entry_size);
    if (xenpv_ring_publish(&queue->raw, queue->raw.produced + 1))
        fake_channel_send(&queue->channel, FAKE_BACK);
}

void raw_put(struct queue *queue, const struct raw_request *request)
{
    uint8_t raw[XENPV_MAX_REQUEST];

    raw_encode(queue->options.abi, request, raw);
    put(queue, raw);
}

void raw_put_indirect(struct queue *queue, const struct raw_indirect *request)
{
    uint8_t raw[XENPV_MAX_REQUEST] = { 0 };
    uint32_t abi = queue->options.abi;

    raw[XENPV_AT_OP] = XENPV_OP_INDIRECT;
    raw[XENPV_AT_INDIRECT_OP] = request->op;
    xenpv_put_u16(raw + XENPV_AT_INDIRECT_NR_SEGMENTS, request->count);
    xenpv_put_u64(raw + XENPV_AT_ID(abi), request->id);
    xenpv_put_u64(raw + XENPV_AT_SECTOR(abi), request->sector);
    for (uint32_t i = 0; i < XENPV_MAX_INDIRECT_PAGES; i++)
        xenpv_put_u32(raw + XENPV_AT_INDIRECT_REFS(abi) + 4 * i, request->ref[i]);
    put(queue, raw);
}

void raw_segment(struct queue *queue, uint32_t page, uint32_t number, uint32_t ref, uint8_t first, uint8_t last)
{
    uint8_t *at = queue->domain.memory + (size_t)(INDIRECT_FIRST + page) * XENPV_PAGE_SIZE + number * XENPV_SEGMENT_BYTES;

    xenpv_put_u32(at + XENPV_AT_SEG_REF, ref);
    at[XENPV_AT_SEG_FIRST] = first;
    at[XENPV_AT_SEG_LAST] = last;
}

int raw_get(struct queue *queue, struct raw_response *response)
{
    int64_t waiting = xenpv_ring_available(&queue->raw);
    uint8_t raw[XENPV_MAX_RESPONSE];

    CHECK(waiting >= 0);
    if (!waiting)
        return 0;
    memcpy(raw, xenpv_ring_slot(&queue->raw, queue->raw.consumed++), XENPV_RESPONSE_SIZE(queue->options.abi));
    *response = (struct raw_response){ xenpv_get_u64(raw), raw[XENPV_AT_RSP_OP],
                                       (int16_t)xenpv_get_u16(raw + XENPV_AT_RSP_STATUS) };
    return 1;
}

void raw_wait(struct queue *queue, struct raw_response *response)
{
    struct pollfd fd = { .fd = queue->channel.front_wait, .events = POLLIN };
    uint64_t value;

    xenpv_ring_run(&queue->raw);
    while (!raw_get(queue, response)) {
        if (xenpv_ring_arm(&queue->raw) == 0) {
            CHECK_EQ(poll(&fd, 1, 10000), 1); /* else the response, or its event, is lost */
            CHECK_EQ(read(fd.fd, &value, sizeof value), sizeof value);
        }
        xenpv_ring_run(&queue->raw);
    }
}

struct raw_request raw_page(uint8_t op, uint64_t id, uint64_t sector, uint32_t page)
{
    return (struct raw_request){ .op = op, .count = 1, .id = id, .sector = sector,
                                 .segment = { { FAKE_FIRST_REF + POOL_FIRST + page, 0, 7 } } };
}

struct xenpv_request queue_fetch(struct queue *queue)
{
    struct xenpv_request request;

    CHECK_EQ(xenpv_back_next(queue->back, &request, 1, 0, -1), 1);
    request.status = XENPV_RSP_OKAY;
    return request;
}

void queue_answer(struct queue *queue, struct xenpv_request request)
{
    CHECK_EQ(xenpv_back_complete(queue->back, &request, 1), 0);
}
