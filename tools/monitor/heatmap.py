"""From histograms to the cells of a heat map, in steps of the clock: rows of a quarter of an octave, and how full they are.

RULES

- A row is whole buckets: nothing is spread over what was not counted there. Of small values a row is one step.
- What took less than one step, or was not within the histogram, has no place on a logarithmic axis, and is counted apart.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from xenpv.latency import Histogram
from xenpv.latency.histogram import BUCKETS, bounds_of, bucket_of

__all__ = ["Cells", "Row", "cells", "level_of", "levels"]

ROWS_AN_OCTAVE: Final = 4
LEVELS: Final = 8


@dataclass(frozen=True, slots=True)
class Row:
    """Times from `low` to less than `high`, in steps."""

    low: int
    high: int


@dataclass(frozen=True, slots=True)
class Cells:
    """`counts[column][row]` of times with a row; `zeros` below one step, `outside` below zero or above every row."""

    rows: Sequence[Row]
    counts: Sequence[Sequence[int]]
    zeros: Sequence[int]
    outside: int


def _row_number(low: int) -> int:
    return math.floor(ROWS_AN_OCTAVE * math.log2(low) + 1e-9)


def _rows(first: int, last: int) -> dict[int, Row]:
    """By their number, of the buckets from `first` to `last`, whole."""
    found: dict[int, Row] = {}
    for bucket in range(max(first - 64, 1), min(last + 64, BUCKETS - 1) + 1):
        low, high = bounds_of(bucket)
        number = _row_number(low)
        found[number] = Row(min(low, found[number].low) if number in found else low, high + 1)
    span = range(_row_number(bounds_of(first)[0]), _row_number(bounds_of(last)[0]) + 1)
    return {number: row for number, row in found.items() if number in span}


def cells(columns: Iterable[Histogram]) -> Cells:
    """A column each. No rows when there is nothing of one step or more."""
    histograms = list(columns)
    lows = [low for histogram in histograms for low, _, _ in histogram.buckets() if low > 0]
    zeros = [histogram.zeros for histogram in histograms]
    outside = sum(histogram.underflow + histogram.overflow for histogram in histograms)
    if not lows:
        return Cells((), [() for _ in histograms], zeros, outside)
    rows = _rows(bucket_of(min(lows)), bucket_of(max(lows)))
    places = {number: place for place, number in enumerate(rows)}
    counts = []
    for histogram in histograms:
        column = [0] * len(rows)
        for low, _, counted in histogram.buckets():
            if low > 0:
                column[places[_row_number(low)]] += counted
        counts.append(column)
    return Cells(tuple(rows.values()), counts, zeros, outside)


def levels(most: float, least: float) -> list[float]:
    """Where the colours begin: round values, two a decade, at most LEVELS of them, the first at `least` or above it."""
    top = 2 * math.floor(math.log10(most) + 1e-9)
    top += most >= 3 * 10 ** (top / 2) * (1 - 1e-9)
    found: list[float] = []
    for half in range(top, top - LEVELS, -1):
        found.insert(0, (3.0 if half % 2 else 1.0) * 10.0 ** (half // 2))
        if found[0] <= least:
            break
    return found


def level_of(value: float, begins: Sequence[float]) -> int:
    """The number of the colour of `value`; what is below the first is the first."""
    return max(sum(value >= begin * (1 - 1e-9) for begin in begins) - 1, 0)
