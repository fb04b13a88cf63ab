"""A recording: what one vbd did, interval by interval, in a file of bounded size (docs/monitoring.md has its format).

RULES

- A line is whole or the file's last: who reads a recording of a recorder that was killed loses at most one interval.
- When the file has grown to its limit, neighbours become one, and from then on an interval is twice as long. Counts and
  histograms add up exactly, so nothing is lost but time's resolution.
- A recording may come from anybody: each value is checked once, here.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from xenpv.closing import Closing
from xenpv.errors import UsageError
from xenpv.latency import OPERATIONS, STAGES, DiskLatency, Histogram, OperationLatency
from xenpv.latency.histogram import BITS, BUCKETS, bucket_of
from xenpv.xenbus import MAX_DOMID, MAX_VDEV

from .interval import Interval

__all__ = ["Header", "Period", "Recorder", "Recording", "merged", "read_recording"]

MARK: Final = "xenpv-recording"
VERSION: Final = 1
FILE_MAX: Final = 256 << 20
LINE_MAX: Final = 8 << 20
_NUMBER_MAX: Final = (1 << 63) - 1
_SECONDS_MAX: Final = 1e11
_SECONDS_LEAST: Final = 1e-3
COUNTERS: Final = ("requests.read", "requests.write", "bytes_read", "bytes_written", "notifications",
                   "notifications_saved", "errors", "refused")
"""Those of xenpv.stats that are recorded."""


@dataclass(frozen=True, slots=True)
class Header:
    """The first line. `started`: seconds since 1970; `end`, `unit` and `resolution_ns` are DiskLatency's."""

    domid: int
    devid: int
    name: str
    started: float
    interval: float
    end: str
    unit: str
    resolution_ns: int


@dataclass(frozen=True, slots=True)
class Period:
    """A line: `seconds` from `start`, which is in seconds since the recording began."""

    start: float
    seconds: float
    counts: Mapping[str, int]
    in_flight: int = 0
    """At its end."""
    latency: DiskLatency | None = None
    """None in a gap."""
    gap: str = ""
    """Why nothing is known of it: an Interval's `state`, or that the vbd was not there."""

    @classmethod
    def of(cls, start: float, interval: Interval | None, seconds: float, like: DiskLatency) -> Period:
        """From what was seen; None is a vbd that was not there. `like` has the recording's clock."""
        if interval is None:
            return cls(start, seconds, {}, gap="not connected")
        gap = interval.state or ("" if interval.latency else "not measured")
        if not gap and interval.latency and not interval.latency.is_like(like):
            gap = "another clock"
        if gap:
            return cls(start, seconds, {}, gap=gap)
        return cls(start, seconds, {name: interval.counts[name] for name in COUNTERS}, interval.in_flight,
                   interval.latency)

    def __add__(self, later: Period) -> Period:
        """Of both, of which the later one follows."""
        counts = {name: self.counts.get(name, 0) + later.counts.get(name, 0) for name in self.counts.keys() | later.counts}
        latency = self.latency + later.latency if self.latency and later.latency else None
        return Period(self.start, later.start + later.seconds - self.start, counts, later.in_flight, latency, self.gap)


def merged(periods: Iterable[Period], count: int) -> Iterator[Period]:
    """Up to `count` neighbours as one; a gap stays one by itself."""
    held: Period | None = None
    taken = 0
    for period in periods:
        if held is not None and taken < count and period.gap == held.gap:
            held, taken = held + period, taken + 1
            continue
        if held is not None:
            yield held
        held, taken = period, 1
    if held is not None:
        yield held


# ---- a line ----


def _runs(histogram: Histogram) -> list[list[int]]:
    """[number of the first bucket, counts...] of buckets that stand side by side."""
    runs: list[list[int]] = []
    following = -1
    for low, _, counted in histogram.buckets():
        number = bucket_of(low)
        if number != following:
            runs.append([number])
        runs[-1].append(counted)
        following = number + 1
    return runs


def _pack(histogram: Histogram) -> dict[str, Any]:
    packed = {"total": histogram.total, "min": histogram.min, "max": histogram.max, "runs": _runs(histogram)}
    if histogram.underflow or histogram.overflow:
        packed |= {"underflow": histogram.underflow, "overflow": histogram.overflow}
    return packed


