"""`xenpv time` in processes of its own: a publisher in domain 0, readers in a guest."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.test_cli import STAYS, Command, run_directory
from tests.support.threads import signal_another_thread
from xenpv.hypervisors.emulated.client import EmulatedDomain
from xenpv.timepage.kernel import TIMER_LIST, Kernel
from xenpv.timepage.subscription import subscribers

Until = Callable[..., None]


@pytest.fixture(scope="module")
def xenpv(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Command]:
    """An emulated Xen with one guest."""
    with run_directory(tmp_path_factory.mktemp("time")) as command:
        command("emu", "up")
        command("create", command.config("guest", xenpv_exec=command.python("stays.py", STAYS)))
        yield command
        (command.run / "time.lock").unlink(missing_ok=True)  # a publisher that was killed leaves it to the next one


@contextmanager
def publishing(xenpv: Command, *words: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen([*xenpv.argv, "time", "publish", *words], env=xenpv.environment, cwd=xenpv.cwd,
                               stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        assert "the time page is published" in process.stderr.readline()
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)


def guest(xenpv: Command) -> list[str]:
    return ["--hypervisor", f"emulated:{xenpv.run}#1"]


def doctor(xenpv: Command, *words: str, where: list[str] | None = None) -> tuple[int, dict[str, Any]]:
    """In the guest, unless `where` says otherwise."""
    done = subprocess.run([*xenpv.argv, *(guest(xenpv) if where is None else where), "time", "doctor", "--json", *words],
                          env=xenpv.environment, capture_output=True, text=True, timeout=60)
    return done.returncode, json.loads(done.stdout)


def test_a_guest_reads_the_tick(xenpv: Command) -> None:
    with publishing(xenpv):
        lines = xenpv(*guest(xenpv), "time", "read", "-c", "3", "-i", "0.05").splitlines()
    ticks = [int(line.split()[0]) for line in lines]
    assert len(ticks) == 3 and ticks == sorted(ticks)


def test_the_page_is_shown(xenpv: Command) -> None:
    with publishing(xenpv):
        shown = xenpv.json(*guest(xenpv), "time", "show")
    assert shown["kind"] in ("jiffies", "coarse")
    assert shown["boot_id"] == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert max(point["tick"] for point in shown["history"]) == shown["tick"]


def test_ended_and_dead_publishers(xenpv: Command) -> None:
    with publishing(xenpv) as process:
        xenpv(*guest(xenpv), "time", "read")
        signal_another_thread(process.pid, signal.SIGTERM)
        assert process.wait(30) == 0
    assert "xenpv time publish" in xenpv(*guest(xenpv), "time", "read", "--wait", "0.1", status=1)
    status, found = doctor(xenpv, "--seconds", "0.2", "--wait", "0.1")
    assert (status, found["healthy"], [each["name"] for each in found["findings"]]) == (1, False, ["absent"])


def test_only_one_publishes(xenpv: Command) -> None:
    with publishing(xenpv) as process:
        assert f"pid {process.pid}" in xenpv("time", "publish", status=2)


def test_a_guest_cannot_publish(xenpv: Command) -> None:
    assert "dom0" in xenpv(*guest(xenpv), "time", "publish", status=2)


def test_dry_run(xenpv: Command) -> None:
    assert "would publish" in xenpv("time", "publish", "-N")


def test_who_has_read_is_subscribed_no_more(xenpv: Command) -> None:
    with publishing(xenpv), EmulatedDomain(f"emulated:{xenpv.run}") as dom0:
        xenpv(*guest(xenpv), "time", "read")
        assert subscribers(dom0.store, 1) == []


@pytest.mark.parametrize(("fault", "name"), [
    ("tear", "torn"), ("jump-back", "back"), ("kill", "dead"),
    # Two seconds each; what the doctor makes of a page is tried with time as a parameter, in unit/timepage.
    *(pytest.param(*row, marks=pytest.mark.stress) for row in (
        ("freeze", "frozen"), ("jump-forward", "jump"), ("wrap", "wrap"), ("migrate", "migrated")))])
def test_the_doctor_names_each_fault(xenpv: Command, fault: str, name: str) -> None:
    with publishing(xenpv, "--fault", fault) as publisher, subprocess.Popen(
            [*xenpv.argv, *guest(xenpv), "time", "doctor", "--json", "--seconds", "1.2"], env=xenpv.environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None and "watching" in process.stderr.readline()
        publisher.send_signal(signal.SIGUSR1)
        status, found = process.wait(60), json.loads(process.communicate()[0])
    names = {each["name"] for each in found["findings"]}
    assert name in names, found
    assert status == 1 or fault == "wrap"


def test_in_domain_0_the_page_is_held_against_the_kernels_own_jiffies(xenpv: Command) -> None:
    if Kernel().jiffies() is None:
        pytest.skip(f"{TIMER_LIST} cannot be read here: it is for root, and containers may hide it")
    found: list[dict[str, Any]] = []
    with publishing(xenpv):
        for _ in range(5):  # a publisher that was kept from its CPU for several ticks is late, and no more
            findings = doctor(xenpv, "--seconds", "0.1", where=[])[1]["findings"]
            found += (each for each in findings if each["name"] == "jiffies")
            if found[-1:] and found[-1]["level"] == "good":
                break
    assert found and found[-1]["level"] == "good", found


def test_a_guest_has_no_kernel_of_dom0s_to_hold_the_page_against(xenpv: Command) -> None:
    with publishing(xenpv):
        assert "jiffies" not in {each["name"] for each in doctor(xenpv, "--seconds", "0.1")[1]["findings"]}
