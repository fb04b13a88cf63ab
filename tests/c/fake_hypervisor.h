/* A hypervisor in ordinary memory: the core's tests need no Xen, and can make it fail where they like.
 *
 * A domain is a stretch of pages; page i has the grant reference FAKE_FIRST_REF + i once it is granted. Except under the
 * thread sanitizer, which must see both sides at one address, a mapping is a view of its own with its own protection:
 * a store to a page that is mapped read-only, or any access after the unmap, is a fault. */
#ifndef XENPV_FAKE_HYPERVISOR_H
#define XENPV_FAKE_HYPERVISOR_H

#include <pthread.h>
#include <stdatomic.h>

#include "hypervisor.h"

#define FAKE_FIRST_REF 8u
#define FAKE_PAGES 2048u

struct fake_grant {
    uint8_t granted, writable;
    _Atomic uint32_t mapped;
};

/* Two ports, each with an eventfd. A port that was taken is masked: what comes then is kept until it is unmasked. */
enum { FAKE_FRONT = 1, FAKE_BACK = 2 }; /* port numbers */
struct fake_channel {
    pthread_mutex_t lock;
    int front_wait, back_wait;
    uint8_t masked[3], pending[3];
};

struct fake_domain {
    int fd;
    struct fake_channel *channel;
    uint8_t *memory;
    struct fake_grant grant[FAKE_PAGES];
    /* Faults, set before the other side runs. */
    int64_t fail_map;    /* the map of this number (from 0) is refused; -1: none */
    int64_t fail_piece;  /* the copy piece of this number gets fail_status; -1: none */
    int16_t fail_status;
    void (*hostile)(struct fake_domain *); /* what it does whenever the backend took its event, or sent it one; NULL: nothing */
    int direct;          /* what new handles say of themselves */
    /* Counts. */
    _Atomic int64_t maps, live, copies, pieces, notifies, takes, unmasks, handles;
    _Atomic int64_t leaked; /* pages still mapped when a handle was closed */
};

void fake_domain_open(struct fake_domain *domain);
void fake_domain_close(struct fake_domain *domain);
/* Grants pages [first, first + count). */
void fake_grant(struct fake_domain *domain, uint32_t first, uint32_t count, int writable);
struct xenpv_hypervisor *fake_hypervisor(struct fake_domain *domain);

void fake_channel_open(struct fake_channel *channel);
/* A new process binds `port`: it is unmasked and pending. */
void fake_channel_bind(struct fake_channel *channel, uint32_t port);
/* Sets `port` pending, as its peer's notification does. */
void fake_channel_send(struct fake_channel *channel, uint32_t port);
void fake_channel_close(struct fake_channel *channel);

#endif
