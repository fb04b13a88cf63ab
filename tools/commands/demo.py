"""xenpv demo: serve a disk image to two guests, and prove every byte."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from ..session import Session, verb


@click.command("demo")
@click.argument("image", required=False, type=click.Path(path_type=Path))
@verb(json=True)
def command(session: Session, image: Path | None) -> None:
    """Serve IMAGE to two guests on an emulated Xen of its own, and prove every byte.

    Each guest is a process with its domain's directory and nothing else. It reads the image, writes it to a disk of its
    own and reads that back; domain 0 compares. IMAGE is never written. Without IMAGE, files of this machine are packed.
    """
    from ..demo.report import report
    from ..demo.run import run_demo

    shown = sys.stderr.isatty()

    def say(text: str) -> None:
        if shown:
            click.echo(f"\r\033[K{text}", err=True, nl=False)

    try:
        found = run_demo(image, say)
    finally:
        if shown:
            click.echo("\r\033[K", err=True, nl=False)
    session.show(found, report(found))
    if not found["ok"]:
        raise SystemExit(1)
