"""dom0's time as a disk follows it: two clocks that drift, pages that go away, backends that know no stamps."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.fake_backend import FakeBackend
from tests.support.fake_domain import FakeDomain
from xenpv.errors import DeviceError, StoreConnectionError, TimeAbsentError
from xenpv.testing.timepage import Fault, Scene
from xenpv.timepage import Kernel, Reader
from xenpv.timepage.page import PageView
from xenpv.xenbus import BackendAdverts
from xenpv_frontend.clock import TIE_SECONDS, Clock
from xenpv_frontend.disk import Disk
from xenpv_frontend.queue import Queue

Open = Callable[..., Disk]
Until = Callable[..., None]
NEAR_NS = 20_000
"""What a tie may be off by here, where each look at the clock takes 2 us."""


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> Scene:
    """dom0's time, which passes while somebody looks at it or sleeps."""
    scene = Scene()
    scene.offset = 10**12

    def look() -> int:
        scene.advance(2e-6)
        return scene.now_ns

    def open_reader(domain: Any) -> Reader:
        reader = Reader(scene.locate, clock=look, sleep=scene.advance)
        reader.wait(1)
        return reader

    monkeypatch.setattr("xenpv_frontend.clock.open_reader", open_reader)
    monkeypatch.setattr("xenpv_frontend.clock.find_page", lambda domain: scene.locate())
    monkeypatch.setattr("xenpv_frontend.clock.monotonic", lambda: scene.now_ns / 1e9)
    monkeypatch.setattr("xenpv_frontend.clock.own_clock_is_cheap", lambda: True)
    return scene


@pytest.fixture
def clock(scene: Scene) -> Clock:
    domain: Any = None
    clock = Clock(domain, "xvda", "us")
    clock.open()
    return clock


def is_near(clock: Clock, scene: Scene) -> bool:
    return clock.ahead_ns is not None and abs(clock.ahead_ns + scene.offset) < NEAR_NS


def test_the_clocks_are_tied_when_it_opens(clock: Clock, scene: Scene) -> None:
    assert is_near(clock, scene)


@pytest.mark.parametrize("drift", [-200_000, 200_000])
def test_clocks_that_drift_are_tied_anew(clock: Clock, scene: Scene, drift: int) -> None:
    for _ in range(5):
        scene.advance(TIE_SECONDS)
        scene.offset += drift
        assert not is_near(clock, scene)
        assert clock.tie() and is_near(clock, scene)


def test_between_two_ties_nobody_looks(clock: Clock, scene: Scene) -> None:
    before = scene.now_ns
    assert clock.pause is not None and clock.pause > 0
    assert not clock.tie() and scene.now_ns == before


@pytest.mark.parametrize("unit", ["tick", "us"])
def test_nothing_wakes_for_a_disk_that_needs_no_tie(scene: Scene, unit: str) -> None:
    scene.offset = 0
    if unit == "us":
        scene.restart(Kernel().boot_id())  # the page of this kernel, whose clock is ours
    domain: Any = None
    clock = Clock(domain, "xvda", unit)
    clock.open()
    scene.advance(10)
    assert clock.pause is None and not clock.tie() and clock.ahead_ns == 0


