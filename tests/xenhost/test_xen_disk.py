"""Our backend and our frontend in one domain of a real Xen: every byte through real grants and event channels."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from xenpv.domain import Domain, Transaction
from xenpv.hypervisors import open_domain
from xenpv.xenbus import VbdPlace, vbd_nodes
from xenpv_backend.daemon import Backend
from xenpv_backend.options import BackendOptions
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
    place = VbdPlace(0, 0, DEVID)
    nodes = vbd_nodes(place, writable=True, params=str(image), script="block-xenpv", handover=True)

    def write(transaction: Transaction) -> None:
        for node in (nodes.frontend, nodes.backend):
            transaction.mkdir(node.path)
            transaction.set_permissions(node.path, node.permissions)
            for key, value in node.keys.items():
                transaction.write(f"{node.path}/{key}", value)

    dom0.store.transact(write)
    try:
        yield place
    finally:
        for node in (nodes.frontend, nodes.backend):
            dom0.store.remove(node.path)


@contextmanager
def serving(directory: Path, **options: object) -> Iterator[Domain]:
    """A backend in a thread; its domain."""
    with open_domain("xen:") as dom0:
        backend = Backend(dom0, directory, BackendOptions(spin_us=0, **options))  # type: ignore[arg-type]
        thread = threading.Thread(target=backend.serve)
        thread.start()
        try:
            yield dom0
        finally:
            backend.stop()
            thread.join()
            backend.close()


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(PATTERN)
    return path


@pytest.mark.parametrize("persistent", [False, True])
@pytest.mark.parametrize("flag", [False, True])
@pytest.mark.parametrize("engine", ["io_uring", "threads"])
def test_every_byte_is_right(image: Path, tmp_path: Path, persistent: bool, flag: bool, engine: str) -> None:
    with serving(tmp_path / "run", engine=engine) as dom0, attached(dom0, image), open_domain("xen:") as guest:
        with Disk.open(guest, DEVID, flag=flag, persistent=persistent, timeout=PATIENCE) as disk:
            assert disk.read(0, SIZE) == PATTERN
            disk.write(1536, PATTERN[:300 * 512])
            disk.flush()
            assert disk.read(1024, 1024) == PATTERN[1024:1536] + PATTERN[:512]
    assert image.read_bytes() == PATTERN[:1536] + PATTERN[:300 * 512] + PATTERN[1536 + 300 * 512:]


def test_nothing_leaks(image: Path, tmp_path: Path, until: Callable[..., None]) -> None:
    """Descriptors and mappings of the kernel's devices, counted from outside, are what they were."""
    def held() -> tuple[int, int]:
        fds = [os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")
               if os.path.islink(f"/proc/self/fd/{fd}")]
        maps = Path("/proc/self/maps").read_text().splitlines()
        return sum(fd.startswith("/dev/xen/") for fd in fds), sum("/dev/xen/" in line for line in maps)

    before = held()
    with serving(tmp_path / "run") as dom0, attached(dom0, image), open_domain("xen:") as guest:
        with Disk.open(guest, DEVID, timeout=PATIENCE) as disk:
            assert disk.read(0, 4096) == PATTERN[:4096]
            assert held() != before
    assert held() == before
