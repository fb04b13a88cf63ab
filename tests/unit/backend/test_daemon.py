"""Which vbds a backend takes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from tests.support.fake_domain import FakeStore
from xenpv.xenbus import VbdPlace
from xenpv_backend.daemon import is_offered

PLACE = VbdPlace(0, 3, 51712)


def offered(uri: str, keys: dict[str, str], place: VbdPlace = PLACE) -> bool:
    store = FakeStore()
    for name, value in {"state": "2", **keys}.items():
        store.write(f"{place.backend}/{name}", value)
    domain: Any = SimpleNamespace(uri=uri, store=store)
    return is_offered(domain, place)


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


@pytest.mark.parametrize(("script", "ours"), [
    ("/etc/xen/scripts/block-xenpv", True),
    ("/etc/xen/scripts/block-tap", False),
    ("/etc/xen/scripts/not-block-xenpv", False),
])
def test_of_kind_vbd3_the_script_says_whose_it_is(script: str, ours: bool) -> None:
    assert offered("xen:", {"script": script}, VbdPlace(0, 3, 51712, "vbd3")) is ours
