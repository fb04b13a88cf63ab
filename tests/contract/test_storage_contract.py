"""The contract of storages, on ours."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from xenpv.testing import ContractError
from xenpv.testing import storage as contract
from xenpv.wire.blkif import Op, Status
from xenpv_backend.storage import FileStorage, MemoryStorage, open_storage
from xenpv_backend.storage.base import StorageRequest
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


class Careless(MemoryStorage):
    """Does nothing for a discard, or too much; what is left reads as zero only if it says so."""

    def __init__(self, zeroes: bool, more: int = 0) -> None:
        super().__init__(131072)
        self._facts = replace(self._facts, discard_zeroes=zeroes)
        self._more = more

    def handle(self, requests: Sequence[StorageRequest]) -> None:
        for request in requests:
            if request.op == Op.DISCARD and not self._more:
                request.status = Status.OKAY
                continue
            request.bytes += self._more if request.op == Op.DISCARD else 0
            super().handle([request])


def test_discards_that_may_read_as_anything_are_content_with_that() -> None:
    contract.check_discard(lambda readonly: Careless(False))


@pytest.mark.parametrize("wrong", [Careless(True), Careless(False, 512)], ids=["kept", "the neighbour too"])
def test_discards_that_are_wrong_are_found(wrong: Careless) -> None:
    with pytest.raises(ContractError, match="discarded range"):
        contract.check_discard(lambda readonly: wrong)


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
