"""xenpv doctor: looks at this machine, and changes nothing."""

from __future__ import annotations

import os
import platform
import resource
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import click

from xenpv.errors import XenpvError

from ..session import Session, verb

OK, MISSING, NOTE = "ok", "MISSING", "note"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at. `result`: ok, MISSING (xenpv cannot do its work) or note (a part of it cannot)."""

    name: str
    result: str
    text: str
    mend: str = ""


@click.command("doctor")
@verb(json=True, changes=False)
def command(session: Session) -> None:
    """What is missing here, and the mend. Exit status 1 when xenpv cannot do its work."""
    findings = [finding for look in LOOKS for finding in look(session)]
    session.show([asdict(finding) for finding in findings], "\n".join(
        f"{each.result:<7}  {each.name:<14} {each.text}{': ' + each.mend if each.mend else ''}" for each in findings))
    if any(each.result == MISSING for each in findings):
        click.get_current_context().exit(1)


def _python(session: Session) -> Iterator[Finding]:
    there = sys.version_info >= (3, 11)
    yield Finding("python", OK if there else MISSING, platform.python_version(),
                  "" if there else "xenpv needs 3.11 or newer")


def _core(session: Session) -> Iterator[Finding]:
    try:
        import xenpv.ring  # noqa: F401  # it loads the core
    except ImportError as error:
        yield Finding("core", MISSING, f"the C core cannot be loaded ({error})",
                      "install xenpv again: `pip install .` builds it with a C compiler and Python.h")
    else:
        yield Finding("core", OK, f"loaded, for {platform.machine()}")


def _machine(session: Session) -> Iterator[Finding]:
    known = platform.machine() in ("x86_64", "aarch64") and platform.system() == "Linux"
    yield Finding("machine", OK if known else NOTE, f"{platform.system()} {platform.release()} {platform.machine()}",
                  "" if known else "xenpv is tried on Linux, x86_64 and aarch64")
    cpus = len(os.sched_getaffinity(0))
    yield Finding("cpus", OK if cpus > 1 else NOTE, str(cpus),
                  "" if cpus > 1 else "with one CPU nobody spins, and both ends take turns")


def _engine(session: Session) -> Iterator[Finding]:
    try:
        from xenpv_backend.queue import Service

        with Service(engine="io_uring") as service:
            yield Finding("io_uring", OK, f"engine {service.engine}")
    except XenpvError:
        yield Finding("io_uring", NOTE, "not allowed here, threads are used",
                      "sysctl kernel.io_uring_disabled=0, or a seccomp profile that lets it through")
    except ImportError:
        yield Finding("io_uring", NOTE, "not looked at, because the core cannot be loaded")


def _memory(session: Session) -> Iterator[Finding]:
    try:
        os.close(os.memfd_create("xenpv-doctor", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING))
    except OSError as error:
        yield Finding("memfd", MISSING, f"no sealed memory ({error.strerror})", "the emulated Xen needs memfd_create")
    else:
        yield Finding("memfd", OK, "sealed memory can be made")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    enough = hard >= 4096
    yield Finding("descriptors", OK if enough else NOTE, f"{soft}, at most {hard}",
                  "" if enough else "many disks need more: `ulimit -Hn 65536`")


def _hypervisor(session: Session) -> Iterator[Finding]:
    yield from _xen()
    try:
        uri = session.uri()
    except XenpvError as error:
        yield Finding("run directory", MISSING, str(error))
        return
    yield Finding("hypervisor", OK, uri)
    try:
        directory = session.run_directory()
        yield _directory(directory)
        session.open_domain().close()
    except (XenpvError, ImportError) as error:
        yield Finding("reach it", NOTE, str(error))
    else:
        yield Finding("reach it", OK, "this process's domain can be opened")


def _xen() -> Iterator[Finding]:
    """A real Xen: its devices, each with the command that makes it usable."""
    from xenpv.hypervisors.xen import devices

    if not devices.on_xen():
        yield Finding("/dev/xen", NOTE, "no real Xen here", "the emulated Xen needs none: `xenpv emu up`")
        return
    dom0 = devices.control_domain()
    yield Finding("/dev/xen", OK, "a real Xen, and this is " + ("dom0" if dom0 else "a guest"))
    socket = Path("/run/xenstored/socket").exists()
    for device in devices.DEVICES:
        found = device.trouble()
        if found is None:
            yield Finding(str(device.path), OK, "can be used")
        else:  # with xenstored's socket nobody needs the kernel's way to it
            yield Finding(str(device.path), NOTE if device is devices.XENBUS and socket else MISSING, *found)
    if not devices.CAPABILITIES.exists():
        yield Finding("/proc/xen", NOTE, "not mounted, so xl and stock daemons do not work",
                      "modprobe xenfs && mount -t xenfs xenfs /proc/xen")
    try:
        limit = int(devices.GNTALLOC_LIMIT.read_text())
    except (OSError, ValueError):
        return
    yield Finding("gntalloc limit", OK if limit > 1024 else NOTE, f"{limit} pages for all frontends of this domain",
                  "" if limit > 1024 else f"more than two disks need more: echo 65536 >{devices.GNTALLOC_LIMIT}")


def _directory(path: Path) -> Finding:
    """A run directory, or the place where it would be made."""
    if path.exists():
        found = path.stat()
        ours = found.st_uid == os.geteuid() and not found.st_mode & 0o077
        return Finding("run directory", OK if ours else MISSING, str(path),
                       "" if ours else f"it is not yours alone: chmod 700 {path}, or set XENPV_RUNDIR")
    above = next(parent for parent in path.parents if parent.exists())
    able = os.access(above, os.W_OK | os.X_OK)
    return Finding("run directory", OK if able else MISSING, f"{path}, not made yet",
                   "" if able else f"{above} may not be written: set XENPV_RUNDIR to a directory of yours")


def _programs(session: Session) -> Iterator[Finding]:
    for program, package, use in (("fio", "fio", "bench"), ("nbdkit", "nbdkit", "bench"),
                                  ("mkfs.ext4", "e2fsprogs", "demo's file system"),
                                  ("xenstore-ls", "xenstore-utils", "the stock clients")):
        found = shutil.which(program, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
        yield Finding(program, OK if found else NOTE, found or f"not installed, so no {use}",
                      "" if found else f"apt-get install {package}")


def _storage(session: Session) -> Iterator[Finding]:
    """What storages of others need, and plug-ins."""
    from xenpv_backend.storage import plug_ins
    from xenpv_backend.storage.nbd import libnbd
    from xenpv_backend.storage.rbd import binding

    for name, load in (("nbd", libnbd.load), ("rbd", binding.load)):
        try:
            load()
        except XenpvError as error:
            yield Finding(f"{name}: disks", NOTE, str(error))
        else:
            yield Finding(f"{name}: disks", OK, "its library is here")
    found = plug_ins()
    if found:
        yield Finding("plug-ins", OK, f"storages and filters of installed distributions: {', '.join(found)}")


LOOKS: tuple[Callable[[Session], Iterator[Finding]], ...] = (
    _python, _core, _machine, _engine, _memory, _hypervisor, _storage, _programs)
