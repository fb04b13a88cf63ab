"""Which unit of stamps a backend offers: microseconds are those of dom0's clock."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.fake_store import FakeStore
from tests.unit.backend.test_device import FakeConnector
from xenpv.xenbus import BackendNode, VbdPlace, vbd_nodes
from xenpv_backend.device import Device
from xenpv_backend.offers import adverts_of
from xenpv_backend.options import BackendOptions
from xenpv_backend.storage import StorageFacts

DRIVER_DOMAIN = 3


def offered(options: BackendOptions, domid: int) -> str | None:
    """The unit that the backend of domain `domid` offers."""
    node = BackendNode(frontend="/local/domain/5/device/vbd/51712", frontend_id=5)
    return adverts_of(node, StorageFacts(2048, False), options, domid).stamp


@pytest.fixture
def cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    """CLOCK_MONOTONIC costs next to nothing."""
    monkeypatch.setattr("xenpv_backend.offers.own_clock_is_cheap", lambda: True)


@pytest.mark.usefixtures("cheap")
@pytest.mark.parametrize(("stamp", "domid", "unit"), [
    ("us", 0, "us"), ("us", DRIVER_DOMAIN, "tick"), ("tick", 0, "tick"), ("tick", DRIVER_DOMAIN, "tick"),
    ("off", 0, None), ("off", DRIVER_DOMAIN, None)])
def test_only_dom0_offers_microseconds(stamp: str, domid: int, unit: str | None) -> None:
    assert offered(BackendOptions(stamp=stamp), domid) == unit


def test_a_dear_clock_is_not_offered_in_dom0_either(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xenpv_backend.offers.own_clock_is_cheap", lambda: False)
    assert offered(BackendOptions(stamp="us"), 0) == "tick"


@pytest.mark.usefixtures("cheap")
def test_a_backend_in_a_driver_domain_measures_itself_in_microseconds() -> None:
    options = BackendOptions(stamp="us", profile="us")
    assert (offered(options, DRIVER_DOMAIN), options.profile_clock()) == ("tick", "us")


@pytest.mark.usefixtures("cheap")
@pytest.mark.parametrize(("domid", "unit"), [(0, b"us"), (DRIVER_DOMAIN, b"tick")])
def test_a_device_offers_what_its_own_domain_may(tmp_path: Path, domid: int, unit: bytes) -> None:
    image = tmp_path / "disk.img"
    image.write_bytes(bytes(1 << 20))
    place, store = VbdPlace(domid, 5, 51712), FakeStore()
    made = vbd_nodes(place, params=str(image), writable=True)
    for node in (made.frontend, made.backend):
        store.write_all({f"{node.path}/{key}": value for key, value in node.keys.items()})
    device = Device(place, store, FakeConnector(), lambda: BackendOptions(stamp="us"))
    try:
        device.turn()
        assert store.nodes[f"{place.backend}/feature-xenpv-stamp"] == unit
    finally:
        device.detach()
        store.close()
