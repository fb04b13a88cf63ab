"""The interval of a median, and what is said of pairs of runs."""

from __future__ import annotations

import itertools
import math
import random

import pytest
from xenpv_tools.bench import report
from xenpv_tools.bench.profiling import PAIRS, PAIRS_MIN, interval_of_median, row


@pytest.mark.parametrize(("count", "ranks"), [(6, (1, 6)), (8, (1, 8)), (9, (2, 8)), (20, (6, 15)), (30, (10, 21))])
def test_the_ranks_are_those_of_the_tables(count: int, ranks: tuple[int, int]) -> None:
    """Of the sign test (Conover, Practical Nonparametric Statistics, 3.2)."""
    values = [float(number) for number in range(1, count + 1)]
    random.Random(count).shuffle(values)
    assert interval_of_median(values) == tuple(map(float, ranks))


@pytest.mark.parametrize("count", range(PAIRS_MIN, 15))
def test_it_covers_the_median_in_95_of_100_cases_and_a_narrower_one_would_not(count: int) -> None:
    """Every way in which values may lie above and below the median, all equally likely."""
    def covered(low: int, high: int) -> float:
        below = [sum(signs) for signs in itertools.product((0, 1), repeat=count)]
        return sum(low <= number < high for number in below) / 2**count

    interval = interval_of_median([float(number) for number in range(1, count + 1)])
    assert interval is not None
    low, high = map(int, interval)
    assert covered(low, high) >= 0.95 > covered(low + 1, high - 1)


@pytest.mark.parametrize("count", range(PAIRS_MIN))
def test_of_too_few_nothing_is_known(count: int) -> None:
    assert interval_of_median([1.0] * count) is None


def test_a_ratio_is_that_of_a_pair() -> None:
    """The machine gets slower all the time; each pair is 2 % apart."""
    off = [1000.0 / (1 + number) for number in range(PAIRS)]
    found = row("qd1", "us", off, [value / 1.02 for value in off])
    assert math.isclose(found["ratio"], 1.02) and found["interval"] == [1.02, 1.02] and found["below"]


def test_what_people_see() -> None:
    rows = [row("qd1", "us", [100.0] * 20, [90.0] * 20)]
    totals = {"requests": 5000, "unknown": 1, "close": 4990, "more": 0, "p50_us": 1.2, "p99_us": 3.0, "p999_us": 4.5}
    text = report.profiling({
        "profiling": rows, "totals": totals, "storage": "tmpfs", "versions": {"xenpv": "0.1.0"},
        "processors": {"count": 2, "model": "a processor"}, "load_average": {"before": [0.1], "after": [0.2]},
        "options": {"seconds": 1.0, "runs": 20, "size": 1 << 30, "pinning": "none"}})
    line = text.splitlines()[1].split()
    assert line == ["qd1", "us", "20", "100", "90", "1.111", "1.111", "..", "1.111", "no"]
    assert "99.80 %" in text
