"""What the backend asks of a storage, whatever is behind it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from xenpv.domain import Closable
from xenpv.errors import StorageError
from xenpv.wire.blkif import Status

SECTOR = 512
"""Bytes of the unit that sizes and offsets are in, whatever a disk's sector size is (io/blkif.h)."""


class StorageBusyError(StorageError):
    """Another process holds the storage; it may let go in a moment, so asking again makes sense."""


def foreign_error(name: str, error: BaseException) -> StorageError:
    """An exception that is none of ours, a plug-in's, as one of ours: in one line that begins with `name`."""
    return StorageError(f"{name}: {type(error).__name__}: {' '.join(str(error).split())}")


@dataclass(frozen=True, slots=True)
class StorageFacts:
    """What a disk on this storage is. Sizes are bytes, but for `sectors`."""

    sectors: int
    """The size in units of 512 bytes."""
    readonly: bool
    sector_size: int = SECTOR
    """Logical sector size: every request is a whole number of them."""
    physical_sector_size: int = SECTOR
    flush: bool = True
    """A flush makes what was written before it durable."""
    discard: bool = False
    """A range can be given back."""
    discard_granularity: int = 0
    discard_alignment: int = 0
    discard_secure: bool = False
    """A discard can leave no copy of the data."""
    discard_zeroes: bool = True
    """What was given back reads as zero from then on, always."""

    @property
    def size(self) -> int:
        return self.sectors * SECTOR


class StorageRequest(Protocol):
    """A checked request, as `xenpv_backend.queue.Request` is. `sector` is in 512 bytes, `bytes` in bytes."""

    op: int
    """BLKIF_OP_READ, _WRITE, _FLUSH_DISKCACHE or _DISCARD (io/blkif.h)."""
    sector: int
    bytes: int
    data: memoryview | None
    flush_first: bool
    status: int
    secure: bool
    """A discard that leaves no copy of the data: sent where the facts have `discard_secure`."""


class Storage(Closable, Protocol):
    """Where a disk's bytes are.

    Either it has a descriptor, which the core reads and writes by itself, or it is done in Python by handle().
    """

    @property
    def name(self) -> str:
        """What it is, for people."""
        ...

    @property
    def cache(self) -> str:
        """How it is reached, for people: a mode of cache.py, ``memory``, ``python``."""
        ...

    @property
    def facts(self) -> StorageFacts: ...

    @property
    def inline(self) -> bool:
        """Reads and writes never wait for a device, so a thread or a ring of its own would only cost."""
        ...

    def fileno(self) -> int:
        """The descriptor, or -1: then handle() does the work."""
        ...

    def handle(self, requests: Sequence[StorageRequest]) -> None:
        """Do them, and set the `status` of each (BLKIF_RSP_*). Called by one thread at a time."""
        ...

    def refresh(self) -> StorageFacts:
        """Look at the size again, and return the facts as they are now. Raises StorageError."""
        ...

    def grow(self, size: int) -> StorageFacts:
        """Make it `size` bytes, which must not be fewer than now. Raises StorageError."""
        ...


Done = Callable[[StorageRequest], None]
"""Told, from any thread, that a request is done and has its status."""


@runtime_checkable
class Submits(Protocol):
    """What a storage has that works on many requests at once."""

    def submit(self, requests: Sequence[StorageRequest], done: Done) -> None:
        """Begin them, and call `done` exactly once for each, now or later, from any thread, in any order.

        Must not wait for them, and must not raise. May be called by several threads at once.
        """
        ...


@runtime_checkable
class Drains(Protocol):
    """What a storage has that holds requests back on purpose."""

    def drain(self) -> None:
        """The disk is being let go: end soon what is being held back. Called by any thread."""
        ...


@runtime_checkable
class Describes(Protocol):
    """What a storage has that has more to say of itself than its name."""

    def describe(self) -> Mapping[str, Any]:
        """For people and JSON; a key ``degraded`` says in words what is wrong. Called by any thread."""
        ...


@dataclass(slots=True)
class SubRequest:
    """A request that a storage makes of another one."""

    op: int
    sector: int
    bytes: int
    data: memoryview | None = None
    flush_first: bool = False
    status: int = Status.ERROR
    secure: bool = False
