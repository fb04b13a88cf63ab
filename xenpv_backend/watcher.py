"""Which vbds there are: watches the backend directory of our own domain, makes Devices, and ends them.

RULES
- An event marks a vbd; the work is done in `turn`, once for each marked vbd and one after the other, so that a frontend
  which changes its state all the time has no more than its share.
- What goes wrong with one vbd is logged and never stops the others. Only a store that is gone for good ends it all.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Protocol

from xenpv.domain import Store
from xenpv.errors import NoEntryError, RemoteProtocolError, StoreError
from xenpv.xenbus import VbdPlace

from .device import LATER, Device
from .keys import read
from .log import LOGGER
from .queue import Queue

MAX_PER_FRONTEND = 256
"""Vbds of one frontend that are served."""
MAX_EVENTS = 256
"""Events taken before the Devices have their turn."""
KINDS = ("vbd", "vbd3")
"""The names of our backend directories: vbd, and vbd3 as libxl has for backendtype=tap."""


class Registers(Protocol):
    """Who waits for descriptors (selectors.BaseSelector does)."""

    def add(self, fd: int, callback: Callable[[], None]) -> None: ...

    def remove(self, fd: int) -> None: ...


class Watcher:
    """The vbds of this backend. For one thread.

    `make` makes the Device of a place. `takes` says whether a vbd is offered to us. Raises StoreError.
    """

    def __init__(self, store: Store, domid: int, loop: Registers, make: Callable[[VbdPlace], Device], *,
                 takes: Callable[[VbdPlace], bool] = lambda place: True,
                 clock: Callable[[], float] = time.monotonic) -> None:
        self.devices: dict[VbdPlace, Device] = {}
        self._store = store
        self._loop = loop
        self._make = make
        self._takes = takes
        self._clock = clock
        self._marked: dict[VbdPlace, None] = {}
        self._later: dict[VbdPlace, float] = {}
        self._fds: dict[VbdPlace, int] = {}
        self._full: set[int] = set()
        self._top = store.domain_path(domid) + "/backend"
        # Three levels down are the keys of a vbd: backend/vbd/DOMID/DEVID/state.
        self._watches = [store.watch(f"{self._top}/{kind}", depth=3) for kind in KINDS]
        for watch in self._watches:
            loop.add(watch.fileno(), self.take_events)

    def take_events(self) -> None:
        """Mark what the pending events name. Raises StoreConnectionError when the store is gone for good."""
        for kind, watch in zip(KINDS, self._watches, strict=True):
            for _ in range(MAX_EVENTS):
                path = watch.wait(0)
                if path is None:
                    break
                self._mark(kind, path)

    def _mark(self, kind: str, path: str) -> None:
        parts = path.removeprefix(f"{self._top}/{kind}").split("/")[1:]
        if len(parts) >= 2:
            self._mark_vbd("/".join([self._top, kind, *parts[:2]]), parts[2:])
            return
        # The directory of a domain, or of them all: removed, or made, or more events than the watch keeps.
        for place in self.devices:
            if place.kind == kind and (not parts or str(place.frontend_domid) == parts[0]):
                self._marked[place] = None
        for found in self._list(kind, parts):
            self._mark_vbd(found, [])

    def _mark_vbd(self, path: str, below: list[str]) -> None:
        try:
            place = VbdPlace.of_backend(path)
        except RemoteProtocolError as error:
            LOGGER.warning("%s: passed over", error)
            return
        # Of the keys, only these decide anything; most of the others are our own.
        if place not in self.devices or below in ([], ["state"], ["online"]):
            self._marked[place] = None

    def _list(self, kind: str, parts: list[str]) -> Iterator[str]:
        for domid in parts or self._names(f"{self._top}/{kind}"):
            for devid in self._names(f"{self._top}/{kind}/{domid}"):
                yield f"{self._top}/{kind}/{domid}/{devid}"

    def _names(self, path: str) -> list[str]:
        try:
            return self._store.list(path)
        except NoEntryError:
            return []

    def halted(self, queue: Queue) -> None:
        """The frontend of `queue` broke the ring's rules."""
        for place, device in self.devices.items():
            if device.halted(queue):
                self._marked[place] = None

    def drained(self, queue: Queue) -> None:
        """What was taken from `queue` is answered, which its Device waits for."""
        for place, device in self.devices.items():
            if device.holds(queue):
                self._marked[place] = None

    def due(self, place: VbdPlace) -> None:
        """What the Device of `place` waited for has happened."""
        if place in self.devices:
            self._marked[place] = None

    def turn(self) -> float | None:
        """Give every marked vbd its turn. Returns the seconds until the next turn is due without an event."""
        marked, self._marked = self._marked, {}
        now = self._clock()
        marked |= {place: None for place, when in self._deadlines() if when <= now}
        for place in marked:
            device = self.devices.get(place) or self._new_or_later(place)
            if device is not None:
                self._guarded(device, device.turn)
                if device.ended:
                    self._drop(device)
        if self._marked:
            return 0.0
        first = min((when for _, when in self._deadlines()), default=None)
        return None if first is None else max(0.0, first - self._clock())

    def _deadlines(self) -> list[tuple[VbdPlace, float]]:
        devices = [(place, device.deadline) for place, device in self.devices.items() if device.deadline is not None]
        return devices + list(self._later.items())

    def _new_or_later(self, place: VbdPlace) -> Device | None:
        self._later.pop(place, None)
        try:
            return self._new(place)
        except StoreError as error:
            LOGGER.error("domid %d devid %d: %s", place.frontend_domid, place.devid, error)
            self._later[place] = self._clock() + LATER
            return None

    def _new(self, place: VbdPlace) -> Device | None:
        state = read(self._store, f"{place.backend}/state")
        if state is None or not self._takes(place):
            return None
        if state == b"6" and read(self._store, f"{place.backend}/online") == b"0":
            return None  # it has ended: the toolstack has yet to take its nodes
        if Counter(known.frontend_domid for known in self.devices)[place.frontend_domid] >= MAX_PER_FRONTEND:
            if place.frontend_domid not in self._full:
                self._full.add(place.frontend_domid)
                LOGGER.error("domid %d: has %d disks already: the others are not served", place.frontend_domid,
                             MAX_PER_FRONTEND)
            return None
        device = self._make(place)
        self.devices[place] = device
        self._fds[place] = device.fileno()
        self._loop.add(device.fileno(), lambda: self._device_events(device))
        return device

    def _device_events(self, device: Device) -> None:
        self._marked[device.place] = None
        self._guarded(device, device.take_events)

    def _guarded(self, device: Device, function: Callable[[], None]) -> None:
        place = device.place
        try:
            function()
        except StoreError as error:
            # Also of a connection that is lost: our own watches know whether for good, and they end it all then.
            LOGGER.error("domid %d devid %d: %s", place.frontend_domid, place.devid, error)
            device.deadline = self._clock() + LATER
        except Exception as error:  # a bug of ours, or a peer that found one: the other disks go on
            LOGGER.error("domid %d devid %d: internal error, the disk is let go as it stands: %s: %s",
                         place.frontend_domid, place.devid, type(error).__name__, error,
                         exc_info=error if LOGGER.isEnabledFor(logging.DEBUG) else None)
            self._drop(device)
            device.detach()

    def _drop(self, device: Device) -> None:
        if self.devices.pop(device.place, None) is not None:
            self._loop.remove(self._fds.pop(device.place))
            self._full.discard(device.place.frontend_domid)

    def close(self) -> None:
        """Let go of every vbd as it is, for a successor, and end the watches."""
        for device in list(self.devices.values()):
            self._drop(device)
            device.detach()
        for watch in self._watches:
            self._loop.remove(watch.fileno())
            try:
                watch.close()
            except StoreError as error:
                LOGGER.debug("while leaving: %s", error)
        self._watches = []
