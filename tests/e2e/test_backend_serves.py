"""A disk over the emulated Xen, end to end: the backend in a thread, a bare frontend against it."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from tests.support.raw_frontend import DEVID, RawFrontend, wait_state
from tests.support.served import SIZE, Served, served
from xenpv.errors import UsageError
from xenpv.wire.blkif import Op, Protocol
from xenpv.xenbus import XenbusState
from xenpv_backend import device
from xenpv_backend.control import request
from xenpv_backend.daemon import Backend
from xenpv_backend.options import BackendOptions
from xenpv_backend.storage import open_storage
from xenpv_backend.storage.base import StorageRequest
from xenpv_backend.storage.memory import MemoryStorage


@pytest.fixture
def world(tmp_path: Path) -> Iterator[Served]:
    with served(tmp_path) as world:
        yield world


def test_read(world: Served) -> None:
    with RawFrontend(world.guest, world.attach()) as frontend:
        status, data = frontend.io(Op.READ, 3, 8192)
    assert (status, data) == (0, world.image.read_bytes()[1536:1536 + 8192])


@pytest.mark.parametrize("protocol", [Protocol.X86_64, Protocol.X86_32])
@pytest.mark.parametrize("order", [0, 4])
@pytest.mark.parametrize("flag", [False, True])
@pytest.mark.parametrize("persistent", [False, True])
def test_write_flush_read(world: Served, protocol: Protocol, order: int, flag: bool, persistent: bool) -> None:
    data = bytes(range(255, -1, -1)) * 32
    with RawFrontend(world.guest, world.attach(), protocol=protocol, order=order, flag=flag,
                     persistent=persistent) as frontend:
        assert frontend.io(Op.WRITE, 8, data)[0] == 0
        assert frontend.io(Op.FLUSH_DISKCACHE, 0, 0)[0] == 0
        assert frontend.io(Op.READ, 8, len(data)) == (0, data)
    assert world.image.read_bytes()[4096:4096 + len(data)] == data


def test_many_queues(world: Served) -> None:
    with RawFrontend(world.guest, world.attach(), queues=3) as frontend:
        for queue in range(3):
            status, data = frontend.io(Op.READ, 8 * queue, 4096, queue=queue)
            assert (status, data) == (0, world.image.read_bytes()[4096 * queue:4096 * (queue + 1)])


def test_storage_in_python(world: Served) -> None:
    data = b"x" * 4096
    with RawFrontend(world.guest, world.attach(params="memory:65536")) as frontend:
        assert frontend.io(Op.WRITE, 8, data)[0] == 0
        assert frontend.io(Op.READ, 8, 4096) == (0, data)


def test_discard(world: Served) -> None:
    with RawFrontend(world.guest, world.attach()) as frontend:
        if world.dom0.store.read(f"{frontend.place.backend}/feature-discard") != b"1":
            pytest.skip("the file system of the tests' directory punches no holes")
        assert frontend.io(Op.DISCARD, 8, 4096)[0] == 0
        assert frontend.io(Op.READ, 8, 4096) == (0, bytes(4096))


@pytest.mark.parametrize("op,data", [(Op.WRITE, b"x" * 512), (Op.DISCARD, 4096)])
def test_read_only_disk_is_not_written(world: Served, op: Op, data: bytes | int) -> None:
    before = world.image.read_bytes()
    with RawFrontend(world.guest, world.attach(writable=False)) as frontend:
        assert frontend.io(op, 0, data)[0] < 0
        assert world.dom0.store.read(f"{frontend.place.backend}/info") == b"4"
    assert world.image.read_bytes() == before


def test_beyond_the_end_is_refused(world: Served) -> None:
    with RawFrontend(world.guest, world.attach()) as frontend:
        assert frontend.io(Op.READ, SIZE // 512 - 1, 1024)[0] == -1
        assert frontend.io(Op.READ, SIZE // 512 - 1, 512)[0] == 0


def test_close_and_connect_again(world: Served) -> None:
    place = world.attach()
    for _ in range(3):
        with RawFrontend(world.guest, place) as frontend:
            assert frontend.io(Op.READ, 0, 512)[0] == 0
            frontend.close()
            frontend.wait_backend(XenbusState.CLOSED)
            frontend.state(XenbusState.INITIALISING)


def queue_files(world: Served) -> set[str]:
    return {path.name for path in (world.run / "backend").iterdir() if path.suffix in (".stats", ".journal")}


def test_files_stand_while_connected(world: Served, until: Callable[..., None]) -> None:
    place = world.attach()
    with RawFrontend(world.guest, place) as frontend:
        frontend.io(Op.READ, 0, 4096)
        name = f"{place.frontend_domid}-{DEVID}-0"
        assert queue_files(world) == {f"{name}.stats", f"{name}.journal"}
        assert all((world.run / "backend" / file).stat().st_mode & 0o777 == 0o600 for file in queue_files(world))
        frontend.close()
    until(lambda: not queue_files(world), "the files of a closed vbd go")


def test_list_shows_counters(world: Served) -> None:
    with RawFrontend(world.guest, world.attach()) as frontend:
        frontend.io(Op.READ, 0, 4096)
        disk, = world.ask("list")["devices"]
    assert disk["state"] == 4
    assert disk["counters"][0]["requests"]["read"] == 1
    assert disk["notify_flag"] is True


def test_resize_is_told_and_served(world: Served) -> None:
    with RawFrontend(world.guest, world.attach()) as frontend:
        assert frontend.io(Op.READ, SIZE // 512, 512)[0] == -1
        assert world.ask("resize", domid=world.guest.domid, devid=DEVID, bytes=2 * SIZE) == {"bytes": 2 * SIZE}
        assert frontend.io(Op.READ, SIZE // 512, 512) == (0, bytes(512))
        assert world.dom0.store.read(f"{frontend.place.backend}/sectors") == b"%d" % (2 * SIZE // 512)


def test_producer_out_of_bounds_ends_the_connection(world: Served) -> None:
    place, other = world.attach(), world.attach(params="memory:65536", devid=DEVID + 16)
    with RawFrontend(world.guest, other) as good, RawFrontend(world.guest, place) as bad:
        bad.rings[0].memory[0:4] = (1000).to_bytes(4, "little")
        bad.channels[0].notify()
        bad.wait_backend(XenbusState.CLOSED)
        assert good.io(Op.READ, 0, 512)[0] == 0


def test_detach_by_the_toolstack(world: Served) -> None:
    """As libxl does: Closing and online=0 into the backend's node, then Closed is waited for."""
    place = world.attach()
    with RawFrontend(world.guest, place) as frontend:
        world.dom0.store.write_all({f"{place.backend}/online": "0", f"{place.backend}/state": "5"})
        frontend.close()
        frontend.wait_backend(XenbusState.CLOSED)


