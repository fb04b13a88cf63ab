"""Opening an image: what is refused, in which words, and how it is reached."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from xenpv.errors import ClosedError, StorageError
from xenpv_backend.storage import CACHES, FileStorage, MemoryStorage, StorageBusyError, kernel, open_storage
from xenpv_backend.storage.cache import mode_of
from xenpv_backend.storage.layers import asynchronous


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(65536))
    return path


@pytest.mark.parametrize("params,mode,words", [
    ("", "w", "no target"),
    ("disk.img", "w", "no absolute path"),
    ("raw:disk.img", "w", "no absolute path"),
    ("qcow2:/disk.img", "w", "format qcow2 is not served"),
    ("/nonexistent.img", "w", "there is no such file"),
    ("/tmp", "w", "it is a directory"),
    ("/tmp", "r", "is a directory"),
    ("/dev/null", "r", "neither a file nor a block device"),
    ("/bad\0name", "w", "null"),
    ("memory:", "w", "no size in bytes"),
    ("memory:1000", "w", "multiples of 512"),
])
def test_refused_in_one_line(params: str, mode: str, words: str) -> None:
    with pytest.raises(StorageError, match=words) as caught:
        open_storage(params, mode)
    assert "\n" not in str(caught.value)


def test_fifo_does_not_hold_us_up(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with pytest.raises(StorageError, match="neither a file"):
        open_storage(str(fifo), "r")


@pytest.mark.parametrize("size,words", [(65537, "no multiple of its sector size 512"), (511, "no multiple"),
                                        (0, "is empty")])
def test_odd_sizes(image: Path, size: int, words: str) -> None:
    os.truncate(image, size)
    with pytest.raises(StorageError, match=words):
        open_storage(str(image), "w")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everything")
def test_not_writable(image: Path) -> None:
    image.chmod(0o400)
    with pytest.raises(StorageError, match="permission denied"):
        open_storage(str(image), "w")


@pytest.mark.parametrize("prefix", ["", "raw:", "aio:"])
def test_params_of_libxl(image: Path, prefix: str) -> None:
    with open_storage(f"{prefix}{image}", "w") as storage:
        assert storage.facts.sectors == 128
        assert storage.name == str(image)


@pytest.mark.parametrize("first,second", [("w", "w"), ("w", "r"), ("r", "w")])
def test_writer_is_alone(image: Path, first: str, second: str) -> None:
    with open_storage(str(image), first):
        with pytest.raises(StorageBusyError, match=f"{image} is in use"):
            open_storage(str(image), second)
    open_storage(str(image), second).close()


def test_readers_share(image: Path) -> None:
    with open_storage(str(image), "r") as first, open_storage(str(image), "r") as second:
        assert first.facts == second.facts


def test_lock_is_on_what_does_the_io(image: Path) -> None:
    """A duplicate of the descriptor, as requests in flight are, holds the lock after close()."""
    storage = open_storage(str(image), "w")
    in_flight = os.dup(storage.fileno())
    storage.close()
    with pytest.raises(StorageBusyError):
        open_storage(str(image), "w")
    os.close(in_flight)
    open_storage(str(image), "w").close()


def test_refused_storage_leaves_no_descriptor(image: Path) -> None:
    os.truncate(image, 513)
    before = os.listdir("/proc/self/fd")
    with pytest.raises(StorageError):
        open_storage(str(image), "w")
    assert len(os.listdir("/proc/self/fd")) == len(before)


def test_cache_says_how_the_file_is_open(image: Path) -> None:
    with FileStorage(str(image), readonly=False) as storage:
        direct = bool(fcntl.fcntl(storage.fileno(), fcntl.F_GETFL) & os.O_DIRECT)
        assert storage.cache == ("none" if direct else "writeback")
        assert storage.inline is kernel.is_in_memory(storage.fileno())
        assert not (storage.inline and direct)


def test_buffered_when_asked(image: Path) -> None:
    with FileStorage(str(image), readonly=False, cache="buffered") as storage:
        assert not fcntl.fcntl(storage.fileno(), fcntl.F_GETFL) & os.O_DIRECT


@pytest.mark.parametrize(("cache", "direct", "through", "flush"), [
    ("none", True, False, True), ("writeback", False, False, True), ("writethrough", False, True, True),
    ("directsync", True, True, True), ("unsafe", False, False, False)])
def test_cache_modes(image: Path, cache: str, direct: bool, through: bool, flush: bool) -> None:
    try:
        storage = FileStorage(str(image), readonly=False, cache=cache)
    except StorageError as error:
        assert direct and "O_DIRECT" in str(error)
        pytest.skip("no O_DIRECT here")
    with storage:
        flags = fcntl.fcntl(storage.fileno(), fcntl.F_GETFL)
        assert (bool(flags & os.O_DIRECT), bool(flags & os.O_DSYNC)) == (direct, through)
        assert (storage.facts.flush, storage.cache) == (flush, cache)


def test_cache_of_one_disk(image: Path) -> None:
    with open_storage(f"raw,cache=unsafe:{image}", "w", cache="writeback") as storage:
        assert storage.cache == "unsafe"


@pytest.mark.parametrize(("older", "mode"), [("buffered", "writeback"), ("direct", "none")])
def test_older_words(image: Path, older: str, mode: str) -> None:
    assert mode_of(older) == mode and older in CACHES


def test_direct_where_sectors_are_not_enough(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system of larger blocks takes O_DIRECT and refuses single sectors."""
    def refuse(fd: int, buffers: object, offset: int) -> int:
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(os, "preadv", refuse)
    with FileStorage(str(image), readonly=False) as storage:
        assert storage.cache == "writeback"
        assert not fcntl.fcntl(storage.fileno(), fcntl.F_GETFL) & os.O_DIRECT
    with pytest.raises(StorageError, match="cannot be opened O_DIRECT"):
        FileStorage(str(image), readonly=False, cache="direct")


