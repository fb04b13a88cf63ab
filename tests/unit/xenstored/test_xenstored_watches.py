"""Watches of the emulated xenstored."""

import pytest
from tests.support.store_client import Client, run

from xenpv.hypervisors.emulated.xenstored import Xenstored
from xenpv.wire.xs import Decoder, Opcode


def watching(client: Client, *watches: str) -> Client:
    """The client with these watches, their first events taken."""
    for watch in watches:
        assert client.ask(f"WATCH {watch}|") == "OK|"
    assert client.take_events() == ["|".join(watch.split("|")[:2]) + "|" for watch in watches]
    return client


def test_first_event_comes_at_once_and_behind_the_answer(dom0: Client) -> None:
    dom0.send("WATCH /not/there|token|")
    decoder = Decoder()
    decoder.feed(dom0.connection.send_pending())
    first, second = decoder.next(), decoder.next()
    assert first is not None and first.type == Opcode.WATCH
    assert second is not None and second == (Opcode.WATCH_EVENT, 0, 0, b"/not/there\0token\0")


@pytest.mark.parametrize("request_, events", [
    ("WRITE /a/b|1", ["/a/b|t|"]),
    ("WRITE /a/b/c/d|1", ["/a/b/c/d|t|"]),
    ("MKDIR /a/b/c|", ["/a/b/c|t|"]),
    ("MKDIR /a/b|", []),
    ("SET_PERMS /a/b|r0|", ["/a/b|t|"]),
    ("RM /a/b/x|", ["/a/b/x|t|"]),
    ("RM /a/b|", ["/a/b|t|"]),
    ("RM /a|", ["/a/b|t|"]),
    ("WRITE /a|1", []),
    ("WRITE /a/bc|1", []),
    ("READ /a/b|", []),
    ("RM /a/b/none|", []),
])
def test_what_fires(dom0: Client, request_: str, events: list[str]) -> None:
    dom0.ask("WRITE /a/b/x|1")
    watching(dom0, "/a/b|t")
    dom0.ask(request_)
    assert dom0.take_events() == events


def test_relative_watch_gives_relative_paths(guest: Client, dom0: Client) -> None:
    watching(guest, "device|rel", "/local/domain/3/device|abs")
    dom0.ask("WRITE /local/domain/3/device/vbd|1")
    assert guest.take_events() == ["device/vbd|rel|", "/local/domain/3/device/vbd|abs|"]


def test_root_watch(dom0: Client) -> None:
    watching(dom0, "/|t")
    dom0.ask("WRITE /a/b|1")
    dom0.ask("SET_PERMS @releaseDomain|r0|")
    assert dom0.take_events() == ["/a/b|t|"]


@pytest.mark.parametrize("depth, events", [(0, []), (1, ["/a/b|t|"]), (2, ["/a/b|t|", "/a/b/c|t|"])])
def test_depth(dom0: Client, depth: int, events: list[str]) -> None:
    dom0.ask("MKDIR /a|")
    watching(dom0, f"/a|t|{depth}")
    dom0.ask("WRITE /a/b|1")
    dom0.ask("WRITE /a/b/c|1")
    assert dom0.take_events() == events
    dom0.ask("WRITE /a|1")
    assert dom0.take_events() == ["/a|t|"]


def test_depth_below_the_root(dom0: Client) -> None:
    watching(dom0, "/|t|1")
    dom0.ask("WRITE /a|1")
    dom0.ask("WRITE /a/b|1")
    assert dom0.take_events() == ["/a|t|"]


@pytest.mark.parametrize("depth", ["-1", "x", "", "99999999999"])
def test_bad_depth(dom0: Client, depth: str) -> None:
    assert dom0.ask(f"WATCH /a|t|{depth}|") == "EINVAL"


def test_transaction_fires_at_its_commit(dom0: Client) -> None:
    watching(dom0, "/a|t")
    tx = dom0.start()
    dom0.ask("WRITE /a/b|1", tx)
    dom0.ask("WRITE /a/b|2", tx)
    assert dom0.take_events() == []
    dom0.commit(tx)
    assert dom0.take_events() == ["/a/b|t|"]


