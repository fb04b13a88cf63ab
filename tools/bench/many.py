"""Many vbds of one backend: all of them against one, the slowest against the mean, memory, idleness, a greedy neighbour.

RULES
- One vbd and all of them are measured in turns, by the same load program: one on a file of the size of all, the others each on
  its part of that size, so that both go through as much memory.
- Idleness is counted, not felt: context switches and CPU time of the backend's threads, from /proc.
"""

from __future__ import annotations

import select
import statistics
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from xenpv.errors import UsageError

from .cases import Case
from .files import MIB, Target, forget_cached, target, work_directory
from .machine import PINNING, load_average, processors, versions
from .many_system import Load, Many, Together
from .xenpv_system import DEFAULT_SPIN_US

QUIET = Case("quiet", 4096, 1)
"""The load of a vbd that has a neighbour."""
GREEDY = Case("greedy", 262144, 8, sequential=True)
"""The load of its neighbour: 48 requests of 44 KiB and less in flight, as fast as they are answered."""

_IDLE_SECONDS = 2.0
_SETTLE_SECONDS = 0.5
_QUIET_DISKS = 2


@dataclass(frozen=True)
class ManyPlan:
    """What to measure, and for how long."""

    vbds: int
    domains: int
    cases: Sequence[Case]
    storage: str
    seconds: float
    runs: int
    size: int
    """Bytes of the files of all the vbds together; the one vbd's has as many."""
    spin_us: int | None = None
    directory: Path | None = None
    queues: int = 1
    """Of each vbd."""

    def check(self) -> None:
        """Raises UsageError for what cannot be."""
        if self.vbds <= _QUIET_DISKS or not 1 <= self.domains <= self.vbds:
            raise UsageError(f"{self.vbds} vbds of {self.domains} domains: give more than {_QUIET_DISKS} vbds, and no "
                             "more domains than vbds")
        if self.size // self.vbds < MIB:
            raise UsageError(f"{self.size >> 20} MiB for {self.vbds} vbds: give a --size of a MiB for each at least")


