"""An exception of a signal's handler, at a place that a test chooses."""

from __future__ import annotations

import sys
import threading
import traceback
import weakref
from collections.abc import Callable, Sequence
from types import CodeType, FrameType

PATIENCE = 20.0
"""Seconds after which work counts as hung. Only a test that fails waits for it."""

BEYOND_US = {threading.Thread.start.__code__, weakref.finalize.__call__.__code__}
"""CPython's own: start() waits with an Event, and a thread that was struck there never runs (xenpv/waiting.py); what a
finalizer raises is printed and dropped."""


class Interrupt:
    """Raises KeyboardInterrupt at the `after`-th place where CPython would call a signal's handler in this thread.

    Those are the starts of Python functions and the ends of C functions; loops are the third, which no profiler sees.
    Counted are those in files whose paths begin with one of `files`, and in threading; not those within BEYOND_US.
    """

    def __init__(self, after: int, files: Sequence[str]) -> None:
        self._left = after
        self._files = (*files, threading.__file__)
        self.struck = False

    def __enter__(self) -> Interrupt:
        sys.setprofile(self._event)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)

    def _event(self, frame: FrameType, event: str, _: object) -> None:
        if event in ("call", "c_return") and frame.f_code.co_filename.startswith(self._files):
            if _within(frame, BEYOND_US):
                return
            self._left -= 1
            if self._left < 0:
                sys.setprofile(None)
                self.struck = True
                raise KeyboardInterrupt


def _within(frame: FrameType | None, codes: set[CodeType]) -> bool:
    while frame is not None:
        if frame.f_code in codes:
            return True
        frame = frame.f_back
    return False


def returns(work: Callable[[], None]) -> None:
    """Run `work` in a thread, which is where an interrupt strikes as well as in the main one. Fails when it hangs."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    if thread.is_alive() and thread.ident is not None:
        stands = "".join(traceback.format_stack(sys._current_frames().get(thread.ident)))
        raise AssertionError(f"it still waits after {PATIENCE:g} s:\n{stands}")
    if raised:
        raise raised[0]
