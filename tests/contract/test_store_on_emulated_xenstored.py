"""The contract of a `Store`, on the emulated xenstored."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.store_server import StoreServer
from xenpv.store import XenStore
from xenpv.testing import store as contract


@pytest.fixture
def server(tmp_path: Path) -> Iterator[StoreServer]:
    with StoreServer(tmp_path) as server:
        yield server


@pytest.mark.parametrize("check", contract.CHECKS, ids=lambda check: str(check.__name__))
def test_contract(server: StoreServer, check: Callable[[contract.Maker, str], None]) -> None:
    check(lambda: XenStore(server.path()), contract.BASE)


def test_watch_paths(server: StoreServer) -> None:
    contract.check_watch_paths(lambda: XenStore(server.path()))


def test_domain_path(server: StoreServer) -> None:
    contract.check_domain_path(lambda: XenStore(server.path()))
