"""A vbd's life in xenbus, against a store in a dict and rings that only remember what was asked of them."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.fake_store import FakeStore
from xenpv.errors import EventChannelError, QuotaError, RemoteProtocolError
from xenpv.wire.blkif import Protocol
from xenpv.xenbus import CLOSING_PATIENCE, FrontendRings, RingKeys, VbdPlace, vbd_nodes
from xenpv_backend.connection import Agreement
from xenpv_backend.device import ADOPT_PATIENCE, STORAGE_PATIENCE, Device
from xenpv_backend.options import BackendOptions
from xenpv_backend.storage import FileStorage

PLACE = VbdPlace(0, 5, 51712)
STATES = "012345678"


class FakeConnection:
    def __init__(self, agreement: Agreement) -> None:
        self.agreement = agreement
        self.drained = True
        self.drains = 0
        self.closed: list[bool] = []
        self.sectors: int | None = None

    def drain(self) -> bool:
        self.drains += 1
        return self.drained

    def resize(self, sectors: int) -> None:
        self.sectors = sectors

    def holds(self, queue: Any) -> bool:
        return queue is self

    def describe(self) -> dict[str, Any]:
        return {"queues": len(self.agreement.rings.queues), "ring_entries": 32, "protocol": "x86_64-abi",
                "engine": "none", "notify_flag": self.agreement.notify_flag, "persistent": self.agreement.persistent,
                "stamp": self.agreement.stamp}

    def close(self, *, keep: bool) -> None:
        self.closed.append(keep)


class FakeConnector:
    """`failures`: the next calls of connect raise these, one each."""

    def __init__(self) -> None:
        self.made: list[FakeConnection] = []
        self.failures: list[Exception] = []
        self.forgotten = 0

    def connect(self, agreement: Agreement) -> FakeConnection:
        if self.failures:
            raise self.failures.pop(0)
        assert all(connection.closed for connection in self.made), "two connections of one vbd"
        self.made.append(FakeConnection(agreement))
        return self.made[-1]

    def forget(self, place: VbdPlace) -> None:
        self.forgotten += 1


class Bench:
    """A Device and its surroundings. Time passes when `now` is set."""

    def __init__(self, image: Path, **nodes: Any) -> None:
        self.image = image
        self.store = FakeStore()
        self.connector = FakeConnector()
        self.now = 100.0
        self.options = BackendOptions()
        made = vbd_nodes(PLACE, params=str(image), **{"writable": True, **nodes})
        for node in (made.frontend, made.backend):
            self.store.write_all({f"{node.path}/{key}": value for key, value in node.keys.items()})
        self.device = self.new_device()

    def new_device(self) -> Device:
        """A Device as a backend that starts makes it."""
        return Device(PLACE, self.store, self.connector, lambda: self.options, clock=lambda: self.now)

    def back(self, name: str) -> bytes | None:
        return self.store.nodes.get(f"{PLACE.backend}/{name}")

    @property
    def state(self) -> str:
        return (self.back("state") or b"-").decode()

    def peer(self, state: int, **keys: str) -> str:
        """The frontend writes keys and its state, the Device has its turn: the backend's state."""
        values = {name.replace("_", "-"): value for name, value in keys.items()} | {"state": str(state)}
        self.store.write_all({f"{PLACE.frontend}/{name}": value for name, value in values.items()})
        self.device.turn()
        return self.state

    def publish(self, state: int = 3, **changed: str) -> str:
        """The frontend publishes a ring and goes on to `state`."""
        rings = FrontendRings((RingKeys((8,), 3),), Protocol.X86_64, persistent=True, notify_flag=True)
        keys = {name.replace("-", "_"): value for name, value in rings.to_keys().items()}
        return self.peer(state, **(keys | changed))

    @property
    def agreement(self) -> Agreement:
        return self.connector.made[-1].agreement


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(1 << 20))
    return path


@pytest.fixture
def bench(image: Path) -> Iterator[Bench]:
    bench = Bench(image)
    yield bench
    bench.device.detach()
    bench.store.close()


def connected(bench: Bench) -> FakeConnection:
    bench.device.turn()
    assert bench.publish() == "4"
    assert bench.peer(4) == "4"
    return bench.connector.made[-1]


def test_adverts_stand_before_init_wait(bench: Bench) -> None:
    bench.device.turn()
    assert bench.state == "2"
    offered = {name: bench.back(name) for name in (
        "max-ring-page-order", "multi-queue-max-queues", "feature-persistent", "feature-flush-cache",
        "feature-barrier", "feature-xenpv-notify-flag", "feature-max-indirect-segments")}
    assert offered == {"max-ring-page-order": b"4", "multi-queue-max-queues": b"4", "feature-persistent": b"1",
                       "feature-flush-cache": b"1", "feature-barrier": b"1", "feature-xenpv-notify-flag": b"1",
                       "feature-max-indirect-segments": b"256"}


