"""A bundle, changed where it stands: add, rm, replace and repair, each safe against being killed at any write.

RULES

- Nothing is written over an image that either slot names, nor over the second partition table that goes with it.
- What an interrupted change left is mended first, so that both slots say the same when a change begins.
- A signed bundle stays signed: without the key nothing is changed, unless the user gives the signature up.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from xenpv.errors import BundleError, UsageError
from xenpv.wire.bundle import (MAX_TEXT, Image, Index, Reason, partition_table, rounded, signed_part,
                               slot_bytes, slot_offset)
from xenpv.wire.gpt import BACK_BYTES

from ..progress import Progress
from .inputs import Input, check_names
from .medium import Medium
from .reader import Bundle
from .signing import Signer
from .source import read
from .writer import fitted, place, put, switch, text_of

__all__ = ["change", "repair"]


def repair(bundle: Bundle, medium: Medium) -> list[str]:
    """Mend the worse slot from the better one, and both partition tables: what was mended. Images are not looked at.

    Raises BundleError (``cut``) when a part of an image is not there any more, StorageError.
    """
    index, done = bundle.index, []
    for image in index.placed():
        if image.offset + image.size > medium.size:
            raise BundleError(f"{image.name} ends beyond the end of {medium.name}, which was cut short: take it from a copy",
                              Reason.CUT)
    slots = [number for number, slot in enumerate(bundle.slots) if slot.text != bundle.text]
    for number in slots:
        padded = bundle.text.ljust(min(MAX_TEXT, slot_bytes(index.index_size)), b"\0")
        medium.write(slot_offset(number, index.index_size), padded)
        medium.sync()
        done.append(bundle.slots[number].name)
    if medium.size < index.size:
        if medium.fixed:
            raise BundleError(f"{medium.name} has {medium.size} bytes, and the bundle {index.size}", Reason.CUT)
        medium.resize(index.size)
        done.append("size")
    table = partition_table(index)
    for name, offset, data in (("second partition table", index.size - BACK_BYTES, table.back),
                               ("partition table", 0, table.front)):
        if offset + len(data) > bundle.source.size or read(bundle.source, offset, len(data)) != data:
            medium.write(offset, data)
            medium.sync()
            done.append(name)
    if medium.size > index.size and not medium.fixed:
        medium.resize(index.size)
        done.append("size")
    return done


def change(bundle: Bundle, medium: Medium, put_in: Sequence[Input], take_out: Sequence[str], *,
           cmdline: str | None, created: int, sign: Signer | None, progress: Progress,
           force: bool = False, dry_run: bool = False, say: Callable[[str], None] = lambda text: None) -> Index:
    """Put images in, in place of those of the same name or behind the others, and take others out.

    `cmdline`: None leaves it, an empty text removes it. `force`: give a signature up. Returns the new index.
    Raises UsageError, StorageError, BundleError.
    """
    old = bundle.index
    if old.minor:
        raise UsageError(f"{bundle.source.name} is of version 1.{old.minor}, of which not all is known here: use the xenpv "
                         "that made it")
    if signed_part(bundle.text) and sign is None and not force:
        raise UsageError(f"{bundle.source.name} is signed: give --sign KEY, or -f and it is signed no more")
    for name in take_out:
        bundle.image(name)
    fresh = {each.name: each for each in put_in}
    names = [each.name for each in old.images if each.name not in take_out]
    names += [each.name for each in put_in if each.name not in names]
    check_names(names)
    if not dry_run:
        for part in repair(bundle, medium):
            say(f"{bundle.source.name}: mended first: {part}")
    index = replace(old, generation=old.generation + 1, created=created,
                    cmdline=old.cmdline if cmdline is None else cmdline or None)
    taken = _places(old, put_in, medium)
    images = [Image(name, fresh[name].kind, fresh[name].source.size, taken[name], bytes(32)) if name in fresh
              else _of(old, name) for name in names]
    planned = _sized(replace(index, images=tuple(images)), medium)
    text_of(planned, sign)
    if dry_run:
        return planned
    if planned.size > medium.size:
        medium.resize(planned.size)
    images = [put(medium, fresh[name], taken[name], progress, blank=False) if name in fresh else _of(old, name)
              for name in names]
    index = replace(planned, images=tuple(images))
    medium.sync()
    switch(medium, index, text_of(index, sign), (1, 0))
    for image in old.placed():
        if image not in index.images:
            end = min(image.end, index.size - BACK_BYTES)  # the new second table may stand where the image was
            medium.zero(image.offset, end - image.offset)
    medium.resize(index.size)
    return index


def _of(index: Index, name: str) -> Image:
    return next(each for each in index.images if each.name == name)


def _places(old: Index, put_in: Sequence[Input], medium: Medium) -> dict[str, int]:
    """Where each of `put_in` goes: to what `old` leaves free, and not where another one of them goes."""
    index, taken = old, {}
    for item in put_in:
        size = item.source.size
        offset = place(index, size, fixed=medium.fixed)
        taken[item.name] = offset
        grown = max(index.size, offset + rounded(size))
        index = replace(index, size=grown, images=(*index.images, Image(item.name, "data", size, offset, bytes(32))))
    return taken


def _sized(index: Index, medium: Medium) -> Index:
    """`index` with the size its images need; on a device it is as large as before."""
    return index if medium.fixed else fitted(index)
