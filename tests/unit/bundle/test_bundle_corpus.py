"""The malformed bundles of tests/corpus/bundle: each is refused, or found to be wrong, for the reason that it was made for."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.corpus.bundle import make
from tests.support.bundles import reasons
from xenpv.wire.bundle import Reason

ROWS = {row.split("\t")[0]: row.split("\t")[1:] for row in (make.HERE / "MANIFEST").read_text().splitlines()}


@pytest.mark.parametrize("name", ROWS)
def test_its_reason(name: str) -> None:
    size, reason, _ = ROWS[name]
    data = make.load((make.HERE / f"{name}.xxd").read_text(), int(size))
    found = reasons(data)
    assert (reason in found) if reason != "-" else found == []


def test_the_corpus_is_what_its_script_makes() -> None:
    there = {path.name: path.read_text() for path in make.HERE.iterdir() if path.suffix in (".xxd", "") and path.is_file()}
    assert there == make.files()


def test_every_reason_is_in_it() -> None:
    """But that a signature is missing, which only who demands one can say."""
    assert {row[1] for row in ROWS.values()} - {"-"} == set(Reason) - {Reason.UNSIGNED}


def test_every_reason_is_in_the_specification() -> None:
    text = (Path(__file__).parents[3] / "docs/bundle.md").read_text()
    assert set(re.findall(r"^\| `([a-z0-9-]+)` \|", text, re.MULTILINE)) == set(Reason)
