"""Other domains' pages in this process, and the core's handles that map them: on every hypervisor."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from typing import Any

from xenpv.closing import Closing
from xenpv.core import ffi, lib
from xenpv.domain import PAGE_SIZE
from xenpv.errors import ClosedError, GrantError, HypervisorError

_PAGES_MAX = 65536
_PERMISSION_DENIED = -8

_REASONS = {-1: "not granted to us, or read-only", -2: "there is no such domain", -3: "no such grant reference",
            _PERMISSION_DENIED: "not allowed by Xen's security policy", -13: "no space for one more mapping"}


class Core(Closing):
    """A CoreHandle: one struct xenpv_hypervisor, which this object owns."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle

    def detach(self) -> int:
        address = int(ffi.cast("uintptr_t", self.handle))
        self._handle = None
        return address

    @property
    def handle(self) -> Any:
        """cffi's pointer; for this module."""
        if not self._handle:
            raise ClosedError("this handle was closed")
        return self._handle

    def close(self) -> None:
        if self._handle:
            handle, self._handle = self._handle, None
            lib.xenpv_hypervisor_close(handle)


class MappedPages(Closing):
    """Other domains' pages. Their memory never leaves this class."""

    def __init__(self, owner: Mapper, pages: Any, size: int, writable: bool) -> None:
        self._owner = owner
        self._map = pages
        self._size = size
        self._writable = writable

    @property
    def writable(self) -> bool:
        return self._writable

    def _at(self, offset: int, length: int) -> Any:
        if not self._map:
            raise ClosedError("these mapped pages were closed")
        if offset < 0 or length < 0 or offset + length > self._size:
            raise ValueError(f"{length} bytes at {offset} are not within the {self._size} mapped")
        return lib.xenpv_map_memory(self._map) + offset

    def read(self, offset: int, length: int) -> bytes:
        with self._owner.lock:
            return bytes(ffi.buffer(self._at(offset, length), length))

    def write(self, offset: int, data: bytes) -> None:
        with self._owner.lock:
            start = self._at(offset, len(data))
            if not self._writable:
                raise GrantError("these pages are mapped read-only", _PERMISSION_DENIED)
            ffi.memmove(start, data, len(data))

    def close(self) -> None:
        with self._owner.lock:
            self.end()

    def end(self) -> None:
        """close() for the holder of the lock."""
        if self._map:
            pages, self._map = self._map, None
            self._owner.mapped.discard(self)
            lib.xenpv_map_end(self._owner.core.handle, pages)


class Mapper:
    """Maps through one handle of the core, for any thread.

    `open_core` makes the handle when it is first needed; `trouble` is what to say when the hypervisor did not even
    refuse.
    """

    def __init__(self, open_core: Callable[[], Core], trouble: str, kind: type[MappedPages] = MappedPages) -> None:
        self.lock = threading.Lock()
        self.mapped: set[MappedPages] = set()
        self.open_core = open_core
        self._trouble = trouble
        self._kind = kind
        self._core: Core | None = None
        self._closed = False

    @property
    def core(self) -> Core:
        """The handle, opened when it is first needed."""
        if self._closed:
            raise ClosedError("this domain was closed")
        if not self._core:
            self._core = self.open_core()
        return self._core

    def map(self, domid: int, refs: Sequence[int], *, writable: bool = True) -> MappedPages:
        """See xenpv.domain.Grants.map. Raises GrantError, ValueError."""
        if not 1 <= len(refs) <= _PAGES_MAX or not all(0 <= ref <= 0xFFFFFFFF for ref in refs):
            raise ValueError(f"a map is 1 to {_PAGES_MAX} grant references of 32 bits")
        if not 0 <= domid <= 0xFFFFFFFF:
            raise ValueError(f"{domid} is no domain number")
        status = ffi.new("int *")
        with self.lock:
            pages = lib.xenpv_map_new(self.core.handle, domid, list(refs), len(refs), writable, status)
            error = ffi.errno
            if pages:
                mapped = self._kind(self, pages, len(refs) * PAGE_SIZE, writable)
                self.mapped.add(mapped)
                return mapped
        what = f"cannot map grant {refs[0]}{'...' if len(refs) > 1 else ''} of domain {domid}"
        if status[0]:
            raise GrantError(f"{what}: {_REASONS.get(status[0], 'refused')} (GNTST {status[0]})", status[0])
        raise HypervisorError(f"{what}: {os.strerror(error)}; {self._trouble}")

    def close(self) -> None:
        """End every mapping."""
        with self.lock:
            for mapped in list(self.mapped):
                mapped.end()
            self._closed = True
            if self._core:
                self._core.close()
