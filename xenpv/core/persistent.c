#include "persistent.h"

#include <errno.h>
#include <stdlib.h>

#define NONE UINT32_MAX

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
    table->newest = table->oldest = NONE;
    table->mask = buckets - 1;
    return 0;
}

void xenpv_persistent_close(struct xenpv_persistent *table, struct xenpv_hypervisor *hv)
{
    for (uint32_t i = 0; i < table->count; i++)
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

static void take_out(struct xenpv_persistent *table, uint32_t i)
{
    struct xenpv_standing *entry = &table->entry[i];

    *(entry->newer == NONE ? &table->newest : &table->entry[entry->newer].older) = entry->older;
    *(entry->older == NONE ? &table->oldest : &table->entry[entry->older].newer) = entry->newer;
}

static void put_newest(struct xenpv_persistent *table, uint32_t i)
{
    table->entry[i].newer = NONE;
    table->entry[i].older = table->newest;
    *(table->newest == NONE ? &table->oldest : &table->entry[table->newest].newer) = i;
    table->newest = i;
}

/* A free entry: a new one, or the least recently used that nobody uses now. NONE when all are in use. */
static uint32_t make_room(struct xenpv_persistent *table, struct xenpv_hypervisor *hv)
{
    uint32_t i = table->oldest;

    if (table->count < table->max)
        return table->count++;
    while (i != NONE && table->entry[i].pins) /* no more steps than there are pages in flight */
        i = table->entry[i].newer;
    if (i != NONE) {
        unlink_bucket(table, find(table, table->entry[i].ref));
        hv->unmap(hv, &table->entry[i].map);
        take_out(table, i);
    }
    return i;
}

uint32_t xenpv_persistent_pin(struct xenpv_persistent *table, struct xenpv_hypervisor *hv, uint32_t domid, uint32_t ref)
{
    uint32_t at, i;

    if (!table->max)
        return XENPV_NO_PIN;
    at = find(table, ref);
    if (table->bucket[at]) {
        i = table->bucket[at] - 1;
        take_out(table, i);
    } else {
        struct xenpv_map map;
        /* Frontends that keep grants grant them writable; one that does not is mapped for the request alone. */
        if (hv->map(hv, domid, &ref, 1, 1, &map) != 0)
            return XENPV_NO_PIN;
        i = make_room(table, hv);
        if (i == NONE) {
            hv->unmap(hv, &map);
            return XENPV_NO_PIN;
        }
        table->entry[i] = (struct xenpv_standing){ .map = map, .ref = ref };
        table->bucket[find(table, ref)] = i + 1; /* make_room may have moved buckets */
    }
    put_newest(table, i);
    table->entry[i].pins++;
    return i;
}

void xenpv_persistent_unpin(struct xenpv_persistent *table, uint32_t pin)
{
    table->entry[pin].pins--;
}
