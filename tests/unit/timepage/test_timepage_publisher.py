"""The publisher and readers in domains of an emulated Xen; the kernel's clock is the test's."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.emulated import domains
from xenpv.errors import AccessDeniedError, GrantError, NoEntryError, TimeAbsentError, UsageError
from xenpv.hypervisors.emulated import host
from xenpv.hypervisors.emulated.client import EmulatedDomain
from xenpv.testing.timepage import Fault, inject
from xenpv.timepage import Publisher, open_reader
from xenpv.timepage.kernel import Calibration, Kernel
from xenpv.timepage.page import ALIVE
from xenpv.timepage.subscription import place_of, subscribers, wishes_of
from xenpv.wire.timepage import Kind

NSEC = 4_000_000
JIFFIES = (1 << 32) - 75_000


class HandKernel(Kernel):
    """A kernel with HZ 250 that the test moves."""

    def __init__(self, *, counts: bool = True) -> None:
        self.now_ns = 300_000_000_000
        self.counts = counts
        self.slept_ns = 0

    def tick_nsec(self) -> int:
        return NSEC

    def coarse_ns(self) -> int:
        return self.now_ns

    def suspended_ns(self) -> int:
        return self.slept_ns

    def boot_id(self) -> uuid.UUID:
        return uuid.UUID(int=42)

    def jiffies(self) -> int | None:
        return JIFFIES + self.now_ns // NSEC if self.counts else None


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return tmp_path / "r"


@pytest.fixture
def guest(run: Path) -> Iterator[EmulatedDomain]:
    with domains(run, 1) as (made,):
        yield made


@pytest.fixture
def dom0(run: Path, guest: EmulatedDomain) -> Iterator[EmulatedDomain]:
    with EmulatedDomain(f"emulated:{run}") as made:
        yield made


class Stage:
    """A publisher that is turned until something is so."""

    def __init__(self, dom0: EmulatedDomain) -> None:
        self.kernel = HandKernel()
        self.publisher = Publisher(dom0, kernel=self.kernel, start=False)

    def turn_until(self, condition: Callable[[], object]) -> None:
        for _ in range(200):
            if condition():
                return
            self.publisher.turn(0.05)
        pytest.fail("not within 200 turns")

    def tick(self, ticks: int = 1) -> None:
        for _ in range(ticks):
            self.kernel.now_ns += NSEC
            self.publisher.ticker.step(self.kernel.now_ns)


@pytest.fixture
def stage(dom0: EmulatedDomain) -> Iterator[Stage]:
    made = Stage(dom0)
    with made.publisher:
        yield made


def ref_of(store: EmulatedDomain, domid: int) -> int:
    return int(store.store.read(f"{place_of(domid)}/ref"))


def test_nobody_is_subscribed_and_nothing_ticks(stage: Stage) -> None:
    stage.publisher.turn(0)
    assert (stage.publisher.pages, stage.publisher.ticker.stats()["pages"]) == ({}, 0)
    assert stage.publisher._due() is None, "it sleeps until there is an event"


def test_a_guest_that_asks_reads_the_kernel_s_tick(stage: Stage, guest: EmulatedDomain) -> None:
    with open_reader(guest, timeout=0) as reader:
        stage.turn_until(lambda: stage.publisher.pages)
        for _ in range(3):
            reading = reader.read()
            assert reading.tick == stage.kernel.jiffies()
            stage.tick(7)


def test_the_page_is_granted_for_reading_only(stage: Stage, guest: EmulatedDomain) -> None:
    with open_reader(guest, timeout=0):
        stage.turn_until(lambda: stage.publisher.pages)
        ref = ref_of(guest, guest.domid)
        with pytest.raises(GrantError):
            guest.grants.map(0, [ref])
        with guest.grants.map(0, [ref], writable=False) as mapped:
            assert mapped.read(0, 4) == b"xtim"


def test_the_reference_is_told_only_behind_a_valid_page(stage: Stage, guest: EmulatedDomain,
                                                        monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    tell = stage.publisher._tell
    monkeypatch.setattr(stage.publisher, "_tell", lambda page: (seen.append(bytes(page.shared.memory[:4])), tell(page)))
    with open_reader(guest, timeout=0):
        stage.turn_until(lambda: stage.publisher.pages)
    assert seen == [b"xtim"]


def test_another_domain_cannot_read_the_reference(stage: Stage, run: Path, guest: EmulatedDomain) -> None:
    other = host.request(run, "create", name="other")
    with open_reader(guest, timeout=0), EmulatedDomain(f"emulated:{other['directory']}") as stranger:
        stage.turn_until(lambda: stage.publisher.pages)
        with pytest.raises(AccessDeniedError):
            ref_of(stranger, guest.domid)


def test_who_leaves_stops_the_ticks_and_keeps_the_page(stage: Stage, dom0: EmulatedDomain, guest: EmulatedDomain) -> None:
    with open_reader(guest, timeout=0) as reader:
        stage.turn_until(lambda: stage.publisher.pages)
        reader.read()
        first = ref_of(dom0, guest.domid)
    page = stage.publisher.pages[guest.domid]
    stage.turn_until(lambda: not page.ticking)
    assert stage.publisher._due() is None
    with open_reader(guest, timeout=0) as reader:
        stage.turn_until(lambda: page.ticking)
        assert reader.read().missed == 0
        assert ref_of(dom0, guest.domid) == first


def test_two_readers_share_a_page(stage: Stage, guest: EmulatedDomain) -> None:
    first, second = open_reader(guest, timeout=0), open_reader(guest, timeout=0)
    stage.turn_until(lambda: stage.publisher.pages)
    assert first.read().epoch == second.read().epoch
    first.close()
    for _ in range(5):
        stage.publisher.turn(0.01)
    assert second.read().tick == stage.kernel.jiffies()
    second.close()


def test_domain_0_reads_its_own(stage: Stage, dom0: EmulatedDomain) -> None:
    with open_reader(dom0, timeout=0) as reader:
        stage.turn_until(lambda: stage.publisher.pages)
        assert reader.read().tick == stage.kernel.jiffies()


def test_a_domain_that_ends_takes_its_page_along(stage: Stage, run: Path, dom0: EmulatedDomain,
                                                 guest: EmulatedDomain) -> None:
    open_reader(guest, timeout=0)
    stage.turn_until(lambda: stage.publisher.pages)
    page = stage.publisher.pages[guest.domid]
    host.request(run, "destroy", domid=guest.domid)
    stage.turn_until(lambda: not stage.publisher.pages)
    assert stage.publisher.ticker.stats()["pages"] == 0
    with pytest.raises(NoEntryError):
        ref_of(dom0, guest.domid)
    assert guest.domid not in stage.publisher._watches
    page.shared.close()  # it is closed, and a second time does nothing


def test_who_closes_leaves_a_dead_page_and_no_keys(stage: Stage, dom0: EmulatedDomain, guest: EmulatedDomain) -> None:
    with open_reader(guest, timeout=0):
        stage.turn_until(lambda: stage.publisher.pages)
        with guest.grants.map(0, [ref_of(guest, guest.domid)], writable=False) as mapped:
            assert mapped.read(ALIVE, 1) == b"\1"
            stage.publisher.close()
            assert mapped.read(ALIVE, 1) == b"\0"
    assert dom0.store.list("/local/domain/0/xenpv/time") == ["generation"]


def test_a_successor_has_another_generation(stage: Stage, dom0: EmulatedDomain, guest: EmulatedDomain) -> None:
    with open_reader(guest, timeout=0):
        stage.turn_until(lambda: stage.publisher.pages)
        first = stage.publisher.pages[guest.domid].generation
        stage.publisher.close()
        second = Stage(dom0)
        with second.publisher:
            second.turn_until(lambda: second.publisher.pages)
            assert second.publisher.pages[guest.domid].generation > first


def test_what_a_killed_predecessor_told_is_removed(dom0: EmulatedDomain) -> None:
    dom0.store.write(f"{place_of(77)}/ref", "300")
    with Stage(dom0).publisher:
        assert not dom0.store.exists(place_of(77))


def test_a_guest_is_no_publisher(guest: EmulatedDomain) -> None:
    with pytest.raises(UsageError, match="dom0"):
        Publisher(guest)


def test_without_timer_list_the_page_says_so(dom0: EmulatedDomain, guest: EmulatedDomain) -> None:
    stage = Stage(dom0)
    stage.publisher.close()
    stage.publisher = Publisher(dom0, kernel=HandKernel(counts=False), start=False)
    with stage.publisher, open_reader(guest, timeout=0) as reader:
        stage.turn_until(lambda: stage.publisher.pages)
        assert reader.read().tick == 300_000_000_000 // NSEC
        view = reader.view
        assert view is not None and view.read().facts.kind is Kind.COARSE


def test_a_machine_that_slept_disrupts(stage: Stage, guest: EmulatedDomain) -> None:
    with open_reader(guest, timeout=0) as reader:
        stage.turn_until(lambda: stage.publisher.pages)
        before = reader.read()
        stage.kernel.slept_ns += 10**9
        stage.publisher.calibrate()
        view = reader.view
        assert view is not None and view.read().disruptions == before.epoch.disruptions + 1


def test_a_page_that_cannot_be_had_is_tried_again(stage: Stage, guest: EmulatedDomain, dom0: EmulatedDomain,
                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **more: object) -> None:
        raise GrantError("no space", -13)

    with monkeypatch.context() as patch, open_reader(guest, timeout=0):
        patch.setattr(dom0.grants, "share", refuse)
        stage.turn_until(lambda: stage.publisher._later)
        assert stage.publisher._due() is not None and not stage.publisher.pages
        patch.undo()
        stage.publisher._retry_at = 0
        stage.turn_until(lambda: stage.publisher.pages)


def test_the_name_of_a_dead_reader_is_removed(stage: Stage, guest: EmulatedDomain) -> None:
    namespace = Path("/proc/self/ns/pid").stat().st_ino
    dead, strange = f"1-1-{namespace}-1", "somebody-else"
    for name in (dead, strange):
        guest.store.write(f"{wishes_of(guest.domid)}/{name}", "1")
    with open_reader(guest, timeout=0):
        left = subscribers(guest.store, guest.domid)
    assert dead not in left and strange in left


def test_nobody_publishes(guest: EmulatedDomain) -> None:
    with pytest.raises(TimeAbsentError, match="xenpv time publish"):
        open_reader(guest, timeout=0.01)
    assert subscribers(guest.store, guest.domid) == []


@pytest.mark.parametrize("fault", [fault for fault in Fault if fault is not Fault.KILL])
def test_faults_of_a_running_publisher(stage: Stage, guest: EmulatedDomain, fault: Fault) -> None:
    with open_reader(guest, timeout=0) as reader:
        stage.turn_until(lambda: stage.publisher.pages)
        before, view = reader.read(), reader.view
        assert view is not None
        inject(stage.publisher, fault)
        stage.tick()
        after = view.tick()
        page = stage.publisher.pages[guest.domid]
        assert {
            Fault.TEAR: after is None and view.alive(),
            Fault.FREEZE: after == before.tick,
            Fault.FORWARD: after == before.tick + 1001,
            Fault.BACK: after == before.tick - 999,
            Fault.WRAP: page.generation == before.epoch.generation + 1 and not view.alive(),
            Fault.MIGRATE: page.generation == before.epoch.generation + 1 and not view.alive(),
        }[fault]


def test_the_kernel_is_read_as_it_is() -> None:
    kernel = Kernel()
    assert kernel.tick_nsec() in range(100_000, 100_000_001)
    assert kernel.coarse_ns() > 0 and kernel.suspended_ns() >= -NSEC
    assert kernel.boot_id() == Kernel().boot_id()


def test_the_median_of_three_readings_counts() -> None:
    class Flips(HandKernel):
        """The middle reading falls between jiffies and the coarse clock."""

        def __init__(self) -> None:
            super().__init__()
            self.reads = 0

        def jiffies(self) -> int:
            self.reads += 1
            return 1000 + (self.reads == 2)

    assert Flips().calibrate() == Calibration(1000, 300_000_000_000)


def test_readings_across_a_tick_do_not_count() -> None:
    class Moves(HandKernel):
        """The clock is never the same twice."""

        def coarse_ns(self) -> int:
            self.now_ns += NSEC
            return self.now_ns

    assert Moves().calibrate() is None
