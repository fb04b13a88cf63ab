"""A signal may come between any two lines of the store's client: it ends the request, and the next one is answered."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import xenpv.store
from tests.support.interrupt import Interrupt, returns
from tests.support.store_server import StoreServer
from xenpv.store import XenStore

OURS = (str(Path(xenpv.store.__file__).parent),)


def request(store: XenStore) -> None:
    store.write("/a", b"value")
    assert store.read("/a") == b"value"


def transaction(store: XenStore) -> None:
    store.write_all({"/a/b": b"1", "/a/c": b"2"})


def watch(store: XenStore) -> None:
    with store.watch("/a") as changes:
        assert changes.wait(10) == "/a"
        assert changes.wait(0.001) is None


@pytest.mark.parametrize("work", [request, transaction, watch])
def test_an_interrupt_anywhere_leaves_the_store_usable(tmp_path: Path, work: Callable[[XenStore], None]) -> None:
    with StoreServer(tmp_path) as server:
        after, struck = 0, True
        while struck:
            interrupt = Interrupt(after, OURS)

            def interrupted() -> None:
                with XenStore(server.path()) as store:
                    try:
                        with interrupt:
                            work(store)
                    except KeyboardInterrupt:
                        pass
                    store.write("/b", b"%d" % after)
                    assert store.read("/b") == b"%d" % after

            returns(interrupted)
            struck = interrupt.struck
            after += 1
        assert after > 20
