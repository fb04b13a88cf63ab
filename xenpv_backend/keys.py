"""What stands in the store, with None for what does not."""

from __future__ import annotations

from xenpv.domain import Transaction
from xenpv.errors import NoEntryError


class Keys:
    """A directory of the store as `Record.parse` reads it."""

    def __init__(self, store: Transaction, path: str) -> None:
        self._store = store
        self._path = path

    def get(self, name: str, /) -> bytes | None:
        return read(self._store, f"{self._path}/{name}")


def read(store: Transaction, path: str) -> bytes | None:
    """The value of `path`, None without the node. Raises StoreError."""
    try:
        return store.read(path)
    except NoEntryError:
        return None
