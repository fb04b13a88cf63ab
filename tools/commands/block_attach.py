"""xenpv block-attach: give a domain a disk."""

from __future__ import annotations

import click

from xenpv.xenbus import vdev_name

from ..diskspec import parse_disk
from ..output import dumps
from ..session import Session, verb
from ..vbds import prepare, warn_without_backend


@click.command("block-attach")
@click.argument("domain")
@click.argument("spec", nargs=-1, required=True)
@click.option("--wait", type=click.FloatRange(0), metavar="SECONDS",
              help="Also wait so long for the guest to use it.")
@verb(json=True, dry_run=True)
def command(session: Session, domain: str, spec: tuple[str, ...], wait: float | None) -> None:
    """Give a domain a disk. SPEC is xl's: target,format,vdev,access, or key=value, in one word or several.

    With -N the disk is shown as it was understood, as JSON, and nothing else happens.
    """
    disk = parse_disk(*spec)
    if session.dry_run:
        click.echo(dumps(disk.to_json()))
        return
    domains = session.domains()
    domid = domains.find(domain).domid
    attachment = prepare([disk], domains)[0]
    warn_without_backend(session, [attachment])
    with session.open_domain() as dom0:
        place = attachment.attach(dom0.store, domid, connected=wait)
    if session.json:
        session.show({"domid": domid, "vdev": vdev_name(place.devid), "devid": place.devid,
                      "backend": place.backend}, "")
