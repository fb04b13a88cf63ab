"""RBD with a real Ceph cluster of one node, in memory, from Debian's packages: by librbd, and by qemu-nbd in front of it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.ceph import Ceph
from tests.support.nbd import Until, qemu_nbd
from tests.support.raw_frontend import RawFrontend
from tests.support.served import served, works
from tests.support.storages import content, do, flush, read, write
from xenpv.errors import StorageError
from xenpv.testing import storage as contract
from xenpv.wire.blkif import Op, Status
from xenpv.xenbus import XenbusState
from xenpv_backend.storage import StorageBusyError, open_storage
from xenpv_backend.storage.layers import asynchronous
from xenpv_backend.storage.rbd import binding

Requires = Callable[[str], str]


@pytest.fixture(scope="module")
def ceph(tmp_path_factory: pytest.TempPathFactory, requires: Requires, until: Until) -> Iterator[Ceph]:
    for program in ("ceph-mon", "ceph-osd", "ceph", "rbd", "monmaptool"):
        requires(program)
    try:
        binding.load()
    except StorageError as error:
        pytest.skip(str(error))
    with Ceph(tmp_path_factory.mktemp("ceph"), requires, until) as ceph:
        ceph.rbd("create", "--size", "8M", "--image-feature", "layering", "img")
        ceph.rbd("create", "--size", "8M", "--image-feature", "layering,exclusive-lock", "locked")
        yield ceph


pytestmark = pytest.mark.stress


def target(ceph: Ceph, image: str, **parameters: str) -> str:
    words = "".join(f",{name}={value}" for name, value in parameters.items())
    return f"rbd,conf={ceph.conf}{words}:rbd/{image}"


@pytest.mark.parametrize("check", contract.STORAGE_CHECKS)
@pytest.mark.parametrize("cache", ["auto", "none", "writethrough", "unsafe"])
def test_contract(ceph: Ceph, check: Callable[[contract.Make], None], cache: str) -> None:
    check(lambda readonly: open_storage(target(ceph, "img", cache=cache), "r" if readonly else "w"))


def test_the_other_way_in_sees_the_same_bytes(ceph: Ceph, requires: Requires, tmp_path: Path, until: Until) -> None:
    """What librbd writes qemu-nbd serves, and the other way round."""
    with asynchronous(open_storage(target(ceph, "img"), "w")) as storage:
        assert do(storage, write(8, b"rbd!" * 1024), flush()) == [0, 0]
    listed = subprocess.run([requires("qemu-img"), "info", f"rbd:rbd/img:conf={ceph.conf}"], capture_output=True, check=False)
    if listed.returncode:
        pytest.skip("qemu has no rbd here (apt-get install qemu-block-extra)")
    with qemu_nbd(requires, tmp_path, until, "-f", "raw", f"rbd:rbd/img:conf={ceph.conf}") as server:
        with asynchronous(open_storage(server.uri, "w")) as storage:
            assert content(storage, 8, 4096) == b"rbd!" * 1024
            assert do(storage, write(8, b"nbd!" * 1024), flush()) == [0, 0]
    with asynchronous(open_storage(target(ceph, "img"), "r")) as storage:
        assert content(storage, 8, 4096) == b"nbd!" * 1024


def test_behind_a_vbd(ceph: Ceph, tmp_path: Path) -> None:
    with served(tmp_path / "xen") as world:
        with RawFrontend(world.guest, world.attach(params=target(ceph, "locked"))) as frontend:
            for n in range(30):
                frontend.submit(Op.WRITE, 8 * n, bytes([n + 1]) * 4096, page=n, cookie=n)
            assert frontend.reap_all() == {n: 0 for n in range(30)}
            assert frontend.io(Op.FLUSH_DISKCACHE, 0, 0)[0] == 0
            assert frontend.io(Op.READ, 8 * 29, 4096) == (0, bytes([30]) * 4096)


def test_one_writer_and_readers(ceph: Ceph) -> None:
    with open_storage(target(ceph, "locked"), "w"):
        with pytest.raises(StorageBusyError, match="another client holds its exclusive lock"):
            open_storage(target(ceph, "locked"), "w")
        open_storage(target(ceph, "locked"), "r").close()


def test_the_lock_of_a_dead_writer_is_waited_for_in_short_pieces(ceph: Ceph, until: Until) -> None:
    """Its watcher is believed alive for half a minute, and nobody who opens the image is held up for that."""
    hold = (f"from xenpv_backend.storage import open_storage\ns = open_storage({target(ceph, 'locked')!r}, 'w')\n"
            "print('held', flush=True)\ninput()\n")
    with subprocess.Popen([sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
        holder.kill()
    with pytest.raises(StorageBusyError):
        open_storage(target(ceph, "locked"), "w")

    def is_free() -> bool:
        try:
            open_storage(target(ceph, "locked"), "w").close()
        except StorageBusyError:
            return False
        return True

    until(is_free, "the dead writer's lock has expired", seconds=90)


def test_a_cluster_that_hangs_is_an_error_in_the_end(ceph: Ceph) -> None:
    with asynchronous(open_storage(target(ceph, "img", timeout="1s", cache="none"), "w")) as storage:
        with ceph.osd_stopped():
            assert do(storage, read(0)) == [Status.ERROR]
        assert do(storage, write(0, bytes(512))) == [0]


def test_a_close_waits_alone(ceph: Ceph, tmp_path: Path) -> None:
    """What librbd still has to write, and the image's watch, end with the cluster's answer alone."""
    with served(tmp_path / "xen") as world:
        frontend = RawFrontend(world.guest, world.attach(target(ceph, "img", cache="writeback"), devid=51728))
        assert frontend.io(Op.WRITE, 0, bytes([7]) * 4096)[0] == 0
        with ceph.osd_stopped():
            frontend.close()
            frontend.wait_backend(XenbusState.CLOSED)
            works(world)
            assert [disk["connected"] for disk in world.ask("list")["devices"] if disk["devid"] == 51728] == [False]
    with asynchronous(open_storage(target(ceph, "img"), "r")) as storage:
        assert content(storage, 0, 4096) == bytes([7]) * 4096


def test_grow_and_refresh(ceph: Ceph) -> None:
    ceph.rbd("create", "--size", "8M", "--image-feature", "layering", "grows")
    with open_storage(target(ceph, "grows"), "w") as storage:
        assert storage.grow(16 << 20).size == 16 << 20
        ceph.rbd("resize", "--size", "24M", "grows")
        assert storage.refresh().size == 24 << 20
        with pytest.raises(StorageError, match="use `rbd resize`"):
            storage.grow(8 << 20)


def test_a_snapshot_is_read_only(ceph: Ceph) -> None:
    ceph.rbd("snap", "create", "img@then")
    with pytest.raises(StorageError, match="attach it read-only"):
        open_storage(target(ceph, "img@then"), "w")
    open_storage(target(ceph, "img@then"), "r").close()


@pytest.mark.parametrize("image", ["none", "img@none"])
def test_what_is_not_there_is_one_line(ceph: Ceph, image: str) -> None:
    with pytest.raises(StorageError, match="rbd:rbd/") as caught:
        open_storage(target(ceph, image), "r")
    assert "\n" not in str(caught.value)
