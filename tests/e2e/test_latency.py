"""How long requests took, at both ends, over the emulated Xen: held against what the storage and the caller measured."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import pytest

from tests.e2e.test_disk import PATTERN, SIZE, bare
from tests.e2e.test_stamps import publishing
from tests.support.raw_frontend import DEVID
from tests.support.world import World, serving
from xenpv.latency import DiskLatency, Histogram, read_disk
from xenpv.testing.timepage import Scene
from xenpv.timepage.kernel import Kernel
from xenpv.timepage.page import PageView
from xenpv.xenbus import VbdPlace, vbd_nodes
from xenpv_backend.storage.base import StorageRequest
from xenpv_backend.storage.memory import MemoryStorage
from xenpv_frontend.disk import Disk
from xenpv_tools import toolstack
from xenpv_tools.cli import main

__all__ = ["bare"]

TICK_NS = Kernel().tick_nsec()


class TimedStorage(MemoryStorage):
    """Knows how long each request took, by CLOCK_MONOTONIC, which stamps in microseconds are of."""

    def __init__(self) -> None:
        super().__init__(SIZE)
        self.took: list[int] = []
        """Nanoseconds of each request."""
        self.meanwhile: Callable[[int], object] = lambda number: None
        """Called with the request's number while it is under way."""
        self.wait = threading.Event().wait

    def handle(self, requests: Sequence[StorageRequest]) -> None:
        for request in requests:
            begun = time.monotonic_ns()
            self.meanwhile(len(self.took))
            super().handle([request])
            self.took.append(time.monotonic_ns() - begun)


@pytest.fixture
def storage(monkeypatch: pytest.MonkeyPatch) -> TimedStorage:
    storage = TimedStorage()
    monkeypatch.setattr("xenpv_backend.device.open_storage", lambda *args, **more: storage)
    return storage


def the_backends(world: World) -> DiskLatency:
    latency = read_disk(world.run, world.guest.domid, DEVID)
    assert latency is not None
    return latency


def reads(latency: DiskLatency | None) -> dict[str, Histogram]:
    assert latency is not None
    return latency.operations["read"].stages


@pytest.mark.parametrize("unit", ["tick", "us"])
def test_both_ends_count_every_request(bare: World, unit: str) -> None:
    bare.attach()
    with publishing(bare.dom0), serving(bare.dom0, bare.run, stamp=unit), Disk.open(bare.guest, stamp=unit) as disk:
        assert disk.read(0, SIZE) == PATTERN
        disk.write(0, PATTERN[:4096])
        disk.flush()
        ours, theirs, counters = disk.latency(), the_backends(bare), disk.stats()
        assert ours is not None
        for latency in (ours, theirs):
            assert (latency.unit, latency.resolution_ns) == (unit, 1000 if unit == "us" else TICK_NS)
            assert latency.count == counters.requests
            assert [latency.operations[name].count for name in ("write", "flush", "discard")] == [1, 1, 0]
        assert set(reads(ours)) - set(reads(theirs)) == {"reaped"}, "the backend does not know it"
        assert ours.operations["read"].absent == theirs.operations["read"].absent == 0


def test_the_stages_of_every_operation_add_up(bare: World) -> None:
    bare.attach()
    with publishing(bare.dom0), serving(bare.dom0, bare.run, stamp="us"), Disk.open(bare.guest, stamp="us") as disk:
        disk.read(0, SIZE)
        stages = reads(disk.latency())
    assert stages["total"].total == sum(stages[name].total for name in ("queued", "service", "reaped"))
    assert stages["service"].total == sum(stages[name].total for name in ("waited", "stored", "answered"))


class Clock:
    """dom0's time page, written by the test alone: a tick passes when it says so."""

    def __init__(self) -> None:
        self.scene = Scene()

    @property
    def view(self) -> PageView:
        return self._view

    def __enter__(self) -> Self:
        self._view = self.scene.locate()
        return self

    def __exit__(self, *exception: object) -> None:
        self._view.close()

    # What a frontend asks of its reader.
    ahead_ns = 0

    def close(self) -> None:
        """The view outlives the queues that were given its address."""

    def pass_ticks(self, ticks: int) -> None:
        self.scene.advance(ticks * self.scene.tick_nsec / 1e9)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    with Clock() as clock:
        monkeypatch.setattr("xenpv_frontend.clock.open_reader", lambda *args, **more: clock)
        for room in ("xenpv_frontend.clock", "xenpv_backend.clock"):
            monkeypatch.setattr(f"{room}.find_page", lambda domain: clock.scene.locate())
        yield clock


