"""A closed loop of I/O through the public Disk, and what it cost: for `xenpv bench`, and for the demo's guests.

RULES
- Python is paid once a batch: nothing in the loop is done once an I/O. Times are noted, and digested when the clock
  stands, that of loads beside this one too.
- An I/O's time is that from the return of the batch call that freed its slot, after which it is submitted, to the
  return of the one that brings it: what a program that calls Disk's batches sees. Nothing is left out.
- A disk with several queues has a batch on each, with its share of the I/Os in flight, and one thread for all: the load is one
  client, as a peer's is.
"""

from __future__ import annotations

import functools
import itertools
import random
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from time import perf_counter_ns, process_time

from xenpv.errors import DeviceError
from xenpv.wire.blkif import SECTOR_SIZE, Op
from xenpv_frontend.batch import Batch
from xenpv_frontend.disk import Disk

from .cases import Case
from .histogram import Histogram

_STRETCH = 10.0
"""Seconds of noted times at the most, before they are digested: so memory is bounded, at some 100 MB."""
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


def shares(depth: int, queues: int) -> list[int]:
    """`depth` I/Os in flight, shared out among `queues`: what each has of them. A queue that would have none is left out."""
    return [depth // queues + (number < depth % queues) for number in range(min(depth, queues))]


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


class _Sectors:
    """Where the next I/Os go, whichever batch they are of."""

    def __init__(self, sectors: array[int]) -> None:
        self._sectors = memoryview(sectors)
        self._at = 0

    def next(self, count: int) -> memoryview:
        if self._at + count > len(self._sectors):
            self._at = 0
        self._at += count
        return self._sectors[self._at - count:self._at]


class _Lane:
    """The loop over one batch. Of a mix, the free slots of each turn are shared out among reads and writes."""

    def __init__(self, batch: Batch, case: Case, sectors: _Sectors) -> None:
        self._batch = batch
        self._case = case
        self._sectors = sectors
        self._share = 0
        """Of the reads in a mix, hundredths of an I/O that the next turn has more."""
        self._times = array("Q")
        self._slots: list[bytes] = []

    def turns(self, start: int, end: int) -> Iterator[bool]:
        """A turn each time: until the clock says `end`, and on until the batch is idle."""
        batch, case, sectors = self._batch, self._case, self._sectors
        times, slots = self._times, self._slots = array("Q"), []
        op = Op.WRITE if case.writes else Op.READ
        at_least = batch.depth if case.burst else 1
        now, free = start, batch.depth
        while now < end:
            early = reads = 0
            if case.reads is not None:
                self._share += free * case.reads
                reads, self._share = divmod(self._share, 100)
                early = batch.exchange(Op.READ, sectors.next(reads), at_least=0)
                times.append(perf_counter_ns())
                slots.append(batch.slots.tobytes())
            free = early + batch.exchange(op, sectors.next(free - reads), at_least=0 if early else at_least)
            now = perf_counter_ns()
            times.append(now)
            slots.append(batch.slots.tobytes())
            yield True
        while batch.in_flight:
            batch.exchange(op, sectors.next(0), at_least=batch.in_flight)
            times.append(perf_counter_ns())
            slots.append(batch.slots.tobytes())
            yield True

    @property
    def ended(self) -> int:
        """When the last turn did; 0: there was none."""
        return self._times[-1] if self._times else 0

    def digest(self, start: int, add: Callable[[int], None]) -> int:
        """Tell `add` the times of what the turns since `start` brought. How many I/Os."""
        freed, ios = [start] * self._batch.depth, 0
        for now, done in zip(self._times, self._slots, strict=True):
            for slot in memoryview(done).cast("I"):
                add(now - freed[slot])
                freed[slot] = now
            ios += len(done) // 4
        return ios


class _Loop:
    """The load over all batches of a disk, which have their turns in one thread."""

    def __init__(self, batches: Sequence[Batch], case: Case, sectors: array[int]) -> None:
        common = _Sectors(sectors)
        self._lanes = [_Lane(batch, case, common) for batch in batches]
        self._histogram = Histogram()
        self._start = 0
        self.ios = 0
        self.seconds = 0.0
        self.cpu_seconds = 0.0

    def percentile_us(self, percent: float) -> float:
        return (self._histogram.percentile(percent) or 0.0) / 1000

    def run(self, seconds: float) -> None:
        """`seconds` of load, from an idle disk to an idle disk."""
        cpu, self._start = process_time(), perf_counter_ns()
        left = [lane.turns(self._start, self._start + int(seconds * 1e9)) for lane in self._lanes]
        while len(left) > 1:
            left = [turns for turns in left if next(turns, False)]
        for _ in itertools.chain(*left):
            pass
        self.cpu_seconds += process_time() - cpu
        self.seconds += (max(lane.ended or self._start for lane in self._lanes) - self._start) / 1e9

    def digest(self) -> None:
        """The times of the last run."""
        self.ios += sum(lane.digest(self._start, self._histogram.add) for lane in self._lanes)


def noted_load(disk: Disk, case: Case, seconds: float, seed: int = 1) -> Callable[[], LoadResult]:
    """As run_load(), but for what is to do when the I/O is over: the function returned does that, and takes as long again."""
    sectors = sectors_of(disk.size, case, seed)
    before = disk.stats()
    with ExitStack() as stack:
        batches = [stack.enter_context(disk.batch(share, case.block)) for share in shares(case.depth, disk.features.queues)]
        if case.writes:
            data = random.Random(seed).randbytes(case.block)
            for batch in batches:
                for slot in range(batch.depth):
                    batch.buffer(slot)[:] = data
        loop = _Loop(batches, case, sectors)
        loop.run(min(seconds, _STRETCH))
        while (left := seconds - loop.seconds) > 0:
            loop.digest()
            loop.run(min(left, _STRETCH))
    grown = {name: value - getattr(before, name) for name, value in asdict(disk.stats()).items()}

    def result() -> LoadResult:
        loop.digest()
        return LoadResult(loop.ios, loop.ios * case.block, loop.seconds, loop.percentile_us(50), loop.percentile_us(99),
                          loop.cpu_seconds, grown)

    return result


def run_load(disk: Disk, case: Case, seconds: float, seed: int = 1) -> LoadResult:
    """Run `case` on `disk` for `seconds`. `seed` chooses the order of random I/O; the data of writes does not compress.

    Raises what Disk.batch and Batch.exchange raise: DiskError for an I/O that failed, DeviceError, UsageError.
    """
    return noted_load(disk, case, seconds, seed)()
