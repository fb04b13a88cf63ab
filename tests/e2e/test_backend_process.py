"""A backend that is killed, restarted or left alone: what it had taken is answered once, and the disk goes on."""

from __future__ import annotations

import random
import resource
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.backend_process import BackendProcess
from tests.support.raw_frontend import RawFrontend
from tests.support.threads import signal_another_thread
from tests.support.world import World, new_world
from xenpv.hypervisors.emulated import host
from xenpv.wire.blkif import Op
from xenpv.xenbus import VbdPlace

SIZE = 1 << 20


def states(world: World, place: VbdPlace) -> tuple[bytes, bytes]:
    """The backend's and the frontend's."""
    return world.dom0.store.read(f"{place.backend}/state"), world.dom0.store.read(f"{place.frontend}/state")


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with new_world(tmp_path, bytes(range(256)) * (SIZE // 256)) as made:
        yield made


def test_killed_with_requests_in_flight(world: World) -> None:
    """Requests taken and not begun, and requests still in the ring: the successor answers each of them once."""
    place = world.attach(f"stuck:{world.image}")
    with BackendProcess(world.run, stuck=True) as first:
        with RawFrontend(world.guest, place) as frontend:
            for number in range(8):
                frontend.submit(Op.WRITE, 8 * number, bytes([number]) * 4096, page=number, cookie=number)
                if number == 0:
                    first.wait_for("stuck 1")
            first.kill()
            assert states(world, place) == (b"4", b"4")
            with BackendProcess(world.run):
                assert frontend.reap(8) == {number: 0 for number in range(8)}
                assert frontend.io(Op.READ, 0, 4096) == (0, bytes(4096))
                assert frontend.queues[0].stats()["rescues"] == 0
    content = world.image.read_bytes()
    assert [content[4096 * number] for number in range(8)] == list(range(8))


def test_killed_again_and_again_under_load(world: World) -> None:
    """With a real engine, at seeded moments: every request is answered once, whatever the order was."""
    chance = random.Random(1)
    place = world.attach()
    backend = BackendProcess(world.run)
    try:
        with RawFrontend(world.guest, place) as frontend:
            for _ in range(4):
                for number in range(30):
                    frontend.submit(Op.READ, 8 * number, 4096, page=number, cookie=number)
                answered = frontend.reap(chance.randrange(1, 6))
                backend.kill()
                backend = BackendProcess(world.run)
                if len(answered) < 30:
                    late = frontend.reap(30 - len(answered))
                    assert not answered.keys() & late.keys()
                    answered |= late
                assert answered == {number: 0 for number in range(30)}
                assert bytes(frontend.pool.memory[:30 * 4096]) == world.image.read_bytes()[:30 * 4096]
    finally:
        with backend:
            pass


def test_sigterm_leaves_the_disk_to_a_successor(world: World) -> None:
    place = world.attach()
    with BackendProcess(world.run) as first, RawFrontend(world.guest, place) as frontend:
        assert frontend.io(Op.READ, 0, 512)[0] == 0
        assert first.end() == (0, first_words(world, place))
        assert states(world, place) == (b"4", b"4")
        frontend.submit(Op.READ, 8, 4096, cookie=1)
        with BackendProcess(world.run) as second:
            assert frontend.reap(1) == {1: 0}
            assert "adopted" in second.end()[1]


def first_words(world: World, place: VbdPlace) -> str:
    head = f"xenpv backend: domid {place.frontend_domid} devid {place.devid}: "
    return (f"{head}a new vbd: state 1 to 2\n"
            f"{head}the frontend has published its rings: state 2 to 4: {world.image} ({cache_of(world)}), "
            f"1 x 32 entries, x86_64-abi, {engine_of(world)}, notify-flag, persistent\n"
            "xenpv backend: ends: what was taken is answered, connected disks wait for the next backend\n")


def cache_of(world: World) -> str:
    from xenpv_backend.storage import FileStorage
    with FileStorage(str(world.image), readonly=True) as storage:
        return storage.cache


def engine_of(world: World) -> str:
    from xenpv_backend.queue import Service
    from xenpv_backend.storage import FileStorage
    with FileStorage(str(world.image), readonly=True) as storage, Service() as service:
        return "inline" if storage.inline else service.engine


def test_sigterm_without_disks_leaves_nothing(world: World) -> None:
    with BackendProcess(world.run) as backend:
        status, _ = backend.end()
    assert status == 0
    assert not (world.run / "backend").exists()


def test_it_takes_all_descriptors_that_it_may_have(world: World) -> None:
    """Each disk needs a handful: with the usual 1,024 there were no 200 of them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(256, hard), hard))
    try:
        with BackendProcess(world.run) as backend:
            assert resource.prlimit(backend.process.pid, resource.RLIMIT_NOFILE) == (hard, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_sigterm_that_comes_to_another_thread_ends_it(world: World) -> None:
    """It interrupts no wait of the main thread's, in which alone Python calls a handler; nor does one just before the wait."""
    with BackendProcess(world.run) as backend:
        signal_another_thread(backend.process.pid, signal.SIGTERM)
        assert backend.wait()[0] == 0


def test_second_sigterm_ends_at_once(world: World) -> None:
    place = world.attach(f"stuck:{world.image}")
    with BackendProcess(world.run, stuck=True) as backend, RawFrontend(world.guest, place) as frontend:
        frontend.submit(Op.READ, 0, 512)
        backend.wait_for("stuck 1")
        backend.process.send_signal(signal.SIGTERM)
        assert backend.process.stderr is not None
        for line in backend.process.stderr:
            if "ends:" in line:
                break
        status, _ = backend.end()
    assert status == 1


def test_vbd_that_went_while_nobody_served_it(world: World, until: Callable[..., None]) -> None:
    place = world.attach()
    with BackendProcess(world.run) as first, RawFrontend(world.guest, place):
        first.kill()
    directory = world.run / "backend"
    assert {path.suffix for path in directory.iterdir()} >= {".stats", ".journal"}
    world.dom0.store.remove(place.backend)
    with BackendProcess(world.run):
        assert not [path for path in directory.iterdir() if path.suffix in (".stats", ".journal")]


def test_host_dies(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with host.running(run):
        backend = BackendProcess(run)
    with backend:
        status, errors = backend.wait()
    assert status == 1
    assert len(errors.splitlines()) == 1 and errors.startswith("xenpv: ")
    assert not (run / "backend").exists()


def test_ready_is_said_to_the_service_manager(world: World, tmp_path: Path) -> None:
    address = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(address))
        manager.settimeout(10)
        with BackendProcess(world.run, NOTIFY_SOCKET=str(address)) as backend:
            assert manager.recv(64) == b"READY=1"
            backend.end()
            assert manager.recv(64) == b"STOPPING=1"


def test_sighup_keeps_what_is_wrong_out(world: World, tmp_path: Path) -> None:
    config = tmp_path / "config" / "xenpv"
    config.mkdir(parents=True)
    with BackendProcess(world.run, XDG_CONFIG_HOME=str(config.parent)) as backend:
        (config / "backend.toml").write_text("spin = 3\n")
        backend.process.send_signal(signal.SIGHUP)
        assert backend.process.stderr is not None
        assert "there is no option 'spin'" in backend.process.stderr.readline()
        (config / "backend.toml").write_text("spin_us = 3\n")
        backend.process.send_signal(signal.SIGHUP)
        assert "configuration read again" in backend.process.stderr.readline()
        assert backend.end()[0] == 0
