/* Calls of the emulated Xen: one message out, one back with descriptors, on the domain's `xen` socket. */
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "emulated_internal.h"

#define TIMEOUT_S 10 /* a host process that is alive answers in well under a millisecond */

int xenpv_call_prepare(int socket)
{
    struct timeval timeout = {.tv_sec = TIMEOUT_S};
    int type = 0;
    socklen_t length = sizeof type;

    if (getsockopt(socket, SOL_SOCKET, SO_TYPE, &type, &length) < 0)
        return -errno;
    if (type != SOCK_SEQPACKET)
        return -EPROTOTYPE;
    if (setsockopt(socket, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof timeout) < 0 ||
        setsockopt(socket, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof timeout) < 0)
        return -errno;
    return 0;
}

static int close_all(int *fds, int count, int error)
{
    while (count > 0)
        close(fds[--count]);
    return error;
}

/* The connection cannot be used again: an answer that comes late must not be taken for the next call's. */
static int broken(int socket, int error)
{
    shutdown(socket, SHUT_RDWR);
    return error == EAGAIN ? -ETIMEDOUT : error == EPERM ? -EPROTO : -error;
}

int xenpv_call(int socket, const struct xenpv_emulated_call *call, struct xenpv_emulated_reply *reply,
               int fds[XENPV_CALL_FDS])
{
    union {
        struct cmsghdr header;
        char space[CMSG_SPACE(sizeof(int) * (XENPV_CALL_FDS + 1))];
    } control;
    struct iovec piece = {.iov_base = reply, .iov_len = sizeof *reply};
    struct msghdr message = {.msg_iov = &piece, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
    int got[XENPV_CALL_FDS + 1], count = 0;
    ssize_t length;

    memset(reply, 0, sizeof *reply);
    do
        length = send(socket, call, sizeof *call, MSG_NOSIGNAL);
    while (length < 0 && errno == EINTR);
    if (length < 0)
        return broken(socket, errno);
    do
        length = recvmsg(socket, &message, MSG_CMSG_CLOEXEC);
    while (length < 0 && errno == EINTR);
    if (length < 0)
        return broken(socket, errno);
    for (struct cmsghdr *part = CMSG_FIRSTHDR(&message); part; part = CMSG_NXTHDR(&message, part)) {
        if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS)
            continue;
        count = (int)((part->cmsg_len - CMSG_LEN(0)) / sizeof(int));
        memcpy(got, CMSG_DATA(part), sizeof(int) * (size_t)count);
    }
    if (length != (ssize_t)sizeof *reply || message.msg_flags & MSG_TRUNC || count > XENPV_CALL_FDS) {
        memset(reply, 0, sizeof *reply);
        return close_all(got, count, broken(socket, length ? EPROTO : ECONNRESET));
    }
    if (reply->status < 0)
        return close_all(got, count, reply->status);
    if (message.msg_flags & MSG_CTRUNC) /* this process has no descriptors left */
        return close_all(got, count, -EMFILE);
    memcpy(fds, got, sizeof(int) * (size_t)count);
    return count;
}
