"""xenstored through the kernel's /dev/xen/xenbus: all that a guest has.

The device is the kernel's own connection, shared by every process, and differs from the socket (Linux
drivers/xen/xenbus/xenbus_dev_frontend.c). RULES

1. Header and payload share one page: a payload has at most 4080 bytes. What comes back may have 4096.
2. One write carries one message, whole; bytes behind it would be thrown away.
3. A request that the kernel refuses has no answer: write() fails with the errno. It becomes an ERROR answer here.
4. WATCH and UNWATCH are answered by the kernel itself, within the write and in order; old kernels answer as request 0.
   The answer gets the id of the request that it is for.
5. Watches belong to the kernel's connection: RESET_WATCHES would take the kernel's own, so it is refused here.
6. The device never says when it can be written, and never has to: a write waits in the kernel, briefly.
"""

from __future__ import annotations

import errno
import os
import select
import threading
from collections import deque

from ..errors import StoreConnectionError
from .connection import RESET_WATCHES, Connection, Op, Packet, SocketConnection
from .rules import PAYLOAD_MAX

XENBUS_PATHS = ("/dev/xen/xenbus", "/proc/xen/xenbus")

_HEADER_BYTES = 16
_BROKEN = (errno.EBADF, errno.ENODEV, errno.ENXIO, errno.EIO)
"""Errors of write() that say something about the device, not about the request."""


class XenbusTransport:
    """The open device, and beside it what is to be read although the device did not send it."""

    def __init__(self, path: str) -> None:
        self._poll = select.epoll()
        try:
            self._fd = self._open(path)
        except BaseException:
            self._poll.close()
            raise
        self._wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._poll.register(self._fd, select.EPOLLIN)
        self._poll.register(self._wake_fd, select.EPOLLIN)
        self._lock = threading.Lock()
        self._given: deque[bytes] = deque()
        self._interrupted = False

    @staticmethod
    def _open(path: str) -> int:
        return os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)

    def fileno(self) -> int:
        return self._poll.fileno()

    def send(self, data: memoryview) -> int:
        return os.write(self._fd, data)

    def give(self, message: bytes) -> None:
        """Let recv() return `message`, between two that the device sends."""
        with self._lock:
            self._given.append(message)
            os.eventfd_write(self._wake_fd, 1)

    def recv(self, size: int) -> bytes:
        try:
            return os.read(self._fd, size)
        except BlockingIOError:
            with self._lock:
                if self._given:
                    return self._given.popleft()
                if self._interrupted:
                    return b""  # and readable for ever
                try:
                    os.eventfd_read(self._wake_fd)
                except BlockingIOError:
                    pass
            raise

    def interrupt(self) -> None:
        with self._lock:
            self._interrupted = True
            os.eventfd_write(self._wake_fd, 1)

    def close(self) -> None:
        self._poll.close()
        os.close(self._fd)
        os.close(self._wake_fd)


class XenbusConnection(Connection):
    """The kernel's own connection to xenstored."""

    payload_max = PAYLOAD_MAX - _HEADER_BYTES
    transport: XenbusTransport | None

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path
        self._watch_ids: deque[int] = deque()

    def create_transport(self) -> XenbusTransport:
        self._watch_ids.clear()
        return XenbusTransport(self.path)

    def send(self, packet: Packet, deadline: float = float("inf")) -> None:  # type: ignore[override]
        """Send one message. A refusal by the kernel is the answer. Raises StoreConnectionError."""
        if (transport := self.transport) is None:
            raise StoreConnectionError("the connection to xenstored is gone", "ENOTCONN")
        if packet.op == RESET_WATCHES:
            self._answer(transport, packet, errno.EOPNOTSUPP)
            return
        message = memoryview(packet.encode())
        watching = packet.op in (Op.WATCH, Op.UNWATCH)
        if watching:
            self._watch_ids.append(packet.rq_id)  # before the write: the answer may be read before it returns
        try:
            sent = transport.send(message)
        except OSError as error:
            if watching:
                self._watch_ids.pop()
            if error.errno in _BROKEN:
                self.interrupt()
                raise StoreConnectionError(f"writing to {self.path} failed: {error.strerror}", "ECONNRESET") from error
            self._answer(transport, packet, error.errno or errno.EIO)
            return
        if sent != len(message):
            self.interrupt()
            raise StoreConnectionError(f"{self.path} took {sent} bytes of a message of {len(message)}", "EPROTO")

    @staticmethod
    def _answer(transport: XenbusTransport, packet: Packet, error: int) -> None:
        """Answer `packet` in the kernel's place."""
        name = errno.errorcode.get(error, "EIO").encode("ascii") + b"\0"
        transport.give(Packet(Op.ERROR, name, packet.rq_id, packet.tx_id).encode())

    def _take(self) -> Packet | None:
        packet = super()._take()
        if packet is not None and packet.op == Op.ERROR and packet.rq_id in self._watch_ids:
            self._watch_ids.remove(packet.rq_id)
        if packet is None or packet.op not in (Op.WATCH, Op.UNWATCH):
            return packet
        if not self._watch_ids:
            raise StoreConnectionError("the kernel answered a watch that was never asked for", "EPROTO")
        return Packet(packet.op, packet.payload, self._watch_ids.popleft(), packet.tx_id)


def open_connection(path: str | os.PathLike[str] | None, timeout: float) -> Connection:
    """The connection for `path`, a socket or the kernel's device; it is not made yet.

    None: $XENSTORED_PATH, else the socket of xenstored if there is one ($XENSTORED_RUNDIR, else /var/run/xenstored),
    else the kernel's device, which is all that a guest has.
    """
    if path is None:
        connection = SocketConnection(None, timeout)
        devices = [device for device in XENBUS_PATHS if os.path.exists(device)]
        if os.environ.get("XENSTORED_PATH") or os.path.exists(connection.path) or not devices:
            return connection
        return XenbusConnection(devices[0])
    name = os.fspath(path)
    if name in XENBUS_PATHS:
        return XenbusConnection(name)
    return SocketConnection(name, timeout)
