"""xenpv block-detach: take a disk away from a domain."""

from __future__ import annotations

import click

from .. import toolstack
from ..session import Session, verb
from ..xl import XlDomains


@click.command("block-detach")
@click.argument("domain")
@click.argument("device")
@verb(dry_run=True, force="Also when its backend does not answer.")
def command(session: Session, domain: str, device: str) -> None:
    """Take a disk away from a domain."""
    domains = session.domains()
    domid = domains.find(domain).domid
    with session.open_domain() as dom0:
        place = toolstack.find_vbd(dom0.store, domid, device)
        if session.dry_run:
            session.show(None, f"would detach {device} ({place.backend})")
            return
        if isinstance(domains, XlDomains) and not toolstack.is_ours(dom0.store, place):
            domains.detach_disk(domid, device)
        else:
            toolstack.detach(dom0.store, place, force=session.force)
