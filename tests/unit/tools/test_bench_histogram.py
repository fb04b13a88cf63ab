"""Latencies: buckets, percentiles."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from xenpv_tools.bench.histogram import Histogram, bucket, middle


@given(st.integers(0, 1 << 50))
def test_the_middle_of_a_bucket_is_within_1_6_percent(ns: int) -> None:
    assert abs(middle(bucket(ns)) - ns) <= ns / 64


@given(st.integers(0, 1 << 50), st.integers(0, 1 << 50))
def test_buckets_keep_the_order(one: int, other: int) -> None:
    assert (one <= other) <= (bucket(one) <= bucket(other))


@pytest.mark.parametrize("ns", [0, 1, 63, 64, 127])
def test_small_times_are_exact(ns: int) -> None:
    assert middle(bucket(ns)) == ns


def test_a_clock_that_went_back_counts_as_zero() -> None:
    assert bucket(-5) == 0


def test_percentiles_are_nearest_ranks() -> None:
    histogram = Histogram()
    for ns in range(1, 101):
        histogram.add(ns)
    assert [histogram.percentile(percent) for percent in (1, 50, 99, 100)] == [1, 50, 99, 100]


def test_a_count_weighs() -> None:
    histogram = Histogram()
    histogram.add(10, 98)
    histogram.add(20, 2)
    assert (histogram.percentile(50), histogram.percentile(99)) == (10, 20)


def test_nothing_counted_has_no_percentile() -> None:
    assert Histogram().percentile(50) is None
