/* What Python asks the kernel's devices for by itself: event channels (evtchn), pages for others (gntalloc), and what is to
 * happen when pages are unmapped. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "xen_internal.h"

/* ---- event channels ---- */

int xenpv_xen_notify(int fd, uint32_t port)
{
    struct ioctl_evtchn_notify notify = { .port = port };

    return ioctl(fd, IOCTL_EVTCHN_NOTIFY, &notify) < 0 ? -errno : 0;
}

int xenpv_xen_take(int fd, uint32_t port)
{
    uint32_t taken;
    ssize_t got;

    do
        got = read(fd, &taken, sizeof taken);
    while (got < 0 && errno == EINTR);
    if (got == (ssize_t)sizeof taken)
        return taken == port ? 1 : -EPROTO;
    if (got < 0 && errno == EFBIG) /* events were unmasked that nobody took; one event stands for them all */
        return ioctl(fd, IOCTL_EVTCHN_RESET, NULL) < 0 ? -errno : 1;
    return got < 0 && errno != EAGAIN ? -errno : 0;
}

int xenpv_xen_unmask(int fd, uint32_t port)
{
    ssize_t put;

    do
        put = write(fd, &port, sizeof port);
    while (put < 0 && errno == EINTR);
    return put < 0 ? -errno : 0;
}

/* The port is what the ioctl returns; it belongs to the descriptor. */
static int bind(unsigned long request, void *argument, uint32_t *port)
{
    int fd = open("/dev/xen/evtchn", O_RDWR | O_CLOEXEC | O_NONBLOCK), result, error;

    if (fd < 0)
        return -errno;
    result = ioctl(fd, request, argument);
    if (result >= 0) {
        *port = (uint32_t)result;
        return fd;
    }
    error = errno;
    close(fd);
    return -error;
}

int xenpv_xen_bind_unbound(uint32_t domid, uint32_t *port)
{
    struct ioctl_evtchn_bind_unbound_port request = { .remote_domain = domid };

    return bind(IOCTL_EVTCHN_BIND_UNBOUND_PORT, &request, port);
}

int xenpv_xen_bind_interdomain(uint32_t domid, uint32_t remote_port, uint32_t *port)
{
    struct ioctl_evtchn_bind_interdomain request = { .remote_domain = domid, .remote_port = remote_port };

    return bind(IOCTL_EVTCHN_BIND_INTERDOMAIN, &request, port);
}

int xenpv_xen_restrict(int fd, uint32_t domid)
{
    struct ioctl_evtchn_restrict_domid request = { .domid = (domid_t)domid };

    if (domid >= XENPV_DOMID_FIRST_RESERVED)
        return -EINVAL;
    return ioctl(fd, IOCTL_EVTCHN_RESTRICT_DOMID, &request) < 0 ? -errno : 0;
}

int xenpv_xen_unbind(int fd, uint32_t port)
{
    struct ioctl_evtchn_unbind request = { .port = port };

    return ioctl(fd, IOCTL_EVTCHN_UNBIND, &request) < 0 ? -errno : 0;
}

/* ---- our own pages, for others ---- */

int xenpv_xen_gntalloc(void)
{
    int fd = open("/dev/xen/gntalloc", O_RDWR | O_CLOEXEC);

    return fd < 0 ? -errno : fd;
}

int xenpv_xen_share(int fd, uint32_t domid, uint32_t count, int writable, uint64_t *index, uint32_t *refs)
{
    struct ioctl_gntalloc_alloc_gref *request;
    int error = 0;

    if (count == 0 || count > XENPV_PAGES_MAX || domid >= XENPV_DOMID_FIRST_RESERVED)
        return -EINVAL;
    request = calloc(1, sizeof *request + (count - 1) * sizeof request->gref_ids[0]);
    if (!request)
        return -ENOMEM;
    request->domid = (uint16_t)domid;
    request->flags = writable ? GNTALLOC_FLAG_WRITABLE : 0;
    request->count = count;
    if (ioctl(fd, IOCTL_GNTALLOC_ALLOC_GREF, request) < 0) {
        error = -errno;
    } else {
        *index = request->index;
        memcpy(refs, request->gref_ids, count * sizeof *refs);
    }
    free(request);
    return error;
}

int xenpv_xen_unshare(int fd, uint64_t index, uint32_t count)
{
    struct ioctl_gntalloc_dealloc_gref request = { .index = index, .count = count };

    return ioctl(fd, IOCTL_GNTALLOC_DEALLOC_GREF, &request) < 0 ? -errno : 0;
}

/* ---- what happens when pages are unmapped, also by the death of the process ---- */

int xenpv_xen_unmap_notify(int fd, uint64_t at, int clear, int event, uint32_t port)
{
    struct ioctl_gntdev_unmap_notify request = {
        .index = at,
        .action = (clear ? UNMAP_NOTIFY_CLEAR_BYTE : 0) | (event ? UNMAP_NOTIFY_SEND_EVENT : 0),
        .event_channel_port = port,
    };

    return ioctl(fd, IOCTL_GNTDEV_SET_UNMAP_NOTIFY, &request) < 0 ? -errno : 0;
}
