"""`xenpv top` as it runs: in a terminal until a key ends it, or in lines for a script."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from .interval import intervals
from .source import Reading, Vbd
from .view import View

__all__ = ["Clock", "Monitor", "Screen", "run_batch", "run_live"]


@dataclass(frozen=True, slots=True)
class Clock:
    """Time as the displays take it, in seconds; tests have their own."""

    monotonic: Callable[[], float] = time.monotonic
    since_1970: Callable[[], float] = time.time
    sleep: Callable[[float], None] = time.sleep

    def of_day(self) -> str:
        return time.strftime("%H:%M:%S", time.localtime(self.since_1970()))


class Screen(Protocol):
    """What run_live needs of a Terminal."""

    def size(self) -> tuple[int, int]: ...

    def draw(self, lines: list[str], /) -> None: ...

    def key(self, timeout: float, /) -> str | None: ...


@dataclass
class Monitor:
    """Readings, and the view of what came between them.

    `wanted` says which vbds are shown. `names` gives the domains' names; it is asked when a domid is new.
    """

    read: Callable[[], Reading]
    view: View
    clock: Clock
    wanted: Callable[[Vbd], bool] = lambda vbd: True
    names: Callable[[], dict[int, str]] = dict
    _last: Reading = field(default_factory=Reading)
    _taken: float = 0.0
    _known: set[int] = field(default_factory=set)

    def look(self) -> None:
        """Read, and show what came since the last time."""
        reading, now = self.read(), self.clock.monotonic()
        reading = Reading(reading.pid, {vbd: found for vbd, found in reading.vbds.items() if self.wanted(vbd)})
        domids = {domid for domid, _ in reading.vbds}
        if domids - self._known:
            self.view.names = self.names()
        self._known = domids
        self.view.update(intervals(self._last, reading, now - self._taken), reading.pid, self.clock.of_day())
        self._last, self._taken = reading, now


def run_live(monitor: Monitor, screen: Screen) -> None:
    """Show a new frame every `view.seconds` and at every key, until a key ends it."""
    view, now = monitor.view, monitor.clock.monotonic
    monitor.look()
    due = now() + min(view.seconds, 0.5)  # the first look is no difference: the second comes soon
    while True:
        screen.draw(view.frame(*screen.size()))
        key = screen.key(due - now())
        if key and not view.press(key):
            return
        if key == " " or now() >= due:
            monitor.look()
            due = now() + view.seconds
        due = min(due, now() + view.seconds)  # it may have been made shorter


def run_batch(monitor: Monitor, write: Callable[[str], None], *, count: int | None, as_json: bool) -> None:
    """Write `count` intervals (None: without end), the first one `view.seconds` from now."""
    monitor.look()
    clock, done = monitor.clock, 0
    due = clock.monotonic()
    while count is None or done < count:
        due += monitor.view.seconds
        clock.sleep(max(due - clock.monotonic(), 0))
        monitor.look()
        text = json.dumps(monitor.view.to_json(clock.since_1970())) if as_json else monitor.view.text()
        write(text)
        done += 1
