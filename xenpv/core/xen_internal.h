/* What xen.c and xen_verbs.c share: the kernel's declarations of /dev/xen (linux-libc-dev), and their limits. */
#ifndef XENPV_XEN_INTERNAL_H
#define XENPV_XEN_INTERNAL_H

#include <stdint.h>
#include <sys/ioctl.h>

/* The kernel's headers leave these two to Xen's. */
typedef uint32_t grant_ref_t;
typedef uint16_t domid_t;

#include <xen/evtchn.h>
#include <xen/gntalloc.h>
#include <xen/gntdev.h>

#include "api.h"
#include "hypervisor.h"

/* The numbers hold the sizes: these are what the kernel has on every 64-bit machine. */
_Static_assert(IOCTL_GNTDEV_MAP_GRANT_REF == 0x00184700, "gntdev's map");
_Static_assert(IOCTL_GNTDEV_UNMAP_GRANT_REF == 0x00104701, "gntdev's unmap");
_Static_assert(IOCTL_GNTDEV_GRANT_COPY == 0x00104708, "gntdev's copy");
_Static_assert(sizeof(struct gntdev_grant_copy_segment) == 24, "a piece of gntdev's copy");
_Static_assert(IOCTL_GNTDEV_SET_UNMAP_NOTIFY == 0x00104707, "gntdev's unmap notify");
_Static_assert(IOCTL_GNTALLOC_ALLOC_GREF == 0x00184705, "gntalloc's share");
_Static_assert(IOCTL_GNTALLOC_DEALLOC_GREF == 0x00104706, "gntalloc's unshare");
_Static_assert(IOCTL_GNTALLOC_SET_UNMAP_NOTIFY == IOCTL_GNTDEV_SET_UNMAP_NOTIFY, "one unmap notify for both");
_Static_assert(sizeof(struct ioctl_gntalloc_unmap_notify) == sizeof(struct ioctl_gntdev_unmap_notify), "and one struct");
_Static_assert(IOCTL_EVTCHN_RESTRICT_DOMID == 0x00024506, "evtchn's restrict");

#define XENPV_PAGES_MAX 65536u
#define XENPV_DOMID_FIRST_RESERVED 0x7ff0u /* public/xen.h; above it stand names like "self", which no peer has */

#endif
