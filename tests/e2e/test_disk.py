"""`Disk` against the backend, over the emulated Xen, with what both hold counted from outside."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import sys
import threading
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.emulated import counts
from tests.support.raw_frontend import DEVID
from tests.support.world import World, new_world, serving
from xenpv.errors import DeviceError, DiskError
from xenpv.wire.blkif import Op
from xenpv_backend.control import request
from xenpv_frontend.disk import Disk

Until = Callable[..., None]
SIZE = 2 << 20
PATTERN = random.Random(1).randbytes(SIZE)


@pytest.fixture
def bare(tmp_path: Path) -> Iterator[World]:
    """Nobody serves the image yet."""
    with new_world(tmp_path, PATTERN) as made:
        yield made


@pytest.fixture
def world(bare: World) -> Iterator[World]:
    with serving(bare.dom0, bare.run):
        yield bare


@pytest.mark.parametrize("flag", [False, True])
@pytest.mark.parametrize("persistent", [False, True])
@pytest.mark.parametrize("abi", [32, 64])
@pytest.mark.parametrize("order", range(5))
def test_every_byte_is_right(world: World, flag: bool, persistent: bool, abi: int, order: int) -> None:
    world.attach()
    with Disk.open(world.guest, flag=flag, persistent=persistent, abi=abi, ring_order=order) as disk:
        assert (disk.size, disk.readonly, disk.features.flag) == (SIZE, False, flag)
        assert disk.read(0, SIZE) == PATTERN
        disk.write(1536, PATTERN[:300 * 512])
        disk.flush()
        assert disk.read(1024, 1024) == PATTERN[1024:1536] + PATTERN[:512]
        assert disk.stats().rescues == 0
    assert world.image.read_bytes() == PATTERN[:1536] + PATTERN[:300 * 512] + PATTERN[1536 + 300 * 512:]


def test_discard(world: World) -> None:
    world.attach()
    with Disk.open(world.guest) as disk:
        if not disk.features.discard:
            pytest.skip("the file system of the tests' directory punches no holes")
        disk.discard(4096, 8192)
        assert disk.read(0, 16384) == PATTERN[:4096] + bytes(8192) + PATTERN[12288:16384]


def test_a_read_only_disk_is_refused_here_and_there(world: World) -> None:
    world.attach(writable=False)
    with Disk.open(world.guest) as disk:
        assert disk.readonly
        with pytest.raises(DiskError, match="read-only"):
            disk.write(0, bytes(512))
        # Past the check on this side, the backend's own stands in the data path.
        for op, length in ((Op.WRITE, 512), (Op.WRITE, 200 * 1024)):
            with pytest.raises(DiskError, match="answered with an error"):
                disk.transfer(op, 0, memoryview(bytes(length)))
        assert disk.read(0, 4096) == PATTERN[:4096]
    assert world.image.read_bytes() == PATTERN


def test_two_disks_at_once(world: World, tmp_path: Path) -> None:
    other = tmp_path / "other.img"
    other.write_bytes(PATTERN[::-1])
    world.attach()
    world.attach(devid=DEVID + 16, params=other, writable=False)
    with Disk.open(world.guest, "xvda") as first, Disk.open(world.guest, "xvdb") as second:
        digests = [hashlib.sha256() for _ in range(2)]
        for one, two in zip(first.chunks(65536), second.chunks(65536), strict=True):
            digests[0].update(one)
            digests[1].update(two)
    wanted = [hashlib.sha256(data).digest() for data in (PATTERN, PATTERN[::-1])]
    assert [digest.digest() for digest in digests] == wanted


def test_threads(world: World) -> None:
    world.attach()
    wrong: list[int] = []
    with Disk.open(world.guest, pool_bytes=256 * 1024) as disk:
        def work(number: int) -> None:
            chosen = random.Random(number)
            for _ in range(200):
                at = chosen.randrange(0, SIZE - 65536, 512)
                length = chosen.randrange(512, 65536, 512)
                if disk.read(at, length) != PATTERN[at:at + length]:
                    wrong.append(at)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert not wrong and disk.stats().rescues == 0


@pytest.mark.parametrize("flag", [False, True])
def test_batches(world: World, flag: bool) -> None:
    world.attach()
    chosen = random.Random(2)
    sectors = array("Q", (chosen.randrange(SIZE // 512 - 8) for _ in range(4000)))
    seen, at = 0, 0
    with Disk.open(world.guest, flag=flag) as disk, disk.batch(32, 4096) as batch:
        while seen < len(sectors):
            more = min(batch.free, len(sectors) - at)
            seen += batch.exchange(Op.READ, sectors[at:at + more], at_least=1)
            at += more
            for slot, sector in zip(batch.slots, batch.sectors):
                assert batch.buffer(slot) == PATTERN[sector * 512:sector * 512 + 4096]
        assert disk.stats().rescues == 0
    assert seen == len(sectors)


def test_beyond_the_end_in_a_batch(world: World) -> None:
    world.attach()
    with Disk.open(world.guest) as disk, disk.batch(4, 4096) as batch:
        with pytest.raises(DiskError):
            batch.exchange(Op.READ, array("Q", [SIZE // 512]), at_least=1)
        assert batch.exchange(Op.READ, array("Q", [0]), at_least=1) == 1


def test_a_backend_that_is_replaced_goes_unnoticed(bare: World) -> None:
    bare.attach()
    with serving(bare.dom0, bare.run):
        disk = Disk.open(bare.guest)
        disk.write(0, PATTERN[4096:8192])
    with disk:
        read: list[bytes] = []
        waiting = threading.Thread(target=lambda: read.append(disk.read(0, 65536)))
        waiting.start()
        with serving(bare.dom0, bare.run):
            waiting.join(20)
            assert read == [PATTERN[4096:8192] + PATTERN[4096:65536]]
            disk.close()


def test_a_resize_is_seen(world: World, until: Until) -> None:
    place = world.attach()
    with Disk.open(world.guest) as disk:
        os.truncate(world.image, SIZE + 65536)
        request(world.run, "resize", domid=place.frontend_domid, devid=place.devid)
        until(lambda: disk.size == SIZE + 65536, "the new size")
        assert disk.read(SIZE, 65536) == bytes(65536)


def test_a_disk_that_is_detached_under_a_reader(world: World) -> None:
    place = world.attach()
    with Disk.open(world.guest) as disk:
        disk.read(0, 512)
        world.dom0.store.write_all({f"{place.backend}/online": "0", f"{place.backend}/state": "5"})
        with pytest.raises(DeviceError):
            while True:
                disk.read(0, 512)


TURNS = """
import os, sys
from array import array
from xenpv.hypervisors import open_domain
from xenpv.wire.blkif import Op
from xenpv_frontend.disk import Disk

