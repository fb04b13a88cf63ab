"""`EmulatedDomain`: a process's place on the emulated Xen."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from pathlib import Path

from xenpv.closing import Closing
from xenpv.core import ffi, lib
from xenpv.domain import Store
from xenpv.errors import ClosedError, HypervisorError
from xenpv.store import XenStore

from ..mapping import Core, MappedPages, Mapper
from .channels import Channels
from .link import Link, connect
from .rundir import domain_directory
from .sharing import EmulatedSharedPages, Sharing


def open_core(directory: Path) -> Core:
    """A handle of the core: a connection of its own. Raises HypervisorError."""
    error = ffi.new("int *")
    handle = lib.xenpv_emulated_open(connect(directory).detach(), error)
    if not handle:
        raise HypervisorError(f"the emulated Xen in {directory} does not answer ({os.strerror(error[0])})")
    return Core(handle)


class EmulatedGrants:
    """The Grants of a domain."""

    def __init__(self, sharing: Sharing, mapper: Mapper) -> None:
        self._sharing = sharing
        self._mapper = mapper

    def share(self, domid: int, count: int = 1, *, writable: bool = True) -> EmulatedSharedPages:
        return self._sharing.share(domid, count, writable=writable)

    def map(self, domid: int, refs: Sequence[int], *, writable: bool = True) -> MappedPages:
        return self._mapper.map(domid, refs, writable=writable)


class EmulatedDomain(Closing):
    """The Domain of an ``emulated:`` URI. Closing it ends its grants, mappings and ports.

    Raises UsageError for a URI that is none, HypervisorError when there is no emulated Xen or no such domain.
    """

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self.directory = domain_directory(uri)
        self._link = Link(self.directory)
        self._sharing = Sharing(self._link)
        self._mapper = Mapper(lambda: open_core(self.directory), f"is the emulated Xen in {self.directory} alive?")
        self._grants = EmulatedGrants(self._sharing, self._mapper)
        self._events = Channels(self._link)
        self._store: Store | None = None
        self._store_lock = threading.Lock()
        self._closed = False

    def _open(self) -> None:
        if self._closed:
            raise ClosedError(f"{self._uri} was closed")

    @property
    def domid(self) -> int:
        return self._link.domid

    @property
    def uri(self) -> str:
        return self._uri

    @property
    def grants(self) -> EmulatedGrants:
        self._open()
        return self._grants

    @property
    def events(self) -> Channels:
        self._open()
        return self._events

    @property
    def store(self) -> Store:
        """Connected when it is first asked for."""
        self._open()
        with self._store_lock:
            if self._store is None:
                # A host that is gone took its domains along: there is nothing to connect to again.
                self._store = XenStore(self.directory / "xenstored", reconnect=0)
            return self._store

    def open_core(self) -> Core:
        self._open()
        return open_core(self.directory)

    def kernel_driver(self, devid: int) -> None:
        """A process has no drivers but its own."""

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._events.close()
        self._mapper.close()
        self._sharing.close()
        self._link.close()
        if self._store is not None:
            self._store.close()
