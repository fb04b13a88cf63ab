"""What goes into a bundle: images named on the command line or in a manifest, opened and looked at before anything is written.

RULES

- Nobody types a size: it is the file's.
- What is packed in another format is named, and refused where a guest could not use it.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from xenpv.errors import UsageError
from xenpv.wire.bundle import CMDLINE_LENGTH, KIND_PATTERN, KINDS, MAX_IMAGES, NAME_PATTERN

from .formats import PROBE_BYTES, packing_of
from .source import FileSource, Source, read

__all__ = ["Input", "Manifest", "Wanted", "check_cmdline", "check_names", "opened", "parse_image", "read_manifest"]

_IMAGE = re.compile(rf"(?:(?P<kind>{'|'.join(KINDS)}):)?(?:(?P<name>[^=/]*)=)?(?P<path>.+)", re.DOTALL)
_KEYS: Final = {"name", "kind", "file"}


@dataclass(frozen=True, slots=True)
class Wanted:
    """An image that shall be packed. `kind` None: what the name says, or what the image it replaces was."""

    name: str
    kind: str | None
    path: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """A file that names what a bundle is made of."""

    images: tuple[Wanted, ...]
    cmdline: str | None


@dataclass(frozen=True, slots=True)
class Input:
    """An image to be packed, open."""

    name: str
    kind: str
    source: Source


def parse_image(text: str) -> Wanted:
    """``[KIND:][NAME=]FILE``; the name is the file's when it is left out. Raises UsageError."""
    found = _IMAGE.fullmatch(text)
    if not found:
        raise UsageError(f"{text!r} names no image: want [KIND:][NAME=]FILE")
    name = found["name"] if found["name"] is not None else Path(found["path"]).name
    return Wanted(_check_name(name), found["kind"], found["path"])


def _check_name(name: str) -> str:
    if not re.fullmatch(NAME_PATTERN, name):
        raise UsageError(f"{name!r} cannot be an image's name: letters, digits and . _ -, at most 36, the first a letter "
                         "or digit; NAME=FILE gives it another one")
    return name


def read_manifest(path: str) -> Manifest:
    """A TOML file: `cmdline` and tables `[[image]]` with name, file and kind; files are relative to it. Raises UsageError."""
    try:
        with open(path, "rb") as file:
            content = tomllib.load(file)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(f"{path} is no TOML: {error}") from error
    cmdline, rows = content.pop("cmdline", None), content.pop("image", [])
    if content or not isinstance(cmdline, str | None) or not isinstance(rows, list):
        raise UsageError(f"{path}: it may have `cmdline`, a text, and tables [[image]], and nothing else")
    return Manifest(tuple(_row(path, row) for row in rows), cmdline)


def _row(path: str, row: Any) -> Wanted:
    if not isinstance(row, dict) or not row.keys() <= _KEYS or "file" not in row \
            or not all(isinstance(value, str) for value in row.values()):
        raise UsageError(f"{path}: an [[image]] has `file`, and may have `name` and `kind`, all texts")
    kind = row.get("kind")
    if kind is not None and not re.fullmatch(KIND_PATTERN, kind):
        raise UsageError(f"{path}: {kind!r} is no kind: want {', '.join(KINDS)} or another word in lower case")
    return Wanted(_check_name(row.get("name", Path(row["file"]).name)), kind, str(Path(path).parent / row["file"]))


def check_cmdline(text: str | None) -> None:
    """Raises UsageError when `text` is no kernel command line."""
    if text is not None and (not 1 <= len(text) <= CMDLINE_LENGTH or not text.isascii() or not text.isprintable()):
        raise UsageError(f"a command line is 1 to {CMDLINE_LENGTH} characters of printable ASCII")


def check_names(names: Sequence[str]) -> None:
    """Raises UsageError when two are the same, upper or lower case, or there are too many."""
    seen: set[str] = set()
    for name in names:
        if name.lower() in seen:
            raise UsageError(f"two images are called {name} (upper and lower case are the same): NAME=FILE gives one "
                             "another name")
        seen.add(name.lower())
    if len(names) > MAX_IMAGES:
        raise UsageError(f"{len(names)} images: a bundle has {MAX_IMAGES} at most")


@contextmanager
def opened(wanted: Sequence[Wanted], *, force: bool, say: Callable[[str], None],
           kinds: dict[str, str] | None = None) -> Iterator[list[Input]]:
    """The images, open and looked at. `kinds`: what images of these names were. Raises UsageError, StorageError."""
    with ExitStack() as stack:
        found = []
        for each in wanted:
            source = stack.enter_context(FileSource(each.path))
            kind = each.kind or (kinds or {}).get(each.name) or (each.name if each.name in KINDS else "data")
            _look(each.name, kind, source, force, say)
            found.append(Input(each.name, kind, source))
        yield found


def _look(name: str, kind: str, source: FileSource, force: bool, say: Callable[[str], None]) -> None:
    packing = packing_of(read(source, 0, min(PROBE_BYTES, source.size)))
    source.bytes_read = 0
    if packing is None or packing.compressed and kind in ("kernel", "ramdisk"):
        return
    if not force and (kind == "root" or not packing.compressed):
        raise UsageError(f"{name}: {source.name} is {packing.name}, which a guest cannot use: {packing.mend}, or -f packs "
                         "it as it is")
    say(f"{name}: {source.name} is {packing.name}, and is packed as it is")
