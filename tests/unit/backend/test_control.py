"""The control socket: verbs that end later, verbs that fail, and clients that do not wait."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from xenpv.errors import DeviceError
from xenpv_backend.control import CLIENTS_MAX, Control
from xenpv_backend.daemon import Loop


class Bench:
    """A control socket with the verbs ``now``, ``later`` (ends with `later`) and ``fails``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.loop = Loop()
        self.later: Future[dict[str, Any]] = Future()
        self.control = Control(path, self.loop, {
            "now": lambda request: {"number": request.get("number")}, "later": lambda request: self.later,
            "fails": lambda request: {"number": 1 // 0}})

    def client(self, *verbs: str, all_said: bool = False) -> socket.socket:
        """One that has sent these requests, and has been heard."""
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(0)
        client.connect(str(self.path))
        client.sendall(b"".join(json.dumps({"verb": verb, "number": n}).encode() + b"\n" for n, verb in enumerate(verbs)))
        if all_said:
            client.shutdown(socket.SHUT_WR)
        self.turn()
        return client

    def turn(self) -> None:
        for _ in range(4):
            self.loop.once(0)


def answers(client: socket.socket) -> list[Any]:
    """What has come until now."""
    data = b""
    while True:
        try:
            more = client.recv(65536)
        except BlockingIOError:
            break
        if not more:
            break
        data += more
    return [json.loads(line) for line in data.splitlines()]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path / "control")
    yield bench
    bench.control.close()
    bench.loop.close()


def test_one_that_waits_keeps_no_other_waiting(bench: Bench) -> None:
    with bench.client("later") as waits, bench.client("now") as other:
        assert answers(waits) == [] and answers(other) == [{"ok": True, "number": 0}]
        bench.later.set_result({"bytes": 512})
        assert answers(waits) == [{"ok": True, "bytes": 512}]


def test_the_answers_come_in_order(bench: Bench) -> None:
    with bench.client("now", "later", "now") as client:
        assert answers(client) == [{"ok": True, "number": 0}]
        bench.later.set_result({})
        assert answers(client) == [{"ok": True}, {"ok": True, "number": 2}]


def test_a_client_that_has_said_all_gets_its_answers(bench: Bench) -> None:
    with bench.client("later", "now", all_said=True) as client:
        assert answers(client) == []
        bench.later.set_exception(DeviceError("it went"))
        assert answers(client) == [{"ok": False, "error": "it went"}, {"ok": True, "number": 1}]


def test_a_client_that_went_is_no_hindrance(bench: Bench) -> None:
    for _ in range(CLIENTS_MAX):
        bench.client("later").close()
        bench.turn()
    bench.later.set_result({})
    with bench.client("now") as client:
        assert answers(client) == [{"ok": True, "number": 0}]


def test_a_verb_that_fails_is_an_answer(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    with bench.client("fails", "now") as client:
        first, second = answers(client)
    assert first["ok"] is False and first["error"].startswith("internal error: ZeroDivisionError")
    assert second["ok"] and "ZeroDivisionError" in caplog.text
