"""xenpv info: the hypervisor, as xenpv sees it."""

from __future__ import annotations

import os
import platform

import click

from ..output import duration, pairs
from ..session import Session, verb
from ..versions import versions


@click.command("info")
@verb(json=True, changes=False)
def command(session: Session) -> None:
    """The hypervisor and this machine."""
    uri = session.uri()
    status = session.domains().status()
    found: dict[str, object] = {
        "host": platform.node(), "release": platform.release(), "machine": platform.machine(),
        "nr_cpus": len(os.sched_getaffinity(0)), "hypervisor": uri, "run_directory": status["directory"],
        "host_pid": status["pid"], "xenstored": status["xenstored"], "uptime_s": round(float(status["uptime_s"]), 3),
        "domains": len(status["domains"]), "versions": versions(),
    }
    shown = {**found, "uptime": duration(float(status["uptime_s"])), "xenpv_version": versions()["package"]}
    del shown["uptime_s"], shown["versions"]
    session.show(found, pairs(shown))
