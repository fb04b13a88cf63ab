"""A domain's event channels."""

from __future__ import annotations

import errno
import os
import select
import time

from xenpv.closing import Closing
from xenpv.errors import ClosedError, EventChannelError, HypervisorError

from .calls import Call, Op, Refused, Reply
from .link import Link


class EmulatedEventChannel(Closing):
    """EventChannel of the emulated Xen: two eventfds.

    A mask is nothing but not looking: the eventfd is readable while an event is pending, also when the port is masked, and
    the core leaves it out of its polls then. fileno() is an epoll that does the same. End a wait() before close().
    """

    def __init__(self, owner: Channels, reply: Reply) -> None:
        self._owner = owner
        self._port = reply.number
        self._wait_fd, self._notify_fd = reply.fds
        self._poll = select.epoll()
        self._poll.register(self._wait_fd, select.EPOLLIN)
        self._closed = False

    def _open(self) -> None:
        if self._closed:
            raise ClosedError(f"event channel port {self._port} was closed")

    @property
    def port(self) -> int:
        return self._port

    def fileno(self) -> int:
        self._open()
        return self._poll.fileno()

    def wait_fileno(self) -> int:
        self._open()
        return self._wait_fd

    def notify_fileno(self) -> int:
        self._open()
        return self._notify_fd

    def notify(self) -> None:
        self._open()
        try:
            os.eventfd_write(self._notify_fd, 1)
        except BlockingIOError:
            pass  # the counter is full: the peer's port is pending

    def wait(self, timeout: float | None = None) -> bool:
        self._open()
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            left = -1 if deadline is None else max(0.0, deadline - time.monotonic())
            if not self._poll.poll(left):
                return False
            try:
                os.eventfd_read(self._wait_fd)
            except BlockingIOError:
                continue  # another holder of the descriptor took it
            self._poll.modify(self._wait_fd, 0)
            return True

    def unmask(self) -> None:
        self._open()
        self._poll.modify(self._wait_fd, select.EPOLLIN)

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._poll.close()
        os.close(self._wait_fd)
        os.close(self._notify_fd)
        self._owner.closed(self)


class Channels:
    """The Events of a domain."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._open: set[EmulatedEventChannel] = set()

    def bind_unbound(self, domid: int) -> EmulatedEventChannel:
        """See xenpv.domain.Events."""
        return self._bind(Call(Op.EVENT_UNBOUND, domid), f"cannot offer an event channel to domain {domid}")

    def bind_interdomain(self, domid: int, port: int) -> EmulatedEventChannel:
        """See xenpv.domain.Events."""
        return self._bind(Call(Op.EVENT_BIND, domid, port), f"cannot bind to port {port} of domain {domid}")

    def _bind(self, call: Call, what: str) -> EmulatedEventChannel:
        if not all(0 <= number <= 0xFFFFFFFF for number in call):
            raise ValueError(f"{what}: these are no numbers of a domain and a port")
        try:
            channel = EmulatedEventChannel(self, self._link.call(call, fds=2))
        except Refused as refusal:
            reason = {errno.ESRCH: "there is no such domain", errno.ENOENT: "there is no such unbound port",
                      errno.EACCES: "it was offered to another domain",
                      errno.ENOSPC: "there are no more ports"}.get(refusal.code, str(refusal))
            raise EventChannelError(f"{what}: {reason}") from refusal
        self._open.add(channel)
        return channel

    def closed(self, channel: EmulatedEventChannel) -> None:
        """`channel` closes: tell the host, so that its peer is unbound when close() returns."""
        self._open.discard(channel)
        try:
            self._link.call(Call(Op.EVENT_CLOSE, number=channel.port))
        except HypervisorError:
            pass  # the host is gone, and every port with it
        except Refused as refusal:
            raise EventChannelError(f"cannot close port {channel.port}: {refusal}") from refusal

    def close(self) -> None:
        for channel in list(self._open):
            channel.close()
