"""``xenpv bench``: against raw I/O and peers, in one run; notifications with the flag and without; what measuring costs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from xenpv.errors import UsageError

from ..bench import compare, guest_agent, plot, profiling as profiling_, report
from ..bench.cases import CASES, GUEST_CASES, KINDS, MIXED_READS, Case, find_case, make_case
from ..bench.files import check_size
from ..bench.guest_compare import GuestPlan, compare_in_guest
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
@click.option("--case", "cases", multiple=True, type=click.Choice(list(CASES | GUEST_CASES)),
              help="Only these. Default: those of what is measured.")
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
@click.option("--runs", type=click.IntRange(1, 999),
              help="Runs of each system; medians are shown. Default: 3; with --notifications 5; with --profiling 20 pairs.")
@click.option("--size", default="1G", show_default=True, metavar="SIZE", help="Of the file.")
@click.option("--spin-us", type=click.IntRange(0, 1000),
              help="How long a side of xenpv that found nothing looks again before it sleeps. Default: as it comes.")
@click.option("--queues", type=click.IntRange(1, 16), default=1, show_default=True, metavar="N",
              help="Of xenpv's disk, or with --vbds of each; the I/Os in flight are shared out among them.")
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
@click.option("--guest", metavar="DOMAIN",
              help="In dom0 of a Xen host: measure disks of this guest instead, in which `xenpv bench --agent` runs.")
@click.option("--disk", "disks", multiple=True, metavar="VDEV",
              help="With --guest: a disk to measure on, whoever serves it. Cases that write overwrite it.")
@click.option("--agent", is_flag=True, help="In a guest: run what `xenpv bench --guest` in dom0 asks for.")
@verb(json=True)
def command(session: Session, cases: Sequence[str], rw: str | None, block: str, depth: int, reads: int,
            systems: Sequence[str], storages: Sequence[str], directory: Path | None, seconds: float | None,
            runs: int | None, size: str, spin_us: int | None, queues: int, picture: Path | None, notifications: bool,
            profiling: bool, profiles: Sequence[str], vbds: int | None, domains: int, guest: str | None, disks: Sequence[str],
            agent: bool) -> int:
    """Measure xenpv against raw I/O (fio on the file), nbdkit and qemu-storage-daemon (fio over a Unix socket).

    xenpv is measured on an emulated Xen of its own: a backend process, and a load process that uses the public Disk.
    A system that cannot be measured here is shown as not run, with the reason.

    On a Xen host, with --guest: fio in one guest, on disks of different backends (ours, the kernel's, QEMU's).
    """
    length = parse_size(size)
    check_size(length)
    if rw and (cases or notifications):
        raise UsageError("--rw is a case of its own: leave out --case and --notifications")
    if picture and picture.suffix.lower() != ".svg":
        raise UsageError(f"--plot {picture}: the picture is SVG: give a name that ends in .svg")
    if (disks and not guest) or (agent and (guest or disks)):
        raise UsageError("--disk goes with --guest, in dom0; --agent stands alone, in the guest")
    if guest and (systems or storages or directory or notifications or profiling or vbds or spin_us is not None):
        raise UsageError("--guest measures the disks of a guest as they are: leave out what says how others are made")
    if queues > 1 and (agent or guest or notifications or profiling):
        raise UsageError("--queues is for the comparison and for --vbds: the other disks have one queue, or what a guest has")
    if picture and (notifications or profiling or vbds):
        raise UsageError("--plot draws the comparison: leave out --notifications, --profiling and --vbds")
    own = [make_case(rw, parse_size(block), depth, reads)] if rw else []

    def chosen(default: Sequence[str]) -> list[Case]:
        return own or [find_case(name) for name in cases or default]

    with swept():
        if agent:
            with session.open_domain() as domain:
                guest_agent.serve(domain.store, session.say)
            return 0
        if guest:
            return _guest(session, guest, disks, chosen(tuple(GUEST_CASES)), seconds or 2.0, runs or 3, picture)
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
                storages[0] if storages else "tmpfs", seconds or 2.0, runs or 3, length, spin_us, directory, queues),
                session.say)
            session.show(many, report.many(many))
            return 0
        plan = compare.Plan(chosen(tuple(CASES)), systems or compare.SYSTEMS,
                            storages or compare.STORAGES, seconds or 2.0, runs or 3, length, spin_us, directory, queues)
        found = compare.compare(plan, session.say)
    if picture and found["results"]:
        write_text(picture, plot.comparison(found))
    session.show(found, report.comparison(found))
    return 0 if found["results"] else 1


def _guest(session: Session, guest: str, disks: Sequence[str], cases: Sequence[Case], seconds: float, runs: int,
           picture: Path | None) -> int:
    """Disks of a guest of a real Xen host."""
    domains = session.domains()
    if not domains.xen:
        raise UsageError("--guest is for dom0 of a real Xen host: give --hypervisor xen: there")
    host = domains.status()
    versions = {"Xen": str(host.get("xen_version", "unknown")), "kernel": str(host.get("release", "unknown"))}
    plan = GuestPlan(domains.find(guest).domid, disks, cases, seconds, runs, session.run_directory())
    with session.open_domain() as dom0:
        found = compare_in_guest(plan, dom0.store, versions, session.say)
    if picture and found["results"]:
        write_text(picture, plot.comparison(found))
    session.show(found, report.guest(found))
    return 0 if found["results"] else 1
