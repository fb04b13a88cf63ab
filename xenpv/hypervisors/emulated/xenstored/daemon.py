"""The store as a whole: its domains, and who is connected.

RULES
- One thread, no clock, no socket: whoever owns the sockets calls `receive`, `sent` and `tick`, and asks `ready`.
- What a domain had goes with it: its nodes, its entries in others' permissions, its watches, its limits (XSA-322,
  XSA-417, XSA-419, XSA-483).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from xenpv.errors import StoreError
from xenpv.wire.xs import DOMID_FIRST_RESERVED

from .connection import Connection
from .fairness import Credits
from .output import Ticket
from .permissions import Permission, owner, without
from .quotas import Domain, Quotas
from .transaction import View
from .tree import SPECIAL, Tree
from .watches import Watches


class Xenstored:
    """A xenstored without its sockets. Domain 0 is its control domain."""

    def __init__(self, *, quotas: Quotas = Quotas()) -> None:
        self.tree = Tree()
        self.watches = Watches()
        self.credits = Credits()
        self.quotas = quotas
        """Of domains that are not known yet."""
        self.open_transactions = 0
        self.cause: Ticket | None = None
        """The request that is being served, if it counts against a quota."""
        self._domains: dict[int, Domain] = {}
        self._connections: dict[int, list[Connection]] = {}
        self._ready: dict[Connection, None] = {}
        self.account(0).introduced = True
        for path, node in self.tree:
            self.account(0).usage.nodes += 1
            self.account(0).usage.memory += len(path) + node.size

    # For the host process

    def introduce(self, domid: int) -> None:
        """The domain is there: fires @introduceDomain. Nothing happens when it was introduced before.

        Raises StoreError (EINVAL) for domain 0 and for a reserved id.
        """
        if not 0 < domid < DOMID_FIRST_RESERVED:
            raise StoreError(f"{domid} is not the id of a guest", "EINVAL")
        domain = self.account(domid)
        if not domain.introduced:
            domain.introduced = True
            self._fire_special("@introduceDomain", domid)

    def release(self, domid: int) -> None:
        """The domain is gone: closes its connections, removes what it had, fires @releaseDomain if it was introduced.

        Raises StoreError (EINVAL) for domain 0.
        """
        if domid == 0:
            raise StoreError("domain 0 cannot be released", "EINVAL")
        for connection in self._connections.pop(domid, ()):
            connection.drop()
        self._remove_traces(domid)
        self.credits.forget(domid)
        domain = self._domains.pop(domid, None)
        if domain is not None and domain.introduced:
            self._fire_special("@releaseDomain", domid)

    def connect(self, domid: int) -> Connection:
        """A new connection of a domain, which may have several; each has its own watches and transactions.

        How many there may be is for the owner of the sockets to bound. Raises StoreError (EINVAL) for a reserved id.
        """
        if not 0 <= domid < DOMID_FIRST_RESERVED:
            raise StoreError(f"{domid} is not a domain id", "EINVAL")
        connection = Connection(self, self.account(domid))
        self._connections.setdefault(domid, []).append(connection)
        return connection

    def ready(self) -> Iterable[Connection]:
        """Connections that have bytes to send, were closed from this side, or may be read again. Clears the set."""
        ready, self._ready = self._ready, {}
        return list(ready)

    def tick(self, now: float) -> float | None:
        """It is `now`, in seconds of any monotonic clock. Gives in how many seconds to call again, or None.

        Call it once a turn of the loop: the time of an unread event starts with the first tick behind it.
        """
        freed, *moments = self.credits.tick(now)
        for domid in freed:
            self.resume(self.account(domid))
        for connections in tuple(self._connections.values()):
            moments.extend(connection.expire(now) for connection in tuple(connections))
        due = [moment for moment in moments if moment is not None]
        return max(0.0, min(due) - now) if due else None

    # For the rest of the package

    def find(self, domid: int) -> Domain | None:
        """The record of a domain, if there is one."""
        return self._domains.get(domid)

    def account(self, domid: int) -> Domain:
        """The record of a domain; a new one where there is none."""
        domain = self._domains.get(domid)
        if domain is None:
            domain = self._domains[domid] = Domain(domid, self.quotas)
        return domain

    def commit(self, view: View, domain: Domain) -> None:
        """Make a view's changes count, and fire. Raises StoreError, see `View.commit`."""
        changes = view.changes
        events = view.commit(self.account)
        if changes and not domain.privileged and self.open_transactions > domain.usage.transactions:
            self.credits.spend(domain.domid)
        self.watches.fire(events)

    def note(self, connection: Connection) -> None:
        """The host should look at this connection."""
        self._ready[connection] = None

    def resume(self, domain: Domain) -> None:
        """A limit of the domain no longer holds: serve what waits."""
        for connection in tuple(self._connections.get(domain.domid, ())):
            self.note(connection)
            connection.serve()

    def disconnect(self, connection: Connection) -> None:
        """The connection is closed."""
        self._ready.pop(connection, None)
        connections = self._connections.get(connection.domid, [])
        if connection in connections:
            connections.remove(connection)
        if not connections:
            self._connections.pop(connection.domid, None)

    def check(self) -> list[str]:
        """What is wrong inside, a line each: the tree, and the accounts against a fresh count."""
        nodes: Counter[int] = Counter(owner(node.permissions) for _, node in self.tree)
        domains = {domid: domain.usage.nodes for domid, domain in self._domains.items() if domain.usage.nodes}
        wrong = [f"domain {domid} has {nodes[domid]} nodes, not {domains.get(domid, 0)}"
                 for domid in sorted(nodes.keys() | domains.keys()) if nodes[domid] != domains.get(domid, 0)]
        return self.tree.faults() + wrong

    def _fire_special(self, name: str, domid: int) -> None:
        node = self.tree.get(name)
        if node is not None:
            self.watches.fire_special(name, domid, node.permissions)

    def _remove_traces(self, domid: int) -> None:
        """Remove the nodes of a domain with all below them, and its entries in other permissions."""
        view = View(self.tree, self.account(0))
        for path, node in tuple(self.tree):
            kept = without(node.permissions, domid)
            if owner(kept) == domid and (path == "/" or path in SPECIAL):
                kept = (Permission(kept[0].access, 0), *kept[1:])
            if owner(kept) == domid:
                if view.read(path) is not None:
                    view.remove(path)
            elif kept is not node.permissions and view.read(path) is not None:
                view.write(path, permissions=kept, quiet=True)
        self.commit(view, self.account(0))
        for domain in self._domains.values():
            if domain.target == domid:
                domain.target = None
