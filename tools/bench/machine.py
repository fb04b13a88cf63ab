"""What a figure depends on besides the case: versions, processors, and what else the machine was busy with."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from pathlib import Path

from xenpv import __version__


def program_version(program: str) -> str | None:
    """The last word of `program --version`, or None when it is not installed."""
    path = shutil.which(program)
    if path is None:
        return None
    done = subprocess.run([path, "--version"], capture_output=True, text=True, check=False)
    words = done.stdout.split()
    return words[-1].removeprefix(f"{program}-") if words else "unknown"


def versions() -> dict[str, str | None]:
    """xenpv, kernel, fio, nbdkit, python; None for what is not installed."""
    return {"xenpv": __version__, "kernel": platform.release(), "fio": program_version("fio"),
            "nbdkit": program_version("nbdkit"), "python": platform.python_version()}


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
