/* What Xen's C xenstored needs of a hypervisor, without one: preloaded, it lets the daemon serve its Unix socket to
 * dom0. There are no other domains, no event ever comes, and dom0's ring page is private memory that nobody uses. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

static char handle;

static int file_of(const char *content, size_t size)
{
    int fd = memfd_create("no-xen", 0);
    if (fd >= 0 && (write(fd, content, strlen(content)) < 0 || (size && ftruncate(fd, (off_t)size) < 0)))
        return -1;
    lseek(fd, 0, SEEK_SET);
    return fd;
}

int open(const char *path, int flags, ...)
{
    static int (*next)(const char *, int, ...);
    va_list rest;
    mode_t mode;

    if (!strcmp(path, "/proc/xen/xsd_port") || !strcmp(path, "/dev/xen/xsd_port"))
        return file_of("1", 0);
    if (!strcmp(path, "/proc/xen/xsd_kva") || !strcmp(path, "/dev/xen/xsd_kva"))
        return file_of("", 4096);
    if (!next)
        next = (int (*)(const char *, int, ...))dlsym(RTLD_NEXT, "open");
    va_start(rest, flags);
    mode = (flags & (O_CREAT | O_TMPFILE)) ? va_arg(rest, mode_t) : 0;
    va_end(rest);
    return next(path, flags, mode);
}

int open64(const char *path, int flags, ...) __attribute__((alias("open")));

void *xc_interface_open(void *logger, void *dombuild_logger, unsigned flags)
{
    (void)logger, (void)dombuild_logger, (void)flags;
    return &handle;
}

int xc_domain_getinfo(void *xch, uint32_t first, unsigned max, void *info)
{
    (void)xch, (void)first, (void)max, (void)info;
    return 0;
}

void *xengnttab_open(void *logger, unsigned flags) { (void)logger, (void)flags; return &handle; }
int xengnttab_set_max_grants(void *xgt, uint32_t count) { (void)xgt, (void)count; return 0; }
void *xengnttab_map_grant_ref(void *xgt, uint32_t domid, uint32_t ref, int prot)
{
    (void)xgt, (void)domid, (void)ref, (void)prot;
    return NULL;
}
void *xenevtchn_open(void *logger, unsigned flags) { (void)logger, (void)flags; return &handle; }
int xenevtchn_fd(void *xce) { static int fd = -1; (void)xce; return fd >= 0 ? fd : (fd = eventfd(0, 0)); }
int xenevtchn_bind_virq(void *xce, unsigned virq) { (void)xce, (void)virq; return 2; }
int xenevtchn_bind_interdomain(void *xce, uint32_t domid, uint32_t port)
{
    (void)xce, (void)domid;
    return (int)port + 2;
}
int xenevtchn_unbind(void *xce, uint32_t port) { (void)xce, (void)port; return 0; }
int xenevtchn_notify(void *xce, uint32_t port) { (void)xce, (void)port; return 0; }
int xenevtchn_unmask(void *xce, uint32_t port) { (void)xce, (void)port; return 0; }
