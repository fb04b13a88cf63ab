"""A Device whose storage takes its time to open: it waits without holding anybody up, and not for ever."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.unit.backend.test_device import PLACE, Bench, image
from xenpv.errors import StorageError
from xenpv_backend.device import OPEN_PATIENCE, OPEN_QUIETLY, Device
from xenpv_backend.storage import FileStorage, StorageBusyError

__all__ = ["image"]


class SlowBench(Bench):
    """What a Device has opened stands in `begun` until the test lets it end."""

    def __init__(self, image: Path) -> None:
        self.begun: list[Callable[[], None]] = []
        super().__init__(image)

    def new_device(self) -> Device:
        return Device(PLACE, self.store, self.connector, lambda: self.options, clock=lambda: self.now,
                      in_thread=self.begun.append)

    def turn(self) -> str:
        self.device.turn()
        return self.state

    def opened(self) -> str:
        """What was begun ends, and the Device has its turn."""
        self.begun.pop(0)()
        return self.turn()

    def error(self) -> str:
        path = PLACE.backend.replace("/backend/", "/error/backend/") + "/error"
        return self.store.nodes.get(path, b"").decode()


@pytest.fixture
def bench(image: Path) -> Iterator[SlowBench]:
    bench = SlowBench(image)
    yield bench
    bench.device.detach()


def is_free(image: Path) -> bool:
    try:
        FileStorage(str(image), readonly=False).close()
    except StorageBusyError:
        return False
    return True


def test_the_state_stays_until_the_storage_is_open(bench: SlowBench) -> None:
    assert bench.turn() == "1" and bench.device.opening
    assert bench.device.describe()["opening"]
    assert bench.opened() == "2" and not bench.device.opening


def test_events_meanwhile_open_it_no_second_time(bench: SlowBench) -> None:
    for _ in range(5):
        assert bench.turn() == "1"
    assert len(bench.begun) == 1
    assert bench.opened() == "2" and not bench.begun


def test_what_cannot_be_opened_is_said(bench: SlowBench, image: Path) -> None:
    image.unlink()
    bench.turn()
    assert bench.opened() in "56"
    assert "no such file" in bench.error()


def test_what_takes_long_is_said_until_it_is_there(bench: SlowBench) -> None:
    bench.turn()
    assert bench.device.deadline == 100.0 + OPEN_QUIETLY and not bench.error()
    bench.now += OPEN_QUIETLY
    assert bench.turn() == "1" and "not open yet" in bench.error()
    assert bench.opened() == "2"
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
    assert bench.opened() == "6" and len(bench.begun) == 1
    assert bench.opened() == "2"


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
    assert not is_free(image)
    bench.device.detach()
    assert is_free(image)


def test_an_adopted_disk_waits_for_ever(bench: SlowBench, caplog: pytest.LogCaptureFixture) -> None:
    bench.turn()
    bench.opened()
    assert bench.publish() == "4"
    bench.device.detach()
    bench.device = bench.new_device()
    for _ in range(20):
        assert bench.turn() == "4"
        assert bench.device.deadline is not None
        bench.now = bench.device.deadline
    assert [record.getMessage() for record in caplog.records if "not open yet" in record.getMessage()] == [
        f"domid 5 devid 51712: cannot be adopted yet: {bench.image} is not open yet: is its server, or what it lies on, "
        "there?"]
    assert bench.opened() == "4" and bench.agreement.adopt


def test_what_is_no_error_of_ours_is_raised_where_it_is_asked_for(bench: SlowBench, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*words: object, **more: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("xenpv_backend.device.open_storage", fails)
    bench.turn()
    with pytest.raises(ZeroDivisionError):
        bench.opened()


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
    bench.turn()
    bench.opened()
    assert bench.publish() == "4"
    bench.device.detach()
    no_thread = [RuntimeError("can't start new thread")]

    def in_thread(function: Callable[[], None]) -> None:
        if no_thread:
            raise no_thread.pop()
        function()

    bench.device = Device(PLACE, bench.store, bench.connector, lambda: bench.options, clock=lambda: bench.now,
                          in_thread=in_thread)
    assert bench.turn() == "4" and not bench.device.describe()["connected"] and not bench.device.opening
    assert bench.device.deadline is not None and bench.device.deadline > bench.now
    bench.now = bench.device.deadline
    assert bench.turn() == "4" and bench.device.describe()["connected"]
