"""Running an NBD server on a Unix socket, whichever it is: the start is awaited, the end is certain."""

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

_START_SECONDS = 10.0


class NbdServerError(XenpvError):
    """A server could not do it. The text is one line, its own where there is one."""


@dataclass(frozen=True)
class Server:
    """A running one."""

    pid: int
    socket: Path

    @property
    def uri(self) -> str:
        """NBD URI, as fio's nbd engine takes it; the export's name is empty."""
        return f"nbd+unix:///?socket={self.socket}"


@dataclass(frozen=True)
class Place:
    """Where a server is to be."""

    folder: Path

    @property
    def socket(self) -> Path:
        return self.folder / "nbd"

    @property
    def pid_file(self) -> Path:
        """The server writes it once it accepts connections (nbdkit(1), qemu-storage-daemon(1), --pidfile)."""
        return self.folder / "nbd.pid"

    @property
    def log(self) -> Path:
        return self.folder / "nbd.log"


@contextmanager
def serving(command: Sequence[str], place: Place) -> Iterator[Server]:
    """`command`, until the end of the block. Raises NbdServerError."""
    for left in (place.socket, place.pid_file):
        left.unlink(missing_ok=True)
    with open(place.log, "wb") as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    try:
        _wait(process, command[0], place)
        yield Server(process.pid, place.socket)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(_START_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait(process: subprocess.Popen[bytes], name: str, place: Place) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while not place.pid_file.exists():
        if process.poll() is not None:
            lines = place.log.read_text(errors="replace").strip().splitlines()
            raise NbdServerError(lines[0] if lines else f"{name} ended with status {process.returncode}")
        if time.monotonic() > deadline:
            raise NbdServerError(f"{name} does not start")
        select.select([], [], [], 0.01)
