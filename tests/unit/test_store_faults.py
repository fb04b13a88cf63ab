"""A xenstored that dies, is silent or talks nonsense: every caller hears of it, none waits for ever.

The time limits here are only there to end a test that fails; no test but those of silence waits for one.
"""

import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import fake_xenstored as fake
from tests.support.fake_xenstored import HEADER, FakeXenstored, Peer, Request, Step, drop, error, raw, silence
from xenpv.errors import ClosedError, StoreConnectionError, StoreError, StoreTimeoutError
from xenpv.store import XenStore
from xenpv.store.router import UNANSWERED_MAX

pytest_plugins = ["tests.support.stores"]

Serve = Callable[..., tuple[FakeXenstored, XenStore]]
Until = Callable[..., None]


def wrong_id(peer: Peer, request: Request) -> None:
    peer.send(request.op, request.rq_id + 100, b"value")


def wrong_op(peer: Peer, request: Request) -> None:
    peer.send(fake.DIRECTORY, request.rq_id, b"value")


def half(peer: Peer, request: Request) -> None:
    peer.raw(HEADER.pack(request.op, request.rq_id, 0, 100) + b"only this")
    peer.close()


BREAKS: dict[str, Step] = {
    "connection lost": drop,
    "half a message": half,
    "unknown type": raw(HEADER.pack(26, 1, 0, 0)),
    "huge type": raw(HEADER.pack(0xffffffff, 1, 0, 0)),
    "unknown request": wrong_id,
    "wrong type": wrong_op,
    "oversize": raw(HEADER.pack(fake.READ, 1, 0, 4097)),
    "huge": raw(HEADER.pack(fake.READ, 1, 0, 0xffffffff)),
    "event without token": raw(HEADER.pack(fake.WATCH_EVENT, 0, 0, 3) + b"/a\0"),
    "event without end": raw(HEADER.pack(fake.WATCH_EVENT, 0, 0, 4) + b"/a\0t"),
    "empty event": raw(HEADER.pack(fake.WATCH_EVENT, 0, 0, 0)),
    "event of no path": raw(HEADER.pack(fake.WATCH_EVENT, 0, 0, 6) + b"/a\n\0t\0"),
}


@pytest.mark.parametrize("step", BREAKS.values(), ids=BREAKS.keys())
def test_a_broken_connection_reaches_the_caller_and_is_made_again(serve: Serve, step: Step) -> None:
    server, store = serve(step)
    with pytest.raises(StoreConnectionError, match="read /a"):
        store.read("/a")
    assert store.read("/a") == b"value"
    assert len(server.connections) == 2


@pytest.mark.parametrize("step", BREAKS.values(), ids=BREAKS.keys())
def test_a_broken_connection_reaches_every_waiter(serve: Serve, step: Step) -> None:
    server, store = serve(silence, silence, silence, step, reconnect=0)
    caught: list[Exception] = []
    watch_ended = threading.Event()

    def read() -> None:
        try:
            store.read("/a")
        except StoreError as problem:
            caught.append(problem)

    def wait() -> None:
        try:
            watch.wait(10)
        except StoreConnectionError:
            watch_ended.set()

    server.script.insert(0, fake.serve)
    watch = store.watch("/w")
    assert watch.wait(10) == "/w"
    threads = [threading.Thread(target=read) for _ in range(3)] + [threading.Thread(target=wait)]
    for thread in threads:
        thread.start()
    server.wait_for(lambda: len(server.requests) == 4)
    read()
    for thread in threads:
        thread.join(10)
    assert [type(problem) for problem in caught] == [StoreConnectionError] * 4
    assert watch_ended.is_set()
    with pytest.raises(StoreConnectionError):
        store.read("/a")


def test_a_silent_xenstored(serve: Serve) -> None:
    _, store = serve(silence, timeout=0.05)
    with pytest.raises(StoreTimeoutError, match="read /a"):
        store.read("/a")
    assert store.read("/a") == b"value"


