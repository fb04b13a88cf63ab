"""A disk's life in xenbus: what is agreed, what is refused, and how it ends."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from tests.support.fake_backend import FakeBackend
from tests.support.fake_domain import FakeDomain
from xenpv.errors import ClosedError, DeviceError, RemoteProtocolError, StoreConnectionError, UsageError
from xenpv.wire.blkif import Protocol
from xenpv.xenbus import BackendAdverts, XenbusState
from xenpv_frontend.disk import Disk

Open = Callable[..., Disk]
Until = Callable[..., None]


def test_what_is_published(backend: FakeBackend, open_disk: Open) -> None:
    open_disk(flag=False, persistent=False)
    assert backend.frontend_key("protocol") == b"x86_64-abi"
    assert backend.frontend_key("xenpv-notify-flag") == b"0"
    assert backend.frontend_key("feature-persistent") == b"0"
    assert backend.rings is not None and len(backend.rings.queues[0].refs) == 1


def test_the_32_bit_abi(backend: FakeBackend, open_disk: Open) -> None:
    disk = open_disk(abi=32)
    assert backend.rings is not None and backend.rings.protocol is Protocol.X86_32
    assert disk.read(0, 65536) == backend.data[:65536]


@pytest.mark.parametrize("offered", [True, False])
@pytest.mark.parametrize("wanted", [None, False])
def test_the_flag_is_taken_when_both_want_it(backend: FakeBackend, open_disk: Open, offered: bool,
                                             wanted: bool | None) -> None:
    backend.adverts = BackendAdverts(notify_flag=offered)
    disk = open_disk(flag=wanted)
    both = offered and wanted is not False
    assert disk.features.flag is both and backend.frontend_key("xenpv-notify-flag") == (b"1" if both else b"0")
    assert disk.read(512, 4096) == backend.data[512:512 + 4096]


def test_a_flag_that_is_insisted_on_must_be_offered(backend: FakeBackend, open_disk: Open) -> None:
    backend.adverts = BackendAdverts()
    with pytest.raises(DeviceError, match="does not offer the notify-suppression flag"):
        open_disk(flag=True)
    assert backend.state(backend.place.frontend) is XenbusState.CLOSED


@pytest.mark.parametrize("order", range(5))
def test_ring_orders(backend: FakeBackend, open_disk: Open, order: int) -> None:
    disk = open_disk(ring_order=order)
    assert backend.rings is not None and backend.rings.order == order
    assert disk.read(0, disk.size) == backend.data


@pytest.mark.parametrize("depth, order", [(1, 0), (32, 0), (33, 1), (128, 2), (4096, 4)])
def test_the_order_has_room_for_the_depth(open_disk: Open, depth: int, order: int) -> None:
    assert open_disk(depth=depth, pool_bytes=1 << 20).features.ring_order == order


def test_an_order_that_is_not_offered(backend: FakeBackend, open_disk: Open) -> None:
    backend.adverts = BackendAdverts(max_ring_page_order=1)
    with pytest.raises(DeviceError, match="up to 1, not 3"):
        open_disk(ring_order=3)


@pytest.mark.parametrize("key, value", [
    ("max-ring-page-order", "0x10"), ("max-ring-page-order", "-1"), ("feature-xenpv-notify-flag", "yes"),
    ("sectors", ""), ("sectors", "99999999999999999999"), ("sector-size", "1000"), ("sector-size", "0"),
    ("info", "-1"), ("feature-discard", "2")])
def test_a_backend_that_writes_nonsense(backend: FakeBackend, open_disk: Open, key: str, value: str) -> None:
    backend.raw = {key: value}
    with pytest.raises(RemoteProtocolError, match=key):
        open_disk()
    assert backend.state(backend.place.frontend) is XenbusState.CLOSED


def test_a_backend_state_that_is_none(backend: FakeBackend, open_disk: Open) -> None:
    disk = open_disk()
    backend.set("state", "ninety")
    with pytest.raises(RemoteProtocolError, match="state"):
        while True:
            disk.read(0, 512)


def test_a_vbd_that_points_elsewhere(domain: FakeDomain, backend: FakeBackend, open_disk: Open) -> None:
    domain.store.write(f"{backend.place.frontend}/backend", "/local/domain/0/backend/vbd/8/51712")
    with pytest.raises(RemoteProtocolError):
        open_disk()


@pytest.mark.parametrize("vdev", ["xvda", "51712", "0xca00", 51712])
def test_a_disk_by_name_or_number(backend: FakeBackend, open_disk: Open, vdev: str) -> None:
    assert open_disk(vdev).name == "xvda"


def test_a_disk_that_is_not_there(backend: FakeBackend, open_disk: Open) -> None:
    with pytest.raises(DeviceError, match="no disk xvdb: it has xvda"):
        open_disk("xvdb")


def test_no_disks_at_all(domain: FakeDomain) -> None:
    with pytest.raises(DeviceError, match="it has none"):
        Disk.open(domain, "xvda")


@pytest.mark.parametrize("options", [{"abi": 16}, {"ring_order": 5}, {"depth": 0}, {"pool_bytes": 4096},
                                     {"spin_ns": -1}])
def test_options_that_cannot_be(domain: FakeDomain, options: dict[str, int]) -> None:
    with pytest.raises(UsageError):
        Disk.open(domain, "xvda", **options)  # type: ignore[arg-type]


def test_nobody_serves_it(domain: FakeDomain, backend: FakeBackend) -> None:
    with pytest.raises(DeviceError, match="is a backend running in domain 0"):
        Disk.open(domain, "xvda", timeout=0.1)
    assert backend.state(backend.place.frontend) is XenbusState.CLOSED


@pytest.mark.parametrize("left", ["3", "4", "5", "6"])
def test_a_state_that_a_dead_frontend_left(backend: FakeBackend, open_disk: Open, until: Until, left: str) -> None:
    backend.store.write(f"{backend.place.frontend}/state", left)
    backend.store.write(f"{backend.place.frontend}/ring-ref7", "9")
    backend.start()
    settled = XenbusState.CLOSING if left in "34" else XenbusState.INIT_WAIT
    until(lambda: backend.state() is settled, "the backend has looked at what is left")
    disk = open_disk()
    assert disk.read(0, 512) == backend.data[:512]
    assert backend.frontend_key("ring-ref7") is None


def test_close_goes_through_closing_to_closed(backend: FakeBackend, open_disk: Open) -> None:
    disk = open_disk()
    disk.close()
    assert backend.state(backend.place.frontend) is XenbusState.CLOSED
    assert backend.state() in (XenbusState.CLOSING, XenbusState.CLOSED)
    with pytest.raises(ClosedError):
        disk.read(0, 512)
    disk.close()


def test_close_without_an_answer_is_bounded(domain: FakeDomain, backend: FakeBackend, open_disk: Open) -> None:
    disk = open_disk(closing_patience=0.1)
    backend.close()
    disk.close()
    assert backend.state(backend.place.frontend) is XenbusState.CLOSED


def reading(disk: Disk, ended: list[BaseException]) -> threading.Thread:
    """A thread that reads one sector, which the backend keeps back."""
    def read() -> None:
        try:
            disk.read(0, 512)
        except BaseException as error:
            ended.append(error)

    thread = threading.Thread(target=read)
    thread.start()
    return thread


@pytest.mark.parametrize("end", ["closing", "gone", "store"])
def test_every_waiter_hears_of_the_end(domain: FakeDomain, backend: FakeBackend, open_disk: Open, end: str,
                                       monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xenpv_frontend.device.DRAIN_SECONDS", 0.1)
    backend.answer = lambda request, response: None
    disk = open_disk()
    ended: list[BaseException] = []
    threads = [reading(disk, ended) for _ in range(4)]
    backend.wait_requests(4)
    if end == "closing":
        backend.set("state", "5")
    elif end == "gone":
        domain.store.remove(backend.place.backend)
    else:
        domain.store.break_down(StoreConnectionError("the connection is gone"))
    for thread in threads:
        thread.join(10)
    want = StoreConnectionError if end == "store" else DeviceError
    assert [type(error) for error in ended] == [want] * 4
    assert all("\n" not in str(error) for error in ended)
    with pytest.raises(want):
        disk.read(0, 512)
    domain.store.broken = None


def test_close_gives_up_what_is_not_answered(backend: FakeBackend, open_disk: Open,
                                             monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xenpv_frontend.device.DRAIN_SECONDS", 0.1)
    backend.answer = lambda request, response: None
    disk = open_disk()
    ended: list[BaseException] = []
    thread = reading(disk, ended)
    backend.wait_requests(1)
    disk.close()
    thread.join(10)
    assert [type(error) for error in ended] == [ClosedError]


def test_close_lets_io_in_flight_end(backend: FakeBackend, open_disk: Open, until: Until) -> None:
    backend.answer = lambda request, response: None
    disk = open_disk()
    ended: list[BaseException] = []
    thread = reading(disk, ended)
    backend.wait_requests(1)
    closing = threading.Thread(target=disk.close)
    closing.start()
    until(lambda: disk.reaper._paused, "the disk stops taking I/O")
    backend.release()
    thread.join(10)
    closing.join(10)
    assert not ended


def test_a_resize_is_seen(backend: FakeBackend, open_disk: Open, until: Until) -> None:
    disk = open_disk()
    backend.store.write_all({f"{backend.place.backend}/sectors": "1024", f"{backend.place.backend}/state": "4"})
    until(lambda: disk.size == 1024 * 512, "the new size")
    with pytest.raises(UsageError, match="outside the disk"):
        disk.read(1024 * 512, 512)


def test_a_sector_size_does_not_change_in_use(backend: FakeBackend, open_disk: Open, until: Until) -> None:
    disk = open_disk()
    backend.store.write_all({f"{backend.place.backend}/sector-size": "4096", f"{backend.place.backend}/state": "4"})
    until(lambda: disk.reaper.failure, "the disk fails")
    with pytest.raises(RemoteProtocolError, match="sector-size changed"):
        disk.read(0, 4096)


def test_a_backend_that_attaches_anew_goes_unnoticed(backend: FakeBackend, open_disk: Open) -> None:
    disk = open_disk()
    backend.store.write_all({f"{backend.place.backend}/state": "4"})
    assert disk.read(0, 512) == backend.data[:512]
    assert backend.attached == 1 and disk.reaper.failure is None


def test_without_the_flag_any_more_a_new_ring_is_made(backend: FakeBackend, open_disk: Open,
                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xenpv_frontend.device.DRAIN_SECONDS", 0.1)
    disk = open_disk()
    backend.answer = lambda request, response: None
    results: list[bytes] = []
    threads = [threading.Thread(target=lambda at=at: results.append(disk.read(at * 512, 512))) for at in range(6)]
    for thread in threads:
        thread.start()
    backend.wait_requests(6)
    backend.answer = lambda request, response: response
    with backend._lock:
        backend.withheld.clear()  # a successor that knows nothing of them
        backend.adverts = BackendAdverts()
        backend.store.remove(f"{backend.place.backend}/feature-xenpv-notify-flag")
        backend.set("state", "4")
    for thread in threads:
        thread.join(20)
    assert backend.attached == 2 and backend.frontend_key("xenpv-notify-flag") == b"0"
    assert sorted(results) == sorted(bytes(backend.data[at * 512:at * 512 + 512]) for at in range(6))
    assert not disk.features.flag and disk.read(0, 4096) == backend.data[:4096]


def test_a_closed_disk_leaves_no_ring_in_the_store(backend: FakeBackend, open_disk: Open) -> None:
    """The next frontend may write fewer keys: with ring-page-order of ours left, the kernel's ring would be misread."""
    disk = open_disk(ring_order=2)
    assert backend.frontend_key("ring-page-order") == b"2"
    disk.close()
    keys = ("ring-page-order", "ring-ref0", "ring-ref3", "event-channel", "protocol", "feature-persistent",
            "xenpv-notify-flag")
    assert [key for key in keys if backend.frontend_key(key) is not None] == []


def test_another_frontend_s_ring_stays(domain: FakeDomain, backend: FakeBackend, open_disk: Open) -> None:
    disk = open_disk()
    domain.store.write(f"{backend.place.frontend}/event-channel", "77")
    disk.close()
    assert backend.frontend_key("event-channel") == b"77" and backend.frontend_key("ring-ref") is not None
