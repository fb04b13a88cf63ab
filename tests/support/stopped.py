"""A process of a test that does nothing for a while, as one does that hangs."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from signal import SIGCONT, SIGSTOP


@contextmanager
def stopped(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """All threads of `process`, a child of ours, stand still in the block: after the signal alone, one may still answer."""
    process.send_signal(SIGSTOP)
    os.waitid(os.P_PID, process.pid, os.WSTOPPED)
    try:
        yield
    finally:
        process.send_signal(SIGCONT)
