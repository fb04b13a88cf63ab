"""Holds the table of bug classes in tests/README.md: every row names tests that exist, or says `later: reason`."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
CLASSES = 41
"""Rows of the table. A class is never dropped: it gets a test, or says why later."""


def rows() -> list[tuple[str, str]]:
    """(bug class, test or later) of each row."""
    section = (TESTS / "README.md").read_text().partition("## Bug classes")[2]
    lines = [line.strip("| ") for line in section.splitlines() if line.startswith("|")]
    cells = [line.partition("|") for line in lines[2:]]
    return [(name.strip(), answer.strip()) for name, _, answer in cells]


def functions(file: Path) -> set[str]:
    """The test functions of `file`: `test_x`, or `TestClass::test_x`; in C the name in `TEST(name)`."""
    if file.suffix == ".c":
        return set(re.findall(r"^TEST\((\w+)\)", file.read_text(), re.MULTILINE))
    names = set()
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.FunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.ClassDef):
            names |= {f"{node.name}::{inner.name}" for inner in node.body if isinstance(inner, ast.FunctionDef)}
    return {name for name in names if name.rpartition("::")[2].startswith("test_")}


def fault(answer: str) -> str | None:
    """What is wrong with a row's second cell, or None."""
    if re.fullmatch(r"later: \S.*", answer):
        return None
    if not re.fullmatch(r"`[^`]+`(, `[^`]+`)*", answer):
        return "neither `file::test`, `file::test` nor `later: reason`"
    for name in re.findall(r"`([^`]+)`", answer):
        file, _, function = name.partition("::")
        if not (TESTS / file).is_file():
            return f"there is no tests/{file}"
        if function not in functions(TESTS / file):
            return f"tests/{file} has no {function}"
    return None


def test_no_class_was_dropped() -> None:
    assert len({name for name, _ in rows()}) == CLASSES


@pytest.mark.parametrize(("name", "answer"), rows())
def test_class_has_a_test_or_says_later(name: str, answer: str) -> None:
    assert fault(answer) is None


@pytest.mark.parametrize("answer", [
    "", "later", "later: ", "test_fault", "`style/test_readme_bugclasses.py`", "`style/none.py::test_none`",
    "`style/test_readme_bugclasses.py::test_none`", "`style/test_readme_bugclasses.py::fault`",
    "`c/test_ring.c::none`", "`c/test_ring.c::main`",
])
def test_fault_is_seen(answer: str) -> None:
    assert fault(answer)


def test_existing_name_is_accepted() -> None:
    assert fault("`style/test_style.py::test_file_is_short`, `style/test_imports.py::test_rule_allows`") is None
