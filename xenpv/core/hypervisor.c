/* The table of functions as Python calls it, one verb at a time: for tools, tests and rings. Data paths call the table. */
#include "hypervisor.h"

#include <errno.h>
#include <stdlib.h>

#include "api.h"

struct xenpv_map *xenpv_map_new(struct xenpv_hypervisor *hv, uint32_t domid, const uint32_t *refs, uint32_t count,
                                int writable, int *status)
{
    struct xenpv_map *map = calloc(1, sizeof *map);
    int result = map ? hv->map(hv, domid, refs, count, writable, map) : -ENOMEM;

    *status = 0;
    if (result >= 0)
        return map;
    if (result == -1)
        *status = map->status;
    free(map);
    errno = *status ? 0 : -result;
    return NULL;
}

uint8_t *xenpv_map_memory(struct xenpv_map *map)
{
    return map->memory;
}

int xenpv_map_end(struct xenpv_hypervisor *hv, struct xenpv_map *map)
{
    int result = hv->unmap(hv, map);

    free(map);
    return result;
}

int xenpv_notify(struct xenpv_hypervisor *hv, uint32_t port, int notify_fd)
{
    return hv->notify(hv, &(struct xenpv_port){.number = port, .wait_fd = -1, .notify_fd = notify_fd});
}

int xenpv_take(struct xenpv_hypervisor *hv, uint32_t port, int wait_fd)
{
    return hv->take(hv, &(struct xenpv_port){.number = port, .wait_fd = wait_fd, .notify_fd = -1});
}

int xenpv_unmask(struct xenpv_hypervisor *hv, uint32_t port, int wait_fd)
{
    return hv->unmask(hv, &(struct xenpv_port){.number = port, .wait_fd = wait_fd, .notify_fd = -1});
}

void xenpv_hypervisor_close(struct xenpv_hypervisor *hv)
{
    hv->close(hv);
}
