"""`xenpv bench`, with tiny files and short runs: what comes out, and that nothing stays behind. No figure is judged."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from xenpv_tools.bench.cases import CASES
from xenpv_tools.scratch import directory_prefix

from xenpv.hypervisors.emulated import host
from xenpv.ring import EMULATED_SPIN_NS
from xenpv.stats import decode_back
from xenpv.timepage import Kernel

pytestmark = pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="there is no /dev/shm here")
TICK_US = Kernel().tick_nsec() / 1000
FIGURES = ("iops", "bytes_per_second", "p50_us", "p99_us", "cpu_us_per_io")


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "xenpv_tools", "bench", "--size", "8M", "--seconds", "0.05", *arguments]


def leftovers(pid: int) -> set[str]:
    """What the bench in process `pid` makes outside of itself: directories in /dev/shm, processes that name them."""
    mark = directory_prefix("bench", pid)
    found = {str(path) for path in Path("/dev/shm").glob(f"{mark}*")}
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes()
        except OSError:  # it has ended meanwhile
            continue
        if mark.encode() in line:
            found.add(f"{path.parent.name}: {line.decode(errors='replace')}")
    return found


@pytest.fixture
def begin() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts a bench. At the end of the test it has ended, and nothing of it is left."""
    begun: list[subprocess.Popen[str]] = []

    def start(*arguments: str, env: dict[str, str] | None = None) -> subprocess.Popen[str]:
        begun.append(subprocess.Popen(command(*arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                      env=env))
        return begun[-1]

    yield start
    for process in begun:
        process.kill()
        process.communicate()
        assert leftovers(process.pid) == set()


@pytest.fixture
def bench(begin: Callable[..., subprocess.Popen[str]]) -> Callable[..., dict[str, Any]]:
    """Runs one with --json: its answer."""
    def run(*arguments: str, env: dict[str, str] | None = None) -> dict[str, Any]:
        process = begin("--json", *arguments, env=env)
        said, complaints = process.communicate(timeout=120)
        assert process.returncode == 0, complaints
        return dict(json.loads(said))

    return run


@pytest.mark.peer
def test_all_systems_on_tmpfs(requires: Callable[[str], str], bench: Callable[..., dict[str, Any]]) -> None:
    requires("fio")
    requires("nbdkit")
    requires("qemu-storage-daemon")
    # Longer than the others: fio's CPU time is its own less what it takes to start.
    found = bench("--case", "randread-4k-qd1", "--storage", "tmpfs", "--runs", "1", "--seconds", "0.2")
    assert [row["system"] for row in found["results"]] == ["xenpv", "raw", "nbdkit", "qemu-storage-daemon"]
    assert all(row[figure] > 0 for row in found["results"] for figure in FIGURES)
    assert found["not_run"] == []


def test_each_case_on_a_disk(tmp_path: Path, bench: Callable[..., dict[str, Any]]) -> None:
    found = bench("--storage", "disk", "--dir", str(tmp_path), "--system", "xenpv", "--runs", "1")
    rows = found["results"]
    if not rows:
        pytest.skip(str(found["not_run"]))
    assert [(row["case"], row["storage"]) for row in rows] == [(case, "disk") for case in CASES]
    assert all(row["iops"] > 0 for row in rows)


def test_missing_programs_are_not_run_and_say_so(tmp_path: Path, bench: Callable[..., dict[str, Any]]) -> None:
    found = bench("--case", "randread-4k-qd1", "--storage", "tmpfs", "--runs", "1",
                  env={**os.environ, "PATH": str(tmp_path)})
    assert [row["system"] for row in found["results"]] == ["xenpv"]
    assert {entry["system"]: entry["reason"] for entry in found["not_run"]} == {
        name: "fio is not installed (apt-get install fio)" for name in ("raw", "nbdkit", "qemu-storage-daemon")}


def test_a_case_of_ones_own_and_its_picture(tmp_path: Path, bench: Callable[..., dict[str, Any]]) -> None:
    picture = tmp_path / "bench.svg"
    found = bench("--rw", "rw", "--block", "64k", "--depth", "4", "--reads", "60", "--storage", "tmpfs", "--system",
                  "xenpv", "--runs", "1", "--plot", str(picture))
    assert [row["case"] for row in found["results"]] == ["rw60-64k-qd4"]
    assert "rw60-64k-qd4, tmpfs" in "".join(ElementTree.parse(picture).getroot().itertext())


def test_a_disk_of_several_queues_is_named_as_one(bench: Callable[..., dict[str, Any]]) -> None:
    """More of them than a backend offers by itself."""
    found = bench("--queues", "6", "--case", "randread-4k-qd32", "--storage", "tmpfs", "--system", "xenpv", "--runs", "1")
    [row] = found["results"]
    assert found["options"]["queues"] == row["options"]["features"]["queues"] == row["options"]["backend"]["queues"] == 6
    assert "6 x 64 entries" in row["options"]["setup"] and row["iops"] > 0


@pytest.mark.parametrize("arguments", [
    ("--queues", "2", "--notifications"), ("--queues", "2", "--profiling"), ("--queues", "2", "--agent"),
    ("--rw", "read", "--case", "randread-4k-qd1"), ("--rw", "read", "--block", "5000"),
    ("--plot", "x.svg", "--vbds", "4"), ("--plot", "x.png"),
    ("--vbds", "8", "--size", "4M"), ("--vbds", "4", "--system", "raw"), ("--disk", "xvda"), ("--agent", "--disk", "xvda"),
    ("--guest", "guest", "--disk", "xvda", "--vbds", "4")])
def test_what_does_not_go_together_is_one_line(arguments: tuple[str, ...]) -> None:
    done = subprocess.run(command(*arguments), capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1


def test_backends_are_compared_on_a_real_xen_alone(tmp_path: Path) -> None:
    with host.running(tmp_path / "run"):
        done = subprocess.run(command("--guest", "guest", "--disk", "xvda"), capture_output=True, text=True, timeout=60,
                              check=False, env={**os.environ, "XENPV_HYPERVISOR": f"emulated:{tmp_path / 'run'}"})
    assert done.returncode == 2 and "real Xen" in done.stderr and len(done.stderr.splitlines()) == 1


def test_notifications_are_counted_in_both_modes(bench: Callable[..., dict[str, Any]]) -> None:
    found = bench("--notifications", "--runs", "1")
    assert {(row["load"], row["mode"]) for row in found["loads"]} == {
        (load, mode) for load in ("steady-qd32", "bursts-of-32", "qd1") for mode in ("flag", "event_index")}
    assert {row["spin_us"] for row in found["loads"]} == {0, EMULATED_SPIN_NS // 1000}
    assert [row["rescues"] for row in found["loads"]] == [0] * 12


def requests_served(pid: int) -> int:
    """By the backend of the bench in process `pid`."""
    pages = Path("/dev/shm").glob(f"{directory_prefix('bench', pid)}*/run/backend/*.stats")
    return sum(sum(decode_back(page.read_bytes())["requests"].values()) for page in pages)


@pytest.fixture
def in_a_run(begin: Callable[..., subprocess.Popen[str]], until: Callable[..., None]) -> subprocess.Popen[str]:
    """A bench whose load runs, and would for a minute."""
    process = begin("--case", "randread-4k-qd32", "--storage", "tmpfs", "--system", "xenpv", "--seconds", "60",
                    "--runs", "1")
    assert process.stderr is not None
    while "run 1 of 1" not in (line := process.stderr.readline()):
        assert line, "it has ended"
    tried = requests_served(process.pid)
    until(lambda: requests_served(process.pid) > tried, "the run has begun")
    return process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_the_middle_of_a_run_leaves_nothing(in_a_run: subprocess.Popen[str],
                                                        number: signal.Signals) -> None:
    in_a_run.send_signal(number)
    _, said = in_a_run.communicate(timeout=60)
    assert in_a_run.returncode == {signal.SIGINT: 130, signal.SIGTERM: 143}[number], said


@pytest.mark.parametrize("role", ["backend", "load"])
def test_a_process_that_dies_in_the_middle_of_a_run_is_one_line(in_a_run: subprocess.Popen[str], role: str) -> None:
    [pid] = [int(entry.partition(":")[0]) for entry in leftovers(in_a_run.pid) if f"child\0{role}\0" in entry]
    os.kill(pid, signal.SIGKILL)
    _, said = in_a_run.communicate(timeout=60)
    assert (in_a_run.returncode, said) == (1, f"xenpv: the {role} process ended: without a word\n")


def test_a_size_that_cannot_be_is_one_line() -> None:
    done = subprocess.run(command("--size", "1000"), capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1


def test_what_measuring_costs(bench: Callable[..., dict[str, Any]]) -> None:
    modes = ("us", "tick", "backend")
    found = bench("--profiling", *(f"--profile={mode}" for mode in modes), "--case", "randread-4k-qd1", "--runs", "6")
    assert [(row["mode"], row["pairs"]) for row in found["profiling"]] == [(mode, 6) for mode in modes]
    assert all(row["iops_off"] > 0 and row["iops_on"] > 0 and len(row["ratios"]) == 6 for row in found["profiling"])
    us, ticks = found["totals"]
    assert (us["unit"], us["requests"], us["unknown"], us["more"]) == ("us", 5000, 0, 0), "no stages are too long"
    assert us["close"] >= 4500, "nine of ten, also where other work interrupts the two"
    assert (ticks["unit"], ticks["requests"], ticks["within_us"]) == ("tick", 5000, TICK_US * (1 + ticks["missed"]))
    assert ticks["close"] >= 4500
