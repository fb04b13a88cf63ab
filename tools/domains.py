"""The toolstack's view of a hypervisor: its domains, made and ended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xenpv.errors import HypervisorError, UsageError

__all__ = ["DomainInfo", "Domains", "emulated_run_directory", "open_domains"]


@dataclass(frozen=True, slots=True)
class DomainInfo:
    """A domain. `uptime` in seconds; `pid` of its process, None without one."""

    domid: int
    name: str
    state: str
    pid: int | None
    uptime: float
    directory: str

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> DomainInfo:
        """From an answer of the host process."""
        return cls(int(values["domid"]), str(values["name"]), str(values["state"]), values.get("pid"),
                   float(values["uptime_s"]), str(values["directory"]))

    def to_json(self) -> dict[str, Any]:
        return {"domid": self.domid, "name": self.name, "state": self.state, "pid": self.pid,
                "uptime_s": round(self.uptime, 3), "directory": self.directory}


class Domains:
    """The domains of the emulated Xen in the run directory `run`. Every call may raise HypervisorError."""

    xen = False
    """A real Xen: xl makes and ends the domains, and the kernel has a backend of its own."""

    def __init__(self, run: Path) -> None:
        self.run = run

    def _ask(self, verb: str, **values: Any) -> dict[str, Any]:
        from xenpv.hypervisors.emulated import host

        return host.request(self.run, verb, **values)

    def status(self) -> dict[str, Any]:
        """What the host process says of itself, its domains included."""
        return self._ask("status")

    def all(self) -> list[DomainInfo]:
        """All domains, by number."""
        found = [DomainInfo.parse(values) for values in self._ask("list")["domains"]]
        return sorted(found, key=lambda domain: domain.domid)

    def find(self, domain: str) -> DomainInfo:
        """The domain of this number or name. Raises HypervisorError when there is none."""
        for found in self.all():
            if domain in (str(found.domid), found.name):
                return found
        raise HypervisorError(f"there is no domain {domain!r}: `xenpv list` shows those that are")

    def create(self, name: str, argv: Sequence[str], *, environment: Mapping[str, str], cwd: str) -> int:
        """A new domain, paused: its number."""
        return int(self._ask("create", name=name, exec=list(argv), environment=dict(environment), cwd=cwd,
                             paused=True)["domid"])

    def unpause(self, domid: int) -> None:
        """Let a paused domain run."""
        self._ask("unpause", domid=domid)

    def destroy(self, domid: int) -> None:
        """End a domain at once: its process, grants, ports and nodes. Not the nodes of its disks' backends."""
        self._ask("destroy", domid=domid)

    def grants(self, domid: int) -> tuple[list[dict[str, Any]], int]:
        """A domain's grants (domid, ref, foreign, readonly, mapped), and how many more there are."""
        answer = self._ask("grants", domid=domid)
        return [*answer["grants"]], int(answer["left_out"])

    def ports(self, domid: int) -> list[dict[str, Any]]:
        """A domain's ports: domid, port, status, remote, remote_port (None while unbound), pending."""
        return [*self._ask("ports", domid=domid)["ports"]]


def emulated_run_directory(uri: str) -> Path:
    """The run directory that domain 0 of an ``emulated:`` URI has. Raises UsageError for another domain's."""
    from xenpv.hypervisors.emulated.rundir import default_directory

    rest = uri.removeprefix("emulated:")
    name, mark, number = rest.rpartition("#")
    if not mark:
        name, number = rest, "0"
    path = Path(name).absolute() if name else default_directory().absolute()
    if number != "0" or not mark and (path / "xen").exists():
        raise UsageError(f"{uri} is one domain's place, and this verb is domain 0's: give --hypervisor emulated:DIR")
    return path


def open_domains(uri: str) -> Domains:
    """The domains of the hypervisor `uri`. Raises UsageError."""
    if uri.startswith("emulated:"):
        return Domains(emulated_run_directory(uri))
    if uri.startswith("xen:"):
        from .xl import XlDomains

        return XlDomains()
    raise UsageError(f"unknown hypervisor {uri!r}: say xen: or emulated:DIRECTORY")
