"""The toolstack's part in a vbd's life, on an emulated Xen in this process and with a backend that moves no data."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import partial

import pytest

from tests.support.backend_double import backend_double
from xenpv.domain import Store
from xenpv.errors import DeviceError, HypervisorError, RemoteProtocolError
from xenpv.hypervisors import open_domain
from xenpv.hypervisors.emulated import host
from xenpv.xenbus import VbdPlace, XenbusState, vbd_nodes
from xenpv_tools import toolstack

WILLING = {"1": "2", "5": "6"}
NEVER = 0.05
"""Seconds for what does not come."""


@pytest.fixture
def store(uri: str) -> Iterator[Store]:
    with open_domain(uri) as domain:
        yield domain.store


@pytest.fixture
def place(uri: str) -> VbdPlace:
    domid = int(host.request(uri.removeprefix("emulated:"), "create", name="guest")["domid"])
    return VbdPlace(0, domid, 51712)


def attach(store: Store, place: VbdPlace, timeout: float = 10) -> None:
    toolstack.attach(store, place, vbd_nodes(place, writable=True, params="/a.img"), timeout=timeout)


def nothing_left(store: Store, place: VbdPlace) -> bool:
    return not any(store.exists(path) for path in (
        place.frontend, place.backend, place.libxl, f"/libxl/{place.frontend_domid}",
        "/local/domain/0/backend"))


def test_attach_writes_the_nodes_for_their_owners(uri: str, store: Store, place: VbdPlace) -> None:
    with backend_double(uri, WILLING):
        attach(store, place)
    assert store.read(f"{place.frontend}/backend").decode() == place.backend
    assert store.get_permissions(f"{place.frontend}/state") == [f"n{place.frontend_domid}", "r0"]
    assert store.get_permissions(f"{place.backend}/params") == ["n0", f"r{place.frontend_domid}"]
    assert store.get_permissions(place.libxl) == ["n0"]


def test_attach_without_a_backend_fails_and_leaves_nothing(store: Store, place: VbdPlace) -> None:
    with pytest.raises(DeviceError, match="no backend took it .*xenpv backend run"):
        attach(store, place, NEVER)
    assert nothing_left(store, place)


def test_attach_says_what_the_backend_said(uri: str, store: Store, place: VbdPlace) -> None:
    with backend_double(uri, {"1": "6"}, "/a.img: it is\x1b a directory"), pytest.raises(DeviceError) as caught:
        attach(store, place)
    assert str(caught.value) == f"xvda of domain {place.frontend_domid}: /a.img: it is\\x1b a directory"
    assert nothing_left(store, place)


def test_a_second_vbd_of_the_same_device_is_refused(uri: str, store: Store, place: VbdPlace) -> None:
    with backend_double(uri, WILLING):
        attach(store, place)
        with pytest.raises(DeviceError, match="is there already"):
            attach(store, place)
    assert store.exists(place.backend)


def test_attach_to_a_domain_that_is_not_there(store: Store) -> None:
    place = VbdPlace(0, 99, 51712)
    with pytest.raises(HypervisorError, match="there is no domain 99"):
        attach(store, place, NEVER)
    assert not store.exists("/local/domain/99") and not store.exists("/libxl/99")


def test_attach_can_wait_for_the_guest_in_vain(uri: str, store: Store, place: VbdPlace) -> None:
    with backend_double(uri, WILLING), pytest.raises(DeviceError, match="not connected after"):
        toolstack.attach(store, place, vbd_nodes(place, writable=True), connected=NEVER)
    assert store.exists(place.backend)


def test_what_a_guest_put_there_before_is_gone(uri: str, store: Store, place: VbdPlace) -> None:
    store.write(f"{place.frontend}/ring-ref", "8")
    with backend_double(uri, WILLING):
        attach(store, place)
    assert not store.exists(f"{place.frontend}/ring-ref")


def attach_on_xen(store: Store, place: VbdPlace, timeout: float = 10) -> None:
    toolstack.attach_on_xen(store, place, partial(vbd_nodes, place, writable=True, params="/a.img", script="/bin/true"),
                            timeout=timeout)


def test_on_xen_the_guest_sees_its_device_when_the_adverts_stand(uri: str, store: Store, place: VbdPlace) -> None:
    seen: list[tuple[bytes, ...]] = []

    def offer() -> None:
        with open_domain(uri) as domain, domain.store.watch(f"{place.backend}/state") as watch:
            while not domain.store.exists(f"{place.backend}/state"):
                assert watch.wait(10)
            seen.append(tuple(domain.store.read(path) for path in (
                f"{place.backend}/state", f"{place.backend}/xenpv-handover", f"{place.frontend}/state")))
            domain.store.write(f"{place.backend}/feature-xenpv-notify-flag", "0")

    backend = threading.Thread(target=offer)
    backend.start()
    attach_on_xen(store, place)
    backend.join()
    assert seen == [(b"2", b"1", b"8")]
    assert store.read(f"{place.frontend}/state") == b"1"
    assert toolstack.is_ours(store, place) and toolstack.count_ours(store) == 1


def test_on_xen_attach_without_a_backend_fails_and_leaves_nothing(store: Store, place: VbdPlace) -> None:
    with pytest.raises(DeviceError, match="no backend took it .*xenpv backend run"):
        attach_on_xen(store, place, NEVER)
    assert nothing_left(store, place)
    assert toolstack.count_ours(store) == 0


def test_detach_asks_the_backend_and_leaves_nothing(uri: str, store: Store, place: VbdPlace) -> None:
    with backend_double(uri, WILLING):
        attach(store, place)
        toolstack.detach(store, place)
    assert nothing_left(store, place)


def test_detach_from_a_silent_backend_fails_and_changes_no_node(uri: str, store: Store, place: VbdPlace) -> None:
    with backend_double(uri, {"1": "2"}):
        attach(store, place)
    with pytest.raises(DeviceError, match="-f takes the nodes"):
        toolstack.detach(store, place, timeout=NEVER)
    assert store.read(f"{place.backend}/online") == b"0" and store.exists(place.libxl)


def test_forced_detach_from_a_silent_backend_takes_the_nodes(uri: str, store: Store, place: VbdPlace,
                                                             monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toolstack, "FORCE_TIMEOUT", NEVER)
    with backend_double(uri, {"1": "2"}):
        attach(store, place)
    toolstack.detach(store, place, force=True)
    assert nothing_left(store, place)


def test_close_all_tells_the_backends_before_the_domain_ends(uri: str, store: Store, place: VbdPlace) -> None:
    seen: list[bytes] = []
    with backend_double(uri, {"1": "2"}):
        attach(store, place)
    complaints = toolstack.close_all(store, place.frontend_domid,
                                     lambda: seen.append(store.read(f"{place.backend}/state")), timeout=NEVER)
    assert seen == [b"5"] and len(complaints) == 1 and "xvda" in complaints[0]
    assert nothing_left(store, place)


def test_prune_takes_what_ended_domains_left(uri: str, store: Store, place: VbdPlace) -> None:
    with backend_double(uri, WILLING):
        attach(store, place)
        host.request(uri.removeprefix("emulated:"), "destroy", domid=place.frontend_domid)
        assert toolstack.prune(store, {0}) == []
    assert nothing_left(store, place)


def test_prune_leaves_living_domains(uri: str, store: Store, place: VbdPlace) -> None:
    with backend_double(uri, WILLING):
        attach(store, place)
    assert toolstack.prune(store, {0, place.frontend_domid}) == []
    assert store.exists(place.backend)


def test_a_list_shows_what_the_guest_wrote_and_believes_none_of_it(uri: str, store: Store, place: VbdPlace) -> None:
    with backend_double(uri, WILLING):
        attach(store, place)
    store.write_all({f"{place.frontend}/ring-ref": b"8\x1b", f"{place.frontend}/state": b"never",
                     f"{place.frontend}/backend": b"/local/domain/7/backend/vbd/1/1"})
    found = toolstack.list_vbds(store, place.frontend_domid)
    assert [(vbd.place, vbd.ring_ref, vbd.frontend_state, vbd.name) for vbd in found] == [
        (place, "8\\x1b", XenbusState.UNKNOWN, "xvda")]


def test_a_device_is_found_by_name_and_number(uri: str, store: Store, place: VbdPlace) -> None:
    with backend_double(uri, WILLING):
        attach(store, place)
    for device in ("xvda", "51712", "d0"):
        assert toolstack.find_vbd(store, place.frontend_domid, device) == place
    with pytest.raises(DeviceError, match="has no xvdb"):
        toolstack.find_vbd(store, place.frontend_domid, "xvdb")


def test_a_wrong_pointer_is_not_followed(store: Store) -> None:
    store.write("/libxl/5/device/vbd/51712/backend", "/local/domain/0/backend/vbd/6/51712")
    with pytest.raises(RemoteProtocolError, match="want the backend of that device"):
        toolstack.list_vbds(store, 5)
