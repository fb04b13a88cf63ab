"""What the toolstack writes for a vbd: where its nodes are, what is in them, and that they name each other.

Either node may be written by a domain that is not trusted, so a pointer is never followed before it has been compared
with the place where it must point (XSA-175, XSA-178): the place comes from the path that was opened, the pointer from
the node. Source: tools/libs/light/libxl_disk.c and libxl_device.c.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from ..errors import RemoteProtocolError
from .keys import FLAG, TEXT, U32, Choice, Number, Record, Text, key, refuse
from .records import BackendAdverts
from .states import XenbusState
from .vdev import MAX_VDEV, vdev_name

__all__ = ["BackendNode", "Directory", "FrontendNode", "HANDOVER", "HANDOVER_SCRIPT", "MAX_DOMID", "VbdNodes", "VbdPlace",
           "vbd_nodes"]

MAX_DOMID: Final = 0x7ff0 - 1
"""The last domid before the reserved ones (DOMID_FIRST_RESERVED, xen.h)."""

HANDOVER: Final = "xenpv-handover"
"""The key of a backend's node, "1", by which the toolstack says that it is xenpv's to serve and not the kernel's."""

HANDOVER_SCRIPT: Final = "block-xenpv"
"""The hotplug script by which xl gives a disk to xenpv: ``script=block-xenpv``."""

_DOMID: Final = Number(0, MAX_DOMID)
_WORD: Final = Text(64)
_BACKEND_PATH: Final = re.compile(r"/local/domain/(0|[1-9][0-9]{0,4})/backend/([a-z][a-z0-9]{0,15})/"
                                  r"(0|[1-9][0-9]{0,4})/(0|[1-9][0-9]{0,9})", re.ASCII)


@dataclass(frozen=True, slots=True)
class VbdPlace:
    """A vbd's place: the backend's domain, the frontend's domain and the device's number (see vdev).

    `kind` is the backend's name in the path: vbd, or vbd3 and qdisk as libxl has for tap and qdisk.
    """

    backend_domid: int
    frontend_domid: int
    devid: int
    kind: str = "vbd"

    @property
    def backend(self) -> str:
        """The path of the backend's directory."""
        return f"/local/domain/{self.backend_domid}/backend/{self.kind}/{self.frontend_domid}/{self.devid}"

    @property
    def frontend(self) -> str:
        """The path of the frontend's directory."""
        return f"/local/domain/{self.frontend_domid}/device/vbd/{self.devid}"

    @property
    def libxl(self) -> str:
        """The path of the toolstack's own copy, which no guest can write."""
        return f"/libxl/{self.frontend_domid}/device/vbd/{self.devid}"

    @classmethod
    def of_backend(cls, path: str) -> VbdPlace:
        """The place whose backend directory is `path`. Raises RemoteProtocolError when there can be none."""
        found = _BACKEND_PATH.fullmatch(path)
        place = cls(int(found[1]), int(found[3]), int(found[4]), found[2]) if found else None
        if place is None or max(place.backend_domid, place.frontend_domid) > MAX_DOMID or place.devid > MAX_VDEV:
            raise RemoteProtocolError(f"{path[:80]!r} is no vbd's backend: want "
                                      "/local/domain/BACKEND/backend/vbd/FRONTEND/DEVID")
        return place


@dataclass(frozen=True, slots=True)
class BackendNode(Record):
    """The backend's directory as the toolstack fills it."""

    frontend: str = key("frontend", TEXT)
    frontend_id: int = key("frontend-id", _DOMID)
    online: bool = key("online", FLAG, False)
    mode: str = key("mode", Choice(("r", "w")), "r")
    """r: read only, and so it is when the key is missing."""
    params: str = key("params", TEXT, "")
    type: str | None = key("type", _WORD, None)
    device_type: str = key("device-type", _WORD, "disk")
    dev: str | None = key("dev", _WORD, None)
    removable: bool = key("removable", FLAG, False)
    bootable: bool = key("bootable", FLAG, False)
    discard_enable: bool | None = key("discard-enable", FLAG, None)
    """None: as the storage can."""
    direct_io_safe: bool | None = key("direct-io-safe", FLAG, None)
    specification: str | None = key("specification", _WORD, None)
    script: str | None = key("script", TEXT, None)
    hotplug_status: str | None = key("hotplug-status", _WORD, None)
    physical_device: str | None = key("physical-device", _WORD, None)
    physical_device_path: str | None = key("physical-device-path", TEXT, None)
    handover: bool | None = key(HANDOVER, FLAG, None)
    """On a real Xen, where the kernel has a backend too: the vbd is given to xenpv's."""

    @property
    def read_only(self) -> bool:
        return self.mode != "w"

    def check_place(self, place: VbdPlace) -> None:
        """That this node, found at `place.backend`, names the frontend there. Raises RemoteProtocolError."""
        if self.frontend != place.frontend:
            raise refuse(place.backend, "frontend", self.frontend.encode(), place.frontend)
        if self.frontend_id != place.frontend_domid:
            raise refuse(place.backend, "frontend-id", b"%d" % self.frontend_id, str(place.frontend_domid))


