"""xenpv destroy: end domains at once."""

from __future__ import annotations

import click

from xenpv.errors import UsageError

from .. import toolstack
from ..session import Session, verb


@click.command("destroy")
@click.argument("domain", nargs=-1, required=True)
@verb(dry_run=True)
def command(session: Session, domain: tuple[str, ...]) -> None:
    """End domains at once: their processes, grants, event channels and disks. On Xen xl does it."""
    domains = session.domains()
    found = [domains.find(name) for name in domain]
    if any(each.domid == 0 for each in found):
        down = "" if domains.xen else " (`xenpv emu down`)"
        raise UsageError(f"domain 0 cannot be destroyed: it ends with the hypervisor{down}")
    if session.dry_run:
        session.show(None, "\n".join(f"would destroy domain {each.domid} ({each.name})" for each in found))
        return
    if domains.xen:
        for each in found:
            domains.destroy(each.domid)
        return
    with session.open_domain() as dom0:
        for each in found:
            for line in toolstack.close_all(dom0.store, each.domid, lambda: domains.destroy(each.domid)):
                session.say(line)
        for line in toolstack.prune(dom0.store, {each.domid for each in domains.all()}):
            session.say(line)
