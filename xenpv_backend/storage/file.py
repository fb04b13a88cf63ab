"""A raw image: a regular file or a block device.

RULES
- The lock is on the open file description that does the I/O, and is taken before the first of it. The kernel drops it
  when the last request of a dead process has ended, so whoever gets it next is alone with the image.
- What is opened is looked at through its descriptor, never by its name a second time.
- The file is never mapped: one that is cut short under us costs an I/O error, not the process.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import stat
from collections.abc import Sequence
from dataclasses import replace

from xenpv.closing import Closing
from xenpv.errors import ClosedError, LocalProtocolError, StorageError

from . import kernel
from .base import SECTOR, StorageBusyError, StorageFacts, StorageRequest
from .cache import has_flush, is_direct, is_through, mode_of

_PAGE = 4096


class FileStorage(Closing):
    """A `Storage` on a raw file or a block device. Opens, locks and looks at it.

    `cache` is one of cache.CACHES. Raises StorageBusyError when another backend has it, StorageError for all else.
    """

    def __init__(self, path: str, *, readonly: bool, cache: str = "auto") -> None:
        self.name = path
        self.inline = False
        mode = mode_of(cache)
        self.cache = "writeback" if mode == "auto" else mode
        self._fd = _open(path, readonly, through=is_through(mode))
        try:
            self._is_device = self._kind()
            self._lock(readonly)
            sector_size, physical = kernel.device_sector_sizes(self._fd) if self._is_device else (SECTOR, 0)
            self.inline = not self._is_device and kernel.is_in_memory(self._fd)
            self._choose_cache(mode, sector_size)
            granularity, alignment = (0, 0) if readonly else self._discard()
            self._facts = StorageFacts(
                self._sectors(sector_size), readonly, sector_size, physical or self._file_block(),
                flush=has_flush(mode), discard=granularity > 0, discard_granularity=granularity, discard_alignment=alignment,
                discard_secure=(granularity > 0 and self._is_device
                                and kernel.device_can_discard_securely(self._fd)),
                discard_zeroes=not self._is_device or self._limit("write_zeroes_max_bytes") > 0)
            if not self._facts.sectors:
                raise StorageError(f"{path} is empty: give it a size, say `truncate -s 1G {path}`")
        except OSError as error:
            os.close(self._fd)
            raise StorageError(f"cannot use {path}: {error.strerror}") from error
        except BaseException:
            os.close(self._fd)
            raise

    def _kind(self) -> bool:
        mode = os.fstat(self._fd).st_mode
        if stat.S_ISBLK(mode):
            return True
        if not stat.S_ISREG(mode):
            what = "a directory" if stat.S_ISDIR(mode) else "neither a file nor a block device"
            raise StorageError(f"{self.name} is {what}: name a raw image")
        return False

    def _lock(self, readonly: bool) -> None:
        try:
            fcntl.flock(self._fd, (fcntl.LOCK_SH if readonly else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError as error:
            whose = "writes to it" if readonly else "has it open"
            raise StorageBusyError(f"{self.name} is in use: another backend or disk {whose}; one writer at a time, and "
                                   "no reader beside it") from error
        if self._is_device and not readonly and kernel.device_is_readonly(self._fd):
            raise StorageError(f"{self.name} is a read-only device: attach it read-only (mode r)")

    def _choose_cache(self, mode: str, sector_size: int) -> None:
        if not is_direct(mode) and (self.inline or mode != "auto"):
            return
        reason = self._try_direct(sector_size)
        if reason and is_direct(mode):
            raise StorageError(f"{self.name} cannot be opened O_DIRECT ({reason}): use cache = \"auto\"")
        if not reason and mode == "auto":
            self.cache = "none"

    def _try_direct(self, sector_size: int) -> str | None:
        """Set O_DIRECT, and read one sector at an offset and an address that are no better aligned than a guest's.

        Returns why it cannot be; then it is not set.
        """
        flags = fcntl.fcntl(self._fd, fcntl.F_GETFL)
        try:
            fcntl.fcntl(self._fd, fcntl.F_SETFL, flags | os.O_DIRECT)
            with mmap.mmap(-1, _PAGE + sector_size) as memory, memoryview(memory) as view:
                with view[sector_size:2 * sector_size] as sector:
                    os.preadv(self._fd, [sector], sector_size)
        except OSError as error:
            fcntl.fcntl(self._fd, fcntl.F_SETFL, flags)
            if error.errno != errno.EINVAL:
                raise
            return "its file system refuses it, or wants larger blocks than its sectors"
        return None

    def _sectors(self, sector_size: int) -> int:
        size = kernel.device_size(self._fd) if self._is_device else os.fstat(self._fd).st_size
        if size % sector_size:
            raise StorageError(f"{self.name} has {size} bytes, which is no multiple of its sector size {sector_size}: "
                               f"is it a raw image? If so, `truncate -s %{sector_size} {self.name}` rounds it up")
        return size // SECTOR

    def _file_block(self) -> int:
        return _PAGE if os.fstat(self._fd).st_blksize >= _PAGE else SECTOR

    def _discard(self) -> tuple[int, int]:
        """Granularity and alignment of discards in bytes; 0, 0 where there are none."""
        found = os.fstat(self._fd)
        if not self._is_device:
            try:
                # Beyond the end, where it changes nothing.
                kernel.punch_hole(self._fd, (found.st_size // _PAGE + 1) * _PAGE, _PAGE)
            except OSError as error:
                if error.errno not in (errno.EOPNOTSUPP, errno.ENOSYS, errno.EPERM, errno.ETXTBSY):
                    raise
                return 0, 0
            return _PAGE, 0
        if not self._limit("discard_max_bytes"):
            return 0, 0
        return self._limit("discard_granularity") or SECTOR, 0

    def _limit(self, name: str) -> int:
        return kernel.device_limit(os.fstat(self._fd).st_rdev, name)

    @property
    def facts(self) -> StorageFacts:
        return self._facts

    def fileno(self) -> int:
        if self._fd < 0:
            raise ClosedError(f"{self.name} was closed")
        return self._fd

    def handle(self, requests: Sequence[StorageRequest]) -> None:
        raise LocalProtocolError(f"{self.name} has a descriptor: the core does its requests")

    def refresh(self) -> StorageFacts:
        """See Storage.refresh."""
        self.fileno()
        try:
            self._facts = replace(self._facts, sectors=self._sectors(self._facts.sector_size))
        except OSError as error:
            raise StorageError(f"cannot look at {self.name}: {error.strerror}") from error
        return self._facts

    def grow(self, size: int) -> StorageFacts:
        """See Storage.grow. A block device is grown by its own tools; then only its size is read again."""
        facts = self.refresh()
        if size % facts.sector_size:
            raise StorageError(f"{size} bytes are no whole sectors of {facts.sector_size} bytes")
        if size < facts.size:
            raise StorageError(f"{self.name} has {facts.size} bytes and is not cut down to {size} here: truncate it "
                               "yourself, then resize without a size")
        if size > facts.size:
            if self._is_device or facts.readonly:
                raise StorageError(f"{self.name} cannot be grown here: " + (
                    "it is a block device" if self._is_device else "it is attached read-only"))
            try:
                os.ftruncate(self._fd, size)
            except OSError as error:
                raise StorageError(f"cannot grow {self.name}: {error.strerror}") from error
        return self.refresh()

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


_MENDS = {
    errno.ENOENT: "there is no such file: check the disk's target",
    errno.EISDIR: "it is a directory: name a raw image",
    errno.EACCES: "permission denied: is it writable by this user? If it shall not be written, attach it read-only",
    errno.EROFS: "its file system is read-only: attach it read-only",
    errno.ETXTBSY: "it is a program that runs",
}


def _open(path: str, readonly: bool, through: bool) -> int:
    """The descriptor. A name that is a FIFO must not hold us up, hence O_NONBLOCK; a disk knows nothing of it.

    `through`: every write is durable when it returns, whoever does it (O_DSYNC, which only open() can set).
    """
    flags = (os.O_RDONLY if readonly else os.O_RDWR) | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
    if through and not readonly:
        flags |= os.O_DSYNC
    try:
        if not readonly and stat.S_ISBLK(os.stat(path).st_mode):
            flags |= os.O_EXCL  # refused while it is mounted, or held by another writer
        fd = os.open(path, flags)
    except OSError as error:
        if error.errno == errno.EBUSY:
            raise StorageBusyError(f"{path} is in use: it is mounted, or another program holds it") from error
        reason = _MENDS.get(error.errno or 0, error.strerror)
        raise StorageError(f"cannot open {path}: {reason}") from error
    except ValueError as error:
        raise StorageError(f"cannot open {path!r}: {error}") from error
    try:
        fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) & ~os.O_NONBLOCK)
    except OSError as error:
        os.close(fd)
        raise StorageError(f"cannot use {path}: {error.strerror}") from error
    return fd
