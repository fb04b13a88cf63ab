"""Which vbds a backend takes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from tests.support.fake_domain import FakeStore
from xenpv.xenbus import VbdPlace
from xenpv_backend.daemon import is_offered

PLACE = VbdPlace(0, 3, 51712)


def offered(uri: str, keys: dict[str, str]) -> bool:
    store = FakeStore()
    for name, value in {"state": "2", **keys}.items():
        store.write(f"{PLACE.backend}/{name}", value)
    domain: Any = SimpleNamespace(uri=uri, store=store)
    return is_offered(domain, PLACE)


@pytest.mark.parametrize(("keys", "ours"), [
    ({}, False),
    ({"script": "/etc/xen/scripts/block-xenpv"}, False),  # libxl has written it, and the kernel's backend still holds it
    ({"xenpv-handover": "0"}, False),
    ({"xenpv-handover": "1"}, True),
])
def test_on_xen_a_vbd_is_ours_when_it_was_handed_over(keys: dict[str, str], ours: bool) -> None:
    assert offered("xen:", keys) is ours


def test_on_the_emulated_xen_there_is_no_other_backend() -> None:
    assert offered("emulated:/run/xenpv", {})
