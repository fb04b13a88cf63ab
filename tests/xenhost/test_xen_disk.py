"""Our backend and our frontend in one domain of a real Xen: every byte through real grants and event channels."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.raw_frontend import attach
from tests.support.world import serving
from xenpv.domain import Domain
from xenpv.hypervisors import open_domain
from xenpv.xenbus import VbdPlace
from xenpv_frontend.disk import Disk

SIZE = 1 << 20
PATTERN = random.Random(1).randbytes(SIZE)
DEVID = 51712
PATIENCE = 60
"""Seconds to connect: under emulation udev alone takes ten when a disk comes."""


@pytest.fixture(scope="module", autouse=True)
def kernel_leaves_disks_alone() -> Iterator[None]:
    """The kernel's own ends take no vbd that comes meanwhile: both of the test's ends are in one domain."""
    switches = [Path("/sys/bus", bus, "drivers_autoprobe") for bus in ("xen", "xen-backend")]
    for switch in switches:
        switch.write_text("0")
    yield
    for switch in switches:
        switch.write_text("1")


@contextmanager
def attached(dom0: Domain, image: Path) -> Iterator[VbdPlace]:
    """A vbd of dom0 for dom0, and none of its nodes afterwards."""
    place = attach(dom0.store, 0, str(image), devid=DEVID, script="block-xenpv", handover=True)
    try:
        yield place
    finally:
        for path in (place.frontend, place.backend):
            dom0.store.remove(path)


@contextmanager
def backend(directory: Path, **options: object) -> Iterator[Domain]:
    """A backend in a thread; its domain."""
    with open_domain("xen:") as dom0, serving(dom0, directory, **options):
        yield dom0


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(PATTERN)
    return path


@pytest.mark.parametrize("persistent", [False, True])
@pytest.mark.parametrize("flag", [False, True])
@pytest.mark.parametrize("engine", ["io_uring", "threads"])
def test_every_byte_is_right(image: Path, tmp_path: Path, persistent: bool, flag: bool, engine: str) -> None:
    with (backend(tmp_path / "run", engine=engine, persistent=persistent) as dom0, attached(dom0, image),
          open_domain("xen:") as guest):
        with Disk.open(guest, DEVID, flag=flag, persistent=persistent, timeout=PATIENCE) as disk:
            assert disk.read(0, SIZE) == PATTERN
            disk.write(1536, PATTERN[:300 * 512])
            disk.flush()
            assert disk.read(1024, 1024) == PATTERN[1024:1536] + PATTERN[:512]
    assert image.read_bytes() == PATTERN[:1536] + PATTERN[:300 * 512] + PATTERN[1536 + 300 * 512:]


@pytest.mark.parametrize("data", ["copy", "map"])
def test_several_queues(image: Path, tmp_path: Path, data: str) -> None:
    with backend(tmp_path / "run", data=data) as dom0, attached(dom0, image), open_domain("xen:") as guest:
        with Disk.open(guest, DEVID, queues=4, timeout=PATIENCE) as disk:
            assert disk.features.queues == 4 and disk.read(0, SIZE) == PATTERN
            threads = [threading.Thread(target=disk.write, args=(at, PATTERN[-65536:])) for at in range(0, SIZE, SIZE // 4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(PATIENCE)
            disk.flush()
            assert min(counters.requests for counters in disk.queue_stats()) > 0 and disk.stats().rescues == 0
    for at in range(0, SIZE, SIZE // 4):
        assert image.read_bytes()[at:at + SIZE // 4] == PATTERN[-65536:] + PATTERN[at + 65536:at + SIZE // 4]


@pytest.mark.parametrize("queues", [1, 4])
def test_nothing_leaks(image: Path, tmp_path: Path, queues: int) -> None:
    """Descriptors and mappings of the kernel's devices, counted from outside, are what they were."""
    def held() -> tuple[int, int]:
        fds = [os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")
               if os.path.islink(f"/proc/self/fd/{fd}")]
        maps = Path("/proc/self/maps").read_text().splitlines()
        return sum(fd.startswith("/dev/xen/") for fd in fds), sum("/dev/xen/" in line for line in maps)

    before = held()
    with backend(tmp_path / "run") as dom0, attached(dom0, image), open_domain("xen:") as guest:
        with Disk.open(guest, DEVID, timeout=PATIENCE, queues=queues) as disk:
            assert disk.read(0, 4096) == PATTERN[:4096]
            assert held() != before
    assert held() == before
