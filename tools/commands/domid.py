"""xenpv domid: from a name to a number."""

from __future__ import annotations

import click

from ..session import Session, verb


@click.command("domid")
@click.argument("domain")
@verb(json=True, changes=False)
def command(session: Session, domain: str) -> None:
    """The number of the domain of this name."""
    found = session.domains().find(domain)
    session.show({"domid": found.domid}, str(found.domid))
