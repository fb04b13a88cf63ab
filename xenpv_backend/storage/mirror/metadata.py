"""What a mirror must know after a crash: which legs are whole, and where they may differ.

    0       header, copy 0      magic, version, generation, length and text (JSON), CRC-32; little-endian
    4096    header, copy 1
    8192    a bit for each region: the legs may differ there

RULES
- A bit is durable before a write to its region begins, and is cleared only when every leg has it durable.
- A leg is stale here, durably, before a write that it does not have is answered.
- A header is written over the older copy, so one of the two is always whole. Bits need none: while they are being set,
  what a crash leaves of them belongs to writes that have not begun.
"""

from __future__ import annotations

import fcntl
import json
import os
import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final, Protocol
from uuid import uuid4

from xenpv.closing import Closing
from xenpv.domain import Closable
from xenpv.errors import StorageError

from ..base import SECTOR, StorageBusyError

REGION: Final = 1 << 20
"""Bytes of a region, at the least."""
_REGIONS: Final = 1 << 16
_SLOT: Final = 4096
_BITS_AT: Final = 2 * _SLOT
_MAGIC: Final = b"XENPVMIR"
_HEAD: Final = struct.Struct("<8sIQI")
_LEGS_MAX: Final = 8

ACTIVE: Final = "active"
STALE: Final = "stale"


class Blocks(Closable, Protocol):
    """A file, as the metadata use it. All raise OSError."""

    def read(self, offset: int, length: int) -> bytes: ...
    def write(self, offset: int, data: bytes) -> None: ...
    def sync(self) -> None: ...


