"""Watches: how they are registered, and the bounded queue."""

import select
import threading
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import fake_xenstored as fake
from tests.support.fake_xenstored import FakeXenstored, Peer, Request, error, silence
from xenpv.domain import Watch
from xenpv.errors import ClosedError, QuotaError, StoreError, StoreTimeoutError
from xenpv.store import StoreWatch, XenStore

pytest_plugins = ["tests.support.stores"]

Serve = Callable[..., tuple[FakeXenstored, XenStore]]


def queue(path: str = "/w", depth: int | None = None, limit: int = 4) -> StoreWatch:
    """A watch of no store."""
    return StoreWatch(path, "t", depth, limit, lambda watch: None)


def taken(watch: StoreWatch) -> list[str]:
    """All that waits."""
    paths = []
    while (path := watch.wait(0)) is not None:
        paths.append(path)
    return paths


def test_equal_paths_are_delivered_once_in_order_of_their_first() -> None:
    with queue() as watch:
        for path in ("/w/b", "/w/a", "/w/b", "/w/a"):
            watch.put(path)
        assert taken(watch) == ["/w/b", "/w/a"]


def test_a_path_that_was_taken_comes_again() -> None:
    with queue() as watch:
        watch.put("/w/a")
        assert taken(watch) == ["/w/a"]
        watch.put("/w/a")
        assert taken(watch) == ["/w/a"]


def test_more_paths_than_fit_become_the_watched_one() -> None:
    with queue(limit=4) as watch:
        for number in range(5):
            watch.put(f"/w/{number}")
        watch.put("/w/9")
        assert taken(watch) == ["/w"]
        watch.put("/w/9")
        assert taken(watch) == ["/w/9"]


def test_as_many_paths_as_fit_are_kept() -> None:
    with queue(limit=4) as watch:
        for number in range(4):
            watch.put(f"/w/{number}")
        assert taken(watch) == [f"/w/{number}" for number in range(4)]


@given(st.lists(st.integers(0, 12) | st.none(), max_size=60), st.integers(1, 5))
@settings(max_examples=100, derandomize=True, deadline=None)
def test_no_change_is_lost_and_the_queue_is_bounded(script: list[int | None], limit: int) -> None:
    """Numbers are events, None takes one: what is not covered by what was taken since it came is still waiting."""
    unseen: set[str] = set()
    with queue(limit=limit) as watch:
        for step in [*script, *[None] * (limit + 1)]:
            if step is not None:
                watch.put(f"/w/{step}")
                unseen.add(f"/w/{step}")
            elif (path := watch.wait(0)) is not None:
                unseen = set() if path == "/w" else unseen - {path}
            assert len(watch._pending) <= limit
    assert not unseen


@pytest.mark.parametrize("watched, depth, path, wanted", [
    ("/w", 0, "/w", True), ("/w", 0, "/w/a", False), ("/w", 1, "/w/a", True), ("/w", 1, "/w/a/b", False),
    ("/w", 2, "/w/a/b", True), ("/", 1, "/a", True), ("/", 1, "/a/b", False),
    ("@releaseDomain", 1, "@releaseDomain/5", True)])
def test_depth(watched: str, depth: int, path: str, wanted: bool) -> None:
    with queue(watched, depth) as watch:
        watch.put(path)
        assert taken(watch) == [path] * wanted


def test_the_descriptor_is_readable_while_events_wait() -> None:
    with queue() as watch:
        poll = select.poll()
        poll.register(watch.fileno(), select.POLLIN)
        assert not poll.poll(0)
        watch.put("/w/a")
        watch.put("/w/b")
        watch.wait(0)
        assert poll.poll(0)
        watch.wait(0)
        assert not poll.poll(0)


def test_a_failed_watch_gives_what_waits_and_then_its_error() -> None:
    with queue() as watch:
        poll = select.poll()
        poll.register(watch.fileno(), select.POLLIN)
        watch.put("/w/a")
        watch.fail(QuotaError("too many", "E2BIG"))
        assert watch.wait(0) == "/w/a"
        assert poll.poll(0)
        for _ in range(2):
            with pytest.raises(QuotaError, match="too many"):
                watch.wait()


def test_close_ends_a_wait() -> None:
    watch = queue()
    caught: list[type[Exception]] = []

    def wait() -> None:
        try:
            watch.wait()
        except ClosedError as problem:
            caught.append(type(problem))

    waiter = threading.Thread(target=wait)
    waiter.start()
    watch.close()
    waiter.join(10)
    assert caught == [ClosedError]


def test_an_event_ends_a_wait() -> None:
    with queue() as watch:
        paths: list[str | None] = []
        waiter = threading.Thread(target=lambda: paths.append(watch.wait(10)))
        waiter.start()
        watch.put("/w/a")
        waiter.join(10)
        assert paths == ["/w/a"]


# On the wire

