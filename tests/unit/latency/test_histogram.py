"""Histograms, held against exact computations."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
from hypothesis import given, strategies as st

from xenpv.latency import Histogram
from xenpv.latency.histogram import BUCKETS, LIMIT, bounds_of, bucket_of

sized = st.integers(0, 27).flatmap(lambda bits: st.integers(0, (1 << bits) - 1))
values = st.one_of(sized, st.integers(-1000, -1), st.integers(LIMIT, 1 << 40))
samples = st.lists(values, max_size=60)
quantiles = st.sampled_from([0.0, 0.01, 0.07, 0.5, 0.9, 0.99, 0.999, 1.0])


def made_of(values: Sequence[int]) -> Histogram:
    histogram = Histogram()
    for value in values:
        histogram.record(value)
    return histogram


def exact(values: Sequence[float], q: float) -> float:
    """The nearest rank, by sorting."""
    return sorted(values)[max(1, math.ceil(round(q * len(values), 6))) - 1]


@given(sized)
def test_a_value_is_within_its_bucket(value: int) -> None:
    low, high = bounds_of(bucket_of(value))
    assert low <= value <= high


def test_buckets_follow_one_another_without_a_gap() -> None:
    bounds = [bounds_of(number) for number in range(BUCKETS)]
    assert all(before[1] + 1 == after[0] for before, after in zip(bounds, bounds[1:], strict=False))
    assert (bounds[0], bounds[-1][1]) == ((0, 0), LIMIT - 1)


def test_the_middle_of_a_bucket_is_within_one_percent_of_all_its_values() -> None:
    for number in range(1, BUCKETS):
        low, high = bounds_of(number)
        assert (high - low) / 2 <= 0.0079 * low, (low, high)


@given(st.lists(values, min_size=1, max_size=60), quantiles)
def test_a_quantile_of_the_readings_is_inside_and_close(values: list[int], q: float) -> None:
    interval = made_of(values).quantile(q)
    assert interval is not None
    true, (low, high) = exact(values, q), interval
    assert low <= true <= high
    if 0 <= true < LIMIT:
        assert abs((low + high) / 2 - true) <= max(1, 0.0079 * true + 1), "a bucket's half and a step of the clock"


@given(st.lists(st.tuples(st.floats(0, 1e6), st.floats(0, 1)), min_size=1, max_size=60), quantiles)
def test_a_quantile_of_the_times_is_inside_whatever_the_clock_did_between_its_steps(
        times: list[tuple[float, float]], q: float) -> None:
    readings = [math.floor(phase + time) - math.floor(phase) for time, phase in times]
    interval = made_of(readings).quantile(q)
    assert interval is not None
    assert interval[0] <= exact([time for time, _ in times], q) <= interval[1]


@given(samples)
def test_count_and_total_are_exact(values: list[int]) -> None:
    histogram = made_of(values)
    assert (histogram.count, histogram.total) == (len(values), sum(values))
    assert histogram.underflow == sum(value < 0 for value in values)
    assert histogram.overflow == sum(value >= LIMIT for value in values)
    assert histogram.zeros == values.count(0)
    assert histogram.max == max(values, default=None)


@given(samples, samples, samples)
def test_merging_is_associative_and_commutative(a: list[int], b: list[int], c: list[int]) -> None:
    one, two, three = made_of(a), made_of(b), made_of(c)
    assert (one + two) + three == one + (two + three) == three + one + two == made_of([*a, *b, *c])


@given(samples, samples, quantiles)
def test_what_came_since_a_snapshot(before: list[int], after: list[int], q: float) -> None:
    grown = made_of(before + after) - made_of(before)
    assert (grown.count, grown.total) == (len(after), sum(after))
    assert [list(each) for each in grown.buckets()] == [list(each) for each in made_of(after).buckets()]
    assert (grown.underflow, grown.overflow) == (made_of(after).underflow, made_of(after).overflow)
    interval = grown.quantile(q)
    assert (interval is None) == (not after)
    if interval is not None:
        assert interval[0] <= exact(after, q) <= interval[1]


@given(samples, samples)
def test_a_histogram_that_began_anew_is_taken_whole(before: list[int], after: list[int]) -> None:
    anew, old = made_of(after), made_of([*before, *after, 5])
    assert anew - old == anew


def test_an_empty_one_says_that_it_knows_nothing() -> None:
    empty = Histogram()
    assert (empty.count, empty.mean, empty.max, empty.zero_share, empty.quantile(0.5)) == (0, None, None, None, None)
    assert list(empty.intervals()) == []


def test_nothing_saturates_unseen() -> None:
    histogram = made_of([-7, 1, LIMIT + 5])
    assert (histogram.underflow, histogram.overflow, histogram.total) == (1, 1, LIMIT - 1)
    assert histogram.quantile(0) == (-8, 0)
    assert histogram.quantile(1) == (LIMIT - 1, LIMIT + 6)


@pytest.mark.parametrize(("ticks", "interval"), [([0], (0, 1)), ([1], (0, 2)), ([5], (4, 6))])
def test_a_coarse_clock_gives_a_wide_interval(ticks: list[int], interval: tuple[int, int]) -> None:
    assert made_of(ticks).quantile(0.5) == interval


def test_counting_none_counts_nothing() -> None:
    histogram = Histogram()
    histogram.record(3, 0)
    assert histogram == Histogram()
