"""Disks of stock backends, Linux's xen-blkback and QEMU, that xl attaches; and what is in use of Xen, from outside."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.xenhost.shell import run
from xenpv.domain import Domain
from xenpv.xenbus import VbdPlace, vdev_number
from xenpv_frontend.disk import Disk

QEMU = Path("/usr/libexec/xen-qemu-system-i386")
QEMU_PID = Path("/run/qemu-dom0.pid")
DEVICE_MODEL = "/local/domain/0/image/device-model-pid"
"""Without it xl attaches no disk of QEMU's to dom0 (libxl__dm_active)."""
KINDS = ["blkback", "qdisk"]
SIZE = 8 << 20
PATTERN = random.Random(5).randbytes(SIZE)
"""What is on a disk."""

Until = Callable[..., None]


def kernel_disk(device: str | Path, vdev: str, access: str) -> str:
    """What xl takes for a disk of the kernel's own backend."""
    return f"script={Path(__file__).with_name('block_kernel.sh')},vdev={vdev},access={access},target={device}"


@contextmanager
def qemu_of_dom0() -> Iterator[None]:
    """QEMU as it serves disks to dom0: Debian's /etc/init.d/xen starts it like that."""
    if not QEMU.exists():
        pytest.skip(f"needs {QEMU}: apt-get install qemu-system-xen")
    run(str(QEMU), "-xen-domid", "0", "-xen-attach", "-name", "dom0", "-nographic", "-M", "xenpv", "-daemonize", "-monitor",
        "none", "-serial", "none", "-parallel", "none", "-pidfile", str(QEMU_PID))
    pid = int(QEMU_PID.read_text())
    run("xenstore-write", DEVICE_MODEL, str(pid))
    try:
        yield
    finally:
        run("xenstore-rm", DEVICE_MODEL)
        os.kill(pid, signal.SIGTERM)


def place_of(kind: str, vdev: str, domid: int = 0) -> VbdPlace:
    """Where a stock backend of dom0's has it in the store."""
    return VbdPlace(0, domid, vdev_number(vdev), "qdisk" if kind == "qdisk" else "vbd")


@dataclass(frozen=True)
class Stock:
    """A disk of dom0's, attached by xl."""

    kind: str
    image: Path
    vdev: str

    @property
    def place(self) -> VbdPlace:
        return place_of(self.kind, self.vdev)

    @property
    def device(self) -> Path:
        """As dom0's kernel shows it."""
        return Path("/dev", self.vdev)

    def unbind(self) -> None:
        """Take it from the kernel, by hand."""
        Path("/sys/bus/xen/drivers/vbd/unbind").write_text(f"vbd-{self.place.devid}")

    def flushes(self) -> int | None:
        """Flushes and barriers that blkback has begun since it was connected; None: of another backend."""
        path = Path(f"/sys/bus/xen-backend/devices/vbd-{self.place.frontend_domid}-{self.place.devid}/statistics/f_req")
        return int(path.read_text()) if self.kind == "blkback" else None

    def states(self) -> str:
        """Of the frontend and of the backend."""
        return " ".join(run("xenstore-read", f"{path}/state").strip() for path in (self.place.frontend, self.place.backend))


@contextmanager
def attached(kind: str, image: Path, until: Until, *, vdev: str = "xvdb", mode: str = "w",
             sector: int = 512, cdrom: bool = False) -> Iterator[Stock]:
    """`image` as a disk of dom0's that its kernel has taken; detached at the end, whoever has it then.

    For blkback it may be a block device.
    """
    stock = Stock(kind, image, vdev)
    loop = ""
    if kind == "blkback":
        if not image.is_block_device():
            loop = run("losetup", "--show", "-f", "-b", str(sector), *(["-r"] if mode == "r" else []), str(image)).strip()
        spec = ("devtype=cdrom," if cdrom else "") + kernel_disk(loop or image, vdev, mode)
    else:
        spec = f"format=raw,vdev={vdev},access={mode},discard,backendtype=qdisk,target={image}"
    try:
        run("xl", "block-attach", "0", spec)
        try:
            until(lambda: stock.states() == "4 4" and stock.device.is_block_device(), f"{vdev} in dom0", 60)
            yield stock
        finally:
            detach(stock.place, vdev)
    finally:
        if loop:
            run("losetup", "-d", loop)


def detach(place: VbdPlace, vdev: str) -> None:
    """Take a disk from its domain.

    QEMU takes a backend that is closed and offline out of the store itself. libxl, which wrote `online` and then waits for
    the state, fails if it finds that gone already, and leaves the frontend's side; asked again it takes that away.
    """
    argv = "xl", "block-detach", str(place.frontend_domid), vdev
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode:
        assert "/qdisk/" in place.backend and not exists(place.backend), done.stderr
        run(*argv)


def open_disk(domain: Domain, vdev: str, **options: Any) -> Disk:
    """Disk.open with more time: the host is emulated, and blkback allocates memory for each entry of a large ring."""
    return Disk.open(domain, vdev, timeout=60, **options)


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def sha_of(disk: Disk) -> str:
    """Of all of it, as our frontend reads it."""
    digest = hashlib.sha256()
    for chunk in disk.chunks():
        digest.update(chunk)
    return digest.hexdigest()


def exists(path: str) -> bool:
    """A node of the store."""
    return subprocess.run(["xenstore-exists", path]).returncode == 0


def grants_mapped() -> int:
    """Grants that some domain has mapped, as Xen lists them."""
    run("xl", "dmesg", "-c")
    run("xl", "debug-keys", "g")
    lines = run("xl", "dmesg").splitlines()
    return sum("0x" in line and "[" in line for line in lines if "grant-table" not in line)


def channels() -> int:
    """Event channel ports of dom0."""
    return len(run("lsevtchn", "0").splitlines())


def nodes() -> list[str]:
    """dom0's virtual block devices in the store, both ends."""
    found = []
    for top in ("device/vbd", "backend/vbd/0", "backend/qdisk/0"):
        listed = subprocess.run(["xenstore-ls", "-f", f"/local/domain/0/{top}"], capture_output=True, text=True)
        found += listed.stdout.splitlines()  # nothing, where the directory is not there
    return found
