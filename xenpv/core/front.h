/* A frontend's end of one queue, inside the core: an I/O becomes as many requests as it needs, and is done when all of them
 * are answered.
 *
 * RULES
 * - A response is copied once and checked once: its id must be that of a request in flight, and its operation the same.
 * - A backend that breaks a rule of the ring ends this queue (-EPROTO for ever after); the caller's memory stays as it is.
 * - The word is RUNNING only while this thread will look again before it sleeps; between two calls nobody waits. */
#ifndef XENPV_FRONT_H
#define XENPV_FRONT_H

#include "api.h"
#include "hypervisor.h"
#include "latency.h"
#include "ring.h"
#include "spin.h"
#include "stamp.h"
#include "wire.h"

#define XENPV_NO_IO UINT32_MAX
#define XENPV_NO_GROUP UINT32_MAX

struct xenpv_io_list {
    uint32_t first, last;
};

struct xenpv_io_state {
    struct xenpv_io io;
    uint64_t issued;   /* bytes that requests were made for */
    uint32_t requests; /* in flight */
    uint32_t next;
};

struct xenpv_shadow {
    uint64_t id;
    uint32_t io;
    uint8_t op;
    uint8_t in_flight;
    uint32_t group; /* its pages of segments; XENPV_NO_GROUP: it is no indirect request */
    struct xenpv_stamp submitted;
};

struct xenpv_front {
    struct xenpv_ring ring;
    struct xenpv_hypervisor *hv;
    struct xenpv_front_config config;
    struct xenpv_port port;
    struct xenpv_spin spin;
    struct xenpv_front_stats stats;
    struct xenpv_stamper stamper;
    struct xenpv_stamp now;       /* of this batch */
    struct xenpv_sample *samples; /* NULL without stamps */
    struct xenpv_latency *latency; /* NULL: not measured */
    uint64_t sampled, drained;    /* samples ever put and ever given out */
    uint32_t *refs;
    uint32_t *indirect_refs;
    uint32_t group_pages; /* pages for the segments of one indirect request */
    uint32_t *free_groups;
    uint32_t free_group_count;
    struct xenpv_io_state *ios;
    struct xenpv_io_list free_ios, waiting, finished; /* waiting: with bytes that no request was made for */
    struct xenpv_shadow *shadow;
    uint32_t *free_slots;
    uint32_t free_count;
    uint32_t pending; /* I/Os accepted and not delivered */
    uint32_t serial;
    int taken_event;
    int broken;
};

void xenpv_io_push(struct xenpv_front *front, struct xenpv_io_list *list, uint32_t io);
/* stages.c: what is known of the times of an answered request; `raw` is the private copy of its response's slot. */
void xenpv_front_stages(struct xenpv_front *front, const struct xenpv_shadow *shadow, const uint8_t *raw, int16_t status);
/* XENPV_NO_IO when the list is empty. */
uint32_t xenpv_io_pop(struct xenpv_front *front, struct xenpv_io_list *list);

#endif
