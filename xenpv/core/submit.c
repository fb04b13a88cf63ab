#include "front.h"

#include <errno.h>
#include <poll.h>

#include "clock.h"

#define PUBLISH_EVERY 8u /* requests shown at once: few enough that the backend works while we fill slots */
#define RESCUE_NS 1000000000u

static int has_data(uint8_t op)
{
    return op == XENPV_OP_READ || op == XENPV_OP_WRITE;
}

/* Makes what came before it durable. A barrier without data does too, where the backend knows nothing newer. */
static int is_empty(uint8_t op)
{
    return op == XENPV_OP_FLUSH || op == XENPV_OP_BARRIER;
}

static int io_is_bad(const struct xenpv_front *front, const struct xenpv_io *io)
{
    if (is_empty(io->op))
        return io->bytes != 0;
    if (!io->bytes || io->bytes % XENPV_SECTOR)
        return 1;
    if (io->op == XENPV_OP_DISCARD)
        return 0;
    uint64_t pages = io->bytes / XENPV_PAGE_SIZE + (io->bytes % XENPV_PAGE_SIZE != 0);
    return !has_data(io->op) || pages > front->config.pool_pages || io->page > front->config.pool_pages - pages;
}

/* The pages for the segments of an indirect request, if one is to be made for `bytes` of data and there are any free. */
static uint32_t take_group(struct xenpv_front *front, uint64_t bytes)
{
    if (bytes <= XENPV_MAX_SEGMENTS * XENPV_PAGE_SIZE || !front->config.max_segments || !front->free_group_count)
        return XENPV_NO_GROUP;
    return front->free_groups[--front->free_group_count];
}

/* The data of a request: its segments, in `raw` or in the pages of `group`. Returns how many bytes. */
static uint64_t put_segments(struct xenpv_front *front, const struct xenpv_io_state *io, uint32_t group, uint8_t *raw)
{
    uint32_t abi = front->config.abi, page = io->io.page + (uint32_t)(io->issued / XENPV_PAGE_SIZE), segments = 0;
    uint32_t most = group == XENPV_NO_GROUP ? XENPV_MAX_SEGMENTS : front->config.max_segments;
    uint64_t bytes = io->io.bytes - io->issued, left;
    uint8_t *at = raw + XENPV_AT_SEGMENTS(abi);

    if (group != XENPV_NO_GROUP)
        at = front->config.indirect + (size_t)group * front->group_pages * XENPV_PAGE_SIZE;
    if (bytes > (uint64_t)most * XENPV_PAGE_SIZE)
        bytes = (uint64_t)most * XENPV_PAGE_SIZE;
    for (left = bytes; left; segments++, at += XENPV_SEGMENT_BYTES) {
        uint32_t length = left < XENPV_PAGE_SIZE ? (uint32_t)left : XENPV_PAGE_SIZE;
        uint8_t segment[XENPV_SEGMENT_BYTES] = { 0 };
        xenpv_put_u32(segment + XENPV_AT_SEG_REF, front->refs[page++]);
        segment[XENPV_AT_SEG_LAST] = (uint8_t)(length / XENPV_SECTOR - 1);
        memcpy(at, segment, sizeof segment);
        left -= length;
    }
    if (group == XENPV_NO_GROUP) {
        raw[XENPV_AT_NR_SEGMENTS] = (uint8_t)segments;
        return bytes;
    }
    raw[XENPV_AT_OP] = XENPV_OP_INDIRECT;
    raw[XENPV_AT_INDIRECT_OP] = io->io.op;
    xenpv_put_u16(raw + XENPV_AT_INDIRECT_NR_SEGMENTS, (uint16_t)segments);
    xenpv_put_u16(raw + XENPV_AT_INDIRECT_HANDLE(abi), (uint16_t)front->config.handle);
    for (uint32_t i = 0; i * XENPV_SEGMENTS_PER_PAGE < segments; i++)
        xenpv_put_u32(raw + XENPV_AT_INDIRECT_REFS(abi) + 4 * i, front->indirect_refs[group * front->group_pages + i]);
    return bytes;
}