def turn():
    with Disk.open(domain, queues=int(sys.argv[2])) as disk:
        disk.read(0, disk.size)
        with disk.batch(8) as batch:
            batch.exchange(Op.READ, array("Q", range(8)))

with open_domain(sys.argv[1]) as domain:
    turn()  # what is made once: the store's connection, a segment kept for the next time
    print("one", flush=True)
    sys.stdin.readline()
    for _ in range(5):
        turn()
    print("six", flush=True)
    sys.stdin.readline()
"""


@pytest.mark.parametrize("queues", [1, 4])
def test_nothing_is_left_behind(world: World, until: Until, queues: int) -> None:
    place = world.attach()
    child = subprocess.Popen([sys.executable, "-c", TURNS, world.guest.uri, str(queues)], stdin=subprocess.PIPE,
                             stdout=subprocess.PIPE, text=True)

    def left() -> list[object]:
        """What the guest's process and both domains hold, once the backend has let go too.

        Segments are the guest's to keep for the next grant, a few as the backend's unmapping falls; no more.
        """
        until(lambda: world.guest.store.read(f"{place.backend}/state") == b"6", "the backend closes")
        until(lambda: counts(world.run, 0)["connections"] == 1, "its queue's connection ends")
        process = Path(f"/proc/{child.pid}")
        held = [counts(world.run, domid) for domid in (0, world.guest.domid)]
        assert held[1].pop("segments") <= 3
        return [len(list((process / name).iterdir())) for name in ("fd", "task")] + held

    try:
        assert child.stdin is not None and child.stdout is not None
        assert child.stdout.readline() == "one\n"
        before = left()
        child.stdin.write("\n")
        child.stdin.flush()
        assert child.stdout.readline() == "six\n"
        assert left() == before
        child.communicate("\n", timeout=20)
    finally:
        child.kill()
        child.communicate()


READER = """
import sys
from xenpv.hypervisors import open_domain
from xenpv_frontend.disk import Disk
with open_domain(sys.argv[1]) as domain, Disk.open(domain) as disk:
    print("open", flush=True)
    while True:
        disk.read(0, 65536)
"""


def test_ctrl_c_in_the_middle_closes_the_disk(world: World, until: Until) -> None:
    place = world.attach()
    before = counts(world.run, world.guest.domid)
    child = subprocess.Popen([sys.executable, "-c", READER, world.guest.uri], stdout=subprocess.PIPE, text=True,
                             stderr=subprocess.PIPE)
    try:
        assert child.stdout is not None and child.stdout.readline() == "open\n"
        child.send_signal(signal.SIGINT)
        _, errors = child.communicate(timeout=20)
    finally:
        child.kill()
    assert errors.strip().endswith("KeyboardInterrupt")
    assert world.guest.store.read(f"{place.frontend}/state") == b"6"
    until(lambda: counts(world.run, world.guest.domid) == before, "what the process had is given back")
