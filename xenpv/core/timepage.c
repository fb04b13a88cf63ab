/* The time page: dom0's tick, written by one thread and read by another domain that has it mapped read-only.
 *
 * RULES (tests/model/seqlock_model.py has the same steps under every order of stores)
 * 1. Writer: the sequence word becomes odd; that is seen before any field of the update; the fields are seen before the
 *    word becomes even again. A word left odd by a writer that died is made even by nobody: its page is dead.
 * 2. Reader: the word first, the fields after it, the word again; equal and even, or all that was read is thrown away.
 * 3. Every access to a shared word is an atomic one of at most 64 bits: a field is never torn in itself.
 * 4. The fields above `tick` do not change once the magic number is there, but for `alive` and `paused`, which are whole
 *    in themselves and stand outside the sequence. */
#include <errno.h>
#include <stdatomic.h>
#include <string.h>
#include <time.h>

#include "api.h"

#define PAGE_BYTES 4096u
#define TICK_TRIES 32u /* of the one read that may stand in a data path */
#define TICK_NSEC_MIN 100000u    /* HZ 10000 */
#define TICK_NSEC_MAX 100000000u /* HZ 10 */

_Static_assert(sizeof(struct xenpv_time_page) % 8 == 0 && sizeof(struct xenpv_time_page) <= PAGE_BYTES, "copied by words");
_Static_assert(offsetof(struct xenpv_time_page, history) == XENPV_TIME_SIZE_MIN, "what every reader relies on");

static uint64_t load64(const void *at)
{
    return atomic_load_explicit((const _Atomic uint64_t *)at, memory_order_relaxed);
}

static void store64(void *at, uint64_t value)
{
    atomic_store_explicit((_Atomic uint64_t *)at, value, memory_order_relaxed);
}

static const _Atomic uint32_t *sequence_of(const struct xenpv_time_page *page)
{
    return (const _Atomic uint32_t *)&page->sequence;
}

void xenpv_time_init(void *memory, const struct xenpv_time_page *facts)
{
    struct xenpv_time_page *page = memory;

    *page = *facts;
    page->magic = 0;
    page->size = sizeof *page;
    page->major = XENPV_TIME_MAJOR;
    page->minor = XENPV_TIME_MINOR;
    page->sequence = 0;
    page->history_slots = XENPV_TIME_HISTORY;
    /* release: who reads the magic number sees a page that is valid as a whole. The reference is told only after this. */
    atomic_store_explicit((_Atomic uint32_t *)&page->magic, XENPV_TIME_MAGIC, memory_order_release);
}

void xenpv_time_write(void *memory, uint64_t tick, uint64_t ns, uint64_t written_ns, uint64_t disruptions, uint64_t missed)
{
    struct xenpv_time_page *page = memory;
    struct xenpv_time_point *slot = &page->history[tick % XENPV_TIME_HISTORY];
    _Atomic uint32_t *sequence = (_Atomic uint32_t *)&page->sequence;
    uint32_t odd = atomic_load_explicit(sequence, memory_order_relaxed) | 1;

    atomic_store_explicit(sequence, odd, memory_order_relaxed);
    /* release fence: the odd word is seen before any of the stores below. With a release store alone it could be seen
     * after them, for that orders only what comes before it. */
    atomic_thread_fence(memory_order_release);
    store64(&page->tick, tick);
    store64(&page->ns, ns);
    store64(&page->written_ns, written_ns);
    store64(&page->disruptions, disruptions);
    store64(&page->missed, missed);
    store64(&slot->tick, tick);
    store64(&slot->ns, ns);
    /* release: the fields are seen before the word is even. */
    atomic_store_explicit(sequence, odd + 1, memory_order_release);
}

void xenpv_time_set_alive(void *memory, int alive)
{
    atomic_store_explicit((_Atomic uint8_t *)&((struct xenpv_time_page *)memory)->alive, !!alive, memory_order_release);
}

void xenpv_time_set_paused(void *memory, int paused)
{
    atomic_store_explicit((_Atomic uint32_t *)&((struct xenpv_time_page *)memory)->paused, !!paused, memory_order_release);
}

