"""Stamped requests between a `Disk` and a backend, with a publisher of dom0's time, over the emulated Xen."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from functools import partial

import pytest

from tests.e2e.test_disk import PATTERN, SIZE, bare
from tests.support.world import World, in_a_thread, serving
from xenpv.domain import Domain
from xenpv.errors import DeviceError, TimeAbsentError, UsageError
from xenpv.timepage import Publisher, Reader, open_reader
from xenpv.timepage.subscription import subscribers
from xenpv_backend.daemon import Backend
from xenpv_backend.storage.base import StorageRequest
from xenpv_backend.storage.memory import MemoryStorage
from xenpv_frontend.disk import Disk
from xenpv_frontend.queue import Sample

__all__ = ["bare"]


def publishing(dom0: Domain) -> AbstractContextManager[Publisher]:
    return in_a_thread(Publisher(dom0))


def in_order(sample: Sample, slack: int) -> bool:
    stages = sample[:6]
    return all(later - earlier >= -slack for earlier, later in zip(stages, stages[1:], strict=False))


@pytest.mark.parametrize(("unit", "slack"), [("tick", 1), ("us", 1000)])
def test_every_request_has_its_stages(bare: World, unit: str, slack: int) -> None:
    bare.attach()
    with ExitStack() as stack:
        stack.enter_context(publishing(bare.dom0))
        backend = stack.enter_context(serving(bare.dom0, bare.run, stamp=unit))
        with Disk.open(bare.guest, stamp=unit) as disk:
            assert disk.read(0, SIZE) == PATTERN
            samples, counters = disk.samples(), disk.stats()
            device, = backend._list({})["devices"]
        assert len(samples) == counters.requests == counters.stages + counters.stages_unknown
        assert counters.stages_wrong == 0 and counters.stages > 0
        assert all(in_order(sample, slack) for sample in samples if sample.known)
        ours, = device["counters"]
        assert device["stamp"] == unit
        assert ours["stamps"] + ours["stamps_absent"] == counters.requests and ours["stamps_future"] == 0


def test_microseconds_of_another_clock_are_tied(bare: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in another domain: by ticks that are seen to change."""
    monkeypatch.setattr(Reader, "one_clock", False)
    bare.attach()
    with publishing(bare.dom0), serving(bare.dom0, bare.run, stamp="us"), Disk.open(bare.guest, stamp="us") as disk:
        for _ in range(2):
            assert disk.read(0, 4096) == PATTERN[:4096]
            sample, = disk.samples()
            assert in_order(sample, 5000) or not sample.known


class TimedStorage(MemoryStorage):
    """Takes some milliseconds, and knows which."""

    def __init__(self) -> None:
        super().__init__(SIZE)
        self.took: list[tuple[int, int]] = []
        self._never = threading.Event()

    def handle(self, requests: Sequence[StorageRequest]) -> None:
        begun = time.monotonic_ns()
        self._never.wait(0.003)
        super().handle(requests)
        self.took.append((begun, time.monotonic_ns()))


