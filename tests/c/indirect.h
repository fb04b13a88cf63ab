/* Indirect requests that a frontend writes by hand, over the queue of queue.h. */
#ifndef XENPV_TEST_INDIRECT_H
#define XENPV_TEST_INDIRECT_H

#include "queue.h"

#define SECTORS 16384u
#define PAGE_REF(page) (FAKE_FIRST_REF + POOL_FIRST + (page))
#define SEGMENTS_REF(page) (FAKE_FIRST_REF + INDIRECT_FIRST + (page))

/* A queue with such a frontend. */
static inline void indirect_begin(struct queue *queue, const struct queue_options *options)
{
    queue_open(queue, options);
    queue_raw(queue);
    queue_back(queue, options->data == XENPV_DATA_COPY ? -1 : 0, SECTORS, 0);
}

/* A read of `count` whole pages, whose segments are written. */
static inline struct raw_indirect indirect_good(struct queue *queue, uint64_t id, uint16_t count)
{
    for (uint32_t i = 0; i < count && i < 512; i++)
        raw_segment(queue, 0, i, PAGE_REF(i), 0, 7);
    return (struct raw_indirect){ .op = XENPV_OP_READ, .count = count, .id = id, .ref = { SEGMENTS_REF(0) } };
}

#endif
