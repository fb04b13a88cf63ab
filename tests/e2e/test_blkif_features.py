"""Each feature of blkif, on and off at either end: what is agreed, and that every byte is right (docs/blkif.md)."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.backend_process import BackendProcess
from tests.support.world import World, new_world, serving
from xenpv.errors import DiskError
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
    "threads": {"engine": "threads"}, "buffered": {"cache": "buffered"},
    "old": {"max_indirect_segments": 0, "persistent": False, "flush": False, "discard": False,
            "max_ring_page_order": 0, "max_queues": 1, "notify_flag": False},
}
FRONTEND: dict[str, dict[str, Any]] = {
    "all": {}, "no indirect": {"indirect": 0}, "few indirect": {"indirect": 13}, "two pages": {"indirect": 600},
    "no persistent": {"persistent": False}, "no flag": {"flag": False}, "32-bit": {"abi": 32},
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
            batch.exchange(0, memoryview(b"\0" * 8 + (512).to_bytes(8, "little")).cast("Q"), at_least=2)
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
                assert (disk.stats().rescues, disk.stats().indirect) == (0, 4 + SIZE // LARGE)


def test_without_flush_a_barrier_makes_durable(bare: World) -> None:
    bare.attach()
    with serving(bare.dom0, bare.run, flush=False), Disk.open(bare.guest) as disk:
        assert (disk.features.flush, disk.features.barrier) == (False, True)
        disk.write(0, bytes(512))
        before = disk.stats().requests
        disk.flush()
        assert disk.stats().requests == before + 1


def test_what_the_backend_does_not_offer_is_not_sent(bare: World) -> None:
    bare.attach()
    with serving(bare.dom0, bare.run, flush=False, barrier=False, discard=False), Disk.open(bare.guest) as disk:
        before = disk.stats().requests
        disk.flush()
        with pytest.raises(DiskError, match="does not offer discard"):
            disk.discard(0, 4096)
        assert disk.stats().requests == before
