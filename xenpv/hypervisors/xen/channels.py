"""Event channels, each on a /dev/xen/evtchn of its own."""

from __future__ import annotations

import errno
import os
import select
import time

from xenpv.closing import Closing
from xenpv.core import ffi, lib
from xenpv.errors import ClosedError, EventChannelError

from .devices import EVTCHN

_REASONS = {errno.ESRCH: "there is no such domain", errno.EINVAL: "there is no such unbound port, or it was offered to "
            "another domain", errno.ENOSPC: "there are no more ports", errno.EPERM: "it was not offered to us"}


class XenEventChannel(Closing):
    """EventChannel of real Xen. The kernel masks the port when it shows an event. End a wait() before close()."""

    def __init__(self, owner: Channels, fd: int, port: int) -> None:
        self._owner = owner
        self._fd = fd
        self._port = port
        self._poll = select.poll()
        self._poll.register(fd, select.POLLIN)

    @property
    def port(self) -> int:
        return self._port

    def fileno(self) -> int:
        if self._fd < 0:
            raise ClosedError(f"event channel port {self._port} was closed")
        return self._fd

    def wait_fileno(self) -> int:
        return self.fileno()

    def notify_fileno(self) -> int:
        return self.fileno()

    def _check(self, result: int, what: str) -> int:
        if result < 0:
            raise EventChannelError(f"cannot {what} port {self._port}: {os.strerror(-result)}")
        return result

    def notify(self) -> None:
        self._check(lib.xenpv_xen_notify(self.fileno(), self._port), "notify through")

    def wait(self, timeout: float | None = None) -> bool:
        fd = self.fileno()
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            left = None if deadline is None else max(0.0, deadline - time.monotonic()) * 1000
            if not self._poll.poll(left):
                return False
            if self._check(lib.xenpv_xen_take(fd, self._port), "take the event of"):
                return True  # else another holder of the descriptor took it

    def unmask(self) -> None:
        self._check(lib.xenpv_xen_unmask(self.fileno(), self._port), "unmask")

    def restrict(self, domid: int) -> None:
        """Let the descriptor bind to no other domain than `domid` any more. Raises EventChannelError, also for 0."""
        self._check(lib.xenpv_xen_restrict(self.fileno(), domid), f"restrict to domain {domid} the")

    def close(self) -> None:
        if self._fd < 0:
            return
        fd, self._fd = self._fd, -1
        self._owner.closed(self)
        try:
            # A queue may hold a duplicate of the descriptor: the port goes now, not with the last of them.
            self._check(lib.xenpv_xen_unbind(fd, self._port), "close")
        finally:
            os.close(fd)


class Channels:
    """The Events of a domain."""

    def __init__(self) -> None:
        self._open: set[XenEventChannel] = set()

    def bind_unbound(self, domid: int) -> XenEventChannel:
        """See xenpv.domain.Events."""
        what = f"cannot offer an event channel to domain {domid}"
        if not 0 <= domid <= 0xFFFFFFFF:
            raise ValueError(f"{what}: this is no domain number")
        port = ffi.new("uint32_t *")
        return self._bound(lib.xenpv_xen_bind_unbound(domid, port), port[0], what)

    def bind_interdomain(self, domid: int, port: int) -> XenEventChannel:
        """See xenpv.domain.Events."""
        what = f"cannot bind to port {port} of domain {domid}"
        if not (0 <= domid <= 0xFFFFFFFF and 0 <= port <= 0xFFFFFFFF):
            raise ValueError(f"{what}: these are no numbers of a domain and a port")
        local = ffi.new("uint32_t *")
        return self._bound(lib.xenpv_xen_bind_interdomain(domid, port, local), local[0], what)

    def _bound(self, fd: int, port: int, what: str) -> XenEventChannel:
        if fd in (-errno.ENOENT, -errno.ENODEV, -errno.ENXIO, -errno.EACCES):
            raise EVTCHN.unusable(-fd)
        if fd < 0:
            raise EventChannelError(f"{what}: {_REASONS.get(-fd, os.strerror(-fd))}")
        channel = XenEventChannel(self, fd, port)
        self._open.add(channel)
        return channel

    def closed(self, channel: XenEventChannel) -> None:
        """`channel` closes itself."""
        self._open.discard(channel)

    def close(self) -> None:
        for channel in list(self._open):
            channel.close()
