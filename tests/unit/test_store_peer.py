"""The store's contract, against Xen's own C xenstored: run without Xen (-D), on a socket of the test's own."""

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from xenpv.domain import Store
from xenpv.store import XenStore
from xenpv.testing import store as contract

PROGRAMS = sorted(Path("/usr/lib").glob("xen-*/bin/xenstored")) + [Path("/usr/sbin/xenstored")]

pytestmark = pytest.mark.peer


@pytest.fixture(scope="module")
def socket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    program = next((path for path in PROGRAMS if os.access(path, os.X_OK)), None)
    if program is None:
        pytest.skip("no xenstored here (Debian: xen-utils-4.17)")
    place = tmp_path_factory.mktemp("xs")
    environment = os.environ | {"XENSTORED_RUNDIR": str(place), "XENSTORED_ROOTDIR": str(place)}
    environment.pop("XENSTORED_PATH", None)
    with subprocess.Popen([program, "-D", "-N"], env=environment, stdout=subprocess.DEVNULL,
                          stderr=subprocess.PIPE) as daemon:
        try:
            deadline = time.monotonic() + 10
            while not (place / "socket").exists():
                if daemon.poll() is not None or time.monotonic() > deadline:
                    daemon.kill()
                    pytest.skip(f"xenstored does not run here: {daemon.communicate()[1].decode()!r}")
                time.sleep(0.01)
            yield str(place / "socket")
        finally:
            daemon.kill()


@pytest.mark.parametrize("check", contract.CHECKS, ids=lambda check: check.__name__)
def test_contract(socket: str, check: Callable[[contract.Maker, str], None]) -> None:
    def make() -> Store:
        return XenStore(socket)
    check(make, contract.BASE)


def test_relative_and_absolute_events(socket: str) -> None:
    contract.check_watch_paths(lambda: XenStore(socket))


def test_domain_path(socket: str) -> None:
    contract.check_domain_path(lambda: XenStore(socket))
