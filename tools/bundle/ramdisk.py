"""A bundle's images inside of a ramdisk: for guests that get no disk.

RULES

- The sum of all sizes is known and bounded before a byte is written.
- The file is there when every image in it is whole and right.

Source: docs/bundle.md, "As a ramdisk"; Linux, Documentation/driver-api/early-userspace/buffer-format.rst (newc).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from xenpv.errors import StorageError, UsageError
from xenpv.wire.bundle import Image

from .boot import MAX_IMAGE
from .extract import SparseFile, Target
from .reader import Bundle

__all__ = ["make_ramdisk"]

_UNIT: Final = 4
_FILE, _FOLDER = 0o100644, 0o040755


def make_ramdisk(bundle: Bundle, output: str, names: Sequence[str] = (), *, ramdisk: str = "",
                 overwrite: bool = False) -> int:
    """Write the ramdisk with the images of these names, or with all but kernels and ramdisks: its size in bytes.

    Raises UsageError, StorageError, BundleError.
    """
    first = bundle.image(ramdisk) if ramdisk else bundle.first("ramdisk")
    if first is None:
        raise StorageError(f"{bundle.source.name} has no image of the kind ramdisk: `xenpv bundle add` puts one in")
    chosen = [bundle.image(name) for name in dict.fromkeys(names)] if names else \
        [each for each in bundle.images if each.kind not in ("kernel", "ramdisk")]
    if not chosen:
        raise UsageError(f"{bundle.source.name} has nothing to put in beside kernels and ramdisks: name images")
    parts = _parts(bundle, first, chosen)
    size = sum(len(part) if isinstance(part, bytes) else part.size for part in parts)
    if size > MAX_IMAGE:
        raise StorageError(f"the ramdisk would have {size} bytes, and Xen's tools load {MAX_IMAGE} at most: "
                           "name fewer images, or give the bundle as a disk")
    for part in parts:
        if isinstance(part, Image):
            bundle.check_there(part)
    directory, _, name = output.rpartition("/")
    with Target(directory or ("/" if output.startswith("/") else "."), overwrite=overwrite) as target:
        target.check_free(name)
        with target.file(name, size) as file:
            at = 0
            for part in parts:
                sink = _Part(file, at)
                if isinstance(part, bytes):
                    with memoryview(part) as view:
                        sink.data(0, view)
                    at += len(part)
                else:
                    bundle.copy_out(part, sink)
                    at += part.size
    return size


@dataclass(frozen=True, slots=True)
class _Part:
    """What stands at `base` of a file, as a Sink."""

    file: SparseFile
    base: int

    def data(self, offset: int, view: memoryview) -> None:
        self.file.data(self.base + offset, view)

    def zero(self, offset: int, length: int) -> None:
        self.file.zero(self.base + offset, length)


def _parts(bundle: Bundle, first: Image, chosen: Sequence[Image]) -> list[bytes | Image]:
    """What the file is made of, in order."""
    parts: list[bytes | Image] = [first, _padding(first.size), _head("xenpv", _FOLDER, 0, 1)]
    parts += [_head("xenpv/.index", _FILE, len(bundle.text), 2), bundle.text, _padding(len(bundle.text))]
    for number, image in enumerate(chosen, start=3):
        parts += [_head(f"xenpv/{image.name}", _FILE, image.size, number), image, _padding(image.size)]
    return [*parts, _head("TRAILER!!!", 0, 0, 0)]


def _padding(length: int) -> bytes:
    return bytes(-length % _UNIT)


def _head(name: str, mode: int, size: int, number: int) -> bytes:
    """The header of a file, its name, and zeros to where its bytes begin."""
    fields = (number, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, len(name) + 1, 0)
    head = b"070701" + b"".join(b"%08X" % field for field in fields) + name.encode("ascii") + b"\0"
    return head + _padding(len(head))
