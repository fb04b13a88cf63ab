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
@click.argument("size")
@verb(json=True, dry_run=True)
def command(session: Session, domain: str, device: str, size: str) -> None:
    """Grow a connected disk to SIZE (bytes, or with k, M, G or T): its image first, then what the guest sees."""
    wanted = parse_size(size)
    domid = session.domains().find(domain).domid
    with session.open_domain() as dom0:
        place = toolstack.find_vbd(dom0.store, domid, device)
    if session.dry_run:
        session.show({"domid": domid, "devid": place.devid, "bytes": wanted}, f"would make {device} {wanted} bytes")
        return
    reply = ask(session.run_directory(), "resize", domid=domid, devid=place.devid, bytes=wanted)
    session.show({"domid": domid, "devid": place.devid, "bytes": reply["bytes"]}, f"{device}: {reply['bytes']} bytes")
