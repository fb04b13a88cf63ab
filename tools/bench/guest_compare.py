"""Backends beside each other, on a real Xen host: fio in one guest, one disk of each backend, one boot.

RULES
- Runs alternate, and each round begins with another disk: what follows whom is not always the same.
- A disk that lacks one of its runs in a case has no figures there: a median is of as many runs as the output says.
- The guest does the same for every disk, byte for byte the same job; which backend it is, it does not know.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from xenpv import __version__
from xenpv.domain import Store
from xenpv.errors import HypervisorError, RemoteProtocolError, StoreError

from ..backend_control import describe_devices
from . import fio
from .cases import Case
from .compare import result
from .cpu import machine_cpu_ns
from .guest_agent import guest_job
from .guest_disks import OWN, PEERS, GuestDisk, find_disks
from .guest_line import PATIENCE, GuestLine
from .machine import load_average, processors
from .measurement import GuestMeasurement

COUNTED = ("notifications", "events", "sleeps", "batches")
"""Counters of our backend that the answer has for each 1,000 requests."""

EXPLANATIONS = {
    "runs": "alternating, each round beginning with another disk; each figure is the median of its runs",
    "latency": "fio's lat, in the guest: submission to completion of an I/O",
    "cpu": "all that dom0 used while fio ran in the guest, its kernel's threads and interrupts included (/proc/stat)",
    "guest_cpu": "user and system time of fio's job in the guest, by fio, without its start and end",
}
"""How the figures came about: a part of the output."""


@dataclass(frozen=True)
class GuestPlan:
    """What to measure, and for how long."""

    domid: int
    disks: Sequence[str]
    cases: Sequence[Case]
    seconds: float
    runs: int
    backend: Path
    """The run directory of our backend."""
    patience: float = PATIENCE
    """Seconds beyond a run until the guest must have answered."""


def compare_in_guest(plan: GuestPlan, store: Store, xen: Mapping[str, str],
                     say: Callable[[str], None]) -> dict[str, Any]:
    """The whole comparison; `xen` is what the output says of the host. `say` is told what happens, one line each.

    Of a disk that fails in a case, `not_run` has the reason, and the rest goes on. Before the first run it raises UsageError,
    DeviceError (find_disks), HypervisorError, RemoteProtocolError and StoreError.
    """
    began = load_average()
    writes = any(case.writes for case in plan.cases)
    disks = find_disks(store, plan.domid, plan.disks, describe_devices(plan.backend), writes)
    line = GuestLine(store, plan.domid, plan.patience)
    results: list[dict[str, Any]] = []
    not_run: list[dict[str, str]] = []
    for case in plan.cases:
        results += _case(plan, case, disks, line, not_run, say)
    return {
        "results": results, "not_run": not_run,
        "x_best_peer": {case.name: best_ratio(results, case.name) for case in plan.cases},
        "versions": {"xenpv": __version__, **xen}, "guest": asdict(line.machine), "processors": processors(),
        "load_average": {"before": began, "after": load_average()},
        "options": {"seconds": plan.seconds, "runs": plan.runs, "size": min(disk.size for disk in disks),
                    "pinning": "none: Xen's scheduler places every vCPU"},
        "how": EXPLANATIONS,
    }


def _case(plan: GuestPlan, case: Case, disks: Sequence[GuestDisk], line: GuestLine, not_run: list[dict[str, str]],
          say: Callable[[str], None]) -> list[dict[str, Any]]:
    runs: dict[str, list[GuestMeasurement]] = {disk.name: [] for disk in disks}
    counted: dict[str, dict[str, float]] = {}
    for number in range(plan.runs):
        first = number % len(disks)
        for disk in [*disks[first:], *disks[:first]]:
            if disk.name not in runs:
                continue
            say(f"{case.name}: run {number + 1} of {plan.runs}, {disk.name}")
            before = _counters(plan, disk)
            try:
                runs[disk.name].append(_run(line, case, disk.vdev, plan.seconds))
            except (HypervisorError, RemoteProtocolError, StoreError) as error:
                not_run.append({"case": case.name, "system": disk.name, "storage": "guest", "reason": str(error)})
                del runs[disk.name]
                continue
            if before:
                counted[disk.name] = per_1000(before, _counters(plan, disk))
    return [result(case, disk.name, "guest", runs[disk.name],
                   {"setup": disk.setup, "vdev": disk.vdev, "backend": disk.backend,
                    "fio_job": fio.job_text(guest_job(case, disk.vdev)), "per_1000_of_last_run": counted.get(disk.name)})
            for disk in disks if disk.name in runs]


def _run(line: GuestLine, case: Case, vdev: str, seconds: float) -> GuestMeasurement:
    before = machine_cpu_ns()
    found = line.run(case, vdev, seconds)
    return GuestMeasurement(found.iops, found.bytes_per_second, found.p50_us, found.p99_us,
                            (machine_cpu_ns() - before) / 1000 / found.ios, found.run_cpu_seconds * 1e6 / found.ios)


def _counters(plan: GuestPlan, disk: GuestDisk) -> dict[str, int]:
    """Of all its queues, where the disk is ours; nothing of others."""
    if disk.backend != OWN:
        return {}
    queues = describe_devices(plan.backend).get((plan.domid, disk.devid), {}).get("counters", [])
    totals = {name: sum(queue[name] for queue in queues) for name in COUNTED}
    return {**totals, "requests": sum(sum(queue["requests"].values()) for queue in queues)}


def per_1000(before: Mapping[str, int], after: Mapping[str, int]) -> dict[str, float]:
    """What was counted between the two for each 1,000 requests of the ring."""
    requests = after.get("requests", 0) - before["requests"]
    return {name: round(1000 * (after[name] - before[name]) / requests, 1) for name in COUNTED} if requests > 0 else {}


def best_ratio(results: Sequence[Mapping[str, Any]], case: str, system: str | None = None) -> float | None:
    """How many times the IOPS of the best peer `system` makes (None: the first disk of ours); None without both."""
    rows = [row for row in results if row["case"] == case]
    peers = [row["iops"] for row in rows if row["options"]["backend"] in PEERS]
    own = [row["iops"] for row in rows if row["options"]["backend"] == OWN and system in (None, row["system"])]
    return float(own[0] / max(peers)) if own and peers and max(peers) else None
