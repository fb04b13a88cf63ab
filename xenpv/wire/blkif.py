"""The blkif ring: its header, its requests and its responses, byte for byte.

RULES

- This file knows the layout and nothing else. A request with 255 segments or an operation that does not exist is
  decoded as it stands; what may be served is decided where requests are checked.
- Every field is declared once for construct, which shows bytes to people, and once for struct, which is about a
  hundred times faster. A test proves both equal to each other and to Xen's headers.
- Whatever is written is whole: padding, and the part of a slot that the operation does not use, is zero (XSA-216).

Source: xen/include/public/io/ring.h, blkif.h and protocols.h. All integers are little-endian. Sectors are 512 bytes
each, whatever the disk's own sector size is, as later editions of blkif.h make plain.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum, IntFlag, StrEnum
from typing import Final

from construct import (Array, Bytes, Container, Enum, Int8ul, Int16sl, Int16ul, Int32ul, Int64ul, Padding,
                       Struct)

from ..errors import LocalProtocolError

__all__ = [
    "DECLARED", "DISCARD_SECURE", "DiskInfo", "MAX_INDIRECT_PAGES", "MAX_INDIRECT_SEGMENTS", "MAX_RING_PAGE_ORDER",
    "MAX_SEGMENTS", "Op", "Protocol", "RING_HEADER", "RING_PAGE_SIZE", "Request", "Response", "SECTORS_PER_PAGE",
    "SECTOR_SIZE", "SEGMENTS_PER_INDIRECT_PAGE", "Segment", "Status", "decode_request", "decode_response",
    "decode_ring_header", "entry_size", "indirect_pages", "layout", "pack_request", "pack_response", "pack_segments",
    "response_operation", "response_size", "ring_entries", "unpack_request", "unpack_response", "unpack_segments",
]

RING_PAGE_SIZE: Final = 4096
"""Bytes in a ring page, whatever the machine's own page size (XEN_PAGE_SHIFT, ring.h)."""
SECTOR_SIZE: Final = 512
SECTORS_PER_PAGE: Final = RING_PAGE_SIZE // SECTOR_SIZE
MAX_SEGMENTS: Final = 11
"""Segments that fit in a request (BLKIF_MAX_SEGMENTS_PER_REQUEST)."""
MAX_INDIRECT_PAGES: Final = 8
"""Pages of segments an indirect request names (BLKIF_MAX_INDIRECT_PAGES_PER_REQUEST)."""
SEGMENTS_PER_INDIRECT_PAGE: Final = 512
MAX_INDIRECT_SEGMENTS: Final = MAX_INDIRECT_PAGES * SEGMENTS_PER_INDIRECT_PAGE
MAX_RING_PAGE_ORDER: Final = 4
"""The largest ring that is offered or taken is 2**4 pages."""
DISCARD_SECURE: Final = 1
"""`flag` of a DISCARD: make every copy of the data unreadable (BLKIF_DISCARD_SECURE)."""


class Protocol(StrEnum):
    """The ABI of a ring, in the words of the key `protocol` (protocols.h). ARM lays a ring out as X86_64 does."""

    X86_64 = "x86_64-abi"
    X86_32 = "x86_32-abi"
    ARM = "arm-abi"


class Op(IntEnum):
    """BLKIF_OP_*. 4 is reserved."""

    READ = 0
    WRITE = 1
    WRITE_BARRIER = 2
    FLUSH_DISKCACHE = 3
    DISCARD = 5
    INDIRECT = 6


class Status(IntEnum):
    """BLKIF_RSP_*."""

    OKAY = 0
    ERROR = -1
    EOPNOTSUPP = -2


class DiskInfo(IntFlag):
    """The bits of the key `info` (VDISK_*)."""

    CDROM = 1
    REMOVABLE = 2
    READONLY = 4


# --- construct: for people, tools and the test of every offset ------------------------------------------------------

RING_HEADER: Final = Struct(
    "req_prod" / Int32ul,
    "req_event" / Int32ul,
    "rsp_prod" / Int32ul,
    "rsp_event" / Int32ul,
    "private" / Bytes(4),
    Padding(12),
    # Ours, in what ring.h leaves as padding: read and written only where both ends agreed on the flag.
    "backend_word" / Int32ul,
    "frontend_word" / Int32ul,
    Padding(24),
)
"""The first 64 bytes of the first ring page; the entries follow."""

