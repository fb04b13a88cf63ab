"""Quotas and flow control of the emulated xenstored: what a guest, or a client that does not read, may cost."""

from __future__ import annotations

import pytest
from tests.support.store_client import Client, create, run

from xenpv.errors import LocalProtocolError
from xenpv.hypervisors.emulated.xenstored import Quotas, Xenstored, connection
from xenpv.wire.xs import HEADER, Opcode, encode


def make(quotas: Quotas = Quotas()) -> tuple[Xenstored, Client, Client]:
    """A store, its control domain's client and that of domain 3, which has its own directory."""
    store = Xenstored(quotas=quotas)
    dom0 = Client(store, 0)
    return store, dom0, create(store, dom0, 3)


def test_129th_watch() -> None:
    store, dom0, guest = make()
    second = Client(store, 3)
    for number in range(128):
        assert (guest, second)[number % 2].ask(f"WATCH x|{number}|") == "OK|"
    assert guest.ask("WATCH x|one-more|") == "E2BIG"
    assert guest.ask("UNWATCH x|0|") == "OK|"
    assert guest.ask("WATCH x|one-more|") == "OK|"


def test_control_domain_has_no_limit_of_watches() -> None:
    _, dom0, _ = make()
    assert all(dom0.ask(f"WATCH x|{number}|") == "OK|" for number in range(200))


def test_1001st_node() -> None:
    store, dom0, guest = make()
    guest_nodes = [f"WRITE d{number // 50}/n{number}|" for number in range(1100)]
    answers = [guest.ask(request) for request in guest_nodes]
    assert store.account(3).usage.nodes == 1000
    assert set(answers) == {"OK|", "ENOSPC"}
    assert dom0.ask("WRITE /local/domain/3/extra|1") == "OK|"
    assert guest.ask("RM d0|") == "OK|"
    assert guest.ask("WRITE again|1") == "OK|"
    assert store.check() == []


def test_nodes_of_a_transaction_count_at_its_commit() -> None:
    store, _, guest = make(Quotas(nodes=4))
    first, second = guest.start(), guest.start()
    run([(guest, first, "WRITE a/b|1", "OK|"), (guest, second, "WRITE c/d|1", "OK|")])
    assert guest.commit(first) == "OK|"
    assert guest.commit(second) == "ENOSPC"
    assert guest.ask("READ c|") == "ENOENT"
    assert store.check() == []


@pytest.mark.parametrize("quotas, requests, code", [
    (Quotas(node_size=100), ["WRITE x|" + "v" * 77], "ENOSPC"),
    (Quotas(node_size=100), [f"MKDIR {'n' * 40}{number}|" for number in range(2)], "ENOSPC"),
    (Quotas(node_permissions=2), ["WRITE x|", "SET_PERMS x|n3|r4|r5|"], "ENOSPC"),
    (Quotas(path_max=10), ["WRITE elevenchars|"], "EINVAL"),
    (Quotas(memory=600), ["WRITE x|" + "v" * 600], "ENOSPC"),
    (Quotas(memory=600), ["WATCH x|" + "t" * 600 + "|"], "ENOSPC"),
    (Quotas(transactions=2), ["TRANSACTION_START |"] * 3, "ENOSPC"),
])
def test_other_quotas(quotas: Quotas, requests: list[str], code: str) -> None:
    store, _, guest = make(quotas)
    answers = [guest.ask(request) for request in requests]
    assert answers[-1] == code
    assert code not in answers[:-1]
    assert store.check() == []


@pytest.mark.parametrize("quotas", [Quotas(node_size=100), Quotas(node_permissions=2), Quotas(path_max=10)])
def test_control_domain_has_no_quota(quotas: Quotas) -> None:
    _, dom0, _ = make(quotas)
    run([(dom0, 0, f"WRITE /elevenchars|{'v' * 500}", "OK|"), (dom0, 0, "SET_PERMS /elevenchars|n3|r4|r5|", "OK|")])


