"""xenpv block-list: the disks of domains."""

from __future__ import annotations

import click

from .. import toolstack
from ..backend_control import describe_devices
from ..output import table
from ..session import Session, verb

HEADER = ("Vdev", "Name", "BE", "handle", "state", "BE-state", "evt-ch", "ring-ref", "mode", "BE-path")
MORE = ("engine", "cache", "target")
RIGHT = HEADER[2:8]


@click.command("block-list")
@click.argument("domain", nargs=-1, required=True)
@verb(json=True, changes=False)
def command(session: Session, domain: tuple[str, ...]) -> None:
    """The disks of domains. State 4 is connected; evt-ch and ring-ref are what the guest says.

    -v shows the target too, and what the backend uses for it.
    """
    domains = session.domains()
    domids = [domains.find(name).domid for name in domain]
    with session.open_domain() as dom0:
        found = [(domid, vbd) for domid in domids for vbd in toolstack.list_vbds(dom0.store, domid)]
    served = describe_devices(session.run_directory()) if session.verbose or session.json else {}
    rows, data = [], []
    for domid, vbd in found:
        backend = served.get((domid, vbd.place.devid), {})
        data.append({"domid": domid, **vbd.to_json(), "backend": backend or None})
        rows.append((vbd.place.devid, vbd.name, vbd.place.backend_domid, domid, int(vbd.frontend_state),
                     int(vbd.backend_state), vbd.port, vbd.ring_ref, vbd.mode, vbd.place.backend,
                     backend.get("engine"), backend.get("storage", {}).get("cache"), vbd.params))
    header = HEADER + (MORE if session.verbose else ())
    session.show(data, table(header, [row[:len(header)] for row in rows], RIGHT))