/* One request for the I/O's next bytes, in private memory first, then copied to its slot in one go. */
static void issue_one(struct xenpv_front *front, uint32_t number)
{
    struct xenpv_io_state *io = &front->ios[number];
    uint32_t slot = front->free_slots[--front->free_count], abi = front->config.abi;
    uint32_t group = XENPV_NO_GROUP;
    uint8_t raw[XENPV_MAX_REQUEST] = { 0 };

    raw[XENPV_AT_OP] = io->io.op;
    xenpv_put_u16(raw + XENPV_AT_HANDLE, (uint16_t)front->config.handle);
    uint64_t id = (uint64_t)front->serial++ << 32 | slot;
    xenpv_put_u64(raw + XENPV_AT_ID(abi), id);
    xenpv_put_u64(raw + XENPV_AT_SECTOR(abi), is_empty(io->io.op) ? 0 : io->io.sector + io->issued / XENPV_SECTOR);
    if (has_data(io->io.op)) {
        group = take_group(front, io->io.bytes - io->issued);
        io->issued += put_segments(front, io, group, raw);
    } else {
        if (io->io.op == XENPV_OP_DISCARD) {
            raw[XENPV_AT_NR_SEGMENTS] = io->io.flags & XENPV_SECURE ? XENPV_DISCARD_SECURE : 0;
            xenpv_put_u64(raw + XENPV_AT_NR_SECTORS(abi), io->io.bytes / XENPV_SECTOR);
        }
        io->issued = io->io.bytes;
    }
    front->shadow[slot] = (struct xenpv_shadow){ id, number, io->io.op, 1, group, front->now };
    if (front->config.stamp)
        xenpv_put_u32(raw + XENPV_AT_SUBMIT, front->now.value);
    io->requests++;
    memcpy(xenpv_ring_slot(&front->ring, front->ring.produced), raw, front->ring.entry_size);
    front->ring.produced++;
}

static void publish(struct xenpv_front *front)
{
    if (xenpv_ring_publish(&front->ring, front->ring.produced))
        front->hv->notify(front->hv, &front->port);
}

static void issue(struct xenpv_front *front)
{
    if (front->stamper.unit && front->waiting.first != XENPV_NO_IO)
        front->now = xenpv_stamp_now(&front->stamper);
    while (front->waiting.first != XENPV_NO_IO && front->free_count) {
        uint32_t number = front->waiting.first;
        issue_one(front, number);
        if (front->ios[number].issued == front->ios[number].io.bytes)
            xenpv_io_pop(front, &front->waiting);
        if (front->ring.produced - front->ring.published >= PUBLISH_EVERY)
            publish(front);
    }
    publish(front);
}

static int accept_ios(struct xenpv_front *front, const struct xenpv_io *submit, uint32_t count, uint32_t *accepted)
{
    for (*accepted = 0; *accepted < count; ++*accepted) {
        uint32_t number;
        if (io_is_bad(front, &submit[*accepted]))
            return -EINVAL;
        number = xenpv_io_pop(front, &front->free_ios);
        if (number == XENPV_NO_IO)
            break;
        front->ios[number] = (struct xenpv_io_state){ .io = submit[*accepted] };
        front->ios[number].io.status = XENPV_RSP_OKAY;
        xenpv_io_push(front, &front->waiting, number);
        front->pending++;
    }
    return 0;
}

static int answer_one(struct xenpv_front *front)
{
    uint8_t raw[XENPV_STAMPED_RESPONSE];

    /* The one read of the backend's slot. */
    memcpy(raw, xenpv_ring_slot(&front->ring, front->ring.consumed),
           front->config.stamp ? sizeof raw : XENPV_RESPONSE_SIZE(front->config.abi));
    front->ring.consumed++;
    uint64_t id = xenpv_get_u64(raw + XENPV_AT_RSP_ID);
    uint32_t slot = (uint32_t)id;
    int16_t status = (int16_t)xenpv_get_u16(raw + XENPV_AT_RSP_STATUS);
    if (slot >= front->ring.entries || !front->shadow[slot].in_flight || front->shadow[slot].id != id
        || raw[XENPV_AT_RSP_OP] != front->shadow[slot].op)
        return -EPROTO;

    uint32_t number = front->shadow[slot].io;
    struct xenpv_io_state *io = &front->ios[number];
    if (front->stamper.unit)
        xenpv_front_stages(front, &front->shadow[slot], raw, status);
    if (front->shadow[slot].group != XENPV_NO_GROUP) {
        front->free_groups[front->free_group_count++] = front->shadow[slot].group;
        front->stats.indirect++;
    }
    front->shadow[slot].in_flight = 0;
    front->free_slots[front->free_count++] = slot;
    front->stats.requests[io->io.op & 7]++;
    if (status != XENPV_RSP_OKAY) {
        front->stats.errors++;
        if (io->io.status == XENPV_RSP_OKAY)
            io->io.status = status == XENPV_RSP_EOPNOTSUPP ? XENPV_RSP_EOPNOTSUPP : XENPV_RSP_ERROR;
    }
    if (--io->requests || io->issued < io->io.bytes)
        return 0;
    if (io->io.status == XENPV_RSP_OKAY && io->io.op == XENPV_OP_READ)
        front->stats.bytes_read += io->io.bytes;
    else if (io->io.status == XENPV_RSP_OKAY && io->io.op == XENPV_OP_WRITE)
        front->stats.bytes_written += io->io.bytes;
    xenpv_io_push(front, &front->finished, number);
    return 0;
}

