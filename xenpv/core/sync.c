#include "engine.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <unistd.h>

int xenpv_io_rest(const struct xenpv_slot *slot, uint64_t done)
{
    struct iovec iov[XENPV_INDIRECT_SEGMENTS], *at = iov;
    int fd = slot->back->config.fd, left = slot->iovs;

    memcpy(iov, slot->room.iov, sizeof(struct iovec) * (size_t)left);
    for (uint64_t skip = done; done < slot->bytes;) {
        while (left && skip >= at->iov_len) {
            skip -= at->iov_len;
            at++;
            left--;
        }
        at->iov_base = (uint8_t *)at->iov_base + skip;
        at->iov_len -= skip;
        off_t offset = (off_t)(slot->sector * XENPV_SECTOR + done);
        ssize_t n = slot->op == XENPV_OP_READ ? preadv(fd, at, left, offset) : pwritev(fd, at, left, offset);
        if (n < 0 && errno == EINTR)
            n = 0;
        else if (n <= 0)
            return n ? -errno : -EIO; /* 0: the file was cut short under us */
        skip = (uint64_t)n;
        done += (uint64_t)n;
    }
    return 0;
}

static int data_now(const struct xenpv_slot *slot)
{
    const struct iovec *iov = slot->room.iov;
    int fd = slot->back->config.fd;
    off_t offset = (off_t)(slot->sector * XENPV_SECTOR);
    ssize_t n;

    if (slot->iovs != 1)
        return xenpv_io_rest(slot, 0);
    /* One piece is the common case, and the plain call is the faster one. */
    n = slot->op == XENPV_OP_READ ? pread(fd, iov->iov_base, iov->iov_len, offset)
                                  : pwrite(fd, iov->iov_base, iov->iov_len, offset);
    if (n == (ssize_t)iov->iov_len)
        return 0;
    return n < 0 && errno != EINTR ? -errno : xenpv_io_rest(slot, n > 0 ? (uint64_t)n : 0);
}

static int discard_now(const struct xenpv_slot *slot)
{
    int fd = slot->back->config.fd;
    uint64_t range[2] = { slot->sector * XENPV_SECTOR, slot->bytes };

    if (slot->secure)
        return ioctl(fd, BLKSECDISCARD, range) ? -errno : 0;
    /* Block devices take this too, as a discard that reads back as zero. */
    if (fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)range[0], (off_t)range[1]) == 0)
        return 0;
    /* Those that cannot promise the zeroes may still discard: blkif asks for no more. A file says that it is none (ENOTTY). */
    if (errno != EOPNOTSUPP)
        return -errno;
    if (ioctl(fd, BLKDISCARD, range) == 0)
        return 0;
    return errno == ENOTTY ? -EOPNOTSUPP : -errno;
}

int xenpv_io_now(const struct xenpv_slot *slot)
{
    int fd = slot->back->config.fd, error;

    if (slot->op == XENPV_OP_DISCARD)
        return discard_now(slot);
    if ((slot->op == XENPV_OP_FLUSH || slot->flush_first) && fdatasync(fd) != 0)
        return -errno;
    if (slot->op == XENPV_OP_FLUSH)
        return 0;
    error = data_now(slot);
    return error || !slot->flush_after ? error : fdatasync(fd) ? -errno : 0;
}
