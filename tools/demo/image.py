"""The demo's image: the one given, or real files of this machine packed into one of at least 256 MiB."""

from __future__ import annotations

import os
import shutil
import subprocess
import sysconfig
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from xenpv.errors import StorageError

from ..bench.files import MIB

LEAST = 256 * MIB
"""Bytes of an image that is made here, at least."""
BOOT = Path("/boot")
_SECTOR = 512


@dataclass(frozen=True)
class Image:
    """A disk image."""

    path: Path
    size: int
    """Bytes."""
    content: str
    """What it holds, in words."""


def given_image(path: Path) -> Image:
    """The user's own. Raises StorageError when it cannot be a disk."""
    try:
        with open(path, "rb") as file:
            size = file.seek(0, os.SEEK_END)
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror}: name an image that can be read") from error
    if size == 0:
        raise StorageError(f"{path} is empty: name an image that holds something")
    if size % _SECTOR:
        raise StorageError(f"{path}: {size} bytes is not a multiple of the sector size of {_SECTOR}: "
                           f"`truncate -s %{_SECTOR} {path}` rounds it up")
    return Image(path.resolve(), size, f"{path}")


def make_image(folder: Path, say: Callable[[str], None]) -> Image:
    """Pack a kernel and its initrd, or the Python library, into an ext4 image in `folder`; a tar without mkfs.ext4."""
    say("collecting files")
    staged = folder / "files"
    content = _kernel_and_initrd(staged) or _python_library(staged)
    made = folder / "image"
    mkfs = shutil.which("mkfs.ext4", path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    say(f"packing {content}")
    if mkfs:
        used = sum(path.stat().st_size for path in staged.rglob("*") if path.is_file())
        size = max(LEAST, (used * 3 // 2 // MIB + 64) * MIB)
        done = subprocess.run([mkfs, "-q", "-F", "-d", str(staged), str(made), f"{size // MIB}M"], text=True,
                              capture_output=True)
        if done.returncode:
            raise StorageError(f"mkfs.ext4 failed: {(done.stderr.strip() or 'without a word').splitlines()[-1]}: "
                               "name an image, `xenpv demo IMAGE`")
        kind = "ext4 image"
    else:
        with tarfile.open(made, "w") as tar:
            tar.add(staged, arcname=".")
        os.truncate(made, max(LEAST, -(-made.stat().st_size // MIB) * MIB))
        kind = "tar, for there is no mkfs.ext4 (e2fsprogs),"
    shutil.rmtree(staged)
    return Image(made, made.stat().st_size, f"{kind} of {content}")


def _kernel_and_initrd(staged: Path) -> str | None:
    """The newest pair in BOOT that this user may read, copied; None when there is none."""
    for kernel in sorted(BOOT.glob("vmlinuz-*"), reverse=True):
        initrd = BOOT / f"initrd.img-{kernel.name.removeprefix('vmlinuz-')}"
        if os.access(kernel, os.R_OK) and os.access(initrd, os.R_OK):
            staged.mkdir()
            shutil.copy2(kernel, staged)
            shutil.copy2(initrd, staged)
            return f"{kernel} and its initrd"
    return None


def _python_library(staged: Path) -> str:
    """Python's own library, copied, without what was installed into it and without caches."""
    library = Path(sysconfig.get_path("stdlib"))
    left_out = shutil.ignore_patterns("site-packages", "dist-packages", "__pycache__", "config-*")
    try:
        shutil.copytree(library, staged, symlinks=True, ignore=left_out, ignore_dangling_symlinks=True)
    except (OSError, shutil.Error) as error:
        raise StorageError(f"{library} cannot be copied ({error}): name an image, `xenpv demo IMAGE`") from error
    return f"Python's library ({library})"
