"""The contract of storages, on ours."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from xenpv.testing import storage as contract
from xenpv_backend.storage import FileStorage, MemoryStorage


@pytest.mark.parametrize("check", contract.STORAGE_CHECKS)
@pytest.mark.parametrize("cache", ["auto", "buffered"])
def test_file(tmp_path: Path, check: Callable[[contract.Make], None], cache: str) -> None:
    image = tmp_path / "disk.img"
    image.write_bytes(bytes(range(256)) * 512)
    check(lambda readonly: FileStorage(str(image), readonly=readonly, cache=cache))


@pytest.mark.parametrize("check", contract.STORAGE_CHECKS)
def test_file_on_tmpfs(check: Callable[[contract.Make], None]) -> None:
    image = Path("/dev/shm/xenpv-test-storage.img")
    if not image.parent.is_dir():
        pytest.skip("there is no /dev/shm")
    try:
        image.write_bytes(bytes(131072))
        check(lambda readonly: FileStorage(str(image), readonly=readonly))
    finally:
        image.unlink(missing_ok=True)


@pytest.mark.parametrize("check", contract.STORAGE_CHECKS)
def test_memory(check: Callable[[contract.Make], None]) -> None:
    check(lambda readonly: MemoryStorage(131072, readonly=readonly))


def test_a_storage_that_forgets_is_caught() -> None:
    class Forgets(MemoryStorage):
        def _do(self, request: contract.Request) -> int:  # type: ignore[override]
            return 0

    with pytest.raises(AssertionError):
        contract.check_storage(lambda readonly: Forgets(65536, readonly=readonly))
