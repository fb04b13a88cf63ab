"""The contract of grants and event channels, on the emulated Xen."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from xenpv.domain import Domain
from xenpv.hypervisors import open_domain
from xenpv.hypervisors.emulated import host
from xenpv.testing import EVENT_CHECKS, GRANT_CHECKS, check_events, check_grants
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
