"""Our frontend on disks of stock backends in dom0, taken from dom0's own kernel and given back to it."""

from __future__ import annotations

import os
import random
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.xenhost.shell import run
from tests.xenhost.stock import PATTERN, SIZE, Stock, attached, open_disk, sha, sha_of
from xenpv.domain import Domain
from xenpv.errors import DeviceError, DiskError, UsageError

OTHER = random.Random(6).randbytes(1 << 20)

Until = Callable[..., None]


@pytest.fixture(scope="module")
def shared(kind: str, tmp_path_factory: pytest.TempPathFactory, until: Until) -> Iterator[Stock]:
    """xvdb, attached once for all tests of a kind."""
    image = tmp_path_factory.mktemp(kind) / "disk.img"
    image.write_bytes(PATTERN)
    with attached(kind, image, until) as stock:
        yield stock


@pytest.fixture
def stock(shared: Stock) -> Stock:
    """With the pattern on it, and in the kernel's hands."""
    assert shared.states() == "4 4", "an earlier test left it so"
    if shared.image.read_bytes() != PATTERN:
        with shared.device.open("r+b", buffering=0) as device:
            device.write(PATTERN)
            os.fsync(device)
    return shared


def kernel_reads(stock: Stock) -> bytes:
    """The disk through dom0's own blkfront, past its cache."""
    return subprocess.run(["dd", f"if={stock.device}", "bs=1M", "iflag=direct", "status=none"], capture_output=True,
                          check=True).stdout


def test_a_disk_of_the_kernel_s_is_not_taken_unasked(stock: Stock, domain: Domain) -> None:
    with pytest.raises(DeviceError, match=f"the kernel of this domain has it as {stock.device}.*--take"):
        open_disk(domain, stock.vdev)
    assert stock.states() == "4 4"


def test_a_mounted_disk_is_not_taken(stock: Stock, domain: Domain, tmp_path: Path) -> None:
    (tmp_path / "mnt").mkdir()
    run("mkfs.ext4", "-q", str(stock.device))
    run("mount", str(stock.device), str(tmp_path / "mnt"))
    try:
        with pytest.raises(DeviceError, match=f"{stock.device} is in use: unmount it"):
            open_disk(domain, stock.vdev, take=True)
    finally:
        run("umount", str(tmp_path / "mnt"))
    assert stock.states() == "4 4"


def test_all_of_it_is_read_and_the_kernel_gets_it_back(stock: Stock, domain: Domain) -> None:
    with open_disk(domain, stock.vdev, take=True) as disk:
        assert not stock.device.exists()
        assert (disk.size, disk.sector_size, disk.readonly) == (SIZE, 512, False)
        assert sha_of(disk) == sha(PATTERN)
        assert disk.read(SIZE - 512, 512) == PATTERN[-512:]
    assert stock.states() == "4 4"
    assert sha(kernel_reads(stock)) == sha(PATTERN)


def test_what_is_written_is_there(stock: Stock, domain: Domain) -> None:
    with open_disk(domain, stock.vdev, take=True) as disk:
        assert disk.features.flush
        disk.write(3 * 512, OTHER)
        disk.flush()
        assert disk.read(512, len(OTHER) + 4096) == PATTERN[512:1536] + OTHER + PATTERN[1536 + len(OTHER):][:3072]
    wanted = PATTERN[:1536] + OTHER + PATTERN[1536 + len(OTHER):]
    assert sha(kernel_reads(stock)) == sha(wanted)
    assert sha(stock.image.read_bytes()) == sha(wanted)


def test_what_the_kernel_wrote_is_read(stock: Stock, domain: Domain) -> None:
    """Also what it has written to its cache alone so far."""
    with stock.device.open("r+b", buffering=0) as device:
        device.write(OTHER)
        with open_disk(domain, stock.vdev, take=True) as disk:
            assert disk.read(0, len(OTHER)) == OTHER


