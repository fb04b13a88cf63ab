"""How far something has come, on a terminal alone."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Self

__all__ = ["Progress"]

_PAUSE = 0.1


class Progress:
    """One line on stderr that is written over, and removed at the end; nothing where stderr is no terminal."""

    def __init__(self, what: str, total: int | None) -> None:
        self._what, self._total = what, total
        self._shown = sys.stderr.isatty()
        self._started = self._last = time.monotonic()
        self.done = 0

    def add(self, count: int) -> None:
        """`count` bytes more are done."""
        self.done += count
        now = time.monotonic()
        if self._shown and now - self._last >= _PAUSE:
            self._last = now
            sys.stderr.write(f"\r\033[K{self._what}: {self.text(now)}")
            sys.stderr.flush()

    def text(self, now: float) -> str:
        """Such as ``45 %, 120 of 256 MiB, 812 MiB/s``."""
        mib = 1 << 20
        rate = self.done / mib / max(now - self._started, 1e-6)
        if not self._total:
            return f"{self.done // mib} MiB, {rate:.0f} MiB/s"
        return f"{100 * self.done // self._total} %, {self.done // mib} of {self._total // mib} MiB, {rate:.0f} MiB/s"

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._started

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None,
                 trace: TracebackType | None) -> None:
        if self._shown:
            sys.stderr.write("\r\033[K")
            sys.stderr.flush()
