"""A Store in a dict, for one thread: watches fire at once, a transaction is a copy."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from xenpv.errors import NoEntryError, StoreError

T = TypeVar("T")


class FakeWatch:
    """The pending paths of a watch."""

    def __init__(self, store: FakeStore, path: str) -> None:
        self.path = path
        self.pending = [path]
        self._store = store
        self._fd = os.eventfd(1)

    def wait(self, timeout: float | None = None) -> str | None:
        return self.pending.pop(0) if self.pending else None

    def fileno(self) -> int:
        return self._fd

    def close(self) -> None:
        if self in self._store.watches:
            self._store.watches.remove(self)
            os.close(self._fd)


class FakeStore:
    """`failures`: the next calls of write or transact raise these, one each."""

    def __init__(self, nodes: Mapping[str, bytes | str] = {}) -> None:
        self.nodes: dict[str, bytes] = {}
        self.made: set[str] = set()
        """Directories that a write has made on its way: they stay when what is in them goes."""
        self.watches: list[FakeWatch] = []
        self.failures: list[StoreError] = []
        self.written: list[tuple[str, bytes]] = []
        self.between: Callable[[], None] | None = None
        """Done once, just before the next transaction: what another hand does meanwhile."""
        for path, value in nodes.items():
            self.write(path, value)

    def _fire(self, path: str) -> None:
        for watch in self.watches:
            if path == watch.path or path.startswith(f"{watch.path}/") or watch.path.startswith(f"{path}/"):
                if path not in watch.pending:
                    watch.pending.append(path)

    def read(self, path: str) -> bytes:
        if path not in self.nodes:
            raise NoEntryError(f"{path} is not there", "ENOENT")
        return self.nodes[path]

    def write(self, path: str, value: bytes | str) -> None:
        if self.failures:
            raise self.failures.pop(0)
        self.nodes[path] = value.encode() if isinstance(value, str) else value
        self.made.update(itertools.accumulate(path.split("/")[:-1], lambda above, name: f"{above}/{name}"))
        self.written.append((path, self.nodes[path]))
        self._fire(path)

    def mkdir(self, path: str) -> None:
        self.nodes.setdefault(path, b"")

    def remove(self, path: str) -> None:
        for name in [name for name in self.nodes if name == path or name.startswith(f"{path}/")]:
            del self.nodes[name]
        self.made = {name for name in self.made if name != path and not name.startswith(f"{path}/")}
        self._fire(path)

    def list(self, path: str) -> list[str]:
        names = {name[len(path) + 1:].split("/")[0] for name in self.nodes if name.startswith(f"{path}/")}
        if not names and path not in self.nodes and path not in self.made:
            raise NoEntryError(f"{path} is not there", "ENOENT")
        return sorted(names)

    def exists(self, path: str) -> bool:
        return path in self.nodes

    def get_permissions(self, path: str) -> list[str]:
        return ["n0"]

    def set_permissions(self, path: str, permissions: Sequence[str]) -> None:
        """Nobody asks this store who they are."""

    def transact(self, function: Callable[[FakeStore], T], *, attempts: int = 16) -> T:
        if self.between is not None:
            between, self.between = self.between, None
            between()
        if self.failures:
            raise self.failures.pop(0)
        before = dict(self.nodes)
        try:
            return function(self)
        except BaseException:
            self.nodes = before
            raise

    def watch(self, path: str, *, depth: int | None = None, limit: int = 1024) -> FakeWatch:
        self.watches.append(FakeWatch(self, path))
        return self.watches[-1]

    def write_all(self, values: Mapping[str, bytes | str]) -> None:
        for path, value in values.items():
            self.write(path, value)

    def domain_path(self, domid: int) -> str:
        return f"/local/domain/{domid}"

    def close(self) -> None:
        for watch in list(self.watches):
            watch.close()
