/* The emulated Xen's table of functions: grants of other domains, mapped and copied without a system call.
 *
 * A segment is opened once (emulated_segment.c). After that a map is a look into a hash and a compare-and-swap
 * (emulated_table.c). Pages that do not stand side by side in a segment are given new addresses side by side, which costs
 * system calls; rings of several pages need that, once. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "api.h"
#include "emulated_internal.h"

#define MAP_PAGES_MAX 65536u

/* A mapping that does not stand side by side in one segment: its own addresses, and what to give back. */
struct composed {
    struct composed *next, *previous;
    uint8_t *memory;
    uint32_t count;
    struct {
        struct xenpv_segment *segment;
        uint32_t page;
    } pages[];
};

struct emulated {
    struct xenpv_hypervisor table; /* first: a handle is its table */
    struct xenpv_segments segments;
    struct composed *composed;
    uint32_t domid;
};

enum { KIND_NONE, KIND_SEGMENT, KIND_COMPOSED };

static int take_page(struct emulated *hv, uint32_t domid, uint32_t ref, int writable, struct xenpv_segment **out,
                     int16_t *status)
{
    int result = xenpv_segment_find(&hv->segments, domid, ref, out, status);

    if (result)
        return result;
    *status = writable && !(*out)->writable
                  ? XENPV_GNTST_GENERAL
                  : xenpv_entry_map((*out)->table, (*out)->track, ref % XENPV_SEGMENT_PAGES, hv->domid, writable);
    if (*status)
        return -1;
    (*out)->live++;
    return 0;
}

static void give_page(struct xenpv_segment *segment, uint32_t page, int writable)
{
    xenpv_entry_unmap(segment->table, segment->track, page, writable);
    segment->live--;
}

static uint8_t *page_of(const struct xenpv_segment *segment, uint32_t page)
{
    return segment->data + (size_t)page * XENPV_PAGE_SIZE;
}

/* Gives the pages that `composed` lists addresses side by side. A shared mapping grown from size 0 is a second mapping of
 * the same pages (mremap(2)), so no descriptor is needed. */
