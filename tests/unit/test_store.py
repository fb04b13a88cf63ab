"""The store's verbs on the wire, against a scripted xenstored."""

import errno
import threading
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest

from tests.support import fake_xenstored as fake
from tests.support.descriptors import beyond_1023
from tests.support.fake_xenstored import FakeXenstored, error, reply
from xenpv.domain import Store, Transaction
from xenpv.errors import (AccessDeniedError, ClosedError, ConflictError, NoEntryError, QuotaError, StoreConnectionError,
                          StoreError)
from xenpv.store import XenStore
from xenpv.store.connection import Connection, Op, Packet, SocketConnection, Transport
from xenpv.store.router import Router

pytest_plugins = ["tests.support.stores"]

Serve = Callable[..., tuple[FakeXenstored, XenStore]]


def test_it_is_a_store(serve: Serve) -> None:
    _, store = serve()
    as_protocol: Store = store
    assert as_protocol.read("/a") == b"value"


@pytest.mark.parametrize("value", [b"", b"\0", b"tail\0\0", bytes(range(256)), b"a\nb\tc"])
def test_values_are_kept_as_they_are(serve: Serve, value: bytes) -> None:
    server, store = serve(reply(b"OK\0"), reply(value))
    store.write("/a", value)
    assert server.requests[0].payload == b"/a\0" + value
    assert store.read("/a") == value


def test_text_is_written_as_utf8(serve: Serve) -> None:
    server, store = serve()
    store.write("/a", "caf\u00e9")
    assert server.requests[0].payload == b"/a\0caf\xc3\xa9"


def test_a_number_is_no_value(serve: Serve) -> None:
    server, store = serve()
    with pytest.raises(TypeError):
        store.write("/a", cast(bytes, 5))
    assert not server.requests


def test_the_largest_value_goes_and_a_larger_one_does_not(serve: Serve) -> None:
    server, store = serve()
    store.write("/a", b"x" * 4093)
    with pytest.raises(QuotaError) as caught:
        store.write("/a", b"x" * 4094)
    assert caught.value.code == "E2BIG" and "write /a" in str(caught.value)
    assert len(server.requests) == 1


@pytest.mark.parametrize("name, kind", [(b"ENOENT", NoEntryError), (b"EACCES", AccessDeniedError),
                                        (b"EWHATEVER", StoreError)])
def test_errors_name_operation_and_path(serve: Serve, name: bytes, kind: type[StoreError]) -> None:
    _, store = serve(error(name))
    with pytest.raises(kind) as caught:
        store.read("/a/b")
    assert caught.value.code == name.decode() and "read /a/b" in str(caught.value)


def test_exists(serve: Serve) -> None:
    _, store = serve(reply(b""), error(b"ENOENT"), error(b"EACCES"))
    assert store.exists("/a")
    assert not store.exists("/a")
    with pytest.raises(AccessDeniedError):
        store.exists("/a")


def test_permissions_are_returned(serve: Serve) -> None:
    """pyxs's compatible class returns None."""
    server, store = serve(reply(b"n0\0r5\0"))
    assert store.get_permissions("/a") == ["n0", "r5"]
    store.set_permissions("/a", ["b0"])
    assert server.requests[1].payload == b"/a\0b0\0"


def test_an_answer_that_is_not_ok(serve: Serve) -> None:
    _, store = serve(reply(b"NO\0"))
    with pytest.raises(StoreError, match="write /a"):
        store.write("/a", b"")


def test_a_message_is_one_write() -> None:
    """pyxs writes header and payload each by itself, which two processes on one descriptor would mix up."""
    class Recorder:
        def __init__(self) -> None:
            self.sent: list[bytes] = []

        def send(self, data: memoryview) -> int:
            self.sent.append(bytes(data))
            return len(data)

    connection = Connection()
    recorder = Recorder()
    connection.transport = cast(Transport, recorder)
    connection.send(Packet(Op.READ, b"/a\0", 5))
    assert recorder.sent == [fake.HEADER.pack(2, 5, 0, 3) + b"/a\0"]


@pytest.mark.parametrize("first", [0, 7])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.EPIPE, "Broken pipe")])
def test_half_a_message_ends_the_connection(first: int, error: BaseException) -> None:
    """Whatever keeps the rest from being sent; but an interrupt before the first byte costs that request alone."""
    class Breaks:
        def __init__(self) -> None:
            self.left = [error] + [first] * bool(first)
            self.interrupted = False

        def send(self, data: memoryview) -> int:
            step = self.left.pop()
            if isinstance(step, BaseException):
                raise step
            return step

        def interrupt(self) -> None:
            self.interrupted = True

    connection = Connection()
    transport = Breaks()
    connection.transport = cast(Transport, transport)
    with pytest.raises((KeyboardInterrupt, StoreConnectionError)):
        connection.send(Packet(Op.READ, b"/a\0", 5))
    assert transport.interrupted == (first > 0 or isinstance(error, OSError))


