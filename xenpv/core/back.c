#include "back.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

void xenpv_back_close(struct xenpv_back *back)
{
    if (!back)
        return;
    xenpv_spin_stop(&back->spin);
    if (back->slots)
        for (uint32_t i = 0; i < back->ring.entries; i++)
            xenpv_data_release(back, &back->slots[i]);
    xenpv_persistent_close(&back->persistent, back->hv);
    if (back->ring_map.memory)
        back->hv->unmap(back->hv, &back->ring_map);
    back->hv->close(back->hv);
    xenpv_blocks_close(back);
    if (back->port.wait_fd >= 0)
        close(back->port.wait_fd);
    if (back->port.notify_fd >= 0)
        close(back->port.notify_fd);
    free(back->slots);
    free(back->free);
    free(back->answered);
    free(back->replay);
    free(back);
}

static int newest_first(const void *a, const void *b, void *journal)
{
    const struct xenpv_taken *taken = ((const struct xenpv_journal *)journal)->taken;

    return (int32_t)(taken[*(const uint32_t *)b].index - taken[*(const uint32_t *)a].index) < 0 ? -1 : 1;
}

/* What a predecessor took and did not answer comes first, in its order: a barrier may be among it. Every other slot is free. */
static void take_over(struct xenpv_back *back)
{
    uint32_t entries = back->ring.entries;

    back->replay_count = xenpv_journal_unanswered(back->journal, back->ring.published, back->replay);
    qsort_r(back->replay, back->replay_count, sizeof *back->replay, newest_first, back->journal); /* taken from the end */
    for (uint32_t i = 0; i < entries; i++) {
        back->slots[i].back = back;
        back->slots[i].index = i;
        back->slots[i].block = XENPV_NO_BLOCK;
        if (!back->journal->taken[i].valid)
            back->free[back->free_count++] = i;
    }
}

static int set_up(struct xenpv_back *back)
{
    const struct xenpv_back_config *config = &back->config;
    uint64_t resolution_ns = 0;
    uint32_t entries;
    int error;

    if ((config->abi != 64 && config->abi != 32) || !config->ring_pages || !config->journal || !config->stats
        || config->sector_size < XENPV_SECTOR || config->sector_size > XENPV_PAGE_SIZE
        || (config->sector_size & (config->sector_size - 1)) || (config->stamp && config->abi != 64))
        return -EINVAL;
    back->stamper = (struct xenpv_stamper){ .unit = config->stamp, .page = config->time_page };
    back->stamper.counts = (config->stamp || config->latency) && xenpv_counted_can();
    if (config->latency && !(resolution_ns = xenpv_latency_clock(&back->stamper, config->clock)))
        return -EINVAL;
    back->port = (struct xenpv_port){ config->port, fcntl(config->wait_fd, F_DUPFD_CLOEXEC, 0),
                                      fcntl(config->notify_fd, F_DUPFD_CLOEXEC, 0) };
    if (back->port.wait_fd < 0 || back->port.notify_fd < 0)
        return -errno;
    error = back->hv->map(back->hv, config->domid, config->ring_refs, config->ring_pages, 1, &back->ring_map);
    if (error)
        return error == -1 ? -EACCES : error;
    error = xenpv_ring_attach(&back->ring, back->ring_map.memory, config->ring_pages * XENPV_PAGE_SIZE,
                              XENPV_ENTRY_SIZE(config->abi), 1, (int)config->flag);
    if (error)
        return error;
    entries = back->ring.entries;
    if (!config->adopt)
        /* A new connection: what a journal still holds belongs to a ring that is gone. */
        memset(config->journal, 0, xenpv_journal_bytes(entries));
    error = xenpv_journal_attach(back->journal, entries, back->ring.consumed);
    if (error)
        return error;
    if (config->adopt) {
        /* The journal knows what was taken; more than the ring holds unanswered cannot have been. */
        if (back->journal->taken_to - back->ring.published > entries)
            return -EPROTO;
        back->ring.consumed = back->journal->taken_to;
    }
    back->slots = calloc(entries, sizeof *back->slots);
    back->free = calloc(entries, sizeof *back->free);
    back->answered = calloc(entries, sizeof *back->answered);
    back->replay = calloc(entries, sizeof *back->replay);
    if (!back->slots || !back->free || !back->answered || !back->replay)
        return -ENOMEM;
    error = xenpv_blocks_open(back, config->fd < 0 || config->data == XENPV_DATA_COPY
                                    || (config->data == XENPV_DATA_AUTO && !back->hv->direct));
    if (error)
        return error;
    error = xenpv_persistent_open(&back->persistent, config->persistent);
    if (error)
        return error;
    take_over(back);
    if (config->adopt)
        /* A predecessor may have died between showing a response and notifying: the frontend would sleep for ever. */
        back->hv->notify(back->hv, &back->port);
    xenpv_spin_init(&back->spin, config->spin_ns);
    back->stats->version = XENPV_STATS_VERSION;
    back->stats->magic = XENPV_STATS_MAGIC;
    back->stats->halted = 0;
    back->stats->stamp_unit = back->stamper.unit;
    back->epoch = xenpv_stamp_now(&back->stamper).epoch;
    back->disrupted_to = back->ring.consumed;
    if (config->latency) {
        back->latency = config->latency;
        xenpv_latency_attach(back->latency, XENPV_LATENCY_BACK, back->stamper.unit, resolution_ns);
    }
    return 0;
}

