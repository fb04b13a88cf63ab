"""A signal may come between any two lines of the frontend: it ends the I/O, and close() still gives everything back."""

from __future__ import annotations

import sys
import threading
from array import array
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from types import FrameType

import pytest

import xenpv_frontend
from tests.e2e.test_disk import World, bare, world  # noqa: F401
from tests.support.emulated import counts
from xenpv.wire.blkif import Op
from xenpv_frontend.disk import Disk

OURS = (str(Path(xenpv_frontend.__file__).parent), threading.__file__)


class Interrupt:
    """Raises KeyboardInterrupt at the `after`-th place where CPython would call a signal's handler in this thread.

    Those are the starts of Python functions and the ends of C functions; loops are the third, which no profiler sees.
    """

    def __init__(self, after: int) -> None:
        self._left = after
        self.struck = False

    def __enter__(self) -> Interrupt:
        sys.setprofile(self._event)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)

    def _event(self, frame: FrameType, event: str, _: object) -> None:
        if event in ("call", "c_return") and frame.f_code.co_filename.startswith(OURS):
            self._left -= 1
            if self._left < 0:
                sys.setprofile(None)
                self.struck = True
                raise KeyboardInterrupt


def read_small(disk: Disk) -> None:
    disk.read(0, 65536)


def read_large(disk: Disk) -> None:
    disk.read(0, 512 * 1024)


def write(disk: Disk) -> None:
    disk.write(0, bytes(256 * 1024))


def flush(disk: Disk) -> None:
    disk.flush()


def chunks(disk: Disk) -> None:
    with closing(disk.chunks(65536, length=256 * 1024)) as parts:  # type: ignore[type-var]
        for _ in parts:
            pass


def batch(disk: Disk) -> None:
    with disk.batch(4) as lot:
        lot.exchange(Op.READ, array("Q", range(0, 32, 8)), at_least=4)


def left(world: World) -> dict[str, int]:  # noqa: F811
    """What the guest holds. Segments without grants in them are the domain's to keep for the next."""
    held = counts(world.run, world.guest.domid)
    held.pop("segments")
    return held


@pytest.mark.parametrize("step", [17, pytest.param(1, marks=pytest.mark.stress)])
@pytest.mark.parametrize("queues", [1, 3])
@pytest.mark.parametrize("work", [read_small, read_large, write, flush, chunks, batch])
def test_an_interrupt_anywhere_leaves_nothing(
        world: World, work: Callable[[Disk], None], queues: int, step: int,  # noqa: F811
        until: Callable[..., None]) -> None:
    world.attach()
    before = left(world)
    after, struck = 0, True
    while struck:
        interrupt = Interrupt(after)
        try:
            with Disk.open(world.guest, spin_ns=0, queues=queues) as disk, interrupt:
                work(disk)
        except KeyboardInterrupt as error:
            assert not hasattr(error, "__notes__"), (after, error.__notes__)
        struck = interrupt.struck
        after += step
    assert after > 2 * step
    until(lambda: left(world) == before, f"what the disks had is given back: {before} {left(world)}")
