"""A disk as a stream: as a file to read, as chunks in order, and filled from a reader."""

from __future__ import annotations

import io
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol

from xenpv.errors import DiskError, UsageError
from xenpv.wire.blkif import SECTOR_SIZE, Op

from .buffers import SHARE_PAGES, Run, still_in_use, pages_of
from .disk import Disk, as_bytes, failed
from .pieces import Piece

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

UNALIGNED_BYTES = 1 << 20
"""What one unaligned read gives at the most."""


class Readable(Protocol):
    """A file that is open for reading in binary."""

    def readinto(self, buffer: memoryview, /) -> int | None: ...


class RawDisk(io.RawIOBase):
    """A disk as a file. Raises what the disk raises, and ValueError after close()."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._position = 0
        self.name = disk.name

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Move to byte `offset`, also beyond the end. Raises ValueError before the start."""
        self._open()
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._disk.size}.get(whence)
        if base is None or base + offset < 0:
            raise ValueError(f"no such position: {offset} from {whence}")
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        """Fill `buffer`, or a part of it; 0 at the end of the disk."""
        self._open()
        disk = self._disk
        with memoryview(buffer) as whole, as_bytes(whole) as view:
            length = min(view.nbytes, max(0, disk.size - self._position))
            if not length:
                return 0
            mask = disk.sector_size - 1
            if not (self._position | length) & mask:
                with view[:length] as part:
                    disk.readinto(self._position, part)
            else:
                start = self._position & ~mask
                length = min(length, UNALIGNED_BYTES)
                end = (self._position + length + mask) & ~mask
                data = disk.read(start, end - start)
                skip = self._position - start
                view[:length] = data[skip:skip + length]
            self._position += length
            return length

    def _open(self) -> None:
        if self.closed:
            raise ValueError("the file is closed")


def _hold(disk: Disk, size: int, depth: int) -> deque[Run]:
    """Up to `depth` runs of `size` bytes, at least one."""
    if size <= 0 or size % disk.sector_size or pages_of(size) > SHARE_PAGES:
        raise UsageError(f"a chunk is whole sectors of {disk.sector_size} bytes, up to 1 MiB, not {size} bytes")
    if depth < 1:
        raise UsageError(f"at least one chunk is in flight, not {depth}")
    runs = disk.reaper.the_pool().hold(pages_of(size), depth)
    if not runs:
        raise UsageError(f"the pool of {disk.name} has no room for a chunk of {size} bytes: open the disk with more "
                         "pool_bytes, or close what holds pages")
    return deque(runs)


def _release(disk: Disk, runs: deque[Run], pieces: deque[Piece]) -> None:
    """The pair of _hold."""
    for piece in pieces:
        disk.reaper.leave(piece)
    for run in runs:
        disk.reaper.give(run)


def _wait(disk: Disk, piece: Piece) -> None:
    status = disk.reaper.wait(piece)
    if status:
        raise failed(piece.op, piece.sector, piece.length, status, disk.name)


def chunks(disk: Disk, size: int, depth: int, offset: int, length: int) -> Iterator[memoryview]:
    """See Disk.chunks."""
    disk.check_range(offset, length)
    return _chunks(disk, _hold(disk, size, depth), size, offset, offset + length)


def _chunks(disk: Disk, free: deque[Run], size: int, position: int, end: int) -> Iterator[memoryview]:
    ahead: deque[Piece] = deque()
    try:
        while True:
            fresh = []
            while free and position < end:
                piece = Piece(Op.READ, position // SECTOR_SIZE, min(size, end - position), free.popleft())
                position += piece.length
                ahead.append(piece)
                fresh.append(piece)
            if fresh:
                disk.reaper.submit(fresh)
            if not ahead:
                return
            piece = ahead[0]
            _wait(disk, piece)
            ahead.popleft()
            if piece.run is not None:
                free.append(piece.run)
                with piece.run.view[:piece.length] as view:
                    if disk.trusted:
                        yield view
                        continue
                    data = bytes(view)  # the backend may write to the page for as long as it is granted
                with memoryview(data) as view:
                    yield view
    except BufferError:
        raise still_in_use() from None
    finally:
        _release(disk, free, ahead)


def _fill(reader: Readable, view: memoryview) -> int:
    """Read until `view` is full or the reader has ended: how many bytes."""
    filled = 0
    while filled < view.nbytes:
        with view[filled:] as rest:
            n = reader.readinto(rest)
        if n is None:
            raise UsageError("the source gives nothing now: open it in blocking mode")
        if not n:
            break
        filled += n
    return filled


def write_from(disk: Disk, reader: Readable, offset: int, size: int, depth: int) -> int:
    """See Disk.write_from."""
    disk.check_writable()
    disk.check_range(offset, 0)
    free = _hold(disk, size, depth)
    behind: deque[Piece] = deque()
    position, ended = offset, False
    try:
        while not ended or behind:
            if not ended and free:
                with free[0].view[:size] as view:
                    length = _fill(reader, view)
                ended = length < size
                disk.check_range(position, length)
                if length:
                    behind.append(Piece(Op.WRITE, position // SECTOR_SIZE, length, free.popleft()))
                    disk.reaper.submit([behind[-1]])
                    position += length
            else:
                _wait(disk, behind[0])
                run = behind.popleft().run
                if run is not None:
                    free.append(run)
    except (DiskError, UsageError):
        for piece in behind:  # none may land after the caller was told
            disk.reaper.wait(piece)
        raise
    finally:
        _release(disk, free, behind)
    return position - offset
