"""throttle: at most so many requests and bytes a second.

A token bucket each for requests and bytes. It holds `burst` seconds' worth; a request may overdraw it, and the next
ones wait until it is repaid. So a request greater than the whole bucket is served too, and the rate holds over time.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from xenpv.errors import StorageError
from xenpv.wire.blkif import Op

from ..base import Done, StorageRequest
from ..layers import AsyncStorage, Layer
from ..target import Parameters
from ..worker import RunsUntilClosed, Worker

BURST = 0.1
"""Seconds' worth of tokens that an idle disk saves up, by default."""


class TokenBucket:
    """`rate` tokens a second, at most `depth` of them saved. `clock` is in seconds."""

    def __init__(self, rate: float, depth: float, clock: Callable[[], float]) -> None:
        self._rate = rate
        self._depth = max(depth, 1.0)
        self._clock = clock
        self._tokens = self._depth
        self._at = clock()

    def wait(self) -> float:
        """Seconds until something may be taken; 0: now."""
        now = self._clock()
        self._tokens = min(self._depth, self._tokens + max(0.0, now - self._at) * self._rate)
        self._at = now
        return 0.0 if self._tokens > 0 else (1e-6 - self._tokens) / self._rate

    def take(self, count: float) -> None:
        """Take `count`, more than there are if need be."""
        self._tokens -= count


class Throttle(Layer):
    """Requests of `below`, at most `iops` and `bps` (bytes) a second; None: any number. In the order they came."""

    def __init__(self, below: AsyncStorage, *, iops: int | None = None, bps: int | None = None, burst: float = BURST,
                 worker: RunsUntilClosed | None = None) -> None:
        super().__init__(below)
        self.below: AsyncStorage = below
        self._worker = worker or Worker("xenpv-throttle")
        clock = self._worker.clock
        self._iops = TokenBucket(iops, iops * burst, clock) if iops else None
        self._bps = TokenBucket(bps, bps * burst, clock) if bps else None
        self._limits = {"iops": iops, "bps": bps}
        self._waiting: deque[tuple[StorageRequest, Done]] = deque()
        self._lock = threading.Lock()
        self._timer_runs = False

    def submit(self, requests: Sequence[StorageRequest], done: Done) -> None:
        with self._lock:
            self._waiting.extend((request, done) for request in requests)
            if self._timer_runs:
                return
            ready = self._ready()
        self._begin(ready)

    def _ready(self) -> list[tuple[StorageRequest, Done]]:
        """What may begin now, and a timer for the rest. With the lock."""
        ready: list[tuple[StorageRequest, Done]] = []
        while self._waiting:
            wait = max((bucket.wait() for bucket in (self._iops, self._bps) if bucket), default=0.0)
            if wait > 0:
                self._timer_runs = True
                self._worker.later(wait, self._again)
                break
            request, done = self._waiting.popleft()
            if self._iops:
                self._iops.take(1)
            if self._bps and request.op in (Op.READ, Op.WRITE):
                self._bps.take(request.bytes)
            ready.append((request, done))
        return ready

    def _again(self) -> None:
        with self._lock:
            self._timer_runs = False
            ready = self._ready()
        self._begin(ready)

    def _begin(self, ready: Sequence[tuple[StorageRequest, Done]]) -> None:
        for request, done in ready:
            self.below.submit([request], done)

    def drain(self) -> None:
        """Begin all that waits: the disk is let go."""
        with self._lock:
            ready = list(self._waiting)
            self._waiting.clear()
        self._begin(ready)
        super().drain()

    def describe(self) -> Mapping[str, Any]:
        return {**super().describe(), "throttle": {**self._limits, "waiting": len(self._waiting)}}

    def close(self) -> None:
        self._worker.close()
        self.drain()
        super().close()


def make(below: AsyncStorage, readonly: bool, parameters: Parameters) -> Throttle:
    """``throttle,iops=N,bps=SIZE,burst=TIME``. Raises StorageError."""
    iops, bps = parameters.number("iops", 1, 10**9), parameters.size("bps")
    burst = parameters.seconds("burst", BURST)
    parameters.done()
    if iops is None and bps is None:
        raise StorageError("throttle: names no limit: want throttle,iops=500: or throttle,bps=10M:")
    return Throttle(below, iops=iops, bps=bps, burst=burst)
