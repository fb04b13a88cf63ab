"""NBD with real servers: what is sent, what an error becomes, and what happens when the server dies."""

from __future__ import annotations

import os
import re
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.nbd import NbdServer, Until, nbdkit
from tests.support.raw_frontend import RawFrontend
from tests.support.served import served
from tests.support.storages import content, discard, do, flush, read, write
from xenpv.errors import StorageError
from xenpv.wire.blkif import Op, Status
from xenpv_backend.storage import NbdStorage, open_storage
from xenpv_backend.storage.base import StorageRequest, SubRequest
from xenpv_backend.storage.nbd import NbdOptions, libnbd

Serve = Callable[..., NbdServer]
SIZE = 1 << 20


@pytest.fixture
def serve(requires: Callable[[str], str], tmp_path: Path, until: Until) -> Iterator[Serve]:
    """Starts an nbdkit with the words given."""
    requires("libnbd.so.0")
    made: list[NbdServer] = []

    def start(*words: str) -> NbdServer:
        made.append(nbdkit(requires, tmp_path, until, *words))
        return made[-1]

    yield start
    for server in made:
        server.kill()


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(SIZE))
    return path


class Submitted:
    """Requests that were submitted and are not waited for."""

    def __init__(self, storage: NbdStorage, *requests: SubRequest) -> None:
        self.statuses: list[int] = []
        self.count = len(requests)
        storage.submit(requests, self._done)

    def _done(self, request: StorageRequest) -> None:
        self.statuses.append(request.status)

    def are_done(self) -> bool:
        return len(self.statuses) == self.count


def in_flight(storage: NbdStorage) -> int:
    return int(storage.describe()["nbd"]["in_flight"])


@contextmanager
def log_of(serve: Serve, tmp_path: Path, options: NbdOptions, *words: str) -> Iterator[tuple[NbdStorage, Path]]:
    """A disk, and where nbdkit logs what comes to it."""
    log = tmp_path / "log"
    server = serve("--filter=log", "memory", str(SIZE), f"logfile={log}", *words)
    with NbdStorage(server.uri, options=options) as storage:
        yield storage, log


def logged(log: Path) -> list[str]:
    """The changes and flushes: ``Write count=0x1000 fua=1``."""
    found = re.findall(r" (Write|Flush|Trim|Zero) id=\S+ ?(?:offset=\S+ )?(.*?) ?\.\.\.$", log.read_text(), re.MULTILINE)
    return [f"{name} {rest}".strip() for name, rest in found]


# What is sent

def test_many_are_in_flight(serve: Serve, until: Until) -> None:
    server = serve("--filter=delay", "memory", str(SIZE), "rdelay=500ms")
    with NbdStorage(server.uri) as storage:
        reads = Submitted(storage, *[read(8 * n, 4096) for n in range(16)])
        until(lambda: in_flight(storage) == 16, "all are in flight")
        until(reads.are_done, "the reads")
    assert reads.statuses == [0] * 16


def test_a_write_that_came_with_a_flush_is_sent_after_one(serve: Serve, tmp_path: Path) -> None:
    with log_of(serve, tmp_path, NbdOptions()) as (storage, log):
        assert do(storage, write(0, bytes(4096))) == [0]
        assert do(storage, write(8, bytes(4096), flush_first=True)) == [0]
        assert do(storage, flush()) == [0]
    assert logged(log) == ["Write count=0x1000 fua=0", "Flush", "Write count=0x1000 fua=0", "Flush"]


def test_writethrough_is_fua(serve: Serve, tmp_path: Path) -> None:
    with log_of(serve, tmp_path, NbdOptions(cache="writethrough")) as (storage, log):
        assert do(storage, write(0, bytes(512)), discard(8, 4096)) == [0, 0]
    assert ["fua=1" in line for line in logged(log)] == [True, True]


def test_writethrough_without_fua_flushes(serve: Serve, tmp_path: Path) -> None:
    log = tmp_path / "log"
    server = serve("--filter=log", "--filter=fua", "memory", str(SIZE), f"logfile={log}")
    with NbdStorage(server.uri, options=NbdOptions(cache="writethrough")) as storage:
        assert do(storage, write(0, bytes(512))) == [0]
    assert logged(log) == ["Write count=0x200 fua=0", "Flush"]


def test_unsafe_offers_no_flush_and_sends_none(serve: Serve, tmp_path: Path) -> None:
    with log_of(serve, tmp_path, NbdOptions(cache="unsafe")) as (storage, log):
        assert not storage.facts.flush
        assert do(storage, write(0, bytes(512)), flush()) == [0, 0]
    assert logged(log) == ["Write count=0x200 fua=0"]


@pytest.mark.parametrize(("how", "sent"), [("zero", "Zero count=0x1000 trim=1 fast=0 fua=0"),
                                           ("trim", "Trim count=0x1000 fua=0")])
