"""A Device whose storage takes its time to open, to say its size, or to close: it waits without holding anybody up."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.unit.backend.test_device import PLACE, Bench, FakeConnection, image
from xenpv.errors import DeviceError, StorageError
from xenpv_backend.device import OPEN_PATIENCE, OPEN_QUIETLY, Device
from xenpv_backend.opening import Opener
from xenpv_backend.storage import FileStorage, StorageBusyError

__all__ = ["image"]


class SlowBench(Bench):
    """What a Device has another thread do stands in `begun` until the test lets it end."""

    def __init__(self, image: Path) -> None:
        self.begun: list[Callable[[], None]] = []
        super().__init__(image)

    def new_device(self) -> Device:
        return Device(PLACE, self.store, self.connector, lambda: self.options, clock=lambda: self.now,
                      in_thread=lambda function, *, awaited: self.begun.append(function))

    def turn(self) -> str:
        self.device.turn()
        return self.state

    def ends(self) -> str:
        """What was begun ends, and the Device has its turn."""
        self.begun.pop(0)()
        return self.turn()

    def connect(self) -> FakeConnection:
        self.turn()
        assert self.ends() == "2"
        assert self.publish() == "4" and self.peer(4) == "4"
        return self.connector.made[-1]

    def error(self) -> str:
        path = PLACE.backend.replace("/backend/", "/error/backend/") + "/error"
        return self.store.nodes.get(path, b"").decode()


@pytest.fixture
def bench(image: Path) -> Iterator[SlowBench]:
    bench = SlowBench(image)
    yield bench
    bench.device.detach()
    for function in bench.begun:
        function()


def is_free(image: Path) -> bool:
    try:
        FileStorage(str(image), readonly=False).close()
    except StorageBusyError:
        return False
    return True


def test_the_state_stays_until_the_storage_is_open(bench: SlowBench) -> None:
    assert bench.turn() == "1" and bench.device.opening
    assert bench.device.describe()["opening"]
    assert bench.ends() == "2" and not bench.device.opening


def test_events_meanwhile_open_it_no_second_time(bench: SlowBench) -> None:
    for _ in range(5):
        assert bench.turn() == "1"
    assert len(bench.begun) == 1
    assert bench.ends() == "2" and not bench.begun


def test_what_cannot_be_opened_is_said(bench: SlowBench, image: Path) -> None:
    image.unlink()
    bench.turn()
    assert bench.ends() in "56"
    assert "no such file" in bench.error()


def test_what_takes_long_is_said_until_it_is_there(bench: SlowBench) -> None:
    bench.turn()
    assert bench.device.deadline == 100.0 + OPEN_QUIETLY and not bench.error()
    bench.now += OPEN_QUIETLY
    assert bench.turn() == "1" and "not open yet" in bench.error()
    assert bench.ends() == "2"
    assert bench.publish() == "4" and not bench.error()


def test_a_storage_that_never_opens_is_given_up(bench: SlowBench, image: Path) -> None:
    bench.turn()
    while bench.state == "1":
        assert bench.device.deadline is not None and bench.device.deadline > bench.now
        bench.now = bench.device.deadline
        bench.turn()
    assert bench.state == "6" and bench.now == 100.0 + OPEN_PATIENCE
    assert "not open yet" in bench.error()
    bench.begun.pop()()
    assert is_free(image)


def test_what_was_given_up_ends_before_anything_else_is_opened(bench: SlowBench) -> None:
    bench.turn()
    bench.now += OPEN_PATIENCE
    assert bench.turn() == "6"
    bench.peer(4)
    assert bench.peer(1) == "6"
    assert len(bench.begun) == 1
    assert bench.ends() == "6" and len(bench.begun) == 1
    assert bench.ends() == "2"


def test_a_disk_that_goes_away_meanwhile(bench: SlowBench, image: Path) -> None:
    bench.turn()
    bench.store.remove(PLACE.backend)
    bench.device.turn()
    assert bench.device.ended
    bench.begun.pop()()
    assert is_free(image)


def test_a_storage_that_opened_and_was_not_asked_for(bench: SlowBench, image: Path) -> None:
    bench.turn()
    bench.begun.pop()()
    bench.device.detach()
    assert not is_free(image)
    bench.begun.pop()()
    assert is_free(image)


def test_an_adopted_disk_waits_for_ever(bench: SlowBench, caplog: pytest.LogCaptureFixture) -> None:
    bench.connect()
    bench.device.detach()
    bench.begun.pop()()
    bench.device = bench.new_device()
    for _ in range(20):
        assert bench.turn() == "4"
        assert bench.device.deadline is not None
        bench.now = bench.device.deadline
    assert [record.getMessage() for record in caplog.records if "not open yet" in record.getMessage()] == [
        f"domid 5 devid 51712: cannot be adopted yet: {bench.image} is not open yet: is its server, or what it lies on, "
        "there?"]
    assert bench.ends() == "4" and bench.agreement.adopt


def test_what_is_no_error_of_ours_is_raised_where_it_is_asked_for(bench: SlowBench, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*words: object, **more: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("xenpv_backend.device.open_storage", fails)
    bench.turn()
    with pytest.raises(ZeroDivisionError):
        bench.ends()


def test_closing_what_was_given_up_may_fail(bench: SlowBench, caplog: pytest.LogCaptureFixture,
                                            monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(storage: FileStorage) -> None:
        close(storage)
        raise StorageError("it hurts")

    close = FileStorage.close
    monkeypatch.setattr(FileStorage, "close", fails)
    bench.turn()
    bench.device.detach()
    bench.begun.pop()()
    assert "it hurts" in caplog.text


def test_without_a_thread_it_is_tried_again(bench: SlowBench) -> None:
    """An adopted disk, whose guest waits: nothing has begun, so nobody waits for its end."""
    bench.connect()
    bench.device.detach()
    bench.begun.pop()()
    no_thread = [RuntimeError("can't start new thread")]

    def in_thread(function: Callable[[], None], *, awaited: bool) -> None:
        if no_thread:
            raise no_thread.pop()
        function()

    bench.device = Device(PLACE, bench.store, bench.connector, lambda: bench.options, clock=lambda: bench.now,
                          in_thread=in_thread)
    assert bench.turn() == "4" and not bench.device.describe()["connected"] and not bench.device.opening
    assert bench.device.deadline is not None and bench.device.deadline > bench.now
    bench.now = bench.device.deadline
    assert bench.turn() == "4" and bench.device.describe()["connected"]


def no_thread(function: Callable[[], None], *, awaited: bool) -> None:
    raise RuntimeError("can't start new thread")


# Closing.

def test_without_a_thread_it_is_closed_all_the_same(bench: SlowBench, image: Path) -> None:
    bench.connect()
    bench.device._opener = Opener(no_thread)
    assert bench.peer(6) == "6" and is_free(image)


def test_a_disk_is_closed_before_its_storage(bench: SlowBench, image: Path) -> None:
    bench.connect()
    assert bench.peer(6) == "6"
    assert len(bench.begun) == 1 and not is_free(image)
    assert bench.ends() == "6" and is_free(image)


def test_a_storage_that_closes_is_not_opened_meanwhile(bench: SlowBench) -> None:
    bench.connect()
    bench.peer(6)
    assert bench.peer(1) == "6" and len(bench.begun) == 1
    assert bench.ends() == "6" and len(bench.begun) == 1
    assert bench.ends() == "2"


def test_an_end_closes_it_once(bench: SlowBench, image: Path) -> None:
    bench.connect()
    bench.peer(6)
    bench.store.remove(PLACE.backend)
    bench.device.turn()
    assert bench.device.ended and len(bench.begun) == 1
    bench.begun.pop()()
    assert is_free(image)


# Asking for the size.

def test_a_size_comes_when_the_storage_has_said_it(bench: SlowBench) -> None:
    connection = bench.connect()
    size = bench.device.resize(2 << 20)
    assert bench.turn() == "4" and not size.done() and connection.sectors is None
    bench.ends()
    assert size.result(0) == {"bytes": 2 << 20} and connection.sectors == 4096
    assert bench.back("sectors") == b"4096"


def test_a_disk_is_resized_once_at_a_time(bench: SlowBench) -> None:
    bench.connect()
    first = bench.device.resize(2 << 20)
    with pytest.raises(DeviceError, match="is being resized already"):
        bench.device.resize()
    bench.ends()
    second = bench.device.resize()
    bench.ends()
    assert first.result(0) == second.result(0) == {"bytes": 2 << 20}


def test_without_a_thread_it_may_be_asked_again(bench: SlowBench) -> None:
    bench.connect()
    opener, bench.device._opener = bench.device._opener, Opener(no_thread)
    with pytest.raises(StorageError, match="wants a thread"):
        bench.device.resize(2 << 20)
    bench.device._opener = opener
    size = bench.device.resize(2 << 20)
    bench.ends()
    assert size.result(0) == {"bytes": 2 << 20}


def test_what_the_storage_refuses_is_said(bench: SlowBench) -> None:
    connection = bench.connect()
    size = bench.device.resize(512)
    bench.ends()
    assert isinstance(size.exception(0), StorageError) and connection.sectors is None


def test_a_disk_that_ends_while_its_storage_is_asked(bench: SlowBench, image: Path) -> None:
    bench.connect()
    size = bench.device.resize(2 << 20)
    bench.store.remove(PLACE.backend)
    bench.device.turn()
    assert bench.device.ended and isinstance(size.exception(0), DeviceError)
    assert len(bench.begun) == 1 and not is_free(image)
    bench.begun.pop()()
    assert is_free(image)


def test_a_disk_that_was_let_go_when_its_storage_answers(bench: SlowBench) -> None:
    bench.connect()
    size = bench.device.resize(2 << 20)
    bench.peer(1)
    bench.ends()
    assert bench.state == "2" and isinstance(size.exception(0), DeviceError)
