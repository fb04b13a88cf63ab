"""NBD servers as processes of a test, which may be killed, stopped and started again."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.stopped import stopped

Until = Callable[..., None]


class NbdServer:
    """A server on the Unix socket `path`; `argv` has ``{}`` where that name goes. `uri` is its default export."""

    def __init__(self, path: Path, argv: list[str], until: Until) -> None:
        self.path = path
        self.uri = f"nbd+unix:///?socket={path}"
        self._argv = [word.replace("{}", str(path)) for word in argv]
        self._until = until
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self, *more: str) -> None:
        """Start it, with `more` arguments, and return when it listens."""
        self.path.unlink(missing_ok=True)
        self._process = subprocess.Popen([*self._argv, *more], stdin=subprocess.DEVNULL)
        self._until(self._listens, "the NBD server listens")

    def _listens(self) -> bool:
        assert self._process is not None and self._process.poll() is None, "the NBD server ended"
        with socket.socket(socket.AF_UNIX) as sock, suppress(OSError):
            sock.connect(str(self.path))
            return True
        return False

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def stopped(self) -> AbstractContextManager[None]:
        """It takes connections, and does nothing else until the end of the block."""
        assert self._process is not None
        return stopped(self._process)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.kill()


def nbdkit(requires: Callable[[str], str], folder: Path, until: Until, *words: str) -> NbdServer:
    """nbdkit with a plugin, filters and parameters in `words`."""
    return NbdServer(folder / "nbdkit.sock", [requires("nbdkit"), "-f", "-U", "{}", *words], until)


def qemu_nbd(requires: Callable[[str], str], folder: Path, until: Until, *words: str) -> NbdServer:
    """qemu-nbd, for as many clients as come."""
    return NbdServer(folder / "qemu.sock", [requires("qemu-nbd"), "-t", "-e", "16", "-k", "{}", *words], until)


def qemu_storage_daemon(requires: Callable[[str], str], folder: Path, until: Until, image: Path) -> NbdServer:
    """qemu-storage-daemon, with a raw image as its default export."""
    return NbdServer(folder / "qsd.sock", [
        requires("qemu-storage-daemon"), "--blockdev", f"driver=file,node-name=disk,filename={image},discard=unmap",
        "--nbd-server", "addr.type=unix,addr.path={},max-connections=16",
        "--export", "type=nbd,id=export,node-name=disk,name=,writable=on"], until)
