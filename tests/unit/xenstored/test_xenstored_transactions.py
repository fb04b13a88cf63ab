"""Transactions of the emulated xenstored: when two of them meet, and when they do not."""

from __future__ import annotations

import random

import pytest
from tests.support.store_client import Client, run

from xenpv.hypervisors.emulated.xenstored import Quotas, Xenstored


@pytest.fixture
def other(store: Xenstored) -> Client:
    return Client(store, 0)


def test_nothing_shows_before_the_commit(dom0: Client, other: Client) -> None:
    tx = dom0.start()
    run([
        (dom0, tx, "WRITE /a|1", "OK|"),
        (dom0, tx, "READ /a|", "1"),
        (other, 0, "READ /a|", "ENOENT"),
        (dom0, tx, "TRANSACTION_END T|", "OK|"),
        (other, 0, "READ /a|", "1"),
        (dom0, tx, "READ /a|", "ENOENT"),
    ])


def test_abort_leaves_nothing(dom0: Client) -> None:
    tx = dom0.start()
    run([
        (dom0, tx, "WRITE /a|1", "OK|"),
        (dom0, tx, "TRANSACTION_END X|", "EINVAL"),
        (dom0, tx, "TRANSACTION_END F|", "OK|"),
        (dom0, 0, "READ /a|", "ENOENT"),
    ])
    assert dom0.store.check() == []


def test_transaction_belongs_to_its_connection(dom0: Client, other: Client) -> None:
    tx = dom0.start()
    run([(other, tx, "READ /tool|", "ENOENT"), (dom0, tx, "TRANSACTION_START |", "EBUSY"),
         (dom0, tx, "TRANSACTION_END F|", "OK|")])


@pytest.mark.parametrize("inside, outside", [
    ("READ /a|", "WRITE /a|2"),
    ("READ /a|", "RM /a|"),
    ("READ /a|", "SET_PERMS /a|r0|"),
    ("GET_PERMS /a|", "SET_PERMS /a|r0|"),
    ("DIRECTORY /a|", "MKDIR /a/new|"),
    ("DIRECTORY /a|", "RM /a/b|"),
    ("READ /none|", "WRITE /none|1"),
    ("WRITE /a|3", "WRITE /a|2"),
    ("RM /a|", "MKDIR /a/b/new|"),
    ("RM /a|", "WRITE /a/b|2"),
    ("WRITE /a/b/c|1", "RM /a/b|"),
    ("WRITE /a/new|1", "WRITE /a/new|2"),
    ("WRITE /a/new|1", "SET_PERMS /a|r0|"),
    ("MKDIR /a/new|", "RM /a|"),
])
def test_these_meet(dom0: Client, other: Client, inside: str, outside: str) -> None:
    dom0.ask("WRITE /a|1")
    dom0.ask("WRITE /a/b|1")
    tx = dom0.start()
    dom0.ask(inside, tx)
    dom0.ask("WRITE /result|1", tx)
    assert other.ask(outside) == "OK|"
    assert dom0.commit(tx) == "EAGAIN"
    assert dom0.ask("READ /result|") == "ENOENT"
    assert dom0.store.check() == []


@pytest.mark.parametrize("inside, outside", [
    ("READ /a|", "MKDIR /a/new|"),
    ("READ /a|", "WRITE /c|2"),
    ("WRITE /a/x|1", "WRITE /a/y|2"),
    ("WRITE /a/x|1", "RM /a/b|"),
    ("RM /a/b|", "WRITE /a/y|2"),
    ("RM /a/b|", "WRITE /a|2"),
    ("WRITE /new/way/x|1", "WRITE /new/way/y|2"),
    ("WRITE /a|2", "MKDIR /a/y|"),
])
def test_these_do_not(dom0: Client, other: Client, inside: str, outside: str) -> None:
    dom0.ask("WRITE /a/b|1")
    tx = dom0.start()
    dom0.ask(inside, tx)
    assert other.ask(outside) == "OK|"
    assert dom0.commit(tx) == "OK|"
    assert dom0.store.check() == []


