"""xenpv info: the hypervisor, as xenpv sees it."""

from __future__ import annotations

import os
import platform
from typing import Any

import click

from ..output import duration, pairs
from ..session import Session, verb
from ..versions import versions


@click.command("info")
@verb(json=True, changes=False)
def command(session: Session) -> None:
    """The hypervisor and this machine."""
    domains = session.domains()
    status = domains.status()
    found: dict[str, object] = {
        "host": platform.node(), "release": platform.release(), "machine": platform.machine(),
        "nr_cpus": len(os.sched_getaffinity(0)), "hypervisor": session.uri(),
        "run_directory": str(session.run_directory())}
    found |= _of_xen(status) if domains.xen else _of_emulated(status)
    found |= {"domains": len(domains.all()), "versions": versions()}
    shown = {name: value for name, value in found.items() if name not in ("uptime_s", "versions")}
    if not domains.xen:
        shown["uptime"] = duration(float(status["uptime_s"]))
    session.show(found, pairs({**shown, "xenpv_version": versions()["package"]}))


def _of_xen(status: dict[str, Any]) -> dict[str, object]:
    return {name: status[name] for name in ("xen_version", "xen_caps", "total_memory", "free_memory") if name in status}


def _of_emulated(status: dict[str, Any]) -> dict[str, object]:
    return {"host_pid": status["pid"], "xenstored": status["xenstored"], "uptime_s": round(float(status["uptime_s"]), 3)}
