/* Persistent grants: pages that stay mapped between requests, found by grant reference, least recently used out first. */
#ifndef XENPV_PERSISTENT_H
#define XENPV_PERSISTENT_H

#include <stdint.h>

#include "hypervisor.h"

#define XENPV_NO_PIN UINT32_MAX

struct xenpv_standing {
    struct xenpv_map map;
    uint32_t ref;
    uint32_t newer, older; /* neighbours by last use */
    uint32_t pins;         /* requests that use it now */
};

struct xenpv_persistent {
    struct xenpv_standing *entry; /* max of them */
    uint32_t *bucket;             /* open addressing: entry number + 1, 0 empty */
    uint32_t max, count, mask;
    uint32_t newest, oldest;
};

/* 0 or -ENOMEM. max 0: no table. */
int xenpv_persistent_open(struct xenpv_persistent *table, uint32_t max);
void xenpv_persistent_close(struct xenpv_persistent *table, struct xenpv_hypervisor *hv);
/* The standing mapping of `ref`, made now if there is none; XENPV_NO_PIN: map it for this request alone. */
uint32_t xenpv_persistent_pin(struct xenpv_persistent *table, struct xenpv_hypervisor *hv, uint32_t domid, uint32_t ref);
void xenpv_persistent_unpin(struct xenpv_persistent *table, uint32_t pin);

#endif