/* Takes every response that is there: how many, or -EPROTO. */
static int collect(struct xenpv_front *front)
{
    int64_t waiting = xenpv_ring_available(&front->ring);

    if (waiting < 0)
        return front->broken = (int)waiting;
    if (front->stamper.unit && waiting)
        front->now = xenpv_stamp_now(&front->stamper);
    for (int64_t i = 0; i < waiting; i++)
        if (answer_one(front) != 0)
            return front->broken = -EPROTO;
    return (int)waiting;
}

static uint32_t deliver(struct xenpv_front *front, struct xenpv_io *done, uint32_t room)
{
    uint32_t count = 0, number;

    for (; count < room && (number = xenpv_io_pop(front, &front->finished)) != XENPV_NO_IO; count++) {
        done[count] = front->ios[number].io;
        xenpv_io_push(front, &front->free_ios, number);
        front->pending--;
    }
    return count;
}

/* Sleeps: 1 to look at the ring, 0 when the time is over or wake_fd is readable, or -errno. */
static int sleep_until(struct xenpv_front *front, int64_t timeout_ns, uint64_t deadline, int wake_fd)
{
    struct pollfd fds[2] = { { .fd = front->port.wait_fd, .events = POLLIN }, { .fd = wake_fd, .events = POLLIN } };
    uint64_t wait = RESCUE_NS;
    int n, last = 0;

    if (timeout_ns >= 0) {
        uint64_t now = xenpv_clock_ns(CLOCK_MONOTONIC);
        uint64_t left = deadline > now ? deadline - now : 0;
        last = left <= wait;
        wait = last ? left : wait;
    }
    struct timespec t = { (time_t)(wait / 1000000000u), (long)(wait % 1000000000u) };
    n = ppoll(fds, wake_fd >= 0 ? 2 : 1, &t, NULL);
    if (n < 0)
        return -errno;
    if (fds[0].revents && front->hv->take(front->hv, &front->port) > 0) {
        front->taken_event = 1;
        front->stats.events++;
    }
    xenpv_spin_woke(&front->spin);
    if (n == 0 && !last) {
        /* A second without progress while requests are out: the mend of last resort, and it is counted. */
        front->stats.rescues++;
        front->hv->notify(front->hv, &front->port);
    }
    return !(fds[1].revents & POLLIN) && !(n == 0 && last);
}

/* SLEEPING, a last look, the port back, and only then sleep. */
static int rest(struct xenpv_front *front)
{
    /* Something that is there already is not worth a change of the word, which may cost a notification. */
    if (xenpv_ring_available(&front->ring) != 0 || xenpv_ring_arm(&front->ring) != 0)
        return 0;
    if (front->taken_event) {
        front->taken_event = 0;
        front->hv->unmask(front->hv, &front->port);
    }
    front->stats.sleeps++;
    xenpv_spin_slept(&front->spin);
    return 1;
}

int xenpv_front_exchange(struct xenpv_front *front, const struct xenpv_io *submit, uint32_t count, uint32_t *accepted,
                         struct xenpv_io *done, uint32_t max_done, uint32_t min_done, int64_t timeout_ns, int wake_fd)
{
    uint64_t deadline = timeout_ns > 0 ? xenpv_clock_ns(CLOCK_MONOTONIC) + (uint64_t)timeout_ns : 0;
    uint32_t delivered = 0;
    int error, more = 1;

    *accepted = 0;
    if (front->broken)
        return front->broken;
    error = accept_ios(front, submit, count, accepted);
    if (min_done > max_done)
        min_done = max_done;
    xenpv_ring_run(&front->ring);
    issue(front);
    if (error)
        return error; /* before anything is delivered: a done I/O is never lost to an error */
    for (;;) {
        int taken = collect(front);
        if (taken < 0)
            error = taken;
        if (taken > 0) {
            xenpv_spin_found(&front->spin);
            issue(front);
        }
        delivered += deliver(front, done + delivered, max_done - delivered);
        if (error || delivered >= min_done || !front->pending || !more)
            break;
        if (taken > 0)
            continue;
        if (xenpv_spin_on(&front->spin)) {
            xenpv_relax();
            continue;
        }
        if (rest(front)) {
            more = sleep_until(front, timeout_ns, deadline, wake_fd);
            if (more == -EINTR && !delivered)
                error = -EINTR; /* the caller may have a signal to handle */
            else if (more < 0)
                more = 0;
        }
        xenpv_ring_run(&front->ring);
    }
    xenpv_spin_stop(&front->spin);
    /* What is done is told first; a broken queue says so at the next call. */
    return delivered || !error ? (int)delivered : error;
}
