"""How long requests took, at both ends, over the emulated Xen: held against what the storage and the caller measured."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest

from tests.e2e.test_disk import PATTERN, SIZE, World, bare
from tests.e2e.test_stamps import publishing
from tests.support.raw_frontend import DEVID
from xenpv.latency import DiskLatency, Histogram, read_disk
from xenpv.timepage.kernel import Kernel
from xenpv_backend.daemon import Backend
from xenpv_backend.options import BackendOptions
from xenpv_backend.storage.base import StorageRequest
from xenpv_backend.storage.memory import MemoryStorage
from xenpv_frontend.disk import Disk

__all__ = ["bare"]

TICK_NS = Kernel().tick_nsec()


@contextmanager
def serving(world: World, **options: object) -> Iterator[Backend]:
    backend = Backend(world.dom0, world.run, BackendOptions(spin_us=0, **options))  # type: ignore[arg-type]
    thread = threading.Thread(target=backend.serve)
    thread.start()
    try:
        yield backend
    finally:
        backend.stop()
        thread.join()
        backend.close()


class TimedStorage(MemoryStorage):
    """Waits before each batch, and notes when it began and ended, by CLOCK_MONOTONIC_RAW's sibling that both ends use."""

    def __init__(self) -> None:
        super().__init__(SIZE)
        self.took: list[int] = []
        """Nanoseconds of each request."""
        self.wait = 0.0
        self._never = threading.Event()

    def handle(self, requests: Sequence[StorageRequest]) -> None:
        begun = time.monotonic_ns()
        self._never.wait(self.wait)
        super().handle(requests)
        self.took += [time.monotonic_ns() - begun] * len(requests)


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
    with publishing(bare.dom0), serving(bare, stamp=unit), Disk.open(bare.guest, stamp=unit) as disk:
        assert disk.read(0, SIZE) == PATTERN
        disk.write(0, PATTERN[:4096])
        disk.flush()
        ours, theirs, counters = disk.latency(), the_backends(bare), disk.stats()
        assert ours is not None
        for latency in (ours, theirs):
            assert (latency.unit, latency.resolution_ns) == (unit, 1000 if unit == "us" else TICK_NS)
            assert latency.count + latency.operations["read"].refused == counters.requests
            assert [latency.operations[name].count for name in ("write", "flush", "discard")] == [1, 1, 0]
        assert set(reads(ours)) - set(reads(theirs)) == {"reaped"}, "the backend does not know it"
        assert ours.operations["read"].absent == theirs.operations["read"].absent == 0


def test_the_stages_of_every_operation_add_up(bare: World) -> None:
    bare.attach()
    with publishing(bare.dom0), serving(bare, stamp="us"), Disk.open(bare.guest, stamp="us") as disk:
        disk.read(0, SIZE)
        stages = reads(disk.latency())
    assert stages["total"].total == sum(stages[name].total for name in ("queued", "service", "reaped"))
    assert stages["service"].total == sum(stages[name].total for name in ("waited", "stored", "answered"))


def test_a_storage_that_takes_a_known_time(bare: World, storage: TimedStorage) -> None:
    """The storage measures itself, with the clock of the stamps: what is stored lies within a step of that, or above by
    what the Python around the storage takes, which `waited` and `answered` do not hide: they are in `service` too.
    """
    bare.attach()
    with publishing(bare.dom0), serving(bare, stamp="us"), Disk.open(bare.guest, stamp="us") as disk:
        for number in range(40):
            storage.wait = (number % 4) / 1000
            disk.read(0, 512)
        for stages in (reads(disk.latency()), reads(the_backends(bare))):
            assert stages["stored"].count == len(storage.took) == 40
            assert stages["stored"].total >= sum(storage.took) // 1000 - 40, "less than the storage took"
            for q in (0.25, 0.5, 0.75, 1.0):
                interval = stages["stored"].quantile(q)
                assert interval is not None
                exact = sorted(storage.took)[max(1, round(q * 40)) - 1] / 1000
                assert interval[1] >= exact, "the storage's own time is not above the interval"
