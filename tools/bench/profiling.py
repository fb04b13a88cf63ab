"""What it costs to measure: runs with profiling off and on, in turn, and the ratio that is certain to 95 %.

RULES
- A pair is one run of each, on the same processes and the same file; which comes first alternates, so that a machine that
  gets slower favours neither.
- Off is off: while such a run goes on nobody stamps, nobody counts, and dom0's time page does not tick.
- The interval of the median is that of order statistics: it supposes nothing of how the ratios are distributed.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from xenpv.hypervisors import open_domain
from xenpv.timepage import Publisher

from .cases import Case
from .files import target, work_directory
from .machine import PINNING, load_average, processors, versions
from .xenpv_system import NO_PROFILE, Profile, Xenpv

PAIRS = 20
PAIRS_MIN = 6
"""Of fewer no two order statistics enclose the median with 95 %."""
SECONDS = 1.0
WARM_SECONDS = 0.2
ALLOWED = 1.05
"""The upper end of the interval is to stay below."""
REQUESTS = 5000
"""Whose totals are held against a clock outside."""

MODES = {"us": Profile(stamp="us"), "tick": Profile(stamp="tick"), "backend": Profile(backend="us")}
"""What is on: stamps in microseconds or in ticks, counted by both ends; or the backend alone, for guests without stamps."""


@contextmanager
def _publishing(uri: str) -> Iterator[None]:
    """dom0's time page, which ticks while somebody is subscribed."""
    with open_domain(uri) as dom0, Publisher(dom0) as publisher:
        thread = threading.Thread(target=publisher.serve, name="time")
        thread.start()
        try:
            yield
        finally:
            publisher.stop()
            thread.join()


def interval_of_median(values: Sequence[float]) -> tuple[float, float] | None:
    """The two order statistics between which the median lies in at least 95 of 100 cases; None of fewer than six values.

    The number of values below the median is binomial (n, 1/2), whatever they are.
    """
    count, tail, rank = len(values), 0.0, 0
    while rank < count // 2 and tail + math.comb(count, rank) / 2**count <= 0.025:
        tail += math.comb(count, rank) / 2**count
        rank += 1
    return (sorted(values)[rank - 1], sorted(values)[count - rank]) if rank else None


def measure_profiling(cases: Sequence[Case], storage: str, modes: Sequence[str], seconds: float, pairs: int, size: int,
                      spin_us: int | None, directory: Path | None, say: Callable[[str], None]) -> dict[str, Any]:
    """`pairs` pairs of each case in each of `modes`. `say` is told what happens, one line each."""
    began = load_average()
    rows: list[dict[str, Any]] = []
    totals: list[dict[str, Any]] = []
    with target(storage, size, directory) as made:
        for mode in modes:
            with work_directory() as folder, Xenpv(made, folder, spin_us) as system, _publishing(system.uri):
                for case in cases:
                    rows.append(_pairs(system, case, mode, seconds, pairs, say))
                if MODES[mode].stamp:
                    say(f"{REQUESTS} requests with stamps in {mode} beside a clock outside")
                    system.profile(MODES[mode])
                    totals.append(system.check_totals(REQUESTS))
    return {"profiling": rows, "totals": totals, "versions": versions(), "processors": processors(),
            "load_average": {"before": began, "after": load_average()}, "storage": storage,
            "options": {"seconds": seconds, "runs": pairs, "size": size, "spin_us": spin_us, "pinning": PINNING}}


def _pairs(system: Xenpv, case: Case, mode: str, seconds: float, pairs: int, say: Callable[[str], None]) -> dict[str, Any]:
    iops: dict[bool, list[float]] = {False: [], True: []}
    for number in range(pairs):
        for on in (False, True) if number % 2 == 0 else (True, False):
            say(f"{case.name}, {mode}: pair {number + 1} of {pairs}, {'on' if on else 'off'}")
            system.profile(MODES[mode] if on else NO_PROFILE)
            system.measure(case, min(seconds, WARM_SECONDS))
            load = system.measure(case, seconds).load
            iops[on].append(load.ios / load.seconds)
    return row(case.name, mode, iops[False], iops[True])


def row(case: str, mode: str, off: Sequence[float], on: Sequence[float]) -> dict[str, Any]:
    """The figures of one case: ratios are those of the pairs, time an I/O with profiling to time without."""
    ratios = [without / with_ for without, with_ in zip(off, on, strict=True)]
    interval = interval_of_median(ratios)
    return {"case": case, "mode": mode, "pairs": len(ratios), "iops_off": round(median(off)), "iops_on": round(median(on)),
            "ratio": round(median(ratios), 4), "interval": None if interval is None else [round(end, 4) for end in interval],
            "ratios": [round(ratio, 4) for ratio in ratios],
            "below": None if interval is None else interval[1] < ALLOWED}
