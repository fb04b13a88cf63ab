"""xenpv record: a disk's times, interval by interval, into a file."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import click

from xenpv.errors import DeviceError, UsageError
from xenpv.latency import DiskLatency
from xenpv.signals import Ending, ending_on

from .. import toolstack
from ..monitor.interval import intervals
from ..monitor.recording import Header, Period, Recorder
from ..monitor.source import Reading, Vbd, read_all
from ..output import parse_size
from ..session import Session, verb

SIZE_LEAST = 256 << 10


def _size(ctx: click.Context, param: click.Parameter, value: str) -> int:
    size = parse_size(value)
    if size < SIZE_LEAST:
        raise UsageError(f"--max-size {value} is too small: want at least {SIZE_LEAST >> 10}k")
    return size


@click.command("record")
@click.argument("domain")
@click.argument("device")
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), required=True, metavar="FILE",
              help="Where to.")
@click.option("-i", "--interval", type=click.FloatRange(0.05, 3600), default=1.0, show_default=True, metavar="S",
              help="Seconds of an interval.")
@click.option("--seconds", type=click.FloatRange(0.05), metavar="S", help="End after so long; else with Ctrl-C.")
@click.option("--max-size", callback=_size, default="16M", show_default=True, metavar="SIZE",
              help="When the file has grown to this, intervals become twice as long.")
@verb(dry_run=True, force="Overwrite FILE.")
def command(session: Session, domain: str, device: str, output: Path, interval: float, seconds: float | None,
            max_size: int) -> None:
    """Write what a disk does into a file, interval by interval: requests, bytes, and the histograms of every stage.

    `xenpv plot` makes a picture of it. The backend must measure: `xenpv backend run --profile auto`, or --stamp us.
    """
    found = session.domains().find(domain)
    with session.open_domain() as dom0:
        place = toolstack.find_vbd(dom0.store, found.domid, device)
    vbd, run = (place.frontend_domid, place.devid), session.run_directory()

    look = partial(read_all, run, vbd)
    first = look()
    like = _measured(first, vbd)
    if session.dry_run:
        session.show(None, f"would record {device} of domain {domain} into {output}, every {interval:g} s")
        return
    header = Header(*vbd, found.name, time.time(), interval, like.end, like.unit, like.resolution_ns)
    with (ending_on(signal.SIGTERM, signal.SIGINT) as ending,
          Recorder(output, header, size_max=max_size, overwrite=session.force) as recorder):
        _record(recorder, look, first, vbd, like, seconds, ending)
        session.say(f"{recorder.count} intervals of {recorder.interval:g} s are in {output}: `xenpv plot {output}`")


def _measured(first: Reading, vbd: Vbd) -> DiskLatency:
    """What there is to record. Raises DeviceError when there is nothing."""
    snapshot = first.vbds.get(vbd)
    if snapshot is None or first.pid is None:
        raise DeviceError(f"domain {vbd[0]} has not connected the disk, or no backend of ours serves it: "
                          f"`xenpv block-list {vbd[0]}` shows its state")
    if snapshot.latency is None:
        raise DeviceError(snapshot.fault or
                          "the backend does not measure times: start it with `xenpv backend run --profile auto`")
    return snapshot.latency


def _record(recorder: Recorder, look: Callable[[], Reading], last: Reading, vbd: Vbd, like: DiskLatency,
            seconds: float | None, ending: Ending) -> None:
    """Until `ending`, or for `seconds`."""
    began = taken = due = time.monotonic()
    while not ending.asked and (seconds is None or taken - began < seconds - 1e-6):
        due = max(due + recorder.interval, taken)
        if seconds is not None:
            due = min(due, began + seconds)
        ending.wait(max(due - time.monotonic(), 0))
        reading, now = look(), time.monotonic()
        interval = intervals(last, reading, now - taken).get(vbd)
        recorder.add(Period.of(taken - began, interval, now - taken, like))
        last, taken = reading, now
