"""dom0's time page on real Xen: through gntalloc here and gntdev in a guest."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.xenhost.conftest import PYTHON
from tests.xenhost.shell import run
from xenpv.domain import Domain
from xenpv.errors import TimePageError
from xenpv.hypervisors import open_domain
from xenpv.timepage import Kernel, Reader, find_page, open_reader

pytestmark = pytest.mark.xen
Until = Callable[..., None]

SCRIPT = "cd /job && python -m tests.xenhost.guest_time"


@contextmanager
def publishing() -> Iterator[subprocess.Popen[str]]:
    """`xenpv time publish` until the block ends."""
    process = subprocess.Popen([sys.executable, "-m", "xenpv_tools", "time", "publish"], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        said = process.stderr.readline()
        assert "the time page is published: jiffies" in said, said
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
        process.communicate(timeout=30)


@pytest.fixture
def dom0() -> Iterator[Domain]:
    with open_domain("xen:") as domain:
        yield domain


class Asked:
    """The guest's reader, asked through the store."""

    def __init__(self, dom0: Domain, domid: int, until: Until) -> None:
        self.domid, self._store, self._until = domid, dom0.store, until
        self._number = 0

    def _answer(self) -> dict[str, Any]:
        path = f"/local/domain/{self.domid}/data/time-answer"
        found: dict[str, Any] = json.loads(self._store.read(path)) if self._store.exists(path) else {}
        return found

    def ready(self) -> dict[str, Any]:
        """Once it has seen the page tick."""
        self._until(lambda: self._answer().get("ask") == "ready", "the guest reads the time page", 180)
        return self._answer()

    def __call__(self) -> dict[str, Any]:
        """What its next reading gives."""
        self._number += 1
        self._store.write(f"/local/domain/{self.domid}/data/time-ask", str(self._number))
        self._until(lambda: self._answer().get("ask") == str(self._number), "the guest answers", 30)
        return self._answer()


def settled(reader: Reader, until: Until) -> int:
    """Ticks missed before now: they are counted when the next one is written."""
    tick = reader.read().tick
    until(lambda: reader.read().tick > tick, "the page ticks")
    return reader.read().missed


def check_near(who: str, off: list[int], missed: int) -> None:
    """`off`: how many ticks each reading is off dom0's own. `missed` ticks were never written meanwhile, and the others are
    seen: so none is further off than these and one more, and nearly all are within one, on a host that is quiet or not.
    """
    near = sum(each <= 1 for each in off)
    print(f"{who}: {near} of {len(off)} within one tick, at most {max(off)}, missed {missed}")
    assert max(off) <= 1 + missed and near >= 0.9 * len(off)


def test_dom0_reads_its_own_page_beside_its_jiffies(dom0: Domain, until: Until) -> None:
    with publishing(), open_reader(dom0) as reader:
        off = []
        missed = settled(reader, until)
        for _ in range(200):
            before = reader.read().tick
            jiffies = Kernel().jiffies()
            after = reader.read().tick
            assert jiffies is not None
            off.append(min(abs(before - jiffies), abs(after - jiffies)))
        check_near("dom0", off, settled(reader, until) - missed)


def test_a_killed_publisher_is_seen_through_the_old_page(dom0: Domain) -> None:
    with publishing() as process, open_reader(dom0) as reader:
        view = reader.view
        assert view is not None and view.alive()
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not view.alive(), "the kernel cleared the byte"


def test_a_guest_reads_dom0_s_jiffies(dom0: Domain, guest: Callable[..., Any], until: Until) -> None:
    kernel = Kernel()
    with publishing() as process:
        guest("time", SCRIPT, kind=PYTHON)
        asked = Asked(dom0, int(run("xl", "domid", "time")), until)
        ready = asked.ready()
        print("guest: ns of a read of the tick, clock_gettime MONOTONIC, COARSE:", ready["cost_ns"])
        off, late = [], []
        first = asked()
        for _ in range(100):
            calibration, before = kernel.calibrate(), kernel.jiffies()
            answer = asked()
            after = kernel.jiffies()
            assert calibration and before is not None and after is not None
            assert "tick" in answer, answer
            # dom0's own tick at the moment that the page names, by dom0's own clock.
            own = calibration.tick + round((answer["tick_ns"] - calibration.coarse_ns) / kernel.tick_nsec())
            off.append(abs(answer["tick"] - own))
            late.append(max(before - answer["tick"], answer["tick"] - after, 0))
        while (last := asked())["tick"] == answer["tick"]:
            pass  # what was missed is counted when the next one is written
        print(f"guest: the page's own tick is at most {max(off)} off dom0's at the same moment")
        assert max(off) <= 1
        check_near("guest", late, last["missed"] - first["missed"])
        generation = answer["generation"]

        process.send_signal(signal.SIGKILL)
        process.wait()
        until(lambda: asked().get("error") in ("TimeStaleError", "TimeAbsentError"), "the guest sees that it died", 30)
        with publishing():
            found: list[dict[str, Any]] = []
            until(lambda: found.append(asked()) or "tick" in found[-1], "the guest finds the successor's page", 60)
            assert "TimeDisruptedError" in [answer.get("error") for answer in found]
            assert found[-1]["generation"] > generation
        dom0.store.write(f"/local/domain/{asked.domid}/data/time-ask", "end")


def test_nobody_publishes(dom0: Domain) -> None:
    with pytest.raises(TimePageError):
        find_page(dom0)