def test_a_discard_is_what_was_asked_for(serve: Serve, tmp_path: Path, how: str, sent: str) -> None:
    with log_of(serve, tmp_path, NbdOptions(discard=how)) as (storage, log):
        assert do(storage, discard(8, 4096)) == [0]
    assert sorted(logged(log)[0].split()) == sorted(sent.split())


def test_what_is_unflushed_is_bounded(serve: Serve, tmp_path: Path) -> None:
    with log_of(serve, tmp_path, NbdOptions(replay=65536)) as (storage, log):
        for n in range(16):
            assert do(storage, write(n * 64, bytes(32768))) == [0]
        assert storage.describe()["nbd"]["unflushed_bytes"] <= 2 * 65536 + 32768
    assert logged(log).count("Flush") >= 4


def test_over_tcp(requires: Callable[[str], str], until: Until) -> None:
    requires("libnbd.so.0")
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    words = [requires("nbdkit"), "-f", "-i", "127.0.0.1", "-p", str(port), "-e", "disk", "memory", "1M"]
    with subprocess.Popen(words, stdin=subprocess.DEVNULL) as server:
        until(lambda: can_connect(port), "nbdkit listens")
        with NbdStorage(f"nbd://127.0.0.1:{port}/disk") as storage:
            assert do(storage, write(8, b"tcp!" * 1024)) == [0]
            assert content(storage, 8, 4096) == b"tcp!" * 1024
        server.kill()


