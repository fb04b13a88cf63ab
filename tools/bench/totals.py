"""The total by stamps held against a clock outside of what stamps: is anything left out, or counted twice?

RULES
- Outside is the load's own CLOCK_MONOTONIC, read before a read of 512 bytes is handed to the frontend's core and after it
  has come back: what lies in between and in no stage is that call, and whatever the machine did in those moments.
- The stages are the request's own six stamps, so their sum is its total; both ends' clocks are one here.
- A sum of ticks is a time of less than a tick more or less: by one more for each tick that dom0's page has missed meanwhile.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from xenpv.closing import Closing
from xenpv.domain import Domain
from xenpv.errors import UsageError
from xenpv.timepage import open_reader
from xenpv.wire.blkif import Op
from xenpv_frontend.disk import Disk
from xenpv_frontend.queue import IoArray
from xenpv_frontend.reaper import Reaper

CLOSE_US = 5
"""What `us` must be as fine as."""
_BLOCK = 512
_AT_ONCE = 1000
"""Requests between two looks at their samples, of which the core keeps a few more."""
_PAUSE = 0.0005
"""Seconds between two looks at whether a tick has passed."""


@dataclass(frozen=True)
class Totals:
    """Microseconds."""

    unit: str
    """``us`` or ``tick``."""
    requests: int
    unknown: int
    """Requests whose stages are not known."""
    missed: int
    """Ticks that dom0's page has missed meanwhile; 0 of microseconds."""
    within_us: float
    """CLOSE_US; of ticks, one of them, and one more for each that was missed."""
    close: int
    """Requests whose stages add up to what the clock outside says, within that."""
    more: int
    """Requests whose stages add up to more than a step (of ticks: than `within_us`) above what it says: there must be none."""
    stages_us: float
    """All stages of all requests together."""
    outside_us: float
    """The same by the clock outside."""
    p50_us: float
    p99_us: float
    p999_us: float
    """What the clock outside says more than the stages: that so many of the requests did not exceed."""


def check_totals(disk: Disk, requests: int, domain: Domain) -> Totals:
    """Read so often, one at a time. `domain` is the disk's.

    Raises UsageError unless the disk's requests are stamped, TimePageError when dom0's page cannot be read.
    """
    latency = disk.latency()
    if latency is None:
        raise UsageError("the disk's requests are not stamped")
    if latency.unit == "us":
        return judge("us", *_read(disk, requests), 1.0, 0)
    with _missed(domain) as missed:
        before = missed()
        found = _read(disk, requests)
        return judge("tick", *found, latency.resolution_ns / 1000, missed() - before)


def judge(unit: str, found: Sequence[tuple[float, int]], unknown: int, step_us: float, missed: int) -> Totals:
    """`found`: of each known request the microseconds by the clock outside, and the steps of all its stages."""
    above = sorted(outside - steps * step_us for outside, steps in found)
    room = step_us * (1 + missed)
    within = CLOSE_US if unit == "us" else room
    return Totals(
        unit, len(found) + unknown, unknown, missed, within, sum(abs(each) <= within for each in above),
        sum(each < -room for each in above), round(sum(steps for _, steps in found) * step_us, 1),
        round(sum(outside for outside, _ in found), 1),
        *(round(above[min(len(above) * part // 1000, len(above) - 1)], 1) if above else 0.0 for part in (500, 990, 999)))


def _read(disk: Disk, requests: int) -> tuple[list[tuple[float, int]], int]:
    """See judge: `found` and `unknown`."""
    found: list[tuple[float, int]] = []
    unknown = 0
    with _Single(disk.reaper.one()) as single:
        single.read(1)
        if not disk.samples():
            raise UsageError("the disk's requests are not stamped")
        while len(found) + unknown < requests:
            outside = single.read(min(_AT_ONCE, requests - len(found) - unknown))
            samples = disk.samples()
            for nanoseconds, sample in zip(outside, samples, strict=True):
                stages = sample[:6]
                whole = sum((later - earlier) & 0xffffffff for earlier, later in zip(stages, stages[1:], strict=False))
                if sample.known:
                    found.append((nanoseconds / 1000, whole & 0xffffffff))
                else:
                    unknown += 1
    return found, unknown


@contextmanager
def _missed(domain: Domain) -> Iterator[Callable[[], int]]:
    """How many ticks were missed before now. What is missed is known once the next tick is written: it is waited for."""
    with open_reader(domain) as reader:
        def count() -> int:
            begun = reader.read().tick
            while (now := reader.read()).tick == begun:
                time.sleep(_PAUSE)
            return now.missed

        yield count


class _Single(Closing):
    """Reads of one block, one at a time.

    Nobody else may use the disk meanwhile: it leads from its beginning to its end.
    """

    def __init__(self, reaper: Reaper) -> None:
        self._reaper = reaper
        self._run = reaper.the_pool().take_waiting(1)
        self._number = reaper.join(self)
        self._submit = IoArray(1)
        self._submit.bytes[0], self._submit.op[0] = _BLOCK, Op.READ
        self._submit.page[0], self._submit.cookie[0] = self._run.first, self._number << 32
        self._queue, self._leads = reaper.lead(self, 0)

    def read(self, count: int) -> list[int]:
        """Nanoseconds of each."""
        return self._queue.time(self._submit, count)

    def close(self) -> None:
        """Let others lead."""
        if self._leads:
            self._reaper.led = self._leads = False
            self._reaper.tell()
        self._reaper.part(self._number)
        self._reaper.give(self._run)

    # What the reaper asks of an owner: between two calls nothing is in flight.

    def submitting(self, count: int) -> None:
        """See Owner."""

    def arrived(self, record: bytes) -> None:
        """See Owner."""

    def unanswered(self) -> bytes:
        """See Owner."""
        return b""

    def moved(self, reaper: Reaper) -> None:
        """See Owner."""

    @property
    def outstanding(self) -> int:
        """See Owner."""
        return 0