def test_connects(bench: Bench) -> None:
    connection = connected(bench)
    assert connection.agreement.notify_flag and connection.agreement.persistent and not connection.agreement.adopt
    assert bench.back("sectors") == b"2048"
    assert (bench.back("info"), bench.back("sector-size")) == (b"0", b"512")


def test_facts_and_state_are_one_transaction(bench: Bench) -> None:
    bench.device.turn()
    bench.store.written.clear()
    bench.publish()
    written = [path.rpartition("/")[2] for path, _ in bench.store.written if path.startswith(PLACE.backend)]
    assert written[-1] == "state" and "sectors" in written


@pytest.mark.parametrize("image_mode", [{"writable": False}])
def test_read_only(image: Path, image_mode: dict[str, bool]) -> None:
    bench = Bench(image, **image_mode)
    connected(bench)
    assert bench.back("info") == b"4"
    assert bench.agreement.storage.facts.readonly
    assert bench.back("feature-discard") == b"0"
    bench.device.detach()


def test_frontend_that_skips_initialised(bench: Bench) -> None:
    bench.device.turn()
    assert bench.publish(state=4) == "4"
    assert len(bench.connector.made) == 1


def test_frontend_without_our_keys(bench: Bench) -> None:
    bench.device.turn()
    assert bench.peer(3, ring_ref="8", event_channel="3") == "4"
    assert not bench.agreement.notify_flag and not bench.agreement.persistent


def test_doubled_events_change_nothing(bench: Bench) -> None:
    connected(bench)
    before = dict(bench.store.nodes)
    for _ in range(5):
        bench.device.turn()
    assert bench.store.nodes == before and len(bench.connector.made) == 1


@pytest.mark.parametrize("keys", [
    {"ring_ref": ""}, {"ring_ref": "-1"}, {"ring_ref": "0x10"}, {"ring_ref": "4294967296"}, {"event_channel": "0"},
    {"event_channel": "999999999"}, {"ring_page_order": "31"}, {"ring_page_order": "-1"},
    {"multi_queue_num_queues": "0"}, {"multi_queue_num_queues": "1000000000"}, {"protocol": "pdp11-abi"},
    {"feature_persistent": "yes"}, {"xenpv_notify_flag": "2"}, {"multi_queue_num_queues": "2"},
    {"backend": "/local/domain/0/backend/vbd/6/51712"}, {"backend_id": "1"},
])
def test_hostile_keys_end_the_connection(bench: Bench, keys: dict[str, str]) -> None:
    bench.device.turn()
    assert bench.publish(**keys) == "6"
    assert not bench.connector.made


def test_backend_node_of_another_domain(bench: Bench) -> None:
    bench.store.write(f"{PLACE.backend}/frontend-id", "6")
    bench.device.turn()
    assert bench.state == "6"


def test_frontend_state_that_is_none(bench: Bench) -> None:
    connection = connected(bench)
    bench.store.write(f"{PLACE.frontend}/state", "nonsense")
    bench.device.turn()
    bench.now += CLOSING_PATIENCE
    bench.device.turn()
    assert bench.state == "6" and connection.closed == [False]


def test_closing_by_the_frontend(bench: Bench) -> None:
    connection = connected(bench)
    assert bench.peer(5) == "5"
    assert not connection.closed
    assert bench.peer(6) == "6"
    assert connection.closed == [False] and bench.connector.forgotten


def test_closed_within_the_toolstacks_patience(bench: Bench) -> None:
    """libxl writes Closing and online=0 into our node and waits 10 s, whatever the frontend does."""
    connection = connected(bench)
    bench.store.write_all({f"{PLACE.backend}/online": "0", f"{PLACE.backend}/state": "5"})
    bench.device.turn()
    assert bench.state == "5" and bench.device.deadline == bench.now + CLOSING_PATIENCE < bench.now + 10
    bench.now = bench.device.deadline
    bench.device.turn()
    assert bench.state == "6" and connection.closed == [False] and bench.device.ended


def test_reconnect(bench: Bench) -> None:
    first = connected(bench)
    bench.peer(5)
    bench.peer(6)
    assert bench.peer(1) == "2"
    assert bench.publish(ring_ref="9") == "4"
    assert bench.agreement.rings.queues[0].refs == (9,)
    assert first.closed == [False] and not bench.agreement.adopt


def test_frontend_starts_again_without_having_closed(bench: Bench) -> None:
    first = connected(bench)
    assert bench.peer(1) == "2"
    assert first.closed == [False]


