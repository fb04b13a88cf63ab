"""Notifications per 1,000 requests: the flag and ring.h's event indices, at the same spin, under three loads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from .cases import LOADS, Case
from .files import target, work_directory
from .machine import PINNING, load_average, processors, versions
from .xenpv_system import DEFAULT_SPIN_US, Run, Xenpv

MODES = ("flag", "event_index")
RUNS = 5


@dataclass(frozen=True)
class Count:
    """One run: both sides' counters over the window."""

    requests: int
    to_backend: int
    to_frontend: int
    sleeps: int
    """Of both sides."""
    rescues: int
    iops: float
    cpu_us_per_io: float
    """Of both sides."""

    @classmethod
    def of(cls, run: Run) -> Count:
        """From the frontend's and the backend's counters."""
        return cls(run.load.frontend["requests"], run.load.frontend["notifications"], run.backend["notifications"],
                   run.load.frontend["sleeps"] + run.backend["sleeps"], run.load.frontend["rescues"],
                   run.load.ios / run.load.seconds, (run.load.cpu_seconds + run.backend_cpu_seconds) / run.load.ios * 1e6)

    def per_1000(self, value: int) -> float:
        """`value` per 1,000 requests."""
        return 1000 * value / max(self.requests, 1)


def count_notifications(seconds: float, runs: int, size: int, spin_us: int | None, say: Callable[[str], None],
                        loads: Sequence[str] = tuple(LOADS)) -> dict[str, Any]:
    """`loads`, on tmpfs. `spin_us` (None: as xenpv comes) and 0 are measured; modes alternate run by run."""
    began = load_average()
    rows: list[dict[str, Any]] = []
    spins = dict.fromkeys((DEFAULT_SPIN_US if spin_us is None else spin_us, 0))
    with target("tmpfs", size) as made, work_directory() as folder:
        for spin in spins:
            counts: dict[tuple[str, str], list[Count]] = {(load, mode): [] for load in loads for mode in MODES}
            (folder / str(spin)).mkdir()
            with Xenpv(made, folder / str(spin), spin, modes=MODES) as system:
                for load in map(LOADS.__getitem__, loads):
                    for number in range(1, runs + 1):
                        for mode in MODES:
                            say(f"{load.name}, spin {spin} us, {mode}: run {number} of {runs}")
                            counts[load.name, mode].append(Count.of(system.measure(load, seconds, mode=mode)))
            rows += [row(LOADS[load], spin, mode, found) for (load, mode), found in counts.items()]
    return {"loads": rows, "versions": versions(), "processors": processors(),
            "load_average": {"before": began, "after": load_average()},
            "options": {"seconds": seconds, "runs": runs, "size": size, "pinning": PINNING}}


def row(load: Case, spin_us: int, mode: str, counts: list[Count]) -> dict[str, Any]:
    """The medians of the runs; of rescues the most, for there must be none."""
    back = median(count.per_1000(count.to_backend) for count in counts)
    front = median(count.per_1000(count.to_frontend) for count in counts)
    return {
        "load": load.name, "spin_us": spin_us, "mode": mode,
        "notifications_per_1000": round(median(c.per_1000(c.to_backend + c.to_frontend) for c in counts), 2),
        "to_backend_per_1000": round(back, 2), "to_frontend_per_1000": round(front, 2),
        "sleeps_per_1000": round(median(count.per_1000(count.sleeps) for count in counts), 2),
        "rescues": max(count.rescues for count in counts),
        "iops": round(median(count.iops for count in counts)),
        "cpu_us_per_io": round(median(count.cpu_us_per_io for count in counts), 2),
    }
