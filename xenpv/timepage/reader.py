"""The reader's side: ticks, and nanoseconds between them where the own clock agrees.

RULES
- The reader's own clock judges the page: nothing that the page says of its own age is believed.
- A page whose publisher is gone, or that stands still, is looked up anew, at most once in its greatest age.
- What was read belongs to an epoch. Across two epochs, and across a jump, there are no durations: the first read behind
  one raises TimeDisruptedError, and the next is good again.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from xenpv.closing import Closing
from xenpv.errors import HypervisorError, TimeDisruptedError, TimePageError, TimeStaleError, TimeTornError

from .clock import OwnClock
from .kernel import Kernel
from .page import PageView, Snapshot

__all__ = ["Epoch", "Follower", "Reader", "Reading"]

DEADLINE_NS = 100_000_000
"""How long a torn page is tried again: the publisher's CPU may have been taken from it in the middle of a write."""
ONE_CLOCK_NS = 1_000_000_000
"""Readings of one clock are not further apart: else a time namespace lies between them (time_namespaces(7))."""
PAUSE = 0.0005
"""Seconds between two tries."""
AWAKE_NS = 500_000
"""How long before a tick, and behind it, one that is to be seen at once is looked for without sleep."""


@cache
def _own_boot_id() -> uuid.UUID | None:
    try:
        return Kernel().boot_id()
    except HypervisorError:
        return None


@dataclass(frozen=True, slots=True)
class Epoch:
    """Ticks of two epochs have nothing to do with each other."""

    boot_id: uuid.UUID
    generation: int
    disruptions: int

    @classmethod
    def of(cls, snapshot: Snapshot) -> Epoch:
        """The epoch in which a page was copied."""
        return cls(snapshot.facts.boot_id, snapshot.facts.generation, snapshot.disruptions)


@dataclass(frozen=True, slots=True)
class Reading:
    """dom0's time at one moment. `tick`: the kernel's; `tick_ns`: dom0's CLOCK_MONOTONIC when it began.

    `ns`: the same clock now, or None while the reader's own does not agree with it. `own_ns`: the reader's own clock.
    """

    tick: int
    tick_ns: int
    ns: int | None
    own_ns: int
    missed: int
    epoch: Epoch

    @property
    def stamp(self) -> int:
        """The tick's low 32 bits, which are what a request carries."""
        return self.tick & 0xFFFFFFFF

    def ticks_since(self, earlier: Reading) -> int:
        """Raises TimeDisruptedError when the two are of different epochs."""
        if self.epoch != earlier.epoch:
            raise TimeDisruptedError("the time page was disrupted between the two readings: the duration is unknown")
        return self.tick - earlier.tick


class Follower(Closing):
    """The page that is in force now. `locate` maps it, and raises TimePageError when there is none."""

    def __init__(self, locate: Callable[[], PageView], clock: Callable[[], int] = time.monotonic_ns) -> None:
        self._locate = locate
        self._clock = clock
        self._view: PageView | None = None
        self._tick = -1
        self._changed_ns = 0
        self._looked_ns = 0

    def snapshot(self) -> tuple[Snapshot, int]:
        """A copy, and the own clock beside it: right before it, but after its tick began. Raises TimePageError,
        TimeStaleError among them.
        """
        if self._view is None:
            self._find()
        try:
            copy, own_ns = self._copy()
        except TimeTornError:
            # Its publisher may have died in the middle of a write, and have a successor.
            if self._clock() - self._looked_ns < DEADLINE_NS:
                raise
            self._find()
            copy, own_ns = self._copy()
        reason = self._reason(copy, own_ns)
        if reason and own_ns - self._looked_ns >= copy.facts.max_age_ns:
            self._find()
            copy, own_ns = self._copy()
            reason = self._reason(copy, own_ns)
        if reason:
            raise TimeStaleError(reason)
        return copy, own_ns

    def _find(self) -> None:
        self._looked_ns = self._clock()
        view = self._locate()
        if self._view is not None:
            self._view.close()
        self._view = view

    def _copy(self) -> tuple[Snapshot, int]:
        assert self._view is not None
        before, own_ns = self._view.tick(), self._clock()
        copy = self._view.read()
        if copy.tick != before:
            own_ns = self._clock()  # written in between: one that is noted late is late, but early it would tie the clocks
        if copy.tick != self._tick:
            self._tick, self._changed_ns = copy.tick, own_ns
        return copy, own_ns

    def _reason(self, copy: Snapshot, own_ns: int) -> str:
        if not copy.alive:
            return "the time page's publisher has ended: run `xenpv time publish` in dom0"
        if copy.paused:
            return "the time page pauses: its publisher does not know that anybody is subscribed"
        age = own_ns - self._changed_ns
        if age > copy.facts.max_age_ns:
            return (f"the time page stands still: its tick has not changed for {age / 1e6:.0f} ms, and "
                    f"{copy.facts.max_age_ns / 1e6:.0f} ms are allowed; does `xenpv time publish` get its CPU time?")
        return ""

    @property
    def view(self) -> PageView | None:
        """The page itself."""
        return self._view

    def close(self) -> None:
        """Unmap it."""
        if self._view is not None:
            self._view.close()
            self._view = None


