"""What a bundle's size must not matter for, shown with 64 GiB that are a hole."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

from xenpv.errors import StorageError
from xenpv.wire.bundle import BLOCK, Image, Index, encode
from xenpv_tools import cli
from xenpv_tools.bundle.medium import FileMedium
from xenpv_tools.bundle.reader import open_bundle
from xenpv_tools.bundle.writer import fitted, switch

GIB = 1 << 30
SMALL = b"behind all of it" * 1000


def made(path: Path, hole: int) -> None:
    """A bundle with an image of `hole` bytes that nobody will read, and one behind it."""
    at = (1 << 20) + hole
    index = fitted(Index(size=0, images=(
        Image("large", "root", hole, 1 << 20, bytes(32)),
        Image("small", "data", len(SMALL), at, hashlib.sha256(SMALL).digest()))))
    with open(path, "w+b") as file, FileMedium(str(path), file.fileno()) as medium:
        try:
            medium.resize(index.size)
        except StorageError:
            pytest.skip("the file system of the tests' directory has no files of 64 GiB")
        medium.write(at, SMALL)
        switch(medium, index, encode(index), (0, 1))


@pytest.mark.parametrize("hole", [1 << 20, 64 * GIB])
def test_ls_and_extract_read_the_index_and_one_image(tmp_path: Path, capfd: pytest.CaptureFixture[str], hole: int) -> None:
    path = tmp_path / "b.xpb"
    made(path, hole)
    assert cli.main(["bundle", "ls", str(path), "--json"]) == 0
    listed = json.loads(capfd.readouterr().out)
    assert listed["bytes_read"] == 32768 + 2 * BLOCK and listed["images"][0]["size"] == hole
    assert cli.main(["bundle", "extract", str(path), "small", "-d", str(tmp_path / "out"), "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["bytes_read"] == 32768 + 2 * BLOCK + len(SMALL)
    assert (tmp_path / "out/small").read_bytes() == SMALL


def test_a_hole_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "b.xpb"
    made(path, GIB)
    with open_bundle(str(path)) as bundle:
        before = bundle.source.bytes_read
        assert list(bundle.source.extents(1 << 20, GIB)) == [(1 << 20, GIB, False)]
        assert bundle.read(bundle.image("small"), 7, 3) == SMALL[7:10] and bundle.source.bytes_read == before + 3
    assert os.stat(path).st_blocks * 512 < 1 << 20
