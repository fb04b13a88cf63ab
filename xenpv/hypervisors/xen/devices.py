"""The kernel's devices for Xen: which ones xenpv uses, and what mends it when one cannot be used."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from pathlib import Path

from xenpv.errors import HypervisorError

DIRECTORY = Path("/dev/xen")
CAPABILITIES = Path("/proc/xen/capabilities")
HYPERVISOR = Path("/sys/hypervisor/type")

GNTALLOC_LIMIT = Path("/sys/module/xen_gntalloc/parameters/limit")
"""Pages that all processes of this domain together may have shared through gntalloc."""


@dataclass(frozen=True, slots=True)
class Device:
    """A device of the kernel's: what it is needed for, and the command that makes it appear."""

    path: Path
    use: str
    command: str

    def trouble(self) -> tuple[str, str] | None:
        """What keeps this process from using it, and the mend; None when nothing does."""
        try:
            os.close(os.open(self.path, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK))
        except OSError as error:
            return self.explain(error.errno or 0)
        return None

    def explain(self, error: int) -> tuple[str, str]:
        """What `error`, an errno of opening it, means, and the mend."""
        if error in (errno.ENOENT, errno.ENXIO, errno.ENODEV):
            if not on_xen():
                return f"{self.path} is not there, since this kernel does not run on Xen", "`xenpv emu up` needs none"
            return f"{self.path} is not there", self.command
        if error in (errno.EACCES, errno.EPERM):
            return f"{self.path} is not for this user", f"run this as root, or chown {os.geteuid()} {self.path}"
        return f"{self.path} cannot be opened ({os.strerror(error)})", f"is it the kernel's? {self.command}"

    def unusable(self, error: int) -> HypervisorError:
        """The exception for an `error` (errno) of opening it."""
        return HypervisorError(f"no {self.use}: " + ": ".join(self.explain(error)))


GNTDEV = Device(DIRECTORY / "gntdev", "use of other domains' pages", "modprobe xen-gntdev")
GNTALLOC = Device(DIRECTORY / "gntalloc", "pages to share with other domains", "modprobe xen-gntalloc")
EVTCHN = Device(DIRECTORY / "evtchn", "event channels", "modprobe xen-evtchn")
XENBUS = Device(DIRECTORY / "xenbus", "way to the store in a guest", "modprobe xenfs && mount -t xenfs xenfs /proc/xen")
DEVICES = (GNTDEV, GNTALLOC, EVTCHN, XENBUS)


def on_xen() -> bool:
    """Whether this kernel runs on Xen."""
    try:
        return HYPERVISOR.read_text().strip() == "xen"
    except OSError:
        return False


def control_domain() -> bool:
    """Whether this is dom0, by what xenfs says."""
    try:
        return "control_d" in CAPABILITIES.read_text()
    except OSError:
        return False
