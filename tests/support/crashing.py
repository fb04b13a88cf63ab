"""Disks and files that lose what was not made durable, when a test says so."""

from __future__ import annotations

import random
from collections.abc import Sequence

from xenpv.errors import StorageError
from xenpv.wire.blkif import Op, Status
from xenpv_backend.storage.base import SECTOR, Done, StorageFacts, StorageRequest
from xenpv_backend.storage.layers import AsyncStorage


class Platter:
    """Bytes, of which some are in a cache that a crash may lose, sector by sector and in any order."""

    def __init__(self, size: int) -> None:
        self.durable = bytearray(size)
        self.now = bytearray(size)
        self._cached: list[tuple[int, bytes]] = []

    def write(self, offset: int, data: bytes) -> None:
        if offset + len(data) > len(self.now):
            more = bytes(offset + len(data) - len(self.now))
            self.now += more
            self.durable += more
        self.now[offset:offset + len(data)] = data
        first = offset // SECTOR * SECTOR
        for start in range(first, offset + len(data), SECTOR):
            low, high = max(start, offset), min(start + SECTOR, offset + len(data))
            self._cached.append((low, data[low - offset:high - offset]))

    def sync(self) -> None:
        self._cached.clear()
        self.durable[:] = self.now

    def crash(self, chance: random.Random | None) -> None:
        """The machine lost its power: of the cache some arrived. None: only the process died, so all of it."""
        if chance is None:
            self.durable[:] = self.now
        for offset, data in self._cached:
            if chance is not None and chance.random() < 0.5:
                self.durable[offset:offset + len(data)] = data
        self._cached.clear()
        self.now[:] = self.durable


class CrashingFile:
    """A file on a platter, as mirror's metadata use it."""

    def __init__(self, platter: Platter) -> None:
        self.platter = platter
        self.story: list[str] = []
        self.fails = False

    def _do(self, what: str) -> None:
        if self.fails:
            raise OSError(5, "Input/output error")
        self.story.append(what)

    def read(self, offset: int, length: int) -> bytes:
        return bytes(self.platter.now[offset:offset + length])

    def write(self, offset: int, data: bytes) -> None:
        self._do("write")
        self.platter.write(offset, data)

    def sync(self) -> None:
        self._do("sync")
        self.platter.sync()

    def close(self) -> None:
        """What is on the platter stays."""


class CrashingDisk(AsyncStorage):
    """A disk on a platter; `broken` makes every request fail, `absent` its opening."""

    cache = "memory"

    def __init__(self, name: str, platter: Platter) -> None:
        self.name = name
        self.platter = platter
        self.broken: frozenset[int] | bool = False
        self.absent = False
        self.discard_zeroes = True
        self.story: list[tuple[int, int]] = []

    def open(self) -> CrashingDisk:
        if self.absent:
            raise StorageError(f"{self.name} is not there")
        return self

    @property
    def facts(self) -> StorageFacts:
        return StorageFacts(len(self.platter.now) // SECTOR, False, discard=True, discard_granularity=SECTOR,
                            discard_zeroes=self.discard_zeroes)

    def submit(self, requests: Sequence[StorageRequest], done: Done) -> None:
        for request in requests:
            request.status = self._do(request)
            done(request)

    def _do(self, request: StorageRequest) -> int:
        self.story.append((request.op, request.sector))
        if self.broken is True or (self.broken and request.op in self.broken):
            return Status.ERROR
        start = request.sector * SECTOR
        match request.op:
            case Op.READ if request.data is not None:
                request.data[:] = self.platter.now[start:start + request.bytes]
            case Op.WRITE if request.data is not None:
                self.platter.write(start, bytes(request.data))
            case Op.DISCARD:
                self.platter.write(start, bytes(request.bytes))
            case Op.FLUSH_DISKCACHE:
                self.platter.sync()
        return Status.OKAY

    def close(self) -> None:
        """What is on the platter stays."""
