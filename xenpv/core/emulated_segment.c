/* The segments that a handle of the emulated Xen has open: opened at their first use through the socket, then kept mapped.
 * No descriptor is kept.
 *
 * A segment goes when it has ended, or when there are many, and nothing in it is mapped: a handle that lives long while its
 * peers come and go stays bounded. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "api.h"
#include "emulated_internal.h"

#define SEGMENTS_KEPT 64u /* opened segments above which an idle one goes for each that comes */

#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x0010
#endif

static struct xenpv_segment **bucket(struct xenpv_segments *segments, uint32_t domid, uint32_t number)
{
    return &segments->buckets[(domid * 31u + number) % XENPV_SEGMENT_BUCKETS];
}

/* Is `fd` memory of this very size, which nobody can change? Then no access to it can meet a SIGBUS. */
static int has_seals(int fd, size_t size, int wanted)
{
    struct stat status;
    int seals = fcntl(fd, F_GET_SEALS);

    wanted |= F_SEAL_SHRINK | F_SEAL_GROW;
    return seals >= 0 && (seals & wanted) == wanted && fstat(fd, &status) == 0 && status.st_size == (off_t)size;
}

int xenpv_emulated_place(void *at, size_t bytes, int fd)
{
    if (!has_seals(fd, bytes, 0))
        return -EPROTO;
    return mmap(at, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0) == MAP_FAILED ? -errno : 0;
}

/* A descriptor from the host as memory. */
static void *sealed_memory(int fd, size_t size, int protection, int extra_seal)
{
    void *memory;

    if (!has_seals(fd, size, F_SEAL_SEAL | extra_seal))
        return NULL;
    memory = mmap(NULL, size, protection, MAP_SHARED, fd, 0);
    if (memory == MAP_FAILED)
        return NULL;
    madvise(memory, size, MADV_DONTFORK); /* as on Xen, a child has no part in its parent's mappings */
    return memory;
}

static void release_memory(struct xenpv_segment *segment)
{
    if (segment->data)
        munmap(segment->data, XENPV_SEGMENT_BYTES);
    if (segment->table)
        munmap((void *)segment->table, XENPV_PAGE_SIZE);
    if (segment->track)
        munmap((void *)segment->track, XENPV_PAGE_SIZE);
    free(segment);
}

/* Undoes open_segment for a segment that is in no list any more. The host takes back what its maptrack still counts. */
static void shut_segment(struct xenpv_segments *segments, struct xenpv_segment *segment)
{
    struct xenpv_emulated_call call = {XENPV_CALL_SEGMENT_SHUT, 0, segment->opening, 0};
    struct xenpv_emulated_reply reply;
    int fds[XENPV_CALL_FDS];

    if (segments->last == segment)
        segments->last = NULL;
    segments->opened--;
    release_memory(segment);
    /* Without a host there is nobody to tell, and the next open will say so. */
    (void)xenpv_call(segments->socket, &call, &reply, fds);
}

static void unlink_segment(struct xenpv_segments *segments, struct xenpv_segment *segment)
{
    struct xenpv_segment **link = bucket(segments, segment->domid, segment->number);

    while (*link != segment)
        link = &(*link)->next;
    *link = segment->next;
}

/* Makes room before a segment is opened: what has ended goes, and the idlest when there are many. */
static void let_go(struct xenpv_segments *segments)
{
    struct xenpv_segment *idlest = NULL, *segment, **link;

    for (link = &segments->retired; (segment = *link);) {
        if (segment->live) {
            link = &segment->next;
            continue;
        }
        *link = segment->next;
        shut_segment(segments, segment);
    }
    for (uint32_t i = 0; i < XENPV_SEGMENT_BUCKETS; i++)
        for (link = &segments->buckets[i]; (segment = *link);) {
            if (!segment->live && xenpv_table_ended(segment->table)) {
                *link = segment->next;
                shut_segment(segments, segment);
                continue;
            }
            if (!segment->live && (!idlest || segment->used < idlest->used))
                idlest = segment;
            link = &segment->next;
        }
    if (segments->opened >= SEGMENTS_KEPT && idlest) {
        unlink_segment(segments, idlest);
        shut_segment(segments, idlest);
    }
}

