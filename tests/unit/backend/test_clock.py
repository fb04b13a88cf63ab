"""Which pages stay mapped while queues' threads read them; threads, store and publisher are the test's."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from tests.support.fake_store import FakeStore
from xenpv.testing.timepage import Fault, Scene
from xenpv.timepage.subscription import place_of, subscribers
from xenpv_backend.clock import PAUSE, WAIT_SECONDS, Clock, Lease


class Bench:
    """The main thread's loop, and a publisher."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.time = FakeTime()
        monkeypatch.setattr("xenpv_backend.clock.time", self.time)
        monkeypatch.setattr("xenpv_backend.clock.find_page", lambda domain: self.scene.locate())
        self.scene = Scene()
        self.store = FakeStore()
        self.errands: list[Callable[[], None]] = []
        self.callbacks: dict[int, Callable[[], None]] = {}
        domain: Any = SimpleNamespace(domid=0, store=self.store)
        self.clock = Clock(domain, SimpleNamespace(add=self.callbacks.__setitem__, remove=self.callbacks.pop),
                           self.errands.append)

    def turn(self) -> None:
        """What the store told, then the errands."""
        for callback in list(self.callbacks.values()):
            callback()
        while self.errands:
            self.errands.pop(0)()

    def another_page(self) -> None:
        self.scene.restart()
        self.store.write(f"{place_of(0)}/ref", str(self.scene.facts.generation))
        self.turn()


class FakeQueue:
    """Its thread does nothing until run()."""

    def __init__(self, lease: Lease) -> None:
        self.page = lease.address
        self.asked: list[Callable[[], None]] = []
        lease.add(self.asked.append, self.take)

    def take(self, address: int) -> None:
        self.page = address

    def run(self) -> None:
        while self.asked:
            self.asked.pop(0)()


class FakeTime:
    """Passes while somebody sleeps."""

    def __init__(self) -> None:
        self.now = 5.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(monkeypatch)


def test_a_queue_takes_the_page_in_its_own_thread(bench: Bench) -> None:
    with bench.clock.lease() as lease:
        queue, old = FakeQueue(lease), lease.address
        bench.another_page()
        assert queue.page == old != lease.address
        queue.run()
        assert queue.page == lease.address


def test_a_page_stays_mapped_while_one_queue_reads_it(bench: Bench) -> None:
    with bench.clock.lease() as one, bench.clock.lease() as other:
        quick, slow = FakeQueue(one), FakeQueue(other)
        old = slow.page
        bench.another_page()
        quick.run()
        bench.turn()
        assert bench.clock.mapped == [old, quick.page]
        slow.run()
        assert old in bench.clock.mapped, "until the main thread hears of it"
        bench.turn()
        assert bench.clock.mapped == [quick.page]


def test_every_page_that_a_queue_was_given_stays_mapped_until_it_took_a_later_one(bench: Bench) -> None:
    with bench.clock.lease() as lease:
        queue = FakeQueue(lease)
        for _ in range(2):
            bench.another_page()
        assert len(bench.clock.mapped) == 3
        queue.asked.pop(0)()
        bench.turn()
        assert bench.clock.mapped == [queue.page, lease.address]
        queue.run()
        bench.turn()
        assert bench.clock.mapped == [lease.address]


def test_the_end_of_a_connection_ends_what_its_queues_read(bench: Bench) -> None:
    with bench.clock.lease() as one:
        quick = FakeQueue(one)
        with bench.clock.lease() as other:
            slow = FakeQueue(other)
            bench.another_page()
            quick.run()
            bench.turn()
            assert slow.page in bench.clock.mapped
        assert bench.clock.mapped == [quick.page]


def test_the_last_lease_ends_the_subscription_and_the_watch(bench: Bench) -> None:
    with bench.clock.lease(), bench.clock.lease() as last:
        assert len(subscribers(bench.store, 0)) == len(bench.store.watches) == len(bench.callbacks) == 1
        last.close()
        assert subscribers(bench.store, 0)
    assert (subscribers(bench.store, 0), bench.store.watches, bench.callbacks, bench.clock.mapped) == ([], [], {}, [])


def test_what_a_queue_says_after_the_end_is_of_no_consequence(bench: Bench) -> None:
    with bench.clock.lease() as lease:
        queue = FakeQueue(lease)
        bench.another_page()
    queue.run()
    bench.turn()
    with bench.clock.lease() as lease:
        bench.turn()
        assert bench.clock.mapped == [lease.address]


def test_a_page_that_comes_later_is_given(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.scene.do(Fault.KILL)
    with bench.clock.lease() as lease:
        queue = FakeQueue(lease)
        assert queue.page == 0 and "cannot be stamped" in caplog.text
        bench.turn()
        bench.another_page()
        queue.run()
        assert queue.page == lease.address != 0


def test_a_guest_that_connects_again_and_again_makes_nobody_wait_for_a_publisher(bench: Bench) -> None:
    bench.scene.do(Fault.KILL)
    before = bench.time.now
    for _ in range(20):
        bench.clock.lease().close()
    assert WAIT_SECONDS <= bench.time.now - before < WAIT_SECONDS + 2 * PAUSE, "once, all together"


def test_a_page_that_nobody_waited_for_is_given_when_it_comes(bench: Bench) -> None:
    bench.scene.do(Fault.KILL)
    bench.clock.lease().close()
    with bench.clock.lease() as lease:
        queue, before = FakeQueue(lease), bench.time.now
        bench.turn()
        bench.another_page()
        queue.run()
        assert queue.page == lease.address != 0 and bench.time.now == before
