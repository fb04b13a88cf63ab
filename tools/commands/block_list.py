"""xenpv block-list: the disks of domains."""

from __future__ import annotations

import click

from .. import toolstack
from ..output import table
from ..session import Session, verb

HEADER = ("Vdev", "Name", "BE", "handle", "state", "BE-state", "evt-ch", "ring-ref", "mode", "BE-path")
RIGHT = HEADER[2:8]


@click.command("block-list")
@click.argument("domain", nargs=-1, required=True)
@verb(json=True, changes=False)
def command(session: Session, domain: tuple[str, ...]) -> None:
    """The disks of domains. State 4 is connected; evt-ch and ring-ref are what the guest says. -v shows the target."""
    domains = session.domains()
    domids = [domains.find(name).domid for name in domain]
    with session.open_domain() as dom0:
        found = [(domid, vbd) for domid in domids for vbd in toolstack.list_vbds(dom0.store, domid)]
    header = HEADER + (("target",) if session.verbose else ())
    rows = [(vbd.place.devid, vbd.name, vbd.place.backend_domid, domid, int(vbd.frontend_state), int(vbd.backend_state),
             vbd.port, vbd.ring_ref, vbd.mode, vbd.place.backend, vbd.params)[:len(header)] for domid, vbd in found]
    session.show([{"domid": domid, **vbd.to_json()} for domid, vbd in found], table(header, rows, RIGHT))
