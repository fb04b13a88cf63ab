"""A disk that the kernel's own frontend has: taken away from it, and given back.

RULES
- A disk that somebody uses is not taken (KernelDriver.unbind).
- The kernel connects a device once in its life: it waits for the backend's InitWait only while its own state, which it keeps
  in its memory, is Initialising, and unbinding made that Closed. So binding its driver again does nothing; it is given the
  disk as a new device, which it makes when the node was away and is there again.
- Only the toolstack's domain may make that node. It is tried within a transaction before anything is removed: a node that a
  guest removed would be lost to it.

Source: Linux's xenbus_probe.c (xenbus_probe_node, xenbus_dev_changed) and xen-blkfront.c (blkback_changed).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

from xenpv.closing import Closing
from xenpv.domain import Domain, KernelDriver, Store, Transaction
from xenpv.errors import AccessDeniedError, DeviceError, XenpvError
from xenpv.xenbus import HANDOVER, FrontendRings, VbdPlace, XenbusState, vdev_name

log = logging.getLogger("xenpv.frontend")

PATIENCE = 30.0
"""Seconds for the kernel to see what happened to a node, and to connect."""


class _Rehearsed(Exception):
    """Ends the rehearsal's transaction."""


def take_from_kernel(domain: Domain, place: VbdPlace, *, allowed: bool) -> Taken | None:
    """Take the disk at `place` from the kernel of `domain`; None when it has not got it.

    Raises DeviceError when it has and that is not `allowed`, when somebody uses it, or this process may not.
    """
    driver = domain.kernel_driver(place.devid)
    if driver is None or not driver.holds:
        return None
    if not allowed:
        as_what = f" as {driver.shows}" if driver.shows else ""
        raise DeviceError(f"{vdev_name(place.devid)}: the kernel of this domain has it{as_what}: unmount it and take it "
                          "with --take, in Python take=True")
    driver.unbind()
    return Taken(domain.store, place, driver)


class Taken(Closing):
    """A disk that is the kernel's again after close()."""

    def __init__(self, store: Store, place: VbdPlace, driver: KernelDriver) -> None:
        self._store = store
        self._place = place
        self._driver = driver
        self._given = False

    def close(self) -> None:
        """Give it back. The log says where that cannot be: the disk is closed well all the same."""
        if self._given:
            return
        self._given = True
        try:
            self.give_back()
        except XenpvError as error:
            log.warning("%s", error)

    def give_back(self) -> None:
        """Make the node anew and wait until the kernel has connected. Raises DeviceError, StoreError."""
        place, name = self._place, vdev_name(self._place.devid)
        try:
            self._rehearse()
        except AccessDeniedError:
            raise DeviceError(
                f"{name} is closed, and a guest's kernel does not take it back by itself: in domain {place.backend_domid}, "
                f"`xl block-detach {place.frontend_domid} {name}` and `xl block-attach` make it new") from None
        keys = self._keys()
        permissions = self._store.get_permissions(place.frontend)
        self._store.remove(place.frontend)
        try:
            seen = self._wait(lambda: not self._driver.known)
        finally:
            self._store.transact(lambda transaction: self._make(transaction, keys, permissions))
        if not seen or not self._wait(lambda: self._driver.holds and self._state() == b"%d" % XenbusState.CONNECTED):
            raise DeviceError(f"{name}: the kernel did not take it back within {PATIENCE:g} s: its dmesg may say why")

    def _rehearse(self) -> None:
        def attempt(transaction: Transaction) -> None:
            transaction.remove(self._place.frontend)
            self._make(transaction, {}, ["n0"])
            raise _Rehearsed

        try:
            self._store.transact(attempt)
        except _Rehearsed:
            pass

    def _keys(self) -> dict[str, bytes]:
        """What the toolstack wrote, without a ring that somebody left there."""
        path = self._place.frontend
        names = self._store.list(path)
        rings = FrontendRings.leftovers(names)
        return {name: self._store.read(f"{path}/{name}") for name in names if name not in rings and name != "state"}

    def _make(self, transaction: Transaction, keys: dict[str, bytes], permissions: Sequence[str]) -> None:
        place = self._place
        transaction.mkdir(place.frontend)
        transaction.set_permissions(place.frontend, permissions)
        for key, value in keys.items():
            transaction.write(f"{place.frontend}/{key}", value)
        if place.kind != "qdisk":  # QEMU's backend stays, and only looks at its frontend
            # The kernel's backend has forgotten the node by now, and looks at it again when it is Initialising; ours has too,
            # and the kernel's is to pass over it.
            ours = transaction.exists(f"{place.backend}/{HANDOVER}")
            state = XenbusState.INIT_WAIT if ours else XenbusState.INITIALISING
            transaction.write(f"{place.backend}/state", str(int(state)))
        transaction.write(f"{place.frontend}/state", str(int(XenbusState.INITIALISING)))

    def _state(self) -> bytes:
        return self._store.read(f"{self._place.frontend}/state")

    def _wait(self, condition: Callable[[], bool]) -> bool:
        """Whether `condition` holds within PATIENCE."""
        deadline = time.monotonic() + PATIENCE
        with self._store.watch(self._place.frontend) as watch:
            while not condition():
                if time.monotonic() > deadline:
                    return False
                watch.wait(0.05)  # what the kernel does to its devices is not in the store
        return True
