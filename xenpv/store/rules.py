"""What may be said on the xenstore wire, and what its errors mean.

Every path, permission and answer is checked here, once. Source: xen docs/misc/xenstore.txt and public/io/xs_wire.h.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Sequence

from ..errors import (AccessDeniedError, ConflictError, NoEntryError, QuotaError, StoreConnectionError, StoreError,
                      StoreTimeoutError)

PAYLOAD_MAX = 4096
"""Bytes behind a header (XENSTORE_PAYLOAD_MAX)."""

ABSOLUTE_PATH_MAX = 3072
RELATIVE_PATH_MAX = 2048

_PATH = re.compile(r"[A-Za-z0-9\-/_@]+")
_SPECIAL = re.compile(r"@(?:introduceDomain|releaseDomain)(?:/[0-9]{1,5})?")
_PERMISSION = re.compile(r"[nrwb][0-9]{1,5}")
_NUMBER = re.compile(rb"[0-9]{1,10}")
_CODE = re.compile(rb"E[A-Z0-9]{1,30}")

_CLASSES: dict[str, type[StoreError]] = {
    "ENOENT": NoEntryError,
    "EACCES": AccessDeniedError,
    "EPERM": AccessDeniedError,
    "EAGAIN": ConflictError,
    "ENOSPC": QuotaError,
    "E2BIG": QuotaError,
}

_MENDS = {
    "ENOSPC": ": this domain's quota of nodes, or of bytes in one, is used up: remove some",
    "E2BIG": ": a quota of this domain is used up: close watches, or send less",
}


def short(text: str) -> str:
    """`text` for a message: printable, on one line, not endless."""
    shown = ascii(text)[1:-1]
    return shown if len(shown) <= 200 else shown[:100] + "..." + shown[-60:]


def _path_fault(path: str) -> str | None:
    """What is wrong with `path`, or None."""
    if not _PATH.fullmatch(path):
        return "is empty" if not path else "may hold A-Z a-z 0-9 - / _ @ only"
    if len(path) > (limit := ABSOLUTE_PATH_MAX if path.startswith("/") else RELATIVE_PATH_MAX):
        return f"has {len(path)} characters, more than {limit}"
    if "//" in path or (path.endswith("/") and path != "/"):
        return "has an empty name in it; take the extra / away"
    return None


def check_path(verb: str, path: str) -> bytes:
    """`path` as the wire has it, with its NUL. Raises StoreError (EINVAL) when it is no xenstore path."""
    if fault := _path_fault(path):
        raise StoreError(f"xenstore {verb} {short(path)}: the path {fault}", "EINVAL")
    return path.encode("ascii") + b"\0"


def check_watch_path(path: str) -> bytes:
    """Like `check_path`, for a path to watch: of the names that begin with @ only the two special ones exist."""
    if path.startswith("@") and not _SPECIAL.fullmatch(path):
        raise StoreError(f"xenstore watch {short(path)}: no such special watch; there are @introduceDomain and "
                         "@releaseDomain", "EINVAL")
    return check_path("watch", path)


def check_permissions(path: str, permissions: Sequence[str]) -> bytes:
    """The words of SET_PERMS, each with its NUL. Raises StoreError (EINVAL)."""
    if not permissions:
        raise StoreError(f"xenstore set permissions {short(path)}: the first permission names the owner; none was "
                         "given", "EINVAL")
    for word in permissions:
        if not _PERMISSION.fullmatch(word):
            raise StoreError(f"xenstore set permissions {short(path)}: {short(word)} is no permission; say n, r, w or "
                             "b and a domid", "EINVAL")
    return b"".join(word.encode("ascii") + b"\0" for word in permissions)


def refused(subject: str, payload: bytes) -> StoreError:
    """The exception for an ERROR answer; `subject` is the operation and its path.

    A name that this machine does not know stays what it is, in `code`.
    """
    name = payload.removesuffix(b"\0")
    if not _CODE.fullmatch(name):
        return nonsense(subject, "an error without a name")
    code = name.decode("ascii")
    number = getattr(errno, code, None)
    meaning = os.strerror(number) if isinstance(number, int) else "an error that this machine has no text for"
    return _CLASSES.get(code, StoreError)(f"xenstore {subject}: {meaning} ({code}){_MENDS.get(code, '')}", code)


def nonsense(subject: str, what: str) -> StoreError:
    """The exception for an answer that breaks the protocol but concerns one request alone."""
    return StoreError(f"xenstore {subject}: xenstored's answer makes no sense: {what}", "EIO")


def lost(subject: str, cause: str) -> StoreConnectionError:
    """The exception for a request whose connection broke or could not be made."""
    return StoreConnectionError(f"xenstore {subject}: {cause}", "ECONNRESET")


def late(subject: str, seconds: float) -> StoreTimeoutError:
    """The exception for a request that was not answered in time: it may or may not have been carried out."""
    return StoreTimeoutError(f"xenstore {subject}: no answer within {seconds:g} s; is xenstored overloaded or stopped?",
                             "ETIMEDOUT")


def parse_ok(subject: str, payload: bytes) -> None:
    """Check the answer of a request that gives nothing back."""
    if payload not in (b"OK\0", b"OK"):
        raise nonsense(subject, "not OK")


def parse_strings(subject: str, payload: bytes) -> list[str]:
    """A list of NUL-terminated words."""
    if not payload:
        return []
    words = payload.removesuffix(b"\0").split(b"\0")
    if not all(words) or not payload.isascii():
        raise nonsense(subject, "not a list of names")
    return [word.decode("ascii") for word in words]


def parse_string(subject: str, payload: bytes) -> str:
    """One word, with or without its NUL."""
    words = parse_strings(subject, payload)
    if len(words) != 1:
        raise nonsense(subject, "not one word")
    return words[0]


def parse_transaction(subject: str, payload: bytes) -> int:
    """The id of a transaction. 0 would mean none, so that what follows would touch the store itself."""
    number = payload.removesuffix(b"\0")
    if not _NUMBER.fullmatch(number) or not 0 < int(number) <= 0xffffffff:
        raise nonsense(subject, "not the id of a transaction")
    return int(number)


def parse_event(payload: bytes) -> tuple[str, str] | None:
    """(path, token) of a WATCH_EVENT, or None when it is malformed. Its header says nothing: Linux leaves it unset."""
    fields = payload.split(b"\0")
    if len(fields) != 3 or fields[2] or not payload.isascii():
        return None
    path, token = fields[0].decode("ascii"), fields[1].decode("ascii")
    return None if _path_fault(path) else (path, token)