@pytest.fixture
def limits(image: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """`image` is a block device, whose queue says this of it."""
    found = {"discard_max_bytes": 1 << 20, "write_zeroes_max_bytes": 1 << 20, "discard_granularity": 65536}
    monkeypatch.setattr(kernel, "device_limit", lambda number, name: found[name])
    monkeypatch.setattr(kernel, "device_sector_sizes", lambda fd: (512, 4096))
    monkeypatch.setattr(kernel, "device_size", lambda fd: os.fstat(fd).st_size)
    monkeypatch.setattr(kernel, "device_is_readonly", lambda fd: False)
    monkeypatch.setattr(FileStorage, "_kind", lambda self: True)
    return found


def test_a_device_that_writes_zeroes_discards_to_zero(image: Path, limits: dict[str, int]) -> None:
    with FileStorage(str(image), readonly=False) as storage:
        assert (storage.facts.discard, storage.facts.discard_granularity, storage.facts.discard_zeroes) == (True, 65536, True)


def test_a_device_that_does_not_discards_all_the_same(image: Path, limits: dict[str, int]) -> None:
    limits["write_zeroes_max_bytes"] = 0
    with FileStorage(str(image), readonly=False) as storage:
        assert (storage.facts.discard, storage.facts.discard_granularity, storage.facts.discard_zeroes) == (True, 65536, False)
        assert not asynchronous(storage).facts.discard  # what stands above it in Python punches holes


def test_a_device_that_cannot_discard(image: Path, limits: dict[str, int]) -> None:
    limits["discard_max_bytes"] = 0
    with FileStorage(str(image), readonly=False) as storage:
        assert not storage.facts.discard


def test_read_only_descriptor(image: Path) -> None:
    with open_storage(str(image), "r") as storage:
        assert storage.facts.readonly
        with pytest.raises(OSError):
            os.pwrite(storage.fileno(), b"x", 0)


def test_grow(image: Path) -> None:
    with open_storage(str(image), "w") as storage:
        assert storage.grow(131072).sectors == 256
        assert image.stat().st_size == 131072


@pytest.mark.parametrize("mode,size,words", [("w", 512, "not cut down"), ("w", 65537, "no whole sectors"),
                                             ("r", 131072, "attached read-only")])
def test_grow_refused(image: Path, mode: str, size: int, words: str) -> None:
    with open_storage(str(image), mode) as storage:
        with pytest.raises(StorageError, match=words):
            storage.grow(size)
    assert image.stat().st_size == 65536


def test_refresh_sees_a_new_size(image: Path) -> None:
    with open_storage(str(image), "w") as storage:
        os.truncate(image, 1024)
        assert storage.refresh().sectors == 2


@pytest.mark.parametrize("storage", [MemoryStorage(512)])
def test_memory_after_close(storage: MemoryStorage) -> None:
    storage.close()
    with pytest.raises(ClosedError):
        storage.refresh()


def test_file_after_close(image: Path) -> None:
    storage = open_storage(str(image), "w")
    storage.close()
    with pytest.raises(ClosedError):
        storage.fileno()
