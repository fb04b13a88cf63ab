"""What a request sees and changes, before it counts.

RULES
- Every request works on a `View`. One outside a transaction has a view of its own, committed at once: so a request that
  fails changes nothing (XSA-414, XSA-415).
- A view takes each node from the tree at the first touch and keeps it. At the commit, whatever was *seen* must still
  be so: the value and permissions of a node that was read (writing, removing and making one read it
  first, as in C xenstored), the list of children that was listed, the absence of a missing node. Else: EAGAIN.
- Adding or removing a child does not read the parent's list. Two transactions that make different children of one
  parent do not meet, nor do two that both make the missing parent on the way, if both give it the same permissions.
- A creation that fails within a transaction, and a touch beyond the quota, make the transaction unfit for commit
  (XSA-415, XSA-421).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from enum import IntFlag
from typing import NamedTuple

from xenpv.errors import StoreError

from . import paths
from .permissions import Permissions, inherited, owner
from .quotas import Domain
from .tree import Node, Tree


class Seen(IntFlag):
    """What of a node the commit depends on."""

    CONTENT = 1
    """Value and permissions, or that the node is missing."""
    CHILDREN = 2


class Event(NamedTuple):
    """A change that watches are told of."""

    path: str
    upwards: bool
    """Also told to watches on the nodes above: not so where a node went away with its parent."""
    readers: tuple[Permissions, ...]
    """A domain is told if one of these lets it read (XSA-115)."""


def _bytes(path: str, node: Node | None) -> int:
    return len(path) + node.size if node is not None else 0


class View:
    """The tree as one request sees it, or, if `lasting`, one transaction of `domain`."""

    def __init__(self, tree: Tree, domain: Domain, *, lasting: bool = False) -> None:
        self.failed = False
        self._tree = tree
        self._domain = domain
        self._lasting = lasting
        self._held = 0
        self._first: dict[str, Node | None] = {}
        self._seen: dict[str, Seen] = {}
        self._changed: dict[str, Node | None] = {}
        self._links: defaultdict[str, dict[str, bool]] = defaultdict(dict)
        self._grown: defaultdict[int, int] = defaultdict(int)
        self._events: dict[str, bool] = {}

    @property
    def changes(self) -> bool:
        """Whether a commit would change anything."""
        return bool(self._changed)

    def read(self, path: str) -> Node | None:
        """The node at `path`. The commit depends on its value and permissions, or on its absence."""
        return self._look(path, Seen.CONTENT)

    def read_children(self, path: str) -> Node | None:
        """The same, and the commit depends on its children as well."""
        return self._look(path, Seen.CONTENT | Seen.CHILDREN)

    def nearest(self, path: str) -> tuple[str, Node]:
        """The closest node above `path`, with its path."""
        for above in (*paths.upwards(paths.parent(path)), "/"):
            node = self._touch(above)
            if node is not None:
                if self._first[above] is not None:
                    self.read(above)
                return above, node
        raise StoreError("the store has lost its root", "EIO")

    def write(self, path: str, *, value: bytes | None = None, permissions: Permissions | None = None,
              quiet: bool = False) -> None:
        """Change the value or the permissions of an existing node. No watch hears of it when `quiet`."""
        node = self.read(path)
        if node is None:
            raise StoreError(f"{path} is not there", "ENOENT")
        new = replace(node, value=node.value if value is None else value,
                      permissions=node.permissions if permissions is None else permissions,
                      generation=self._tree.next_generation())
        self._domain.demand("node_size", new.size)
        self._put(path, new)
        if not quiet:
            self._events[path] = True

    def create(self, path: str, value: bytes) -> None:
        """Make a node that is missing, and its missing parents with it."""
        try:
            self.read(path)
            above, node = self.nearest(path)
            missing = [here for here in paths.upwards(path) if len(here) > len(above)]
            creator = self._domain.domid
            self._domain.demand("nodes", self._domain.usage.nodes + self._grown[creator] + len(missing))
            for made in reversed(missing):
                self._link(above, node, paths.name(made), True)
                generation = self._tree.next_generation()
                node = Node(value if made == path else b"", inherited(node.permissions, creator), (), generation,
                            generation)
                self._domain.demand("node_size", node.size)
                self._put(made, node)
                above = made
        except StoreError:
            self.failed = True
            raise
        self._events[path] = True

    def remove(self, path: str) -> None:
        """Remove a node and all below it. Events come from the leaves up, the last one from `path` itself."""
        going: list[tuple[str, Node]] = []
        waiting = [path]
        while waiting:
            here = waiting.pop()
            node = self.read_children(here)
            if node is not None:
                going.append((here, node))
                waiting.extend(paths.child(here, element) for element in node.children)
        for here, _ in reversed(going):
            self._put(here, None)
            self._events[here] = self._events.get(here, False) or here == path
        parent = self._touch(above := paths.parent(path))
        if parent is not None:
            self._link(above, parent, paths.name(path), False)

    def conflicts(self) -> bool:
        """Whether something that was seen is no longer so."""
        return any(self._differs(path, first) for path, first in self._first.items())

    def commit(self, account: Callable[[int], Domain]) -> list[Event]:
        """Make the changes count, and give the events to fire.

        `account` gives the record of a domain, by id. Raises StoreError: ENOMEM after a failure, EAGAIN when another
        change came between, ENOSPC beyond a quota. Nothing has changed then.
        """
        self.drop()
        if self.failed:
            raise StoreError("an earlier request of the transaction failed", "ENOMEM")
        if self.conflicts():
            raise StoreError("what the transaction saw has changed since", "EAGAIN")
        plan = [(path, self._tree.get(path), self._merged(path, node)) for path, node in self._changed.items()]
        self._charge(plan, account)
        for path, old, new in plan:
            if new is not None:
                self._tree.put(path, new)
            elif old is not None:
                self._tree.remove(path)
        return [Event(path, upwards, self._readers(path)) for path, upwards in self._events.items()
                if self._first[path] is not None or self._changed[path] is not None]  # not if it came and went

    def drop(self) -> None:
        """Give back the memory that an open transaction is charged for. A second call does nothing."""
        self._domain.usage.memory -= self._held
        self._held = 0

    def _touch(self, path: str) -> Node | None:
        if path in self._changed:
            return self._changed[path]
        if path in self._first:
            return self._first[path]
        if self._lasting and self._domain.exceeds("transaction_nodes", len(self._first) + 1):
            self.failed = True
            raise StoreError("the transaction touches too many nodes", "ENOSPC")
        node = self._first[path] = self._tree.get(path)
        return node

    def _look(self, path: str, seen: Seen) -> Node | None:
        node = self._touch(path)
        self._seen[path] = self._seen.get(path, Seen(0)) | seen
        return node

    def _put(self, path: str, node: Node | None) -> None:
        old = self._touch(path)
        if self._lasting:
            growth = _bytes(path, node) - _bytes(path, self._changed.get(path))
            if growth > 0 and self._domain.exceeds("memory", self._domain.usage.memory + growth):
                self.failed = True
                raise StoreError("the transaction is too big for the quota of memory", "ENOSPC")
            self._held += growth
            self._domain.usage.memory += growth
        for here, count in ((old, -1), (node, 1)):
            if here is not None:
                self._grown[owner(here.permissions)] += count
        self._changed[path] = node

    def _link(self, path: str, node: Node, child: str, present: bool) -> None:
        """Add or remove a name in the list of children of the `node` at `path`.

        The change is also kept by itself: the list may be older or younger than the child that was looked at.
        """
        children = tuple(name for name in node.children if name != child) + ((child,) if present else ())
        new = replace(node, children=children, children_generation=self._tree.next_generation())
        if present:
            self._domain.demand("node_size", new.size)
        self._put(path, new)
        self._links[path][child] = present

    def _made_on_the_way(self, path: str) -> Node | None:
        """The node that this view makes at `path` only as a parent of another: nobody looked at it for itself."""
        return self._changed.get(path) if self._first[path] is None and path not in self._seen else None

    def _differs(self, path: str, first: Node | None) -> bool:
        now = self._tree.get(path)
        if now is first:
            return False
        if now is not None and first is not None:
            seen = self._seen.get(path, Seen(0))
            return ((Seen.CONTENT in seen and now.generation != first.generation)
                    or (Seen.CHILDREN in seen and now.children_generation != first.children_generation))
        made = self._made_on_the_way(path)
        return made is None or now is None or made.permissions != now.permissions

    def _merged(self, path: str, node: Node | None) -> Node | None:
        """The changed `node` on top of what the tree has there now, which another commit may have changed elsewhere."""
        first, now = self._first[path], self._tree.get(path)
        if node is None or now is None or now is first:
            return node
        content = now if first is None or node.generation == first.generation else node
        links = self._links.get(path)
        if not links:
            return replace(content, children=now.children, children_generation=now.children_generation)
        there = set(now.children)
        children = (*(child for child in now.children if links.get(child, True)),
                    *(child for child, present in links.items() if present and child not in there))
        return replace(content, children=children, children_generation=self._tree.next_generation())

    def _charge(self, plan: list[tuple[str, Node | None, Node | None]], account: Callable[[int], Domain]) -> None:
        nodes: defaultdict[int, int] = defaultdict(int)
        memory: defaultdict[int, int] = defaultdict(int)
        for path, old, new in plan:
            for node, sign in ((old, -1), (new, 1)):
                if node is not None:
                    nodes[owner(node.permissions)] += sign
                    memory[owner(node.permissions)] += sign * _bytes(path, node)
        domains = {domid: account(domid) for domid in nodes}
        if not self._domain.privileged:
            for domid, domain in domains.items():
                if nodes[domid] > 0:
                    domain.demand("nodes", domain.usage.nodes + nodes[domid])
                if memory[domid] > 0:
                    domain.demand("memory", domain.usage.memory + memory[domid])
        for domid, domain in domains.items():
            domain.usage.nodes += nodes[domid]
            domain.usage.memory += memory[domid]

    def _readers(self, path: str) -> tuple[Permissions, ...]:
        """The permissions that decide who is told: of the node before and after, and of its parent."""
        above = paths.parent(path)
        nodes = (self._first[path], self._tree.get(path), self._tree.get(above) or self._first.get(above))
        return tuple(node.permissions for node in nodes if node is not None)