def device(number: int) -> list[str]:
    """What a toolstack writes for one disk of domain 5."""
    back, front = f"/local/domain/0/backend/vbd/5/{number}", f"/local/domain/5/device/vbd/{number}"
    return [f"RM {front}|", f"RM {back}|", f"MKDIR {front}|", f"SET_PERMS {front}|n5|r0|", f"MKDIR {back}|",
            f"SET_PERMS {back}|n0|r5|", f"WRITE {back}/frontend|{front}", f"WRITE {back}/state|1",
            f"WRITE {front}/backend|{back}", f"WRITE {front}/state|1"]


def test_two_device_creations_do_not_meet(dom0: Client, other: Client) -> None:
    first, second = dom0.start(), other.start()
    for one, two in zip(device(51712), device(51728)):
        for client, tx, request in ((dom0, first, one), (other, second, two)):
            if not request.startswith("RM"):
                assert client.ask(request, tx) == "OK|"
    assert (dom0.commit(first), other.commit(second)) == ("OK|", "OK|")
    assert dom0.ask("DIRECTORY /local/domain/0/backend/vbd/5|") == "51712|51728|"
    assert dom0.ask("READ /local/domain/5/device/vbd/51728/state|") == "1"
    assert dom0.store.check() == []


def test_two_device_creations_below_existing_parents_do_not_meet(dom0: Client, other: Client) -> None:
    dom0.ask("MKDIR /local/domain/0/backend/vbd/5|")
    dom0.ask("MKDIR /local/domain/5/device/vbd|")
    first, second = dom0.start(), other.start()
    for one, two in zip(device(51712), device(51728)):
        assert (dom0.ask(one, first), other.ask(two, second)) == ("OK|", "OK|")
    assert (dom0.commit(first), other.commit(second)) == ("OK|", "OK|")
    assert dom0.ask("DIRECTORY /local/domain/5/device/vbd|") == "51712|51728|"


def test_parents_made_with_other_permissions_meet(dom0: Client, other: Client) -> None:
    first, second = dom0.start(), other.start()
    dom0.ask("WRITE /new/x|1", first)
    other.ask("WRITE /new/y|1", second)
    other.ask("SET_PERMS /new|r0|", second)
    assert other.commit(second) == "OK|"
    assert dom0.commit(first) == "EAGAIN"


def test_created_and_deleted_in_the_same_transaction(dom0: Client) -> None:
    tx = dom0.start()
    run([
        (dom0, tx, "WRITE /a/b|1", "OK|"),
        (dom0, tx, "RM /a|", "OK|"),
        (dom0, tx, "READ /a/b|", "ENOENT"),
        (dom0, tx, "WRITE /c|1", "OK|"),
        (dom0, tx, "TRANSACTION_END T|", "OK|"),
        (dom0, 0, "READ /a|", "ENOENT"),
        (dom0, 0, "READ /c|", "1"),
    ])
    assert dom0.store.check() == []


def test_deleted_and_made_anew_in_the_same_transaction(dom0: Client) -> None:
    dom0.ask("WRITE /a/old|1")
    tx = dom0.start()
    run([
        (dom0, tx, "RM /a|", "OK|"),
        (dom0, tx, "WRITE /a/new|2", "OK|"),
        (dom0, tx, "TRANSACTION_END T|", "OK|"),
        (dom0, 0, "DIRECTORY /a|", "new|"),
    ])
    assert dom0.store.check() == []


def test_failed_creation_spoils_the_transaction() -> None:
    store = Xenstored(quotas=Quotas(nodes=3))
    dom0, guest = Client(store, 0), Client(store, 3)
    dom0.ask("MKDIR /local/domain/3|")
    dom0.ask("SET_PERMS /local/domain/3|n3|")
    tx = guest.start()
    run([
        (guest, tx, "WRITE a|1", "OK|"),
        (guest, tx, "WRITE b/c|1", "ENOSPC"),
        (guest, tx, "TRANSACTION_END T|", "ENOMEM"),
        (guest, 0, "READ a|", "ENOENT"),
    ])
    assert store.check() == []


