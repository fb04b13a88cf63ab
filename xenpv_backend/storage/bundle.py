"""Whether a storage holds a boot bundle, and which: what the guest finds in xenstore beside its disk.

Source: docs/bundle.md, "Reading".
"""

from __future__ import annotations

import mmap
import os
from uuid import UUID

from xenpv.errors import BundleError
from xenpv.wire.bundle import BLOCK, MAX_TEXT, SLOT_A, Index, parse, slot_bytes, slot_offset, text_length
from xenpv.wire.gpt import SECTOR, first_usable_bytes

from .base import Storage

__all__ = ["bundle_id", "BUNDLE_KEY"]

BUNDLE_KEY = "xenpv-bundle"
"""The key of the backend's node that has the bundle's id."""


def bundle_id(storage: Storage) -> UUID | None:
    """The id of the bundle on a storage that only is read; None for everything else.

    What cannot be read is no bundle here: whether the disk is any good, its reader will see.
    """
    if storage.fileno() < 0 or not storage.facts.readonly:
        return None
    try:
        first = _index(storage.fileno(), SLOT_A)
        size = first.index_size if first else first_usable_bytes(_read(storage.fileno(), 0, BLOCK)[SECTOR:2 * SECTOR])
        second = _index(storage.fileno(), slot_offset(1, size)) if size and size % BLOCK == 0 else None
    except OSError:
        return None
    found = [each for each in (first, second) if each and each.index_size == size]
    return max(found, key=lambda each: each.generation).id if found else None


def _index(fd: int, offset: int) -> Index | None:
    try:
        length = text_length(_read(fd, offset, BLOCK))
        index = parse(_read(fd, offset, length))
        return index if length <= min(MAX_TEXT, slot_bytes(index.index_size)) else None
    except BundleError:
        return None


def _read(fd: int, offset: int, length: int) -> bytes:
    """By whole blocks into a page of its own, as O_DIRECT demands. Fewer bytes where the storage ends."""
    with mmap.mmap(-1, -(-length // BLOCK) * BLOCK) as buffer:
        return buffer[:min(length, os.preadv(fd, [buffer], offset))]
