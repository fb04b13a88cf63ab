"""A disk's shared ring, mapped read-only and decoded: what stands in it, without being either end.

The indices are one end's or the other's at the moment of reading; a ring in use moves while it is read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from xenpv.domain import Domain
from xenpv.errors import DeviceError, NoEntryError
from xenpv.wire.blkif import (RING_HEADER, Op, Protocol, Request, Response, Status, decode_ring_header, entry_size,
                              ring_entries, unpack_request, unpack_response)
from xenpv.xenbus import FrontendRings, VbdPlace

__all__ = ["Ring", "decode_ring", "read_rings"]

U32 = (1 << 32) - 1


@dataclass(frozen=True, slots=True)
class Ring:
    """One queue's ring.

    `slots`: (slot, kind, entry); kind is ``request`` while unanswered, ``response`` or ``empty``.
    """

    header: dict[str, int]
    entries: int
    protocol: Protocol
    slots: tuple[tuple[int, str, Request | Response | None], ...]

    @property
    def unanswered(self) -> int:
        """Requests that were published and not answered."""
        return (self.header["req_prod"] - self.header["rsp_prod"]) & U32

    @property
    def possible(self) -> bool:
        """Whether the indices are some that a ring can have."""
        return self.unanswered <= self.entries

    def to_json(self) -> dict[str, Any]:
        return {"entries": self.entries, "protocol": str(self.protocol), **self.header, "unanswered": self.unanswered,
                "possible": self.possible,
                "slots": [{"slot": slot, "kind": kind, **_entry(entry)} for slot, kind, entry in self.slots]}


def _entry(entry: Request | Response | None) -> dict[str, Any]:
    match entry:
        case Response():
            return {"id": entry.id, "operation": _name(Op, entry.operation), "status": _name(Status, entry.status)}
        case Request():
            fields: dict[str, Any] = {"id": entry.id, "operation": _name(Op, entry.operation),
                                      "sector": entry.sector_number}
            if entry.operation == Op.DISCARD:
                return {**fields, "sectors": entry.nr_sectors, "flag": entry.flag}
            if entry.operation == Op.INDIRECT:
                return {**fields, "inner": _name(Op, entry.indirect_op), "segments": entry.nr_segments,
                        "grefs": list(entry.indirect_grefs)}
            return {**fields, "segments": entry.nr_segments,
                    "grefs": [f"{segment.gref}:{segment.first_sect}-{segment.last_sect}" for segment in entry.segments]}
    return {}


def _name(kind: type[Op] | type[Status], number: int) -> str:
    try:
        return kind(number).name
    except ValueError:
        return str(number)


def decode_ring(pages: bytes, protocol: Protocol) -> Ring:
    """The ring in a copy of its `pages`."""
    fields = decode_ring_header(pages)
    header = {name: int(fields[name]) for name in ("req_prod", "req_event", "rsp_prod", "rsp_event", "backend_word",
                                                   "frontend_word")}
    order = (len(pages) // 4096).bit_length() - 1
    entries, size, start = ring_entries(order, protocol), entry_size(protocol), RING_HEADER.sizeof()
    req_prod, rsp_prod = header["req_prod"], header["rsp_prod"]
    unanswered = min((req_prod - rsp_prod) & U32, entries)
    slots: list[tuple[int, str, Request | Response | None]] = []
    for slot in range(entries):
        raw = pages[start + slot * size:start + (slot + 1) * size]
        if (slot - rsp_prod) % entries < unanswered:
            slots.append((slot, "request", unpack_request(protocol, raw)))
        elif any(raw):
            slots.append((slot, "response", unpack_response(protocol, raw)))
        else:
            slots.append((slot, "empty", None))
    return Ring(header, entries, protocol, tuple(slots))


class _Directory:
    """The frontend's directory as records ask for it."""

    def __init__(self, domain: Domain, path: str) -> None:
        self._store, self._path = domain.store, path

    def get(self, name: str, /) -> bytes | None:
        try:
            return self._store.read(f"{self._path}/{name}")
        except NoEntryError:
            return None


def read_rings(domain: Domain, place: VbdPlace) -> list[Ring]:
    """Every ring of the vbd, copied once. `domain` is the backend's, for only it was granted them.

    Raises DeviceError when the frontend has no ring, RemoteProtocolError for keys that cannot be, GrantError.
    """
    if domain.domid != place.backend_domid:
        raise DeviceError(f"the ring was granted to domain {place.backend_domid}, and this is domain {domain.domid}")
    directory = _Directory(domain, place.frontend)
    if directory.get("event-channel") is None and directory.get("multi-queue-num-queues") is None:
        raise DeviceError(f"{place.frontend} has no ring yet: the guest does not use the disk")
    found = FrontendRings.parse(directory, place.frontend)
    rings = []
    for queue in found.queues:
        with domain.grants.map(place.frontend_domid, queue.refs, writable=False) as mapped:
            rings.append(decode_ring(mapped.read(0, len(queue.refs) * 4096), found.protocol))
    return rings
