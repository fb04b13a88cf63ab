"""xenpv disk: the guest's side, a vbd of this domain used from user space."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, BinaryIO

import click

from xenpv.errors import StorageError, UsageError

from ..disk_io import copy_in, copy_out, is_device, new_image, size_of
from ..latency_text import clock_text, latency_text
from ..output import pairs, parse_size
from ..progress import Progress
from ..session import Session, verb

if TYPE_CHECKING:
    from xenpv_frontend.disk import Disk


@click.group("disk")
def command() -> None:
    """The guest's side: use a vbd of this domain (--hypervisor, $XENPV_HYPERVISOR) from user space.

    Nobody else may use it meanwhile: connecting to a disk takes it over. One that the kernel has (/dev/xvdb) is taken away
    from it with --take, if nobody uses it, and given back at the end.
    """


def _size(ctx: click.Context, param: click.Parameter, value: str | None) -> int | None:
    return None if value is None else parse_size(value)


_TAKE = click.option("--take", is_flag=True, help="Also when the kernel has it: take it away for as long as this runs.")
_LATENCY = click.option("--latency", type=click.Choice(["auto", "us", "tick"]),
                        help="Show on stderr how long the requests took: their total (auto), or each stage by stamps.")
_QUEUES = click.option("--queues", type=int, default=1, metavar="N",
                       help="Rings to use, up to what the backend offers; default: 1.")
_OFFSET = click.option("--offset", default="0", callback=_size, metavar="BYTES", help="Where it begins on the disk.")


@contextmanager
def _opened(session: Session, device: str, take: bool, latency: str | None, queues: int) -> Iterator[Disk]:
    """The disk; at the end, what it measured."""
    from xenpv_frontend.disk import Disk

    stamp = None if latency == "auto" else latency
    with session.open_domain() as domain, Disk.open(domain, device, take=take, stamp=stamp, queues=queues,
                                                    profile=latency == "auto") as disk:
        yield disk
        found = disk.latency()
        if found is not None:
            click.echo(f"{device}: {clock_text(found)}\n\n{latency_text(found)}", err=True)


@command.command()
@click.argument("device", default="xvda")
@_QUEUES
@_TAKE
@verb(json=True, changes=False)
def info(session: Session, device: str, take: bool, queues: int) -> None:
    """What a disk is, and what was agreed. It connects to find out."""
    from xenpv_frontend.disk import Disk

    with session.open_domain() as domain, Disk.open(domain, device, take=take, queues=queues) as disk:
        found = {"name": disk.name, "size": disk.size, "sector_size": disk.sector_size, "readonly": disk.readonly,
                 "features": dataclasses.asdict(disk.features)}
    shown = {key: value for key, value in found.items() if key != "features"} | dataclasses.asdict(disk.features)
    session.show(found, pairs(shown))


@command.command()
@click.argument("device")
@_OFFSET
@click.option("--length", callback=_size, metavar="BYTES", help="How much; default: to the end.")
@click.option("-o", "--output", metavar="FILE", help="Where to, instead of stdout.")
@_LATENCY
@_QUEUES
@_TAKE
@verb(force="Also to a terminal.", changes=False)
def read(session: Session, device: str, offset: int, length: int | None, output: str | None, take: bool,
         latency: str | None, queues: int) -> None:
    """The disk's bytes, to stdout."""
    if output is None and sys.stdout.isatty() and not session.force:
        raise UsageError("a disk's bytes would garble the terminal: use -o FILE or a pipe, or -f")
    with _opened(session, device, take, latency, queues) as disk:
        if output is None:
            with Progress(device, length) as progress:
                copy_out(disk, sys.stdout.buffer, progress, offset, length)
            sys.stdout.buffer.flush()
        else:
            with Progress(device, length) as progress, new_image(output) as file:
                copy_out(disk, file, progress, offset, length)


@command.command()
@click.argument("device")
@click.argument("file", default="-")
@_OFFSET
@_LATENCY
@_QUEUES
@_TAKE
@verb(dry_run=True)
def write(session: Session, device: str, file: str, offset: int, take: bool, latency: str | None, queues: int) -> None:
    """Write FILE (-: stdin) to the disk, whole sectors, and flush."""
    _write(session, device, file, offset, take, latency, queues)


def _write(session: Session, device: str, name: str, offset: int, take: bool, latency: str | None,
           queues: int) -> Progress:
    try:
        source: BinaryIO = sys.stdin.buffer if name == "-" else open(name, "rb")
    except OSError as error:
        raise StorageError(f"cannot read {name}: {error.strerror}") from error
    with source, Progress(device, size_of(source)) as progress:
        if session.dry_run:
            session.show(None, f"would write {name} to {device} at {offset}")
            return progress
        with _opened(session, device, take, latency, queues) as disk:
            copy_in(disk, source, name, progress, offset)
    return progress


@command.command()
@click.argument("source")
@click.argument("target")
@_LATENCY
@_QUEUES
@_TAKE
@verb(json=True, dry_run=True)
def cp(session: Session, source: str, target: str, take: bool, latency: str | None, queues: int) -> None:
    """Copy a whole disk to an image, or back.

    One of SOURCE and TARGET is a device such as xvda, the other a file. A file that is called like a device is written
    ./xvda. An image is there when all of it is, and sparse where the disk is zero.
    """
    if is_device(source) == is_device(target):
        raise UsageError("one of SOURCE and TARGET is a device such as xvda, the other one a file (./xvda for one of "
                         "that name)")
    if is_device(target):
        progress = _write(session, target, source, 0, take, latency, queues)
    elif session.dry_run:
        session.show({"source": source, "target": target}, f"would copy {source} to {target}")
        return
    else:
        with _opened(session, source, take, latency, queues) as disk:
            with Progress(source, disk.size) as progress, new_image(target) as file:
                copy_out(disk, file, progress)
    if not session.dry_run:
        seconds = progress.seconds
        session.show({"bytes": progress.done, "seconds": round(seconds, 3)},
                     f"{progress.done} bytes in {seconds:.2f} s")


@command.command()
@click.argument("device")
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("-d", "--directory", default=".", metavar="DIR", help="Where the files go; made when it is not there.")
@click.option("-o", "--output", metavar="FILE", help="One image to a file, a block device, or - for standard output.")
@click.option("-l", "--list", "list_", is_flag=True, help="Only show the images.")
@click.option("--key", metavar="KEY", help="Only what the owner of this Ed25519 public key (PEM) has signed.")
@_TAKE
@verb(json=True, force="Also over files that are there.")
def extract(session: Session, device: str, names: tuple[str, ...], directory: str, output: str | None, list_: bool,
            key: str | None, take: bool) -> None:
    """Images out of the boot bundle on the disk, each checked.

    All of them, or those that are named. Only the index and those images are read (docs/bundle.md).
    """
    from xenpv_frontend.disk import Disk

    from ..bundle import actions
    from ..bundle.reader import Bundle
    from ..bundle.source import DiskSource

    with session.open_domain() as domain, Disk.open(domain, device, take=take) as disk, \
            Bundle(DiskSource(disk)) as bundle:
        if list_:
            actions.ls(session, bundle)
        elif not actions.extract(session, bundle, names, directory=directory, output=output, key=key):
            click.get_current_context().exit(1)
