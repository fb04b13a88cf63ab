"""Bundles gone wrong at random, from a seed: in their bytes, and in their text with the digests made right again."""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Callable
from dataclasses import dataclass

from tests.support.bundles import put
from xenpv.errors import BundleError
from xenpv.wire.bundle import SLOT_A, parse
from xenpv.wire.gpt import BACK_BYTES

NUMBERS = ["0", "1", "-1", "00", "0x1000", "", "511", "4095", "4096", "5000", "8192", "32768", "65536", "65537", "69632",
           "1048576", str(1 << 40), str((1 << 63) - 1), str(1 << 63), "9" * 40, "1e9", "\u0661"]
NAMES = ["../../etc/passwd", "/etc/passwd", "..", ".", "", "a/b", "a" * 36, "a" * 37, "-f", "KERNEL", "kernel", "root", "x",
         "c:", "a\\b", "$(id)", "~", "con", ".xenpv-"]
MAGICS = [b"\x1f\x8b\x08", b"\xfd7zXZ\0", b"QFI\xfb", b"\x3a\xff\x26\xed", b"BZh9", b"\x28\xb5\x2f\xfd"]
JUNK = ["colour blue", "", " ", "image", "image a b c d e f", "xenpv-bundle 1.0 5", "digest 00", "align 4096", "id x",
        "cmdline \x1b[2J", "cmdline \0", "created 99999999999999999999", "signature ed25519 00",
        "signature ed25519 " + "0" * 128, "signature none x"]

Lines = list[str]


@dataclass(frozen=True)
class Mutant:
    """A bundle, and what was done to it."""

    data: bytearray
    done: tuple[str, ...]


def mutant(base: bytes, second_slot: int, chosen: random.Random) -> Mutant:
    """One of `base`, whose second slot begins at `second_slot`."""
    data, done = bytearray(base), []
    if chosen.random() < 0.01:
        return _cut_in_the_text(data, second_slot, chosen)
    if chosen.random() < 0.6:
        done.append(_in_text(data, second_slot, chosen, digest=chosen.random() < 0.85))
    if not done or chosen.random() < 0.25:
        for _ in range(chosen.randrange(1, 3)):
            work = chosen.choice(BYTES)
            done.append(work.__name__)
            work(data, second_slot, chosen)
    return Mutant(data, tuple(done))


def _cut_in_the_text(data: bytearray, second_slot: int, chosen: random.Random) -> Mutant:
    """A text of several blocks in the only slot there is, and the end of the file in it."""
    head, *lines = bytes(data[SLOT_A:second_slot]).rstrip(b"\0").decode("ascii").splitlines()[:-1]
    many_images(lines, chosen)
    text = _whole(head, lines, True, chosen)
    del data[SLOT_A:]
    data += text[:chosen.randrange(4000, min(len(text), 60000))]
    return Mutant(data, ("cut in the text",))


# --- the text -------------------------------------------------------------------------------------------------------

def _in_text(data: bytearray, second_slot: int, chosen: random.Random, *, digest: bool) -> str:
    text = bytes(data[SLOT_A:second_slot]).rstrip(b"\0")
    head, *lines = text.decode("ascii").splitlines()[:-1]
    names = []
    for _ in range(chosen.choice([1, 1, 1, 2, 3])):
        work = chosen.choice(LINES)
        names.append(work.__name__)
        work(lines, chosen)
    if chosen.random() < 0.05:
        head = head.replace("1.0", chosen.choice(["1.3", "2.0", "0.9", "1.x", "01.0"]))
    texts = [_whole(head, lines, digest, chosen)]
    if chosen.random() < 0.1:
        texts.append(text)
        chosen.shuffle(texts)
    for offset, piece in zip((SLOT_A, second_slot), texts * 2, strict=False):
        put(data, offset, piece.ljust(4096, b"\0"))
    return " ".join([*names, "digested" if digest else "as it is"])


def _whole(head: str, lines: Lines, digest: bool, chosen: random.Random) -> bytes:
    body = "".join(f"{line}\n" for line in lines).encode("utf-8")
    if not digest:
        return f"{head}\n".encode() + body + b"digest " + b"0" * 64 + b"\n"
    text = digested(head, body)
    try:
        parse(text)
    except BundleError as error:
        # Past the check of the id, for half of those that come so far.
        wanted = re.search(r"has to be ([0-9a-f-]{36})", str(error))
        if wanted and chosen.random() < 0.5:
            text = digested(head, re.sub(rb"^id .*$", b"id " + wanted[1].encode(), body, count=1, flags=re.MULTILINE))
    return text


def digested(head: str, body: bytes) -> bytes:
    """The text with its length and digest right."""
    first = " ".join([*head.split(" ")[:2], str(len(body) + 72)]) + "\n"
    text = first.encode() + body
    return text + b"digest %s\n" % hashlib.sha256(text).hexdigest().encode()


def _image(lines: Lines, chosen: random.Random, field: int, value: str) -> None:
    at = chosen.choice([n for n, line in enumerate(lines) if line.startswith("image ")] or [0])
    parts = lines[at].split(" ")
    parts[min(field, len(parts) - 1)] = value
    lines[at] = " ".join(parts)


def number_in_a_line(lines: Lines, chosen: random.Random) -> None:
    at = chosen.randrange(len(lines)) if lines else 0
    lines[at:at + 1] = [re.sub(r"\d+$", chosen.choice(NUMBERS), line) for line in lines[at:at + 1]]


def setting(lines: Lines, chosen: random.Random) -> None:
    lines[:3] = [re.sub(r"\d+$", chosen.choice(NUMBERS), line) if chosen.random() < 0.4 else line for line in lines[:3]]


