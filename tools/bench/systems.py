"""The peers: `raw`, fio on the file itself; `nbdkit` and `qemu-storage-daemon`, with fio's nbd engine over a Unix socket.

RULES
- A peer is given its best: every setup is tried shortly before the runs, and the fastest runs. The output names it, and
  what the others did.
- A try on a disk that reads from memory does not count.
- What cannot run says why (NotRun). What has run once must not fail later: that ends the bench.
"""

from __future__ import annotations

import shlex
import shutil
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from xenpv.errors import XenpvError

from . import fio, nbd_server, nbdkit, qemu
from .cases import Case
from .cpu import process_cpu_ns, storage_bytes_read
from .files import Target
from .measurement import Measurement


_TRIES = 2
"""Of each setup; the better one counts, so that a moment's disturbance does not choose."""
_LEAST_FROM_DISK = 0.9


class NotRun(XenpvError):
    """A system cannot be measured here; the text is the reason."""


class System(Protocol):
    """Something that serves a Target, from `with` to its end."""

    name: str

    def __enter__(self) -> Self: ...

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None,
                 trace: TracebackType | None) -> None: ...

    def prepare(self, case: Case, seconds: float) -> dict[str, Any]:
        """Get ready for runs of `case`; a try takes up to `seconds`. Returns the options for the output. Raises NotRun.
        """
        ...

    def run(self, case: Case, seconds: float) -> Measurement:
        """One run of what was prepared."""
        ...

    def ran_as(self) -> dict[str, Any]:
        """What exactly the last run was, for the output."""
        ...


@dataclass(frozen=True)
class Setup:
    """One way to run a peer."""

    name: str
    job: fio.Options
    """Beyond the case's own options."""
    server: Sequence[str] = ()
    """The server's command line, but for socket and file."""


def raw_setups(case: Case, target: Target) -> list[Setup]:
    """How fio may read the file. At depth 1 nothing is ahead of plain pread.

    On tmpfs psync is tried at every depth: nothing there waits, so one I/O after the other may well be the fastest.
    """
    direct: fio.Options = {"direct": int(target.direct), "filename": str(target.path), "size": target.size}
    psync = Setup("psync", {"ioengine": "psync", **direct})
    if case.depth == 1:
        return [psync]
    asynchronous = [
        Setup("io_uring", {"ioengine": "io_uring", **direct}),
        Setup("io_uring, fixed buffers and file",
              {"ioengine": "io_uring", "fixedbufs": None, "registerfiles": None, **direct}),
        Setup("libaio", {"ioengine": "libaio", **direct}),
    ]
    return asynchronous if target.direct else [psync, *asynchronous]


def nbdkit_setups(case: Case, target: Target) -> list[Setup]:
    """How nbdkit may serve it.

    Its file plugin has no O_DIRECT. On a disk `cache=none` drops each page after its use, but what was read ahead is
    served from memory, over and over: so there is no read-ahead (`fadvise=random`). A sequential case is tried with it
    too, and left out where most of it came from memory.
    """
    plugins = [[]] if not target.direct else [["cache=none", "fadvise=random"]]
    if target.direct and case.sequential:
        plugins.append(["cache=none", "fadvise=sequential"])
    threads = (1, 4, 16) if case.depth > 1 else (1, 16)  # 16 is nbdkit's default
    return [Setup(" ".join([f"threads={count}", *plugin]), {"ioengine": "nbd", "size": target.size},
                  nbdkit.arguments(count, plugin)) for plugin in plugins for count in threads]


def qemu_setups(case: Case, target: Target) -> list[Setup]:
    """How qemu-storage-daemon may serve it. Its native AIO wants O_DIRECT."""
    kinds = ("native", "io_uring", "threads") if target.direct else ("io_uring", "threads")
    return [Setup(f"aio={kind}", {"ioengine": "nbd", "size": target.size}, qemu.arguments(kind, target.direct))
            for kind in kinds]


