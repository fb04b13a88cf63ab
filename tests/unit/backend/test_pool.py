"""The threads that serve queues: when one that serves several ends."""

from __future__ import annotations

import threading
from typing import Any, cast

import pytest

from xenpv_backend.pool import ServicePool
from xenpv_backend.queue import Queue
from xenpv_backend.storage.base import Storage


class FakeService:
    """Has queues, and no thread."""

    engine = "none"

    def __init__(self, **_: Any) -> None:
        self.queues: list[object] = []
        self.closed = 0

    def __len__(self) -> int:
        return len(self.queues)

    def add(self, queue: object) -> None:
        self.queues.append(queue)

    def remove(self, queue: object) -> None:
        self.queues.remove(queue)

    def close(self) -> None:
        self.closed += 1


class FileLike:
    def fileno(self) -> int:
        return 0


def test_a_thread_ends_when_the_last_of_its_drained_queues_is_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk's queues are drained all at once, and removed one by one."""
    monkeypatch.setattr("xenpv_backend.pool.Service", FakeService)
    drained = threading.Semaphore(0)
    pool = ServicePool(lambda queue: None, lambda queue: drained.release(), threads=1)
    queues = [cast(Queue, object()) for _ in range(3)]
    for queue in queues:
        pool.add(queue, cast(Storage, FileLike()))
    service, = pool._services
    for queue in queues:
        pool.drain(queue)
    for _ in queues:
        assert drained.acquire(timeout=20)
    ends = []
    for queue in queues:
        pool.remove(queue)
        ends.append(cast(FakeService, cast(object, service)).closed)
    assert ends == [0, 0, 1] and pool._services == []
