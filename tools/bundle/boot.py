"""What a guest boots with from a bundle: its kernel, its ramdisk, its command line; and their copies for the toolstack.

RULES

- A copy is handed out when the SHA-256 of the very bytes that were written is right, and not before.
- A path that is handed out is of a new file, private to us, in the directory that the caller named: the toolstack unlinks
  what it is told.
- The command line names the root by its partition's id, which follows from the bundle's content, and the bundle by its id.

Source: xl.cfg(5), bootloader=; MAX_GUEST_CMDLINE of xen/include/public/xen.h: a longer one is cut there in silence.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from tempfile import TemporaryDirectory
from typing import Final

from xenpv.closing import Closing
from xenpv.errors import BundleError, StorageError, UsageError
from xenpv.wire.bundle import Image, Reason

from ..config import DomainConfig
from ..session import Session
from ..vbds import Attachment
from .extract import SparseFile
from .reader import Bundle, open_bundle

__all__ = ["Boot", "booted", "choose", "Copies", "MAX_CMDLINE", "MAX_IMAGE"]

MAX_CMDLINE: Final = 1023
"""Bytes of a PV guest's command line."""
MAX_IMAGE: Final = 1 << 30
"""Bytes that libxenguest takes as a kernel or a ramdisk (XC_DOM_DECOMPRESS_MAX)."""

_BOOTS: Final = frozenset({"kernel", "bootloader", "firmware"})
"""Keys of xl's configuration that say what a guest boots."""


@dataclass(frozen=True, slots=True)
class Boot:
    """What a guest boots with."""

    kernel: Image
    ramdisk: Image | None
    cmdline: str


def choose(bundle: Bundle, *, kernel: str = "", ramdisk: str = "", arguments: str = "") -> Boot:
    """The images of these names, or the first ones of their kinds; the bundle's command line, then `arguments`.

    Raises UsageError for a name or arguments that cannot be, StorageError for a bundle that cannot be booted.
    """
    found = bundle.image(kernel) if kernel else bundle.first("kernel")
    if found is None:
        raise StorageError(f"{bundle.source.name} has no image of the kind kernel: `xenpv bundle add` puts one in")
    disk = bundle.image(ramdisk) if ramdisk else bundle.first("ramdisk")
    for image in (found, disk):
        if image is not None and not 0 < image.size <= MAX_IMAGE:
            raise StorageError(f"{image.name} has {image.size} bytes: a {image.kind} has 1 to {MAX_IMAGE}")
    return Boot(found, disk, _cmdline(bundle, arguments))


def _cmdline(bundle: Bundle, arguments: str) -> str:
    if not arguments.isprintable():
        raise UsageError(f"the arguments {arguments!r} are no kernel command line: only printable text can be")
    words = [*(bundle.cmdline or "").split(), *arguments.split()]
    words = [_by_id(bundle, word) for word in words]
    root = bundle.first("root")
    if root is not None and root.size and not any(word.startswith("root=") for word in words):
        words.insert(0, f"root=PARTUUID={bundle.partition_id(root)}")
    words.append(f"xenpv.bundle={bundle.id}")
    line = " ".join(words)
    if len(line.encode()) > MAX_CMDLINE:
        raise StorageError(f"the command line has {len(line.encode())} bytes, and a PV guest's {MAX_CMDLINE} at most: "
                           "make it shorter")
    return line


def _by_id(bundle: Bundle, word: str) -> str:
    """A label that is an image's is made its partition's id: labels may be on other disks too, and the first one wins."""
    name = word.removeprefix("root=PARTLABEL=")
    image = None if name == word else bundle.index.image(name)
    return word if image is None else f"root=PARTUUID={bundle.partition_id(image)}"


class Copies(Closing):
    """The copies of a kernel and a ramdisk, in files of their own in `directory`. Raises StorageError.

    The files are made at once, empty; fill() may come when this process has fewer rights. close() removes them, unless
    keep() was said.
    """

    def __init__(self, directory: str) -> None:
        self._files: dict[str, tuple[int, str]] = {}
        self._filled: set[str] = set()
        self._kept: frozenset[str] = frozenset()
        try:
            for what in ("kernel", "ramdisk"):
                self._files[what] = tempfile.mkstemp(prefix=f"xenpv-{what}.", dir=os.path.abspath(directory))
        except OSError as error:
            self.close()
            raise StorageError(f"cannot write to {directory}: {error.strerror}") from error

    def fill(self, bundle: Bundle, boot: Boot) -> tuple[str, str | None]:
        """The paths of the kernel and the ramdisk, whole and right. Raises StorageError, BundleError."""
        kernel = self._fill(bundle, "kernel", boot.kernel)
        return kernel, None if boot.ramdisk is None else self._fill(bundle, "ramdisk", boot.ramdisk)

    def _fill(self, bundle: Bundle, what: str, image: Image) -> str:
        fd, path = self._files[what]
        bundle.check_there(image)
        try:
            os.ftruncate(fd, image.size)
        except OSError as error:
            raise StorageError(f"cannot write {path}: {error.strerror}") from error
        bundle.copy_out(image, SparseFile(fd, path))
        self._filled.add(what)
        return path

    def keep(self) -> None:
        """The toolstack knows of what was filled: it removes it."""
        self._kept = frozenset(self._filled)

    def close(self) -> None:
        files, self._files = self._files, {}
        for what, (fd, path) in files.items():
            if what not in self._kept:
                with suppress(OSError):
                    os.ftruncate(fd, 0)
                # With fewer rights the name has to stay, empty: the directory is the toolstack's, which removes it.
                with suppress(OSError):
                    os.unlink(path)
            os.close(fd)


@contextmanager
def booted(session: Session, config: DomainConfig, disks: Sequence[Attachment]) -> Iterator[list[str]]:
    """Assignments for xl's configuration that boot the guest from its first disk, if that is a bundle and nothing else does.

    The copies that they name are there until the context ends. Raises UsageError, StorageError, BundleError.
    """
    with ExitStack() as stack:
        bundle = None
        if disks and disks[0].backend_domid == 0 and not _BOOTS.intersection(config.ignored):
            bundle = _bundle_or_none(disks[0].target)
        if bundle is None:
            yield []
            return
        stack.enter_context(bundle)
        boot = choose(bundle, arguments=config.cmdline)
        copies = stack.enter_context(Copies(stack.enter_context(TemporaryDirectory(prefix="xenpv-boot-"))))
        kernel, ramdisk = copies.fill(bundle, boot)
        session.say(f"{config.name} boots from the bundle {bundle.id} in {disks[0].target}")
        values = {"kernel": kernel, "ramdisk": ramdisk, "cmdline": boot.cmdline}
        yield [f'{key}="{_quoted(value)}"' for key, value in values.items() if value is not None]


def _bundle_or_none(path: str) -> Bundle | None:
    try:
        return open_bundle(path)
    except BundleError as error:
        if error.reason in (Reason.NO_INDEX, Reason.TOO_SHORT, Reason.FOREIGN):
            return None
        raise


def _quoted(text: str) -> str:
    """For a text in double quotes in xl's configuration, which may not hold one (libxlu_cfg_l.l, xlu__cfgl_dequote)."""
    return text.replace("\\", "\\\\").replace('"', "\\x22")
