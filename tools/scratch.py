"""Directories that a run makes for itself, with processes in them: gone at its end, at whatever moment Ctrl-C comes.

RULES
- The name of a directory has its maker's pid, so that what is left can be found without being remembered.
- A signal is an exception once. While it unwinds, further ones are not heard, and what it met half done is swept.
"""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Final

from xenpv.errors import HypervisorError
from xenpv.hypervisors.emulated import host

__all__ = ["directory_prefix", "scratch_directory", "swept"]

_PATIENCE: Final = 5.0
"""Seconds for a process that was just starting to see that nobody waits for it."""
_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)

_places: set[tuple[Path, str]] = set()


def directory_prefix(kind: str, pid: int) -> str:
    """How the name of every directory begins that the `kind` (``bench``, ``demo``) in process `pid` makes."""
    return f"xenpv-{kind}-{pid}-"


@contextmanager
def scratch_directory(kind: str, parent: Path) -> Iterator[Path]:
    """A directory of our own in `parent`, removed at the end."""
    prefix = directory_prefix(kind, os.getpid())
    _places.add((parent, prefix))
    with tempfile.TemporaryDirectory(prefix=prefix, dir=parent, ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@contextmanager
def swept() -> Iterator[None]:
    """Around a whole run, in the main thread. SIGINT raises KeyboardInterrupt and SIGTERM SystemExit, once; at the end
    every scratch directory is gone, with the emulated Xen that ran in it.
    """
    before = {number: signal.getsignal(number) for number in _SIGNALS}

    def end(number: int, frame: FrameType | None) -> None:
        _deaf()
        raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)

    for number in _SIGNALS:
        signal.signal(number, end)
    try:
        yield
    finally:
        _deaf()
        _sweep()
        for number, handler in before.items():
            signal.signal(number, handler)


def _deaf() -> None:
    # Not SIG_IGN: a child that is started by now would inherit it.
    for number in _SIGNALS:
        signal.signal(number, lambda number, frame: None)


def _sweep() -> None:
    """Remove what the unwinding left: it may have been interrupted itself, and a process may just have been starting."""
    deadline = time.monotonic() + _PATIENCE
    while left := [path for parent, prefix in _places for path in parent.glob(f"{prefix}*")]:
        for folder in left:
            for lock in folder.glob("**/run/lock"):
                with suppress(HypervisorError, OSError):
                    host.stop(lock.parent)
            shutil.rmtree(folder, ignore_errors=True)
        if time.monotonic() > deadline:
            return
        time.sleep(0.01)
    _places.clear()
