"""Cache modes, under the names that QEMU's users know (qemu-system(1), -drive cache=)."""

from __future__ import annotations

from typing import Final

CACHES: Final = ("auto", "none", "writeback", "writethrough", "directsync", "unsafe", "direct", "buffered")
"""What may be asked for. ``auto`` is ``none`` where O_DIRECT can be had, else ``writeback``; the last two are older words."""

_OLDER: Final = {"direct": "none", "buffered": "writeback"}


def mode_of(cache: str) -> str:
    """One of CACHES without its older words."""
    return _OLDER.get(cache, cache)


def is_direct(mode: str) -> bool:
    """The host's page cache is to be passed by."""
    return mode in ("none", "directsync")


def is_through(mode: str) -> bool:
    """A write is durable when it is answered."""
    return mode in ("writethrough", "directsync")


def has_flush(mode: str) -> bool:
    """A flush is offered, and does what it says. One that is not done is not offered."""
    return mode != "unsafe"
