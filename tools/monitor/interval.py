"""What a vbd did between two moments.

RULES

- The first look at a vbd is no difference: there are no rates of it.
- A counter that went back is another ring, not a rate of zero: the interval says `new ring`, and has no rates.
- A vbd whose backend has gone says so; its last counters are not shown as idleness.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from xenpv.latency import DiskLatency
from xenpv.xenbus import vdev_name

from .source import Reading, Snapshot, Vbd

__all__ = ["Interval", "between", "intervals"]

GAUGES: Final = frozenset({"in_flight", "grants_persistent", "halted", "stamp_unit"})
"""Counters of xenpv.stats that may go back."""
OTHERS: Final = ("requests.write_barrier", "requests.flush", "requests.discard", "requests.reserved", "requests.indirect",
                 "requests.other")
QUANTILES: Final = (("p50", 0.5), ("p99", 0.99))


@dataclass(frozen=True, slots=True)
class Interval:
    """One vbd over `seconds`."""

    domid: int
    devid: int
    seconds: float
    counts: Mapping[str, int] = field(default_factory=dict)
    """What was counted meanwhile, by the names of Snapshot.queues, of all queues; empty without rates."""
    in_flight: int = 0
    """Requests at its end."""
    latency: DiskLatency | None = None
    """Of the requests that were answered meanwhile."""
    state: str = ""
    """``new``, ``new ring``, ``no backend`` or what is wrong with its page, and then no rates; ``halted``; else empty."""

    @property
    def vdev(self) -> str:
        return vdev_name(self.devid)

    def rate(self, *names: str) -> float | None:
        """Of these counters together, a second; None without rates."""
        return sum(self.counts.get(name, 0) for name in names) / self.seconds if self.counts else None

    def quantile_ns(self, stage: str, q: float) -> tuple[float, float] | None:
        """The nanoseconds between which the quantile of `stage` lies; None when nothing was measured."""
        if self.latency is None:
            return None
        found = self.latency.stage(stage).quantile(q)
        return (self.latency.ns(found[0]), self.latency.ns(found[1])) if found else None

    @property
    def depth(self) -> float | None:
        """Requests under way, on average: from their submit, without stamps from their fetch, to the response.

        By Little's law, from the sum of their times; where those are not measured, how many there are at its end. None
        without rates.
        """
        if not self.counts:
            return None
        for stage in ("total", "service") if self.latency else ():
            assert self.latency is not None
            histogram = self.latency.stage(stage)
            if histogram.count:
                return max(self.latency.ns(histogram.total), 0) / 1e9 / self.seconds
        return float(self.in_flight)

    @property
    def zero_share(self) -> float | None:
        """Of the requests' totals, or of service without stamps, how many took less than a step of the clock."""
        if self.latency is None:
            return None
        shares = (self.latency.stage(stage).zero_share for stage in ("total", "service"))
        return next((share for share in shares if share is not None), None)

    @property
    def lost_share(self) -> float | None:
        """Of the requests, how many lack a time that they should have: there was none to be had, it was disrupted, or what
        the guest said of it cannot be.
        """
        if self.latency is None or not self.latency.count:
            return None
        return sum(each.unknown + each.refused for each in self.latency.operations.values()) / self.latency.count

    def to_json(self) -> dict[str, Any]:
        """Rates a second, quantiles as [low, high] in nanoseconds; null where there is none."""
        times: dict[str, Any] = {}
        for stage in ("service", "total"):
            times |= {f"{stage}_{name}_ns": self.quantile_ns(stage, q) for name, q in QUANTILES}
        return {
            "domid": self.domid, "devid": self.devid, "vdev": self.vdev, "state": self.state or "served",
            "reads_per_second": self.rate("requests.read"), "writes_per_second": self.rate("requests.write"),
            "others_per_second": self.rate(*OTHERS), "read_bytes_per_second": self.rate("bytes_read"),
            "written_bytes_per_second": self.rate("bytes_written"), **times,
            "resolution_ns": self.latency.resolution_ns if self.latency else None,
            "zero_share": self.zero_share, "lost_share": self.lost_share, "depth": self.depth, "in_flight": self.in_flight,
            "notifications_per_second": self.rate("notifications"),
            "notifications_saved_per_second": self.rate("notifications_saved"),
            "errors_per_second": self.rate("errors", "refused")}


def _grown(before: Snapshot, after: Snapshot) -> dict[str, int] | None:
    """What each counter grew by; None when it is another ring."""
    if before.queues.keys() != after.queues.keys() or not after.queues:
        return None
    grown: dict[str, int] = {}
    for queue, counters in after.queues.items():
        for name, value in counters.items():
            if name in GAUGES:
                continue
            difference = value - before.queues[queue].get(name, 0)
            if difference < 0:
                return None
            grown[name] = grown.get(name, 0) + difference
    return grown


def between(before: Snapshot | None, after: Snapshot, seconds: float) -> Interval:
    """What the vbd did in the `seconds` from `before` to `after`."""
    place = (after.domid, after.devid, seconds)
    if after.fault:
        return Interval(*place, state=after.fault)
    if before is None or before.fault or seconds <= 0:
        return Interval(*place, in_flight=after.sum("in_flight"), state="new")
    grown = _grown(before, after)
    if grown is None:
        return Interval(*place, in_flight=after.sum("in_flight"), state="new ring")
    latency = None
    if after.latency and before.latency and after.latency.is_like(before.latency):
        latency = after.latency - before.latency
    return Interval(*place, grown, after.sum("in_flight"), latency, "halted" if after.sum("halted") else "")


def intervals(before: Reading, after: Reading, seconds: float) -> dict[Vbd, Interval]:
    """Of every vbd that is there now."""
    found = {vbd: between(before.vbds.get(vbd), snapshot, seconds) for vbd, snapshot in after.vbds.items()}
    if after.pid is None:
        found = {vbd: Interval(*vbd, seconds, state="no backend") for vbd in found}
    return found
