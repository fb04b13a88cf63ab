"""The kernel's own frontend of a virtual block device, xen-blkfront, as sysfs shows it.

RULES
- A disk that somebody uses is not taken from the kernel. Who mounts it, or makes it swap or a part of another device, has
  it open exclusively; so have we, from before the kernel's driver lets go until after.

Source: Linux's drivers/xen/xenbus/xenbus_probe.c (the bus and what unbinding does), Documentation/driver-api/driver-model.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

from xenpv.errors import DeviceError

BUS = Path("/sys/bus/xen")
NODES = Path("/dev")


class VbdDriver:
    """KernelDriver of the virtual block device `devid`."""

    def __init__(self, devid: int, bus: Path = BUS, nodes: Path = NODES) -> None:
        self._name = f"vbd-{devid}"
        self._bus = bus
        self._device = bus / "devices" / self._name
        self._unbind = bus / "drivers" / "vbd" / "unbind"
        self._nodes = nodes

    @property
    def known(self) -> bool:
        return self._device.exists()

    @property
    def holds(self) -> bool:
        if not self._bus.exists():
            raise DeviceError(f"cannot see whether the kernel has {self._name}: {self._bus} is not there: mount sysfs")
        return (self._device / "driver").exists()

    @property
    def shows(self) -> str | None:
        disk = self._disk()
        return None if disk is None else str(disk)

    def _disk(self) -> Path | None:
        try:
            names = sorted(path.name for path in (self._device / "block").iterdir())
        except OSError:
            return None
        return self._nodes / names[0] if names else None

    def unbind(self) -> None:
        disk = self._disk()
        if disk is None:
            self._write()  # it never connected: there is nothing that anybody could use
            return
        try:
            fd = os.open(disk, os.O_RDONLY | os.O_EXCL | os.O_CLOEXEC)
        except OSError as error:
            if error.errno == errno.EBUSY:
                raise DeviceError(f"{disk} is in use: unmount it (`findmnt -S {disk}`, `swapon --show` and `lsblk {disk}` "
                                  "say by whom)") from None
            raise self._refused(error) from error
        try:
            os.fsync(fd)  # what was written to it before is on the backend's side then
            self._write()
        except OSError as error:
            raise DeviceError(f"{disk} cannot be taken from the kernel: its writing back failed "
                              f"({error.strerror})") from error
        finally:
            os.close(fd)

    def _write(self) -> None:
        try:
            fd = os.open(self._unbind, os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(fd, self._name.encode())
            finally:
                os.close(fd)
        except OSError as error:
            if error.errno != errno.ENODEV:  # that is what we wanted
                raise self._refused(error) from error

    def _refused(self, error: OSError) -> DeviceError:
        what = f"{error.filename or self._unbind}: {error.strerror}"
        mend = ": run this as root" if error.errno in (errno.EACCES, errno.EPERM) else ""
        return DeviceError(f"cannot take {self._name} from the kernel ({what}){mend}")
