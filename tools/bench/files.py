"""The file that every system reads and writes: made once, filled, the same for all, and gone at the end."""

from __future__ import annotations

import os
import random
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from xenpv.errors import StorageError, UsageError

from ..scratch import scratch_directory

MIB = 1 << 20
TMPFS = Path("/dev/shm")


@dataclass(frozen=True)
class Target:
    """What is measured on."""

    path: Path
    size: int
    """Bytes."""
    storage: str
    """``tmpfs`` or ``disk``."""

    @property
    def direct(self) -> bool:
        """Opened with O_DIRECT, by whoever can."""
        return self.storage == "disk"


def cache_directory() -> Path:
    """The user's cache directory (XDG Base Directory Specification)."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")


def filesystem(path: Path) -> str:
    """The type of the filesystem that `path` is on, as /proc/self/mountinfo says it (proc(5))."""
    best, kind = "", "unknown"
    real = str(path.resolve())
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields, _, tail = line.partition(" - ")
        mount = fields.split()[4].encode().decode("unicode_escape")
        inside = real == mount or real.startswith(mount.rstrip("/") + "/")
        if inside and len(mount) >= len(best):
            best, kind = mount, tail.split()[0]
    return kind


def check_size(size: int) -> None:
    """Raises UsageError for a size of a file that cannot be."""
    if size <= 0 or size % MIB:
        raise UsageError(f"a file of {size} bytes: give a number of MiB, such as 512M")


@contextmanager
def work_directory() -> Iterator[Path]:
    """A folder for sockets, logs and the run directory, removed at the end. In memory, as a real run directory is."""
    with scratch_directory("bench", TMPFS if TMPFS.is_dir() else Path(tempfile.gettempdir())) as folder:
        yield folder


@contextmanager
def target(storage: str, size: int, directory: Path | None = None) -> Iterator[Target]:
    """A filled file of `size` bytes on `storage`, in a directory of its own that is removed at the end.

    Raises UsageError (check_size), StorageError when there is no room or no O_DIRECT.
    """
    check_size(size)
    parent = TMPFS if storage == "tmpfs" else directory or cache_directory()
    try:
        parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(parent).free
    except OSError as error:
        raise StorageError(f"{parent}: {error.strerror}: choose another directory with --dir") from error
    if storage == "disk" and filesystem(parent) == "tmpfs":
        raise StorageError(f"{parent} is in memory, not on a disk: choose another directory with --dir")
    if free < size + 64 * MIB:
        raise StorageError(f"{parent} has room for {free // MIB} MiB: give a smaller --size, or another --dir")
    with scratch_directory("bench", parent) as folder:
        made = Target(folder / "image", size, storage)
        _fill(made)
        yield made


def _fill(made: Target) -> None:
    """Write every block: a hole costs nothing to read. The content does not compress."""
    block = random.Random(1).randbytes(MIB)
    try:
        with open(made.path, "wb", buffering=0) as file:
            for _ in range(made.size // MIB):
                file.write(block)
            os.fsync(file.fileno())
        if made.direct:
            os.close(os.open(made.path, os.O_RDWR | os.O_DIRECT))
    except OSError as error:
        raise StorageError(f"{made.path.parent}: {error.strerror}: choose another directory with --dir") from error


def forget_cached(made: Target) -> None:
    """Write back and drop what the page cache holds of a file on a disk, so that nobody finds it there."""
    if made.direct:
        with open(made.path, "rb+", buffering=0) as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
