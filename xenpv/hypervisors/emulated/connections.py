"""The sockets of the host process: calls, the store, and lines of JSON. Each ends alone.

RULES
- Nothing here waits: a peer that does not read its answers ends its own connection, or fills its own buffer.
- Descriptors that a peer sends along are dropped by the kernel: nobody asks for them.
"""

from __future__ import annotations

import errno
import json
import selectors
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from . import calls
from .calls import Refused, Reply
from .hypervisor import Client, Hypervisor

if TYPE_CHECKING:
    from .xenstored import Connection

READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE
_CHUNK = 65536
_LINE_MAX = 1 << 20


class SocketConnection:
    """A socket in the loop. `closed` is called once, when it has ended."""

    def __init__(self, selector: selectors.BaseSelector, sock: socket.socket,
                 closed: Callable[[SocketConnection], None]) -> None:
        sock.setblocking(False)
        self._selector = selector
        self._sock = sock
        self._closed = closed
        self._interest = 0
        self.open = True

    def want(self, interest: int) -> None:
        """Be called for these events (READ, WRITE, or 0)."""
        if not self.open or interest == self._interest:
            return
        if not interest:
            self._selector.unregister(self._sock)
        elif self._interest:
            self._selector.modify(self._sock, interest, self.on_event)
        else:
            self._selector.register(self._sock, interest, self.on_event)
        self._interest = interest

    def receive(self, size: int) -> bytes | None:
        """What has come; b"" when the peer is gone, None when nothing has come."""
        try:
            return self._sock.recv(size)
        except (BlockingIOError, InterruptedError):
            return None
        except OSError:
            return b""

    def send(self, data: bytes | bytearray | memoryview) -> int | None:
        """Bytes taken by the kernel; None when the peer is gone."""
        try:
            return self._sock.send(data, socket.MSG_NOSIGNAL)
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError:
            return None

    def close(self) -> None:
        if not self.open:
            return
        self.want(0)
        self.open = False
        self._sock.close()
        self._closed(self)

    def on_event(self, mask: int) -> None:
        raise AssertionError("a connection of no kind")


class CallConnection(SocketConnection):
    """Calls of a domain's process (core/emulated.h)."""

    def __init__(self, selector: selectors.BaseSelector, sock: socket.socket,
                 closed: Callable[[SocketConnection], None], hypervisor: Hypervisor, client: Client) -> None:
        super().__init__(selector, sock, closed)
        self._hypervisor = hypervisor
        self._client = client
        self.want(READ)

    def on_event(self, mask: int) -> None:
        data = self.receive(calls.SIZE + 1)
        if data is None:
            return
        if len(data) != calls.SIZE:
            self.close()
            return
        try:
            reply = self._hypervisor.call(self._client, calls.unpack_call(data))
        except Refused as refusal:
            reply = Reply(status=-refusal.code)
        try:
            if reply.fds:
                socket.send_fds(self._sock, [reply.pack()], list(reply.fds), socket.MSG_NOSIGNAL)
            else:
                self._sock.send(reply.pack(), socket.MSG_NOSIGNAL)
        except OSError:  # gone, or it calls without reading
            self.close()

    def close(self) -> None:
        self._hypervisor.disconnect(self._client)
        super().close()


class StoreConnection(SocketConnection):
    """A client of the store: bytes to and from the xenstored, which is no part of any socket."""

    def __init__(self, selector: selectors.BaseSelector, sock: socket.socket,
                 closed: Callable[[SocketConnection], None], connection: Connection) -> None:
        super().__init__(selector, sock, closed)
        self.connection = connection
        self.want(READ)

    def on_event(self, mask: int) -> None:
        if mask & READ and self.connection.wants_read:
            data = self.receive(_CHUNK)
            if data == b"":
                self.close()
                return
            if data:
                self.connection.receive(data)
        self.on_ready()

    def on_ready(self, mask: int = 0) -> None:
        """Send what waits to be sent, and look for what the connection now wants."""
        while self.open and (pending := self.connection.send_pending()):
            sent = self.send(pending)
            if sent is None:
                self.close()
                return
            if not sent:
                break
            self.connection.sent(sent)
        if self.connection.closed:
            self.close()
            return
        self.want((READ if self.connection.wants_read else 0) | (WRITE if self.connection.send_pending() else 0))

    def close(self) -> None:
        if self.open and not self.connection.closed:
            self.connection.close()
        super().close()


class ControlConnection(SocketConnection):
    """Requests of the owner: a line of JSON each, answered by a line of JSON, in order."""

    def __init__(self, selector: selectors.BaseSelector, sock: socket.socket,
                 closed: Callable[[SocketConnection], None],
                 handle: Callable[[dict[str, Any], ControlConnection], dict[str, Any] | None]) -> None:
        super().__init__(selector, sock, closed)
        self._handle = handle
        self._input = bytearray()
        self._output = bytearray()
        self._waiting = False
        self.want(READ)

    def on_event(self, mask: int) -> None:
        if mask & READ:
            data = self.receive(_CHUNK)
            if data == b"" or len(self._input) > _LINE_MAX:
                self.close()
                return
            self._input += data or b""
        self._work()

    def answer(self, reply: dict[str, Any]) -> None:
        """The answer to the request that `handle` returned None for."""
        self._waiting = False
        self._output += json.dumps(reply).encode() + b"\n"
        self._work()

    def _work(self) -> None:
        while self.open and not self._waiting and b"\n" in self._input:
            line, _, rest = bytes(self._input).partition(b"\n")
            self._input[:] = rest
            try:
                request = json.loads(line)
                if not isinstance(request, dict):
                    raise ValueError("a request is a JSON object")
            except (ValueError, RecursionError) as error:
                self._output += json.dumps({"ok": False, "error": f"bad request: {error}"}).encode() + b"\n"
                continue
            self._waiting = True
            reply = self._handle(request, self)
            if reply is not None:
                self._waiting = False
                self._output += json.dumps(reply).encode() + b"\n"
        if self._output and self.open:
            sent = self.send(self._output)
            if sent is None:
                self.close()
                return
            del self._output[:sent]
        self.want(READ | (WRITE if self._output else 0))


class Listener:
    """A listening Unix socket in the loop. `accepted` gets each new socket."""

    def __init__(self, selector: selectors.BaseSelector, path: str, kind: int,
                 accepted: Callable[[socket.socket], None]) -> None:
        self._selector = selector
        self._accepted = accepted
        self._sock = socket.socket(socket.AF_UNIX, kind | socket.SOCK_NONBLOCK)
        try:
            self._sock.bind(path)
            self._sock.listen(128)
            selector.register(self._sock, READ, self.on_event)
        except OSError:
            self._sock.close()
            raise
        self._spare = socket.socket(socket.AF_UNIX, kind)

    def on_event(self, mask: int) -> None:
        try:
            sock, _ = self._sock.accept()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                self._refuse()
            return
        self._accepted(sock)

    def _refuse(self) -> None:
        """No descriptor left: turn the caller away with the spare one, else the loop would turn for ever."""
        self._spare.close()
        try:
            self._sock.accept()[0].close()
        except OSError:
            pass
        self._spare = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)

    def close(self) -> None:
        self._selector.unregister(self._sock)
        self._sock.close()
        self._spare.close()
