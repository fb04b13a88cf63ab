"""A scripted xenstored on a Unix socket: raw wire, no pyxs, and it misbehaves when told to.

A script is a list of steps. Each request, from whatever connection, takes the next one; when none is left, `serve`
answers as a store would in which every node reads ``value``. A step is called with the connection and the request.
"""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

HEADER = struct.Struct("<IIII")
(DIRECTORY, READ, WATCH, UNWATCH, TRANSACTION_START, TRANSACTION_END, GET_DOMAIN_PATH, WRITE, WATCH_EVENT, ERROR,
 IS_DOMAIN_INTRODUCED, RESET_WATCHES, DIRECTORY_PART) = 1, 2, 4, 5, 6, 7, 10, 11, 15, 16, 17, 21, 22


class Request(NamedTuple):
    op: int
    rq_id: int
    tx_id: int
    payload: bytes


class Peer:
    """One connection, from the server's end."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection

    def send(self, op: int, rq_id: int, payload: bytes, tx_id: int = 0) -> None:
        self.raw(HEADER.pack(op, rq_id, tx_id, len(payload)) + payload)

    def event(self, path: str, token: bytes, rq_id: int = 0, tx_id: int = 0) -> None:
        self.send(WATCH_EVENT, rq_id, path.encode() + b"\0" + token + b"\0", tx_id)

    def raw(self, data: bytes) -> None:
        self._socket.sendall(data)

    def receive(self) -> Request | None:
        header = self._exactly(HEADER.size)
        if header is None:
            return None
        op, rq_id, tx_id, size = HEADER.unpack(header)
        payload = self._exactly(size)
        return None if payload is None else Request(op, rq_id, tx_id, payload)

    def close(self) -> None:
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self._socket.close()

    def _exactly(self, size: int) -> bytes | None:
        data = b""
        while len(data) < size:
            try:
                part = self._socket.recv(size - len(data))
            except OSError:
                return None
            if not part:
                return None
            data += part
        return data


Step = Callable[[Peer, Request], None]


def serve(peer: Peer, request: Request) -> None:
    """As a store would, in which everything is there and every value is ``value``."""
    answers = {READ: b"value", DIRECTORY: b"a\0b\0", TRANSACTION_START: b"7\0", IS_DOMAIN_INTRODUCED: b"T\0",
               GET_DOMAIN_PATH: b"/local/domain/" + request.payload}
    peer.send(request.op, request.rq_id, answers.get(request.op, b"OK\0"), request.tx_id)
    if request.op == WATCH:
        path, token = request.payload.split(b"\0")[:2]
        peer.event(path.decode(), token)


def reply(payload: bytes) -> Step:
    """Answer with `payload`."""
    return lambda peer, request: peer.send(request.op, request.rq_id, payload, request.tx_id)


def error(name: bytes) -> Step:
    """Answer with an error."""
    return lambda peer, request: peer.send(ERROR, request.rq_id, name + b"\0", request.tx_id)


def silence(peer: Peer, request: Request) -> None:
    """Do not answer."""


def drop(peer: Peer, request: Request) -> None:
    """Close the connection instead of an answer."""
    peer.close()


def raw(data: bytes) -> Step:
    """Answer with these very bytes."""
    return lambda peer, request: peer.raw(data)


class FakeXenstored:
    """Listens until close(). `requests` are all that came, `connections` all that were made."""

    def __init__(self, path: Path, *script: Step) -> None:
        self.path = str(path)
        self.script = list(script)
        self.requests: list[Request] = []
        self.connections: list[Peer] = []
        self._changed = threading.Condition()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        path.unlink(missing_ok=True)
        self._listener.bind(self.path)
        self._listener.listen(8)
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Stop listening and drop every connection, as a daemon that dies."""
        try:
            self._listener.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self._threads[0].join()
        self._listener.close()
        for peer in self.connections:
            peer.close()
        for thread in self._threads[1:]:
            thread.join()

    def wait_for(self, holds: Callable[[], bool]) -> None:
        """Wait until `holds`, which is looked at after every request and connection."""
        with self._changed:
            if not self._changed.wait_for(holds, 10):
                raise AssertionError(f"not within 10 s; requests: {self.requests}")

    def ops(self) -> list[int]:
        return [request.op for request in self.requests]

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            peer = Peer(connection)
            thread = threading.Thread(target=self._serve, args=(peer,), daemon=True)
            with self._changed:
                self.connections.append(peer)
                self._threads.append(thread)
                self._changed.notify_all()
            thread.start()

    def _serve(self, peer: Peer) -> None:
        while (request := peer.receive()) is not None:
            with self._changed:
                self.requests.append(request)
                step = self.script.pop(0) if self.script else serve
                self._changed.notify_all()
            try:
                step(peer, request)
            except OSError:
                return
