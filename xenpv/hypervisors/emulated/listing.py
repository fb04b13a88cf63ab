"""Every grant and every port of a domain, as its host sees them: for those who look inside.

A grant's entry stands in a table page that its granter can write at any time: what is shown is the granter's word.
"""

from __future__ import annotations

import mmap
import select
import struct
from typing import Any, Final

from .calls import PAGE_SIZE, SEGMENT_PAGES
from .events import PortStatus
from .grants import Segment
from .hypervisor import DomainState

GRANTS_MAX: Final = 65536
"""Grants that one answer names; a domain with more of them is told how many were left out."""

_ENTRY: Final = struct.Struct("<HHI")
_PERMIT_ACCESS, _TYPE_MASK, _READONLY = 1, 3, 4
"""GTF_* (public/grant_table.h)."""


def grants(domain: DomainState) -> dict[str, Any]:
    """``grants``: ref, foreign domain, readonly, mapped (how often); and ``left_out``."""
    found: list[dict[str, Any]] = []
    total = 0
    for number in sorted(domain.segments):
        for entry in _entries(domain.segments[number]):
            total += 1
            if total <= GRANTS_MAX:
                found.append({"domid": domain.domid, **entry})
    return {"grants": found, "left_out": total - len(found)}


def _entries(segment: Segment) -> list[dict[str, Any]]:
    if segment.ended:
        return []
    with mmap.mmap(segment.table_fd, PAGE_SIZE, prot=mmap.PROT_READ) as table:
        copy = table[:SEGMENT_PAGES * _ENTRY.size]
    found = []
    for page, (flags, _, frame) in enumerate(_ENTRY.iter_unpack(copy)):
        if flags & _TYPE_MASK == _PERMIT_ACCESS:
            found.append({"ref": segment.number * SEGMENT_PAGES + page, "foreign": segment.foreign,
                          "readonly": bool(flags & _READONLY), "mapped": (frame >> 8 & 0xfff) + (frame >> 20)})
    return found


def ports(domain: DomainState) -> dict[str, Any]:
    """``ports``: port, status, remote domain and its port (None while unbound), pending."""
    found = []
    for number in sorted(domain.ports):
        port = domain.ports[number]
        found.append({"domid": domain.domid, "port": number, "status": PortStatus(port.status).name.lower(),
                      "remote": port.remote, "remote_port": port.peer.number if port.peer else None,
                      "pending": _readable(port.fds[0])})
    return {"ports": found}


def _readable(fd: int) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(0))