def _pack_latency(latency: DiskLatency) -> dict[str, Any]:
    found = {}
    for name, operation in latency.operations.items():
        stages = {stage: _pack(histogram) for stage, histogram in operation.stages.items() if histogram.count}
        lost = {word: count for word in ("unknown", "absent", "refused") if (count := getattr(operation, word))}
        if stages or lost:
            found[name] = {**lost, "stages": stages}
    return found


def _line(values: Mapping[str, Any]) -> bytes:
    return json.dumps(values, separators=(",", ":")).encode() + b"\n"


def encode_header(header: Header) -> bytes:
    return _line({MARK: VERSION, **{name: getattr(header, name) for name in Header.__slots__}, "bits": BITS})


def encode(period: Period) -> bytes:
    head: dict[str, Any] = {"start": round(period.start, 6), "seconds": round(period.seconds, 6)}
    if period.latency is None:
        return _line({**head, "gap": period.gap})
    return _line({**head, "counts": period.counts, "in_flight": period.in_flight,
                  "latency": _pack_latency(period.latency)})


class _Bad(ValueError):
    """A value that cannot be; why is its text."""


def _integer(values: Mapping[str, Any], name: str, least: int = 0, most: int = _NUMBER_MAX,
             default: int | None = None) -> int:
    value = values.get(name, default)
    if type(value) is not int or not least <= value <= most:
        raise _Bad(f"{name} is no number from {least} to {most}")
    return value


def _seconds(values: Mapping[str, Any], name: str, least: float = 0.0) -> float:
    value = values.get(name)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value <= _SECONDS_MAX:
        raise _Bad(f"{name} is no time")
    return float(value)


