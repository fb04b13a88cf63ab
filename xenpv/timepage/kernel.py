"""This machine's kernel as the publisher sees it: its tick, its clocks, its boot.

RULES
- jiffies stand nowhere in user space but in /proc/timer_list, which costs 90 to 490 us and only root may read. So it is
  read once a second, and CLOCK_MONOTONIC_COARSE, which changes at ticks alone, says the rest.
- A reading counts when COARSE was the same before and after it. Of several the median counts: the kernel advances
  jiffies and COARSE one after the other, and a reading between the two is one tick off.
"""

from __future__ import annotations

import re
import time
import uuid
from pathlib import Path
from typing import NamedTuple

from xenpv.errors import HypervisorError

__all__ = ["Calibration", "Kernel"]

TIMER_LIST = Path("/proc/timer_list")
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_JIFFIES = re.compile(rb"^jiffies: ([0-9]{1,20})$", re.MULTILINE)
_COARSE = 6  # CLOCK_MONOTONIC_COARSE (linux/time.h), absent from the module time
READINGS = 3


class Calibration(NamedTuple):
    """The kernel's tick at a moment of CLOCK_MONOTONIC_COARSE."""

    tick: int
    coarse_ns: int


class Kernel:
    """The clocks. A test has its own with the same methods."""

    def tick_nsec(self) -> int:
        """Nanoseconds of a tick: the resolution of the coarse clock is the kernel's TICK_NSEC (posix-timers.c)."""
        return round(time.clock_getres(_COARSE) * 1e9)

    def coarse_ns(self) -> int:
        """CLOCK_MONOTONIC_COARSE: the time at the newest tick."""
        return time.clock_gettime_ns(_COARSE)

    def suspended_ns(self) -> int:
        """How long this machine has slept since it started: CLOCK_BOOTTIME is ahead by it."""
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME) - time.clock_gettime_ns(time.CLOCK_MONOTONIC)

    def boot_id(self) -> uuid.UUID:
        """Another one after every start of the kernel (random(4)). Raises HypervisorError."""
        try:
            return uuid.UUID(BOOT_ID.read_text().strip())
        except (OSError, ValueError) as error:
            raise HypervisorError(f"cannot read this machine's boot id from {BOOT_ID}: {error}") from error

    def jiffies(self) -> int | None:
        """The kernel's own count; None where it may not be read or does not say."""
        try:
            with TIMER_LIST.open("rb", buffering=0) as file:
                text = b""
                while chunk := file.read(65536):
                    text = text[-32:] + chunk
                    if found := _JIFFIES.search(text):
                        return int(found[1])
        except OSError:
            return None
        return None

    def calibrate(self) -> Calibration | None:
        """jiffies at a moment of COARSE. None where they cannot be read, or never within one tick."""
        found: list[Calibration] = []
        for _ in range(READINGS * 4):
            before = self.coarse_ns()
            jiffies = self.jiffies()
            if jiffies is None:
                return None
            if self.coarse_ns() == before:
                found.append(Calibration(jiffies, before))
            if len(found) == READINGS:
                break
        nsec = self.tick_nsec()
        # Sorted by the tick that each says for one common moment.
        found.sort(key=lambda each: each.tick - round(each.coarse_ns / nsec))
        return found[len(found) // 2] if found else None
