"""The toolstack's part in a vbd's life: its nodes made, its backend waited for, its nodes taken away.

RULES

- A vbd's nodes come and go in one transaction each, and nobody is waited for inside of one.
- What a frontend wrote is shown, never followed: a vbd's place comes from /libxl, which no guest can write.
- Detaching asks the backend first (online 0, state Closing) and takes the nodes when it is Closed; the backend answers
  within 10 s whatever the guest does. One that never came, still Initialising, is not waited for.

Source: tools/libs/light/libxl_device.c (libxl__device_generic_add, libxl__initiate_device_generic_remove).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from xenpv.domain import Store, Transaction
from xenpv.errors import DeviceError, HypervisorError, NoEntryError, RemoteProtocolError
from xenpv.xenbus import HANDOVER, MAX_DOMID, VbdNodes, VbdPlace, XenbusState, parse_state, vdev_name, vdev_number

from .output import printable

__all__ = ["ATTACH_TIMEOUT", "DETACH_TIMEOUT", "FORCE_TIMEOUT", "Vbd", "attach", "attach_on_xen", "close_all",
           "count_ours", "detach", "find_vbd", "is_ours", "list_vbds", "prune", "wait_state"]

ATTACH_TIMEOUT: Final = 10.0
"""Seconds that a backend may take to offer the disk (LIBXL_INIT_TIMEOUT)."""
DETACH_TIMEOUT: Final = 10.0
"""Seconds that a backend may take to close (LIBXL_DESTROY_TIMEOUT)."""
FORCE_TIMEOUT: Final = 2.0
"""The same where the answer does not matter."""

OUR_ADVERT: Final = "feature-xenpv-notify-flag"
"""Written by our backend whether it offers the flag or not, and by no other."""

T = TypeVar("T")
_TAKEN: Final = frozenset({XenbusState.INIT_WAIT, XenbusState.INITIALISED, XenbusState.CONNECTED})
_ENDED: Final = frozenset({XenbusState.UNKNOWN, XenbusState.CLOSED})
_REFUSED: Final = frozenset({XenbusState.CLOSING, XenbusState.CLOSED})


@dataclass(frozen=True, slots=True)
class Vbd:
    """A vbd as the store shows it. `ring_ref`, `port` and `frontend_state` are the guest's own words."""

    place: VbdPlace
    backend_state: XenbusState
    frontend_state: XenbusState
    mode: str
    params: str
    ring_ref: str | None
    port: str | None

    @property
    def name(self) -> str:
        return vdev_name(self.place.devid)

    def to_json(self) -> dict[str, Any]:
        return {"vdev": self.name, "devid": self.place.devid, "backend_domid": self.place.backend_domid,
                "state": int(self.frontend_state), "backend_state": int(self.backend_state),
                "event_channel": self.port, "ring_ref": self.ring_ref, "mode": self.mode, "target": self.params,
                "backend_path": self.place.backend}


def _or_none(function: Callable[[], T]) -> T | None:
    try:
        return function()
    except NoEntryError:
        return None


def _state(store: Transaction, path: str) -> XenbusState:
    return parse_state(_or_none(lambda: store.read(f"{path}/state")), f"{path}/state")


def _names(store: Transaction, path: str) -> list[str]:
    return _or_none(lambda: store.list(path)) or []


def wait_state(store: Store, path: str, wanted: Collection[XenbusState], timeout: float) -> XenbusState:
    """The state of the end at `path`, once it is one of `wanted` or after `timeout` seconds. No node is UNKNOWN."""
    deadline = time.monotonic() + timeout
    with store.watch(f"{path}/state") as watch:
        while True:
            state = _state(store, path)
            left = deadline - time.monotonic()
            if state in wanted or left <= 0:
                return state
            watch.wait(left)


