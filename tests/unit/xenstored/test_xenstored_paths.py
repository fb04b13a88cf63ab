"""Paths, and what no client's bytes may do to the emulated xenstored."""

from __future__ import annotations

import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.store_client import Client

from xenpv.errors import StoreError
from xenpv.hypervisors.emulated.xenstored import Quotas, Xenstored, paths
from xenpv.wire.xs import Opcode, encode

GOOD = re.compile(r"/|(/[-_@A-Za-z0-9]+)+|@[-_@A-Za-z0-9]*(/[-_@A-Za-z0-9]+)*")
PIECES = [b"/", b"//", b"@", b"local", b"domain", b"65535", b"3", b"a", b"-", b"_", b".", b" ", b"\n", b"\0", b"\xff",
          b"/local/domain/", b"/local/domain/3/", b"x" * 1000, b"x" * 2000]


@given(st.lists(st.sampled_from(PIECES), max_size=7).map(b"".join) | st.binary(max_size=20), st.booleans(),
       st.sampled_from([0, 10, 2048]))
def test_canonical_form_is_good_or_refused(raw: bytes, special: bool, limit: int) -> None:
    try:
        path = paths.canonical(raw, "/local/domain/3", limit=limit, special=special)
    except StoreError as refusal:
        assert refusal.code == "EINVAL"
    else:
        assert GOOD.fullmatch(path) and len(path) <= 3072
        assert special or path[0] == "/"
        assert raw[:1] in (b"/", b"@") or path == "/local/domain/3/" + raw.decode()
        assert paths.canonical(path.encode(), "/x", special=special) == path


@pytest.mark.parametrize("raw, limit, good", [
    (b"/" + b"x" * 3071, 0, True), (b"/" + b"x" * 3072, 0, False),
    (b"/" + b"x" * 2047, 2048, True), (b"/" + b"x" * 2048, 2048, False),
    (b"/local/domain/3/" + b"x" * 2048, 2048, True), (b"/local/domain/3/" + b"x" * 2049, 2048, False),
    (b"x" * 2048, 2048, True), (b"x" * 2049, 2048, False),
    (b"/local/domain/123456/" + b"x" * 2048, 2048, False),
])
def test_lengths(raw: bytes, limit: int, good: bool) -> None:
    try:
        paths.canonical(raw, "/local/domain/3", limit=limit)
        assert good
    except StoreError:
        assert not good


@pytest.mark.parametrize("path, above, name", [("/a/b", "/a", "b"), ("/a", "/", "a"), ("@releaseDomain/3",
                                               "@releaseDomain", "3"), ("@releaseDomain", "/", "@releaseDomain")])
def test_parent_and_name(path: str, above: str, name: str) -> None:
    assert (paths.parent(path), paths.name(path)) == (above, name)


def test_1500_levels() -> None:
    store = Xenstored()
    dom0 = Client(store, 0)
    deep = "/d" * 1500
    assert dom0.ask(f"WATCH {deep}|t|") == "OK|"
    dom0.take_events()
    assert dom0.ask(f"WRITE {deep}|1") == "OK|"
    tx = dom0.start()
    assert dom0.ask(f"WRITE {deep}|2", tx) == "OK|"
    assert dom0.commit(tx) == "OK|"
    assert dom0.ask(f"READ {deep}|") == "2"
    assert dom0.take_events() == [f"{deep}|t|"] * 2
    assert dom0.ask(f"SET_PERMS {'/d' * 700}|n3|") == "OK|"
    store.release(3)
    assert dom0.ask(f"DIRECTORY {'/d' * 699}|") == ""
    assert dom0.ask("RM /d|") == "OK|"
    assert dom0.take_events() == [f"{deep}|t|"]
    assert store.check() == []


def test_guest_makes_as_deep_a_path_as_its_quota_allows() -> None:
    store = Xenstored(quotas=Quotas(nodes=0))
    dom0, guest = Client(store, 0), Client(store, 3)
    dom0.ask("MKDIR /local/domain/3|")
    dom0.ask("SET_PERMS /local/domain/3|n3|")
    assert guest.ask(f"WRITE {'d/' * 1000}d|1") == "OK|"
    assert guest.ask("RM d|") == "OK|"
    assert store.account(3).usage.nodes == 1
    assert store.check() == []


@pytest.mark.parametrize("seed", range(60))
def test_no_bytes_break_the_store(seed: int) -> None:
    """Random requests and plain garbage from two guests, readers and not: the store stays whole and serves domain 0."""
    choice = random.Random(seed)
    store = Xenstored(quotas=Quotas(nodes=20, watches=5, memory=20000, transactions=3, transaction_nodes=10))
    dom0 = Client(store, 0)
    for domid in (3, 4):
        store.introduce(domid)
        dom0.ask(f"MKDIR /local/domain/{domid}|")
        dom0.ask(f"SET_PERMS /local/domain/{domid}|n{domid}|r7|")
    words = [b"a", b"a/b", b"a/b/c", b"/local/domain/3", b"/local/domain/4/a", b"/", b"", b"@releaseDomain", b"T", b"F",
             b"t", b"n3", b"b4", b"r32757", b"1", b"0", b"4", b"99999", b"x" * 3000, b"\xff\xfe"]
    guests: dict[int, list[Client]] = {3: [], 4: []}
    now = 0.0
    for _ in range(400):
        domid = choice.choice((3, 4))
        clients = guests[domid]
        if not clients or len(clients) < 3 and choice.random() < 0.05:
            clients.append(Client(store, domid))
        client = choice.choice(clients)
        action = choice.random()
        if action < 0.01:
            client.connection.receive(choice.randbytes(choice.randrange(100)))
        elif action < 0.02:
            client.connection.close()
        elif action < 0.025:
            store.release(domid)
            store.introduce(domid)
        elif action < 0.1:
            client.read()
        else:
            payload = b"\0".join(choice.choices(words, k=choice.randrange(4))) + choice.choice([b"\0", b"\0", b""])
            type = choice.choice([*Opcode, 20, 27, 1 << 31])
            if len(payload) <= 4096:
                client.connection.receive(encode(type, 7, choice.choice([0, 0, 1, 2, 9]), payload))
        now += choice.random() * 5
        store.tick(now)
        guests[domid] = [client for client in clients if not client.connection.closed]
        assert store.check() == []
        for number in (3, 4):
            usage = store.account(number).usage
            assert min(usage.nodes, usage.watches, usage.transactions, usage.outstanding, usage.memory) >= 0
            assert usage.nodes <= 20 and usage.watches <= 5 and usage.transactions <= 3 and usage.outstanding <= 20
            assert usage.memory <= 20000
    assert dom0.ask("READ /tool|") == ""
    for clients in guests.values():
        for client in clients:
            client.connection.close()
    for domid in (3, 4):
        store.release(domid)
    dom0.connection.close()
    assert store.open_transactions == 0
    assert store.account(0).usage.watches == 0
    assert all(connection.closed for connection in store.ready())
