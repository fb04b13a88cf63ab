"""The system `xenpv`: an emulated Xen of its own, a backend process and a load process, from `with` to its end.

RULES
- Nothing of the user's is touched: the run directory is a new one, and no configuration is read.
- Started in the order host, backend, load; ended in the opposite one, whatever happens between.
- Data passes between the backend and the load alone; the host process and this one only look on.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from xenpv.errors import HypervisorError, XenpvError
from xenpv.hypervisors import open_domain
from xenpv.hypervisors.emulated import host
from xenpv.ring import DEFAULT_SPIN_NS
from xenpv.stats import PAGE_BYTES, decode_back
from xenpv.xenbus import VbdPlace, vbd_nodes, vdev_number

from .. import toolstack
from ..backend_control import ask
from .cases import Case
from .cpu import process_cpu_ns
from .files import Target
from .load import LoadResult
from .measurement import Measurement

DEFAULT_SPIN_US = DEFAULT_SPIN_NS // 1000
_END_SECONDS = 20.0
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


class Child:
    """A process that is asked over its standard input and answers on its standard output. Ended by close()."""

    def __init__(self, name: str, arguments: Sequence[str], log: Path) -> None:
        self.name = name
        self._log = log
        with open(log, "wb") as errors:
            # A session of its own: Ctrl-C is for us, who end it in order.
            self._process = subprocess.Popen(
                [sys.executable, "-m", f"{__package__}.child", *arguments], text=True, start_new_session=True,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors)
        self.pid = self._process.pid
        self.pidfd = os.pidfd_open(self.pid)

    def line(self, beside: Child | None = None) -> str:
        """The next line that it says. Raises HypervisorError when it has ended, or `beside`, without which it waits."""
        assert self._process.stdout is not None
        waited = [self._process.stdout.fileno()] + ([beside.pidfd] if beside else [])
        ready, _, _ = select.select(waited, [], [])
        if beside and ready == [beside.pidfd]:
            raise beside.ended()
        line = self._process.stdout.readline()
        if not line:
            raise self.ended()
        return line

    def ended(self) -> HypervisorError:
        """The error for its end, with its last words."""
        said = self._log.read_text(errors="replace").strip().splitlines()
        return HypervisorError(f"the {self.name} process ended: {said[-1] if said else 'without a word'}")

    def ask(self, request: dict[str, Any], beside: Child) -> dict[str, Any]:
        """Its answer. Raises HypervisorError as line() does, XenpvError with its own words when it refuses."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise self.ended() from error
        answer = json.loads(self.line(beside))
        if "error" in answer:
            raise XenpvError(answer["error"])
        return dict(answer)

    def close(self, beside: Child | None = None) -> None:
        """End it by SIGTERM, in the middle of a run too. One that does not end is killed, and that is an error.

        Killed at once if `beside` has ended: it would wait for that to answer, for seconds and for nothing.
        """
        if beside and beside._process.poll() is not None:
            self._process.kill()
        self._process.terminate()
        try:
            self._process.communicate(timeout=_END_SECONDS)
        except subprocess.TimeoutExpired:
            raise HypervisorError(f"the {self.name} process did not end within {_END_SECONDS:g} s: killed") from None
        finally:
            self._process.kill()
            self._process.wait()
            os.close(self.pidfd)


