"""Where a bundle is written: a new file, a bundle that is there, or a block device.

RULES

- write() and zero() may reach the disk in any order until sync(); what comes after sync() comes after it.
- Zeros in a regular file are holes.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import Final, Protocol

from xenpv.closing import Closing
from xenpv.errors import StorageError
from xenpv_backend.storage.kernel import punch_hole

from .copying import data_runs, write_all
from .source import open_descriptor

__all__ = ["FileMedium", "Medium", "Region"]

_ZEROS: Final = bytes(1 << 20)


class Medium(Protocol):
    """What can be written. Every call raises StorageError."""

    name: str
    size: int
    """Bytes that are there now."""
    fixed: bool
    """Whether the size cannot be changed: a block device."""

    def write(self, offset: int, view: memoryview | bytes) -> None: ...

    def zero(self, offset: int, length: int) -> None:
        """Make the range read as zero; it is within the size."""

    def resize(self, size: int) -> None: ...

    def sync(self) -> None:
        """What was written before is durable when this returns."""


class FileMedium(Closing):
    """A file or block device by its descriptor. Closing it closes that one, when it was opened here."""

    def __init__(self, name: str, fd: int | None = None) -> None:
        self.name = name
        self._owned = fd is None
        self._fd = open_descriptor(name, write=True) if fd is None else fd
        self.fixed = stat.S_ISBLK(os.fstat(self._fd).st_mode)
        self.size = os.lseek(self._fd, 0, os.SEEK_END)

    def fileno(self) -> int:
        return self._fd

    def write(self, offset: int, view: memoryview | bytes) -> None:
        """See Medium."""
        if self.fixed and offset + len(view) > self.size:
            raise StorageError(f"{self.name} has {self.size} bytes, and {offset + len(view)} are needed")
        with memoryview(view) as whole:
            write_all(self._fd, self.name, offset, whole)
        self.size = max(self.size, offset + len(view))

    def zero(self, offset: int, length: int) -> None:
        """See Medium."""
        length = min(length, self.size - offset)
        if length <= 0:
            return
        try:
            return punch_hole(self._fd, offset, length)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL):
                raise StorageError(f"cannot write {self.name}: {error.strerror}") from error
        for at in range(offset, offset + length, len(_ZEROS)):
            self.write(at, memoryview(_ZEROS)[:min(len(_ZEROS), offset + length - at)])

    def resize(self, size: int) -> None:
        """See Medium."""
        if self.fixed or size == self.size:
            return
        try:
            os.ftruncate(self._fd, size)
        except OSError as error:
            raise StorageError(f"cannot change the size of {self.name}: {error.strerror}") from error
        self.size = size

    def sync(self) -> None:
        """See Medium."""
        try:
            os.fsync(self._fd)
        except OSError as error:
            raise StorageError(f"cannot write {self.name}: {error.strerror}") from error

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0 and self._owned:
            os.close(fd)


class Region:
    """A place in a medium as a Sink: from byte `start`, in a range that is known to be zero (`blank`) or may not be."""

    def __init__(self, medium: Medium, start: int, *, blank: bool) -> None:
        self._medium, self._start, self._blank = medium, start, blank

    def data(self, offset: int, view: memoryview) -> None:
        """See Sink."""
        done = 0
        for start, end in data_runs(view):
            self.zero(offset + done, start - done)
            with view[start:end] as part:
                self._medium.write(self._start + offset + start, part)
            done = end
        self.zero(offset + done, len(view) - done)

    def zero(self, offset: int, length: int) -> None:
        """See Sink."""
        if not self._blank and length > 0:
            self._medium.zero(self._start + offset, length)
