"""``xenpv bench``: against raw I/O and peers, in one run; notifications with the flag and without; what measuring costs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from xenpv.errors import UsageError

from ..bench import compare, profiling as profiling_, report
from ..bench.cases import CASES, find_case
from ..bench.files import check_size
from ..bench.many import ManyPlan, measure_many
from ..bench.notifications import RUNS, count_notifications
from ..output import parse_size
from ..scratch import swept
from ..session import Session, verb

__all__ = ["command"]


@click.command("bench")
@click.option("--case", "cases", multiple=True, type=click.Choice(list(CASES)), help="Only these. Default: all.")
@click.option("--system", "systems", multiple=True, type=click.Choice(compare.SYSTEMS),
              help="Only these. Default: all.")
@click.option("--storage", "storages", multiple=True, type=click.Choice(compare.STORAGES),
              help="tmpfs: a file in /dev/shm. disk: a file opened with O_DIRECT. Default: both.")
@click.option("--dir", "directory", type=click.Path(file_okay=False, path_type=Path),
              help="Where the file on a disk is made. Default: the user's cache directory.")
@click.option("--seconds", type=click.FloatRange(0.05, 600),
              help="Of one run. Default: 2; with --notifications or --profiling 1.")
@click.option("--runs", type=click.IntRange(1, 99),
              help="Runs of each system; medians are shown. Default: 3; with --notifications 5; with --profiling 20 pairs.")
@click.option("--size", default="1G", show_default=True, metavar="SIZE", help="Of the file.")
@click.option("--spin-us", type=click.IntRange(0, 1000),
              help="How long a side of xenpv that found nothing looks again before it sleeps. Default: as it comes.")
@click.option("--notifications", is_flag=True,
              help="Count notifications per 1,000 requests instead, with the flag and with event indices.")
@click.option("--profiling", is_flag=True,
              help="Measure what it costs to measure requests (`xenpv latency`), in pairs of runs without and with.")
@click.option("--profile", "profiles", multiple=True, type=click.Choice(list(profiling_.MODES)),
              help="With --profiling: stamps in us, in ticks, or the backend's own measuring. Default: us.")
@click.option("--vbds", type=click.IntRange(3, 1024), metavar="N",
              help="Measure N vbds of one backend instead: against one, the slowest, memory, idleness, a greedy neighbour.")
@click.option("--domains", type=click.IntRange(1, 256), default=8, show_default=True,
              help="Of how many domains the N vbds are.")
@verb(json=True)
def command(session: Session, cases: Sequence[str], systems: Sequence[str], storages: Sequence[str],
            directory: Path | None, seconds: float | None, runs: int | None, size: str, spin_us: int | None,
            notifications: bool, profiling: bool, profiles: Sequence[str], vbds: int | None, domains: int) -> int:
    """Measure xenpv against raw I/O (fio on the file) and nbdkit (its file plugin, fio over a Unix socket).

    xenpv is measured on an emulated Xen of its own: a backend process, and a load process that uses the public Disk.
    A system that cannot be measured here is shown as not run, with the reason.
    """
    length = parse_size(size)
    check_size(length)
    with swept():
        if profiling:
            if notifications or systems or len(storages) > 1:
                raise UsageError("--profiling is of xenpv alone, on one storage: leave out --notifications and --system")
            pairs = runs or profiling_.PAIRS
            if pairs < profiling_.PAIRS_MIN:
                raise UsageError(f"--profiling needs at least {profiling_.PAIRS_MIN} runs: of fewer pairs nothing is known to "
                                 "95 %")
            chosen = [find_case(name) for name in cases or ["randread-4k-qd32"]]
            cost = profiling_.measure_profiling(chosen, storages[0] if storages else "tmpfs", profiles or ["us"],
                                                seconds or profiling_.SECONDS, pairs, length, spin_us, directory, session.say)
            session.show(cost, report.profiling(cost))
            return 0
        if notifications:
            if cases or systems or storages or directory:
                raise UsageError("--notifications has loads of its own, on tmpfs: leave out --case, --system, "
                                 "--storage and --dir")
            counted = count_notifications(seconds or 1.0, runs or RUNS, length, spin_us, session.say)
            session.show(counted, report.notifications(counted))
            return 0
        if vbds:
            if systems:
                raise UsageError("--vbds is about xenpv's backend alone: leave out --system")
            many = measure_many(ManyPlan(
                vbds, min(domains, vbds), [find_case(name) for name in cases or ("randread-4k-qd32",)],
                storages[0] if storages else "tmpfs", seconds or 2.0, runs or 3, length, spin_us, directory), session.say)
            session.show(many, report.many(many))
            return 0
        plan = compare.Plan([find_case(name) for name in cases or CASES], systems or compare.SYSTEMS,
                            storages or compare.STORAGES, seconds or 2.0, runs or 3, length, spin_us, directory)
        found = compare.compare(plan, session.say)
    session.show(found, report.comparison(found))
    return 0 if found["results"] else 1
