"""What an image is packed in, from its first bytes: so that nobody boots from a qcow2 file and wonders."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

__all__ = ["PROBE_BYTES", "Packing", "packing_of"]

PROBE_BYTES: Final = 512


@dataclass(frozen=True, slots=True)
class Packing:
    """A format that is no raw image. `compressed`: a kernel or a ramdisk may well come in it."""

    name: str
    mend: str
    compressed: bool


_MAGICS: Final = (
    (b"\x3a\xff\x26\xed", Packing("an Android sparse image", "unpack it with `simg2img IN OUT`", False)),
    (b"QFI\xfb", Packing("a qcow2 image", "convert it with `qemu-img convert -O raw IN OUT`", False)),
    (b"KDMV", Packing("a VMDK image", "convert it with `qemu-img convert -O raw IN OUT`", False)),
    (b"conectix", Packing("a VHD image", "convert it with `qemu-img convert -O raw IN OUT`", False)),
    (b"vhdxfile", Packing("a VHDX image", "convert it with `qemu-img convert -O raw IN OUT`", False)),
    (b"\x1f\x8b", Packing("gzip", "unpack it with `gunzip`", True)),
    (b"\xfd7zXZ\0", Packing("xz", "unpack it with `unxz`", True)),
    (b"\x28\xb5\x2f\xfd", Packing("zstd", "unpack it with `unzstd`", True)),
    (b"BZh", Packing("bzip2", "unpack it with `bunzip2`", True)),
)


def packing_of(head: bytes) -> Packing | None:
    """What the first PROBE_BYTES of an image say, or None: as far as can be seen it is raw."""
    return next((packing for magic, packing in _MAGICS if head.startswith(magic)), None)