def test_a_storage_that_takes_a_known_time_by_a_clock_that_it_moves(bare: World, storage: TimedStorage, clock: Clock) -> None:
    """Each request takes as many ticks as the storage lets pass, and nothing else moves the clock."""
    known = [0, 1, 3, 70, 200, 5000]
    storage.meanwhile = lambda number: clock.pass_ticks(known[number])
    bare.attach()
    with serving(bare.dom0, bare.run, stamp="tick"), Disk.open(bare.guest, stamp="tick") as disk:
        for _ in known:
            disk.read(0, 512)
        ours, theirs = reads(disk.latency()), reads(the_backends(bare))
    for stages in (ours, theirs):
        for name in ("stored", "service", "total"):
            assert (stages[name].count, stages[name].total, stages[name].max) == (len(known), sum(known), max(known)), name
            assert [bucket.counted for bucket in stages[name].buckets()] == [1] * len(known)
        for name in ("queued", "waited", "answered"):
            assert (stages[name].total, stages[name].zero_share) == (0, 1.0), name
    assert ours["reaped"].total == 0


def test_a_storage_that_takes_a_known_time(bare: World, storage: TimedStorage) -> None:
    """The storage reads the stamps' clock when it begins and ends, and the caller around the whole: what is `stored` lies
    between the two, within a step, and so does the sum of the stages.
    """
    outside = []
    storage.meanwhile = lambda number: storage.wait(number % 4 / 1000)
    bare.attach()
    with publishing(bare.dom0), serving(bare.dom0, bare.run, stamp="us"), Disk.open(bare.guest, stamp="us") as disk:
        before = disk.latency()
        assert before is not None
        for number in range(40):
            begun = time.monotonic_ns()
            disk.read(0, 512)
            outside.append(time.monotonic_ns() - begun)
            now = disk.latency()
            assert now is not None
            stages, before = reads(now - before), now
            assert stages["total"].count == 1, "one request at a time"
            whole = sum(stages[name].total for name in ("queued", "waited", "stored", "answered", "reaped"))
            assert stages["total"].total == whole
            assert storage.took[number] / 1000 - 1 <= stages["stored"].total <= outside[number] / 1000 + 1
            assert storage.took[number] / 1000 - 1 <= whole <= outside[number] / 1000 + 1
        assert reads(the_backends(bare))["stored"] == reads(disk.latency())["stored"], "both ends have the same stamps"


def test_a_guest_without_stamps_shows_the_backends_stages(bare: World) -> None:
    bare.attach()
    with serving(bare.dom0, bare.run, profile="us"), Disk.open(bare.guest) as disk:
        disk.read(0, SIZE)
        assert disk.latency() is None
        latency, requests = the_backends(bare), disk.stats().requests
        stages = reads(latency)
    assert (latency.unit, latency.resolution_ns) == ("us", 1000)
    assert stages["service"].count == stages["stored"].count == latency.operations["read"].absent == requests
    assert stages["service"].total == sum(stages[name].total for name in ("waited", "stored", "answered"))
    assert stages["total"].count == stages["queued"].count == 0