def test_vanished_frontend(world: Served) -> None:
    place = world.attach()
    with RawFrontend(world.guest, place):
        world.dom0.store.remove(place.frontend)
        wait_state(world.dom0.store, place.backend, XenbusState.CLOSED)


def test_vanished_node_releases_the_image(world: Served) -> None:
    place = world.attach()
    with RawFrontend(world.guest, place):
        world.dom0.store.remove(place.backend)
        again = world.attach(devid=DEVID + 16)
        with RawFrontend(world.guest, again) as frontend:
            assert frontend.io(Op.READ, 0, 512)[0] == 0


class Hangs(MemoryStorage):
    """Takes requests and does not end them before `go`."""

    def __init__(self) -> None:
        super().__init__(65536)
        self.taken, self.go = threading.Event(), threading.Event()

    def handle(self, requests: Sequence[StorageRequest]) -> None:
        self.taken.set()
        self.go.wait()
        super().handle(requests)


@pytest.fixture
def hangs(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hangs]:
    """The storage of a disk whose params say so."""
    made = Hangs()
    monkeypatch.setattr(device, "open_storage", lambda params, *more, **options: (
        made if params == "hangs" else open_storage(params, *more, **options)))
    yield made
    made.go.set()


def turn(frontend: RawFrontend) -> None:
    """A disk that connects, is read and closes: the backend has seen all that was told it before."""
    with frontend:
        assert frontend.io(Op.READ, 0, 512)[0] == 0
        frontend.close()
        frontend.wait_backend(XenbusState.CLOSED)


