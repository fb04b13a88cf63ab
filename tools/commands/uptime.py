"""xenpv uptime: since when domains run."""

from __future__ import annotations

import click

from ..output import duration, table
from ..session import Session, verb


@click.command("uptime")
@click.argument("domain", nargs=-1)
@verb(json=True, changes=False)
def command(session: Session, domain: tuple[str, ...]) -> None:
    """Since when domains run: all, or those named."""
    domains = session.domains()
    found = [domains.find(name) for name in domain] if domain else domains.all()
    session.show([{"domid": each.domid, "name": each.name, "uptime_s": round(each.uptime, 3)} for each in found],
                 table(("Name", "ID", "Uptime"), [(each.name, each.domid, duration(each.uptime)) for each in found],
                       ("ID", "Uptime")))