def test_an_answer_that_comes_late_harms_nobody(serve: Serve) -> None:
    held: list[tuple[Peer, Request]] = []
    server, store = serve(lambda peer, request: held.append((peer, request)), timeout=0.05)
    with pytest.raises(StoreTimeoutError):
        store.read("/a")
    fake.reply(b"late")(*held[0])
    assert store.read("/b") == b"value"
    assert len(server.connections) == 1


def test_a_transaction_that_comes_late_is_ended(serve: Serve) -> None:
    """Else it counts against the domain's ten."""
    held: list[tuple[Peer, Request]] = []
    server, store = serve(lambda peer, request: held.append((peer, request)), timeout=0.05)
    with pytest.raises(StoreTimeoutError):
        store.transact(lambda transaction: None)
    fake.serve(*held[0])
    server.wait_for(lambda: len(server.requests) == 2)
    assert server.requests[1][0:3:2] == (fake.TRANSACTION_END, 7)
    assert server.requests[1].payload == b"F\0"


def test_too_much_silence_ends_the_connection(serve: Serve) -> None:
    server, store = serve(*[silence] * (UNANSWERED_MAX + 1), timeout=0.001)
    for _ in range(UNANSWERED_MAX + 1):
        with pytest.raises(StoreTimeoutError):
            store.read("/a")
    server.wait_for(lambda: len(server.connections) == 2)
    assert len(server.connections) == 2


