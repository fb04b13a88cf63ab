"""The emulated xenstored and Xen's own C xenstored, asked the same: same answers, same events.

Known and wanted differences: transactions that only make different children of one node commit here and meet there; so
a transaction that has met another there may see another state here. A domain id that is no number up to 65535, and an
empty path, are refused here, as newer versions of Xen do.
"""

from __future__ import annotations

import random
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.c_xenstored import c_xenstored
from tests.support.store_client import Client
from xenpv.hypervisors.emulated.xenstored import Xenstored
from xenpv.wire.xs import Decoder, Opcode, encode

pytestmark = pytest.mark.peer

OTHER_REQUESTS = [
    "GET_DOMAIN_PATH 5|", "IS_DOMAIN_INTRODUCED 5|", "IS_DOMAIN_INTRODUCED 32752|", "20 x|", "15 x|", "99 x|",
    "RELEASE 77|", "RELEASE 0|", "RESUME 78|", "SET_TARGET 77|78|", "TRANSACTION_END X|", "WATCH /a|",
]


class CClient:
    """`Client`, on a socket."""

    def __init__(self, path: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(10)
        self.socket.connect(path)
        self.events: list[str] = []
        self._decoder = Decoder()

    def ask(self, request: str, tx: int = 0) -> str:
        name, _, payload = request.encode().partition(b" ")
        opcode = int(name) if name.isdigit() else Opcode[name.decode()]
        self.socket.sendall(encode(opcode, 1, tx, payload.replace(b"|", b"\0")))
        while True:
            packet = self._decoder.next()
            if packet is None:
                data = self.socket.recv(65536)
                assert data, f"C xenstored closed the connection at {request}"
                self._decoder.feed(data)
                continue
            text = packet.payload.replace(b"\0", b"|").decode("latin-1")
            if packet.type != Opcode.WATCH_EVENT:
                return text.removesuffix("|") if packet.type == Opcode.ERROR else text
            self.events.append(text)

    def take_events(self) -> list[str]:
        self.ask("READ /tool|")  # events come before the answer
        events, self.events = self.events, []
        return events


@pytest.fixture(scope="module")
def c_socket(tmp_path_factory: pytest.TempPathFactory, requires: Callable[[str], str],
             until: Callable[..., None]) -> Iterator[str]:
    program = Path(requires("test-xenstore")).with_name("xenstored")  # of one package
    with c_xenstored(program, tmp_path_factory.mktemp("xs"), until) as path:
        yield path


def request(choice: random.Random, base: str) -> str:
    """One request, mostly on a few nodes below `base`. Only what no version of C xenstored dies of."""
    path = choice.choice([base + below for below in ("", "/a", "/a/b", "/a/b/c", "/d", "/d/e", "//", "/a/", "/x.y")])
    token = choice.choice("ab")
    return choice.choice([
        f"READ {path}|", f"WRITE {path}|{choice.randrange(4)}", f"MKDIR {path}|", f"RM {path}|", f"DIRECTORY {path}|",
        f"GET_PERMS {path}|", f"SET_PERMS {path}|r0|b0|", f"SET_PERMS {path}|q0|", f"WATCH {path}|{token}|",
        f"UNWATCH {base}/a|{token}|", f"WATCH @releaseDomain|{token}|", "RM /|", "WRITE @releaseDomain|1",
        choice.choice(OTHER_REQUESTS)])


@pytest.mark.parametrize("seed", range(60))
def test_same_requests_same_answers(c_socket: str, seed: int) -> None:
    choice = random.Random(seed)
    store = Xenstored()
    ours, theirs = [Client(store, 0) for _ in range(2)], [CClient(c_socket) for _ in range(2)]
    transactions: list[tuple[int, int]] = [(0, 0), (0, 0)]
    base = f"/seed-{seed}"
    for step in range(80):
        index = choice.randrange(2)
        mine, its = ours[index], theirs[index]
        tx, its_tx = transactions[index]
        action = choice.random()
        if tx and action < 0.15:
            end = f"TRANSACTION_END {choice.choice('TTF')}|"
            answers = mine.ask(end, tx), its.ask(end, its_tx)
            transactions[index] = (0, 0)
            if answers == ("OK|", "EAGAIN"):
                break  # the stores differ from here on
            assert answers[0] == answers[1], (seed, step)
        elif not tx and action < 0.15:
            transactions[index] = (mine.start(), int(its.ask("TRANSACTION_START |").rstrip("|")))
        else:
            asked = request(choice, base)
            answers = mine.ask(asked, tx), its.ask(asked, its_tx)
            if answers[0] != answers[1]:
                assert tx and its.ask("TRANSACTION_END T|", its_tx) == "EAGAIN", (seed, step, asked, answers)
                break
        for one, other in zip(ours, theirs):
            assert sorted(set(one.take_events())) == sorted(set(other.take_events())), (seed, step)
    for client in theirs:
        client.socket.close()
