"""Each feature of blkif, on and off at either end: what is agreed, and that every byte is right (docs/blkif.md)."""

from __future__ import annotations

import io
import random
import threading
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.backend_process import BackendProcess
from tests.support.world import World, new_world, serving
from xenpv.errors import DeviceError, DiskError, UsageError, XenpvError
from xenpv.wire.blkif import Op
from xenpv_backend.control import request
from xenpv_frontend.disk import Disk

SIZE = 2 << 20
PATTERN = random.Random(1).randbytes(SIZE)
LARGE = 256 * 1024


@pytest.fixture
def bare(tmp_path: Path) -> Iterator[World]:
    with new_world(tmp_path, PATTERN) as world:
        yield world


def exercise(disk: Disk) -> None:
    """Reads and writes of every size that makes another kind of request, and what makes them durable."""
    assert disk.read(0, SIZE) == PATTERN
    for offset, pages in ((0, 1), (1 << 16, 11), (1 << 17, 12), (1 << 18, 64), (1 << 20, 200)):
        length = pages * 4096
        disk.write(offset, PATTERN[-length:])
        disk.flush()
        assert disk.read(offset, length) == PATTERN[-length:]
    if disk.features.discard:
        disk.discard(8192, 4096)
        assert disk.read(8192, 4096) == bytes(4096)
    assert disk.stats().rescues == 0


BACKEND: dict[str, dict[str, Any]] = {
    "all": {}, "no indirect": {"max_indirect_segments": 0}, "few indirect": {"max_indirect_segments": 13},
    "more indirect": {"max_indirect_segments": 1024}, "no persistent": {"persistent": False},
    "no flush": {"flush": False}, "no barrier": {"barrier": False}, "no discard": {"discard": False},
    "one page": {"max_ring_page_order": 0}, "one queue": {"max_queues": 1}, "no flag": {"notify_flag": False},
    "few persistent": {"max_persistent_grants": 5}, "copy": {"data": "copy"}, "map": {"data": "map"},
    "map, io_uring": {"data": "map", "engine": "io_uring"},
    "4 KiB sectors": {"sector_size": 4096},
    "4 KiB sectors, direct requests": {"sector_size": 4096, "max_indirect_segments": 0},
    "threads": {"engine": "threads"}, "buffered": {"cache": "buffered"},
    "old": {"max_indirect_segments": 0, "persistent": False, "flush": False, "discard": False,
            "max_ring_page_order": 0, "max_queues": 1, "notify_flag": False},
}
FRONTEND: dict[str, dict[str, Any]] = {
    "all": {}, "no indirect": {"indirect": 0}, "few indirect": {"indirect": 13}, "two pages": {"indirect": 600},
    "no persistent": {"persistent": False}, "no flag": {"flag": False}, "32-bit": {"abi": 32}, "three queues": {"queues": 3},
    "barrier": {"ignore": ["feature-flush-cache"]}, "no discard": {"ignore": ["feature-discard"]},
    "old": {"indirect": 0, "persistent": False, "flag": False, "ring_order": 0, "abi": 32,
            "ignore": ["feature-flush-cache", "feature-discard"]},
}


# Each against all, and each against old.
PAIRS = [(back, front) for back in BACKEND for front in FRONTEND if {back, front} & {"all", "old"}]


@pytest.mark.parametrize("back, front", PAIRS)
def test_either_end_may_be_a_lesser_one(bare: World, back: str, front: str) -> None:
    bare.attach()
    with serving(bare.dom0, bare.run, **BACKEND[back]):
        with Disk.open(bare.guest, pool_bytes=4 << 20, **FRONTEND[front]) as disk:
            exercise(disk)
            assert disk.features.queues == min(BACKEND[back].get("max_queues", 4), FRONTEND[front].get("queues", 1))
            offered = BACKEND[back].get("max_indirect_segments", 256)
            wanted = FRONTEND[front].get("indirect", 256)
            assert disk.features.max_segments == min(offered, wanted)
            assert (disk.stats().indirect > 0) is (min(offered, wanted) > 11)


