"""The latency area: what a core counts into, read as a file of the backend's run directory or out of a frontend's memory.

RULES
- It says itself how it is laid out (docs/latency.md): a reader knows a newer one of the same major version by its sizes,
  and passes over what it does not know.
- One thread writes it, and nobody waits: each 64-bit field is whole, but two may be of different moments. What is counted
  is the sum of the buckets, so a histogram agrees with itself; the total may know of a request more.
"""

from __future__ import annotations

import os
import re
import struct
from functools import reduce
from pathlib import Path
from typing import NamedTuple

from xenpv.errors import LocalProtocolError, StorageError

from .disk import OPERATIONS, STAGES, DiskLatency, OperationLatency
from .histogram import BITS, BUCKETS, Histogram

__all__ = ["BACKEND_SUFFIX", "MAGIC", "MAJOR", "decode", "read_disk", "read_file"]

MAGIC = 0x636e74616c767078
"""The letters ``xpvlatnc`` in memory; written last, so an area that has it is valid."""
MAJOR = 1
"""Another one is another layout."""
BACKEND_SUFFIX = "latency"
"""RUN/backend/<domid>-<devid>-<queue>.latency"""

ENDS = {1: "backend", 2: "frontend"}
UNITS = {1: "tick", 2: "us"}
"""XENPV_STAMP_*."""

_HEADER = struct.Struct("<QIIIIIIIIIIQQ")
_COUNTS = struct.Struct("<QQQQ")
_HISTOGRAM = struct.Struct("<qqqQQQQQ")
_SIZE_MAX = 64 << 20


class _Shape(NamedTuple):
    magic: int
    major: int
    minor: int
    header_bytes: int
    histogram_bytes: int
    operations: int
    stages: int
    bits: int
    buckets: int
    unit: int
    end: int
    resolution_ns: int
    reserved: int


def _shape(area: bytes) -> _Shape:
    if len(area) < _HEADER.size:
        raise LocalProtocolError("the latency file is too short: it was not written by xenpv")
    shape = _Shape(*_HEADER.unpack_from(area))
    if shape.magic != MAGIC or shape.major != MAJOR or shape.bits != BITS:
        raise LocalProtocolError("not a latency file of this version: use the xenpv that the backend runs")
    room = shape.header_bytes + shape.operations * shape.stages * shape.histogram_bytes
    if (room > min(len(area), _SIZE_MAX) or shape.end not in ENDS or shape.unit not in UNITS or not shape.resolution_ns
            or shape.buckets > BUCKETS or shape.histogram_bytes < _HISTOGRAM.size + 8 * shape.buckets
            or shape.header_bytes < _HEADER.size + _COUNTS.size * shape.operations):
        raise LocalProtocolError("the latency file contradicts itself: it was cut short, or written by something else")
    return shape


def _histogram(area: bytes, at: int, buckets: int) -> Histogram:
    total, least, greatest, underflow, overflow, *_ = _HISTOGRAM.unpack_from(area, at)
    begin, end = at + _HISTOGRAM.size, at + _HISTOGRAM.size + 8 * buckets
    counts = area[begin:end].rstrip(b"\0")
    first = (len(counts) - len(counts.lstrip(b"\0"))) // 8
    last = -(-len(counts) // 8)
    values = struct.unpack_from(f"<{last - first}Q", area, begin + 8 * first) if last > first else ()
    return Histogram.of(dict(enumerate(values, first)), total=total, underflow=underflow, overflow=overflow, least=least,
                        greatest=greatest)


def decode(area: bytes) -> DiskLatency:
    """One queue's. Raises LocalProtocolError when it is no latency area, or of another major version."""
    shape = _shape(area)
    latency = DiskLatency(ENDS[shape.end], UNITS[shape.unit], shape.resolution_ns)
    for row, operation in enumerate(OPERATIONS[:shape.operations]):
        unknown, absent, refused, _ = _COUNTS.unpack_from(area, _HEADER.size + row * _COUNTS.size)
        at = shape.header_bytes + row * shape.stages * shape.histogram_bytes
        latency.operations[operation] = OperationLatency(
            {stage: _histogram(area, at + column * shape.histogram_bytes, shape.buckets)
             for column, stage in enumerate(STAGES[:shape.stages])}, unknown, absent, refused)
    return latency


def read_file(path: Path) -> DiskLatency | None:
    """One queue's of a backend; None when there is no such file. Raises LocalProtocolError, StorageError."""
    try:
        with open(path, "rb") as file:
            return decode(file.read(_SIZE_MAX))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror}") from error


def read_disk(rundir: str | os.PathLike[str], domid: int, devid: int) -> DiskLatency | None:
    """All queues of a disk, by the backend of the run directory `rundir`; None when it does not measure the disk.

    Raises LocalProtocolError, StorageError.
    """
    directory = Path(rundir) / "backend"
    name = re.compile(rf"{domid}-{devid}-[0-9]{{1,3}}\.{BACKEND_SUFFIX}", re.ASCII)
    try:
        files = sorted(each for each in os.listdir(directory) if name.fullmatch(each))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StorageError(f"cannot look into {directory}: {error.strerror}") from error
    found = [latency for file in files if (latency := read_file(directory / file)) is not None]
    return reduce(DiskLatency.__add__, found) if found else None
