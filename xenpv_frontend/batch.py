"""Many I/Os in flight at the cost of a few Python calls for all of them.

    with disk.batch(depth=32, block=4096) as batch:
        done = batch.exchange(Op.READ, sectors[:32], at_least=1)
        for slot in batch.slots: use(batch.buffer(slot))

RULES
- A Batch belongs to one thread at a time, and to one of the disk's queues. Other users of the disk may go on beside it.
- Nothing here loops over I/Os in Python, but for a buffer that is asked for, an I/O that failed, and answers that
  another thread happened to take.
- A slot is the caller's from the exchange that says it is done to the one that submits it again; free slots are used in
  the order in which they were done.
"""

from __future__ import annotations

from array import array
from time import monotonic
from typing import TYPE_CHECKING

from xenpv.closing import Closing
from xenpv.errors import ClosedError, DeviceError, UsageError, XenpvError
from xenpv.wire.blkif import Op

from .books import Books
from .buffers import SHARE_PAGES, let_go, pages_of
from .disk import failed
from .pieces import NONE, Moved
from .reaper import Reaper

if TYPE_CHECKING:
    from .disk import Disk

CLOSE_SECONDS = 5.0
"""How long close() waits for what is in flight."""


class Batch(Closing):
    """`depth` slots with a granted buffer of `block` bytes each. Made by Disk.batch."""

    def __init__(self, disk: Disk, depth: int, block: int) -> None:
        if block <= 0 or block % disk.sector_size or pages_of(block) > SHARE_PAGES:
            raise UsageError(f"a block is whole sectors of {disk.sector_size} bytes, up to 1 MiB, not {block} bytes")
        if depth < 1:
            raise UsageError(f"a batch has at least one slot, not {depth}")
        self.depth = depth
        self.block = block
        self.count = 0
        """How many the last exchange brought."""
        self._disk = disk
        self._reaper = disk.reaper.one()
        self._runs = self._reaper.the_pool().hold(pages_of(block), depth)
        if len(self._runs) < depth:
            for run in self._runs:
                self._reaper.give(run)
            raise UsageError(f"the pool of {disk.name} has no room for {depth} blocks of {block} bytes: open the disk "
                             f"with pool_bytes={2 * depth * pages_of(block) * 4096} or so")
        for run in self._runs:
            run.view = run.view[:block]
        # A backend that is not trusted may write to a page at any time: the caller's are others.
        self._own = [] if disk.trusted else [memoryview(bytearray(block)) for _ in self._runs]
        self._op: int = Op.READ
        self._arrived: list[bytes] = []
        with self._reaper.lock:  # from join() on it is asked what is in flight
            self._number = self._reaper.join(self)
            self._books = Books(self._number, block, [run.first for run in self._runs])
        self.done = self._books.done
        """What the last exchange brought, from the start: `cookie_low` is the slot."""
        self._closed = False

    def close(self) -> None:
        """Wait for what is in flight, within a limit, and give the buffers back.

        Raises DeviceError when I/Os are not answered in time; their buffers go with the disk.
        """
        if self._closed:
            return
        try:
            deadline = monotonic() + CLOSE_SECONDS
            while self.in_flight and self._reaper.failure is None and (left := deadline - monotonic()) > 0:
                try:
                    self.exchange(Op.READ, self._books.sectors[:0], at_least=self.in_flight, timeout=left)
                except XenpvError:
                    continue  # an I/O of the past failed; what counts here is that it is over
        finally:
            self._closed = True
            lost = self.in_flight if self._reaper.failure is None else 0
            self._reaper.part(self._number)
            for run in self._runs:
                let_go(run.view)
            if not lost:
                for run in self._runs:
                    self._reaper.give(run)
        if lost:
            raise DeviceError(f"{self._disk.name}: {lost} I/Os are not answered after {CLOSE_SECONDS:g} s")

    @property
    def free(self) -> int:
        """Slots that may be submitted now."""
        return int(self._books.batch.free)

    @property
    def in_flight(self) -> int:
        """I/Os submitted and not yet brought by an exchange."""
        return self.depth - int(self._books.batch.free)

    @property
    def slots(self) -> memoryview:
        """The slots that the last exchange brought."""
        return self.done.cookie_low[:self.count]

    @property
    def sectors(self) -> memoryview:
        """Their sectors, in the same order."""
        return self.done.sector[:self.count]

    def buffer(self, slot: int) -> memoryview:
        """The slot's `block` bytes. Touch them only while the slot is yours. Raises ClosedError."""
        if self._closed:
            raise ClosedError("the batch is closed")
        return self._own[slot] if self._own else self._runs[slot].view

    def next_slots(self, count: int) -> list[int]:
        """The slots that the next `count` sectors will go to, in order: whose buffers to fill before a write."""
        if not 0 <= count <= self.free:
            raise UsageError(f"{count} slots were asked for, and {self.free} are free")
        return self._books.next_slots(count)

    def exchange(self, op: int, sectors: array[int] | memoryview, *, at_least: int = 0,
                 timeout: float | None = None) -> int:
        """Submit an I/O of `block` bytes for each of `sectors`, and wait until `at_least` are done, old ones included.

        `op`: Op.READ, WRITE or DISCARD. `sectors`: of 512 bytes, 64-bit (format Q); the backend checks whether they are
        on the disk. Returns how many are done, see `slots`; fewer than `at_least` when `timeout` seconds are
        over or nothing is in flight. Raises UsageError when there are not as many free slots; DiskError for the first
        I/O that failed, when all that are done have been counted: go on with the next exchange.
        """
        count = len(sectors)
        if self._closed:
            raise ClosedError("the batch is closed")
        if count:
            self._prepare(op, sectors, count)
        deadline = None if timeout is None else monotonic() + timeout
        left = timeout
        self.count = 0
        want = min(at_least, self.in_flight + count)
        while True:
            lead, reaper = False, self._reaper
            try:
                queue, lead = reaper.lead(self, count)
                if lead:
                    n = reaper.exchange_batch(queue, self._books, self._op, count, self.count,
                                              at_least=max(0, want - self.count - len(self._arrived)), timeout=left)
                    if n and self._books.batch.strange:
                        reaper.route(self.done, n, self.count)
                    else:
                        self.count += n
                elif count:
                    reaper.turn(queue, self._books.submitted, count, NONE)
            except Moved:
                continue
            except XenpvError:
                raise
            except BaseException:
                reaper.audit()
                raise
            finally:
                if lead:
                    reaper.led = False
                    reaper.tell()
            count = 0
            if self._arrived:
                self._collect()
            if self.count >= want:
                return self._checked()
            if deadline is not None:
                left = max(0.0, deadline - monotonic())
                if not left:
                    return self._checked()
            try:
                reaper.follow(lambda: len(self._arrived) > 0, left)
            except Moved:
                continue

    # What the reaper asks for.

    def submitting(self, count: int) -> None:
        self._books.submit(self._op, count)

    def arrived(self, record: bytes) -> None:
        self._arrived.append(record)

    @property
    def outstanding(self) -> int:
        return self.in_flight - len(self._arrived)

    def unanswered(self) -> bytes:
        here = {record[:8] for record in self._arrived}
        return b"".join(record for record in self._books.unanswered() if record[:8] not in here)

    def moved(self, reaper: Reaper) -> None:
        self._reaper = reaper

    def _prepare(self, op: int, sectors: array[int] | memoryview, count: int) -> None:
        """What is submitted next."""
        if count > self.free:
            raise UsageError(f"{count} I/Os were submitted, and {self.free} slots are free")
        if op != self._op:
            if op not in (Op.READ, Op.WRITE, Op.DISCARD):
                raise UsageError(f"a batch reads, writes or discards; {op} is something else")
            if op != Op.READ:
                self._disk.check_writable()
            self._op = op
        try:
            self._books.sectors[:count] = sectors
        except (TypeError, ValueError):
            raise UsageError("sectors are 64-bit unsigned numbers: want array('Q') or a view of one") from None
        if self._own and op == Op.WRITE:
            for slot in self.next_slots(count):
                self._runs[slot].view[:] = self._own[slot]

    def _collect(self) -> None:
        """What others took for us, as if the exchange had brought it."""
        with self._reaper.lock:
            records = b"".join(self._arrived)
            self._arrived.clear()
            self.count += self._books.bring(self.count, records)

    def _checked(self) -> int:
        count = self.count
        if self._own:
            for index in range(count):
                if self.done.op[index] == Op.READ:
                    slot = self.done.cookie_low[index]
                    self._own[slot][:] = self._runs[slot].view
        if self._books.batch.failed and count:
            self._raise_first(count)
        return count

    def _raise_first(self, count: int) -> None:
        for index in range(count):
            status = self.done.status[index]
            if status:
                raise failed(self.done.op[index], self.done.sector[index], self.block, status, self._disk.name)