def test_failed_creation_outside_a_transaction_leaves_nothing() -> None:
    store = Xenstored(quotas=Quotas(nodes=3))
    dom0, guest = Client(store, 0), Client(store, 3)
    dom0.ask("MKDIR /local/domain/3|")
    dom0.ask("SET_PERMS /local/domain/3|n3|")
    run([(guest, 0, "WRITE a/b/c|1", "ENOSPC"), (guest, 0, "READ a|", "ENOENT"), (guest, 0, "WRITE a/b|1", "OK|")])
    assert store.check() == []


def test_reset_within_a_transaction_drops_it(dom0: Client) -> None:
    tx = dom0.start()
    run([
        (dom0, tx, "WRITE /a|1", "OK|"),
        (dom0, tx, "RESET_WATCHES |", "OK|"),
        (dom0, tx, "TRANSACTION_END T|", "ENOENT"),
        (dom0, 0, "RESET_WATCHES |", "OK|"),
        (dom0, 0, "READ /a|", "ENOENT"),
    ])
    assert dom0.store.open_transactions == 0


def test_closing_drops_transactions(store: Xenstored) -> None:
    guest = Client(store, 3)
    guest.start()
    guest.connection.close()
    guest.connection.close()
    assert store.open_transactions == 0
    assert store.account(3).usage.transactions == 0
    assert store.account(3).usage.memory == 0


def requests(choice: random.Random) -> str:
    path = choice.choice(["/a", "/a/b", "/a/b/c", "/a/d", "/e", "/e/f", "/e/f/g"])
    entry = choice.choice("nb") + choice.choice("003")
    return choice.choice([f"READ {path}|", f"DIRECTORY {path}|", f"WRITE {path}|{choice.randrange(3)}",
                          f"MKDIR {path}|", f"RM {path}|", f"GET_PERMS {path}|", f"SET_PERMS {path}|{entry}|"])


def dump(client: Client, path: str = "/") -> list[tuple[str, ...]]:
    """Every node below `path`, its children in order of name."""
    found, waiting = [], [path]
    while waiting:
        here = waiting.pop()
        children = sorted(client.ask(f"DIRECTORY {here}|").split("|")[:-1])
        found.append((here, client.ask(f"READ {here}|"), client.ask(f"GET_PERMS {here}|"), *children))
        waiting.extend(f"{here.rstrip('/')}/{child}" for child in children)
    return sorted(found)


@pytest.mark.parametrize("seed", range(100))
def test_commits_are_as_if_one_came_after_the_other(seed: int) -> None:
    """Each transaction that commits gives, asked again in one go at that place, the same answers and the same store."""
    choice = random.Random(seed)
    store, serial = Xenstored(), Xenstored()
    clients, replays = ([Client(where, domid) for domid in (0, 0, 3, 3)] for where in (store, serial))
    for client in (clients[0], replays[0]):
        client.ask("SET_PERMS /|b0|")
    logs: list[tuple[int, list[tuple[str, str]]] | None] = [None] * len(clients)
    for _ in range(120):
        index = choice.randrange(len(clients))
        client, log = clients[index], logs[index]
        if log is None:
            logs[index] = (client.start(), [])
        elif choice.random() < 0.2:
            logs[index] = None
            if client.commit(log[0]) == "OK|":
                for request, answer in log[1]:
                    again = replays[index].ask(request)
                    assert sorted(again.split("|")) == sorted(answer.split("|")), (seed, request)
        else:
            request = requests(choice)
            log[1].append((request, client.ask(request, log[0])))
        assert store.check() == []
    assert dump(clients[0]) == dump(replays[0])
