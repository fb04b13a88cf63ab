"""The control socket's verbs: what a toolstack may ask of the host process.

A request is one line of JSON with a key ``verb``; the answer is one line with ``ok``, and ``error`` when it is false.

    status                                          pid, directory, domains, ...
    list                                            the domains
    create   name [exec environment cwd paused]     -> domid, directory
    unpause  domid
    destroy  domid
    grants   domid                                  its grants (listing.py)
    ports    domid                                  its event channels
    wait     domid                                  answered when the domain has ended -> status
    fault    kind domid [skip times status hold]    (faults.py)
    faults   action: clear | release
    shutdown                                        the connection ends when everything is gone
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from xenpv.errors import XenpvError

from . import listing
from .connections import ControlConnection
from .faults import Fault
from .hypervisor import FIRST_RESERVED

if TYPE_CHECKING:
    from .server import RunningDomain, Server

Request = dict[str, Any]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}")


class BadRequest(Exception):
    """What is asked for makes no sense; the text goes back to the caller."""


def _strings(request: Request, key: str) -> list[str]:
    value = request.get(key) or []
    if not isinstance(value, list) or not all(isinstance(item, str) and "\0" not in item for item in value):
        raise BadRequest(f"{key} is a list of strings")
    return value


def _name(request: Request) -> str:
    name = request.get("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name) or name.isdigit():
        raise BadRequest(f"{name!r} is no name for a domain: letters, digits, . _ + -, at most 64, not a number alone")
    return name


class Control:
    """Answers requests about `server`."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._verbs: dict[str, Callable[[Request, ControlConnection], Request | None]] = {
            "status": self._status, "list": self._list, "create": self._create, "unpause": self._unpause,
            "destroy": self._destroy, "wait": self._wait, "fault": self._fault, "faults": self._faults,
            "grants": self._grants, "ports": self._ports, "shutdown": self._shutdown,
        }

    def handle(self, request: Request, connection: ControlConnection) -> Request | None:
        """The answer, or None when it comes later."""
        verb = self._verbs.get(str(request.get("verb")))
        try:
            if not verb:
                raise BadRequest(f"unknown verb {request.get('verb')!r}: one of {', '.join(self._verbs)}")
            reply = verb(request, connection)
        except (BadRequest, XenpvError) as error:
            return {"ok": False, "error": str(error)}
        return None if reply is None else {"ok": True, **reply}

    def _domain(self, request: Request, *, zero: bool = False) -> RunningDomain:
        domid = request.get("domid")
        if type(domid) is not int or not 0 <= domid < FIRST_RESERVED:
            raise BadRequest(f"{domid!r} is no domain number")
        if domid not in self._server.domains:
            raise BadRequest(f"there is no domain {domid}")
        if domid == 0 and not zero:
            raise BadRequest("domain 0 ends with the emulated Xen itself: `xenpv emu down`")
        return self._server.domains[domid]

    def _status(self, request: Request, connection: ControlConnection) -> Request:
        return self.status()

    def _list(self, request: Request, connection: ControlConnection) -> Request:
        return {"domains": self._domains()}

    def _grants(self, request: Request, connection: ControlConnection) -> Request:
        return listing.grants(self._server.hypervisor.domains[self._domain(request, zero=True).domid])

    def _ports(self, request: Request, connection: ControlConnection) -> Request:
        return listing.ports(self._server.hypervisor.domains[self._domain(request, zero=True).domid])

    def status(self) -> Request:
        """The host as a whole."""
        run = self._server.run_directory
        return {"pid": os.getpid(), "directory": str(run.path), "control": str(run.control),
                "xen": str(run.domain(0) / "xen"), "xenstored": str(run.domain(0) / "xenstored"),
                "uptime_s": time.monotonic() - self._server.started, "ended": list(self._server.ended),
                "domains": self._domains()}

    def _domains(self) -> list[Request]:
        domains = []
        for domain in self._server.domains.values():
            state = self._server.hypervisor.domains[domain.domid]
            domains.append({
                "domid": domain.domid, "name": domain.name, "state": "paused" if domain.paused else "running",
                "pid": domain.process.pid if domain.process else None, "directory": str(domain.directory),
                "xen": str(domain.directory / "xen"), "xenstored": str(domain.directory / "xenstored"),
                "uptime_s": time.monotonic() - domain.started, "connections": len(state.clients),
                "segments": len(state.segments), "openings": state.openings, "ports": len(state.ports),
            })
        return domains

    def _create(self, request: Request, connection: ControlConnection) -> Request:
        environment = request.get("environment")
        if environment is not None and (not isinstance(environment, dict) or not all(
                isinstance(value, str) and key and "=" not in key and "\0" not in key + value
                for key, value in environment.items())):
            raise BadRequest("environment is an object of strings")
        cwd = request.get("cwd", "/")
        if not isinstance(cwd, str) or "\0" in cwd:
            raise BadRequest("cwd is a path")
        domain = self._server.create(_name(request), _strings(request, "exec"), environment=environment, cwd=cwd,
                                     paused=request.get("paused") is True)
        return {"domid": domain.domid, "name": domain.name, "directory": str(domain.directory)}

    def _unpause(self, request: Request, connection: ControlConnection) -> Request:
        self._server.unpause(self._domain(request, zero=True).domid)
        return {}

    def _destroy(self, request: Request, connection: ControlConnection) -> Request:
        self._server.destroy(self._domain(request).domid)
        return {}

    def _wait(self, request: Request, connection: ControlConnection) -> Request | None:
        domid = request.get("domid")
        for ended in reversed(self._server.ended):
            if ended["domid"] == domid and domid not in self._server.domains:
                return {"status": ended["status"]}
        self._domain(request).waiters.append(lambda status: connection.answer({"ok": True, "status": status}))
        return None

    def _fault(self, request: Request, connection: ControlConnection) -> Request:
        known = {field.name for field in fields(Fault)}
        try:
            fault = Fault(**{key: value for key, value in request.items() if key in known})
        except (TypeError, ValueError) as error:
            raise BadRequest(str(error)) from error
        self._server.faults.add(fault)
        if fault.kind == "map":
            self._server.hypervisor.inject_maps(fault.domid)
        return {}

    def _faults(self, request: Request, connection: ControlConnection) -> Request:
        if request.get("action") == "release":
            return {"released": self._server.faults.release()}
        if request.get("action") == "clear":
            self._server.faults.clear()
            return {}
        raise BadRequest("action is clear or release")

    def _shutdown(self, request: Request, connection: ControlConnection) -> Request:
        self._server.stop()
        return {}