struct xenpv_back *xenpv_back_open(struct xenpv_hypervisor *hv, const struct xenpv_back_config *config, int *error)
{
    struct xenpv_back *back = calloc(1, sizeof *back);

    if (!back) {
        hv->close(hv);
        *error = ENOMEM;
        return NULL;
    }
    back->hv = hv;
    back->config = *config;
    back->stats = config->stats;
    back->journal = config->journal;
    back->port.wait_fd = back->port.notify_fd = -1;
    *error = -set_up(back);
    if (*error) {
        xenpv_back_close(back);
        return NULL;
    }
    back->config.ring_refs = NULL; /* the caller's; not ours to keep */
    return back;
}

void xenpv_back_resize(struct xenpv_back *back, uint64_t sectors)
{
    __atomic_store_n(&back->config.sectors, sectors, __ATOMIC_RELAXED); /* see range_is_bad */
}

void xenpv_back_set_time_page(struct xenpv_back *back, const void *page)
{
    if (back->config.stamp == XENPV_STAMP_TICK)
        xenpv_latency_set_page(back->latency, &back->stamper, page);
}

int xenpv_back_halted(const struct xenpv_back *back)
{
    return back->halted;
}

/* The time of this look at the ring, in which `waiting` requests stand. */
static struct xenpv_stamp look_at_time(struct xenpv_back *back, uint32_t waiting)
{
    struct xenpv_stamp now = xenpv_stamp_now(&back->stamper);

    if (now.value && now.epoch != back->epoch) {
        back->epoch = now.epoch;
        back->disrupted_to = back->ring.consumed + waiting;
    } else if ((int32_t)(back->ring.consumed - back->disrupted_to) > 0) {
        back->disrupted_to = back->ring.consumed; /* never so far behind that it seems to be ahead */
    }
    return now;
}

/* Decodes and checks the copy in the journal. 1: to be done; 0: it was answered. */
static uint32_t decode(struct xenpv_back *back, struct xenpv_slot *slot, struct xenpv_stamp now)
{
    const struct xenpv_taken *taken = &back->journal->taken[slot->index];
    const uint8_t *raw = taken->raw;
    int status = xenpv_request_check(back, raw, slot);

    slot->reached = 0;
    if (back->stamper.unit) {
        slot->submitted = back->config.stamp && (int32_t)(taken->index - back->disrupted_to) >= 0
                              ? xenpv_get_u32(raw + XENPV_AT_SUBMIT) : 0;
        slot->fetched = slot->started = slot->ended = now;
        if (back->config.stamp)
            xenpv_back_judge(back, slot);
    }

    if (!status)
        return 1;
    back->stats->refused++;
    slot->segments = 0; /* there is no data to give back */
    xenpv_back_answer(back, slot, status);
    return 0;
}

