"""Threads of other processes."""

from __future__ import annotations

import ctypes
import os


def signal_another_thread(pid: int, number: int) -> None:
    """Send a signal to a thread of `pid` that is not its main one: no call of the main thread's is interrupted."""
    other = next(int(tid) for tid in os.listdir(f"/proc/{pid}/task") if int(tid) != pid)
    assert ctypes.CDLL(None).tgkill(pid, other, number) == 0
