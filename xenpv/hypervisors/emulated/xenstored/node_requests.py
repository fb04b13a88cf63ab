"""Requests on nodes: DIRECTORY, DIRECTORY_PART, READ, WRITE, MKDIR, RM, GET_PERMS, SET_PERMS.

Source: docs/misc/xenstore.txt of Xen, "Database read, write and permissions operations".

RULES
- Permissions are checked on "/" as on any other node (XSA-353), and a missing node is only told to whom its nearest
  existing parent lets do the same.
"""

from __future__ import annotations

from xenpv.errors import StoreError
from xenpv.wire.xs import PAYLOAD_MAX

from . import paths
from .permissions import Access, owner, parse
from .request import OK, Request, number
from .tree import Node


def _strings(words: tuple[str, ...]) -> bytes:
    return b"".join(word.encode() + b"\0" for word in words)


def _listed(request: Request, raw: bytes) -> Node:
    path = request.path(raw)
    node = request.existing(path, Access.READ)
    request.view.read_children(path)
    return node


def read(request: Request) -> bytes:
    """READ path: the value."""
    return request.existing(request.path(request.string()), Access.READ).value


def directory(request: Request) -> bytes:
    """DIRECTORY path: the names of the children."""
    return _strings(_listed(request, request.string()).children)


def directory_part(request: Request) -> bytes:
    """DIRECTORY_PART path offset: a number that changes with the node, and names from byte `offset` of their list on.

    An empty string ends the list.
    """
    raw, place = request.strings(2, 2)
    node = _listed(request, raw)
    names = _strings(node.children)
    start = min(number(place), len(names))
    head = b"%d\0" % max(node.generation, node.children_generation)
    room = PAYLOAD_MAX - len(head) - 1
    part = names[start:start + room]
    if start + len(part) < len(names):
        return head + part[:part.rfind(b"\0") + 1]
    return head + part + b"\0"


def write(request: Request) -> bytes:
    """WRITE path value: set the value, and make the node and its parents where they are missing."""
    raw, found, value = request.packet.payload.partition(b"\0")
    if not found:
        raise StoreError("a WRITE without a NUL behind its path", "EINVAL")
    path = request.path(raw)
    node = request.view.read(path)
    request.allowed(path, node, Access.WRITE)
    if node is None:
        request.view.create(path, value)
    else:
        request.view.write(path, value=value)
    return OK


def mkdir(request: Request) -> bytes:
    """MKDIR path: make the node and its parents where they are missing."""
    path = request.path(request.string())
    node = request.view.read(path)
    request.allowed(path, node, Access.WRITE)
    if node is None:
        request.view.create(path, b"")
    return OK


def remove(request: Request) -> bytes:
    """RM path: remove the node and all below it. A missing node is removed already if its parent is there."""
    path = request.path(request.string())
    node = request.view.read(path)
    request.allowed(path, node, Access.WRITE)
    if node is None:
        if request.view.read(paths.parent(path)) is None:
            raise StoreError(f"neither {path} nor its parent is there", "ENOENT")
        return OK
    if path == "/":
        raise StoreError("the root cannot be removed", "EINVAL")
    request.view.remove(path)
    return OK


def get_permissions(request: Request) -> bytes:
    """GET_PERMS path: the entries. The path may be special."""
    node = request.existing(request.path(request.string(), special=True), Access.READ)
    return _strings(tuple(map(str, node.permissions)))


def set_permissions(request: Request) -> bytes:
    """SET_PERMS path entries: replace them. Only the control domain names another owner. The path may be special."""
    raw, *words = request.strings(2, PAYLOAD_MAX)
    domain = request.domain
    domain.demand("node_permissions", len(words))
    permissions = parse(words, any_allowed=domain.offers_domid_any)
    path = request.path(raw, special=True)
    node = request.existing(path, Access.WRITE | Access.OWNER)
    if not domain.privileged and owner(permissions) != owner(node.permissions):
        raise StoreError("only the control domain gives a node another owner", "EPERM")
    request.view.write(path, permissions=permissions)
    return OK