def test_request_ids_wrap_and_skip_those_under_way(tmp_path: Path) -> None:
    kept: list[tuple[fake.Peer, fake.Request]] = []
    with FakeXenstored(tmp_path / "s", lambda peer, request: kept.append((peer, request))) as server:
        router = Router(SocketConnection(server.path), timeout=10, reconnect=0, first_id=0xffffffff)
        router.start()
        waiting = threading.Thread(target=router.call, args=(Op.READ, b"/a\0", "read /a"))
        waiting.start()
        server.wait_for(lambda: len(server.requests) == 1)
        for _ in range(2):
            assert router.call(Op.READ, b"/a\0", "read /a") == b"value"
        router._next_id = 0xffffffff
        router.call(Op.READ, b"/a\0", "read /a")
        assert [request.rq_id for request in server.requests] == [0xffffffff, 0, 1, 0]
        fake.serve(*kept[0])
        waiting.join(10)
        assert not waiting.is_alive()
        router.terminate()


def test_requests_of_many_threads_find_their_own_answers(serve: Serve) -> None:
    """Answers in reverse order: the id alone says whose they are."""
    held: list[tuple[fake.Peer, fake.Request]] = []

    def hold(peer: fake.Peer, request: fake.Request) -> None:
        held.append((peer, request))
        if len(held) == 8:
            for one, asked in reversed(held):
                one.send(asked.op, asked.rq_id, asked.payload[:-1])

    _, store = serve(*[hold] * 8)
    answers: dict[str, bytes] = {}
    threads = [threading.Thread(target=lambda path=f"/{number}": answers.update({path: store.read(path)}))
               for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert answers == {f"/{number}": f"/{number}".encode() for number in range(8)}


# Directories that do not fit a message

def test_a_large_directory_is_read_in_parts(serve: Serve) -> None:
    server, store = serve(error(b"E2BIG"), reply(b"4\0a\0bb\0"), reply(b"4\0c\0\0"))
    assert store.list("/d") == ["a", "bb", "c"]
    assert [request.payload for request in server.requests] == [b"/d\0", b"/d\x000\0", b"/d\x005\0"]


def test_a_directory_that_changes_is_read_again(serve: Serve) -> None:
    _, store = serve(error(b"E2BIG"), reply(b"4\0a\0"), reply(b"5\0b\0\0"), reply(b"5\0x\0"), reply(b"5\0y\0\0"))
    assert store.list("/d") == ["x", "y"]


def test_a_directory_that_always_changes_is_given_up(serve: Serve) -> None:
    _, store = serve(error(b"E2BIG"), *[reply(b"%d\0a\0" % number) for number in range(100)])
    with pytest.raises(ConflictError):
        store.list("/d")


def test_a_large_directory_of_an_old_xenstored(serve: Serve) -> None:
    _, store = serve(error(b"E2BIG"), error(b"ENOSYS"))
    with pytest.raises(QuotaError):
        store.list("/d")


@pytest.mark.parametrize("part", [b"", b"4", b"4\0"])
def test_a_part_that_gets_nowhere(serve: Serve, part: bytes) -> None:
    _, store = serve(error(b"E2BIG"), reply(part))
    with pytest.raises(StoreError) as caught:
        store.list("/d")
    assert caught.value.code == "EIO"


def test_a_directory_that_became_empty(serve: Serve) -> None:
    _, store = serve(error(b"E2BIG"), reply(b"4\0\0"))
    assert store.list("/d") == []


# Transactions

def write_one(transaction: Transaction) -> None:
    transaction.write("/a", b"1")


def test_a_transaction_id_is_part_of_the_request(serve: Serve) -> None:
    server, store = serve()

    def both(transaction: Transaction) -> None:
        transaction.write("/a", b"1")
        store.write("/b", b"2")

    store.transact(both)
    assert [(request.op, request.tx_id) for request in server.requests] == [
        (fake.TRANSACTION_START, 0), (fake.WRITE, 7), (fake.WRITE, 0), (fake.TRANSACTION_END, 7)]
    assert server.requests[-1].payload == b"T\0"


def test_a_conflict_is_retried(serve: Serve) -> None:
    server, store = serve(fake.serve, fake.serve, error(b"EAGAIN"))
    store.transact(write_one)
    assert server.ops() == [fake.TRANSACTION_START, fake.WRITE, fake.TRANSACTION_END] * 2


def test_a_conflict_before_the_commit_is_retried_too(serve: Serve) -> None:
    server, store = serve(fake.serve, error(b"EAGAIN"))
    store.transact(write_one)
    assert server.ops() == [fake.TRANSACTION_START, fake.WRITE, fake.TRANSACTION_END] * 2
    assert [server.requests[index].payload for index in (2, 5)] == [b"F\0", b"T\0"]


def test_conflicts_without_end_are_not_retried_without_end(serve: Serve) -> None:
    server, store = serve(*[fake.serve, fake.serve, error(b"EAGAIN")] * 3)
    with pytest.raises(ConflictError, match="3 times"):
        store.transact(write_one, attempts=3)
    assert server.ops().count(fake.TRANSACTION_START) == 3


def test_another_error_of_the_commit_is_raised(serve: Serve) -> None:
    server, store = serve(fake.serve, fake.serve, error(b"ENOSPC"))
    with pytest.raises(QuotaError):
        store.transact(write_one)
    assert server.ops().count(fake.TRANSACTION_START) == 1


def test_an_exception_aborts(serve: Serve) -> None:
    server, store = serve()
    with pytest.raises(ZeroDivisionError):
        store.transact(lambda transaction: 1 // 0)
    assert server.requests[-1].op == fake.TRANSACTION_END and server.requests[-1].payload == b"F\0"


def test_an_abort_that_fails_is_told_beside_the_cause(serve: Serve) -> None:
    _, store = serve(fake.serve, error(b"EIO"))
    with pytest.raises(ZeroDivisionError) as caught:
        store.transact(lambda transaction: 1 // 0)
    assert "abort transaction" in caught.value.__notes__[0]


def test_transaction_zero_would_be_none_at_all(serve: Serve) -> None:
    server, store = serve(reply(b"0\0"))
    with pytest.raises(StoreError):
        store.transact(write_one)
    assert fake.WRITE not in server.ops()


def test_a_transaction_does_not_outlive_its_connection(serve: Serve) -> None:
    """On the next connection the id would be nobody's, or another's."""
    server, store = serve()

    def lose(transaction: Transaction) -> None:
        server.connections[0].close()
        server.wait_for(lambda: len(server.connections) == 2)
        transaction.write("/a", b"1")

    with pytest.raises(StoreConnectionError, match="start again"):
        store.transact(lose)
    assert server.ops() == [fake.TRANSACTION_START]


def test_write_all_is_one_transaction_in_order(serve: Serve) -> None:
    server, store = serve()
    store.write_all({"/b": b"1", "/a": "2"})
    assert [request.payload for request in server.requests[1:-1]] == [b"/b\x001", b"/a\x002"]
    assert {request.tx_id for request in server.requests[1:]} == {7}


# Calls for the control domain, and the rest

def test_privileged_calls_are_sent_whatever_this_machine_is(serve: Serve) -> None:
    server, store = serve()
    store.introduce_domain(5, 1234, 2)
    store.release_domain(5)
    store.resume_domain(5)
    store.set_target(5, 6)
    assert [request.payload for request in server.requests] == [b"5\x001234\x002\0", b"5\0", b"5\0", b"5\x006\0"]
    assert store.is_domain_introduced(5)
    assert store.domain_path(5) == "/local/domain/5"


def test_walk_from_below(serve: Serve) -> None:
    script = [reply(b"a\0b\0"), reply(b"top"), reply(b""), reply(b"1"), reply(b""), reply(b"2")]
    _, store = serve(*script)
    assert list(store.walk("/t", topdown=False)) == [("/t/a", b"1", []), ("/t/b", b"2", []), ("/t", b"top", ["a", "b"])]


def test_a_deep_tree_is_walked(serve: Serve) -> None:
    """1,500 levels fit in a path."""
    levels = 1500
    _, store = serve(*[reply(b"x\0"), reply(b"")] * (levels - 1), reply(b""), reply(b""))
    assert len(list(store.walk("/x"))) == levels


def test_close_leaves_no_thread_and_no_descriptor(tmp_path: Path) -> None:
    with FakeXenstored(tmp_path / "s") as server:
        before = len(list(Path("/proc/self/fd").iterdir()))
        store = XenStore(server.path)
        watches = [store.watch("/a") for _ in range(3)]
        assert any(thread.name == "xenstore" for thread in threading.enumerate())
        store.close()
        store.close()
        assert not any(thread.name == "xenstore" for thread in threading.enumerate())
        server.close()
        assert len(list(Path("/proc/self/fd").iterdir())) == before - 1  # and the server's own
        with pytest.raises(ClosedError):
            store.read("/a")
        for watch in watches:
            with pytest.raises(ClosedError):
                watch.fileno()


def test_closing_one_store_leaves_another(serve: Serve) -> None:
    server, store = serve()
    with XenStore(server.path) as other:
        other.read("/a")
    assert store.read("/a") == b"value"


def test_a_descriptor_beyond_1023(serve: Serve) -> None:
    """select() cannot wait for one."""
    with beyond_1023():
        _, store = serve()
        assert store.read("/a") == b"value"
        assert store._router.connection.fileno() > 1023
