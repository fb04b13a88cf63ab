"""Storages of many requests at once, and what makes one of any other.

RULES
- `submit` never raises and never waits; each request is done exactly once.
- Who submits may be any thread, also several at once; `done` may be called by any thread.
"""

from __future__ import annotations

import errno
import mmap
import os
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from xenpv.closing import Closing
from xenpv.errors import StorageError, XenpvError
from xenpv.wire.blkif import Op, Status

from ..log import LOGGER
from . import kernel
from .base import SECTOR, Describes, Done, Drains, Storage, StorageFacts, StorageRequest, Submits

THREADS = 8
"""Threads that read and write one descriptor for a filter above it."""


def status_of(error: OSError) -> Status:
    """What a guest is told of `error` (io/blkif.h has two words for it)."""
    return Status.EOPNOTSUPP if error.errno in (errno.EOPNOTSUPP, errno.ENOSYS) else Status.ERROR


class AsyncStorage(Closing):
    """What storages and filters with submit() have in common: no descriptor, a size that stays."""

    inline = False
    name: str
    cache: str

    @property
    def facts(self) -> StorageFacts:
        raise TypeError(f"{type(self).__name__} has no facts of its own")

    def fileno(self) -> int:
        """See Storage.fileno."""
        return -1

    def submit(self, requests: Sequence[StorageRequest], done: Done) -> None:
        """See Submits.submit."""
        raise TypeError(f"{type(self).__name__} has no submit() of its own")

    def handle(self, requests: Sequence[StorageRequest]) -> None:
        """See Storage.handle: submit(), and wait."""
        waiting, ready = len(requests), threading.Condition()

        def done(request: StorageRequest) -> None:
            nonlocal waiting
            with ready:
                waiting -= 1
                ready.notify()

        self.submit(requests, done)
        with ready:
            ready.wait_for(lambda: waiting <= 0)

    def refresh(self) -> StorageFacts:
        """See Storage.refresh."""
        return self.facts

    def grow(self, size: int) -> StorageFacts:
        """See Storage.grow."""
        raise StorageError(f"{self.name} cannot be grown here: grow it where it is, then resize without a size")

    def drain(self) -> None:
        """See Drains.drain."""

    def describe(self) -> Mapping[str, Any]:
        """See Describes.describe."""
        return {}


class Layer(AsyncStorage):
    """On top of one other storage, which belongs to it from now on: what is not overridden is that one's."""

    def __init__(self, below: Storage) -> None:
        self.below = below

    @property
    def name(self) -> str:  # type: ignore[override]
        return self.below.name

    @property
    def cache(self) -> str:  # type: ignore[override]
        return self.below.cache

    @property
    def facts(self) -> StorageFacts:
        return self.below.facts

    def refresh(self) -> StorageFacts:
        self.below.refresh()
        return self.facts

    def grow(self, size: int) -> StorageFacts:
        self.below.grow(size)
        return self.facts

    def drain(self) -> None:
        if isinstance(self.below, Drains):
            self.below.drain()

    def describe(self) -> Mapping[str, Any]:
        return self.below.describe() if isinstance(self.below, Describes) else {}

    def close(self) -> None:
        self.below.close()


class _ByHandle(Layer):
    """On a storage with handle() alone: one thread at a time, whatever the number of queues."""

    def __init__(self, below: Storage) -> None:
        super().__init__(below)
        self._lock = threading.Lock()

    def submit(self, requests: Sequence[StorageRequest], done: Done) -> None:
        for request in requests:
            request.status = Status.ERROR  # unless the storage says otherwise
        with self._lock:
            try:
                self.below.handle(requests)
            except Exception as error:  # whatever it is: the requests are answered, and the next ones are tried
                LOGGER.error("%s failed: %s", self.below.name, error)
        for request in requests:
            done(request)


class _ByDescriptor(Layer):
    """On a storage with a descriptor, done here because something stands above it."""

    def __init__(self, below: Storage) -> None:
        super().__init__(below)
        self._fd = below.fileno()
        self._threads = None if below.inline else ThreadPoolExecutor(THREADS, "xenpv-descriptor")

    @property
    def facts(self) -> StorageFacts:
        facts = self.below.facts
        if not facts.discard_zeroes:  # holes are punched here, and no more
            return replace(facts, discard=False, discard_granularity=0, discard_alignment=0, discard_secure=False)
        return replace(facts, discard_secure=False)

    def submit(self, requests: Sequence[StorageRequest], done: Done) -> None:
        for request in requests:
            if self._threads is None:
                self._run(request, done)
            else:
                self._threads.submit(self._run, request, done)

    def _run(self, request: StorageRequest, done: Done) -> None:
        try:
            request.status = self._do(request)
        except OSError as error:
            request.status = status_of(error)
            if request.status == Status.ERROR:
                LOGGER.error("%s: operation %d at sector %d: %s", self.name, request.op, request.sector, error.strerror)
        done(request)

    def _do(self, request: StorageRequest) -> Status:
        offset = request.sector * SECTOR
        if request.flush_first or request.op == Op.FLUSH_DISKCACHE:
            os.fdatasync(self._fd)
        if request.op == Op.DISCARD:
            kernel.punch_hole(self._fd, offset, request.bytes)
        elif request.op in (Op.READ, Op.WRITE) and request.data is not None:
            if not self._move(request.op, offset, request.data):
                return Status.ERROR
        elif request.op != Op.FLUSH_DISKCACHE:
            return Status.EOPNOTSUPP
        return Status.OKAY

    def _move(self, op: int, offset: int, data: memoryview) -> bool:
        """Read or write all of `data`; False: the storage ended before. Raises OSError."""
        try:
            return _transfer(self._fd, op, offset, data)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
        # O_DIRECT wants memory at a better address than a filter's.
        with mmap.mmap(-1, len(data)) as memory, memoryview(memory) as whole, whole[:len(data)] as part:
            if op == Op.WRITE:
                part[:] = data
                return _transfer(self._fd, op, offset, part)
            complete = _transfer(self._fd, op, offset, part)
            data[:] = part
            return complete

    def close(self) -> None:
        if self._threads is not None:
            self._threads.shutdown()
        super().close()


