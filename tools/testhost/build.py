"""Builds a host from Debian packages: dom0's disk, its kernel and ramdisk, the hypervisor, and a guest's ramdisk."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from xenpv.errors import HypervisorError, UsageError

from .ramdisk import Cpio, modules, programs, unpacked_kernel
from .recipe import DOM0_MODULES, GUEST_MODULES, GUEST_PROGRAMS, INSIDE, Host

__all__ = ["RUN_PROGRAMS", "build", "mirror", "need_programs", "network_environment"]

DEFAULT_MIRROR = "http://deb.debian.org/debian"
IMAGE_SIZE = "6G"  # sparse
KEPT = 4  # hosts of a release
SBIN = "/usr/local/sbin:/usr/sbin:/sbin"

BUILD_PROGRAMS = {"debootstrap": "debootstrap", "unshare": "util-linux", "mke2fs": "e2fsprogs"}
RUN_PROGRAMS = {"qemu-system-x86_64": "qemu-system-x86", "mke2fs": "e2fsprogs", "debugfs": "e2fsprogs"}

Say = Callable[[str], None]


def need_programs(wanted: dict[str, str], say: Say) -> None:
    """Sees to it that programs (by name, with their Debian packages) are there.

    As root on Debian they are installed, after one line that says so. Raises UsageError where they cannot be.
    """
    missing = _missing(wanted)
    if not missing:
        return
    command = ["apt-get", "install", "-y", "--no-install-recommends", *missing]
    if os.geteuid() or not shutil.which("apt-get"):
        raise UsageError(f"{', '.join(missing)} must be installed first: run `{' '.join(command)}` as root")
    say(f"installing with apt-get: {' '.join(missing)}")
    for argv in (["apt-get", "update"], command):
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              env=os.environ | {"DEBIAN_FRONTEND": "noninteractive"})
    if done.returncode or _missing(wanted):
        raise UsageError(f"{' '.join(command)} failed: {_last_line(done.stderr)}")


def _missing(wanted: dict[str, str]) -> list[str]:
    path = os.environ.get("PATH", "") + ":" + SBIN
    return sorted({package for program, package in wanted.items() if not shutil.which(program, path=path)})


def build(host: Host, say: Say, again: bool = False) -> None:
    """Builds `host` unless it is there; `again`: in any case. `say` is told each step.

    Raises UsageError where it cannot be built here, HypervisorError where it went wrong (with where the log is).
    """
    if host.built and not again:
        return
    if os.geteuid():
        raise UsageError(f"there is no test host in {host.directory}, and only root can build one: run "
                         "`xenpv testhost build` as root with the same --dir")
    host.directory.parent.mkdir(parents=True, exist_ok=True)
    with _lock(host.directory.parents[1], say):  # apt-get has no patience with another
        need_programs(BUILD_PROGRAMS | RUN_PROGRAMS, say)
    with _lock(host.directory.parent, say):
        if host.built and not again:
            return
        started = time.monotonic()
        say(f"building the test host in {host.directory}: a few minutes, about 2 GB, once")
        for left in host.directory.parent.glob(".*.new"):
            shutil.rmtree(left)
        work = host.directory.with_name(f".{host.directory.name}.new")
        work.mkdir()
        try:
            _build(host, work, say)
        except BaseException:
            if (work / "build.log").exists():
                shutil.move(work / "build.log", _log(host))
            shutil.rmtree(work)
            raise
        # Whoever runs an old one has its files open.
        shutil.rmtree(host.directory, ignore_errors=True)
        work.rename(host.directory)
        _forget_old(host)
        say(f"the test host is built, in {time.monotonic() - started:.0f} s")


def _forget_old(host: Host) -> None:
    """Hosts of older recipes, but for the newest ones: another working tree may use them."""
    built = sorted((path for path in host.directory.parent.iterdir() if (path / "dom0.img").exists()),
                   key=lambda path: path.stat().st_mtime)
    for path in built[:-KEPT]:
        shutil.rmtree(path)


@contextmanager
def _lock(directory: Path, say: Say) -> Iterator[None]:
    """One build at a time: of a release in its folder, of all where programs are installed for them."""
    with (directory / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("waiting for another build")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _log(host: Host) -> Path:
    return host.directory.parent / "build.log"


def _build(host: Host, work: Path, say: Say) -> None:
    root = work / "root"
    settings = {"suite": host.release, "mirror": mirror(), "root": str(root), "packages": " ".join(host.packages),
                "requirements": " ".join(host.requirements)}
    _logged(host, unshared(INSIDE / "rootfs.sh"),
            network_environment(dict(os.environ)) | settings, work / "build.log", say)
    say("ramdisks and dom0's disk")
    release = (work / "kernel-release").read_text().strip()
    busybox = (root / "bin/busybox").read_bytes()
    kernel = unpacked_kernel((work / "vmlinuz").read_bytes())
    (work / "kernel").write_bytes(kernel)
    (root / "boot/testhost/kernel").write_bytes(kernel)

    dom0 = Cpio()
    for folder in ("proc", "dev", "root"):
        dom0.folder(folder)
    dom0.file("bin/busybox", busybox, executable=True)
    dom0.file("init", (INSIDE / "dom0-ramdisk-init").read_bytes(), executable=True)
    modules(dom0, root, release, DOM0_MODULES)
    (work / "ramdisk").write_bytes(dom0.content())

    guest = Cpio()
    for folder in ("proc", "sys", "dev", "mnt", "tmp"):
        guest.folder(folder)
    guest.file("bin/busybox", busybox, executable=True)
    modules(guest, root, release, GUEST_MODULES)
    programs(guest, root, GUEST_PROGRAMS)
    (root / "boot/testhost/guest-modules.cpio").write_bytes(guest.content())

    _logged(host, ["mke2fs", "-q", "-t", "ext4", "-d", str(root), str(work / "dom0.img"), IMAGE_SIZE],
            {"PATH": os.environ.get("PATH", "") + ":" + SBIN}, work / "build.log", say)
    shutil.rmtree(root)


def unshared(script: Path) -> list[str]:
    """Runs a shell script in namespaces of its own: its mounts and processes end with it."""
    return ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", str(script)]


def _logged(host: Host, argv: list[str], environment: dict[str, str], log: Path, say: Say) -> None:
    """Runs a command; its lines go to the log, and those that start with ``step `` to `say` too."""
    with log.open("a") as file, subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, env=environment,
                                                 stderr=subprocess.STDOUT, text=True, errors="replace") as child:
        assert child.stdout is not None
        last = ""
        try:
            for line in child.stdout:
                file.write(line)
                last = line.strip() or last
                if line.startswith("step "):
                    say(line.removeprefix("step ").strip())
        except BaseException:
            child.kill()
            raise
    if child.returncode:
        raise HypervisorError(f"the test host was not built: {last} (all of it in {_log(host)})")


def network_environment(environment: dict[str, str]) -> dict[str, str]:
    """The variables by which programs reach registries, and a PATH."""
    names = {"SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"}
    kept = {name: value for name, value in environment.items()
            if name in names or name.startswith("PIP_") or name.lower().endswith("_proxy")}
    return kept | {"HOME": environment.get("HOME", "/root"), "PATH": f"{environment.get('PATH', '')}:{SBIN}"}


def mirror() -> str:
    """The archive that this machine's apt uses for Debian, else Debian's own."""
    if not shutil.which("apt-get"):
        return DEFAULT_MIRROR
    done = subprocess.run(["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages", "Origin: Debian",
                           "Component: main"], stdin=subprocess.DEVNULL, capture_output=True, text=True)
    # The archive of security updates holds no whole release.
    found = [line for line in done.stdout.split() if line.startswith("http") and "security" not in line]
    return found[0] if found else DEFAULT_MIRROR


def _last_line(text: str) -> str:
    return next((line for line in reversed(text.splitlines()) if line.strip()), "without a word")
