/* Real Xen, through the kernel's devices in /dev/xen: the table of functions (xen_verbs.c has the rest).
 *
 * RULES
 * - A handle is one open /dev/xen/gntdev. Its mappings are listed here, because a mapping outlives the descriptor.
 * - No asynchronous direct I/O on a granted page (`direct` is 0): a process killed with such I/O in flight leaves bad
 *   page-table entries behind in a PV dom0.
 * - Mappings are not inherited: in a child of a PV domain they fault, in another they would keep the grant in use.
 * - A status that nobody wrote is a failure: GRANT_COPY returns 0 also when single pieces failed. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "xen_internal.h"

#define COPY_BATCH 352u           /* as many as a ring of one page has segments */
#define EAGAIN_TRIES 64           /* a page that is being brought back from a paging file; the kernel has waited too */
enum { COPY_SOURCE_GREF = 1, COPY_DEST_GREF = 2 }; /* GNTCOPY_* (public/grant_table.h) */

struct mapping {
    struct mapping *next, *previous;
    uint8_t *memory;
    uint64_t index; /* gntdev's */
    uint32_t count;
};

struct xen {
    struct xenpv_hypervisor table; /* first: a handle is its table */
    struct mapping *mappings;
    int fd;
};

/* ---- grants of other domains ---- */

static void unmap_pages(struct xen *xen, struct mapping *mapping)
{
    struct ioctl_gntdev_unmap_grant_ref unmap = { .index = mapping->index, .count = mapping->count };

    if (mapping->memory)
        munmap(mapping->memory, (size_t)mapping->count * XENPV_PAGE_SIZE);
    ioctl(xen->fd, IOCTL_GNTDEV_UNMAP_GRANT_REF, &unmap);
}

/* One attempt. The ioctl only takes places in the device; it is mmap that asks Xen. */
static int map_once(struct xen *xen, struct ioctl_gntdev_map_grant_ref *request, int writable, struct mapping *mapping)
{
    size_t size = (size_t)request->count * XENPV_PAGE_SIZE;
    int error;

    if (ioctl(xen->fd, IOCTL_GNTDEV_MAP_GRANT_REF, request) < 0)
        return -errno;
    *mapping = (struct mapping){ .index = request->index, .count = request->count };
    mapping->memory = mmap(NULL, size, PROT_READ | (writable ? PROT_WRITE : 0), MAP_SHARED, xen->fd,
                           (off_t)request->index);
    error = mapping->memory == MAP_FAILED ? errno : 0;
    if (error)
        mapping->memory = NULL;
    else if (madvise(mapping->memory, size, MADV_DONTFORK) < 0)
        error = ENOMEM;
    if (error)
        unmap_pages(xen, mapping);
    return error == EINVAL ? -1 : -error;
}

/* Xen's reason for a refusal, which the kernel keeps to itself: a copy of one byte of each page is refused for the same.
 * What can be copied from was refused because it is read-only, which Xen says no differently. */
static int16_t why_refused(struct xen *xen, uint32_t domid, const uint32_t *refs, uint32_t count)
{
    uint8_t byte;

    for (uint32_t i = 0; i < count; i++) {
        struct xenpv_copy piece = { .local = &byte, .ref = refs[i], .length = 1 };
        if (xen->table.copy(&xen->table, domid, &piece, 1) != 0)
            return piece.status;
    }
    return XENPV_GNTST_GENERAL;
}

static int xen_map(struct xenpv_hypervisor *table, uint32_t domid, const uint32_t *refs, uint32_t count, int writable,
                   struct xenpv_map *out)
{
    struct xen *xen = (struct xen *)table;
    struct ioctl_gntdev_map_grant_ref *request;
    struct mapping *mapping;
    int result = -EAGAIN;

    memset(out, 0, sizeof *out);
    if (count == 0 || count > XENPV_PAGES_MAX)
        return -EINVAL;
    if (domid >= XENPV_DOMID_FIRST_RESERVED) {
        out->status = XENPV_GNTST_BAD_DOMAIN;
        return -1;
    }
    mapping = malloc(sizeof *mapping);
    request = calloc(1, sizeof *request + (count - 1) * sizeof request->refs[0]);
    if (!mapping || !request) {
        free(mapping);
        free(request);
        return -ENOMEM;
    }
    for (uint32_t i = 0; i < count; i++)
        request->refs[i] = (struct ioctl_gntdev_grant_ref){ .domid = domid, .ref = refs[i] };
    for (int tries = 0; result == -EAGAIN && tries < EAGAIN_TRIES; tries++) {
        if (tries)
            nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL);
        request->count = count;
        result = map_once(xen, request, writable, mapping);
    }
    free(request);
    if (result) {
        free(mapping);
        if (result == -1)
            out->status = why_refused(xen, domid, refs, count);
        return result;
    }
    mapping->next = xen->mappings;
    if (mapping->next)
        mapping->next->previous = mapping;
    xen->mappings = mapping;
    *out = (struct xenpv_map){ .memory = mapping->memory, .count = count, .domid = domid, .first = refs[0],
                               .writable = !!writable, .handle = (uintptr_t)mapping };
    return 0;
}

