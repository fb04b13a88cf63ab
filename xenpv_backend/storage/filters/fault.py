"""fault: errors, delays and torn writes, by probability or by pattern, the same ones for the same seed.

A torn write is one of which some first sectors reach the storage; it is answered with an error, as a disk does that lost
power, or with success (`lie`), as a bad one does.
"""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from xenpv.errors import StorageError
from xenpv.wire.blkif import Op, Status

from ..base import SECTOR, Done, StorageRequest, SubRequest
from ..layers import AsyncStorage, Layer
from ..target import Parameters
from ..worker import RunsUntilClosed, Worker

_END: Final = (1 << 63) - 1
OPS: Final = {"read": Op.READ, "write": Op.WRITE, "flush": Op.FLUSH_DISKCACHE, "discard": Op.DISCARD}


@dataclass(frozen=True, slots=True)
class Plan:
    """What goes wrong, and for which requests. Probabilities are 0 to 1."""

    errors: float = 0.0
    torn: float = 0.0
    lie: bool = False
    """A torn write is answered as if it were whole."""
    delays: float = 0.0
    delay: float = 0.0
    """Seconds that a delayed request waits."""
    ops: frozenset[int] = frozenset(OPS.values())
    every: int = 1
    """Every so many of the requests that the rest fits."""
    first: int = 0
    last: int = _END
    """Sectors of 512 bytes; a request that touches one of them is meant, and every flush."""
    trigger: str | None = None
    """Only while this file exists."""
    seed: int = 0


class Fault(Layer):
    """Does to the requests of `below` what `plan` says."""

    def __init__(self, below: AsyncStorage, plan: Plan, *, worker: RunsUntilClosed | None = None) -> None:
        super().__init__(below)
        self.below: AsyncStorage = below
        self.plan = plan
        self.counts = {"errors": 0, "torn": 0, "delayed": 0}
        self._random = random.Random(plan.seed)
        self._worker = worker or Worker("xenpv-fault")
        self._lock = threading.Lock()
        self._met = 0
        self._held: list[tuple[StorageRequest, Done]] = []

    def submit(self, requests: Sequence[StorageRequest], done: Done) -> None:
        for request in requests:
            fate = self._fate(request)
            if fate == "errors":
                request.status = Status.ERROR
                done(request)
            elif fate == "torn":
                self._tear(request, done)
            elif fate == "delayed":
                self._hold(request, done)
            else:
                self.below.submit([request], done)

    def _fate(self, request: StorageRequest) -> str | None:
        """One of the counts, or None. The same number of random values for each request, so that one seed is one story."""
        plan = self.plan
        with self._lock:
            error, torn, delay = (self._random.random() for _ in range(3))
            if not self._is_meant(request):
                return None
            self._met += 1
            if self._met % plan.every:
                return None
            fate = None
            if error < plan.errors:
                fate = "errors"
            elif torn < plan.torn and request.op == Op.WRITE:
                fate = "torn"
            elif delay < plan.delays:
                fate = "delayed"
            if fate:
                self.counts[fate] += 1
            return fate

    def _is_meant(self, request: StorageRequest) -> bool:
        plan = self.plan
        if request.op not in plan.ops or (plan.trigger and not os.path.exists(plan.trigger)):
            return False
        end = request.sector + request.bytes // SECTOR
        return request.op == Op.FLUSH_DISKCACHE or (request.sector <= plan.last and end > plan.first)

    def _tear(self, request: StorageRequest, done: Done) -> None:
        status = Status.OKAY if self.plan.lie else Status.ERROR
        unit = self.below.facts.sector_size
        with self._lock:
            kept = self._random.randrange(max(request.bytes // unit, 1)) * unit
        if not kept or request.data is None:
            request.status = status
            done(request)
            return

        def finished(part: StorageRequest) -> None:
            request.status = part.status if part.status != Status.OKAY else status
            done(request)

        self.below.submit([SubRequest(request.op, request.sector, kept, request.data[:kept], request.flush_first)],
                          finished)

    def _hold(self, request: StorageRequest, done: Done) -> None:
        held = (request, done)
        with self._lock:
            self._held.append(held)
        self._worker.later(self.plan.delay, lambda: self._let_go(held))

    def _let_go(self, held: tuple[StorageRequest, Done]) -> None:
        with self._lock:
            for index, other in enumerate(self._held):
                if other is held:
                    del self._held[index]
                    break
            else:
                return  # drain() came first
        self.below.submit([held[0]], held[1])

    def drain(self) -> None:
        """Let go of all that is delayed."""
        with self._lock:
            held, self._held = self._held, []
        for request, done in held:
            self.below.submit([request], done)
        super().drain()

    def describe(self) -> Mapping[str, Any]:
        return {**super().describe(), "fault": dict(self.counts)}

    def close(self) -> None:
        self._worker.close()
        self.drain()
        super().close()


def make(below: AsyncStorage, readonly: bool, parameters: Parameters) -> Fault:
    """``fault,errors=P,torn=P,lie=yes,delays=P,delay=TIME,ops=read+write,every=N,sectors=A-B,while=FILE,seed=N``."""
    errors, torn, delays = (parameters.probability(name) for name in ("errors", "torn", "delays"))
    delay = parameters.seconds("delay", 0.0)
    words = (parameters.text("ops") or "+".join(OPS)).split("+")
    if not set(words) <= set(OPS):
        raise parameters.error("ops", f"some of {'+'.join(OPS)}")
    first, dash, last = (parameters.text("sectors") or f"0-{_END}").partition("-")
    if not (first.isascii() and first.isdigit() and (last or first).isascii() and (last or first).isdigit()):
        raise parameters.error("sectors", "a sector or a range of them, such as 2048-4095")
    lie = parameters.text("lie", "no")
    if lie not in ("yes", "no"):
        raise parameters.error("lie", "yes or no")
    plan = Plan(errors, torn, lie == "yes", delays or (1.0 if delay else 0.0), delay, frozenset(OPS[word] for word in words),
                parameters.number("every", 1, 10**9) or 1, int(first), int(last if dash else first),
                parameters.text("while"), parameters.number("seed", 0, 10**18) or 0)
    parameters.done()
    if not (errors or torn or delays or delay):
        raise StorageError("fault: names nothing that goes wrong: want errors=, torn= or delay=, such as fault,errors=1%:")
    return Fault(below, plan)
