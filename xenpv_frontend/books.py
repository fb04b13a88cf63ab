"""Which slots of a batch are free, and what is in flight in the others: the only wrapper of the core's batch.c."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from xenpv.core import ffi, lib

from .queue import IO_BYTES, IoArray


class Books:
    """A slot for each of `pages`, where in the pool its `block` bytes begin. `owner` is the high half of each I/O's cookie,
    and the slot is the low half. For one thread at a time.
    """

    def __init__(self, owner: int, block: int, pages: Sequence[int]) -> None:
        depth = len(pages)
        self.ios = IoArray(depth)
        """What submit() has put into the books: for Queue.exchange()."""
        self._sectors = ffi.new("uint64_t[]", depth)
        self.sectors = memoryview(ffi.buffer(self._sectors)).cast("B").cast("Q")
        """Where the I/Os of the next submit() go."""
        self._memory = ffi.new("struct xenpv_batch_slot[]", depth), ffi.new("uint32_t[]", depth)
        self._batch: Any = ffi.new("struct xenpv_batch *")
        lib.xenpv_batch_init(self._batch, depth, owner, block, list(pages), *self._memory)

    @property
    def free(self) -> int:
        """Slots without an I/O in flight."""
        return int(self._batch.free)

    @property
    def in_flight(self) -> int:
        """The others."""
        return int(self._batch.depth - self._batch.free)

    def next_slots(self, count: int) -> list[int]:
        """The slots of the next `count` I/Os, at most `free`: in the order in which they were done."""
        slots = ffi.new("uint32_t[]", count)
        lib.xenpv_batch_next(self._batch, slots, count)
        return list(slots)

    def submit(self, op: int, count: int) -> None:
        """`count` I/Os, at most `free`, are in flight from now on."""
        lib.xenpv_batch_submit(self._batch, op, self._sectors, self.ios.records, count)

    def done(self, ios: IoArray, count: int) -> int:
        """The slots of the first `count` of `ios` are free: how many of them failed. -1: one is another owner's, and nothing
        has changed.
        """
        return int(lib.xenpv_batch_done(self._batch, ios.records, count))

    def unanswered(self) -> list[bytes]:
        """The records of what is in flight, as they were submitted."""
        ios = IoArray(self._batch.depth)
        count = lib.xenpv_batch_unanswered(self._batch, ios.records)
        return [bytes(ios.raw[at:at + IO_BYTES]) for at in range(0, count * IO_BYTES, IO_BYTES)]
