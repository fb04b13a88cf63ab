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
        self.submitted = IoArray(depth)
        """What was submitted last."""
        self.done = IoArray(depth)
        """What an exchange brings."""
        sectors = ffi.new("uint64_t[]", depth)
        self.sectors = memoryview(ffi.buffer(sectors)).cast("B").cast("Q")
        """Where the I/Os that are submitted next go."""
        slots, order = ffi.new("struct xenpv_batch_slot[]", depth), ffi.new("uint32_t[]", depth)
        self._memory = sectors, slots, order
        self.batch: Any = ffi.new("struct xenpv_batch *", {
            "depth": depth, "owner": owner, "sectors": sectors, "slots": slots, "order": order,
            "submitted": self.submitted.records, "done": self.done.records})
        """For Queue.exchange_batch(), with its fields `free`, `failed` and `strange`: see core/api.h."""
        lib.xenpv_batch_init(self.batch, block, list(pages))

    def next_slots(self, count: int) -> list[int]:
        """The slots of the next `count` I/Os, at most as many as are free: in the order in which they were done."""
        slots = ffi.new("uint32_t[]", count)
        lib.xenpv_batch_next(self.batch, slots, count)
        return list(slots)

    def submit(self, op: int, count: int) -> None:
        """`count` I/Os, at most as many as slots are free, are in flight from now on."""
        lib.xenpv_batch_submit(self.batch, op, count)

    def bring(self, at: int, records: bytes) -> int:
        """`records` were done, and stand in `done` from `at`. How many they are."""
        count = len(records) // IO_BYTES
        self.done.raw[at * IO_BYTES:at * IO_BYTES + len(records)] = records
        lib.xenpv_batch_done(self.batch, at, count)
        return count

    def unanswered(self) -> list[bytes]:
        """The records of what is in flight, as they were submitted."""
        ios = IoArray(self.batch.depth)
        count = lib.xenpv_batch_unanswered(self.batch, ios.records)
        return [bytes(ios.raw[at:at + IO_BYTES]) for at in range(0, count * IO_BYTES, IO_BYTES)]
