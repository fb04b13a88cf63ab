"""Every case on every system and storage, in alternating runs, and the medians."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from xenpv.errors import StorageError, XenpvError

from .cases import Case
from .files import Target, forget_cached, target, work_directory
from .machine import PINNING, load_average, processors, versions
from .measurement import Measurement, medians
from .systems import Nbdkit, NotRun, QemuStorageDaemon, Raw, System
from .xenpv_system import Xenpv

PEERS: dict[str, Callable[[Target, Path], System]] = {"raw": Raw, "nbdkit": Nbdkit, "qemu-storage-daemon": QemuStorageDaemon}
SYSTEMS = ("xenpv", *PEERS)
STORAGES = ("tmpfs", "disk")
_TRY_SECONDS = 0.3

EXPLANATIONS = {
    "runs": "alternating: xenpv, raw, nbdkit, ..., xenpv, raw, nbdkit, ...; each figure is the median of its runs",
    "latency": {
        "xenpv": "by the load program: from the return of the batch call that freed an I/O's slot, after which it is "
                 "submitted, to the return of the one that brings it; one clock reading a batch, every I/O counted, "
                 "within 1.6 %",
        "raw": "fio's lat: submission to completion of an I/O",
        "nbdkit": "fio's lat: submission to completion of an I/O",
        "qemu-storage-daemon": "fio's lat: submission to completion of an I/O",
    },
    "queues": "xenpv's I/Os in flight are shared out among the disk's queues, which one thread of the load serves in turn; "
              "fio is one client, with one job (numjobs=1)",
    "cpu": "user and system time of both sides (backend and load; server and fio), all threads: the growth of the "
           "processes' CPU clocks over the run; of fio the whole process, less what it takes with a single I/O",
}
"""How the figures came about: a part of the output."""


@dataclass(frozen=True)
class Plan:
    """What to measure, and for how long."""

    cases: Sequence[Case]
    systems: Sequence[str]
    storages: Sequence[str]
    seconds: float
    runs: int
    size: int
    """Bytes of the file."""
    spin_us: int | None = None
    """None: as xenpv comes."""
    directory: Path | None = None
    """For `disk`; None: the user's cache directory."""
    queues: int = 1
    """Of xenpv's disk."""


def compare(plan: Plan, say: Callable[[str], None]) -> dict[str, Any]:
    """The whole comparison. `say` is told what happens, one line each. See report.py for what is in the answer."""
    began = load_average()
    results: list[dict[str, Any]] = []
    not_run: list[dict[str, str]] = []
    for storage in plan.storages:
        say(f"{storage}: writing a file of {plan.size >> 20} MiB")
        with ExitStack() as stack:
            try:
                made = stack.enter_context(target(storage, plan.size, plan.directory))
            except StorageError as error:
                not_run += [_reason("all", name, storage, error) for name in plan.systems]
                continue
            systems = _start(plan, made, stack.enter_context(work_directory()), stack, not_run)
            for case in plan.cases:
                results += _measure(plan, case, made, systems, not_run, say)
    return {
        "results": results, "not_run": not_run, "versions": versions(), "processors": processors(),
        "load_average": {"before": began, "after": load_average()},
        "options": {"seconds": plan.seconds, "runs": plan.runs, "size": plan.size, "spin_us": plan.spin_us,
                    "queues": plan.queues, "pinning": PINNING, "directory": str(plan.directory) if plan.directory else None},
        "how": EXPLANATIONS,
    }


def _make(name: str, plan: Plan, made: Target, folder: Path) -> System:
    if name == "xenpv":
        return Xenpv(made, folder, plan.spin_us, queues=plan.queues)
    return PEERS[name](made, folder)


def _reason(case: str, system: str, storage: str, error: XenpvError) -> dict[str, str]:
    return {"case": case, "system": system, "storage": storage, "reason": str(error)}


def _start(plan: Plan, made: Target, folder: Path, stack: ExitStack, not_run: list[dict[str, str]]) -> list[System]:
    """The systems that can be measured, in the order of the runs; the others go into `not_run`."""
    systems = []
    for name in plan.systems:
        try:
            systems.append(stack.enter_context(_make(name, plan, made, folder)))
        except NotRun as error:
            not_run.append(_reason("all", name, made.storage, error))
    return systems


def _measure(plan: Plan, case: Case, made: Target, systems: list[System], not_run: list[dict[str, str]],
             say: Callable[[str], None]) -> list[dict[str, Any]]:
    options: dict[str, dict[str, Any]] = {}
    for system in systems:
        say(f"{made.storage} {case.name}: preparing {system.name}")
        forget_cached(made)
        try:
            options[system.name] = system.prepare(case, min(plan.seconds, _TRY_SECONDS))
        except NotRun as error:
            not_run.append(_reason(case.name, system.name, made.storage, error))
    runs: dict[str, list[Measurement]] = {name: [] for name in options}
    for number in range(1, plan.runs + 1):
        for system in systems:
            if system.name in runs:
                say(f"{made.storage} {case.name}: run {number} of {plan.runs}, {system.name}")
                forget_cached(made)
                runs[system.name].append(system.run(case, plan.seconds))
                options[system.name] |= system.ran_as()
    return [result(case, name, made.storage, found, options[name]) for name, found in runs.items()]


def result(case: Case, system: str, storage: str, runs: Sequence[Measurement], options: dict[str, Any]) -> dict[str, Any]:
    """A row of the answer."""
    figures = {name: _rounded(value) for name, value in asdict(medians(runs)).items()}
    return {"case": case.name, "system": system, "storage": storage, **figures,
            "iops_of_runs": [_rounded(run.iops) for run in runs], "options": options}


def _rounded(value: float) -> float:
    """Whole numbers from 1,000 on, else two decimals: more would claim what a few runs cannot know."""
    return round(value) if value >= 1000 else round(value, 2)


def ratio(results: Sequence[dict[str, Any]], case: str, storage: str, other: str) -> float | None:
    """How many times `other`'s IOPS xenpv makes, or None when one of them did not run."""
    found = {row["system"]: row["iops"] for row in results if row["case"] == case and row["storage"] == storage}
    if "xenpv" not in found or not found.get(other):
        return None
    return float(found["xenpv"] / found[other])
