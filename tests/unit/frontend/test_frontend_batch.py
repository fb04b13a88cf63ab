"""Batches: many I/Os in flight, strided columns, and what goes wrong among them."""

from __future__ import annotations

import random
import threading
from array import array
from collections.abc import Callable

import pytest

from tests.support.fake_backend import FakeBackend
from xenpv.errors import ClosedError, DeviceError, DiskError, UsageError
from xenpv.wire.blkif import Op, Request, Response, Status
from xenpv.xenbus import BackendAdverts, DiskFacts
from xenpv_frontend.batch import Batch
from xenpv_frontend.disk import Disk

Open = Callable[..., Disk]
NOTHING = array("Q")


def matches(batch: Batch, backend: FakeBackend) -> bool:
    return all(bytes(batch.buffer(slot)) == backend.data[sector * 512:sector * 512 + batch.block]
               for slot, sector in zip(batch.slots, batch.sectors))


@pytest.mark.parametrize("depth, block", [(1, 512), (7, 4096), (32, 4096), (3, 131072)])
def test_reads_in_any_order(backend: FakeBackend, open_disk: Open, depth: int, block: int) -> None:
    sectors = array("Q", (random.Random(depth).randrange(0, 2048 - 256) for _ in range(10 * depth)))
    seen, at = 0, 0
    with open_disk().batch(depth, block) as batch:
        while seen < len(sectors):
            more = min(batch.free, len(sectors) - at)
            seen += batch.exchange(Op.READ, sectors[at:at + more], at_least=1)
            at += more
            assert matches(batch, backend)
        assert batch.in_flight == 0 and batch.free == depth


def test_writes_of_the_slots_that_come_next(backend: FakeBackend, open_disk: Open) -> None:
    with open_disk().batch(4, 512) as batch:
        for start in (0, 4, 8):
            for number, slot in enumerate(batch.next_slots(3)):
                batch.buffer(slot)[:] = bytes([start + number]) * 512
            assert batch.exchange(Op.WRITE, array("Q", range(start, start + 3)), at_least=3) == 3
    assert [backend.data[sector * 512] for sector in (0, 1, 2, 4, 5, 6, 8, 9, 10)] == [0, 1, 2, 4, 5, 6, 8, 9, 10]


def test_an_error_leaves_the_batch_and_the_disk_usable(backend: FakeBackend, open_disk: Open) -> None:
    def answer(request: Request, response: Response) -> Response:
        bad = request.sector_number == 16
        return Response(response.id, response.operation, Status.ERROR) if bad else response

    backend.answer = answer
    disk = open_disk()
    with disk.batch(8, 4096) as batch:
        with pytest.raises(DiskError, match="read of 4096 bytes at 8192"):
            batch.exchange(Op.READ, array("Q", range(0, 64, 8)), at_least=8)
        assert batch.count == 8 and batch.in_flight == 0
        assert batch.exchange(Op.READ, array("Q", [0, 8]), at_least=2) == 2 and matches(batch, backend)
    assert disk.read(0, 512) == backend.data[:512] and disk.reaper.the_pool().free == 256


def test_more_than_there_are_slots(open_disk: Open) -> None:
    with open_disk().batch(4) as batch:
        with pytest.raises(UsageError, match="4 slots are free"):
            batch.exchange(Op.READ, array("Q", range(5)))
        with pytest.raises(UsageError):
            batch.next_slots(5)


@pytest.mark.parametrize("depth, block", [(0, 4096), (1, 0), (1, 100), (1, 2 << 20), (1000, 4096)])
def test_batches_that_cannot_be(open_disk: Open, depth: int, block: int) -> None:
    disk = open_disk()
    with pytest.raises(UsageError):
        disk.batch(depth, block)
    assert disk.reaper.the_pool().free == 256


def test_nothing_at_all_brings_nothing(open_disk: Open) -> None:
    with open_disk().batch(4) as batch:
        assert batch.exchange(Op.READ, NOTHING, at_least=1) == 0 and batch.free == 4


def test_what_comes_in_parts_is_told_together(backend: FakeBackend, open_disk: Open) -> None:
    """The first of three is failed before the others are done, and still said to have failed with them."""
    def answer(request: Request, response: Response) -> Response | None:
        return Response(response.id, response.operation, Status.ERROR) if request.sector_number == 16 else None

    def interrupt_and_release() -> None:
        backend.wait_requests(3)
        for _ in range(10):
            disk.stats()  # whoever waits in the core comes out for it, with what there is
        backend.release()

    backend.answer = answer
    disk = open_disk()
    with disk.batch(4, 512) as batch:
        later = threading.Thread(target=interrupt_and_release)
        later.start()
        with pytest.raises(DiskError, match="read of 512 bytes at 8192"):
            batch.exchange(Op.READ, array("Q", [16, 17, 18]), at_least=3)
        later.join()
        assert sorted(batch.sectors) == [16, 17, 18] and batch.free == 4


