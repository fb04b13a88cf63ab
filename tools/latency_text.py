"""A disk's latency, for people: times as short as they are known, a table per operation, and what is wrong in words."""

from __future__ import annotations

from collections.abc import Iterator

from xenpv.latency import DiskLatency, Histogram, OperationLatency
from xenpv.latency.disk import SHOWN
from xenpv.latency.histogram import LIMIT

from .output import table

__all__ = ["QUANTILES", "clock_text", "interval_text", "latency_text", "share_text", "time_text"]

QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99.9": 0.999}
"""The columns."""
_HEADER = ("stage", "span", "count", "mean", *QUANTILES, "max", "zero")
_UNITS = ((1e9, "s"), (1e6, "ms"), (1e3, "us"), (1.0, "ns"))
_CLOSE = 0.1
"""An interval whose ends differ by no more of it is shown as one figure."""


def time_text(ns: float) -> str:
    """Three digits and a unit."""
    scale, unit = next(((scale, unit) for scale, unit in _UNITS if abs(ns) >= scale * 0.9995), _UNITS[-1])
    if not ns:
        return "0"
    return f"{ns / scale:.3g} {unit}" if abs(ns) < 999.5 * scale else f"{ns / scale:,.0f} {unit}"


def interval_text(low_ns: float, high_ns: float) -> str:
    """One time where the ends are close, else both: ``85 us``, ``4 .. 12 ms``, ``< 1 us``."""
    if high_ns <= 0:
        return "< 0"
    if low_ns <= 0:
        return f"< {time_text(high_ns)}"
    if high_ns - low_ns <= _CLOSE * high_ns:
        return time_text((low_ns + high_ns) / 2)
    low, low_unit = time_text(low_ns).split(" ")
    high, high_unit = time_text(high_ns).split(" ")
    return f"{low} .. {high} {high_unit}" if low_unit == high_unit else f"{low} {low_unit} .. {high} {high_unit}"


def share_text(share: float | None) -> str:
    """A share of 1 in percent; the least and the most that are neither nothing nor all are told from those."""
    if share is None:
        return "-"
    if 0 < share < 0.0005 or 0.9995 < share < 1:
        return "<0.1 %" if share < 0.5 else ">99.9 %"
    return f"{100 * share:.3g} %"


def latency_text(latency: DiskLatency) -> str:
    """A table of the operations that there were requests of, and under it what its figures do not say."""
    rows: list[tuple[str | None, ...]] = []
    for name, operation in latency.operations.items():
        if operation.count:
            rows += [] if not rows else [("",) * len(_HEADER)]
            rows.append((name, "", f"{operation.count:,}", *[""] * (len(_HEADER) - 3)))
            rows += _rows(latency, operation)
    if not rows:
        return "no requests yet"
    return "\n".join([table(_HEADER, rows, _HEADER[2:]), *_notes(latency)])


def clock_text(latency: DiskLatency) -> str:
    """By which clock, and how fine that is."""
    clock = "the kernel's tick" if latency.unit == "tick" else "CLOCK_MONOTONIC"
    return f"measured by the {latency.end}, clock {clock}, resolution {time_text(latency.resolution_ns)}"


def _rows(latency: DiskLatency, operation: OperationLatency) -> Iterator[tuple[str | None, ...]]:
    for stage in SHOWN:
        histogram = operation.stages.get(stage, Histogram())
        if histogram.count:
            yield (f"  {stage}", " to ".join(latency.span(stage)), f"{histogram.count:,}", *_figures(latency, histogram),
                   share_text(histogram.zero_share))


def _figures(latency: DiskLatency, histogram: Histogram) -> Iterator[str | None]:
    yield None if histogram.mean is None else time_text(latency.ns(histogram.mean))
    for q in QUANTILES.values():
        # Of fewer it would be the greatest.
        interval = histogram.quantile(q) if histogram.count * (1 - q) > 0.9999 else None
        yield None if interval is None else interval_text(*map(latency.ns, interval))
    most = histogram.max or 0
    yield interval_text(latency.ns(most - 1), latency.ns(most + 1))


def _requests(count: int) -> str:
    return f"{count:,} request{'' if count == 1 else 's'}"


def _notes(latency: DiskLatency) -> Iterator[str]:
    operations = latency.operations.values()
    absent, unknown, refused = (sum(getattr(operation, name) for operation in operations)
                                for name in ("absent", "unknown", "refused"))
    notes = []
    if absent:
        notes.append(f"{_requests(absent)} without a stamp: when they were submitted, only the guest knows")
    if unknown:
        notes.append(f"{_requests(unknown)} in no stage: there was no time to be had, or it was disrupted meanwhile")
    if refused:
        notes.append(f"{_requests(refused)} with stamps of the other end's that cannot be: no figure has them")
    for name, operation in latency.operations.items():
        for stage, histogram in operation.stages.items():
            if histogram.underflow:
                notes.append(f"{name} {stage}: {histogram.underflow:,} below 0, down to "
                             f"{time_text(latency.ns(histogram.min or 0))}: the two ends' clocks differ by that")
            if histogram.overflow:
                notes.append(f"{name} {stage}: {histogram.overflow:,} of {time_text(latency.ns(LIMIT))} and more")
    if notes:
        yield ""
        yield from notes
