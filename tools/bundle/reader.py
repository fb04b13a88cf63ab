"""A bundle, read: its two slots, its images, and nothing that was not checked.

RULES

- Opening reads the partition table's first copy and both slots' texts, at most 200 KiB, whatever the bundle's size.
- Both slots are judged. The whole one of the higher generation counts; of two with the same, the first.
- Reading an image reads its bytes and no others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Self
from uuid import UUID

from xenpv.closing import Closing
from xenpv.errors import BundleError, UsageError
from xenpv.wire.bundle import (BLOCK, DEFAULT_INDEX_SIZE, MAX_INDEX_SIZE, MAX_TEXT, MIN_INDEX_SIZE, SLOT_A, Image,
                               Index, Reason, parse, partition_id, slot_bytes, slot_offset, text_length)
from xenpv.wire.gpt import SECTOR, first_usable_bytes

from ..progress import Progress
from .copying import Sink, copy
from .formats import packing_of
from .source import FileSource, Source, read

__all__ = ["Bundle", "Slot", "open_bundle"]

_FIRST_READ: Final = SLOT_A + BLOCK


@dataclass(frozen=True, slots=True)
class Slot:
    """One slot: its text and what that says, or what is wrong with it."""

    name: str
    text: bytes = b""
    index: Index | None = None
    fault: BundleError | None = None


class Bundle(Closing):
    """A bundle on `source`, which close() gives back. Raises BundleError when no index can be had from it."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.slots = _read_slots(source)
        good = [slot for slot in self.slots if slot.index is not None]
        best = max(good, key=lambda slot: slot.index.generation if slot.index else 0, default=None)
        if best is None or best.index is None:
            raise self._why_none()
        self.index: Index = best.index
        self.text = best.text
        """The index's text, byte for byte."""

    def _why_none(self) -> BundleError:
        first, second = (slot.fault for slot in self.slots)
        fault = second if first is None or first.reason == Reason.SLOT_MAGIC else first
        if fault is None or fault.reason == Reason.SLOT_MAGIC:
            return BundleError(f"{self.source.name} is no boot bundle: neither slot holds an index", Reason.NO_INDEX)
        return BundleError(f"{self.source.name}: neither slot holds a whole index: {fault}", fault.reason)

    @property
    def id(self) -> UUID:
        """The bundle's id, which follows from its images and its command line."""
        return self.index.id

    @property
    def images(self) -> tuple[Image, ...]:
        return self.index.images

    @property
    def cmdline(self) -> str | None:
        """The kernel command line that is packed with the images."""
        return self.index.cmdline

    @property
    def cut(self) -> bool:
        """Whether the source has fewer bytes than the bundle."""
        return self.source.size < self.index.size

    def image(self, name: str) -> Image:
        """The image of this name. Raises UsageError."""
        found = self.index.image(name)
        if found is None:
            there = ", ".join(each.name for each in self.images) or "none"
            raise UsageError(f"{self.source.name} has no image {name!r}; there are: {there}")
        return found

    def first(self, kind: str) -> Image | None:
        """The first image of this kind."""
        return next((each for each in self.images if each.kind == kind), None)

    def partition_id(self, image: Image) -> UUID:
        """What root=PARTUUID= takes to name this image's partition."""
        return partition_id(self.id, image.name)

    def read(self, image: Image, offset: int = 0, length: int | None = None) -> bytes:
        """A part of an image, unchecked. Raises UsageError when it is not within the image, BundleError, MemoryError."""
        length = image.size - offset if length is None else length
        if offset < 0 or length < 0 or offset + length > image.size:
            raise UsageError(f"{image.name}: {length} bytes at {offset} are outside the image of {image.size} bytes")
        self.check_there(image)
        return read(self.source, image.offset + offset, length)

    def copy_out(self, image: Image, sink: Sink | None = None, progress: Progress | None = None) -> None:
        """Give an image to `sink`, and raise BundleError (``digest``) at the end when it was not the right one."""
        self.check_there(image)
        if copy(self.source, image.offset, image.size, sink, progress) != image.sha256:
            raise BundleError(f"{image.name} is damaged: its SHA-256 is not the one in the index", Reason.DIGEST)

    def check_there(self, image: Image) -> None:
        """Raises BundleError (``cut``) when the source ends before the image does."""
        if image.size and image.offset + image.size > self.source.size:
            raise BundleError(f"{image.name} ends at {image.offset + image.size}, and {self.source.name} at "
                              f"{self.source.size}: it was cut short", Reason.CUT)

    def close(self) -> None:
        self.source.close()

    @classmethod
    def open(cls, path: str, *, lock: bool = True) -> Self:
        """See open_bundle()."""
        source = FileSource(path, lock=lock)
        try:
            return cls(source)
        except BaseException:
            source.close()
            raise


def open_bundle(path: str, *, lock: bool = True) -> Bundle:
    """The bundle in a file or on a block device, with a shared lock. Raises StorageError, BundleError."""
    return Bundle.open(path, lock=lock)


def _read_slots(source: Source) -> tuple[Slot, Slot]:
    head = read(source, 0, min(_FIRST_READ, source.size))
    packing = packing_of(head)
    if packing is not None:
        raise BundleError(f"{source.name} is {packing.name}, no boot bundle: {packing.mend}", Reason.FOREIGN)
    if source.size < _FIRST_READ:
        raise BundleError(f"{source.name} has {source.size} bytes, too few for a boot bundle", Reason.TOO_SHORT)
    first = _slot(source, "slot A", SLOT_A, head[SLOT_A:])
    if first.index is not None:
        return first, _second(source, first.index.index_size)
    # Where the second slot is follows from the index's size, which both partition tables hold too.
    last = source.size // SECTOR * SECTOR - SECTOR
    found = [first_usable_bytes(head[SECTOR:2 * SECTOR]), first_usable_bytes(read(source, last, SECTOR))]
    sizes = [size for size in found if size and MIN_INDEX_SIZE <= size <= MAX_INDEX_SIZE and size % BLOCK == 0]
    if not sizes and source.size >= DEFAULT_INDEX_SIZE:
        sizes = [DEFAULT_INDEX_SIZE]
    second = Slot("slot B", fault=BundleError("no partition table says where it is", Reason.SLOT_MAGIC))
    for size in dict.fromkeys(sizes):
        second = _second(source, size)
        if second.index is not None:
            break
    return first, second


def _second(source: Source, index_size: int) -> Slot:
    offset = slot_offset(1, index_size)
    if offset + slot_bytes(index_size) > source.size:
        return Slot("slot B", fault=BundleError(f"{source.name} ends before it", Reason.CUT))
    slot = _slot(source, "slot B", offset, read(source, offset, BLOCK))
    if slot.index is not None and slot.index.index_size != index_size:
        return Slot(slot.name, slot.text, fault=BundleError(
            f"it is of an index of {slot.index.index_size} bytes, and stands in one of {index_size}", Reason.SLOT_OTHER))
    return slot


def _slot(source: Source, name: str, offset: int, head: bytes) -> Slot:
    text = b""
    try:
        length = text_length(head)
        text = head[:length]
        if length > len(head):
            text += read(source, offset + len(head), length - len(head))
        index = parse(text)
        if length > min(MAX_TEXT, slot_bytes(index.index_size)):
            raise BundleError(f"its {length} bytes do not fit in a slot", Reason.SLOT_LENGTH)
    except BundleError as error:
        return Slot(name, text, fault=error)
    return Slot(name, text, index)
