"""What one run of one case on one system gave."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from statistics import median


@dataclass(frozen=True)
class Measurement:
    """Figures of one run, or the medians of several."""

    iops: float
    bytes_per_second: float
    p50_us: float
    """Latency that half of the I/Os did not exceed, microseconds."""
    p99_us: float
    cpu_us_per_io: float
    """CPU time of both sides, user and system, microseconds."""


@dataclass(frozen=True)
class GuestMeasurement(Measurement):
    """Of a guest of a real Xen host, where `cpu_us_per_io` is dom0's."""

    guest_cpu_us_per_io: float
    """CPU time of fio in the guest, user and system, microseconds."""


def medians(runs: Sequence[Measurement]) -> Measurement:
    """Field by field: the runs of one system differ by what else the machine did, in each field on its own."""
    kind = type(runs[0])
    return kind(*(median(getattr(run, field.name) for run in runs) for field in fields(kind)))
