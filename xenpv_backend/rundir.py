"""The backend's files: RUN/backend.

    lock                            held by the backend while it lives; its pid is inside
    control                         the control socket
    <domid>-<devid>-<queue>.stats   a queue's counters, for anybody of the same user to read (xenpv/stats.py)
    <domid>-<devid>-<queue>.latency how long a queue's requests took, where they are measured (xenpv/latency)
    <domid>-<devid>-<queue>.journal a queue's unanswered requests (core/journal.h)

RULES
- The directory is its user's alone (0700), and so is what is in it (0600).
- A queue's files go when its ring is let go, and stay over a crash or a restart: the successor needs them.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import re
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from xenpv.closing import Closing
from xenpv.errors import StorageError, UsageError
from xenpv.latency import BACKEND_SUFFIX
from xenpv.stats import PAGE_BYTES
from xenpv.xenbus import VbdPlace

SOCKET_PATH_MAX = 107
"""Bytes in the name of a Unix socket, at most (unix(7), without the final NUL)."""

_FILE = re.compile(r"([0-9]{1,5})-([0-9]{1,10})-([0-9]{1,3})\.(stats|latency|journal)", re.ASCII)


class MappedFile:
    """A file of `size` bytes, mapped. `fresh`: zero, whatever was there before. Raises StorageError.

    `found`: the bytes are those that were there before.
    """

    def __init__(self, path: Path, size: int, *, fresh: bool) -> None:
        self.path = path
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                self.found = not fresh and os.fstat(fd).st_size == size
                if not self.found:
                    os.ftruncate(fd, 0)
                    # Given its memory now: a full tmpfs is an error here, and a fatal signal in the core.
                    os.posix_fallocate(fd, 0, size)
                self._map = mmap.mmap(fd, size)
            finally:
                os.close(fd)
        except OSError as error:
            raise StorageError(f"cannot make {path}: {error.strerror}") from error
        self.memory = memoryview(self._map)

    def close(self, *, keep: bool) -> None:
        """Unmap, and remove the file unless `keep`."""
        self.memory.release()
        self._map.close()
        if not keep:
            self.path.unlink(missing_ok=True)


class BackendDirectory(Closing):
    """RUN/backend, locked. Raises UsageError when another backend has it or it is not ours."""

    def __init__(self, rundir: str | os.PathLike[str]) -> None:
        self.path = Path(rundir).absolute() / "backend"
        self.control = self.path / "control"
        if len(os.fsencode(self.control)) > SOCKET_PATH_MAX:
            raise UsageError(f"{self.control} is too long a name for a socket: set XENPV_RUNDIR to a shorter one")
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            found = self.path.lstat()
            if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o077:
                raise UsageError(f"{self.path} is not a directory of ours alone (0700): set XENPV_RUNDIR to one that "
                                 "is")
            self._lock = self._take_lock()
        except OSError as error:
            raise UsageError(f"cannot use {self.path}: {error.strerror}; set XENPV_RUNDIR") from error

    def _take_lock(self) -> int:
        path = self.path / "lock"
        while True:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.path.samestat(os.fstat(fd), os.stat(path)):
                    os.ftruncate(fd, 0)
                    os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
                    return fd
            except BlockingIOError as error:
                pid = os.pread(fd, 32, 0).decode("ascii", "replace").strip() or "unknown"
                os.close(fd)
                raise UsageError(f"a backend runs in {self.path} already (pid {pid}): end it, or set XENPV_RUNDIR"
                                 ) from error
            except FileNotFoundError:
                pass  # its last holder removed it between our open and our lock
            except OSError:
                os.close(fd)
                raise
            os.close(fd)

    def file(self, place: VbdPlace, queue: int, kind: str) -> Path:
        """The name of a queue's file; `kind` is ``stats``, ``latency`` or ``journal``."""
        return self.path / f"{place.frontend_domid}-{place.devid}-{queue}.{kind}"

    def open_stats(self, place: VbdPlace, queue: int, *, fresh: bool) -> MappedFile:
        return MappedFile(self.file(place, queue, "stats"), PAGE_BYTES, fresh=fresh)

    def open_latency(self, place: VbdPlace, queue: int, size: int, *, fresh: bool) -> MappedFile:
        return MappedFile(self.file(place, queue, BACKEND_SUFFIX), size, fresh=fresh)

    def open_journal(self, place: VbdPlace, queue: int, size: int, *, fresh: bool) -> MappedFile:
        return MappedFile(self.file(place, queue, "journal"), size, fresh=fresh)

    def _files(self) -> Iterator[tuple[tuple[int, int], Path]]:
        for name in sorted(os.listdir(self.path)):
            if found := _FILE.fullmatch(name):
                yield (int(found[1]), int(found[2])), self.path / name

    def remove(self, place: VbdPlace) -> None:
        """Remove every file of the vbd."""
        for owner, path in self._files():
            if owner == (place.frontend_domid, place.devid):
                path.unlink(missing_ok=True)

    def remove_stale(self, living: Iterable[VbdPlace]) -> list[str]:
        """Remove the files of every vbd that is not among `living`. Returns their names."""
        keep = {(place.frontend_domid, place.devid) for place in living}
        stale = [path for owner, path in self._files() if owner not in keep]
        for path in stale:
            path.unlink(missing_ok=True)
        return [path.name for path in stale]

    def close(self) -> None:
        """Let go of it. The directory stays while a queue's files are in it."""
        if self._lock < 0:
            return
        self.control.unlink(missing_ok=True)
        (self.path / "lock").unlink(missing_ok=True)
        try:
            self.path.rmdir()
        except OSError:
            pass  # files for a successor are in it
        os.close(self._lock)
        self._lock = -1
