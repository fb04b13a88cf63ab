"""The contract of a `Store`, as plain functions: what holds of one xenstore holds of every other.

Each `check_*` takes a maker: `make()` opens a fresh connection to the same xenstore, as a context manager. The checks
work below `base`, a path relative to the domain's own directory, where the domain may write, and remove it afterwards.
What does not hold raises AssertionError with the claim in words. `check_store` runs them all.
"""

from __future__ import annotations

import select
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from ..domain import Store, Transaction, Watch
from ..errors import ClosedError, ConflictError, NoEntryError, StoreError

Maker = Callable[[], AbstractContextManager[Store]]

BASE = "xenpv-check"

PATIENCE = 10.0
"""Seconds that an event which must come may take."""


def require(holds: bool, claim: str) -> None:
    """Raise AssertionError unless `holds`. Not an assert: the checks also run in an optimised Python."""
    if not holds:
        raise AssertionError(claim)


@contextmanager
def refused(kind: type[Exception], claim: str, *, code: str | None = None) -> Iterator[None]:
    """Require that the block raises `kind`, a StoreError with the error's name `code` on the wire."""
    try:
        yield
    except kind as error:
        if code is not None:
            found = error.code if isinstance(error, StoreError) else None
            require(found == code, f"{claim}, with {code} and not {found}")
        return
    raise AssertionError(claim)


@contextmanager
def place(make: Maker, base: str) -> Iterator[Store]:
    """A connection, with an empty `base`."""
    with make() as store:
        store.mkdir(base)  # first, since what is left of an earlier run is only removable below a node that is there
        store.remove(base)
        store.mkdir(base)
        try:
            yield store
        finally:
            store.remove(base)


def expect(watch: Watch, path: str) -> None:
    """Require that the next event is `path`."""
    event = watch.wait(PATIENCE)
    require(event == path, f"the next event is {path}, not {event}")


def settle(store: Store, base: str) -> None:
    """Return when every event that was caused before has reached its watch, by one more that comes behind them."""
    with store.watch(f"{base}/settled") as marker:
        expect(marker, f"{base}/settled")
        store.write(f"{base}/settled", b"")
        expect(marker, f"{base}/settled")


def started(store: Store, path: str, *, depth: int | None = None, limit: int = 1024) -> Watch:
    """A watch whose first event has come and gone."""
    watch = store.watch(path, depth=depth, limit=limit)
    expect(watch, path)
    return watch


def check_values(make: Maker, base: str = BASE) -> None:
    """A value is any bytes, none included, and is read back as it was written."""
    values = {"text": b"plain", "empty": b"", "every": bytes(range(256)), "nul": b"\0", "tail": b"ends\0\0",
              "line": b"a\nb\tc\n", "large": b"x" * 2000}
    with place(make, base) as store, make() as other:
        for name, value in values.items():
            store.write(f"{base}/{name}", value)
        for name, value in values.items():
            require(other.read(f"{base}/{name}") == value, f"the value '{name}' is read as it was written")
        store.write(f"{base}/text", "caf\u00e9")
        require(other.read(f"{base}/text") == b"caf\xc3\xa9", "a str is written as UTF-8, over the old value")
        store.write(f"{base}/text", b"")
        require(other.read(f"{base}/text") == b"", "an empty value replaces another")
        with refused(NoEntryError, "a node that is not there cannot be read"):
            store.read(f"{base}/missing")


def check_nodes(make: Maker, base: str = BASE) -> None:
    """write and mkdir make what is missing on the way, empty; mkdir leaves what is there."""
    with place(make, base) as store:
        store.write(f"{base}/a/b/c", b"1")
        require(store.read(f"{base}/a/b") == b"", "parents are made empty")
        store.mkdir(f"{base}/a/b/c")
        require(store.read(f"{base}/a/b/c") == b"1", "mkdir leaves the value of a node that is there")
        store.mkdir(f"{base}/d/e")
        require(store.read(f"{base}/d/e") == b"", "mkdir makes an empty node and its parents")
        require(store.exists(f"{base}/a/b/c") and not store.exists(f"{base}/a/c"), "exists says what is there")


def check_list(make: Maker, base: str = BASE) -> None:
    """list gives the names of the children, and of nothing else."""
    with place(make, base) as store:
        require(store.list(base) == [], "a node without children has none")
        for path in ("b", "a", "a/deep", "c-_@0"):
            store.write(f"{base}/{path}", b"")
        require(sorted(store.list(base)) == ["a", "b", "c-_@0"], "the children, without theirs")
        with refused(NoEntryError, "a node that is not there cannot be listed"):
            store.list(f"{base}/missing")


