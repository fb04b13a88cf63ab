"""A disk that an NBD server exports: nbdkit, qemu-nbd, qemu-storage-daemon, and what these serve.

RULES
- One thread owns the connection. Requests come to it by a queue, and as many are in flight as the guest sends.
- A request whose connection broke is sent again: each of them may be done twice. A request that the server refused is not.
- What was acknowledged and not flushed is written again before anything else (unflushed.py).
- A request under which BROKEN_MAX connections broke fails.
- After `reconnect` seconds without a server requests fail at once, until it is back.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from xenpv.errors import ClosedError, StorageError
from xenpv.wire.blkif import Op, Status

from ...log import LOGGER
from ..base import SECTOR, Done, StorageFacts, StorageRequest, SubRequest
from ..cache import has_flush, is_through
from ..layers import AsyncStorage
from .libnbd import Connection, Export, NbdError, load, words_of
from .options import NbdOptions
from .unflushed import Change, Unflushed

CONNECT_PATIENCE: Final = 3.0
"""Seconds that opening a disk waits for its server."""
DRAIN_PATIENCE: Final = 3.0
"""Seconds that a disk which is let go still waits for a server that is away."""
CLOSE_PATIENCE: Final = 1.0
RETRY: Final = (0.05, 1.0)
"""Seconds between attempts to connect: the first pause, doubled up to the last."""
BROKEN_MAX: Final = 5
"""Connections that may break under a request: perhaps it is what breaks them."""
REPLAY_WINDOW: Final = 32
"""Changes written again at the same time."""


@dataclass(slots=True, eq=False)
class _Command:
    """A request on its way, or one of our own (`done` None)."""

    request: StorageRequest
    done: Done | None
    steps: list[str]
    began: float = 0.0
    broken: int = 0
    """Connections that broke while it was in flight."""
    mark: int = 0
    change: Change | None = None


class NbdStorage(AsyncStorage):
    """The export that `uri` names. Connects, and raises StorageError when that cannot be done in CONNECT_PATIENCE."""

    def __init__(self, uri: str, *, readonly: bool = False, options: NbdOptions | None = None) -> None:
        load()
        self.name = uri
        self.options = options or NbdOptions()
        self.cache = self.options.cache
        self._readonly = readonly
        self._lock = threading.Lock()
        self._arrived: deque[_Command] = deque()
        self._waiting: deque[_Command] = deque()
        self._replay: deque[Change] = deque()
        self._in_flight: dict[int, _Command] = {}
        self._unflushed = Unflushed(self.options.replay)
        self._flushing = False
        self._connection: Connection | None = None
        self._ready = False
        self._pause = RETRY[0]
        self._next_try = time.monotonic()
        self._deadline = self._next_try + CONNECT_PATIENCE
        self._complaint = ""
        self._reconnects = 0
        self._ending = self._renew = False
        self._lost_writes = False
        self._found: Export | None = None
        self._fua = False
        self._told = threading.Condition(self._lock)
        self._facts: StorageFacts | None = None
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._thread = threading.Thread(target=self._serve, name="xenpv-nbd", daemon=True)
        try:
            self._thread.start()
            self._await_export()
        except BaseException:
            self.close()
            raise

    def _await_export(self) -> None:
        with self._told:
            self._told.wait_for(lambda: self._found or self._complaint, CONNECT_PATIENCE)
            found = self._found
        if found is None:
            raise StorageError(f"{self.name}: {self._complaint or 'the server does not answer'}: is it running?")
        self._facts = self._make_facts(found)

    def _make_facts(self, export: Export) -> StorageFacts:
        block = max(export.minimum_block, SECTOR)
        if block not in (512, 1024, 2048, 4096):
            raise StorageError(f"{self.name} wants blocks of {block} bytes, and no disk has such: `nbdkit "
                               "--filter=blocksize` in front of it takes smaller ones")
        if not export.size or export.size % block:
            raise StorageError(f"{self.name} has {export.size} bytes, no whole sectors of {block}: `nbdkit "
                               f"--filter=truncate round-up={block}` makes it so")
        if export.readonly and not self._readonly:
            raise StorageError(f"{self.name} is exported read-only: attach it read-only (mode r)")
        how = self.options.discard
        discard = not self._readonly and (export.zero if how == "zero" else export.trim and how == "trim")
        preferred = export.preferred_block or 4096
        physical = 4096 if preferred >= 4096 else block
        return StorageFacts(export.size // SECTOR, self._readonly, block, physical,
                            flush=export.flush and has_flush(self.options.cache), discard=discard,
                            discard_granularity=max(block, 4096 if preferred > 4096 else preferred) if discard else 0,
                            discard_zeroes=how != "trim")

    @property
    def facts(self) -> StorageFacts:
        if self._facts is None:
            raise ClosedError(f"{self.name} is not open")
        return self._facts

    # From any thread.

    def submit(self, requests: Sequence[StorageRequest], done: Done) -> None:
        """See Submits.submit."""
        for request in requests:
            self._arrived.append(_Command(request, done, self._steps(request)))
        os.eventfd_write(self._wake, 1)

    def _steps(self, request: StorageRequest) -> list[str]:
        """What is sent for it, one after the other."""
        flush = ["flush"] if self.facts.flush else []
        match request.op:
            case Op.FLUSH_DISKCACHE:
                return flush
            case Op.READ:
                return ["read"]
            case Op.WRITE | Op.DISCARD:
                what = "write" if request.op == Op.WRITE else self.options.discard
                before = flush if request.flush_first else []
                if not is_through(self.options.cache):
                    return [*before, what]
                return [*before, f"{what}-fua"] if self._fua and what != "trim" else [*before, what, *flush]
        return ["unknown"]

    def refresh(self) -> StorageFacts:
        """See Storage.refresh: the server is asked anew, for a connection keeps the size that it began with."""
        with self._told:
            self._found, self._renew = None, True
            os.eventfd_write(self._wake, 1)
            found = self._told.wait_for(lambda: self._found, CONNECT_PATIENCE)
        if found is None:
            raise StorageError(f"{self.name}: the server does not say its size: is it there?")
        self._facts = replace(self.facts, sectors=self._make_facts(found).sectors)
        return self._facts

    def drain(self) -> None:
        """See Drains.drain: a server that is away is waited for no longer than DRAIN_PATIENCE."""
        self._deadline = min(self._deadline, time.monotonic() + DRAIN_PATIENCE)
        os.eventfd_write(self._wake, 1)

    def describe(self) -> Mapping[str, Any]:
        """See Describes.describe."""
        about: dict[str, Any] = {"in_flight": len(self._in_flight), "waiting": len(self._waiting) + len(self._arrived),
                                 "unflushed_bytes": self._unflushed.bytes, "reconnects": self._reconnects}
        degraded = {} if self._ready else {"degraded": f"{self.name}: {self._complaint or 'connecting'}"}
        return {"nbd": about, **degraded}

    def close(self) -> None:
        """Answer what is in flight, and end the connection."""
        if self._wake < 0:
            return
        self._ending = True
        self.drain()
        if self._thread.ident is not None:
            self._thread.join()
        os.close(self._wake)
        self._wake = -1

    # The thread.

    def _serve(self) -> None:
        while True:
            if self._ending and not (self._arrived or self._waiting or self._in_flight):
                break
            try:
                self._turn()
            except OSError as error:
                self._lost(error)
            except Exception as error:  # whatever it is: requests are answered in the end, and the thread goes on
                self._lost(NbdError(errno.EIO, f"{type(error).__name__}: {error}"))
        self._part()

    def _turn(self) -> None:
        now = time.monotonic()
        if self._renew and not self._in_flight:
            self._renew = False
            self._drop()
            self._next_try, self._deadline = now, now + self.options.reconnect
        if self._connection is None and now >= self._next_try and not (self._ending and now > self._deadline):
            self._pause, self._next_try = min(2 * self._pause, RETRY[1]), now + self._pause
            self._connection = Connection(self.name)
        self._begin_what_may()
        self._poll(self._timeout(now))
        connection = self._connection
        if connection is None:
            self._give_up_waiting()
            return
        if not self._ready and not connection.is_connecting() and not connection.is_gone():
            self._connected(connection.export())
        for cookie, error in connection.completed():
            self._ended(cookie, error)
        if connection.is_gone():
            raise NbdError(errno.ESHUTDOWN, "the server went away")
        if self._in_flight and now - min(command.began for command in self._in_flight.values()) > self.options.timeout:
            raise NbdError(errno.ETIMEDOUT, f"no answer in {self.options.timeout:g} s")
        if not self._ready:
            if now >= self._next_try + CONNECT_PATIENCE:
                raise NbdError(errno.ETIMEDOUT, "the server does not greet")
            self._give_up_waiting()

    def _timeout(self, now: float) -> float | None:
        """Seconds that may be slept; None: until something comes."""
        if self._connection is None:
            return max(0.0, self._next_try - now)
        return 0.5 if self._in_flight or not self._ready else None

    def _poll(self, seconds: float | None) -> None:
        poll = select.poll()
        poll.register(self._wake, select.POLLIN)
        fd = -1 if self._connection is None else self._connection.fileno()
        if fd >= 0 and self._connection is not None:
            poll.register(fd, self._connection.events())
        for ready, events in poll.poll(None if seconds is None else seconds * 1000):
            if ready == self._wake:
                with contextlib.suppress(BlockingIOError):
                    os.eventfd_read(self._wake)
            elif self._connection is not None:
                self._connection.notify(events)

    def _connected(self, export: Export) -> None:
        facts = self._facts
        if facts is not None and (export.size < facts.size or (export.readonly and not facts.readonly)):
            raise NbdError(errno.ENXIO, f"the server has another disk now ({export.size} bytes)")
        if facts is not None and self._complaint:
            LOGGER.info("%s: is back; %d unflushed changes are written again", self.name, len(self._unflushed))
            self._reconnects += 1
        self._ready, self._complaint, self._pause, self._fua = True, "", RETRY[0], export.fua
        self._replay = deque(self._unflushed)
        with self._told:
            self._found = export
            self._told.notify_all()

    def _lost(self, error: OSError) -> None:
        """The connection is gone, or was not made. What it had in flight waits again."""
        now = time.monotonic()
        if self._ready:
            LOGGER.error("%s: %s; trying again for %g s", self.name, _cause(error), self.options.reconnect)
            self._next_try, self._pause = now + RETRY[0], RETRY[0]
            self._deadline = now + (DRAIN_PATIENCE if self._ending else self.options.reconnect)
        with self._told:
            self._complaint = _cause(error)
            self._told.notify_all()
        self._drop()

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        self._ready = self._flushing = False
        self._replay.clear()
        if connection is not None:
            connection.close()  # before any memory is given back
        for command in reversed(self._in_flight.values()):
            if command.done is None:
                continue
            command.broken += 1
            if command.broken >= BROKEN_MAX:
                self._answer(command, Status.ERROR)
                continue
            command.steps = self._steps(command.request)
            self._waiting.appendleft(command)
        self._in_flight.clear()

    def _give_up_waiting(self) -> None:
        if time.monotonic() < self._deadline:
            return
        while command := self._take():
            self._answer(command, Status.ERROR)

    def _take(self) -> _Command | None:
        """The next that waits, None without one."""
        if self._waiting:
            return self._waiting.popleft()
        return self._arrived.popleft() if self._arrived else None

    def _begin_what_may(self) -> None:
        """Send what waits: first what is written again, then our own flush, then the guest's."""
        if not self._ready or self._renew:
            return
        while self._replay and len(self._in_flight) < REPLAY_WINDOW:
            change = self._replay[0]
            if any(change.overlaps(command.change) for command in self._in_flight.values() if command.change):
                return
            op = Op.WRITE if change.data is not None else Op.DISCARD
            data = None if change.data is None else memoryview(change.data)
            what = "write" if data is not None else "trim" if change.trim else "zero"
            command = _Command(SubRequest(op, change.offset // SECTOR, change.length, data), None, [what], change=change)
            self._send(command)
            self._replay.popleft()
        if self._replay or any(command.change for command in self._in_flight.values()):
            return
        if self._unflushed.is_due and not self._flushing:
            self._flushing = True
            self._send(_Command(SubRequest(Op.FLUSH_DISKCACHE, 0, 0), None, ["flush"]))
        while not self._unflushed.is_full and (command_ := self._take()):
            try:
                self._send(command_)
            except NbdError:
                self._waiting.appendleft(command_)
                raise

    def _send(self, command: _Command) -> None:
        """Begin its next step, or answer it when there is none. Raises NbdError when the connection is gone."""
        connection, request = self._connection, command.request
        if not command.steps:
            self._answer(command, Status.OKAY)
            return
        if command.steps[0] == "flush" and command.done is not None and self._lost_writes:
            self._lost_writes = False  # said once, as a disk does
            self._answer(command, Status.ERROR)
            return
        assert connection is not None
        offset, data = request.sector * SECTOR, request.data
        try:
            match command.steps[0]:
                case "read" if data is not None:
                    cookie = connection.read(offset, data)
                case "write" | "write-fua" if data is not None:
                    cookie = connection.write(offset, data, fua=command.steps[0] == "write-fua")
                case "zero" | "zero-fua":
                    cookie = connection.zero(offset, request.bytes, fua=command.steps[0] == "zero-fua")
                case "trim":
                    cookie = connection.trim(offset, request.bytes)
                case "flush":
                    command.mark = self._unflushed.mark()
                    cookie = connection.flush()
                case _:
                    self._answer(command, Status.EOPNOTSUPP)
                    return
        except NbdError as error:
            if connection.is_gone() or connection.fileno() < 0:
                raise
            self._refused(command, error.errno or errno.EIO)
            return
        command.began = time.monotonic()
        self._in_flight[cookie] = command

    def _ended(self, cookie: int, error: int) -> None:
        command = self._in_flight.get(cookie)
        if command is None:
            return
        if error:
            assert self._connection is not None
            if self._connection.is_gone() or error in (errno.ESHUTDOWN, errno.ENOTCONN):
                return  # it is in flight still, for _drop()
            del self._in_flight[cookie]
            self._refused(command, error)
            return
        del self._in_flight[cookie]
        step, request = command.steps.pop(0), command.request
        if step == "flush":
            self._unflushed.flushed(command.mark)
            if command.done is None:
                self._flushing = False
        elif step != "read" and command.change is None and self.facts.flush and (
                not step.endswith("-fua") or len(self._unflushed)):
            # One with FUA is safe; but older ones, written again, must not come to lie over it.
            data = bytes(request.data) if request.data is not None and step.startswith("write") else None
            self._unflushed.add(request.sector * SECTOR, request.bytes, data, step == "trim")
        self._send(command)

    def _refused(self, command: _Command, error: int) -> None:
        """The server answered with an error, or libnbd would not send it."""
        unsupported = error in (errno.EOPNOTSUPP, errno.ENOSYS) and command.request.op in (Op.DISCARD, Op.FLUSH_DISKCACHE)
        if not unsupported:
            LOGGER.error("%s: %s at sector %d: %s", self.name, command.steps[0], command.request.sector, words_of(error))
        if command.done is None:
            # Data that the guest believes written is not safe, and its next flush has to say so.
            self._lost_writes = True
            if command.steps[0] == "flush":
                self._flushing = False
                self._unflushed.flushed(command.mark)
        self._answer(command, Status.EOPNOTSUPP if unsupported else Status.ERROR)

    def _answer(self, command: _Command, status: Status) -> None:
        if command.done is not None:
            command.request.status = status
            command.done(command.request)

    def _part(self) -> None:
        """Say goodbye, for a moment only."""
        connection = self._connection
        if connection is None:
            return
        deadline = time.monotonic() + CLOSE_PATIENCE
        with contextlib.suppress(OSError):
            if self._ready:
                connection.disconnect()
            while self._ready and not connection.is_gone() and time.monotonic() < deadline:
                self._poll(deadline - time.monotonic())
        self._drop()


def _cause(error: OSError) -> str:
    """What libnbd said, without the names of its functions."""
    text = str(error.strerror or error)
    while text.startswith("nbd_") and ": " in text:
        text = text.partition(": ")[2]
    return text