def test_a_storage_that_hangs_holds_up_its_own_disk_alone(world: Served, hangs: Hangs) -> None:
    with RawFrontend(world.guest, world.attach("hangs")) as stuck:
        stuck.submit(Op.READ, 0, 512)
        assert hangs.taken.wait(10)
        stuck.state(XenbusState.CLOSED)
        turn(RawFrontend(world.guest, world.attach(devid=DEVID + 16)))
        assert stuck.wait_backend(XenbusState.CONNECTED), "the request has the guest's pages still"
        hangs.go.set()
        stuck.wait_backend(XenbusState.CLOSED)
        assert stuck.reap(1) == {0: 0}


def test_a_disk_that_is_taken_away_while_its_storage_hangs(world: Served, hangs: Hangs, until: Callable[..., None]) -> None:
    place = world.attach("hangs")
    with RawFrontend(world.guest, place) as stuck:
        stuck.submit(Op.READ, 0, 512)
        assert hangs.taken.wait(10)
        world.dom0.store.remove(place.backend)
        turn(RawFrontend(world.guest, world.attach(devid=DEVID + 16)))
        assert len(world.ask("list")["devices"]) == 2
        hangs.go.set()
        until(lambda: len(world.ask("list")["devices"]) == 1, "the disk's end")
        assert stuck.reap(1) == {0: 0}


def test_second_writer_is_refused(world: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "STORAGE_PATIENCE", 0.1)
    with RawFrontend(world.guest, world.attach()) as frontend:
        second = world.attach(devid=DEVID + 16)
        wait_state(world.dom0.store, second.backend, XenbusState.CLOSED)
        error = f"/local/domain/0/error/backend/vbd/{world.guest.domid}/{DEVID + 16}/error"
        assert b"in use" in world.dom0.store.read(error)
        assert frontend.io(Op.READ, 0, 512)[0] == 0


def test_missing_image_names_the_mend(world: Served, until: Callable[..., None]) -> None:
    place = world.attach(params="/nonexistent/disk.img")
    wait_state(world.dom0.store, place.backend, XenbusState.CLOSED)
    error = f"/local/domain/0/error/backend/vbd/{world.guest.domid}/{DEVID}/error"
    until(lambda: world.dom0.store.exists(error), "the reason stands in the store")
    assert world.dom0.store.read(error).endswith(b"there is no such file: check the disk's target")


@pytest.mark.parametrize("line,answer", [
    (b"[]", "a request is a JSON object"), (b"{", "one line of JSON"), (b'{"verb": 1}', "unknown verb"),
    (b'{"verb": "resize", "domid": 99, "devid": 1}', "there is no disk"),
    (b'{"verb": "resize", "bytes": -1}', "bytes is a size"),
])
def test_control_socket_refuses(world: Served, line: bytes, answer: str) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(10)
        client.connect(str(world.run / "backend" / "control"))
        client.sendall(line + b"\n")
        reply = json.loads(client.makefile().readline())
    assert reply["ok"] is False and answer in reply["error"]


def test_control_socket_is_the_owners(world: Served) -> None:
    assert (world.run / "backend" / "control").stat().st_mode & 0o777 == 0o600
    assert (world.run / "backend").stat().st_mode & 0o777 == 0o700


def test_no_backend(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="xenpv backend run"):
        request(tmp_path, "list")


def test_second_backend_in_the_same_place(world: Served) -> None:
    with pytest.raises(UsageError, match=f"pid {os.getpid()}"):
        Backend(world.dom0, world.run, BackendOptions())
