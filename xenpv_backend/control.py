"""The control socket: one line of JSON in, one out. For the owner alone.

    list                            every vbd: state, storage, engine, what was negotiated, counters
    status                          pid, hypervisor, options, number of vbds
    resize   domid devid [bytes]    the storage's size becomes the disk's, after it grew to `bytes` -> bytes
    shutdown                        as SIGTERM

A request is an object with a key ``verb``; the answer is one with ``ok``, and ``error`` when that is false.

RULES
- A client's requests are answered in their order, each when its verb has ended. Other clients need not wait for that.
- Nobody holds the backend up for longer than a second: a client that sends too much, or does not read, is dropped.
"""

from __future__ import annotations

import json
import os
import socket
import struct
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from xenpv.errors import DeviceError, UsageError, XenpvError

from .log import LOGGER
from .watcher import Registers

LINE_MAX = 65536
"""Bytes of a request."""
UNREAD_MAX = 16 << 20
"""Bytes of answers that a client may leave unread."""
CLIENTS_MAX = 32

ANSWER_TIMEOUT = 30.0
"""Seconds that request() waits: a resize waits for what is in flight, and for the storage's server."""

Answer = dict[str, Any]
Verb = Callable[[dict[str, Any]], Answer | Future[Answer]]
"""A future is done on the loop's thread."""


class Control:
    """Listens at `path` and answers with `verbs`, on the loop's thread. Raises UsageError."""

    def __init__(self, path: Path, loop: Registers, verbs: Mapping[str, Verb]) -> None:
        self._path = path
        self._loop = loop
        self._verbs = verbs
        self._clients: set[_Client] = set()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            path.unlink(missing_ok=True)  # of a dead backend: ours is the directory's lock
            self._socket.bind(str(path))
            os.chmod(path, 0o600)
            self._socket.listen(CLIENTS_MAX)
        except OSError as error:
            self._socket.close()
            raise UsageError(f"cannot listen at {path}: {error.strerror}") from error
        loop.add(self._socket.fileno(), self._accept)

    def _accept(self) -> None:
        try:
            connection, _ = self._socket.accept()
        except OSError as error:
            LOGGER.debug("control socket: %s", error)  # the client has gone again
            return
        uid = struct.unpack("iII", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[1]
        if uid not in (0, os.geteuid()) or len(self._clients) >= CLIENTS_MAX:
            connection.close()
            return
        connection.setblocking(False)
        self._clients.add(_Client(self, connection))

    def begin(self, line: bytes) -> Future[Answer]:
        """What one request is answered with, now or later."""
        done = Future[Answer]()
        try:
            found = self._do(line)
        except Exception as error:  # of whatever kind: _reply_of() has the words
            done.set_exception(error)
            return done
        if isinstance(found, Future):
            return found
        done.set_result(found)
        return done

    def _do(self, line: bytes) -> Answer | Future[Answer]:
        try:
            request = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UsageError(f"a request is one line of JSON: {error}") from error
        if not isinstance(request, dict):
            raise UsageError("a request is a JSON object with a verb")
        verb = self._verbs.get(str(request.get("verb")))
        if verb is None:
            raise UsageError(f"unknown verb {request.get('verb')!r}: one of {', '.join(self._verbs)}")
        return verb(request)

    def register(self, fd: int, callback: Callable[[], None]) -> None:
        self._loop.add(fd, callback)

    def unregister(self, fd: int) -> None:
        self._loop.remove(fd)

    def forget(self, client: _Client) -> None:
        self._clients.discard(client)

    def close(self) -> None:
        for client in list(self._clients):
            client.close()
        if self._socket.fileno() >= 0:
            self._loop.remove(self._socket.fileno())
            self._socket.close()
            self._path.unlink(missing_ok=True)


def _reply_of(asked: Future[Answer]) -> bytes:
    """The line that is sent when it is done."""
    try:
        reply = {"ok": True, **asked.result()}
    except XenpvError as error:
        reply = {"ok": False, "error": str(error)}
    except Exception as error:  # a bug of ours: the disks are served on
        LOGGER.error("control socket: internal error: %s: %s", type(error).__name__, error)
        reply = {"ok": False, "error": f"internal error: {type(error).__name__}: {error}"}
    return json.dumps(reply).encode() + b"\n"


class _Client:
    def __init__(self, control: Control, connection: socket.socket) -> None:
        self._control = control
        self._connection = connection
        self._input = bytearray()
        self._asked: Future[Answer] | None = None
        self._said_all = False
        control.register(connection.fileno(), self._readable)

    def _readable(self) -> None:
        try:
            data = self._connection.recv(LINE_MAX)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self._input += data
        if not data:
            self._said_all = True
            self._control.unregister(self._connection.fileno())
        if self._asked is None:
            self._go_on()
        elif len(self._input) > LINE_MAX or (self._said_all and self._is_gone()):
            self.close()

    def _is_gone(self) -> bool:
        """Whether the client, which says no more, does not read either."""
        try:
            self._connection.send(b"")
        except BlockingIOError:
            return False
        except OSError:
            return True
        return False

    def _go_on(self) -> None:
        """Answer one line after the other, as far as they are there and can be answered now."""
        while (end := self._input.find(b"\n")) >= 0:
            line = bytes(self._input[:end])
            del self._input[:end + 1]
            asked = self._control.begin(line)
            if not asked.done():
                self._asked = asked
                asked.add_done_callback(self._answered)
                return
            if not self._send(_reply_of(asked)):
                self.close()
                return
        if self._said_all or len(self._input) > LINE_MAX:
            self.close()

    def _answered(self, asked: Future[Answer]) -> None:
        self._asked = None
        if self._connection.fileno() < 0:
            return
        if self._send(_reply_of(asked)):
            self._go_on()
        else:
            self.close()

    def _send(self, answer: bytes) -> bool:
        """Whether the client took it within a second."""
        if len(answer) > UNREAD_MAX:
            return False
        self._connection.settimeout(1.0)
        try:
            self._connection.sendall(answer)
        except OSError:
            return False
        finally:
            self._connection.setblocking(False)
        return True

    def close(self) -> None:
        if self._connection.fileno() >= 0:
            if not self._said_all:
                self._control.unregister(self._connection.fileno())
            self._control.forget(self)
            self._connection.close()


def request(rundir: str | os.PathLike[str], verb: str, **arguments: Any) -> dict[str, Any]:
    """Ask the backend of the run directory `rundir`, and return its answer.

    Raises UsageError when no backend runs there, DeviceError with the backend's words when it refused or went away.
    """
    path = Path(rundir) / "backend" / "control"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(ANSWER_TIMEOUT)
        try:
            connection.connect(str(path))
        except OSError as error:
            raise UsageError(f"no backend answers at {path} ({error.strerror}): start it, `xenpv backend run`"
                             ) from error
        try:
            connection.sendall(json.dumps({"verb": verb, **arguments}).encode() + b"\n")
            with connection.makefile("rb") as answers:
                answer = json.loads(answers.readline())
        except (OSError, ValueError) as error:
            raise DeviceError(f"the backend at {path} went away without an answer: see its log") from error
    if not answer.pop("ok"):
        raise DeviceError(str(answer["error"]))
    return dict(answer)
