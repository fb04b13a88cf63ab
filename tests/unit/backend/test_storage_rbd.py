"""rbd: what can be said without a cluster."""

from __future__ import annotations

import pytest

from xenpv.errors import StorageError
from xenpv_backend.storage import open_storage
from xenpv_backend.storage.rbd import binding
from xenpv_backend.storage.rbd.storage import take_apart


@pytest.mark.parametrize(("text", "parts"), [
    ("pool/image", ("pool", "", "image", "")), ("pool/space/image@snap", ("pool", "space", "image", "snap"))])
def test_an_image_is_taken_apart(text: str, parts: tuple[str, ...]) -> None:
    assert take_apart(text) == parts


@pytest.mark.parametrize("text", ["", "image", "a/b/c/d", "pool/", "pool/image@"])
def test_what_names_no_image(text: str) -> None:
    with pytest.raises(StorageError, match="write rbd:pool/image"):
        open_storage(f"rbd:{text}", "r")


def test_without_cephs_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(binding, "import_module", missing)
    monkeypatch.setattr(binding, "DISTRIBUTION", "/nonexistent")
    with pytest.raises(StorageError, match="apt-get install python3-rbd.*nbd://"):
        open_storage("rbd:pool/image", "r")
