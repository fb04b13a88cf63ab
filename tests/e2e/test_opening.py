"""A disk whose server takes the connection and does not answer, be it opened, resized or closed: the others come, work and go
meanwhile.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.nbd import NbdServer, Until, nbdkit
from tests.support.raw_frontend import RawFrontend, wait_state
from tests.support.served import SIZE, Served, served, works
from tests.support.world import new_world, serving
from xenpv.wire.blkif import Op
from xenpv.xenbus import VbdPlace, XenbusState

HANGING = 51728


@pytest.fixture
def server(requires: Callable[[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """Listens at tmp_path/server; whoever waits for its greeting does so until the test ends it."""
    requires("libnbd.so.0")
    monkeypatch.setattr("xenpv_backend.storage.nbd.storage.CONNECT_PATIENCE", 600.0)
    with socket.socket(socket.AF_UNIX) as listens:
        listens.settimeout(30)
        listens.bind(str(tmp_path / "server"))
        listens.listen()
        yield listens


def target(tmp_path: Path) -> str:
    return f"nbd+unix:///?socket={tmp_path / 'server'}"


def wait_gone(world: Served, place: VbdPlace) -> None:
    with world.dom0.store.watch(place.backend) as watch:
        while any(device["devid"] == place.devid for device in world.ask("list")["devices"]):
            watch.wait(0.05)


def test_others_go_on_until_it_says_no(tmp_path: Path, server: socket.socket) -> None:
    with served(tmp_path / "world") as world:
        place = world.attach(target(tmp_path), devid=HANGING)
        connection, _ = server.accept()
        works(world)
        assert world.ask("status")["devices"] >= 1
        assert [disk["opening"] for disk in world.ask("list")["devices"] if disk["devid"] == HANGING] == [True]
        server.close()
        connection.close()
        wait_state(world.dom0.store, place.backend, XenbusState.CLOSED)
        error = place.backend.replace("/backend/", "/error/backend/") + "/error"
        assert b"is it running?" in world.dom0.store.read(error)


def test_it_can_be_taken_away(tmp_path: Path, server: socket.socket) -> None:
    with served(tmp_path / "world") as world:
        place = world.attach(target(tmp_path), devid=HANGING)
        connection, _ = server.accept()
        with connection:
            world.dom0.store.remove(place.backend)
            wait_gone(world, place)
            works(world)
            assert place.devid not in [disk["devid"] for disk in world.ask("list")["devices"]]
        server.close()


def test_a_backend_that_starts_beside_it_serves_the_others(tmp_path: Path, server: socket.socket,
                                                           monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xenpv_backend.daemon.START_PATIENCE", 0.1)
    folder = tmp_path / "world"
    folder.mkdir()
    with new_world(folder, bytes(SIZE)) as bare:
        bare.attach(target(tmp_path), devid=HANGING)
        place = bare.attach()
        with serving(bare.dom0, bare.run), RawFrontend(bare.guest, place) as frontend:
            assert frontend.io(Op.READ, 0, 4096) == (0, bytes(4096))
            server.close()


@pytest.fixture
def hanging(requires: Callable[[str], str], tmp_path: Path, until: Until,
            monkeypatch: pytest.MonkeyPatch) -> Iterator[NbdServer]:
    """A server with an image of the size SIZE, which may be stopped; whoever waits for it does so until it goes on."""
    requires("libnbd.so.0")
    monkeypatch.setattr("xenpv_backend.storage.nbd.storage.CONNECT_PATIENCE", 600.0)
    monkeypatch.setattr("xenpv_backend.storage.nbd.storage.CLOSE_PATIENCE", 600.0)
    (tmp_path / "exported").write_bytes(bytes(SIZE))
    with nbdkit(requires, tmp_path, until, "file", str(tmp_path / "exported")) as server:
        yield server


def test_a_resize_waits_alone(tmp_path: Path, hanging: NbdServer, until: Until) -> None:
    with served(tmp_path / "world") as world, ThreadPoolExecutor(1) as asks:
        with RawFrontend(world.guest, world.attach(hanging.uri, devid=HANGING)) as frontend:
            os.truncate(tmp_path / "exported", 2 * SIZE)
            with hanging.stopped():
                resize = asks.submit(world.ask, "resize", domid=world.guest.domid, devid=HANGING)
                until(lambda: world.ask("list")["devices"][0]["resizing"], "the storage is asked")
                works(world)
                assert not resize.done()
            assert resize.result(30) == {"bytes": 2 * SIZE}
            assert frontend.io(Op.READ, SIZE // 512, 4096) == (0, bytes(4096))


def test_a_close_waits_alone(tmp_path: Path, hanging: NbdServer) -> None:
    with served(tmp_path / "world") as world:
        frontend = RawFrontend(world.guest, world.attach(hanging.uri, devid=HANGING))
        with hanging.stopped():
            frontend.close()
            frontend.wait_backend(XenbusState.CLOSED)
            works(world)
            assert [disk["connected"] for disk in world.ask("list")["devices"] if disk["devid"] == HANGING] == [False]
