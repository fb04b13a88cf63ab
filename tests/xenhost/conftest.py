"""What tests in dom0 share: they are not run elsewhere; guests that end with their test."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.remote_domain import Line
from tests.xenhost.shell import run
from tests.xenhost.stock import KINDS, PATTERN, kernel_disk, qemu_of_dom0
from xenpv.domain import Domain
from xenpv.hypervisors import open_domain
from xenpv.hypervisors.xen import devices
from xenpv.store import XenStore


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


@pytest.fixture(scope="session")
def until(until: Callable[..., None]) -> Callable[..., None]:
    """As everywhere, but looking seldom: what is waited for here needs the CPUs, which are emulated, itself.

    A machine that has other work too gets three times as long.
    """
    def wait(condition: Callable[[], object], what: str, seconds: float = 10.0) -> None:
        until(condition, what, 3 * seconds, 0.2)

    return wait


BRIEF = "mitigations=off rodata=off cryptomgr.notests lsm= audit=0"
"""What a guest's kernel leaves out of its start, which then takes half as long under emulation."""


@dataclass(frozen=True)
class Kind:
    """What a guest is made of."""

    memory: int
    disks: tuple[str, ...] = ()
    options: str = ""


TINY = Kind(256)
"""busybox, from the ramdisk."""
PYTHON = Kind(512, (kernel_disk("/dev/vdd", "xvdy", "ro"), kernel_disk("/dev/vde", "xvdz", "ro")),
              " testhost.root=xvdy testhost.job=xvdz")
"""dom0's own root and /job once more, read-only: Python and this project are there."""


class Guest:
    """A PV guest that runs one script."""

    def __init__(self, folder: Path, name: str, script: str, disks: Sequence[str], until: Callable[..., None],
                 kind: Kind = TINY) -> None:
        self.name, self._until = name, until
        self.log = Path(f"/var/log/xen/console/guest-{name}.log")
        self.log.unlink(missing_ok=True)
        (folder / f"{name}.sh").write_text(script)
        ramdisk, config = folder / f"{name}.ramdisk", folder / f"{name}.cfg"
        run("guest-ramdisk", str(folder / f"{name}.sh"), str(ramdisk))
        config.write_text(f'name = "{name}"\nkernel = "/boot/testhost/kernel"\nramdisk = "{ramdisk}"\n'
                          f'memory = {kind.memory}\nvcpus = 1\ncmdline = "console=hvc0 {BRIEF}{kind.options}"\n'
                          f'disk = {[*kind.disks, *disks]}\n')
        run("xl", "create", str(config))
        self.domid = int(run("xl", "domid", name))

    def said(self) -> str:
        """Its console until now."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def wait(self, text: str, seconds: float = 180) -> str:
        """Until its console says `text`; all that it said. A guest whose script ends without is the test's failure."""
        said = ""

        def there() -> bool:
            nonlocal said
            said = self.said()
            return text in said or "guest: exit" in said

        try:
            self._until(there, f"{text!r} on the console of {self.name}", seconds)
        finally:
            if text not in said:
                print(f"the console of {self.name} ends:\n{said[-3000:]}")
        assert text in said, f"{self.name} ended without saying {text!r}"
        return said

    def destroy(self) -> None:
        """It may have ended by itself. Its disks are free when this returns."""
        subprocess.run(["xl", "destroy", self.name], stdin=subprocess.DEVNULL, capture_output=True)
        self._until(lambda: not list(Path("/sys/bus/xen-backend/devices").glob(f"vbd-{self.domid}-*")),
                    f"dom0's kernel lets go of the disks of {self.name}", 30)


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory, until: Callable[..., None]) -> Iterator[Callable[..., Guest]]:
    """`guest("name", script, ["FILE,raw,xvda,w"], kind)` starts one; it is destroyed at the end of the module."""
    made: list[Guest] = []

    def make(name: str, script: str, disks: Sequence[str] = (), kind: Kind = TINY) -> Guest:
        made.append(Guest(tmp_path_factory.mktemp(name), name, script, disks, until, kind))
        return made[-1]

    yield make
    for each in made:
        each.destroy()


AGENT = "cd /job && python -m tests.support.remote_domain"


@pytest.fixture(scope="session")
def agent(tmp_path_factory: pytest.TempPathFactory, until: Callable[..., None]) -> Iterator[Guest]:
    """A guest with Python, in which an agent serves. It stays until the last test has run."""
    guest = Guest(tmp_path_factory.mktemp("agent"), "agent", AGENT, (), until, PYTHON)
    try:
        guest.wait("agent: serving")
        yield guest
    finally:
        guest.destroy()


@pytest.fixture(scope="session")
def line(agent: Guest) -> Iterator[Line]:
    """Calls to the agent."""
    with XenStore() as dom0:
        yield Line(dom0, agent.domid)


@pytest.fixture(scope="session")
def qemu() -> Iterator[None]:
    """QEMU serves disks to dom0."""
    with qemu_of_dom0():
        yield


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """Of a stock backend."""
    if request.param == "qdisk":
        request.getfixturevalue("qemu")
    return str(request.param)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """With the pattern on it."""
    path = tmp_path / "disk.img"
    path.write_bytes(PATTERN)
    return path


@pytest.fixture
def domain() -> Iterator[Domain]:
    """This one."""
    with open_domain("xen:") as domain:
        yield domain


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


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The notifications that tests counted; also in $XENPV_RESULTS/notifications.json."""
    found = [value for report in terminalreporter.stats.get("passed", [])
             for name, value in report.user_properties if name == "notifications"]
    if not found:
        return
    terminalreporter.section("notifications per 1,000 requests, frontend in a guest, backend in dom0")
    for row in found:
        sent = {key: 1000 * row[key] / row["requests"] for key in ("to_backend", "to_frontend")}
        terminalreporter.line(f"{row['load']:<14} {'spin' if row['spin'] else 'no spin':<8} "
                              f"{'flag' if row['flag'] else 'event index':<12} "
                              f"{sent['to_backend']:7.1f} to the backend {sent['to_frontend']:7.1f} to the frontend")
    if results := os.environ.get("XENPV_RESULTS"):
        Path(results, "notifications.json").write_text(json.dumps(found, indent=1))