def measure_many(plan: ManyPlan, say: Callable[[str], None]) -> dict[str, Any]:
    """The whole of it. `say` is told what happens, one line each."""
    plan.check()
    began = load_average()
    with ExitStack() as stack:
        say(f"{plan.storage}: writing {plan.vbds + 1} files of {2 * plan.size >> 20} MiB in all")
        part = plan.size // plan.vbds // MIB * MIB
        made = [stack.enter_context(target(plan.storage, size, plan.directory))
                for size in (plan.size, *[part] * plan.vbds)]
        say(f"connecting {plan.vbds + 1} vbds of {plan.domains} domains")
        deepest = max(-(-case.block // 45056) * case.depth for case in (*plan.cases, GREEDY))
        pool = 2 * max(case.block * case.depth for case in (*plan.cases, GREEDY))
        system = stack.enter_context(Many(
            [made_file.path for made_file in made], stack.enter_context(work_directory()), domains=plan.domains,
            depth=min(deepest, 64), pool=pool, spin_us=plan.spin_us, queues=plan.queues))
        connected = system.memory()
        say("idle")
        idle = _idle(system)
        rows = [row for case in plan.cases for row in _one_and_all(plan, case, system, made, say)]
        loaded = system.memory()
        say("a quiet vbd and its neighbours")
        neighbour = _neighbour(plan, system, made)
        features = system.features
        assert system.memory_before is not None
        before = system.memory_before
    return {
        "vbds": plan.vbds, "domains": plan.domains, "queues": plan.queues, "storage": plan.storage, "rows": rows, "idle": idle,
        "memory": {"without_vbds": asdict(before), "connected": asdict(connected), "after_load": asdict(loaded),
                   "per_vbd_connected": _each(connected.anonymous - before.anonymous, plan.vbds + 1),
                   "per_vbd_after_load": _each(loaded.anonymous - before.anonymous, plan.vbds + 1)},
        "neighbour": neighbour, "features": features,
        "versions": versions(), "processors": processors(),
        "load_average": {"before": began, "after": load_average()},
        "options": {"seconds": plan.seconds, "runs": plan.runs, "size": plan.size,
                    "spin_us": DEFAULT_SPIN_US if plan.spin_us is None else plan.spin_us,
                    "pinning": PINNING, "directory": str(plan.directory) if plan.directory else None},
    }


def _each(value: int, count: int) -> int:
    return round(value / count)


def _pause(seconds: float) -> None:
    select.select([], [], [], seconds)


def _idle(system: Many) -> dict[str, float]:
    """What the backend does for connected vbds that nobody uses."""
    _pause(_SETTLE_SECONDS)
    before, cpu = system.switches(), system.cpu_ns()
    _pause(_IDLE_SECONDS)
    after = system.switches()
    return {"seconds": _IDLE_SECONDS,
            "wakeups_per_second": round((after.voluntary - before.voluntary) / _IDLE_SECONDS, 2),
            "cpu_ms_per_second": round((system.cpu_ns() - cpu) / 1e6 / _IDLE_SECONDS, 3)}


def _one_and_all(plan: ManyPlan, case: Case, system: Many, made: Sequence[Target],
                 say: Callable[[str], None]) -> list[dict[str, Any]]:
    one, all_of_them = [Load(0, case)], [Load(disk, case) for disk in range(1, plan.vbds + 1)]
    runs: dict[int, list[Together]] = {1: [], plan.vbds: []}
    for loads in (one, all_of_them):  # grants and maps what the runs find standing
        system.run(loads, min(plan.seconds, 0.3))
    for number in range(1, plan.runs + 1):
        for loads in (one, all_of_them):
            say(f"{case.name}: run {number} of {plan.runs}, {len(loads)} vbd{'s' if len(loads) > 1 else ''}")
            for load in loads:
                forget_cached(made[load.disk])
            runs[len(loads)].append(system.run(loads, plan.seconds))
    return [row(case, vbds, found) for vbds, found in runs.items()]


def row(case: Case, vbds: int, runs: Sequence[Together]) -> dict[str, Any]:
    """The medians of the runs, each figure by itself; of rescues the most."""
    def median(figure: Callable[[Together], float], digits: int = 2) -> float:
        return round(statistics.median(figure(run) for run in runs), digits)

    def per_1000(run: Together, value: int) -> float:
        return 1000 * value / max(run.backend["requests"], 1)

    return {
        "case": case.name, "vbds": vbds, "iops": median(lambda run: sum(run.rates), 0),
        "bytes_per_second": median(lambda run: sum(run.rates) * case.block, 0),
        "slowest_to_mean": median(lambda run: min(run.rates) / statistics.mean(run.rates)),
        "fastest_to_mean": median(lambda run: max(run.rates) / statistics.mean(run.rates)),
        "p50_us": median(lambda run: statistics.median(load.p50_us for load in run.loads)),
        "p99_us": median(lambda run: max(load.p99_us for load in run.loads)),
        "cpu_us_per_io": median(lambda run: run.cpu_us_per_io),
        "backend_cpu_us_per_io": median(lambda run: run.backend_cpu_seconds / max(run.ios, 1) * 1e6),
        "notifications_per_1000": median(lambda run: per_1000(
            run, run.backend["notifications"] + sum(load.frontend["notifications"] for load in run.loads))),
        "backend_sleeps_per_1000": median(lambda run: per_1000(run, run.backend["sleeps"])),
        "backend_switches_per_1000": median(lambda run: per_1000(
            run, run.backend_switches.voluntary + run.backend_switches.involuntary)),
        "rescues": max(load.frontend["rescues"] for run in runs for load in run.loads),
        "iops_of_runs": [round(sum(run.rates)) for run in runs],
    }


def _neighbour(plan: ManyPlan, system: Many, made: Sequence[Target]) -> list[dict[str, Any]]:
    """Quiet vbds by themselves, and with a greedy one beside them: they are on both of the backend's threads."""
    quiet = [Load(disk, QUIET) for disk in range(1, _QUIET_DISKS + 1)]
    greedy = Load(_QUIET_DISKS + 1, GREEDY)
    found: dict[str, list[Together]] = {"alone": [], "beside a greedy one": []}
    for _ in range(plan.runs):
        for name, loads in zip(found, (quiet, [*quiet, greedy]), strict=True):
            for load in loads:
                forget_cached(made[load.disk])
            found[name].append(system.run(loads, plan.seconds))
    return [{
        "quiet": name,
        "iops_each": round(statistics.median(statistics.mean(run.rates[:_QUIET_DISKS]) for run in runs)),
        "worst_p50_us": round(statistics.median(max(load.p50_us for load in run.loads[:_QUIET_DISKS])
                                                for run in runs), 2),
        "worst_p99_us": round(statistics.median(max(load.p99_us for load in run.loads[:_QUIET_DISKS])
                                                for run in runs), 2),
        "cpu_us_per_io": round(statistics.median(run.cpu_us_per_io for run in runs), 2),
        "greedy_bytes_per_second": round(statistics.median(sum(run.rates[_QUIET_DISKS:]) * GREEDY.block
                                                           for run in runs)),
    } for name, runs in found.items()]