def _transfer(fd: int, op: int, offset: int, data: memoryview) -> bool:
    at = 0
    while at < len(data):
        with data[at:] as rest:
            moved = os.preadv(fd, [rest], offset + at) if op == Op.READ else os.pwritev(fd, [rest], offset + at)
        if moved == 0:
            return False
        at += moved
    return True


def asynchronous(storage: Storage) -> AsyncStorage:
    """`storage` with submit(): itself, or a layer that owns it."""
    if isinstance(storage, AsyncStorage):
        return storage
    if storage.fileno() >= 0:
        return _ByDescriptor(storage)
    if isinstance(storage, Submits):
        return _Foreign(storage)
    return _ByHandle(storage)


def held_to_the_rules(storage: Storage) -> AsyncStorage:
    """`storage`, a plug-in's, with a submit() that raises nothing and ends each request once."""
    return _Foreign(storage) if isinstance(storage, Submits) else asynchronous(storage)


class _Foreign(Layer):
    """On a storage whose submit() is not ours."""

    def submit(self, requests: Sequence[StorageRequest], done: Done) -> None:
        open_ = {id(request) for request in requests}
        lock = threading.Lock()

        def once(request: StorageRequest) -> None:
            with lock:
                if id(request) not in open_:
                    return
                open_.discard(id(request))
            done(request)

        try:
            assert isinstance(self.below, Submits)
            self.below.submit(requests, once)
        except Exception as error:  # whatever it is: the requests are answered
            LOGGER.error("%s failed: %s", self.name, error)
            for request in requests:
                request.status = Status.ERROR
                once(request)


class SimpleStorage(Closing):
    """What a plug-in may inherit: one request at a time, in four methods.

    Set `name`, `cache` and `facts` in the constructor, and override read(), write(), and where the facts promise them
    flush() and discard(). Offsets and lengths are bytes, and lie inside the disk. An OSError becomes the guest's error.
    """

    inline = False
    name: str
    cache: str = "python"
    facts: StorageFacts

    def read(self, offset: int, data: memoryview) -> None:
        """Fill `data` with what is at `offset`. Raises OSError."""
        raise OSError(errno.EOPNOTSUPP, "no read")

    def write(self, offset: int, data: memoryview) -> None:
        """Put `data` at `offset`. Raises OSError."""
        raise OSError(errno.EOPNOTSUPP, "no write")

    def flush(self) -> None:
        """Make what was written durable. Raises OSError."""
        raise OSError(errno.EOPNOTSUPP, "no flush")

    def discard(self, offset: int, length: int) -> None:
        """Let the range read as zero from now on. Raises OSError."""
        raise OSError(errno.EOPNOTSUPP, "no discard")

    def fileno(self) -> int:
        """See Storage.fileno."""
        return -1

    def handle(self, requests: Sequence[StorageRequest]) -> None:
        """See Storage.handle."""
        for request in requests:
            try:
                self._do(request)
                request.status = Status.OKAY
            except OSError as error:
                request.status = status_of(error)
            except XenpvError as error:
                LOGGER.error("%s: %s", self.name, error)
                request.status = Status.ERROR

    def _do(self, request: StorageRequest) -> None:
        offset = request.sector * SECTOR
        if request.flush_first or request.op == Op.FLUSH_DISKCACHE:
            self.flush()
        if request.op == Op.DISCARD:
            self.discard(offset, request.bytes)
        elif request.data is not None:
            (self.read if request.op == Op.READ else self.write)(offset, request.data)

    def refresh(self) -> StorageFacts:
        """See Storage.refresh."""
        return self.facts

    def grow(self, size: int) -> StorageFacts:
        """See Storage.grow."""
        raise StorageError(f"{self.name} cannot be grown")

    def close(self) -> None:
        """See Closing.close. A storage that holds nothing has nothing to give back."""
