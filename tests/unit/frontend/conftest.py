"""A disk on plain memory, with a backend in a thread."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.support.fake_backend import FakeBackend
from tests.support.fake_domain import FakeDomain
from xenpv_frontend.disk import Disk


@pytest.fixture
def domain() -> Iterator[FakeDomain]:
    """Domain 7; a test that leaves pages, ports or watches behind fails."""
    with FakeDomain() as domain:
        yield domain
        left = (domain.grants.pages, len(domain.events.channels), len(domain.store.watches))
        assert left == (0, 0, 0), f"left behind: pages, ports, watches {left}"


@pytest.fixture
def backend(domain: FakeDomain) -> Iterator[FakeBackend]:
    """Not started yet."""
    with FakeBackend(domain) as backend:
        yield backend


@pytest.fixture
def open_disk(domain: FakeDomain, backend: FakeBackend) -> Iterator[Callable[..., Disk]]:
    """`open_disk(**options)`: the backend is started and the disk opened; both are closed at the end."""
    with ExitStack() as stack:
        def open_it(vdev: str = "xvda", **options: Any) -> Disk:
            if backend._thread.ident is None:
                backend.start()
            return stack.enter_context(Disk.open(domain, vdev, **{"closing_patience": 2.0, **options}))
        yield open_it
        stack.close()
        backend.close()
