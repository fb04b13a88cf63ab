"""xenpv plot: a recording as a picture."""

from __future__ import annotations

import os
from pathlib import Path

import click

from xenpv.latency import OPERATIONS, STAGES

from ..monitor.page import render
from ..monitor.picture import Plot
from ..monitor.recording import read_recording
from ..session import Session, verb


@click.command("plot")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), metavar="OUT",
              help="A name that ends in .svg, .png or .html. Default: FILE.svg.")
@click.option("--stage", type=click.Choice(STAGES), metavar="STAGE",
              help=f"The heat map's: {', '.join(STAGES)}. Default: total, or service without stamps.")
@click.option("--operation", type=click.Choice(OPERATIONS), help="Of these requests alone.")
@click.option("--title", default="", help="Instead of the domain and the device.")
@verb(dry_run=True)
def command(session: Session, file: Path, output: Path | None, stage: str | None, operation: str | None, title: str) -> None:
    """A recording of `xenpv record` as a picture: a heat map of how long requests took, and where the time went.

    PNG needs the extra `png` (cairosvg).
    """
    output = output or file.with_name(f"{file.name}.svg")
    recording = read_recording(file)
    if recording.cut:
        session.say(f"the last line of {file} was not whole: it is left out")
    picture = render(Plot(recording, stage or "", operation, title), output.suffix.removeprefix(".").lower())
    if session.dry_run:
        session.show(None, f"would write {output}, {len(picture)} bytes")
        return
    _write(output.resolve(), picture)


def _write(path: Path, data: bytes) -> None:
    """Whole or not at all; what is no file (a device, a pipe) is written to. Raises OSError."""
    if path.exists() and not path.is_file():
        path.write_bytes(data)
        return
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.write_bytes(data)
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