def test_vanished_frontend(bench: Bench) -> None:
    connection = connected(bench)
    bench.store.remove(PLACE.frontend)
    bench.device.turn()
    assert bench.state == "6" and connection.closed == [False] and bench.device.ended


def test_vanished_node(bench: Bench) -> None:
    connection = connected(bench)
    bench.store.remove(PLACE.backend)
    bench.device.turn()
    assert bench.device.ended and connection.closed == [False]
    assert not [path for path in bench.store.nodes if path.startswith(PLACE.backend)], "a node that is gone was made"


def test_state_written_by_another_hand_meanwhile(bench: Bench) -> None:
    bench.device.turn()
    bench.store.write_all({f"{PLACE.frontend}/ring-ref": "8", f"{PLACE.frontend}/event-channel": "3",
                           f"{PLACE.frontend}/state": "3"})
    bench.connector.connect = lambda agreement: (  # type: ignore[method-assign,assignment]
        bench.store.write(f"{PLACE.backend}/state", "5"), FakeConnection(agreement))[1]
    bench.device.turn()
    assert bench.state == "5", "Closing, which the toolstack wrote, was overwritten"


def test_ring_broken(bench: Bench) -> None:
    connection = connected(bench)
    assert bench.device.halted(connection)  # type: ignore[arg-type]
    bench.device.turn()
    assert bench.state == "6" and connection.closed == [False]


def test_another_ring_broken(bench: Bench) -> None:
    connected(bench)
    assert not bench.device.halted(object())  # type: ignore[arg-type]
    bench.device.turn()
    assert bench.state == "4"


def test_ring_that_cannot_be_mapped(bench: Bench) -> None:
    bench.device.turn()
    bench.connector.failures = [RemoteProtocolError("not granted")]
    assert bench.publish() == "6"
    assert bench.store.nodes["/local/domain/0/error/backend/vbd/5/51712/error"] == b"not granted"


def test_reason_goes_when_it_is_mended(bench: Bench) -> None:
    bench.device.turn()
    bench.connector.failures = [RemoteProtocolError("not granted")]
    bench.publish()
    bench.peer(6)
    bench.peer(1)
    assert bench.publish() == "4"
    assert not [path for path in bench.store.nodes if "/error/" in path]


def test_missing_image_is_not_tried_for_ever(bench: Bench) -> None:
    bench.image.unlink()
    bench.device.turn()
    assert bench.state == "6"
    bench.device.turn()
    assert (bench.state, bench.device.deadline) == ("6", None)


def test_image_that_comes_later(bench: Bench) -> None:
    content = bench.image.read_bytes()
    bench.image.unlink()
    bench.device.turn()
    bench.image.write_bytes(content)
    bench.peer(6)
    assert bench.peer(1) == "2"


def test_image_in_use_is_waited_for(bench: Bench) -> None:
    with FileStorage(str(bench.image), readonly=False):
        bench.device.turn()
        assert bench.state == "1" and bench.device.deadline is not None
    bench.now = bench.device.deadline
    bench.device.turn()
    assert bench.state == "2"


def test_image_in_use_is_not_waited_for_for_ever(bench: Bench) -> None:
    with FileStorage(str(bench.image), readonly=False):
        bench.device.turn()
        bench.now += STORAGE_PATIENCE
        bench.device.turn()
        assert bench.state == "6"


def test_adopts_what_a_dead_backend_left(bench: Bench) -> None:
    connected(bench)
    bench.device.detach()
    assert bench.connector.made[0].closed == [True] and bench.state == "4"
    bench.store.written.clear()
    bench.device = bench.new_device()
    bench.device.turn()
    assert bench.agreement.adopt and bench.agreement.notify_flag
    assert not bench.store.written, "adoption writes nothing"


def test_adopts_with_the_adverts_that_stand(bench: Bench) -> None:
    connected(bench)
    bench.device.detach()
    bench.store.write(f"{PLACE.backend}/feature-xenpv-notify-flag", "0")
    bench.device = bench.new_device()
    bench.device.turn()
    assert not bench.agreement.notify_flag


def test_adopts_and_tells_a_new_size(bench: Bench) -> None:
    connected(bench)
    bench.device.detach()
    with open(bench.image, "ab") as file:
        file.truncate(2 << 20)
    bench.device = bench.new_device()
    bench.device.turn()
    assert (bench.back("sectors"), bench.state) == (b"4096", "4")
    assert bench.agreement.disk.sectors == 4096


