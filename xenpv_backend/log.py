"""The backend's log: one line an event on stderr, with the vbd in it.

RULES
- A line that a guest can cause goes through `VbdLog.guest`, which has a budget for each vbd (XSA-180).
- A line is one line, whatever is in it: control characters are shown, never sent.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable

from xenpv.xenbus import VbdPlace

LOGGER = logging.getLogger("xenpv.backend")

GUEST_BURST = 20
"""Lines that a guest may cause at once."""
GUEST_PAUSE = 5.0
"""Seconds for each further one."""

_JOURNAL_LEVELS = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}
"""syslog's numbers, as journald takes them at the start of a line (sd-daemon(3))."""


def one_line(text: str) -> str:
    """`text` with every character that is not printable shown as its escape."""
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)


class _Formatter(logging.Formatter):
    def __init__(self, journal: bool) -> None:
        super().__init__()
        self._journal = journal

    def format(self, record: logging.LogRecord) -> str:
        text = one_line(record.getMessage())
        if self._journal:
            return f"<{_JOURNAL_LEVELS.get(record.levelno, 6)}>{text}"
        return f"xenpv backend: {'' if record.levelno == logging.INFO else record.levelname.lower() + ': '}{text}"


def _is_journal(fd: int) -> bool:
    """Whether journald reads `fd`: systemd says so in $JOURNAL_STREAM, device:inode (systemd.exec(5))."""
    try:
        found = os.fstat(fd)
    except OSError:
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"


def configure(level: str) -> None:
    """Send the log to stderr. A second call changes the level alone."""
    LOGGER.setLevel(level.upper())
    if not LOGGER.handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(_Formatter(_is_journal(2)))
        LOGGER.addHandler(handler)
        LOGGER.propagate = False


class VbdLog:
    """The log of one vbd: every line begins with its domid and devid."""

    def __init__(self, place: VbdPlace, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._prefix = f"domid {place.frontend_domid} devid {place.devid}: "
        self._clock = clock
        self._budget = float(GUEST_BURST)
        self._counted = clock()
        self._left_out = 0

    def info(self, text: str) -> None:
        LOGGER.info("%s%s", self._prefix, text)

    def error(self, text: str) -> None:
        LOGGER.error("%s%s", self._prefix, text)

    def guest(self, text: str, level: int = logging.INFO) -> None:
        """A line that the guest caused: left out, and counted, when there were too many of them."""
        now = self._clock()
        self._budget = min(float(GUEST_BURST), self._budget + (now - self._counted) / GUEST_PAUSE)
        self._counted = now
        if self._budget < 1:
            self._left_out += 1
            return
        self._budget -= 1
        if self._left_out:
            text += f" ({self._left_out} lines before this one were left out)"
            self._left_out = 0
        LOGGER.log(level, "%s%s", self._prefix, text)
