"""The kernel's /dev/xen/xenbus in front of a xenstored on a socket, with what is odd about it.

Source: Linux drivers/xen/xenbus/xenbus_dev_frontend.c. Watches are made within the write, and refused by its errno;
the answer of a watch has no id on old kernels; a depth is dropped; an event's header is garbage; what stands behind a
message is thrown away; header and payload share a page.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
import threading

from xenpv.store.xenbus import XenbusTransport

HEADER = struct.Struct("<IIII")
WATCH, UNWATCH, WATCH_EVENT, ERROR = 4, 5, 15, 16
PATIENCE = 10.0


class FakeXenbus(XenbusTransport):
    """An open device, over the socket at `path`. With `old`, of a kernel that answers watches as request 0."""

    old = False

    def __init__(self, path: str) -> None:
        self._server = socket.socket(socket.AF_UNIX)
        self._server.connect(path)
        self._mine, self._users = socket.socketpair()
        self._answered = threading.Event()
        self._answered.set()
        self._answer = (0, b"")
        self._asked = -1  # the watch that is answered within its write
        self.writes: list[int] = []
        self._pump = threading.Thread(target=self._run, daemon=True)
        super().__init__(path)
        self._pump.start()

    def _open(self, path: str) -> int:  # type: ignore[override]
        self._users.setblocking(False)
        return self._users.detach()

    def close(self) -> None:
        super().close()
        self._server.shutdown(socket.SHUT_RDWR)
        self._pump.join(PATIENCE)
        self._server.close()
        self._mine.close()

    def send(self, data: memoryview) -> int:
        op, rq_id, tx_id, size = HEADER.unpack_from(data)
        self.writes.append(op)
        if HEADER.size + size > 4096:
            raise OSError(errno.E2BIG, os.strerror(errno.E2BIG))
        payload = bytes(data[HEADER.size:HEADER.size + size])
        if op not in (WATCH, UNWATCH):
            self._server.sendall(HEADER.pack(op, rq_id, tx_id, size) + payload)
            return len(data)
        payload = b"".join(part + b"\0" for part in payload.split(b"\0")[:2])
        self._asked = rq_id
        self._answered.clear()
        self._server.sendall(HEADER.pack(op, rq_id, 0, len(payload)) + payload)
        assert self._answered.wait(PATIENCE), "xenstored does not answer"
        kind, reason = self._answer
        if kind == ERROR and op == WATCH:
            number = getattr(errno, reason.rstrip(b"\0").decode())
            raise OSError(number, os.strerror(number))
        self._mine.sendall(HEADER.pack(op, 0 if self.old else rq_id, 0, 3) + b"OK\0")
        return len(data)

    def _run(self) -> None:
        with self._server.makefile("rb") as asked, contextlib.suppress(BrokenPipeError):  # the user has closed the device
            while header := asked.read(HEADER.size):
                op, rq_id, tx_id, size = HEADER.unpack(header)
                payload = asked.read(size)
                if op == WATCH_EVENT:
                    self._mine.sendall(HEADER.pack(op, 0xDEADBEEF, 0x1234, size) + payload)
                elif rq_id == self._asked and not self._answered.is_set():
                    self._answer = op, payload
                    self._answered.set()
                else:
                    self._mine.sendall(header + payload)


class OldXenbus(FakeXenbus):
    """Of a kernel that answers watches as request 0."""

    old = True