def attach(store: Store, place: VbdPlace, nodes: VbdNodes, *, timeout: float = ATTACH_TIMEOUT,
           connected: float | None = None, offered: Callable[[], None] = lambda: None) -> None:
    """Write `nodes` and wait until a backend has taken the vbd; with `connected`, so many seconds for the guest too.

    Raises HypervisorError without the domain and DeviceError when there is such a vbd already, when no backend takes
    it, or it refuses: then the nodes are gone again. So they are when `offered()` raises, which is called before the
    guest is waited for.
    """
    name = f"{vdev_name(place.devid)} of domain {place.frontend_domid}"

    def write(transaction: Transaction) -> None:
        if not transaction.exists(f"/local/domain/{place.frontend_domid}"):
            raise HypervisorError(f"there is no domain {place.frontend_domid}: `xenpv list` shows those that are")
        if transaction.exists(place.libxl) or transaction.exists(place.backend):
            raise DeviceError(f"{name} is there already: choose another device, or `xenpv block-detach` it first")
        for directory in (nodes.frontend, nodes.backend, nodes.libxl):
            _remove(transaction, directory.path)
            transaction.mkdir(directory.path)
            transaction.set_permissions(directory.path, directory.permissions)
            for key, value in directory.keys.items():
                transaction.write(f"{directory.path}/{key}", value)

    store.transact(write)
    try:
        state = wait_state(store, place.backend, _TAKEN | _REFUSED, timeout)
        if state not in _TAKEN:
            raise DeviceError(f"{name}: {_why_not(store, place, state, timeout)}")
        offered()
    except BaseException:
        _remove_vbd(store, place)
        raise
    if connected is not None:
        state = wait_state(store, place.backend, {XenbusState.CONNECTED} | _REFUSED, connected)
        if state != XenbusState.CONNECTED:
            raise DeviceError(f"{name} is attached, and not connected after {connected:g} s (backend {state.name}): "
                              "does the guest use it?")


def attach_on_xen(store: Store, place: VbdPlace, nodes: Callable[..., VbdNodes], *, timeout: float = ATTACH_TIMEOUT,
                  connected: float | None = None) -> None:
    """attach() where the kernel has a backend too; `nodes` is vbd_nodes with all but the states and the handover.

    The kernel's backend passes over a node that is not Initialising, and a guest over a device that is not. So ours
    starts in InitWait, and the guest sees its device when our backend's adverts stand there. Raises as attach() does.
    """
    def let_guest_see() -> None:
        if not _wait_offered(store, place, timeout):
            raise DeviceError(f"{vdev_name(place.devid)} of domain {place.frontend_domid}: "
                              f"{_why_not(store, place, _state(store, place.backend), timeout)}")
        store.write(f"{place.frontend}/state", str(int(XenbusState.INITIALISING)))

    attach(store, place, nodes(backend_state=XenbusState.INIT_WAIT, frontend_state=XenbusState.RECONFIGURED,
                               handover=True), timeout=timeout, connected=connected, offered=let_guest_see)


def _wait_offered(store: Store, place: VbdPlace, timeout: float) -> bool:
    """Whether our backend's adverts stand within `timeout` seconds; False also when it refused."""
    deadline = time.monotonic() + timeout
    with store.watch(place.backend, depth=1) as watch:
        while True:
            if store.exists(f"{place.backend}/{OUR_ADVERT}"):
                return True
            left = deadline - time.monotonic()
            if left <= 0 or _state(store, place.backend) not in _TAKEN:
                return False
            watch.wait(left)


def _why_not(store: Store, place: VbdPlace, state: XenbusState, timeout: float) -> str:
    """What the backend says, or what its silence means."""
    path = place.backend.replace("/backend/", "/error/backend/", 1) + "/error"
    said = _or_none(lambda: store.read(path))
    if said:
        return printable(said)
    if state in _REFUSED:
        return "the backend refused it: its log says why"
    return (f"no backend took it within {timeout:g} s (state {int(state)}): start one with `xenpv backend run`"
            if state != XenbusState.UNKNOWN else "its nodes were removed meanwhile")


def _remove(transaction: Transaction, path: str) -> None:
    _or_none(lambda: transaction.remove(path))


def _remove_vbd(store: Store, place: VbdPlace) -> None:
    """Take every node of a vbd away, and the directories that are empty then, as libxl does (libxl__xs_path_cleanup)."""
    def remove(transaction: Transaction) -> None:
        for path, levels in ((place.frontend, 0), (place.backend, 3), (place.libxl, 3)):
            _remove(transaction, path)
            for _ in range(levels):
                path = path.rpartition("/")[0]
                if _names(transaction, path):
                    break
                _remove(transaction, path)

    store.transact(remove)


def detach(store: Store, place: VbdPlace, *, force: bool = False, timeout: float = DETACH_TIMEOUT) -> None:
    """Take a vbd away. Raises DeviceError when its backend does not close within `timeout` seconds.

    With `force` the nodes go then all the same.
    """
    _ask_to_close(store, place)
    state = _wait_closed(store, place, FORCE_TIMEOUT if force else timeout)
    if state not in _ENDED and not force:
        raise DeviceError(f"{vdev_name(place.devid)} of domain {place.frontend_domid}: its backend did not close "
                          f"within {timeout:g} s (state {int(state)}): is it running? -f takes the nodes all the same")
    _remove_vbd(store, place)


