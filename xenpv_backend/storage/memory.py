"""A disk in this process's memory, done in Python: for tests, and the plainest example of a storage without a file."""

from __future__ import annotations

from collections.abc import Sequence

from xenpv.closing import Closing
from xenpv.errors import ClosedError, StorageError
from xenpv.wire.blkif import Op, Status

from .base import SECTOR, StorageFacts, StorageRequest

MAX_BYTES = 1 << 30


class MemoryStorage(Closing):
    """`size` zero bytes, gone at close(). Raises StorageError for a size that cannot be."""

    inline = False
    cache = "memory"

    def __init__(self, size: int, *, readonly: bool = False) -> None:
        if not 0 < size <= MAX_BYTES or size % SECTOR:
            raise StorageError(f"a disk in memory has 512 to {MAX_BYTES} bytes, in multiples of 512, not {size}")
        self.name = f"memory:{size}"
        self._bytes: bytearray | None = bytearray(size)
        self._facts = StorageFacts(size // SECTOR, readonly, discard=not readonly, discard_secure=not readonly,
                                   discard_granularity=0 if readonly else SECTOR)

    @property
    def facts(self) -> StorageFacts:
        return self._facts

    def fileno(self) -> int:
        return -1

    def handle(self, requests: Sequence[StorageRequest]) -> None:
        """See Storage.handle."""
        for request in requests:
            request.status = self._do(request)

    def _do(self, request: StorageRequest) -> int:
        content = self._content()
        start = request.sector * SECTOR
        part = slice(start, start + request.bytes)
        match request.op:
            case Op.READ if request.data is not None:
                request.data[:] = memoryview(content)[part]
            case Op.WRITE if request.data is not None:
                content[part] = request.data
            case Op.DISCARD:
                content[part] = bytes(request.bytes)
            case Op.FLUSH_DISKCACHE:
                pass
            case _:
                return Status.EOPNOTSUPP
        return Status.OKAY

    def _content(self) -> bytearray:
        if self._bytes is None:
            raise ClosedError(f"{self.name} was closed")
        return self._bytes

    def refresh(self) -> StorageFacts:
        """See Storage.refresh."""
        self._content()
        return self._facts

    def grow(self, size: int) -> StorageFacts:
        """See Storage.grow."""
        raise StorageError(f"{self.name} cannot be grown")

    def close(self) -> None:
        self._bytes = None