@pytest.mark.parametrize("persistent", [False, True])
def test_a_large_read_is_one_request(bare: World, persistent: bool) -> None:
    bare.attach()
    with serving(bare.dom0, bare.run), Disk.open(bare.guest, persistent=persistent) as disk:
        before = disk.stats().requests
        assert disk.read(4096, LARGE) == PATTERN[4096:4096 + LARGE]
        assert disk.stats().requests - before == 1
        with disk.batch(depth=2, block=LARGE) as batch:
            batch.exchange(Op.READ, array("Q", [0, 512]), at_least=2)
            assert [batch.buffer(slot) == PATTERN[sector * 512:][:LARGE]
                    for slot, sector in zip(batch.slots, batch.sectors, strict=True)] == [True, True]
        assert (disk.stats().requests - before, disk.stats().indirect) == (3, 3)


@pytest.mark.parametrize("persistent", [False, True])
def test_killed_with_large_requests_in_flight(bare: World, persistent: bool) -> None:
    """The successor finds the segments where the frontend put them, and answers each request once."""
    bare.attach(f"stuck:{bare.image}")
    with BackendProcess(bare.run, stuck=True) as first:
        with Disk.open(bare.guest, persistent=persistent) as disk:
            writer = threading.Thread(target=disk.write, args=(4096, PATTERN[:4 * LARGE]))
            writer.start()
            first.wait_for("stuck")
            first.kill()
            with BackendProcess(bare.run):
                writer.join()
                assert disk.read(0, SIZE) == PATTERN[:4096] + PATTERN[:4 * LARGE] + PATTERN[4096 + 4 * LARGE:]
                assert disk.stats().indirect == 4 + SIZE // LARGE


def test_killed_again_and_again_under_large_requests(bare: World, until: Callable[..., None]) -> None:
    """With a real engine, while reads and writes of 256 KiB are under way: every byte is right, whatever was done twice."""
    bare.attach()
    backend = BackendProcess(bare.run)
    rounds = [random.Random(number).randbytes(SIZE) for number in range(24)]
    try:
        with Disk.open(bare.guest) as disk:
            def work() -> None:
                for data in rounds:
                    disk.write_from(io.BytesIO(data))
                    seen.append(disk.read(0, SIZE) == data)

            seen: list[bool] = []
            worker = threading.Thread(target=work)
            worker.start()
            for _ in range(3):
                reached = disk.stats().requests + 25
                until(lambda: disk.stats().requests >= reached, "more requests")
                backend.kill()
                backend = BackendProcess(bare.run)
            worker.join()
            assert seen == [True] * len(rounds)
            assert disk.stats().indirect >= 2 * len(rounds) * SIZE // LARGE
    finally:
        backend.kill()
    assert bare.image.read_bytes() == rounds[-1]


def test_without_flush_a_barrier_makes_durable(bare: World) -> None:
    bare.attach()
    with serving(bare.dom0, bare.run, flush=False), Disk.open(bare.guest) as disk:
        assert (disk.features.flush, disk.features.barrier) == (False, True)
        disk.write(0, bytes(512))
        before = disk.stats().requests
        disk.flush()
        assert disk.stats().requests == before + 1


