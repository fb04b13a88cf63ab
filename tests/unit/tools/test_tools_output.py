"""Tables, sizes, and text that may not act on a terminal."""

from __future__ import annotations

import pytest

from xenpv.errors import UsageError
from xenpv_tools.output import duration, pairs, parse_size, printable, table, text_or_hex
from xenpv_tools.session import one_line


def test_a_table_is_aligned() -> None:
    assert table(("Name", "ID"), [("a", 10), ("long-name", None)], right=("ID",)) == (
        "Name       ID\n"
        "a          10\n"
        "long-name   -")


def test_pairs_are_aligned_as_xl_info() -> None:
    assert pairs({"host": "a"}) == "host                   : a"


@pytest.mark.parametrize(("text", "size"), [("0", 0), ("512", 512), ("4k", 4096), ("1M", 1 << 20), ("2GiB", 2 << 30),
                                            ("1TB", 1 << 40)])
def test_a_size(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "-1", "1.5G", "M", "1X", "１", "1 M"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(UsageError, match="no size"):
        parse_size(text)


@pytest.mark.parametrize(("seconds", "text"), [(0.9, "0:00:00"), (3723, "1:02:03"), (90061, "1 day, 1:01:01"),
                                               (172800, "2 days, 0:00:00")])
def test_a_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_value_cannot_move_the_cursor() -> None:
    assert printable(b"a\x1b[2Jb\n\xff\xc3\xa9") == "a\\x1b[2Jb\\n\\xff\u00e9"


def test_bytes_in_json() -> None:
    assert (text_or_hex(b"a"), text_or_hex(b"\xff")) == ({"value": "a"}, {"hex": "ff"})


def test_an_error_is_one_line() -> None:
    assert one_line("a\n  b\x1b[31m\tc") == "a b [31m c"