def test_zero_switches_a_quota_off() -> None:
    _, _, guest = make(Quotas(nodes=0, watches=0))
    assert all(guest.ask(f"WRITE n/{number}|") == "OK|" for number in range(300))
    assert all(guest.ask(f"WATCH n|{number}|") == "OK|" for number in range(300))


def test_transaction_touches_at_most_1024_nodes() -> None:
    store, _, guest = make()
    tx = guest.start()
    answers = [guest.ask(f"READ n{number}|", tx) for number in range(1024)]
    assert answers[-1] == "ENOSPC" and answers.count("ENOSPC") == 1
    assert guest.commit(tx) == "ENOMEM"


def test_open_transactions_count_as_memory() -> None:
    store, _, guest = make(Quotas(memory=10000))
    free = store.account(3).usage.memory
    transactions = [guest.start() for _ in range(8)]
    answers = [guest.ask("WRITE x|" + "v" * 1900, tx) for tx in transactions]
    assert answers.count("ENOSPC") > 0 and answers[0] == "OK|"
    for tx in transactions:
        guest.ask("TRANSACTION_END F|", tx)
    assert store.account(3).usage.memory == free


def test_outstanding_answers_stop_the_reading() -> None:
    store, _, guest = make()
    requests = b"".join(encode(Opcode.READ, number, 0, b"none\0") for number in range(50))
    guest.connection.receive(requests)
    assert not guest.connection.wants_read
    assert store.account(3).usage.outstanding == 20
    guest.read()
    assert [answer.req_id for answer in guest.answers] == list(range(50))
    assert guest.connection.wants_read
    assert store.account(3).usage.outstanding == 0


def test_events_that_others_do_not_read_stop_the_reading() -> None:
    store, dom0, guest = make()
    watcher = Client(store, 0)
    watcher.ask("WATCH /local/domain/3|t|")
    watcher.take_events()
    for number in range(25):
        guest.send(f"WRITE n{number}|1")
        guest.read()
    assert len(guest.answers) == 20
    assert not guest.connection.wants_read
    assert dom0.ask("READ /local/domain/3/n19|") == "1"
    store.ready()
    assert len(watcher.take_events()) == 25
    assert guest.connection in store.ready()
    guest.read()
    assert len(guest.answers) == 25


def test_watcher_that_goes_away_frees_the_writer() -> None:
    store, dom0, guest = make()
    watcher = Client(store, 0)
    watcher.ask("WATCH /local/domain/3|t|")
    for number in range(21):
        guest.send(f"WRITE n{number}|1")
        guest.read()
    assert not guest.connection.wants_read
    watcher.connection.close()
    guest.read()
    assert len(guest.answers) == 21
    assert store.account(3).usage.outstanding == 0


def test_unread_events_of_a_guest_are_bounded_by_its_memory() -> None:
    store, dom0, guest = make(Quotas(memory=5000))
    guest.ask("WATCH /local/domain/3|t|")
    guest.take_events()
    for number in range(300):
        assert dom0.ask(f"WRITE /local/domain/3/n|{number}") == "OK|"
        assert dom0.ask(f"WRITE /local/domain/3/{number}|1") == "OK|"
        assert dom0.ask(f"RM /local/domain/3/{number}|") == "OK|"
    assert store.account(3).usage.memory <= 5000
    assert 0 < len(guest.take_events()) < 300
    assert guest.ask("UNWATCH /local/domain/3|t|") == "OK|"


def test_events_unread_for_20_seconds_are_dropped() -> None:
    store, dom0, guest = make()
    guest.ask("WATCH x|t|")
    guest.take_events()
    dom0.ask("WRITE /local/domain/3/x/old|1")
    assert store.tick(100.0) == 20.0
    assert store.tick(119.0) == 1.0
    dom0.ask("WRITE /local/domain/3/x/new|1")
    assert store.tick(120.0) == 20.0
    assert guest.take_events() == ["x/new|t|"]
    assert store.tick(121.0) is None


