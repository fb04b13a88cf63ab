"""Images out of a bundle: to files in a directory, to standard output, or to a device.

RULES

- A file is made inside the directory that was opened, by a name without a slash, and appears when it is whole and right.
- A file that is there stays, unless the user says otherwise. A symbolic link is never followed.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import BinaryIO

from xenpv.closing import Closing
from xenpv.errors import StorageError, UsageError

from .copying import data_runs, write_all
from .medium import FileMedium, Region

__all__ = ["SparseFile", "Stream", "Target", "device_sink", "is_block_device"]


class SparseFile:
    """A new regular file as a Sink: zeros become holes."""

    def __init__(self, fd: int, name: str) -> None:
        self._fd, self._name = fd, name

    def data(self, offset: int, view: memoryview) -> None:
        """See Sink."""
        for start, end in data_runs(view):
            with view[start:end] as part:
                write_all(self._fd, self._name, offset + start, part)

    def zero(self, offset: int, length: int) -> None:
        """See Sink. The file is as long as it shall be, and what was not written is zero."""


class Stream:
    """Standard output or a pipe as a Sink."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._zeros = bytes(1 << 20)

    def data(self, offset: int, view: memoryview) -> None:
        """See Sink."""
        self._file.write(view)

    def zero(self, offset: int, length: int) -> None:
        """See Sink."""
        while length > 0:
            length -= self._file.write(memoryview(self._zeros)[:length])


class Target(Closing):
    """A directory, made when it is not there. Raises StorageError."""

    def __init__(self, path: str, *, overwrite: bool = False) -> None:
        self._path, self._overwrite = path, overwrite
        try:
            with suppress(FileExistsError):
                os.mkdir(path)
            self._fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise StorageError(f"cannot write to {path}: {error.strerror}") from error

    def check_free(self, name: str) -> None:
        """Raises UsageError when a file of that name is there and shall stay."""
        if self._overwrite:
            return
        with suppress(FileNotFoundError):
            os.stat(name, dir_fd=self._fd, follow_symlinks=False)
            raise self._there(name)

    def _there(self, name: str) -> UsageError:
        return UsageError(f"{self._path}/{name} is there already: -f writes over it")

    @contextmanager
    def file(self, name: str, size: int) -> Iterator[SparseFile]:
        """A file of `size` bytes, which is there under `name` when all went well."""
        temporary = f".xenpv-{secrets.token_hex(8)}"
        try:
            fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666,
                         dir_fd=self._fd)
        except OSError as error:
            raise StorageError(f"cannot write to {self._path}: {error.strerror}") from error
        try:
            os.ftruncate(fd, size)
            yield SparseFile(fd, f"{self._path}/{name}")
            self._publish(temporary, name)
        except OSError as error:
            raise StorageError(f"cannot write {self._path}/{name}: {error.strerror}") from error
        finally:
            os.close(fd)
            with suppress(FileNotFoundError):
                os.unlink(temporary, dir_fd=self._fd)

    def _publish(self, temporary: str, name: str) -> None:
        if not self._overwrite:
            try:  # a link, unlike a rename, does not replace what came in between
                os.link(temporary, name, src_dir_fd=self._fd, dst_dir_fd=self._fd, follow_symlinks=False)
                return
            except FileExistsError as error:
                raise self._there(name) from error
            except OSError as error:
                if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK):
                    raise
            self.check_free(name)  # a file system without hard links
        os.rename(temporary, name, src_dir_fd=self._fd, dst_dir_fd=self._fd)

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


@contextmanager
def device_sink(path: str, size: int) -> Iterator[Region]:
    """A block device of at least `size` bytes, which is nobody's, as a Sink. Raises StorageError."""
    with FileMedium(path) as medium:
        if size > medium.size:
            raise StorageError(f"{path} has {medium.size} bytes, and the image {size}")
        yield Region(medium, 0, blank=False)
        medium.sync()


def is_block_device(path: str) -> bool:
    """Whether `path` is there and is a block device."""
    try:
        return stat.S_ISBLK(os.stat(path).st_mode)
    except OSError:
        return False
