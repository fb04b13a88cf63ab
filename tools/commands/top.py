"""xenpv top: what every vbd does, live."""

from __future__ import annotations

from functools import partial

import click

from xenpv.errors import XenpvError

from .. import toolstack
from ..monitor.live import Clock, Monitor, run_batch, run_live
from ..monitor.source import Vbd, read_all
from ..monitor.terminal import Terminal
from ..monitor.view import SORT_KEYS, View
from ..session import Session, verb


@click.command("top")
@click.argument("domain", required=False)
@click.argument("device", required=False)
@click.option("-i", "--interval", type=click.FloatRange(0.05, 3600), default=1.0, show_default=True, metavar="S",
              help="Seconds between two looks.")
@click.option("-s", "--sort", type=click.Choice(SORT_KEYS), default="vbd", show_default=True, metavar="COLUMN",
              help=f"Sort by {', '.join(SORT_KEYS)}.")
@click.option("-r", "--reverse", is_flag=True, help="Sort the other way round.")
@click.option("-b", "--batch", is_flag=True, help="Write lines instead, for scripts and files; --json implies it.")
@click.option("-n", "--count", type=click.IntRange(1), metavar="N",
              help="End after N intervals; the first is written after one.")
@verb(json=True, changes=False)
def command(session: Session, domain: str | None, device: str | None, interval: float, sort: str, reverse: bool,
            batch: bool, count: int | None) -> None:
    """What every vbd does, or DOMAIN's, or DEVICE alone: requests and bytes a second, times, queue depth, notifications.

    It reads what the backend publishes, and asks it nothing. Times need `xenpv backend run --profile auto`; total needs
    stamped requests too (--stamp). With --json a line is an interval.

    \b
    r/s w/s o/s          reads, writes and other requests a second
    rB/s wB/s            bytes a second, Ki = 1024
    ser-p50 ser-p99      service: from the fetch of a request to its response
    tot-p50 tot-p99      total: from the frontend's submit to the response
    QD                   requests under way on average, from submit (without stamps, fetch) to response
    ntf/s saved/s        notifications sent to the frontend, and not needed
    clock, zero          the clock's resolution; how many requests took less than a step of it
    lost                 requests that lack a time: `xenpv latency` and `xenpv time doctor` say why
    """
    batch = batch or session.json
    if count is not None and not batch:
        raise click.UsageError("--count is for --batch")
    wanted = _wanted(session, domain, device)
    view = View(session.uri(), interval, sort, reverse)
    monitor = Monitor(partial(read_all, session.run_directory()), view, Clock(), wanted, lambda: _names(session))
    if batch:
        run_batch(monitor, click.echo, count=count, as_json=session.json)
    else:
        with Terminal() as terminal:
            run_live(monitor, terminal)


def _wanted(session: Session, domain: str | None, device: str | None) -> partial[bool]:
    domid = devid = None
    if domain is not None:
        domid = session.domains().find(domain).domid
        if device is not None:
            with session.open_domain() as dom0:
                devid = toolstack.find_vbd(dom0.store, domid, device).devid
    return partial(_is, domid, devid)


def _is(domid: int | None, devid: int | None, vbd: Vbd) -> bool:
    return domid in (None, vbd[0]) and devid in (None, vbd[1])


def _names(session: Session) -> dict[int, str]:
    try:
        return {each.domid: each.name for each in session.domains().all()}
    except XenpvError:
        return {}  # a driver domain's, or a host that has ended: its numbers say enough
