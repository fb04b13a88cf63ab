"""xenpv block-resize: change the size of a disk in use."""

from __future__ import annotations

import click

from .. import toolstack
from ..backend_control import ask
from ..output import parse_size
from ..session import Session, verb


@click.command("block-resize")
@click.argument("domain")
@click.argument("device")
@click.argument("size", required=False)
@verb(json=True, dry_run=True)
def command(session: Session, domain: str, device: str, size: str | None) -> None:
    """Grow a connected disk to SIZE (bytes, or with k, M, G or T): its image first, then what the guest sees.

    Without SIZE the disk gets the size that its image has now.
    """
    wanted = None if size is None else parse_size(size)
    domid = session.domains().find(domain).domid
    with session.open_domain() as dom0:
        place = toolstack.find_vbd(dom0.store, domid, device)
    if session.dry_run:
        session.show({"domid": domid, "devid": place.devid, "bytes": wanted},
                     f"would make {device} {'as large as its image' if wanted is None else f'{wanted} bytes'}")
        return
    reply = ask(session.run_directory(), "resize", domid=domid, devid=place.devid, bytes=wanted)
    session.show({"domid": domid, "devid": place.devid, "bytes": reply["bytes"]}, f"{device}: {reply['bytes']} bytes")
