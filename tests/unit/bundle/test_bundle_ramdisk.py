"""Images inside of a ramdisk: what cpio makes of it, its limit, and nothing left of a damaged one."""

from __future__ import annotations

import os
import random
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from xenpv.errors import BundleError, StorageError, UsageError
from xenpv_tools import cli
from xenpv_tools.bundle import ramdisk
from xenpv_tools.bundle.ramdisk import make_ramdisk
from xenpv_tools.bundle.reader import Bundle, open_bundle

RAMDISK = random.Random(2).randbytes(9_001)
ROOT = random.Random(3).randbytes(70_003)


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    monkeypatch.chdir(tmp_path)
    for name, content in {"vmlinuz": b"k", "initrd": RAMDISK, "image": ROOT, "nothing": b""}.items():
        (tmp_path / name).write_bytes(content)
    assert cli.main(["bundle", "create", "b.xpb", "kernel=vmlinuz", "ramdisk=initrd", "root=image", "nothing"]) == 0
    return open_bundle("b.xpb")


@pytest.mark.peer
def test_cpio_unpacks_what_follows_the_ramdisk(
        bundle: Bundle, tmp_path: Path, requires: Callable[[str], str]) -> None:
    cpio = requires("cpio")
    size = make_ramdisk(bundle, "out")
    data = (tmp_path / "out").read_bytes()
    assert len(data) == size and data.startswith(RAMDISK)
    begin = -(-len(RAMDISK) // 4) * 4
    assert not any(data[len(RAMDISK):begin])
    (tmp_path / "in").mkdir()
    subprocess.run([cpio, "-idm", "--quiet"], input=data[begin:], cwd=tmp_path / "in", check=True)
    assert {path.name: path.read_bytes() for path in (tmp_path / "in/xenpv").iterdir()} == {
        ".index": bundle.text, "root": ROOT, "nothing": b""}


def test_only_named_images_are_in_it(bundle: Bundle, tmp_path: Path) -> None:
    make_ramdisk(bundle, "out", ["nothing"])
    assert b"xenpv/nothing\0" in (tmp_path / "out").read_bytes() and ROOT not in (tmp_path / "out").read_bytes()


def test_more_than_xen_s_tools_load_is_refused_with_the_figure(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ramdisk, "MAX_IMAGE", 70_000)
    with pytest.raises(StorageError, match=r"would have \d+ bytes, and Xen's tools load 70000"):
        make_ramdisk(bundle, "out")
    assert not os.path.exists("out")


def test_of_a_damaged_image_nothing_is_left(bundle: Bundle, tmp_path: Path) -> None:
    with open("b.xpb", "r+b") as file:
        file.seek(bundle.image("root").offset)
        file.write(bytes([ROOT[0] ^ 1]))
    before = sorted(os.listdir())
    with pytest.raises(BundleError, match="root is damaged"):
        make_ramdisk(bundle, "out")
    assert sorted(os.listdir()) == before


def test_bundle_without_a_ramdisk_or_images(bundle: Bundle) -> None:
    assert cli.main(["bundle", "create", "c.xpb", "kernel=vmlinuz"]) == 0
    with open_bundle("c.xpb") as other, pytest.raises(StorageError, match="no image of the kind ramdisk"):
        make_ramdisk(other, "out")
    assert cli.main(["bundle", "create", "d.xpb", "kernel=vmlinuz", "ramdisk=initrd"]) == 0
    with open_bundle("d.xpb") as other, pytest.raises(UsageError, match="name images"):
        make_ramdisk(other, "out")


def test_file_that_is_there_stays(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "out").write_bytes(b"mine")
    with pytest.raises(UsageError, match="-f writes over it"):
        make_ramdisk(bundle, "out")
    assert (tmp_path / "out").read_bytes() == b"mine"
