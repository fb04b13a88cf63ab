/* What a data path may ask of a hypervisor: one table of functions, filled for Xen and for the emulated Xen.
 *
 * A struct xenpv_hypervisor is used by one thread at a time and owns what is mapped through it, as an open
 * /dev/xen/gntdev does: closing it ends every mapping. No other C file knows which hypervisor it is.
 * Functions return 0 or a count, or a negative errno. `status` fields hold Xen's GNTST_*. */
#ifndef XENPV_HYPERVISOR_H
#define XENPV_HYPERVISOR_H

#include <stdint.h>

#define XENPV_PAGE_SIZE 4096u

/* GNTST_* (xen/include/public/grant_table.h) */
enum {
    XENPV_GNTST_OKAY = 0,
    XENPV_GNTST_GENERAL = -1,
    XENPV_GNTST_BAD_DOMAIN = -2,
    XENPV_GNTST_BAD_GNTREF = -3,
    XENPV_GNTST_BAD_HANDLE = -4,
    XENPV_GNTST_NO_DEVICE_SPACE = -7,
    XENPV_GNTST_PERMISSION_DENIED = -8,
    XENPV_GNTST_BAD_COPY_ARG = -10,
    XENPV_GNTST_EAGAIN = -12,
    XENPV_GNTST_NO_SPACE = -13,
};

struct xenpv_hypervisor;

/* Mapped pages, contiguous in memory. Zeroed when not mapped. */
struct xenpv_map {
    uint8_t *memory;
    uint32_t count; /* pages */
    uint32_t domid;
    uint32_t first; /* the first grant reference */
    int16_t status; /* of a map that failed */
    uint8_t writable;
    uint8_t kind; /* the hypervisor's own: how to unmap */
    uint64_t handle; /* the hypervisor's own */
};

/* One piece of a grant copy: at most a page, never across the end of the granted page. */
struct xenpv_copy {
    uint8_t *local;
    uint32_t ref;
    uint16_t offset; /* in the granted page */
    uint16_t length;
    uint16_t to_grant; /* 1: local -> grant, 0: grant -> local */
    int16_t status; /* out */
};

/* An event channel's descriptors. They may be the same one. */
struct xenpv_port {
    uint32_t number;
    int wait_fd;
    int notify_fd;
};

struct xenpv_hypervisor {
    /* Maps `count` pages, in the order of `refs`, contiguous; all or none. -1 with out->status, or a negative errno. */
    int (*map)(struct xenpv_hypervisor *, uint32_t domid, const uint32_t *refs, uint32_t count, int writable,
               struct xenpv_map *out);
    /* Ends a mapping. Everything this side wrote to the pages is seen by whoever sees the grant unused. */
    int (*unmap)(struct xenpv_hypervisor *, struct xenpv_map *);
    /* Copies every piece; 0 if all have status 0, else -1. One system call for all where the hypervisor has one. */
    int (*copy)(struct xenpv_hypervisor *, uint32_t domid, struct xenpv_copy *, uint32_t count);
    /* Sets the peer's port pending. */
    int (*notify)(struct xenpv_hypervisor *, const struct xenpv_port *);
    /* Takes the event that is pending and masks the port: 1, or 0 when none is. Never blocks: poll wait_fd for that. */
    int (*take)(struct xenpv_hypervisor *, const struct xenpv_port *);
    /* Lets the next event through. */
    int (*unmask)(struct xenpv_hypervisor *, const struct xenpv_port *);
    /* Ends every mapping and frees the handle. */
    void (*close)(struct xenpv_hypervisor *);
    /* 1: map and unmap cost less than a copy of the page, and an asynchronous direct I/O may target a mapped page. */
    int direct;
};

#endif