def test_watch_and_unwatch(serve: Serve) -> None:
    server, store = serve()
    watch: Watch = store.watch("/a")
    assert watch.wait(10) == "/a"
    watch.close()
    watch.close()
    path, token = server.requests[0].payload.split(b"\0")[:2]
    assert path == b"/a" and server.ops() == [fake.WATCH, fake.UNWATCH]
    assert server.requests[1].payload == b"/a\0" + token + b"\0"


def test_two_watches_of_one_path_have_their_own_tokens(serve: Serve) -> None:
    server, store = serve()
    with store.watch("/a"), store.watch("/a"):
        assert server.requests[0].payload != server.requests[1].payload


def event_first(peer: Peer, request: Request) -> None:
    peer.event("/a", request.payload.split(b"\0")[1])
    peer.send(request.op, request.rq_id, b"OK\0")


def test_an_event_before_the_ok(serve: Serve) -> None:
    _, store = serve(event_first)
    with store.watch("/a") as watch:
        assert watch.wait(10) == "/a"


def test_an_events_header_says_nothing(serve: Serve) -> None:
    """Linux leaves request and transaction id of an event unset: here they are those of a request under way."""
    tokens: list[bytes] = []

    def event_and_answer(peer: Peer, request: Request) -> None:
        peer.event("/a/b", tokens[0], rq_id=request.rq_id, tx_id=0xdeadbeef)
        fake.serve(peer, request)

    def remember(peer: Peer, request: Request) -> None:
        tokens.append(request.payload.split(b"\0")[1])
        peer.send(request.op, request.rq_id, b"OK\0")

    _, store = serve(remember, event_and_answer)
    with store.watch("/a") as watch:
        assert store.read("/x") == b"value"
        assert watch.wait(10) == "/a/b"


def test_an_event_for_nobody_is_dropped(serve: Serve) -> None:
    """It was on its way when its watch was closed."""
    def event_and_answer(peer: Peer, request: Request) -> None:
        peer.event("/a", b"nobody")
        fake.serve(peer, request)

    server, store = serve(event_and_answer)
    assert store.read("/x") == b"value"
    assert store.read("/x") == b"value"
    assert len(server.connections) == 1


def test_the_depth_is_sent(serve: Serve) -> None:
    server, store = serve()
    with store.watch("/a", depth=1):
        assert server.requests[0].payload.split(b"\0")[2:] == [b"1", b""]


def test_a_xenstored_without_depths(serve: Serve) -> None:
    def events(peer: Peer, request: Request) -> None:
        for path in ("/a/b/c", "/a/b"):
            peer.event(path, server.requests[1].payload.split(b"\0")[1])
        fake.serve(peer, request)

    server, store = serve(error(b"EINVAL"), fake.serve, events)
    with store.watch("/a", depth=1) as watch:
        assert server.requests[1].payload.count(b"\0") == 2
        assert watch.wait(10) == "/a"
        store.read("/x")
        assert (watch.wait(10), watch.wait(0)) == ("/a/b", None)


def test_a_refused_watch(serve: Serve) -> None:
    server, store = serve(error(b"E2BIG"))
    with pytest.raises(QuotaError, match="watch /a"):
        store.watch("/a")
    assert store.read("/a") == b"value"
    assert fake.UNWATCH not in server.ops()


def test_a_watch_that_came_too_late_is_taken_back(serve: Serve) -> None:
    server, store = serve(silence, timeout=0.05)
    with pytest.raises(StoreTimeoutError):
        store.watch("/a")
    server.wait_for(lambda: fake.UNWATCH in server.ops())
    assert server.requests[1].payload == server.requests[0].payload


def test_an_unwatch_of_what_is_not_there(serve: Serve) -> None:
    _, store = serve(fake.serve, error(b"ENOENT"))
    store.watch("/a").close()
    assert store.read("/a") == b"value"


@pytest.mark.parametrize("arguments", [{"limit": 0}, {"depth": -1}])
def test_what_cannot_be_meant(serve: Serve, arguments: dict[str, int]) -> None:
    server, store = serve()
    with pytest.raises(ValueError):
        store.watch("/a", **arguments)
    assert not server.requests


def test_a_bad_path_is_not_sent(serve: Serve) -> None:
    server, store = serve()
    with pytest.raises(StoreError):
        store.watch("@nothing")
    assert not server.requests


def test_reset_watches_registers_ours_again(serve: Serve) -> None:
    server, store = serve()
    with store.watch("/a") as watch:
        assert watch.wait(10) == "/a"
        store.reset_watches()
        assert server.ops() == [fake.WATCH, fake.RESET_WATCHES, fake.WATCH]
        assert server.requests[1].payload == b"\0"
        assert watch.wait(10) == "/a"


def test_reset_watches_of_an_old_xenstored(serve: Serve) -> None:
    _, store = serve(error(b"ENOSYS"))
    with pytest.raises(StoreError, match="reset watches"):
        store.reset_watches()
