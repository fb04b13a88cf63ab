"""A closed loop of I/O through the public Disk, and what it cost: for `xenpv bench`, and for the demo's guests.

RULES
- Python is paid once a batch: nothing in the loop is done once an I/O. Times are noted, and digested when the clock
  stands.
- An I/O's time is that from the return of the batch call that freed its slot, after which it is submitted, to the
  return of the one that brings it: what a program that calls Disk's batches sees. Nothing is left out.
"""

from __future__ import annotations

import functools
import random
from array import array
from dataclasses import asdict, dataclass
from time import perf_counter_ns, process_time

from xenpv.errors import DeviceError
from xenpv.wire.blkif import SECTOR_SIZE, Op
from xenpv_frontend.batch import Batch
from xenpv_frontend.disk import Disk

from .cases import Case
from .histogram import Histogram

_STRETCH = 1.0
"""Seconds of noted times at the most, before they are digested: so memory is bounded."""
_MOST_SECTORS = 1 << 18
"""Random sectors after which the sequence begins anew; 1 GiB of blocks of 4 KiB."""


@dataclass(frozen=True)
class LoadResult:
    """What a load did."""

    ios: int
    bytes: int
    seconds: float
    p50_us: float
    p99_us: float
    cpu_seconds: float
    """Of this process, user and system."""
    frontend: dict[str, int]
    """What the disk's counters grew by (xenpv_frontend/stats.py); `requests` are the ring's."""


@functools.lru_cache(maxsize=4)
def sectors_of(size: int, case: Case, seed: int) -> array[int]:
    """Where the I/Os of `case` go on a disk of `size` bytes, in sectors of 512: all blocks in order, or a random choice
    in which none comes twice. At least `depth` of them. Raises DeviceError when the disk holds no block.
    """
    blocks = size // case.block
    if not blocks:
        raise DeviceError(f"a disk of {size} bytes has no block of {case.block} bytes: give a larger one")
    numbers = range(min(blocks, _MOST_SECTORS))
    chosen = numbers if case.sequential else random.Random(seed).sample(range(blocks), len(numbers))
    found = array("Q", (number * (case.block // SECTOR_SIZE) for number in chosen))
    return found * (-(-case.depth // len(found)))


class _Loop:
    """The loop over one batch. Of a mix, the free slots of each turn are shared out among reads and writes."""

    def __init__(self, batch: Batch, case: Case, sectors: array[int]) -> None:
        self._batch = batch
        self._case = case
        self._sectors = memoryview(sectors)
        self._at = 0
        self._share = 0
        """Of the reads in a mix, hundredths of an I/O that the next turn has more."""
        self._histogram = Histogram()
        self.ios = 0
        self.seconds = 0.0
        self.cpu_seconds = 0.0

    def percentile_us(self, percent: float) -> float:
        return (self._histogram.percentile(percent) or 0.0) / 1000

    def _next(self, count: int) -> memoryview:
        if self._at + count > len(self._sectors):
            self._at = 0
        self._at += count
        return self._sectors[self._at - count:self._at]

    def run(self, seconds: float) -> None:
        """`seconds` of load, from an idle disk to an idle disk."""
        batch, case = self._batch, self._case
        op = Op.WRITE if case.writes else Op.READ
        at_least = case.depth if case.burst else 1
        times, slots = array("Q"), []
        cpu, start = process_time(), perf_counter_ns()
        now, end, free = start, start + int(seconds * 1e9), case.depth
        while now < end:
            early = reads = 0
            if case.reads is not None:
                self._share += free * case.reads
                reads, self._share = divmod(self._share, 100)
                early = batch.exchange(Op.READ, self._next(reads), at_least=0)
                times.append(perf_counter_ns())
                slots.append(batch.slots.tobytes())
            free = early + batch.exchange(op, self._next(free - reads), at_least=0 if early else at_least)
            now = perf_counter_ns()
            times.append(now)
            slots.append(batch.slots.tobytes())
        while batch.in_flight:
            batch.exchange(op, self._sectors[:0], at_least=batch.in_flight)
            now = perf_counter_ns()
            times.append(now)
            slots.append(batch.slots.tobytes())
        self.seconds += (now - start) / 1e9
        self.cpu_seconds += process_time() - cpu
        self._digest(start, times, slots)

    def _digest(self, start: int, times: array[int], slots: list[bytes]) -> None:
        freed = [start] * self._case.depth
        add = self._histogram.add
        for now, done in zip(times, slots, strict=True):
            for slot in memoryview(done).cast("I"):
                add(now - freed[slot])
                freed[slot] = now
            self.ios += len(done) // 4


def run_load(disk: Disk, case: Case, seconds: float, seed: int = 1) -> LoadResult:
    """Run `case` on `disk` for `seconds`. `seed` chooses the order of random I/O; the data of writes does not compress.

    Raises what Disk.batch and Batch.exchange raise: DiskError for an I/O that failed, DeviceError, UsageError.
    """
    sectors = sectors_of(disk.size, case, seed)
    before = disk.stats()
    with disk.batch(case.depth, case.block) as batch:
        if case.writes:
            data = random.Random(seed).randbytes(case.block)
            for slot in range(case.depth):
                batch.buffer(slot)[:] = data
        loop = _Loop(batch, case, sectors)
        while (left := seconds - loop.seconds) > 0:
            loop.run(min(left, _STRETCH))
    grown = {name: value - getattr(before, name) for name, value in asdict(disk.stats()).items()}
    return LoadResult(loop.ios, loop.ios * case.block, loop.seconds, loop.percentile_us(50), loop.percentile_us(99),
                      loop.cpu_seconds, grown)
