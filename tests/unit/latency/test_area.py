"""The latency area, as the core lays it out and as whoever reads it finds it, whatever stands there."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies as st

from xenpv.core import ffi, lib
from xenpv.errors import LocalProtocolError, StorageError
from xenpv.latency import OPERATIONS, STAGES, Histogram, area as area_module, decode, read_disk
from xenpv.latency.histogram import BITS, BUCKETS, LIMIT

values = st.one_of(st.integers(0, 200), st.integers(0, LIMIT - 1), st.integers(-1000, -1), st.integers(LIMIT, 1 << 32))


class Area:
    """One in memory, written by the core."""

    def __init__(self, end: int = 1, unit: int = 2, resolution_ns: int = 1000) -> None:
        self.memory = ffi.new("uint8_t[]", lib.xenpv_latency_bytes(end))
        lib.xenpv_latency_attach(self.memory, end, unit, resolution_ns)
        self.header: Any = ffi.cast("struct xenpv_latency *", self.memory)

    def stage(self, operation: str, stage: str) -> Any:
        first = ffi.cast("struct xenpv_histogram *", self.memory + self.header.header_bytes)
        return first + OPERATIONS.index(operation) * self.header.stages + STAGES.index(stage)

    def record(self, operation: str, stage: str, *values: int) -> None:
        for value in values:
            lib.xenpv_histogram_record(self.stage(operation, stage), value)

    def bytes(self) -> bytes:
        return bytes(ffi.buffer(self.memory))


def test_python_and_the_core_agree_on_the_layout() -> None:
    header, histogram = "struct xenpv_latency", "struct xenpv_histogram"
    assert area_module.MAGIC == lib.XENPV_LATENCY_MAGIC and area_module.MAJOR == lib.XENPV_LATENCY_MAJOR
    assert area_module._HEADER.size == ffi.offsetof(header, "counts")
    assert area_module._COUNTS.size == ffi.sizeof("struct xenpv_latency_counts")
    assert area_module._HISTOGRAM.size == ffi.offsetof(histogram, "bucket")
    assert (BITS, LIMIT) == (lib.XENPV_HISTOGRAM_BITS, lib.XENPV_HISTOGRAM_LIMIT)
    assert ffi.sizeof(histogram) == ffi.offsetof(histogram, "bucket") + 8 * BUCKETS
    assert len(STAGES) == lib.XENPV_STAGES and len(OPERATIONS) == lib.XENPV_LATENCY_OPERATIONS
    assert [lib.XENPV_STAGE_QUEUED, lib.XENPV_STAGE_SERVICE, lib.XENPV_STAGE_TOTAL, lib.XENPV_STAGE_REAPED] == [
        STAGES.index(name) for name in ("queued", "service", "total", "reaped")]
    assert tuple(name for name, _ in ffi.typeof(header).fields)[:13] == area_module._Shape._fields


@given(st.lists(values, max_size=50))
def test_the_core_counts_as_python_does(values: list[int]) -> None:
    area, ours = Area(), Histogram()
    area.record("write", "stored", *values)
    for value in values:
        ours.record(value)
    theirs = decode(area.bytes()).operations["write"].stages["stored"]
    assert list(theirs.intervals()) == list(ours.intervals())
    assert theirs.total == ours.total
    assert theirs.max == ours.max or max(values) < -1 == theirs.max, "of those below 0 the core keeps the least"


def test_each_figure_is_where_it_belongs() -> None:
    area = Area(end=2, unit=1, resolution_ns=4_000_000)
    for row, operation in enumerate(OPERATIONS):
        area.header.counts[row].unknown, area.header.counts[row].refused = row + 1, 10 * row
        for column, stage in enumerate(STAGES):
            area.record(operation, stage, 100 * row + column)
    found = decode(area.bytes())
    assert (found.end, found.unit, found.resolution_ns) == ("frontend", "tick", 4_000_000)
    for row, operation in enumerate(OPERATIONS):
        assert (found.operations[operation].unknown, found.operations[operation].refused) == (row + 1, 10 * row)
        assert [found.operations[operation].stages[stage].total for stage in STAGES] == [
            100 * row + column for column in range(len(STAGES))]


def test_a_backend_has_no_reaped() -> None:
    assert "reaped" not in decode(Area().bytes()).operations["read"].stages


def test_a_newer_one_is_read_by_its_sizes() -> None:
    """More header, longer histograms, one stage more: what is known is where it says."""
    old = Area()
    old.record("read", "total", 7)
    old.record("discard", "queued", 9)
    raw, shape = old.bytes(), list(area_module._HEADER.unpack_from(old.bytes()))
    stages, size = shape[6], shape[4]
    shape[2], shape[3], shape[4], shape[6] = 5, shape[3] + 64, size + 64, stages + 1
    new = bytearray(raw[:192]) + bytes(64)
    for row in range(4):
        for column in range(stages):
            at = 192 + (row * stages + column) * size
            new += raw[at:at + size] + bytes(64)
        new += b"\xff" * (size + 64)
    area_module._HEADER.pack_into(new, 0, *shape)
    found = decode(bytes(new))
    assert found.operations["read"].stages["total"].total == 7
    assert found.operations["discard"].stages["queued"].total == 9


@pytest.mark.parametrize("change", [
    lambda raw: b"", lambda raw: raw[:63], lambda raw: raw[:-1], lambda raw: bytes(len(raw)),
    lambda raw: raw[:8] + struct.pack("<I", 2) + raw[12:],
    *[lambda raw, at=at: raw[:at] + b"\xff" * 4 + raw[at + 4:] for at in range(16, 48, 4)],
    lambda raw: raw[:20] + struct.pack("<I", 8) + raw[24:],
    lambda raw: raw[:48] + bytes(8) + raw[56:],
])
def test_what_it_cannot_be_is_refused_in_words(change: Callable[[bytes], bytes]) -> None:
    with pytest.raises(LocalProtocolError, match="latency file"):
        decode(change(Area().bytes()))


@given(st.binary(min_size=56, max_size=56), st.integers(0, 400))
def test_no_header_does_harm(tail: bytes, size: int) -> None:
    raw = (struct.pack("<Q", area_module.MAGIC) + tail + bytes(400))[:64 + size]
    with pytest.raises(LocalProtocolError):
        decode(raw)


def test_all_queues_of_a_disk(tmp_path: Path) -> None:
    (tmp_path / "backend").mkdir()
    for name, value in (("3-51712-0", 1), ("3-51712-1", 2), ("3-51728-0", 100), ("13-51712-0", 100)):
        area = Area()
        area.record("read", "stored", value)
        (tmp_path / "backend" / f"{name}.latency").write_bytes(area.bytes())
    found = read_disk(tmp_path, 3, 51712)
    assert found is not None and found.operations["read"].stages["stored"].total == 3


def test_a_disk_that_nobody_measures(tmp_path: Path) -> None:
    assert read_disk(tmp_path, 3, 51712) is None
    (tmp_path / "backend").mkdir()
    assert read_disk(tmp_path, 3, 51712) is None


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "backend" / "3-51712-0.latency").mkdir(parents=True)
    with pytest.raises(StorageError, match="cannot read"):
        read_disk(tmp_path, 3, 51712)
