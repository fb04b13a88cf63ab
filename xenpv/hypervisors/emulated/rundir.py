"""Where the emulated Xen is: its run directory, and what an ``emulated:`` URI means.

    RUN/lock                    held by the host process while it lives; its pid is inside
    RUN/control                 the host's control socket, for the owner alone
    RUN/host.log                what a host in the background had to say
    RUN/domain/N/xen            calls of domain N (core/emulated.h)
    RUN/domain/N/xenstored      the store, as domain N sees it
    RUN/domain/N/console.log    what the process of domain N wrote

A domain is given its own directory, RUN/domain/N, and needs nothing else.

RULES
- RUN belongs to its user, and nobody else enters it (0700): whoever opens a socket is who the socket says.
- The lock says whether a host lives. Sockets without one are left over, and the next host removes them.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
from pathlib import Path

from xenpv.errors import HypervisorError, UsageError

SOCKET_PATH_MAX = 107
"""Bytes in the name of a Unix socket, at most (unix(7), without the final NUL)."""


def default_directory() -> Path:
    """$XENPV_RUNDIR, else /run/xenpv as root, else $XDG_RUNTIME_DIR/xenpv. Raises UsageError without any of them."""
    chosen = os.environ.get("XENPV_RUNDIR")
    if chosen:
        return Path(chosen)
    if os.geteuid() == 0:
        return Path("/run/xenpv")
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime:
        return Path(runtime) / "xenpv"
    raise UsageError("no run directory: set XENPV_RUNDIR (or XDG_RUNTIME_DIR) to a directory of your own")


class RunDirectory:
    """The names in a run directory. Nothing is made before `create`."""

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        self.path = Path(default_directory() if path is None else path).absolute()
        self.control = self.path / "control"
        self.lock = self.path / "lock"
        self.log = self.path / "host.log"
        self.domains = self.path / "domain"
        longest = os.fsencode(self.domain(FIRST_LONG) / "xenstored")
        if len(longest) > SOCKET_PATH_MAX:
            raise UsageError(f"the run directory's name is {len(longest) - SOCKET_PATH_MAX} bytes too long for sockets "
                             f"in it: set XENPV_RUNDIR to a shorter one than {self.path}")

    def domain(self, domid: int) -> Path:
        """The directory of a domain."""
        return self.domains / str(domid)

    def create(self) -> None:
        """Make RUN, or accept it when it is ours alone. Raises HypervisorError."""
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            found = self.path.stat()
        except OSError as error:
            raise HypervisorError(f"cannot make the run directory {self.path}: {error.strerror}") from error
        if found.st_uid != os.geteuid():
            raise HypervisorError(f"the run directory {self.path} belongs to user {found.st_uid}: set XENPV_RUNDIR to "
                                  "one of your own")
        if stat.S_IMODE(found.st_mode) & 0o077:
            raise HypervisorError(f"the run directory {self.path} is open to others: chmod 700 {self.path}")

    def clean(self) -> None:
        """Remove what a host made in RUN, and RUN if nothing else is in it. For the holder of the lock."""
        shutil.rmtree(self.domains, ignore_errors=True)
        for path in (self.control, self.log):
            path.unlink(missing_ok=True)


FIRST_LONG = 32751
"""A domid with as many digits as there can be."""


class Lock:
    """RUN/lock, held. Raises HypervisorError naming the pid of the host that has it."""

    def __init__(self, run: RunDirectory) -> None:
        self._run = run
        while True:
            try:
                self._fd = os.open(run.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            except OSError as error:
                raise HypervisorError(f"cannot open {run.lock}: {error.strerror}") from error
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                pid = os.pread(self._fd, 32, 0).decode("ascii", "replace").strip() or "unknown"
                os.close(self._fd)
                raise HypervisorError(f"an emulated Xen runs in {run.path} already (pid {pid}): use it, end it with "
                                      "`xenpv emu down`, or set XENPV_RUNDIR") from error
            if self._is_the_file():
                break
            os.close(self._fd)  # its last holder removed it between our open and our lock
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)

    def _is_the_file(self) -> bool:
        try:
            return os.path.samestat(os.fstat(self._fd), os.stat(self._run.lock))
        except FileNotFoundError:
            return False

    def release(self) -> None:
        """Remove the lock, and RUN when it is empty."""
        self._run.lock.unlink(missing_ok=True)
        try:
            self._run.path.rmdir()
        except OSError:
            pass  # somebody else's files are in it: it stays
        os.close(self._fd)


def domain_directory(uri: str) -> Path:
    """The domain's directory that an ``emulated:`` URI names. Raises UsageError and HypervisorError."""
    scheme, colon, rest = uri.partition(":")
    if scheme != "emulated" or not colon:
        raise UsageError(f"{uri!r} is no emulated:DIRECTORY")
    name, mark, number = rest.rpartition("#")
    if not mark:
        name, number = rest, "0"
    if not number.isascii() or not number.isdigit():
        raise UsageError(f"{uri}: {number!r} is no domain number")
    path = Path(name).absolute() if name else default_directory()
    if not mark and (path / "xen").exists():
        return path
    directory = RunDirectory(path).domain(int(number))
    if (directory / "xen").exists():
        return directory
    if (path / "control").exists():
        raise HypervisorError(f"there is no domain {int(number)} in {path}: `xenpv list` shows those that are")
    raise HypervisorError(f"no emulated Xen runs in {path}: start it with `xenpv emu up`")
