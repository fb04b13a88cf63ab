"""The index's text and the partition table: written and read alike, declared and packed alike."""

from __future__ import annotations

import hashlib
import random
from dataclasses import replace
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.bundles import SMALL, bundle, opened
from xenpv.errors import BundleError
from xenpv.wire import gpt
from xenpv.wire.bundle import (BLOCK, HEAD_BYTES, NAME_PATTERN, Image, Index, encode, parse, partition_id, partition_table,
                               rounded, signed_part, slot_bytes, slot_offset, text_length)

NAMES = st.lists(st.from_regex(NAME_PATTERN, fullmatch=True), max_size=20, unique_by=str.lower)
CMDLINES = st.none() | st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=2047)


def index_of(names: list[str], cmdline: str | None, seed: int) -> Index:
    """Images of these names, one after the other."""
    chosen, at, images = random.Random(seed), SMALL.index_size, []
    for name in names:
        size = chosen.choice([0, 1, 4096, 5000, 1 << 40])
        images.append(Image(name, "data", size, at if size else 0,
                            chosen.randbytes(32) if size else hashlib.sha256().digest()))
        at += rounded(size)
    chosen.shuffle(images)
    return replace(SMALL, size=at + gpt.BACK_BYTES, images=tuple(images), cmdline=cmdline,
                   generation=chosen.randrange(1 << 63), created=chosen.choice([None, 0, 1 << 40]))


@given(NAMES, CMDLINES, st.integers(0, 1000))
def test_an_index_comes_back_as_it_was_written(names: list[str], cmdline: str | None, seed: int) -> None:
    index = index_of(names, cmdline, seed)
    text = encode(index)
    assert text_length(text[:HEAD_BYTES]) == len(text) and parse(text) == index


@given(NAMES, CMDLINES, st.integers(0, 1000), st.data())
def test_another_byte_is_another_text(names: list[str], cmdline: str | None, seed: int, data: st.DataObject) -> None:
    text = bytearray(encode(index_of(names, cmdline, seed)))
    text[data.draw(st.integers(0, len(text) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(BundleError):
        parse(bytes(text))


@given(st.binary(max_size=300), st.booleans())
def test_any_bytes_are_an_index_or_a_bundle_error(data: bytes, begun: bool) -> None:
    with pytest.raises(BundleError):
        parse(b"xenpv-bundle 1.0 " + data if begun else data)


def test_the_id_is_of_the_content_alone() -> None:
    index = index_of(["kernel", "root"], "quiet", 1)
    moved = replace(index, generation=9, created=5, align=8192, size=index.size + 512)
    assert index.id == moved.id and index.id.version == 8 and index.id.variant == "specified in RFC 4122"
    assert len({index.id, replace(index, cmdline="other").id, replace(index, images=index.images[::-1]).id}) == 3


def test_the_id_is_the_one_that_the_specification_says() -> None:
    index = replace(SMALL, size=1 << 20, cmdline="quiet", images=(Image("root", "root", 5, 65536, bytes(32)),))
    said = f"xenpv-bundle-id 1\nimage root root 5 {'00' * 32}\ncmdline quiet\n"
    value = bytearray(hashlib.sha256(said.encode()).digest()[:16])
    value[6], value[8] = value[6] & 0xF | 0x80, value[8] & 0x3F | 0x80
    assert index.id == UUID(bytes=bytes(value))
    value = bytearray(hashlib.sha256(f"xenpv-partition-id 1\n{index.id}\nroot\n".encode()).digest()[:16])
    value[6], value[8] = value[6] & 0xF | 0x80, value[8] & 0x3F | 0x80
    assert partition_id(index.id, "root") == UUID(bytes=bytes(value))


@pytest.mark.parametrize("index_size", [64 << 10, 68 << 10, 1 << 20, 64 << 20])
def test_both_slots_are_within_the_index(index_size: int) -> None:
    end = slot_offset(1, index_size) + slot_bytes(index_size)
    assert index_size - 2 * BLOCK < end <= index_size and slot_bytes(index_size) % BLOCK == 0


def test_construct_reads_the_table_that_struct_packed() -> None:
    data = bundle({"kernel": b"k" * 5000, "empty": b"", "root": b"r"})
    index = opened(data).index
    seen = gpt.decode(bytes(data[:gpt.FRONT_BYTES]))
    assert seen.mbr.signature == b"\x55\xaa" and seen.mbr.partitions[0].type == 0xEE
    assert seen.mbr.partitions[0].first_lba == 1 and seen.mbr.partitions[0].sectors == len(data) // 512 - 1
    assert (seen.header.my_lba, seen.header.alternate_lba) == (1, len(data) // 512 - 1)
    assert seen.header.first_usable_lba * 512 == index.index_size and UUID(bytes_le=seen.header.disk_guid) == index.id
    assert [(each.name.decode("utf-16-le").rstrip("\0"), each.first_lba * 512, (each.last_lba + 1) * 512)
            for each in seen.entries] == [("kernel", 65536, 65536 + 8192), ("root", 73728, 77824)]
    assert all(each.attributes == 1 << 60 | 1 << 63 for each in seen.entries)


def test_construct_builds_what_struct_packed() -> None:
    front = partition_table(index_of(["a", "b"], None, 3)).front
    seen = gpt.decode(front)
    assert gpt.MBR.build(seen.mbr) == front[:512]
    assert gpt.GPT_HEADER.build(seen.header) == front[512:604] and not any(front[604:1024])
    entries = b"".join(gpt.GPT_ENTRY.build(each) for each in seen.entries)
    assert entries.ljust(128 * 128, b"\0") == front[1024:]


def test_the_second_header_names_the_first() -> None:
    table = partition_table(index_of(["a"], None, 3))
    header = gpt.GPT_HEADER.parse(table.back[-512:])
    last = header.my_lba
    assert header.alternate_lba == 1 and header.entries_lba == last - 32 and header.last_usable_lba == last - 33
    assert table.back[:-512] == table.front[1024:]


def test_a_header_with_a_wrong_checksum_says_nothing() -> None:
    front = partition_table(index_of([], None, 1)).front
    assert gpt.first_usable_bytes(front[512:1024]) == SMALL.index_size
    assert gpt.first_usable_bytes(front[512:520] + b"\1" + front[521:1024]) is None
    assert gpt.first_usable_bytes(b"") is None


def test_a_signature_is_found_by_its_place_alone() -> None:
    index = index_of(["a"], None, 1)
    signed = encode(index, lambda covered: bytes(64))
    found = signed_part(signed)
    assert found is not None and found[1] == bytes(64)
    assert found[0] == b"xenpv-bundle-signature 1\n" + signed[:signed.index(b"signature ed25519")]
    assert parse(signed) == index and signed_part(encode(index)) is None
    # The same words at the end of a command line are no signature.
    trick = replace(index, images=(), cmdline="x signature ed25519 " + "0" * 128)
    assert signed_part(encode(trick)) is None and parse(encode(trick)) == trick
