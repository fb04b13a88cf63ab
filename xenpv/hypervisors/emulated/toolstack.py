"""What the host itself writes to the store: the nodes that a toolstack makes for a new domain.

Which nodes, and whose they are: libxl (tools/libs/light/libxl_create.c, libxl__domain_make). The host asks its own
xenstored as domain 0, in the same process; an answer is there as soon as the request was given.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from xenpv.errors import StoreError

if TYPE_CHECKING:
    from .xenstored import Xenstored

_HEADER = struct.Struct("<IIII")
_READ, _WRITE, _MKDIR, _RM, _SET_PERMS, _ERROR = 2, 11, 12, 13, 14, 16
"""Request types (public/io/xs_wire.h)."""


class Toolstack:
    """Domain 0's own client of the host's xenstored."""

    def __init__(self, store: Xenstored) -> None:
        self._store = store
        self._connection = store.connect(0)

    def close(self) -> None:
        self._connection.close()

    def domain_created(self, domid: int, name: str) -> None:
        """Make the nodes of a domain, and tell the world."""
        if domid:
            self._store.introduce(domid)
        top = f"/local/domain/{domid}"
        readable, own = f"n0 r{domid}" if domid else "n0", f"n{domid}"
        if domid:
            self._make(top, readable)
        self._make(f"{top}/name", readable, name)
        self._make(f"{top}/domid", readable, str(domid))
        for directory in ("device", "backend"):
            self._make(f"{top}/{directory}", own)
        if domid:
            for directory in ("control", "data", "error", "drivers"):
                self._make(f"{top}/{directory}", own)

    def domain_destroyed(self, domid: int) -> None:
        """Remove the domain's nodes, and tell the world."""
        try:
            self._request(_RM, f"/local/domain/{domid}\0")
        finally:
            self._store.release(domid)

    def _make(self, path: str, permissions: str, value: str | None = None) -> None:
        if value is None:
            self._request(_MKDIR, f"{path}\0")
        else:
            self._request(_WRITE, f"{path}\0{value}")
        self._request(_SET_PERMS, f"{path}\0" + "".join(f"{word}\0" for word in permissions.split()))

    def _request(self, kind: int, payload: str) -> bytes:
        data = payload.encode()
        self._connection.receive(_HEADER.pack(kind, 0, 0, len(data)) + data)
        answer = bytearray()
        while pending := bytes(self._connection.send_pending()):
            answer += pending
            self._connection.sent(len(pending))
        if len(answer) < _HEADER.size:
            raise StoreError(f"the emulated xenstored did not answer {payload.encode()[:80]!r}")
        answered, _, _, length = _HEADER.unpack_from(answer)
        body = bytes(answer[_HEADER.size:_HEADER.size + length])
        if answered == _ERROR:
            code = body.rstrip(b"\0").decode("ascii", "replace")
            raise StoreError(f"the emulated xenstored refused {data[:80]!r}: {code}", code)
        return body