def check_large_directory(make: Maker, base: str = BASE) -> None:
    """A directory whose names do not fit one message is listed whole."""
    names = [f"{number:03}-" + "x" * 40 for number in range(200)]
    with place(make, base) as store:
        store.write_all({f"{base}/{name}": b"" for name in names})
        require(sorted(store.list(base)) == names, "every one of many children is listed once")


def check_remove(make: Maker, base: str = BASE) -> None:
    """remove takes the whole subtree; a missing node is no error, a missing parent is."""
    with place(make, base) as store:
        store.write(f"{base}/a/b/c", b"1")
        store.remove(f"{base}/a")
        require(not store.exists(f"{base}/a/b/c") and not store.exists(f"{base}/a"), "the subtree is gone")
        store.remove(f"{base}/a")
        with refused(NoEntryError, "without its parent a node cannot be removed"):
            store.remove(f"{base}/a/b")


def check_paths(make: Maker, base: str = BASE) -> None:
    """What is no path is refused, and the connection is good afterwards."""
    with place(make, base) as store:
        for path in ("", "//", f"{base}/", f"{base}//a", f"{base}/a\n", f"{base}/a\0", f"{base}/a b", f"{base}/\u00e9",
                     "/" + "x" * 3072, "x" * 2049):
            with refused(StoreError, f"{path[:40]!r} is refused as a path", code="EINVAL"):
                store.write(path, b"")
        require(store.list(base) == [], "nothing was written")


def check_permissions(make: Maker, base: str = BASE) -> None:
    """Permissions are read as they were set; a new node has its parent's."""
    with place(make, base) as store:
        owner = store.get_permissions(base)[0][1:]
        require(owner.isdigit(), "the first permission names the owner")
        for words in ([f"r{owner}"], [f"n{owner}", f"r{owner}"], [f"b{owner}", f"w{owner}"]):
            store.set_permissions(base, words)
            require(store.get_permissions(base) == words, f"the permissions {words} are read as they were set")
        store.write(f"{base}/child", b"")
        require(store.get_permissions(f"{base}/child")[0] == f"b{owner}", "a new node has its parent's permissions")
        for bad in ([], ["x0"], ["r"], ["r-1"], ["r0\n"]):
            with refused(StoreError, f"{bad} is refused as permissions", code="EINVAL"):
                store.set_permissions(base, bad)
        with refused(NoEntryError, "a node that is not there has no permissions"):
            store.get_permissions(f"{base}/missing")


def check_transaction(make: Maker, base: str = BASE) -> None:
    """A transaction is seen whole or not at all, and sees one state of the store."""
    with place(make, base) as store, make() as other:
        store.write(f"{base}/old", b"1")

        def change(transaction: Transaction) -> str:
            transaction.write(f"{base}/new", b"2")
            transaction.remove(f"{base}/old")
            require(transaction.read(f"{base}/new") == b"2", "a transaction reads what it wrote")
            require(not transaction.exists(f"{base}/old"), "a transaction does not see what it removed")
            require(transaction.list(base) == ["new"], "a transaction lists what it made")
            require(other.list(base) == ["old"], "nobody else sees it before the commit")
            return "result"

        require(store.transact(change) == "result", "transact returns what the function returned")
        require(other.list(base) == ["new"], "everybody sees it after the commit")


def check_transaction_isolation(make: Maker, base: str = BASE) -> None:
    """What others write after a transaction has read it is not seen within."""
    with place(make, base) as store, make() as other:
        store.write(f"{base}/value", b"1")
        seen: list[bytes] = []

        def look(transaction: Transaction) -> None:
            seen.append(transaction.read(f"{base}/value"))
            other.write(f"{base}/value", b"2")
            seen.append(transaction.read(f"{base}/value"))
            raise LookupError

        with refused(LookupError, "the function's exception is raised"):
            store.transact(look)
        require(seen == [b"1", b"1"], f"both reads give the same, not {seen}")


