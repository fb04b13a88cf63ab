"""What a process has used: CPU time, that of the kernel's threads that work for it (io_uring) included; storage. And what a
whole machine has."""

from __future__ import annotations

import os
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


def machine_cpu_ns() -> int:
    """CPU time that all of this machine has used so far, its kernel too, ns. Counted in ticks (proc(5), stat)."""
    line = Path("/proc/stat").read_text().partition("\n")[0].split()
    user, nice, system, _, _, irq, softirq = (int(word) for word in line[1:8])
    return (user + nice + system + irq + softirq) * (1_000_000_000 // os.sysconf("SC_CLK_TCK"))
