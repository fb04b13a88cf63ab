"""What the test host is made of, and where it is kept.

RULES

- What changes with the project or from one run to the next stands on the job's disk (job.py), so that a host that was
  built once serves until this recipe changes.
"""

from __future__ import annotations

import hashlib
import os
from configparser import ConfigParser
from dataclasses import dataclass
from pathlib import Path

from xenpv.errors import UsageError

__all__ = ["HERE", "LIBC", "PYTHON", "RELEASES", "Host", "default_directory", "project_root", "requirements"]

HERE = Path(__file__).resolve().parent
INSIDE = HERE / "inside"
RELEASES = ("bookworm", "trixie")
"""Debian 12: Xen 4.17, Linux 6.1, Python 3.11. Debian 13: Xen 4.20, Linux 6.12, Python 3.13."""
LIBC = {"bookworm": (2, 36), "trixie": (2, 41)}
"""Their C libraries."""
PYTHON = {"bookworm": (3, 11), "trixie": (3, 13)}
"""Their versions of Python."""

PACKAGES = ["python3", "python3-venv", "xenstore-utils", "kmod", "systemd", "udev", "iproute2", "procps", "busybox-static",
            "e2fsprogs", "fio", "strace", "qemu-system-xen", "mdadm"]
TEST_REQUIREMENTS = ["pytest", "hypothesis"]

DOM0_MODULES = ["virtio_pci", "virtio_blk", "ext4"]
GUEST_MODULES = ["xen_blkfront", "ext4", "overlay"]
GUEST_PROGRAMS = ["/sbin/mkfs.ext4", "/sbin/e2fsck"]

# What makes the host; the rest of `inside` goes to the job's disk.
_BUILD_FILES = ["ramdisk.py", "inside/rootfs.sh", "inside/dom0-ramdisk-init"]
_LAYOUT = "1"
"""Another number for what else changes in build.py."""


def default_directory() -> Path:
    """Where hosts are kept: $XDG_CACHE_HOME/xenpv/testhost."""
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache and cache.startswith("/") else Path.home() / ".cache") / "xenpv" / "testhost"


def project_root() -> Path:
    """The clone that this module stands in. Raises UsageError: an installed package has no sources to test."""
    root = HERE.parent.parent
    if not (root / "setup.cfg").exists():
        raise UsageError("the test host runs a clone's working tree, and this xenpv is installed: run it in a clone")
    return root


def requirements(setup_cfg: Path) -> list[str]:
    """What pip installs in dom0 beside the project: its requirements, and what its tests need there."""
    setup = ConfigParser()
    setup.read(setup_cfg)
    return [*setup["options"]["install_requires"].split(), *TEST_REQUIREMENTS]


@dataclass(frozen=True)
class Host:
    """One host: a release, and the directory that holds it, named after a digest of all that decides what is built.

    So that two working trees with different recipes do not build over each other's host.
    """

    release: str
    directory: Path
    packages: list[str]
    requirements: list[str]

    @classmethod
    def at(cls, release: str, directory: Path | None = None) -> Host:
        """The host of `release` in its folder of `directory`. Raises UsageError."""
        if release not in RELEASES:
            raise UsageError(f"{release} is no release of the test host: it is {' or '.join(RELEASES)}")
        needed = requirements(project_root() / "setup.cfg")
        digest = hashlib.sha256("\0".join([_LAYOUT, release, *PACKAGES, "", *needed]).encode())
        for name in _BUILD_FILES:
            digest.update(b"\0" + (HERE / name).read_bytes())
        return cls(release, (directory or default_directory()).absolute() / release / digest.hexdigest()[:12],
                   PACKAGES, needed)

    @property
    def built(self) -> bool:
        """Whether it is there, and whole."""
        return self.image.exists()

    @property
    def hypervisor(self) -> Path:
        return self.directory / "xen"

    @property
    def kernel(self) -> Path:
        return self.directory / "kernel"

    @property
    def ramdisk(self) -> Path:
        return self.directory / "ramdisk"

    @property
    def image(self) -> Path:
        return self.directory / "dom0.img"
