"""A disk with several queues: what is agreed, which queue an I/O takes, and how the queues end and are made anew together."""

from __future__ import annotations

import io
import threading
from array import array
from collections.abc import Callable

import pytest

from tests.support.fake_backend import FakeBackend
from tests.support.fake_domain import FakeDomain
from xenpv.errors import ClosedError, DeviceError, RemoteProtocolError, UsageError
from xenpv.wire.blkif import Op, Request, Response
from xenpv.xenbus import BackendAdverts, XenbusState
from xenpv_frontend.disk import Disk
from xenpv_frontend.pieces import Piece
from xenpv_frontend.reapers import Reapers

Open = Callable[..., Disk]
Until = Callable[..., None]
LARGE = 1 << 20
MANY = BackendAdverts(max_queues=4, max_ring_page_order=4, persistent=True, flush_cache=True, discard=True, notify_flag=True,
                      max_indirect_segments=256)


@pytest.fixture
def many(backend: FakeBackend) -> FakeBackend:
    """Offers four queues."""
    backend.adverts = MANY
    return backend


def in_threads(count: int, work: Callable[[int], object]) -> None:
    """work(number) in that many threads, one begun after the other's first I/O, so that their turns are known."""
    threads = [threading.Thread(target=work, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
        thread.join(20)


# What is agreed.

@pytest.mark.parametrize("wanted, order", [(2, 0), (3, 2), (4, 4)])
def test_each_queue_has_a_ring_and_a_port(many: FakeBackend, open_disk: Open, wanted: int, order: int) -> None:
    disk = open_disk(queues=wanted, ring_order=order)
    assert many.frontend_key("multi-queue-num-queues") == b"%d" % wanted
    assert many.frontend_key("event-channel") is None and many.frontend_key("ring-ref") is None
    assert many.rings is not None and (len(many.rings.queues), many.rings.order) == (wanted, order)
    assert disk.features.queues == wanted and disk.read(0, disk.size) == many.data


def test_a_backend_that_knows_of_no_queues_gets_one_ring_the_plain_way(backend: FakeBackend, open_disk: Open) -> None:
    backend.adverts = BackendAdverts()
    backend.start()
    backend.store.remove(f"{backend.place.backend}/multi-queue-max-queues")
    disk = open_disk(queues=4)
    assert backend.frontend_key("multi-queue-num-queues") is None and backend.frontend_key("queue-0") is None
    assert backend.frontend_key("ring-ref") is not None and backend.frontend_key("event-channel") is not None
    assert disk.features.queues == 1 and disk.read(0, disk.size) == backend.data


@pytest.mark.parametrize("options", [{}, {"queues": 1}, {"queues": 4, "ignore": ["multi-queue-max-queues"]}])
def test_unasked_there_is_one_ring(many: FakeBackend, open_disk: Open, options: dict[str, object]) -> None:
    disk = open_disk(**options)
    assert many.frontend_key("multi-queue-num-queues") is None and many.frontend_key("ring-ref") is not None
    assert disk.features.queues == 1 and disk.read(0, 4096) == many.data[:4096]


@pytest.mark.parametrize("offered, agreed", [("2", 2), ("4294967295", 3)])
def test_no_more_than_is_offered_and_wanted(many: FakeBackend, open_disk: Open, offered: str, agreed: int) -> None:
    many.raw = {"multi-queue-max-queues": offered}
    assert open_disk(queues=3).features.queues == agreed


@pytest.mark.parametrize("queues", [1, 4])
@pytest.mark.parametrize("said", ["0", "-1", "", "four", "0x4", "4294967296", "9" * 500])
def test_an_offer_that_is_none_is_refused(many: FakeBackend, open_disk: Open, said: str, queues: int) -> None:
    many.raw = {"multi-queue-max-queues": said}
    with pytest.raises(RemoteProtocolError, match="multi-queue-max-queues is .*: want") as caught:
        open_disk(queues=queues)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400
    assert many.state(many.place.frontend) is XenbusState.CLOSED


@pytest.mark.parametrize("queues", [0, -1, 17])
def test_queues_that_cannot_be(domain: FakeDomain, queues: int) -> None:
    with pytest.raises(UsageError, match="queues is 1 to 16"):
        Disk.open(domain, "xvda", queues=queues)


def test_a_disk_that_gets_no_memory_for_its_last_ring(domain: FakeDomain, many: FakeBackend, open_disk: Open) -> None:
    domain.grants.limit = 256 + 3 * (1 + 32)
    with pytest.raises(Exception, match="no more pages"):
        open_disk(queues=4)
    assert many.state(many.place.frontend) is XenbusState.CLOSED and not domain.events.channels


# Which queue an I/O takes.

def test_a_thread_keeps_its_queue(many: FakeBackend, open_disk: Open) -> None:
    disk = open_disk(queues=4)

    def work(number: int) -> None:
        for at in range(3):
            disk.read(at * 4096, 4096)
        disk.flush()
        disk.discard(1 << 19, 4096)

    in_threads(5, work)
    disk.read(0, 512)
    assert many.served == [queue for queue in (1, 2, 3, 0, 1) for _ in range(5)] + [0]


def test_a_long_read_goes_over_all_queues(many: FakeBackend, open_disk: Open) -> None:
    disk = open_disk(queues=4, indirect=64, pool_bytes=LARGE)
    assert disk.read(0, LARGE) == many.data
    assert sorted(many.served) == [0, 1, 2, 3]


def test_streams_go_over_all_queues(many: FakeBackend, open_disk: Open) -> None:
    disk = open_disk(queues=4)
    data = bytes(many.data[::-1])
    disk.write_from(io.BytesIO(data), size=LARGE // 8)
    assert sorted(many.served) == [0, 0, 1, 1, 2, 2, 3, 3]
    assert b"".join(bytes(chunk) for chunk in disk.chunks(LARGE // 8)) == data == many.data
    assert sorted(many.served[8:]) == [0, 0, 1, 1, 2, 2, 3, 3]


def test_a_batch_stays_on_its_queue(many: FakeBackend, open_disk: Open) -> None:
    disk = open_disk(queues=3)
    for queue in (0, 1, 2, 0):
        with disk.batch(8, 512) as batch:
            done = len(many.served)
            for _ in range(2):
                batch.exchange(Op.READ, array("Q", range(8)), at_least=8)
            assert many.served[done:] == [queue] * 16


def test_counters_of_each_queue_and_of_all(many: FakeBackend, open_disk: Open) -> None:
    disk = open_disk(queues=3, profile=True)
    in_threads(2, lambda number: [disk.read(0, 512) for _ in range(number + 1)])
    assert [counters.requests for counters in disk.queue_stats()] == [0, 1, 2]
    latency = disk.latency()
    assert disk.stats().requests == 3 and latency is not None and latency.count == 3


def test_a_queue_that_is_stuck_holds_up_no_other(many: FakeBackend, open_disk: Open) -> None:
    def answer(request: Request, response: Response) -> Response | None:
        return None if request.sector_number == 0 else response

    many.answer = answer
    disk = open_disk(queues=2)
    stuck = threading.Thread(target=disk.read, args=(0, 512))
    stuck.start()
    many.wait_requests(1)
    in_threads(1, lambda number: disk.read(4096, 4096))
    assert many.served == [1, 0] and stuck.is_alive()
    many.release()
    stuck.join(20)
    assert not stuck.is_alive()


def test_threads_batches_and_streams_at_once(many: FakeBackend, open_disk: Open) -> None:
    disk = open_disk(queues=4, pool_bytes=4 << 20)
    wrong: list[str] = []

    def read(number: int) -> None:
        for at in range(number * 512, LARGE - 8192, 32768):
            if disk.read(at, 8192) != many.data[at:at + 8192]:
                wrong.append(f"read at {at}")

    def stream(_: int) -> None:
        if b"".join(bytes(chunk) for chunk in disk.chunks(65536)) != many.data:
            wrong.append("chunks")

    def batch(_: int) -> None:
        with disk.batch(16, 4096) as lot:
            for first in range(0, 2048 - 256, 256):
                lot.exchange(Op.READ, array("Q", range(first, first + 128, 8)), at_least=16)
                wrong.extend(f"batch at {sector}" for slot, sector in zip(lot.slots, lot.sectors, strict=True)
                             if lot.buffer(slot) != many.data[sector * 512:sector * 512 + 4096])

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3) for work in (read, stream, batch)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not wrong and disk.reaper.failure is None and disk.reaper.the_pool().free == disk.reaper.the_pool().pages
    assert set(many.served) == {0, 1, 2, 3}


@pytest.mark.parametrize("queues", [1, 3])
def test_pages_of_ios_whose_waiters_went_away_come_back(many: FakeBackend, open_disk: Open, queues: int) -> None:
    """All of the pool is theirs, on queues that nobody waits in, when the next one needs a page."""
    disk = open_disk(queues=queues, pool_bytes=8 * 4096)
    many.answer = lambda request, response: None
    pool = disk.reaper.the_pool()
    pieces = [Piece(Op.READ, 8 * number, 4096, pool.take_waiting(1)) for number in range(8)]
    disk.reaper.submit(pieces)
    for piece in pieces:
        disk.reaper.leave(piece)
    many.wait_requests(8)
    many.answer = lambda request, response: response
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append(disk.read(512, 512)), daemon=True)
    reader.start()
    many.release()
    reader.join(20)
    assert read == [many.data[512:1024]]


# How the queues end.

def waiting(disk: Disk, many: FakeBackend, count: int = 4) -> tuple[list[threading.Thread], list[object]]:
    """That many threads, each on the next queue with a read that the backend keeps back; and what becomes of them."""
    many.answer = lambda request, response: None
    ends: list[object] = []

    def read(number: int) -> None:
        try:
            ends.append(disk.read(number * 512, 512))
        except BaseException as error:
            ends.append(type(error))

    before = len(many.requests)
    threads = [threading.Thread(target=read, args=(number,)) for number in range(count)]
    for number, thread in enumerate(threads, 1):
        thread.start()
        many.wait_requests(before + number)
    return threads, ends


def joined(threads: list[threading.Thread]) -> None:
    for thread in threads:
        thread.join(20)
    assert not any(thread.is_alive() for thread in threads)


def test_every_waiter_on_every_queue_hears_of_the_end(many: FakeBackend, open_disk: Open,
                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xenpv_frontend.device.DRAIN_SECONDS", 0.1)
    disk = open_disk(queues=3)
    threads, ends = waiting(disk, many, 6)
    assert many.served == [1, 2, 0, 1, 2, 0]
    many.set("state", "5")
    joined(threads)
    assert ends == [DeviceError] * 6


def test_close_lets_io_in_flight_end_on_every_queue(many: FakeBackend, open_disk: Open, until: Until) -> None:
    disk = open_disk(queues=3)
    threads, ends = waiting(disk, many, 3)
    closing = threading.Thread(target=disk.close)
    closing.start()
    until(lambda: all(reaper._paused for reaper in disk.reaper.each()), "the disk stops taking I/O")
    many.release()
    joined([*threads, closing])
    assert sorted(end for end in ends if isinstance(end, bytes)) == sorted(bytes(many.data[at:at + 512])
                                                                           for at in (0, 512, 1024))
    with pytest.raises(ClosedError):
        disk.read(0, 512)


@pytest.mark.parametrize("queue", [0, 2])
def test_a_queue_whose_rules_are_broken_ends_the_disk(many: FakeBackend, open_disk: Open, queue: int) -> None:
    disk = open_disk(queues=3)
    threads, ends = waiting(disk, many, 3)
    with many._lock:
        for number, response in many.withheld:
            if number == queue:  # an id that was never sent
                many._put(number, Response(response.id + (1 << 40), response.operation, 0))
    joined(threads)
    assert ends == [RemoteProtocolError] * 3
    with pytest.raises(RemoteProtocolError):
        disk.flush()


def test_a_closed_disk_leaves_no_queue_in_the_store(many: FakeBackend, open_disk: Open) -> None:
    disk = open_disk(queues=4, ring_order=2)
    assert many.frontend_key("queue-3/ring-ref3") is not None
    disk.close()
    left = [path for path in many.store.nodes if path.startswith(f"{many.place.frontend}/")]
    assert not [path for path in left if "queue" in path or "ring" in path or "event-channel" in path]


def test_a_dead_frontend_s_queues_are_removed(many: FakeBackend, open_disk: Open) -> None:
    front = many.place.frontend
    many.store.write_all({f"{front}/multi-queue-num-queues": "4", f"{front}/queue-3": "", f"{front}/queue-3/ring-ref": "9"})
    disk = open_disk()
    assert many.frontend_key("queue-3") is None and many.frontend_key("queue-3/ring-ref") is None
    assert disk.read(0, 512) == many.data[:512]


# New rings under what is in flight.

def renew(many: FakeBackend, adverts: BackendAdverts) -> None:
    """A successor that knows nothing of what is in flight, and offers something else: the flag is gone."""
    many.answer = lambda request, response: response
    with many._lock:
        many.withheld.clear()
        many.adverts = adverts
        many.store.remove(f"{many.place.backend}/feature-xenpv-notify-flag")
        many.store.write_all({f"{many.place.backend}/{name}": value for name, value in adverts.to_keys().items()})
        many.set("state", "4")


@pytest.mark.parametrize("after", [1, 2, 3, 4])
def test_new_rings_take_what_was_in_flight(many: FakeBackend, open_disk: Open, monkeypatch: pytest.MonkeyPatch,
                                           after: int) -> None:
    """Also fewer ones: each I/O ends right, that of a batch too, and each once."""
    monkeypatch.setattr("xenpv_frontend.device.DRAIN_SECONDS", 0.1)
    disk = open_disk(queues=4)
    batches = [disk.batch(4, 512) for _ in range(4)]
    many.answer = lambda request, response: None
    for number, batch in enumerate(batches):
        batch.exchange(Op.READ, array("Q", range(100 * number, 100 * number + 4)))
    many.wait_requests(16)
    threads, ends = waiting(disk, many, 8)
    renew(many, BackendAdverts(max_queues=after))
    joined(threads)
    assert sorted(end for end in ends if isinstance(end, bytes)) == sorted(
        bytes(many.data[at * 512:at * 512 + 512]) for at in range(8))
    for number, batch in enumerate(batches):
        assert sorted(record for record in brought(batch, 4)) == [
            (sector, bytes(many.data[sector * 512:sector * 512 + 512])) for sector in range(100 * number, 100 * number + 4)]
        assert batch.exchange(Op.READ, array("Q", [8]), at_least=1) == 1
        batch.close()
    assert (disk.features.queues, many.attached, len(disk.queue_stats())) == (after, 2, after)
    assert disk.read(0, disk.size) == many.data
    assert disk.reaper.the_pool().free == disk.reaper.the_pool().pages


def brought(batch: object, count: int) -> list[tuple[int, bytes]]:
    """Sector and bytes of each of `count` I/Os that are in flight."""
    from xenpv_frontend.batch import Batch

    assert isinstance(batch, Batch)
    found: list[tuple[int, bytes]] = []
    while len(found) < count:
        batch.exchange(Op.READ, array("Q"), at_least=count - len(found), timeout=20)
        found += [(sector, bytes(batch.buffer(slot))) for slot, sector in zip(batch.slots, batch.sectors, strict=True)]
    return found


def test_a_batch_that_waits_while_its_queue_goes(many: FakeBackend, open_disk: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xenpv_frontend.device.DRAIN_SECONDS", 0.1)
    disk = open_disk(queues=2)
    batches = [disk.batch(4, 512) for _ in range(2)]
    many.answer = lambda request, response: None
    counts: list[int] = []
    threads = [threading.Thread(target=lambda batch=batch: counts.append(  # type: ignore[misc]
        batch.exchange(Op.READ, array("Q", range(4)), at_least=4))) for batch in batches]
    for thread in threads:
        thread.start()
    many.wait_requests(8)
    renew(many, BackendAdverts(max_queues=1))
    joined(threads)
    assert counts == [4, 4]
    for batch in batches:
        batch.close()


def test_more_queues_come_with_a_backend_that_offers_more(many: FakeBackend, open_disk: Open, until: Until) -> None:
    many.adverts = BackendAdverts(max_queues=1, notify_flag=True)
    disk = open_disk(queues=3)
    disk.read(0, 512)
    renew(many, BackendAdverts(max_queues=4))
    until(lambda: disk.features.queues == 3 and not disk.reaper.each()[-1]._paused, "three queues")
    assert disk.read(0, disk.size) == many.data
    in_threads(3, lambda number: disk.read(0, 512))
    assert isinstance(disk.reaper, Reapers) and all(counters.requests for counters in disk.queue_stats())


def test_one_queue_fewer_is_reason_enough_for_new_rings(many: FakeBackend, open_disk: Open, until: Until) -> None:
    many.adverts = BackendAdverts(max_queues=3)
    disk = open_disk(queues=3)
    with many._lock:
        many.adverts = BackendAdverts(max_queues=2)
        many.store.write_all({f"{many.place.backend}/multi-queue-max-queues": "2", f"{many.place.backend}/state": "4"})
    until(lambda: many.attached == 2, "new rings")
    assert disk.read(0, disk.size) == many.data and disk.features.queues == 2
