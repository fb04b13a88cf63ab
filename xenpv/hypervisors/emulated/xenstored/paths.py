"""Paths of the store: one place where a path from a client is checked.

Source: docs/misc/xenstore.txt of Xen.

RULES
- A path that passed `canonical` is absolute ("/...") or special ("@..."), and no other function checks it again.
- No function here, or elsewhere in this package, recurses along a path: it may have 1500 levels (XSA-418).
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from xenpv.errors import StoreError
from xenpv.wire.xs import ABSOLUTE_PATH_MAX

_CHARACTERS = re.compile(rb"[-/_@A-Za-z0-9]+")
_DOMAIN_PREFIX = re.compile(r"/local/domain/[0-9]{1,5}/")


def canonical(raw: bytes, base: str, *, limit: int = 0, special: bool = False) -> str:
    """The checked absolute form of `raw`; a relative one is taken below `base`.

    `limit` is the caller's quota in bytes (0: none); "/local/domain/<domid>/" does not count towards it. A special path
    is let through only where `special` says so. Raises StoreError (EINVAL).
    """
    if _CHARACTERS.fullmatch(raw) is None:
        raise StoreError("a path is empty or has a character outside A-Z a-z 0-9 - / _ @", "EINVAL")
    path = raw.decode("ascii")
    if path[0] == "@":
        if not special:
            raise StoreError("a special path is good for watches and permissions only", "EINVAL")
    elif path[0] != "/":
        path = f"{base}/{path}"
    if "//" in path or (path[-1] == "/" and path != "/"):
        raise StoreError("a path has an empty element", "EINVAL")
    if len(path) > ABSOLUTE_PATH_MAX:
        raise StoreError(f"a path is longer than {ABSOLUTE_PATH_MAX} bytes", "EINVAL")
    if limit:
        prefix = _DOMAIN_PREFIX.match(path)
        if len(path) - (prefix.end() if prefix else 0) > limit:
            raise StoreError(f"a path is longer than the quota of {limit} bytes", "EINVAL")
    return path


def parent(path: str) -> str:
    """The path above; that of "/" is "/". A special path has no parent but "/"."""
    return path[:path.rfind("/")] if path.rfind("/") > 0 else "/"


def name(path: str) -> str:
    """The last element."""
    return path[path.rfind("/") + 1:]


def child(path: str, element: str) -> str:
    """The path of the child `element`."""
    return f"/{element}" if path == "/" else f"{path}/{element}"


def upwards(path: str) -> Iterator[str]:
    """`path`, its parent, and so on up to "/" (a special path stands alone)."""
    yield path
    while path[0] == "/" and path != "/":
        path = parent(path)
        yield path


def levels_below(path: str, ancestor: str) -> int:
    """How many levels `path` is below `ancestor`, which must be one of its ancestors or itself."""
    return path.count("/", len(ancestor)) if ancestor != "/" else (0 if path == "/" else path.count("/"))
