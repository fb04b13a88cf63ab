"""A thread that runs functions one after the other, now or later: the home of what a storage does besides its requests."""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

from xenpv.closing import Closing
from xenpv.domain import Closable

from ..log import LOGGER

Task = Callable[[], None]


class Runs(Protocol):
    """What a storage needs of a Worker; a test gives one whose time does not pass by itself."""

    def post(self, task: Task) -> None: ...
    def later(self, seconds: float, task: Task) -> None: ...
    def clock(self) -> float: ...


class RunsUntilClosed(Runs, Closable, Protocol):
    """A Runs that belongs to one storage, and ends with it."""


class Worker(Closing):
    """A thread, begun with the first task. post() and later() from any thread."""

    def __init__(self, name: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        """`name` is the thread's. `clock` is in seconds."""
        self.clock = clock
        self._name = name
        self._tasks: deque[Task] = deque()
        self._timers: list[tuple[float, int, Task]] = []
        self._count = itertools.count()
        self._changed = threading.Condition()
        self._ending = False
        self._thread: threading.Thread | None = None

    def post(self, task: Task) -> None:
        """Run `task` soon, after all that was posted before."""
        with self._changed:
            self._tasks.append(task)
            self._wake()

    def later(self, seconds: float, task: Task) -> None:
        """Run `task` in so many seconds, unless close() comes first."""
        with self._changed:
            heapq.heappush(self._timers, (self.clock() + seconds, next(self._count), task))
            self._wake()

    def _wake(self) -> None:
        if self._thread is None and not self._ending:
            self._thread = threading.Thread(target=self._serve, name=self._name, daemon=True)
            self._thread.start()
        self._changed.notify()

    def close(self) -> None:
        """Run what was posted, drop what was to be done later, and end. From any other thread."""
        with self._changed:
            self._ending = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _next(self) -> Task | None:
        with self._changed:
            while True:
                if self._tasks:
                    return self._tasks.popleft()
                if self._ending:
                    return None
                wait = self._timers[0][0] - self.clock() if self._timers else None
                if wait is not None and wait <= 0:
                    return heapq.heappop(self._timers)[2]
                self._changed.wait(wait)

    def _serve(self) -> None:
        while (task := self._next()) is not None:
            try:
                task()
            except Exception as error:  # the thread must go on for the tasks that follow
                LOGGER.error("%s: %s: %s", self._name, type(error).__name__, error)
