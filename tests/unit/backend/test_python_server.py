"""The thread that serves a queue from a storage in Python: barriers, stalls, failures, and its end."""

from __future__ import annotations

import os
import select
import threading
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tests.support.descriptors import beyond_1023
from tests.support.storages import Held
from xenpv.errors import RemoteProtocolError
from xenpv.wire.blkif import Op, Status
from xenpv_backend.python_server import PythonServer
from xenpv_backend.queue import Queue, Request
from xenpv_backend.storage.base import Done, StorageRequest

Until = Any


class FakeQueue:
    """Gives out what the test puts in, as Queue.next() and complete() do. `stalled`: next() returns at once with nothing."""

    config = SimpleNamespace(domid=3)

    def __init__(self) -> None:
        self.event = os.eventfd(0, os.EFD_NONBLOCK)
        self.waiting: list[Request] = []
        self.completed: list[Request] = []
        self.stalled = False
        self.broken = False
        self.looks = 0

    def put(self, *requests: Request) -> None:
        self.waiting += requests
        os.eventfd_write(self.event, 1)

    def next(self, limit: int, timeout: float | None, wake_fd: int) -> list[Request]:
        self.looks += 1
        if not self.waiting and not self.stalled and not self.broken:
            ready = select.poll()
            for descriptor in (self.event, wake_fd):
                ready.register(descriptor, select.POLLIN)
            if self.event in dict(ready.poll()):
                os.eventfd_read(self.event)
        if self.broken:
            raise RemoteProtocolError("broken")
        found, self.waiting = self.waiting[:limit], self.waiting[limit:]
        return found

    def complete(self, requests: Sequence[Request]) -> None:
        self.completed += requests

    def close(self) -> None:
        os.close(self.event)


def new(op: int = Op.READ, sector: int = 0, barrier: bool = False) -> Request:
    return Request(op, sector, 512, memoryview(bytearray(512)), barrier, sector, flush_after=barrier)


class Served:
    """A server on a storage whose requests the test ends."""

    def __init__(self, storage: Any = None) -> None:
        self.storage = storage or Held()
        self.queue = FakeQueue()
        self.halted: list[object] = []
        self.server = PythonServer(self.storage, self.halted.append)
        self.server.add(cast(Queue, self.queue))

    def close(self) -> None:
        self.server.close()
        self.queue.close()


@pytest.fixture
def served() -> Any:
    made = Served()
    yield made
    made.storage.end()
    made.close()


def test_requests_are_taken_while_others_are_under_way(served: Served, until: Until) -> None:
    served.queue.put(new(sector=0))
    until(lambda: len(served.storage.begun) == 1, "the first")
    served.queue.put(new(sector=1))
    until(lambda: len(served.storage.begun) == 2, "the second")
    assert not served.queue.completed
    served.storage.end()
    until(lambda: len(served.queue.completed) == 2, "both are answered")


def test_a_barrier_is_answered_after_a_flush_of_its_own(served: Served, until: Until) -> None:
    served.queue.put(new(Op.WRITE, barrier=True))
    until(lambda: len(served.storage.begun) == 1, "the write")
    served.storage.end()
    until(lambda: len(served.storage.begun) == 2, "the flush")
    assert served.storage.begun[1].op == Op.FLUSH_DISKCACHE and not served.queue.completed
    served.storage.end()
    until(lambda: len(served.queue.completed) == 1, "the answer")
    assert served.queue.completed[0].status == Status.OKAY


@pytest.mark.parametrize("which", ["write", "flush"])
def test_a_barrier_of_which_a_part_fails(served: Served, until: Until, which: str) -> None:
    served.queue.put(new(Op.WRITE, barrier=True))
    until(lambda: len(served.storage.begun) == 1, "the write")
    served.storage.end(status=Status.ERROR if which == "write" else None)
    if which == "flush":
        until(lambda: len(served.storage.begun) == 2, "the flush")
        served.storage.end(status=Status.ERROR)
    until(lambda: len(served.queue.completed) == 1, "the answer")
    assert served.queue.completed[0].status == Status.ERROR


def test_a_queue_that_stalls_is_not_looked_at_again_and_again(served: Served, until: Until) -> None:
    """What is next in the ring waits for what is under way, so there is nothing to look for."""
    served.queue.stalled = True
    served.queue.put(new())
    until(lambda: len(served.storage.begun) == 1, "the request")
    until(lambda: served.queue.looks >= 2, "the look that finds nothing")
    served.server.call(lambda: None)
    looks = served.queue.looks
    served.server.call(lambda: None)
    assert served.queue.looks - looks <= 3
    served.queue.stalled = False
    served.storage.end()
    until(lambda: len(served.queue.completed) == 1, "the answer")


def test_a_descriptor_beyond_1023_is_waited_for(until: Until) -> None:
    with beyond_1023():
        served = Served()
        assert served.server._wake > 1023
        served.queue.stalled = True
        served.queue.put(new())
        until(lambda: len(served.storage.begun) == 1, "the request")
        served.storage.end()
        until(lambda: len(served.queue.completed) == 1, "the answer")
        served.close()


def test_a_thread_that_is_woken_for_nothing_still_looks_at_its_ring(served: Served, until: Until) -> None:
    """Who ends a request may wake the thread after it was answered, and so may two at once."""
    served.queue.put(new())
    until(lambda: served.queue.looks == 2, "the first is under way")
    for looks in (3, 4):
        os.eventfd_write(served.server._wake, 1)
        until(lambda: served.queue.looks == looks, "it looks again")
    served.queue.put(new(sector=1))
    until(lambda: len(served.storage.begun) == 2, "the second is taken meanwhile")
    assert not served.queue.completed


def test_remove_returns_when_all_is_answered(served: Served, until: Until) -> None:
    served.queue.put(new(), new(sector=1))
    until(lambda: len(served.storage.begun) == 2, "the requests")
    ending = threading.Thread(target=served.server.remove, args=(served.queue,))
    ending.start()
    served.queue.put(new(sector=2))  # it may be begun, at any time, or not
    assert ending.is_alive() and served.queue.completed == []

    def has_returned() -> bool:
        served.storage.end()
        return not ending.is_alive()

    until(has_returned, "the end")
    assert {request.sector for request in served.queue.completed} >= {0, 1}


def test_a_frontend_that_breaks_the_rules_is_told_of_and_what_it_sent_is_answered(served: Served, until: Until) -> None:
    served.queue.put(new())
    until(lambda: len(served.storage.begun) == 1, "the request")
    served.queue.broken = True
    served.queue.put()
    until(lambda: served.halted, "it is told")
    served.storage.end()
    until(lambda: len(served.queue.completed) == 1, "the answer")
    assert served.queue.completed[0].status == Status.OKAY


class Raises(Held):
    """Does half of what it is given, and raises."""

    def submit(self, requests: Sequence[StorageRequest], done: Done) -> None:
        requests[0].status = Status.OKAY
        done(requests[0])
        raise RuntimeError("broken")


def test_a_storage_that_raises_answers_each_request_once(until: Until) -> None:
    served = Served(Raises())
    served.queue.put(new(), new(sector=1))
    until(lambda: len(served.queue.completed) == 2, "both are answered")
    assert [request.status for request in served.queue.completed] == [Status.OKAY, Status.ERROR]
    served.close()
