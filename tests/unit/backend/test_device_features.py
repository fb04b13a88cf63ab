"""What a Device offers, each feature by itself, and for how long."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.backend.test_device import PLACE, Bench, connected
from xenpv_backend.options import BackendOptions


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    image = tmp_path / "disk.img"
    image.write_bytes(bytes(1 << 20))
    bench = Bench(image)
    yield bench
    bench.device.detach()
    bench.store.close()


OFF: dict[str, tuple[str, int | bool, bytes | None]] = {
    "max_indirect_segments": ("feature-max-indirect-segments", 0, None),
    "max_queues": ("multi-queue-max-queues", 1, b"1"), "max_ring_page_order": ("max-ring-page-order", 0, b"0"),
    "persistent": ("feature-persistent", False, b"0"), "flush": ("feature-flush-cache", False, b"0"),
    "barrier": ("feature-barrier", False, b"0"), "discard": ("feature-discard", False, b"0"),
    "notify_flag": ("feature-xenpv-notify-flag", False, b"0"),
}
"""By option: the key, what turns the feature off, and what stands in the key then."""


@pytest.mark.parametrize("option", OFF)
def test_each_feature_is_offered_by_itself(bench: Bench, option: str) -> None:
    every = {key for key, _, _ in OFF.values()}
    bench.device.turn()
    whole = {key: bench.back(key) for key in every}
    bench.device.detach()
    bench.store.write_all({f"{PLACE.backend}/state": "1"})
    key, off, value = OFF[option]
    bench.options = BackendOptions(**{option: off})  # type: ignore[arg-type]
    bench.device = bench.new_device()
    bench.device.turn()
    assert {key: bench.back(key) for key in every} == whole | {key: value}


def test_adverts_stand_as_long_as_the_connection(bench: Bench) -> None:
    """A frontend reads some of them when the backend has connected, and a key alone is no withdrawal."""
    connected(bench)
    bench.image.write_bytes(bytes(2 << 20))
    bench.device.resize()
    assert (bench.back("sectors"), bench.back("feature-max-indirect-segments")) == (b"4096", b"256")
