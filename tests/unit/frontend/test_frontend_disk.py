"""I/O through a ring on plain memory: the bytes, what is refused, what a backend may do wrong, threads, streams."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable

import pytest

from tests.support.fake_backend import FakeBackend
from xenpv.errors import DiskError, RemoteProtocolError, UsageError
from xenpv.wire.blkif import Op, Request, Response, Status
from xenpv.xenbus import BackendAdverts, DiskFacts
from xenpv_frontend.disk import Disk

Open = Callable[..., Disk]


def test_facts(backend: FakeBackend, open_disk: Open) -> None:
    backend.facts = DiskFacts(2048, info=4, sector_size=4096)
    disk = open_disk()
    assert (disk.size, disk.sector_size, disk.readonly, disk.name) == (1 << 20, 4096, True, "xvda")


@pytest.mark.parametrize("offset, length", [(0, 512), (512, 4096), (4096, 45056), (1536, 200 * 1024), (0, 1 << 20),
                                            (0, 0)])
@pytest.mark.parametrize("pool", [32768, 1 << 20])
def test_reads(backend: FakeBackend, open_disk: Open, offset: int, length: int, pool: int) -> None:
    disk = open_disk(pool_bytes=pool)
    assert disk.read(offset, length) == backend.data[offset:offset + length]
    buffer = bytearray(length)
    assert disk.readinto(offset, buffer) == length and buffer == backend.data[offset:offset + length]


@pytest.mark.parametrize("offset, length", [(0, 512), (512, 4096), (1536, 200 * 1024), (0, 1 << 20), (0, 0)])
def test_writes(backend: FakeBackend, open_disk: Open, offset: int, length: int) -> None:
    disk = open_disk(pool_bytes=65536)
    want = bytearray(backend.data)
    want[offset:offset + length] = data = bytes(index % 251 for index in range(length))
    disk.write(offset, data)
    assert backend.data == want


def test_flush_and_discard(backend: FakeBackend, open_disk: Open) -> None:
    disk = open_disk()
    disk.flush()
    disk.discard(1024, 2048)
    assert [(r.operation, r.sector_number, r.nr_sectors) for r in backend.requests] == [
        (Op.FLUSH_DISKCACHE, 0, 0), (Op.DISCARD, 2, 4)]


def test_a_backend_without_a_cache_is_not_asked_to_flush(backend: FakeBackend, open_disk: Open) -> None:
    backend.adverts = BackendAdverts()
    disk = open_disk()
    disk.flush()
    with pytest.raises(DiskError) as refused:
        disk.discard(0, 512)
    assert refused.value.status == Status.EOPNOTSUPP and not backend.requests


@pytest.mark.parametrize("offset, length", [(1, 512), (0, 100), (-512, 512), (0, (1 << 20) + 512), (1 << 20, 512),
                                            (0, -512)])
def test_ranges_that_cannot_be(backend: FakeBackend, open_disk: Open, offset: int, length: int) -> None:
    disk = open_disk()
    with pytest.raises(UsageError):
        disk.read(offset, length)
    with pytest.raises(UsageError):
        disk.discard(offset, length)
    assert not backend.requests


def test_a_read_only_disk_is_not_written(backend: FakeBackend, open_disk: Open) -> None:
    backend.facts = DiskFacts(2048, info=4)
    disk = open_disk()
    for write in (lambda: disk.write(0, bytes(512)), lambda: disk.discard(0, 512),
                  lambda: disk.write_from(io.BytesIO(bytes(512)))):
        with pytest.raises(DiskError, match="read-only"):
            write()
    assert not backend.requests


@pytest.mark.parametrize("status", [Status.ERROR, Status.EOPNOTSUPP])
def test_an_error_of_the_backends_has_its_status(backend: FakeBackend, open_disk: Open, status: Status) -> None:
    disk = open_disk(pool_bytes=65536)
    bad = {3}

    def answer(request: Request, response: Response) -> Response:
        return Response(response.id, response.operation, status) if len(backend.requests) in bad else response

    backend.answer = answer
    with pytest.raises(DiskError) as error:
        disk.write(0, bytes(1 << 20))
    assert error.value.status == status
    backend.answer = lambda request, response: response
    assert disk.read(0, 512) == backend.data[:512]
    assert disk.reaper.the_pool().free == 16


WRONG: dict[str, Callable[[Request, Response], Response]] = {
    "an id that was never sent": lambda q, r: Response(r.id + (1 << 40), r.operation, r.status),
    "an id beyond the ring": lambda q, r: Response(0xffffffff, r.operation, r.status),
    "another operation": lambda q, r: Response(r.id, Op.WRITE, r.status),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_answer_ends_this_disk(backend: FakeBackend, open_disk: Open, wrong: str) -> None:
    disk = open_disk()
    backend.answer = WRONG[wrong]
    with pytest.raises(RemoteProtocolError):
        disk.read(0, 512)
    with pytest.raises(RemoteProtocolError):
        disk.read(0, 512)


def test_an_answer_given_twice_ends_this_disk(backend: FakeBackend, open_disk: Open) -> None:
    disk = open_disk()
    first: list[Response] = []

    def answer(request: Request, response: Response) -> Response:
        first.append(response)
        return first[0]

    backend.answer = answer
    disk.read(0, 512)
    with pytest.raises(RemoteProtocolError):
        disk.read(0, 512)


def test_answers_in_any_order(backend: FakeBackend, open_disk: Open) -> None:
    disk = open_disk(depth=32, indirect=0)
    count = -(-disk.size // (11 * 4096))

    def answer(request: Request, response: Response) -> Response | None:
        if len(backend.requests) >= 4:
            backend.answer = lambda request, response: response
            backend.withheld.reverse()
            threading.Thread(target=backend.release).start()
        return None

    backend.answer = answer
    assert disk.read(0, disk.size) == backend.data and len(backend.requests) >= count


def test_threads_share_the_ring(backend: FakeBackend, open_disk: Open) -> None:
    disk = open_disk(pool_bytes=65536)
    wrong: list[int] = []

    def work(number: int) -> None:
        base = number * 65536
        for turn in range(12):
            data = bytes([number * 16 + turn]) * (512 * (1 + turn * 7 % 40))
            disk.write(base, data)
            if disk.read(base, len(data)) != data:
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not wrong and not any(thread.is_alive() for thread in threads)
    assert disk.reaper.the_pool().free == 16 and disk.stats().rescues == 0


def test_a_slow_io_of_another_thread_holds_nobody_up(backend: FakeBackend, open_disk: Open) -> None:
    disk = open_disk()
    backend.answer = lambda request, response: None if request.sector_number == 8 else response
    slow = threading.Thread(target=disk.read, args=(4096, 512))
    slow.start()
    backend.wait_requests(1)
    assert disk.read(0, 4096) == backend.data[:4096]
    assert slow.is_alive()
    backend.release()
    slow.join(10)
    assert not slow.is_alive()


def test_the_raw_file_reads_anywhere(backend: FakeBackend, open_disk: Open) -> None:
    disk = open_disk()
    with disk.open_raw() as raw:
        assert raw.seek(1000) == 1000 and raw.read(100) == backend.data[1000:1100] and raw.tell() == 1100
        assert raw.seek(-10, io.SEEK_END) == disk.size - 10
        assert raw.read(100) == backend.data[-10:] and raw.read(1) == b""
        raw.seek(0)
        assert raw.readall() == backend.data
        with pytest.raises(ValueError):
            raw.seek(-1)
    assert disk.read(0, 512) == backend.data[:512]


def test_a_buffered_reader_over_it(backend: FakeBackend, open_disk: Open) -> None:
    with io.BufferedReader(open_disk().open_raw(), 8192) as file:
        file.seek(511)
        assert file.read(5000) == backend.data[511:5511]


@pytest.mark.parametrize("size, depth", [(4096, 1), (65536, 3), (256 * 1024, 4), (300 * 512, 2)])
def test_chunks_come_in_order(backend: FakeBackend, open_disk: Open, size: int, depth: int) -> None:
    disk = open_disk()
    assert b"".join(bytes(chunk) for chunk in disk.chunks(size, depth)) == backend.data
    assert disk.reaper.the_pool().free == 256


def test_the_disk_is_usable_within_chunks_and_after_their_end(backend: FakeBackend, open_disk: Open) -> None:
    disk = open_disk()
    stream = disk.chunks(65536, 100)
    first = bytes(next(stream))
    assert disk.read(0, 1 << 18) == backend.data[:1 << 18] and first == backend.data[:65536]
    del stream
    disk.read(0, disk.size)
    assert disk.reaper.the_pool().free == 256


def test_a_chunk_that_the_pool_has_no_room_for(open_disk: Open) -> None:
    with pytest.raises(UsageError, match="pool_bytes"):
        open_disk(pool_bytes=65536).chunks(65536)


@pytest.mark.parametrize("length", [0, 512, 65536, 512 * 1000, 1 << 20])
def test_write_from_a_reader(backend: FakeBackend, open_disk: Open, length: int) -> None:
    data = bytes(index % 253 for index in range(length))
    assert open_disk().write_from(io.BytesIO(data), size=65536) == length
    assert backend.data[:length] == data


def test_write_from_a_reader_that_gives_too_much(backend: FakeBackend, open_disk: Open) -> None:
    disk = open_disk()
    with pytest.raises(UsageError, match="outside the disk"):
        disk.write_from(io.BytesIO(bytes(4096)), disk.size - 2048)
    with pytest.raises(UsageError, match="whole sectors"):
        disk.write_from(io.BytesIO(bytes(700)))
    assert not backend.requests


def test_counters_for_people(open_disk: Open) -> None:
    disk = open_disk()
    disk.read(0, 4096)
    disk.write(0, bytes(4096))
    stats = disk.stats()
    assert (stats.requests, stats.bytes_read, stats.bytes_written, stats.errors) == (2, 4096, 4096, 0)
    assert stats.lines()[0] == "2 requests, 4096 bytes read, 4096 written, 0 errors"


def test_nobody_who_submits_is_held_up_by_who_waits(backend: FakeBackend, open_disk: Open) -> None:
    """Every thread's request goes out while none is answered, also when many want in at the same moment."""
    disk = open_disk()
    backend.answer = lambda request, response: None
    for round_ in range(1, 13):
        threads = [threading.Thread(target=disk.read, args=(number * 512, 512)) for number in range(8)]
        for thread in threads:
            thread.start()
        backend.wait_requests(8 * round_)
        backend.release()
        for thread in threads:
            thread.join(20)
        assert not any(thread.is_alive() for thread in threads)
