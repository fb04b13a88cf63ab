"""The contract between dom0 and a guest of a real Xen, in which an agent runs (tests/support/remote_domain.py)."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.support.remote_domain import Line, RemoteDomain, as_domain
from xenpv.hypervisors import open_domain
from xenpv.testing import EVENT_CHECKS, GRANT_CHECKS, store
from xenpv.testing.contract import Check


@pytest.mark.parametrize("check", [*GRANT_CHECKS, *EVENT_CHECKS], ids=lambda check: check.__name__)
def test_dom0_first(line: Line, check: Check) -> None:
    with open_domain("xen:") as dom0:
        guest = RemoteDomain(line)
        assert guest.domid != dom0.domid
        check(dom0, as_domain(guest))


@pytest.mark.parametrize("check", [*GRANT_CHECKS, *EVENT_CHECKS], ids=lambda check: check.__name__)
def test_guest_first(line: Line, check: Check) -> None:
    with open_domain("xen:") as dom0:
        guest = RemoteDomain(line)
        assert guest.domid != dom0.domid
        check(as_domain(guest), dom0)


@pytest.mark.parametrize("check", [check for check in store.CHECKS if check is not store.check_large_directory],
                         ids=lambda check: str(check.__name__))
def test_store_of_the_guest(line: Line, check: Callable[[store.Maker, str], None]) -> None:
    """In the guest, where there is only /dev/xen/xenbus. A large directory is above a guest's quota for one node."""
    line.call("check_store", check.__name__)
