"""Waits that a signal ends."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager


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
