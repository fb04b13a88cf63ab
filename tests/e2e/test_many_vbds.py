"""Many vbds of one backend process: all are served, idle ones wake nobody, `xenpv bench --vbds` runs. No time is judged."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from xenpv_tools.bench.cases import Case
from xenpv_tools.bench.many_system import Load, Many

from xenpv.stats import decode_back

pytestmark = pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="there is no /dev/shm here")
VBDS = 24
CASE = Case("case", 4096, 4)


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Many]:
    """One backend with many disks of three domains."""
    folder = tmp_path_factory.mktemp("many")
    images = [folder / f"image{number}" for number in range(VBDS)]
    for image in images:
        image.write_bytes(bytes(64 * 4096))
    with Many(images, folder, domains=3, depth=32, pool=1 << 20, spin_us=None) as many:
        yield many


def settled(system: Many, until: Callable[..., None]) -> None:
    """Every queue sleeps: nothing is counted any more between two looks."""
    seen: list[tuple[object, ...]] = []

    def same() -> bool:
        seen.append((system.counters(), system.switches().voluntary, system.cpu_ns()))
        return len(seen) > 20 and all(look == seen[-1] for look in seen[-20:])

    until(same, "an idle backend", 30)


def test_idle_vbds_wake_nobody(system: Many, until: Callable[..., None]) -> None:
    """While one of them works the others count nothing; when none does, no thread of the backend is woken."""
    settled(system, until)
    before = system.each_counters()
    system.run([Load(0, CASE)], 0.1)
    settled(system, until)
    changed = [number for number, counters in enumerate(system.each_counters()) if counters != before[number]]
    assert changed == [0]


def test_memory_of_a_vbd_is_bounded(system: Many) -> None:
    """Far more than it takes, and far less than a thread's stack or a copy of the interpreter's heap would be."""
    system.run([Load(disk, CASE) for disk in range(VBDS)], 0.05)
    assert system.memory_before is not None
    assert system.memory().anonymous - system.memory_before.anonymous < VBDS * (512 << 10)


def test_all_are_served_at_once(system: Many) -> None:
    run = system.run([Load(disk, CASE) for disk in range(VBDS)], 0.2)
    assert len(run.loads) == VBDS and all(load.ios > 0 for load in run.loads)
    assert sum(load.frontend["rescues"] for load in run.loads) == 0
    assert run.backend["requests"] >= run.ios


def test_a_load_uses_every_queue_and_all_are_counted(tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.write_bytes(bytes(64 * 4096))
    with Many([image], tmp_path, domains=1, depth=32, pool=1 << 20, spin_us=None, queues=3) as system:
        run = system.run([Load(0, CASE)], 0.1)
        pages = [page.read_bytes() for page in (tmp_path / "run" / "backend").glob("*.stats")]
        each = [sum(decode_back(page)["requests"].values()) for page in pages]
    assert len(each) == 3 and min(each) > 0
    assert run.backend["requests"] == sum(each) == run.loads[0].frontend["requests"] == run.ios


def test_the_bench_of_many_vbds_says_it_all() -> None:
    done = subprocess.run([sys.executable, "-m", "xenpv_tools", "bench", "--vbds", "4", "--domains", "2", "--queues", "2",
                           "--size", "8M", "--seconds", "0.1", "--runs", "1", "--json"], capture_output=True, text=True,
                          timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [(row["vbds"], row["rescues"]) for row in found["rows"]] == [(1, 0), (4, 0)]
    assert [row["quiet"] for row in found["neighbour"]] == ["alone", "beside a greedy one"]
    assert {"per_vbd_connected", "per_vbd_after_load"} < found["memory"].keys()
    assert found["queues"] == found["features"]["queues"] == 2
    assert found["idle"].keys() == {"seconds", "wakeups_per_second", "cpu_ms_per_second"}