/* What a copy must say to be believed. */
static int well_formed(const struct xenpv_time_page *copy)
{
    return copy->magic == XENPV_TIME_MAGIC && copy->major == XENPV_TIME_MAJOR && copy->size >= XENPV_TIME_SIZE_MIN &&
           copy->size <= PAGE_BYTES && copy->size % 8 == 0 && copy->tick_nsec >= TICK_NSEC_MIN &&
           copy->tick_nsec <= TICK_NSEC_MAX && copy->hz != 0 &&
           (copy->history_slots == XENPV_TIME_HISTORY || copy->size < sizeof *copy);
}

int xenpv_time_read(const void *memory, struct xenpv_time_page *out, uint32_t tries)
{
    const struct xenpv_time_page *page = memory;

    /* acquire, with the release in init: whoever finds the magic number finds the size that belongs to it. */
    if (atomic_load_explicit((const _Atomic uint32_t *)&page->magic, memory_order_acquire) != XENPV_TIME_MAGIC)
        return -EPROTO;
    while (tries-- > 0) {
        /* acquire: the fields are read after the word, and so are of this update or of a later one. */
        uint32_t before = atomic_load_explicit(sequence_of(page), memory_order_acquire), size;

        if (before & 1)
            continue;
        memset(out, 0, sizeof *out);
        size = atomic_load_explicit((const _Atomic uint32_t *)&page->size, memory_order_relaxed);
        if (size > sizeof *out)
            size = sizeof *out;
        if (size < XENPV_TIME_SIZE_MIN) /* refused below, in words that name it */
            size = XENPV_TIME_SIZE_MIN;
        for (uint32_t at = 0; at + 8 <= size; at += 8) {
            uint64_t word = load64((const uint8_t *)memory + at);

            memcpy((uint8_t *)out + at, &word, 8);
        }
        /* acquire fence, with the release fence in write: if a field was of a later update, its odd word is seen here. */
        atomic_thread_fence(memory_order_acquire);
        if (atomic_load_explicit(sequence_of(page), memory_order_relaxed) != before)
            continue;
        out->sequence = before; /* its own word was copied with the rest, at another moment */
        return well_formed(out) ? 0 : -EPROTO;
    }
    return -EAGAIN;
}

int xenpv_time_tick(const void *memory, uint64_t *tick)
{
    uint64_t disruptions;

    return xenpv_time_look(memory, tick, &disruptions);
}

int xenpv_time_look(const void *memory, uint64_t *tick, uint64_t *disruptions)
{
    const struct xenpv_time_page *page = memory;

    for (uint32_t tries = 0; tries < TICK_TRIES; tries++) {
        uint32_t before = atomic_load_explicit(sequence_of(page), memory_order_acquire); /* as in xenpv_time_read */
        uint64_t value = load64(&page->tick), marker = load64(&page->disruptions);

        atomic_thread_fence(memory_order_acquire);
        if ((before & 1) || atomic_load_explicit(sequence_of(page), memory_order_relaxed) != before)
            continue;
        *tick = value;
        *disruptions = marker;
        if (!xenpv_time_alive(page) || atomic_load_explicit((const _Atomic uint32_t *)&page->paused, memory_order_relaxed))
            return -ESTALE;
        return 0;
    }
    return -EAGAIN;
}

int xenpv_time_alive(const void *memory)
{
    const struct xenpv_time_page *page = memory;

    return atomic_load_explicit((const _Atomic uint8_t *)&page->alive, memory_order_acquire) == 1;
}

static double now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return 1e9 * (double)now.tv_sec + (double)now.tv_nsec;
}

void xenpv_time_measure(const void *page, uint32_t rounds, struct xenpv_time_cost *out)
{
    int (*volatile read)(const void *, uint64_t *) = xenpv_time_tick; /* a call, as from anywhere else */
    struct timespec now;
    uint64_t tick;
    double start = now_ns();

    for (uint32_t i = 0; i < rounds; i++)
        (void)read(page, &tick);
    out->tick = (now_ns() - start) / rounds;
    start = now_ns();
    for (uint32_t i = 0; i < rounds; i++)
        clock_gettime(CLOCK_MONOTONIC, &now);
    out->monotonic = (now_ns() - start) / rounds;
    start = now_ns();
    for (uint32_t i = 0; i < rounds; i++)
        clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
    out->coarse = (now_ns() - start) / rounds;
}
