"""Running nbdkit's file plugin on a Unix socket."""

from __future__ import annotations

import select
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from xenpv.errors import XenpvError

from .files import Target

_START_SECONDS = 10.0


class NbdkitError(XenpvError):
    """nbdkit could not do it. The text is one line, its own where there is one."""


@dataclass(frozen=True)
class Server:
    """A running nbdkit."""

    pid: int
    socket: Path

    @property
    def uri(self) -> str:
        """NBD URI, as fio's nbd engine takes it."""
        return f"nbd+unix:///?socket={self.socket}"


def arguments(threads: int, plugin: Sequence[str]) -> list[str]:
    """The command line, but for socket and file."""
    return ["nbdkit", "--foreground", "--exit-with-parent", "--threads", str(threads), "file", *plugin]


@contextmanager
def serving(target: Target, command: Sequence[str], folder: Path) -> Iterator[Server]:
    """nbdkit with `command` (see arguments) on `target`, until the end of the block. Raises NbdkitError."""
    socket, ready, log = folder / "nbd", folder / "nbd.pid", folder / "nbd.log"
    for left in (socket, ready):
        left.unlink(missing_ok=True)
    with open(log, "wb") as output:
        process = subprocess.Popen([*command, f"file={target.path}", "--unix", str(socket), "--pidfile", str(ready)],
                                   stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    try:
        _wait(process, ready, log)
        yield Server(process.pid, socket)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(_START_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait(process: subprocess.Popen[bytes], ready: Path, log: Path) -> None:
    """nbdkit writes its pid file once it accepts connections (nbdkit(1), --pidfile)."""
    deadline = time.monotonic() + _START_SECONDS
    while not ready.exists():
        if process.poll() is not None:
            lines = log.read_text(errors="replace").strip().splitlines()
            raise NbdkitError(lines[0] if lines else f"nbdkit ended with status {process.returncode}")
        if time.monotonic() > deadline:
            raise NbdkitError("nbdkit does not start")
        select.select([], [], [], 0.01)
