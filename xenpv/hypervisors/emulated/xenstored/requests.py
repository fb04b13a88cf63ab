"""Which request goes to which handler.

RULES
- A handler takes a `Request` and returns the payload of its answer, or raises StoreError; nothing else leaves it.
- An opcode that is not in the table is answered ENOSYS.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from xenpv.errors import StoreError
from xenpv.wire.xs import Opcode, Packet

from . import domain_requests, node_requests, session_requests
from .control import control
from .request import Request
from .transaction import View

if TYPE_CHECKING:
    from .connection import Connection


class Route(NamedTuple):
    """How an opcode is handled."""

    handler: Callable[[Request], bytes]
    privileged: bool = False
    """Only for the control domain (XSA-115 for IS_DOMAIN_INTRODUCED)."""
    ignores_transaction: bool = False


TABLE: dict[int, Route] = {
    Opcode.CONTROL: Route(control, privileged=True),
    Opcode.DIRECTORY: Route(node_requests.directory),
    Opcode.DIRECTORY_PART: Route(node_requests.directory_part),
    Opcode.READ: Route(node_requests.read),
    Opcode.WRITE: Route(node_requests.write),
    Opcode.MKDIR: Route(node_requests.mkdir),
    Opcode.RM: Route(node_requests.remove),
    Opcode.GET_PERMS: Route(node_requests.get_permissions),
    Opcode.SET_PERMS: Route(node_requests.set_permissions),
    Opcode.WATCH: Route(session_requests.watch, ignores_transaction=True),
    Opcode.UNWATCH: Route(session_requests.unwatch, ignores_transaction=True),
    Opcode.RESET_WATCHES: Route(session_requests.reset_watches),
    Opcode.TRANSACTION_START: Route(session_requests.transaction_start),
    Opcode.TRANSACTION_END: Route(session_requests.transaction_end),
    Opcode.INTRODUCE: Route(domain_requests.introduce, privileged=True),
    Opcode.RELEASE: Route(domain_requests.release, privileged=True),
    Opcode.RESUME: Route(domain_requests.resume, privileged=True),
    Opcode.GET_DOMAIN_PATH: Route(domain_requests.get_domain_path),
    Opcode.IS_DOMAIN_INTRODUCED: Route(domain_requests.is_domain_introduced, privileged=True),
    Opcode.SET_TARGET: Route(domain_requests.set_target, privileged=True),
    Opcode.GET_FEATURE: Route(domain_requests.get_feature),
    Opcode.SET_FEATURE: Route(domain_requests.set_feature, privileged=True),
    Opcode.GET_QUOTA: Route(domain_requests.get_quota, privileged=True),
    Opcode.SET_QUOTA: Route(domain_requests.set_quota, privileged=True),
}


def serve(connection: Connection, packet: Packet) -> tuple[bytes, list[Callable[[], None]]]:
    """The payload of the answer, and what to call once it is queued. Raises StoreError: the answer is an ERROR."""
    route = TABLE.get(packet.type)
    if route is None:
        raise StoreError(f"opcode {packet.type} is not known", "ENOSYS")
    if route.privileged and not connection.domain.privileged:
        raise StoreError("only the control domain may ask this", "EACCES")
    view = None
    if packet.tx_id and not route.ignores_transaction:
        view = connection.transactions.get(packet.tx_id)
        if view is None:
            raise StoreError("there is no such transaction", "ENOENT")
    own = view is None
    request = Request(connection, packet, view or View(connection.store.tree, connection.domain))
    payload = route.handler(request)
    if own and request.view.changes:
        connection.store.commit(request.view, connection.domain)
    return payload, request.afterwards
