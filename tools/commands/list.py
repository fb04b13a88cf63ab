"""xenpv list: the domains."""

from __future__ import annotations

import click

from ..output import duration, table
from ..session import Session, verb


@click.command("list")
@click.argument("domain", nargs=-1)
@verb(json=True, changes=False)
def command(session: Session, domain: tuple[str, ...]) -> None:
    """The domains that there are, or those named."""
    domains = session.domains()
    found = [domains.find(name) for name in domain] if domain else domains.all()
    rows = [(each.name, each.domid, each.state, each.pid, duration(each.uptime)) for each in found]
    session.show([each.to_json() for each in found],
                 table(("Name", "ID", "State", "PID", "Uptime"), rows, ("ID", "PID", "Uptime")))
