"""The records of a vbd's keys: they come back as written, and nothing hostile gets past the first read."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xenpv.errors import RemoteProtocolError
from xenpv.wire.blkif import MAX_INDIRECT_SEGMENTS, Protocol
from xenpv.xenbus import (MAX_PORT, MAX_QUEUES, MAX_SECTORS, BackendAdverts, BackendNode, DiskFacts, FrontendNode,
                          FrontendRings, RingKeys, VbdPlace, XenbusState, agreed_stamp, default_protocol, vbd_nodes)

PLACE = VbdPlace(0, 5, 51712)
U32 = (1 << 32) - 1
BAD_NUMBERS = [b"", b" ", b"-1", b"+1", b"0x10", b"1 ", b" 1", b"1\n", b"1\0", b"01", b"1.0", b"1e3", b"1_000",
               "\u0661".encode(), b"18446744073709551616", b"9" * 4000, b"\xff"]
bounded = settings(max_examples=100, derandomize=True, deadline=None)


def stored(keys: dict[str, str]) -> dict[str, bytes]:
    return {name: value.encode() for name, value in keys.items()}


RINGS = stored(FrontendRings((RingKeys((8,), 3),), Protocol.X86_64).to_keys())
NUMBERS: list[tuple[Any, dict[str, bytes], str]] = [
    *((BackendAdverts, {}, name) for name in (
        "feature-max-indirect-segments", "multi-queue-max-queues", "max-ring-page-order", "discard-granularity",
        "discard-alignment")),
    *((DiskFacts, {"sectors": b"8"}, name) for name in ("sectors", "info", "sector-size", "physical-sector-size")),
    *((FrontendRings, RINGS, name) for name in (
        "ring-ref", "event-channel", "ring-page-order", "multi-queue-num-queues")),
    (BackendNode, stored(vbd_nodes(PLACE, writable=True).backend.keys), "frontend-id"),
    *((FrontendNode, stored(vbd_nodes(PLACE, writable=True).frontend.keys), name) for name in (
        "backend-id", "virtual-device")),
]
FLAGS = [
    *((BackendAdverts, {}, name) for name in (
        "feature-persistent", "feature-flush-cache", "feature-barrier", "feature-discard", "discard-secure",
        "feature-xenpv-notify-flag")),
    *((FrontendRings, RINGS, name) for name in ("feature-persistent", "xenpv-notify-flag")),
    *((BackendNode, stored(vbd_nodes(PLACE, writable=True).backend.keys), name) for name in (
        "online", "removable", "bootable", "discard-enable", "direct-io-safe")),
    (FrontendNode, stored(vbd_nodes(PLACE, writable=True).frontend.keys), "trusted"),
]


def named(cases: list[tuple[Any, dict[str, bytes], str]]) -> list[Any]:
    return [pytest.param(*case, id=f"{case[0].__name__}-{case[2]}") for case in cases]


@pytest.mark.parametrize(("record", "values", "name"), named(NUMBERS))
def test_a_bad_number_is_refused_by_key_and_value(record: Any, values: dict[str, bytes], name: str) -> None:
    for bad in BAD_NUMBERS:
        with pytest.raises(RemoteProtocolError) as caught:
            record.parse({**values, name: bad}, "/dir")
        text = str(caught.value)
        assert text.startswith(f"/dir/{name} is {bad[:40]!r}") and "want" in text and len(text) < 400


@pytest.mark.parametrize(("record", "values", "name"), named(FLAGS))
def test_a_bad_flag_is_refused_by_key_and_value(record: Any, values: dict[str, bytes], name: str) -> None:
    for bad in (b"", b"2", b"yes", b"00", b"1 ", b"-1"):
        with pytest.raises(RemoteProtocolError, match=f"^{name} is b'{bad.decode()}': want 0 or 1"):
            record.parse({**values, name: bad})


@pytest.mark.parametrize(("record", "name"), [
    (DiskFacts, "sectors"), (BackendNode, "frontend"), (BackendNode, "frontend-id"), (FrontendNode, "backend"),
    (FrontendNode, "backend-id"), (FrontendNode, "virtual-device"), (FrontendRings, "ring-ref"),
    (FrontendRings, "event-channel")])
def test_a_key_that_must_be_there_is_missed_by_name(record: Any, name: str) -> None:
    nodes = vbd_nodes(PLACE, writable=True)
    values = {**stored(nodes.backend.keys), **stored(nodes.frontend.keys), **RINGS, "sectors": b"8"}
    del values[name]
    with pytest.raises(RemoteProtocolError, match=f"^/dir/{name} is missing: want"):
        record.parse(values, "/dir")


def test_each_key_is_asked_for_once() -> None:
    class Counting(dict[str, bytes]):
        asked: list[str] = []

        def get(self, name: str, default: Any = None) -> Any:
            self.asked.append(name)
            return super().get(name, default)

    values = Counting(stored(FrontendRings((RingKeys((1, 2), 3), RingKeys((4, 5), 6)), Protocol.ARM).to_keys()))
    assert FrontendRings.parse(values).order == 1
    assert len(values.asked) == len(set(values.asked))


# --- adverts and facts ----------------------------------------------------------------------------------------------

ADVERTS = st.builds(
    BackendAdverts, st.integers(0, MAX_INDIRECT_SEGMENTS), st.integers(1, MAX_QUEUES), st.integers(0, 4), st.booleans(),
    st.booleans(), st.booleans(), st.booleans(), st.none() | st.integers(1, U32), st.none() | st.integers(0, U32),
    st.none() | st.booleans(), st.booleans())


@bounded
@given(ADVERTS)
def test_adverts_come_back(adverts: BackendAdverts) -> None:
    assert BackendAdverts.parse(stored(adverts.to_keys())) == adverts


def test_no_advert_at_all_is_the_oldest_backend() -> None:
    assert BackendAdverts.parse({}) == BackendAdverts()


def test_without_indirect_segments_there_is_no_such_key() -> None:
    assert "feature-max-indirect-segments" not in BackendAdverts().to_keys()


@pytest.mark.parametrize(("name", "field", "most"), [
    ("feature-max-indirect-segments", "max_indirect_segments", 4096), ("multi-queue-max-queues", "max_queues", 64),
    ("max-ring-page-order", "max_ring_page_order", 4)])
def test_more_than_we_can_use_is_taken_as_what_we_can(name: str, field: str, most: int) -> None:
    assert getattr(BackendAdverts.parse({name: b"4294967295"}), field) == most
    with pytest.raises(RemoteProtocolError):
        BackendAdverts.parse({name: b"4294967296"})


@bounded
@given(st.sampled_from([512, 1024, 2048, 4096]), st.integers(0, MAX_SECTORS // 8), st.integers(0, U32),
       st.none() | st.integers(1, 64))
def test_facts_come_back(sector: int, count: int, info: int, physical: int | None) -> None:
    facts = DiskFacts(count * (sector // 512), info, sector, None if physical is None else physical * sector)
    assert DiskFacts.parse(stored(facts.to_keys())) == facts


@pytest.mark.parametrize(("values", "name"), [
    ({"sectors": b"8", "sector-size": b"513"}, "sector-size"),
    ({"sectors": b"8", "sector-size": b"8192"}, "sector-size"),
    ({"sectors": b"9", "sector-size": b"4096"}, "sectors"),
    ({"sectors": b"8", "sector-size": b"4096", "physical-sector-size": b"512"}, "physical-sector-size"),
    ({"sectors": b"%d" % (MAX_SECTORS + 1)}, "sectors"),
])
def test_facts_that_do_not_fit_together(values: dict[str, bytes], name: str) -> None:
    with pytest.raises(RemoteProtocolError, match=f"^{name} is "):
        DiskFacts.parse(values)


def test_the_size_is_counted_in_512_bytes_on_a_4k_disk_too() -> None:
    assert DiskFacts.parse({"sectors": b"16", "sector-size": b"4096", "info": b"4"}).size == 8192


def test_the_largest_disk_has_offsets_of_63_bits() -> None:
    assert DiskFacts(MAX_SECTORS).size < 1 << 63


def test_read_only_is_the_readonly_bit() -> None:
    assert [DiskFacts(8, info).read_only for info in (0, 1, 4, 5)] == [False, False, True, True]


# --- rings ----------------------------------------------------------------------------------------------------------

@st.composite
def rings(draw: st.DrawFn) -> FrontendRings:
    order, count = draw(st.integers(0, 4)), draw(st.integers(1, 6))
    refs = draw(st.lists(st.integers(0, U32), min_size=count << order, max_size=count << order, unique=True))
    ports = draw(st.lists(st.integers(1, MAX_PORT), min_size=count, max_size=count, unique=True))
    queues = tuple(RingKeys(tuple(refs[n << order:(n + 1) << order]), port) for n, port in enumerate(ports))
    return FrontendRings(queues, draw(st.sampled_from(Protocol)), draw(st.booleans()), draw(st.booleans()))


@bounded
@given(rings())
def test_rings_come_back(published: FrontendRings) -> None:
    assert FrontendRings.parse(stored(published.to_keys())) == published


@bounded
@given(rings())
def test_every_key_of_the_rings_is_known_as_a_leftover(published: FrontendRings) -> None:
    top = {name.split("/")[0] for name in published.to_keys()}
    others = ["backend", "state", "virtual-device", "queue-x", "ring-reference"]
    assert set(FrontendRings.leftovers([*top, *others])) == top


def test_one_page_and_one_queue_are_written_the_plain_way() -> None:
    keys = FrontendRings((RingKeys((8,), 3),), Protocol.X86_64, notify_flag=True).to_keys()
    assert keys == {"protocol": "x86_64-abi", "feature-persistent": "0", "xenpv-notify-flag": "1", "ring-ref": "8",
                    "event-channel": "3"}


def test_two_queues_of_two_pages_are_written_as_blkif_h_shows() -> None:
    keys = FrontendRings((RingKeys((8, 9), 3), RingKeys((10, 11), 4)), Protocol.X86_64).to_keys()
    assert {name: value for name, value in keys.items() if name not in ("protocol", "feature-persistent",
                                                                        "xenpv-notify-flag")} == {
        "ring-page-order": "1", "multi-queue-num-queues": "2",
        "queue-0": "", "queue-0/ring-ref0": "8", "queue-0/ring-ref1": "9", "queue-0/event-channel": "3",
        "queue-1": "", "queue-1/ring-ref0": "10", "queue-1/ring-ref1": "11", "queue-1/event-channel": "4"}


@pytest.mark.parametrize("name", ["ring-ref", "ring-ref0"])
def test_order_0_said_in_words_takes_either_name(name: str) -> None:
    assert FrontendRings.parse({"ring-page-order": b"0", name: b"8", "event-channel": b"3"}).queues[0].refs == (8,)


@pytest.mark.parametrize(("change", "name"), [
    ({"ring-page-order": b"5"}, "ring-page-order"), ({"ring-page-order": b"31"}, "ring-page-order"),
    ({"multi-queue-num-queues": b"0"}, "multi-queue-num-queues"),
    ({"multi-queue-num-queues": b"1000000000"}, "multi-queue-num-queues"),
    ({"multi-queue-num-queues": b"2"}, "queue-0/ring-ref"), ({"ring-page-order": b"1"}, "ring-ref0"),
    ({"ring-ref": b"4294967296"}, "ring-ref"), ({"event-channel": b"0"}, "event-channel"),
    ({"event-channel": b"131072"}, "event-channel"), ({"protocol": b"x86_16-abi"}, "protocol"),
    ({"protocol": b""}, "protocol"),
])
def test_impossible_rings_are_refused(change: dict[str, bytes], name: str) -> None:
    with pytest.raises(RemoteProtocolError, match=f"^{name} is "):
        FrontendRings.parse({**RINGS, **change})


@pytest.mark.parametrize(("limit", "name"), [
    ({"max_order": 0}, "ring-page-order"), ({"max_queues": 1}, "multi-queue-num-queues")])
def test_more_than_the_backend_advertised_is_refused(limit: dict[str, int], name: str) -> None:
    keys = FrontendRings((RingKeys((8, 9), 3), RingKeys((10, 11), 4)), Protocol.X86_64).to_keys()
    with pytest.raises(RemoteProtocolError, match=f"^{name} is "):
        FrontendRings.parse(stored(keys), **limit)  # type: ignore[arg-type]


def test_one_page_twice_in_a_ring_is_refused() -> None:
    with pytest.raises(RemoteProtocolError, match="grant reference of a ring is b'8'"):
        FrontendRings.parse({**RINGS, "ring-page-order": b"1", "ring-ref0": b"8", "ring-ref1": b"8"})


def test_one_port_for_two_queues_is_refused() -> None:
    keys = FrontendRings((RingKeys((8,), 3), RingKeys((9,), 3)), Protocol.X86_64).to_keys()
    with pytest.raises(RemoteProtocolError, match="event-channel is b'3'"):
        FrontendRings.parse(stored(keys))


@pytest.mark.parametrize(("machine", "protocol"), [
    ("x86_64", Protocol.X86_32), ("i686", Protocol.X86_32), ("aarch64", Protocol.ARM), ("armv7l", Protocol.ARM)])
def test_a_missing_protocol_is_linuxs_default(machine: str, protocol: Protocol) -> None:
    values = {name: value for name, value in RINGS.items() if name != "protocol"}
    assert FrontendRings.parse(values, default=default_protocol(machine)).protocol is protocol


@bounded
@given(st.dictionaries(st.sampled_from(sorted({*RINGS, "ring-page-order", "ring-ref0", "ring-ref1", "queue-0/ring-ref",
                                               "multi-queue-num-queues", "queue-0/event-channel"})),
                       st.binary(max_size=8) | st.integers(-2, U32 + 2).map(lambda n: b"%d" % n)))
def test_any_bytes_are_rings_within_bounds_or_refused(values: dict[str, bytes]) -> None:
    try:
        published = FrontendRings.parse(values)
    except RemoteProtocolError as error:
        assert "\n" not in str(error)
    else:
        assert 1 <= len(published.queues) <= MAX_QUEUES and 0 <= published.order <= 4


# --- the toolstack's nodes ------------------------------------------------------------------------------------------

def test_a_new_vbds_nodes_come_back_and_name_each_other() -> None:
    nodes = vbd_nodes(PLACE, writable=False, params="/srv/disk.img", script="block-xenpv", trusted=False)
    backend = BackendNode.parse(stored(nodes.backend.keys))
    frontend = FrontendNode.parse(stored(nodes.frontend.keys))
    backend.check_place(PLACE)
    assert frontend.place(5, 51712) == PLACE == VbdPlace.of_backend(nodes.backend.path)
    assert (backend.read_only, backend.online, backend.params, backend.dev) == (True, True, "/srv/disk.img", "xvda")
    assert not frontend.trusted


def test_each_end_owns_its_node_and_the_other_may_read_it() -> None:
    nodes = vbd_nodes(VbdPlace(7, 5, 51712), writable=True)
    assert (nodes.frontend.permissions, nodes.backend.permissions) == (("n5", "r7"), ("n7", "r5"))


def test_guests_cannot_read_the_toolstacks_copy() -> None:
    copy = vbd_nodes(PLACE, writable=True).libxl
    assert copy.permissions == ("n0",)
    assert (copy.keys["frontend"], copy.keys["backend"]) == (PLACE.frontend, PLACE.backend)


def test_both_ends_begin_in_initialising() -> None:
    nodes = vbd_nodes(PLACE, writable=True)
    assert (nodes.frontend.keys["state"], nodes.backend.keys["state"]) == ("1", "1")


def test_a_node_of_ours_on_xen_begins_in_init_wait_with_adverts_and_script() -> None:
    nodes = vbd_nodes(PLACE, writable=True, backend_state=XenbusState.INIT_WAIT, script="/etc/xen/scripts/block-xenpv",
                      adverts=BackendAdverts(notify_flag=True))
    keys = nodes.backend.keys
    assert (keys["state"], keys["feature-xenpv-notify-flag"], keys["script"]) == (
        "2", "1", "/etc/xen/scripts/block-xenpv")
    assert nodes.frontend.keys["state"] == "1"


def test_a_vbd_without_a_mode_is_read_only() -> None:
    assert BackendNode.parse({"frontend": b"/x", "frontend-id": b"5"}).read_only


@pytest.mark.parametrize("mode", [b"", b"rw", b"w!", b"R"])
def test_a_strange_mode_is_refused(mode: bytes) -> None:
    with pytest.raises(RemoteProtocolError, match="^mode is"):
        BackendNode.parse({"frontend": b"/x", "frontend-id": b"5", "mode": mode})


@pytest.mark.parametrize("params", [b"\xff", b"a\nb", b"a\0", b"x" * 3073, "é".encode() * 2000])
def test_strange_text_is_refused(params: bytes) -> None:
    with pytest.raises(RemoteProtocolError, match="^params is"):
        BackendNode.parse({"frontend": b"/x", "frontend-id": b"5", "params": params})


@pytest.mark.parametrize("change", [
    {"frontend": "/local/domain/6/device/vbd/51712"}, {"frontend": "/local/domain/5/device/vbd/51728"},
    {"frontend": "/local/domain/5/device/vbd/51712/"}, {"frontend_id": 6}])
def test_a_backend_that_names_another_frontend_is_refused(change: dict[str, Any]) -> None:
    node = BackendNode.parse(stored(vbd_nodes(PLACE, writable=True).backend.keys))
    with pytest.raises(RemoteProtocolError, match="frontend"):
        dataclasses.replace(node, **change).check_place(PLACE)


@pytest.mark.parametrize("change", [
    {"backend": "/local/domain/0/backend/vbd/6/51712"}, {"backend": "/local/domain/0/backend/vbd/5/51728"},
    {"backend": "/local/domain/1/backend/vbd/5/51712"}, {"backend": "/local/domain/0/backend/vbd/5/51712/.."},
    {"backend": ""}, {"backend_id": 1}])
def test_a_frontend_that_names_another_backend_is_refused(change: dict[str, Any]) -> None:
    node = dataclasses.replace(FrontendNode.parse(stored(vbd_nodes(PLACE, writable=True).frontend.keys)), **change)
    with pytest.raises(RemoteProtocolError, match="backend"):
        node.place(5, 51712)
    with pytest.raises(RemoteProtocolError, match="backend"):
        node.check_place(PLACE)


def test_virtual_device_ext_stands_in_for_virtual_device() -> None:
    values = stored(vbd_nodes(PLACE, writable=True).frontend.keys)
    values["virtual-device-ext"] = values.pop("virtual-device")
    assert FrontendNode.parse(values).virtual_device == 51712


@pytest.mark.parametrize("path", [
    "", "/", "/local/domain/0/backend/vif/5", "local/domain/0/backend/vbd/5/51712",
    "/local/domain/0/backend/vbd/5/51712\n", "/local/domain/00/backend/vbd/5/51712",
    "/local/domain/0/backend/vbd/32752/51712", "/local/domain/99999/backend/vbd/5/51712",
    "/local/domain/0/backend/vbd/5/536870912", "/local/domain/0/backend/vbd/-5/51712"])
def test_no_path_of_a_vbds_backend(path: str) -> None:
    with pytest.raises(RemoteProtocolError, match="no vbd's backend"):
        VbdPlace.of_backend(path)


def test_a_backend_of_another_kind_has_its_place() -> None:
    assert VbdPlace.of_backend("/local/domain/0/backend/vbd3/5/51712") == VbdPlace(0, 5, 51712, "vbd3")


@pytest.mark.parametrize(("offered", "taken", "protocol", "unit"), [
    (None, None, Protocol.X86_64, None), ("us", None, Protocol.X86_64, None), (None, "us", Protocol.X86_64, None),
    ("us", "us", Protocol.X86_64, "us"), ("us", "tick", Protocol.ARM, "tick"), ("tick", "tick", Protocol.X86_64, "tick"),
    ("tick", "us", Protocol.X86_64, None), ("us", "us", Protocol.X86_32, None)])
def test_stamps_are_what_both_ends_say(offered: str | None, taken: str | None, protocol: Protocol,
                                       unit: str | None) -> None:
    adverts = BackendAdverts.parse(stored(BackendAdverts(stamp=offered).to_keys()))
    rings = FrontendRings.parse(stored(FrontendRings((RingKeys((8,), 3),), protocol, stamp=taken).to_keys()))
    assert agreed_stamp(adverts, rings) == unit


@pytest.mark.parametrize("value", [b"", b"1", b"ms", b"us ", b"tick,us"])
def test_a_unit_that_nobody_knows_is_refused(value: bytes) -> None:
    with pytest.raises(RemoteProtocolError, match="tick or us"):
        FrontendRings.parse(RINGS | {"xenpv-stamp": value})


def test_what_a_stamping_frontend_left_is_removed() -> None:
    assert "xenpv-stamp" in FrontendRings.leftovers(["xenpv-stamp", "state"])
