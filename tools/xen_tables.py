"""What Xen's own tables hold of a domain, as its tools print them: event channels by lsevtchn, grants in Xen's log.

RULES

- Of grants Xen shows those alone that somebody has mapped; a pending event it does not show.
- What is not understood is left out, but a list that is known not to be whole is an error.

Source: tools/xcutils/lsevtchn.c; gnttab_usage_print in xen/common/grant_table.c.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from glob import glob
from typing import Any, Final

from xenpv.errors import HypervisorError

__all__ = ["lsevtchn", "mapped_grants", "parse_grants", "parse_ports"]

READONLY: Final = 1 << 2
"""GTF_readonly (public/grant_table.h)."""

_PORT: Final = re.compile(r" *(?P<port>\d+): VCPU \d+: (?P<kind>[A-Z][A-Za-z]+(?: IRQ)?)(?: \((?P<how>[^)]*)\))?"
                          r"(?: - Remote Domain (?P<remote>\d+)(?:, Port (?P<remote_port>\d+))?)?.*", re.ASCII)
_STATUS: Final = {"Physical IRQ": "pirq", "Virtual IRQ": "virq", "IPI": "ipi"}
_TABLE: Final = re.compile(r"grant-table for remote d(?:omain: *)?(?P<domid>\d+)", re.ASCII)
_GRANT: Final = re.compile(r"\[(?P<ref>0x[0-9a-f]+)\] +(?P<foreign>\d+) 0x[0-9a-f]+ (?P<pin>0x[0-9a-f]+) +\d+ 0x[0-9a-f]+ "
                           r"(?P<flags>0x[0-9a-f]+)", re.ASCII)
_BEGIN, _END = "gnttab_usage_print_all [", "gnttab_usage_print_all ]"


def lsevtchn() -> str:
    """Where Xen's lsevtchn is. Raises HypervisorError."""
    found = shutil.which("lsevtchn") or next(iter(sorted(glob("/usr/lib/xen-*/bin/lsevtchn"), reverse=True)), None)
    if found is None:
        raise HypervisorError("lsevtchn is not here, which lists Xen's event channels: install it (Debian: "
                              "`apt install xen-utils`)")
    return found


def parse_ports(domid: int, output: str) -> list[dict[str, Any]]:
    """The ports of domain `domid`, from what lsevtchn printed."""
    ports = []
    for found in map(_PORT.fullmatch, output.splitlines()):
        if found:
            waits = found["remote_port"] is None
            status = _STATUS.get(found["kind"]) or ("unbound" if waits else "interdomain")
            ports.append({"domid": domid, "port": int(found["port"]), "status": status, "remote": _number(found["remote"]),
                          "remote_port": _number(found["remote_port"]), "pending": None})
    return ports


def _number(text: str | None) -> int | None:
    return None if text is None else int(text)


def mapped_grants(domid: int, xl: Callable[..., str]) -> list[dict[str, Any]]:
    """The grants of domain `domid` that are mapped. `xl("verb", ...)` runs xl. Raises HypervisorError."""
    xl("debug-keys", "g")
    return parse_grants(domid, xl("dmesg"))


def parse_grants(domid: int, log: str) -> list[dict[str, Any]]:
    """The same, from Xen's log. Raises HypervisorError when it does not hold the last list from its beginning."""
    begin, end = log.rfind(_BEGIN), log.rfind(_END)
    if not 0 <= begin < end:
        raise HypervisorError("Xen's log has no room for its list of grants: boot Xen with conring_size=1M, or read its "
                              "serial console after `xl debug-keys g`")
    grants, granter = [], -1
    for line in log[begin:end].splitlines():
        if found := _TABLE.search(line):
            granter = int(found["domid"])
        elif granter == domid and (found := _GRANT.search(line)):
            mapped = sum(int(found["pin"], 16).to_bytes(4, "little"))
            grants.append({"domid": domid, "ref": int(found["ref"], 16), "foreign": int(found["foreign"]),
                           "readonly": bool(int(found["flags"], 16) & READONLY), "mapped": mapped})
    return grants
