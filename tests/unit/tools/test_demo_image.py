"""The demo's image: real files, at least 256 MiB, and what it says about it."""

from __future__ import annotations

import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from xenpv_tools.demo import image


def test_python_library_becomes_an_ext4_image(tmp_path: Path, requires: Callable[[str], str]) -> None:
    requires("mkfs.ext4")
    made = image.make_image(tmp_path, lambda text: None)
    assert made.size >= image.LEAST and made.size % 4096 == 0
    assert made.path.stat().st_size == made.size
    assert made.content.startswith("ext4 image of ")
    assert not (tmp_path / "files").exists()
    checked = subprocess.run(["/sbin/e2fsck", "-fn", str(made.path)], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout


def test_without_mkfs_it_is_a_tar_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda *args, **kwargs: None)
    made = image.make_image(tmp_path, lambda text: None)
    assert "no mkfs.ext4" in made.content
    assert made.size >= image.LEAST and made.size % 512 == 0
    with tarfile.open(made.path) as tar:
        assert tar.next() is not None


def test_kernel_and_initrd_come_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda *args, **kwargs: None)
    boot = tmp_path / "boot"
    boot.mkdir()
    (boot / "vmlinuz-6.1.0").write_bytes(b"kernel")
    (boot / "initrd.img-6.1.0").write_bytes(b"initrd")
    monkeypatch.setattr(image, "BOOT", boot)
    made = image.make_image(tmp_path, lambda text: None)
    with tarfile.open(made.path) as tar:
        assert {Path(name).name for name in tar.getnames()} >= {"vmlinuz-6.1.0", "initrd.img-6.1.0"}
