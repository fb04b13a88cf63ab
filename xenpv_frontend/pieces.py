"""I/Os as a Reaper keeps them: single ones, and those of an owner who keeps his own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from xenpv.errors import XenpvError

from .buffers import Run
from .queue import IoArray

if TYPE_CHECKING:
    from .reaper import Reaper

NONE = IoArray(0)
"""Submits nothing; leaves what is done in the queue."""

CONTROL_IOS = 64
"""Flushes and discards in flight at once, at the most; those with data are bounded by the pool's pages."""


@dataclass(slots=True, eq=False)
class Piece:
    """One I/O of the core's: `op` (BLKIF_OP_*), `sector` of 512 bytes, `length` in bytes, through `run`."""

    op: int
    sector: int
    length: int
    run: Run | None = None
    flags: int = 0
    """XENPV_SECURE, of a discard."""
    status: int | None = None
    """BLKIF_RSP_*, once it is done."""
    cookie: int = 0
    abandoned: bool = False
    home: Reaper | None = None
    """In whose books it is, where there are several (Reapers)."""

    def put(self, array: IoArray, index: int) -> None:
        """Write it as record `index` of `array`."""
        array.cookie[index] = self.cookie
        array.sector[index] = self.sector
        array.bytes[index] = self.length
        array.page[index] = 0 if self.run is None else self.run.first
        array.op[index] = self.op
        array.flags[index] = self.flags


class Owner(Protocol):
    """Keeps its I/Os itself: their cookies have its number in the high half."""

    def submitting(self, count: int) -> None:
        """The next `count` of its I/Os enter its books, and their records what it submits. The reaper's lock is held."""
        ...

    def arrived(self, record: bytes) -> None:
        """An I/O of this owner was taken by another one: its record, IO_BYTES long. The reaper's lock is held."""
        ...

    def unanswered(self) -> bytes:
        """The records of all its I/Os in flight, as they were submitted. The reaper's lock is held and nobody leads."""
        ...

    def moved(self, reaper: Reaper) -> None:
        """It is an owner of `reaper`'s from now on. The lock of both is held and nobody leads."""
        ...

    @property
    def outstanding(self) -> int:
        """I/Os submitted and neither brought nor arrived."""
        ...


class Moved(XenpvError):
    """This reaper has no queue any more, and what was in its books is in another's: never seen outside of this package."""
