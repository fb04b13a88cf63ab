"""Bundles in memory, and a medium that is killed at the write it is told to."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Mapping

from xenpv_tools.bundle.inputs import Input
from xenpv_tools.bundle.reader import Bundle
from xenpv_tools.bundle.signing import Signer
from xenpv_tools.bundle.source import Extent
from xenpv_tools.bundle.verify import judge_images, judge_index
from xenpv_tools.bundle.writer import create
from xenpv_tools.progress import Progress
from xenpv.errors import BundleError, StorageError
from xenpv.wire.bundle import KINDS, Index, Reason

__all__ = ["StorageError", "create"]

SMALL = Index(size=0, index_size=64 << 10, align=4096, cmdline="console=hvc0 ro", created=1700000000)
"""Settings of a bundle as small as can be."""


class MemorySource:
    """A Source on bytes."""

    def __init__(self, data: bytes | bytearray, name: str = "memory") -> None:
        self.data, self.name, self.size, self.bytes_read = data, name, len(data), 0

    def readinto(self, offset: int, view: memoryview) -> None:
        found = self.data[offset:offset + len(view)]
        if len(found) < len(view):
            raise BundleError(f"{self.name} ends at {self.size}", Reason.IO)
        self.bytes_read += len(view)
        view[:] = found

    def extents(self, offset: int, length: int) -> Iterator[Extent]:
        yield offset, length, True

    def close(self) -> None:
        """There is nothing to give back."""


class MemoryMedium:
    """A Medium on bytes."""

    def __init__(self, data: bytearray, *, fixed: bool = False) -> None:
        self.data, self.name, self.fixed = data, "memory", fixed

    @property
    def size(self) -> int:
        return len(self.data)

    def write(self, offset: int, view: memoryview | bytes) -> None:
        put(self.data, offset, bytes(view))

    def zero(self, offset: int, length: int) -> None:
        length = min(length, self.size - offset)
        if length > 0:
            self.write(offset, bytes(length))

    def resize(self, size: int) -> None:
        resize(self.data, size)

    def sync(self) -> None:
        """All is there already."""


def put(data: bytearray, offset: int, piece: bytes) -> None:
    if offset + len(piece) > len(data):
        data.extend(bytes(offset + len(piece) - len(data)))
    data[offset:offset + len(piece)] = piece


def resize(data: bytearray, size: int) -> None:
    del data[size:]
    data.extend(bytes(size - len(data)))


class Killed(Exception):
    """The process is gone."""


class KilledMedium(MemoryMedium):
    """Killed at operation `at` (None: never). `survived` is then what the disk holds.

    What came before the last sync is there. Of what came after it, and of the operation that was met: with `reordered`, any
    sectors of any write; else everything in order, and a part of the last one.
    """

    def __init__(self, data: bytearray, at: int | None, chosen: random.Random, *, reordered: bool,
                 fixed: bool = False) -> None:
        super().__init__(data, fixed=fixed)
        self.survived = bytearray(data)
        self.operations = 0
        self._at, self._chosen, self._reordered = at, chosen, reordered
        self._pending: list[tuple[int, bytes | None]] = []

    def write(self, offset: int, view: memoryview | bytes) -> None:
        self._do(offset, bytes(view))
        super().write(offset, view)

    def resize(self, size: int) -> None:
        self._do(size, None)
        super().resize(size)

    def sync(self) -> None:
        self._count()
        for offset, piece in self._pending:
            self._apply(offset, piece)
        self._pending.clear()

    def _do(self, offset: int, piece: bytes | None) -> None:
        self._pending.append((offset, piece))
        self._count()

    def _count(self) -> None:
        self.operations += 1
        if self.operations != self._at:
            return
        for number, (offset, piece) in enumerate(self._pending):
            if piece is None:
                self._apply(offset, piece)
            elif self._reordered:
                for start in range(0, len(piece), 512):
                    if self._chosen.random() < 0.5:
                        self._apply(offset + start, piece[start:start + 512])
            elif number == len(self._pending) - 1:
                self._apply(offset, piece[:self._chosen.randrange(len(piece) + 1)])
            else:
                self._apply(offset, piece)
        raise Killed

    def _apply(self, offset: int, piece: bytes | None) -> None:
        if piece is None:
            resize(self.survived, offset)
        else:
            put(self.survived, offset, piece)


def inputs(images: Mapping[str, bytes]) -> list[Input]:
    """Images from bytes, of the kind that their name says."""
    return [Input(name, name if name in KINDS else "data", MemorySource(data, name)) for name, data in images.items()]


def bundle(images: Mapping[str, bytes], settings: Index = SMALL, sign: Signer | None = None) -> bytearray:
    """The bytes of a bundle."""
    data = bytearray()
    create(MemoryMedium(data), inputs(images), settings, sign, Progress("test", None))
    return data


def opened(data: bytes | bytearray) -> Bundle:
    """The bundle in `data`."""
    return Bundle(MemorySource(data))


def reasons(data: bytes | bytearray) -> list[str]:
    """Every reason that verify finds, in order; those of a bundle that cannot be opened."""
    try:
        found = opened(data)
    except BundleError as error:
        return [error.reason]
    return [each.reason for each in (*judge_index(found), *judge_images(found)) if each.reason is not None]


def contents(data: bytes | bytearray, *, checked: bool = True) -> dict[str, bytes]:
    """Every image, its SHA-256 checked by the test's own means."""
    found = opened(data)
    images = {each.name: bytes(data[each.offset:each.offset + each.size]) for each in found.images}
    assert not checked or all(hashlib.sha256(images[each.name]).digest() == each.sha256 for each in found.images)
    return images
