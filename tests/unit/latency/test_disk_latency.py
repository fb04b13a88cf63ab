"""A disk's latency: snapshots that are added and subtracted, and what people and programs get of them."""

from __future__ import annotations

import json

import pytest

from xenpv.errors import UsageError
from xenpv.latency import OPERATIONS, STAGES, DiskLatency


def snapshot(*stored: int, end: str = "frontend", unit: str = "us", resolution_ns: int = 1000) -> DiskLatency:
    latency = DiskLatency(end, unit, resolution_ns)
    for value in stored:
        latency.operations["read"].stages["stored"].record(value)
    return latency


def test_every_operation_and_stage_is_there_from_the_first() -> None:
    latency = DiskLatency("frontend", "us", 1000)
    assert tuple(latency.operations) == OPERATIONS
    assert all(tuple(operation.stages) == STAGES for operation in latency.operations.values())


def test_queues_add_up() -> None:
    both = snapshot(1, 2) + snapshot(3)
    assert both.operations["read"].stages["stored"].total == 6
    assert both.count == 3


def test_what_came_since() -> None:
    before, now = snapshot(5), snapshot(5, 7)
    now.operations["read"].unknown = 2
    since = now - before
    assert since.operations["read"].stages["stored"].total == 7
    assert since.operations["read"].unknown == 2


@pytest.mark.parametrize("other", [{"end": "backend"}, {"unit": "tick"}, {"resolution_ns": 4_000_000}])
def test_other_clocks_do_not_add_up(other: dict[str, object]) -> None:
    with pytest.raises(UsageError, match="do not add up"):
        snapshot(1) + snapshot(1, **other)  # type: ignore[arg-type]


def test_every_request_is_counted_once() -> None:
    """A backend has its own stages of those whose stamps it refused; a frontend has none."""
    for end, service in (("backend", 7), ("frontend", 4)):
        read = (latency := snapshot(end=end)).operations["read"]
        read.stages["total"].record(5, 4)
        read.stages["service"].record(5, service)
        read.absent, read.refused, read.unknown = (1, 2, 10) if end == "backend" else (0, 3, 10)
        assert latency.count == 17


def test_all_operations_of_a_stage() -> None:
    latency = snapshot(1, 2)
    latency.operations["write"].stages["stored"].record(10)
    assert latency.stage("stored").total == 13


def test_steps_are_nanoseconds_by_the_resolution() -> None:
    assert snapshot(resolution_ns=4_000_000, unit="tick").ns(2) == 8_000_000


def test_a_backends_total_ends_with_the_response() -> None:
    assert snapshot(end="backend").span("total") == ("submit", "response")
    assert snapshot().span("total") == ("submit", "reap")


def test_json_says_the_unit_and_the_intervals() -> None:
    said = json.loads(json.dumps(snapshot(3, 3, 200).to_json()))
    stored = said["operations"]["read"]["stages"]["stored"]
    assert (said["resolution_ns"], said["unit"], stored["count"], stored["total"]) == (1000, "us", 3, 206)
    assert stored["p50"] == [2, 4] and stored["buckets"] == [[3, 3, 2], [200, 201, 1]]
