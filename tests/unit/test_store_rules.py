"""Paths, permissions, answers and errors: what is refused before it is sent, and what an answer may be."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xenpv.errors import AccessDeniedError, ConflictError, NoEntryError, QuotaError, StoreError
from xenpv.store import rules


@pytest.mark.parametrize("path", ["/", "/a", "a", "a/b-c_d@0", "/" + "x" * 3071, "x" * 2048, "@releaseDomain"])
def test_good_paths(path: str) -> None:
    assert rules.check_path("read", path) == path.encode() + b"\0"


@pytest.mark.parametrize("path", ["", "a\n", "a\0", "/a\n", "a b", "\u00e9", "a//b", "//", "a/", "/a/", "a\\b", "a:b",
                                  "/" + "x" * 3072, "x" * 2049])
def test_bad_paths(path: str) -> None:
    with pytest.raises(StoreError) as caught:
        rules.check_path("read", path)
    assert caught.value.code == "EINVAL"
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


@pytest.mark.parametrize("path", ["@releaseDomain", "@introduceDomain", "@releaseDomain/12", "/a", "a"])
def test_good_watch_paths(path: str) -> None:
    assert rules.check_watch_path(path) == path.encode() + b"\0"


@pytest.mark.parametrize("path", ["@other", "@releaseDomain\n", "@releaseDomain/", "@releaseDomain/x", "a\n", ""])
def test_bad_watch_paths(path: str) -> None:
    with pytest.raises(StoreError):
        rules.check_watch_path(path)


def test_permissions_are_words() -> None:
    assert rules.check_permissions("/a", ["n0", "r5", "b12"]) == b"n0\0r5\0b12\0"


@pytest.mark.parametrize("words", [[], ["x0"], ["r"], ["r5\n"], ["r-1"], ["r\u0665"], ["r0", ""]])
def test_bad_permissions(words: list[str]) -> None:
    with pytest.raises(StoreError):
        rules.check_permissions("/a", words)


@pytest.mark.parametrize("code, kind", [("ENOENT", NoEntryError), ("EACCES", AccessDeniedError), ("EINVAL", StoreError),
                                        ("EPERM", AccessDeniedError), ("EAGAIN", ConflictError), ("E2BIG", QuotaError),
                                        ("ENOSPC", QuotaError), ("EQUUX", StoreError)])
def test_error_names(code: str, kind: type[StoreError]) -> None:
    error = rules.refused("read /a", code.encode() + b"\0")
    assert type(error) is kind and error.code == code
    assert "read /a" in str(error) and code in str(error) and "\n" not in str(error)


def test_an_unknown_error_is_no_success() -> None:
    """pyxs says (0, "Success")."""
    assert "Success" not in str(rules.refused("read /a", b"EQUUX\0"))


@given(st.binary(max_size=60))
@settings(max_examples=200, derandomize=True, deadline=None)
def test_any_error_answer_is_one_printable_line(payload: bytes) -> None:
    error = rules.refused("read /a", payload)
    assert isinstance(error, StoreError) and str(error).isprintable()


@given(st.binary(max_size=60))
@settings(max_examples=200, derandomize=True, deadline=None)
def test_any_answer_is_parsed_or_refused(payload: bytes) -> None:
    for parse in (rules.parse_strings, rules.parse_string, rules.parse_ok, rules.parse_transaction):
        try:
            parse("list /a", payload)
        except StoreError as error:
            assert error.code == "EIO"
    event = rules.parse_event(payload)
    assert event is None or all(part.isascii() for part in event)


def test_an_empty_list() -> None:
    assert rules.parse_strings("list /a", b"") == []
    assert rules.parse_strings("list /a", b"a\0b\0") == ["a", "b"]


@pytest.mark.parametrize("payload", [b"0\0", b"4294967296\0", b"", b"\0", b"-1\0", b"1 \0", b"x"])
def test_no_transaction_has_such_an_id(payload: bytes) -> None:
    """Id 0 would mean the store itself."""
    with pytest.raises(StoreError):
        rules.parse_transaction("start transaction", payload)


@pytest.mark.parametrize("payload", [b"", b"\0\0", b"/a", b"/a\0", b"/a\0t", b"/a\0t\0more\0", b"a b\0t\0",
                                     b"\xff\0t\0"])
def test_malformed_events(payload: bytes) -> None:
    assert rules.parse_event(payload) is None


def test_an_event() -> None:
    assert rules.parse_event(b"@releaseDomain\0t\0") == ("@releaseDomain", "t")
