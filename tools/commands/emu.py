"""xenpv emu: the emulated Xen in a run directory."""

from __future__ import annotations

import json
from pathlib import Path

import click

from xenpv.errors import DeviceError, HypervisorError, UsageError

from ..backend_control import remove_if_empty, stop_backend
from ..domains import DomainInfo, emulated_run_directory
from ..output import duration, pairs, table
from ..session import Session, verb


@click.group("emu")
def command() -> None:
    """The emulated Xen: domains, grants, event channels and xenstore for plain processes.

    It lives in the run directory: --hypervisor emulated:DIR, else $XENPV_RUNDIR, else /run/xenpv as root, else
    $XDG_RUNTIME_DIR/xenpv.
    """


def run_directory(session: Session) -> Path:
    """The run directory that is meant, also where there is a real Xen."""
    uri = session.uri() if session.hypervisor else "emulated:"
    if not uri.startswith("emulated:"):
        raise UsageError(f"{uri} is not emulated: say emulated:DIR, or leave --hypervisor out")
    return emulated_run_directory(uri)


@command.command()
@click.option("--foreground", is_flag=True, help="Stay until SIGTERM or Ctrl-C.")
@verb(json=True, dry_run=True)
def up(session: Session, foreground: bool) -> None:
    """Start it."""
    from xenpv.hypervisors.emulated import host

    run = run_directory(session)
    if session.dry_run:
        session.show({"directory": str(run)}, f"would start an emulated Xen in {run}")
        return

    def ready(status: dict[str, object]) -> None:
        # One line, at once: in the foreground somebody waits for it.
        text = f"emulated Xen in {status['directory']} (pid {status['pid']}); xenstored at {status['xenstored']}"
        click.echo(json.dumps(status) if session.json else text)

    host.start(run, foreground=foreground, ready=ready)


@command.command()
@verb(dry_run=True, force="No error when none runs.")
def down(session: Session) -> None:
    """End it with all its domains and its backend."""
    from xenpv.hypervisors.emulated import host

    run = run_directory(session)
    if session.dry_run:
        pid = host.status(run)["pid"]
        session.show(None, f"would end the emulated Xen in {run} (pid {pid})")
        return
    try:
        host.stop(run)
    except HypervisorError:
        if not session.force or (run / "lock").exists():
            raise
    _end_backend(run)


def _end_backend(run: Path) -> None:
    """Domain 0 is gone, and with it its backend; what it keeps for a successor is of no use any more."""
    from xenpv_backend.rundir import BackendDirectory

    if (run / "backend").exists():
        pid = stop_backend(run)
        if pid is not None:
            raise DeviceError(f"the backend (pid {pid}) does not end: end it with `kill {pid}`")
        with BackendDirectory(run) as left:
            left.remove_stale([])
    (run / "backend.log").unlink(missing_ok=True)
    remove_if_empty(run)


@command.command()
@verb(json=True, changes=False)
def status(session: Session) -> None:
    """Whether it runs, where, and with which domains."""
    from xenpv.hypervisors.emulated import host

    found = host.status(run_directory(session))
    found.pop("ok", None)
    domains = [DomainInfo.parse(values) for values in found["domains"]]
    text = pairs({"run directory": found["directory"], "pid": found["pid"], "xenstored": found["xenstored"],
                  "uptime": duration(found["uptime_s"]), "domains": len(domains)})
    rows = [(domain.name, domain.domid, domain.state, domain.pid, duration(domain.uptime)) for domain in domains]
    session.show(found, f"{text}\n\n" + table(("Name", "ID", "State", "PID", "Uptime"), rows, ("ID", "PID", "Uptime")))
