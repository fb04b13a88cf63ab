"""Counters of a queue, as the core writes them and anybody reads them.

A backend queue's counters stand in a page of their own (a file of the run directory), written by the one thread that
serves the queue: a reader takes each 64-bit field whole, but two fields may be of different moments. The names and their order
are those of `struct xenpv_back_stats` in core/api.h; there is no second list.
"""

from __future__ import annotations

import struct
from typing import Any

from xenpv.core import ffi, lib
from xenpv.errors import LocalProtocolError

PAGE_BYTES = 4096
"""Bytes of a statistics page."""

OPERATIONS = ("read", "write", "write_barrier", "flush", "reserved", "discard", "indirect", "other")
"""The names of `requests` by BLKIF_OP_* (io/blkif.h); whatever is larger is counted by its low three bits."""


def _names(kind: str) -> list[str]:
    names: list[str] = []
    for name, field in ffi.typeof(kind).fields:
        names.extend([f"{name}.{operation}" for operation in OPERATIONS] if field.type.kind == "array" else [name])
    return names


_BACK = _names("struct xenpv_back_stats")
_FRONT = _names("struct xenpv_front_stats")


def _fold(names: list[str], values: tuple[int, ...]) -> dict[str, Any]:
    counters: dict[str, Any] = {"requests": {}}
    for name, value in zip(names, values, strict=True):
        if name.startswith("requests."):
            counters["requests"][name.partition(".")[2]] = value
        else:
            counters[name] = value
    return counters


def decode_back(page: bytes | memoryview) -> dict[str, Any]:
    """A backend queue's counters by name; `requests` is a mapping by operation.

    Raises LocalProtocolError when the page is not a statistics page of this version.
    """
    try:
        values = struct.unpack_from(f"<{len(_BACK)}Q", page)
    except struct.error:
        raise LocalProtocolError("the statistics page is too short: it was not written by this xenpv") from None
    counters = _fold(_BACK, values)
    if counters.pop("magic") != lib.XENPV_STATS_MAGIC or counters.pop("version") != lib.XENPV_STATS_VERSION:
        raise LocalProtocolError("not a statistics page of this version: use the xenpv that the backend runs")
    return counters


def decode_front(raw: bytes | memoryview) -> dict[str, Any]:
    """A frontend queue's counters by name, from the bytes of its `struct xenpv_front_stats`."""
    return _fold(_FRONT, struct.unpack_from(f"<{len(_FRONT)}Q", raw))
