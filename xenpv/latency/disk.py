"""What one end of a disk knows of its requests' times."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Self

from xenpv.errors import UsageError

from .histogram import Histogram

__all__ = ["OPERATIONS", "SPANS", "STAGES", "DiskLatency", "OperationLatency"]

OPERATIONS = ("read", "write", "flush", "discard")
"""In the order of the core's."""

STAGES = ("queued", "waited", "stored", "answered", "service", "total", "reaped")
"""In the order of the core's; a backend does not know the last."""

SPANS = {
    "queued": ("submit", "fetch"), "waited": ("fetch", "storage start"), "stored": ("storage start", "storage end"),
    "answered": ("storage end", "response"), "reaped": ("response", "reap"), "service": ("fetch", "response"),
    "total": ("submit", "reap"),
}
"""What each lies between. A backend's `total` ends with the response."""

SHOWN = ("queued", "waited", "stored", "answered", "reaped", "service", "total")
"""In the order of a request's life, for people."""


def _empty() -> dict[str, Histogram]:
    return {stage: Histogram() for stage in STAGES}


@dataclass
class OperationLatency:
    """The requests of one operation that were answered, and reached the storage."""

    stages: dict[str, Histogram] = field(default_factory=_empty)
    """By the names of STAGES, as many as this end knows; each has its own count."""
    unknown: int = 0
    """Their stages are not known: there was no time to be had, or it was disrupted in between."""
    absent: int = 0
    """A backend's: they came without a stamp, so there is no `queued` and no `total` of them."""
    refused: int = 0
    """What the other end said of its times cannot be: it is in no histogram."""

    @property
    def count(self) -> int:
        """Requests. A backend's that are absent or refused have its own stages, a frontend's that are refused have none."""
        counts = {name: histogram.count for name, histogram in self.stages.items()}
        return self.unknown + max([*counts.values(), counts.get("total", 0) + self.absent + self.refused])

    def __add__(self, other: Self) -> Self:
        return type(self)({name: histogram + other.stages.get(name, Histogram())
                           for name, histogram in self.stages.items()}, self.unknown + other.unknown,
                          self.absent + other.absent, self.refused + other.refused)

    def __sub__(self, earlier: Self) -> Self:
        return type(self)({name: histogram - earlier.stages.get(name, Histogram())
                           for name, histogram in self.stages.items()}, max(self.unknown - earlier.unknown, 0),
                          max(self.absent - earlier.absent, 0), max(self.refused - earlier.refused, 0))

    def to_json(self) -> dict[str, Any]:
        """Figures of the stages in steps of the clock."""
        return {"count": self.count, "unknown": self.unknown, "absent": self.absent, "refused": self.refused,
                "stages": {name: self.stages[name].to_json() for name in SHOWN if name in self.stages}}


@dataclass
class DiskLatency:
    """A snapshot: all requests since the ring was connected (a backend's) or the disk opened (a frontend's)."""

    end: str
    """Who says so: ``backend`` or ``frontend``."""
    unit: str
    """The clock: ``tick``, which is dom0's kernel's, or ``us``, microseconds of CLOCK_MONOTONIC."""
    resolution_ns: int
    """A step of that clock: the unit of every value in the histograms."""
    operations: dict[str, OperationLatency] = field(
        default_factory=lambda: {name: OperationLatency() for name in OPERATIONS})
    """By the names of OPERATIONS, all of them."""

    def ns(self, steps: float) -> float:
        """Nanoseconds of `steps`."""
        return steps * self.resolution_ns

    def span(self, stage: str) -> tuple[str, str]:
        """What `stage` lies between, by this end."""
        first, last = SPANS[stage]
        return first, "response" if self.end == "backend" and stage == "total" else last

    def stage(self, stage: str) -> Histogram:
        """Of all operations together."""
        whole = Histogram()
        for operation in self.operations.values():
            whole.merge(operation.stages.get(stage, Histogram()))
        return whole

    @property
    def count(self) -> int:
        """Requests."""
        return sum(operation.count for operation in self.operations.values())

    def is_like(self, other: Self) -> bool:
        """Whether the two are of the same end, by the same clock."""
        return (self.end, self.unit, self.resolution_ns) == (other.end, other.unit, other.resolution_ns)

    def _check(self, other: Self) -> None:
        if not self.is_like(other):
            raise UsageError(f"a {self.end}'s times in steps of {self.resolution_ns} ns and a {other.end}'s of "
                             f"{other.resolution_ns} ns do not add up: look at each by itself")

    def __add__(self, other: Self) -> Self:
        """Of both. Raises UsageError when their clocks differ."""
        self._check(other)
        return type(self)(self.end, self.unit, self.resolution_ns, {
            name: operation + other.operations[name] for name, operation in self.operations.items()})

    def __sub__(self, earlier: Self) -> Self:
        """What came since `earlier`, a snapshot of the same disk. Raises UsageError when their clocks differ."""
        self._check(earlier)
        return type(self)(self.end, self.unit, self.resolution_ns, {
            name: operation - earlier.operations[name] for name, operation in self.operations.items()})

    def to_json(self) -> dict[str, Any]:
        """Every figure of a stage is in steps of `resolution_ns`; quantiles are [low, high]."""
        known = [name for name in SHOWN if any(name in operation.stages for operation in self.operations.values())]
        return {"end": self.end, "unit": self.unit, "resolution_ns": self.resolution_ns,
                "spans": {name: self.span(name) for name in known},
                "operations": {name: operation.to_json() for name, operation in self.operations.items()}}
