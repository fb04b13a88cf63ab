"""Makes the malformed bundles beside it: `python -m tests.corpus.bundle.make`. A test holds that they are what it makes.

Each is a hexadecimal dump without its zeros, which `xxd -r NAME.xxd NAME && truncate -s SIZE NAME` turns into the file.
MANIFEST has a row for each: name, size in bytes, the reason by which docs/bundle.md calls what is wrong (`-`: nothing),
and why.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from tests.support.bundles import SMALL, bundle, opened, put
from xenpv.wire.bundle import (BLOCK, SLOT_A, Image, Index, Reason, encode, partition_table, rounded, slot_offset)
from xenpv.wire.gpt import BACK_BYTES

HERE = Path(__file__).parent
IMAGES = {"kernel": b"a kernel\n", "root": b"a root file system\n" * 3, "empty": b""}
B = slot_offset(1, SMALL.index_size)


def good() -> bytearray:
    return bundle(IMAGES)


def digested(text: bytes) -> bytes:
    """`text`, whose last line is the digest, with the length and the digest made right."""
    first, _, rest = text.partition(b"\n")
    body = rest[:rest.rindex(b"digest ")]
    first = b" ".join([*first.split(b" ")[:2], b"%d" % (len(body) + 72)]) + b"\n"
    return first + body + b"digest %s\n" % hashlib.sha256(first + body).hexdigest().encode()


def with_texts(data: bytearray, first: bytes, second: bytes | None = None) -> bytearray:
    """Other texts in the slots; the same in both when there is one."""
    for offset, text in ((SLOT_A, first), (B, first if second is None else second)):
        room = max(rounded(len(text)), BLOCK)
        put(data, offset, text.ljust(room, b"\0"))
    return data


def edited(*changes: tuple[bytes, bytes], digest: bool = True) -> bytearray:
    """The good bundle with its text changed, and the digest made right again."""
    data = good()
    text = opened(data).text
    for old, new in changes:
        assert text.count(old) >= 1, old
        text = text.replace(old, new, 1)
    return with_texts(data, digested(text) if digest else text)


def reindexed(change: Callable[[Index], Index]) -> bytearray:
    """The good bundle with another index, as a writer without checks would write it, partition tables too."""
    data = good()
    index = change(opened(data).index)
    table = partition_table(index)
    put(data, 0, table.front)
    put(data, max(index.size - BACK_BYTES, 0), table.back)
    return with_texts(data, encode(index))


def images(index: Index, **changes: dict[str, object]) -> Index:
    """Other fields of images, by name."""
    return replace(index, images=tuple(replace(each, **changes.get(each.name, {}))  # type: ignore[arg-type]
                                       for each in index.images))


def flipped(offset: int, data: bytearray | None = None) -> bytearray:
    data = good() if data is None else data
    data[offset] ^= 1
    return data


def many() -> bytearray:
    nothing = hashlib.sha256().digest()
    index = replace(SMALL, size=len(good()), images=tuple(Image(f"i{n}", "data", 0, 0, nothing) for n in range(129)))
    return put_one(good(), encode(index))


def put_one(data: bytearray, text: bytes) -> bytearray:
    """`text` in slot A, and nothing in slot B."""
    data[SLOT_A:SLOT_A + 2 * (B - SLOT_A)] = text.ljust(2 * (B - SLOT_A), b"\0")
    return data


def ends_in_the_text() -> bytearray:
    nothing = hashlib.sha256().digest()
    index = replace(SMALL, size=len(good()), images=tuple(Image(f"i{n}", "data", 0, 0, nothing) for n in range(60)))
    return put_one(good(), encode(index))[:SLOT_A + BLOCK]


def older(data: bytearray) -> bytearray:
    index = opened(data).index
    return with_texts(data, encode(replace(index, generation=2)), encode(index))


def other_size() -> bytearray:
    data = good()
    index = opened(data).index
    return with_texts(data, encode(index), encode(replace(index, index_size=index.index_size + BLOCK,
                                                          images=(), size=index.size)))


ROW = rb"image root root 57 69632 "


def cases() -> Iterator[tuple[str, bytearray, str, str]]:
    """Name, bytes, reason (empty: it is right) and why."""
    yield "good", good(), "", "nothing is wrong with it"
    yield "newer-minor-version", edited((b"bundle 1.0 ", b"bundle 1.7 "), (b"image kernel", b"colour blue\nimage kernel")), \
        "", "a line that version 1.7 may have is passed over"
    yield "trailing-bytes", good() + bytearray(b"more\n" * 100), "", "a device is larger than what was written to it"
    yield "gzip", bytearray(b"\x1f\x8b\x08\0" + bytes(70000)), Reason.FOREIGN, "the bundle was compressed"
    yield "android-sparse", bytearray(b"\x3a\xff\x26\xed" + bytes(70000)), Reason.FOREIGN, "it is an Android sparse image"
    yield "short", good()[:4096], Reason.TOO_SHORT, "it ends before the first slot"
    yield "zeros", bytearray(len(good())), Reason.NO_INDEX, "there is no index at all"
    yield "table-only", put_one(good(), b""), Reason.NO_INDEX, "a partition table, and both slots empty"
    yield "cut-in-an-image", good()[:70000], Reason.CUT, "it ends in an image"
    yield "cut-in-the-index", good()[:SLOT_A + 2 * BLOCK], Reason.CUT, "it ends before the second slot"
    yield "cut-in-the-text", ends_in_the_text(), Reason.IO, "it ends in the text of the only slot"
    yield "slot-a-gone", put_one(good(), b"")[:SLOT_A] + bytes(B - SLOT_A) + good()[B:], Reason.SLOT_MAGIC, \
        "the first slot is empty, the second one is whole"
    yield "slot-a-torn", flipped(SLOT_A + 100), Reason.SLOT_DIGEST, "a bit of the first slot is another one"
    yield "slot-b-torn", flipped(B + 100), Reason.SLOT_DIGEST, "a bit of the second slot is another one"
    yield "slots-differ", older(good()), Reason.SLOT_OTHER, "a change was interrupted between the slots"
    yield "slot-b-other-index-size", other_size(), Reason.SLOT_OTHER, "the second slot is of an index of another size"
    yield "version-2", edited((b"bundle 1.0", b"bundle 2.0")), Reason.SLOT_VERSION, "a major version that is not known"
    yield "version-0", edited((b"bundle 1.0", b"bundle 0.9")), Reason.SLOT_VERSION, "a major version that never was"
    yield "head-not-a-number", edited((b"bundle 1.0 ", b"bundle 1.x "), digest=False), Reason.LINE, \
        "no number in the first line"
    yield "length-too-large", edited((b"bundle 1.0 ", b"bundle 1.0 99"), digest=False), Reason.SLOT_LENGTH, \
        "a length beyond the greatest"
    yield "length-other", edited((b"bundle 1.0 ", b"bundle 1.0 1"), digest=False), Reason.SLOT_DIGEST, \
        "a length that ends behind the text"
    yield "length-tiny", edited((re.search(rb"1\.0 \d+\n", opened(good()).text)[0], b"1.0 7\n"),  # type: ignore[index]
                                digest=False), Reason.SLOT_LENGTH, "a length with no room for the digest"
    yield "digest-wrong", edited((b"digest ", b"digest 0"), digest=False), Reason.SLOT_DIGEST, "a digest of another text"
    yield "digest-upper-case", upper(good()), Reason.SLOT_DIGEST, "a digest in capital letters"
    yield "control-character", edited((b"hvc0 ro", b"hvc0\x1b[2J")), Reason.CHARACTER, "an escape sequence in the command line"
    yield "nul", edited((b"hvc0 ro", b"hvc0\0ro")), Reason.CHARACTER, "a zero byte in the command line"
    yield "not-ascii", edited((b"hvc0 ro", b"hvc0\xc3\xa9")), Reason.CHARACTER, \
        "a letter beyond ASCII in the command line"
    yield "carriage-return", edited((b"hvc0 ro\n", b"hvc0 ro\r\n")), Reason.CHARACTER, "lines that end as on Windows"
    yield "no-line-end", edited((b"digest ", b"x"), (b"\nx", b"xdigest ")), Reason.LINE, \
        "the line before the digest does not end"
    yield "unknown-line", edited((b"image kernel", b"colour blue\nimage kernel")), Reason.LINE, "a line without a meaning"
    yield "empty-line", edited((b"image kernel", b"\nimage kernel")), Reason.LINE, "an empty line"
    yield "order", edited((b"align 4096\n", b""), (b"id ", b"align 4096\nid ")), Reason.LINE, "lines in another order"
    yield "twice", edited((b"align 4096\n", b"align 4096\nalign 8192\n")), Reason.LINE, "two lines `align`"
    yield "image-fields", edited((ROW, ROW + b"more ")), Reason.LINE, "an image with a sixth field"
    yield "image-two-spaces", edited((b"image root root", b"image root  root")), Reason.LINE, "two spaces between fields"
    yield "no-id", edited((b"id " + str(opened(good()).id).encode() + b"\n", b"")), Reason.LINE_MISSING, "no line `id`"
    yield "no-align", edited((b"align 4096\n", b"")), Reason.LINE_MISSING, "no line `align`"
    yield "number-negative", edited((b"57 69632", b"-57 69632")), Reason.NUMBER, "a size below zero"
    yield "number-hexadecimal", edited((b"57 69632", b"0x39 69632")), Reason.NUMBER, "a size in hexadecimal"
    yield "number-leading-zero", edited((b"57 69632", b"057 69632")), Reason.NUMBER, "a size with a zero before it"
    yield "number-2-63", edited((b"57 69632", b"9223372036854775808 69632")), Reason.NUMBER, "a size of 2^63"
    yield "number-100-digits", edited((b"57 69632", b"9" * 100 + b" 69632")), Reason.NUMBER, "a size of 100 digits"
    yield "generation-not-a-number", edited((b"generation 1", b"generation one")), Reason.NUMBER, "a generation in words"
    yield "index-size-odd", edited((b"index-size 65536", b"index-size 65537")), Reason.INDEX_SIZE, "no multiple of 4096"
    yield "index-size-small", edited((b"index-size 65536", b"index-size 32768")), Reason.INDEX_SIZE, "no room for slots"
    yield "index-size-huge", edited((b"index-size 65536", b"index-size 1099511627776")), Reason.INDEX_SIZE, \
        "a tebibyte of index"
    yield "align-odd", edited((b"align 4096", b"align 5000")), Reason.ALIGN, "no power of two"
    yield "align-zero", edited((b"align 4096", b"align 0")), Reason.ALIGN, "an alignment of nothing"
    yield "size-small", edited((b"\nsize 94208", b"\nsize 65536")), Reason.SIZE, "no room for the second partition table"
    yield "size-odd", edited((b"\nsize 94208", b"\nsize 94209")), Reason.SIZE, "half a sector"
    yield "id-wrong", edited((b"\nid ", b"\nid 0")), Reason.ID, "an id that does not follow from the images"
    yield "id-of-others", edited((b"hvc0 ro", b"hvc0 rw")), Reason.ID, "another command line, and the id not made anew"
    yield "cmdline-empty", edited((b"cmdline console=hvc0 ro", b"cmdline ")), Reason.CMDLINE, "an empty command line"
    yield "cmdline-long", edited((b"cmdline ", b"cmdline " + b"x" * 2048)), Reason.CMDLINE, "a command line beyond 2047"
    yield "129-images", many(), Reason.TOO_MANY, "more images than the partition table has entries"
    for name, text in {"slash": b"../../etc/passwd", "dot": b".profile", "dash": b"-rf", "colon": b"c:", "long": b"a" * 37,
                       "empty": b"", "tilde": b"~root", "quote": b"$(reboot)"}.items():
        yield f"name-{name}", edited((b"image root ", b"image " + text + b" ")), Reason.NAME, f"the name {text.decode()!r}"
    yield "name-twice", edited((b"image root ", b"image kernel ")), Reason.DUPLICATE, "two images of one name"
    yield "name-twice-case", edited((b"image root ", b"image KERNEL ")), Reason.DUPLICATE, "names that differ in case alone"
    yield "kind", edited((b"image root root", b"image root Root!")), Reason.KIND, "a kind that is no word"
    yield "sha256-short", edited((b"69632 ", b"69632 ab")), Reason.SHA256, "a SHA-256 of 66 digits"
    yield "sha256-upper-case", edited((b" 0 0 e3b0c442", b" 0 0 E3B0C442")), Reason.SHA256, "a SHA-256 in capital letters"
    yield "unaligned", edited((b"57 69632", b"57 69633")), Reason.UNALIGNED, "an image that begins at an odd byte"
    yield "inside-the-index", edited((b"57 69632", b"57 32768")), Reason.OUTSIDE, "an image over the first slot"
    yield "over-the-second-table", edited((b"57 69632", b"57 90112")), Reason.OUTSIDE, \
        "an image over the second partition table"
    yield "beyond-the-end", edited((b"57 69632", b"57 4611686018427387904")), Reason.OUTSIDE, "an image far behind the end"
    yield "sum-overflows", edited((b"57 69632", b"9223372036854775807 9223372036854771712")), Reason.OUTSIDE, \
        "size and offset whose sum is beyond 2^63"
    yield "overlap", edited((b"57 69632", b"57 65536")), Reason.OVERLAP, "two images at one place"
    yield "empty-with-offset", edited((b" 0 0 e3b0", b" 0 65536 e3b0")), Reason.EMPTY, "an empty image that is somewhere"
    yield "empty-with-sha256", edited((b" 0 0 e3b0", b" 0 0 f3b0")), Reason.EMPTY, "an empty image with the digest of another"
    yield "mbr", flipped(450), Reason.MBR, "the protective MBR has another type"
    yield "boot-code", flipped(3), Reason.MBR, "boot code in the MBR"
    yield "gpt-primary", flipped(2 * 512 + 40), Reason.GPT_PRIMARY, "an entry of the first partition table is another one"
    yield "gpt-backup", flipped(len(good()) - 500), Reason.GPT_BACKUP, "the second partition table's header is another one"
    yield "gpt-of-another-index", reindexed_table(), Reason.GPT_PRIMARY, "both partition tables right, and of other images"
    yield "image-damaged", flipped(69632 + 3), Reason.DIGEST, "a bit of an image is another one"
    yield "image-other", reindexed(lambda index: images(index, root={"sha256": bytes(32)})), Reason.DIGEST, \
        "an image that never was the one in the index"
    yield "padding", flipped(69632 + 100), Reason.PADDING, "something behind the last byte of an image"
    yield "signature-short", edited((b"digest ", b"signature ed25519 abcd\ndigest ")), Reason.SIGNATURE, \
        "a signature of two bytes"
    yield "signature-algorithm", edited((b"digest ", b"signature none " + b"0" * 128 + b"\ndigest ")), Reason.SIGNATURE, \
        "a signature by an algorithm that is none"


def upper(data: bytearray) -> bytearray:
    text = opened(data).text
    return with_texts(data, text[:-65] + text[-65:].upper())


def reindexed_table() -> bytearray:
    data = good()
    table = partition_table(replace(opened(data).index, images=()))
    put(data, 0, table.front)
    put(data, len(data) - BACK_BYTES, table.back)
    return data


def dump(data: bytes) -> str:
    """As `xxd` shows it, without the lines that are zero."""
    rows = []
    for at in range(0, len(data), 16):
        row = bytes(data[at:at + 16])
        if any(row):
            pairs = " ".join(row[n:n + 2].hex() for n in range(0, len(row), 2))
            rows.append(f"{at:08x}: {pairs:<39}  " + "".join(chr(byte) if 32 <= byte < 127 else "." for byte in row))
    return "".join(f"{row}\n" for row in rows)


def load(text: str, size: int) -> bytearray:
    """The pair of dump()."""
    data = bytearray(size)
    for row in text.splitlines():
        at, _, rest = row.partition(": ")
        piece = bytes.fromhex(rest[:39])
        data[int(at, 16):int(at, 16) + len(piece)] = piece
    assert len(data) == size
    return data


def files() -> dict[str, str]:
    """Every file of the corpus."""
    made, rows = {}, []
    for name, data, reason, why in cases():
        made[f"{name}.xxd"] = dump(data)
        rows.append(f"{name}\t{len(data)}\t{reason or '-'}\t{why}\n")
    return {"MANIFEST": "".join(rows), **made}


if __name__ == "__main__":
    for path in HERE.glob("*.xxd"):
        path.unlink()
    for file, content in files().items():
        (HERE / file).write_text(content, encoding="ascii")
