"""``xenpv bench``: against raw I/O and peers, in one run; notifications with the flag and without; what measuring costs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from xenpv.errors import UsageError

from ..bench import compare, plot, profiling as profiling_, report
from ..bench.cases import CASES, KINDS, MIXED_READS, Case, find_case, make_case
from ..bench.files import check_size
from ..bench.many import ManyPlan, measure_many
from ..bench.notifications import RUNS, count_notifications
from ..output import parse_size
from ..scratch import swept
from ..session import Session, verb

__all__ = ["command"]


def write_text(path: Path, text: str) -> None:
    """Raises UsageError when the file cannot be written."""
    try:
        path.write_text(text)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from error


@click.command("bench")
@click.option("--case", "cases", multiple=True, type=click.Choice(list(CASES)), help="Only these. Default: all.")
@click.option("--rw", type=click.Choice(KINDS), help="Instead of --case, one of your own: fio's words.")
@click.option("--block", default="4k", show_default=True, metavar="SIZE", help="Of an I/O, with --rw.")
@click.option("--depth", type=click.IntRange(1, 64), default=32, show_default=True, help="I/Os in flight, with --rw.")
@click.option("--reads", type=click.IntRange(1, 99), default=MIXED_READS, show_default=True,
              help="Of a hundred I/Os, with --rw randrw or rw.")
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
@click.option("--plot", "picture", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE.svg",
              help="Write the comparison as a picture, too.")
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
def command(session: Session, cases: Sequence[str], rw: str | None, block: str, depth: int, reads: int,
            systems: Sequence[str], storages: Sequence[str], directory: Path | None, seconds: float | None,
            runs: int | None, size: str, spin_us: int | None, picture: Path | None, notifications: bool,
            profiling: bool, profiles: Sequence[str], vbds: int | None, domains: int) -> int:
    """Measure xenpv against raw I/O (fio on the file), nbdkit and qemu-storage-daemon (fio over a Unix socket).

    xenpv is measured on an emulated Xen of its own: a backend process, and a load process that uses the public Disk.
    A system that cannot be measured here is shown as not run, with the reason.
    """
    length = parse_size(size)
    check_size(length)
    if rw and (cases or notifications):
        raise UsageError("--rw is a case of its own: leave out --case and --notifications")
    if picture and picture.suffix.lower() != ".svg":
        raise UsageError(f"--plot {picture}: the picture is SVG: give a name that ends in .svg")
    if picture and (notifications or profiling or vbds):
        raise UsageError("--plot draws the comparison: leave out --notifications, --profiling and --vbds")
    own = [make_case(rw, parse_size(block), depth, reads)] if rw else []

    def chosen(default: Sequence[str]) -> list[Case]:
        return own or [find_case(name) for name in cases or default]

    with swept():
        if profiling:
            if notifications or systems or len(storages) > 1:
                raise UsageError("--profiling is of xenpv alone, on one storage: leave out --notifications and --system")
            pairs = runs or profiling_.PAIRS
            if pairs < profiling_.PAIRS_MIN:
                raise UsageError(f"--profiling needs at least {profiling_.PAIRS_MIN} runs: of fewer pairs nothing is known to "
                                 "95 %")
            cost = profiling_.measure_profiling(
                chosen(["randread-4k-qd32"]), storages[0] if storages else "tmpfs", profiles or ["us"],
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
                vbds, min(domains, vbds), chosen(("randread-4k-qd32",)),
                storages[0] if storages else "tmpfs", seconds or 2.0, runs or 3, length, spin_us, directory), session.say)
            session.show(many, report.many(many))
            return 0
        plan = compare.Plan(chosen(tuple(CASES)), systems or compare.SYSTEMS,
                            storages or compare.STORAGES, seconds or 2.0, runs or 3, length, spin_us, directory)
        found = compare.compare(plan, session.say)
    if picture and found["results"]:
        write_text(picture, plot.comparison(found))
    session.show(found, report.comparison(found))
    return 0 if found["results"] else 1
