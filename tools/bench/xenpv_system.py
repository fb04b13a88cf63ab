"""The system `xenpv`: an emulated Xen of its own, a backend process and a load process, from `with` to its end.

RULES
- Data passes between the backend and the load alone; the host process and this one only look on.
"""

from __future__ import annotations

import select
import signal
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from xenpv.errors import HypervisorError
from xenpv.hypervisors import open_domain
from xenpv.ring import EMULATED_SPIN_NS
from xenpv.xenbus import VbdPlace, vbd_nodes, vdev_number

from .. import toolstack
from ..backend_control import ask
from .cases import Case
from .files import Target
from .load import LoadResult
from .measurement import Measurement
from .own_xen import END_SECONDS, Child, OwnXen

DEFAULT_SPIN_US = EMULATED_SPIN_NS // 1000
_FLAGS = {"flag": True, "event_index": False}
_SEED = 1


@dataclass(frozen=True)
class Run:
    """One load, seen from both ends."""

    load: LoadResult
    backend: dict[str, int]
    """What the backend's counters grew by."""
    backend_cpu_seconds: float


@dataclass(frozen=True)
class Profile:
    """What measures requests."""

    stamp: str | None = None
    """The unit of both ends' stamps."""
    backend: str = "off"
    """The clock by which the backend measures requests without stamps."""

    def options(self) -> dict[str, str]:
        """The backend's, by the names of BackendOptions."""
        return {"stamp": self.stamp or "off", "profile": self.backend}


NO_PROFILE = Profile()


class Xenpv(OwnXen):
    """See System. `modes` of the ring: one disk each, read-only if there is more than one; None is as xenpv comes. A disk has
    `queues` queues.
    """

    name = "xenpv"

    def __init__(self, target: Target, folder: Path, spin_us: int | None, *,
                 modes: Sequence[str | None] = (None,), queues: int = 1) -> None:
        super().__init__(folder, spin_us, queues)
        self._target = target
        self._vdevs = {mode: f"xvd{chr(ord('a') + number)}" for number, mode in enumerate(modes)}
        self._features: dict[str, Any] = {}
        self._domid = 0

    def _start(self) -> None:
        self._write_options(NO_PROFILE.options())
        self._domid, = self._start_backend(["load"])
        self._attach()
        self._load = Child("load", ["load", f"{self.uri}#{self._domid}"], self._logs / "load.log")
        self._stack.callback(self._load.close, self._backend)
        for mode, vdev in self._vdevs.items():
            self._open(vdev, None if mode is None else _FLAGS[mode])

    def _open(self, vdev: str, flag: bool | None, stamp: str | None = None) -> None:
        self._features = self._load.ask({"vdev": vdev, "flag": flag, "spin_us": self._spin_us, "stamp": stamp,
                                         "queues": self._queues}, self._backend)["features"]

    def profile(self, wanted: Profile) -> None:
        """Measure so from now on: the backend's options change, and the disk is connected anew."""
        vdev, = self._vdevs.values()
        self._load.ask({"vdev": vdev, "close": True}, self._backend)
        self._write_options(wanted.options())
        signal.pidfd_send_signal(self._backend.pidfd, signal.SIGHUP)
        deadline = time.monotonic() + END_SECONDS
        while wanted.options().items() - ask(self._run, "status")["options"].items():
            if time.monotonic() > deadline:
                raise HypervisorError("the backend process does not take its options anew")
            select.select([self._backend.pidfd], [], [], 0.005)
        self._open(vdev, None, wanted.stamp)

    def check_totals(self, requests: int) -> dict[str, Any]:
        """Each of so many requests, one at a time, by its stamps and by the load process's clock around it (child.py)."""
        vdev, = self._vdevs.values()
        return dict(self._load.ask({"vdev": vdev, "requests": requests}, self._backend)["totals"])

    def _place(self, vdev: str) -> VbdPlace:
        return VbdPlace(0, self._domid, vdev_number(vdev))

    def _attach(self) -> None:
        with open_domain(self.uri) as dom0:
            for vdev in self._vdevs.values():
                place = self._place(vdev)
                nodes = vbd_nodes(place, writable=len(self._vdevs) == 1, params=str(self._target.path))
                toolstack.attach(dom0.store, place, nodes)

    def prepare(self, case: Case, seconds: float) -> dict[str, Any]:
        """See System. There is nothing to try, but the first run grants and maps what later ones find standing."""
        self.measure(case, seconds)
        spin = DEFAULT_SPIN_US if self._spin_us is None else self._spin_us
        mode = "flag" if self._features["flag"] else "event index"
        served = ask(self._run, "list")["devices"][0]
        queues = "" if served["queues"] == 1 else f"{served['queues']} x "
        return {"setup": f"{served['engine']}, {served['storage']['cache']}, {mode}, spin {spin} us, "
                         f"{queues}{served['ring_entries']} entries",
                "spin_us": spin, "features": self._features,
                "backend": {name: served[name] for name in ("engine", "storage", "queues", "ring_entries", "protocol")}}

    def run(self, case: Case, seconds: float) -> Measurement:
        """See System."""
        run = self.measure(case, seconds)
        load = run.load
        return Measurement(load.ios / load.seconds, load.bytes / load.seconds, load.p50_us, load.p99_us,
                           (load.cpu_seconds + run.backend_cpu_seconds) / load.ios * 1e6)

    def ran_as(self) -> dict[str, Any]:
        """See System: prepare has said all of it."""
        return {}

    def measure(self, case: Case, seconds: float, *, mode: str | None = None) -> Run:
        """One load. The backend is idle before and after, so what it did in between it did for this load."""
        vdev = self._vdevs[mode]
        place = self._place(vdev)
        counters, cpu = self._counters(place), self.cpu_ns()
        answer = self._load.ask({"vdev": vdev, "case": asdict(case), "seconds": seconds, "seed": _SEED},
                                self._backend)
        used = (self.cpu_ns() - cpu) / 1e9
        grown = {name: value - counters[name] for name, value in self._counters(place).items()}
        return Run(LoadResult(**answer["result"]), grown, used)
