"""Why a vbd does not work, where Linux's drivers leave it too (drivers/xen/xenbus/xenbus_client.c): for the toolstack."""

from __future__ import annotations

import logging

from xenpv.domain import Store, Transaction
from xenpv.errors import NoEntryError, StoreError
from xenpv.xenbus import VbdPlace

from .log import VbdLog


class ErrorNode:
    """The reason in the store, of the vbd at `place`. That it cannot be written is logged, and no more."""

    def __init__(self, store: Store, place: VbdPlace, log: VbdLog) -> None:
        top, _, rest = place.backend.partition("/backend/")
        self._path = f"{top}/error/backend/{rest}"
        # dom0 makes the directory anew when it needs it; a driver domain could not.
        self._kept = top if place.backend_domid == 0 else f"{top}/error"
        self._store = store
        self._log = log
        self._said = False

    def say(self, text: str) -> None:
        """`text` is the reason from now on."""
        try:
            self._store.write(f"{self._path}/error", text[:1000])
            self._said = True
        except StoreError as error:
            self._log.guest(f"cannot say why in the store: {error}", logging.ERROR)

    def unsay(self) -> None:
        """What was said holds no longer. Directories that are empty without it go too."""
        if not self._said:
            return
        self._said = False
        try:
            self._store.transact(self._remove)
        except NoEntryError:
            pass  # somebody was faster
        except StoreError as error:
            self._log.guest(f"cannot remove {self._path}: {error}", logging.ERROR)

    def _remove(self, store: Transaction) -> None:
        path = self._path
        store.remove(path)
        while (path := path.rpartition("/")[0]) != self._kept and not store.list(path):
            store.remove(path)
