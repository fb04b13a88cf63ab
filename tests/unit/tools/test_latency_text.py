"""Times for people: as short as they are known."""

from __future__ import annotations

import pytest

from xenpv.latency import DiskLatency
from xenpv.latency.histogram import LIMIT
from xenpv_tools.latency_text import clock_text, interval_text, latency_text, share_text, time_text


@pytest.mark.parametrize(("ns", "text"), [
    (0, "0"), (74, "74 ns"), (999.4, "999 ns"), (999.9, "1 us"), (1000, "1 us"), (1234, "1.23 us"), (85_000, "85 us"),
    (1_999_999, "2 ms"), (4_000_000, "4 ms"), (1.5e9, "1.5 s"), (1.342e11, "134 s"), (4.3e12, "4,300 s"), (-5000, "-5 us"),
])
def test_three_digits_and_a_unit(ns: float, text: str) -> None:
    assert time_text(ns) == text


@pytest.mark.parametrize(("low", "high", "text"), [
    (0, 1000, "< 1 us"), (4e6, 12e6, "4 .. 12 ms"), (84_000, 86_000, "85 us"), (900_000, 1_100_000, "900 us .. 1.1 ms"),
    (-6000, 0, "< 0"), (-8e6, -1e6, "< 0"), (0, 4e6, "< 4 ms"),
])
def test_an_interval_is_one_time_only_where_its_ends_are_close(low: float, high: float, text: str) -> None:
    assert interval_text(low, high) == text


@pytest.mark.parametrize(("share", "text"), [
    (None, "-"), (0.0, "0 %"), (1.0, "100 %"), (0.00001, "<0.1 %"), (0.99999, ">99.9 %"), (0.978, "97.8 %")])
def test_nearly_none_is_not_none(share: float | None, text: str) -> None:
    assert share_text(share) == text


def a_disk() -> DiskLatency:
    latency = DiskLatency("backend", "tick", 4_000_000)
    for _ in range(100):
        latency.operations["read"].stages["stored"].record(0)
    latency.operations["read"].stages["stored"].record(2)
    return latency


def test_a_coarse_clock_claims_no_median() -> None:
    lines = latency_text(a_disk()).splitlines()
    assert [line.split()[0] for line in lines] == ["stage", "read", "stored"]
    assert lines[2].split("  ")[-1].strip() == "99 %"
    assert lines[2].count("< 4 ms") == 3 and "4 .. 12 ms" in lines[2], "p50, p90, p99; the greatest"
    assert "79.2 us" in lines[2], "the mean is honest"
    assert clock_text(a_disk()) == "measured by the backend, clock the kernel's tick, resolution 4 ms"


def test_a_percentile_of_too_few_is_not_shown() -> None:
    latency = DiskLatency("frontend", "us", 1000)
    latency.operations["flush"].stages["stored"].record(500)
    assert latency_text(latency).splitlines()[2].split() == [
        "stored", "storage", "start", "to", "storage", "end", "1", "500", "us", "-", "-", "-", "-", "500", "us", "0", "%"]


def test_what_the_figures_do_not_say_is_said() -> None:
    latency = a_disk()
    read = latency.operations["read"]
    read.absent, read.unknown, read.refused = 1, 2, 3000
    read.stages["queued"].record(-3)
    read.stages["stored"].record(LIMIT)
    notes = latency_text(latency).partition("\n\n")[2].splitlines()
    assert notes == [
        "1 request without a stamp: when they were submitted, only the guest knows",
        "2 requests in no stage: there was no time to be had, or it was disrupted meanwhile",
        "3,000 requests with stamps of the other end's that cannot be: no figure has them",
        "read queued: 1 below 0, down to -12 ms: the two ends' clocks differ by that",
        "read stored: 1 of 536,871 s and more",
    ]


def test_nothing_yet() -> None:
    assert latency_text(DiskLatency("backend", "us", 1000)) == "no requests yet"
