/* What a frontend makes of the stamps of its own requests. */
#include "front.h"

void xenpv_front_stages(struct xenpv_front *front, const struct xenpv_shadow *shadow, const uint8_t *raw, int16_t status)
{
    struct xenpv_front_stats *stats = &front->stats;
    struct xenpv_sample *sample = &front->samples[front->sampled++ % XENPV_SAMPLES];
    uint32_t between[5], unit = front->stamper.unit;
    int wrong = 0;

    *sample = (struct xenpv_sample){
        .submit = shadow->submitted.value, /* our own, not what the slot may hold by now */
        .fetch = xenpv_get_u32(raw + XENPV_AT_FETCHED), .start = xenpv_get_u32(raw + XENPV_AT_STARTED),
        .end = xenpv_get_u32(raw + XENPV_AT_ENDED), .response = xenpv_get_u32(raw + XENPV_AT_ANSWERED),
        .reap = front->now.value, .status = status, .op = shadow->op,
    };
    if (!sample->submit || !sample->fetch || !sample->start || !sample->end || !sample->response || !sample->reap
        || shadow->submitted.epoch != front->now.epoch) {
        stats->stages_unknown++;
        return;
    }
    wrong |= xenpv_stamp_between(unit, sample->submit, sample->fetch, &between[0]);
    wrong |= xenpv_stamp_between(unit, sample->fetch, sample->start, &between[1]);
    wrong |= xenpv_stamp_between(unit, sample->start, sample->end, &between[2]);
    wrong |= xenpv_stamp_between(unit, sample->end, sample->response, &between[3]);
    wrong |= xenpv_stamp_between(unit, sample->response, sample->reap, &between[4]);
    if (wrong) {
        stats->stages_wrong++;
        return;
    }
    sample->known = 1;
    stats->stages++;
    stats->time_queued += between[0];
    stats->time_waited += between[1];
    stats->time_stored += between[2];
    stats->time_answered += between[3];
    stats->time_reaped += between[4];
    stats->time_total += sample->reap - sample->submit;
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

void xenpv_front_set_ahead(struct xenpv_front *front, int64_t time_ahead_ns)
{
    front->stamper.ahead_ns = time_ahead_ns;
}
