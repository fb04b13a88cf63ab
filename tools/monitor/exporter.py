"""Every vbd's counters and histograms for Prometheus, through its own client library; nothing else imports that.

RULES

- Each scrape reads the backend's pages anew: nothing is kept, so a vbd that has gone is gone, and a ring that was connected
  anew begins at zero, which Prometheus takes for a counter's reset.
- A scrape never fails: what cannot be read is a metric of its own.
- A histogram's bounds are steps of the clock times a power of two: there the buckets of the core end, so every count is exact.

Names follow https://prometheus.io/docs/practices/naming/.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from xenpv import __version__
from xenpv.errors import UsageError, XenpvError
from xenpv.latency import DiskLatency, Histogram
from xenpv.xenbus import vdev_name

from ..session import one_line
from .source import Reading, Snapshot

try:
    from prometheus_client import CollectorRegistry, generate_latest, start_http_server
    from prometheus_client.core import (CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, InfoMetricFamily,
                                        Metric)
    from prometheus_client.registry import Collector
except ImportError as error:
    raise UsageError("the exporter needs prometheus_client: `pip install 'xenpv[exporter]'`") from error

__all__ = ["Vbds", "bounds", "listening", "parse_listen", "text"]

VBD: Final = ("domid", "devid")
COUNTERS: Final = (
    ("bytes_read", "read_bytes", "Bytes read by the guest."),
    ("bytes_written", "written_bytes", "Bytes written by the guest."),
    ("bytes_discarded", "discarded_bytes", "Bytes discarded by the guest."),
    ("errors", "errors", "Requests that the storage or a grant failed."),
    ("refused", "refused", "Requests that were wrong themselves."),
    ("replayed", "replayed", "Requests of a backend that died, done again."),
    ("batches", "batches", "Turns of the backend that found requests."),
    ("events", "events", "Event channel events that the backend took."),
    ("notifications", "notifications_sent", "Notifications sent to the frontend."),
    ("notifications_saved", "notifications_saved", "Answers published without one, which the frontend did not need."),
    ("sleeps", "sleeps", "Times the backend went to sleep for want of requests."))
GAUGES: Final = (
    ("in_flight", "in_flight_requests", "Requests taken and not answered yet."),
    ("grants_persistent", "persistent_grants", "Grants that stay mapped."),
    ("halted", "halted", "1 when the frontend broke the ring's rules, and nothing more is served."))
STAGES: Final = ("queued", "waited", "stored", "answered")
ALWAYS: Final = ("read", "write")
"""Operations whose histograms are there from the first; the others when there was one."""
LOST: Final = ("unknown", "absent", "refused")
EDGES: Final = ("zeros", "underflow", "overflow")
"""What a histogram counts at the clock's ends: less than a step, less than nothing, and more than it has buckets for."""

_LEAST_SECONDS: Final = 4e-6
_MOST_SECONDS: Final = 17.0


def bounds(resolution_ns: int) -> list[int]:
    """The buckets' upper bounds in steps of the clock: powers of two from 4 us, or a step, to 17 s. At most 23."""
    powers = [1 << power for power in range(27)]
    return [steps for steps in powers
            if steps == 1 and resolution_ns > _LEAST_SECONDS * 1e9
            or _LEAST_SECONDS <= steps * resolution_ns / 1e9 * 1.0001 and steps * resolution_ns / 1e9 <= _MOST_SECONDS]


def _buckets(histogram: Histogram, resolution_ns: int) -> list[tuple[str, float]]:
    """Cumulative, as Prometheus has them: a value of v steps is less than v + 1 of them."""
    ends = bounds(resolution_ns)
    found, below = [], histogram.underflow
    counted = histogram.buckets()
    bucket = next(counted, None)
    for end in ends:
        while bucket is not None and bucket.high < end:
            below += bucket.counted
            bucket = next(counted, None)
        found.append((f"{end * resolution_ns / 1e9:.10g}", float(below)))
    return [*found, ("+Inf", float(histogram.count))]