static int compose(struct composed *composed)
{
    size_t size = (size_t)composed->count * XENPV_PAGE_SIZE;
    uint8_t *memory = mmap(NULL, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    if (memory == MAP_FAILED)
        return -ENOMEM;
    for (uint32_t i = 0; i < composed->count; i++)
        if (mremap(page_of(composed->pages[i].segment, composed->pages[i].page), 0, XENPV_PAGE_SIZE,
                   MREMAP_MAYMOVE | MREMAP_FIXED, memory + (size_t)i * XENPV_PAGE_SIZE) == MAP_FAILED) {
            int error = errno;

            munmap(memory, size);
            return -error;
        }
    composed->memory = memory;
    return 0;
}

static void give_pieces(const struct composed *composed, int writable)
{
    for (uint32_t i = 0; i < composed->count; i++)
        give_page(composed->pages[i].segment, composed->pages[i].page, writable);
}

/* Pages side by side in one segment: they are where they are, and nothing is allocated. */
static int map_run(struct emulated *hv, uint32_t domid, uint32_t first, uint32_t count, int writable,
                   struct xenpv_map *out)
{
    struct xenpv_segment *segment = NULL;
    uint32_t page = first % XENPV_SEGMENT_PAGES, taken;

    for (taken = 0; taken < count; taken++) {
        int result = take_page(hv, domid, first + taken, writable, &segment, &out->status);

        if (result) {
            while (taken-- > 0)
                give_page(segment, page + taken, writable);
            return result;
        }
    }
    out->kind = KIND_SEGMENT;
    out->memory = page_of(segment, page);
    out->handle = (uintptr_t)segment;
    return 0;
}

static int map_pieces(struct emulated *hv, uint32_t domid, const uint32_t *refs, uint32_t count, int writable,
                      struct xenpv_map *out)
{
    struct composed *composed = calloc(1, sizeof *composed + count * sizeof composed->pages[0]);
    int result = 0;

    if (!composed)
        return -ENOMEM;
    for (; !result && composed->count < count; composed->count += !result) {
        composed->pages[composed->count].page = refs[composed->count] % XENPV_SEGMENT_PAGES;
        result = take_page(hv, domid, refs[composed->count], writable, &composed->pages[composed->count].segment,
                           &out->status);
    }
    if (!result)
        result = compose(composed);
    if (result) {
        give_pieces(composed, writable);
        free(composed);
        return result;
    }
    composed->next = hv->composed;
    if (composed->next)
        composed->next->previous = composed;
    hv->composed = composed;
    out->kind = KIND_COMPOSED;
    out->memory = composed->memory;
    out->handle = (uintptr_t)composed;
    return 0;
}

static int emulated_map(struct xenpv_hypervisor *table, uint32_t domid, const uint32_t *refs, uint32_t count,
                        int writable, struct xenpv_map *out)
{
    struct emulated *hv = (struct emulated *)table;
    uint32_t run = 1;
    int result;

    memset(out, 0, sizeof *out);
    if (count == 0 || count > MAP_PAGES_MAX)
        return -EINVAL;
    while (run < count && refs[run] == refs[0] + run)
        run++;
    if (run == count && refs[0] / XENPV_SEGMENT_PAGES == refs[count - 1] / XENPV_SEGMENT_PAGES)
        result = map_run(hv, domid, refs[0], count, writable, out);
    else
        result = map_pieces(hv, domid, refs, count, writable, out);
    if (result)
        return result;
    out->count = count;
    out->domid = domid;
    out->first = refs[0];
    out->writable = !!writable;
    return 0;
}

static int emulated_unmap(struct xenpv_hypervisor *table, struct xenpv_map *map)
{
    struct emulated *hv = (struct emulated *)table;

    if (map->kind == KIND_SEGMENT) {
        struct xenpv_segment *segment = (struct xenpv_segment *)(uintptr_t)map->handle;
        uint32_t first = map->first % XENPV_SEGMENT_PAGES;

        for (uint32_t i = 0; i < map->count; i++)
            give_page(segment, first + i, map->writable);
    } else if (map->kind == KIND_COMPOSED) {
        struct composed *composed = (struct composed *)(uintptr_t)map->handle;

        munmap(composed->memory, (size_t)composed->count * XENPV_PAGE_SIZE);
        give_pieces(composed, map->writable);
        *(composed->previous ? &composed->previous->next : &hv->composed) = composed->next;
        if (composed->next)
            composed->next->previous = composed->previous;
        free(composed);
    } else {
        return -EINVAL;
    }
    memset(map, 0, sizeof *map);
    return 0;
}

/* One piece: a mapping as long as the copy, so that every rule of a map holds for it. 0, or a negative errno. */
static int copy_piece(struct emulated *hv, uint32_t domid, struct xenpv_copy *piece)
{
    struct xenpv_segment *segment;
    uint32_t page = piece->ref % XENPV_SEGMENT_PAGES;
    int result;

    piece->status = XENPV_GNTST_OKAY;
    if (piece->length == 0) /* as on Xen: nothing to do, and nothing is looked at */
        return 0;
    if ((uint32_t)piece->offset + piece->length > XENPV_PAGE_SIZE) {
        piece->status = XENPV_GNTST_BAD_COPY_ARG;
        return 0;
    }
    result = take_page(hv, domid, piece->ref, piece->to_grant, &segment, &piece->status);
    if (result) {
        if (result != -1)
            piece->status = XENPV_GNTST_GENERAL;
        return result == -1 ? 0 : result;
    }
    if (piece->to_grant)
        memcpy(page_of(segment, page) + piece->offset, piece->local, piece->length);
    else
        memcpy(piece->local, page_of(segment, page) + piece->offset, piece->length);
    give_page(segment, page, piece->to_grant);
    return 0;
}

static int emulated_copy(struct xenpv_hypervisor *table, uint32_t domid, struct xenpv_copy *pieces, uint32_t count)
{
    int failed = 0, error = 0;

    for (uint32_t i = 0; i < count; i++) {
        if (error)
            pieces[i].status = XENPV_GNTST_GENERAL;
        else
            error = copy_piece((struct emulated *)table, domid, &pieces[i]);
        failed |= pieces[i].status;
    }
    return error ? error : failed ? -1 : 0;
}

static int emulated_notify(struct xenpv_hypervisor *table, const struct xenpv_port *port)
{
    const uint64_t one = 1;

    (void)table;
    /* EAGAIN: the counter is full, so the port is pending already. The system call is ordered after every store before it:
     * the peer that takes the event sees them. */
    while (write(port->notify_fd, &one, sizeof one) < 0) {
        if (errno == EAGAIN)
            return 0;
        if (errno != EINTR)
            return -errno;
    }
    return 0;
}

static int emulated_take(struct xenpv_hypervisor *table, const struct xenpv_port *port)
{
    uint64_t events;

    (void)table;
    while (read(port->wait_fd, &events, sizeof events) < 0) {
        if (errno == EAGAIN)
            return 0;
        if (errno != EINTR)
            return -errno;
    }
    return 1;
}

/* Nothing to do: a port is masked as long as its owner does not look at the descriptor, and what came meanwhile stands in
 * the counter, as one event. */
static int emulated_unmask(struct xenpv_hypervisor *table, const struct xenpv_port *port)
{
    (void)table;
    (void)port;
    return 0;
}

static void emulated_close(struct xenpv_hypervisor *table)
{
    struct emulated *hv = (struct emulated *)table;

    while (hv->composed) {
        struct composed *next = hv->composed->next;

        munmap(hv->composed->memory, (size_t)hv->composed->count * XENPV_PAGE_SIZE);
        free(hv->composed);
        hv->composed = next;
    }
    xenpv_segments_close(&hv->segments);
    close(hv->segments.socket);
    free(hv);
}

struct xenpv_hypervisor *xenpv_emulated_open(int socket, int *error)
{
    struct xenpv_emulated_call call = {XENPV_CALL_HELLO, 0, XENPV_EMULATED_VERSION, 0};
    struct xenpv_emulated_reply reply;
    struct emulated *hv = calloc(1, sizeof *hv);
    int fds[XENPV_CALL_FDS], count = hv ? xenpv_call_prepare(socket) : -ENOMEM;

    if (count == 0)
        count = xenpv_call(socket, &call, &reply, fds);
    if (count == 0 && reply.number == XENPV_EMULATED_VERSION) {
        hv->table = (struct xenpv_hypervisor){
            .map = emulated_map,
            .unmap = emulated_unmap,
            .copy = emulated_copy,
            .notify = emulated_notify,
            .take = emulated_take,
            .unmask = emulated_unmask,
            .close = emulated_close,
            .direct = 1,
        };
        hv->segments.socket = socket;
        hv->domid = reply.domid;
        return &hv->table;
    }
    for (int i = 0; i < count; i++)
        close(fds[i]);
    *error = count < 0 ? -count : EPROTO;
    close(socket);
    free(hv);
    return NULL;
}
