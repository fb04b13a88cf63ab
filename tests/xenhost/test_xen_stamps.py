"""Requests stamped with dom0's time: our backend and a publisher in dom0; our frontend in a guest, or a stock guest."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.support.remote_domain import Line, RemoteDisk
from tests.xenhost.conftest import Guest
from tests.xenhost.shell import run
from tests.xenhost.test_xen_guest_disk import attached
from tests.xenhost.test_xen_timepage import publishing
from xenpv.domain import Domain
from xenpv.timepage import open_reader
from xenpv.timepage.subscription import subscribers

ALONE, TOGETHER = 100, 400

STOCK = """
until [ -b /dev/xvdb ]; do sleep 0.1; done
mkfs.ext4 -q /dev/xvdb && e2fsck -fn /dev/xvdb && echo "guest: written"
sleep 600
"""


class Publisher:
    """`xenpv time publish`, that can be killed and started again."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self.start()

    def start(self) -> None:
        self._process = self._stack.enter_context(publishing())

    def kill(self) -> None:
        self._process.kill()
        self._process.wait(30)


@pytest.fixture(scope="module", autouse=True)
def publisher(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Publisher]:
    """A page that ticks, and a backend that offers stamps and measures who has none."""
    with pytest.MonkeyPatch.context() as patch, ExitStack() as stack:
        publisher = Publisher(stack)
        patch.setenv("XENPV_RUNDIR", str(tmp_path_factory.mktemp("run")))
        run("xenpv", "backend", "run", "--daemon", "--stamp", "tick", "--profile", "auto")
        try:
            yield publisher
        finally:
            run("xenpv", "backend", "stop")


def served(guest: Guest) -> dict[str, Any]:
    """What the backend says of the guest's xvdb."""
    listed = json.loads(run("xenpv", "block-list", "--json", guest.name))
    found: dict[str, Any] = next(vbd["backend"] for vbd in listed if vbd["vdev"] == "xvdb")
    return found


def latency(guest: Guest) -> dict[str, Any]:
    """What `xenpv latency` says of the guest's xvdb; it is printed as people see it."""
    print(run("xenpv", "latency", guest.name, "xvdb"))
    shown, = json.loads(run("xenpv", "latency", guest.name, "xvdb", "--json"))
    found: dict[str, Any] = shown["latency"]
    return found


def test_all_stages_show_with_our_frontend_in_a_guest(agent: Guest, line: Line, domain: Domain, tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    image.write_bytes(bytes(2 << 20))
    with open_reader(domain, timeout=60), attached(agent, image):
        with RemoteDisk(line, "xvdb", flag=True, spin=False, stamp="tick") as disk:
            disk.read_alone(ALONE)
            disk.read_together(TOGETHER)
            front, stages, back, measured = disk.counters(), disk.stages(), served(agent), latency(agent)
    ours, = back["counters"]
    print("frontend:", front, "stages:", stages, "backend:", ours)
    assert back["stamp"] == "tick"
    assert front["requests"] == stages["samples"] == front["stages"] + front["stages_unknown"] >= ALONE + TOGETHER
    assert stages["known"] == front["stages"] > front["requests"] // 2
    assert front["stages_wrong"] == 0
    assert ours["stamps"] + ours["stamps_absent"] == front["requests"]
    assert ours["stamps"] > front["requests"] // 2
    assert ours["stamps_future"] == ours["stamps_stale"] == 0
    read = measured["operations"]["read"]
    assert (measured["unit"], measured["resolution_ns"] <= 4_000_000) == ("tick", True)
    assert read["count"] == front["requests"] and read["stages"]["total"]["count"] == ours["stamps"]
    assert read["stages"]["service"]["total"] == sum(
        read["stages"][name]["total"] for name in ("waited", "stored", "answered"))


def test_both_ends_follow_a_publisher_that_was_killed_and_started_again(
        agent: Guest, line: Line, domain: Domain, publisher: Publisher, until: Callable[..., None], tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    image.write_bytes(bytes(2 << 20))

    with attached(agent, image), RemoteDisk(line, "xvdb", flag=True, spin=False, stamp="tick") as disk:
        def both_know() -> bool:
            before = disk.counters()["stages"], served(agent)["counters"][0]["stamps"]
            disk.read_alone(1)
            after = disk.counters()["stages"], served(agent)["counters"][0]["stamps"]
            return all(later > earlier for earlier, later in zip(before, after, strict=True))

        assert len(subscribers(domain.store, 0)) == 1
        until(both_know, "stamps by the first page")
        publisher.kill()
        assert not both_know()
        publisher.start()
        until(both_know, "stamps by the second page", 30)
    until(lambda: not subscribers(domain.store, 0), "the disk has gone, and the backend's subscription with it")


def test_a_stock_guest_that_knows_nothing_of_stamps(guest: Callable[..., Guest], tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    image.write_bytes(bytes(32 << 20))
    made = guest("unaware", STOCK)
    made.wait("guest: up")
    with attached(made, image):
        made.wait("guest: written")
        found, measured = served(made), latency(made)
    assert found["stamp"] is None
    write = measured["operations"]["write"]
    assert write["stages"]["service"]["count"] == write["absent"] > 0
    assert write["stages"]["queued"]["count"] == write["stages"]["total"]["count"] == 0
    counters, = found["counters"]
    assert counters["requests"]["write"] > 0
    assert counters["errors"] == counters["refused"] == counters["halted"] == 0
