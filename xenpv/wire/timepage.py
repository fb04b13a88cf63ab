"""The time page on the wire: dom0's tick, HZ and history as another domain maps them.

Written down in docs/time-page.md, which is ours: no other project has this page. All little-endian. The core's
`struct xenpv_time_page` (core/api.h) says the same, and a test holds the two equal.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

from construct import Array, Bytes, Container, Int8ul, Int16ul, Int32ul, Int64ul, Struct

from ..errors import LocalProtocolError

__all__ = ["HISTORY", "Kind", "MAGIC", "MAJOR", "MINOR", "PAGE", "SIZE", "SIZE_MIN", "decode_page", "layout"]

MAGIC: Final = 0x6D697478
"""The letters ``xtim``."""
MAJOR: Final = 1
MINOR: Final = 0
HISTORY: Final = 64
"""Slots of the history; the slot of a tick is tick mod 64."""
SIZE_MIN: Final = 104
"""Bytes that every page has: all but the history."""


class Kind(IntEnum):
    """Where the tick comes from."""

    JIFFIES = 1
    """It is the kernel's own jiffies, held to /proc/timer_list."""
    COARSE = 2
    """CLOCK_MONOTONIC_COARSE over TICK_NSEC: it counts as jiffies do, from another start."""


POINT: Final = Struct("tick" / Int64ul, "ns" / Int64ul)

PAGE: Final = Struct(
    "magic" / Int32ul,
    "size" / Int32ul,
    "major" / Int16ul,
    "minor" / Int16ul,
    "sequence" / Int32ul,
    "alive" / Int8ul,
    "kind" / Int8ul,
    "history_slots" / Int16ul,
    "tick_nsec" / Int32ul,
    "hz" / Int32ul,
    "paused" / Int32ul,
    "max_age_ns" / Int64ul,
    "boot_id" / Bytes(16),
    "generation" / Int64ul,
    "tick" / Int64ul,
    "ns" / Int64ul,
    "written_ns" / Int64ul,
    "disruptions" / Int64ul,
    "missed" / Int64ul,
    "history" / Array(HISTORY, POINT),
)

SIZE: Final = PAGE.sizeof()
"""Bytes of a page of this version."""


def decode_page(copy: bytes) -> Container:
    """A copy of a page, field by field, for people. Raises LocalProtocolError when it is short."""
    if len(copy) < SIZE:
        raise LocalProtocolError(f"{len(copy)} bytes are too few for a time page of {SIZE}")
    return PAGE.parse(copy)


def layout() -> dict[str, int]:
    """Every offset declared here, in bytes, by the names of the core's table: ``time.<field>``, ``time_point.<field>``."""
    table = {}
    for name, declared in (("time", PAGE), ("time_point", POINT)):
        offset = 0
        for field in declared.subcons:
            table[f"{name}.{field.name}"] = offset
            offset += field.sizeof()
        table[f"{name}.end"] = offset
    return table
