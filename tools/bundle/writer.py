"""A bundle, written: a new one, and the step from one index to the next.

RULES

- Data goes where neither slot has an image, and is durable before a slot names it.
- One slot, sync; the other slot, sync; the second partition table, sync; the first one, sync. Killed at any write, one
  slot is whole, and all that it names is there.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

from xenpv.errors import StorageError, UsageError
from xenpv.wire.bundle import (MAX_TEXT, TAIL_BYTES, Image, Index, check_places, encode, partition_table, rounded,
                               slot_bytes, slot_offset)
from xenpv.wire.gpt import BACK_BYTES

from ..progress import Progress
from .copying import copy
from .inputs import Input
from .medium import Medium, Region
from .signing import Signer

__all__ = ["create", "creation_time", "place", "plan", "put", "switch", "text_of"]


def creation_time() -> int:
    """Seconds since 1970: $SOURCE_DATE_EPOCH (reproducible-builds.org), else now. Raises UsageError."""
    text = os.environ.get("SOURCE_DATE_EPOCH")
    if text is None:
        return int(time.time())
    if not re.fullmatch("[0-9]{1,12}", text):
        raise UsageError(f"SOURCE_DATE_EPOCH={text!r} is no number of seconds since 1970")
    return int(text)


def plan(inputs: Sequence[Input], index: Index) -> Index:
    """`index` with the inputs as its images, one after the other, and the size that they need. Digests are to come."""
    images, at = [], rounded(index.index_size, index.align)
    for each in inputs:
        size = each.source.size
        images.append(Image(each.name, each.kind, size, at if size else 0, bytes(32)))
        at = rounded(at + size, index.align)
    return fitted(replace(index, images=tuple(images)))


def fitted(index: Index) -> Index:
    """`index` with the least size that holds its images."""
    end = max((each.end for each in index.images), default=0)
    return replace(index, size=max(end, index.index_size) + TAIL_BYTES)


def text_of(index: Index, sign: Signer | None) -> bytes:
    """The text. Raises UsageError when it does not fit."""
    text = encode(index, sign)
    if len(text) > (room := min(slot_bytes(index.index_size), MAX_TEXT)):
        raise UsageError(f"the index needs {len(text)} bytes and a slot has {room}: make the bundle with a larger "
                         "--index-size")
    return text


def create(medium: Medium, inputs: Sequence[Input], index: Index, sign: Signer | None, progress: Progress) -> Index:
    """Make a bundle of `inputs` with the settings in `index`, and sync. Raises UsageError, StorageError, BundleError."""
    index = plan(inputs, index)
    if medium.fixed:
        if index.size > medium.size:
            raise StorageError(f"{medium.name} has {medium.size} bytes, and the bundle needs {index.size}")
        # A device may hold an older bundle, which must not be taken for this one meanwhile.
        medium.zero(0, index.index_size)
        medium.sync()
        index = replace(index, size=medium.size // 512 * 512)
    text_of(index, sign)
    images = tuple(put(medium, each, image.offset, progress, blank=not medium.fixed)
                   for each, image in zip(inputs, index.images, strict=True))
    index = replace(index, images=images)
    medium.sync()
    switch(medium, index, text_of(index, sign), (0, 1))
    return index


def put(medium: Medium, item: Input, offset: int, progress: Progress, *, blank: bool) -> Image:
    """Copy an image to `offset`, and zeros behind it: what the index says of it."""
    size = item.source.size
    region = Region(medium, offset, blank=blank)
    digest = copy(item.source, 0, size, region, progress)
    region.zero(size, rounded(size) - size)
    return Image(item.name, item.kind, size, offset if size else 0, digest)


def switch(medium: Medium, index: Index, text: bytes, order: tuple[int, int]) -> None:
    """Make `index`, whose images are there, the one that counts: the slots in this order, then the partition tables."""
    check_places(index)
    padded = text.ljust(min(MAX_TEXT, slot_bytes(index.index_size)), b"\0")
    table = partition_table(index)
    for offset, data in (*((slot_offset(slot, index.index_size), padded) for slot in order),
                         (index.size - BACK_BYTES, table.back), (0, table.front)):
        medium.write(offset, data)
        medium.sync()


def place(index: Index, size: int, *, fixed: bool) -> int:
    """Where `size` bytes are free in a bundle: in the first gap, else behind its end. Raises StorageError.

    A `fixed` bundle, one on a device, does not grow.
    """
    if not size:
        return 0
    edges = [(0, rounded(index.index_size, index.align)), *((each.offset, each.end) for each in index.placed())]
    for (_, end), (start, _) in pairwise([*edges, (index.size - BACK_BYTES, 0)]):
        at = rounded(end, index.align)
        if at + rounded(size) <= start:
            return at
    if fixed:
        raise StorageError(f"there is no gap for {size} bytes in a bundle of {index.size} bytes on a device: make a new "
                           "one, or remove an image first")
    return rounded(index.size, index.align)
