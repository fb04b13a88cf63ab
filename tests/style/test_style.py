"""Rules of style that no linter holds: nothing unfinished, nothing swallowed, no luck, short files."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from configparser import ConfigParser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ["xenpv", "xenpv_backend", "xenpv_frontend", "tools", "tests"]
UNFINISHED = re.compile(r"\b(" + "|".join(["TO" + "DO", "FIX" + "ME", "X" + "XX", "NotImplemented" + "Error"]) + r")\b")
LEAVES = re.compile(r"\| *(grep (-\w+ )*-\w*[qm]|head\b|sed [^|]*[/0-9]q\b|awk [^|]*\bexit\b)")
SLEEPS = {"tests/conftest.py"}  # the fixture `until`
MAX_LINES = {".py": 500, ".h": 500, ".c": 400}


def files(*endings: str, folders: list[str] = FOLDERS) -> list[str]:
    """The project's own files with these endings, relative to its root. What cffi generates is not among them."""
    found = (path for folder in folders for path in (ROOT / folder).rglob("*") if path.suffix in endings)
    return sorted(str(path.relative_to(ROOT)) for path in found if path.name != "_core.c")


def lines(file: str) -> int:
    return len((ROOT / file).read_text().splitlines())


@pytest.mark.parametrize("file", [file for file in [*files(".sh"), "dev", ".ci/run"] if "host.sh" in (ROOT / file).read_text()
                                  or "pipefail" in (ROOT / file).read_text()])
def test_no_pipe_is_left_early(file: str) -> None:
    """With pipefail a command fails whose reader leaves at the first match: by luck, when it has more to write."""
    found = [f"{file}:{number}: {line.strip()}" for number, line in enumerate((ROOT / file).read_text().splitlines(), 1)
             if LEAVES.search(line.partition("# ")[0])]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("file", [*files(".py", ".c", ".h", ".sh"), "dev", ".ci/run", "setup.py"])
def test_nothing_unfinished(file: str) -> None:
    found = [f"{file}:{number}: {line.strip()}" for number, line in enumerate((ROOT / file).read_text().splitlines(), 1)
             if UNFINISHED.search(line)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("file", files(*MAX_LINES))
def test_file_is_short(file: str) -> None:
    assert lines(file) <= MAX_LINES[Path(file).suffix]


def test_core_total_lines(capsys: pytest.CaptureFixture[str]) -> None:
    core = {file: lines(file) for file in files(".c", ".h", folders=["xenpv/core"])}
    with capsys.disabled():
        print(f"\nthe C core: {sum(core.values())} lines in {len(core)} files")
    assert core


def sleeps(tree: ast.AST) -> Iterator[int]:
    """Lines that call time.sleep, or import it by name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "time.sleep":
            yield node.lineno
        elif isinstance(node, ast.ImportFrom) and node.module == "time" and "sleep" in {it.name for it in node.names}:
            yield node.lineno


def swallows(tree: ast.AST) -> Iterator[int]:
    """Lines where any failure at all is dropped: a bare except, `except Exception: pass`, suppress(Exception)."""
    broad = {"Exception", "BaseException"}
    for node in ast.walk(tree):
        if isinstance(node, ast.ExceptHandler):
            names = {part.id for part in ast.walk(node.type) if isinstance(part, ast.Name)} if node.type else broad
            empty = all(isinstance(line, (ast.Pass, ast.Continue)) or isinstance(line, ast.Expr)
                        and isinstance(line.value, ast.Constant) for line in node.body)
            if node.type is None or empty and names & broad:
                yield node.lineno
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("suppress"):
            if {ast.unparse(argument) for argument in node.args} & broad:
                yield node.lineno


@pytest.mark.parametrize("file", [file for file in files(".py", folders=["tests"]) if file not in SLEEPS])
def test_tests_do_not_sleep(file: str) -> None:
    found = list(sleeps(ast.parse((ROOT / file).read_text())))
    assert not found, f"{file}:{found}: wait for an event, or use the fixture `until`"


@pytest.mark.parametrize("file", files(".py"))
def test_no_failure_is_swallowed(file: str) -> None:
    assert not list(swallows(ast.parse((ROOT / file).read_text()))), file


@pytest.mark.parametrize("text", ["import time\ntime.sleep(1)", "from time import sleep"])
def test_sleep_is_seen(text: str) -> None:
    assert list(sleeps(ast.parse(text)))


@pytest.mark.parametrize("text", [
    "try:\n    f()\nexcept:\n    g()",
    "try:\n    f()\nexcept Exception:\n    pass",
    "try:\n    f()\nexcept (OSError, BaseException):\n    '''never mind'''",
    "with contextlib.suppress(Exception):\n    f()",
])
def test_swallowing_is_seen(text: str) -> None:
    assert list(swallows(ast.parse(text)))


@pytest.mark.parametrize("text", [
    "try:\n    f()\nexcept FileNotFoundError:\n    pass",
    "try:\n    f()\nexcept Exception:\n    raise",
    "with contextlib.suppress(OSError):\n    f()",
])
def test_handling_is_allowed(text: str) -> None:
    assert not list(swallows(ast.parse(text)))


def test_every_package_is_installed() -> None:
    """A package that setup.cfg does not list works in a clone and is missing from the wheel."""
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg")
    listed = set(setup["options"]["packages"].split())
    modules = files(".py", folders=["xenpv", "xenpv_backend", "xenpv_frontend", "tools"])
    folders = {str(Path(file).parent) for file in modules}
    assert listed == {re.sub("^tools", "xenpv_tools", folder).replace("/", ".") for folder in folders}
