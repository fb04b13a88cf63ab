"""xenpv mirror: the file that a mirror needs, made and looked at."""

from __future__ import annotations

import os
from typing import Any

import click

from xenpv.errors import StorageError
from xenpv_backend.storage import StorageBusyError
from xenpv_backend.storage.mirror import create_mirror, show_mirror

from ..backend_control import describe_devices
from ..output import pairs, table
from ..session import Session, verb
from ..vbds import whole_target


@click.group("mirror")
def command() -> None:
    """A disk on several storages at once, target=mirror:FILE (docs/storage.md)."""


@command.command()
@click.argument("file")
@click.argument("leg", nargs=-1, required=True)
@click.option("--copies", type=click.IntRange(1, 8), default=1, metavar="N",
              help="Acknowledge no write that is on fewer legs; 1 by default.")
@click.option("--same", is_flag=True, help="The legs are equal already: copy nothing.")
@verb(json=True, dry_run=True)
def create(session: Session, file: str, leg: tuple[str, ...], copies: int, same: bool) -> None:
    """Make FILE, by which the LEGs (targets as a disk's) are one mirror.

    What is on the first leg stays, and is copied to the others when the mirror is first used. FILE had better not be on
    a disk of a leg.
    """
    path = os.path.abspath(file)
    targets = [whole_target(target, True) for target in leg]
    if session.dry_run:
        session.show({"file": path, "legs": targets, "copies": copies},
                     f"would make {path}: {', '.join(targets[1:])} become what {targets[0]} is")
        return
    size = create_mirror(path, targets, copies=copies, same=same)
    session.show({"file": path, "legs": targets, "copies": copies, "bytes": size},
                 f"mirror:{path} has {size} bytes on {len(targets)} legs")


@command.command()
@click.argument("file")
@verb(json=True, changes=False)
def show(session: Session, file: str) -> None:
    """The state of FILE's mirror: from the backend while a disk uses it, else what stands in FILE."""
    path = os.path.abspath(file)
    found = _in_use(session, path) or _at_rest(path)
    header = ("leg", "state", "left to copy", "error")
    rows = [(leg["target"], leg["state"], leg.get("left_bytes"), leg.get("error")) for leg in found["legs"]]
    shown = {name: value for name, value in found.items() if name != "legs"}
    session.show(found, pairs(shown) + "\n" + table(header, rows, ("left to copy",)))


def _in_use(session: Session, path: str) -> dict[str, Any] | None:
    for (domid, devid), device in describe_devices(session.run_directory()).items():
        storage = device.get("storage", {})
        if storage.get("name") == f"mirror:{path}" and "mirror" in storage.get("layers", {}):
            return {"file": path, "domid": domid, "devid": devid, "bytes": storage["size"], **storage["layers"]["mirror"]}
    return None


def _at_rest(path: str) -> dict[str, Any]:
    try:
        with show_mirror(path) as metadata:
            header = metadata.header
            return {"file": path, "bytes": header.size, "copies": header.copies,
                    "dirty_bytes": metadata.count_marked() * header.region,
                    "legs": [{"target": leg.target, "state": leg.state} for leg in header.legs]}
    except StorageBusyError as error:
        raise StorageError(f"{path} is in use, and no backend of this run directory says by what: set XENPV_RUNDIR "
                           "to that of the backend that has it") from error
