"""Messages to and from xenstored. The one importer of pyxs.

RULES
1. `connect`, `recv` and `close` are called by the router's thread alone (the first `connect` before it starts);
   `send`, `connect` and `close` one at a time (the router's send lock); `interrupt` by anybody at any time.
2. Nothing here waits without a limit, but for `recv`, which `interrupt` ends.
3. Whatever goes wrong is a StoreConnectionError that says what; after it the connection is only good for close().

What is kept of pyxs 0.4.1: the names and numbers of the operations (`Op`), the header (`Packet`), and the connection
with its exchangeable transport. `Packet` refuses operations newer than 2016; `send` writes twice and `recv` waits for
ever, and both let raw errors through: these three are replaced.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import struct
import threading
import time
from typing import Protocol

from pyxs._internal import Op
from pyxs._internal import Packet as _PyxsPacket
from pyxs.connection import PacketConnection, UnixSocketConnection

from ..errors import StoreConnectionError, StoreTimeoutError
from .rules import PAYLOAD_MAX, short

__all__ = ["Connection", "Op", "Packet", "RESET_WATCHES", "DIRECTORY_PART", "SocketConnection", "Transport"]

RESET_WATCHES = 21
DIRECTORY_PART = 22
"""Operations that pyxs does not know (xs_wire.h: XS_RESET_WATCHES, XS_DIRECTORY_PART)."""

_ANSWERS = frozenset(Op) - {Op.RESTRICT} | {RESET_WATCHES, DIRECTORY_PART}


class Packet(_PyxsPacket):
    """A message: pyxs's tuple of op, rq_id, tx_id, size and payload, for every operation."""

    __slots__ = ()

    def __new__(cls, op: int, payload: bytes, rq_id: int, tx_id: int = 0) -> Packet:
        return tuple.__new__(cls, (op, rq_id, tx_id, len(payload), payload))

    def encode(self) -> bytes:
        """Header and payload. Both in one piece, so that one write carries one message."""
        return self._struct.pack(self.op, self.rq_id, self.tx_id, self.size) + self.payload


class Transport(Protocol):
    """A byte stream that never blocks: BlockingIOError says that it would have to."""

    def fileno(self) -> int: ...
    def send(self, data: memoryview) -> int: ...
    def recv(self, size: int) -> bytes: ...

    def interrupt(self) -> None:
        """Let recv() return b"" as soon as what came before has been read."""
        ...

    def close(self) -> None: ...


class SocketTransport:
    """The Unix socket of xenstored."""

    def __init__(self, path: str, timeout: float) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            # A full backlog makes connect() wait, and on a Unix socket only this option limits the wait.
            limit = max(1, round(timeout * 1e6))
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", *divmod(limit, 10**6)))
            self._socket.connect(path)
            self._socket.setblocking(False)
        except BaseException:
            self._socket.close()
            raise

    def fileno(self) -> int:
        return self._socket.fileno()

    def send(self, data: memoryview) -> int:
        return self._socket.send(data)

    def recv(self, size: int) -> bytes:
        return self._socket.recv(size)

    def interrupt(self) -> None:
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError as error:
            if error.errno not in (errno.ENOTCONN, errno.EBADF):
                raise

    def close(self) -> None:
        self._socket.close()