def after(stamp: int, ns: int) -> int:
    """Microseconds from a moment of CLOCK_MONOTONIC, which is dom0's here, to a stamp in microseconds."""
    return (stamp - ns // 1000 + (1 << 31)) % (1 << 32) - (1 << 31)


def test_a_storage_that_takes_a_known_time(bare: World, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = TimedStorage()
    monkeypatch.setattr("xenpv_backend.device.open_storage", lambda *args, **more: storage)
    bare.attach()
    outside = []
    with publishing(bare.dom0), serving(bare.dom0, bare.run, stamp="us"), Disk.open(bare.guest, stamp="us") as disk:
        for _ in range(20):
            begun = time.monotonic_ns()
            disk.read(0, 512)
            outside.append(time.monotonic_ns() - begun)
        samples = disk.samples()
    assert len(samples) == len(storage.took) == 20
    for sample, (begun, ended), total in zip(samples, storage.took, outside, strict=True):
        assert after(sample.start, begun) <= 0 <= after(sample.end, ended) + 1, "the storage's time lies in its stage"
        assert sample.end - sample.start >= (ended - begun) // 1000 - 1
        assert sample.reap - sample.submit <= total // 1000 + 1, "the whole lies in what was measured around it"


def test_off_by_default(bare: World) -> None:
    bare.attach()
    with publishing(bare.dom0), serving(bare.dom0, bare.run, stamp="us"), Disk.open(bare.guest) as disk:
        assert disk.read(0, 4096) == PATTERN[:4096]
        assert disk.samples() == [] and disk.stats().stages == 0


@pytest.mark.parametrize(("offered", "wanted"), [("off", "tick"), ("off", "us"), ("tick", "us")])
def test_a_unit_that_is_not_offered_is_refused_in_words(bare: World, offered: str, wanted: str) -> None:
    bare.attach()
    with publishing(bare.dom0), serving(bare.dom0, bare.run, stamp=offered):
        with pytest.raises(DeviceError, match=f"offers no stamps in {wanted}"):
            Disk.open(bare.guest, stamp=wanted)


def test_microseconds_need_a_cheap_clock(bare: World, monkeypatch: pytest.MonkeyPatch) -> None:
    bare.attach()
    with publishing(bare.dom0), serving(bare.dom0, bare.run, stamp="us"), monkeypatch.context() as patch:
        patch.setattr("xenpv_frontend.clock.own_clock_is_cheap", lambda: False)
        with pytest.raises(DeviceError, match="stamp in ticks"):
            Disk.open(bare.guest, stamp="us")
    monkeypatch.setattr("xenpv_backend.offers.own_clock_is_cheap", lambda: False)
    with publishing(bare.dom0), serving(bare.dom0, bare.run, stamp="us"):
        with pytest.raises(DeviceError, match="offers no stamps in us"):
            Disk.open(bare.guest, stamp="us")


def test_who_offers_microseconds_takes_ticks(bare: World) -> None:
    bare.attach()
    with publishing(bare.dom0), serving(bare.dom0, bare.run, stamp="us"), Disk.open(bare.guest, stamp="tick") as disk:
        disk.read(0, 4096)
        assert disk.stats().stages == 1


def test_nobody_publishes(bare: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xenpv_frontend.clock.open_reader", partial(open_reader, timeout=0.1))
    bare.attach()
    with serving(bare.dom0, bare.run, stamp="tick"), pytest.raises(TimeAbsentError):
        Disk.open(bare.guest, stamp="tick")


@pytest.mark.parametrize("settings", [{"stamp": "ms"}, {"stamp": "us", "abi": 32}])
def test_what_cannot_be_meant(bare: World, settings: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        Disk.open(bare.guest, **settings)  # type: ignore[arg-type]


def test_a_publisher_that_ends_leaves_the_data_alone(bare: World) -> None:
    bare.attach()
    with serving(bare.dom0, bare.run, stamp="tick"), ExitStack() as publishers:
        publishers.enter_context(publishing(bare.dom0))
        with Disk.open(bare.guest, stamp="tick") as disk:
            disk.read(0, 4096)
            publishers.close()
            assert disk.read(0, SIZE) == PATTERN
            counters = disk.stats()
            assert counters.stages == 1 and counters.stages_unknown == counters.requests - 1


def test_the_backend_is_subscribed_while_a_disk_is_stamped_in_ticks(bare: World, until: Callable[..., None]) -> None:
    other = bare.image.with_name("other.img")
    other.write_bytes(PATTERN)
    places = [bare.attach(), bare.attach(other, devid=51728)]
    with publishing(bare.dom0) as publisher, serving(bare.dom0, bare.run, stamp="us"):
        with ExitStack() as disks:
            for place in places:
                disks.enter_context(Disk.open(bare.guest, place.devid, stamp="tick"))
                assert len(subscribers(bare.dom0.store, 0)) == 1, "one for all disks"
        until(lambda: not subscribers(bare.dom0.store, 0), "the last disk has gone, and the subscription with it")
        until(lambda: not any(page.ticking for page in publisher.pages.values()), "nothing ticks")
        with Disk.open(bare.guest, places[0].devid, stamp="tick") as disk:
            disk.read(0, 4096)
            assert disk.stats().stages == 1, "it begins again"


@pytest.mark.parametrize("stamp", ["us", None])
def test_nobody_ticks_for_a_disk_without_ticks(bare: World, stamp: str | None) -> None:
    bare.attach()
    with publishing(bare.dom0), serving(bare.dom0, bare.run, stamp="us", profile="tick"), Disk.open(bare.guest, stamp=stamp):
        assert subscribers(bare.dom0.store, 0) == []


def both_know(disk: Disk, backend: Backend) -> bool:
    """One more request, and whether each end knows its times."""
    def counted() -> tuple[int, int]:
        device, = backend._list({})["devices"]
        return disk.stats().stages, sum(counters["stamps"] for counters in device["counters"])

    before = counted()
    assert disk.read(0, 4096) == PATTERN[:4096]
    return all(later > earlier for earlier, later in zip(before, counted(), strict=True))


@pytest.mark.parametrize("kind", ["", "log:"], ids=["in the core", "in Python"])
def test_both_ends_follow_a_publisher_that_starts_again(bare: World, kind: str, until: Callable[..., None]) -> None:
    """The connection stays as it is, whoever serves the queue."""
    bare.attach(f"{kind}{bare.image}")
    with serving(bare.dom0, bare.run, stamp="tick") as backend, ExitStack() as publishers:
        publishers.enter_context(publishing(bare.dom0))
        with Disk.open(bare.guest, stamp="tick") as disk:
            for _ in range(3):
                assert both_know(disk, backend)
                publishers.close()
                assert not both_know(disk, backend)
                publishers.enter_context(publishing(bare.dom0))
                until(lambda: both_know(disk, backend), "both ends stamp by the new page")
            until(lambda: len(backend._clock.mapped) == 1, "the backend has unmapped the pages before")
            assert disk.stats().stages_wrong == 0


def test_a_backend_that_found_no_publisher_stamps_once_there_is_one(bare: World, until: Callable[..., None]) -> None:
    bare.attach()
    with ExitStack() as publishers, ExitStack() as backends:
        backends.enter_context(serving(bare.dom0, bare.run, stamp="tick"))
        publishers.enter_context(publishing(bare.dom0))
        with Disk.open(bare.guest, stamp="tick") as disk:
            publishers.close()
            backends.close()
            backend = backends.enter_context(serving(bare.dom0, bare.run, stamp="tick"))
            assert not both_know(disk, backend)
            publishers.enter_context(publishing(bare.dom0))
            until(lambda: both_know(disk, backend), "a page that came after the connection")
