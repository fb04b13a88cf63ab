"""A mirror behind a vbd: legs that die and come back, a backend that is killed, and what is shown of it."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.backend_process import BackendProcess
from tests.support.nbd import NbdServer, Until, nbdkit
from tests.support.raw_frontend import RawFrontend, attach
from tests.support.served import Served, served
from xenpv.errors import StorageError
from xenpv.hypervisors import open_domain
from xenpv.hypervisors.emulated import host
from xenpv.wire.blkif import Op
from xenpv_backend.storage import StorageBusyError, open_storage
from xenpv_backend.storage.mirror import ACTIVE, STALE, create_mirror, show_mirror
from xenpv_tools import cli

SIZE = 4 << 20


@pytest.fixture
def world(tmp_path: Path) -> Iterator[Served]:
    with served(tmp_path / "xen", SIZE) as world:
        yield world


@pytest.fixture
def second(tmp_path: Path) -> Path:
    path = tmp_path / "second.img"
    path.write_bytes(bytes(SIZE))
    return path


def make(tmp_path: Path, *legs: str, **options: Any) -> str:
    """A mirror's target."""
    create_mirror(str(tmp_path / "mirror"), legs, **options)
    return f"mirror:{tmp_path}/mirror"


def states(tmp_path: Path) -> list[str]:
    with show_mirror(str(tmp_path / "mirror")) as metadata:
        return [leg.state for leg in metadata.header.legs]


def degraded(world: Served) -> list[str]:
    found: list[str] = world.ask("status")["degraded"]
    return found


def test_the_second_leg_becomes_what_the_first_is(world: Served, second: Path, tmp_path: Path, until: Until) -> None:
    with RawFrontend(world.guest, world.attach(params=make(tmp_path, str(world.image), str(second)))) as frontend:
        assert frontend.io(Op.WRITE, 8, b"new!" * 1024)[0] == 0
        until(lambda: not degraded(world), "it is copied")
        assert frontend.io(Op.FLUSH_DISKCACHE, 0, 0)[0] == 0
    assert second.read_bytes() == world.image.read_bytes()
    assert second.read_bytes()[4096:8192] == b"new!" * 1024


def test_a_server_that_dies_is_not_seen_by_the_guest(world: Served, second: Path, tmp_path: Path, until: Until,
                                                     requires: Callable[[str], str]) -> None:
    requires("libnbd.so.0")
    with nbdkit(requires, tmp_path, until, "file", str(second)) as server:
        leg = server.uri.replace("nbd+unix:", "nbd+unix,reconnect=100ms:")
        target = make(tmp_path, leg, str(world.image))
        with RawFrontend(world.guest, world.attach(params=target)) as frontend:
            until(lambda: not degraded(world), "it is copied")
            survives(world, frontend, server, until)
    assert second.read_bytes() == world.image.read_bytes()


def survives(world: Served, frontend: RawFrontend, server: NbdServer, until: Until) -> None:
    """The server of the first leg is killed among writes, and started again later."""
    for n in range(30):
        frontend.submit(Op.WRITE, 8 * n, bytes([n + 1]) * 4096, page=n, cookie=n)
        if n == 10:
            server.kill()
    assert frontend.reap_all() == {n: 0 for n in range(30)}
    until(lambda: degraded(world), "the backend says that a leg is missing")
    assert "1 of 2 legs" in degraded(world)[0]
    assert frontend.io(Op.READ, 8 * 29, 4096) == (0, bytes([30]) * 4096)
    assert frontend.io(Op.WRITE, 8 * 100, b"late" * 1024)[0] == 0
    server.start()
    until(lambda: not degraded(world), "the leg is back", seconds=30)
    assert frontend.io(Op.FLUSH_DISKCACHE, 0, 0)[0] == 0


def test_a_failing_leg_on_purpose(world: Served, second: Path, tmp_path: Path, until: Until) -> None:
    """By the filter fault, while a file is there: every write of the second leg fails."""
    trigger = tmp_path / "fail"
    target = make(tmp_path, str(world.image), f"fault,errors=1,ops=write,while={trigger}:{second}", copies=2, same=False)
    with RawFrontend(world.guest, world.attach(params=target)) as frontend:
        until(lambda: not degraded(world), "it is copied")
        assert frontend.io(Op.WRITE, 0, b"a" * 512)[0] == 0
        trigger.touch()
        assert frontend.io(Op.WRITE, 0, b"b" * 512)[0] == -1, "two copies were promised"
        trigger.unlink()
        until(lambda: not degraded(world), "the leg is back", seconds=30)
        assert frontend.io(Op.WRITE, 0, b"c" * 512)[0] == 0
    assert second.read_bytes()[:512] == b"c" * 512


