"""Waits that a signal may end anywhere, in place of threading's Event and Condition.

Those take their lock in a Python function, and a signal's handler may raise as soon as it has it: then nobody lets go of the
lock, and whoever sets the event waits for ever (CPython's issue 29988). A Condition's wait() may also come back without the
lock that its caller releases next. Here nothing is locked while Python runs.
"""

from __future__ import annotations

import threading


class Latch:
    """Opens once and stays open. Any number of threads wait for that."""

    __slots__ = ("_shut", "is_open")

    def __init__(self) -> None:
        self.is_open = False
        self._shut = threading.Lock()
        self._shut.acquire()

    def open(self) -> None:
        """Let everybody through who waits or will."""
        self.is_open = True
        try:
            self._shut.release()
        except RuntimeError:
            pass  # it was open

    def wait(self, timeout: float | None = None) -> bool:
        """Whether it opened within `timeout` seconds (None: wait for ever)."""
        try:
            return self.is_open or self._shut.acquire(timeout=-1 if timeout is None else max(0.0, timeout))
        finally:
            # Who came through lets the next one through. That may have been done by now: an open lock stays open.
            if self.is_open:
                try:
                    self._shut.release()
                except RuntimeError:
                    pass


class Changes:
    """Of what a lock guards: next() under the lock, wait() on that without it, and then look again."""

    __slots__ = ("_next",)

    def __init__(self) -> None:
        self._next: Latch | None = None

    def next(self) -> Latch:
        """What opens at the next change. The lock is held."""
        if self._next is None or self._next.is_open:  # open: tell() was struck between its two lines
            self._next = Latch()
        return self._next

    def tell(self) -> None:
        """There is a change. The lock is held."""
        if self._next is not None:
            self._next.open()
            self._next = None
