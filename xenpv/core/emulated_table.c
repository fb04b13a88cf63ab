/* Entries of a table page, and the maptrack beside it (the layout stands in emulated.h).
 *
 * Both domains of the pair can write the page, so nothing read here is trusted: a count never goes below zero or past its
 * field, whatever stands there. A peer that lies can spoil the segment that it shares with us, and nothing else. */
#include <errno.h>
#include <stddef.h>

#include "emulated_internal.h"

#include "api.h"

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "the entries are laid out as Xen's, and no big-endian machine runs Xen"
#endif

_Static_assert(sizeof(xenpv_entry) == 8 && ATOMIC_LLONG_LOCK_FREE == 2, "an entry is changed by one lock-free operation");
_Static_assert(sizeof(xenpv_track) == 4 && ATOMIC_INT_LOCK_FREE == 2, "a maptrack word too");

/* GTF_* (public/grant_table.h), and where the fields of an entry stand. */
#define TYPE_MASK UINT64_C(3)
#define PERMIT_ACCESS UINT64_C(1)
#define READONLY (UINT64_C(1) << 2)
#define READING (UINT64_C(1) << 3)
#define WRITING (UINT64_C(1) << 4)
#define DOMID_SHIFT 16
#define PAGE_SHIFT 32
#define READ_SHIFT 40
#define WRITE_SHIFT 52
#define COUNT_MAX 0xfffu
#define TRACK_MAX 0xffffu

static uint32_t readers(uint64_t entry)
{
    return (uint32_t)(entry >> READ_SHIFT) & COUNT_MAX;
}

static uint32_t writers(uint64_t entry)
{
    return (uint32_t)(entry >> WRITE_SHIFT) & COUNT_MAX;
}

/* `entry` with so many mappings fewer: a flag goes with the last mapping that it stands for, not before. */
static uint64_t lowered(uint64_t entry, uint32_t read, uint32_t write)
{
    uint32_t r = readers(entry), w = writers(entry);

    r = read < r ? r - read : 0;
    w = write < w ? w - write : 0;
    entry &= ~((uint64_t)COUNT_MAX << READ_SHIFT | (uint64_t)COUNT_MAX << WRITE_SHIFT | READING | WRITING);
    entry |= (uint64_t)r << READ_SHIFT | (uint64_t)w << WRITE_SHIFT;
    return entry | (r || w ? READING : 0) | (w ? WRITING : 0);
}

static xenpv_track *word_of(void *table, size_t offset)
{
    return (xenpv_track *)((uint8_t *)table + offset);
}

int xenpv_table_ended(xenpv_entry *table)
{
    return atomic_load_explicit(word_of(table, XENPV_TABLE_ENDED), memory_order_relaxed) != 0;
}

/* The host's fault injection: the status that this map is to fail with, or 0. */
static int16_t injected(xenpv_entry *table)
{
    xenpv_entry *fault = &table[XENPV_TABLE_FAULT / sizeof *table];
    uint64_t old = atomic_load_explicit(fault, memory_order_relaxed);

    while (old) {
        uint32_t pass = (uint32_t)old, times = (uint32_t)(old >> 32) & 0xffff;
        uint64_t next = pass ? old - 1 : times > 1 ? old - (UINT64_C(1) << 32) : 0;

        if (atomic_compare_exchange_weak_explicit(fault, &old, next, memory_order_relaxed, memory_order_relaxed))
            return pass ? 0 : (int16_t)(uint16_t)(old >> 48);
    }
    return 0;
}

