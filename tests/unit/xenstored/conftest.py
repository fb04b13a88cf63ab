"""A xenstored without sockets, its control domain's client, and a guest's."""

from __future__ import annotations

import pytest

from tests.support.store_client import Client, create
from xenpv.hypervisors.emulated.xenstored import Xenstored


@pytest.fixture
def store() -> Xenstored:
    return Xenstored()


@pytest.fixture
def dom0(store: Xenstored) -> Client:
    return Client(store, 0)


@pytest.fixture
def guest(store: Xenstored, dom0: Client) -> Client:
    """Of domain 3, which has its own directory."""
    return create(store, dom0, 3)
