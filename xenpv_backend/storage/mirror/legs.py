"""The legs of a mirror while it is open, and the requests that go to several of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from xenpv.errors import StorageError
from xenpv.wire.blkif import Status

from ..base import SECTOR, Done, StorageFacts, StorageRequest
from ..layers import AsyncStorage

RETRY: Final = (1.0, 60.0)
"""Seconds until a leg that failed is tried again: the first pause, doubled up to the last."""

OpenLeg = Callable[[str], AsyncStorage]
"""Opens a leg by its target. Raises StorageError."""

ACTIVE, RECOVERING, FAILED = "active", "recovering", "failed"
"""It has everything; it gets all writes, and what it lacks is being copied; it is not used."""


@dataclass(slots=True, eq=False)
class OpenedLeg:
    """A leg."""

    target: str
    state: str = FAILED
    storage: AsyncStorage | None = None
    whole: bool = False
    """Written down as having every acknowledged write."""
    todo: set[int] = field(default_factory=set)
    """Regions that are still to be copied to it."""
    error: str = ""
    pause: float = RETRY[0]
    opening: bool = False

    @property
    def is_written(self) -> bool:
        return self.state != FAILED

    def check(self, storage: AsyncStorage, size: int, sector_size: int, discards: bool) -> None:
        """That `storage` may be this leg of a disk of `size` bytes. Raises StorageError."""
        facts = storage.facts
        if facts.size < size:
            raise StorageError(f"{self.target} has {facts.size} bytes, and the mirror {size}")
        if facts.sector_size > sector_size:
            raise StorageError(f"{self.target} has sectors of {facts.sector_size} bytes, the disk of {sector_size}")
        if discards and not (facts.discard and facts.discard_zeroes):
            raise StorageError(f"{self.target} cannot discard, and the disk offers it")
        if facts.readonly:
            raise StorageError(f"{self.target} is read-only")


@dataclass(slots=True, eq=False)
class Change:
    """A guest's request that goes to all legs: a write, a discard, a flush."""

    request: StorageRequest
    done: Done | None
    """None: our own flush."""
    on: list[OpenedLeg] = field(default_factory=list)
    """The legs that it was sent to."""
    failed: list[OpenedLeg] = field(default_factory=list)
    left: int = 0
    flushing: bool = False
    """It is a flush, or a write's flush that comes first."""
    mark: int = 0

    @property
    def start(self) -> int:
        return self.request.sector * SECTOR

    @property
    def end(self) -> int:
        return self.start + self.request.bytes

    def touches(self, span: tuple[int, int] | None) -> bool:
        """Whether it changes a byte of the range [from, to)."""
        return span is not None and self.start < span[1] and span[0] < self.end


def common_facts(legs: list[OpenedLeg], size: int, readonly: bool) -> StorageFacts:
    """What a disk on these legs is."""
    facts = [leg.storage.facts for leg in legs if leg.storage is not None]
    discard = not readonly and all(each.discard and each.discard_zeroes for each in facts)  # or the legs would differ
    sector = max(each.sector_size for each in facts)
    return StorageFacts(size // SECTOR, readonly, sector, max(sector, *(each.physical_sector_size for each in facts)),
                        flush=all(each.flush for each in facts), discard=discard,
                        discard_granularity=max(each.discard_granularity for each in facts) if discard else 0)


def status_of_all(change: Change, copies: int) -> Status:
    """The answer, when every leg has answered: success only with enough legs that have everything."""
    good = [leg for leg in change.on if leg not in change.failed and leg.state == ACTIVE]
    return Status.OKAY if len(good) >= copies else Status.ERROR
