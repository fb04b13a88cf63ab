#include "fake_hypervisor.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "harness.h"

#ifdef __SANITIZE_THREAD__
#define OWN_VIEW 0
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define OWN_VIEW 0
#endif
#endif
#ifndef OWN_VIEW
#define OWN_VIEW 1
#endif

struct fake {
    struct xenpv_hypervisor table;
    struct fake_domain *domain;
    int64_t live;
};

static struct fake_grant *grant_of(struct fake *fake, uint32_t ref, int writable, int16_t *status)
{
    struct fake_grant *grant = ref - FAKE_FIRST_REF < FAKE_PAGES ? &fake->domain->grant[ref - FAKE_FIRST_REF] : NULL;

    *status = XENPV_GNTST_OKAY;
    if (!grant || !grant->granted)
        *status = XENPV_GNTST_BAD_GNTREF;
    else if (writable && !grant->writable)
        *status = XENPV_GNTST_GENERAL;
    return *status ? NULL : grant;
}

static uint8_t *view(struct fake_domain *domain, const uint32_t *refs, uint32_t count, int writable)
{
    if (!OWN_VIEW) {
        for (uint32_t i = 0; i < count; i++)
            CHECK_EQ(refs[i], refs[0] + i); /* one address for both sides: only neighbours can be contiguous */
        return domain->memory + (size_t)(refs[0] - FAKE_FIRST_REF) * XENPV_PAGE_SIZE;
    }
    uint8_t *memory = mmap(NULL, (size_t)count * XENPV_PAGE_SIZE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(memory != MAP_FAILED);
    for (uint32_t i = 0; i < count; i++) {
        void *page = mmap(memory + (size_t)i * XENPV_PAGE_SIZE, XENPV_PAGE_SIZE, PROT_READ | (writable ? PROT_WRITE : 0),
                          MAP_SHARED | MAP_FIXED, domain->fd, (off_t)(refs[i] - FAKE_FIRST_REF) * XENPV_PAGE_SIZE);
        CHECK(page != MAP_FAILED);
    }
    return memory;
}

static int fake_map(struct xenpv_hypervisor *hv, uint32_t domid, const uint32_t *refs, uint32_t count, int writable,
                    struct xenpv_map *out)
{
    struct fake *fake = (struct fake *)hv;

    *out = (struct xenpv_map){ .count = count, .domid = domid, .first = refs[0], .writable = (uint8_t)writable };
    if (fake->domain->maps++ == fake->domain->fail_map) {
        out->status = XENPV_GNTST_GENERAL;
        return -1;
    }
    for (uint32_t i = 0; i < count; i++)
        if (!grant_of(fake, refs[i], writable, &out->status))
            return -1;
    out->memory = view(fake->domain, refs, count, writable);
    for (uint32_t i = 0; i < count; i++)
        fake->domain->grant[refs[i] - FAKE_FIRST_REF].mapped++;
    uint32_t *kept = calloc(count, sizeof *kept);
    CHECK(kept != NULL);
    memcpy(kept, refs, count * sizeof *kept);
    out->handle = (uintptr_t)kept;
    fake->live += count;
    fake->domain->live += count;
    return 0;
}

static int fake_unmap(struct xenpv_hypervisor *hv, struct xenpv_map *map)
{
    struct fake *fake = (struct fake *)hv;

    CHECK(map->memory != NULL); /* an unmap of what is not mapped */
    if (OWN_VIEW)
        CHECK_EQ(munmap(map->memory, (size_t)map->count * XENPV_PAGE_SIZE), 0);
    uint32_t *refs = (uint32_t *)(uintptr_t)map->handle;
    for (uint32_t i = 0; i < map->count; i++)
        CHECK(fake->domain->grant[refs[i] - FAKE_FIRST_REF].mapped-- > 0);
    free(refs);
    fake->live -= map->count;
    fake->domain->live -= map->count;
    *map = (struct xenpv_map){ 0 };
    return 0;
}

static int fake_copy(struct xenpv_hypervisor *hv, uint32_t domid, struct xenpv_copy *copy, uint32_t count)
{
    struct fake *fake = (struct fake *)hv;
    int result = 0;

    (void)domid;
    fake->domain->copies++;
    for (uint32_t i = 0; i < count; i++) {
        grant_of(fake, copy[i].ref, copy[i].to_grant, &copy[i].status);
        if (!copy[i].status && copy[i].offset + copy[i].length > XENPV_PAGE_SIZE)
            copy[i].status = XENPV_GNTST_BAD_COPY_ARG;
        if (fake->domain->pieces++ == fake->domain->fail_piece)
            copy[i].status = fake->domain->fail_status;
        if (copy[i].status) {
            result = -1;
            continue;
        }
        uint8_t *at = fake->domain->memory + (size_t)(copy[i].ref - FAKE_FIRST_REF) * XENPV_PAGE_SIZE + copy[i].offset;
        memcpy(copy[i].to_grant ? at : copy[i].local, copy[i].to_grant ? copy[i].local : at, copy[i].length);
    }
    return result;
}

static void answer(struct fake *fake, const struct xenpv_port *port)
{
    if (fake->domain->hostile && port->number == FAKE_BACK)
        fake->domain->hostile(fake->domain);
}

static int fake_notify(struct xenpv_hypervisor *hv, const struct xenpv_port *port)
{
    struct fake *fake = (struct fake *)hv;

    fake->domain->notifies++;
    CHECK(port->notify_fd >= 0);
    fake_channel_send(fake->domain->channel, port->number == FAKE_FRONT ? FAKE_BACK : FAKE_FRONT);
    answer(fake, port);
    return 0;
}

static int fake_take(struct xenpv_hypervisor *hv, const struct xenpv_port *port)
{
    struct fake *fake = (struct fake *)hv;
    struct fake_channel *channel = fake->domain->channel;
    uint64_t value;
    int taken;

    pthread_mutex_lock(&channel->lock);
    taken = read(port->wait_fd, &value, sizeof value) == sizeof value;
    channel->masked[port->number] |= (uint8_t)taken;
    pthread_mutex_unlock(&channel->lock);
    fake->domain->takes += taken;
    if (taken)
        answer(fake, port);
    return taken;
}

static int fake_unmask(struct xenpv_hypervisor *hv, const struct xenpv_port *port)
{
    struct fake *fake = (struct fake *)hv;
    struct fake_channel *channel = fake->domain->channel;

    pthread_mutex_lock(&channel->lock);
    CHECK(channel->masked[port->number]); /* else an unmask that no take asked for */
    channel->masked[port->number] = 0;
    int pending = channel->pending[port->number];
    channel->pending[port->number] = 0;
    pthread_mutex_unlock(&channel->lock);
    fake->domain->unmasks++;
    if (pending)
        fake_channel_send(channel, port->number);
    return 0;
}

static void fake_close(struct xenpv_hypervisor *hv)
{
    struct fake *fake = (struct fake *)hv;

    fake->domain->leaked += fake->live;
    fake->domain->handles--;
    free(fake);
}

struct xenpv_hypervisor *fake_hypervisor(struct fake_domain *domain)
{
    struct fake *fake = calloc(1, sizeof *fake);

    CHECK(fake != NULL);
    fake->table = (struct xenpv_hypervisor){ fake_map, fake_unmap, fake_copy, fake_notify, fake_take, fake_unmask,
                                             fake_close, domain->direct };
    fake->domain = domain;
    domain->handles++;
    return &fake->table;
}

void fake_domain_open(struct fake_domain *domain)
{
    memset(domain, 0, sizeof *domain);
    domain->fail_map = domain->fail_piece = -1;
    domain->direct = 1;
    domain->fd = memfd_create("domain", MFD_CLOEXEC);
    CHECK(domain->fd >= 0);
    CHECK_EQ(ftruncate(domain->fd, (off_t)FAKE_PAGES * XENPV_PAGE_SIZE), 0);
    domain->memory = mmap(NULL, (size_t)FAKE_PAGES * XENPV_PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, domain->fd, 0);
    CHECK(domain->memory != MAP_FAILED);
}

/* What the tests demand at the end of each domain's life. */
void fake_domain_close(struct fake_domain *domain)
{
    CHECK_EQ(domain->live, 0);
    CHECK_EQ(domain->leaked, 0);
    CHECK_EQ(domain->handles, 0);
    munmap(domain->memory, (size_t)FAKE_PAGES * XENPV_PAGE_SIZE);
    close(domain->fd);
}

void fake_grant(struct fake_domain *domain, uint32_t first, uint32_t count, int writable)
{
    for (uint32_t i = first; i < first + count; i++) {
        domain->grant[i].granted = 1;
        domain->grant[i].writable = (uint8_t)writable;
    }
}

void fake_channel_open(struct fake_channel *channel)
{
    channel->front_wait = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    channel->back_wait = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    CHECK(channel->front_wait >= 0 && channel->back_wait >= 0);
    pthread_mutex_init(&channel->lock, NULL);
    memset(channel->masked, 0, sizeof channel->masked);
    memset(channel->pending, 0, sizeof channel->pending);
}

void fake_channel_bind(struct fake_channel *channel, uint32_t port)
{
    pthread_mutex_lock(&channel->lock);
    channel->masked[port] = channel->pending[port] = 0;
    pthread_mutex_unlock(&channel->lock);
    fake_channel_send(channel, port);
}

void fake_channel_send(struct fake_channel *channel, uint32_t port)
{
    uint64_t one = 1;

    pthread_mutex_lock(&channel->lock);
    if (channel->masked[port])
        channel->pending[port] = 1;
    else
        CHECK_EQ(write(port == FAKE_FRONT ? channel->front_wait : channel->back_wait, &one, sizeof one), sizeof one);
    pthread_mutex_unlock(&channel->lock);
}

void fake_channel_close(struct fake_channel *channel)
{
    close(channel->front_wait);
    close(channel->back_wait);
    pthread_mutex_destroy(&channel->lock);
}
