"""What tests in dom0 share: they are not run elsewhere; guests that end with their test."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from xenpv.hypervisors.xen import devices


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark all of them `xen`, and skip them with the reason where one device is missing."""
    reason = next((": ".join(found) for device in devices.DEVICES if (found := device.trouble())), None)
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.xen)
            if reason:
                item.add_marker(pytest.mark.skip(reason=f"needs a real Xen: {reason}"))


COMMAND = "xenpv testhost run tests/xenhost/run.sh tests setup.cfg"


def in_dom0() -> bool:
    """Xen says so to its control domain alone."""
    try:
        return "control_d" in Path("/proc/xen/capabilities").read_text()
    except OSError:
        return False


@pytest.fixture(autouse=True)
def dom0() -> None:
    """Every test in this folder needs dom0."""
    if not in_dom0():
        pytest.skip(f"needs dom0 of a Xen host: {COMMAND}")


def run(*argv: str) -> str:
    """A command's output; its failure is the test's."""
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(argv)}: {done.stdout}{done.stderr}"
    return done.stdout


class Guest:
    """A PV guest that runs one script."""

    def __init__(self, folder: Path, name: str, script: str, disks: list[str], until: Callable[..., None]) -> None:
        self.name, self._until = name, until
        self.log = Path(f"/var/log/xen/console/guest-{name}.log")
        (folder / f"{name}.sh").write_text(script)
        ramdisk, config = folder / f"{name}.ramdisk", folder / f"{name}.cfg"
        run("guest-ramdisk", str(folder / f"{name}.sh"), str(ramdisk))
        config.write_text(f'name = "{name}"\nkernel = "/boot/testhost/kernel"\nramdisk = "{ramdisk}"\nmemory = 256\n'
                          f'vcpus = 1\ncmdline = "console=hvc0 mitigations=off"\ndisk = {disks}\n')
        run("xl", "create", str(config))

    def said(self) -> str:
        """Its console until now."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def wait(self, text: str, seconds: float = 180) -> str:
        """Until its console says `text`; all that it said."""
        self._until(lambda: text in self.said(), f"{text!r} on the console of {self.name}", seconds)
        return self.said()


@pytest.fixture
def guest(tmp_path: Path, until: Callable[..., None]) -> Iterator[Callable[..., Guest]]:
    """`guest("name", script, ["FILE,raw,xvda,w"])` starts one; it is destroyed at the test's end."""
    names: list[str] = []

    def make(name: str, script: str, disks: list[str]) -> Guest:
        names.append(name)
        return Guest(tmp_path, name, script, disks, until)

    yield make
    for name in names:
        subprocess.run(["xl", "destroy", name], stdin=subprocess.DEVNULL, capture_output=True)  # most have ended by then


@pytest.fixture(scope="session", autouse=True)
def kernel_does_not_complain() -> Iterator[None]:
    """Over all tests, dom0's kernel reports no bug and keeps its taint."""
    if not in_dom0():
        yield
        return
    before = Path("/proc/sys/kernel/tainted").read_text()
    yield
    found = [line for line in run("dmesg").splitlines() if "BUG:" in line or "WARNING:" in line or "Bad page" in line]
    assert not found, found
    assert Path("/proc/sys/kernel/tainted").read_text() == before
