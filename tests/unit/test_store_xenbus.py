"""The store through the kernel's device, of which tests/support/fake_xenbus.py knows the oddities."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.fake_xenbus import UNWATCH, WATCH, FakeXenbus, OldXenbus
from tests.support.store_server import StoreServer
from xenpv.errors import QuotaError, StoreConnectionError, StoreError
from xenpv.store import XenStore, xenbus
from xenpv.testing import store as contract


@pytest.fixture
def server(tmp_path: Path) -> Iterator[StoreServer]:
    with StoreServer(tmp_path) as server:
        yield server


@pytest.fixture(params=[FakeXenbus, OldXenbus])
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, server: StoreServer) -> str:
    """The path of a device in front of `server`."""
    monkeypatch.setattr(xenbus, "XenbusTransport", request.param)
    monkeypatch.setattr(xenbus, "XENBUS_PATHS", (server.path(),))
    return server.path()


def transport(store: XenStore) -> FakeXenbus:
    found = store._router.connection.transport
    assert isinstance(found, FakeXenbus)
    return found


@pytest.mark.parametrize("check", contract.CHECKS, ids=lambda check: str(check.__name__))
def test_contract(device: str, check: Callable[[contract.Maker, str], None]) -> None:
    made: list[XenStore] = []

    def make() -> XenStore:
        made.append(XenStore(device))
        return made[-1]

    check(make, contract.BASE)
    assert made


def test_header_and_payload_share_a_page(device: str) -> None:
    with XenStore(device) as store:
        with pytest.raises(QuotaError, match="4080"):
            store.write("a", b"x" * 4090)
        store.write("a", b"x" * 2048)
        assert store.read("a") == b"x" * 2048


def test_a_refused_watch_is_an_answer(device: str) -> None:
    with XenStore(device) as store:
        refused = OSError(errno.ENOSPC, "no")
        real = transport(store).send

        def send(data: memoryview) -> int:
            raise refused

        transport(store).send = send  # type: ignore[method-assign]
        with pytest.raises(QuotaError, match="ENOSPC"):
            store.watch("a")
        transport(store).send = real  # type: ignore[method-assign]
        with store.watch("a") as watch:
            assert watch.wait(contract.PATIENCE) == "a"
        assert transport(store).writes[-2:] == [WATCH, UNWATCH]


def test_the_kernels_watches_stay(device: str) -> None:
    with XenStore(device) as store:
        with store.watch("a") as watch:
            assert watch.wait(contract.PATIENCE) == "a"
            with pytest.raises(StoreError, match="EOPNOTSUPP|ENOTSUP"):
                store.reset_watches()
            store.write("a", b"1")
            assert watch.wait(contract.PATIENCE) == "a"


def test_a_device_that_is_gone_breaks_the_connection(device: str) -> None:
    with XenStore(device, reconnect=0) as store:
        def send(data: memoryview) -> int:
            raise OSError(errno.ENODEV, "gone")

        transport(store).send = send  # type: ignore[method-assign]
        with pytest.raises(StoreConnectionError, match="gone"):
            store.read("a")


def test_close_while_nothing_comes(device: str) -> None:
    store = XenStore(device)
    before = transport(store)
    store.close()
    with pytest.raises(OSError):
        os.fstat(before._fd)


def test_nobody_there_names_the_device(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    missing = str(tmp_path / "xenbus")
    monkeypatch.setattr(xenbus, "XENBUS_PATHS", (missing,))
    with pytest.raises(StoreConnectionError, match="xenbus"):
        XenStore(missing)


def test_without_a_socket_the_device_is_taken(monkeypatch: pytest.MonkeyPatch, device: str, tmp_path: Path) -> None:
    monkeypatch.delenv("XENSTORED_PATH", raising=False)
    monkeypatch.setenv("XENSTORED_RUNDIR", str(tmp_path / "none"))
    with XenStore() as store:
        store.write("a", b"1")
        assert store.read("a") == b"1"
        assert transport(store).writes