def test_failed_commit_and_abort_do_not_fire(dom0: Client) -> None:
    watching(dom0, "/a|t")
    tx = dom0.start()
    dom0.ask("WRITE /a/b|1", tx)
    dom0.ask("TRANSACTION_END F|", tx)
    tx = dom0.start()
    dom0.ask("READ /x|", tx)
    dom0.ask("WRITE /a/b|1", tx)
    dom0.ask("WRITE /x|1")
    assert dom0.commit(tx) == "EAGAIN"
    assert dom0.take_events() == []


def test_recursive_remove_in_a_transaction_reports_the_watched_path(dom0: Client) -> None:
    dom0.ask("WRITE /a/b/c|1")
    watching(dom0, "/a/b|t")
    tx = dom0.start()
    dom0.ask("RM /a|", tx)
    dom0.commit(tx)
    assert dom0.take_events() == ["/a/b|t|"]


def test_node_that_came_and_went_in_a_transaction_is_not_told(dom0: Client) -> None:
    watching(dom0, "/a|t")
    tx = dom0.start()
    dom0.ask("WRITE /a/b|1", tx)
    dom0.ask("RM /a/b|", tx)
    dom0.commit(tx)
    assert dom0.take_events() == []


def test_equal_unsent_events_are_merged(dom0: Client, store: Xenstored) -> None:
    watcher = watching(Client(store, 0), "/a|t", "/a|u")
    for value in "123":
        dom0.ask(f"WRITE /a|{value}")
    dom0.ask("WRITE /a/b|1")
    assert watcher.take_events() == ["/a|t|", "/a|u|", "/a/b|t|", "/a/b|u|"]
    dom0.ask("WRITE /a|4")
    assert watcher.take_events() == ["/a|t|", "/a|u|"]


def test_event_that_has_begun_to_leave_is_not_merged(dom0: Client, store: Xenstored) -> None:
    watcher = watching(Client(store, 0), "/a|t")
    dom0.ask("WRITE /a|1")
    data = watcher.connection.send_pending()
    watcher.connection.sent(5)
    dom0.ask("WRITE /a|2")
    assert watcher.connection.send_pending() == data[5:] + data


def test_special_events_are_not_merged(dom0: Client, store: Xenstored) -> None:
    watcher = watching(Client(store, 0), "@introduceDomain|t")
    store.introduce(4)
    store.introduce(5)
    assert watcher.take_events() == ["@introduceDomain|t|"] * 2


def test_special_events_with_a_domain(dom0: Client, store: Xenstored) -> None:
    watching(dom0, "@releaseDomain|all", "@releaseDomain|named|1", "@releaseDomain/4|four", "@releaseDomain|none|0")
    store.introduce(4)
    store.introduce(5)
    store.release(4)
    store.release(5)
    assert dom0.take_events() == ["@releaseDomain|all|", "@releaseDomain/4|named|", "@releaseDomain/4|four|",
                                  "@releaseDomain|all|", "@releaseDomain/5|named|"]


def test_special_events_are_privileged(dom0: Client, guest: Client, store: Xenstored) -> None:
    watching(guest, "@introduceDomain|t", "@releaseDomain|t", "@releaseDomain/4|t", "@introduceDomain|u|1")
    store.introduce(4)
    store.release(4)
    assert guest.take_events() == []
    assert guest.ask("GET_PERMS @releaseDomain|") == "EACCES"
    assert guest.ask("SET_PERMS @releaseDomain|n3|") == "EACCES"


def test_special_events_after_permission(dom0: Client, guest: Client, store: Xenstored) -> None:
    assert dom0.ask("SET_PERMS @releaseDomain|n0|r3|") == "OK|"
    assert dom0.ask("GET_PERMS @releaseDomain|") == "n0|r3|"
    watching(guest, "@releaseDomain/4|t", "@introduceDomain|t")
    store.introduce(4)
    store.release(4)
    assert guest.take_events() == ["@releaseDomain/4|t|"]


