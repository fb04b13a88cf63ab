"""Stock xl, which makes, lists and ends the domains of a real Xen host.

RULES

- xl is run, never imitated: no domain is built here.
- A failure is one line with xl's own last words.

Source: xl(1); the columns of `xl list` and `xl uptime` (tools/xl/xl_list.c, xl_misc.c).
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from xenpv.errors import HypervisorError

from .domains import DomainInfo, Domains
from .output import printable
from .xen_tables import lsevtchn, mapped_grants, parse_ports

__all__ = ["XlDomains", "run_xl"]

TIMEOUT: Final = 300.0
"""Seconds that xl may take: it waits for backends and scripts, each with a limit of its own."""

_STATES: Final = (("r", "running"), ("b", "blocked"), ("p", "paused"), ("s", "shutdown"), ("c", "crashed"), ("d", "dying"))
_LIST: Final = re.compile(r"(?P<name>.*?)\s+(?P<domid>\d+)\s+\d+\s+\d+\s+(?P<state>[-rbpscd]{6})\s+[\d.]+\s*", re.ASCII)
_UPTIME: Final = re.compile(r"(?P<name>.*?)\s+(?P<domid>\d+)\s+(?:(?P<days>\d+) days?, *)?(?P<time>\d+:\d+:\d+)\s*", re.ASCII)


def run_xl(*words: str) -> str:
    """The standard output of ``xl WORDS``. Raises HypervisorError with xl's reason."""
    return _run("xl", *words)


def _run(program: str, *words: str) -> str:
    command = " ".join([os.path.basename(program), *words[:1]])
    try:
        done = subprocess.run([program, *words], stdin=subprocess.DEVNULL, capture_output=True, timeout=TIMEOUT,
                              env={**os.environ, "LC_ALL": "C"})
    except FileNotFoundError:
        raise HypervisorError("xl is not here: install it (Debian: `apt install xen-utils`), or work on the emulated "
                              "Xen (XENPV_HYPERVISOR=emulated:)") from None
    except OSError as error:
        raise HypervisorError(f"{command} cannot be run: {error.strerror}") from None
    except subprocess.TimeoutExpired:
        raise HypervisorError(f"{command} has not ended within {TIMEOUT:g} s, and was killed") from None
    if done.returncode:
        raise HypervisorError(f"{command}: {_reason(done.stderr or done.stdout)}")
    return done.stdout.decode(errors="replace")


def _reason(output: bytes) -> str:
    """The first cause that xl names: what it says after it follows from that."""
    lines = [line.strip() for line in output.decode(errors="replace").splitlines() if line.strip()]
    found = next((line for line in lines if "error" in line.lower()), lines[-1] if lines else "it failed, and said nothing")
    return printable(re.sub(r"^libxl: error: \S+?:\d+:\w+: ", "", found).encode()[:500])


class XlDomains(Domains):
    """The domains of the Xen host that this is dom0 of."""

    xen = True

    def __init__(self) -> None:
        super().__init__(Path("/"))

    def _ask(self, verb: str, **values: Any) -> dict[str, Any]:
        raise HypervisorError(f"{verb}: a real Xen has no such call, only the emulated Xen's host has")

    def status(self) -> dict[str, Any]:
        """What xl says of Xen (xl-info(1)), by xl's own names."""
        pairs = (line.split(":", 1) for line in run_xl("info").splitlines() if ":" in line)
        return {name.strip(): value.strip() for name, value in pairs}

    def grants(self, domid: int) -> tuple[list[dict[str, Any]], int]:
        """See Domains.grants; those alone that are mapped."""
        return mapped_grants(domid, run_xl), 0

    def ports(self, domid: int) -> list[dict[str, Any]]:
        """See Domains.ports; `pending` is None, since Xen does not tell."""
        return parse_ports(domid, _run(lsevtchn(), str(domid)))

    def all(self) -> list[DomainInfo]:
        ages = {int(found["domid"]): _seconds(found["days"], found["time"]) for line in run_xl("uptime").splitlines()
                if (found := _UPTIME.fullmatch(line))}
        domains = []
        for line in run_xl("list").splitlines():
            if found := _LIST.fullmatch(line):
                domid = int(found["domid"])
                state = next((word for letter, word in _STATES[::-1] if letter in found["state"]), "runnable")
                domains.append(DomainInfo(domid, found["name"], state, None, ages.get(domid, 0.0),
                                          f"/local/domain/{domid}"))
        return sorted(domains, key=lambda domain: domain.domid)

    def create_paused(self, name: str, config: str, extra: Sequence[str] = ()) -> int:
        """The domain `name` of xl's configuration file `config`, with the assignments `extra` and no disks: its number."""
        run_xl("create", "-p", config, *extra, "disk=[]")  # the last assignment counts
        return int(run_xl("domid", name))

    def unpause(self, domid: int) -> None:
        run_xl("unpause", str(domid))

    def destroy(self, domid: int) -> None:
        """End a domain at once, with its disks: xl asks their backends to close, and waits."""
        run_xl("destroy", str(domid))

    def detach_disk(self, domid: int, device: str) -> None:
        """Take away a disk that xl attached."""
        run_xl("block-detach", str(domid), device)


def _seconds(days: str | None, time: str) -> float:
    hours, minutes, seconds = (int(part) for part in time.split(":"))
    return float(int(days or 0) * 86400 + hours * 3600 + minutes * 60 + seconds)
