"""The nodes themselves.

RULES
- Nodes are immutable: a change puts another node in the same place, so a reader that kept one can tell by identity.
- All nodes stand in one flat table by path; nothing recurses along the depth of the tree (XSA-418).
- Every node but "/" and the special ones is named by its parent, and every name has its node; `faults` tells otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from . import paths
from .permissions import CONTROL_DOMAIN_ONLY, Permissions

SPECIAL = ("@introduceDomain", "@releaseDomain")
"""Nodes outside the tree; only their permissions count: who is told of these events."""

_NODE_HEADER = 16
_PERMISSION = 8


@dataclass(frozen=True, slots=True)
class Node:
    """One node. Both generations are numbers that no other change has."""

    value: bytes
    permissions: Permissions
    children: tuple[str, ...]
    generation: int
    """Of the value and the permissions."""
    children_generation: int
    """Of the list of children."""

    @property
    def size(self) -> int:
        """Bytes that count against the quota of its owner, but for the path."""
        return (_NODE_HEADER + _PERMISSION * len(self.permissions) + len(self.value)
                + sum(map(len, self.children)) + len(self.children))


class Tree:
    """Every committed node."""

    def __init__(self) -> None:
        self._nodes: dict[str, Node] = {}
        self._generation = 0
        for path, children in (("/", ("tool",)), ("/tool", ("xenstored",)), ("/tool/xenstored", ()),
                               *((special, ()) for special in SPECIAL)):
            number = self.next_generation()
            self._nodes[path] = Node(b"", CONTROL_DOMAIN_ONLY, children, number, number)

    def __iter__(self) -> Iterator[tuple[str, Node]]:
        return iter(self._nodes.items())

    def next_generation(self) -> int:
        """A number that was never used before."""
        self._generation += 1
        return self._generation

    def get(self, path: str) -> Node | None:
        """The node at `path`, if there is one."""
        return self._nodes.get(path)

    def put(self, path: str, node: Node) -> None:
        """Set the node at `path`. The caller keeps the parent's list of children right."""
        self._nodes[path] = node

    def remove(self, path: str) -> None:
        """Take the node at `path` away. The caller keeps the parent's list of children right."""
        del self._nodes[path]

    def faults(self) -> list[str]:
        """What is wrong with the tree, a line each: the CONTROL command ``check``."""
        named = {paths.child(path, child) for path, node in self for child in node.children}
        present = {path for path, _ in self if path != "/" and path not in SPECIAL}
        twice = [path for path, node in self if len(set(node.children)) != len(node.children)]
        return ([f"{path} is named by its parent and is not there" for path in sorted(named - present)]
                + [f"{path} is there and its parent does not name it" for path in sorted(present - named)]
                + [f"{path} names a child twice" for path in sorted(twice)])