SEGMENT: Final = Struct(
    "gref" / Int32ul,
    "first_sect" / Int8ul,
    "last_sect" / Int8ul,
    Padding(2),
)


def _declare(aligned: bool) -> dict[str, Struct]:
    """The structs of an ABI: `aligned` ones put every 64-bit field at a multiple of 8, x86_32 at one of 4."""
    gap = (Padding(4),) if aligned else ()
    return {
        "segment": SEGMENT,
        "rw": Struct(
            "operation" / Enum(Int8ul, Op), "nr_segments" / Int8ul, "handle" / Int16ul, *gap,
            "id" / Int64ul, "sector_number" / Int64ul, "segments" / Array(MAX_SEGMENTS, SEGMENT)),
        "discard": Struct(
            "operation" / Enum(Int8ul, Op), "flag" / Int8ul, "handle" / Int16ul, *gap,
            "id" / Int64ul, "sector_number" / Int64ul, "nr_sectors" / Int64ul),
        "indirect": Struct(
            "operation" / Enum(Int8ul, Op), "indirect_op" / Enum(Int8ul, Op), "nr_segments" / Int16ul, *gap,
            "id" / Int64ul, "sector_number" / Int64ul, "handle" / Int16ul, Padding(2),
            "indirect_grefs" / Array(MAX_INDIRECT_PAGES, Int32ul), Padding(4 if aligned else 8)),
        "response": Struct(
            "id" / Int64ul, "operation" / Enum(Int8ul, Op), Padding(1), "status" / Enum(Int16sl, Status),
            *gap),
    }


_ALIGNED: Final = _declare(aligned=True)
DECLARED: Final = {Protocol.X86_64: _ALIGNED, Protocol.ARM: _ALIGNED, Protocol.X86_32: _declare(aligned=False)}
"""The construct declarations by ABI and by name: segment, rw, discard, indirect, response."""
_SHAPES: Final[dict[int, str]] = {Op.DISCARD: "discard", Op.INDIRECT: "indirect"}


def _shape(operation: int) -> str:
    """Which struct a request of this operation is laid out as; one that does not exist is shown as a plain one."""
    return _SHAPES.get(operation, "rw")


def decode_request(abi: Protocol, slot: bytes) -> Container:
    """The request in a ring slot's `slot`, field by field, for people. Segments beyond nr_segments are left out.

    Raises LocalProtocolError when `slot` is shorter than an entry.
    """
    _need(slot, entry_size(abi), "request")
    shape = _shape(slot[0])
    fields = DECLARED[abi][shape].parse(slot)
    if shape == "rw":
        fields["segments"] = fields["segments"][:fields["nr_segments"]]
    elif shape == "indirect":
        fields["indirect_grefs"] = fields["indirect_grefs"][:indirect_pages(fields["nr_segments"])]
    return fields


def decode_response(abi: Protocol, slot: bytes) -> Container:
    """The response at the start of `slot`, field by field, for people. Raises LocalProtocolError when it is short."""
    _need(slot, response_size(abi), "response")
    return DECLARED[abi]["response"].parse(slot)


def decode_ring_header(page: bytes) -> Container:
    """The header of a ring's first page, for people. Raises LocalProtocolError when `page` is short."""
    _need(page, RING_HEADER.sizeof(), "ring header")
    return RING_HEADER.parse(page)


def layout() -> dict[str, int]:
    """Every offset and size declared here, in bytes, by name.

    ``ring.<field>`` and ``ring.entries``, where they begin; for x86_64 and x86_32 ``<abi>.<struct>.<field>`` and
    ``<abi>.<struct>.size`` of segment, rw, discard, indirect and response; ``<abi>.request.size`` is a ring entry.
    """
    table = {f"ring.{name}": offset for name, offset in _offsets(RING_HEADER).items()}
    table["ring.entries"] = table.pop("ring.size")
    for abi, name in ((Protocol.X86_64, "x86_64"), (Protocol.X86_32, "x86_32")):
        for struct_name, declared in DECLARED[abi].items():
            table |= {f"{name}.{struct_name}.{field}": offset for field, offset in _offsets(declared).items()}
        table[f"{name}.request.size"] = entry_size(abi)
    return table