class Vbds(Collector):
    """All vbds, as `read` finds them."""

    def __init__(self, read: Callable[[], Reading]) -> None:
        self._read = read

    def describe(self) -> list[Metric]:
        """Nothing is read before the first scrape."""
        return []

    def collect(self) -> Iterator[Metric]:
        build = InfoMetricFamily("xenpv_build", "The exporter's version.", labels=())
        build.add_metric((), {"version": __version__})
        yield build
        reading, problem = Reading(), 0
        try:
            reading = self._read()
        except (XenpvError, OSError) as error:
            logging.getLogger(__name__).error("%s", one_line(str(error)))
            problem = 1
        yield GaugeMetricFamily("xenpv_backend_up", "1 while a backend runs.", float(reading.pid is not None))
        yield GaugeMetricFamily("xenpv_backend_unreadable", "1 when its run directory cannot be read.", problem)
        snapshots = list(reading.vbds.values())
        yield from self._facts(snapshots)
        good = [snapshot for snapshot in snapshots if not snapshot.fault]
        yield from self._counters(good)
        yield from self._times([(_labels(each), each.latency) for each in good if each.latency])

    def _facts(self, snapshots: Sequence[Snapshot]) -> Iterator[Metric]:
        info = InfoMetricFamily("xenpv_vbd", "A disk of a domain, and the clock of its times.", labels=VBD)
        bad = GaugeMetricFamily("xenpv_vbd_unreadable", "1 when its counters cannot be read.", labels=VBD)
        for each in snapshots:
            info.add_metric(_labels(each), {"vdev": vdev_name(each.devid), "queues": str(len(each.queues)),
                                            "clock": each.latency.unit if each.latency else "none"})
            bad.add_metric(_labels(each), float(bool(each.fault)))
        yield from (info, bad)

    def _counters(self, snapshots: Sequence[Snapshot]) -> Iterator[Metric]:
        requests = CounterMetricFamily("xenpv_vbd_requests", "Requests answered.", labels=(*VBD, "operation"))
        for each in snapshots:
            names = sorted({name for queue in each.queues.values() for name in queue if name.startswith("requests.")})
            for name in names:
                requests.add_metric((*_labels(each), name.removeprefix("requests.")), each.sum(name))
        yield requests
        for counter, name, words in COUNTERS:
            family = CounterMetricFamily(f"xenpv_vbd_{name}", words, labels=VBD)
            for each in snapshots:
                family.add_metric(_labels(each), each.sum(counter))
            yield family
        for counter, name, words in GAUGES:
            gauge = GaugeMetricFamily(f"xenpv_vbd_{name}", words, labels=VBD)
            for each in snapshots:
                gauge.add_metric(_labels(each), each.sum(counter))
            yield gauge

    def _times(self, found: Sequence[tuple[tuple[str, str], DiskLatency]]) -> Iterator[Metric]:
        clock = GaugeMetricFamily("xenpv_vbd_clock_resolution_seconds", "A step of the clock of its times.", labels=VBD)
        for labels, latency in found:
            clock.add_metric(labels, latency.resolution_ns / 1e9)
        yield clock
        lost = CounterMetricFamily("xenpv_vbd_times_lost", "Requests in no histogram of their stages, or not of all.",
                                   labels=(*VBD, "operation", "reason"))
        for (labels, latency), reason in itertools.product(found, LOST):
            for name, operation in latency.operations.items():
                if name in ALWAYS or getattr(operation, reason):
                    lost.add_metric((*labels, name, reason), getattr(operation, reason))
        yield lost
        edges = CounterMetricFamily("xenpv_vbd_times_unresolved", "Of the times: less than a step of the clock (zeros), below "
                                    "zero (underflow), beyond the buckets (overflow).", labels=(*VBD, "stage", "reason"))
        for (labels, latency), stage in itertools.product(found, ("service", "total")):
            histogram = latency.stage(stage)
            for reason in EDGES if histogram.count else ():
                edges.add_metric((*labels, stage, reason), getattr(histogram, reason))
        yield edges
        for stage, name, words in (("total", "request", "From the frontend's submit to the response; stamped requests."),
                                   ("service", "service", "From the fetch of a request to its response.")):
            family = HistogramMetricFamily(f"xenpv_vbd_{name}_seconds", words, labels=(*VBD, "operation"))
            for labels, latency in found:
                _add(family, labels, latency, stage)
            yield family
        family = HistogramMetricFamily("xenpv_vbd_stage_seconds", "Of a request's stages; they add up to the whole.",
                                       labels=(*VBD, "stage", "operation"))
        for (labels, latency), stage in itertools.product(found, STAGES):
            _add(family, (*labels, stage), latency, stage)
        yield family


def _labels(snapshot: Snapshot) -> tuple[str, str]:
    return str(snapshot.domid), str(snapshot.devid)


def _add(family: HistogramMetricFamily, labels: tuple[str, ...], latency: DiskLatency, stage: str) -> None:
    """A series for each operation; none of a stage that this disk does not have."""
    if not latency.stage(stage).count:
        return
    for name, operation in latency.operations.items():
        histogram = operation.stages.get(stage, Histogram())
        if histogram.count or name in ALWAYS:
            family.add_metric((*labels, name), _buckets(histogram, latency.resolution_ns),
                              histogram.total * latency.resolution_ns / 1e9)


def text(read: Callable[[], Reading]) -> str:
    """One scrape, in Prometheus's text format."""
    registry = CollectorRegistry()
    registry.register(Vbds(read))
    return generate_latest(registry).decode()


def parse_listen(where: str) -> tuple[str, int]:
    """ADDRESS:PORT, with an IPv6 address in brackets. Raises UsageError."""
    host, colon, port = where.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise UsageError(f"{where!r} is no place to listen at: want ADDRESS:PORT, such as 127.0.0.1:9479")
    return host, int(port)


@contextmanager
def listening(read: Callable[[], Reading], host: str, port: int) -> Iterator[int]:
    """Answers scrapes at /metrics while it lasts; the port (of 0, one that is free). Raises UsageError."""
    registry = CollectorRegistry()
    registry.register(Vbds(read))
    try:
        server, thread = start_http_server(port, host, registry)
    except OSError as error:
        raise UsageError(f"cannot listen at {host}:{port}: {error.strerror}: choose another with --listen") from error
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
