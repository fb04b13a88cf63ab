"""The fixture `serve`: a scripted xenstored and a store connected to it. A plugin, to be named in pytest_plugins."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.fake_xenstored import FakeXenstored, Step
from xenpv.store import XenStore

Serve = Callable[..., tuple[FakeXenstored, XenStore]]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """`serve(*script, timeout=10, reconnect=10)` gives both; they are closed at the test's end.

    The time limits only end a test that fails.
    """
    opened: list[FakeXenstored | XenStore] = []

    def start(*script: Step, timeout: float = 10.0, reconnect: float | None = 10.0) -> tuple[FakeXenstored, XenStore]:
        server = FakeXenstored(tmp_path / "socket", *script)
        opened.append(server)
        store = XenStore(server.path, timeout=timeout, reconnect=reconnect)
        opened.append(store)
        return server, store

    yield start
    for thing in reversed(opened):
        thing.close()
