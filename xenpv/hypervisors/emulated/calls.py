"""Calls between a domain's process and the host process, as core/emulated.h lays them out."""

from __future__ import annotations

import errno
import os
import struct
from enum import IntEnum
from typing import NamedTuple

VERSION = 1
PAGE_SIZE = 4096
SEGMENT_PAGES = 256
SEGMENT_SIZE = SEGMENT_PAGES * PAGE_SIZE
TABLE_ENDED = 2048
TABLE_FAULT = 2056
WRITABLE = 1

_CALL = struct.Struct("<IIII")
_REPLY = struct.Struct("<iIII")
SIZE = _CALL.size
"""Bytes in a call, and in a reply."""


class Op(IntEnum):
    """enum xenpv_emulated_op."""

    HELLO = 1
    SEGMENT_NEW = 2
    SEGMENT_READY = 3
    SEGMENT_OPEN = 4
    SEGMENT_FREE = 5
    EVENT_UNBOUND = 6
    EVENT_BIND = 7
    EVENT_CLOSE = 8
    EVENT_STATUS = 9
    SEGMENT_SHUT = 10
    UNMAP_CLEAR = 11


class Call(NamedTuple):
    """struct xenpv_emulated_call."""

    op: int
    domid: int = 0
    number: int = 0
    flags: int = 0

    def pack(self) -> bytes:
        return _CALL.pack(*self)


class Reply(NamedTuple):
    """struct xenpv_emulated_reply, and the descriptors beside it. They stay the sender's."""

    status: int = 0
    domid: int = 0
    number: int = 0
    flags: int = 0
    fds: tuple[int, ...] = ()

    def pack(self) -> bytes:
        return _REPLY.pack(*self[:4])


class Refused(Exception):
    """The emulated Xen refuses a call; `code` is the errno of the reply."""

    def __init__(self, code: int) -> None:
        super().__init__(f"{errno.errorcode.get(code, code)}: {os.strerror(code)}")
        self.code = code


def unpack_call(data: bytes) -> Call:
    """The call in a message. Raises Refused (EPROTO) when it is not one."""
    if len(data) != _CALL.size:
        raise Refused(errno.EPROTO)
    return Call(*_CALL.unpack(data))


def unpack_reply(data: bytes, fds: tuple[int, ...]) -> Reply:
    """The reply in a message; ValueError when it is not one."""
    if len(data) != _REPLY.size:
        raise ValueError(f"a reply of {len(data)} bytes")
    status, domid, number, flags = _REPLY.unpack(data)
    return Reply(status, domid, number, flags, fds)
