"""What a process has used: CPU time, that of the kernel's threads that work for it (io_uring) included; storage."""

from __future__ import annotations

import time
from pathlib import Path

from xenpv.errors import XenpvError

_SCHED = 2  # CPUCLOCK_SCHED, linux/posix-timers.h: what clock_getcpuclockid(3) builds its answer from


def process_cpu_ns(pid: int) -> int:
    """CPU time that process `pid` has used so far, ns. Raises XenpvError when there is no such process."""
    try:
        return time.clock_gettime_ns((~pid << 3) | _SCHED)
    except OSError as error:
        raise XenpvError(f"process {pid} has ended: its CPU time cannot be read") from error


def storage_bytes_read(pid: int) -> int | None:
    """Bytes that `pid` has had read from storage so far (proc(5), read_bytes); None where the kernel does not say."""
    try:
        lines = Path(f"/proc/{pid}/io").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) for line in lines if line.startswith("read_bytes:")), None)