class Xenpv:
    """See System. `modes` of the ring: one disk each, read-only if there is more than one; None is as xenpv comes."""

    name = "xenpv"

    def __init__(self, target: Target, folder: Path, spin_us: int | None, *,
                 modes: Sequence[str | None] = (None,)) -> None:
        self._target = target
        self._run = folder / "run"
        self._logs = folder
        self._spin_us = spin_us
        self._vdevs = {mode: f"xvd{chr(ord('a') + number)}" for number, mode in enumerate(modes)}
        self._stack = ExitStack()
        self._features: dict[str, Any] = {}
        self._domid = 0

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None,
                 trace: TracebackType | None) -> None:
        self._stack.close()

    @property
    def uri(self) -> str:
        """Its dom0's."""
        return f"emulated:{self._run}"

    def _start(self) -> None:
        host.start(self._run)
        self._stack.callback(host.stop, self._run)
        self._domid = int(host.request(self._run, "create", name="load")["domid"])
        uri = f"emulated:{self._run}"
        spin = "-" if self._spin_us is None else str(self._spin_us)
        self._options = self._logs / "backend.json"
        self._options.write_text(json.dumps(NO_PROFILE.options()))
        self._backend = Child("backend", ["backend", uri, str(self._run), spin, str(self._options)],
                              self._logs / "backend.log")
        self._stack.callback(self._backend.close)
        self._backend.line()
        self._attach(uri)
        self._load = Child("load", ["load", f"{uri}#{self._domid}"], self._logs / "load.log")
        self._stack.callback(self._load.close, self._backend)
        for mode, vdev in self._vdevs.items():
            self._open(vdev, None if mode is None else _FLAGS[mode])

    def _open(self, vdev: str, flag: bool | None, stamp: str | None = None) -> None:
        self._features = self._load.ask({"vdev": vdev, "flag": flag, "spin_us": self._spin_us, "stamp": stamp},
                                        self._backend)["features"]

    def profile(self, wanted: Profile) -> None:
        """Measure so from now on: the backend's options change, and the disk is connected anew."""
        vdev, = self._vdevs.values()
        self._load.ask({"vdev": vdev, "close": True}, self._backend)
        self._options.write_text(json.dumps(wanted.options()))
        signal.pidfd_send_signal(self._backend.pidfd, signal.SIGHUP)
        deadline = time.monotonic() + _END_SECONDS
        while wanted.options().items() - ask(self._run, "status")["options"].items():
            if time.monotonic() > deadline:
                raise HypervisorError("the backend process does not take its options anew")
            select.select([self._backend.pidfd], [], [], 0.005)
        self._open(vdev, None, wanted.stamp)

    def check_totals(self, requests: int) -> dict[str, Any]:
        """Each of so many requests, one at a time, by its stamps and by the load process's clock around it (child.py)."""
        vdev, = self._vdevs.values()
        return dict(self._load.ask({"vdev": vdev, "requests": requests}, self._backend)["totals"])

    def _attach(self, uri: str) -> None:
        with open_domain(uri) as dom0:
            for vdev in self._vdevs.values():
                place = VbdPlace(0, self._domid, vdev_number(vdev))
                nodes = vbd_nodes(place, writable=len(self._vdevs) == 1, params=str(self._target.path))
                toolstack.attach(dom0.store, place, nodes)

    def prepare(self, case: Case, seconds: float) -> dict[str, Any]:
        """See System. There is nothing to try, but the first run grants and maps what later ones find standing."""
        self.measure(case, seconds)
        spin = DEFAULT_SPIN_US if self._spin_us is None else self._spin_us
        mode = "flag" if self._features["flag"] else "event index"
        served = ask(self._run, "list")["devices"][0]
        return {"setup": f"{served['engine']}, {served['storage']['cache']}, {mode}, spin {spin} us, "
                         f"{served['ring_entries']} entries",
                "spin_us": spin, "features": self._features,
                "backend": {name: served[name] for name in ("engine", "storage", "queues", "ring_entries", "protocol")}}

    def run(self, case: Case, seconds: float) -> Measurement:
        """See System."""
        run = self.measure(case, seconds)
        load = run.load
        return Measurement(load.ios / load.seconds, load.bytes / load.seconds, load.p50_us, load.p99_us,
                           (load.cpu_seconds + run.backend_cpu_seconds) / load.ios * 1e6)

    def measure(self, case: Case, seconds: float, *, mode: str | None = None) -> Run:
        """One load. The backend is idle before and after, so what it did in between it did for this load."""
        vdev = self._vdevs[mode]
        counters, cpu = self._counters(vdev), process_cpu_ns(self._backend.pid)
        answer = self._load.ask({"vdev": vdev, "case": asdict(case), "seconds": seconds, "seed": _SEED},
                                self._backend)
        used = (process_cpu_ns(self._backend.pid) - cpu) / 1e9
        grown = {name: value - counters[name] for name, value in self._counters(vdev).items()}
        return Run(LoadResult(**answer["result"]), grown, used)

    def _counters(self, vdev: str) -> dict[str, int]:
        """The backend's, from its statistics page."""
        page = self._run / "backend" / f"{self._domid}-{vdev_number(vdev)}-0.stats"  # xenpv_backend/rundir.py
        with open(page, "rb") as file:
            counters = decode_back(file.read(PAGE_BYTES))
        counters["requests"] = sum(counters["requests"].values())
        return counters