def _offsets(declared: Struct) -> dict[str, int]:
    found, offset = {}, 0
    for field in declared.subcons:
        if field.name:
            found[field.name] = offset
        offset += field.sizeof()
    found["size"] = offset
    return found


# --- struct: the same again, fast -----------------------------------------------------------------------------------

@dataclass(frozen=True, slots=True)
class Segment:
    """A run of sectors in a granted page: `first_sect` to `last_sect`, both included, in units of 512 bytes."""

    gref: int
    first_sect: int = 0
    last_sect: int = SECTORS_PER_PAGE - 1


@dataclass(frozen=True, slots=True)
class Request:
    """A request of any operation; a field that the operation does not have is zero or empty.

    `segments` is what stands in the slot itself, so never more than 11 whatever `nr_segments` says; an INDIRECT
    request's own are in the pages `indirect_grefs`. `sector_number` and `nr_sectors` count 512 bytes.
    """

    operation: int
    id: int
    sector_number: int = 0
    segments: tuple[Segment, ...] = ()
    nr_segments: int = 0
    handle: int = 0
    flag: int = 0
    nr_sectors: int = 0
    indirect_op: int = 0
    indirect_grefs: tuple[int, ...] = ()

    @classmethod
    def direct(cls, operation: int, id: int, sector_number: int = 0, segments: Sequence[Segment] = (),
               handle: int = 0) -> Request:
        """A READ, WRITE, WRITE_BARRIER or FLUSH_DISKCACHE."""
        return cls(operation, id, sector_number, tuple(segments), len(segments), handle)

    @classmethod
    def discard(cls, id: int, sector_number: int, nr_sectors: int, *, secure: bool = False, handle: int = 0) -> Request:
        return cls(Op.DISCARD, id, sector_number, handle=handle, nr_sectors=nr_sectors,
                   flag=DISCARD_SECURE if secure else 0)

    @classmethod
    def indirect(cls, operation: int, id: int, sector_number: int, nr_segments: int, grefs: Sequence[int],
                 handle: int = 0) -> Request:
        """A READ or WRITE whose `nr_segments` segments are in the pages `grefs`."""
        return cls(Op.INDIRECT, id, sector_number, nr_segments=nr_segments, handle=handle, indirect_op=operation,
                   indirect_grefs=tuple(grefs))


@dataclass(frozen=True, slots=True)
class Response:
    """The answer to the request `id`."""

    id: int
    operation: int
    status: int = Status.OKAY


_SEGMENT: Final = struct.Struct("<IBB2x")


@dataclass(frozen=True, slots=True)
class _Codec:
    """The struct formats of an ABI."""

    head: struct.Struct
    discard: struct.Struct
    indirect: struct.Struct
    response: struct.Struct

    @property
    def entry(self) -> int:
        return self.head.size + MAX_SEGMENTS * _SEGMENT.size


_CODEC_ALIGNED: Final = _Codec(struct.Struct("<BBH4xQQ"), struct.Struct("<BBH4xQQQ"), struct.Struct("<BBH4xQQH2x8I4x"),
                               struct.Struct("<QBxh4x"))
_CODEC_PACKED: Final = _Codec(struct.Struct("<BBHQQ"), struct.Struct("<BBHQQQ"), struct.Struct("<BBHQQH2x8I8x"),
                              struct.Struct("<QBxh"))
_CODECS: Final = {Protocol.X86_64: _CODEC_ALIGNED, Protocol.ARM: _CODEC_ALIGNED, Protocol.X86_32: _CODEC_PACKED}


def entry_size(abi: Protocol) -> int:
    """Bytes in a ring entry: 112, or 108 for x86_32."""
    return _CODECS[abi].entry


def response_size(abi: Protocol) -> int:
    """Bytes of a response at the start of its entry: 16, or 12 for x86_32."""
    return _CODECS[abi].response.size


def ring_entries(order: int, abi: Protocol) -> int:
    """Entries in a ring of 2**`order` pages: a power of two (__RING_SIZE, ring.h). Raises LocalProtocolError."""
    if not 0 <= order <= MAX_RING_PAGE_ORDER:
        raise LocalProtocolError(f"a ring of order {order}: want 0 to {MAX_RING_PAGE_ORDER}")
    fit = ((RING_PAGE_SIZE << order) - RING_HEADER.sizeof()) // entry_size(abi)
    return 1 << (fit.bit_length() - 1)