/* Gets the data of all ready. Those whose grants do not allow it are answered. How many are left. */
static uint32_t begin(struct xenpv_back *back, struct xenpv_slot **slots, uint32_t count)
{
    uint32_t left = 0;

    xenpv_data_begin(back, slots, count);
    for (uint32_t i = 0; i < count; i++) {
        struct xenpv_slot *slot = slots[i];
        if (!slot->status) {
            slots[left++] = slot;
            continue;
        }
        slot->segments = 0;
        xenpv_back_answer(back, slot, slot->status);
    }
    return left;
}

/* 1: the request in `raw` may begin now, in `slot`, beside the `found` of this turn. 0: the queue is stalled. */
static int may_begin(struct xenpv_back *back, struct xenpv_slot *slot, const uint8_t *raw, uint32_t found)
{
    int barrier = raw[XENPV_AT_OP] == XENPV_OP_BARRIER && back->config.barrier;

    back->stalled = back->barrier || (barrier && (found || back->out)) || xenpv_blocks_take(back, slot, raw) != 0;
    back->barrier |= barrier && !back->stalled;
    return !back->stalled;
}

int xenpv_back_take(struct xenpv_back *back, struct xenpv_slot **slots, uint32_t max, uint32_t *count)
{
    uint32_t taken = 0, found = 0;
    struct xenpv_stamp now = { 0, 0 };
    int64_t waiting;

    *count = 0;
    back->stalled = 0;
    if (back->halted)
        return -EPROTO;
    waiting = xenpv_ring_available(&back->ring); /* once: what comes in after this look has its stamp at the next one */
    if (back->stamper.unit && (back->replay_count || waiting > 0))
        now = look_at_time(back, waiting > 0 ? (uint32_t)waiting : 0);
    for (; back->replay_count && taken < max; taken++) {
        struct xenpv_slot *slot = &back->slots[back->replay[back->replay_count - 1]];
        if (!may_begin(back, slot, back->journal->taken[slot->index].raw, found))
            break;
        back->replay_count--;
        back->stats->replayed++;
        slots[found] = slot;
        found += decode(back, slot, now);
    }
    if (back->stalled)
        waiting = 0;
    if (waiting < 0) {
        *count = begin(back, slots, found);
        back->halted = 1;
        back->stats->halted = 1;
        return (int)waiting;
    }
    for (; waiting && taken < max && back->free_count; waiting--, taken++) {
        struct xenpv_slot *slot = &back->slots[back->free[back->free_count - 1]];
        struct xenpv_taken *copy = &back->journal->taken[slot->index];
        /* The one read of the frontend's slot. Its bytes may change from here on; the copy does not. */
        memcpy(copy->raw, xenpv_ring_slot(&back->ring, back->ring.consumed), back->ring.entry_size);
        if (!may_begin(back, slot, copy->raw, found))
            break; /* it was not taken, and is read anew */
        back->free_count--;
        xenpv_journal_take(back->journal, slot->index, back->ring.consumed);
        back->ring.consumed++;
        slots[found] = slot;
        found += decode(back, slot, now);
    }
    *count = begin(back, slots, found);
    if (taken)
        back->stats->batches++;
    return (int)taken;
}

static void count(struct xenpv_back_stats *stats, const struct xenpv_slot *slot)
{
    stats->requests[slot->wire_op & 7]++;
    stats->indirect += slot->indirect;
    if (slot->status != XENPV_RSP_OKAY)
        return;
    if (slot->op == XENPV_OP_READ)
        stats->bytes_read += slot->bytes;
    else if (slot->op == XENPV_OP_WRITE)
        stats->bytes_written += slot->bytes;
    else if (slot->op == XENPV_OP_DISCARD)
        stats->bytes_discarded += slot->bytes;
}