class LockedFile(Closing):
    """The file `path`. Raises StorageBusyError when another has it, StorageError."""

    def __init__(self, path: str, *, readonly: bool, create: bool = False) -> None:
        flags = (os.O_RDONLY if readonly else os.O_RDWR) | (os.O_CREAT | os.O_EXCL if create else 0)
        try:
            self._fd = os.open(path, flags | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK, 0o600)
        except FileExistsError:
            raise StorageError(f"mirror: {path} is there already: name a new file, or remove it") from None
        except (OSError, ValueError) as error:
            raise StorageError(f"mirror: cannot open {path}: {getattr(error, 'strerror', None) or error}") from error
        try:
            fcntl.flock(self._fd, (fcntl.LOCK_SH if readonly else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except OSError:
            os.close(self._fd)
            raise StorageBusyError(f"mirror: {path} is in use: another disk has it") from None

    def read(self, offset: int, length: int) -> bytes:
        return os.pread(self._fd, length, offset)

    def write(self, offset: int, data: bytes) -> None:
        while data:
            count = os.pwrite(self._fd, data, offset)
            offset, data = offset + count, data[count:]

    def sync(self) -> None:
        os.fdatasync(self._fd)

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


@dataclass(frozen=True, slots=True)
class Leg:
    """A leg as it is written down."""

    target: str
    """As in a disk's target (docs/storage.md)."""
    state: str
    """ACTIVE: it has every acknowledged write. STALE: it lacks some, in regions whose bit is set."""


@dataclass(frozen=True, slots=True)
class Header:
    """What a mirror is. Sizes are bytes."""

    id: str
    size: int
    region: int
    copies: int
    """Legs that a write must be on before it is acknowledged."""
    legs: tuple[Leg, ...]

    def pack(self, generation: int) -> bytes:
        text = json.dumps(asdict(self)).encode()
        head = _HEAD.pack(_MAGIC, 1, generation, len(text)) + text
        if len(head) + 4 > _SLOT:
            raise StorageError("mirror: the names of the legs are too long: use links")
        return (head + struct.pack("<I", zlib.crc32(head))).ljust(_SLOT, b"\0")

    @classmethod
    def unpack(cls, slot: bytes) -> tuple[int, Header] | None:
        """Generation and header; None: it is none, or not whole."""
        if len(slot) < _HEAD.size:
            return None
        magic, version, generation, length = _HEAD.unpack_from(slot)
        end = _HEAD.size + length
        if magic != _MAGIC or version != 1 or end + 4 > len(slot) or zlib.crc32(slot[:end]) != int.from_bytes(
                slot[end:end + 4], "little"):
            return None
        try:
            return generation, cls._checked(json.loads(slot[_HEAD.size:end]))
        except (ValueError, KeyError, TypeError):
            return None

    @classmethod
    def _checked(cls, values: dict[str, Any]) -> Header:
        legs = tuple(Leg(str(leg["target"]), str(leg["state"])) for leg in values["legs"])
        header = cls(str(values["id"]), int(values["size"]), int(values["region"]), int(values["copies"]), legs)
        if not (0 < header.size and header.size % SECTOR == 0 and header.region >= SECTOR
                and header.region % SECTOR == 0 and 1 <= header.copies <= len(legs) <= _LEGS_MAX
                and {leg.state for leg in legs} <= {ACTIVE, STALE}):
            raise ValueError("impossible")
        return header

    @property
    def regions(self) -> int:
        return -(-self.size // self.region)


def region_for(size: int) -> int:
    """Bytes of a region of a disk of `size` bytes."""
    region = REGION
    while size > region * _REGIONS:
        region *= 2
    return region


class Metadata(Closing):
    """The metadata in `blocks`, which belongs to it from now on. For one thread. Raises StorageError, OSError."""

    def __init__(self, blocks: Blocks, name: str) -> None:
        self._blocks = blocks
        found = [Header.unpack(blocks.read(slot * _SLOT, _SLOT)) for slot in (0, 1)]
        whole = [(each[0], slot, each[1]) for slot, each in enumerate(found) if each is not None]
        if not whole:
            raise StorageError(f"mirror: {name} is no mirror, or damaged: `xenpv mirror create` makes one")
        self._generation, self._slot, self.header = max(whole, key=lambda each: each[0])
        count = -(-self.header.regions // 8)
        # What the file lacks counts as set: to copy too much is safe.
        self._bits = bytearray(blocks.read(_BITS_AT, count).ljust(count, b"\xff"))

    @classmethod
    def create(cls, blocks: Blocks, targets: Sequence[str], size: int, *, copies: int = 1, same: bool = False,
               region: int | None = None) -> None:
        """Write new ones. The first leg is the one that is copied, unless all are the `same`. Raises OSError."""
        header = Header(str(uuid4()), size, region or region_for(size), copies, tuple(
            Leg(target, ACTIVE if same or not number else STALE) for number, target in enumerate(targets)))
        count = -(-header.regions // 8)
        bits = bytes(count) if same else b"\xff" * count
        blocks.write(_BITS_AT, bits.ljust(-(-count // _SLOT) * _SLOT, b"\0"))
        blocks.sync()
        blocks.write(0, header.pack(1))
        blocks.sync()

    def is_marked(self, region: int) -> bool:
        return bool(self._bits[region >> 3] >> (region & 7) & 1)

    def marked(self) -> Iterator[int]:
        """The regions where the legs may differ."""
        for at, byte in enumerate(self._bits):
            if byte:
                yield from (number for number in range(8 * at, min(8 * at + 8, self.header.regions))
                            if self.is_marked(number))

    def count_marked(self) -> int:
        return (int.from_bytes(self._bits, "little") & ((1 << self.header.regions) - 1)).bit_count()

    def regions_of(self, offset: int, length: int) -> range:
        region = self.header.region
        return range(offset // region, -(-(offset + length) // region))

    def mark(self, regions: Iterable[int]) -> None:
        """Durably: the legs may differ there from now on. Raises OSError; then nothing may be written there."""
        new = [region for region in regions if not self.is_marked(region)]
        for region in new:
            self._bits[region >> 3] |= 1 << (region & 7)
        try:
            self._write_bits(new)
            if new:
                self._blocks.sync()
        except OSError:
            for region in new:
                self._bits[region >> 3] &= ~(1 << (region & 7))
            raise

    def clear(self, regions: Iterable[int]) -> None:
        """The legs are equal there, durably. What a crash takes back of this costs a copy. Raises OSError."""
        old = [region for region in regions if self.is_marked(region)]
        for region in old:
            self._bits[region >> 3] &= ~(1 << (region & 7))
        self._write_bits(old)

    def _write_bits(self, regions: Sequence[int]) -> None:
        for byte in sorted({region >> 3 for region in regions}):
            self._blocks.write(_BITS_AT + byte, bytes(self._bits[byte:byte + 1]))

    def set_states(self, states: Sequence[str]) -> None:
        """Durably, and the bits with them. Raises OSError; then the states count as they were."""
        legs = tuple(replace(leg, state=state) for leg, state in zip(self.header.legs, states, strict=True))
        if legs == self.header.legs:
            return
        header = replace(self.header, legs=legs)
        self._blocks.sync()  # no state before the bits that go with it
        self._blocks.write((1 - self._slot) * _SLOT, header.pack(self._generation + 1))
        self._blocks.sync()
        self._generation, self._slot, self.header = self._generation + 1, 1 - self._slot, header

    def close(self) -> None:
        self._blocks.close()
