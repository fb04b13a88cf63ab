"""The configuration of a domain: read, never executed."""

from __future__ import annotations

from pathlib import Path

import pytest

from xenpv.errors import UsageError
from xenpv_tools.config import parse_config, read_config


def test_a_whole_configuration() -> None:
    found = parse_config("""
        # a comment
    """.strip() + "\nname = 'web'\ndisk = [\n  '/a.img,raw,xvda,w',  # the root\n  '/b.img,,xvdb,r',\n]\n"
        "xenpv_exec = ['python3', 'guest.py']; memory = 512\n")
    assert found.to_json() == {
        "name": "web", "xenpv_exec": ["python3", "guest.py"],
        "disk": [{"pdev_path": "/a.img", "vdev": "xvda", "format": "raw", "readwrite": True},
                 {"pdev_path": "/b.img", "vdev": "xvdb", "format": "raw", "readwrite": False}]}
    assert found.ignored == ("memory",)


def test_the_last_assignment_counts() -> None:
    assert parse_config("name = 'a'\nname = 'b'").name == "b"


@pytest.mark.parametrize(("text", "cause"), [
    ("", "no name"),
    ("name = 5", "line 1: name is a text"),
    ("name = 'a'\ndisk = '/a,,xvda'", "line 2: disk is a list"),
    ("name = 'a'\nxenpv_exec = [1]", "line 2: xenpv_exec is a list"),
    ("name = 'a'\ndisk = ['/a']", "line 2: disk '/a': no virtual device"),
    ("name = open('/etc/passwd').read()", "line 1: name: want a text"),
    ("import os", "line 1: only NAME = VALUE"),
    ("name.upper = 'a'", "line 1: only NAME = VALUE"),
    ("a = b = 'c'", "line 1: only NAME = VALUE"),
    ("name = 'a", "line 1: want NAME"),
    ("name = 'a'\0", "want NAME"),
    ("name = " + "[" * 9999, "want NAME"),
])
def test_what_is_no_configuration_is_refused_with_its_line(text: str, cause: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_config(text, "x.cfg")
    assert str(caught.value).startswith("x.cfg") and cause in str(caught.value)


def test_words_of_the_command_come_after_the_file(tmp_path: Path) -> None:
    (tmp_path / "x.cfg").write_text("name = 'a'")
    assert read_config(str(tmp_path / "x.cfg"), ["name = 'b'"]).name == "b"


@pytest.mark.parametrize("content", [None, b"name = '\xff'", b"#" * (1 << 20) + b"\n"])
def test_a_file_that_is_none(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "x.cfg"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match="x.cfg"):
        read_config(str(path))