void xenpv_back_answer(struct xenpv_back *back, struct xenpv_slot *slot, int status)
{
    slot->status = status;
    back->barrier = 0; /* while one is in flight, there is nothing else to answer */
    back->answered[back->answered_count++] = slot->index;
}

static void respond(struct xenpv_back *back, const struct xenpv_slot *slot, struct xenpv_stamp now)
{
    /* Written whole: a response shows the frontend no byte that we did not mean to send (XSA-216). */
    uint8_t response[XENPV_STAMPED_RESPONSE] = { 0 };
    size_t size = XENPV_RESPONSE_SIZE(back->config.abi);

    count(back->stats, slot);
    if (back->stamper.unit)
        xenpv_back_stages(back, slot, now);
    if (back->config.stamp) {
        xenpv_put_u32(response + XENPV_AT_FETCHED, slot->fetched.value);
        xenpv_put_u32(response + XENPV_AT_STARTED, slot->started.value);
        xenpv_put_u32(response + XENPV_AT_ENDED, slot->ended.value);
        xenpv_put_u32(response + XENPV_AT_ANSWERED, now.value);
        size = sizeof response;
    }
    xenpv_put_u64(response + XENPV_AT_RSP_ID, slot->id);
    response[XENPV_AT_RSP_OP] = slot->wire_op;
    xenpv_put_u16(response + XENPV_AT_RSP_STATUS, (uint16_t)(int16_t)slot->status);
    xenpv_journal_answer(back->journal, slot->index, back->ring.produced);
    memcpy(xenpv_ring_slot(&back->ring, back->ring.produced), response, size);
    back->ring.produced++;
}

void xenpv_back_respond(struct xenpv_back *back)
{
    struct xenpv_stamp now;

    xenpv_data_end(back); /* unmapped before the frontend can see the answers */
    now = xenpv_stamp_now(&back->stamper);
    for (; back->responded < back->answered_count; back->responded++)
        respond(back, &back->slots[back->answered[back->responded]], now);
}

void xenpv_back_publish(struct xenpv_back *back)
{
    if (!back->answered_count)
        return;
    xenpv_back_respond(back);
    if (xenpv_ring_publish(&back->ring, back->ring.produced))
        back->hv->notify(back->hv, &back->port);
    while (back->answered_count) {
        uint32_t slot = back->answered[--back->answered_count];
        xenpv_blocks_give(back, &back->slots[slot]);
        xenpv_journal_free(back->journal, slot);
        back->free[back->free_count++] = slot;
    }
    back->responded = 0;
    back->stats->notifications = back->ring.notifications;
    back->stats->notifications_saved = back->ring.saved;
    back->stats->in_flight = back->out;
}

void xenpv_back_wake(struct xenpv_back *back)
{
    if (back->hv->take(back->hv, &back->port) > 0) {
        back->taken_event = 1;
        back->stats->events++;
    }
    xenpv_spin_woke(&back->spin);
    xenpv_ring_run(&back->ring);
}

int xenpv_back_rest(struct xenpv_back *back)
{
    int waits = back->stalled && back->out; /* what is in the ring is for the turn after an answer */

    if (back->halted)
        return 1;
    /* SLEEPING first, then the look, then the port, then sleep. An event of
     * between is kept by the masked port and delivered when it is unmasked. */
    /* Not worth a change of the word, which may cost a notification. */
    if (!waits && (back->replay_count || xenpv_ring_available(&back->ring) != 0))
        return 0;
    if (xenpv_ring_arm(&back->ring) != 0 && !waits) {
        xenpv_ring_run(&back->ring);
        return 0;
    }
    if (back->taken_event) {
        back->taken_event = 0;
        back->hv->unmask(back->hv, &back->port);
    }
    back->stats->sleeps++;
    back->stats->spins = back->spin.spins;
    back->stats->spins_futile = back->spin.spins_futile;
    back->stats->grants_persistent = back->persistent.count;
    xenpv_spin_slept(&back->spin);
    return 1;
}