def test_a_xenstored_that_does_not_read(tmp_path: Path) -> None:
    """The socket's buffer fills up, and then sending has its time limit too."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen(1)
        with XenStore(tmp_path / "s", timeout=0.01, reconnect=0) as store:
            for _ in range(UNANSWERED_MAX):
                with pytest.raises(StoreError) as caught:
                    store.write("/a", b"x" * 4000)
                assert isinstance(caught.value, StoreTimeoutError | StoreConnectionError)


def test_a_xenstored_that_does_not_accept(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen(0)
        with XenStore(tmp_path / "s", timeout=0.05), pytest.raises(StoreConnectionError, match="does not accept"):
            XenStore(tmp_path / "s", timeout=0.05)


@pytest.mark.parametrize("path", ["missing", "x" * 200, "nul\0"])
def test_nobody_to_connect_to(tmp_path: Path, path: str) -> None:
    with pytest.raises(StoreConnectionError, match="cannot connect to xenstored at") as caught:
        XenStore(f"{tmp_path}/{path}")
    assert "\n" not in str(caught.value) and "\0" not in str(caught.value)


def test_a_refused_connection_leaves_no_descriptor(tmp_path: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(StoreConnectionError):
        XenStore(tmp_path / "missing")
    assert len(list(Path("/proc/self/fd").iterdir())) == before


# Reconnecting

def test_watches_are_registered_again_and_fire_once_more(serve: Serve) -> None:
    server, store = serve()
    with store.watch("/a") as one, store.watch("b") as other:
        assert (one.wait(10), other.wait(10)) == ("/a", "b")
        server.connections[0].close()
        assert (one.wait(10), other.wait(10)) == ("/a", "b")
        assert (one.wait(0), other.wait(0)) == (None, None)
        assert server.requests[2:4] == [request._replace(rq_id=server.requests[2 + index].rq_id)
                                        for index, request in enumerate(server.requests[:2])]


def test_a_request_waits_while_the_daemon_restarts(tmp_path: Path, until: Until) -> None:
    first = FakeXenstored(tmp_path / "s")
    with XenStore(tmp_path / "s", timeout=10) as store, store.watch("/a") as watch:
        assert watch.wait(10) == "/a"
        first.close()
        answers: list[bytes] = []
        until(lambda: store._router._state.name == "LOST", "the loss")
        reader = threading.Thread(target=lambda: answers.append(store.read("/a")))
        reader.start()
        with FakeXenstored(tmp_path / "s") as second:
            reader.join(10)
            assert answers == [b"value"]
            assert second.ops() == [fake.WATCH, fake.READ]
            assert watch.wait(10) == "/a"


def test_a_request_does_not_wait_longer_than_its_time(tmp_path: Path, until: Until) -> None:
    server = FakeXenstored(tmp_path / "s")
    with XenStore(tmp_path / "s", timeout=0.05, reconnect=None) as store:
        server.close()
        until(lambda: store._router._state.name == "LOST", "the loss")
        with pytest.raises(StoreConnectionError, match="no connection"):
            store.read("/a")


def test_after_the_time_for_reconnecting_it_is_gone_for_good(tmp_path: Path) -> None:
    server = FakeXenstored(tmp_path / "s")
    with XenStore(tmp_path / "s", reconnect=0.05) as store, store.watch("/a") as watch:
        assert watch.wait(10) == "/a"
        server.close()
        with pytest.raises(StoreConnectionError, match="watch /a"):
            watch.wait(10)
        with pytest.raises(StoreConnectionError, match="is it running"):
            store.read("/a")


def test_a_watch_that_is_refused_again_says_so(serve: Serve) -> None:
    server, store = serve(fake.serve, fake.serve, error(b"EACCES"))
    with store.watch("/a") as bad, store.watch("/b") as good:
        assert (bad.wait(10), good.wait(10)) == ("/a", "/b")
        server.connections[0].close()
        with pytest.raises(StoreError, match="watch /a again"):
            bad.wait(10)
        assert good.wait(10) == "/b"


def test_a_watch_closed_while_it_is_registered_again(serve: Serve, until: Until) -> None:
    held: list[tuple[Peer, Request]] = []
    server, store = serve(fake.serve, lambda peer, request: held.append((peer, request)))
    watch = store.watch("/a")
    assert watch.wait(10) == "/a"
    server.connections[0].close()
    until(lambda: held, "the second WATCH")
    watch.close()
    fake.serve(*held[0])
    assert store.read("/x") == b"value"
    assert server.ops() == [fake.WATCH, fake.WATCH, fake.UNWATCH, fake.READ]


def test_a_connection_that_breaks_while_watches_are_registered(serve: Serve) -> None:
    server, store = serve(fake.serve, drop, silence)
    with store.watch("/a") as watch:
        assert watch.wait(10) == "/a"
        server.connections[0].close()
        server.wait_for(lambda: len(server.requests) == 3)
        server.connections[2].close()
        assert watch.wait(10) == "/a"


def test_a_server_that_always_breaks_is_given_up(serve: Serve) -> None:
    """Connecting works each time, and still that must end."""
    _, store = serve(fake.serve, *[drop] * 1000, reconnect=0.1)
    with store.watch("/a") as watch:
        assert watch.wait(10) == "/a"
        with pytest.raises(StoreConnectionError):
            store.read("/a")
        with pytest.raises(StoreConnectionError):
            watch.wait(10)


def test_close_ends_a_request_that_waits(serve: Serve) -> None:
    server, store = serve(silence)
    caught: list[type[Exception]] = []

    def read() -> None:
        try:
            store.read("/a")
        except ClosedError as problem:
            caught.append(type(problem))

    reader = threading.Thread(target=read)
    reader.start()
    server.wait_for(lambda: len(server.requests) == 1)
    store.close()
    reader.join(10)
    assert caught == [ClosedError]


def test_close_ends_reconnecting(tmp_path: Path, until: Until) -> None:
    server = FakeXenstored(tmp_path / "s")
    store = XenStore(tmp_path / "s", reconnect=None)
    server.close()
    until(lambda: store._router._state.name == "LOST", "the loss")
    store.close()
    assert not store._router._thread.is_alive()


def test_an_error_of_our_own_reaches_the_waiters(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bug in the router's thread is no reason to wait for ever."""
    def fail(payload: bytes) -> None:
        raise RuntimeError("bug")

    _, store = serve(BREAKS["empty event"])
    monkeypatch.setattr("xenpv.store.router.parse_event", fail)
    monkeypatch.setattr(threading, "excepthook", lambda arguments: None)
    with pytest.raises(StoreConnectionError, match="bug"):
        store.read("/a")