def test_event_that_has_begun_to_leave_stays() -> None:
    store, dom0, guest = make()
    guest.ask("WATCH x|t|")
    guest.take_events()
    dom0.ask("WRITE /local/domain/3/x|1")
    data = guest.connection.send_pending()
    guest.connection.sent(3)
    store.tick(100.0)
    store.tick(200.0)
    assert guest.connection.send_pending() == data[3:]


def test_events_of_the_control_domain_are_kept() -> None:
    store, dom0, _ = make()
    watcher = Client(store, 0)
    watcher.ask("WATCH /a|t|")
    store.tick(100.0)
    store.tick(200.0)
    assert watcher.take_events() == ["/a|t|"]


def test_control_domain_that_reads_no_answers_is_not_read() -> None:
    _, dom0, _ = make()
    dom0.ask("WRITE /big|" + "v" * 4000)
    for _ in range(100):
        dom0.send("READ /big|")
    assert not dom0.connection.wants_read
    dom0.read()
    assert dom0.connection.wants_read
    assert len(dom0.answers) == 100


def test_control_domain_that_reads_no_events_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "OUTPUT_MAX", 1 << 20)
    store, dom0, _ = make()
    watcher = Client(store, 0)
    watcher.ask(f"WATCH /a|{'t' * 3900}|")
    dom0.ask("MKDIR /a|")
    number = 0
    while not watcher.connection.closed and number < 500:
        dom0.ask(f"MKDIR /a/{number}|")
        number += 1
    assert 200 < number < 500
    assert watcher.connection in store.ready()
    assert store.account(0).usage.watches == 0


def test_feeding_against_wants_read_ends_the_connection() -> None:
    store, _, guest = make()
    request = encode(Opcode.READ, 1, 0, b"none\0" + bytes(3000)) * 20
    for _ in range(30):
        guest.connection.receive(request)
    assert guest.connection.closed


@pytest.mark.parametrize("length", [4097, 0x80000000, 0xFFFFFFFF])
def test_oversize_message_ends_the_connection_alone(length: int) -> None:
    store, dom0, guest = make()
    second = Client(store, 3)
    dom0.ask("WATCH @releaseDomain|t|")
    dom0.take_events()
    guest.connection.receive(HEADER.build({"type": 2, "req_id": 1, "tx_id": 0, "len": length}))
    assert guest.connection.closed and guest.connection in store.ready()
    guest.connection.receive(b"more")
    assert guest.connection.send_pending() == b""
    run([(second, 0, "READ none|", "ENOENT"), (dom0, 0, "IS_DOMAIN_INTRODUCED 3|", "T|")])
    assert dom0.take_events() == []
    store.release(3)
    assert dom0.take_events() == ["@releaseDomain|t|"]


def test_more_sent_than_there_was() -> None:
    _, dom0, _ = make()
    with pytest.raises(LocalProtocolError):
        dom0.connection.sent(1)


def test_writer_with_others_transactions_open_is_slowed_down() -> None:
    store, dom0, guest = make()
    store.tick(100.0)
    victim = Client(store, 4)
    victim.start()
    for number in range(15):
        guest.send(f"WRITE x|{number}")
        guest.read()
    assert len(guest.answers) == 11
    assert not guest.connection.wants_read and victim.connection.wants_read
    wait = store.tick(100.0)
    assert wait is not None and 0 < wait < 0.1
    store.tick(100.0 + wait + 0.001)
    guest.read()
    assert len(guest.answers) > 11
    store.tick(110.0)
    guest.read()
    assert len(guest.answers) == 15


def test_writer_alone_is_not_slowed_down() -> None:
    store, _, guest = make()
    store.tick(100.0)
    guest.start()
    assert all(guest.ask(f"WRITE x|{number}") == "OK|" for number in range(100))


def test_without_ticks_nobody_is_slowed_down() -> None:
    store, dom0, guest = make()
    dom0.start()
    assert all(guest.ask(f"WRITE x|{number}") == "OK|" for number in range(100))
