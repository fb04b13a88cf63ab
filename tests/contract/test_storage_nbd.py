"""The contract of storages, on NBD exports of nbdkit, qemu-nbd and qemu-storage-daemon."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.nbd import NbdServer, Until, nbdkit, qemu_nbd, qemu_storage_daemon
from xenpv.testing import storage as contract
from xenpv_backend.storage import open_storage

Requires = Callable[[str], str]
SIZE = 1 << 20


@pytest.fixture(params=["nbdkit memory", "nbdkit file", "qemu-nbd raw", "qemu-nbd qcow2", "qemu-nbd vpc",
                        "qemu-storage-daemon"])
def server(request: pytest.FixtureRequest, requires: Requires, tmp_path: Path, until: Until) -> Iterator[NbdServer]:
    requires("libnbd.so.0")
    image = tmp_path / "disk.img"
    image.write_bytes(bytes(range(256)) * (SIZE // 256))
    match request.param:
        case "nbdkit memory":
            made = nbdkit(requires, tmp_path, until, "memory", str(SIZE))
        case "nbdkit file":
            made = nbdkit(requires, tmp_path, until, "file", str(image))
        case "qemu-nbd raw":
            made = qemu_nbd(requires, tmp_path, until, "-f", "raw", "--discard=unmap", str(image))
        case "qemu-storage-daemon":
            made = qemu_storage_daemon(requires, tmp_path, until, image)
        case other:
            format, converted = other.removeprefix("qemu-nbd "), tmp_path / "converted"
            subprocess.run([requires("qemu-img"), "convert", "-O", format, image, converted], check=True)
            made = qemu_nbd(requires, tmp_path, until, "-f", format, "--discard=unmap", str(converted))
    with made:
        yield made


@pytest.mark.parametrize("head", ["", "log:overlay:"])
def test_every_check(server: NbdServer, head: str) -> None:
    contract.check_storage(lambda readonly: open_storage(head + server.uri, "r" if readonly else "w"))


@pytest.mark.parametrize("parameters", ["cache=writethrough", "cache=none,discard=trim", "discard=off,replay=64k"])
def test_with_parameters(server: NbdServer, parameters: str) -> None:
    target = server.uri.replace("nbd+unix:", f"nbd+unix,{parameters}:")
    for check in contract.STORAGE_CHECKS:
        check(lambda readonly: open_storage(target, "r" if readonly else "w"))
