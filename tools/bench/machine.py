"""What a figure depends on besides the case: versions, processors, and what else the machine was busy with."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from pathlib import Path

from xenpv import __version__


PINNING = "none: the scheduler places every thread"
"""Of all systems alike: part of the output."""


def program_version(program: str) -> str | None:
    """The first word with digits and dots of `program --version`, or None when it is not installed."""
    path = shutil.which(program)
    if path is None:
        return None
    done = subprocess.run([path, "--version"], capture_output=True, text=True, check=False)
    found = re.search(r"\d+(\.\d+)+", done.stdout)
    return found[0] if found else "unknown"


def versions() -> dict[str, str | None]:
    """xenpv, kernel, fio, nbdkit, qemu-storage-daemon, python; None for what is not installed."""
    programs = {name: program_version(name) for name in ("fio", "nbdkit", "qemu-storage-daemon")}
    return {"xenpv": __version__, "kernel": platform.release(), **programs, "python": platform.python_version()}


def processors() -> dict[str, str | int]:
    """How many processors this process may use, and what they call themselves."""
    model = platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    return {"count": len(os.sched_getaffinity(0)), "model": model}


def load_average() -> list[float]:
    """Of the last minute, five and fifteen."""
    return [round(value, 2) for value in os.getloadavg()]