def _object(value: object, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _Bad(f"{what} is no object")
    return value


def _unpack(values: Mapping[str, Any]) -> Histogram:
    buckets: dict[int, int] = {}
    runs = values.get("runs")
    if not isinstance(runs, list):
        raise _Bad("runs is no list")
    for run in runs:
        if (not isinstance(run, list) or not all(type(each) is int and 0 <= each <= _NUMBER_MAX for each in run)
                or not 2 <= len(run) <= BUCKETS + 1 or run[0] + len(run) - 1 > BUCKETS):
            raise _Bad("a run of buckets is not within the histogram")
        buckets |= dict(enumerate(run[1:], run[0]))
    under, over = _integer(values, "underflow", default=0), _integer(values, "overflow", default=0)
    least, greatest = _integer(values, "min", -_NUMBER_MAX), _integer(values, "max", -_NUMBER_MAX)
    return Histogram.of(buckets, total=_integer(values, "total", -_NUMBER_MAX), underflow=under, overflow=over, least=least,
                        greatest=greatest)


def _unpack_latency(values: Mapping[str, Any], header: Header) -> DiskLatency:
    latency = DiskLatency(header.end, header.unit, header.resolution_ns)
    for name, found in values.items():
        if name not in OPERATIONS:
            raise _Bad(f"there is no operation {name[:20]!r}")
        operation = _object(found, name)
        stages = {stage: _unpack(_object(packed, stage))
                  for stage, packed in _object(operation.get("stages"), "stages").items() if stage in STAGES}
        made = OperationLatency(unknown=_integer(operation, "unknown", default=0),
                                absent=_integer(operation, "absent", default=0),
                                refused=_integer(operation, "refused", default=0))
        made.stages.update(stages)
        latency.operations[name] = made
    return latency


def _decode_header(values: Mapping[str, Any]) -> Header:
    if MARK not in values:
        raise _Bad("it does not begin as one")
    if values[MARK] != VERSION or values.get("bits") != BITS:
        raise _Bad("it is of another version: use the xenpv that wrote it")
    if values.get("end") not in ("backend", "frontend") or values.get("unit") not in ("tick", "us"):
        raise _Bad("its clock is unknown")
    return Header(_integer(values, "domid", most=MAX_DOMID), _integer(values, "devid", most=MAX_VDEV),
                  str(values.get("name", ""))[:256],
                  _seconds(values, "started"), _seconds(values, "interval"), values["end"], values["unit"],
                  _integer(values, "resolution_ns", 1, 1_000_000_000))


def _decode(values: Mapping[str, Any], header: Header) -> Period:
    start, seconds = _seconds(values, "start"), _seconds(values, "seconds", _SECONDS_LEAST)
    if "gap" in values:
        return Period(start, seconds, {}, gap=str(values["gap"])[:256] or "unknown")
    counts = _object(values.get("counts"), "counts")
    return Period(start, seconds, {name: _integer(counts, name) for name in COUNTERS}, _integer(values, "in_flight"),
                  _unpack_latency(_object(values.get("latency"), "latency"), header))


# ---- a file ----


@dataclass(frozen=True, slots=True)
class Recording:
    """A file, read. `cut`: its last line was not whole, and is left out."""

    header: Header
    periods: tuple[Period, ...]
    cut: bool = False


def _constant(name: str) -> float:
    raise _Bad(f"{name} is no number")


def read_recording(path: Path) -> Recording:
    """Raises UsageError when it is no recording; OSError."""
    with open(path, "rb") as file:
        data = file.read(FILE_MAX + 1)
    *lines, rest = data.split(b"\n")
    number = 1
    try:
        if len(data) > FILE_MAX:
            raise _Bad(f"it is larger than {FILE_MAX >> 20} MiB")
        if not lines:
            raise _Bad("it does not begin as one")
        header = _decode_header(_object(_parse(lines[0]), "it"))
        periods = []
        for number, line in enumerate(lines[1:], 2):
            periods.append(_decode(_object(_parse(line), "it"), header))
        for number, (before, after) in enumerate(pairwise(periods), 3):
            if after.start < before.start + before.seconds - 1e-3:
                raise _Bad("it begins before the line before it ends")
    except _Bad as error:
        raise UsageError(f"{path} is no recording of `xenpv record`: line {number}: {error}") from None
    return Recording(header, tuple(periods), bool(rest))


def _parse(line: bytes) -> object:
    if len(line) > LINE_MAX:
        raise _Bad(f"it is longer than {LINE_MAX >> 20} MiB")
    try:
        return json.loads(line, parse_constant=_constant)
    except (ValueError, RecursionError) as error:
        raise _Bad(str(error) if isinstance(error, _Bad) else "it is no JSON") from None


class Recorder(Closing):
    """Writes a recording.

    Raises UsageError when there is such a file and `overwrite` is not given, or it is no file; OSError.
    """

    def __init__(self, path: Path, header: Header, *, size_max: int, overwrite: bool = False) -> None:
        self.path, self.header = path.resolve(), header
        self.interval = header.interval
        """Seconds of the intervals that are wanted from now on."""
        self.count = 0
        self._size_max = size_max
        flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_APPEND | (os.O_TRUNC if overwrite else os.O_EXCL)
        try:
            if path.exists() and not path.is_file():
                raise UsageError(f"{path} is no file: a recording is written anew in its place when it is full")
            self._fd = os.open(self.path, flags, 0o644)
        except FileExistsError:
            raise UsageError(f"{path} is there already: -f overwrites it") from None
        self._size = self._write(encode_header(header))

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _write(self, data: bytes) -> int:
        left = data
        while left:
            left = left[os.write(self._fd, left):]
        return len(data)

    def add(self, period: Period) -> None:
        """Write it, and make room when the file has grown to its limit. Raises OSError."""
        self._size += self._write(encode(period))
        self.count += 1
        while self._size > self._size_max and self.count > 1:
            self._compact()

    def _compact(self) -> None:
        """A file beside it takes its place, so that there is a whole one at every moment."""
        self.interval *= 2
        header = replace(self.header, interval=self.interval)
        before = read_recording(self.path).periods
        periods = list(merged(before, 2))
        if len(periods) == len(before):  # a gap every other time: the older half goes
            periods = periods[-(len(periods) // 2):]
        beside = self.path.with_name(f"{self.path.name}.new")
        data = encode_header(header) + b"".join(encode(period) for period in periods)
        fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_APPEND | os.O_NOFOLLOW, 0o644)
        self.close()
        self._fd = fd
        self._write(data)
        os.replace(beside, self.path)
        self.header, self.count, self._size = header, len(periods), len(data)