int16_t xenpv_entry_map(xenpv_entry *table, xenpv_track *track, uint32_t page, uint32_t domid, int writable)
{
    uint64_t old = atomic_load_explicit(&table[page], memory_order_relaxed);
    uint32_t ours = atomic_load_explicit(&track[page], memory_order_relaxed);
    int16_t status = injected(table);

    if (status)
        return status;
    if ((writable ? ours >> 16 : ours & TRACK_MAX) == TRACK_MAX)
        return XENPV_GNTST_NO_SPACE;
    for (;;) {
        uint64_t next;

        /* Xen tells none of these from another (common/grant_table.c, map_grant_ref and _set_status). */
        if ((old & TYPE_MASK) != PERMIT_ACCESS || (old >> DOMID_SHIFT & 0xffff) != domid ||
            (writable && (old & READONLY)) || (writable ? writers(old) : readers(old)) == COUNT_MAX)
            return XENPV_GNTST_GENERAL;
        next = (old | READING | (writable ? WRITING : 0)) + (UINT64_C(1) << (writable ? WRITE_SHIFT : READ_SHIFT));
        /* acquire, with the release in offer: whoever maps sees what the granter wrote before it granted. It also keeps
         * the maptrack behind the entry: see emulated.h for why a client must die in this order. */
        if (atomic_compare_exchange_weak_explicit(&table[page], &old, next, memory_order_acquire, memory_order_relaxed))
            break;
    }
    atomic_fetch_add_explicit(&track[page], writable ? 0x10000u : 1u, memory_order_relaxed);
    return XENPV_GNTST_OKAY;
}

void xenpv_entry_unmap(xenpv_entry *table, xenpv_track *track, uint32_t page, int writable)
{
    uint64_t old;

    atomic_fetch_sub_explicit(&track[page], writable ? 0x10000u : 1u, memory_order_relaxed);
    old = atomic_load_explicit(&table[page], memory_order_relaxed);
    /* release: what we wrote to the page, and the maptrack's lower count, are seen before the entry's lower count. */
    while (!atomic_compare_exchange_weak_explicit(&table[page], &old, lowered(old, !writable, !!writable),
                                                  memory_order_release, memory_order_relaxed))
        ;
}

void xenpv_emulated_offer(void *table, uint32_t page, uint32_t domid, int writable)
{
    uint64_t entry = PERMIT_ACCESS | (writable ? 0 : READONLY) | (uint64_t)domid << DOMID_SHIFT |
                     (uint64_t)page << PAGE_SHIFT;

    /* release: the page's zeroes or content are seen before the grant. */
    atomic_store_explicit((xenpv_entry *)table + page, entry, memory_order_release);
}

int xenpv_emulated_end(void *table, uint32_t page)
{
    xenpv_entry *entry = (xenpv_entry *)table + page;
    uint64_t old = atomic_load_explicit(entry, memory_order_relaxed);

    do {
        if (readers(old) || writers(old))
            return -EBUSY;
        /* acquire, with the release in unmap: what the peer wrote is seen before the page is zeroed and used again. One
         * operation looks and ends (XSA-396: between a look and an end the peer could map). */
    } while (!atomic_compare_exchange_weak_explicit(entry, &old, 0, memory_order_acquire, memory_order_relaxed));
    return 0;
}

int xenpv_emulated_reap(void *table, void *maptrack)
{
    xenpv_entry *entries = table;
    xenpv_track *track = maptrack;
    int taken = 0;

    for (uint32_t page = 0; page < XENPV_SEGMENT_PAGES; page++) {
        uint32_t ours = atomic_exchange_explicit(&track[page], 0, memory_order_acquire);
        uint64_t old = atomic_load_explicit(&entries[page], memory_order_relaxed);

        if (!ours)
            continue;
        /* release: the dead client's writes are seen before its mapping is seen gone (its exit came before this call). */
        while (!atomic_compare_exchange_weak_explicit(&entries[page], &old, lowered(old, ours & TRACK_MAX, ours >> 16),
                                                      memory_order_release, memory_order_relaxed))
            ;
        taken += (int)(ours & TRACK_MAX) + (int)(ours >> 16);
    }
    return taken;
}

void xenpv_emulated_forget(void *table)
{
    xenpv_entry *entries = table;

    for (uint32_t page = 0; page < XENPV_SEGMENT_PAGES; page++) {
        uint64_t old = atomic_load_explicit(&entries[page], memory_order_relaxed);

        /* release, as in reap. */
        while (!atomic_compare_exchange_weak_explicit(&entries[page], &old, lowered(old, COUNT_MAX, COUNT_MAX),
                                                      memory_order_release, memory_order_relaxed))
            ;
    }
}