class Reader(Closing):
    """Reads dom0's time. For one thread. Every read may raise TimePageError's children; each leaves the reader usable.

    `clock`: the own clock in nanoseconds; `sleep`: what waits between two tries; `on_close` ends the subscription.
    """

    def __init__(self, locate: Callable[[], PageView], *, clock: Callable[[], int] = time.monotonic_ns,
                 sleep: Callable[[float], None] = time.sleep, on_close: Callable[[], None] = lambda: None) -> None:
        self._follower = Follower(locate, clock)
        self._clock = clock
        self._sleep = sleep
        self._on_close = on_close
        self._last: Reading | None = None
        self._own: OwnClock | None = None
        self.disrupted = 0
        """Disruptions seen: other epochs and jumps."""
        self.backwards = 0
        """Times that the tick went back within one epoch."""

    def read(self) -> Reading:
        """The time now."""
        copy, own_ns = self._whole()
        if self._own is None:
            self._own = OwnClock(copy.facts.tick_nsec)
        epoch, last = Epoch.of(copy), self._last
        trouble = self._trouble(copy, own_ns, last) if last else ""
        if trouble:
            self._own = OwnClock(copy.facts.tick_nsec)
        self._own.saw(copy.tick, copy.written_ns, own_ns)
        self._last = Reading(copy.tick, copy.ns, self._own.ns(own_ns), own_ns, copy.missed, epoch)
        if trouble:
            self.disrupted += 1
            raise TimeDisruptedError(trouble)
        return self._last

    def _whole(self) -> tuple[Snapshot, int]:
        """A copy within the deadline."""
        deadline = self._clock() + DEADLINE_NS
        while True:
            try:
                return self._follower.snapshot()
            except TimeTornError as error:
                if self._clock() >= deadline:
                    raise TimeTornError(f"the time page was being written for {DEADLINE_NS / 1e6:.0f} ms: its publisher died "
                                        "in the middle of a write, or does not get its CPU") from error
                self._sleep(PAUSE)

    def _trouble(self, copy: Snapshot, own_ns: int, last: Reading) -> str:
        """Why durations from `last` to now mean nothing, or an empty string."""
        before, now = last.epoch, Epoch.of(copy)
        if now.boot_id != before.boot_id:
            return "another dom0 publishes the time page: this domain was migrated, or dom0 started again"
        if now.generation != before.generation:
            return "the time page is another: its publisher was started again"
        if now.disruptions != before.disruptions:
            return "dom0's time was disrupted: it slept, or its clock jumped"
        passed = copy.tick - last.tick
        if passed < 0:
            self.backwards += 1
            return f"the tick went back by {-passed}"
        nsec = copy.facts.tick_nsec
        off = passed * nsec - (own_ns - last.own_ns)
        if abs(off) > copy.facts.max_age_ns + 2 * nsec:
            return (f"{passed} ticks passed in {(own_ns - last.own_ns) / 1e6:.0f} ms of this domain's own clock: one of the "
                    "two jumped")
        return ""

    def settle(self, seconds: float = 2.0) -> Reading:
        """Read until nanoseconds are offered, at most for `seconds`; the last reading. Raises as read() does."""
        deadline = self._clock() + int(seconds * 1e9)
        while True:
            reading = self.read()
            if reading.ns is not None or self._clock() >= deadline:
                return reading
            self._sleep(PAUSE)

    def tie(self, ticks: int = 3, *, seconds: float = 2.0) -> int | None:
        """Tie the clocks anew, by the next `ticks` ticks alone; returns `ahead_ns`. Raises as read() does. Clocks that do not
        agree yet are watched for up to `seconds` first.

        What was known of them before has drifted away meanwhile. It is awake for about a millisecond of each tick, and so
        knows the clocks' difference to some microseconds. Ticks that it slept through say less: with those alone, what was
        known before counts too.
        """
        reading, seen, at_once = self.settle(seconds), 0, 0
        for _ in range(2 * ticks):
            own, view = self._own, self.view
            if reading.ns is None or own is None or view is None or at_once == ticks:
                break
            due_ns = reading.own_ns + min(max(0, reading.tick_ns + own.tick_nsec - reading.ns), own.tick_nsec)
            if due_ns - AWAKE_NS > self._clock():
                self._sleep((due_ns - AWAKE_NS - self._clock()) / 1e9)
            in_time = view.tick() == reading.tick
            while view.tick() == reading.tick and self._clock() < due_ns + AWAKE_NS:
                pass
            before, reading = reading.tick, self.read()
            if reading.tick != before:
                seen, at_once = seen + 1, at_once + in_time
        if at_once and self._own is not None:
            self._own.keep_newest(seen)
        return self.ahead_ns

    @property
    def one_clock(self) -> bool:
        """Whether the page was last read of this very kernel, whose clock is the own one: there is nothing to tie."""
        last = self._last
        return last is not None and last.epoch.boot_id == _own_boot_id() and abs(last.own_ns - last.tick_ns) < ONE_CLOCK_NS

    @property
    def ahead_ns(self) -> int | None:
        """What the own clock says more than dom0's CLOCK_MONOTONIC, 0 where they are one; None while they do not agree."""
        if self.one_clock:
            return 0
        return self._own.ahead_ns if self._own is not None else None

    def wait(self, seconds: float = 5.0) -> Reading:
        """The first reading; a page that is not there, or does not tick yet, is waited for. Raises TimePageError."""
        deadline = self._clock() + int(seconds * 1e9)
        while True:
            try:
                return self.read()
            except TimePageError:
                if self._clock() >= deadline:
                    raise
                self._sleep(10 * PAUSE)

    @property
    def view(self) -> PageView | None:
        """The page that was read last."""
        return self._follower.view

    def close(self) -> None:
        """Unmap the page and end the subscription."""
        self._follower.close()
        self._on_close()
        self._on_close = lambda: None
