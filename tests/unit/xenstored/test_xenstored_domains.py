"""Domains that come and go in the emulated xenstored."""

import pytest
from tests.support.store_client import Client, create, run

from xenpv.errors import StoreError
from xenpv.hypervisors.emulated.xenstored import Xenstored, connection


def test_introduce_and_release_fire_once(store: Xenstored, dom0: Client) -> None:
    dom0.ask("WATCH @introduceDomain|i|")
    dom0.ask("WATCH @releaseDomain|r|")
    dom0.take_events()
    store.introduce(3)
    store.introduce(3)
    assert dom0.take_events() == ["@introduceDomain|i|"]
    store.release(3)
    store.release(3)
    assert dom0.take_events() == ["@releaseDomain|r|"]


def test_domain_that_was_not_introduced_goes_silently(store: Xenstored, dom0: Client) -> None:
    dom0.ask("WATCH @releaseDomain|r|")
    dom0.take_events()
    guest = Client(store, 3)
    store.release(3)
    assert guest.connection.closed
    assert dom0.take_events() == []


@pytest.mark.parametrize("domid", [0, -1, 0x7FF0, 0xFFFF])
def test_no_guest_has_this_id(store: Xenstored, domid: int) -> None:
    with pytest.raises(StoreError):
        store.introduce(domid)


@pytest.mark.parametrize("domid", [-1, 0x7FF0])
def test_no_connection_has_this_id(store: Xenstored, domid: int) -> None:
    with pytest.raises(StoreError):
        store.connect(domid)


def test_domain_0_stays(store: Xenstored) -> None:
    with pytest.raises(StoreError):
        store.release(0)


def test_release_closes_every_connection_of_the_domain(store: Xenstored, dom0: Client) -> None:
    first, second, other = create(store, dom0, 3), Client(store, 3), Client(store, 4)
    store.ready()
    store.release(3)
    assert first.connection.closed and second.connection.closed and not other.connection.closed
    assert {first.connection, second.connection} <= set(store.ready())


def test_connection_closed_by_its_owner_is_not_ready(store: Xenstored, dom0: Client) -> None:
    dom0.send("READ /tool|")
    dom0.connection.close()
    assert dom0.connection not in store.ready()
    assert not dom0.connection.wants_read
    assert dom0.connection.send_pending() == b""
    dom0.connection.sent(0)


def test_release_removes_nodes_and_permissions(store: Xenstored, dom0: Client) -> None:
    guest = create(store, dom0, 3)
    run([
        (guest, 0, "WRITE device/vbd/1|1", "OK|"),
        (dom0, 0, "WRITE /local/domain/3/device/mine|1", "OK|"),
        (dom0, 0, "SET_PERMS /local/domain/3/device/mine|n0|", "OK|"),
        (dom0, 0, "WRITE /backend/3|1", "OK|"),
        (dom0, 0, "SET_PERMS /backend/3|n0|r3|r4|", "OK|"),
        (dom0, 0, "SET_PERMS @releaseDomain|n0|r3|", "OK|"),
    ])
    store.release(3)
    run([
        (dom0, 0, "DIRECTORY /local/domain|", ""),
        (dom0, 0, "GET_PERMS /backend/3|", "n0|r4|"),
        (dom0, 0, "GET_PERMS @releaseDomain|", "n0|"),
    ])
    assert store.check() == []


def test_id_used_again_inherits_nothing(store: Xenstored, dom0: Client) -> None:
    old = create(store, dom0, 3)
    dom0.ask("WRITE /backend/3|1")
    dom0.ask("SET_PERMS /backend/3|n0|b3|")
    dom0.ask("SET_QUOTA 3|nodes|2|")
    old.ask("WATCH data|t|")
    tx = old.start()
    old.ask("WRITE data|1", tx)
    store.release(3)
    new = create(store, dom0, 3)
    run([
        (new, 0, "READ /backend/3|", "EACCES"),
        (new, 0, "READ data|", "ENOENT"),
        (new, tx, "READ data|", "ENOENT"),
        (new, 0, "WRITE data/a/b|1", "OK|"),
        (new, 0, "WATCH data|t|", "OK|"),
    ])
    assert new.take_events() == ["data|t|"]
    usage = store.account(3).usage
    assert (usage.nodes, usage.watches, usage.transactions, usage.outstanding) == (4, 1, 0, 0)
    assert store.check() == []


def test_release_leaves_no_account(store: Xenstored, dom0: Client) -> None:
    guest = create(store, dom0, 3)
    for number in range(30):
        guest.ask(f"WRITE data/{number}|1")
        guest.ask(f"WATCH data/{number}|t|")
        guest.send("READ data|")
    record = store.account(3)
    store.release(3)
    usage = record.usage
    assert (usage.nodes, usage.watches, usage.transactions, usage.outstanding, usage.memory) == (0, 0, 0, 0, 0)
    assert store.find(3) is None


def test_release_of_nodes_is_told(store: Xenstored, dom0: Client) -> None:
    guest = create(store, dom0, 3)
    guest.ask("WRITE device/vbd/1/state|4")
    dom0.ask("WATCH /local/domain/3/device/vbd/1/state|t|")
    dom0.take_events()
    store.release(3)
    assert dom0.take_events() == ["/local/domain/3/device/vbd/1/state|t|"]


def test_release_meets_transactions_that_saw_the_domain(store: Xenstored, dom0: Client) -> None:
    guest = create(store, dom0, 3)
    guest.ask("WRITE state|4")
    tx = dom0.start()
    dom0.ask("READ /local/domain/3/state|", tx)
    store.release(3)
    assert dom0.commit(tx) == "EAGAIN"


def test_root_and_special_nodes_outlive_their_owner(store: Xenstored, dom0: Client) -> None:
    for path in ("/", "@releaseDomain", "@introduceDomain"):
        assert dom0.ask(f"SET_PERMS {path}|r3|") == "OK|"
    store.release(3)
    for path in ("/", "@releaseDomain", "@introduceDomain"):
        assert dom0.ask(f"GET_PERMS {path}|") == "r0|"
    assert store.check() == []


def test_connection_that_dies_while_others_are_told(store: Xenstored, dom0: Client,
                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    """The first watcher's output overflows in the middle of a round of events; the others get theirs."""
    monkeypatch.setattr(connection, "OUTPUT_MAX", 1 << 20)
    watchers = [Client(store, 0) for _ in range(3)]
    for watcher in watchers:
        watcher.ask(f"WATCH /a|{'t' * 3900}|")
        watcher.take_events()
    for number in range(500):
        dom0.ask(f"WRITE /a/{number}|1")
        watchers[1].take_events()
        watchers[2].read()
        if watchers[0].connection.closed:
            break
    assert watchers[0].connection.closed
    assert len(watchers[2].events) == number + 1
