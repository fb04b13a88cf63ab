"""From a disk specification to a vbd: whether the disk can be served, and the nodes that it gets."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from xenpv.domain import Store
from xenpv.errors import StorageError, UsageError
from xenpv.wire.blkif import SECTOR_SIZE
from xenpv.xenbus import HANDOVER_SCRIPT, VbdPlace, vbd_nodes, vdev_number
from xenpv_backend.storage import FILTERS, is_filter, parse_target

from . import toolstack
from .backend_control import running
from .diskspec import DiskSpec
from .domains import Domains
from .session import Session

__all__ = ["Attachment", "check_target", "prepare", "warn_without_backend", "whole_target"]

SCRIPTS = Path("/etc/xen/scripts")
"""Where xl looks for the scripts of disks (XEN_SCRIPT_DIR)."""


def script_for_xl() -> str:
    """The script that xl is to run when it takes a disk of ours away.

    Ours leaves nothing to do then, so where it is not installed any program that succeeds will do; without one, xl
    complains of every such disk.
    """
    ours = SCRIPTS / HANDOVER_SCRIPT
    return str(ours) if os.access(ours, os.X_OK) else "/bin/true"


@dataclass(frozen=True, slots=True)
class Attachment:
    """A disk that may be attached: its specification, its target's whole path and its backend's domain."""

    spec: DiskSpec
    target: str
    backend_domid: int = 0
    xen: bool = False
    """On a real Xen: kept from the kernel's backend."""

    def attach(self, store: Store, domid: int, *, connected: float | None = None) -> VbdPlace:
        """Give it to the domain. Raises DeviceError, HypervisorError (toolstack.attach)."""
        spec = self.spec
        place = VbdPlace(self.backend_domid, domid, vdev_number(spec.vdev))
        nodes = partial(vbd_nodes, place, writable=spec.writable, params=self.target, removable=spec.cdrom,
                        device_type="cdrom" if spec.cdrom else "disk", trusted=spec.trusted is not False,
                        discard_enable=spec.discard)
        if self.xen:
            toolstack.attach_on_xen(store, place, partial(nodes, script=script_for_xl()), connected=connected)
        else:
            toolstack.attach(store, place, nodes(script=spec.script), connected=connected)
        return place


def prepare(specs: Iterable[DiskSpec], domains: Domains) -> list[Attachment]:
    """The disks, checked before anything is changed. Raises UsageError, StorageError, HypervisorError."""
    found = [_prepare(spec, domains) for spec in specs]
    numbers = [vdev_number(each.spec.vdev) for each in found]
    for each, number in zip(found, numbers, strict=True):
        if numbers.count(number) > 1:
            raise UsageError(f"two disks are {each.spec.vdev}: each needs a device of its own")
    return found


def warn_without_backend(session: Session, disks: Sequence[Attachment]) -> None:
    """Say for whom attaching is going to wait."""
    if any(disk.backend_domid == 0 for disk in disks) and not running(session.run_directory()):
        session.say(f"no backend runs in {session.run_directory()}: waiting {toolstack.ATTACH_TIMEOUT:g} s for one "
                    "(`xenpv backend run`)")


def _prepare(spec: DiskSpec, domains: Domains) -> Attachment:
    if spec.format == "empty":
        raise UsageError(f"{spec.vdev}: an empty drive is not served: name its image")
    if spec.format != "raw":
        raise UsageError(f"{spec.vdev}: format {spec.format} is not served: make it raw "
                         f"(`qemu-img convert -O raw {spec.target} IMAGE`)")
    xls_way = spec.backendtype == "tap" and spec.script == HANDOVER_SCRIPT
    if spec.backendtype not in (None, "phy") and not xls_way or spec.specification == "virtio":
        raise UsageError(f"{spec.vdev}: backendtype={spec.backendtype or ''} specification={spec.specification or ''} "
                         "is another backend's disk: leave both out")
    if spec.script == "block-nbd":
        raise UsageError(f"{spec.vdev}: nbd: in front is xl's word for its script block-nbd: for our own NBD, write "
                         f"vdev={spec.vdev},target=nbd:{spec.target}")
    if spec.script not in (None, HANDOVER_SCRIPT):
        raise UsageError(f"{spec.vdev}: script={spec.script} is another backend's: leave it out")
    backend = 0 if spec.backend is None else domains.find(spec.backend).domid
    # The files of another domain are not ours to look at.
    target = whole_target(str(spec.target), spec.writable) if backend == 0 else str(spec.target)
    return Attachment(spec, target, backend, domains.xen)


def whole_target(text: str, writable: bool) -> str:
    """A target (docs/storage.md) with the whole path of its image. Raises StorageError for what cannot be served.

    What is no image is looked at by the backend alone. A file of this name, whatever else the name may mean, is it.
    """
    if Path(text).exists():
        return check_target(text, writable)
    target = parse_target(text, is_filter)
    if target.word not in ("raw", "aio"):
        return text
    reads_only = any(FILTERS[word].readonly_below for word, _ in target.filters if word in FILTERS)
    return target.head + check_target(target.rest, writable and not reads_only)


def check_target(target: str, writable: bool) -> str:
    """The whole path of a raw image or block device that can be served. Raises StorageError."""
    path = Path(target).absolute()
    try:
        found = path.stat()
    except OSError as error:
        raise StorageError(f"disk image {path}: {error.strerror}") from None
    if not stat.S_ISBLK(found.st_mode):
        if not stat.S_ISREG(found.st_mode):
            raise StorageError(f"{path} is neither a file nor a block device: it cannot be a disk")
        if found.st_size == 0 or found.st_size % SECTOR_SIZE:
            want = -(-max(found.st_size, 1) // SECTOR_SIZE) * SECTOR_SIZE
            raise StorageError(f"disk image {path} has {found.st_size} bytes, not a whole number of {SECTOR_SIZE}: "
                               f"`truncate -s {want}` makes it one")
    if not os.access(path, os.R_OK | (os.W_OK if writable else 0)):
        raise StorageError(f"disk image {path} may not be {'written' if writable else 'read'} by this user"
                           + (": attach it read-only (access r), or change its mode" if writable else ""))
    return str(path)
