"""The store's contract, against Xen's own C xenstored."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.c_xenstored import c_xenstored
from xenpv.store import XenStore
from xenpv.testing import store as contract

pytestmark = pytest.mark.peer


@pytest.fixture(scope="module")
def socket(tmp_path_factory: pytest.TempPathFactory, requires: Callable[[str], str],
           until: Callable[..., None]) -> Iterator[str]:
    program = Path(requires("test-xenstore")).with_name("xenstored")  # of one package
    with c_xenstored(program, tmp_path_factory.mktemp("xs"), until) as path:
        yield path


@pytest.mark.parametrize("check", contract.CHECKS, ids=lambda check: str(check.__name__))
def test_contract(socket: str, check: Callable[[contract.Maker, str], None]) -> None:
    check(lambda: XenStore(socket), contract.BASE)


def test_relative_and_absolute_events(socket: str) -> None:
    contract.check_watch_paths(lambda: XenStore(socket))


def test_domain_path(socket: str) -> None:
    contract.check_domain_path(lambda: XenStore(socket))


def test_special_watch(socket: str) -> None:
    with XenStore(socket) as store, store.watch("@releaseDomain") as watch:
        assert watch.wait(5) == "@releaseDomain"


def test_privileged_calls_are_the_servers_business(socket: str) -> None:
    """pyxs refuses these without /proc/xen; here they reach xenstored."""
    with XenStore(socket) as store:
        assert store.is_domain_introduced(0)
        assert not store.is_domain_introduced(4242)


def test_walk_goes_both_ways(socket: str) -> None:
    with contract.place(lambda: XenStore(socket), "walk") as store:
        assert isinstance(store, XenStore)
        store.write("walk/a/b", b"1")
        store.write("walk/c", b"2")
        down = [(path, value) for path, value, _ in store.walk("walk")]
        up = [(path, value) for path, value, _ in store.walk("walk", topdown=False)]
        assert sorted(down) == sorted(up)
        assert [path for path, _ in down].index("walk/a") < [path for path, _ in down].index("walk/a/b")
        assert [path for path, _ in up].index("walk/a") > [path for path, _ in up].index("walk/a/b")
        assert up[-1] == ("walk", b"")
