"""xenpv event: the event channels of the emulated Xen's domains."""

from __future__ import annotations

import click

from ..output import table
from ..session import Session, verb


@click.group("event")
def command() -> None:
    """The event channels of the emulated Xen's domains."""


@command.command("list")
@click.argument("domain", nargs=-1)
@verb(json=True, changes=False)
def list_(session: Session, domain: tuple[str, ...]) -> None:
    """Ports, and what they are bound to. Of all domains, or of those named.

    Remote is the domain at the other end, or the one that may bind.
    """
    domains = session.domains()
    found = [domains.find(name) for name in domain] if domain else domains.all()
    data = [port for each in found for port in domains.ports(each.domid)]
    rows = [(port["domid"], port["port"], port["status"], port["remote"], port["remote_port"],
             "yes" if port["pending"] else "no") for port in data]
    header = ("ID", "Port", "Status", "Remote", "Remote-port", "Pending")
    session.show(data, table(header, rows, ("ID", "Port", "Remote", "Remote-port")))
