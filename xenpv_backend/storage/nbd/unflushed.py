"""What a server has acknowledged and was not yet made durable by a flush: written again when the server comes back.

A server that dies may lose what it had not flushed, while the guest has been told that it is written, and a flush to the
new server would then succeed for data that is not there. So copies are kept until a flush that began after them succeeds.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Change:
    """A write, or with `data` None a range that was made zero or given back. Bytes."""

    number: int
    offset: int
    length: int
    data: bytes | None
    trim: bool = False

    def overlaps(self, other: Change) -> bool:
        return self.offset < other.offset + other.length and other.offset < self.offset + self.length


class Unflushed:
    """The changes in the order in which they were acknowledged. For one thread."""

    def __init__(self, limit: int) -> None:
        """From `limit` bytes on a flush is due; at twice that nothing may be added (full)."""
        self._limit = limit
        self._changes: deque[Change] = deque()
        self._number = 0
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._changes)

    def __iter__(self) -> Iterator[Change]:
        return iter(tuple(self._changes))

    @property
    def is_due(self) -> bool:
        return self.bytes >= self._limit

    @property
    def is_full(self) -> bool:
        return self.bytes >= 2 * self._limit

    def add(self, offset: int, length: int, data: bytes | None, trim: bool = False) -> None:
        """It was acknowledged."""
        self._number += 1
        self._changes.append(Change(self._number, offset, length, data, trim))
        self.bytes += self._cost(self._changes[-1])

    @staticmethod
    def _cost(change: Change) -> int:
        return 4096 if change.data is None else change.length

    def mark(self) -> int:
        """All that was acknowledged until now: for flushed(), when the flush that begins now has succeeded."""
        return self._number

    def flushed(self, mark: int) -> None:
        while self._changes and self._changes[0].number <= mark:
            self.bytes -= self._cost(self._changes.popleft())
