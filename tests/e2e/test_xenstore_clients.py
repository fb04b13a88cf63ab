"""The stock clients against the emulated xenstored: Xen's C tools, Xen's own test-xenstore, and pyxs, all unchanged."""

from __future__ import annotations

import os
import selectors
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pyxs import Client

from tests.support.store_server import StoreServer

Requires = Callable[[str], str]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[StoreServer]:
    with StoreServer(tmp_path, domids=(0, 3)) as server:
        server.call(lambda store: store.introduce(3))
        yield server
        server.call(check)


def check(store: object) -> None:
    assert store.check() == []  # type: ignore[attr-defined]


class Tools:
    """Debian's xenstore-* programs on one socket."""

    def __init__(self, folder: Path, socket: str) -> None:
        self._folder = folder
        self._environment = {**os.environ, "XENSTORED_PATH": socket}

    def start(self, name: str, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen([self._folder / name, *arguments], env=self._environment, stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE, text=True)

    def fails(self, name: str, *arguments: str) -> bool:
        process = self.start(name, *arguments)
        process.communicate(timeout=10)
        return process.returncode != 0

    def __call__(self, name: str, *arguments: str) -> str:
        process = self.start(name, *arguments)
        output, errors = process.communicate(timeout=10)
        assert process.returncode == 0, errors
        return output


@pytest.fixture
def tools(requires: Requires, server: StoreServer) -> Tools:
    return Tools(Path(requires("xenstore-ls")).parent, server.path(0))


@pytest.fixture
def guest_tools(requires: Requires, server: StoreServer) -> Tools:
    return Tools(Path(requires("xenstore-ls")).parent, server.path(3))


@pytest.mark.peer
class TestCTools:
    def test_write_and_read(self, tools: Tools) -> None:
        tools("xenstore-write", "/a/b", "one", "/a/c", "two words")
        assert tools("xenstore-read", "/a/b", "/a/c") == "one\ntwo words\n"
        assert tools.fails("xenstore-read", "/none")

    def test_ls(self, tools: Tools) -> None:
        tools("xenstore-write", "/a/b", "1")
        tools("xenstore-chmod", "/a/b", "n0", "r3")
        lines = [line.split() for line in tools("xenstore-ls", "-f", "-p").splitlines()]
        assert lines == [["/tool", "=", '""', "(n0)"], ["/tool/xenstored", "=", '""', "(n0)"],
                         ["/a", "=", '""', "(n0)"], ["/a/b", "=", '"1"', "(n0,r3)"]]

    def test_ls_of_a_directory_longer_than_a_message(self, tools: Tools) -> None:
        names = [f"a-child-with-a-long-name-{number:03}" for number in range(200)]
        tools("xenstore-write", *(word for name in names for word in (f"/big/{name}", "x")))
        assert tools("xenstore-list", "/big").split() == names

    def test_list_remove_and_exists(self, tools: Tools) -> None:
        tools("xenstore-write", "/a/b", "1")
        assert tools("xenstore-list", "/a") == "b\n"
        tools("xenstore-exists", "/a/b")
        tools("xenstore-rm", "/a/b")
        assert tools.fails("xenstore-exists", "/a/b")
        assert tools("xenstore-list", "/a") == ""

    def test_guest_sees_its_own(self, tools: Tools, guest_tools: Tools) -> None:
        tools("xenstore-write", "/local/domain/3/name", "guest", "/secret", "1")
        tools("xenstore-chmod", "-r", "/local/domain/3", "n3")
        assert guest_tools("xenstore-read", "name") == "guest\n"
        assert guest_tools("xenstore-ls", "/local/domain/3").split() == ["name", "=", '"guest"']
        assert guest_tools.fails("xenstore-read", "/secret")
        assert guest_tools.fails("xenstore-write", "/secret", "2")

    def test_watch(self, tools: Tools) -> None:
        process = tools.start("xenstore-watch", "-n", "3", "/a")
        assert process.stdout is not None
        with process, selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            assert selector.select(10)
            assert os.read(process.stdout.fileno(), 100) == b"/a\n"
            tools("xenstore-write", "/a/b", "1")
            tools("xenstore-rm", "/a")
            assert process.stdout.read() == "/a/b\n/a\n"
            assert process.wait(10) == 0


@pytest.mark.peer
def test_xens_own_test(requires: Requires, server: StoreServer) -> None:
    result = subprocess.run([requires("test-xenstore"), "-i", "10"], env={**os.environ,
                            "XENSTORED_PATH": server.path()}, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stdout + result.stderr
    assert len(result.stdout.splitlines()) == 12, result.stdout
    assert "failed" not in result.stdout


class TestPyxs:
    def test_nodes(self, server: StoreServer) -> None:
        with Client(unix_socket_path=server.path()) as client:
            client.write(b"/a/b", b"value")
            client.mkdir(b"/a/c")
            assert client.read(b"/a/b") == b"value"
            assert client.list(b"/a") == [b"b", b"c"]
            assert client.exists(b"/a/c") and not client.exists(b"/none")
            client.set_perms(b"/a", [b"n0", b"r3"])
            assert client.get_perms(b"/a") == [b"n0", b"r3"]
            client.delete(b"/a")
            assert client.read(b"/a/b", b"default") == b"default"
            assert client.get_domain_path(3) == b"/local/domain/3"
            assert client.is_domain_introduced(3) and not client.is_domain_introduced(4)

    def test_transaction(self, server: StoreServer) -> None:
        with Client(unix_socket_path=server.path()) as client, Client(unix_socket_path=server.path()) as other:
            client.transaction()
            client.write(b"/a", b"1")
            assert not other.exists(b"/a")
            assert client.commit()
            assert other.read(b"/a") == b"1"
            client.transaction()
            client.read(b"/a")
            client.write(b"/b", b"1")
            other.write(b"/a", b"2")
            assert not client.commit()
            client.transaction()
            client.write(b"/b", b"1")
            client.rollback()
            assert not other.exists(b"/b")

    def test_monitor(self, server: StoreServer) -> None:
        with Client(unix_socket_path=server.path()) as client, Client(unix_socket_path=server.path()) as other:
            with other.monitor() as monitor:
                monitor.watch(b"/a", b"token")
                events = monitor.wait()
                assert tuple(next(events)) == (b"/a", b"token")
                client.write(b"/a/b", b"1")
                assert tuple(next(events)) == (b"/a/b", b"token")
                monitor.unwatch(b"/a", b"token")
