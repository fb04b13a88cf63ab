"""The index of a boot bundle: its text, and the partition table that follows from it.

RULES

- parse() alone decides whether a text is an index, and what it gives out may be used unchecked: names are no paths,
  images lie within the bundle, apart from each other and from the tables.
- A number is bounded before anything is computed from it. All numbers are below 2**63.
- encode() and parse() are each other's inverse: one index has one text.
- What a signature and a digest cover is fixed by their place in the text, never by what the text says.

Source: docs/bundle.md, which gives every reason by the name that `Reason` has.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final
from uuid import UUID

from ..errors import BundleError
from .gpt import BACK_BYTES, ENTRIES, SECTOR, Partition, Table, tables

__all__ = [
    "BLOCK", "check_places", "check_settings", "CMDLINE_LENGTH", "DEFAULT_ALIGN", "DEFAULT_INDEX_SIZE", "encode",
    "HEAD_BYTES", "Image", "Index", "KIND_PATTERN", "KINDS", "MAX_IMAGES", "MAX_INDEX_SIZE", "MAX_TEXT",
    "MIN_INDEX_SIZE", "NAME_PATTERN", "parse", "partition_id", "partition_table", "Reason", "rounded",
    "SIGNATURE_CONTEXT", "signed_part", "SLOT_A", "slot_bytes", "slot_offset", "TAIL_BYTES", "text_length",
]

BLOCK: Final = 4096
"""Slots begin and images are padded to a multiple of this."""
SLOT_A: Final = 32768
"""Where the first slot begins, whatever the size of the index."""
DEFAULT_INDEX_SIZE: Final = 1 << 20
MIN_INDEX_SIZE: Final = 64 << 10
MAX_INDEX_SIZE: Final = 64 << 20
DEFAULT_ALIGN: Final = 1 << 20
MAX_ALIGN: Final = 1 << 30
MAX_IMAGES: Final = ENTRIES
MAX_TEXT: Final = 65536
"""Bytes of an index's text at the most: what a reader needs memory for."""
HEAD_BYTES: Final = 64
"""The first line of a text is shorter than this."""
TAIL_BYTES: Final = -(-BACK_BYTES // BLOCK) * BLOCK
"""What a writer leaves for the second partition table, so that a bundle is whole blocks."""
CMDLINE_LENGTH: Final = 2047
KINDS: Final = ("kernel", "ramdisk", "root", "data")
"""The kinds that have a meaning here; a reader takes any word."""
NAME_PATTERN: Final = r"[A-Za-z0-9][A-Za-z0-9._-]{0,35}"
KIND_PATTERN: Final = r"[a-z][a-z0-9-]{0,15}"
SIGNATURE_CONTEXT: Final = b"xenpv-bundle-signature 1\n"
"""What is signed begins with this, so that no signature made for another purpose fits."""

_MAJOR: Final = 1
_MINOR: Final = 0
_LIMIT: Final = 1 << 63
_HEAD = re.compile(rb"xenpv-bundle (?P<major>0|[1-9][0-9]{0,4})\.(?P<minor>0|[1-9][0-9]{0,4}) (?P<rest>[1-9][0-9]{0,8})\n")
_ASCII = re.compile(rb"[\n -~]*")
_NUMBER = re.compile(r"0|[1-9][0-9]{0,18}")
_HEX64 = re.compile(r"[0-9a-f]{64}")
_DIGEST_LINE: Final = len("digest ") + 64 + 1
_SIGNATURE_LINE: Final = len("signature ed25519 ") + 128 + 1
_EMPTY_SHA256: Final = hashlib.sha256().digest()


class Reason(StrEnum):
    """Why a bundle, a slot or an image is not right. docs/bundle.md explains each."""

    # the whole
    IO = "io"
    FOREIGN = "foreign"
    TOO_SHORT = "too-short"
    NO_INDEX = "no-index"
    CUT = "cut"
    # a slot
    SLOT_MAGIC = "slot-magic"
    SLOT_VERSION = "slot-version"
    SLOT_LENGTH = "slot-length"
    SLOT_DIGEST = "slot-digest"
    SLOT_OTHER = "slot-other"
    CHARACTER = "character"
    LINE = "line"
    LINE_MISSING = "line-missing"
    NUMBER = "number"
    INDEX_SIZE = "index-size"
    ALIGN = "align"
    SIZE = "size"
    ID = "id"
    CMDLINE = "cmdline"
    TOO_MANY = "too-many-images"
    NAME = "name"
    DUPLICATE = "duplicate"
    KIND = "kind"
    SHA256 = "sha256"
    UNALIGNED = "unaligned"
    OUTSIDE = "outside"
    OVERLAP = "overlap"
    EMPTY = "empty"
    # the tables
    MBR = "mbr"
    GPT_PRIMARY = "gpt-primary"
    GPT_BACKUP = "gpt-backup"
    # an image
    DIGEST = "digest"
    PADDING = "padding"
    # the signature
    UNSIGNED = "unsigned"
    SIGNATURE = "signature"


def rounded(length: int, unit: int = BLOCK) -> int:
    """`length`, rounded up to a multiple of `unit`."""
    return -(-length // unit) * unit


@dataclass(frozen=True, slots=True)
class Image:
    """One image: `size` bytes from byte `offset` of the bundle. An empty one has offset 0."""

    name: str
    kind: str
    size: int
    offset: int
    sha256: bytes

    @property
    def end(self) -> int:
        """Where its partition ends: what follows its last byte, up to here, is zero."""
        return self.offset + rounded(self.size)


@dataclass(frozen=True, slots=True)
class Index:
    """What the index says. `size`: bytes of the whole bundle, tables included. `created`: seconds since 1970."""

    size: int
    images: tuple[Image, ...] = ()
    cmdline: str | None = None
    index_size: int = DEFAULT_INDEX_SIZE
    align: int = DEFAULT_ALIGN
    generation: int = 1
    created: int | None = None
    minor: int = 0
    """The minor version that it was read in; what lines a newer one had is lost here."""

    @property
    def id(self) -> UUID:
        """The bundle's id: the same for the same images and command line, wherever they lie."""
        lines = [f"image {each.name} {each.kind} {each.size} {each.sha256.hex()}\n" for each in self.images]
        if self.cmdline is not None:
            lines.append(f"cmdline {self.cmdline}\n")
        return _uuid("xenpv-bundle-id 1\n" + "".join(lines))

    def image(self, name: str) -> Image | None:
        """The image of this name."""
        return next((each for each in self.images if each.name == name), None)

    def placed(self) -> list[Image]:
        """The images that have bytes, as they follow each other."""
        return sorted((each for each in self.images if each.size), key=lambda each: each.offset)


def _uuid(text: str) -> UUID:
    """A version 8 UUID (RFC 9562, 5.8) from the SHA-256 of `text`."""
    value = int.from_bytes(hashlib.sha256(text.encode("ascii")).digest()[:16], "big")
    value &= ~(0xF << 76) & ~(0x3 << 62)
    return UUID(int=value | 0x8 << 76 | 0x2 << 62)


def partition_id(bundle: UUID, name: str) -> UUID:
    """The id of an image's partition: what root=PARTUUID= takes."""
    return _uuid(f"xenpv-partition-id 1\n{bundle}\n{name}\n")


def partition_table(index: Index) -> Table:
    """Both copies of the partition table that follows from `index`."""
    identity = index.id
    return tables(index.size, index.index_size, identity, [
        Partition(partition_id(identity, each.name), each.offset, rounded(each.size), each.name)
        for each in index.placed()])


def slot_bytes(index_size: int) -> int:
    """Bytes of each slot in an index of `index_size` bytes."""
    return (index_size - SLOT_A) // 2 // BLOCK * BLOCK


def slot_offset(slot: int, index_size: int) -> int:
    """Where slot 0 or 1 begins."""
    return SLOT_A + slot * slot_bytes(index_size)


# --- to text --------------------------------------------------------------------------------------------------------

def encode(index: Index, sign: Callable[[bytes], bytes] | None = None) -> bytes:
    """The text of `index`. `sign` gives the 64 bytes of an Ed25519 signature for what it is given."""
    lines = [f"index-size {index.index_size}", f"align {index.align}", f"size {index.size}",
             f"generation {index.generation}", f"id {index.id}"]
    if index.created is not None:
        lines.append(f"created {index.created}")
    if index.cmdline is not None:
        lines.append(f"cmdline {index.cmdline}")
    lines += [f"image {each.name} {each.kind} {each.size} {each.offset} {each.sha256.hex()}" for each in index.images]
    body = "".join(f"{line}\n" for line in lines).encode("ascii")
    rest = len(body) + _DIGEST_LINE + (_SIGNATURE_LINE if sign else 0)
    text = b"xenpv-bundle %d.%d %d\n%s" % (_MAJOR, _MINOR, rest, body)
    if sign:
        text += b"signature ed25519 %s\n" % sign(SIGNATURE_CONTEXT + text).hex().encode("ascii")
    return text + b"digest %s\n" % hashlib.sha256(text).hexdigest().encode("ascii")


def signed_part(text: bytes) -> tuple[bytes, bytes] | None:
    """What a signature has to cover in a text that parse() took, and the signature; None when there is none."""
    start = len(text) - _DIGEST_LINE - _SIGNATURE_LINE
    signature = text[max(0, start):-_DIGEST_LINE]
    if not signature.startswith(b"signature ed25519 ") or text[start - 1:start] != b"\n":
        return None
    return SIGNATURE_CONTEXT + text[:-_DIGEST_LINE - _SIGNATURE_LINE], bytes.fromhex(signature[-129:-1].decode("ascii"))


# --- from text ------------------------------------------------------------------------------------------------------

def text_length(head: bytes) -> int:
    """Bytes of the text whose first HEAD_BYTES (or more) are `head`. Raises BundleError."""
    if not head.startswith(b"xenpv-bundle "):
        raise BundleError("there is no index here", Reason.SLOT_MAGIC)
    found = _HEAD.match(head[:HEAD_BYTES])
    if not found:
        raise BundleError("the first line is not `xenpv-bundle MAJOR.MINOR LENGTH`", Reason.LINE)
    if int(found["major"]) != _MAJOR:
        raise BundleError(f"version {int(found['major'])}.{int(found['minor'])} of the format is not known here, "
                          f"{_MAJOR}.{_MINOR} is: use the xenpv that made it", Reason.SLOT_VERSION)
    length = found.end() + int(found["rest"])
    if not found.end() + _DIGEST_LINE < length <= MAX_TEXT:
        raise BundleError(f"a text of {length} bytes cannot be: at most {MAX_TEXT}", Reason.SLOT_LENGTH)
    return length


def parse(text: bytes) -> Index:
    """The index in a whole text, of the length that text_length() gave. Raises BundleError with the reason."""
    if len(text) != text_length(text):
        raise BundleError(f"the text has {len(text)} bytes, not what its first line says", Reason.SLOT_LENGTH)
    covered, last = text[:-_DIGEST_LINE], text[-_DIGEST_LINE:]
    if last != b"digest %s\n" % hashlib.sha256(covered).hexdigest().encode("ascii"):
        raise BundleError("its SHA-256 is not the one it says", Reason.SLOT_DIGEST)
    if not _ASCII.fullmatch(covered):
        raise BundleError("only printable ASCII may be in it", Reason.CHARACTER)
    if not covered.endswith(b"\n"):
        raise BundleError("the line before the digest does not end", Reason.LINE)
    lines = covered.decode("ascii").splitlines()
    minor = int(lines[0].split(" ")[1].partition(".")[2])
    return replace(_checked(_fields(lines[1:], minor > _MINOR)), minor=minor)


_ORDER: Final = ("index-size", "align", "size", "generation", "id", "created", "cmdline", "image", "signature")
_NEEDED: Final = _ORDER[:5]


def _fields(lines: Iterable[str], newer: bool) -> dict[str, list[str]]:
    """The values of each keyword. Lines of a newer minor version that are not known are passed over."""
    found: dict[str, list[str]] = {}
    place = 0
    for line in lines:
        keyword, _, value = line.partition(" ")
        if keyword not in _ORDER:
            if newer and re.fullmatch(KIND_PATTERN, keyword):
                continue
            raise BundleError(f"a line {_shown(line)} has no meaning", Reason.LINE)
        at = _ORDER.index(keyword)
        if at < place or at == place and keyword in found and keyword != "image":
            raise BundleError(f"the line {_shown(line)} is not in its place", Reason.LINE)
        place = at
        found.setdefault(keyword, []).append(value)
    missing = [keyword for keyword in _NEEDED if keyword not in found]
    if missing:
        raise BundleError(f"there is no line `{missing[0]}`", Reason.LINE_MISSING)
    return found


def _checked(found: Mapping[str, list[str]]) -> Index:
    index_size, align, size = (_number(found[key][0], key) for key in ("index-size", "align", "size"))
    check_settings(index_size, align)
    if size < index_size + BACK_BYTES or size % SECTOR:
        raise BundleError(f"a bundle of {size} bytes cannot be: whole sectors, with room for the index and the second "
                          "partition table", Reason.SIZE)
    rows = found.get("image", [])
    if len(rows) > MAX_IMAGES:
        raise BundleError(f"{len(rows)} images: at most {MAX_IMAGES}", Reason.TOO_MANY)
    index = Index(size=size, index_size=index_size, align=align, images=tuple(_image(row) for row in rows),
                  generation=_number(found["generation"][0], "generation"),
                  created=_number(found["created"][0], "created") if "created" in found else None)
    if "cmdline" in found:
        index = replace(index, cmdline=_cmdline(found["cmdline"][0]))
    if "signature" in found and not re.fullmatch("ed25519 [0-9a-f]{128}", found["signature"][0]):
        raise BundleError("the line `signature` is not `signature ed25519` and 128 hexadecimal digits", Reason.SIGNATURE)
    check_places(index)
    if found["id"][0] != str(index.id):
        raise BundleError(f"its id is {_shown(found['id'][0])} and has to be {index.id}", Reason.ID)
    return index


def check_settings(index_size: int, align: int) -> None:
    """Raises BundleError (``index-size``, ``align``) when no bundle has an index of this size, or this alignment."""
    if not MIN_INDEX_SIZE <= index_size <= MAX_INDEX_SIZE or index_size % BLOCK:
        raise BundleError(f"an index of {index_size} bytes cannot be: {MIN_INDEX_SIZE} to {MAX_INDEX_SIZE}, a multiple of "
                          f"{BLOCK}", Reason.INDEX_SIZE)
    if not BLOCK <= align <= MAX_ALIGN or align & (align - 1):
        raise BundleError(f"an alignment of {align} bytes cannot be: a power of two from {BLOCK} to {MAX_ALIGN}",
                          Reason.ALIGN)


def _shown(text: str) -> str:
    return repr(text[:60])


def _number(text: str, what: str) -> int:
    if not _NUMBER.fullmatch(text) or int(text) >= _LIMIT:
        raise BundleError(f"{what} {_shown(text)} is no number below 2^63", Reason.NUMBER)
    return int(text)


def _cmdline(text: str) -> str:
    if not 1 <= len(text) <= CMDLINE_LENGTH:
        raise BundleError(f"a command line of {len(text)} characters cannot be: 1 to {CMDLINE_LENGTH}", Reason.CMDLINE)
    return text


def _image(row: str) -> Image:
    parts = row.split(" ")
    if len(parts) != 5:
        raise BundleError(f"the line `image {_shown(row)}` is not NAME KIND SIZE OFFSET SHA256", Reason.LINE)
    name, kind, size, offset, sha256 = parts
    if not re.fullmatch(NAME_PATTERN, name):
        raise BundleError(f"the name {_shown(name)} cannot be: letters, digits and . _ -, at most 36, the first no sign",
                          Reason.NAME)
    if not re.fullmatch(KIND_PATTERN, kind):
        raise BundleError(f"{name}: the kind {_shown(kind)} is no word", Reason.KIND)
    if not _HEX64.fullmatch(sha256):
        raise BundleError(f"{name}: {_shown(sha256)} is no SHA-256 of 64 hexadecimal digits", Reason.SHA256)
    return Image(name, kind, _number(size, f"{name}: size"), _number(offset, f"{name}: offset"), bytes.fromhex(sha256))


def check_places(index: Index) -> None:
    """Names differ, images lie within the bundle and apart. Raises BundleError."""
    names: set[str] = set()
    for each in index.images:
        if each.name.lower() in names:
            raise BundleError(f"two images are called {each.name} (upper and lower case are the same)", Reason.DUPLICATE)
        names.add(each.name.lower())
        if not each.size:
            if each.offset or each.sha256 != _EMPTY_SHA256:
                raise BundleError(f"{each.name} is empty, and has an offset or a SHA-256 that is not of nothing",
                                  Reason.EMPTY)
        elif each.offset % index.align:
            raise BundleError(f"{each.name} begins at {each.offset}, no multiple of {index.align}", Reason.UNALIGNED)
        elif each.offset < index.index_size or each.size > index.size - BACK_BYTES - each.offset \
                or each.end > index.size - BACK_BYTES:
            raise BundleError(f"{each.name}, {each.size} bytes at {each.offset}, is not between the index and the second "
                              f"partition table of a bundle of {index.size} bytes", Reason.OUTSIDE)
    placed = index.placed()
    for before, after in zip(placed, placed[1:], strict=False):
        if before.end > after.offset:
            raise BundleError(f"{before.name} and {after.name} overlap", Reason.OVERLAP)