class Peer(ABC):
    """What the peers have in common: setups are tried, the fastest is run."""

    name: str

    def __init__(self, target: Target, folder: Path) -> None:
        self._target = target
        self._folder = folder
        self._setup: Setup | None = None
        self._overhead = 0.0
        self._serving: str | None = None
        self._ran_as: dict[str, Any] = {}

    def __enter__(self) -> Self:
        self._missing()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None,
                 trace: TracebackType | None) -> None:
        self._end()

    def _missing(self) -> None:
        """Raises NotRun when a program is not installed."""
        if shutil.which("fio") is None:
            raise NotRun("fio is not installed (apt-get install fio)")

    @abstractmethod
    def _setups(self, case: Case) -> list[Setup]:
        """Every way to run it."""

    def _begin(self, setup: Setup) -> fio.Options:
        """Serve with `setup`, and return fio's options."""
        return setup.job

    def _end(self) -> None:
        """Serve no more."""

    def prepare(self, case: Case, seconds: float) -> dict[str, Any]:
        """See System."""
        tried: dict[str, float | str] = {}
        best: tuple[float, Setup] | None = None
        for setup in self._setups(case):
            self._setup = setup
            try:
                iops = max(self._try(case, seconds) for _ in range(_TRIES))
            except (fio.FioError, nbd_server.NbdServerError) as error:
                tried[setup.name] = str(error)
                continue
            tried[setup.name] = round(iops)
            if best is None or iops > best[0]:
                best = iops, setup
        if best is None:
            raise NotRun("; ".join(f"{name}: {reason}" for name, reason in tried.items()))
        self._setup = best[1]
        self._overhead = self._start_and_end(case, best[1])
        return {"setup": best[1].name, "tried_iops": tried}

    def _start_and_end(self, case: Case, setup: Setup) -> float:
        """CPU seconds that fio takes to start and end: those of the same job with a single I/O."""
        options = self._begin(setup)
        try:
            return fio.run(fio.job(case, **options, number_ios=1), self._folder).cpu_seconds
        finally:
            self._end()

    def _try(self, case: Case, seconds: float) -> float:
        iops = self.run(case, seconds).iops
        self._check_fair()
        return iops

    def _check_fair(self) -> None:
        """Raises FioError or NbdServerError when the last run was something else than what is measured."""

    def run(self, case: Case, seconds: float) -> Measurement:
        """See System."""
        assert self._setup is not None
        options = self._begin(self._setup)
        job = fio.timed(fio.job(case, **options), seconds)
        self._ran_as = {"fio_job": fio.job_text(job), "server": self._serving}
        try:
            before = self._server_seconds()
            result = fio.run(job, self._folder, seconds)
            used = self._server_seconds() - before
            self._ran(case, result)
            return fio.measurement(result, used, self._overhead)
        finally:
            self._end()

    def ran_as(self) -> dict[str, Any]:
        """See System: the file that fio was given, and the server's command line."""
        return self._ran_as

    def _server_seconds(self) -> float:
        """CPU seconds of the other side so far."""
        return 0.0

    def _ran(self, case: Case, result: fio.FioResult) -> None:
        """A run has ended; the server is still there."""


class Raw(Peer):
    """fio on the file itself."""

    name = "raw"

    def _setups(self, case: Case) -> list[Setup]:
        return raw_setups(case, self._target)


class NbdPeer(Peer):
    """An NBD server and fio. A server lives for one run: it costs nothing while others are measured."""

    program: str
    package: str

    def __init__(self, target: Target, folder: Path) -> None:
        super().__init__(target, folder)
        self._stack = ExitStack()
        self._server: nbd_server.Server | None = None
        self._from_disk: float | None = None

    def _missing(self) -> None:
        super()._missing()
        if shutil.which(self.program) is None:
            raise NotRun(f"{self.program} is not installed (apt-get install {self.package})")
        if not fio.has_engine("nbd"):
            raise NotRun("this fio was built without its nbd engine")

    @abstractmethod
    def _command(self, setup: Setup, place: nbd_server.Place) -> list[str]:
        """The server's whole command line."""

    def _begin(self, setup: Setup) -> fio.Options:
        place = nbd_server.Place(self._folder)
        command = self._command(setup, place)
        self._serving = shlex.join(command)
        self._server = self._stack.enter_context(nbd_server.serving(command, place))
        return {**setup.job, "uri": self._server.uri}

    def _ran(self, case: Case, result: fio.FioResult) -> None:
        # The server is new for each run, so the disk has been read for this one alone.
        read = storage_bytes_read(self._server.pid) if self._server else None
        looked = self._target.direct and not case.write and read is not None
        share = 1.0 if case.reads is None else case.reads / 100
        self._from_disk = (read or 0) / (result.ios * case.block * share) if looked and share else None

    def _check_fair(self) -> None:
        if self._from_disk is not None and self._from_disk < _LEAST_FROM_DISK:
            raise nbd_server.NbdServerError(f"{1 - self._from_disk:.0%} of what was read came from memory, not from the disk")

    def _end(self) -> None:
        self._server = None
        self._stack.close()

    def _server_seconds(self) -> float:
        return process_cpu_ns(self._server.pid) / 1e9 if self._server else 0.0


class Nbdkit(NbdPeer):
    """nbdkit's file plugin."""

    name = program = package = "nbdkit"

    def _setups(self, case: Case) -> list[Setup]:
        return nbdkit_setups(case, self._target)

    def _command(self, setup: Setup, place: nbd_server.Place) -> list[str]:
        return nbdkit.command(setup.server, self._target, place)


class QemuStorageDaemon(NbdPeer):
    """qemu-storage-daemon's NBD export."""

    name = program = qemu.PROGRAM
    package = qemu.PACKAGE

    def _setups(self, case: Case) -> list[Setup]:
        return qemu_setups(case, self._target)

    def _command(self, setup: Setup, place: nbd_server.Place) -> list[str]:
        return qemu.command(setup.server, self._target, place)
