"""One request, as its handler sees it."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from xenpv.errors import StoreError
from xenpv.wire.xs import Packet, split

from . import paths
from .permissions import Access, access
from .quotas import Domain
from .transaction import View
from .tree import Node

if TYPE_CHECKING:
    from .connection import Connection
    from .daemon import Xenstored

OK = b"OK\0"
"""The answer that says nothing more."""

_NUMBER = re.compile(rb"[0-9]{1,10}")


@dataclass(slots=True)
class Request:
    """One request. A handler takes it, and returns the payload of the answer or raises StoreError."""

    connection: Connection
    packet: Packet
    view: View
    afterwards: list[Callable[[], None]] = field(default_factory=list)
    """Called once the answer is queued."""

    @property
    def store(self) -> Xenstored:
        return self.connection.store

    @property
    def domain(self) -> Domain:
        return self.connection.domain

    def strings(self, least: int, most: int) -> list[bytes]:
        """The payload as `least` to `most` strings, each with its NUL. Raises StoreError (EINVAL)."""
        strings = split(self.packet.payload)
        if not least <= len(strings) <= most:
            raise StoreError(f"{len(strings)} strings in a payload that has {least} to {most}", "EINVAL")
        return strings

    def string(self) -> bytes:
        """The payload as exactly one string and its NUL. Raises StoreError (EINVAL)."""
        payload = self.packet.payload
        if payload.find(b"\0") != len(payload) - 1:
            raise StoreError("the payload is not one string", "EINVAL")
        return payload[:-1]

    def path(self, raw: bytes, *, special: bool = False) -> str:
        """`raw` as a checked absolute path. Raises StoreError (EINVAL)."""
        limit = 0 if self.domain.privileged else self.domain.quotas.path_max
        return paths.canonical(raw, self.domain.base, limit=limit, special=special)

    def allowed(self, path: str, node: Node | None, needed: Access) -> None:
        """Check that the caller may do what it `needed` with the node at `path`, or, if that is missing, may know so.

        Raises StoreError (EACCES).
        """
        if self.domain.privileged:
            return
        identities = self.domain.identities
        if node is not None:
            good = access(node.permissions, identities) & needed == needed
        else:
            _, above = self.view.nearest(path)
            good = bool(access(above.permissions, identities) & needed)
        if not good:
            raise StoreError(f"domain {self.domain.domid} may not do this with {path}", "EACCES")

    def existing(self, path: str, needed: Access) -> Node:
        """The node at `path`, with which the caller may do what it `needed`. Raises StoreError (ENOENT, EACCES)."""
        node = self.view.read(path)
        self.allowed(path, node, needed)
        if node is None:
            raise StoreError(f"{path} is not there", "ENOENT")
        return node


def number(raw: bytes, most: int = 0xFFFFFFFF) -> int:
    """A decimal number up to `most`. Raises StoreError (EINVAL)."""
    if _NUMBER.fullmatch(raw) is None or int(raw) > most:
        raise StoreError("a number is not decimal, or too big", "EINVAL")
    return int(raw)


def domid(raw: bytes) -> int:
    """A domain id, reserved ones included. Raises StoreError (EINVAL)."""
    return number(raw, 0xFFFF)
