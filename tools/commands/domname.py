"""xenpv domname: from a number to a name."""

from __future__ import annotations

import click

from ..session import Session, verb


@click.command("domname")
@click.argument("domain")
@verb(json=True, changes=False)
def command(session: Session, domain: str) -> None:
    """The name of the domain of this number."""
    found = session.domains().find(domain)
    session.show({"name": found.name}, found.name)
