"""The interval of a median, and what is said of pairs of runs."""

from __future__ import annotations

import itertools
import math
import random
from dataclasses import asdict

import pytest
from xenpv_tools.bench import report
from xenpv_tools.bench.profiling import PAIRS, PAIRS_MIN, interval_of_median, row
from xenpv_tools.bench.totals import Totals, judge


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


def profiling(*totals: Totals) -> str:
    return report.profiling({
        "profiling": [row("qd1", "us", [100.0] * 20, [90.0] * 20)], "totals": [asdict(each) for each in totals],
        "storage": "tmpfs", "versions": {"xenpv": "0.1.0"}, "processors": {"count": 2, "model": "a processor"},
        "load_average": {"before": [0.1], "after": [0.2]},
        "options": {"seconds": 1.0, "runs": 20, "size": 1 << 30, "pinning": "none"}})


def test_what_people_see() -> None:
    line = profiling().splitlines()[1].split()
    assert line == ["qd1", "us", "20", "100", "90", "1.111", "1.111", "..", "1.111", "no"]


def test_what_people_see_of_totals() -> None:
    us, ticks = judge("us", [(12.5, 10)] * 4 + [(22.5, 10)], 0, 1.0, 0), judge("tick", [(9.0, 0), (9.0, 1)], 0, 4000.0, 1)
    text = profiling(us, ticks)
    assert "the stages of 4 (80.00 %) add up" in text and "within 5 us; 0 to more" in text and "more by 2.5 us (p50)" in text
    assert "stamps in ticks, the stages of 2 (100.00 %)" in text and "within 8,000 us (a tick, and 1 that" in text
    assert "Together they are 4.0 ms, and 0.0 ms by" in text


def test_a_sum_of_ticks_is_held_to_less_than_a_tick() -> None:
    """A tick of 4 ms: what took 3.9 ms may have met one tick or none, and never two."""
    found = judge("tick", [(3900.0, 0), (3900.0, 1), (3900.0, 2), (9000.0, 1)], 1, 4000.0, 0)
    assert (found.requests, found.unknown, found.close, found.more, found.within_us) == (5, 1, 2, 1, 4000.0)


def test_a_missed_tick_gives_room_for_one_more() -> None:
    assert judge("tick", [(3900.0, 2), (9000.0, 1)], 0, 4000.0, 1).close == 2


def test_where_nothing_is_known_nothing_is_close() -> None:
    found = judge("us", [], 3, 1.0, 0)
    assert (found.requests, found.close, found.p50_us) == (3, 0, 0.0)
