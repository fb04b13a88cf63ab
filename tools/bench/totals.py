"""The total by stamps held against a clock outside of what stamps: is anything left out, or counted twice?

RULES
- Outside is the load's own CLOCK_MONOTONIC, read before a read of 512 bytes is handed to the frontend's core and after it
  has come back: what lies in between and in no stage is that call, and whatever the machine did in those moments.
- The stages are the request's own six stamps, so their sum is its total; both ends' clocks are one here.
"""

from __future__ import annotations

from dataclasses import dataclass

from xenpv.closing import Closing
from xenpv.errors import UsageError
from xenpv.wire.blkif import Op
from xenpv_frontend.disk import Disk
from xenpv_frontend.queue import IoArray
from xenpv_frontend.reaper import Reaper

CLOSE_US = 5
"""What `us` must be as fine as."""
_BLOCK = 512
_AT_ONCE = 1000
"""Requests between two looks at their samples, of which the core keeps a few more."""


@dataclass(frozen=True)
class Totals:
    """Microseconds."""

    requests: int
    unknown: int
    """Requests whose stages are not known."""
    close: int
    """Requests whose stages add up to what the clock outside says, within CLOSE_US."""
    more: int
    """Requests whose stages add up to more than a step above what the clock outside says: there must be none."""
    p50_us: float
    p99_us: float
    p999_us: float
    """What the clock outside says more than the stages: that so many of the requests did not exceed."""


def check_totals(disk: Disk, requests: int) -> Totals:
    """Read so often, one at a time. Raises UsageError unless the disk's requests are stamped in microseconds."""
    latency = disk.latency()
    if latency is None or latency.unit != "us":
        raise UsageError("the disk's requests are not stamped in microseconds")
    above: list[float] = []
    unknown = 0
    with _Single(disk.reaper.one()) as single:
        single.read(1)
        disk.samples()
        while len(above) + unknown < requests:
            outside = single.read(min(_AT_ONCE, requests - len(above) - unknown))
            samples = disk.samples()
            for nanoseconds, sample in zip(outside, samples, strict=True):
                stages = sample[:6]
                whole = sum((later - earlier) & 0xffffffff for earlier, later in zip(stages, stages[1:], strict=False))
                if sample.known:
                    above.append(nanoseconds / 1000 - (whole & 0xffffffff))
                else:
                    unknown += 1
    above.sort()
    return Totals(requests, unknown, sum(abs(each) <= CLOSE_US for each in above), sum(each < -1 for each in above),
                  *(round(above[min(len(above) * part // 1000, len(above) - 1)], 1) for part in (500, 990, 999)))


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
        self._queue, self._leads = reaper.lead(self, b"")

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

    def submitting(self, records: bytes) -> None:
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
