"""Nanoseconds between ticks, by the reader's own clock.

Another domain's clock is another clock: only the page is common. So the reader watches ticks change and notes its own
clock at each. A change is seen late, never early; of the last changes the one seen least late ties the two clocks.
"""

from __future__ import annotations

from collections import deque

__all__ = ["AGREED", "OwnClock"]

AGREED = 8
"""Ticks that must agree within one before nanoseconds are offered."""
WINDOW = 64
"""Changes that are remembered: over more of them the two clocks may drift apart."""


class OwnClock:
    """The reader's clock, tied to the page's nanoseconds. All times in nanoseconds."""

    def __init__(self, tick_nsec: int) -> None:
        self.tick_nsec = tick_nsec
        self._offsets: deque[int] = deque(maxlen=WINDOW)
        self._agreed = self._strayed = 0
        self._tick = -1
        self._last = 0
        self.held = 0
        """Times that a value was held because a better tie would have gone back."""

    @property
    def agrees(self) -> bool:
        """Whether nanoseconds are offered."""
        return self._agreed >= AGREED

    def reset(self) -> None:
        """The page is another, or was disrupted: agree anew."""
        self._offsets.clear()
        self._agreed = self._strayed = 0
        self._tick = -1
        self._last = 0

    def saw(self, tick: int, ns: int, own_ns: int) -> None:
        """The page says `tick`, which was written at `ns`, and the own clock `own_ns`."""
        if tick == self._tick:
            return
        first = self._tick < 0
        self._tick = tick
        if first:
            return  # it was there before anybody looked: nobody knows how late this is
        offset = own_ns - ns
        late = offset - min(self._offsets) if self._offsets else 0
        if abs(late) <= self.tick_nsec:
            self._agreed += bool(self._offsets)
            self._strayed = 0
            self._offsets.append(offset)
        elif late > 0 and self.agrees and self._strayed < AGREED:
            self._strayed += 1  # the reader came more than a tick late: that says nothing of the clocks, unless it goes on
        else:
            self._offsets.clear()
            self._offsets.append(offset)
            self._agreed = self._strayed = 0

    def keep_newest(self, count: int) -> None:
        """Forget all but the `count` changes that were seen last: what was before drifted away meanwhile."""
        while len(self._offsets) > count:
            self._offsets.popleft()

    @property
    def ahead_ns(self) -> int | None:
        """What the own clock says more than the page's; None until they agree."""
        return min(self._offsets) if self.agrees else None

    def ns(self, own_ns: int) -> int | None:
        """The page's nanoseconds at `own_ns`, not before what was said last; None until the clocks agree."""
        if not self.agrees:
            return None
        value = own_ns - min(self._offsets)
        if value < self._last:
            self.held += 1
            return self._last
        self._last = value
        return value