def indirect_pages(nr_segments: int) -> int:
    """Pages that hold `nr_segments` segments, at most the 8 that a request can name."""
    return min(-(-nr_segments // SEGMENTS_PER_INDIRECT_PAGE), MAX_INDIRECT_PAGES)


def response_operation(request: Request) -> int:
    """What a response to `request` carries as its operation, which the frontend checks.

    It is the request's own, except that INDIRECT is answered with the operation inside (as Linux's xen-blkback does and
    its xen-blkfront demands).
    """
    return request.indirect_op if request.operation == Op.INDIRECT else request.operation


def pack_request(abi: Protocol, request: Request) -> bytes:
    """`request` as a whole ring entry. Raises LocalProtocolError when a value does not fit in its field."""
    codec = _CODECS[abi]
    try:
        match _shape(request.operation):
            case "discard":
                data = codec.discard.pack(request.operation, request.flag, request.handle, request.id,
                                          request.sector_number, request.nr_sectors)
            case "indirect":
                grefs = request.indirect_grefs + (0,) * (MAX_INDIRECT_PAGES - len(request.indirect_grefs))
                data = codec.indirect.pack(request.operation, request.indirect_op, request.nr_segments, request.id,
                                           request.sector_number, request.handle, *grefs)
            case _:
                data = codec.head.pack(request.operation, request.nr_segments, request.handle, request.id,
                                       request.sector_number) + pack_segments(request.segments)
    except struct.error as error:
        raise LocalProtocolError(f"{request} does not fit in a request: {error}") from error
    if len(data) > codec.entry:
        raise LocalProtocolError(f"{len(request.segments)} segments in a request: at most {MAX_SEGMENTS}")
    return data.ljust(codec.entry, b"\0")


def unpack_request(abi: Protocol, slot: bytes) -> Request:
    """The request in a copy of a ring entry. Raises LocalProtocolError when `slot` is shorter than an entry."""
    codec = _CODECS[abi]
    _need(slot, codec.entry, "request")
    match _shape(slot[0]):
        case "discard":
            operation, flag, handle, id, sector, nr_sectors = codec.discard.unpack_from(slot)
            return Request(operation, id, sector, handle=handle, flag=flag, nr_sectors=nr_sectors)
        case "indirect":
            operation, inner, count, id, sector, handle, *grefs = codec.indirect.unpack_from(slot)
            return Request(operation, id, sector, nr_segments=count, handle=handle, indirect_op=inner,
                           indirect_grefs=tuple(grefs[:indirect_pages(count)]))
        case _:
            operation, count, handle, id, sector = codec.head.unpack_from(slot)
            segments = unpack_segments(slot[codec.head.size:], min(count, MAX_SEGMENTS))
            return Request(operation, id, sector, segments, count, handle)


def pack_response(abi: Protocol, response: Response) -> bytes:
    """`response` in 16 bytes (12 for x86_32). Raises LocalProtocolError when a value does not fit in its field."""
    try:
        return _CODECS[abi].response.pack(response.id, response.operation, response.status)
    except struct.error as error:
        raise LocalProtocolError(f"{response} does not fit in a response: {error}") from error


def unpack_response(abi: Protocol, slot: bytes) -> Response:
    """The response at the start of a copy of a ring entry. Raises LocalProtocolError when `slot` is short."""
    codec = _CODECS[abi]
    _need(slot, codec.response.size, "response")
    return Response(*codec.response.unpack_from(slot))


def pack_segments(segments: Sequence[Segment]) -> bytes:
    """`segments` one after the other, as in a request or an indirect page. Raises LocalProtocolError."""
    try:
        return b"".join(_SEGMENT.pack(each.gref, each.first_sect, each.last_sect) for each in segments)
    except struct.error as error:
        raise LocalProtocolError(f"a segment's value does not fit in its field: {error}") from error


def unpack_segments(data: bytes, count: int) -> tuple[Segment, ...]:
    """The first `count` segments in `data`. Raises LocalProtocolError when there are not as many."""
    size = count * _SEGMENT.size
    _need(data, size, "list of segments")
    return tuple(Segment(*fields) for fields in _SEGMENT.iter_unpack(data[:size]))


def _need(data: bytes, size: int, what: str) -> None:
    if len(data) < size:
        raise LocalProtocolError(f"{len(data)} bytes are too few for a {what} of {size}")
