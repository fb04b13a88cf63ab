"""Where an overlay's blocks are: in memory, or in a sparse file.

The file: a header of 4,096 bytes (magic, version, block size, size of the disk, CRC-32; little-endian), a bit for each
block, rounded up to 4,096 bytes, then the blocks, each where it is on the disk. Nothing else is ever in it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import zlib
from collections.abc import Mapping
from typing import Any, Final, Protocol

from xenpv.closing import Closing
from xenpv.domain import Closable
from xenpv.errors import StorageError

from .. import kernel
from ..base import StorageBusyError

BLOCK: Final = 4096
_MAGIC: Final = b"XENPVCOW"
_HEADER: Final = struct.Struct("<8sIIQ")


class Top(Closable, Protocol):
    """Blocks that were written. Offsets are bytes on the disk; all raise OSError. For one thread."""

    def has(self, block: int) -> bool: ...

    def read(self, offset: int, data: memoryview) -> None:
        """Of blocks that are there."""
        ...

    def write(self, offset: int, data: memoryview) -> None:
        """Every block that is touched is there from now on; of those that were not, the rest is zero."""
        ...

    def zero(self, offset: int, length: int) -> None:
        """As write(), of zeros."""
        ...

    def commit(self) -> None:
        """Let a later opening find what was written. When it fails, blocks that were not there are not."""
        ...

    def flush(self) -> None:
        """Let it be found after the machine has lost its power."""
        ...

    def describe(self) -> Mapping[str, Any]: ...


class MemoryTop(Closing):
    """In memory: gone with close(), or with the process. At most `limit` bytes, then ENOSPC."""

    def __init__(self, limit: int) -> None:
        self._limit = limit // BLOCK
        self._blocks: dict[int, bytearray] = {}

    def has(self, block: int) -> bool:
        return block in self._blocks

    def _pieces(self, offset: int, length: int) -> list[tuple[int, int, int, int]]:
        """(block, from in the block, to, where in the data)."""
        found, at = [], offset
        while at < offset + length:
            start = at % BLOCK
            count = min(BLOCK - start, offset + length - at)
            found.append((at // BLOCK, start, start + count, at - offset))
            at += count
        return found

    def read(self, offset: int, data: memoryview) -> None:
        for block, start, end, at in self._pieces(offset, len(data)):
            data[at:at + end - start] = self._blocks[block][start:end]

    def write(self, offset: int, data: memoryview) -> None:
        pieces = self._pieces(offset, len(data))
        if len(self._blocks) + sum(block not in self._blocks for block, *_ in pieces) > self._limit:
            raise OSError(errno.ENOSPC, f"the overlay in memory is full ({self._limit * BLOCK} bytes)")
        for block, start, end, at in pieces:
            self._blocks.setdefault(block, bytearray(BLOCK))[start:end] = data[at:at + end - start]

    def zero(self, offset: int, length: int) -> None:
        self.write(offset, memoryview(bytes(length)))

    def commit(self) -> None:
        """Nobody finds it later."""

    def flush(self) -> None:
        """It does not survive."""

    def describe(self) -> Mapping[str, Any]:
        return {"file": None, "bytes": len(self._blocks) * BLOCK}

    def close(self) -> None:
        self._blocks.clear()


class FileTop(Closing):
    """In the file `path`, for a disk of `size` bytes; made when it is not there, or empty. Locked while it is open.

    Raises StorageBusyError when another has it, StorageError when it is no overlay of such a disk.
    """

    def __init__(self, path: str, size: int, *, readonly: bool = False) -> None:
        self._path = path
        self._size = size
        blocks = -(-size // BLOCK)
        self._data_at = BLOCK + -(-blocks // (8 * BLOCK)) * BLOCK
        self._new: set[int] = set()
        flags = os.O_RDONLY if readonly else os.O_RDWR | os.O_CREAT
        try:
            self._fd = os.open(path, flags | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK, 0o600)
        except OSError as error:
            raise StorageError(f"overlay: cannot open {path}: {error.strerror}") from error
        try:
            fcntl.flock(self._fd, (fcntl.LOCK_SH if readonly else fcntl.LOCK_EX) | fcntl.LOCK_NB)
            if not readonly and os.fstat(self._fd).st_size == 0:
                self._make()
            self._check()
            self._bits = bytearray(os.pread(self._fd, -(-blocks // 8), BLOCK).ljust(-(-blocks // 8), b"\0"))
        except BlockingIOError as error:
            os.close(self._fd)
            raise StorageBusyError(f"overlay: {path} is in use: another disk has it") from error
        except OSError as error:
            os.close(self._fd)
            raise StorageError(f"overlay: cannot use {path}: {error.strerror}") from error
        except BaseException:
            os.close(self._fd)
            raise

    def _head(self) -> bytes:
        head = _HEADER.pack(_MAGIC, 1, BLOCK, self._size)
        return head + struct.pack("<I", zlib.crc32(head))

    def _make(self) -> None:
        os.ftruncate(self._fd, self._data_at + self._size)
        os.pwrite(self._fd, self._head(), 0)
        os.fsync(self._fd)

    def _check(self) -> None:
        head = os.pread(self._fd, _HEADER.size + 4, 0)
        if head == self._head():
            return
        if len(head) < _HEADER.size + 4 or not head.startswith(_MAGIC):
            raise StorageError(f"overlay: {self._path} is no overlay: name one, or a file that is not there yet")
        raise StorageError(f"overlay: {self._path} is for another disk than one of {self._size} bytes, or damaged: name "
                           "another file")

    def has(self, block: int) -> bool:
        return bool(self._bits[block >> 3] >> (block & 7) & 1)

    def _mark(self, offset: int, length: int) -> None:
        for block in range(offset // BLOCK, -(-(offset + length) // BLOCK)):
            if not self.has(block):
                self._bits[block >> 3] |= 1 << (block & 7)
                self._new.add(block)

    def read(self, offset: int, data: memoryview) -> None:
        at = 0
        while at < len(data):
            moved = os.preadv(self._fd, [data[at:]], self._data_at + offset + at)
            if not moved:
                raise OSError(errno.EIO, f"{self._path} was cut short")
            at += moved

    def write(self, offset: int, data: memoryview) -> None:
        at = 0
        while at < len(data):
            at += os.pwritev(self._fd, [data[at:]], self._data_at + offset + at)
        self._mark(offset, len(data))

    def zero(self, offset: int, length: int) -> None:
        try:
            kernel.punch_hole(self._fd, self._data_at + offset, length)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.ENOSYS):
                raise
            self.write(offset, memoryview(bytes(length)))
        self._mark(offset, length)

    def commit(self) -> None:
        new, self._new = self._new, set()
        if not new:
            return
        try:
            os.fdatasync(self._fd)
            for byte in sorted({block >> 3 for block in new}):
                os.pwrite(self._fd, self._bits[byte:byte + 1], BLOCK + byte)
        except OSError:
            for block in new:
                self._bits[block >> 3] &= ~(1 << (block & 7))
            raise

    def flush(self) -> None:
        os.fdatasync(self._fd)

    def describe(self) -> Mapping[str, Any]:
        return {"file": self._path, "bytes": int.from_bytes(self._bits, "little").bit_count() * BLOCK}

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
