"""xenpv testhost: a real Xen host in QEMU, for one script or a shell."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from xenpv.errors import UsageError

from ..session import Session, verb

if TYPE_CHECKING:
    from ..testhost.recipe import Host


@click.group("testhost")
def command() -> None:
    """A real Xen host in QEMU, built from Debian packages: Xen, a Linux dom0 with this project, and PV guests.

    It needs no hardware virtualisation. It is built once, as root, and kept in $XDG_CACHE_HOME/xenpv/testhost.
    """


def host_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """The options that say which host is meant."""
    for option in (
        click.option("--dir", "directory", type=click.Path(path_type=Path, file_okay=False),
                     help="Where hosts are kept. Default: $XDG_CACHE_HOME/xenpv/testhost."),
        click.option("--release", type=click.Choice(["bookworm", "trixie"]), default="bookworm", show_default=True,
                     help="Debian's release: Xen 4.17 and Linux 6.1, or Xen 4.20 and Linux 6.12."),
    ):
        function = option(function)
    return function


def built(session: Session, release: str, directory: Path | None) -> Host:
    """The host that is meant; it is built if it is not there."""
    from ..testhost.build import RUN_PROGRAMS, build, need_programs
    from ..testhost.recipe import Host

    host = Host.at(release, directory)
    build(host, session.say)
    need_programs(RUN_PROGRAMS, session.say)
    return host


@command.command()
@click.option("--again", is_flag=True, help="Also when it is there.")
@host_options
@verb(json=True, dry_run=True)
def build(session: Session, release: str, directory: Path | None, again: bool) -> None:
    """Build the host from Debian packages, unless it is there. Needs root."""
    from ..testhost import build as builder
    from ..testhost.recipe import Host

    host = Host.at(release, directory)
    there = host.built and not again
    data = {"release": release, "directory": str(host.directory), "built": there or not session.dry_run}
    if session.dry_run:
        session.show(data, f"{host.directory}: {'is there' if there else 'would be built'}")
        return
    builder.build(host, session.say, again)
    session.show(data, f"{host.directory}: is there")


@command.command()
@click.argument("script", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.argument("files", nargs=-1, type=click.Path(path_type=Path, exists=True))
@click.option("--time-limit", type=float, default=600.0, show_default=True, metavar="S",
              help="Seconds that the script may take; then it is ended, and the exit status is 124.")
@click.option("--systemd", is_flag=True, help="Boot dom0 as Debian does, with systemd and its services; else with an init "
              "that starts Xen's daemons and nothing else, which is faster.")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False),
              help="Copy what the script left in $XENPV_RESULTS to here, and the host's logs to its folder testhost.")
@host_options
@verb()
def run(session: Session, script: Path, files: tuple[Path, ...], time_limit: float, systemd: bool, out: Path | None,
        release: str, directory: Path | None) -> None:
    """Boot the host and run SCRIPT in its dom0 as root, with this working tree's xenpv; its exit status is ours.

    SCRIPT and FILES (also folders) stand in /job there, which is the working directory. The host is built first if it is
    not there, and it is gone afterwards: nothing but the results is kept. $XENPV_TESTHOST names the release.
    """
    from ..testhost.job import Job, build_wheel
    from ..testhost.machine import TIMED_OUT, Machine
    from ..testhost.recipe import default_directory, project_root

    job = Job(script, list(files), time_limit, systemd=systemd)
    host = built(session, release, directory)
    wheel = build_wheel(project_root(), (directory or default_directory()) / "wheels")

    def output(data: bytes) -> None:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()

    with Machine.made(host, job, wheel) as machine:
        try:
            status = machine.run(time_limit, output)
        finally:
            if out is not None:
                machine.fetch(out)
    if status == TIMED_OUT:
        session.say(f"{script} did not end within {time_limit:g} s")
    raise SystemExit(status)


@command.command()
@click.argument("files", nargs=-1, type=click.Path(path_type=Path, exists=True))
@host_options
@verb()
def shell(session: Session, files: tuple[Path, ...], release: str, directory: Path | None) -> None:
    """Boot the host to a shell in dom0 on this terminal; the shell's end switches it off."""
    from ..testhost.job import Job, build_wheel
    from ..testhost.machine import Machine
    from ..testhost.recipe import default_directory, project_root

    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UsageError("a shell needs a terminal: use `xenpv testhost run SCRIPT`")
    size = shutil.get_terminal_size()
    job = Job(files=list(files), rows=size.lines, columns=size.columns)
    host = built(session, release, directory)
    wheel = build_wheel(project_root(), (directory or default_directory()) / "wheels")
    with Machine.made(host, job, wheel) as machine:
        session.say("booting; `exit` switches the host off")
        machine.shell()
