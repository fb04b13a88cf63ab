"""xenpv latency: how long a disk's requests took, and where."""

from __future__ import annotations

from select import select
from typing import Any

import click

from xenpv.domain import Domain
from xenpv.errors import DeviceError, NoEntryError
from xenpv.latency import DiskLatency, read_disk
from xenpv.timepage import find_page, trouble

from .. import toolstack
from ..latency_text import clock_text, latency_text
from ..session import Session, verb
from ..toolstack import Vbd


@click.command("latency")
@click.argument("domain")
@click.argument("device", required=False)
@click.option("-s", "--seconds", type=click.FloatRange(0.1, 86400), metavar="S",
              help="Only what is answered in the next S seconds, instead of all since the disk was connected.")
@verb(json=True, changes=False)
def command(session: Session, domain: str, device: str | None, seconds: float | None) -> None:
    """How long the requests of a domain's disks took, per operation and stage, by the backend here.

    It counts stamped requests always, others with `xenpv backend run --profile auto`. A time is shown as an interval where
    the clock cannot tell it more closely; `zero` is the share of requests that took less than one step of the clock.
    """
    domid = session.domains().find(domain).domid
    with session.open_domain() as dom0:
        vbds = toolstack.list_vbds(dom0.store, domid)
        if device is not None:
            place = toolstack.find_vbd(dom0.store, domid, device)
            vbds = [vbd for vbd in vbds if vbd.place == place]
        doubt = _doubt(dom0, vbds)
    if not vbds:
        raise DeviceError(f"domain {domain} has no disks: `xenpv block-attach` gives it one")
    found = _read(session, vbds)
    if not any(latency is not None for latency in found):
        names = ", ".join(vbd.name for vbd in vbds)
        raise DeviceError(f"{names} of domain {domain} {'is' if len(vbds) == 1 else 'are'} not measured: start the backend "
                          "with --profile auto, or with --stamp for guests that stamp their requests")
    if doubt:
        session.say(doubt)
    if seconds is not None:
        select([], [], [], seconds)
        found = [_since(now, before) for now, before in zip(_read(session, vbds), found, strict=True)]
    _show(session, domid, list(zip(vbds, found, strict=True)))


def _doubt(domain: Domain, vbds: list[Vbd]) -> str:
    """What makes times by dom0's tick doubtful now, in a line; empty without any."""
    ticks = [vbd.name for vbd in vbds if _stamp(domain, vbd) == b"tick"]
    why = trouble(lambda: find_page(domain)) if ticks else ""
    return why and f"{', '.join(ticks)}: no times can be taken now: {why}"


def _stamp(domain: Domain, vbd: Vbd) -> bytes:
    """The unit in which the guest says that it stamps its requests."""
    try:
        return domain.store.read(f"{vbd.place.frontend}/xenpv-stamp")
    except NoEntryError:
        return b""


def _read(session: Session, vbds: list[Vbd]) -> list[DiskLatency | None]:
    run = session.run_directory()
    return [read_disk(run, vbd.place.frontend_domid, vbd.place.devid) for vbd in vbds]


def _since(now: DiskLatency | None, before: DiskLatency | None) -> DiskLatency | None:
    return now - before if now is not None and before is not None and now.is_like(before) else now


def _show(session: Session, domid: int, found: list[tuple[Vbd, DiskLatency | None]]) -> None:
    data: list[dict[str, Any]] = []
    parts = []
    for vbd, latency in found:
        data.append({"domid": domid, "devid": vbd.place.devid, "vdev": vbd.name,
                     "latency": None if latency is None else latency.to_json()})
        head = f"{vbd.name} of domain {domid}: "
        parts.append(head + "not measured" if latency is None else
                     f"{head}{clock_text(latency)}\n\n{latency_text(latency)}")
    session.show(data, "\n\n".join(parts))
