"""xenpv grant: the grants of the emulated Xen's domains."""

from __future__ import annotations

from typing import Any

import click

from ..output import table
from ..session import Session, verb


@click.group("grant")
def command() -> None:
    """The grants of the emulated Xen's domains."""


@command.command("list")
@click.argument("domain", nargs=-1)
@verb(json=True, changes=False)
def list_(session: Session, domain: tuple[str, ...]) -> None:
    """Which page is granted to whom, and is mapped. Of all domains, or of those named."""
    domains = session.domains()
    found = [domains.find(name) for name in domain] if domain else domains.all()
    data: list[dict[str, Any]] = []
    for each in found:
        grants, left_out = domains.grants(each.domid)
        data += grants
        if left_out:
            session.say(f"domain {each.domid}: {left_out} more grants are not shown")
    rows = [(grant["domid"], grant["ref"], grant["foreign"], "r" if grant["readonly"] else "w", grant["mapped"])
            for grant in data]
    header = ("ID", "Ref", "To", "Mode", "Mapped")
    session.show(data, table(header, rows, ("ID", "Ref", "To", "Mapped")))