/* The host's refusal as Xen would put it, or the negative errno as it is. */
static int refusal(int error, int16_t *status)
{
    switch (error) {
    case -ESRCH:
        *status = XENPV_GNTST_BAD_DOMAIN;
        return -1;
    case -ENOENT:
        *status = XENPV_GNTST_BAD_GNTREF;
        return -1;
    case -EACCES:
        *status = XENPV_GNTST_GENERAL;
        return -1;
    case -ENOSPC:
        *status = XENPV_GNTST_NO_SPACE;
        return -1;
    case -1:
        *status = XENPV_GNTST_GENERAL;
        return -1;
    default:
        return error;
    }
}

static int open_segment(struct xenpv_segments *segments, uint32_t domid, uint32_t number, struct xenpv_segment **out,
                        int16_t *status)
{
    struct xenpv_emulated_call call = {XENPV_CALL_SEGMENT_OPEN, domid, number, 0};
    struct xenpv_emulated_reply reply;
    struct xenpv_segment *segment, **link;
    int fds[XENPV_CALL_FDS], count;

    let_go(segments);
    segment = calloc(1, sizeof *segment);
    if (!segment)
        return -ENOMEM;
    count = xenpv_call(segments->socket, &call, &reply, fds);
    if (count < 0 && count != -EMFILE) {
        free(segment);
        return reply.status ? refusal(count, status) : count;
    }
    segment->domid = domid;
    segment->number = number;
    segment->opening = reply.number;
    segment->writable = !!(reply.flags & XENPV_SEGMENT_WRITABLE);
    if (count == 3) {
        segment->table = sealed_memory(fds[0], XENPV_PAGE_SIZE, PROT_READ | PROT_WRITE, 0);
        segment->data = sealed_memory(fds[1], XENPV_SEGMENT_BYTES, PROT_READ | (segment->writable ? PROT_WRITE : 0),
                                      segment->writable ? 0 : F_SEAL_FUTURE_WRITE);
        segment->track = sealed_memory(fds[2], XENPV_PAGE_SIZE, PROT_READ | PROT_WRITE, 0);
    }
    for (int i = 0; i < count; i++)
        close(fds[i]);
    segments->opened++;
    if (!segment->table || !segment->data || !segment->track) {
        shut_segment(segments, segment);
        return count == -EMFILE ? -EMFILE : count == 3 ? -ENOMEM : -EPROTO;
    }
    link = bucket(segments, domid, number);
    segment->next = *link;
    *link = segment;
    *out = segment;
    return 0;
}

int xenpv_segment_find(struct xenpv_segments *segments, uint32_t domid, uint32_t ref, struct xenpv_segment **out,
                       int16_t *status)
{
    uint32_t number = ref / XENPV_SEGMENT_PAGES;
    struct xenpv_segment *segment = segments->last, **link;
    int result;

    if (segment && segment->domid == domid && segment->number == number && !xenpv_table_ended(segment->table)) {
        *out = segment;
        return 0;
    }
    for (link = bucket(segments, domid, number); (segment = *link); link = &segment->next)
        if (segment->domid == domid && segment->number == number)
            break;
    if (segment && xenpv_table_ended(segment->table)) {
        /* The name may belong to a new domain's segment by now: ask the host. */
        *link = segment->next;
        segment->next = segments->retired;
        segments->retired = segment;
        segment = NULL;
    }
    if (!segment) {
        result = open_segment(segments, domid, number, &segment, status);
        if (result)
            return result;
    }
    segment->used = ++segments->clock;
    *out = segments->last = segment;
    return 0;
}

static void close_list(struct xenpv_segment *segment)
{
    while (segment) {
        struct xenpv_segment *next = segment->next;

        xenpv_emulated_reap(segment->table, segment->track);
        release_memory(segment);
        segment = next;
    }
}

void xenpv_segments_close(struct xenpv_segments *segments)
{
    for (uint32_t i = 0; i < XENPV_SEGMENT_BUCKETS; i++)
        close_list(segments->buckets[i]);
    close_list(segments->retired);
}
