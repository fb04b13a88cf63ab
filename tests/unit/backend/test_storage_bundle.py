"""The id that the backend publishes: of a bundle that is only read, the better slot's; of nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.corpus.bundle import make
from xenpv_backend.storage import FileStorage, MemoryStorage
from xenpv_backend.storage.bundle import bundle_id
from xenpv_tools import cli
from xenpv_tools.bundle.reader import open_bundle
from xenpv.wire.bundle import SLOT_A, slot_offset

ROWS = {row.split("\t")[0]: int(row.split("\t")[1]) for row in (make.HERE / "MANIFEST").read_text().splitlines()}


@pytest.fixture
def path(tmp_path: Path) -> str:
    (tmp_path / "data").write_bytes(b"data")
    path = str(tmp_path / "b.xpb")
    assert cli.main(["bundle", "create", path, str(tmp_path / "data"), "--cmdline", "console=hvc0"]) == 0
    return path


def published(path: str, *, readonly: bool = True) -> str | None:
    storage = FileStorage(path, readonly=readonly)
    try:
        found = bundle_id(storage)
    finally:
        storage.close()
    return None if found is None else str(found)


def id_of(path: str) -> str:
    with open_bundle(path) as bundle:
        return str(bundle.id)


def damage(path: str, offset: int) -> None:
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(b"?" * 200)


def test_bundle_s_id(path: str) -> None:
    assert published(path) == id_of(path)


def test_disk_that_the_guest_may_change_has_none(path: str) -> None:
    assert published(path, readonly=False) is None


@pytest.mark.parametrize("slot", [0, 1])
def test_one_damaged_slot_does_not_matter(path: str, slot: int) -> None:
    before = id_of(path)
    damage(path, (SLOT_A, slot_offset(1, 1 << 20))[slot])
    assert published(path) == before


def test_newer_slot_counts(path: str) -> None:
    older = Path(path).read_bytes()[SLOT_A:SLOT_A + 4096]
    assert cli.main(["bundle", "replace", path, "--cmdline", "console=hvc0 quiet"]) == 0
    with open(path, "r+b") as file:
        file.seek(SLOT_A)
        file.write(older)
    assert published(path) == id_of(path)


def test_other_images_have_none(tmp_path: Path) -> None:
    for size in (512, 1 << 20):
        (tmp_path / "disk").write_bytes(bytes(size))
        assert published(str(tmp_path / "disk")) is None


def test_storage_without_a_descriptor_has_none() -> None:
    assert bundle_id(MemoryStorage(1 << 20, readonly=True)) is None


@pytest.mark.parametrize("name", ROWS)
def test_of_a_malformed_bundle_what_the_reader_says(tmp_path: Path, name: str) -> None:
    data = make.load((make.HERE / f"{name}.xxd").read_text(), ROWS[name])
    path = tmp_path / "disk"
    path.write_bytes(data + bytes(-len(data) % 512 or (512 if not data else 0)))
    found = published(str(path))
    assert found is None or found == id_of(str(path))