def test_discard(stock: Stock, domain: Domain) -> None:
    with open_disk(domain, stock.vdev, take=True) as disk:
        if not disk.features.discard:
            pytest.skip(f"{stock.kind} does not offer discard for this disk")
        disk.discard(1 << 20, 2 << 20)
        disk.flush()
        assert disk.read(0, 1 << 20) == PATTERN[:1 << 20]
        assert disk.read(3 << 20, 1 << 20) == PATTERN[3 << 20:4 << 20]
    assert os.stat(stock.image).st_blocks * 512 <= SIZE - (2 << 20) + (64 << 10)


def test_a_read_only_disk(image: Path, until: Until, domain: Domain) -> None:
    """Of blkback alone: QEMU 7.2 fails on one ("Block node is read-only")."""
    with attached("blkback", image, until, vdev="xvdd", mode="r") as stock, open_disk(domain, stock.vdev, take=True) as disk:
        assert disk.readonly and sha_of(disk) == sha(PATTERN)
        with pytest.raises(DiskError, match="read-only"):
            disk.write(0, bytes(512))


def test_a_drive(image: Path, until: Until, domain: Domain) -> None:
    """Whether it is removable blkback asks its device, a loop device here, and not the toolstack's key."""
    with attached("blkback", image, until, vdev="xvdd", mode="r", cdrom=True) as stock:
        with open_disk(domain, stock.vdev, take=True) as disk:
            assert (disk.cdrom, disk.removable, disk.readonly) == (True, False, True)
            assert sha_of(disk) == sha(PATTERN)


@pytest.fixture
def removable(until: Until) -> Iterator[Path]:
    """A disk of dom0's that is removable, of the kernel's own making."""
    run("modprobe", "sd_mod")
    run("modprobe", "scsi_debug", "removable=1", f"dev_size_mb={SIZE >> 20}")
    found: list[Path] = []

    def there() -> bool:
        found[:] = Path("/sys/bus/pseudo/drivers/scsi_debug").glob("adapter*/host*/target*/*/block/*")
        return bool(found) and Path("/dev", found[0].name).is_block_device()

    try:
        until(there, "the disk of scsi_debug", 30)
        yield Path("/dev", found[0].name)
    finally:
        run("modprobe", "-r", "scsi_debug")


def test_a_removable_disk(removable: Path, until: Until, domain: Domain) -> None:
    with attached("blkback", removable, until, vdev="xvdd") as stock:
        with open_disk(domain, stock.vdev, take=True) as disk:
            assert (disk.cdrom, disk.removable, disk.readonly) == (False, True, False)
            disk.write(0, OTHER)
            disk.flush()
            assert disk.read(0, len(OTHER)) == OTHER


def test_sectors_of_4_kib(image: Path, until: Until, domain: Domain) -> None:
    with attached("blkback", image, until, vdev="xvdd", sector=4096) as stock:
        with open_disk(domain, stock.vdev, take=True) as disk:
            assert (disk.sector_size, disk.size) == (4096, SIZE)
            assert sha_of(disk) == sha(PATTERN)
            disk.write(4096, OTHER)
            assert disk.read(4096, len(OTHER)) == OTHER
            with pytest.raises(UsageError, match="whole sectors of 4096"):
                disk.read(512, 512)


@pytest.mark.parametrize("order, persistent, abi", [(0, False, 64), (4, True, 32)])
def test_what_can_be_negotiated(stock: Stock, domain: Domain, order: int, persistent: bool, abi: int) -> None:
    offered = int(subprocess.run(["xenstore-read", f"{stock.place.backend}/max-ring-page-order"], capture_output=True,
                                 text=True).stdout or 0)
    if order > offered:
        pytest.skip(f"{stock.kind} offers ring page orders up to {offered}")
    with open_disk(domain, stock.vdev, take=True, ring_order=order, persistent=persistent, abi=abi) as disk:
        assert disk.features.ring_order == order and not disk.features.flag
        assert disk.features.persistent is (persistent and stock.kind == "blkback")
        assert disk.read(0, SIZE) == PATTERN
        assert disk.stats().rescues == 0
    assert sha(kernel_reads(stock)) == sha(PATTERN)


