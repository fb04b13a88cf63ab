"""The contract between dom0 and a guest of a real Xen. $XENPV_TEST_GUEST names the guest, which runs an agent.

The agent: ``python tests/support/remote_domain.py`` in the guest.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest

from tests.support.remote_domain import Line, RemoteDomain, as_domain
from xenpv.hypervisors import open_domain
from xenpv.store import XenStore
from xenpv.testing import EVENT_CHECKS, GRANT_CHECKS, events, grants, store
from xenpv.testing.contract import Check

# Hundreds of pages, one call each: with the guest's side in the store that alone takes minutes.
CHECKS = [check for check in (*GRANT_CHECKS, *EVENT_CHECKS) if check is not grants.many_pages_are_one_memory]
# It looks at the second domain's descriptor, which is only one in the guest.
LOCAL_SECOND = {events.the_descriptor_is_readable}


@pytest.fixture(scope="module")
def line() -> Iterator[Line]:
    domid = os.environ.get("XENPV_TEST_GUEST")
    if not domid:
        pytest.skip("set XENPV_TEST_GUEST to the number of a guest that runs the agent")
    with XenStore() as dom0:
        yield Line(dom0, int(domid))


@pytest.mark.parametrize("check", [check for check in CHECKS if check not in LOCAL_SECOND],
                         ids=lambda check: check.__name__)
def test_dom0_first(line: Line, check: Check) -> None:
    with open_domain("xen:") as dom0:
        guest = RemoteDomain(line)
        assert guest.domid != dom0.domid
        check(dom0, as_domain(guest))


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
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
