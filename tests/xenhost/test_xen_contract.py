"""The contract of grants, event channels and the store on real Xen, between two places in one domain."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from xenpv.hypervisors import open_domain
from xenpv.store import XenStore
from xenpv.testing import EVENT_CHECKS, GRANT_CHECKS, NEED_TWO_DOMAINS, store
from xenpv.testing.contract import Check

HERE = [check for check in (*GRANT_CHECKS, *EVENT_CHECKS) if check not in NEED_TWO_DOMAINS]


@pytest.mark.parametrize("check", HERE, ids=lambda check: check.__name__)
def test_claim(check: Check) -> None:
    with open_domain("xen:") as first, open_domain("xen:") as second:
        assert first.domid == second.domid
        check(first, second)


@pytest.mark.parametrize("check", store.CHECKS, ids=lambda check: str(check.__name__))
def test_store(check: Callable[[store.Maker, str], None]) -> None:
    """As open_domain finds the store: in dom0 by xenstored's socket."""
    check(XenStore, "data/xenpv-check")


@pytest.mark.parametrize("check", store.CHECKS, ids=lambda check: str(check.__name__))
def test_store_through_the_kernel(check: Callable[[store.Maker, str], None]) -> None:
    """As a guest reaches it."""
    check(lambda: XenStore("/dev/xen/xenbus"), "data/xenpv-check")