@pytest.mark.parametrize("options, segments", [
    ({}, 256), ({"indirect": 0}, 0), ({"indirect": 40, "persistent": False}, 40),
    ({"ignore": ["feature-flush-cache", "feature-max-indirect-segments"]}, 0), ({"trusted": False}, 256)])
def test_each_feature_with_a_stock_backend(stock: Stock, domain: Domain, options: dict[str, Any], segments: int) -> None:
    if stock.kind == "qdisk":
        segments = 0  # QEMU knows no indirect requests
    with open_disk(domain, stock.vdev, take=True, **options) as disk:
        assert disk.features.max_segments == segments
        assert sha_of(disk) == sha(PATTERN)
        disk.write(4096, OTHER)
        assert disk.features.barrier is (stock.kind == "blkback")  # and flush() sends one where flushes are ignored
        before = stock.flushes()
        disk.flush()
        assert before is None or stock.flushes() == before + 1
        assert disk.read(0, SIZE) == PATTERN[:4096] + OTHER + PATTERN[4096 + len(OTHER):]
        assert (disk.stats().indirect > 0) is (segments > 0)
    assert sha(kernel_reads(stock)) == sha(PATTERN[:4096] + OTHER + PATTERN[4096 + len(OTHER):])


def test_several_queues(stock: Stock, domain: Domain) -> None:
    """As many as are offered: blkback offers one for each of dom0's CPUs, QEMU none at all."""
    offered = int(subprocess.run(["xenstore-read", f"{stock.place.backend}/multi-queue-max-queues"], capture_output=True,
                                 text=True).stdout or 1)
    part = len(OTHER) // 4
    with open_disk(domain, stock.vdev, take=True, queues=3) as disk:
        queues = min(3, offered)
        there = run("xenstore-ls", stock.place.frontend)
        assert disk.features.queues == queues
        assert ("multi-queue-num-queues" in there) is (queues > 1) and there.count("event-channel") == queues
        assert sha_of(disk) == sha(PATTERN)

        def write(number: int) -> None:
            disk.write(4096 + number * part, OTHER[number * part:(number + 1) * part])
            disk.flush()

        threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
        wanted = PATTERN[:4096] + OTHER + PATTERN[4096 + len(OTHER):]
        assert disk.read(0, SIZE) == wanted
        used = [counters.requests for counters in disk.queue_stats()]
        assert len(used) == queues and min(used) > 0 and disk.stats().rescues == 0
    assert stock.states() == "4 4"
    assert sha(kernel_reads(stock)) == sha(wanted)


def test_blkback_s_resize_is_followed(image: Path, until: Until, domain: Domain) -> None:
    with attached("blkback", image, until, vdev="xvdd") as stock, open_disk(domain, stock.vdev, take=True) as disk:
        with image.open("r+b") as file:
            file.truncate(SIZE + 4096)
        run("losetup", "-c", run("losetup", "-j", str(image)).partition(":")[0])

        def followed() -> bool:
            disk.read(0, 512)  # blkback looks at its device's size with each request
            return disk.size == SIZE + 4096

        until(followed, "the new size", 30)
        assert disk.read(SIZE, 4096) == bytes(4096)


def test_the_command(stock: Stock) -> None:
    refused = subprocess.run(["xenpv", "disk", "info", stock.vdev], capture_output=True, text=True)
    assert refused.returncode == 1 and refused.stderr.count("\n") == 1 and "--take" in refused.stderr
    copy = stock.image.with_name("copy.img")
    run("xenpv", "disk", "cp", "--take", stock.vdev, str(copy))
    assert sha(copy.read_bytes()) == sha(PATTERN)
    assert stock.states() == "4 4"
