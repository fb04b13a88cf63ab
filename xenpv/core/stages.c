/* What a frontend makes of the times of its own requests. */
#include "front.h"

#include <errno.h>

#include "clock.h"

/* Without stamps there are our own two: the total alone. */
static void measure_total(struct xenpv_front *front, const struct xenpv_shadow *shadow, int row)
{
    if (!shadow->submitted.value || !front->now.value || shadow->submitted.epoch != front->now.epoch)
        front->latency->counts[row].unknown++;
    else
        xenpv_histogram_add(&xenpv_latency_stages(front->latency, row)[XENPV_STAGE_TOTAL],
                            front->now.value - shadow->submitted.value);
}

/* Each is signed: by so much as two clocks differ it may be negative. They add up to the total. */
static void measure(struct xenpv_front *front, const struct xenpv_sample *sample, int row)
{
    struct xenpv_histogram *stage = xenpv_latency_stages(front->latency, row);

    xenpv_histogram_add(&stage[XENPV_STAGE_QUEUED], (int32_t)(sample->fetch - sample->submit));
    xenpv_histogram_add(&stage[XENPV_STAGE_WAITED], (int32_t)(sample->start - sample->fetch));
    xenpv_histogram_add(&stage[XENPV_STAGE_STORED], (int32_t)(sample->end - sample->start));
    xenpv_histogram_add(&stage[XENPV_STAGE_ANSWERED], (int32_t)(sample->response - sample->end));
    xenpv_histogram_add(&stage[XENPV_STAGE_REAPED], (int32_t)(sample->reap - sample->response));
    xenpv_histogram_add(&stage[XENPV_STAGE_SERVICE], (int32_t)(sample->response - sample->fetch));
    xenpv_histogram_add(&stage[XENPV_STAGE_TOTAL], (int32_t)(sample->reap - sample->submit));
}

static int is_known(const struct xenpv_sample *sample)
{
    return sample->submit && sample->fetch && sample->start && sample->end && sample->response && sample->reap;
}

void xenpv_front_stages(struct xenpv_front *front, const struct xenpv_shadow *shadow, const uint8_t *raw, int16_t status)
{
    struct xenpv_front_stats *stats = &front->stats;
    struct xenpv_sample *sample;
    uint32_t unit = front->stamper.unit;
    int row = front->latency ? xenpv_latency_row(front->ios[shadow->io].io.op) : -1;

    if (!front->config.stamp) {
        if (row >= 0)
            measure_total(front, shadow, row);
        return;
    }
    sample = &front->samples[front->sampled++ % XENPV_SAMPLES];
    *sample = (struct xenpv_sample){
        .submit = shadow->submitted.value, /* our own, not what the slot may hold by now */
        .reap = front->now.value, .status = status, .op = shadow->op,
    };
    if (sample->submit) { /* else these may be a stock backend's old bytes */
        sample->fetch = xenpv_get_u32(raw + XENPV_AT_FETCHED);
        sample->start = xenpv_get_u32(raw + XENPV_AT_STARTED);
        sample->end = xenpv_get_u32(raw + XENPV_AT_ENDED);
        sample->response = xenpv_get_u32(raw + XENPV_AT_ANSWERED);
    }
    if (!is_known(sample) || shadow->submitted.epoch != front->now.epoch) {
        stats->stages_unknown++;
        if (row >= 0)
            front->latency->counts[row].unknown++;
        return;
    }
    /* The last pair is our own two: in between the clock may have been tied to dom0's anew. */
    if (!(xenpv_stamp_fits(unit, sample->submit, sample->fetch) & xenpv_stamp_fits(unit, sample->fetch, sample->start)
          & xenpv_stamp_fits(unit, sample->start, sample->end) & xenpv_stamp_fits(unit, sample->end, sample->response)
          & xenpv_stamp_fits(unit, sample->response, sample->reap) & xenpv_stamp_fits(unit, sample->submit, sample->reap))) {
        stats->stages_wrong++;
        if (row >= 0)
            front->latency->counts[row].refused++;
        return;
    }
    sample->known = 1;
    stats->stages++;
    stats->time_queued += xenpv_stamp_between(sample->submit, sample->fetch);
    stats->time_waited += xenpv_stamp_between(sample->fetch, sample->start);
    stats->time_stored += xenpv_stamp_between(sample->start, sample->end);
    stats->time_answered += xenpv_stamp_between(sample->end, sample->response);
    stats->time_reaped += xenpv_stamp_between(sample->response, sample->reap);
    stats->time_total += xenpv_stamp_between(sample->submit, sample->reap);
    if (row >= 0)
        measure(front, sample, row);
}

uint32_t xenpv_front_samples(struct xenpv_front *front, struct xenpv_sample *out, uint32_t max)
{
    uint32_t count = 0;

    if (!front->samples)
        return 0;
    if (front->sampled - front->drained > XENPV_SAMPLES)
        front->drained = front->sampled - XENPV_SAMPLES;
    if (front->sampled - front->drained > max)
        front->drained = front->sampled - max;
    while (front->drained < front->sampled)
        out[count++] = front->samples[front->drained++ % XENPV_SAMPLES];
    return count;
}

int xenpv_front_time(struct xenpv_front *front, const struct xenpv_io *io, uint64_t *ns, uint32_t count)
{
    struct xenpv_io done;
    uint32_t accepted;

    for (uint32_t i = 0; i < count; i++) {
        uint64_t begun = xenpv_clock_ns(CLOCK_MONOTONIC);
        int n = xenpv_front_exchange(front, io, 1, &accepted, &done, 1, 1, -1, -1);
        ns[i] = xenpv_clock_ns(CLOCK_MONOTONIC) - begun;
        if (n != 1 || done.status != XENPV_RSP_OKAY)
            return n < 0 ? n : -EIO;
    }
    return 0;
}

void xenpv_front_set_ahead(struct xenpv_front *front, int64_t time_ahead_ns, uint32_t unknown)
{
    xenpv_stamp_set_ahead(&front->stamper, time_ahead_ns, unknown);
}

void xenpv_front_set_time_page(struct xenpv_front *front, const void *page)
{
    if (front->config.stamp == XENPV_STAMP_TICK)
        xenpv_latency_set_page(front->latency, &front->stamper, page);
}
