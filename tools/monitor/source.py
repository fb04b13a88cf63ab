"""Every vbd's counters and histograms at one moment, from the files of a backend's run directory.

RULES

- The backend is not asked, and does not notice. Its files are read, never mapped: one that it makes anew shrinks first.
- A file that cannot be read or makes no sense costs its own vbd, which says why; the others are shown.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from xenpv.errors import UsageError, XenpvError
from xenpv.latency import DiskLatency, read_disk
from xenpv.stats import PAGE_BYTES, decode_back
from xenpv.xenbus import MAX_VDEV

from ..session import one_line

__all__ = ["Reading", "Snapshot", "Vbd", "read_all"]

Vbd = tuple[int, int]
"""domid of the frontend, and devid."""

_PAGE: Final = re.compile(r"([0-9]{1,5})-([0-9]{1,10})-([0-9]{1,3})\.stats", re.ASCII)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One vbd at one moment."""

    domid: int
    devid: int
    queues: Mapping[int, Mapping[str, int]]
    """Counters of xenpv.stats by queue; those of requests are named ``requests.read`` and so on."""
    latency: DiskLatency | None = None
    """None when the backend does not measure it."""
    fault: str = ""
    """Why there are no counters, in words."""

    def sum(self, name: str) -> int:
        """A counter of all queues together."""
        return sum(counters.get(name, 0) for counters in self.queues.values())


@dataclass(frozen=True, slots=True)
class Reading:
    """All vbds at one moment. `pid`: of the backend that serves them; None when none runs."""

    pid: int | None = None
    vbds: Mapping[Vbd, Snapshot] = field(default_factory=dict)


def _open(path: Path, flags: int) -> int:
    """Raises UsageError when somebody else could have put it there."""
    fd = os.open(path, flags | os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    found = os.fstat(fd)
    if found.st_uid in (0, os.geteuid()) and not (stat.S_ISDIR(found.st_mode) and found.st_mode & 0o022):
        return fd
    os.close(fd)
    raise UsageError(f"{path} is not ours alone: remove it, or set XENPV_RUNDIR to a directory of yours")


def _page(path: Path) -> dict[str, int]:
    """A queue's counters. Raises LocalProtocolError, UsageError, OSError; FileNotFoundError for one that is being made."""
    fd = _open(path, 0)
    try:
        raw = os.pread(fd, PAGE_BYTES, 0)
    finally:
        os.close(fd)
    if not any(raw):
        raise FileNotFoundError
    found = decode_back(raw)
    requests = {f"requests.{operation}": count for operation, count in found.pop("requests").items()}
    return {**{name: int(value) for name, value in found.items()}, **requests}


def _pages(directory: Path) -> dict[Vbd, dict[int, Path]]:
    try:
        os.close(_open(directory, os.O_DIRECTORY))
        names = os.listdir(directory)
    except FileNotFoundError:
        return {}  # no backend has run yet
    found: dict[Vbd, dict[int, Path]] = {}
    for name in names:
        if match := _PAGE.fullmatch(name):
            domid, devid, queue = (int(part) for part in match.groups())
            if devid > MAX_VDEV:
                continue  # no backend of ours made it
            found.setdefault((domid, devid), {})[queue] = directory / name
    return found


def _snapshot(run: Path, vbd: Vbd, pages: Mapping[int, Path]) -> Snapshot | None:
    try:
        return Snapshot(*vbd, {queue: _page(path) for queue, path in sorted(pages.items())}, read_disk(run, *vbd))
    except FileNotFoundError:
        return None  # it went meanwhile
    except (XenpvError, OSError) as error:
        return Snapshot(*vbd, {}, None, one_line(getattr(error, "strerror", None) or str(error)))


def read_all(run: Path, only: Vbd | None = None) -> Reading:
    """All vbds of the backend in the run directory `run`, or `only` one. Raises UsageError when its directory is not ours."""
    directory = run / "backend"
    pages = {vbd: found for vbd, found in _pages(directory).items() if only in (None, vbd)}
    found = {vbd: _snapshot(run, vbd, pages[vbd]) for vbd in sorted(pages)}
    return Reading(_pid(directory / "lock"), {vbd: snapshot for vbd, snapshot in found.items() if snapshot})


def _pid(lock: Path) -> int | None:
    """Of the backend, which wrote it into its lock. The lock is left alone: trying it could keep a backend from starting."""
    try:
        fd = _open(lock, 0)
        try:
            pid = int(os.pread(fd, 32, 0))
        finally:
            os.close(fd)
        os.kill(pid, 0)
    except (FileNotFoundError, ProcessLookupError, ValueError):
        return None
    except PermissionError:
        pass  # it is there, and another user's
    return pid
