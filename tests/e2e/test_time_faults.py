"""What becomes of a stamped disk's times under each fault of dom0's time page, and what the tools say of it.

The page is moved by the test alone; each fault comes while a request is under way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from itertools import pairwise

import pytest

from tests.e2e.test_disk import bare
from tests.e2e.test_latency import Clock, TimedStorage, clock, give, storage, the_backends
from tests.e2e.test_stamps import publishing
from tests.support.world import World, serving
from xenpv.testing.timepage import JUMP_TICKS, Fault
from xenpv.timepage import trouble
from xenpv.timepage.subscription import place_of
from xenpv_backend.daemon import Backend
from xenpv_frontend.disk import Disk
from xenpv_tools.cli import main
from xenpv_tools.monitor.interval import intervals
from xenpv_tools.monitor.source import read_all
from xenpv_tools.monitor.view import View

__all__ = ["bare", "clock", "storage"]

STEPS = 3
"""Ticks that every request takes."""


class Bench:
    """A disk that is stamped in ticks, and the tools."""

    def __init__(self, world: World, storage: TimedStorage, clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
        self.world, self.storage, self.clock = world, storage, clock
        self._capsys = capsys
        storage.meanwhile = lambda number: clock.pass_ticks(STEPS)

    def read(self, disk: Disk, fault: Fault | None = None) -> None:
        """One request, and what becomes of the page while it is under way."""
        if fault is not None:
            def meanwhile(number: int) -> None:
                self.clock.scene.do(fault)
                self.clock.pass_ticks(STEPS)

            self.storage.meanwhile = meanwhile
        disk.read(0, 512)
        self.storage.meanwhile = lambda number: self.clock.pass_ticks(STEPS)

    def follow(self, backend: Backend, fault: Fault, until: Callable[..., None]) -> None:
        """Another page after such a fault: told as the store does, and taken by the backend."""
        if fault not in (Fault.WRAP, Fault.MIGRATE):
            return
        old = backend._clock.mapped
        for domid in (0, self.world.guest.domid):
            self.world.dom0.store.write(f"{place_of(domid)}/generation", str(self.clock.scene.facts.generation))
        until(lambda: backend._clock.mapped not in (old, []) and len(backend._clock.mapped) == 1, "another page")

    def counted(self) -> tuple[int, int, int]:
        """Of the backend: requests whose own times are known, unknown ones, refused claims."""
        operation = the_backends(self.world).operations["read"]
        return operation.stages["service"].count, operation.unknown, operation.refused

    def latency(self) -> tuple[str, str]:
        """What `xenpv latency` prints, and says beside it."""
        self._capsys.readouterr()
        assert main(["--hypervisor", f"emulated:{self.world.run}", "latency", "guest"]) == 0
        printed = self._capsys.readouterr()
        return printed.out, printed.err


@pytest.fixture
def bench(bare: World, storage: TimedStorage, clock: Clock, monkeypatch: pytest.MonkeyPatch,
          capsys: pytest.CaptureFixture[str]) -> Iterator[Bench]:
    monkeypatch.setattr("xenpv_tools.commands.latency.find_page", lambda domain: clock.scene.locate())
    monkeypatch.setattr("xenpv_tools.commands.latency.trouble",
                        partial(trouble, clock=clock.scene.clock, sleep=clock.scene.advance))
    yield Bench(bare, storage, clock, capsys)


LOST = "in no stage: there was no time to be had, or it was disrupted meanwhile"


@pytest.mark.parametrize(("fault", "lost", "says"), [
    # Under way, and what comes next: every time is lost while the fault lasts.
    (Fault.TEAR, 2, "died in the middle of a write"),
    (Fault.KILL, 2, "nobody publishes"),
    # Nothing in the stamps tells a clock that stands still: the warning does, and that every request takes no time.
    (Fault.FREEZE, 0, "stands still"),
    # A page that does not say so: a jump forward looks like a slow request, one back is no time at all.
    (Fault.FORWARD, 0, ""),
    (Fault.BACK, 1, ""),
    # Another page, which both ends take: what was under way is lost.
    (Fault.WRAP, 1, ""),
    (Fault.MIGRATE, 1, ""),
])
def test_what_latency_says(bench: Bench, until: Callable[..., None], fault: Fault, lost: int, says: str) -> None:
    with serving(bench.world.dom0, bench.world.run, stamp="tick") as backend:
        give(bench.world)
        with Disk.open(bench.world.guest, stamp="tick") as disk:
            bench.read(disk)
            assert bench.counted() == (1, 0, 0)
            bench.read(disk, fault)
            bench.follow(backend, fault, until)
            bench.read(disk)
            known, unknown, _ = bench.counted()
            table, beside = bench.latency()
    assert (known, unknown) == (3 - lost, lost)
    assert (f"{lost} request{'s' * (lost > 1)} {LOST}" in table) == bool(lost)
    assert beside.startswith("xenpv: xvda: no times can be taken now: ") if says else not beside
    assert says in beside and beside.count("\n") == bool(says)


def test_latency_warns_of_a_publisher_that_has_ended(bare: World, capsys: pytest.CaptureFixture[str]) -> None:
    with serving(bare.dom0, bare.run, stamp="tick"), ExitStack() as publishers:
        publishers.enter_context(publishing(bare.dom0))
        give(bare)
        with Disk.open(bare.guest, stamp="tick") as disk:
            disk.read(0, 512)
            told = []
            for _ in range(2):
                assert main(["--hypervisor", f"emulated:{bare.run}", "latency", "guest"]) == 0
                told.append(capsys.readouterr().err)
                publishers.close()
    assert told[0] == "" and "xvda" in told[1] and "`xenpv time publish`" in told[1]


def test_a_jump_forward_that_the_page_does_not_tell_is_one_slow_request(bench: Bench) -> None:
    with serving(bench.world.dom0, bench.world.run, stamp="tick"):
        bench.world.attach()
        with Disk.open(bench.world.guest, stamp="tick") as disk:
            bench.read(disk, Fault.FORWARD)
            assert the_backends(bench.world).operations["read"].stages["service"].max == JUMP_TICKS + STEPS


def test_a_clock_that_stands_still_makes_every_time_zero(bench: Bench) -> None:
    with serving(bench.world.dom0, bench.world.run, stamp="tick"):
        bench.world.attach()
        with Disk.open(bench.world.guest, stamp="tick") as disk:
            bench.read(disk, Fault.FREEZE)
            bench.read(disk)
            assert the_backends(bench.world).operations["read"].stages["service"].zero_share == 1


def test_a_disruption_that_the_page_tells_loses_what_was_under_way(bench: Bench) -> None:
    """As a publisher does that sees the kernel's tick elsewhere, or that dom0 slept."""
    scene = bench.clock.scene
    with serving(bench.world.dom0, bench.world.run, stamp="tick"):
        bench.world.attach()
        with Disk.open(bench.world.guest, stamp="tick") as disk:
            bench.storage.meanwhile = lambda number: scene.writer.write(scene.tick + 1, scene.now_ns, disruptions=1)
            disk.read(0, 512)
            assert bench.counted() == (0, 1, 0)