def size_of_an_image(lines: Lines, chosen: random.Random) -> None:
    _image(lines, chosen, 3, chosen.choice(NUMBERS))


def offset_of_an_image(lines: Lines, chosen: random.Random) -> None:
    _image(lines, chosen, 4, chosen.choice(NUMBERS))


def place_of_another(lines: Lines, chosen: random.Random) -> None:
    rows = [line.split(" ") for line in lines if line.startswith("image ")]
    places = [row[4] for row in rows if len(row) == 6 and row[4] != "0"]
    _image(lines, chosen, 4, chosen.choice(places or ["65536"]))


def name_of_an_image(lines: Lines, chosen: random.Random) -> None:
    _image(lines, chosen, 1, chosen.choice(NAMES))


def kind_of_an_image(lines: Lines, chosen: random.Random) -> None:
    _image(lines, chosen, 2, chosen.choice(["Root", "", "x" * 17, "1", "data", "root"]))


def sha256_of_an_image(lines: Lines, chosen: random.Random) -> None:
    _image(lines, chosen, 5, chosen.choice(["", "0" * 64, "f" * 63, "F" * 64, "0" * 65, "g" * 64]))


def line_dropped(lines: Lines, chosen: random.Random) -> None:
    if lines:
        del lines[chosen.randrange(len(lines))]


def line_twice(lines: Lines, chosen: random.Random) -> None:
    if lines:
        lines.insert(chosen.randrange(len(lines)), chosen.choice(lines))


def lines_swapped(lines: Lines, chosen: random.Random) -> None:
    chosen.shuffle(lines)


def junk(lines: Lines, chosen: random.Random) -> None:
    lines.insert(chosen.choice([chosen.randrange(len(lines) + 1), len(lines)]), chosen.choice(JUNK))


def character(lines: Lines, chosen: random.Random) -> None:
    if lines:
        at = chosen.randrange(len(lines))
        place = chosen.randrange(len(lines[at]) + 1)
        lines[at] = lines[at][:place] + chosen.choice("\0\x1b\r\t\x7f\u00e9 .9a/\n") + lines[at][place:]


def command_line(lines: Lines, chosen: random.Random) -> None:
    text = "cmdline " + "x" * chosen.choice([0, 1, 2047, 2048])
    lines[:] = [text if line.startswith("cmdline ") else line for line in lines]


def many_images(lines: Lines, chosen: random.Random) -> None:
    nothing = hashlib.sha256().hexdigest()
    # 129 are too many; 60 need a second block of text.
    lines += [f"image i{n} data 0 0 {nothing}" for n in range(chosen.choice([60, 125, 126, 129, 1000]))]


LINES: list[Callable[[Lines, random.Random], None]] = [
    number_in_a_line, setting, size_of_an_image, offset_of_an_image, place_of_another, name_of_an_image, kind_of_an_image,
    sha256_of_an_image,
    line_dropped, line_twice, lines_swapped, junk, character, command_line, many_images]


# --- the bytes ------------------------------------------------------------------------------------------------------

def _place(data: bytearray, second_slot: int, chosen: random.Random) -> int:
    """Where it matters: tables, slots, images."""
    start, length = chosen.choice([
        (0, 1100), (SLOT_A, 700), (second_slot, 700), (2 * second_slot - SLOT_A, 9000), (0, len(data)),
        (len(data) - BACK_BYTES, 700), (len(data) - 512, 512), (512 + 40, 8)])
    return max(0, min(len(data) - 1, start + chosen.randrange(length)))


def bits_flipped(data: bytearray, second_slot: int, chosen: random.Random) -> None:
    for _ in range(chosen.choice([1, 1, 2, 10]) if data else 0):
        data[_place(data, second_slot, chosen)] ^= 1 << chosen.randrange(8)


def zeroed(data: bytearray, second_slot: int, chosen: random.Random) -> None:
    at = _place(data, second_slot, chosen) // 512 * 512 if data else 0
    end = min(len(data), at + 512 * chosen.choice([1, 8, 32]))
    data[at:end] = bytes(end - at)


def cut_short(data: bytearray, second_slot: int, chosen: random.Random) -> None:
    ends = [0, 1, 511, 512, 4096, SLOT_A, SLOT_A + 4095, SLOT_A + 4096, SLOT_A + 5000, second_slot, second_slot + 4096,
            len(data) - 1, len(data) - 512, len(data) - BACK_BYTES, chosen.randrange(len(data) + 1)]
    del data[max(0, chosen.choice(ends)):]


def more_behind(data: bytearray, second_slot: int, chosen: random.Random) -> None:
    data += chosen.randbytes(chosen.choice([1, 512, 5000]))


def copied(data: bytearray, second_slot: int, chosen: random.Random) -> None:
    if data:
        at = _place(data, second_slot, chosen) // 512 * 512
        put(data, _place(data, second_slot, chosen) // 512 * 512, bytes(data[at:at + 512 * chosen.choice([1, 8, 32])]))


def packed(data: bytearray, second_slot: int, chosen: random.Random) -> None:
    magic = chosen.choice(MAGICS)
    data[:len(magic)] = magic


def without_slots(data: bytearray, second_slot: int, chosen: random.Random) -> None:
    for offset in chosen.sample([SLOT_A, second_slot], chosen.choice([1, 2])):
        data[offset:offset + 64] = bytes(len(data[offset:offset + 64]))


BYTES: list[Callable[[bytearray, int, random.Random], None]] = [
    bits_flipped, bits_flipped, bits_flipped, zeroed, cut_short, more_behind, copied, packed, without_slots]
