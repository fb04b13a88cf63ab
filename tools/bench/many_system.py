"""An emulated Xen with one backend process and many vbds of several domains, each with a load process, and a file, of its
own.

RULES
- As own_xen.py's: nothing of the user's is touched, and what was started ends in the opposite order.
- Every disk stays connected throughout, so whoever is measured is measured beside idle ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from xenpv.hypervisors import open_domain
from xenpv.xenbus import VbdPlace, vbd_nodes, vdev_number

from .. import toolstack
from .cases import Case
from .load import LoadResult
from .own_xen import Child, OwnXen
from .process import Memory, Switches, memory, switches

_SEED = 1
_SUMMED = ("requests", "notifications", "sleeps", "spins", "spins_futile", "batches", "events")


@dataclass(frozen=True)
class Load:
    """What one disk is to do."""

    disk: int
    case: Case


@dataclass(frozen=True)
class Together:
    """Loads that ran at once, and what the backend did meanwhile."""

    loads: list[LoadResult]
    backend: dict[str, int]
    """What its counters grew by, all disks together; `requests` are those of the rings."""
    backend_cpu_seconds: float
    backend_switches: Switches

    @property
    def rates(self) -> list[float]:
        """IOPS of each disk."""
        return [load.ios / load.seconds for load in self.loads]

    @property
    def ios(self) -> int:
        return sum(load.ios for load in self.loads)

    @property
    def cpu_us_per_io(self) -> float:
        """Of both sides."""
        used = self.backend_cpu_seconds + sum(load.cpu_seconds for load in self.loads)
        return used / max(self.ios, 1) * 1e6


def places(count: int, domains: int) -> list[tuple[int, str]]:
    """For each of `count` disks its domain, a number from 0, and its name there."""
    found = []
    for number in range(count):
        of_domain = number // domains
        letters = ""
        while of_domain >= 0:
            letters = chr(ord("a") + of_domain % 26) + letters
            of_domain = of_domain // 26 - 1
        found.append((number % domains, f"xvd{letters}"))
    return found


class Many(OwnXen):
    """`images`: the file of each disk. From `with` to its end."""

    def __init__(self, images: Sequence[Path], folder: Path, *, domains: int, depth: int, pool: int,
                 spin_us: int | None, queues: int = 1) -> None:
        super().__init__(folder, spin_us, queues)
        self._images = images
        self._domains = domains
        self._depth = depth
        self._pool = pool
        self.places: list[VbdPlace] = []
        self.features: dict[str, Any] = {}
        self.memory_before: Memory | None = None
        """Of the backend, before it had a disk."""

    def _start(self) -> None:
        self._write_options({})
        domids = self._start_backend([f"load{number}" for number in range(self._domains)])
        self.memory_before = self.memory()
        vdevs = places(len(self._images), self._domains)
        with open_domain(self.uri) as dom0:
            for (domain, vdev), image in zip(vdevs, self._images, strict=True):
                place = VbdPlace(0, domids[domain], vdev_number(vdev))
                toolstack.attach(dom0.store, place, vbd_nodes(place, writable=True, params=str(image)))
                self.places.append(place)
        self._loads = Child("loads", ["loads", self.uri], self._logs / "loads.log")
        self._stack.callback(self._loads.close)
        asked = [{"domid": domids[domain], "vdev": vdev} for domain, vdev in vdevs]
        self.features = self._loads.ask({"open": asked, "spin_us": self._spin_us, "depth": self._depth,
                                         "pool": self._pool, "queues": self._queues}, self._backend)["features"]

    def memory(self) -> Memory:
        """Of the backend, now."""
        return memory(self._backend.pid)

    def switches(self) -> Switches:
        """Of the backend's threads, so far."""
        return switches(self._backend.pid)

    def run(self, loads: Sequence[Load], seconds: float) -> Together:
        """Run them at once, a disk no more than once. The backend is idle before and after."""
        counters, cpu, before = self.counters(), self.cpu_ns(), self.switches()
        found = self._loads.ask({"run": [{"disk": load.disk, "case": asdict(load.case)} for load in loads],
                                 "seconds": seconds, "seed": _SEED}, self._backend)["results"]
        cpu, after = self.cpu_ns() - cpu, self.switches()
        grown = {name: value - counters[name] for name, value in self.counters().items()}
        return Together([LoadResult(**result) for result in found], grown, cpu / 1e9,
                        Switches(after.voluntary - before.voluntary, after.involuntary - before.involuntary))

    def counters(self) -> dict[str, int]:
        """The backend's, of all disks together."""
        each = self.each_counters()
        return {name: sum(counters[name] for counters in each) for name in _SUMMED}

    def each_counters(self) -> list[dict[str, int]]:
        """The backend's, of each disk."""
        return [{name: int(counters[name]) for name in _SUMMED} for counters in map(self._counters, self.places)]