def test_adoption_waits_for_the_image(bench: Bench) -> None:
    """A stock frontend gives its disk up for ever when it sees 5 or 6, so nothing but Connected is written."""
    connected(bench)
    bench.device.detach()
    bench.device = bench.new_device()
    with FileStorage(str(bench.image), readonly=False):
        for _ in range(3):
            bench.now += STORAGE_PATIENCE
            bench.device.turn()
            assert bench.state == "4" and bench.device.deadline is not None
    bench.now = bench.device.deadline
    bench.device.turn()
    assert bench.agreement.adopt


def test_adoption_waits_for_the_ports(bench: Bench) -> None:
    connected(bench)
    bench.device.detach()
    bench.device = bench.new_device()
    bench.connector.failures = [EventChannelError("bound"), EventChannelError("bound")]
    bench.device.turn()
    bench.device.turn()
    assert bench.state == "4"
    bench.device.turn()
    assert bench.agreement.adopt


def test_adoption_of_a_ring_that_is_gone_ends(bench: Bench) -> None:
    connected(bench)
    bench.device.detach()
    bench.device = bench.new_device()
    bench.connector.failures = [EventChannelError("no such port")] * 2
    bench.device.turn()
    bench.now += ADOPT_PATIENCE
    bench.device.turn()
    assert bench.state == "6"


def test_another_backends_disk_is_left_alone(bench: Bench) -> None:
    connected(bench)
    bench.device.detach()
    bench.store.remove(f"{PLACE.backend}/feature-xenpv-notify-flag")
    bench.device = bench.new_device()
    bench.device.turn()
    assert bench.state == "4" and len(bench.connector.made) == 1


def test_adverts_of_a_predecessor_are_kept(bench: Bench) -> None:
    bench.device.turn()
    bench.device.detach()
    bench.store.write(f"{PLACE.backend}/max-ring-page-order", "1")
    bench.device = bench.new_device()
    bench.device.turn()
    assert (bench.state, bench.back("max-ring-page-order")) == ("2", b"1")


def test_what_the_kernels_backend_left_goes(bench: Bench) -> None:
    bench.options = BackendOptions(max_indirect_segments=0)
    bench.store.write_all({f"{PLACE.backend}/feature-max-indirect-segments": "256", f"{PLACE.backend}/state": "2"})
    bench.device.turn()
    assert bench.back("feature-max-indirect-segments") is None
    assert bench.publish() == "4"


def test_store_that_fails_is_asked_again(bench: Bench) -> None:
    bench.store.failures = [QuotaError("full", "ENOSPC")]
    bench.device.turn()
    assert bench.state == "1" and bench.device.deadline is not None
    bench.device.turn()
    assert bench.state == "2"


def test_resize(bench: Bench) -> None:
    connection = connected(bench)
    bench.store.written.clear()
    assert bench.device.resize(2 << 20).result(0) == {"bytes": 2 << 20}
    assert connection.sectors == 4096
    assert bench.store.written == [(f"{PLACE.backend}/sectors", b"4096"), (f"{PLACE.backend}/state", b"4")]


def test_guest_cannot_flood_the_log(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="xenpv.backend"):
        for _ in range(200):
            bench.publish(ring_ref="nonsense")
            bench.peer(6)
            bench.peer(1)
    assert 0 < len(caplog.records) <= 25
    assert all("domid 5 devid 51712" in record.getMessage() for record in caplog.records)


@pytest.mark.parametrize("seed", range(20))
def test_flapping(image: Path, seed: int) -> None:
    """Any states, in any order, from both sides, nodes that go and come: never two connections, none left behind."""
    chance = random.Random(seed)
    bench = Bench(image)
    for _ in range(100):
        match chance.randrange(10):
            case 0:
                bench.store.write(f"{PLACE.backend}/state", chance.choice(STATES[1:]))
            case 1:
                bench.store.remove(f"{PLACE.frontend}/state")
            case 2:
                bench.now += chance.random() * CLOSING_PATIENCE
            case 7 if bench.connector.made:
                bench.connector.made[-1].drained = chance.random() < 0.5
            case 3 if bench.connector.made and not bench.connector.made[-1].closed:
                bench.device.halted(bench.connector.made[-1])  # type: ignore[arg-type]
            case 4 | 5:
                bench.publish(chance.choice((3, 4)))
            case _:
                bench.peer(int(chance.choice(STATES)))
        bench.device.turn()
        while bench.device.ended:
            bench.peer(1)
            bench.device = bench.new_device()
            bench.device.turn()
        hangs = bench.connector.made and not bench.connector.made[-1].drained
        assert bench.state in ("12345678" if hangs else "123456"), "a state that no vbd has"
    for made in bench.connector.made:
        made.drained = True
    bench.store.remove(PLACE.backend)
    bench.device.turn()
    assert bench.device.ended and all(len(made.closed) == 1 for made in bench.connector.made)
    FileStorage(str(image), readonly=False).close()