def test_a_backend_that_is_killed_again_and_again(tmp_path: Path, second: Path, until: Until) -> None:
    """Its successor makes the legs equal, and answers what was under way."""
    chance = random.Random(1)
    run, image = tmp_path / "run", tmp_path / "first.img"
    image.write_bytes(bytes(SIZE))
    target = make(tmp_path, str(image), str(second), same=True)
    with host.running(run), open_domain(f"emulated:{run}") as dom0:
        created = host.request(run, "create", name="guest")
        with open_domain(f"emulated:{created['directory']}") as guest:
            place = attach(dom0.store, guest.domid, target)
            backend = BackendProcess(run)
            try:
                with RawFrontend(guest, place) as frontend:
                    for turn in range(4):
                        for n in range(30):
                            frontend.submit(Op.WRITE, 8 * n, bytes([turn * 30 + n]) * 4096, page=n, cookie=n)
                        early = frontend.reap(chance.randrange(1, 10))
                        backend.kill()
                        backend = BackendProcess(run)
                        late = frontend.reap(30 - len(early)) if len(early) < 30 else {}
                        assert early | late == {n: 0 for n in range(30)}
                    assert frontend.io(Op.FLUSH_DISKCACHE, 0, 0)[0] == 0
                    backend.end()
            finally:
                with backend:
                    pass
    with open_storage(target, "w") as storage:
        until(lambda: "degraded" not in storage.describe(), "the legs are equal")  # type: ignore[attr-defined]
    assert image.read_bytes() == second.read_bytes()
    assert [image.read_bytes()[4096 * n] for n in range(30)] == list(range(90, 120))


# What can be asked for

@pytest.fixture
def xenpv(capfd: pytest.CaptureFixture[str]) -> Callable[..., str]:
    def run(*words: str) -> str:
        assert cli.main(list(words)) == 0
        return capfd.readouterr().out

    return run


def test_create_and_show(xenpv: Callable[..., str], tmp_path: Path, second: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XENPV_RUNDIR", str(tmp_path / "run"))
    (tmp_path / "first.img").write_bytes(bytes(SIZE))
    assert "become what" in xenpv("mirror", "create", "-N", "m", "first.img", "second.img")
    assert not (tmp_path / "m").exists()
    assert f"{SIZE} bytes on 2 legs" in xenpv("mirror", "create", "m", "first.img", "second.img", "--copies", "2")
    shown = json.loads(xenpv("mirror", "show", "m", "--json"))
    assert (shown["copies"], shown["dirty_bytes"]) == (2, SIZE)
    assert [leg["state"] for leg in shown["legs"]] == [ACTIVE, STALE]
    assert [leg["target"] for leg in shown["legs"]] == [str(tmp_path / "first.img"), str(second)]


def test_show_while_it_is_used(xenpv: Callable[..., str], world: Served, second: Path, tmp_path: Path,
                               monkeypatch: pytest.MonkeyPatch, until: Until) -> None:
    monkeypatch.setenv("XENPV_RUNDIR", str(world.run))
    with RawFrontend(world.guest, world.attach(params=make(tmp_path, str(world.image), str(second)))):
        until(lambda: not degraded(world), "it is copied")
        shown = json.loads(xenpv("mirror", "show", f"{tmp_path}/mirror", "--json"))
        assert shown["domid"] == world.guest.domid
        assert [leg["state"] for leg in shown["legs"]] == ["active", "active"]


@pytest.mark.parametrize(("legs", "options", "words"), [
    (["memory:65536"], {}, "two to eight legs"), (["memory:65536"] * 2, {}, "each another one"),
    (["memory:65536", "memory:131072"], {"copies": 3}, "3 copies of a write on 2 legs"),
    (["memory:131072", "memory:65536"], {}, "put the smallest first"),
    (["/nonexistent", "memory:65536"], {}, "there is no such file"),
])
def test_what_is_no_mirror(tmp_path: Path, legs: list[str], options: dict[str, Any], words: str) -> None:
    with pytest.raises(StorageError, match=words):
        make(tmp_path, *legs, **options)
    assert not (tmp_path / "mirror").exists()


def test_an_existing_file_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mirror").write_text("precious")
    with pytest.raises(StorageError, match="is there already"):
        make(tmp_path, "memory:65536", "memory:131072")
    with pytest.raises(StorageError, match="is no mirror, or damaged"):
        open_storage(f"mirror:{tmp_path}/mirror", "w")
    assert (tmp_path / "mirror").read_text() == "precious"


def test_one_disk_a_mirror(tmp_path: Path) -> None:
    target = make(tmp_path, "memory:65536", "memory:131072", same=True)
    with open_storage(target, "w"):
        with pytest.raises(StorageBusyError):
            open_storage(target, "w")
        with pytest.raises(StorageBusyError):
            open_storage(target, "r")


def test_a_leg_in_use_is_waited_for_and_not_given_up(tmp_path: Path, second: Path) -> None:
    target = make(tmp_path, "memory:65536", str(second), same=True)
    with open_storage(str(second), "w"), pytest.raises(StorageBusyError):
        open_storage(target, "w")
    assert states(tmp_path) == [ACTIVE, ACTIVE]


@pytest.mark.parametrize("target", ["mirror:relative", "mirror:/nonexistent", "mirror,rate=x:/y"])
def test_what_cannot_be_opened_is_one_line(target: str) -> None:
    with pytest.raises(StorageError) as caught:
        open_storage(target, "w")
    assert "\n" not in str(caught.value)
