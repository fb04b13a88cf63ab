/* What a backend makes of the times of the requests that it serves. */
#include "back.h"

void xenpv_back_judge(struct xenpv_back *back, struct xenpv_slot *slot)
{
    struct xenpv_back_stats *stats = back->stats;

    slot->claim = (uint8_t)xenpv_stamp_claim(back->stamper.unit, slot->submitted, slot->fetched.value);
    switch (slot->claim) {
    case XENPV_CLAIM_GOOD:
        stats->stamps++;
        stats->time_queued += xenpv_stamp_between(slot->submitted, slot->fetched.value);
        break;
    case XENPV_CLAIM_ABSENT:
        stats->stamps_absent++;
        break;
    case XENPV_CLAIM_FUTURE:
        stats->stamps_future++;
        break;
    default:
        stats->stamps_stale++;
    }
}

/* What is known of a request that was answered `now`, in histograms. */
static void measure(struct xenpv_back *back, const struct xenpv_slot *slot, struct xenpv_stamp now, int known)
{
    /* A flush that carries data is what the frontend calls it. */
    int row = xenpv_latency_row(slot->wire_op == XENPV_OP_FLUSH ? slot->wire_op : slot->op);
    struct xenpv_latency_counts *counts;
    struct xenpv_histogram *stage;

    if (row < 0)
        return;
    counts = &back->latency->counts[row];
    stage = xenpv_latency_stages(back->latency, row);
    if (!known) {
        counts->unknown++;
        return;
    }
    xenpv_histogram_add(&stage[XENPV_STAGE_WAITED], slot->started.value - slot->fetched.value);
    xenpv_histogram_add(&stage[XENPV_STAGE_STORED], slot->ended.value - slot->started.value);
    xenpv_histogram_add(&stage[XENPV_STAGE_ANSWERED], now.value - slot->ended.value);
    xenpv_histogram_add(&stage[XENPV_STAGE_SERVICE], now.value - slot->fetched.value);
    if (!slot->submitted) {
        counts->absent++;
    } else if (slot->claim != XENPV_CLAIM_GOOD) {
        counts->refused++;
    } else { /* another's clock: by so much as it is ahead of ours, this is negative */
        int64_t queued = (int32_t)(slot->fetched.value - slot->submitted);
        xenpv_histogram_add(&stage[XENPV_STAGE_QUEUED], queued);
        xenpv_histogram_add(&stage[XENPV_STAGE_TOTAL], queued + (uint32_t)(now.value - slot->fetched.value));
    }
}

/* All of one epoch, in which our clock did not go back. A page's tick may, if its writer is broken. */
static int is_known(const struct xenpv_slot *slot, struct xenpv_stamp now)
{
    return slot->fetched.value && slot->started.value && slot->ended.value && now.value && slot->fetched.epoch == now.epoch
           && slot->started.epoch == now.epoch && slot->ended.epoch == now.epoch
           && (int32_t)(slot->started.value - slot->fetched.value) >= 0
           && (int32_t)(slot->ended.value - slot->started.value) >= 0 && (int32_t)(now.value - slot->ended.value) >= 0;
}

void xenpv_back_stages(struct xenpv_back *back, const struct xenpv_slot *slot, struct xenpv_stamp now)
{
    struct xenpv_back_stats *stats = back->stats;
    int known = is_known(slot, now);

    if (back->latency && slot->reached)
        measure(back, slot, now, known);
    if (!known) {
        stats->stages_unknown++;
        return;
    }
    stats->stages++;
    stats->time_waited += slot->started.value - slot->fetched.value;
    stats->time_stored += slot->ended.value - slot->started.value;
    stats->time_answered += now.value - slot->ended.value;
}
