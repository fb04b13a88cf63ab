"""The kernel's driver of a virtual block device, as a sysfs made of plain files shows it."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from xenpv.errors import DeviceError
from xenpv.hypervisors.xen.kernel import VbdDriver

DEVICE = "bus/devices/vbd-51728"


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """The kernel has vbd-51728 as xvdb."""
    (tmp_path / "bus/drivers/vbd").mkdir(parents=True)
    (tmp_path / "bus/drivers/vbd/unbind").touch()
    (tmp_path / DEVICE / "block/xvdb").mkdir(parents=True)
    (tmp_path / DEVICE / "driver").symlink_to(tmp_path / "bus/drivers/vbd")
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/xvdb").touch()
    return tmp_path


def driver(machine: Path, devid: int = 51728) -> VbdDriver:
    return VbdDriver(devid, machine / "bus", machine / "dev")


def asked_to_unbind(machine: Path) -> str:
    return (machine / "bus/drivers/vbd/unbind").read_text()


def test_what_the_kernel_has(machine: Path) -> None:
    found = driver(machine)
    assert found.known and found.holds and found.shows == str(machine / "dev/xvdb")


def test_what_it_knows_without_a_driver(machine: Path) -> None:
    (machine / DEVICE / "driver").unlink()
    found = driver(machine)
    assert found.known and not found.holds


def test_what_it_does_not_know(machine: Path) -> None:
    found = driver(machine, 51744)
    assert not found.known and not found.holds and found.shows is None


def test_without_sysfs_nobody_knows(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="mount sysfs"):
        bool(driver(tmp_path).holds)


def test_unbind_names_the_device(machine: Path) -> None:
    driver(machine).unbind()
    assert asked_to_unbind(machine) == "vbd-51728"


def test_one_that_never_connected(machine: Path) -> None:
    """It has no disk in /dev that somebody could use."""
    (machine / DEVICE / "block/xvdb").rmdir()
    driver(machine).unbind()
    assert asked_to_unbind(machine) == "vbd-51728"


@pytest.mark.parametrize("error, says", [(errno.EBUSY, "xvdb is in use: unmount it"), (errno.EACCES, "run this as root"),
                                         (errno.ENXIO, "No such device")])
def test_a_disk_that_cannot_be_had(machine: Path, monkeypatch: pytest.MonkeyPatch, error: int, says: str) -> None:
    def refused(path: Path, flags: int) -> int:
        assert flags & os.O_EXCL, "a disk that is mounted would be opened"
        raise OSError(error, os.strerror(error), str(path))

    monkeypatch.setattr(os, "open", refused)
    with pytest.raises(DeviceError, match=says):
        driver(machine).unbind()
    monkeypatch.undo()
    assert asked_to_unbind(machine) == ""


def test_a_driver_that_may_not_be_told(machine: Path) -> None:
    (machine / "bus/drivers/vbd/unbind").unlink()
    with pytest.raises(DeviceError, match="cannot take vbd-51728 from the kernel"):
        driver(machine).unbind()


def test_the_disk_is_not_kept_open(machine: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    driver(machine).unbind()
    assert len(os.listdir("/proc/self/fd")) == before
