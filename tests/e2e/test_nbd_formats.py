"""What NBD servers keep a disk in, behind a vbd: images of other formats, and objects in S3."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.nbd import Until, nbdkit, qemu_nbd
from tests.support.raw_frontend import RawFrontend
from tests.support.s3 import serving_s3
from tests.support.served import served
from xenpv.testing.storage import STORAGE_CHECKS, check_close
from xenpv.wire.blkif import Op
from xenpv_backend.storage import open_storage

Requires = Callable[[str], str]
SIZE = 8 << 20
BLOCK = 4096


def use(folder: Path, uri: str, size: int) -> dict[int, bytes]:
    """A guest uses the disk at `uri` and flushes it: what it has written, by the offset in bytes. It is `size` bytes large."""
    written = {n * size // 16 // BLOCK * BLOCK: bytes([n + 1]) * BLOCK for n in range(16)}
    written[size // BLOCK * BLOCK - BLOCK] = b"last" * (BLOCK // 4)
    with served(folder) as world:
        place = world.attach(params=uri)
        with RawFrontend(world.guest, place) as frontend:
            assert int(world.dom0.store.read(f"{place.backend}/sectors")) * 512 == size
            for n, (offset, data) in enumerate(written.items()):
                frontend.submit(Op.WRITE, offset // 512, data, page=n, cookie=n)
            assert frontend.reap_all() == {n: 0 for n in range(len(written))}
            assert frontend.io(Op.FLUSH_DISKCACHE, 0, 0)[0] == 0
            for offset, data in written.items():
                assert frontend.io(Op.READ, offset // 512, BLOCK) == (0, data)
            assert frontend.io(Op.READ, BLOCK // 512, BLOCK) == (0, bytes(BLOCK)), "what was not written"
    return written


# Without force_size a VHD has the size of its footer's geometry, which is a little more than what was asked for.
@pytest.mark.parametrize(("format", "options"), [
    ("qcow2", "cluster_size=64k"),
    ("vpc", "subformat=dynamic,force_size=on"),
    ("vpc", "subformat=fixed,force_size=on"),
    ("vpc", "subformat=dynamic"),
    ("vmdk", "subformat=monolithicSparse"),
])
def test_an_image_of_another_format(requires: Requires, tmp_path: Path, until: Until, format: str, options: str) -> None:
    """qemu-img reads from the image what the guest has flushed, although its server was killed."""
    requires("libnbd.so.0")
    image, raw = tmp_path / "disk", tmp_path / "raw"
    qemu_img = requires("qemu-img")
    subprocess.run([qemu_img, "create", "-q", "-f", format, "-o", options, image, str(SIZE)], check=True)
    told = subprocess.run([qemu_img, "info", "-f", format, "--output=json", image], check=True, capture_output=True)
    size = int(json.loads(told.stdout)["virtual-size"])
    with qemu_nbd(requires, tmp_path, until, "-f", format, str(image)) as server:
        written = use(tmp_path / "xen", server.uri, size)
    subprocess.run([qemu_img, "convert", "-f", format, "-O", "raw", image, raw], check=True)
    content = raw.read_bytes()
    assert len(content) == size >= SIZE
    assert {offset: content[offset:offset + BLOCK] for offset in written} == written


@pytest.mark.stress
@pytest.mark.parametrize(("words", "object_size"), [
    (["S3"], 4096),
    (["--filter=blocksize", "S3", "minblock=64k"], 65536),  # for objects larger than a disk's sectors may be
])
def test_objects_in_s3(requires: Requires, tmp_path: Path, until: Until, monkeypatch: pytest.MonkeyPatch, words: list[str],
                       object_size: int) -> None:
    requires("libnbd.so.0")
    requires("nbdkit-S3-plugin")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serving_s3() as s3, nbdkit(requires, tmp_path, until, *words, f"endpoint-url={s3.url}", "access-key=a",
                                    "secret-key=b", "bucket=disks", "key=guest", f"size={SIZE}",
                                    f"object-size={object_size}") as server:
        written = use(tmp_path / "xen", server.uri, SIZE)
        for offset, data in written.items():
            number, start = divmod(offset, object_size)
            assert s3.objects[f"disks/guest/{number:016x}"][start:start + BLOCK] == data
        for check in STORAGE_CHECKS:
            if check is not check_close:  # it counts descriptors, and S3's are this process's too
                check(lambda readonly: open_storage(server.uri, "r" if readonly else "w"))