def test_another_dom0_is_noticed(clock: Clock, scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    scene.advance(TIE_SECONDS)
    scene.offset += 10**11
    scene.do(Fault.MIGRATE)
    assert clock.tie() and clock.ahead_ns is None and "another dom0" in caplog.text
    assert clock.pause == 0 and clock.tie() and is_near(clock, scene)


@pytest.mark.parametrize("fault", [Fault.KILL, Fault.FREEZE, Fault.TEAR])
def test_without_a_page_that_ticks_the_clocks_stay_tied_as_they_were(clock: Clock, scene: Scene, fault: Fault) -> None:
    before = clock.ahead_ns
    scene.do(fault)
    for _ in range(3):
        scene.advance(TIE_SECONDS)
        assert not clock.tie() and clock.ahead_ns == before
    scene.restart()
    scene.advance(TIE_SECONDS)
    clock.tie()
    clock.tie()
    assert is_near(clock, scene)


def test_a_page_with_nonsense_is_no_time(clock: Clock, scene: Scene) -> None:
    scene.advance(TIE_SECONDS)
    scene.offset = (1 << 64) - 1 - scene.now_ns - 10**10
    scene.do(Fault.MIGRATE)
    assert clock.tie() and clock.ahead_ns is None, "another page"
    assert not clock.tie() and clock.ahead_ns is None, "no such time"


def test_a_store_that_is_gone_is_the_keeper_s_to_hear_of(clock: Clock, scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    def locate() -> PageView:
        raise StoreConnectionError("the connection is gone")

    assert clock._reader is not None
    monkeypatch.setattr(clock._reader._follower, "_locate", locate)
    scene.do(Fault.KILL)
    scene.advance(TIE_SECONDS)
    with pytest.raises(StoreConnectionError):
        clock.tie()


def test_opening_fails_without_a_page_and_leaves_nothing(scene: Scene) -> None:
    domain: Any = None
    clock = Clock(domain, "xvda", "tick")
    scene.gone = True
    with pytest.raises(TimeAbsentError):
        clock.open()
    assert clock.address == 0
    scene.gone = False
    clock.open()
    assert clock.address != 0


# ---- a disk


@pytest.fixture
def stamping(backend: FakeBackend) -> FakeBackend:
    backend.adverts = BackendAdverts(notify_flag=True, stamp="us")
    return backend


def test_the_keeper_ties_by_itself_and_nobody_else_reads_the_page(
        scene: Scene, stamping: FakeBackend, open_disk: Open, until: Until, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page may be unmapped by the keeper while a caller's thread reads it."""
    readers: set[str] = set()
    ties: list[int | None] = []

    def read(view: PageView) -> Any:
        readers.add(threading.current_thread().name)
        return really_read(view)

    def set_ahead(queue: Queue, ahead_ns: int | None) -> None:
        ties.append(ahead_ns)
        really_set_ahead(queue, ahead_ns)

    really_read, really_set_ahead = PageView.read, Queue.set_ahead
    monkeypatch.setattr(PageView, "read", read)
    monkeypatch.setattr(Queue, "set_ahead", set_ahead)
    monkeypatch.setattr("xenpv_frontend.clock.TIE_SECONDS", 0.0)
    disk = open_disk(stamp="us")

    def tied() -> bool:
        scene.offset += 1000
        disk.samples()
        return len(set(ties)) > 3

    until(tied, "the clocks are tied anew, and anew")
    disk.close()
    assert readers == {"xenpv-xvda"}


def renewed(backend: FakeBackend, disk: Disk, adverts: BackendAdverts) -> None:
    """Another backend takes over with a request in flight; it offers less, so a new ring is made. All data is right."""
    before = len(backend.requests)
    backend.answer = lambda request, response: None
    results: list[bytes] = []
    thread = threading.Thread(target=lambda: results.append(disk.read(0, 512)))
    thread.start()
    backend.wait_requests(before + 1)
    backend.answer = lambda request, response: response
    with backend._lock:
        backend.withheld.clear()
        backend.adverts = adverts
        for name, value in {"feature-xenpv-stamp": adverts.stamp, "feature-xenpv-notify-flag": "0"}.items():
            if value is None:
                backend.store.remove(f"{backend.place.backend}/{name}")
            else:
                backend.set(name, value)
        backend.set("state", "4")
    thread.join(20)
    assert results == [bytes(backend.data[:512])] and backend.attached == 2


@pytest.mark.parametrize("unit", ["tick", "us"])
def test_a_disk_outlives_a_backend_that_offers_stamps(
        scene: Scene, stamping: FakeBackend, open_disk: Open, unit: str, monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr("xenpv_frontend.device.DRAIN_SECONDS", 0.1)
    disk = open_disk(stamp=unit)
    assert stamping.frontend_key("xenpv-stamp") == unit.encode()
    renewed(stamping, disk, BackendAdverts())
    assert stamping.frontend_key("xenpv-stamp") is None and "offers no stamps" in caplog.text
    before = disk.stats()
    assert disk.read(0, 4096) == stamping.data[:4096]
    after = disk.stats()
    assert after.stages_unknown - before.stages_unknown == after.requests - before.requests > 0
    assert not any(sample.known for sample in disk.samples())


@pytest.mark.parametrize("unit", ["tick", "us"])
def test_a_disk_outlives_the_publisher_and_a_backend(
        scene: Scene, stamping: FakeBackend, open_disk: Open, unit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xenpv_frontend.device.DRAIN_SECONDS", 0.1)
    disk = open_disk(stamp=unit)
    scene.do(Fault.KILL)
    renewed(stamping, disk, BackendAdverts(stamp="us"))
    assert stamping.frontend_key("xenpv-stamp") == unit.encode()
    assert disk.read(0, 4096) == stamping.data[:4096]


def test_who_opens_a_disk_hears_that_there_are_no_stamps(scene: Scene, backend: FakeBackend, open_disk: Open) -> None:
    with pytest.raises(DeviceError, match="offers no stamps in tick"):
        open_disk(stamp="tick")


def test_a_publisher_that_starts_again_is_followed(scene: Scene, domain: FakeDomain, stamping: FakeBackend, open_disk: Open,
                                                   until: Until) -> None:
    disk = open_disk(stamp="tick")
    clock = disk._device._clock
    assert clock is not None
    before = clock.address
    scene.do(Fault.KILL)
    scene.restart()
    domain.store.write("/local/domain/0/xenpv/time/7/ref", "9")
    until(lambda: clock.address != before, "the other page")
    assert disk.read(0, 512) == stamping.data[:512]
