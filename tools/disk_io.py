"""Between a disk and a file: whole ranges, read ahead and written behind by the disk's own streams."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from xenpv.errors import StorageError, UsageError
from xenpv.xenbus import vdev_number

from .progress import Progress

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

    from xenpv_frontend.disk import Disk

__all__ = ["copy_in", "copy_out", "is_device", "new_image", "size_of"]

CHUNK = 256 * 1024
_ZERO = bytes(CHUNK)


def is_device(text: str) -> bool:
    """Whether `text` names a virtual device rather than a file."""
    try:
        vdev_number(text)
    except UsageError:
        return False
    return True


def size_of(file: BinaryIO) -> int | None:
    """Bytes of a file or block device from where it stands; None for what has no size."""
    try:
        fd = file.fileno()
        if not stat.S_ISREG(os.fstat(fd).st_mode) and not stat.S_ISBLK(os.fstat(fd).st_mode):
            return None
        at = os.lseek(fd, 0, os.SEEK_CUR)
        end = os.lseek(fd, 0, os.SEEK_END)
        os.lseek(fd, at, os.SEEK_SET)
        return end - at
    except (OSError, ValueError):
        return None


@contextmanager
def new_image(name: str) -> Iterator[BinaryIO]:
    """A file that takes the place of `name` when all went well, and is gone otherwise; a device or pipe as it is."""
    path = Path(name)
    try:
        if path.exists() and not path.is_file():
            with open(path, "r+b" if path.is_block_device() else "wb", buffering=0) as device:
                yield device
            return
        fd, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except OSError as error:
        raise StorageError(f"cannot write {name}: {error.strerror}") from error
    try:
        with os.fdopen(fd, "wb", buffering=0) as file:
            yield file
            os.fchmod(file.fileno(), 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def copy_out(disk: Disk, file: BinaryIO, progress: Progress, offset: int = 0, length: int | None = None) -> None:
    """`length` bytes (None: all that is left) from `offset` of the disk, at any byte, to `file`.

    Zeros become a hole in a regular file. Raises StorageError when the file cannot take them.
    """
    length = disk.size - offset if length is None else length
    if offset < 0 or length < 0 or offset + length > disk.size:
        raise UsageError(f"{disk.name}: {length} bytes at {offset} are outside the disk of {disk.size} bytes")
    first = offset - offset % disk.sector_size
    last = -(-(offset + length) // disk.sector_size) * disk.sector_size
    sparse = _is_regular(file)
    at = first
    chunks = disk.chunks(CHUNK, offset=first, length=last - first)
    try:
        for chunk in chunks:
            # Released here: the disk cannot be closed while a slice of its pages is in use.
            with chunk, chunk[max(0, offset - at):offset + length - at] as part:
                at += len(chunk)
                if sparse and part == _ZERO[:len(part)]:
                    file.seek(len(part), os.SEEK_CUR)
                else:
                    _write_all(file, part)
                progress.add(len(part))
        if sparse:
            file.truncate(file.tell())
    except BrokenPipeError:
        raise
    except OSError as error:
        raise StorageError(f"cannot write {file.name}: {error.strerror}") from error
    finally:
        if isinstance(chunks, Generator):
            chunks.close()


def _is_regular(file: BinaryIO) -> bool:
    try:
        return stat.S_ISREG(os.fstat(file.fileno()).st_mode) and os.lseek(file.fileno(), 0, os.SEEK_CUR) == 0
    except (OSError, ValueError):
        return False


def _write_all(file: BinaryIO, data: memoryview) -> None:
    done = 0
    while done < len(data):
        with data[done:] as rest:
            done += file.write(rest)


class _Counted:
    """A file whose reads are counted."""

    def __init__(self, file: BinaryIO, progress: Progress) -> None:
        self._file, self._progress = file, progress

    def readinto(self, buffer: WriteableBuffer, /) -> int | None:
        count: int | None = self._file.readinto(buffer)  # type: ignore[attr-defined]
        self._progress.add(count or 0)
        return count


def copy_in(disk: Disk, file: BinaryIO, name: str, progress: Progress, offset: int = 0) -> None:
    """All of `file`, called `name`, to the disk at `offset`, and flush. Nothing is written when it cannot fit."""
    size = size_of(file)
    if size is not None:
        if offset + size > disk.size:
            raise UsageError(f"{name} has {size} bytes and does not fit: {disk.name} has {disk.size - offset} from "
                             f"{offset}")
        if size % disk.sector_size or offset % disk.sector_size:
            raise UsageError(f"{name} has {size} bytes for offset {offset}: {disk.name} takes whole sectors of "
                             f"{disk.sector_size} bytes")
    disk.write_from(_Counted(file, progress), offset)
    disk.flush()
