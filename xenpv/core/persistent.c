#include "persistent.h"

#include <errno.h>
#include <stdlib.h>

int xenpv_persistent_open(struct xenpv_persistent *table, uint32_t max)
{
    uint32_t buckets = 16;

    *table = (struct xenpv_persistent){ 0 };
    if (!max)
        return 0;
    while (buckets < 2 * max)
        buckets *= 2;
    table->entry = calloc(max, sizeof *table->entry);
    table->bucket = calloc(buckets, sizeof *table->bucket);
    if (!table->entry || !table->bucket)
        return -ENOMEM; /* the caller closes */
    table->max = max;
    table->mask = buckets - 1;
    return 0;
}

void xenpv_persistent_close(struct xenpv_persistent *table, struct xenpv_hypervisor *hv)
{
    for (uint32_t i = 0; i < table->count; i++)
        if (table->entry[i].valid)
            hv->unmap(hv, &table->entry[i].map);
    free(table->entry);
    free(table->bucket);
    *table = (struct xenpv_persistent){ 0 };
}

static uint32_t home(const struct xenpv_persistent *table, uint32_t ref)
{
    return (ref * 2654435761u >> 8) & table->mask;
}

/* The bucket that holds `ref`, or the empty one where it would go. */
static uint32_t find(const struct xenpv_persistent *table, uint32_t ref)
{
    uint32_t at = home(table, ref);

    while (table->bucket[at] && table->entry[table->bucket[at] - 1].ref != ref)
        at = (at + 1) & table->mask;
    return at;
}

/* Removes from the buckets by moving back what a search would no longer reach. */
static void unlink_bucket(struct xenpv_persistent *table, uint32_t at)
{
    uint32_t gap = at;

    for (at = (at + 1) & table->mask; table->bucket[at]; at = (at + 1) & table->mask) {
        uint32_t wants = home(table, table->entry[table->bucket[at] - 1].ref);
        if (((at - wants) & table->mask) >= ((at - gap) & table->mask)) {
            table->bucket[gap] = table->bucket[at];
            gap = at;
        }
    }
    table->bucket[gap] = 0;
}

/* A free entry: a new one, or the least recently used that nobody uses now. NULL when all are in use. */
static struct xenpv_standing *make_room(struct xenpv_persistent *table, struct xenpv_hypervisor *hv)
{
    struct xenpv_standing *oldest = NULL;

    if (table->count < table->max)
        return &table->entry[table->count++];
    for (uint32_t i = 0; i < table->count; i++) {
        struct xenpv_standing *entry = &table->entry[i];
        if (!entry->valid)
            return entry;
        /* Signed difference of a counter that wraps. */
        if (!entry->pins && (!oldest || (int32_t)(entry->used - oldest->used) < 0))
            oldest = entry;
    }
    if (oldest) {
        unlink_bucket(table, find(table, oldest->ref));
        hv->unmap(hv, &oldest->map);
        oldest->valid = 0;
    }
    return oldest;
}

uint32_t xenpv_persistent_pin(struct xenpv_persistent *table, struct xenpv_hypervisor *hv, uint32_t domid, uint32_t ref)
{
    struct xenpv_standing *entry;
    uint32_t at;

    if (!table->max)
        return XENPV_NO_PIN;
    at = find(table, ref);
    if (!table->bucket[at]) {
        struct xenpv_map map;
        /* Frontends that keep grants grant them writable; one that does not is mapped for the request alone. */
        if (hv->map(hv, domid, &ref, 1, 1, &map) != 0)
            return XENPV_NO_PIN;
        entry = make_room(table, hv);
        if (!entry) {
            hv->unmap(hv, &map);
            return XENPV_NO_PIN;
        }
        *entry = (struct xenpv_standing){ .map = map, .ref = ref, .valid = 1 };
        at = find(table, ref); /* make_room may have moved buckets */
        table->bucket[at] = (uint32_t)(entry - table->entry) + 1;
    }
    entry = &table->entry[table->bucket[at] - 1];
    entry->used = table->clock++;
    entry->pins++;
    return (uint32_t)(entry - table->entry);
}

void xenpv_persistent_unpin(struct xenpv_persistent *table, uint32_t pin)
{
    table->entry[pin].pins--;
}
