"""The disks of a guest that `xenpv bench --guest` measures on, and who serves each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from xenpv.domain import Store
from xenpv.errors import DeviceError, NoEntryError, UsageError
from xenpv.xenbus import XenbusState

from ..output import printable
from ..toolstack import Vbd, find_vbd, is_ours, list_vbds

OWN = "xenpv"
PEERS = ("blkback", "qdisk")
"""The kernel's backend, and QEMU's."""


@dataclass(frozen=True)
class GuestDisk:
    """One of the guest's disks."""

    name: str
    """Of the system: who serves it; with its vdev where several disks have the same backend."""
    vdev: str
    backend: str
    """``xenpv``, ``blkback``, ``qdisk``, or another name of libxl's for a backend."""
    setup: str
    """What was agreed, in words."""
    devid: int
    """The number of the device."""
    size: int
    """Bytes."""


def find_disks(store: Store, domid: int, names: Sequence[str], served: Mapping[tuple[int, int], Mapping[str, Any]],
               writes: bool) -> list[GuestDisk]:
    """The disks `names` of a domain, in that order; `served` is what our backend says of its own (describe_devices).

    Raises UsageError, DeviceError for a disk that is not there, not connected, or read-only where one `writes`.
    """
    if not names:
        raise UsageError("name the disks to measure on, each with --disk: what is on them is overwritten by cases that write")
    vbds = {vbd.place: vbd for vbd in list_vbds(store, domid)}
    chosen = [vbds[find_vbd(store, domid, name)] for name in names]
    for vbd in chosen:
        if {vbd.backend_state, vbd.frontend_state} != {XenbusState.CONNECTED}:
            raise DeviceError(f"{vbd.name} of domain {domid} is not connected: does the guest use it?")
        if writes and not vbd.mode.startswith("w"):
            raise DeviceError(f"{vbd.name} of domain {domid} is read-only: leave it out, or measure reads alone (--case)")
    if len({vbd.place for vbd in chosen}) < len(chosen):
        raise UsageError("a disk is named twice")
    backends = [_backend(store, vbd) for vbd in chosen]
    return [GuestDisk(backend if backends.count(backend) == 1 else f"{backend} {vbd.name}", vbd.name, backend,
                      _setup(store, vbd, served.get((domid, vbd.place.devid))), vbd.place.devid, _size(store, vbd))
            for vbd, backend in zip(chosen, backends, strict=True)]


def _backend(store: Store, vbd: Vbd) -> str:
    if is_ours(store, vbd.place):
        return OWN
    return "blkback" if vbd.place.kind == "vbd" else vbd.place.kind


def _size(store: Store, vbd: Vbd) -> int:
    words = [_key(store, f"{vbd.place.backend}/{name}") for name in ("sectors", "sector-size")]
    sectors, sector = (int(word) if word.isdecimal() and len(word) < 16 else 0 for word in words)
    # QEMU counts in sectors of sector-size, as the kernel did once (io/blkif.h, note 12); they are 512 bytes but for few.
    return sectors * (sector if vbd.place.kind == "qdisk" and sector else 512)


def _key(store: Store, path: str) -> str:
    try:
        return printable(store.read(path)[:40])
    except NoEntryError:
        return ""


def _setup(store: Store, vbd: Vbd, served: Mapping[str, Any] | None) -> str:
    """The target, and what the guest chose; it may say what it likes, this is for people alone."""
    front = vbd.place.frontend
    words = [vbd.params]
    if served:
        words += [str(served.get("engine")), str(served.get("storage", {}).get("cache")), f"spin {served.get('spin_us')} us"]
    if _key(store, f"{front}/feature-persistent") == "1" and _key(store, f"{vbd.place.backend}/feature-persistent") == "1":
        words.append("persistent")
    pages = 1 << int(order) if (order := _key(store, f"{front}/ring-page-order")) in tuple("01234") else 1
    queues = _key(store, f"{front}/multi-queue-num-queues") or "1"
    return ", ".join([*words, f"{queues} x {32 * pages} entries"])
