"""An emulated Xen of one's own with a backend process, and the processes that load it, from `with` to its end.

RULES
- Nothing of the user's is touched: the run directory is a new one, and no configuration is read.
- Started in the order host, backend, loads; ended in the opposite one, whatever happens between.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from xenpv.errors import HypervisorError, XenpvError
from xenpv.hypervisors.emulated import host
from xenpv.stats import PAGE_BYTES, decode_back
from xenpv.xenbus import VbdPlace
from xenpv_backend.options import BackendOptions

from .cpu import process_cpu_ns

END_SECONDS = 20.0
"""For a process to do what it was told."""


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
            self._process.communicate(timeout=END_SECONDS)
        except subprocess.TimeoutExpired:
            raise HypervisorError(f"the {self.name} process did not end within {END_SECONDS:g} s: killed") from None
        finally:
            self._process.kill()
            self._process.wait()
            os.close(self.pidfd)


class OwnXen(ABC):
    """The base of the systems that stand on one. All that it needs is in `folder`; a disk has `queues` queues."""

    def __init__(self, folder: Path, spin_us: int | None, queues: int) -> None:
        self._run = folder / "run"
        self._logs = folder
        self._spin_us = spin_us
        self._queues = queues
        self._options = folder / "backend.json"
        self._stack = ExitStack()

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

    @abstractmethod
    def _start(self) -> None:
        """Start everything; what has to end later is on the stack."""

    def _write_options(self, options: Mapping[str, str]) -> None:
        """What the backend takes when it starts or gets SIGHUP, by the names of BackendOptions; it offers enough queues."""
        self._options.write_text(json.dumps({"max_queues": max(BackendOptions().max_queues, self._queues), **options}))

    def _start_backend(self, domains: Sequence[str]) -> list[int]:
        """The host, domains of those names, and a backend with what _write_options() wrote. The domids."""
        host.start(self._run)
        self._stack.callback(host.stop, self._run)
        domids = [int(host.request(self._run, "create", name=name)["domid"]) for name in domains]
        spin = "-" if self._spin_us is None else str(self._spin_us)
        self._backend = Child("backend", ["backend", self.uri, str(self._run), spin, str(self._options)],
                              self._logs / "backend.log")
        self._stack.callback(self._backend.close)
        self._backend.line()
        return domids

    def cpu_ns(self) -> int:
        """CPU time of the backend, so far."""
        return process_cpu_ns(self._backend.pid)

    def _counters(self, place: VbdPlace) -> Counter[str]:
        """The backend's of a disk, from the statistics pages of its queues together; `requests` in one figure."""
        found: Counter[str] = Counter()
        for queue in range(self._queues):
            page = self._run / "backend" / f"{place.frontend_domid}-{place.devid}-{queue}.stats"  # xenpv_backend/rundir.py
            with open(page, "rb") as file:
                counters = decode_back(file.read(PAGE_BYTES))
            found.update({**counters, "requests": sum(counters["requests"].values())})
        return found
