"""Which vbds there are, and that one that goes wrong stops no other."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.support.fake_store import FakeStore
from xenpv.errors import QuotaError, StoreConnectionError
from xenpv.xenbus import VbdPlace
from xenpv_backend import watcher
from xenpv_backend.watcher import Watcher

TOP = "/local/domain/0/backend/vbd"


class FakeDevice:
    def __init__(self, place: VbdPlace) -> None:
        self.place = place
        self.ended = False
        self.deadline: float | None = None
        self.turns = 0
        self.detached = False
        self.errors: list[Exception] = []

    def fileno(self) -> int:
        return 1000 + self.place.frontend_domid

    def take_events(self) -> None:
        pass

    def halted(self, queue: object) -> bool:
        return queue is self

    def turn(self) -> None:
        self.turns += 1
        self.deadline = None
        if self.errors:
            raise self.errors.pop(0)

    def detach(self) -> None:
        self.detached = True


class FakeLoop:
    def __init__(self) -> None:
        self.callbacks: dict[int, Callable[[], None]] = {}

    def add(self, fd: int, callback: Callable[[], None]) -> None:
        self.callbacks[fd] = callback

    def remove(self, fd: int) -> None:
        del self.callbacks[fd]


class Bench:
    def __init__(self, *paths: str) -> None:
        self.store = FakeStore({f"{TOP}/{path}/state": "1" for path in paths})
        self.loop = FakeLoop()
        self.now = 0.0
        self.foreign: set[VbdPlace] = set()
        self.watcher = Watcher(self.store, 0, self.loop, FakeDevice,  # type: ignore[arg-type]
                               takes=lambda place: place not in self.foreign, clock=lambda: self.now)

    def turn(self) -> float | None:
        self.watcher.take_events()
        return self.watcher.turn()

    def device(self, domid: int, devid: int = 51712) -> FakeDevice:
        return self.watcher.devices[VbdPlace(0, domid, devid)]  # type: ignore[return-value]


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench("1/51712", "2/51712")
    bench.turn()
    yield bench
    bench.watcher.close()
    assert not bench.loop.callbacks and not bench.store.watches


def test_finds_what_is_there(bench: Bench) -> None:
    assert [device.turns for device in (bench.device(1), bench.device(2))] == [1, 1]


def test_finds_what_comes(bench: Bench) -> None:
    bench.store.write(f"{TOP}/3/51728/state", "1")
    bench.turn()
    assert bench.device(3, 51728).turns == 1


def test_only_what_decides_is_looked_at(bench: Bench) -> None:
    bench.store.write(f"{TOP}/1/51712/sectors", "8")
    bench.turn()
    assert bench.device(1).turns == 1
    bench.store.write(f"{TOP}/1/51712/online", "0")
    bench.turn()
    assert (bench.device(1).turns, bench.device(2).turns) == (2, 1)


def test_directory_removed(bench: Bench) -> None:
    bench.store.remove(f"{TOP}/1")
    bench.turn()
    assert (bench.device(1).turns, bench.device(2).turns) == (2, 1)


@pytest.mark.parametrize("path", ["x/51712", "1/x", "99999/51712", "1/4294967295"])
def test_nonsense_is_passed_over(bench: Bench, path: str) -> None:
    bench.store.write(f"{TOP}/{path}/state", "1")
    bench.turn()
    assert len(bench.watcher.devices) == 2


def test_another_backends_vbd(bench: Bench) -> None:
    bench.foreign.add(VbdPlace(0, 3, 51712))
    bench.store.write(f"{TOP}/3/51712/state", "1")
    bench.turn()
    assert len(bench.watcher.devices) == 2


def test_frontend_events_mark_its_device(bench: Bench) -> None:
    bench.loop.callbacks[1001]()
    bench.watcher.turn()
    assert (bench.device(1).turns, bench.device(2).turns) == (2, 1)


def test_store_error_of_one_is_tried_again(bench: Bench) -> None:
    bench.device(1).errors = [StoreConnectionError("gone")]
    bench.loop.callbacks[1001]()
    assert bench.watcher.turn() == pytest.approx(watcher.LATER)
    bench.now += watcher.LATER
    assert bench.watcher.turn() is None
    assert bench.device(1).turns == 3


def test_internal_error_of_one_lets_it_go(bench: Bench) -> None:
    device = bench.device(1)
    device.errors = [KeyError("a bug")]
    bench.loop.callbacks[1001]()
    bench.loop.callbacks[1002]()
    bench.watcher.turn()
    assert device.detached and VbdPlace(0, 1, 51712) not in bench.watcher.devices
    assert bench.device(2).turns == 2


def test_ended_is_dropped(bench: Bench) -> None:
    bench.device(1).ended = True
    bench.loop.callbacks[1001]()
    bench.watcher.turn()
    assert len(bench.watcher.devices) == 1 and 1001 not in bench.loop.callbacks


def test_halted_queue_marks_its_device(bench: Bench) -> None:
    bench.watcher.halted(bench.device(2))  # type: ignore[arg-type]
    bench.watcher.turn()
    assert (bench.device(1).turns, bench.device(2).turns) == (1, 2)


def test_frontend_has_so_many_disks_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watcher, "MAX_PER_FRONTEND", 2)
    monkeypatch.setattr(FakeDevice, "fileno", lambda self: 1000 + self.place.devid)
    bench = Bench("1/51712", "1/51728", "1/51744", "2/51760")
    bench.turn()
    assert [place.frontend_domid for place in bench.watcher.devices] == [1, 1, 2]
    bench.watcher.close()


def test_device_that_cannot_be_made_is_made_later(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench("1/51712")
    make, errors = bench.watcher._make, [QuotaError("too many watches")]
    monkeypatch.setattr(bench.watcher, "_make", lambda place: make(place) if not errors else _raise(errors.pop()))
    assert bench.turn() == pytest.approx(watcher.LATER)
    bench.now += watcher.LATER
    bench.watcher.turn()
    assert bench.device(1).turns == 1
    bench.watcher.close()


def _raise(error: Exception) -> FakeDevice:
    raise error


def test_a_vbd_that_has_ended_is_not_begun_again_while_its_nodes_are_there(bench: Bench) -> None:
    bench.store.write(f"{TOP}/3/51712/online", "0")
    bench.store.write(f"{TOP}/3/51712/state", "6")
    bench.turn()
    assert [place.frontend_domid for place in bench.watcher.devices] == [1, 2]