@dataclass(frozen=True, slots=True)
class FrontendNode(Record):
    """The frontend's directory as the toolstack fills it."""

    backend: str = key("backend", TEXT)
    backend_id: int = key("backend-id", _DOMID)
    virtual_device: int = key("virtual-device", Number(0, U32), other="virtual-device-ext")
    device_type: str = key("device-type", _WORD, "disk")
    trusted: bool = key("trusted", FLAG, True)
    """False: the frontend is to protect itself from its backend."""

    def check_place(self, place: VbdPlace) -> None:
        """That this node, found at `place.frontend`, names the backend there. Raises RemoteProtocolError."""
        if self.backend != place.backend:
            raise refuse(place.frontend, "backend", self.backend.encode(), place.backend)
        if self.backend_id != place.backend_domid:
            raise refuse(place.frontend, "backend-id", b"%d" % self.backend_id, str(place.backend_domid))

    def place(self, own_domid: int, devid: int) -> VbdPlace:
        """Where this node's backend is, for the frontend that found it in its own device/vbd/`devid`.

        Raises RemoteProtocolError when it points to another domain's or another device's.
        """
        place = VbdPlace.of_backend(self.backend)
        if (place.frontend_domid, place.devid) != (own_domid, devid):
            raise refuse(f"device/vbd/{devid}", "backend", self.backend.encode(),
                         f"the backend of device {devid} of domain {own_domid}")
        self.check_place(place)
        return place


@dataclass(frozen=True, slots=True)
class Directory:
    """A directory to make: its keys, and xenstored's words of who may read it, the owner first."""

    path: str
    permissions: tuple[str, ...]
    keys: dict[str, str]


@dataclass(frozen=True, slots=True)
class VbdNodes:
    """What one transaction writes for a new vbd. `libxl` is for a host where xl is to list and detach the disk."""

    frontend: Directory
    backend: Directory
    libxl: Directory


def vbd_nodes(place: VbdPlace, *, writable: bool, params: str = "", type: str = "phy", device_type: str = "disk",
              removable: bool = False, bootable: bool = True, trusted: bool = True, discard_enable: bool | None = None,
              script: str | None = None, specification: str | None = "xen",
              backend_state: XenbusState = XenbusState.INITIALISING,
              adverts: BackendAdverts | None = None, handover: bool | None = None,
              frontend_state: XenbusState = XenbusState.INITIALISING) -> VbdNodes:
    """The directories of a new vbd at `place`.

    With `backend_state` InitWait, which keeps the kernel's own backend away from the node, the guest may read the
    adverts at once: pass them as `adverts`, or keep the guest waiting with a `frontend_state` that it does not act on.
    """
    backend = BackendNode(
        frontend=place.frontend, frontend_id=place.frontend_domid, online=True, mode="w" if writable else "r",
        params=params, type=type, device_type=device_type, dev=vdev_name(place.devid), removable=removable,
        bootable=bootable, discard_enable=discard_enable, specification=specification, script=script,
        handover=handover)
    frontend = FrontendNode(place.backend, place.backend_domid, place.devid, device_type, trusted)
    state = {"state": str(int(backend_state))}
    offered = {} if adverts is None else adverts.to_keys()
    return VbdNodes(
        Directory(place.frontend, (f"n{place.frontend_domid}", f"r{place.backend_domid}"),
                  {**frontend.to_keys(), "state": str(int(frontend_state))}),
        Directory(place.backend, (f"n{place.backend_domid}", f"r{place.frontend_domid}"),
                  {**backend.to_keys(), **offered, **state}),
        Directory(place.libxl, ("n0",),
                  {"frontend": place.frontend, "backend": place.backend, **backend.to_keys(), **state}))
