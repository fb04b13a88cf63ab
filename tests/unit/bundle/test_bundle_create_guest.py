"""`xenpv create` on Xen with a bundle as the first disk: what xl is told, while the copies are there."""

from __future__ import annotations

from pathlib import Path

import pytest

from xenpv.errors import BundleError
from xenpv_tools import cli
from xenpv_tools.bundle.boot import booted
from xenpv_tools.bundle.reader import open_bundle
from xenpv_tools.config import DomainConfig, parse_config
from xenpv_tools.diskspec import parse_disk
from xenpv_tools.session import Session
from xenpv_tools.vbds import Attachment


@pytest.fixture
def disks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> list[Attachment]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / "vmlinuz").write_bytes(b"kernel" * 1000)
    (tmp_path / "initrd").write_bytes(b"initrd" * 1000)
    assert cli.main(["bundle", "create", "b.xpb", "kernel=vmlinuz", "ramdisk=initrd", "--cmdline", "console=hvc0"]) == 0
    capfd.readouterr()
    return [Attachment(parse_disk(f"{tmp_path}/b.xpb,raw,xvda,r"), f"{tmp_path}/b.xpb", xen=True)]


def config(text: str) -> DomainConfig:
    return parse_config(f'name = "guest"\n{text}')


def test_xl_is_given_copies_that_are_there_as_long_as_it_needs_them(disks: list[Attachment]) -> None:
    with booted(Session(), config('extra = "a\\\\b"'), disks) as assignments:
        given = dict(each.split("=", 1) for each in assignments)
        kernel, ramdisk = Path(given["kernel"].strip('"')), Path(given["ramdisk"].strip('"'))
        assert kernel.read_bytes() == b"kernel" * 1000 and ramdisk.read_bytes() == b"initrd" * 1000
    assert not kernel.parent.exists()
    with open_bundle(disks[0].target) as bundle:
        assert given["cmdline"] == f'"console=hvc0 a\\\\b xenpv.bundle={bundle.id}"'


def test_quotes_survive_xl_s_grammar(disks: list[Attachment]) -> None:
    with booted(Session(), config("extra = 'a=\"b\"'"), disks) as assignments:
        assert " a=\\x22b\\x22 " in assignments[-1]


@pytest.mark.parametrize("text", ['kernel = "/k"', 'bootloader = "pygrub"'])
def test_guest_that_boots_from_elsewhere_is_left_alone(disks: list[Attachment], text: str) -> None:
    with booted(Session(), config(text), disks) as assignments:
        assert assignments == []


def test_disk_that_is_no_bundle_is_left_alone(disks: list[Attachment], tmp_path: Path) -> None:
    (tmp_path / "b.xpb").write_bytes(bytes(1 << 20))
    with booted(Session(), config(""), disks) as assignments:
        assert assignments == []


def test_damaged_bundle_is_no_guest(disks: list[Attachment], tmp_path: Path) -> None:
    with open_bundle(disks[0].target) as bundle:
        offset = bundle.image("kernel").offset
    data = bytearray((tmp_path / "b.xpb").read_bytes())
    data[offset] ^= 1
    (tmp_path / "b.xpb").write_bytes(data)
    with pytest.raises(BundleError, match="kernel is damaged"), booted(Session(), config(""), disks):
        raise AssertionError
    assert not list(tmp_path.glob("xenpv-boot-*"))


@pytest.mark.parametrize(("text", "cmdline"), [
    ("", ""), ('extra = "quiet"', "quiet"), ('root = "/dev/xvda1"', "root=/dev/xvda1"),
    ('root = "/dev/xvda1"\nextra = "ro"', "root=/dev/xvda1 ro"), ('cmdline = "all"\nextra = "ro"', "all")])
def test_command_line_is_put_together_as_xl_does(text: str, cmdline: str) -> None:
    assert config(text).cmdline == cmdline