@pytest.mark.parametrize("name", ["@none", "@none/5", "@releaseDomain/5"])
def test_special_paths_that_are_no_nodes(dom0: Client, guest: Client, name: str) -> None:
    run([(dom0, 0, f"GET_PERMS {name}|", "ENOENT"), (guest, 0, f"GET_PERMS {name}|", "EACCES"),
         (dom0, 0, f"WATCH {name}|t|", "OK|"), (dom0, 0, f"RM {name}|", "EINVAL")])


def test_unreadable_nodes_are_not_told(dom0: Client, guest: Client) -> None:
    watching(guest, "/secret|t", "/|t")
    dom0.ask("WRITE /secret/a|1")
    dom0.ask("RM /secret|")
    assert guest.take_events() == []


def test_readable_parent_is_enough(dom0: Client, guest: Client) -> None:
    dom0.ask("MKDIR /open|")
    dom0.ask("SET_PERMS /open|r0|")
    dom0.ask("MKDIR /open/closed|")
    dom0.ask("SET_PERMS /open/closed|n0|")
    watching(guest, "/open/closed|t")
    dom0.ask("WRITE /open/closed|1")
    dom0.ask("RM /open/closed|")
    assert guest.take_events() == ["/open/closed|t|"]


def test_losing_the_right_to_read_is_told(dom0: Client, guest: Client) -> None:
    dom0.ask("WRITE /shared|1")
    dom0.ask("SET_PERMS /shared|n0|r3|")
    watching(guest, "/shared|t")
    dom0.ask("SET_PERMS /shared|n0|")
    assert guest.take_events() == ["/shared|t|"]
    dom0.ask("WRITE /shared|2")
    assert guest.take_events() == []


def test_removal_of_a_readable_node_is_told(dom0: Client, guest: Client) -> None:
    dom0.ask("WRITE /closed/shared|1")
    dom0.ask("SET_PERMS /closed/shared|n0|r3|")
    watching(guest, "/closed/shared|t")
    tx = dom0.start()
    dom0.ask("RM /closed|", tx)
    dom0.commit(tx)
    assert guest.take_events() == ["/closed/shared|t|"]


def test_unwatch(dom0: Client) -> None:
    watching(dom0, "/a|first", "/a|second")
    run([
        (dom0, 0, "WATCH /a|first|", "EEXIST"),
        (dom0, 0, "UNWATCH first|/a|", "ENOENT"),
        (dom0, 0, "UNWATCH /b|first|", "ENOENT"),
        (dom0, 0, "UNWATCH /a|second|", "OK|"),
        (dom0, 0, "UNWATCH /a|second|", "ENOENT"),
        (dom0, 0, "UNWATCH /a|", "EINVAL"),
    ])
    dom0.ask("WRITE /a|1")
    assert dom0.take_events() == ["/a|first|"]


def test_watches_belong_to_their_connection(dom0: Client, store: Xenstored) -> None:
    other = Client(store, 0)
    watching(dom0, "/a|t")
    assert other.ask("UNWATCH /a|t|") == "ENOENT"
    watching(other, "/a|t")
    other.connection.close()
    dom0.ask("WRITE /a|1")
    assert dom0.take_events() == ["/a|t|"]


def test_reset_removes_from_every_index(dom0: Client, store: Xenstored) -> None:
    watching(dom0, "/a|t", "/b|t")
    assert dom0.ask("RESET_WATCHES |") == "OK|"
    dom0.ask("WRITE /a|1")
    assert dom0.take_events() == []
    assert store.account(0).usage.watches == 0
    watching(dom0, "/a|t")


def test_event_that_fits_no_message_is_dropped(dom0: Client) -> None:
    token, deep = "t" * 4000, "/a/" + "x" * 200
    watching(dom0, f"/a|{token}")
    assert dom0.ask(f"WRITE {deep}|1") == "OK|"
    assert dom0.take_events() == []
    assert not dom0.connection.closed


def test_token_is_any_bytes(dom0: Client) -> None:
    dom0.send(b"WATCH /a|\xff\x01|")
    decoder = Decoder()
    decoder.feed(dom0.connection.send_pending())
    decoder.next()
    event = decoder.next()
    assert event is not None and event.payload == b"/a\0\xff\x01\0"