def check_transaction_conflict(make: Maker, base: str = BASE) -> None:
    """A transaction that met another one is run again, and in the end wins or raises ConflictError."""
    with place(make, base) as store, make() as other:
        store.write(f"{base}/count", b"0")
        runs: list[int] = []

        def add(transaction: Transaction) -> None:
            runs.append(1)
            count = int(transaction.read(f"{base}/count"))
            if len(runs) == 1:
                other.write(f"{base}/count", b"10")
            transaction.write(f"{base}/count", str(count + 1))

        store.transact(add)
        require(len(runs) == 2, f"the function ran twice, not {len(runs)} times")
        require(store.read(f"{base}/count") == b"11", "the second run began with what the other one wrote")

        def lose(transaction: Transaction) -> None:
            runs.append(1)
            count = int(transaction.read(f"{base}/count"))
            other.write(f"{base}/count", str(count + 10))
            transaction.write(f"{base}/count", b"-1")

        runs.clear()
        with refused(ConflictError, "the last conflict is raised"):
            store.transact(lose, attempts=3)
        require(len(runs) == 3, f"the function ran as often as was said, not {len(runs)} times")
        require(store.read(f"{base}/count") == b"41", "nothing of it was committed")


def check_transaction_abort(make: Maker, base: str = BASE) -> None:
    """An exception aborts: nothing is written, no transaction stays open, and a leaked one is of no use."""
    with place(make, base) as store:
        leaked: list[Transaction] = []

        def fail(transaction: Transaction) -> None:
            leaked.append(transaction)
            transaction.write(f"{base}/half", b"")
            raise LookupError

        for _ in range(20):
            with refused(LookupError, "the function's exception is raised"):
                store.transact(fail)
        require(store.list(base) == [], "nothing of an aborted transaction is seen")
        with refused(ClosedError, "a transaction that has ended is closed"):
            leaked[0].write(f"{base}/late", b"")
        with refused(StoreError, "one bad path spoils the whole of write_all", code="EINVAL"):
            store.write_all({f"{base}/good": b"", f"{base}/bad path": b""})
        require(store.list(base) == [], "write_all writes all or nothing")


def check_watch_events(make: Maker, base: str = BASE) -> None:
    """A watch fires at once, and for every change of its node and below."""
    with place(make, base) as store, make() as other:
        with store.watch(f"{base}/a") as watch:
            expect(watch, f"{base}/a")
            require(watch.wait(0) is None, "the first event comes once")
            changes: tuple[tuple[str, Callable[[], None]], ...] = (
                (f"{base}/a", lambda: other.write(f"{base}/a", b"1")),
                (f"{base}/a", lambda: other.write(f"{base}/a", b"1")),
                (f"{base}/a/b", lambda: other.mkdir(f"{base}/a/b")),
                (f"{base}/a/b/c", lambda: other.write(f"{base}/a/b/c", b"")),
                (f"{base}/a/b", lambda: other.remove(f"{base}/a/b")),
                (f"{base}/a", lambda: other.set_permissions(f"{base}/a", store.get_permissions(f"{base}/a"))))
            for path, change in changes:
                change()
                expect(watch, path)
            other.write(f"{base}/ab", b"")
            other.write(f"{base}/b", b"")
            settle(store, base)
            require(watch.wait(0) is None, "neighbours do not fire it")


def check_watch_removal(make: Maker, base: str = BASE) -> None:
    """When a node above it is removed, a watch fires with its own path."""
    with place(make, base) as store, make() as other:
        store.write(f"{base}/a/b/c", b"")
        with started(store, f"{base}/a/b") as watch:
            other.remove(f"{base}/a")
            expect(watch, f"{base}/a/b")


def check_watch_paths(make: Maker, base: str = BASE, home: str = "/local/domain/0") -> None:
    """The events of a watch on a relative path have relative paths, else absolute ones."""
    with place(make, base) as store:
        with started(store, base) as relative, started(store, f"{home}/{base}") as absolute:
            store.write(f"{home}/{base}/a", b"")
            expect(relative, f"{base}/a")
            expect(absolute, f"{home}/{base}/a")


def check_watch_commit(make: Maker, base: str = BASE) -> None:
    """What a transaction does fires watches when it is committed, and never when it is not."""
    with place(make, base) as store, started(store, f"{base}/a") as watch:
        def write(transaction: Transaction) -> None:
            transaction.write(f"{base}/a", b"")
            settle(store, base)
            require(watch.wait(0) is None, "nothing fires before the commit")

        def fail(transaction: Transaction) -> None:
            write(transaction)
            raise LookupError

        store.transact(write)
        expect(watch, f"{base}/a")
        with refused(LookupError, "the function's exception is raised"):
            store.transact(fail)
        settle(store, base)
        require(watch.wait(0) is None, "an aborted transaction fires nothing")


