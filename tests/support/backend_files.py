"""A backend's run directory without a backend: statistics pages and latency files with the values that a test wants."""

from __future__ import annotations

import os
import struct
from pathlib import Path

from xenpv import stats
from xenpv.core import lib
from xenpv.latency import OPERATIONS, STAGES, DiskLatency, Histogram
from xenpv.latency.area import MAGIC, MAJOR
from xenpv.latency.histogram import BITS, BUCKETS, bucket_of

SERVICE_STAGES = STAGES[:6]
"""Those that a backend knows."""


def latency_of(*times: int, operation: str = "read", unit: str = "us", resolution_ns: int = 1000,
               **stages: int) -> DiskLatency:
    """A backend's, of requests whose total took `times` steps; of each, `stages` say what the stages took."""
    latency = DiskLatency("backend", unit, resolution_ns)
    found = latency.operations[operation].stages
    for time in times:
        found["total"].record(time)
        found["service"].record(stages.get("service", time))
        for stage in ("queued", "waited", "stored", "answered"):
            found[stage].record(stages.get(stage, time // 4))
    return latency


def _histogram(histogram: Histogram) -> bytes:
    buckets = [0] * BUCKETS
    for bucket in histogram.buckets():
        buckets[bucket_of(bucket.low)] = bucket.counted
    return struct.pack(f"<qqqQQQQQ{BUCKETS}Q", histogram.total, histogram.min or 0, histogram.max or 0, histogram.underflow,
                       histogram.overflow, 0, 0, 0, *buckets)


def encode(latency: DiskLatency) -> bytes:
    """A latency area (docs/latency.md)."""
    head = 64 + 32 * len(OPERATIONS)
    area = struct.pack("<QIIIIIIIIIIQQ", MAGIC, MAJOR, 0, head, 64 + 8 * BUCKETS, len(OPERATIONS), len(SERVICE_STAGES), BITS,
                       BUCKETS, {"tick": 1, "us": 2}[latency.unit], 1, latency.resolution_ns, 0)
    for operation in latency.operations.values():
        area += struct.pack("<QQQQ", operation.unknown, operation.absent, operation.refused, 0)
    return area + b"".join(_histogram(operation.stages[stage]) for operation in latency.operations.values()
                           for stage in SERVICE_STAGES)


class BackendFiles:
    """RUN/backend of a backend whose process is `pid` (this one's, unless said otherwise)."""

    def __init__(self, run: Path, pid: int | None = None) -> None:
        self.run = run
        self.directory = run / "backend"
        self.directory.mkdir(mode=0o700, parents=True)
        self.start(os.getpid() if pid is None else pid)

    def start(self, pid: int) -> None:
        (self.directory / "lock").write_text(f"{pid}\n")

    def end(self) -> None:
        (self.directory / "lock").unlink()

    def page(self, domid: int, devid: int, queue: int = 0) -> Path:
        return self.directory / f"{domid}-{devid}-{queue}.stats"

    def put(self, domid: int = 1, devid: int = 51712, queue: int = 0, latency: DiskLatency | None = None,
            **counters: int) -> None:
        """A queue's files. An operation's counter is named ``requests_read`` here."""
        values = {"magic": lib.XENPV_STATS_MAGIC, "version": lib.XENPV_STATS_VERSION}
        values |= {name.replace("requests_", "requests.", 1): value for name, value in counters.items()}
        unknown = values.keys() - set(stats._BACK)
        assert not unknown, unknown
        page = struct.pack(f"<{len(stats._BACK)}Q", *(values.get(name, 0) for name in stats._BACK))
        self.page(domid, devid, queue).write_bytes(page.ljust(stats.PAGE_BYTES, b"\0"))
        if latency is not None:
            (self.directory / f"{domid}-{devid}-{queue}.latency").write_bytes(encode(latency))

    def remove(self, domid: int = 1, devid: int = 51712) -> None:
        for path in self.directory.glob(f"{domid}-{devid}-*"):
            path.unlink()
