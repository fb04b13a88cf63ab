#include "front.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

void xenpv_io_push(struct xenpv_front *front, struct xenpv_io_list *list, uint32_t io)
{
    front->ios[io].next = XENPV_NO_IO;
    if (list->first == XENPV_NO_IO)
        list->first = io;
    else
        front->ios[list->last].next = io;
    list->last = io;
}

uint32_t xenpv_io_pop(struct xenpv_front *front, struct xenpv_io_list *list)
{
    uint32_t io = list->first;

    if (io != XENPV_NO_IO)
        list->first = front->ios[io].next;
    return io;
}

uint32_t xenpv_front_pending(const struct xenpv_front *front)
{
    return front->pending;
}

const struct xenpv_latency *xenpv_front_latency(const struct xenpv_front *front)
{
    return front->latency;
}

const struct xenpv_front_stats *xenpv_front_stats(struct xenpv_front *front)
{
    front->stats.notifications = front->ring.notifications;
    front->stats.notifications_saved = front->ring.saved;
    front->stats.spins = front->spin.spins;
    front->stats.spins_futile = front->spin.spins_futile;
    return &front->stats;
}

void xenpv_front_close(struct xenpv_front *front)
{
    if (!front)
        return;
    front->hv->close(front->hv);
    if (front->port.wait_fd >= 0)
        close(front->port.wait_fd);
    if (front->port.notify_fd >= 0)
        close(front->port.notify_fd);
    free(front->refs);
    free(front->indirect_refs);
    free(front->free_groups);
    free(front->ios);
    free(front->shadow);
    free(front->samples);
    free(front->latency);
    free(front->free_slots);
    free(front);
}

static int set_up_latency(struct xenpv_front *front)
{
    uint64_t resolution_ns;

    if (!front->config.latency)
        return 0;
    resolution_ns = xenpv_latency_clock(&front->stamper, front->config.clock);
    if (!resolution_ns)
        return -EINVAL;
    front->latency = calloc(1, xenpv_latency_bytes(XENPV_LATENCY_FRONT));
    if (!front->latency)
        return -ENOMEM;
    xenpv_latency_attach(front->latency, XENPV_LATENCY_FRONT, front->stamper.unit, resolution_ns);
    return 0;
}

static int set_up_indirect(struct xenpv_front *front)
{
    const struct xenpv_front_config *config = &front->config;
    uint32_t groups;

    if (config->max_segments <= XENPV_MAX_SEGMENTS) { /* of no use */
        front->config.max_segments = 0;
        return 0;
    }
    front->group_pages = (config->max_segments + XENPV_SEGMENTS_PER_PAGE - 1) / XENPV_SEGMENTS_PER_PAGE;
    groups = config->indirect_pages / front->group_pages;
    if (front->group_pages > XENPV_MAX_INDIRECT_PAGES || !groups)
        return -EINVAL;
    front->indirect_refs = calloc(config->indirect_pages, sizeof *front->indirect_refs);
    front->free_groups = calloc(groups, sizeof *front->free_groups);
    if (!front->indirect_refs || !front->free_groups)
        return -ENOMEM;
    memcpy(front->indirect_refs, config->indirect_refs, config->indirect_pages * sizeof *front->indirect_refs);
    while (front->free_group_count < groups) {
        front->free_groups[front->free_group_count] = groups - 1 - front->free_group_count;
        front->free_group_count++;
    }
    return 0;
}

static int set_up(struct xenpv_front *front)
{
    const struct xenpv_front_config *config = &front->config;
    int error;

    if ((config->abi != 64 && config->abi != 32) || !config->ring_pages || !config->max_ios || config->max_ios >= XENPV_NO_IO
        || (config->stamp && config->abi != 64))
        return -EINVAL;
    front->stamper = (struct xenpv_stamper){ .unit = config->stamp, .page = config->time_page,
                                             .ahead_ns = config->time_ahead_ns, .unknown = config->time_unknown };
    if (config->stamp && !(front->samples = calloc(XENPV_SAMPLES, sizeof *front->samples)))
        return -ENOMEM;
    error = set_up_latency(front);
    if (error)
        return error;
    front->port = (struct xenpv_port){ config->port, fcntl(config->wait_fd, F_DUPFD_CLOEXEC, 0),
                                       fcntl(config->notify_fd, F_DUPFD_CLOEXEC, 0) };
    if (front->port.wait_fd < 0 || front->port.notify_fd < 0)
        return -errno;
    error = xenpv_ring_attach(&front->ring, config->ring, config->ring_pages * XENPV_PAGE_SIZE,
                              XENPV_ENTRY_SIZE(config->abi), 0, (int)config->flag);
    if (error)
        return error;
    front->refs = calloc(config->pool_pages ? config->pool_pages : 1, sizeof *front->refs);
    front->ios = calloc(config->max_ios, sizeof *front->ios);
    front->shadow = calloc(front->ring.entries, sizeof *front->shadow);
    front->free_slots = calloc(front->ring.entries, sizeof *front->free_slots);
    if (!front->refs || !front->ios || !front->shadow || !front->free_slots)
        return -ENOMEM;
    if (config->pool_pages)
        memcpy(front->refs, config->pool_refs, config->pool_pages * sizeof *front->refs);
    front->free_ios = front->waiting = front->finished = (struct xenpv_io_list){ XENPV_NO_IO, XENPV_NO_IO };
    for (uint32_t i = 0; i < config->max_ios; i++)
        xenpv_io_push(front, &front->free_ios, i);
    while (front->free_count < front->ring.entries) {
        front->free_slots[front->free_count] = front->free_count;
        front->free_count++;
    }
    xenpv_spin_init(&front->spin, config->spin_ns);
    return set_up_indirect(front);
}

struct xenpv_front *xenpv_front_open(struct xenpv_hypervisor *hv, const struct xenpv_front_config *config, int *error)
{
    struct xenpv_front *front = calloc(1, sizeof *front);

    if (!front) {
        hv->close(hv);
        *error = ENOMEM;
        return NULL;
    }
    front->hv = hv;
    front->config = *config;
    front->port.wait_fd = front->port.notify_fd = -1;
    *error = -set_up(front);
    if (*error) {
        xenpv_front_close(front);
        return NULL;
    }
    front->config.pool_refs = front->config.indirect_refs = NULL; /* the caller's; not ours to keep */
    return front;
}
