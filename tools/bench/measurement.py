"""What one run of one case on one system gave."""

from __future__ import annotations

from dataclasses import dataclass
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


def medians(runs: list[Measurement]) -> Measurement:
    """Field by field: the runs of one system differ by what else the machine did, in each field on its own."""
    return Measurement(*(median(getattr(run, name) for run in runs) for name in Measurement.__dataclass_fields__))
