"""Who may read and write a node.

Source: docs/misc/xenstore.txt of Xen, "Each node has one or multiple permission entries".

RULES
- The first entry names the owner, who may do everything; its letter is the access of every domain that has no entry.
- Only the control domain gives a node another owner (XSA-352).
- An entry for DOMID_ANY is everybody's, and never an owner.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from enum import IntFlag
from typing import NamedTuple

from xenpv.errors import StoreError
from xenpv.wire.xs import DOMID_ANY, DOMID_FIRST_RESERVED


class Access(IntFlag):
    """What a domain may do with a node."""

    NONE = 0
    READ = 1
    WRITE = 2
    OWNER = 4
    ALL = 7


_LETTERS = {"n": Access.NONE, "r": Access.READ, "w": Access.WRITE, "b": Access.READ | Access.WRITE}
_NAMES = {access: letter for letter, access in _LETTERS.items()}
_ENTRY = re.compile(rb"([nrwb])([0-9]{1,5})")


class Permission(NamedTuple):
    """One entry, such as ``r5``."""

    access: Access
    domid: int

    def __str__(self) -> str:
        return f"{_NAMES[self.access]}{self.domid}"


Permissions = tuple[Permission, ...]

CONTROL_DOMAIN_ONLY: Permissions = (Permission(Access.NONE, 0),)


def parse(words: Iterable[bytes], *, any_allowed: bool) -> Permissions:
    """The entries of a SET_PERMS. DOMID_ANY is refused unless `any_allowed`. Raises StoreError (EINVAL)."""
    entries: list[Permission] = []
    for word in words:
        match = _ENTRY.fullmatch(word)
        if match is None:
            raise StoreError("a permission is not one of n r w b and a domain id", "EINVAL")
        domid = int(match[2])
        if domid == DOMID_ANY:
            if not entries or not any_allowed:
                raise StoreError("DOMID_ANY owns no node, and needs the feature", "EINVAL")
        elif domid >= DOMID_FIRST_RESERVED:
            raise StoreError(f"{domid} is not a domain id", "EINVAL")
        entries.append(Permission(_LETTERS[match[1].decode()], domid))
    return tuple(entries)


def owner(permissions: Permissions) -> int:
    """The domain that owns the node."""
    return permissions[0].domid


def access(permissions: Permissions, identities: Sequence[int]) -> Access:
    """What a domain may do. `identities` is its own id, then its target's if it has one. Domain 0 may do everything;
    a domain that targets it has only what entries for 0 give."""
    if identities[0] == 0 or permissions[0].domid in identities:
        return Access.ALL
    for entry in permissions[1:]:
        if entry.domid in identities or entry.domid == DOMID_ANY:
            return entry.access
    return permissions[0].access


def inherited(permissions: Permissions, creator: int) -> Permissions:
    """What a new child gets: its parent's entries, owned by the creator unless that is the control domain."""
    return permissions if creator == 0 else (Permission(permissions[0].access, creator), *permissions[1:])


def without(permissions: Permissions, domid: int) -> Permissions:
    """The entries without those of a domain that is gone; the first one stays."""
    if any(entry.domid == domid for entry in permissions[1:]):
        return (permissions[0], *(entry for entry in permissions[1:] if entry.domid != domid))
    return permissions