static int xen_unmap(struct xenpv_hypervisor *table, struct xenpv_map *map)
{
    struct xen *xen = (struct xen *)table;
    struct mapping *mapping = (struct mapping *)(uintptr_t)map->handle;

    if (!mapping)
        return -EINVAL;
    unmap_pages(xen, mapping);
    *(mapping->previous ? &mapping->previous->next : &xen->mappings) = mapping->next;
    if (mapping->next)
        mapping->next->previous = mapping->previous;
    free(mapping);
    memset(map, 0, sizeof *map);
    return 0;
}

/* One ioctl for up to COPY_BATCH pieces, those with a status left out. 0 or a negative errno. */
static int copy_batch(struct xen *xen, uint32_t domid, struct xenpv_copy *pieces, uint32_t count)
{
    struct gntdev_grant_copy_segment segment[COPY_BATCH];
    struct ioctl_gntdev_grant_copy request = { .segments = segment };

    for (uint32_t i = 0; i < count; i++) {
        struct gntdev_grant_copy_segment *to = &segment[request.count];
        const struct xenpv_copy *piece = &pieces[i];

        /* What Xen or the kernel would refuse as a whole, or not look at: see GRANT_COPY in drivers/xen/gntdev.c. */
        pieces[i].status = piece->length == 0                                             ? XENPV_GNTST_OKAY
                           : (uint32_t)piece->offset + piece->length > XENPV_PAGE_SIZE ? XENPV_GNTST_BAD_COPY_ARG
                           : domid >= XENPV_DOMID_FIRST_RESERVED                                ? XENPV_GNTST_BAD_DOMAIN
                                                                                          : 1; /* to be asked */
        if (pieces[i].status != 1)
            continue;
        *to = (struct gntdev_grant_copy_segment){ .len = piece->length, .status = XENPV_GNTST_GENERAL,
                                                  .flags = piece->to_grant ? COPY_DEST_GREF : COPY_SOURCE_GREF };
        *(piece->to_grant ? &to->source.virt : &to->dest.virt) = piece->local;
        if (piece->to_grant) {
            to->dest.foreign.ref = piece->ref;
            to->dest.foreign.offset = piece->offset;
            to->dest.foreign.domid = (domid_t)domid;
        } else {
            to->source.foreign.ref = piece->ref;
            to->source.foreign.offset = piece->offset;
            to->source.foreign.domid = (domid_t)domid;
        }
        request.count++;
    }
    int error = request.count && ioctl(xen->fd, IOCTL_GNTDEV_GRANT_COPY, &request) < 0 ? errno : 0;
    for (uint32_t i = 0, at = 0; i < count; i++)
        if (pieces[i].status == 1)
            pieces[i].status = error ? XENPV_GNTST_GENERAL : segment[at++].status;
    return -error;
}

static int xen_copy(struct xenpv_hypervisor *table, uint32_t domid, struct xenpv_copy *pieces, uint32_t count)
{
    int error = 0, failed = 0;

    for (uint32_t done = 0; done < count; done += COPY_BATCH) {
        uint32_t batch = count - done < COPY_BATCH ? count - done : COPY_BATCH;
        int result = copy_batch((struct xen *)table, domid, pieces + done, batch);

        error = error ? error : result;
    }
    for (uint32_t i = 0; i < count; i++)
        failed |= pieces[i].status;
    return error ? error : failed ? -1 : 0;
}

static void xen_close(struct xenpv_hypervisor *table)
{
    struct xen *xen = (struct xen *)table;

    while (xen->mappings) {
        struct mapping *next = xen->mappings->next;

        unmap_pages(xen, xen->mappings);
        free(xen->mappings);
        xen->mappings = next;
    }
    close(xen->fd);
    free(xen);
}

static int xen_notify(struct xenpv_hypervisor *table, const struct xenpv_port *port)
{
    (void)table;
    return xenpv_xen_notify(port->notify_fd, port->number);
}

static int xen_take(struct xenpv_hypervisor *table, const struct xenpv_port *port)
{
    (void)table;
    return xenpv_xen_take(port->wait_fd, port->number);
}

static int xen_unmask(struct xenpv_hypervisor *table, const struct xenpv_port *port)
{
    (void)table;
    return xenpv_xen_unmask(port->wait_fd, port->number);
}

int xenpv_xen_map_notify(struct xenpv_hypervisor *hv, const struct xenpv_map *map, uint64_t byte, int clear, int event,
                         uint32_t port)
{
    const struct mapping *mapping = (const struct mapping *)(uintptr_t)map->handle;

    if (byte >= (uint64_t)mapping->count * XENPV_PAGE_SIZE)
        return -EINVAL;
    return xenpv_xen_unmap_notify(((struct xen *)hv)->fd, mapping->index + byte, clear, event, port);
}

struct xenpv_hypervisor *xenpv_xen_open(int *error)
{
    struct xen *xen = calloc(1, sizeof *xen);

    if (!xen) {
        *error = ENOMEM;
        return NULL;
    }
    xen->fd = open("/dev/xen/gntdev", O_RDWR | O_CLOEXEC);
    if (xen->fd < 0) {
        *error = errno;
        free(xen);
        return NULL;
    }
    xen->table = (struct xenpv_hypervisor){
        .map = xen_map,
        .unmap = xen_unmap,
        .copy = xen_copy,
        .notify = xen_notify,
        .take = xen_take,
        .unmask = xen_unmask,
        .close = xen_close,
        .direct = 0,
    };
    return &xen->table;
}
