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
    """A device of the kernel's, the module that makes it, and what xenpv cannot do without it."""

    path: Path
    module: str
    use: str

    def reason(self) -> str | None:
        """Why this process cannot use it, with the mend; None when it can."""
        try:
            os.close(os.open(self.path, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK))
        except OSError as error:
            return why(self, error.errno or 0)
        return None


GNTDEV = Device(DIRECTORY / "gntdev", "xen-gntdev", "map and copy other domains' pages")
GNTALLOC = Device(DIRECTORY / "gntalloc", "xen-gntalloc", "share pages with other domains")
EVTCHN = Device(DIRECTORY / "evtchn", "xen-evtchn", "event channels")
XENBUS = Device(DIRECTORY / "xenbus", "xenfs", "the store in a guest")
DEVICES = (GNTDEV, GNTALLOC, EVTCHN, XENBUS)


def on_xen() -> bool:
    """Whether this kernel runs on Xen."""
    try:
        return HYPERVISOR.read_text().strip() == "xen"
    except OSError:
        return False


def why(device: Device, error: int) -> str:
    """What `error` (errno) of opening `device` means, and the command that mends it."""
    if error in (errno.ENOENT, errno.ENXIO, errno.ENODEV):
        if not on_xen():
            return f"{device.path} is not there, because this kernel does not run on Xen"
        return f"{device.path} is not there: modprobe {device.module}"
    if error in (errno.EACCES, errno.EPERM):
        return f"{device.path} is root's: run this as root, or chown {_user()} {device.path}"
    return f"{device.path} cannot be opened ({os.strerror(error)})"


def _user() -> str:
    return str(os.geteuid())


def unusable(device: Device, error: int) -> HypervisorError:
    """The exception for a device that cannot be opened."""
    return HypervisorError(f"cannot {device.use}: {why(device, error)}" if device is not EVTCHN
                           else f"no event channels: {why(device, error)}")


def control_domain() -> bool:
    """Whether this is dom0, by what xenfs says."""
    try:
        return "control_d" in CAPABILITIES.read_text()
    except OSError:
        return False
