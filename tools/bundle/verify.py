"""Every part of a bundle judged, to the end, whatever is wrong on the way.

RULES

- What is checked is decided here: both slots, both partition tables, every image to its last byte and its padding, and
  the signature when a key is given. A part that could not be checked is not ok.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from xenpv.errors import BundleError
from xenpv.wire.bundle import Image, Reason, partition_table
from xenpv.wire.gpt import BACK_BYTES, SECTOR

from ..progress import Progress
from .reader import Bundle
from .signing import Checker
from .source import read

__all__ = ["Verdict", "judge_images", "judge_index"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one part. `reason` is None when it is ok, else a name in docs/bundle.md; `text` says more."""

    name: str
    reason: str | None = None
    text: str = ""

    @property
    def ok(self) -> bool:
        return self.reason is None

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        return {"name": self.name, "ok": self.ok, "reason": None if self.ok else f"{self.reason}: {self.text}"}


def _verdict(name: str, check: Callable[[], None]) -> Verdict:
    try:
        check()
    except BundleError as error:
        return Verdict(name, error.reason, str(error))
    return Verdict(name)


def judge_index(bundle: Bundle, check: Checker | None = None) -> Iterator[Verdict]:
    """The slots, the partition tables and, with a `check`, the signature."""
    for slot in bundle.slots:
        if slot.fault is not None:
            yield Verdict(slot.name, slot.fault.reason, str(slot.fault))
        elif slot.text != bundle.text:
            yield Verdict(slot.name, Reason.SLOT_OTHER, "it is whole, and another than the one that counts: was a change "
                                                        "interrupted?")
        else:
            yield Verdict(slot.name)
    table = partition_table(bundle.index)
    parts = (("MBR", Reason.MBR, 0, table.front[:SECTOR]),
             ("partition table", Reason.GPT_PRIMARY, SECTOR, table.front[SECTOR:]),
             ("second partition table", Reason.GPT_BACKUP, bundle.index.size - BACK_BYTES, table.back))
    for name, reason, offset, wanted in parts:
        yield _verdict(name, lambda: _compare(bundle, offset, wanted, reason))
    if bundle.cut:
        yield Verdict("size", Reason.CUT, f"{bundle.source.name} has {bundle.source.size} bytes of {bundle.index.size}: it "
                                          "was cut short")
    if check is not None:
        yield _verdict("signature", lambda: check(bundle.text))


def _compare(bundle: Bundle, offset: int, wanted: bytes, reason: Reason) -> None:
    if offset + len(wanted) > bundle.source.size:
        raise BundleError("it is beyond the end", Reason.CUT)
    if read(bundle.source, offset, len(wanted)) != wanted:
        raise BundleError("it is not the one that follows from the index", reason)


def judge_images(bundle: Bundle, progress: Progress | None = None) -> Iterator[Verdict]:
    """Every image: its SHA-256, and the zeros behind it."""
    for image in bundle.images:
        yield _verdict(image.name, lambda: _image(bundle, image, progress))


def _image(bundle: Bundle, image: Image, progress: Progress | None) -> None:
    bundle.copy_out(image, progress=progress)
    padding = image.end - image.offset - image.size if image.size else 0
    if padding and any(read(bundle.source, image.offset + image.size, padding)):
        raise BundleError("what follows its last byte, up to the next 4096, is not zero", Reason.PADDING)
