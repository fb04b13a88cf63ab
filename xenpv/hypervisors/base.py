"""What a Domain is made of on every hypervisor: pages of its own, the grants, the domain."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Protocol

from xenpv.closing import Closing
from xenpv.domain import PAGE_SIZE, Events, SharedPages, Store
from xenpv.errors import ClosedError

from .mapping import Core, MappedPages, Mapper

IN_USE = "a slice of shared pages is still in use: release it before close()"


class OwnPages(Closing):
    """SharedPages, but for how they are let go."""

    def __init__(self, refs: Sequence[int], memory: memoryview) -> None:
        self._refs = tuple(refs)
        self._memory: memoryview | None = memory

    @property
    def refs(self) -> Sequence[int]:
        return self._refs

    @property
    def memory(self) -> memoryview:
        if self._memory is None:
            raise ClosedError("these shared pages were closed")
        return self._memory

    def _check(self, byte: int) -> None:
        """Raises ClosedError, ValueError for a byte outside."""
        size = len(self.memory)
        if not 0 <= byte < size:
            raise ValueError(f"byte {byte} is not within the {size // PAGE_SIZE} pages")


class Shares(Protocol):
    """The hypervisor's way to share pages."""

    def share(self, domid: int, count: int = 1, *, writable: bool = True) -> SharedPages: ...

    def close(self) -> None: ...


class Channels(Events, Protocol):
    """Its Events, which end with the domain."""

    def close(self) -> None: ...


class DomainGrants:
    """The Grants of a domain."""

    def __init__(self, sharing: Shares, mapper: Mapper) -> None:
        self._sharing = sharing
        self._mapper = mapper

    def share(self, domid: int, count: int = 1, *, writable: bool = True) -> SharedPages:
        return self._sharing.share(domid, count, writable=writable)

    def map(self, domid: int, refs: Sequence[int], *, writable: bool = True) -> MappedPages:
        return self._mapper.map(domid, refs, writable=writable)


class BaseDomain(Closing):
    """A Domain, but for its number and its kernel. Closing it ends its grants, mappings and ports."""

    def __init__(self, uri: str, sharing: Shares, mapper: Mapper, events: Channels, connect: Callable[[], Store]) -> None:
        self._uri = uri
        self._sharing = sharing
        self._mapper = mapper
        self._grants = DomainGrants(sharing, mapper)
        self._events = events
        self._connect = connect
        self._store: Store | None = None
        self._store_lock = threading.Lock()
        self._closed = False

    def _open(self) -> None:
        if self._closed:
            raise ClosedError(f"{self._uri} was closed")

    @property
    def uri(self) -> str:
        return self._uri

    @property
    def grants(self) -> DomainGrants:
        self._open()
        return self._grants

    @property
    def events(self) -> Events:
        self._open()
        return self._events

    @property
    def store(self) -> Store:
        """Connected when it is first asked for."""
        self._open()
        with self._store_lock:
            if self._store is None:
                self._store = self._connect()
            return self._store

    def open_core(self) -> Core:
        self._open()
        return self._mapper.open_core()

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._events.close()
        self._mapper.close()
        self._sharing.close()
        if self._store is not None:
            self._store.close()
