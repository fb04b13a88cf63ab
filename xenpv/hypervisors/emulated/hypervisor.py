"""The emulated Xen's state: domains, and what the connections of their processes own. No sockets here.

RULES
- A call is answered with a Reply or refused with `Refused`; whatever its bytes say, nothing else comes of it.
- What a connection made or opened ends with it. What a domain has ends with the domain.
- Domids count up, and are used again only after all have been (xen/common/domctl.c does the same).
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass, field

from . import calls
from .calls import Call, Op, Refused, Reply
from .events import Channel, Port, PortStatus
from .faults import Faults
from .grants import Opening, Segment

FIRST_RESERVED = 0x7FF0
"""DOMID_FIRST_RESERVED (public/xen.h): domains have smaller numbers."""


@dataclass(frozen=True)
class Limits:
    """What one domain may use of the host."""

    domains: int = FIRST_RESERVED
    connections: int = 256
    segments: int = 1024
    openings: int = 4096
    ports: int = 4095


@dataclass(eq=False)
class Client:
    """A connection of a process of domain `domid`, and what is its own."""

    domid: int
    greeted: bool = False
    gone: bool = False
    segments: dict[int, Segment] = field(default_factory=dict)
    openings: dict[int, Opening] = field(default_factory=dict)
    opened: int = 0
    ports: dict[int, Port] = field(default_factory=dict)


@dataclass(eq=False)
class DomainState:
    """A domain as the hypervisor knows it."""

    domid: int
    name: str
    clients: set[Client] = field(default_factory=set)
    segments: dict[int, Segment] = field(default_factory=dict)
    last_segment: int = 0
    table_end: int = 0
    """The highest segment until now. A grant table grows and never shrinks; references above it are outside."""
    ports: dict[int, Port] = field(default_factory=dict)

    @property
    def openings(self) -> int:
        return sum(len(client.openings) for client in self.clients)


def _free_number(used: dict[int, Segment] | dict[int, Port] | dict[int, DomainState], last: int, top: int) -> int:
    """The number after `last` that is not used, from 1 to `top` and round. Raises Refused (ENOSPC)."""
    if len(used) >= top:
        raise Refused(errno.ENOSPC)
    number = last
    while True:
        number = number % top + 1
        if number not in used:
            return number


class Hypervisor:
    """Domain 0 is there from the start.

    `on_relay(port, there)` is told when notifications of `port` must be looked after, and when no more (faults only).
    """

    def __init__(self, *, limits: Limits = Limits(), faults: Faults | None = None,
                 on_relay: Callable[[Port, bool], None] | None = None) -> None:
        self.limits = limits
        self.faults = faults or Faults()
        self.domains: dict[int, DomainState] = {0: DomainState(0, "Domain-0")}
        self._on_relay = on_relay or (lambda port, there: None)
        self._last_domid = 0
        self._verbs: dict[int, Callable[[Client, DomainState, Call], Reply]] = {
            Op.SEGMENT_NEW: self._segment_new,
            Op.SEGMENT_READY: self._segment_ready,
            Op.SEGMENT_OPEN: self._segment_open,
            Op.SEGMENT_SHUT: self._segment_shut,
            Op.SEGMENT_FREE: self._segment_free,
            Op.UNMAP_CLEAR: self._unmap_clear,
            Op.EVENT_UNBOUND: self._event_unbound,
            Op.EVENT_BIND: self._event_bind,
            Op.EVENT_CLOSE: self._event_close,
            Op.EVENT_STATUS: self._event_status,
        }

    # ---- domains

    def create(self, name: str) -> DomainState:
        """A new domain. Raises Refused: EEXIST for a name that is taken, ENOSPC when there are too many."""
        if any(domain.name == name for domain in self.domains.values()):
            raise Refused(errno.EEXIST)
        if len(self.domains) >= self.limits.domains:
            raise Refused(errno.ENOSPC)
        others = {domid: domain for domid, domain in self.domains.items() if domid}
        domid = self._last_domid = _free_number(others, self._last_domid, FIRST_RESERVED - 1)
        domain = self.domains[domid] = DomainState(domid, name)
        return domain

    def destroy(self, domid: int) -> None:
        """End a domain with all that it has. What others granted to it can be granted to nobody else."""
        domain = self.domains[domid]
        for client in list(domain.clients):
            self.disconnect(client)
        for other in self.domains.values():
            for segment in other.segments.values():
                if segment.foreign == domid:
                    segment.end()
        del self.domains[domid]

    def close(self) -> None:
        """End every domain, domain 0 last."""
        for domid in sorted(self.domains, reverse=True):
            self.destroy(domid)

    # ---- connections

    def connect(self, domid: int) -> Client:
        """A connection of a process of `domid`. Raises Refused (EUSERS) when the domain has too many."""
        domain = self.domains[domid]
        if len(domain.clients) >= self.limits.connections:
            raise Refused(errno.EUSERS)
        client = Client(domid)
        domain.clients.add(client)
        return client

    def disconnect(self, client: Client) -> None:
        """The process or its connection is gone: take back all that it had. A second call does nothing."""
        if client.gone:
            return
        client.gone = True
        domain = self.domains[client.domid]
        domain.clients.discard(client)
        for port in list(client.ports.values()):
            self._close_port(client, domain, port)
        for number, segment in client.segments.items():
            segment.end()
            del domain.segments[number]
        for opening in client.openings.values():
            opening.close()
        client.segments.clear()
        client.openings.clear()

    def call(self, client: Client, call: Call) -> Reply:
        """Answer one call. Raises Refused."""
        if call.op == Op.HELLO:
            if call.number != calls.VERSION:
                raise Refused(errno.EPROTONOSUPPORT)
            client.greeted = True
            return Reply(domid=client.domid, number=calls.VERSION)
        verb = self._verbs.get(call.op)
        if not verb or not client.greeted:
            raise Refused(errno.ENOSYS if not verb else errno.EPROTO)
        try:
            return verb(client, self.domains[client.domid], call)
        except OSError as error:  # the host process has no descriptors or no memory left
            raise Refused(errno.ENOSPC) from error

    # ---- grants

    def _segment_new(self, client: Client, domain: DomainState, call: Call) -> Reply:
        if call.domid >= FIRST_RESERVED:  # Xen does not look who is there: a grant is an entry in the granter's own table
            raise Refused(errno.ESRCH)
        if len(domain.segments) >= self.limits.segments or self.faults.strikes("share", domain.domid):
            raise Refused(errno.ENOSPC)
        number = _free_number(domain.segments, domain.last_segment, 0xFFFFFF)
        segment = Segment(domain.domid, call.domid, number, bool(call.flags & calls.WRITABLE))
        domain.last_segment = number
        domain.table_end = max(domain.table_end, number)
        domain.segments[number] = client.segments[number] = segment
        fault = self.faults.maps_of(domain.domid)
        if fault:
            segment.inject(fault.skip, fault.times, fault.status)
        return Reply(number=number, fds=(segment.table_fd, segment.data_fd))

    def _own_segment(self, client: Client, number: int) -> Segment:
        segment = client.segments.get(number)
        if not segment:
            raise Refused(errno.ENOENT)
        return segment

    def _segment_ready(self, client: Client, domain: DomainState, call: Call) -> Reply:
        segment = self._own_segment(client, call.number)
        if segment.ended:
            raise Refused(errno.ESRCH)
        segment.seal()
        return Reply()

    def _segment_free(self, client: Client, domain: DomainState, call: Call) -> Reply:
        self._own_segment(client, call.number).end()
        del client.segments[call.number], domain.segments[call.number]
        return Reply()

    def _unmap_clear(self, client: Client, domain: DomainState, call: Call) -> Reply:
        segment = self._own_segment(client, call.number)
        if not segment.ready or call.flags >= calls.SEGMENT_SIZE or call.domid > 1:
            raise Refused(errno.EINVAL)
        segment.clear_at_end(call.flags, call.domid == 1)
        return Reply()

    def _segment_open(self, client: Client, domain: DomainState, call: Call) -> Reply:
        granter = self.domains.get(call.domid)
        if not granter:
            raise Refused(errno.ESRCH)
        if call.number > granter.table_end:
            raise Refused(errno.ENOENT)
        segment = granter.segments.get(call.number)
        if not segment or segment.ended or not segment.ready or segment.foreign != client.domid:
            raise Refused(errno.EACCES)
        if domain.openings >= self.limits.openings:
            raise Refused(errno.ENOSPC)
        opening = Opening(segment)
        client.opened = client.opened % 0xFFFFFFFF + 1
        client.openings[client.opened] = opening
        return Reply(number=client.opened, flags=calls.WRITABLE if segment.writable else 0,
                     fds=(segment.table_fd, segment.data_fd, opening.fd))

    def _segment_shut(self, client: Client, domain: DomainState, call: Call) -> Reply:
        opening = client.openings.pop(call.number, None)
        if not opening:
            raise Refused(errno.ENOENT)
        opening.close()
        return Reply()

    def inject_maps(self, domid: int) -> None:
        """Arm the fault for maps of `domid`'s pages in the segments that are there."""
        fault = self.faults.maps_of(domid)
        domain = self.domains.get(domid)
        for segment in domain.segments.values() if fault and domain else ():
            if fault and not segment.ended:
                segment.inject(fault.skip, fault.times, fault.status)

    # ---- event channels

    def _new_port(self, client: Client, domain: DomainState, remote: int, channel: Channel, side: int) -> Port:
        number = next(number for number in range(1, self.limits.ports + 1) if number not in domain.ports)
        port = Port(domain.domid, number, remote, channel, side)
        domain.ports[number] = client.ports[number] = port
        if channel.relayed:
            self._on_relay(port, True)
        return port

    def _event_unbound(self, client: Client, domain: DomainState, call: Call) -> Reply:
        if call.domid >= FIRST_RESERVED:
            raise Refused(errno.ESRCH)
        if len(domain.ports) >= self.limits.ports:
            raise Refused(errno.ENOSPC)
        channel = Channel(self.faults.relays(domain.domid, call.domid))
        port = self._new_port(client, domain, call.domid, channel, 0)
        return Reply(number=port.number, fds=port.fds)

    def _event_bind(self, client: Client, domain: DomainState, call: Call) -> Reply:
        other = self.domains.get(call.domid)
        if not other:
            raise Refused(errno.ESRCH)
        theirs = other.ports.get(call.number)
        if not theirs or theirs.status is not PortStatus.UNBOUND:
            raise Refused(errno.ENOENT)
        if theirs.remote != domain.domid:
            raise Refused(errno.EACCES)
        if len(domain.ports) >= self.limits.ports or self.faults.strikes("bind", domain.domid):
            raise Refused(errno.ENOSPC)
        port = self._new_port(client, domain, other.domid, theirs.channel, 1 - theirs.side)
        port.set_pending()
        return Reply(number=port.number, fds=port.fds)

    def _event_close(self, client: Client, domain: DomainState, call: Call) -> Reply:
        port = client.ports.get(call.number)
        if not port:
            raise Refused(errno.ENOENT)
        self._close_port(client, domain, port)
        return Reply()

    def _close_port(self, client: Client, domain: DomainState, port: Port) -> None:
        del client.ports[port.number], domain.ports[port.number]
        if port.channel.relayed:
            self._on_relay(port, False)
        port.close()

    def _event_status(self, client: Client, domain: DomainState, call: Call) -> Reply:
        port = domain.ports.get(call.number)
        if not port:
            return Reply(flags=PortStatus.CLOSED)
        return Reply(domid=port.remote, number=port.peer.number if port.peer else 0, flags=port.status)
