"""The xenstore wire: headers, opcodes, error names and limits.

Source: xen/include/public/io/xs_wire.h and docs/misc/xenstore.txt of Xen; both sides of a socket or a ring speak this.

RULES
- A message is a header of four u32 (type, request id, transaction id, length) and `length` bytes of payload.
- A payload is at most PAYLOAD_MAX bytes in either direction. A peer that announces more cannot be followed any further:
  its connection is dead.
- Integers are little-endian, as on every machine that Xen runs on.
- `HEADER` declares the header; `struct` packs and unpacks it. A test holds both equal.
"""

from __future__ import annotations

import struct
from enum import IntEnum, IntFlag
from typing import NamedTuple

from construct import Int32ul, Struct

from xenpv.errors import LocalProtocolError, RemoteProtocolError

PAYLOAD_MAX = 4096
"""Bytes in a payload, at most (XENSTORE_PAYLOAD_MAX)."""

ABSOLUTE_PATH_MAX = 3072
"""Bytes in an absolute path, at most (XENSTORE_ABS_PATH_MAX)."""

RELATIVE_PATH_MAX = 2048
"""Bytes in a relative path, at most (XENSTORE_REL_PATH_MAX)."""

DOMID_FIRST_RESERVED = 0x7FF0
"""Domain ids from here on name no real domain (xen.h)."""

DOMID_SELF = 0x7FF0
DOMID_ANY = 0x7FF5

RING_SIZE = 1024
"""Bytes in each direction's half of the shared ring (XENSTORE_RING_SIZE)."""


class Opcode(IntEnum):
    """The type field of a header (enum xsd_sockmsg_type). 20 was RESTRICT and is no longer valid."""

    CONTROL = 0
    DIRECTORY = 1
    READ = 2
    GET_PERMS = 3
    WATCH = 4
    UNWATCH = 5
    TRANSACTION_START = 6
    TRANSACTION_END = 7
    INTRODUCE = 8
    RELEASE = 9
    GET_DOMAIN_PATH = 10
    WRITE = 11
    MKDIR = 12
    RM = 13
    SET_PERMS = 14
    WATCH_EVENT = 15
    ERROR = 16
    IS_DOMAIN_INTRODUCED = 17
    RESUME = 18
    SET_TARGET = 19
    RESET_WATCHES = 21
    DIRECTORY_PART = 22
    GET_FEATURE = 23
    SET_FEATURE = 24
    GET_QUOTA = 25
    SET_QUOTA = 26
    INVALID = 0xFFFF


class Feature(IntFlag):
    """What a server offers: server_features of the ring page, and GET_FEATURE (xenstore-ring.txt)."""

    RECONNECTION = 1
    ERROR = 2
    WATCH_DEPTH = 4
    DOMID_ANY = 8


ERROR_NAMES = (
    "EINVAL", "EACCES", "EEXIST", "EISDIR", "ENOENT", "ENOMEM", "ENOSPC", "EIO", "ENOTEMPTY", "ENOSYS", "EROFS",
    "EBUSY", "EAGAIN", "EISCONN", "E2BIG", "EPERM",
)
"""Every error that may be answered, in the order of xsd_errors. The name is sent, not a number."""

HEADER = Struct("type" / Int32ul, "req_id" / Int32ul, "tx_id" / Int32ul, "len" / Int32ul)
"""struct xsd_sockmsg, for people and tests."""

_header = struct.Struct("<4I")
HEADER_SIZE = _header.size


class Packet(NamedTuple):
    """One message. `type` is a plain number: what the other side sends need not be an `Opcode`."""

    type: int
    req_id: int
    tx_id: int
    payload: bytes


def encode(type: int, req_id: int, tx_id: int, payload: bytes) -> bytes:
    """The bytes of one message. Raises LocalProtocolError when the payload is longer than PAYLOAD_MAX."""
    if len(payload) > PAYLOAD_MAX:
        raise LocalProtocolError(f"a xenstore payload of {len(payload)} bytes is longer than {PAYLOAD_MAX}")
    return _header.pack(type, req_id, tx_id, len(payload)) + payload


def split(payload: bytes) -> list[bytes]:
    """The strings of `payload`, without their NULs. Bytes behind the last NUL are not a string and are left out."""
    return payload.split(b"\0")[:-1]


class Decoder:
    """Takes bytes as they come and gives whole messages.

    It holds what was fed and not yet taken, so its owner bounds `pending` by not feeding more.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._dead = False

    @property
    def pending(self) -> int:
        """Bytes fed and not yet taken."""
        return len(self._buffer)

    def feed(self, data: bytes) -> None:
        """Append what was received."""
        self._buffer += data

    def next(self) -> Packet | None:
        """The next whole message, or None until more is fed.

        Raises RemoteProtocolError when a header announces more than PAYLOAD_MAX, and ever after.
        """
        if self._dead:
            raise RemoteProtocolError("the xenstore stream is broken: an earlier message was too long")
        buffer = self._buffer
        if len(buffer) < HEADER_SIZE:
            return None
        type, req_id, tx_id, length = _header.unpack_from(buffer)
        if length > PAYLOAD_MAX:
            self._dead = True
            buffer.clear()
            raise RemoteProtocolError(f"a xenstore message of {length} bytes is longer than {PAYLOAD_MAX}")
        end = HEADER_SIZE + length
        if len(buffer) < end:
            return None
        payload = bytes(buffer[HEADER_SIZE:end])
        del buffer[:end]
        return Packet(type, req_id, tx_id, payload)
