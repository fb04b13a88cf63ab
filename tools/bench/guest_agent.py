"""`xenpv bench --agent`: in a guest, runs fio on the disks that `xenpv bench --guest` in dom0 names, and says what it found.

RULES
- Only a disk that nobody in the guest uses is written to, or read.
- An agent that ends takes its nodes away: dom0 asks nobody who is not there. A run that fails does not end it.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from xenpv.domain import Store, Watch
from xenpv.errors import NoEntryError, StorageError, XenpvError

from . import fio
from .cases import Case
from .files import work_directory
from .guest_line import NODE, NOT_INSTALLED, Ask, Machine, encode_answer
from .machine import program_version


def guest_job(case: Case, vdev: str) -> fio.Options:
    """The job of a case on a disk of the guest."""
    return fio.job(case, ioengine="io_uring", direct=1, filename=f"/dev/{vdev}")


def check_free(device: Path) -> None:
    """Raises StorageError for what is no block device, or is in use: mounted, swap, or a part of another device."""
    try:
        fd = os.open(device, os.O_RDONLY | os.O_EXCL | os.O_CLOEXEC)
        try:
            if not stat.S_ISBLK(os.fstat(fd).st_mode):
                raise StorageError(f"{device} is no block device")
        finally:
            os.close(fd)
    except OSError as error:
        reason = "it is in use: unmount it" if error.errno == errno.EBUSY else os.strerror(error.errno or 0)
        raise StorageError(f"cannot measure on {device}: {reason}") from error


def describe() -> Machine:
    """This guest."""
    return Machine(os.cpu_count() or 1, os.uname().release, program_version("fio") or NOT_INSTALLED)


def serve(store: Store, say: Callable[[str], None], run: Callable[[Ask], fio.FioResult] | None = None,
          about: Machine | None = None) -> None:
    """Answers until it is interrupted, or somebody removes the question's node. `say` is told each line of it.

    `run` runs one question; None: by fio. `about`: what dom0 is told of this guest; None: what describe() finds.
    """
    try:
        store.write(f"{NODE}/ask", "")
        store.write(f"{NODE}/answer", "")
        with store.watch(f"{NODE}/ask") as watch:
            store.write(f"{NODE}/about", (about or describe()).encode())
            say("serving")
            _answer_all(store, watch, run or run_fio, say)
    finally:
        with suppress(NoEntryError):  # somebody removed them all
            store.remove(NODE)


def _answer_all(store: Store, watch: Watch, run: Callable[[Ask], fio.FioResult], say: Callable[[str], None]) -> None:
    done = None
    while watch.wait() is not None:
        try:
            raw = store.read(f"{NODE}/ask")
        except NoEntryError:
            return
        if not raw:
            continue
        try:
            ask = Ask.decode(raw)
        except XenpvError as error:
            say(str(error))
            continue
        if ask.number == done:
            continue
        done = ask.number
        store.write(f"{NODE}/answer", _answer(ask, run, say))


def _answer(ask: Ask, run: Callable[[Ask], fio.FioResult], say: Callable[[str], None]) -> str:
    try:
        found = run(ask)
    except (XenpvError, OSError) as error:
        say(f"{ask.case.name} on {ask.vdev}: {error}")
        return encode_answer(ask.number, str(error))
    say(f"{ask.case.name} on {ask.vdev}: {found.iops:,.0f} IOPS")
    return encode_answer(ask.number, found)


def run_fio(ask: Ask) -> fio.FioResult:
    """Raises StorageError, FioError."""
    check_free(Path("/dev", ask.vdev))
    with work_directory() as folder:
        return fio.run(fio.timed(guest_job(ask.case, ask.vdev), ask.seconds), folder, ask.seconds)
