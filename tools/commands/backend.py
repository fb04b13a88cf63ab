"""xenpv backend: serve every vbd that is offered to this domain."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from xenpv.errors import UsageError

from ..backend_control import ask, remove_if_empty, stop_backend
from ..output import pairs
from ..session import Session, one_line, verb


@click.group("backend")
def command() -> None:
    """The backend: serve every disk that is offered to this domain."""


@command.command()
@click.option("--engine", metavar="NAME", help="auto, io_uring or threads: how storage that waits is read and written.")
@click.option("--cache", metavar="NAME", help="auto, none, writeback, writethrough, directsync or unsafe, as QEMU's.")
@click.option("--spin-us", type=int, metavar="US", help="How long a queue looks again before it sleeps.")
@click.option("--max-queues", type=int, metavar="N", help="Rings of one disk that are offered.")
@click.option("--max-ring-page-order", type=int, metavar="N", help="Rings of up to 2**N pages are offered.")
@click.option("--notify-flag/--no-notify-flag", default=None, help="Offer the notify-suppression flag.")
@click.option("--persistent/--no-persistent", default=None, help="Offer persistent grants.")
@click.option("--max-indirect-segments", type=int, metavar="N",
              help="Indirect requests of up to N segments are offered; 0: none.")
@click.option("--max-persistent-grants", type=int, metavar="N", help="Pages of a ring that stay mapped at the most.")
@click.option("--data", metavar="HOW", help="auto, copy or map: how data moves between a guest's pages and the storage.")
@click.option("--flush/--no-flush", default=None, help="Offer flushes.")
@click.option("--barrier/--no-barrier", default=None, help="Offer write barriers.")
@click.option("--discard/--no-discard", default=None, help="Offer discards, where the storage can do them.")
@click.option("--discard-secure/--no-discard-secure", default=None, help="And secure ones.")
@click.option("--sector-size", type=int, metavar="BYTES", help="Logical sectors of a disk have at least so many bytes.")
@click.option("--stamp", metavar="UNIT", help="Offer requests stamped with dom0's time: off, tick or us.")
@click.option("--profile", metavar="CLOCK",
              help="Count how long requests take, for `xenpv latency`: off, auto, us or tick. Stamped ones are always.")
@click.option("--daemon", is_flag=True, help="Go to the background once every disk that is there is served.")
@verb(dry_run=True)
def run(session: Session, /, daemon: bool, **chosen: Any) -> None:
    """Serve until SIGTERM.

    Then what was taken is answered, and connected disks wait for the next backend.

    Options also stand in /etc/xenpv/backend.toml and ~/.config/xenpv/backend.toml; those given here count more. SIGHUP
    reads the files again.
    """
    from xenpv_backend.options import load_options

    given = {name: value for name, value in chosen.items() if value is not None}
    if session.verbose:
        given["log_level"] = "debug"
    options = load_options(**given)
    directory = session.run_directory()
    if session.dry_run:
        session.show(None, f"would serve the disks offered to {session.uri()}, in {directory}\n{options}")
        return

    def serve(ready: Callable[[], None]) -> int:
        from xenpv_backend import daemon as backend

        with session.open_domain() as domain:
            return backend.run(domain, directory, ready=ready, reload=lambda: load_options(**given))

    status = _in_background(serve, directory) if daemon else serve(lambda: session.say("the backend serves"))
    remove_if_empty(directory)
    click.get_current_context().exit(status)


def _in_background(serve: Callable[[Callable[[], None]], int], directory: Path) -> int:
    """Fork before anything is open; the first process returns when the second says that it serves, or why not."""
    reader, writer = os.pipe()
    child = os.fork()
    if child:
        os.close(writer)
        with os.fdopen(reader) as pipe:
            word = pipe.readline().strip()
        os.waitpid(child, 0)
        return 0 if word == "ready" else int(word or "1")
    os.close(reader)
    os.setsid()
    if os.fork():
        os._exit(0)
    os._exit(_background(serve, directory, writer))


def _background(serve: Callable[[Callable[[], None]], int], directory: Path, writer: int) -> int:
    log = directory / "backend.log"

    def ready() -> None:
        os.chdir("/")
        null = os.open(os.devnull, os.O_RDWR)
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
        for source, target in ((null, 0), (out, 1), (out, 2)):
            os.dup2(source, target)
        os.close(null)
        os.close(out)
        try:
            os.write(writer, b"ready\n")
        except BrokenPipeError:
            raise KeyboardInterrupt from None  # who started us was interrupted, and so are we

    from xenpv.errors import XenpvError

    try:
        status = serve(ready)
    except KeyboardInterrupt:
        status = 0
    except XenpvError as error:
        print(f"xenpv: {one_line(str(error))}", file=sys.stderr)
        status = 2 if isinstance(error, UsageError) else 1
    if status == 0 or not (directory / "control").exists():
        log.unlink(missing_ok=True)  # it ended as it was told to, or with its hypervisor
    sys.stderr.flush()
    with contextlib.suppress(BrokenPipeError):  # after "ready" nobody listens any more
        os.write(writer, f"{status}\n".encode())
    remove_if_empty(directory)
    return status


@command.command()
@verb(json=True, changes=False)
def status(session: Session) -> None:
    """What a running backend says of itself."""
    found = ask(session.run_directory(), "status")
    shown = {key: value for key, value in found.items() if key != "options"} | found.get("options", {})
    shown["degraded"] = "; ".join(found.get("degraded", [])) or "nothing"
    session.show(found, pairs(shown))


@command.command()
@verb(dry_run=True)
def stop(session: Session) -> None:
    """End a running backend, as SIGTERM does."""
    directory = session.run_directory()
    found = ask(directory, "status")
    if session.dry_run:
        session.show(None, f"would end the backend in {directory} (pid {found['pid']})")
        return
    pid = stop_backend(directory)
    if pid is not None:
        session.say(f"the backend (pid {pid}) was told, and has requests to answer yet")
