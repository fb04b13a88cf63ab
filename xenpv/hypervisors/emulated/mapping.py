"""Other domains' pages in this process, and the core's handles that map them."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from xenpv.core import ffi, lib
from xenpv.errors import ClosedError, GrantError, HypervisorError

from .calls import PAGE_SIZE
from .link import connect

_PAGES_MAX = 65536
_PERMISSION_DENIED = -8

_REASONS = {-2: "there is no such domain", -3: "not granted", _PERMISSION_DENIED: "granted to another, or read-only",
            -13: "no space for one more mapping"}


class EmulatedCore:
    """CoreHandle of the emulated Xen: a connection of its own."""

    def __init__(self, directory: Path) -> None:
        error = ffi.new("int *")
        self.directory = directory
        self._handle: Any = lib.xenpv_emulated_open(connect(directory).detach(), error)
        if not self._handle:
            raise HypervisorError(f"the emulated Xen in {directory} does not answer ({os.strerror(error[0])})")

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

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.close()


class EmulatedMappedPages:
    """MappedPages of the emulated Xen. Its memory never leaves this class."""

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

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.close()


class Mapper:
    """Maps through one handle of the core, for any thread."""

    def __init__(self, directory: Path) -> None:
        self.lock = threading.Lock()
        self.mapped: set[EmulatedMappedPages] = set()
        self._directory = directory
        self._core: EmulatedCore | None = None
        self._closed = False

    @property
    def core(self) -> EmulatedCore:
        """The handle, opened when it is first needed."""
        if self._closed:
            raise ClosedError("this domain was closed")
        if not self._core:
            self._core = EmulatedCore(self._directory)
        return self._core

    def map(self, domid: int, refs: Sequence[int], *, writable: bool = True) -> EmulatedMappedPages:
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
                mapped = EmulatedMappedPages(self, pages, len(refs) * PAGE_SIZE, writable)
                self.mapped.add(mapped)
                return mapped
        what = f"cannot map grant {refs[0]}{'...' if len(refs) > 1 else ''} of domain {domid}"
        if status[0]:
            raise GrantError(f"{what}: {_REASONS.get(status[0], 'refused')} (GNTST {status[0]})", status[0])
        raise HypervisorError(f"{what}: {os.strerror(error)}; is the emulated Xen in {self._directory} alive?")

    def close(self) -> None:
        """End every mapping."""
        with self.lock:
            for mapped in list(self.mapped):
                mapped.end()
            self._closed = True
            if self._core:
                self._core.close()
