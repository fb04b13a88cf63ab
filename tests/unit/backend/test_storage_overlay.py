"""overlay: what is below stays as it was, and what was written is found again, also after a kill or a crash."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from tests.support.storages import Held, ManualWorker, content, discard, do, flush, memory, read, write
from xenpv.errors import StorageError
from xenpv.wire.blkif import Status
from xenpv_backend.storage import StorageBusyError
from xenpv_backend.storage.filters.fault import Fault, Plan
from xenpv_backend.storage.filters.overlay import Overlay
from xenpv_backend.storage.filters.overlay_top import BLOCK, FileTop, MemoryTop

SIZE = 131072


def base(size: int = SIZE) -> bytes:
    return random.Random(5).randbytes(size)


def over(top: FileTop | MemoryTop, size: int = SIZE) -> tuple[Overlay, bytes]:
    below = memory(size)
    do(below, write(0, base(size)))
    return Overlay(below, top), base(size)


@pytest.mark.parametrize("size", [SIZE, SIZE + 1536])
def test_as_if_it_were_the_disk_itself(tmp_path: Path, size: int) -> None:
    """Reads, writes and discards of any sectors, against bytes in memory; the storage below does not change."""
    chance = random.Random(3)
    overlay, model = over(FileTop(str(tmp_path / "top"), size), size)
    with overlay:
        for _ in range(200):
            start = chance.randrange(size // 512)
            count = min(chance.randrange(1, 24), size // 512 - start)
            at, end = start * 512, (start + count) * 512
            match chance.randrange(4):
                case 0:
                    assert do(overlay, discard(start, end - at)) == [0]
                    model = model[:at] + bytes(end - at) + model[end:]
                case 1:
                    assert content(overlay, start, end - at) == model[at:end]
                case _:
                    data = chance.randbytes(end - at)
                    assert do(overlay, write(start, data)) == [0]
                    model = model[:at] + data + model[end:]
        assert content(overlay, 0, size) == model
        assert content(overlay.below, 0, size) == base(size)


def test_found_again(tmp_path: Path) -> None:
    first, _ = over(FileTop(str(tmp_path / "top"), SIZE))
    with first:
        do(first, write(3, b"x" * 512))
    second, before = over(FileTop(str(tmp_path / "top"), SIZE))
    with second:
        assert content(second, 0, 4096) == before[:1536] + b"x" * 512 + before[2048:4096]


def test_answered_when_the_file_has_it(tmp_path: Path) -> None:
    """A process that is killed right after the answer has lost nothing."""
    overlay, _ = over(FileTop(str(tmp_path / "top"), SIZE))
    found = []

    def done(request: object) -> None:
        with open(tmp_path / "top", "rb") as file:
            file.seek(BLOCK)
            found.append(file.read(1)[0])

    with overlay:
        overlay.submit([write(8, b"x" * 4096)], done)
    assert found == [0b10]


def test_a_bit_comes_after_its_block_is_durable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    story: list[str] = []
    pwrite, pwritev, sync = os.pwrite, os.pwritev, os.fdatasync
    with FileTop(str(tmp_path / "top"), SIZE) as top:
        monkeypatch.setattr(os, "pwritev", lambda *a: (story.append("data"), pwritev(*a))[1])
        monkeypatch.setattr(os, "pwrite", lambda *a: (story.append("bits"), pwrite(*a))[1])
        monkeypatch.setattr(os, "fdatasync", lambda *a: (story.append("sync"), sync(*a))[1])
        top.write(0, memoryview(bytes(4096)))
        top.commit()
        top.write(0, memoryview(bytes(4096)))
        top.commit()
    assert story == ["data", "sync", "bits", "data"]


def test_one_sync_for_all_that_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    syncs: list[int] = []
    below, worker = memory(), ManualWorker()
    with Overlay(below, FileTop(str(tmp_path / "top"), SIZE), worker=worker) as overlay:
        monkeypatch.setattr(os, "fdatasync", syncs.append)
        for n in range(8):
            overlay.submit([write(8 * n, bytes(4096))], lambda request: None)
        worker.run()
    assert len(syncs) == 1


def test_a_block_that_could_not_be_made_durable_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(fd: int) -> None:
        raise OSError(5, "Input/output error")

    overlay, before = over(FileTop(str(tmp_path / "top"), SIZE))
    with overlay:
        with monkeypatch.context() as patch:
            patch.setattr(os, "fdatasync", fails)
            assert do(overlay, write(0, b"x" * 4096)) == [Status.ERROR]
        assert content(overlay, 0, 4096) == before[:4096]


def test_what_is_below_fails() -> None:
    below, worker = Held(), ManualWorker()
    overlay = Overlay(below, MemoryTop(SIZE), worker=worker)
    answers: list[int] = []
    overlay.submit([read(0)], lambda done: answers.append(done.status))
    worker.run()
    below.end(status=Status.ERROR)
    overlay.close()
    assert answers == [Status.ERROR]


def test_a_block_of_which_the_rest_cannot_be_read_is_not_written() -> None:
    below = Fault(memory(), Plan(errors=1.0))
    with Overlay(below, MemoryTop(SIZE)) as overlay:
        assert do(overlay, write(1, bytes(512)), write(8, bytes(4096))) == [Status.ERROR, Status.OKAY]


def test_memory_is_bounded() -> None:
    overlay, before = over(MemoryTop(2 * BLOCK))
    with overlay:
        assert do(overlay, write(0, b"x" * 8192), write(64, b"y" * 512), write(8, b"z" * 4096)) == [0, -1, 0]
        assert content(overlay, 64, 512) == before[64 * 512:65 * 512]


def test_one_disk_an_overlay(tmp_path: Path) -> None:
    with FileTop(str(tmp_path / "top"), SIZE):
        with pytest.raises(StorageBusyError, match="is in use"):
            FileTop(str(tmp_path / "top"), SIZE)


@pytest.mark.parametrize(("damage", "words"), [(b"no overlay", "is no overlay"), (b"XENPVCOW" + bytes(64), "another disk")])
def test_what_is_no_overlay_is_left_alone(tmp_path: Path, damage: bytes, words: str) -> None:
    (tmp_path / "top").write_bytes(damage)
    with pytest.raises(StorageError, match=words):
        FileTop(str(tmp_path / "top"), SIZE)
    assert (tmp_path / "top").read_bytes() == damage


def test_another_size_is_another_disk(tmp_path: Path) -> None:
    FileTop(str(tmp_path / "top"), SIZE).close()
    with pytest.raises(StorageError, match="another disk"):
        FileTop(str(tmp_path / "top"), 2 * SIZE)


def test_a_flush_is_answered_after_what_came_before(tmp_path: Path) -> None:
    overlay, _ = over(FileTop(str(tmp_path / "top"), SIZE))
    with overlay:
        assert do(overlay, write(0, bytes(512)), flush(), write(1, bytes(512), flush_first=True)) == [0, 0, 0]
