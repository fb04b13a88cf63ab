"""The contract of grants and event channels, on the emulated Xen."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from xenpv.domain import Domain
from xenpv.hypervisors import open_domain
from xenpv.hypervisors.emulated import host
from xenpv.store import XenStore
from xenpv.testing import EVENT_CHECKS, GRANT_CHECKS, check_events, check_grants, store
from xenpv.testing.contract import Check


@contextmanager
def pair(run: Path) -> Iterator[tuple[Domain, Domain]]:
    """Two guests of a host in this process."""
    with host.running(run):
        directories = [host.request(run, "create", name=name)["directory"] for name in ("first", "second")]
        with open_domain(f"emulated:{directories[0]}") as first, open_domain(f"emulated:{directories[1]}") as second:
            yield first, second


@pytest.mark.parametrize("check", [*GRANT_CHECKS, *EVENT_CHECKS], ids=lambda check: check.__name__)
def test_claim(check: Check, tmp_path: Path) -> None:
    with pair(tmp_path / "r") as (first, second):
        check(first, second)
        assert host.status(tmp_path / "r")["domains"]


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A host with one guest, for every check of the store."""
    run = tmp_path_factory.mktemp("store") / "r"
    with host.running(run):
        host.request(run, "create", name="guest")
        yield run


@pytest.mark.parametrize("check", store.CHECKS, ids=lambda check: str(check.__name__))
def test_store(check: Callable[[store.Maker, str], None], serving: Path) -> None:
    """The store through the host's sockets, for domain 0."""
    check(lambda: XenStore(serving / "domain" / "0" / "xenstored"), "check")


@pytest.mark.parametrize("check", [check for check in store.CHECKS if check is not store.check_large_directory],
                         ids=lambda check: str(check.__name__))
def test_store_of_a_guest(check: Callable[[store.Maker, str], None], serving: Path) -> None:
    """The same for a guest, in a directory of its own. A large directory is above a guest's quota for one node."""
    check(lambda: XenStore(serving / "domain" / "1" / "xenstored"), "data/check")


def test_the_checks_as_a_whole(tmp_path: Path) -> None:
    made = []

    @contextmanager
    def make_pair() -> Iterator[tuple[Domain, Domain]]:
        made.append(1)
        with pair(tmp_path / "r") as domains:
            yield domains

    check_grants(make_pair)
    check_events(make_pair)
    assert len(made) == len(GRANT_CHECKS) + len(EVENT_CHECKS)
