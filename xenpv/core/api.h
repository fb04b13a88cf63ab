#ifndef XENPV_API_H
#define XENPV_API_H
#include <stddef.h>
#include <stdint.h>

/* The core as Python sees it: the only header that cffi reads. A function returns 0 or a count, or a negative errno. */

/* ---- emulated.c: the emulated Xen (the memory and the calls are described in emulated.h) ---- */

/* A hypervisor handle on a connected `xen` socket, which it owns from now on, also on failure (NULL, *error: errno). */
struct xenpv_hypervisor *xenpv_emulated_open(int socket, int *error);

/* Granter's side of a table page: entry `page` becomes a grant to `domid`. The page's content is seen before the grant. */
void xenpv_emulated_offer(void *table, uint32_t page, uint32_t domid, int writable);
/* Ends the grant: 0, or -EBUSY while it is mapped (the grant stands as it was). */
int xenpv_emulated_end(void *table, uint32_t page);
/* Host's side: takes back from `table` the mappings that a dead client's `maptrack` counts. Returns how many. */
int xenpv_emulated_reap(void *table, void *maptrack);

/* ---- any hypervisor ---- */

struct xenpv_map;
/* The table's map and unmap for tools and for rings; data pages are mapped inside the service loop. */
struct xenpv_map *xenpv_map_new(struct xenpv_hypervisor *hv, uint32_t domid, const uint32_t *refs, uint32_t count,
                                int writable, int *status);
uint8_t *xenpv_map_memory(struct xenpv_map *map);
int xenpv_map_end(struct xenpv_hypervisor *hv, struct xenpv_map *map);
int xenpv_notify(struct xenpv_hypervisor *hv, uint32_t port, int notify_fd);
int xenpv_take(struct xenpv_hypervisor *hv, uint32_t port, int wait_fd);
int xenpv_unmask(struct xenpv_hypervisor *hv, uint32_t port, int wait_fd);
void xenpv_hypervisor_close(struct xenpv_hypervisor *hv);

#endif