def test_a_disk_of_4_kib_sectors(bare: World) -> None:
    place = bare.attach()
    with serving(bare.dom0, bare.run, sector_size=4096), Disk.open(bare.guest) as disk:
        keys = {name: bare.dom0.store.read(f"{place.backend}/{name}") for name in ("sectors", "sector-size",
                                                                                   "physical-sector-size")}
        assert keys == {"sectors": b"%d" % (SIZE // 512), "sector-size": b"4096", "physical-sector-size": b"4096"}
        assert (disk.sector_size, disk.size) == (4096, SIZE)
        for offset, length in ((512, 4096), (0, 512), (4096, 6144)):
            with pytest.raises(UsageError, match="whole sectors of 4096 bytes"):
                disk.read(offset, length)
        with disk.open_raw() as raw:
            raw.seek(1000)
            assert raw.read(5000) == PATTERN[1000:6000]
        with pytest.raises(XenpvError, match="whole sectors"):
            request(bare.run, "resize", domid=place.frontend_domid, devid=place.devid, bytes=SIZE + 512)
        assert request(bare.run, "resize", domid=place.frontend_domid, devid=place.devid, bytes=SIZE + 4096) == {
            "bytes": SIZE + 4096}


def test_an_image_that_is_no_whole_4_kib_sectors(bare: World) -> None:
    place = bare.attach()
    with bare.image.open("r+b") as image:
        image.truncate(SIZE - 512)
    with serving(bare.dom0, bare.run, sector_size=4096):
        with pytest.raises(DeviceError):
            Disk.open(bare.guest, closing_patience=0.5, timeout=2).close()
        error = bare.dom0.store.read(f"/local/domain/0/error/backend/vbd/{place.frontend_domid}/{place.devid}/error")
    assert b"truncate -s %4096" in error


@pytest.mark.parametrize("offered", [True, False])
def test_secure_discard(bare: World, offered: bool) -> None:
    """Of storage in Python: no device here has one."""
    place = bare.attach("memory:1048576")
    with serving(bare.dom0, bare.run, discard_secure=offered), Disk.open(bare.guest) as disk:
        assert bare.dom0.store.read(f"{place.backend}/discard-secure") == (b"1" if offered else b"0")
        assert disk.features.discard_secure is offered
        disk.write(0, PATTERN[:8192])
        if not offered:
            with pytest.raises(DiskError, match="does not offer secure discard"):
                disk.discard(0, 4096, secure=True)
            return
        disk.discard(0, 4096, secure=True)
        assert disk.read(0, 8192) == bytes(4096) + PATTERN[4096:8192]


def test_an_image_has_no_secure_discard(bare: World) -> None:
    bare.attach()
    with serving(bare.dom0, bare.run), Disk.open(bare.guest) as disk:
        assert not disk.features.discard_secure


@pytest.mark.parametrize("nodes, info", [
    ({}, 0), ({"device_type": "cdrom", "writable": False}, 5), ({"removable": True}, 2),
    ({"device_type": "cdrom", "removable": True, "writable": False}, 7), ({"writable": False}, 4)])
def test_what_kind_of_disk_it_is(bare: World, nodes: dict[str, Any], info: int) -> None:
    place = bare.attach(**nodes)
    with serving(bare.dom0, bare.run), Disk.open(bare.guest) as disk:
        assert bare.dom0.store.read(f"{place.backend}/info") == b"%d" % info
        assert (disk.cdrom, disk.removable, disk.readonly) == (bool(info & 1), bool(info & 2), bool(info & 4))
        assert disk.read(0, 8192) == PATTERN[:8192]


@pytest.mark.parametrize("said, wanted, trusted", [(True, None, True), (False, None, False), (True, False, False),
                                                   (False, True, True)])
def test_a_backend_that_is_not_trusted(bare: World, said: bool, wanted: bool | None, trusted: bool) -> None:
    """What the caller holds is his own: the backend's page changes, and his copy does not."""
    bare.attach(trusted=said)
    with serving(bare.dom0, bare.run), Disk.open(bare.guest, trusted=wanted, pool_bytes=2 << 20) as disk:
        assert disk.trusted is trusted
        exercise(disk)
        now = disk.read(0, SIZE)
        pages = disk.reaper.the_pool().memory
        for chunk in disk.chunks(64 * 1024, 1, length=64 * 1024):
            before = bytes(chunk)
            assert before == now[:65536]
            for page in pages:
                page[:] = bytes(page.nbytes)
            assert (bytes(chunk) == before) is not trusted
        with disk.batch(depth=2, block=4096) as batch:
            batch.exchange(Op.READ, array("Q", [0, 8]), at_least=2)
            for page in pages:
                page[:] = bytes(page.nbytes)
            found = {batch.sectors[i]: bytes(batch.buffer(slot)) for i, slot in enumerate(batch.slots)}
            assert (found == {0: now[:4096], 8: now[4096:8192]}) is not trusted
            for slot in batch.next_slots(1):
                batch.buffer(slot)[:] = b"w" * 4096
            batch.exchange(Op.WRITE, array("Q", [16]), at_least=1)
        assert disk.read(8192, 4096) == b"w" * 4096


def test_what_the_backend_does_not_offer_is_not_sent(bare: World) -> None:
    bare.attach()
    with serving(bare.dom0, bare.run, flush=False, barrier=False, discard=False), Disk.open(bare.guest) as disk:
        before = disk.stats().requests
        disk.flush()
        with pytest.raises(DiskError, match="does not offer discard"):
            disk.discard(0, 4096)
        assert disk.stats().requests == before