SHOWN = ("lost", "zero", "ser-p50")
NO_TIME = ("100%", "-", "-")
ZERO = ("0%", "100%", "<4ms")
GOOD = ("0%", "0%", "8..16ms")
SLOW = ("0%", "0%", "4.01s")


@pytest.mark.parametrize(("fault", "under_way", "later"), [
    (Fault.TEAR, NO_TIME, NO_TIME),
    (Fault.KILL, NO_TIME, NO_TIME),
    (Fault.FREEZE, ZERO, ZERO),
    (Fault.FORWARD, SLOW, GOOD),
    (Fault.BACK, NO_TIME, GOOD),
    (Fault.WRAP, NO_TIME, GOOD),
    (Fault.MIGRATE, NO_TIME, GOOD),
])
def test_what_top_shows(bench: Bench, until: Callable[..., None], fault: Fault, under_way: tuple[str, ...],
                        later: tuple[str, ...]) -> None:
    """Of the request that met the fault, and of the next one."""
    with serving(bench.world.dom0, bench.world.run, stamp="tick") as backend:
        bench.world.attach()
        with Disk.open(bench.world.guest, stamp="tick") as disk:
            readings = [read_all(bench.world.run)]
            bench.read(disk, fault)
            readings.append(read_all(bench.world.run))
            bench.follow(backend, fault, until)
            bench.read(disk)
            readings.append(read_all(bench.world.run))
    shown = []
    for before, after in pairwise(readings):
        view = View("emulated", 1.0)
        view.update(intervals(before, after, 1.0), after.pid, "12:00:00")
        head, line = (each.split() for each in view.table())
        shown.append([line[head.index(name)] for name in SHOWN])
    assert shown == [[*under_way], [*later]]


def test_no_warning_where_nobody_stamps_in_ticks(bench: Bench) -> None:
    bench.clock.scene.do(Fault.KILL)
    with serving(bench.world.dom0, bench.world.run, profile="us"):
        give(bench.world)
        with Disk.open(bench.world.guest) as disk:
            bench.read(disk)
            assert bench.latency()[1] == ""