def _ask_to_close(store: Store, place: VbdPlace) -> None:
    """Tell the backend, unless none ever came: then the nodes are taken at once."""
    def ask(transaction: Transaction) -> bool:
        state = _state(transaction, place.backend)
        if state in _ENDED:
            return True
        if state == XenbusState.INITIALISING:
            _remove(transaction, place.backend)
            return True
        transaction.write(f"{place.backend}/online", "0")
        transaction.write(f"{place.backend}/state", str(int(XenbusState.CLOSING)))
        return False

    store.transact(ask)


def _wait_closed(store: Store, place: VbdPlace, timeout: float) -> XenbusState:
    return wait_state(store, place.backend, _ENDED, timeout)


def close_all(store: Store, domid: int, end: Callable[[], None] = lambda: None, *,
              timeout: float = DETACH_TIMEOUT) -> list[str]:
    """Take every vbd of `domid` away; `end()` ends the domain, when the backends were told and before they are awaited.

    Returns a complaint for each backend that did not close within `timeout` seconds; its nodes are gone all the
    same.
    """
    places = _places(store, domid)
    for place in places:
        _ask_to_close(store, place)
    end()
    complaints = []
    deadline = time.monotonic() + timeout
    for place in places:
        state = _wait_closed(store, place, max(0.0, deadline - time.monotonic()))
        if state not in _ENDED:
            complaints.append(f"the backend of {vdev_name(place.devid)} of domain {domid} did not close within "
                              f"{timeout:g} s (state {int(state)}): is it running?")
        _remove_vbd(store, place)
    _or_none(lambda: store.remove(f"/libxl/{domid}"))
    return complaints


def prune(store: Store, alive: Collection[int]) -> list[str]:
    """Take away the vbds of domains that ended by themselves. Returns complaints as close_all does."""
    ended = [int(name) for name in _names(store, "/libxl") if name.isdigit() and int(name) not in alive]
    return [line for domid in ended for line in close_all(store, domid, timeout=FORCE_TIMEOUT)]


def _places(store: Store, domid: int) -> list[VbdPlace]:
    """The places of a domain's vbds, from the toolstack's own copy."""
    if not 0 <= domid <= MAX_DOMID:
        raise DeviceError(f"{domid} is no domain number")
    places = []
    top = f"/libxl/{domid}/device/vbd"
    for name in sorted(_names(store, top), key=lambda name: (len(name), name)):
        backend = _or_none(lambda: store.read(f"{top}/{name}/backend"))
        if backend is None:
            continue
        place = VbdPlace.of_backend(backend.decode("ascii", "replace"))
        if (place.frontend_domid, str(place.devid)) != (domid, name):
            raise RemoteProtocolError(f"{top}/{name}/backend is {printable(backend)}: want the backend of that device")
        places.append(place)
    return places


def list_vbds(store: Store, domid: int) -> list[Vbd]:
    """Every vbd of a domain. A guest's state that is none is shown as UNKNOWN."""
    return [_look(store, place) for place in _places(store, domid)]


def _look(store: Store, place: VbdPlace) -> Vbd:
    def word(path: str) -> str | None:
        value = _or_none(lambda: store.read(path))
        return None if value is None else printable(value[:200])

    def state(path: str) -> XenbusState:
        try:
            return _state(store, path)
        except RemoteProtocolError:
            return XenbusState.UNKNOWN

    return Vbd(place, state(place.backend), state(place.frontend), word(f"{place.backend}/mode") or "r",
               word(f"{place.backend}/params") or "", word(f"{place.frontend}/ring-ref"),
               word(f"{place.frontend}/event-channel"))


def is_ours(store: Store, place: VbdPlace) -> bool:
    """Whether a vbd on a real Xen was handed to a backend of ours. Anything else is xl's to take away."""
    return _or_none(lambda: store.read(f"{place.backend}/{HANDOVER}")) == b"1"


def count_ours(store: Store, backend_domid: int = 0) -> int:
    """How many vbds on a real Xen were handed to a backend of ours."""
    tops = [f"/local/domain/{backend_domid}/backend/{kind}" for kind in ("vbd", "vbd3")]
    return sum(_or_none(lambda: store.read(f"{top}/{domid}/{devid}/{HANDOVER}")) == b"1"
               for top in tops for domid in _names(store, top) for devid in _names(store, f"{top}/{domid}"))


def find_vbd(store: Store, domid: int, device: str) -> VbdPlace:
    """The vbd `device` (a name or a number) of a domain. Raises DeviceError when it has none, UsageError."""
    number = vdev_number(device)
    for place in _places(store, domid):
        if place.devid == number:
            return place
    raise DeviceError(f"domain {domid} has no {device}: `xenpv block-list {domid}` shows its disks")