def can_connect(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


# What is refused

def test_an_error_of_the_server_is_the_guests(serve: Serve, tmp_path: Path) -> None:
    trigger = tmp_path / "fail"
    server = serve("--filter=error", "memory", str(SIZE), "error-pwrite=ENOSPC", "error-pwrite-rate=100%",
                   f"error-file={trigger}")
    with NbdStorage(server.uri) as storage:
        assert do(storage, write(0, bytes(512))) == [0]
        trigger.touch()
        assert do(storage, write(0, bytes(512)), read(0)) == [Status.ERROR, 0]
        trigger.unlink()
        assert do(storage, write(0, bytes(512))) == [0]
        assert storage.describe()["nbd"]["reconnects"] == 0


@pytest.mark.parametrize(("words", "mode", "complaint"), [
    (["-r", "memory", "1M"], "w", "exported read-only: attach it read-only"),
    (["memory", "1000"], "w", "no whole sectors of 512: `nbdkit --filter=truncate"),
    (["--filter=blocksize-policy", "memory", "1M", "blocksize-minimum=8192",
      "blocksize-preferred=65536"], "w", "wants blocks of 8192 bytes"),
])
def test_an_export_that_is_no_disk(serve: Serve, words: list[str], mode: str, complaint: str) -> None:
    server = serve(*words)
    with pytest.raises(StorageError, match=complaint) as caught:
        open_storage(server.uri, mode)
    assert "\n" not in str(caught.value)


def test_sectors_as_large_as_the_servers_blocks(serve: Serve) -> None:
    server = serve("--filter=blocksize-policy", "memory", "1M", "blocksize-minimum=4096")
    with open_storage(server.uri, "w") as storage:
        assert storage.facts.sector_size == 4096


@pytest.mark.parametrize(("target", "words"), [
    ("nbd+unix:///?socket=/nonexistent", "No such file or directory"),
    ("nbd://127.0.0.1:1/", "Connection refused"),
    ("nbd:/export", "is no NBD URI"),
    ("nbd,discard=maybe://h", "discard=maybe: want zero, trim or off"),
    ("nbd,cache=fast://h", "cache=fast: want one of"),
    ("nbd,reconect=1://h", "there is no parameter reconect"),
    ("nbd+unix:///nosocket", "nbd"),
])
def test_what_cannot_be_opened_is_one_line(requires: Callable[[str], str], target: str, words: str) -> None:
    requires("libnbd.so.0")
    with pytest.raises(StorageError, match=words) as caught:
        open_storage(target, "w")
    assert "\n" not in str(caught.value)


def test_without_libnbd(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    libnbd.load.cache_clear()
    monkeypatch.setattr(libnbd.ctypes, "CDLL", missing)
    with pytest.raises(StorageError, match="apt-get install libnbd0"):
        open_storage("nbd://localhost", "r")
    libnbd.load.cache_clear()


# When the server dies

def test_requests_in_flight_survive_the_server(serve: Serve, image: Path, until: Until) -> None:
    server = serve("--filter=delay", "file", str(image), "wdelay=300ms")
    with NbdStorage(server.uri) as storage:
        writes = Submitted(storage, *[write(8 * n, bytes([n + 1]) * 4096) for n in range(16)])
        until(lambda: in_flight(storage) == 16, "all are in flight")
        server.kill()
        server.start()
        until(writes.are_done, "the writes")
        assert writes.statuses == [0] * 16
        assert storage.describe()["nbd"]["reconnects"] == 1
        assert do(storage, flush()) == [0]
    assert [image.read_bytes()[4096 * n] for n in range(16)] == list(range(1, 17))


def test_what_was_acknowledged_and_not_flushed_is_written_again(serve: Serve) -> None:
    """The plug-in forgets everything with its process: a server that had flushed nothing."""
    server = serve("memory", str(SIZE))
    with NbdStorage(server.uri) as storage:
        assert do(storage, write(0, b"old." * 1024)) == [0]
        assert do(storage, write(1, b"new." * 256), write(64, b"gone" * 1024)) == [0, 0]
        assert do(storage, discard(64, 4096)) == [0]
        server.kill()
        server.start()
        assert content(storage, 0, 4096) == b"old." * 128 + b"new." * 256 + b"old." * 640
        assert content(storage, 64, 4096) == bytes(4096)
        assert do(storage, flush()) == [0]
        server.kill()
        server.start()
        assert content(storage, 0, 4096) == bytes(4096), "what was flushed is the server's to keep"


def test_an_older_write_does_not_come_to_lie_over_a_newer_one_with_fua(serve: Serve) -> None:
    server = serve("memory", str(SIZE))
    with NbdStorage(server.uri, options=NbdOptions(cache="writethrough")) as storage:
        storage._unflushed.add(0, 512, b"a" * 512)  # as a discard, or a write before the mode, leaves it
        assert do(storage, write(0, b"b" * 512)) == [0]
        server.kill()
        server.start()
        assert content(storage, 0, 512) == b"b" * 512


def test_a_request_that_breaks_every_connection_fails(serve: Serve, image: Path, until: Until) -> None:
    server = serve("--filter=delay", "file", str(image), "rdelay=10")
    with NbdStorage(server.uri, options=NbdOptions(timeout=0.1)) as storage:
        reads = Submitted(storage, read(0))
        until(reads.are_done, "the read")
        assert reads.statuses == [Status.ERROR]
        assert do(storage, write(0, bytes(512))) == [0]


def test_a_server_that_stays_away(serve: Serve, image: Path, until: Until) -> None:
    server = serve("file", str(image))
    with NbdStorage(server.uri, options=NbdOptions(reconnect=0.2)) as storage:
        server.kill()
        assert do(storage, read(0), write(0, bytes(512))) == [Status.ERROR] * 2
        assert "degraded" in storage.describe()
        server.start()
        until(lambda: "degraded" not in storage.describe(), "it is back")
        assert do(storage, read(0)) == [0]


def test_a_server_that_hangs_is_left(serve: Serve, image: Path, until: Until) -> None:
    server = serve("file", str(image))
    with NbdStorage(server.uri, options=NbdOptions(timeout=0.3, reconnect=30)) as storage:
        with server.stopped():
            reads = Submitted(storage, read(0))
            until(lambda: "degraded" in storage.describe(), "the connection counts as broken")
        until(reads.are_done, "the read")
    assert reads.statuses == [0]


def test_another_disk_in_its_place_is_not_used(serve: Serve, image: Path, until: Until) -> None:
    server = serve("file", str(image))
    with NbdStorage(server.uri, options=NbdOptions(reconnect=0.5)) as storage:
        server.kill()
        os.truncate(image, SIZE // 2)
        server.start()
        reads = Submitted(storage, read(0))
        until(lambda: "another disk" in storage.describe().get("degraded", ""), "it is seen")
        until(reads.are_done, "the read")
        assert reads.statuses == [Status.ERROR]


def test_a_disk_that_is_let_go_does_not_wait_for_ever(serve: Serve, image: Path, until: Until) -> None:
    server = serve("file", str(image))
    storage = NbdStorage(server.uri, options=NbdOptions(reconnect=3600))
    server.kill()
    reads = Submitted(storage, read(0))
    storage.close()
    assert reads.statuses == [Status.ERROR]


def test_a_new_size_is_seen_when_asked_for(serve: Serve, image: Path) -> None:
    server = serve("file", str(image))
    with NbdStorage(server.uri) as storage:
        os.truncate(image, 2 * SIZE)
        assert storage.facts.size == SIZE
        assert storage.refresh().size == 2 * SIZE
        assert do(storage, write(SIZE // 512, bytes(512))) == [0]


# Behind a vbd

def test_a_guest_does_not_see_the_server_die(serve: Serve, image: Path, tmp_path: Path) -> None:
    server = serve("file", str(image))
    with served(tmp_path / "xen") as world, RawFrontend(world.guest, world.attach(params=server.uri)) as frontend:
        for n in range(16):
            frontend.submit(Op.WRITE, 8 * n, bytes([n + 1]) * 4096, page=n, cookie=n)
            if n == 8:
                server.kill()
        server.start()
        assert frontend.reap_all() == {n: 0 for n in range(16)}
        assert frontend.io(Op.FLUSH_DISKCACHE, 0, 0)[0] == 0
        assert frontend.io(Op.READ, 8 * 15, 4096) == (0, bytes([16]) * 4096)
    assert [image.read_bytes()[4096 * n] for n in range(16)] == list(range(1, 17))
