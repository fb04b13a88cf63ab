"""A GUID partition table of 128 entries with a protective MBR, both copies, byte for byte.

RULES

- This file knows the layout and nothing else: what the partitions are, and where, is its caller's business.
- Every field is declared once for construct, which shows bytes to people, and once for struct, which is fast. A test
  proves both equal.

Source: UEFI Specification 2.10, chapter 5 (5.2.3 protective MBR, 5.3.2 header, 5.3.3 entries). All integers are
little-endian; a GUID's first three fields are too (`uuid.UUID.bytes_le`). A sector is 512 bytes.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from construct import Array, Bytes, Container, Int8ul, Int32ul, Int64ul, Padding, Struct

__all__ = ["BACK_BYTES", "ENTRIES", "FRONT_BYTES", "GPT_ENTRY", "GPT_HEADER", "MBR", "SECTOR", "Partition", "Table",
           "decode", "first_usable_bytes", "tables"]

SECTOR: Final = 512
ENTRIES: Final = 128
ENTRY_BYTES: Final = 128
TABLE_SECTORS: Final = ENTRIES * ENTRY_BYTES // SECTOR
FRONT_BYTES: Final = (2 + TABLE_SECTORS) * SECTOR
"""Protective MBR, header, entries: from the first byte of the disk."""
BACK_BYTES: Final = (TABLE_SECTORS + 1) * SECTOR
"""The second copy, entries before their header: up to the last byte of the disk."""

LINUX_DATA: Final = UUID("0fc63daf-8483-4772-8e79-3d69d8477de4")
"""The type `Linux filesystem data`."""
READ_ONLY: Final = 1 << 60
NO_AUTOMOUNT: Final = 1 << 63
"""Attributes of a partition of this type, as in the UAPI group's Discoverable Partitions Specification."""

_SIGNATURE: Final = b"EFI PART"
_REVISION: Final = 0x00010000
_HEADER_BYTES: Final = 92
_PROTECTIVE: Final = 0xEE

# --- construct: for people, tools and the test of every field -------------------------------------------------------

MBR: Final = Struct(
    "boot_code" / Bytes(440),
    "disk_signature" / Int32ul,
    Padding(2),
    "partitions" / Array(4, Struct(
        "status" / Int8ul, "first_chs" / Bytes(3), "type" / Int8ul, "last_chs" / Bytes(3), "first_lba" / Int32ul,
        "sectors" / Int32ul)),
    "signature" / Bytes(2),
)
GPT_HEADER: Final = Struct(
    "signature" / Bytes(8), "revision" / Int32ul, "header_size" / Int32ul, "header_crc32" / Int32ul, Padding(4),
    "my_lba" / Int64ul, "alternate_lba" / Int64ul, "first_usable_lba" / Int64ul, "last_usable_lba" / Int64ul,
    "disk_guid" / Bytes(16), "entries_lba" / Int64ul, "entries" / Int32ul, "entry_size" / Int32ul,
    "entries_crc32" / Int32ul,
)
GPT_ENTRY: Final = Struct(
    "type_guid" / Bytes(16), "guid" / Bytes(16), "first_lba" / Int64ul, "last_lba" / Int64ul, "attributes" / Int64ul,
    "name" / Bytes(72),
)


def decode(front: bytes) -> Container:
    """MBR, header and used entries of the first FRONT_BYTES of a disk, for people."""
    header = GPT_HEADER.parse(front[SECTOR:])
    table = front[2 * SECTOR:FRONT_BYTES]
    entries = [GPT_ENTRY.parse(table[at:at + ENTRY_BYTES]) for at in range(0, len(table), ENTRY_BYTES)
               if any(table[at:at + 16])]
    return Container(mbr=MBR.parse(front), header=header, entries=entries)


# --- struct: the same again, fast -----------------------------------------------------------------------------------

_MBR = struct.Struct("<440sI2x B3sB3sII 48s 2s")
_HEADER = struct.Struct("<8sIII4xQQQQ16sQIII")
_ENTRY = struct.Struct("<16s16sQQQ72s")


@dataclass(frozen=True, slots=True)
class Partition:
    """Bytes `offset` to `offset + length` of the disk, both multiples of SECTOR. `label`: at most 36 UTF-16 units."""

    guid: UUID
    offset: int
    length: int
    label: str


@dataclass(frozen=True, slots=True)
class Table:
    """Both copies: `front` for the first byte of the disk, `back` for its last BACK_BYTES."""

    front: bytes
    back: bytes


def tables(size: int, first_usable: int, guid: UUID, partitions: Sequence[Partition]) -> Table:
    """The table of a disk of `size` bytes, whose partitions begin at byte `first_usable` or later.

    Sizes are multiples of SECTOR, and there are at most ENTRIES partitions, with labels that fit: the caller has
    checked that.
    """
    last = size // SECTOR - 1
    entries = b"".join(
        _ENTRY.pack(LINUX_DATA.bytes_le, each.guid.bytes_le, each.offset // SECTOR,
                    (each.offset + each.length) // SECTOR - 1, READ_ONLY | NO_AUTOMOUNT, each.label.encode("utf-16-le"))
        for each in partitions).ljust(ENTRIES * ENTRY_BYTES, b"\0")
    checksum = zlib.crc32(entries)

    def header(own: int, other: int, entries_lba: int) -> bytes:
        def packed(own_checksum: int) -> bytes:
            return _HEADER.pack(_SIGNATURE, _REVISION, _HEADER_BYTES, own_checksum, own, other, first_usable // SECTOR,
                                last - TABLE_SECTORS - 1, guid.bytes_le, entries_lba, ENTRIES, ENTRY_BYTES, checksum)

        return packed(zlib.crc32(packed(0))).ljust(SECTOR, b"\0")

    mbr = _MBR.pack(b"", 0, 0, b"\x00\x02\x00", _PROTECTIVE, b"\xff\xff\xff", 1, min(last, 0xFFFFFFFF), b"", b"\x55\xaa")
    return Table(mbr + header(1, last, 2) + entries, entries + header(last, 1, last - TABLE_SECTORS))


def first_usable_bytes(sector: bytes) -> int | None:
    """Where partitions may begin, from a header's sector; None when the sector is no header with a right checksum."""
    if len(sector) < _HEADER_BYTES or not sector.startswith(_SIGNATURE):
        return None
    blank = sector[:16] + bytes(4) + sector[20:_HEADER_BYTES]
    fields = _HEADER.unpack_from(sector)
    if fields[2] != _HEADER_BYTES or zlib.crc32(blank) != fields[3]:
        return None
    return int(fields[6]) * SECTOR
