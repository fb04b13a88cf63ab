"""Storages and workers that a test holds in its hand."""

from __future__ import annotations

import heapq
import itertools
import mmap
from collections.abc import Callable, Sequence

from xenpv.wire.blkif import Op, Status
from xenpv_backend.storage.base import Done, StorageFacts, StorageRequest, SubRequest
from xenpv_backend.storage.layers import AsyncStorage, asynchronous
from xenpv_backend.storage.memory import MemoryStorage


class ManualWorker:
    """A worker whose tasks run in run() alone, and whose time passes in pass_time() alone."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.closed = False
        self._tasks: list[Callable[[], None]] = []
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._count = itertools.count()

    def clock(self) -> float:
        return self.now

    def post(self, task: Callable[[], None]) -> None:
        self._tasks.append(task)

    def later(self, seconds: float, task: Callable[[], None]) -> None:
        heapq.heappush(self._timers, (self.now + seconds, next(self._count), task))

    def run(self) -> None:
        """All that is due."""
        while True:
            if self._tasks:
                self._tasks.pop(0)()
            elif self._timers and self._timers[0][0] <= self.now:
                heapq.heappop(self._timers)[2]()
            else:
                return

    def pass_time(self, seconds: float) -> None:
        """Run what falls due in the next `seconds`, each at its time."""
        end = self.now + seconds
        self.run()
        while self._timers and self._timers[0][0] <= end:
            self.now = max(self.now, self._timers[0][0])
            self.run()
        self.now = end

    def close(self) -> None:
        self.run()
        self.closed = True


class Held(AsyncStorage):
    """A disk in memory that begins nothing before it is told to; `begun` is what it was given."""

    cache = "memory"

    def __init__(self, size: int = 65536) -> None:
        self.name = "held"
        self.below = MemoryStorage(size)
        self.begun: list[StorageRequest] = []
        self._waiting: list[tuple[StorageRequest, Done]] = []

    @property
    def facts(self) -> StorageFacts:
        return self.below.facts

    def submit(self, requests: Sequence[StorageRequest], done: Done) -> None:
        self.begun += requests
        self._waiting += [(request, done) for request in requests]

    def end(self, count: int | None = None, status: int | None = None) -> None:
        """Do the first `count` that wait, or answer them with `status`."""
        now, self._waiting = self._waiting[:count], [] if count is None else self._waiting[count:]
        for request, done in now:
            if status is None:
                self.below.handle([request])
            else:
                request.status = status
            done(request)

    def close(self) -> None:
        self.end()
        self.below.close()


def memory(size: int = 131072) -> AsyncStorage:
    """A disk in memory with submit()."""
    return asynchronous(MemoryStorage(size))


def buffer(content: bytes) -> memoryview:
    """`content` in a page of its own."""
    pages = mmap.mmap(-1, max(len(content), 4096))
    pages[:len(content)] = content
    return memoryview(pages)[:len(content)]


def read(sector: int, size: int = 512) -> SubRequest:
    return SubRequest(Op.READ, sector, size, buffer(bytes(size)))


def write(sector: int, content: bytes, flush_first: bool = False) -> SubRequest:
    return SubRequest(Op.WRITE, sector, len(content), buffer(content), flush_first)


def flush() -> SubRequest:
    return SubRequest(Op.FLUSH_DISKCACHE, 0, 0)


def discard(sector: int, size: int, secure: bool = False) -> SubRequest:
    return SubRequest(Op.DISCARD, sector, size, secure=secure)


def do(storage: AsyncStorage, *requests: SubRequest) -> list[int]:
    """Do them, and wait: the status of each."""
    storage.handle(requests)
    return [request.status for request in requests]


def content(storage: AsyncStorage, sector: int, size: int) -> bytes:
    """What is read there, which must succeed."""
    request = read(sector, size)
    assert do(storage, request) == [Status.OKAY]
    assert request.data is not None
    return bytes(request.data)
