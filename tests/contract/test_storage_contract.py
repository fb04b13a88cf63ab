"""The contract of storages, on ours."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from xenpv.testing import storage as contract
from xenpv_backend.storage import FileStorage, MemoryStorage, open_storage
from xenpv_backend.storage.mirror import create_mirror


@pytest.mark.parametrize("check", contract.STORAGE_CHECKS)
@pytest.mark.parametrize("cache", ["auto", "writeback", "writethrough", "unsafe"])
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


FILTERS = ["throttle,iops=1000000:", "fault,delay=1us:", "fault,errors=0,torn=100%,ops=read:", "overlay:",
           "overlay,file={}/top:", "log,file={}/log:", "log:overlay,file={}/top:throttle,bps=10G:"]


@pytest.mark.parametrize("check", contract.STORAGE_CHECKS)
@pytest.mark.parametrize("filters", FILTERS)
@pytest.mark.parametrize("storage", ["{}/disk.img", "memory:131072"])
def test_filters(tmp_path: Path, check: Callable[[contract.Make], None], filters: str, storage: str) -> None:
    (tmp_path / "disk.img").write_bytes(bytes(range(256)) * 512)
    target = (filters + storage).format(*[tmp_path] * 4)
    if check is contract.check_readonly and "file={}/top" in filters:
        open_storage(target, "w").close()  # read-only it is not made
    check(lambda readonly: open_storage(target, "r" if readonly else "w"))


@pytest.mark.parametrize("check", contract.STORAGE_CHECKS)
@pytest.mark.parametrize("head", ["", "mirror,rate=1M", "log:overlay:"])
def test_mirror(tmp_path: Path, check: Callable[[contract.Make], None], head: str) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / name).write_bytes(bytes(range(256)) * 512)
    file = tmp_path / "mirror"
    create_mirror(str(file), [f"{tmp_path}/a", f"raw,cache=writeback:{tmp_path}/b", f"log:{tmp_path}/c"], copies=1)
    target = f"{head}:{file}" if head.startswith("mirror") else f"{head}mirror:{file}"
    check(lambda readonly: open_storage(target, "r" if readonly else "w"))
