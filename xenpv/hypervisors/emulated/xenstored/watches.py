"""Watches: who wants to know of which path.

Source: docs/misc/xenstore.txt of Xen, "Watches".

RULES
- A watch stands in two indexes, by path and by connection, and only `Watches` changes them, both at once (XSA-330).
- What fires walks over a copy: telling one connection may close another (XSA-425).
- A domain is told of a node only if it may read the node, as it was or as it is, or its parent (XSA-115).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from xenpv.errors import StoreError

from . import paths
from .permissions import Access, Permissions, access
from .quotas import Domain
from .transaction import Event


class Watcher(Protocol):
    """A connection, as watches know it."""

    @property
    def domain(self) -> Domain: ...

    def queue_event(self, path: str, token: bytes) -> None:
        """Put a WATCH_EVENT into its output."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Watch:
    """One watch."""

    watcher: Watcher
    path: str
    token: bytes
    prefix: int
    """How much of an event's path its owner does not want to see: it registered a relative path."""
    depth: int | None
    """Levels below `path` that count, or None for all."""

    @property
    def size(self) -> int:
        """Bytes that count against the quota of memory."""
        return len(self.path) + len(self.token)

    def fire(self, path: str) -> None:
        """Tell of a change at `path`."""
        self.watcher.queue_event(path[self.prefix:], self.token)

    def reaches(self, path: str) -> bool:
        """Whether `path`, at or below the watched one, is within the depth."""
        return self.depth is None or paths.levels_below(path, self.path) <= self.depth


class Watches:
    """Every watch of the store."""

    def __init__(self) -> None:
        self._by_path: dict[str, list[Watch]] = {}
        self._by_watcher: dict[Watcher, dict[tuple[str, bytes], Watch]] = {}

    def count(self, watcher: Watcher) -> int:
        """How many watches a connection has."""
        return len(self._by_watcher.get(watcher, ()))

    def add(self, watch: Watch) -> None:
        """Add a watch. Raises StoreError: EEXIST for one that is there, E2BIG for too many, ENOSPC for memory."""
        domain, key = watch.watcher.domain, (watch.path, watch.token)
        mine = self._by_watcher.get(watch.watcher, {})
        if key in mine:
            raise StoreError("this watch is there already", "EEXIST")
        domain.demand("watches", domain.usage.watches + 1, "E2BIG")
        domain.demand("memory", domain.usage.memory + watch.size)
        self._by_watcher.setdefault(watch.watcher, mine)[key] = watch
        self._by_path.setdefault(watch.path, []).append(watch)
        domain.usage.watches += 1
        domain.usage.memory += watch.size

    def remove(self, watcher: Watcher, path: str, token: bytes) -> None:
        """Remove one watch. Raises StoreError (ENOENT)."""
        watch = self._by_watcher.get(watcher, {}).pop((path, token), None)
        if watch is None:
            raise StoreError("there is no such watch", "ENOENT")
        if not self._by_watcher[watcher]:
            del self._by_watcher[watcher]
        self._forget(watch)

    def remove_all(self, watcher: Watcher) -> None:
        """Remove every watch of a connection."""
        for watch in self._by_watcher.pop(watcher, {}).values():
            self._forget(watch)

    def fire(self, events: Iterable[Event]) -> None:
        """Tell of committed changes."""
        for event in events:
            for at in paths.upwards(event.path) if event.upwards else (event.path,):
                for watch in tuple(self._by_path.get(at, ())):
                    if watch.reaches(event.path) and _permitted(watch, event.readers):
                        watch.fire(event.path)

    def fire_special(self, name: str, domid: int, permissions: Permissions) -> None:
        """Tell of `name` (``@introduceDomain``, ``@releaseDomain``) for domain `domid`.

        A watch without a depth gets the name; one of depth 1 or more, or on ``name/domid``, gets ``name/domid``.
        """
        exact = f"{name}/{domid}"
        for watch in tuple(self._by_path.get(name, ())):
            if _permitted(watch, (permissions,)) and watch.depth != 0:
                watch.fire(name if watch.depth is None else exact)
        for watch in tuple(self._by_path.get(exact, ())):
            if _permitted(watch, (permissions,)):
                watch.fire(exact)

    def _forget(self, watch: Watch) -> None:
        here = self._by_path[watch.path]
        here.remove(watch)
        if not here:
            del self._by_path[watch.path]
        usage = watch.watcher.domain.usage
        usage.watches -= 1
        usage.memory -= watch.size


def _permitted(watch: Watch, readers: Iterable[Permissions]) -> bool:
    identities = watch.watcher.domain.identities
    return any(Access.READ in access(permissions, identities) for permissions in readers)
