"""Waits that a signal ends."""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from time import monotonic
from types import FrameType
from typing import Any


@contextmanager
def handled(handler: Callable[[int, FrameType | None], Any], *numbers: signal.Signals) -> Iterator[None]:
    """`handler` has these signals; then those have them that had them before. For the main thread."""
    with ExitStack() as made:
        for number in numbers:
            made.callback(signal.signal, number, signal.signal(number, handler))
        yield


@contextmanager
def signal_pipe() -> Iterator[int]:
    """A descriptor, non-blocking, that is readable when a signal came for which Python has a handler. For the main thread.

    A signal that comes just before a wait, or to another thread, interrupts no wait, and Python calls handlers in the main
    thread alone (signal.set_wakeup_fd): so who waits there waits for this too, and reads what it holds.
    """
    with ExitStack() as made:
        woken, wake = os.pipe()
        for fd in (woken, wake):
            made.callback(os.close, fd)
            os.set_blocking(fd, False)
        made.callback(signal.set_wakeup_fd, signal.set_wakeup_fd(wake, warn_on_full_buffer=False))
        yield woken


class Ending:
    """Whether a signal has asked for the end."""

    def __init__(self, woken: int) -> None:
        self.asked = False
        self._woken = woken

    def ask(self, number: int, frame: FrameType | None) -> None:
        """The handler."""
        self.asked = True

    def wait(self, timeout: float | None = None) -> bool:
        """Until one comes, at most `timeout` seconds (None: for ever): whether one has."""
        deadline = None if timeout is None else monotonic() + timeout
        poll = select.poll()
        poll.register(self._woken, select.POLLIN)
        while not self.asked:
            left = None if deadline is None else deadline - monotonic()
            if left is not None and left <= 0:
                break
            if poll.poll(None if left is None else left * 1000):
                os.read(self._woken, 4096)
        return self.asked


@contextmanager
def ending_on(*numbers: signal.Signals) -> Iterator[Ending]:
    """Until then these signals ask for the end, and do nothing else. For the main thread."""
    with signal_pipe() as woken:
        ending = Ending(woken)
        with handled(ending.ask, *numbers):
            yield ending
