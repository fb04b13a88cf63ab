"""A signal may come between any two lines of the frontend: it ends the I/O, and close() still gives everything back."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

import xenpv
import xenpv_frontend
from tests.e2e.test_disk import World, bare, world  # noqa: F401
from tests.support.emulated import counts
from tests.support.interrupt import Interrupt, returns
from xenpv.hypervisors import open_domain
from xenpv.wire.blkif import Op
from xenpv_frontend.disk import Disk

FRONTEND = str(Path(xenpv_frontend.__file__).parent)
BOTH = (FRONTEND, str(Path(xenpv.__file__).parent))


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
        interrupt = Interrupt(after, [FRONTEND])
        try:
            with Disk.open(world.guest, spin_ns=0, queues=queues) as disk, interrupt:
                work(disk)
        except KeyboardInterrupt as error:
            assert not hasattr(error, "__notes__"), (after, error.__notes__)
        struck = interrupt.struck
        after += step
    assert after > 2 * step
    until(lambda: left(world) == before, f"what the disks had is given back: {before} {left(world)}")


@pytest.mark.parametrize("step", [11, pytest.param(1, marks=pytest.mark.stress)])
def test_an_interrupt_while_it_opens_leaves_nothing(world: World, step: int, until: Callable[..., None]) -> None:  # noqa: F811
    world.attach()
    before = left(world)
    uri = f"emulated:{world.run / 'domain' / str(world.guest.domid)}"
    after, struck = 0, True
    while struck:
        interrupt = Interrupt(after, BOTH)

        def work() -> None:
            try:
                with open_domain(uri) as domain, interrupt:
                    Disk.open(domain, spin_ns=0, pool_bytes=65536).close()
            except KeyboardInterrupt:
                pass

        returns(work)
        struck = interrupt.struck
        after += step
    assert after > 20 * step
    until(lambda: left(world) == before, f"what the disks had is given back: {before} {left(world)}")
