"""The host itself: Xen, the tools, this project, and a stock guest with a stock disk."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.xenhost.conftest import Guest
from tests.xenhost.shell import run

pytestmark = pytest.mark.xen

SCRIPT = """
mkfs.ext4 -q /dev/xvda && mount -t ext4 /dev/xvda /mnt && echo written by a guest >/mnt/file && umount /mnt || exit 1
e2fsck -fn /dev/xvda
"""


def test_xen_is_the_release_s() -> None:
    versions = {"bookworm": "4.17", "trixie": "4.20"}
    release = os.environ.get("XENPV_TESTHOST", "")
    assert f"xen_version            : {versions.get(release, '4.')}" in run("xl", "info")


def test_dom0_is_listed() -> None:
    assert "Domain-0" in run("xl", "list")


def test_doctor_finds_a_real_xen() -> None:
    assert "a real Xen" in run("xenpv", "doctor")


@pytest.mark.parametrize("name", ["gntdev", "gntalloc", "evtchn", "privcmd", "xenbus"])
def test_device_is_there(name: str) -> None:
    assert Path("/dev/xen", name).is_char_device()


def test_stock_guest_writes_a_stock_disk(tmp_path: Path, guest: Callable[..., Guest]) -> None:
    image = tmp_path / "disk.img"
    image.touch()
    os.truncate(image, 64 << 20)
    said = guest("smoke", SCRIPT, [f"{image},raw,xvda,w"]).wait("guest: exit")
    assert "guest: exit 0" in said
    assert run("debugfs", "-R", "cat /file", str(image)) == "written by a guest\n"
