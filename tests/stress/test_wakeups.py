"""Two processes, no spin, one or two requests in flight, seeded pauses: every request crosses two sleeps.

A lost wake-up shows as a rescue, a second later. The stress is worth something only if the sides really slept, so the
sleeps are counted and there must be 100,000 on each. (What a stress cannot show, the model in tests/model does.)
"""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from xenpv.hypervisors import open_domain
from xenpv.hypervisors.emulated import host
from xenpv.ring import initialise
from xenpv.stats import PAGE_BYTES, decode_back
from xenpv_frontend.queue import IoArray, Queue

from .backend import SECTORS, stamp

SLEEPS = 100_000
MOST = 2_000_000
"""Requests after which the test gives up: more than enough for the sleeps that it wants."""

pytestmark = pytest.mark.stress


@pytest.mark.parametrize("flag", [True, False], ids=["flag", "event-index"])
def test_no_wakeup_is_lost_between_two_processes(tmp_path: Path, flag: bool) -> None:
    run = tmp_path / "run"
    pauses = random.Random(7)
    page = tmp_path / "stats"
    page.write_bytes(bytes(PAGE_BYTES))
    with host.running(run):
        domid = host.request(run, "create", name="guest")["domid"]
        with open_domain(f"emulated:{run}#{domid}") as domain, domain.grants.share(0) as ring, \
                domain.grants.share(0, 2) as pool, domain.events.bind_unbound(0) as channel:
            initialise(ring.memory)
            back = subprocess.Popen(
                [sys.executable, "-m", "tests.stress.backend", f"emulated:{run}", str(domid), str(channel.port),
                 str(ring.refs[0]), str(int(flag)), "8", str(page)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                cwd=Path(__file__).parents[2])
            try:
                assert back.stdout is not None and back.stdout.readline() == "ready\n"
                with Queue(domain.open_core(), channel, ring=ring.memory, pool=pool.memory, pool_refs=pool.refs,
                           flag=flag, spin_ns=0) as queue:
                    front = drive(queue, pool.memory, pauses, lambda: decode_back(page.read_bytes())["sleeps"])
                back.communicate(timeout=30)
            finally:
                back.kill()
                back.wait()
    assert front["rescues"] == 0
    assert front["sleeps"] >= SLEEPS
    assert decode_back(page.read_bytes())["sleeps"] >= SLEEPS
    assert back.returncode == 0


def drive(queue: Queue, pool: memoryview, pauses: random.Random, slept_there: Callable[[], int]) -> dict[str, int]:
    """Read sectors, one or two at a time, until both sides have slept often enough; the frontend's counters."""
    submit, done = IoArray(2), IoArray(2)
    for slot in range(2):
        submit.page[slot], submit.bytes[slot], submit.op[slot] = slot, 512, 0
    for number in range(MOST):
        count = pauses.choice((1, 2))
        for slot in range(count):
            submit.sector[slot] = pauses.randrange(SECTORS)
        _, finished = queue.exchange(submit, 0, count, done, at_least=count, timeout=30)
        assert finished == count, "a request was not answered within 30 s"
        for slot in range(finished):
            page = 4096 * done.page[slot]
            assert pool[page:page + 512] == stamp(done.sector[slot])
        for _ in range(pauses.choice((0, 0, 0, 30, 300))):
            pass
        if number % 1000 == 0 and min(queue.stats()["sleeps"], slept_there()) >= SLEEPS:
            break
    return queue.stats()