class Connection(PacketConnection):
    """A connection in terms of messages, on any transport."""

    payload_max = PAYLOAD_MAX
    """Bytes of a payload that may be sent."""
    transport: Transport | None

    def __init__(self) -> None:
        self._input = bytearray()
        self._guard = threading.Lock()  # so that interrupt() never meets a descriptor that is somebody else's by now

    def connect(self) -> None:
        """Connect, unless connected. Raises StoreConnectionError."""
        self._input = bytearray()
        try:
            super().connect()
        except (OSError, ValueError) as error:
            number = error.errno if isinstance(error, OSError) else None
            cause = "it does not accept" if number == errno.EAGAIN else os.strerror(number) if number else str(error)
            raise StoreConnectionError(f"cannot connect to xenstored at {short(self.path)}: {cause}; is it running?",
                                       errno.errorcode.get(number or 0, "EINVAL")) from error

    def interrupt(self) -> None:
        """End a recv() that waits, and every later one: the connection is given up."""
        with self._guard:
            if self.transport is not None:
                self.transport.interrupt()

    def close(self, silent: bool = True) -> None:
        """Disconnect, if connected."""
        with self._guard:
            transport, self.transport = self.transport, None  # first, since closing lets other threads run
            try:
                if transport is not None:
                    transport.close()
            except OSError:
                if not silent:
                    raise

    def send(self, packet: Packet, deadline: float = float("inf")) -> None:  # type: ignore[override]
        """Send one message by `deadline` (time.monotonic()).

        Raises StoreTimeoutError when nothing of it could be sent, and StoreConnectionError when the connection broke;
        a message that was sent in part breaks it.
        """
        if (transport := self.transport) is None:
            raise StoreConnectionError("the connection to xenstored is gone", "ENOTCONN")
        message = memoryview(packet.encode())
        sent, size = 0, len(message)
        try:
            while sent < size:
                try:
                    sent += transport.send(message[sent:])
                except BlockingIOError:
                    if not _ready(transport, select.POLLOUT, deadline):
                        if not sent:
                            raise StoreTimeoutError("xenstored does not read", "ETIMEDOUT") from None
                        raise StoreConnectionError("xenstored stopped reading within a message", "ETIMEDOUT") from None
                except OSError as error:
                    self.interrupt()
                    raise StoreConnectionError(f"writing to xenstored failed: {error.strerror}", "ECONNRESET") from error
        except BaseException:  # a signal's handler's too
            if 0 < sent < size:
                self.interrupt()  # nobody sends the rest
            raise

    def recv(self, deadline: float = float("inf")) -> Packet:
        """The next message. Raises StoreConnectionError; StoreTimeoutError when there is none by `deadline`."""
        while (packet := self._take()) is None:
            if (transport := self.transport) is None:
                raise StoreConnectionError("the connection to xenstored is gone", "ENOTCONN")
            if not _ready(transport, select.POLLIN, deadline):
                raise StoreTimeoutError("xenstored is silent", "ETIMEDOUT")
            try:
                data = transport.recv(65536)
            except BlockingIOError:
                continue
            except OSError as error:
                raise StoreConnectionError(f"reading from xenstored failed: {error.strerror}", "ECONNRESET") from error
            if not data:
                raise StoreConnectionError("xenstored closed the connection", "ECONNRESET")
            self._input += data
        return packet

    def _take(self) -> Packet | None:
        """A whole message from the front of the input, or None. Checks the header, which is all that is known of it."""
        header = Packet._struct
        if len(self._input) < header.size:
            return None
        op, rq_id, tx_id, size = header.unpack_from(self._input)
        if op not in _ANSWERS:
            raise StoreConnectionError(f"xenstored sent a message of unknown type {op}", "EPROTO")
        if size > PAYLOAD_MAX:
            raise StoreConnectionError(f"xenstored sent a message of {size} bytes", "EPROTO")
        end = header.size + size
        if len(self._input) < end:
            return None
        payload = bytes(self._input[header.size:end])
        del self._input[:end]
        return Packet(op, payload, rq_id, tx_id)


class SocketConnection(Connection, UnixSocketConnection):
    """xenstored's Unix socket. Without a path, where pyxs and libxenstore look ($XENSTORED_PATH, $XENSTORED_RUNDIR)."""

    def __init__(self, path: str | os.PathLike[str] | None = None, timeout: float = 5.0) -> None:
        Connection.__init__(self)
        UnixSocketConnection.__init__(self, None if path is None else os.fspath(path))
        self._timeout = timeout

    def create_transport(self) -> Transport:
        return SocketTransport(self.path, self._timeout)


def _ready(transport: Transport, event: int, deadline: float) -> bool:
    """Wait for `event`; say whether it came. poll(), since select() stops at descriptor 1023."""
    poll = select.poll()
    poll.register(transport.fileno(), event)
    if deadline == float("inf"):
        return bool(poll.poll())
    return bool(poll.poll(max(0.0, deadline - time.monotonic()) * 1000))