def test_only_operations_with_a_range(open_disk: Open) -> None:
    with open_disk().batch(4) as batch, pytest.raises(UsageError):
        batch.exchange(Op.FLUSH_DISKCACHE, array("Q", [0]))


def test_sectors_of_another_format(open_disk: Open) -> None:
    with open_disk().batch(4) as batch:
        with pytest.raises(UsageError, match="64-bit"):
            batch.exchange(Op.READ, array("I", [0]))  # type: ignore[arg-type]
        assert batch.free == 4


def test_a_read_only_disk(backend: FakeBackend, open_disk: Open) -> None:
    backend.facts = DiskFacts(2048, info=4)
    with open_disk().batch(4) as batch, pytest.raises(DiskError, match="read-only"):
        batch.exchange(Op.WRITE, array("Q", [0]))


def test_a_time_limit(backend: FakeBackend, open_disk: Open) -> None:
    backend.answer = lambda request, response: None
    with open_disk().batch(4) as batch:
        assert batch.exchange(Op.READ, array("Q", [0, 8]), at_least=1, timeout=0.01) == 0
        backend.wait_requests(2)
        backend.release()
        assert batch.exchange(Op.READ, NOTHING, at_least=5) == 2 and matches(batch, backend)


def test_others_use_the_disk_beside_it(backend: FakeBackend, open_disk: Open) -> None:
    disk = open_disk()
    stop = threading.Event()
    wrong: list[int] = []

    def read() -> None:
        while not stop.is_set():
            if disk.read(8192, 8192) != backend.data[8192:16384]:
                wrong.append(1)

    threads = [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        with disk.batch(16, 4096) as batch:
            for turn in range(60):
                batch.exchange(Op.READ, array("Q", range(turn, turn + batch.free)), at_least=3)
                assert matches(batch, backend)
    finally:
        stop.set()
        for thread in threads:
            thread.join(20)
    assert not wrong and disk.reaper.failure is None


def test_close_waits_for_what_is_in_flight(backend: FakeBackend, open_disk: Open) -> None:
    disk = open_disk()
    batch = disk.batch(4)
    batch.exchange(Op.READ, array("Q", range(4)))
    batch.close()
    batch.close()
    assert disk.reaper.the_pool().free == 256
    with pytest.raises(ClosedError):
        batch.exchange(Op.READ, NOTHING)
    with pytest.raises(ClosedError):
        batch.buffer(0)


def test_close_without_answers_is_bounded_and_keeps_the_pages(backend: FakeBackend, open_disk: Open,
                                                              monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xenpv_frontend.batch.CLOSE_SECONDS", 0.05)
    monkeypatch.setattr("xenpv_frontend.device.DRAIN_SECONDS", 0.05)
    backend.answer = lambda request, response: None
    disk = open_disk()
    batch = disk.batch(4)
    batch.exchange(Op.READ, array("Q", range(2)))
    backend.wait_requests(2)
    with pytest.raises(DeviceError, match="2 I/Os are not answered"):
        batch.close()
    assert disk.reaper.the_pool().free == 252
    disk.close()


def test_a_disk_that_is_disconnected_under_it(backend: FakeBackend, open_disk: Open) -> None:
    backend.answer = lambda request, response: None
    with open_disk().batch(4) as batch:
        batch.exchange(Op.READ, array("Q", range(2)))
        backend.wait_requests(2)
        backend.set("state", "6")
        with pytest.raises(DeviceError):
            batch.exchange(Op.READ, NOTHING, at_least=1)


def test_what_was_not_answered_is_sent_again_on_a_new_ring(backend: FakeBackend, open_disk: Open,
                                                           monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xenpv_frontend.device.DRAIN_SECONDS", 0.05)
    disk = open_disk()
    with disk.batch(8, 512) as batch:
        # Churn first, with sector 3 never answered, so that the journal is shortened around it.
        backend.answer = lambda request, response: None if request.sector_number == 3 else response
        batch.exchange(Op.READ, array("Q", [3]))
        for turn in range(60):
            assert batch.exchange(Op.READ, array("Q", [100 + turn, 200 + turn]), at_least=2) == 2
        backend.answer = lambda request, response: None
        batch.exchange(Op.READ, array("Q", [5, 6]))
        backend.wait_requests(123)
        backend.answer = lambda request, response: response
        with backend._lock:
            backend.withheld.clear()
            backend.adverts = BackendAdverts()
            backend.store.remove(f"{backend.place.backend}/feature-xenpv-notify-flag")
            backend.set("state", "4")
        assert batch.exchange(Op.READ, NOTHING, at_least=3) == 3
        assert sorted(batch.sectors) == [3, 5, 6] and matches(batch, backend) and batch.free == 8
    assert backend.attached == 2
