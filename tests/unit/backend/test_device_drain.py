"""A Device whose storage does not answer: nothing is let go before it has, and nobody waits for it."""

from __future__ import annotations

import pytest

from tests.unit.backend.test_device import PLACE, Bench, bench, connected, image
from xenpv.errors import DeviceError
from xenpv.xenbus import CLOSING_PATIENCE

__all__ = ["bench", "image"]


def test_what_was_taken_is_answered_before_the_disk_closes(bench: Bench) -> None:
    connection = connected(bench)
    connection.drained = False
    before = dict(bench.store.nodes)
    assert bench.peer(6) == "4"
    assert connection.drains and not connection.closed
    connection.drained = True
    bench.device.turn()
    assert bench.state == "6" and connection.closed == [False]
    assert before.keys() == bench.store.nodes.keys()


def test_a_storage_that_hangs_is_looked_at_seldom_and_complained_of_once(
        bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    connection = connected(bench)
    connection.drained = False
    bench.peer(5)
    bench.now += CLOSING_PATIENCE
    for _ in range(30):
        bench.device.turn()
        assert bench.device.deadline is not None and bench.device.deadline > bench.now
        bench.now = bench.device.deadline
    assert bench.state == "5"
    assert [record.getMessage() for record in caplog.records if "has not answered" in record.getMessage()] == [
        "domid 5 devid 51712: the frontend does not answer: waits for the storage, which has not answered what it has taken"]


def test_a_disk_that_is_taken_away_meanwhile(bench: Bench) -> None:
    connection = connected(bench)
    connection.drained = False
    bench.store.remove(PLACE.backend)
    bench.device.turn()
    assert not bench.device.ended and not connection.closed
    connection.drained = True
    bench.device.turn()
    assert bench.device.ended and connection.closed == [False]


def test_rules_broken_while_it_drains(bench: Bench) -> None:
    connection = connected(bench)
    connection.drained = False
    assert bench.device.halted(connection)  # type: ignore[arg-type]
    bench.device.turn()
    assert bench.state == "4"
    connection.drained = True
    bench.device.turn()
    assert bench.state in "56" and connection.closed == [False]


def test_connected_again_while_it_drains_is_adopted(bench: Bench) -> None:
    """The old connection serves no more; its journal knows what the new one has to answer."""
    connection = connected(bench)
    connection.drained = False
    bench.peer(6)
    bench.peer(4)
    assert len(bench.connector.made) == 1
    connection.drained = True
    bench.device.turn()
    assert connection.closed == [True]
    assert bench.state == "4" and bench.agreement.adopt and len(bench.connector.made) == 2


def test_a_disk_that_drains_is_not_resized(bench: Bench) -> None:
    connection = connected(bench)
    connection.drained = False
    bench.peer(6)
    with pytest.raises(DeviceError):
        bench.device.resize(2 << 20)
