"""Storages in Python and filters behind a vbd, over the ring."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.raw_frontend import RawFrontend
from tests.support.served import SIZE, Served, served
from tests.support.world import new_world, serving
from xenpv.wire.blkif import Op
from xenpv.xenbus import XenbusState
from xenpv_frontend.disk import Disk


@pytest.fixture
def world(tmp_path: Path) -> Iterator[Served]:
    with served(tmp_path) as world:
        yield world


@pytest.mark.parametrize("filters", ["log:", "overlay:", "throttle,iops=100000:", "fault,delay=1ms:",
                                     "log:overlay:throttle,bps=1G:"])
def test_many_in_flight_in_several_queues(world: Served, filters: str) -> None:
    with RawFrontend(world.guest, world.attach(params=f"{filters}{world.image}"), queues=3) as frontend:
        for number in range(60):
            frontend.submit(Op.WRITE, 8 * number, bytes([number]) * 4096, page=number, cookie=number, queue=number % 3)
        assert frontend.reap_all() == {number: 0 for number in range(60)}
        assert frontend.io(Op.FLUSH_DISKCACHE, 0, 0)[0] == 0
        for number in (0, 31, 59):
            assert frontend.io(Op.READ, 8 * number, 4096) == (0, bytes([number]) * 4096)


def test_requests_overtake_one_that_is_delayed(world: Served) -> None:
    target = f"fault,delay=2s,sectors=0-7:{world.image}"
    with RawFrontend(world.guest, world.attach(params=target)) as frontend:
        frontend.submit(Op.READ, 0, 4096, page=0, cookie=0)
        for number in range(1, 9):
            frontend.submit(Op.READ, 8 * number, 4096, page=number, cookie=number)
        assert set(frontend.reap(8)) == set(range(1, 9))
        assert frontend.reap(1) == {0: 0}


def test_a_disk_that_is_let_go_does_not_wait_for_its_throttle(world: Served) -> None:
    """30 requests at one a second, and the disk closes within the frontend's patience, which is less."""
    place = world.attach(params=f"throttle,iops=1,burst=1ms:{world.image}")
    frontend = RawFrontend(world.guest, place)
    for number in range(30):
        frontend.submit(Op.READ, 8 * number, 4096, page=number, cookie=number)
    frontend.state(XenbusState.CLOSING)
    frontend.wait_backend(XenbusState.CLOSING, XenbusState.CLOSED)
    assert frontend.reap(30) == {number: 0 for number in range(30)}
    frontend.close_rings()
    frontend.state(XenbusState.CLOSED)


def test_the_overlay_keeps_the_image(world: Served) -> None:
    before = world.image.read_bytes()
    with RawFrontend(world.guest, world.attach(params=f"overlay,file={world.run}/top:{world.image}")) as frontend:
        assert frontend.io(Op.WRITE, 1, b"x" * 512)[0] == 0
        assert frontend.io(Op.READ, 0, 1024) == (0, before[:512] + b"x" * 512)
    assert world.image.read_bytes() == before


def test_what_filters_say_is_shown(world: Served) -> None:
    with RawFrontend(world.guest, world.attach(params=f"fault,errors=100%,ops=read:{world.image}")) as frontend:
        assert frontend.io(Op.READ, 0, 512)[0] == -1
        shown = world.ask("list")["devices"][0]
    assert shown["storage"]["layers"]["fault"] == {"errors": 1, "torn": 0, "delayed": 0}
    assert shown["engine"] == "python"


def test_a_wrong_target_is_said_in_the_store(world: Served) -> None:
    place = world.attach(params=f"throttle,iops=1,iosp=1:{world.image}")
    frontend = RawFrontend(world.guest, place, connect=False)
    frontend.wait_backend(XenbusState.CLOSED)
    error = place.backend.replace("/backend/", "/error/backend/") + "/error"
    assert world.dom0.store.read(error).startswith(b"throttle: there is no parameter iosp")
    frontend.close_rings()


def test_unsafe_offers_no_flush(world: Served) -> None:
    place = world.attach(params=f"raw,cache=unsafe:{world.image}")
    with RawFrontend(world.guest, place) as frontend:
        assert world.dom0.store.read(f"{place.backend}/feature-flush-cache") == b"0"
        assert frontend.io(Op.FLUSH_DISKCACHE, 0, 0)[0] == -2
        assert frontend.io(Op.WRITE, 0, b"x" * 512)[0] == 0


def test_a_barrier_is_durable(tmp_path: Path) -> None:
    """A frontend that is offered no flush sends a barrier without data: the storage is to flush."""
    log = tmp_path / "log"
    with new_world(tmp_path, bytes(SIZE)) as bare:
        bare.attach(f"fault,delay=10ms,ops=write:log,file={log}:{bare.image}")
        with serving(bare.dom0, bare.run, flush=False), Disk.open(bare.guest) as disk:
            disk.write(0, bytes(4096))
            disk.flush()
            disk.write(8192, bytes(4096))
    story = [line.split()[1] + (" after a flush" if "flush-first" in line else "") for line in log.read_text().splitlines()]
    assert [line for line in story if not line.startswith("read")] == ["write", "flush", "write"]