def check_watch_merging(make: Maker, base: str = BASE) -> None:
    """Equal paths that wait are one event; more distinct ones than the limit become one of the watched path."""
    with place(make, base) as store:
        with started(store, f"{base}/a") as watch:
            for number in range(20):
                store.write(f"{base}/a/same", str(number))
            settle(store, base)
            expect(watch, f"{base}/a/same")
            require(watch.wait(0) is None, "twenty equal events are one")
        with started(store, f"{base}/a", limit=4) as watch:
            for number in range(20):
                store.write(f"{base}/a/{number}", b"")
            settle(store, base)
            expect(watch, f"{base}/a")
            require(watch.wait(0) is None, "what the queue cannot hold is one event")
            store.write(f"{base}/a/5", b"")
            expect(watch, f"{base}/a/5")


def check_watch_depth(make: Maker, base: str = BASE) -> None:
    """A depth leaves out what is further below, whether xenstored knows depths or not."""
    with place(make, base) as store:
        store.mkdir(f"{base}/a/b/c")
        with started(store, f"{base}/a", depth=1) as one, started(store, f"{base}/a", depth=0) as none:
            store.write(f"{base}/a/b/c", b"1")
            store.write(f"{base}/a/b", b"1")
            settle(store, base)
            expect(one, f"{base}/a/b")
            require(one.wait(0) is None and none.wait(0) is None, "what is too deep fires nothing")
            store.write(f"{base}/a", b"1")
            expect(one, f"{base}/a")
            expect(none, f"{base}/a")


def check_watch_twice(make: Maker, base: str = BASE) -> None:
    """Watches on one path are independent: closing one leaves the other."""
    with place(make, base) as store, started(store, f"{base}/a") as second:
        with started(store, f"{base}/a") as first:
            store.write(f"{base}/a", b"")
            expect(first, f"{base}/a")
            expect(second, f"{base}/a")
        store.write(f"{base}/a", b"")
        expect(second, f"{base}/a")
        first.close()
        with refused(ClosedError, "a closed watch has no events"):
            first.wait(0)


def check_watch_wait(make: Maker, base: str = BASE) -> None:
    """wait ends with its time, with an event, or with the watch; the descriptor says when it would."""
    with place(make, base) as store:
        watch = started(store, f"{base}/a")
        poll = select.poll()
        poll.register(watch.fileno(), select.POLLIN)
        require(watch.wait(0) is None and watch.wait(0.02) is None, "without an event wait gives None")
        require(not poll.poll(0), "the descriptor is not readable without an event")
        store.write(f"{base}/a", b"")
        require(bool(poll.poll(PATIENCE * 1000)), "the descriptor is readable when an event waits")
        expect(watch, f"{base}/a")
        require(not poll.poll(0), "the descriptor is not readable after the last event")
        ended: list[type[BaseException]] = []
        inside = threading.Event()

        def wait() -> None:
            inside.set()
            try:
                watch.wait(PATIENCE)
            except ClosedError:
                ended.append(ClosedError)

        waiter = threading.Thread(target=wait)
        waiter.start()
        inside.wait(PATIENCE)
        watch.close()
        waiter.join(PATIENCE)
        require(ended == [ClosedError], "close ends a wait in another thread")


def check_close(make: Maker, base: str = BASE) -> None:
    """A closed store and its watches are closed, and other connections are not."""
    with place(make, base) as other:
        with make() as store:
            watch = store.watch(base)
        with refused(ClosedError, "a closed store reads nothing"):
            store.read(base)
        with refused(ClosedError, "a closed store's watch has no events"):
            watch.wait(0)
        store.close()
        watch.close()
        require(other.read(base) == b"", "another connection goes on")


def check_domain_path(make: Maker) -> None:
    """The path of a domain's own directory."""
    with make() as store:
        require(store.domain_path(7) == "/local/domain/7", "domain 7 is at /local/domain/7")


def check_store(make: Maker, base: str = BASE, home: str = "/local/domain/0") -> None:
    """All of them. `home` is the domain's own directory, which relative paths begin at."""
    for check in CHECKS:
        check(make, base)
    check_watch_paths(make, base, home)
    check_domain_path(make)


CHECKS: tuple[Callable[[Maker, str], None], ...] = (
    check_values, check_nodes, check_list, check_large_directory, check_remove, check_paths, check_permissions,
    check_transaction, check_transaction_isolation, check_transaction_conflict, check_transaction_abort,
    check_watch_events, check_watch_removal, check_watch_commit, check_watch_merging, check_watch_depth,
    check_watch_twice, check_watch_wait, check_close)
"""Those that need no more than a maker and a place."""
