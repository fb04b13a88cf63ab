"""A `Disk` with several queues against the backend, over the emulated Xen: every byte, every queue, kills, what is seen."""

from __future__ import annotations

import io
import json
import random
import threading
from array import array
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from tests.e2e.test_blkif_features import SIZE, bare, exercise
from tests.e2e.test_latency import give
from tests.e2e.test_stamps import publishing
from tests.support.backend_process import BackendProcess
from tests.support.raw_frontend import DEVID
from tests.support.world import World, serving
from xenpv.latency import read_disk
from xenpv.wire.blkif import Op
from xenpv_backend.daemon import Backend
from xenpv_backend.storage.base import StorageRequest
from xenpv_backend.storage.memory import MemoryStorage
from xenpv_frontend.disk import Disk
from xenpv_tools.cli import main

__all__ = ["bare"]

Until = Callable[..., None]
PART = SIZE // 8


def served(backend: Backend) -> list[int]:
    """Requests on each queue of the one disk, as the backend counts them."""
    device, = backend._list({})["devices"]
    return [sum(counters["requests"].values()) for counters in device["counters"]]


def in_threads(count: int, work: Callable[[int], object]) -> None:
    threads = [threading.Thread(target=work, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)


@pytest.mark.parametrize("queues", [2, 3, 4])
@pytest.mark.parametrize("options", [
    {}, {"data": "copy"}, {"data": "map", "engine": "io_uring"}, {"engine": "threads"}, {"persistent": False},
    {"notify_flag": False}, {"max_persistent_grants": 5}, {"max_ring_page_order": 0, "max_indirect_segments": 0}])
def test_every_byte_is_right_and_every_queue_is_used(bare: World, queues: int, options: dict[str, Any]) -> None:
    bare.attach()
    with serving(bare.dom0, bare.run, **options) as backend:
        with Disk.open(bare.guest, queues=queues, pool_bytes=4 << 20) as disk:
            exercise(disk)
            rounds = [random.Random(number).randbytes(PART) for number in range(8)]
            wrong: list[int] = []

            def work(number: int) -> None:
                at = number * PART
                disk.write(at, rounds[number])
                disk.flush()
                with disk.batch(8, 4096) as batch:
                    sectors = range(at // 512, (at + PART) // 512, 8)
                    for first in range(0, len(sectors), 8):
                        batch.exchange(Op.READ, array("Q", sectors[first:first + 8]), at_least=8)
                        wrong.extend(sector for slot, sector in zip(batch.slots, batch.sectors, strict=True)
                                     if batch.buffer(slot) != rounds[number][sector * 512 - at:][:4096])

            in_threads(8, work)
            assert not wrong and disk.read(0, SIZE) == b"".join(rounds)
            assert b"".join(bytes(chunk) for chunk in disk.chunks()) == b"".join(rounds)
            assert disk.features.queues == queues
            ours = [counters.requests for counters in disk.queue_stats()]
            assert ours == served(backend) and len(ours) == queues and min(ours) > 0
            assert sum(ours) == disk.stats().requests and disk.stats().rescues == 0
    assert bare.image.read_bytes() == b"".join(rounds)


def test_a_backend_of_one_queue_gets_the_plain_keys(bare: World) -> None:
    place = bare.attach()
    with serving(bare.dom0, bare.run, max_queues=1) as backend, Disk.open(bare.guest, queues=4) as disk:
        names = bare.dom0.store.list(place.frontend)
        assert {"ring-ref", "event-channel"} <= set(names)
        assert not [name for name in names if "queue" in name]
        exercise(disk)
        assert disk.features.queues == 1 and len(served(backend)) == 1


@pytest.mark.parametrize("params", ["memory:2097152", "log:{}", "readonly:{}"])
def test_storage_in_python(bare: World, params: str) -> None:
    bare.attach(params.format(bare.image), writable="readonly" not in params)
    with serving(bare.dom0, bare.run) as backend, Disk.open(bare.guest, queues=3, pool_bytes=4 << 20) as disk:
        wanted = disk.read(0, SIZE) if disk.readonly else random.Random(9).randbytes(SIZE)
        if not disk.readonly:
            disk.write_from(io.BytesIO(wanted))
        found: list[bool] = []
        in_threads(3, lambda number: found.append(b"".join(bytes(chunk) for chunk in disk.chunks(65536)) == wanted))
        assert found == [True] * 3 and min(served(backend)) > 0


class Cached(MemoryStorage):
    """Knows what it would lose if the power went: writes since the last flush began."""

    def __init__(self) -> None:
        super().__init__(SIZE)
        self.lost: list[int] = []

    def handle(self, requests: Sequence[StorageRequest]) -> None:
        for request in requests:
            super().handle([request])
            if request.op == Op.WRITE:
                self.lost.append(request.sector)
            elif request.op == Op.FLUSH_DISKCACHE:
                self.lost.clear()


def test_a_flush_covers_what_was_answered_on_every_queue(bare: World, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = Cached()
    monkeypatch.setattr("xenpv_backend.device.open_storage", lambda *args, **more: storage)
    bare.attach()
    with serving(bare.dom0, bare.run) as backend, Disk.open(bare.guest, queues=4) as disk:
        for turn in range(4):
            in_threads(8, lambda number, turn=turn: disk.write(number * 4096, bytes([turn]) * 4096))  # type: ignore[misc]
            assert len(storage.lost) == 8 and min(served(backend)) > turn
            disk.flush()
            assert storage.lost == []


@pytest.mark.parametrize("queues", [2, 4])
def test_killed_again_and_again_under_load(bare: World, queues: int, until: Until) -> None:
    """Each queue is taken over with what is in flight on it: every byte is right, and no call fails."""
    bare.attach()
    backend = BackendProcess(bare.run)
    rounds = [random.Random(number).randbytes(PART) for number in range(4)]
    enough = threading.Event()
    wrong: list[int] = []
    try:
        with Disk.open(bare.guest, queues=queues) as disk:
            def work(number: int) -> None:
                while not enough.is_set():
                    for data in rounds:
                        disk.write(number * PART, data)
                        if disk.read(number * PART, PART) != data:
                            wrong.append(number)

            workers = [threading.Thread(target=work, args=(number,)) for number in range(4)]
            for worker in workers:
                worker.start()
            try:
                for _ in range(3):
                    reached = disk.stats().requests + 10
                    until(lambda: disk.stats().requests >= reached, "more requests")
                    backend.kill()
                    backend = BackendProcess(bare.run)
            finally:
                enough.set()
            for worker in workers:
                worker.join(60)
            assert not wrong and disk.reaper.failure is None
            assert min(counters.requests for counters in disk.queue_stats()) > 0
            assert disk.read(0, 4 * PART) == rounds[-1] * 4
    finally:
        backend.kill()


def test_a_successor_answers_what_was_in_flight_on_each_queue_once(bare: World, until: Until) -> None:
    bare.attach(f"stuck:{bare.image}")
    with BackendProcess(bare.run, stuck=True) as first, Disk.open(bare.guest, queues=4, pool_bytes=4 << 20) as disk:
        data = random.Random(3).randbytes(SIZE)
        writers = [threading.Thread(target=disk.write, args=(number * PART, data[number * PART:][:PART]), daemon=True)
                   for number in range(8)]
        for writer in writers:
            writer.start()
        first.wait_for("stuck")
        until(lambda: all(len(reaper._pieces) == 2 for reaper in disk.reaper.each()), "two writes on each queue")
        first.kill()
        with BackendProcess(bare.run):
            for writer in writers:
                writer.join(60)
            assert disk.read(0, SIZE) == data
            assert [counters.errors for counters in disk.queue_stats()] == [0] * 4
            disk.close()


def shown(world: World, capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    """What a command shows, in JSON."""
    capsys.readouterr()
    assert main(["--hypervisor", f"emulated:{world.run}", *words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_what_is_shown_of_each_queue(bare: World, capsys: pytest.CaptureFixture[str]) -> None:
    """`ring show` and `latency` have all of them, and so has the disk's own latency."""
    guest = bare.guest.domid
    with publishing(bare.dom0), serving(bare.dom0, bare.run, stamp="tick"):
        give(bare)
        with Disk.open(bare.guest, queues=3, stamp="tick") as disk:
            for _ in disk.chunks(65536):
                pass
            requests = [counters.requests for counters in disk.queue_stats()]
            rings = shown(bare, capsys, "ring", "show", str(guest), "xvda")
            assert [ring["rsp_prod"] for ring in rings] == requests and min(requests) > 0
            latency = shown(bare, capsys, "latency", str(guest))
            theirs, ours = read_disk(bare.run, guest, DEVID), disk.latency()
            assert theirs is not None and ours is not None
            assert theirs.count == ours.count == sum(requests) == len(disk.samples())
            assert latency[0]["latency"]["operations"]["read"]["count"] == sum(requests)
