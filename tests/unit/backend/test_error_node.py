"""Why a vbd does not work, in the store, and what is left of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.store_server import StoreServer
from xenpv.store import XenStore
from xenpv.xenbus import VbdPlace
from xenpv_backend.error_node import ErrorNode
from xenpv_backend.log import VbdLog


@pytest.fixture
def store(tmp_path: Path) -> Iterator[XenStore]:
    with StoreServer(tmp_path) as server, XenStore(server.path()) as made:
        yield made


def node(store: XenStore, place: VbdPlace) -> ErrorNode:
    return ErrorNode(store, place, VbdLog(place))


def test_nothing_is_left_in_dom0(store: XenStore) -> None:
    store.mkdir("/local/domain/0/backend")
    before = list(store.walk("/local/domain/0"))
    one, other = (node(store, VbdPlace(0, 5, devid)) for devid in (51712, 51728))
    one.say("there is no such file")
    assert store.read("/local/domain/0/error/backend/vbd/5/51712/error") == b"there is no such file"
    other.say("not granted")
    one.unsay()
    assert store.list("/local/domain/0/error/backend/vbd/5") == ["51728"]
    other.unsay()
    other.unsay()
    assert list(store.walk("/local/domain/0")) == before


def test_a_driver_domain_keeps_its_directory_which_it_could_not_make(store: XenStore) -> None:
    store.mkdir("/local/domain/3/error")
    reason = node(store, VbdPlace(3, 5, 51712))
    reason.say("not granted")
    reason.unsay()
    assert store.list("/local/domain/3/error") == []


def test_somebody_was_faster(store: XenStore, caplog: pytest.LogCaptureFixture) -> None:
    reason = node(store, VbdPlace(0, 5, 51712))
    reason.say("not granted")
    store.remove("/local/domain/0/error")
    reason.unsay()
    assert not store.exists("/local/domain/0/error") and not caplog.records
