"""Storage of installed distributions, served by a backend in a process of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.backend_process import ROOT, BackendProcess
from tests.support.plug_ins import install, install_example
from tests.support.raw_frontend import RawFrontend, wait_state
from tests.support.world import World, new_world
from xenpv.errors import DeviceError
from xenpv.wire.blkif import Op
from xenpv.xenbus import XenbusState
from xenpv_backend.control import request

OTHER = 51728

FAILS = '''
import sys
from xenpv_backend.storage import SimpleStorage, StorageFacts

def raises(opening):
    raise RuntimeError("no licence for this machine:\\n  ask its vendor")

def exits(opening):
    sys.exit("no licence")

class Silent(SimpleStorage):
    name, facts = "silent", StorageFacts(2048, False)
    def read(self, offset, data): data[:] = b"s" * len(data)
    def refresh(self): raise RuntimeError("say nothing of my size")
    def describe(self): raise RuntimeError("say nothing of me")

def silent(opening): return Silent()
'''
POINTS = """
[xenpv.storage]
raises = plugin_fails:raises
exits = plugin_fails:exits
silent = plugin_fails:silent
missing = plugin_not_there:opens
"""


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with new_world(tmp_path, b"image..." * 8192) as made:
        yield made


@pytest.fixture
def backend(world: World, tmp_path: Path) -> Iterator[BackendProcess]:
    site = tmp_path / "site"
    site.mkdir()
    install_example(site)
    install(site, "plugin_fails", FAILS, POINTS)
    with BackendProcess(world.run, PYTHONPATH=f"{ROOT}:{site}") as backend:
        yield backend


def works(world: World) -> None:
    """The image is attached and read."""
    with RawFrontend(world.guest, world.attach()) as frontend:
        assert frontend.io(Op.READ, 0, 4096) == (0, b"image..." * 512)


@pytest.mark.parametrize("target", ["sparse,block=8192:1048576", "invert:sparse:1048576", "log:invert:sparse:1048576"])
def test_data_goes_through_a_plug_in(world: World, backend: BackendProcess, target: str) -> None:
    with RawFrontend(world.guest, world.attach(target), queues=2) as frontend:
        for n in range(16):
            frontend.submit(Op.WRITE, 8 * n, bytes([n + 1]) * 4096, page=n, cookie=n, queue=n % 2)
        assert frontend.reap_all() == {n: 0 for n in range(16)}
        assert frontend.io(Op.FLUSH_DISKCACHE, 0, 0)[0] == 0
        for n in range(16):
            assert frontend.io(Op.READ, 8 * n, 4096, queue=n % 2) == (0, bytes([n + 1]) * 4096)
        shown, = request(world.run, "list")["devices"]
        assert (shown["storage"]["name"], shown["storage"]["size"], shown["engine"]) == ("sparse:1048576", 1 << 20, "python")


@pytest.mark.parametrize(("word", "words"), [
    ("raises", "raises: RuntimeError: no licence for this machine: ask its vendor"),
    ("exits", "exits: SystemExit: no licence"),
    ("missing", "missing: ModuleNotFoundError: No module named 'plugin_not_there'"),
])
def test_a_plug_in_that_does_not_open_costs_its_own_disk(world: World, backend: BackendProcess, word: str, words: str) -> None:
    place = world.attach(f"{word}:x", devid=OTHER)
    wait_state(world.dom0.store, place.backend, XenbusState.CLOSED)
    error = place.backend.replace("/backend/", "/error/backend/") + "/error"
    assert world.dom0.store.read(error).decode() == words
    works(world)
    status, log = backend.end()
    assert status == 0
    complaints = [line for line in log.splitlines() if "error" in line]
    assert complaints == [f"xenpv backend: error: domid {world.guest.domid} devid {OTHER}: {words}; the connection ends"]
    assert all(line.startswith("xenpv backend: ") for line in log.splitlines()), log


def test_a_plug_in_that_fails_when_it_is_asked_for_more(world: World, backend: BackendProcess) -> None:
    """Its disk is served and shown, and the others' are."""
    with RawFrontend(world.guest, world.attach("silent:", devid=OTHER)) as frontend:
        assert frontend.io(Op.READ, 0, 512) == (0, b"s" * 512)
        with pytest.raises(DeviceError, match="^silent: RuntimeError: say nothing of my size$"):
            request(world.run, "resize", domid=world.guest.domid, devid=OTHER)
        shown, = request(world.run, "list")["devices"]
        assert shown["storage"]["layers"] == {"degraded": "silent: RuntimeError: say nothing of me"}
        works(world)
        assert frontend.io(Op.READ, 0, 512)[0] == 0
