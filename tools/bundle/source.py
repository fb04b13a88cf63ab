"""Where bytes are read from: a file, a block device, or a vbd through our frontend.

RULES

- Every read is whole or an error; what is read is counted.
- What is opened is looked at through its descriptor, never by its name a second time.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol

from xenpv.closing import Closing
from xenpv.errors import BundleError, StorageError
from xenpv.wire.bundle import Reason

if TYPE_CHECKING:
    from xenpv_frontend.disk import Disk

__all__ = ["DiskSource", "Extent", "FileSource", "Source", "open_descriptor"]

Extent = tuple[int, int, bool]
"""Offset and length in bytes, and whether there is data: a hole reads as zeros."""


class Source(Protocol):
    """Bytes that can be read at any place. Reading raises BundleError (``io``), and what the disk raises."""

    name: str
    size: int
    bytes_read: int
    """Bytes that were asked for so far; holes that were passed over are not among them."""

    def readinto(self, offset: int, view: memoryview) -> None:
        """Fill `view` from `offset`."""

    def extents(self, offset: int, length: int) -> Iterator[Extent]:
        """What lies in the range, in order, without a gap."""

    def close(self) -> None:
        """Give it back."""


def read(source: Source, offset: int, length: int) -> bytes:
    """`length` bytes from `offset`."""
    data = bytearray(length)
    with memoryview(data) as view:
        source.readinto(offset, view)
    return bytes(data)


def open_descriptor(path: str, *, write: bool = False, lock: bool = True) -> int:
    """A regular file or block device, locked: shared, or alone to `write`. Raises StorageError.

    A device that is mounted is refused for writing. A name that is a FIFO does not hold us up, hence O_NONBLOCK.
    """
    flags = (os.O_RDWR if write else os.O_RDONLY) | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
    try:
        if write and stat.S_ISBLK(os.stat(path).st_mode):
            flags |= os.O_EXCL
        fd = os.open(path, flags)
    except OSError as error:
        if error.errno == errno.EBUSY:
            raise StorageError(f"{path} is in use: it is mounted, or another program holds it") from error
        raise StorageError(f"cannot open {path}: {error.strerror}") from error
    except ValueError as error:
        raise StorageError(f"cannot open {path!r}: {error}") from error
    try:
        mode = os.fstat(fd).st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISBLK(mode):
            what = "a directory" if stat.S_ISDIR(mode) else "neither a file nor a block device"
            raise StorageError(f"{path} is {what}: name an image")
        if lock:
            fcntl.flock(fd, (fcntl.LOCK_EX if write else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(fd)
        whose = "a backend or another xenpv has it open" if write else "it is being written"
        raise StorageError(f"{path} is in use: {whose}") from error
    except BaseException:
        os.close(fd)
        raise
    return fd


class FileSource(Closing):
    """A regular file or block device. Raises StorageError when it cannot be opened."""

    def __init__(self, path: str, *, lock: bool = True, fd: int | None = None) -> None:
        self.name = path
        self.bytes_read = 0
        self._owned = fd is None
        self._fd = open_descriptor(path, lock=lock) if fd is None else fd
        self.size = os.lseek(self._fd, 0, os.SEEK_END)
        self._sparse = stat.S_ISREG(os.fstat(self._fd).st_mode)

    def fileno(self) -> int:
        return self._fd

    def readinto(self, offset: int, view: memoryview) -> None:
        """See Source."""
        done = 0
        while done < view.nbytes:
            try:
                with view[done:] as rest:
                    count = os.preadv(self._fd, [rest], offset + done)
            except OSError as error:
                raise BundleError(f"cannot read {self.name} at {offset + done}: {error.strerror}", Reason.IO) from error
            if not count:
                raise BundleError(f"{self.name} ends at {offset + done}, and {view.nbytes - done} more bytes were to "
                                  "come: was it cut short?", Reason.IO)
            done += count
            self.bytes_read += count

    def extents(self, offset: int, length: int) -> Iterator[Extent]:
        """See Source. A hole is found by the file system, without reading it."""
        end = offset + length
        while offset < end:
            if not self._sparse or offset >= self.size:  # reading tells what is wrong beyond the end
                yield offset, end - offset, True
                return
            data = min(end, self._seek(offset, os.SEEK_DATA))
            if data > offset:
                yield offset, data - offset, False
            hole = min(end, self._seek(data, os.SEEK_HOLE)) if data < min(end, self.size) else data
            if hole > data:
                yield data, hole - data, True
            offset = hole

    def _seek(self, offset: int, whence: int) -> int:
        try:
            return os.lseek(self._fd, offset, whence)
        except OSError as error:
            if error.errno == errno.ENXIO:  # no data any more
                return self.size
            if error.errno in (errno.EINVAL, errno.EOPNOTSUPP):  # a file system without holes
                self._sparse = False
                return offset if whence == os.SEEK_DATA else self.size
            raise BundleError(f"cannot read {self.name}: {error.strerror}", Reason.IO) from error

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0 and self._owned:
            os.close(fd)


class DiskSource:
    """A vbd of this domain. Closing it leaves the disk open."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self.name, self.size = disk.name, disk.size
        self.bytes_read = 0

    def readinto(self, offset: int, view: memoryview) -> None:
        """See Source. Whole sectors are read, and they are what is counted."""
        if offset + view.nbytes > self.size:
            raise BundleError(f"{self.name} ends at {self.size}: was its image cut short?", Reason.IO)
        unit = self._disk.sector_size
        first, last = offset // unit * unit, -(-(offset + view.nbytes) // unit) * unit
        self.bytes_read += last - first
        if (first, last) == (offset, offset + view.nbytes):
            self._disk.readinto(offset, view)
        else:
            skip = offset - first
            view[:] = self._disk.read(first, last - first)[skip:skip + view.nbytes]

    def extents(self, offset: int, length: int) -> Iterator[Extent]:
        """See Source. A vbd does not say where its holes are."""
        yield offset, length, True

    def close(self) -> None:
        """The disk is its opener's."""