def test_the_backends_own_tick_where_its_clock_is_dear(bare: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xenpv_backend.options.own_clock_is_cheap", lambda: False)
    bare.attach()
    with serving(bare.dom0, bare.run, profile="auto"), Disk.open(bare.guest) as disk:
        disk.read(0, 4096)
        latency = the_backends(bare)
    assert (latency.unit, latency.resolution_ns, latency.count) == ("tick", TICK_NS, 1)
    assert TICK_NS <= 10_000_000


def test_a_frontend_without_stamps_knows_its_total(bare: World) -> None:
    bare.attach()
    with serving(bare.dom0, bare.run), Disk.open(bare.guest, profile=True) as disk:
        disk.read(0, 4096)
        stages = reads(disk.latency())
    assert stages["total"].count == 1
    assert all(stages[name].count == 0 for name in stages if name != "total")
    assert read_disk(bare.run, bare.guest.domid, DEVID) is None


def test_off_by_default(bare: World) -> None:
    bare.attach()
    with serving(bare.dom0, bare.run), Disk.open(bare.guest) as disk:
        disk.read(0, 4096)
        assert disk.latency() is None
        assert read_disk(bare.run, bare.guest.domid, DEVID) is None


def test_a_successor_goes_on_counting(bare: World) -> None:
    bare.attach()
    with ExitStack() as backends:
        backends.enter_context(serving(bare.dom0, bare.run, profile="us"))
        with Disk.open(bare.guest, profile=True) as disk:
            disk.read(0, 4096)
            backends.close()
            backends.enter_context(serving(bare.dom0, bare.run, profile="us"))
            disk.read(0, 4096)
            assert the_backends(bare).count == 2
            backends.close()
            backends.enter_context(serving(bare.dom0, bare.run))
            disk.read(0, 4096)
            assert read_disk(bare.run, bare.guest.domid, DEVID) is None, "who does not measure leaves no old figures"
            latency = disk.latency()
            assert latency is not None and latency.count == 3


def test_a_new_connection_begins_anew(bare: World) -> None:
    bare.attach()
    with serving(bare.dom0, bare.run, profile="us"):
        for _ in range(2):
            with Disk.open(bare.guest) as disk:
                disk.read(0, 4096)
                assert the_backends(bare).count == 1


@dataclass
class Command:
    """`xenpv latency` of this Xen."""

    run: Path
    capture: pytest.CaptureFixture[str]

    def __call__(self, *words: str, status: int = 0) -> str:
        """What it prints; with another status its one line on stderr."""
        assert main(["--hypervisor", f"emulated:{self.run}", "latency", *words]) == status
        printed = self.capture.readouterr()
        assert printed.err.count("\n") == bool(status)
        return printed.err if status else printed.out


@pytest.fixture
def command(bare: World, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(bare.run, capsys)


def give(world: World, devid: int = DEVID) -> None:
    """As a toolstack gives a disk."""
    place = VbdPlace(0, world.guest.domid, devid)
    toolstack.attach(world.dom0.store, place, vbd_nodes(place, writable=True, params=str(world.image)))


def test_the_command_shows_every_stage(bare: World, command: Command) -> None:
    with publishing(bare.dom0), serving(bare.dom0, bare.run, stamp="us"):
        give(bare)
        with Disk.open(bare.guest, stamp="us") as disk:
            disk.read(0, SIZE)
            requests = disk.stats().requests
            lines = command("guest").splitlines()
            found, = json.loads(command("guest", "xvda", "--json"))
    assert lines[0] == "xvda of domain 1: measured by the backend, clock CLOCK_MONOTONIC, resolution 1 us"
    assert lines[2].split() == ["stage", "span", "count", "mean", "p50", "p90", "p99", "p99.9", "max", "zero"]
    assert lines[3].split() == ["read", str(requests)]
    assert [line.split()[0] for line in lines[4:10]] == ["queued", "waited", "stored", "answered", "service", "total"]
    assert (found["vdev"], found["latency"]["operations"]["read"]["count"]) == ("xvda", requests)


def test_the_command_shows_what_comes_in_the_next_seconds(bare: World, command: Command) -> None:
    with serving(bare.dom0, bare.run, profile="us"):
        give(bare)
        with Disk.open(bare.guest) as disk:
            disk.read(0, 4096)
            found, = json.loads(command("guest", "--seconds", "0.1", "--json"))
    assert found["latency"]["operations"]["read"]["count"] == 0


def test_the_command_says_in_words_what_is_missing(bare: World, command: Command) -> None:
    assert "has no disks" in command("guest", status=1)
    with serving(bare.dom0, bare.run):
        give(bare)
        assert "xvda of domain guest is not measured: start the backend with --profile auto" in command("guest", status=1)
        assert "has no xvdz" in command("guest", "xvdz", status=1)
    assert "nobody" in command("nobody", status=1)


@pytest.mark.parametrize(("unit", "stages"), [("us", ["queued", "waited", "stored", "answered", "reaped", "service", "total"]),
                                              ("auto", ["total"])])
def test_a_copy_shows_how_long_its_requests_took(bare: World, tmp_path: Path, capsys: pytest.CaptureFixture[str], unit: str,
                                                 stages: list[str]) -> None:
    with publishing(bare.dom0), serving(bare.dom0, bare.run, stamp="us"):
        give(bare)
        copy = str(tmp_path / "copy.img")
        words = ["--hypervisor", f"emulated:{bare.run}#{bare.guest.domid}", "disk", "cp", "xvda", copy, "--latency", unit]
        assert main(words) == 0
    lines = capsys.readouterr().err.splitlines()
    assert Path(copy).read_bytes() == PATTERN
    assert "xvda: measured by the frontend, clock CLOCK_MONOTONIC, resolution 1 us" in lines
    assert [line.split()[0] for line in lines if line.startswith("  ")] == stages
